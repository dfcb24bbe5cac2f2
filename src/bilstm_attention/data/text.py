"""Text before it is cut into tokens: html, addresses and user names replaced, Unicode normalised."""

import html
import re
import unicodedata
from collections.abc import Callable, Container, Sequence

import regex

URL, USER = "<url>", "<user>"

# Scripts written without blanks between words. Line_Break=SA is Thai, Lao, Khmer, Myanmar and their like: UAX 29
# leaves their words to dictionaries.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Line_Break=SA}"
KATAKANA = r"\p{Word_Break=Katakana}\uff9e\uff9f"
SPACE = r"\s\x1c-\x1f"  # as str.isspace
JOINERS = r"\u200c\u200d"  # ZWNJ and ZWJ
TAGS = r"\U000e0020-\U000e007f"  # spell the region of a flag, after U+1F3F4

# U+0080 to U+009F stay: in real text they are dashes and quotes of Windows-1252 that were read as Latin-1.
VISIBLE = rf"{SPACE}\x80-\x9f\p{{M}}\p{{Prepended_Concatenation_Mark}}"
INVISIBLE = regex.compile(
    rf"[[\p{{Cc}}\p{{Cf}}\p{{Default_Ignorable_Code_Point}}]--[{VISIBLE}{JOINERS}{TAGS}]]", regex.V1
)
# Group 1 is what joiners and tags may stand in: an emoji sequence, a word, and a virama with its ZWJ (UAX 31, rule B).
JOINED = regex.compile(
    rf"""( \p{{Extended_Pictographic}}[\p{{M}}\p{{EMod}}{TAGS}]* (?:\u200d(?=\p{{Extended_Pictographic}}))?
    | [\p{{L}}\p{{N}}](?:\p{{M}} | (?<=\p{{ccc=9}})\u200d | [{JOINERS}]+(?=[\p{{L}}\p{{N}}\p{{M}}]))*
    ) | [{JOINERS}{TAGS}]""",
    regex.V1 | regex.VERBOSE,
)
HAS_JOINER = regex.compile(f"[{JOINERS}{TAGS}]")
COMPATIBLE = regex.compile(r"\p{NFKC_Quick_Check=No}")

ENTITY = r"&(?:\#[0-9]{1,7}|\#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});"
TAG = r"(?:/?[a-zA-Z][\w-]*(?::[\w-]+)?(?:[\s/][^<>]*)?|![-a-zA-Z][^<>]*)>"
# An address ends where a script without blanks, Hangul or their punctuation begins, and before closing punctuation.
ADDRESS = rf"""[^{SPACE}<>"{UNSPACED}{KATAKANA}\p{{Hangul}}\u3000-\u303f\uff00-\uffef]"""
ADDRESSES = regex.compile(
    rf"(?<![a-zA-Z0-9])(?i:(?:https?|ftp)://|www\.){ADDRESS}*(?![.,;:!?'()\[\]\u2019\u201d\u2026]){ADDRESS}", regex.V1
)
# With a letter, since `3 @5` is a price; with the host of a Mastodon name. A letter before it makes an e-mail address.
NAME = r"\p{L}\p{M}\p{N}_"
NAMES = regex.compile(rf"(?<![{NAME}@/])@(?=\p{{N}}*[\p{{L}}_])[{NAME}]+(?:@[\w-]+(?:\.[\w-]+)+)?", regex.V1)
ENTITIES, HTML_TAGS = re.compile(ENTITY), re.compile(f"<(?!{URL[1:]}|{USER[1:]}){TAG}")
MARKUP = re.compile(f"{ENTITY}|<(?!{URL[1:]}|{USER[1:]}|/?e[12]>){TAG}")

FINDERS: dict[str, Callable[[str], object]] = {
    # the search for a character is many times faster than that for a pattern
    "html": lambda text: ("&" in text or "<" in text) and MARKUP.search(text),
    "urls": lambda text: ("://" in text or "www." in text) and ADDRESSES.search(text),
    "users": lambda text: "@" in text and NAMES.search(text),
}


def count_uncleaned(texts: Sequence[str], clean: Container[str]) -> dict[str, int]:
    """Texts that hold html, addresses or user names, by the option that would replace them and is not in `clean`."""
    return {kind: sum(1 for text in texts if find(text)) for kind, find in FINDERS.items() if kind not in clean}


def clean_text(text: str, clean: Container[str]) -> str:
    """Replaces what `clean` names, in a text without entity markers.

    `html`: entities such as `&amp;` are resolved, then tags and comments become a blank, also those that were escaped.
    `urls`: an address that begins with `http://`, `https://`, `ftp://` or `www.` becomes `<url>`.
    `users`: `@name` becomes `<user>`; an e-mail address is none, and is kept.

    >>> clean_text("<b>Tom &amp; Al</b>: a < b, see www.example.org, @al_2 (al@example.org)", ["html", "urls", "users"])
    ' Tom & Al : a < b, see  <url> ,  <user>  (al@example.org)'
    """
    if "html" in clean:
        text = HTML_TAGS.sub(" ", ENTITIES.sub(lambda entity: html.unescape(entity[0]), text))
    if "urls" in clean:
        text = ADDRESSES.sub(f" {URL} ", text)
    if "users" in clean:
        text = NAMES.sub(f" {USER} ", text)
    return text


def normalize(text: str, fold: bool = False) -> str:
    """Composes a text and drops what cannot be seen.

    1. Control and format characters are dropped (NUL, soft hyphens, zero-width spaces, byte-order marks, marks of
       direction), but for white space and U+0080 to U+009F.
    2. With `fold`, compatibility characters are replaced (NFKC): full-width forms, ligatures, superscripts. Those that
       NFKC turns into a blank and a combining mark, such as U+00B4, are kept.
    3. The rest as of `compose`.
    """
    text = INVISIBLE.sub("", text)
    return compose(COMPATIBLE.sub(_fold, text) if fold else text)


def compose(text: str) -> str:
    """Composes accented letters (NFC), and drops the joiners ZWJ and ZWNJ outside a word or an emoji sequence."""
    text = unicodedata.normalize("NFC", text)
    # what a dropped joiner held apart may compose
    return unicodedata.normalize("NFC", JOINED.sub(r"\1", text)) if HAS_JOINER.search(text) else text


def _fold(character: "regex.Match[str]") -> str:
    folded = unicodedata.normalize("NFKC", character[0])
    return character[0] if folded[0].isspace() else folded
