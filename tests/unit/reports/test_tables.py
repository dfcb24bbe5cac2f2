import io

from rich.console import Console

from bilstm_attention.config import Params, with_overrides
from bilstm_attention.reports.tables import (
    score_document,
    score_table,
)


def metrics(seeds: dict[str, float]) -> dict:
    values = list(seeds.values())
    sd = None if len(values) == 1 else 1.5
    summary = {"mean": sum(values) / len(values), "sd": sd, "low": 70.123, "high": 80.456, "by_seed": seeds}
    return {
        "test": {"official_f1": summary, "accuracy": {**summary, "mean": 33.333}},
        "dev": {"official_f1": {"mean": 78.25, "sd": sd, "by_seed": dict.fromkeys(seeds, 78.25)}},
        "ensemble": {"official_f1": 81.119, "accuracy": 82.0},
        "baselines": {"majority": {"official_f1": 0.0, "accuracy": 16.71}},
        "test_coverage": {"types": 95.5, "tokens": 98.765},
    }


def shown(scores: dict) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(score_table(scores))
    return console.export_text()


def test_the_table_of_one_seed_has_neither_spread_nor_ensemble() -> None:
    text = shown(metrics({"0": 75.5}))
    assert "75.50 " in text
    assert "±" not in text
    assert "ensemble" not in text
    assert "70.12–80.46" in text
    assert "16.71" in text


def test_the_table_of_several_seeds_shows_mean_spread_and_ensemble_in_80_columns() -> None:
    text = shown(metrics({"0": 75.5, "3": 76.5}))
    assert "76.00 ± 1.50" in text
    assert "81.12" in text
    assert "seeds 0, 3" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_document_shows_every_seed_and_how_it_was_made() -> None:
    last = with_overrides(Params(), {"train.restore_best_weights": False})
    assert "in percent. The last epoch is kept; test chose" in score_document(metrics({"0": 75.5}), last, "a machine")
    lines = score_document(metrics({"0": 75.5, "3": 76.5}), Params(), "a machine").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert ["seed 3", "78.25", "76.50", "76.50"] in rows
    assert ["**mean ± sd**", "78.25 ± 1.50", "76.00 ± 1.50", "33.33 ± 1.50"] in rows
    assert ["ensemble", "", "81.12", "82.00"] in rows
    assert ["majority", "", "0.00", "16.71"] in rows
    assert lines[-1] == "Made with a machine."
    assert any(line.endswith("from the defaults: none.") for line in lines)
    assert any("98.76 % of the tokens" in line or "98.77 % of the tokens" in line for line in lines)
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
