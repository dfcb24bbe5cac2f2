"""Distils word vectors from a sentence encoder: it reads each word alone, and PCA reduces what it returns.

The encoder is a folder in the form of sentence-transformers with a BERT inside. It knows the pieces of a word, so that
a word that no file of vectors lists has a vector too. keras-hub reads the folder; nothing is fetched.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from bilstm_attention.console import progress_bar, start_tensorflow
from bilstm_attention.data.vectors import Matrix, Vectors
from bilstm_attention.errors import DataError, ParamsError

FILES = ("config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt")
SPREAD = 0.7  # standard deviation of the numbers of GloVe 6B in 50 dimensions, first 20,000 words: 0.69
BATCH = 256  # words


def encode_words(folder: Path, words: Sequence[str], dimension: int) -> Vectors:
    """The vector that a sentence encoder has for each word, reduced to `dimension`.

    1. pool: the folder's own embedding of the word as a text, as its `1_Pooling` and `modules.json` say; usually the
       mean of the last hidden states over `[CLS]`, the word pieces and `[SEP]`, scaled to length 1
    2. reduce: PCA over the words; scikit-learn fixes the signs of its components
    3. scale: one factor for all, so that the numbers have the standard deviation `SPREAD`

    A word without pieces, or with one unknown to the encoder, has no vector.

    Raises:
        ParamsError: the extra `encoder` is not installed; `dimension` is larger than the encoder's.
        DataError: no such folder, or no BERT encoder; not more words than `dimension`.
    """
    if not all(map(find_spec, ("keras_hub", "safetensors"))):
        raise ParamsError(
            "embeddings.source: encoder needs keras-hub, which is absent: pip install 'bilstm-attention[encoder]'"
        )
    size = _encoder_size(folder)
    if dimension > size:
        raise ParamsError(
            f"embeddings.dimension: {dimension} of source encoder; {folder} has {size}, take at most that"
        )
    known, encoded = _encode(folder, words)
    # N points lie in a space of N - 1 dimensions
    if dimension >= len(known):
        raise DataError(
            f"{folder}: it knows {len(known)} words of the vocabulary, which is not more than the {dimension} of"
            " embeddings.dimension of source encoder; set that lower."
        )
    return Vectors({word: row for row, word in enumerate(known)}, _reduce(encoded, dimension), read=len(words))


def _encoder_size(folder: Path) -> int:
    """Units of the hidden states, from the folder's `config.json`."""
    legal = "legal is a folder of sentence-transformers with a BERT, named in embeddings.path"
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder}: no sentence encoder, {', '.join(missing)} is missing; {legal}.")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, activation, size = config["model_type"], config["hidden_act"], int(config["hidden_size"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / 'config.json'}: not the configuration of a BERT ({error!r}); {legal}.") from None
    if (kind, activation) != ("bert", "gelu"):
        raise DataError(f"{folder / 'config.json'}: a {kind} with {activation}, not a bert with gelu; {legal}.")
    return size


def _encode(folder: Path, words: Sequence[str]) -> tuple[list[str], Matrix]:
    """The words that the encoder knows, and their embeddings, float32 (N, E)."""
    start_tensorflow()
    import tensorflow as tf
    from keras_hub.models import TextEmbedder

    # one thread per operation adds in one order on any number of cores; once TensorFlow has computed, threads are fixed
    with suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(1)
    try:
        # absolute: a bare name may be that of a model to fetch
        embedder = TextEmbedder.from_preset(str(folder.resolve()))
    # whatever a damaged file comes to in there
    except Exception as error:
        raise DataError(f"{folder}: keras-hub cannot read this encoder: {error!r:.200}. Copy it again.") from None
    preprocessor = embedder.preprocessor
    longest, unknown = preprocessor.sequence_length, preprocessor.tokenizer.token_to_id("[UNK]")
    pieces = dict(zip(words, preprocessor.tokenizer(list(words)), strict=True))
    known = [word for word in words if pieces[word] and unknown not in pieces[word]]
    # words of similar length, so that little is padded
    order = sorted(range(len(known)), key=lambda row: len(pieces[known[row]]))
    encoded = np.empty((len(known), embedder.backbone.hidden_dim), np.float32)
    with progress_bar("encode words", len(known)) as advance:
        for start in range(0, len(known), BATCH):
            rows = order[start : start + BATCH]
            # with [CLS] and [SEP]
            preprocessor.sequence_length = min(len(pieces[known[rows[-1]]]) + 2, longest)
            encoded[rows] = embedder(preprocessor([known[row] for row in rows]), training=False)
            advance(len(rows))
    return known, encoded


def _reduce(encoded: Matrix, dimension: int) -> Matrix:
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    # the default solver may draw random numbers, and more threads add in another order
    pca = PCA(dimension, svd_solver="covariance_eigh")
    with threadpool_limits(1):
        reduced: Matrix = pca.fit_transform(encoded.astype(np.float64))
    reduced *= SPREAD / reduced.std()
    return reduced.astype(np.float32)
