"""The MLflow runs of comparisons, one per training of a table, in files from which they are logged."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bilstm_attention import paths
from bilstm_attention.config import flatten, with_overrides
from bilstm_attention.data.dataset import load_split
from bilstm_attention.evaluation.metrics import scores
from bilstm_attention.search.comparison import Comparison
from bilstm_attention.search.results import Done
from bilstm_attention.search.trainings import TrainingJob, TrainingRecord, predicted_on_test, sample_name
from bilstm_attention.tracking.pipeline import corpus_name, flatten_metrics
from bilstm_attention.tracking.runs import RunRecord, fingerprints

RUNS = paths.TRAININGS / "runs"


def save_runs(comparison: Comparison, done: Mapping[str, Done]) -> Path:
    """Writes the runs of a table by MLflow experiment; returns the file.

    A training of several tables is a run of each.
    """
    runs: dict[str, list[dict[str, Any]]] = {}
    for variant, trainings in done.items():
        for job, record in trainings:
            runs.setdefault(corpus_name(job.params), []).append(_run(comparison, variant, job, record))
    file = RUNS / f"{comparison.page}.{comparison.name}.json"
    paths.write_json(file, runs)
    return file


def load_runs(file: Path) -> list[tuple[str, list[RunRecord]]]:
    """The runs of a table, by MLflow experiment."""
    return [
        (experiment, [RunRecord(**{**run, "identity": tuple(run["identity"])}) for run in runs])
        for experiment, runs in json.loads(file.read_text(encoding="utf-8")).items()
    ]


def comparison_runs() -> list[tuple[str, list[RunRecord]]]:
    """The runs of all tables, by MLflow experiment."""
    return [runs for file in sorted(RUNS.glob("*.json")) for runs in load_runs(file)]


def _run(comparison: Comparison, variant: str, job: TrainingJob, record: TrainingRecord) -> dict[str, Any]:
    """The arguments of a `RunRecord`."""
    fold, splits = job.params.data.fold, ["train", "dev"]
    tags = {"comparison": comparison.page, "table": comparison.name, "variant": variant, "seed": str(job.seed)}
    tags |= {} if fold is None else {"fold": str(fold)}
    metrics = {f"best_dev_{score}": value for score, value in record.dev.items()}
    if job.faithfulness:
        # it imports TensorFlow
        from bilstm_attention.evaluation.faithfulness import merge_seeds

        for sample in job.faithfulness:
            measured = merge_seeds({job.seed: record.faithfulness[sample_name(sample)]})
            metrics |= flatten_metrics(measured, "dev_faithfulness", "mean")
    if predicted := predicted_on_test(job, record):
        splits.append("test")
        gold = load_split("test", ["label"], job.root)["label"].tolist()
        metrics |= {f"test_{name}": value for name, value in scores(gold, predicted, record.labels).items()}
    # a digest, since names of variants may hold quotes, which end a query of MLflow
    identity = hashlib.sha256(json.dumps([record.key, *tags.values()]).encode()).hexdigest()[:32]
    return {
        "name": job.name,
        "identity": ("training.digest", identity),
        "params": flatten(with_overrides(job.params, {"train.seeds": [job.seed]})),
        "started": record.started,
        "metrics": metrics,
        "history": record.history,
        "tags": record.environment | tags,
        "datasets": fingerprints({split: job.root / paths.PREPARED / f"{split}.parquet" for split in splits}),
    }
