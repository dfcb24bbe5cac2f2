"""The command `compare`: trains what a file of comparisons plans, logs it, and writes its page of results."""

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import pandas as pd

from bilstm_attention import paths
from bilstm_attention.config import Params
from bilstm_attention.console import JobProgress, print_table
from bilstm_attention.errors import TrainingError, UserError
from bilstm_attention.reports import comparison_page as pages
from bilstm_attention.search import results
from bilstm_attention.search.comparison import Comparison, read_page
from bilstm_attention.search.trainings import Done, TrainingRecord, completed, merge_jobs, run_trainings
from bilstm_attention.tracking.runs import log_runs


def compare(file: Path, workers: int, prepare: Callable[[Params, Path], None]) -> None:
    """Trains, logs and compares every variant of every table; the page is written with each finished table.

    Trainings of earlier runs are read, and one that several tables share is done once. The arguments are those of the
    command; `prepare` makes the data of parameters in a folder.

    Raises:
        UserError: another process compares in this project, or a training failed; records of those that ended stay.
    """
    page, comparisons = read_page(file)
    plans = [comparison.trainings() for comparison in comparisons]
    target, records = paths.RESULTS / file.stem, dict[str, TrainingRecord]()
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
                while len(done := completed(plan, records)) < len(comparison.variants):
                    job, record = next(trainings)
                    if isinstance(record, UserError):
                        raise TrainingError(f"{job.name}: {record}")
                    records[job.work] = record
                    scores = "  ".join(f"{name} {value:.2f}" for name, value in record.dev.items())
                    progress.log(f"{job.name}: dev {scores}")
                    progress.update(file.stem, len(records), len(jobs))
                table, section = _finish_table(comparison, done, target)
                tables.append(table)
                sections.append(section)
                with paths.atomic_write(target.with_name(f"{target.name}.csv")) as path:
                    pd.concat(tables, ignore_index=True).to_csv(path, index=False, float_format="%.4f")
                text = pages.comparison_page(
                    page.about,
                    f"bilstm-attention compare {file} --workers {workers}",
                    sections,
                    [each.name for each in comparisons[len(tables) :]],
                    target.name,
                    sorted({record.made_with for record in records.values()}),
                )
                with paths.atomic_write(target.with_name(f"{target.name}.md")) as path:
                    path.write_text(text, encoding="utf-8")
                for experiment, runs in results.comparison_runs(f"{comparison.page}.{comparison.name}"):
                    log_runs(experiment, runs, f"table {comparison.name}")
    for comparison, table in zip(comparisons, tables, strict=True):
        rows = pages.score_rows(table, comparison.monitor, comparison.scored_on, comparison.table.reference)
        print(f"\n{comparison.table.about.strip()}")
        print_table(rows.drop(columns=["weights added", "by seed", "ensemble"], errors="ignore").to_dict("records"))
    print(f"{target}.md: {len(comparisons)} tables; all scores are in {target.name}.csv")


def _finish_table(comparison: Comparison, done: Mapping[str, Done], target: Path) -> tuple[pd.DataFrame, str]:
    """Saves the runs of a table and draws its picture; returns its scores and its section of the page."""
    results.save_runs(comparison, done)
    content, table = comparison.table, results.tabulate(comparison, done)
    stem, issues = f"{target.name}-{comparison.name}", None
    split = "test" if content.test else comparison.scored_on
    pages.plot_variants(pages.compared_scores(table), f"{split} {comparison.monitor}", target.with_name(f"{stem}.png"))
    if content.folds is not None:
        issues = (str(table.set_index("variant")["mean"].idxmax()), f"{stem}-label_issues.csv")
        with paths.atomic_write(target.with_name(issues[1])) as path:
            results.label_issues(done[issues[0]]).to_csv(path, index=False)
    section = pages.comparison_section(
        table,
        about=content.about,
        score=comparison.monitor,
        scored_on=comparison.scored_on,
        reference=content.reference,
        picture=f"{stem}.png",
        classes=results.scores_by_class(done) if "classes" in content.show else None,
        errors=results.frequent_confusions(done[content.reference]) if "errors" in content.show else None,
        issues=issues,
    )
    table.insert(0, "table", comparison.name)
    return table, section
