"""The page of a comparison, and its picture."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from bilstm_attention.reports import comparison_page as pages

SEEDS = {"seed_0": 59.0, "seed_1": 61.0}
SCORES = {"mean": 60.0, "sd": 1.0, "low": 55.0, "high": 65.0, "weights_added": 1200, **SEEDS}


def scores(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame([{"variant": "a|b", **SCORES}, {"variant": "best", **SCORES}]).assign(
        p=[1 / 1001, None], **columns
    )


def section(table: pd.DataFrame, **parts: Any) -> str:
    text = pages.comparison_section(
        table, about="Kinds", score="accuracy", scored_on="5 folds", reference="best", picture="kinds.png", **parts
    )
    return " ".join(text.split())


def test_scores_on_dev_have_mean_seeds_interval_and_p() -> None:
    text = section(scores())
    assert "| variant | weights added | 5 folds accuracy | by seed | 95 % interval | p against best |" in text
    assert "| `a\\|b` | 1,200 | 60.00 ± 1.00 | 59.0, 61.0 | 55.00–65.00 | ≤ 0.001 |" in text
    assert "| `best` | 1,200 | 60.00 ± 1.00 | 59.0, 61.0 | 55.00–65.00 | |" in text
    assert "## Kinds" in text
    assert "![accuracy](kinds.png)" in text


def test_scores_of_one_seed_and_variant_have_no_sd_and_p() -> None:
    text = section(scores(sd=[None, None])[:1].drop(columns="seed_1"))
    assert "| 95 % interval | |:" in text
    assert "| 1,200 | 60.00 | 59.0 | 55.00–65.00 |" in text


def test_scores_on_test_have_the_ensemble() -> None:
    test = {"test_mean": 70.0, "test_sd": 2.0, "test_low": 66.0, "test_high": 74.0, "test_ensemble": 71.0}
    text = section(scores(**test, test_seed_0=69.0, test_seed_1=71.0))
    assert "| 60.00 ± 1.00 | 70.00 ± 2.00 | 69.0, 71.0 | 66.00–74.00 | 71.00 |" in text


def test_confusions_have_the_confidence_in_percent() -> None:
    errors = pd.DataFrame({"gold": ["A"], "predicted": ["B"], "answers": [1234], "confidence": [99.6], "id": ["7"]})
    text = section(scores(), errors=errors)
    assert "**Confusions of `best`** on 5 folds" in text
    assert "| A | B | 1234 | 100 % | 7 |" in text


def test_possible_errors_of_labels_have_a_link() -> None:
    text = section(scores(), issues=("best", "x-kinds-label_issues.csv"))
    assert "[Possible errors of labels](x-kinds-label_issues.csv): training sentences" in text
    assert "not what `best` predicts" in text
    assert "label_issues" not in section(scores())


def test_classes_have_a_column_per_variant() -> None:
    classes = pd.DataFrame({"class": ["Cause-Effect"], "items": [3], "`best`": [81.25]})
    assert "| Cause-Effect | 3 | 81.2 |" in section(scores(), classes=classes)


def test_faithfulness_has_a_column_per_measure() -> None:
    measures = {"comprehensiveness_attention": 1.25, "sufficiency_gradient_input": 2.0, "entropy": 50.0}
    text = section(scores(faithfulness_rows=[6.0, 4.0], **measures, share_entity_markers=[None, 3.0]))
    assert "| variant | sentences | comp.: attention | suff.: gradient x input | entropy | on entity markers |" in text
    assert "| `best` | 4 | 1.2 | 2.0 | 50.0 | 3.0 |" in text
    assert "| `a\\|b` | 6 | 1.2 | 2.0 | 50.0 | |" in text


def test_page_names_command_missing_tables_and_versions() -> None:
    page = pages.comparison_page("Title", "bilstm-attention compare x.yaml", ["## A"], ["second"], "x", ["commit 1"])
    assert page.startswith("# Title\n\n```sh\nbilstm-attention compare x.yaml\n```\n\n## A\n")
    assert "**Incomplete:** second missing" in page
    assert "[x.csv](x.csv)" in page
    assert page.endswith("- commit 1\n")


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure, once it is written."""
    drawn: list[Figure] = []
    write = pages.write
    monkeypatch.setattr(pages, "write", lambda figure, path: (write(figure, path), drawn.append(figure)))
    return drawn


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


@pytest.mark.parametrize(("width", "far"), [(1.0, True), (20.0, False)])
def test_variant_far_below_is_at_the_edge_with_its_mean(
    figures: list[Figure], tmp_path: Path, width: float, far: bool
) -> None:
    means = pd.Series([78.8, 78.5, 78.3, 77.9, 77.6, 59.6])
    columns = {"low": means - width, "high": means + width, "seed_0": means - 0.5, "seed_1": means + 0.5, "sd": None}
    frame = pd.DataFrame({"variant": list("abcdef"), "mean": means, **columns})
    for name in ("one.png", "two.png"):
        pages.plot_variants(frame, "test official_f1", tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    (axes,) = figures[0].axes
    assert ("◂ 59.6" in texts(figures[0])) is far
    assert (axes.get_xlim()[0] > 75) == far
    (bands,) = axes.collections
    drawn = frame[:5] if far else frame
    assert [(band[0][0], band[1][0]) for band in bands.get_segments()] == [
        *zip(drawn["low"], drawn["high"], strict=True)
    ]
    assert "test official F1 in percent; dot: a seed, bar: mean, band: 95 % interval" in texts(figures[0])
