"""Trainings of comparisons and confirmations: each runs once, is measured, and is read again from its record.

Also the folds of the training set: the folders of their data, and which parameters they fit.
"""

import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bilstm_attention import paths
from bilstm_attention.config import Params, with_overrides
from bilstm_attention.console import start_tensorflow
from bilstm_attention.data.dataset import Dataset, Rows, encode, load_dataset, load_split, load_vocabulary
from bilstm_attention.data.splits import Split
from bilstm_attention.errors import UserError
from bilstm_attention.search.workers import Report, run_jobs

CHECKPOINTS = paths.TRAININGS / "checkpoints"
Folds = Annotated[int, Field(ge=2, le=100)]
# How many dev sentences measure the faithfulness of attention, and the seed of their choice.
Sample = tuple[int, int]


@dataclass(frozen=True)
class TrainingJob:
    """One training."""

    name: str  # for messages, and of its run in MLflow
    params: Params  # `train.seeds` is not read
    seed: int
    root: Path  # folder of its prepared data
    scored: Split = "dev"  # the split that scores it: dev, or test if that is a fold of train
    test: bool = False  # whether the model answers the test set too
    faithfulness: tuple[Sample, ...] = ()  # on which the faithfulness of its attention is measured

    @property
    def work(self) -> str:
        """The training itself, whatever is measured of it: equal jobs train the same."""
        settings = self.params.model_dump(exclude={"evaluate": True, "train": {"seeds"}})
        return json.dumps([settings, self.seed, self.scored, str(self.root)], sort_keys=True)


@dataclass(frozen=True)
class TrainingRecord:
    """Results of a training."""

    key: str  # see `training.fit.training_key`
    dev: dict[str, float]  # scores of the epoch that is kept
    best_epoch: int
    history: list[dict[str, Any]]  # a mapping per epoch
    started: float  # seconds since 1970
    made_with: str  # date, commit, machine and versions in one line
    environment: dict[str, str]  # the same as tags
    weights: int  # number of trained weights
    labels: list[str]  # in the order of their numbers
    predicted: list[str]  # label of each sentence of the split that scores the training
    confidence: list[float]  # probability of each
    faithfulness: dict[str, dict[str, Any]] = field(default_factory=dict)  # of each sample, on dev
    # probabilities of the test set, `(M, C)`, in a file beside the record; None: not requested
    test: NDArray[np.float32] | None = field(default=None, compare=False)


# The trainings of one variant of a comparison, or of one trial that is confirmed: with each seed, on each fold.
Done = Sequence[tuple[TrainingJob, TrainingRecord]]


def sample_name(sample: Sample) -> str:
    """Names a sample in records and their files."""
    return "faithfulness-{}-{}".format(*sample)


def predicted_on_test(job: TrainingJob, record: TrainingRecord) -> list[str]:
    """The predicted label of each test sentence; empty if the job does not answer the test set."""
    # of a corpus without a test file, test is the fold that scores the training
    if job.scored == "test":
        return record.predicted
    numbers = record.test.argmax(axis=1) if job.test and record.test is not None else []
    return [record.labels[number] for number in numbers]


def answers(done: Done, test: bool = False) -> tuple[list[str], dict[int, list[str]]]:
    """Labels of the sentences that score the trainings, of all folds together, and by seed the predicted ones.

    With `test` of the test set.
    """
    gold, predicted = dict[int, list[str]](), dict[int, list[str]]()
    for job, record in done:
        labels = load_split("test" if test else job.scored, ["label"], job.root)["label"]
        gold.setdefault(job.seed, []).extend(labels)
        predicted.setdefault(job.seed, []).extend(predicted_on_test(job, record) if test else record.predicted)
    return gold[done[0][0].seed], predicted


def merge_jobs(jobs: Iterable[TrainingJob]) -> list[TrainingJob]:
    """Each training once, with everything that any of the equal jobs measures."""
    merged: dict[str, TrainingJob] = {}
    for job in jobs:
        other = merged.setdefault(job.work, job)
        samples = tuple(dict.fromkeys(other.faithfulness + job.faithfulness))
        merged[job.work] = replace(other, test=other.test or job.test, faithfulness=samples)
    return list(merged.values())


def run_trainings(
    jobs: Iterable[TrainingJob], workers: int, stopped: Callable[[], bool] = lambda: False
) -> Generator[tuple[TrainingJob, TrainingRecord | UserError]]:
    """Yields jobs with their records, or with the reason why one failed: first those that an earlier run trained.

    Jobs come from `merge_jobs`, since two equal ones would share a checkpoint. None begins once `stopped` says so.
    """
    start_tensorflow()
    missing = []
    for job in jobs:
        if record := find_record(job):
            yield job, record
        else:
            missing.append(job)
    waiting = iter(missing)
    yield from run_jobs(lambda: None if stopped() else next(waiting, None), run_job, workers)


def completed(plan: Iterable[tuple[Any, TrainingJob]], records: Mapping[str, TrainingRecord]) -> dict[Any, Done]:
    """The trainings of each variant of a plan that has all of its records, which are by `TrainingJob.work`."""
    done: dict[Any, list[Any]] = {}
    for variant, job in plan:
        done.setdefault(variant, []).append((job, records.get(job.work)))
    return {variant: pairs for variant, pairs in done.items() if all(record for _, record in pairs)}


def run_job(job: TrainingJob, _: Report | None = None) -> TrainingRecord:
    """Trains and measures, unless a record holds it all.

    An interrupted training resumes at its last finished epoch. The checkpoint is removed when the record is written.
    """
    start_tensorflow()
    return find_record(job) or _read_record(_train(job))


def find_record(job: TrainingJob) -> TrainingRecord | None:
    """A record that holds all that a job measures; None: there is none."""
    training, *measured = _record_parts(job)
    files = sorted(paths.TRAININGS.glob(f"{training}*.json"))
    file = next((file for file in files if {*measured} <= {*file.stem.split("+")}), None)
    return _read_record(file) if file else None


def _read_record(file: Path) -> TrainingRecord:
    from bilstm_attention.training.fit import Checkpoint

    content, probabilities = json.loads(file.read_text(encoding="utf-8")), file.with_suffix(".npy")
    # left by a process that was killed between the two
    Checkpoint(CHECKPOINTS, content["key"]).remove()
    test = np.load(probabilities, allow_pickle=False) if probabilities.exists() else None
    return TrainingRecord(**content, test=test)


def _train(job: TrainingJob) -> Path:
    from bilstm_attention.evaluation.faithfulness import measure
    from bilstm_attention.model.predict import predict, to_labels
    from bilstm_attention.tracking.environment import environment_tags, made_with
    from bilstm_attention.training.fit import run_training, training_key

    started, made = time.time(), made_with()
    # the process that logs the run states its own
    environment = {name: tag for name, tag in environment_tags().items() if name not in ("host", "process")}
    dataset = read_dataset(job.root)
    result = run_training(job.params, dataset, job.seed, checkpoints=CHECKPOINTS)
    scored = predict(result.model, _rows(job.root, job.scored))
    labels, vocabulary, dev = list(dataset.labels), load_vocabulary(job.root), load_split("dev", root=job.root)
    record = TrainingRecord(
        key=training_key(job.params, dataset, job.seed),
        dev=result.dev,
        best_epoch=result.best_epoch,
        history=[{str(name): value for name, value in row.items()} for row in result.history.to_dict("records")],
        started=started,
        made_with=made,
        environment=environment,
        weights=sum(variable.numpy().size for variable in result.model.trainable_variables),
        labels=labels,
        predicted=to_labels(scored, labels),
        confidence=[round(float(each), 4) for each in scored.max(axis=1)],
        faithfulness={
            sample_name(sample): measure(result.model, dev, vocabulary, labels, *sample) for sample in job.faithfulness
        },
    )
    file = paths.TRAININGS / f"{'+'.join(_record_parts(job))}.json"
    if job.test:
        probabilities = predict(result.model, _rows(job.root, "test"))
        with paths.atomic_write(file.with_suffix(".npy")) as target, target.open("wb") as stream:
            np.save(stream, probabilities, allow_pickle=False)
    paths.write_json(file, {name: value for name, value in asdict(record).items() if name != "test"})
    return file


def _record_parts(job: TrainingJob) -> list[str]:
    """Parts of the name of a record: the training and what scores it, the test set, the samples of faithfulness.

    The test set is no part of the training: without its digest, another test set would get the answers of this one.
    """
    from bilstm_attention.training.fit import digest, training_key

    key = training_key(job.params, read_dataset(job.root), job.seed)
    scored = _rows(job.root, job.scored)
    parts = [digest(key, scored.tokens, scored.starts, scored.labels)]
    if job.test:
        test = _rows(job.root, "test")
        parts.append(f"test-{digest(test.tokens, test.starts, test.labels)[:12]}")
    return parts + sorted(map(sample_name, job.faithfulness))


def _rows(root: Path, split: Split) -> Rows:
    dataset = read_dataset(root)
    if split == "dev":
        return dataset.dev
    return encode(load_split(split, root=root), load_vocabulary(root), dataset.labels)


@lru_cache(maxsize=4)
def read_dataset(root: Path) -> Dataset:
    """The data prepared under `root`; a worker keeps those it used last."""
    return load_dataset(root)


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
