"""Trials that are tried again: those whose process died, or whose storage cut them off; and which trials count."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

MAX_RETRIES = 3  # of a trial whose process died
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
# Attributes of a trial: its number and the job that runs it; why its training failed.
JOB, REASON = "job", "reason"


@contextmanager
def allow_experimental() -> Iterator[None]:
    """Heartbeats, retries and names of objectives are experimental in Optuna 5."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # `Study.ask` wants heartbeats to be those of `Study.optimize`; trials record their own
        warnings.filterwarnings("ignore", "Heartbeat of storage")
        yield


@allow_experimental()
def retry_callback() -> RetryHeartbeatStaleTrialCallback:
    """Enqueues the parameters of a failed trial again, with the numbers of its earlier attempts."""
    return RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)


@allow_experimental()
def first_attempt(trial: FrozenTrial) -> int:
    """The number of the trial that this one retries, or its own."""
    number = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if number is None else number


@allow_experimental()
def counted_trials(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    """The trials in these states that were not retried; for reading only."""
    trials = study.get_trials(deepcopy=False)
    retried = {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
    return [trial for trial in trials if trial.state in states and trial.number not in retried]


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count against the budget: complete, pruned, or failed for good."""
    return counted_trials(study, *FINISHED)


def failure_reason(trial: FrozenTrial) -> str | None:
    """Why a trial failed; None: it did not."""
    return str(trial.user_attrs.get(REASON, "its worker died")) if trial.state == TrialState.FAIL else None


def retry_trials(study: optuna.Study, trials: Iterable[FrozenTrial]) -> None:
    """Ends running trials whose process is known to be dead, and enqueues their parameters again."""
    for trial in trials:
        try:
            failed = study.tell(trial.number, state=TrialState.FAIL)
        except (ValueError, UpdateFinishedTrialError):
            # it finished just before it died, or another process has ended it; that one retries it
            continue
        retry_callback()(study, failed)


def recover(study: optuna.Study) -> None:
    """Retries what earlier starts left unfinished; only for whoever holds the lock of a local study.

    A trial that a killed worker created has no heartbeat yet, which Optuna would leave running for good. A parent that
    was killed while it recovered may have left a failed trial that was not enqueued again.
    """
    retry_trials(study, study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
    for trial in counted_trials(study, TrialState.FAIL):
        if REASON not in trial.user_attrs:
            # a copy, since the callback extends the history of the trial it is called with
            retry_callback()(study, study.trials[trial.number])
