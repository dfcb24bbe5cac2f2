"""Sentences as a model reads them: tokens, attention weights, gold and predicted labels."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bilstm_attention import paths

READ, SHOWN, WRONG_SHOWN = 64, 8, 2


@dataclass(frozen=True)
class AttentionExample:
    """A sentence as a model read it: `weights` `(T,)` over its T tokens, and the probability of the predicted label."""

    tokens: list[str]
    weights: NDArray[np.floating]
    gold: str
    predicted: str
    probability: float


def read_test_examples(seed: int) -> list[AttentionExample]:
    """The first sentences of test as the model of one seed reads them, up to two misread ones at the end."""
    from bilstm_attention.corpus.batches import encode
    from bilstm_attention.experiment.judging import named, read_attention
    from bilstm_attention.experiment.task import load_labels, load_split, load_vocabulary
    from bilstm_attention.network.classifier import load_classifier

    test, labels = load_split("test").head(READ), load_labels()
    model = load_classifier(paths.seed_folder(seed) / "model.keras")
    probabilities, weights = read_attention(model, encode(test, load_vocabulary(), labels))
    examples = [
        AttentionExample(list(tokens), row, gold, predicted, float(values.max()))
        for tokens, row, gold, predicted, values in zip(
            test["tokens"], weights, test["label"], named(probabilities, labels), probabilities, strict=True
        )
    ]
    wrong = [example for example in examples if example.gold != example.predicted][:WRONG_SHOWN]
    right = [example for example in examples if example.gold == example.predicted]
    return [*right[: SHOWN - len(wrong)], *wrong]
