"""What a run in MLflow says: names, metrics and artifacts of trainings and of pipelines."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd

from bilstm_attention import paths
from bilstm_attention.config import Params, flatten
from bilstm_attention.data.dataset import existing
from bilstm_attention.data.tokens import MARKER
from bilstm_attention.evaluation.metrics import signed_score
from bilstm_attention.tracking.environment import sha256
from bilstm_attention.tracking.outbox import Identity, Letter
from bilstm_attention.tracking.registry import DEV_DIGEST, dev_digest
from bilstm_attention.tracking.store import MODEL_DIGEST, RunRecord, fingerprints

if TYPE_CHECKING:
    # it takes TensorFlow
    from bilstm_attention.evaluation.evaluate import EvaluationResult

PIPELINE_DIGEST = "pipeline.sha256"
EXAMPLE = "The <e1>wheel</e1> of the <e2>car</e2> broke."


def corpus_name(params: Params) -> str:
    """Name of the MLflow experiment: scores compare within a corpus alone."""
    return Path(params.data.folder).name


def model_name(params: Params) -> str:
    """Under which models of these parameters are registered."""
    return params.evaluate.register_as or re.sub(r"[/:.%\"'\\]", "_", corpus_name(params))


def run_name(params: Params, seeds: Sequence[int]) -> str:
    """For example `zhou u=100 seed=2`, or `zhou u=100 seeds=0,1,2`."""
    which = f"seed={seeds[0]}" if len(seeds) == 1 else f"seeds={','.join(map(str, seeds))}"
    return f"{params.model.attention.kind} u={params.model.lstm_units} {which}"


def record_training(
    params: Params,
    seed: int,
    dev: Mapping[str, float],
    history: pd.DataFrame,
    picture: Path,
    description: str,
    started: float,
) -> None:
    """Records one trained model as a run; `evaluate` finds it by the digest of the model, or of the pipeline.

    Args:
        params: all parameters.
        seed: of the model.
        dev: scores of the epoch that was kept.
        history: a row per epoch.
        picture: of the history.
        description: Markdown for the run's page.
        started: seconds since 1970.
    """
    letter = Letter(corpus_name(params), f"the training of seed {seed}")
    record = _training(params, seed, dev, history, started, artifacts={"plots": [picture]})
    run = letter.run(_identity(params, seed), record)
    # one that was judged says more
    letter.describe(run, description, first=True)
    letter.post()


def _identity(params: Params, seed: int) -> Identity:
    """What tells the run of a model from others; the only one of a pipeline is judged otherwise in another run."""
    return _pipeline(params) if len(params.train.seeds) == 1 else (MODEL_DIGEST, _model(seed))


def _model(seed: int) -> str:
    return sha256(paths.seed_folder(seed) / "model.keras")


def _training(
    params: Params, seed: int, dev: Mapping[str, float], history: pd.DataFrame, started: float, **more: Any
) -> RunRecord:
    return RunRecord(
        name=run_name(params, [seed]),
        started=started,
        params=flatten(params),
        metrics={f"best_dev_{name}": value for name, value in dev.items()},
        history=[{str(name): value for name, value in row.items()} for row in history.to_dict("records")],
        tags={"seed": str(seed), MODEL_DIGEST: _model(seed), **more.pop("tags", {})},
        datasets=fingerprints({split: paths.PREPARED / f"{split}.parquet" for split in ("train", "dev")}),
        **more,
    )


def record_evaluation(
    params: Params,
    verdict: "EvaluationResult",
    artifacts: Mapping[str, Sequence[Path]],
    pages: Mapping[int, Path],
    descriptions: Mapping[int | None, str],
    started: float,
) -> None:
    """Adds the test scores to the runs of the models, and the whole to their parent run, or to the only run.

    Args:
        params: all parameters.
        verdict: on the models.
        artifacts: of the whole.
        pages: the attention page of each seed.
        descriptions: Markdown for the page of the run of each seed; under None that of the whole.
        started: seconds since 1970.
    """
    seeds = params.train.seeds
    letter = Letter(corpus_name(params), "the evaluation")
    test, runs = fingerprints({"test": paths.PREPARED / "test.parquet"}), {}
    for seed in seeds:
        # usually there; a store that was changed since has it not
        restored = {"restored": "true"}
        record = _training(params, seed, verdict.dev[seed], verdict.histories[seed], started, tags=restored)
        runs[seed] = letter.run(_identity(params, seed), record)
        scores = {name: value["by_seed"][str(seed)] for name, value in verdict.metrics["test"].items()}
        found = {f"test_{name}": value for name, value in scores.items()}
        found |= of_attention(verdict.faithfulness, seed)
        letter.add(runs[seed], metrics=found, datasets=test, artifacts={"attention": [pages[seed]]})
        letter.describe(runs[seed], descriptions[seed])
    whole = next(iter(runs.values()))
    if len(runs) > 1:
        models = {f"{MODEL_DIGEST}.{seed}": digest for seed, (_, digest) in runs.items()}
        whole = letter.run(_pipeline(params), RunRecord(run_name(params, seeds), started, flatten(params), tags=models))
        letter.adopt(whole, list(runs.values()))
        artifacts = {**artifacts, "attention": list(pages.values())}
    found = _aggregate(verdict.metrics) | of_attention(verdict.faithfulness)
    letter.add(whole, metrics=found, datasets=test, artifacts=artifacts)
    letter.describe(whole, descriptions[None])
    with TemporaryDirectory() as folder:
        if params.evaluate.log_model:
            best = paths.seed_folder(best_seed(verdict.dev, params)) / "model.keras"
            model = model_folder(Path(folder) / "classifier", best, paths.PARAMS)
            monitor = params.train.monitor
            dev = sum(verdict.dev[seed][monitor] for seed in seeds) / len(seeds)
            judged_on = dev_digest(verdict.dev_predictions)
            tags = {"run": run_name(params, seeds), "monitor": monitor, "dev": repr(dev), DEV_DIGEST: judged_on}
            letter.log_model(whole, model, example_for(params), model_name(params), tags)
        letter.post()


def best_seed(dev: Mapping[int, Mapping[str, float]], params: Params) -> int:
    """The seed that did best on dev, of equals the first listed; `dev` are the scores of each."""
    monitor = params.train.monitor
    return max(params.train.seeds, key=lambda seed: signed_score(monitor, dev[seed][monitor]))


def best_trained(params: Params) -> int:
    """The seed whose model, as `train` left it, did best on dev.

    Raises:
        DataError: a seed has not been trained.
    """
    reports = {seed: existing(paths.seed_folder(seed) / "dev.json") for seed in params.train.seeds}
    dev = {seed: json.loads(report.read_text(encoding="utf-8"))["dev"] for seed, report in reports.items()}
    return best_seed(dev, params)


def _pipeline(params: Params) -> Identity:
    """What makes a run of a pipeline another: its models, the test set, how they are judged."""
    files = [*(paths.seed_folder(seed) / "model.keras" for seed in params.train.seeds), paths.PREPARED / "test.parquet"]
    what = [*map(sha256, files), params.evaluate.model_dump_json(exclude={"register_as"})]
    return PIPELINE_DIGEST, hashlib.sha256("".join(what).encode()).hexdigest()


def _aggregate(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What a pipeline adds to the scores of its seeds; of one seed, no mean of it and no ensemble."""
    several = len(next(iter(metrics["test"].values()))["by_seed"]) > 1
    keys = ("mean", "sd", "low", "high") if several else ("low", "high")
    found = {f"ensemble_test_{name}": value for name, value in metrics["ensemble"].items()} if several else {}
    for split in ("test", "dev"):
        for name, summary in metrics[split].items():
            found |= {f"{split}_{name}_{key}": summary[key] for key in keys if key in summary}
    for baseline, scores in metrics["baselines"].items():
        found |= {f"{baseline}_test_{name}": value for name, value in scores.items()}
    return found


def of_attention(found: Mapping[str, Any], seed: int | None = None) -> dict[str, float]:
    """What `faithfulness.over_seeds` says of one seed, or of their mean, as metrics."""
    parts = {
        f"dev_{name}_{part}": summary
        for name in ("comprehensiveness", "sufficiency", "attention_share")
        for part, summary in found.get(name, {}).items()
    } | {f"dev_attention_{name}": found.get(name) for name in ("entropy", "rank_correlation")}
    token_share = {f"dev_token_share_{kind}": share for kind, share in found.get("token_share", {}).items()}
    numbers = {
        name: summary["mean"] if seed is None else summary["by_seed"].get(str(seed))
        for name, summary in parts.items()
        if summary
    }
    return token_share | {name: number for name, number in numbers.items() if number is not None}


def model_folder(folder: Path, model: Path, params: Path) -> Path:
    """Gathers in a new folder what `serving.load_folder` reads; the vocabulary and the labels are the pipeline's."""
    folder.mkdir()
    for name, file in (
        ("model.keras", model),
        ("vocabulary.txt", paths.EMBEDDINGS / "vocabulary.txt"),
        ("labels.json", paths.PREPARED / "labels.json"),
        ("params.yaml", params),
    ):
        shutil.copy(file, folder / name)
    return folder


def example_for(params: Params) -> str:
    """A sentence of the kind that a model of these parameters answers."""
    return EXAMPLE if params.data.relational else MARKER.sub("", EXAMPLE)
