"""Evaluation of the trained models on test: every seed, their ensemble and baselines, and the attention on dev."""

import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from rich.progress import track

from bilstm_attention import paths
from bilstm_attention.config import Evaluate
from bilstm_attention.data.dataset import encode, load_labels, load_sentences, load_split, load_vocabulary
from bilstm_attention.data.embeddings import coverage, read_origins
from bilstm_attention.data.tokens import count_words
from bilstm_attention.evaluation import faithfulness, metrics
from bilstm_attention.evaluation.results import EvaluationResult, read_dev_scores, read_histories, read_json, seed_file
from bilstm_attention.model.classifier import load_classifier
from bilstm_attention.model.predict import predict, read_attention, to_labels

BASELINE_SENTENCES = 100_000  # of train; with more, the baselines' solver takes longer than the training
ATTENTION_ROWS = 400  # dev sentences of each attention page
TOP_LABELS = 3  # shown with each sentence


def evaluate_models(seeds: Sequence[int], params: Evaluate) -> EvaluationResult:
    """Scores the model of each seed on test, which selected nothing, and measures its attention on dev.

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
        dev_probabilities, weights = read_attention(model, dev_rows, ATTENTION_ROWS)
        dev_labels[f"seed_{seed}"] = to_labels(dev_probabilities, labels)
        attention[seed] = attention_table(model, dev[:ATTENTION_ROWS], dev_probabilities, weights, labels)
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
    origins = read_origins(vocabulary, read_json(paths.EMBEDDINGS / "coverage.json"))
    test_coverage = coverage(count_words(test["tokens"]), origins)
    baseline_tokens, baseline_labels = _baseline_sentences()
    dev_scores = read_dev_scores(seeds)
    scores: dict[str, Any] = {
        "dev": {
            name: metrics.spread_over_seeds({seed: scores[name] for seed, scores in dev_scores.items()})
            for name in dev_scores[seeds[0]]
        },
        "test": _test_scores(gold, by_seed, labels, params),
        "ensemble": metrics.scores(gold, ensemble, labels),
        "baselines": metrics.baselines(baseline_tokens, baseline_labels, list(map(list, test["tokens"])), gold),
        "baseline_sentences": len(baseline_labels),
        "test_coverage": {kind: test_coverage[kind]["percent"] for kind in ("types", "tokens")},
    }
    merged = faithfulness.merge_seeds(measured) if measured else {}
    if merged:
        scores["dev_faithfulness"] = {name: value for name, value in merged.items() if name != "curves"}
    return EvaluationResult(
        scores=scores,
        predictions=predictions,
        dev_predictions=pd.DataFrame({"id": dev["id"], "gold": dev["label"]} | dev_labels),
        confusion=metrics.confusion(gold, ensemble, labels),
        classes=metrics.per_relation(gold, ensemble, labels),
        learning_curves=pd.concat(read_histories(seeds).values()).groupby("epoch", as_index=False).mean(),
        coverage=test_coverage,
        faithfulness=merged,
        attention=attention,
    )


def attention_table(
    model: Any, examples: pd.DataFrame, probabilities: Any, weights: Sequence[Any], labels: Sequence[str]
) -> pd.DataFrame:
    """A row of predictions and attention for each sentence, see `EvaluationResult.attention`.

    Args:
        model: the classifier.
        examples: N sentences, columns `tokens` and `label`; an empty label is not known.
        probabilities: `(N, C)`; further rows are ignored.
        weights: N arrays `(T,)` or `(K, T)`.
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
            "weights": [np.atleast_2d(row).astype(float).tolist() for row in weights],
            "axis": getattr(model.get_layer("attention"), "axis", ""),
        }
    )


def _baseline_sentences() -> tuple[list[list[str]], list[str]]:
    """Tokens and labels of the training sentences of the baselines, evenly spaced if there are many."""
    labels = load_split("train", ["label"])["label"]
    step = -(-len(labels) // BASELINE_SENTENCES)
    return list(islice(load_sentences("train"), 0, None, step)), labels[::step].tolist()


def _test_scores(
    gold: Sequence[str], by_seed: Mapping[int, list[str]], labels: Sequence[str], params: Evaluate
) -> dict[str, Any]:
    scores = {seed: metrics.scores(gold, predicted, labels) for seed, predicted in by_seed.items()}
    summaries = {}
    for name in metrics.metric_names(labels):
        low, high = metrics.bootstrap_interval(
            gold, list(by_seed.values()), name, repeats=params.bootstrap, seed=params.bootstrap_seed
        )
        by_name = {seed: values[name] for seed, values in scores.items()}
        summaries[name] = metrics.spread_over_seeds(by_name, low=low, high=high)
    return summaries
