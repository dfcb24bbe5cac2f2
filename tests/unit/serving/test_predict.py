"""Sentences, lines and tables are answered in order, in chunks of any size, as the classifier answers each alone."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.conftest import refusal
from tests.small import LABELS, WORDS, save_classifier_folder, write

from bilstm_attention.errors import DataError
from bilstm_attention.serving import predict
from bilstm_attention.serving.classifier import load_folder
from bilstm_attention.serving.predict import TARGETS, predict_file, predict_lines

TEXTS = [f"The <e1>{WORDS[number % 6]}</e1> of{' the' * (number % 4)} <e2>car</e2>, NA" for number in range(11)]
SEPARATORS = {".csv": ",", ".tsv": "\t"}
NESTED = ("probabilities", "tokens", "weights")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return load_folder(save_classifier_folder(tmp_path_factory.mktemp("classifier"), units=4, seed=1))


@pytest.fixture(autouse=True)
def chunks_of_three(classifier, monkeypatch):
    monkeypatch.setattr(predict, "load_model", lambda source: classifier)
    monkeypatch.setattr(predict, "CHUNK", 3)


@pytest.fixture
def table():
    return pd.DataFrame({"number": range(11), "sentence": TEXTS, "note": ["NA", "", "é"] * 3 + ["a", "b"]}, dtype="str")


def write_table(table: pd.DataFrame, path: Path) -> Path:
    match path.suffix:
        case ".csv" | ".tsv":
            table.to_csv(path, sep=SEPARATORS[path.suffix], index=False)
        case ".parquet":
            table.to_parquet(path)
        case ".jsonl":
            table.to_json(path, orient="records", lines=True)
    return path


def read(path: Path) -> pd.DataFrame:
    match path.suffix:
        case ".csv" | ".tsv":
            answers = pd.read_csv(path, sep=SEPARATORS[path.suffix], keep_default_na=False, dtype={"number": str})
            return answers.assign(**{name: answers[name].map(json.loads) for name in NESTED if name in answers})
        case ".parquet":
            return pd.read_parquet(path)
        case _:
            return pd.read_json(path, lines=True, dtype=False)


@pytest.mark.parametrize(
    ("source", "target", "attention"), [(source, target, source != target) for source in TARGETS for target in TARGETS]
)
def test_every_row_of_a_table_is_answered_in_order(source, target, attention, classifier, table, tmp_path):
    predict_file(write_table(table, tmp_path / f"in{source}"), tmp_path / f"out{target}", "sentence", None, attention)
    answers, expected = read(tmp_path / f"out{target}"), classifier.answer(TEXTS, attention)
    assert list(answers.columns) == [*table.columns, *expected.columns]
    for column in (*table.columns, "label"):
        assert answers[column].tolist() == (table if column in table else expected)[column].tolist()
    np.testing.assert_allclose(answers["score"], expected["score"], atol=1e-6)
    for one, other in zip(answers["probabilities"], expected["probabilities"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    if attention:
        assert [list(words) for words in answers["tokens"]] == expected["tokens"].tolist()
        for one, other in zip(answers["weights"], expected["weights"], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", [".csv", ".parquet"])
def test_table_without_rows_gives_one_without_rows(source, target, table, tmp_path):
    predict_file(
        write_table(table.head(0), tmp_path / f"in{source}"), tmp_path / f"out{target}", "sentence", None, True
    )
    if target == ".jsonl":
        assert (tmp_path / "out.jsonl").read_text() == ""
    else:
        answers = read(tmp_path / f"out{target}")
        assert (len(answers), list(answers.columns)[-2:]) == (0, ["tokens", "weights"])


def test_columns_keep_their_types(tmp_path):
    days = pa.array([None] * 10 + [20_000], pa.date32())
    numbers = pa.array([None] * 9 + [2**60 + 1, 5], pa.int64())
    source = pa.table({"day": days, "text": TEXTS, "number": numbers})
    parquet.write_table(source, tmp_path / "in.parquet")
    predict_file(tmp_path / "in.parquet", tmp_path / "out.parquet", "text", None, False)
    answers = parquet.read_table(tmp_path / "out.parquet")
    assert answers.select(["day", "text", "number"]).equals(source)
    assert [field.name for field in answers.schema.field("probabilities").type] == LABELS


def test_labelled_table_keeps_its_labels(classifier, tmp_path):
    (tmp_path / "in.CSV").write_text("\ufeffText;label\n\n" + "".join(f"{text};x\n" for text in TEXTS))
    predict_file(tmp_path / "in.CSV", tmp_path / "out.csv", None, None, False)
    answers = pd.read_csv(tmp_path / "out.csv")
    assert list(answers) == ["text", "label", "predicted_label", "score", "probabilities"]
    assert answers["label"].unique().tolist() == ["x"]
    assert answers["predicted_label"].tolist() == classifier.answer(TEXTS)["label"].tolist()


def test_keys_of_json_are_optional(classifier, tmp_path):
    rows = [{"text": TEXTS[0]}, {"n": 1, "text": TEXTS[1]}, {"text": TEXTS[2]}, {"text": TEXTS[3], "late": True}]
    (tmp_path / "in.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    predict_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", None, None, False)
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [answer["label"] for answer in answers] == classifier.answer([row["text"] for row in rows])["label"].tolist()
    assert (answers[1]["n"], answers[3]["late"]) == (1, True)
    with pytest.raises(DataError, match="later records have other columns"):
        predict_file(tmp_path / "in.jsonl", tmp_path / "out.csv", None, None, False)


QUOTED = [f'"{text}"' for text in TEXTS]
DAMAGED: dict[str, tuple[str | bytes, str]] = {
    "absent.csv": ("", "no such file"),
    "a.xlsx": ("text\n", "tables are .csv, .tsv"),
    "column.csv": ("a,b\n1,2\n", "column.csv:1: no column 'text'. There are a, b."),
    "empty.csv": ("", "empty.csv:1: no column 'text'"),
    "latin.csv": (f"text\n{TEXTS[0].replace(',', '')} é\n".encode("latin-1"), "latin.csv:2: character"),
    "comma.csv": ("text\nA good film, but long\n", "comma.csv:2: 2 fields where the header has 1"),
    "twice.csv": (f'text,note,note\n"{TEXTS[0]}",1,2\n', "several columns are called note; give each a name"),
    "broken.jsonl": (f'{{"text": "{TEXTS[0]}"}}\n{{"te', "broken.jsonl:2: not JSON"),
    "list.jsonl": ("1\n", "list.jsonl:1: not a JSON object"),
    "half.jsonl": ('{"text": "\\ud83d"}\n', "half.jsonl:1: holds"),
    "mixed.jsonl": (
        "".join(f'{{"text": "{TEXTS[0]}", "id": {each}}}\n' for each in ("1", '"x"')),
        "values of several types",
    ),
    "text.parquet": ("text", "cannot be read as parquet"),
    # in a later chunk
    "marks.csv": ("\n".join(["text", *QUOTED[:7], "no marks", *QUOTED[8:]]), "marks.csv:9: has no markers; a relation"),
    "blank.csv": ("\n".join(["text", *QUOTED[:7], '""', *QUOTED[8:]]), "blank.csv:9: an empty sentence"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_table_that_cannot_be_answered_leaves_the_target(name, tmp_path):
    content, message = DAMAGED[name]
    write(tmp_path / "out.csv", "earlier")
    if name != "absent.csv":
        write(tmp_path / name, content)
    refused = refusal(lambda: predict_file(tmp_path / name, tmp_path / "out.csv", "text", None, False), DataError)
    assert message in refused
    assert name in refused
    assert (tmp_path / "out.csv").read_text() == "earlier"
    assert {path.name for path in tmp_path.iterdir()} <= {name, "out.csv"}


def test_damaged_parquet_pages_are_an_error(tmp_path):
    file = tmp_path / "in.parquet"
    parquet.write_table(pa.table({"text": TEXTS * 500}), file, use_dictionary=False)
    pages = bytearray(file.read_bytes())
    pages[50:150] = b"x" * 100
    file.write_bytes(pages)
    with pytest.raises(DataError, match="cannot be read as parquet"):
        predict_file(file, tmp_path / "out.csv", "text", None, False)


def test_lines_are_answered_as_they_come(classifier):
    out, seen = io.StringIO(), list[int]()

    def lines():
        for text in TEXTS:
            seen.append(out.getvalue().count("\n"))
            yield f"{text}\n"

    predict_lines(lines(), None, attention=False, as_json=False, to=out)
    assert seen == list(range(11))
    expected = classifier.answer(TEXTS)
    answers = [line.split("\t") for line in out.getvalue().splitlines()]
    assert [label for label, _ in answers] == expected["label"].tolist()
    np.testing.assert_allclose([float(score) for _, score in answers], expected["score"], atol=1e-6)


@pytest.mark.parametrize("attention", [False, True])
def test_json_lines_hold_all_columns(attention, classifier):
    out = io.StringIO()
    predict_lines(TEXTS, None, attention=attention, as_json=not attention, to=out)
    answers: list[dict[str, Any]] = [json.loads(line) for line in out.getvalue().splitlines()]
    expected = classifier.answer(TEXTS, attention)
    assert [list(answer) for answer in answers] == [list(expected.columns)] * 11
    assert [answer["label"] for answer in answers] == expected["label"].tolist()


def test_line_that_cannot_be_answered_is_named():
    out = io.StringIO()
    with pytest.raises(DataError, match="row 4: has no markers"):
        predict_lines([*TEXTS[:4], "no marks"], None, attention=False, as_json=False, to=out)
    assert len(out.getvalue().splitlines()) == 3
    lines = io.TextIOWrapper(io.BytesIO(TEXTS[0].encode() + b"\n\xff\n"), encoding="utf-8")
    with pytest.raises(DataError, match="standard input, row 0 or after it: not UTF-8"):
        predict_lines(lines, None, attention=False, as_json=False, to=io.StringIO())
