from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bilstm_attention import paths
from bilstm_attention.config import Params
from bilstm_attention.evaluation.metrics import bootstrap_interval, scores
from bilstm_attention.search.comparison import Comparison, PlannedTraining, Table, Variant
from bilstm_attention.search.results import collect_answers, collect_errors, scores_by_class, tabulate
from bilstm_attention.search.trainings import TrainingJob, TrainingRecord

CAUSE, EFFECT, MEMBER, OTHER = (
    "Cause-Effect(e1,e2)",
    "Cause-Effect(e2,e1)",
    "Member-Collection(e1,e2)",
    "Other",
)
LABELS = [CAUSE, EFFECT, MEMBER, OTHER]
GOLD = [CAUSE, CAUSE, EFFECT, MEMBER, OTHER, OTHER]
# right, wrong direction, another relation, none where there is one, one where there is none, right
WRONG = [CAUSE, EFFECT, MEMBER, OTHER, CAUSE, OTHER]


def write_split(root: Path, split: str, gold: list[str]) -> None:
    between = [0, 2, 3, 5, 9, 12]
    rows = [
        {
            "id": str(number),
            "tokens": ["<e1>", f"first{number}", "</e1>", *["word"] * gap, "<e2>", "the", "second", "</e2>"],
            "label": label,
            **{"e1_start": 1, "e1_end": 2, "e2_start": 4 + gap, "e2_end": 6 + gap, "length": 7 + gap},
        }
        for number, (gap, label) in enumerate(zip(between, gold, strict=True))
    ]
    (root / paths.PREPARED).mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(root / paths.PREPARED / f"{split}.parquet")


def trained(
    root: Path, variant: str, seed: int, predicted: list[str], confidence: float = 0.9, labels: list[str] = LABELS
) -> tuple:
    measures = {"attention": 1.0, "random": 0.5, "gradient_input": 2.0}
    record = TrainingRecord(
        key=f"{variant}{seed}",
        dev={},
        best_epoch=1,
        history=[],
        started=0.0,
        made_with="",
        environment={},
        weights=10 * (1 + len(variant)),
        labels=labels,
        predicted=predicted,
        confidence=[confidence] * len(predicted),
        faithfulness={"rows": 6, "comprehensiveness": measures, "sufficiency": measures, "entropy": 50.0},
        test=confidence * np.eye(len(labels))[[labels.index(label) for label in predicted]],
    )
    return PlannedTraining(variant, None, TrainingJob(Params(), seed, root, test=True)), record


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_split(tmp_path, "dev", GOLD)
    write_split(tmp_path, "test", GOLD)
    return tmp_path


def comparison(*variants: str, show: Sequence[str] = ()) -> Comparison:
    named = {name: Variant() for name in variants}
    table = Table(seeds=[0, 1], reference=variants[0], test=True, show=list(show), variants=named)
    return Comparison("page", "table", table, {name: Params() for name in variants}, {})


def test_scores_spread_ensemble_and_significance(root: Path) -> None:
    good = collect_answers([trained(root, "a", 0, WRONG, confidence=0.4), trained(root, "a", 1, GOLD)])
    bad = collect_answers([trained(root, "bb", 0, WRONG), trained(root, "bb", 1, WRONG)])
    table = tabulate(comparison("a", "bb"), {"a": good, "bb": bad}).set_index("variant")
    low = scores(GOLD, WRONG, LABELS)["official_f1"]
    assert table.loc["a", ["seed_0", "seed_1", "mean"]].tolist() == pytest.approx([low, 100, (100 + low) / 2])
    assert table.loc["a", "test_mean"] == pytest.approx((100 + low) / 2)
    # the mean of the probabilities follows the surer seed
    assert table["test_ensemble"].tolist() == pytest.approx([100, low])
    assert table.loc["a", "test_low"] <= table.loc["a", "test_mean"] <= table.loc["a", "test_high"]
    assert np.isnan(table.loc["a", "p"])
    assert 0 < table.loc["bb", "p"] <= 1
    assert table["weights_added"].tolist() == [0, 10]
    assert not [column for column in table if "comprehensiveness" in column]


def test_interval_without_test_set_is_of_dev(root: Path) -> None:
    one = collect_answers([trained(root, "a", seed, answers) for seed, answers in ((0, WRONG), (1, GOLD))])
    named = {"a": Variant()}
    asked = Comparison("page", "table", Table(seeds=[0, 1], reference="a", variants=named), {"a": Params()}, {})
    row = tabulate(asked, {"a": one}).iloc[0]
    expected = bootstrap_interval(GOLD, [WRONG, GOLD], "official_f1", Params().evaluate.bootstrap)
    assert (row["low"], row["high"]) == pytest.approx(expected)
    assert row["low"] < row["mean"] < row["high"]
    assert not [column for column in row.index if column.startswith("test")]


def test_faithfulness_is_tabulated_where_shown(root: Path) -> None:
    one = collect_answers([trained(root, "a", seed, GOLD) for seed in (0, 1)])
    row = tabulate(comparison("a", show=["faithfulness"]), {"a": one}).iloc[0]
    assert (row["comprehensiveness_attention"], row["sufficiency_gradient_input"], row["entropy"]) == (1, 2, 50)


def test_scores_by_class_are_those_of_the_relations_on_test(root: Path) -> None:
    right, wrong = (collect_answers([trained(root, name, 0, answers)]) for name, answers in (("a", GOLD), ("b", WRONG)))
    table = scores_by_class({"right": right, "wrong": wrong}).set_index("class")
    assert table["items"].to_dict() == {"Cause-Effect": 3, "Member-Collection": 1, "Other": 2}
    assert table["right"].tolist() == [100, 100, 100]
    official = scores(GOLD, WRONG, LABELS)["official_f1"]
    assert table.loc[["Cause-Effect", "Member-Collection"], "wrong"].mean() == pytest.approx(official)


def test_errors_are_counted_by_kind_and_distance(root: Path) -> None:
    better = [CAUSE, EFFECT, EFFECT, OTHER, OTHER, OTHER]
    errors = collect_errors(collect_answers([trained(root, "a", 0, WRONG, 0.6), trained(root, "a", 1, better)]))
    assert (errors.answered, errors.wrong) == (12, 6)
    assert errors.kinds == {
        "the right relation, the wrong direction": 2,
        "no relation where there is one": 2,
        "another relation": 1,
        "a relation where there is none": 1,
    }
    assert errors.counted == "tokens between the entities"
    right = errors.by_tokens.set_index("tokens")["right"].to_dict()
    assert right == {"0 to 2": 50.0, "3 to 5": 25.0, "6 to 9": 50.0, "10 and more": 100.0}
    assert errors.confusions["answers"].tolist() == [2, 2, 1, 1]
    example = errors.examples.set_index("id").loc["1"]
    assert example.to_dict() == {
        "first": "first1",
        "second": "the second",
        "gold": CAUSE,
        "predicted": EFFECT,
        "confidence": 90.0,
    }


def test_errors_of_plain_classes_are_counted_by_length(root: Path) -> None:
    table = pd.read_parquet(root / paths.PREPARED / "dev.parquet")[["id", "tokens", "label", "length"]]
    table.assign(label=["hot", "cold"] * 3).to_parquet(root / paths.PREPARED / "dev.parquet")
    errors = collect_errors(collect_answers([trained(root, "a", 0, ["hot"] * 6, labels=["cold", "hot"])]))
    assert (errors.wrong, errors.kinds) == (3, {})
    # lengths are 7, 9, 10, 12, 16 and 19; every other answer is right
    assert errors.counted == "tokens in the sentence"
    assert errors.by_tokens.astype({"tokens": str}).to_dict("records") == [
        {"tokens": "1 to 10", "answers": 3, "right": pytest.approx(200 / 3)},
        {"tokens": "11 to 20", "answers": 3, "right": pytest.approx(100 / 3)},
    ]
    assert errors.examples.columns.tolist() == ["id", "gold", "predicted", "confidence"]
