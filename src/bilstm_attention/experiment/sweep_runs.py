"""What a sweep says in MLflow: a parent run with the outcome, a child for every trial with its curves and its state."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from bilstm_attention import paths
from bilstm_attention.experiment.outcome import Outcome
from bilstm_attention.experiment.runs import corpus_name
from bilstm_attention.experiment.study import Definition
from bilstm_attention.experiment.tracking import PARENT, Record, Tracker, tracking_may_fail
from bilstm_attention.experiment.trials import FOUND, trial_params

STUDY_ID, TRIAL_ID = "sweep.id", "sweep.trial"


def record_trials(definition: Definition, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
    """Records trials that have ended, each once, under the run of the sweep."""
    for trial in trials:
        with tracking_may_fail(f"trial {trial.number}"):
            tracker = Tracker(corpus_name(definition.space.base))
            name = f"{study.user_attrs['id']}/{trial.number}"
            if tracker.newest(TRIAL_ID, name):
                continue
            found, attributes = trial.user_attrs.get(FOUND, {}), trial.user_attrs
            tags = {TRIAL_ID: name, "sweep": definition.sweep.study, "state": trial.state.name.lower()}
            tags |= {key: str(attributes[key]) for key in ("seed", "reason") if key in attributes}
            values = ", ".join(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in trial.params.items())
            metrics = {f"best_dev_{score}": value for score, value in found.get("dev", {}).items()}
            if definition.sweep.against and trial.values:
                metrics[definition.sweep.against] = trial.values[1]
            tracker.record(
                Record(
                    name=f"trial {trial.number}: {values}"[:250],
                    started=trial.datetime_start.timestamp() if trial.datetime_start else 0.0,
                    params=trial_params(definition, found.get("overrides", trial.params), attributes.get("seed", 0)),
                    metrics=metrics,
                    history=found.get("history", ()),
                    tags=tags | {PARENT: _parent(tracker, definition, study)},
                    datasets={split: paths.PREPARED / f"{split}.parquet" for split in ("train", "dev")},
                )
            )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def record_outcome(
    definition: Definition, study: optuna.Study, found: Outcome, artifacts: Mapping[str, Sequence[Path]]
) -> None:
    """Adds the outcome so far, and files by their folder, to the run of the sweep."""
    with tracking_may_fail("the outcome of the sweep"):
        tracker = Tracker(corpus_name(definition.space.base))
        metric = definition.sweep.metric
        metrics = {"trials": float(len(found.leaderboard))}
        for finalist in found.finalists[:1]:
            metrics |= {f"best_dev_{metric}": finalist.score, f"searched_dev_{metric}": finalist.searched}
        if found.p is not None:
            metrics["p"] = found.p
        tracker.add(_parent(tracker, definition, study), metrics=metrics, artifacts=artifacts)


def _parent(tracker: Tracker, definition: Definition, study: optuna.Study) -> str:
    identity = study.user_attrs["id"]
    tags = {STUDY_ID: identity, "sweep": definition.sweep.study}
    trials = study.get_trials(deepcopy=False)
    started = min(trial.datetime_start.timestamp() for trial in trials if trial.datetime_start)
    return tracker.newest(STUDY_ID, identity) or tracker.record(
        Record(f"sweep {definition.sweep.study}", started, definition.space.base, tags=tags)
    )
