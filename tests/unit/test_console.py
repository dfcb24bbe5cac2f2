"""What a person sees: no chatter unless it explains a failure, a line per epoch in a log, one line at the end."""

import io
import math
import os
import pty
import re
import subprocess
import sys
import time
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bilstm_attention import console as terminal
from bilstm_attention.console import Pace, SweepProgress, TrainingProgress, closing, suppress_native_stderr

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


def test_what_a_library_writes_while_it_starts_is_kept_aside() -> None:
    assert errors_of(CHATTER.format(end="pass")) == ["after"]


def test_it_is_shown_when_the_start_fails() -> None:
    shown = errors_of(CHATTER.format(end="raise RuntimeError('no device')"))
    assert shown[:2] == ["chatter from C", "chatter from Python"]
    assert shown[-1] == "RuntimeError: no device"


def test_no_descriptor_is_left_open() -> None:
    with suppress_native_stderr():
        pass
    first = os.open(os.devnull, os.O_RDONLY)
    os.close(first)
    for _ in range(3):
        with suppress_native_stderr():
            pass
    again = os.open(os.devnull, os.O_RDONLY)
    os.close(again)
    assert again == first


def test_tensorflow_keeps_the_memory_of_gradients_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CPU_ALLOCATOR_USE_BFC", raising=False)
    with suppress_native_stderr():
        assert os.environ["TF_CPU_ALLOCATOR_USE_BFC"] == "1"
    monkeypatch.setenv("TF_CPU_ALLOCATOR_USE_BFC", "0")
    with suppress_native_stderr():
        assert os.environ["TF_CPU_ALLOCATOR_USE_BFC"] == "0"


def test_tensorflow_starts_without_a_word() -> None:
    code = "from bilstm_attention.console import start_tensorflow as start; start(); import tensorflow"
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


@given(
    before=st.integers(0, 50),
    done=st.integers(1, 50),
    rest=st.integers(1, 50),
    each=st.floats(0.1, 1e4),
    waited=st.floats(0, 1e5),
)
def test_the_time_left_is_that_of_the_rest_at_the_pace_of_this_start(
    before: int, done: int, rest: int, each: float, waited: float
) -> None:
    pace = Pace(before + done + rest, before, 100.0)
    assert pace.left(100.0 + waited) == math.inf
    for number in range(1, done + 1):
        pace.reached(before + number, 100.0 + number * each)
    now = 100.0 + done * each
    assert pace.left(now) == pytest.approx(rest * each)
    assert pace.left(now + waited) == pytest.approx(max(rest * each - waited, 0.0), abs=1e-6)
    pace.reached(before + done, now + waited)
    assert pace.left(now) == pytest.approx(rest * each)
    pace.reached(pace.total, now + waited)
    assert pace.left(now + waited) == 0.0


def test_nothing_is_left_of_work_that_an_earlier_start_did_whole_or_more_than_whole() -> None:
    assert [Pace(5, done, 0.0).left(9.0) for done in (4, 5, 6)] == [math.inf, 0.0, 0.0]


class Clock:
    """Says what it is told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def rows(progress: SweepProgress, width: int = 80) -> dict[str, str]:
    """What the region shows, by the word that each row begins with."""
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(progress.shown())
    lines = [line.strip(" │").split(maxsplit=1) for line in console.export_text().splitlines()[1:-1]]
    return {name: text.strip() for name, text in lines}


def counts(complete: int = 0, pruned: int = 0, failed: int = 0) -> dict[str, int]:
    return {"complete": complete, "pruned": pruned, "failed": failed, "running": 9, "waiting": 9}


def test_a_sweep_shows_what_became_of_its_trials_and_how_long_the_rest_will_take() -> None:
    clock = Clock()
    progress = SweepProgress("s", "accuracy", 20, clock=clock)
    assert rows(progress) == {"time": "0:00:00 elapsed, time left unknown"}
    progress.trial(counts(3, 1), "70.00, trial 2")
    clock.now += 60
    assert rows(progress) == {
        "trials": "4 of 20 ended: 3 complete, 1 pruned, 0 failed",
        "best": "70.00, trial 2",
        "time": "0:01:00 elapsed, time left unknown",
    }
    clock.now += 60
    progress.trial(counts(4, 2, 2), "71.00, trial 5")
    # four in two minutes, twelve to go
    assert rows(progress)["time"] == "0:02:00 elapsed, about 0:06:00 left"
    clock.now += 90
    assert rows(progress) == {
        "trials": "8 of 20 ended: 4 complete, 2 pruned, 2 failed",
        "best": "71.00, trial 5",
        "time": "0:03:30 elapsed, about 0:04:30 left",
    }


def test_confirmations_have_a_pace_of_their_own() -> None:
    clock = Clock()
    progress = SweepProgress("s", "accuracy", 2, seconds=1, clock=clock)
    progress.trial(counts(2), "70.00, trial 1")
    progress.confirmation(5, 15)
    shown = rows(progress)
    assert (shown["confirmed"], shown["time"]) == ("5 of 15 trainings", "0:00:00 elapsed, time left unknown")
    assert shown["trials"].startswith("2 of 2 ended")
    clock.now += 20
    progress.confirmation(7, 15)
    assert rows(progress)["confirmed"] == "7 of 15 trainings"
    # the limit of the trials, of one second, does not hold
    assert rows(progress)["time"] == "0:00:20 elapsed, about 0:01:20 left"


def test_the_time_left_is_never_more_than_the_limit() -> None:
    clock = Clock()
    progress = SweepProgress("s", "accuracy", 100, seconds=3600, clock=clock)
    progress.trial(counts(), "none yet")
    assert rows(progress)["time"] == "0:00:00 elapsed, up to 1:00:00 left"
    clock.now += 600
    progress.trial(counts(2), "70.00, trial 0")
    assert rows(progress)["time"] == "0:10:00 elapsed, up to 0:50:00 left"
    progress.trial(counts(50), "70.00, trial 0")
    assert rows(progress)["time"] == "0:10:00 elapsed, about 0:10:00 left"
    clock.now += 3600
    progress.trial(counts(51), "70.00, trial 0")
    assert rows(progress)["time"] == "1:10:00 elapsed, no new trial begins"


def test_the_region_of_a_large_sweep_fits_80_columns_line_by_line() -> None:
    clock = Clock()
    progress = SweepProgress("attention-and-units", "official_f1", 10_000, clock=clock)
    progress.trial(counts(5000, 1000, 200), "100.00, trial 12345")
    clock.now += 500_000
    progress.trial(counts(5001, 1000, 200), "100.00, trial 12345")
    assert set(rows(progress)) == {"trials", "best", "time"}
    assert rows(progress) == rows(progress, width=200)


def screen_of(monkeypatch: pytest.MonkeyPatch, file: io.StringIO) -> None:
    """Makes a file the terminal."""
    monkeypatch.setattr(terminal, "Console", lambda: Console(file=file, force_terminal=True, width=80))


def plain(text: str) -> list[str]:
    """The lines in the order they were written in, those written over others too."""
    return re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", text.replace("\r\x1b[2K", "\n")).splitlines()


LINE = "1/9  trial 0 complete [bold]70.00[/]  " + ", ".join(f"model.parameter_{number}={number}" for number in range(9))


def test_a_terminal_gets_whole_lines_with_the_region_below_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    screen_of(monkeypatch, file)
    with SweepProgress("s", "accuracy", 9) as progress:
        progress.trial(counts(), "none yet")
        progress.trial(counts(1), "70.00, trial 0", LINE)
    shown = plain(file.getvalue())
    assert LINE in shown
    last = max(number for number, line in enumerate(shown) if line.startswith("╭"))
    assert last > shown.index(LINE)
    assert shown[last].startswith("╭─ sweep s, dev accuracy ─")
    region = [" ".join(line.strip(" │").split()) for line in shown[last + 1 :]]
    # how long the rest would have taken is over
    assert region[:3] == [
        "trials 1 of 9 ended: 1 complete, 0 pruned, 0 failed",
        "best 70.00, trial 0",
        "time 0:00:00 elapsed",
    ]
    # the cursor is there again
    assert file.getvalue().endswith("\x1b[?25h")


def test_the_region_goes_on_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    file, seconds = io.StringIO(), count()
    screen_of(monkeypatch, file)
    with SweepProgress("s", "accuracy", 9, clock=lambda: next(seconds)):
        end = time.monotonic() + 10
        while len(set(re.findall(r"0:00:\d\d elapsed", file.getvalue()))) < 3:
            assert time.monotonic() < end, file.getvalue()
            time.sleep(0.05)


def test_a_log_gets_the_lines_of_a_sweep_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with SweepProgress("s", "accuracy", 9) as progress:
        progress.trial(counts(), "none yet")
        progress.trial(counts(1), "70.00, trial 0", LINE)
        progress.confirmation(0, 2)
        progress.confirmation(1, 2, "trial 0 trained again with seed 7")
        progress.line("stopping")
        assert capfd.readouterr().out == f"{LINE}\ntrial 0 trained again with seed 7\nstopping\n"
    assert capfd.readouterr().out == ""


class Interrupted(io.StringIO):
    """Has a line printed while one is being written, as a signal handler may."""

    progress: SweepProgress | None = None

    def write(self, text: str) -> int:
        if "first" in text and self.progress:
            self.progress, progress = None, self.progress
            progress.line("second")
        return super().write(text)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_line_that_interrupts_another_comes_after_it(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    file = Interrupted()
    if is_terminal:
        screen_of(monkeypatch, file)
    else:
        monkeypatch.setattr(sys, "stdout", file)
    with SweepProgress("s", "accuracy", 9) as progress:
        file.progress = progress
        progress.line("first")
        progress.line("third")
    shown = [line for line in plain(file.getvalue()) if line in ("first", "second", "third")]
    assert shown == ["first", "second", "third"]


CTRL_C = """
import signal, time
from bilstm_attention.console import SweepProgress

def stop(*_):
    global stopped
    progress.line("stopping soon")
    stopped = True

stopped = False
signal.signal(signal.SIGINT, stop)
with SweepProgress("s", "accuracy", 9) as progress:
    progress.trial({"complete": 1}, "70.00, trial 0", "a line")
    while not stopped:
        time.sleep(0.02)
print("after")
"""


def test_ctrl_c_in_a_real_terminal_is_answered_above_the_region() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    # in a session of its own, so that the terminal becomes the one that Ctrl-C comes from
    code = f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{CTRL_C}"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    written, pressed = b"", 0
    try:
        while b"after" not in written:
            written += os.read(ours, 4096)
            if b"a line" in written and not pressed:
                pressed = os.write(ours, b"\x03")
        assert child.wait(10) == 0
    finally:
        child.kill()
        child.wait()
        os.close(ours)
    shown = [line.strip() for line in plain(written.decode())]
    assert shown.index("a line") < shown.index("stopping soon") < shown.index("after")
    regions = [number for number, line in enumerate(shown) if line.startswith("╭")]
    assert shown.index("stopping soon") < regions[-1] < shown.index("after")
