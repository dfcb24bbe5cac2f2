"""Scores of trained models on test: every seed, their ensemble, baselines, and the tables behind them."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.progress import track

from bilstm_attention import paths
from bilstm_attention.config import Evaluate
from bilstm_attention.data.dataset import (
    encode,
    existing,
    load_labels,
    load_sentences,
    load_split,
    load_vocabulary,
)
from bilstm_attention.data.embeddings import coverage, read_origins
from bilstm_attention.data.tokens import Vocabulary, count_words
from bilstm_attention.evaluation import faithfulness, metrics
from bilstm_attention.evaluation.semeval import write_answers
from bilstm_attention.model.classifier import load_classifier
from bilstm_attention.model.predict import predict, read_attention, to_labels

BASELINE_SENTENCES = 100_000  # of train; with more, the baselines' solver takes longer than the training
ATTENTION_ROWS = 400  # dev sentences of each attention page
TOP_LABELS = 3  # shown with each sentence
TABLES = ("predictions", "dev_predictions", "confusion", "classes", "learning_curves")


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of the models of one pipeline, and what they rest on.

    Args:
        metrics: the content of `metrics.json`, scores in percent.
        predictions: a row per test sentence: `id`, `gold`, `predicted` by the ensemble, its `probability`, and the
            prediction of each seed as `seed_N`.
        dev_predictions: a row per dev sentence: `id`, `gold`, and the prediction of each seed as `seed_N`.
        confusion: counts `(C, C)` of the ensemble, gold rows by predicted columns.
        classes: precision, recall, F1 and support of the ensemble by relation, or by class.
        learning_curves: mean of the seeds' histories by epoch, over the seeds that got so far.
        coverage: share of test with word vectors, as `coverage.json` has it of train and dev.
        faithfulness: `faithfulness.over_seeds` of the attention on dev; empty if not measured.
        attention: by seed, a row for each of the first dev sentences: `tokens`, `gold`, `labels` and `probabilities` of
            the most probable classes, `weights`, K lists of T numbers, and `axis`, what K counts.
    """

    metrics: dict[str, Any]
    predictions: pd.DataFrame
    dev_predictions: pd.DataFrame
    confusion: pd.DataFrame
    classes: pd.DataFrame
    learning_curves: pd.DataFrame
    coverage: dict[str, Any]
    faithfulness: dict[str, Any]
    attention: dict[int, pd.DataFrame]


def evaluate_models(seeds: Sequence[int], params: Evaluate) -> EvaluationResult:
    """Scores every seed's model on test, which chose nothing, and measures its attention on dev.

    Raises:
        DataError: an earlier stage has not run, or no dev sentence has two tokens to measure faithfulness on.
    """
    labels, vocabulary = load_labels(), load_vocabulary()
    test, dev = load_split("test"), load_split("dev")
    test_rows, dev_rows = (encode(split, vocabulary, labels) for split in (test, dev))
    probabilities, dev_labels, measured, attention = {}, {}, {}, {}
    for seed in track(seeds, "scoring on test", transient=True, disable=not sys.stdout.isatty()):
        model = load_classifier(seed_file(seed, "model.keras"))
        probabilities[seed] = predict(model, test_rows)
        dev_probabilities, weights = read_attention(model, dev_rows)
        dev_labels[f"seed_{seed}"] = to_labels(dev_probabilities, labels)
        attention[seed] = attention_table(model, dev.head(ATTENTION_ROWS), dev_probabilities, weights, labels)
        if params.faithfulness:
            measured[seed] = faithfulness.measure(
                model, dev, vocabulary, labels, params.faithfulness, params.faithfulness_seed
            )
    by_seed = {seed: to_labels(values, labels) for seed, values in probabilities.items()}
    mean = np.mean(list(probabilities.values()), axis=0)
    ensemble, gold = to_labels(mean, labels), test["label"].tolist()
    predictions = pd.DataFrame(
        {"id": test["id"], "gold": gold, "predicted": ensemble, "probability": mean.max(axis=1).astype(np.float64)}
        | {f"seed_{seed}": predicted for seed, predicted in by_seed.items()}
    )
    test_coverage = _coverage(test, vocabulary)
    faithful = faithfulness.over_seeds(measured) if measured else {}
    baseline_tokens, baseline_labels = _baseline_sentences()
    dev_scores = read_dev_scores(seeds)
    scores: dict[str, Any] = {
        "dev": {
            name: metrics.spread_over_seeds({seed: values[name] for seed, values in dev_scores.items()})
            for name in dev_scores[seeds[0]]
        },
        "test": _test_scores(gold, by_seed, labels, params),
        "ensemble": metrics.scores(gold, ensemble, labels),
        "baselines": metrics.baselines(
            baseline_tokens, baseline_labels, [list(tokens) for tokens in test["tokens"]], gold
        ),
        "baseline_sentences": len(baseline_labels),
        "test_coverage": {kind: test_coverage[kind]["percent"] for kind in ("types", "tokens")},
    }
    if faithful:
        scores["dev_faithfulness"] = {name: value for name, value in faithful.items() if name != "curves"}
    return EvaluationResult(
        metrics=scores,
        predictions=predictions,
        dev_predictions=pd.DataFrame({"id": dev["id"], "gold": dev["label"]} | dev_labels),
        confusion=metrics.confusion(gold, ensemble, labels),
        classes=metrics.per_relation(gold, ensemble, labels),
        learning_curves=pd.concat(read_histories(seeds).values()).groupby("epoch", as_index=False).mean(),
        coverage=test_coverage,
        faithfulness=faithful,
        attention=attention,
    )


def attention_table(
    model: Any, examples: pd.DataFrame, probabilities: Any, weights: Sequence[Any], labels: Sequence[str]
) -> pd.DataFrame:
    """What a model attended to in sentences, see `EvaluationResult.attention`.

    Args:
        model: the classifier.
        examples: N sentences, columns `tokens` and `label`; an empty label is not known.
        probabilities: `(N, C)`, or more rows, of which the first N are read.
        weights: N arrays `(T,)` or `(K, T)`, or more.
        labels: class names in the order of their numbers.
    """
    tokens = [list(row) for row in examples["tokens"]]
    rows = probabilities[: len(tokens)]
    top = np.argsort(-rows, axis=1, kind="stable")[:, :TOP_LABELS]
    return pd.DataFrame(
        {
            "tokens": tokens,
            "gold": examples["label"].tolist(),
            "labels": [[labels[number] for number in numbers] for numbers in top],
            "probabilities": np.take_along_axis(rows, top, axis=1).astype(float).tolist(),
            "weights": [
                np.reshape(row, (-1, len(words))).astype(float).tolist()
                for row, words in zip(weights, tokens, strict=False)
            ],
            "axis": getattr(model.get_layer("attention"), "axis", ""),
        }
    )


def write_results(result: EvaluationResult, folder: Path = paths.CURRENT) -> None:
    """Writes every output of the stage `evaluate`, each whole or not at all."""
    paths.write_json(folder / "metrics.json", result.metrics)
    paths.write_json(folder / "test_coverage.json", result.coverage)
    paths.write_json(folder / "faithfulness.json", result.faithfulness)
    for name in TABLES:
        with paths.atomic_write(folder / f"{name}.csv") as path:
            getattr(result, name).to_csv(path, index=name == "confusion")
    predictions = result.predictions
    for column in ("gold", "predicted", *(f"seed_{seed}" for seed in result.attention)):
        with paths.atomic_write(folder / f"answers/{column}.txt") as path:
            write_answers(path, predictions["id"], predictions[column])
    for seed, table in result.attention.items():
        with paths.atomic_write(folder / f"attention_weights/seed-{seed}.parquet") as path:
            table.to_parquet(path, index=False)


def read_results(seeds: Sequence[int], folder: Path = paths.CURRENT) -> EvaluationResult:
    """Reads what `write_results` wrote.

    Raises:
        DataError: a file is not there.
    """
    attention = {seed: pd.read_parquet(existing(folder / f"attention_weights/seed-{seed}.parquet")) for seed in seeds}
    confusion = _read_text(folder / "confusion.csv").set_index("gold").astype(int)
    classes = _read_text(folder / "classes.csv")
    numbers = [name for name in classes if name != "relation"]
    return EvaluationResult(
        metrics=_read_json(folder / "metrics.json"),
        predictions=_read_text(folder / "predictions.csv"),
        dev_predictions=_read_text(folder / "dev_predictions.csv"),
        confusion=confusion.rename_axis("predicted", axis=1),
        classes=classes.astype({name: int if name == "support" else float for name in numbers}),
        learning_curves=pd.read_csv(existing(folder / "learning_curves.csv")),
        coverage=_read_json(folder / "test_coverage.json"),
        faithfulness=_read_json(folder / "faithfulness.json"),
        attention=attention,
    )


def _read_text(path: Path) -> pd.DataFrame:
    # a label may be NA or None
    return pd.read_csv(existing(path), dtype=str, keep_default_na=False)


def seed_file(seed: int, name: str) -> Path:
    """A file that `train` wrote for one seed.

    Raises:
        DataError: it is not there.
    """
    return existing(paths.seed_folder(seed) / name)


def read_dev_scores(seeds: Sequence[int]) -> dict[int, dict[str, float]]:
    """By seed, the dev scores of the epoch that is kept."""
    return {seed: _read_json(seed_file(seed, "dev.json"))["dev"] for seed in seeds}


def read_histories(seeds: Sequence[int]) -> dict[int, pd.DataFrame]:
    """By seed, a row per epoch."""
    return {seed: pd.read_csv(seed_file(seed, "history.csv")) for seed in seeds}


def best_seed(dev: Mapping[int, Mapping[str, float]], monitor: str) -> int:
    """The seed with the best dev score; ties go to the first."""
    return max(dev, key=lambda seed: metrics.signed_score(monitor, dev[seed][monitor]))


def _read_json(path: Path) -> Any:
    return json.loads(existing(path).read_text(encoding="utf-8"))


def _baseline_sentences() -> tuple[list[list[str]], list[str]]:
    """Tokens and labels of the training sentences of the baselines, evenly spaced if there are many."""
    labels = load_split("train", ["label"])["label"]
    step = -(-len(labels) // BASELINE_SENTENCES)
    return list(islice(load_sentences("train"), 0, None, step)), labels[::step].tolist()


def _test_scores(
    gold: Sequence[str], by_seed: dict[int, list[str]], labels: Sequence[str], params: Evaluate
) -> dict[str, Any]:
    scores = {seed: metrics.scores(gold, predicted, labels) for seed, predicted in by_seed.items()}
    summaries = {}
    for name in metrics.metric_names(labels):
        low, high = metrics.bootstrap_interval(
            gold, list(by_seed.values()), name, repeats=params.bootstrap, seed=params.bootstrap_seed
        )
        summaries[name] = metrics.summary_over_seeds({seed: values[name] for seed, values in scores.items()}, low, high)
    return summaries


def _coverage(test: pd.DataFrame, vocabulary: Vocabulary) -> dict[str, Any]:
    report = _read_json(paths.EMBEDDINGS / "coverage.json")
    return coverage(count_words(test["tokens"]), read_origins(vocabulary, report))
