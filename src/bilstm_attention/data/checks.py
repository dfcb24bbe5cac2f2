"""Warnings about a corpus that can be read, but is seldom meant so."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bilstm_attention.config import Data
from bilstm_attention.data.relations import NONE_LABELS, is_directed
from bilstm_attention.data.splits import SPLITS
from bilstm_attention.errors import did_you_mean

RARE = 3  # rows of a label that may be a misspelling, or is too small to learn
UNCLEANED = 0.01  # share of rows
UNCLEAN = {"html": "HTML tags or entities", "urls": "web addresses", "users": "user names"}
SHOWN = 5  # rows or labels that a warning names


def corpus_warnings(
    rows: pd.DataFrame, splits: NDArray[np.int8], data: Data, uncleaned: Mapping[str, int], empty_entities: int
) -> list[str]:
    """What a person should look at before training: a line each, with counts and places.

    Args:
        rows: of `corpus.read_corpus`.
        splits: of `splits.make_splits`.
        uncleaned: rows that hold what `data.tokens.clean` could replace, by its options.
        empty_entities: entities without a token.
    """
    warnings = [*_label_warnings(rows), *_count_warnings(rows, splits), *_text_warnings(rows, splits, data)]
    if empty_entities:
        warnings.append(f"{empty_entities} entities have no token and are read as an unknown word.")
    for kind, count in uncleaned.items():
        if count > UNCLEANED * len(rows):
            warnings.append(
                f"{count} of {len(rows)} rows hold {UNCLEAN[kind]}; data.tokens.clean: [{kind}] replaces them."
            )
    return warnings


def _label_warnings(rows: pd.DataFrame) -> Iterator[str]:
    """Labels that may be another one misspelt."""
    counts = rows["label"].value_counts()
    labels, known = [str(label) for label in counts.index if counts[label]], dict[str, str]()
    for label in labels:
        plain, *others = _variants(label)
        near = [known[each] for each in others if each in known] if counts[label] <= RARE else []
        alike = [known[plain]] if plain in known else [other for other in near if counts[other] > RARE]
        if alike:
            places = _places(rows, rows["label"] == label)
            yield f"label {label!r} ({places}) looks like {alike[0]!r}; write them alike."
        for each in (plain, *others):
            known.setdefault(each, label)
    if any(map(is_directed, labels)):
        for label in labels:
            if not is_directed(label) and label not in NONE_LABELS:
                legal = [other for other in labels if is_directed(other) or other in NONE_LABELS]
                yield (
                    f"label {label!r} ({_places(rows, rows['label'] == label)}) is neither Name(e1,e2), Name(e2,e1) nor"
                    f" {' or '.join(NONE_LABELS[:2])}{did_you_mean(label, legal) or ';'} official_f1 is not available."
                )


def _variants(label: str) -> list[str]:
    """The label without case and blanks, and, if it is no short one, each way to leave out a letter of that.

    Two labels that differ by one letter share a variant. Digits stay: they tell labels apart.
    """
    plain = "".join(label.split()).casefold()
    letters = [place for place, letter in enumerate(plain) if not letter.isdigit()] if len(plain) > 3 else []
    return [plain, *(plain[:place] + plain[place + 1 :] for place in letters)]


def _places(rows: pd.DataFrame, chosen: "pd.Series[bool]") -> str:
    named = rows[chosen]
    first = named.head(SHOWN).groupby("file", observed=True, sort=False)["line"]
    names = "; ".join(f"{Path(str(file)).name}:{', '.join(map(str, lines))}" for file, lines in first)
    return f"{len(named)} row{'s' * (len(named) > 1)}: {names}{', ...' * (len(named) > SHOWN)}"


def _count_warnings(rows: pd.DataFrame, splits: NDArray[np.int8]) -> Iterator[str]:
    """Labels that a split has too few of."""
    counts = {name: rows["label"][splits == number].value_counts() for number, name in enumerate(SPLITS)}
    known = [label for label in counts["train"].index if sum(count[label] for count in counts.values())]
    few = [str(label) for label in known if counts["train"][label] < RARE]
    if few:
        yield f"train has fewer than {RARE} rows of {_named(few)}; too few to learn."
    for name in SPLITS[1:]:
        absent = [str(label) for label in known if not counts[name][label]]
        if absent:
            them = "them" if absent[1:] else "it"
            yield f"{name} has no row of {_named(absent)}; its scores say nothing of {them}."


def _named(labels: list[str]) -> str:
    return f"{len(labels)} label{'s' * (len(labels) > 1)}: {', '.join(labels[:SHOWN])}{', ...' * (len(labels) > SHOWN)}"


def _text_warnings(rows: pd.DataFrame, splits: NDArray[np.int8], data: Data) -> Iterator[str]:
    """Equal sentences that have several labels, or that test and train share."""
    if not data.relational:
        # in a relation corpus a sentence may stand once for each pair of entities
        several = rows[["key", "label"]].drop_duplicates()["key"]
        torn = rows["key"].isin(several[several.duplicated()])
        if torn.any():
            yield f"equal sentences have different labels: {_places(rows, torn)}."
    train, test = (splits == SPLITS.index(name) for name in ("train", "test"))
    shared = test & rows["key"].isin(rows["key"][train]).to_numpy()
    if shared.any():
        yield f"sentences of test stand in train too: {_places(rows, pd.Series(shared, rows.index))}."
