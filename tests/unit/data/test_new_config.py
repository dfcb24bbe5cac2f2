"""`init` finds out how a corpus is written; the config it writes reads every row of it."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.small import write
from tests.unit.data.tables import read_index

from bilstm_attention.config import Params, apply_overrides, load_params, read_overrides
from bilstm_attention.data import new_config as module
from bilstm_attention.data.new_config import Corpus, corpus_name, describe, find_encoding, find_files, new_config
from bilstm_attention.errors import DataError
from bilstm_attention.evaluation.metrics import metric_names

ROOT = Path(__file__).parents[3]
THINGS, PRAISE, BLAME = ("soup", "kettle", "lamp", "train"), ("crisp", "tidy", "warm"), ("stale", "dim", "noisy")
DIRECTED = ("Part-Whole(e1,e2)", "Part-Whole(e2,e1)", "Other")


@pytest.fixture
def project(tmp_path, monkeypatch):
    root = tmp_path / "project"
    root.mkdir()
    shutil.copy(ROOT / "params.yaml", root)
    monkeypatch.chdir(root)
    return root


def inspect(files: Path | list[Path], text: str | None = None, label: str | None = None, ask: Any = None) -> Corpus:
    return module.inspect_corpus([files] if isinstance(files, Path) else files, text, label, ask)


def applied(project: Path, corpus: Corpus, coverage: float = 0.0) -> Params:
    """The parameters that `apply` makes of the config of a corpus."""
    config = project / "own.yaml"
    config.write_text(new_config("own", corpus, metric_names([*corpus.labels])[0], coverage))
    apply_overrides(project / "params.yaml", read_overrides(config))
    return load_params(project / "params.yaml")


CLASSES = {"format": "classes"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("my-train.csv my-val.csv my-test.csv", {"train": "my-train.csv", "dev": "my-val.csv", "test": "my-test.csv"}),
        ("Training.tsv validation.tsv", {"train": "Training.tsv", "dev": "validation.tsv"}),
        ("good.txt bad.txt", CLASSES | {"train": {"good": "good.txt", "bad": "bad.txt"}}),
        ("rt.neg rt.pos", CLASSES | {"train": {"neg": "rt.neg", "pos": "rt.pos"}}),
        ("a/1.txt b/1.txt", CLASSES | {"train": {"a/1.txt": "a/1.txt", "b/1.txt": "b/1.txt"}}),
        # a folder
        (". train.csv dev.csv README.md notes.md pictures/1.png", {"train": "train.csv", "dev": "dev.csv"}),
        (". reviews.csv LICENSE .cache", {"train": "reviews.csv"}),
        (". good/1.txt bad/1.txt .git/x", CLASSES | {"train": "."}),
        (". train/a/1.txt test/a/1.txt", CLASSES | {"train": "train", "test": "test"}),
        (". train/a/1.txt train/b/1.txt test/a/1.txt", CLASSES | {"train": {"a": "train/a"}, "test": "test"}),
    ],
)
def test_names_tell_what_files_are(names, expected, tmp_path):
    files = [write(tmp_path / name, "x\n") for name in names.split() if name != "."]
    found = find_files([tmp_path] if names.startswith(".") else files)
    assert found == {"folder": str(tmp_path), "test": None} | expected


@pytest.mark.parametrize("names", ["train.csv other.csv", "train-1.csv train-2.csv", "dev.csv test.csv", "a.csv b.csv"])
def test_files_of_no_known_kind_are_listed(names, tmp_path):
    files = [write(tmp_path / name, "x\n") for name in names.split()]
    listed = f"holds {files[0].name} .*, {files[1].name} .*; legal are one file named train"
    with pytest.raises(DataError, match=listed):
        find_files(files)


@pytest.mark.parametrize(
    ("text", "encoding", "expected"),
    [
        ("Plain.", "ascii", {}),
        ("Ünïcode.", "utf-8-sig", {}),
        ("A plain sentence.", "utf-16", {"encoding": "utf-16"}),
        ("Der Kessel stand für Übungen neben größeren Öfen in der Küche.\n" * 9, "cp1252", {"encoding": "cp1252"}),
        # a damaged line, and foreign letters far behind
        ("Ünïcode.\n".encode() * 3 + b"Br\xfchl.\n", "", {}),
        ("A plain one.\n" * 15_000 + "Этот чайник в новом доме был хороший.\n" * 9, "cp1251", {"encoding": "cp1251"}),
    ],
)
def test_encoding(text, encoding, expected, tmp_path):
    path = write(tmp_path / "a.txt", text.encode(encoding) if isinstance(text, str) else text)
    assert find_encoding([path]) == expected


def records(**columns: Callable[[int], Any]) -> str:
    return "\n".join(json.dumps({name: value(n) for name, value in columns.items()}) for n in range(80))


def sentence(number: int) -> str:
    return f"House {number} has a kettle and {number} lamps."


NOISE: dict[str, Callable[[int], Any]] = {
    "id": lambda n: f"3f9c-{n:04}-{'ab' * 20}",
    "url": lambda n: f"https://example.org/{'long/' * 12}{n}",
    "date": lambda n: f"2020-01-{n % 28 + 1:02} 10:{n:02}",
    "age": lambda n: n % 30,
    "size": lambda n: n * 1.5,
    "same": lambda n: "en",
    "tags": lambda n: {"a": n},
}
AMBIGUOUS = records(first=sentence, second=lambda n: sentence(-n), mood=lambda n: n % 2, tone=lambda n: n % 3)


def test_columns_are_guessed_by_content_and_then_by_name(project):
    noisy = records(**NOISE, body=sentence, kind=lambda n: n % 3)
    named = records(title=sentence, Text=lambda n: sentence(-n), star=lambda n: n % 5, Label=lambda n: n % 2)
    for rows, *columns in ((noisy, "body", "kind"), (named, "Text", "Label")):
        settings = inspect(write(project / "data/own/own.jsonl", rows)).settings
        assert [settings["text"], settings["label"]] == columns


def test_unsure_guess_is_asked_or_named_by_flags(project):
    path, asked = write(project / "data/own/own.jsonl", AMBIGUOUS), list[tuple[str, Sequence[str]]]()

    def ask(question, answers):
        asked.append((question, answers))
        return answers[1]

    settings = inspect(path, ask=ask).settings
    assert (settings["text"], settings["label"]) == ("second", "tone")
    assert asked == [
        ("own.jsonl: the text may be any of the columns first, second; which is it?", ["first", "second"]),
        ("own.jsonl: the label may be any of the columns mood, tone; which is it?", ["mood", "tone"]),
    ]
    for text, label, message in (
        (None, None, "columns first, second; name it with --text COLUMN"),
        ("first", None, "columns mood, tone; name it with --label COLUMN"),
        ("first", "mod", "no column 'mod'; did you mean 'mood'"),
    ):
        with pytest.raises(DataError, match=message):
            inspect(path, text, label)
    assert inspect(path, text="second", label="Mood").labels == {"0": 40, "1": 40}


def opinions(count: int) -> Iterator[tuple[str, str]]:
    """Sentences and their labels."""
    for number in range(count):
        words = BLAME if number % 3 else PRAISE
        text = f"The {THINGS[number % 4]} of house {number} was {words[number % 3]}, and so was number {number + 2}."
        yield text, "blame" if number % 3 else "praise"


def delimited(mark: str, header: str = "text label", quote: str = '"') -> str:
    lines = [header.replace(" ", mark)] if header else []
    return "\n".join([*lines, *(f"{quote}{text}{quote}{mark}{label}" for text, label in opinions(30))]) + "\n"


def tacred(number: int) -> dict[str, Any]:
    tokens = ["Ada", "Finch", "runs", "the", "Mill", "of", "house", str(number)]
    spans = {"subj_start": 0, "subj_end": 1, "obj_start": 4, "obj_end": 4}
    relation = "no_relation" if number % 2 else "org:head"
    return {"id": f"x{number}", "relation": relation, "token": tokens, **spans, "pos": ["NN"] * len(tokens)}


def marked(number: int, left: str = "<e{}>", right: str = "</e{}>") -> str:
    first, second = f"{left}lid{right}".format(1, 1), f"{left}jar{right}".format(2, 2)
    return f"In house {number} the {first} of the {second} broke."


def blocks(start: int) -> str:
    return "\n".join(f'{n}\t"{marked(n)}"\n{DIRECTED[n % 3]}\nComment:\n' for n in range(start, start + 30))


def rows_of(header: str, row: Callable[[int], str]) -> str:
    return "\n".join([header, *map(row, range(30))])


THIRTY, TWO = {"train": 30}, {"blame": 20, "praise": 10}
DIRECTIONS, EVEN = dict.fromkeys(DIRECTED, 10), {"0": 15, "1": 15}
FASTTEXT = [f"__label__{label} {text}" for text, label in opinions(30)]
IMDB = {
    f"{split}/{label}/{number}.txt": f"{text}\n{split}"
    for split in ("train", "test")
    for number, (text, label) in enumerate(opinions(30))
}


class Layout(NamedTuple):
    files: dict[str, str | bytes]
    settings: dict[str, Any]  # of the block `data`
    rows: dict[str, int] = THIRTY
    labels: dict[str, int] = TWO
    monitor: str = "accuracy"


CYRILLIC = rows_of("text,label", lambda n: f"Этот чайник {n} был очень плохой,{n % 2}")
BARE_QUOTES = rows_of("id\tsentence\tlabel", lambda n: f'{n}\tHe called house {n} "a ruin\t{n % 2}')
ESCAPED_QUOTES = rows_of("text,label", lambda n: f'"He called house {n} \\"a ruin\\", twice",{n % 2}')
OTHER_MARKERS = rows_of("sentence;relation", lambda n: f"{marked(n, '[E{}]', '[/E{}]')};{DIRECTED[n % 3]}")
SPLIT_ROWS = {"train": 30, "dev": 10, "test": 8}
LAYOUTS = {
    "semicolons": Layout({"own.csv": delimited(";")}, {"delimiter": ";"}),
    "UTF-16 of Excel": Layout(
        {"own.txt": delimited("\t", "Comment Verdict", "").encode("utf-16")}, {"text": "Comment", "label": "Verdict"}
    ),
    "Cyrillic": Layout({"own.csv": CYRILLIC.encode("cp1251")}, {"encoding": "cp1251"}, labels=EVEN),
    "no header": Layout({"own.csv": delimited(",", header="")}, {"header": False, "text": "0", "label": "1"}),
    "a table that looks like blocks": Layout(
        {"own.txt": "\n".join(f'{label}\t"{text}"' for text, label in opinions(30))},
        {"header": False, "text": "1", "label": "0"},
    ),
    "bare quotes": Layout({"own.tsv": BARE_QUOTES}, {"text": "sentence", "quoting": "auto"}, labels=EVEN),
    "escaped quotes": Layout({"own.csv": ESCAPED_QUOTES}, {"quoting": "backslash"}, labels=EVEN),
    "TACRED": Layout(
        {f"{split}.json": json.dumps([*map(tacred, range(count))]) for split, count in SPLIT_ROWS.items()},
        {"text": "token", "relations": "spans"},
        *(SPLIT_ROWS, {"no_relation": 15, "org:head": 15}, "micro_f1_without_other"),
    ),
    "markers": Layout(
        {"own.csv": OTHER_MARKERS},
        {"relations": "markers", "markers": ["[E1]", "[/E1]", "[E2]", "[/E2]"]},
        *(THIRTY, DIRECTIONS, "official_f1"),
    ),
    "blocks": Layout(
        {"TRAIN_FILE.TXT": blocks(0), "TEST_FILE_FULL.TXT": blocks(30)},
        *({"format": "semeval2010"}, {"train": 30, "test": 30}, DIRECTIONS, "official_f1"),
    ),
    "fastText": Layout(
        {"own.train": "\n".join(FASTTEXT), "own.valid": "\n".join(FASTTEXT[:6])},
        {"format": "fasttext", "test": None},
        {"train": 30, "dev": 6},
    ),
    "class folders": Layout(
        {f"{label}/{number}.txt": text for number, (text, label) in enumerate(opinions(30))},
        {"format": "classes", "train": "."},
    ),
    "IMDB": Layout(
        IMDB | {"train/unsup/0.txt": "No verdict.", "imdb.vocab": "the\n"},
        {"train": {"blame": "train/blame", "praise": "train/praise"}, "test": "test"},
        {"train": 30, "test": 30},
    ),
    "class files": Layout(
        {"README.txt": "Opinions.\n"}
        | {f"own.{name}": "\n".join(text for text, label in opinions(30) if label == name) for name in TWO},
        {"train": {"blame": "own.blame", "praise": "own.praise"}},
    ),
    "class files in cp1252": Layout(
        {f"{name}.txt": (f"Der Kaffee war {name}, die Brötchen übel.\n" * 9).encode("cp1252") for name in "ab"},
        *({"encoding": "cp1252"}, {"train": 18}, {"a": 9, "b": 9}),
    ),
}


def write_layout(folder: Path, name: str) -> Path:
    for path, content in LAYOUTS[name].files.items():
        write(folder / path, content)
    return folder


@pytest.mark.parametrize("name", LAYOUTS)
def test_config_reads_every_row(name, project):
    _, settings, rows, labels, monitor = LAYOUTS[name]
    corpus = inspect(write_layout(project / "data/own", name))
    params = applied(project, corpus)
    assert params.train.monitor == monitor
    assert {key: getattr(params.data, key) for key in settings} == settings
    assert params.data.folder == "data/own"
    index = read_index(params.data)
    assert index["split"].value_counts().to_dict() == rows == corpus.rows
    assert index.loc[index["split"] == "train", "label"].value_counts().to_dict() == labels == corpus.labels
    assert corpus.faults == ""


@pytest.fixture
def corpus(project):
    return inspect(write_layout(project / "data/own", "semicolons"))


def test_budget_fits_the_rows(corpus, project):
    for rows, budget in ((200, (8, 60)), (3_000, (32, 20)), (100_000, (64, 10)), (10**7, (128, 5))):
        train = applied(project, corpus._replace(rows=Counter(train=rows))).train
        assert (train.batch_size, train.epochs) == budget


# the entities of a relation must fit in
@pytest.mark.parametrize(
    ("lengths", "layout", "limit"),
    [([9, 30], "semicolons", 100), ([120] * 99 + [900], "semicolons", 150), ([120] * 99 + [901], "markers", 950)],
)
def test_max_length_cuts_few_rows(lengths, layout, limit, project):
    corpus = inspect(write_layout(project / "data/own", layout))
    assert applied(project, corpus._replace(lengths=lengths)).data.tokens.max_length == limit


@pytest.mark.parametrize(("coverage", "source"), [(0.0, "corpus"), (0.3, "corpus"), (0.97, "file")])
def test_vectors_that_know_the_words_are_read(coverage, source, corpus, project):
    embeddings = applied(project, corpus, coverage).embeddings
    assert ("trained on the corpus" in describe(corpus, coverage)[-1]) == (source == "corpus")
    assert (embeddings.source, "glove" in embeddings.path) == (source, source == "file")


def test_coverage_counts_running_words(project):
    assert module.glove_coverage(Counter({"soup": 3, "zzz": 1})) == 0
    write(project / "data/external/glove-6b/glove.6B.50d.txt", f"soup{' 0.5' * 50}\n")
    assert module.glove_coverage(Counter({"soup": 3, "zzz": 1})) == 0.75


def test_tokens_are_counted_in_some_rows_of_each_label(project, monkeypatch):
    monkeypatch.setattr(module, "TOKENISED", 4)
    corpus = inspect(write_layout(project / "data/own", "class folders"))
    assert (len(corpus.lengths), corpus.rows, corpus.labels) == (8, {"train": 30}, TWO)


def test_description(corpus, project):
    assert describe(corpus, 0.9) == [
        "data/own: table, utf-8, delimiter ';'; train: own.csv",
        "columns: text (the text), label (the label)",
        "rows: train 30",
        "labels: 2: blame (20), praise (10)",
        "tokens: median 14, 95 % of rows have at most 14, longest 14",
        "script: Latin",
        "vectors: data/external/glove-6b knows 90.0% of running words",
    ]
    imdb = describe(inspect(write_layout(project / "data/imdb", "IMDB")), 0.0)
    assert imdb[-1] == "left out, since test lacks it: data/imdb/train/unsup, 1 files"
    hindi = corpus._replace(words=Counter({"हिन्दी": 3, "radio": 1}))
    assert "script: Devanagari, Latin" in describe(hindi, 0.0)
    columns = [f"c{place}" for place in range(20)]
    line = describe(corpus._replace(columns=[*columns, "text", "label"]), 0.0)[1]
    assert line == f"columns: text (the text), label (the label), {', '.join(columns[:10])}, ..."


def test_rows_that_cannot_be_read_are_counted(project):
    path = write(project / "data/own/own.csv", delimited(",") + '"No label.",\n"Three.",a,b\n')
    lines = describe(inspect(path), 0.0)
    assert lines[2] == "rows: train 32"
    fault = "data/own/own.csv:32: sentence 31 has no label."
    assert lines[-1] == f"2 rows cannot be read as they stand, first {fault}; `prepare` lists them all"


def test_name_is_that_of_the_only_file_or_the_folder_of_several():
    one, other = Path("data/own/views.csv.gz"), Path("data/own/test.csv")
    assert (corpus_name([one]), corpus_name([one, other]), corpus_name([Path("data/own")])) == ("views", "own", "own")


def test_corpus_outside_the_project_has_an_absolute_folder(project):
    data = applied(project, inspect(write_layout(project.parent / "elsewhere", "semicolons"))).data
    assert (data.folder, len(read_index(data))) == (str(project.parent / "elsewhere"), 30)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("own/own.csv", "text,label\nOne here.,a\nTwo here.,a\nThree here.,a\n", "no column looks like the label"),
        ("own/own.jsonl", "{", "not JSON"),
        ("own/own.csv", "text,label\n", "no row with a column of text"),
        ("own/own.json", '[{"text": {"0": "A."}}, {"text": {"0": "B."}}]', "no row with a column of text"),
        ("own/own.xlsx", "x", "Save the sheet as csv"),
        ("own/own.txt", "Only a sentence.\nAnd another, too.\n", "no mark parts its lines"),
        ("own/own.csv.gz", "text,label\n", "damaged, or not what its name says"),
        ("own/own.valid", "__label__a One.\n__label__a Two.\n", "fewer than two labels: a"),
        ("own.csv", "text,label\n", "data: holds outputs of the pipeline; move the corpus to data/own"),
    ],
)
def test_unreadable_corpus_is_one_clear_error(name, content, message, project):
    path = write(project / "data" / name, content)
    with pytest.raises(DataError, match=message):
        inspect(path)


def test_what_is_no_corpus_is_an_error(project):
    (project / "data/empty").mkdir(parents=True)
    folder = write_layout(project / "data/own", "IMDB")
    for files, label, message in (
        ([project / "none.csv"], None, "none.csv: no such file or folder"),
        ([project / "data/empty"], None, "data/empty: train has fewer than two labels: none"),
        ([folder / "train", folder / "test"], None, "legal are one file named train"),
        ([folder], "label", "format classes has no columns; leave out --text and --label"),
    ):
        with pytest.raises(DataError, match=message):
            inspect(files, label=label)
