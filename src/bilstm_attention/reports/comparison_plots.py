"""The pictures of a comparison, in the house style of `plots`."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bilstm_attention.reports.plots import BAR, INK, LOOKS, house_style, write


@house_style
def plot_variants(frame: pd.DataFrame, metric: str, path: Path) -> None:
    """A score (percent) of several variants, the best on top: a dot per seed, their mean as a bar across.

    A variant so far below the rest that they would get half of the width is left out: its mean stands at the edge.

    Args:
        frame: `variant`, `mean`, a column `seed_N` per seed, and, where known, `low` and `high`, its interval.
        metric: name of the score.
        path: the PNG to write.
    """
    ordered = frame.sort_values("mean", ascending=False, kind="stable")
    places = np.arange(len(ordered))
    figure = Figure(figsize=(8, 0.8 + 0.27 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    far = _far(ordered)
    drawn, rows = ordered[~far], places[~far]
    said = "bar: mean"
    if "low" in ordered:
        axes.hlines(rows, drawn["low"], drawn["high"], color=BAR, linewidth=6)
        said += ", band: 95 % interval"
    for column in [name for name in ordered if str(name).startswith("seed_")]:
        axes.plot(drawn[column], rows, "o", color=INK, markerfacecolor="white", markersize=5)
    axes.plot(drawn["mean"], rows, "|", color=INK, markersize=13, markeredgewidth=2)
    for place, mean in zip(places[far], ordered["mean"][far], strict=True):
        axes.annotate(f"◂ {mean:.1f}", (0, place), (3, 0), axes.get_yaxis_transform(), "offset points", va="center")
    axes.set_yticks(places, ordered["variant"])
    axes.set(ylim=(len(ordered) - 0.4, -0.6), xlabel=f"{metric.replace('_f1', ' F1')} in percent; {said}")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True)
    write(figure, path)


def _far(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Which variants are further below the rest than the rest is wide, among those beyond Tukey's outer fence."""
    means = frame["mean"].to_numpy(np.float64)
    first, third = np.quantile(means, [0.25, 0.75])
    near = means >= first - 3 * (third - first)
    rest = frame[near].drop(columns="variant").to_numpy(np.float64)
    return np.asarray(~near & (means < rest.min() - np.ptp(rest)))


@house_style
def plot_along(frame: pd.DataFrame, parameter: str, metric: str, path: Path) -> None:
    """A score (percent) against a parameter, a curve for each base: a dot per seed, a line through their means.

    The axis is logarithmic where the largest value is eight times the smallest or more, as in learning curves.

    Args:
        frame: `curve`, `value`, `mean`, and a column `seed_N` per seed.
        parameter: its name.
        metric: name of the score.
        path: the PNG to write.
    """
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    values = sorted(frame["value"].unique())
    for number, (curve, rows) in enumerate(frame.sort_values("value").groupby("curve", sort=False)):
        look = LOOKS[number % len(LOOKS)]
        axes.plot(rows["value"], rows["mean"], label=curve, **look)
        for column in [name for name in rows if str(name).startswith("seed_")]:
            axes.plot(rows["value"], rows[column], ".", color=look["color"], markersize=3, alpha=0.6)
    if values[0] > 0 and values[-1] >= 8 * values[0]:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(values, [f"{value:,}" for value in values])
    axes.set(xlabel=parameter, ylabel=f"{metric.replace('_f1', ' F1')} in percent")
    axes.grid(visible=True)
    axes.legend(loc="lower right")
    write(figure, path)
