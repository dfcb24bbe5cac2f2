"""Trainings of comparisons: each done once, measured, and kept as a file from which it is read again."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bilstm_attention import paths
from bilstm_attention.config import Params
from bilstm_attention.console import start_tensorflow
from bilstm_attention.data.dataset import existing
from bilstm_attention.data.splits import Split
from bilstm_attention.errors import TrainingError, UserError
from bilstm_attention.search.workers import WorkerCrashed, run_jobs

if TYPE_CHECKING:
    from bilstm_attention.data.dataset import Dataset


@dataclass(frozen=True)
class TrainingJob:
    """One training.

    Args:
        params: all parameters; `train.seeds` is not read.
        seed: of the training.
        root: folder of its prepared data.
        scored: the split that scores it: dev, or test if that is a fold of train.
        test: whether the model answers the test set too.
        faithfulness: whether the faithfulness of its attention is measured, by `params.evaluate`.
    """

    params: Params
    seed: int
    root: Path
    scored: Split = "dev"
    test: bool = False
    faithfulness: bool = False

    @property
    def work(self) -> str:
        """The training itself, whatever is measured of it: equal jobs train the same."""
        settings = self.params.model_dump(exclude={"evaluate": True, "train": {"seeds"}})
        return json.dumps([settings, self.seed, self.scored, str(self.root)], sort_keys=True)

    @property
    def splits(self) -> list[Split]:
        """The splits that the model answers."""
        return ["dev", "test"] if self.test or self.scored == "test" else ["dev"]


@dataclass(frozen=True)
class TrainingRecord:
    """Results of a training.

    Args:
        key: of the training, see `training.fit.training_key`.
        dev: scores of the epoch that is kept.
        best_epoch: that epoch.
        history: a mapping per epoch.
        started: seconds since 1970.
        made_with: date, commit, machine and versions in one line.
        environment: the same as tags.
        weights: number of trained weights.
        labels: class names in the order of their numbers.
        predicted: label of each sentence of the split that scores the training.
        confidence: probability of each.
        faithfulness: `faithfulness.measure` on dev; None: not measured.
        test: probabilities of the test set, `(M, C)`, in a file beside the record; None: not asked.
        file: of the record.
    """

    key: str
    dev: dict[str, float]
    best_epoch: int
    history: list[dict[str, Any]]
    started: float
    made_with: str
    environment: dict[str, str]
    weights: int
    labels: list[str]
    predicted: list[str]
    confidence: list[float]
    faithfulness: dict[str, Any] | None = None
    test: NDArray[np.float32] | None = field(default=None, compare=False)
    file: Path | None = None


def merge_jobs(jobs: Iterable[TrainingJob]) -> list[TrainingJob]:
    """Each training once, with everything that any of the equal jobs measures: two never share a checkpoint."""
    merged: dict[str, TrainingJob] = {}
    for job in jobs:
        other = merged.get(job.work, job)
        measured = job if job.faithfulness else other
        merged[job.work] = replace(measured, test=job.test or other.test)
    return list(merged.values())


def run_trainings(
    jobs: Sequence[TrainingJob], workers: int, on_done: Callable[[TrainingJob, TrainingRecord], None]
) -> None:
    """Runs jobs in worker processes of one thread each, or reads what an earlier run of them gave.

    Args:
        jobs: from `merge_jobs`.
        workers: processes at once.
        on_done: called with each job as it ends.

    Raises:
        UserError: a job failed, or its worker died; those that ended are kept.
    """
    waiting = iter(jobs)
    for job, result in run_jobs(lambda: next(waiting, None), run_job, workers):
        if isinstance(result, WorkerCrashed):
            raise TrainingError(f"{result}; the same command goes on, with fewer --workers if memory was short.")
        if isinstance(result, UserError):
            raise result
        on_done(job, read_record(result))


def run_job(job: TrainingJob) -> Path:
    """Trains and measures, unless a record has it all; returns the file of the record.

    An interrupted training resumes at its last finished epoch. The checkpoint is removed when the record is written.
    """
    start_tensorflow()
    from bilstm_attention.data.dataset import encode, load_split, load_vocabulary
    from bilstm_attention.evaluation import faithfulness
    from bilstm_attention.model.predict import predict, to_labels
    from bilstm_attention.tracking.environment import environment_tags, made_with
    from bilstm_attention.training.fit import digest, run_training, training_checkpoint, training_key

    params, dataset = job.params, _dataset(job.root)
    vocabulary, rows = load_vocabulary(job.root), {"dev": dataset.dev}
    if "test" in job.splits:
        rows["test"] = encode(load_split("test", root=job.root), vocabulary, dataset.labels)
    key, scored = training_key(params, dataset, job.seed), rows[job.scored]
    name = digest(key, scored.tokens, scored.starts, scored.labels)
    measures = params.evaluate.faithfulness, params.evaluate.faithfulness_seed
    file = paths.TRAININGS / f"{name}{'-faithfulness-{}-{}'.format(*measures) if job.faithfulness else ''}.json"
    # what was measured besides does no harm
    for other in [file, *([] if job.faithfulness else sorted(paths.TRAININGS.glob(f"{name}-*.json")))]:
        if other.exists() and ("test" not in rows or other.with_suffix(".npy").exists()):
            return other
    answers = file.with_suffix(".npy")
    checkpoints, started = job.root / "checkpoints", time.time()
    result = run_training(params, dataset, job.seed, checkpoints=checkpoints)
    probabilities = {split: predict(result.model, split_rows) for split, split_rows in rows.items()}
    record = TrainingRecord(
        key=key,
        dev=result.dev,
        best_epoch=result.best_epoch,
        history=[{str(name): value for name, value in row.items()} for row in result.history.to_dict("records")],
        started=started,
        made_with=made_with(),
        environment={name: tag for name, tag in environment_tags().items() if name not in ("host", "process")},
        weights=sum(variable.numpy().size for variable in result.model.trainable_variables),
        labels=list(dataset.labels),
        predicted=to_labels(probabilities[job.scored], dataset.labels),
        confidence=[round(float(each), 4) for each in probabilities[job.scored].max(axis=1)],
        faithfulness=faithfulness.measure(
            result.model, load_split("dev", root=job.root), vocabulary, dataset.labels, *measures
        )
        if job.faithfulness
        else None,
    )
    if "test" in rows:
        with paths.atomic_write(answers) as target, target.open("wb") as stream:
            np.save(stream, probabilities["test"], allow_pickle=False)
    paths.write_json(file, {name: value for name, value in asdict(record).items() if name not in ("test", "file")})
    training_checkpoint(checkpoints, params, dataset, job.seed).remove()
    return file


def read_record(file: Path) -> TrainingRecord:
    """Reads a record, with the answers of the test set if they are there.

    Raises:
        DataError: the record is not there.
    """
    content, answers = json.loads(existing(file).read_text(encoding="utf-8")), file.with_suffix(".npy")
    test = np.load(answers, allow_pickle=False) if answers.exists() else None
    return TrainingRecord(**content, test=test, file=file)


@lru_cache(maxsize=4)
def _dataset(root: Path) -> "Dataset":
    from bilstm_attention.data.dataset import load_dataset

    return load_dataset(root)
