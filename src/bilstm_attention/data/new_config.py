"""Counts what a corpus of one's own holds, says it in a few lines, and writes a config for it; for `init`."""

import io
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import numpy as np
from pyarrow.parquet import ParquetFile
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from bilstm_attention.config import Data, Embeddings
from bilstm_attention.data.formats import Fault, Row, Source, content_faults, read_rows, split_sources
from bilstm_attention.data.inspect import SEEN, Ask, Column, find_encoding, find_files, inspect_file
from bilstm_attention.data.splits import SPLITS, Split
from bilstm_attention.data.tables import BYTE_ORDER_MARKS, OPEN, PARQUET, open_file
from bilstm_attention.data.tokens import SPECIALS, tokenize
from bilstm_attention.data.vectors import read_vectors
from bilstm_attention.errors import DataError
from bilstm_attention.paths import EXTERNAL, PREPARED

SHOWN = 10  # columns and labels
GLOVE = EXTERNAL / "glove-6b"
LEAST_COVERAGE = 0.5  # of vectors worth reading; those of another language know less
# Rows of train up to which it holds; batch size, epochs, patience. Test official_f1 on the sample corpus cut to 200,
# 1,000 and 2,000 rows, two seeds: 23, 84, 94 with the first; 3, 63, 87 with the second, the defaults. On larger samples
# of its grammar, 60,000 and 250,000 rows, the best epoch of the last two was the sixth and the third.
BUDGETS = ((2_000, 8, 60, 20), (50_000, 32, 20, 8), (200_000, 64, 10, 3), (10**12, 128, 5, 2))
SCRIPTS = {"CJK": "Han"}  # names of scripts that Unicode's names of characters do not begin with
UNSPACED = {"Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan"}


class Contents(NamedTuple):
    """What the files of a split hold, as far as they were looked at."""

    rows: list[Row]
    faults: list[Fault]
    labels: Counter[str]
    total: int  # rows
    counted: str  # how: empty (all of them), `about ` or `more than `


class Corpus(NamedTuple):
    """A corpus as it was found."""

    settings: dict[str, Any]  # of the block `data`
    columns: list[Column]  # of a table
    splits: dict[Split, Contents]
    lengths: list[int]  # tokens of the rows of train
    words: Counter[str]
    scripts: list[str]  # of the letters of train, the most frequent first

    @property
    def labels(self) -> Counter[str]:
        """Labels of train, with their rows."""
        return self.splits["train"].labels


def inspect_corpus(files: Sequence[Path], text: str | None, label: str | None, ask: Ask | None) -> Corpus:
    """Reads the start of every file; the working directory is the project root.

    Args:
        files: absolute paths, as `inspect.find_files` takes them.
        text, label, ask: as in `inspect.inspect_file`.

    Raises:
        DataError: the corpus cannot be read, or lies where outputs are.
    """
    settings, columns = find_files(files), list[Column]()
    folder = Path(settings["folder"])
    settings["folder"] = str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)
    if PREPARED.is_relative_to(settings["folder"]):
        home, root = f"data/{corpus_name(files)}", Path.cwd()
        names = [quote(str(path.relative_to(root) if path.is_relative_to(root) else path)) for path in files]
        moved = "FILES" if files[0].is_dir() else " ".join(names)
        raise DataError(
            f"{settings['folder']}: holds outputs of the pipeline, so a corpus needs a folder of its own:"
            f" mkdir {quote(home)} && mv {moved} {quote(home)}"
        )
    if settings.get("format") == "classes":
        settings |= find_encoding([source.path for source in split_sources(Data(**settings), "train")])
    else:
        own, columns = inspect_file(Path(settings["folder"], settings["train"]), text, label, ask)
        settings |= own
    if settings["format"] != "table" and (text or label):
        raise DataError(f"{folder}: format {settings['format']} has no columns; leave out --text and --label.")
    data = Data(**settings)
    splits = {name: _read_contents(data, name) for name in SPLITS if settings.get(name)}
    rows = splits["train"].rows
    if len(splits["train"].labels) < 2:
        only = ", ".join(splits["train"].labels) or "none"
        raise DataError(f"{folder}: train has fewer than two labels: {only}. {_first_fault(splits)}".rstrip())
    tokens = [tokenize(row.text, data.tokens) for row in rows]
    words = Counter(word for word in chain.from_iterable(tokens) if word not in SPECIALS)
    return Corpus(settings, columns, splits, [len(each) for each in tokens], words, _scripts(words))


def corpus_name(files: Sequence[Path]) -> str:
    """The name of the only file or folder, without endings, or that of the folder of several."""
    return files[0].parent.name if len(files) > 1 else files[0].name.partition(".")[0]


def _read_contents(data: Data, split: str) -> Contents:
    sources = split_sources(data, split)
    # of a folder of many small files, some of each class
    step = -(-len(sources) // SEEN)
    parts = [_read_source(source, data) for source in sources[::step]]
    items = [item for part in parts for item in part[0]]
    rows = [item for item in items if isinstance(item, Row)]
    faults = [item for item in items if isinstance(item, Fault)]
    faults += chain.from_iterable(content_faults(row, data) for row in rows)
    if step > 1:
        return Contents(rows, faults, Counter(source.label for source in sources), len(sources), "")
    labels = Counter(row.label for row in rows if row.label)
    return Contents(rows, faults, labels, sum(part[1] for part in parts), max(part[2] for part in parts))


def _read_source(source: Source, data: Data) -> tuple[list[Row | Fault], int, str]:
    """The first rows of a file; the number of all, and how they are counted."""
    items, path, size, rows = list[Row | Fault](), source.path, 0, 0

    def advance(more: int) -> None:
        nonlocal size, rows
        size, rows = size + more, len(items)

    # one by one, since `advance` counts them
    for item in islice(read_rows(source, data, advance), SEEN + 1):
        items.append(item)
    if len(items) <= SEEN:
        return items, len(items), ""
    if path.suffix.lower() in PARQUET:
        return items, ParquetFile(path).metadata.num_rows, ""
    if path.suffix.lower() in OPEN:
        return items, SEEN, "more than "
    return items, round(path.stat().st_size * rows / size), "about "


def _first_fault(splits: Mapping[Split, Contents]) -> str:
    faults = [fault for contents in splits.values() for fault in contents.faults]
    return f"{len(faults)} rows cannot be read as they stand, first {faults[0]}" if faults else ""


def _scripts(words: Counter[str]) -> list[str]:
    letters = Counter[str]()
    for word, count in words.most_common(SEEN):
        for letter in filter(str.isalpha, word):
            letters[unicodedata.name(letter, "unknown").split()[0].split("-")[0]] += count
    shares = [(name, count / letters.total()) for name, count in letters.most_common()]
    return [SCRIPTS.get(name, name.title()) for name, share in shares if share > 0.05]


def glove_coverage(words: Counter[str]) -> float | None:
    """Share of running words that the fetched vectors have, 0 to 1; none if none are fetched."""
    if not GLOVE.is_dir():
        return None
    vectors = read_vectors(GLOVE, Embeddings().dimension, words)
    return sum(words[word] for word in vectors.rows) / max(words.total(), 1)


def describe(corpus: Corpus, coverage: float | None) -> list[str]:
    """What was found, a line each.

    Args:
        corpus: of `inspect_corpus`.
        coverage: of `glove_coverage`.
    """
    settings, labels, lengths = corpus.settings, corpus.labels, corpus.lengths
    counts = [f"{name} {each.counted}{each.total:,}" for name, each in corpus.splits.items()]
    partly = any(each.counted or len(each.rows) + len(each.faults) < each.total for each in corpus.splits.values())
    shown = ", ".join(f"{label} ({count:,})" for label, count in labels.most_common(SHOWN))
    median, most = np.quantile(lengths, [0.5, 0.95], method="lower")
    lines = [
        _format_line(settings),
        *_columns_line(corpus.columns, settings),
        f"rows: {', '.join(counts)}{f' (at most {SEEN:,} of a file or folder were looked at)' * partly}",
        f"labels: {len(labels)}: {shown}{', ...' * (len(labels) > SHOWN)}; the most frequent is"
        f" {max(labels.values()) / labels.total():.0%} of train, the rarest has {min(labels.values()):,}",
        f"tokens: median {median}, 95 % of rows have at most {most}, longest {max(lengths)}",
        f"script: {', '.join(corpus.scripts) or 'none'}",
    ]
    if unspaced := [script for script in corpus.scripts if script in UNSPACED]:
        rule = "unicode (default), whitespace (the text was split beforehand) or characters"
        lines.append(f"{' and '.join(unspaced)}: no blanks between words; data.tokens.words is {rule}")
    if coverage is None:
        lines.append("vectors: trained on the corpus; `bilstm-attention fetch glove-6b` has English ones")
    else:
        instead = "" if coverage > LEAST_COVERAGE else "; they are trained on the corpus instead"
        lines.append(f"vectors: {GLOVE} knows {coverage:.1%} of running words{instead}")
    if isinstance(settings["train"], dict) and settings["test"]:
        part = Path(settings["folder"], next(iter(settings["train"].values()))).parent
        left = [path for path in sorted(part.glob("*/")) if path.name not in settings["train"]]
        lines += [f"left out, since test lacks it: {path}, {len([*path.iterdir()]):,} files" for path in left]
    if settings["format"] != "classes":
        others = len([*Path(settings["folder"]).iterdir()]) - len(corpus.splits)
        lines += [f"folder: DVC tracks all of {settings['folder']}, with {others} other entries"] * (others > 0)
    if fault := _first_fault(corpus.splits):
        lines.append(f"{fault}; `prepare` lists them all")
    return lines


def _format_line(settings: Mapping[str, Any]) -> str:
    parts = [settings["format"], settings.get("encoding", "utf-8")]
    path = Path(settings["folder"], str(settings["train"]))
    if path.is_file():
        with open_file(path) as file:
            start = file.read(4)
        marked = (name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark))
        parts[1:] = [f"{name} by its byte order mark" for name in marked][:1] or parts[1:]
        parts[1:] = [] if path.suffix.lower() in PARQUET else parts[1:]
    parts += [f"delimiter {settings['delimiter']!r}"] if "delimiter" in settings else []
    parts += ["no header"] if "header" in settings else []
    parts += [f"{key} {settings[key]}" for key in ("quoting", "relations") if key in settings]
    files = [f"{split}: {settings[split]}" for split in SPLITS if settings.get(split)]
    return f"{settings['folder']}: {', '.join(parts)}; {', '.join(files)}"


def _columns_line(columns: Sequence[Column], settings: Mapping[str, Any]) -> Iterator[str]:
    roles = {settings[role]: f"the {role}, " for role in ("text", "label") if columns}
    # a table may have hundreds
    chosen = sorted(columns, key=lambda column: column.name not in roles)[:SHOWN]
    named = [f"{each.name} ({roles.get(each.name, '')}{each.different:,} different)" for each in chosen]
    if columns:
        yield f"columns: {', '.join(named)}{', ...' * (len(columns) > SHOWN)}"


def new_config(name: str, corpus: Corpus, monitor: str, coverage: float | None) -> str:
    """The text of a config: what differs from the defaults or will be changed first, with its reasons.

    Args:
        name: of the experiment.
        corpus: of `inspect_corpus`.
        monitor: the dev score that picks the epoch.
        coverage: of `glove_coverage`.
    """
    total, longest = corpus.splits["train"].total, max(corpus.lengths)
    relational = Data(**corpus.settings).relational
    # the entities of a relation must fit in
    needed = min(longest, 10_000) if relational else min(int(np.quantile(corpus.lengths, 0.95, method="lower")), 400)
    limit = max(100, -(-needed // 50) * 50)
    cut = np.mean([length > limit for length in corpus.lengths])
    batch, epochs, patience = next(budget[1:] for budget in BUDGETS if total <= budget[0])
    values: dict[str, tuple[Any, str]] = {
        f"data.{key}": (corpus.settings[key], "") for key in Data.model_fields if key in corpus.settings
    }
    if corpus.settings["test"] is None:
        values["data.test"] = None, "none: data.test_fraction of train, a fifth, is split off"
    values["data.tokens.max_length"] = limit, f"the longest row has {longest} tokens; {cut:.1%} of rows are cut"
    if coverage is not None and coverage > LEAST_COVERAGE:
        values |= {
            "embeddings.source": ("file", f"it knows {coverage:.1%} of running words; or corpus: trained on train"),
            "embeddings.path": (str(GLOVE), ""),
        }
    else:
        values["embeddings.source"] = "corpus", "vectors trained on train; file: those of a file, see params.yaml"
    values |= {
        "train.epochs": (epochs, "at most; few rows need many"),
        "train.patience": (patience, "epochs without a better dev score before stopping"),
        "train.batch_size": (
            batch,
            "few rows need small ones, for more steps; many rows large ones, for speed",
        ),
        "train.monitor": (monitor, "or macro_f1, to which rare labels count as much as frequent ones"),
    }
    head = f"{name}: train has {corpus.splits['train'].counted}{total:,} rows, {len(corpus.labels)} labels."
    return f"# {head}\n# The rest is as in the defaults; params.yaml explains each parameter.\n{_yaml_text(values)}"


def _yaml_text(values: Mapping[str, tuple[Any, str]]) -> str:
    """Blocks of parameters by dotted key, with their comments."""
    document, text, yaml = CommentedMap(), io.StringIO(), YAML()
    for key, (value, comment) in values.items():
        *blocks, last = key.split(".")
        block = document
        for name in blocks:
            block = block.setdefault(name, CommentedMap())
        block[last] = value
        if comment:
            block.yaml_add_eol_comment(comment, last, column=28)
    yaml.width = 4096
    yaml.dump(document, text)
    return text.getvalue()
