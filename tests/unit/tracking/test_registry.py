"""A logged model answers raw text wherever it is loaded; versions have one champion, and every change of it is kept."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from tests.small import begin_project, save_classifier_folder

from bilstm_attention.errors import DataError, UserError
from bilstm_attention.tracking import promote as models
from bilstm_attention.tracking.registry import (
    DEV_ANSWERS,
    DEV_DIGEST,
    SERVING_PACKAGES,
    Registry,
    Version,
    dev_digest,
    fetch_model,
    log_model,
)
from bilstm_attention.tracking.store import RunRecord, Tracker

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
from bilstm_attention.tracking.registry import log_model
from bilstm_attention.tracking.store import RunRecord, Tracker
tracker = Tracker("with a model")
run_id = tracker.record(RunRecord("x", 0.0, {{}}))
log_model(tracker, run_id, Path({str(model_folder)!r}), {EXAMPLE!r}, "relations", {TAGS!r})
print(run_id)
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
    assert data | {"code/bilstm_attention/serving.py", "MLmodel", "input_example.json"} <= names
    assert folder.is_relative_to(Path.cwd() / "experiments/mlartifacts")


def test_a_model_is_logged_and_registered_once(logged: Logged, model_folder: Path) -> None:
    tracker, run_id, _ = logged
    before = only_model(logged).model_id
    log_model(tracker, run_id, model_folder, EXAMPLE, "relations", TAGS)
    assert only_model(logged).model_id == before
    (version,) = Registry(tracker, "relations").versions()
    assert version == Version(1, run_id, "zhou", "accuracy", DEV_ANSWERS, 50.0, "", champion=False)


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
    run_id = tracker.record(RunRecord("x", 0.0, {}))
    other = another(model_folder, tmp_path / "classifier")
    for folder in (model_folder, other, other):
        log_model(tracker, run_id, folder, EXAMPLE, "changing", TAGS)
    first, second = Registry(tracker, "changing").versions()
    assert (first.run, second.run) == (run_id, run_id)
    fetched = fetch_model(run_id, tmp_path / "fetched")
    assert (fetched / "model.keras").read_bytes() == (other / "model.keras").read_bytes()


class Cut(BaseException):
    """What ends a process at once, for which MLflow sets no status."""


def fail_to_log(tracker: Tracker, run_id: str, folder: Path, name: str, fault: BaseException) -> None:
    from mlflow import MlflowClient

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", Mock(side_effect=fault))
        with pytest.raises(type(fault)):
            log_model(tracker, run_id, folder, EXAMPLE, name, TAGS)


@pytest.mark.parametrize("fault", [OSError("no answer"), Cut()])
def test_a_model_that_was_half_logged_is_there_once_and_whole_after_the_next_time(
    tracker: Tracker, model_folder: Path, tmp_path: Path, fault: BaseException
) -> None:
    def models() -> list[str]:
        found = tracker.client.search_logged_models([tracker.experiment], f"source_run_id = '{run_id}'")
        return [str(model.status) for model in found]

    run_id = tracker.record(RunRecord("x", 0.0, {}))
    fail_to_log(tracker, run_id, model_folder, "late", fault)
    assert tracker.client.get_run(run_id).info.status == "FINISHED"
    assert models() == ["PENDING" if isinstance(fault, Cut) else "FAILED"]
    log_model(tracker, run_id, model_folder, EXAMPLE, "late", TAGS)
    assert models() == ["READY"]
    fetched = fetch_model(run_id, tmp_path / "fetched")
    assert (fetched / "model.keras").read_bytes() == (model_folder / "model.keras").read_bytes()


def test_of_a_run_the_newest_whole_model_is_fetched(tracker: Tracker, model_folder: Path, tmp_path: Path) -> None:
    run_id = tracker.record(RunRecord("x", 0.0, {}))
    log_model(tracker, run_id, model_folder, EXAMPLE, "whole", TAGS)
    fail_to_log(tracker, run_id, another(model_folder, tmp_path / "classifier"), "whole", Cut())
    fetched = fetch_model(run_id, tmp_path / "fetched")
    assert (fetched / "model.keras").read_bytes() == (model_folder / "model.keras").read_bytes()


GOLD = ["A", "B"] * 20
Register = Callable[..., Registry]


@pytest.fixture
def register(tracker: Tracker, tmp_path: Path, request: pytest.FixtureRequest) -> Register:
    """Adds a version whose seeds answer so many of the dev sentences right; the dev score is their mean."""
    name = request.node.name.replace("[", " ").replace("]", "")
    tracker.client.create_registered_model(name)

    def add(*right: int, monitor: str = "accuracy", first: int = 0, answers: bool = True) -> Registry:
        table = {"id": [str(first + number) for number in range(40)], "gold": GOLD}
        for seed, count in enumerate(right):
            table[f"seed_{seed}"] = GOLD[:count] + ["B" if label == "A" else "A" for label in GOLD[count:]]
        pd.DataFrame(table).to_csv(tmp_path / DEV_ANSWERS, index=False)
        files = {"": [tmp_path / DEV_ANSWERS]} if answers else {}
        run = tracker.record(RunRecord("run", 0.0, {}, artifacts=files))
        tags = {"run": f"{right}", "monitor": monitor, "dev": repr(sum(right) / len(right) * 2.5)}
        tags |= {DEV_DIGEST: dev_digest(pd.DataFrame(table))}
        tracker.client.create_model_version(name, f"runs:/{run}/model", run, tags)
        return Registry(tracker, name)

    return add


def test_versions_are_found_by_run_and_by_score(register: Register) -> None:
    for right in ((20,), (31,), (30, 31)):
        registry = register(*right)
    first, second, third = registry.versions()
    assert [version.dev for version in (first, second, third)] == [50.0, 77.5, 76.25]
    assert registry.find("best", "accuracy") == second
    assert registry.find(third.run, "accuracy") == third
    with pytest.raises(UserError, match=f"abc: no version of .* Legal: best, or a run: {first.run}"):
        registry.find("abc", "accuracy")


def test_of_losses_the_least_is_best(register: Register) -> None:
    register(20, monitor="loss")
    registry = register(10, monitor="loss")
    least, most = registry.versions()[::-1]
    assert registry.find("best", "loss") == least
    better, said = registry.better(least, most)
    assert (better, said) == (True, "-25.0000, without a test, since a loss compares no labels")
    assert registry.better(most, least)[0] is False


def test_versions_are_compared_by_the_sentences_that_both_answered(register: Register) -> None:
    register(20)
    register(36)
    registry = register(34, 38)
    low, high, two = registry.versions()
    better, said = registry.better(high, low)
    assert better
    assert re.fullmatch(r"\+40\.00, p 0\.00\d by approximate randomisation over 40 dev sentences", said)
    assert registry.better(low, high)[0] is False
    # the same mean is not better
    better, said = registry.better(two, high)
    assert not better
    assert said.startswith("+0.00, p ")
    assert "of 1 seed each" in said


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"first": 100}, "were judged on different dev sentences"),
        ({"monitor": "macro_f1"}, "version 2 is judged by macro_f1, version 1 by accuracy"),
    ],
    ids=["sentences", "score"],
)
def test_what_was_judged_otherwise_is_not_compared(other: dict[str, Any], said: str, register: Register) -> None:
    register(20)
    registry = register(30, **other)
    one, two = registry.versions()
    with pytest.raises(UserError, match=said):
        registry.better(two, one)


def test_a_run_without_answers_is_named(register: Register) -> None:
    register(20)
    registry = register(30, answers=False)
    one, two = registry.versions()
    with pytest.raises(DataError, match=f"run {two.run} has no {DEV_ANSWERS}"):
        registry.better(two, one)


def test_every_change_of_champion_is_kept_and_can_be_taken_back(register: Register) -> None:
    for right in (20, 25, 30):
        registry = register(right)
    assert registry.champion() is None
    with pytest.raises(UserError, match="there is no champion before the present one"):
        registry.rollback()
    one, two, three = registry.versions()
    for version in (one, two, three):
        registry.promote(version)
    assert [version.champion for version in registry.versions()] == [False, False, True]
    assert str(registry.client.get_model_version_by_alias(registry.name, "champion").version) == "3"
    assert (registry.rollback(), registry.champion()) == (2, 2)
    registry.promote(three)
    assert (registry.rollback(), registry.rollback(), registry.champion()) == (2, 1, 1)
    with pytest.raises(UserError, match="no champion before"):
        registry.rollback()
    said = [event.split(" ", 1)[1] for event in registry.history()]
    changes = ["1 promoted", "2 promoted", "3 promoted", "2 rolled back to", "3 promoted"]
    assert said == [f"version {change}" for change in [*changes, "2 rolled back to", "1 rolled back to"]]


def test_a_name_without_versions_says_what_registers_one(tracker: Tracker) -> None:
    with pytest.raises(UserError, match="nothing here: no model of this name is registered; `dvc repro` registers one"):
        Registry(tracker, "nothing here").versions()


def test_best_is_found_among_those_that_are_judged_as_the_champion_is(register: Register) -> None:
    register(38, monitor="accuracy")
    register(20, monitor="macro_f1")
    registry = register(25, monitor="macro_f1")
    other, low, high = registry.versions()
    assert registry.find("best", "accuracy") == other
    registry.promote(low)
    assert registry.find("best", "accuracy") == high
    registry.client.delete_registered_model_alias(registry.name, "champion")
    with pytest.raises(UserError, match="no version is judged by loss"):
        registry.find("best", "loss")


def test_best_is_found_among_those_that_answered_the_sentences_of_the_champion(
    register: Register, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register(20)
    register(39, first=100)
    registry = register(30)
    low, elsewhere, high = registry.versions()
    monkeypatch.setattr(models, "_registry", lambda: registry)
    # without a champion, as the newest was judged
    assert registry.find("best", "accuracy") == high
    registry.promote(low)
    models.promote("best", if_better=True)
    said = capsys.readouterr().out
    assert (registry.champion(), f"on other dev sentences: version {elsewhere.number}\n" in said) == (high.number, True)


def test_a_champion_that_was_made_by_hand_is_replaced_only_without_a_condition_and_back_leads_to_the_last_of_ours(
    register: Register, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for right in (20, 25, 30):
        registry = register(right)
    client, (one, two, three) = registry.client, registry.versions()
    monkeypatch.setattr(models, "_registry", lambda: registry)
    by_hand = client.create_model_version(registry.name, "runs:/abc/model").version
    client.set_registered_model_alias(registry.name, "champion", by_hand)
    with pytest.raises(UserError, match=f"version {by_hand}, the present champion, .* has no dev score"):
        models.promote(one.run, if_better=True)
    models.promote(one.run, if_better=False)
    assert f"version {by_hand}, the present champion" in capsys.readouterr().out
    registry.promote(two)
    client.set_registered_model_alias(registry.name, "champion", str(three.number))
    assert (registry.rollback(), registry.rollback()) == (two.number, one.number)
    for version in (two, three):
        registry.promote(version)
    client.delete_model_version(registry.name, str(two.number))
    assert (registry.rollback(), registry.champion()) == (one.number, one.number)
    registry.promote(three)
    assert registry.rollback() == one.number


def test_versions_registered_by_hand_are_passed_over(register: Register) -> None:
    registry = register(20)
    registry.client.create_model_version(registry.name, "runs:/abc/model")
    assert [version.number for version in registry.versions()] == [1]


def test_a_champion_that_cannot_be_set_leaves_the_history_as_it_was(register: Register) -> None:
    register(20)
    registry = register(30)
    one, two = registry.versions()
    registry.promote(one)
    registry.client.delete_model_version(registry.name, "2")
    with pytest.raises(Exception, match="not found"):
        registry.promote(two)
    assert (registry.champion(), len(registry.history())) == (1, 1)


def test_promote_shows_both_scores_and_keeps_the_better(
    register: Register, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for right in (30, 20, 35):
        registry = register(right)
    first, worse, better = registry.versions()
    monkeypatch.setattr(models, "_registry", lambda: registry)
    models.promote(first.run, if_better=True)
    assert "version 1 is the first champion" in capsys.readouterr().out
    models.promote(first.run, if_better=False)
    assert "it is the champion already" in capsys.readouterr().out
    models.promote(worse.run, if_better=True)
    said = capsys.readouterr().out
    assert "dev accuracy 50.00" in said
    assert "dev accuracy 75.00, the present champion" in said
    assert "difference: -25.00, p " in said
    assert (registry.champion(), "version 1 stays champion" in said) == (1, True)
    models.promote("best", if_better=True)
    assert (registry.champion(), "version 3 is champion" in capsys.readouterr().out) == (3, True)
    models.promote(worse.run, if_better=False)
    assert registry.champion() == worse.number
    models.rollback()
    assert "version 3 is champion again" in capsys.readouterr().out
    models.list_models()
    listed = capsys.readouterr().out
    assert better.run[:10] in listed
    assert listed.count("version 3 promoted") == listed.count("version 3 rolled back to") == 1


def test_what_cannot_be_compared_is_promoted_only_without_a_condition(
    register: Register, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register(30)
    registry = register(20, first=100)
    first, other = registry.versions()
    monkeypatch.setattr(models, "_registry", lambda: registry)
    models.promote(first.run, if_better=False)
    with pytest.raises(UserError, match="different dev sentences"):
        models.promote(other.run, if_better=True)
    assert registry.champion() == first.number
    models.promote(other.run, if_better=False)
    assert "different dev sentences" in capsys.readouterr().out
    assert registry.champion() == other.number
