"""Runs of the pipeline: one per seed, which its test scores join, and a parent of several; built from files alone."""

import hashlib
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import pytest
from tests.small import begin_project, write

from bilstm_attention import paths
from bilstm_attention.config import Params, with_overrides
from bilstm_attention.tracking import pipeline
from bilstm_attention.tracking.environment import environment_tags
from bilstm_attention.tracking.pipeline import evaluation_records, log_training, pipeline_records, training_record
from bilstm_attention.tracking.registry import MODEL_DIGEST
from bilstm_attention.tracking.runs import PARENT, Tracker, log_runs

DEV = {0: {"loss": 0.9, "accuracy": 60.0}, 1: {"loss": 0.5, "accuracy": 70.0}}
ATTENTION = {"mean": 31.0, "sd": None, "by_seed": {"0": 30.0, "1": 32.0}}
FAITHFULNESS = {
    "rows": 20,
    "comprehensiveness": {"attention": ATTENTION, "random": ATTENTION},
    "entropy": {**ATTENTION, "by_seed": {}},
    "rank_correlation": None,
    "curves": {"percent": [1, 5]},
}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A project after `train` with two seeds, the models mere bytes: their digests count."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "stages_of_other_params", lambda *targets: set())
    begin_project(tmp_path)
    for split in ("train", "dev", "test"):
        write(tmp_path / f"data/prepared/{split}.parquet", split)
    for seed, dev in DEV.items():
        folder = str(paths.seed_folder(seed))
        write(tmp_path / f"{folder}/model.keras", f"model {seed}")
        write(tmp_path / f"{folder}/dev.json", {"best_epoch": 2, "epochs": 2, "dev": dev, "key": f"key {seed}"})
        write(tmp_path / f"{folder}/history.csv", pd.DataFrame(history(seed)).to_csv(index=False))
    return tmp_path


def history(seed: int) -> list[dict[str, float]]:
    """Two epochs, the second with the dev scores of the seed."""
    first = {"epoch": 1, "learning_rate": 0.1, "loss": 1.0, "dev_loss": 0.95, "dev_accuracy": 55.0 + seed}
    return [first, {**first, "epoch": 2, "loss": 1 / 3, **{f"dev_{name}": value for name, value in DEV[seed].items()}}]


def params(*seeds: int, **overrides: Any) -> Params:
    return with_overrides(Params(), {"train.seeds": list(seeds), "train.monitor": "accuracy", **overrides})


def evaluate(project: Path, *seeds: int) -> None:
    """Writes what `evaluate` and `report` leave."""

    def of_seeds(scores: dict[str, float]) -> dict[str, Any]:
        return {"mean": fmean(scores.values()), "sd": 1.0 if len(seeds) > 1 else None, "by_seed": scores}

    scores = {
        "test": {"accuracy": of_seeds({str(seed): 50.0 + seed for seed in seeds}) | {"low": 40.0, "high": 60.0}},
        "dev": {name: of_seeds({str(seed): DEV[seed][name] for seed in seeds}) for name in ("loss", "accuracy")},
        "ensemble": {"accuracy": 52.0},
        "baselines": {"majority": {"accuracy": 20.0}},
        "baseline_sentences": 9,
        "test_coverage": {"types": 90.0, "tokens": 99.0},
        "dev_faithfulness": FAITHFULNESS,
        "test_calibration": {"raw": {"ece": ATTENTION}, "scaled": {"ece": ATTENTION}},
        "corpus": "sample",
    }
    write(project / "experiments/current/scores.json", scores)
    split = {"rows": 9, "labels": {"A": 4, "B": 5}}
    write(project / "data/prepared/summary.json", {"splits": dict.fromkeys(("train", "dev", "test"), split)})
    write(project / "experiments/current/dev_predictions.csv", "id,gold,seed_0\n1,NA,NA\n")
    write(project / "experiments/current/plots/overview.png", "png")
    for name in ("answers/gold.txt", *(f"attention/seed-{seed}.html" for seed in seeds)):
        write(project / f"experiments/current/{name}", name)


def test_run_of_a_training_has_its_scores_and_curves():
    record = training_record(params(0, 1), 1)
    assert (record.name, record.identity[0]) == ("seed=1 zhou monitor=accuracy", pipeline.TRAINING_KEY)
    assert record.tags[MODEL_DIGEST] == hashlib.sha256(b"model 1").hexdigest()
    assert record.started == (paths.seed_folder(1) / "model.keras").stat().st_mtime
    assert record.metrics == {"dev/loss": 0.5, "dev/accuracy": 70.0, "loss": 1 / 3, "best_epoch": 2}
    assert record.history[0] == {"epoch": 1, "learning_rate": 0.1, "loss": 1.0, "dev/loss": 0.95, "dev/accuracy": 56.0}
    assert record.history[2] == {"epoch": 3, "loss": 1 / 3, "dev/loss": 0.5, "dev/accuracy": 70.0}
    assert (record.tags["seed"], set(record.datasets)) == ("1", {"train", "dev"})
    assert "epoch 2 of 2" in record.description


def test_one_seed_has_one_run(project):
    evaluate(project, 0)
    (run,) = evaluation_records(params(0))
    assert run.identity == training_record(params(0), 0).identity
    assert run.parent is None
    scores = {"dev/accuracy": 60.0, "test/accuracy": 50.0, "test/accuracy/low": 40.0, "test/baseline/majority": 20.0}
    assert run.metrics.items() >= scores.items()
    assert not {"test/accuracy/sd", "test/accuracy/ensemble"} & set(run.metrics)
    assert set(run.datasets) == {"train", "dev", "test"}
    assert "seed-0" in run.description


@pytest.fixture
def store(mlflow_store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    return mlflow_store


def test_parent_has_the_means_of_its_children(project, store):
    evaluate(project, 0, 1)
    settings = params(0, 1, **{"evaluate.log_model": False})
    records = evaluation_records(settings)
    ids = log_runs("sample", records, "all")
    tracker = Tracker("sample")
    parent, *children = (tracker.client.get_run(ids[record.identity]) for record in records)
    assert {child.data.tags[PARENT] for child in children} == {parent.info.run_id}
    assert [child.data.metrics["dev/attention/comprehensiveness"] for child in children] == [30.0, 32.0]
    assert [child.data.metrics["test/ece"] for child in children] == [30.0, 32.0]
    shared = children[0].data.metrics.keys() & parent.data.metrics.keys()
    assert shared >= {"loss", "dev/loss", "dev/accuracy", "test/accuracy", "dev/attention/comprehensiveness"}
    for name in shared:
        assert parent.data.metrics[name] == pytest.approx(fmean(child.data.metrics[name] for child in children)), name
    assert set(parent.data.metrics) - shared == {
        *("dev/accuracy/sd", "test/accuracy/sd", "test/accuracy/low", "test/accuracy/high", "test/accuracy/ensemble"),
        *("test/baseline/majority", "dev/attention/entropy"),
    }
    curve = tracker.client.get_metric_history(parent.info.run_id, "dev/accuracy")
    assert {point.step: point.value for point in curve} == {1: 55.5, 2: 65.0, 3: 65.0}
    assert parent.info.run_name == "seeds=0,1 zhou monitor=accuracy"
    assert parent.info.start_time == min(child.info.start_time for child in children)


def test_mean_curve_is_of_the_seeds_that_got_so_far(project):
    write(project / f"{paths.seed_folder(0)}/history.csv", pd.DataFrame(history(0)[:1]).to_csv(index=False))
    write(project / f"{paths.seed_folder(0)}/dev.json", {"best_epoch": 1, "epochs": 1, "dev": DEV[0]})
    evaluate(project, 0, 1)
    first, second, kept = evaluation_records(params(0, 1))[0].history
    assert (first["dev/accuracy"], second["dev/accuracy"]) == (55.5, 70.0)
    assert first["dev/accuracy/sd"] == pytest.approx(0.5**0.5)
    assert "dev/accuracy/sd" not in second
    assert (kept["epoch"], kept["dev/accuracy"], kept["dev/accuracy/sd"]) == (3, 65.0, 1.0)


def test_training_is_logged_live_and_goes_on_in_its_run(store):
    settings, rows = params(0), history(0)

    def press_ctrl_c():
        with log_training(settings, 0, "key 0", []) as log_epoch:
            log_epoch(rows[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        press_ctrl_c()
    tracker = Tracker("sample")
    (killed,) = tracker.client.search_runs([tracker.experiment])
    assert (killed.info.status, killed.data.metrics["dev/accuracy"]) == ("KILLED", 55.0)
    with log_training(settings, 0, "key 0", rows[:1]) as log_epoch:
        log_epoch(rows[1])
    (run,) = tracker.client.search_runs([tracker.experiment])
    assert (run.info.run_id, run.info.status) == (killed.info.run_id, "FINISHED")
    points = tracker.client.get_metric_history(run.info.run_id, "dev/accuracy")
    assert [(point.step, point.value) for point in points] == [(1, 55.0), (2, 60.0), (3, 60.0)]
    # the same from the files on disk
    assert tracker.has(training_record(settings, 0))
    with log_training(params(0, **{"evaluate.bootstrap": 200}), 0, "key 0", rows):
        pass
    assert len(tracker.client.search_runs([tracker.experiment])) == 2


@pytest.mark.parametrize("change", ["training", "test", "evaluate"])
def test_other_trainings_test_set_or_scoring_are_another_run(change, project):
    before = training_record(params(0), 0).identity
    if change == "training":
        report = {"best_epoch": 2, "epochs": 2, "dev": DEV[0], "key": "other"}
        write(project / f"{paths.seed_folder(0)}/dev.json", report)
    elif change == "test":
        (project / "data/prepared/test.parquet").write_text("other")
    settings = params(0, **({"evaluate.bootstrap": 200} if change == "evaluate" else {}))
    assert training_record(settings, 0).identity != before


def test_best_model_is_logged_with_the_whole(project):
    evaluate(project, 0, 1)
    model = evaluation_records(params(0, 1))[0].model
    assert model is not None
    assert model.files["model.keras"] == paths.seed_folder(1) / "model.keras"
    assert set(model.files) == {"model.keras", "vocabulary.txt", "labels.json", "params.yaml", "calibration.json"}
    assert model.name == pipeline.run_name(params(0, 1), [1])
    assert model.scores == {"dev/loss": 0.7, "dev/accuracy": 65.0, "test/accuracy": 50.5}
    assert {len(digest) for digest in model.datasets.values()} == {36}
    parts = ("train 9", "2 labels: A, B", "Seed 1, the best on dev of the seeds 0, 1", "40.00–60.00", "sample@champion")
    assert [part for part in parts if part not in model.card] == []
    assert "<e1>" in model.example
    plain = evaluation_records(params(0, 1, **{"data.format": "table"}))[0].model
    assert plain is not None
    assert "<e1>" not in plain.example
    assert evaluation_records(params(0, 1, **{"evaluate.log_model": False}))[0].model is None


def test_records_on_disk_and_what_is_missing(project, monkeypatch):
    records, missing = pipeline_records(params(0, 1, 7))
    assert [record.tags["seed"] for record in records] == ["0", "1"]
    assert missing == ["seed 7 is not trained", "these models are not evaluated"]
    evaluate(project, 0, 1)
    records, missing = pipeline_records(params(0, 1))
    assert (records[0].name, len(records), missing) == ("seeds=0,1 zhou monitor=accuracy", 3, [])
    # trained again since: the evaluation is of other models
    write(project / f"{paths.seed_folder(1)}/dev.json", {"best_epoch": 2, "epochs": 2, "dev": {**DEV[1], "loss": 0.4}})
    assert pipeline_records(params(0, 1))[1] == ["these models are not evaluated"]
    monkeypatch.setattr(pipeline, "stages_of_other_params", lambda *targets: {"train@1"})
    records, missing = pipeline_records(params(0, 1))
    assert [record.tags["seed"] for record in records] == ["0"]
    assert missing[0] == "seed 1 was trained with other parameters"


@pytest.mark.parametrize(
    ("measured", "key", "expected"),
    [
        (FAITHFULNESS, "1", {"comprehensiveness": 32.0}),
        (FAITHFULNESS, "mean", {"comprehensiveness": 31.0, "entropy": 31.0}),
        ({"comprehensiveness": {"attention": 3.0}, "entropy": 2.0}, "mean", {"comprehensiveness": 3.0, "entropy": 2.0}),
        ({}, "mean", {}),
    ],
)
def test_attention_metrics(measured, key, expected):
    assert pipeline.attention_metrics(measured, key) == {
        f"dev/attention/{name}": value for name, value in expected.items()
    }


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ({"train.monitor": "official_f1"}, "zhou defaults"),
        (
            {"data.folds": 3, "train.epochs": 5, "model.attention.kind": "max"},
            "max epochs=5 monitor=accuracy data.folds=3",
        ),
        (
            {"embeddings.source": "file", "embeddings.path": "x" * 200},
            "zhou monitor=accuracy embeddings.source=file embeddings.path=xxx",
        ),
    ],
)
def test_name_says_what_differs_from_the_defaults(overrides, name):
    full = pipeline.run_name(params(2, 3, **overrides), [2, 3])
    assert full.startswith(f"seeds=2,3 {name}")
    assert len(full) <= 120
    assert full.endswith("…") == ("xxx" in name)


def test_name_of_many_seeds_is_cut():
    assert pipeline.run_name(params(*range(60)), range(60)).startswith("seeds=0,1,2,")


def test_name_holds_the_experiment_of_dvc(monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "puffy-daks")
    assert pipeline.run_name(params(2), [2]) == "seed=2 zhou puffy-daks monitor=accuracy"
    assert environment_tags()["dvc.experiment"] == "puffy-daks"


def test_names():
    settings = params(2, **{"data.folder": "data/external/my: corpus"})
    assert (pipeline.corpus_name(settings), pipeline.model_name(settings)) == ("my: corpus", "my_ corpus")
    assert pipeline.model_name(params(2, **{"evaluate.register_as": "relations"})) == "relations"
