"""Relation corpora: the labels `Name(e1,e2)`, `Name(e2,e1)` and the one for no relation; and marked entities."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from bilstm_attention.config import Data
from bilstm_attention.data.tokens import MARKER, MARKERS
from bilstm_attention.errors import DataError

# SemEval-2010 Task 8, KBP37 and TACRED, NYT10
NONE_LABELS = ("Other", "no_relation", "NA")
DIRECTED = re.compile(r"([\w:/.-]+)\((?:e1,e2|e2,e1)\)")
# Either entity may come first.
ORDERS = [*MARKERS], [*MARKERS[2:], *MARKERS[:2]]
MARKING = "a relation sentence marks both entities as <e1>..</e1> and <e2>..</e2>"


def is_directed(label: str) -> bool:
    """Whether a label has the form `Name(e1,e2)` or `Name(e2,e1)`."""
    return DIRECTED.fullmatch(label) is not None


def relation_of(label: str) -> str:
    """The relation's name without its direction; a none label is its own name, any other a DataError."""
    if label in NONE_LABELS:
        return label
    if match := DIRECTED.fullmatch(label):
        return match[1]
    raise DataError(
        f"label {label!r} is no relation; legal are Name(e1,e2), Name(e2,e1) and {' or '.join(NONE_LABELS)}."
    )


def none_last(labels: Iterable[str]) -> list[str]:
    """Labels or relations in alphabetical order, the none label last."""
    return sorted(labels, key=lambda label: (label in NONE_LABELS, label))


def marking_fault(text: str) -> str:
    """Describes a fault in the entity markers of a sentence, or is empty; either entity may come first."""
    markers = MARKER.findall(text)
    if markers in ORDERS:
        return ""
    missing = [marker for marker in MARKERS if marker not in markers]
    repeated = [marker for marker in MARKERS if markers.count(marker) > 1]
    if missing:
        return f"has {' '.join(markers)} but no {' '.join(missing)}" if markers else "has no markers"
    if repeated:
        return f"has {' '.join(repeated)} more than once"
    return f"has its markers in the order {' '.join(markers)}"


def mark_entities(text: Any, values: Sequence[Any], data: Data) -> str:
    """A sentence with its entities marked, from the columns that `data.relations` and `data.entities` name.

    Args:
        text: a sentence, or a list of its tokens.
        values: of `data.entities`: `spans`, first and last position of either entity, in tokens of a list (the last is
            of the entity, as in TACRED) or in characters of a sentence (the last is behind it); `words`, the entities.
        data: `relations`, `entities`, `markers`.

    Raises:
        DataError: they are not there; without the place.
    """
    if data.relations == "markers":
        for own, marker in zip(data.markers or (), MARKERS, strict=False):
            text = text.replace(own, marker)
        return str(text)
    if data.relations == "words":
        spans = []
        for entity in map(str, values):
            places = [match.span() for match in re.finditer(rf"(?<!\w){re.escape(entity.strip())}(?!\w)", text)]
            if len(places) != 1 or not entity.strip():
                legal = "once is legal. Mark it in the text instead."
                raise DataError(f"has the entity {entity!r} {len(places)} times; {legal}")
            spans += places
    else:
        numbers = [int(value) if str(value).strip().isdecimal() else -1 for value in values]
        last = 0 if isinstance(text, str) else 1
        spans = [(numbers[0], numbers[1] + last), (numbers[2], numbers[3] + last)]
        if any(not 0 <= start < end <= len(text) for start, end in spans):
            raise DataError(f"has the positions {values} in {len(text)} {'characters' if last == 0 else 'tokens'}.")
    offsets = [place for span in spans for place in span]
    # where one entity ends and the next begins, the closing marker stands first
    order = sorted(zip(offsets, (0, -1, 0, -1), MARKERS, strict=True), reverse=True)
    for place, _, marker in order:
        added = [marker] if isinstance(text, list) else marker
        text = text[:place] + added + text[place:]
    return " ".join(text) if isinstance(text, list) else str(text)
