"""One run per trained model, which its test scores join; several seeds under a parent; nothing twice."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bilstm_attention import paths
from bilstm_attention.config import Params, with_overrides
from bilstm_attention.evaluation.results import EvaluationResult
from bilstm_attention.tracking import outbox
from bilstm_attention.tracking.runs import (
    PIPELINE_DIGEST,
    best_seed,
    corpus_name,
    model_name,
    record_evaluation,
    record_training,
    run_name,
)
from bilstm_attention.tracking.store import MODEL_DIGEST, PARENT, Tracker

DEV = {0: {"loss": 0.9, "accuracy": 60.0}, 1: {"loss": 0.5, "accuracy": 70.0}, 2: {"loss": 0.4, "accuracy": 70.0}}
HISTORY = pd.DataFrame({"epoch": [1, 2], "loss": [1.0, 0.5], "dev_accuracy": [55.0, 60.0]})
Logged = tuple[str, dict[str, bytes], str, str, dict[str, str]]
MODEL_FILES = {"model.keras", "vocabulary.txt", "labels.json", "params.yaml"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project as `train` leaves it, the models mere bytes: their digests are what counts here."""
    root = tmp_path_factory.mktemp("recorded") / "project"
    files = {
        **dict.fromkeys(("dvc.yaml", "params.yaml"), "{}\n"),
        **{f"data/prepared/{split}.parquet": split for split in ("train", "dev", "test")},
        "data/prepared/labels.json": json.dumps(["Other"]),
        "data/embeddings/vocabulary.txt": "<pad>\n",
        "picture.png": "png",
        "experiments/current/metrics.json": "{}",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.fixture(autouse=True)
def logged(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[Logged]:
    """Models that would be logged: run, content, example."""
    models: list[Logged] = []

    def note(tracker: Tracker, run_id: str, folder: Path, example: str, name: str, tags: dict[str, str]) -> None:
        models.append((run_id, {file.name: file.read_bytes() for file in folder.iterdir()}, example, name, tags))

    monkeypatch.setattr(outbox, "log_model", note)
    monkeypatch.chdir(project)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return models


Pipeline = Callable[..., Params]


@pytest.fixture
def pipeline(project: Path, request: pytest.FixtureRequest) -> Pipeline:
    """Parameters of a corpus of the test's own, and the models of its seeds on disk."""

    def make(*seeds: int, **overrides: Any) -> Params:
        for seed in seeds:
            folder = project / paths.seed_folder(seed)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "model.keras").write_text(f"{request.node.name} {seed}")
        corpus = {"data.folder": f"data/{request.node.name}", "train.seeds": list(seeds), "train.monitor": "accuracy"}
        return with_overrides(Params(), {**corpus, **overrides})

    return make


def verdict_on(params: Params) -> EvaluationResult:
    seeds = params.train.seeds
    by_seed = {str(seed): 50.0 + seed for seed in seeds}
    summary = {"mean": 51.0, "sd": 1.0 if len(seeds) > 1 else None, "low": 40.0, "high": 60.0, "by_seed": by_seed}
    metrics = {
        "test": {"accuracy": summary},
        "dev": {"accuracy": {"mean": 66.0, "sd": summary["sd"], "by_seed": {}}},
        "ensemble": {"accuracy": 52.0},
        "baselines": {"majority": {"accuracy": 20.0}},
    }
    dev, histories = {seed: DEV[seed] for seed in seeds}, dict.fromkeys(seeds, HISTORY)
    names = ("predictions", "dev_predictions", "confusion", "classes", "learning_curves")
    tables = {name: pd.DataFrame({"id": ["1"], "gold": ["Other"]}) for name in names}
    falls = {"mean": 31.0, "sd": None, "by_seed": {str(seed): 30.0 + seed for seed in seeds}}
    nothing = {**falls, "by_seed": {}}
    faithfulness = {"comprehensiveness": {"attention": falls}, "entropy": nothing, "rank_correlation": None, "rows": 9}
    return EvaluationResult(
        metrics=metrics, dev=dev, histories=histories, coverage={}, faithfulness=faithfulness, **tables
    )


def train(params: Params) -> None:
    for seed in params.train.seeds:
        record_training(params, seed, DEV[seed], HISTORY, Path("picture.png"), "of a training", started=1_700_000_000.0)


def evaluate(params: Params) -> None:
    artifacts = {"": [Path("experiments/current/metrics.json")]}
    pages = {seed: Path("data/prepared/labels.json") for seed in params.train.seeds}
    descriptions: dict[int | None, str] = {seed: f"of seed {seed}" for seed in params.train.seeds}
    descriptions[None] = "of all ![](artifact:plots/a b.png)"
    record_evaluation(params, verdict_on(params), artifacts, pages, descriptions, started=1_700_000_100.0)


def runs_of(params: Params) -> dict[str, Any]:
    tracker = Tracker(corpus_name(params))
    found = tracker.client.search_runs([tracker.experiment])
    assert {run.info.status for run in found} <= {"FINISHED"}
    runs = {run.info.run_name: run for run in found}
    assert len(runs) == len(found)
    return runs


def test_names_say_what_was_trained_on_what() -> None:
    params = with_overrides(Params(), {"data.folder": "data/external/mr", "model.lstm_units": 20})
    assert corpus_name(params) == "mr"
    assert run_name(params, [2]) == "zhou u=20 seed=2"
    assert run_name(params, [0, 1, 2]) == "zhou u=20 seeds=0,1,2"


def test_a_training_is_a_run_that_the_digest_of_its_model_finds(pipeline: Pipeline) -> None:
    params = pipeline(0)
    train(params)
    (run,) = runs_of(params).values()
    model = (paths.seed_folder(0) / "model.keras").read_bytes()
    assert run.data.tags[MODEL_DIGEST] == hashlib.sha256(model).hexdigest()
    assert run.data.tags["seed"] == "0"
    assert run.data.params["train.monitor"] == "accuracy"
    assert run.data.metrics == {"best_dev_loss": 0.9, "best_dev_accuracy": 60.0, "loss": 0.5, "dev_accuracy": 60.0}
    assert {entry.dataset.name for entry in run.inputs.dataset_inputs} == {"train", "dev"}
    tracker = Tracker(corpus_name(params))
    assert [file.path for file in tracker.client.list_artifacts(run.info.run_id, "plots")] == ["plots/picture.png"]


def test_test_scores_join_the_run_of_the_only_model(pipeline: Pipeline, logged: list[Any]) -> None:
    params = pipeline(0)
    train(params)
    evaluate(params)
    (run,) = runs_of(params).values()
    assert run.data.metrics == {
        **{"best_dev_loss": 0.9, "best_dev_accuracy": 60.0, "loss": 0.5, "dev_accuracy": 60.0, "test_accuracy": 50.0},
        **{"test_accuracy_low": 40.0, "test_accuracy_high": 60.0, "majority_test_accuracy": 20.0},
        **{"dev_comprehensiveness_attention": 31.0, "dev_attention_entropy": 31.0},
    }
    assert {entry.dataset.name for entry in run.inputs.dataset_inputs} == {"train", "dev", "test"}
    tracker = Tracker(corpus_name(params))
    assert "metrics.json" in [file.path for file in tracker.client.list_artifacts(run.info.run_id)]
    pages = [file.path for file in tracker.client.list_artifacts(run.info.run_id, "attention")]
    assert pages == ["attention/labels.json"]
    assert "restored" not in run.data.tags
    described = f"of all ![](get-artifact?path=plots%2Fa%20b.png&run_uuid={run.info.run_id})"
    assert run.data.tags["mlflow.note.content"] == described
    ((run_id, content, *_),) = logged
    assert (run_id, set(content)) == (run.info.run_id, MODEL_FILES)


def test_several_seeds_stand_under_a_parent_with_the_aggregate(pipeline: Pipeline, logged: list[Any]) -> None:
    params = pipeline(0, 1, 2)
    train(params)
    evaluate(params)
    runs = runs_of(params)
    parent = runs.pop("zhou u=100 seeds=0,1,2")
    assert set(runs) == {f"zhou u=100 seed={seed}" for seed in (0, 1, 2)}
    assert {run.data.tags[PARENT] for run in runs.values()} == {parent.info.run_id}
    assert PARENT not in parent.data.tags
    assert [runs[f"zhou u=100 seed={seed}"].data.metrics["test_accuracy"] for seed in (0, 1, 2)] == [50.0, 51.0, 52.0]
    assert parent.data.metrics["test_accuracy_sd"] == 1.0
    found = [run.data.metrics.get("dev_comprehensiveness_attention") for _, run in sorted(runs.items())]
    assert (found, parent.data.metrics["dev_comprehensiveness_attention"]) == ([30.0, 31.0, 32.0], 31.0)
    assert not [name for run in runs.values() for name in run.data.metrics if name.endswith("_mean")]
    said = {name: run.data.tags["mlflow.note.content"] for name, run in runs.items()}
    assert said == {f"zhou u=100 seed={seed}": f"of seed {seed}" for seed in (0, 1, 2)}
    ((run_id, content, example, name, tags),) = logged
    # of the seeds that did best on dev, the first
    assert content["model.keras"] == (paths.seed_folder(1) / "model.keras").read_bytes()
    assert run_id == parent.info.run_id
    assert "<e1>" in example
    assert name == corpus_name(params)
    assert len(tags.pop("dev.sha256")) == 64
    assert tags == {"run": "zhou u=100 seeds=0,1,2", "monitor": "accuracy", "dev": repr((60.0 + 70.0 + 70.0) / 3)}


def test_evaluating_again_adds_no_run(pipeline: Pipeline) -> None:
    params = pipeline(0, 1)
    train(params)
    evaluate(params)
    before = {name: run.info.run_id for name, run in runs_of(params).items()}
    evaluate(params)
    after = runs_of(params)
    assert {name: run.info.run_id for name, run in after.items()} == before
    assert {run.data.tags.get("restored") for run in after.values()} == {None}


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_what_is_judged_otherwise_is_a_run_of_its_own(pipeline: Pipeline, seeds: tuple[int, ...]) -> None:
    for repeats in (1000, 5000):
        params = pipeline(*seeds, **{"evaluate.bootstrap": repeats})
        if repeats == 1000:
            train(params)
        evaluate(params)
    tracker = Tracker(corpus_name(params))
    runs = tracker.client.search_runs([tracker.experiment], "metrics.test_accuracy_low > 0")
    assert {run.data.params["evaluate.bootstrap"] for run in runs} == {"1000", "5000"}
    assert len(runs) == 2


def test_a_folder_whose_name_no_model_may_have_gives_one_that_it_may(pipeline: Pipeline) -> None:
    params = with_overrides(Params(), {"data.folder": "data/ann's v1:2"})
    assert (model_name(params), corpus_name(params)) == ("ann_s v1_2", "ann's v1:2")


def test_other_models_make_another_parent(pipeline: Pipeline) -> None:
    for seeds in ((0, 1), (0, 1, 2)):
        params = pipeline(*seeds)
        if len(seeds) == 2:
            train(params)
        else:
            record_training(params, 2, DEV[2], HISTORY, Path("picture.png"), "of a training", started=0.0)
        evaluate(params)
    parents = {name: run for name, run in runs_of(params).items() if PIPELINE_DIGEST in run.data.tags}
    assert set(parents) == {"zhou u=100 seeds=0,1", "zhou u=100 seeds=0,1,2"}


def test_a_model_whose_run_is_not_in_the_store_gets_one_that_says_so(pipeline: Pipeline) -> None:
    params = pipeline(0, 1)
    record_training(params, 0, DEV[0], HISTORY, Path("picture.png"), "of a training", started=0.0)
    evaluate(params)
    evaluate(params)
    runs = runs_of(params)
    assert len(runs) == 3
    assert runs["zhou u=100 seed=1"].data.tags["restored"] == "true"
    assert "restored" not in runs["zhou u=100 seed=0"].data.tags
    metrics = runs["zhou u=100 seed=1"].data.metrics
    assert (metrics["best_dev_accuracy"], metrics["test_accuracy"], metrics["dev_accuracy"]) == (70.0, 51.0, 60.0)


def test_a_model_is_registered_under_the_name_that_parameters_give(pipeline: Pipeline, logged: list[Any]) -> None:
    evaluate(pipeline(0, **{"evaluate.register_as": "relations"}))
    ((_, _, _, name, tags),) = logged
    assert (name, tags["dev"]) == ("relations", "60.0")


def test_no_model_is_logged_unless_asked_for(pipeline: Pipeline, logged: list[Any]) -> None:
    evaluate(pipeline(0, **{"evaluate.log_model": False}))
    assert logged == []


def test_a_corpus_without_entities_shows_its_model_by_a_plain_sentence(pipeline: Pipeline, logged: list[Any]) -> None:
    evaluate(pipeline(0, **{"data.format": "delimited"}))
    assert [example for _, _, example, *_ in logged] == ["The wheel of the car broke."]


def test_the_best_seed_is_that_of_the_monitored_score_on_dev(pipeline: Pipeline) -> None:
    params = pipeline(0, 1, 2)
    assert best_seed(DEV, params) == 1
    by_loss = with_overrides(params, {"train.monitor": "loss"})
    assert best_seed(DEV, by_loss) == 2
    assert best_seed({**DEV, 0: {"loss": 0.1, "accuracy": 99.0}}, by_loss) == 0
