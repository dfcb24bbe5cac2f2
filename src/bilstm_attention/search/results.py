"""Results of a comparison: scores, spread, intervals, significance, and the errors of the reference."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from bilstm_attention.data.dataset import load_split
from bilstm_attention.data.labels import NONE_LABELS, relation_of
from bilstm_attention.evaluation import metrics as scoring
from bilstm_attention.search.comparison import Comparison, PlannedTraining
from bilstm_attention.search.trainings import TrainingRecord, sample_name

RANKINGS = ("attention", "random", "gradient_input")
MEASURES = [f"{of}.{by}" for of in ("comprehensiveness", "sufficiency") for by in RANKINGS] + ["entropy"]
SHARES = ("entities", "entity_markers", "function_words", "punctuation", "other_words")
# tokens, at most
DISTANCES = {"0 to 2": 2, "3 to 5": 5, "6 to 9": 9, "10 and more": np.inf}
LENGTHS = {"1 to 10": 10, "11 to 20": 20, "21 to 30": 30, "31 and more": np.inf}

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
    """F1 on test of each relation, or class, in percent, mean over seeds: a row each, its items, a column per variant.

    The none label comes last; it is no part of the official score.
    """
    columns: dict[str, pd.Series] = {}
    for name, variant in answers.items():
        labels = variant.records[0].labels
        tables = [
            scoring.per_relation(variant.test_gold, predicted, labels).set_index("relation")
            for predicted in variant.test_predicted.values()
        ]
        columns.setdefault("items", tables[0]["support"])
        columns[name] = pd.concat([table["f1"] for table in tables], axis=1).mean(axis=1)
    return pd.DataFrame(columns).reset_index(names="class")


@dataclass(frozen=True)
class Errors:
    """Errors of one variant on dev or the folds; never on a test file.

    Args:
        answered: answers in all.
        wrong: how many of them were wrong.
        kinds: these by kind; empty where classes are no relations.
        confusions: the most frequent: `gold`, `predicted`, `answers`.
        counted: which tokens `by_tokens` counts: those between the entities, or, without entities, the sentence's.
        by_tokens: `tokens`, `answers`, `right` in percent.
        examples: the most certain wrong answer of each of `confusions`: `id`, `gold`, `predicted`, `confidence` in
            percent, and with entities their words, `first` and `second`.
    """

    answered: int
    wrong: int
    kinds: dict[str, int]
    confusions: pd.DataFrame
    counted: str
    by_tokens: pd.DataFrame
    examples: pd.DataFrame


def collect_errors(variant: Answers, shown: int = 12) -> Errors:
    """Counts the errors of one variant, of all seeds and folds.

    Args:
        shown: confusions, and examples, at most.
    """
    table = pd.concat(
        [
            load_split(planned.job.scored, root=planned.job.root).assign(
                predicted=record.predicted, confidence=record.confidence
            )
            for planned, record in variant.done
        ],
        ignore_index=True,
    )
    wrong = table[table["label"] != table["predicted"]]
    relational = scoring.is_relational(variant.records[0].labels)
    kinds = Counter(map(_kind, wrong["label"], wrong["predicted"])) if relational else Counter()
    confusions = wrong.groupby(["label", "predicted"], sort=False).size().sort_values(ascending=False, kind="stable")
    frequent = confusions.head(shown).rename("answers").reset_index().rename(columns={"label": "gold"})
    certain = wrong.sort_values("confidence", ascending=False, kind="stable").drop_duplicates(["label", "predicted"])
    surest = frequent[["gold", "predicted"]].merge(certain.rename(columns={"label": "gold"}), how="left")
    examples = surest[["id", "gold", "predicted"]].assign(confidence=100 * surest["confidence"])
    if "e1_start" in table:
        for entity, name in ((1, "first"), (2, "second")):
            examples[name] = [_words(row, entity) for row in surest.itertuples()]
        counted, by_tokens = "tokens between the entities", _by_tokens(table, _between(table), DISTANCES)
    else:
        counted, by_tokens = "tokens in the sentence", _by_tokens(table, table["length"], LENGTHS)
    return Errors(
        answered=len(table),
        wrong=len(wrong),
        kinds=dict(kinds.most_common()),
        confusions=frequent,
        counted=counted,
        by_tokens=by_tokens,
        examples=examples,
    )


def _kind(gold: str, predicted: str) -> str:
    if gold in NONE_LABELS:
        return "a relation where there is none"
    if predicted in NONE_LABELS:
        return "no relation where there is one"
    same = relation_of(gold) == relation_of(predicted)
    return "the right relation, the wrong direction" if same else "another relation"


def _words(row: Any, entity: int) -> str:
    start, end = (getattr(row, f"e{entity}_{edge}") for edge in ("start", "end"))
    return " ".join(row.tokens[start:end])


def _between(table: pd.DataFrame) -> pd.Series:
    # a marker stands at either end
    return table[["e1_start", "e2_start"]].max(axis=1) - table[["e1_end", "e2_end"]].min(axis=1) - 2


def _by_tokens(table: pd.DataFrame, tokens: pd.Series, edges: Mapping[str, float]) -> pd.DataFrame:
    groups = pd.cut(tokens, [-np.inf, *edges.values()], labels=list(edges))
    right = (table["label"] == table["predicted"]).groupby(groups, observed=True)
    groups_right = right.agg(["size", "mean"]).reset_index(names="tokens")
    return pd.DataFrame(
        {"tokens": groups_right["tokens"], "answers": groups_right["size"], "right": 100 * groups_right["mean"]}
    )
