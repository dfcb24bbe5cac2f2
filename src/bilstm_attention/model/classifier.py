"""The classifier: builds the network of `params.model`, saves and loads it byte for byte.

Shapes: B batch, T time steps, D word vector, H state, K distributions per sentence, C classes, V vocabulary.
"""

import json
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from bilstm_attention.config import Model
from bilstm_attention.errors import DataError
from bilstm_attention.model.attention import PACKAGE, attention_layer
from bilstm_attention.model.entities import EntityStates, EntityTokens, RelativePositions
from bilstm_attention.model.lstm import Merge, bidirectional_lstm, decay
from bilstm_attention.paths import atomic_write

PAD_ID = 0
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


@keras.saving.register_keras_serializable(PACKAGE)
class WordEmbedding(keras.layers.Layer):
    """Looks up word vectors; the first `trained_rows` rows are learned, the others stay as they were set.

    Words that never occur in training get no gradient, yet an optimizer with moments would update their rows at every
    step: they have a weight of their own. A learned vector moves away from those of similar words among them; with
    `frozen_copy` the network also reads the vector before learning, in which they are still similar.

    Args:
        rows: V, words in the vocabulary.
        dimension: D.
        trained_rows: rows from 0 that are learned; 0 freezes all.
        l2: weight decay of the learned rows.
        frozen_copy: appends to every vector its value before learning.

    Call arguments:
        tokens: int tensor `(B, T)`, each in `[0, V)`; row 0 is padding.

    Returns:
        float tensor `(B, T, D)`, with `frozen_copy` `(B, T, 2 D)`.
    """

    def __init__(
        self, rows: int, dimension: int, trained_rows: int, l2: float = 0.0, frozen_copy: bool = False, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.rows, self.dimension, self.trained_rows, self.l2 = rows, dimension, trained_rows, l2
        self.frozen_copy = frozen_copy
        self.fixed_from = 0 if frozen_copy else trained_rows  # word of the first row in `fixed`
        # for adversarial training: what every lookup adds to its vectors, and the vectors of the last one before that
        self.shift: Any = None
        self.vectors: Any = None
        self.reads_rows = False  # looks up rows of the variables, which nothing else then reads whole

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates `learned (trained_rows, D)` and `fixed`, the other rows or a copy of all; empty ones are left out."""
        learned, fixed = (self.trained_rows, self.dimension), (self.rows - self.fixed_from, self.dimension)
        if learned[0]:
            self.learned = self.add_weight(shape=learned, regularizer=decay(self.l2), name="learned")
        if fixed[0]:
            self.fixed = self.add_weight(shape=fixed, trainable=False, name="fixed")

    def set_matrix(self, matrix: np.ndarray) -> None:
        """Sets every row from `matrix`, float `(V, D)`."""
        parts = [matrix[: self.trained_rows], matrix[self.fixed_from :]]
        self.set_weights([part for part in parts if len(part)])

    def call(self, tokens: Any) -> Any:
        self.vectors = self._look_up(tokens)
        return self.vectors if self.shift is None else self.vectors + self.shift

    def _look_up(self, tokens: Any) -> Any:
        if self.trained_rows == self.rows and not self.frozen_copy:
            return self._gather(self.learned, tokens)
        vectors = fixed = self._gather(self.fixed, ops.maximum(tokens - self.fixed_from, 0))
        if self.trained_rows:
            is_learned = tokens < self.trained_rows
            learned = self._gather(self.learned, ops.where(is_learned, tokens, 0))
            vectors = ops.where(ops.expand_dims(is_learned, -1), learned, fixed)
        return ops.concatenate([vectors, fixed], axis=-1) if self.frozen_copy else vectors

    def _gather(self, table: Any, rows: Any) -> Any:
        # TensorFlow copies a variable at each whole read once rows of it were looked up or updated; before that, a
        # whole read costs nothing.
        return tf.gather(table.value if self.reads_rows else tf.convert_to_tensor(table), rows)

    def get_config(self) -> dict[str, Any]:
        own = {"rows": self.rows, "dimension": self.dimension, "trained_rows": self.trained_rows, "l2": self.l2}
        return {**super().get_config(), **own, "frozen_copy": self.frozen_copy}


@keras.saving.register_keras_serializable(PACKAGE)
class RealTokens(keras.layers.Layer):
    """The mask of tokens `(B, T)`, False on padding.

    A layer and not `ops.not_equal`: Keras numbers bare operations through the process and writes the number to the
    file, whose bytes would depend on the models built before.
    """

    def call(self, tokens: Any) -> Any:
        return ops.not_equal(tokens, PAD_ID)


def build_classifier(model: Model, matrix: np.ndarray, training_words: int, classes: int, seed: int) -> keras.Model:
    """Builds the network of `params.model`, its weights drawn from `seed`.

    tokens `(B, T)` -> embedding `(B, T, D)` -> BiLSTM `(B, T, H)` -> attention `(B, H)` -> probabilities `(B, C)`

    For relation corpora, if switched on, relative positions are appended to the embedding, and the mean vectors and
    states of the entities' words to the sentence vector.

    Args:
        model: `params.model`.
        matrix: word vectors, float `(V, D)`, row 0 zero (padding).
        training_words: rows from 0 that occur in training: special tokens and training words.
        classes: C.
        seed: of every weight and every dropout mask; sets Keras's global seed.
    """
    keras.utils.set_random_seed(seed)
    rows, dimension = matrix.shape
    trained_rows = training_words if model.train_embeddings else 0
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = RealTokens(name="mask")(tokens)
    embedding = WordEmbedding(rows, dimension, trained_rows, model.l2, model.frozen_copy, name="embedding")
    embedding_dropout = keras.layers.Dropout(model.dropout.embedding, name="embedding_dropout")
    attention = attention_layer(model.attention, model.l2)
    uses_entities = "entities" in attention.needs or model.positions.size or model.entity_words or model.entity_states
    entities = EntityTokens(name="entities")(tokens) if uses_entities else None
    words = vectors = embedding(tokens)
    if model.positions.size:
        positions = RelativePositions(model.positions.size, model.positions.limit, model.l2, name="positions")
        words = keras.layers.Concatenate(name="words_and_positions")([words, positions(entities)])
    words = embedding_dropout(words)
    states, directions = bidirectional_lstm(
        words,
        mask,
        units=model.lstm_units,
        layers=model.lstm_layers,
        merge=model.merge,
        dropout=model.dropout.lstm,
        l2=model.l2,
        kernel=model.lstm_kernel,
    )
    context = {"mask": mask}
    if "last" in attention.needs:
        last = Merge(model.merge, name="last")(directions)
        context["last"] = keras.layers.Dropout(model.dropout.lstm, name="last_dropout")(last)
    if "entities" in attention.needs:
        context["entities"] = entities
    sentence, _ = attention(states, **context)
    entity_inputs = {"entity_words": vectors} if model.entity_words else {}
    entity_inputs |= {"entity_states": states} if model.entity_states else {}
    if entity_inputs:
        parts = [sentence, *(EntityStates(name=name)(each, entities) for name, each in entity_inputs.items())]
        sentence = keras.layers.Concatenate(name="sentence_and_entities")(parts)
    sentence = keras.layers.Dropout(model.dropout.sentence, name="sentence_dropout")(sentence)
    output = keras.layers.Dense(classes, activation="softmax", kernel_regularizer=decay(model.l2), name="probabilities")
    classifier = keras.Model(tokens, output(sentence), name="classifier")
    embedding.set_matrix(matrix)
    return classifier


def attention_view(classifier: keras.Model) -> keras.Model:
    """The same network, weights shared, that returns probabilities `(B, C)` and attention weights.

    The weights are `(B, T)`, or `(B, K, T)` with K hops or heads; `get_layer("attention").axis` names K.
    """
    _, weights = classifier.get_layer("attention").output
    return keras.Model(classifier.input, [classifier.output, weights], name="attention_view")


def save_classifier(classifier: keras.Model, path: Path) -> None:
    """Writes a `.keras` file whose bytes depend only on the network and its weights; atomic.

    Keras writes the date, times of entries and `id()`s into the archive. Here the date is left out, times are fixed and
    ids are numbered in order of appearance.
    """
    with TemporaryDirectory() as folder, atomic_write(path) as target:
        saved = Path(folder) / "model.keras"
        classifier.save(saved)
        with zipfile.ZipFile(saved) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(source.namelist()):
                archive.writestr(zipfile.ZipInfo(name, ZIP_EPOCH), _normalize(name, source.read(name)))


def _normalize(name: str, content: bytes) -> bytes:
    if not name.endswith(".json"):
        return content
    document = json.loads(content)
    document.pop("date_saved", None)
    return json.dumps(_renumber_ids(document, {}), sort_keys=True).encode()


def _renumber_ids(node: Any, numbers: dict[int, int]) -> Any:
    if isinstance(node, dict):
        return {
            key: numbers.setdefault(value, len(numbers)) if key == "shared_object_id" else _renumber_ids(value, numbers)
            for key, value in node.items()
        }
    return [_renumber_ids(item, numbers) for item in node] if isinstance(node, list) else node


def load_classifier(path: Path) -> keras.Model:
    """Reads a classifier back, in `safe_mode`.

    Raises:
        DataError: the file does not exist, is damaged, or needs an attention mechanism that is not registered.
    """
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: no such file, or not a whole .keras file; `dvc repro` trains it again.")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        # Keras wraps a fault in the config of every layer around it; the last line is the fault itself
        fault = str(error).rpartition("\n")[2].removeprefix("Exception encountered: ")
        reason = fault.partition(" Full object config: ")[0]
        raise DataError(f"{path}: cannot be loaded ({reason}); `dvc repro` trains it again.") from error
