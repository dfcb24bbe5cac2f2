"""The Optuna study of a sweep: where it is stored, which trials count, and which are tried again."""

import json
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Event, Thread
from typing import Literal

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from bilstm_attention.errors import SweepError
from bilstm_attention.paths import PROJECT
from bilstm_attention.search.space import Pruner, Sampler, Space, Sweep

# Seeds of confirmations and of samplers begin where those of trials never come.
CONFIRMATIONS, SAMPLERS = 1_000_000, 2_000_000
OPEN_ATTEMPTS = 5  # a second apart, while other machines make the tables of a new database
SECONDS_TO_BEGIN = 60  # for another machine that has created the study to enqueue its first trials
POLL_SECONDS = 2  # between looks at a database while other machines work
LOCK_TIMEOUT = 60  # seconds to wait for other processes that write to a SQLite file
MAX_RETRIES = 3  # of a trial whose process died
# Attributes of a trial: its number and the job that runs it; why its training failed.
JOB, REASON = "job", "reason"


@dataclass(frozen=True)
class SweepSpec:
    """A sweep as its workers need it."""

    sweep: Sweep
    space: Space
    folder: Path  # `experiments/studies/<study>`
    # SQLAlchemy URL of a database that several machines may share; None: a SQLite file in the folder
    storage: str | None = None
    # seconds between those of a trial in that database; after twice as long without one, its process counts as dead
    heartbeat: int = 60
    roots: tuple[Path, ...] = (PROJECT,)  # of prepared data, one for each fold

    @property
    def local(self) -> bool:
        """Whether whoever holds the lock of the folder is alone with the study."""
        return self.storage is None


def derived_seed(study_seed: int, number: int) -> int:
    """The seed of a trial, a sampler or a confirmation: each its own, and the same whenever it is run again."""
    return int(np.random.SeedSequence((study_seed, number)).generate_state(1)[0] >> 1)


def confirmation_seeds(spec: SweepSpec) -> list[int]:
    """The fresh seeds with which the best trials are trained again."""
    sweep = spec.sweep
    return [derived_seed(sweep.sampler.seed, CONFIRMATIONS + number) for number in range(sweep.confirm.seeds)]


def study_storage(spec: SweepSpec) -> RDBStorage:
    """The storage of a sweep.

    Raises:
        SweepError: the database does not answer.
    """
    if spec.storage is not None:
        return open_storage(spec.storage, spec.heartbeat)
    spec.folder.mkdir(parents=True, exist_ok=True)
    return open_storage(local_url(spec.folder))


def local_url(folder: Path) -> str:
    """The address of the SQLite file in the folder of a study."""
    return f"sqlite:///{(folder / 'study.db').absolute()}"


@lru_cache(maxsize=4)
def open_storage(url: str, heartbeat: int | None = None) -> RDBStorage:
    """The studies of a database, opened once per process; no heartbeats where a lock tells that a trial is dead.

    Raises:
        SweepError: it does not answer, or is no database URL.
    """
    from sqlalchemy.exc import IntegrityError, SQLAlchemyError

    # the sweep prints failed trials itself, with their reasons
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # heartbeats, retries and names of objectives are experimental in Optuna 5
    warnings.simplefilter("ignore", ExperimentalWarning)
    # `Study.ask` wants heartbeats to be those of `Study.optimize`; trials record their own
    warnings.filterwarnings("ignore", "Heartbeat of storage")
    sqlite = url.startswith("sqlite:")
    engine = {"connect_args": {"timeout": LOCK_TIMEOUT}} if sqlite else {"pool_pre_ping": True}
    attempts = 0
    while True:
        try:
            return RDBStorage(
                url,
                engine_kwargs=engine,
                heartbeat_interval=heartbeat,
                grace_period=2 * heartbeat if heartbeat else None,
                heartbeat_stale_trial_callback=retry_callback() if heartbeat else None,
            )
        except (ImportError, RuntimeError, ValueError, SQLAlchemyError, StorageInternalError) as error:
            # of several machines that open an empty database at once, one alone makes each table
            attempts += 1
            if attempts == OPEN_ATTEMPTS or not (isinstance(error, IntegrityError) or "already exists" in str(error)):
                raise SweepError(f"--storage {hide_password(url)}: {_reason(error)}") from None
            time.sleep(1)


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "its driver is not installed: pip install 'bilstm-attention[cluster]' has the one for PostgreSQL."
    # Optuna wraps the fault of the driver in words about another
    lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
    return lines[0] if isinstance(error, RuntimeError) else f"the database does not answer: {lines[0]}"


@contextmanager
def heartbeats(spec: SweepSpec, number: int) -> Iterator[None]:
    """Stores again and again that a trial in a shared database is alive, also after an outage."""
    end = Event()

    def record() -> None:
        while not end.is_set():
            with suppress(SweepError), report_outages(spec):
                study_storage(spec).record_heartbeat(trial_id(spec, number))
            end.wait(spec.heartbeat)

    if not spec.local:
        Thread(target=record, daemon=True).start()
    try:
        yield
    finally:
        end.set()


def trial_id(spec: SweepSpec, number: int) -> int:
    """What the storage calls the trial with this number."""
    storage = study_storage(spec)
    study = storage.get_study_id_from_name(spec.sweep.study)
    return storage.get_trial_id_from_study_id_trial_number(study, number)


def is_outage(error: Exception) -> bool:
    """Whether the storage raised it."""
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, StorageInternalError | SQLAlchemyError)


@contextmanager
def report_outages(spec: SweepSpec) -> Iterator[None]:
    """Turns a storage that no longer answers into one line.

    Raises:
        SweepError: names the storage, and says that the same command goes on.
    """
    try:
        yield
    except Exception as error:
        if not is_outage(error):
            raise
        place = f"--storage {hide_password(spec.storage)}" if spec.storage else str(spec.folder / "study.db")
        raise SweepError(
            f"{place}: {_reason(error)}\nFinished trials are kept there; when it answers again, the same command"
            " goes on."
        ) from None


def hide_password(url: str) -> str:
    """The address of a database as it may be shown."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        # its options may hold a password too
        return make_url(url).set(query={}).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return "(not a database URL; one is postgresql+psycopg://user@host/name)"


def load_study(spec: SweepSpec, sampler_seed: int = 0) -> optuna.Study:
    """The study of a sweep that has begun; with another `sampler_seed` for each trial no two workers draw the same.

    Raises:
        KeyError: it has not begun.
        SweepError: the database does not answer.
    """
    sampler = _sampler(spec.sweep.sampler, sampler_seed)
    pruner = _pruner(spec.sweep.pruner, spec.sweep.folds or spec.space.base.train.epochs)
    return optuna.load_study(study_name=spec.sweep.study, storage=study_storage(spec), sampler=sampler, pruner=pruner)


def create_study(spec: SweepSpec) -> optuna.Study:
    """Creates the study, or loads it; in a database, waits until another machine has enqueued its first trials."""
    directions: list[Literal["maximize", "minimize"]] = ["maximize"]
    if spec.sweep.against:
        directions.append("minimize")
    try:
        optuna.create_study(study_name=spec.sweep.study, storage=study_storage(spec), directions=directions)
    except optuna.exceptions.DuplicatedStudyError:
        end = time.monotonic() + (0 if spec.local else SECONDS_TO_BEGIN)
        while "definition" not in load_study(spec).user_attrs and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
    return load_study(spec)


def _sampler(settings: Sampler, seed: int) -> BaseSampler:
    match settings.kind:
        case "tpe":
            # constant_liar keeps workers from trying the same region at the same time
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        case "random" | "grid":
            # every combination of a grid is enqueued, so that nothing is left to draw
            return optuna.samplers.RandomSampler(seed=seed)
        case "gp":
            return optuna.samplers.GPSampler(seed=seed)
        case "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed)


def _pruner(settings: Pruner, steps: int) -> optuna.pruners.BasePruner:
    match settings.kind:
        case "none":
            return optuna.pruners.NopPruner()
        case "median":
            # epochs and folds count from 1
            return optuna.pruners.MedianPruner(n_warmup_steps=settings.warmup_epochs + 1)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(max_resource=steps)


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Complete trials, the best dev score first, ties in order of number, equal parameters once.

    With two objectives only those on the Pareto front.
    """
    complete = counted_trials(study, TrialState.COMPLETE)
    if len(study.directions) > 1:
        front = {trial.number for trial in study.best_trials}
        complete = [trial for trial in complete if trial.number in front]
    by_params: dict[str, FrozenTrial] = {}
    for trial in sorted(complete, key=lambda trial: (-trial.values[0], trial.number)):
        by_params.setdefault(json.dumps(trial.params, sort_keys=True), trial)
    return list(by_params.values())


def state_counts(study: optuna.Study) -> dict[str, int]:
    """How many trials are `complete`, `pruned`, `failed`, `running`, `waiting`."""
    names = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", "running": "RUNNING", "waiting": "WAITING"}
    return {name: len(counted_trials(study, TrialState[state])) for name, state in names.items()}


def retry_callback() -> RetryHeartbeatStaleTrialCallback:
    """Enqueues the parameters of a failed trial again, with the numbers of its earlier attempts."""
    return RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)


def first_attempt(trial: FrozenTrial) -> int:
    """The number of the trial that this one retries, or its own."""
    number = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if number is None else number


def counted_trials(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    """The trials in these states that were not retried; for reading only."""
    trials = study.get_trials(deepcopy=False)
    retried = {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
    return [trial for trial in trials if trial.state in states and trial.number not in retried]


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count against the budget: complete, pruned, or failed for good."""
    return counted_trials(study, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


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
