"""Runs of the pipeline: one per seed, which its test scores join; several seeds under a parent; nothing twice."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bilstm_attention import paths
from bilstm_attention.config import Params, with_overrides
from bilstm_attention.evaluation.results import EvaluationResult
from bilstm_attention.tracking.pipeline import (
    PIPELINE_DIGEST,
    attention_metrics,
    corpus_name,
    evaluation_records,
    model_name,
    pipeline_model,
    run_name,
    training_record,
)
from bilstm_attention.tracking.registry import MODEL_DIGEST
from bilstm_attention.tracking.runs import RunRecord

HISTORY = pd.DataFrame({"epoch": [1, 2], "loss": [1.0, 0.5], "dev_accuracy": [55.0, 60.0]})
DEV = {0: {"loss": 0.9, "accuracy": 60.0}, 1: {"loss": 0.5, "accuracy": 70.0}}
FALLS = {"mean": 31.0, "sd": None, "by_seed": {"0": 30.0, "1": 32.0}}
FAITHFULNESS = {
    "comprehensiveness": {"attention": FALLS},
    "entropy": {**FALLS, "by_seed": {}},
    "rank_correlation": None,
}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project as `report` leaves it, the models mere bytes: their digests count."""
    files = {
        **dict.fromkeys(("dvc.yaml", "params.yaml"), "{}\n"),
        **{f"data/prepared/{split}.parquet": split for split in ("train", "dev", "test")},
        **{f"experiments/current/models/seed-{seed}/model.keras": f"model {seed}" for seed in DEV},
        "data/prepared/labels.json": json.dumps(["Other"]),
        "data/embeddings/vocabulary.txt": "<pad>\n",
        "experiments/current/metrics.json": "{}",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def params(*seeds: int, **overrides: Any) -> Params:
    return with_overrides(Params(), {"train.seeds": list(seeds), "train.monitor": "accuracy", **overrides})


def result(*seeds: int) -> EvaluationResult:
    by_seed = {str(seed): 50.0 + seed for seed in seeds}
    summary = {"mean": 51.0, "sd": 1.0 if len(seeds) > 1 else None, "low": 40.0, "high": 60.0, "by_seed": by_seed}
    metrics = {
        "test": {"accuracy": summary},
        "dev": {"accuracy": {"mean": 65.0, "sd": summary["sd"], "by_seed": {}}},
        "ensemble": {"accuracy": 52.0},
        "baselines": {"majority": {"accuracy": 20.0}},
        "dev_faithfulness": FAITHFULNESS,
    }
    table = pd.DataFrame({"id": ["1"], "gold": ["Other"]})
    return EvaluationResult(metrics, table, table, table, table, table, {}, {}, {})


def records(*seeds: int, **overrides: Any) -> list[RunRecord]:
    settings = params(*seeds, **overrides)
    trainings = [training_record(settings, seed, DEV[seed], HISTORY, started=5.0 + seed) for seed in seeds]
    pages = {seed: Path(f"seed-{seed}.html") for seed in seeds}
    descriptions: dict[int | None, str] = {None: "whole", **{seed: f"seed {seed}" for seed in seeds}}
    return evaluation_records(settings, trainings, result(*seeds), pages, descriptions, None)


def test_one_seed_has_one_run() -> None:
    (run,) = records(0)
    training = training_record(params(0), 0, DEV[0], HISTORY)
    assert run.identity == training.identity
    assert run.identity[0] == PIPELINE_DIGEST
    assert run.parent is None
    assert run.metrics.items() >= {"best_dev_accuracy": 60.0, "test_accuracy": 50.0, "test_accuracy_low": 40.0}.items()
    assert "test_accuracy_mean" not in run.metrics
    assert set(run.datasets) == {"train", "dev", "test"}
    assert (run.description, run.started) == ("whole", 5.0)


def test_several_seeds_have_a_parent_with_mean_and_ensemble() -> None:
    parent, *children = records(0, 1)
    assert [child.parent for child in children] == [parent.identity] * 2
    assert [child.metrics["test_accuracy"] for child in children] == [50.0, 51.0]
    assert [child.identity[0] for child in children] == [MODEL_DIGEST] * 2
    assert parent.metrics["test_accuracy_mean"] == 51.0
    assert parent.metrics["ensemble_test_accuracy"] == 52.0
    assert parent.metrics["majority_test_accuracy"] == 20.0
    assert (parent.name, parent.started) == ("zhou u=100 seeds=0,1", 5.0)


@pytest.mark.parametrize("change", ["model", "test", "evaluate"])
def test_other_models_test_set_or_scoring_are_another_run(change: str, project: Path) -> None:
    before = records(0)[0].identity
    if change == "model":
        (project / paths.seed_folder(0) / "model.keras").write_text("other")
    elif change == "test":
        (project / "data/prepared/test.parquet").write_text("other")
    after = records(0, **({"evaluate.bootstrap": 200} if change == "evaluate" else {}))[0].identity
    assert after != before


def test_attention_metrics_are_of_a_seed_or_the_mean() -> None:
    assert attention_metrics(FAITHFULNESS, 1) == {"dev_comprehensiveness_attention": 32.0}
    assert attention_metrics(FAITHFULNESS) == {"dev_comprehensiveness_attention": 31.0, "dev_attention_entropy": 31.0}


def test_model_is_gathered_for_logging(tmp_path: Path) -> None:
    model = pipeline_model(params(0, 1), result(0, 1), 1, tmp_path / "classifier")
    assert model is not None
    assert {file.name for file in model.folder.iterdir()} == {
        "model.keras",
        "vocabulary.txt",
        "labels.json",
        "params.yaml",
    }
    assert (model.folder / "model.keras").read_text() == "model 1"
    assert (model.name, model.tags["dev"], model.tags["monitor"]) == ("sample", "65.0", "accuracy")
    plain = params(0, **{"data.format": "delimited"})
    assert "<e1>" in model.example
    assert "<e1>" not in (pipeline_model(plain, result(0), 0, tmp_path / "plain") or model).example
    assert pipeline_model(params(0, **{"evaluate.log_model": False}), result(0), 0, tmp_path / "none") is None


def test_names() -> None:
    settings = params(2, **{"data.folder": "data/external/my: corpus"})
    assert (corpus_name(settings), model_name(settings), run_name(settings, [2])) == (
        "my: corpus",
        "my_ corpus",
        "zhou u=100 seed=2",
    )
