"""The outcome of a sweep: the leaderboard, the confirmed winner, experiments that give its score again, MLflow runs."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from bilstm_attention import paths
from bilstm_attention.config import Params, config_text, flatten, load_params, with_overrides
from bilstm_attention.evaluation.metrics import compare, spread_over_seeds
from bilstm_attention.reports.sweep_report import shown_params
from bilstm_attention.search import study as studies
from bilstm_attention.search.study import SweepSpec, finished_trials
from bilstm_attention.search.sweep import trial_params
from bilstm_attention.search.trainings import Done, answers
from bilstm_attention.tracking.environment import input_digests
from bilstm_attention.tracking.pipeline import corpus_name
from bilstm_attention.tracking.runs import RunRecord, epoch_metrics, fingerprints, live_runs, training_metrics
from bilstm_attention.yaml_files import check

# Tags by which runs are found again.
STUDY_ID, TRIAL_ID = "sweep.id", "sweep.trial"


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


def get_outcome(spec: SweepSpec, study: optuna.Study, confirmations: Mapping[int, Done]) -> Outcome:
    """Ranks the trials: those confirmed, by number, by their means, then the rest by their scores in the search."""
    metric, against = spec.sweep.metric, spec.sweep.against
    front, rows = {trial.number for trial in studies.best_trials(study)}, []
    for trial in finished_trials(study):
        score, *costs = trial.values if trial.state == TrialState.COMPLETE else [None, None]
        row = {"trial": trial.number, "state": trial.state.name.lower(), "score": score}
        if against:
            row |= {against: costs[0], "on_front": trial.number in front}
        folds: dict[int, list[float]] = {}
        for job, record in confirmations.get(trial.number, ()):
            folds.setdefault(job.seed, []).append(record.dev[metric])
        by_seed = {seed: fmean(scores) for seed, scores in folds.items()}
        spread = spread_over_seeds(by_seed) if by_seed else {}
        row |= {
            "confirmed_mean": spread.get("mean"),
            "confirmed_sd": spread.get("sd"),
            "by_seed": ", ".join(f"{each:.2f}" for each in by_seed.values()) or None,
            "seed": trial.user_attrs.get("seed"),
            "seconds": trial.duration.total_seconds() if trial.duration else None,
            **dict.fromkeys(dimension.key for dimension in spec.space.dimensions),
            **{key: "none" if value is None else value for key, value in trial.params.items()},
            "reason": studies.failure_reason(trial),
        }
        rows.append(row)
    order = [*(["on_front"] if against else []), "confirmed_mean", "score"]
    # as objects, or pandas would turn whole numbers into fractions where another trial has none
    board = pd.DataFrame(rows, columns=None if rows else ["trial", "state", *order, "seconds"], dtype=object)
    board = board.sort_values(order, ascending=False, na_position="last", kind="stable")
    first = [answers(confirmations[number]) for number in board.dropna(subset="confirmed_mean")["trial"].head(2)]
    if len(first) < 2:
        return Outcome(board, None)
    (gold, best), (_, second) = first
    return Outcome(board, compare(gold, [*best.values()], [*second.values()], metric))


def write_outcome(spec: SweepSpec, study: optuna.Study, outcome: Outcome) -> None:
    """Writes `leaderboard.csv`, `outcome.json` and, once a trial is complete, `best.yaml`.

    With two objectives also `front/trial-*.yaml`.
    """
    folder, front, board = spec.folder, spec.folder / "front", outcome.leaderboard
    for stale in front.glob("trial-*.yaml"):
        # of an earlier start, and perhaps no longer on the front
        stale.unlink()
    with paths.atomic_write(folder / "leaderboard.csv") as path:
        board.to_csv(path, index=False)
    complete = board.dropna(subset="score").to_dict("records")
    experiments = dict(zip([folder / "best.yaml"], complete, strict=False))
    if spec.sweep.against:
        experiments |= {front / f"trial-{row['trial']:04d}.yaml": row for row in complete if row["on_front"]}
    for file, row in experiments.items():
        trial = _summary(row)
        seeds = studies.confirmation_seeds(spec) if trial["confirmed"] else [row["seed"]]
        overrides = study.get_trials(deepcopy=False)[trial["trial"]].params
        comment = (
            f"Trial {trial['trial']} of the study {spec.sweep.study}: {spec.sweep.score} {trial['score']}, mean of"
            f" seeds {', '.join(map(str, seeds))}; {trial['searched']} in the search."
        )
        if spec.sweep.folds:
            comment += " `dvc repro` prints another score: it trains on one split, without folds."
        with paths.atomic_write(file) as path:
            path.write_text(config_text(trial_params(spec, overrides, *seeds), comment), encoding="utf-8")
    paths.write_json(folder / "outcome.json", {"trials": len(board), **outcome.winner, "p": outcome.p})


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


@contextmanager
def log_sweep(study: optuna.Study, folder: Path) -> Iterator[Callable[[FrozenTrial], None]]:
    """The runs of a sweep while it lasts: a parent that shows the best score so far, with its outcome at the end.

    Yields:
        a function to call with each finished trial.
    """

    def running() -> RunRecord:
        return _parent_record(study)

    def log(*trials: FrozenTrial) -> None:
        records = [running(), *(_trial_record(study, trial) for trial in trials)]
        submit(lambda tracker: [tracker.write(record) for record in records])

    about = f"the sweep {study.study_name}"
    with live_runs(corpus_name(_base(study)), about, running, lambda: sweep_records(study, folder)) as submit:
        log()
        yield log


def sweep_runs() -> tuple[list[tuple[str, list[RunRecord]]], list[str]]:
    """The runs of all sweeps by MLflow experiment, and in words what is not there."""
    results, missing = [], []
    for folder in sorted(folder for folder in paths.STUDIES.glob("*") if folder.is_dir()):
        if not (folder / "study.db").is_file():
            missing.append(f"sweep {folder.name} is in a database; the same `sweep` command logs it")
            continue
        storage = studies.open_storage(studies.local_url(folder))
        every = [optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)]
        begun = [study for study in every if "definition" in study.user_attrs]
        results += [(corpus_name(_base(study)), sweep_records(study, folder)) for study in begun]
        if not begun:
            missing.append(f"sweep {folder.name} has not begun")
    return results, missing


def sweep_records(study: optuna.Study, folder: Path) -> list[RunRecord]:
    """The run of the sweep, with the outcome that stands in its folder, and a run for every finished trial."""
    return [_finished_parent(study, folder), *(_trial_record(study, trial) for trial in finished_trials(study))]


def _base(study: optuna.Study) -> Params:
    return check(study.user_attrs["definition"]["params"], f"study {study.study_name}", Params)


def _trial_record(study: optuna.Study, trial: FrozenTrial) -> RunRecord:
    """A finished trial, with its curves."""
    definition, attributes = study.user_attrs["definition"], trial.user_attrs
    sweep, data, result = definition["sweep"], definition["data"], trial.system_attrs.get("result", {})
    values = shown_params({key.rpartition(".")[2]: value for key, value in trial.params.items()})
    if "dev" in result:
        curves = training_metrics(result["history"], result["dev"], result["best_epoch"])
    else:
        curves = {"history": [epoch_metrics(row) for row in result.get("history", ())], "metrics": {}}
    for fold, dev in enumerate(result.get("dev_by_fold", ())):
        curves["metrics"][f"dev/{sweep['metric']}/fold_{fold}"] = dev[sweep["metric"]]
    if len(study.directions) > 1 and trial.values:
        curves["metrics"][sweep["against"]] = trial.values[1]
    # of folds, and of a study whose data has been replaced since, the digests alone are known
    splits = ("train", "dev") if data == input_digests() and "folds" not in sweep else ()
    tags = data | {"sweep": study.study_name, "state": trial.state.name.lower()}
    tags |= {key: str(value) for key, value in (sweep | attributes).items() if key in ("folds", "seed", "reason")}
    end = {TrialState.PRUNED: " pruned", TrialState.FAIL: " failed"}.get(trial.state, "")
    return RunRecord(
        name=f"trial {trial.number}{end}: {values}"[:250],
        identity=(TRIAL_ID, f"{study.user_attrs['id']}/{trial.number}"),
        parent=(STUDY_ID, study.user_attrs["id"]),
        started=trial.datetime_start.timestamp() if trial.datetime_start else None,
        params=flatten(with_overrides(_base(study), {**trial.params, "train.seeds": [attributes.get("seed", 0)]})),
        **curves,
        tags=tags,
        datasets=fingerprints({split: paths.PREPARED / f"{split}.parquet" for split in splits}),
        status="FAILED" if trial.state == TrialState.FAIL else "FINISHED",
    )


def _parent_record(study: optuna.Study) -> RunRecord:
    """The sweep while it lasts: its best dev score after each finished trial."""
    definition = study.user_attrs["definition"]
    starts = [trial.datetime_start for trial in study.get_trials(deepcopy=False) if trial.datetime_start]
    trials = sorted(finished_trials(study), key=lambda trial: (trial.datetime_complete, trial.number))
    rows, best = list[dict[str, float]](), dict[str, float]()
    for count, trial in enumerate(trials, start=1):
        if trial.state == TrialState.COMPLETE:
            score = f"dev/{definition['sweep']['metric']}"
            best = {score: max(trial.values[0], best.get(score, trial.values[0]))}
        rows.append({"epoch": count, "trials": count} | best)
    return RunRecord(
        name=f"sweep {study.study_name}",
        identity=(STUDY_ID, study.user_attrs["id"]),
        started=min(starts).timestamp() if starts else None,
        history=rows,
        tags=definition["data"] | {"sweep": study.study_name},
        status="RUNNING",
    )


def _finished_parent(study: optuna.Study, folder: Path) -> RunRecord:
    """The sweep with the winner's parameters and score, and the files of its folder."""
    record, outcome, report = _parent_record(study), read_outcome(folder), folder / "report.md"
    score = f"dev/{study.user_attrs['definition']['sweep']['metric']}"
    values = {score: outcome.get("score"), f"{score}/searched": outcome.get("searched"), "p": outcome.get("p")}
    text = report.read_text(encoding="utf-8") if report.is_file() else ""
    if (folder / "figures/figures.html").is_file():
        text = text.replace("\n## ", "\n[All figures, interactive](figures/figures.html)\n\n## ", 1)
    won = outcome.get("trial") is not None
    top = [folder / name for name in ("leaderboard.csv", "best.yaml", "report.md", "sweep.yaml")]
    return replace(
        record,
        params=flatten(load_params(folder / "best.yaml")) if won else {},
        metrics={name: value for name, value in values.items() if value is not None},
        tags={**record.tags, **({"winner": f"trial {outcome['trial']}"} if won else {})},
        artifacts={
            "": [file for file in top if file.is_file()],
            **{name: [folder / name] for name in ("figures", "front") if (folder / name).is_dir()},
        },
        # its pictures become files of the run
        description=text.replace("](figures/", "](artifact:figures/"),
        status="FINISHED",
        # after a later start another trial may have won
        replaces=True,
    )
