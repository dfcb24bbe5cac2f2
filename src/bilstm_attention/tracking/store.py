"""The MLflow tracking store: where it is, opening it, and one line about what is wrong with it."""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bilstm_attention import paths
from bilstm_attention.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow would otherwise report usage to its makers, and wait minutes for a server that is not there.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def store_uri() -> str:
    """Address of the tracking store: `MLFLOW_TRACKING_URI` if set, else the SQLite file of the main checkout."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{paths.main_root() / paths.STORE}"


def artifact_uri() -> str:
    """Folder of artifacts unless a tracking server keeps them: in the main checkout, whose copies do not last."""
    return (paths.main_root() / paths.ARTIFACTS).as_uri()


def shown_uri() -> str:
    """The store's address without password or token, for messages."""
    address = store_uri()
    if address.startswith(("sqlite:", "file:")):
        return address
    address = re.sub(r"//([^:@?]*:)?[^?]*@", r"//\1***@", address)
    return re.sub(r"(?i)([?&][^=&]*(?:pass|token|secret|key)[^=&]*=)[^&]*", r"\1***", address)


def error_line(error: Exception) -> str:
    """An error of the store in one line, without the secrets of the store's address."""
    lines = str(error).replace(store_uri(), shown_uri()).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


@contextmanager
def report_store_errors(about: str = "") -> Iterator[None]:
    """For commands that need the store: a UserError, which begins with `about`, if it does not answer or refuses."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{about}{shown_uri()}: {error_line(error)}.") from error


def open_store() -> "MlflowClient":
    """A client of the tracking store, also MLflow's own from now on."""
    import mlflow
    from mlflow import MlflowClient

    uri = store_uri()
    if uri.startswith("sqlite:///"):
        _check_sqlite(Path(uri.removeprefix("sqlite:///").partition("?")[0]))
    mlflow.set_tracking_uri(uri)
    return MlflowClient(uri)


def _check_sqlite(database: Path) -> None:
    """Makes a file that is not there, and fails at once on one that cannot be opened: MLflow retries for two minutes.

    A new file appears with all its tables: MLflow cannot repair one that a killed process left half made.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    if not database.exists():
        from mlflow import MlflowClient

        with TemporaryDirectory(dir=database.parent, prefix=".new-") as folder:
            new = Path(folder, database.name)
            MlflowClient(f"sqlite:///{new}").search_experiments(max_results=1)
            # another process may have created it meanwhile
            with suppress(FileExistsError):
                database.hardlink_to(new)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA schema_version")
