"""The study of a sweep: what counts, what is retried, and that it goes on where it stopped."""

import math
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
from optuna.trial import FrozenTrial, TrialState
from tests.unit.search.studies import AGAINST, FOLDS, GRID, SWEEP, UNITS, add_trial, make_spec, run_here, train_units

from bilstm_attention.config import Params
from bilstm_attention.errors import SweepError
from bilstm_attention.search import sweep
from bilstm_attention.search.study import (
    MAX_RETRIES,
    SweepSpec,
    best_trials,
    create_study,
    derived_seed,
    finished_trials,
    first_attempt,
    heartbeats,
    hide_password,
    load_study,
    open_storage,
    recover,
    report_outages,
    retry_trials,
    state_counts,
)
from bilstm_attention.search.trial import TrialJob, TrialScores, run_trial
from bilstm_attention.search.workers import WorkerCrashed


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepSpec:
    monkeypatch.chdir(tmp_path)
    return make_spec(tmp_path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., optuna.Study]:
    """Runs a sweep in this process; `execute` replaces the worker processes."""
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0)

    def act(
        spec: SweepSpec,
        budget: int,
        train: Callable[..., Any] = train_units,
        execute: Callable[..., Any] = run_here,
        on_trial: Callable[[FrozenTrial], None] = lambda trial: None,
        seconds: float = math.inf,
    ) -> optuna.Study:
        monkeypatch.setattr(sweep, "run_jobs", execute)
        with report_outages(spec):
            study, stop = sweep.begin_study(spec), sweep.StopRequest(print)
            sweep.Driver(spec, study, budget, 1, seconds, stop, on_trial, partial(run_trial, train=train)).run()
            return study

    return act


def begin(spec: SweepSpec) -> optuna.Study:
    create_study(spec)
    return load_study(spec)


def start_and_die(study: optuna.Study, attribute: Any = None) -> int:
    """A trial that is left running, as by a killed worker."""
    trial = study.ask()
    trial.suggest_int(UNITS, 1, 1000)
    if attribute:
        trial.set_user_attr("job", [trial.number, attribute])
    return trial.number


def test_budget_is_met_exactly_over_several_starts(spec: SweepSpec, run: Callable[..., optuna.Study]) -> None:
    assert len(finished_trials(run(spec, 3))) == 3
    assert len(finished_trials(run(spec, 2))) == 3
    study = run(spec, 5)
    assert len(study.trials) == len(finished_trials(study)) == 5
    # the first has the current value, and no two draw the same
    assert study.trials[0].params == {UNITS: 100}
    assert len({trial.params[UNITS] for trial in study.trials}) == 5
    assert len({trial.user_attrs["seed"] for trial in study.trials}) == 5


def test_same_sweep_draws_the_same_trials(tmp_path: Path, run: Callable[..., optuna.Study]) -> None:
    params = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        study = run(make_spec(tmp_path / name), 4)
        params.append([(trial.params, trial.user_attrs["seed"]) for trial in study.trials])
    assert params[0] == params[1]


def test_grid_tries_every_cell_once(tmp_path: Path, run: Callable[..., optuna.Study]) -> None:
    spec = make_spec(tmp_path, GRID)
    run(spec, 3, partial(train_units))
    study = run(spec, 8)
    cells = [trial.params for trial in finished_trials(study)]
    assert len(cells) == len(spec.space.grid()) == 8
    assert all(cell in cells for cell in spec.space.grid())


@pytest.mark.parametrize(("patience", "trials"), [(2, 3), (3, 7), (9, 8)])
def test_sweep_stops_without_a_better_trial(
    patience: int, trials: int, tmp_path: Path, run: Callable[..., optuna.Study], capsys: pytest.CaptureFixture
) -> None:
    # equal is not better, and neither is a failure
    scores = iter([70.0, 70.0, None, 80.0, 1.0, 2.0, 3.0, 4.0])

    def train(*arguments: Any) -> TrialScores:
        if (score := next(scores)) is None:
            raise ValueError("no score")
        return TrialScores({"accuracy": score}, 1)

    spec = make_spec(tmp_path, f"{SWEEP}stop: {{patience: {patience}}}\n")
    run(spec, 2, train)
    assert len(finished_trials(run(spec, 8, train))) == trials
    line = f"stopped: no better trial among the last {patience}\n"
    assert (line in capsys.readouterr().out) == (trials < 8)
    # more patience goes on: it is no part of the study
    assert not sweep.out_of_patience(make_spec(tmp_path), load_study(spec))


def test_hours_that_are_over_start_no_trial(spec: SweepSpec, run: Callable[..., optuna.Study]) -> None:
    assert finished_trials(run(spec, 3, seconds=-1)) == []


def test_another_space_or_other_params_are_refused(
    spec: SweepSpec, tmp_path: Path, run: Callable[..., optuna.Study]
) -> None:
    run(spec, 1)
    with pytest.raises(SweepError, match="begun with another sweep"):
        run(make_spec(tmp_path, SWEEP.replace("high: 1000", "high: 900")), 1)
    with pytest.raises(SweepError, match="begun with another params"):
        run(make_spec(tmp_path, **{"train.batch_size": 5}), 1)
    # how the best are confirmed is no part of the search
    run(make_spec(tmp_path, SWEEP.replace("top: 2", "top: 3")), 1)


def test_failed_training_is_a_trial_with_its_reason(spec: SweepSpec, run: Callable[..., optuna.Study]) -> None:
    errors = iter([None, ZeroDivisionError("by zero\nand more"), None])

    def fail_second(*arguments: Any) -> TrialScores:
        if error := next(errors):
            raise error
        return train_units(*arguments)

    lines: list[Any] = []
    study = run(spec, 3, fail_second, on_trial=lambda trial: lines.append(trial.number))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[1].user_attrs["reason"] == "ZeroDivisionError: by zero"
    assert lines == [0, 1, 2]


def test_sweep_ends_when_its_first_trials_all_fail(spec: SweepSpec, run: Callable[..., optuna.Study]) -> None:
    def fail(*arguments: Any) -> TrialScores:
        raise ValueError("no luck")

    with pytest.raises(SweepError, match="the first 3 trials failed: trial 0: ValueError: no luck; trial 1"):
        run(spec, 9, fail)


def test_bad_trial_is_pruned(tmp_path: Path, run: Callable[..., optuna.Study]) -> None:
    spec = make_spec(tmp_path, SWEEP.replace("kind: none", "kind: median"))
    study = run(spec, 20)
    states = [trial.state for trial in finished_trials(study)]
    assert len(states) == 20
    assert states.count(TrialState.PRUNED) > 2
    assert all(trial.system_attrs["result"]["history"] for trial in study.trials)
    # optuna-dashboard shows these in full
    assert {name for trial in study.trials for name in trial.user_attrs} == {"job", "seed"}


def test_trial_is_the_mean_of_its_folds(tmp_path: Path, run: Callable[..., optuna.Study]) -> None:
    spec, seeds = make_spec(tmp_path, FOLDS), []

    def train(*arguments: Any) -> TrialScores:
        seeds.append(arguments[2])
        return train_units(*arguments)

    (trial,) = run(spec, 1, train).trials
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
def test_trial_is_pruned_between_folds_and_not_after_the_last(
    kind: str, tmp_path: Path, run: Callable[..., optuna.Study]
) -> None:
    def train(spec: SweepSpec, params: Params, seed: int, root: Path, on_epoch: Any) -> TrialScores:
        # bad trials differ in the last fold alone, or already in the first
        last, units = root == spec.roots[-1], params.model.lstm_units
        return TrialScores({"accuracy": float(units if last or units < 500 else 1000)}, 1)

    study = run(make_spec(tmp_path, FOLDS.replace("kind: none", f"kind: {kind}")), 30, train)
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
        begin(make_spec(tmp_path, text.replace("kind: none", "kind: hyperband"), **{"train.epochs": 9}))
        pruner.assert_called_with(max_resource=steps)


def test_failed_fold_is_named_and_keeps_those_before(tmp_path: Path, run: Callable[..., optuna.Study]) -> None:
    def fail(spec: SweepSpec, params: Params, seed: int, root: Path, on_epoch: Any) -> TrialScores:
        if root == spec.roots[1]:
            raise ValueError("no luck")
        return train_units(spec, params, seed, root, on_epoch)

    (trial,) = run(make_spec(tmp_path, FOLDS), 1, fail).trials
    assert (trial.state, trial.user_attrs["reason"]) == (TrialState.FAIL, "ValueError: no luck")
    result = trial.system_attrs["result"]
    assert (result["dev_by_fold"], "dev" in result) == ([{"accuracy": 3.0}], False)


def test_cost_of_folds_is_that_of_the_last(tmp_path: Path, run: Callable[..., optuna.Study]) -> None:
    text = AGAINST + FOLDS.removeprefix(SWEEP)
    assert run(make_spec(tmp_path, text), 1).trials[0].values == [6.0, 2900.0]


def test_heartbeats_go_on_after_an_outage(spec: SweepSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    beats, again = list[int](), threading.Event()

    def record(trial_id: int) -> None:
        beats.append(trial_id)
        if len(beats) == 1:
            raise StorageInternalError("gone")
        again.set()

    storage = Mock(record_heartbeat=record, get_trial_id_from_study_id_trial_number=lambda study, number: 70 + number)
    monkeypatch.setattr("bilstm_attention.search.study.study_storage", lambda spec: storage)
    with heartbeats(spec, 4):
        # a local study has a lock instead
        assert beats == []
    with heartbeats(replace(spec, storage="sqlite:///far.db", heartbeat=0), 4):
        assert again.wait(60)
    assert set(beats) == {74}


@pytest.mark.filterwarnings("error::UserWarning", "error::optuna.exceptions.ExperimentalWarning")
def test_trial_in_a_database_warns_of_nothing(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, storage=f"sqlite:///{tmp_path}/studies.db")
    begin(spec)
    assert run_trial(TrialJob(spec, "job", 0, 5), train_units) == 0


def test_crashed_worker_has_its_trial_retried_at_once(spec: SweepSpec, run: Callable[..., optuna.Study]) -> None:
    lost: list[int] = []

    def crash_second(next_job: Callable[[], TrialJob | None], work: Any, workers: int) -> Any:
        while (job := next_job()) is not None:
            if len(finished_trials(load_study(spec))) == 1 and not lost:
                lost.append(start_and_die(load_study(spec), job.name))
                yield job, WorkerCrashed(-9)
            else:
                yield job, work(job)

    study = run(spec, 4, execute=crash_second)
    finished = finished_trials(study)
    assert [trial.state for trial in finished] == [TrialState.COMPLETE] * 4
    (retried,) = (trial for trial in finished if first_attempt(trial) != trial.number)
    assert first_attempt(retried) == lost[0]
    assert retried.params == study.trials[lost[0]].params
    # the seed of the first attempt, so that a kill changes no result
    assert retried.user_attrs["seed"] == derived_seed(3, lost[0])


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
@pytest.mark.parametrize(("database", "job"), [(False, None), (True, None), (True, "elsewhere:0")])
def test_trial_killed_before_its_first_heartbeat_is_retried(
    tmp_path: Path, run: Callable[..., optuna.Study], monkeypatch: pytest.MonkeyPatch, database: bool, job: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = make_spec(tmp_path, storage=f"sqlite:///{tmp_path}/studies.db" if database else None)
    run(spec, 1)
    number = start_and_die(load_study(spec), job)
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.2)
    # else it would wait for the trial without end
    study = run(spec, 3, seconds=60)
    assert len(finished_trials(study)) == 3
    assert study.trials[number].state == TrialState.FAIL
    assert number in map(first_attempt, finished_trials(study))


def test_workers_that_die_before_a_trial_end_the_sweep(spec: SweepSpec, run: Callable[..., optuna.Study]) -> None:
    def crash(next_job: Callable[[], TrialJob | None], work: Any, workers: int) -> Any:
        while (job := next_job()) is not None:
            yield job, WorkerCrashed(-9)

    with pytest.raises(SweepError, match=r"workers end before they begin a trial; of the last, .* SIGKILL"):
        run(spec, 3, execute=crash)


def test_retries_end_and_the_trial_then_counts(spec: SweepSpec) -> None:
    study = begin(spec)
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
    study = begin(spec)
    study.tell(start_and_die(study), state=TrialState.FAIL)
    add_trial(study, 5, state="FAIL", reason="a training that failed is not retried")
    recover(study)
    recover(study)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL", "WAITING"]
    assert first_attempt(study.trials[2]) == 0


def test_trial_that_finished_before_it_could_be_retried_stays(spec: SweepSpec) -> None:
    study = begin(spec)
    number = start_and_die(study)
    (running,) = study.get_trials(states=(TrialState.RUNNING,))
    study.tell(number, 1.0)
    retry_trials(study, [running])
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"]


@pytest.mark.parametrize("moment", ["in training", "before its value is stored", "by another worker"])
def test_trial_that_another_process_ended_is_dropped(
    moment: str, spec: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_over(*_: object) -> None:
        # which ends the trial without calling this again
        monkeypatch.setattr(optuna.samplers.RandomSampler, "after_trial", Mock())
        study = load_study(spec)
        retry_trials(study, study.get_trials(states=(TrialState.RUNNING,)))

    def train(*arguments: Any) -> TrialScores:
        if moment == "in training":
            take_over()
        elif moment == "by another worker":
            load_study(spec).tell(0, 5.0)
        return train_units(*arguments)

    begin(spec)
    if moment == "before its value is stored":
        monkeypatch.setattr(optuna.samplers.RandomSampler, "after_trial", take_over)
    assert run_trial(TrialJob(spec, "job", 0, 5), train) is None
    states = [trial.state.name for trial in load_study(spec).trials]
    assert states == (["COMPLETE"] if moment == "by another worker" else ["FAIL", "WAITING"])


def test_trial_that_the_storage_cut_off_is_enqueued_again(spec: SweepSpec) -> None:
    begin(spec)
    outage = Mock(side_effect=StorageInternalError("gone"))
    assert run_trial(TrialJob(spec, "job", 0, 5), outage) == 0
    study = load_study(spec)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]
    assert first_attempt(study.trials[1]) == 0


def test_no_trial_begins_once_others_fill_the_budget(spec: SweepSpec) -> None:
    study = begin(spec)
    add_trial(study, 5, 1.0)
    start_and_die(study)
    assert run_trial(TrialJob(spec, "job", 0, 2), train_units) is None
    assert len(study.trials) == 2


def test_best_trials_are_ordered_and_distinct(tmp_path: Path) -> None:
    study = begin(make_spec(tmp_path))
    for units, score in ((5, 70), (6, 80), (7, 80), (6, 75)):
        add_trial(study, units, score)
    add_trial(study, 9, state="PRUNED")
    assert [trial.number for trial in best_trials(study)] == [1, 2, 0]
    assert state_counts(study) == {"complete": 4, "pruned": 1, "failed": 0, "running": 0, "waiting": 0}


def test_with_two_objectives_the_best_are_the_pareto_front(tmp_path: Path, run: Callable[..., optuna.Study]) -> None:
    study = run(make_spec(tmp_path, AGAINST), 2)
    assert all(len(trial.values) == 2 for trial in study.trials)
    for units, *values in ((5, 99, 5), (6, 98, 4), (7, 97, 6)):
        add_trial(study, units, *values)
    assert {2, 3} <= {trial.number for trial in best_trials(study)}
    assert 4 not in {trial.number for trial in best_trials(study)}


def test_storage_that_cannot_be_opened_is_one_line_without_password() -> None:
    with pytest.raises(SweepError) as caught:
        open_storage("postgresql+psycopg://user:secret@127.0.0.1:1/none", 60)
    assert "secret" not in str(caught.value)
    assert "the database does not answer" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(SweepError, match="not a database URL"):
        open_storage("my secret", 60)
    assert hide_password("postgresql://u:p@h/n?password=q") == "postgresql://u:***@h/n"


def test_storage_that_fails_later_says_that_the_same_command_goes_on(
    spec: SweepSpec, run: Callable[..., optuna.Study]
) -> None:
    def damage(*arguments: Any) -> TrialScores:
        (spec.folder / "study.db").write_bytes(b"no database" * 1000)
        return train_units(*arguments)

    with pytest.raises(SweepError, match="the same command goes on"):
        run(spec, 3, damage)


def test_second_process_is_kept_from_a_study(spec: SweepSpec) -> None:
    with sweep.lock_study(spec), pytest.raises(SweepError, match="runs already"), sweep.lock_study(spec):
        pass
