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


def test_the_script_writes_the_committed_bytes(tmp_path):
    grammar.main([str(tmp_path / "again")])
    for name in ("train.txt", "test.txt"):
        assert (tmp_path / "again" / name).read_bytes() == (SAMPLE / name).read_bytes(), name


# the committed corpus, and one of more sentences than a cell of the grammar has
@pytest.mark.parametrize(
    ("options", "sizes", "each"), [([], (3000, 800), 142), (["--sentences", "6100"], (6100, 610), 289)]
)
def test_sentences_are_new_and_labels_even(options, sizes, each, tmp_path):
    grammar.main([str(tmp_path), *options])
    train, test = (read(tmp_path / name) for name in ("train.txt", "test.txt"))
    assert (len(train), len(test), len(grammar.LABELS)) == (*sizes, 19)
    assert [row.number for row in train + test] == list(range(1, sum(sizes) + 1))
    assert len({re.sub(r"</?e[12]>", "", row.text).lower() for row in train + test}) == sum(sizes)
    assert not grammar.HELD_OUT_NOUNS & {token for row in train for token in grammar.tokens(row.text)}
    for rows in (train, test):
        counts = Counter(row.label for row in rows)
        assert set(counts) == set(grammar.LABELS)
        assert 0.14 < counts.pop("Other") / len(rows) < 0.16
        assert len(set(counts.values())) == 1
    assert len([row for row in train if row.label == grammar.LABELS[0]]) == each
    for row in train + test:
        assert grammar.SHORTEST <= len(grammar.tokens(row.text)) <= grammar.LONGEST, row
        assert not re.search(r"[{}#@|]|[,;]\W*[,;.]|  | [,;.]|\b[Aa] (<e[12]>)?[aeiou]", row.text), row


def test_larger_corpus_needs_a_folder(capsys):
    with pytest.raises(SystemExit):
        grammar.main(["--sentences", "6100"])
    assert "name a FOLDER too" in capsys.readouterr().err
