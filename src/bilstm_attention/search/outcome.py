"""What a sweep found: the leaderboard, the confirmed winner, and the experiment that gives its score again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from bilstm_attention.config import Params, config_text, with_overrides
from bilstm_attention.evaluation.metrics import compare, signed_score, spread_over_seeds
from bilstm_attention.paths import atomic_write
from bilstm_attention.search.study import DIED, SweepSpec, best_trials, counted
from bilstm_attention.search.sweep import confirmation_seeds, confirmations
from bilstm_attention.search.trials import FOUND, confirmation, confirmed_model


@dataclass(frozen=True)
class Finalist:
    """One of the best trials.

    Args:
        number: of the trial.
        params: those that give its score by `dvc repro`.
        score: on dev: the mean over fresh seeds where it was confirmed, else that of the trial.
        searched: its score in the search, which is the best of many and so too high.
        confirmed: whether it was, on all fresh seeds.
    """

    number: int
    params: Params
    score: float
    searched: float
    confirmed: bool


@dataclass(frozen=True)
class Outcome:
    """What is known of a study so far.

    Args:
        leaderboard: a row per trial that counts, the best first: its number, state, score, seed, the mean and sd over
            fresh seeds where it was confirmed, and every parameter of the space: "none" where that was tried, empty
            where it was not. Of two objectives the second has a column, and those on the Pareto front come first.
        finalists: the winner first; of two objectives every trial of the front, by score.
        p: of the difference between the two best that were confirmed, two-sided; None: fewer than two were.
    """

    leaderboard: pd.DataFrame
    finalists: Sequence[Finalist]
    p: float | None


def outcome(definition: SweepSpec, study: optuna.Study, gold: Sequence[str], labels: Sequence[str]) -> Outcome:
    """Reads the study; `gold` are the labels of dev, `labels` all in the order of their numbers."""
    metric = definition.sweep.metric
    confirmed = _confirmed(definition, study)
    means = {
        number: spread_over_seeds({seed: found["dev"][metric] for seed, found in by_seed.items()})
        for number, by_seed in confirmed.items()
    }
    best = best_trials(study)
    front = {trial.number for trial in best}
    rows = [_row(definition, trial, means.get(trial.number), front) for trial in counted(study)]
    # or pandas would make numbers of steps into fractions where another trial has none
    frame = pd.DataFrame(rows, dtype=object)
    if len(frame):
        first = ["on_front"] if definition.sweep.against else []
        order = [*first, "confirmed_mean", "score"]
        frame = frame.sort_values(order, ascending=False, na_position="last", kind="stable")
    ranked = sorted((trial for trial in best if trial.number in means), key=lambda trial: -means[trial.number]["mean"])
    ranked += [trial for trial in best if trial.number not in means]
    finalists = [_finalist(definition, trial, means.get(trial.number)) for trial in ranked]
    answers = [
        [[labels[answer] for answer in found["answers"]] for found in confirmed[trial.number].values()]
        for trial in ranked[:2]
        if trial.number in confirmed
    ]
    p = compare(gold, answers[0], answers[1], metric) if len(answers) == 2 else None
    return Outcome(frame, finalists, p)


@dataclass(frozen=True)
class Winner:
    """The best of the confirmed trials, once all are.

    Args:
        finalist: the trial.
        model: file of the model of its best seed; None: it was not kept, for instance on another machine.
        dev: `id`, `gold`, and `seed_N` for each fresh seed: answers on dev.
    """

    finalist: Finalist
    model: Path | None
    dev: pd.DataFrame


def winner(
    definition: SweepSpec, study: optuna.Study, found: Outcome, dev: pd.DataFrame, labels: Sequence[str]
) -> Winner | None:
    """The winner, if there is one yet; the models of all others are deleted.

    Args:
        definition: the sweep.
        study: its study.
        found: its outcome.
        dev: the split: `id` and `label`.
        labels: all in the order of their numbers.
    """
    if confirmations(definition, study) or not any(finalist.confirmed for finalist in found.finalists[:1]):
        return None
    finalist, metric = found.finalists[0], definition.sweep.metric
    by_seed = _confirmed(definition, study)[finalist.number]
    best = max(by_seed, key=lambda seed: signed_score(metric, by_seed[seed]["dev"][metric]))
    model = confirmed_model(definition, finalist.number, best)
    for other in model.parent.glob("*.keras"):
        if other != model:
            other.unlink()
    answers = {f"seed_{seed}": [labels[answer] for answer in given["answers"]] for seed, given in by_seed.items()}
    table = pd.DataFrame({"id": dev["id"], "gold": dev["label"]} | answers)
    return Winner(finalist, model if model.exists() else None, table)


def write_outcome(definition: SweepSpec, found: Outcome) -> list[Path]:
    """Writes `leaderboard.csv` and, once a trial has ended well, `best.yaml`; of two objectives the front's as well.

    Returns:
        the files.
    """
    files = [definition.folder / "leaderboard.csv"]
    with atomic_write(files[0]) as path:
        found.leaderboard.to_csv(path, index=False)
    names = {"best.yaml": found.finalists[:1]} | {
        f"front/trial-{finalist.number:04d}.yaml": [finalist]
        for finalist in (found.finalists if definition.sweep.against else ())
    }
    for stale in (definition.folder / "front").glob("trial-*.yaml"):
        # of an earlier start, and perhaps no longer of the front
        stale.unlink()
    for name, finalists in names.items():
        for finalist in finalists:
            with atomic_write(definition.folder / name) as path:
                path.write_text(config_text(finalist.params, _comment(definition, finalist)), encoding="utf-8")
            files.append(definition.folder / name)
    return files


def _comment(definition: SweepSpec, finalist: Finalist) -> str:
    seeds = ", ".join(map(str, finalist.params.train.seeds))
    return (
        f"Trial {finalist.number} of the study {definition.sweep.study}: dev {definition.sweep.metric}"
        f" {finalist.score}, mean of seeds {seeds}; {finalist.searched} in the search."
    )


def _finalist(definition: SweepSpec, trial: FrozenTrial, confirmed: Mapping[str, Any] | None) -> Finalist:
    seeds = confirmation_seeds(definition) if confirmed else [trial.user_attrs["seed"]]
    params = with_overrides(definition.space.base, {**trial.user_attrs[FOUND]["overrides"], "train.seeds": seeds})
    searched = trial.values[0]
    return Finalist(trial.number, params, confirmed["mean"] if confirmed else searched, searched, bool(confirmed))


def _confirmed(definition: SweepSpec, study: optuna.Study) -> dict[int, dict[int, dict[str, Any]]]:
    """By trial and seed, what confirmations gave; trials of which one is missing or failed are left out."""
    given, found = study.user_attrs, {}
    for trial in counted(study):
        by_seed = {seed: given.get(confirmation(trial.number, seed), {}) for seed in confirmation_seeds(definition)}
        if all("dev" in each for each in by_seed.values()):
            found[trial.number] = by_seed
    return found


def _row(
    definition: SweepSpec, trial: FrozenTrial, confirmed: Mapping[str, Any] | None, front: set[int]
) -> dict[str, Any]:
    complete, against = trial.state == TrialState.COMPLETE, definition.sweep.against
    second = {against: trial.values[1] if complete else None, "on_front": trial.number in front} if against else {}
    tried = {key: "none" if value is None else value for key, value in trial.params.items()}
    died = DIED if trial.state == TrialState.FAIL else None
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "score": trial.values[0] if complete else None,
        **second,
        "confirmed_mean": confirmed["mean"] if confirmed else None,
        "confirmed_sd": confirmed["sd"] if confirmed else None,
        "seed": trial.user_attrs.get("seed"),
        "seconds": trial.duration.total_seconds() if trial.duration else None,
        **{dimension.key: tried.get(dimension.key) for dimension in definition.space.dimensions},
        "reason": trial.user_attrs.get("reason", died),
    }
