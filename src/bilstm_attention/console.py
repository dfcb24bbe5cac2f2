"""What a person sees in the terminal: progress, the few numbers a stage ends with, and no library's chatter."""

import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from time import monotonic
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

ENDED = ("complete", "pruned", "failed")


@contextmanager
def suppress_native_stderr() -> Iterator[None]:
    """Keeps what libraries write to the terminal while they start; if they fail, shows it all.

    TensorFlow's C++ side writes before its log level can be set, so the file descriptor itself is turned aside.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # oneDNN reorders sums by processor, and says so at length
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # each step makes gradients as large as the embedding, which the system's allocator gives back and gets anew
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "1")
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            aside.seek(0)
            os.write(terminal, aside.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)


def start_tensorflow() -> None:
    """Imports Keras and TensorFlow and lets them look for devices, quietly."""
    with suppress_native_stderr():
        import keras
        import tensorflow as tf

        tf.config.list_physical_devices()
        keras.config.disable_interactive_logging()


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr if that is a terminal; gives the function that advances it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.advance(task, done)


class TrainingProgress:
    """Progress of one training: a bar with the time left where a terminal can draw it, else a line per epoch.

    Args:
        title: shown before the epoch.
        epochs: at most.
        monitor: name of the dev score shown.
    """

    def __init__(self, title: str, epochs: int, monitor: str):
        self.title, self.epochs, self.monitor = title, epochs, monitor
        self.console = Console()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task(title, total=None)
        self.last = ""

    def __enter__(self) -> "TrainingProgress":
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def batch(self, epoch: int, batch: int, batches: int) -> None:
        """After each batch."""
        description = f"{self.title} epoch {epoch}/{self.epochs}{self.last}"
        done, total = (epoch - 1) * batches + batch, self.epochs * batches
        self.bar.update(self.task, description=description, completed=done, total=total)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """After each epoch."""
        score = row[f"dev_{self.monitor}"]
        self.last = f"  loss {row['loss']:.3f}  dev {self.monitor} {score:.2f}"
        if not self.console.is_terminal:
            print(f"{self.title} epoch {row['epoch']}/{self.epochs}{self.last}", flush=True)


@dataclass
class Pace:
    """How far some work is, and how long it has yet to go if it goes on as in this start.

    Args:
        total: what there is to do.
        done: what is done; at first, what earlier starts did.
        began: when this start began, in seconds.
    """

    total: int
    done: int
    began: float

    def __post_init__(self) -> None:
        self.before, self.last = self.done, self.began

    def reached(self, done: int, now: float) -> None:
        """So much is done now."""
        if done > self.done:
            self.done, self.last = done, now

    def left(self, now: float) -> float:
        """Seconds; infinite while this start has done nothing."""
        if self.done in (self.before, self.total):
            return 0.0 if self.done >= self.total else inf
        each = (self.last - self.began) / (self.done - self.before)
        return max(self.last + each * (self.total - self.done) - now, 0.0)


class SweepProgress:
    """Progress of a sweep: its lines and, where a terminal can draw it, what became of the trials and the time left.

    Args:
        study: its name.
        metric: name of the dev score searched for.
        budget: trials in all, those of earlier starts counted.
        seconds: after which no new trial begins.
        clock: gives seconds.
    """

    def __init__(
        self, study: str, metric: str, budget: int, seconds: float = inf, clock: Callable[[], float] = monotonic
    ):
        self.title, self.budget, self.clock = f"sweep {study}, dev {metric}", budget, clock
        self.began, self.end, self.over = clock(), clock() + seconds, False
        self.trials: Pace | None = None
        self.confirmations: Pace | None = None
        self.rows, self.waiting, self.printing = dict[str, str](), deque[str](), False
        self.console = Console()
        self.region = Live(get_renderable=self.shown, console=self.console, refresh_per_second=2)

    def __enter__(self) -> "SweepProgress":
        if self.console.is_terminal:
            self.region.start(refresh=True)
        return self

    def __exit__(self, *exception: object) -> None:
        self.over = True
        self.line()
        self.region.stop()

    def trial(self, counts: Mapping[str, int], best: str, line: str = "") -> None:
        """Before the first trial, and, with its line, whenever one has ended.

        Args:
            counts: trials `complete`, `pruned` and `failed`, those of earlier starts among them.
            best: the best score so far, in words.
        """
        now, ended = self.clock(), sum(counts.get(state, 0) for state in ENDED)
        self.trials = self.trials or Pace(self.budget, ended, now)
        self.trials.reached(ended, now)
        shown = ", ".join(f"{counts.get(state, 0)} {state}" for state in ENDED)
        self.rows = {"trials": f"{ended} of {self.budget} ended: {shown}", "best": best}
        self.line(line)

    def confirmation(self, done: int, total: int, line: str = "") -> None:
        """Before the first confirmation, with what earlier starts did, and, with its line, when one has ended."""
        now = self.clock()
        self.confirmations = self.confirmations or Pace(total, done, now)
        self.confirmations.reached(done, now)
        self.rows["confirmed"] = f"{done} of {total} trainings"
        self.line(line)

    def line(self, text: str = "") -> None:
        """Prints a line above the region; a signal handler may call it too, whatever it interrupts."""
        self.waiting.extend([text] if text else [])
        if self.printing:
            # a file cannot be written to by a handler that interrupts its writing: the line comes after that
            return
        self.printing = True
        try:
            while self.waiting:
                line = self.waiting.popleft()
                if self.region.is_started:
                    self.console.print(Text(line), soft_wrap=True)
                else:
                    print(line, flush=True)
        finally:
            self.printing = False

    def shown(self) -> Panel:
        """What the region shows now."""
        now, table = self.clock(), Table.grid(padding=(0, 2))
        spent = f"{timedelta(seconds=round(now - self.began))} elapsed"
        rows = {**self.rows, "time": spent if self.over else f"{spent}, {self._left(now)}"}
        for name, text in rows.items():
            table.add_row(name, Text(text))
        return Panel(table, title=Text(self.title), title_align="left", expand=False)

    def _left(self, now: float) -> str:
        estimate = work.left(now) if (work := self.confirmations or self.trials) else inf
        # confirmations know no limit
        limit = inf if self.confirmations else max(self.end - now, 0.0)
        if limit < estimate:
            return f"up to {timedelta(seconds=round(limit))} left" if limit else "no new trial begins"
        return "time left unknown" if estimate == inf else f"about {timedelta(seconds=round(estimate))} left"


def closing(stage: str, numbers: Mapping[str, Any]) -> None:
    """The few numbers a stage ends with, one line."""
    shown = "  ".join(
        f"{name} {value:,.2f}" if isinstance(value, float) else f"{name} {value}" for name, value in numbers.items()
    )
    print(f"{stage}: {shown}", flush=True)
