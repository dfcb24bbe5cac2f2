"""The MLflow UI after `dvc repro` and a sweep against a tracking server on PostgreSQL, seen in a browser."""

import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from playwright.sync_api import Page, expect
from tests.browser import MILLISECONDS, headless_browser, looked_at
from tests.project import Project, copy_project
from tests.servers import TrackingServer

SWEEP = """
study: units
metric: official_f1
sampler: {kind: grid}
pruner: {kind: none}
confirm: {top: 1, seeds: 2}
fixed: {train.epochs: 2}
space: {model.lstm_units: [4, 6, 8]}
"""


NAME = "seeds=0,1 zhou lstm_units=8 epochs=3 embeddings.epochs=1"


@dataclass
class Recorded:
    """What a server knows of the pipeline, a sweep and a promoted model: runs by name, and the page of `ui`."""

    project: Project
    store: Mapping[str, str]
    client: MlflowClient
    runs: dict[str, Run]
    table: str

    def page(self, run_id: str) -> str:
        return f"{self.table.partition('?')[0]}/{run_id}"


@pytest.fixture(scope="module")
def recorded(postgres, tmp_path_factory):
    project = copy_project(tmp_path_factory.mktemp("browsed"))
    project.apply("train.seeds=[0,1]", "evaluate.faithfulness=20")
    (project.root / "experiments/sweeps/units.yaml").write_text(SWEEP)
    with postgres.fresh_database() as database:
        server = TrackingServer(database, tmp_path_factory.mktemp("server"))
        server.start()
        try:
            store = {"MLFLOW_TRACKING_URI": server.url}
            printed = project.run("dvc", "repro", extra=store)
            printed += project.run(
                "bilstm-attention", "sweep", "experiments/sweeps/units.yaml", "--trials", "3", extra=store
            )
            printed += project.run("bilstm-attention", "promote", extra=store)
            assert "warning" not in printed
            client = MlflowClient(server.url)
            experiment = client.get_experiment_by_name("sample").experiment_id
            runs = {run.info.run_name: run for run in client.search_runs([experiment])}
            table = project.run("bilstm-attention", "ui", "--no-browser", extra=store).strip()
            yield Recorded(project, store, client, runs, table)
        finally:
            server.kill()


@pytest.fixture(scope="module")
def browser(recorded):
    with headless_browser() as started:
        yield started


def test_list_of_runs(recorded, browser, tmp_path):
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.goto(recorded.table)
    looked_at(page, tmp_path / "runs.png", "seeds=0,1", "sweep units")
    scores = page.locator('[role=gridcell][col-id="metrics.`dev/official_f1`"]').all_inner_texts()
    assert len(scores) == len(recorded.runs)
    assert scores == sorted(scores, key=float, reverse=True)


def open_description(page: Page, address: str) -> None:
    """Opens the page of a run and the whole of its description."""
    page.goto(address)
    page.get_by_text("Show more").click(timeout=MILLISECONDS)
    # MLflow's own, which covers a third of the page when it is first seen
    page.locator("[data-component-id='mlflow.assistant.chat_panel.close']").click()


def test_page_of_a_run_and_its_attention_page(recorded, browser, tmp_path):
    page = browser.new_page(viewport={"width": 1600, "height": 1400})
    open_description(page, recorded.page(recorded.runs[NAME].info.run_id))
    looked_at(page, tmp_path / "run.png", "test official_f1", "Attention on sentences of dev", "test/official_f1/low")
    with page.context.expect_page() as tab:
        page.get_by_role("link", name="seed-0").click()
    attention = tab.value.frame_locator("iframe")
    expect(attention.get_by_text("of 300 sentences shown")).to_be_visible(timeout=MILLISECONDS)
    attention.get_by_label("errors only").check()
    expect(attention.locator("output")).not_to_contain_text("300 of 300")
    looked_at(tab.value, tmp_path / "attention.png", "seed-0.html")


def test_page_of_a_sweep(recorded, browser, tmp_path):
    page = browser.new_page(viewport={"width": 1600, "height": 1400})
    open_description(page, recorded.page(recorded.runs["sweep units"].info.run_id))
    pictures = page.locator("img[src*=get-artifact]")
    assert pictures.count() >= 3
    for picture in pictures.all():
        expect(picture).not_to_have_js_property("naturalWidth", 0, timeout=MILLISECONDS)
    looked_at(page, tmp_path / "sweep.png", "On fresh seeds")
    with page.context.expect_page() as tab:
        page.get_by_role("link", name="All figures").click()
    expect(tab.value.frame_locator("iframe").get_by_text("Study units")).to_be_visible(timeout=MILLISECONDS)


def test_page_of_a_registered_model(recorded, browser, tmp_path):
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.goto(f"{recorded.table.partition('#')[0]}#/models/sample/versions/1")
    looked_at(page, tmp_path / "model.png", "champion", "Protocol.", "official_f1: dev", "Limits.")


def test_a_run_is_seen_while_it_trains(recorded, browser, tmp_path):
    project = recorded.project
    project.apply("train.epochs=2000", "train.patience=2000")
    training = subprocess.Popen(
        ["bilstm-attention", "train", "--seed", "0"],
        cwd=project.root,
        env=project.environment(**recorded.store),
        stdout=subprocess.DEVNULL,
    )
    try:
        run = None
        while not (run and "dev/official_f1" in run.data.metrics):
            assert training.poll() is None
            time.sleep(0.5)
            (experiment,) = {each.info.experiment_id for each in recorded.runs.values()}
            run = next(iter(recorded.client.search_runs([experiment], "attributes.status = 'RUNNING'")), None)
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.goto(f"{recorded.page(run.info.run_id)}/model-metrics")
        looked_at(page, tmp_path / "training.png", "(dev/official_f1)")
        assert recorded.client.get_run(run.info.run_id).info.status == "RUNNING"
    finally:
        training.kill()
        training.wait()
