"""The command `compare`: trains what a file of comparisons plans, logs it, and writes its page of results."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from bilstm_attention import paths
from bilstm_attention.config import Params
from bilstm_attention.console import start_tensorflow
from bilstm_attention.errors import ParamsError, UserError
from bilstm_attention.search.comparison import Comparison, PlannedTraining, read_page
from bilstm_attention.search.trainings import TrainingJob, TrainingRecord, merge_jobs, run_trainings

Records = Mapping[str, TrainingRecord]  # by `TrainingJob.work`
Prepare = Callable[[Params, Path], None]


def compare(file: Path, workers: int, prepare: Prepare) -> None:
    """Trains, logs and compares every variant of every table; the page is written with each finished table.

    Trainings of earlier runs are read, and one that several tables share is done once.

    Args:
        file: of `experiments/comparisons`.
        workers: trainings at once.
        prepare: makes the data of parameters in a folder.

    Raises:
        UserError: another process compares in this project.
    """
    busy = UserError(f"{paths.TRAININGS}: another `compare` is running, and may train the same; wait, or end it.")
    with paths.file_lock(paths.TRAININGS, busy):
        _compare(file, workers, prepare)


def _compare(file: Path, workers: int, prepare: Prepare) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from bilstm_attention.search.comparison_runs import table_runs, write_table
    from bilstm_attention.tracking.runs import log_runs

    start_tensorflow()
    page, comparisons = read_page(file)
    plans = [comparison.trainings() for comparison in comparisons]
    for root, params in {planned.job.root: planned.job.params for plan in plans for planned in plan}.items():
        prepare(params, root)
    _check_scores(comparisons, plans)
    jobs = merge_jobs(planned.job for plan in plans for planned in plan)
    target, records, written = paths.RESULTS / file.stem, dict[str, TrainingRecord](), 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(file.stem, total=len(jobs))

        def on_done(job: TrainingJob, record: TrainingRecord) -> None:
            nonlocal written
            records[job.work] = record
            scores = "  ".join(f"{name} {value:.2f}" for name, value in record.dev.items())
            progress.console.print(f"{job.name}: dev {scores}", soft_wrap=True)
            progress.advance(task)
            # tables stand on the page in the order of the file
            ready = next((at for at, plan in enumerate(plans) if not _is_done(plan, records)), len(plans))
            if ready > written:
                for comparison, plan in zip(comparisons[written:ready], plans[written:ready], strict=True):
                    for experiment, runs in table_runs(write_table(comparison, plan, records)):
                        log_runs(experiment, runs, f"table {comparison.name}")
                written = ready
                command = f"bilstm-attention compare {file} --workers {workers}"
                _write_page(target, page.about, command, comparisons, plans[:ready], records)

        run_trainings(jobs, workers, on_done)
    print(f"{target}.md: {len(comparisons)} tables; all scores are in {target.name}.csv")


def _is_done(plan: Sequence[PlannedTraining], records: Records) -> bool:
    return all(planned.job.work in records for planned in plan)


def _check_scores(comparisons: Sequence[Comparison], plans: Sequence[Sequence[PlannedTraining]]) -> None:
    """Checks that each corpus has the score that compares its variants."""
    from bilstm_attention.data.dataset import load_labels
    from bilstm_attention.evaluation.metrics import metric_names

    for comparison, plan in zip(comparisons, plans, strict=True):
        legal = metric_names(load_labels(plan[0].job.root))
        if comparison.monitor not in legal:
            raise ParamsError(
                f"{comparison.name}: train.monitor: {comparison.monitor} is not available for this label set."
                f" Legal: {', '.join(legal)}."
            )


def _write_page(
    target: Path,
    title: str,
    command: str,
    comparisons: Sequence[Comparison],
    plans: Sequence[Sequence[PlannedTraining]],
    records: Records,
) -> None:
    """Page, csv of all numbers, and pictures of the first comparisons, whose trainings are all there."""
    from bilstm_attention.reports.comparison_page import comparison_page

    tables, sections = [], []
    for comparison, plan in zip(comparisons, plans, strict=False):
        table, section = _compared(comparison, plan, records, target)
        tables.append(table)
        sections.append(section)
    with paths.atomic_write(target.with_name(f"{target.name}.csv")) as path:
        pd.concat(tables, ignore_index=True).to_csv(path, index=False, float_format="%.4f")
    made_with = sorted({records[planned.job.work].made_with for plan in plans for planned in plan})
    missing = [comparison.name for comparison in comparisons[len(plans) :]]
    with paths.atomic_write(target.with_name(f"{target.name}.md")) as path:
        path.write_text(comparison_page(title, command, sections, missing, target.name, made_with), encoding="utf-8")


def _compared(
    comparison: Comparison, plan: Sequence[PlannedTraining], records: Records, target: Path
) -> tuple[pd.DataFrame, str]:
    """The table of scores, and its section of the page; draws its picture."""
    from bilstm_attention.reports.comparison_page import compared_scores, comparison_section, plot_variants
    from bilstm_attention.search.results import collect_answers, frequent_confusions, scores_by_class, tabulate

    content = comparison.table
    answers = {
        name: collect_answers([(each, records[each.job.work]) for each in plan if each.variant == name])
        for name in comparison.variants
    }
    table = tabulate(comparison, answers)
    picture = target.with_name(f"{target.name}-{comparison.name}.png")
    split = "test" if content.test else comparison.scored_on
    plot_variants(compared_scores(table), f"{split} {comparison.monitor}", picture)
    section = comparison_section(
        table,
        about=content.about,
        score=comparison.monitor,
        scored_on=comparison.scored_on,
        reference=content.reference,
        picture=picture.name,
        classes=scores_by_class(answers) if "classes" in content.show else None,
        errors=frequent_confusions(answers[content.reference].done) if "errors" in content.show else None,
    )
    return table.assign(table=comparison.name)[["table", *table.columns]], section
