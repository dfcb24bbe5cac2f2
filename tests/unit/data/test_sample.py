"""The sample corpus: its bytes and its labels."""

import importlib.util
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

SAMPLE = Path(__file__).parents[3] / "data/sample"
_spec = importlib.util.spec_from_file_location("make_sample", SAMPLE / "make_sample.py")
grammar = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(grammar)
BLOCK = re.compile(
    r'(?P<number>\d+)\t"(?P<text>[A-Z<][^"\n]*<e1>\w+</e1>[^"\n]*<e2>\w+</e2>[^"\n]*\.)"\n'
    r"(?P<label>[\w-]+(?:\(e[12],e[12]\))?)\nComment:\n\n"
)


class Row(NamedTuple):
    number: int
    text: str
    label: str


def read(path: Path) -> list[Row]:
    return [Row(int(m["number"]), m["text"], m["label"]) for m in BLOCK.finditer(path.read_bytes().decode("utf-8"))]


TRAIN, TEST = (read(SAMPLE / name) for name in ("train.txt", "test.txt"))


def unmarked(row: Row) -> str:
    return re.sub(r"</?e[12]>", "", row.text).lower()


def test_the_script_writes_the_committed_bytes(tmp_path):
    grammar.main([str(tmp_path / "again")])
    for name in ("train.txt", "test.txt"):
        assert (tmp_path / "again" / name).read_bytes() == (SAMPLE / name).read_bytes(), name


def test_both_splits_hold_all_labels_evenly_and_each_text_once():
    assert len(grammar.LABELS) == 19
    assert [row.number for row in TRAIN + TEST] == list(range(1, 3801))
    assert max(Counter(map(unmarked, TRAIN + TEST)).values()) == 1
    assert not grammar.HELD_OUT_NOUNS & {token for row in TRAIN for token in grammar.tokens(row.text)}
    for rows, each in ((TRAIN, 142), (TEST, 38)):
        counts = Counter(row.label for row in rows)
        assert set(counts) == set(grammar.LABELS)
        assert {count for label, count in counts.items() if label != "Other"} == {each}
        assert counts["Other"] == len(rows) - 18 * each
        assert 0.14 < counts["Other"] / len(rows) < 0.16


def test_sentences_have_their_length_and_no_open_slot():
    for row in TRAIN + TEST:
        assert grammar.SHORTEST <= len(grammar.tokens(row.text)) <= grammar.LONGEST, row
        assert not re.search(r"[{}#@|]|[,;]\W*[,;.]|  | [,;.]|\b[Aa] (<e[12]>)?[aeiou]", row.text), row


def test_script_writes_a_larger_corpus_of_new_sentences(tmp_path, capsys):
    grammar.main([str(tmp_path), "--sentences", "6100"])
    train, test = (read(tmp_path / name) for name in ("train.txt", "test.txt"))
    assert [row.number for row in train + test] == list(range(1, 6711))
    assert (len(train), len({unmarked(row) for row in train + test})) == (6100, 6710)
    assert {n for label, n in Counter(row.label for row in train).items() if label != "Other"} == {142 * 2 + 5}
    with pytest.raises(SystemExit):
        grammar.main(["--sentences", "6100"])
    assert "name a FOLDER too" in capsys.readouterr().err
