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
from bilstm_attention.reports import sweep_report as reports
from bilstm_attention.search import outcome as outcomes
from bilstm_attention.search import study as studies
from bilstm_attention.search import trainings
from bilstm_attention.search.space import read_sweep
from bilstm_attention.search.study import SweepSpec, best_trials, finished_trials, state_counts
from bilstm_attention.search.sweep import Driver, StopRequest, out_of_patience, trial_params
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
    folds = trainings.fold_data(space.base, content.folds, input_digests()) if content.folds else {}
    folder, roots = paths.STUDIES / content.study, tuple(folds) or (paths.PROJECT,)
    spec = SweepSpec(content, space, folder, storage, heartbeat, roots)
    seconds, limit = (math.inf, "") if hours is None else (3600 * hours, f", new ones for {hours:g} h")
    with spec.lock(), studies.report_outages(spec), ExitStack() as runs, JobProgress() as progress:
        for number, (root, params) in enumerate(folds.items(), start=1):
            # the last file that is written
            if not (root / paths.EMBEDDINGS / "coverage.json").is_file():
                prepare(params, root)
            progress.update("folds", number, len(folds))
        with StopRequest(progress.log) as stop:
            study = studies.begin_study(spec)
            # ends after the bars, since it may wait for the store
            log_trial = runs.enter_context(outcomes.log_sweep(study, folder))

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
            outcome = outcomes.get_outcome(spec, study, _confirm(spec, study, workers, stop, progress))
            outcomes.write_outcome(spec, study, outcome)
            _write_report(spec, study, outcome, file, shown_command(file, trials, workers, storage, overrides))
    _print_outcome(spec, study, outcome, trials)


def _confirm(
    spec: SweepSpec, study: optuna.Study, workers: int, stop: StopRequest, progress: JobProgress
) -> dict[int, trainings.Done]:
    """Trains the parameters of the best trials on fresh seeds, or reads the records of earlier starts."""
    plan = [
        (trial.number, trainings.TrainingJob(name + f", fold {fold}" * bool(spec.sweep.folds), params, seed, root))
        for trial in best_trials(study)[: spec.sweep.confirm.top]
        for seed in studies.confirmation_seeds(spec)
        for name, params in [(f"trial {trial.number} with seed {seed}", trial_params(spec, trial.params, seed))]
        for fold, root in enumerate(spec.roots)
    ]
    # trials with the same parameters share a training
    jobs, records = trainings.merge_jobs(job for _, job in plan), dict[str, trainings.TrainingRecord]()
    if not jobs:
        return {}
    progress.update("confirmations", 0, len(jobs))
    for job, record in trainings.run_trainings(jobs, workers, lambda: stop.requested):
        if isinstance(record, UserError):
            progress.log(f"{job.name} failed: {record}")
        else:
            records[job.work] = record
            progress.log(f"{job.name}: dev {spec.sweep.metric} {record.dev[spec.sweep.metric]:.2f}")
        progress.update("confirmations", len(records), len(jobs))
    return trainings.completed(plan, records)


def trial_line(trial: FrozenTrial, finished: int, budget: int) -> str:
    """A finished trial in one line."""
    state, reason = trial.state.name.lower(), studies.failure_reason(trial)
    outcome = f"{state} {_scores(trial)}" if state == "complete" else f"{state} ({reason})" if reason else state
    return f"{finished}/{budget}  trial {trial.number} {outcome}  {reports.shown_params(trial.params)}"


def best_line(best: Sequence[FrozenTrial]) -> str:
    """The best trial so far; with two objectives, how many trials are on the Pareto front."""
    if not best:
        return "none yet"
    several = len(best[0].values) > 1
    return f"{len(best)} on the Pareto front" if several else f"{_scores(best[0])}, trial {best[0].number}"


def _scores(trial: FrozenTrial) -> str:
    score, *costs = trial.values
    return ", ".join([f"{score:.2f}", *(f"{cost:,.2f}".removesuffix(".00") for cost in costs)])


def shown_command(file: Path, trials: int, workers: int, storage: str | None, overrides: Mapping[str, Any]) -> str:
    """The command that ran the sweep, without the address of a database, which may hold a password."""
    root = paths.project_root()
    shown = file.relative_to(root) if file.is_relative_to(root) else file.name
    words = [
        f"bilstm-attention sweep {shown} --trials {trials} --workers {workers}",
        *["--storage URL"] * bool(storage),
    ]
    return " ".join([*words, *(f"-S {key}={value}" for key, value in flatten(dict(overrides)).items())])


def _write_report(spec: SweepSpec, study: optuna.Study, outcome: outcomes.Outcome, file: Path, command: str) -> None:
    from bilstm_attention.reports.study_figures import write_figures

    figures, importances = write_figures(spec.sweep.study, study.trials, spec.sweep.objectives, spec.folder / "figures")
    board, definition = outcome.leaderboard, file.read_text(encoding="utf-8")
    tables = {
        "Best trials": reports.leaderboard_rows(board, list(spec.sweep.space), spec.sweep.against),
        "On fresh seeds": reports.fresh_seed_rows(board),
        "Importances, shares of what sets the best trials apart (PED-ANOVA)": pd.DataFrame(
            importances.items(), columns=["parameter", "share"]
        ),
    }
    protocol = outcomes.protocol(spec, board)
    report = reports.sweep_report(
        spec.sweep.study,
        reports.winner_line(spec.sweep.score, board, outcome.p),
        tables,
        [f"figures/{figure.name}" for figure in figures if figure.suffix == ".png"],
        f"{protocol}\n\n```sh\n{command}\n```\n\n```yaml\n{definition}```\n\nMade with {made_with()}.",
    )
    for name, text in {"report.md": report, "sweep.yaml": definition}.items():
        with paths.atomic_write(spec.folder / name) as path:
            path.write_text(text, encoding="utf-8")


def _print_outcome(spec: SweepSpec, study: optuna.Study, outcome: outcomes.Outcome, trials: int) -> None:
    board, keys = outcome.leaderboard, [dimension.key for dimension in spec.space.dimensions]
    rows = reports.leaderboard_rows(board, keys, spec.sweep.against)
    if len(rows):
        print(f"best trials, {'the Pareto front first, ' if spec.sweep.against else ''}{spec.sweep.score} in percent")
        values = [reports.shown_params({key: row[key] for key in keys if row[key]}) for row in rows.to_dict("records")]
        # a second objective of this name has a column too
        shown = rows.drop(columns=keys).rename(columns={"parameters": "weights"}).assign(parameters=values)
        print_table(shown.to_dict("records"))
    if len(board) < trials and not out_of_patience(spec, study):
        print(f"{len(board)} of {trials} trials have finished; the same command goes on.")
    print(reports.winner_line(spec.sweep.score, board, outcome.p).replace("**", ""))
    print(f"{spec.folder}/report.md has all tables, {spec.folder}/figures/figures.html the figures.")
    if outcome.winner:
        gives = f"gives {spec.sweep.score} {outcome.winner['score']:.2f}"
        then = "trains it on one split, without folds" if spec.sweep.folds else gives
        print(f"bilstm-attention apply {spec.folder}/best.yaml && dvc repro {then}")


def list_sweeps(storage: str | None) -> None:
    """Prints the studies of the project, or of a database."""
    folders = sorted(file.parent for file in paths.STUDIES.glob("*/study.db"))
    urls = [storage] if storage else map(studies.local_url, folders)
    if rows := [row for url in urls for row in _study_rows(studies.open_storage(url))]:
        print_table(rows)
    else:
        print(f"{paths.STUDIES}: no studies yet; `bilstm-attention sweep experiments/sweeps/smoke.yaml` begins one.")


def _study_rows(storage: Any) -> list[dict[str, str]]:
    rows = []
    for summary in optuna.get_all_study_summaries(storage, include_best_trial=False):
        study = optuna.load_study(study_name=summary.study_name, storage=storage)
        winner = outcomes.read_outcome(paths.STUDIES / summary.study_name)
        best = f"{best_line(best_trials(study))} in the search"
        if "trial" in winner:
            note = "" if winner["confirmed"] else "\nnot confirmed"
            best += f"\nbest.yaml: trial {winner['trial']}, {winner['score']:.2f}{note}"
        rows.append(
            {
                "study": summary.study_name,
                "trials": "\n".join(f"{count} {state}" for state, count in state_counts(study).items() if count)
                or "none",
                "best": best,
                "started": f"{summary.datetime_start:%Y-%m-%d %H:%M}" if summary.datetime_start else "",
            }
        )
    return rows
