"""The attention page in a browser: its script filters, orders, shades and reads out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser
from playwright.sync_api import Page as PageInBrowser
from tests.browser import headless_browser
from tests.unit.reports.pages import HOSTILE, Page, example, two_heads

from bilstm_attention.reports.attention_page import AttentionExample, attention_page


@contextmanager
def opened(browser: Browser, path: Path, state: str = "") -> Iterator[tuple[PageInBrowser, list[str]]]:
    """The page in a browser after its scripts ran, and its console's messages."""
    page, console = browser.new_page(), list[str]()
    page.on("console", lambda message: console.append(message.text))
    page.on("pageerror", lambda error: console.append(str(error)))
    page.goto(f"{path.as_uri()}#{state}")
    yield page, console
    page.close()


@pytest.fixture(scope="module")
def browser():
    with headless_browser() as started:
        yield started


def shown(browser: Browser, path: Path, state: str) -> tuple[Page, list[str]]:
    with opened(browser, path, state) as (page, console):
        return Page(page.content()), console


def three() -> list[AttentionExample]:
    return [
        *two_heads(),
        AttentionExample(HOSTILE, np.full((2, len(HOSTILE)), 0.05), "Other", [("Other", 0.9)], "head"),
    ]


STATES = {
    "": ["1", "2", "3"],
    "show=wrong": ["2"],
    "order=surest": ["3", "1", "2"],
    "gold=Cause-Effect(e1%2Ce2)": ["2"],
    "predicted=Other&gold=Other": ["1", "3"],
    "search=x+Y": ["1"],
    "search=%3C%2FSCRIPT%3E&order=unsurest": ["3"],
    "search=nowhere": [],
    "show=right&predicted=Other&order=surest": ["3", "1"],
    "order=toString&length=7&gold=__proto__&show=x&controls=1": ["1", "2", "3"],
}
VISIT = """state => {
  history.replaceState(null, "", "#" + state);
  restore();
  const visible = [...document.querySelectorAll("li:not([hidden]) .number")].map((number) => number.textContent);
  return [visible, count.textContent];
}"""


def test_sentences_are_filtered_searched_and_ordered(browser, tmp_path):
    attention_page(three(), tmp_path / "page.html", title="t", source="s")
    with opened(browser, tmp_path / "page.html") as (page, console):
        results = [page.evaluate(VISIT, state) for state in STATES]
    assert console == []
    expected = [[shown, f"{len(shown)} of 3 sentences shown"] for shown in STATES.values()]
    assert dict(zip(STATES, results, strict=True)) == dict(zip(STATES, expected, strict=True))


def test_arrow_keys_move_in_the_direction_of_the_text(browser, tmp_path):
    hebrew = example(["<e1>", "כלב", "</e1>"], weights=[[0.5, 0.25, 0.25]] * 2, axis="head")
    attention_page([two_heads()[0], hebrew], tmp_path / "page.html", title="t", source="s")
    readouts = []
    with opened(browser, tmp_path / "page.html") as (page, console):
        for first in page.locator("[tabindex='0']").all():
            first.focus()
            for key in ("ArrowLeft", "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft"):
                page.keyboard.press(key)
                readouts.append(page.locator("#readout").inner_text())
    assert console == []
    assert [text.partition(":")[0] for text in readouts] == [
        *("x", "<e1>", "y", "<e1>", "x"),
        *("כלב", "<e1>", "<e1>", "כלב", "</e1>"),
    ]
    assert readouts[2] == "y: weight 0.5000, token 3 of 4 · head 1: 0.3000 · head 2: 0.7000"


def test_page_shades_by_the_chosen_distribution(browser, tmp_path):
    attention_page(two_heads(), tmp_path / "page.html", title="t", source="s")
    page, console = shown(browser, tmp_path / "page.html", "shade=2")
    assert console == []
    assert [attributes["class"] for attributes, _ in page.tokens()] == ["w3", "w3", "w20", "w3", "w20"]
    assert page.tokens()[2][0]["title"] == "y: weight 0.7000, token 3 of 4"
    assert page.all("span", id="which")[0][1] == "head 2"
    assert "hidden" not in page.all("form")[0][0]
    assert [attributes.get("tabindex") for attributes, _ in page.tokens()].count("0") == 2
    attention_page([example(["a", "b"])], tmp_path / "one.html", title="t", source="s")
    page, console = shown(browser, tmp_path / "one.html", "shade=2")
    assert console == []
    assert [attributes["class"] for attributes, _ in page.tokens()] == ["w20", "w20"]


def test_foreign_script_does_not_run(browser, tmp_path):
    attention_page(two_heads(), tmp_path / "page.html", title="t", source="s")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    alien = "<script>document.title = 'alien'</script></body>"
    (tmp_path / "page.html").write_text(text.replace("</body>", alien), encoding="utf-8")
    page, console = shown(browser, tmp_path / "page.html", "")
    assert page.all("title")[0][1] == "t: attention weights"
    (refusal,) = console
    assert "Content Security Policy" in refusal
