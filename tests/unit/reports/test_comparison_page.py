from types import SimpleNamespace
from typing import Any

import pandas as pd

from bilstm_attention.reports.comparison_page import comparison_page, comparison_section


def scores(**columns: Any) -> pd.DataFrame:
    row = {"mean": 60.0, "sd": 1.0, "low": 55.0, "high": 65.0, "seed_0": 59.0, "seed_1": 61.0, "weights_added": 1200}
    table = pd.DataFrame([{**row, "variant": "a|b"}, {**row, "variant": "best"}])
    return table.assign(p=[1 / 1001, None], **columns)


def section(table: pd.DataFrame, errors: Any = None, classes: pd.DataFrame | None = None) -> str:
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


def errors(wrong: int, kinds: dict[str, int], **entities: list[str]) -> Any:
    example: dict[str, Any] = {"id": ["7"], "gold": ["A"], "predicted": ["B"], "confidence": [99.6], **entities}
    return SimpleNamespace(
        answered=5000,
        wrong=wrong,
        kinds=kinds,
        confusions=pd.DataFrame({"gold": ["A"], "predicted": ["B"], "answers": [1234]}),
        counted="tokens between the entities",
        by_tokens=pd.DataFrame({"tokens": ["0 to 2"], "answers": [5000], "right": [75.32]}),
        examples=pd.DataFrame(example),
    )


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


def test_errors_have_kinds_and_examples() -> None:
    text = section(scores(), errors(1234, {"another relation": 1234}, first=["a drawer"], second=["room"]))
    assert "**Errors of `best`** on 5 folds: 1,234 of 5,000 answers." in text
    assert "| another relation | 1234 | 100 % |" in text
    assert "| 0 to 2 | 5000 | 75.3 % |" in text
    assert "| 7 | A | B | 100 % | a drawer | room | 1234 |" in text
    assert section(scores(), errors(0, {})).endswith("0 of 5,000 answers.")


def test_classes_have_a_column_per_variant() -> None:
    classes = pd.DataFrame({"class": ["Cause-Effect"], "items": [3], "best": [81.25]})
    assert "| Cause-Effect | 3 | 81.2 |" in section(scores(), classes=classes)


def test_page_names_command_missing_tables_and_versions() -> None:
    page = comparison_page("Title", "bilstm-attention compare x.yaml", ["## A"], ["second"], "x", ["commit 1"])
    assert page.startswith("# Title\n\n```sh\nbilstm-attention compare x.yaml\n```\n\n## A\n")
    assert "**Incomplete:** second missing" in page
    assert "[x.csv](x.csv)" in page
    assert page.endswith("- commit 1\n")
