"""One trial of a sweep: parameters from the study, a training, its dev score back; runs in a worker process."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from bilstm_attention.config import Params, with_overrides
from bilstm_attention.console import start_tensorflow
from bilstm_attention.errors import TrainingError
from bilstm_attention.search.retries import (
    JOB,
    REASON,
    counted_trials,
    finished_trials,
    first_attempt,
    retry_if_cut_off,
)
from bilstm_attention.search.study import SweepSpec, derived_seed, is_outage, load_study, report_outages, store_result

if TYPE_CHECKING:
    from bilstm_attention.data.dataset import Dataset, Rows

TIMED_SENTENCES = 200
OnEpoch = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrialJob:
    """One trial that a worker runs.

    Args:
        spec: the sweep.
        name: of the job, unlike that of any other.
        sampler_seed: what the sampler draws with.
        budget: trials in all; no trial begins once so many have finished or run.
    """

    spec: SweepSpec
    name: str
    sampler_seed: int
    budget: int


@dataclass(frozen=True)
class TrialScores:
    """What the training of a trial measured.

    Args:
        dev: the scores of the best epoch.
        best_epoch: from 1.
        cost: the second objective of the sweep, where it has one.
    """

    dev: Mapping[str, float]
    best_epoch: int
    cost: float | None = None


Train = Callable[[SweepSpec, Params, int, OnEpoch], TrialScores]


def trial_params(spec: SweepSpec, overrides: Mapping[str, Any], *seeds: int) -> Params:
    """All parameters of a trial, with these seeds."""
    return with_overrides(spec.space.base, {**overrides, "train.seeds": list(seeds)})


def train_trial(spec: SweepSpec, params: Params, seed: int, on_epoch: OnEpoch) -> TrialScores:
    """Trains on the project's data."""
    # before TensorFlow is imported, or the settings of its threads and kernels come too late
    start_tensorflow()
    from bilstm_attention.training.fit import run_training

    dataset, against = _dataset(), spec.sweep.against
    result = run_training(params, dataset, seed, on_epoch=on_epoch)
    return TrialScores(result.dev, result.best_epoch, cost(against, result.model, dataset.dev) if against else None)


@lru_cache(maxsize=1)
def _dataset() -> "Dataset":
    """The arrays, read once per worker."""
    from bilstm_attention.data.dataset import load_dataset

    return load_dataset()


def run_trial(job: TrialJob, train: Train = train_trial) -> int | None:
    """Draws parameters, trains, and stores the dev score of the best epoch.

    A training that fails is the outcome of its trial, with the reason, and not the end of the sweep. A trial that the
    storage cut off is enqueued again.

    Returns:
        the number of the trial; None: the budget is spent, or another machine has taken the trial over.

    Raises:
        SweepError: the storage does not answer.
    """
    with report_outages(job.spec):
        study = load_study(job.spec, job.sampler_seed)
        if len(finished_trials(study)) + len(counted_trials(study, TrialState.RUNNING)) >= job.budget:
            # other machines were quicker
            return None
        objective = _Objective(job, study, train)
        try:
            study.optimize(objective, n_trials=1, catch=(Exception,), callbacks=[retry_if_cut_off])
        except (AssertionError, ValueError, UpdateFinishedTrialError):
            # Another has ended the trial. It took this process for dead, or SQLite let both take it from the queue.
            if objective.number is None or not study.trials[objective.number].state.is_finished():
                raise
            return None
        return objective.number


@dataclass
class _Objective:
    """The function that Optuna optimizes; remembers the trial it was called with."""

    job: TrialJob
    study: optuna.Study
    train: Train
    number: int | None = None

    def __call__(self, trial: optuna.Trial) -> float | tuple[float, float]:
        self.number, spec = trial.number, self.job.spec
        # with its number, since a retried trial inherits the attributes of the one before
        trial.set_user_attr(JOB, [trial.number, self.job.name])
        # the same for all attempts of a trial, so that a kill changes no result
        seed = derived_seed(spec.sweep.sampler.seed, first_attempt(self.study.get_trials(deepcopy=False)[trial.number]))
        overrides = spec.space.suggest(trial)
        trial.set_user_attr("seed", seed)
        history: list[dict[str, Any]] = []

        def on_epoch(row: dict[str, Any]) -> None:
            history.append(row)
            # with two objectives Optuna prunes nothing
            if not spec.sweep.against:
                trial.report(row[f"dev_{spec.sweep.metric}"], row["epoch"])
                if trial.should_prune():
                    raise optuna.TrialPruned

        reason, scores = None, None
        try:
            scores = self.train(spec, trial_params(spec, overrides, seed), seed, on_epoch)
            score = scores.dev[spec.sweep.metric]
            return score if scores.cost is None else (score, scores.cost)
        except Exception as error:
            if not isinstance(error, optuna.TrialPruned | UpdateFinishedTrialError) and not is_outage(error):
                reason = error_line(error)
            raise
        finally:
            result: dict[str, Any] = {"history": history}
            if scores:
                result |= {"dev": dict(scores.dev), "best_epoch": scores.best_epoch}
            # before the trial ends, since Optuna adds nothing to it then
            store_result(spec, trial.number, result)
            if reason:
                trial.set_user_attr(REASON, reason)


def error_line(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, TrainingError):
        return str(error)
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def cost(kind: str, model: Any, dev: "Rows") -> float:
    """The second objective of a sweep: `latency_ms` or `parameters`."""
    return latency_ms(model, dev) if kind == "latency_ms" else float(parameters(model))


def parameters(model: Any) -> int:
    """Trainable weights without the word vectors, whose number does not depend on the network."""
    vectors = {id(variable) for variable in model.get_layer("embedding").variables}
    return sum(math.prod(each.shape) for each in model.trainable_variables if id(each) not in vectors)


def latency_ms(model: Any, dev: "Rows") -> float:
    """Median milliseconds of a forward pass of one sentence alone, over sentences of dev; the first is not timed."""
    from bilstm_attention.data.dataset import pad
    from bilstm_attention.model.predict import forward_pass

    forward, times = forward_pass(model), []
    for row in (0, *range(min(TIMED_SENTENCES, len(dev)))):
        tokens = pad(dev, np.asarray([row]))
        started = time.perf_counter()
        forward(tokens).numpy()
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times[1:]))
