"""The attention page: sentences with tokens shaded by weight, in one HTML file that loads nothing else.

Shape letters: T tokens of a sentence, K distributions over them.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from numpy.typing import NDArray

from bilstm_attention.data.tokens import MARKERS
from bilstm_attention.paths import atomic_write

SHADES = 20  # steps from no weight to the heaviest token of the sentence
UNIT = 10_000  # weights have four digits: whole multiples of 1 / UNIT
SHOWN, WRONG_SHOWN = 8, 2  # sentences of the picture


@dataclass(frozen=True)
class AttentionExample:
    """A sentence with a model's prediction and attention."""

    tokens: Sequence[str]  # T, entity markers among them
    weights: NDArray[np.floating]  # `(K, T)`
    gold: str | None  # None: not known
    best: Sequence[tuple[str, float]]  # labels with their probabilities, at least one, the most probable first
    axis: str = ""  # name of a distribution, for instance `hop` or `head`; empty if K is 1, as for most mechanisms

    @property
    def predicted(self) -> str:
        """The most probable label."""
        return self.best[0][0]

    @property
    def probability(self) -> float:
        """Probability of the predicted label."""
        return self.best[0][1]

    @property
    def mean_weights(self) -> NDArray[np.float64]:
        """The mean of the distributions, `(T,)`."""
        return np.asarray(self.weights.mean(axis=0, dtype=np.float64))

    @property
    def outcome(self) -> str:
        """`right`, `wrong`, or empty if the gold label is not known."""
        if self.gold is None:
            return ""
        return "right" if self.predicted == self.gold else "wrong"


def read_examples(table: pd.DataFrame) -> list[AttentionExample]:
    """The rows of a table of `evaluation.evaluate.attention_table`."""
    return [
        AttentionExample(
            tokens=list(row["tokens"]),
            weights=np.array([list(weights) for weights in row["weights"]]),
            gold=row["gold"] or None,
            best=list(zip(row["labels"], map(float, row["probabilities"]), strict=True)),
            axis=row["axis"],
        )
        for row in table.to_dict("records")
    ]


def select_examples(examples: Sequence[AttentionExample]) -> list[AttentionExample]:
    """A few for a picture: the first correct ones, then up to two wrong ones."""
    wrong = [example for example in examples if example.outcome == "wrong"][:WRONG_SHOWN]
    right = [example for example in examples if example.outcome == "right"]
    return [*right[: SHOWN - len(wrong)], *wrong]


def attention_page(examples: Sequence[AttentionExample], path: Path, *, title: str, source: str) -> None:
    """Writes the page of one model, for instance `seed 0`, on sentences of a source, for instance `dev`."""
    page = _template().render(
        title=title,
        source=source,
        examples=examples,
        weights=[_integer_weights(example) for example in examples],
        distributions=len(examples[0].weights) if examples else 1,
        axis=next((example.axis for example in examples if example.axis), "distribution"),
        outcomes=Counter(example.outcome for example in examples if example.outcome),
        gold=sorted({example.gold for example in examples if example.gold is not None}),
        predicted=sorted({example.predicted for example in examples}),
        markers=MARKERS,
        shades=SHADES,
        unit=UNIT,
    )
    with atomic_write(path) as temporary:
        # bytes of the command line that are no UTF-8
        temporary.write_text(page, encoding="utf-8", errors="xmlcharrefreplace", newline="\n")


def _integer_weights(example: AttentionExample) -> list[list[int]]:
    """The mean and then each distribution, `(1 + K, T)`, in multiples of `1 / UNIT`."""
    return list(np.rint(UNIT * np.vstack([example.mean_weights, example.weights])).astype(int).tolist())


def _shaded(weights: Sequence[int]) -> list[int]:
    """Shades, 0 to `SHADES`, relative to the heaviest token; rounded as the page's script rounds."""
    heaviest = max(*weights, 1)
    return [int(SHADES * weight / heaviest + 0.5) for weight in weights]


def _template() -> Template:
    """The page with all text escaped; a missing name is an error."""
    environment = Environment(
        loader=PackageLoader("bilstm_attention", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"shaded": _shaded, "digest": _digest}
    environment.globals["zip"] = zip
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment.get_template("attention.html.jinja")


def _digest(content: Any) -> str:
    """The name by which a content security policy lets one inline script or style through."""
    return f"sha256-{base64.b64encode(hashlib.sha256(str(content).encode()).digest()).decode()}"
