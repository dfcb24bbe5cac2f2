"""A logged model answers raw text wherever it is loaded; one version is the champion, with its evidence."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest
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
Logged = tuple[Tracker, str, str]
TAGS = {"run": "zhou", "monitor": "accuracy", "dev": "50.0"}

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return begin_project(tmp_path_factory.mktemp("registered") / "project")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier_folder(tmp_path_factory.mktemp("tiny") / "classifier", units=3, seed=0)


@pytest.fixture(scope="module")
def logged(project: Path, model_folder: Path) -> Logged:
    """A run with a model, and what logging it wrote to stderr; a process of its own has no warnings shown before."""
    code = f"""
from pathlib import Path
from bilstm_attention.tracking.registry import LoggedModel
from bilstm_attention.tracking.runs import RunRecord, Tracker
model = LoggedModel(Path({str(model_folder)!r}), {EXAMPLE!r}, "relations", {TAGS!r})
print(Tracker("with a model").write(RunRecord("x", ("id", "a"), {{}}, model=model)))
"""
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=project, env=environment)
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return Tracker("with a model"), done.stdout.splitlines()[-1], done.stderr


def only_model(logged: Logged) -> Any:
    tracker, run_id, _ = logged
    (output,) = tracker.client.get_run(run_id).outputs.model_outputs
    return tracker.client.get_logged_model(output.model_id)


def test_logging_a_model_warns_of_nothing(logged: Logged) -> None:
    shown = [line for line in logged[2].splitlines() if "warn" in line.lower() or "mlflow" in line.lower()]
    assert shown == []


SERVE = """
import ast, json, sys
from importlib.metadata import packages_distributions
from pathlib import Path
import mlflow
import pandas as pd

mlflow.set_tracking_uri({store!r})
model = mlflow.pyfunc.load_model("models:/relations/1")
table = model.predict(pd.DataFrame({{"text": {texts!r}}}))
asked = model.predict(pd.DataFrame({{"text": {texts!r}}}), params={{"attention": True}})
named = set()
for name, module in list(sys.modules.items()):
    if name.startswith("bilstm_attention"):
        for node in ast.parse(Path(module.__file__).read_text()).body:
            if isinstance(node, ast.Import):
                named |= {{alias.name for alias in node.names}}
            elif isinstance(node, ast.ImportFrom):
                named.add(node.module)
top = {{name.partition(".")[0] for name in named}} - set(sys.stdlib_module_names) - {{"bilstm_attention"}}
spread = {{**packages_distributions(), "ruamel": ["ruamel.yaml"]}}
print(json.dumps({{
    "inputs": model.metadata.signature.to_dict()["inputs"],
    "example": model.input_example["text"].tolist(),
    "label": table["label"].tolist(),
    "tokens": asked["tokens"].tolist(),
    "weights": asked["weights"].tolist(),
    "score": table["score"].tolist(),
    "probabilities": table["probabilities"].tolist(),
    "packages": sorted({{spread[name][0] for name in top}}),
}}))
"""
TEXTS = [EXAMPLE, "A <e1>dog</e1> unheard of <e2>barked</e2>"]


@pytest.fixture(scope="module")
def served(logged: Logged, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a fresh process, outside the project, gets from the logged model."""
    code = SERVE.format(store=logged[0].client.tracking_uri, texts=TEXTS)
    folder = tmp_path_factory.mktemp("outside")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_logged_model_serves_raw_text_in_a_fresh_process(served: dict[str, Any], model_folder: Path) -> None:
    from bilstm_attention.serving.classifier import load_folder

    direct = load_folder(model_folder).answer(TEXTS, attention=True)
    assert served["label"] == direct["label"].tolist()
    assert served["tokens"] == direct["tokens"].tolist()
    np.testing.assert_allclose(served["score"], direct["score"], atol=1e-6)
    for one, other in zip(served["probabilities"], direct["probabilities"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    for one, other in zip(served["weights"], direct["weights"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    assert json.loads(served["inputs"]) == [{"type": "string", "name": "text", "required": True}]
    assert served["example"] == [EXAMPLE]


def test_a_logged_model_requires_every_package_that_serving_imports(served: dict[str, Any]) -> None:
    assert "keras" in served["packages"]
    assert set(served["packages"]) <= set(SERVING_PACKAGES)


def test_a_logged_model_holds_no_pickle_and_all_that_serving_needs(logged: Logged) -> None:
    folder = Path(only_model(logged).artifact_location.removeprefix("file://"))
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert not [name for name in names if re.search(r"\.(pkl|pickle|joblib|pyc|h5)$", name)]
    data = {f"data/classifier/{name}" for name in ("model.keras", "vocabulary.txt", "labels.json", "params.yaml")}
    assert data | {"code/bilstm_attention/serving/classifier.py", "MLmodel", "input_example.json"} <= names
    assert folder.is_relative_to(Path.cwd() / "experiments/mlartifacts")


def test_a_model_is_logged_and_registered_once(logged: Logged, model_folder: Path) -> None:
    tracker, run_id, _ = logged
    before = only_model(logged).model_id
    write_model(tracker, run_id, model_folder, "relations")
    assert only_model(logged).model_id == before
    (version,) = tracker.client.search_model_versions("name = 'relations'")
    assert (version.version, version.run_id, version.tags["dev"]) == (1, run_id, "50.0")


def write_model(tracker: Tracker, run_id: str, folder: Path, name: str) -> None:
    log_model(tracker.client, tracker.experiment, run_id, LoggedModel(folder, EXAMPLE, name, TAGS))


def new_run(tracker: Tracker, **more: Any) -> str:
    return tracker.write(RunRecord("run", ("id", uuid4().hex), {}, **more))


def another(model_folder: Path, folder: Path) -> Path:
    """The same model with another weight."""
    from bilstm_attention.model.classifier import load_classifier, save_classifier

    other = shutil.copytree(model_folder, folder)
    model = load_classifier(other / "model.keras")
    model.trainable_variables[-1].assign(model.trainable_variables[-1] + 1)
    save_classifier(model, other / "model.keras")
    return other


def test_a_run_whose_model_changes_has_the_new_one_as_another_version(
    tracker: Tracker, model_folder: Path, tmp_path: Path
) -> None:
    run_id = new_run(tracker)
    other = another(model_folder, tmp_path / "classifier")
    for folder in (model_folder, other, other):
        write_model(tracker, run_id, folder, "changing")
    versions = tracker.client.search_model_versions("name = 'changing'")
    assert [version.run_id for version in versions] == [run_id, run_id]
    fetched = fetch_model(run_id, tmp_path / "fetched")
    assert (fetched / "model.keras").read_bytes() == (other / "model.keras").read_bytes()


class Cut(BaseException):
    """What ends a process at once, for which MLflow sets no status."""


def fail_to_log(tracker: Tracker, run_id: str, folder: Path, name: str, fault: BaseException) -> None:
    from mlflow import MlflowClient

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", Mock(side_effect=fault))
        with pytest.raises(type(fault)):
            write_model(tracker, run_id, folder, name)


@pytest.mark.parametrize("fault", [OSError("no answer"), Cut()])
def test_a_model_that_was_half_logged_is_there_once_and_whole_after_the_next_time(
    tracker: Tracker, model_folder: Path, tmp_path: Path, fault: BaseException
) -> None:
    def models() -> list[str]:
        found = tracker.client.search_logged_models([tracker.experiment], f"source_run_id = '{run_id}'")
        return [str(model.status) for model in found]

    run_id = new_run(tracker)
    fail_to_log(tracker, run_id, model_folder, "late", fault)
    assert tracker.client.get_run(run_id).info.status == "FINISHED"
    assert models() == ["PENDING" if isinstance(fault, Cut) else "FAILED"]
    write_model(tracker, run_id, model_folder, "late")
    assert models() == ["READY"]
    fetched = fetch_model(run_id, tmp_path / "fetched")
    assert (fetched / "model.keras").read_bytes() == (model_folder / "model.keras").read_bytes()


def test_of_a_run_the_newest_whole_model_is_fetched(tracker: Tracker, model_folder: Path, tmp_path: Path) -> None:
    run_id = new_run(tracker)
    write_model(tracker, run_id, model_folder, "whole")
    fail_to_log(tracker, run_id, another(model_folder, tmp_path / "classifier"), "whole", Cut())
    fetched = fetch_model(run_id, tmp_path / "fetched")
    assert (fetched / "model.keras").read_bytes() == (model_folder / "model.keras").read_bytes()


GOLD = ["A", "B"] * 20


class Versions:
    """A registered model whose versions answer so many of 40 dev sentences right, by seed."""

    def __init__(self, tracker: Tracker, name: str, folder: Path):
        self.tracker, self.name, self.folder = tracker, name, folder
        tracker.client.create_registered_model(name)

    def add(self, *right: int, monitor: str = "accuracy", first_id: int = 0, answers: bool = True) -> str:
        """Registers a version; returns the id of its run."""
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
