"""Attention examples, and a parser of their page, for tests without and with a browser."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser

import numpy as np

from bilstm_attention.reports.attention_page import AttentionExample

HOSTILE = [
    *("a", "<script>alert(1)</script>", "</script>", "<!--", "]]>", "&", "&amp;", '"quoted"', "'single'"),
    *("{{", "7*7", "}}", "{%", "raw", "%}", "<img", "src=//x.y>"),
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

    def all(self, tag: str, **attributes: str) -> list[tuple[dict[str, str], str]]:
        return [
            (own, "".join(texts))
            for name, own, texts in self.elements
            if name == tag and attributes.items() <= own.items()
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
