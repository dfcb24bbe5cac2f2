"""Pictures: their bytes and their content."""

import struct
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.text import Text

from bilstm_attention.reports import plots
from bilstm_attention.reports.plots import AttentionExample

RELATIONS = ["Cause-Effect", "Component-Whole", "Content-Container", "Entity-Destination", "Entity-Origin"]
RELATIONS += ["Instrument-Agency", "Member-Collection", "Message-Topic", "Product-Producer"]
DIRECTED = [f"{relation}({order})" for relation in RELATIONS for order in ("e1,e2", "e2,e1")] + ["Other"]
NOT_MATHEMATICS = r"$\frac{$ a_b $x_1$"  # drawing it as mathematics is an error


def history(scores: list[float], monitor: str = "official_f1") -> pd.DataFrame:
    epochs = np.arange(1, len(scores) + 1)
    return pd.DataFrame({"epoch": epochs, "loss": 1 / epochs, "dev_loss": 2 / epochs, f"dev_{monitor}": scores})


def counts(labels: list[str]) -> pd.DataFrame:
    cells = np.diag(np.arange(10, 10 + len(labels)))
    cells[0, 1] = 7
    return pd.DataFrame(cells, index=labels, columns=labels)


def by_class(labels: list[str]) -> pd.DataFrame:
    f1 = np.linspace(100, 0, len(labels))[::-1]
    columns = {"precision": f1, "recall": f1[::-1], "f1": f1, "support": 1000 + np.arange(len(labels))}
    return pd.DataFrame({"relation": labels, **columns})


def drops(percents: list[float]) -> dict:
    draw = np.random.default_rng(0)
    rankings = ("attention", "random", "gradient_input")
    return {"percent": percents} | {
        measure: {ranking: draw.uniform(-5, 90, len(percents)).tolist() for ranking in rankings}
        for measure in ("comprehensiveness", "sufficiency")
    }


def reliability() -> pd.DataFrame:
    columns = {"confidence": [40.0, 90.0, 50.0], "accuracy": [30.0, 70.0, 55.0]}
    return pd.DataFrame({"probabilities": ["raw", "raw", "scaled"], **columns})


def example(tokens: str, weights: list[float], predicted: str = "neg", gold: str | None = "neg") -> AttentionExample:
    return AttentionExample(tokens.split(), np.array([weights], dtype=np.float32), gold, [(predicted, 0.875)])


PICTURES = {
    "curves of five seeds": (plots.learning_curves, {s: history([50, 60, 55 + s]) for s in range(5)}, "official_f1"),
    "curves of one epoch": (plots.learning_curves, {3: history([50], "loss")}, "loss"),
    "confusion of 19": (plots.confusion_matrix, counts(DIRECTED)),
    "classes": (plots.scores_by_class, by_class(["neg", "pos"])),
    "faithfulness": (plots.faithfulness_curves, drops([1, 5, 10, 20, 50])),
    "reliability": (plots.reliability_curves, reliability()),
    "attention": (plots.attention_picture, [example("<e1> a </e1> b", [0.1, 0.5, 0.3, 0.1]), example("a", [1], "pos")]),
}


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Calls a picture and returns its figure, laid out."""
    figures: list[Figure] = []
    write = plots.write
    monkeypatch.setattr(plots, "write", lambda figure, path: (write(figure, path), figures.append(figure)))

    def draw(picture, *data):
        picture(*data, tmp_path / "picture.png")
        return figures[-1]

    return draw


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


@pytest.mark.parametrize("name", PICTURES)
def test_picture_has_the_same_bytes_and_a_readable_size(name, tmp_path):
    picture, *data = PICTURES[name]
    first, second = tmp_path / "new" / "folder" / "first.png", tmp_path / "second.png"
    picture(*data, first)
    picture(*data, second)
    content = first.read_bytes()
    assert content == second.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert all(50 < side < 2500 for side in struct.unpack(">II", content[16:24]))
    assert b"matplotlib" not in content.lower()
    assert [path.name for path in first.parent.iterdir()] == ["first.png"]


def test_settings_of_matplotlib_neither_enter_nor_leave(tmp_path):
    picture, *data = PICTURES["classes"]
    picture(*data, tmp_path / "plain.png")
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.bbox": "tight"}):
        before = dict(mpl.rcParams)
        picture(*data, tmp_path / "styled.png")
        assert dict(mpl.rcParams) == before
    assert (tmp_path / "styled.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


@pytest.mark.parametrize("name", [name for name, call in PICTURES.items() if call[0] is not plots.attention_picture])
def test_no_text_is_cut_off(name, drawn):
    figure = drawn(*PICTURES[name])
    page, found = figure.bbox, figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert min(found.x0, found.y0) >= -1
    assert found.x1 <= page.x1 + 1
    assert found.y1 <= page.y1 + 1


@pytest.mark.parametrize("name", ["curves of five seeds", "confusion of 19"])
def test_picture_of_a_run_fits_beside_its_panel(name, drawn):
    assert drawn(*PICTURES[name]).bbox.width <= 870


@pytest.mark.parametrize(
    ("monitor", "expected"), [("official_f1", [(2, 70.0), (3, 81.5)]), ("loss", [(1, 60.0), (2, 79.25)])]
)
def test_first_best_epoch_of_each_seed_is_marked(monitor, expected, drawn):
    histories = {"seed 0": history([60, 70, 70], monitor), "seed 7": history([80, 79.25, 81.5], monitor)}
    if monitor == "loss":
        histories = {seed: frame.drop(columns="loss").assign(loss=1.0) for seed, frame in histories.items()}
    figure = drawn(plots.learning_curves, histories, monitor)
    marks = [line for line in figure.axes[1].lines if line.get_marker() == "o"]
    assert [(mark.get_xdata()[0], mark.get_ydata()[0]) for mark in marks] == expected
    (epoch, value), digits = expected[1], 3 if monitor == "loss" else 1
    assert f"seed 7: {value:.{digits}f} at epoch {epoch}" in texts(figure)
    left, right = ([line.get_color() for line in axes.lines] for axes in figure.axes)
    assert left == right  # two curves of a seed; a curve and its mark
    assert len(set(left)) == 2


def test_one_epoch_is_drawn_as_points(drawn):
    figure = drawn(plots.learning_curves, {0: history([50])}, "official_f1")
    assert [line.get_marker() for line in figure.axes[0].lines] == ["o", "o"]
    low, high = figure.axes[0].get_xlim()
    assert [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high] == [1]


@pytest.mark.parametrize("labels", [DIRECTED, ["neg", "pos"]], ids=["19", "2"])
def test_confusion_matrix_shows_counts_and_shares_of_rows(labels, drawn):
    cells = counts(labels)
    cells.iloc[-1] = 0  # a class without gold items
    figure = drawn(plots.confusion_matrix, cells)
    axes = figure.axes[0]
    written = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert written == {(0, 1): "7"} | {(k, k): str(10 + k) for k in range(len(labels) - 1)}
    shares = axes.images[0].get_array()
    np.testing.assert_allclose(shares[0, :2], [10 / 17, 7 / 17])
    np.testing.assert_allclose(shares.sum(axis=1), [1] * (len(labels) - 1) + [0])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == labels
    assert [tick.get_text() for tick in axes.get_xticklabels()] == labels
    assert "rows: gold; columns: predicted; shade: share of the row" in texts(figure)
    extents = [tick.get_window_extent() for tick in axes.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in pairwise(extents))


def test_classes_are_sorted_by_f1_with_support(drawn):
    frame = pd.DataFrame(
        {"class": ["b", "c", "a"], "precision": [1.0, 2, 3], "recall": [4.0, 5, 6], "f1": [20.0, 90, 20]}
    ).assign(support=[5, 1234, 7])
    axes = drawn(plots.scores_by_class, frame).axes[0]
    assert axes.yaxis_inverted()
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["c  (1,234)", "b  (5)", "a  (7)"]
    assert [bar.get_width() for bar in axes.patches] == [90, 20, 20]
    assert {line.get_label(): list(line.get_xdata()) for line in axes.lines} == {
        "precision": [2, 1, 3],
        "recall": [5, 4, 6],
    }
    assert [text.get_text() for text in axes.texts] == ["90.0", "20.0", "20.0"]


def test_rankings_are_distinct_without_colour(drawn):
    curves = drops([1.0, 5.0, 10.0])
    figure = drawn(plots.faithfulness_curves, curves)
    names = {"attention": "attention", "random": "random", "gradient × input": "gradient_input"}
    for axes, (name, better) in zip(
        figure.axes, [("comprehensiveness", "higher"), ("sufficiency", "lower")], strict=True
    ):
        assert axes.get_title(loc="left") == f"{name}: {better} is better"
        lines = {line.get_label(): line for line in axes.lines if line.get_label() in names}
        assert {label: list(line.get_ydata()) for label, line in lines.items()} == {
            label: curves[name][ranking] for label, ranking in names.items()
        }
        looks = {(line.get_marker(), line.get_linestyle()) for line in lines.values()}
        assert len(looks) == len({marker for marker, _ in looks}) == len({style for _, style in looks}) == 3
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "5", "10"]


def test_reliability_has_a_raw_and_a_scaled_curve(drawn):
    diagonal, *curves = drawn(plots.reliability_curves, reliability()).axes[0].lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    assert {line.get_label(): line.get_xydata().tolist() for line in curves} == {
        "raw": [[40, 30], [90, 70]],
        "scaled by the temperature of dev": [[50, 55]],
    }


def test_attention_is_shaded_and_its_heaviest_weights_written(drawn):
    figure = drawn(plots.attention_picture, [example("a b c d e", [0.4, 0.2, 0.2, 0.2, 0.0]), example("f", [0.1])])
    shades = [text.get_bbox_patch().get_facecolor() for text in figure.axes[0].texts if text.get_bbox_patch()]
    assert same_color(shades[0], shades[5])
    assert same_color(shades[0], plots.SHADES(plots.DARKEST))
    assert same_color(shades[1], plots.SHADES(plots.DARKEST / 2))
    assert shades[4][3] == 0
    places = {text.get_text(): text.get_position()[0] for text in figure.axes[0].texts}
    digits = [text for text in figure.axes[0].texts if text.get_text().startswith("0.")]
    assert [text.get_text() for text in digits] == ["0.40", "0.20", "0.20", "0.10"]
    assert [text.get_position()[0] for text in digits] == [places[token] for token in "abcf"]


def test_long_sentences_wrap_and_long_tokens_are_cut(drawn):
    figure = drawn(plots.attention_picture, [example("word " * 60 + "w" * 500, [1 / 61] * 61), example("b", [1.0])])
    page, drawn_texts = figure.bbox, figure.axes[0].texts
    extents = [text.get_window_extent() for text in drawn_texts]
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 for box in extents)
    corners = [text.get_position()[::-1] for text in drawn_texts if text.get_bbox_patch()]
    assert corners == sorted(corners)
    assert len({y for y, _ in corners}) >= 4
    assert any(text.endswith("w…") for text in texts(figure))


@pytest.mark.parametrize(
    ("gold", "caption"), [("pos", "✓ pos (88 %)"), ("neg", "✗ predicted pos (88 %), gold neg"), (None, "pos (88 %)")]
)
def test_wrong_prediction_is_marked_without_colour(gold, caption, drawn):
    figure = drawn(plots.attention_picture, [example("a", [1.0], "pos", gold)])
    (line,) = (text for text in figure.axes[0].texts if text.get_text() == caption)
    assert line.get_weight() == ("bold" if gold == "neg" else "normal")


def test_dollars_and_underscores_are_no_mathematics(drawn):
    tokens = NOT_MATHEMATICS.split()
    label = tokens[0]
    attention = drawn(plots.attention_picture, [example(NOT_MATHEMATICS, [0.5, 0.3, 0.2], label, label)])
    matrix = drawn(plots.confusion_matrix, counts(tokens))
    bars = drawn(plots.scores_by_class, by_class(tokens))
    assert {*tokens, f"✓ {label} (88 %)"} <= set(texts(attention))
    assert set(tokens) <= set(texts(matrix))
    assert f"{label}  (1,000)" in texts(bars)
    # as mathematics `$x_1$` would be two letters wide
    found = [text for figure in (attention, matrix, bars) for text in figure.findobj(Text) if text.get_text()]
    assert not any(text.get_parse_math() for text in found)


def test_letters_of_other_scripts_are_drawn_in_a_font_that_has_them(tmp_path, capsys):
    # the only Japanese letter of a font that comes with matplotlib; a missing one would be a warning, here an error
    plots.attention_picture([example("の good", [0.5, 0.5])], tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()
    plots.confusion_matrix(counts(["の", "b"]), tmp_path / "c.png")
    # Tangut
    plots.attention_picture([example("\U00017000 good", [0.5, 0.5])], tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()
    assert "b.png is not drawn: no installed font has \U00017000" in capsys.readouterr().err
