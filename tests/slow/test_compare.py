"""`bilstm-attention compare` on the sample corpus: same budget for all, nothing trained twice, test where asked."""

import csv
import json
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.project import SMALL, Project
from tests.unit.search.test_comparison import COMPARISON

from bilstm_attention import paths
from bilstm_attention.errors import UserError
from bilstm_attention.evaluation.metrics import scores
from bilstm_attention.evaluation.semeval import SEMEVAL_LABELS

# The variant `mean`.
AS_MEAN = (
    "train.epochs=2",
    "train.learning_rate=0.03",
    "model.lstm_units=4",
    "embeddings.epochs=1",
    "model.attention.kind=mean",
)


def compare(project: Project, name: str) -> str:
    return project.run("bilstm-attention", "compare", f"experiments/comparisons/{name}.yaml", "--workers", "2")


def write(project: Project, name: str, *changes: tuple[str, str]) -> None:
    text = COMPARISON
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (project.root / f"experiments/comparisons/{name}.yaml").write_text(text)


@pytest.fixture(scope="module")
def project(new_project: Callable[[], Project]) -> Project:
    assert "embeddings.epochs=1" in SMALL
    project = new_project()
    write(project, "two")
    compare(project, "two")
    return project


def trained(project: Project) -> dict[Path, dict[str, Any]]:
    """By file, what every training gave, of whatever comparison."""
    files = (project.root / "experiments/trainings").glob("*.json")
    return {file: json.loads(file.read_text()) for file in sorted(files)}


def table(project: Project, name: str) -> pd.DataFrame:
    return pd.read_csv(project.root / f"experiments/results/{name}.csv").set_index("variant")


def test_page_table_and_picture_say_what_the_trainings_gave_on_dev(project: Project) -> None:
    folder = project.root / "experiments/results"
    with (folder / "two.csv").open() as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    found = sorted(result["dev"]["official_f1"] for result in trained(project).values())
    written = sorted(float(row[seed]) for row in rows.values() for seed in ("seed_0", "seed_1"))
    assert written == pytest.approx(found, abs=1e-4)
    assert {row["table"] for row in rows.values()} == {"kinds"}
    assert (rows["mean"]["weights_added"], rows["mean"]["p"]) == ("0", "")
    # W1 (4, 100) and W2 (100, 2), and a second state of 4 for each of 19 classes
    assert int(rows["two hops"]["weights_added"]) == 4 * 100 + 100 * 2 + 4 * 19
    assert 0 < float(rows["two hops"]["p"]) <= 1
    page = (folder / "two.md").read_text()
    assert page.startswith("# Of two\n\n```sh\nbilstm-attention compare experiments/comparisons/two.yaml --workers 2\n")
    assert page.count("| `two hops` ") == 2
    assert "![official_f1](two-kinds.png)" in page
    assert (folder / "two-kinds.png").read_bytes().startswith(b"\x89PNG")


def test_every_training_is_a_run_in_mlflow(project: Project) -> None:
    with sqlite3.connect(project.root / "experiments/mlflow.db") as store:
        of_two = "join tags using (run_uuid) where tags.key = 'comparison' and tags.value = 'two'"
        runs = store.execute(f"select name, status, run_uuid from runs {of_two}").fetchall()
        metrics = {name for (name,) in store.execute(f"select distinct metrics.key from metrics {of_two}")}
    variants = [f"{variant} seed={seed}" for variant in ("mean", "two hops") for seed in (0, 1)]
    assert sorted((name, status) for name, status, _ in runs) == [(name, "FINISHED") for name in variants]
    assert {"best_dev_official_f1", "dev_comprehensiveness_attention", "dev_loss"} <= metrics
    assert not [name for name in metrics if "test" in name]


def test_a_second_run_trains_what_is_missing_alone_and_to_the_same_scores(project: Project) -> None:
    before, page = trained(project), project.read("experiments/results/two.md")
    lost = next(iter(before))
    lost.unlink()
    compare(project, "two")
    after = trained(project)
    assert set(after) == set(before)
    assert {path for path in before if after[path]["started"] != before[path]["started"]} == {lost}
    for part in ("dev", "history", "predicted", "confidence", "faithfulness"):
        assert after[lost][part] == before[lost][part]
    assert project.read("experiments/results/two.md") == page
    with sqlite3.connect(project.root / "experiments/mlflow.db") as store:
        assert store.execute("select count(*) from runs").fetchone() == (4,)
    assert list((project.root / "experiments/trainings").glob("data/*/checkpoints/*")) == []


def test_what_two_tables_want_is_trained_once_and_stands_in_both(project: Project) -> None:
    before = trained(project)
    again = """  again:
    seeds: [1, 0]
    reference: mean
    variants:
      average: {set: {model.attention.kind: mean, train.epochs: 3}}
      mean: {set: {model.attention.kind: mean}}
"""
    (project.root / "experiments/comparisons/both.yaml").write_text(COMPARISON + again)
    told = compare(project, "both")
    assert len(trained(project)) == len(before) + 2
    lines = sorted(line.partition(":")[0] for line in told.splitlines() if " seed=" in line)
    assert lines == [f"{name} seed={seed}" for name in ("average", "mean", "two hops") for seed in (0, 1)]
    rows = pd.read_csv(project.root / "experiments/results/both.csv").set_index(["table", "variant"])
    assert list(rows.index) == [("kinds", "mean"), ("kinds", "two hops"), ("again", "average"), ("again", "mean")]
    for column in ("mean", "seed_0", "seed_1"):
        assert rows.loc[("again", "mean"), column] == rows.loc[("kinds", "mean"), column]
    assert b"Incomplete" not in project.read("experiments/results/both.md")


def test_folds_are_judged_together_and_each_by_models_that_did_not_learn_from_it(project: Project) -> None:
    data, known = project.root / "experiments/trainings/data", trained(project)
    before = set(data.iterdir())
    last = ("{train.epochs", "{train.restore_best_weights: false, train.epochs")
    folds = ("seeds: [0, 1]", "seeds: [0]\n    folds: 2")
    write(project, "halves", last, folds, ("[faithfulness]", "[errors, faithfulness]"))
    compare(project, "halves")
    folders = sorted(set(data.iterdir()) - before)
    tables = {folder: pd.read_parquet(folder / "data/prepared/dev.parquet") for folder in folders}
    learnt = [pd.read_parquet(folder / "data/prepared/train.parquet")["id"] for folder in folders]
    assert [sorted(judged["id"]) for judged in tables.values()] == [sorted(ids) for ids in reversed(learnt)]
    rows = table(project, "halves")
    gold = [label for judged in tables.values() for label in judged["label"]]
    found = [result for file, result in trained(project).items() if file not in known]
    for name, weights in zip(("mean", "two hops"), sorted({one["weights"] for one in found}), strict=True):
        # mean pooling has fewer weights than two hops
        of_one = [one for one in found if one["weights"] == weights]
        predicted = []
        for judged in tables.values():
            of_fold = [one for one in of_one if one["dev"]["official_f1"] == _score(judged, one["predicted"])]
            assert len(of_fold) == 1
            predicted += of_fold[0]["predicted"]
        assert rows.loc[name, "mean"] == pytest.approx(official_f1(gold, predicted), abs=1e-4)
        if name == "mean":
            wrong = sum(map(str.__ne__, gold, predicted))
    page = (project.root / "experiments/results/halves.md").read_text()
    assert f"**Errors of `mean`** on 2 folds: {wrong:,} of {len(gold):,} answers." in page


def official_f1(gold: list[str], predicted: list[str]) -> float:
    return scores(gold, predicted, SEMEVAL_LABELS)["official_f1"]


def _score(judged: pd.DataFrame, predicted: list[str]) -> float:
    return official_f1(judged["label"].tolist(), predicted)


def test_what_is_final_answers_the_test_set_as_the_pipeline_does(project: Project) -> None:
    # data of its own: the first variant reads a context of the entities
    own = ("kind: mean}", "kind: mean, data.tokens.context: 2}")
    write(project, "final", ("seeds:", "test: true\n    seeds:"), own, ("[faithfulness]", "[classes]"))
    known = trained(project)
    compare(project, "final")
    # no table of the page shows it
    assert not [file for file, result in trained(project).items() if file not in known and result["faithfulness"]]
    row = table(project, "final").loc["mean"]
    assert row["test_mean"] > 10  # or equal scores would say nothing
    project.apply(*AS_MEAN, "data.tokens.context=2", "train.seeds=[0,1]", "evaluate.bootstrap=1000")
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
    assert f"{row['test_low']:.2f}–{row['test_high']:.2f}" in page
    # the official score is the mean of the relations' F1, Other left out
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    classes = {cells[0]: float(cells[2]) for cells in lines if len(cells) == 4 and cells[1].isdigit()}
    assert len(classes) == 10
    relations = [score for name, score in classes.items() if name != "Other"]
    assert sum(relations) / 9 == pytest.approx(row["test_mean"], abs=0.05)


def test_the_folds_of_a_corpus_without_a_test_file_are_those_that_the_pipeline_tests_on(project: Project) -> None:
    # mean pooling alone
    lines = COMPARISON.splitlines(keepends=True)
    alone = "".join(line for line in lines if "two hops" not in line).replace("[0, 1]", "[0]\n    folds: 2")
    text = alone.replace("{train.epochs", "{data.test: null, train.epochs")
    (project.root / "experiments/comparisons/thirds.yaml").write_text(text)
    compare(project, "thirds")
    project.run("bilstm-attention", "apply", "experiments/configs/sample.yaml")
    project.apply(*AS_MEAN, "data.test=null", "data.folds=2", "data.fold=1")
    project.run("dvc", "repro")
    metrics = json.loads((project.root / "experiments/current/metrics.json").read_text())
    rows = pd.read_csv(project.root / "experiments/current/predictions.csv")
    with sqlite3.connect(project.root / "experiments/mlflow.db") as store:
        query = "select run_uuid from tags where key = ? and value = ?"
        found = [{run for (run,) in store.execute(query, pair)} for pair in (("comparison", "thirds"), ("fold", "1"))]
        (run,) = found[0] & found[1]
        score = "select value from latest_metrics where key = 'test_official_f1' and run_uuid = ?"
        assert store.execute(score, [run]).fetchone() == (pytest.approx(metrics["test"]["official_f1"]["mean"]),)
    assert metrics["test"]["official_f1"]["mean"] > 10
    same = [found for found in trained(project).values() if found["predicted"] == rows["predicted"].tolist()]
    assert len(same) == 1


def test_what_is_recorded_later_says_what_it_was_trained_with(project: Project) -> None:
    known = trained(project)
    for file, found in known.items():
        file.write_text(json.dumps(found | {"environment": {"mlflow.source.git.commit": "as it was"}}))
    other = project.root / "other.db"
    project.run(
        *("bilstm-attention", "compare", "experiments/comparisons/two.yaml"),
        extra={"MLFLOW_TRACKING_URI": f"sqlite:///{other}"},
    )
    with sqlite3.connect(other) as store:
        commits = store.execute("select value from tags where key = 'mlflow.source.git.commit'").fetchall()
    assert commits == [("as it was",)] * 4
    assert set(trained(project)) == set(known)


def test_two_comparisons_do_not_train_at_once(project: Project) -> None:
    with paths.file_lock(project.root / paths.TRAININGS, UserError("busy")):
        command = ("bilstm-attention", "compare", "experiments/comparisons/two.yaml")
        assert "another `compare` is running" in project.run(*command, check=False)


def test_a_killed_comparison_takes_its_workers_along_and_goes_on(project: Project) -> None:
    write(project, "long", ("train.epochs: 2", "train.patience: 15, train.epochs: 15"), ("[0, 1]", "[0]"))
    command = ["bilstm-attention", "compare", "experiments/comparisons/long.yaml", "--workers", "2"]
    log = (project.root / "long.log").open("w")
    killed = subprocess.Popen(command, cwd=project.root, env=project.environment(), stdout=log, stderr=log)
    data = project.root / "experiments/trainings/data"
    wait_until(lambda: len(list(data.glob("*/checkpoints/*.npz"))) == 2)
    workers = subprocess.run(
        ["pgrep", "-P", str(killed.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    killed.kill()
    killed.wait()
    wait_until(lambda: not any(Path("/proc", worker).exists() for worker in workers))
    before = trained(project)
    compare(project, "long")
    found = [result for file, result in trained(project).items() if file not in before]
    assert [len(result["history"]) for result in found] == [15, 15]
    assert not list(data.glob("*/checkpoints/*"))


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.1)
