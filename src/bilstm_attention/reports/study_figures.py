"""Optuna's figures of a study: each as a PNG, and all on one interactive page that loads nothing from elsewhere."""

import html
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import optuna
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
    "intermediate_values": "Each line is a trial by epoch, or by folds done; one that ends early was pruned there.",
}
# The page may load nothing: its script stands in it.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def write_figures(
    name: str, trials: Sequence[FrozenTrial], objectives: Sequence[str], folder: Path
) -> tuple[list[Path], dict[str, float]]:
    """Writes `NAME.png` for each figure that the trials are enough for, and `figures.html` with all of them.

    Args:
        name: of the study.
        trials: all of it, in order.
        objectives: the score first; figures other than the Pareto front show it alone.
        folder: for the files.

    Returns:
        the files; how much each parameter sets the best trials apart, shares of 1, by its short name: empty with fewer
        than 10 complete trials or two parameters.
    """
    # no window, where there is a display
    mpl.use("agg")
    study = _copy(trials, 1)
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < 2:
        return [], {}
    tried, shared = (how(*(set(trial.params) for trial in complete)) for how in (set.union, set.intersection))
    # the best tenth, at least five; half a trial less, since Optuna rounds up
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, 4.5 / max(FEWEST, len(complete))))
    shares: dict[str, float] = {}
    if len(complete) >= FEWEST and len(tried) > 1:
        with warnings.catch_warnings():
            # a parameter that few trials have is as rough as its caption says
            warnings.simplefilter("ignore", UserWarning)
            shares = get_param_importances(study, evaluator=evaluator)
    label = {"target_name": objectives[0]}
    figures: dict[str, tuple[Any, str, dict[str, Any]]] = {
        "history": (True, "plot_optimization_history", label),
        "importances": (shares, "plot_param_importances", label | {"evaluator": evaluator}),
        "slices": (tried, "plot_slice", label),
        "parallel_coordinates": (shared, "plot_parallel_coordinate", label | {"params": sorted(shared)}),
        "intermediate_values": (any(trial.intermediate_values for trial in complete), "plot_intermediate_values", {}),
        "pareto_front": (len(objectives) == 2, "plot_pareto_front", {"target_names": objectives}),
    }
    drawn = {folder / f"{figure}.png": each for figure, each in figures.items() if each[0]}
    parts = [
        _draw(file, _copy(trials, 2) if file.stem == "pareto_front" else study, function, options)
        for file, (_, function, options) in drawn.items()
    ]
    title = html.escape(f"Study {name}")
    style = "body { margin: 0 auto; padding: 1rem; max-width: 80rem; font: 1rem/1.5 system-ui, sans-serif }"
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{title}</title><style>{style}</style><script>{get_plotlyjs()}</script>"
    )
    body = "\n".join([f"<h1>{title}</h1>", *parts])
    with atomic_write(folder / "figures.html") as path:
        page = f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}\n</body></html>\n'
        path.write_text(page, encoding="utf-8")
    return [*drawn, folder / "figures.html"], shares


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


def _draw(path: Path, study: optuna.Study, function: str, options: Mapping[str, Any]) -> str:
    """Writes the picture, and returns the interactive figure as a part of the page."""
    with warnings.catch_warnings():
        # Optuna's drawing with matplotlib is experimental, and a slice of one value has no range
        warnings.simplefilter("ignore")
        axes = getattr(pictures, function)(study, **options)
        interactive = getattr(visualization, function)(study, **options)
    several = list(axes.flat) if hasattr(axes, "flat") else [axes]
    figure = several[0].get_figure()
    figure.set_size_inches(max(8, 2.4 * len(several)), 4.8)
    if path.stem == "intermediate_values":
        # of one line per trial
        axes.get_legend().remove()
        axes.set(xlabel="epoch, or folds done", ylabel="score")
    if path.stem == "slices":
        for each in several:
            each.tick_params(axis="x", which="both", rotation=45)
    with atomic_write(path) as temporary:
        # left to itself, matplotlib writes its version into the file
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)
    interactive.update_layout(template="plotly_white", title=None, margin_t=40)
    # named, since plotly would draw another name each time
    drawn = interactive.to_html(
        full_html=False, include_plotlyjs=False, div_id=path.stem, config={"displaylogo": False}
    )
    heading = path.stem.replace("_", " ").capitalize()
    return f"<h2>{heading}</h2>\n<p>{html.escape(CAPTIONS[path.stem])}</p>\n{drawn}"
