from typing import Any

import pandas as pd

from bilstm_attention.reports.comparison_page import comparison_page, comparison_section


def scores(**columns: Any) -> pd.DataFrame:
    row = {"mean": 60.0, "sd": 1.0, "low": 55.0, "high": 65.0, "seed_0": 59.0, "seed_1": 61.0, "weights_added": 1200}
    table = pd.DataFrame([{**row, "variant": "a|b"}, {**row, "variant": "best"}])
    return table.assign(p=[1 / 1001, None], **columns)


def section(table: pd.DataFrame, errors: pd.DataFrame | None = None, classes: pd.DataFrame | None = None) -> str:
    text = comparison_section(
        about="Kinds",
        score="accuracy",
        scored_on="5 folds",
        reference="best",
        seeds=[0, 1],
        table=table,
        classes=classes,
        errors=errors,
        picture="kinds.png",
    )
    return " ".join(text.split())


def test_scores_on_dev_have_mean_seeds_interval_and_p() -> None:
    text = section(scores())
    assert "| `a\\|b` | 1,200 | 60.00 ± 1.00 | 59.0, 61.0 | 55.00–65.00 | ≤ 0.001 |" in text
    assert "| `best` | 1,200 | 60.00 ± 1.00 | 59.0, 61.0 | 55.00–65.00 | |" in text
    assert "## Kinds" in text
    assert "![accuracy](kinds.png)" in text


def test_scores_on_test_have_the_ensemble() -> None:
    test = {"test_mean": 70.0, "test_sd": 2.0, "test_low": 66.0, "test_high": 74.0, "test_ensemble": 71.0}
    text = section(scores(**test, test_seed_0=69.0, test_seed_1=71.0))
    assert "| 60.00 ± 1.00 | 70.00 ± 2.00 | 69.0, 71.0 | 66.00–74.00 | 71.00 |" in text


def test_confusions_have_the_confidence_in_percent() -> None:
    errors = pd.DataFrame({"gold": ["A"], "predicted": ["B"], "answers": [1234], "confidence": [99.6], "id": ["7"]})
    text = section(scores(), errors)
    assert "**Confusions of `best`** on 5 folds" in text
    assert "| A | B | 1234 | 100 % | 7 |" in text


def test_classes_have_a_column_per_variant() -> None:
    classes = pd.DataFrame({"class": ["Cause-Effect"], "items": [3], "best": [81.25]})
    assert "| Cause-Effect | 3 | 81.2 |" in section(scores(), classes=classes)


def test_page_names_command_missing_tables_and_versions() -> None:
    page = comparison_page("Title", "bilstm-attention compare x.yaml", ["## A"], ["second"], "x", ["commit 1"])
    assert page.startswith("# Title\n\n```sh\nbilstm-attention compare x.yaml\n```\n\n## A\n")
    assert "**Incomplete:** second missing" in page
    assert "[x.csv](x.csv)" in page
    assert page.endswith("- commit 1\n")
