"""Trains what a comparison plans, and writes each training as a run to MLflow."""

import json
import time
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bilstm_attention import paths
from bilstm_attention.config import flatten, with_overrides
from bilstm_attention.data.dataset import Dataset, encode, load_dataset, load_split, load_vocabulary
from bilstm_attention.data.tokens import Vocabulary
from bilstm_attention.evaluation import faithfulness
from bilstm_attention.evaluation.metrics import scores
from bilstm_attention.model import predict as prediction
from bilstm_attention.search.comparison import Training
from bilstm_attention.tracking.environment import environment_tags, made_with
from bilstm_attention.tracking.pipeline import attention_metrics, corpus_name
from bilstm_attention.tracking.runs import RunRecord, fingerprints, log_runs
from bilstm_attention.training.fit import digest, run_training, training_checkpoint

FAITHFULNESS_ROWS = 200
DIGEST = "training.digest"
# as it was when this process began
_MEASURES = Path(faithfulness.__file__).read_text(encoding="utf-8")


def train_one(training: Training) -> dict[str, Any]:
    """Trains one variant with one seed and measures it, or reads what that gave before.

    Returns:
        among others `dev`, scores of the kept epoch; `predicted`, `(N,)` labels of what it is judged on, and
        `confidence`, the probability of each; where asked `faithfulness` on dev, and `test`, what the model answered
        the test set, probabilities `(M, C)`, on disk in a file of its own.
    """
    params, seed = training.params, training.seed
    task, dev, vocabulary = _inputs(training.root)
    checkpoints = training.root / "checkpoints"
    checkpoint = training_checkpoint(checkpoints, params, task, seed)
    judged = {"dev": task.dev}
    if training.test or training.judged == "test":
        judged["test"] = encode(load_split("test", root=training.root), vocabulary, task.labels)
    arrays = [part for rows in judged.values() for part in (rows.tokens, rows.starts, rows.labels)]
    # by what was trained, measured and judged, whichever comparison or parameters led to it
    measures = [_MEASURES, FAITHFULNESS_ROWS] if training.faithfulness else []
    path = paths.TRAININGS / f"{digest(checkpoint.path.stem, *measures, *arrays)}.json"
    answers = path.with_suffix(".npy")
    if not path.exists() or ("test" in judged and not answers.exists()):
        started, (code, environment) = time.time(), _made()
        fitted = run_training(params, task, seed, checkpoints=checkpoints)
        probabilities = {split: prediction.predict(fitted.model, rows) for split, rows in judged.items()}
        found = {
            "digest": checkpoint.path.stem,
            "dev": fitted.dev,
            "best_epoch": fitted.best_epoch,
            "started": started,
            "made_with": code,
            "environment": environment,
            "weights": sum(variable.numpy().size for variable in fitted.model.trainable_variables),
            "history": fitted.history.to_dict("records"),
            "predicted": prediction.to_labels(probabilities[training.judged], task.labels),
            "confidence": [round(float(each), 4) for each in probabilities[training.judged].max(axis=1)],
            "labels": list(task.labels),
        }
        if training.faithfulness:
            measured = faithfulness.measure(fitted.model, dev, vocabulary, task.labels, FAITHFULNESS_ROWS, 0)
            found["faithfulness"] = measured
        if "test" in probabilities:
            with paths.atomic_write(answers) as target, target.open("wb") as file:
                np.save(file, probabilities["test"], allow_pickle=False)
        paths.write_json(path, found)
    checkpoint.remove()
    found = dict(json.loads(path.read_text(encoding="utf-8")))
    if "test" in judged:
        found["test"] = np.load(answers, allow_pickle=False)
        found["answers"] = path.stem
    return found


@cache
def _made() -> tuple[str, dict[str, str]]:
    """What this process trains with, for people and as tags, as it was before its first training."""
    # the run is the recording process's, which says so by itself
    return made_with(), {name: tag for name, tag in environment_tags().items() if name not in ("host", "process")}


@lru_cache(maxsize=4)
def _inputs(root: Path) -> tuple[Dataset, pd.DataFrame, Vocabulary]:
    return load_dataset(root), load_split("dev", root=root), load_vocabulary(root)


def record(training: Training, found: Mapping[str, Any]) -> str | None:
    """Logs the training as a run in MLflow, under the table that wants it; returns the id, None if the store failed."""
    params = with_overrides(training.params, {"train.seeds": [training.seed]})
    prepared, splits = training.root / paths.PREPARED, ["train", "dev"]
    tags = {"comparison": training.page, "table": training.table, "variant": training.variant}
    tags |= {"seed": str(training.seed)} | ({} if training.fold is None else {"fold": str(training.fold)})
    metrics = {f"best_dev_{score}": value for score, value in found["dev"].items()}
    if training.faithfulness:
        metrics |= attention_metrics(faithfulness.over_seeds({training.seed: found["faithfulness"]}))
    if "test" in found:
        gold = load_split("test", ["label"], training.root)["label"].tolist()
        tested = scores(gold, prediction.to_labels(found["test"], found["labels"]), found["labels"])
        metrics |= {f"test_{score}": value for score, value in tested.items()}
        splits.append("test")
    run = RunRecord(
        name=training.name,
        # one for each table: a table's tags are its own, whoever trained first
        identity=(DIGEST, f"{found['digest']}/{training.page}/{training.table}"),
        params=flatten(params),
        started=found["started"],
        metrics=metrics,
        history=found["history"],
        tags=tags | found["environment"],
        datasets=fingerprints({split: prepared / f"{split}.parquet" for split in splits}),
    )
    return log_runs(corpus_name(params), [run], training.name).get(run.identity)
