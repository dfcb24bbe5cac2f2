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
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bilstm_attention.data.dataset import existing
from bilstm_attention.tracking.environment import environment_tags, sha256
from bilstm_attention.tracking.registry import LoggedModel, log_model
from bilstm_attention.tracking.store import artifact_uri, error_line, open_store, shown_uri, store_uri

if TYPE_CHECKING:
    from mlflow.entities import Run

# A tag and its value, which one run of an experiment alone has.
Identity = tuple[str, str]
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"

METRICS_PER_REQUEST = 1000
WAIT_SECONDS = 60.0  # at the end of a training or a sweep, for a store that is slow
# without it the UI opens an experiment at its page for traces of language models
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


@dataclass(frozen=True)
class RunRecord:
    """A run, or an addition to the run with the same identity.

    Args:
        name: in the run list, for example `zhou lstm_units=64 seed=2`.
        identity: tag and value by which the run is found again.
        params: all parameters, by dotted name; MLflow keeps the first values that it gets.
        started: seconds since 1970; None: now.
        metrics: final values, by name.
        history: metrics by step, each row with its `epoch`.
        tags: name to value.
        datasets: from `fingerprints`.
        artifacts: files and folders by folder in the run.
        description: Markdown on the run's page; `artifact:NAME` links to a file of the run.
        final: whether the description replaces an earlier one.
        parent: identity of the parent run.
        model: to log with the run.
        status: `RUNNING`, `FINISHED`, `KILLED` or `FAILED`.
        replaces: whether a run with other parameters, which cannot be changed, is deleted and made anew.
    """

    name: str
    identity: Identity
    params: Mapping[str, Any] = field(default_factory=dict)
    started: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    history: Sequence[Mapping[str, float]] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    artifacts: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    description: str = ""
    final: bool = False
    parent: Identity | None = None
    model: LoggedModel | None = None
    status: str = "FINISHED"
    replaces: bool = False


Build = Callable[[], Sequence[RunRecord]]


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
    """Files by their role (`train`, `dev`, `test`) as path in the project and SHA-256 digest.

    Raises:
        DataError: a file is not there.
    """
    # relative, since a copy made by `dvc exp run --temp` does not last
    return {role: (str(file), sha256(existing(file))) for role, file in files.items()}


def log_runs(experiment: str, records: Sequence[RunRecord], about: str) -> dict[Identity, str]:
    """Creates or completes runs; a store that fails costs a warning and no result.

    Args:
        experiment: name of the experiment, that of the corpus.
        records: parents before their children.
        about: what is logged, for the warning.

    Returns:
        by identity, the id of each run; empty if the store failed.
    """
    try:
        return write_runs(experiment, records)
    except Exception as error:
        _warn(about, error_line(error))
        return {}


def write_runs(experiment: str, records: Sequence[RunRecord]) -> dict[Identity, str]:
    """As `log_runs`; raises whatever the store raises."""
    tracker = Tracker(experiment)
    return {record.identity: tracker.write(record) for record in records}


def missing_runs(experiment: str, records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records that the store does not have whole; raises whatever the store raises."""
    tracker = Tracker(experiment)
    return [record for record in records if not tracker.has(record)]


@contextmanager
def live_runs(
    experiment: str, about: str, running: Callable[[], RunRecord], finished: Build, wait: float = WAIT_SECONDS
) -> Iterator[Callable[[Build], None]]:
    """Logs from a thread of its own while work goes on, which never waits for the store.

    Args:
        experiment: name of the experiment.
        about: what is logged, for the one warning that a failing store costs; what comes later is dropped.
        running: the main run so far, logged as KILLED or FAILED if the work ends by an exception.
        finished: the complete runs, logged when the work has ended well.
        wait: seconds at the end, at most.

    Yields:
        a function that logs records, which it builds in the thread.
    """
    queue, warnings = SimpleQueue[Build | None](), list[str]()

    def warn(reason: str) -> None:
        if not warnings:
            warnings.append(reason)
            _warn(about, reason)

    def write() -> None:
        try:
            tracker = Tracker(experiment)
            while build := queue.get():
                for record in build():
                    tracker.write(record)
        except Exception as error:
            warn(error_line(error))

    # at the end of the process nothing waits for a daemon
    thread = Thread(target=write, name="mlflow", daemon=True)
    thread.start()
    try:
        yield queue.put
        queue.put(finished)
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        queue.put(lambda: [replace(running(), status=status)])
        raise
    finally:
        queue.put(None)
        thread.join(wait)
        if thread.is_alive():
            warn(f"no answer for {wait:g} s")


def _warn(about: str, reason: str) -> None:
    print(
        f"warning: {about} was not logged to MLflow ({shown_uri()}): {reason}. Results are on disk all the same;"
        " `bilstm-attention sync` logs them.",
        file=sys.stderr,
    )


@dataclass
class _StoredRun:
    """What the store has of a run; `steps` of a metric are read when they are first needed."""

    id: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    datasets: set[tuple[str, str]]
    steps: dict[str, set[int]] = field(default_factory=dict)


def _stored(run: "Run") -> _StoredRun:
    data, inputs = run.data, run.inputs.dataset_inputs if run.inputs else ()
    datasets = {(each.dataset.name, each.dataset.digest) for each in inputs}
    return _StoredRun(run.info.run_id, run.info.status, data.params, data.tags, data.metrics, datasets)


class Tracker:
    """The tracking store, opened at one experiment, which it creates if it is not there.

    It remembers what it has written, so that a point of a curve is one request.
    """

    def __init__(self, experiment: str):
        self.client = open_store()
        self.experiment = self._experiment(experiment)
        self._runs: dict[Identity, _StoredRun] = {}
        self._close_abandoned()

    def find(self, identity: Identity) -> "Run | None":
        """The newest run with this tag."""
        query, newest = f"tags.`{identity[0]}` = '{identity[1]}'", ["attributes.start_time DESC"]
        runs = self.client.search_runs([self.experiment], query, order_by=newest, max_results=1)
        return runs[0] if runs else None

    def has(self, record: RunRecord) -> bool:
        """Whether the run of a record is finished and has its metrics, which are written last."""
        run = self.find(record.identity)
        logged = run.data.metrics if run else {}
        return bool(
            run
            and run.info.status == "FINISHED"
            and all(logged.get(name) == value for name, value in record.metrics.items())
        )

    def write(self, record: RunRecord) -> str:
        """Creates the run of a record, or adds what its run lacks; returns its id."""
        from mlflow.entities import Param, RunTag

        run, tags = self._open(record), dict(record.tags)
        if record.status == "RUNNING" and run.status != "RUNNING":
            # it goes on in this process
            self.client.update_run(run.id, status="RUNNING")
            run.status, tags = "RUNNING", tags | environment_tags()
        if record.description and (record.final or NOTE not in run.tags):
            tags[NOTE] = self._with_links(record.description, run.id)
        if record.parent and (parent := self._known(record.parent)):
            tags[PARENT] = parent.id
        tags = {name: value for name, value in tags.items() if run.tags.get(name) != value}
        params = {} if run.params else {name: str(value) for name, value in record.params.items()}
        if tags or params:
            new_tags = [RunTag(name, value) for name, value in tags.items()]
            self.client.log_batch(run.id, (), [Param(name, value) for name, value in params.items()], new_tags)
            run.tags.update(tags)
            run.params.update(params)
        self._write_datasets(run, record.datasets)
        for folder, files in record.artifacts.items():
            for file in files:
                (self.client.log_artifacts if file.is_dir() else self.client.log_artifact)(run.id, str(file), folder)
        if record.model:
            log_model(self.client, self.experiment, run.id, record.model)
        self._write_metrics(run, record)
        if run.status != record.status:
            self.client.set_terminated(run.id, record.status)
            run.status = record.status
        return run.id

    def _known(self, identity: Identity) -> _StoredRun | None:
        found = None if identity in self._runs else self.find(identity)
        return _stored(found) if found else self._runs.get(identity)

    def _open(self, record: RunRecord) -> _StoredRun:
        run = self._known(record.identity)
        if run and record.status == "RUNNING" and run.status == "FINISHED" and not record.history:
            # done before, and now begun anew
            run = None
        if run and record.replaces and any(run.params.get(name, str(p)) != str(p) for name, p in record.params.items()):
            self.client.delete_run(run.id)
            run = None
        if run is None:
            tags = {**environment_tags(), **record.tags, record.identity[0]: record.identity[1]}
            started = time.time() if record.started is None else record.started
            run = _stored(self.client.create_run(self.experiment, int(started * 1000), tags, record.name))
        self._runs[record.identity] = run
        return run

    def _write_metrics(self, run: _StoredRun, record: RunRecord) -> None:
        """The points of curves that are not there, then the final values that are not the last ones."""
        from mlflow.entities import Metric

        points, now = list[Metric](), int(time.time() * 1000)
        for row in record.history:
            step, names = int(row["epoch"]), [name for name in row if name != "epoch"]
            points += [Metric(name, row[name], now, step) for name in names if step not in self._steps(run, name)]
        last = run.metrics | {point.key: point.value for point in points}
        ends = {name: int(row["epoch"]) for row in record.history for name in row}
        for name, value in record.metrics.items():
            if last.get(name) != value:
                # later, since of one step MLflow shows the latest
                points.append(Metric(name, value, now + 1, ends.get(name, 0)))
        for start in range(0, len(points), METRICS_PER_REQUEST):
            self.client.log_batch(run.id, points[start : start + METRICS_PER_REQUEST])
        for point in points:
            run.metrics[point.key] = point.value
            self._steps(run, point.key).add(point.step)

    def _steps(self, run: _StoredRun, name: str) -> set[int]:
        """The steps of a metric that the store has."""
        if name not in run.steps:
            logged = self.client.get_metric_history(run.id, name) if name in run.metrics else ()
            run.steps[name] = {metric.step for metric in logged}
        return run.steps[name]

    def _write_datasets(self, run: _StoredRun, datasets: Mapping[str, tuple[str, str]]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        # 36 characters is what the store keeps of a digest
        new = {(role, digest[:36]): path for role, (path, digest) in datasets.items()}
        inputs = [
            DatasetInput(
                Dataset(role, digest, source_type="local", source=json.dumps({"uri": path})),
                [InputTag("mlflow.data.context", role)],
            )
            for (role, digest), path in new.items()
            if (role, digest) not in run.datasets
        ]
        if inputs:
            self.client.log_inputs(run.id, inputs)
            run.datasets |= set(new)

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
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        pass
    return True
