"""The commands `sweep`, which runs a study and confirms its best trials, and `sweeps`, which lists studies."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial

from bilstm_attention import paths
from bilstm_attention.config import Params, flatten, load_params
from bilstm_attention.console import JobProgress, print_table
from bilstm_attention.data.dataset import load_labels
from bilstm_attention.errors import ParamsError, UserError
from bilstm_attention.evaluation.metrics import metric_names
from bilstm_attention.reports.sweep_report import (
    fresh_seed_rows,
    leaderboard_rows,
    shown_params,
    sweep_report,
    winner_line,
)
from bilstm_attention.search.outcome import Outcome, get_outcome, log_sweep, protocol, read_outcome, write_outcome
from bilstm_attention.search.space import read_sweep
from bilstm_attention.search.study import (
    SweepSpec,
    begin_study,
    best_trials,
    confirmation_seeds,
    failure_reason,
    finished_trials,
    local_url,
    open_storage,
    report_outages,
    state_counts,
)
from bilstm_attention.search.sweep import Driver, StopRequest, out_of_patience, trial_params
from bilstm_attention.search.trainings import (
    Done,
    TrainingJob,
    TrainingRecord,
    completed,
    fold_data,
    merge_jobs,
    run_trainings,
)
from bilstm_attention.tracking.environment import check_up_to_date, input_digests, made_with


def sweep(
    file: Path,
    trials: int,
    hours: float | None,
    workers: int,
    storage: str | None,
    heartbeat: int,
    overrides: Mapping[str, Any],
    prepare: Callable[[Params, Path], None],
) -> None:
    """Searches the space of a file until `trials` have finished, all starts counted, and confirms the best.

    The arguments are those of the command; `prepare` makes the data of parameters in a folder.

    Raises:
        UserError: the file, the data or the storage is not as it must be.
    """
    content, space = read_sweep(file, load_params(paths.PARAMS), overrides)
    if content.sampler.kind == "grid":
        trials = min(trials, len(space.grid()))
    check_up_to_date("it was prepared", "embed")
    legal = metric_names(load_labels())
    if content.metric not in legal:
        raise ParamsError(
            f"{file}: metric: {content.metric} is not available for this label set. Legal: {', '.join(legal)}."
        )
    folds = fold_data(space.base, content.folds, input_digests()) if content.folds else {}
    folder, roots = paths.STUDIES / content.study, tuple(folds) or (paths.PROJECT,)
    spec = SweepSpec(content, space, folder, storage, heartbeat, roots)
    seconds = math.inf if hours is None else 3600 * hours
    with spec.lock(), report_outages(spec), ExitStack() as runs, JobProgress() as progress:
        for number, (root, params) in enumerate(folds.items(), start=1):
            # the last file that is written
            if not (root / paths.EMBEDDINGS / "coverage.json").is_file():
                prepare(params, root)
            progress.update("folds", number, len(folds))
        limit = "" if hours is None else f", new ones for {hours:g} h"
        with StopRequest(progress.log) as stop:
            study = begin_study(spec)
            # ends after the bars, since it may wait for the store
            log_trial = runs.enter_context(log_sweep(study, spec.folder))

            def show_progress() -> None:
                counts = state_counts(study)
                others = "".join(f", {counts[state]} {state}" for state in ("pruned", "failed") if counts[state])
                note = f"best {best_line(best_trials(study))}{others}{limit}"
                progress.update("trials", len(finished_trials(study)), trials, note)

            def on_trial(trial: FrozenTrial) -> None:
                show_progress()
                progress.log(trial_line(trial, len(finished_trials(study)), trials))
                log_trial(trial)

            show_progress()
            Driver(spec, study, trials, workers, seconds, stop, on_trial).run()
            outcome = get_outcome(spec, study, _confirm(spec, study, workers, stop, progress))
            _write(spec, study, outcome, file, shown_command(file, trials, workers, storage, overrides))
    _print_outcome(spec, study, outcome, trials)


def _confirm(
    spec: SweepSpec, study: optuna.Study, workers: int, stop: StopRequest, progress: JobProgress
) -> dict[int, Done]:
    """Trains the parameters of the best trials on fresh seeds, or reads the records of earlier starts."""
    plan = [
        (trial.number, TrainingJob(name + f", fold {fold}" * bool(spec.sweep.folds), params, seed, root))
        for trial in best_trials(study)[: spec.sweep.confirm.top]
        for seed in confirmation_seeds(spec)
        for name, params in [(f"trial {trial.number} with seed {seed}", trial_params(spec, trial.params, seed))]
        for fold, root in enumerate(spec.roots)
    ]
    # trials with the same parameters share a training
    jobs, records = merge_jobs(job for _, job in plan), dict[str, TrainingRecord]()
    if not jobs:
        return {}
    progress.update("confirmations", 0, len(jobs))
    for job, record in run_trainings(jobs, workers, lambda: stop.requested):
        if isinstance(record, UserError):
            progress.log(f"{job.name} failed: {record}")
        else:
            records[job.work] = record
            progress.log(f"{job.name}: dev {spec.sweep.metric} {record.dev[spec.sweep.metric]:.2f}")
        progress.update("confirmations", len(records), len(jobs))
    return completed(plan, records)


def trial_line(trial: FrozenTrial, finished: int, budget: int) -> str:
    """A finished trial in one line."""
    state, reason = trial.state.name.lower(), failure_reason(trial)
    outcome = f"{state} {_scores(trial)}" if state == "complete" else f"{state} ({reason})" if reason else state
    return f"{finished}/{budget}  trial {trial.number} {outcome}  {shown_params(trial.params)}"


def best_line(best: Sequence[FrozenTrial]) -> str:
    """The best trial so far; with two objectives, how many trials are on the Pareto front."""
    if not best:
        return "none yet"
    if len(best[0].values) > 1:
        return f"{len(best)} on the Pareto front"
    return f"{_scores(best[0])}, trial {best[0].number}"


def _scores(trial: FrozenTrial) -> str:
    score, *costs = trial.values
    return ", ".join([f"{score:.2f}", *(f"{cost:,.2f}".removesuffix(".00") for cost in costs)])


def _write(spec: SweepSpec, study: optuna.Study, outcome: Outcome, file: Path, command: str) -> None:
    """Writes the outcome, the figures and the report to the folder of the study."""
    from bilstm_attention.reports.study_figures import write_figures

    write_outcome(spec, study, outcome)
    figures, importances = write_figures(spec.sweep.study, study.trials, spec.sweep.objectives, spec.folder / "figures")
    board, definition = outcome.leaderboard, file.read_text(encoding="utf-8")
    tables = {
        "Best trials": leaderboard_rows(board, list(spec.sweep.space), spec.sweep.against),
        "On fresh seeds": fresh_seed_rows(board),
        "Importances, shares of what sets the best trials apart (PED-ANOVA)": pd.DataFrame(
            importances.items(), columns=["parameter", "share"]
        ),
    }
    report = sweep_report(
        spec.sweep.study,
        winner_line(spec.sweep.score, board, outcome.p),
        tables,
        [f"figures/{figure.name}" for figure in figures if figure.suffix == ".png"],
        f"{protocol(spec, board)}\n\n```sh\n{command}\n```\n\n```yaml\n{definition}```\n\nMade with {made_with()}.",
    )
    for name, text in {"report.md": report, "sweep.yaml": definition}.items():
        with paths.atomic_write(spec.folder / name) as path:
            path.write_text(text, encoding="utf-8")


def _print_outcome(spec: SweepSpec, study: optuna.Study, outcome: Outcome, trials: int) -> None:
    parameters = [dimension.key for dimension in spec.space.dimensions]
    rows = leaderboard_rows(outcome.leaderboard, parameters, spec.sweep.against)
    if len(rows):
        print(f"best trials, {'the Pareto front first, ' if spec.sweep.against else ''}{spec.sweep.score} in percent")
        values = [shown_params({key: row[key] for key in parameters if row[key]}) for row in rows.to_dict("records")]
        # a second objective of this name has a column too
        shown = rows.drop(columns=parameters).rename(columns={"parameters": "weights"}).assign(parameters=values)
        print_table(shown.to_dict("records"))
    if len(outcome.leaderboard) < trials and not out_of_patience(spec, study):
        print(f"{len(outcome.leaderboard)} of {trials} trials have finished; the same command goes on.")
    print(winner_line(spec.sweep.score, outcome.leaderboard, outcome.p).replace("**", ""))
    print(f"{spec.folder}/report.md has all tables, {spec.folder}/figures/figures.html the figures.")
    if outcome.winner:
        apply = f"bilstm-attention apply {spec.folder}/best.yaml && dvc repro"
        gives = f"gives {spec.sweep.score} {outcome.winner['score']:.2f}"
        print(f"{apply} {'trains it on one split, without folds' if spec.sweep.folds else gives}")


def list_sweeps(storage: str | None) -> None:
    """Prints the studies of the project, or of a database."""
    if storage:
        rows = _study_rows(open_storage(storage))
    else:
        files = sorted(paths.STUDIES.glob("*/study.db"))
        rows = [row for file in files for row in _study_rows(open_storage(local_url(file.parent)))]
    if rows:
        print_table(rows)
    else:
        print(f"{paths.STUDIES}: no studies yet; `bilstm-attention sweep experiments/sweeps/smoke.yaml` begins one.")


def _study_rows(storage: Any) -> list[dict[str, str]]:
    rows = []
    for summary in optuna.get_all_study_summaries(storage, include_best_trial=False):
        study = optuna.load_study(study_name=summary.study_name, storage=storage)
        counts = [f"{count} {state}" for state, count in state_counts(study).items() if count]
        winner = read_outcome(paths.STUDIES / summary.study_name)
        best = f"{best_line(best_trials(study))} in the search"
        if "trial" in winner:
            note = "" if winner["confirmed"] else "\nnot confirmed"
            best += f"\nbest.yaml: trial {winner['trial']}, {winner['score']:.2f}{note}"
        rows.append(
            {
                "study": summary.study_name,
                "trials": "\n".join(counts) or "none",
                "best": best,
                "started": f"{summary.datetime_start:%Y-%m-%d %H:%M}" if summary.datetime_start else "",
            }
        )
    return rows


def shown_command(file: Path, trials: int, workers: int, storage: str | None, overrides: Mapping[str, Any]) -> str:
    """The command that ran the sweep, without the address of a database, which may hold a password."""
    root = paths.project_root()
    words = ["bilstm-attention sweep", str(file.relative_to(root) if file.is_relative_to(root) else file.name)]
    words += [f"--trials {trials}", f"--workers {workers}"]
    words += ["--storage URL"] * bool(storage)
    return " ".join([*words, *(f"-S {key}={value}" for key, value in flatten(dict(overrides)).items())])
