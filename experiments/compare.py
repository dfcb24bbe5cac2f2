"""Trains named variants of one experiment under the same budget and seeds, and writes what they score.

    python experiments/compare.py experiments/comparisons/NAME.yaml --workers 2

writes `experiments/results/NAME.md`, `.csv` and `.png`. Each seed is one training, judged on dev, or, with `folds: K`,
K trainings, each judged on the fold of the training set that it did not learn from; the score is then of all these
answers together. (Where the best epoch is restored, the fold picks it: right for comparing, too high otherwise.) With
`test: true` each model answers the test set too, once: for what is final, never for choosing. Data of every variant are
prepared in `experiments/studies/NAME`, at every start; every training is a run in MLflow. Killed, the same command goes
on from the last finished epoch of every training; finished ones are read, not repeated.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bilstm_attention import paths
from bilstm_attention.errors import ParamsError, UserError
from bilstm_attention.overrides import read_overrides, with_overrides
from bilstm_attention.params import Params, read_yaml
from bilstm_attention.terminal import start_tensorflow

FAITHFULNESS_ROWS = 200
DIGEST = "training.digest"
KEYS = {"about", "base", "overrides", "seeds", "reference", "columns", "variants"}
OPTIONAL = {"folds", "test"}


@dataclass(frozen=True)
class Comparison:
    """What a file of `experiments/comparisons` says.

    Args:
        name: of the file.
        about: Markdown over the table.
        columns: what is said of every variant in words, as columns of the table.
        reference: the variant that the others are tested against.
        folds: of a cross-validation on the training set; None: dev.
        test: whether the models answer the test set as well.
        seeds: a training each, or one for each fold.
        words: by variant and column, what is said of it.
        variants: by name, its parameters, checked.
    """

    name: str
    about: str
    columns: list[str]
    reference: str
    folds: int | None
    test: bool
    seeds: list[int]
    words: dict[str, dict[str, str]]
    variants: dict[str, Params]

    @property
    def monitor(self) -> str:
        """The score by which variants are compared."""
        return self.variants[self.reference].train.monitor

    @property
    def judged_on(self) -> str:
        """What the score is of, as the page calls it."""
        return "dev" if self.folds is None else f"{self.folds} folds"


@dataclass(frozen=True)
class Training:
    """One training of a comparison.

    Args:
        variant: its name.
        seed: with which.
        fold: of the training set, by which it is judged; None: by dev.
        params: all of them.
        test: whether the model answers the test set.
        root: the folder that holds its data.
    """

    variant: str
    seed: int
    fold: int | None
    params: Params
    test: bool
    root: Path

    @property
    def name(self) -> str:
        """How its run is called."""
        return f"{self.variant} seed={self.seed}" + ("" if self.fold is None else f" fold={self.fold}")


def read_comparison(path: Path) -> Comparison:
    """Reads and checks a file of variants: every key, value and combination before the first training.

    `base` and `overrides` are of all variants, `set` of one; one may have a `base` of its own.

    Raises:
        ParamsError: a key is missing or unknown, a parameter is illegal, or the reference is no variant.
    """
    given = read_yaml(path)
    if not KEYS <= set(given) <= KEYS | OPTIONAL:
        keys = f"{', '.join(sorted(KEYS))}; it may have {' and '.join(sorted(OPTIONAL))}"
        raise ParamsError(f"{path}: has the keys {', '.join(given)}; a comparison has {keys}.")
    folds, test = given.get("folds"), given.get("test", False)
    if not isinstance(test, bool):
        raise ParamsError(f"{path}: test: {test!r} is neither true nor false.")
    if folds is not None and test:
        raise ParamsError(f"{path}: folds and test: a model of a fold has not learnt from all of train; leave one out.")
    # a core does more with a training of its own than as the second thread of another's
    shared = {"train.threads": 1, **given["overrides"]} | ({} if folds is None else {"data.folds": folds})
    variants = {
        name: with_overrides(
            Params(),
            {**read_overrides(Path(variant.get("base", given["base"]))), **shared, **variant.get("set", {})},
            where=f"{path}: {name}",
        )
        for name, variant in given["variants"].items()
    }
    for name, params in variants.items():
        if folds is not None and (params.data.dev or not params.data.test or params.data.folds != folds):
            raise ParamsError(
                f"{path}: {name}: folds are of train where the base names a test file and no dev file, in all variants"
                f" {folds}; here data.test is {params.data.test}, data.dev {params.data.dev}, data.folds"
                f" {params.data.folds}."
            )
    if given["reference"] not in variants:
        raise ParamsError(f"{path}: reference {given['reference']!r} is none of its variants, {', '.join(variants)}.")
    if {params.train.monitor for params in variants.values()} == {"loss"}:
        raise ParamsError(f"{path}: train.monitor: loss compares no labels; name a score, for instance accuracy.")
    if len({params.train.monitor for params in variants.values()}) > 1:
        raise ParamsError(f"{path}: train.monitor: variants pick their epochs by different scores; name one.")
    words = {name: variant.get("words", {}) for name, variant in given["variants"].items()}
    said = {key: given[key] for key in ("about", "columns", "reference", "seeds")}
    return Comparison(name=path.stem, folds=folds, test=test, words=words, variants=variants, **said)


def trainings(comparison: Comparison, folder: Path) -> list[Training]:
    """Every variant with every seed on every fold, all variants with the first seed and fold first."""
    from bilstm_attention.experiment.checkpoint import digest

    planned = []
    for seed in comparison.seeds:
        for fold in [None] if comparison.folds is None else range(comparison.folds):
            for name, params in comparison.variants.items():
                if fold is not None:
                    params = with_overrides(params, {"data.fold": fold})
                root = folder / digest(params.data.model_dump(), params.embeddings.model_dump())[:12]
                planned.append(Training(name, seed, fold, params, comparison.test, root))
    return planned


def prepare_data(planned: Sequence[Training]) -> None:
    """Splits and vectors of all trainings, each kind once."""
    from bilstm_attention.stages import embed, prepare

    for root, params in {training.root: training.params for training in planned}.items():
        prepare(params=params, root=root)
        embed(params=params, root=root)


@lru_cache(maxsize=4)
def _inputs(root: Path) -> tuple[Any, Any, Any]:
    """Task, dev table and vocabulary."""
    from bilstm_attention.experiment.task import load_split, load_task, load_vocabulary

    return load_task(root), load_split("dev", root=root), load_vocabulary(root)


def train_one(training: Training) -> dict[str, Any]:
    """Trains one variant with one seed and measures it, or reads what that gave before.

    The probabilities of the test set lie beside the rest, in a file of their own.
    """
    start_tensorflow()
    from bilstm_attention.corpus.batches import encode
    from bilstm_attention.experiment import faithfulness, prediction
    from bilstm_attention.experiment import training as loop
    from bilstm_attention.experiment.checkpoint import digest
    from bilstm_attention.experiment.environment import made_with
    from bilstm_attention.experiment.task import load_split
    from bilstm_attention.stages import write_json

    params, seed = training.params, training.seed
    task, dev, vocabulary = _inputs(training.root)
    # data of two variants may be the same
    checkpoints = training.root / "checkpoints"
    checkpoint = loop.training_checkpoint(checkpoints, params.model, params.train, task, seed)
    measures = Path(faithfulness.__file__).read_text(encoding="utf-8")
    asked = [checkpoint.path.stem, measures, FAITHFULNESS_ROWS]
    if training.test:
        rows = encode(load_split("test", root=training.root), vocabulary, task.labels)
        asked += [rows.tokens, rows.starts, rows.labels]
    path = training.root / f"{digest(*asked)}.json"
    if not path.exists():
        started = time.time()
        fitted = loop.fit(params.model, params.train, task, seed, checkpoints=checkpoints)
        predicted = prediction.named(prediction.predict(fitted.model, task.dev), task.labels)
        found = {
            "digest": checkpoint.path.stem,
            "dev": fitted.dev,
            "best_epoch": fitted.best_epoch,
            "started": started,
            "made_with": made_with(),
            "weights": sum(variable.numpy().size for variable in fitted.model.trainable_variables),
            "history": fitted.history.to_dict("records"),
            "predicted": predicted,
            "faithfulness": faithfulness.measure(fitted.model, dev, vocabulary, task.labels, FAITHFULNESS_ROWS, 0),
            "labels": list(task.labels),
        }
        if training.test:
            with paths.written_whole(path.with_suffix(".npy")) as target, target.open("wb") as file:
                np.save(file, prediction.predict(fitted.model, rows), allow_pickle=False)
        write_json(path, found)
    checkpoint.remove()
    found = dict(json.loads(path.read_text(encoding="utf-8")))
    return found | ({"test": np.load(path.with_suffix(".npy"), allow_pickle=False)} if training.test else {})


def train_all(planned: Sequence[Training], workers: int) -> Iterator[tuple[Training, dict[str, Any]]]:
    """Yields each training as it is done."""
    # spawned, since TensorFlow does not survive a fork
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waiting = {pool.submit(train_one, training): training for training in planned}
        for done in as_completed(waiting):
            yield waiting[done], done.result()


def record(comparison: Comparison, training: Training, found: Mapping[str, Any]) -> None:
    """Writes the training as a run to MLflow, unless the store has it; test scores join it."""
    from bilstm_attention.experiment.prediction import named
    from bilstm_attention.experiment.runs import corpus_name
    from bilstm_attention.experiment.scoring import scores
    from bilstm_attention.experiment.task import load_split
    from bilstm_attention.experiment.tracking import Record, Tracker, tracking_may_fail

    params = with_overrides(training.params, {"train.seeds": [training.seed]})
    with tracking_may_fail(training.name):
        tracker = Tracker(corpus_name(params))
        run = tracker.newest(DIGEST, found["digest"])
        if run and not training.test:
            return
        measured = found["faithfulness"]
        rankings = {
            f"dev_{of}_{by}": measured[of][by] for of in ("comprehensiveness", "sufficiency") for by in measured[of]
        }
        tags = {"comparison": comparison.name, "variant": training.variant, "seed": str(training.seed)}
        tags |= {} if training.fold is None else {"fold": str(training.fold)}
        run = run or tracker.record(
            Record(
                name=training.name,
                started=found["started"],
                params=params,
                metrics={f"best_dev_{score}": value for score, value in found["dev"].items()}
                | rankings
                | {"dev_attention_entropy": measured["entropy"]},
                history=found["history"],
                tags={**tags, DIGEST: found["digest"]},
                datasets={split: training.root / paths.PREPARED / f"{split}.parquet" for split in ("train", "dev")},
                of_pipeline=False,
            )
        )
        if training.test:
            gold = load_split("test", ["label"], training.root)["label"].tolist()
            tested = scores(gold, named(found["test"], found["labels"]), found["labels"])
            test_file = training.root / paths.PREPARED / "test.parquet"
            tracker.add(
                run, metrics={f"test_{score}": value for score, value in tested.items()}, datasets={"test": test_file}
            )


@dataclass(frozen=True)
class Answers:
    """What the models of one variant answered.

    Args:
        gold: right labels of what it was judged on, all folds together, `(N,)`.
        predicted: by seed, `(N,)`.
        test_gold: right labels of the test set, `(M,)`; empty where it was not asked.
        test_predicted: by seed, `(M,)`.
        ensemble: labels of the mean of the seeds' probabilities, `(M,)`.
        found: of every training.
    """

    gold: list[str]
    predicted: dict[int, list[str]]
    test_gold: list[str]
    test_predicted: dict[int, list[str]]
    ensemble: list[str]
    found: list[Mapping[str, Any]]


def answers_of(done: Sequence[tuple[Training, Mapping[str, Any]]]) -> Answers:
    """Gathers the trainings of one variant, in the order of `trainings`."""
    from bilstm_attention.experiment.prediction import named
    from bilstm_attention.experiment.task import load_split

    roots = list(dict.fromkeys(training.root for training, _ in done))
    gold = [label for root in roots for label in load_split("dev", ["label"], root)["label"]]
    predicted: dict[int, list[str]] = defaultdict(list)
    for training, found in done:
        predicted[training.seed] += found["predicted"]
    tested = [(training.seed, found["test"], found["labels"]) for training, found in done if training.test]
    return Answers(
        gold=gold,
        predicted=dict(predicted),
        test_gold=load_split("test", ["label"], roots[0])["label"].tolist() if tested else [],
        test_predicted={seed: named(probabilities, labels) for seed, probabilities, labels in tested},
        ensemble=named(np.mean([each for _, each, _ in tested], axis=0), tested[0][2]) if tested else [],
        found=[found for _, found in done],
    )


def tabulate(comparison: Comparison, answers: Mapping[str, Answers]) -> pd.DataFrame:
    """A row per variant: scores by seed, mean and sd, p against the reference, weights added, faithfulness.

    With the test set also its scores, the 95 % interval of their mean and the ensemble's score; p is then of test.
    """
    from bilstm_attention.experiment import scoring

    monitor, reference = comparison.monitor, answers[comparison.reference]

    def score(gold: Sequence[str], predicted: Sequence[str]) -> float:
        return scoring.scores(gold, predicted, sorted({*gold, *predicted}))[monitor]

    rows = []
    for name, one in answers.items():
        scores = {seed: score(one.gold, predicted) for seed, predicted in one.predicted.items()}
        measured = pd.json_normalize([found["faithfulness"] for found in one.found]).mean(numeric_only=True)
        pairs = (one.test_gold, one.test_predicted, reference.test_gold, reference.test_predicted)
        gold, own, other_gold, others = (
            pairs if comparison.test else (one.gold, one.predicted, reference.gold, reference.predicted)
        )
        paired = name != comparison.reference and gold == other_gold
        row = {"variant": name, **{f"seed_{seed}": value for seed, value in scores.items()}}
        row |= scoring.spread_over_seeds(scores)
        if comparison.test:
            tested = {seed: score(one.test_gold, predicted) for seed, predicted in one.test_predicted.items()}
            low, high = scoring.bootstrap_interval(one.test_gold, list(one.test_predicted.values()), monitor)
            summary = scoring.summary_over_seeds(tested, low, high)
            row |= {f"test_seed_{seed}": value for seed, value in tested.items()}
            row |= {f"test_{key}": summary[key] for key in ("mean", "sd", "low", "high")}
            row["test_ensemble"] = score(one.test_gold, one.ensemble)
        row["p"] = scoring.compare(gold, list(own.values()), list(others.values()), monitor) if paired else None
        row["weights_added"] = one.found[0]["weights"] - reference.found[0]["weights"]
        row |= {name.replace(".", "_"): measured[name] for name in MEASURES}
        row |= {f"share_{kind}": measured.get(f"attention_share.{kind}") for kind in SHARES.values()}
        rows.append(row)
    return pd.DataFrame(rows).drop(columns="by_seed")


def page(comparison: Comparison, table: pd.DataFrame, commands: Sequence[str], made_with: Sequence[str]) -> str:
    """The Markdown page: words and scores of every variant, then what is known of their attention.

    Args:
        comparison: what was compared.
        table: of `tabulate`.
        commands: that made it.
        made_with: what the trainings were made with, each once.
    """
    text = [comparison.about.rstrip(), "", "```sh", *commands, "```", ""]
    of_test = [f"test {comparison.monitor}", "95 % interval", "ensemble"] if comparison.test else []
    score, seeds = f"{comparison.judged_on} {comparison.monitor}", f"{comparison.judged_on}, by seed"
    p = f"p {'on test ' if comparison.test else ''}against {comparison.reference}"
    heads = [*comparison.columns, "weights added", score, seeds, *of_test, p]
    text += [_line("variant", *heads), _line(*["---"] * (len(heads) + 1))]
    for row in table.to_dict("records"):
        by_seed = ", ".join(f"{row[f'seed_{seed}']:.1f}" for seed in comparison.seeds)
        words = [comparison.words[row["variant"]].get(column, "") for column in comparison.columns]
        cells = [f"{row['weights_added']:,}", _mean_and_sd(row["mean"], row["sd"]), by_seed]
        if comparison.test:
            cells += [_mean_and_sd(row["test_mean"], row["test_sd"]), f"{row['test_low']:.2f}–{row['test_high']:.2f}"]
            cells += [f"{row['test_ensemble']:.2f}"]
        cells += ["" if pd.isna(row["p"]) else f"{row['p']:.3f}"]
        text.append(_line(f"`{row['variant']}`", *words, *cells))
    text += ["", f"![{comparison.monitor} by variant]({comparison.name}.png)", ""]
    judged = "dev sentences" if comparison.folds is None else "sentences of each fold"
    text += [FAITHFULNESS.format(rows=FAITHFULNESS_ROWS, judged=judged), ""]
    heads = ["attention", "random", "gradient x input", "attention", "random", "gradient x input"]
    text += [
        _line(
            "",
            *[f"{of}: {by}" for of, by in zip(["comp."] * 3 + ["suff."] * 3, heads, strict=True)],
            "entropy",
            *SHARES,
        ),
        _line(*["---"] * (8 + len(SHARES))),
    ]
    for row in table.to_dict("records"):
        numbers = [row[f"{of}_{by}"] for of in ("comprehensiveness", "sufficiency") for by in RANKINGS]
        numbers += [row["entropy"], *(row[f"share_{kind}"] for kind in SHARES.values())]
        text.append(_line(f"`{row['variant']}`", *("" if pd.isna(number) else f"{number:.1f}" for number in numbers)))
    return "\n".join([*text, "", *(f"Trained with {each}." for each in made_with), ""])


def _mean_and_sd(mean: float, sd: float | None) -> str:
    return f"{mean:.2f}" if pd.isna(sd) else f"{mean:.2f} ± {sd:.2f}"


RANKINGS = ("attention", "random", "gradient_input")
MEASURES = [f"{of}.{by}" for of in ("comprehensiveness", "sufficiency") for by in RANKINGS] + ["entropy"]
SHARES = {
    "on entities": "entities",
    "markers": "entity_markers",
    "function words": "function_words",
    "punctuation": "punctuation",
    "other words": "other_words",
}
FAITHFULNESS = (
    "## Does the attention mean anything?\n\n"
    "On {rows} {judged}, means of all trainings; percentage points of the predicted class's probability.\n"
    "Comprehensiveness: what deleting the tokens on top of a ranking takes away (higher: they were needed).\n"
    "Sufficiency: what is missing when they alone are left (lower: they were enough). Both after DeYoung et al. 2020\n"
    "(arXiv:1911.03429), mean of 1, 5, 10, 20 and 50 % of the tokens, each rounded up to whole ones. Entropy: percent\n"
    "of that of uniform weights. Then where the weight lies, in percent."
)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main(
    file: Annotated[Path, typer.Argument(help="A file of experiments/comparisons.")],
    workers: Annotated[int, typer.Option(min=1, help="Trainings at once, each of one thread.")] = 2,
) -> None:
    """Trains, records and compares every variant of FILE."""
    start_tensorflow()
    from bilstm_attention.insight.plots import compared

    comparison = read_comparison(file)
    planned = trainings(comparison, paths.STUDIES / comparison.name)
    prepare_data(planned)
    done: dict[str, dict[str, Any]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(comparison.name, total=len(planned))
        for training, found in train_all(planned, workers):
            done[training.name] = found
            record(comparison, training, found)
            scores = "  ".join(f"{score} {value:.2f}" for score, value in found["dev"].items())
            progress.console.print(f"{training.name}: {scores}", soft_wrap=True)
            progress.advance(task)
    answers = {
        name: answers_of([(training, done[training.name]) for training in planned if training.variant == name])
        for name in comparison.variants
    }
    table = tabulate(comparison, answers)
    target = Path("experiments/results") / comparison.name
    with paths.written_whole(target.with_suffix(".csv")) as path:
        table.to_csv(path, index=False, float_format="%.4f")
    commands = [f"python experiments/compare.py {file} --workers {workers}"]
    made_with = sorted({found["made_with"] for found in done.values()})
    with paths.written_whole(target.with_suffix(".md")) as path:
        path.write_text(page(comparison, table, commands, made_with), encoding="utf-8")
    of, judged_on = ("test_", "test") if comparison.test else ("", comparison.judged_on)
    columns_shown = {f"{of}{name}": name for name in ("mean", *(f"seed_{seed}" for seed in comparison.seeds))}
    picture = table[["variant", *columns_shown]].rename(columns=columns_shown)
    compared(picture, f"{judged_on} {comparison.monitor}", target.with_suffix(".png"))
    print(f"{target}.md, .csv and .png written")


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
