"""`experiments/compare.py` on the sample corpus: same budget for all, dev alone, nothing trained twice."""

import csv
import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from bilstm_attention.experiment.scoring import official_f1
from tests.pipeline.conftest import SMALL, Project

pytestmark = pytest.mark.slow
COMPARISON = """
about: "# Of two"
base: experiments/configs/sample.yaml
overrides: {train.epochs: 1, model.lstm_units: 4, embeddings.epochs: 1}
seeds: [0, 1]
reference: REFERENCE
columns: [equation]
variants:
  mean: {set: {model.attention.kind: mean}}
  two hops: {set: {model.attention.kind: structured, model.attention.hops: 2}, words: {equation: "`A`"}}
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "experiments/compare.py", "experiments/comparisons/two.yaml", *arguments]


@pytest.fixture(scope="module")
def project(new_project: Callable[[], Project]) -> Project:
    assert "embeddings.epochs=1" in SMALL
    project = new_project()
    write(project, "mean")
    project.run(*command("--workers", "2"))
    return project


def write(project: Project, reference: str) -> None:
    text = COMPARISON.replace("REFERENCE", reference)
    (project.root / "experiments/comparisons/two.yaml").write_text(text)


def results(project: Project) -> dict[Path, dict]:
    files = (project.root / "experiments/studies/two").glob("*/*.json")
    return {file: json.loads(file.read_text()) for file in sorted(files)}


def test_page_table_and_picture_say_what_the_trainings_gave_on_dev(project: Project) -> None:
    folder = project.root / "experiments/results"
    with (folder / "two.csv").open() as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    found = sorted(result["dev"]["official_f1"] for result in results(project).values())
    written = sorted(float(row[seed]) for row in rows.values() for seed in ("seed_0", "seed_1"))
    assert written == pytest.approx(found, abs=1e-4)
    assert len(found) == 4
    assert (rows["mean"]["weights_added"], rows["mean"]["p"]) == ("0", "")
    # W1 (4, 100) and W2 (100, 2), and a second state of 4 for each of 19 classes
    assert int(rows["two hops"]["weights_added"]) == 4 * 100 + 100 * 2 + 4 * 19
    assert 0 < float(rows["two hops"]["p"]) <= 1
    page = (folder / "two.md").read_text()
    assert page.startswith("# Of two\n")
    assert f"| `two hops` | `A` | {rows['two hops']['weights_added']} | {float(rows['two hops']['mean']):.2f} ±" in page
    assert page.count("| `two hops` |") == 2
    assert (folder / "two.png").read_bytes().startswith(b"\x89PNG")


def test_every_training_is_a_run_in_mlflow(project: Project) -> None:
    with sqlite3.connect(project.root / "experiments/mlflow.db") as store:
        runs = store.execute("select name, status from runs").fetchall()
        metrics = {name for (name,) in store.execute("select distinct key from metrics")}
        threads = {value for (value,) in store.execute("select value from params where key = 'train.threads'")}
    assert threads == {"1"}  # each core has a training of its own
    variants = [f"{variant} seed={seed}" for variant in ("mean", "two hops") for seed in (0, 1)]
    assert sorted(runs) == [(name, "FINISHED") for name in variants]
    assert {"best_dev_official_f1", "dev_comprehensiveness_attention", "dev_loss"} <= metrics
    assert not [name for name in metrics if "test" in name]


def test_a_second_run_trains_what_is_missing_alone_and_to_the_same_scores(project: Project) -> None:
    before = results(project)
    lost = next(iter(before))
    lost.unlink()
    project.run(*command())
    after = results(project)
    assert set(after) == set(before)
    assert {path for path in before if after[path]["started"] != before[path]["started"]} == {lost}
    for part in ("dev", "history", "predicted", "faithfulness"):
        assert after[lost][part] == before[lost][part]
    with sqlite3.connect(project.root / "experiments/mlflow.db") as store:
        assert store.execute("select count(*) from runs").fetchone() == (4,)
    assert list((project.root / "experiments/studies/two").glob("*/checkpoints/*")) == []


def test_folds_are_judged_together_and_each_by_models_that_did_not_learn_from_it(project: Project) -> None:
    one_seed = COMPARISON.replace("REFERENCE", "mean").replace("seeds: [0, 1]", "seeds: [0]\nfolds: 2")
    (project.root / "experiments/comparisons/halves.yaml").write_text(one_seed)
    project.run(sys.executable, "experiments/compare.py", "experiments/comparisons/halves.yaml", "--workers", "2")
    folders = sorted((project.root / "experiments/studies/halves").iterdir())
    tables = [pd.read_parquet(folder / "data/prepared/dev.parquet") for folder in folders]
    learnt = [pd.read_parquet(folder / "data/prepared/train.parquet")["id"] for folder in folders]
    assert [sorted(table["id"]) for table in tables] == [sorted(ids) for ids in reversed(learnt)]
    rows = pd.read_csv(project.root / "experiments/results/halves.csv").set_index("variant")
    gold = [label for table in tables for label in table["label"]]
    found = [[json.loads(file.read_text()) for file in folder.glob("*.json")] for folder in folders]
    # mean pooling has fewer weights than two hops
    by_variant = zip(*(sorted(of_fold, key=lambda one: one["weights"]) for of_fold in found), strict=True)
    for name, answers in zip(("mean", "two hops"), by_variant, strict=True):
        predicted = [label for one in answers for label in one["predicted"]]
        assert rows.loc[name, "mean"] == pytest.approx(official_f1(gold, predicted), abs=1e-4)


def test_what_is_final_answers_the_test_set_as_the_pipeline_does(project: Project) -> None:
    final = COMPARISON.replace("REFERENCE", "mean").replace("seeds:", "test: true\nseeds:")
    # data of its own: the first variant reads a context of the entities
    final = final.replace("kind: mean}", "kind: mean, data.tokens.context: 2}")
    (project.root / "experiments/comparisons/final.yaml").write_text(final)
    project.run(sys.executable, "experiments/compare.py", "experiments/comparisons/final.yaml")
    row = pd.read_csv(project.root / "experiments/results/final.csv").set_index("variant").loc["mean"]
    changed = ("train.epochs=1", "model.lstm_units=4", "embeddings.epochs=1", "model.attention.kind=mean")
    project.apply(*changed, "data.tokens.context=2", "train.seeds=[0,1]", "train.threads=1")
    project.run("dvc", "repro")
    metrics = json.loads((project.root / "experiments/current/metrics.json").read_text())
    for column, wanted in {
        "mean": metrics["dev"]["official_f1"]["mean"],
        "test_mean": metrics["test"]["official_f1"]["mean"],
        "test_low": metrics["test"]["official_f1"]["low"],
        "test_ensemble": metrics["ensemble"]["official_f1"],
    }.items():
        assert row[column] == pytest.approx(wanted, abs=1e-4), column
    with sqlite3.connect(project.root / "experiments/mlflow.db") as store:
        query = (
            "select latest_metrics.value from latest_metrics join tags using (run_uuid) where latest_metrics.key = ?"
        )
        of_mean = f"{query} and tags.key = 'variant' and tags.value = 'mean'"
        recorded = [value for (value,) in store.execute(of_mean, ["test_official_f1"])]
    assert sorted(recorded) == pytest.approx(sorted([row["test_seed_0"], row["test_seed_1"]]), abs=1e-4)
    page = (project.root / "experiments/results/final.md").read_text()
    assert f"{row['test_low']:.2f}–{row['test_high']:.2f} | {row['test_ensemble']:.2f} |" in page


def test_a_comparison_that_cannot_be_is_refused_before_any_training(project: Project) -> None:
    before = set(results(project))
    write(project, "median")
    assert "reference 'median' is none of its variants, mean, two hops" in project.run(*command(), check=False)
    write(project, "mean")
    for wrong, message in {
        "folds: 2\ntest: true\nseeds": "folds and test: a model of a fold has not learnt from all of train",
        "fold: 2\nseeds": "it may have folds and test",
        "test: no\nseeds": "test: 'no' is neither true nor false",
    }.items():
        text = COMPARISON.replace("REFERENCE", "mean").replace("seeds", wrong)
        (project.root / "experiments/comparisons/two.yaml").write_text(text)
        assert message in project.run(*command(), check=False)
    no_test = (
        COMPARISON.replace("REFERENCE", "mean")
        .replace("seeds", "folds: 5\nseeds")
        .replace("{train", "{data.test: null, train")
    )
    (project.root / "experiments/comparisons/two.yaml").write_text(no_test)
    assert "mean: folds are of train where the base names a test file" in project.run(*command(), check=False)
    assert set(results(project)) == before
