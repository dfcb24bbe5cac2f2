"""Pictures of a run as PNG files; the same data give the same bytes.

Drawn through `Figure`, without pyplot and its global state, in one style whatever a user's matplotlibrc says. `$` and
`_` in a token or a label are no mathematics. The font is DejaVu Sans, which comes with matplotlib; letters that it
lacks, Chinese for instance, are drawn in another font of the machine. Where none has them there is no picture.
"""

import sys
from collections.abc import Mapping, Sequence, Set
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import font_manager, style
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from rich.cells import cell_len

from bilstm_attention.data.tokens import MARKERS
from bilstm_attention.evaluation.metrics import signed_score
from bilstm_attention.paths import atomic_write
from bilstm_attention.reports.attention_page import AttentionExample

INK, DIM, BAR = "black", "#555555", "#9ecae1"
SEED_COLOURS = mpl.color_sequences["petroff10"]  # Petroff 2021: distinct for the common kinds of colour blindness
SHADES = mpl.colormaps["Blues"]
# Styles of curves, distinct without colour too.
LOOKS: tuple[dict[str, Any], ...] = (
    {"color": SEED_COLOURS[0], "marker": "o"},
    {"color": DIM, "marker": "s", "linestyle": ":", "markerfacecolor": "white"},
    {"color": SEED_COLOURS[1], "marker": "^", "linestyle": (0, (5, 1.5))},
)
# Of pictures on a run's page, which MLflow does not scale: beyond 870 pixels they push its panel off a screen of 1440.
PAGE_DPI = 100
DARKEST = 0.45  # of SHADES behind a token, so that dark letters stay readable
# Attention picture: letters of a line and of a token at most, width and height of its cell in points.
COLUMNS, LONGEST, CELL, MONO = 120, 45, (5.5, 11.5), ["DejaVu Sans Mono", "DejaVu Sans"]

house_style = style.context(
    [
        "default",
        {
            "figure.dpi": 130,
            "text.parse_math": False,
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.titlelocation": "left",
            "axes.edgecolor": DIM,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": "#e4e4e4",
            "legend.frameon": False,
            "lines.linewidth": 1.3,
            "lines.markersize": 4.5,
        },
    ]
)


@house_style
def learning_curves(histories: Mapping[str, pd.DataFrame], monitor: str, path: Path, best: bool = True) -> None:
    """Losses and the dev score `monitor` by epoch, one colour per training; the `best` or the last epoch is marked.

    `histories`, by name such as `seed 0`, have the columns epoch, loss, dev_loss and `dev_<monitor>`.
    """
    figure = Figure(figsize=(8.6, 3.8), dpi=PAGE_DPI, layout="constrained")
    losses, scores = figure.subplots(1, 2)
    lower_is_better = monitor == "loss"
    for position, (name, history) in enumerate(histories.items()):
        colour = SEED_COLOURS[position % len(SEED_COLOURS)]
        epochs, score = history["epoch"], history[f"dev_{monitor}"]
        point = "o" if len(history) == 1 else ""  # a line through one epoch shows nothing
        losses.plot(epochs, history["loss"], marker=point, color=colour)
        losses.plot(
            epochs, history["dev_loss"], marker=point, color=colour, linestyle=(0, (3, 1.5)), markerfacecolor="white"
        )
        scores.plot(epochs, score, color=colour)
        row = int(score.map(partial(signed_score, monitor)).argmax()) if best else -1
        epoch, value = int(epochs.iloc[row]), float(score.iloc[row])
        label = f"{name}: {value:.{3 if lower_is_better else 1}f} at epoch {epoch}"
        scores.plot([epoch], [value], "o", color=colour, markeredgecolor="white", markersize=8, zorder=3, label=label)
    last = max(history["epoch"].max() for history in histories.values())
    margin = max(0.5, 0.03 * last)
    score_name = monitor.replace("_f1", " F1") + ("" if lower_is_better else " (percent)")
    for axes, title in (
        (losses, "loss: train solid, dev dashed"),
        (scores, f"dev {score_name}, {'best' if best else 'last'} epoch marked"),
    ):
        axes.set(title=title, xlabel="epoch", xlim=(1 - margin, last + margin))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        axes.grid(visible=True)
    figure.legend(loc="outside lower center", ncols=3)
    write(figure, path)


@house_style
def confusion_matrix(counts: pd.DataFrame, path: Path) -> None:
    """Counts `(K, K)`, gold rows by predicted columns, each cell shaded by its share of the row."""
    rows, columns = [str(label) for label in counts.index], [str(label) for label in counts.columns]
    size, longest = len(rows), 0.085 * max(map(len, [*rows, *columns]))
    cell = float(np.clip(3 / size, 0.29, 1.0))  # inches, as the longest label
    upright = longest > 0.9 * cell
    shape = max(4.8, longest + size * cell + 0.9), size * cell + (longest if upright else 0.2) + 0.5
    figure = Figure(figsize=shape, dpi=PAGE_DPI, layout="compressed")
    axes = figure.subplots()
    cells = counts.to_numpy()
    # a root, since mistakes worth seeing are a few hundredths of a row
    norm = PowerNorm(0.5, vmin=0, vmax=1)
    shares = cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap=SHADES, norm=norm)
    for row, column in zip(*np.nonzero(cells), strict=True):
        colour = "white" if norm(shares[row, column]) > 0.6 else INK
        axes.text(column, row, str(cells[row, column]), ha="center", va="center", color=colour, size=8)
    axes.set_xticks(range(size), columns, rotation=90 if upright else 0)
    axes.set_yticks(range(size), rows)
    between = np.arange(size + 1) - 0.5
    axes.set_xticks(between, minor=True)
    axes.set_yticks(between, minor=True)
    axes.tick_params(which="both", length=0)
    axes.grid(which="minor")
    axes.spines[:].set_visible(False)
    figure.suptitle("rows: gold; columns: predicted; shade: share of the row", size=10)
    figure.colorbar(image, shrink=0.6, aspect=25).outline.set_visible(False)
    write(figure, path)


@house_style
def scores_by_class(frame: pd.DataFrame, path: Path) -> None:
    """F1, precision and recall (percent) by the class in the first column, the best on top, with support in items."""
    ordered = frame.sort_values("f1", ascending=False, kind="stable")
    places = np.arange(len(ordered))
    figure = Figure(figsize=(8, 1.1 + 0.32 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(places, ordered["f1"], color=BAR, height=0.7, label="F1")
    precision = axes.plot(ordered["precision"], places, ">", color=INK, clip_on=False, label="precision")
    recall = axes.plot(ordered["recall"], places, "o", color=INK, markerfacecolor="none", clip_on=False, label="recall")
    for place, f1 in enumerate(ordered["f1"]):
        axes.text(102, place, f"{f1:.1f}", va="center_baseline")
    names = [f"{name}  ({items:,})" for name, items in zip(ordered.iloc[:, 0], ordered["support"], strict=True)]
    axes.set_yticks(places, names)
    axes.set(xlim=(0, 100), ylim=(len(names) - 0.4, -0.6), xlabel="percent; in brackets: gold items")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True, axis="x")
    figure.legend(handles=[bars, *precision, *recall], loc="outside upper center", ncols=3)
    write(figure, path)


@house_style
def faithfulness_curves(curves: Mapping[str, Any], path: Path) -> None:
    """The `curves` of `evaluation.faithfulness.measure`: the drop without the top tokens, and with them alone."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    percents = [f"{percent:g}" for percent in curves["percent"]]
    panels = {"comprehensiveness": ("higher", "deleted"), "sufficiency": ("lower", "kept")}
    for axes, (measure, (better, done)) in zip(figure.subplots(1, 2, sharey=True), panels.items(), strict=True):
        for (name, drops), look in zip(curves[measure].items(), LOOKS, strict=False):
            axes.plot(percents, drops, **look, label=name.replace("gradient_input", "gradient × input"))
        axes.set(title=f"{measure}: {better} is better", xlabel=f"top percent of the tokens, {done}")
        axes.tick_params(labelleft=True)
        axes.grid(visible=True)
        axes.axhline(0, color=DIM, linewidth=0.8)
    figure.supylabel("drop of the probability (percentage points)", size=9)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    write(figure, path)


@house_style
def reliability_curves(table: pd.DataFrame, path: Path) -> None:
    """Accuracy by the probability of the predicted label, from `EvaluationResult.reliability`; a diagonal is ideal."""
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color=DIM, linewidth=0.8)
    for (kind, rows), look in zip(table.groupby("probabilities"), LOOKS, strict=False):
        label = str(kind).replace("scaled", "scaled by the temperature of dev")
        axes.plot(rows["confidence"], rows["accuracy"], **look, label=label)
    axes.set(xlabel="probability of the predicted label (percent)", ylabel="correct on test (percent)")
    axes.set(xlim=(0, 102), ylim=(0, 102), aspect="equal")
    axes.grid(visible=True)
    figure.legend(loc="outside upper center", ncols=2)
    write(figure, path)


@house_style
def attention_picture(examples: Sequence[AttentionExample], path: Path) -> None:
    """Sentences with each token shaded by its weight relative to the heaviest of its sentence.

    If a mechanism has several distributions, their mean is shown. `✗` and bold letters mark a wrong prediction.
    """
    # in cells of a letter, so that nothing has to be measured
    pieces, row = list[tuple[float, float, str, dict[str, Any]]](), 2.7
    for example in examples:
        pieces.append((0, row, *_caption(example)))
        weights, column, row = example.mean_weights, 0, row + 1.7
        shades = weights / max(weights.max(initial=0.0), np.finfo(float).tiny)
        heaviest = np.argsort(-weights, kind="stable")[:3]  # ties go to the first
        for index, token in enumerate(map(_short, example.tokens)):
            digits = f"{weights[index]:.2f}" if index in heaviest else ""
            # digits are small, and reach into the gap after their token
            width = max(cell_len(token), 2 if digits else 0)
            if column and column + width > COLUMNS:
                column, row = 0, row + 2.5
            # the lightest of the shades is not white
            colour = SHADES(DARKEST * shades[index]) if shades[index] > 0.02 else "none"
            box = {"facecolor": colour, "edgecolor": "none", "pad": 2.5}
            look: dict[str, Any] = {"color": DIM if token in MARKERS else INK, "family": MONO, "bbox": box}
            pieces += [(column, row, token, look), (column, row + 1, digits, {"color": DIM, "family": MONO, "size": 7})]
            column += width + 2
        row += 3
    figure = Figure(figsize=((COLUMNS + 4) * CELL[0] / 72, row * CELL[1] / 72))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-2, COLUMNS + 2), ylim=(row, 0))
    axes.set_axis_off()
    heading = "Attention weights. Shade: relative to the sentence's heaviest token; digits: the three heaviest."
    axes.text(0, 1, heading, color=DIM, size=8, va="center")
    for x, y, text, look in pieces:
        axes.text(x, y, text, va="center", **look)
    write(figure, path)


def _caption(example: AttentionExample) -> tuple[str, dict[str, Any]]:
    """Text and look of the line over a sentence."""
    text = f"{_short(example.predicted)} ({100 * example.probability:.0f} %)"
    if example.outcome == "wrong":
        return f"✗ predicted {text}, gold {_short(str(example.gold))}", {"weight": "bold"}
    return f"✓ {text}" if example.outcome == "right" else text, {"color": DIM}


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def write(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, whole or not at all; without a font for its letters it says so and writes nothing."""
    texts = figure.findobj(Text)
    letters = {ord(letter) for text in texts for letter in text.get_text() if letter.isprintable()}
    if missing := letters - _letters_of(font_manager.findfont("DejaVu Sans")):
        fallbacks = _fonts_with(missing)
        if not fallbacks:
            some = "".join(map(chr, sorted(missing)[:10]))
            print(f"{path} is not drawn: no installed font has {some}", file=sys.stderr)
            return
        for text in texts:
            if missing & set(map(ord, text.get_text())):
                text.set(fontfamily=[*text.get_fontfamily(), *fallbacks], fontweight="normal")
    with atomic_write(path) as temporary:
        # by default matplotlib writes its version into the file
        figure.savefig(temporary, format="png", metadata={"Software": None})


@lru_cache
def _letters_of(file: str) -> frozenset[int]:
    return frozenset(font_manager.get_font(file).get_charmap())


def _fonts_with(letters: Set[int]) -> list[str]:
    """Fonts that together have all letters, as few as a greedy choice takes; none, if that cannot be."""
    entries = sorted(font_manager.fontManager.ttflist, key=lambda each: each.name)
    # matplotlib's last resort has a box for every letter
    regular = [each for each in entries if (each.style, each.weight) == ("normal", 400)]
    fonts = {each.name: each.fname for each in regular if not each.name.startswith("Last Resort")}
    chosen, missing = list[str](), set(letters)
    while missing:
        name = max(fonts, key=lambda each: len(missing & _letters_of(fonts[each])))
        if not missing & _letters_of(fonts[name]):
            return []
        chosen.append(name)
        missing -= _letters_of(fonts[name])
    return chosen
