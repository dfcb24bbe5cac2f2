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
from bilstm_attention.evaluation import evaluate as judging  # noqa: E402
from bilstm_attention.evaluation import faithfulness  # noqa: E402
from bilstm_attention.evaluation.evaluate import EvaluationResult, judge  # noqa: E402
from bilstm_attention.model.classifier import load_classifier, save_classifier  # noqa: E402
from bilstm_attention.model.predict import read_attention, to_labels  # noqa: E402
from bilstm_attention.training.fit import fit  # noqa: E402

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
            fitted = fit(read.model, read.train, task, seed)
            save_classifier(fitted.model, paths.seed_folder(seed) / "model.keras")
            fitted.history.to_csv(paths.seed_folder(seed) / "history.csv", index=False)
            paths.write_json(paths.seed_folder(seed) / "dev.json", {"best_epoch": fitted.best_epoch, "dev": fitted.dev})
    return folder


@pytest.fixture(scope="module")
def relations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("relations"), RELATIONS)


@pytest.fixture(scope="module")
def verdict(relations: Path) -> EvaluationResult:
    with contextlib.chdir(relations):
        return judge(SEEDS, load_params(paths.PARAMS).evaluate)


@pytest.fixture
def inside(relations: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(relations)
    return relations


def test_metrics_have_the_scores_of_test_dev_ensemble_and_baselines(verdict: EvaluationResult, inside: Path) -> None:
    names = list(scoring.metric_names(list(SENTENCES)))
    metrics = verdict.metrics
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


def test_the_baselines_learn_from_training_sentences_evenly_spaced_where_there_are_many(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = load_split("train")
    tokens = [list(each) for each in train["tokens"]]
    assert judging._learnt_from() == (tokens, train["label"].tolist())
    monkeypatch.setattr(judging, "BASELINE_SENTENCES", (len(train) + 1) // 2)
    assert judging._learnt_from() == (tokens[::2], train["label"].tolist()[::2])


def test_each_number_over_seeds_is_that_of_its_seeds(verdict: EvaluationResult) -> None:
    gold = verdict.predictions["gold"].tolist()
    by_seed = {
        seed: scoring.scores(gold, verdict.predictions[f"seed_{seed}"].tolist(), list(SENTENCES)) for seed in SEEDS
    }
    for name, summary in verdict.metrics["test"].items():
        found = [by_seed[seed][name] for seed in SEEDS]
        assert summary["by_seed"] == {"3": found[0], "8": found[1]}
        assert summary["mean"] == pytest.approx(np.mean(found))
        assert summary["sd"] == pytest.approx(np.std(found, ddof=1))
        assert summary["low"] <= summary["mean"] <= summary["high"]
    for name, summary in verdict.metrics["dev"].items():
        assert summary["by_seed"] == {"3": verdict.dev[3][name], "8": verdict.dev[8][name]}
        assert summary["mean"] == pytest.approx(np.mean([verdict.dev[seed][name] for seed in SEEDS]))


def test_the_tables_speak_of_the_same_sentences(verdict: EvaluationResult, inside: Path) -> None:
    test = load_split("test")
    assert verdict.predictions.columns.tolist() == ["id", "gold", "predicted", "probability", "seed_3", "seed_8"]
    assert verdict.predictions["id"].tolist() == test["id"].tolist()
    dev = verdict.dev_predictions
    assert dev.columns.tolist() == ["id", "gold", "seed_3", "seed_8"]
    assert dev["id"].tolist() == load_split("dev")["id"].tolist()
    for seed, found in verdict.dev.items():
        right = (dev["gold"] == dev[f"seed_{seed}"]).mean()
        assert 100 * right == pytest.approx(found["accuracy"])
    assert verdict.predictions["gold"].tolist() == test["label"].tolist()
    assert verdict.confusion.to_numpy().sum() == len(test) == verdict.classes["support"].sum()
    agreed = (verdict.predictions["gold"] == verdict.predictions["predicted"]).mean() * 100
    assert verdict.metrics["ensemble"]["accuracy"] == pytest.approx(agreed)
    assert np.trace(verdict.confusion.to_numpy()) / len(test) * 100 == pytest.approx(agreed)


def test_the_histories_and_their_mean_are_those_that_train_wrote(verdict: EvaluationResult, inside: Path) -> None:
    for seed in SEEDS:
        written = pd.read_csv(paths.seed_folder(seed) / "history.csv")
        pd.testing.assert_frame_equal(verdict.histories[seed], written)
    mean = (verdict.histories[3] + verdict.histories[8]) / 2
    pd.testing.assert_frame_equal(verdict.learning_curves, mean, check_dtype=False)


def test_each_seed_and_the_ensemble_say_what_their_models_say_of_a_sentence_alone(
    verdict: EvaluationResult, inside: Path
) -> None:
    labels = load_labels()
    rows = encode(load_split("test"), load_vocabulary(), labels)
    models = [load_classifier(paths.seed_folder(seed) / "model.keras") for seed in SEEDS]
    alone = np.array([[np.asarray(model(tokens[None, :], training=False))[0] for tokens in rows] for model in models])
    for seed, probabilities in zip(SEEDS, alone, strict=True):
        assert verdict.predictions[f"seed_{seed}"].tolist() == to_labels(probabilities, labels)
    mean = alone.mean(axis=0)
    assert verdict.predictions["predicted"].tolist() == to_labels(mean, labels)
    np.testing.assert_allclose(verdict.predictions["probability"], mean.max(axis=1), atol=1e-6)


def test_the_ensemble_is_the_most_probable_label_on_average_not_the_majority(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models lean to the first label, a third is sure of the last: sums 1.05, 0.1, 1.85 of 3."""
    # each of test and of dev
    script = iter([[0.5, 0.05, 0.45]] * 4 + [[0.05, 0.0, 0.95]] * 2)
    labels, sentences = load_labels(), len(load_split("test"))
    monkeypatch.setattr(judging, "predict", lambda model, rows: np.tile(np.float32(next(script)), (len(rows), 1)))
    monkeypatch.setattr(paths, "seed_folder", lambda seed: paths.MODELS / "seed-3")
    found = judge([0, 1, 2], load_params(paths.PARAMS).evaluate).predictions
    assert set(found["seed_0"]) == set(found["seed_1"]) == {labels[0]}
    assert set(found["seed_2"]) == set(found["predicted"]) == {labels[2]}
    assert found["probability"].tolist() == pytest.approx([1.85 / 3] * sentences)


def test_attention_weighs_each_rows_own_tokens_and_sums_to_one(verdict: EvaluationResult, inside: Path) -> None:
    test = load_split("test")
    model = load_classifier(paths.seed_folder(3) / "model.keras")
    probabilities, weights = read_attention(model, encode(test, load_vocabulary(), load_labels()))
    assert [len(row) for row in weights] == [len(tokens) for tokens in test["tokens"]]
    assert [float(row.sum()) for row in weights] == pytest.approx([1.0] * len(test), abs=1e-5)
    assert all((row > 0).all() for row in weights)
    assert to_labels(probabilities, load_labels()) == verdict.predictions["seed_3"].tolist()


def test_faithfulness_is_of_every_seed_on_dev_and_none_when_not_asked_for(
    verdict: EvaluationResult, inside: Path
) -> None:
    dev, vocabulary, labels = load_split("dev"), load_vocabulary(), load_labels()
    found = verdict.metrics["dev_faithfulness"]
    assert found["rows"] == len(dev)
    for seed in SEEDS:
        model = load_classifier(paths.seed_folder(seed) / "model.keras")
        alone = faithfulness.measure(model, dev, vocabulary, labels, len(dev), seed=0)
        assert found["sufficiency"]["attention"]["by_seed"][str(seed)] == alone["sufficiency"]["attention"]
    assert verdict.faithfulness["curves"]["percent"] == list(faithfulness.PERCENTS)
    assert "curves" not in found
    unasked = load_params(paths.PARAMS).evaluate.model_copy(update={"faithfulness": 0})
    without = judge(SEEDS[:1], unasked)
    assert (without.faithfulness, "dev_faithfulness" in without.metrics) == ({}, False)


def test_the_most_probable_label_is_named() -> None:
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
def test_a_missing_file_is_named_with_the_command_that_makes_it(path: Path, inside: Path, tmp_path: Path) -> None:
    aside = path.rename(tmp_path / path.name)
    try:
        with pytest.raises(DataError) as error:
            judge(SEEDS, load_params(paths.PARAMS).evaluate)
    finally:
        aside.rename(path)
    assert str(path) in str(error.value)
    assert "`dvc repro`" in str(error.value)


def test_classes_without_relations_have_no_official_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(build(tmp_path, CLASSES))
    found = judge(SEEDS[:1], load_params(paths.PARAMS).evaluate)
    scores: list[dict[str, Any]] = [found.metrics[part] for part in ("test", "ensemble")]
    scores += found.metrics["baselines"].values()
    assert [set(names) for names in scores] == [{"accuracy", "macro_f1"}] * 4
    assert set(found.metrics["dev"]) == {"loss", "accuracy", "macro_f1"}
    assert found.metrics["test"]["accuracy"]["sd"] is None
    assert found.metrics["test"]["accuracy"]["mean"] == found.metrics["ensemble"]["accuracy"]
    assert set(found.classes["relation"]) == {"left", "right"}
