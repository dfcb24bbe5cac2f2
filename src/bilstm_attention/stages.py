"""The DVC stages: each reads, calls one room, and writes. They run in the project root, as DVC runs them."""

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bilstm_attention import paths
from bilstm_attention.config import Params, Train, load_params
from bilstm_attention.console import TrainingProgress, closing, start_tensorflow
from bilstm_attention.errors import ParamsError, UserError
from bilstm_attention.paths import atomic_write, write_json

FIRST_WEIGHTS = 0.05  # their share of the moving average at the end, at most; more is said
PAGE_ROWS = 400  # dev sentences on the attention page of a run
TABLES = ("predictions", "dev_predictions", "confusion", "classes", "learning_curves")


def prepare(dask: str | None = None, params: Params | None = None, root: Path = paths.PROJECT) -> None:
    """Raw corpus to `data/prepared`: splits as tables of tokens, training counts, labels, a summary.

    Args:
        dask: address of a Dask scheduler whose workers tokenise; by default this process does.
        params: by default those of `params.yaml`.
        root: the folder to write under.
    """
    from bilstm_attention.data import tokens
    from bilstm_attention.data.cluster import encode_on_cluster
    from bilstm_attention.data.index import index_corpus
    from bilstm_attention.data.labels import none_last
    from bilstm_attention.data.preparing import encode_chunk, write_splits
    from bilstm_attention.data.splits import SPLITS, make_splits
    from bilstm_attention.data.summary import summarize

    data, folder = (params or load_params(paths.PARAMS)).data, root / paths.PREPARED
    index = index_corpus(data)
    splits = make_splits(index.rows, data)
    chunks = index.chunks
    encoded = encode_on_cluster(dask, chunks, data) if dask else (encode_chunk(chunk, data) for chunk in chunks)
    with ExitStack() as stack:
        files = {name: stack.enter_context(atomic_write(folder / f"{name}.parquet")) for name in SPLITS}
        tallies = write_splits(encoded, splits, files, data)
    with atomic_write(folder / "words.csv") as path:
        tokens.write_words(tokens.word_table(tallies["train"].words), path)
    counted = summarize(index.rows, splits, tallies)
    of_train, labels = counted["splits"]["train"], none_last(set(index.rows["label"][splits <= SPLITS.index("train")]))
    write_json(folder / "labels.json", labels)
    write_json(folder / "summary.json", counted)
    rows_of = {split: numbers["rows"] for split, numbers in counted["splits"].items()}
    twice = sum(counted["duplicates"].values())
    closing("prepare", {**rows_of, "labels": len(labels), "truncated": of_train["truncated"], "duplicates": twice})


def embed(params: Params | None = None, root: Path = paths.PROJECT) -> None:
    """Training counts and a source of vectors to `data/embeddings`: vocabulary, matrix, coverage.

    Args:
        params: by default those of `params.yaml`.
        root: the folder that holds what `prepare` wrote, and to write under.
    """
    from bilstm_attention.data import embeddings as embedding
    from bilstm_attention.data import tokens
    from bilstm_attention.data.dataset import existing, load_sentences

    given, folder = (params or load_params(paths.PARAMS)).embeddings, root / paths.EMBEDDINGS
    counts = tokens.read_words(existing(root / paths.PREPARED / "words.csv"))
    # the training text is what `prepare` wrote; a file of vectors is the project's
    built = embedding.build_embedding(counts, given, root if given.source == "corpus" else paths.PROJECT)
    report = embedding.report(built, counts, tokens.count_words(load_sentences("dev", root)))
    with atomic_write(folder / "vocabulary.txt") as path:
        built.vocabulary.save(path)
    with atomic_write(folder / "matrix.npy") as path, path.open("wb") as file:
        np.save(file, built.matrix, allow_pickle=False)
    write_json(folder / "coverage.json", report)
    shares = {f"{split} tokens covered %": report[split]["tokens"]["percent"] for split in ("train", "dev")}
    closing("embed", {"words": len(built.vocabulary), "dimension": built.matrix.shape[1], **shares})


def train(seed: int) -> None:
    """One seed's model to `experiments/current/models/seed-N`, and its run to MLflow."""
    start_tensorflow()
    from bilstm_attention.data.dataset import load_dataset, steps_per_epoch
    from bilstm_attention.model.classifier import save_classifier
    from bilstm_attention.reports import plots
    from bilstm_attention.reports.run_page import of_training
    from bilstm_attention.tracking.runs import record_training
    from bilstm_attention.training.fit import run_training, training_checkpoint

    started = time.time()
    params = load_params(paths.PARAMS)
    if seed not in params.train.seeds:
        raise ParamsError(f"--seed {seed}: not one of train.seeds, {params.train.seeds}; add it to them first.")
    task = load_dataset()
    steps = steps_per_epoch(task.train, params.train.batch_size)
    _warn_of_first_weights(params.train, steps)
    checkpoints = paths.main_root() / paths.CHECKPOINTS
    with TrainingProgress(f"seed {seed}", params.train.epochs, params.train.monitor) as progress:
        fitted = run_training(
            params,
            task,
            seed,
            checkpoints=checkpoints,
            on_batch=progress.batch,
            on_epoch=progress.epoch,
        )
    folder = paths.seed_folder(seed)
    save_classifier(fitted.model, folder / "model.keras")
    with atomic_write(folder / "history.csv") as path:
        fitted.history.to_csv(path, index=False)
    result = {"best_epoch": fitted.best_epoch, "epochs": len(fitted.history), "dev": fitted.dev}
    write_json(folder / "dev.json", result)
    shown = {f"dev {name}": fitted.dev[name] for name in (params.train.monitor, "accuracy", "macro_f1")}
    closing(f"train seed {seed}", {"best epoch": fitted.best_epoch, **shown})
    with TemporaryDirectory() as pictures:
        picture = Path(pictures) / "learning_curves.png"
        plots.learning_curves(
            {f"seed {seed}": fitted.history}, params.train.monitor, picture, params.train.restore_best_weights
        )
        description = of_training(params, fitted.dev, fitted.best_epoch, len(fitted.history))
        record_training(params, seed, fitted.dev, fitted.history, picture, description, started)
    # last, since DVC deletes the outputs of a stage that was killed before its end
    training_checkpoint(checkpoints, params, task, seed).remove()


def _warn_of_first_weights(train: Train, steps: int) -> None:
    """Warns where the moving average still holds much of the first step's weights when training ends."""
    total = train.epochs * steps
    left = train.ema ** (total - 1)
    if total > 1 and left > FIRST_WEIGHTS:
        enough = math.floor(1000 * FIRST_WEIGHTS ** (1 / (total - 1))) / 1000
        print(
            f"warning: train.ema: {train.ema}: after {total:,} steps {100 * left:.0f} % of the averaged weights are"
            f" still those of the first step; at most {enough} leaves {100 * FIRST_WEIGHTS:.0f} %, or train longer.",
            file=sys.stderr,
        )


def evaluate() -> None:
    """Every seed's model scored on test: metrics, predictions, pictures; the numbers join each run in MLflow."""
    start_tensorflow()
    from bilstm_attention.evaluation import evaluate as judging
    from bilstm_attention.evaluation.semeval import write_answers
    from bilstm_attention.reports import plots
    from bilstm_attention.reports.attention_page import attention_page
    from bilstm_attention.reports.reading import picked, read_split
    from bilstm_attention.reports.run_page import of_evaluation, of_seed
    from bilstm_attention.tracking import runs
    from bilstm_attention.tracking.environment import made_with
    from bilstm_attention.training.fit import use_threads

    started = time.time()
    params = load_params(paths.PARAMS)
    use_threads()
    _forget_other_seeds(params)
    verdict = judging.judge(params.train.seeds, params.evaluate)
    write_json(paths.CURRENT / "metrics.json", verdict.metrics)
    write_json(paths.CURRENT / "test_coverage.json", verdict.coverage)
    for name in TABLES:
        with atomic_write(paths.CURRENT / f"{name}.csv") as path:
            getattr(verdict, name).to_csv(path, index=name == "confusion")
    answers, table = paths.CURRENT / "answers", verdict.predictions
    for name in ("gold", "predicted", *(f"seed_{seed}" for seed in params.train.seeds)):
        with atomic_write(answers / f"{name}.txt") as path:
            write_answers(path, table["id"], table[name])
    pictures = paths.CURRENT / "plots"
    curves = pictures / "learning_curves.png"
    histories = {f"seed {seed}": history for seed, history in verdict.histories.items()}
    plots.learning_curves(histories, params.train.monitor, curves, params.train.restore_best_weights)
    plots.confusion_matrix(verdict.confusion, pictures / "confusion.png")
    plots.scores_by_class(verdict.classes, pictures / "classes.png")
    plots.overview([curves, pictures / "confusion.png"], pictures / "overview.png")
    if verdict.faithfulness:
        plots.faithfulness_curves(verdict.faithfulness["curves"], pictures / "faithfulness.png")
    pages = {seed: paths.CURRENT / "attention" / f"seed-{seed}.html" for seed in params.train.seeds}
    for seed, page in pages.items():
        # of dev: whoever looks for what to change next must not look at test
        examples = read_split("dev", seed, PAGE_ROWS)
        attention_page(examples, page, title=runs.run_name(params, [seed]), source=f"{runs.corpus_name(params)}, dev")
        if seed == runs.best_seed(verdict.dev, params):
            plots.attention_picture(picked(examples), pictures / "attention.png")
    name, summary = next(iter(verdict.metrics["test"].items()))
    baselines = {model: scores[name] for model, scores in verdict.metrics["baselines"].items()}
    closing("evaluate", {f"test {name}": summary["mean"], "low": summary["low"], "high": summary["high"], **baselines})

    files = [
        paths.CURRENT / name for name in ("metrics.json", "test_coverage.json", *(f"{name}.csv" for name in TABLES))
    ]
    artifacts = {"": files, "answers": [answers], "plots": [pictures]}
    descriptions: dict[int | None, str] = {
        seed: of_seed(params, verdict.metrics, seed, page.name) for seed, page in pages.items()
    }
    names = [page.name for page in pages.values()]
    descriptions[None] = of_evaluation(params, verdict.metrics, made_with(), names)
    runs.record_evaluation(params, verdict, artifacts, pages, descriptions, started)


def explain(texts: Sequence[str], split: str | None, limit: int, seed: int | None, output: Path) -> None:
    """Writes the attention page of sentences, or of the first `limit` of a split, 0 for all, as one model reads them.

    Args:
        seed: whose model; by default the one that did best on dev, of equals the first listed.
    """
    from bilstm_attention.data.dataset import existing, load_labels, load_vocabulary
    from bilstm_attention.tracking.runs import best_trained, corpus_name, run_name

    params = load_params(paths.PARAMS)
    if seed is None:
        seed = best_trained(params)
    elif seed not in params.train.seeds:
        raise ParamsError(f"--seed {seed}: not one of train.seeds, {params.train.seeds}; no model has it.")
    existing(paths.seed_folder(seed) / "dev.json")
    check_up_to_date("the last training", *(f"train@{each}" for each in params.train.seeds))
    start_tensorflow()
    from bilstm_attention.model.classifier import load_classifier
    from bilstm_attention.reports.attention_page import attention_page
    from bilstm_attention.reports.reading import read_sentences, read_split
    from bilstm_attention.serving.classifier import TextClassifier
    from bilstm_attention.training.fit import use_threads

    use_threads()
    if split:
        examples = read_split(split, seed, limit)
    else:
        model = load_classifier(paths.seed_folder(seed) / "model.keras")
        classifier = TextClassifier(model, load_vocabulary(), load_labels(), params.data)
        tokens = classifier.tokens(texts)
        examples = read_sentences(model, classifier.encoded(tokens), tokens, [None] * len(texts), classifier.labels)
    source = f"{corpus_name(params)}, {split}" if split else "given text"
    attention_page(examples, output, title=run_name(params, [seed]), source=source)
    verdicts = [example.verdict for example in examples]
    counts = {verdict: verdicts.count(verdict) for verdict in ("right", "wrong")} if split else {}
    closing(f"explain {output}", {"sentences": len(examples), **counts})


def show_scores(markdown: bool = False) -> None:
    """Prints the scores that `evaluate` wrote, as a table or as a Markdown page with the protocol."""
    from rich.console import Console

    from bilstm_attention.data.dataset import existing
    from bilstm_attention.reports.tables import score_document, score_table
    from bilstm_attention.tracking.environment import made_with

    metrics = json.loads(existing(paths.CURRENT / "metrics.json").read_text(encoding="utf-8"))
    if markdown:
        check_up_to_date("the last evaluation")
        print(score_document(metrics, load_params(paths.PARAMS), made_with()))
    else:
        Console().print(score_table(metrics))


def check_up_to_date(since: str, *stage: str) -> None:
    """A page says what its scores were made with: that must be what stands in the project now.

    Args:
        since: what was done with the outputs, as an error calls it.
        stage: as far as this one; else all.

    Raises:
        UserError: names the stages whose parameters, code, data or outputs have changed.
    """
    command = [sys.executable, "-m", "dvc", "status", "--json", *(("--with-deps", *stage) if stage else ())]
    status = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    if status:
        repro = " ".join(["dvc repro", *stage])
        raise UserError(f"{', '.join(status)}: changed since {since}; `{repro}` first.")


def _forget_other_seeds(params: Params) -> None:
    """Deletes the models of seeds that `params.train.seeds` no longer names: evaluate depends on the whole folder.

    DVC has them in its cache, since it alone makes them: `train` takes no seed but those named.
    """
    wanted = {paths.seed_folder(seed) for seed in params.train.seeds}
    for folder in paths.MODELS.glob("seed-*"):
        if folder not in wanted:
            shutil.rmtree(folder)
