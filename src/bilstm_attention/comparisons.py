"""The command that compares: trains what a file of comparisons plans, and writes what it amounts to."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bilstm_attention import paths, stages
from bilstm_attention.errors import ParamsError, TrainingError, UserError
from bilstm_attention.terminal import start_tensorflow


def compare(file: Path, workers: int) -> None:
    """Trains, records and compares every variant of every table of a file; the page is written anew after each table.

    Data of every kind are prepared first, at every start, in a few seconds each. Trainings that are there are read. Two
    commands at once should not share any.

    Args:
        file: of `experiments/comparisons`.
        workers: trainings at once.
    """
    start_tensorflow()
    import pandas as pd

    from bilstm_attention.experiment.comparison import read_page, trainings
    from bilstm_attention.experiment.runs import corpus_name
    from bilstm_attention.insight.comparison_page import page

    read, comparisons = read_page(file)
    plans = [trainings(comparison, paths.TRAININGS / "data") for comparison in comparisons]
    _prepare_data([training for planned in plans for training in planned])
    _check_scores(comparisons, plans)
    target, command = paths.RESULTS / file.stem, f"bilstm-attention compare {file} --workers {workers}"
    sections, tables, made_with, experiments = list[str](), [], set[str](), list[str]()
    for comparison, planned in zip(comparisons, plans, strict=True):
        done = _train(comparison, planned, workers)
        made_with |= {found["made_with"] for found in done.values()}
        experiments += [corpus_name(training.params) for training in planned]
        table, section = _compared(comparison, planned, done, target)
        tables.append(table.assign(table=comparison.name))
        sections.append(section)
        missing = [comparison.name for comparison in comparisons[len(sections) :]]
        with paths.written_whole(target.with_name(f"{file.stem}.csv")) as path:
            whole = pd.concat(tables, ignore_index=True)
            whole[["table", *whole.columns.drop("table")]].to_csv(path, index=False, float_format="%.4f")
        with paths.written_whole(target.with_name(f"{file.stem}.md")) as path:
            found_in = list(dict.fromkeys(experiments))
            text = page(read.about, command, sections, missing, found_in, file.stem, sorted(made_with))
            path.write_text(text, encoding="utf-8")
        print(f"{target}.md: {len(sections)} of {len(comparisons)} tables")


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
    from bilstm_attention.experiment.scoring import metric_names
    from bilstm_attention.experiment.task import load_labels

    for comparison, planned in zip(comparisons, plans, strict=True):
        legal = metric_names(load_labels(planned[0].root))
        if comparison.monitor not in legal:
            named = f"{comparison.name}: train.monitor: {comparison.monitor} is no score of this corpus's labels"
            raise ParamsError(f"{named}. Legal: {', '.join(legal)}.")


def _train(comparison: Any, planned: Sequence[Any], workers: int) -> dict[str, dict[str, Any]]:
    """What each training gave, by its name, the id of its run with it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from bilstm_attention.experiment.contenders import record

    done = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(comparison.name, total=len(planned))
        for training, found in _train_all(planned, workers):
            done[training.name] = found | {"run": record(comparison, training, found) or ""}
            scores = "  ".join(f"{score} {value:.2f}" for score, value in found["dev"].items())
            progress.console.print(f"{training.name}: {scores}", soft_wrap=True)
            progress.advance(task)
    return done


def _train_all(planned: Sequence[Any], workers: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    from bilstm_attention.experiment.workers import Died, run_jobs

    waiting = iter(planned)
    for training, found in run_jobs(lambda busy: next(waiting, None), _train_one, workers):
        if isinstance(found, Died):
            died = f"{training.name}: its process died with code {found.code}; the same command goes on"
            # a fault of the program, with code 1, stands above
            raise TrainingError(f"{died}." if found.code == 1 else f"{died}, with fewer --workers if memory was short.")
        if isinstance(found, UserError):
            raise type(found)(f"{training.name}: {found}")
        yield training, found


def _train_one(training: Any) -> dict[str, Any] | UserError:
    """In a worker process; an error that the user can mend is told by the parent."""
    start_tensorflow()
    from bilstm_attention.experiment.contenders import train_one

    try:
        return train_one(training)
    except UserError as error:
        return error


def _compared(comparison: Any, planned: Sequence[Any], done: Any, target: Path) -> tuple[Any, str]:
    """The table of scores, and its section of the page; draws its picture."""
    from bilstm_attention.experiment.comparison import of_variants
    from bilstm_attention.experiment.standings import answers_of, by_class, errors_of, tabulate
    from bilstm_attention.insight import plots
    from bilstm_attention.insight.comparison_page import section
    from bilstm_attention.overrides import flatten

    given = comparison.table
    answers = {name: answers_of(of_one) for name, of_one in of_variants(planned, done).items()}
    table = tabulate(comparison, answers)
    of, score = ("test_", "test") if given.test else ("", comparison.judged_on)
    columns = {f"{of}{name}": name for name in ("mean", *(f"seed_{seed}" for seed in given.seeds))}
    shown = table[["variant", *columns]].rename(columns=columns)
    picture = target.with_name(f"{target.name}-{comparison.name}.png")
    if given.along:
        bases = [base.stem for base in comparison.bases.values()]
        values = [flatten(params)[given.along] for params in comparison.variants.values()]
        plots.along(shown.assign(curve=bases, value=values), given.along, f"{score} {comparison.monitor}", picture)
    else:
        plots.compared(shown, f"{score} {comparison.monitor}", picture)
    classes = by_class(answers) if "classes" in given.show else None
    errors = errors_of(answers[given.reference]) if "errors" in given.show else None
    return table, section(comparison, table, classes, errors, picture.name)
