"""Vectors of a sentence encoder without one: files are checked first, PCA is exact, other sources keep their columns.

`tests/slow/test_encoder.py` reads a real folder.
"""

from importlib.machinery import ModuleSpec

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from tests.small import write
from threadpoolctl import threadpool_info

from bilstm_attention.config import Embeddings
from bilstm_attention.data import encoder
from bilstm_attention.data.embeddings import build_embedding
from bilstm_attention.data.encoder import FILES, SPREAD, encode_words
from bilstm_attention.data.tokens import SPECIALS
from bilstm_attention.errors import DataError, ParamsError

SIZE = 8
BERT = {"model_type": "bert", "hidden_act": "gelu", "hidden_size": SIZE}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An encoder that knows every word but `zebra`, and makes SIZE random numbers of each."""

    def encode(_, words):
        known = [word for word in words if word != "zebra"]
        return known, np.array([np.random.default_rng([*word.encode()]).normal(size=SIZE) for word in known])

    monkeypatch.setattr(encoder, "find_spec", lambda name: ModuleSpec(name, None))
    monkeypatch.setattr(encoder, "_encode", encode)
    for name in FILES:
        (tmp_path / name).touch()
    return write(tmp_path / "config.json", BERT).parent


def test_reduced_vectors_are_the_principal_components_scaled_to_the_spread():
    encoded = np.random.default_rng(0).normal(size=(50, SIZE)).astype(np.float32)
    centred = encoded.astype(float) - encoded.astype(float).mean(axis=0)
    expected = centred @ np.linalg.svd(centred, full_matrices=False)[2][:3].T
    reduced = encoder._reduce(encoded, 3)
    assert reduced.dtype == np.float32
    assert reduced.std() == pytest.approx(SPREAD)
    # the sign of a component is that of its largest weight
    assert (np.sign(reduced / expected) == np.sign(reduced[0] / expected[0])).all()
    np.testing.assert_allclose(np.abs(reduced), np.abs(expected * (SPREAD / expected.std())), rtol=1e-4)


def test_reduction_uses_one_thread(monkeypatch):
    threads, fit = set[int](), PCA.fit_transform

    def fit_transform(pca, encoded):
        threads.update(pool["num_threads"] for pool in threadpool_info())
        return fit(pca, encoded)

    monkeypatch.setattr(PCA, "fit_transform", fit_transform)
    encoder._reduce(np.random.default_rng(0).normal(size=(9, SIZE)), 2)
    assert threads == {1}


def test_missing_extra_is_told_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(encoder, "find_spec", lambda name: None)
    with pytest.raises(ParamsError, match=r"keras-hub.*: pip install 'bilstm-attention\[encoder\]'$"):
        encode_words(tmp_path / "none", ["a"], 1)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"no sentence encoder, {name} is missing; legal is a folder of sentence-"):
        encode_words(folder, ["a", "b"], 2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**BERT, "model_type": "mpnet"}, "a mpnet with gelu, not a bert with gelu; legal is"),
        ({**BERT, "hidden_act": "relu"}, "a bert with relu, not a bert with gelu; legal is"),
        ({**BERT, "hidden_size": "x"}, "not the configuration of a BERT"),
        *((damaged, "not the configuration of a BERT") for damaged in ("{", "[]", "{}")),
    ],
)
def test_other_models_are_refused(folder, config, message):
    write(folder / "config.json", config)
    with pytest.raises(DataError, match=f"config.json: {message}"):
        encode_words(folder, ["a", "b"], 2)


def test_dimension_is_at_most_that_of_the_encoder_and_the_number_of_words(folder):
    words = [f"w{number}" for number in range(SIZE + 1)]
    assert encode_words(folder, words, SIZE).matrix.shape == (SIZE + 1, SIZE)
    with pytest.raises(ParamsError, match=rf"dimension: 9 of source encoder; {folder} has 8"):
        encode_words(folder, words, SIZE + 1)
    with pytest.raises(DataError, match="it knows 3 words of the vocabulary, which is not more than the 3 of"):
        encode_words(folder, ["a", "b", "c", "zebra"], 3)


def test_encoder_alone_gives_the_words_of_train_a_vector(folder):
    counts = pd.DataFrame({"word": ["lamp", "Lamp", "zebra", "a-b"], "count": [4, 3, 2, 1]})
    params = Embeddings(source="encoder", path=str(folder), dimension=2)
    embedding = build_embedding(counts, params, folder)
    assert embedding.origins == {"lamp": "exact", "Lamp": "exact", "zebra": "missing", "a-b": "exact"}
    expected = encode_words(folder, ["lamp", "Lamp", "a-b"], 2).matrix
    np.testing.assert_array_equal(embedding.matrix[len(SPECIALS) + np.array([0, 1, 3])], expected)


@pytest.mark.parametrize("first", [True, False])
def test_joined_encoder_knows_the_words_that_a_file_adds(folder, first):
    (folder / "v.txt").write_text("lamp 1 2\njar 3 4\nlid 5 6\n")
    sources = [
        {"source": "encoder", "path": str(folder), "dimension": 1},
        {"source": "file", "path": str(folder / "v.txt"), "dimension": 2},
    ]
    params = {"source": "joined", "path": str(folder), "sources": sources[:: 1 if first else -1], "dimension": 3}
    counts = pd.DataFrame({"word": ["lamp", "zebra"], "count": [4, 3]})
    embedding = build_embedding(counts, Embeddings.model_validate({**params, "extra_words": 3}), folder)
    words = ["lamp", "zebra", "jar", "lid"]
    assert embedding.vocabulary.words[len(SPECIALS) :] == words
    encoded, read = (slice(0, 1), slice(1, 3)) if first else (slice(2, 3), slice(0, 2))
    rows = embedding.matrix[len(SPECIALS) :][[0, 2, 3]]
    np.testing.assert_array_equal(rows[:, read], [[1, 2], [3, 4], [5, 6]])
    np.testing.assert_array_equal(rows[:, encoded], encode_words(folder, ["lamp", "jar", "lid"], 1).matrix)
    assert [part.source.source for part in embedding.parts] == [source["source"] for source in params["sources"]]
