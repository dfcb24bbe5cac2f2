import time
from statistics import fmean

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm_attention.data.labels import relation_of
from bilstm_attention.errors import DataError
from bilstm_attention.evaluation.metrics import (
    baselines,
    bootstrap_interval,
    compare,
    confusion,
    is_relational,
    metric_names,
    official_f1,
    per_relation,
    scores,
    summary_over_seeds,
)
from bilstm_attention.evaluation.semeval import SEMEVAL_LABELS, evaluate_official

KBP37 = ("per:spouse(e1,e2)", "per:spouse(e2,e1)", "org:top_members/employees(e1,e2)", "no_relation")
modest = settings(max_examples=40, deadline=None)  # a busy machine must not fail a test
CLASSES = ["a", "b", "c", "d"]
some_labels = st.sampled_from(SEMEVAL_LABELS[:5] + SEMEVAL_LABELS[-3:])
relation_pairs = st.lists(st.tuples(some_labels, some_labels), min_size=1, max_size=60)
class_pairs = st.lists(st.tuples(*[st.sampled_from(CLASSES)] * 2), min_size=1, max_size=60)


def split(pairs: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    gold, predicted = zip(*pairs, strict=True)
    return list(gold), list(predicted)


def noisy(gold: list[str], right: float, seed: int) -> list[str]:
    draw = np.random.default_rng(seed)
    return [label if draw.random() < right else str(draw.choice(SEMEVAL_LABELS)) for label in gold]


def random_gold(items: int, seed: int = 0) -> list[str]:
    return np.random.default_rng(seed).choice(SEMEVAL_LABELS, items).tolist()


@modest
@given(relation_pairs)
def test_fast_official_f1_equals_the_whole_official_scorer(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = split(pairs)
    whole = evaluate_official(dict(enumerate(gold)), dict(enumerate(predicted)))
    assert official_f1(gold, predicted) == pytest.approx(whole.score, abs=1e-9)
    assert scores(gold, predicted, SEMEVAL_LABELS)["official_f1"] == official_f1(gold, predicted)


def test_official_f1_of_a_hand_computed_example() -> None:
    gold = ["Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Message-Topic(e1,e2)", "Other"]
    predicted = ["Cause-Effect(e1,e2)", "Cause-Effect(e1,e2)", "Other", "Message-Topic(e1,e2)"]
    # Cause-Effect: 1 right of 2 predicted and 2 gold; Message-Topic: 0 right.
    assert official_f1(gold, predicted) == pytest.approx(25.0)
    # A relation absent from the gold labels is no part of the mean.
    assert official_f1(gold[:2], ["Cause-Effect(e1,e2)", "Entity-Origin(e1,e2)"]) == pytest.approx(200 / 3)


@modest
@given(relation_pairs, st.randoms())
def test_the_order_of_items_and_of_labels_changes_no_score(pairs: list[tuple[str, str]], shuffle) -> None:
    before = scores(*split(pairs), SEMEVAL_LABELS)
    shuffled, labels = list(pairs), list(SEMEVAL_LABELS)
    shuffle.shuffle(shuffled)
    shuffle.shuffle(labels)
    assert scores(*split(shuffled), labels) == pytest.approx(before)


@modest
@given(relation_pairs)
def test_perfect_predictions_score_100_and_turning_every_direction_changes_nothing(
    pairs: list[tuple[str, str]],
) -> None:
    gold, predicted = split([*pairs, (SEMEVAL_LABELS[0], SEMEVAL_LABELS[1])])
    assert set(scores(gold, gold, SEMEVAL_LABELS).values()) == {100.0}
    turn = str.maketrans("12", "21")
    turned = [label.translate(turn) for label in gold], [label.translate(turn) for label in predicted]
    assert scores(*turned, SEMEVAL_LABELS) == pytest.approx(scores(gold, predicted, SEMEVAL_LABELS))


@modest
@given(relation_pairs)
def test_relation_scores_equal_scikit_learn_where_it_has_them(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = split(pairs)
    found = scores(gold, predicted, SEMEVAL_LABELS)
    rest = sorted({*gold, *predicted} - {"Other"})
    assert found["accuracy"] == pytest.approx(100 * sk.accuracy_score(gold, predicted))
    assert found["macro_f1"] == pytest.approx(100 * sk.f1_score(gold, predicted, average="macro", zero_division=0))
    if rest:
        for average in ("macro", "micro"):
            expected = sk.f1_score(gold, predicted, labels=rest, average=average, zero_division=0)
            assert found[f"{average}_f1_without_other"] == pytest.approx(100 * expected)


@modest
@given(class_pairs)
def test_plain_classes_have_accuracy_and_macro_f1_and_a_row_for_each_class(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = split(pairs)
    assert scores(gold, predicted, CLASSES) == pytest.approx(
        {
            "accuracy": 100 * sk.accuracy_score(gold, predicted),
            "macro_f1": 100 * sk.f1_score(gold, predicted, average="macro", zero_division=0),
        }
    )
    table = per_relation(gold, predicted, CLASSES)
    expected = sk.precision_recall_fscore_support(gold, predicted, labels=CLASSES, zero_division=0)
    assert table["relation"].tolist() == CLASSES
    for column, values in zip(("precision", "recall", "f1"), expected[:3], strict=True):
        assert table[column].tolist() == pytest.approx((100 * values).tolist())
    assert table["support"].tolist() == expected[3].tolist()
    matrix = confusion(gold, predicted, CLASSES[::-1])
    assert matrix.to_numpy().tolist() == sk.confusion_matrix(gold, predicted, labels=CLASSES[::-1]).tolist()
    assert matrix.index.tolist() == matrix.columns.tolist() == CLASSES[::-1]


@modest
@given(relation_pairs)
def test_per_relation_is_the_official_view_of_the_relations(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = split(pairs)
    official = evaluate_official(dict(enumerate(gold)), dict(enumerate(predicted))).official.per_relation
    table = per_relation(gold, predicted, SEMEVAL_LABELS).set_index("relation")
    assert len(table) == 10
    assert table.index[-1] == "Other"
    for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1"), ("support", "gold")):
        assert table.loc[official.index, ours].tolist() == pytest.approx(official[theirs].tolist())


def test_relational_labels_are_told_from_plain_classes() -> None:
    assert is_relational(SEMEVAL_LABELS)
    assert is_relational(KBP37)
    for plain in (("positive", "negative"), ("Other", "no_relation"), ("Cause-Effect(e1,e2)", "positive"), ()):
        assert not is_relational(plain)
    assert metric_names(KBP37)[0] == "official_f1"
    assert metric_names(["positive", "negative"]) == ("accuracy", "macro_f1")


def test_labels_out_of_the_list_or_too_few_predictions_are_data_errors() -> None:
    with pytest.raises(DataError, match="not among the 2 known ones: 1\\.\nc"):
        scores(["a", "c"], ["a", "b"], ["a", "b"])
    with pytest.raises(DataError, match="2 gold labels but 1 predicted"):
        scores(["a", "b"], ["a"], ["a", "b"])
    with pytest.raises(DataError, match="'a' is no relation"):
        official_f1(["a"], ["Other"])


def test_summary_has_the_sample_deviation_and_none_for_a_single_seed() -> None:
    summary = summary_over_seeds({0: 80.0, 1: 82.0, 2: 84.0}, 79.0, 85.0)
    assert summary == {
        "mean": 82.0, "sd": 2.0, "low": 79.0, "high": 85.0, "by_seed": {"0": 80.0, "1": 82.0, "2": 84.0}
    }  # fmt: skip
    assert summary_over_seeds({3: 80.0}, 79.0, 81.0)["sd"] is None


@pytest.mark.parametrize("metric", metric_names(SEMEVAL_LABELS))
def test_bootstrap_equals_a_plain_loop_over_resampled_items(metric: str) -> None:
    gold = random_gold(50)
    predictions = [noisy(gold, 0.7, seed) for seed in (1, 2)]
    draw = np.random.default_rng(5)
    means = []
    for _ in range(40):
        items = draw.integers(50, size=50)
        drawn = [[labels[item] for item in items] for labels in (gold, *predictions)]
        means.append(
            fmean(
                by_scikit_learn(metric, drawn[0], again, {*gold, *predicted}, set(gold))
                for again, predicted in zip(drawn[1:], predictions, strict=True)
            )
        )
    expected = np.quantile(means, [0.05, 0.95])
    assert bootstrap_interval(gold, predictions, metric, 40, seed=5, level=0.9) == pytest.approx(tuple(expected))


def by_scikit_learn(metric: str, gold: list[str], predicted: list[str], found: set[str], real: set[str]) -> float:
    """A score of a resample, averaged over the labels that all items and answers have, or all items (official)."""
    if metric == "accuracy":
        return 100 * sk.accuracy_score(gold, predicted)
    if metric == "official_f1":
        table = per_relation(gold, predicted, SEMEVAL_LABELS).set_index("relation")["f1"]
        return float(table[sorted({relation_of(label) for label in real} - {"Other"})].mean())
    labels = sorted(found - ({"Other"} if metric.endswith("without_other") else set()))
    average = metric.partition("_")[0]
    return 100 * sk.f1_score(gold, predicted, labels=labels, average=average, zero_division=0)


def test_a_label_of_one_item_stays_in_the_mean_of_resamples_that_miss_it() -> None:
    gold = ["a"] * 200 + ["b"] * 200 + ["c"]
    predicted = ["a"] * 200 + ["b"] * 200 + ["a"]
    assert scores(gold, predicted, ["a", "b", "c"])["macro_f1"] == pytest.approx(200 / 3, abs=0.1)
    low, high = bootstrap_interval(gold, [predicted], "macro_f1", 200, seed=0)
    assert (low, high) == pytest.approx((200 / 3, 200 / 3), abs=0.4)


def test_bootstrap_interval_is_as_wide_as_theory_says_and_the_same_for_the_same_seed() -> None:
    gold = ["a"] * 400
    predicted = ["a"] * 300 + ["b"] * 100
    low, high = bootstrap_interval(gold, [predicted], "accuracy", 2000, seed=1)
    half = 1.96 * 100 * np.sqrt(0.75 * 0.25 / 400)
    assert (low, high) == pytest.approx((75 - half, 75 + half), abs=0.6)
    assert bootstrap_interval(gold, [predicted], "accuracy", 2000, seed=1) == (low, high)
    seeds = {bootstrap_interval(gold, [predicted], "accuracy", 50, seed=seed) for seed in range(5)}
    assert len(seeds) > 1
    assert bootstrap_interval(gold, [gold], "accuracy", 20, seed=1) == (100.0, 100.0)


def test_bootstrap_of_five_seeds_on_a_semeval_sized_test_set_takes_under_two_seconds() -> None:
    gold = random_gold(2717)
    predictions = [noisy(gold, 0.8, seed) for seed in range(5)]
    start = time.process_time()
    low, high = bootstrap_interval(gold, predictions, "official_f1", 1000, seed=0)
    assert time.process_time() - start < 2
    assert low < fmean(official_f1(gold, predicted) for predicted in predictions) < high


def test_compare_approaches_the_exact_sign_test() -> None:
    gold = ["a"] * 12
    better, worse = ["a"] * 12, ["b"] * 6 + ["a"] * 6
    # six discordant items, all for one side: 2 / 2^6
    assert compare(gold, [better], [worse], "accuracy", 10_000, seed=0) == pytest.approx(2 / 64, abs=0.006)


def test_compare_finds_no_difference_between_equals_and_the_least_p_for_opposites() -> None:
    gold = random_gold(200)
    same, wrong = noisy(gold, 0.7, 1), ["Other"] * 200
    assert compare(gold, [same], [same], "official_f1", 50) == 1.0
    assert compare(gold, [gold, same], [wrong, wrong], "official_f1", 99) == 1 / 100


@modest
@given(relation_pairs, st.integers(0, 99))
def test_compare_does_not_depend_on_which_system_comes_first(pairs: list[tuple[str, str]], seed: int) -> None:
    first, second = split(pairs)
    gold = random_gold(len(pairs), seed)
    p = compare(gold, [first], [second], "official_f1", 30, seed)
    assert compare(gold, [second], [first], "official_f1", 30, seed) == p


def test_compare_needs_as_many_seeds_of_the_one_as_of_the_other() -> None:
    with pytest.raises(DataError, match="cannot pair 2 seeds with 1"):
        compare(["a"], [["a"], ["a"]], [["a"]], "accuracy")


def test_baselines_are_the_majority_label_and_a_bag_of_the_given_tokens() -> None:
    train = [["The", "film", "ran"], ["the", "film", "ran"], ["the", "film", "sat"]] * 5
    train_labels = ["good", "bad", "bad"] * 5
    test, test_labels = [["The", "film", "ran"], ["the", "film", "ran"]], ["good", "bad"]
    found = baselines(train, train_labels, test, test_labels)
    assert found["majority"] == pytest.approx({"accuracy": 50.0, "macro_f1": 100 / 3})
    assert found["tfidf_logistic"] == {"accuracy": 100.0, "macro_f1": 100.0}  # only the case of "The" tells them apart


def test_baselines_of_a_relation_corpus_have_its_scores_and_repeat_exactly() -> None:
    labels = random_gold(150)
    tokens = [["word", label[:6], f"w{number % 7}"] for number, label in enumerate(labels)]
    found = baselines(tokens[:100], labels[:100], tokens[100:], labels[100:])
    assert set(found) == {"majority", "tfidf_logistic"}
    assert set(found["majority"]) == set(metric_names(SEMEVAL_LABELS))
    assert found["tfidf_logistic"]["accuracy"] > found["majority"]["accuracy"]
    assert baselines(tokens[:100], labels[:100], tokens[100:], labels[100:]) == found
