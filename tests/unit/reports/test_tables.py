import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bilstm_attention.config import Params, with_overrides
from bilstm_attention.reports.attention_page import AttentionExample
from bilstm_attention.reports.tables import (
    describe_evaluation,
    describe_seed,
    describe_training,
    markdown_table,
    score_document,
    score_table,
    shaded_text,
)

TWO_SEEDS = with_overrides(Params(), {"train.seeds": [0, 3]})


def metrics(**by_seed: float) -> dict[str, Any]:
    scores = {name.removeprefix("seed_"): score for name, score in by_seed.items()}
    sd = None if len(scores) == 1 else 1.5
    mean = sum(scores.values()) / len(scores)
    summary = {"mean": mean, "sd": sd, "low": 70.123, "high": 80.456, "by_seed": scores}
    return {
        "corpus": "jokes",
        "test_calibration": {"raw": {"ece": {"mean": 4.321}}, "scaled": {"ece": {"mean": 1.2}}},
        "test": {"official_f1": summary, "accuracy": {**summary, "mean": 33.333}},
        "dev": {"official_f1": {"mean": 78.25, "sd": sd, "by_seed": dict.fromkeys(scores, 78.25)}},
        "ensemble": {"official_f1": 81.119, "accuracy": 82.0},
        "baselines": {"majority": {"official_f1": 0.0, "accuracy": 16.71}},
        "test_coverage": {"types": 95.5, "tokens": 98.764},
    }


ONE, TWO = metrics(seed_0=75.5), metrics(seed_0=75.5, seed_3=76.5)


def printed(scores: dict[str, Any]) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(score_table(scores))
    return console.export_text()


def test_table_shows_spread_and_ensemble_of_several_seeds_alone() -> None:
    one, two = printed(ONE), printed(TWO)
    assert one.startswith("jokes: test scores in percent, seed 0")
    assert all(text in one for text in ("75.50 ", "70.12–80.46", "16.71", "seed 0"))
    assert not any(text in one for text in ("±", "ensemble"))
    assert all(text in two for text in ("76.00 ± 1.50", "81.12", "seeds 0, 3"))
    assert max(map(len, two.splitlines())) <= 80


def test_document_shows_every_seed_and_the_protocol() -> None:
    lines = score_document(TWO, TWO_SEEDS, "a machine").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert rows[0] == ["model", "dev official_f1", "official_f1", "accuracy"]
    assert rows[2:] == [
        ["seed 0", "78.25", "75.50", "75.50"],
        ["seed 3", "78.25", "76.50", "76.50"],
        ["**mean ± sd**", "78.25 ± 1.50", "76.00 ± 1.50", "33.33 ± 1.50"],
        ["95 % interval", "", "70.12–80.46", "70.12–80.46"],
        ["ensemble", "", "81.12", "82.00"],
        ["majority", "", "0.00", "16.71"],
    ]
    assert lines[0] == "Test scores on jokes in percent. Dev official_f1 selects the epoch; test selects nothing."
    assert "Expected calibration error on test 4.32 %; 1.20 % with the temperature of dev." in lines
    assert "Word vectors cover 98.76 % of the tokens of test, 95.50 % of its types." in lines
    assert "Parameters that differ from the defaults: `train.seeds=[0, 3]`." in lines
    assert lines[-1] == "Made with a machine."
    last = score_document(ONE, with_overrides(Params(), {"train.restore_best_weights": False}), "a machine")
    assert "The last epoch is kept;" in last
    assert "mean ± sd" not in last


def test_markdown_table_keeps_digits_and_escapes_bars() -> None:
    row = markdown_table(pd.DataFrame({"a": ["0.10"], "c": ["x|y"]})).splitlines()[2]
    assert row.split() == ["|", "0.10", "|", r"x\|y", "|"]


def test_description_of_an_evaluation_starts_with_its_score() -> None:
    lines = describe_evaluation(Params(), ONE, "today", ["seed-0.html"]).splitlines()
    assert lines[0] == "**test official_f1 75.50**, 95 % interval 70.12–80.46; dev official_f1 78.25"
    assert "[seed-0](artifact:attention/seed-0.html)" in lines[2]
    assert "![Learning curves](artifact:plots/learning_curves.png)" in lines
    assert "![Confusion matrix on test](artifact:plots/confusion.png)" in lines
    assert any(line.startswith("| majority ") for line in lines)
    two = describe_evaluation(TWO_SEEDS, TWO, "today", ["seed-0.html", "seed-3.html"])
    assert two.startswith("**test official_f1 76.00** ± 1.50 over 2 seeds, 95 % interval")
    one = describe_seed(TWO_SEEDS, TWO, 3, "seed-3.html")
    assert one.startswith("**test official_f1 76.50**; dev official_f1 78.25. The parent run")
    assert "(artifact:attention/seed-3.html)" in one


@pytest.mark.parametrize("terminal", [True, False])
def test_tokens_are_shaded_by_weight_in_a_terminal_alone(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, color_system="truecolor" if terminal else None)
    tokens = ["the", "caf\udce9", "ran"]
    sentence = AttentionExample(tokens, np.array([[0.0, 0.5, 0.25]]), None, [("Other", 0.875)])
    console.print(shaded_text(sentence), soft_wrap=True, highlight=False)
    shown = console.file.getvalue()
    heavy, half = (
        "\x1b[30;48;2;{}m{}\x1b[0m".format(*each) for each in (("107;174;214", "caf?"), ("181;214;234", "ran"))
    )
    assert shown == f"Other  0.8750\nthe {heavy if terminal else 'caf?'} {half if terminal else 'ran'} \n"


@pytest.mark.parametrize(("monitor", "score"), [("official_f1", "62.35"), ("loss", "0.1234")])
def test_description_of_a_training_names_the_monitored_score(monitor: str, score: str) -> None:
    params = with_overrides(Params(), {"train.monitor": monitor})
    text = describe_training(params, {"loss": 0.12341, "official_f1": 62.349}, 7, 20)
    assert text == f"dev {monitor} {score}, epoch 7 of 20. Not evaluated on test yet.\n"
