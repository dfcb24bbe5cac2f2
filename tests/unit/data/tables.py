"""Corpora as tables, for tests."""

from tempfile import TemporaryFile

import pandas as pd

from bilstm_attention.config import Data
from bilstm_attention.data.corpus import read_chunks, read_corpus
from bilstm_attention.data.splits import SPLITS, Split, make_splits, sentence_key

COLUMNS = ["id", "text", "label", "source"]


def corpus_table(labels: list[str], texts: list[str], name: str) -> pd.DataFrame:
    """A table with the columns `COLUMNS`, numbered from 1, of a file of this name."""
    numbers = [str(n) for n in range(1, len(labels) + 1)]
    return pd.DataFrame({"id": numbers, "text": texts, "label": labels, "source": [f"{name}:{n}" for n in numbers]})


def read_index(data: Data) -> pd.DataFrame:
    """The rows that `read_corpus` returns."""
    with TemporaryFile() as file:
        return read_corpus(data, file)


def read_split(data: Data, split: Split) -> pd.DataFrame:
    """The rows of a split's files as `tokens.encode_examples` takes them, checked."""
    with TemporaryFile() as file:
        rows = read_corpus(data, file)
        texts = pd.concat(read_chunks(file, rows), ignore_index=True)
    return texts[(rows["split"] == split).to_numpy()].reset_index(drop=True)[COLUMNS]


def index_rows(**splits: pd.DataFrame | None) -> pd.DataFrame:
    """The rows of a corpus of tables with the columns `COLUMNS`, in the order of `SPLITS`."""
    table = pd.concat([rows.assign(split=name) for name, rows in splits.items() if rows is not None], ignore_index=True)
    file_and_line = table["source"].str.rsplit(":", n=1, expand=True)
    columns = {
        "key": pd.factorize(table["text"].map(sentence_key))[0].astype("int32"),
        "label": pd.Categorical(table["label"], sorted(set(table["label"]))),
        "split": pd.Categorical(table["split"]),
        "file": pd.Categorical(file_and_line[0]),
        "line": file_and_line[1].astype("int64"),
    }
    return pd.DataFrame(columns)


def split_tables(
    train: pd.DataFrame, dev: pd.DataFrame | None, test: pd.DataFrame | None, data: Data
) -> tuple[pd.DataFrame, ...]:
    """The tables that `make_splits` makes of these; a split that is None is taken from train."""
    data = data.model_copy(update={"dev": dev is not None or None, "test": test is not None or None})
    numbers = make_splits(index_rows(train=train, dev=dev, test=test), data)
    table = pd.concat([rows for rows in (train, dev, test) if rows is not None], ignore_index=True)
    return tuple(table[numbers == number].reset_index(drop=True) for number in range(len(SPLITS)))
