"""Runs of sweeps and comparisons for MLflow, built from studies and from the records of trainings."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from bilstm_attention import paths
from bilstm_attention.config import flatten
from bilstm_attention.search.outcome import Outcome
from bilstm_attention.search.study import SweepSpec
from bilstm_attention.search.trials import FOUND, trial_params
from bilstm_attention.tracking.environment import input_digests
from bilstm_attention.tracking.pipeline import corpus_name
from bilstm_attention.tracking.runs import RunRecord, fingerprints, log_runs

STUDY_ID, TRIAL_ID = "sweep.id", "sweep.trial"


def log_trials(spec: SweepSpec, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
    """Logs trials that have ended, each once, under the run of the sweep."""
    if trials:
        numbers = ", ".join(str(trial.number) for trial in trials)
        records = [_sweep_record(spec, study), *(_trial_record(spec, study, trial) for trial in trials)]
        log_runs(corpus_name(spec.space.base), records, f"trial {numbers}")


def log_sweep(
    spec: SweepSpec, study: optuna.Study, outcome: Outcome, artifacts: Mapping[str, Sequence[Path]], description: str
) -> None:
    """Adds the outcome so far to the run of the sweep.

    Args:
        spec: the sweep.
        study: its study.
        outcome: leaderboard and finalists.
        artifacts: files by their folder.
        description: Markdown for the run's page.
    """
    metrics = {"trials": float(len(outcome.leaderboard))}
    for finalist in outcome.finalists[:1]:
        metrics |= {
            f"best_dev_{spec.sweep.metric}": finalist.score,
            f"searched_dev_{spec.sweep.metric}": finalist.searched,
        }
    if outcome.p is not None:
        metrics["p"] = outcome.p
    record = _sweep_record(spec, study, metrics=metrics, artifacts=artifacts, description=description, final=True)
    log_runs(corpus_name(spec.space.base), [record], "the outcome of the sweep")


def _sweep_record(spec: SweepSpec, study: optuna.Study, **more: object) -> RunRecord:
    starts = [trial.datetime_start.timestamp() for trial in study.get_trials(deepcopy=False) if trial.datetime_start]
    return RunRecord(
        name=f"sweep {spec.sweep.study}",
        identity=(STUDY_ID, study.user_attrs["id"]),
        params=flatten(spec.space.base),
        started=min(starts, default=time.time()),
        tags={**input_digests(), "sweep": spec.sweep.study},
        **more,  # type: ignore[arg-type]
    )


def _trial_record(spec: SweepSpec, study: optuna.Study, trial: FrozenTrial) -> RunRecord:
    results, attributes = trial.user_attrs.get(FOUND, {}), trial.user_attrs
    values = ", ".join(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in trial.params.items())
    metrics = {f"best_dev_{score}": value for score, value in results.get("dev", {}).items()}
    if spec.sweep.against and trial.values:
        metrics[spec.sweep.against] = trial.values[1]
    tags = {**input_digests(), "sweep": spec.sweep.study, "state": trial.state.name.lower()}
    return RunRecord(
        name=f"trial {trial.number}: {values}"[:250],
        identity=(TRIAL_ID, f"{study.user_attrs['id']}/{trial.number}"),
        params=flatten(trial_params(spec, results.get("overrides", trial.params), attributes.get("seed", 0))),
        started=trial.datetime_start.timestamp() if trial.datetime_start else None,
        metrics=metrics,
        history=results.get("history", ()),
        tags=tags | {key: str(attributes[key]) for key in ("seed", "reason") if key in attributes},
        datasets=fingerprints({split: paths.PREPARED / f"{split}.parquet" for split in ("train", "dev")}),
        parent=(STUDY_ID, study.user_attrs["id"]),
    )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
