"""The page of a run says first what anybody would ask of it."""

from typing import Any

import pytest

from bilstm_attention.config import Params, with_overrides
from bilstm_attention.reports.run_page import describe_evaluation, describe_seed, describe_sweep, describe_training


def metrics(*scores: float) -> dict[str, Any]:
    by_seed = {str(seed): score for seed, score in enumerate(scores)}
    test = {"mean": sum(scores) / len(scores), "sd": 1.5 if len(scores) > 1 else None, "low": 40.0, "high": 60.25}
    dev = {"mean": 66.0, "sd": test["sd"], "by_seed": dict.fromkeys(by_seed, 66.0)}
    return {
        "test": {"official_f1": {**test, "by_seed": by_seed}},
        "dev": {"official_f1": dev, "loss": {**dev, "mean": 0.12345}},
        "ensemble": {"official_f1": 52.0},
        "baselines": {"majority": {"official_f1": 20.0}},
        "test_coverage": {"tokens": 98.0, "types": 90.0},
    }


def test_one_model_is_told_with_its_scores_pages_and_pictures() -> None:
    said = describe_evaluation(Params(), metrics(50.0), "today", ["seed-0.html"])
    lines = said.splitlines()
    assert lines[0] == "**test official_f1 50.00**, 95 % interval 40.00–60.25; dev official_f1 66.00"
    assert "[seed-0](artifact:attention/seed-0.html)" in lines[2]
    assert any(line.startswith("| majority ") and "| 20.00 " in line for line in lines)
    assert "![Learning curves, and what was taken for what on test](artifact:plots/overview.png)" in lines


def test_several_are_told_with_their_spread_and_each_with_its_own() -> None:
    params = with_overrides(Params(), {"train.seeds": [0, 1]})
    said = describe_evaluation(params, metrics(50.0, 51.0), "today", ["seed-0.html", "seed-1.html"])
    assert said.startswith("**test official_f1 50.50** ± 1.50 over 2 seeds, 95 % interval")
    one = describe_seed(params, metrics(50.0, 51.0), 1, "seed-1.html")
    assert one.startswith("**test official_f1 51.00**; dev official_f1 66.00. One of the seeds 0, 1;")
    assert "(artifact:attention/seed-1.html)" in one


@pytest.mark.parametrize(("monitor", "said"), [("official_f1", "62.35"), ("loss", "0.1234")])
def test_a_training_is_told_by_the_score_that_it_is_judged_by(monitor: str, said: str) -> None:
    params = with_overrides(Params(), {"train.monitor": monitor})
    told = describe_training(params, {"loss": 0.12341, "official_f1": 62.349}, 7, 20)
    assert told == f"dev {monitor} {said}, epoch 7 of 20. Not judged on test yet.\n"


def test_pictures_of_a_sweep_are_files_of_its_run() -> None:
    assert describe_sweep("![a](figures/a.png)\n[b](b.md)") == "![a](artifact:figures/a.png)\n[b](b.md)"
