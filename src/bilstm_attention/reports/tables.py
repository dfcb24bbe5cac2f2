"""Tables of scores, for the terminal and for documents."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from bilstm_attention.config import Params, flatten


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


def score_document(metrics: Mapping[str, Any], params: Params, made_with: str) -> str:
    """A Markdown page: protocol, scores of every seed on dev and test, ensemble, interval, baselines.

    Args:
        metrics: the content of `metrics.json`, scores in percent.
        params: what the scores were made with.
        made_with: date, code, machine and versions.
    """
    monitor = params.train.monitor
    dev = metrics["dev"]
    seeds = list(next(iter(metrics["test"].values()))["by_seed"])
    epoch = (
        f"The epoch is picked by {monitor} on dev" if params.train.restore_best_weights else "The last epoch is kept"
    )
    names = list(metrics["test"])
    rows = [
        [f"seed {seed}", f"{dev[monitor]['by_seed'][seed]:.2f}"]
        + [f"{metrics['test'][name]['by_seed'][seed]:.2f}" for name in names]
        for seed in seeds
    ]
    if len(seeds) > 1:
        means = [_mean_and_sd(metrics["test"][name]) for name in names]
        rows.append(["**mean ± sd**", _mean_and_sd(dev[monitor]), *means])
    rows.append(["95 % interval", "", *(_interval(metrics["test"][name]) for name in names)])
    models = ({"ensemble": metrics["ensemble"]} if len(seeds) > 1 else {}) | metrics["baselines"]
    rows += [[model, "", *(f"{scores[name]:.2f}" for name in names)] for model, scores in models.items()]
    lines = [
        f"Test scores in percent. {epoch}; test chose nothing.",
        "",
        markdown_table(pd.DataFrame(rows, columns=["model", f"dev {monitor}", *names])),
    ]
    coverage = metrics["test_coverage"]
    lines += [
        "",
        f"Word vectors cover {coverage['tokens']:.2f} % of the tokens of test, {coverage['types']:.2f} % of its types.",
    ]
    defaults = flatten(Params())
    changed = [f"`{name}={value}`" for name, value in flatten(params).items() if value != defaults[name]]
    lines += ["", f"Parameters that differ from the defaults: {', '.join(changed) or 'none'}."]
    return "\n".join([*lines, "", f"Made with {made_with}."])


def markdown_table(table: pd.DataFrame) -> str:
    """A table of texts in Markdown."""
    escaped = table.astype(str).map(lambda text: text.replace("|", r"\|"))
    # as text, or tabulate would write 0.10 as 0.1
    return str(escaped.to_markdown(index=False, disable_numparse=True))


def _mean_and_sd(summary: Mapping[str, Any]) -> str:
    return f"{summary['mean']:.2f}" if summary["sd"] is None else f"{summary['mean']:.2f} ± {summary['sd']:.2f}"


def _interval(summary: Mapping[str, Any]) -> str:
    return f"{summary['low']:.2f}–{summary['high']:.2f}"
