"""Results of a comparison: scores, spread, intervals, significance, and the confusions of the reference."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from bilstm_attention.data.dataset import load_split
from bilstm_attention.evaluation import metrics as scoring
from bilstm_attention.search.comparison import Comparison, PlannedTraining
from bilstm_attention.search.trainings import TrainingRecord, sample_name

RANKINGS = ("attention", "random", "gradient_input")
MEASURES = [f"{of}.{by}" for of in ("comprehensiveness", "sufficiency") for by in RANKINGS] + ["entropy"]
SHARES = ("entities", "entity_markers", "function_words", "punctuation", "other_words")

Done = Sequence[tuple[PlannedTraining, TrainingRecord]]


@dataclass(frozen=True)
class Answers:
    """What the models of one variant predicted.

    Args:
        gold: labels of the sentences that score the variant, all folds together, `(N,)`.
        predicted: by seed, `(N,)`.
        test_gold: labels of the test set, `(M,)`; empty without the test set.
        test_predicted: by seed, `(M,)`.
        ensemble: labels of the mean of the seeds' probabilities, `(M,)`.
        done: the trainings with their records.
    """

    gold: list[str]
    predicted: dict[int, list[str]]
    test_gold: list[str]
    test_predicted: dict[int, list[str]]
    ensemble: list[str]
    done: Done

    @property
    def records(self) -> list[TrainingRecord]:
        """The record of each training."""
        return [record for _, record in self.done]


def collect_answers(done: Done) -> Answers:
    """Gathers the trainings of one variant, in the order of `Comparison.trainings`."""
    roots = {planned.job.root: planned.job.scored for planned, _ in done}
    gold = [label for root, split in roots.items() for label in load_split(split, ["label"], root)["label"]]
    predicted: dict[int, list[str]] = defaultdict(list)
    for planned, record in done:
        predicted[planned.job.seed] += record.predicted
    tested = {planned.job.seed: record for planned, record in done if planned.job.test}
    labels = done[0][1].labels
    probabilities = {seed: np.asarray(record.test) for seed, record in tested.items()}
    return Answers(
        gold=gold,
        predicted=dict(predicted),
        test_gold=load_split("test", ["label"], done[0][0].job.root)["label"].tolist() if tested else [],
        test_predicted={seed: _labels(values, labels) for seed, values in probabilities.items()},
        ensemble=_labels(np.mean(list(probabilities.values()), axis=0), labels) if tested else [],
        done=done,
    )


def _labels(probabilities: Any, labels: Sequence[str]) -> list[str]:
    return [labels[number] for number in probabilities.argmax(axis=1)]


def tabulate(comparison: Comparison, answers: Mapping[str, Answers]) -> pd.DataFrame:
    """A row per variant: scores by seed, mean and sd, the 95 % interval of the mean, p against the reference, weights
    added, and faithfulness where it is shown.

    With the test set also its scores and the ensemble's score; interval and p are then of test.
    """
    monitor, test = comparison.monitor, comparison.table.test
    reference, rows = answers[comparison.table.reference], []
    for name, variant in answers.items():
        score = partial(_score, monitor, variant.records[0].labels)
        by_seed = {seed: score(variant.gold, labels) for seed, labels in variant.predicted.items()}
        row: dict[str, Any] = {"variant": name, **{f"seed_{seed}": value for seed, value in by_seed.items()}}
        gold, predicted = _compared_answers(variant, test)
        options = comparison.variants[name].evaluate
        low, high = scoring.bootstrap_interval(gold, predicted, monitor, options.bootstrap, options.bootstrap_seed)
        if not test:
            row |= scoring.summary_over_seeds(by_seed, low, high)
        else:
            row |= scoring.spread_over_seeds(by_seed)
            tested = {seed: score(gold, labels) for seed, labels in variant.test_predicted.items()}
            summary = scoring.summary_over_seeds(tested, low, high)
            row |= {f"test_seed_{seed}": value for seed, value in tested.items()}
            row |= {f"test_{key}": summary[key] for key in ("mean", "sd", "low", "high")}
            row["test_ensemble"] = score(gold, variant.ensemble)
        row["p"] = _significance(variant, reference, monitor, test)
        row["weights"] = variant.records[0].weights
        row["weights_added"] = row["weights"] - reference.records[0].weights
        if "faithfulness" in comparison.table.show:
            row |= _faithfulness(variant)
        rows.append(row)
    table = pd.DataFrame(rows).drop(columns="by_seed")
    # numbers, also where none is known
    return table.astype({column: float for column in ("sd", "test_sd", "p") if column in table})


def _compared_answers(variant: Answers, test: bool) -> tuple[list[str], list[list[str]]]:
    """Gold labels and each seed's predictions, on test or on dev, of which interval and p are."""
    gold, predicted = (variant.test_gold, variant.test_predicted) if test else (variant.gold, variant.predicted)
    return gold, list(predicted.values())


def _faithfulness(variant: Answers) -> dict[str, float | None]:
    """Of the attention on dev, means over the trainings."""
    measured = pd.json_normalize(
        [
            record.faithfulness[sample_name(sample)]
            for planned, record in variant.done
            for sample in planned.job.faithfulness
        ]
    ).mean(numeric_only=True)
    measures = {measure.replace(".", "_"): measured[measure] for measure in MEASURES}
    shares = {f"share_{kind}": measured.get(f"attention_share.{kind}") for kind in SHARES}
    return {"faithfulness_rows": measured["rows"], **measures, **shares}


def _score(monitor: str, labels: Sequence[str], gold: Sequence[str], predicted: Sequence[str]) -> float:
    return scoring.scores(gold, predicted, labels)[monitor]


def _significance(variant: Answers, reference: Answers, monitor: str, test: bool) -> float | None:
    """p of the difference; None for the reference itself, and where sentences differ."""
    gold, predicted = _compared_answers(variant, test)
    reference_gold, reference_predicted = _compared_answers(reference, test)
    if variant is reference or gold != reference_gold:
        return None
    return scoring.compare(gold, predicted, reference_predicted, monitor)


def scores_by_class(answers: Mapping[str, Answers]) -> pd.DataFrame:
    """F1 on test of each relation, or class, in percent, mean over seeds: a row each, `items`, a column per variant.

    The none label comes last; it is no part of the official score. A variant's name is in backticks.
    """
    columns: dict[str, pd.Series] = {}
    for name, variant in answers.items():
        labels = variant.records[0].labels
        tables = [
            scoring.per_relation(variant.test_gold, predicted, labels).set_index("relation")
            for predicted in variant.test_predicted.values()
        ]
        columns.setdefault("items", tables[0]["support"])
        columns[f"`{name}`"] = pd.concat([table["f1"] for table in tables], axis=1).mean(axis=1)
    return pd.DataFrame(columns).reset_index(names="class")


def frequent_confusions(done: Done, shown: int = 12) -> pd.DataFrame:
    """The most frequent wrong answers of one variant on dev or the folds, all seeds together: at most `shown` rows.

    Columns: `gold`, `predicted`, `answers`; and of the most certain of these its `confidence` in percent, the `id` of
    its sentence and the `words`: those of the entities, or without entities the first ten.
    """
    splits = [
        load_split(planned.job.scored, root=planned.job.root).assign(
            predicted=record.predicted, confidence=record.confidence
        )
        for planned, record in done
    ]
    answers = pd.concat(splits, ignore_index=True).rename(columns={"label": "gold"})
    wrong = answers[answers["gold"] != answers["predicted"]]
    count = wrong.groupby(["gold", "predicted"])["id"].transform("size")
    surest = wrong.assign(answers=count).sort_values("confidence", ascending=False, kind="stable")
    surest = surest.drop_duplicates(["gold", "predicted"]).sort_values("answers", ascending=False, kind="stable")
    table = surest.head(shown)
    return table[["gold", "predicted", "answers"]].assign(
        confidence=100 * table["confidence"], id=table["id"], words=[_words(row) for row in table.to_dict("records")]
    )


def _words(row: Mapping[Any, Any]) -> str:
    spans = [(row[f"{name}_start"], row[f"{name}_end"]) for name in ("e1", "e2")] if "e1_start" in row else [(0, 10)]
    return " … ".join(" ".join(row["tokens"][start:end]) for start, end in spans)
