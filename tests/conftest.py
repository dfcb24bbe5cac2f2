"""Fixtures that several tests share. Real data is no part of the project: tests of it are skipped without it."""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from bilstm_attention.config import Params, load_params
from bilstm_attention.console import suppress_native_stderr
from bilstm_attention.errors import ParamsError
from tests.project import Project, copy_project
from tests.servers import postgres_server

# a test that imports from a folder leaves no bytecode there for another one to read
sys.dont_write_bytecode = True
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
ROOT = Path(__file__).parents[1]

# a busy machine must not fail a test
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# whichever test imports TensorFlow first, it runs with the settings of the command
with suppress_native_stderr():
    pass


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden.json again for this processor")


def pytest_sessionstart():
    # the tests start from the params.yaml of the repository
    if load_params(ROOT / "params.yaml") != Params():
        pytest.exit("params.yaml holds another experiment; `bilstm-attention apply sample` first.", returncode=2)


@pytest.fixture(scope="session")
def real_data():
    """A folder with semeval2010-task8 (scorer-examples in it), glove and mr."""
    beside = Path(__file__).parents[2] / "shared/data"
    folder = Path(os.environ.get("BILSTM_ATTENTION_DATA") or beside).resolve()
    if not all((folder / name).is_dir() for name in ("semeval2010-task8", "glove", "mr")):
        pytest.skip("real data is not here: set BILSTM_ATTENTION_DATA to a folder with semeval2010-task8, glove and mr")
    return folder


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server; a test may stop it."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def database(postgres):
    """The SQLAlchemy URL of a fresh database on a server that runs."""
    with postgres.fresh_database() as url:
        yield url


@pytest.fixture(scope="session")
def new_project(mlflow_template, tmp_path_factory):
    """Makes copies of this project with a small model and an empty MLflow store, not yet run."""
    return lambda: copy_project(tmp_path_factory.mktemp("project"), mlflow_template)


@pytest.fixture(scope="module")
def first_repro(mlflow_template, tmp_path_factory):
    """A project after `dvc repro` and a commit: each file of tests has a copy of the one that xdist's workers share."""
    base = tmp_path_factory.getbasetemp()
    original = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "reproduced"
    with original.with_suffix(".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        if not lock.read():
            project = copy_project(original, mlflow_template)
            project.run("dvc", "repro")
            project.commit("reproduced")
            lock.write("done")
    return Project(shutil.copytree(original, tmp_path_factory.mktemp("copy") / "project"))


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory):
    """An empty MLflow store, whose first initialisation takes seconds; tests work on copies."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def mlflow_store(mlflow_template, tmp_path):
    """The URI of an empty MLflow store."""
    return f"sqlite:///{shutil.copy(mlflow_template, tmp_path / 'mlflow.db')}"


@pytest.fixture
def inside(project, mlflow_template, monkeypatch):
    """The working directory is the `project` of the module, whose store is its own."""
    store = project / "experiments/mlflow.db"
    if not store.exists():
        store.parent.mkdir(exist_ok=True)
        shutil.copy(mlflow_template, store)
    monkeypatch.chdir(project)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return project


@pytest.fixture
def tracker(inside, request):
    """The store of that project, opened at an experiment of the test's own."""
    from bilstm_attention.tracking.runs import Tracker

    return Tracker(request.node.name)


@pytest.fixture
def hide(inside, tmp_path):
    """Takes files of the project away until the test ends."""
    moved: list[tuple[Path, Path]] = []
    yield lambda path: moved.append((path.rename(tmp_path / path.name), path))
    for aside, path in moved:
        aside.rename(path)


@pytest.fixture
def file(tmp_path):
    """A copy of the project's params.yaml."""
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


def refusal(act: Callable[[], Any], error: type[Exception] = ParamsError) -> str:
    """The message of the error that an act ends with, by default that of refused parameters."""
    with pytest.raises(error) as caught:
        act()
    return str(caught.value)
