"""The Optuna study of a sweep: how it draws, which of its trials count, which are tried again."""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.study._multi_objective import _get_pareto_front_trials_by_trials
from optuna.trial import FrozenTrial, TrialState, create_trial

from bilstm_attention.search.space import Pruner, Sampler, Space, Sweep
from bilstm_attention.search.storage import open_database, open_journal

# Seeds of confirmations, and of samplers, start where those of trials never come.
CONFIRMATIONS, SAMPLERS = 1_000_000, 2_000_000
RETRIES = 3  # of a trial whose worker died
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
# Attributes of a trial: those before it with the same parameters, whose workers died; that it was one too many.
REPLACES, SURPLUS = "replaces", "surplus"
DIED = "its worker died"


@dataclass(frozen=True)
class SweepSpec:
    """A sweep as its workers need it.

    Args:
        sweep: what its file says.
        space: the parameters that are tried, and those that all trials share.
        folder: `experiments/studies/<study>`.
        storage: address of a database that holds the study; None: a journal file in the folder.
        heartbeat: seconds between the signs of life of a trial in a database; after twice as long it has died.
    """

    sweep: Sweep
    space: Space
    folder: Path
    storage: str | None = None
    heartbeat: int = 60

    @property
    def journal(self) -> Path:
        """The file that holds the study where no database does."""
        return self.folder / "journal.log"


def derived_seed(study_seed: int, number: int) -> int:
    """The seed of a trial or a confirmation: of each its own, and the same whenever it is run again."""
    return int(np.random.SeedSequence((study_seed, number)).generate_state(1)[0] >> 1)


def open_study(definition: SweepSpec) -> optuna.Study:
    """The study of a sweep, made if it is not there.

    Raises:
        SweepError: the database does not answer.
    """
    # failed trials are told by whoever runs the sweep, with their reason
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sweep = definition.sweep
    given: dict[str, Any] = {
        "study_name": sweep.study,
        "sampler": PerTrialSampler(lambda number: _sampler(sweep.sampler, number)),
        "pruner": _pruner(sweep.pruner, definition.space.base.train.epochs),
    }
    if definition.storage:
        given["storage"] = open_database(definition.storage, definition.heartbeat, try_again)
    else:
        given["storage"] = open_journal(definition.journal)
    try:
        return optuna.load_study(**given)
    except KeyError:
        directions: list[Literal["maximize", "minimize"]] = ["maximize", "minimize"] if sweep.against else ["maximize"]
        return optuna.create_study(**given, directions=directions, load_if_exists=True)


class PerTrialSampler(BaseSampler):
    """Draws for every trial with a sampler of its own: no two workers draw the same, however a study was stopped.

    Args:
        make: a sampler for the trial of this number.
    """

    def __init__(self, make: Callable[[int], BaseSampler]):
        self._make = make
        self._sampler = make(0)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Called before anything of a trial is drawn."""
        self._sampler = self._make(trial.number)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What is drawn at once."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draws it."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draws one of the others."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """Called when a trial has ended."""
        self._sampler.after_trial(study, trial, state, values)


def _sampler(params: Sampler, number: int) -> BaseSampler:
    seed = derived_seed(params.seed, SAMPLERS + number)
    match params.kind:
        case "tpe":
            # constant_liar keeps workers from trying the same at the same time
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        case "random" | "grid":
            # a grid is handed to the study whole, so that nothing is left to draw
            return optuna.samplers.RandomSampler(seed=seed)
        case "gp":
            return optuna.samplers.GPSampler(seed=seed)
        case "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed)


def _pruner(params: Pruner, epochs: int) -> optuna.pruners.BasePruner:
    match params.kind:
        case "none":
            return optuna.pruners.NopPruner()
        case "median":
            # epochs count from 1
            return optuna.pruners.MedianPruner(n_warmup_steps=params.warmup_epochs + 1)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(max_resource=epochs)


def trials_in(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    """The trials in these states that are not replaced by another, and were not one too many; for reading only."""
    trials = study.get_trials(deepcopy=False)
    replaced = {number for trial in trials for number in trial.user_attrs.get(REPLACES, ())}
    return [
        trial
        for trial in trials
        if trial.state in states and trial.number not in replaced and not trial.user_attrs.get(SURPLUS)
    ]


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count against the budget: those that have ended."""
    return trials_in(study, *FINISHED)


def running(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that run, or whose worker died unnoticed."""
    return trials_in(study, TrialState.RUNNING)


def is_surplus(study: optuna.Study, number: int, budget: int) -> bool:
    """Whether a trial is one too many, since others of the study began while this one was about to."""
    earlier = trials_in(study, *FINISHED, TrialState.RUNNING)
    # those that wait to be tried again come first as well
    earlier += [trial for trial in trials_in(study, TrialState.WAITING) if REPLACES in trial.user_attrs]
    return sum(trial.number < number for trial in earlier) >= budget


def try_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Has the parameters of a trial that came to nothing tried once more, unless done too often or already."""
    before = [*trial.user_attrs.get(REPLACES, ()), trial.number]
    known = [other.user_attrs.get(REPLACES) for other in study.get_trials(deepcopy=False)]
    if len(before) > RETRIES or before in known:
        return
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={REPLACES: before},
            # those it was given and had not asked for yet
            system_attrs={"fixed_params": trial.system_attrs.get("fixed_params", {})},
        )
    )


def end_dead(study: optuna.Study, trials: Iterable[FrozenTrial]) -> None:
    """Marks trials whose worker died as failed, and has their parameters tried again; harmless if done twice."""
    for trial in trials:
        # it may end meanwhile, or be ended by another process
        with suppress(UpdateFinishedTrialError):
            study._storage.set_trial_user_attr(trial._trial_id, "reason", DIED)
            # first, or a process killed between the two would lose them
            try_again(study, trial)
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Those that ended well, the best first, of equals the first; the same parameters once.

    Of two objectives: those on the Pareto front, by the first.
    """
    complete = trials_in(study, TrialState.COMPLETE)
    if len(study.directions) > 1:
        # not `study.best_trials`, which asks trials that do not count as well
        complete = _get_pareto_front_trials_by_trials(complete, study.directions)
    ranked = sorted(complete, key=lambda trial: (-trial.values[0], trial.number))
    different: dict[str, FrozenTrial] = {}
    for trial in ranked:
        different.setdefault(json.dumps(trial.params, sort_keys=True), trial)
    return list(different.values())
