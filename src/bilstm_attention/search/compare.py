"""The command `compare`: trains what a file of comparisons plans, logs it, and writes its page of results."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import pandas as pd

from bilstm_attention import paths
from bilstm_attention.config import Params
from bilstm_attention.console import JobProgress, print_table, start_tensorflow
from bilstm_attention.errors import UserError
from bilstm_attention.reports.comparison_page import (
    compared_scores,
    comparison_page,
    comparison_section,
    plot_variants,
    score_rows,
)
from bilstm_attention.search.comparison import Comparison, read_page
from bilstm_attention.search.results import (
    comparison_runs,
    frequent_confusions,
    label_issues,
    save_runs,
    scores_by_class,
    tabulate,
)
from bilstm_attention.search.trainings import TrainingJob, TrainingRecord, merge_jobs, run_trainings
from bilstm_attention.tracking.runs import log_runs


def compare(file: Path, workers: int, prepare: Callable[[Params, Path], None]) -> None:
    """Trains, logs and compares every variant of every table; the page is written with each finished table.

    Trainings of earlier runs are read, and one that several tables share is done once. The arguments are those of the
    command; `prepare` makes the data of parameters in a folder.

    Raises:
        UserError: another process compares in this project.
    """
    page, comparisons = read_page(file)
    start_tensorflow()
    plans = [comparison.trainings() for comparison in comparisons]
    target, records = paths.RESULTS / file.stem, dict[str, TrainingRecord]()
    command = f"bilstm-attention compare {file} --workers {workers}"
    tables, sections = list[pd.DataFrame](), list[str]()
    busy = UserError(f"{paths.TRAININGS}: another `compare` is running, and may train the same; wait, or end it.")
    with paths.file_lock(paths.TRAININGS, busy):
        for root, params in {job.root: job.params for plan in plans for _, job in plan}.items():
            prepare(params, root)
        jobs = merge_jobs(job for plan in plans for _, job in plan)
        # closed, since an error or Ctrl-C in the loop would else wait for the trainings that run
        with JobProgress() as progress, closing(run_trainings(jobs, workers)) as trainings:
            # tables stand on the page in the order of the file
            for comparison, plan in zip(comparisons, plans, strict=True):
                while not all(job.work in records for _, job in plan):
                    job, record = next(trainings)
                    records[job.work] = record
                    scores = "  ".join(f"{name} {value:.2f}" for name, value in record.dev.items())
                    progress.log(f"{job.name}: dev {scores}")
                    progress.update(file.stem, len(records), len(jobs))
                table, section = _finish_table(comparison, plan, records, target)
                tables.append(table)
                sections.append(section)
                with paths.atomic_write(target.with_name(f"{target.name}.csv")) as path:
                    pd.concat(tables, ignore_index=True).to_csv(path, index=False, float_format="%.4f")
                missing = [each.name for each in comparisons[len(tables) :]]
                made_with = sorted({record.made_with for record in records.values()})
                text = comparison_page(page.about, command, sections, missing, target.name, made_with)
                with paths.atomic_write(target.with_name(f"{target.name}.md")) as path:
                    path.write_text(text, encoding="utf-8")
                for experiment, runs in comparison_runs(f"{comparison.page}.{comparison.name}"):
                    log_runs(experiment, runs, f"table {comparison.name}")
    for comparison, table in zip(comparisons, tables, strict=True):
        rows = score_rows(table, comparison.monitor, comparison.scored_on, comparison.table.reference)
        print(f"\n{comparison.table.about.strip()}")
        print_table(rows.drop(columns=["weights added", "by seed", "ensemble"], errors="ignore").to_dict("records"))
    print(f"{target}.md: {len(comparisons)} tables; all scores are in {target.name}.csv")


def _finish_table(
    comparison: Comparison, plan: Sequence[tuple[str, TrainingJob]], records: Mapping[str, TrainingRecord], target: Path
) -> tuple[pd.DataFrame, str]:
    """Saves the runs of a table and draws its picture; returns its scores and its section of the page."""
    done = {
        name: [(job, records[job.work]) for variant, job in plan if variant == name] for name in comparison.variants
    }
    save_runs(comparison, done)
    content, table = comparison.table, tabulate(comparison, done)
    picture = target.with_name(f"{target.name}-{comparison.name}.png")
    split = "test" if content.test else comparison.scored_on
    plot_variants(compared_scores(table), f"{split} {comparison.monitor}", picture)
    issues, best = None, str(table.set_index("variant")["mean"].idxmax())
    if content.folds is not None:
        issues = target.with_name(f"{target.name}-{comparison.name}-label_issues.csv")
        with paths.atomic_write(issues) as path:
            label_issues(done[best]).to_csv(path, index=False)
    section = comparison_section(
        table,
        about=content.about,
        score=comparison.monitor,
        scored_on=comparison.scored_on,
        reference=content.reference,
        picture=picture.name,
        classes=scores_by_class(done) if "classes" in content.show else None,
        errors=frequent_confusions(done[content.reference]) if "errors" in content.show else None,
        issues=(best, issues.name) if issues else None,
    )
    table.insert(0, "table", comparison.name)
    return table, section
