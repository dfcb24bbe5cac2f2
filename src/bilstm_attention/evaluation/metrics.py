"""Every score of predictions, in percent: metrics, tables, intervals over seeds and items, significance, baselines.

The official score is here in a form fast enough for each epoch; `official.py` holds the whole official scorer.
Everything rests on confusion counts `(..., K, K)`, gold by predicted, so that one definition of a metric serves one set
of predictions and thousands of resamples alike. Shape letters: N items, S seeds, K labels, G groups of labels.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from statistics import fmean, stdev
from typing import Any, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bilstm_attention.data.labels import NONE_LABELS, is_directed, none_last, relation_of
from bilstm_attention.errors import DataError, join_lines
from bilstm_attention.evaluation.semeval import percent, prf, ratio

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Labels = tuple[str, ...]


class Summary(TypedDict):
    """One score over seeds, in percent; `sd` is None for a single seed, of which no spread is known."""

    mean: float
    sd: float | None
    low: float
    high: float
    by_seed: dict[str, float]


def is_relational(labels: Sequence[str]) -> bool:
    """Whether every label is `Name(e1,e2)`, `Name(e2,e1)` or a none label, and at least one is directed."""
    return any(map(is_directed, labels)) and all(is_directed(label) or label in NONE_LABELS for label in labels)


@lru_cache(maxsize=64)
def _membership(names: Labels, with_other: bool) -> tuple[list[str], Floats]:
    """The groups that K labels form by name, the none label last or left out, and `(K, G)` of 1 for in, 0 for out."""
    groups = [name for name in none_last(set(names)) if with_other or name not in NONE_LABELS]
    return groups, np.equal.outer(np.array(names, dtype=object), np.array(groups, dtype=object)).astype(np.float64)


def _tally(counts: Counts, names: Labels, with_other: bool) -> tuple[Floats, Floats, Floats]:
    """Right, predicted and gold items `(..., G)`; a right item is right in its label, not merely in its group."""
    groups = _membership(names, with_other)[1]
    correct = np.diagonal(counts, axis1=-2, axis2=-1)
    return correct @ groups, counts.sum(axis=-2) @ groups, counts.sum(axis=-1) @ groups


def _mean_over(present: NDArray[np.bool_], f1: Floats) -> Any:
    return ratio((f1 * present).sum(axis=-1), present.sum(axis=-1))


def _relations(labels: Labels) -> Labels:
    return tuple(relation_of(label) for label in labels)


def _official_f1(counts: Counts, labels: Labels, whole: Counts) -> Any:
    correct, predicted, gold = _tally(counts, _relations(labels), with_other=False)
    present = _tally(whole, _relations(labels), with_other=False)[2] > 0
    return _mean_over(present, percent(2 * correct, predicted + gold))


def _macro_f1(counts: Counts, labels: Labels, whole: Counts, with_other: bool = True) -> Any:
    correct, predicted, gold = _tally(counts, labels, with_other)
    _, predicted_at_all, gold_at_all = _tally(whole, labels, with_other)
    return _mean_over(predicted_at_all + gold_at_all > 0, percent(2 * correct, predicted + gold))


def _macro_f1_without_other(counts: Counts, labels: Labels, whole: Counts) -> Any:
    return _macro_f1(counts, labels, whole, with_other=False)


def _micro_f1_without_other(counts: Counts, labels: Labels, _: Counts) -> Any:
    correct, predicted, gold = (items.sum(axis=-1) for items in _tally(counts, labels, with_other=False))
    return percent(2 * correct, predicted + gold)


def _accuracy(counts: Counts, labels: Labels, _: Counts) -> Any:
    return percent(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)))


# From counts (..., K, K) over K labels to percent (...); a macro average is over the labels of the third, the counts of
# the whole set of items: a rare label that a resample misses counts 0, as one without a right answer, and stays.
_METRICS: dict[str, Callable[[Counts, Labels, Counts], Any]] = {
    "official_f1": _official_f1,
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "macro_f1_without_other": _macro_f1_without_other,
    "micro_f1_without_other": _micro_f1_without_other,
}


def metric_names(labels: Sequence[str]) -> tuple[str, ...]:
    """The metrics that a corpus with these labels has; the first is the one to select by.

    `official_f1`: mean F1 over the relations of the gold labels, direction taken into account, the none label left out.
    `accuracy`: items right in label (and direction). `macro_f1`: mean F1 over the labels found in gold or predictions;
    `macro_f1_without_other`: the same but for the none label. `micro_f1_without_other`: F1 of the summed counts of all
    labels but the none label.
    """
    return tuple(_METRICS) if is_relational(labels) else ("accuracy", "macro_f1")


def scores(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Each of `metric_names(labels)` in percent, for `(N,)` gold and predicted labels.

    Raises:
        DataError: a gold or predicted label that is not among `labels`.
    """
    counts = _counts(_pairs(gold, [predicted], labels), len(labels))[0]
    return {name: float(_METRICS[name](counts, tuple(labels), counts)) for name in metric_names(labels)}


def official_f1(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """The official score in percent when every item is answered: `evaluate_official(...).score`, quickly.

    Raises:
        DataError: a label that is neither a directed relation nor a none label.
    """
    labels = _labels_of(gold, predicted)
    counts = _counts(_pairs(gold, [predicted], labels), len(labels))[0]
    return float(_official_f1(counts, labels, counts))


def per_relation(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> pd.DataFrame:
    """Precision, recall, F1 (percent) and support (items) per relation, direction taken into account, or per class.

    A row for each relation or class of `labels`, the none label last; columns relation, precision, recall, f1, support.
    """
    names = _relations(tuple(labels)) if is_relational(labels) else tuple(labels)
    tally = _tally(_counts(_pairs(gold, [predicted], labels), len(labels))[0], names, with_other=True)
    precision, recall, f1 = prf(*tally)
    columns = {"precision": precision, "recall": recall, "f1": f1, "support": tally[2].astype(np.int64)}
    return pd.DataFrame({"relation": _membership(names, True)[0], **columns})


def confusion(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> pd.DataFrame:
    """Items `(K, K)`: rows the gold label, columns the predicted one, both in the order of `labels`."""
    index = pd.Index(labels)
    counts = _counts(_pairs(gold, [predicted], labels), len(labels))[0]
    return pd.DataFrame(counts, index.rename("gold"), index.rename("predicted"))


def signed_score(metric: str, value: float) -> float:
    """The value with the sign that makes higher better: a `loss` is negated."""
    return -value if metric == "loss" else value


def spread_over_seeds(values: Mapping[int, float]) -> dict[str, Any]:
    """`mean`, `sd` and `by_seed` of a score, as in `Summary`."""
    scores = [float(value) for value in values.values()]
    by_seed = {str(seed): float(value) for seed, value in values.items()}
    return {"mean": fmean(scores), "sd": stdev(scores) if len(scores) > 1 else None, "by_seed": by_seed}


def summary_over_seeds(values: Mapping[int, float], low: float, high: float) -> Summary:
    """Mean and sample standard deviation (n - 1) of a score over seeds, beside a given interval.

    The `sd` of one seed is None, null in JSON: DVC and MLflow then show no number, where 0 would claim certainty.
    """
    spread = spread_over_seeds(values)
    return Summary(mean=spread["mean"], sd=spread["sd"], low=low, high=high, by_seed=spread["by_seed"])


def bootstrap_interval(
    gold: Sequence[str],
    predictions: Sequence[Sequence[str]],
    metric: str,
    repeats: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval (Efron 1979) of the mean over seeds of a metric, in percent.

    The N test items are drawn anew with replacement, the same draw for every seed, so the interval speaks of the choice
    of items for these trained models; the spread between seeds is the `sd` of `summary_over_seeds`. Macro averages are
    over the same labels in every draw, those of all N items and answers.

    Args:
        gold: `(N,)`.
        predictions: `(S, N)`, the predicted labels of each seed.
        metric: one of `metric_names`.
        repeats: resamples.
        seed: of the draws; the same seed gives the same interval.
        level: in (0, 1).
    """
    labels = _labels_of(gold, *predictions)
    pairs = _pairs(gold, predictions, labels)
    draw = np.random.default_rng(seed)
    items = pairs.shape[1]
    whole = _counts(pairs, len(labels))
    means = [_mean_score(metric, pairs[:, draw.integers(items, size=items)], labels, whole) for _ in range(repeats)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def compare(
    gold: Sequence[str],
    first: Sequence[Sequence[str]],
    second: Sequence[Sequence[str]],
    metric: str,
    repeats: int = 1000,
    seed: int = 0,
) -> float:
    """Two-sided p-value of the difference in a metric's mean over seeds between two systems on the same items.

    Paired approximate randomisation (Noreen 1989; Yeh 2000): if the systems were alike, exchanging their answers to an
    item, in all seeds at once, would not matter. p is the share of random exchanges, the observed one counted among
    them, whose absolute difference is at least the observed one; it cannot be below `1 / (repeats + 1)`.

    Args:
        gold: `(N,)`.
        first: `(S, N)`, the predicted labels of each seed of one system.
        second: `(S, N)`, of the other.
        metric: one of `metric_names`.
        repeats: random exchanges.
        seed: of the exchanges.

    Raises:
        DataError: the systems do not have the same number of seeds.
    """
    if len(first) != len(second):
        raise DataError(f"cannot pair {len(first)} seeds with {len(second)}; give as many of the one as of the other.")
    labels = _labels_of(gold, *first, *second)
    a, b = _pairs(gold, first, labels), _pairs(gold, second, labels)

    def difference(exchange: NDArray[np.bool_] | bool) -> float:
        one, other = np.where(exchange, b, a), np.where(exchange, a, b)
        return abs(_mean_score(metric, one, labels) - _mean_score(metric, other, labels))

    draw = np.random.default_rng(seed)
    items = a.shape[1]
    observed = difference(False) - 1e-9  # equal differences may differ in the last bits
    as_large = sum(difference(draw.random(items) < 0.5) >= observed for _ in range(repeats))
    return (1 + as_large) / (1 + repeats)


def baselines(
    train_tokens: Sequence[Sequence[str]],
    train_labels: Sequence[str],
    test_tokens: Sequence[Sequence[str]],
    test_labels: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Scores of the most frequent training label and of logistic regression on TF-IDF weights of single tokens.

    Both are scikit-learn's with its default settings, deterministic, and see the tokens as given. The solver is saga:
    the default one's optimum, but in 1 s instead of 27 s on SemEval-2010 Task 8 (8,000 sentences, one core).
    """
    from sklearn.dummy import DummyClassifier
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    models = {
        "majority": DummyClassifier(strategy="most_frequent"),
        "tfidf_logistic": make_pipeline(
            TfidfVectorizer(analyzer=list), LogisticRegression(solver="saga", max_iter=1000, random_state=0)
        ),
    }
    labels = none_last({*train_labels, *test_labels})
    return {
        name: scores(test_labels, list(model.fit(train_tokens, train_labels).predict(test_tokens)), labels)
        for name, model in models.items()
    }


def _labels_of(*sequences: Sequence[str]) -> Labels:
    return tuple(none_last(set().union(*sequences)))


def _mean_score(metric: str, pairs: Counts, labels: Labels, whole: Counts | None = None) -> float:
    counts = _counts(pairs, len(labels))
    return float(np.mean(_METRICS[metric](counts, labels, counts if whole is None else whole)))


def _counts(pairs: Counts, size: int) -> Counts:
    """Confusion counts `(S, K, K)` from `_pairs`, in one pass for all seeds."""
    return np.bincount(pairs.ravel(), minlength=len(pairs) * size * size).reshape(len(pairs), size, size)


def _pairs(gold: Sequence[str], predictions: Sequence[Sequence[str]], labels: Sequence[str]) -> Counts:
    """`(S, N)`: the cell of the flattened `(S, K, K)` counts that each seed's answer to each item falls in."""
    size = len(labels)
    seeds = np.arange(len(predictions))[:, None]
    answers = np.array([_codes(predicted, labels, len(gold)) for predicted in predictions])
    return np.asarray((seeds * size + _codes(gold, labels, len(gold))) * size + answers)


def _codes(names: Sequence[str], labels: Sequence[str], items: int) -> Counts:
    if len(names) != items:
        raise DataError(f"{items} gold labels but {len(names)} predicted ones; each item needs one of each.")
    codes = pd.Index(np.array(labels, dtype=object)).get_indexer(np.array(names, dtype=object))
    if unknown := sorted({name for name, code in zip(names, codes, strict=True) if code < 0}):
        raise DataError(
            f"labels that are not among the {len(labels)} known ones: {len(unknown)}.\n{join_lines(unknown)}"
        )
    return np.asarray(codes, dtype=np.int64)
