"""One real run of the pipeline by its commands: repro, kill, champion, answers, pages, sweep.

The tests share one project and run in the order of this file: each goes on from the state that those before it left, so
that the pipeline is run once and not ten times. Run the whole file, not single tests.
"""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from bilstm_attention.evaluation.semeval import evaluate_official, read_answers
from tests.project import Project, copy_project

CURRENT = "experiments/current"
SENTENCE = "The <e1>wheel</e1> of the <e2>car</e2> broke."
CHATTER = ("cuda", "oneDNN", "absl", "retracing", "UserWarning", "DeprecationWarning", "alembic", "INFO mlflow")
SWEEP = """
study: units
sampler: {kind: random, seed: 0}
pruner: {kind: none}
confirm: {top: 1, seeds: 2}
fixed: {train.epochs: 2}
space: {model.lstm_units: {low: 4, high: 40}}
"""


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A project of two seeds after its first `dvc repro`, committed, and what that printed."""
    project = copy_project(tmp_path_factory.mktemp("project"))
    project.apply("train.seeds=[0,1]")
    printed = project.run("dvc", "repro")
    project.commit("reproduced")
    return project, printed


@pytest.fixture(scope="module")
def project(first):
    return first[0]


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


def chatter(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if any(word in line for word in CHATTER)]


def test_repro_ends_with_scores_and_without_chatter(first):
    _, printed = first
    assert "official_f1" in printed
    assert "tfidf_logistic" in printed
    assert chatter(printed) == []


def test_second_repro_does_nothing(project):
    assert "up to date" in project.run("dvc", "repro")
    assert project.run("git", "status", "--porcelain") == ""


def test_answers_files_score_as_metrics_say(project):
    answers, scores = project.root / CURRENT / "answers", scores_of(project)
    score = evaluate_official(read_answers(answers / "gold.txt"), read_answers(answers / "seed_1.txt")).score
    assert score == pytest.approx(scores["test"]["official_f1"]["by_seed"]["1"], abs=1e-9)
    printed = project.run("bilstm-attention", "score", str(answers / "gold.txt"), str(answers / "predicted.txt"))
    assert printed.strip().endswith(f"{scores['ensemble']['official_f1']:.2f}")


def test_mlflow_has_a_parent_of_the_seeds(project):
    scores, runs = scores_of(project), runs_of(project)
    (parent,) = (run for run in runs if run.info.run_name.startswith("seeds=0,1 "))
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {run.info.run_name.partition(" ")[0] for run in children} == {"seed=0", "seed=1"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.params["train.epochs"] for run in children} == {"3"}
    by_seed = sorted(scores["test"]["official_f1"]["by_seed"].values())
    assert sorted(run.data.metrics["test/official_f1"] for run in children) == pytest.approx(by_seed)
    assert parent.data.metrics["test/official_f1"] == pytest.approx(scores["test"]["official_f1"]["mean"])


def test_killed_training_resumes_and_ends_with_the_same_bytes(project):
    before = project.outputs()
    for folder in ("models", "live"):
        shutil.rmtree(project.root / CURRENT / folder / "seed-0")
    command = ("bilstm-attention", "train", "--seed", "0")
    killed_at(project, "epoch 1/3", *command)
    assert not (project.root / CURRENT / "models/seed-0").exists()
    printed = project.run(*command)
    assert "seed 0 resumes after epoch" in printed
    assert "epoch 1/3" not in printed
    assert "epoch 3/3" in printed
    assert project.outputs() == before
    assert not list((project.root / "experiments/checkpoints").iterdir())
    assert {run.info.status for run in runs_of(project)} == {"FINISHED"}


def test_champion_answers_as_evaluate_did(project, monkeypatch):
    import mlflow

    assert "champion" in project.run("bilstm-attention", "promote")
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


def test_model_answers_with_a_warning_after_an_edit_of_source(project):
    source = project.root / "src/bilstm_attention/model/attention.py"
    text = source.read_text()
    source.write_text(f"{text}# a comment\n")
    try:
        printed = project.run("bilstm-attention", "predict", SENTENCE)
        assert "warning" in printed
        assert any(label in printed for label in json.loads(project.read("data/prepared/labels.json")))
    finally:
        source.write_text(text)


def test_model_of_other_labels_does_not_answer(project):
    labels = project.root / "data/prepared/labels.json"
    content = labels.read_bytes()
    labels.write_text(json.dumps(json.loads(content)[::-1]))
    try:
        refused = project.run("bilstm-attention", "predict", SENTENCE, check=False)
    finally:
        labels.write_bytes(content)
    assert "trained on other labels or words than data/prepared holds now; `dvc repro` trains on these." in refused


def test_explain_writes_the_page_of_a_split_and_of_texts(project, tmp_path):
    page = tmp_path / "page.html"
    command = ("bilstm-attention", "explain", "--output", str(page))
    printed = project.run(*command, "--split", "dev", "--limit", "7")
    counts = re.search(rf"explain {page}: sentences 7  right (\d+)  wrong (\d+)\n", printed)
    assert counts
    text = page.read_text(encoding="utf-8")
    assert text.count("<li ") == 7
    assert "dev: 7 sentences, {} right, {} wrong.".format(*counts.groups()) in text
    printed = project.run(*command, "--text", SENTENCE, "--seed", "1")
    assert "the <e1> wheel </e1> of the <e2> car </e2> broke ." in printed
    assert "<h1>seed 1</h1>" in page.read_text(encoding="utf-8")


def test_killed_sweep_keeps_its_trials_and_meets_its_budget(project):
    (project.root / "experiments/sweeps/units.yaml").write_text(SWEEP)
    command = ("bilstm-attention", "sweep", "experiments/sweeps/units.yaml", "--trials", "3", "--heartbeat", "1")
    # the first line may be of two trials, which ended at once
    killed_at(project, " complete ", *command)
    printed = project.run(*command)
    assert "3/3" in printed
    assert "1/3" not in printed
    assert chatter(printed) == []
    folder = project.root / "experiments/studies/units"
    board = pd.read_csv(folder / "leaderboard.csv")
    assert len(board) == 3
    assert board["trial"].is_unique
    pictures = re.findall(r"^!\[.*\]\((.+)\)$", (folder / "report.md").read_text(), re.MULTILINE)
    assert pictures
    assert all((folder / picture).is_file() for picture in pictures)
    assert "3 complete" in project.run("bilstm-attention", "sweeps")
    runs = runs_of(project, "tags.sweep = 'units'")
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert sum(run.data.tags.get("mlflow.parentRunId") == parent.info.run_id for run in runs) >= 3


def test_sweep_refuses_data_of_other_params(project):
    project.apply("data.split_seed=9")
    refused = project.run("bilstm-attention", "sweep", "experiments/sweeps/units.yaml", check=False)
    project.run("git", "checkout", "-q", "--", "params.yaml")
    assert "prepare: changed since it was prepared; `dvc repro embed` first" in refused


def test_best_trial_applied_gives_the_same_scores(project):
    best = project.root / "experiments/studies/units/best.yaml"
    board = pd.read_csv(best.parent / "leaderboard.csv").set_index("trial")
    trial = board.loc[board["confirmed_mean"].idxmax()]
    fresh = YAML(typ="safe").load(best)["train"]["seeds"]
    assert len({*fresh, trial["seed"], 0, 1}) == 5
    project.run("bilstm-attention", "apply", str(best))
    project.apply("embeddings.epochs=1", "evaluate.bootstrap=100", f"train.seeds={[*fresh, int(trial['seed'])]}")
    project.run("dvc", "repro", "evaluate")
    dev = scores_of(project)["dev"]["official_f1"]["by_seed"]
    assert dev[f"{trial['seed']:.0f}"] == trial["score"]
    assert np.mean([dev[str(seed)] for seed in fresh]) == trial["confirmed_mean"]


def test_dvc_shows_what_changed(project):
    assert "model.lstm_units" in project.run("dvc", "params", "diff")
    assert "test.official_f1" in project.run("dvc", "metrics", "diff")
    columns = project.run("dvc", "exp", "show", "--csv").partition("\n")[0].split(",")
    assert columns[columns.index("parent") + 1] == "dev.official_f1"
    project.run("dvc", "plots", "diff", "--out", "dvc_plots")
    page = Path(project.root / "dvc_plots/index.html").read_text()
    for plot in ("loss_by_epoch", "monitored_dev_score_by_epoch", "confusion_on_test"):
        assert f"vegaEmbed('#{plot}" in page
