"""What a person sees in the terminal: progress, the few numbers a stage ends with, and no library's chatter."""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def quietly() -> Iterator[None]:
    """Keeps what libraries write to the terminal while they start; if they fail, shows it all.

    TensorFlow's C++ side writes before its log level can be set, so the file descriptor itself is turned aside.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # oneDNN reorders sums by processor, and says so at length
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
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
    """Imports Keras and TensorFlow and lets them look for devices, without their chatter."""
    with quietly():
        import keras
        import tensorflow as tf

        tf.config.list_physical_devices()
        keras.config.disable_interactive_logging()


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


def closing(stage: str, numbers: Mapping[str, Any]) -> None:
    """The few numbers a stage ends with, one line."""
    shown = "  ".join(
        f"{name} {value:,.2f}" if isinstance(value, float) else f"{name} {value}" for name, value in numbers.items()
    )
    print(f"{stage}: {shown}", flush=True)
