import hashlib
import re
import time
import unicodedata

import numpy as np
import pandas as pd
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import refusal
from tests.unit.data.tables import corpus_table

from bilstm_attention.config import Data, Tokens
from bilstm_attention.data import tokens as tokens_module
from bilstm_attention.data.tokens import MARKERS, Vocabulary, count_words, encode_examples, encode_with_faults, tokenize
from bilstm_attention.errors import DataError

UNCHANGED = Tokens(lowercase=False, numbers="keep", contractions="keep")
ANY_CLEAN = st.lists(st.sampled_from(["html", "urls", "users"]))
ANY_TOKENS = st.builds(
    Tokens,
    words=st.sampled_from(["unicode", "whitespace", "characters"]),
    fold=st.booleans(),
    lowercase=st.booleans(),
    numbers=st.sampled_from(["keep", "zero"]),
    punctuation=st.sampled_from(["keep", "drop"]),
    contractions=st.sampled_from(["keep", "split"]),
)
CLEANING = st.builds(lambda tokens, clean: tokens.model_copy(update={"clean": clean}), ANY_TOKENS, ANY_CLEAN)
WORDS = """
    fjord Straße o'er don\u2019t U.S. 3.5kg col\u00b7lega \u0130zmir Год λόγος هُنا می\u200cروم שָׁלוֹם חז"ל हिन्दी क्\u200dष
    ক্ষেত தமிழ் ശരി അവന്\u200d බ්\u200dරා น้ำ ຄຳ ខ្មែរ မြန်မာ བོད 森 々 ひらがな カタカナ ｶﾞｰﾄﾞ 한국어 \u1112\u1161\u11ab
    ＡＢ１ ﬁn ² \u0600\u0661 \u0600 \u0661
    👍🏽 👩\u200d🚀 🇳🇴 7️⃣ © ☂️ 🏴\U000e0067\U000e0062\U000e0077\U000e006c\U000e0073\U000e007f
    <url> <user> < > ... -- - ' \u201c । 。 、 ؟ €
"""
# Dense in what the tokeniser treats specially.
SIGNS = "aSnt've1,.:/-<>e2 \u0301\u0338\u0307\u2019\u00c5\u212b\u0130\x85\t\x1c\x00\xad\u200b\u200c\u200d\ufeff\ufe0f"
MORE_SIGNS = 'कि\u094d\u0d4dกำံာאָ"\u05f3字か\u3099カﾞ가ᄀ\u3164👍\U0001f3fd\u20e3🇳↔≮\U000e0067\U000e007f´¨ﬁＡ＜\u0600'
SCRIPTS = WORDS.split()
PIECES = st.lists(st.sampled_from(SCRIPTS + list(SIGNS))).map("".join)
TEXT = st.text() | st.text(alphabet=SIGNS) | st.text(alphabet=SIGNS + MORE_SIGNS) | PIECES
INVISIBLE = regex.compile(r"[\s\x1c-\x1f\p{M}\p{Cf}\p{DI}[\p{Cc}--[\x80-\x9f]]]", regex.V1)


def relations(*texts: str) -> pd.DataFrame:
    return corpus_table(["Other"] * len(texts), [*texts], "x.txt")


def data(relational: bool = True, **tokens: object) -> Data:
    kind = {} if relational else {"format": "table", "train": "train.csv"}
    return Data.model_validate({**kind, "tokens": tokens})


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
        ("naïve cafe\u0301 東京", "naïve café 東 京"),
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
        ("x-n't a.n't 'x-'s", "x-n't a.n't ' x - 's"),
    ],
)
def test_contractions_are_split_as_in_the_penn_treebank(text, expected):
    assert tokenize(text, Tokens(lowercase=False)) == expected.split()


def test_options_leave_markers_unchanged():
    text = "<e1>A1</e1>!!<e2>B22</e2>"
    zeroed = Tokens(punctuation="drop", numbers="zero")
    assert tokenize(text, zeroed) == ["<e1>", "a0", "</e1>", "<e2>", "b00", "</e2>"]
    assert tokenize(text, UNCHANGED) == ["<e1>", "A1", "</e1>", "!", "!", "<e2>", "B22", "</e2>"]


def between_markers(around: tuple[str, ...]) -> str:
    """Five texts with the four markers between them."""
    texts = [text.replace("<e", "").replace("</e", "") for text in around]
    return "".join(part for pair in zip(texts, (*MARKERS, ""), strict=True) for part in pair)


@given(st.tuples(*[TEXT] * 5), CLEANING)
def test_markers_survive_any_text_around_them(around, options):
    text = between_markers(around)
    assert [token for token in tokenize(text, options) if token in MARKERS] == list(MARKERS)


@given(st.tuples(*[TEXT] * 5), ANY_TOKENS, st.integers(0, 5))
def test_context_counts_from_the_outer_markers(around, options, context):
    text = between_markers(around)
    whole = tokenize(text, options)
    before, after = whole[: whole.index("<e1>")], whole[whole.index("</e2>") + 1 :]
    inside = whole[len(before) : len(whole) - len(after)]
    cut = tokenize(text, options.model_copy(update={"context": context}))
    assert cut == [*before[len(before) - min(context, len(before)) :], *inside, *after[:context]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # marks are part of the letter: vowel signs, nukta, virama; danda is a sign
        ("मेरी छोटी बहन हिन्दी पढ़ती है।", "मेरी छोटी बहन हिन्दी पढ़ती है ।"),
        ("தமிழ் மொழி அழகு.", "தமிழ் மொழி அழகு ."),
        ("আমার ছোট্ট ক্ষেত ২,৫০০ টাকা।", "আমার ছোট্ট ক্ষেত ২,৫০০ টাকা ।"),
        ("رَكَضَ الوَلَدُ، ١٬٢٣٤٫٥؟", "رَكَضَ الوَلَدُ ، ١٬٢٣٤٫٥ ؟"),
        ('הַיֶּלֶד רָץ; צה"ל צה״ל ג׳ירפה "כן"', 'הַיֶּלֶד רָץ ; צה"ל צה״ל ג׳ירפה " כן "'),
        ("می\u200cروم و کتاب\u200cها\u200c را\u200d", "می\u200cروم و کتاب\u200cها را"),
        ("അവന്\u200d വന്നു", "അവന്\u200d വന്നു"),
        # no blanks and no dictionary: grapheme clusters; Latin and digits remain words
        ("แม่ดื่มน้ำ Pepsi 25 ขวด", "แ ม่ ดื่ ม น้ำ pepsi 25 ข ว ด"),
        ("အမေမြန်မာ", "အ မေ မြ န် မာ"),
        ("我家在山上，有Wi-Fi和3.5米。", "我 家 在 山 上 ， 有 wi-fi 和 3.5 米 。"),
        ("母はコーヒーを２杯、人々ｶﾞ", "母 は コーヒー を ２ 杯 、 人 々 ｶﾞ"),
        ("동생은 매일 학교에 갔다.", "동생은 매일 학교에 갔다 ."),
        ("\u1103\u1169\u11bc산", "동산"),
        ("İzmir'in IŞIĞI i\u0307z", "izmir'in işiği iz"),
        ("Größe: geht\u2019s, Mu\u0308ller-Weiß?", "größe : geht 's , müller-weiß ?"),
        ("Pel·lícula l\u2019any 3·5", "pel·lícula l'any 3 · 5"),
        ("Hi👍🏽👩\u200d🚀🇳🇴🇸🇪 7️⃣8️⃣x#️⃣ ❤️!", "hi 👍🏽 👩\u200d🚀 🇳🇴 🇸🇪 7️⃣ 8️⃣ x #️⃣ ❤️ !"),
        ("🏴\U000e0067\U000e0062\U000e007f. x\U000e0067", "🏴\U000e0067\U000e0062\U000e007f . x"),
        ("hy\xadphen \ufeffze\u200bro nul\x00l \u202eright\u2069 jo\u2060in", "hyphen zero null right join"),
        ("a\x97b", "a \x97 b"),
        ("\u0600\u0661\u0662", "\u0600\u0661\u0662"),
        # vowel signs that \\X leaves alone, and a joiner between two
        ("\u1000\u102c\u200c\u1036\u1000", "\u1000\u102c\u200c\u1036 \u1000"),
        # a mark without a sign before it
        ("\u0301a \u0301b <e1>\u0301c</e1>\u0301 .\u0301", "a b <e1> c </e1> .\u0301"),
    ],
)
def test_words_of_many_scripts(text, expected):
    assert tokenize(text, Tokens()) == expected.split()


@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        ("whitespace", "我家 在 山上 ， Don't can't", "我家 在 山上 ， don't can't"),
        ("whitespace", "x<e1>山\u200b上</e1>，<e2>a b</e2>", "x <e1> 山上 </e1> ， <e2> a b </e2>"),
        ("whitespace", "<E1> <e\u200b2> <pad> <unk> <url>", "< e1 > < e2 > < pad > <unk> <url>"),
        ("characters", "No हिन्दी<e1>น้ำ</e1>👩\u200d🚀!", "n o हि न्दी <e1> น้ำ </e1> 👩\u200d🚀 !"),
        ("characters", "می\u200cرم <url>", "م ی ر م <url>"),
        ("characters", "\u0600 \u0661", "\u0600 \u0661"),
    ],
)
def test_tokens_of_blanks_or_characters(words, text, expected):
    assert tokenize(text, Tokens(words=words)) == expected.split()


@pytest.mark.parametrize("piece", ["🇳", "森", "a.", "1.", "<b ", "&#1", "@a", "www.", "\u094d\u200d", "n't"])
def test_time_is_linear_in_the_length(piece):
    began = time.perf_counter()
    tokenize("é" + 40_000 * piece, Tokens(clean=["html", "urls", "users"]))
    assert time.perf_counter() - began < 3


def test_folding_makes_plain_letters():
    text = "ＡＢ１２ ﬁn ｶﾞ ´ ＜e1＞ <e1>ｘ</e1>"
    assert tokenize(text, Tokens(fold=True)) == ["ab12", "fin", "ガ", "´", "<", "e1", ">", "<e1>", "x", "</e1>"]
    assert tokenize("＜e1＞", Tokens(fold=True, words="whitespace")) == ["<", "e1", ">"]


def test_cleaning_makes_no_markers():
    text = "&lt;e1&gt;<e1><b>A&amp;B</b></e1> @al www.x.org"
    tokens = tokenize(text, Tokens(clean=["html", "urls", "users"]))
    assert tokens == ["<e1>", "a", "&", "b", "</e1>", "<user>", "<url>"]


@given(TEXT, ANY_TOKENS.filter(lambda options: options.words != "whitespace"))
def test_no_token_begins_with_a_combining_mark(text, options):
    assert [token for token in tokenize(text, options) if unicodedata.category(token[0])[0] == "M"] == []


@given(TEXT, ANY_TOKENS)
@settings(max_examples=300)
def test_tokens_of_tokens_are_the_same(text, options):
    once = tokenize(text, options)
    assert tokenize(" ".join(once), options) == once


def visible(text):
    """A text without white space, combining marks and what cannot be seen."""
    return INVISIBLE.sub("", unicodedata.normalize("NFD", text.replace("\u2019", "'")))


@given(TEXT, st.sampled_from(["unicode", "whitespace", "characters"]))
def test_only_what_cannot_be_seen_is_lost(text, words):
    tokens = tokenize(text, UNCHANGED.model_copy(update={"words": words}))
    assert visible("".join(tokens)) == visible(text)


@given(st.lists(st.sampled_from(SCRIPTS)), st.sampled_from(["", " "]))
def test_no_mark_of_a_word_is_lost(pieces, blank):
    tokens = tokenize(blank.join(pieces), UNCHANGED)
    kept, given = ("".join(words).replace("\u2019", "'").replace("\u200d", "") for words in (tokens, pieces))
    assert kept == unicodedata.normalize("NFC", given)


@given(st.text(alphabet=[chr(code) for code in range(128)]) | st.text(alphabet="aSnt've1,.:/-<>e2_ "))
def test_ascii_text_has_the_tokens_of_unicode_text(text):
    assert tokenize(text, Tokens()) == tokenize(f"{text} é", Tokens())[:-1]


@pytest.mark.parametrize(
    ("options", "semeval", "reviews"),
    [
        (Tokens(numbers="zero"), "2667be26623cf93e1c1d23ff2744224d", "dc0c8ac804eb25b5648f8b939efc1a09"),
        (UNCHANGED, "b5fc468bbedb823af021ce1cd9313b1d", "f64ecbf213e5b66a8ae5dfc3761c40ff"),
    ],
    ids=["zeroed", "unchanged"],
)
def test_english_tokens_are_those_of_published_results(real_data, options, semeval, reviews):
    def digest(folder, names, sentence):
        texts = "".join((real_data / folder / name).read_text(encoding="utf-8") + "\n" for name in names)
        rows = [" ".join(tokenize(text, options)) for text in re.findall(sentence, texts, re.MULTILINE)]
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:32]

    files = ["TRAIN_FILE.TXT", "TEST_FILE_FULL.TXT"]
    assert digest("semeval2010-task8", files, r'^\d+\t"(.*)"\r?$') == semeval
    assert digest("mr", ["rt-polarity.neg", "rt-polarity.pos"], r"^.*\S.*$") == reviews


def test_plain_row_keeps_its_first_tokens():
    found = encode_examples(relations("a b c d", "e"), data(relational=False, max_length=3))
    assert found["tokens"].tolist() == [["a", "b", "c"], ["e"]]
    assert found["length"].tolist() == [4, 1]
    assert found.columns.tolist() == ["id", "tokens", "label", "length"]


@pytest.mark.parametrize(("left", "right", "first"), [(0, 9, "<e1>"), (9, 0, "l7"), (9, 9, "l8"), (1, 9, "l0")])
def test_long_relation_row_keeps_the_window_around_its_entities(left, right, first):
    words = [*(f"l{n}" for n in range(left)), "<e1>x</e1> y <e2>z</e2>", *(f"r{n}" for n in range(right))]
    found = encode_examples(relations(" ".join(words)), data(max_length=9, numbers="keep")).iloc[0]
    assert len(found["tokens"]) == 9
    assert found["tokens"][0] == first
    assert found["length"] == left + right + 7


@given(
    st.integers(0, 12),
    st.integers(0, 12),
    st.integers(1, 3),
    st.integers(0, 3),
    st.booleans(),
    st.integers(11, 30),
    st.none() | st.integers(0, 3),
)
def test_window_holds_both_entities(left, right, size, between, swapped, limit, context):
    entities = [["<e1>", *["one"] * size, "</e1>"], ["<e2>", "two", "</e2>"]]
    one, two = reversed(entities) if swapped else entities
    words = [*["l"] * left, *one, *["m"] * between, *two, *["r"] * right]
    row = encode_examples(relations(" ".join(words)), data(max_length=limit, context=context)).iloc[0]
    assert row["tokens"][row["e1_start"] - 1 : row["e1_end"] + 1] == entities[0]
    assert row["tokens"][row["e2_start"] - 1 : row["e2_end"] + 1] == entities[1]
    assert len(row["tokens"]) == min(limit, row["length"])


def test_entities_too_far_apart_are_listed_with_the_limit_they_need():
    rows = relations("<e1>a</e1> b <e2>c</e2>", "<e1>a</e1> b c d <e2>e</e2>", "<e1>a</e1> b c <e2>d</e2>")
    lines = refusal(lambda: encode_examples(rows, data(max_length=7)), DataError).split("\n")
    assert [line.split(": ")[0] for line in lines[:-1]] == ["x.txt:2", "x.txt:3"]
    assert "more than data.tokens.max_length, 7; raise it to 9." in lines[0]
    assert lines[-1] == "Raise data.tokens.max_length to 9."
    assert encode_with_faults(rows, data(max_length=7))["required_length"].tolist() == [7, 9, 8]


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("!!", {"punctuation": "drop"}, "data.tokens.punctuation: drop removes"),
        ("\u200b", {}, "all of it is invisible, or removed by data.tokens.clean"),
        ("<br/>", {"clean": ["html"]}, "all of it is invisible, or removed by data.tokens.clean"),
    ],
)
def test_sentence_without_a_token_is_an_error(text, options, reason):
    message = refusal(lambda: encode_examples(relations("a", text), data(relational=False, **options)), DataError)
    assert message.startswith(f"x.txt:2: sentence 2 has no token left of {text!r}; {reason}")
    assert "max_length" not in message


def test_empty_entity_is_an_unknown_word():
    rows = relations("<e1> </e1> b <e2>%</e2>", "<e2>a</e2> <e1>-</e1>", "<e1>a</e1> <e2>b</e2>")
    found = encode_with_faults(rows, data(punctuation="drop"))
    assert found["empty_entities"].tolist() == [2, 1, 0]
    assert found["fault"].tolist() == ["", "", ""]
    assert found["tokens"][0] == ["<e1>", "<unk>", "</e1>", "b", "<e2>", "<unk>", "</e2>"]
    spans = found[["e1_start", "e1_end", "e2_start", "e2_end"]].to_numpy().tolist()
    assert spans == [[1, 2, 5, 6], [4, 5, 1, 2], [1, 2, 4, 5]]
    assert found["length"].tolist() == [7, 6, 6]
    assert "empty_entities" not in encode_examples(rows, data(punctuation="drop"))


def test_words_are_counted_without_markers():
    found = count_words([["<e1>", "b", "</e1>", "a"], ["b", "c", "<e2>"]])
    assert found.to_dict("list") == {"word": ["b", "a", "c"], "count": [2, 1, 1]}


@given(st.lists(st.lists(TEXT.filter(lambda word: word.split() == [word]))))
def test_words_and_vocabulary_are_read_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("words")
    words = count_words([*rows, ["NA", "null", "nan", '"', ",", "#", "1", "true"]])
    tokens_module.write_words(words, folder / "words.csv")
    pd.testing.assert_frame_equal(tokens_module.read_words(folder / "words.csv"), words)
    Vocabulary(words["word"]).save(folder / "vocabulary.txt")
    assert Vocabulary.load(folder / "vocabulary.txt").words == [*tokens_module.SPECIALS, *words["word"]]


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
