"""The lines of a text file, from any place on, each place kept so that reading can go on from there."""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from bilstm_attention.errors import DataError, join_lines

BUFFER = 1 << 16  # bytes


class FilePosition(NamedTuple):
    """Where a row begins: all that it takes to read on from there.

    Args:
        path: of the file, as messages name it.
        label: of every row of the file where `data.format` is classes; else empty.
        offset: bytes of the file before it.
        line: its first, from 1.
        number: which record it is, from 1, in a file that may leave ids out; elsewhere 1.
    """

    path: Path
    label: str = ""
    offset: int = 0
    line: int = 1
    number: int = 1

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


class Lines:
    """The lines of a file, their ends kept, and the place of the next.

    Not splitlines(): a sentence may hold the other characters that it breaks at, such as U+0085.
    """

    def __init__(self, file: BinaryIO, place: FilePosition) -> None:
        self.text = io.TextIOWrapper(file, "utf-8", newline="")
        self.start, self.first = place, len(codecs.BOM_UTF8) * (file.read(3) == codecs.BOM_UTF8)
        self.go(place)

    def go(self, place: FilePosition) -> None:
        """Reads on from a place."""
        self.path, self.label, self.offset, self.line, _ = place
        self.offset = max(self.offset, self.first)
        self.text.seek(self.offset)

    def place(self) -> FilePosition:
        """Where the next line begins."""
        return FilePosition(self.path, self.label, self.offset, self.line)

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        line = next(self.text)
        self.line += 1
        self.offset += len(line) if line.isascii() else len(line.encode())
        return line


@contextmanager
def opened(place: FilePosition, root: Path) -> Iterator[Lines]:
    """Opens a file at a place; its path is relative to `root`.

    Raises:
        DataError: bytes that are not UTF-8 were met; lists all of them by line.
    """
    with (root / place.path).open("rb", buffering=BUFFER) as file:
        lines = Lines(file, place)
        try:
            yield lines
        except UnicodeDecodeError:
            file.seek(0)
            raise DataError(join_lines(_undecodable(place.path, file))) from None


def _undecodable(path: Path, file: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        line = line if number > 1 else line.removeprefix(codecs.BOM_UTF8)
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield (
                f"{path}:{number}: byte {error.start + 1} of the line is 0x{line[error.start]:02x}, which is not UTF-8;"
                " save the file as UTF-8 (for one in Windows-1252: iconv -f cp1252 -t utf-8)."
            )
