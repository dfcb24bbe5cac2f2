import pytest

from bilstm_attention.data.text import URL, USER, clean_text, count_uncleaned, normalize

PLAIN = f"a < b > c <3 x<y <al@x.org> <http://x.org> {URL}"
ALL = ("html", "urls", "users")


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        # entities are resolved and tags are blanks
        ("html", "1 &lt; 2 &amp;&#38;&#x26; caf&eacute;", "1 < 2 &&& café"),
        ("html", "&amp;lt; AT&T R&notit &nonsense;", "&lt; AT&T R&notit &nonsense;"),
        ("html", '<p class="x">One<br/>two</P><!-- no --><o:p></o:p>', " One two    "),
        ("html", "&lt;b&gt;bold&lt;/b&gt;", " bold "),
        ("html", PLAIN, PLAIN),
        ("urls", "See http://x.org/a?b=c#d, (https://x.org).", f"See  {URL} , ( {URL} )."),
        ("urls", "HTTP://X.ORG www.x.org/ü ftp://x.org", f" {URL}   {URL}   {URL} "),
        ("urls", "看https://x.org/a。好 http://пример.рф!", f"看 {URL} 。好  {URL} !"),
        ("urls", "https://x.org에서", f" {URL} 에서"),
        ("urls", "http:// x.org awww.x http://", "http:// x.org awww.x http://"),
        ("users", ".@al_2's and @7up, @हिन्दी!", f". {USER} 's and  {USER} ,  {USER} !"),
        ("users", "@al@host.org", f" {USER} "),
        ("users", "al@host.org 3 @5 @ home https://x.org/@al", "al@host.org 3 @5 @ home https://x.org/@al"),
    ],
)
def test_what_is_cleaned(kind, text, expected):
    assert clean_text(text, [kind]) == expected


def test_what_would_be_cleaned_is_counted_by_option():
    texts = [
        *("<e1>a</e1> < <e2>b</e2>", "a & b, c@host.org", "3 @5 <url> <user>", "nothing"),
        *("a<br>", "&amp;", "<e1>a</e1> <i>b</i>", "www.x.org", "see http://x.org @al"),
    ]
    assert count_uncleaned(texts, []) == {"html": 3, "urls": 2, "users": 1}
    assert count_uncleaned(texts, ["urls"]) == {"html": 3, "users": 1}
    assert count_uncleaned(texts, ALL) == {}


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
