"""What a sweep found as a Markdown page: protocol, the best confirmed, what decided, what it cost."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import optuna
import pandas as pd

from bilstm_attention.config import Params, flatten
from bilstm_attention.reports.tables import markdown_row, short_cost, short_value
from bilstm_attention.search.outcome import Outcome
from bilstm_attention.search.study import SweepSpec, counted
from bilstm_attention.search.sweep import confirmation_seeds
from bilstm_attention.search.trials import FOUND, confirmation

ROWS = 10


def sweep_report(
    definition: SweepSpec,
    study: optuna.Study,
    found: Outcome,
    importances: Mapping[str, Mapping[str, float]],
    figures: Sequence[str],
    command: str,
    made_with: str,
) -> str:
    """The page.

    Args:
        definition: the sweep.
        study: its study.
        found: its outcome.
        importances: by evaluator and parameter, shares that sum to 1.
        figures: addresses of pictures, relative to the page.
        command: what runs the sweep.
        made_with: date, code, machine and versions.
    """
    sweep = definition.sweep
    parts = [
        f"# Sweep {sweep.study}",
        _protocol(definition, study),
        f"```sh\n{command}\n```",
        _winner(definition, found),
        f"## The best\n\n{_leaderboard(definition, found.leaderboard)}",
        _confirmations(definition, study, found),
        _importances(importances),
        "\n".join(
            f"![{figure.rpartition('/')[2].removesuffix('.png').replace('_', ' ')}]({figure})" for figure in figures
        ),
        f"{_cost(study)} Made with {made_with}.".strip(),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _protocol(definition: SweepSpec, study: optuna.Study) -> str:
    sweep, states = definition.sweep, Counter(trial.state.name.lower() for trial in counted(study))
    usual, base = flatten(Params()), flatten(definition.space.base)
    changed = [f"`{key}={value}`" for key, value in base.items() if value != usual[key] and key not in sweep.space]
    tried = [f"- `{key}`: {_tried(given)}" for key, given in sweep.space.items()]
    epoch = "best" if definition.space.base.train.restore_best_weights else "last"
    against = f" against {sweep.against}" if sweep.against else ""
    outcome = ", ".join(f"{states[name]} {shown}" for name, shown in _STATES.items() if states[name])
    return "\n".join(
        [
            f"Searched for dev {sweep.metric}{against} with {sweep.sampler.kind} (seed {sweep.sampler.seed}), pruner"
            f" {sweep.pruner.kind}: {states.total()} trials, {outcome}. Each trial has a seed of its own; its score is"
            f" that of its {epoch} epoch **on dev**. Test was not opened. Tried:",
            "",
            *tried,
            "",
            f"The same in all trials, where other than `params.yaml` as it comes: {', '.join(changed) or 'nothing'}.",
        ]
    )


_STATES = {"complete": "trained to the end", "pruned": "given up early", "fail": "failed"}


def _tried(given: Any) -> str:
    if isinstance(given, list):
        return ", ".join(map(str, given))
    conditions = given.get("when", {}).items()
    when = "; ".join(f"{key} {_tried(value if isinstance(value, list) else [value])}" for key, value in conditions)
    values = (
        ", ".join(map(str, given["values"]))
        if "values" in given
        else f"{given['low']} to {given['high']}"
        + (f" in steps of {given['step']}" if given.get("step") else "")
        + (", logarithmic" if given.get("log") else "")
    )
    return f"{values}{f' (when {when})' if when else ''}"


def _winner(definition: SweepSpec, found: Outcome) -> str:
    if not found.finalists:
        return "No trial has ended well yet."
    first, metric, seeds = found.finalists[0], definition.sweep.metric, found.finalists[0].params.train.seeds
    if not first.confirmed:
        return f"The best is trial {first.number}, dev {metric} {first.score:.2f}: of many, so too high."
    drop = first.searched - first.score
    text = (
        f"**Trial {first.number}: {first.score:.2f}**, the mean dev {metric} of {len(seeds)} fresh"
        f" seed{'s' * (len(seeds) > 1)}. In the search it had {first.searched:.2f}, {abs(drop):.2f}"
        f" {'more' if drop >= 0 else 'less'}: the best of many is as a rule too high."
    )
    if found.p is None:
        return text
    return (
        f"{text} Against trial {found.finalists[1].number}, the second: p = {found.p:.3f} (paired approximate"
        " randomisation on the dev sentences, all seeds together, two-sided)."
    )


def _leaderboard(definition: SweepSpec, leaderboard: pd.DataFrame) -> str:
    names = [dimension.key for dimension in definition.space.dimensions]
    against = definition.sweep.against
    second = [against, "front"] if against else []
    lines = [markdown_row("trial", "search", *second, "confirmed", *names)]
    lines.append(markdown_row(*["---"] * (len(names) + len(second) + 3)))
    for row in leaderboard.head(ROWS).to_dict("records"):
        confirmed = "" if pd.isna(row["confirmed_mean"]) else f"{row['confirmed_mean']:.2f}"
        if confirmed and not pd.isna(row["confirmed_sd"]):
            confirmed += f" ± {row['confirmed_sd']:.2f}"
        score = row["state"] if pd.isna(row["score"]) else f"{row['score']:.2f}"
        values = ["" if pd.isna(row[name]) else short_value(row[name]) for name in names]
        costs = [short_cost(row[against])] if against else []
        front = ["yes" if row["on_front"] else "no"] if against else []
        lines.append(markdown_row(str(row["trial"]), score, *costs, *front, confirmed, *values))
    return "\n".join(lines)


def _confirmations(definition: SweepSpec, study: optuna.Study, found: Outcome) -> str:
    seeds, metric, known = confirmation_seeds(definition), definition.sweep.metric, study.user_attrs
    rows, failed = [], []
    for finalist in found.finalists:
        given = {seed: known.get(confirmation(finalist.number, seed), {}) for seed in seeds}
        failed += [
            f"- trial {finalist.number} with seed {seed} failed, so that the trial is not confirmed: {each['reason']}"
            for seed, each in given.items()
            if "reason" in each
        ]
        if finalist.confirmed:
            drop = finalist.searched - finalist.score
            scores = (finalist.searched, finalist.score, drop, *(each["dev"][metric] for each in given.values()))
            rows.append(markdown_row(str(finalist.number), *(f"{score:.2f}" for score in scores)))
    if rows:
        head = markdown_row("trial", "search", "confirmed", "drop", *(f"seed {seed}" for seed in seeds))
        rows = [head, markdown_row(*["---"] * (4 + len(seeds))), *rows]
    parts = ["\n".join(part) for part in (rows, failed) if part]
    return "\n\n".join(["## On fresh seeds", *parts]) if parts else ""


def _importances(importances: Mapping[str, Mapping[str, float]]) -> str:
    if not importances:
        return ""
    first = next(iter(importances.values()))
    names = [*first, *sorted({name for shares in importances.values() for name in shares} - set(first))]
    lines = [markdown_row("parameter", *importances), markdown_row(*["---"] * (1 + len(importances)))]
    for name in names:
        shares = (values.get(name) for values in importances.values())
        lines.append(markdown_row(f"`{name}`", *("" if share is None else f"{share:.2f}" for share in shares)))
    text = (
        "Shares of 1, over the trials that were trained to the end. PED-ANOVA: what sets the best apart from the rest;"
        " fANOVA: what explains the scores, over the parameters that every trial has."
    )
    return "\n".join(["## What decided", "", text, "", *lines])


def _cost(study: optuna.Study) -> str:
    ended = counted(study)
    if not ended:
        return ""
    trials = sum(trial.user_attrs.get(FOUND, {}).get("seconds", 0.0) for trial in ended)
    confirmed = sum(value.get("seconds", 0.0) for key, value in study.user_attrs.items() if " with seed " in key)
    began = min(trial.datetime_start for trial in ended if trial.datetime_start)
    last = max(trial.datetime_complete for trial in ended if trial.datetime_complete)
    return (
        f"The trials began {began:%Y-%m-%d %H:%M} and ended {last:%Y-%m-%d %H:%M}; they took {_hours(trials)} of"
        f" training, all workers together, and the confirmations {_hours(confirmed)}."
    )


def _hours(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
