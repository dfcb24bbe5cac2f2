"""A sweep: trials handed to workers until the budget is spent, over as many starts as it takes, nothing lost."""

import os
import random
import signal
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from bilstm_attention.errors import SweepError
from bilstm_attention.paths import file_lock
from bilstm_attention.search.storage import shown
from bilstm_attention.search.study import (
    CONFIRMATIONS,
    SweepSpec,
    best_trials,
    counted,
    derived_seed,
    end_dead,
    open_study,
    running,
)
from bilstm_attention.search.trials import FOUND, Job, confirmation, do, worker_name
from bilstm_attention.search.workers import WorkerCrashed, run_jobs

SECONDS_BETWEEN_LOOKS, SECONDS_TO_BEGIN = 2, 60  # at a database, while others finish the last trials
FAILURES_AT_START = 3  # in a row, before anything worked, end the sweep: the fault is then everywhere
# Does jobs: called with what gives another, and what does one.
Executor = Callable[[Callable[[int], Any], Callable[..., Any]], Iterator[tuple[Any, Any]]]


def local_executor(workers: int) -> Executor:
    """Worker processes of this machine."""

    def execute(another: Callable[[int], Any], work: Callable[..., Any]) -> Iterator[tuple[Any, Any]]:
        running = 0

        def next_job() -> Any:
            nonlocal running
            job = another(running)
            running += job is not None
            return job

        for result in run_jobs(next_job, work, workers):
            running -= 1
            yield result

    return execute


class Stopping:
    """Answers Ctrl-C: the first lets running trials end, the second ends them.

    Args:
        say: prints a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked, self._say = False, say

    def __enter__(self) -> "Stopping":
        self._before = signal.signal(signal.SIGINT, self._asked)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _asked(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self._say("stopping when the running trials have ended; Ctrl-C again stops them now")


@contextmanager
def locked(definition: SweepSpec) -> Iterator[None]:
    """Keeps a second process from the same study.

    Raises:
        SweepError: another has it.
    """
    taken = SweepError(f"{definition.folder}: the sweep runs already, in another process.")
    with file_lock(definition.folder, taken):
        yield


def search(
    definition: SweepSpec,
    budget: int,
    crew: Executor,
    seconds: float,
    stopping: Stopping,
    on_trial: Callable[[optuna.Study, FrozenTrial | None], None],
) -> optuna.Study:
    """Runs trials until `budget` of them have ended, those of earlier starts counted; call it inside `locked`.

    Args:
        definition: the sweep.
        budget: trials in all.
        crew: who does them.
        seconds: after which no new trial begins.
        stopping: whether Ctrl-C was pressed.
        on_trial: called with the study before the first trial, and then with each that has ended.

    Raises:
        SweepError: the study is of another space, or the first trials all failed.
    """
    study, end = _begun(definition), time.monotonic() + seconds
    if definition.sweep.sampler.kind == "grid":
        budget = min(budget, len(definition.space.grid()))

    def over() -> bool:
        return stopping.asked or time.monotonic() > end or len(counted(study)) >= budget

    def another(busy: int) -> Job | None:
        # those that run may be of other machines, and not all that are busy here have begun
        full = len(counted(study)) + max(busy, len(running(study))) >= budget
        return None if full or over() else Job(budget=budget)

    on_trial(study, None)
    seen: dict[int, float] = {}
    try:
        while not over():
            if another(0):
                _work_off(definition, study, crew, another, on_trial)
            else:
                time.sleep(SECONDS_BETWEEN_LOOKS)
            _end_silent(definition, study, seen)
    finally:
        # nobody else has a journal; of a database, the workers of this process
        mine = worker_name(os.getpid(), 0).removesuffix("0")
        end_dead(study, [each for each in running(study) if not definition.storage or _worker(each).startswith(mine)])
    return study


def _begun(definition: SweepSpec) -> optuna.Study:
    """The study, with what is to be tried first."""
    from bilstm_attention.tracking.environment import input_digests

    study = open_study(definition)
    if not definition.storage:
        # nobody else has the journal, so whoever ran these is gone; of some perhaps while it was ending them
        end_dead(study, study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
    now = {
        "sweep": definition.sweep.model_dump(mode="json", exclude={"confirm"}, exclude_none=True),
        "params": definition.space.base.model_dump(mode="json", exclude={"evaluate"}),
        "data": input_digests(),
    }
    if "definition" not in study.user_attrs and _begins(definition, study):
        study.set_user_attr("id", uuid.uuid4().hex)
        with warnings.catch_warnings():
            # Optuna calls it experimental; without it dashboards say "Objective 0"
            warnings.simplefilter("ignore", ExperimentalWarning)
            score, *others = definition.sweep.objectives
            study.set_metric_names([f"dev {score}", *others])
        first = definition.space.grid() if definition.sweep.sampler.kind == "grid" else [definition.space.current()]
        for chosen in first[len(study.get_trials(deepcopy=False)) :]:
            study.enqueue_trial(chosen)
        # last: where it stands, the study is begun
        study.set_user_attr("definition", now)
    _check_same(definition, study.user_attrs["definition"], now)
    return study


def _begins(definition: SweepSpec, study: optuna.Study) -> bool:
    """Whether this process begins the study; of several that start at once on a database, one alone does."""
    if not definition.storage:
        return True
    name, end = uuid.uuid4().hex, time.monotonic() + SECONDS_TO_BEGIN
    while "begun by" in study.user_attrs and time.monotonic() < end:
        if "definition" in study.user_attrs:
            return False
        time.sleep(SECONDS_BETWEEN_LOOKS)
    # nobody does, or who did was killed; of those that see this at once, the last to write
    study.set_user_attr("begun by", name)
    time.sleep(SECONDS_BETWEEN_LOOKS)
    return study.user_attrs["begun by"] == name or _begins(definition, study)


def _check_same(definition: SweepSpec, begun: dict[str, Any], now: dict[str, Any]) -> None:
    """A study goes on with the space, the parameters and the data it was begun with."""
    changed = [part for part in now if begun.get(part) != now[part]]
    if changed:
        place = shown(definition.storage) if definition.storage else definition.folder
        raise SweepError(
            f"{place}: the study {definition.sweep.study} was begun with another {' and other '.join(changed)}; give"
            " the new one another name (`study:` in its file), or delete the old one."
        )


def _work_off(
    definition: SweepSpec,
    study: optuna.Study,
    crew: Executor,
    another: Callable[[int], Job | None],
    on_trial: Callable[[optuna.Study, FrozenTrial | None], None],
) -> None:
    idle_deaths = 0
    for _, result in crew(another, partial(do, definition)):
        if isinstance(result, WorkerCrashed):
            name = worker_name(os.getpid(), result.process)
            lost = [trial.number for trial in running(study) if _worker(trial) == name]
            end_dead(study, [trial for trial in running(study) if trial.number in lost])
            idle_deaths = 0 if lost else idle_deaths + 1
            if idle_deaths == FAILURES_AT_START:
                raise SweepError(f"workers end before they begin a trial; the last with exit code {result.exit_code}.")
        else:
            idle_deaths, lost = 0, [] if result is None else [result]
        for trial in counted(study):
            if trial.number in lost:
                on_trial(study, trial)
        _check_start(counted(study))


def _end_silent(definition: SweepSpec, study: optuna.Study, seen: dict[int, float]) -> None:
    """Ends trials whose worker has died: of a journal all, once no worker is left; of a database, by their silence.

    `seen` is when a trial that had not given a first sign of life was seen first, by the clock of this process.
    """
    if not definition.storage:
        end_dead(study, running(study))
        return
    with warnings.catch_warnings():
        # Optuna calls it experimental
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    now, nameless = time.monotonic(), [trial for trial in running(study) if not _worker(trial)]
    dead = [trial for trial in nameless if now - seen.setdefault(trial.number, now) > 2 * definition.heartbeat]
    end_dead(study, dead)


def _worker(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("worker", ""))


def confirmation_seeds(definition: SweepSpec) -> list[int]:
    """The fresh seeds with which the best trials are confirmed."""
    sweep = definition.sweep
    return [derived_seed(sweep.sampler.seed, CONFIRMATIONS + number) for number in range(sweep.confirm.seeds)]


def confirmations(definition: SweepSpec, study: optuna.Study) -> list[Job]:
    """What is still to be trained to confirm the best trials: each with the same fresh seeds."""
    jobs = [
        Job(number=trial.number, seed=seed, overrides=tuple(trial.user_attrs[FOUND]["overrides"].items()))
        for trial in best_trials(study)[: definition.sweep.confirm.top]
        for seed in confirmation_seeds(definition)
        if confirmation(trial.number, seed) not in study.user_attrs
    ]
    if definition.storage:
        # several machines that confirm at once begin at different ends
        random.shuffle(jobs)
    return jobs


def confirm_all(
    definition: SweepSpec, study: optuna.Study, crew: Executor, stopping: Stopping, on_done: Callable[[Job], None]
) -> None:
    """Trains what is to be confirmed and has not been; what dies is told of too, and trained at the next start."""
    jobs = iter(confirmations(definition, study))

    def another(busy: int) -> Job | None:
        if stopping.asked:
            return None
        done = study.user_attrs
        return next((job for job in jobs if confirmation(job.number or 0, job.seed) not in done), None)

    for job, _ in crew(another, partial(do, definition)):
        on_done(job)


def _check_start(ended: Sequence[FrozenTrial]) -> None:
    first = sorted(ended, key=lambda trial: trial.number)[:FAILURES_AT_START]
    if len(first) == FAILURES_AT_START and all(trial.state == TrialState.FAIL for trial in ended):
        reasons = "; ".join(f"trial {trial.number}: {trial.user_attrs.get('reason')}" for trial in first)
        raise SweepError(f"the first {FAILURES_AT_START} trials failed: {reasons}.")
