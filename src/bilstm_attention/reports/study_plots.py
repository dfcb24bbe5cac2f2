"""The pictures of a hyperparameter study, as PNG files in the style of the others.

Every function takes a study of trials that count and have ended, with names of parameters short enough for an axis;
`study_figures` says which study is enough for which picture.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import Locator, LogLocator, MaxNLocator
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from bilstm_attention.reports.plots import BAR, DIM, SEED_COLOURS, SHADES, house_style, write

BEST = SEED_COLOURS[1]
# not the lightest, which is white
DOTS = LinearSegmentedColormap.from_list("dots", SHADES(np.linspace(0.25, 1, 64)))
# Told apart by their hatching too.
LOOKS: dict[TrialState, dict[str, Any]] = {
    TrialState.COMPLETE: {"color": SEED_COLOURS[0]},
    TrialState.PRUNED: {"color": BAR},
    TrialState.FAIL: {"facecolor": "white", "edgecolor": BEST, "hatch": "//////"},
}
ABSENT = -0.13  # of the height of an axis: where a parameter stands that a trial does not have


@house_style
def history(study: optuna.Study, label: str, path: Path) -> None:
    """Scores of complete trials by number, and the best so far."""
    numbers, scores, so_far = best_so_far(study)
    last = study.get_trials(deepcopy=False)[-1].number
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    axes = figure.subplots()
    best = numbers[scores.index(so_far[-1])]
    axes.step([*numbers, last], [*so_far, so_far[-1]], where="post", color=BEST, label="best so far")
    axes.plot(numbers, scores, "o", color=SEED_COLOURS[0], label="complete trial")
    axes.set(title=f"best: {so_far[-1]:.4g}, trial {best}", xlabel="trial", ylabel=label)
    axes.xaxis.set_major_locator(_whole_numbers())
    axes.grid(visible=True)
    figure.legend(loc="outside upper right", ncols=2)
    write(figure, path)


@house_style
def pareto_front(study: optuna.Study, labels: Sequence[str], path: Path) -> None:
    """Complete trials by their two objectives; those of the front with their numbers."""
    front = sorted(study.best_trials, key=lambda trial: (trial.values[0], trial.values[1]))
    of_front = {trial.number for trial in front}
    rest = [trial for trial in _complete(study) if trial.number not in of_front]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(*_points(rest), "o", color=BAR, label="complete trial")
    axes.plot(*_points(front), "o--", color=BEST, linewidth=0.8, label="front")
    spread = np.ptp([trial.values for trial in [*front, *rest]], axis=0)
    before = np.array([-math.inf, -math.inf])
    for trial in front:
        # not over the digits before
        if (np.abs(trial.values - before) > 0.04 * spread).any():
            axes.annotate(str(trial.number), trial.values, (5, 4), textcoords="offset points", color=DIM, size=7.5)
            before = np.array(trial.values)
    wanted = ["higher" if direction == StudyDirection.MAXIMIZE else "lower" for direction in study.directions]
    x, y = (f"{label} ({better} is better)" for label, better in zip(labels, wanted, strict=True))
    axes.set(title="digits: the trials of the front", xlabel=x, ylabel=y)
    axes.margins(0.08)
    axes.grid(visible=True)
    figure.legend(loc="outside upper right", ncols=2)
    write(figure, path)


@house_style
def parallel_coordinates(study: optuna.Study, label: str, path: Path) -> None:
    """A line per complete trial through its score and its parameters, the best on top."""
    sign = 1 if _higher_is_better(study) else -1
    trials = sorted(_complete(study), key=lambda trial: sign * _score(trial))
    ranges = _ranges(trials)
    low, high = min(map(_score, trials)), max(map(_score, trials))
    scale = Normalize(low, high)
    # the darker the better, also where lower is
    colours = DOTS if sign > 0 else DOTS.reversed()
    figure = Figure(figsize=(max(8, 1.3 * (len(ranges) + 1.5)), 4.8), layout="constrained")
    axes = figure.subplots()
    for position, (name, distribution) in enumerate(ranges.items(), start=1):
        axes.axvline(position, color=DIM, linewidth=0.8)
        ticks = dict(_ticks(distribution))
        if any(name not in trial.params for trial in trials):
            ticks["absent"] = ABSENT
        for text, height in ticks.items():
            _tick(axes, position, height, text)
    axes.axvline(0, color=DIM, linewidth=0.8)
    for text, height in _ticks(FloatDistribution(low, high)):
        _tick(axes, 0, height, text)
    for trial in trials:
        heights = [_place(FloatDistribution(low, high), _score(trial))]
        heights += [
            _place(distribution, trial.params[name]) if name in trial.params else ABSENT
            for name, distribution in ranges.items()
        ]
        axes.plot(range(len(heights)), heights, color=colours(scale(_score(trial))), clip_on=False)
    axes.set_xticks(range(len(ranges) + 1), [label, *ranges])
    axes.set(xlim=(-0.4, len(ranges) + 0.1), ylim=(ABSENT - 0.05, 1.05))
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("lines: complete trials, the darker the better; absent: the trial did not have the parameter")
    write(figure, path)


@house_style
def slices(study: optuna.Study, label: str, path: Path) -> None:
    """Scores of complete trials by each parameter, the later the darker."""
    trials = _complete(study)
    ranges = _ranges(trials)
    columns = min(4, len(ranges))
    rows = math.ceil(len(ranges) / columns)
    figure = Figure(figsize=(max(5, 2.6 * columns), 0.6 + 2.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    panels = list(grid.flat[: len(ranges)])
    scale = Normalize(trials[0].number, trials[-1].number)
    for axes, (name, distribution) in zip(panels, ranges.items(), strict=True):
        having = [trial for trial in trials if name in trial.params]
        places = [_place(distribution, trial.params[name]) for trial in having]
        numbers, scores = [trial.number for trial in having], [_score(trial) for trial in having]
        axes.scatter(places, scores, c=numbers, cmap=DOTS, norm=scale, edgecolor=DIM, linewidth=0.4, s=28)
        texts, ticks = zip(*_ticks(distribution), strict=True)
        axes.set_xticks(ticks, texts, rotation=90 if sum(map(len, texts)) > 24 else 0)
        axes.set_xlim(-0.15, 1.15)
        axes.set_xlabel(name)
        axes.grid(visible=True)
    for axes in grid.flat[len(ranges) :]:
        axes.remove()
    for axes in grid[:, 0]:
        axes.set_ylabel(label)
    bar = figure.colorbar(ScalarMappable(scale, DOTS), ax=panels, aspect=30, ticks=_whole_numbers())
    bar.set_label("trial")
    bar.outline.set_visible(False)
    write(figure, path)


@house_style
def importances(shares: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Shares by evaluator and parameter, side by side."""
    most, highest = max(map(len, shares.values())), max(max(by_name.values()) for by_name in shares.values())
    figure = Figure(figsize=(max(5, 4.5 * len(shares)), 1.1 + 0.3 * most), layout="constrained")
    panels = figure.subplots(1, len(shares), squeeze=False).flat
    for axes, (evaluator, by_name) in zip(panels, shares.items(), strict=True):
        places = range(len(by_name))
        bars = axes.barh(places, list(by_name.values()), color=BAR, height=0.7)
        axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.set_yticks(places, by_name)
        # bars as thick in both
        axes.set(title=evaluator, xlabel="share", xlim=(0, 1.15 * highest), ylim=(most - 0.4, -0.6))
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=True, axis="x")
    write(figure, path)


@house_style
def intermediate_values(study: optuna.Study, label: str, path: Path) -> None:
    """Scores by epoch, a line per trial, with a cross where one was pruned; those that failed are left out."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    kinds: dict[TrialState, dict[str, Any]] = {
        TrialState.PRUNED: {"color": BAR, "marker": "X", "label": "pruned"},
        TrialState.COMPLETE: {"color": SEED_COLOURS[0], "marker": "o", "label": "complete"},
    }
    for order, (state, look) in enumerate(kinds.items(), start=2):
        for trial in study.get_trials(deepcopy=False, states=(state,)):
            if trial.intermediate_values:
                steps, scores = zip(*sorted(trial.intermediate_values.items()), strict=True)
                axes.plot(steps, scores, markevery=[-1], zorder=order, **look)
                # once in the legend
                look["label"] = ""
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.set_major_locator(_whole_numbers())
    axes.grid(visible=True)
    figure.legend(loc="outside upper right", ncols=2)
    write(figure, path)


@house_style
def timeline(study: optuna.Study, path: Path) -> None:
    """A bar per trial from its start to its end."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.datetime_start and trial.datetime_complete]
    figure = Figure(figsize=(8, float(np.clip(1.2 + 0.09 * len(trials), 2.5, 12))), layout="constrained")
    axes = figure.subplots()
    shown = []
    for state, look in LOOKS.items():
        bars = [trial for trial in trials if trial.state == state]
        if bars:
            starts: list[Any] = [trial.datetime_start for trial in bars]
            lengths: list[Any] = [trial.duration for trial in bars]
            axes.barh([trial.number for trial in bars], lengths, left=starts, height=0.8, linewidth=0.5, **look)
            shown.append(Patch(**look, label=f"{state.name.lower()} ({len(bars)})"))
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.yaxis.set_major_locator(_whole_numbers())
    axes.set_ylabel("trial")
    axes.margins(y=0.02)
    axes.invert_yaxis()
    axes.grid(visible=True, axis="x")
    figure.legend(handles=shown, loc="outside upper right", ncols=3)
    write(figure, path)


def best_so_far(study: optuna.Study) -> tuple[list[int], list[float], list[float]]:
    """Of complete trials the numbers, the scores of the first objective, and the best up to each."""
    trials = _complete(study)
    scores = [_score(trial) for trial in trials]
    so_far = accumulate(scores, max if _higher_is_better(study) else min)
    return [trial.number for trial in trials], scores, list(so_far)


def _whole_numbers() -> Locator:
    return MaxNLocator(nbins=10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _score(trial: FrozenTrial) -> float:
    return float(trial.values[0])


def _higher_is_better(study: optuna.Study) -> bool:
    return study.directions[0] == StudyDirection.MAXIMIZE


def _points(trials: Iterable[FrozenTrial]) -> tuple[list[float], list[float]]:
    return [trial.values[0] for trial in trials], [trial.values[1] for trial in trials]


def _ranges(trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
    """What every parameter was drawn from, in the order in which the first trials have them."""
    return {name: found for trial in reversed(trials) for name, found in trial.distributions.items()}


def _place(distribution: Any, value: Any) -> float:
    """Where a value stands on an axis from 0 to 1."""
    if isinstance(distribution, CategoricalDistribution):
        low, at, high = 0.0, float(distribution.choices.index(value)), len(distribution.choices) - 1.0
    else:
        low, at, high = (math.log(v) if distribution.log else v for v in (distribution.low, value, distribution.high))
    return (at - low) / (high - low) if high > low else 0.5


def _ticks(distribution: Any) -> Iterable[tuple[str, float]]:
    """Texts along an axis from 0 to 1, and where they stand."""
    low, high = getattr(distribution, "low", 0), getattr(distribution, "high", 0)
    if isinstance(distribution, CategoricalDistribution):
        values = list(distribution.choices)
    elif isinstance(distribution, IntDistribution) and (high - low) / distribution.step < 8:
        values = list(range(low, high + 1, distribution.step))
    else:
        # of a few decades 1, 2 and 5, of more the powers of ten
        logarithmic = LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,))
        linear = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=isinstance(distribution, IntDistribution))
        found = (logarithmic if distribution.log else linear).tick_values(low, high)
        within = [value for value in np.asarray(found).tolist() if low <= value <= high]
        values = within if len(within) > 1 else sorted({low, high})
    for value in values:
        yield f"{value:.4g}" if isinstance(value, float) else str(value), _place(distribution, value)


def _tick(axes: Axes, x: float, y: float, text: str) -> None:
    """Beside an axis, on white, so that the lines behind leave it readable."""
    axes.annotate(
        text,
        (x, y),
        (-4, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        size=8,
        zorder=5,
        bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
    )
