"""`init`: finds out how a corpus of one's own is written, says what it holds, and writes a config for it.

Format and columns are guessed from the first rows of train; then all rows are read and counted, as by `prepare`.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice, product
from operator import itemgetter
from os.path import commonpath
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np

from bilstm_attention.config import Data, Embeddings
from bilstm_attention.console import progress_bar
from bilstm_attention.data import formats, tables
from bilstm_attention.data.formats import Row, read_rows, split_sources
from bilstm_attention.data.relations import mark_entities, marking_fault
from bilstm_attention.data.splits import SPLITS
from bilstm_attention.data.tokens import MARKERS, SPECIALS, tokenize
from bilstm_attention.data.vectors import read_vectors
from bilstm_attention.errors import DataError
from bilstm_attention.paths import EXTERNAL, PREPARED
from bilstm_attention.yaml_files import edited_text

SEEN = 20_000  # rows from which columns are guessed
TRIED = 500  # rows by which a delimiter is judged, and files by which an encoding is
TOKENISED = 5_000  # rows of a label whose tokens are counted
SHOWN = 10  # columns and labels
SPLIT_NAMES = {"training": "train", "valid": "dev", "validation": "dev", "val": "dev"} | {name: name for name in SPLITS}
NO_DATA = re.compile("readme|licen[cs]e", re.IGNORECASE)
NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?")
TEXT_NAMES = ("text", "sentence", "token", "tokens")
LABEL_NAMES = ("label", "relation", "class", "category", "sentiment", "target")
OTHER_MARKERS = ["[E1]", "[/E1]", "[E2]", "[/E2]"]  # as tokens of BERT
GLOVE = EXTERNAL / "glove-6b"
LEAST_COVERAGE = 0.5  # of vectors worth reading; those of another language know less
# Rows of train up to which it holds; batch size, epochs, patience. Test official_f1 on the sample corpus cut to 200,
# 1,000 and 2,000 rows, two seeds: 23, 84, 94 with the first; 3, 63, 87 with the second, the defaults. On larger samples
# of its grammar, 60,000 and 250,000 rows, the best epoch of the last two was the sixth and the third.
BUDGETS = ((2_000, 8, 60, 20), (50_000, 32, 20, 8), (200_000, 64, 10, 3), (10**12, 128, 5, 2))

Settings = dict[str, Any]  # of the block `data`
Ask = Callable[[str, Sequence[str]], str]  # a question and its answers to one of these
Columns = dict[str, list[str]]  # of a table by name: values that are not empty, as text


class Corpus(NamedTuple):
    """What `init` knows of a corpus."""

    settings: Settings
    columns: list[str]  # of a table
    rows: Counter[str]  # by split
    faults: str  # how many rows cannot be read, and the first; or empty
    labels: Counter[str]  # of train
    lengths: list[int]  # tokens of the first `TOKENISED` rows of each label of train
    words: Counter[str]  # of the same rows


def inspect_corpus(files: Sequence[Path], text: str | None, label: str | None, ask: Ask | None) -> Corpus:
    """Guesses how files are written, and reads them; the working directory is the project root.

    Args:
        files: absolute paths of a folder, a file, a file for each split, or a plain text file for each class.
        text, label: columns of a table; by default they are guessed.
        ask: answers what cannot be guessed; without it that is an error.

    Raises:
        DataError: the files are no corpus, cannot be read, or lie where outputs are.
    """
    settings, columns = find_files(files), Columns()
    folder, root = Path(settings["folder"]), Path.cwd()
    folder = folder.relative_to(root) if folder.is_relative_to(root) else folder
    settings["folder"] = str(folder)
    if PREPARED.is_relative_to(folder):
        raise DataError(f"{folder}: holds outputs of the pipeline; move the corpus to data/{corpus_name(files)}.")
    if settings.get("format") == "classes":
        settings |= find_encoding([source.path for source in split_sources(Data(**settings), "train")])
    else:
        written, columns = inspect_file(folder / settings["train"], text, label, ask)
        settings |= written
    if settings["format"] != "table" and (text or label):
        raise DataError(f"{folder}: format {settings['format']} has no columns; leave out --text and --label.")
    data = Data(**settings)
    rows, labels, tokens, faults, first_fault = Counter[str](), Counter[str](), list[list[str]](), 0, ""
    sources = [(split, source) for split in SPLITS for source in split_sources(data, split)]
    with progress_bar("reading", sum(source.path.stat().st_size for _, source in sources)) as advance:
        for split, source in sources:
            for row in read_rows(source, data, advance):
                rows[split] += 1
                if fault := next(formats.content_faults(row, data), None) if isinstance(row, Row) else row:
                    faults, first_fault = faults + 1, first_fault or str(fault)
                if split == "train" and isinstance(row, Row) and row.label:
                    labels[row.label] += 1
                    if labels[row.label] <= TOKENISED:
                        tokens.append(tokenize(row.text, data.tokens))
    note = f"{faults} rows cannot be read as they stand, first {first_fault}" if faults else ""
    if len(labels) < 2:
        raise DataError(f"{folder}: train has fewer than two labels: {', '.join(labels) or 'none'}. {note}".rstrip())
    words = Counter(word for word in chain.from_iterable(tokens) if word not in SPECIALS)
    return Corpus(settings, [*columns], rows, note, labels, [len(each) for each in tokens], words)


def corpus_name(files: Sequence[Path]) -> str:
    """The name of the only file or folder, without endings, or that of the folder of several."""
    return files[0].parent.name if len(files) > 1 else files[0].name.partition(".")[0]


def find_files(files: Sequence[Path]) -> Settings:
    """The folder of a corpus and the files of its splits, as the block `data` names them."""
    if missing := [path for path in files if not path.exists()]:
        raise DataError(f"{missing[0]}: no such file or folder.")
    folder = Path(commonpath([path.parent for path in files]))
    if len(files) == 1 and files[0].is_dir():
        folder = files[0]
        entries = sorted(path for path in folder.glob("[!.]*") if not NO_DATA.search(path.name))
        files, parts = ([path for path in entries if is_kind(path)] for is_kind in (Path.is_file, Path.is_dir))
        if "train" in map(_split_of, files):
            files = [path for path in files if _split_of(path)]
        elif parts:
            return {"folder": str(folder), "test": None, "format": "classes"} | _find_class_folders(parts)
    names, splits = [str(path.relative_to(folder)) for path in files], [_split_of(path) for path in files]
    settings: Settings = {"folder": str(folder), "test": None}
    if len(files) == 1:
        return settings | {"train": names[0]}
    if "train" in splits and "" not in splits and len({*splits}) == len(files) and all(map(Path.is_file, files)):
        return settings | dict(zip(splits, names, strict=True))
    if not any(splits) and not any(suffix.lower() in formats.TABLES for path in files for suffix in path.suffixes):
        # what tells them apart: reviews.neg, neg.txt, or else the whole name
        choices = [path.name.partition(".")[0] for path in files], [path.suffix[1:] for path in files], names
        classes = next(choice for choice in choices if len({*choice}) == len(files))
        return settings | {"format": "classes", "train": dict(zip(classes, names, strict=True))}
    listed = ", ".join(f"{name} ({split or 'neither'})" for name, split in zip(names, splits, strict=True))
    legal = "one file named train, and at most one each named dev or valid, and test; or a plain text file per class"
    raise DataError(f"{folder}: holds {listed}; legal are {legal}. Name files, not their folder, to choose some.")


def _split_of(path: Path) -> str:
    """The split that the name of a file or folder tells, or nothing."""
    return next((SPLIT_NAMES[word] for word in re.split("[^a-z]+", path.name.lower()) if word in SPLIT_NAMES), "")


def _find_class_folders(parts: Sequence[Path]) -> Settings:
    """A folder for each class; or for each split, with those of its classes."""
    splits = {split: path for path in parts if (split := _split_of(path))}
    if "train" not in splits:
        return {"train": "."}
    names: Settings = {split: path.name for split, path in splits.items()}
    classes = {split: {path.name for path in part.glob("*/")} for split, part in splits.items()}
    # a class that test lacks, for instance IMDB's reviews without a label
    if classes["train"] > classes.get("test", classes["train"]):
        names["train"] = {name: f"{names['train']}/{name}" for name in sorted(classes["test"])}
    return names


def inspect_file(path: Path, text: str | None, label: str | None, ask: Ask | None) -> tuple[Settings, Columns]:
    """How a file of train is written, as the block `data` says it; and its columns, if it is a table."""
    suffixes = {suffix.lower() for suffix in path.suffixes}
    settings = {} if suffixes & {*tables.PARQUET} else find_encoding([path])
    with tables.open_file(path) as file:
        lines = () if suffixes & formats.TABLES else tables.Lines(file, settings.get("encoding", "utf-8"))
        first, second, *_ = *(line.rstrip("\r\n") for line in islice(filter(str.strip, lines), 2)), "", ""
    if formats.FASTTEXT.match(first):
        return settings | {"format": "fasttext"}, {}
    # under a sentence stands its label; a table of quoted text has tabs there too
    if formats.SENTENCE.fullmatch(first) and "\t" not in second:
        return settings | {"format": "semeval2010"}, {}
    settings |= {"format": "table"}
    if tables.table_kind(path) in tables.DELIMITED:
        settings |= _dialect(path, settings)
    records = _records(path, settings, SEEN)
    columns = _columns(records)
    if not columns:
        faults = [record for record in records if isinstance(record, str)]
        raise DataError(f"{path}: {[*faults, 'no row with a column of text or numbers.'][0]}")
    return settings | _choose_columns(path, columns, text, label, ask), columns


def find_encoding(paths: Sequence[Path]) -> Settings:
    """`encoding` of files, unless it is UTF-8."""
    text = b""
    for path in paths[:: len(paths) // TRIED + 1]:
        with tables.open_file(path) as file:
            text += file.read(16 * tables.SAMPLE) + b"\n"
    if marked := [name for mark, name in tables.BYTE_ORDER_MARKS.items() if text.startswith(mark)]:
        return {} if marked[0] == "utf-8-sig" else {"encoding": marked[0]}
    foreign = [line for line in text.split(b"\n") if not line.isascii()]
    # a damaged line, or one that is cut, does not make another encoding
    if sum("\ufffd" in line.decode(errors="replace") for line in foreign) <= len(foreign) / 2:
        return {}
    return {"encoding": (tables.likely_encodings(b"\n".join(foreign)[: tables.SAMPLE]) or ["cp1252"])[0]}


def _records(path: Path, settings: Mapping[str, Any], rows: int) -> list[Any]:
    """Records of a table, as dicts, and as text what is wrong with one."""
    with tables.open_file(path) as file:
        return [record for _, record in islice(tables.read_table(file, path, Data(**settings), ()), rows)]


def _dialect(path: Path, settings: Mapping[str, Any]) -> Settings:
    """`delimiter`, `quoting` and `header` of delimited text, where `prepare` would not find the same."""
    tried = list[tuple[float, bool, int, Settings]]()
    for mark, quoting in product(tables.DELIMITERS, ("auto", "doubled", "backslash", "none")):
        options = {"delimiter": mark, "quoting": quoting, "header": False}
        records = _records(path, {**settings, **options}, TRIED)
        widths = [len(record) for record in records if isinstance(record, dict)]
        if max(widths, default=0) > 1:
            faulty = round(1 - len(widths) / len(records), 2)
            # `none` reads nearly anything, and text seldom holds a tab
            tried.append((faulty + 0.1 * (quoting == "none"), mark != "\t", -max(widths), options))
    faulty, *_, options = min(tried, key=itemgetter(0, 1, 2), default=(1.0, {}))
    if faulty > 0.5:
        problem = "no mark parts its lines into columns, and it has neither SemEval's blocks nor fastText's lines"
        raise DataError(f"{path}: {problem}. A file per class is given with the others: init NAME.txt OTHER.txt.")
    top, *rest = [record for record in _records(path, {**settings, **options}, SEEN) if isinstance(record, dict)]
    # the first row is one of data if its label is a label of others
    options["header"] = not any(top[name] in values for name, values in _columns(rest).items() if _is_label(values))
    if options["header"] and options["delimiter"] in (",", "\t"):
        options["delimiter"] = None
    return {key: value for key, value in options.items() if value != getattr(Data(), key)}


def _columns(records: Sequence[Any]) -> Columns:
    """The columns that hold text, numbers, true or false, or lists of tokens."""
    rows, columns = [record for record in records if isinstance(record, dict)], Columns()
    for name in dict.fromkeys(name for row in rows for name in row):
        with suppress(DataError):
            columns[name] = [value for row in rows if (value := formats.to_text(row.get(name)).strip())]
    return columns


def _is_label(values: Sequence[str]) -> bool:
    """Few values, repeated: no id, and no number with many values."""
    most = min(len(values) / 2, 20 if all(map(NUMBER.fullmatch, values)) else 1000)
    return 2 <= len({*values}) <= max(most, 2)


def _text_score(values: Sequence[str]) -> float:
    """Long and mostly different values; an id, a path or a date is no text."""
    values = values[:TRIED]
    if not values or mean(any(map(str.isalpha, value)) for value in values) < 0.5:
        return 0.0
    has_words = any(" " in value or not value.isascii() for value in values)
    return mean(map(len, values)) * len(set(values)) / len(values) * (1 if has_words else 0.01)


def _choose_columns(path: Path, columns: Columns, text: str | None, label: str | None, ask: Ask | None) -> Settings:
    """`text`, `label`, and how a table marks entities."""

    def choose(what: str, likely: list[str], known: Sequence[str], names: list[str]) -> str:
        """The only likely column, or the only one of them with a known name, or as answered."""
        likely = [name for name in likely if name.strip().casefold() in known] or likely
        if len(likely) == 1:
            return likely[0]
        several = f"the {what} may be any of the columns {', '.join(likely)}"
        question = several if likely else f"no column looks like the {what}"
        if ask:
            return ask(f"{path.name}: {question}; which is it?", likely or names)
        raise DataError(f"{path}: {question}; name it with --{what} COLUMN. Columns: {', '.join(names)}.")

    scores = {name: _text_score(values) for name, values in columns.items()}
    likely = [name for name, score in scores.items() if score and score >= max(scores.values()) / 2]
    text = text or choose("text", likely, TEXT_NAMES, [*scores])
    others = [name for name in columns if name not in (text, *Data().entities)]
    likely = [name for name in others if _is_label(columns[name])]
    return {"text": text, "label": label or choose("label", likely, LABEL_NAMES, others)} | _relations(columns, text)


def _relations(columns: Columns, text: str) -> Settings:
    """`relations`, and `markers` if they have another spelling: TACRED's columns, or markers in most sentences."""
    if {*columns}.issuperset(Data().entities):
        return {"relations": "spans"}
    texts = columns.get(text, [])[:TRIED] or [""]
    for own in ([*MARKERS], OTHER_MARKERS):
        data = Data(format="table", relations="markers", markers=own)
        if mean(not marking_fault(mark_entities(each, [], data)) for each in texts) > 0.5:
            return {"relations": "markers"} | ({"markers": own} if own is OTHER_MARKERS else {})
    return {}


def glove_coverage(words: Counter[str]) -> float:
    """Share of running words that the fetched vectors have, 0 to 1."""
    known = read_vectors(GLOVE, Embeddings().dimension, words).rows if GLOVE.is_dir() else []
    return sum(words[word] for word in known) / max(words.total(), 1)


def describe(corpus: Corpus, coverage: float) -> list[str]:
    """What `inspect_corpus` found, a line each; `coverage` is of `glove_coverage`."""
    settings, labels, lengths = corpus.settings, corpus.labels, corpus.lengths
    parts = [settings["format"], settings.get("encoding", "utf-8")]
    parts += [f"{key} {settings[key]!r}" for key in ("delimiter", "quoting", "header", "relations") if key in settings]
    files = [f"{split}: {settings[split]}" for split in corpus.rows]
    lines = [f"{settings['folder']}: {', '.join(parts)}; {', '.join(files)}"]
    if corpus.columns:
        others = [name for name in corpus.columns if name not in (settings["text"], settings["label"])]
        # a table may have hundreds
        named = [f"{settings['text']} (the text)", f"{settings['label']} (the label)", *others[:SHOWN]]
        lines.append(f"columns: {', '.join(named)}{', ...' * (len(others) > SHOWN)}")
    shown = ", ".join(f"{label} ({count:,})" for label, count in labels.most_common(SHOWN))
    median, most = np.quantile(lengths, [0.5, 0.95], method="lower")
    lines += [
        f"rows: {', '.join(f'{split} {count:,}' for split, count in corpus.rows.items())}",
        f"labels: {len(labels)}: {shown}{', ...' * (len(labels) > SHOWN)}",
        f"tokens: median {median}, 95 % of rows have at most {most}, longest {max(lengths)}",
        f"script: {', '.join(_scripts(corpus.words)) or 'none'}",
    ]
    known = f"{GLOVE} knows {coverage:.1%} of running words"
    if coverage <= LEAST_COVERAGE:
        known = f"trained on the corpus; {known if coverage else '`bilstm-attention fetch glove-6b` has English ones'}"
    lines.append(f"vectors: {known}")
    if isinstance(settings["train"], dict) and settings["test"]:
        part = Path(settings["folder"], next(iter(settings["train"].values()))).parent
        left = [path for path in sorted(part.glob("*/")) if path.name not in settings["train"]]
        lines += [f"left out, since test lacks it: {path}, {len([*path.iterdir()]):,} files" for path in left]
    return lines + [f"{corpus.faults}; `prepare` lists them all"] * bool(corpus.faults)


def _scripts(words: Counter[str]) -> list[str]:
    """The scripts of at least 5 % of the letters, by the first word of a letter's name in Unicode."""
    letters = Counter[str]()
    for word, count in words.items():
        for letter in filter(str.isalpha, word):
            letters[unicodedata.name(letter, "other").partition(" ")[0].capitalize()] += count
    return [script for script, count in letters.most_common() if count >= 0.05 * letters.total()]


def new_config(name: str, corpus: Corpus, monitor: str, coverage: float) -> str:
    """The text of a config: what differs from the defaults or will be changed first; `monitor` picks the epoch."""
    total, longest = corpus.rows["train"], max(corpus.lengths)
    # the entities of a relation must fit in
    share, most = (1.0, 10_000) if Data(**corpus.settings).relational else (0.95, 400)
    needed = min(int(np.quantile(corpus.lengths, share, method="lower")), most)
    limit = max(100, -(-needed // 50) * 50)
    cut = np.mean([length > limit for length in corpus.lengths])
    batch, epochs, patience = next(budget[1:] for budget in BUDGETS if total <= budget[0])
    values = {key: corpus.settings[key] for key in Data.model_fields if corpus.settings.get(key) is not None}
    data = edited_text({}, {f"data.{key}": value for key, value in values.items()})
    if corpus.settings["test"] is None:
        data += "  test:  # none: data.test_fraction of train, a fifth, is split off\n"
    vectors = "corpus  # vectors trained on train; file: those of a file, see params.yaml"
    if coverage > LEAST_COVERAGE:
        vectors = f"file  # it knows {coverage:.1%} of running words; or corpus: trained on train\n  path: {GLOVE}"
    return f"""# {name}: train has {total:,} rows, {len(corpus.labels)} labels.
# The rest is as in the defaults; params.yaml explains each parameter.
{data}  tokens:
    max_length: {limit}  # the longest row has {longest} tokens; {cut:.1%} of rows are cut
embeddings:
  source: {vectors}
train:
  epochs: {epochs}  # at most; few rows need many
  patience: {patience}  # epochs without a better dev score before stopping
  batch_size: {batch}  # few rows need small ones, for more steps; many rows large ones, for speed
  monitor: {monitor}  # or macro_f1, to which rare labels count as much as frequent ones
"""
