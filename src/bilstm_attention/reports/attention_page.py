"""The attention page: sentences with their tokens shaded by weight, in one HTML file that asks nothing of a network."""

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment

from bilstm_attention.data.tokens import MARKERS
from bilstm_attention.paths import atomic_write
from bilstm_attention.reports.html import environment
from bilstm_attention.reports.reading import AttentionExample

SHADES = 20  # steps from no weight to the heaviest token of the sentence
UNIT = 10_000  # weights are written to four digits; the page keeps them as whole numbers of this part


def attention_page(examples: Sequence[AttentionExample], path: Path, *, title: str, source: str) -> None:
    """Writes the page; the same examples give the same bytes.

    Args:
        examples: in the order they are shown; all of one model, so that each has as many distributions.
        path: the HTML file to write.
        title: which model read them.
        source: where the sentences are from, for instance `sample, test`.

    Raises:
        ValueError: an example has not as many weights as tokens, or not as many distributions as the others.
    """
    weights = [_whole(example) for example in examples]
    distributions = {len(rows) - 1 for rows in weights}
    if len(distributions) > 1:
        raise ValueError(f"examples of one model have as many distributions each. Received: {sorted(distributions)}.")
    page = (
        _environment()
        .get_template("attention.html.jinja")
        .render(
            title=title,
            source=source,
            examples=examples,
            weights=weights,
            distributions=max(distributions, default=1),
            axis=next((example.axis for example in examples if example.axis), "distribution"),
            verdicts=Counter(example.verdict for example in examples if example.verdict),
            gold=sorted({example.gold for example in examples if example.gold is not None}),
            predicted=sorted({example.predicted for example in examples}),
            markers=MARKERS,
            shades=SHADES,
            unit=UNIT,
        )
    )
    with atomic_write(path) as temporary:
        # what the command line could not decode has no place in UTF-8
        temporary.write_text(page, encoding="utf-8", errors="xmlcharrefreplace", newline="\n")


def _whole(example: AttentionExample) -> list[list[int]]:
    """The mean and then each distribution, `(1 + K, T)`, in parts of `UNIT`."""
    if np.shape(example.weights)[1:] != (len(example.tokens),):
        raise ValueError(
            f"weights have the shape (K, {len(example.tokens)}), as tokens. Received: {np.shape(example.weights)}."
        )
    rows: list[list[int]] = np.rint(UNIT * np.vstack([example.mean_weights, example.weights])).astype(int).tolist()
    return rows


def _shaded(weights: Sequence[int]) -> list[int]:
    """Shades, 0 to `SHADES`, of one distribution, relative to its heaviest; rounded as the page's script rounds."""
    heaviest = max(*weights, 1)
    return [int(SHADES * weight / heaviest + 0.5) for weight in weights]


def _environment() -> Environment:
    found = environment()
    found.filters |= {"shaded": _shaded, "digest": _digest}
    found.globals["zip"] = zip
    found.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return found


def _digest(content: Any) -> str:
    """The name by which a content security policy lets one inline script or style through."""
    return f"sha256-{base64.b64encode(hashlib.sha256(str(content).encode()).digest()).decode()}"
