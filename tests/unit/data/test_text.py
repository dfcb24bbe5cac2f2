import doctest

import pytest

from bilstm_attention.data import text as module
from bilstm_attention.data.text import clean_text, count_uncleaned, normalize

ALL = ("html", "urls", "users")


def test_docstring_examples_hold():
    result = doctest.testmod(module)
    assert result.attempted >= 1
    assert result.failed == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 &lt; 2 &amp;&#38;&#x26; caf&eacute;", "1 < 2 &&& café"),
        ("&amp;lt; AT&T R&notit &nonsense;", "&lt; AT&T R&notit &nonsense;"),
        ('<p class="x">One<br/>two</P><!-- no --><o:p></o:p>', " One two    "),
        ("&lt;b&gt;bold&lt;/b&gt;", " bold "),
        ("a < b > c <3 x<y <al@x.org> <http://x.org> <url>", "a < b > c <3 x<y <al@x.org> <http://x.org> <url>"),
    ],
)
def test_html_is_resolved_and_tags_are_blanks(text, expected):
    assert clean_text(text, ["html"]) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("See http://x.org/a?b=c#d, (https://x.org).", "See  URL , ( URL )."),
        ("HTTP://X.ORG www.x.org/ü ftp://x.org", " URL   URL   URL "),
        ("看https://x.org/a。好 http://пример.рф!", "看 URL 。好  URL !"),
        ("https://x.org에서", " URL 에서"),
        ("http:// x.org awww.x http://", "http:// x.org awww.x http://"),
    ],
)
def test_addresses_are_replaced(text, expected):
    assert clean_text(text, ["urls"]) == expected.replace("URL", "<url>")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (".@al_2's and @7up, @हिन्दी!", ". USER 's and  USER ,  USER !"),
        ("@al@host.org", " USER "),
        ("al@host.org 3 @5 @ home https://x.org/@al", "al@host.org 3 @5 @ home https://x.org/@al"),
    ],
)
def test_user_names_are_replaced_and_email_addresses_kept(text, expected):
    assert clean_text(text, ["users"]) == expected.replace("USER", "<user>")


def test_what_would_be_cleaned_is_counted_by_option():
    texts = [
        *("<e1>a</e1> < <e2>b</e2>", "a & b, c@host.org", "3 @5 <url> <user>", "nothing"),
        *("a<br>", "&amp;", "<e1>a</e1> <i>b</i>", "www.x.org", "see http://x.org @al"),
    ]
    assert count_uncleaned(texts, []) == {"html": 3, "urls": 2, "users": 1}
    assert count_uncleaned(texts, ["urls"]) == {"html": 3, "users": 1}
    assert count_uncleaned(texts, ALL) == {}


def test_every_text_that_cleaning_changes_is_counted():
    for kind, text in zip(ALL, ["a <br> b", "a http://x.org b", "a @al b"], strict=True):
        assert count_uncleaned([text], set(ALL) - {kind}) == {kind: 1}
        assert count_uncleaned([clean_text(text, [kind])], set(ALL) - {kind}) == {kind: 0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("e\u200b\u0301", "é"),
        ("\u202aa\u2067b\u061cc\u3164", "abc"),
        ("a\u200c b\u200d. \u200dc d\u200c!", "a b. c d!"),
        ("=\u200d\u0338", "≠"),
        ("a\u200c\u200db", "a\u200c\u200db"),
        ("a\U000e0067", "a"),
        ("\x80 \x9f\t\u0600", "\x80 \x9f\t\u0600"),
    ],
)
def test_invisible_characters_are_dropped(text, expected):
    assert normalize(text) == expected


def test_folding_keeps_spaced_accents():
    assert normalize("ﬃ Ｑ ｶﾞ ´ ²", fold=True) == "ffi Q ガ ´ 2"
    assert normalize("ﬃ Ｑ ´", fold=False) == "ﬃ Ｑ ´"
