"""One real run of the pipeline by its commands: repro, kill, comparison, sweep, champion, answers.

The tests share one project and run in the order of this file: each goes on from the state that those before it left, so
that the pipeline is run once and not ten times. Run the whole file, not single tests.
"""

import csv
import json
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bilstm_attention.evaluation.semeval import evaluate_official, read_answers
from tests.project import Project

CURRENT = "experiments/current"
SENTENCE = "The <e1>wheel</e1> of the <e2>car</e2> broke."
CHATTER = ("cuda", "oneDNN", "absl", "retracing", "UserWarning", "DeprecationWarning", "alembic", "INFO mlflow")
COMPARISON = """
about: Two poolings
base: experiments/configs/sample.yaml
overrides: {train.epochs: 2, train.learning_rate: 0.03, model.lstm_units: 4, embeddings.epochs: 1}
tables:
  poolings:
    about: Dev scores
    seeds: [0, 1]
    reference: mean
    variants:
      mean: {set: {model.attention.kind: mean}}
      max: {set: {model.attention.kind: max}}
"""
SWEEP = """
study: units
sampler: {kind: random, seed: 0}
pruner: {kind: none}
confirm: {top: 1, seeds: 2}
fixed: {train.epochs: 2}
space: {model.lstm_units: {low: 4, high: 40}}
"""


@dataclass
class Reproduced:
    project: Project
    printed: str


@pytest.fixture(scope="module")
def first(new_project: Callable[[], Project]) -> Reproduced:
    """A project of two seeds after its first `dvc repro`, committed, and what that printed."""
    project = new_project()
    project.apply("train.seeds=[0,1]")
    printed = project.run("dvc", "repro")
    project.commit("reproduced")
    return Reproduced(project, printed)


@pytest.fixture(scope="module")
def project(first: Reproduced) -> Project:
    return first.project


def scores_of(project: Project) -> dict[str, Any]:
    return json.loads(project.read(f"{CURRENT}/scores.json"))


def runs_of(project: Project, condition: str = "") -> list[Any]:
    """Runs of the project's MLflow store."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project.root}/experiments/mlflow.db")
    return client.search_runs([each.experiment_id for each in client.search_experiments()], condition)


def killed_at(project: Project, text: str, *command: str) -> None:
    """Runs a command and kills it and its workers once it prints `text`."""
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(
        command, cwd=project.root, env=project.environment(), start_new_session=True, **options
    ) as process:
        printed = []
        for line in process.stdout or ():
            printed.append(line)
            if text in line:
                break
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "".join(printed)


def test_repro_ends_with_scores_and_without_chatter(first: Reproduced) -> None:
    assert "official_f1" in first.printed
    assert "tfidf_logistic" in first.printed
    assert [line for line in first.printed.splitlines() if any(word in line for word in CHATTER)] == []


def test_second_repro_does_nothing(project: Project) -> None:
    assert "up to date" in project.run("dvc", "repro")
    assert project.run("git", "status", "--porcelain") == ""


def test_answers_files_score_as_metrics_say(project: Project) -> None:
    answers, scores = project.root / CURRENT / "answers", scores_of(project)
    score = evaluate_official(read_answers(answers / "gold.txt"), read_answers(answers / "seed_1.txt")).score
    assert score == pytest.approx(scores["test"]["official_f1"]["by_seed"]["1"], abs=1e-9)
    printed = project.run("bilstm-attention", "score", str(answers / "gold.txt"), str(answers / "predicted.txt"))
    assert printed.strip().endswith(f"{scores['ensemble']['official_f1']:.2f}")


def test_mlflow_has_a_parent_of_the_seeds(project: Project) -> None:
    scores, runs = scores_of(project), runs_of(project)
    (parent,) = (run for run in runs if run.info.run_name == "zhou u=8 seeds=0,1")
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {run.info.run_name for run in children} == {"zhou u=8 seed=0", "zhou u=8 seed=1"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.params["train.epochs"] for run in children} == {"3"}
    by_seed = sorted(scores["test"]["official_f1"]["by_seed"].values())
    assert sorted(run.data.metrics["test_official_f1"] for run in children) == pytest.approx(by_seed)
    assert parent.data.metrics["test_official_f1_mean"] == pytest.approx(scores["test"]["official_f1"]["mean"])


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("evaluate.bootstrap=101", {"evaluate", "report"}),
        ("train.learning_rate=0.002", {"train@0", "train@1"}),
        ("embeddings.window=3", {"embed"}),
        ("data.split_seed=9", {"prepare"}),
        ("train.seeds=[0,1,7]", {"train@7", "evaluate", "report"}),
    ],
)
def test_change_of_parameter_reruns_its_stages_alone(project: Project, override: str, stages: set[str]) -> None:
    project.apply(override)
    changed = json.loads(project.run("dvc", "status", "--json"))
    project.run("git", "checkout", "-q", "--", "params.yaml")
    assert {stage for stage, reasons in changed.items() if "params.yaml" in str(reasons)} == stages


def test_killed_training_resumes_and_ends_with_the_same_bytes(project: Project) -> None:
    folder = f"{CURRENT}/models/seed-0"
    before = {file.name: file.read_bytes() for file in (project.root / folder).iterdir()}
    for file in (project.root / folder).iterdir():
        file.unlink()
    command = ("bilstm-attention", "train", "--seed", "0")
    killed_at(project, "epoch 1/3", *command)
    assert not (project.root / folder / "model.keras").exists()
    printed = project.run(*command)
    assert "seed 0 resumes after epoch" in printed
    assert "epoch 1/3" not in printed
    assert "epoch 3/3" in printed
    assert {file.name: file.read_bytes() for file in (project.root / folder).iterdir()} == before
    assert not list((project.root / "experiments/checkpoints").iterdir())
    assert {run.info.status for run in runs_of(project)} == {"FINISHED"}


def test_champion_answers_as_evaluate_did(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    assert "champion" in project.run("bilstm-attention", "promote", "best")
    mlflow.set_tracking_uri(f"sqlite:///{project.root}/experiments/mlflow.db")
    lines = (project.root / "data/sample/test.txt").read_text().splitlines()
    texts = pd.DataFrame({"text": [line.partition("\t")[2].strip('"') for line in lines if "\t" in line]})
    served = mlflow.pyfunc.load_model("models:/sample@champion").predict(texts)
    dev = scores_of(project)["dev"]["official_f1"]["by_seed"]
    best = max(dev, key=dev.__getitem__)
    evaluated = pd.read_csv(project.root / CURRENT / "predictions.csv")
    assert pd.DataFrame(served)["label"].tolist() == evaluated[f"seed_{best}"].tolist()

    texts.head(5).to_csv(project.root / "in.csv", index=False)
    project.run("bilstm-attention", "predict", "--input", "in.csv", "--output", "out.csv")
    answers = pd.read_csv(project.root / "out.csv")
    assert answers["label"].tolist() == evaluated[f"seed_{best}"].tolist()[:5]


def test_model_answers_with_a_warning_after_an_edit_of_source(project: Project) -> None:
    source = project.root / "src/bilstm_attention/model/attention.py"
    text = source.read_text()
    source.write_text(f"{text}# a comment\n")
    try:
        printed = project.run("bilstm-attention", "predict", SENTENCE)
        assert "warning" in printed
        assert any(label in printed for label in json.loads(project.read("data/prepared/labels.json")))
        project.run("bilstm-attention", "explain", "--split", "dev", "--limit", "7", "--output", "page.html")
        assert (project.root / "page.html").read_text(encoding="utf-8").count("<li ") == 7
    finally:
        source.write_text(text)


def test_comparison_trains_once_and_reports_its_scores(project: Project) -> None:
    (project.root / "experiments/comparisons/poolings.yaml").write_text(COMPARISON)
    command = ("bilstm-attention", "compare", "experiments/comparisons/poolings.yaml", "--workers", "2")
    project.run(*command)
    results, trainings = (project.root / "experiments" / name for name in ("results", "trainings"))
    records = {file: file.stat().st_mtime_ns for file in trainings.glob("*.json")}
    dev = [json.loads(file.read_text())["dev"]["official_f1"] for file in records]
    with (results / "poolings.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = [float(row[f"seed_{seed}"]) for row in rows for seed in (0, 1)]
    assert [row["variant"] for row in rows] == ["mean", "max"]
    assert sorted(table) == pytest.approx(sorted(dev), abs=1e-4)
    page = (results / "poolings.md").read_bytes()
    assert b"| `max` " in page
    project.run(*command)
    assert {file: file.stat().st_mtime_ns for file in trainings.glob("*.json")} == records
    assert (results / "poolings.md").read_bytes() == page


def test_killed_sweep_keeps_its_trials_and_meets_its_budget(project: Project) -> None:
    (project.root / "experiments/sweeps/units.yaml").write_text(SWEEP)
    command = ("bilstm-attention", "sweep", "experiments/sweeps/units.yaml", "--trials", "3", "--heartbeat", "1")
    killed_at(project, "1/3", *command)
    printed = project.run(*command)
    assert "3/3" in printed
    assert "1/3" not in printed
    assert [line for line in printed.splitlines() if any(word in line for word in CHATTER)] == []
    board = pd.read_csv(project.root / "experiments/studies/units/leaderboard.csv")
    assert len(board) == 3
    assert board["trial"].is_unique
    runs = runs_of(project, "tags.sweep = 'units'")
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert sum(run.data.tags.get("mlflow.parentRunId") == parent.info.run_id for run in runs) >= 3
    assert "  trial " not in project.run(*command)


def test_best_trial_applied_gives_the_same_score(project: Project) -> None:
    board = pd.read_csv(project.root / "experiments/studies/units/leaderboard.csv")
    project.run(
        *("bilstm-attention", "apply", "experiments/studies/units/best.yaml"),
        *("-S", "embeddings.epochs=1", "-S", "evaluate.bootstrap=100"),
    )
    project.run("dvc", "repro")
    dev = scores_of(project)["dev"]["official_f1"]
    assert dev["mean"] == board["confirmed_mean"].max()
    assert len(dev["by_seed"]) == 2
    assert not set(dev["by_seed"]) & {"0", "1"}


def test_dvc_shows_what_changed(project: Project) -> None:
    assert "model.lstm_units" in project.run("dvc", "params", "diff")
    assert "test.official_f1" in project.run("dvc", "metrics", "diff")
    project.run("dvc", "plots", "diff", "--out", "dvc_plots")
    page = Path(project.root / "dvc_plots/index.html").read_text()
    for plot in ("loss_by_epoch", "dev_accuracy_by_epoch", "confusion_on_test"):
        assert f"vegaEmbed('#{plot}" in page
