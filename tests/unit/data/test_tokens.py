import doctest
import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm_attention.config import Data, Tokens
from bilstm_attention.data import tokens as module
from bilstm_attention.data.tokens import (
    MARKERS,
    SPECIALS,
    Vocabulary,
    count_words,
    encode_examples,
    read_words,
    tokenize,
    write_words,
)
from bilstm_attention.errors import DataError

UNCHANGED = Tokens(lowercase=False, numbers="keep", contractions="keep")
ANY_TOKENS = st.builds(
    Tokens,
    lowercase=st.booleans(),
    numbers=st.sampled_from(["keep", "zero"]),
    punctuation=st.sampled_from(["keep", "drop"]),
    contractions=st.sampled_from(["keep", "split"]),
)
# Dense in what the tokeniser treats specially.
TEXT = st.text() | st.text(alphabet="aSnt've1,.:/-<>e2 \u0301\u0338\u2019\u00c5\u212b\u0130\x85\t")


def relations(*texts: str) -> pd.DataFrame:
    ids = [str(n) for n in range(1, len(texts) + 1)]
    return pd.DataFrame({"id": ids, "text": texts, "label": "Other", "source": [f"x.txt:{n}" for n in ids]})


def data(relational: bool = True, **tokens: object) -> Data:
    kind = {} if relational else {"format": "table", "train": "train.csv"}
    return Data.model_validate({**kind, "tokens": tokens})


def test_docstring_examples_hold():
    result = doctest.testmod(module)
    assert result.attempted >= 3
    assert result.failed == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the<e1>dog</e1>s", "the <e1> dog </e1> s"),
        ("<e1>well</e1>-<e2>known</e2>", "<e1> well </e1> - <e2> known </e2>"),
        ("<<e1>A</e1>>", "< <e1> A </e1> >"),
        ("<E1>", "< E1 >"),
        ("1,000 2.5 3.5kg 10:30 1/2 1990s 20th", "1,000 2.5 3.5kg 10:30 1/2 1990s 20th"),
        ("in 1975, 12. And 3.", "in 1975 , 12 . And 3 ."),
        ("U.S.-based a.m. U.S.A e.g.this I. Smith.", "U.S.-based a.m. U.S.A e.g. this I . Smith ."),
        ("mother-in-law's 'quoted' dogs' --- wait...", "mother-in-law's ' quoted ' dogs ' --- wait ..."),
        ("He did n't say it 's 'so'", "He did n't say it 's ' so '"),
        ("<e1>Ann</e1>'s", "<e1> Ann </e1> 's"),
        ("naïve cafe\u0301 東京", "naïve café 東京"),
        ("$5 (50%)", "$ 5 ( 50 % )"),
    ],
)
def test_sentences_are_split_into_tokens(text, expected):
    assert tokenize(text, UNCHANGED) == expected.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("don't DON’T can't", "do n't DO N'T ca n't"),
        ("it's we'll they've I'm she'd you're U.S.'s", "it 's we 'll they 've I 'm she 'd you 're U.S. 's"),
        ("couldn't've", "could n't 've"),
        ("n't 's o'brien rock'n'roll", "n't 's o'brien rock'n'roll"),
    ],
)
def test_contractions_are_split_as_in_the_penn_treebank(text, expected):
    assert tokenize(text, Tokens(lowercase=False)) == expected.split()


def test_options_leave_markers_unchanged():
    text = "<e1>A1</e1>!!<e2>B22</e2>"
    assert tokenize(text, Tokens(punctuation="drop")) == ["<e1>", "a0", "</e1>", "<e2>", "b00", "</e2>"]
    assert tokenize(text, UNCHANGED) == ["<e1>", "A1", "</e1>", "!", "!", "<e2>", "B22", "</e2>"]


@given(st.tuples(*[TEXT] * 5), ANY_TOKENS)
def test_markers_survive_any_text_around_them(around, options):
    around = [text.replace("<e", "").replace("</e", "") for text in around]
    text = "".join(part for pair in zip(around, (*MARKERS, ""), strict=True) for part in pair)
    assert [token for token in tokenize(text, options) if token in MARKERS] == list(MARKERS)


@given(st.tuples(*[TEXT] * 5), ANY_TOKENS, st.integers(0, 5))
def test_context_counts_from_the_outer_markers(around, options, context):
    around = [text.replace("<e", "").replace("</e", "") for text in around]
    text = "".join(part for pair in zip(around, (*MARKERS, ""), strict=True) for part in pair)
    whole = tokenize(text, options)
    before, after = whole[: whole.index("<e1>")], whole[whole.index("</e2>") + 1 :]
    inside = whole[len(before) : len(whole) - len(after)]
    cut = tokenize(text, options.model_copy(update={"context": context}))
    assert cut == [*before[len(before) - min(context, len(before)) :], *inside, *after[:context]]


def test_entity_positions_in_a_context():
    text = "One two <e2>three</e2> and <e1>four five</e1> six, seven."
    data = Data(tokens=Tokens(context=1))
    (row,) = encode_examples(
        pd.DataFrame({"id": ["1"], "text": [text], "label": ["a"], "source": ["f:1"]}), data
    ).to_dict("records")
    assert row["tokens"] == ["two", "<e2>", "three", "</e2>", "and", "<e1>", "four", "five", "</e1>", "six"]
    assert (row["e1_start"], row["e1_end"], row["e2_start"], row["e2_end"], row["length"]) == (6, 8, 2, 3, 10)


@given(TEXT, ANY_TOKENS)
def test_no_token_is_empty_or_holds_whitespace(text, options):
    assert all(token.split() == [token] for token in tokenize(text, options))


@given(TEXT)
def test_only_whitespace_is_lost(text):
    expected = unicodedata.normalize("NFC", "".join(text.replace("\u2019", "'").split()))
    assert unicodedata.normalize("NFC", "".join(tokenize(text, UNCHANGED))) == expected


def test_plain_row_keeps_its_first_tokens():
    found = encode_examples(relations("a b c d", "e"), data(relational=False, max_length=3))
    assert found["tokens"].tolist() == [["a", "b", "c"], ["e"]]
    assert found["length"].tolist() == [4, 1]
    assert found.columns.tolist() == ["id", "tokens", "label", "length"]


@pytest.mark.parametrize(
    ("left", "right", "first"),
    [(0, 9, "<e1>"), (9, 0, "l7"), (9, 9, "l8"), (1, 9, "l0")],
)
def test_long_relation_row_keeps_the_window_around_its_entities(left, right, first):
    words = [*(f"l{n}" for n in range(left)), "<e1>x</e1> y <e2>z</e2>", *(f"r{n}" for n in range(right))]
    found = encode_examples(relations(" ".join(words)), data(max_length=9, numbers="keep")).iloc[0]
    assert len(found["tokens"]) == 9
    assert found["tokens"][0] == first
    assert found["length"] == left + right + 7


@settings(deadline=None)
@given(
    st.integers(0, 12),
    st.integers(0, 12),
    st.integers(1, 3),
    st.integers(0, 3),
    st.booleans(),
    st.integers(11, 30),
)
def test_window_holds_both_entities(left, right, size, between, swapped, limit):
    entities = [["<e1>", *["one"] * size, "</e1>"], ["<e2>", "two", "</e2>"]]
    one, two = reversed(entities) if swapped else entities
    words = [*["l"] * left, *one, *["m"] * between, *two, *["r"] * right]
    row = encode_examples(relations(" ".join(words)), data(max_length=limit)).iloc[0]
    assert row["tokens"][row["e1_start"] - 1 : row["e1_end"] + 1] == entities[0]
    assert row["tokens"][row["e2_start"] - 1 : row["e2_end"] + 1] == entities[1]
    assert len(row["tokens"]) == min(limit, row["length"])


def test_entities_too_far_apart_are_listed_with_the_limit_they_need():
    rows = relations("<e1>a</e1> b <e2>c</e2>", "<e1>a</e1> b c <e2>d</e2>", "<e1>a</e1> b c d <e2>e</e2>")
    with pytest.raises(DataError) as caught:
        encode_examples(rows, data(max_length=7))
    lines = str(caught.value).split("\n")
    assert [line.split(": ")[0] for line in lines] == ["x.txt:2", "x.txt:3"]
    assert "more than data.tokens.max_length, 7; raise it to 8." in lines[0]


def test_sentence_or_entity_without_a_token_is_an_error():
    with pytest.raises(DataError, match=r"x.txt:2: sentence 2 has no token left of '!!'; data.tokens.punctuation"):
        encode_examples(relations("a", "!!"), data(relational=False, punctuation="drop"))
    with pytest.raises(DataError, match=r"x.txt:1: sentence 1 has no token left in <e2>"):
        encode_examples(relations("<e1>a</e1> <e2>%</e2>"), data(punctuation="drop"))


def test_words_are_counted_without_markers():
    found = count_words([["<e1>", "b", "</e1>", "a"], ["b", "c", "<e2>"]])
    assert found.to_dict("list") == {"word": ["b", "a", "c"], "count": [2, 1, 1]}


@settings(deadline=None)
@given(st.lists(st.lists(TEXT.filter(lambda word: word.split() == [word]))))
def test_words_and_vocabulary_are_read_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("words")
    words = count_words([*rows, ["NA", "null", "nan", '"', ",", "#", "1", "true"]])
    write_words(words, folder / "words.csv")
    pd.testing.assert_frame_equal(read_words(folder / "words.csv"), words)
    Vocabulary(words["word"]).save(folder / "vocabulary.txt")
    assert Vocabulary.load(folder / "vocabulary.txt").words == [*SPECIALS, *words["word"]]


def test_vocabulary_numbers_specials_first_and_unknown_words_as_1():
    vocabulary = Vocabulary(["oak", "door"])
    ids = vocabulary.encode(["<e1>", "oak", "</e1>", "<e2>", "gate", "</e2>", "door", "<pad>"])
    assert ids.dtype == np.int32
    assert ids.tolist() == [2, 6, 3, 4, 1, 5, 7, 0]
    assert len(vocabulary) == 8
    assert "oak" in vocabulary
    assert "gate" not in vocabulary
    assert vocabulary.encode([]).shape == (0,)


@pytest.mark.parametrize("word", ["oak", "<unk>", "", "a\nb", "a\rb"])
def test_vocabulary_refuses_repeated_and_broken_words(word):
    with pytest.raises(DataError, match="vocabulary: "):
        Vocabulary(["oak", word])


def test_vocabulary_file_begins_with_the_specials(tmp_path):
    (tmp_path / "vocabulary.txt").write_text("oak\ndoor\n")
    with pytest.raises(DataError, match=r"vocabulary.txt:1: begins with oak door"):
        Vocabulary.load(tmp_path / "vocabulary.txt")
