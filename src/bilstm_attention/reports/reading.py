"""Sentences as a model reads them: tokens, attention weights, gold label and the most probable ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilstm_attention import paths
from bilstm_attention.data.dataset import Rows, encode

SHOWN, WRONG_SHOWN = 8, 2
BEST = 3


@dataclass(frozen=True)
class AttentionExample:
    """A sentence as a model read it.

    Args:
        tokens: T tokens, entity markers among them.
        weights: float `(K, T)`, K distributions over the tokens; K is 1 for most mechanisms.
        gold: the right label; none: not known.
        best: the most probable labels with their probabilities, at least one, the highest first.
        axis: what the K distributions are called, for instance `hop` or `head`; empty where there is but one.
    """

    tokens: Sequence[str]
    weights: NDArray[np.floating]
    gold: str | None
    best: Sequence[tuple[str, float]]
    axis: str = ""

    @property
    def predicted(self) -> str:
        """The most probable label."""
        return self.best[0][0]

    @property
    def probability(self) -> float:
        """That of the predicted label."""
        return self.best[0][1]

    @property
    def mean_weights(self) -> NDArray[np.float64]:
        """The mean of the distributions, `(T,)`."""
        mean: NDArray[np.float64] = self.weights.mean(axis=0, dtype=np.float64)
        return mean

    @property
    def verdict(self) -> str:
        """Of the prediction: `right`, `wrong`, or empty where the right label is not known."""
        if self.gold is None:
            return ""
        return "right" if self.predicted == self.gold else "wrong"


def read_sentences(
    model: Any, rows: Rows, tokens: Sequence[Sequence[str]], gold: Sequence[str | None], labels: Sequence[str]
) -> list[AttentionExample]:
    """Encoded sentences as a Keras classifier reads them.

    Args:
        model: the classifier.
        rows: N sentences, encoded.
        tokens: the same sentences as words.
        gold: their right labels, where they are known.
        labels: class names in the order of their numbers.
    """
    from bilstm_attention.model.predict import read_attention

    if not len(rows):
        return []
    probabilities, weights = read_attention(model, rows)
    axis = getattr(model.get_layer("attention"), "axis", "")
    orders = np.argsort(-probabilities, axis=1, kind="stable")[:, :BEST]
    return [
        AttentionExample(
            list(words),
            np.reshape(row, (-1, len(words))),
            right,
            [(labels[number], float(values[number])) for number in order],
            axis,
        )
        for words, row, right, values, order in zip(tokens, weights, gold, probabilities, orders, strict=True)
    ]


def read_split(split: str, seed: int, limit: int = 0) -> list[AttentionExample]:
    """The first `limit` sentences of a prepared split, 0 for all, as the model of one seed reads them.

    Raises:
        DataError: a stage before this one has not run.
    """
    from bilstm_attention.data.dataset import load_labels, load_split, load_vocabulary
    from bilstm_attention.model.classifier import load_classifier

    examples, labels = load_split(split), load_labels()
    examples = examples.head(limit) if limit else examples
    model = load_classifier(paths.seed_folder(seed) / "model.keras")
    rows = encode(examples, load_vocabulary(), labels)
    return read_sentences(model, rows, examples["tokens"].tolist(), examples["label"].tolist(), labels)


def picked(examples: Sequence[AttentionExample]) -> list[AttentionExample]:
    """A few for a picture: the first ones, up to two misread ones at the end."""
    wrong = [example for example in examples if example.verdict == "wrong"][:WRONG_SHOWN]
    right = [example for example in examples if example.verdict == "right"]
    return [*right[: SHOWN - len(wrong)], *wrong]
