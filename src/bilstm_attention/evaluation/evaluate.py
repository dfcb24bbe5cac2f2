"""Judging the trained models on test: scores of every seed, their ensemble, baselines, and the tables behind them."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.progress import track

from bilstm_attention import paths
from bilstm_attention.config import Evaluate
from bilstm_attention.data.dataset import encode, existing, load_labels, load_sentences, load_split, load_vocabulary
from bilstm_attention.data.embeddings import coverage, read_origins
from bilstm_attention.data.tokens import Vocabulary, count_words
from bilstm_attention.evaluation import faithfulness
from bilstm_attention.evaluation import metrics as scoring
from bilstm_attention.model.classifier import load_classifier
from bilstm_attention.model.predict import predict, to_labels

# Of training, for the baselines: their solver holds all of them, and beyond this many outlasts the training.
BASELINE_SENTENCES = 100_000


@dataclass(frozen=True)
class EvaluationResult:
    """What is known of the models of one pipeline, and how they did on test.

    Args:
        metrics: what `metrics.json` holds, scores in percent.
        predictions: one row per test sentence: `id`, `gold`, `predicted` by the ensemble, its `probability`, and what
            each seed predicted as `seed_N`.
        dev_predictions: one row per dev sentence: `id`, `gold`, and what each seed predicted as `seed_N`.
        confusion: counts `(C, C)` of the ensemble, gold rows by predicted columns.
        classes: precision, recall, F1 and support of the ensemble by relation, or by class.
        dev: scores of every seed on dev.
        histories: training history of every seed.
        learning_curves: the histories' mean by epoch, over the seeds that got so far.
        coverage: how much of test has word vectors, as `coverage.json` says it of train and dev.
        faithfulness: what `faithfulness.over_seeds` says of the attention on dev; empty where it was not measured.
    """

    metrics: dict[str, Any]
    predictions: pd.DataFrame
    dev_predictions: pd.DataFrame
    confusion: pd.DataFrame
    classes: pd.DataFrame
    dev: dict[int, dict[str, float]]
    histories: dict[int, pd.DataFrame]
    learning_curves: pd.DataFrame
    coverage: dict[str, Any]
    faithfulness: dict[str, Any]


def judge(seeds: Sequence[int], params: Evaluate) -> EvaluationResult:
    """Scores every seed's model on test, of which nothing was used to choose them; has it answer dev, and tries its
    attention there.

    Raises:
        DataError: a stage before this one has not run, or no dev sentence has two tokens to try attention on.
    """
    labels, vocabulary = load_labels(), load_vocabulary()
    test, dev_split = load_split("test"), load_split("dev")
    rows, dev_rows = (encode(split, vocabulary, labels) for split in (test, dev_split))
    probabilities, dev_predicted, measured = {}, {}, {}
    for seed in track(seeds, "scoring on test", transient=True, disable=not sys.stdout.isatty()):
        model = load_classifier(paths.seed_folder(seed) / "model.keras")
        probabilities[seed] = predict(model, rows)
        dev_predicted[f"seed_{seed}"] = to_labels(predict(model, dev_rows), labels)
        if params.faithfulness:
            measured[seed] = faithfulness.measure(
                model, dev_split, vocabulary, labels, params.faithfulness, params.faithfulness_seed
            )
    by_seed = {seed: to_labels(values, labels) for seed, values in probabilities.items()}
    mean = np.mean(list(probabilities.values()), axis=0)
    together, gold = to_labels(mean, labels), test["label"].tolist()
    reports = {seed: json.loads(_of_seed(seed, "dev.json").read_text(encoding="utf-8")) for seed in seeds}
    dev = {seed: report["dev"] for seed, report in reports.items()}

    predictions = pd.DataFrame(
        {"id": test["id"], "gold": gold, "predicted": together, "probability": mean.max(axis=1).astype(np.float64)}
        | {f"seed_{seed}": predicted for seed, predicted in by_seed.items()}
    )
    found = _coverage(test, vocabulary)
    learnt_from = _learnt_from()
    metrics = {
        "dev": {
            name: scoring.spread_over_seeds({seed: scores[name] for seed, scores in dev.items()})
            for name in dev[seeds[0]]
        },
        "test": _over_seeds(gold, by_seed, labels, params),
        "ensemble": scoring.scores(gold, together, labels),
        "baselines": scoring.baselines(*learnt_from, [list(tokens) for tokens in test["tokens"]], gold),
        "baseline_sentences": len(learnt_from[1]),
        "test_coverage": {kind: found[kind]["percent"] for kind in ("types", "tokens")},
    }
    faithful = faithfulness.over_seeds(measured) if measured else {}
    if faithful:
        metrics["dev_faithfulness"] = {name: value for name, value in faithful.items() if name != "curves"}
    histories = {seed: pd.read_csv(_of_seed(seed, "history.csv")) for seed in seeds}
    return EvaluationResult(
        metrics=metrics,
        predictions=predictions,
        dev_predictions=pd.DataFrame({"id": dev_split["id"], "gold": dev_split["label"]} | dev_predicted),
        confusion=scoring.confusion(gold, together, labels),
        classes=scoring.per_relation(gold, together, labels),
        dev=dev,
        histories=histories,
        learning_curves=pd.concat(histories.values()).groupby("epoch", as_index=False).mean(),
        coverage=found,
        faithfulness=faithful,
    )


def _of_seed(seed: int, name: str) -> Path:
    return existing(paths.seed_folder(seed) / name)


def _learnt_from() -> tuple[list[list[str]], list[str]]:
    """Tokens and labels of the training sentences that the baselines learn from, evenly spaced where there are many."""
    labels = load_split("train", ["label"])["label"]
    every = -(-len(labels) // BASELINE_SENTENCES)
    return list(islice(load_sentences("train"), 0, None, every)), labels[::every].tolist()


def _over_seeds(
    gold: Sequence[str], by_seed: dict[int, list[str]], labels: Sequence[str], params: Evaluate
) -> dict[str, Any]:
    scores = {seed: scoring.scores(gold, predicted, labels) for seed, predicted in by_seed.items()}
    found = {}
    for name in scoring.metric_names(labels):
        low, high = scoring.bootstrap_interval(
            gold, list(by_seed.values()), name, repeats=params.bootstrap, seed=params.bootstrap_seed
        )
        found[name] = scoring.summary_over_seeds({seed: values[name] for seed, values in scores.items()}, low, high)
    return found


def _coverage(test: pd.DataFrame, vocabulary: Vocabulary) -> dict[str, Any]:
    report = json.loads(existing(paths.EMBEDDINGS / "coverage.json").read_text(encoding="utf-8"))
    return coverage(count_words(test["tokens"]), read_origins(vocabulary, report))
