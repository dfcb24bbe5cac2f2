import io
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from optuna.trial import TrialState
from rich.console import Console

from bilstm_attention.config import Params, with_overrides
from bilstm_attention.reports.tables import (
    best_line,
    confirmation_line,
    leaderboard_table,
    score_document,
    score_table,
    studies_table,
    trial_line,
)
from bilstm_attention.search.studies import StudyRow
from bilstm_attention.search.trials import Job


def metrics(seeds: dict[str, float]) -> dict:
    values = list(seeds.values())
    sd = None if len(values) == 1 else 1.5
    summary = {"mean": sum(values) / len(values), "sd": sd, "low": 70.123, "high": 80.456, "by_seed": seeds}
    return {
        "test": {"official_f1": summary, "accuracy": {**summary, "mean": 33.333}},
        "dev": {"official_f1": {"mean": 78.25, "sd": sd, "by_seed": dict.fromkeys(seeds, 78.25)}},
        "ensemble": {"official_f1": 81.119, "accuracy": 82.0},
        "baselines": {"majority": {"official_f1": 0.0, "accuracy": 16.71}},
        "test_coverage": {"types": 95.5, "tokens": 98.765},
    }


def shown(scores: dict) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(score_table(scores))
    return console.export_text()


def test_the_table_of_one_seed_has_neither_spread_nor_ensemble() -> None:
    text = shown(metrics({"0": 75.5}))
    assert "75.50 " in text
    assert "±" not in text
    assert "ensemble" not in text
    assert "70.12–80.46" in text
    assert "16.71" in text


def test_the_table_of_several_seeds_shows_mean_spread_and_ensemble_in_80_columns() -> None:
    text = shown(metrics({"0": 75.5, "3": 76.5}))
    assert "76.00 ± 1.50" in text
    assert "81.12" in text
    assert "seeds 0, 3" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_document_shows_every_seed_and_how_it_was_made() -> None:
    last = with_overrides(Params(), {"train.restore_best_weights": False})
    assert "in percent. The last epoch is kept; no choice" in score_document(metrics({"0": 75.5}), last, "a machine")
    lines = score_document(metrics({"0": 75.5, "3": 76.5}), Params(), "a machine").splitlines()
    assert "| seed 3 | 78.25 | 76.50 | 76.50 |" in lines
    assert "| **mean ± sd** | 78.25 ± 1.50 | 76.00 ± 1.50 | 33.33 ± 1.50 |" in lines
    assert "| ensemble |  | 81.12 | 82.00 |" in lines
    assert "| majority |  | 0.00 | 16.71 |" in lines
    assert lines[-1] == "Made with a machine."
    assert any(line.endswith("as it comes: none.") for line in lines)
    assert any("98.76 % of the tokens" in line or "98.77 % of the tokens" in line for line in lines)
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1


@pytest.mark.parametrize(
    ("state", "values", "reason", "outcome"),
    [
        ("COMPLETE", [75.128], None, "complete 75.13"),
        ("COMPLETE", [75.128, 3.14159], None, "complete 75.13, 3.14"),
        ("COMPLETE", [75.128, 1234567.0], None, "complete 75.13, 1,234,567"),
        # the score at which it was given up is none of its own
        ("PRUNED", [12.0], None, "pruned"),
        ("FAIL", None, "the loss is nan", "fail (the loss is nan)"),
    ],
)
def test_the_line_of_a_trial_says_what_became_of_it(
    state: str, values: list[float] | None, reason: str | None, outcome: str
) -> None:
    params = {"model.lstm_units": 100, "train.learning_rate": 0.00123456, "train.clip_norm": None}
    trial = SimpleNamespace(
        number=4, state=TrialState[state], values=values, params=params, user_attrs={"reason": reason} if reason else {}
    )
    tried = "model.lstm_units=100, train.learning_rate=0.001235, train.clip_norm=none"
    assert trial_line(trial, 3, 50) == f"3/50  trial 4 {outcome}  {tried}"


def test_the_best_so_far_is_a_score_with_its_trial_or_a_front() -> None:
    one, other = SimpleNamespace(number=4, values=[75.128]), SimpleNamespace(number=5, values=[75.1, 3.5])
    assert best_line([]) == "none yet"
    assert best_line([one]) == "75.13, trial 4"
    assert best_line([other]) == "1 on the Pareto front"
    assert best_line([other, other]) == "2 on the Pareto front"


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ({"dev": {"accuracy": 70.0}}, "trial 7 trained again with seed 123"),
        ({"reason": "no room"}, "trial 7 with seed 123 failed (no room), so that the trial is not confirmed"),
        (None, "trial 7 with seed 123: the worker died; the next start trains it"),
    ],
)
def test_the_line_of_a_confirmation_says_what_became_of_it(found: dict[str, Any] | None, line: str) -> None:
    assert confirmation_line(Job(number=7, seed=123), found) == line


def leaderboard(board: pd.DataFrame, **more: Any) -> list[list[str]]:
    """The cells of each row."""
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(leaderboard_table(board, ["model.lstm_units", "model.attention.hops", "model.merge"], **more))
    lines = console.export_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("─") or " ──" in line)
    return [line.split() for line in lines[start + 1 :] if line.strip()]


BOARD = pd.DataFrame(
    {
        "trial": [4, 1, 3, 0, 2],
        "state": ["complete"] * 3 + ["pruned", "fail"],
        "score": [85.0, 90.0, 80.128, None, None],
        "confirmed_mean": [78.0, 71.0, None, None, None],
        "confirmed_sd": [2.828, None, None, None, None],
        "model.lstm_units": [50, 20, 40, 10, 30],
        "model.attention.hops": [3, None, None, 2, None],
        "model.merge": ["sum", "concat", "sum", "sum", None],
    }
)


def test_the_leaderboard_shows_search_confirmation_and_the_parameters_that_were_tried() -> None:
    assert leaderboard(BOARD) == [
        ["4", "85.00", "78.00", "±", "2.83", "model.lstm_units=50,", "model.attention.hops=3,", "model.merge=sum"],
        ["1", "90.00", "71.00", "model.lstm_units=20,", "model.merge=concat"],
        ["3", "80.13", "model.lstm_units=40,", "model.merge=sum"],
        ["0", "pruned", "model.lstm_units=10,", "model.attention.hops=2,", "model.merge=sum"],
        ["2", "fail", "model.lstm_units=30"],
    ]


def test_the_leaderboard_shows_the_first_rows_alone() -> None:
    assert [row[0] for row in leaderboard(BOARD, rows=2)] == ["4", "1"]
    assert len(leaderboard(pd.concat([BOARD] * 4))) == 10


def test_the_leaderboard_of_two_objectives_shows_the_second() -> None:
    board = BOARD.assign(latency_ms=[1.234, 5.0, 1234.5, None, None])
    assert [row[:3] for row in leaderboard(board, against="latency_ms")] == [
        ["4", "85.00", "1.23"],
        ["1", "90.00", "5"],
        ["3", "80.13", "1,234.50"],
        ["0", "pruned", "model.lstm_units=10,"],
        ["2", "fail", "model.lstm_units=30"],
    ]


def test_the_leaderboard_of_nothing_is_empty() -> None:
    assert leaderboard(pd.DataFrame()) == []


@pytest.mark.parametrize("dtype", [object, None])
def test_a_parameter_tried_as_none_is_told_from_one_that_was_not_tried(dtype: type | None, tmp_path: Path) -> None:
    board = BOARD.head(3).assign(**{"model.attention.hops": pd.Series(["none", 3, None], dtype=dtype)})
    assert [row[-2] for row in leaderboard(board)] == [
        "model.attention.hops=none,",
        "model.attention.hops=3,",
        "model.lstm_units=40,",
    ]
    board.to_csv(tmp_path / "leaderboard.csv", index=False)
    again = pd.read_csv(tmp_path / "leaderboard.csv")["model.attention.hops"]
    assert again.fillna("not tried").tolist() == ["none", "3", "not tried"]


def listed(studies: Sequence[StudyRow], width: int = 80) -> list[str]:
    """The lines below the head."""
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(studies_table(studies))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert max(map(len, lines)) <= width
    return [line.strip() for line in lines[next(n for n, line in enumerate(lines) if "──" in line) + 1 :]]


BEGUN, ACTIVE = datetime(2026, 1, 2, 3, 4, 5), datetime(2026, 1, 3, 12)


def test_a_list_of_studies_says_how_far_each_is_and_what_runs_now() -> None:
    best = SimpleNamespace(number=9, values=[75.128])
    counts = {"complete": 12, "pruned": 5, "failed": 0, "running": 2, "waiting": 0}
    lines = listed(
        [
            StudyRow("attention", counts, ("official_f1",), (best,), BEGUN, ACTIVE, named=True, runs=True),
            StudyRow("begun", dict.fromkeys(counts, 0), ("accuracy", "latency_ms"), runs=None),
        ]
    )
    assert [line.split() for line in lines] == [
        ["attention", "12", "complete", "official_f1", "2026-01-02", "03:04"],
        ["runs", "now", "5", "pruned", "75.13,", "trial", "9", "2026-01-03", "12:00"],
        ["2", "running", "in", "best.yaml"],
        [],
        ["begun", "none", "accuracy"],
        ["none", "yet"],
        [],
    ]


def test_a_study_that_cannot_be_read_is_listed_with_its_fault_as_it_is_written() -> None:
    lines = listed([StudyRow("q" * 60, fault="journal.log:17: [bold]not[/bold] JSON " + "x" * 60, active=ACTIVE)])
    text = "".join("".join(lines).split())
    assert "[bold]not[/bold]" in text
    assert (text.count("q"), text.count("x")) == (60, 60)
    assert "2026-01-0312:00" in text
