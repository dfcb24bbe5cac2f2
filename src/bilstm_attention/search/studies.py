"""What studies there are and how far each is, read without writing to any of them."""

import json
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from bilstm_attention.search.storage import JournalLock
from bilstm_attention.search.study import best_trials, trials_in

STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "running": TrialState.RUNNING,
    "waiting": TrialState.WAITING,
}


@dataclass(frozen=True)
class StudyRow:
    """A study as a list shows it.

    Args:
        name: of the study; of its folder, where that holds it.
        counts: of the trials that count, how many are `complete`, `pruned`, `failed`, `running` and `waiting`.
        metrics: what is searched for, the dev score first; empty: the study does not say.
        best: the best trial; of two objectives, those on the Pareto front, by the first.
        begun: when its first trial began, in local time; None: none has.
        active: when it last changed, in local time.
        named: whether `best.yaml` is there, which names a winner.
        runs: whether a process of this machine has it; None: the system does not tell.
        fault: why the study cannot be read; empty: it can.
    """

    name: str
    counts: dict[str, int] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    best: tuple[FrozenTrial, ...] = ()
    begun: datetime | None = None
    active: datetime | None = None
    named: bool = False
    runs: bool | None = False
    fault: str = ""


def list_studies(folder: Path) -> list[StudyRow]:
    """The studies in the folders of `folder`, by name; one that cannot be read is there with its fault."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [row for path in folders for row in _of_folder(path)]


def studies_of(storage: BaseStorage, folder: Path) -> list[StudyRow]:
    """The studies of a storage, by name; `folder` is where each has a folder with its `best.yaml`."""
    return [
        _row(optuna.load_study(study_name=name, storage=storage), folder / name)
        for name in sorted(optuna.get_all_study_names(storage))
    ]


def counts(study: optuna.Study) -> dict[str, int]:
    """How many of the trials that count are in each of `STATES`."""
    found = Counter(trial.state for trial in trials_in(study, *STATES.values()))
    return {name: found[state] for name, state in STATES.items()}


def best_so_far(study: optuna.Study) -> tuple[FrozenTrial, ...]:
    """The best trial; of two objectives, those on the Pareto front, by the first."""
    best = best_trials(study)
    return tuple(best if len(study.directions) > 1 else best[:1])


def _row(study: optuna.Study, folder: Path) -> StudyRow:
    trials = study.get_trials(deepcopy=False)
    begun = [trial.datetime_start for trial in trials if trial.datetime_start]
    ended = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    sweep = study.user_attrs.get("definition", {}).get("sweep", {})
    return StudyRow(
        name=study.study_name,
        counts=counts(study),
        metrics=tuple(sweep[key] for key in ("metric", "against") if sweep.get(key)),
        best=best_so_far(study),
        begun=min(begun, default=None),
        active=max([*begun, *ended], default=None),
        named=(folder / "best.yaml").is_file(),
        runs=_held(folder / "lock"),
    )


def _of_folder(folder: Path) -> list[StudyRow]:
    journal = folder / "journal.log"
    if not journal.is_file():
        return [StudyRow(folder.name, fault="no journal.log: a database has the study, or it was never begun")]
    try:
        # no lock is taken, and no file made, but to write
        storage = JournalStorage(JournalFileBackend(str(journal), JournalLock(journal)))
        rows = studies_of(storage, folder.parent)
        active = datetime.fromtimestamp(journal.stat().st_mtime)
    # whatever is wrong with one must not hide the others
    except Exception as error:
        return [StudyRow(folder.name, runs=_held(folder / "lock"), fault=_fault(journal, error))]
    if [row.name for row in rows] != [folder.name]:
        names = ", ".join(row.name for row in rows)
        return [
            StudyRow(folder.name, active=active, fault=f"journal.log holds {names or 'no study'}, not {folder.name}")
        ]
    return [replace(row, active=active) for row in rows]


def _fault(journal: Path, error: Exception) -> str:
    if isinstance(error, ValueError):
        for number, line in enumerate(journal.read_bytes().splitlines(), start=1):
            try:
                json.loads(line)
            except ValueError:
                return f"journal.log:{number}: not a line of JSON"
    return f"journal.log: {type(error).__name__}: {error}"


def _held(lock: Path) -> bool | None:
    """Whether a process of this machine holds a lock; None: the system does not tell.

    It is looked up and not tried, since to try it is to have it for an instant, in which a sweep could not begin.
    """
    try:
        inode = lock.stat().st_ino
    except OSError:
        return False
    try:
        locks = Path("/proc/locks").read_text(encoding="utf-8")
    except OSError:
        return None
    # by inode alone: some file systems give their device another number here
    return bool(re.search(rf"^\d+: FLOCK +ADVISORY +WRITE +\S+ \S+:{inode} ", locks, re.MULTILINE))
