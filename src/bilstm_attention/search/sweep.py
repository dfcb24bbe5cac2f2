"""The driver of a sweep: hands trials to workers until the budget is spent, over as many starts as it takes."""

import math
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import optuna
from optuna.trial import FrozenTrial, TrialState

from bilstm_attention.errors import SweepError, UserError
from bilstm_attention.paths import file_lock
from bilstm_attention.search.study import (
    JOB,
    POLL_SECONDS,
    SAMPLERS,
    SweepSpec,
    counted_trials,
    create_study,
    derived_seed,
    failure_reason,
    finished_trials,
    hide_password,
    recover,
    retry_trials,
    study_storage,
    trial_id,
)
from bilstm_attention.search.trial import TrialJob, run_trial
from bilstm_attention.search.workers import WorkerCrashed, run_jobs

MAX_FIRST_FAILURES = 3  # in a row, before any trial worked: the fault is then in all of them


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


def lock_study(spec: SweepSpec) -> AbstractContextManager[None]:
    """Keeps a second process of this machine from the same study, with a `SweepError`."""
    return file_lock(spec.folder, SweepError(f"{spec.folder}: the sweep runs already, in another process."))


def begin_study(spec: SweepSpec) -> optuna.Study:
    """Opens the study; a new one gets its first trials: the current parameters, or the whole grid.

    Raises:
        SweepError: it was begun with another space, other parameters or other data.
    """
    from bilstm_attention.tracking.environment import input_digests

    definition = {
        "sweep": spec.sweep.model_dump(mode="json", exclude={"confirm", "stop"}, exclude_none=True),
        "params": spec.space.base.model_dump(mode="json", exclude={"evaluate"}),
        "data": input_digests(),
    }
    study = create_study(spec)
    if "definition" not in study.user_attrs:
        study.set_user_attr("id", uuid.uuid4().hex)
        study.set_metric_names(spec.sweep.objectives)
        grid = spec.sweep.sampler.kind == "grid"
        for overrides in spec.space.grid() if grid else [spec.space.current()]:
            # an earlier start may have been killed here
            study.enqueue_trial(overrides, skip_if_exists=True)
        # last, since it says that the study has begun
        study.set_user_attr("definition", definition)
    begun = study.user_attrs["definition"]
    changed = [part for part in definition if begun.get(part) != definition[part]]
    if changed:
        place = hide_password(spec.storage) if spec.storage else spec.folder
        raise SweepError(
            f"{place}: the study {spec.sweep.study} was begun with another {' and other '.join(changed)}; give the"
            " new one another name (`study:` in its file), or delete the old one."
        )
    if spec.local:
        recover(study)
    return study


def out_of_patience(spec: SweepSpec, study: optuna.Study) -> bool:
    """Whether the last finished trials, as many as the patience of the sweep, brought no better dev score."""
    if spec.sweep.stop.patience is None:
        return False
    finished = sorted(finished_trials(study), key=lambda trial: (trial.datetime_complete, trial.number))
    scores = [trial.values[0] if trial.state == TrialState.COMPLETE else -math.inf for trial in finished]
    before = scores[: -spec.sweep.stop.patience]
    return bool(before) and max(before) >= max(scores)


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
    work: Callable[[TrialJob], int | None] = run_trial  # runs a trial in a worker
    job_count: int = 0
    active_jobs: int = 0
    idle_crashes: int = 0
    seen: set[int] = field(default_factory=set)

    def run(self) -> None:
        """Runs the trials; call it in `lock_study` and `report_outages`.

        Raises:
            SweepError: the first trials all failed, or the storage did not answer a worker.
        """
        self.end = time.monotonic() + self.seconds
        # across machines and starts
        self.prefix = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        trials = self.study.get_trials(deepcopy=False)
        self.started = len([trial for trial in trials if trial.state != TrialState.WAITING])
        try:
            while not self._is_over():
                if self._is_full():
                    # other machines run the last trials
                    time.sleep(POLL_SECONDS)
                for job, result in run_jobs(self._next_job, self.work, self.workers):
                    self.active_jobs -= 1
                    self._handle(job, result)
                self._retry_dead()
        finally:
            own = [trial for trial in self._running() if self.spec.local or _job(trial).startswith(self.prefix)]
            retry_trials(self.study, own)
        if len(finished_trials(self.study)) < self.budget and out_of_patience(self.spec, self.study):
            self.stop.print_line(f"stopped: no better trial among the last {self.spec.sweep.stop.patience}")

    def _is_over(self) -> bool:
        spent = len(finished_trials(self.study)) >= self.budget
        stopped = self.stop.requested or out_of_patience(self.spec, self.study)
        return stopped or time.monotonic() > self.end or spent

    def _is_full(self) -> bool:
        # not all jobs of this machine have begun their trial
        others = [trial for trial in self._running() if not _job(trial).startswith(self.prefix)]
        return len(finished_trials(self.study)) + self.active_jobs + len(others) >= self.budget

    def _next_job(self) -> TrialJob | None:
        if self._is_over() or self._is_full():
            return None
        name = f"{self.prefix}:{self.job_count}"
        # no two jobs draw with one seed: not those of this start, of earlier ones, or of other machines
        number = self.started + self.job_count
        salt = 0 if self.spec.local else uuid.uuid4().int % 2**31
        seed = derived_seed(self.spec.sweep.sampler.seed, SAMPLERS + number + salt)
        self.job_count += 1
        self.active_jobs += 1
        return TrialJob(self.spec, name, seed, self.budget)

    def _handle(self, job: TrialJob, result: int | UserError | WorkerCrashed | None) -> None:
        if isinstance(result, UserError):
            raise result
        if isinstance(result, WorkerCrashed):
            dead = [trial for trial in self._running() if _job(trial) == job.name]
            retry_trials(self.study, dead)
            numbers = [trial.number for trial in dead]
            self.idle_crashes = 0 if numbers else self.idle_crashes + 1
            if self.idle_crashes == MAX_FIRST_FAILURES:
                raise SweepError(f"workers end before they begin a trial; of the last, {result}.")
        else:
            self.idle_crashes, numbers = 0, [] if result is None else [result]
        finished = finished_trials(self.study)
        for trial in finished:
            if trial.number in numbers:
                self.on_trial(trial)
        if len(finished) >= MAX_FIRST_FAILURES and all(trial.state == TrialState.FAIL for trial in finished):
            reasons = [f"trial {trial.number}: {failure_reason(trial)}" for trial in finished[:MAX_FIRST_FAILURES]]
            raise SweepError(f"the first {MAX_FIRST_FAILURES} trials failed: {'; '.join(reasons)}.")

    def _running(self) -> list[FrozenTrial]:
        return counted_trials(self.study, TrialState.RUNNING)

    def _retry_dead(self) -> None:
        """Retries trials whose worker died: of a local study all, once none of its jobs runs."""
        if self.spec.local:
            retry_trials(self.study, self._running())
            return
        for number in {trial.number for trial in self._running()} - self.seen:
            # Optuna takes a trial for alive that was killed before its first heartbeat, so it gets one here
            study_storage(self.spec).record_heartbeat(trial_id(self.spec, number))
            self.seen.add(number)
        optuna.storages.fail_stale_trials(self.study)


def _job(trial: FrozenTrial) -> str:
    """The job that runs a trial; empty: none has stored its name yet."""
    number, name = trial.user_attrs.get(JOB, (None, ""))
    # a retried trial inherits the attributes of the one before
    return str(name) if number == trial.number else ""
