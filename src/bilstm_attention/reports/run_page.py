"""Descriptions of runs in MLflow, as Markdown; an address `artifact:NAME` is a file of the run."""

from collections.abc import Mapping, Sequence
from typing import Any

from bilstm_attention.config import Params
from bilstm_attention.reports.tables import score_document


def describe_training(params: Params, dev: Mapping[str, float], best_epoch: int, epochs: int) -> str:
    """Of a model that is trained, and not yet judged on test.

    Args:
        params: all parameters.
        dev: its scores on dev.
        best_epoch: the epoch that was kept.
        epochs: trained.
    """
    return f"{_on_dev(params, dev[params.train.monitor])}, epoch {best_epoch} of {epochs}. Not judged on test yet.\n"


def describe_seed(params: Params, metrics: Mapping[str, Any], seed: int, page: str) -> str:
    """Of one of several models, judged on test.

    Args:
        params: all parameters.
        metrics: the content of `metrics.json`.
        seed: of the model.
        page: file name of its attention page.
    """
    name, summary = next(iter(metrics["test"].items()))
    dev = metrics["dev"][params.train.monitor]["by_seed"][str(seed)]
    return "\n\n".join(
        [
            f"**test {name} {summary['by_seed'][str(seed)]:.2f}**; {_on_dev(params, dev)}. One of the seeds"
            f" {', '.join(map(str, params.train.seeds))}; the parent run has their mean, spread and ensemble.",
            f"[What it attends to, in sentences of dev](artifact:attention/{page})\n",
        ]
    )


def describe_evaluation(params: Params, metrics: Mapping[str, Any], made_with: str, pages: Sequence[str]) -> str:
    """Of what was judged on test as a whole: all scores, curves and confusions, the attention pages.

    Args:
        params: all parameters.
        metrics: the content of `metrics.json`.
        made_with: date, code, machine and versions.
        pages: file names of the attention pages, one for each seed.
    """
    name, summary = next(iter(metrics["test"].items()))
    spread = "" if summary["sd"] is None else f" ± {summary['sd']:.2f} over {len(pages)} seeds"
    dev = _on_dev(params, metrics["dev"][params.train.monitor]["mean"])
    interval = f"95 % interval {summary['low']:.2f}–{summary['high']:.2f}"
    links = [f"[{page.removesuffix('.html')}](artifact:attention/{page})" for page in pages]
    return "\n\n".join(
        [
            f"**test {name} {summary['mean']:.2f}**{spread}, {interval}; {dev}",
            f"What the model attends to, in sentences of dev: {', '.join(links)}",
            # first, since MLflow cuts long texts
            "![Learning curves, and what was taken for what on test](artifact:plots/overview.png)",
            f"{score_document(metrics, params, made_with)}\n",
        ]
    )


def describe_sweep(report: str) -> str:
    """Of a sweep: its report, whose pictures are files of the run."""
    return report.replace("](figures/", "](artifact:figures/")


def _on_dev(params: Params, score: float) -> str:
    return f"dev {params.train.monitor} {score:.{4 if params.train.monitor == 'loss' else 2}f}"
