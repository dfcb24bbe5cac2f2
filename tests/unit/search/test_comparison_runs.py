"""Runs of a comparison: each training once per table and variant, and logged again from their files."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest

from bilstm_attention import paths
from bilstm_attention.config import Params
from bilstm_attention.search.comparison import Comparison, Table
from bilstm_attention.search.comparison_runs import comparison_runs, write_runs
from bilstm_attention.search.trainings import TrainingJob, TrainingRecord
from bilstm_attention.tracking.runs import log_runs

RECORD = TrainingRecord(
    key="abc",
    dev={"accuracy": 70.0},
    best_epoch=1,
    history=[{"epoch": 1, "loss": 0.5}],
    started=5.0,
    made_with="x",
    environment={"python": "3.11"},
    weights=9,
    labels=["a", "b"],
    predicted=["a"],
    confidence=[0.9],
)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingJob:
    """A training with its data on disk."""
    monkeypatch.chdir(tmp_path)
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).touch()
    job = TrainingJob("mean seed=3", Params(), seed=3, root=paths.TRAININGS / "data/x")
    for split in ("train", "dev", "test"):
        file = job.root / paths.PREPARED / f"{split}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"label": ["a"]}).to_parquet(file)
    return job


def write(table: str, *variants: str, job: TrainingJob) -> None:
    content = Table.model_validate(
        {"seeds": [3], "reference": variants[0], "variants": {name: {} for name in variants}}
    )
    comparison = Comparison("page", table, content, dict.fromkeys(variants, Params()))
    write_runs(comparison, {name: [(job, RECORD)] for name in variants})


def test_training_of_two_tables_is_a_run_of_each(job: TrainingJob) -> None:
    for name in ("one", "two"):
        write(name, f"of {name}", job=job)
    results = comparison_runs()
    assert [experiment for experiment, _ in results] == ["sample", "sample"]
    one, two = (runs[0] for _, runs in results)
    assert one.identity != two.identity
    assert [(run.tags["table"], run.tags["variant"]) for run in (one, two)] == [("one", "of one"), ("two", "of two")]
    assert (one.name, one.metrics, one.started) == ("mean seed=3", {"best_dev_accuracy": 70.0}, 5.0)
    assert (one.tags["python"], one.params["train.seeds"], set(one.datasets)) == ("3.11", [3], {"train", "dev"})


@pytest.mark.parametrize(("scored", "accuracy"), [("dev", None), ("test", 100.0)])
def test_shared_training_is_a_run_of_each_table_and_variant(
    job: TrainingJob,
    mlflow_store: str,
    monkeypatch: pytest.MonkeyPatch,
    scored: Literal["dev", "test"],
    accuracy: float | None,
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    # a quote ends a query of MLflow
    variants = {"one": ["zhou"], "two": ["zhou", "the snippet's"]}
    for name, own in variants.items():
        write(name, *own, job=replace(job, scored=scored))
    for experiment, runs in comparison_runs() * 2:
        log_runs(experiment, runs, "tables")
    client = MlflowClient(mlflow_store)
    logged = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    places = sorted((name, variant) for name, own in variants.items() for variant in own)
    assert sorted((run.data.tags["table"], run.data.tags["variant"]) for run in logged) == places
    # the fold that scores a training is test where the corpus has no test file
    assert [run.data.metrics.get("test_accuracy") for run in logged] == [accuracy] * 3
    assert {run.data.metrics["best_dev_accuracy"] for run in logged} == {70.0}
