"""Logs runs to MLflow, live or from results on disk, each found again by an identity tag.

A store that fails costs a warning; `bilstm-attention sync` logs later what the store lacks.
"""

import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bilstm_attention.data.dataset import existing
from bilstm_attention.paths import sha256
from bilstm_attention.tracking.environment import environment_tags
from bilstm_attention.tracking.registry import NOTE, LoggedModel, log_model, log_model_scores
from bilstm_attention.tracking.store import artifact_uri, error_line, open_store, shown_uri, store_uri

if TYPE_CHECKING:
    from mlflow.entities import Run

# A tag and its value, which one run of an experiment alone has.
Identity = tuple[str, str]
PARENT = "mlflow.parentRunId"

METRICS_PER_REQUEST = 1000
WAIT_SECONDS = 120.0  # at the end of a training or a sweep, for a store that is slow
# without it the UI opens an experiment at its page for traces of language models
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


@dataclass(frozen=True)
class RunRecord:
    """A run, or an addition to the run with the same identity."""

    name: str  # in the run list, for example `seed=2 zhou lstm_units=64`
    identity: Identity
    params: Mapping[str, Any] = field(default_factory=dict)  # by dotted name; MLflow keeps the first values it gets
    started: float | None = None  # seconds since 1970; None: now
    metrics: Mapping[str, float] = field(default_factory=dict)  # final values
    history: Sequence[Mapping[str, float]] = ()  # metrics by step, each row with its `epoch`
    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # from `fingerprints`
    artifacts: Mapping[str, Sequence[Path]] = field(default_factory=dict)  # files and folders by folder in the run
    description: str = ""  # Markdown on the run's page; `artifact:NAME` links to a file of the run
    parent: Identity | None = None
    model: LoggedModel | None = None
    status: str = "FINISHED"  # RUNNING, FINISHED, KILLED or FAILED
    replaces: bool = False  # whether a run with other parameters, which cannot be changed, is deleted and made anew


Action = Callable[["Tracker"], object]


def epoch_metrics(row: Mapping[Any, float]) -> dict[str, float]:
    """A row of a history by the names of MLflow, whose UI groups `dev/...`."""
    return {re.sub("^dev_", "dev/", str(name)): value for name, value in row.items()}


def training_metrics(
    history: Sequence[Mapping[Any, float]], dev: Mapping[str, float], best_epoch: int
) -> dict[str, Any]:
    """The `history` and `metrics` of a finished training.

    As Keras's autologging in MLflow does, the epoch that is kept is logged once more as a last step, so that its scores
    are those that a list of runs shows.
    """
    curve = [epoch_metrics(row) for row in history]
    kept = {name: value for name, value in curve[best_epoch - 1].items() if name not in ("epoch", "learning_rate")}
    kept |= {f"dev/{name}": value for name, value in dev.items()}
    return {"history": [*curve, {"epoch": len(curve) + 1, **kept}], "metrics": kept | {"best_epoch": best_epoch}}


def fingerprints(files: Mapping[str, Path]) -> dict[str, tuple[str, str]]:
    """Files by role (`train`, `dev`, `test`) as path in the project and SHA-256 digest; DataError if one is absent."""
    # relative, since a copy made by `dvc exp run --temp` does not last
    return {role: (str(file), sha256(existing(file))) for role, file in files.items()}


def log_runs(experiment: str, records: Sequence[RunRecord], about: str) -> dict[Identity, str]:
    """Creates or completes runs, parents before their children; a store that fails costs a warning and no result.

    Returns:
        by identity, the id of each run; empty if the store failed.
    """
    try:
        tracker = Tracker(experiment)
        return {record.identity: tracker.write(record) for record in records}
    except Exception as error:
        _warn(about, error_line(error))
        return {}


def complete_runs(experiment: str, records: Sequence[RunRecord]) -> int:
    """Writes the records that the store does not have whole; returns how many. Raises whatever the store raises."""
    tracker = Tracker(experiment)
    lacking = [record for record in records if not tracker.has(record)]
    for record in lacking:
        tracker.write(record)
    return len(lacking)


@contextmanager
def live_runs(
    experiment: str, about: str, running: Callable[[], RunRecord], finished: Callable[[], Sequence[RunRecord]]
) -> Iterator[Callable[[Action], None]]:
    """Logs from a thread of its own while work goes on, which never waits for the store.

    Args:
        experiment: its name.
        about: what is logged, for the one warning that a failing store costs; what comes later is dropped.
        running: the main run, logged as KILLED or FAILED if the work ends by an exception.
        finished: the complete runs, logged if it ends well.

    Yields:
        a function that has the thread do something with the store.
    """
    queue, warned = SimpleQueue[Action | None](), Event()

    def warn(reason: str) -> None:
        if not warned.is_set():
            warned.set()
            _warn(about, reason)

    def work() -> None:
        try:
            tracker = Tracker(experiment)
            while action := queue.get():
                action(tracker)
        except Exception as error:
            warn(error_line(error))

    # a daemon: the process does not wait for it
    thread = Thread(target=work, name="mlflow", daemon=True)
    thread.start()
    try:
        yield queue.put
        queue.put(lambda tracker: [tracker.write(record) for record in finished()])
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        queue.put(lambda tracker: tracker.write(replace(running(), status=status)))
        raise
    finally:
        queue.put(None)
        thread.join(WAIT_SECONDS)
        if thread.is_alive():
            warn(f"no answer for {WAIT_SECONDS:g} s")


def _warn(about: str, reason: str) -> None:
    print(
        f"warning: {about} was not logged to MLflow ({shown_uri()}): {reason}. Results are on disk all the same;"
        " `bilstm-attention sync` logs them.",
        file=sys.stderr,
    )


class Tracker:
    """The tracking store, opened at one experiment, which it creates if it is not there."""

    def __init__(self, experiment: str):
        self.client = open_store()
        self.experiment = self._experiment(experiment)
        self._ids: dict[Identity, str] = {}
        self._close_abandoned()

    def find(self, identity: Identity) -> "Run | None":
        """The newest run with this tag."""
        query, newest = f"tags.`{identity[0]}` = '{identity[1]}'", ["attributes.start_time DESC"]
        runs = self.client.search_runs([self.experiment], query, order_by=newest, max_results=1)
        return runs[0] if runs else None

    def has(self, record: RunRecord) -> bool:
        """Whether the run of a record has its final status and its metrics, which are written last."""
        run = self.find(record.identity)
        return bool(run and run.info.status == record.status and record.metrics.items() <= run.data.metrics.items())

    def write(self, record: RunRecord) -> str:
        """Creates the run of a record, or adds what its run lacks; returns its id."""
        from mlflow.entities import Param, RunTag

        run, tags = self._open(record), dict(record.tags)
        run_id, status = str(run.info.run_id), run.info.status
        self._ids[record.identity] = run_id
        if record.status == "RUNNING" and status != "RUNNING":
            # it goes on in this process
            self.client.update_run(run_id, status="RUNNING")
            tags |= environment_tags()
        if record.description:
            tags[NOTE] = self._with_links(record.description, run_id)
        if record.parent and (parent := self.find(record.parent)):
            tags[PARENT] = parent.info.run_id
        new_tags = [RunTag(name, value) for name, value in tags.items() if run.data.tags.get(name) != value]
        params = [] if run.data.params else [Param(name, str(value)) for name, value in record.params.items()]
        if new_tags or params:
            self.client.log_batch(run_id, params=params, tags=new_tags)
        self._write_datasets(run_id, record.datasets)
        for folder, files in record.artifacts.items():
            for file in files:
                (self.client.log_artifacts if file.is_dir() else self.client.log_artifact)(run_id, str(file), folder)
        model_id = log_model(self.client, self.experiment, run_id, record.model) if record.model else ""
        self._write_metrics(run, record)
        if record.model:
            log_model_scores(self.client, run_id, model_id, record.model)
        if record.status not in ("RUNNING", status):
            self.client.set_terminated(run_id, record.status)
        return run_id

    def log_epoch(self, identity: Identity, row: Mapping[str, float]) -> None:
        """Adds a new step to a run that this tracker has written; `row` as in the history of a `RunRecord`."""
        from mlflow.entities import Metric

        step, now = int(row["epoch"]), int(time.time() * 1000)
        points = [Metric(name, value, now, step) for name, value in row.items() if name != "epoch"]
        self.client.log_batch(self._ids[identity], points)

    def _open(self, record: RunRecord) -> "Run":
        """The run of a record, created if there is none that it can go on in."""
        run = self.find(record.identity)
        if run and record.replaces:
            logged = run.data.params
            if any(logged.get(name, str(value)) != str(value) for name, value in record.params.items()):
                self.client.delete_run(run.info.run_id)
                run = None
        # a training that is done and begins anew has a new run
        anew = record.status == "RUNNING" and not record.history
        if run and not (anew and run.info.status == "FINISHED"):
            return run
        tags = {**environment_tags(), **record.tags, record.identity[0]: record.identity[1]}
        started = time.time() if record.started is None else record.started
        return self.client.create_run(self.experiment, int(started * 1000), tags, record.name)

    def _write_metrics(self, run: "Run", record: RunRecord) -> None:
        """The points of curves that are not there, then the final values that are not the last ones."""
        from mlflow.entities import Metric

        last, now, points = dict(run.data.metrics), int(time.time() * 1000), list[Metric]()
        ends = {name: int(row["epoch"]) for row in record.history for name in row if name != "epoch"}
        for name in ends:
            logged = self.client.get_metric_history(run.info.run_id, name) if name in last else ()
            curve = {int(row["epoch"]): row[name] for row in record.history if name in row}
            missing = curve.keys() - {point.step for point in logged}
            points += [Metric(name, curve[step], now, step) for step in missing]
        last |= {point.key: point.value for point in points}
        points.sort(key=lambda point: point.step)
        # later, since of one step MLflow shows the latest
        finals = [(name, value) for name, value in record.metrics.items() if last.get(name) != value]
        points += [Metric(name, value, now + 1, ends.get(name, 0)) for name, value in finals]
        for start in range(0, len(points), METRICS_PER_REQUEST):
            self.client.log_batch(run.info.run_id, points[start : start + METRICS_PER_REQUEST])

    def _write_datasets(self, run_id: str, datasets: Mapping[str, tuple[str, str]]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        # logged again, the store has each once
        inputs = [
            DatasetInput(
                # 36 characters is what the store keeps of a digest
                Dataset(role, digest[:36], source_type="local", source=json.dumps({"uri": path})),
                [InputTag("mlflow.data.context", role)],
            )
            for role, (path, digest) in datasets.items()
        ]
        if inputs:
            self.client.log_inputs(run_id, inputs)

    def _with_links(self, markdown: str, run_id: str) -> str:
        """Addresses `artifact:NAME` become those of the run's files."""

        def address(link: re.Match[str]) -> str:
            # a page opens in the run's view of its files; a browser that MLflow sends one to saves it
            if link[1].endswith(".html"):
                return f"](#/experiments/{self.experiment}/runs/{run_id}/artifacts/{quote(link[1])})"
            return f"](get-artifact?path={quote(link[1], safe='')}&run_uuid={run_id})"

        return re.sub(r"\]\(artifact:([^)]+)\)", address, markdown)

    def _experiment(self, name: str) -> str:
        experiment = self.client.get_experiment_by_name(name)
        if experiment:
            return str(experiment.experiment_id)
        # a database keeps no artifacts; left to itself, MLflow puts them into ./mlruns of the working directory
        by_server = store_uri().startswith("http")
        return str(self.client.create_experiment(name, None if by_server else artifact_uri(), EXPERIMENT_TAGS))

    def _close_abandoned(self) -> None:
        """Ends the runs that a process of this machine was writing when it died."""
        for run in self.client.search_runs([self.experiment], "attributes.status = 'RUNNING'"):
            tags = run.data.tags
            if tags.get("host") == socket.gethostname() and not _is_alive(int(tags.get("process", "0"))):
                self.client.set_terminated(run.info.run_id, "KILLED")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        # another user's process is alive
        return isinstance(error, PermissionError)
    return True
