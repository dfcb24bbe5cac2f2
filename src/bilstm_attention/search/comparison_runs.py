"""The MLflow runs of comparisons, one per training of a table, in files from which they are logged."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from bilstm_attention import paths
from bilstm_attention.config import flatten, with_overrides
from bilstm_attention.data.dataset import load_split
from bilstm_attention.evaluation.metrics import scores
from bilstm_attention.search.comparison import Comparison
from bilstm_attention.search.results import Done
from bilstm_attention.search.trainings import TrainingJob, TrainingRecord, predicted_on_test, sample_name
from bilstm_attention.tracking.pipeline import attention_metrics, corpus_name
from bilstm_attention.tracking.runs import RunRecord, fingerprints, training_metrics

RUNS = paths.TRAININGS / "runs"


def save_runs(comparison: Comparison, done: Mapping[str, Done]) -> None:
    """Writes the runs of a table by MLflow experiment.

    A training of several tables is a run of each.
    """
    runs: dict[str, list[dict[str, Any]]] = {}
    for variant, trainings in done.items():
        for job, record in trainings:
            runs.setdefault(corpus_name(job.params), []).append(_run(comparison, variant, job, record))
    paths.write_json(RUNS / f"{comparison.page}.{comparison.name}.json", runs)


def comparison_runs(table: str = "*") -> list[tuple[str, list[RunRecord]]]:
    """The runs of all comparisons, by MLflow experiment: a parent, described by the page, and the trainings.

    Args:
        table: as `page.table`, if it is one alone.
    """
    runs: dict[tuple[str, str], list[RunRecord]] = {}
    for file in sorted(RUNS.glob(f"{table}.json")):
        page = file.stem.rpartition(".")[0]
        for experiment, arguments in json.loads(file.read_text(encoding="utf-8")).items():
            records = runs.setdefault((page, experiment), [_parent(page)])
            records += [
                RunRecord(**{**each, "identity": tuple(each["identity"]), "parent": records[0].identity})
                for each in arguments
            ]
    return [(experiment, records) for (_, experiment), records in runs.items()]


def _parent(page: str) -> RunRecord:
    file = paths.RESULTS / f"{page}.md"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    links = re.findall(rf"\]\(({page}[^/)]*[.](?:png|csv))\)", text)
    files = [paths.RESULTS / name for name in dict.fromkeys((f"{page}.csv", f"{page}.md", *links))]
    return RunRecord(
        name=page,
        identity=("comparison.page", page),
        artifacts={"": [each for each in files if each.is_file()]},
        description=re.sub(rf"\]\(({page}[^/)]*[.](?:png|csv)\))", r"](artifact:\1", text),
    )


def _run(comparison: Comparison, variant: str, job: TrainingJob, record: TrainingRecord) -> dict[str, Any]:
    """The arguments of a `RunRecord`."""
    fold, splits = job.params.data.fold, ["train", "dev"]
    tags = {"comparison": comparison.page, "table": comparison.name, "variant": variant, "seed": str(job.seed)}
    tags |= {} if fold is None else {"fold": str(fold)}
    curves = training_metrics(record.history, record.dev, record.best_epoch)
    for sample in job.faithfulness:
        curves["metrics"] |= attention_metrics(record.faithfulness[sample_name(sample)])
    if predicted := predicted_on_test(job, record):
        splits.append("test")
        gold = load_split("test", ["label"], job.root)["label"].tolist()
        tested = scores(gold, predicted, record.labels)
        curves["metrics"] |= {f"test/{name}": value for name, value in tested.items()}
    # a digest, since names of variants may hold quotes, which end a query of MLflow
    identity = hashlib.sha256(json.dumps([record.key, *tags.values()]).encode()).hexdigest()[:32]
    return {
        "name": job.name,
        "identity": ("training.digest", identity),
        "params": flatten(with_overrides(job.params, {"train.seeds": [job.seed]})),
        "started": record.started,
        **curves,
        "tags": record.environment | tags,
        "datasets": fingerprints({split: job.root / paths.PREPARED / f"{split}.parquet" for split in splits}),
    }
