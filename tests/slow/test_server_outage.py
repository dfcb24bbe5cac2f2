"""A store that fails costs no result: after `sync` it has what an undisturbed one has, each run once."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from tests.project import Project
from tests.servers import TrackingServer

STAGES = (("train", "--seed", "0"), ("train", "--seed", "1"), ("evaluate",), ("report",))
SWEEP = """
study: outage
metric: official_f1
against: parameters
sampler: {kind: grid}
pruner: {kind: none}
confirm: {top: 0}
fixed: {train.epochs: 1}
space: {model.lstm_units: [4, 6]}
"""
LOGGED = "`bilstm-attention sync` logs them"


@pytest.fixture(scope="module")
def project(new_project: Callable[[], Project]) -> Project:
    """A prepared project with two seeds."""
    project = new_project()
    project.apply("train.seeds=[0,1]")
    project.run("dvc", "repro", "embed")
    return project


def run(project: Project, store: str, *commands: tuple[str, ...]) -> str:
    extra = {"MLFLOW_TRACKING_URI": store}
    return "".join(project.run("bilstm-attention", *words, extra=extra) for words in commands)


def content(store: str) -> dict[str, Any]:
    """All that a store has, without ids and times."""
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("sample")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    names = {run.info.run_id: run.info.run_name for run in runs}
    assert len(set(names.values())) == len(runs), sorted(names.values())

    def files(run_id: str, folder: str | None = None) -> list[str]:
        listed = client.list_artifacts(run_id, folder)
        return [path for file in listed for path in (files(run_id, file.path) if file.is_dir else [file.path])]

    def points(run_id: str, metric: str) -> list[tuple[int, float]]:
        return sorted((each.step, each.value) for each in client.get_metric_history(run_id, metric))

    models = client.search_logged_models([experiment.experiment_id])
    return {
        names[run.info.run_id]: {
            "status": run.info.status,
            "params": run.data.params,
            "metrics": {metric: points(run.info.run_id, metric) for metric in run.data.metrics},
            "parent": names.get(run.data.tags.get("mlflow.parentRunId", "")),
            "datasets": sorted(entry.dataset.digest for entry in run.inputs.dataset_inputs),
            "files": sorted(files(run.info.run_id)),
            "models": [str(each.status) for each in models if each.source_run_id == run.info.run_id],
        }
        for run in runs
    } | {"registered": [names[each.run_id] for each in client.search_model_versions("name = 'sample'")]}


@pytest.fixture(scope="module")
def expected(project: Project, mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Content of a store that never failed."""
    store = f"sqlite:///{shutil.copy(mlflow_template, tmp_path_factory.mktemp('undisturbed') / 'mlflow.db')}"
    assert "warning" not in run(project, store, *STAGES)
    return content(store)


@pytest.fixture
def server(mlflow_template: Path, tmp_path: Path) -> Iterator[TrackingServer]:
    server = TrackingServer(f"sqlite:///{shutil.copy(mlflow_template, tmp_path / 'mlflow.db')}", tmp_path)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def test_server_killed_and_restarted_has_all_after_sync(
    project: Project, server: TrackingServer, expected: dict[str, Any]
) -> None:
    def outage() -> None:
        # once the first run is there, so while the pipeline logs; the later commands meet no server
        client, end = MlflowClient(server.url), time.monotonic() + 300
        while time.monotonic() < end and not client.get_experiment_by_name("sample"):
            time.sleep(0.1)
        server.kill()

    (project.root / "experiments/sweeps/outage.yaml").write_text(SWEEP)
    killing = threading.Thread(target=outage)
    killing.start()
    sweep = ("sweep", "experiments/sweeps/outage.yaml", "--trials", "2")
    assert run(project, server.url, *STAGES, sweep).count(LOGGED) == 4
    killing.join()
    assert (pd.read_csv(project.root / "experiments/studies/outage/leaderboard.csv")["parameters"] > 0).all()
    failed = project.run("bilstm-attention", "sync", check=False, extra={"MLFLOW_TRACKING_URI": server.url})
    assert failed.splitlines()[-1].startswith(f"error: {server.url}: ")
    server.start()
    run(project, server.url, ("sync",))
    logged = content(server.url)
    assert {name: logged.pop(name) for name in expected} == expected
    assert {name: each["parent"] for name, each in logged.items()} == {
        "sweep outage": None,
        "trial 0: lstm_units=4": "sweep outage",
        "trial 1: lstm_units=6": "sweep outage",
    }
    assert ": 0 runs logged, 6 were there." in run(project, server.url, ("sync",))
