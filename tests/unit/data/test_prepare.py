import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from tests.conftest import refusal
from tests.small import write_blocks
from tests.unit.data.tables import read_index, read_split

from bilstm_attention import stages
from bilstm_attention.config import Data, Params
from bilstm_attention.data import prepare
from bilstm_attention.data.corpus import read_chunks, read_corpus
from bilstm_attention.data.prepare import encode_chunk, summarize, write_splits
from bilstm_attention.data.splits import SPLITS, make_splits
from bilstm_attention.data.tokens import encode_examples
from bilstm_attention.errors import UserError


def corpus(folder: Path, rows: int = 60) -> Data:
    """Relations of three labels, some sentences twice; dev and test come from train."""
    texts = [f"The <e1>oak {n % 50}</e1> hid an <e2>owl</e2>, {'far ' * (n % 7)}off." for n in range(rows)]
    write_blocks(folder / "train.txt", texts, "abc")
    return Data.model_validate(
        {"folder": str(folder), "test": None, "dev_fraction": 0.2, "tokens": {"max_length": 14, "numbers": "keep"}}
    )


def prepared(data: Data, folder: Path, chunk_rows: int) -> tuple[dict[str, bytes], dict]:
    folder.mkdir()
    files = {name: folder / f"{name}.parquet" for name in SPLITS}
    with TemporaryFile() as file:
        rows = read_corpus(data, file, chunk_rows)
        encoded = (encode_chunk(part, data, Counter()) for part in read_chunks(file, rows, chunk_rows))
        stats = write_splits(encoded, make_splits(rows, data), files, data)
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
    numbers, table = make_splits(read_index(data), data), read_split(data, "train")
    for number, name in enumerate(SPLITS):
        rows = encode_examples(table[numbers == number], data)
        rows.to_parquet(tmp_path / "pandas.parquet", index=False)
        assert written[name] == (tmp_path / "pandas.parquet").read_bytes()
        assert stats[name].truncated == (rows["length"] > 14).sum() > 0
        assert stats[name].words["owl"] == len(rows)


def test_index_holds_keys_labels_files_and_lines(tmp_path):
    data = corpus(tmp_path)
    rows = read_index(data)
    assert rows["key"].nunique() == 60
    assert rows["label"].cat.categories.tolist() == ["a", "b", "c"]
    assert (rows["file"] == f"{tmp_path}/train.txt").all()
    assert rows["line"].tolist() == list(range(1, 240, 4))
    (tmp_path / "train.txt").write_text((tmp_path / "train.txt").read_text().replace("far ", ""))
    keys = read_index(data)["key"]
    assert pd.factorize(keys)[0].tolist() == [n % 50 for n in range(60)]


def faults_of(act: Callable[[], object]) -> list[str]:
    return refusal(act, UserError).split("\n")


def test_faults_of_all_chunks_are_listed_in_order_and_counted(tmp_path):
    data = corpus(tmp_path)
    path = tmp_path / "train.txt"
    good = path.read_text()
    path.write_text(good.replace("</e2>", ""))
    lines = faults_of(lambda: read_index(data))
    assert [int(line.split(":")[1]) for line in lines[:-1]] == list(range(1, 80, 4))
    assert lines[-1] == "... and 40 more"
    path.write_text(good.replace("oak ", "oak oak oak oak oak oak oak oak oak oak oak oak "))
    *lines, more, advice = faults_of(lambda: prepared(data, tmp_path / "out", 7))
    assert [int(line.split(":")[1]) for line in lines] == list(range(1, 80, 4))
    assert lines[0].endswith("more than data.tokens.max_length, 14; raise it to 20.")
    assert (more, advice) == ("... and 40 more", "Raise data.tokens.max_length to 20.")


def test_repeated_id_is_a_fault_within_a_split_only(tmp_path):
    data = corpus(tmp_path)
    path = tmp_path / "train.txt"
    path.write_text(path.read_text().replace('60\t"', '4\t"'))
    assert faults_of(lambda: read_index(data)) == [f"{path}:237: id 4 is also the id at {path}:13; ids must differ."]
    corpus(tmp_path)
    both = data.model_copy(update={"test": "train.txt"})
    assert len(read_index(both)) == 120


RELATIONS = [
    "The <e1>oak</e1> hid an <e2>owl</e2>",
    "The oak <e1>hid</e1> an <e2>owl</e2>",
    "the <e1>OAK</e1> hid <e2>an</e2> owl",
    "One <e1>mill</e1> and a long way off one <e2>pond</e2>",
]


def test_summary_counts_rows_labels_lengths_words_and_duplicates(tmp_path):
    test = ["The <e1>oak</e1> hid an  <e2>owl</e2>", "A <e1>pond</e1> <e2>froze</e2>"]
    for name, texts in (("train", RELATIONS), ("test", test)):
        write_blocks(tmp_path / f"{name}.txt", texts, "ab")
    data = Data.model_validate({"folder": str(tmp_path), "dev": "test.txt", "tokens": {"max_length": 12}})
    rows, (_, stats) = read_index(data), prepared(data, tmp_path / "out", 50)
    found = summarize(rows, make_splits(rows, data), stats)
    assert json.loads(json.dumps(found)) == found
    # lengths are those before cutting, words those after it
    assert found["splits"]["train"] == {
        "rows": 4,
        "labels": {"a": 2, "b": 2},
        "length": {"min": 9, "p50": 9, "p95": 9, "max": 13},
        "truncated": 1,
        "tokens": 15 + 8,
        "types": 13,
    }
    assert found["splits"]["test"]["length"] == {"min": 7, "p50": 7, "p95": 7, "max": 9}
    pairs = {"train-dev": 1, "train-test": 1, "dev-test": 2}
    assert found["duplicates"] == {"train-train": 2, "dev-dev": 0, "test-test": 0, **pairs}


LABELS = ["Part-Whole(e1,e2)", "Part-Whole(e2,e1)", "Other"]


def relations(folder: Path, labels: list[str]) -> Params:
    """Parameters of a corpus of 30 sentences, the first without words in an entity."""
    texts = [f"The <e1>{'oak' if n else ' '}</e1> &amp; its <e2>leaf {n}</e2>" for n in range(30)]
    write_blocks(folder / "train.txt", texts, labels)
    return Params.model_validate({"data": {"folder": str(folder), "test": None}})


def test_prepare_prints_and_stores_its_warnings(tmp_path, capsys):
    stages.prepare(relations(tmp_path, LABELS), tmp_path)
    warnings = json.loads((tmp_path / "data/prepared/summary.json").read_text())["warnings"]
    assert "1 entities have no token and are read as an unknown word." in warnings
    assert "30 of 30 rows hold HTML tags or entities; data.tokens.clean: [html] replaces them." in warnings
    assert [line for line in capsys.readouterr().err.splitlines() if line] == [f"warning: {line}" for line in warnings]


def test_prepare_refuses_a_monitor_that_the_labels_do_not_have(tmp_path):
    (line,) = faults_of(lambda: stages.prepare(relations(tmp_path, ["part", "whole"]), tmp_path))
    assert line == "train.monitor: official_f1 is not available for these labels. Legal: accuracy, macro_f1, loss."
    assert not (tmp_path / "data/prepared/summary.json").exists()
