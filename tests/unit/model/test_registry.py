"""A mechanism that a user registers is built from parameters, trained, saved, loaded and shown."""

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
from tests.unit.model.small_classifier import E1, LEARNED, build, call, drawn_matrix, perturb, some_tokens

from bilstm_attention.config import Attention, Model, Params, Train
from bilstm_attention.data.dataset import Dataset, Rows
from bilstm_attention.errors import DataError
from bilstm_attention.model import attention
from bilstm_attention.model.attention import MECHANISMS, AttentionPooling, mechanism
from bilstm_attention.model.classifier import attention_view, load_classifier, save_classifier
from bilstm_attention.training.fit import run_training


def forget(kind: str) -> None:
    """As in a process that never registered it."""
    MECHANISMS.pop(kind, None)
    keras.saving.get_custom_objects().pop(f"bilstm_attention>{kind}_attention", None)


@pytest.fixture
def norm() -> Iterator[None]:
    """The example of the README: `e_t = g |h_t|`, the gain `g` learned."""
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", readme, flags=re.MULTILINE | re.DOTALL)
    exec(example, dict(vars(attention)))
    yield
    forget("norm")


@pytest.fixture
def buckets() -> Iterator[None]:
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


@pytest.mark.usefixtures("norm")
def test_registered_mechanism_trains_saves_and_shows_its_weights(tmp_path: Path) -> None:
    rows = Rows.from_ids([np.array(row, np.int32) for row in some_tokens[:3]], np.arange(3, dtype=np.int32))
    model = Model(lstm_units=3, attention=Attention(kind="norm", tanh_output=False, temperature=0.5))
    params = Params(model=model, train=Train(epochs=2, learning_rate=0.05, monitor="loss"))
    dataset = Dataset(rows, rows, ["a", "b", "c"], drawn_matrix(), LEARNED)
    before = build("norm").get_layer("attention").get_weights()
    classifier = run_training(params, dataset, seed=0).model
    (gain,) = classifier.get_layer("attention").get_weights()
    assert gain != before[0]

    states = keras.Model(classifier.input, classifier.get_layer("lstm_dropout_1").output)(some_tokens, training=False)
    exponentials = np.exp(2 * gain * np.linalg.norm(states, axis=-1)) * (some_tokens != 0)
    outputs = call(attention_view(classifier), some_tokens)
    np.testing.assert_allclose(outputs[1], exponentials / exponentials.sum(axis=1, keepdims=True), rtol=0, atol=1e-6)

    save_classifier(classifier, tmp_path / "model.keras")
    loaded = load_classifier(tmp_path / "model.keras")
    for one, other in zip(call(attention_view(loaded), some_tokens), outputs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("buckets")
def test_registered_mechanism_gets_its_parameters_and_entities(tmp_path: Path) -> None:
    classifier = perturb(build("buckets", **{"model.attention.size": 2, "model.attention.dropout": 0.25}))
    layer = classifier.get_layer("attention")
    assert (layer.size, layer.dropout, layer.l2) == (2, 0.25, Model().l2)
    _, weights = call(attention_view(classifier), some_tokens)
    assert weights.shape == (len(some_tokens), 2, some_tokens.shape[1])
    assert some_tokens[1, 0] == E1
    assert (weights[1, :, 1] > weights[1, :, 0]).all()
    save_classifier(classifier, tmp_path / "model.keras")
    assert load_classifier(tmp_path / "model.keras").get_layer("attention").get_config() == layer.get_config()


@pytest.mark.usefixtures("norm")
def test_file_with_an_unregistered_mechanism_is_an_error(tmp_path: Path) -> None:
    save_classifier(build("norm"), tmp_path / "model.keras")
    forget("norm")
    with pytest.raises(DataError) as error:
        load_classifier(tmp_path / "model.keras")
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'model.keras'}: cannot be loaded (Could not locate class 'Norm'.")
    assert "imported" in message
    assert "config" not in message
    assert "\n" not in message


def test_params_know_every_mechanism_without_keras() -> None:
    code = "import sys, bilstm_attention.config as config; print(*config.ATTENTION_KINDS, 'keras' in sys.modules)"
    *kinds, imported = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert (set(kinds), imported) == (set(MECHANISMS), "False")
