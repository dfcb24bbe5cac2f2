"""Labels of relation corpora: `Name(e1,e2)`, `Name(e2,e1)`, and the label for no relation."""

import re
from collections.abc import Iterable

from bilstm_attention.errors import DataError

NONE_LABELS = ("Other", "no_relation")  # SemEval-2010 Task 8, KBP37
_DIRECTED = re.compile(r"([\w:/-]+)\((?:e1,e2|e2,e1)\)")


def is_directed(label: str) -> bool:
    """Whether a label has the form `Name(e1,e2)` or `Name(e2,e1)`."""
    return _DIRECTED.fullmatch(label) is not None


def relation_of(label: str) -> str:
    """The relation's name without its direction; a none label is its own name.

    Raises:
        DataError: the label has neither form.
    """
    if label in NONE_LABELS:
        return label
    if match := _DIRECTED.fullmatch(label):
        return match[1]
    raise DataError(
        f"label {label!r} is no relation; legal are Name(e1,e2), Name(e2,e1) and {' or '.join(NONE_LABELS)}."
    )


def none_last(labels: Iterable[str]) -> list[str]:
    """Labels or relations in alphabetical order, the none label last."""
    return sorted(labels, key=lambda label: (label in NONE_LABELS, label))
