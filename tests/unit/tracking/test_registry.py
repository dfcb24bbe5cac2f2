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
from tests.conftest import refusal
from tests.small import begin_project, save_classifier_folder

from bilstm_attention.errors import UserError
from bilstm_attention.paths import sha256
from bilstm_attention.tracking import registry
from bilstm_attention.tracking.registry import CHAMPION, DEV_ANSWERS, EVIDENCE, MODEL_DIGEST, LoggedModel, find_model
from bilstm_attention.tracking.runs import RunRecord, Tracker

EXAMPLE = "The <e1>wheel</e1> of the <e2>car</e2> broke."
DIGESTS = {"dev": "0a", "test": "1b"}

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return begin_project(tmp_path_factory.mktemp("registered") / "project")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small classifier."""
    return save_classifier_folder(tmp_path_factory.mktemp("tiny") / "classifier", units=3, seed=0)


def model_in(folder: Path) -> LoggedModel:
    files, scores = {file.name: file for file in folder.iterdir()}, {"dev/accuracy": 50.0, "test/accuracy": 40.0}
    return LoggedModel("zhou lr=0.1", files, EXAMPLE, "# A card", scores, DIGESTS)


def new_run(tracker: Tracker, name: str = "run", **more: Any) -> str:
    return tracker.write(RunRecord(name, ("id", uuid4().hex), {"train.monitor": "accuracy"}, **more))


def bytes_of_fetched(run_id: str, folder: Path) -> bytes:
    return (registry.fetch_model(run_id, folder) / "model.keras").read_bytes()


SERVE = """
import ast, json, sys
from importlib.metadata import packages_distributions
from pathlib import Path
import mlflow
import pandas as pd

mlflow.set_tracking_uri({store!r})
model = mlflow.pyfunc.load_model({model!r})
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


def test_logged_model_serves_raw_text_in_a_fresh_process(tracker, folder, tmp_path):
    from bilstm_attention.serving.classifier import load_folder

    history = [{"epoch": 1, "dev/accuracy": 30.0}, {"epoch": 2, "dev/accuracy": 50.0}]
    run_id = new_run(tracker, model=model_in(folder), history=history, metrics={"test/accuracy": 40.0})
    (output,) = tracker.client.get_run(run_id).outputs.model_outputs
    logged = tracker.client.get_logged_model(output.model_id)
    assert (logged.name, logged.params["train.monitor"]) == ("zhou lr=0_1", "accuracy")
    scores = {(each.key, each.value, each.step, each.dataset_name, each.dataset_digest) for each in logged.metrics}
    assert scores == {("dev/accuracy", 50.0, 2, "dev", "0a"), ("test/accuracy", 40.0, 0, "test", "1b")}
    curve = tracker.client.get_metric_history(run_id, "dev/accuracy")
    assert sorted((point.step, point.value) for point in curve) == [(1, 30.0), (2, 50.0)]
    assert tracker.client.search_registered_models(f"name = '{tracker.experiment}'") == []
    location = Path(logged.artifact_location.removeprefix("file://"))
    assert location.is_relative_to(Path.cwd() / "experiments/mlartifacts")
    files = {str(path.relative_to(location)) for path in location.rglob("*") if path.is_file()}
    assert not [name for name in files if re.search(r"\.(pkl|pickle|joblib|pyc|h5)$", name)]
    assert {f"data/classifier/{file.name}" for file in folder.iterdir()} <= files

    code = SERVE.format(store=tracker.client.tracking_uri, model=logged.model_uri, texts=TEXTS)
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
    assert set(served["packages"]) <= set(registry.SERVING_PACKAGES)


class Cut(BaseException):
    """What ends a process at once, for which MLflow sets no status."""


def test_half_logged_model_is_logged_again_and_each_once(tracker, folder, tmp_path, monkeypatch):
    other_folder = save_classifier_folder(tmp_path / "other", units=3, seed=1)

    def statuses():
        models = tracker.client.search_logged_models([tracker.experiment], f"source_run_id = '{run_id}'")
        return sorted(str(model.status) for model in models)

    def write(folder):
        registry.log_model(tracker.client, tracker.experiment, run_id, model_in(folder))

    run_id = new_run(tracker)
    write(folder)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", Mock(side_effect=Cut()))
        with pytest.raises(Cut):
            write(other_folder)
    assert tracker.client.get_run(run_id).info.status == "FINISHED"
    assert statuses() == ["PENDING", "READY"]
    # the newest whole one
    assert bytes_of_fetched(run_id, tmp_path / "before") == (folder / "model.keras").read_bytes()
    for _ in range(2):
        write(other_folder)
    assert statuses() == ["READY", "READY"]
    assert bytes_of_fetched(run_id, tmp_path / "after") == (other_folder / "model.keras").read_bytes()


GOLD = ["A", "B"] * 20


class Models:
    """Logged models whose seeds label so many of 40 dev sentences right, and the registered model of their champion."""

    def __init__(self, tracker: Tracker, folder: Path):
        self.tracker, self.client, self.name, self.folder = tracker, tracker.client, tracker.experiment, folder

    def add(
        self, *right: int, monitor: str = "accuracy", first_id: int = 0, answers: bool = True, name: str = "zhou"
    ) -> str:
        """Logs a run and its model, `first_id` the id of its first sentence; returns the id of the run."""
        table = {"id": [str(first_id + number) for number in range(40)], "gold": GOLD}
        for seed, count in enumerate(right):
            table[f"seed_{seed}"] = GOLD[:count] + ["B" if label == "A" else "A" for label in GOLD[count:]]
        pd.DataFrame(table).to_csv(self.folder / DEV_ANSWERS, index=False)
        run = new_run(self.tracker, name, artifacts={"": [self.folder / DEV_ANSWERS]} if answers else {})
        digest = sha256(self.folder / DEV_ANSWERS)
        params = {"train.monitor": monitor}
        logged = self.client.create_logged_model(
            self.tracker.experiment, "zhou", run, {MODEL_DIGEST: digest, registry.NOTE: f"card {right}"}, params
        )
        self.client.finalize_logged_model(logged.model_id, "READY")
        scores = {f"dev/{monitor}": sum(right) / len(right) * 2.5}
        registry.log_model_scores(self.client, run, logged.model_id, LoggedModel("", {}, "", "", scores, DIGESTS))
        return run

    def promote(self, source: str | Path, if_better: bool = False) -> None:
        registry.promote(self.name, self.experiment, source, if_better)

    @property
    def experiment(self) -> str:
        return str(self.client.get_experiment(self.tracker.experiment).name)

    def champion(self) -> tuple[str, str]:
        """Its run, and the evidence."""
        version = self.client.get_model_version_by_alias(self.name, CHAMPION)
        return version.run_id, version.tags[EVIDENCE].partition(", ")[2]


@pytest.fixture
def models(tracker, tmp_path):
    return Models(tracker, tmp_path)


def test_better_model_becomes_champion_with_evidence_and_card(models, capsys):
    first, second = models.add(20, 20), models.add(31)
    models.promote(first)
    assert models.champion() == (first, "first champion")
    # the file of the model that was logged last
    models.promote(models.folder / DEV_ANSWERS, if_better=True)
    run, evidence = models.champion()
    assert run == second
    assert re.fullmatch(r"against version 1: \+27.50, p 0.0\d\d by .* \(1 seed each, 40 dev sentences\)", evidence)
    assert models.client.get_model_version(models.name, "2").description == "card (31,)"
    printed = capsys.readouterr().out
    assert "dev accuracy 77.50" in printed
    assert "dev accuracy 50.00, the champion, version 1" in printed
    models.promote(f"{models.name}/2")
    assert "it is the champion already, version 2" in capsys.readouterr().out
    # back to a version that is there
    models.promote(first)
    assert models.client.get_model_version_by_alias(models.name, CHAMPION).run_id == first


def test_worse_model_is_promoted_only_without_condition(models):
    worse, better = models.add(20), models.add(31)
    models.promote(better)
    models.promote(worse, if_better=True)
    assert models.champion()[0] == better
    models.promote(worse)
    assert models.champion()[0] == worse


def test_least_loss_is_best(models):
    high, low = models.add(30, monitor="loss"), models.add(20, monitor="loss")
    models.promote(high)
    models.promote(low, if_better=True)
    assert models.champion() == (low, "against version 1: -25.0000, without a test, since a loss compares no labels")


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"monitor": "macro_f1"}, "the dev scores are macro_f1 and accuracy, which do not compare"),
        ({"first_id": 100}, "the dev sentences are not the same"),
        ({"answers": False}, f"has no {DEV_ANSWERS}"),
    ],
)
def test_incomparable_model_is_refused_if_it_must_be_better(other, reason, models):
    first, second = models.add(20), models.add(31, **other)
    models.promote(first)
    with pytest.raises(UserError, match=reason):
        models.promote(second, if_better=True)
    assert models.champion()[0] == first
    models.promote(second)
    assert models.champion()[0] == second


def test_champion_made_by_hand_is_replaced_without_condition(models):
    run = models.add(20)
    models.client.create_registered_model(models.name)
    models.client.create_model_version(models.name, "runs:/x/model")
    models.client.set_registered_model_alias(models.name, CHAMPION, "1")
    with pytest.raises(UserError, match="no comparison with version 1, the champion: it has no dev score"):
        models.promote(run, if_better=True)
    models.promote(run)
    assert models.champion()[0] == run


def test_model_is_found_by_id_prefix_name_or_version(models):
    first, second = models.add(20, name="zhou u=8"), models.add(31, name="mean")
    new_run(models.tracker, "mean")  # without a model
    for source, run in ((first, first), (first[:12], first), ("zhou u=8", first), ("mean", second)):
        assert find_model(models.client, source).source_run_id == run
    models.promote(second)
    assert find_model(models.client, f"{models.name}/1").source_run_id == second


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("zhou", "zhou: 2 runs fit; type more of an id. Runs with a model: "),
        ("xyz", "xyz: no run of this id or name has a model. Runs with a model: "),
        ('a "name"', "no run of this id or name has a model"),
        ("nobody/7", "nobody/7: no model of this version: "),
        (Path("params.yaml"), "params.yaml: not logged yet"),
    ],
)
def test_unknown_or_ambiguous_model_is_one_line(source, reason, models):
    models.add(20), models.add(31)
    message = refusal(lambda: find_model(models.client, source, models.experiment), UserError)
    assert reason in message
    assert "\n" not in message
