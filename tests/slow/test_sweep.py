"""A sweep on the sample corpus: goes on, is reported, listed and logged; two objectives; refusals."""

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
    """A project after a sweep of four trials in two workers, of which the first start finished two."""
    project = new_project()
    project.run("dvc", "repro", "embed")
    (project.root / "experiments/sweeps/two.yaml").write_text(SWEEP)
    assert "2/2" in project.run(*COMMAND[:-1], "2")
    return project, project.run(*COMMAND)


def leaderboard(project: Project) -> pd.DataFrame:
    return pd.read_csv(project.root / "experiments/studies/two/leaderboard.csv")


def test_second_start_goes_on_and_third_trains_nothing(swept: tuple[Project, str]) -> None:
    project, printed = swept
    assert [line.split()[0] for line in printed.splitlines() if "  trial " in line] == ["3/4", "4/4"]
    rows = leaderboard(project)
    assert sorted(rows["trial"]) == [0, 1, 2, 3]
    # what params.yaml has is tried first
    first = rows.set_index("trial").loc[0]
    assert (first["model.lstm_units"], first["model.attention.kind"]) == (8, "zhou")
    assert "  trial " not in project.run(*COMMAND)
    assert leaderboard(project).equals(rows)


def test_report_shows_the_leaderboard_and_figures(swept: tuple[Project, str]) -> None:
    project, _ = swept
    folder = project.root / "experiments/studies/two"
    report, best = (folder / "report.md").read_text(), leaderboard(project).iloc[0]
    assert f"**Trial {best['trial']}: {best['confirmed_mean']:.2f}**, the mean dev official_f1 over 2 fresh" in report
    pictures = [line.partition("](")[2].removesuffix(")") for line in report.splitlines() if line.startswith("![")]
    assert "figures/history.png" in pictures
    assert all((folder / picture).is_file() for picture in pictures)
    listed = project.run("bilstm-attention", "sweeps")
    assert "4 complete" in listed
    assert f"best.yaml: trial {best['trial']}" in listed


def test_two_objectives_give_a_pareto_front(swept: tuple[Project, str]) -> None:
    project, _ = swept
    text = SWEEP.replace("study: two", "study: weighed\nagainst: parameters").replace("top: 2", "top: 0")
    (project.root / "experiments/sweeps/weighed.yaml").write_text(text)
    project.run("bilstm-attention", "sweep", "experiments/sweeps/weighed.yaml", "--trials", "3")
    folder = project.root / "experiments/studies/weighed"
    board = pd.read_csv(folder / "leaderboard.csv")
    assert len(board) == 3
    assert (board["parameters"] > 0).all()
    for row in board[board["on_front"]].itertuples():
        better = (board["score"] >= row.score) & (board["parameters"] <= row.parameters)
        more = (board["score"] > row.score) | (board["parameters"] < row.parameters)
        assert not (better & more).any()
    front = {f"trial-{number:04d}.yaml" for number in board[board["on_front"]]["trial"]}
    assert {path.name for path in (folder / "front").iterdir()} == front


def test_mlflow_has_a_child_for_every_trial(swept: tuple[Project, str]) -> None:
    from mlflow import MlflowClient

    project, _ = swept
    client = MlflowClient(f"sqlite:///{project.root}/experiments/mlflow.db")
    (experiment,) = (each for each in client.search_experiments() if each.name == "sample")
    runs = client.search_runs([experiment.experiment_id], "tags.sweep = 'two'")
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    children = [run for run in runs if run is not parent]
    assert len(children) == 4
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.run_name: run.info.status for run in runs if run.info.status != "FINISHED"} == {}
    best = leaderboard(project).iloc[0]
    assert parent.data.metrics["dev/official_f1"] == best["confirmed_mean"]
    assert parent.data.tags["winner"] == f"trial {best['trial']}"
    # two epochs, and the one that is kept once more
    assert [len(client.get_metric_history(run.info.run_id, "dev/official_f1")) for run in children] == [3] * 4
    assert [point.value for point in client.get_metric_history(parent.info.run_id, "trials")] == [1, 2, 3, 4]
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"leaderboard.csv", "best.yaml", "report.md", "sweep.yaml", "figures"} <= files


def test_stale_data_is_refused(swept: tuple[Project, str]) -> None:
    project, _ = swept
    project.apply("data.split_seed=3")
    assert "prepare: changed since it was prepared; `dvc repro embed` first" in project.run(*COMMAND, check=False)
