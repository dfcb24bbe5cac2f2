"""Runs of the pipeline: one for each trained seed, and a parent for the evaluation of several."""

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bilstm_attention import paths
from bilstm_attention.config import Params, flatten
from bilstm_attention.data.tokens import MARKER
from bilstm_attention.tracking.environment import input_digests, sha256
from bilstm_attention.tracking.registry import DEV_DIGEST, MODEL_DIGEST, LoggedModel, dev_digest
from bilstm_attention.tracking.runs import Identity, RunRecord, fingerprints

if TYPE_CHECKING:
    # it imports TensorFlow
    from bilstm_attention.evaluation.results import EvaluationResult

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


def training_record(
    params: Params, seed: int, dev: Mapping[str, float], history: pd.DataFrame, **more: Any
) -> RunRecord:
    """The run of one trained seed, from `experiments/current/models`.

    Args:
        params: all parameters.
        seed: of the model.
        dev: scores of the epoch that is kept.
        history: a row per epoch.
        more: other fields of `RunRecord`.
    """
    model = sha256(paths.seed_folder(seed) / "model.keras")
    return RunRecord(
        name=run_name(params, [seed]),
        identity=_pipeline_identity(params) if len(params.train.seeds) == 1 else (MODEL_DIGEST, model),
        params=flatten(params),
        metrics={f"best_dev_{name}": value for name, value in dev.items()},
        history=[{str(name): value for name, value in row.items()} for row in history.to_dict("records")],
        tags={**input_digests(), "seed": str(seed), MODEL_DIGEST: model},
        datasets=fingerprints({split: paths.PREPARED / f"{split}.parquet" for split in ("train", "dev")}),
        **more,
    )


def evaluation_records(
    params: Params,
    trainings: Sequence[RunRecord],
    result: "EvaluationResult",
    pages: Mapping[int, Path],
    descriptions: Mapping[int | None, str],
    model: LoggedModel | None,
) -> list[RunRecord]:
    """The parent run of several seeds, and the seeds' runs with their test scores; of one seed its only run.

    Args:
        params: all parameters.
        trainings: from `training_record`, one for each of `train.seeds`.
        result: scores and tables.
        pages: attention page of each seed.
        descriptions: Markdown for the run of each seed; under None for the whole.
        model: to log with the whole; None: none.
    """
    seeds, test = params.train.seeds, fingerprints({"test": paths.PREPARED / "test.parquet"})
    faithfulness = result.metrics.get("dev_faithfulness", {})
    scored = []
    for seed, training in zip(seeds, trainings, strict=True):
        scores = {f"test_{name}": value["by_seed"][str(seed)] for name, value in result.metrics["test"].items()}
        scored.append(
            replace(
                training,
                metrics={**training.metrics, **scores, **attention_metrics(faithfulness, seed)},
                datasets={**training.datasets, **test},
                artifacts={**training.artifacts, "attention": [pages[seed]]},
                description=descriptions[seed],
                final=True,
            )
        )
    files = [file for file in sorted(paths.CURRENT.iterdir()) if file.suffix in (".json", ".csv")]
    whole: dict[str, Any] = {
        "metrics": _summary_metrics(result.metrics) | attention_metrics(faithfulness),
        "artifacts": {
            "": files,
            "answers": [paths.CURRENT / "answers"],
            "plots": [paths.CURRENT / "plots"],
            "attention": list(pages.values()),
        },
        "description": descriptions[None],
        "final": True,
        "model": model,
    }
    if len(seeds) == 1:
        (only,) = scored
        return [replace(only, **{**whole, "metrics": {**only.metrics, **whole["metrics"]}})]
    parent = RunRecord(
        name=run_name(params, seeds),
        identity=_pipeline_identity(params),
        params=flatten(params),
        started=min((each.started for each in scored if each.started), default=None),
        datasets=test,
        tags={f"{MODEL_DIGEST}.{seed}": each.tags[MODEL_DIGEST] for seed, each in zip(seeds, scored, strict=True)},
        **whole,
    )
    return [parent, *(replace(each, parent=parent.identity) for each in scored)]


def pipeline_model(params: Params, result: "EvaluationResult", seed: int, folder: Path) -> LoggedModel | None:
    """The model of one seed, gathered in a new folder for logging; None if `evaluate.log_model` is off.

    Args:
        params: all parameters.
        result: whose dev predictions say on which sentences scores compare.
        seed: the best on dev.
        folder: to create; holds what `serving.classifier.load_folder` reads.
    """
    if not params.evaluate.log_model:
        return None
    folder.mkdir()
    for name, file in (
        ("model.keras", paths.seed_folder(seed) / "model.keras"),
        ("vocabulary.txt", paths.EMBEDDINGS / "vocabulary.txt"),
        ("labels.json", paths.PREPARED / "labels.json"),
        ("params.yaml", paths.PARAMS),
    ):
        shutil.copy(file, folder / name)
    monitor = params.train.monitor
    tags = {
        "run": run_name(params, params.train.seeds),
        "monitor": monitor,
        "dev": repr(result.metrics["dev"][monitor]["mean"]),
        DEV_DIGEST: dev_digest(result.dev_predictions),
    }
    example = EXAMPLE if params.data.relational else MARKER.sub("", EXAMPLE)
    return LoggedModel(folder, example, model_name(params), tags)


def attention_metrics(faithfulness: Mapping[str, Any], seed: int | None = None) -> dict[str, float]:
    """Metrics of the attention on dev, from `faithfulness.merge_seeds`: of one seed, or their mean."""
    summaries = {
        f"dev_{name}_{part}": summary
        for name in ("comprehensiveness", "sufficiency", "attention_share")
        for part, summary in faithfulness.get(name, {}).items()
    } | {f"dev_attention_{name}": faithfulness.get(name) for name in ("entropy", "rank_correlation")}
    shares = {f"dev_token_share_{kind}": share for kind, share in faithfulness.get("token_share", {}).items()}
    values = {
        name: summary["mean"] if seed is None else summary["by_seed"].get(str(seed))
        for name, summary in summaries.items()
        if summary
    }
    return shares | {name: value for name, value in values.items() if value is not None}


def _pipeline_identity(params: Params) -> Identity:
    """Digest of what the run of an evaluation rests on: the models, the test set, how they are scored."""
    files = [*(paths.seed_folder(seed) / "model.keras" for seed in params.train.seeds), paths.PREPARED / "test.parquet"]
    parts = [*map(sha256, files), params.evaluate.model_dump_json(exclude={"register_as"})]
    return PIPELINE_DIGEST, hashlib.sha256("".join(parts).encode()).hexdigest()


def _summary_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of a whole beside those of its seeds; of one seed neither mean nor ensemble."""
    several = len(next(iter(metrics["test"].values()))["by_seed"]) > 1
    keys = ("mean", "sd", "low", "high") if several else ("low", "high")
    summary = {f"ensemble_test_{name}": value for name, value in metrics["ensemble"].items()} if several else {}
    for split in ("test", "dev"):
        for name, values in metrics[split].items():
            summary |= {f"{split}_{name}_{key}": values[key] for key in keys if key in values}
    for baseline, scores in metrics["baselines"].items():
        summary |= {f"{baseline}_test_{name}": value for name, value in scores.items()}
    return summary
