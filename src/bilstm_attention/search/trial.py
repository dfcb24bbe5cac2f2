"""One trial of a sweep: parameters from the study, its trainings, their dev score back; runs in a worker process."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pandas as pd
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from bilstm_attention.config import Params, with_overrides
from bilstm_attention.console import start_tensorflow
from bilstm_attention.errors import TrainingError
from bilstm_attention.search.study import (
    JOB,
    REASON,
    SweepSpec,
    counted_trials,
    derived_seed,
    finished_trials,
    first_attempt,
    heartbeats,
    is_outage,
    load_study,
    report_outages,
    retry_callback,
    study_storage,
    trial_id,
)
from bilstm_attention.search.trainings import read_dataset

if TYPE_CHECKING:
    from bilstm_attention.data.dataset import Rows

TIMED_SENTENCES = 200
OnEpoch = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrialJob:
    """One trial that a worker runs."""

    spec: SweepSpec
    name: str  # unlike that of any other job
    sampler_seed: int
    budget: int  # trials in all; no trial begins once so many have finished or run


@dataclass(frozen=True)
class TrialScores:
    """What the training of a trial measured."""

    dev: Mapping[str, float]  # of the best epoch
    best_epoch: int  # from 1
    cost: float | None = None  # the second objective of the sweep, where it has one


Train = Callable[[SweepSpec, Params, int, Path, OnEpoch], TrialScores]


def trial_params(spec: SweepSpec, overrides: Mapping[str, Any], *seeds: int) -> Params:
    """All parameters of a trial, with these seeds."""
    return with_overrides(spec.space.base, {**overrides, "train.seeds": list(seeds)})


def train_trial(spec: SweepSpec, params: Params, seed: int, root: Path, on_epoch: OnEpoch) -> TrialScores:
    """Trains on the data prepared under `root`."""
    # before TensorFlow is imported, or the settings of its threads and kernels come too late
    start_tensorflow()
    from bilstm_attention.training.fit import run_training

    dataset, against = read_dataset(root), spec.sweep.against
    result = run_training(params, dataset, seed, on_epoch=on_epoch)
    return TrialScores(result.dev, result.best_epoch, cost(against, result.model, dataset.dev) if against else None)


def run_trial(job: TrialJob, train: Train = train_trial) -> int | None:
    """Draws parameters, trains, and stores the dev score of the best epoch, or its mean over the folds.

    A training that fails is the outcome of its trial, with the reason, and not the end of the sweep. A trial that the
    storage cut off is enqueued again.

    Returns:
        the number of the trial; None: the budget is spent, or another process has ended the trial.

    Raises:
        SweepError: the storage does not answer.
    """
    with report_outages(job.spec):
        study = load_study(job.spec, job.sampler_seed)
        if len(finished_trials(study)) + len(counted_trials(study, TrialState.RUNNING)) >= job.budget:
            # other machines were quicker
            return None
        optuna.storages.fail_stale_trials(study)
        trial = study.ask()
        values, state = None, None
        try:
            with heartbeats(job.spec, trial.number):
                values = _train_trial(job, study, trial, train)
        except optuna.TrialPruned:
            state = TrialState.PRUNED
        except Exception:
            state = TrialState.FAIL
        try:
            ended = study.tell(trial, values, state)
        except (ValueError, UpdateFinishedTrialError):
            # Another has ended the trial. It took this process for dead, or SQLite let both take it from the queue.
            return None
        if ended.state == TrialState.FAIL and REASON not in ended.user_attrs:
            # the storage cut it off
            retry_callback()(study, ended)
        return trial.number


def _train_trial(job: TrialJob, study: optuna.Study, trial: optuna.Trial, train: Train) -> list[float]:
    """Trains a trial on each fold, or once on the data of the project; returns the values of its objectives."""
    spec, metric = job.spec, job.spec.sweep.metric
    # with its number, since a retried trial inherits the attributes of the one before
    trial.set_user_attr(JOB, [trial.number, job.name])
    # the same for all attempts of a trial, so that a kill changes no result
    seed = derived_seed(spec.sweep.sampler.seed, first_attempt(study.get_trials(deepcopy=False)[trial.number]))
    params = trial_params(spec, spec.space.suggest(trial), seed)
    trial.set_user_attr("seed", seed)
    rows, folds = list[dict[str, Any]](), list[TrialScores]()

    def report(score: float, step: int) -> None:
        # with two objectives Optuna prunes nothing; after its last fold a trial is complete
        if not spec.sweep.against:
            trial.report(score, step)
            if trial.should_prune() and len(folds) < len(spec.roots):
                raise optuna.TrialPruned

    def on_epoch(row: dict[str, Any]) -> None:
        rows.append(row)
        if not spec.sweep.folds:
            report(row[f"dev_{metric}"], row["epoch"])

    try:
        for root in spec.roots:
            folds.append(train(spec, params, seed, root, on_epoch))
            if spec.sweep.folds:
                report(_mean_dev(folds)[metric], len(folds))
        return [_mean_dev(folds)[metric], *([] if folds[-1].cost is None else [folds[-1].cost])]
    except Exception as error:
        if not isinstance(error, optuna.TrialPruned | UpdateFinishedTrialError) and not is_outage(error):
            trial.set_user_attr(REASON, error_line(error))
        raise
    finally:
        # before the trial ends, since Optuna adds nothing to it then
        history = pd.DataFrame(rows).groupby("epoch", as_index=False).mean().to_dict("records") if rows else []
        result: dict[str, Any] = {"history": history}
        if len(folds) == len(spec.roots):
            result |= {"dev": _mean_dev(folds), "best_epoch": folds[-1].best_epoch}
        if spec.sweep.folds:
            result["dev_by_fold"] = [dict(each.dev) for each in folds]
        # a system attribute, since optuna-dashboard shows the others in full
        study_storage(spec).set_trial_system_attr(trial_id(spec, trial.number), "result", result)


def _mean_dev(folds: Sequence[TrialScores]) -> dict[str, float]:
    return {name: fmean(each.dev[name] for each in folds) for name in folds[0].dev}


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
