"""The command `compare` on the sample corpus: pages, runs, shared trainings, folds, the test set, and kills."""

import json
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
from tests.project import SMALL, Project
from tests.unit.search.test_comparison import COMPARISON

from bilstm_attention import paths
from bilstm_attention.errors import UserError
from bilstm_attention.search.compare import compare as run_comparison

# The variant `mean`.
MEAN = (
    "train.epochs=2",
    "train.learning_rate=0.03",
    "model.lstm_units=4",
    "embeddings.epochs=1",
    "model.attention.kind=mean",
)
# leaves out the other variant
ONE = ("      two hops: {set: {model.attention.kind: structured, model.attention.hops: 2}}\n", "")


def compare(project: Project, name: str) -> None:
    project.run("bilstm-attention", "compare", f"experiments/comparisons/{name}.yaml", "--workers", "2")


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
    return pd.read_csv(project.root / f"experiments/results/{name}.csv").set_index(["table", "variant"])


def pipeline_metrics(project: Project, *overrides: str) -> dict[str, Any]:
    """What the pipeline says of these parameters."""
    project.run("bilstm-attention", "apply", "experiments/configs/sample.yaml")
    project.apply(*MEAN, *overrides)
    project.run("dvc", "repro", "evaluate")
    return dict(json.loads(project.read("experiments/current/scores.json")))


def runs_of(store: Path) -> list[tuple[str, str]]:
    """Name and status of the runs of tables."""
    with sqlite3.connect(store) as connection:
        of_tables = "select name, status from runs join tags using (run_uuid) where tags.key = 'comparison'"
        return sorted(connection.execute(of_tables).fetchall())


def test_page_has_the_dev_scores_of_the_trainings(project: Project) -> None:
    rows, records = results_of(project, "two"), records_of(project)
    assert len(records) == 4
    assert list(rows.index) == [("kinds", "mean"), ("kinds", "two hops")]
    assert {*rows[["seed_0", "seed_1"]].to_numpy().ravel()} == {
        round(record["dev"]["official_f1"], 4) for record in records.values()
    }
    rows = rows.loc["kinds"]
    assert (rows.loc["mean", "weights_added"], rows["p"].isna().tolist()) == (0, [True, False])
    # W1 (4, 100) and W2 (100, 2), and a second state of 4 for each of 19 classes
    assert rows.loc["two hops", "weights_added"] == 4 * 100 + 100 * 2 + 4 * 19
    page = project.read("experiments/results/two.md").decode()
    assert page.startswith("# Of two\n\n```sh\nbilstm-attention compare experiments/comparisons/two.yaml --workers 2\n")
    assert "![official_f1](two-kinds.png)" in page
    assert "Incomplete" not in page
    assert project.read("experiments/results/two-kinds.png").startswith(b"\x89PNG")


def test_every_training_of_a_table_is_a_run_and_sync_logs_it(project: Project) -> None:
    expected = sorted((f"{name} seed={seed}", "FINISHED") for name in ("mean", "two hops") for seed in (0, 1))
    assert runs_of(project.root / "experiments/mlflow.db") == expected
    other = project.root / "other.db"
    project.run("bilstm-attention", "sync", extra={"MLFLOW_TRACKING_URI": f"sqlite:///{other}"})
    assert runs_of(other) == expected


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
    assert len(runs_of(project.root / "experiments/mlflow.db")) == 4
    assert list((project.root / "experiments/trainings").glob("checkpoints/*")) == []


def test_killed_comparison_goes_on_to_the_test_scores_of_the_pipeline(project: Project) -> None:
    # the first variant has data of its own: the context of the entities alone
    own = ("kind: mean}", "kind: mean, data.tokens.context: 2}")
    write(project, "final", ("seeds:", "test: true\n    seeds:"), own, ("[faithfulness]", "[classes]"), ONE)
    earlier, checkpoints = records_of(project), project.root / "experiments/trainings/checkpoints"
    command = ["bilstm-attention", "compare", "experiments/comparisons/final.yaml", "--workers", "2"]
    with (project.root / "final.log").open("w") as log:
        killed = subprocess.Popen(command, cwd=project.root, env=project.environment(), stdout=log, stderr=log)
    while not list(checkpoints.glob("*.npz")):
        assert killed.poll() is None
        time.sleep(0.1)
    killed.kill()
    killed.wait()
    compare(project, "final")
    records = [record for file, record in records_of(project).items() if file not in earlier]
    assert [len(record["history"]) for record in records] == [2, 2]
    assert not list(checkpoints.glob("*"))
    row = results_of(project, "final").loc[("kinds", "mean")]
    assert row["test_mean"] > 10  # or equal scores would say nothing
    metrics = pipeline_metrics(project, "data.tokens.context=2", "train.seeds=[0,1]", "evaluate.bootstrap=1000")
    for column, expected in {
        "mean": metrics["dev"]["official_f1"]["mean"],
        "test_mean": metrics["test"]["official_f1"]["mean"],
        "test_low": metrics["test"]["official_f1"]["low"],
        "test_ensemble": metrics["ensemble"]["official_f1"],
    }.items():
        assert row[column] == pytest.approx(expected, abs=1e-4), column
    page = (project.root / "experiments/results/final.md").read_text()
    assert f"{row['test_low']:.2f}–{row['test_high']:.2f}" in page
    assert "| Cause-Effect " in page


def test_folds_without_a_test_file_are_those_of_the_pipeline(project: Project) -> None:
    write(project, "thirds", ONE, ("[0, 1]", "[0]\n    folds: 2"), ("{train.epochs", "{data.test: null, train.epochs"))
    compare(project, "thirds")
    expected = pipeline_metrics(project, "data.test=null", "data.folds=2", "data.fold=1")["test"]["official_f1"]["mean"]
    assert expected > 10
    runs = json.loads(project.read("experiments/trainings/runs/thirds.kinds.json"))["sample"]
    assert runs[1]["tags"]["fold"] == "1"
    assert runs[1]["metrics"]["test/official_f1"] == pytest.approx(expected)
    predicted = pd.read_csv(project.root / "experiments/current/predictions.csv")["predicted"].tolist()
    assert len([record for record in records_of(project).values() if record["predicted"] == predicted]) == 1


def test_two_comparisons_do_not_train_at_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    with paths.file_lock(paths.TRAININGS, UserError("busy")), pytest.raises(UserError, match="another `compare` is"):
        run_comparison(Path("experiments/comparisons/two.yaml"), 1, prepare=Mock())
