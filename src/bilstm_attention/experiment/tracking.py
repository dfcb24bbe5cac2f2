"""Every run in MLflow; the only module that imports it.

Runs are written when their work is done, from files that are already safe on disk: a store that fails costs its own
record and nothing else, and a killed training leaves no run behind that seems to go on.
"""

import importlib.metadata
import json
import os
import re
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import pandas as pd

from bilstm_attention import paths
from bilstm_attention.errors import UserError
from bilstm_attention.experiment.environment import environment_tags, input_digests, sha256
from bilstm_attention.overrides import flatten
from bilstm_attention.params import Params

# MLflow would otherwise report usage to its makers, and wait minutes for a server that is not there.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

PARENT = "mlflow.parentRunId"
MODEL_DIGEST = "model.sha256"
METRICS_AT_ONCE = 1000
# without it the UI opens an experiment at its page for traces of language models
OPENS_AT_RUNS = {"mlflow.experimentKind": "custom_model_development"}
# what a request may hold, unless a model is loaded with another `model_config`
SERVING_LIMITS = {"max_rows": 5000, "max_characters": 100_000}
SERVING_PACKAGES = ("mlflow", "keras", "tensorflow", "numpy", "pandas", "pydantic", "ruamel.yaml", "rich")


@dataclass(frozen=True)
class Record:
    """What is known of a run once its work is done.

    Args:
        name: shown in the run list, for example `zhou u=100 seed=2`.
        started: seconds since 1970; the run ends when it is recorded.
        params: all parameters.
        metrics: name to value.
        history: one mapping of metrics per epoch, each with its `epoch`.
        tags: name to value.
        datasets: role (`train`, `dev`, `test`) to file.
        of_pipeline: whether they are those of `dvc.lock`, whose digests are then tags.
        artifacts: files, or folders whose files, are shown with the run; a mapping from folder in the run to paths.
    """

    name: str
    started: float
    params: Params
    metrics: Mapping[str, float] = field(default_factory=dict)
    history: Sequence[Mapping[Any, float]] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: Mapping[str, Path] = field(default_factory=dict)
    of_pipeline: bool = True
    artifacts: Mapping[str, Sequence[Path]] = field(default_factory=dict)


def store_uri(root: Path | None = None) -> str:
    """Address of the tracking store: `MLFLOW_TRACKING_URI` if set, else the SQLite file of the main checkout."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _own_store(root)


def _own_store(root: Path | None = None) -> str:
    return f"sqlite:///{paths.main_root(root) / paths.STORE}"


def shown_uri() -> str:
    """The store's address as it may be shown: without a password."""
    return re.sub(r"(//[^/@:]*:)[^/@]*@", r"\1***@", store_uri())


def artifact_uri(root: Path | None = None) -> str:
    """Where artifacts lie unless a tracking server keeps them: in the main checkout, whose copies do not last."""
    return (paths.main_root(root) / paths.ARTIFACTS).as_uri()


@contextmanager
def tracking_may_fail(what: str) -> Iterator[None]:
    """Turns any failure of the store into a warning: results are on disk already, and must not be lost with it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()
        print(
            f"warning: {what} was not recorded in MLflow ({shown_uri()}):"
            f" {type(error).__name__}: {reason[0] if reason else 'no reason given'}. The results on disk are complete.",
            file=sys.stderr,
        )


class Tracker:
    """The tracking store, opened at one experiment, which is named after the corpus.

    Args:
        corpus: name of the experiment.
    """

    def __init__(self, corpus: str):
        import mlflow
        from mlflow import MlflowClient

        uri = store_uri()
        if uri.startswith("sqlite:///"):
            _open_at_once(Path(uri.removeprefix("sqlite:///").partition("?")[0]))
        mlflow.set_tracking_uri(uri)
        self.client = MlflowClient(uri)
        self.experiment = self._experiment(corpus)
        self._close_abandoned()

    def record(self, record: Record) -> str:
        """Writes a whole run and ends it; returns its id."""
        from mlflow.entities import Param

        tags = {**environment_tags(), **(input_digests() if record.of_pipeline else {}), **record.tags}
        run = self.client.create_run(self.experiment, int(record.started * 1000), tags, record.name)
        run_id = str(run.info.run_id)
        params = [Param(name, str(value)) for name, value in flatten(record.params).items()]
        self.client.log_batch(run_id, params=params)
        self.add(
            run_id, metrics=record.metrics, history=record.history, datasets=record.datasets, artifacts=record.artifacts
        )
        self.client.set_terminated(run_id)
        return run_id

    def add(
        self,
        run_id: str,
        *,
        metrics: Mapping[str, float] = MappingProxyType({}),
        history: Sequence[Mapping[Any, float]] = (),
        datasets: Mapping[str, Path] = MappingProxyType({}),
        artifacts: Mapping[str, Sequence[Path]] = MappingProxyType({}),
    ) -> None:
        """Adds to a run, which may have ended already; the arguments are those of `Record`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        rows = [Metric(name, value, now, 0) for name, value in metrics.items()]
        for epoch in history:
            values = {name: value for name, value in epoch.items() if name != "epoch"}
            rows += [Metric(name, float(value), now, int(epoch["epoch"])) for name, value in values.items()]
        for at in range(0, len(rows), METRICS_AT_ONCE):
            self.client.log_batch(run_id, metrics=rows[at : at + METRICS_AT_ONCE])
        self._add_datasets(run_id, datasets)
        for folder, files in artifacts.items():
            for file in files:
                (self.client.log_artifacts if file.is_dir() else self.client.log_artifact)(run_id, str(file), folder)

    def newest(self, tag: str, value: str) -> str | None:
        """The newest finished run with this tag; None if the store has none."""
        query = f"tags.`{tag}` = '{value}' and attributes.status = 'FINISHED'"
        order = ["attributes.start_time DESC"]
        found = self.client.search_runs([self.experiment], query, order_by=order, max_results=1)
        return str(found[0].info.run_id) if found else None

    def has(self, run_id: str, tag: str, value: str) -> bool:
        """Whether a run has a tag with this value."""
        return bool(self.client.get_run(run_id).data.tags.get(tag) == value)

    def tag(self, run_id: str, tag: str, value: str) -> None:
        """Sets a tag of a run."""
        self.client.set_tag(run_id, tag, value)

    def adopt(self, parent: str, run_ids: Sequence[str]) -> None:
        """Makes runs the children of a parent run."""
        for run_id in run_ids:
            self.client.set_tag(run_id, PARENT, parent)

    def log_model(self, run_id: str, folder: Path, example: str) -> None:
        """Logs a model that takes raw text and returns labels with probabilities, unless the run has one already.

        Args:
            run_id: run that the model belongs to.
            folder: what `serving.load_folder` reads.
            example: a sentence; MLflow classifies it to see that the model can be served, and shows it with the model.
        """
        import mlflow
        from mlflow.models import Model, ModelSignature
        from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
        from mlflow.types.schema import Array, Map

        if self._has_model(run_id):
            return
        signature = ModelSignature(
            inputs=Schema([ColSpec(DataType.string, "text")]),
            outputs=Schema(
                [
                    ColSpec(DataType.string, "label"),
                    ColSpec(DataType.double, "score"),
                    ColSpec(Map(DataType.double), "probabilities"),
                    # where params ask for attention
                    ColSpec(Array(DataType.string), "tokens", required=False),
                    ColSpec(Array(DataType.double), "weights", required=False),
                ]
            ),
            params=ParamSchema([ParamSpec("attention", DataType.boolean, default=False)]),
        )
        mlflow.set_experiment(experiment_id=self.experiment)
        # not within mlflow.start_run: a failure there would end the finished run as FAILED
        Model.log(
            artifact_path=None,
            name="model",
            flavor=mlflow.pyfunc,
            run_id=run_id,
            loader_module="bilstm_attention.serving",
            data_path=str(folder),
            model_config=SERVING_LIMITS,
            code_paths=[str(Path(__file__).parents[1])],
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in SERVING_PACKAGES],
            signature=signature,
            input_example=pd.DataFrame({"text": [example]}),
        )

    def _has_model(self, run_id: str) -> bool:
        from mlflow.entities import LoggedModelStatus

        outputs = self.client.get_run(run_id).outputs
        logged = [self.client.get_logged_model(model.model_id) for model in outputs.model_outputs] if outputs else []
        return any(model.status == LoggedModelStatus.READY for model in logged)

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

    def _add_datasets(self, run_id: str, files: Mapping[str, Path]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for role, file in files.items():
            # relative to the project, since a copy made by `dvc exp run --temp` does not last
            source = json.dumps({"uri": str(file)})
            # 36 characters is what the store keeps of a digest
            dataset = Dataset(role, sha256(file)[:36], source_type="local", source=source)
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
