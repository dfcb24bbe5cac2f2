"""What a sweep says in MLflow: a parent run with the outcome, a child for every trial with its curves and its state."""

import json
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from bilstm_attention import paths
from bilstm_attention.experiment.outcome import Outcome
from bilstm_attention.experiment.runs import corpus_name
from bilstm_attention.experiment.tracking import PARENT, Record, Tracker, tracking_may_fail
from bilstm_attention.experiment.trials import Definition, trial_params

STUDY_ID, TRIAL_ID = "sweep.id", "sweep.trial"


def record_trials(definition: Definition, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
    """Records trials that have ended, each once, under the run of the sweep."""
    for trial in trials:
        file = definition.trial_file(trial.number)
        if not file.exists():
            continue
        with tracking_may_fail(f"trial {trial.number}"):
            tracker = Tracker(corpus_name(definition.space.base))
            name = f"{study.user_attrs['id']}/{trial.number}"
            if tracker.newest(TRIAL_ID, name):
                continue
            found = json.loads(file.read_text(encoding="utf-8"))
            tags = {TRIAL_ID: name, "sweep": definition.sweep.study, "state": found["state"].lower()}
            tags |= {"seed": str(found["seed"]), PARENT: _parent(tracker, definition, study)}
            values = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in trial.params.items())
            tracker.record(
                Record(
                    name=f"trial {trial.number}: {values}"[:250],
                    started=found["started"],
                    params=trial_params(definition, found) if "overrides" in found else definition.space.base,
                    metrics={f"best_dev_{score}": value for score, value in found.get("dev", {}).items()},
                    history=found["history"],
                    tags=tags | ({"reason": found["reason"]} if "reason" in found else {}),
                    datasets={split: paths.PREPARED / f"{split}.parquet" for split in ("train", "dev")},
                )
            )


def record_outcome(definition: Definition, study: optuna.Study, found: Outcome, files: Sequence[Path]) -> None:
    """Adds the outcome so far to the run of the sweep."""
    with tracking_may_fail("the outcome of the sweep"):
        tracker = Tracker(corpus_name(definition.space.base))
        metric = definition.sweep.metric
        scores = {f"best_dev_{metric}": found.score, f"searched_dev_{metric}": found.searched, "p": found.p}
        scores["trials"] = float(len(found.leaderboard))
        metrics = {name: value for name, value in scores.items() if value is not None}
        tracker.add(_parent(tracker, definition, study), metrics=metrics, artifacts={"": list(files)})


def _parent(tracker: Tracker, definition: Definition, study: optuna.Study) -> str:
    identity = study.user_attrs["id"]
    tags = {STUDY_ID: identity, "sweep": definition.sweep.study}
    started = min(trial.datetime_start.timestamp() for trial in study.get_trials() if trial.datetime_start)
    return tracker.newest(STUDY_ID, identity) or tracker.record(
        Record(f"sweep {definition.sweep.study}", started, definition.space.base, tags=tags)
    )
