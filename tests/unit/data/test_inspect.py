"""Guesses of what a corpus is: the files of its splits, and the columns of a table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bilstm_attention.data.inspect import find_encoding, find_files, inspect_file
from bilstm_attention.errors import DataError


def make(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x\n")
    return [folder / name for name in names]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["reviews.csv"], {"train": "reviews.csv"}),
        (["test.csv"], {"train": "test.csv"}),
        (["my-train.csv", "my-val.csv", "my-test.csv"], {"train": 0, "dev": 1, "test": 2}),
        (["Training.tsv", "validation.tsv"], {"train": 0, "dev": 1}),
        (["good.txt", "bad.txt"], {"format": "classes", "train": {"good": "good.txt", "bad": "bad.txt"}}),
        (["rt.neg", "rt.pos"], {"format": "classes", "train": {"neg": "rt.neg", "pos": "rt.pos"}}),
        (["a/good.txt", "b/bad.txt"], {"format": "classes", "train": {"good": "a/good.txt", "bad": "b/bad.txt"}}),
    ],
)
def test_names_of_files_tell_what_they_are(names: list[str], found: dict[str, Any], tmp_path: Path) -> None:
    expected = {key: names[value] if isinstance(value, int) else value for key, value in found.items()}
    assert find_files(make(tmp_path, *names)) == {"folder": str(tmp_path), "test": None} | expected


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["train.csv", "dev.csv", "README.md", "notes.md", ".hidden"], {"train": "train.csv", "dev": "dev.csv"}),
        (["reviews.csv", "LICENSE", ".cache"], {"train": "reviews.csv"}),
        (["train.csv", "pictures/1.png"], {"train": "train.csv"}),
        (["good/1.txt", "bad/1.txt", ".git/x"], {"format": "classes", "train": "."}),
        (["train/good/1.txt", "test/good/1.txt"], {"format": "classes", "train": "train", "test": "test"}),
        (
            ["train/good/1.txt", "train/unsup/1.txt", "test/good/1.txt"],
            {"format": "classes", "train": {"good": "train/good"}, "test": "test"},
        ),
    ],
)
def test_folder_is_split_by_its_names(names: list[str], found: dict[str, Any], tmp_path: Path) -> None:
    make(tmp_path, *names)
    assert find_files([tmp_path]) == {"folder": str(tmp_path), "test": None} | found


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train.csv", "other.csv"], r"train.csv \(train\), other.csv \(neither\); legal are"),
        (["train-1.csv", "train-2.csv"], "train-2.csv"),
        (["dev.csv", "test.csv"], "legal are one file named train"),
        (["one.csv", "two.csv"], "a plain text file per class"),
    ],
)
def test_files_of_no_known_kind_are_listed(names: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        find_files(make(tmp_path, *names))


def test_what_is_no_corpus_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, "reviews.csv")
    with pytest.raises(DataError, match=r"revews.csv: no such file or folder; did you mean 'reviews.csv'\?"):
        find_files([tmp_path / "revews.csv"])
    make(tmp_path, "train/good/1.txt", "test/good/1.txt")
    with pytest.raises(DataError, match="legal are one file named train"):
        find_files([tmp_path / "train", tmp_path / "test"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no files"):
        find_files([tmp_path / "empty"])


@pytest.mark.parametrize(
    ("text", "encoding", "found"),
    [
        ("Plain.", "ascii", {}),
        ("Ünïcode.", "utf-8-sig", {}),
        ("A plain sentence.", "utf-16", {}),
        ("A plain sentence.", "utf-16-le", {"encoding": "utf-16-le"}),
        ("A plain sentence.", "utf-16-be", {"encoding": "utf-16-be"}),
        ("Der Kessel stand für Übungen neben größeren Öfen in der Küche.", "cp1252", {"encoding": "cp1252"}),
    ],
)
def test_encoding(text: str, encoding: str, found: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(("\n".join([text] * 9)).encode(encoding))
    assert find_encoding([tmp_path / "a.txt"]) == found


def test_damaged_line_does_not_change_the_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Ünïcode.\n".encode() * 3 + b"Br\xfchl.\n")
    assert find_encoding([tmp_path / "a.txt"]) == {}


def test_encoding_is_that_of_foreign_letters(tmp_path: Path) -> None:
    lines = "Этот чайник в новом доме был очень хороший.\n" * 9
    (tmp_path / "a.txt").write_bytes(b"A plain sentence.\n" * 10_000 + lines.encode("cp1251"))
    assert find_encoding([tmp_path / "a.txt"]) == {"encoding": "cp1251"}


def records(**columns: Any) -> list[dict[str, Any]]:
    return [{name: value(number) for name, value in columns.items()} for number in range(80)]


def sentence(number: int) -> str:
    return f"House {number} has a kettle and {number} lamps."


def columns_of(folder: Path, rows: list[dict[str, Any]], ask: Any = None, **flags: str) -> dict[str, Any]:
    path = folder / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return inspect_file(path, flags.get("text"), flags.get("label"), ask)[0]


NOISE = {
    "id": lambda number: f"3f9c-{number:04}-{'ab' * 20}",
    "url": lambda number: f"https://example.org/{'long/' * 12}{number}",
    "date": lambda number: f"2020-01-{number % 28 + 1:02} 10:{number:02}",
    "from-to": lambda number: f"2020-01-01 {number:02}:00 - 2020-02-02 {number:02}:59",
    "age": lambda number: number % 30,
    "size": lambda number: number * 1.5,
    "same": lambda number: "en",
    "tags": lambda number: {"a": number},
}


def test_ids_dates_and_numbers_are_neither_text_nor_label(tmp_path: Path) -> None:
    rows = records(**NOISE, body=sentence, kind=lambda number: number % 3)
    assert columns_of(tmp_path, rows) == {"format": "table", "text": "body", "label": "kind"}


def test_known_name_decides_among_likely_columns(tmp_path: Path) -> None:
    rows = records(
        title=sentence, Text=lambda number: sentence(-number), star=lambda number: number % 5, Label=lambda n: n % 2
    )
    assert columns_of(tmp_path, rows) == {"format": "table", "text": "Text", "label": "Label"}


TWO_OF_EACH = records(
    first=sentence, second=lambda number: sentence(-number), mood=lambda n: n % 2, tone=lambda n: n % 3
)


def test_unsure_guess_is_asked(tmp_path: Path) -> None:
    asked = []

    def ask(question: str, answers: Sequence[str]) -> str:
        asked.append((question, [*answers]))
        return answers[1]

    assert columns_of(tmp_path, TWO_OF_EACH, ask) == {"format": "table", "text": "second", "label": "tone"}
    assert asked == [
        ("own.jsonl: the text may be any of the columns first, second; which is it?", ["first", "second"]),
        ("own.jsonl: the label may be any of the columns mood, tone; which is it?", ["mood", "tone"]),
    ]


def test_unsure_guess_without_terminal_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="columns first, second; name it with --text COLUMN"):
        columns_of(tmp_path, TWO_OF_EACH)
    with pytest.raises(DataError, match="columns mood, tone; name it with --label COLUMN"):
        columns_of(tmp_path, TWO_OF_EACH, text="first")
    unlabelled = records(body=sentence, number=lambda number: f"n{number}")
    with pytest.raises(DataError, match="no column looks like the label; name it with --label COLUMN"):
        columns_of(tmp_path, unlabelled)


def test_flags_name_columns(tmp_path: Path) -> None:
    chosen = columns_of(tmp_path, TWO_OF_EACH, text="second", label="Mood")
    assert (chosen["text"], chosen["label"]) == ("second", "mood")
    with pytest.raises(DataError, match="--label: no column 'mod'; did you mean 'mood'"):
        columns_of(tmp_path, TWO_OF_EACH, text="first", label="mod")
