"""Builds the MLflow runs of comparisons, one per training of a table, from files that `compare` left on disk."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bilstm_attention import paths
from bilstm_attention.config import Params, flatten, with_overrides
from bilstm_attention.data.dataset import load_split
from bilstm_attention.errors import UserError
from bilstm_attention.evaluation.metrics import scores
from bilstm_attention.schema import check
from bilstm_attention.search.comparison import Comparison, PlannedTraining
from bilstm_attention.search.trainings import TrainingJob, TrainingRecord, predicted_on_test, read_record, sample_name
from bilstm_attention.tracking.pipeline import corpus_name, flatten_metrics
from bilstm_attention.tracking.runs import RunRecord, fingerprints

TABLES = paths.TRAININGS / "tables"


def write_table(comparison: Comparison, plan: Sequence[PlannedTraining], records: Mapping[str, TrainingRecord]) -> Path:
    """Lists the trainings of a table, with their scores, in a file for `table_runs`; returns the file."""
    trainings = [
        {
            "name": planned.job.name,
            "variant": planned.variant,
            "fold": planned.fold,
            "params": with_overrides(planned.job.params, {"train.seeds": [planned.job.seed]}).model_dump(mode="json"),
            "root": str(planned.job.root),
            "splits": ["train", *planned.job.splits],
            "metrics": _metrics(planned.job, records[planned.job.work]),
            "record": str(records[planned.job.work].file),
        }
        for planned in plan
    ]
    file = TABLES / f"{comparison.page}.{comparison.name}.json"
    paths.write_json(file, {"page": comparison.page, "table": comparison.name, "trainings": trainings})
    return file


def _metrics(job: TrainingJob, record: TrainingRecord) -> dict[str, float]:
    metrics = {f"best_dev_{score}": value for score, value in record.dev.items()}
    if job.faithfulness:
        # it imports TensorFlow
        from bilstm_attention.evaluation.faithfulness import merge_seeds

        for sample in job.faithfulness:
            measured = merge_seeds({job.seed: record.faithfulness[sample_name(sample)]})
            metrics |= flatten_metrics(measured, "dev_faithfulness", "mean")
    if predicted := predicted_on_test(job, record):
        gold = load_split("test", ["label"], job.root)["label"].tolist()
        metrics |= {f"test_{name}": value for name, value in scores(gold, predicted, record.labels).items()}
    return metrics


def table_runs(file: Path) -> list[tuple[str, list[RunRecord]]]:
    """The runs of a table, by MLflow experiment; a training of several tables is a run of each.

    Raises:
        DataError: a file of a training or of its data is not there.
    """
    table = json.loads(file.read_text(encoding="utf-8"))
    runs: dict[str, list[RunRecord]] = {}
    for training in table["trainings"]:
        params = check(training["params"], str(file), Params)
        runs.setdefault(corpus_name(params), []).append(_run(table, training, params))
    return sorted(runs.items())


def comparison_runs() -> tuple[list[tuple[str, list[RunRecord]]], list[str]]:
    """The runs of all tables by MLflow experiment, and in words those whose files are not there."""
    results, missing = [], []
    for file in sorted(TABLES.glob("*.json")):
        try:
            results += table_runs(file)
        except UserError as error:
            missing.append(f"table {file.stem}: {error}")
    return results, missing


def _run(table: Mapping[str, Any], training: Mapping[str, Any], params: Params) -> RunRecord:
    record, root, (seed,) = read_record(Path(training["record"])), Path(training["root"]), params.train.seeds
    fold = training["fold"]
    tags = {"comparison": table["page"], "table": table["table"], "variant": training["variant"], "seed": str(seed)}
    tags |= {} if fold is None else {"fold": str(fold)}
    # a digest, since names of variants may hold quotes, which end a query of MLflow
    identity = hashlib.sha256(json.dumps([record.key, *tags.values()]).encode()).hexdigest()[:32]
    return RunRecord(
        name=training["name"],
        identity=("training.digest", identity),
        params=flatten(params),
        started=record.started,
        metrics=training["metrics"],
        history=record.history,
        tags=record.environment | tags,
        datasets=fingerprints({split: root / paths.PREPARED / f"{split}.parquet" for split in training["splits"]}),
    )
