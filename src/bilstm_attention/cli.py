"""The command `bilstm-attention`. Each command imports what it needs when it runs, so that help comes at once."""

import atexit
import errno
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bilstm_attention import paths
from bilstm_attention.console import THREADS, print_table
from bilstm_attention.errors import ParamsError, UserError, did_you_mean

if TYPE_CHECKING:
    from bilstm_attention.config import Params

app = typer.Typer(
    help="Bidirectional-LSTM text classifiers with attention: the DVC stages, corpora, scores and runs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
STAGE, CORPUS, RUNS, MODELS = "Stages of dvc.yaml", "Corpora", "Experiments", "Models"
FULL, FORBIDDEN = (errno.ENOSPC, errno.EDQUOT), (errno.EACCES, errno.EPERM, errno.EROFS)
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-S", metavar="KEY=VALUE", help="Sets a parameter, e.g. model.lstm_units=200; wins over the file."
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="BILSTM_ATTENTION_STORAGE",
        help="Database of the studies, e.g. postgresql://user@host/name, for several machines; by default a file.",
    ),
]
Threads = Annotated[
    int,
    typer.Option(
        min=1,
        envvar=THREADS,
        callback=lambda threads: os.environ.update({THREADS: str(threads)}),
        help="TensorFlow operations that run at once, each on one thread; changes no result.",
    ),
]


def main() -> None:
    """Runs the command line; a fault that the user can fix is printed without a traceback, with exit code 1."""
    # libraries create half a million objects that stay: searches for garbage took a quarter of `dvc repro`
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    try:
        app()
    except UserError as error:
        message = str(error)
    except OSError as error:
        if error.errno not in FULL + FORBIDDEN:
            raise
        advice = "free some space" if error.errno in FULL else "change its permissions, or write elsewhere"
        message = f"{error.filename or 'a file'}: {os.strerror(error.errno)}; {advice}."
    else:
        return
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def _stages() -> Any:
    """The module `stages`, with the project's root as working directory."""
    from bilstm_attention import stages

    os.chdir(paths.project_root())
    return stages


@contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here.", file=sys.stderr)
        raise


def _print_version(requested: bool) -> None:
    if requested:
        print(f"bilstm-attention {version('bilstm-attention')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Prints the version.")
    ] = False,
) -> None: ...


@app.command(rich_help_panel=STAGE)
def prepare() -> None:
    """Reads the corpus, splits and tokenises it; takes 230 bytes of memory per sentence."""
    _stages().prepare()


@app.command(rich_help_panel=STAGE)
def embed() -> None:
    """Builds the vocabulary and its embedding matrix."""
    _stages().embed()


@app.command(rich_help_panel=STAGE)
def train(seed: Annotated[int, typer.Option(min=0, help="One of train.seeds.")], threads: Threads = 2) -> None:
    """Trains the model of one seed; after a kill, from the last finished epoch."""
    with _resumable():
        _stages().train(seed)


@app.command(rich_help_panel=STAGE)
def evaluate(threads: Threads = 2) -> None:
    """Scores every seed's model on test; the only stage that reads the test set."""
    _stages().evaluate()


@app.command(rich_help_panel=STAGE)
def report() -> None:
    """Draws plots and attention pages of the evaluation, and logs it to MLflow."""
    _stages().report()
    print("now: bilstm-attention scores, or bilstm-attention ui for all runs")


@app.command(rich_help_panel=CORPUS)
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="Corpora and word vectors, e.g. semeval2010-task8 glove-6b.")
    ] = None,
    mirror: Annotated[str | None, typer.Option(help="Folder or address of the files, for the internet.")] = None,
) -> None:
    """Downloads corpora and word vectors into data/external and verifies checksums; without names, lists them."""
    from bilstm_attention.config import load_params
    from bilstm_attention.data import download as catalog

    if not names:
        text = "{what}\n{size}, {licence}\n{source}"
        print_table([{"name": row["name"], "what": text.format(**row)} for row in catalog.describe()])
        print("now: bilstm-attention fetch NAME")
        return
    root = paths.project_root()
    with _resumable():
        for name in names:
            catalog.fetch(name, root / paths.EXTERNAL, mirror, progress=sys.stderr.isatty())
    configs = sorted((root / paths.CONFIGS).glob("*.yaml"))
    if readers := [path.stem for path in configs if _sources(load_params(path), *names)]:
        print(f"now: bilstm-attention apply CONFIG, which is one of {', '.join(readers)}")


@app.command(rich_help_panel=CORPUS)
def init(
    files: Annotated[list[Path], typer.Argument(resolve_path=True, help="A file, several, or a folder.")],
    output: Annotated[Path | None, typer.Option("-o", dir_okay=False, resolve_path=True, help="The config.")] = None,
    text: Annotated[str | None, typer.Option(help="Column of the sentence; by default guessed.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the label; by default guessed.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrites the config.")] = False,
) -> None:
    """Says what a corpus of your own holds, and writes a config for it to experiments/configs."""
    _stages().init(files, output, text, label, force)


@app.command(rich_help_panel=RUNS)
def apply(
    config: Annotated[
        Path | None, typer.Argument(help="A named experiment: a file, or the name of one in experiments/configs.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Sets params.yaml to the defaults plus CONFIG, or single parameters with -S; comments stay."""
    from bilstm_attention.config import apply_overrides, flatten, load_params, parse_override, read_overrides
    from bilstm_attention.data.download import CATALOG

    if not config and not overrides:
        raise ParamsError("nothing to apply: name a file of experiments/configs, or parameters as -S KEY=VALUE.")
    root = paths.project_root()
    file = root / paths.PARAMS
    if config and not config.is_file():
        names = {path.stem: path for path in (root / paths.CONFIGS).glob("*.yaml")}
        if str(config) not in names:
            raise ParamsError(f"{config}: no such file{did_you_mean(config.stem, names) or '.'}")
        config = names[str(config)]
    requested = (read_overrides(config) if config else {}) | dict(map(parse_override, overrides or ()))
    before = flatten(load_params(file))
    changed = apply_overrides(file, requested)
    print("\n".join(f"{key}: {before[key]} -> {new}" for key, new in changed.items()) or "params.yaml is unchanged.")
    sources = _sources(load_params(file), *CATALOG)
    absent = [name for name, path in sources.items() if not (root / path).exists()]
    print("now:", f"bilstm-attention fetch {' '.join(absent)} && dvc repro" if absent else "dvc repro")


def _sources(params: "Params", *names: str) -> dict[str, str]:
    """Which of these entries of the catalogue the parameters read, and its path."""
    used = [params.data.folder, *(part.path for part in params.embeddings.parts if part.source in ("file", "encoder"))]
    return {name: path for name in names for path in used if Path(path).is_relative_to(paths.EXTERNAL / name)}


@app.command(rich_help_panel=RUNS)
def score(
    gold: Annotated[Path, typer.Argument(help="Gold labels: a line per sentence, ID TAB label.")],
    answers: Annotated[Path, typer.Argument(help="Predicted labels, in the same form; IDs may be missing.")],
) -> None:
    """Scores predictions as the official SemEval-2010 Task 8 scorer does: three views, the official one last."""
    from bilstm_attention.evaluation.semeval import evaluate_official, legal_answers, read_answers, report

    key = read_answers(gold)
    print(report(evaluate_official(key, read_answers(answers, legal_answers(key.values())))))


@app.command(rich_help_panel=RUNS)
def scores(
    markdown: Annotated[bool, typer.Option(help="As a page, with every seed and the protocol.")] = False,
) -> None:
    """Prints the scores of the last `evaluate`, and of the baselines."""
    _stages().show_scores(markdown)
    if not markdown:
        print("now: bilstm-attention explain --split dev, or bilstm-attention ui for all runs")


@app.command(rich_help_panel=RUNS)
def sweep(
    file: Annotated[Path, typer.Argument(resolve_path=True, help="Search space, e.g. experiments/sweeps/smoke.yaml.")],
    trials: Annotated[int, typer.Option(min=1, help="Finished trials in all, those of earlier starts included.")] = 50,
    hours: Annotated[
        float | None, typer.Option(min=0, help="No new trial begins after this time; the best are confirmed then.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trials at once, each in a process of one thread.")] = 2,
    storage: Storage = None,
    heartbeat: Annotated[
        int, typer.Option(min=1, help="With --storage: seconds between heartbeats; a trial that misses two is retried.")
    ] = 60,
    overrides: Overrides = None,
) -> None:
    """Searches for the parameters with the best dev score, and trains the best again on fresh seeds.

    The same command resumes an interrupted sweep. Ctrl-C once lets running trials end. Results: experiments/studies.
    """
    from bilstm_attention.config import parse_override
    from bilstm_attention.search.commands import sweep as search

    stages, changed = _stages(), dict(map(parse_override, overrides or ()))
    with _resumable():
        search(file, trials, hours, workers, storage, heartbeat, changed, stages.prepare_data)


@app.command(rich_help_panel=RUNS)
def sweeps(storage: Storage = None) -> None:
    """Lists the studies of the project or of a database: trials, best score, confirmed winner."""
    from bilstm_attention.search.commands import list_sweeps

    os.chdir(paths.project_root())
    list_sweeps(storage)


@app.command(rich_help_panel=RUNS)
def compare(
    file: Annotated[
        Path, typer.Argument(resolve_path=True, help="Comparison, e.g. experiments/comparisons/attention.yaml.")
    ],
    workers: Annotated[int, typer.Option(min=1, help="Trainings at once, each of one thread.")] = 2,
) -> None:
    """Trains named variants under one budget and the same seeds, and writes their scores to experiments/results.

    The same command resumes an interrupted comparison, each training from its last finished epoch.
    """
    from bilstm_attention.search.compare import compare as run_comparison

    stages, root = _stages(), Path.cwd()
    with _resumable():
        run_comparison(file.relative_to(root) if file.is_relative_to(root) else file, workers, stages.prepare_data)


@app.command(rich_help_panel=RUNS)
def explain(
    text: Annotated[
        list[str] | None, typer.Option(help="A sentence, its entities marked if they were in training; repeatable.")
    ] = None,
    split: Annotated[
        Literal["train", "dev", "test"] | None, typer.Option(help="Sentences of the corpus; choose changes on dev.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Sentences of the split, from its start; 0: all.")] = 50,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the model; by default the best on dev.")] = None,
    output: Annotated[Path, typer.Option(dir_okay=False, resolve_path=True, help="The page.")] = Path("attention.html"),
    threads: Threads = 2,
) -> None:
    """Writes a page that shows which tokens a model attends to, in sentences or in a split."""
    if bool(text) == bool(split):
        which = "both" if text else "neither"
        raise UserError(f"{which} of --text and --split: give sentences, --text '...', or a split, --split dev.")
    _stages().explain(text or [], split, limit, seed, output)
    print(f"now: open {output} in a browser")


@app.command(rich_help_panel=MODELS)
def predict(
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXT]...", help="Sentences; without them and --input, lines of standard input."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--input", dir_okay=False, resolve_path=True, help="Table to classify: csv, tsv, json, parquet."),
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option("--output", dir_okay=False, resolve_path=True, help="Table to write: csv, tsv, jsonl, parquet."),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Column of the sentences in the table; by default that of the training data.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Run (its id, the start of it, or its name), version such as sample/1, or address such as"
            " models:/sample@champion; by default the seed of this checkout that is best on dev."
        ),
    ] = None,
    attention: Annotated[bool, typer.Option("--attention", help="Adds tokens and their attention weights.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each, with all probabilities.")] = False,
    threads: Threads = 2,
) -> None:
    """Classifies sentences, lines or a table; prints label and score of each, in order.

    A sentence of a relation corpus marks its entities as <e1>..</e1> and <e2>..</e2>.
    """
    from bilstm_attention.serving import predict as predictions

    if bool(source) != bool(target) or (source and (texts or as_json)):
        raise UserError("a table is --input TABLE --output TABLE, both, without sentences and --json.")
    os.chdir(paths.project_root())
    if source and target:
        predictions.predict_file(source, target, column, model, attention)
    else:
        if not texts and sys.stdin.isatty():
            print("reading sentences from the terminal, one per line; Ctrl-D ends", file=sys.stderr)
        predictions.predict_lines(texts or sys.stdin, model, attention, as_json, sys.stdout)


@app.command(rich_help_panel=MODELS)
def promote(
    run: Annotated[
        str | None,
        typer.Option(help="Run (id, its start, or name), or version as sample/1; by default this checkout's newest."),
    ] = None,
    if_better: Annotated[bool, typer.Option("--if-better", help="Only with a better dev score.")] = False,
) -> None:
    """Registers the model of a run as the champion, which models:/NAME@champion serves; shows both dev scores."""
    from bilstm_attention.config import load_params
    from bilstm_attention.evaluation.results import best_seed, seed_file
    from bilstm_attention.tracking import registry
    from bilstm_attention.tracking.pipeline import corpus_name, model_name
    from bilstm_attention.tracking.store import report_store_errors, shown_uri

    os.chdir(paths.project_root())
    params = load_params(paths.PARAMS)
    with report_store_errors():
        source = run or seed_file(best_seed(params.train.seeds, params.train.monitor), "model.keras")
        registry.promote(model_name(params), corpus_name(params), source, if_better)
    address, store = quote(f"models:/{model_name(params)}@champion"), quote(shown_uri())
    print(f"now: bilstm-attention predict --model {address}, or as a server: MLFLOW_TRACKING_URI={store} \\")
    print(f"  mlflow models serve -m {address} --env-manager local --port 5001")


@app.command(rich_help_panel=RUNS)
def sync() -> None:
    """Logs results on disk that MLflow lacks, for example after its server was down."""
    _stages().sync()


@app.command(rich_help_panel=RUNS)
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0: the network, and MLFLOW_SERVER_ALLOWED_HOSTS.")
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option(help="Whether a browser opens.")] = True,
) -> None:
    """Opens the MLflow UI at the runs of the corpus, the best on dev first; by default for this machine alone."""
    from bilstm_attention.config import load_params
    from bilstm_attention.tracking.pipeline import corpus_name
    from bilstm_attention.tracking.store import report_store_errors
    from bilstm_attention.tracking.ui import open_ui

    os.chdir(paths.project_root())
    params = load_params(paths.PARAMS)
    with report_store_errors():
        open_ui(host, port, corpus_name(params), params.train.monitor, browser)
