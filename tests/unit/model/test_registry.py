"""A mechanism that a user registers is built from parameters, trained, saved, loaded and shown."""

import re
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from tests.unit.model.small_classifier import LEARNED, build, call, drawn_matrix, some_tokens

from bilstm_attention.config import Attention, Model, Params, Train
from bilstm_attention.data.dataset import Dataset, Rows
from bilstm_attention.errors import DataError
from bilstm_attention.model import attention
from bilstm_attention.model.attention import MECHANISMS
from bilstm_attention.model.classifier import attention_view, load_classifier, save_classifier
from bilstm_attention.training.fit import run_training


def forget(kind: str) -> None:
    """As in a process that never registered it."""
    MECHANISMS.pop(kind, None)
    keras.saving.get_custom_objects().pop(f"bilstm_attention>{kind}_attention", None)


@pytest.fixture
def norm() -> Iterator[None]:
    """The example of the documentation: `e_t = g |h_t|`, the gain `g` learned."""
    page = (Path(__file__).parents[3] / "docs/design.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(@mechanism.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    exec(example, dict(vars(attention)))
    yield
    forget("norm")


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
