import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bilstm_attention import paths, stages
from bilstm_attention.config import load_params
from bilstm_attention.console import start_tensorflow
from bilstm_attention.data.dataset import encode, load_dataset, load_labels, load_split, load_vocabulary
from bilstm_attention.errors import DataError
from bilstm_attention.evaluation import metrics as scoring

start_tensorflow()
from bilstm_attention.evaluation import evaluate as evaluation  # noqa: E402
from bilstm_attention.evaluation import faithfulness  # noqa: E402
from bilstm_attention.evaluation.evaluate import evaluate_models  # noqa: E402
from bilstm_attention.evaluation.results import (  # noqa: E402
    EvaluationResult,
    read_dev_scores,
    read_results,
    write_results,
)
from bilstm_attention.model.classifier import load_classifier, save_classifier  # noqa: E402
from bilstm_attention.model.predict import read_attention, to_labels  # noqa: E402
from bilstm_attention.training.fit import run_training  # noqa: E402

SEEDS = [3, 8]
COMMON = """
embeddings: {source: random, dimension: 4}
model: {lstm_units: 3}
train: {seeds: [3, 8], epochs: 2, batch_size: 8, learning_rate: 0.01, monitor: MONITOR}
evaluate: {bootstrap: 100}
"""
RELATIONS = "data: {format: semeval2010, folder: corpus, dev_fraction: 0.25}" + COMMON.replace("MONITOR", "official_f1")
CLASSES = (
    "data: {format: classes, folder: corpus, train: {left: left.txt, right: right.txt}, test: null, dev_fraction: 0.25}"
    + COMMON.replace("MONITOR", "accuracy")
)
SENTENCES = {
    "Cause-Effect(e1,e2)": "The <e1>{}</e1> brought a {} <e2>{}</e2>.",
    "Cause-Effect(e2,e1)": "The <e1>{}</e1> came after a {} <e2>{}</e2>.",
    "Other": "A <e1>{}</e1> beside some {} <e2>{}</e2> in the yard.",
}
NOUNS, KINDS = ["storm", "flood", "quarrel", "delay", "fever"], ["sudden", "long", "mild"]


def relation_file(path: Path, count: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    blocks = []
    for number in range(1, count + 1):
        label = list(SENTENCES)[number % len(SENTENCES)]
        words = draw.choice(NOUNS), draw.choice(KINDS), draw.choice(NOUNS)
        blocks.append(f'{number}\t"{SENTENCES[label].format(*words)}"\n{label}\nComment:\n\n')
    path.write_text("".join(blocks))


def build(folder: Path, params: str) -> Path:
    """A project after `prepare`, `embed` and `train`, but for MLflow."""
    corpus = folder / "corpus"
    corpus.mkdir()
    relation_file(corpus / "train.txt", 48, seed=0)
    relation_file(corpus / "test.txt", 15, seed=1)
    for side, way in (("left", "west"), ("right", "east")):
        lines = [f"the {noun} drifts {kind} {way}\n" for noun in NOUNS for kind in KINDS]
        (corpus / f"{side}.txt").write_text("".join(lines))
    (folder / paths.PARAMS).write_text(params)
    with contextlib.chdir(folder):
        stages.prepare()
        stages.embed()
        read, task = load_params(paths.PARAMS), load_dataset()
        for seed in SEEDS:
            fitted = run_training(read, task, seed)
            save_classifier(fitted.model, paths.seed_folder(seed) / "model.keras")
            fitted.history.to_csv(paths.seed_folder(seed) / "history.csv", index=False)
            paths.write_json(paths.seed_folder(seed) / "dev.json", {"best_epoch": fitted.best_epoch, "dev": fitted.dev})
    return folder


@pytest.fixture(scope="module")
def relations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("relations"), RELATIONS)


@pytest.fixture(scope="module")
def result(relations: Path) -> EvaluationResult:
    with contextlib.chdir(relations):
        return evaluate_models(SEEDS, load_params(paths.PARAMS).evaluate)


@pytest.fixture
def inside(relations: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(relations)
    return relations


def test_metrics_have_the_scores_of_test_dev_ensemble_and_baselines(result: EvaluationResult, inside: Path) -> None:
    names = list(scoring.metric_names(list(SENTENCES)))
    metrics = result.metrics
    assert {"test", "dev", "ensemble", "baselines"} <= set(metrics)
    assert list(metrics["test"]) == list(metrics["ensemble"]) == names
    assert list(metrics["dev"]) == ["loss", *names]
    for summary in metrics["test"].values():
        assert set(summary) == {"mean", "sd", "low", "high", "by_seed"}
    for summary in metrics["dev"].values():
        assert list(summary) == ["mean", "sd", "by_seed"]
    assert set(metrics["baselines"]) == {"majority", "tfidf_logistic"}
    assert metrics["baseline_sentences"] == len(load_split("train")) > 0
    for baseline in metrics["baselines"].values():
        assert list(baseline) == names
    assert json.loads(json.dumps(metrics)) == metrics


def test_baselines_learn_from_evenly_spaced_sentences(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = load_split("train")
    tokens = [list(each) for each in train["tokens"]]
    assert evaluation._baseline_sentences() == (tokens, train["label"].tolist())
    monkeypatch.setattr(evaluation, "BASELINE_SENTENCES", (len(train) + 1) // 2)
    assert evaluation._baseline_sentences() == (tokens[::2], train["label"].tolist()[::2])


def test_summaries_are_of_the_scores_of_each_seed(result: EvaluationResult, inside: Path) -> None:
    gold = result.predictions["gold"].tolist()
    by_seed = {
        seed: scoring.scores(gold, result.predictions[f"seed_{seed}"].tolist(), list(SENTENCES)) for seed in SEEDS
    }
    for name, summary in result.metrics["test"].items():
        found = [by_seed[seed][name] for seed in SEEDS]
        assert summary["by_seed"] == {"3": found[0], "8": found[1]}
        assert summary["mean"] == pytest.approx(np.mean(found))
        assert summary["sd"] == pytest.approx(np.std(found, ddof=1))
        assert summary["low"] <= summary["mean"] <= summary["high"]
    for name, summary in result.metrics["dev"].items():
        dev = read_dev_scores(SEEDS)
        assert summary["by_seed"] == {"3": dev[3][name], "8": dev[8][name]}
        assert summary["mean"] == pytest.approx(np.mean([dev[seed][name] for seed in SEEDS]))


def test_the_tables_speak_of_the_same_sentences(result: EvaluationResult, inside: Path) -> None:
    test = load_split("test")
    assert result.predictions.columns.tolist() == ["id", "gold", "predicted", "probability", "seed_3", "seed_8"]
    assert result.predictions["id"].tolist() == test["id"].tolist()
    dev = result.dev_predictions
    assert dev.columns.tolist() == ["id", "gold", "seed_3", "seed_8"]
    assert dev["id"].tolist() == load_split("dev")["id"].tolist()
    for seed, found in read_dev_scores(SEEDS).items():
        right = (dev["gold"] == dev[f"seed_{seed}"]).mean()
        assert 100 * right == pytest.approx(found["accuracy"])
    assert result.predictions["gold"].tolist() == test["label"].tolist()
    assert result.confusion.to_numpy().sum() == len(test) == result.classes["support"].sum()
    agreed = (result.predictions["gold"] == result.predictions["predicted"]).mean() * 100
    assert result.metrics["ensemble"]["accuracy"] == pytest.approx(agreed)
    assert np.trace(result.confusion.to_numpy()) / len(test) * 100 == pytest.approx(agreed)


def test_learning_curves_are_the_mean_of_the_histories(result: EvaluationResult, inside: Path) -> None:
    first, second = (pd.read_csv(paths.seed_folder(seed) / "history.csv") for seed in SEEDS)
    mean = (first + second) / 2
    pd.testing.assert_frame_equal(result.learning_curves, mean, check_dtype=False)


def test_predictions_are_those_of_each_sentence_alone(result: EvaluationResult, inside: Path) -> None:
    labels = load_labels()
    rows = encode(load_split("test"), load_vocabulary(), labels)
    models = [load_classifier(paths.seed_folder(seed) / "model.keras") for seed in SEEDS]
    alone = np.array([[np.asarray(model(tokens[None, :], training=False))[0] for tokens in rows] for model in models])
    for seed, probabilities in zip(SEEDS, alone, strict=True):
        assert result.predictions[f"seed_{seed}"].tolist() == to_labels(probabilities, labels)
    mean = alone.mean(axis=0)
    assert result.predictions["predicted"].tolist() == to_labels(mean, labels)
    np.testing.assert_allclose(result.predictions["probability"], mean.max(axis=1), atol=1e-6)


def test_ensemble_is_the_label_most_probable_on_average(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models lean to the first label, a third is sure of the last: sums 1.05, 0.1, 1.85 of 3."""
    script = iter([[0.5, 0.05, 0.45]] * 2 + [[0.05, 0.0, 0.95]])
    labels, sentences = load_labels(), len(load_split("test"))
    monkeypatch.setattr(evaluation, "predict", lambda model, rows: np.tile(np.float32(next(script)), (len(rows), 1)))
    monkeypatch.setattr(paths, "seed_folder", lambda seed: paths.MODELS / "seed-3")
    found = evaluate_models([0, 1, 2], load_params(paths.PARAMS).evaluate).predictions
    assert set(found["seed_0"]) == set(found["seed_1"]) == {labels[0]}
    assert set(found["seed_2"]) == set(found["predicted"]) == {labels[2]}
    assert found["probability"].tolist() == pytest.approx([1.85 / 3] * sentences)


def test_attention_weighs_each_rows_own_tokens_and_sums_to_one(result: EvaluationResult, inside: Path) -> None:
    test = load_split("test")
    model = load_classifier(paths.seed_folder(3) / "model.keras")
    probabilities, weights = read_attention(model, encode(test, load_vocabulary(), load_labels()))
    assert [len(row) for row in weights] == [len(tokens) for tokens in test["tokens"]]
    assert [float(row.sum()) for row in weights] == pytest.approx([1.0] * len(test), abs=1e-5)
    assert all((row > 0).all() for row in weights)
    assert to_labels(probabilities, load_labels()) == result.predictions["seed_3"].tolist()


def test_faithfulness_is_measured_on_dev_where_asked_for(result: EvaluationResult, inside: Path) -> None:
    dev, vocabulary, labels = load_split("dev"), load_vocabulary(), load_labels()
    found = result.metrics["dev_faithfulness"]
    assert found["rows"] == len(dev)
    for seed in SEEDS:
        model = load_classifier(paths.seed_folder(seed) / "model.keras")
        alone = faithfulness.measure(model, dev, vocabulary, labels, len(dev), seed=0)
        assert found["sufficiency"]["attention"]["by_seed"][str(seed)] == alone["sufficiency"]["attention"]
    assert result.faithfulness["curves"]["percent"] == list(faithfulness.PERCENTS)
    assert "curves" not in found
    unasked = load_params(paths.PARAMS).evaluate.model_copy(update={"faithfulness": 0})
    without = evaluate_models(SEEDS[:1], unasked)
    assert (without.faithfulness, "dev_faithfulness" in without.metrics) == ({}, False)


def test_results_come_back_from_their_files(result: EvaluationResult, tmp_path: Path) -> None:
    write_results(result, tmp_path)
    read = read_results(SEEDS, tmp_path)
    assert (read.metrics, read.coverage, read.faithfulness) == (result.metrics, result.coverage, result.faithfulness)
    for name in ("dev_predictions", "confusion", "classes", "learning_curves"):
        pd.testing.assert_frame_equal(getattr(read, name), getattr(result, name), check_dtype=False)
    table = read.attention[8]
    assert [list(tokens) for tokens in table["tokens"]] == result.attention[8]["tokens"].tolist()
    assert [sum(weights[0]) for weights in table["weights"]] == pytest.approx([1.0] * len(table), abs=1e-5)
    assert (tmp_path / "answers/seed_3.txt").read_text().startswith("1\t")


def test_to_labels_takes_the_most_probable() -> None:
    assert to_labels(np.array([[0.2, 0.8], [0.6, 0.4]], np.float32), ["x", "y"]) == ["y", "x"]


@pytest.mark.parametrize(
    "path",
    [
        paths.PREPARED / "train.parquet",
        paths.PREPARED / "dev.parquet",
        paths.PREPARED / "test.parquet",
        paths.PREPARED / "labels.json",
        paths.EMBEDDINGS / "vocabulary.txt",
        paths.EMBEDDINGS / "coverage.json",
        *[paths.seed_folder(8) / name for name in ("model.keras", "dev.json", "history.csv")],
    ],
    ids=str,
)
def test_missing_file_is_named_with_its_command(path: Path, inside: Path, tmp_path: Path) -> None:
    aside = path.rename(tmp_path / path.name)
    try:
        with pytest.raises(DataError) as error:
            evaluate_models(SEEDS, load_params(paths.PARAMS).evaluate)
    finally:
        aside.rename(path)
    assert str(path) in str(error.value)
    assert "`dvc repro`" in str(error.value)


def test_classes_without_relations_have_no_official_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(build(tmp_path, CLASSES))
    found = evaluate_models(SEEDS[:1], load_params(paths.PARAMS).evaluate)
    scores: list[dict[str, Any]] = [found.metrics[part] for part in ("test", "ensemble")]
    scores += found.metrics["baselines"].values()
    assert [set(names) for names in scores] == [{"accuracy", "macro_f1"}] * 4
    assert set(found.metrics["dev"]) == {"loss", "accuracy", "macro_f1"}
    assert found.metrics["test"]["accuracy"]["sd"] is None
    assert found.metrics["test"]["accuracy"]["mean"] == found.metrics["ensemble"]["accuracy"]
    assert set(found.classes["relation"]) == {"left", "right"}
