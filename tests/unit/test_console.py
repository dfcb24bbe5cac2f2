"""The terminal: no chatter unless it explains a failure, a line per epoch in a log, bars in a terminal."""

import io
import os
import re
import subprocess
import sys
from unittest.mock import Mock

import pytest
from rich.console import Console

from bilstm_attention import console as terminal
from bilstm_attention.console import JobProgress, TrainingProgress, progress_bar

ROW = {"epoch": 2, "loss": 0.51234, "dev_accuracy": 81.456}
CHATTER = """
import os, sys
from bilstm_attention.console import suppress_native_stderr

with suppress_native_stderr():
    os.write(2, b"chatter from C\\n")
    print("chatter from Python", file=sys.stderr)
    {end}
print("after", file=sys.stderr)
"""


def errors_of(code: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.splitlines()


@pytest.fixture
def screen(monkeypatch):
    """A file in the place of a terminal of 80 columns."""
    file = io.StringIO()
    monkeypatch.setattr(terminal, "Console", lambda stderr=False: Console(file=file, force_terminal=True, width=80))
    return file


def lines_of(text: str) -> list[str]:
    """The lines in the order of their writing, also those that others replaced."""
    plain = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", text.replace("\r\x1b[2K", "\n"))
    return [" ".join(line.split()) for line in plain.splitlines()]


def test_chatter_is_shown_only_when_the_start_fails():
    assert errors_of(CHATTER.format(end="pass")) == ["after"]
    shown = errors_of(CHATTER.format(end="raise RuntimeError('no device')"))
    assert shown[:2] == ["chatter from C", "chatter from Python"]
    assert shown[-1] == "RuntimeError: no device"


@pytest.mark.parametrize("value", [None, "0"])
def test_environment_wins_over_settings_of_tensorflow(value, monkeypatch):
    monkeypatch.delenv("TF_CPU_ALLOCATOR_USE_BFC", raising=False)
    if value:
        monkeypatch.setenv("TF_CPU_ALLOCATOR_USE_BFC", value)
    with terminal.suppress_native_stderr():
        assert os.environ["TF_CPU_ALLOCATOR_USE_BFC"] == (value or "1")


def test_log_gets_a_line_per_epoch(capfd):
    with TrainingProgress("seed 3", epochs=9, monitor="accuracy") as progress:
        progress.batch(1, 1, 4)
        progress.epoch(ROW)
        progress.batch(2, 4, 4)
    assert capfd.readouterr().out == "seed 3 epoch 2/9  loss 0.512  dev accuracy 81.46\n"
    for epochs, line in ((5, "seed 3 stopped early after epoch 5 of 9, best 2\n"), (9, "")):
        progress.end(epochs, best=2)
        assert capfd.readouterr().out == line


def test_terminal_shows_the_running_epoch_and_the_last_scores(screen):
    with TrainingProgress("seed 3", epochs=90, monitor="official_f1") as progress:
        progress.batch(20, 4, 400)
        progress.batch(20, 400, 400)
        progress.epoch({"epoch": 20, "loss": 0.51234, "dev_official_f1": 81.456})
    # one line of 80 columns
    last = lines_of(screen.getvalue())[-1]
    assert re.fullmatch(r"seed 3 \S+ 22% \S+ left epoch 21/90 loss 0.512 dev official_f1 81.46", last)


def test_terminal_shows_the_last_epoch_at_an_early_end(screen):
    with TrainingProgress("seed 3", epochs=90, monitor="official_f1") as progress:
        progress.epoch({"epoch": 20, "loss": 0.51234, "dev_official_f1": 81.456})
        progress.end(20, best=18)
    assert " epoch 20/90 loss 0.512 " in lines_of(screen.getvalue())[-1]


def test_bar_is_shown_on_a_terminal_alone(capfd, request):
    for screen in (None, "screen"):
        file = request.getfixturevalue(screen) if screen else None
        with progress_bar("reading", 10) as advance:
            advance(2)
            advance(3)
        assert capfd.readouterr() == ("", "")
        assert file is None or " 50% " in lines_of(file.getvalue())[-1]


LINE = "1/9  trial 0 complete [bold]70.00[/]  " + ", ".join(f"model.parameter_{number}={number}" for number in range(9))


def test_terminal_gets_whole_lines_above_the_bars(screen):
    with JobProgress() as progress:
        progress.update("trials", 0, 9, "best none yet")
        progress.log(LINE)
        progress.update("trials", 1, 9, "best [70.00], trial 0")
        progress.update("confirmations", 2, 5)
    shown = lines_of(screen.getvalue())
    assert " ".join(LINE.split()) in shown[:-2]
    assert re.fullmatch(r"trials \S+ 1/9 \S+ left best \[70.00\], trial 0", shown[-2])
    assert re.fullmatch(r"confirmations \S+ 2/5 \S+ left", shown[-1])
    # the cursor is there again
    assert screen.getvalue().endswith("\x1b[?25h")


def test_bars_of_a_large_sweep_fit_80_columns(screen):
    note = "best 100.00, trial 12345, 1000 pruned, 200 failed, new ones for 48 h"
    with JobProgress() as progress:
        progress.update("trials", 6200, 10_000, note)
        progress.update("confirmations", 0, 25)
    shown = " ".join(lines_of(screen.getvalue()))
    assert "…" not in shown
    assert [word for word in (*note.split(), "6200/10000") if f" {word} " not in shown] == []


def test_time_left_is_at_the_pace_of_this_start(monkeypatch):
    now, screen = [1000.0], io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, get_time=lambda: now[0])
    monkeypatch.setattr(terminal, "Console", lambda stderr: console)
    with JobProgress() as progress:
        for completed in (4, 6, 8):
            progress.update("trials", completed, 20)
            now[0] += 60 * (completed < 8)
    # four in two minutes, twelve to go
    assert " 8/20 0:06:00 left" in lines_of(screen.getvalue())[-1]


class Interrupted(io.StringIO):
    """Logs a line while one is being written, as a signal handler may."""

    progress: JobProgress | None = None

    def write(self, text: str) -> int:
        if "first" in text and self.progress:
            self.progress, progress = None, self.progress
            progress.log("second")
        return super().write(text)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_line_that_interrupts_another_follows_it(monkeypatch, is_terminal):
    file = Interrupted()
    monkeypatch.setattr(terminal, "Console", lambda stderr: Console(file=file, force_terminal=is_terminal, width=80))
    with JobProgress() as progress:
        progress.update("trials", 1, 9)
        file.progress = progress
        progress.log("first")
        progress.log(LINE)
    shown = [line for line in lines_of(file.getvalue()) if is_terminal is False or not line.startswith("trials ")]
    assert [line for line in shown if line] == ["first", "second", " ".join(LINE.split())]


def test_summary_is_one_line(capfd):
    terminal.print_summary("evaluate", {"words": 1234, "covered %": 98.765, "sd": "-"})
    assert capfd.readouterr().out == "evaluate: words 1234  covered % 98.77  sd -\n"


@pytest.mark.parametrize("columns", [20, 80])
def test_table_breaks_no_word(columns, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    rows = [{"name": "[glove]", "what": "word vectors of 822 MB", "score": "macro_f1_without_other"}]
    terminal.print_table(rows)
    assert set(" ".join(rows[0].values()).split()) <= set(capfd.readouterr().out.split())


@pytest.mark.parametrize(("is_terminal", "parent", "shown"), [(True, None, 1), (True, "sweep", 0), (False, None, 0)])
def test_silent_phase_is_named_on_a_terminal(is_terminal, parent, shown, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(file, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stderr", file)
    # workers share the terminal of their parent
    monkeypatch.setattr(terminal, "parent_process", lambda: parent)
    terminal.announce("loading TensorFlow")
    assert file.getvalue() == "loading TensorFlow ...\n" * shown


def test_loading_of_tensorflow_is_announced(monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    # before the import, which takes seconds
    monkeypatch.setattr(terminal, "announce", Mock(side_effect=InterruptedError))
    with pytest.raises(InterruptedError):
        terminal.start_tensorflow()
