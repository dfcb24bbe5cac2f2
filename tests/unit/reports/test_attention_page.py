"""The attention page: what stands in it, what may not, and how it behaves in a browser."""

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser
from playwright.sync_api import Page as PageInBrowser
from tests.browser import headless_browser

from bilstm_attention.reports import attention_page as attention_html
from bilstm_attention.reports.attention_page import SHADES, AttentionExample, attention_page

HOSTILE = [
    "a",
    "<script>alert(1)</script>",
    "</script>",
    "<!--",
    "]]>",
    "&",
    "&amp;",
    '"quoted"',
    "'single'",
    "{{",
    "7*7",
    "}}",
    "{%",
    "raw",
    "%}",
    "<img",
    "src=//x.y>",
]
VOID = {"meta", "link", "input", "br"}
BEST = [("Other", 0.75), ("Cause-Effect(e1,e2)", 0.2), ("<b>", 0.04)]


class Page(HTMLParser):
    """The elements of a page in their order: name, attributes, and the text within, that of inner elements too."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(page)
        self.close()
        assert not self._open, "every element is closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len(dict(attributes)) == len(attributes)
        element = (tag, {name: value or "" for name, value in attributes}, [])
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, _, texts in self._open:
            texts.append(data)

    def all(self, tag: str, **wanted: str) -> list[tuple[dict[str, str], str]]:
        return [
            (attributes, "".join(texts))
            for name, attributes, texts in self.elements
            if name == tag and wanted.items() <= attributes.items()
        ]

    def tokens(self) -> list[tuple[dict[str, str], str]]:
        return [
            (attributes, "".join(texts))
            for _, attributes, texts in self.elements
            if re.fullmatch(r"w\d+", attributes.get("class", "")) and "title" in attributes
        ]


def example(
    tokens: Sequence[str],
    *,
    weights: Sequence[Sequence[float]] | None = None,
    gold: str | None = "Other",
    axis: str = "",
) -> AttentionExample:
    rows = np.array(weights if weights is not None else [np.full(len(tokens), 1 / len(tokens))], np.float32)
    return AttentionExample(list(tokens), rows, gold, BEST, axis)


def two_heads() -> list[AttentionExample]:
    first = example(["x", "<e1>", "y", "</e1>"], weights=[[0.5, 0.1, 0.3, 0.1], [0.1, 0.1, 0.7, 0.1]], axis="head")
    return [first, example(["z"], weights=[[1.0], [1.0]], gold="Cause-Effect(e1,e2)", axis="head")]


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., str]:
    def write(
        examples: Sequence[AttentionExample], title: str = "zhou u=8 seed=0", source: str = "sample, test"
    ) -> str:
        attention_page(examples, tmp_path / "page.html", title=title, source=source)
        return (tmp_path / "page.html").read_bytes().decode()

    return write


def test_hostile_tokens_labels_and_titles_show_as_text(written: Callable[..., str]) -> None:
    label = "</option><script>alert(2)</script>\"'"
    sentence = AttentionExample(HOSTILE, np.full((1, len(HOSTILE)), 0.05), label, [(label, 1.0)])
    text = written([sentence], title="<i>&", source="</p><script>")
    page, plain = Page(text), Page(written([example(["a"] * len(HOSTILE))]))
    assert [shown for _, shown in page.tokens()] == HOSTILE
    assert [attributes["title"].partition(": weight")[0] for attributes, _ in page.tokens()] == HOSTILE
    assert page.all("h1") == [({}, "<i>&")]
    assert page.all("li")[0][0]["data-gold"] == page.all("li")[0][0]["data-predicted"] == label
    assert [shown for _, shown in page.all("option")].count(label) == 2
    assert len(page.all("script")) == len(plain.all("script"))
    names = {name for name, _, _ in page.elements}
    assert names == {name for name, _, _ in plain.elements}


@settings(max_examples=40, deadline=None)
@given(tokens=st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=1, max_size=5))
def test_any_token_comes_back_as_it_was(tokens: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("pages") / "page.html"
    attention_page([example(tokens)], path, title="t", source="s")
    page = Page(path.read_bytes().decode())
    assert [shown for _, shown in page.tokens()] == tokens
    assert len(page.all("li")) == 1


def test_nothing_is_asked_of_a_network(written: Callable[..., str]) -> None:
    text = written([example(["https://example.org/x", "//example.org", "url(//example.org)"])])
    page = Page(text)
    for name, attributes, _ in page.elements:
        assert not {"src", "srcset", "action", "background", "poster", "style"} & set(attributes), name
        assert attributes.get("href", "data:,") == "data:,"
        assert not [key for key in attributes if key.startswith("on")]
    for _, content in (*page.all("style"), *page.all("script")):
        assert not re.search(r"//(?! )\w|url\(|@import|fetch|XMLHttp|WebSocket|innerHTML|import\(", content)
    (policy, _), *others = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert not others
    assert policy["content"].startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy["content"]
    assert "http" not in policy["content"]


def test_each_token_has_its_shade_and_says_its_weight_and_place(written: Callable[..., str]) -> None:
    tokens, weights = ["the", "<e1>", "dog", "</e1>", "barks"], [[0.4, 0.05, 0.2, 0.35, 0.00004]]
    page = Page(written([example(tokens, weights=weights), example(["b"], weights=[[0.001]])]))
    shown = page.tokens()
    assert [attributes["class"] for attributes, _ in shown] == ["w20", "w3", "w10", "w18", "w0", f"w{SHADES}"]
    assert [attributes["title"] for attributes, _ in shown] == [
        "the: weight 0.4000, token 1 of 5",
        "<e1>: weight 0.0500, token 2 of 5",
        "dog: weight 0.2000, token 3 of 5",
        "</e1>: weight 0.3500, token 4 of 5",
        "barks: weight 0.0000, token 5 of 5",
        "b: weight 0.0010, token 1 of 1",
    ]
    assert [text for _, text in page.all("bdi")] == ["<e1>", "</e1>"]
    assert page.all("script", type="application/json") == []
    assert page.all("select", name="shade") == []


def test_several_distributions_are_in_the_page_and_their_mean_is_shown(written: Callable[..., str]) -> None:
    page = Page(written(two_heads()))
    ((attributes, content),) = page.all("script", type="application/json")
    assert attributes["data-axis"] == "head"
    assert json.loads(content) == [
        [[3000, 1000, 5000, 1000], [5000, 1000, 3000, 1000], [1000, 1000, 7000, 1000]],
        [[10000], [10000], [10000]],
    ]
    assert [attributes["title"] for attributes, _ in page.tokens()][2] == "y: weight 0.5000, token 3 of 4"
    assert [attributes["class"] for attributes, _ in page.tokens()] == ["w12", "w4", "w20", "w4", "w20"]
    options = [text for attributes, text in page.all("option") if "head" in text]
    assert options == ["mean of 2 heads", "head 1", "head 2"]


def test_labels_and_verdicts_are_told_in_words(written: Callable[..., str]) -> None:
    page = Page(written(two_heads()))
    right, wrong = (text for _, text in page.all("p", **{"class": "facts"}))
    others = "; then Cause-Effect(e1,e2) 20.0 %, <b> 4.0 %"
    assert right == f"1 ✓ right, predicted Other 75.0 %{others}"
    assert wrong == f"2 ✗ wrong, predicted Other 75.0 %, gold Cause-Effect(e1,e2){others}"
    assert page.all("p")[0][1] == "sample, test: 2 sentences, 1 read right, 1 wrong."
    assert [attributes["data-verdict"] for attributes, _ in page.all("li")] == ["right", "wrong"]


def test_text_without_a_right_label_is_neither_right_nor_wrong(written: Callable[..., str]) -> None:
    page = Page(written([example(["a"], gold=None)], source="given text"))
    ((_, text),) = page.all("p", **{"class": "facts"})
    assert text.startswith("1 predicted Other 75.0 %")
    assert page.all("p")[0][1] == "given text: 1 sentence."
    assert not {"data-gold", "data-verdict", "class"} & set(page.all("li")[0][0])
    assert [attributes["name"] for attributes, _ in page.all("select")] == ["predicted", "order"]
    assert page.all("input", name="show") == []


def test_a_page_of_nothing_is_a_page(written: Callable[..., str]) -> None:
    page = Page(written([]))
    assert page.all("p")[0][1] == "sample, test: 0 sentences."
    assert page.all("li") == page.all("form") == page.all("script") == []


def test_same_examples_give_the_same_bytes_and_a_page_is_replaced_whole(tmp_path: Path) -> None:
    first, second = tmp_path / "new" / "first.html", tmp_path / "second.html"
    second.write_text("before")
    for path in (first, second):
        attention_page(two_heads(), path, title="t", source="s")
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == ["first.html"]


def test_the_page_can_be_written_of_what_the_command_line_could_not_decode(written: Callable[..., str]) -> None:
    assert "\N{REPLACEMENT CHARACTER}" in Page(written([example(["caf\udce9"])])).tokens()[0][1]


def test_a_thousand_sentences_with_eight_heads_stay_a_few_megabytes(written: Callable[..., str]) -> None:
    rng = np.random.default_rng(0)
    words = [f"word{number}" for number in range(30)]
    examples = [example(words, weights=rng.dirichlet(np.ones(30), 8), axis="head") for _ in range(1000)]
    assert len(written(examples).encode()) < 5_000_000


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("letters", ["ink", "dim", "wrong"])
def test_letters_stand_out_from_every_shade(theme: int, letters: str, written: Callable[..., str]) -> None:
    """Contrast of 4.5 at least (WCAG 2.2, success criterion 1.4.3)."""
    colours = {
        name: pair.split(", ")[theme]
        for name, pair in re.findall(r"--(\w+): light-dark\((#\w{6}, #\w{6})\)", written([]))
    }
    for behind in ("paper", "shade") if letters != "wrong" else ("paper",):
        darker, lighter = sorted(luminance(colours[name]) for name in (letters, behind))
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (letters, behind)


def test_the_template_comes_with_the_package() -> None:
    listed = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))
    package = Path(attention_html.__file__).parents[1]
    templates = {path.relative_to(package).as_posix() for path in package.rglob("*.jinja")}
    assert templates
    patterns = listed["tool"]["setuptools"]["package-data"]["bilstm_attention"]
    assert [name for name in templates if not any(fnmatch(name, pattern) for pattern in patterns)] == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with headless_browser() as started:
        yield started


@contextmanager
def opened(browser: Browser, path: Path, state: str = "") -> Iterator[tuple[PageInBrowser, list[str]]]:
    """The page in a browser, its scripts run, and what they say on the console."""
    page, said = browser.new_page(), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{path.as_uri()}#{state}")
    yield page, said
    page.close()


def shown(browser: Browser, path: Path, state: str) -> tuple[Page, list[str]]:
    with opened(browser, path, state) as (page, said):
        return Page(page.content()), said


def three() -> list[AttentionExample]:
    return [
        *two_heads(),
        AttentionExample(HOSTILE, np.full((2, len(HOSTILE)), 0.05), "Other", [("Other", 0.9)], "head"),
    ]


def test_a_browser_runs_the_page_as_its_address_says_without_a_fault(browser: Browser, tmp_path: Path) -> None:
    attention_page(three(), tmp_path / "page.html", title="t", source="s")
    page, console = shown(browser, tmp_path / "page.html", "show=right&predicted=Other&order=surest")
    assert console == []
    visible = [text.split()[0] for attributes, text in page.all("li") if "hidden" not in attributes]
    assert visible == ["3", "1"]
    assert page.all("output")[0][1] == "2 of 3 sentences shown"
    assert "hidden" not in page.all("form")[0][0]
    assert [attributes.get("tabindex") for attributes, _ in page.tokens()].count("0") == 3


STATES = {
    "": ["1", "2", "3"],
    "show=wrong": ["2"],
    "order=surest": ["3", "1", "2"],
    "gold=Cause-Effect(e1%2Ce2)": ["2"],
    "predicted=Other&gold=Other": ["1", "3"],
    "search=x+Y": ["1"],
    "search=%3C%2FSCRIPT%3E&order=unsurest": ["3"],
    "search=nowhere": [],
    "order=toString&length=7&gold=__proto__&show=x&controls=1": ["1", "2", "3"],
}
VISIT = """state => {
  history.replaceState(null, "", "#" + state);
  restore();
  const visible = [...document.querySelectorAll("li:not([hidden]) .number")].map((number) => number.textContent);
  return [visible, count.textContent];
}"""


def test_sentences_are_filtered_searched_and_ordered(browser: Browser, tmp_path: Path) -> None:
    attention_page(three(), tmp_path / "page.html", title="t", source="s")
    with opened(browser, tmp_path / "page.html") as (page, console):
        found = [page.evaluate(VISIT, state) for state in STATES]
    assert console == []
    expected = [[shown, f"{len(shown)} of 3 sentences shown"] for shown in STATES.values()]
    assert dict(zip(STATES, found, strict=True)) == dict(zip(STATES, expected, strict=True))


def test_arrow_keys_go_from_token_to_token_the_way_they_point(browser: Browser, tmp_path: Path) -> None:
    hebrew = example(["<e1>", "כלב", "</e1>"], weights=[[0.5, 0.25, 0.25]] * 2, axis="head")
    attention_page([two_heads()[0], hebrew], tmp_path / "page.html", title="t", source="s")
    told = []
    with opened(browser, tmp_path / "page.html") as (page, console):
        for first in page.locator("[tabindex='0']").all():
            first.focus()
            for key in ("ArrowLeft", "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft"):
                page.keyboard.press(key)
                told.append(page.locator("#told").inner_text())
    assert console == []
    assert [text.partition(":")[0] for text in told] == [
        *("x", "<e1>", "y", "<e1>", "x"),
        *("כלב", "<e1>", "<e1>", "כלב", "</e1>"),
    ]
    assert told[2] == "y: weight 0.5000, token 3 of 4 · head 1: 0.3000 · head 2: 0.7000"


def test_a_browser_shades_by_the_chosen_distribution(browser: Browser, tmp_path: Path) -> None:
    attention_page(two_heads(), tmp_path / "page.html", title="t", source="s")
    page, console = shown(browser, tmp_path / "page.html", "shade=2")
    assert console == []
    assert [attributes["class"] for attributes, _ in page.tokens()] == ["w3", "w3", "w20", "w3", "w20"]
    assert page.tokens()[2][0]["title"] == "y: weight 0.7000, token 3 of 4"
    assert page.all("span", id="which")[0][1] == "head 2"
    attention_page([example(["a", "b"])], tmp_path / "one.html", title="t", source="s")
    page, console = shown(browser, tmp_path / "one.html", "shade=2")
    assert console == []
    assert [attributes["class"] for attributes, _ in page.tokens()] == ["w20", "w20"]


def test_a_script_that_is_not_the_pages_own_does_not_run(browser: Browser, tmp_path: Path) -> None:
    attention_page(two_heads(), tmp_path / "page.html", title="t", source="s")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    alien = "<script>document.title = 'alien'</script></body>"
    (tmp_path / "page.html").write_text(text.replace("</body>", alien), encoding="utf-8")
    page, console = shown(browser, tmp_path / "page.html", "")
    assert page.all("title")[0][1] == "t: attention weights"
    (refusal,) = console
    assert "Content Security Policy" in refusal
