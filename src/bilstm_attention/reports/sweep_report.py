"""The report of a sweep as a Markdown page, and its leaderboard as text."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bilstm_attention.reports.tables import markdown_table, mean_and_sd

ROWS = 10


def sweep_report(
    study: str, winner: str, tables: Mapping[str, pd.DataFrame], figures: Sequence[str], protocol: str
) -> str:
    """The page: the line of the winner, tables by heading but for empty ones, pictures, and how trials were made.

    `figures` are addresses relative to the page.
    """
    parts = [
        f"# Sweep {study}",
        winner,
        *(f"## {heading}\n\n{markdown_table(rows.map(_cell))}" for heading, rows in tables.items() if len(rows)),
        "\n".join(f"![{figure.rpartition('/')[2].removesuffix('.png')}]({figure})" for figure in figures),
        f"## Protocol\n\n{protocol}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def winner_line(score: str, leaderboard: pd.DataFrame, p: float | None) -> str:
    """The winner and how sure it is, in a few sentences of Markdown; `score` is for instance `dev accuracy`.

    The leaderboard and `p`, between the first two confirmed trials, are of `search.outcome.Outcome`.
    """
    complete = leaderboard.dropna(subset="score")
    if not len(complete):
        return "No trial is complete yet."
    first = complete.iloc[0]
    if pd.isna(first["confirmed_mean"]):
        return f"Trial {first['trial']}: {first['score']:.2f} {score} in the search, the best of many; not confirmed."
    seeds = len(first["by_seed"].split(", "))
    text = (
        f"**Trial {first['trial']}: {first['confirmed_mean']:.2f}**, the mean {score} over {seeds} fresh"
        f" seed{'s' * (seeds > 1)}; {first['score']:.2f} in the search, which is the best of many."
    )
    if p is None:
        return text
    return (
        f"{text} Against trial {complete.iloc[1]['trial']}, the second: p = {p:.3f} (paired approximate randomisation"
        " of the sentences, all seeds together, two-sided)."
    )


def fresh_seed_rows(leaderboard: pd.DataFrame) -> pd.DataFrame:
    """The confirmed trials: the score in the search, and the mean and each score over fresh seeds."""
    confirmed = leaderboard.dropna(subset="confirmed_mean")
    names = {"score": "search", "confirmed_mean": "confirmed", "by_seed": "by seed"}
    return confirmed.reindex(columns=["trial", *names]).rename(columns=names)


def leaderboard_rows(leaderboard: pd.DataFrame, parameters: Sequence[str], against: str | None = None) -> pd.DataFrame:
    """The first rows of a leaderboard as text, a column per parameter."""
    rows = []
    for row in leaderboard.head(ROWS).to_dict("records"):
        confirmed = {"mean": row["confirmed_mean"], "sd": row["confirmed_sd"]}
        second = {against: _cell(row[against]), "front": "yes" if row["on_front"] else "no"} if against else {}
        rows.append(
            {
                "trial": str(row["trial"]),
                "search": row["state"] if pd.isna(row["score"]) else f"{row['score']:.2f}",
                **second,
                "confirmed": "" if pd.isna(confirmed["mean"]) else mean_and_sd(confirmed),
                **{name: short_value(row[name]) for name in parameters},
            }
        )
    return pd.DataFrame(rows)


def shown_params(params: Mapping[str, Any]) -> str:
    """The parameters of a trial in one line."""
    return ", ".join(f"{key}={'none' if value is None else short_value(value)}" for key, value in params.items())


def short_value(value: Any) -> str:
    """A parameter's value, a number in four digits; empty: the trial does not have it."""
    return "" if pd.isna(value) else f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(value: Any) -> str:
    return "" if pd.isna(value) else f"{value:,.2f}".removesuffix(".00") if isinstance(value, float) else str(value)
