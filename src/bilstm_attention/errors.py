"""User-fixable errors: each says what was received, where, what is legal, and what to change."""

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

OFFENDERS_SHOWN = 20


class UserError(Exception):
    """A fault outside the code; the command line prints it without a traceback."""


class ParamsError(UserError):
    """A parameter is unknown, of the wrong type, or out of its range."""


class DataError(UserError):
    """A corpus, a file of vectors or of answers, or a table is malformed or missing."""


class FetchError(UserError):
    """A download failed, or its checksum differs."""


class TrainingError(UserError):
    """Training cannot continue, for example because the loss is not a number."""


class SweepError(UserError):
    """A sweep cannot start or continue."""


def join_lines(offenders: Iterable[str], shown: int = OFFENDERS_SHOWN, more: int = 0) -> str:
    """The first `shown` offenders, a line each; the last line counts the others, and `more` that were only counted."""
    rest = iter(offenders)
    lines = list(islice(rest, shown))
    more += sum(1 for _ in rest)
    return "\n".join([*lines, *([f"... and {more} more"] if more else [])])


def did_you_mean(name: str, legal: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` if a legal name is close or holds the name whole, else an empty string."""
    names = list(legal)
    close = get_close_matches(name, names, n=1) or [each for each in names if len(name) > 2 and name in each]
    return f"; did you mean {close[0]!r}?" if close else ""
