"""The report of a sweep says what was searched, what won, how sure that is, and what it cost."""

import io
from datetime import datetime
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from bilstm_attention.reports.sweep_report import (
    leaderboard_table,
    shown_params,
    studies_table,
    sweep_report,
    winner_line,
)

UNITS, CLIP = "model.lstm_units", "train.clip_norm"
PROTOCOL: dict[str, Any] = {
    **{"study": "s", "metric": "official_f1", "against": None, "epoch": "best", "seconds": 3725.0},
    **{"sampler": {"kind": "tpe", "seed": 3}, "pruner": {"kind": "median"}, "changed": {"train.epochs": 4}},
    "space": {UNITS: {"low": 1, "high": 9, "step": 2, "when": {"model.merge": ["sum", "max"]}}, CLIP: [None, 1.0]},
    "states": {"complete": 2, "pruned": 1, "fail": 0},
    **{"started": datetime(2026, 1, 2, 3, 4), "ended": datetime(2026, 1, 2, 5, 6)},
}


def make_board(**more: Any) -> pd.DataFrame:
    columns = {
        "trial": [4, 2, 7],
        "state": ["complete", "complete", "pruned"],
        "score": [70.0, 80.125, None],
        "confirmed_mean": [75.0, None, None],
        "confirmed_sd": [1.5, None, None],
        UNITS: [5, None, 3],
        CLIP: ["none", 0.123456, 1.0],
    }
    return pd.DataFrame(columns | more, dtype=object)


CONFIRMED = pd.DataFrame({"trial": [4, 2], "search": [70.0, 80.0], "confirmed": [75.0, 74.0], "seed 11": [75.0, 74.0]})


def report(**changes: Any) -> str:
    arguments: dict[str, Any] = {
        "protocol": PROTOCOL,
        "leaderboard": make_board(),
        "confirmations": CONFIRMED,
        "p": 0.0312,
        "importances": {"lstm_units": 0.75, "clip_norm": 0.25},
        "figures": ["figures/history.png"],
        "command": "bilstm-attention sweep s.yaml",
        "made_with": "a machine",
    }
    return sweep_report(**{**arguments, **changes})


def test_report_has_protocol_winner_tables_and_figures() -> None:
    text = report()
    for part in (
        "# Sweep s",
        "dev official_f1 with tpe (seed 3), pruner median: 3 trials, 2 trained to the end, 1 pruned.",
        f"- `{UNITS}`: 1 to 9 in steps of 2 (when model.merge sum, max)",
        f"- `{CLIP}`: None, 1.0",
        "differ from the defaults: `train.epochs=4`.",
        "```sh\nbilstm-attention sweep s.yaml\n```",
        "**Trial 4: 75.00**, the mean dev official_f1 over 1 fresh seed; 70.00 in the search",
        "Against trial 2, the second: p = 0.031",
        "![history](figures/history.png)",
        "2026-01-02 03:04 and ended 2026-01-02 05:06, with 1:02:05 of training",
        "Made with a machine.",
    ):
        assert part in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert ["4", "70.00", "75.00 ± 1.50", "5", "none"] in rows
    assert ["2", "80.12", "", "", "0.1235"] in rows
    assert ["7", "pruned", "", "3", "1"] in rows
    assert ["4", "70", "75", "75"] in rows
    assert ["lstm_units", "0.75"] in rows


def test_report_of_an_empty_study_says_so() -> None:
    empty = {"leaderboard": pd.DataFrame(), "confirmations": pd.DataFrame(), "p": None, "importances": {}}
    text = report(
        **empty, figures=[], protocol=PROTOCOL | {"started": None, "states": dict.fromkeys(PROTOCOL["states"], 0)}
    )
    assert "No trial is complete yet." in text
    assert "0 trials, none" in text
    assert "##" not in text


def test_winner_that_is_not_confirmed_is_called_so() -> None:
    board = make_board().iloc[[1, 2]]
    line = winner_line("accuracy", board, pd.DataFrame(), None)
    assert line == "Trial 2: 80.12 dev accuracy in the search, the best of many; not confirmed."
    assert "p =" not in winner_line("accuracy", board, CONFIRMED, None)


def test_leaderboard_fits_80_columns_and_shows_the_second_objective() -> None:
    board = make_board(latency_ms=[1.5, 2.0, None], on_front=[True, False, False])
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(leaderboard_table(board, [UNITS, CLIP], "latency_ms"))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for part in ("latency_ms", "1.50", "yes", "75.00 ± 1.50", "train.clip_norm=none", "Pareto front first"):
        assert part in text


def test_studies_table_has_a_row_per_study() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(studies_table([{"study": "s", "trials": "3 complete", "best": "80.00, trial 2", "started": "now"}]))
    assert "3 complete" in console.export_text()


@pytest.mark.parametrize(
    ("params", "line"),
    [({UNITS: 5, CLIP: None}, f"{UNITS}=5, {CLIP}=none"), ({CLIP: 0.0001234567}, f"{CLIP}=0.0001235"), ({}, "")],
)
def test_params_are_short(params: dict[str, Any], line: str) -> None:
    assert shown_params(params) == line
