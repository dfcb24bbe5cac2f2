"""The page about a sweep says what was tried, what won and by how much, what decided, and what it took."""

from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from tests.made_studies import AGAINST, GOLD, LABELS, RIGHT, UNITS, WRONG, add, confirm, make_definition

from bilstm_attention.reports.sweep_report import sweep_report
from bilstm_attention.search.outcome import outcome
from bilstm_attention.search.study import SweepSpec, open_study
from bilstm_attention.search.sweep import confirmation_seeds
from bilstm_attention.search.trials import FOUND, confirmation

NORM = "train.clip_norm"
TEXT = """
study: made
metric: accuracy
sampler: {kind: tpe, seed: 3}
pruner: {kind: none}
confirm: {top: 2, seeds: 2}
fixed: {train.epochs: 7}
space:
  model.lstm_units: {low: 1, high: 1000, step: 3}
  train.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true, when: {model.merge: sum}}
  train.clip_norm: [1.0, null]
  model.merge: [sum, concat]
"""
SHARES = {"PED-ANOVA": {NORM: 0.75, UNITS: 0.25}, "fANOVA": {UNITS: 0.996, "model.merge": 0.004}}


def page(definition: SweepSpec, study: optuna.Study, shares: Any = SHARES, figures: tuple[str, ...] = ()) -> str:
    found = outcome(definition, study, GOLD, LABELS)
    return sweep_report(definition, study, found, shares, figures, "bilstm-attention sweep made.yaml", "these versions")


def table(text: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading."""
    lines = text.partition(f"## {heading}\n")[2].partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert set(rows.pop(1)) == {"---"}
    assert {len(row) for row in rows} == {len(rows[0])}
    return rows


def trial(number: int, score: float | None, units: int, state: str = "COMPLETE", **others: Any) -> FrozenTrial:
    """Of 9 June 2026, from 8:00 and as many minutes as its number, 90 seconds long."""
    distributions = {UNITS: IntDistribution(1, 1000), NORM: CategoricalDistribution([1.0, None])}
    params = {UNITS: units, **others}
    return FrozenTrial(
        number,
        TrialState[state],
        score,
        datetime_start=datetime(2026, 6, 9, 8, number),
        datetime_complete=datetime(2026, 6, 9, 8, number + 1, 30),
        params=params,
        distributions={key: distributions[key] for key in params},
        user_attrs={"seed": number, FOUND: {"overrides": params, "seconds": 3000.0}},
        system_attrs={},
        intermediate_values={},
        trial_id=number,
    )


@pytest.fixture
def made(tmp_path: Path) -> tuple[SweepSpec, optuna.Study]:
    definition = make_definition(tmp_path, TEXT)
    study = open_study(definition)
    study.add_trial(trial(0, 80.0, 10, **{NORM: None}))
    study.add_trial(trial(1, 90.0, 1000, **{NORM: 1.0}))
    study.add_trial(trial(2, None, 30, "PRUNED"))
    study.add_trial(trial(3, None, 40, "FAIL"))
    return definition, study


@pytest.fixture
def confirmed(made: tuple[SweepSpec, optuna.Study]) -> tuple[SweepSpec, optuna.Study]:
    definition, study = made
    confirm(definition, study, 0, (76.0, RIGHT), (78.0, RIGHT))
    confirm(definition, study, 1, (70.0, WRONG), (71.0, WRONG))
    return made


def test_the_protocol_says_what_was_searched_how_and_what_became_of_the_trials(
    made: tuple[SweepSpec, optuna.Study],
) -> None:
    text = page(*made)
    assert text.startswith("# Sweep made\n\nSearched for dev accuracy with tpe (seed 3), pruner none: 4 trials, ")
    assert "2 trained to the end, 1 given up early, 1 failed. " in text
    assert "**on dev**. Test was not opened." in text
    tried = [
        "- `model.lstm_units`: 1 to 1000 in steps of 3",
        "- `train.learning_rate`: 0.0001 to 0.01, logarithmic (when model.merge sum)",
        "- `train.clip_norm`: 1.0, None",
        "- `model.merge`: sum, concat",
    ]
    assert [line for line in text.splitlines() if line.startswith("- ")] == tried
    assert "other than `params.yaml` as it comes: `train.epochs=7`, `train.threads=1`." in text
    assert "```sh\nbilstm-attention sweep made.yaml\n```" in text


def test_the_winner_is_named_with_its_drop_and_p(confirmed: tuple[SweepSpec, optuna.Study]) -> None:
    text = page(*confirmed)
    assert "**Trial 0: 77.00**, the mean dev accuracy of 2 fresh seeds. In the search it had 80.00, 3.00 more:" in text
    assert "Against trial 1, the second: p = 0.001 (paired approximate randomisation" in text


def test_a_winner_that_gained_is_not_said_to_have_dropped(made: tuple[SweepSpec, optuna.Study]) -> None:
    definition, study = made
    confirm(definition, study, 0, (81.0, RIGHT), (82.0, RIGHT))
    text = page(definition, study)
    assert "**Trial 0: 81.50**" in text
    assert "In the search it had 80.00, 1.50 less:" in text
    assert "p =" not in text


def test_one_fresh_seed_is_a_confirmation(tmp_path: Path) -> None:
    definition = make_definition(tmp_path, TEXT.replace("seeds: 2", "seeds: 1"))
    study = open_study(definition)
    study.add_trial(trial(0, 80.0, 10))
    confirm(definition, study, 0, (76.0, RIGHT))
    assert "**Trial 0: 76.00**, the mean dev accuracy of 1 fresh seed. In the search" in page(definition, study)


def test_unconfirmed_the_best_is_said_to_be_too_high(made: tuple[SweepSpec, optuna.Study]) -> None:
    text = page(*made)
    assert "The best is trial 1, dev accuracy 90.00: of many, so too high." in text
    assert "## On fresh seeds" not in text
    assert "**Trial" not in text


def test_the_best_stand_in_a_table_none_told_from_what_was_not_tried(
    confirmed: tuple[SweepSpec, optuna.Study],
) -> None:
    head, *rows = table(page(*confirmed), "The best")
    assert head == ["trial", "search", "confirmed", UNITS, NORM, "model.merge", "train.learning_rate"]
    assert rows == [
        ["0", "80.00", "77.00 ± 1.41", "10", "none", "", ""],
        ["1", "90.00", "70.50 ± 0.71", "1000", "1", "", ""],
        ["2", "pruned", "", "30", "", "", ""],
        ["3", "fail", "", "40", "", "", ""],
    ]


def test_confirmations_stand_in_a_table_seed_by_seed(confirmed: tuple[SweepSpec, optuna.Study]) -> None:
    head, *rows = table(page(*confirmed), "On fresh seeds")
    assert head[:4] == ["trial", "search", "confirmed", "drop"]
    assert head[4:] == [f"seed {seed}" for seed in confirmation_seeds(confirmed[0])]
    assert rows == [
        ["0", "80.00", "77.00", "3.00", "76.00", "78.00"],
        ["1", "90.00", "70.50", "19.50", "70.00", "71.00"],
    ]


def test_a_trial_of_which_a_confirmation_failed_has_no_row_and_the_reason_below(
    made: tuple[SweepSpec, optuna.Study],
) -> None:
    definition, study = made
    confirm(definition, study, 0, (76.0, RIGHT), (78.0, RIGHT))
    confirm(definition, study, 1, (70.0, WRONG))
    failed = confirmation(1, confirmation_seeds(definition)[1])
    study.set_user_attr(failed, {"reason": "the loss is nan", "seconds": 1.0})
    text = page(definition, study)
    assert [row[0] for row in table(text, "On fresh seeds")] == ["trial", "0"]
    seed = confirmation_seeds(definition)[1]
    assert f"\n\n- trial 1 with seed {seed} failed, so that the trial is not confirmed: the loss is nan\n\n" in text


def test_where_every_confirmation_failed_the_reasons_stand_alone(made: tuple[SweepSpec, optuna.Study]) -> None:
    definition, study = made
    for seed in confirmation_seeds(definition):
        study.set_user_attr(confirmation(1, seed), {"reason": "the loss is nan", "seconds": 1.0})
    section = page(definition, study).partition("## On fresh seeds\n\n")[2].partition("\n\n## ")[0]
    assert [line.partition(" failed")[0] for line in section.splitlines()] == [
        f"- trial 1 with seed {seed}" for seed in confirmation_seeds(definition)
    ]


def test_what_decided_stands_beside_each_other_with_gaps(made: tuple[SweepSpec, optuna.Study]) -> None:
    assert table(page(*made), "What decided") == [
        ["parameter", "PED-ANOVA", "fANOVA"],
        [f"`{NORM}`", "0.75", ""],
        [f"`{UNITS}`", "0.25", "1.00"],
        ["`model.merge`", "", "0.00"],
    ]
    assert "## What decided" not in page(*made, shares={})


def test_figures_are_shown_by_their_names(made: tuple[SweepSpec, optuna.Study]) -> None:
    text = page(*made, figures=("figures/history.png", "figures/pareto_front.png"))
    assert "![history](figures/history.png)\n![pareto front](figures/pareto_front.png)" in text


def test_the_last_line_says_when_how_long_and_with_what(confirmed: tuple[SweepSpec, optuna.Study]) -> None:
    assert page(*confirmed).splitlines()[-1] == (
        "The trials began 2026-06-09 08:00 and ended 2026-06-09 08:04; they took 3:20:00 of training, all workers"
        " together, and the confirmations 0:02:00. Made with these versions."
    )


def test_of_nothing_there_is_a_page_too(tmp_path: Path) -> None:
    definition = make_definition(tmp_path, TEXT)
    # as the outcome of a study in which nothing ended
    text = page(definition, open_study(definition), shares={})
    assert "0 trials" in text
    assert "No trial has ended well yet." in text
    assert text.splitlines()[-1] == "Made with these versions."


def test_of_two_objectives_the_second_and_the_front_have_columns(tmp_path: Path) -> None:
    definition = make_definition(tmp_path, AGAINST.replace("latency_ms", "parameters"))
    study = open_study(definition)
    add(study, 1, 80, 123456)
    add(study, 2, 70, 234567)
    add(study, 3, state="FAIL")
    text = page(definition, study, shares={})
    assert "dev accuracy against parameters with random" in text
    assert table(text, "The best") == [
        ["trial", "search", "parameters", "front", "confirmed", UNITS],
        ["0", "80.00", "123,456", "yes", "", "1"],
        ["1", "70.00", "234,567", "no", "", "2"],
        ["2", "fail", "", "no", "", "3"],
    ]


def test_no_more_than_ten_of_the_best_are_shown(tmp_path: Path) -> None:
    definition = make_definition(tmp_path)
    study = open_study(definition)
    for units in range(1, 14):
        add(study, units, units)
    assert len(table(page(definition, study), "The best")) == 11
