"""Runs of a comparison: each training once per table and variant, and logged again from their files."""

from pathlib import Path
from typing import Literal

import pandas as pd
import pytest
from tests.small import begin_project

from bilstm_attention import paths
from bilstm_attention.config import Params
from bilstm_attention.search.comparison import Comparison, Table
from bilstm_attention.search.records import comparison_runs, save_runs
from bilstm_attention.search.trainings import TrainingJob, TrainingRecord
from bilstm_attention.tracking.runs import NOTE, PARENT, log_runs

RECORD = TrainingRecord(
    key="abc",
    dev={"accuracy": 70.0},
    best_epoch=1,
    history=[{"epoch": 1, "loss": 0.5}],
    started=5.0,
    made_with="x",
    environment={"python": "of the training"},
    weights=9,
    labels=["a", "b"],
    predicted=["a"],
    confidence=[0.9],
)


@pytest.mark.parametrize(("scored", "accuracy"), [("dev", None), ("test", 100.0)])
def test_shared_training_is_a_run_of_each_table_and_variant(
    tmp_path: Path,
    mlflow_store: str,
    monkeypatch: pytest.MonkeyPatch,
    scored: Literal["dev", "test"],
    accuracy: float | None,
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    monkeypatch.chdir(begin_project(tmp_path))
    job = TrainingJob("mean seed=3", Params(), seed=3, root=paths.TRAININGS / "data/x", scored=scored)
    (job.root / paths.PREPARED).mkdir(parents=True)
    for split in ("train", "dev", "test"):
        pd.DataFrame({"label": ["a"]}).to_parquet(job.root / paths.PREPARED / f"{split}.parquet")
    # a quote ends a query of MLflow
    tables = {"one": ["zhou"], "two": ["zhou", "the snippet's"]}
    for name, variants in tables.items():
        content = {"seeds": [3], "reference": "zhou", "variants": {variant: {} for variant in variants}}
        comparison = Comparison("page", name, Table.model_validate(content), dict.fromkeys(variants, Params()))
        save_runs(comparison, {variant: [(job, RECORD)] for variant in variants})
    paths.RESULTS.mkdir(parents=True)
    (paths.RESULTS / "page.md").write_text(
        "# Page\n![one](page-one.png), [other](other.md), [labels](page-one-labels.csv)\n"
    )
    for name in ("page-one.png", "page-one-labels.csv", "page-another-one.png"):
        (paths.RESULTS / name).touch()
    for experiment, (parent, *runs) in comparison_runs() * 2:
        assert (experiment, parent.name, runs[0].name, runs[0].started) == ("sample", "page", "mean seed=3", 5.0)
        assert set(runs[0].datasets) - {"test"} == {"train", "dev"}
        log_runs(experiment, [parent, *runs], "tables")
    assert [len(runs) for _, runs in comparison_runs("page.two")] == [3]
    client = MlflowClient(mlflow_store)
    stored = client.search_runs([each.experiment_id for each in client.search_experiments()])
    (page,) = (run for run in stored if PARENT not in run.data.tags)
    assert (
        f"![one](get-artifact?path=page-one.png&run_uuid={page.info.run_id}), [other](other.md)" in page.data.tags[NOTE]
    )
    assert [file.path for file in client.list_artifacts(page.info.run_id)] == [
        "page-one-labels.csv",
        "page-one.png",
        "page.md",
    ]
    logged = [run.data for run in stored if run is not page]
    assert {run.tags[PARENT] for run in logged} == {page.info.run_id}
    places = sorted((name, variant) for name, variants in tables.items() for variant in variants)
    assert sorted((run.tags["table"], run.tags["variant"]) for run in logged) == places
    assert {(run.tags["python"], run.params["train.seeds"]) for run in logged} == {("of the training", "[3]")}
    # the fold that scores a training is test where the corpus has no test file
    assert [run.metrics.get("test/accuracy") for run in logged] == [accuracy] * 3
    assert {run.metrics["dev/accuracy"] for run in logged} == {70.0}
