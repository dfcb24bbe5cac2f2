"""The Optuna study of a sweep: where it is stored, which trials count, and which are tried again."""

import json
import time
import uuid
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
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

from bilstm_attention.config import flatten
from bilstm_attention.errors import SweepError, join_lines
from bilstm_attention.paths import PROJECT, file_lock
from bilstm_attention.search.space import Space, Sweep
from bilstm_attention.tracking.environment import input_digests

# Seeds of confirmations and of samplers begin where those of trials never come.
CONFIRMATIONS, SAMPLERS = 1_000_000, 2_000_000
OPEN_ATTEMPTS = 5  # a second apart, while other machines make the tables of a new database
SECONDS_TO_BEGIN = 60  # for another machine that has created the study to enqueue its first trials
POLL_SECONDS = 2  # between looks at a database while other machines work
LOCK_TIMEOUT = 60  # seconds to wait for other processes that write to a SQLite file
MAX_RETRIES = 3  # of a trial whose process died
REASON = "reason"  # attribute of a trial: why its training failed


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

    @property
    def place(self) -> str:
        """Where the study is, as messages name it."""
        return f"--storage {hide_password(self.storage)}" if self.storage else str(self.folder / "study.db")

    def lock(self) -> AbstractContextManager[None]:
        """Keeps a second process of this machine from the same study, with a `SweepError`."""
        return file_lock(self.folder, SweepError(f"{self.folder}: the sweep runs already, in another process."))

    def open(self) -> RDBStorage:
        """The storage of the study, as `open_storage`."""
        if self.storage is not None:
            return open_storage(self.storage, self.heartbeat)
        self.folder.mkdir(parents=True, exist_ok=True)
        return open_storage(local_url(self.folder))

    def trial_id(self, number: int) -> int:
        """What the storage calls the trial with this number."""
        study = self.open().get_study_id_from_name(self.sweep.study)
        return self.open().get_trial_id_from_study_id_trial_number(study, number)


def derived_seed(study_seed: int, number: int) -> int:
    """The seed of a trial, a sampler or a confirmation: each its own, and the same whenever it is run again."""
    return int(np.random.SeedSequence((study_seed, number)).generate_state(1)[0] >> 1)


def confirmation_seeds(spec: SweepSpec) -> list[int]:
    """The fresh seeds with which the best trials are trained again."""
    sweep = spec.sweep
    return [derived_seed(sweep.sampler.seed, CONFIRMATIONS + number) for number in range(sweep.confirm.seeds)]


def local_url(folder: Path) -> str:
    """The address of the SQLite file in the folder of a study."""
    return f"sqlite:///{(folder / 'study.db').absolute()}"


@lru_cache(maxsize=4)
def open_storage(url: str, heartbeat: int | None = None) -> RDBStorage:
    """The studies of a database, opened once per process; no heartbeats where a lock tells that a trial is dead.

    A `SweepError` if it does not answer, or is no database URL.
    """
    from sqlalchemy.exc import IntegrityError, SQLAlchemyError

    # the sweep prints failed trials itself, with their reasons
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # heartbeats, retries and names of objectives are experimental in Optuna 5
    warnings.simplefilter("ignore", ExperimentalWarning)
    # `Study.ask` wants heartbeats to be those of `Study.optimize`; the driver records its own
    warnings.filterwarnings("ignore", "Heartbeat of storage")
    # SQLite lets two machines take one trial from the queue; what the second measures is dropped
    warnings.filterwarnings("ignore", "The reported value is ignored")
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


def hide_password(url: str) -> str:
    """The address of a database as it may be shown."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        # its options may hold a password too
        return make_url(url).set(query={}).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return "(not a database URL; one is postgresql+psycopg://user@host/name)"


@contextmanager
def report_outages(spec: SweepSpec) -> Iterator[None]:
    """Turns a storage that no longer answers into a `SweepError` that names it."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        raise SweepError(
            f"{spec.place}: {_reason(error)}\nFinished trials are kept there; when it answers again, the same command"
            " goes on."
        ) from None


@contextmanager
def heartbeats(spec: SweepSpec, running: Collection[int]) -> Iterator[None]:
    """Stores again and again that the running trials, which may change, are alive, also after an outage."""
    end = Event()

    def record() -> None:
        while not end.wait(spec.heartbeat):
            with suppress(SweepError), report_outages(spec):
                for number in list(running):
                    spec.open().record_heartbeat(spec.trial_id(number))

    # a local study has a lock instead
    if not spec.local:
        Thread(target=record, daemon=True).start()
    try:
        yield
    finally:
        end.set()


def begin_study(spec: SweepSpec) -> optuna.Study:
    """Opens the study; a new one gets its first trials: the current parameters, or the whole grid.

    In a database, it waits until another machine that has created the study has enqueued them.

    Raises:
        SweepError: it was begun with another space, other parameters or other data, or the database does not answer.
    """
    definition = {
        "sweep": spec.sweep.model_dump(mode="json", exclude={"confirm", "stop"}, exclude_none=True),
        "params": spec.space.base.model_dump(mode="json", exclude={"evaluate"}),
        "data": input_digests(),
    }
    directions: list[Literal["maximize", "minimize"]] = ["maximize", "minimize"]
    name, storage, pruner = spec.sweep.study, spec.open(), _pruner(spec)
    try:
        directions = directions[: len(spec.sweep.objectives)]
        study = optuna.create_study(study_name=name, storage=storage, pruner=pruner, directions=directions)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
        end = time.monotonic() + (0 if spec.local else SECONDS_TO_BEGIN)
        while "definition" not in study.user_attrs and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
    if "definition" not in study.user_attrs:
        study.set_user_attr("id", uuid.uuid4().hex)
        study.set_metric_names(spec.sweep.objectives)
        grid = spec.sweep.sampler.kind == "grid"
        for overrides in spec.space.grid() if grid else [spec.space.current()]:
            # an earlier start may have been killed here
            study.enqueue_trial(overrides, skip_if_exists=True)
        # last, since it says that the study has begun
        study.set_user_attr("definition", definition)
    begun, now = (flatten(each) for each in (study.user_attrs["definition"], definition))
    # each trial has a seed of its own
    changed = [key for key in {**begun, **now} if begun.get(key) != now.get(key) and key != "params.train.seeds"]
    if changed:
        raise SweepError(
            f"{spec.place}: the study {name} was begun with other values:\n"
            + join_lines(f"  {key}: {begun.get(key)}, now {now.get(key)}" for key in changed)
            + "\nGo back to those, give the sweep another name (`study:` in its file), or delete the old study."
        )
    if spec.local:
        recover(study)
    return study


def make_sampler(spec: SweepSpec, number: int) -> BaseSampler:
    """A sampler for one trial: with a seed of its own, `number` is that of the trial, and the same in every start."""
    # in a database two machines may begin a trial at once
    salt = 0 if spec.local else uuid.uuid4().int % 2**31
    seed = derived_seed(spec.sweep.sampler.seed, SAMPLERS + number + salt)
    match spec.sweep.sampler.kind:
        case "tpe":
            # constant_liar keeps workers from trying the same region at the same time
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        case "gp":
            return optuna.samplers.GPSampler(seed=seed)
        case "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed)
    # every combination of a grid is enqueued, so that nothing is left to draw
    return optuna.samplers.RandomSampler(seed=seed)


def _pruner(spec: SweepSpec) -> optuna.pruners.BasePruner:
    match spec.sweep.pruner.kind:
        case "median":
            # epochs and folds count from 1
            return optuna.pruners.MedianPruner(n_warmup_steps=spec.sweep.pruner.warmup_epochs + 1)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(max_resource=spec.sweep.folds or spec.space.base.train.epochs)
    return optuna.pruners.NopPruner()


def counted_trials(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    """The trials in these states that were not retried; for reading only."""
    trials = study.get_trials(deepcopy=False)
    retried = {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
    return [trial for trial in trials if trial.state in states and trial.number not in retried]


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count against the budget: complete, pruned, or failed for good."""
    return counted_trials(study, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


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


def failure_reason(trial: FrozenTrial) -> str | None:
    """Why a trial failed; None: it did not."""
    return str(trial.user_attrs.get(REASON, "its worker died")) if trial.state == TrialState.FAIL else None


def retry_callback() -> RetryHeartbeatStaleTrialCallback:
    """Enqueues the parameters of a failed trial again, with the numbers of its earlier attempts."""
    return RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES)


def first_attempt(trial: FrozenTrial) -> int:
    """The number of the trial that this one retries, or its own."""
    number = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if number is None else number


def retry_trials(study: optuna.Study, numbers: Iterable[int]) -> None:
    """Ends running trials whose process is known to be dead, and enqueues their parameters again."""
    for number in numbers:
        # one that has ended finished just before it died, or another process has ended it, which retries it
        with suppress(ValueError, UpdateFinishedTrialError):
            retry_callback()(study, study.tell(number, state=TrialState.FAIL))


def recover(study: optuna.Study) -> None:
    """Retries what earlier starts left unfinished; only for whoever holds the lock of a local study.

    A parent that was killed while it recovered may have left a failed trial that was not enqueued again.
    """
    retry_trials(study, [trial.number for trial in counted_trials(study, TrialState.RUNNING)])
    for trial in counted_trials(study, TrialState.FAIL):
        if REASON not in trial.user_attrs:
            # a copy, since the callback extends the history of the trial it is called with
            retry_callback()(study, study.trials[trial.number])
