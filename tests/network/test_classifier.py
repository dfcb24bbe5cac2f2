from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from small_classifier import built, called, drawn_tokens, moved, some_tokens

from bilstm_attention.errors import DataError, ParamsError
from bilstm_attention.network.attention import MECHANISMS, Score, mechanism
from bilstm_attention.network.classifier import attention_view, load_classifier, save_classifier
from bilstm_attention.params import ATTENTION_KINDS

KINDS = sorted(MECHANISMS)
few = settings(max_examples=8, deadline=None)


@cache
def view_once(kind: str) -> keras.Model:
    return attention_view(moved(built(kind)))


some_rows = (st.sampled_from(KINDS), st.integers(0, 10_000), st.lists(st.integers(1, 6), min_size=1, max_size=4))


@few
@given(*some_rows, st.integers(1, 5))
def test_padding_columns_change_neither_probabilities_nor_weights(
    kind: str, seed: int, lengths: list[int], columns: int
) -> None:
    view, tokens = view_once(kind), drawn_tokens(seed, lengths, max(lengths))
    probabilities, weights = called(view, tokens)
    padded_probabilities, padded_weights = called(view, np.pad(tokens, ((0, 0), (0, columns))))
    np.testing.assert_allclose(padded_probabilities, probabilities, rtol=0, atol=1e-6)
    np.testing.assert_allclose(padded_weights[:, : max(lengths)], weights, rtol=0, atol=1e-6)
    assert (padded_weights[:, max(lengths) :] == 0).all()


@few
@given(*some_rows)
def test_a_row_gives_the_same_alone_as_in_a_batch(kind: str, seed: int, lengths: list[int]) -> None:
    view, tokens = view_once(kind), drawn_tokens(seed, lengths, 6)
    probabilities, weights = called(view, tokens)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=0, atol=1e-6)
    for row, length in enumerate(lengths):
        alone_probabilities, alone_weights = called(view, tokens[row : row + 1, :length])
        np.testing.assert_allclose(probabilities[row], alone_probabilities[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(weights[row, :length], alone_weights[0], rtol=0, atol=1e-6)


@few
@given(*some_rows, st.randoms(use_true_random=False))
def test_permuting_the_batch_permutes_the_output(kind: str, seed: int, lengths: list[int], shuffler: Any) -> None:
    order = list(range(len(lengths)))
    shuffler.shuffle(order)
    view, tokens = view_once(kind), drawn_tokens(seed, lengths, 6)
    for found, wanted in zip(called(view, tokens[order]), called(view, tokens), strict=True):
        np.testing.assert_allclose(found, wanted[order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_one_token_work_and_their_attention_is_one(kind: str) -> None:
    probabilities, weights = called(view_once(kind), np.array([[1], [20]], "int32"))
    np.testing.assert_array_equal(weights, [[1], [1]])
    assert np.ptp(probabilities, axis=0).max() > 1e-3


@pytest.fixture
def mixed_float16() -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.usefixtures("mixed_float16")
@pytest.mark.parametrize("kind", KINDS)
def test_mixed_precision_agrees_with_full_precision_to_half_precision(kind: str) -> None:
    probabilities, weights = called(attention_view(moved(built(kind))), some_tokens)
    full_probabilities, full_weights = called(view_once(kind), some_tokens)
    np.testing.assert_allclose(probabilities, full_probabilities, rtol=0, atol=0.01)
    np.testing.assert_allclose(weights, full_weights, rtol=0, atol=0.01)
    assert (weights[some_tokens == 0] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_attention_view_gives_the_classifiers_probabilities_bit_for_bit(kind: str) -> None:
    classifier = moved(built(kind))
    view = attention_view(classifier)
    for _ in range(2):  # the second time after the weights have moved: they are shared
        probabilities, weights = called(view, some_tokens)
        assert probabilities.tobytes() == classifier(some_tokens, training=False).numpy().tobytes()
        assert weights.shape == some_tokens.shape
        moved(classifier)


def test_the_seed_alone_draws_the_weights() -> None:
    first, again, other = built(seed=1), built(seed=1), built(seed=2)
    for name in ("bilstm_1", "attention", "probabilities"):
        for one, same in zip(first.get_layer(name).get_weights(), again.get_layer(name).get_weights(), strict=True):
            np.testing.assert_array_equal(one, same)
        assert not np.array_equal(first.get_layer(name).get_weights()[0], other.get_layer(name).get_weights()[0])
    training = [model(some_tokens, training=True).numpy() for model in (first, again, first)]
    np.testing.assert_array_equal(training[0], training[1])
    assert not np.array_equal(training[0], training[2])


# A mechanism of one's own


@pytest.fixture
def norm_mechanism() -> Iterator[None]:
    """A mechanism as a reader would add one."""

    @mechanism("norm")
    class NormScore(Score):
        """`e_t = g |h_t|`, the gain `g` learned."""

        def build(self, input_shape: tuple[int | None, ...]) -> None:
            self.gain = self.add_weight(shape=(), initializer="ones", name="gain")

        def call(self, states: Any, mask: Any = None) -> Any:
            return self.gain * ops.norm(states, axis=-1)

    yield
    MECHANISMS.pop("norm", None)
    ATTENTION_KINDS.discard("norm")
    keras.saving.get_custom_objects().pop("bilstm_attention>norm_score")


@pytest.mark.usefixtures("norm_mechanism")
def test_a_mechanism_registered_from_outside_is_built_by_params_saved_and_loaded(tmp_path: Path) -> None:
    classifier = moved(built("norm"))
    view_of_states = keras.Model(classifier.input, classifier.get_layer("lstm_dropout_1").output)
    probabilities, weights = called(attention_view(classifier), some_tokens)

    states = view_of_states(some_tokens, training=False).numpy()
    gain = classifier.get_layer("attention").score.gain.numpy()
    assert gain != 1
    exponentials = np.exp(gain * np.linalg.norm(states, axis=-1)) * (some_tokens != 0)
    np.testing.assert_allclose(weights, exponentials / exponentials.sum(axis=1, keepdims=True), rtol=0, atol=1e-6)

    save_classifier(classifier, tmp_path / "model.keras")
    loaded = called(attention_view(load_classifier(tmp_path / "model.keras")), some_tokens)
    np.testing.assert_array_equal(loaded[0], probabilities)
    np.testing.assert_array_equal(loaded[1], weights)

    del MECHANISMS["norm"]
    with pytest.raises(DataError, match=r"model\.keras: cannot be loaded .*'norm' is no attention mechanism"):
        load_classifier(tmp_path / "model.keras")


def test_an_unknown_kind_in_params_is_an_error_with_the_nearest_and_the_legal_ones() -> None:
    with pytest.raises(ParamsError) as error:
        built("zhuo")
    assert "model.attention.kind: 'zhuo' is no mechanism; did you mean 'zhou'?" in str(error.value)
    assert f"Legal: {', '.join(sorted(MECHANISMS))}." in str(error.value)
    assert set(MECHANISMS) == ATTENTION_KINDS
