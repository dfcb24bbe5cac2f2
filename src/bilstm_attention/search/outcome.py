"""The outcome of a sweep: the leaderboard, the confirmed winner, and the experiments that give its score again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from bilstm_attention.config import Params, config_text, flatten, with_overrides
from bilstm_attention.evaluation.metrics import compare, spread_over_seeds
from bilstm_attention.paths import atomic_write, write_json
from bilstm_attention.search.retries import finished_trials
from bilstm_attention.search.study import SweepSpec, best_trials, confirmation_seeds
from bilstm_attention.search.sweep import failure_reason
from bilstm_attention.search.trainings import TrainingRecord

# Trainings on fresh seeds, by the number of the trial and the seed.
Confirmations = Mapping[tuple[int, int], TrainingRecord]


@dataclass(frozen=True)
class Finalist:
    """One of the best trials.

    Args:
        number: of the trial.
        params: those that give its score by `dvc repro`.
        score: on dev: the mean over fresh seeds where the trial was confirmed, else that of the search.
        searched: its score in the search, the best of many and therefore too high.
        by_seed: the dev score of each fresh seed; empty: not confirmed on all of them.
        cost: the second objective, where there is one.
    """

    number: int
    params: Params
    score: float
    searched: float
    by_seed: Mapping[int, float]
    cost: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The results of a study so far.

    Args:
        leaderboard: a row per finished trial, the best first: number, state, score, seed, mean and sd over fresh seeds
            where it was confirmed, and every parameter of the space: "none" where that was tried, empty where the trial
            does not have it. With two objectives also the second, and the Pareto front comes first.
        finalists: the winner first; with two objectives every trial of the front.
        p: of the difference between the two best confirmed trials, two-sided; None: fewer than two were.
    """

    leaderboard: pd.DataFrame
    finalists: Sequence[Finalist]
    p: float | None


def get_outcome(
    spec: SweepSpec, study: optuna.Study, confirmations: Confirmations, gold: Sequence[str] = ()
) -> Outcome:
    """Ranks the trials: the confirmed ones by their means, then the rest by their scores in the search.

    Args:
        spec: the sweep.
        study: its study.
        confirmations: those that are done.
        gold: labels of dev, in the order of the predictions.
    """
    metric, seeds = spec.sweep.metric, confirmation_seeds(spec)
    by_trial: dict[int, dict[int, TrainingRecord]] = {}
    for (number, seed), record in confirmations.items():
        by_trial.setdefault(number, {})[seed] = record
    complete = {number: by_seed for number, by_seed in by_trial.items() if set(by_seed) == set(seeds)}
    scores = {number: {seed: complete[number][seed].dev[metric] for seed in seeds} for number in complete}
    best = best_trials(study)
    finalists = [_finalist(spec, trial, scores.get(trial.number, {})) for trial in best]
    finalists.sort(key=lambda each: (not each.by_seed, -each.score))
    predicted = [
        [complete[finalist.number][seed].predicted for seed in seeds] for finalist in finalists[:2] if finalist.by_seed
    ]
    p = compare(gold, predicted[0], predicted[1], metric) if len(predicted) == 2 else None
    return Outcome(_leaderboard(spec, finished_trials(study), scores, {trial.number for trial in best}), finalists, p)


def _finalist(spec: SweepSpec, trial: FrozenTrial, by_seed: Mapping[int, float]) -> Finalist:
    seeds = list(by_seed) or [trial.user_attrs["seed"]]
    params = with_overrides(spec.space.base, {**trial.user_attrs["overrides"], "train.seeds": seeds})
    searched, *costs = trial.values
    score = spread_over_seeds(by_seed)["mean"] if by_seed else searched
    return Finalist(trial.number, params, score, searched, by_seed, *costs)


def _leaderboard(
    spec: SweepSpec, trials: Sequence[FrozenTrial], scores: Mapping[int, Mapping[int, float]], front: set[int]
) -> pd.DataFrame:
    against, rows = spec.sweep.against, []
    for trial in trials:
        complete = trial.state == TrialState.COMPLETE
        spread = spread_over_seeds(scores[trial.number]) if trial.number in scores else {"mean": None, "sd": None}
        second = {against: trial.values[1] if complete else None, "on_front": trial.number in front} if against else {}
        values = {key: "none" if value is None else value for key, value in trial.params.items()}
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                "score": trial.values[0] if complete else None,
                **second,
                "confirmed_mean": spread["mean"],
                "confirmed_sd": spread["sd"],
                "seed": trial.user_attrs.get("seed"),
                "seconds": trial.duration.total_seconds() if trial.duration else None,
                **{dimension.key: values.get(dimension.key) for dimension in spec.space.dimensions},
                "reason": failure_reason(trial),
            }
        )
    # pandas would turn whole numbers into fractions where another trial has none
    frame = pd.DataFrame(rows, dtype=object)
    order = [*(["on_front"] if against else []), "confirmed_mean", "score"]
    return frame.sort_values(order, ascending=False, na_position="last", kind="stable") if rows else frame


def write_outcome(spec: SweepSpec, outcome: Outcome) -> None:
    """Writes `leaderboard.csv`, `outcome.json` and, once a trial is complete, `best.yaml`.

    With two objectives also `front/trial-*.yaml`.
    """
    folder, front = spec.folder, spec.folder / "front"
    for stale in front.glob("trial-*.yaml"):
        # of an earlier start, and perhaps no longer on the front
        stale.unlink()
    with atomic_write(folder / "leaderboard.csv") as path:
        outcome.leaderboard.to_csv(path, index=False)
    experiments = dict(zip([folder / "best.yaml"], outcome.finalists, strict=False))
    if spec.sweep.against:
        experiments |= {front / f"trial-{each.number:04d}.yaml": each for each in outcome.finalists}
    for target, finalist in experiments.items():
        with atomic_write(target) as path:
            path.write_text(config_text(finalist.params, _comment(spec, finalist)), encoding="utf-8")
    winner: dict[str, Any] = {}
    for finalist in outcome.finalists[:1]:
        winner = {"trial": finalist.number, "score": finalist.score, "searched": finalist.searched}
        winner["confirmed"] = bool(finalist.by_seed)
    write_json(folder / "outcome.json", {"trials": len(outcome.leaderboard), **winner, "p": outcome.p})


def read_outcome(folder: Path) -> dict[str, Any]:
    """The content of `outcome.json`: the winner's `trial`, `score`, `searched`, `confirmed`; `trials`, `p`."""
    file = folder / "outcome.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _comment(spec: SweepSpec, finalist: Finalist) -> str:
    seeds = ", ".join(map(str, finalist.params.train.seeds))
    return (
        f"Trial {finalist.number} of the study {spec.sweep.study}: dev {spec.sweep.metric} {finalist.score}, mean of"
        f" seeds {seeds}; {finalist.searched} in the search."
    )


def confirmation_table(spec: SweepSpec, outcome: Outcome) -> pd.DataFrame:
    """A row per confirmed trial: its score in the search, the mean over fresh seeds, the drop, and every seed's."""
    return pd.DataFrame(
        [
            {
                "trial": each.number,
                "search": each.searched,
                "confirmed": each.score,
                "drop": each.searched - each.score,
                **{f"seed {seed}": score for seed, score in each.by_seed.items()},
            }
            for each in outcome.finalists
            if each.by_seed
        ]
    )


def protocol(spec: SweepSpec, study: optuna.Study) -> str:
    """How the trials were made, in a few sentences of Markdown."""
    finished = finished_trials(study)
    states = pd.Series([trial.state.name.lower() for trial in finished], dtype=str).value_counts()
    counts = ", ".join(f"{count} {state}" for state, count in states.items()) or "none"
    seconds = sum(trial.user_attrs.get("result", {}).get("seconds", 0.0) for trial in finished)
    usual, base = flatten(Params()), flatten(spec.space.base)
    changed = [key for key, value in base.items() if value != usual[key] and key not in spec.sweep.space]
    epoch = "best" if spec.space.base.train.restore_best_weights else "last"
    return (
        f"{len(finished)} trials ({counts}), {timedelta(seconds=round(seconds))} of training in all workers together."
        f" Each trial has a seed of its own; its score is that of its {epoch} epoch **on dev**. Test was not opened."
        " Parameters that all trials share and that differ from the defaults:"
        f" {', '.join(f'`{key}={base[key]}`' for key in changed) or 'none'}."
    )
