"""A logged model answers raw text wherever it is loaded; one version is the champion, with its evidence."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from tests.small import begin_project, save_classifier_folder

from bilstm_attention.errors import UserError
from bilstm_attention.tracking.registry import (
    CHAMPION,
    DEV_ANSWERS,
    DEV_DIGEST,
    EVIDENCE,
    SERVING_PACKAGES,
    LoggedModel,
    dev_digest,
    fetch_model,
    log_model,
    promote,
)
from bilstm_attention.tracking.runs import RunRecord, Tracker

EXAMPLE = "The <e1>wheel</e1> of the <e2>car</e2> broke."
TAGS = {"run": "zhou", "monitor": "accuracy", "dev": "50.0"}

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return begin_project(tmp_path_factory.mktemp("registered") / "project")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier."""
    return save_classifier_folder(tmp_path_factory.mktemp("tiny") / "classifier", units=3, seed=0)


def model_in(folder: Path, name: str) -> LoggedModel:
    return LoggedModel({file.name: file for file in folder.iterdir()}, EXAMPLE, name, TAGS)


def write_model(tracker: Tracker, run_id: str, folder: Path, name: str) -> None:
    log_model(tracker.client, tracker.experiment, run_id, model_in(folder, name))


def new_run(tracker: Tracker, **more: Any) -> str:
    return tracker.write(RunRecord("run", ("id", uuid4().hex), {}, **more))


def bytes_of_fetched(run_id: str, folder: Path) -> bytes:
    return (fetch_model(run_id, folder) / "model.keras").read_bytes()


SERVE = """
import ast, json, sys
from importlib.metadata import packages_distributions
from pathlib import Path
import mlflow
import pandas as pd

mlflow.set_tracking_uri({store!r})
model = mlflow.pyfunc.load_model("models:/relations/1")
table = model.predict(pd.DataFrame({{"text": {texts!r}}}), params={{"attention": True}})
imports = set()
for name, module in list(sys.modules.items()):
    if name.startswith("bilstm_attention"):
        for node in ast.parse(Path(module.__file__).read_text()).body:
            if isinstance(node, ast.Import):
                imports |= {{alias.name for alias in node.names}}
            elif isinstance(node, ast.ImportFrom):
                imports.add(node.module)
top = {{name.partition(".")[0] for name in imports}} - set(sys.stdlib_module_names) - {{"bilstm_attention"}}
distributions = {{**packages_distributions(), "ruamel": ["ruamel.yaml"]}}
print(json.dumps({{
    **{{name: table[name].tolist() for name in ("label", "score", "probabilities", "tokens", "weights")}},
    "inputs": json.loads(model.metadata.signature.to_dict()["inputs"]),
    "example": model.input_example["text"].tolist(),
    "packages": sorted({{distributions[name][0] for name in top}}),
}}))
"""
TEXTS = [EXAMPLE, "A <e1>dog</e1> unheard of <e2>barked</e2>"]


def test_logged_model_serves_raw_text_in_a_fresh_process(tracker: Tracker, folder: Path, tmp_path: Path) -> None:
    from bilstm_attention.serving.classifier import load_folder

    run_id = new_run(tracker, model=model_in(folder, "relations"))
    (output,) = tracker.client.get_run(run_id).outputs.model_outputs
    location = Path(tracker.client.get_logged_model(output.model_id).artifact_location.removeprefix("file://"))
    assert location.is_relative_to(Path.cwd() / "experiments/mlartifacts")
    files = {str(path.relative_to(location)) for path in location.rglob("*") if path.is_file()}
    assert not [name for name in files if re.search(r"\.(pkl|pickle|joblib|pyc|h5)$", name)]
    assert {f"data/classifier/{file.name}" for file in folder.iterdir()} <= files

    code = SERVE.format(store=tracker.client.tracking_uri, texts=TEXTS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    served = json.loads(done.stdout.splitlines()[-1])
    direct = load_folder(folder).answer(TEXTS, attention=True)
    assert (served["label"], served["tokens"]) == (direct["label"].tolist(), direct["tokens"].tolist())
    np.testing.assert_allclose(served["score"], direct["score"], atol=1e-6)
    for name in ("probabilities", "weights"):
        for one, other in zip(served[name], direct[name], strict=True):
            assert one == pytest.approx(other, abs=1e-6)
    assert served["inputs"] == [{"type": "string", "name": "text", "required": True}]
    assert served["example"] == [EXAMPLE]
    assert "keras" in served["packages"]
    assert set(served["packages"]) <= set(SERVING_PACKAGES)


class Cut(BaseException):
    """What ends a process at once, for which MLflow sets no status."""


def test_half_logged_model_is_logged_again_and_each_once(tracker: Tracker, folder: Path, tmp_path: Path) -> None:
    other_folder = save_classifier_folder(tmp_path / "other", units=3, seed=1)

    def statuses() -> list[str]:
        models = tracker.client.search_logged_models([tracker.experiment], f"source_run_id = '{run_id}'")
        return sorted(str(model.status) for model in models)

    run_id = new_run(tracker)
    write_model(tracker, run_id, folder, "changing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", Mock(side_effect=Cut()))
        with pytest.raises(Cut):
            write_model(tracker, run_id, other_folder, "changing")
    assert tracker.client.get_run(run_id).info.status == "FINISHED"
    assert statuses() == ["PENDING", "READY"]
    # the newest whole one
    assert bytes_of_fetched(run_id, tmp_path / "before") == (folder / "model.keras").read_bytes()
    for _ in range(2):
        write_model(tracker, run_id, other_folder, "changing")
    assert statuses() == ["READY", "READY"]
    assert bytes_of_fetched(run_id, tmp_path / "after") == (other_folder / "model.keras").read_bytes()
    versions = tracker.client.search_model_versions("name = 'changing'")
    assert [(version.run_id, version.tags["dev"]) for version in versions] == [(run_id, "50.0")] * 2


GOLD = ["A", "B"] * 20


class Versions:
    """A registered model whose versions answer so many of 40 dev sentences right, by seed."""

    def __init__(self, tracker: Tracker, name: str, folder: Path):
        self.tracker, self.name, self.folder = tracker, name, folder
        tracker.client.create_registered_model(name)

    def add(self, *right: int, monitor: str = "accuracy", first_id: int = 0, answers: bool = True) -> str:
        """Registers a version, `first_id` the id of its first sentence; returns the id of its run."""
        table = {"id": [str(first_id + number) for number in range(40)], "gold": GOLD}
        for seed, count in enumerate(right):
            table[f"seed_{seed}"] = GOLD[:count] + ["B" if label == "A" else "A" for label in GOLD[count:]]
        pd.DataFrame(table).to_csv(self.folder / DEV_ANSWERS, index=False)
        run = new_run(self.tracker, artifacts={"": [self.folder / DEV_ANSWERS]} if answers else {})
        tags = {"run": f"{right}", "monitor": monitor, "dev": repr(sum(right) / len(right) * 2.5)}
        tags |= {DEV_DIGEST: dev_digest(pd.DataFrame(table))}
        self.tracker.client.create_model_version(self.name, f"runs:/{run}/model", run, tags)
        return run

    def promote(self, source: str, if_better: bool = False) -> None:
        promote(self.name, source, "accuracy", if_better)

    def champion(self) -> tuple[str, str]:
        """Its run, and the evidence."""
        version = self.tracker.client.get_model_version_by_alias(self.name, CHAMPION)
        return version.run_id, version.tags[EVIDENCE].partition(", ")[2]


@pytest.fixture
def versions(tracker: Tracker, tmp_path: Path, request: pytest.FixtureRequest) -> Versions:
    return Versions(tracker, re.sub(r"\W", " ", request.node.name), tmp_path)


def test_best_dev_score_becomes_champion_with_evidence(versions: Versions, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = versions.add(20, 20), versions.add(31)
    versions.promote(first)
    assert versions.champion() == (first, "first champion")
    versions.promote("best", if_better=True)
    run, evidence = versions.champion()
    assert run == second
    assert re.fullmatch(r"against version 1: \+27.50, p 0.0\d\d by .* \(1 seed each, 40 dev sentences\)", evidence)
    printed = capsys.readouterr().out
    assert "dev accuracy 77.50" in printed
    assert "dev accuracy 50.00, the present champion" in printed
    versions.promote("best")
    assert "it is the champion already" in capsys.readouterr().out


def test_worse_version_is_promoted_only_without_condition(versions: Versions) -> None:
    worse, better = versions.add(20), versions.add(31)
    versions.promote(better)
    versions.promote(worse, if_better=True)
    assert versions.champion()[0] == better
    versions.promote(worse)
    assert versions.champion()[0] == worse


def test_least_loss_is_best(versions: Versions) -> None:
    high, low = versions.add(30, monitor="loss"), versions.add(20, monitor="loss")
    versions.promote(high)
    versions.promote("best", if_better=True)
    assert versions.champion() == (low, "against version 1: -25.0000, without a test, since a loss compares no labels")


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"monitor": "macro_f1"}, "version 2 is judged by macro_f1, version 1 by accuracy"),
        ({"first_id": 100}, "judged on different dev sentences"),
        ({"answers": False}, f"has no {DEV_ANSWERS}"),
    ],
)
def test_incomparable_version_is_refused_if_it_must_be_better(
    other: dict[str, Any], reason: str, versions: Versions
) -> None:
    first, second = versions.add(20), versions.add(31, **other)
    versions.promote(first)
    with pytest.raises(UserError, match=reason):
        versions.promote(second, if_better=True)
    assert versions.champion()[0] == first
    versions.promote(second)
    assert versions.champion()[0] == second


def test_unknown_run_or_model_is_an_error(versions: Versions, tracker: Tracker) -> None:
    run = versions.add(20)
    with pytest.raises(UserError, match=f"abc: no version of .* Legal: best, or a run: {run}"):
        versions.promote("abc")
    with pytest.raises(UserError, match="`dvc repro` registers one"):
        promote("nobody", "best", "accuracy", if_better=False)


def test_champion_made_by_hand_is_replaced_without_condition(versions: Versions, tracker: Tracker) -> None:
    run = versions.add(20)
    tracker.client.create_model_version(versions.name, "runs:/x/model")
    tracker.client.set_registered_model_alias(versions.name, CHAMPION, "2")
    with pytest.raises(UserError, match="version 2, the champion, has no dev score"):
        versions.promote(run, if_better=True)
    versions.promote(run)
    assert versions.champion()[0] == run
