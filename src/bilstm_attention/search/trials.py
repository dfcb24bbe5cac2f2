"""One trial of a sweep: parameters from the study, a training, its dev score back; runs in a worker."""

import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError

from bilstm_attention.config import Params, with_overrides
from bilstm_attention.console import start_tensorflow
from bilstm_attention.errors import SweepError, TrainingError
from bilstm_attention.search.storage import outages, report_outages
from bilstm_attention.search.study import REPLACES, SURPLUS, SweepSpec, derived_seed, is_surplus, open_study, try_again

if TYPE_CHECKING:
    from bilstm_attention.data.dataset import Dataset

# Attribute of a trial: what its training gave.
FOUND = "found"


@dataclass(frozen=True)
class Job:
    """A trial, or, with the number of one, its parameters and a seed, the confirmation of it.

    Args:
        budget: trials of the study in all; one more than these is dropped.
        number: of the trial to confirm.
        seed: with which.
        overrides: its parameters.
    """

    budget: int = 0
    number: int | None = None
    seed: int = 0
    overrides: tuple[tuple[str, Any], ...] = ()


class Dropped(Exception):  # noqa: N818
    """A trial that was one too many."""


@lru_cache(maxsize=1)
def _task() -> "Dataset":
    """The arrays, read once per worker."""
    from bilstm_attention.data.dataset import load_dataset

    return load_dataset()


def do(definition: SweepSpec, job: Job, task: "Dataset | None" = None) -> int | None:
    """Does a job, on the arrays given or those of the project; returns the number of its trial, None if dropped.

    Without its database a worker of this machine ends with a line that says so.

    Raises:
        SweepError: on arrays given, which is on a cluster: the database does not answer.
    """
    start_tensorflow()
    arrays = task or _task()
    try:
        with report_outages(definition.storage):
            if job.number is not None:
                # what a worker of a cluster writes may be on another machine
                return confirm(definition, job, arrays, keep=task is None)
            return run_trial(definition, job.budget, arrays)
    except SweepError as error:
        # a cluster takes it to the parent
        if task:
            raise
        raise SystemExit(f"a worker ends: {str(error).splitlines()[0]}") from None


def worker_name(parent: int, process: int) -> str:
    """How a trial names the process that runs it: by machine, by the process that started that one, and by its own."""
    return f"{socket.gethostname()}:{parent}:{process}"


def run_trial(definition: SweepSpec, budget: int, task: "Dataset") -> int | None:
    """Asks the study for parameters, trains, and tells it the dev score of the best epoch.

    Whatever goes wrong in a training is the outcome of the trial, with its reason, and not the end of the sweep. What
    an outage of the database cuts off is tried again.
    """
    study, numbers = open_study(definition), list[int]()

    def objective(trial: optuna.Trial) -> float | tuple[float, float]:
        try:
            return begun(trial)
        except outages():
            # while the outage lasts this raises as well, and the trial is one whose worker died
            try_again(study, study._storage.get_trial(trial._trial_id))
            raise

    def begun(trial: optuna.Trial) -> float | tuple[float, float]:
        if definition.storage:
            # before it has a name: one with a name and no heartbeat would never be known to have died
            study._storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
        trial.set_user_attr("worker", worker_name(os.getppid(), os.getpid()))
        if is_surplus(study, trial.number, budget):
            given = study._storage.get_trial(trial._trial_id)
            if given.params or given.system_attrs.get("fixed_params"):
                # not drawn, and so not there to be drawn again: it waits for a larger budget
                try_again(study, given)
            trial.set_user_attr(SURPLUS, True)
            raise Dropped
        numbers.append(trial.number)
        return _trained(definition, trial, task)

    try:
        study.optimize(objective, n_trials=1, catch=(Exception,))
    except Exception as error:
        # where select_disagreements the outcome fails, Optuna may fall over that
        met = (isinstance(error, AssertionError | UnboundLocalError) and error.__context__) or error
        if numbers and isinstance(met, ValueError | UpdateFinishedTrialError):
            # others have ended it and try it again, since this machine slept or its network was cut
            return None
        raise met from met.__cause__
    return numbers[0] if numbers else None


def _trained(definition: SweepSpec, trial: optuna.Trial, task: "Dataset") -> float | tuple[float, float]:
    from bilstm_attention.search.cost import cost
    from bilstm_attention.training.fit import run_training

    sweep, started = definition.sweep, time.monotonic()
    first, *_ = trial.user_attrs.get(REPLACES, [trial.number])
    seed = derived_seed(sweep.sampler.seed, first)
    trial.set_user_attr("seed", seed)
    found: dict[str, Any] = {"history": []}

    def report(row: dict[str, Any]) -> None:
        found["history"].append(row)
        # with two objectives Optuna prunes nothing
        if not sweep.against:
            trial.report(row[f"dev_{sweep.metric}"], row["epoch"])
            if trial.should_prune():
                raise optuna.TrialPruned

    try:
        found["overrides"] = definition.space.suggest(trial)
        params = trial_params(definition, found["overrides"], seed)
        fitted = run_training(params, task, seed, on_epoch=report)
        found |= {"dev": fitted.dev, "best_epoch": fitted.best_epoch}
        score = fitted.dev[sweep.metric]
        return (score, cost(sweep.against, fitted.model, task.dev)) if sweep.against else score
    except optuna.TrialPruned:
        raise
    except Exception as error:
        trial.set_user_attr("reason", reason_of(error))
        raise
    finally:
        # before the trial ends, since nothing can be added to it then
        trial.set_user_attr(FOUND, {**found, "seconds": time.monotonic() - started})


def confirm(definition: SweepSpec, job: Job, task: "Dataset", keep: bool) -> int | None:
    """Trains the parameters of a trial with another seed, and keeps its dev scores and answers in the study.

    Args:
        definition: the sweep.
        job: which trial, and which seed.
        task: the arrays.
        keep: whether the model is kept, in the folder of the study.
    """
    from bilstm_attention.model.classifier import save_classifier
    from bilstm_attention.model.predict import predict
    from bilstm_attention.training.fit import run_training

    params, started = with_overrides(definition.space.base, dict(job.overrides)), time.monotonic()
    found: dict[str, Any]
    try:
        fitted = run_training(params, task, job.seed)
        answers = np.argmax(predict(fitted.model, task.dev), axis=1)
        found = {"dev": fitted.dev, "answers": answers.tolist()}
    except Exception as error:
        found = {"reason": reason_of(error)}
    else:
        # without it the sweep has its winner, and nothing to log
        with suppress(OSError):
            if keep:
                save_classifier(fitted.model, confirmed_model(definition, job.number or 0, job.seed))
    found["seconds"] = time.monotonic() - started
    open_study(definition).set_user_attr(confirmation(job.number or 0, job.seed), found)
    return job.number


def confirmation(number: int, seed: int) -> str:
    """Attribute of the study: what the parameters of one trial gave with another seed."""
    return f"trial {number} with seed {seed}"


def confirmed_model(definition: SweepSpec, number: int, seed: int) -> Path:
    """Where the model of a confirmation is kept."""
    return definition.folder / f"models/trial-{number:04d}-seed-{seed}.keras"


def trial_params(definition: SweepSpec, overrides: dict[str, Any], seed: int) -> Params:
    """All parameters of a trial, its seed among them."""
    return with_overrides(definition.space.base, {**overrides, "train.seeds": [seed]})


def reason_of(error: Exception) -> str:
    """One line that says what went wrong."""
    if isinstance(error, TrainingError):
        return str(error)
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
