"""Folds of the training set: which parameters they fit, and the folders that their data are prepared in."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from bilstm_attention import paths
from bilstm_attention.config import Params, with_overrides

Folds = Annotated[int, Field(ge=2, le=100)]


def data_root(params: Params, *inputs: Any) -> Path:
    """The folder of the data that is prepared with these parameters from these inputs."""
    parts = [params.data.model_dump(), params.embeddings.model_dump(), *inputs]
    text = "".join(f"{json.dumps(part, sort_keys=True)}\n" for part in parts)
    return paths.TRAININGS / "data" / hashlib.sha256(text.encode()).hexdigest()[:12]


def fold_data(params: Params, folds: int, *inputs: Any) -> dict[Path, Params]:
    """The folder of each fold's data, and the parameters that `prepare` makes it with."""
    each = [with_overrides(params, {"data.folds": folds, "data.fold": fold}) for fold in range(folds)]
    return {data_root(fold, *inputs): fold for fold in each}


def fold_fault(params: Params) -> str | None:
    """Why folds of train cannot score models of these parameters; None: they can."""
    if params.data.dev:
        return f"folds are of train where the base names no dev file; here data.dev is {params.data.dev}"
    if params.data.test and params.train.restore_best_weights:
        return (
            "train.restore_best_weights: true: the fold is dev, and would pick the epoch whose answers it scores; set"
            " it to false, and train.epochs to what all folds are to have"
        )
    return None
