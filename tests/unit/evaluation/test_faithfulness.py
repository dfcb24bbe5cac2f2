"""Faithfulness of attention, on classifiers whose probabilities can be computed by hand."""

import json
from collections.abc import Callable, Sequence

import keras
import numpy as np
import pandas as pd
import pytest
from tests.unit.model.small_classifier import CLASSES, LEARNED, SMALL, WORDS, build, drawn_matrix, perturb

from bilstm_attention.config import Params, with_overrides
from bilstm_attention.data.dataset import Rows
from bilstm_attention.data.tokens import SPANS, Vocabulary
from bilstm_attention.errors import DataError
from bilstm_attention.evaluation import faithfulness
from bilstm_attention.evaluation.faithfulness import bin_sizes, gradient_input, measure, merge_seeds
from bilstm_attention.model.classifier import WordEmbedding, build_classifier
from bilstm_attention.model.predict import predict

# What each word adds to the log-odds of the first of two classes.
EFFECTS = {"great": 2.0, "poor": -1.0, "nice": 0.5, "film": 0.0, "good": 1.0}
FILLERS = [f"filler{number}" for number in range(60)]
VOCABULARY = Vocabulary([*EFFECTS, *FILLERS])
LABELS = ["pos", "neg"]
Weigh = Callable[[Sequence[int]], list]


def odds(*words: str) -> float:
    """The probability, in percent, of the first class."""
    return 100 / (1 + np.exp(-sum(EFFECTS.get(word, 0.0) for word in words)))


@pytest.fixture(scope="module")
def additive():
    """Log-odds are the sum of the words' effects."""
    tokens = keras.Input((None,), dtype="int32")
    embedding = WordEmbedding(len(VOCABULARY), 2, len(VOCABULARY), name="embedding")
    model = keras.Model(tokens, keras.layers.Softmax()(keras.ops.sum(embedding(tokens), axis=1)))
    embedding.set_matrix(np.array([[EFFECTS.get(word, 0.0), 0.0] for word in VOCABULARY.words], np.float32))
    return model


@pytest.fixture
def attend(monkeypatch):
    """Sets the attention weights that a row of word ids gets."""

    def to(weigh):
        weighed = lambda rows: [np.array(weigh(row.tolist()), np.float32) for row in rows]  # noqa: E731
        monkeypatch.setattr(faithfulness, "read_attention", lambda model, rows: (predict(model, rows), weighed(rows)))

    return to


def examples(*sentences: str) -> pd.DataFrame:
    return pd.DataFrame({"tokens": [sentence.split() for sentence in sentences], "label": "pos"})


def measured(model: keras.Model, table: pd.DataFrame, rows: int = 200, seed: int = 0) -> dict:
    return measure(model, table, VOCABULARY, LABELS, rows, seed)


def by_word(weights: dict[str, float]) -> Weigh:
    return lambda row: [weights.get(VOCABULARY.words[number], 0.0) for number in row]


def uniform(row: Sequence[int]) -> list[float]:
    return [1 / len(row)] * len(row)


@pytest.mark.parametrize(("length", "expected"), [(2, [1] * 5), (3, [1, 1, 1, 1, 2]), (101, [2, 6, 11, 21, 51])])
def test_bin_is_its_share_rounded_up_and_leaves_a_token(length, expected):
    assert bin_sizes(length) == expected


def test_measures_equal_hand_computed_ones(additive, attend):
    attend(by_word({"great": 0.4, "nice": 0.3, "film": 0.2, "good": 0.06, "poor": 0.04}))
    result = measured(additive, examples("great poor nice film good"))
    whole = odds(*EFFECTS)  # of five tokens the bins take 1, 1, 1, 1, 3
    without = [whole - odds("poor", "nice", "film", "good")] * 4 + [whole - odds("poor", "good")]
    alone = [whole - odds("great")] * 4 + [whole - odds("great", "nice", "film")]
    for measure_, expected in (("comprehensiveness", without), ("sufficiency", alone)):
        assert result["curves"][measure_]["attention"] == pytest.approx(expected, abs=1e-3)
        assert result[measure_]["attention"] == pytest.approx(np.mean(expected), abs=1e-3)
    # signed: what speaks against the class comes last
    without[4], alone[4] = whole - odds("poor", "film"), whole - odds("great", "good", "nice")
    assert alone[4] < 0
    assert result["curves"]["comprehensiveness"]["gradient_input"] == pytest.approx(without, abs=1e-3)
    assert result["curves"]["sufficiency"]["gradient_input"] == pytest.approx(alone, abs=1e-3)


def test_class_is_the_one_predicted_on_the_whole_sentence(additive, attend):
    attend(by_word({"poor": 1.0}))
    result = measured(additive, examples("film poor"))
    # 73.1 percent for the second class; without the word, 50
    assert result["comprehensiveness"]["attention"] == pytest.approx(100 - odds("poor") - 50, abs=1e-3)
    assert result["sufficiency"]["attention"] == pytest.approx(0, abs=1e-3)


def test_random_orders_lie_below_a_good_ranking(additive, attend):
    table = examples(*(" ".join([*FILLERS[at : at + 9], "great", *FILLERS[at + 9 : at + 19]]) for at in range(20)))
    high = odds("great") - 50
    attend(by_word({"great": 1.0}))
    result = measured(additive, table)
    for ranking in ("attention", "gradient_input"):
        assert result["comprehensiveness"][ranking] == pytest.approx(high, abs=1e-3)
        assert result["sufficiency"][ranking] == pytest.approx(0, abs=1e-3)
    # of 20 tokens a random 1, 1, 2, 4 and 10 are deleted: 18 percent of the words, on average
    assert result["comprehensiveness"]["random"] == pytest.approx(0.18 * high, rel=0.4)
    assert result["sufficiency"]["random"] == pytest.approx(0.82 * high, rel=0.1)


def test_tokens_are_deleted_and_the_rest_keep_their_order(additive, attend, monkeypatch):
    attend(by_word({"nice": 0.5, "great": 0.3, "good": 0.2}))
    seen: list[list[str]] = []

    def watched(model, rows):
        seen.extend([VOCABULARY.words[number] for number in row] for row in rows)
        return predict(model, rows)

    monkeypatch.setattr(faithfulness, "predict", watched)
    measured(additive, examples("great poor film good nice"))
    first, alone = ["great", "poor", "film", "good"], ["nice"]
    assert seen[:10] == [first, alone] * 4 + [["poor", "film"], ["great", "good", "nice"]]


@pytest.mark.parametrize("frozen", [False, True], ids=["some vectors learned, some fixed", "all fixed"])
def test_gradient_input_is_the_slope_of_scaling_a_word_vector(frozen):
    params = with_overrides(Params(), {**SMALL, "model.train_embeddings": not frozen})
    model = perturb(build_classifier(params.model, drawn_matrix(), LEARNED, CLASSES, seed=0))
    draw = np.random.default_rng(5)
    tokens = [draw.permutation(np.arange(1, WORDS))[:length].astype(np.int32) for length in (7, 1, 3)]
    rows = Rows.from_ids(tokens, np.zeros(3, np.int32))
    classes, embedding, step = predict(model, rows).argmax(axis=1), model.get_layer("embedding"), 0.02
    matrix = np.concatenate(embedding.get_weights())

    def scaled(word, by):
        changed = matrix.copy()
        changed[word] *= by
        embedding.set_matrix(changed)
        return predict(model, rows)[np.arange(3), classes]

    result = gradient_input(model, rows)
    assert max(abs(np.concatenate(result))) > 0.02
    for number, row in enumerate(tokens):
        slopes = [(scaled(word, 1 + step)[number] - scaled(word, 1 - step)[number]) / (2 * step) for word in row]
        np.testing.assert_allclose(result[number], slopes, atol=2e-3)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([0.0, 1.0, 0.0, 0.0], 0),
        ([0.5, 0.5, 0.0, 0.0], 50),
        ([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]], 0),  # the mean of the entropies, not the entropy of the mean
        ([[0.25] * 4, [0.0, 1.0, 0.0, 0.0]], 50),
    ],
)
def test_entropy_runs_from_one_token_to_uniform_weights(weights, expected, additive, attend):
    attend(lambda row: weights)
    result = measured(additive, examples("great poor nice film", "film film good poor"))
    assert result["entropy"] == pytest.approx(expected, abs=1e-3)


def test_correlation_is_that_of_weights_and_gradient(additive, attend):
    table = examples("great poor nice film good", "film good nice")
    attend(by_word({word: effect + 1 for word, effect in EFFECTS.items()}))
    assert measured(additive, table)["rank_correlation"] == 1
    attend(by_word({word: 2 - effect for word, effect in EFFECTS.items()}))
    assert measured(additive, table)["rank_correlation"] == -1
    attend(uniform)
    assert measured(additive, table)["rank_correlation"] is None
    # one sentence with a correlation, and one without
    attend(lambda row: {5: [5, 0, 3, 2, 4], 3: [1, 1, 1]}[len(row)])
    assert measured(additive, table)["rank_correlation"] == 1


RELATION = "The <e1> U.S. ' dog </e1> did n't see <e2> it </e2> , Ann 's don't 00 !?"
RELATION_KINDS = {
    "entity_markers": ["<e1>", "</e1>", "<e2>", "</e2>"],
    "entities": ["U.S.", "'", "dog", "it"],
    "function_words": ["The", "did", "n't", "'s", "don't"],
    "punctuation": [",", "!?"],
    "other_words": ["see", "Ann", "00"],
}


def relation() -> pd.DataFrame:
    row = RELATION.split()
    spans = [row.index("<e1>") + 1, row.index("</e1>"), row.index("<e2>") + 1, row.index("</e2>")]
    return examples(RELATION).assign(**dict(zip(SPANS, spans, strict=True)))


def test_shares_equal_hand_counted_ones(additive, attend):
    row = RELATION.split()
    weights = np.arange(1, len(row) + 1) / np.arange(1, len(row) + 1).sum()
    attend(lambda _: weights.tolist())
    result = measured(additive, relation())
    tokens = {kind: 100 * len(words) / len(row) for kind, words in RELATION_KINDS.items()}
    shares = {kind: 100 * sum(weights[row.index(word)] for word in words) for kind, words in RELATION_KINDS.items()}
    assert result["token_share"] == pytest.approx(tokens, abs=1e-3)
    assert result["attention_share"] == pytest.approx(shares, abs=1e-3)


def test_seed_selects_sentences_in_dev_order(additive, attend):
    draw = np.random.default_rng(2)
    table = examples(*(" ".join(draw.choice([*EFFECTS, *FILLERS], draw.integers(1, 9))) for _ in range(80)))
    seen: list[tuple[int, ...]] = []
    attend(lambda row: seen.append(tuple(row)) or uniform(row))
    longer = [tuple(VOCABULARY.encode(row)) for row in table["tokens"] if len(row) > 1]
    assert measured(additive, table, 10_000)["rows"] == len(longer) < len(table)
    assert seen == longer
    seen.clear()
    assert measured(additive, table, 15) == measured(additive, table, 15)
    assert measured(additive, table, 15) != measured(additive, table, 15, seed=1)
    at = [longer.index(row) for row in seen[:15]]
    assert at == sorted(set(at)) != list(range(15))


def test_split_of_single_tokens_is_an_error(additive):
    with pytest.raises(DataError, match=r"no dev sentence has two tokens.*evaluate\.faithfulness"):
        measured(additive, examples("great", "poor"))


def test_results_of_seeds_are_merged():
    def result(value, correlation):
        curves = {"percent": [1, 50], "sufficiency": {"attention": [value, 2 * value]}}
        return {"rows": 7, "entropy": value, "rank_correlation": correlation, "curves": curves, "token_share": 40.5}

    assert merge_seeds({3: result(1.0, None), 5: result(4.0, 0.5)}) == {
        "rows": 7,
        "entropy": {"mean": 2.5, "sd": pytest.approx(4.5**0.5), "by_seed": {"3": 1.0, "5": 4.0}},
        "rank_correlation": {"mean": 0.5, "sd": None, "by_seed": {"5": 0.5}},
        "curves": {"percent": [1, 50], "sufficiency": {"attention": [2.5, 5.0]}},
        "token_share": 40.5,
    }
    assert merge_seeds({3: result(1.0, None)})["rank_correlation"] is None


@pytest.mark.parametrize("kind", ["structured", "mean"])
def test_models_with_several_weights_or_none_are_measured(kind):
    words = [f"word{number}" for number in range(WORDS - 6)]
    draw = np.random.default_rng(1)
    table = examples(*(" ".join(draw.choice([*words, "unseen"], 6)) for _ in range(12)))
    result = measure(perturb(build(kind)), table, Vocabulary(words), [*LABELS, "neutral"], 10, 0)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["rows"] == 10
    assert (result["rank_correlation"] is None) == (kind == "mean")
    assert (result["entropy"] == 100) == (kind == "mean")
