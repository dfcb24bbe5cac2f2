"""Tables of scores, for the terminal and for documents."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from bilstm_attention.config import Params, flatten

if TYPE_CHECKING:
    from bilstm_attention.search.studies import StudyRow


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
    outcome = f"{state} {_scores(trial)}" if state == "complete" else f"{state} ({reason})" if reason else state
    values = ", ".join(f"{key}={short_value(value)}" for key, value in trial.params.items())
    return f"{ended}/{budget}  trial {trial.number} {outcome}  {values}"


def best_line(best: Sequence[Any]) -> str:
    """The best trial so far; of two objectives, how many trials are on the Pareto front."""
    if not best:
        return "none yet"
    several = len(best[0].values) > 1
    return f"{len(best)} on the Pareto front" if several else f"{_scores(best[0])}, trial {best[0].number}"


def confirmation_line(job: Any, found: Mapping[str, Any] | None) -> str:
    """What became of training the parameters of a trial with a fresh seed; `found` is None if its worker died."""
    if found is None:
        return f"trial {job.number} with seed {job.seed}: the worker died; the next start trains it"
    if "reason" in found:
        return f"trial {job.number} with seed {job.seed} failed ({found['reason']}), so that the trial is not confirmed"
    return f"trial {job.number} trained again with seed {job.seed}"


def leaderboard_table(
    leaderboard: pd.DataFrame, parameters: Sequence[str], against: str | None = None, rows: int = 10
) -> Table:
    """The first rows of a leaderboard; `parameters` are those of the space, `against` its second objective.

    A parameter that a trial did not have is missing in its row; one that it had as None is `"none"` there.
    """
    title = f"best trials, {'the Pareto front first, ' if against else ''}dev scores in percent"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("trial", "search", *([against] if against else []), "confirmed"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("parameters")
    for row in leaderboard.head(rows).to_dict("records"):
        confirmed = {"mean": row["confirmed_mean"], "sd": None if pd.isna(row["confirmed_sd"]) else row["confirmed_sd"]}
        values = [f"{key}={short_value(row[key])}" for key in parameters if not pd.isna(row[key])]
        table.add_row(
            str(row["trial"]),
            row["state"] if pd.isna(row["score"]) else f"{row['score']:.2f}",
            *([short_cost(row[against])] if against else []),
            "" if pd.isna(confirmed["mean"]) else _mean_and_sd(confirmed),
            ", ".join(values),
        )
    return table


def studies_table(studies: "Sequence[StudyRow]") -> Table:
    """What studies there are, how far each is, and whether it runs."""
    title = "studies, best dev scores of the search"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, leading=1)
    table.add_column("study", overflow="fold")
    table.add_column("trials", overflow="fold")
    table.add_column("best")
    table.add_column("begun,\nlast active", no_wrap=True)
    for study in studies:
        name = [escape(study.name), *(["[green]runs now[/]"] if study.runs else [])]
        trials = [f"{count} {state}" for state, count in study.counts.items() if count] or ["none"]
        best = [*study.metrics[:1], best_line(study.best), *(["in best.yaml"] if study.named else [])]
        times = [_minute(time) for time in (study.begun, study.active) if time]
        cells = [f"[red]{escape(study.fault)}[/]", ""] if study.fault else ["\n".join(trials), "\n".join(best)]
        table.add_row("\n".join(name), *cells, "\n".join(times))
    return table


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"


def _scores(trial: Any) -> str:
    """The dev score of a trial and, where it has a second objective, that."""
    score, *others = trial.values
    return ", ".join([f"{score:.2f}", *map(short_cost, others)])


def short_cost(value: Any) -> str:
    """A second objective, milliseconds or a count; empty where a trial has none."""
    return "" if pd.isna(value) else f"{value:,.2f}".removesuffix(".00")


def short_value(value: Any) -> str:
    """A parameter's value, a number in four digits."""
    # pandas would read None and null from a file as missing
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


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
    epoch = (
        f"The epoch is picked by {monitor} on dev" if params.train.restore_best_weights else "The last epoch is kept"
    )
    lines = [
        f"Test scores in percent. {epoch}; no choice was made by test.",
        "",
        markdown_row("model", f"dev {monitor}", first, *others),
        markdown_row(*["---"] * (len(others) + 3)),
    ]
    for seed in seeds:
        scores = [f"{metrics['test'][name]['by_seed'][seed]:.2f}" for name in metrics["test"]]
        lines.append(markdown_row(f"seed {seed}", f"{dev[monitor]['by_seed'][seed]:.2f}", *scores))
    if len(seeds) > 1:
        means = [_mean_and_sd(metrics["test"][name]) for name in metrics["test"]]
        lines.append(markdown_row("**mean ± sd**", _mean_and_sd(dev[monitor]), *means))
    lines.append(markdown_row("95 % interval", "", *(_interval(metrics["test"][name]) for name in metrics["test"])))
    models = ({"ensemble": metrics["ensemble"]} if len(seeds) > 1 else {}) | metrics["baselines"]
    lines += [
        markdown_row(model, "", *(f"{scores[name]:.2f}" for name in metrics["test"]))
        for model, scores in models.items()
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


def markdown_row(*cells: str) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def _mean_and_sd(summary: Mapping[str, Any]) -> str:
    return f"{summary['mean']:.2f}" if summary["sd"] is None else f"{summary['mean']:.2f} ± {summary['sd']:.2f}"


def _interval(summary: Mapping[str, Any]) -> str:
    return f"{summary['low']:.2f}–{summary['high']:.2f}"
