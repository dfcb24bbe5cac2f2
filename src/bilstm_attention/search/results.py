"""Results of a comparison: scores, spread, intervals, significance, confusions of the reference, and MLflow runs."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bilstm_attention import paths
from bilstm_attention.config import flatten, with_overrides
from bilstm_attention.data.dataset import load_split
from bilstm_attention.evaluation import metrics as scoring
from bilstm_attention.search.comparison import Comparison
from bilstm_attention.search.trainings import (
    Done,
    TrainingJob,
    TrainingRecord,
    answers,
    predicted_on_test,
    sample_name,
)
from bilstm_attention.tracking.pipeline import attention_metrics, corpus_name
from bilstm_attention.tracking.runs import RunRecord, fingerprints, training_metrics

RUNS = paths.TRAININGS / "runs"  # a file per table, from which its runs are logged


def tabulate(comparison: Comparison, done: Mapping[str, Done]) -> pd.DataFrame:
    """A row per variant: scores by seed, mean and sd, the 95 % interval of the mean, p against the reference, weights
    added, and faithfulness where it is shown.

    With the test set also its scores and the ensemble's score; interval and p are then of test.
    """
    monitor, test, rows = comparison.monitor, comparison.table.test, []
    reference, prefix = done[comparison.table.reference], "test_" if test else ""
    first_gold, first_predicted = answers(reference, test)
    for name, trainings in done.items():
        labels, options = trainings[0][1].labels, comparison.variants[name].evaluate
        gold, predicted = answers(trainings, test)
        row = {"variant": name} | _summary(*answers(trainings), labels, monitor)
        if test:
            row |= _summary(gold, predicted, labels, monitor, prefix)
        row[f"{prefix}low"], row[f"{prefix}high"] = scoring.bootstrap_interval(
            gold, [*predicted.values()], monitor, options.bootstrap, options.bootstrap_seed
        )
        if test:
            best = np.asarray([record.test for _, record in trainings]).mean(axis=0).argmax(axis=1)
            row["test_ensemble"] = scoring.scores(gold, [labels[number] for number in best], labels)[monitor]
        # variants with data of their own may have other sentences
        other = trainings is not reference and gold == first_gold
        row["p"] = scoring.compare(gold, [*predicted.values()], [*first_predicted.values()], monitor) if other else None
        row["weights"] = trainings[0][1].weights
        row["weights_added"] = row["weights"] - reference[0][1].weights
        if "faithfulness" in comparison.table.show:
            row |= _faithfulness(trainings)
        rows.append(row)
    table = pd.DataFrame(rows)
    # numbers, also where none is known
    return table.astype({column: float for column in ("sd", "test_sd", "p") if column in table})


def _summary(
    gold: list[str], predicted: Mapping[int, list[str]], labels: list[str], metric: str, prefix: str = ""
) -> dict[str, Any]:
    """The score of each seed, `seed_N`, their `mean` and their `sd`; all with the prefix."""
    by_seed = {seed: scoring.scores(gold, each, labels)[metric] for seed, each in predicted.items()}
    spread = scoring.spread_over_seeds(by_seed)
    scores = {f"seed_{seed}": score for seed, score in by_seed.items()} | {key: spread[key] for key in ("mean", "sd")}
    return {f"{prefix}{name}": score for name, score in scores.items()}


def _faithfulness(done: Done) -> dict[str, float]:
    """Of the attention on dev, means over the trainings."""
    measured = pd.json_normalize(
        [record.faithfulness[sample_name(sample)] for job, record in done for sample in job.faithfulness]
    ).mean(numeric_only=True)
    order = ("rows", "comprehensiveness", "sufficiency", "entropy", "attention_share")
    shown = pd.concat([measured.filter(regex=f"^{name}") for name in order])
    for old, new in {"rows": "faithfulness_rows", "attention_share.": "share_", ".": "_"}.items():
        shown.index = shown.index.str.replace(old, new, regex=False)
    return {str(name): value for name, value in shown.items()}


def scores_by_class(done: Mapping[str, Done]) -> pd.DataFrame:
    """F1 on test of each relation, or class, in percent, mean over seeds: a row each, `items`, a column per variant.

    The none label comes last; it is no part of the official score. A variant's name is in backticks.
    """
    columns: dict[str, pd.Series] = {}
    for name, trainings in done.items():
        gold, predicted = answers(trainings, test=True)
        tables = [
            scoring.per_relation(gold, each, trainings[0][1].labels).set_index("relation")
            for each in predicted.values()
        ]
        columns.setdefault("items", tables[0]["support"])
        columns[f"`{name}`"] = pd.concat([table["f1"] for table in tables], axis=1).mean(axis=1)
    return pd.DataFrame(columns).reset_index(names="class")


def _predictions(done: Done) -> pd.DataFrame:
    """The split that scores the variant, of all folds, with `seed`, `predicted` and `confidence`."""
    splits = [
        load_split(job.scored, root=job.root).assign(
            seed=job.seed, predicted=record.predicted, confidence=record.confidence
        )
        for job, record in done
    ]
    return pd.concat(splits, ignore_index=True)


def frequent_confusions(done: Done, shown: int = 12) -> pd.DataFrame:
    """The most frequent wrong answers of one variant on dev or the folds, all seeds together: at most `shown` rows.

    Columns: `gold`, `predicted`, `answers`; and of the most certain of these its `confidence` in percent, the `id` of
    its sentence and the `words`: those of the entities, or without entities the first ten.
    """
    predictions = _predictions(done).rename(columns={"label": "gold"}).query("gold != predicted")
    count = predictions.groupby(["gold", "predicted"])["id"].transform("size")
    surest = predictions.assign(answers=count).sort_values("confidence", ascending=False, kind="stable")
    surest = surest.drop_duplicates(["gold", "predicted"]).sort_values("answers", ascending=False, kind="stable")
    table = surest.head(shown).assign(confidence=100 * surest["confidence"])
    table["words"] = [_words(row) for row in table.to_dict("records")]
    return table[["gold", "predicted", "answers", "confidence", "id", "words"]]


def _words(row: Mapping[Any, Any]) -> str:
    spans = [(row[f"{name}_start"], row[f"{name}_end"]) for name in ("e1", "e2")] if "e1_start" in row else [(0, 10)]
    return " … ".join(" ".join(row["tokens"][start:end]) for start, end in spans)


def label_issues(done: Done) -> pd.DataFrame:
    """The sentences whose prediction out of fold is not their label, the most certain first.

    Columns: `id`, `text`, `label`, `predicted`, `confidence`. Of several seeds, `predicted` has the highest mean
    probability, where a seed that predicts another label counts as 0; `confidence` is that mean.
    """
    predictions = _predictions(done)
    sums = predictions.groupby(["id", "predicted"], sort=False)["confidence"].sum()
    mean = (sums / predictions["seed"].nunique()).round(4).sort_values(ascending=False, kind="stable")
    sentences = predictions.drop_duplicates("id")[["id", "tokens", "label"]]
    issues = mean.reset_index().drop_duplicates("id").merge(sentences, on="id").query("predicted != label")
    return issues.assign(text=issues["tokens"].map(" ".join))[["id", "text", "label", "predicted", "confidence"]]


def save_runs(comparison: Comparison, done: Mapping[str, Done]) -> None:
    """Writes the runs of a table by MLflow experiment; a training of several tables is a run of each."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for variant, trainings in done.items():
        for job, record in trainings:
            runs.setdefault(corpus_name(job.params), []).append(_run(comparison, variant, job, record))
    paths.write_json(RUNS / f"{comparison.page}.{comparison.name}.json", runs)


def comparison_runs(table: str = "*") -> list[tuple[str, list[RunRecord]]]:
    """The runs of all comparisons, by MLflow experiment: a parent, described by the page, and the trainings.

    Args:
        table: as `page.table`, if it is one alone.
    """
    runs: dict[tuple[str, str], list[RunRecord]] = {}
    for file in sorted(RUNS.glob(f"{table}.json")):
        page = file.stem.rpartition(".")[0]
        for experiment, arguments in json.loads(file.read_text(encoding="utf-8")).items():
            records = runs.setdefault((page, experiment), [_parent(page)])
            for each in arguments:
                identity, parent = tuple(each["identity"]), records[0].identity
                records.append(RunRecord(**{**each, "identity": identity, "parent": parent}))
    return [(experiment, records) for (_, experiment), records in runs.items()]


def _parent(page: str) -> RunRecord:
    file = paths.RESULTS / f"{page}.md"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    link = rf"\]\(({page}[^/)]*[.](?:png|csv))\)"
    files = [paths.RESULTS / name for name in dict.fromkeys((f"{page}.csv", f"{page}.md", *re.findall(link, text)))]
    return RunRecord(
        name=page,
        identity=("comparison.page", page),
        artifacts={"": [each for each in files if each.is_file()]},
        description=re.sub(link, r"](artifact:\1)", text),
    )


def _run(comparison: Comparison, variant: str, job: TrainingJob, record: TrainingRecord) -> dict[str, Any]:
    """The arguments of a `RunRecord`."""
    fold, splits = job.params.data.fold, ["train", "dev"]
    tags = {"comparison": comparison.page, "table": comparison.name, "variant": variant, "seed": str(job.seed)}
    tags |= {} if fold is None else {"fold": str(fold)}
    curves = training_metrics(record.history, record.dev, record.best_epoch)
    for sample in job.faithfulness:
        curves["metrics"] |= attention_metrics(record.faithfulness[sample_name(sample)])
    if predicted := predicted_on_test(job, record):
        splits.append("test")
        gold = load_split("test", ["label"], job.root)["label"].tolist()
        tested = scoring.scores(gold, predicted, record.labels)
        curves["metrics"] |= {f"test/{name}": value for name, value in tested.items()}
    # a digest, since names of variants may hold quotes, which end a query of MLflow
    identity = hashlib.sha256(json.dumps([record.key, *tags.values()]).encode()).hexdigest()[:32]
    return {
        "name": job.name,
        "identity": ("training.digest", identity),
        "params": flatten(with_overrides(job.params, {"train.seeds": [job.seed]})),
        "started": record.started,
        **curves,
        "tags": record.environment | tags,
        "datasets": fingerprints({split: job.root / paths.PREPARED / f"{split}.parquet" for split in splits}),
    }
