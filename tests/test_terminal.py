"""What a person sees: no chatter unless it explains a failure, a line per epoch in a log, one line at the end."""

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from bilstm_attention import terminal
from bilstm_attention.terminal import TrainingProgress, closing, quietly

ROW = {"epoch": 2, "loss": 0.51234, "dev_accuracy": 81.456}


CHATTER = """
import os, sys
from bilstm_attention.terminal import quietly

with quietly():
    os.write(2, b"chatter from C\\n")
    print("chatter from Python", file=sys.stderr)
    {end}
print("after", file=sys.stderr)
"""


def errors_of(code: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.splitlines()


def test_what_a_library_writes_while_it_starts_is_kept_aside() -> None:
    assert errors_of(CHATTER.format(end="pass")) == ["after"]


def test_it_is_shown_when_the_start_fails() -> None:
    shown = errors_of(CHATTER.format(end="raise RuntimeError('no device')"))
    assert shown[:2] == ["chatter from C", "chatter from Python"]
    assert shown[-1] == "RuntimeError: no device"


def test_no_descriptor_is_left_open() -> None:
    with quietly():
        pass
    first = os.open(os.devnull, os.O_RDONLY)
    os.close(first)
    for _ in range(3):
        with quietly():
            pass
    again = os.open(os.devnull, os.O_RDONLY)
    os.close(again)
    assert again == first


def test_tensorflow_starts_without_a_word() -> None:
    code = "from bilstm_attention.terminal import start_tensorflow as start; start(); import tensorflow"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_log_gets_a_line_per_epoch_and_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress("seed 3", epochs=9, monitor="accuracy") as progress:
        progress.batch(1, 1, 4)
        progress.epoch(ROW)
        progress.batch(2, 4, 4)
    assert capfd.readouterr().out == "seed 3 epoch 2/9  loss 0.512  dev accuracy 81.46\n"


def test_a_terminal_gets_a_bar_with_the_last_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr(terminal, "Console", lambda: screen)
    with TrainingProgress("seed 3", epochs=9, monitor="accuracy") as progress:
        progress.batch(1, 4, 4)
        progress.epoch(ROW)
        progress.batch(2, 2, 4)
    assert progress.bar.tasks[0].completed == 6
    assert progress.bar.tasks[0].total == 36
    assert "seed 3 epoch 2/9  loss 0.512  dev accuracy 81.46" in screen.file.getvalue()


def test_a_stage_closes_with_its_numbers_on_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    closing("evaluate", {"words": 1234, "covered %": 98.765, "sd": "-"})
    assert capfd.readouterr().out == "evaluate: words 1234  covered % 98.77  sd -\n"
