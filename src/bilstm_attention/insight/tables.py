"""Tables of scores for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def score_table(metrics: Mapping[str, Any]) -> Table:
    """The scores on test, a row per metric: the seeds' mean, sd and interval, their ensemble, the baselines.

    Args:
        metrics: the content of `metrics.json`, scores in percent.
    """
    seeds = next(iter(metrics["test"].values()))["by_seed"]
    several = len(seeds) > 1
    title = f"test scores in percent, {'mean ± sd over seeds' if several else 'seed'} {', '.join(seeds)}"
    models = [*(["ensemble"] if several else []), *metrics["baselines"]]
    table = Table("metric", "model", "95 % interval", *models, title=title, title_justify="left")
    for name, summary in metrics["test"].items():
        score = f"{summary['mean']:.2f}" + (f" ± {summary['sd']:.2f}" if several else "")
        others = ([metrics["ensemble"]] if several else []) + list(metrics["baselines"].values())
        interval = f"{summary['low']:.2f} - {summary['high']:.2f}"
        table.add_row(name, score, interval, *(f"{other[name]:.2f}" for other in others))
    return table
