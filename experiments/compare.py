"""Trains named variants of one experiment under the same budget and seeds, and writes what they score on dev.

    python experiments/compare.py experiments/comparisons/NAME.yaml --workers 2

writes `experiments/results/NAME.md`, `.csv` and `.png`. Each seed is one training, judged on the dev split of the base,
or, with `folds: K`, K trainings, each judged on the fold of the training set that it did not learn from; the score is
then of all these answers together. No model answers the test set. The comparison prepares its own data, in
`experiments/studies/NAME`; every training is a run in MLflow. Killed, the same command goes on from the last finished
epoch of every training; finished ones are read, not repeated.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

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
KEYS = {"about", "base", "overrides", "folds", "seeds", "reference", "columns", "variants"}


@dataclass(frozen=True)
class Comparison:
    """What a file of `experiments/comparisons` says.

    Args:
        name: of the file.
        base: the experiment that prepares its data.
        about: Markdown over the table.
        columns: what is said of every variant in words, as columns of the table.
        reference: the variant that the others are tested against.
        folds: of a cross-validation on the training set; None: the dev split of the base.
        seeds: a training each, or one for each fold.
        variants: by name, what is said of it and its parameters, checked.
    """

    name: str
    base: str
    about: str
    columns: list[str]
    reference: str
    folds: int | None
    seeds: list[int]
    words: dict[str, dict[str, str]]
    variants: dict[str, Params]


def read_comparison(path: Path) -> Comparison:
    """Reads and checks a file of variants: every key, value and combination before the first training.

    Raises:
        ParamsError: a key is missing or unknown, a parameter is illegal, or the reference is no variant.
    """
    given = read_yaml(path)
    if set(given) | {"folds"} != KEYS:
        raise ParamsError(f"{path}: has the keys {', '.join(given)}; a comparison has {', '.join(sorted(KEYS))}.")
    # a core does more with a training of its own than as the second thread of another's
    shared = {**read_overrides(Path(given["base"])), "train.threads": 1, **given["overrides"]}
    folds = given.get("folds")
    shared |= {} if folds is None else {"data.folds": folds, "data.fold": 0}
    variants = {
        name: with_overrides(Params(), {**shared, **variant["set"]}, where=f"{path}: {name}")
        for name, variant in given["variants"].items()
    }
    if given["reference"] not in variants:
        raise ParamsError(f"{path}: reference {given['reference']!r} is none of its variants, {', '.join(variants)}.")
    if any(params.train.monitor == "loss" for params in variants.values()):
        raise ParamsError(f"{path}: train.monitor: loss compares no labels; name a score, for instance accuracy.")
    first = variants[given["reference"]]
    for name, params in variants.items():
        if (params.data, params.embeddings) != (first.data, first.embeddings):
            raise ParamsError(f"{path}: {name}: has other data or vectors than {given['reference']}; all share them.")
    words = {name: variant.get("words", {}) for name, variant in given["variants"].items()}
    said = {key: given[key] for key in ("base", "about", "columns", "reference", "seeds")}
    return Comparison(name=path.stem, words=words, variants=variants, folds=folds, **said)


def prepare_data(comparison: Comparison, folder: Path) -> list[Path]:
    """Splits and vectors of the comparison, under a folder for each fold, or under one; returns these."""
    from bilstm_attention.stages import embed, prepare

    params = comparison.variants[comparison.reference]
    folds = [params.data.fold] if comparison.folds is None else range(comparison.folds)
    roots = [folder / ("split" if fold is None else f"fold-{fold}") for fold in folds]
    for fold, root in zip(folds, roots, strict=True):
        of_fold = params.model_copy(update={"data": params.data.model_copy(update={"fold": fold})})
        prepare(params=of_fold, root=root)
        embed(params=of_fold, root=root)
    return roots


@cache
def _inputs(root: Path) -> tuple[Any, Any, Any]:
    """Task, dev table and vocabulary, read once per process."""
    from bilstm_attention.experiment.task import load_split, load_task, load_vocabulary

    return load_task(root), load_split("dev", root=root), load_vocabulary(root)


def train_one(params: Params, seed: int, root: Path) -> dict[str, Any]:
    """Trains one variant with one seed on what lies under `root`, and measures it on dev, or reads what that gave."""
    start_tensorflow()
    from bilstm_attention.experiment import faithfulness, prediction, training
    from bilstm_attention.experiment.checkpoint import digest
    from bilstm_attention.experiment.environment import made_with
    from bilstm_attention.stages import write_json

    task, dev, vocabulary = _inputs(root)
    checkpoint = training.training_checkpoint(paths.CHECKPOINTS, params.model, params.train, task, seed)
    measures = Path(faithfulness.__file__).read_text(encoding="utf-8")
    path = root / f"{digest(checkpoint.path.stem, measures, FAITHFULNESS_ROWS)}.json"
    if not path.exists():
        started = time.time()
        fitted = training.fit(params.model, params.train, task, seed, checkpoints=paths.CHECKPOINTS)
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
        }
        write_json(path, found)
    checkpoint.remove()
    return dict(json.loads(path.read_text(encoding="utf-8")))


def train_all(
    comparison: Comparison, workers: int, roots: Sequence[Path]
) -> Iterator[tuple[str, int, int, dict[str, Any]]]:
    """Every variant with every seed on every root, all variants with the first seed first; yields each when done."""
    jobs = [
        (name, seed, number)
        for seed in comparison.seeds
        for number in range(len(roots))
        for name in comparison.variants
    ]
    # spawned, since TensorFlow does not survive a fork
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        waiting = {
            pool.submit(train_one, comparison.variants[name], seed, roots[number]): (name, seed, number)
            for name, seed, number in jobs
        }
        for done in as_completed(waiting):
            yield *waiting[done], done.result()


def pooled(of_roots: Sequence[Mapping[str, Any]], gold: Sequence[str], monitor: str) -> dict[str, Any]:
    """One seed's trainings as one: all its answers, their score, the mean of what is known of its attention.

    Args:
        of_roots: what `train_one` returned for each root.
        gold: labels of all dev sentences, in the order of the roots.
        monitor: the score.
    """
    from bilstm_attention.experiment.scoring import scores

    predicted = [label for found in of_roots for label in found["predicted"]]
    measured = pd.json_normalize([found["faithfulness"] for found in of_roots]).mean(numeric_only=True)
    return {
        "predicted": predicted,
        "score": scores(gold, predicted, sorted(set(gold)))[monitor],
        "by_root": [found["dev"][monitor] for found in of_roots],
        "weights": of_roots[0]["weights"],
        "faithfulness": measured.to_dict(),
    }


def record(comparison: Comparison, name: str, seed: int, root: Path, found: Mapping[str, Any]) -> None:
    """Writes the training as a run to MLflow, unless the store has it."""
    from bilstm_attention.experiment.runs import corpus_name
    from bilstm_attention.experiment.tracking import Record, Tracker, tracking_may_fail

    params = with_overrides(comparison.variants[name], {"train.seeds": [seed]})
    where = "" if comparison.folds is None else f" {root.name}"
    with tracking_may_fail(f"{name}, seed {seed}{where}"):
        tracker = Tracker(corpus_name(params))
        if tracker.newest(DIGEST, found["digest"]):
            return
        measured = found["faithfulness"]
        rankings = {
            f"dev_{of}_{by}": measured[of][by] for of in ("comprehensiveness", "sufficiency") for by in measured[of]
        }
        tracker.record(
            Record(
                name=f"{name} seed={seed}{where}",
                started=found["started"],
                params=params,
                metrics={f"best_dev_{score}": value for score, value in found["dev"].items()}
                | rankings
                | {"dev_attention_entropy": measured["entropy"]},
                history=found["history"],
                tags={"comparison": comparison.name, "variant": name, "seed": str(seed), DIGEST: found["digest"]},
                datasets={split: root / paths.PREPARED / f"{split}.parquet" for split in ("train", "dev")},
            )
        )


def tabulate(
    comparison: Comparison, gold: Sequence[str], results: Mapping[str, Mapping[int, Mapping[str, Any]]]
) -> pd.DataFrame:
    """A row per variant: scores by seed, mean and sd, p against the reference, weights added, faithfulness.

    Args:
        gold: labels of all dev sentences, in the order of the roots.
        results: by variant and seed, what `pooled` returned.
    """
    from bilstm_attention.experiment import scoring

    monitor = next(iter(comparison.variants.values())).train.monitor
    reference = [found["predicted"] for found in results[comparison.reference].values()]
    first = next(iter(results[comparison.reference].values()))
    rows = []
    for name, by_seed in results.items():
        found = list(by_seed.values())
        predicted = [one["predicted"] for one in found]
        itself = name == comparison.reference
        measured = pd.DataFrame([one["faithfulness"] for one in found]).mean()
        scores = {seed: one["score"] for seed, one in by_seed.items()}
        rows.append(
            {
                "variant": name,
                **{f"seed_{seed}": score for seed, score in scores.items()},
                **scoring.spread_over_seeds(scores),
                "p": None if itself else scoring.compare(gold, predicted, reference, monitor),
                "weights_added": found[0]["weights"] - first["weights"],
                **{name.replace(".", "_"): measured[name] for name in MEASURES},
                **{f"share_{kind}": measured[f"attention_share.{kind}"] for kind in SHARES.values()},
            }
        )
    return pd.DataFrame(rows).drop(columns="by_seed")


def page(comparison: Comparison, table: pd.DataFrame, commands: Sequence[str], made_with: Sequence[str]) -> str:
    """The Markdown page: words and scores of every variant, then what is known of their attention.

    Args:
        comparison: what was compared.
        table: of `tabulate`.
        commands: that made it.
        made_with: what the trainings were made with, each once.
    """
    base = next(iter(comparison.variants.values())).train
    text = [comparison.about.rstrip(), "", "```sh", *commands, "```", ""]
    heads = [
        *comparison.columns,
        "weights added",
        f"dev {base.monitor}",
        "by seed",
        f"p against {comparison.reference}",
    ]
    text += [_line("variant", *heads), _line(*["---"] * (len(heads) + 1))]
    for row in table.to_dict("records"):
        by_seed = ", ".join(f"{row[f'seed_{seed}']:.1f}" for seed in comparison.seeds)
        words = [comparison.words[row["variant"]].get(column, "") for column in comparison.columns]
        p = "" if pd.isna(row["p"]) else f"{row['p']:.3f}"
        score = f"{row['mean']:.2f}" if pd.isna(row["sd"]) else f"{row['mean']:.2f} ± {row['sd']:.2f}"
        text.append(_line(f"`{row['variant']}`", *words, f"{row['weights_added']:,}", score, by_seed, p))
    text += ["", f"![dev {base.monitor} by variant]({comparison.name}.png)", ""]
    text += [FAITHFULNESS.format(rows=FAITHFULNESS_ROWS), ""]
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
        numbers += [row["entropy"], *(row.get(f"share_{kind}", float("nan")) for kind in SHARES.values())]
        text.append(_line(f"`{row['variant']}`", *(f"{number:.1f}" for number in numbers)))
    return "\n".join([*text, "", *(f"Trained with {each}." for each in made_with), ""])


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
    "On {rows} dev sentences, means of the seeds; percentage points of the predicted class's probability.\n"
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
    from bilstm_attention.experiment.task import load_split
    from bilstm_attention.insight.plots import compared

    comparison = read_comparison(file)
    folder = paths.STUDIES / comparison.name
    roots = prepare_data(comparison, folder)
    found_of: dict[tuple[str, int], dict[int, Any]] = defaultdict(dict)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        trainings = len(comparison.variants) * len(comparison.seeds) * len(roots)
        task = progress.add_task(comparison.name, total=trainings)
        for name, seed, number, found in train_all(comparison, workers, roots):
            found_of[name, seed][number] = found
            record(comparison, name, seed, roots[number], found)
            scores = "  ".join(f"{score} {value:.2f}" for score, value in found["dev"].items())
            where = "" if comparison.folds is None else f", {roots[number].name}"
            progress.console.print(f"{name}, seed {seed}{where}: {scores}", soft_wrap=True)
            progress.advance(task)
    monitor = comparison.variants[comparison.reference].train.monitor
    gold = [label for root in roots for label in load_split("dev", ["label"], root)["label"]]
    results = {
        name: {
            seed: pooled([found_of[name, seed][number] for number in range(len(roots))], gold, monitor)
            for seed in comparison.seeds
        }
        for name in comparison.variants
    }
    table = tabulate(comparison, gold, results)
    target = Path("experiments/results") / comparison.name
    with paths.written_whole(target.with_suffix(".csv")) as path:
        table.to_csv(path, index=False, float_format="%.4f")
    commands = [f"python experiments/compare.py {file} --workers {workers}"]
    made_with = sorted({one["made_with"] for found in found_of.values() for one in found.values()})
    with paths.written_whole(target.with_suffix(".md")) as path:
        path.write_text(page(comparison, table, commands, made_with), encoding="utf-8")
    compared(table, f"dev {monitor}", target.with_suffix(".png"))
    print(f"{target}.md, .csv and .png written")


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
