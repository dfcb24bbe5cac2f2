"""Builds and logs the runs of the pipeline: one per trained seed, and a parent for the evaluation of several."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from bilstm_attention import paths
from bilstm_attention.config import Params, flatten
from bilstm_attention.data.tokens import MARKER
from bilstm_attention.evaluation.results import best_seed, read_dev_scores, read_histories, read_json, seed_file
from bilstm_attention.reports.tables import describe_evaluation, describe_seed, describe_training
from bilstm_attention.tracking.environment import input_digests, made_with, sha256, stages_of_other_params
from bilstm_attention.tracking.registry import DEV_ANSWERS, DEV_DIGEST, MODEL_DIGEST, LoggedModel, dev_digest
from bilstm_attention.tracking.runs import Identity, RunRecord, fingerprints, log_runs

PIPELINE_DIGEST = "pipeline.sha256"
EXAMPLE = "The <e1>wheel</e1> of the <e2>car</e2> broke."


def corpus_name(params: Params) -> str:
    """Name of the MLflow experiment: scores compare within one corpus."""
    return Path(params.data.folder).name


def model_name(params: Params) -> str:
    """Name of the registered model."""
    return params.evaluate.register_as or re.sub(r"[/:.%\"'\\]", "_", corpus_name(params))


def run_name(params: Params, seeds: Sequence[int]) -> str:
    """For example `zhou u=100 seed=2`, or `zhou u=100 seeds=0,1,2`."""
    which = f"seed={seeds[0]}" if len(seeds) == 1 else f"seeds={','.join(map(str, seeds))}"
    return f"{params.model.attention.kind} u={params.model.lstm_units} {which}"


def log_training(params: Params, seed: int, started: float) -> None:
    """Logs the run of one trained seed, which began at `started`, in seconds since 1970."""
    log_runs(corpus_name(params), [training_record(params, seed, started)], f"the training of seed {seed}")


def log_evaluation(params: Params) -> None:
    """Logs the evaluation that the stages `evaluate` and `report` left on disk."""
    log_runs(corpus_name(params), evaluation_records(params), "the evaluation")


def pipeline_records(params: Params) -> tuple[list[RunRecord], list[str]]:
    """The runs of what is on disk, and in words what is not there or not of these parameters.

    Raises:
        UserError: a file of a stage is not there, or DVC cannot tell whether parameters have changed.
    """
    records, missing, seeds = [], [], params.train.seeds
    changed = stages_of_other_params(*(f"train@{seed}" for seed in seeds))
    for seed in seeds:
        if not (paths.seed_folder(seed) / "dev.json").is_file():
            missing.append(f"seed {seed} is not trained")
        elif changed & {"prepare", "embed", f"train@{seed}"}:
            missing.append(f"seed {seed} was trained with other parameters")
        else:
            records.append(training_record(params, seed))
    if len(records) == len(seeds) and _is_evaluated(seeds):
        records = evaluation_records(params)
    else:
        missing.append("these models are not evaluated")
    return records, missing


def _is_evaluated(seeds: Sequence[int]) -> bool:
    """Whether the evaluation on disk is of the models on disk, by their dev scores."""
    if not ((paths.CURRENT / "scores.json").is_file() and (paths.CURRENT / "plots").is_dir()):
        return False
    evaluated, trained = read_json(paths.CURRENT / "scores.json")["dev"], read_dev_scores(seeds)
    return all(
        summary["by_seed"] == {str(seed): scores[name] for seed, scores in trained.items()}
        for name, summary in evaluated.items()
    )


def training_record(params: Params, seed: int, started: float | None = None) -> RunRecord:
    """The run of one trained seed, from its files; `started` is by default when those were written."""
    model, report = seed_file(seed, "model.keras"), read_json(seed_file(seed, "dev.json"))
    digest, history = sha256(model), read_histories([seed])[seed]
    return RunRecord(
        name=run_name(params, [seed]),
        identity=_pipeline_identity(params) if len(params.train.seeds) == 1 else (MODEL_DIGEST, digest),
        params=flatten(params),
        started=model.stat().st_mtime if started is None else started,
        metrics={f"best_dev_{name}": value for name, value in report["dev"].items()},
        history=[{str(name): value for name, value in row.items()} for row in history.to_dict("records")],
        tags={**input_digests(), "seed": str(seed), MODEL_DIGEST: digest},
        datasets=fingerprints({split: paths.PREPARED / f"{split}.parquet" for split in ("train", "dev")}),
        description=describe_training(params, report["dev"], report["best_epoch"], report["epochs"]),
    )


def evaluation_records(params: Params) -> list[RunRecord]:
    """The parent run of several seeds, and the seeds' runs with their test scores; of one seed its only run."""
    seeds, test = params.train.seeds, fingerprints({"test": paths.PREPARED / "test.parquet"})
    metrics = read_json(paths.CURRENT / "scores.json")
    scored = []
    for seed in seeds:
        training, page = training_record(params, seed), paths.attention_page(seed)
        scores = flatten_metrics(metrics["test"], "test", str(seed))
        attention = flatten_metrics(metrics.get("dev_faithfulness"), "dev_faithfulness", str(seed))
        scored.append(
            replace(
                training,
                metrics=training.metrics | scores | attention,
                datasets=training.datasets | test,
                artifacts={"attention": [page]},
                description=describe_seed(params, metrics, seed, page.name),
                final=True,
            )
        )
    pages = [paths.attention_page(seed) for seed in seeds]
    whole: dict[str, Any] = {
        "metrics": _summary_metrics(metrics, len(seeds) > 1),
        "artifacts": {
            "": [file for file in sorted(paths.CURRENT.iterdir()) if file.suffix in (".json", ".csv")],
            "answers": [paths.CURRENT / "answers"],
            "plots": [paths.CURRENT / "plots"],
            "attention": pages,
        },
        "description": describe_evaluation(params, metrics, made_with(), [page.name for page in pages]),
        "final": True,
        "model": _best_model(params, metrics["dev"][params.train.monitor]["mean"]),
    }
    if len(seeds) == 1:
        return [replace(scored[0], **{**whole, "metrics": scored[0].metrics | whole["metrics"]})]
    parent = RunRecord(
        name=run_name(params, seeds),
        identity=_pipeline_identity(params),
        params=flatten(params),
        started=min(each.started or 0.0 for each in scored),
        datasets=test,
        tags={f"{MODEL_DIGEST}.{seed}": each.tags[MODEL_DIGEST] for seed, each in zip(seeds, scored, strict=True)},
        **whole,
    )
    return [parent, *(replace(each, parent=parent.identity) for each in scored)]


def _best_model(params: Params, dev: float) -> LoggedModel | None:
    """The model of the seed that is best on dev, to be logged; `dev` is the mean dev score of all seeds."""
    if not params.evaluate.log_model:
        return None
    monitor = params.train.monitor
    best = best_seed(read_dev_scores(params.train.seeds), monitor)
    files = {
        "model.keras": seed_file(best, "model.keras"),
        "vocabulary.txt": paths.EMBEDDINGS / "vocabulary.txt",
        "labels.json": paths.PREPARED / "labels.json",
        "params.yaml": paths.PARAMS,
    }
    # a label may be NA or None
    predictions = pd.read_csv(paths.CURRENT / DEV_ANSWERS, dtype=str, keep_default_na=False)
    tags = {"run": run_name(params, params.train.seeds), "monitor": monitor, "dev": repr(dev)}
    example = EXAMPLE if params.data.relational else MARKER.sub("", EXAMPLE)
    return LoggedModel(files, example, model_name(params), tags | {DEV_DIGEST: dev_digest(predictions)})


def flatten_metrics(node: Any, name: str, key: str) -> dict[str, float]:
    """The numbers in a part of `scores.json`, by name.

    Args:
        node: the part.
        name: of the part, before the names of its own parts.
        key: what is taken of scores over seeds: `mean`, `sd`, `low`, `high`, or a seed.
    """
    if not isinstance(node, Mapping):
        return {name: node} if isinstance(node, int | float) else {}
    if "by_seed" in node:
        return flatten_metrics((node | node["by_seed"]).get(key), name, key)
    parts = (flatten_metrics(part, f"{name}_{own}", key) for own, part in node.items())
    return {own: value for part in parts for own, value in part.items()}


def _pipeline_identity(params: Params) -> Identity:
    """Digest of what the run of an evaluation rests on: the models, the test set, how they are scored."""
    files = [*(paths.seed_folder(seed) / "model.keras" for seed in params.train.seeds), paths.PREPARED / "test.parquet"]
    parts = [*map(sha256, files), params.evaluate.model_dump_json(exclude={"register_as"})]
    return PIPELINE_DIGEST, hashlib.sha256("".join(parts).encode()).hexdigest()


def _summary_metrics(metrics: Mapping[str, Any], several: bool) -> dict[str, float]:
    """Metrics of a whole beside those of its seeds; of one seed neither mean nor ensemble."""
    summary = flatten_metrics(metrics["ensemble"], "ensemble_test", "") if several else {}
    summary |= flatten_metrics(metrics.get("dev_faithfulness"), "dev_faithfulness", "mean")
    for key in ("mean", "sd", "low", "high") if several else ("low", "high"):
        for split in ("test", "dev"):
            values = flatten_metrics(metrics[split], split, key)
            summary |= {f"{name}_{key}": value for name, value in values.items()}
    for baseline, scores in metrics["baselines"].items():
        summary |= flatten_metrics(scores, f"{baseline}_test", "")
    return summary
