"""Calibration: how well probabilities fit the share of correct predictions, before and after temperature scaling.

Guo et al. 2017, On Calibration of Modern Neural Networks, ICML, arXiv:1706.04599. Shape letters: N sentences, C labels.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bilstm_attention.evaluation.metrics import nll

BINS = 15  # of equal width, as in the paper
TINY = np.finfo(np.float32).tiny
LIMITS = (0.05, 20.0)  # of the temperature: without a wrong prediction on dev the best one is 0


def scale(probabilities: NDArray[Any], temperature: float) -> NDArray[Any]:
    """`softmax(z / T)` for probabilities `softmax(z)`, `(N, C)`: the order of the labels stays.

    log p differs from the logits z by a constant of the row, which the softmax cancels; so z need not be known.
    """
    if temperature == 1:
        return probabilities
    logits = np.log(np.maximum(probabilities, TINY), dtype=np.float64) / temperature
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def fit_temperature(probabilities: NDArray[Any], gold: NDArray[Any]) -> float:
    """The T, within `LIMITS`, whose scaled probabilities `(N, C)` have the lowest NLL on gold label numbers `(N,)`."""
    from scipy.optimize import minimize_scalar

    best = minimize_scalar(lambda log_t: nll(scale(probabilities, np.exp(log_t)), gold, TINY), bounds=np.log(LIMITS))
    return float(np.exp(best.x))


def calibration_errors(probabilities: NDArray[Any], gold: NDArray[Any]) -> dict[str, float]:
    """Errors of probabilities `(N, C)` on gold label numbers `(N,)`, all 0 for sure and right predictions.

    `nll`, the mean of -log p(gold), in nats; `brier`, the mean over sentences of the sum over labels of
    (p - 1[gold])^2, 0 to 2; `ece` of the top label, the mean over `BINS` of |accuracy - confidence|, weighted by
    sentences, in percent.
    """
    right = np.arange(probabilities.shape[1]) == gold[:, None]
    bins = reliability(probabilities, gold)
    gaps = (bins["accuracy"] - bins["confidence"]).abs()
    return {
        "nll": nll(probabilities, gold, TINY),
        "brier": float(((probabilities - right) ** 2).sum(axis=1).mean()),
        "ece": float(np.average(gaps, weights=bins["sentences"])),
    }


def reliability(probabilities: NDArray[Any], gold: NDArray[Any]) -> pd.DataFrame:
    """By bin of the top label's probability: mean `confidence` and `accuracy` in percent, and `sentences`."""
    top = probabilities.max(axis=1).astype(np.float64)
    bins = np.minimum((top * BINS).astype(int), BINS - 1)
    columns = {"confidence": 100 * top, "accuracy": 100.0 * (probabilities.argmax(axis=1) == gold)}
    grouped = pd.DataFrame(columns).groupby(bins)
    return grouped.mean().assign(sentences=grouped.size()).reset_index(drop=True)
