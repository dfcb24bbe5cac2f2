"""What a sweep found: the leaderboard, the winner, the front, and files that give exactly its parameters again."""

import math
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial
from tests.made_studies import (
    AGAINST,
    GOLD,
    GRID,
    HOPS,
    KIND,
    LABELS,
    RIGHT,
    SWEEP,
    UNITS,
    WRONG,
    add,
    confirm,
    make_definition,
    numbers,
)

from bilstm_attention.config import Params, config_text, flatten, load_params, read_overrides, with_overrides
from bilstm_attention.search.outcome import Outcome, outcome, write_outcome
from bilstm_attention.search.study import DIED, REPLACES, SweepSpec, open_study
from bilstm_attention.search.sweep import confirmation_seeds, confirmations
from bilstm_attention.search.trials import FOUND, confirmation


@pytest.fixture
def definition(tmp_path: Path) -> SweepSpec:
    return make_definition(tmp_path)


@pytest.fixture
def study(definition: SweepSpec) -> optuna.Study:
    return open_study(definition)


@pytest.fixture
def searched(study: optuna.Study) -> optuna.Study:
    """Trials 0 to 4 with 50, 90, none (pruned), 80, 85."""
    for score, units in ((50, 10), (90, 20), (None, 30), (80, 40), (85, 50)):
        add(study, units, *([score] if score else []), state="COMPLETE" if score else "PRUNED")
    return study


def found_in(definition: SweepSpec, study: optuna.Study) -> Outcome:
    return outcome(definition, study, GOLD, LABELS)


# --- the winner


def test_before_anything_has_ended_there_is_nothing(definition: SweepSpec, study: optuna.Study) -> None:
    found = found_in(definition, study)
    assert (len(found.leaderboard), found.finalists, found.p) == (0, [], None)


def test_before_anything_has_ended_well_there_is_no_winner(definition: SweepSpec, study: optuna.Study) -> None:
    add(study, 3, state="FAIL", reason="no memory")
    add(study, 3, state="FAIL")
    found = found_in(definition, study)
    assert (found.finalists, found.p) == ([], None)
    assert found.leaderboard[["state", "reason"]].values.tolist() == [["fail", "no memory"], ["fail", DIED]]
    assert write_outcome(definition, found) == [definition.folder / "leaderboard.csv"]
    assert [path.name for path in definition.folder.glob("*.csv")] == ["leaderboard.csv"]
    assert not (definition.folder / "best.yaml").exists()


def test_unconfirmed_the_best_of_the_search_wins_with_its_own_seed(
    searched: optuna.Study, definition: SweepSpec
) -> None:
    found = found_in(definition, searched)
    first = found.finalists[0]
    assert (first.number, first.score, first.searched, found.p) == (1, 90, 90, None)
    assert (first.params.model.lstm_units, first.params.train.seeds) == (20, [101])
    assert found.leaderboard["trial"].tolist() == [1, 4, 3, 0, 2]
    assert [finalist.number for finalist in found.finalists] == [1, 4, 3, 0]


def test_the_winner_is_the_best_by_its_confirmed_mean(searched: optuna.Study, definition: SweepSpec) -> None:
    confirm(definition, searched, 1, (70.0, WRONG), (72.0, WRONG))
    confirm(definition, searched, 4, (76.0, RIGHT), (80.0, RIGHT))
    found = found_in(definition, searched)
    first = found.finalists[0]
    assert (first.number, first.score, first.searched) == (4, 78, 85)
    trained = {UNITS: 50, "train.threads": 1, "train.seeds": confirmation_seeds(definition)}
    assert first.params == with_overrides(Params(), trained)
    # the two differ in every answer
    assert found.p is not None
    assert found.p < 0.01
    board = found.leaderboard
    assert board["trial"].tolist() == [4, 1, 3, 0, 2]
    assert board["confirmed_mean"].tolist()[:2] == [78, 71]
    assert board["confirmed_sd"].tolist()[:2] == pytest.approx([math.sqrt(8), math.sqrt(2)])
    assert board["confirmed_mean"].isna().tolist() == [False, False, True, True, True]
    assert board[UNITS].tolist() == [50, 20, 40, 10, 30]
    assert board["seed"].tolist() == [104, 101, 103, 100, 102]


def test_between_confirmed_that_answer_alike_p_is_1(searched: optuna.Study, definition: SweepSpec) -> None:
    for number in (1, 4):
        confirm(definition, searched, number, (70.0, RIGHT), (70.0, RIGHT))
    found = found_in(definition, searched)
    assert (found.finalists[0].number, found.p) == (1, 1.0)


def test_a_trial_of_which_a_confirmation_is_missing_is_not_confirmed(
    searched: optuna.Study, definition: SweepSpec
) -> None:
    confirm(definition, searched, 1, (99.0, RIGHT))
    confirm(definition, searched, 4, (60.0, RIGHT), (62.0, RIGHT))
    found = found_in(definition, searched)
    assert (found.finalists[0].number, found.finalists[0].score, found.p) == (4, 61, None)
    assert found.leaderboard["trial"].tolist()[0] == 4


def test_a_trial_of_which_a_confirmation_failed_is_not_the_winner(
    searched: optuna.Study, definition: SweepSpec
) -> None:
    confirm(definition, searched, 1, (99.0, RIGHT))
    seed = confirmation_seeds(definition)[1]
    searched.set_user_attr(confirmation(1, seed), {"reason": "the loss is nan", "seconds": 1.0})
    confirm(definition, searched, 4, (60.0, RIGHT), (62.0, RIGHT))
    assert confirmations(definition, searched) == []
    found = found_in(definition, searched)
    assert (found.finalists[0].number, found.finalists[0].score) == (4, 61)
    assert found.leaderboard["confirmed_mean"].isna().tolist() == [False, True, True, True, True]


def test_what_was_confirmed_stays_so_when_later_trials_are_better(
    searched: optuna.Study, definition: SweepSpec
) -> None:
    confirm(definition, searched, 1, (70.0, RIGHT), (72.0, RIGHT))
    confirm(definition, searched, 4, (60.0, RIGHT), (62.0, RIGHT))
    for units, score, confirmed in ((60, 95, 64.0), (70, 99, 66.0)):
        confirm(definition, searched, add(searched, units, score), (confirmed, RIGHT), (confirmed, RIGHT))
    found = found_in(definition, searched)
    assert [(each.number, each.score) for each in found.finalists[:4]] == [(1, 71), (6, 66), (5, 64), (4, 61)]
    assert found.leaderboard["trial"].tolist()[:4] == [1, 6, 5, 4]


# --- two objectives


@pytest.fixture
def weighed(tmp_path: Path) -> tuple[SweepSpec, optuna.Study]:
    """Trials 0 to 4, of which 1, 2 and 4 are the front."""
    definition = make_definition(tmp_path, AGAINST)
    study = open_study(definition)
    for units, score, cost in ((10, 70, 6), (20, 90, 9), (30, 80, 5), (40, 79, 7), (50, 60, 1)):
        add(study, units, score, cost)
    add(study, 60, state="FAIL")
    return definition, study


def test_of_two_objectives_the_front_comes_first_and_all_of_it_are_finalists(
    weighed: tuple[SweepSpec, optuna.Study],
) -> None:
    found = found_in(*weighed)
    board = found.leaderboard
    assert board["trial"].tolist() == [1, 2, 4, 3, 0, 5]
    assert board["on_front"].tolist() == [True, True, True, False, False, False]
    assert board["latency_ms"].tolist()[:5] == [9, 5, 1, 7, 6]
    assert [finalist.number for finalist in found.finalists] == [1, 2, 4]


def test_of_two_objectives_the_front_is_written_and_what_left_it_is_gone(
    weighed: tuple[SweepSpec, optuna.Study],
) -> None:
    definition, study = weighed
    folder = definition.folder / "front"
    files = write_outcome(definition, found_in(definition, study))
    assert sorted(path.name for path in folder.iterdir()) == [f"trial-000{number}.yaml" for number in (1, 2, 4)]
    assert set(files) == {*folder.iterdir(), definition.folder / "best.yaml", definition.folder / "leaderboard.csv"}
    assert load_params(folder / "trial-0002.yaml").model.lstm_units == 30
    assert load_params(definition.folder / "best.yaml") == load_params(folder / "trial-0001.yaml")
    add(study, 70, 81, 4)
    write_outcome(definition, found_in(definition, study))
    assert sorted(path.name for path in folder.iterdir()) == [f"trial-000{number}.yaml" for number in (1, 4, 6)]


def test_of_two_objectives_the_confirmed_of_the_front_comes_first(weighed: tuple[SweepSpec, optuna.Study]) -> None:
    definition, study = weighed
    confirm(definition, study, 1, (50.0, RIGHT), (52.0, RIGHT))
    confirm(definition, study, 2, (60.0, RIGHT), (62.0, RIGHT))
    found = found_in(definition, study)
    assert [(each.number, each.score) for each in found.finalists] == [(2, 61), (1, 51), (4, 60)]
    assert found.leaderboard["trial"].tolist() == [2, 1, 4, 3, 0, 5]


# --- files and rows


@pytest.mark.parametrize("confirmed", [False, True])
def test_applying_the_best_gives_exactly_its_parameters(confirmed: bool, tmp_path: Path) -> None:
    text = SWEEP.replace("study: s", "study: s\nfixed: {train.clip_norm: , train.learning_rate: 1.0e-5}")
    definition = make_definition(tmp_path, text)
    study = open_study(definition)
    add(study, 20, 90)
    if confirmed:
        confirm(definition, study, 0, (70.0, RIGHT), (72.0, RIGHT))
    found = found_in(definition, study)
    write_outcome(definition, found)
    best, params = definition.folder / "best.yaml", found.finalists[0].params
    assert with_overrides(Params(), read_overrides(best)) == params
    assert load_params(best) == params
    seeds = ", ".join(map(str, params.train.seeds))
    score = 71.0 if confirmed else 90.0
    comment = f"# Trial 0 of the study s: dev accuracy {score}, mean of seeds {seeds}; 90.0 in the search.\n"
    assert best.read_text().startswith(comment)
    assert pd.read_csv(definition.folder / "leaderboard.csv")["trial"].tolist() == [0]


def tried(study: optuna.Study, score: float, **distributions: tuple[Any, list[Any]]) -> None:
    """A trial with these values, each one of a list."""
    names = {name.replace("__", "."): name for name in distributions}
    params = {key: distributions[name][0] for key, name in names.items()}
    study.add_trial(
        create_trial(
            value=score,
            params=params,
            distributions={key: CategoricalDistribution(distributions[name][1]) for key, name in names.items()},
            user_attrs={"seed": 1, FOUND: {"overrides": params}},
        )
    )


def test_values_that_only_some_trials_have_stand_where_they_were_tried(tmp_path: Path) -> None:
    definition = make_definition(tmp_path, GRID)
    study, kinds = open_study(definition), ["zhou", "max", "structured"]
    tried(study, 0.0, model__attention__kind=("zhou", kinds))
    tried(study, 1.0, model__attention__kind=("structured", kinds), model__attention__hops=(4, [2, 4]))
    board = found_in(definition, study).leaderboard
    assert board[KIND].tolist() == ["structured", "zhou"]
    assert board[HOPS].isna().tolist() == [False, True]
    assert board[HOPS].iloc[0] == 4


def test_none_that_was_tried_is_told_from_what_was_not_also_in_the_file(tmp_path: Path) -> None:
    text = """
study: n
metric: accuracy
space: {model.merge: [sum, concat], train.clip_norm: {values: [1.0, null], when: {model.merge: sum}}}
"""
    definition = make_definition(tmp_path, text)
    study, merges, norms = open_study(definition), ["sum", "concat"], [1.0, None]
    tried(study, 3.0, model__merge=("sum", merges), train__clip_norm=(None, norms))
    tried(study, 2.0, model__merge=("sum", merges), train__clip_norm=(1.0, norms))
    tried(study, 1.0, model__merge=("concat", merges))
    found = found_in(definition, study)
    assert found.leaderboard["train.clip_norm"].tolist()[:2] == ["none", 1.0]
    assert pd.isna(found.leaderboard["train.clip_norm"].iloc[2])
    assert found.finalists[0].params.train.clip_norm is None
    write_outcome(definition, found)
    board = pd.read_csv(definition.folder / "leaderboard.csv")
    assert board["train.clip_norm"].isna().tolist() == [False, False, True]
    assert board["train.clip_norm"].tolist()[:2] == ["none", "1.0"]


def test_what_was_tried_again_has_one_row(study: optuna.Study, definition: SweepSpec) -> None:
    add(study, 5, state="FAIL", reason=DIED)
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={REPLACES: [0]}))
    study.ask()
    found = found_in(definition, study)
    assert found.leaderboard[["trial", "reason"]].values.tolist() == [[1, DIED]]
    assert numbers(study.trials) == [0, 1, 2]


# --- named experiments as text

CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "train.seeds": st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4, unique=True),
        "train.clip_norm": st.none() | st.floats(1e-9, 100),
        "train.learning_rate": st.floats(1e-12, 100),
        "embeddings.max_words": st.none() | st.integers(1, 99),
        "data.test": st.none() | st.text(max_size=9),
        "data.folder": st.text(max_size=9) | st.sampled_from(["no", "1", "1e3", "null", "~", "a: b", " x", "#y"]),
        "model.entity_states": st.booleans(),
        "model.attention.kind": st.sampled_from(["max", "structured"]),
    },
)


@settings(deadline=None, max_examples=60)
@given(changes=CHANGES)
def test_a_named_experiment_as_text_is_read_as_what_it_was(changes: dict[str, Any], tmp_path_factory: Any) -> None:
    params = with_overrides(Params(), changes)
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(config_text(params, "what it is"), encoding="utf-8")
    assert with_overrides(Params(), read_overrides(path)) == params
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# what it is\n")
    usual = flatten(Params())
    changed = {key for key, value in changes.items() if usual[key] != value}
    assert all((f"{key.rpartition('.')[2]}:" in text) == (key in changed) for key in changes)


def test_the_text_of_an_experiment_is_what_differs_lists_on_one_line() -> None:
    files = {"good (+)": "a.txt", "bad": "b.txt"}
    changes = {"data.format": "classes", "data.train": files, "data.test": None, "train.seeds": [0, 1]}
    params = with_overrides(Params(), {**changes, "train.clip_norm": None})
    assert config_text(params, "c") == (
        "# c\n"
        "data:\n  format: classes\n  train:\n    good (+): a.txt\n    bad: b.txt\n  test:\n"
        "train:\n  seeds: [0, 1]\n  clip_norm:\n"
    )
