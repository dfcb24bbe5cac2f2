"""Scores of predictions, in percent: metrics, tables by class, intervals, significance tests, baselines.

Everything rests on confusion counts `(..., C, C)`, gold by predicted: one definition of a metric serves one set of
predictions and thousands of resamples. `official_f1` is the score of `semeval.py`.

Shape letters: N items, S seeds, C labels, G groups of labels.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bilstm_attention.data.relations import NONE_LABELS, is_directed, none_last, relation_of
from bilstm_attention.errors import DataError, ParamsError, join_lines

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Labels = tuple[str, ...]
METRICS = ("official_f1", "accuracy", "macro_f1", "macro_f1_without_other", "micro_f1_without_other")


def _ratio(part: Any, whole: Any) -> Any:
    shape = np.broadcast_shapes(np.shape(part), np.shape(whole))
    return np.divide(part, whole, out=np.zeros(shape), where=np.asarray(whole) > 0)


def percent(part: Any, whole: Any) -> Any:
    """`100 part / whole` element by element; 0 where `whole` is 0."""
    return 100.0 * _ratio(part, whole)


def precision_recall_f1(correct: Any, predicted: Any, gold: Any) -> tuple[Any, Any, Any]:
    """Precision, recall and F1 in percent from counts of items, element by element; a ratio over nothing is 0."""
    # 2PR / (P + R) = 2 correct / (predicted + gold)
    return percent(correct, predicted), percent(correct, gold), percent(2 * correct, predicted + gold)


def is_relational(labels: Sequence[str]) -> bool:
    """Whether every label is `Name(e1,e2)`, `Name(e2,e1)` or a none label, and at least one is directed."""
    return any(map(is_directed, labels)) and all(is_directed(label) or label in NONE_LABELS for label in labels)


@lru_cache(maxsize=64)
def _membership(names: Labels, with_none: bool) -> tuple[list[str], Floats]:
    """The groups that C labels form by name, the none label last or left out; and their members as 0 or 1 `(C, G)`."""
    groups = [name for name in none_last(set(names)) if with_none or name not in NONE_LABELS]
    return groups, np.equal.outer(np.array(names, dtype=object), np.array(groups, dtype=object)).astype(np.float64)


def _group_counts(counts: Counts, names: Labels, with_none: bool) -> tuple[Floats, Floats, Floats]:
    """Correct, predicted and gold items `(..., G)`; an item is correct by its label, not merely by its group."""
    groups = _membership(names, with_none)[1]
    correct = np.diagonal(counts, axis1=-2, axis2=-1)
    return correct @ groups, counts.sum(axis=-2) @ groups, counts.sum(axis=-1) @ groups


def _metric(name: str, counts: Counts, labels: Labels, whole: Counts) -> Any:
    """A metric in percent, `(...)`, of counts `(..., C, C)`; see `metric_names`.

    A macro average runs over the groups of `whole`, the counts of all items, so that a rare label which a resample
    misses stays in the mean and counts 0.
    """
    if name == "accuracy":
        return percent(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)))
    names = tuple(map(relation_of, labels)) if name == "official_f1" else labels
    with_none = name == "macro_f1"
    correct, predicted, gold = _group_counts(counts, names, with_none)
    if name == "micro_f1_without_other":
        return percent(2 * correct.sum(axis=-1), (predicted + gold).sum(axis=-1))
    _, answered, present = _group_counts(whole, names, with_none)
    # the official score leaves out relations that are in answers alone
    averaged = present > 0 if name == "official_f1" else answered + present > 0
    return _ratio((percent(2 * correct, predicted + gold) * averaged).sum(axis=-1), averaged.sum(axis=-1))


def metric_names(labels: Sequence[str]) -> tuple[str, ...]:
    """The metrics of a corpus with these labels; the first is the one to select by.

    `official_f1`: mean F1 over the relations of the gold labels, direction counted, the none label left out.
    `accuracy`: share of correct labels. `macro_f1`: mean F1 over the labels among gold or predictions;
    `macro_f1_without_other`: the same without the none label. `micro_f1_without_other`: F1 of the summed counts of all
    labels but the none label, which is TACRED's score; without directions it takes the place of `official_f1`.
    """
    if is_relational(labels):
        return METRICS
    # `Other` may be a plain class
    if not set(NONE_LABELS[1:]).isdisjoint(labels):
        return ("micro_f1_without_other", "accuracy", "macro_f1", "macro_f1_without_other")
    return ("accuracy", "macro_f1")


def check_monitor(monitor: str, labels: Sequence[str]) -> None:
    """Raises ParamsError if `train.monitor` names no score of these labels."""
    legal = [*metric_names(labels), "loss"]
    if monitor not in legal:
        raise ParamsError(f"train.monitor: {monitor} is not available for these labels. Legal: {', '.join(legal)}.")


def scores(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Each of `metric_names(labels)` in percent, of `(N,)` gold and predicted labels.

    Raises:
        DataError: a gold or predicted label that is not among `labels`.
    """
    counts = _confusion_counts(gold, predicted, labels)
    return {name: float(_metric(name, counts, tuple(labels), counts)) for name in metric_names(labels)}


def per_relation(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> pd.DataFrame:
    """Columns relation, precision, recall, f1 (percent), support (items) by relation or class, the none label last."""
    names = tuple(map(relation_of, labels)) if is_relational(labels) else tuple(labels)
    counts = _group_counts(_confusion_counts(gold, predicted, labels), names, with_none=True)
    columns = dict(zip(("precision", "recall", "f1"), precision_recall_f1(*counts), strict=True))
    return pd.DataFrame({"relation": _membership(names, True)[0], **columns, "support": counts[2].astype(np.int64)})


def confusion(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> pd.DataFrame:
    """Items `(C, C)`: rows the gold label, columns the predicted one, both in the order of `labels`."""
    counts = _confusion_counts(gold, predicted, labels)
    return pd.DataFrame(counts, pd.Index(labels, name="gold"), pd.Index(labels, name="predicted"))


def nll(probabilities: NDArray[Any], gold: NDArray[Any], least: Any) -> float:
    """The mean of -log p(gold) in nats, of probabilities `(N, C)`; those below `least` count as that."""
    chosen = probabilities[np.arange(len(gold)), gold]
    return float(-np.log(np.maximum(chosen, least), dtype=np.float64).mean())


def signed_score(metric: str, value: float) -> float:
    """The value with the sign that makes higher better: a `loss` is negated."""
    return -value if metric == "loss" else value


def spread_over_seeds(values: Mapping[int, float], **limits: float) -> dict[str, Any]:
    """`mean`, sample standard deviation `sd`, `limits` such as `low` and `high`, and `by_seed` of a score.

    The `sd` of one seed is None, null in JSON: DVC and MLflow then show no number, where 0 would claim certainty.
    """
    by_seed = {str(seed): float(value) for seed, value in values.items()}
    sd = stdev(by_seed.values()) if len(by_seed) > 1 else None
    return {"mean": fmean(by_seed.values()), "sd": sd, **limits, "by_seed": by_seed}


def bootstrap_interval(
    gold: Sequence[str], predictions: Sequence[Sequence[str]], metric: str, repeats: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap interval (Efron 1979) of the mean over seeds of a metric, in percent.

    The N test items, gold `(N,)` and predicted `(S, N)`, are drawn with replacement, `repeats` times, the same draw for
    every seed: the interval tells of the choice of items for these trained models, the spread between seeds is `sd`.
    """
    labels = tuple(none_last({*gold, *chain(*predictions)}))
    cells = _cells(gold, predictions, labels)
    draw = np.random.default_rng(seed)
    items = cells.shape[1]
    whole = _counts(cells, len(labels))
    means = [_mean_score(metric, cells[:, draw.integers(items, size=items)], labels, whole) for _ in range(repeats)]
    low, high = np.quantile(means, [0.025, 0.975])
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
    Gold labels are `(N,)`, the predicted labels of each system `(S, N)`.

    Raises:
        DataError: the systems do not have the same number of seeds.
    """
    if len(first) != len(second):
        raise DataError(f"cannot pair {len(first)} seeds with {len(second)}; compare systems of as many seeds.")
    labels = tuple(none_last({*gold, *chain(*first, *second)}))
    a, b = _cells(gold, first, labels), _cells(gold, second, labels)

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

    Both are scikit-learn's with its default settings, and deterministic. The solver is saga: it reaches the optimum of
    the default one, but in 1 s instead of 27 s on SemEval-2010 Task 8 (8,000 sentences, one core).
    """
    from sklearn.dummy import DummyClassifier
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    logistic = LogisticRegression(solver="saga", max_iter=1000, random_state=0)
    models = {
        "majority": DummyClassifier(strategy="most_frequent"),
        "tfidf_logistic": make_pipeline(TfidfVectorizer(analyzer=list), logistic),
    }
    labels = none_last({*train_labels, *test_labels})
    return {
        name: scores(test_labels, list(model.fit(train_tokens, train_labels).predict(test_tokens)), labels)
        for name, model in models.items()
    }


def _mean_score(metric: str, cells: Counts, labels: Labels, whole: Counts | None = None) -> float:
    counts = _counts(cells, len(labels))
    return float(np.mean(_metric(metric, counts, labels, counts if whole is None else whole)))


def _confusion_counts(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> Counts:
    return np.asarray(_counts(_cells(gold, [predicted], labels), len(labels))[0])


def _counts(cells: Counts, size: int) -> Counts:
    """Confusion counts `(S, C, C)` from `_cells`, in one pass for all seeds."""
    return np.bincount(cells.ravel(), minlength=len(cells) * size * size).reshape(len(cells), size, size)


def _cells(gold: Sequence[str], predictions: Sequence[Sequence[str]], labels: Sequence[str]) -> Counts:
    """`(S, N)`: the cell of the flattened `(S, C, C)` counts to which each seed's answer to each item belongs."""
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
