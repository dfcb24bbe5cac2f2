"""Numbering, batching and padding sentences, and reading what prepare and embed wrote."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.conftest import refusal
from tests.small import measure_process, prepare_classes

from bilstm_attention import paths
from bilstm_attention.data import dataset as module
from bilstm_attention.data.dataset import Rows, Sentences, by_length, load_dataset, pad, read_rows, training_batches
from bilstm_attention.data.tokens import SPECIALS, Vocabulary
from bilstm_attention.errors import DataError

modest = settings(max_examples=60)
lengths = st.lists(st.integers(1, 40), min_size=1, max_size=300)
batch_sizes = st.integers(1, 9)
seeds = st.integers(0, 2**31 - 1)


def rows_of(lengths: list[int]) -> Rows:
    """Rows whose tokens are their own number, from 1, again and again."""
    return Rows.from_ids([np.full(length, number, np.int32) for number, length in enumerate(lengths, 1)])


def like_sentences(count: int) -> list[int]:
    """Lengths as relation sentences have them: 23 tokens on average, 38 at the 95th percentile."""
    return np.random.default_rng(0).lognormal(np.log(21.5), 0.36, count).round().clip(5, 99).astype(int).tolist()


def padding(rows: Rows, batches: list[NDArray[np.int64]]) -> float:
    """Share of padding among all cells."""
    cells = sum(pad(rows, batch).size for batch in batches)
    return 1 - int(rows.lengths.sum()) / cells


@modest
@given(lengths, batch_sizes, seeds, st.integers(1, 50))
def test_batches_depend_on_seed_and_epoch_alone(lengths, size, seed, epoch):
    first = training_batches(rows_of(lengths), size, seed, epoch)
    np.random.default_rng(seed).random(7)
    training_batches(rows_of(lengths), size, seed, epoch + 1)
    again = training_batches(rows_of(lengths), size, seed, epoch)
    assert [batch.tolist() for batch in first] == [batch.tolist() for batch in again]


@pytest.mark.parametrize(("seed", "epoch"), [(0, 2), (1, 1), (2, 0)])
def test_other_seed_or_epoch_draws_other_batches(seed, epoch):
    rows = rows_of(like_sentences(200))
    first, other = training_batches(rows, 8, 0, 1), training_batches(rows, 8, seed, epoch)
    assert {frozenset(batch.tolist()) for batch in first} != {frozenset(batch.tolist()) for batch in other}
    longest = np.array([rows.lengths[batch].max() for batch in other])
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.7


def test_pools_leave_a_tenth_of_the_padding_of_random_batches():
    rows = rows_of(like_sentences(8000))
    random = np.array_split(np.random.default_rng(0).permutation(8000), 250)
    bucketed, at_random = padding(rows, training_batches(rows, 32, seed=0, epoch=1)), padding(rows, random)
    assert at_random > 0.3
    assert bucketed < at_random / 10


@modest
@given(lengths, batch_sizes, seeds, st.integers(1, 50))
def test_an_epoch_shows_each_row_once_in_full_batches(lengths, size, seed, epoch):
    rows = rows_of(lengths)
    batches = training_batches(rows, size, seed, epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    full, rest = divmod(len(lengths), size)
    assert sorted(map(len, batches), reverse=True) == [size] * full + [rest] * bool(rest)
    assert module.steps_per_epoch(rows, size) == len(batches)


@modest
@given(lengths, batch_sizes)
def test_prediction_batches_cover_every_row_by_length(lengths, size):
    batches = list(by_length(rows_of(lengths), size))
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert np.all(np.diff(np.array(lengths)[order]) >= 0)
    assert all(len(batch) == size for batch in batches[:-1])
    assert 1 <= len(batches[-1]) <= size


@modest
@given(lengths, st.data())
def test_padded_batch_is_its_rows_and_then_zeros(lengths, data):
    rows = rows_of(lengths)
    batch = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8)))
    padded = pad(rows, batch)
    assert padded.dtype == np.int32
    assert padded.shape == (len(batch), max(lengths[number] for number in batch))
    for line, number in zip(padded, batch, strict=True):
        assert line.tolist() == [number + 1] * lengths[number] + [0] * (padded.shape[1] - lengths[number])


letters = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3)
words = letters | st.sampled_from([*SPECIALS, "a", "b"])
tables = st.lists(st.tuples(st.lists(words, min_size=1, max_size=6), st.sampled_from("xyz")), max_size=20)


@pytest.mark.parametrize("rows_read", [1, 7, 1000])
@modest
@given(tables, st.sets(words.filter(lambda word: word not in SPECIALS and not set(word) & set("\r\n"))))
def test_split_read_in_parts_equals_split_encoded_at_once(tmp_path_factory, rows_read, table, known):
    examples = pd.DataFrame(table, columns=["tokens", "label"])
    path = tmp_path_factory.mktemp("split") / "train.parquet"
    written(examples, path)
    vocabulary, labels = Vocabulary(sorted(known)), ["z", "x", "y"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_READ", rows_read)
        found, expected = read_rows(path, vocabulary, labels), module.encode(examples, vocabulary, labels)
        sentences = Sentences(path)
        assert list(sentences) == list(sentences) == examples["tokens"].tolist()
    for array, other in zip((found.tokens, found.starts, found.labels), vars(expected).values(), strict=True):
        assert array.dtype == other.dtype
        np.testing.assert_array_equal(array, other)


def written(examples: pd.DataFrame, path: Path) -> None:
    """As `prepare` writes a split, also where it has no rows that would tell the types; three rows a group."""
    types = [("tokens", pa.list_(pa.string())), ("label", pa.large_string())]
    table = pa.Table.from_pandas(examples, pa.schema(types), preserve_index=False)
    pq.write_table(table, path, row_group_size=3)


def test_reading_a_split_leaves_no_file(tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    written(pd.DataFrame({"tokens": [["a"]] * 9, "label": "x"}), tmp_path / "train.parquet")
    rows = read_rows(tmp_path / "train.parquet", Vocabulary(["a"]), ["x"])
    assert list((tmp_path / "scratch").iterdir()) == []
    assert rows.tokens.tolist() == [6] * 9


def test_label_missing_from_labels_json_is_an_error(tmp_path):
    written(pd.DataFrame({"tokens": [["a"]] * 4, "label": [*"xqxw"]}), tmp_path / "dev.parquet")
    with pytest.raises(DataError, match=r"dev\.parquet: labels\.json lists no q, w; `dvc repro` makes both anew"):
        read_rows(tmp_path / "dev.parquet", Vocabulary(["a"]), ["x", "y"])


COST = """
from bilstm_attention.data.dataset import read_rows
from bilstm_attention.data.tokens import Vocabulary
few, many = (Path(name) for name in sys.argv[1:])
vocabulary = Vocabulary(f"word{number}" for number in range(1000))
read_rows(few, vocabulary, ["x"])
before = peak()
rows = read_rows(many, vocabulary, ["x"])
print(peak() - before, len(rows), len(rows.tokens))
"""


def test_large_split_takes_little_memory(tmp_path):
    """As Python strings its 4 million tokens would take 250 MB."""
    draw = np.random.default_rng(0)
    part = pa.array([f"word{number}" for number in range(1000)]).take(pa.array(draw.integers(0, 1000, 25 * 20_000)))
    tokens = pa.ListArray.from_arrays(np.arange(0, len(part) + 1, 25, dtype=np.int32), part)
    batch = pa.table({"tokens": tokens, "label": pa.array(["x"] * len(tokens), pa.large_string())})
    for name, count in (("few", 4), ("many", 8)):
        pq.write_table(pa.concat_tables([batch] * count), tmp_path / name)
    megabytes, rows, numbered = measure_process(COST, tmp_path / "few", tmp_path / "many")
    assert (rows, numbered) == (160_000, 4_000_000)
    assert megabytes < 80


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return prepare_classes(tmp_path_factory.mktemp("project"))


@pytest.fixture
def inside(project, monkeypatch):
    monkeypatch.chdir(project)


def test_dataset_holds_what_prepare_and_embed_wrote(inside):
    dataset = load_dataset()
    words = module.load_vocabulary().words
    for rows, split in ((dataset.train, "train"), (dataset.dev, "dev")):
        table = module.load_split(split)
        assert [dataset.labels[label] for label in rows.labels] == table["label"].tolist()
        known = [[word if word in words else "<unk>" for word in tokens] for tokens in table["tokens"]]
        assert [[words[number] for number in tokens] for tokens in rows] == known
    assert dataset.labels == ["cold", "hot"]
    assert dataset.matrix.shape == (len(words), 3)
    assert dataset.matrix.dtype == np.float32
    # of 24 sentences a quarter is test
    assert len(dataset.train) + len(dataset.dev) == 18
    assert dataset.train.tokens.max() == dataset.training_words - 1 == len(dataset.matrix) - 1


def test_dataset_does_not_open_the_test_set(hide):
    hide(paths.PREPARED / "test.parquet")
    assert len(load_dataset().dev) > 0


READ = [paths.PREPARED / name for name in ("train.parquet", "dev.parquet", "labels.json")]
READ += [paths.EMBEDDINGS / name for name in ("vocabulary.txt", "matrix.npy", "coverage.json")]


@pytest.mark.parametrize("path", READ, ids=str)
def test_missing_file_is_named_with_its_command(path, hide):
    hide(path)
    assert refusal(load_dataset, DataError) == f"{path}: not there; `dvc repro` makes it."
