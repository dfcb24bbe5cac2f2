"""Tables of scores, for the terminal and for documents."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from bilstm_attention.overrides import flatten
from bilstm_attention.params import Params


def score_table(metrics: Mapping[str, Any]) -> Table:
    """The scores on test, a row per metric: the seeds' mean, sd and interval, their ensemble, the baselines.

    Args:
        metrics: the content of `metrics.json`, scores in percent.
    """
    seeds = next(iter(metrics["test"].values()))["by_seed"]
    several = len(seeds) > 1
    title = f"test scores in percent, {'mean ± sd over seeds' if several else 'seed'} {', '.join(seeds)}"
    models = [*(["ensemble"] if several else []), *(name.replace("_", "\n") for name in metrics["baselines"])]
    # narrow enough for 80 columns
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("metric")
    for name in ("model", "95 % interval", *models):
        table.add_column(name, justify="right", no_wrap=True)
    for name, summary in metrics["test"].items():
        others = ([metrics["ensemble"]] if several else []) + list(metrics["baselines"].values())
        scores = (f"{other[name]:.2f}" for other in others)
        table.add_row(name, _mean_and_sd(summary), _interval(summary), *scores)
    return table


def trial_line(trial: Any, ended: int, budget: int) -> str:
    """What became of a trial of a sweep, in one line."""
    state, reason = trial.state.name.lower(), trial.user_attrs.get("reason")
    outcome = f"{state} {trial.value:.2f}" if state == "complete" else f"{state} ({reason})" if reason else state
    values = ", ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
    return f"{ended}/{budget}  trial {trial.number} {outcome}  {values}"


def confirmation_line(job: Any) -> str:
    """That the parameters of a trial were trained with a fresh seed."""
    return f"trial {job.number} trained again with seed {job.seed}"


def leaderboard_table(leaderboard: pd.DataFrame, parameters: Sequence[str], rows: int = 10) -> Table:
    """The first rows of a leaderboard; `parameters` are those of the space."""
    table = Table(title="best trials, dev scores in percent", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("trial", "search", "confirmed"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("parameters")
    for row in leaderboard.head(rows).to_dict("records"):
        confirmed = {"mean": row["confirmed_mean"], "sd": None if pd.isna(row["confirmed_sd"]) else row["confirmed_sd"]}
        values = [f"{key}={_short(row[key])}" for key in parameters if not pd.isna(row[key])]
        table.add_row(
            str(row["trial"]),
            row["state"] if pd.isna(row["score"]) else f"{row['score']:.2f}",
            "" if pd.isna(confirmed["mean"]) else _mean_and_sd(confirmed),
            ", ".join(values),
        )
    return table


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def score_document(metrics: Mapping[str, Any], params: Params, made_with: str) -> str:
    """A Markdown page: protocol, scores of every seed on dev and test, ensemble, interval, baselines.

    Args:
        metrics: the content of `metrics.json`, scores in percent.
        params: what the scores were made with.
        made_with: date, code, machine and versions.
    """
    first, *others = metrics["test"]
    monitor = params.train.monitor
    summary, dev = metrics["test"][first], metrics["dev"]
    seeds = list(summary["by_seed"])
    lines = [
        f"Test scores in percent. The epoch is picked by {monitor} on dev; no choice was made by test.",
        "",
        _line("model", f"dev {monitor}", first, *others),
        _line(*["---"] * (len(others) + 3)),
    ]
    for seed in seeds:
        scores = [f"{metrics['test'][name]['by_seed'][seed]:.2f}" for name in metrics["test"]]
        lines.append(_line(f"seed {seed}", f"{dev[monitor]['by_seed'][seed]:.2f}", *scores))
    if len(seeds) > 1:
        means = [_mean_and_sd(metrics["test"][name]) for name in metrics["test"]]
        lines.append(_line("**mean ± sd**", _mean_and_sd(dev[monitor]), *means))
    lines.append(_line("95 % interval", "", *(_interval(metrics["test"][name]) for name in metrics["test"])))
    models = ({"ensemble": metrics["ensemble"]} if len(seeds) > 1 else {}) | metrics["baselines"]
    lines += [
        _line(model, "", *(f"{scores[name]:.2f}" for name in metrics["test"])) for model, scores in models.items()
    ]
    coverage = metrics["test_coverage"]
    lines += [
        "",
        f"Word vectors cover {coverage['tokens']:.2f} % of the tokens of test, {coverage['types']:.2f} % of its types.",
    ]
    usual = flatten(Params())
    changed = [f"`{name}={value}`" for name, value in flatten(params).items() if value != usual[name]]
    lines += ["", f"Parameters other than those of `params.yaml` as it comes: {', '.join(changed) or 'none'}."]
    return "\n".join([*lines, "", f"Made with {made_with}."])


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _mean_and_sd(summary: Mapping[str, Any]) -> str:
    return f"{summary['mean']:.2f}" if summary["sd"] is None else f"{summary['mean']:.2f} ± {summary['sd']:.2f}"


def _interval(summary: Mapping[str, Any]) -> str:
    return f"{summary['low']:.2f}–{summary['high']:.2f}"
