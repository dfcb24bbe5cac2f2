"""Word vectors of a sentence encoder, on a tiny BERT with random weights; needs the extra `encoder`."""

import json
from importlib.util import find_spec

import numpy as np
import pytest

from bilstm_attention.data.encoder import SPREAD, _encode, encode_words
from bilstm_attention.errors import DataError

if find_spec("keras_hub") is None:
    pytest.skip("the extra `encoder` is not installed", allow_module_level=True)

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lamp", "##s", "jar", "lid", "van", "##ity", "un", "##do", "a"]
E, LAYERS = 8, 2
WORDS = ["lamp", "lamps", "jar", "vanity", "Lid", "undo", "undos", "a"]


@pytest.fixture(scope="module")
def weights():
    generator = np.random.default_rng(0)
    shapes = {f"embeddings.{name}_embeddings.weight": (rows, E) for name, rows in
              (("word", len(PIECES)), ("position", 16), ("token_type", 2))}  # fmt: skip
    dense = {"attention.self.query": (E, E), "attention.self.key": (E, E), "attention.self.value": (E, E)}
    dense |= {"attention.output.dense": (E, E), "intermediate.dense": (2 * E, E), "output.dense": (E, 2 * E)}
    dense = {f"encoder.layer.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in dense.items()}
    dense["pooler.dense"] = (E, E)
    norms = [f"encoder.layer.{n}.{name}" for n in range(LAYERS) for name in ("attention.output", "output")]
    for name, shape in dense.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in ("embeddings", *norms):
        shapes |= {f"{name}.LayerNorm.weight": (E,), f"{name}.LayerNorm.bias": (E,)}
    return {name: generator.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path, weights):
    from safetensors.numpy import save_file

    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES), encoding="utf-8")
    (tmp_path / "1_Pooling").mkdir()
    config = {"architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": E}
    config |= {"num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 2 * E}
    files = {
        "config.json": {**config, "vocab_size": len(PIECES), "max_position_embeddings": 16},
        "tokenizer_config.json": {"do_lower_case": True},
        "sentence_bert_config.json": {"max_seq_length": 6},
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
        "modules.json": [{"type": "sentence_transformers.models.Normalize"}],
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def test_word_has_its_embedding_of_keras_hub_among_words_of_any_length(folder):
    from keras_hub.models import TextEmbedder

    embedder = TextEmbedder.from_preset(str(folder))
    # the last is cut to the length that the folder names
    words = ["lamps", "a", "Lid", "undo", "lamp" + 9 * "s"]
    known, encoded = _encode(folder, words)
    assert known == words
    np.testing.assert_allclose(encoded, embedder(embedder.preprocessor(words), training=False), atol=1e-5)
    assert not np.isclose(encoded[0], encoded[4]).all()


def test_vectors_are_the_same_when_made_again(folder):
    vectors = encode_words(folder, WORDS, 3)
    assert vectors.matrix.dtype == np.float32
    assert vectors.matrix.std() == pytest.approx(SPREAD, rel=1e-5)
    assert vectors.matrix.tobytes() == encode_words(folder, WORDS, 3).matrix.tobytes()


def test_a_word_unknown_to_the_encoder_has_no_vector(folder):
    vectors = encode_words(folder, [*WORDS, "zebra", "\u200b"], 3)
    assert list(vectors.rows) == WORDS
    assert vectors.read == len(WORDS) + 2


def test_a_damaged_file_is_an_error(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-10])
    with pytest.raises(DataError, match=r"keras-hub cannot read this encoder: .*\. Copy it again\.$"):
        encode_words(folder, WORDS, 3)
