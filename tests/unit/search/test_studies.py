"""The list of studies: what counts, what is best, what runs; nothing is changed by it, and nothing broken stops it."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from bilstm_attention.search.storage import JournalLock
from bilstm_attention.search.studies import StudyRow, best_so_far, counts, list_studies, studies_of
from bilstm_attention.search.study import REPLACES, SURPLUS

STATES = ("COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING")


def journal_in(folder: Path) -> JournalStorage:
    """A storage as sweeps keep it."""
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / "journal.log"
    return JournalStorage(JournalFileBackend(str(journal), JournalLock(journal)))


def study_in(storage: BaseStorage, name: str, *others: str) -> optuna.Study:
    return optuna.create_study(study_name=name, storage=storage, directions=["maximize", *others])


def add(study: optuna.Study, units: int, *values: float, state: str = "COMPLETE", **attributes: object) -> None:
    study.add_trial(
        create_trial(
            state=TrialState[state],
            values=values or None,
            params={"units": units},
            distributions={"units": IntDistribution(1, 1000)},
            user_attrs=attributes,
        )
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Studies `a` and `b`, each with a trial that ended."""
    for name, score in {"b": 60.0, "a": 70.0}.items():
        add(study_in(journal_in(tmp_path / "studies" / name), name), 1, score)
    return tmp_path / "studies"


def test_a_study_is_listed_with_the_trials_that_count_and_the_best_of_them(tmp_path: Path) -> None:
    study = study_in(journal_in(tmp_path / "s"), "s")
    study.set_user_attr("definition", {"sweep": {"metric": "accuracy", "against": None}})
    for number, state in enumerate(STATES * 2):
        add(study, number + 1, *([50.0 + number] if state == "COMPLETE" else []), state=state)
    add(study, 20, state="FAIL")
    add(study, 20, 55.0, **{REPLACES: [10]})
    add(study, 21, state="FAIL", **{SURPLUS: True})
    add(study, 22, 99.0, **{SURPLUS: True})
    [row] = list_studies(tmp_path)
    assert row.counts == {"complete": 3, "pruned": 2, "failed": 2, "running": 2, "waiting": 2} == counts(study)
    assert [(trial.number, trial.values) for trial in row.best] == [(5, [55.0])]
    assert (row.name, row.metrics, row.named, row.runs, row.fault) == ("s", ("accuracy",), False, False, "")
    (tmp_path / "s/best.yaml").touch()
    assert list_studies(tmp_path)[0].named


def test_of_two_objectives_the_best_are_those_that_none_beats_in_both() -> None:
    study = study_in(InMemoryStorage(), "s", "minimize")
    study.set_user_attr("definition", {"sweep": {"metric": "accuracy", "against": "parameters"}})
    for units, values in enumerate([(70.0, 5.0), (60.0, 3.0), (65.0, 6.0), (80.0, 9.0), (80.0, 10.0)]):
        add(study, units + 1, *values)
    assert [trial.number for trial in best_so_far(study)] == [3, 0, 1]
    assert studies_of(study._storage, Path())[0].metrics == ("accuracy", "parameters")


def test_a_study_says_when_it_was_begun_and_when_it_last_changed(tmp_path: Path) -> None:
    before = datetime.now()
    study = study_in(journal_in(tmp_path / "s"), "s")
    row = list_studies(tmp_path)[0]
    assert row.begun is None
    study.tell(study.ask(), 1.0)
    between = datetime.now()
    study.ask()
    last = study.trials[-1].datetime_start
    [stored] = studies_of(journal_in(tmp_path / "s"), tmp_path)
    assert before <= stored.begun <= between <= stored.active == last
    # with every epoch of a trial the journal changes
    later = datetime(2100, 1, 2, 3, 4, 5)
    os.utime(tmp_path / "s/journal.log", (later.timestamp(),) * 2)
    [row] = list_studies(tmp_path)
    assert (row.begun, row.active) == (stored.begun, later)


def test_studies_come_by_name_and_no_folder_is_no_study(folder: Path) -> None:
    (folder / "a file").touch()
    assert [(row.name, row.best[0].values) for row in list_studies(folder)] == [("a", [70.0]), ("b", [60.0])]
    assert list_studies(folder / "nowhere") == []


def test_the_studies_of_a_database_are_listed_with_what_their_folders_hold(folder: Path) -> None:
    storage = InMemoryStorage()
    for name in ("b", "a"):
        add(study_in(storage, name), 1, 1.0)
    (folder / "b/best.yaml").touch()
    rows = studies_of(storage, folder)
    assert [(row.name, row.named, row.runs) for row in rows] == [("a", False, False), ("b", True, False)]
    assert not any(row.fault for row in rows)


def state_of(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """All there is, when it was changed, and what it holds."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in (folder, *folder.rglob("*"))
    }


def test_nothing_is_changed_by_reading_not_even_half_a_line(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "a/journal.lock").unlink()
    with (folder / "a/journal.log").open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"x","study_id":0,"datet')
    before = state_of(folder)
    rows = list_studies(folder)
    assert state_of(folder) == before
    assert [(row.name, row.counts.get("complete"), bool(row.fault)) for row in rows] == [
        ("a", 1, False),
        ("b", 1, False),
        ("empty", None, True),
    ]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"op_code":0,"worker_id":"x","study_name":"c","directions":[2]}\n{"op_c\n{}\n', "journal.log:2: not a line"),
        (b"\x00\xff\n{}\n", "journal.log:1: not a line"),
        (b"[]\n", "journal.log: TypeError: "),
        (b'{"worker_id":"x"}\n', "journal.log: KeyError: 'op_code'"),
        (b"", "journal.log holds no study, not c"),
    ],
)
def test_a_broken_study_is_listed_with_its_fault_and_stops_no_other(folder: Path, content: bytes, fault: str) -> None:
    (folder / "c").mkdir()
    (folder / "c/journal.log").write_bytes(content)
    rows = list_studies(folder)
    assert [row.name for row in rows] == ["a", "b", "c"]
    assert [bool(row.fault) for row in rows] == [False, False, True]
    assert rows[2].fault.startswith(fault)
    assert (folder / "c/journal.log").read_bytes() == content


def test_a_folder_that_was_renamed_or_has_no_journal_says_so(folder: Path) -> None:
    shutil.copytree(folder / "a", folder / "c")
    (folder / "d").mkdir()
    rows = {row.name: row for row in list_studies(folder)}
    assert rows["c"].fault == "journal.log holds a, not c"
    assert rows["d"] == StudyRow("d", fault="no journal.log: a database has the study, or it was never begun")


HOLDS = """
import sys
from pathlib import Path
from bilstm_attention.search.study import SweepSpec
from bilstm_attention.search.sweep import locked

definition = SweepSpec(None, None, Path(sys.argv[1]))
for _ in sys.stdin:
    with locked(definition):
        print("has it", flush=True)
        sys.stdin.readline()
    print("had it", flush=True)
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that takes the lock of a study at one line it is told, and frees it at the next."""
    code = [sys.executable, "-c", HOLDS, str(folder)]
    child = subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def tell(child: subprocess.Popen[str]) -> str:
    assert child.stdin
    assert child.stdout
    child.stdin.write("\n")
    child.stdin.flush()
    return child.stdout.readline().strip()


def test_a_study_runs_while_another_process_has_its_lock(folder: Path) -> None:
    if not Path("/proc/locks").exists():
        pytest.skip("this system does not tell which locks are held")
    assert not list_studies(folder)[0].runs
    (folder / "b/lock").touch()
    with holder(folder / "a") as child:
        assert tell(child) == "has it"
        assert [row.runs for row in list_studies(folder)] == [True, False]
        assert tell(child) == "had it"
        assert [row.runs for row in list_studies(folder)] == [False, False]
        assert tell(child) == "has it"
        # also of a study that cannot be read
        (folder / "a/journal.log").write_bytes(b"?\n?\n")
        assert [row.runs for row in list_studies(folder)] == [True, False]
    assert [row.runs for row in list_studies(folder)] == [False, False]


def test_who_lists_takes_no_lock_not_even_for_an_instant(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that begins at that instant would fail."""
    (folder / "a/lock").touch()
    for name in ("flock", "lockf", "fcntl"):
        monkeypatch.setattr(fcntl, name, lambda *_: pytest.fail("took a lock", pytrace=False))
    assert [row.fault for row in list_studies(folder)] == ["", ""]


def test_a_system_that_does_not_tell_leaves_it_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a/lock").touch()
    read = Path.read_text

    def refused(path: Path, **options: str) -> str:
        if path == Path("/proc/locks"):
            raise FileNotFoundError
        return read(path, **options)

    monkeypatch.setattr(Path, "read_text", refused)
    assert [row.runs for row in list_studies(folder)] == [None, False]
