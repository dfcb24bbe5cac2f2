"""Sweeps in a folder of their own, whose trials end as a test says and not by training."""

from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import IntDistribution
from optuna.trial import TrialState, create_trial

from bilstm_attention.config import Params
from bilstm_attention.search.space import read_sweep
from bilstm_attention.search.study import SweepSpec
from bilstm_attention.search.sweep import confirmation_seeds
from bilstm_attention.search.trials import FOUND, confirmation

UNITS, HOPS, KIND = "model.lstm_units", "model.attention.hops", "model.attention.kind"
LABELS = ["a", "b"]
GOLD = LABELS * 20
RIGHT, WRONG = [0, 1] * 20, [1, 0] * 20
SWEEP = """
study: s
metric: accuracy
sampler: {kind: random, seed: 3}
confirm: {top: 2, seeds: 2}
space: {model.lstm_units: {low: 1, high: 1000}}
"""
AGAINST = SWEEP.replace("metric: accuracy", "metric: accuracy\nagainst: latency_ms\npruner: {kind: none}")
GRID = """
study: g
sampler: {kind: grid}
space: {model.lstm_units: [50, 100], model.attention.kind: [zhou, max, structured],
        model.attention.hops: {values: [2, 4], when: {model.attention.kind: structured}}}
"""


def make_definition(folder: Path, text: str = SWEEP, storage: str | None = None, **overrides: Any) -> SweepSpec:
    """The sweep that a text defines; `folder` becomes the root of a project."""
    for name in ("dvc.yaml", "params.yaml"):
        (folder / name).touch()
    (folder / "sweep.yaml").write_text(text)
    sweep, space = read_sweep(folder / "sweep.yaml", Params(), overrides)
    # whole, since a process opens the journal of a path once
    definition = SweepSpec(sweep, space, folder / "studies" / sweep.study, storage, heartbeat=1)
    definition.folder.mkdir(parents=True, exist_ok=True)
    return definition


def add(study: optuna.Study, units: int, *values: float, state: str = "COMPLETE", **attributes: Any) -> int:
    """A trial that has ended; gives its number, to which 100 added is its seed."""
    number = len(study.trials)
    given = {"seed": 100 + number, FOUND: {"overrides": {UNITS: units}, "history": [], "seconds": 60.0}}
    study.add_trial(
        create_trial(
            state=TrialState[state],
            values=list(map(float, values)) or None,
            params={UNITS: units},
            distributions={UNITS: IntDistribution(1, 1000)},
            user_attrs=given | attributes,
        )
    )
    return number


def confirm(definition: SweepSpec, study: optuna.Study, number: int, *found: tuple[float, list[int]]) -> None:
    """What the parameters of a trial gave with fresh seeds: a score and answers each."""
    for seed, (score, answers) in zip(confirmation_seeds(definition), found, strict=False):
        content = {"dev": {definition.sweep.metric: score}, "answers": answers, "seconds": 30.0}
        study.set_user_attr(confirmation(number, seed), content)


def numbers(trials: list[Any]) -> list[int]:
    return [trial.number for trial in trials]


def in_state(study: optuna.Study, name: str) -> list[int]:
    """Numbers of all trials in a state, those that do not count among them."""
    return numbers(study.get_trials(states=(TrialState[name],)))
