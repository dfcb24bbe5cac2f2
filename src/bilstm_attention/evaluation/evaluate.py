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
from bilstm_attention.evaluation.calibration import calibration_errors, fit_temperature, reliability, scale
from bilstm_attention.evaluation.results import EvaluationResult, read_dev_scores, read_history, read_json, seed_file
from bilstm_attention.model.classifier import load_classifier
from bilstm_attention.model.predict import predict, read_attention, to_labels

BASELINE_SENTENCES = 100_000  # of train, evenly spaced; with more, the baselines' solver takes longer than the training
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
    probabilities, dev_labels, measured, attention, temperatures = {}, {}, {}, {}, {}
    for seed in track(seeds, "scoring on test", transient=True, disable=not sys.stdout.isatty()):
        model = load_classifier(seed_file(seed, "model.keras"))
        probabilities[seed] = predict(model, test_rows)
        dev_probabilities, weights = read_attention(model, dev_rows, ATTENTION_ROWS)
        temperatures[seed] = fit_temperature(dev_probabilities, dev_rows.labels)
        dev_labels[f"seed_{seed}"] = to_labels(dev_probabilities, labels)
        shown = scale(dev_probabilities, temperatures[seed])
        attention[seed] = attention_table(model, dev[:ATTENTION_ROWS], shown, weights, labels)
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
    train_labels = load_split("train", ["label"])["label"]
    step = -(-len(train_labels) // BASELINE_SENTENCES)
    baseline_tokens, baseline_labels = islice(load_sentences("train"), 0, None, step), train_labels[::step].tolist()
    scores: dict[str, Any] = {
        "dev": _spreads(read_dev_scores(seeds)),
        "test": _test_scores(gold, by_seed, labels, params),
        "ensemble": metrics.scores(gold, ensemble, labels),
        "baselines": metrics.baselines(list(baseline_tokens), baseline_labels, list(map(list, test["tokens"])), gold),
        "baseline_sentences": len(baseline_labels),
        "test_coverage": {kind: test_coverage[kind]["percent"] for kind in ("types", "tokens")},
    }
    scores["test_calibration"] = {"temperature": metrics.spread_over_seeds(temperatures)}
    scaled, bins = {seed: scale(values, temperatures[seed]) for seed, values in probabilities.items()}, {}
    for kind, each in (("raw", probabilities), ("scaled", scaled)):
        errors = {seed: calibration_errors(values, test_rows.labels) for seed, values in each.items()}
        scores["test_calibration"][kind] = _spreads(errors)
        bins[kind] = reliability(np.concatenate(list(each.values())), np.tile(test_rows.labels, len(seeds)))
    merged = faithfulness.merge_seeds(measured) if measured else {}
    if merged:
        scores["dev_faithfulness"] = {name: value for name, value in merged.items() if name != "curves"}
    return EvaluationResult(
        scores=scores,
        predictions=predictions,
        dev_predictions=pd.DataFrame({"id": dev["id"], "gold": dev["label"]} | dev_labels),
        confusion=metrics.confusion(gold, ensemble, labels),
        classes=metrics.per_relation(gold, ensemble, labels),
        learning_curves=pd.concat(map(read_history, seeds)).groupby("epoch", as_index=False).mean(),
        coverage=test_coverage,
        reliability=pd.concat(bins, names=["probabilities"]).reset_index("probabilities"),
        faithfulness=merged,
        attention=attention,
    )


def attention_table(
    model: Any, examples: pd.DataFrame, probabilities: Any, weights: Sequence[Any], labels: Sequence[str]
) -> pd.DataFrame:
    """Predictions and attention of N sentences.

    `examples` have the columns `tokens` and `label`, empty if not known; `probabilities` are `(N, C)`, further rows are
    ignored; `weights` are N arrays `(T,)` or `(K, T)`.

    Returns:
        a row per sentence: `tokens`, `gold`, `labels` and `probabilities` of the most probable classes, `weights`, K
        lists of T numbers, and `axis`, what K counts.
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


def _spreads(by_seed: Mapping[int, Mapping[str, float]], **limits: Mapping[str, float]) -> dict[str, Any]:
    """Each score of a table by seed as `metrics.spread_over_seeds` has it, with its own `limits`."""
    return {
        name: metrics.spread_over_seeds(
            {seed: values[name] for seed, values in by_seed.items()},
            **{limit: values[name] for limit, values in limits.items()},
        )
        for name in next(iter(by_seed.values()))
    }


def _test_scores(
    gold: Sequence[str], by_seed: Mapping[int, list[str]], labels: Sequence[str], params: Evaluate
) -> dict[str, Any]:
    predictions, low, high = list(by_seed.values()), {}, {}
    draws = params.bootstrap, params.bootstrap_seed
    for name in metrics.metric_names(labels):
        low[name], high[name] = metrics.bootstrap_interval(gold, predictions, name, *draws)
    scores = {seed: metrics.scores(gold, predicted, labels) for seed, predicted in by_seed.items()}
    return _spreads(scores, low=low, high=high)
