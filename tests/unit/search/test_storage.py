"""Where studies are kept: half a line costs nothing, and a database says what is wrong without its password."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError, OperationalError
from tests.made_studies import UNITS, make_definition

from bilstm_attention.errors import SweepError
from bilstm_attention.search import storage
from bilstm_attention.search.study import SweepSpec, open_study


@pytest.fixture
def definition(tmp_path: Path) -> SweepSpec:
    return make_definition(tmp_path)


@pytest.fixture
def study(definition: SweepSpec) -> optuna.Study:
    return open_study(definition)


# --- the journal


def test_half_a_line_is_cut_off_before_the_next_is_written(study: optuna.Study, definition: SweepSpec) -> None:
    study.enqueue_trial({UNITS: 7})
    whole = definition.journal.read_bytes()
    definition.journal.write_bytes(whole + b'{"op_code": 4, "wor')
    # by another process, since this one has read it
    program = (
        "import optuna, sys; from pathlib import Path; from bilstm_attention.search.storage import open_journal\n"
        "study = optuna.load_study(study_name='s', storage=open_journal(Path(sys.argv[1])))\n"
        f"print(study.ask().suggest_int('{UNITS}', 1, 1000))"
    )
    done = subprocess.run([sys.executable, "-c", program, definition.journal], capture_output=True, text=True)
    assert done.stdout == "7\n", done.stderr
    assert definition.journal.read_bytes().startswith(whole)
    assert all(json.loads(line) for line in definition.journal.read_text().splitlines())
    assert study.ask().number == 1


def test_a_whole_journal_is_left_as_it_is(study: optuna.Study, definition: SweepSpec) -> None:
    study.enqueue_trial({UNITS: 7})
    whole = definition.journal.read_bytes()
    study.set_user_attr("a", "b")
    assert definition.journal.read_bytes().startswith(whole)


def test_what_one_process_writes_another_reads_at_once(study: optuna.Study, definition: SweepSpec) -> None:
    storage.open_journal.cache_clear()
    other = open_study(definition)
    trial = study.ask()
    trial.set_user_attr("a", [1, None])
    trial.report(0.5, 1)
    assert other.trials[0].user_attrs == {"a": [1, None]}
    other.tell(0, 0.5)
    assert [each.state for each in study.trials] == [TrialState.COMPLETE]


# --- databases


def refusal(address: str) -> str:
    with pytest.raises(SweepError) as caught:
        storage.open_database(address)
    return str(caught.value)


def test_a_database_that_does_not_answer_is_told_and_a_password_is_not() -> None:
    said = refusal("sqlite:////no/such/folder/studies.db")
    assert said.startswith("--storage sqlite:////no/such/folder/studies.db")
    assert "the database does not answer: " in said
    assert "unable to open" in said
    assert "\n" not in said
    assert storage.shown("postgresql+psycopg://me:secret@host/name") == "postgresql+psycopg://me:***@host/name"


def test_what_is_no_address_is_not_repeated() -> None:
    said = refusal("me:secret@host")
    assert "secret" not in said
    assert "one is postgresql+psycopg://user:password@host/name" in said


def test_an_outage_is_told_with_what_it_costs_and_without_the_password() -> None:
    refused = OperationalError("SELECT 'hush'", {}, Exception("connection refused\nmore"))
    for error in (refused, StorageInternalError("Invalid data in the commit.")):
        error.__cause__ = None if error is refused else refused
        with pytest.raises(SweepError) as caught, storage.report_outages("postgresql://me:secret@host/name"):
            raise error
        first, second = str(caught.value).splitlines()
        assert first.startswith("--storage postgresql://me:***@host/name: the database does not answer: ")
        assert first.endswith("connection refused")
        assert second.endswith("the same command goes on.")


@pytest.mark.parametrize(
    ("address", "error"),
    [("sqlite:///x", ValueError), ("sqlite:///x", SweepError), (None, StorageInternalError)],
)
def test_what_is_no_outage_of_a_database_is_raised_as_it_is(address: str | None, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^as it is$"), storage.report_outages(address):
        raise error("as it is")


def test_a_driver_that_is_not_there_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*given: Any, **more: Any) -> None:
        raise ImportError("no psycopg")

    monkeypatch.setattr(storage, "Database", missing)
    assert "pip install 'bilstm-attention[cluster]'" in refusal("postgresql://me@host/name")


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("CREATE TABLE studies", {}, Exception("table studies already exists")),
        IntegrityError("INSERT", {}, Exception("UNIQUE constraint failed: alembic_version.version_num")),
    ],
)
def test_a_database_that_another_process_makes_ready_meanwhile_is_opened(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, failures, waited = storage.Database, iter([error, error]), list[float]()

    def open_at_once(*given: Any, **more: Any) -> Any:
        if failure := next(failures, None):
            raise failure
        return opened(*given, **more)

    monkeypatch.setattr(storage, "Database", open_at_once)
    monkeypatch.setattr(storage.time, "sleep", waited.append)
    assert optuna.get_all_study_names(storage.open_database(f"sqlite:///{tmp_path}/studies.db")) == []
    assert waited == [1, 1]


def test_a_database_that_never_becomes_ready_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def fail(*given: Any, **more: Any) -> None:
        raise IntegrityError("INSERT", {}, Exception("again"))

    monkeypatch.setattr(storage, "Database", fail)
    monkeypatch.setattr(storage.time, "sleep", waited.append)
    assert "again" in refusal("sqlite:///x")
    assert len(waited) == storage.ATTEMPTS - 1
