"""The pipeline as its users run it: dvc repro, dvc exp run, diffs, kills, and the runs that MLflow then holds."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from bilstm_attention.evaluation.semeval import evaluate_official, read_answers
from tests.browser import headless_browser, looked_at
from tests.project import Project
from tests.servers import free_port, wait_until_it_answers


def runs_of(project: Project) -> list:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project.root}/experiments/mlflow.db")
    experiments = [
        experiment.experiment_id for experiment in client.search_experiments() if experiment.name != "Default"
    ]
    return client.search_runs(experiments)


@contextmanager
def changed(project: Project, *overrides: str) -> Iterator[None]:
    """Parameters changed and, at the end, everything put back as it was committed."""
    project.apply(*overrides)
    try:
        yield
    finally:
        project.run("git", "checkout", "-q", "--", ".")
        project.run("dvc", "checkout", "--force")


def test_repro_ends_with_scores_and_a_second_one_does_nothing(first_repro: tuple[Project, str]) -> None:
    project, printed = first_repro
    assert "official_f1" in printed
    assert "tfidf_logistic" in printed
    start = time.monotonic()
    assert "up to date" in project.run("dvc", "repro")
    assert time.monotonic() - start < 30
    assert project.run("git", "status", "--porcelain") == ""


def test_nothing_but_its_own_lines_reaches_the_terminal(first_repro: tuple[Project, str]) -> None:
    _, printed = first_repro
    chatter = ("cuda", "oneDNN", "absl", "retracing", "UserWarning", "DeprecationWarning", "alembic", "INFO mlflow")
    assert [line for line in printed.splitlines() if any(word in line for word in chatter)] == []


def test_a_forced_rerun_and_another_clone_write_the_same_bytes(
    first_repro: tuple[Project, str], new_project: Callable[[], Project]
) -> None:
    project, _ = first_repro
    before = project.outputs()
    assert len(before) > 20
    other = new_project()
    other.run("dvc", "repro")
    project.run("dvc", "repro", "--force")
    for again in (project, other):
        differing = [name for name, content in again.outputs().items() if before.get(name) != content]
        assert differing == []
        assert again.outputs().keys() == before.keys()
    assert project.run("git", "status", "--porcelain") == ""
    assert other.read("dvc.lock") == project.read("dvc.lock")


def test_only_the_stages_that_depend_on_a_parameter_run_again(first_repro: tuple[Project, str]) -> None:
    project, _ = first_repro
    expected = {
        "evaluate.bootstrap=101": {"evaluate"},
        "train.learning_rate=0.002": {"train@0", "evaluate"},
        "embeddings.window=3": {"embed", "train@0", "evaluate"},
        "data.split_seed=9": {"prepare", "embed", "train@0", "evaluate"},
        "train.seeds=[0,7]": {"train@7", "evaluate"},
    }
    for override, stages in expected.items():
        with changed(project, override):
            printed = project.run("dvc", "repro", "--dry")
        run = {line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")}
        # a dry run cannot know that a stage's new outputs differ, so what follows it may be left out
        assert run <= stages, override
        assert next(iter(stages - {"evaluate"} or stages)) in run or run & stages, override


def test_dvc_tells_what_a_change_of_parameter_changed(first_repro: tuple[Project, str]) -> None:
    project, _ = first_repro
    with changed(project, "train.learning_rate=0.02"):
        printed = project.run("dvc", "repro")
        assert "Stage 'embed' didn't change, skipping" in printed
        assert "train.learning_rate" in project.run("dvc", "params", "diff")
        assert "test.official_f1.mean" in project.run("dvc", "metrics", "diff")
        project.run("dvc", "plots", "diff", "--out", "dvc_plots")
        page = (project.root / "dvc_plots" / "index.html").read_text()
        for plot in ("loss_by_epoch", "dev_accuracy_by_epoch", "confusion_on_test"):
            assert f"vegaEmbed('#{plot}" in page


def test_the_answers_file_scores_the_same_by_the_official_scorer(first_repro: tuple[Project, str]) -> None:
    project, _ = first_repro
    answers = project.root / "experiments/current/answers"
    metrics = json.loads(project.read("experiments/current/metrics.json"))
    score = evaluate_official(read_answers(answers / "gold.txt"), read_answers(answers / "seed_0.txt")).score
    assert score == pytest.approx(metrics["test"]["official_f1"]["by_seed"]["0"], abs=1e-9)
    printed = project.run("bilstm-attention", "score", str(answers / "gold.txt"), str(answers / "predicted.txt"))
    assert printed.strip().endswith(f"{metrics['ensemble']['official_f1']:.2f}")


def test_test_metrics_join_the_run_of_the_training(first_repro: tuple[Project, str]) -> None:
    project, _ = first_repro
    metrics = json.loads(project.read("experiments/current/metrics.json"))
    found = [run for run in runs_of(project) if run.info.run_name == "zhou u=8 seed=0"]
    run = found[-1]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test_official_f1"] == pytest.approx(metrics["test"]["official_f1"]["mean"])
    assert run.data.metrics["best_dev_official_f1"] == pytest.approx(metrics["dev"]["official_f1"]["mean"])
    assert run.data.params["train.epochs"] == "3"
    assert not (project.root / "mlruns").exists()


def test_experiments_of_dvc_keep_their_runs(first_repro: tuple[Project, str]) -> None:
    project, _ = first_repro
    before = {run.info.run_id for run in runs_of(project)}
    project.run("dvc", "exp", "run", "--temp", "--set-param", "model.lstm_units=5")
    new = [run for run in runs_of(project) if run.info.run_id not in before]
    assert [run.info.run_name for run in new] == ["zhou u=5 seed=0"]
    assert "test_official_f1" in new[0].data.metrics
    project.run("dvc", "exp", "run", "--set-param", "model.lstm_units=6")
    assert {run.info.run_name for run in runs_of(project)} >= {"zhou u=5 seed=0", "zhou u=6 seed=0"}
    assert "# U, per direction" in project.read("params.yaml").decode()
    project.run("git", "checkout", "-q", "--", ".")
    project.run("dvc", "checkout", "--force")


def test_several_seeds_get_a_parent_run_and_an_ensemble(first_repro: tuple[Project, str]) -> None:
    project, _ = first_repro
    with changed(project, "train.seeds=[0,1,2]"), ThreadPoolExecutor() as both:
        project.run("dvc", "repro", "embed")
        alone = both.map(lambda seed: project.run("dvc", "repro", "-s", f"train@{seed}"), (1, 2))
        assert all(f"Running stage 'train@{seed}'" in printed for seed, printed in zip((1, 2), alone, strict=True))
        project.apply("train.seeds=[0,1]")
        printed = project.run("dvc", "repro")
        assert all(f"Stage 'train@{seed}' didn't change, skipping" in printed for seed in (0, 1))
        metrics = json.loads(project.read("experiments/current/metrics.json"))
        parent = next(run for run in runs_of(project) if run.info.run_name == "zhou u=8 seeds=0,1")
        children = [run for run in runs_of(project) if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        assert {child.info.run_name for child in children} == {"zhou u=8 seed=0", "zhou u=8 seed=1"}
        assert parent.data.metrics["test_official_f1_mean"] == pytest.approx(metrics["test"]["official_f1"]["mean"])
        assert set(metrics["test"]["official_f1"]["by_seed"]) == {"0", "1"}
        project.apply("train.seeds=[0]")
        project.run("dvc", "repro")
        assert [folder.name for folder in (project.root / "experiments/current/models").glob("seed-*")] == ["seed-0"]


def test_a_killed_training_resumes_and_ends_as_an_unbroken_one(
    first_repro: tuple[Project, str], tmp_path: Path
) -> None:
    first, _ = first_repro
    unbroken, broken = (Project(tmp_path / name) for name in ("unbroken", "broken"))
    for project in (unbroken, broken):
        shutil.copytree(first.root, project.root, ignore=shutil.ignore_patterns("mlflow.db", "mlartifacts"))
        project.apply("train.epochs=8", "model.lstm_units=24", "train.ema=0.9", "train.schedule.kind=cosine")
        shutil.rmtree(project.root / "experiments/current/models")
    unbroken.run("dvc", "repro", "train@0")

    command = ["bilstm-attention", "train", "--seed", "0"]
    process = subprocess.Popen(
        command, cwd=broken.root, env=broken.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch 3/8" in line:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (broken.root / "experiments/current/models/seed-0/model.keras").exists()

    printed = broken.run("dvc", "repro", "train@0")
    assert "epoch 2/8" not in printed
    assert "epoch 8/8" in printed
    for name in ("model.keras", "history.csv", "dev.json"):
        path = f"experiments/current/models/seed-0/{name}"
        assert broken.read(path) == unbroken.read(path)
    assert list((broken.root / "experiments/checkpoints").iterdir()) == []
    assert [run.info.status for run in runs_of(broken)] == ["FINISHED"]


@contextmanager
def mlflow_ui(project: Project, log: Path) -> Iterator[str]:
    port = free_port()
    command = ["bilstm-attention", "ui", "--port", str(port)]
    with log.open("w") as file:
        server = subprocess.Popen(command, cwd=project.root, env=project.environment(), stdout=file, stderr=file)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_it_answers(f"{address}/health", server, log)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def test_the_mlflow_ui_shows_runs_parameters_curves_and_artifacts(
    first_repro: tuple[Project, str], tmp_path: Path
) -> None:
    project, _ = first_repro
    run = next(run for run in runs_of(project) if run.info.run_name == "zhou u=8 seed=0")
    experiment = f"experiments/{run.info.experiment_id}"
    with mlflow_ui(project, tmp_path / "log") as address, headless_browser() as browser:
        page, where = browser.new_page(), f"{address}/#/{experiment}/runs/{run.info.run_id}"
        for number, (there, shown) in enumerate(
            (
                (f"{address}/#/{experiment}/runs?workflowType=machine_learning", ["zhou u=8 seed=0"]),
                (where, ["model.attention.kind", "best_dev_official_f1", "test_official_f1"]),
                (f"{where}/model-metrics", ["dev_loss"]),
                (f"{where}/artifacts", ["predictions.csv", "metrics.json", "plots", "answers"]),
            )
        ):
            page.goto(there)
            looked_at(page, tmp_path / f"{number}.png", *shown)
