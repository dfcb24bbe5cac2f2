"""Raw text in, labels and probabilities out, row by row; what cannot be classified is named by row."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bilstm_attention.corpus.tokens import Vocabulary, encode_examples
from bilstm_attention.errors import DataError
from bilstm_attention.params import Data, Params
from bilstm_attention.serving import TextClassifier, load_folder

LABELS = ["Component-Whole(e1,e2)", "Component-Whole(e2,e1)", "Other"]
TEXTS = [
    "The <e1>wheel</e1> of the <e2>car</e2> broke.",
    "<e1>wheel</e1> <e2>car</e2>",
    "The car of the car of the <e1>car</e1> broke the <e2>wheel</e2> of the wheel.",
    "The <e1>xylophone</e1> <e2>zzz</e2> qqq",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bilstm_attention.network.classifier import build_classifier, save_classifier

    folder = tmp_path_factory.mktemp("classifier")
    vocabulary = Vocabulary(["the", "wheel", "of", "car", "broke", "."])
    vocabulary.save(folder / "vocabulary.txt")
    matrix = np.random.default_rng(0).normal(size=(len(vocabulary), 5)).astype(np.float32)
    matrix[0] = 0
    tiny = Params().model.model_copy(update={"lstm_units": 4})
    save_classifier(build_classifier(tiny, matrix, len(matrix), len(LABELS), seed=1), folder / "model.keras")
    (folder / "labels.json").write_text(json.dumps(LABELS))
    (folder / "params.yaml").write_text("data: {tokens: {max_length: 12}}\n")
    return folder


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


def test_each_row_gets_its_most_probable_label_and_that_probability(classifier: TextClassifier) -> None:
    table = classifier.predict(pd.DataFrame({"other": range(4), "text": TEXTS}, index=[7, 5, 3, 1]))
    probabilities = classifier.probabilities(TEXTS)
    assert list(table.columns) == ["label", "probability"]
    assert probabilities.shape == (4, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-6)
    assert table["label"].tolist() == [LABELS[number] for number in probabilities.argmax(axis=1)]
    np.testing.assert_array_equal(table["probability"], probabilities.max(axis=1).astype(float))


def test_rows_keep_their_order_and_do_not_touch_each_other(classifier: TextClassifier) -> None:
    together = classifier.probabilities(TEXTS)
    assert len({row.tobytes() for row in together}) == len(TEXTS)
    np.testing.assert_allclose(classifier.probabilities(TEXTS[::-1]), together[::-1], rtol=1e-5)
    for text, row in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(classifier.probabilities([text])[0], row, rtol=1e-5)


def test_a_list_a_column_and_a_table_are_answered_alike(classifier: TextClassifier) -> None:
    table = pd.DataFrame({"text": TEXTS})
    for given in (table, table["text"], tuple(TEXTS)):
        pd.testing.assert_frame_equal(classifier.predict(given), classifier.predict(TEXTS))


def test_words_never_seen_are_all_one_unknown_word(classifier: TextClassifier) -> None:
    one, other = classifier.probabilities(["<e1>foo</e1> bar <e2>baz</e2>", "<e1>Qux</e1> Quux <e2>corge</e2>"])
    np.testing.assert_array_equal(one, other)


def test_text_is_tokenised_as_in_training(classifier: TextClassifier) -> None:
    lower, upper = classifier.probabilities(
        ["the <e1>wheel</e1> of <e2>car</e2>", "THE <e1> Wheel </e1> of <e2>car</e2>"]
    )
    np.testing.assert_array_equal(lower, upper)
    assert classifier.rows([TEXTS[2]]).lengths.max() <= 12


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
        classifier.predict([TEXTS[0], "The wheel of the car.", "", "  ", "The <e1>wheel</e1> of the car."])
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["row 1", "row 2", "row 3", "row 4"]
    assert lines[0].endswith("marks both entities as <e1>..</e1> and <e2>..</e2>.")
    assert lines[1] == "row 2: an empty sentence."
    assert "but no <e2> </e2>" in lines[3]


def test_of_many_faulty_rows_twenty_are_named_and_the_rest_counted(classifier: TextClassifier) -> None:
    with pytest.raises(DataError, match="and 5 more"):
        classifier.predict([""] * 25)


def test_a_corpus_without_entities_takes_plain_sentences(plain: TextClassifier) -> None:
    assert plain.predict(["The wheel of the car.", "broke"])["label"].isin(LABELS).all()
    with pytest.raises(DataError, match="row 1: an empty sentence"):
        plain.predict(["The wheel.", ""])


def test_no_rows_give_no_rows(classifier: TextClassifier) -> None:
    assert classifier.predict([]).empty


def test_what_is_no_text_is_named_by_row(classifier: TextClassifier) -> None:
    with pytest.raises(DataError, match="row 1: None is no text"):
        classifier.predict([TEXTS[0], None])


def test_a_table_without_the_column_says_which_is_needed(classifier: TextClassifier) -> None:
    with pytest.raises(DataError, match=r"columns .'sentence'.: a table of sentences has a column `text`"):
        classifier.predict(pd.DataFrame({"sentence": TEXTS}))
