"""The command `compare` on the sample corpus: pages, runs, shared trainings, folds, the test set, and kills."""

import json
import sqlite3
import subprocess
import time
from collections import Counter
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

# The variant `mean`.
MEAN = (
    "train.epochs=2",
    "train.learning_rate=0.03",
    "model.lstm_units=4",
    "embeddings.epochs=1",
    "model.attention.kind=mean",
)
LAST_EPOCH = ("{train.epochs", "{train.restore_best_weights: false, train.epochs")


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


def records_of(project: Project) -> dict[Path, dict[str, Any]]:
    """By file, the record of every training, of whatever comparison."""
    files = (project.root / "experiments/trainings").glob("*.json")
    return {file: json.loads(file.read_text()) for file in sorted(files)}


def results_of(project: Project, name: str) -> pd.DataFrame:
    return pd.read_csv(project.root / f"experiments/results/{name}.csv").set_index("variant")


def query(store: Path, sql: str, *values: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(store) as connection:
        return connection.execute(sql, values).fetchall()


def test_page_has_the_dev_scores_of_the_trainings(project: Project) -> None:
    rows, records = results_of(project, "two"), records_of(project)
    assert sorted(rows[["seed_0", "seed_1"]].to_numpy().ravel()) == pytest.approx(
        sorted(record["dev"]["official_f1"] for record in records.values()), abs=1e-4
    )
    assert (rows.loc["mean", "weights_added"], rows["p"].isna().tolist()) == (0, [True, False])
    # W1 (4, 100) and W2 (100, 2), and a second state of 4 for each of 19 classes
    assert rows.loc["two hops", "weights_added"] == 4 * 100 + 100 * 2 + 4 * 19
    assert 0 < rows.loc["two hops", "p"] <= 1
    folder = project.root / "experiments/results"
    page = (folder / "two.md").read_text()
    assert page.startswith("# Of two\n\n```sh\nbilstm-attention compare experiments/comparisons/two.yaml --workers 2\n")
    assert page.count("| `two hops` ") == 2
    assert "![official_f1](two-kinds.png)" in page
    assert (folder / "two-kinds.png").read_bytes().startswith(b"\x89PNG")


def test_every_training_is_a_run(project: Project) -> None:
    store, of_two = project.root / "experiments/mlflow.db", "where tags.key = 'comparison' and tags.value = 'two'"
    runs = query(store, f"select name, status from runs join tags using (run_uuid) {of_two}")
    names = [f"{variant} seed={seed}" for variant in ("mean", "two hops") for seed in (0, 1)]
    assert sorted(runs) == [(name, "FINISHED") for name in names]
    metrics = {name for (name,) in query(store, f"select metrics.key from metrics join tags using (run_uuid) {of_two}")}
    assert {"best_dev_official_f1", "dev_comprehensiveness_attention", "dev_loss"} <= metrics
    assert not [name for name in metrics if "test" in name]


def test_second_run_trains_only_what_is_missing(project: Project) -> None:
    before, page = records_of(project), project.read("experiments/results/two.md")
    lost = next(iter(before))
    lost.unlink()
    compare(project, "two")
    after = records_of(project)
    assert set(after) == set(before)
    assert {path for path in before if after[path]["started"] != before[path]["started"]} == {lost}
    for part in ("dev", "history", "predicted", "confidence", "faithfulness"):
        assert after[lost][part] == before[lost][part]
    assert project.read("experiments/results/two.md") == page
    assert query(project.root / "experiments/mlflow.db", "select count(*) from runs") == [(4,)]
    assert list((project.root / "experiments/trainings").glob("data/*/checkpoints/*")) == []


def test_shared_training_runs_once_and_stands_in_both_tables(project: Project) -> None:
    before = records_of(project)
    again = """  again:
    seeds: [1, 0]
    reference: mean
    variants:
      average: {set: {model.attention.kind: mean, train.epochs: 3}}
      mean: {set: {model.attention.kind: mean}}
"""
    (project.root / "experiments/comparisons/both.yaml").write_text(COMPARISON + again)
    printed = compare(project, "both")
    assert len(records_of(project)) == len(before) + 2
    lines = sorted(line.partition(":")[0] for line in printed.splitlines() if " seed=" in line)
    assert lines == [f"{name} seed={seed}" for name in ("average", "mean", "two hops") for seed in (0, 1)]
    rows = results_of(project, "both").reset_index().set_index(["table", "variant"])
    assert list(rows.index) == [("kinds", "mean"), ("kinds", "two hops"), ("again", "average"), ("again", "mean")]
    for column in ("mean", "seed_0", "seed_1"):
        assert rows.loc[("again", "mean"), column] == rows.loc[("kinds", "mean"), column]
    assert b"Incomplete" not in project.read("experiments/results/both.md")


def test_folds_are_scored_together_by_models_that_did_not_learn_from_them(project: Project) -> None:
    data, earlier = project.root / "experiments/trainings/data", records_of(project)
    folders = set(data.iterdir())
    folds = ("seeds: [0, 1]", "seeds: [0]\n    folds: 2")
    write(project, "halves", LAST_EPOCH, folds, ("[faithfulness]", "[errors, faithfulness]"))
    compare(project, "halves")
    held_out, learnt = (
        [pd.read_parquet(folder / f"data/prepared/{split}.parquet") for folder in sorted(set(data.iterdir()) - folders)]
        for split in ("dev", "train")
    )
    # each half is held out from the model of the other
    assert [sorted(fold["id"]) for fold in held_out] == [sorted(half["id"]) for half in reversed(learnt)]
    gold = [label for fold in held_out for label in fold["label"]]
    records = [record for file, record in records_of(project).items() if file not in earlier]
    # mean pooling has fewer weights than two hops
    for name, weights in zip(("mean", "two hops"), sorted({record["weights"] for record in records}), strict=True):
        predicted: list[str] = []
        for fold in held_out:
            (record,) = (
                record
                for record in records
                if record["weights"] == weights
                and record["dev"]["official_f1"] == official_f1(fold["label"], record["predicted"], record["labels"])
            )
            predicted += record["predicted"]
        expected = official_f1(gold, predicted, records[0]["labels"])
        assert results_of(project, "halves").loc[name, "mean"] == pytest.approx(expected, abs=1e-4)
        if name == "mean":
            wrong = Counter(pair for pair in zip(gold, predicted, strict=True) if pair[0] != pair[1])
    page = " ".join((project.root / "experiments/results/halves.md").read_text().split())
    (pair, count), *_ = wrong.most_common()
    assert f"| {pair[0]} | {pair[1]} | {count} |" in page


def official_f1(gold: Any, predicted: list[str], labels: list[str]) -> float:
    return scores(list(gold), predicted, labels)["official_f1"]


def test_test_scores_are_those_of_the_pipeline(project: Project) -> None:
    # the first variant has data of its own: the context of the entities alone
    own = ("kind: mean}", "kind: mean, data.tokens.context: 2}")
    write(project, "final", ("seeds:", "test: true\n    seeds:"), own, ("[faithfulness]", "[classes]"))
    earlier = records_of(project)
    compare(project, "final")
    # no table of the page shows it
    assert not [file for file, record in records_of(project).items() if file not in earlier and record["faithfulness"]]
    row = results_of(project, "final").loc["mean"]
    assert row["test_mean"] > 10  # or equal scores would say nothing
    project.apply(*MEAN, "data.tokens.context=2", "train.seeds=[0,1]", "evaluate.bootstrap=1000")
    project.run("dvc", "repro")
    metrics = json.loads((project.root / "experiments/current/metrics.json").read_text())
    for column, expected in {
        "mean": metrics["dev"]["official_f1"]["mean"],
        "test_mean": metrics["test"]["official_f1"]["mean"],
        "test_low": metrics["test"]["official_f1"]["low"],
        "test_ensemble": metrics["ensemble"]["official_f1"],
    }.items():
        assert row[column] == pytest.approx(expected, abs=1e-4), column
    of_mean = "select latest_metrics.value from latest_metrics join tags using (run_uuid)"
    of_mean += " where latest_metrics.key = 'test_official_f1' and tags.key = 'variant' and tags.value = 'mean'"
    logged = [value for (value,) in query(project.root / "experiments/mlflow.db", of_mean)]
    assert sorted(logged) == pytest.approx(sorted([row["test_seed_0"], row["test_seed_1"]]), abs=1e-4)
    page = (project.root / "experiments/results/final.md").read_text()
    assert f"{row['test_low']:.2f}–{row['test_high']:.2f}" in page
    # the official score is the mean of the relations' F1, Other left out
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    classes = {cells[0]: float(cells[2]) for cells in lines if len(cells) == 4 and cells[1].isdigit()}
    assert len(classes) == 10
    relations = [score for name, score in classes.items() if name != "Other"]
    assert sum(relations) / 9 == pytest.approx(row["test_mean"], abs=0.05)


def test_folds_without_a_test_file_are_those_of_the_pipeline(project: Project) -> None:
    # mean pooling alone
    lines = COMPARISON.splitlines(keepends=True)
    text = "".join(line for line in lines if "two hops" not in line).replace("[0, 1]", "[0]\n    folds: 2")
    (project.root / "experiments/comparisons/thirds.yaml").write_text(
        text.replace("{train.epochs", "{data.test: null, train.epochs")
    )
    compare(project, "thirds")
    project.run("bilstm-attention", "apply", "experiments/configs/sample.yaml")
    project.apply(*MEAN, "data.test=null", "data.folds=2", "data.fold=1")
    project.run("dvc", "repro")
    metrics = json.loads((project.root / "experiments/current/metrics.json").read_text())
    expected = metrics["test"]["official_f1"]["mean"]
    assert expected > 10
    logged = query(
        project.root / "experiments/mlflow.db",
        "select value from latest_metrics where key = 'test_official_f1' and run_uuid in"
        " (select run_uuid from tags where key = 'comparison' and value = 'thirds') and run_uuid in"
        " (select run_uuid from tags where key = 'fold' and value = '1')",
    )
    assert logged == [(pytest.approx(expected),)]
    predicted = pd.read_csv(project.root / "experiments/current/predictions.csv")["predicted"].tolist()
    assert len([record for record in records_of(project).values() if record["predicted"] == predicted]) == 1


def test_run_logged_later_has_the_environment_of_its_training(project: Project) -> None:
    earlier = records_of(project)
    for file, record in earlier.items():
        file.write_text(json.dumps(record | {"environment": {"mlflow.source.git.commit": "as it was"}}))
    other = project.root / "other.db"
    project.run(
        *("bilstm-attention", "compare", "experiments/comparisons/two.yaml"),
        extra={"MLFLOW_TRACKING_URI": f"sqlite:///{other}"},
    )
    commits = query(other, "select value from tags where key = 'mlflow.source.git.commit'")
    assert commits == [("as it was",)] * 4
    assert set(records_of(project)) == set(earlier)


def test_two_comparisons_do_not_train_at_once(project: Project) -> None:
    with paths.file_lock(project.root / paths.TRAININGS, UserError("busy")):
        command = ("bilstm-attention", "compare", "experiments/comparisons/two.yaml")
        assert "another `compare` is running" in project.run(*command, check=False)


def test_killed_comparison_ends_its_workers_and_resumes(project: Project) -> None:
    write(project, "long", ("train.epochs: 2", "train.patience: 15, train.epochs: 15"), ("[0, 1]", "[0]"))
    earlier, data = records_of(project), project.root / "experiments/trainings/data"
    command = ["bilstm-attention", "compare", "experiments/comparisons/long.yaml", "--workers", "2"]
    with (project.root / "long.log").open("w") as log:
        killed = subprocess.Popen(command, cwd=project.root, env=project.environment(), stdout=log, stderr=log)
    wait_until(lambda: len(list(data.glob("*/checkpoints/*.npz"))) == 2)
    workers = subprocess.run(
        ["pgrep", "-P", str(killed.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    killed.kill()
    killed.wait()
    wait_until(lambda: not any(Path("/proc", worker).exists() for worker in workers))
    compare(project, "long")
    records = [record for file, record in records_of(project).items() if file not in earlier]
    assert [len(record["history"]) for record in records] == [15, 15]
    assert not list(data.glob("*/checkpoints/*"))


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
