"""Sweeps in a folder of their own, whose trials end as a test says and not by training."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import optuna
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from bilstm_attention import paths
from bilstm_attention.config import Params
from bilstm_attention.search import study, sweep
from bilstm_attention.search.space import read_sweep
from bilstm_attention.search.study import SweepSpec, report_outages
from bilstm_attention.search.sweep import TrialJob, TrialScores, run_trial
from bilstm_attention.search.trainings import fold_data

UNITS, HOPS, KIND = "model.lstm_units", "model.attention.hops", "model.attention.kind"
SWEEP = """
study: s
metric: accuracy
sampler: {kind: random, seed: 3}
pruner: {kind: none}
confirm: {top: 2, seeds: 2}
space: {model.lstm_units: {low: 1, high: 1000}}
"""
AGAINST = SWEEP.replace("metric: accuracy", "metric: accuracy\nagainst: latency_ms")
FOLDS = f"{SWEEP}folds: 3\nfixed: {{train.restore_best_weights: false}}\n"
GRID = """
study: g
sampler: {kind: grid}
space: {model.lstm_units: [50, 100], model.attention.kind: [zhou, max, structured],
        model.attention.hops: {values: [2, 4], when: {model.attention.kind: structured}}}
"""


def make_spec(folder: Path, text: str = SWEEP, storage: str | None = None, **overrides: Any) -> SweepSpec:
    """The sweep that a text defines; `folder` becomes the root of a project."""
    for name in ("dvc.yaml", "params.yaml"):
        (folder / name).touch()
    (folder / "sweep.yaml").write_text(text)
    content, space = read_sweep(folder / "sweep.yaml", Params(), overrides)
    roots = tuple(fold_data(space.base, content.folds)) if content.folds else (paths.PROJECT,)
    return SweepSpec(content, space, folder / "studies" / content.study, storage, 1, roots)


def train_units(job: TrialJob, params: Params, root: Path, on_epoch: Callable[[dict[str, Any]], None]) -> TrialScores:
    """Scores a trial by its units, in two epochs; a later fold is better by 3."""
    spec = job.spec
    score = params.model.lstm_units / 100 + 3 * spec.roots.index(root)
    for epoch in (1, 2):
        on_epoch({"epoch": epoch, f"dev_{spec.sweep.metric}": score + epoch})
    cost = 1000.0 * (1 + spec.roots.index(root)) - params.model.lstm_units if spec.sweep.against else None
    return TrialScores({spec.sweep.metric: score + 2}, 2, cost)


def run_here(
    next_job: Callable[[], Any], work: Callable[..., Any], workers: int, answer: Callable[..., Any]
) -> Iterator[tuple[TrialJob, Any]]:
    """As `run_jobs`, one job after the other in this process."""
    while (job := next_job()) is not None:
        yield job, work(job, partial(answer, job))


def run_sweep(
    spec: SweepSpec,
    budget: int,
    train: Callable[..., TrialScores] = train_units,
    execute: Callable[..., Iterator[Any]] = run_here,
    on_trial: Callable[[FrozenTrial], None] = lambda trial: None,
    seconds: float = math.inf,
) -> optuna.Study:
    """Runs a sweep in this process; `execute` replaces the worker processes."""
    with patch.object(sweep, "run_jobs", execute), patch.object(study, "POLL_SECONDS", 0.2), report_outages(spec):
        begun, stop = study.begin_study(spec), sweep.StopRequest(print)
        sweep.Driver(spec, begun, budget, 1, seconds, stop, on_trial, partial(run_trial, train=train)).run()
        return begun


def empty_study(spec: SweepSpec) -> optuna.Study:
    """The study of a sweep before its first trial is enqueued."""
    directions = ["maximize", "minimize"][: len(spec.sweep.objectives)]
    return optuna.create_study(study_name=spec.sweep.study, storage=spec.open(), directions=directions)


def stored_study(spec: SweepSpec) -> optuna.Study:
    return optuna.load_study(study_name=spec.sweep.study, storage=spec.open())


def start_and_die(study: optuna.Study) -> int:
    """A trial that is left running, as by a killed process."""
    trial = study.ask()
    trial.suggest_int(UNITS, 1, 1000)
    return trial.number


def add_trial(study: optuna.Study, units: int, *values: float, state: str = "COMPLETE", **attributes: Any) -> int:
    """A finished trial; returns its number, to which 100 added is its seed."""
    number = len(study.trials)
    study.add_trial(
        create_trial(
            state=TrialState[state],
            values=list(map(float, values)) or None,
            params={UNITS: units},
            distributions={UNITS: IntDistribution(1, 1000)},
            user_attrs={"seed": 100 + number, **attributes},
        )
    )
    return number
