"""What a sweep found: the leaderboard, the confirmed winner, and the experiment that gives its score again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from bilstm_attention.experiment.scoring import compare, spread_over_seeds
from bilstm_attention.experiment.sweep import best_trials, confirmation_seeds, counted
from bilstm_attention.experiment.trials import Definition
from bilstm_attention.overrides import config_text, with_overrides
from bilstm_attention.params import Params
from bilstm_attention.paths import written_whole


@dataclass(frozen=True)
class Outcome:
    """What is known of a study so far.

    Args:
        leaderboard: a row per trial that counts, the best first: its number, state, score, seed, the mean and sd over
            fresh seeds where it was confirmed, and every parameter of the space.
        winner: the number of the best trial, by the mean of its confirmation where there is one; None: none ended.
        params: those that give the winner's score by `dvc repro`.
        score: the winner's on dev: the confirmed mean, or that of the trial.
        searched: its score in the search, which is the best of many and so too high.
        p: of the difference between the two best that were confirmed, two-sided; None: fewer than two were.
    """

    leaderboard: pd.DataFrame
    winner: int | None
    params: Params | None
    score: float | None
    searched: float | None
    p: float | None


def outcome(definition: Definition, study: optuna.Study, gold: Sequence[str]) -> Outcome:
    """Reads the study and the confirmations; `gold` are the labels of dev."""
    metric = definition.sweep.metric
    confirmed = _confirmed(definition, best_trials(study, definition.sweep.confirm.top))
    means = {
        number: spread_over_seeds({seed: found["dev"][metric] for seed, found in by_seed.items()})
        for number, by_seed in confirmed.items()
    }
    rows = [_row(definition, trial, means.get(trial.number)) for trial in counted(study)]
    frame = pd.DataFrame(rows)
    if len(frame):
        frame = frame.sort_values(["confirmed_mean", "score"], ascending=False, na_position="last", kind="stable")
    best = best_trials(study, 1)
    if not best:
        return Outcome(frame, None, None, None, None, None)
    ranked = sorted(means, key=lambda number: -means[number]["mean"])
    winner = ranked[0] if ranked else best[0].number
    found = json.loads(definition.trial_file(winner).read_text(encoding="utf-8"))
    seeds = confirmation_seeds(definition) if ranked else [found["seed"]]
    params = with_overrides(definition.space.base, {**found["overrides"], "train.seeds": seeds})
    score = means[winner]["mean"] if ranked else found["value"]
    return Outcome(frame, winner, params, score, found["value"], _difference(confirmed, ranked, gold, metric))


def write_outcome(definition: Definition, found: Outcome) -> None:
    """Writes `leaderboard.csv` and, once a trial has ended well, `best.yaml`."""
    with written_whole(definition.folder / "leaderboard.csv") as path:
        found.leaderboard.to_csv(path, index=False)
    if found.params is None:
        return
    seeds = found.params.train.seeds
    comment = (
        f"Trial {found.winner} of the study {definition.sweep.study}: dev {definition.sweep.metric} {found.score}, mean"
        f" of seeds {', '.join(map(str, seeds))}; {found.searched} in the search."
    )
    with written_whole(definition.folder / "best.yaml") as path:
        path.write_text(config_text(found.params, comment), encoding="utf-8")


def _confirmed(definition: Definition, trials: Sequence[FrozenTrial]) -> dict[int, dict[int, dict[str, Any]]]:
    """By trial and seed, what confirmations gave; trials of which one is missing are left out."""
    found = {}
    for trial in trials:
        files = {seed: definition.confirmation_file(trial.number, seed) for seed in confirmation_seeds(definition)}
        if all(file.exists() for file in files.values()):
            found[trial.number] = {seed: json.loads(file.read_text(encoding="utf-8")) for seed, file in files.items()}
    return found


def _row(definition: Definition, trial: FrozenTrial, confirmed: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "score": trial.value if trial.state == TrialState.COMPLETE else None,
        "confirmed_mean": confirmed["mean"] if confirmed else None,
        "confirmed_sd": confirmed["sd"] if confirmed else None,
        "seed": trial.user_attrs.get("seed"),
        "seconds": trial.duration.total_seconds() if trial.duration else None,
        **{dimension.key: trial.params.get(dimension.key) for dimension in definition.space.dimensions},
        "reason": trial.user_attrs.get("reason"),
    }


def _difference(
    confirmed: Mapping[int, Mapping[int, Mapping[str, Any]]], ranked: Sequence[int], gold: Sequence[str], metric: str
) -> float | None:
    if len(ranked) < 2:
        return None
    first, second = ([found["predicted"] for found in confirmed[number].values()] for number in ranked[:2])
    return compare(gold, first, second, metric)
