"""The trials of a sweep: the driver begins and ends them in the storage, workers train them, until the budget is spent.

Workers never open the storage: what they measure comes through their pipes.
"""

import math
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pandas as pd
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from bilstm_attention.config import Params, with_overrides
from bilstm_attention.console import start_tensorflow
from bilstm_attention.errors import SweepError, TrainingError, UserError
from bilstm_attention.search import study as studies
from bilstm_attention.search.study import REASON, SweepSpec, derived_seed, finished_trials
from bilstm_attention.search.trainings import read_dataset
from bilstm_attention.search.workers import Report, run_jobs

if TYPE_CHECKING:
    from bilstm_attention.data.dataset import Rows

MAX_FIRST_FAILURES = 3  # in a row, before any trial worked: the fault is then in all of them
TIMED_SENTENCES = 200
OnEpoch = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrialJob:
    """A trial that the driver has begun."""

    spec: SweepSpec
    number: int
    overrides: Mapping[str, Any]
    seed: int


@dataclass(frozen=True)
class TrialScores:
    """What one training of a trial measured."""

    dev: Mapping[str, float]  # of the best epoch
    best_epoch: int  # from 1
    cost: float | None = None  # the second objective of the sweep, where it has one


@dataclass
class TrialResult:
    """All that a trial measured until it ended."""

    rows: list[dict[str, Any]] = field(default_factory=list)  # of each epoch, of all folds
    folds: list[TrialScores] = field(default_factory=list)  # one without folds
    state: TrialState = TrialState.COMPLETE
    reason: str = ""  # why it failed

    @property
    def dev(self) -> dict[str, float]:
        """Means over the folds so far."""
        return {name: fmean(each.dev[name] for each in self.folds) for name in self.folds[0].dev}


class StopRequest:
    """Answers Ctrl-C: the first lets running trials end, the second ends them."""

    def __init__(self, print_line: Callable[[str], None]) -> None:
        self.requested, self.print_line = False, print_line

    def __enter__(self) -> "StopRequest":
        self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _handle(self, *_: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self.print_line("stopping when the running trials have ended, or now by Ctrl-C; the same command resumes")


def trial_params(spec: SweepSpec, overrides: Mapping[str, Any], *seeds: int) -> Params:
    """All parameters of a trial, with these seeds."""
    return with_overrides(spec.space.base, {**overrides, "train.seeds": list(seeds)})


def train_trial(job: TrialJob, params: Params, root: Path, on_epoch: OnEpoch) -> TrialScores:
    """Trains on the data prepared under `root`."""
    # before TensorFlow is imported, or the settings of its threads and kernels come too late
    start_tensorflow()
    from bilstm_attention.training.fit import run_training

    dataset, against = read_dataset(root), job.spec.sweep.against
    result = run_training(params, dataset, job.seed, on_epoch=on_epoch)
    return TrialScores(result.dev, result.best_epoch, cost(against, result.model, dataset.dev) if against else None)


def run_trial(
    job: TrialJob, report: Report, train: Callable[[TrialJob, Params, Path, OnEpoch], TrialScores] = train_trial
) -> TrialResult:
    """Trains on each fold, or once; a training that fails is the outcome of its trial, and not the end of the sweep.

    `report` has the driver store a score and its step, an epoch or the folds done, and returns whether to prune; before
    the first it says that the worker has begun.
    """
    result, sweep, roots = TrialResult(), job.spec.sweep, job.spec.roots
    report(None)

    def prune(score: float, step: int) -> None:
        # with two objectives Optuna prunes nothing; after its last fold a trial is complete
        if not sweep.against and report((score, step)) and len(result.folds) < len(roots):
            raise optuna.TrialPruned

    def on_epoch(row: dict[str, Any]) -> None:
        result.rows.append(row)
        if not sweep.folds:
            prune(row[f"dev_{sweep.metric}"], row["epoch"])

    try:
        params = trial_params(job.spec, job.overrides, job.seed)
        for root in roots:
            result.folds.append(train(job, params, root, on_epoch))
            if sweep.folds:
                prune(result.dev[sweep.metric], len(result.folds))
    except optuna.TrialPruned:
        result.state = TrialState.PRUNED
    except Exception as error:
        result.state, result.reason = TrialState.FAIL, error_line(error)
    return result


def error_line(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, TrainingError):
        return str(error)
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def cost(kind: str, model: Any, dev: "Rows") -> float:
    """The second objective of a sweep: `latency_ms` or `parameters`.

    That is the median of a forward pass of one sentence alone, over sentences of dev; or trainable weights without the
    word vectors, whose number does not depend on the network.
    """
    from bilstm_attention.data.dataset import pad
    from bilstm_attention.model.predict import forward_pass

    if kind == "parameters":
        vectors = {id(variable) for variable in model.get_layer("embedding").variables}
        return float(sum(math.prod(each.shape) for each in model.trainable_variables if id(each) not in vectors))
    forward, times = forward_pass(model), []
    # the first pass traces the graph, and does not count
    for row in (0, *range(min(TIMED_SENTENCES, len(dev)))):
        tokens = pad(dev, np.asarray([row]))
        started = time.perf_counter()
        forward(tokens).numpy()
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times[1:]))


@dataclass
class Driver:
    """One start of a sweep: runs trials until `budget` of them have finished, those of earlier starts counted."""

    spec: SweepSpec
    study: optuna.Study  # from `begin_study`
    budget: int  # of a grid at most its combinations
    workers: int  # processes of this machine
    seconds: float  # after which no new trial begins
    stop: StopRequest
    on_trial: Callable[[FrozenTrial], None]  # called with each trial that this machine finishes
    work: Callable[[TrialJob, Report], TrialResult] = run_trial  # runs a trial in a worker
    running: dict[int, optuna.Trial] = field(default_factory=dict)  # of this machine, by number
    seen: set[int] = field(default_factory=set)  # the trials that certainly have a heartbeat
    begun: set[int] = field(default_factory=set)  # the trials that a worker has received
    idle_crashes: int = 0  # of workers, in a row, before they received their trial

    def run(self) -> None:
        """Runs the trials, for whoever holds the lock of the folder; a `SweepError` if nothing works."""
        self.end = time.monotonic() + self.seconds
        try:
            with studies.heartbeats(self.spec, self.running):
                while not self._is_over():
                    for job, result in run_jobs(self._next_job, self.work, self.workers, self._report):
                        self._finish(job, result)
                    if not self._is_over():
                        # other machines run the last trials
                        time.sleep(studies.POLL_SECONDS)
        finally:
            studies.retry_trials(self.study, self.running)
        if len(finished_trials(self.study)) < self.budget and out_of_patience(self.spec, self.study):
            self.stop.print_line(f"stopped: no better trial among the last {self.spec.sweep.stop.patience}")

    def _is_over(self) -> bool:
        spent = len(finished_trials(self.study)) >= self.budget
        stopped = self.stop.requested or out_of_patience(self.spec, self.study)
        return stopped or time.monotonic() > self.end or spent

    def _next_job(self) -> TrialJob | None:
        if self._is_over():
            return None
        self._retry_stale()
        if len(finished_trials(self.study)) + len(self._all_running()) >= self.budget:
            return None
        begun = [trial for trial in self.study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
        self.study.sampler = studies.make_sampler(self.spec, len(begun))
        trial = self.study.ask()
        self.running[trial.number] = trial
        overrides = self.spec.space.suggest(trial)
        # the same for all attempts of a trial, so that a kill changes no result
        attempt = studies.first_attempt(self.study.get_trials(deepcopy=False)[trial.number])
        seed = derived_seed(self.spec.sweep.sampler.seed, attempt)
        trial.set_user_attr("seed", seed)
        return TrialJob(self.spec, trial.number, overrides, seed)

    def _all_running(self) -> list[FrozenTrial]:
        return studies.counted_trials(self.study, TrialState.RUNNING)

    def _retry_stale(self) -> None:
        """Retries trials of other machines that died."""
        if not self.spec.local:
            for number in {trial.number for trial in self._all_running()} - self.seen:
                # Optuna takes a trial for alive that was killed before its first heartbeat, so it gets one here
                self.spec.open().record_heartbeat(self.spec.trial_id(number))
                self.seen.add(number)
            optuna.storages.fail_stale_trials(self.study)

    def _report(self, job: TrialJob, report: tuple[float, int] | None) -> bool:
        if report is None:
            self.begun.add(job.number)
            return False
        trial = self.running[job.number]
        with suppress(UpdateFinishedTrialError):
            trial.report(*report)
            return trial.should_prune()
        # another machine took this one for dead
        return True

    def _finish(self, job: TrialJob, result: TrialResult | UserError) -> None:
        trial = self.running.pop(job.number)
        if isinstance(result, UserError):
            studies.retry_trials(self.study, [job.number])
            self.idle_crashes = 0 if job.number in self.begun else self.idle_crashes + 1
            if self.idle_crashes == MAX_FIRST_FAILURES:
                raise SweepError(f"workers end before they begin a trial; of the last, {result}")
        else:
            try:
                self._store(trial, result)
            except (ValueError, UpdateFinishedTrialError):
                # Another has ended the trial. It took this machine for dead, or SQLite let both take it from the queue.
                return
        finished = finished_trials(self.study)
        for each in finished:
            if each.number == job.number:
                self.on_trial(each)
        if len(finished) >= MAX_FIRST_FAILURES and all(each.state == TrialState.FAIL for each in finished):
            reasons = [f"trial {each.number}: {studies.failure_reason(each)}" for each in finished[:MAX_FIRST_FAILURES]]
            raise SweepError(f"the first {MAX_FIRST_FAILURES} trials failed: {'; '.join(reasons)}.")

    def _store(self, trial: optuna.Trial, result: TrialResult) -> None:
        """Ends a trial; its score is that of the best epoch, or the mean over the folds."""
        sweep, history = self.spec.sweep, pd.DataFrame(result.rows, columns=None if result.rows else ["epoch"])
        attribute: dict[str, Any] = {"history": history.groupby("epoch", as_index=False).mean().to_dict("records")}
        if len(result.folds) == len(self.spec.roots):
            attribute |= {"dev": result.dev, "best_epoch": result.folds[-1].best_epoch}
        if sweep.folds:
            attribute["dev_by_fold"] = [dict(each.dev) for each in result.folds]
        # before the trial ends, since Optuna adds nothing to it then
        if result.reason:
            trial.set_user_attr(REASON, result.reason)
        # a system attribute, since optuna-dashboard shows the others in full
        self.spec.open().set_trial_system_attr(self.spec.trial_id(trial.number), "result", attribute)
        values = None
        if result.state == TrialState.COMPLETE:
            values = [result.dev[sweep.metric], *([result.folds[-1].cost or 0.0] if sweep.against else [])]
        self.study.tell(trial, values, result.state)


def out_of_patience(spec: SweepSpec, study: optuna.Study) -> bool:
    """Whether the last finished trials, as many as the patience of the sweep, brought no better dev score."""
    if spec.sweep.stop.patience is None:
        return False
    finished = sorted(finished_trials(study), key=lambda trial: (trial.datetime_complete, trial.number))
    scores = [trial.values[0] if trial.state == TrialState.COMPLETE else -math.inf for trial in finished]
    before = scores[: -spec.sweep.stop.patience]
    return bool(before) and max(before) >= max(scores)
