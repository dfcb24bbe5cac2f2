"""Mechanisms of one's own, registered from outside: built from parameters, trained, saved, loaded and looked at."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from tests.unit.model.small_classifier import (
    CLASSES,
    E1,
    FIRST_WORD,
    LEARNED,
    built,
    called,
    drawn_matrix,
    moved,
    some_tokens,
)

from bilstm_attention.config import Attention, Model, Params, Train
from bilstm_attention.data.dataset import Dataset, Rows
from bilstm_attention.errors import DataError
from bilstm_attention.model import attention
from bilstm_attention.model.attention import MECHANISMS, AttentionPooling, mechanism
from bilstm_attention.model.classifier import attention_view, load_classifier, save_classifier
from bilstm_attention.training.fit import run_training


def forget(kind: str) -> None:
    """As a process that never ran the registering module; not a part of the public face."""
    MECHANISMS.pop(kind, None)
    keras.saving.get_custom_objects().pop(f"bilstm_attention>{kind}_attention", None)


@pytest.fixture
def norm_mechanism() -> Iterator[None]:
    """A mechanism as a reader would add one."""

    @mechanism("norm")
    class NormPooling(AttentionPooling):
        """`e_t = g |h_t|`, the gain `g` learned."""

        def build(self, states_shape: Any) -> None:
            self.gain = self.bias("gain", 1)

        def score(self, states: Any, context: Any) -> Any:
            return self.gain * ops.norm(states, axis=-1)

    yield
    forget("norm")


@pytest.fixture
def buckets_mechanism() -> Iterator[None]:
    """One that takes parameters of `model.attention`, and looks at the entities."""

    @mechanism("buckets")
    class Buckets(AttentionPooling):
        """`e_kt = w_k . h_t`, `size` rows of weights; words of an entity score higher."""

        needs = frozenset({"entities"})
        axis = "bucket"

        def __init__(self, size: int = 7, **kwargs: Any):
            super().__init__(**kwargs)
            self.size = size

        def build(self, states_shape: Any) -> None:
            self.w = self.learned("w", states_shape[-1], self.size)

        def score(self, states: Any, context: Any) -> Any:
            inside = ops.cast(ops.any(context.entities, axis=1, keepdims=True), states.dtype)
            return ops.transpose(ops.matmul(states, self.w), (0, 2, 1)) + 3 * inside

    yield
    forget("buckets")


def clued_rows(count: int, seed: int) -> Rows:
    """Sentences of two to six words, one of which tells the class."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, count).astype(np.int32)
    tokens = [draw.integers(FIRST_WORD + CLASSES, LEARNED, draw.integers(2, 7)).astype(np.int32) for _ in labels]
    for row, label in zip(tokens, labels, strict=True):
        row[draw.integers(len(row))] = FIRST_WORD + label
    return Rows.from_ids(tokens, labels)


@pytest.mark.usefixtures("norm_mechanism")
def test_a_mechanism_of_ones_own_trains_saves_loads_and_shows_its_weights(tmp_path: Path) -> None:
    task = Dataset(clued_rows(48, 0), clued_rows(24, 1), ["a", "b", "c"], drawn_matrix(), LEARNED)
    model = Model(lstm_units=3, attention=Attention(kind="norm", tanh_output=False, temperature=0.5))
    settings = Train(epochs=3, learning_rate=0.05, batch_size=8, monitor="loss")
    classifier = run_training(Params(model=model, train=settings), task, seed=0).model
    gain = classifier.get_layer("attention").gain.numpy()
    assert gain != 0

    states = keras.Model(classifier.input, classifier.get_layer("lstm_dropout_1").output)(some_tokens, training=False)
    exponentials = np.exp(2 * gain * np.linalg.norm(states, axis=-1)) * (some_tokens != 0)
    probabilities, weights = called(attention_view(classifier), some_tokens)
    np.testing.assert_allclose(weights, exponentials / exponentials.sum(axis=1, keepdims=True), rtol=0, atol=1e-6)

    save_classifier(classifier, tmp_path / "model.keras")
    loaded = called(attention_view(load_classifier(tmp_path / "model.keras")), some_tokens)
    np.testing.assert_array_equal(loaded[0], probabilities)
    np.testing.assert_array_equal(loaded[1], weights)


@pytest.mark.usefixtures("buckets_mechanism")
def test_a_mechanism_gets_the_parameters_and_entities_that_it_names(tmp_path: Path) -> None:
    classifier = moved(built("buckets", **{"model.attention.size": 2, "model.attention.dropout": 0.25}))
    layer = classifier.get_layer("attention")
    assert (layer.size, layer.dropout, layer.l2) == (2, 0.25, Model().l2)
    assert {"size": 2, "dropout": 0.25, "temperature": 1.0}.items() <= layer.get_config().items()
    _, weights = called(attention_view(classifier), some_tokens)
    assert weights.shape == (len(some_tokens), 2, some_tokens.shape[1])
    assert some_tokens[1, 0] == E1
    assert (weights[1, :, 1] > weights[1, :, 0]).all()

    save_classifier(classifier, tmp_path / "model.keras")
    loaded = load_classifier(tmp_path / "model.keras")
    assert loaded.get_layer("attention").get_config() == layer.get_config()
    np.testing.assert_array_equal(called(attention_view(loaded), some_tokens)[1], weights)


@pytest.mark.usefixtures("norm_mechanism")
def test_a_file_with_a_mechanism_that_is_not_registered_is_an_error_that_says_so(tmp_path: Path) -> None:
    save_classifier(built("norm"), tmp_path / "model.keras")
    forget("norm")
    with pytest.raises(DataError) as error:
        load_classifier(tmp_path / "model.keras")
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'model.keras'}: cannot be loaded (Could not locate class 'NormPooling'.")
    assert "imported" in message
    assert "config" not in message
    assert "\n" not in message


def test_parameters_know_every_mechanism_of_the_menu_without_importing_it() -> None:
    code = "import sys, bilstm_attention.config as read; print(*read.ATTENTION_KINDS, 'keras' in sys.modules)"
    *kinds, imported = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert (set(kinds), imported) == (set(MECHANISMS), "False")


def test_the_example_of_the_readme_is_a_mechanism() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", readme, flags=re.MULTILINE | re.DOTALL)
    try:
        exec(example, dict(vars(attention)))
        _, weights = called(attention_view(moved(built("norm"))), some_tokens)
    finally:
        forget("norm")
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=0, atol=1e-6)
    assert np.ptp(weights[0]) > 1e-4
