"""What a killed training needs in order to go on as if nothing had happened."""

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilstm_attention.paths import atomic_write

Arrays = list[NDArray[Any]]


@dataclass
class State:
    """A training after some whole epochs.

    Args:
        history: one row per finished epoch.
        best_epoch: the epoch whose dev score is best, from 1; 0 before the first.
        variables: every variable of model and optimizer, random-number states included.
        best: the model's weights at `best_epoch`.
    """

    history: list[dict[str, Any]]
    best_epoch: int
    variables: Arrays
    best: Arrays


class Checkpoint:
    """A file that holds the last finished epoch; it is replaced whole, never half.

    Args:
        folder: where checkpoints live; outlives the DVC stage's outputs, which DVC deletes before a rerun.
        key: digest of all that determines the training. A checkpoint of anything else has another name.
    """

    def __init__(self, folder: Path, key: str):
        self.path = folder / f"{key}.npz"

    def load(self) -> State | None:
        """The state saved last, or None if there is none or it cannot be read."""
        try:
            with np.load(self.path, allow_pickle=False) as file:
                meta = json.loads(str(file["meta"]))
                variables = [file[f"variable_{number}"] for number in range(meta["variables"])]
                best = [file[f"best_{number}"] for number in range(meta["best"])]
        # what zipfile and NumPy raise on a file with any one byte wrong, or cut short anywhere
        except (OSError, zipfile.BadZipFile, KeyError, ValueError, EOFError, RuntimeError):
            return None
        return State(meta["history"], meta["best_epoch"], variables, best)

    def save(self, state: State) -> None:
        """Replaces the file; on disk before this returns."""
        meta = {
            "history": state.history,
            "best_epoch": state.best_epoch,
            "variables": len(state.variables),
            "best": len(state.best),
        }
        arrays: dict[str, Any] = {f"variable_{number}": array for number, array in enumerate(state.variables)}
        arrays |= {f"best_{number}": array for number, array in enumerate(state.best)}
        with atomic_write(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, meta=np.array(json.dumps(meta)), **arrays)
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Deletes the file, and what a killed save left of one, once what it led to is safely written."""
        for path in (self.path, *self.path.parent.glob(f".*.{self.path.name}")):
            path.unlink(missing_ok=True)
