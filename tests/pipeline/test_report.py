"""`bilstm-attention report`: runs, or the seeds of one, side by side on a page that stands alone."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from bilstm_attention.experiment.scoring import compare
from tests.pipeline.conftest import Project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(new_project: Callable[[], Project]) -> Project:
    """Two runs: the usual one, of one seed, and mean pooling with two seeds."""
    project = new_project()
    project.run("dvc", "repro")
    project.apply("model.attention.kind=mean", "train.seeds=[0,1]")
    project.run("dvc", "repro")
    return project


class Page(HTMLParser):
    """Rows of cells by heading, and addresses."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.heading, self.tables, self.addresses, self.inside = "", dict[str, list[list[str]]](), list[str](), ""
        self.text = path.read_text()
        self.feed(self.text)
        self.tables = {
            heading: [[" ".join(cell.split()) for cell in row] for row in rows] for heading, rows in self.tables.items()
        }

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag == "tr":
            self.tables.setdefault(self.heading, []).append([])
        elif tag in ("td", "th"):
            self.tables[self.heading][-1].append("")
        elif tag == "h2":
            self.heading = ""
        if tag in ("td", "th", "h2"):
            self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag in ("table", "h2"):
            self.inside = ""

    def handle_data(self, text: str) -> None:
        if self.inside == "h2":
            self.heading += text
        elif self.inside:
            self.tables[self.heading][-1][-1] += text


def made(project: Project, *runs: str) -> Page:
    project.run("bilstm-attention", "report", *runs, "-o", "report.html")
    return Page(project.root / "report.html")


def scores(page: Page, name: str, split: str) -> list[str]:
    (row,) = (row for row in page.tables["Scores"] if row[:2] == [name, split])
    return row[2:]


def test_two_runs_stand_side_by_side(project: Project) -> None:
    page = made(project)
    assert page.tables["Scores"][0] == ["score", "on", "zhou u=8 seed=0", "mean u=8 seeds=0,1"]
    metrics = pd.read_json(project.root / "experiments/current/metrics.json")["test"]["official_f1"]
    one, two = scores(page, "official_f1", "test")
    assert two.startswith(f"{metrics['mean']:.2f} ± {metrics['sd']:.2f}")
    assert re.fullmatch(r"\d+\.\d\d \d+\.\d\d–\d+\.\d\d", one)
    # not as many seeds as the other: no test
    assert " p " not in two
    differing = {row[0]: row[1:] for row in page.tables["Parameters that differ"]}
    assert differing.pop("parameter") == ["zhou u=8 seed=0", "mean u=8 seeds=0,1"]
    assert differing == {"model.attention.kind": ["zhou", "mean"], "train.seeds": ["[0]", "[0, 1]"]}
    # the models, their attention on the same sentences; nothing from elsewhere
    assert page.text.count('class="tokens"') == 2 * 8
    assert {address.partition(",")[0] for address in page.addresses} == {"data:image/png;base64"}


def test_the_seeds_of_one_run_stand_side_by_side_with_a_test(project: Project) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{project.root}/experiments/mlflow.db")
    found = mlflow.search_runs(search_all_experiments=True, output_format="list")
    (run,) = (run.info.run_id for run in found if run.info.run_name == "mean u=8 seeds=0,1")
    page = made(project, run)
    assert page.tables["Scores"][0] == ["score", "on", "seed 0", "seed 1"]
    answers = pd.read_csv(project.root / "experiments/current/dev_predictions.csv")
    gold, one, two = ([answers[name].tolist()] for name in ("gold", "seed_0", "seed_1"))
    first, second = scores(page, "accuracy", "dev")
    assert " p " not in first
    assert f"p {compare(gold[0], one, two, 'accuracy'):.3f}" in second
    right = 100 * (answers["gold"] == answers["seed_1"]).mean()
    assert second.startswith(f"{right:.2f}")
    assert page.text.count('class="tokens"') == 2 * 8
    assert "<p>None.</p>" in page.text


def test_a_run_that_was_not_evaluated_or_judged_on_other_sentences_is_named(project: Project) -> None:
    said = project.run("bilstm-attention", "report", "abc", check=False)
    assert "abc: no run that was evaluated as a whole" in said
    project.apply("data.split_seed=3", "train.seeds=[0]", "evaluate.faithfulness=0")
    project.run("dvc", "repro")
    said = project.run("bilstm-attention", "report", check=False)
    assert "was judged on other dev sentences than zhou u=8 seed=0" in said


def test_a_run_whose_models_another_has_adopted_keeps_its_curves(project: Project) -> None:
    project.apply("data.split_seed=0", "train.seeds=[0,1]", "evaluate.bootstrap=101")
    project.run("dvc", "repro")
    mlflow.set_tracking_uri(f"sqlite:///{project.root}/experiments/mlflow.db")
    found = mlflow.search_runs(search_all_experiments=True, output_format="list")
    runs = [run.info.run_id for run in found if run.info.run_name == "mean u=8 seeds=0,1"]
    assert len(runs) == 2
    page = made(project, *runs)
    # of one name: told apart by their ids
    assert page.tables["Scores"][0][2:] == [f"mean u=8 seeds=0,1, {run[:8]}" for run in runs]
    assert {row[0] for row in page.tables["Parameters that differ"]} >= {"evaluate.bootstrap"}
