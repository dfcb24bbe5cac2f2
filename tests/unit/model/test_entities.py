"""The entities of a relation sentence: their tokens, distances to them, their mean states."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from tests.unit.model.small_classifier import E1, E1_END, E2, E2_END, build, padded, perturb, relation, relation_rows
from tests.unit.model.transcription import bilstm, means, softmax, zhou

from bilstm_attention.data.tokens import SPECIALS, Vocabulary
from bilstm_attention.model.classifier import attention_view
from bilstm_attention.model.entities import MARKER_IDS, EntityStates, EntityTokens, RelativePositions, entity_states

A, B, C, D, E = range(6, 11)
ABSENT: list[int] = []


def test_markers_are_those_of_the_vocabulary():
    markers = ("<e1>", "</e1>", "<e2>", "</e2>")
    assert tuple(number for pair in MARKER_IDS for number in pair) == tuple(map(SPECIALS.index, markers))
    assert Vocabulary(["word"]).encode(markers).tolist() == [E1, E1_END, E2, E2_END]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([A, E1, B, E1_END, C, E2, D, E2_END, E], [[2], [6]]),
        ([E1, A, E1_END, E2, B, E2_END], [[1], [4]]),
        ([E1, A, B, C, E1_END, E2, D, E, E2_END, 0, 0], [[1, 2, 3], [6, 7]]),
        ([A, E2, B, C, E2_END, D, E1, E, E1_END], [[7], [2, 3]]),
        ([A, B, C], [ABSENT, ABSENT]),
        ([E1, A, E1_END, B, 0], [[1], ABSENT]),
        ([A, E1, B, C, E2, D, E2_END, 0, 0], [ABSENT, [5]]),
        ([A, B, E1_END, C, E2, D, E2_END], [ABSENT, [5]]),
        ([A, E1_END, B, E1, C, 0], [ABSENT, ABSENT]),
        ([E1, E1_END, E2, D, E2_END], [ABSENT, [3]]),
        ([0, 0], [ABSENT, ABSENT]),
    ],
)
def test_entity_is_the_words_between_its_markers(row, expected):
    entities = EntityTokens()(np.array([row], "int32")).numpy()[0]
    assert [np.flatnonzero(entity).tolist() for entity in entities] == expected


def distances(row: list[int], limit: int) -> Any:
    """The distances to both entities, `(2, T)`, read from tables whose vector for a distance is that distance."""
    layer = RelativePositions(size=1, limit=limit)
    entities = EntityTokens()(np.array([row], "int32"))
    layer.build(entities.shape)
    layer.set_weights([np.stack([np.arange(-limit, limit + 1), 100 + np.arange(-limit, limit + 1)])[..., None]])
    first, second = layer(entities).numpy()[0].T.tolist()
    return [first, [value - 100 for value in second]]


RELATION = [A, E1, B, C, E1_END, D, E2, E, E2_END, A]


@pytest.mark.parametrize(
    ("row", "limit", "expected"),
    [
        (RELATION, 20, [[-2, -1, 0, 0, 1, 2, 3, 4, 5, 6], [-7, -6, -5, -4, -3, -2, -1, 0, 1, 2]]),
        (RELATION, 2, [[-2, -1, 0, 0, 1, 2, 2, 2, 2, 2], [-2, -2, -2, -2, -2, -2, -1, 0, 1, 2]]),
        ([A, E2, B, E2_END], 5, [[0, 0, 0, 0], [-2, -1, 0, 1]]),
    ],
    ids=["far", "limited", "no first entity"],
)
def test_distance_counts_tokens_to_the_entity(row, limit, expected):
    assert distances(row, limit) == expected
    assert [each[: len(row)] for each in distances([*row, 0, 0, 0], limit)] == expected, "padding"


def test_entity_state_is_the_mean_over_its_words():
    states = np.array([[[1, 2], [3, 4], [5, 8], [7, 6]], [[1, 1], [2, 2], [90, 90], [90, 90]]], "float32")
    entities = np.array(
        [[[True, True, False, False], [False, False, True, False]], [[False, True, False, False], [False] * 4]]
    )
    expected = [[2, 3, 5, 8], [2, 2, 0, 0]]
    np.testing.assert_array_equal(entity_states(states, entities), expected)
    np.testing.assert_array_equal(EntityStates()(states, entities), expected)


@pytest.fixture(scope="module")
def classifier():
    switches = dict.fromkeys(("model.frozen_copy", "model.entity_words", "model.entity_states"), True)
    return perturb(build("positions", **switches))


@settings(max_examples=6)
@given(relation_rows)
def test_network_with_entities_equals_the_transcription(classifier, row):
    doubles = {layer.name: [weight.astype("float64") for weight in layer.get_weights()] for layer in classifier.layers}
    (tables,), (kernel, bias) = doubles["positions"], doubles["probabilities"]
    spans = [(row.index(opening) + 1, row.index(closing)) for opening, closing in ((E1, E1_END), (E2, E2_END))]
    learned, fixed = doubles["embedding"]
    vectors = np.concatenate([np.concatenate([learned, fixed[len(learned) :]]), fixed], axis=1)[row]
    words = []
    for t, word in enumerate(vectors):
        away = [t - start if t < start else max(0, t - end + 1) for start, end in spans]
        words.append(np.concatenate([word, *(tables[i, np.clip(away[i], -3, 3) + 3] for i in (0, 1))]))
    h = np.add(*bilstm(np.array(words), doubles["bilstm_1"]))
    entities = np.array([[start <= t < end for t in range(len(row))] for start, end in spans])
    alpha = softmax(zhou(h, h[0], entities, *doubles["attention"]))
    sentence = np.concatenate([np.tanh(alpha @ h), *means(vectors, entities), *means(h, entities)])
    wanted = softmax(sentence @ kernel + bias)

    beside = relation([A, B], [C], [D], [E, A], [B] * 9)  # a longer row, so that this one is padded
    probabilities, weights = attention_view(classifier)(padded([row, beside]), training=False)
    np.testing.assert_allclose(probabilities[0], wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(weights[0, : len(row)], alpha, rtol=0, atol=1e-5)
