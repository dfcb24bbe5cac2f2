"""Every path of the project, its root, and files that are written whole or not at all."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bilstm_attention.errors import UserError

# Stages run in the project root; the other paths are relative to it, as in dvc.yaml.
PROJECT = Path()
PARAMS = Path("params.yaml")
EXTERNAL = Path("data/external")
PREPARED = Path("data/prepared")
EMBEDDINGS = Path("data/embeddings")
CURRENT = Path("experiments/current")
MODELS = CURRENT / "models"
CHECKPOINTS = Path("experiments/checkpoints")
CONFIGS = Path("experiments/configs")
STUDIES = Path("experiments/studies")
TRAININGS = Path("experiments/trainings")
RESULTS = Path("experiments/results")
STORE = Path("experiments/mlflow.db")
ARTIFACTS = Path("experiments/mlartifacts")


def project_root() -> Path:
    """The nearest folder, from the working directory upwards, that holds `dvc.yaml` and `params.yaml`."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / PARAMS).is_file():
            return folder
    raise UserError(
        f"{here}: neither this folder nor one above it holds dvc.yaml and params.yaml; run inside the project."
    )


def main_root() -> Path:
    """The root of the main checkout, also in a temporary copy of it.

    `dvc exp run --temp` and `--queue` run in a copy under `.dvc/tmp/exps/` of the main checkout, and delete it at the
    end. The tracking store and checkpoints must outlive it.
    """
    return Path(str(project_root()).partition("/.dvc/tmp/exps/")[0])


def seed_folder(seed: int) -> Path:
    """Output of the stage `train` for one seed."""
    return MODELS / f"seed-{seed}"


def live_folder(seed: int) -> Path:
    """Numbers of each epoch that `train` writes while it trains, in the files of DVCLive."""
    return CURRENT / f"live/seed-{seed}"


def attention_page(seed: int) -> Path:
    """Page that `report` writes of the model of one seed."""
    return CURRENT / f"attention/seed-{seed}.html"


@contextmanager
def file_lock(folder: Path, otherwise: UserError) -> Iterator[None]:
    """Locks a folder, or raises `otherwise` if another process holds it; released when the process dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise otherwise from None
        yield


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, and renames it at the end: the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        # a full disk is reported without a name
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON, keys in their order, by `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """Digest of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
