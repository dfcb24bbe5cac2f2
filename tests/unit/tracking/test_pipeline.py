"""Runs of the pipeline: one per seed, which its test scores join, and a parent of several; built from files alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from bilstm_attention import paths
from bilstm_attention.config import Params, with_overrides
from bilstm_attention.tracking import pipeline
from bilstm_attention.tracking.pipeline import (
    PIPELINE_DIGEST,
    corpus_name,
    evaluation_records,
    flatten_metrics,
    model_name,
    pipeline_records,
    run_name,
    training_record,
)
from bilstm_attention.tracking.registry import DEV_DIGEST, MODEL_DIGEST

DEV = {0: {"loss": 0.9, "accuracy": 60.0}, 1: {"loss": 0.5, "accuracy": 70.0}}
ATTENTION = {"mean": 31.0, "sd": None, "by_seed": {"0": 30.0, "1": 32.0}}
FAITHFULNESS = {
    "rows": 20,
    "comprehensiveness": {"attention": ATTENTION},
    "entropy": {**ATTENTION, "by_seed": {}},
    "rank_correlation": None,
    "curves": {"percent": [1, 5]},
}


def write(project: Path, name: str, content: str | dict[str, Any]) -> None:
    (project / name).parent.mkdir(parents=True, exist_ok=True)
    (project / name).write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project after `train` with two seeds, the models mere bytes: their digests count."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "stages_of_other_params", lambda *targets: set())
    for name in ("dvc.yaml", "params.yaml"):
        write(tmp_path, name, "{}\n")
    for split in ("train", "dev", "test"):
        write(tmp_path, f"data/prepared/{split}.parquet", split)
    for seed, dev in DEV.items():
        folder = str(paths.seed_folder(seed))
        write(tmp_path, f"{folder}/model.keras", f"model {seed}")
        write(tmp_path, f"{folder}/dev.json", {"best_epoch": 2, "epochs": 2, "dev": dev})
        write(tmp_path, f"{folder}/history.csv", "epoch,loss,dev_accuracy\n1,1.0,55.0\n2,0.5,60.0\n")
    return tmp_path


def params(*seeds: int, **overrides: Any) -> Params:
    return with_overrides(Params(), {"train.seeds": list(seeds), "train.monitor": "accuracy", **overrides})


def evaluate(project: Path, *seeds: int) -> None:
    """Writes what `evaluate` and `report` leave."""
    several = len(seeds) > 1
    test = {"mean": 51.0, "sd": 1.0 if several else None, "low": 40.0, "high": 60.0}
    dev = {name: {str(seed): DEV[seed][name] for seed in seeds} for name in ("loss", "accuracy")}
    scores = {
        "test": {"accuracy": {**test, "by_seed": {str(seed): 50.0 + seed for seed in seeds}}},
        "dev": {name: {"mean": 65.0, "sd": test["sd"], "by_seed": by_seed} for name, by_seed in dev.items()},
        "ensemble": {"accuracy": 52.0},
        "baselines": {"majority": {"accuracy": 20.0}},
        "baseline_sentences": 9,
        "test_coverage": {"types": 90.0, "tokens": 99.0},
        "dev_faithfulness": FAITHFULNESS,
    }
    write(project, "experiments/current/scores.json", scores)
    write(project, "experiments/current/dev_predictions.csv", "id,gold,seed_0\n1,NA,NA\n")
    write(project, "experiments/current/plots/overview.png", "png")


def test_run_of_a_training_has_its_scores_and_curves() -> None:
    record = training_record(params(0, 1), 1, started=5.0)
    assert (record.name, record.started, record.identity[0]) == ("zhou u=100 seed=1", 5.0, MODEL_DIGEST)
    assert record.metrics == {"best_dev_loss": 0.5, "best_dev_accuracy": 70.0}
    assert record.history[1] == {"epoch": 2, "loss": 0.5, "dev_accuracy": 60.0}
    assert (record.tags["seed"], set(record.datasets)) == ("1", {"train", "dev"})
    assert "epoch 2 of 2" in record.description
    model = paths.seed_folder(1) / "model.keras"
    assert training_record(params(0, 1), 1).started == model.stat().st_mtime


def test_one_seed_has_one_run(project: Path) -> None:
    evaluate(project, 0)
    (run,) = evaluation_records(params(0))
    assert run.identity == training_record(params(0), 0).identity
    assert run.identity[0] == PIPELINE_DIGEST
    assert run.parent is None
    assert run.metrics.items() >= {"best_dev_accuracy": 60.0, "test_accuracy": 50.0, "test_accuracy_low": 40.0}.items()
    assert "test_accuracy_mean" not in run.metrics
    assert set(run.datasets) == {"train", "dev", "test"}
    assert "seed-0" in run.description


def test_several_seeds_have_a_parent_with_mean_and_ensemble(project: Path) -> None:
    evaluate(project, 0, 1)
    parent, *children = evaluation_records(params(0, 1))
    assert [child.parent for child in children] == [parent.identity] * 2
    assert [child.metrics["test_accuracy"] for child in children] == [50.0, 51.0]
    assert [child.metrics["dev_faithfulness_comprehensiveness_attention"] for child in children] == [30.0, 32.0]
    scores = {"test_accuracy_mean": 51.0, "ensemble_test_accuracy": 52.0, "majority_test_accuracy": 20.0}
    assert parent.metrics.items() >= scores.items()
    assert parent.name == "zhou u=100 seeds=0,1"
    assert parent.started == min(child.started or 0 for child in children)


@pytest.mark.parametrize("change", ["model", "test", "evaluate"])
def test_other_models_test_set_or_scoring_are_another_run(change: str, project: Path) -> None:
    before = training_record(params(0), 0).identity
    if change == "model":
        (project / paths.seed_folder(0) / "model.keras").write_text("other")
    elif change == "test":
        (project / "data/prepared/test.parquet").write_text("other")
    settings = params(0, **({"evaluate.bootstrap": 200} if change == "evaluate" else {}))
    assert training_record(settings, 0).identity != before


def test_best_model_is_logged_with_the_whole(project: Path) -> None:
    evaluate(project, 0, 1)
    model = evaluation_records(params(0, 1))[0].model
    assert model is not None
    assert model.files["model.keras"] == paths.seed_folder(1) / "model.keras"
    assert set(model.files) == {"model.keras", "vocabulary.txt", "labels.json", "params.yaml"}
    assert (model.name, model.tags["dev"], model.tags["monitor"]) == ("sample", "65.0", "accuracy")
    assert len(model.tags[DEV_DIGEST]) == 64
    assert "<e1>" in model.example
    plain = evaluation_records(params(0, 1, **{"data.format": "delimited"}))[0].model
    assert plain is not None
    assert "<e1>" not in plain.example
    assert evaluation_records(params(0, 1, **{"evaluate.log_model": False}))[0].model is None


def test_records_on_disk_and_what_is_missing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, missing = pipeline_records(params(0, 1, 7))
    assert [record.tags["seed"] for record in records] == ["0", "1"]
    assert missing == ["seed 7 is not trained", "these models are not evaluated"]
    evaluate(project, 0, 1)
    records, missing = pipeline_records(params(0, 1))
    assert (records[0].name, len(records), missing) == ("zhou u=100 seeds=0,1", 3, [])
    # trained again since: the evaluation is of other models
    write(project, f"{paths.seed_folder(1)}/dev.json", {"best_epoch": 2, "epochs": 2, "dev": {**DEV[1], "loss": 0.4}})
    assert pipeline_records(params(0, 1))[1] == ["these models are not evaluated"]
    monkeypatch.setattr(pipeline, "stages_of_other_params", lambda *targets: {"train@1"})
    records, missing = pipeline_records(params(0, 1))
    assert [record.tags["seed"] for record in records] == ["0"]
    assert missing[0] == "seed 1 was trained with other parameters"


def test_metrics_are_flattened_by_seed_or_key() -> None:
    one = flatten_metrics(FAITHFULNESS, "dev", "1")
    assert one == {"dev_rows": 20, "dev_comprehensiveness_attention": 32.0}
    assert flatten_metrics(FAITHFULNESS, "dev", "mean") == {
        **one,
        "dev_comprehensiveness_attention": 31.0,
        "dev_entropy": 31.0,
    }


def test_names() -> None:
    settings = params(2, **{"data.folder": "data/external/my: corpus"})
    assert (corpus_name(settings), model_name(settings)) == ("my: corpus", "my_ corpus")
    assert model_name(params(2, **{"evaluate.register_as": "relations"})) == "relations"
    assert run_name(settings, [2, 3]) == "zhou u=100 seeds=2,3"
