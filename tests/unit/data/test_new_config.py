"""`init` finds out how a corpus is written; the config it writes reads every row of it."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.unit.data.tables import read_index

from bilstm_attention.config import Params, apply_overrides, load_params, read_overrides
from bilstm_attention.data import formats
from bilstm_attention.data import new_config as new_config_module
from bilstm_attention.data.inspect import Ask
from bilstm_attention.data.new_config import Corpus, corpus_name, describe, glove_coverage, inspect_corpus, new_config
from bilstm_attention.errors import DataError
from bilstm_attention.evaluation.metrics import metric_names

ROOT = Path(__file__).parents[3]
THINGS, PRAISE, BLAME = ("soup", "kettle", "lamp", "train"), ("crisp", "tidy", "warm"), ("stale", "dim", "noisy")


def opinions(count: int, start: int = 0) -> list[tuple[str, str]]:
    """Sentences and their labels."""
    rows = []
    for number in range(start, start + count):
        words = BLAME if number % 3 else PRAISE
        text = f"The {THINGS[number % 4]} of house {number} was {words[number % 3]}, and so was number {number + 2}."
        rows.append((text, "blame" if number % 3 else "praise"))
    return rows


def delimited(mark: str, count: int = 30, header: str = "text label", quote: str = '"') -> str:
    lines = [header.replace(" ", mark)] if header else []
    return "\n".join(lines + [f"{quote}{text}{quote}{mark}{label}" for text, label in opinions(count)]) + "\n"


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def tacred(number: int) -> dict[str, Any]:
    tokens = ["Ada", "Finch", "runs", "the", "Mill", "of", "house", str(number)]
    spans = {"subj_start": 0, "subj_end": 1, "obj_start": 4, "obj_end": 4}
    tags = ["NNP", "NNP", "VBZ", "DT", "NNP", "IN", "NN", "CD"]
    relation = "no_relation" if number % 2 else "org:head"
    return {"id": f"x{number}", "relation": relation, "token": tokens, **spans, "stanford_pos": tags}


def marked(number: int, left: str = "<e{}>", right: str = "</e{}>") -> str:
    first, second = f"{left}lid{right}".format(1, 1), f"{left}jar{right}".format(2, 2)
    return f"In house {number} the {first} of the {second} broke."


DIRECTED = ("Part-Whole(e1,e2)", "Part-Whole(e2,e1)", "Other")


def csv_semicolon(folder: Path) -> list[Path]:
    write(folder / "own.csv", delimited(";"))
    return [folder / "own.csv"]


def excel(folder: Path) -> list[Path]:
    write(folder / "own.txt", delimited("\t", header="Comment Verdict", quote="").encode("utf-16"))
    return [folder / "own.txt"]


def cyrillic(folder: Path) -> list[Path]:
    rows = [f"Этот чайник в доме {n} был очень {'плохой' if n % 2 else 'хороший'},{n % 2}" for n in range(40)]
    write(folder / "own.csv", "\n".join(["text,label", *rows]).encode("cp1251"))
    return [folder / "own.csv"]


def headless(folder: Path) -> list[Path]:
    write(folder / "own.csv", delimited(",", header=""))
    return [folder / "own.csv"]


def bare_quotes(folder: Path) -> list[Path]:
    lines = [f'{n}\tHe called house {n} "a ruin\t{n % 2}' for n in range(30)]
    write(folder / "own.tsv", "\n".join(["id\tsentence\tlabel", *lines]))
    return [folder / "own.tsv"]


def escaped_quotes(folder: Path) -> list[Path]:
    lines = [f'"He called house {n} \\"a ruin\\", twice",{n % 2}' for n in range(30)]
    write(folder / "own.csv", "\n".join(["text,label", *lines]))
    return [folder / "own.csv"]


def booleans(folder: Path) -> list[Path]:
    records = [{"text": text, "spam": label == "praise", "meta": {"a": 1}} for text, label in opinions(30)]
    write(folder / "own.jsonl", "\n".join(map(json.dumps, records)))
    return [folder / "own.jsonl"]


def array(folder: Path) -> list[Path]:
    for split, count in (("train", 30), ("dev", 10), ("test", 8)):
        write(folder / f"{split}.json", json.dumps([tacred(number) for number in range(count)]))
    return [folder]


def markers(folder: Path) -> list[Path]:
    lines = [f"{marked(n, '[E{}]', '[/E{}]')};{DIRECTED[n % 3]}" for n in range(30)]
    write(folder / "own.csv", "\n".join(["sentence;relation", *lines]))
    return [folder / "own.csv"]


def blocks(folder: Path) -> list[Path]:
    for name, start in (("TRAIN_FILE.TXT", 0), ("TEST_FILE_FULL.TXT", 30)):
        lines = [f'{n}\t"{marked(n)}"\n{DIRECTED[n % 3]}\nComment:\n' for n in range(start, start + 30)]
        write(folder / name, "\n".join(lines))
    return [folder / "TRAIN_FILE.TXT", folder / "TEST_FILE_FULL.TXT"]


def fasttext(folder: Path) -> list[Path]:
    for split, count in (("train", 30), ("valid", 6)):
        write(folder / f"own.{split}", "\n".join(f"__label__{label} {text}" for text, label in opinions(count)))
    return [folder / "own.train", folder / "own.valid"]


def class_folders(folder: Path) -> list[Path]:
    for number, (text, label) in enumerate(opinions(30)):
        write(folder / label / f"{number}.txt", text)
    return [folder]


def imdb(folder: Path) -> list[Path]:
    for split in ("train", "test"):
        for number, (text, label) in enumerate(opinions(30)):
            write(folder / split / label / f"{number}.txt", f"{text}\n{split}")
    write(folder / "train/unsup/0.txt", "No verdict.")
    write(folder / "imdb.vocab", "the\n")
    return [folder]


def class_files(folder: Path) -> list[Path]:
    for name in ("own.blame", "own.praise"):
        write(folder / name, "\n".join(text for text, label in opinions(30) if name.endswith(label)))
    write(folder / "README.txt", "Opinions.\n")
    return [folder]


TWO, DIRECTIONS = {"blame": 20, "praise": 10}, dict.fromkeys(DIRECTED, 10)
LAYOUTS: list[tuple[Callable[[Path], list[Path]], dict[str, Any], dict[str, int], dict[str, int], str]] = [
    (csv_semicolon, {"delimiter": ";"}, {"train": 30}, TWO, "accuracy"),
    (excel, {"delimiter": "\t", "text": "Comment", "label": "Verdict"}, {"train": 30}, TWO, "accuracy"),
    (cyrillic, {"encoding": "cp1251"}, {"train": 40}, {"0": 20, "1": 20}, "accuracy"),
    (headless, {"header": False, "text": "0", "label": "1"}, {"train": 30}, TWO, "accuracy"),
    (bare_quotes, {"text": "sentence", "quoting": "auto"}, {"train": 30}, {"0": 15, "1": 15}, "accuracy"),
    (escaped_quotes, {"quoting": "backslash"}, {"train": 30}, {"0": 15, "1": 15}, "accuracy"),
    (booleans, {"label": "spam"}, {"train": 30}, {"false": 20, "true": 10}, "accuracy"),
    (
        *(array, {"text": "token", "relations": "spans"}, {"train": 30, "dev": 10, "test": 8}),
        *({"no_relation": 15, "org:head": 15}, "micro_f1_without_other"),
    ),
    (
        markers,
        {"relations": "markers", "markers": ["[E1]", "[/E1]", "[E2]", "[/E2]"]},
        {"train": 30},
        DIRECTIONS,
        "official_f1",
    ),
    (blocks, {"format": "semeval2010"}, {"train": 30, "test": 30}, DIRECTIONS, "official_f1"),
    (fasttext, {"format": "fasttext", "test": None}, {"train": 30, "dev": 6}, TWO, "accuracy"),
    (class_folders, {"format": "classes", "train": "."}, {"train": 30}, TWO, "accuracy"),
    (
        *(imdb, {"train": {"blame": "train/blame", "praise": "train/praise"}, "test": "test"}),
        *({"train": 30, "test": 30}, TWO, "accuracy"),
    ),
    (class_files, {"train": {"blame": "own.blame", "praise": "own.praise"}}, {"train": 30}, TWO, "accuracy"),
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    shutil.copy(ROOT / "params.yaml", root)
    monkeypatch.chdir(root)
    return root


def inspect(*files: Path, text: str | None = None, label: str | None = None, ask: Ask | None = None) -> Corpus:
    return inspect_corpus(files, text, label, ask)


def applied(project: Path, corpus: Corpus, coverage: float | None = None) -> Params:
    """The parameters that `apply` makes of the config of a corpus."""
    config = project / "own.yaml"
    config.write_text(new_config("own", corpus, metric_names([*corpus.labels])[0], coverage))
    apply_overrides(project / "params.yaml", read_overrides(config))
    return load_params(project / "params.yaml")


@pytest.mark.parametrize(
    ("layout", "settings", "rows", "labels", "monitor"), LAYOUTS, ids=[layout[0].__name__ for layout in LAYOUTS]
)
def test_config_reads_every_row(
    layout: Callable[[Path], list[Path]],
    settings: dict[str, Any],
    rows: dict[str, int],
    labels: dict[str, int],
    monitor: str,
    project: Path,
) -> None:
    corpus = inspect(*layout(project / "data/own"))
    params = applied(project, corpus)
    data = params.data
    assert params.train.monitor == monitor
    assert {key: getattr(data, key) for key in settings} == settings
    assert data.folder == "data/own"
    index = read_index(data)
    assert index["split"].value_counts().to_dict() == rows
    assert index.loc[index["split"] == "train", "label"].value_counts().to_dict() == labels == corpus.labels
    assert {name: (each.total, each.counted, each.faults) for name, each in corpus.splits.items()} == {
        name: (count, "", []) for name, count in rows.items()
    }


def test_encoding_of_class_files_is_found(project: Path) -> None:
    for name, text in (("good", "Der Kaffee schmeckte köstlich, die Brötchen auch."), ("bad", "Der Käse war übel.")):
        write(project / f"data/own/{name}.txt", "\n".join([text] * 9).encode("cp1252"))
    assert applied(project, inspect(project / "data/own")).data.encoding == "cp1252"


@pytest.mark.parametrize(
    ("rows", "budget"), [(200, (8, 60)), (3_000, (32, 20)), (100_000, (64, 10)), (10**7, (128, 5))]
)
def test_budget_fits_the_rows(rows: int, budget: tuple[int, int], project: Path) -> None:
    corpus = inspect(*csv_semicolon(project / "data/own"))
    contents = corpus.splits["train"]._replace(total=rows)
    train = applied(project, corpus._replace(splits={"train": contents})).train
    assert (train.batch_size, train.epochs) == budget


@pytest.mark.parametrize(
    ("lengths", "relational", "limit"),
    [([9, 30], False, 100), ([120] * 99 + [900], False, 150), ([120] * 99 + [901], True, 950)],
)
def test_max_length_cuts_few_rows(lengths: list[int], relational: bool, limit: int, project: Path) -> None:
    corpus = inspect(*(markers if relational else csv_semicolon)(project / "data/own"))
    assert applied(project, corpus._replace(lengths=lengths)).data.tokens.max_length == limit


@pytest.mark.parametrize(("coverage", "source"), [(None, "corpus"), (0.3, "corpus"), (0.97, "file")])
def test_vectors_that_know_the_words_are_read(coverage: float | None, source: str, project: Path) -> None:
    corpus = inspect(*csv_semicolon(project / "data/own"))
    embeddings = applied(project, corpus, coverage).embeddings
    assert ("trained on the corpus" in describe(corpus, coverage)[-1]) == (source == "corpus")
    assert (embeddings.source, "glove" in embeddings.path) == (source, source == "file")


def test_coverage_counts_running_words(project: Path) -> None:
    assert glove_coverage(Counter({"soup": 3, "zzz": 1})) is None
    write(project / "data/external/glove-6b/glove.6B.50d.txt", f"soup{' 0.5' * 50}\n")
    assert glove_coverage(Counter({"soup": 3, "zzz": 1})) == 0.75


def test_description(project: Path) -> None:
    lines = describe(inspect(*csv_semicolon(project / "data/own")), 0.9)
    assert lines == [
        "data/own: table, utf-8, delimiter ';'; train: own.csv",
        "columns: text (the text, 30 different), label (the label, 2 different)",
        "rows: train 30",
        "labels: 2: blame (20), praise (10); the most frequent is 67% of train, the rarest has 10",
        "tokens: median 14, 95 % of rows have at most 14, longest 14",
        "script: Latin",
        "vectors: data/external/glove-6b knows 90.0% of running words",
    ]
    write(project / "data/own/notes.txt", "Not the corpus.")
    described = describe(inspect(*excel(project / "data/own")), None)
    assert described[0] == "data/own: table, utf-16 by its byte order mark, delimiter '\\t'; train: own.txt"
    assert described[-1] == "folder: DVC tracks all of data/own, with 2 other entries"


def test_class_that_test_lacks_is_counted(project: Path) -> None:
    lines = describe(inspect(*imdb(project / "data/own")), None)
    assert lines[-1] == "left out, since test lacks it: data/own/train/unsup, 1 files"


def test_wide_table_is_shown_in_part(project: Path) -> None:
    rows = [{f"c{place}": 1 for place in range(20)} | {"text": text, "label": label} for text, label in opinions(30)]
    write(project / "data/own/own.jsonl", "\n".join(map(json.dumps, rows)))
    line = describe(inspect(project / "data/own/own.jsonl"), None)[1]
    assert line.startswith("columns: text (the text, 30 different), label (the label, 2 different), c0 (1 different)")
    assert line.endswith(", c7 (1 different), ...")


def test_text_without_blanks_is_told(project: Path) -> None:
    rows = [f"这家{number}号店的汤很{'好' if number % 2 else '差'}喝\t{number % 2}" for number in range(30)]
    write(project / "data/own/own.tsv", "\n".join(["text\tlabel", *rows]))
    lines = describe(inspect(project / "data/own/own.tsv"), None)
    assert "script: Han" in lines
    assert any(line.startswith("Han: no blanks between words; data.tokens.words is unicode") for line in lines)


def test_rows_that_cannot_be_read_are_counted(project: Path) -> None:
    write(project / "data/own/own.csv", delimited(",") + '"No label.",\n"Three.",a,b\n')
    lines = describe(inspect(project / "data/own/own.csv"), None)
    assert lines[2] == "rows: train 32"
    assert lines[-1] == (
        "2 rows cannot be read as they stand, first data/own/own.csv:33: 3 fields where the header has 2.;"
        " `prepare` lists them all"
    )


@pytest.mark.parametrize(("ending", "shown"), [("csv", "about"), ("csv.gz", "more than 40"), ("parquet", "130")])
def test_rows_of_large_files_are_estimated(
    ending: str, shown: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_config_module, "SEEN", 40)
    monkeypatch.setattr(formats, "ROWS_PER_STEP", 20)
    path = project / f"data/own/own.{ending}"
    path.parent.mkdir(parents=True)
    # larger than the buffer of a file
    table = pd.DataFrame([(text + " so" * 3000, label) for text, label in opinions(130)], columns=["text", "label"])
    table.to_parquet(path) if ending == "parquet" else table.to_csv(path, index=False)
    corpus = inspect(path)
    assert len(corpus.splits["train"].rows) == 41
    assert 100 < corpus.splits["train"].total < 160 or ending == "csv.gz"
    line = next(line for line in describe(corpus, None) if line.startswith("rows:"))
    assert line.startswith(f"rows: train {shown}")
    assert "at most 40 of a file or folder were looked at" in line


def test_large_folders_are_sampled_from_every_class(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_config_module, "SEEN", 8)
    corpus = inspect(*class_folders(project / "data/own"))
    contents = corpus.splits["train"]
    assert (contents.total, contents.labels, len(contents.rows)) == (30, TWO, 8)
    assert {row.label for row in contents.rows} == {*TWO}
    assert "rows: train 30 (at most 8 of a file or folder were looked at)" in describe(corpus, None)


def test_corpus_among_outputs_is_told_how_to_move(project: Path) -> None:
    write(project / "data/my own.csv", delimited(","))
    with pytest.raises(DataError, match=r"mkdir 'data/my own' && mv 'data/my own.csv' 'data/my own'$"):
        inspect(project / "data/my own.csv")
    with pytest.raises(DataError, match=r"mkdir data/data && mv FILES data/data$"):
        inspect(project / "data")


def test_name_is_that_of_the_only_file_or_the_folder_of_several() -> None:
    one, other = Path("data/own/views.csv.gz"), Path("data/own/test.csv")
    assert (corpus_name([one]), corpus_name([one, other]), corpus_name([Path("data/own")])) == ("views", "own", "own")


def test_corpus_outside_the_project_has_an_absolute_folder(project: Path) -> None:
    corpus = inspect(*csv_semicolon(project.parent / "elsewhere"))
    assert applied(project, corpus).data.folder == str(project.parent / "elsewhere")
    assert len(read_index(applied(project, corpus).data)) == 30


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("own.csv", "text,label\nOne here.,a\nTwo here.,a\nThree here.,a\n", "no column looks like the label"),
        ("own.jsonl", "{", "not JSON"),
        ("own.csv", "text,label\n", "no row with a column of text"),
        ("own.json", '[{"text": {"0": "A."}}, {"text": {"0": "B."}}]', "no row with a column of text"),
        ("own.xlsx", "x", "Save the sheet as csv"),
        ("own.txt", "Only a sentence.\nAnd another, too.\n", "no mark parts its lines"),
        ("own.csv.gz", "text,label\n", "damaged, or not what its name says"),
        ("own.valid", "__label__a One.\n__label__a Two.\n", "fewer than two labels: a"),
    ],
)
def test_unreadable_corpus_is_one_clear_error(name: str, content: str, message: str, project: Path) -> None:
    write(project / "data/own" / name, content)
    with pytest.raises(DataError, match=message) as caught:
        inspect(project / "data/own" / name)
    assert "data/own" in str(caught.value)


def test_columns_are_of_tables(project: Path) -> None:
    with pytest.raises(DataError, match="format classes has no columns; leave out --text and --label"):
        inspect(*class_folders(project / "data/own"), label="label")
