"""The command that compares: trains what a file of comparisons plans, and writes what it amounts to."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from bilstm_attention import paths, stages
from bilstm_attention.console import start_tensorflow
from bilstm_attention.errors import ParamsError, TrainingError, UserError


def compare(file: Path, workers: int) -> None:
    """Trains, records and compares every variant of every table of a file; the page is written anew with each table.

    Data of every kind are prepared first, at every start, in a few seconds each. Trainings that are there are read, and
    one that several tables want is made once.

    Args:
        file: of `experiments/comparisons`.
        workers: trainings at once.

    Raises:
        UserError: another process compares in this project.
    """
    taken = UserError(f"{paths.TRAININGS}: another `compare` is at work, and may train the same; wait, or end it.")
    with paths.file_lock(paths.TRAININGS, taken):
        _compare(file, workers)


def _compare(file: Path, workers: int) -> None:
    start_tensorflow()
    from bilstm_attention.search.comparison import read_page, trainings

    read, comparisons = read_page(file)
    faithfulness = any("faithfulness" in comparison.table.show for comparison in comparisons)
    plans = [trainings(comparison, paths.TRAININGS / "data", faithfulness) for comparison in comparisons]
    _prepare_data([training for planned in plans for training in planned])
    _check_scores(comparisons, plans)
    command = f"bilstm-attention compare {file} --workers {workers}"
    done, complete = dict[str, dict[str, Any]](), 0
    for training, found in _train(plans, workers, file.stem):
        done[training.work] = found
        # tables stand on the page in the order of the file
        ready = len([*takewhile(lambda planned: all(each.work in done for each in planned), plans)])
        if ready > complete:
            complete = ready
            _write_page(paths.RESULTS / file.stem, read.about, command, comparisons, plans[:complete], done)


def _prepare_data(planned: Sequence[Any]) -> None:
    """Splits and vectors of all trainings, each kind once."""
    for root, params in {training.root: training.params for training in planned}.items():
        stages.prepare(params=params, root=root)
        stages.embed(params=params, root=root)


def _check_scores(comparisons: Sequence[Any], plans: Sequence[Sequence[Any]]) -> None:
    """Whether the corpora have the scores by which variants are to be judged.

    Raises:
        ParamsError: one has not.
    """
    from bilstm_attention.data.dataset import load_labels
    from bilstm_attention.evaluation.metrics import metric_names

    for comparison, planned in zip(comparisons, plans, strict=True):
        legal = metric_names(load_labels(planned[0].root))
        if comparison.monitor not in legal:
            named = f"{comparison.name}: train.monitor: {comparison.monitor} is no score of this corpus's labels"
            raise ParamsError(f"{named}. Legal: {', '.join(legal)}.")


def _train(plans: Sequence[Sequence[Any]], workers: int, name: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Each training that any table wants, once, as it is done; what it gave has the id of its run with it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from bilstm_attention.search.contenders import record

    wanted: dict[str, Any] = {}
    for training in (training for planned in plans for training in planned):
        wanted.setdefault(training.work, training)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(name, total=len(wanted))
        for training, found in _train_all(list(wanted.values()), workers):
            scores = "  ".join(f"{score} {value:.2f}" for score, value in found["dev"].items())
            progress.console.print(f"{training.table}, {training.name}: {scores}", soft_wrap=True)
            progress.advance(task)
            yield training, found | {"run": record(training, found) or ""}


def _train_all(planned: Sequence[Any], workers: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    from bilstm_attention.search.workers import WorkerCrashed, run_jobs

    waiting = iter(planned)
    for training, found in run_jobs(lambda: next(waiting, None), _train_one, workers):
        if isinstance(found, WorkerCrashed):
            died = f"{training.name}: its process died with code {found.exit_code}; the same command goes on"
            # a fault of the program, with code 1, stands above
            advice = "" if found.exit_code == 1 else ", with fewer --workers if memory was short"
            raise TrainingError(f"{died}{advice}.")
        if isinstance(found, UserError):
            raise type(found)(f"{training.name}: {found}")
        yield training, found


def _train_one(training: Any) -> dict[str, Any] | UserError:
    """In a worker process; an error that the user can mend is told by the parent."""
    start_tensorflow()
    from bilstm_attention.search.contenders import train_one

    try:
        return train_one(training)
    except UserError as error:
        return error


def _write_page(
    target: Path,
    about: str,
    command: str,
    comparisons: Sequence[Any],
    plans: Sequence[Sequence[Any]],
    done: Mapping[str, dict[str, Any]],
) -> None:
    """Page, table of all numbers, and pictures of the first comparisons, those whose trainings are all there."""
    import pandas as pd

    from bilstm_attention.reports.comparison_page import page
    from bilstm_attention.tracking.pipeline import corpus_name

    missing = [comparison.name for comparison in comparisons[len(plans) :]]
    compared = [
        _compared(comparison, planned, done, target) for comparison, planned in zip(comparisons, plans, strict=False)
    ]
    with paths.atomic_write(target.with_name(f"{target.name}.csv")) as path:
        pd.concat([table for table, _ in compared], ignore_index=True).to_csv(path, index=False, float_format="%.4f")
    used = [training for planned in plans for training in planned]
    experiments = list(dict.fromkeys(corpus_name(training.params) for training in used))
    made_with = sorted({done[training.work]["made_with"] for training in used})
    sections = [section for _, section in compared]
    with paths.atomic_write(target.with_name(f"{target.name}.md")) as path:
        text = page(about, command, sections, missing, experiments, target.name, made_with)
        path.write_text(text, encoding="utf-8")
    print(f"{target}.md: {len(plans)} of {len(comparisons)} tables")


def _compared(comparison: Any, planned: Sequence[Any], done: Any, target: Path) -> tuple[Any, str]:
    """The table of scores, and its section of the page; draws its picture."""
    from bilstm_attention.config import flatten
    from bilstm_attention.reports import comparison_plots
    from bilstm_attention.reports.comparison_page import section
    from bilstm_attention.search.comparison import of_variants
    from bilstm_attention.search.standings import answers_of, by_class, errors_of, tabulate

    given = comparison.table
    answers = {name: answers_of(of_one) for name, of_one in of_variants(planned, done).items()}
    table = tabulate(comparison, answers)
    of, score = ("test_", "test") if given.test else ("", comparison.judged_on)
    parts = ("mean", *(f"seed_{seed}" for seed in given.seeds), "low", "high")
    columns = {f"{of}{name}": name for name in parts}
    shown = table[["variant", *columns]].rename(columns=columns)
    picture = target.with_name(f"{target.name}-{comparison.name}.png")
    if given.along:
        bases = [base.stem for base in comparison.bases.values()]
        values = [flatten(params)[given.along] for params in comparison.variants.values()]
        curves = shown.assign(curve=bases, value=values)
        comparison_plots.along(curves, given.along, f"{score} {comparison.monitor}", picture)
    else:
        comparison_plots.compared(shown, f"{score} {comparison.monitor}", picture)
    classes = by_class(answers) if "classes" in given.show else None
    errors = errors_of(answers[given.reference]) if "errors" in given.show else None
    table.insert(0, "table", comparison.name)
    return table, section(comparison, table, classes, errors, picture.name)
