import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm_attention.data import dataset as module
from bilstm_attention.data.dataset import Sentences, encode, read_rows
from bilstm_attention.data.tokens import SPECIALS, Vocabulary
from bilstm_attention.errors import DataError

modest = settings(max_examples=60, deadline=None)  # a busy machine must not fail a test
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3) | st.sampled_from(
    [*SPECIALS, "a", "b"]
)
tables = st.lists(st.tuples(st.lists(words, min_size=1, max_size=6), st.sampled_from("xyz")), max_size=20)


@pytest.mark.parametrize("rows_read", [1, 7, 1000])
@modest
@given(tables, st.sets(words.filter(lambda word: word not in SPECIALS and not set(word) & set("\r\n"))))
def test_a_split_read_part_by_part_is_the_one_read_at_once(
    tmp_path_factory: pytest.TempPathFactory, rows_read: int, table: list[tuple[list[str], str]], known: set[str]
) -> None:
    examples = pd.DataFrame(table, columns=["tokens", "label"])
    path = tmp_path_factory.mktemp("split") / "train.parquet"
    written(examples, path)
    vocabulary, labels = Vocabulary(sorted(known)), ["z", "x", "y"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_READ", rows_read)
        found, expected = read_rows(path, vocabulary, labels), encode(examples, vocabulary, labels)
        sentences = Sentences(path)
        assert list(sentences) == list(sentences) == examples["tokens"].tolist()
    for array, other in zip((found.tokens, found.starts, found.labels), vars(expected).values(), strict=True):
        assert array.dtype == other.dtype
        np.testing.assert_array_equal(array, other)
    assert len(sentences) == len(examples)


def written(examples: pd.DataFrame, path: Path) -> None:
    """As `prepare` writes a split, also where it has no rows that would tell the types; three rows a group."""
    types = [("tokens", pa.list_(pa.string())), ("label", pa.large_string())]
    table = pa.Table.from_pandas(examples, pa.schema(types), preserve_index=False)
    pq.write_table(table, path, row_group_size=3)


def test_reading_a_split_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    written(pd.DataFrame({"tokens": [["a"]] * 9, "label": "x"}), tmp_path / "train.parquet")
    rows = read_rows(tmp_path / "train.parquet", Vocabulary(["a"]), ["x"])
    assert list((tmp_path / "scratch").iterdir()) == []
    assert rows.tokens.tolist() == [6] * 9


def test_a_label_without_a_number_is_an_error(tmp_path: Path) -> None:
    written(pd.DataFrame({"tokens": [["a"]] * 4, "label": [*"xqxw"]}), tmp_path / "dev.parquet")
    with pytest.raises(DataError, match=r"dev\.parquet: labels\.json lists no q, w; `dvc repro` makes both anew"):
        read_rows(tmp_path / "dev.parquet", Vocabulary(["a"]), ["x", "y"])


def test_a_table_without_tokens_has_no_sentences(tmp_path: Path) -> None:
    pd.DataFrame({"text": ["a b"]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="no column `tokens` among"):
        Sentences(tmp_path / "train.parquet")


COST = """
import re, sys
from pathlib import Path
from bilstm_attention.data.dataset import read_rows
from bilstm_attention.data.tokens import Vocabulary
def peak():
    # not getrusage, whose maximum a process inherits from the one that started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
few, many = (Path(name) for name in sys.argv[1:])
vocabulary = Vocabulary(f"word{number}" for number in range(1000))
read_rows(few, vocabulary, ["x"])
before = peak()
rows = read_rows(many, vocabulary, ["x"])
print(peak() - before, len(rows), len(rows.tokens))
"""


def test_a_large_split_takes_little_memory(tmp_path: Path) -> None:
    """As Python strings its 4 million tokens would take 250 MB."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the memory of a process is read from /proc, which this system does not have")
    draw = np.random.default_rng(0)
    part = pa.array([f"word{number}" for number in range(1000)]).take(pa.array(draw.integers(0, 1000, 25 * 20_000)))
    tokens = pa.ListArray.from_arrays(np.arange(0, len(part) + 1, 25, dtype=np.int32), part)
    batch = pa.table({"tokens": tokens, "label": pa.array(["x"] * len(tokens), pa.large_string())})
    for name, count in (("few", 4), ("many", 8)):
        pq.write_table(pa.concat_tables([batch] * count), tmp_path / f"{name}.parquet")
    command = [sys.executable, "-c", COST, str(tmp_path / "few.parquet"), str(tmp_path / "many.parquet")]
    megabytes, rows, numbered = map(float, subprocess.run(command, capture_output=True, check=True).stdout.split())
    assert (rows, numbered) == (160_000, 4_000_000)
    assert megabytes < 80
