"""Logs runs to MLflow from results that are on disk, each once, found again by an identity tag.

A store that fails costs a warning; `bilstm-attention sync` logs later what the store lacks.
"""

import json
import os
import re
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bilstm_attention.data.dataset import existing
from bilstm_attention.tracking.environment import environment_tags, sha256
from bilstm_attention.tracking.registry import LoggedModel, log_model, log_model_scores
from bilstm_attention.tracking.store import artifact_uri, error_line, open_store, shown_uri, store_uri

if TYPE_CHECKING:
    from mlflow.entities import Run

# A tag and its value, which one run of an experiment alone has.
Identity = tuple[str, str]
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"

METRICS_PER_REQUEST = 1000
# without it the UI opens an experiment at its page for traces of language models
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


@dataclass(frozen=True)
class RunRecord:
    """A run, or an addition to the run with the same identity.

    Args:
        name: in the run list, for example `zhou u=100 seed=2`.
        identity: tag and value by which the run is found again.
        params: all parameters, by dotted name.
        started: seconds since 1970; None: now.
        metrics: name to value.
        history: a mapping of metrics per epoch, each with its `epoch`.
        tags: name to value.
        datasets: from `fingerprints`.
        artifacts: files and folders by folder in the run.
        description: Markdown on the run's page; `artifact:NAME` links to a file of the run.
        final: whether the description replaces an earlier one.
        parent: identity of the parent run.
        model: to log with the run.
    """

    name: str
    identity: Identity
    params: Mapping[str, Any]
    started: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    history: Sequence[Mapping[Any, float]] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: dict[str, tuple[str, str]] = field(default_factory=dict)
    artifacts: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    description: str = ""
    final: bool = False
    parent: Identity | None = None
    model: LoggedModel | None = None


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
        print(
            f"warning: {about} was not logged to MLflow ({shown_uri()}): {error_line(error)}. Results on disk are"
            " complete; `bilstm-attention sync` logs them.",
            file=sys.stderr,
        )
        return {}


def write_runs(experiment: str, records: Sequence[RunRecord]) -> dict[Identity, str]:
    """As `log_runs`; raises whatever the store raises."""
    tracker, ids = Tracker(experiment), dict[Identity, str]()
    for record in records:
        ids[record.identity] = tracker.write(record)
    return ids


def missing_runs(experiment: str, records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records that the store does not have whole; raises whatever the store raises."""
    tracker = Tracker(experiment)
    return [record for record in records if not tracker.has(record)]


class Tracker:
    """The tracking store, opened at one experiment, which it creates if it is not there."""

    def __init__(self, experiment: str):
        self.client = open_store()
        self.experiment = self._experiment(experiment)
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
        from mlflow.entities import Param

        run = self.find(record.identity) or self._create(record)
        run_id = str(run.info.run_id)
        if not run.data.params:
            params = [Param(name, str(value)) for name, value in record.params.items()]
            self.client.log_batch(run_id, params=params)
        for tag, value in record.tags.items():
            if run.data.tags.get(tag) != value:
                self.client.set_tag(run_id, tag, value)
        self._write_datasets(run_id, record.datasets)
        for folder, files in record.artifacts.items():
            for file in files:
                (self.client.log_artifacts if file.is_dir() else self.client.log_artifact)(run_id, str(file), folder)
        if record.description and (record.final or NOTE not in run.data.tags):
            self.client.set_tag(run_id, NOTE, self._with_links(record.description, run_id))
        if record.parent and (parent := self.find(record.parent)):
            self.client.set_tag(run_id, PARENT, parent.info.run_id)
        model_id = log_model(self.client, self.experiment, run_id, record.model) if record.model else ""
        self._write_metrics(run, record)
        if record.model:
            log_model_scores(self.client, run_id, model_id, record.model)
        if run.info.status != "FINISHED":
            self.client.set_terminated(run_id)
        return run_id

    def _create(self, record: RunRecord) -> "Run":
        tags = {**environment_tags(), **record.tags, record.identity[0]: record.identity[1]}
        started = time.time() if record.started is None else record.started
        return self.client.create_run(self.experiment, int(started * 1000), tags, record.name)

    def _write_metrics(self, run: "Run", record: RunRecord) -> None:
        from mlflow.entities import Metric

        logged, now = run.data.metrics, int(time.time() * 1000)
        names = [name for name in (record.history[0] if record.history else ()) if name not in {"epoch", *logged}]
        curves = [
            [Metric(name, float(row[name]), now, int(row["epoch"])) for row in record.history if name in row]
            for name in names
        ]
        rows = [Metric(name, value, now, 0) for name, value in record.metrics.items() if logged.get(name) != value]
        # a curve in one request: whoever completes a run that was cut off finds it whole or not at all
        for batch in (*curves, rows):
            for start in range(0, len(batch), METRICS_PER_REQUEST):
                self.client.log_batch(run.info.run_id, metrics=batch[start : start + METRICS_PER_REQUEST])

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
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        pass
    return True
