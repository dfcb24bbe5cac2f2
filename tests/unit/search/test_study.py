"""The study of a sweep and its driver: what counts, what is retried, and that it goes on where it stopped."""

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from tests.unit.search.studies import (
    AGAINST,
    FOLDS,
    GRID,
    SWEEP,
    UNITS,
    add_trial,
    empty_study,
    make_spec,
    run_sweep,
    start_and_die,
    stored_study,
    train_units,
)

from bilstm_attention.config import Params, with_overrides
from bilstm_attention.errors import SweepError, TrainingError
from bilstm_attention.search import sweep
from bilstm_attention.search.study import (
    MAX_RETRIES,
    SweepSpec,
    begin_study,
    best_trials,
    derived_seed,
    finished_trials,
    first_attempt,
    heartbeats,
    hide_password,
    open_storage,
    recover,
    retry_trials,
    state_counts,
)
from bilstm_attention.search.sweep import TrialJob, TrialScores


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepSpec:
    monkeypatch.chdir(tmp_path)
    return make_spec(tmp_path)


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


def test_budget_is_met_exactly_over_several_starts(spec: SweepSpec) -> None:
    assert len(finished_trials(run_sweep(spec, 3))) == 3
    assert len(finished_trials(run_sweep(spec, 2))) == 3
    study = run_sweep(spec, 5)
    assert states(study) == ["COMPLETE"] * 5
    # the first has the current value, and no two draw the same
    assert study.trials[0].params == {UNITS: 100}
    assert len({trial.params[UNITS] for trial in study.trials}) == 5
    assert len({trial.user_attrs["seed"] for trial in study.trials}) == 5


def test_same_sweep_draws_the_same_trials_in_one_start_or_several(tmp_path: Path) -> None:
    params = []
    for name, budgets in (("one", [4]), ("two", [2, 4])):
        (tmp_path / name).mkdir()
        for budget in budgets:
            study = run_sweep(make_spec(tmp_path / name), budget)
        params.append([(trial.params, trial.user_attrs["seed"]) for trial in study.trials])
    assert params[0] == params[1]
    # as every version before
    assert [units[UNITS] for units, _ in params[0]] == [100, 817, 194, 684]


def test_grid_tries_every_cell_once(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, GRID)
    run_sweep(spec, 3)
    cells = [trial.params for trial in finished_trials(run_sweep(spec, 8))]
    assert len(cells) == len(spec.space.grid()) == 8
    assert all(cell in cells for cell in spec.space.grid())


@pytest.mark.parametrize(("patience", "trials"), [(2, 3), (3, 7), (9, 8)])
def test_sweep_stops_without_a_better_trial(
    patience: int, trials: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    # equal is not better, and neither is a failure
    scores = iter([70.0, 70.0, None, 80.0, 1.0, 2.0, 3.0, 4.0])

    def train(*arguments: Any) -> TrialScores:
        if (score := next(scores)) is None:
            raise ValueError("no score")
        return TrialScores({"accuracy": score}, 1)

    spec = make_spec(tmp_path, f"{SWEEP}stop: {{patience: {patience}}}\n")
    run_sweep(spec, 2, train)
    assert len(finished_trials(run_sweep(spec, 8, train))) == trials
    line = f"stopped: no better trial among the last {patience}\n"
    assert (line in capsys.readouterr().out) == (trials < 8)
    # more patience goes on: it is no part of the study
    assert not sweep.out_of_patience(make_spec(tmp_path), stored_study(spec))


def test_hours_that_are_over_start_no_trial(spec: SweepSpec) -> None:
    assert finished_trials(run_sweep(spec, 3, seconds=-1)) == []


def test_another_space_or_other_params_are_refused(spec: SweepSpec, tmp_path: Path) -> None:
    run_sweep(spec, 1)
    with pytest.raises(SweepError, match=r"sweep\.space\.model\.lstm_units\.high: 1000, now 900"):
        begin_study(make_spec(tmp_path, SWEEP.replace("high: 1000", "high: 900")))
    with pytest.raises(SweepError, match=r"params\.train\.batch_size: \d+, now 5"):
        begin_study(make_spec(tmp_path, **{"train.batch_size": 5}))
    # each trial has a seed of its own
    other = with_overrides(spec.space.base, {"train.seeds": [7]})
    begin_study(replace(spec, space=replace(spec.space, base=other)))
    # how the best are confirmed is no part of the search
    begin_study(make_spec(tmp_path, SWEEP.replace("top: 2", "top: 3")))


def test_failed_training_is_a_trial_with_its_reason(spec: SweepSpec) -> None:
    errors = iter([None, ZeroDivisionError("by zero\nand more"), None])

    def fail_second(*arguments: Any) -> TrialScores:
        if error := next(errors):
            raise error
        return train_units(*arguments)

    lines: list[int] = []
    study = run_sweep(spec, 3, fail_second, on_trial=lambda trial: lines.append(trial.number))
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[1].user_attrs["reason"] == "ZeroDivisionError: by zero"
    assert lines == [0, 1, 2]


def test_sweep_ends_when_its_first_trials_all_fail(spec: SweepSpec) -> None:
    with pytest.raises(SweepError, match="the first 3 trials failed: trial 0: ValueError: no luck; trial 1"):
        run_sweep(spec, 9, Mock(side_effect=ValueError("no luck")))


def test_bad_trial_is_pruned(tmp_path: Path) -> None:
    study = run_sweep(make_spec(tmp_path, SWEEP.replace("kind: none", "kind: median")), 20)
    assert set(states(study)) == {"COMPLETE", "PRUNED"}
    assert len(study.trials) == 20
    assert all(trial.system_attrs["result"]["history"] for trial in study.trials)
    # optuna-dashboard shows these in full
    assert {name for trial in study.trials for name in trial.user_attrs} == {"seed"}


def test_trial_is_the_mean_of_its_folds(tmp_path: Path) -> None:
    seeds = []

    def train(job: TrialJob, *arguments: Any) -> TrialScores:
        seeds.append(job.seed)
        return train_units(job, *arguments)

    (trial,) = run_sweep(make_spec(tmp_path, FOLDS), 1, train).trials
    # 100 units: folds score 3, 6 and 9
    assert trial.values == [6.0]
    assert trial.intermediate_values == {1: 3.0, 2: 4.5, 3: 6.0}
    assert trial.system_attrs["result"] == {
        "history": [{"epoch": 1, "dev_accuracy": 5.0}, {"epoch": 2, "dev_accuracy": 6.0}],
        "dev": {"accuracy": 6.0},
        "best_epoch": 2,
        "dev_by_fold": [{"accuracy": 3.0}, {"accuracy": 6.0}, {"accuracy": 9.0}],
    }
    assert seeds == [trial.user_attrs["seed"]] * 3


@pytest.mark.parametrize("kind", ["median", "hyperband"])
def test_trial_is_pruned_between_folds_and_not_after_the_last(kind: str, tmp_path: Path) -> None:
    def train(job: TrialJob, params: Params, root: Path, on_epoch: Any) -> TrialScores:
        # bad trials differ in the last fold alone, or already in the first
        last, units = root == job.spec.roots[-1], params.model.lstm_units
        return TrialScores({"accuracy": float(units if last or units < 500 else 1000)}, 1)

    study = run_sweep(make_spec(tmp_path, FOLDS.replace("kind: none", f"kind: {kind}")), 30, train)
    folds: dict[TrialState, set[int]] = {}
    for trial in study.trials:
        folds.setdefault(trial.state, set()).add(len(trial.system_attrs["result"]["dev_by_fold"]))
    assert folds.pop(TrialState.COMPLETE) == {3}
    assert folds.keys() == {TrialState.PRUNED}
    assert folds[TrialState.PRUNED] <= {1, 2}


def test_hyperband_counts_folds_instead_of_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruner = Mock()
    monkeypatch.setattr(optuna.pruners, "HyperbandPruner", pruner)
    for text, steps in ((SWEEP, 9), (FOLDS.replace("study: s", "study: f"), 3)):
        begin_study(make_spec(tmp_path, text.replace("kind: none", "kind: hyperband"), **{"train.epochs": 9}))
        pruner.assert_called_with(max_resource=steps)


def test_failed_fold_is_named_and_keeps_those_before(tmp_path: Path) -> None:
    def fail(job: TrialJob, params: Params, root: Path, on_epoch: Any) -> TrialScores:
        if root == job.spec.roots[1]:
            raise ValueError("no luck")
        return train_units(job, params, root, on_epoch)

    (trial,) = run_sweep(make_spec(tmp_path, FOLDS), 1, fail).trials
    assert (trial.state, trial.user_attrs["reason"]) == (TrialState.FAIL, "ValueError: no luck")
    result = trial.system_attrs["result"]
    assert (result["dev_by_fold"], "dev" in result) == ([{"accuracy": 3.0}], False)


def test_cost_of_folds_is_that_of_the_last(tmp_path: Path) -> None:
    text = AGAINST + FOLDS.removeprefix(SWEEP)
    assert run_sweep(make_spec(tmp_path, text), 1).trials[0].values == [6.0, 2900.0]


def test_heartbeats_go_on_after_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beats, again = list[int](), threading.Event()

    def record(trial_id: int) -> None:
        beats.append(trial_id)
        if len(beats) == 1:
            raise StorageInternalError("gone")
        again.set()

    storage = Mock(record_heartbeat=record, get_trial_id_from_study_id_trial_number=lambda study, number: 70 + number)
    monkeypatch.setattr("bilstm_attention.search.study.open_storage", lambda *arguments: storage)
    spec = replace(make_spec(tmp_path), heartbeat=0.01)  # type: ignore[arg-type]
    with heartbeats(spec, [4]):
        # a local study has a lock instead
        assert not again.wait(0.1)
    with heartbeats(replace(spec, storage="sqlite:///far.db"), [4]):
        assert again.wait(60)
    assert set(beats) == {74}


@pytest.mark.filterwarnings("error::UserWarning", "error::optuna.exceptions.ExperimentalWarning")
def test_trial_in_a_database_warns_of_nothing(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, storage=f"sqlite:///{tmp_path}/studies.db")
    study = run_sweep(spec, 1)
    assert states(study) == ["COMPLETE"]
    # as two machines do that SQLite let take one trial from the queue
    number = study.ask().number
    for score in (1.0, 2.0):
        optuna.Trial(study, spec.trial_id(number)).report(score, 1)
    assert study.trials[number].intermediate_values == {1: 1.0}


def test_crashed_worker_has_its_trial_retried_at_once(spec: SweepSpec) -> None:
    lost: list[int] = []

    def crash_second(next_job: Callable[[], TrialJob | None], work: Any, workers: int, answer: Any) -> Any:
        while (job := next_job()) is not None:
            if job.number == 1:
                lost.append(job.number)
                yield job, TrainingError("its worker was killed")
            else:
                yield job, work(job, partial(answer, job))

    study = run_sweep(spec, 4, execute=crash_second)
    finished = finished_trials(study)
    assert [trial.state for trial in finished] == [TrialState.COMPLETE] * 4
    (retried,) = (trial for trial in finished if first_attempt(trial) != trial.number)
    assert [first_attempt(retried)] == lost
    assert retried.params == study.trials[1].params
    # the seed of the first attempt, so that a kill changes no result
    assert retried.user_attrs["seed"] == derived_seed(3, 1)


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
@pytest.mark.parametrize("database", [False, True])
def test_trial_killed_before_its_first_heartbeat_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = make_spec(tmp_path, storage=f"sqlite:///{tmp_path}/studies.db" if database else None)
    run_sweep(spec, 1)
    number = start_and_die(stored_study(spec))
    # else it would wait for the trial without end
    study = run_sweep(spec, 3, seconds=60)
    assert len(finished_trials(study)) == 3
    assert study.trials[number].state == TrialState.FAIL
    assert number in map(first_attempt, finished_trials(study))


@pytest.mark.parametrize(
    ("begun", "message"),
    [
        (False, "workers end before they begin a trial; of the last, its worker was killed"),
        (True, f"the first 3 trials failed: trial {MAX_RETRIES}: its worker died; trial "),
    ],
)
def test_workers_that_always_die_end_the_sweep(spec: SweepSpec, begun: bool, message: str) -> None:
    def crash(next_job: Callable[[], TrialJob | None], work: Any, workers: int, answer: Any) -> Any:
        while (job := next_job()) is not None:
            if begun:
                answer(job, None)
            yield job, TrainingError("its worker was killed")

    with pytest.raises(SweepError, match=message):
        run_sweep(spec, 4, execute=crash)
    assert ("FAIL" in {trial.state.name for trial in finished_trials(stored_study(spec))}) == begun


def test_interrupted_trials_are_enqueued_again(spec: SweepSpec) -> None:
    def interrupt(next_job: Callable[[], TrialJob | None], *arguments: Any) -> Any:
        next_job()
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        run_sweep(spec, 4, execute=interrupt)
    assert states(stored_study(spec)) == ["FAIL", "WAITING"]


def test_retries_end_and_the_trial_then_counts(spec: SweepSpec) -> None:
    study = empty_study(spec)
    for _ in range(MAX_RETRIES + 1):
        start_and_die(study)
        recover(study)
        # once more changes nothing
        recover(study)
    assert len(study.trials) == MAX_RETRIES + 1
    (failed,) = finished_trials(study)
    assert (failed.number, first_attempt(failed)) == (MAX_RETRIES, 0)
    assert len({trial.params[UNITS] for trial in study.trials}) == 1


def test_recovery_that_was_killed_halfway_is_completed(spec: SweepSpec) -> None:
    study = empty_study(spec)
    study.tell(start_and_die(study), state=TrialState.FAIL)
    add_trial(study, 5, state="FAIL", reason="a training that failed is not retried")
    recover(study)
    recover(study)
    assert states(study) == ["FAIL", "FAIL", "WAITING"]
    assert first_attempt(study.trials[2]) == 0


@pytest.mark.parametrize("moment", ["in an epoch", "before its value is stored", "by another worker"])
def test_trial_that_another_process_ended_is_dropped(
    moment: str, spec: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_over(*_: object) -> None:
        # which ends the trial without calling this again
        monkeypatch.setattr(optuna.samplers.RandomSampler, "after_trial", Mock())
        retry_trials(stored_study(spec), [0])

    def train(*arguments: Any) -> TrialScores:
        if moment == "in an epoch":
            take_over()
        elif moment == "by another worker":
            stored_study(spec).tell(0, 5.0)
        return train_units(*arguments)

    if moment == "before its value is stored":
        monkeypatch.setattr(optuna.samplers.RandomSampler, "after_trial", take_over)
    told: list[int] = []
    study = run_sweep(spec, 1, train, on_trial=lambda trial: told.append(trial.number))
    assert states(study) == (["COMPLETE"] if moment == "by another worker" else ["FAIL", "COMPLETE"])
    assert told == ([] if moment == "by another worker" else [1])
    # once more changes nothing
    retry_trials(study, [0])
    assert len(study.trials) == len(told) + 1


def test_no_trial_begins_once_others_fill_the_budget(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, storage=f"sqlite:///{tmp_path}/studies.db")
    study = begin_study(spec)
    add_trial(study, 5, 1.0)
    start_and_die(study)
    assert len(run_sweep(spec, 2, seconds=0.5).trials) == 2


def test_best_trials_are_ordered_and_distinct(tmp_path: Path) -> None:
    study = empty_study(make_spec(tmp_path))
    for units, score in ((5, 70), (6, 80), (7, 80), (6, 75)):
        add_trial(study, units, score)
    add_trial(study, 9, state="PRUNED")
    assert [trial.number for trial in best_trials(study)] == [1, 2, 0]
    assert state_counts(study) == {"complete": 4, "pruned": 1, "failed": 0, "running": 0, "waiting": 0}


def test_with_two_objectives_the_best_are_the_pareto_front(tmp_path: Path) -> None:
    study = run_sweep(make_spec(tmp_path, AGAINST), 2)
    assert all(len(trial.values) == 2 for trial in study.trials)
    for units, *values in ((5, 99, 5), (6, 98, 4), (7, 97, 6)):
        add_trial(study, units, *values)
    best = {trial.number for trial in best_trials(study)}
    assert ({2, 3} <= best, 4 in best) == (True, False)


def test_storage_that_cannot_be_opened_is_one_line_without_password() -> None:
    with pytest.raises(SweepError) as caught:
        open_storage("postgresql+psycopg://user:secret@127.0.0.1:1/none", 60)
    assert "secret" not in str(caught.value)
    assert "the database does not answer" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(SweepError, match="not a database URL"):
        open_storage("my secret", 60)
    assert hide_password("postgresql://u:p@h/n?password=q") == "postgresql://u:***@h/n"


def test_storage_that_fails_later_says_that_the_same_command_goes_on(spec: SweepSpec) -> None:
    def damage(*arguments: Any) -> TrialScores:
        (spec.folder / "study.db").write_bytes(b"no database" * 1000)
        return train_units(*arguments)

    with pytest.raises(SweepError, match="the same command goes on"):
        run_sweep(spec, 3, damage)


def test_second_process_is_kept_from_a_study(spec: SweepSpec) -> None:
    with spec.lock(), pytest.raises(SweepError, match="runs already"), spec.lock():
        pass
