"""The report of a sweep as a Markdown page, and the tables of the commands `sweep` and `sweeps`."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

ROWS = 10
STATES = {"complete": "trained to the end", "pruned": "pruned", "fail": "failed"}


def sweep_report(
    protocol: Mapping[str, Any],
    leaderboard: pd.DataFrame,
    confirmations: pd.DataFrame,
    p: float | None,
    importances: Mapping[str, float],
    figures: Sequence[str],
    command: str,
    made_with: str,
) -> str:
    """The page.

    Args:
        protocol: the content of the sweep's file, and of `states`, `changed`, `epoch`, `seconds`, `started`, `ended`.
        leaderboard: a row per trial, the best first; dev scores in percent.
        confirmations: a row per trial that was trained again: `trial`, `search`, `confirmed`, `drop`, and each seed.
        p: between the first two of these; None: there are fewer.
        importances: by parameter, shares of 1.
        figures: addresses of pictures, relative to the page.
        command: what runs the sweep.
        made_with: date, code, machine and versions.
    """
    rows = leaderboard_rows(leaderboard, list(protocol["space"]), protocol["against"])
    parts = [
        f"# Sweep {protocol['study']}",
        _protocol(protocol),
        f"```sh\n{command}\n```",
        winner_line(protocol["metric"], leaderboard, confirmations, p) or "No trial is complete yet.",
        f"## Best trials\n\n{_markdown(rows)}" if len(rows) else "",
        f"## On fresh seeds\n\n{_markdown(confirmations.map(_cell))}" if len(confirmations) else "",
        _importances(importances),
        "\n".join(f"![{figure.rpartition('/')[2].removesuffix('.png')}]({figure})" for figure in figures),
        f"{_times(protocol)}Made with {made_with}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def winner_line(metric: str, leaderboard: pd.DataFrame, confirmations: pd.DataFrame, p: float | None) -> str:
    """The winner and how sure it is, in a few sentences of Markdown; empty: no trial is complete."""
    if not len(confirmations):
        complete = leaderboard.dropna(subset="score") if len(leaderboard) else leaderboard
        if not len(complete):
            return ""
        first = complete.iloc[0]
        return (
            f"Trial {first['trial']}: {first['score']:.2f} dev {metric} in the search, the best of many; not confirmed."
        )
    first, seeds = confirmations.iloc[0], sum(str(name).startswith("seed ") for name in confirmations)
    text = (
        f"**Trial {first['trial']:.0f}: {first['confirmed']:.2f}**, the mean dev {metric} over {seeds} fresh"
        f" seed{'s' * (seeds > 1)}; {first['search']:.2f} in the search, which is the best of many."
    )
    if p is None:
        return text
    second = confirmations.iloc[1]["trial"]
    return (
        f"{text} Against trial {second:.0f}, the second: p = {p:.3f} (paired approximate randomisation on the dev"
        " sentences, all seeds together, two-sided)."
    )


def leaderboard_rows(leaderboard: pd.DataFrame, parameters: Sequence[str], against: str | None = None) -> pd.DataFrame:
    """The first rows of a leaderboard as text."""
    rows = []
    for row in leaderboard.head(ROWS).to_dict("records"):
        sd = "" if pd.isna(row["confirmed_sd"]) else f" ± {row['confirmed_sd']:.2f}"
        second = {against: _cell(row[against]), "front": "yes" if row["on_front"] else "no"} if against else {}
        rows.append(
            {
                "trial": str(row["trial"]),
                "search": row["state"] if pd.isna(row["score"]) else f"{row['score']:.2f}",
                **second,
                "confirmed": "" if pd.isna(row["confirmed_mean"]) else f"{row['confirmed_mean']:.2f}{sd}",
                **{name: short_value(row[name]) for name in parameters},
            }
        )
    return pd.DataFrame(rows)


def leaderboard_table(leaderboard: pd.DataFrame, parameters: Sequence[str], against: str | None = None) -> Table:
    """The first rows of a leaderboard for the terminal, with all parameters in one column."""
    rows = leaderboard_rows(leaderboard, parameters, against)
    title = f"best trials, {'the Pareto front first, ' if against else ''}dev scores in percent"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    scores = [name for name in rows if name not in parameters]
    for name in scores:
        table.add_column(str(name), justify="right", no_wrap=True)
    table.add_column("parameters")
    for row in rows.to_dict("records"):
        values = ", ".join(f"{name}={row[name]}" for name in parameters if row[name])
        table.add_row(*(row[name] for name in scores), values)
    return table


def studies_table(studies: Sequence[Mapping[str, Any]]) -> Table:
    """A row per study: `study`, `trials`, `best` and `started`."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, leading=1)
    for name in ("study", "trials", "best", "started"):
        table.add_column(name, overflow="fold")
    for study in studies:
        table.add_row(*(str(study[name]) for name in ("study", "trials", "best", "started")))
    return table


def shown_params(params: Mapping[str, Any]) -> str:
    """The parameters of a trial in one line."""
    return ", ".join(f"{key}={'none' if value is None else short_value(value)}" for key, value in params.items())


def short_value(value: Any) -> str:
    """A parameter's value, a number in four digits; empty: the trial does not have it."""
    return "" if pd.isna(value) else f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(value: Any) -> str:
    return "" if pd.isna(value) else f"{value:,.2f}".removesuffix(".00") if isinstance(value, float) else str(value)


def _markdown(rows: pd.DataFrame) -> str:
    # as text, or tabulate would write 0.10 as 0.1
    return rows.to_markdown(index=False, disable_numparse=True)


def _protocol(protocol: Mapping[str, Any]) -> str:
    states, sampler = protocol["states"], protocol["sampler"]
    counts = ", ".join(f"{states[state]} {text}" for state, text in STATES.items() if states[state])
    against = f" against {protocol['against']}" if protocol["against"] else ""
    changed = ", ".join(f"`{key}={value}`" for key, value in protocol["changed"].items()) or "none"
    return "\n".join(
        [
            f"Searched for dev {protocol['metric']}{against} with {sampler['kind']} (seed {sampler['seed']}), pruner"
            f" {protocol['pruner']['kind']}: {sum(states.values())} trials, {counts or 'none'}. Each trial has a seed"
            f" of its own; its score is that of its {protocol['epoch']} epoch **on dev**. Test was not opened. Space:",
            "",
            *(f"- `{key}`: {_values(values)}" for key, values in protocol["space"].items()),
            "",
            f"Other parameters that differ from the defaults: {changed}.",
        ]
    )


def _values(values: Any) -> str:
    if not isinstance(values, Mapping):
        return ", ".join(map(str, values)) if isinstance(values, list) else str(values)
    conditions = "; ".join(f"{key} {_values(value)}" for key, value in values.get("when", {}).items())
    if "values" in values:
        text = _values(values["values"])
    else:
        text = f"{values['low']} to {values['high']}"
        text += f" in steps of {values['step']}" if values.get("step") else ""
        text += ", logarithmic" if values.get("log") else ""
    return f"{text} (when {conditions})" if conditions else text


def _importances(importances: Mapping[str, float]) -> str:
    if not importances:
        return ""
    rows = pd.DataFrame({"parameter": importances.keys(), "share": [f"{share:.2f}" for share in importances.values()]})
    text = "Shares of 1, over the complete trials: what sets the best apart from the rest (PED-ANOVA)."
    return f"## Importances\n\n{text}\n\n{_markdown(rows)}"


def _times(protocol: Mapping[str, Any]) -> str:
    if not protocol["started"] or not protocol["ended"]:
        return ""
    training = timedelta(seconds=round(protocol["seconds"]))
    return (
        f"The trials began {protocol['started']:%Y-%m-%d %H:%M} and ended {protocol['ended']:%Y-%m-%d %H:%M}, with"
        f" {training} of training in all workers together. "
    )
