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
E, HEADS, LAYERS, LONGEST = 8, 2, 2, 6
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
    config |= {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 2 * E}
    files = {
        "config.json": {**config, "vocab_size": len(PIECES), "max_position_embeddings": 16},
        "tokenizer_config.json": {"do_lower_case": True},
        "sentence_bert_config.json": {"max_seq_length": LONGEST},
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
        "modules.json": [{"type": "sentence_transformers.models.Normalize"}],
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def transcription(weights: dict[str, np.ndarray], pieces: list[str]) -> np.ndarray:
    """The mean hidden state of Devlin et al. 2019, scaled to length 1, in float64."""

    def dense(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"{name}.weight"].astype(float).T + weights[f"{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * weights[f"{name}.LayerNorm.weight"] + weights[f"{name}.LayerNorm.bias"]

    def table(name: str) -> np.ndarray:
        return weights[f"embeddings.{name}_embeddings.weight"].astype(float)

    ids = [PIECES.index(piece) for piece in ("[CLS]", *pieces, "[SEP]")]
    x = norm("embeddings", table("word")[ids] + table("position")[: len(ids)] + table("token_type")[0])
    for layer in (f"encoder.layer.{number}." for number in range(LAYERS)):
        q, k, v = (dense(f"{layer}attention.self.{name}", x).reshape(-1, HEADS, E // HEADS) for name in
                   ("query", "key", "value"))  # fmt: skip
        scores = np.exp(np.einsum("qhd,khd->hqk", q, k) / np.sqrt(E // HEADS))
        attended = np.einsum("hqk,khd->qhd", scores / scores.sum(-1, keepdims=True), v).reshape(-1, E)
        x = norm(f"{layer}attention.output", dense(f"{layer}attention.output.dense", attended) + x)
        inner = dense(f"{layer}intermediate.dense", x)
        # keras-hub approximates gelu, as BERT's first code did
        inner *= (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3))) / 2
        x = norm(f"{layer}output", dense(f"{layer}output.dense", inner) + x)
    return x.mean(0) / np.linalg.norm(x.mean(0))


def test_a_word_has_the_mean_hidden_state_of_its_pieces(folder, weights):
    known, encoded = _encode(folder, ["lamps", "a", "Lid", "undo"])
    assert known == ["lamps", "a", "Lid", "undo"]
    for pieces, vector in zip((["lamp", "##s"], ["a"], ["lid"], ["un", "##do"]), encoded, strict=True):
        np.testing.assert_allclose(vector, transcription(weights, pieces), atol=1e-5)


def test_vectors_are_the_same_when_made_again(folder):
    vectors = encode_words(folder, WORDS, 3)
    assert vectors.matrix.dtype == np.float32
    assert vectors.matrix.std() == pytest.approx(SPREAD, rel=1e-5)
    assert vectors.matrix.tobytes() == encode_words(folder, WORDS, 3).matrix.tobytes()


def test_a_word_unknown_to_the_encoder_has_no_vector(folder):
    vectors = encode_words(folder, [*WORDS, "zebra", "\u200b"], 3)
    assert list(vectors.rows) == WORDS
    assert vectors.read == len(WORDS) + 2


def test_a_long_word_is_cut_to_the_length_of_the_folder(folder, weights):
    _, encoded = _encode(folder, ["lamp" + 9 * "s"])
    np.testing.assert_allclose(encoded[0], transcription(weights, ["lamp", "##s", "##s", "##s"]), atol=1e-5)


def test_a_damaged_file_is_an_error(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-10])
    with pytest.raises(DataError, match=r"keras-hub cannot read this encoder: .*\. Copy it again\.$"):
        encode_words(folder, WORDS, 3)
