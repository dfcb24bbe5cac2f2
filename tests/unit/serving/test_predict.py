"""Sentences, lines and tables are answered in order, in parts of any size, as the classifier answers each alone."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.small import LABELS, WORDS, save_classifier_folder

from bilstm_attention.errors import DataError
from bilstm_attention.serving import predict as predictions
from bilstm_attention.serving.classifier import TextClassifier, load_folder
from bilstm_attention.serving.predict import predict_file, predict_lines

TEXTS = [f"The <e1>{WORDS[number % 6]}</e1> of{' the' * (number % 4)} <e2>car</e2>, NA" for number in range(11)]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> TextClassifier:
    return load_folder(save_classifier_folder(tmp_path_factory.mktemp("classifier"), units=4, seed=1))


@pytest.fixture(autouse=True)
def asked_for(classifier: TextClassifier, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The models asked for; parts of three rows."""
    models: list[str | None] = []
    monkeypatch.setattr(predictions, "classifier", lambda model: models.append(model) or classifier)
    monkeypatch.setattr(predictions, "ROWS", 3)
    return models


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame({"number": range(11), "sentence": TEXTS, "note": ["NA", "", "é"] * 3 + ["a", "b"]}, dtype="str")


def write(table: pd.DataFrame, path: Path) -> Path:
    match path.suffix:
        case ".csv":
            table.to_csv(path, index=False)
        case ".parquet":
            table.to_parquet(path)
        case ".jsonl":
            table.to_json(path, orient="records", lines=True)
    return path


def read(path: Path) -> pd.DataFrame:
    nested = ("probabilities", "tokens", "weights")
    match path.suffix:
        case ".csv":
            found = pd.read_csv(path, keep_default_na=False, dtype={"number": str})
            return found.assign(**{name: found[name].map(json.loads) for name in nested if name in found})
        case ".parquet":
            return pd.read_parquet(path)
        case _:
            return pd.read_json(path, lines=True, dtype=False)


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("target", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize("source", [".csv", ".parquet", ".jsonl"])
def test_a_table_is_answered_row_by_row(
    source: str, target: str, attention: bool, classifier: TextClassifier, table: pd.DataFrame, tmp_path: Path
) -> None:
    answered = tmp_path / f"answers{target}"
    predict_file(write(table, tmp_path / f"given{source}"), answered, "sentence", None, attention)
    found, wanted = read(answered), classifier.answer(TEXTS, attention)
    assert list(found.columns) == [*table.columns, *wanted.columns]
    for column in table.columns:
        assert found[column].tolist() == table[column].tolist()
    assert found["label"].tolist() == wanted["label"].tolist()
    np.testing.assert_allclose(found["score"], wanted["score"], atol=1e-6)
    for one, other in zip(found["probabilities"], wanted["probabilities"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    if attention:
        assert [list(words) for words in found["tokens"]] == wanted["tokens"].tolist()
        for one, other in zip(found["weights"], wanted["weights"], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sentence": [*TEXTS[:7], "no marks", *TEXTS[8:]]}, "given.csv: row 7: has no markers; a relation sentence"),
        ({"label": "x"}, "has columns of the answers' names already, label; rename them"),
    ],
)
def test_a_table_that_cannot_be_answered_leaves_no_half_of_one(
    change: dict[str, object], said: str, table: pd.DataFrame, tmp_path: Path
) -> None:
    source = write(table.assign(**change), tmp_path / "given.csv")
    (tmp_path / "answers.csv").write_text("of before")
    with pytest.raises(DataError) as raised:
        predict_file(source, tmp_path / "answers.csv", "sentence", None, False)
    assert said in str(raised.value)
    assert (tmp_path / "answers.csv").read_text() == "of before"
    assert {path.name for path in tmp_path.iterdir()} == {"given.csv", "answers.csv"}


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("given.csv", "answers.xlsx", "answers.xlsx: tables are .csv, .parquet, .jsonl"),
        ("given.txt", "answers.csv", "given.txt: tables are .csv, .parquet, .jsonl"),
        ("absent.csv", "answers.csv", "absent.csv: no such file"),
        ("given.csv", "answers.csv", "no column 'text'. There are: number, sentence, note"),
        ("broken.jsonl", "answers.csv", "broken.jsonl:2: not a jsonl file"),
        ("list.jsonl", "answers.csv", "list.jsonl:1: a line is an object"),
        ("keys.jsonl", "answers.csv", "keys.jsonl:2: keys text, more; the first line has text"),
        ("empty.jsonl", "answers.csv", "empty.jsonl: no column 'text'. There are: ."),
        ("latin.csv", "answers.csv", "latin.csv: not a csv file"),
        ("commas.csv", "answers.csv", "commas.csv:2: 2 fields, 1 in the header; a comma within a field needs quotes"),
        ("text.parquet", "answers.csv", "text.parquet: not a parquet file"),
        ("damaged.parquet", "answers.csv", "damaged.parquet: a damaged parquet file"),
        ("twice.parquet", "answers.csv", "twice.parquet: several columns are called text; give each a name"),
        ("twice.csv", "answers.csv", "twice.csv: several columns are called note; give each a name of its own"),
        ("gap.csv", "answers.csv", "gap.csv:2: an empty line; delete it, or write an empty field"),
        ("half.jsonl", "answers.csv", "half.jsonl: a column holds what no table can, or values of several types"),
        ("long.jsonl", "answers.csv", "long.jsonl: a column holds what no table can, or values of several types"),
        ("mixed.jsonl", "answers.csv", "mixed.jsonl: a column holds what no table can, or values of several types"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(
    source: str, target: str, said: str, table: pd.DataFrame, tmp_path: Path
) -> None:
    write(table, tmp_path / "given.csv")
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"te')
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "keys.jsonl").write_text(f'{{"text": "{TEXTS[0]}"}}\n{{"text": "b", "more": 1}}\n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "latin.csv").write_bytes("text\né\n".encode("latin-1"))
    (tmp_path / "commas.csv").write_text("text\nA good film, but long\n")
    (tmp_path / "text.parquet").write_text("text")
    parquet.write_table(pa.table({"text": TEXTS * 500}), tmp_path / "damaged.parquet", use_dictionary=False)
    pages = bytearray((tmp_path / "damaged.parquet").read_bytes())
    pages[50:150] = b"x" * 100
    (tmp_path / "damaged.parquet").write_bytes(pages)
    parquet.write_table(pa.table([TEXTS, TEXTS], names=["text", "text"]), tmp_path / "twice.parquet")
    (tmp_path / "twice.csv").write_text(f'text,note,note\n"{TEXTS[0]}",1,2\n')
    (tmp_path / "gap.csv").write_text(f'text\n\n"{TEXTS[0]}"\n')
    (tmp_path / "half.jsonl").write_text('{"text": "\\ud83d"}\n')
    (tmp_path / "long.jsonl").write_text(f'{{"text": "a", "id": {2**70}}}\n')
    (tmp_path / "mixed.jsonl").write_text('{"text": "a", "id": 1}\n{"text": "b", "id": "x7"}\n')
    with pytest.raises(DataError) as raised:
        predict_file(tmp_path / source, tmp_path / target, "text", None, False)
    assert said in str(raised.value)
    assert not (tmp_path / target).exists()


def test_a_long_field_and_empty_lines_at_the_end_are_no_fault(tmp_path: Path) -> None:
    note = "x" * 200_000
    (tmp_path / "given.csv").write_text(f'text,note\n"{TEXTS[0]}",{note}\n\n\n')
    predict_file(tmp_path / "given.csv", tmp_path / "answers.csv", "text", None, False)
    assert read(tmp_path / "answers.csv")["note"].tolist() == [note]


def test_columns_keep_their_types_and_their_order(tmp_path: Path, classifier: TextClassifier) -> None:
    days = pa.array([None] * 10 + [20_000], pa.date32())
    numbers = pa.array([None] * 9 + [2**60 + 1, 5], pa.int64())
    given = pa.table({"day": days, "text": TEXTS, "number": numbers})
    parquet.write_table(given, tmp_path / "given.parquet")
    predict_file(tmp_path / "given.parquet", tmp_path / "answers.parquet", "text", None, False)
    answered = parquet.read_table(tmp_path / "answers.parquet")
    assert answered.select(["day", "text", "number"]).equals(given)
    assert [field.name for field in answered.schema.field("probabilities").type] == LABELS
    # keys of a line in another order are the same keys
    rows = [{"text": text, "id": 1} if number % 4 else {"id": 1, "text": text} for number, text in enumerate(TEXTS)]
    lines = map(json.dumps, rows)
    (tmp_path / "given.jsonl").write_text("\n".join(lines))
    predict_file(tmp_path / "given.jsonl", tmp_path / "answers.csv", "text", None, False)
    found = pd.read_csv(tmp_path / "answers.csv")
    assert (found["text"].tolist(), set(found["id"])) == (TEXTS, {1})
    assert found["label"].tolist() == classifier.answer(TEXTS)["label"].tolist()


@pytest.mark.parametrize("target", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize("source", [".csv", ".parquet"])
def test_a_table_without_rows_gives_one_without_rows(
    source: str, target: str, table: pd.DataFrame, tmp_path: Path
) -> None:
    given = write(table.head(0), tmp_path / f"given{source}")
    predict_file(given, tmp_path / f"answers{target}", "sentence", None, True)
    if target == ".jsonl":
        assert (tmp_path / "answers.jsonl").read_text() == ""
    else:
        found = read(tmp_path / f"answers{target}")
        assert (len(found), list(found.columns)[-2:]) == (0, ["tokens", "weights"])


def test_lines_that_are_no_utf_8_are_named() -> None:
    lines = io.TextIOWrapper(io.BytesIO(TEXTS[0].encode() + b"\n\xff\n"), encoding="utf-8")
    with pytest.raises(DataError, match="standard input, row 0 or after it: not UTF-8"):
        predict_lines(lines, None, attention=False, as_json=False, to=io.StringIO())


def test_lines_are_answered_as_they_come(classifier: TextClassifier, asked_for: list[str | None]) -> None:
    out, seen = io.StringIO(), list[int]()

    def lines() -> Iterator[str]:
        for text in TEXTS:
            seen.append(out.getvalue().count("\n"))
            yield f"{text}\n"

    predict_lines(lines(), "models:/sample@champion", attention=False, as_json=False, to=out)
    assert seen == list(range(11))
    wanted = classifier.answer(TEXTS)
    assert [line.split("\t")[0] for line in out.getvalue().splitlines()] == wanted["label"].tolist()
    scores = [float(line.split("\t")[1]) for line in out.getvalue().splitlines()]
    np.testing.assert_allclose(scores, wanted["score"], atol=1e-6)
    assert asked_for == ["models:/sample@champion"]


@pytest.mark.parametrize("attention", [False, True])
def test_sentences_are_answered_in_json_where_asked(attention: bool, classifier: TextClassifier) -> None:
    out = io.StringIO()
    predict_lines(TEXTS, None, attention=attention, as_json=not attention, to=out)
    found = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [list(answer) for answer in found] == [list(classifier.answer(TEXTS, attention).columns)] * 11
    assert [answer["label"] for answer in found] == classifier.answer(TEXTS)["label"].tolist()


def test_a_line_that_cannot_be_answered_is_named_after_the_answers_before_it() -> None:
    out = io.StringIO()
    with pytest.raises(DataError, match="row 4: has no markers"):
        predict_lines([*TEXTS[:4], "no marks"], None, attention=False, as_json=False, to=out)
    assert len(out.getvalue().splitlines()) == 3  # of the part before
