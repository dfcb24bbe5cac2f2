"""The command `bilstm-attention`; starts fast, since each command imports what it needs when it runs."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from bilstm_attention import paths
from bilstm_attention.errors import ParamsError, UserError

app = typer.Typer(
    help="Bidirectional-LSTM text classifiers with attention: the DVC stages, corpora, scores and runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
STAGE, CORPUS, RUNS, MODELS = "Stages, as dvc.yaml calls them", "Corpora", "Experiments", "Models"
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-S", metavar="KEY=VALUE", help="A parameter, over those of the file, e.g. model.lstm_units=200."
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="BILSTM_ATTENTION_STORAGE",
        show_envvar=True,
        help="A database that keeps studies, so that several machines can share one, e.g. postgresql://user@host/name;"
        " by default a file of the project.",
    ),
]


def main() -> None:
    """Runs the command line; a fault that the user can mend is printed without a traceback, with exit code 1."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


@app.command(rich_help_panel=STAGE)
def prepare(
    dask: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            envvar="BILSTM_ATTENTION_DASK",
            show_envvar=True,
            help="A Dask scheduler, e.g. tcp://host:8786, whose workers tokenise; they must see the project's folder."
            " The outputs are the same, byte for byte.",
        ),
    ] = None,
) -> None:
    """Reads the corpus, makes the splits, tokenises; what it holds in memory is 230 bytes a sentence."""
    from bilstm_attention import stages

    _enter_project()
    stages.prepare(dask)


@app.command(rich_help_panel=STAGE)
def embed() -> None:
    """Builds the vocabulary and its embedding matrix."""
    from bilstm_attention import stages

    _enter_project()
    stages.embed()


@app.command(rich_help_panel=STAGE)
def train(seed: Annotated[int, typer.Option(min=0, help="One of train.seeds.")]) -> None:
    """Trains the model of one seed; a killed training goes on from its last finished epoch."""
    from bilstm_attention import stages

    _enter_project()
    stages.train(seed)


@app.command(rich_help_panel=STAGE)
def evaluate() -> None:
    """Scores every seed's model on test: the only stage that opens the test set."""
    from bilstm_attention import stages

    _enter_project()
    stages.evaluate()


@app.command(rich_help_panel=STAGE)
def report() -> None:
    """Draws plots and attention pages of the evaluation, and logs its scores to MLflow."""
    from bilstm_attention import stages

    _enter_project()
    stages.report()


@app.command(rich_help_panel=CORPUS)
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="Corpora and vectors, e.g. semeval2010-task8 glove-6b.")
    ] = None,
    mirror: Annotated[
        str | None, typer.Option(help="Folder or address that holds the files; no internet is used.")
    ] = None,
) -> None:
    """Fetches known corpora and word vectors into data/external, checksums verified; without names, lists them."""
    from rich.console import Console
    from rich.table import Table

    from bilstm_attention.data import download as catalog

    if not names:
        table = Table("name", "what", "size", "licence", "source")
        for row in catalog.describe():
            table.add_row(*(row[column] for column in ("name", "what", "size", "licence", "source")))
        Console().print(table)
        return
    folder = paths.project_root() / paths.EXTERNAL
    for name in names:
        catalog.fetch(name, folder, mirror, progress=sys.stderr.isatty())


@app.command(rich_help_panel=RUNS)
def apply(
    config: Annotated[
        Path | None, typer.Argument(help="A file of overrides, e.g. experiments/configs/zhou2016.yaml.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Makes params.yaml the defaults plus CONFIG, or changes single parameters with -S; comments stay."""
    from bilstm_attention.config import apply_overrides, parse_override, read_overrides

    if not config and not overrides:
        raise ParamsError("nothing to apply: name a file of experiments/configs, or parameters as -S KEY=VALUE.")
    requested = read_overrides(config) if config else {}
    requested |= dict(parse_override(text) for text in overrides or ())
    changed = apply_overrides(paths.project_root() / paths.PARAMS, requested)
    for key, value in changed.items():
        print(f"{key} = {value}")
    if not changed:
        print("params.yaml says all of this already.")


@app.command(rich_help_panel=RUNS)
def score(
    gold: Annotated[Path, typer.Argument(help="Right answers: a line per sentence, ID TAB label.")],
    answers: Annotated[Path, typer.Argument(help="Answers to score, in the same form; IDs may be left out.")],
) -> None:
    """Scores answers as the official SemEval-2010 Task 8 scorer does: three views, the official one last."""
    from bilstm_attention.evaluation.semeval import answerable, evaluate_official, read_answers, report

    key = read_answers(gold)
    print(report(evaluate_official(key, read_answers(answers, answerable(key.values())))))


@app.command(rich_help_panel=RUNS)
def scores(
    markdown: Annotated[
        bool, typer.Option(help="A page for experiments/results, every seed and the protocol in it.")
    ] = False,
) -> None:
    """Prints the scores of the last `evaluate`, baselines beside them."""
    from bilstm_attention import stages

    _enter_project()
    stages.show_scores(markdown)


@app.command(rich_help_panel=RUNS)
def sweep(
    file: Annotated[Path, typer.Argument(help="What to search, e.g. experiments/sweeps/smoke.yaml.")],
    trials: Annotated[
        int, typer.Option(min=1, help="Trials in all, with those that earlier starts of this study ended.")
    ] = 50,
    hours: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="After so many hours no new trial begins; once the running ones have ended, the best are confirmed.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trials at once, each in a process of one thread.")] = 2,
    storage: Storage = None,
    heartbeat: Annotated[
        int,
        typer.Option(
            min=1,
            help="With --storage: seconds between heartbeats of a trial; one that is silent twice as long is tried"
            " again.",
        ),
    ] = 60,
    overrides: Overrides = None,
) -> None:
    """Searches parameters for the best dev score, and trains the best again on fresh seeds.

    Interrupted, the same command goes on; Ctrl-C once lets running trials end. What it finds goes to
    experiments/studies.
    """
    from bilstm_attention.config import parse_override
    from bilstm_attention.search.commands import ExecutionOptions
    from bilstm_attention.search.commands import sweep as search

    file = file.absolute()
    _enter_project()
    where = ExecutionOptions(workers, storage, heartbeat)
    search(file, trials, hours, where, dict(parse_override(text) for text in overrides or ()))


@app.command(rich_help_panel=RUNS)
def sweeps(storage: Storage = None) -> None:
    """Lists the studies of the project, or of a database: trials, best score, confirmed winner."""
    from bilstm_attention.search.commands import list_sweeps

    _enter_project()
    list_sweeps(storage)


@app.command(rich_help_panel=RUNS)
def compare(
    file: Annotated[Path, typer.Argument(help="What to compare, e.g. experiments/comparisons/attention.yaml.")],
    workers: Annotated[int, typer.Option(min=1, help="Trainings at once, each of one thread.")] = 2,
) -> None:
    """Trains named variants under one budget and the same seeds, and writes what they score to experiments/results.

    Interrupted, the same command goes on from the last finished epoch of every training.
    """
    from bilstm_attention import stages
    from bilstm_attention.search.compare import compare as run_comparison

    file = file.absolute()
    _enter_project()
    root = paths.project_root()
    path = file.relative_to(root) if file.is_relative_to(root) else file
    run_comparison(path, workers, stages.prepare_data)


@app.command(rich_help_panel=RUNS)
def explain(
    text: Annotated[
        list[str] | None, typer.Option(help="A sentence to read, entities marked if they were in training; repeatable.")
    ] = None,
    split: Annotated[
        Literal["train", "dev", "test"] | None,
        typer.Option(help="Sentences of the corpus; to find what to change, look at dev."),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="The first so many of the split; 0: all.")] = 50,
    seed: Annotated[int | None, typer.Option(min=0, help="Whose model; by default the best on dev.")] = None,
    output: Annotated[Path, typer.Option(dir_okay=False, help="The page to write.")] = Path("attention.html"),
) -> None:
    """Writes a page that shows which tokens a model attends to, in given sentences or in a split."""
    from bilstm_attention import stages

    if bool(text) == bool(split):
        which = "both" if text else "neither"
        raise UserError(f"{which} of --text and --split: give sentences, --text '...', or a split, --split dev.")
    output = output.absolute()
    _enter_project()
    stages.explain(text or [], split, limit, seed, output)


@app.command(rich_help_panel=MODELS)
def predict(
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXT]...", help="Sentences; without them and --input, lines of standard input."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--input", dir_okay=False, help="A table to answer: csv, parquet or jsonl."),
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--output", dir_okay=False, help="The table to write, of the same kinds.")
    ] = None,
    column: Annotated[str, typer.Option(help="Of the table: where its sentences stand.")] = "text",
    model: Annotated[
        str | None,
        typer.Option(
            help="The id of a run that logged one, or an address such as models:/sample@champion; by default the seed"
            " of this checkout that did best on dev."
        ),
    ] = None,
    attention: Annotated[bool, typer.Option("--attention", help="Tells tokens and their weights too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each, with all probabilities.")] = False,
) -> None:
    """Classifies sentences, lines or a table: label and score of each, in order.

    A sentence of a relation corpus marks its entities as <e1>..</e1> and <e2>..</e2>.
    """
    from bilstm_attention.serving import predict as predictions

    if bool(source) != bool(target) or (source and (texts or as_json)):
        raise UserError("a table is --input TABLE --output TABLE, both, without sentences and --json.")
    source, target = source and source.absolute(), target and target.absolute()
    _enter_project()
    if source and target:
        predictions.predict_file(source, target, column, model, attention)
    else:
        predictions.predict_lines(texts or sys.stdin, model, attention, as_json, sys.stdout)


@app.command(rich_help_panel=MODELS)
def promote(
    run: Annotated[str, typer.Argument(help="Id of the run whose model it is, or `best`: that of the best dev score.")],
    if_better: Annotated[
        bool, typer.Option("--if-better", help="Only if its dev score is better than the present champion's.")
    ] = False,
) -> None:
    """Makes a registered model the champion, the one that models:/NAME@champion serves; shows both dev scores."""
    from bilstm_attention.config import load_params
    from bilstm_attention.tracking.pipeline import model_name
    from bilstm_attention.tracking.registry import promote as promote_version
    from bilstm_attention.tracking.store import report_store_errors

    _enter_project()
    params = load_params(paths.PARAMS)
    with report_store_errors():
        promote_version(model_name(params), run, params.train.monitor, if_better)


@app.command(rich_help_panel=RUNS)
def sync() -> None:
    """Logs to MLflow what it lacks of the results on disk, for instance after the store did not answer."""
    from bilstm_attention import stages

    _enter_project()
    stages.sync()


@app.command(rich_help_panel=RUNS)
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
    host: Annotated[
        str,
        typer.Option(
            help="Where it listens; 0.0.0.0: for the private network too, others as MLFLOW_SERVER_ALLOWED_HOSTS says."
        ),
    ] = "127.0.0.1",
) -> None:
    """Opens the MLflow UI on the project's runs, for this machine alone unless --host says otherwise."""
    from bilstm_attention.tracking.store import open_ui

    open_ui(host, port)


def _enter_project() -> None:
    os.chdir(paths.project_root())
