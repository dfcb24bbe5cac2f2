"""A trial and a confirmation, whatever their training does: the study holds what came of it, and nothing is raised."""

import math
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from tests.made_studies import AGAINST, GRID, RIGHT, SWEEP, UNITS, in_state, make_definition, numbers

from bilstm_attention.errors import SweepError, TrainingError
from bilstm_attention.search import trials
from bilstm_attention.search.study import REPLACES, SweepSpec, counted, derived_seed, end_dead, open_study, running
from bilstm_attention.search.trials import FOUND, Job, confirm, confirmation, confirmed_model, run_trial, worker_name

TASK: Any = SimpleNamespace(dev=SimpleNamespace(answers=RIGHT))
Fit = Callable[..., Any]


def fit(model: Any, train: Any, task: Any, seed: int, on_epoch: Callable[[dict[str, Any]], None]) -> Any:
    """Trains two epochs; the score is the number of units."""
    for epoch in (1, 2):
        on_epoch({"epoch": epoch, "dev_accuracy": float(model.lstm_units), "loss": math.nan})
    return SimpleNamespace(model="model", dev={"accuracy": float(model.lstm_units)}, best_epoch=2)


def save(model: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(model)


@pytest.fixture
def trained_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fit], None]:
    """Has trainings done by a function, and TensorFlow not loaded."""

    def act(function: Fit) -> None:
        rooms = {
            "training": SimpleNamespace(fit=function),
            "prediction": SimpleNamespace(predict=lambda model, dev: np.eye(2)[dev.answers]),
            "cost": SimpleNamespace(cost=lambda kind, model, dev: 1.5),
        }
        for name, room in rooms.items():
            monkeypatch.setitem(sys.modules, f"bilstm_attention.experiment.{name}", room)
        classifier = SimpleNamespace(save_classifier=lambda model, path: save(str(model), path))
        monkeypatch.setitem(sys.modules, "bilstm_attention.model.classifier", classifier)

    act(fit)
    return act


def failing(error: Exception) -> Fit:
    def act(*given: Any, on_epoch: Callable[[dict[str, Any]], None]) -> Any:
        on_epoch({"epoch": 1, "dev_accuracy": 10.0})
        raise error

    return act


@pytest.fixture(params=["journal", "database"])
def definition(request: pytest.FixtureRequest, tmp_path: Path, trained_by: Any) -> SweepSpec:
    storage = f"sqlite:///{tmp_path}/studies.db" if request.param == "database" else None
    return make_definition(tmp_path, storage=storage)


@pytest.fixture
def local(tmp_path: Path, trained_by: Any) -> SweepSpec:
    return make_definition(tmp_path)


def test_a_trial_that_ends_well_has_all_that_is_known_of_it(definition: SweepSpec) -> None:
    assert run_trial(definition, 1, TASK) == 0
    [trial] = open_study(definition).trials
    units, found = trial.params[UNITS], trial.user_attrs[FOUND]
    assert (trial.state, trial.value) == (TrialState.COMPLETE, units)
    assert (found["overrides"], found["dev"], found["best_epoch"]) == ({UNITS: units}, {"accuracy": units}, 2)
    assert [row["epoch"] for row in found["history"]] == [1, 2]
    # what is no number comes back as it was
    assert all(math.isnan(row["loss"]) for row in found["history"])
    assert 0 < found["seconds"] < 60
    assert trial.user_attrs["seed"] == derived_seed(3, 0)
    assert trial.user_attrs["worker"] == f"{socket.gethostname()}:{os.getppid()}:{os.getpid()}"
    assert trial.intermediate_values == {1: units, 2: units}


def test_workers_of_parents_whose_numbers_begin_alike_have_different_names() -> None:
    assert not worker_name(123, 7).startswith(worker_name(12, 0).removesuffix("0"))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TrainingError("epoch 1: the loss is nan; lower train.learning_rate."), "epoch 1: the loss is nan; lower "),
        (MemoryError("no room\nfor 7"), "MemoryError: no room"),
        (ZeroDivisionError(), "ZeroDivisionError: no reason given"),
    ],
)
def test_a_training_that_fails_is_the_outcome_of_its_trial(
    error: Exception, reason: str, local: SweepSpec, trained_by: Any
) -> None:
    trained_by(failing(error))
    assert run_trial(local, 1, TASK) == 0
    [trial] = counted(open_study(local))
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["reason"].startswith(reason)
    assert "\n" not in trial.user_attrs["reason"]
    assert trial.user_attrs[FOUND]["overrides"] == trial.params
    assert len(trial.user_attrs[FOUND]["history"]) == 1


def test_a_trial_that_is_given_up_keeps_its_curve(local: SweepSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: True)
    run_trial(local, 1, TASK)
    [trial] = counted(open_study(local))
    assert trial.state == TrialState.PRUNED
    assert "reason" not in trial.user_attrs
    assert [row["epoch"] for row in trial.user_attrs[FOUND]["history"]] == [1]


def test_with_two_objectives_a_trial_has_both_and_is_never_given_up(
    tmp_path: Path, trained_by: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: True)
    definition = make_definition(tmp_path, AGAINST)
    run_trial(definition, 1, TASK)
    [trial] = open_study(definition).trials
    assert (trial.state, trial.values) == (TrialState.COMPLETE, [trial.params[UNITS], 1.5])


def test_a_score_that_is_no_number_fails_its_trial(local: SweepSpec, trained_by: Any) -> None:
    trained_by(lambda *given, **more: SimpleNamespace(model=None, dev={"accuracy": math.nan}, best_epoch=1))
    assert run_trial(local, 1, TASK) == 0
    assert [trial.state for trial in counted(open_study(local))] == [TrialState.FAIL]


# --- one too many


def test_a_trial_that_is_one_too_many_is_not_trained_and_does_not_count(definition: SweepSpec, trained_by: Any) -> None:
    run_trial(definition, 1, TASK)
    trained_by(lambda *given, **more: pytest.fail("trained"))
    assert run_trial(definition, 1, TASK) is None
    study = open_study(definition)
    assert (numbers(counted(study)), len(study.trials)) == ([0], 2)
    assert in_state(study, "WAITING") == in_state(study, "RUNNING") == []


def test_what_was_put_down_and_is_one_too_many_waits_for_a_larger_budget(tmp_path: Path, trained_by: Any) -> None:
    """Or a grid that several machines try would have holes."""
    definition = make_definition(tmp_path, GRID.replace("study: g", "study: g\nmetric: accuracy"))
    study = open_study(definition)
    for chosen in definition.space.grid():
        study.enqueue_trial(chosen)
    run_trial(definition, 1, TASK)
    assert [run_trial(definition, 1, TASK) for _ in range(3)] == [None] * 3
    while in_state(study, "WAITING"):
        run_trial(definition, 8, TASK)
    tried = [trial.params for trial in counted(study)]
    assert sorted(map(str, map(sorted, map(dict.items, tried)))) == sorted(
        str(sorted(chosen.items())) for chosen in definition.space.grid()
    )


# --- trials that died


def test_a_trial_that_is_tried_again_has_the_seed_and_so_the_score_of_the_first(local: SweepSpec) -> None:
    study = open_study(local)
    for _ in range(2):
        study.ask().suggest_int(UNITS, 1, 1000)
        end_dead(study, running(study))
    run_trial(local, 5, TASK)
    [trial] = counted(study)
    assert (trial.user_attrs[REPLACES], trial.user_attrs["seed"]) == ([0, 1], derived_seed(3, 0))
    assert trial.params == study.trials[0].params


def test_a_trial_that_others_took_for_dead_ends_without_a_word(definition: SweepSpec, trained_by: Any) -> None:
    """Its machine slept, say; the one that is tried in its place counts."""

    def slept(*given: Any, on_epoch: Callable[[dict[str, Any]], None]) -> Any:
        on_epoch({"epoch": 1, "dev_accuracy": 1.0})
        study = open_study(definition)
        end_dead(study, running(study))
        on_epoch({"epoch": 2, "dev_accuracy": 1.0})
        pytest.fail("went on")

    trained_by(slept)
    assert run_trial(definition, 3, TASK) is None
    trained_by(fit)
    assert run_trial(definition, 3, TASK) == 1
    [trial] = counted(open_study(definition))
    assert (trial.state, trial.user_attrs[REPLACES]) == (TrialState.COMPLETE, [0])


def test_a_trial_that_others_took_for_dead_in_its_last_moment_ends_without_a_word(
    definition: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, study = optuna.Trial.set_user_attr, open_study(definition)

    def late(trial: optuna.Trial, key: str, value: Any) -> None:
        given(trial, key, value)
        if key == FOUND:
            end_dead(study, running(study))

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "set_user_attr", late)
        assert run_trial(definition, 3, TASK) is None
    assert run_trial(definition, 3, TASK) == 1
    assert [trial.state for trial in counted(study)] == [TrialState.COMPLETE]


def test_a_trial_of_a_database_has_a_sign_of_life_before_a_name(
    tmp_path: Path, trained_by: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that dies with a name and without the sign would be waited for without end."""
    definition = make_definition(tmp_path, storage=f"sqlite:///{tmp_path}/studies.db")
    record, given, alive = RDBStorage.record_heartbeat, optuna.Trial.set_user_attr, list[int]()

    def recorded(storage: RDBStorage, trial: int) -> None:
        record(storage, trial)
        alive.append(trial)

    monkeypatch.setattr(RDBStorage, "record_heartbeat", recorded)
    # the thread that records them is slow to start
    for name in ("start", "join"):
        monkeypatch.setattr(f"optuna.storages._heartbeat.HeartbeatThread.{name}", lambda thread: None)

    def named(trial: optuna.Trial, key: str, value: Any) -> None:
        assert alive == [trial._trial_id]
        given(trial, key, value)

    monkeypatch.setattr(optuna.Trial, "set_user_attr", named)
    assert run_trial(definition, 1, TASK) == 0


def outage(*given: Any, **more: Any) -> Any:
    raise StorageInternalError("the database is away")


def test_a_trial_that_an_outage_of_the_database_cuts_off_is_tried_again(definition: SweepSpec, trained_by: Any) -> None:
    trained_by(outage)
    run_trial(definition, 1, TASK)
    study = open_study(definition)
    assert counted(study) == []
    trained_by(fit)
    assert run_trial(definition, 1, TASK) == 1
    [trial] = counted(study)
    assert (trial.params, trial.user_attrs["seed"]) == (study.trials[0].params, derived_seed(3, 0))


def test_an_outage_before_a_trial_has_its_name_fails_none(
    local: SweepSpec, monkeypatch: pytest.MonkeyPatch, trained_by: Any
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "set_user_attr", outage)
        run_trial(local, 1, TASK)
    assert run_trial(local, 1, TASK) == 1
    assert [trial.state for trial in counted(open_study(local))] == [TrialState.COMPLETE]


@pytest.mark.parametrize("comes_back", [False, True])
def test_an_outage_at_the_end_of_a_trial_is_known_as_one(
    comes_back: bool, local: SweepSpec, monkeypatch: pytest.MonkeyPatch, trained_by: Any
) -> None:
    storage = type(open_study(local)._storage)
    tell = storage.set_trial_state_values

    def end(store: Any, number: int, state: TrialState, *given: Any, **more: Any) -> bool:
        if not state.is_finished():
            return tell(store, number, state, *given, **more)
        if not comes_back:
            monkeypatch.setattr(storage, "get_trial", outage)
        return outage()

    monkeypatch.setattr(storage, "set_trial_state_values", end)
    with pytest.raises(StorageInternalError):
        run_trial(local, 1, TASK)


@pytest.mark.parametrize("job", [Job(budget=1), Job(number=0, seed=5, overrides=((UNITS, 7),))])
@pytest.mark.parametrize("error", [StorageInternalError, SweepError])
def test_without_its_database_a_worker_ends_with_a_line_and_a_cluster_is_told(
    error: type[Exception], job: Job, tmp_path: Path, trained_by: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = make_definition(tmp_path, storage="sqlite:///x")

    def away(definition: SweepSpec) -> None:
        raise error("the database is away")

    monkeypatch.setattr(trials, "start_tensorflow", lambda: None)
    monkeypatch.setattr(trials, "_task", lambda: TASK)
    monkeypatch.setattr(trials, "open_study", away)
    with pytest.raises(SystemExit) as caught:
        trials.do(definition, job)
    line = str(caught.value.code)
    assert line.startswith("a worker ends: ")
    assert line.endswith("the database is away")
    with pytest.raises(SweepError, match="the database is away"):
        trials.do(definition, job, TASK)


# --- confirmations


def test_a_confirmation_keeps_its_scores_and_answers_in_the_study(definition: SweepSpec) -> None:
    assert confirm(definition, Job(number=4, seed=11, overrides=((UNITS, 7),)), TASK, keep=False) == 4
    [(key, found)] = open_study(definition).user_attrs.items()
    assert key == confirmation(4, 11) == "trial 4 with seed 11"
    assert found.pop("seconds") >= 0
    assert found == {"dev": {"accuracy": 7.0}, "answers": RIGHT}


def test_the_model_of_a_confirmation_is_kept_where_asked(local: SweepSpec) -> None:
    for number, keep in ((4, True), (5, False)):
        confirm(local, Job(number=number, seed=11, overrides=((UNITS, 7),)), TASK, keep)
    kept = confirmed_model(local, 4, 11)
    assert kept == local.folder / "models/trial-0004-seed-11.keras"
    assert list(kept.parent.iterdir()) == [kept]


def test_a_full_disk_costs_the_model_of_a_confirmation_and_not_its_scores(
    local: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(sys.modules["bilstm_attention.model.classifier"], "save_classifier", full)
    confirm(local, Job(number=4, seed=11, overrides=((UNITS, 7),)), TASK, keep=True)
    assert open_study(local).user_attrs[confirmation(4, 11)]["dev"] == {"accuracy": 7.0}


def test_a_confirmation_that_fails_is_kept_with_its_reason(local: SweepSpec, trained_by: Any) -> None:
    trained_by(failing(TrainingError("the loss is nan")))
    assert confirm(local, Job(number=4, seed=11, overrides=((UNITS, 7),)), TASK, keep=False) == 4
    found = open_study(local).user_attrs[confirmation(4, 11)]
    assert (found["reason"], "dev" in found) == ("the loss is nan", False)


@pytest.mark.parametrize("job", [Job(budget=1), Job(number=0, seed=5, overrides=((UNITS, 7),))])
def test_a_worker_whose_parent_has_ended_ends_after_the_epoch(
    job: Job, local: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(BaseException):
        pass

    def leave(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(trials, "start_tensorflow", lambda: None)
    monkeypatch.setattr("bilstm_attention.search.workers.orphaned", lambda: True)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(Ended):
        trials.do(local, job, TASK)
    study = open_study(local)
    assert counted(study) == []
    assert confirmation(0, 5) not in study.user_attrs


def test_a_pruner_sees_the_metric_of_the_sweep_by_epoch(tmp_path: Path, trained_by: Any) -> None:
    def rising(model: Any, train: Any, task: Any, seed: int, on_epoch: Callable[[dict[str, Any]], None]) -> Any:
        for epoch in (1, 2, 3):
            on_epoch({"epoch": epoch, "dev_accuracy": 10.0 * epoch, "dev_macro_f1": 1.0 * epoch})
        return SimpleNamespace(model="model", dev={"accuracy": 30.0, "macro_f1": 3.0}, best_epoch=3)

    trained_by(rising)
    definition = make_definition(tmp_path, SWEEP.replace("metric: accuracy", "metric: macro_f1"))
    run_trial(definition, 1, TASK)
    [trial] = open_study(definition).trials
    assert (trial.intermediate_values, trial.value) == ({1: 1.0, 2: 2.0, 3: 3.0}, 3.0)
