"""Faithfulness of attention on dev: the effect of erasing the tokens on top, and where the weights lie.

Shape letters: N sentences, T tokens of one of them, K weight vectors over it (hops or heads), P bins.
Differences of probabilities are in percentage points; shares, and the entropy as a share of its highest, in percent.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from numpy.typing import NDArray
from scipy.stats import entropy, kendalltau

from bilstm_attention.data.dataset import Rows, by_length, encode, pad
from bilstm_attention.data.tokens import MARKERS, SPANS, Vocabulary, split_contractions
from bilstm_attention.errors import DataError
from bilstm_attention.evaluation.metrics import spread_over_seeds
from bilstm_attention.model.predict import predict, read_attention

Floats = NDArray[np.float64]

PERCENTS = (1, 5, 10, 20, 50)  # of the tokens of a sentence, the bins of ERASER (DeYoung et al. 2020)
MEASURES = ("comprehensiveness", "sufficiency")
RANDOM_ORDERS = 3
GRADIENT_BATCH = 64
DIGITS = 3
KINDS = ("entities", "entity_markers", "function_words", "punctuation", "other_words")
# Words of closed classes, and what `data.tokens.contractions: split` leaves of can't, don't, won't and their like.
_CLOSED_CLASSES = """
    a an the this that these those some any each every all both either neither no another such one
    i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself
    we us our ours ourselves they them their theirs themselves who whom whose which what where when why how there
    somebody someone something anybody anyone anything everybody everyone everything nobody none nothing
    about above across after against along among amid around as at before behind below beneath beside besides between
    beyond by despite down during except for from in inside into like near of off on onto out outside over past per
    since than through throughout to toward towards under underneath until till up upon via with within without
    and but or nor so yet if unless because although though while whereas whether
    be am is are was were been being have has had having do does did doing done
    will would shall should can could may might must ought cannot ca wo sha not n't 's 're 've 'll 'd 'm
"""
FUNCTION_WORDS = frozenset(_CLOSED_CLASSES.split())


def merge_seeds(measured: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Merges the results of `measure` by seed: numbers become `spread_over_seeds`, curves their mean.

    A correlation that no seed has is None. `rows` and `token_share` do not depend on the seed.
    """
    first = next(iter(measured.values()))
    return {**_merge(measured), **{name: first[name] for name in ("rows", "token_share")}}


def _merge(results: Mapping[int, Any]) -> Any:
    first = next(iter(results.values()))
    if isinstance(first, dict):
        return {name: _merge({seed: values[name] for seed, values in results.items()}) for name in first}
    if isinstance(first, list):
        return _rounded(np.mean(list(results.values()), axis=0))
    numbers = {seed: value for seed, value in results.items() if value is not None}
    return spread_over_seeds(numbers) if numbers else None


def measure(
    model: keras.Model, examples: pd.DataFrame, vocabulary: Vocabulary, labels: Sequence[str], rows: int, seed: int
) -> dict[str, Any]:
    """Measures how faithful a classifier's attention is to its predictions, beside two other rankings of the tokens.

    With p the probability of the class predicted on the whole sentence, and k tokens that a ranking puts on top:
    comprehensiveness is p(whole) - p(without the k tokens), high if they were needed; sufficiency is p(whole) -
    p(the k tokens alone), low if they were enough (DeYoung et al. 2020, ERASER, arXiv:1911.03429). Each is reported by
    bin (`curves`) and as the mean of the five bins. Tokens are deleted, the rest keep their order.

    The rankings: `attention`, the weights, their mean if K > 1; `random`, the mean of three orders; `gradient_input`,
    the gradient of p with respect to a token's word vector times that vector. Ties are in random order.

    `rows` sentences of at least two tokens are drawn from `examples`, a prepared split, by `seed`.

    Returns:
        `rows`; both measures by ranking; `curves`: `percent`, the bins, and both measures by ranking and bin;
        `rank_correlation`, Kendall's tau-b of weights and `gradient_input`, None if all weights of each sentence are
        equal; `entropy` of the weights in percent of log T: 0 one token, 100 uniform; `attention_share` of each kind of
        token, and `token_share`, the same under uniform weights. All but the first are means of the sentences.

    Raises:
        DataError: no sentence has two tokens.
    """
    draw = np.random.default_rng(seed)
    erasable = np.flatnonzero(examples["tokens"].map(len) > 1)
    if not len(erasable):
        raise DataError("no dev sentence has two tokens, so none can lose one; evaluate.faithfulness: 0 turns it off.")
    chosen = examples.iloc[np.sort(draw.choice(erasable, min(rows, len(erasable)), replace=False))]
    encoded = encode(chosen, vocabulary, labels)
    probabilities, weights = read_attention(model, encoded)
    heads = [np.atleast_2d(row).astype(np.float64) for row in weights]
    attention = [row.mean(axis=0) for row in heads]
    gradients = gradient_input(model, encoded)
    unranked = [np.zeros(length) for length in encoded.lengths]
    rankings = {"attention": [attention], "random": [unranked] * RANDOM_ORDERS, "gradient_input": [gradients]}
    drops = {
        name: np.mean([_drops(model, encoded, probabilities, scores, draw) for scores in orders], axis=0)
        for name, orders in rankings.items()
    }
    curves = {key: {name: values[at] for name, values in drops.items()} for at, key in enumerate(MEASURES)}
    taus = [kendalltau(*pair).statistic for pair in zip(attention, gradients, strict=True)]
    entropies = [100 * entropy(row, axis=-1).mean() / np.log(row.shape[-1]) for row in heads]
    shares = _shares(chosen, attention)
    result: dict[str, Any] = _rounded(
        {
            "rows": len(chosen),
            **{key: {name: curve.mean() for name, curve in by.items()} for key, by in curves.items()},
            "curves": {"percent": PERCENTS, **curves},
            "rank_correlation": None if np.isnan(taus).all() else np.nanmean(taus),
            "entropy": np.mean(entropies),
            "attention_share": shares["attention"].to_dict(),
            "token_share": shares["tokens"].to_dict(),
        }
    )
    return result


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return None if value is None else np.round(value, DIGITS).tolist()


def bin_sizes(length: int) -> list[int]:
    """Tokens of each bin for a sentence of T tokens: its share of T rounded up, but at most T - 1."""
    return [min(-(-percent * length // 100), length - 1) for percent in PERCENTS]


def _drops(
    model: keras.Model, rows: Rows, whole: NDArray[np.float32], scores: Sequence[Floats], draw: np.random.Generator
) -> Floats:
    """Both measures `(2, P)`, means of the sentences, of the ranking by falling scores `(T,)` of each sentence."""
    parts = []
    for tokens, values in zip(rows, scores, strict=True):
        order = np.lexsort((draw.random(len(tokens)), -values))
        for size in bin_sizes(len(tokens)):
            parts += [np.delete(tokens, order[:size]), tokens[np.sort(order[:size])]]
    left = predict(model, Rows.from_ids(parts)).reshape(len(rows), len(PERCENTS), 2, -1)
    predicted = whole.argmax(axis=1)
    drops = (whole[:, None, None] - left.astype(np.float64))[np.arange(len(rows)), ..., predicted]
    return np.asarray(100 * drops.mean(axis=0).T)


def gradient_input(model: keras.Model, rows: Rows) -> list[Floats]:
    """For each sentence `(T,)`: of each word vector v the signed dp/dv . v, p the highest class probability."""
    embedding = model.get_layer("embedding")
    view = keras.Model(model.input, [embedding.output, model.output])

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
    def products(tokens: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            # a tape does not watch frozen vectors by itself
            tape.watch([variable.value for variable in embedding.variables])
            vectors, probabilities = view(tokens, training=False)
            highest = tf.reduce_max(probabilities, axis=-1)
        return tf.reduce_sum(tape.gradient(highest, vectors) * vectors, axis=-1)

    # traced here: TensorFlow warns of functions that their first call traces, once a fifth model has one
    graph = products.get_concrete_function()
    scores: list[Floats] = [np.empty(0)] * len(rows)
    lengths = rows.lengths
    for batch in by_length(rows, GRADIENT_BATCH):
        for number, row in zip(batch, graph(tf.constant(pad(rows, batch))).numpy(), strict=True):
            scores[number] = row[: lengths[number]].astype(np.float64)
    return scores


def _kind(token: str, position: int, spans: Sequence[Sequence[int]]) -> str:
    """One of `KINDS`; `spans`, half-open, are the entities of a relation sentence."""
    if spans and token in MARKERS:
        return "entity_markers"
    if any(start <= position < end for start, end in spans):
        return "entities"
    if not any(map(str.isalnum, token)):
        return "punctuation"
    return "function_words" if FUNCTION_WORDS.issuperset(split_contractions(token.lower())) else "other_words"


def _shares(examples: pd.DataFrame, attention: Sequence[Floats]) -> pd.DataFrame:
    """By kind, its percent of the weights and of the tokens, means of the sentences."""
    relational = set(SPANS) <= set(examples)
    spans = examples[list(SPANS)].to_numpy().reshape(-1, 2, 2).tolist() if relational else [()] * len(examples)
    kinds = [
        _kind(token, at, entities)
        for tokens, entities in zip(examples["tokens"], spans, strict=True)
        for at, token in enumerate(tokens)
    ]
    uniform = [np.full(len(row), 1 / len(row)) for row in attention]
    columns = {"attention": np.concatenate(attention), "tokens": np.concatenate(uniform)}
    sums = pd.DataFrame(columns).groupby(kinds).sum()
    return 100 / len(examples) * sums.reindex(KINDS if relational else KINDS[2:], fill_value=0.0)
