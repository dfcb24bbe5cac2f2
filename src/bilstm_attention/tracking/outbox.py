"""What the tracking store is to be told: told at once or, where that fails, kept in the project until it can be.

A letter is written to one experiment, in steps that may be repeated: a run is known by an identity, a tag with a value
that it alone has, and what it has it does not get twice. So a letter that a failure cut off is sent again whole.
"""

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from bilstm_attention import paths
from bilstm_attention.errors import UserError
from bilstm_attention.tracking.environment import environment_tags, input_digests
from bilstm_attention.tracking.registry import log_model
from bilstm_attention.tracking.store import RunRecord, Store, Tracker, reason_of, shown_uri

# A tag and its value, which one run of an experiment alone has.
Identity = tuple[str, str]
LETTER = "letter.json"
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Letter:
    """What is to be said of some runs, as it is when it is written: times, code, machine.

    Args:
        experiment: its name, that of the corpus.
        about: what is recorded, as a warning calls it.
    """

    def __init__(self, experiment: str, about: str):
        self.experiment, self.about, self.steps = experiment, about, list[dict[str, Any]]()
        self.environment = environment_tags()

    def run(self, identity: Identity, record: RunRecord, of_pipeline: bool = True) -> Identity:
        """A run that is to be there: the one with this identity, or one made from the record.

        Args:
            of_pipeline: whether its inputs are those of `dvc.lock`, whose digests are then tags.
        """
        tags = {**self.environment, **(input_digests() if of_pipeline else {}), **record.tags, **dict([identity])}
        written = asdict(replace(record, tags=tags))
        files = written.pop("artifacts")
        return self._step("run", identity, record=written, files=files)

    def add(
        self,
        identity: Identity,
        *,
        metrics: Mapping[str, float] = NOTHING,
        datasets: Mapping[str, Sequence[str]] = NOTHING,
        artifacts: Mapping[str, Sequence[Path]] = NOTHING,
        once: Identity | None = None,
    ) -> None:
        """Adds to a run; `once` is a tag that it gets then, and where it has that already, nothing is added."""
        self._step("add", identity, metrics=dict(metrics), datasets=dict(datasets), files=dict(artifacts), once=once)

    def adopt(self, parent: Identity, children: Sequence[Identity]) -> None:
        """Makes runs the children of a parent run."""
        self._step("adopt", parent, children=list(children))

    def describe(self, identity: Identity, markdown: str, first: bool = False) -> None:
        """Says what the page of a run in MLflow says first; addresses `artifact:NAME` are those of its files.

        Args:
            identity: of the run.
            markdown: the text.
            first: only where nothing is said yet.
        """
        self._step("describe", identity, text=markdown, first=first)

    def log_model(self, identity: Identity, folder: Path, example: str, name: str, tags: Mapping[str, str]) -> None:
        """Logs and registers a model of a run, see `registry.log_model`."""
        self._step("model", identity, example=example, name=name, tags=dict(tags), files={"": [folder]})

    def post(self) -> dict[Identity, str]:
        """Sends it, after those that the same store missed before; if it fails, it is kept, and a line warns.

        Returns:
            the id of each run that it names; none if it was kept.
        """
        store = shown_uri()
        content = {"store": store, "experiment": self.experiment, "about": self.about, "steps": self.steps}
        try:
            for refused in deliver(store):
                _warn(refused)
            return _send(content)
        except UserError:
            raise
        except Exception as error:
            failed = f"{self.about} was not recorded in MLflow ({store}): {reason_of(error)}."
            try:
                kept = f"It is kept in {_keep(content).parent}, and sent before the next record or by"
                _warn(f"{failed} {kept} `bilstm-attention sync`. The results on disk are complete.")
            except OSError as full:
                _warn(f"{failed} Nor could it be kept: {full}. The results on disk are complete.")
            return {}

    def _step(self, do: str, identity: Identity, **more: Any) -> Identity:
        self.steps.append({"do": do, "run": identity, "at": time.time(), **more})
        return identity


def deliver(missed_by: str | None = None) -> list[str]:
    """Sends letters that are kept, the oldest first, and deletes each that is sent.

    Args:
        missed_by: address of a store, as it is shown: only those that it missed; None: all, whoever missed them.

    Returns:
        of each that the store refuses, though it answers, what it is and why; it stays, and the others go on.

    Raises:
        Exception: the store does not answer; the letter that met this and those after it stay.
    """
    refused = []
    with _kept() as folders:
        for folder in folders:
            try:
                letter = _read(folder)
            except (OSError, ValueError) as error:
                refused.append(f"{folder} is damaged and cannot be sent: {reason_of(error)}")
                continue
            if missed_by not in (None, letter["store"]):
                continue
            try:
                _send(letter, folder)
            except Exception as error:
                # raises if it is not the letter
                Store().client.search_experiments(max_results=1)
                refused.append(f"{letter['about']}, kept in {folder}, is refused: {reason_of(error)}")
            else:
                shutil.rmtree(folder)
    return refused


def waiting() -> list[tuple[str, str]]:
    """Of each letter that is kept, the oldest first, what it is about and the store that missed it."""
    found = []
    with _kept() as folders:
        for folder in folders:
            # of a damaged one `deliver` tells
            with suppress(OSError, ValueError):
                letter = _read(folder)
                found.append((letter["about"], letter["store"]))
    return found


def _send(content: Mapping[str, Any], folder: Path = paths.PROJECT) -> dict[Identity, str]:
    """Takes the steps of a letter, whose files are relative to a folder."""
    tracker, ids = Tracker(content["experiment"]), dict[Identity, str]()

    def run(identity: Sequence[str]) -> str:
        tag, value = identity
        if (tag, value) not in ids:
            ids[tag, value] = tracker.newest(tag, value) or ""
        if not ids[tag, value]:
            raise LookupError(f"no finished run has the tag {tag} {value}")
        return ids[tag, value]

    for step in content["steps"]:
        files = {name: [folder / file for file in listed] for name, listed in step.get("files", {}).items()}
        tag, value = step["run"]
        match step["do"]:
            case "run":
                record = RunRecord(**step["record"], artifacts=files)
                ids[tag, value] = tracker.newest(tag, value) or tracker.record(record, tag, step["at"])
            case "add":
                given = {name: step[name] for name in ("metrics", "datasets")}
                if not (step["once"] and tracker.has(run(step["run"]), *step["once"])):
                    tracker.add(run(step["run"]), step["at"], **given, artifacts=files)
                    if step["once"]:
                        tracker.tag(run(step["run"]), *step["once"])
            case "adopt":
                tracker.adopt(run(step["run"]), [run(child) for child in step["children"]])
            case "describe":
                if not (step["first"] and tracker.described(run(step["run"]))):
                    tracker.describe(run(step["run"]), step["text"])
            case "model":
                log_model(tracker, run(step["run"]), files[""][0], step["example"], step["name"], step["tags"])
    return ids


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _keep(content: Mapping[str, Any]) -> Path:
    """Puts a letter with copies of its files into the outbox, whole or not at all; returns its folder."""
    outbox = paths.main_root() / paths.OUTBOX
    name = f"{time.time_ns()}-{uuid4().hex[:8]}"
    # as long as it has this name nobody reads it
    folder = outbox / f".{name}"
    steps = []
    for number, step in enumerate(content["steps"]):
        files: dict[str, list[str]] = {}
        for place, listed in step.get("files", {}).items():
            for file in listed:
                copy = Path(str(number), place, file.name)
                (folder / copy).parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if file.is_dir() else shutil.copy)(file, folder / copy)
                files.setdefault(place, []).append(str(copy))
        steps.append(step | {"files": files})
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**content, "steps": steps}, indent=1, default=lambda number: number.item())
    with (folder / LETTER).open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        # a power cut may not leave a letter whose name is there and whose text is not
        os.fsync(file.fileno())
    return folder.rename(outbox / name)


def _read(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / LETTER).read_text(encoding="utf-8")))


@contextmanager
def _kept() -> Iterator[list[Path]]:
    """The folders of the letters that are kept, the oldest first; one process at a time has them."""
    outbox = paths.main_root() / paths.OUTBOX
    if not outbox.is_dir():
        yield []
        return
    with (outbox / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield sorted(folder for folder in outbox.iterdir() if not folder.name.startswith("."))
