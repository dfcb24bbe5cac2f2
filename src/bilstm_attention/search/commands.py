"""The commands about sweeps: one runs a study until its budget is spent, and says what it found; one lists studies."""

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bilstm_attention import paths
from bilstm_attention.config import flatten, load_params
from bilstm_attention.console import SweepProgress
from bilstm_attention.errors import ParamsError, UserError
from bilstm_attention.tracking.environment import check_up_to_date


@dataclass(frozen=True)
class ExecutionOptions:
    """Who runs the trials of a sweep, and where its study is.

    Args:
        workers: at once; None: two processes of this machine, or all workers of a cluster.
        storage: address of a database; None: a journal file.
        dask: address of a Dask scheduler; None: processes of this machine.
        heartbeat: seconds between signs of life of a trial in a database.
    """

    workers: int | None = None
    storage: str | None = None
    dask: str | None = None
    heartbeat: int = 60


def sweep(file: Path, trials: int, hours: float | None, where: ExecutionOptions, overrides: Mapping[str, Any]) -> None:
    """Searches the space of a file until `trials` have ended, all starts counted, and confirms the best."""
    from rich.console import Console

    from bilstm_attention.data.dataset import load_labels, load_split
    from bilstm_attention.evaluation.metrics import metric_names
    from bilstm_attention.reports.run_page import describe_sweep
    from bilstm_attention.reports.tables import best_line, confirmation_line, leaderboard_table, trial_line
    from bilstm_attention.search import outcome
    from bilstm_attention.search import sweep as sweeping
    from bilstm_attention.search.records import log_sweep, log_trials
    from bilstm_attention.search.space import read_sweep
    from bilstm_attention.search.storage import report_outages
    from bilstm_attention.search.studies import best_so_far, counts
    from bilstm_attention.search.study import SweepSpec, best_trials, counted
    from bilstm_attention.search.trials import confirmation

    read, space = read_sweep(file, load_params(paths.PARAMS), overrides)
    if read.sampler.kind == "grid":
        trials = min(trials, len(space.grid()))
    check_up_to_date("it was prepared", "embed")
    definition = SweepSpec(read, space, paths.STUDIES / read.study, where.storage, where.heartbeat)
    labels, crew, seconds = load_labels(), _crew(where), math.inf if hours is None else 3600 * hours
    if read.metric not in metric_names(labels):
        legal = ", ".join(metric_names(labels))
        raise ParamsError(f"{file}: metric: {read.metric} is no score of this corpus's labels. Legal: {legal}.")
    with (
        report_outages(where.storage),
        sweeping.locked(definition),
        # beside the handing out of trials, so that no worker waits for it
        ThreadPoolExecutor(max_workers=1) as recorder,
        SweepProgress(read.study, read.metric, trials, seconds) as progress,
        sweeping.Stopping(progress.line) as stopping,
    ):
        pending: list[Any] = []

        def on_trial(study: Any, trial: Any) -> None:
            line = trial_line(trial, len(counted(study)), trials) if trial else ""
            progress.trial(counts(study), best_line(best_so_far(study)), line)
            if trial:
                pending.append(recorder.submit(log_trials, definition, study, [trial]))

        def on_confirmation(job: Any) -> None:
            known, left = study.user_attrs, len(sweeping.confirmations(definition, study))
            line = confirmation_line(job, known.get(confirmation(job.number, job.seed))) if job else ""
            progress.confirmation(total - left, total, line)

        study = sweeping.search(definition, trials, crew, seconds, stopping, on_trial)
        total = min(read.confirm.top, len(best_trials(study))) * read.confirm.seeds
        on_confirmation(None)
        sweeping.confirm_all(definition, study, crew, stopping, on_confirmation)
        for logged in (*pending, recorder.submit(log_trials, definition, study, counted(study))):
            logged.result()
        dev = load_split("dev", ["id", "label"])
        found = outcome.outcome(definition, study, dev["label"].tolist(), labels)
        command = _command(file, trials, where, overrides)
        artifacts = _written(definition, study, found, file, command)
        description = describe_sweep((definition.folder / "report.md").read_text(encoding="utf-8"))
        log_sweep(definition, study, found, artifacts, description)
        left = len(sweeping.confirmations(definition, study))
    parameters = [dimension.key for dimension in space.dimensions]
    Console().print(leaderboard_table(found.leaderboard, parameters, read.against))
    if len(found.leaderboard) < trials:
        print(f"{len(found.leaderboard)} of {trials} trials have ended; the same command goes on.")
    elif left:
        print(f"{left} trainings of the confirmation are missing; the same command goes on.")
    if found.finalists:
        _say_winner(definition, found)


def _say_winner(definition: Any, found: Any) -> None:
    best, p = found.finalists[0], "" if found.p is None else f", p {found.p:.3f} against the second"
    confirmed = f"{best.score:.2f} on fresh seeds{p}" if best.confirmed else "not confirmed, and so too high"
    print(f"trial {best.number}: {best.searched:.2f} in the search, {confirmed}")
    again = f"bilstm-attention apply {definition.folder}/best.yaml && dvc repro"
    print(f"{again} gives dev {definition.sweep.metric} {best.score:.2f}")


def list_sweeps(storage: str | None) -> None:
    """Prints the studies of the project, or of a database."""
    from rich.console import Console

    from bilstm_attention.reports.tables import studies_table
    from bilstm_attention.search.storage import open_database
    from bilstm_attention.search.studies import list_studies, studies_of

    studies = studies_of(open_database(storage), paths.STUDIES) if storage else list_studies(paths.STUDIES)
    if studies:
        Console().print(studies_table(studies))
    else:
        print(f"{paths.STUDIES}: no studies yet; `bilstm-attention sweep experiments/sweeps/smoke.yaml` begins one.")


def _crew(where: ExecutionOptions) -> Any:
    from bilstm_attention.search.sweep import local_executor

    if where.dask is None:
        return local_executor(where.workers or 2)
    if where.storage is None:
        raise UserError("--dask: workers on other machines cannot reach a journal file; add --storage postgresql://...")
    from bilstm_attention.data.dataset import load_dataset
    from bilstm_attention.search.cluster import dask_executor

    return dask_executor(where.dask, where.workers, load_dataset())


def _written(definition: Any, study: Any, found: Any, file: Path, command: str) -> dict[str, list[Path]]:
    """Writes the outcome to the folder of the study; returns the files by their folder in MLflow."""
    from bilstm_attention.reports.study_figures import importances, write_figures
    from bilstm_attention.reports.sweep_report import sweep_report
    from bilstm_attention.search.outcome import write_outcome
    from bilstm_attention.tracking.environment import made_with

    metrics = definition.sweep.objectives
    files, figures = write_outcome(definition, found), write_figures(study, metrics, definition.folder / "figures")
    shares = importances(study, metrics)
    pictures = [f"figures/{figure.name}" for figure in figures if figure.suffix == ".png"]
    report = sweep_report(definition, study, found, shares, pictures, command, made_with())
    texts = {"report.md": report, "sweep.yaml": file.read_text(encoding="utf-8")}
    for name, text in texts.items():
        with paths.atomic_write(definition.folder / name) as path:
            path.write_text(text, encoding="utf-8")
    top = [*(file for file in files if file.parent == definition.folder), *(definition.folder / name for name in texts)]
    front = [file for file in files if file.parent != definition.folder]
    return {"": top, "figures": figures, "front": front}


def _command(file: Path, trials: int, where: ExecutionOptions, overrides: Mapping[str, Any]) -> str:
    """What runs the sweep, without what only this place knows: addresses, which may hold a password."""
    root = paths.project_root()
    words = ["bilstm-attention sweep", str(file.relative_to(root) if file.is_relative_to(root) else file.name)]
    words += [f"--trials {trials}", *([f"--workers {where.workers}"] if where.workers else [])]
    words += ["--storage URL"] * bool(where.storage) + ["--dask ADDRESS"] * bool(where.dask)
    return " ".join([*words, *(f"-S {key}={value}" for key, value in flatten(dict(overrides)).items())])
