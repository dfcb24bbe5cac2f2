"""The study of a sweep: what counts, what is best, what is drawn, what is one too many, what is tried again."""

import pickle
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from tests.made_studies import AGAINST, SWEEP, UNITS, add, in_state, make_definition, numbers

from bilstm_attention.search.study import (
    CONFIRMATIONS,
    DIED,
    REPLACES,
    RETRIES,
    SAMPLERS,
    SURPLUS,
    SweepSpec,
    best_trials,
    counted,
    derived_seed,
    end_dead,
    is_surplus,
    open_study,
    running,
    try_again,
)


@pytest.fixture
def definition(tmp_path: Path) -> SweepSpec:
    return make_definition(tmp_path)


@pytest.fixture
def study(definition: SweepSpec) -> optuna.Study:
    return open_study(definition)


def wait_again(study: optuna.Study, *before: int) -> None:
    """A trial that waits to be tried in the place of those before it."""
    study.add_trial(create_trial(state=TrialState.WAITING, user_attrs={REPLACES: list(before)}))


# --- what counts, and what is best


def test_what_counts_has_ended_was_not_replaced_and_was_not_one_too_many(study: optuna.Study) -> None:
    add(study, 5, 1.0)
    add(study, 5, state="PRUNED")
    add(study, 5, state="FAIL")
    add(study, 5, state="FAIL", surplus=True)
    add(study, 5, state="FAIL")
    study.ask()
    study.ask()
    wait_again(study, 4, 5)
    assert numbers(counted(study)) == [0, 1, 2]
    assert numbers(running(study)) == [6]


def test_the_best_are_the_highest_of_equals_the_first_and_of_the_same_one(study: optuna.Study) -> None:
    for units, score in ((1, 70), (2, 90), (3, 80), (4, 90), (2, 90), (3, 60)):
        add(study, units, score)
    add(study, 9, state="PRUNED")
    assert numbers(best_trials(study)) == [1, 3, 2, 0]
    # one that was taken for dead, and ended well all the same
    wait_again(study, 1)
    assert numbers(best_trials(study)) == [3, 4, 2, 0]


def test_of_two_objectives_the_best_are_the_pareto_front_by_the_first(tmp_path: Path) -> None:
    study = open_study(make_definition(tmp_path, AGAINST))
    for units, score, cost in ((1, 70, 5), (2, 90, 9), (3, 80, 9), (4, 60, 1), (5, 69, 6), (6, 85, 7)):
        add(study, units, score, cost)
    add(study, 7, state="FAIL")
    assert numbers(best_trials(study)) == [1, 5, 0, 3]
    # one that does not count keeps none off
    add(study, 8, 95, 0)
    add(study, 9, 99, 0, surplus=True)
    assert numbers(best_trials(study)) == [7]
    wait_again(study, 7)
    assert numbers(best_trials(study)) == [1, 5, 0, 3]


# --- seeds and drawing


def test_seeds_are_distinct_and_always_the_same() -> None:
    starts = (0, CONFIRMATIONS, SAMPLERS)
    seeds = [derived_seed(study, start + number) for study in (0, 1) for start in starts for number in range(100)]
    assert len(set(seeds)) == 600
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert (derived_seed(0, 0), derived_seed(3, 10**6)) == (1484405855, 582682223)


def draws(definition: SweepSpec, count: int) -> list[int]:
    """What new trials are given, each in a study opened for it alone."""
    return [open_study(definition).ask().suggest_int(UNITS, 1, 1000) for _ in range(count)]


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_a_trial_draws_by_its_number_and_not_as_its_neighbours(kind: str, tmp_path: Path) -> None:
    text = SWEEP.replace("random", kind)
    found = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        found.append(draws(make_definition(tmp_path / name, text), 8))
    assert found[0] == found[1]
    assert len(set(found[0])) == 8


def test_a_parent_that_never_drew_ends_a_dead_trial_and_changes_no_draw(tmp_path: Path) -> None:
    found = []
    for name in ("dies", "lives"):
        (tmp_path / name).mkdir()
        definition = make_definition(tmp_path / name)
        study = open_study(definition)
        first = draws(definition, 2)
        if name == "dies":
            study.tell(1, state=TrialState.FAIL)
        found.append(first + draws(definition, 2))
    assert found[0] == found[1]


def test_a_study_of_two_objectives_maximises_the_score_and_minimises_the_cost(tmp_path: Path) -> None:
    assert [each.name for each in open_study(make_definition(tmp_path, AGAINST)).directions] == ["MAXIMIZE", "MINIMIZE"]


def test_a_definition_goes_to_workers_whole(tmp_path: Path) -> None:
    definition = make_definition(tmp_path, AGAINST, "sqlite:///x")
    assert pickle.loads(pickle.dumps(definition)) == definition


# --- one too many


@pytest.mark.parametrize(
    ("others", "too_many"),
    [
        ("CC", False),
        ("CCC", True),
        ("CPF", True),
        ("CRR", True),
        # what others do after it began is their concern
        ("CC.CC", False),
        ("CC.R", False),
        # what waits to be tried again comes first, what was only put down does not
        ("CCA", True),
        ("CC.A", False),
        ("CCW", False),
        # neither one too many nor one that is tried again counts
        ("CCSS", False),
        ("CCD.R", False),
    ],
)
def test_a_trial_is_one_too_many_after_as_many_as_the_budget(others: str, too_many: bool, study: optuna.Study) -> None:
    """C, P, F ended; R runs; W waits, A to be tried again; S was one too many; D died, and R stands for it."""
    states = {"C": "COMPLETE", "P": "PRUNED", "F": "FAIL", "S": "FAIL", "D": "FAIL", "R": "RUNNING"}
    states |= {"W": "WAITING", "A": "WAITING", ".": "RUNNING"}
    for number, letter in enumerate(others if "." in others else f"{others}."):
        attributes: dict[str, Any] = {SURPLUS: True} if letter == "S" else {REPLACES: [99]} if letter == "A" else {}
        if letter == "R" and "D" in others:
            attributes = {REPLACES: [others.index("D")]}
        given = create_trial(state=TrialState[states[letter]], value=1.0 if letter == "C" else None)
        for key, value in attributes.items():
            given.set_user_attr(key, value)
        study.add_trial(given)
        if letter == ".":
            mine = number
    assert is_surplus(study, mine, 3) == too_many


# --- trials whose worker died


def test_a_trial_that_died_is_tried_again_with_its_parameters_and_three_times_at_most(study: optuna.Study) -> None:
    study.enqueue_trial({UNITS: 7})
    study.ask()
    for time in range(1, RETRIES + 1):
        end_dead(study, running(study))
        trial = study.ask()
        assert trial.user_attrs == {REPLACES: list(range(time))}
        # also of one that died before it asked for any
        assert trial.suggest_int(UNITS, 1, 1000) == 7
        assert counted(study) == []
    end_dead(study, running(study))
    [last] = counted(study)
    assert (last.number, last.state, last.user_attrs["reason"]) == (3, TrialState.FAIL, DIED)
    assert in_state(study, "WAITING") == in_state(study, "RUNNING") == []


def test_what_a_trial_had_drawn_is_what_is_tried_again(study: optuna.Study) -> None:
    drawn = study.ask().suggest_int(UNITS, 1, 1000)
    end_dead(study, running(study))
    again = study.ask()
    assert again.params == {UNITS: drawn}
    assert again.suggest_int(UNITS, 1, 1000) == drawn


def test_a_trial_is_not_tried_twice_where_the_first_attempt_to_was_cut_off(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.ask()
    dead = running(study)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(study, "tell", killed)
        with pytest.raises(KeyboardInterrupt):
            end_dead(study, dead)
    # it is not taken for one that runs, though nobody has ended it
    assert running(study) == []
    end_dead(study, study.get_trials(states=(TrialState.RUNNING,)))
    assert (in_state(study, "WAITING"), in_state(study, "FAIL")) == ([1], [0])


def test_a_trial_that_is_ended_by_two_processes_is_tried_once(study: optuna.Study, definition: SweepSpec) -> None:
    study.ask()
    dead = running(study)
    end_dead(study, dead)
    end_dead(open_study(definition), dead)
    try_again(study, study.trials[0])
    assert len(study.trials) == 2


def test_a_trial_that_ends_while_it_is_taken_for_dead_keeps_its_score(study: optuna.Study) -> None:
    trial = study.ask()
    dead = running(study)
    study.tell(trial, 0.5)
    end_dead(study, dead)
    assert [each.value for each in counted(study)] == [0.5]
    assert len(study.trials) == 1
