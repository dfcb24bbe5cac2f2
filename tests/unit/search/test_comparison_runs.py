"""Runs of a comparison are built from the files of its trainings, each table with its own tags."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest

from bilstm_attention import paths
from bilstm_attention.config import Params
from bilstm_attention.paths import write_json
from bilstm_attention.search.comparison import Comparison, PlannedTraining, Table
from bilstm_attention.search.comparison_runs import comparison_runs, table_runs, write_table
from bilstm_attention.search.trainings import TrainingJob, TrainingRecord, read_record
from bilstm_attention.tracking.runs import log_runs

RECORD = {
    "key": "abc",
    "dev": {"accuracy": 70.0},
    "best_epoch": 1,
    "history": [{"epoch": 1, "loss": 0.5}],
    "started": 5.0,
    "made_with": "x",
    "environment": {"python": "3.11"},
    "weights": 9,
    "labels": ["a", "b"],
    "predicted": ["a"],
    "confidence": [0.9],
}


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[PlannedTraining, dict[str, TrainingRecord]]:
    """A training with its record and its data on disk."""
    monkeypatch.chdir(tmp_path)
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).touch()
    job = TrainingJob("mean seed=3", Params(), seed=3, root=paths.TRAININGS / "data/x")
    for split in ("train", "dev", "test"):
        file = job.root / paths.PREPARED / f"{split}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"label": ["a"]}).to_parquet(file)
    write_json(paths.TRAININGS / "abc.json", RECORD)
    return PlannedTraining("mean", None, job), {job.work: read_record(paths.TRAININGS / "abc.json")}


def comparison(name: str) -> Comparison:
    table = Table.model_validate({"seeds": [3], "reference": "mean", "variants": {"mean": {}}})
    return Comparison("page", name, table, {"mean": Params()})


def test_training_of_two_tables_is_a_run_of_each(planned: tuple[PlannedTraining, dict[str, TrainingRecord]]) -> None:
    training, records = planned
    for name in ("one", "two"):
        write_table(comparison(name), [replace(training, variant=f"of {name}")], records)
    results, missing = comparison_runs()
    assert missing == []
    assert [experiment for experiment, _ in results] == ["sample", "sample"]
    one, two = (runs[0] for _, runs in results)
    assert one.identity != two.identity
    assert [(run.tags["table"], run.tags["variant"]) for run in (one, two)] == [("one", "of one"), ("two", "of two")]
    assert (one.name, one.metrics, one.started) == ("mean seed=3", {"best_dev_accuracy": 70.0}, 5.0)
    assert (one.tags["python"], one.params["train.seeds"], set(one.datasets)) == ("3.11", [3], {"train", "dev"})


@pytest.mark.parametrize(("scored", "accuracy"), [("dev", None), ("test", 100.0)])
def test_shared_training_is_a_run_of_each_table_and_variant(
    planned: tuple[PlannedTraining, dict[str, TrainingRecord]],
    mlflow_store: str,
    monkeypatch: pytest.MonkeyPatch,
    scored: Literal["dev", "test"],
    accuracy: float | None,
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    training, (record,) = planned[0], planned[1].values()
    job = replace(training.job, scored=scored)
    # a quote ends a query of MLflow
    variants = {"one": ["zhou"], "two": ["zhou", "the snippet's"]}
    for name, own in [*variants.items()] * 2:
        plan = [replace(training, variant=variant, job=job) for variant in own]
        for experiment, runs in table_runs(write_table(comparison(name), plan, {job.work: record})):
            log_runs(experiment, runs, f"table {name}")
    client = MlflowClient(mlflow_store)
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    places = sorted((name, variant) for name, own in variants.items() for variant in own)
    assert sorted((run.data.tags["table"], run.data.tags["variant"]) for run in runs) == places
    # the fold that scores a training is test where the corpus has no test file
    assert [run.data.metrics.get("test_accuracy") for run in runs] == [accuracy] * 3
    assert {run.data.metrics["best_dev_accuracy"] for run in runs} == {70.0}


def test_table_without_its_training_is_missing(planned: tuple[PlannedTraining, dict[str, TrainingRecord]]) -> None:
    training, records = planned
    write_table(comparison("one"), [training], records)
    (paths.TRAININGS / "abc.json").unlink()
    results, (reason,) = comparison_runs()
    assert results == []
    assert reason.startswith("table page.one: ")
