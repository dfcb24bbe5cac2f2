"""The DVC stages, and the commands that show their results: each reads, calls one package, and writes.

They run in the project root, as DVC runs them.
"""

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from bilstm_attention import paths
from bilstm_attention.config import Params, Train, load_params
from bilstm_attention.console import TrainingProgress, announce, print_summary, start_tensorflow
from bilstm_attention.errors import ParamsError, UserError
from bilstm_attention.paths import atomic_write, write_json

FIRST_WEIGHTS = 0.05  # highest share of the first step's weights in a moving average that goes without a warning


def prepare(params: Params | None = None, root: Path = paths.PROJECT) -> None:
    """Raw corpus to `data/prepared`: splits as tables of tokens, training counts, labels, a summary.

    Args:
        params: by default those of `params.yaml`.
        root: the folder to write under.
    """
    from bilstm_attention.data import tokens
    from bilstm_attention.data.checks import corpus_warnings
    from bilstm_attention.data.corpus import read_chunks, read_corpus
    from bilstm_attention.data.prepare import encode_chunk, summarize, write_splits
    from bilstm_attention.data.relations import none_last
    from bilstm_attention.data.splits import SPLITS, make_splits
    from bilstm_attention.evaluation.metrics import check_monitor

    params = params or load_params(paths.PARAMS)
    data, folder = params.data, root / paths.PREPARED
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # without a name, so that a killed process leaves nothing
        corpus = stack.enter_context(TemporaryFile(dir=folder))
        rows = read_corpus(data, corpus)
        splits = make_splits(rows, data)
        labels = none_last(set(rows["label"][splits <= SPLITS.index("train")]))
        check_monitor(params.train.monitor, labels)
        files = {name: stack.enter_context(atomic_write(folder / f"{name}.parquet")) for name in SPLITS}
        uncleaned = Counter[str]()
        tables = (encode_chunk(part, data, uncleaned) for part in read_chunks(corpus, rows))
        stats = write_splits(tables, splits, files, data)
    with atomic_write(folder / "words.csv") as path:
        tokens.write_words(tokens.word_table(stats["train"].words), path)
    empty = sum(each.empty_entities for each in stats.values())
    warnings = corpus_warnings(rows, splits, data, uncleaned, empty)
    summary = {**summarize(rows, splits, stats), "warnings": warnings}
    write_json(folder / "labels.json", labels)
    write_json(folder / "summary.json", summary)
    numbers = {split: counts["rows"] for split, counts in summary["splits"].items()}
    numbers |= {"labels": len(labels), "truncated": summary["splits"]["train"]["truncated"]}
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print_summary("prepare", {**numbers, "duplicates": sum(summary["duplicates"].values())})


def embed(params: Params | None = None, root: Path = paths.PROJECT) -> None:
    """Word counts of train and a source of vectors to `data/embeddings`: vocabulary, matrix, coverage.

    Args:
        params: by default those of `params.yaml`.
        root: the folder that holds the output of `prepare`, and to write under.
    """
    from bilstm_attention.data import tokens
    from bilstm_attention.data.dataset import existing, load_sentences
    from bilstm_attention.data.embeddings import build_embedding, coverage_report

    options, folder = (params or load_params(paths.PARAMS)).embeddings, root / paths.EMBEDDINGS
    counts = tokens.read_words(existing(root / paths.PREPARED / "words.csv"))
    embedding = build_embedding(counts, options, root)
    report = coverage_report(embedding, counts, tokens.count_words(load_sentences("dev", root)))
    with atomic_write(folder / "vocabulary.txt") as path:
        embedding.vocabulary.save(path)
    with atomic_write(folder / "matrix.npy") as path, path.open("wb") as file:
        np.save(file, embedding.matrix, allow_pickle=False)
    write_json(folder / "coverage.json", report)
    for warning in report.get("warnings", []):
        print(f"warning: {warning}", file=sys.stderr)
    shares = {f"{split} tokens covered %": report[split]["tokens"]["percent"] for split in ("train", "dev")}
    print_summary("embed", {"words": len(embedding.vocabulary), "dimension": embedding.matrix.shape[1], **shares})


def prepare_data(params: Params, root: Path) -> None:
    """Splits and vectors of these parameters, in a folder of their own."""
    prepare(params=params, root=root)
    embed(params=params, root=root)


def train(seed: int) -> None:
    """One seed's model to `experiments/current/models/seed-N`, and its run to MLflow."""
    params = load_params(paths.PARAMS)
    if seed not in params.train.seeds:
        raise ParamsError(f"--seed {seed}: not one of train.seeds, {params.train.seeds}; add it to them first.")
    start_tensorflow()
    from bilstm_attention.data.dataset import load_dataset, steps_per_epoch
    from bilstm_attention.evaluation.results import numbering
    from bilstm_attention.model.classifier import save_classifier
    from bilstm_attention.tracking.pipeline import log_training
    from bilstm_attention.training.fit import Checkpoint, run_training, training_key

    dataset = load_dataset()
    _warn_of_first_weights(params.train, steps_per_epoch(dataset.train, params.train.batch_size))
    checkpoints = paths.main_root() / paths.CHECKPOINTS
    live, key = paths.live_folder(seed), training_key(params, dataset, seed)
    checkpoint = Checkpoint(checkpoints, key)
    history = list(saved.history) if (saved := checkpoint.load()) else []
    if history:
        print(f"seed {seed} resumes after epoch {len(history)} of {params.train.epochs}", flush=True)
        _write_live(live, history, params.train.monitor)
    with log_training(params, seed, key, history) as log_epoch:
        with TrainingProgress(f"seed {seed}", params.train.epochs, params.train.monitor) as progress:

            def on_epoch(row: dict[str, Any]) -> None:
                progress.epoch(row)
                log_epoch(row)
                history.append(row)
                _write_live(live, history, params.train.monitor)

            result = run_training(
                params, dataset, seed, checkpoints=checkpoints, on_batch=progress.batch, on_epoch=on_epoch
            )
            progress.end(len(result.history), result.best_epoch)
        folder, ended = paths.seed_folder(seed), {"best_epoch": result.best_epoch, "epochs": len(result.history)}
        save_classifier(result.model, folder / "model.keras")
        with atomic_write(folder / "history.csv") as path:
            result.history.to_csv(path, index=False)
        write_json(folder / "dev.json", {**ended, "dev": result.dev, "key": key, "numbering": numbering()})
        shown = {f"dev {name}": result.dev[name] for name in (params.train.monitor, "accuracy", "macro_f1")}
        print_summary(f"train seed {seed}", {"best epoch": result.best_epoch, **shown})
    # last, since DVC deletes the outputs of a stage that was killed before its end
    checkpoint.remove()


def _write_live(folder: Path, history: Sequence[Mapping[str, Any]], monitor: str) -> None:
    """The losses and the monitored score so far, as DVCLive writes them for `dvc exp show` and for VS Code."""
    summary = {"step": history[-1]["epoch"]}
    for name in ("loss", "dev_loss", f"dev_{monitor}"):
        summary[name] = history[-1][name]
        rows = "".join(f"{row['epoch']}\t{row[name]}\n" for row in history)
        with atomic_write(folder / f"plots/metrics/{name}.tsv") as path:
            path.write_text(f"step\t{name}\n{rows}", encoding="utf-8")
    write_json(folder / "metrics.json", summary)


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
    """Every seed's model scored on test: scores, predictions, and the data of plots and attention pages."""
    params = load_params(paths.PARAMS)
    start_tensorflow()
    from bilstm_attention.evaluation.evaluate import evaluate_models
    from bilstm_attention.evaluation.results import write_results
    from bilstm_attention.tracking.pipeline import corpus_name
    from bilstm_attention.training.fit import use_threads

    use_threads()
    result = evaluate_models(params.train.seeds, params.evaluate)
    write_results(result, corpus_name(params), params.train.monitor)
    name, summary = next(iter(result.scores["test"].items()))
    baselines = {model: scores[name] for model, scores in result.scores["baselines"].items()}
    print_summary(
        "evaluate", {f"test {name}": summary["mean"], "low": summary["low"], "high": summary["high"], **baselines}
    )
    best = max(baselines, key=lambda model: baselines[model])
    if summary["low"] <= baselines[best]:
        print(f"the model is not clearly better than the baseline {best}: {summary['mean']:.2f}, {baselines[best]:.2f}")


def report() -> None:
    """Plots and attention pages of the last evaluation, and its scores to MLflow."""
    import pandas as pd

    from bilstm_attention.data.dataset import existing
    from bilstm_attention.evaluation.results import best_seed, read_history, read_json, read_table
    from bilstm_attention.reports import plots
    from bilstm_attention.reports.attention_page import attention_page, read_examples, select_examples
    from bilstm_attention.tracking.pipeline import corpus_name, evaluation_records
    from bilstm_attention.tracking.runs import log_runs

    params = load_params(paths.PARAMS)
    seeds, monitor = params.train.seeds, params.train.monitor
    pictures, weights = paths.CURRENT / "plots", paths.CURRENT / "attention_weights"
    histories = {f"seed {seed}": read_history(seed) for seed in seeds}
    plots.learning_curves(histories, monitor, pictures / "learning_curves.png", params.train.restore_best_weights)
    plots.confusion_matrix(read_table("confusion").set_index("gold").astype(int), pictures / "confusion.png")
    plots.scores_by_class(
        read_table("classes").astype({"precision": float, "recall": float, "f1": float, "support": int}),
        pictures / "classes.png",
    )
    reliability = read_table("reliability").astype({"confidence": float, "accuracy": float})
    plots.reliability_curves(reliability, pictures / "reliability.png")
    if faithfulness := read_json(paths.CURRENT / "faithfulness.json"):
        plots.faithfulness_curves(faithfulness["curves"], pictures / "faithfulness.png")
    examples = {seed: read_examples(pd.read_parquet(existing(weights / f"seed-{seed}.parquet"))) for seed in seeds}
    for seed in seeds:
        # of dev: whoever looks for what to change next must not look at test
        attention_page(examples[seed], paths.attention_page(seed), title=f"seed {seed}", source="dev")
    best = best_seed(seeds, monitor)
    plots.attention_picture(select_examples(examples[best]), pictures / "attention.png")
    print_summary("report", {"plots": len(list(pictures.iterdir())), "attention pages": len(seeds)})
    announce("recording in MLflow")
    log_runs(corpus_name(params), evaluation_records(params), "the evaluation")


def init(files: Sequence[Path], output: Path | None, text: str | None, label: str | None, force: bool) -> None:
    """Says what a corpus holds, and writes a config for it."""
    import typer

    from bilstm_attention.data.new_config import corpus_name, describe, glove_coverage, inspect_corpus, new_config
    from bilstm_attention.evaluation.metrics import metric_names

    def ask(question: str, answers: Sequence[str]) -> str:
        while (answer := typer.prompt(f"{question} ({', '.join(answers)})")) not in answers:
            pass
        return str(answer)

    output = output or Path.cwd() / paths.CONFIGS / f"{corpus_name(files)}.yaml"
    if output.exists() and not force:
        raise UserError(f"{output}: exists; --force overwrites it, -o experiments/configs/NAME.yaml writes another.")
    corpus = inspect_corpus(files, text, label, ask if sys.stdin.isatty() else None)
    coverage = glove_coverage(corpus.words)
    print("\n".join(describe(corpus, coverage)))
    with atomic_write(output) as temporary:
        text = new_config(output.stem, corpus, metric_names([*corpus.labels])[0], coverage)
        temporary.write_text(text, encoding="utf-8")
    name = output.stem if output.parent == Path.cwd() / paths.CONFIGS else str(output)
    print(f"wrote {output}\nnow: bilstm-attention apply {quote(name)} && dvc repro")


def sync() -> None:
    """Logs to MLflow the results on disk that the store lacks: of the pipeline, of sweeps and of comparisons.

    Raises:
        UserError: the store does not answer.
    """
    from bilstm_attention.search.outcome import sweep_runs
    from bilstm_attention.search.results import comparison_runs
    from bilstm_attention.tracking.pipeline import corpus_name, pipeline_records
    from bilstm_attention.tracking.runs import complete_runs
    from bilstm_attention.tracking.store import report_store_errors, shown_uri

    params = load_params(paths.PARAMS)
    try:
        records, missing = pipeline_records(params)
    except UserError as error:
        records, missing = [], [f"the pipeline: {error}"]
    sources = [(corpus_name(params), records)]
    results, absent = sweep_runs()
    sources += results + comparison_runs()
    missing += absent
    logged = total = 0
    with report_store_errors():
        for experiment, records in sources:
            logged += complete_runs(experiment, records)
            total += len(records)
    print(f"{shown_uri()}: {logged} runs logged, {total - logged} were there.")
    for reason in missing:
        print(f"not logged: {reason}")


def explain(texts: Sequence[str], split: str | None, limit: int, seed: int | None, output: Path) -> None:
    """Writes the attention page of `texts`, or of the first `limit` sentences of a split, 0 for all.

    Texts are shown in the terminal too. The model is that of `seed`, by default the best on dev, ties go to the first.
    """
    params = load_params(paths.PARAMS)
    if seed is not None and seed not in params.train.seeds:
        raise ParamsError(f"--seed {seed}: not one of train.seeds, {params.train.seeds}; no model has it.")
    from rich.console import Console

    from bilstm_attention.data.dataset import encode, load_split
    from bilstm_attention.evaluation.calibration import scale
    from bilstm_attention.evaluation.results import best_seed
    from bilstm_attention.reports.attention_page import attention_page, read_examples
    from bilstm_attention.reports.tables import shaded_text
    from bilstm_attention.serving.classifier import load_seed

    seed = best_seed(params.train.seeds, params.train.monitor) if seed is None else seed
    classifier = load_seed(params, seed)
    # after the start of TensorFlow, which these import
    from bilstm_attention.evaluation.evaluate import attention_table
    from bilstm_attention.model.predict import read_attention

    model, labels = classifier.model, classifier.labels
    if split:
        examples = load_split(split)
        examples = examples.head(limit) if limit else examples
        rows = encode(examples, classifier.vocabulary, labels)
    else:
        examples, rows = classifier.examples(texts)
    probabilities, weights = read_attention(model, rows)
    table = attention_table(model, examples, scale(probabilities, classifier.temperature), weights, labels)
    shown = read_examples(table)
    attention_page(shown, output, title=f"seed {seed}", source=split or "text")
    outcomes = [example.outcome for example in shown]
    for example in () if split else shown:
        # a terminal has colours; elsewhere a sentence stays on its line
        Console(highlight=False).print(shaded_text(example), soft_wrap=True, end="\n\n")
    counts = {outcome: outcomes.count(outcome) for outcome in ("right", "wrong")} if split else {}
    print_summary(f"explain {output}", {"sentences": len(shown), **counts})


def show_scores(markdown: bool = False) -> None:
    """Prints the scores that `evaluate` wrote, as a table or as a Markdown page with the protocol."""
    from rich.console import Console

    from bilstm_attention.evaluation.results import read_json
    from bilstm_attention.reports.tables import score_document, score_table
    from bilstm_attention.tracking.environment import check_up_to_date, made_with

    scores = read_json(paths.CURRENT / "scores.json")
    if markdown:
        check_up_to_date("the last evaluation")
        print(score_document(scores, load_params(paths.PARAMS), made_with()))
    else:
        Console().print(score_table(scores))
