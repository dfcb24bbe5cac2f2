"""The terminal: progress bars, tables, the closing line of a stage, and TensorFlow started without its chatter."""

import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from multiprocessing import parent_process
from typing import Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

# Environment variable: how many of TensorFlow's operations run at once, each on one thread.
THREADS = "BILSTM_ATTENTION_THREADS"


@contextmanager
def suppress_native_stderr() -> Iterator[None]:
    """Hides what libraries write to stderr while they start; if they fail, shows it.

    TensorFlow's C++ code writes before its log level can be set, so the file descriptor itself is redirected.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # oneDNN reorders sums by processor, and prints a paragraph about it
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # each step allocates gradients as large as the embedding; the system's allocator would return them every time
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "1")
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except BaseException:
            hidden.seek(0)
            os.write(terminal, hidden.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)


def announce(phase: str) -> None:
    """Names a phase that takes seconds and prints nothing; only on a terminal, and not in a worker."""
    if sys.stderr.isatty() and parent_process() is None:
        print(f"{phase} ...", file=sys.stderr, flush=True)


def start_tensorflow() -> None:
    """Imports Keras and TensorFlow and lets them look for devices, quietly."""
    if "tensorflow" not in sys.modules:
        announce("loading TensorFlow")
    with suppress_native_stderr():
        import keras
        import tensorflow as tf

        tf.config.list_physical_devices()
        keras.config.disable_interactive_logging()


class JobProgress:
    """A bar per kind of job in a terminal, and lines above the bars; elsewhere the lines alone.

    For example:

        with JobProgress() as progress:
            progress.update("trials", 3, 50, "best 70.00")  # three are of an earlier start
            progress.update("trials", 4, 50, "best 71.00")
            progress.log("trial 3 complete 71.00")

    `amount` is the column behind the bar, by default jobs done of all.
    """

    def __init__(self, amount: ProgressColumn | None = None, stderr: bool = False) -> None:
        self._console = Console(stderr=stderr)
        # short enough for 80 columns; a longer note continues on the next line
        note = TextColumn("{task.fields[note]}", markup=False, table_column=Column())
        columns = (TextColumn("{task.description}", markup=False), BarColumn(8), amount or MofNCompleteColumn())
        # the pace is that of the whole start, since jobs may take longer than rich's default of 30 seconds
        self._progress = Progress(
            *(*columns, TimeRemainingColumn(), TextColumn("left"), note),
            console=self._console,
            disable=not self._console.is_terminal,
            speed_estimate_period=inf,
        )
        self._tasks = dict[str, TaskID]()
        self._lines, self._printing = deque[str](), False

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def update(self, jobs: str, completed: int, total: int, note: str = "") -> None:
        """Moves the bar of this name; the first call adds it, with what earlier starts completed."""
        if jobs not in self._tasks:
            self._tasks[jobs] = self._progress.add_task(jobs, total=total, completed=completed, note=note)
            # the pace is measured from here
            self._progress.advance(self._tasks[jobs], 0)
        self._progress.update(self._tasks[jobs], completed=completed, note=note)

    def log(self, line: str) -> None:
        """Prints a line above the bars; a signal handler may call it at any moment."""
        self._lines.append(line)
        if self._printing:
            # a handler must not write to a file whose writing it interrupts: its line follows
            return
        self._printing = True
        try:
            while self._lines:
                self._console.print(Text(self._lines.popleft()), soft_wrap=True)
        finally:
            self._printing = False


class TrainingProgress(JobProgress):
    """Progress of one training: a bar over its batches in a terminal, a line per epoch elsewhere.

    `title` is for instance `seed 0`; `epochs` are the most that are trained; `monitor` names the dev score to show.
    """

    def __init__(self, title: str, epochs: int, monitor: str):
        super().__init__(TaskProgressColumn())
        self._title, self._epochs, self._monitor = title, epochs, monitor
        self._scores, self._steps = "", (0, 1)

    def batch(self, epoch: int, batch: int, batches: int) -> None:
        """Shows the epoch that is running, and the share of all epochs' batches; all three count from 1."""
        self._steps = ((epoch - 1) * batches + batch, self._epochs * batches)
        self._show(epoch)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Shows the loss and the dev score of a finished epoch, from its row of the history."""
        self._scores = f"  loss {row['loss']:.3f}  dev {self._monitor} {row[f'dev_{self._monitor}']:.2f}"
        if not self._console.is_terminal:
            self.log(f"{self._title} epoch {row['epoch']}/{self._epochs}{self._scores}")
        # the next one is running now
        self._show(min(row["epoch"] + 1, self._epochs))

    def end(self, epochs: int, best: int) -> None:
        """Says that training stopped after `epochs` if more were allowed; `best` is the epoch that is kept."""
        if epochs < self._epochs:
            # no other one is running
            self._show(epochs)
            self.log(f"{self._title} stopped early after epoch {epochs} of {self._epochs}, best {best}")

    def _show(self, epoch: int) -> None:
        self.update(self._title, *self._steps, f"epoch {epoch}/{self._epochs}{self._scores}")


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr with the time left; yields a function that advances it. Outside a terminal nothing is shown."""
    completed = 0

    def advance(amount: int) -> None:
        nonlocal completed
        completed += amount
        progress.update(title, completed, total)

    with JobProgress(TaskProgressColumn(), stderr=True) as progress:
        advance(0)
        yield advance


def print_table(rows: Sequence[Mapping[Any, str]]) -> None:
    """Prints rows, of which each has the same columns, as a table; its words are never cut nor broken."""
    console, table, least = Console(), Table(box=SIMPLE_HEAD, pad_edge=False), 0
    for name in rows[0]:
        cells = [name, *(row[name] for row in rows)]
        longest = max(len(word) for cell in cells for word in cell.split())
        table.add_column(name, min_width=longest, no_wrap=not any(" " in cell for cell in cells))
        # with its padding and a divider
        least += longest + 3
    for row in rows:
        table.add_row(*map(Text, row.values()))
    console.width = max(console.width, least)
    console.print(table)


def print_summary(stage: str, numbers: Mapping[str, Any]) -> None:
    """Prints the closing line of a stage: its name, and the few numbers that a person wants."""
    shown = (
        f"{name} {value:,.2f}" if isinstance(value, float) else f"{name} {value}" for name, value in numbers.items()
    )
    print(f"{stage}: {'  '.join(shown)}", flush=True)
