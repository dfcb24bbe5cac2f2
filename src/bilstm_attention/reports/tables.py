"""Scores as text: a table for the terminal, a Markdown page, and the descriptions of runs in MLflow.

In a description, an address `artifact:NAME` is a file of the run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from bilstm_attention.config import Params, flatten


def score_table(metrics: Mapping[str, Any]) -> Table:
    """The scores on test for the terminal, a row per metric: mean, sd and interval, ensemble, baselines.

    Args:
        metrics: the content of `scores.json`, in percent.
    """
    seeds = next(iter(metrics["test"].values()))["by_seed"]
    several = len(seeds) > 1
    title = f"test scores in percent, {'mean ± sd over seeds' if several else 'seed'} {', '.join(seeds)}"
    # narrow enough for 80 columns
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("metric")
    models = _other_models(metrics, several)
    for name in ("model", "95 % interval", *(model.replace("_", "\n") for model in models)):
        table.add_column(name, justify="right", no_wrap=True)
    for name, summary in metrics["test"].items():
        scores = (f"{scores[name]:.2f}" for scores in models.values())
        table.add_row(
            name.replace("_without_other", "\nwithout other"), _mean_and_sd(summary), _interval(summary), *scores
        )
    return table


def score_document(metrics: Mapping[str, Any], params: Params, made_with: str) -> str:
    """A Markdown page: protocol, scores of every seed on dev and test, interval, ensemble, baselines.

    Args:
        metrics: the content of `scores.json`, in percent.
        params: all parameters.
        made_with: date, code, machine and versions.
    """
    test, monitor = metrics["test"], params.train.monitor
    dev = metrics["dev"][monitor]
    seeds = list(dev["by_seed"])
    rows = [
        [f"seed {seed}", *(f"{summary['by_seed'][seed]:.2f}" for summary in (dev, *test.values()))] for seed in seeds
    ]
    if len(seeds) > 1:
        rows.append(["**mean ± sd**", *map(_mean_and_sd, (dev, *test.values()))])
    rows.append(["95 % interval", "", *map(_interval, test.values())])
    for model, scores in _other_models(metrics, len(seeds) > 1).items():
        rows.append([model, "", *(f"{scores[name]:.2f}" for name in test)])
    epoch = f"Dev {monitor} selects the epoch" if params.train.restore_best_weights else "The last epoch is kept"
    coverage, defaults = metrics["test_coverage"], flatten(Params())
    changed = [f"`{name}={value}`" for name, value in flatten(params).items() if value != defaults[name]]
    return "\n\n".join(
        [
            f"Test scores in percent. {epoch}; test selects nothing.",
            markdown_table(pd.DataFrame(rows, columns=["model", f"dev {monitor}", *test])),
            f"Word vectors cover {coverage['tokens']:.2f} % of the tokens of test, {coverage['types']:.2f} % of its"
            " types.",
            f"Parameters that differ from the defaults: {', '.join(changed) or 'none'}.",
            f"Made with {made_with}.",
        ]
    )


def markdown_table(table: pd.DataFrame) -> str:
    """A Markdown table of the texts in `table`."""
    escaped = table.astype(str).map(lambda text: text.replace("|", r"\|"))
    # as text, or tabulate would write 0.10 as 0.1
    return str(escaped.to_markdown(index=False, disable_numparse=True))


def describe_training(params: Params, dev: Mapping[str, float], best_epoch: int, epochs: int) -> str:
    """The description of a model with these dev scores that is not evaluated yet."""
    score = _dev_score(params, dev[params.train.monitor])
    return f"{score}, epoch {best_epoch} of {epochs}. Not evaluated on test yet.\n"


def describe_seed(params: Params, metrics: Mapping[str, Any], seed: int, page: str) -> str:
    """The description of one of several evaluated models, with a link to its attention page."""
    name, summary = next(iter(metrics["test"].items()))
    dev = metrics["dev"][params.train.monitor]["by_seed"][str(seed)]
    return (
        f"**test {name} {summary['by_seed'][str(seed)]:.2f}**; {_dev_score(params, dev)}. One of the seeds"
        f" {', '.join(map(str, params.train.seeds))}; the parent run has their mean, spread and ensemble.\n\n"
        f"[Attention on sentences of dev](artifact:attention/{page})\n"
    )


def describe_evaluation(params: Params, metrics: Mapping[str, Any], made_with: str, pages: Sequence[str]) -> str:
    """The description of a whole evaluation: `score_document` after a summary, pictures, and links to attention pages.

    Args:
        pages: file names of the attention pages, one for each seed; the other arguments as for `score_document`.
    """
    name, summary = next(iter(metrics["test"].items()))
    spread = "" if summary["sd"] is None else f" ± {summary['sd']:.2f} over {len(pages)} seeds"
    dev = _dev_score(params, metrics["dev"][params.train.monitor]["mean"])
    links = [f"[{page.removesuffix('.html')}](artifact:attention/{page})" for page in pages]
    return "\n\n".join(
        [
            f"**test {name} {summary['mean']:.2f}**{spread}, 95 % interval {_interval(summary)}; {dev}",
            f"Attention on sentences of dev: {', '.join(links)}",
            # pictures come first, since MLflow cuts long texts
            "![Learning curves](artifact:plots/learning_curves.png)",
            "![Confusion matrix on test](artifact:plots/confusion.png)",
            f"{score_document(metrics, params, made_with)}\n",
        ]
    )


def _other_models(metrics: Mapping[str, Any], several: bool) -> dict[str, Mapping[str, float]]:
    """Scores of the ensemble, if there are several seeds, and of the baselines."""
    return {**({"ensemble": metrics["ensemble"]} if several else {}), **metrics["baselines"]}


def _mean_and_sd(summary: Mapping[str, Any]) -> str:
    return f"{summary['mean']:.2f}" if summary["sd"] is None else f"{summary['mean']:.2f} ± {summary['sd']:.2f}"


def _interval(summary: Mapping[str, Any]) -> str:
    return f"{summary['low']:.2f}–{summary['high']:.2f}"


def _dev_score(params: Params, score: float) -> str:
    return f"dev {params.train.monitor} {score:.{4 if params.train.monitor == 'loss' else 2}f}"
