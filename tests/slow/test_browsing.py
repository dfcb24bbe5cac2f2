"""The MLflow UI after `dvc repro` and a sweep against a tracking server on PostgreSQL, seen in a browser."""

from dataclasses import dataclass

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from playwright.sync_api import Page, expect
from tests.browser import MILLISECONDS, headless_browser, looked_at
from tests.project import copy_project
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
    """What a server knows of the pipeline and a sweep: runs by name, and the page that lists them."""

    runs: dict[str, Run]
    table: str

    def page(self, name: str) -> str:
        return f"{self.table.partition('?')[0]}/{self.runs[name].info.run_id}"


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
            assert "warning" not in printed
            client = MlflowClient(server.url)
            experiment = client.get_experiment_by_name("sample").experiment_id
            runs = {run.info.run_name: run for run in client.search_runs([experiment])}
            address = f"{server.url}/#/experiments/{experiment}/runs?workflowType=machine_learning"
            yield Recorded(runs, address)
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


def open_description(page: Page, address: str) -> None:
    """Opens the page of a run and the whole of its description."""
    page.goto(address)
    page.get_by_text("Show more").click(timeout=MILLISECONDS)
    # MLflow's own, which covers a third of the page when it is first seen
    page.locator("[data-component-id='mlflow.assistant.chat_panel.close']").click()


def test_page_of_a_run_and_its_attention_page(recorded, browser, tmp_path):
    page = browser.new_page(viewport={"width": 1600, "height": 1400})
    open_description(page, recorded.page(NAME))
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
    open_description(page, recorded.page("sweep units"))
    pictures = page.locator("img[src*=get-artifact]")
    assert pictures.count() >= 3
    for picture in pictures.all():
        expect(picture).not_to_have_js_property("naturalWidth", 0, timeout=MILLISECONDS)
    looked_at(page, tmp_path / "sweep.png", "On fresh seeds")
    with page.context.expect_page() as tab:
        page.get_by_role("link", name="All figures").click()
    expect(tab.value.frame_locator("iframe").get_by_text("Study units")).to_be_visible(timeout=MILLISECONDS)
