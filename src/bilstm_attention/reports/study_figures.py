"""The figures of a hyperparameter study: which of them, each as a picture and all on one page to hover and zoom in."""

import copy
import html
import math
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna import visualization
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from optuna.search_space import intersection_search_space
from optuna.trial import FrozenTrial, TrialState
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from bilstm_attention.paths import atomic_write
from bilstm_attention.reports import study_plots
from bilstm_attention.reports.plots import BAR
from bilstm_attention.search.study import counted

# By the file's name: the heading on the page, and how to read the figure.
CAPTIONS = {
    "history": (
        "History",
        "Each dot is a complete trial; the line is the best so far: where it is flat, the search found none better.",
    ),
    "pareto_front": (
        "Pareto front",
        "Each dot is a complete trial; those in red are the front: none of all is better in one objective and not worse"
        " in the other.",
    ),
    "parallel_coordinates": (
        "Parallel coordinates",
        "Each line is a complete trial through its parameters, the darker the better; None is a parameter that the"
        " trial did not have.",
    ),
    "slices": (
        "Slices",
        "Each dot is a complete trial, the darker the later; the other parameters differ between the dots of a slice.",
    ),
    "importances": (
        "Importances",
        "The longer a bar, the more its parameter decides the score among complete trials: PED-ANOVA asks what sets the"
        " best tenth (at least five) apart from the rest, with all parameters; fANOVA what explains all scores, with"
        " those parameters alone that every complete trial has. Shares sum to 1 even where nothing matters, are rough"
        " below some fifty complete trials, and give little to what the sampler settled on early.",
    ),
    "intermediate_values": (
        "Intermediate values",
        "Each line is a trial by epoch, those that failed left out; a line that ends early was pruned there.",
    ),
    "timeline": (
        "Timeline",
        "Each bar is a trial from start to end; bars at the same time ran side by side.",
    ),
}
TOP = 5  # trials whose parameters PED-ANOVA compares with all, the fewest that Optuna's documentation calls stable
FEWEST = 2 * TOP  # complete trials for importances
# What the page may load: nothing. Its script stands in it.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
CONFIG = {"displaylogo": False, "showSendToCloud": False}
STYLE = """
:root { color-scheme: light }
body { margin: 0 auto; padding: 1rem 1.25rem 3rem; max-width: 80rem; font: 1rem/1.5 system-ui, sans-serif; color: #222 }
h1 { font-size: 1.5rem; overflow-wrap: anywhere }
h2 { margin: 2rem 0 0; font-size: 1.2rem }
p { margin: .25rem 0 .5rem; max-width: 56rem; color: #444; overflow-wrap: anywhere }
.figure { overflow-x: auto }
"""


class EndedTrials(optuna.Study):
    """The trials of another study that have ended and count, as Optuna's figures ask for them.

    A copy by `add_trials` would number them anew. Left out are those that do not count, and those whose objective is
    not finite.

    Args:
        study: read once.
        objectives: how many of its objectives to keep, from the first.
        names: other names of parameters.
    """

    def __init__(self, study: optuna.Study, objectives: int = 1, names: Mapping[str, str] | None = None):
        super().__init__(study.study_name, study._storage)
        self._directions = study.directions[:objectives]
        ended = copy.deepcopy([trial for trial in counted(study) if _is_finite(trial)])
        self._ended = [_renamed(trial, objectives, names or {}) for trial in ended]

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        """Those in `states`, or all, by number."""
        found = [trial for trial in self._ended if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    @property
    def complete(self) -> list[FrozenTrial]:
        """Trials with a score."""
        return self.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def importances(study: optuna.Study, metrics: Sequence[str]) -> dict[str, dict[str, float]]:
    """How much of the differences in the first objective each parameter decides among complete trials, by evaluator.

    PED-ANOVA (arXiv:2304.10255; with conditions, arXiv:2601.20800) compares the best tenth, five trials at least, with
    all, over every parameter; fANOVA (Hutter et al. 2014) fits a forest to all scores, over those parameters alone that
    every complete trial has, with one range. Pruned and failed trials have no final score and are not counted, so that
    with a pruner both speak of what was good enough to be trained to the end. The same study gives the same numbers.

    Args:
        study: of one objective or several.
        metrics: their names, the first of what is explained.

    Returns:
        By `PED-ANOVA` and `fANOVA`: shares in [0, 1] that sum to 1, by the full name of a parameter, the highest first,
        without parameters of which only one value was tried. An evaluator is missing where there are fewer than 10
        complete trials, fewer than two parameters to share, or nothing that tells these apart.
    """
    ended = EndedTrials(study)
    complete = ended.complete
    if len(complete) < FEWEST:
        return {}
    tried: dict[str, set[Any]] = {}
    for trial in complete:
        for name, value in trial.params.items():
            tried.setdefault(name, set()).add(value)
    varied = sorted(name for name, values in tried.items() if len(values) > 1)
    shared = [name for name in varied if name in intersection_search_space(complete)]
    # half a trial less, since Optuna rounds up
    quantile = max(0.1, (TOP - 0.5) / len(complete))
    asked = {
        "PED-ANOVA": (PedAnovaImportanceEvaluator(target_quantile=quantile), varied),
        "fANOVA": (FanovaImportanceEvaluator(seed=0), shared),
    }
    return {
        name: shares for name, (evaluator, params) in asked.items() if (shares := _shares(ended, evaluator, params))
    }


def _shares(ended: EndedTrials, evaluator: Any, params: list[str]) -> dict[str, float]:
    shares: dict[str, float] = {}
    # of fANOVA: where parameters explain nothing, its forest has no variance to share
    with warnings.catch_warnings(), suppress(RuntimeError):
        # a parameter that hardly any trial has is as rough as the caption says; what has no best is left out below
        warnings.filterwarnings("ignore", "Some regimes for parameter|Target and region quantiles", UserWarning)
        shares = get_param_importances(ended, evaluator=evaluator, params=params)
    # Optuna gives equal shares to what it cannot tell apart, and all to one alone
    if len(set(shares.values())) < 2:
        return {}
    return {name: float(share) for name, share in sorted(shares.items(), key=lambda item: (-item[1], item[0]))}


def write_figures(study: optuna.Study, metrics: Sequence[str], folder: Path) -> list[Path]:
    """Writes the figures of a study, each as a PNG and all on `figures.html`; what it is too small for is left out.

    The parameters go by the last part of their names where no two end in the same.

    Args:
        study: of one objective or two; all figures but the Pareto front are of the first.
        metrics: the names of its objectives.
        folder: where to.

    Returns:
        The files; none of a study of which fewer than two trials have ended.
    """
    # read once, so that all figures show the same even while the study goes on
    ended = EndedTrials(study, len(metrics))
    names = _short_names(sorted({name for trial in ended.get_trials(deepcopy=False) for name in trial.params}))
    written, interactive = [], {}
    for name, (picture, figure) in _drawn(ended, metrics, names).items():
        path = folder / f"{name}.png"
        picture(path=path)
        written.append(path)
        interactive[name] = figure()
    if interactive:
        page = folder / "figures.html"
        with atomic_write(page) as temporary:
            temporary.write_text(_page(study.study_name, interactive, names), encoding="utf-8")
        written.append(page)
    return written


Drawers = tuple[Callable[..., None], Callable[[], go.Figure]]


def _drawn(study: EndedTrials, metrics: Sequence[str], names: Mapping[str, str]) -> dict[str, Drawers]:
    """What draws the picture and the interactive figure, by the name of the file, of those the study is enough for."""
    ended = EndedTrials(study, 1, names)
    labels = [metric.replace("_f1", " F1").replace("_", " ") for metric in metrics]
    label = labels[0]
    drawn: dict[str, Drawers] = {}
    if len(ended.complete) > 1:
        drawn["history"] = partial(study_plots.history, ended, label=label), partial(_history, ended, label)
        if len(metrics) == 2:
            drawn["pareto_front"] = (
                partial(study_plots.pareto_front, study, labels=labels),
                partial(visualization.plot_pareto_front, study, target_names=labels),
            )
        if any(trial.params for trial in ended.complete):
            drawn["parallel_coordinates"] = (
                partial(study_plots.parallel_coordinates, ended, label=label),
                partial(visualization.plot_parallel_coordinate, ended, target_name=label),
            )
            drawn["slices"] = (
                partial(study_plots.slices, ended, label=label),
                partial(visualization.plot_slice, ended, target_name=label),
            )
    if found := importances(study, metrics):
        shares = {
            evaluator: {names[name]: share for name, share in by_name.items()} for evaluator, by_name in found.items()
        }
        drawn["importances"] = partial(study_plots.importances, shares), partial(_importances, shares)
    reported = ended.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    if sum(bool(trial.intermediate_values) for trial in reported) > 1:
        drawn["intermediate_values"] = (
            partial(study_plots.intermediate_values, ended, label=label),
            partial(_intermediate_values, ended, label),
        )
    if len(ended.get_trials(deepcopy=False)) > 1:
        drawn["timeline"] = partial(study_plots.timeline, ended), partial(visualization.plot_timeline, ended)
    return drawn


def _history(ended: EndedTrials, label: str) -> go.Figure:
    """As Optuna draws it, whose own takes the number of a trial for its place among the rest."""
    numbers, scores, best = study_plots.best_so_far(ended)
    figure = go.Figure(layout={"xaxis_title": "trial", "yaxis_title": label})
    figure.add_scatter(x=numbers, y=scores, mode="markers", name="complete trial")
    return figure.add_scatter(x=numbers, y=best, mode="lines", line_shape="hv", name="best so far")


def _importances(shares: Mapping[str, Mapping[str, float]]) -> go.Figure:
    highest = max(max(by_name.values()) for by_name in shares.values())
    figure = make_subplots(cols=len(shares), subplot_titles=list(shares), horizontal_spacing=0.15)
    for column, by_name in enumerate(shares.values(), start=1):
        bars = go.Bar(x=list(by_name.values()), y=list(by_name), orientation="h", showlegend=False, marker_color=BAR)
        bars.update(text=[f"{share:.2f}" for share in by_name.values()], textposition="outside", cliponaxis=False)
        figure.add_trace(bars, row=1, col=column)
    return figure.update_yaxes(autorange="reversed").update_xaxes(range=(0, 1.15 * highest), title="share")


def _intermediate_values(ended: EndedTrials, label: str) -> go.Figure:
    return visualization.plot_intermediate_values(ended).update_layout(xaxis_title="epoch", yaxis_title=label)


def _page(study_name: str, figures: Mapping[str, go.Figure], names: Mapping[str, str]) -> str:
    title = html.escape(f"Study {study_name}")
    shortened = ", ".join(f"{short} is {name}" for name, short in names.items() if short != name)
    parts = [f"<h1>{title}</h1>"]
    if shortened:
        parts.append(f"<p>Short names of parameters: {html.escape(shortened)}.</p>")
    for name, figure in figures.items():
        heading, reading = CAPTIONS[name]
        figure.update_layout(template="plotly_white", title=None, margin_t=40)
        # the page is the same whenever it is made, so its parts have names of their own
        drawn = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=CONFIG)
        parts.append(f'<h2>{heading}</h2>\n<p>{reading}</p>\n<div class="figure">{drawn}</div>')
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{title}</title><style>{STYLE}</style><script>{get_plotlyjs()}</script>"
    )
    return "\n".join([f'<!doctype html>\n<html lang="en"><head>{head}</head><body>', *parts, "</body></html>\n"])


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """For each dotted name its last parts, as few as no other name ends in."""
    short = {}
    for name in names:
        parts = name.split(".")
        endings = [".".join(parts[-length:]) for length in range(1, len(parts) + 1)]
        others = [f".{other}" for other in names if other != name]
        short[name] = next((end for end in endings if not any(o.endswith(f".{end}") for o in others)), name)
    return short


def _is_finite(trial: FrozenTrial) -> bool:
    return trial.state != TrialState.COMPLETE or all(map(math.isfinite, trial.values))


def _renamed(trial: FrozenTrial, objectives: int, names: Mapping[str, str]) -> FrozenTrial:
    """Of one that is the caller's own."""
    trial.params, trial.distributions = (
        {names.get(name, name): value for name, value in by_name.items()}
        for by_name in (trial.params, trial.distributions)
    )
    if trial.values is not None:
        trial.values = trial.values[:objectives]
    return trial
