"""Results of the stages train and evaluate as files: written and read without TensorFlow."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bilstm_attention import paths
from bilstm_attention.data.dataset import existing
from bilstm_attention.errors import DataError
from bilstm_attention.evaluation.metrics import signed_score
from bilstm_attention.evaluation.semeval import write_answers


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of the models of one pipeline, and what they rest on."""

    scores: dict[str, Any]  # the content of `scores.json`, in percent
    predictions: pd.DataFrame  # a row per test sentence: id, gold, predicted by the ensemble, its probability, seed_N
    dev_predictions: pd.DataFrame  # a row per dev sentence: id, gold, and the prediction of each seed as seed_N
    confusion: pd.DataFrame  # counts (C, C) of the ensemble, gold rows by predicted columns
    classes: pd.DataFrame  # `metrics.per_relation` of the ensemble
    learning_curves: pd.DataFrame  # mean of the seeds' histories by epoch, over the seeds that got so far
    reliability: pd.DataFrame  # `calibration.reliability` on test of all seeds, of `probabilities` raw and scaled
    coverage: dict[str, Any]  # share of test with word vectors, as coverage.json has it of train and dev
    faithfulness: dict[str, Any]  # `faithfulness.merge_seeds` on dev; empty if not measured
    attention: dict[int, pd.DataFrame]  # by seed, `evaluate.attention_table` of the first dev sentences


def headline_metrics(scores: Mapping[str, Any], monitor: str) -> dict[str, Any]:
    """The few numbers of `metrics.json`, for DVC; the first of test is `monitor` unless it is the loss."""
    test, dev = scores["test"], scores["dev"][monitor]
    name = monitor if monitor in test else next(iter(test))
    return {
        "dev": {monitor: dev["mean"], "sd": dev["sd"]},
        "test": {
            name: test[name]["mean"],
            **{key: test[name][key] for key in ("sd", "low", "high")},
            **{other: test[other]["mean"] for other in ("accuracy", "macro_f1")},
            "best_baseline": max((baseline[name] for baseline in scores["baselines"].values()), default=None),
        },
    }


def write_results(result: EvaluationResult, corpus: str, monitor: str) -> None:
    """Writes every output of the stage `evaluate`, each whole or not at all; `monitor` is `train.monitor`."""
    folder = paths.CURRENT
    paths.write_json(folder / "metrics.json", headline_metrics(result.scores, monitor))
    paths.write_json(folder / "scores.json", {"corpus": corpus, **result.scores})
    paths.write_json(folder / "test_coverage.json", result.coverage)
    paths.write_json(folder / "faithfulness.json", result.faithfulness)
    for name, table in vars(result).items():
        if isinstance(table, pd.DataFrame):
            with paths.atomic_write(folder / f"{name}.csv") as path:
                table.to_csv(path, index=name == "confusion")
    predictions = result.predictions
    for column in ("gold", "predicted", *(f"seed_{seed}" for seed in result.attention)):
        with paths.atomic_write(folder / f"answers/{column}.txt") as path:
            write_answers(path, predictions["id"], predictions[column])
    for seed, temperature in result.scores["test_calibration"]["temperature"]["by_seed"].items():
        content = {"temperature": temperature, "model": paths.sha256(seed_file(int(seed), "model.keras"))}
        paths.write_json(folder / f"calibration/seed-{seed}.json", content)
    for seed, table in result.attention.items():
        with paths.atomic_write(folder / f"attention_weights/seed-{seed}.parquet") as path:
            table.to_parquet(path, index=False)


def numbering() -> dict[str, str]:
    """Digests of the files that number the classes and the words of a model."""
    files = (paths.PREPARED / "labels.json", paths.EMBEDDINGS / "vocabulary.txt")
    return {file.name: paths.sha256(existing(file)) for file in files}


def check_numbering(seed: int) -> None:
    """Raises a DataError if the model of a seed was trained on other labels or words than those of the workspace."""
    if read_json(seed_file(seed, "dev.json")).get("numbering", numbering()) != numbering():
        raise DataError(
            f"{paths.seed_folder(seed)}: trained on other labels or words than {paths.PREPARED} holds now;"
            " `dvc repro` trains on these."
        )


def read_table(name: str) -> pd.DataFrame:
    """A CSV file that `evaluate` wrote, all as text, since a label may be NA or None; DataError if it is not there."""
    return pd.read_csv(existing(paths.CURRENT / f"{name}.csv"), dtype=str, keep_default_na=False)


def seed_file(seed: int, name: str) -> Path:
    """A file that `train` wrote for one seed; DataError if it is not there."""
    return existing(paths.seed_folder(seed) / name)


def read_temperature(seed: int) -> float:
    """The temperature that `evaluate` fitted to a seed's model; 1 if it has not seen this model."""
    file = paths.CURRENT / f"calibration/seed-{seed}.json"
    saved = read_json(file) if file.is_file() else {}
    return float(saved["temperature"] if saved.get("model") == paths.sha256(seed_file(seed, "model.keras")) else 1)


def read_dev_scores(seeds: Sequence[int]) -> dict[int, dict[str, float]]:
    """By seed, the dev scores of its best epoch."""
    return {seed: read_json(seed_file(seed, "dev.json"))["dev"] for seed in seeds}


def read_history(seed: int) -> pd.DataFrame:
    """A row per epoch of a training."""
    return pd.read_csv(seed_file(seed, "history.csv"))


def best_seed(seeds: Sequence[int], monitor: str) -> int:
    """The seed with the best dev score; ties go to the first."""
    dev = read_dev_scores(seeds)
    return max(dev, key=lambda seed: signed_score(monitor, dev[seed][monitor]))


def read_json(path: Path) -> Any:
    """The content of a JSON file that a stage wrote; DataError if it is not there."""
    return json.loads(existing(path).read_text(encoding="utf-8"))
