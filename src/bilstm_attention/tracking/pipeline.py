"""Builds and logs the runs of the pipeline: one per trained seed, and a parent for the evaluation of several."""

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from bilstm_attention import paths
from bilstm_attention.config import Params, flatten
from bilstm_attention.data.tokens import MARKER
from bilstm_attention.evaluation.results import best_seed, read_dev_scores, read_history, read_json, seed_file
from bilstm_attention.paths import sha256
from bilstm_attention.reports.tables import describe_evaluation, describe_seed, describe_training, model_card
from bilstm_attention.tracking.environment import input_digests, made_with, stages_of_other_params
from bilstm_attention.tracking.registry import FORBIDDEN, MODEL_DIGEST, LoggedModel
from bilstm_attention.tracking.runs import RunRecord, epoch_metrics, fingerprints, live_runs, training_metrics

SCORES = paths.CURRENT / "scores.json"
# Identities: of a run of a training, from its start; and of the run of an evaluation.
TRAINING_KEY, PIPELINE_DIGEST = "training.key", "pipeline.sha256"
NAME_LENGTH = 120
# said elsewhere in a run's name, or by the experiment
UNNAMED = ("model.attention.kind", "train.seeds", "data.format", "data.folder", "data.train", "data.dev", "data.test")
EXAMPLE = "The <e1>wheel</e1> of the <e2>car</e2> broke."


def corpus_name(params: Params) -> str:
    """Name of the MLflow experiment: scores compare within one corpus."""
    return Path(params.data.folder).name


def model_name(params: Params) -> str:
    """Name of the registered model."""
    return params.evaluate.register_as or FORBIDDEN.sub("_", corpus_name(params))


def run_name(params: Params, seeds: Sequence[int]) -> str:
    """The seed, and what differs from the defaults, the corpus aside: `seed=2 zhou lstm_units=64 dropout.lstm=0.5`.

    The seed comes first, since MLflow cuts names in its list of runs.
    """
    values, defaults, blocks = flatten(params), flatten(Params()), ("model", "train", "embeddings", "data")
    keys = [key for key, value in values.items() if value != defaults[key] and key not in UNNAMED]
    ordered = [key for block in blocks for key in keys if key.startswith(f"{block}.")]
    changed = " ".join(f"{re.sub('^(model|train)[.]', '', key)}={values[key]}" for key in ordered) or "defaults"
    seed = f"seed={seeds[0]}" if len(seeds) == 1 else f"seeds={','.join(map(str, seeds))}"
    name = " ".join(filter(None, [seed, params.model.attention.kind, os.environ.get("DVC_EXP_NAME"), changed]))
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"


@contextmanager
def log_training(
    params: Params, seed: int, key: str, history: Sequence[Mapping[str, Any]]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """The run of one training while it lasts; at the end it is completed from the files on disk.

    A training that resumes after the rows of `history` goes on in its run, which it finds by its key (`training_key`).
    Yields a function to call with each new row.
    """
    started, epochs = time.time(), [epoch_metrics(row) for row in history]

    @cache
    def begun() -> RunRecord:
        return replace(_seed_record(params, seed, key), started=started, history=epochs, status="RUNNING")

    about = f"the training of seed {seed}"
    with live_runs(corpus_name(params), about, begun, lambda: [training_record(params, seed)]) as submit:
        submit(lambda tracker: tracker.write(begun()))
        yield lambda row: submit(lambda tracker: tracker.log_epoch(begun().identity, epoch_metrics(row)))


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
    if not (SCORES.is_file() and (paths.CURRENT / "plots").is_dir()):
        return False
    evaluated, trained = read_json(SCORES)["dev"], read_dev_scores(seeds)
    return all(
        summary["by_seed"] == {str(seed): scores[name] for seed, scores in trained.items()}
        for name, summary in evaluated.items()
    )


def _seed_record(params: Params, seed: int, key: str) -> RunRecord:
    """What the run of a seed has before its training."""
    settings: list[Any] = [key, params.model_dump(exclude={"evaluate": True, "train": {"seeds"}})]
    if len(params.train.seeds) == 1:
        # it is the run of the evaluation too
        settings += _scoring(params)
    return RunRecord(
        name=run_name(params, [seed]),
        identity=(TRAINING_KEY, _digest(settings)),
        params=flatten(params),
        tags={**input_digests(), "seed": str(seed)},
        datasets=fingerprints({split: paths.PREPARED / f"{split}.parquet" for split in ("train", "dev")}),
    )


def training_record(params: Params, seed: int) -> RunRecord:
    """The run of one trained seed, from its files."""
    model, report = seed_file(seed, "model.keras"), read_json(seed_file(seed, "dev.json"))
    history, digest = read_history(seed).to_dict("records"), sha256(model)
    # a model of an earlier version has no key
    begun = _seed_record(params, seed, report.get("key", digest))
    return replace(
        begun,
        started=model.stat().st_mtime,
        tags={**begun.tags, MODEL_DIGEST: digest},
        description=describe_training(params, report["dev"], report["best_epoch"], report["epochs"]),
        **training_metrics(history, report["dev"], report["best_epoch"]),
    )


def evaluation_records(params: Params) -> list[RunRecord]:
    """The parent run of several seeds, and the seeds' runs with their test scores; of one seed its only run."""
    seeds, test = params.train.seeds, fingerprints({"test": paths.PREPARED / "test.parquet"})
    scores, scored = read_json(SCORES), list[RunRecord]()
    for seed in seeds:
        training, page = training_record(params, seed), paths.attention_page(seed)
        own = _test_metrics(scores, str(seed)) | attention_metrics(scores.get("dev_faithfulness"), str(seed))
        scored.append(
            replace(
                training,
                metrics={**training.metrics, **own},
                datasets={**training.datasets, **test},
                artifacts={"attention": [page]},
                description=describe_seed(params, scores, seed, page.name),
            )
        )
    pages = [paths.attention_page(seed) for seed in seeds]
    whole: dict[str, Any] = {
        "artifacts": {
            "": [file for file in sorted(paths.CURRENT.iterdir()) if file.suffix in (".json", ".csv")],
            "answers": [paths.CURRENT / "answers"],
            "plots": [paths.CURRENT / "plots"],
            "attention": pages,
        },
        "description": describe_evaluation(params, scores, made_with(), [page.name for page in pages]),
        "model": _best_model(params, scores),
    }
    if len(seeds) == 1:
        return [replace(scored[0], **whole, metrics={**scored[0].metrics, **_headline(scores)})]
    parent = RunRecord(
        name=run_name(params, seeds),
        identity=(PIPELINE_DIGEST, _digest([each.tags[MODEL_DIGEST] for each in scored] + _scoring(params))),
        params=flatten(params),
        started=min(each.started or 0.0 for each in scored),
        datasets=test,
        tags={f"{MODEL_DIGEST}.{seed}": each.tags[MODEL_DIGEST] for seed, each in zip(seeds, scored, strict=True)},
        **_means(scores, scored, params.train.monitor),
        **whole,
    )
    return [parent, *(replace(each, parent=parent.identity) for each in scored)]


def attention_metrics(faithfulness: Mapping[str, Any] | None, key: str = "mean") -> dict[str, float]:
    """The numbers on attention by which models are compared: for a seed, or the `mean`, or of one measurement.

    MLflow sorts its charts by group, so the names begin with `dev/` to stand after the curves.
    """
    parts = faithfulness or {}
    values = {name: parts[name].get("attention") for name in ("comprehensiveness", "sufficiency") if name in parts}
    values |= {name: parts.get(name) for name in ("entropy", "rank_correlation")}
    for name, value in values.items():
        if isinstance(value, Mapping):
            values[name] = {**value, **value["by_seed"]}.get(key)
    return {f"dev/attention/{name}": value for name, value in values.items() if value is not None}


def _test_metrics(scores: Mapping[str, Any], key: str) -> dict[str, float]:
    """Scores on test and errors of the probabilities that are served: of a seed, or the `mean`."""
    tables = {**scores["test"], **scores["test_calibration"]["scaled"]}
    return {f"test/{name}": {**summary, **summary["by_seed"]}[key] for name, summary in tables.items()}


def _headline(scores: Mapping[str, Any]) -> dict[str, float]:
    """The interval of the first test score, and what the baselines and an ensemble have of it."""
    name, summary = next(iter(scores["test"].items()))
    values = {f"test/{name}/{key}": summary[key] for key in ("sd", "low", "high")}
    if len(summary["by_seed"]) > 1:
        values[f"test/{name}/ensemble"] = scores["ensemble"][name]
    values |= {f"test/baseline/{model}": baseline[name] for model, baseline in scores["baselines"].items()}
    return {name: value for name, value in values.items() if value is not None}


def _means(scores: Mapping[str, Any], seeds: Sequence[RunRecord], monitor: str) -> dict[str, Any]:
    """`history` and `metrics` of the parent run: means over the seeds, of each epoch over those that got so far."""
    # without the last step, which repeats the epoch that is kept
    rows = pd.DataFrame([row for seed in seeds for row in seed.history[:-1]]).drop(columns="learning_rate")
    by_epoch, score = rows.groupby("epoch"), f"dev/{monitor}"
    curve = by_epoch.mean().assign(**{f"{score}/sd": by_epoch[score].std()}).reset_index().to_dict("records")
    kept = {f"dev/{name}": summary["mean"] for name, summary in scores["dev"].items()}
    kept |= {f"{score}/sd": scores["dev"][monitor]["sd"], "loss": fmean(seed.metrics["loss"] for seed in seeds)}
    curve = [{str(name): value for name, value in row.items() if not math.isnan(value)} for row in curve]
    attention = attention_metrics(scores.get("dev_faithfulness"))
    return {
        "history": [*curve, {"epoch": len(curve) + 1, **kept}],
        "metrics": kept | _test_metrics(scores, "mean") | _headline(scores) | attention,
    }


def _best_model(params: Params, scores: Mapping[str, Any]) -> LoggedModel | None:
    """The model of the seed that is best on dev, to be logged with the run of an evaluation."""
    if not params.evaluate.log_model:
        return None
    seed = best_seed(params.train.seeds, params.train.monitor)
    files = {
        "model.keras": seed_file(seed, "model.keras"),
        "vocabulary.txt": paths.EMBEDDINGS / "vocabulary.txt",
        "labels.json": paths.PREPARED / "labels.json",
        "params.yaml": paths.PARAMS,
        "calibration.json": paths.CURRENT / f"calibration/seed-{seed}.json",
    }
    example = EXAMPLE if params.data.relational else MARKER.sub("", EXAMPLE)
    splits = read_json(paths.PREPARED / "summary.json")["splits"]
    means = {f"{split}/{name}": summary["mean"] for split in ("dev", "test") for name, summary in scores[split].items()}
    digests = {split: sha256(paths.PREPARED / f"{split}.parquet")[:36] for split in ("dev", "test")}
    card = model_card(params, seed, scores, splits, model_name(params), example)
    return LoggedModel(run_name(params, [seed]), files, example, card, means, digests)


def _scoring(params: Params) -> list[Any]:
    """What test scores rest on beside the models."""
    return [sha256(paths.PREPARED / "test.parquet"), params.evaluate.model_dump(exclude={"register_as"})]


def _digest(parts: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
