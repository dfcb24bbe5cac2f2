"""The DVC stages: each reads, calls one room, and writes. They run in the project root, as DVC runs them."""

import json
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm_attention import paths
from bilstm_attention.params import Params, load_params
from bilstm_attention.paths import written_whole
from bilstm_attention.terminal import TrainingProgress, closing, start_tensorflow

if TYPE_CHECKING:
    from bilstm_attention.experiment.judging import Verdict
    from bilstm_attention.insight.plots import AttentionExample

TABLES = ("predictions", "confusion", "classes", "learning_curves")
EXAMPLES_READ, EXAMPLES_SHOWN = 64, 8


def prepare() -> None:
    """Raw corpus to `data/prepared`: splits as tables of tokens, training counts, labels, a summary."""
    from bilstm_attention.corpus import formats, splits, summary, tokens
    from bilstm_attention.experiment.official import none_last

    data = load_params(paths.PARAMS).data
    train = formats.read_split(data, "train")
    dev = formats.read_split(data, "dev") if data.dev else None
    test = formats.read_split(data, "test") if data.test else None
    examples = dict(zip(("train", "dev", "test"), splits.make_splits(train, dev, test, data), strict=True))
    encoded = {split: tokens.encode_examples(rows, data) for split, rows in examples.items()}
    for split, rows in encoded.items():
        with written_whole(paths.PREPARED / f"{split}.parquet") as path:
            rows.to_parquet(path, index=False)
    with written_whole(paths.PREPARED / "words.csv") as path:
        tokens.write_words(tokens.count_words(encoded["train"]["tokens"]), path)
    write_json(paths.PREPARED / "labels.json", none_last(set(encoded["train"]["label"])))
    counted = summary.summarise(examples, encoded)
    write_json(paths.PREPARED / "summary.json", counted)
    rows_of = {split: numbers["rows"] for split, numbers in counted["splits"].items()}
    of_train = counted["splits"]["train"]
    closing("prepare", {**rows_of, "labels": len(of_train["labels"]), "truncated": of_train["truncated"]})


def embed() -> None:
    """Training counts and a source of vectors to `data/embeddings`: vocabulary, matrix, coverage."""
    from bilstm_attention.corpus import embedding, tokens
    from bilstm_attention.experiment.task import existing, load_split

    params = load_params(paths.PARAMS).embeddings
    counts = tokens.read_words(existing(paths.PREPARED / "words.csv"))
    built = embedding.build_embedding(counts, params, Path())
    report = embedding.report(built, counts, tokens.count_words(load_split("dev")["tokens"]))
    with written_whole(paths.EMBEDDINGS / "vocabulary.txt") as path:
        built.vocabulary.save(path)
    with written_whole(paths.EMBEDDINGS / "matrix.npy") as path, path.open("wb") as file:
        np.save(file, built.matrix, allow_pickle=False)
    write_json(paths.EMBEDDINGS / "coverage.json", report)
    shares = {f"{split} tokens covered %": report[split]["tokens"]["percent"] for split in ("train", "dev")}
    closing("embed", {"words": len(built.vocabulary), "dimension": built.matrix.shape[1], **shares})


def train(seed: int) -> None:
    """One seed's model to `experiments/current/models/seed-N`, and its run to MLflow."""
    start_tensorflow()
    from bilstm_attention.experiment import training
    from bilstm_attention.experiment.runs import record_training
    from bilstm_attention.experiment.task import load_task
    from bilstm_attention.insight import plots
    from bilstm_attention.network.classifier import save_classifier

    started = time.time()
    params = load_params(paths.PARAMS)
    task = load_task()
    checkpoints = paths.main_root() / paths.CHECKPOINTS
    with TrainingProgress(f"seed {seed}", params.train.epochs, params.train.monitor) as progress:
        fitted = training.fit(
            params.model,
            params.train,
            task,
            seed,
            checkpoints=checkpoints,
            on_batch=progress.batch,
            on_epoch=progress.epoch,
        )
    folder = paths.seed_folder(seed)
    save_classifier(fitted.model, folder / "model.keras")
    with written_whole(folder / "history.csv") as path:
        fitted.history.to_csv(path, index=False)
    result = {"best_epoch": fitted.best_epoch, "epochs": len(fitted.history), "dev": fitted.dev}
    write_json(folder / "dev.json", result)
    training.training_checkpoint(checkpoints, params.model, params.train, task, seed).remove()
    shown = {f"dev {name}": value for name, value in list(fitted.dev.items())[1:4]}
    closing(f"train seed {seed}", {"best epoch": fitted.best_epoch, **shown})
    with TemporaryDirectory() as pictures:
        picture = Path(pictures) / "learning_curves.png"
        plots.learning_curves({seed: fitted.history}, params.train.monitor, picture)
        record_training(params, seed, fitted.dev, fitted.history, picture, started)


def evaluate() -> None:
    """Every seed's model scored on test, once: metrics, predictions, pictures; the numbers join each run in MLflow."""
    start_tensorflow()
    from bilstm_attention.experiment import judging, runs
    from bilstm_attention.experiment.official import write_answers

    started = time.time()
    params = load_params(paths.PARAMS)
    _forget_other_seeds(params)
    verdict = judging.judge(params.train.seeds, params.evaluate)
    write_json(paths.CURRENT / "metrics.json", verdict.metrics)
    for name in TABLES:
        with written_whole(paths.CURRENT / f"{name}.csv") as path:
            getattr(verdict, name).to_csv(path, index=name == "confusion")
    answers, table = paths.CURRENT / "answers", verdict.predictions
    for name in ("gold", "predicted", *(f"seed_{seed}" for seed in params.train.seeds)):
        with written_whole(answers / f"{name}.txt") as path:
            write_answers(path, table["id"], table[name])
    _draw(params, verdict, paths.CURRENT / "plots")
    show_scores()
    files = [paths.CURRENT / "metrics.json", *(paths.CURRENT / f"{name}.csv" for name in TABLES)]
    artifacts = {"": files, "answers": [answers], "plots": [paths.CURRENT / "plots"]}
    runs.record_evaluation(params, verdict, artifacts, started)


def show_scores(markdown: bool = False) -> None:
    """Prints the scores that `evaluate` wrote, as a table or as a Markdown page with the protocol."""
    from rich.console import Console

    from bilstm_attention.experiment.environment import made_with
    from bilstm_attention.experiment.task import existing
    from bilstm_attention.insight.tables import score_document, score_table

    metrics = json.loads(existing(paths.CURRENT / "metrics.json").read_text(encoding="utf-8"))
    if markdown:
        print(score_document(metrics, load_params(paths.PARAMS), made_with()))
    else:
        Console().print(score_table(metrics))


def _draw(params: Params, verdict: "Verdict", folder: Path) -> None:
    from bilstm_attention.experiment.runs import best_seed
    from bilstm_attention.insight import plots

    plots.learning_curves(verdict.histories, params.train.monitor, folder / "learning_curves.png")
    plots.confusion_matrix(verdict.confusion, folder / "confusion.png")
    plots.scores_by_class(verdict.classes, folder / "classes.png")
    plots.attention_picture(_attention_examples(best_seed(verdict, params)), folder / "attention.png")


def _attention_examples(seed: int) -> "list[AttentionExample]":
    """The first test sentences as one model reads them, up to two of them misread."""
    from bilstm_attention.corpus.batches import encode
    from bilstm_attention.experiment.judging import named, read_attention
    from bilstm_attention.experiment.task import load_labels, load_split, load_vocabulary
    from bilstm_attention.insight.plots import AttentionExample
    from bilstm_attention.network.classifier import load_classifier

    test, labels = load_split("test").head(EXAMPLES_READ), load_labels()
    model = load_classifier(paths.seed_folder(seed) / "model.keras")
    probabilities, weights = read_attention(model, encode(test, load_vocabulary(), labels))
    examples = [
        AttentionExample(list(tokens), row, gold, predicted, float(values.max()))
        for tokens, row, gold, predicted, values in zip(
            test["tokens"], weights, test["label"], named(probabilities, labels), probabilities, strict=True
        )
    ]
    wrong = [example for example in examples if example.gold != example.predicted][:2]
    right = [example for example in examples if example.gold == example.predicted]
    return [*right[: EXAMPLES_SHOWN - len(wrong)], *wrong]


def _forget_other_seeds(params: Params) -> None:
    """Deletes the models of seeds that `params.train.seeds` no longer names; DVC keeps them in its cache."""
    wanted = {paths.seed_folder(seed) for seed in params.train.seeds}
    for folder in paths.MODELS.glob("seed-*"):
        if folder not in wanted:
            shutil.rmtree(folder)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON, keys in their order, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
