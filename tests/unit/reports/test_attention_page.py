"""The attention page: its examples, its content, and what may not be in it."""

import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.reports.pages import HOSTILE, Page, example, two_heads

from bilstm_attention.evaluation.evaluate import attention_table
from bilstm_attention.reports import attention_page as module
from bilstm_attention.reports.attention_page import SHADES, SHOWN, AttentionExample, attention_page, select_examples

LABELS = ["neg", "pos", "neutral", "mixed"]
PROBABILITIES = np.array([[0.1, 0.6, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]], np.float32)
SENTENCES = pd.DataFrame({"tokens": [["a", "b", "c"], ["d", "e"]], "label": ["pos", ""]})


@pytest.fixture
def written(tmp_path):
    def write(examples, title="seed 0", source="dev"):
        attention_page(examples, tmp_path / "page.html", title=title, source=source)
        return (tmp_path / "page.html").read_bytes().decode()

    return write


@pytest.mark.parametrize(
    ("weights", "axis"),
    [
        ([np.float32([0.5, 0.25, 0.25]), np.float32([0.5, 0.5])], ""),
        ([np.float32([[1, 0, 0], [0, 0.5, 0.5]]), np.float32([[1, 0], [0, 1]])], "hop"),
    ],
)
def test_examples_come_back_from_their_table(weights, axis, tmp_path):
    model = SimpleNamespace(get_layer=lambda name: SimpleNamespace(**({"axis": axis} if axis else {})))
    attention_table(model, SENTENCES, PROBABILITIES, weights, LABELS).to_parquet(tmp_path / "table.parquet")
    first, second = module.read_examples(pd.read_parquet(tmp_path / "table.parquet"))
    assert [first.tokens, second.tokens] == SENTENCES["tokens"].tolist()
    assert first.weights.tolist() == np.atleast_2d(weights[0]).tolist()
    assert first.axis == axis
    np.testing.assert_array_equal(first.mean_weights, [0.5, 0.25, 0.25])
    assert [label for label, _ in first.best] == ["pos", "neutral", "neg"]
    assert first.probability == pytest.approx(0.6)
    # ties in the order of the labels
    assert [label for label, _ in second.best] == ["neg", "pos", "neutral"]
    assert (first.outcome, second.outcome) == ("right", "")


def test_picture_shows_the_first_examples_and_two_wrong_ones():
    def numbered(number, gold):
        return AttentionExample([str(number)], np.ones((1, 1)), gold, [("pos", 1.0)])

    chosen = select_examples([numbered(number, "neg" if number in {2, 5, 7} else "pos") for number in range(20)])
    assert [each.tokens[0] for each in chosen] == ["0", "1", "3", "4", "6", "8", "2", "5"]
    assert len(select_examples([numbered(number, "pos") for number in range(20)])) == SHOWN
    assert select_examples([numbered(0, None)]) == []


def test_hostile_tokens_labels_and_titles_are_text(written):
    label = "</option><script>alert(2)</script>\"'"
    sentence = AttentionExample(HOSTILE, np.full((1, len(HOSTILE)), 0.05), label, [(label, 1.0)])
    page = Page(written([sentence], title="<i>&", source="</p><script>"))
    plain = Page(written([example(["a"] * len(HOSTILE))]))
    assert [text for _, text in page.tokens()] == HOSTILE
    assert [attributes["title"].partition(": weight")[0] for attributes, _ in page.tokens()] == HOSTILE
    assert page.all("h1") == [({}, "<i>&")]
    assert page.all("li")[0][0]["data-gold"] == page.all("li")[0][0]["data-predicted"] == label
    assert [text for _, text in page.all("option")].count(label) == 2
    assert len(page.all("script")) == len(plain.all("script"))
    assert {name for name, _, _ in page.elements} == {name for name, _, _ in plain.elements}


@settings(max_examples=40)
@given(tokens=st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=1, max_size=5))
def test_any_token_comes_back_unchanged(tokens, tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "page.html"
    attention_page([example(tokens)], path, title="t", source="s")
    page = Page(path.read_bytes().decode())
    assert [text for _, text in page.tokens()] == tokens
    assert len(page.all("li")) == 1


def test_page_loads_nothing_from_a_network(written):
    page = Page(written([example(["https://example.org/x", "//example.org", "url(//example.org)"])]))
    for name, attributes, _ in page.elements:
        assert not {"src", "srcset", "action", "background", "poster", "style"} & set(attributes), name
        assert attributes.get("href", "data:,") == "data:,"
        assert not [key for key in attributes if key.startswith("on")]
    for _, content in (*page.all("style"), *page.all("script")):
        assert not re.search(r"//(?! )\w|url\(|@import|fetch|XMLHttp|WebSocket|innerHTML|import\(", content)
    ((policy, _),) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'; script-src 'sha256-")
    assert not re.search("unsafe|http", policy["content"])


def test_each_token_has_its_shade_weight_and_position(written):
    tokens, weights = ["the", "<e1>", "dog", "</e1>", "barks"], [[0.4, 0.05, 0.2, 0.35, 0.00004]]
    page = Page(written([example(tokens, weights=weights), example(["b"], weights=[[0.001]])]))
    assert [attributes["class"] for attributes, _ in page.tokens()] == ["w20", "w3", "w10", "w18", "w0", f"w{SHADES}"]
    titles = [attributes["title"] for attributes, _ in page.tokens()]
    assert titles[1] == "<e1>: weight 0.0500, token 2 of 5"
    assert titles[4:] == ["barks: weight 0.0000, token 5 of 5", "b: weight 0.0010, token 1 of 1"]
    assert [text for _, text in page.all("bdi")] == ["<e1>", "</e1>"]
    assert page.all("script", type="application/json") == page.all("select", name="shade") == []


def test_page_of_several_distributions_holds_all_and_shows_their_mean(written):
    page = Page(written(two_heads()))
    ((attributes, content),) = page.all("script", type="application/json")
    assert attributes["data-axis"] == "head"
    assert json.loads(content) == [
        [[3000, 1000, 5000, 1000], [5000, 1000, 3000, 1000], [1000, 1000, 7000, 1000]],
        [[10000], [10000], [10000]],
    ]
    assert page.tokens()[2][0]["title"] == "y: weight 0.5000, token 3 of 4"
    assert [attributes["class"] for attributes, _ in page.tokens()] == ["w12", "w4", "w20", "w4", "w20"]
    assert [text for _, text in page.all("option") if "head" in text] == ["mean of 2 heads", "head 1", "head 2"]


def test_labels_and_outcomes_are_in_words(written):
    page = Page(written(two_heads()))
    right, wrong = (text for _, text in page.all("p", **{"class": "facts"}))
    others = "; then Cause-Effect(e1,e2) 20.0 %, <b> 4.0 %"
    assert right == f"1 ✓ right, predicted Other 75.0 %{others}"
    assert wrong == f"2 ✗ wrong, predicted Other 75.0 %, gold Cause-Effect(e1,e2){others}"
    assert page.all("p")[0][1] == "dev: 2 sentences, 1 right, 1 wrong."
    assert [attributes["data-outcome"] for attributes, _ in page.all("li")] == ["right", "wrong"]


def test_sentence_without_a_gold_label_has_no_outcome(written):
    page = Page(written([example(["a"], gold=None)], source="text"))
    ((_, text),) = page.all("p", **{"class": "facts"})
    assert text.startswith("1 predicted Other 75.0 %")
    assert page.all("p")[0][1] == "text: 1 sentence."
    assert not {"data-gold", "data-outcome", "class"} & set(page.all("li")[0][0])
    assert [attributes["name"] for attributes, _ in page.all("select")] == ["predicted", "order"]
    empty = Page(written([]))
    assert empty.all("p")[0][1] == "dev: 0 sentences."
    assert empty.all("li") == empty.all("form") == empty.all("script") == []


def test_same_examples_give_the_same_bytes(tmp_path):
    first, second = tmp_path / "new" / "first.html", tmp_path / "second.html"
    second.write_text("before")
    for path in (first, second):
        # bytes of a command line that are no UTF-8
        attention_page([*two_heads(), example(["caf\udce9"], weights=[[1], [1]])], path, title="t", source="s")
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == ["first.html"]
    assert "\N{REPLACEMENT CHARACTER}" in Page(first.read_text(encoding="utf-8")).tokens()[-1][1]


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("letters", "behind"), [("ink", "paper"), ("ink", "shade"), ("dim", "paper"), ("dim", "shade"), ("wrong", "paper")]
)
def test_letters_have_contrast(theme, letters, behind, written):
    """4.5 at least (WCAG 2.2, success criterion 1.4.3)."""
    pairs = re.findall(r"--(\w+): light-dark\((#\w{6}, #\w{6})\)", written([]))
    colours = {name: pair.split(", ")[theme] for name, pair in pairs}
    darker, lighter = sorted(luminance(colours[name]) for name in (letters, behind))
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def test_template_is_part_of_the_package():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))
    package = Path(module.__file__).parents[1]
    templates = {path.relative_to(package).as_posix() for path in package.rglob("*.jinja")}
    patterns = project["tool"]["setuptools"]["package-data"]["bilstm_attention"]
    assert templates
    assert [name for name in templates if not any(fnmatch(name, pattern) for pattern in patterns)] == []
