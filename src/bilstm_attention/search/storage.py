"""Where studies are kept: a journal file of this machine, or a database that many machines reach."""

import fcntl
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial

from bilstm_attention.errors import SweepError

ATTEMPTS = 5  # a second apart, to open a database that others are making the tables of
OnSilent = Callable[[optuna.Study, FrozenTrial], None]
# Lines of a journal about a trial that has not ended.
OF_UNFINISHED = {
    JournalOperation.CREATE_TRIAL,
    JournalOperation.SET_TRIAL_PARAM,
    JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE,
    JournalOperation.SET_TRIAL_USER_ATTR,
}


@lru_cache(maxsize=1)
def open_journal(journal: Path) -> BaseStorage:
    """The study of a journal file, made if it is not there; opened once in a process."""
    return JournalStorage(Journal(str(journal), JournalLock(journal)))


@lru_cache(maxsize=1)
def open_database(address: str, heartbeat: int = 60, silent: OnSilent | None = None) -> BaseStorage:
    """The studies of a database; opened once in a process.

    Args:
        address: a URL of SQLAlchemy.
        heartbeat: seconds between the signs of life of a trial; after twice as long its worker has died.
        silent: called with the study and a trial that was ended because its worker has died.

    Raises:
        SweepError: it does not answer, or the address is none.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import IntegrityError, SQLAlchemyError

    with warnings.catch_warnings():
        # Optuna calls heartbeats experimental; without them nobody would know of a worker that died elsewhere
        warnings.simplefilter("ignore", ExperimentalWarning)
        for left in reversed(range(ATTEMPTS)):
            try:
                make_url(address)
                return Database(
                    address,
                    engine_kwargs={"pool_pre_ping": True},
                    heartbeat_interval=heartbeat,
                    grace_period=2 * heartbeat,
                    heartbeat_stale_trial_callback=silent,
                )
            except (ImportError, RuntimeError, ValueError, SQLAlchemyError, StorageInternalError) as error:
                # of several that open an empty database at once, one alone makes each table
                if left and (isinstance(error, IntegrityError) or "already exists" in str(error)):
                    time.sleep(1)
                    continue
                raise SweepError(f"--storage {shown(address)}: {_reason(error)}") from None
    raise AssertionError


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "its driver is not installed: pip install 'bilstm-attention[cluster]' has the one for PostgreSQL."
    # Optuna's own words are of another fault
    lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
    return lines[0] if isinstance(error, RuntimeError) else f"the database does not answer: {lines[0]}"


def outages() -> tuple[type[Exception], ...]:
    """What is raised where a database that was opened no longer answers."""
    from sqlalchemy.exc import SQLAlchemyError

    return StorageInternalError, SQLAlchemyError


@contextmanager
def report_outages(address: str | None) -> Iterator[None]:
    """Says what a sweep whose database goes away leaves behind; without an address it does nothing.

    Raises:
        SweepError: the database no longer answers.
    """
    try:
        yield
    except outages() as error:
        if address is None:
            raise
        raise SweepError(
            f"--storage {shown(address)}: {_reason(error)}\nTrials that have ended are kept there; when it answers"
            " again, the same command goes on."
        ) from None


def shown(address: str) -> str:
    """The address of a database without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        # options may hold one too
        return make_url(address).set(query={}).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        # it may hold a password all the same
        return "(no address of a database; one is postgresql+psycopg://user:password@host/name)"


class Database(RDBStorage):
    """Goes on giving signs of life after an outage; Optuna's own thread ends at the first that fails."""

    def record_heartbeat(self, trial_id: int) -> None:
        """A sign of life of a trial."""
        with suppress(*outages()):
            super().record_heartbeat(trial_id)


class Journal(JournalFileBackend):
    """Waits for the disk when a trial ends or the study changes, not at every line: a power cut takes no more than
    what had not ended, and is tried again."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Adds lines."""
        if {log["op_code"] for log in logs} - OF_UNFINISHED:
            super().append_logs(logs)
            return
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._lock.acquire()
        try:
            with Path(self._file_path).open("ab") as file:
                file.write(lines.encode())
        finally:
            self._lock.release()


class JournalLock(JournalFileOpenLock):
    """Keeps processes of one machine from writing to the journal at once.

    The system frees it when its holder dies; Optuna's own locks are files, which a killed process leaves behind.
    """

    def __init__(self, journal: Path):
        super().__init__(str(journal))
        self._journal, self._path = journal, journal.with_suffix(".lock")

    def acquire(self) -> bool:
        """Waits for it."""
        self._file = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._mend()
        return True

    def release(self) -> None:
        """Frees it."""
        self._file.close()

    def _mend(self) -> None:
        """Cuts off half a line, which its last holder left if it was killed: with more after it, none could be read."""
        with self._journal.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if file.read() in (b"", b"\n"):
                return
        # not written anew: a process killed while it does would take the rest along
        os.truncate(self._journal, self._journal.read_bytes().rfind(b"\n") + 1)
