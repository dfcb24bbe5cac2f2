"""Raw text in, labels and probabilities out, row by row; what cannot be classified is named by row."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    short = "data: {tokens: {max_length: 12}}\n"
    return save_classifier_folder(tmp_path_factory.mktemp("classifier"), units=4, seed=1, params=short)


@pytest.fixture(scope="module")
def classifier(folder: Path) -> TextClassifier:
    return load_folder(folder)


@pytest.fixture(scope="module")
def plain(classifier: TextClassifier) -> TextClassifier:
    """The same network for a corpus whose sentences mark nothing."""
    data = Data(format="delimited", train="train.csv", test=None)
    return TextClassifier(classifier.model, classifier.vocabulary, LABELS, data)


def test_a_sentence_is_cut_to_the_context_of_training(classifier: TextClassifier) -> None:
    data = classifier.data.model_copy(update={"tokens": classifier.data.tokens.model_copy(update={"context": 1})})
    cut = TextClassifier(classifier.model, classifier.vocabulary, LABELS, data)
    assert cut.tokens(TEXTS)[0] == ["the", "<e1>", "wheel", "</e1>", "of", "the", "<e2>", "car", "</e2>", "broke"]
    assert [len(row) for row in cut.tokens(TEXTS)] == [10, 6, 10, 8]


def test_a_folder_holds_all_that_a_classifier_needs(classifier: TextClassifier) -> None:
    assert classifier.labels == LABELS
    assert classifier.data.tokens.max_length == 12
    assert "wheel" in classifier.vocabulary


def probabilities(classifier: TextClassifier, texts: Sequence[str]) -> NDArray[np.float64]:
    return pd.DataFrame(classifier.answer(texts)["probabilities"].tolist())[LABELS].to_numpy()


def test_each_row_gets_its_most_probable_label_and_all_probabilities(classifier: TextClassifier) -> None:
    table = classifier.answer(TEXTS)
    assert list(table.columns) == ["label", "score", "probabilities"]
    rows = probabilities(classifier, TEXTS)
    assert rows.shape == (4, 3)
    np.testing.assert_allclose(rows.sum(axis=1), 1.0, rtol=1e-6)
    assert table["label"].tolist() == [LABELS[number] for number in rows.argmax(axis=1)]
    np.testing.assert_array_equal(table["score"], rows.max(axis=1))


def test_the_answers_are_those_of_the_network(classifier: TextClassifier) -> None:
    from bilstm_attention.model.predict import predict

    direct = predict(classifier.model, classifier.examples(TEXTS)[1])
    np.testing.assert_allclose(probabilities(classifier, TEXTS), direct, atol=1e-7)


@pytest.mark.parametrize("kind", ["zhou", "structured"])
def test_attention_tells_each_token_with_its_weight(classifier: TextClassifier, folder: Path, kind: str) -> None:
    from bilstm_attention.model.classifier import build_classifier
    from bilstm_attention.model.predict import read_attention

    attention = Params().model.attention.model_copy(update={"kind": kind, "hops": 3})
    small = Params().model.model_copy(update={"lstm_units": 4, "attention": attention})
    matrix = np.random.default_rng(0).normal(size=(len(classifier.vocabulary), 5)).astype(np.float32)
    model = build_classifier(small, matrix, len(matrix), len(LABELS), seed=1)
    one = TextClassifier(model, classifier.vocabulary, LABELS, classifier.data)
    table = one.answer(TEXTS, attention=True)
    assert list(table.columns) == ["label", "score", "probabilities", "tokens", "weights"]
    assert table["tokens"].tolist() == one.tokens(TEXTS)
    for row, direct in zip(table["weights"], read_attention(model, one.examples(TEXTS)[1])[1], strict=True):
        assert sum(row) == pytest.approx(1.0, abs=1e-6)
        np.testing.assert_allclose(row, direct if kind == "zhou" else direct.mean(axis=0), atol=1e-7)
    # asking for them changes no answer
    pd.testing.assert_frame_equal(table[["label", "score", "probabilities"]], one.answer(TEXTS))
    assert list(one.answer([], attention=True).columns) == list(table.columns)


def test_rows_keep_their_order_and_do_not_touch_each_other(classifier: TextClassifier) -> None:
    together = probabilities(classifier, TEXTS)
    assert len({row.tobytes() for row in together}) == len(TEXTS)
    np.testing.assert_allclose(probabilities(classifier, TEXTS[::-1]), together[::-1], atol=1e-6)
    for text, row in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(probabilities(classifier, [text])[0], row, atol=1e-6)


def test_words_never_seen_are_all_one_unknown_word(classifier: TextClassifier) -> None:
    one, other = probabilities(classifier, ["<e1>foo</e1> bar <e2>baz</e2>", "<e1>Qux</e1> Quux <e2>corge</e2>"])
    np.testing.assert_array_equal(one, other)


def test_text_is_tokenised_as_in_training(classifier: TextClassifier) -> None:
    lower, upper = probabilities(
        classifier, ["the <e1>wheel</e1> of <e2>car</e2>", "THE <e1> Wheel </e1> of <e2>car</e2>"]
    )
    np.testing.assert_array_equal(lower, upper)
    assert classifier.examples([TEXTS[2]])[1].lengths.max() <= 12


def test_tokens_are_those_of_training_whether_or_not_a_sentence_is_cut(classifier: TextClassifier) -> None:
    whole, cut = TEXTS[:2], [TEXTS[2]]
    for texts in (whole, cut, whole + cut):
        examples = pd.DataFrame({"id": "1", "text": texts, "label": "", "source": "file:1"})
        assert classifier.tokens(texts) == encode_examples(examples, classifier.data)["tokens"].tolist()
    assert len(classifier.tokens(cut)[0]) == classifier.data.tokens.max_length


def test_a_sentence_that_keeps_no_token_where_one_is_needed_is_named_by_row(classifier: TextClassifier) -> None:
    dropping = classifier.data.model_copy(
        update={"tokens": classifier.data.tokens.model_copy(update={"punctuation": "drop"})}
    )
    relational = TextClassifier(classifier.model, classifier.vocabulary, LABELS, dropping)
    with pytest.raises(DataError, match=r"row 1: .* has no token left in <e2>"):
        relational.tokens([TEXTS[0], "the <e1>wheel</e1> <e2>!!</e2>"])
    plain = TextClassifier(
        classifier.model, classifier.vocabulary, LABELS, dropping.model_copy(update={"format": "delimited"})
    )
    with pytest.raises(DataError, match=r"row 1: .* has no token left of '!!'"):
        plain.tokens(["a wheel", "!!"])


def test_sentences_without_marked_entities_are_named_by_row(classifier: TextClassifier) -> None:
    with pytest.raises(DataError) as caught:
        classifier.answer([TEXTS[0], "The wheel of the car.", "", "  ", "The <e1>wheel</e1> of the car."])
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["row 1", "row 2", "row 3", "row 4"]
    assert lines[0].endswith("marks both entities as <e1>..</e1> and <e2>..</e2>.")
    assert lines[1] == "row 2: an empty sentence."
    assert "but no <e2> </e2>" in lines[3]


def test_of_many_faulty_rows_twenty_are_named_and_the_rest_counted(classifier: TextClassifier) -> None:
    with pytest.raises(DataError, match="and 5 more"):
        classifier.answer([""] * 25)


def test_a_corpus_without_entities_takes_plain_sentences(plain: TextClassifier) -> None:
    assert plain.answer(["The wheel of the car.", "broke"])["label"].isin(LABELS).all()
    with pytest.raises(DataError, match="row 1: an empty sentence"):
        plain.answer(["The wheel.", ""])


def test_no_rows_give_no_rows(classifier: TextClassifier) -> None:
    assert classifier.answer([]).empty


def test_what_is_no_text_is_named_by_row(classifier: TextClassifier) -> None:
    with pytest.raises(DataError, match="row 1: None is no text"):
        classifier.answer([TEXTS[0], None])


@pytest.fixture
def served(classifier: TextClassifier) -> Served:
    return Served(classifier, max_rows=3, max_characters=200)


def test_a_served_table_is_answered_by_its_column(served: Served, classifier: TextClassifier) -> None:
    table = pd.DataFrame({"other": range(3), "text": TEXTS[:3]}, index=[7, 5, 3])
    pd.testing.assert_frame_equal(served.predict(table), classifier.answer(TEXTS[:3]))
    asked = served.predict(table, {"attention": True})
    pd.testing.assert_frame_equal(asked, classifier.answer(TEXTS[:3], attention=True))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"sentence": TEXTS[:2]}, "columns ['sentence']: a table of sentences has a column `text`."),
        ({"text": TEXTS}, "4 rows: at most 3 at once; send them in parts, or load the model with"),
        ({"text": [TEXTS[0], "a " * 101]}, "row 1: 202 characters; a sentence has at most 200."),
        ({"text": [TEXTS[0], "no marks"]}, "row 1: "),
        ({"text": ["  "]}, "row 0: an empty sentence."),
        ({"text": [3]}, "row 0: 3 is no text."),
        ({"text": [TEXTS[0], None, float("nan")]}, "row 1: None is no text.\nrow 2: None is no text."),
    ],
)
def test_what_cannot_be_answered_is_a_bad_request(served: Served, table: dict[str, list[Any]], said: str) -> None:
    with pytest.raises(MlflowException) as raised:
        served.predict(pd.DataFrame(table))
    assert raised.value.get_http_status_code() == 400
    assert raised.value.message.startswith(said)
