"""What a sweep says in MLflow: a parent run with the outcome, a child for every trial with its curves and its state."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import optuna
from optuna.trial import FrozenTrial

from bilstm_attention import paths
from bilstm_attention.config import flatten
from bilstm_attention.search.outcome import Outcome, Winner
from bilstm_attention.search.study import SweepSpec
from bilstm_attention.search.trials import FOUND, trial_params
from bilstm_attention.tracking.environment import sha256
from bilstm_attention.tracking.outbox import Identity, Letter
from bilstm_attention.tracking.registry import DEV_ANSWERS, DEV_DIGEST, dev_digest
from bilstm_attention.tracking.runs import corpus_name, example_for, model_folder, model_name
from bilstm_attention.tracking.store import RunRecord, fingerprints

STUDY_ID, TRIAL_ID = "sweep.id", "sweep.trial"


def record_trials(definition: SweepSpec, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
    """Records trials that have ended, each once, under the run of the sweep."""
    if not trials:
        return
    numbers = ", ".join(str(trial.number) for trial in trials)
    letter = Letter(corpus_name(definition.space.base), f"trial {numbers}")
    datasets = fingerprints({split: paths.PREPARED / f"{split}.parquet" for split in ("train", "dev")})
    runs = [
        letter.run(
            (TRIAL_ID, f"{study.user_attrs['id']}/{trial.number}"),
            replace(_record(definition, trial), datasets=datasets),
        )
        for trial in trials
    ]
    letter.adopt(_parent(letter, definition, study), runs)
    letter.post()


def _record(definition: SweepSpec, trial: FrozenTrial) -> RunRecord:
    found, attributes = trial.user_attrs.get(FOUND, {}), trial.user_attrs
    values = ", ".join(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in trial.params.items())
    metrics = {f"best_dev_{score}": value for score, value in found.get("dev", {}).items()}
    if definition.sweep.against and trial.values:
        metrics[definition.sweep.against] = trial.values[1]
    tags = {"sweep": definition.sweep.study, "state": trial.state.name.lower()}
    return RunRecord(
        name=f"trial {trial.number}: {values}"[:250],
        started=trial.datetime_start.timestamp() if trial.datetime_start else 0.0,
        params=flatten(trial_params(definition, found.get("overrides", trial.params), attributes.get("seed", 0))),
        metrics=metrics,
        history=found.get("history", ()),
        tags=tags | {key: str(attributes[key]) for key in ("seed", "reason") if key in attributes},
    )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def record_outcome(
    definition: SweepSpec,
    study: optuna.Study,
    found: Outcome,
    winner: Winner | None,
    artifacts: Mapping[str, Sequence[Path]],
    text: str,
) -> None:
    """Adds the outcome so far to the run of the sweep, and logs the model of the winner once there is one.

    Args:
        definition: the sweep.
        study: its study.
        found: its outcome.
        winner: of `outcome.winner`.
        artifacts: files by their folder.
        text: Markdown for the run's page.
    """
    base, metric = definition.space.base, definition.sweep.metric
    metrics = {"trials": float(len(found.leaderboard))}
    for finalist in found.finalists[:1]:
        metrics |= {f"best_dev_{metric}": finalist.score, f"searched_dev_{metric}": finalist.searched}
    if found.p is not None:
        metrics["p"] = found.p
    letter = Letter(corpus_name(base), "the outcome of the sweep")
    parent = _parent(letter, definition, study)
    letter.add(parent, metrics=metrics, artifacts=artifacts)
    letter.describe(parent, text)
    with TemporaryDirectory() as folder:
        if winner and winner.model and base.evaluate.log_model:
            # the winner may change as the sweep goes on
            answers = Path(folder) / DEV_ANSWERS.replace(".csv", f"-{sha256(winner.model)[:12]}.csv")
            winner.dev.to_csv(answers, index=False)
            letter.add(parent, artifacts={"": [answers]})
            model = model_folder(Path(folder) / "classifier", winner.model, definition.folder / "best.yaml")
            tags = {"run": f"sweep {definition.sweep.study}", "monitor": metric, "answers": answers.name}
            tags |= {"dev": repr(winner.finalist.score)}
            tags |= {DEV_DIGEST: dev_digest(winner.dev)}
            letter.log_model(parent, model, example_for(base), model_name(base), tags)
        letter.post()


def _parent(letter: Letter, definition: SweepSpec, study: optuna.Study) -> Identity:
    trials = study.get_trials(deepcopy=False)
    begun = [trial.datetime_start.timestamp() for trial in trials if trial.datetime_start]
    started = min(begun, default=time.time())
    name, tags = definition.sweep.study, {"sweep": definition.sweep.study}
    return letter.run(
        (STUDY_ID, study.user_attrs["id"]),
        RunRecord(f"sweep {name}", started, flatten(definition.space.base), tags=tags),
    )
