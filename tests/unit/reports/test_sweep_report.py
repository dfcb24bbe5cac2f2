"""The report of a sweep says what was searched, what won, how sure that is, and what it cost."""

from typing import Any

import pandas as pd
import pytest

from bilstm_attention.reports.sweep_report import (
    fresh_seed_rows,
    leaderboard_rows,
    shown_params,
    sweep_report,
    winner_line,
)

UNITS, CLIP = "model.lstm_units", "train.clip_norm"


def make_board(**more: Any) -> pd.DataFrame:
    columns = {
        "trial": [4, 2, 7],
        "state": ["complete", "complete", "pruned"],
        "score": [70.0, 80.125, None],
        "confirmed_mean": [75.0, None, None],
        "confirmed_sd": [1.5, None, None],
        "by_seed": ["73.50, 76.50", None, None],
        UNITS: [5, None, 3],
        CLIP: ["none", 0.123456, 1.0],
    }
    return pd.DataFrame(columns | more, dtype=object)


def test_report_has_winner_tables_figures_and_protocol() -> None:
    tables = {
        "Best trials": leaderboard_rows(make_board(), [UNITS, CLIP]),
        "On fresh seeds": fresh_seed_rows(make_board()),
        "Importances": pd.DataFrame({"parameter": ["lstm_units"], "share": [0.75]}),
        "Empty": pd.DataFrame(),
    }
    winner = winner_line("dev official_f1", make_board(), 0.0312)
    text = sweep_report("s", winner, tables, ["figures/history.png"], "Three trials.")
    for part in (
        "# Sweep s",
        "**Trial 4: 75.00**, the mean dev official_f1 over 2 fresh seeds; 70.00 in the search",
        "Against trial 2, the second: p = 0.031",
        "![history](figures/history.png)",
        "Three trials.",
    ):
        assert part in text
    assert "Empty" not in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert ["4", "70.00", "75.00 ± 1.50", "5", "none"] in rows
    assert ["2", "80.12", "", "", "0.1235"] in rows
    assert ["7", "pruned", "", "3", "1"] in rows
    assert ["4", "70", "75", "73.50, 76.50"] in rows
    assert ["lstm_units", "0.75"] in rows


def test_winner_that_is_not_confirmed_is_called_so() -> None:
    board = make_board().iloc[[1, 2]]
    line = winner_line("dev accuracy", board, None)
    assert line == "Trial 2: 80.12 dev accuracy in the search, the best of many; not confirmed."
    assert "p =" not in winner_line("accuracy", make_board(), None)
    assert winner_line("accuracy", board[1:], None) == "No trial is complete yet."


def test_leaderboard_has_the_second_objective() -> None:
    board = make_board(latency_ms=[1.5, 2.0, None], on_front=[True, False, False])
    first = leaderboard_rows(board, [CLIP], "latency_ms").to_dict("records")[0]
    assert list(first.values()) == ["4", "70.00", "1.50", "yes", "75.00 ± 1.50", "none"]


@pytest.mark.parametrize(
    ("params", "line"),
    [({UNITS: 5, CLIP: None}, f"{UNITS}=5, {CLIP}=none"), ({CLIP: 0.0001234567}, f"{CLIP}=0.0001235"), ({}, "")],
)
def test_params_are_short(params: dict[str, Any], line: str) -> None:
    assert shown_params(params) == line
