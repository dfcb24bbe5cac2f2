"""A tracking server on PostgreSQL, killed at any time: what it should know is not lost, and not there twice."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from tests.project import Project, copy_project
from tests.servers import PostgresServer, TrackingServer

SEED = 20_16
SWEEP = """
study: {name}
metric: official_f1
sampler: {{kind: grid}}
pruner: {{kind: none}}
confirm: {{top: 1, seeds: 2}}
fixed: {{train.epochs: 1}}
space: {{model.lstm_units: [4, 6]}}
"""


@contextmanager
def tracking(postgres: PostgresServer, folder: Path) -> Iterator[TrackingServer]:
    """A server that knows nothing yet."""
    with postgres.fresh_database() as database:
        server = TrackingServer(database, folder)
        server.start()
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose data are prepared; what is trained is small."""
    project = copy_project(tmp_path_factory.mktemp("outage"))
    project.apply("train.seeds=[0,1]", "evaluate.faithfulness=20")
    project.run("dvc", "repro", "embed")
    return project


def work(project: Project, server: TrackingServer, name: str) -> str:
    """Two trainings, their evaluation, and a sweep of a name of its own; returns what they printed."""
    (project.root / "experiments/sweeps/outage.yaml").write_text(SWEEP.format(name=name))
    commands = [["train", "--seed", "0"], ["train", "--seed", "1"], ["evaluate"]]
    commands += [["sweep", "experiments/sweeps/outage.yaml", "--trials", "2"]]
    store = {"MLFLOW_TRACKING_URI": server.url}
    return "".join(project.run("bilstm-attention", *words, extra=store) for words in commands)


def known(server: TrackingServer, name: str) -> dict[str, Any]:
    """All that the store has, without ids, times and the name of the sweep."""
    client = MlflowClient(server.url)
    experiment = client.get_experiment_by_name("sample")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    names = {run.info.run_id: run.info.run_name.replace(name, "NAME") for run in runs}

    def files(run: str, folder: str | None = None) -> list[str]:
        listed = client.list_artifacts(run, folder)
        return [path for file in listed for path in (files(run, file.path) if file.is_dir else [file.path])]

    logged = Counter(
        (model.source_run_id, str(model.status)) for model in client.search_logged_models([experiment.experiment_id])
    )

    def told(run: Any) -> dict[str, Any]:
        tags = run.data.tags
        return {
            "status": run.info.status,
            "params": run.data.params,
            "metrics": run.data.metrics,
            "history": {
                name: sorted((each.step, each.value) for each in client.get_metric_history(run.info.run_id, name))
                for name in run.data.metrics
            },
            "tags": set(tags),
            "parent": names.get(tags.get("mlflow.parentRunId", "")),
            "datasets": sorted((each.dataset.name, each.dataset.digest) for each in run.inputs.dataset_inputs),
            # answers of a sweep are named by the digest of its winner's model
            "files": sorted(files(run.info.run_id)),
            "models": {status: count for (of, status), count in logged.items() if of == run.info.run_id},
        }

    found = {names[run.info.run_id]: told(run) for run in runs}
    assert len(found) == len(runs), sorted(names.values())
    registered = client.search_model_versions("name = 'sample'")
    return {**found, "registered": sorted(names[version.run_id] for version in registered)}


@pytest.fixture(scope="module")
def undisturbed(
    project: Project, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], float]:
    """What the store should know, and how many seconds that takes."""
    with tracking(postgres, tmp_path_factory.mktemp("undisturbed")) as server:
        began = time.monotonic()
        printed = work(project, server, "undisturbed")
        seconds = time.monotonic() - began
        assert "warning" not in printed
        return known(server, "undisturbed"), seconds


def test_the_store_knows_trainings_evaluation_sweep_and_model(undisturbed: tuple[dict[str, Any], float]) -> None:
    found = undisturbed[0]
    models = ["zhou u=8 seed=0", "zhou u=8 seed=1", "zhou u=8 seeds=0,1"]
    trials = ["trial 0: lstm_units=4", "trial 1: lstm_units=6"]
    assert sorted(found) == sorted([*models, *trials, "sweep NAME", "registered"])
    assert found["registered"] == ["sweep NAME", models[-1]]
    assert {name: found[name]["models"] for name in found["registered"]} == {
        name: {"READY": 1} for name in found["registered"]
    }
    assert {found[name]["parent"] for name in models[:-1]} == {models[-1]}
    assert {found[name]["parent"] for name in trials} == {"sweep NAME"}
    assert {"metrics.json", "dev_predictions.csv", "plots/confusion.png"} <= set(found[models[-1]]["files"])
    assert len(found[models[0]]["history"]["dev_loss"]) == 3


def test_what_is_done_without_a_server_is_known_once_it_is_there(
    project: Project, postgres: PostgresServer, undisturbed: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    with tracking(postgres, tmp_path) as server:
        server.kill()
        printed = work(project, server, "absent")
        # two trainings, their evaluation, two trials and the outcome
        assert printed.count("It is kept in") >= 5
        assert "The results on disk are complete." in printed
        failed = project.run("bilstm-attention", "sync", check=False, extra={"MLFLOW_TRACKING_URI": server.url})
        assert "0 of" in failed
        server.start()
        project.run("bilstm-attention", "sync", extra={"MLFLOW_TRACKING_URI": server.url})
        assert known(server, "absent") == undisturbed[0]


@pytest.mark.parametrize("number", range(5))
def test_a_server_killed_at_any_time_knows_all_in_the_end(
    number: int,
    project: Project,
    postgres: PostgresServer,
    undisturbed: tuple[dict[str, Any], float],
    tmp_path: Path,
) -> None:
    wanted, seconds = undisturbed
    draw = random.Random(SEED + number)
    moment, silence = draw.uniform(0.0, seconds), draw.uniform(0.0, 15.0)
    with tracking(postgres, tmp_path) as server:

        def outage() -> None:
            time.sleep(moment)
            server.kill()
            time.sleep(silence)
            server.start()

        killing = threading.Thread(target=outage)
        killing.start()
        kept = work(project, server, f"killed{number}").count("It is kept in")
        killing.join()
        print(f"killed after {moment:.1f} s of {seconds:.1f} for {silence:.1f} s and a start: {kept} records kept")
        project.run("bilstm-attention", "sync", extra={"MLFLOW_TRACKING_URI": server.url})
        assert not list((project.root / "experiments/outbox").glob("[!.]*"))
        assert known(server, f"killed{number}") == wanted
