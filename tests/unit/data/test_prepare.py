import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.data.tables import read_split

from bilstm_attention.config import Data
from bilstm_attention.data import prepare
from bilstm_attention.data.corpus import index_corpus, read_chunk
from bilstm_attention.data.formats import Row, read, split_files
from bilstm_attention.data.prepare import SplitStats, encode_chunk, summarize, write_splits
from bilstm_attention.data.splits import SPLITS, make_splits
from bilstm_attention.data.tokens import encode_examples
from bilstm_attention.errors import DataError

WORDS = ["oak", "a b", "Ünder", "x\x85y", "\u2028z", "naïve", 'say "so"']
ENDINGS = ["\n", "\r\n", "\r"]


def semeval(texts: list[str], ending: str) -> tuple[str, str]:
    blocks = [
        f'{n}\t"<e1>{text}</e1> met <e2>b{n}</e2>"\n{"ab"[n % 2]}\nComment:\n\n' + "\n" * (n % 3)
        for n, text in enumerate(texts, 1)
    ]
    return "semeval2010", "".join(blocks).replace("\n", ending)


def kbp37(texts: list[str], ending: str) -> tuple[str, str]:
    return "kbp37", semeval(texts, ending)[1].replace(f"Comment:{ending}", "")


def table(separator: str) -> Callable[[list[str], str], tuple[str, str]]:
    def written(texts: list[str], ending: str) -> tuple[str, str]:
        broken = ending if separator == "," else " "
        rows = [(f"{text}{broken}{n}".replace('"', '""'), "ab"[n % 2]) for n, text in enumerate(texts)]
        lines = [f'"{text}"{separator}{label}' for text, label in rows]
        return "delimited", ending.join([f"text{separator}label", *lines, "", ""])

    return written


def jsonl(texts: list[str], ending: str) -> tuple[str, str]:
    records = [{"text": f"{text} {n}", "label": "ab"[n % 2]} for n, text in enumerate(texts)]
    return "delimited", "".join(f"{json.dumps(record, ensure_ascii=False)}{ending}{ending}" for record in records)


FORMATS = {"txt": semeval, "kbp": kbp37, "csv": table(","), "tsv": table("\t"), "jsonl": jsonl}


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12), st.sampled_from(ENDINGS), st.booleans(), st.data())
def test_reading_resumes_at_any_row(tmp_path_factory, name, texts, ending, marked, drawn):
    folder = tmp_path_factory.mktemp("corpus")
    kind, content = FORMATS[name](texts, ending)
    (folder / f"t.{name}").write_bytes(b"\xef\xbb\xbf" * marked + content.encode())
    data = Data(format=kind, folder=str(folder), train=f"t.{name}", test=None)
    rows = list(read(split_files(data, "train")[0], data))
    assert len(rows) == len(texts)
    assert all(isinstance(row, Row) for row in rows)
    number = drawn.draw(st.integers(0, len(rows) - 1))
    assert list(read(rows[number].position, data)) == rows[number:]


def corpus(folder: Path, rows: int = 60) -> Data:
    """Relations of three labels, some sentences twice; dev and test come from train."""
    texts = [f"The <e1>oak {n % 50}</e1> hid an <e2>owl</e2>, {'far ' * (n % 7)}off." for n in range(rows)]
    blocks = [f'{n}\t"{text}"\n{"abc"[n % 3]}\nComment:\n\n' for n, text in enumerate(texts)]
    (folder / "train.txt").write_text("".join(blocks))
    return Data.model_validate(
        {"folder": str(folder), "test": None, "dev_fraction": 0.2, "tokens": {"max_length": 14, "numbers": "keep"}}
    )


def prepared(data: Data, folder: Path, chunk_rows: int) -> tuple[dict[str, bytes], dict]:
    folder.mkdir()
    index = index_corpus(data, chunk_rows)
    files = {name: folder / f"{name}.parquet" for name in SPLITS}
    encoded = (encode_chunk(chunk, data) for chunk in index.chunks)
    stats = write_splits(encoded, make_splits(index.rows, data), files, data)
    return {name: path.read_bytes() for name, path in files.items()}, stats


@pytest.mark.parametrize("group", [7, 50_000])
def test_files_do_not_depend_on_the_chunk_size(tmp_path, monkeypatch, group):
    monkeypatch.setattr(prepare, "ROW_GROUP", group)
    data = corpus(tmp_path)
    whole, stats = prepared(data, tmp_path / "whole", 1000)
    for chunk_rows in (1, 7, 59):
        parts, again = prepared(data, tmp_path / str(chunk_rows), chunk_rows)
        assert parts == whole
        for name in SPLITS:
            assert again[name].words == stats[name].words
            assert np.concatenate(again[name].lengths).tolist() == np.concatenate(stats[name].lengths).tolist()
            assert again[name].truncated == stats[name].truncated
    sizes = pq.ParquetFile(tmp_path / "whole/train.parquet").metadata
    assert sizes.row_group(0).num_rows == min(group, sizes.num_rows)


def test_files_are_those_of_pandas(tmp_path):
    data = corpus(tmp_path)
    written, stats = prepared(data, tmp_path / "out", 7)
    numbers, table = make_splits(index_corpus(data).rows, data), read_split(data, "train")
    for number, name in enumerate(SPLITS):
        rows = encode_examples(table[numbers == number], data)
        rows.to_parquet(tmp_path / "pandas.parquet", index=False)
        assert written[name] == (tmp_path / "pandas.parquet").read_bytes()
        assert stats[name].truncated == (rows["length"] > 14).sum() > 0
        assert stats[name].words["owl"] == len(rows)


def test_index_holds_keys_labels_files_and_lines(tmp_path):
    data = corpus(tmp_path)
    rows = index_corpus(data, 7).rows
    assert rows["key"].nunique() == 60
    assert rows["label"].cat.categories.tolist() == ["a", "b", "c"]
    assert (rows["file"] == f"{tmp_path}/train.txt").all()
    assert rows["line"].tolist() == list(range(1, 240, 4))
    (tmp_path / "train.txt").write_text((tmp_path / "train.txt").read_text().replace("far ", ""))
    keys = index_corpus(data, 7).rows["key"]
    assert pd.factorize(keys)[0].tolist() == [n % 50 for n in range(60)]


def faults(act: Callable[[], object]) -> list[str]:
    with pytest.raises(DataError) as caught:
        act()
    return str(caught.value).split("\n")


def test_faults_of_all_chunks_are_listed_in_order_and_counted(tmp_path):
    data = corpus(tmp_path)
    path = tmp_path / "train.txt"
    good = path.read_text()
    path.write_text(good.replace("</e2>", ""))
    lines = faults(lambda: index_corpus(data, 7))
    assert [int(line.split(":")[1]) for line in lines[:-1]] == list(range(1, 80, 4))
    assert lines[-1] == "... and 40 more"
    path.write_text(good.replace("oak ", "oak oak oak oak oak oak oak oak oak oak oak oak "))
    lines = faults(lambda: prepared(data, tmp_path / "out", 7))
    assert [int(line.split(":")[1]) for line in lines[:-1]] == list(range(1, 80, 4))
    assert lines[0].endswith("more than data.tokens.max_length, 14; raise it to 20.")
    assert lines[-1] == "... and 40 more"


def test_repeated_id_is_a_fault_within_a_split_only(tmp_path):
    data = corpus(tmp_path)
    path = tmp_path / "train.txt"
    path.write_text(path.read_text().replace('59\t"', '3\t"'))
    assert faults(lambda: index_corpus(data, 7)) == [f"{path}:237: id 3 is also the id at {path}:13; ids must differ."]
    corpus(tmp_path)
    both = data.model_copy(update={"test": "train.txt"})
    assert len(index_corpus(both, 7).rows) == 120


def test_file_changed_since_indexing_is_an_error(tmp_path):
    data = corpus(tmp_path)
    chunks = index_corpus(data, 7).chunks
    path = tmp_path / "train.txt"
    path.write_text(path.read_text().replace("oak 8<", "elm 8<"))
    assert len(read_chunk(chunks[0], data)) == 7
    with pytest.raises(DataError, match=f"{path}:29: reads differently a second time"):
        read_chunk(chunks[1], data)


RELATIONS = [
    "The <e1>oak</e1> hid an <e2>owl</e2>",
    "The oak <e1>hid</e1> an <e2>owl</e2>",
    "the <e1>OAK</e1> hid <e2>an</e2> owl",
]
LONG = "One <e1>mill</e1> and a long way off one <e2>pond</e2>"


def summary(folder: Path, train: list[str], test: list[str], max_length: int) -> dict:
    for name, texts in (("train", train), ("test", test)):
        blocks = [f'{n}\t"{text}"\n{"ab"[n % 2]}\nComment:\n\n' for n, text in enumerate(texts, 1)]
        (folder / f"{name}.txt").write_text("".join(blocks))
    data = Data.model_validate({"folder": str(folder), "dev": "test.txt", "tokens": {"max_length": max_length}})
    index = index_corpus(data)
    splits = make_splits(index.rows, data)
    files = {name: folder / f"{name}.parquet" for name in SPLITS}
    stats = write_splits((encode_chunk(chunk, data) for chunk in index.chunks), splits, files, data)
    found = summarize(index.rows, splits, stats)
    assert json.loads(json.dumps(found)) == found
    return found


def test_summary_counts_rows_labels_lengths_words_and_duplicates(tmp_path):
    test = ["The <e1>oak</e1> hid an  <e2>owl</e2>", "A <e1>pond</e1> <e2>froze</e2>"]
    found = summary(tmp_path, RELATIONS, test, 9)
    assert found["splits"]["train"] == {
        "rows": 3,
        "labels": {"a": 1, "b": 2},
        "length": {"min": 9, "p50": 9, "p95": 9, "max": 9},
        "truncated": 0,
        "tokens": 15,
        "types": 5,
    }
    assert found["splits"]["test"]["length"] == {"min": 7, "p50": 7, "p95": 7, "max": 9}
    pairs = {"train-dev": 1, "train-test": 1, "dev-test": 2}
    assert found["duplicates"] == {"train-train": 2, "dev-dev": 0, "test-test": 0, **pairs}


def test_summary_has_lengths_before_cutting_and_counts_cut_rows(tmp_path):
    found = summary(tmp_path, [*RELATIONS, LONG], RELATIONS[:1], 12)["splits"]["train"]
    assert found["length"] == {"min": 9, "p50": 9, "p95": 9, "max": 13}
    assert (found["truncated"], found["tokens"]) == (1, 15 + 8)


def test_real_semeval_has_the_known_duplicates(real_data, tmp_path):
    data = Data(folder=str(real_data / "semeval2010-task8"), train="TRAIN_FILE.TXT", test="TEST_FILE_FULL.TXT")
    index = index_corpus(data)
    splits = np.select([index.rows["split"] == "train"], [0], 2).astype(np.int8)
    found = summarize(
        index.rows,
        splits,
        {"train": SplitStats(lengths=[np.ones(1, np.int32)]), "test": SplitStats(lengths=[np.ones(1, np.int32)])},
    )
    assert found["duplicates"] == {"train-train": 25, "test-test": 3, "train-test": 17}
