"""A sweep on the sample corpus: its winner, applied, gives the promised score; MLflow holds parent and children."""

import json
from collections.abc import Callable

import pandas as pd
import pytest
from tests.project import Project

SWEEP = """
study: two
sampler: {kind: random, seed: 0}
pruner: {kind: none}
confirm: {top: 2, seeds: 2}
fixed: {train.epochs: 2}
space:
  model.lstm_units: {low: 4, high: 8, step: 2}
  model.attention.kind: [zhou, structured]
  model.attention.hops: {low: 1, high: 3, when: {model.attention.kind: structured}}
"""
COMMAND = ("bilstm-attention", "sweep", "experiments/sweeps/two.yaml", "--trials", "4")


@pytest.fixture(scope="module")
def swept(new_project: Callable[[], Project]) -> tuple[Project, str]:
    """A project after a sweep of four trials in two workers, of which the first start ended two."""
    project = new_project()
    project.run("dvc", "repro", "embed")
    (project.root / "experiments/sweeps/two.yaml").write_text(SWEEP)
    first = project.run(*COMMAND[:-1], "2")
    assert "2/2" in first
    return project, project.run(*COMMAND)


def leaderboard(project: Project) -> pd.DataFrame:
    return pd.read_csv(project.root / "experiments/studies/two/leaderboard.csv")


def test_the_second_start_goes_on_and_the_third_has_nothing_to_do(swept: tuple[Project, str]) -> None:
    project, printed = swept
    assert [line.split()[0] for line in printed.splitlines() if "  trial " in line] == ["3/4", "4/4"]
    rows = leaderboard(project)
    assert sorted(rows["trial"]) == [0, 1, 2, 3]
    # what params.yaml has is tried first
    first = rows.set_index("trial").loc[0]
    assert (first["model.lstm_units"], first["model.attention.kind"]) == (8, "zhou")
    again = project.run(*COMMAND)
    assert "  trial " not in again
    assert "trained again" not in again
    assert leaderboard(project).equals(rows)


def test_the_winner_applied_gives_the_promised_score_to_the_last_digit(swept: tuple[Project, str]) -> None:
    project, printed = swept
    assert "bilstm-attention apply experiments/studies/two/best.yaml && dvc repro gives dev official_f1" in printed
    project.run("bilstm-attention", "apply", "experiments/studies/two/best.yaml", "-S", "embeddings.epochs=1")
    project.run("dvc", "repro")
    metrics = json.loads(project.read("experiments/current/metrics.json"))
    best = leaderboard(project).iloc[0]
    assert (
        metrics["dev"]["official_f1"]["mean"] == best["confirmed_mean"] == leaderboard(project)["confirmed_mean"].max()
    )
    assert len(metrics["dev"]["official_f1"]["by_seed"]) == 2
    project.run("git", "checkout", "-q", "--", "params.yaml")


def test_the_report_has_the_numbers_of_the_leaderboard_and_shows_the_figures(swept: tuple[Project, str]) -> None:
    project, _ = swept
    folder = project.root / "experiments/studies/two"
    report, best = (folder / "report.md").read_text(), leaderboard(project).iloc[0]
    assert f"**Trial {best['trial']}: {best['confirmed_mean']:.2f}**, the mean dev official_f1 of 2 fresh" in report
    assert f"In the search it had {best['score']:.2f}" in report
    assert "```sh\nbilstm-attention sweep experiments/sweeps/two.yaml --trials 4\n```" in report
    pictures = [line.partition("](")[2].removesuffix(")") for line in report.splitlines() if line.startswith("![")]
    assert pictures
    assert all((folder / picture).is_file() for picture in pictures)


def test_the_sweep_is_listed(swept: tuple[Project, str]) -> None:
    listed = swept[0].run("bilstm-attention", "sweeps")
    assert "two" in listed
    assert "4 complete" in listed


def test_a_score_is_weighed_against_weights(swept: tuple[Project, str]) -> None:
    project, _ = swept
    text = SWEEP.replace("study: two", "study: weighed\nagainst: parameters").replace("top: 2", "top: 0")
    (project.root / "experiments/sweeps/weighed.yaml").write_text(text)
    project.run("bilstm-attention", "sweep", "experiments/sweeps/weighed.yaml", "--trials", "3")
    folder = project.root / "experiments/studies/weighed"
    board = pd.read_csv(folder / "leaderboard.csv")
    assert len(board) == 3
    assert (board["parameters"] > 0).all()
    # nothing is both better and smaller than what is on the front
    for row in board[board["on_front"]].itertuples():
        better = (board["score"] >= row.score) & (board["parameters"] <= row.parameters)
        more = (board["score"] > row.score) | (board["parameters"] < row.parameters)
        assert not (better & more).any()
    front = {f"trial-{number:04d}.yaml" for number in board[board["on_front"]]["trial"]}
    assert {path.name for path in (folder / "front").iterdir()} == front
    assert "against parameters" in (folder / "report.md").read_text()


def test_mlflow_has_a_run_of_the_sweep_with_a_child_for_every_trial(swept: tuple[Project, str]) -> None:
    from mlflow import MlflowClient

    project, _ = swept
    client = MlflowClient(f"sqlite:///{project.root}/experiments/mlflow.db")
    (experiment,) = (each for each in client.search_experiments() if each.name == "sample")
    runs = client.search_runs([experiment.experiment_id], "tags.sweep = 'two'")
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    children = [run for run in runs if run is not parent]
    assert len(children) == 4
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["state"] for run in children} == {"complete"}
    assert parent.data.metrics["trials"] == 4
    assert [len(client.get_metric_history(run.info.run_id, "dev_official_f1")) for run in children] == [2] * 4
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    answers = {name for name in files if name.startswith("dev_predictions-")}
    assert answers
    assert files - answers == {"leaderboard.csv", "best.yaml", "report.md", "sweep.yaml", "figures"}
    figures = {file.path for file in client.list_artifacts(parent.info.run_id, "figures")}
    assert "figures/history.png" in figures


def test_stale_data_another_space_and_an_illegal_one_are_refused(swept: tuple[Project, str]) -> None:
    project, _ = swept
    project.apply("data.split_seed=3")
    assert "prepare: changed since it was prepared; `dvc repro embed` first" in project.run(*COMMAND, check=False)
    project.apply("data.split_seed=0")
    assert "begun with another params" in project.run(*COMMAND, "-S", "train.batch_size=16", check=False)
    assert "received 0" in project.run(*COMMAND, "-S", "train.batch_size=0", check=False)


def test_the_model_of_the_winner_is_registered_and_comparable(swept: tuple[Project, str]) -> None:
    from mlflow import MlflowClient

    project, _ = swept
    client = MlflowClient(f"sqlite:///{project.root}/experiments/mlflow.db")
    versions = [
        version for version in client.search_model_versions("name = 'sample'") if version.tags["run"] == "sweep two"
    ]
    best = leaderboard(project).iloc[0]
    version = max(versions, key=lambda version: int(version.version))
    assert float(version.tags["dev"]) == best["confirmed_mean"]
    said = project.run("bilstm-attention", "promote", version.run_id)
    assert f"sweep two, run {version.run_id}: dev official_f1 {best['confirmed_mean']:.2f}" in said
    # the model of its best seed answers dev as it did when it was confirmed
    dev = pd.read_csv(client.download_artifacts(version.run_id, version.tags["answers"], str(project.root)))
    (kept,) = (project.root / "experiments/studies/two/models").iterdir()
    seed = kept.stem.rpartition("-")[2]
    assert kept.name == f"trial-{best['trial']:04d}-seed-{seed}.keras"
    texts = pd.read_parquet(project.root / "data/prepared/dev.parquet", columns=["tokens"])["tokens"].map(" ".join)
    pd.DataFrame({"text": texts}).to_csv(project.root / "dev.csv", index=False)
    command = ["bilstm-attention", "predict", "--input", "dev.csv", "--output", "answered.csv"]
    project.run(*command, "--model", "models:/sample@champion")
    answered = pd.read_csv(project.root / "answered.csv")
    assert answered["label"].tolist() == dev[f"seed_{seed}"].tolist()
