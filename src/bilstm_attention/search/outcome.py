"""The outcome of a sweep: the leaderboard, the confirmed winner, and the experiments that give its score again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import pandas as pd
from optuna.trial import TrialState

from bilstm_attention.config import Params, config_text, flatten
from bilstm_attention.evaluation.metrics import compare, spread_over_seeds
from bilstm_attention.paths import atomic_write, write_json
from bilstm_attention.search.study import SweepSpec, best_trials, confirmation_seeds, failure_reason, finished_trials
from bilstm_attention.search.trainings import TrainingRecord
from bilstm_attention.search.trial import trial_params

# Trainings on fresh seeds, one for each fold, by the number of the trial and the seed.
Confirmations = Mapping[tuple[int, int], Sequence[TrainingRecord]]


@dataclass(frozen=True)
class Outcome:
    """The results of a study so far.

    The leaderboard has a row per finished trial, the best first: trial, state, score, where it was confirmed on every
    fresh seed `confirmed_mean`, `confirmed_sd` and `by_seed`, its seed, and every parameter of the space: "none" where
    that was tried, empty where the trial does not have it. With two objectives also the second, and the Pareto front
    comes first.
    """

    leaderboard: pd.DataFrame
    p: float | None  # of the difference between the two best confirmed trials, two-sided; None: fewer than two were

    @property
    def winner(self) -> dict[str, Any]:
        """`trial`, `score`, `searched` (the best of many, and therefore too high), `confirmed`; empty: none yet."""
        complete = self.leaderboard.dropna(subset="score").to_dict("records")
        return _summary(complete[0]) if complete else {}


def _summary(row: Mapping[Any, Any]) -> dict[str, Any]:
    confirmed = bool(pd.notna(row["confirmed_mean"]))
    score = row["confirmed_mean" if confirmed else "score"]
    return {"trial": row["trial"], "score": score, "searched": row["score"], "confirmed": confirmed}


def get_outcome(
    spec: SweepSpec, study: optuna.Study, confirmations: Confirmations, gold: Sequence[str] = ()
) -> Outcome:
    """Ranks the trials: the confirmed ones by their means, then the rest by their scores in the search.

    `gold` has the labels of dev, of all folds, in the order of the predictions.
    """
    metric, against, seeds = spec.sweep.metric, spec.sweep.against, confirmation_seeds(spec)
    front, rows = {trial.number for trial in best_trials(study)}, []
    for trial in finished_trials(study):
        score, *costs = trial.values if trial.state == TrialState.COMPLETE else [None, None]
        row = {"trial": trial.number, "state": trial.state.name.lower(), "score": score}
        if against:
            row |= {against: costs[0], "on_front": trial.number in front}
        confirmed = all((trial.number, seed) in confirmations for seed in seeds)
        trainings = {seed: confirmations[trial.number, seed] for seed in seeds} if confirmed else {}
        by_seed = {seed: fmean(fold.dev[metric] for fold in folds) for seed, folds in trainings.items()}
        spread = spread_over_seeds(by_seed) if confirmed else {}
        values = {key: "none" if value is None else value for key, value in trial.params.items()}
        row |= {
            "confirmed_mean": spread.get("mean"),
            "confirmed_sd": spread.get("sd"),
            "by_seed": ", ".join(f"{each:.2f}" for each in by_seed.values()) or None,
            "seed": trial.user_attrs.get("seed"),
            "seconds": trial.duration.total_seconds() if trial.duration else None,
            **{dimension.key: values.get(dimension.key) for dimension in spec.space.dimensions},
            "reason": failure_reason(trial),
        }
        rows.append(row)
    order = [*(["on_front"] if against else []), "confirmed_mean", "score"]
    # as objects, or pandas would turn whole numbers into fractions where another trial has none
    board = pd.DataFrame(rows, columns=None if rows else ["trial", "state", *order, "seconds"], dtype=object)
    board = board.sort_values(order, ascending=False, na_position="last", kind="stable")
    first = board.dropna(subset="confirmed_mean")["trial"].head(2)
    predicted = [
        [[label for fold in confirmations[number, seed] for label in fold.predicted] for seed in seeds]
        for number in first
    ]
    return Outcome(board, compare(gold, predicted[0], predicted[1], metric) if len(predicted) == 2 else None)


def write_outcome(spec: SweepSpec, study: optuna.Study, outcome: Outcome) -> None:
    """Writes `leaderboard.csv`, `outcome.json` and, once a trial is complete, `best.yaml`.

    With two objectives also `front/trial-*.yaml`.
    """
    folder, front, board = spec.folder, spec.folder / "front", outcome.leaderboard
    for stale in front.glob("trial-*.yaml"):
        # of an earlier start, and perhaps no longer on the front
        stale.unlink()
    with atomic_write(folder / "leaderboard.csv") as path:
        board.to_csv(path, index=False)
    complete = board.dropna(subset="score").to_dict("records")
    experiments = dict(zip([folder / "best.yaml"], complete, strict=False))
    if spec.sweep.against:
        experiments |= {front / f"trial-{row['trial']:04d}.yaml": row for row in complete if row["on_front"]}
    for file, row in experiments.items():
        trial = _summary(row)
        seeds = confirmation_seeds(spec) if trial["confirmed"] else [row["seed"]]
        overrides = study.get_trials(deepcopy=False)[trial["trial"]].params
        comment = (
            f"Trial {trial['trial']} of the study {spec.sweep.study}: {spec.sweep.score} {trial['score']}, mean of"
            f" seeds {', '.join(map(str, seeds))}; {trial['searched']} in the search."
        )
        if spec.sweep.folds:
            comment += " `dvc repro` prints another score: it trains on one split, without folds."
        with atomic_write(file) as path:
            path.write_text(config_text(trial_params(spec, overrides, *seeds), comment), encoding="utf-8")
    write_json(folder / "outcome.json", {"trials": len(board), **outcome.winner, "p": outcome.p})


def read_outcome(folder: Path) -> dict[str, Any]:
    """The content of `outcome.json`: the winner's `trial`, `score`, `searched`, `confirmed`; `trials`, `p`."""
    file = folder / "outcome.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def protocol(spec: SweepSpec, leaderboard: pd.DataFrame) -> str:
    """How the trials were made, in a few sentences of Markdown."""
    counts = ", ".join(f"{count} {state}" for state, count in leaderboard["state"].value_counts().items()) or "none"
    usual, base = flatten(Params()), flatten(spec.space.base)
    changed = [key for key, value in base.items() if value != usual[key] and key not in spec.sweep.space]
    epoch = "best" if spec.space.base.train.restore_best_weights else "last"
    where = f"on {spec.sweep.folds} folds of train, their mean" if spec.sweep.folds else "on dev"
    return (
        f"{len(leaderboard)} trials ({counts}), {timedelta(seconds=round(leaderboard['seconds'].sum()))} in all workers"
        f" together. Each trial has a seed of its own; its score is that of its {epoch} epoch **{where}**. Test was not"
        " opened. Parameters that all trials share and that differ from the defaults:"
        f" {', '.join(f'`{key}={base[key]}`' for key in changed) or 'none'}."
    )
