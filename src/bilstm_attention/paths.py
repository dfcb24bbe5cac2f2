"""The one place that spells a path; finds the project root, also from a DVC temporary copy."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bilstm_attention.errors import UserError

# The project root, in which stages run; the others are relative to it, as dvc.yaml spells them.
PROJECT = Path()
PARAMS = Path("params.yaml")
EXTERNAL = Path("data/external")
PREPARED = Path("data/prepared")
EMBEDDINGS = Path("data/embeddings")
CURRENT = Path("experiments/current")
MODELS = CURRENT / "models"
CHECKPOINTS = Path("experiments/checkpoints")
STUDIES = Path("experiments/studies")
TRAININGS = Path("experiments/trainings")
RESULTS = Path("experiments/results")
STORE = Path("experiments/mlflow.db")
ARTIFACTS = Path("experiments/mlartifacts")
OUTBOX = Path("experiments/outbox")


def project_root() -> Path:
    """The folder that holds `dvc.yaml` and `params.yaml`, looked for upwards from the working directory.

    Raises:
        UserError: no such folder.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / PARAMS).is_file():
            return folder
    raise UserError(
        f"{here}: neither this folder nor one above it holds dvc.yaml and params.yaml; run inside the project."
    )


def main_root(root: Path | None = None) -> Path:
    """The main checkout's root: the same as `root`, unless that is a copy made by `dvc exp run --temp` or `--queue`.

    Such a copy lies in the main checkout under `.dvc/tmp/exps/` and is deleted after the run, so what must outlive it
    (the tracking store, checkpoints) belongs in the main checkout.
    """
    root = root or project_root()
    for folder in root.parents:
        if folder.name == "exps" and folder.parent.name == "tmp" and folder.parent.parent.name == ".dvc":
            return folder.parents[2]
    return root


def seed_folder(seed: int) -> Path:
    """ExecutionOptions `train` writes the model of one seed."""
    return MODELS / f"seed-{seed}"


@contextmanager
def file_lock(folder: Path, otherwise: UserError) -> Iterator[None]:
    """Keeps a second process from a folder; the system frees it when its holder dies.

    Args:
        folder: made if it is not there.
        otherwise: what is raised where another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise otherwise from None
        yield


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path` to write to, and renames it: the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON, keys in their order, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
