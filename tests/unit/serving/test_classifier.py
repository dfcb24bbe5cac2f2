"""Raw text is classified row by row; a sentence that cannot be classified is named by its row."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray
from tests.conftest import refusal
from tests.small import LABELS, save_classifier_folder

from bilstm_attention.config import Data, Params
from bilstm_attention.data.tokens import encode_examples
from bilstm_attention.errors import DataError
from bilstm_attention.serving.classifier import Served, TextClassifier, load_folder

TEXTS = [
    "The <e1>wheel</e1> of the <e2>car</e2> broke.",
    "<e1>wheel</e1> <e2>car</e2>",
    "The car of the car of the <e1>car</e1> broke the <e2>wheel</e2> of the wheel.",
    "The <e1>xylophone</e1> <e2>zzz</e2> qqq",
]


SHORT = "data: {tokens: {max_length: 12}}\n"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return load_folder(save_classifier_folder(tmp_path_factory.mktemp("classifier"), units=4, seed=1, params=SHORT))


def with_tokens(classifier: TextClassifier, **tokens: Any) -> TextClassifier:
    """The same network with other settings of the tokeniser."""
    data = classifier.data.model_copy(update={"tokens": classifier.data.tokens.model_copy(update=tokens)})
    return TextClassifier(classifier.model, classifier.vocabulary, LABELS, data)


@pytest.fixture(scope="module")
def plain(classifier):
    """The same network for a corpus without entities, punctuation dropped."""
    data = Data(format="table", train="train.csv", test=None)
    return with_tokens(TextClassifier(classifier.model, classifier.vocabulary, LABELS, data), punctuation="drop")


def probabilities(classifier: TextClassifier, texts: Sequence[str]) -> NDArray[np.float64]:
    return pd.DataFrame(classifier.answer(texts)["probabilities"].tolist(), columns=LABELS).to_numpy()


def test_answers_are_those_of_the_network(classifier):
    from bilstm_attention.model.predict import predict

    table, rows = classifier.answer(TEXTS), predict(classifier.model, classifier.examples(TEXTS)[1])
    np.testing.assert_allclose(probabilities(classifier, TEXTS), rows, atol=1e-7)
    assert table["label"].tolist() == [LABELS[number] for number in rows.argmax(axis=1)]
    np.testing.assert_allclose(table["score"], rows.max(axis=1), atol=1e-7)
    assert classifier.answer([]).empty


def test_temperature_changes_scores_and_no_label(classifier, tmp_path):
    raw = classifier.answer(TEXTS)
    folder = save_classifier_folder(tmp_path, units=4, seed=1, params=SHORT)
    (folder / "calibration.json").write_text('{"temperature": 0.5}')
    scaled = load_folder(folder).answer(TEXTS)
    assert scaled["label"].tolist() == raw["label"].tolist()
    squares = probabilities(classifier, TEXTS) ** 2
    np.testing.assert_allclose(scaled["score"], squares.max(axis=1) / squares.sum(axis=1), rtol=1e-5)


def test_rows_do_not_affect_each_other(classifier):
    together = probabilities(classifier, TEXTS)
    assert len({row.tobytes() for row in together}) == len(TEXTS)
    np.testing.assert_allclose(probabilities(classifier, TEXTS[::-1]), together[::-1], atol=1e-6)
    for text, row in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(probabilities(classifier, [text])[0], row, atol=1e-6)


@pytest.mark.parametrize("kind", ["zhou", "structured"])
def test_attention_weighs_each_token(classifier, kind):
    from bilstm_attention.model.classifier import build_classifier
    from bilstm_attention.model.predict import read_attention

    attention = Params().model.attention.model_copy(update={"kind": kind, "hops": 3})
    small = Params().model.model_copy(update={"lstm_units": 4, "attention": attention})
    matrix = np.random.default_rng(0).normal(size=(len(classifier.vocabulary), 5)).astype(np.float32)
    model = build_classifier(small, matrix, len(matrix), len(LABELS), seed=1)
    classifier = TextClassifier(model, classifier.vocabulary, LABELS, classifier.data)
    table = classifier.answer(TEXTS, attention=True)
    assert table["tokens"].tolist() == classifier.tokens(TEXTS)
    for row, weights in zip(table["weights"], read_attention(model, classifier.examples(TEXTS)[1])[1], strict=True):
        assert sum(row) == pytest.approx(1.0, abs=1e-6)
        np.testing.assert_allclose(row, weights if kind == "zhou" else weights.mean(axis=0), atol=1e-7)
    pd.testing.assert_frame_equal(table.drop(columns=["tokens", "weights"]), classifier.answer(TEXTS))
    assert list(classifier.answer([], attention=True).columns) == list(table.columns)


def test_tokens_are_those_of_training(classifier):
    whole, cut = TEXTS[:2], [TEXTS[2]]
    for texts in (whole, cut, whole + cut):
        examples = pd.DataFrame({"id": "1", "text": texts, "label": "", "source": "file:1"})
        assert classifier.tokens(texts) == encode_examples(examples, classifier.data)["tokens"].tolist()
    assert len(classifier.tokens(cut)[0]) == classifier.data.tokens.max_length
    narrow = with_tokens(classifier, context=1).tokens(TEXTS)
    assert narrow[0] == ["the", "<e1>", "wheel", "</e1>", "of", "the", "<e2>", "car", "</e2>", "broke"]
    emptied = with_tokens(classifier, punctuation="drop").tokens([TEXTS[0], "the <e1>wheel</e1> <e2>!!</e2>"])
    assert emptied[1] == ["the", "<e1>", "wheel", "</e1>", "<e2>", "<unk>", "</e2>"]
    texts = ["the <e1>wheel</e1> of <e2>car</e2>", "THE <e1> Wheel </e1> of <e2>car</e2>"]
    np.testing.assert_array_equal(*probabilities(classifier, texts))


def test_sentences_that_cannot_be_classified_are_named_by_row(classifier, plain):
    texts = [TEXTS[0], "The wheel of the car.", "", None, "The <e1>wheel</e1> of the car."]
    first, second, third, last = refusal(lambda: classifier.answer(texts), DataError).splitlines()
    assert first.startswith("row 1: ")
    assert first.endswith("marks both entities as <e1>..</e1> and <e2>..</e2>.")
    assert (second, third) == ("row 2: an empty sentence.", "row 3: None is no text.")
    assert "row 4: " in last
    assert "but no <e2> </e2>" in last
    with pytest.raises(DataError, match="and 5 more"):
        classifier.answer([""] * 25)
    with pytest.raises(DataError, match=r"row 1: .* has no token left of '!!'"):
        plain.tokens(["a wheel", "!!"])
    assert plain.answer(["The wheel of the car.", "broke"])["label"].isin(LABELS).all()


@pytest.fixture
def served(classifier):
    return Served(classifier, max_rows=3, max_characters=200)


def test_served_table_is_answered_by_its_text_column(served, classifier):
    table = pd.DataFrame({"other": range(3), "text": TEXTS[:3]}, index=[7, 5, 3])
    pd.testing.assert_frame_equal(served.predict(table), classifier.answer(TEXTS[:3]))
    assert len(served.predict(pd.DataFrame({"text": [TEXTS[0].ljust(200)]}))) == 1
    answers = served.predict(table, {"attention": True})
    pd.testing.assert_frame_equal(answers, classifier.answer(TEXTS[:3], attention=True))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"sentence": TEXTS[:2]}, "columns ['sentence']: a table of sentences has a column `text`."),
        ({"text": TEXTS}, "4 rows: at most 3 at once; send them in parts, or load the model with"),
        ({"text": [TEXTS[0], "a " * 101]}, "row 1: 202 characters; a sentence has at most 200."),
        ({"text": [TEXTS[0], "no marks"]}, "row 1: "),
        ({"text": [3]}, "row 0: 3 is no text."),
        ({"text": [TEXTS[0], None, float("nan")]}, "row 1: None is no text.\nrow 2: None is no text."),
    ],
)
def test_request_that_cannot_be_answered_has_status_400(served, table, message):
    with pytest.raises(MlflowException) as raised:
        served.predict(pd.DataFrame(table))
    assert raised.value.get_http_status_code() == 400
    assert raised.value.message.startswith(message)
