"""A sweep: trials handed to workers until the budget is spent, over as many starts as it takes, nothing lost."""

import fcntl
import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from bilstm_attention.errors import SweepError
from bilstm_attention.experiment.trials import CONFIRMATIONS, Definition, Job, derived_seed, do, open_study
from bilstm_attention.experiment.workers import Died, run_jobs

RETRIES = 3  # of a trial whose worker died
FAILURES_AT_START = 3  # in a row, before anything worked, end the sweep: the fault is then everywhere
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Stopping:
    """Answers Ctrl-C: the first lets running trials end, the second ends them."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "Stopping":
        self._before = signal.signal(signal.SIGINT, self._asked)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _asked(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nstopping when the running trials have ended; Ctrl-C again stops them now", flush=True)


@contextmanager
def locked(definition: Definition) -> Iterator[None]:
    """Keeps a second process from the same study.

    Raises:
        SweepError: another has it.
    """
    definition.folder.mkdir(parents=True, exist_ok=True)
    with (definition.folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SweepError(f"{definition.folder}: the sweep runs already, in another process.") from None
        yield


def search(
    definition: Definition,
    budget: int,
    workers: int,
    seconds: float,
    stopping: Stopping,
    on_trial: Callable[[optuna.Study, FrozenTrial, int], None],
) -> optuna.Study:
    """Runs trials until `budget` of them have ended, those of earlier starts counted; call it inside `locked`.

    Args:
        definition: the sweep.
        budget: trials in all.
        workers: processes at once.
        seconds: after which no new trial begins.
        stopping: whether Ctrl-C was pressed.
        on_trial: called with the study, each trial that has ended, and how many have.

    Raises:
        SweepError: the study is of another space, or the first trials all failed.
    """
    _mend(definition)
    study = open_study(definition)
    _check_same(study, definition)
    _try_again(study, [trial for trial in study.get_trials() if trial.state == TrialState.RUNNING])
    grid = definition.space.grid() if definition.sweep.sampler.kind == "grid" else []
    begun = [trial for trial in study.get_trials() if "retry_of" not in trial.user_attrs]
    for chosen in (grid or [definition.space.current()])[len(begun) :]:
        study.enqueue_trial(chosen)
    budget = min(budget, len(grid)) if grid else budget
    # those that wait have had none yet
    end, tickets = time.monotonic() + seconds, count(len(study.get_trials(states=FINISHED)))
    running, idle_deaths, told = 0, 0, len(counted(study))

    def another() -> Job | None:
        nonlocal running
        if stopping.asked or time.monotonic() > end or len(counted(study)) + running >= budget:
            return None
        running += 1
        return Job(ticket=next(tickets))

    try:
        for _, result in run_jobs(another, partial(do, definition), workers):
            running -= 1
            if isinstance(result, Died):
                lost = _of_worker(study, result.process)
                _try_again(study, lost)
                _check_start(counted(study))
                idle_deaths = 0 if lost else idle_deaths + 1
                if idle_deaths == FAILURES_AT_START:
                    raise SweepError(f"workers end before they begin a trial; the last with exit code {result.code}.")
                continue
            # one by one, since another may have ended meanwhile
            idle_deaths, told = 0, told + 1
            on_trial(study, study.get_trials()[result], told)
            _check_start(counted(study))
    finally:
        _try_again(study, [trial for trial in study.get_trials() if trial.state == TrialState.RUNNING])
    return study


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count: those that ended, but for those that died with their worker and were tried again."""
    return [trial for trial in study.get_trials(states=FINISHED) if not trial.user_attrs.get("tried_again")]


def best_trials(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """The `count` best trials, of equals the first; the same parameters once."""
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    ranked = sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number))
    different: dict[str, FrozenTrial] = {}
    for trial in ranked:
        different.setdefault(json.dumps(trial.params, sort_keys=True), trial)
    return list(different.values())[:count]


def confirmations(definition: Definition, trials: Sequence[FrozenTrial]) -> list[Job]:
    """What is to be trained to confirm trials: each with the same fresh seeds."""
    seeds = confirmation_seeds(definition)
    return [
        Job(0, trial.number, seed, tuple(_overrides(definition, trial).items())) for trial in trials for seed in seeds
    ]


def confirmation_seeds(definition: Definition) -> list[int]:
    """The fresh seeds with which the best trials are confirmed."""
    sweep = definition.sweep
    return [derived_seed(sweep.sampler.seed, CONFIRMATIONS + number) for number in range(sweep.confirm.seeds)]


def confirm_all(
    definition: Definition, jobs: Sequence[Job], workers: int, stopping: Stopping, on_done: Callable[[Job], None]
) -> None:
    """Trains what is to be confirmed and has not been; one that dies is trained at the next start."""
    missing = iter([job for job in jobs if not definition.confirmation_file(job.number or 0, job.seed).exists()])

    def another() -> Job | None:
        return None if stopping.asked else next(missing, None)

    for job, result in run_jobs(another, partial(do, definition), workers):
        if not isinstance(result, Died):
            on_done(job)


def _overrides(definition: Definition, trial: FrozenTrial) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(definition.trial_file(trial.number).read_text(encoding="utf-8"))
    return dict(found["overrides"])


def _mend(definition: Definition) -> None:
    """Cuts off half a line that a killed process may have left at the end of the journal."""
    if definition.journal.exists():
        whole = definition.journal.read_bytes().rfind(b"\n") + 1
        # not written anew: a process killed while it does would take the rest along
        os.truncate(definition.journal, whole)


def _check_same(study: optuna.Study, definition: Definition) -> None:
    """A study goes on with the space, the parameters and the data it was begun with."""
    from bilstm_attention.experiment.environment import input_digests

    now = {
        "sweep": definition.sweep.model_dump(mode="json", exclude={"confirm"}),
        "params": definition.space.base.model_dump(mode="json", exclude={"evaluate"}),
        "data": input_digests(),
    }
    begun = study.user_attrs.get("definition")
    if begun is None:
        # the definition last: where it stands, the study is begun
        study.set_user_attr("id", uuid.uuid4().hex)
        study.set_user_attr("definition", now)
    elif begun != now:
        changed = [part for part in now if begun.get(part) != now[part]]
        raise SweepError(
            f"{definition.folder}: the study was begun with another {' and other '.join(changed)}; give the new one"
            " another name (`study:` in its file), or delete the folder."
        )


def _of_worker(study: optuna.Study, process: int) -> list[FrozenTrial]:
    running = study.get_trials(states=(TrialState.RUNNING,))
    return [trial for trial in running if str(trial.user_attrs.get("worker", "")).endswith(f":{process}")]


def _try_again(study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
    """Marks trials whose worker died as failed, and has their parameters tried again unless that was done too often."""
    for trial in trials:
        retries = trial.user_attrs.get("retries", 0)
        storage = study._storage
        storage.set_trial_user_attr(trial._trial_id, "reason", "its worker died")
        if retries < RETRIES:
            storage.set_trial_user_attr(trial._trial_id, "tried_again", True)
            again = {"retry_of": trial.user_attrs.get("retry_of", trial.number), "retries": retries + 1}
            # it is there already if this process was killed between the two lines
            if not any(again.items() <= other.user_attrs.items() for other in study.get_trials()):
                study.enqueue_trial({**trial.system_attrs.get("fixed_params", {}), **trial.params}, again)
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _check_start(ended: Sequence[FrozenTrial]) -> None:
    first = sorted(ended, key=lambda trial: trial.number)[:FAILURES_AT_START]
    if len(first) == FAILURES_AT_START and all(trial.state == TrialState.FAIL for trial in ended):
        reasons = "; ".join(f"trial {trial.number}: {trial.user_attrs.get('reason')}" for trial in first)
        raise SweepError(f"the first {FAILURES_AT_START} trials failed: {reasons}.")
