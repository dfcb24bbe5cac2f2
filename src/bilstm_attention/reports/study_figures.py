"""Optuna's figures of a study: each as a PNG, and all on one interactive page that loads nothing from elsewhere."""

import html
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import optuna
import plotly.graph_objects as go
from matplotlib import pyplot
from optuna import visualization
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial
from optuna.visualization import matplotlib as pictures
from plotly.offline import get_plotlyjs

from bilstm_attention.paths import atomic_write

FEWEST = 10  # complete trials for importances: PED-ANOVA wants five among the best
CAPTIONS = {
    "history": "Each dot is a complete trial; where the line, the best so far, is flat, none was better.",
    "pareto_front": "Each dot is a complete trial; on the front are those that no other beats in both objectives.",
    "importances": (
        "Shares of 1: how much a parameter sets the best trials apart from the rest (PED-ANOVA, arXiv:2304.10255). They"
        " are rough below some fifty complete trials."
    ),
    "slices": "Each dot is a complete trial, the darker the later; the other parameters differ between the dots.",
    "parallel_coordinates": "Each line is a complete trial that has all these parameters.",
    "intermediate_values": "Each line is a trial by epoch; one that ends early was pruned there.",
}
# The page may load nothing: its script stands in it.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def importances(study: optuna.Study) -> dict[str, float]:
    """How much each parameter sets the best trials apart, shares of 1, the highest first.

    Empty with fewer than 10 complete trials, or where fewer than two parameters vary.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    values: dict[str, set[Any]] = {}
    for trial in complete:
        for name, value in trial.params.items():
            values.setdefault(name, set()).add(value)
    varied = sorted(name for name, tried in values.items() if len(tried) > 1)
    if len(complete) < FEWEST or len(varied) < 2:
        return {}
    with warnings.catch_warnings():
        # a parameter that few trials have is as rough as its caption says
        warnings.simplefilter("ignore", UserWarning)
        shares = get_param_importances(study, evaluator=_evaluator(len(complete)), params=varied)
    return {name: float(share) for name, share in shares.items()}


def _evaluator(complete: int) -> PedAnovaImportanceEvaluator:
    # the best tenth, at least five; half a trial less, since Optuna rounds up
    return PedAnovaImportanceEvaluator(target_quantile=max(0.1, 4.5 / complete))


def write_figures(
    name: str, trials: Sequence[FrozenTrial], objectives: Sequence[str], folder: Path
) -> tuple[list[Path], dict[str, float]]:
    """Writes `NAME.png` for each figure that the trials are enough for, and `figures.html` with all of them.

    Args:
        name: of the study.
        trials: all of it, in order.
        objectives: their names, the dev score first; figures other than the Pareto front show it alone.
        folder: where to.

    Returns:
        the files; `importances`, by the last parts of names.
    """
    # no window, where there is a display
    mpl.use("agg")
    study = _copy(trials, 1)
    shares, label = importances(study), f"dev {objectives[0]}"
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    files, parts = [], []
    for figure_name, (function, options) in _figures(complete, shares, label).items():
        files.append(folder / f"{figure_name}.png")
        parts.append(_draw(study, function, options, files[-1]))
    if len(objectives) == 2 and len(complete) > 1:
        files.append(folder / "pareto_front.png")
        names = {"target_names": [label, objectives[1]]}
        parts.append(_draw(_copy(trials, 2), "plot_pareto_front", names, files[-1]))
    if parts:
        files.append(folder / "figures.html")
        with atomic_write(files[-1]) as path:
            path.write_text(_page(name, parts), encoding="utf-8")
    return files, shares


def _copy(trials: Sequence[FrozenTrial], objectives: int) -> optuna.Study:
    """A study in memory with short names of parameters; numbers stay, those that have not finished are as failed."""
    directions: list[Literal["maximize", "minimize"]] = ["maximize", "minimize"]
    study = optuna.create_study(directions=directions[:objectives])
    short = short_names({name for trial in trials for name in trial.params})
    for trial in trials:
        complete, pruned = trial.state == TrialState.COMPLETE, trial.state == TrialState.PRUNED
        study.add_trial(
            create_trial(
                state=trial.state if complete or pruned else TrialState.FAIL,
                values=trial.values[:objectives] if complete else None,
                params={short[key]: value for key, value in trial.params.items()},
                distributions={short[key]: value for key, value in trial.distributions.items()},
                intermediate_values=trial.intermediate_values if complete or pruned else None,
            )
        )
    return study


def short_names(names: set[str]) -> dict[str, str]:
    """The last part of each dotted name, or the whole where two end in the same."""
    endings = [name.rpartition(".")[2] for name in names]
    return {name: end if endings.count(end := name.rpartition(".")[2]) == 1 else name for name in names}


def _figures(
    complete: Sequence[FrozenTrial], shares: Mapping[str, float], label: str
) -> dict[str, tuple[str, dict[str, Any]]]:
    """By file name, the function of Optuna and its options."""
    if len(complete) < 2:
        return {}
    named = {"target_name": label}
    figures: dict[str, tuple[str, dict[str, Any]]] = {"history": ("plot_optimization_history", named)}
    if shares:
        options = {"evaluator": _evaluator(len(complete)), "params": list(shares), **named}
        figures["importances"] = ("plot_param_importances", options)
    if any(trial.params for trial in complete):
        figures["slices"] = ("plot_slice", named)
    everywhere = set.intersection(*(set(trial.params) for trial in complete))
    if everywhere:
        figures["parallel_coordinates"] = ("plot_parallel_coordinate", named | {"params": sorted(everywhere)})
    if any(trial.intermediate_values for trial in complete):
        figures["intermediate_values"] = ("plot_intermediate_values", {})
    return figures


def _draw(study: optuna.Study, function: str, options: Mapping[str, Any], path: Path) -> str:
    """Writes the picture, and returns the interactive figure as a part of the page."""
    with warnings.catch_warnings():
        # Optuna's drawing with matplotlib is experimental, and a slice of one value has no range
        warnings.simplefilter("ignore")
        axes = getattr(pictures, function)(study, **options)
        interactive = getattr(visualization, function)(study, **options)
    _write_picture(axes, function, path)
    return _section(path.stem, interactive)


def _write_picture(axes: Any, function: str, path: Path) -> None:
    several = list(axes.flat) if hasattr(axes, "flat") else [axes]
    figure = several[0].get_figure()
    figure.set_size_inches(max(8, 2.4 * len(several)), 4.8)
    if function == "plot_intermediate_values":
        # of one line per trial
        axes.get_legend().remove()
        axes.set(xlabel="epoch", ylabel="dev score")
    if function == "plot_slice":
        for each in several:
            each.tick_params(axis="x", which="both", rotation=45)
    with atomic_write(path) as temporary:
        # left to itself, matplotlib writes its version into the file
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)


def _section(name: str, figure: go.Figure) -> str:
    heading = name.replace("_", " ").capitalize()
    figure.update_layout(template="plotly_white", title=None, margin_t=40)
    # named, since plotly would draw another name each time
    drawn = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config={"displaylogo": False})
    return f"<h2>{heading}</h2>\n<p>{html.escape(CAPTIONS[name])}</p>\n{drawn}"


def _page(name: str, parts: Sequence[str]) -> str:
    title = html.escape(f"Study {name}")
    style = "body { margin: 0 auto; padding: 1rem; max-width: 80rem; font: 1rem/1.5 system-ui, sans-serif }"
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{title}</title><style>{style}</style><script>{get_plotlyjs()}</script>"
    )
    return "\n".join(
        [f'<!doctype html>\n<html lang="en"><head>{head}</head><body><h1>{title}</h1>', *parts, "</body></html>\n"]
    )
