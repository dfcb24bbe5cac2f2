from statistics import fmean

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm_attention.data.relations import relation_of
from bilstm_attention.errors import DataError
from bilstm_attention.evaluation import metrics
from bilstm_attention.evaluation.metrics import compare, is_relational, metric_names, per_relation, scores
from bilstm_attention.evaluation.semeval import SEMEVAL_LABELS, evaluate_official

KBP37 = ("per:spouse(e1,e2)", "per:spouse(e2,e1)", "org:top_members/employees(e1,e2)", "no_relation")
CLASSES = ["a", "b", "c", "d"]
modest = settings(max_examples=40)
some_labels = st.sampled_from(SEMEVAL_LABELS[:5] + SEMEVAL_LABELS[-3:])
relation_pairs = st.lists(st.tuples(some_labels, some_labels), min_size=1, max_size=60)
class_pairs = st.lists(st.tuples(*[st.sampled_from(CLASSES)] * 2), min_size=1, max_size=60)


def split(pairs: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    gold, predicted = zip(*pairs, strict=True)
    return list(gold), list(predicted)


def noisy(gold: list[str], correct: float, seed: int) -> list[str]:
    draw = np.random.default_rng(seed)
    return [label if draw.random() < correct else str(draw.choice(SEMEVAL_LABELS)) for label in gold]


def random_gold(items: int, seed: int = 0) -> list[str]:
    return np.random.default_rng(seed).choice(SEMEVAL_LABELS, items).tolist()


def by_scikit_learn(metric: str, gold: list[str], predicted: list[str], labels: set[str], real: set[str]) -> float:
    """A score averaged over `labels`, those of all items and answers; the official one over the relations of `real`."""
    if metric == "accuracy":
        return 100 * sk.accuracy_score(gold, predicted)
    if metric == "official_f1":
        table = per_relation(gold, predicted, SEMEVAL_LABELS).set_index("relation")["f1"]
        return float(table[sorted({relation_of(label) for label in real} - {"Other"})].mean())
    chosen = sorted(labels - ({"Other"} if metric.endswith("without_other") else set()))
    average = metric.partition("_")[0]
    return 100 * sk.f1_score(gold, predicted, labels=chosen, average=average, zero_division=0) if chosen else 0.0


@modest
@given(relation_pairs)
def test_scores_equal_the_official_scorer_and_scikit_learn(pairs):
    gold, predicted = split(pairs)
    ours = scores(gold, predicted, SEMEVAL_LABELS)
    official = evaluate_official(dict(enumerate(gold)), dict(enumerate(predicted))).official
    assert ours.pop("official_f1") == pytest.approx(official.macro.f1, abs=1e-9)
    labels = {*gold, *predicted}
    assert ours == pytest.approx({name: by_scikit_learn(name, gold, predicted, labels, set(gold)) for name in ours})
    table = per_relation(gold, predicted, SEMEVAL_LABELS).set_index("relation")
    assert (len(table), table.index[-1]) == (10, "Other")
    expected = official.per_relation.rename(columns={"gold": "support"})[table.columns]
    np.testing.assert_allclose(table.loc[expected.index], expected)


@modest
@given(class_pairs)
def test_scores_of_plain_classes_equal_scikit_learn(pairs):
    gold, predicted = split(pairs)
    ours, labels = scores(gold, predicted, CLASSES), {*gold, *predicted}
    assert list(ours) == ["accuracy", "macro_f1"]
    assert ours == pytest.approx({name: by_scikit_learn(name, gold, predicted, labels, labels) for name in ours})
    table = per_relation(gold, predicted, CLASSES)
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        gold, predicted, labels=CLASSES, zero_division=0
    )
    assert table["relation"].tolist() == CLASSES
    np.testing.assert_allclose(table.iloc[:, 1:].T, [100 * precision, 100 * recall, 100 * f1, support])
    matrix = metrics.confusion(gold, predicted, CLASSES[::-1])
    assert matrix.to_numpy().tolist() == sk.confusion_matrix(gold, predicted, labels=CLASSES[::-1]).tolist()
    assert matrix.index.tolist() == matrix.columns.tolist() == CLASSES[::-1]


def test_relational_labels_are_unlike_plain_classes():
    assert is_relational(SEMEVAL_LABELS)
    assert is_relational(KBP37)
    for plain in (("positive", "negative"), ("Other", "no_relation"), ("Cause-Effect(e1,e2)", "positive"), ()):
        assert not is_relational(plain)
    assert metric_names(KBP37)[0] == "official_f1"
    assert metric_names(["Tools", "Other"])[0] == "accuracy"


def test_relations_without_directions_have_the_score_of_tacred():
    labels = ["per:title", "org:website", "no_relation"]
    assert metric_names(labels)[0] == "micro_f1_without_other"
    gold = ["per:title", "per:title", "no_relation", "org:website", "no_relation"]
    predicted = ["per:title", "no_relation", "per:title", "per:title", "no_relation"]
    # 1 correct, 3 predicted, 3 gold
    assert scores(gold, predicted, labels)["micro_f1_without_other"] == pytest.approx(100 / 3)


def test_unknown_labels_and_missing_predictions_are_errors():
    with pytest.raises(DataError, match="not among the 2 known ones: 1\\.\nc"):
        scores(["a", "c"], ["a", "b"], ["a", "b"])
    with pytest.raises(DataError, match="2 gold labels but 1 predicted"):
        scores(["a", "b"], ["a"], ["a", "b"])
    with pytest.raises(DataError, match="cannot pair 2 seeds with 1"):
        compare(["a"], [["a"], ["a"]], [["a"]], "accuracy")


def test_spread_is_the_sample_deviation_and_none_for_one_seed():
    by_seed = {"0": 80.0, "1": 82.0, "2": 84.0}
    values = {int(seed): value for seed, value in by_seed.items()}
    assert metrics.spread_over_seeds(values) == {"mean": 82.0, "sd": 2.0, "by_seed": by_seed}
    assert list(metrics.spread_over_seeds(values, low=79.0, high=85.0).items()) == [
        *(("mean", 82.0), ("sd", 2.0), ("low", 79.0), ("high", 85.0), ("by_seed", by_seed))
    ]
    assert metrics.spread_over_seeds({3: 80.0})["sd"] is None


@pytest.mark.parametrize("metric", metric_names(SEMEVAL_LABELS))
def test_bootstrap_equals_a_plain_loop_over_resamples(metric):
    gold = random_gold(50)
    predictions = [noisy(gold, 0.7, seed) for seed in (1, 2)]
    draw = np.random.default_rng(5)
    means = []
    for _ in range(40):
        items = draw.integers(50, size=50)
        drawn = [[labels[item] for item in items] for labels in (gold, *predictions)]
        resampled = zip(drawn[1:], predictions, strict=True)
        means.append(
            fmean(by_scikit_learn(metric, drawn[0], again, {*gold, *every}, set(gold)) for again, every in resampled)
        )
    expected = np.quantile(means, [0.025, 0.975])
    assert metrics.bootstrap_interval(gold, predictions, metric, 40, seed=5) == pytest.approx(tuple(expected))


def test_compare_approaches_the_exact_sign_test():
    gold = ["a"] * 12
    better, worse = ["a"] * 12, ["b"] * 6 + ["a"] * 6
    # six discordant items, all for one side: 2 / 2^6
    assert compare(gold, [better], [worse], "accuracy", 10_000) == pytest.approx(2 / 64, abs=0.006)


def test_compare_of_equals_and_of_opposites():
    gold = random_gold(200)
    same, wrong = noisy(gold, 0.7, 1), ["Other"] * 200
    assert compare(gold, [same], [same], "official_f1", 50) == 1.0
    assert compare(gold, [gold, same], [wrong, wrong], "official_f1", 99) == 1 / 100


def test_baselines_are_the_majority_label_and_a_bag_of_tokens():
    train = [["The", "film", "ran"], ["the", "film", "ran"], ["the", "film", "sat"]] * 5
    train_labels = ["good", "bad", "bad"] * 5
    test, test_labels = [["The", "film", "ran"], ["the", "film", "ran"]], ["good", "bad"]
    results = metrics.baselines(train, train_labels, test, test_labels)
    assert results["majority"] == pytest.approx({"accuracy": 50.0, "macro_f1": 100 / 3})
    # only the case of "The" separates them
    assert results["tfidf_logistic"] == {"accuracy": 100.0, "macro_f1": 100.0}
