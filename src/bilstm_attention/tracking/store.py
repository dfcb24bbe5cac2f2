"""Every run in MLflow.

Runs are written when their work is done, from files that are already safe on disk: a store that fails costs no result,
and a killed training leaves no run behind that seems to go on.
"""

import json
import os
import re
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from bilstm_attention import paths
from bilstm_attention.errors import UserError
from bilstm_attention.tracking.environment import sha256

# MLflow would otherwise report usage to its makers, and wait minutes for a server that is not there.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"
MODEL_DIGEST = "model.sha256"
METRICS_AT_ONCE = 1000
# without it the UI opens an experiment at its page for traces of language models
OPENS_AT_RUNS = {"mlflow.experimentKind": "custom_model_development"}


@dataclass(frozen=True)
class RunRecord:
    """What is known of a run once its work is done.

    Args:
        name: shown in the run list, for example `zhou u=100 seed=2`.
        started: seconds since 1970; the run ends when it is recorded.
        params: all parameters, by dotted name.
        metrics: name to value.
        history: one mapping of metrics per epoch, each with its `epoch`.
        tags: name to value.
        datasets: of `fingerprints`.
        artifacts: files, or folders whose files, are shown with the run; a mapping from folder in the run to paths.
    """

    name: str
    started: float
    params: Mapping[str, Any]
    metrics: Mapping[str, float] = field(default_factory=dict)
    history: Sequence[Mapping[Any, float]] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    artifacts: Mapping[str, Sequence[Path]] = field(default_factory=dict)


def store_uri(root: Path | None = None) -> str:
    """Address of the tracking store: `MLFLOW_TRACKING_URI` if set, else the SQLite file of the main checkout."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _own_store(root)


def _own_store(root: Path | None = None) -> str:
    return f"sqlite:///{paths.main_root(root) / paths.STORE}"


def shown_uri() -> str:
    """The store's address as it may be shown: without password or token."""
    address = store_uri()
    if address.startswith(("sqlite:", "file:")):
        return address
    address = re.sub(r"//([^:@?]*:)?[^?]*@", r"//\1***@", address)
    return re.sub(r"(?i)([?&][^=&]*(?:pass|token|secret|key)[^=&]*=)[^&]*", r"\1***", address)


def reason_of(error: Exception) -> str:
    """An error of the store in one line."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0] if said else 'no reason given'}"


@contextmanager
def asked() -> Iterator[None]:
    """Turns what a store fails with into one line: for commands that ask it something.

    Raises:
        UserError: it does not answer, or refuses.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{shown_uri()}: {reason_of(error)}.") from error


def artifact_uri(root: Path | None = None) -> str:
    """Where artifacts lie unless a tracking server keeps them: in the main checkout, whose copies do not last."""
    return (paths.main_root(root) / paths.ARTIFACTS).as_uri()


def fingerprints(files: Mapping[str, Path]) -> dict[str, tuple[str, str]]:
    """Files by their role (`train`, `dev`, `test`) as address, relative to the project, and SHA-256 digest."""
    # relative, since a copy made by `dvc exp run --temp` does not last
    return {role: (str(file), sha256(file)) for role, file in files.items()}


class Store:
    """The tracking store, opened."""

    def __init__(self) -> None:
        import mlflow
        from mlflow import MlflowClient

        uri = store_uri()
        if uri.startswith("sqlite:///"):
            _open_at_once(Path(uri.removeprefix("sqlite:///").partition("?")[0]))
        mlflow.set_tracking_uri(uri)
        self.client = MlflowClient(uri)


class Tracker(Store):
    """The tracking store, opened at one experiment, which is named after the corpus.

    Args:
        corpus: name of the experiment.
    """

    def __init__(self, corpus: str):
        super().__init__()
        self.experiment = self._experiment(corpus)
        self._close_abandoned()

    def record(self, record: RunRecord, identity: str | None = None, at: float | None = None) -> str:
        """Writes a whole run and ends it; returns its id.

        Args:
            record: what is known of it.
            identity: a tag of the record whose value this run alone has: if a failure cut it off, it goes on.
            at: when its metrics were known, in seconds since 1970; None: now.
        """
        from mlflow.entities import Param

        run_id = identity and self._cut_off(identity, record)
        if not run_id:
            run = self.client.create_run(self.experiment, int(record.started * 1000), record.tags, record.name)
            run_id = str(run.info.run_id)
        params = [Param(name, str(value)) for name, value in record.params.items()]
        self.client.log_batch(run_id, params=params)
        given = {name: getattr(record, name) for name in ("metrics", "history", "datasets", "artifacts")}
        self.add(run_id, at, **given)
        self.client.set_terminated(run_id, end_time=None if at is None else int(at * 1000))
        return run_id

    def add(
        self,
        run_id: str,
        at: float | None = None,
        *,
        metrics: Mapping[str, float] = MappingProxyType({}),
        history: Sequence[Mapping[Any, float]] = (),
        datasets: Mapping[str, Sequence[str]] = MappingProxyType({}),
        artifacts: Mapping[str, Sequence[Path]] = MappingProxyType({}),
    ) -> None:
        """Adds to a run, which may have ended, and may have some of it; the arguments are those of `RunRecord`."""
        from mlflow.entities import Metric

        now = int((time.time() if at is None else at) * 1000)
        rows = [Metric(name, value, now, 0) for name, value in metrics.items()]
        for epoch in history:
            values = {name: value for name, value in epoch.items() if name != "epoch"}
            rows += [Metric(name, float(value), now, int(epoch["epoch"])) for name, value in values.items()]
        for start in range(0, len(rows), METRICS_AT_ONCE):
            self.client.log_batch(run_id, metrics=rows[start : start + METRICS_AT_ONCE])
        self._add_datasets(run_id, datasets)
        for folder, files in artifacts.items():
            for file in files:
                (self.client.log_artifacts if file.is_dir() else self.client.log_artifact)(run_id, str(file), folder)

    def newest(self, tag: str, value: str, experiment: str | None = None) -> str | None:
        """The newest finished run with this tag, of this experiment or one of another id; None: there is none."""
        return self._found(tag, value, "attributes.status = 'FINISHED'", experiment=experiment)

    def _cut_off(self, identity: str, record: RunRecord) -> str | None:
        """A run of this identity that a failure cut off; one of other parameters cannot go on."""
        run_id = self._found(identity, record.tags[identity], "attributes.status != 'FINISHED'")
        given = self.client.get_run(run_id).data.params if run_id else {}
        agree = all(str(record.params.get(name)) == value for name, value in given.items())
        return run_id if agree else None

    def _found(self, tag: str, value: str, *conditions: str, experiment: str | None = None) -> str | None:
        query = " and ".join([f"tags.`{tag}` = '{value}'", *conditions])
        order = ["attributes.start_time DESC"]
        found = self.client.search_runs([experiment or self.experiment], query, order_by=order, max_results=1)
        return str(found[0].info.run_id) if found else None

    def has(self, run_id: str, tag: str, value: str) -> bool:
        """Whether a run has a tag with this value."""
        return bool(self.client.get_run(run_id).data.tags.get(tag) == value)

    def tag(self, run_id: str, tag: str, value: str) -> None:
        """Sets a tag of a run."""
        self.client.set_tag(run_id, tag, value)

    def described(self, run_id: str) -> bool:
        """Whether the run's page says anything."""
        return NOTE in self.client.get_run(run_id).data.tags

    def describe(self, run_id: str, markdown: str) -> None:
        """Sets what the run's page says first; addresses `artifact:NAME` become those of its files.

        Pages open in the run's view of its files, since a browser that is sent one by MLflow saves it.
        """

        def address(found: re.Match[str]) -> str:
            if found[1].endswith(".html"):
                return f"](#/experiments/{self.experiment}/runs/{run_id}/artifacts/{quote(found[1])})"
            return f"](get-artifact?path={quote(found[1], safe='')}&run_uuid={run_id})"

        self.client.set_tag(run_id, NOTE, re.sub(r"\]\(artifact:([^)]+)\)", address, markdown))

    def adopt(self, parent: str, run_ids: Sequence[str]) -> None:
        """Makes runs the children of a parent run."""
        for run_id in run_ids:
            self.client.set_tag(run_id, PARENT, parent)

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found:
            return str(found.experiment_id)
        # a database keeps no artifacts; left to itself, MLflow puts them into ./mlruns of the working directory
        by_server = store_uri().startswith("http")
        created = self.client.create_experiment(name, None if by_server else artifact_uri(), OPENS_AT_RUNS)
        return str(created)

    def _close_abandoned(self) -> None:
        """Ends the runs that a process of this machine was writing when it died."""
        running = self.client.search_runs([self.experiment], "attributes.status = 'RUNNING'")
        for run in running:
            tags = run.data.tags
            if tags.get("host") == socket.gethostname() and not _alive(int(tags.get("process", "0"))):
                self.client.set_terminated(run.info.run_id, "KILLED")

    def _add_datasets(self, run_id: str, datasets: Mapping[str, Sequence[str]]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for role, (address, digest) in datasets.items():
            # 36 characters is what the store keeps of a digest
            dataset = Dataset(role, digest[:36], source_type="local", source=json.dumps({"uri": address}))
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", role)]))
        if inputs:
            self.client.log_inputs(run_id, inputs)


def _open_at_once(database: Path) -> None:
    """Opens an SQLite file, or fails; MLflow would try again for two minutes.

    A new one appears with all its tables: MLflow cannot mend what a killed process left half made.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    if not database.exists():
        _make(database)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA schema_version")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _make(database: Path) -> None:
    from mlflow import MlflowClient

    with TemporaryDirectory(dir=database.parent, prefix=".new-") as folder:
        made = Path(folder, database.name)
        MlflowClient(f"sqlite:///{made}").search_experiments(max_results=1)
        # not over one that another process has made meanwhile
        with suppress(FileExistsError):
            database.hardlink_to(made)
