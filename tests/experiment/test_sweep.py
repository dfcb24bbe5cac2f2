"""A sweep's bookkeeping: what counts, what is tried again, what goes on, and what the outcome names the winner."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from bilstm_attention.experiment import sweep
from bilstm_attention.experiment.outcome import outcome, write_outcome
from bilstm_attention.experiment.space import read_sweep
from bilstm_attention.experiment.trials import Definition, Job, derived_seed, open_study
from bilstm_attention.experiment.workers import Died
from bilstm_attention.overrides import config_text, flatten, read_overrides, with_overrides
from bilstm_attention.params import Params, load_params

UNITS, EMA, HOPS = "model.lstm_units", "train.ema", "model.attention.hops"
GOLD = ["a", "b"] * 20
WRONG = ["b", "a"] * 20
SWEEP = """
study: s
metric: accuracy
sampler: {kind: random, seed: 3}
confirm: {top: 2, seeds: 2}
space: {model.lstm_units: {low: 1, high: 1000}}
"""
Make = Callable[..., Definition]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A sweep in a project of its own."""
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params.yaml").write_text("{}")
    monkeypatch.chdir(tmp_path)

    def act(text: str = SWEEP, **overrides: Any) -> Definition:
        Path("sweep.yaml").write_text(text)
        read, space = read_sweep(Path("sweep.yaml"), Params(), overrides)
        definition = Definition(read, space, Path("studies") / read.study)
        definition.folder.mkdir(parents=True, exist_ok=True)
        return definition

    return act


@pytest.fixture
def definition(make: Make) -> Definition:
    return make()


@pytest.fixture
def study(definition: Definition) -> optuna.Study:
    return open_study(definition)


def add(
    study: optuna.Study, definition: Definition, score: float | None, units: int, state: str = "COMPLETE", **attrs: Any
) -> int:
    """A trial that has ended, with the file that its worker wrote."""
    number = len(study.trials)
    trial = create_trial(
        state=TrialState[state],
        value=score,
        params={UNITS: units},
        distributions={UNITS: IntDistribution(1, 1000)},
        user_attrs={"seed": 100 + number, **attrs},
    )
    study.add_trial(trial)
    write(definition.trial_file(number), {"overrides": {UNITS: units}, "seed": 100 + number, "value": score})
    return number


def confirm(definition: Definition, number: int, *found: tuple[float, list[str]]) -> None:
    for seed, (score, predicted) in zip(sweep.confirmation_seeds(definition), found, strict=False):
        write(definition.confirmation_file(number, seed), {"dev": {"accuracy": score}, "predicted": predicted})


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def numbers(trials: list[Any]) -> list[int]:
    return [trial.number for trial in trials]


def running(study: optuna.Study) -> list[Any]:
    return study.get_trials(states=(TrialState.RUNNING,))


# --- what counts, and what is best


def test_what_counts_has_ended_and_was_not_tried_again(study: optuna.Study, definition: Definition) -> None:
    for state, score in (("COMPLETE", 1.0), ("PRUNED", None), ("FAIL", None)):
        add(study, definition, score, 5, state)
    add(study, definition, None, 5, "FAIL", tried_again=True)
    study.ask()
    study.enqueue_trial({UNITS: 3})
    assert numbers(sweep.counted(study)) == [0, 1, 2]


def test_the_best_are_the_highest_of_equals_the_first_and_of_the_same_one(
    study: optuna.Study, definition: Definition
) -> None:
    for score, units in ((70, 1), (90, 2), (80, 3), (90, 4), (90, 2), (60, 3)):
        add(study, definition, score, units)
    add(study, definition, None, 9, "PRUNED")
    assert numbers(sweep.best_trials(study, 99)) == [1, 3, 2, 0]
    assert numbers(sweep.best_trials(study, 2)) == [1, 3]
    assert sweep.best_trials(study, 0) == []


def test_what_is_confirmed_is_the_trials_parameters_each_with_the_same_fresh_seeds(
    study: optuna.Study, definition: Definition
) -> None:
    add(study, definition, 70, 11)
    add(study, definition, 80, 22)
    jobs = sweep.confirmations(definition, sweep.best_trials(study, 2))
    seeds = sweep.confirmation_seeds(definition)
    units = {1: 22, 0: 11}
    assert jobs == [
        Job(number=number, seed=seed, overrides=((UNITS, units[number]),)) for number in units for seed in seeds
    ]
    assert len(set(seeds)) == 2


# --- seeds


def test_seeds_are_distinct_and_always_the_same() -> None:
    seeds = [derived_seed(study, number) for study in (0, 1) for number in (*range(100), *range(10**6, 10**6 + 100))]
    assert len(set(seeds)) == 400
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert (derived_seed(0, 0), derived_seed(3, 10**6)) == (1484405855, 582682223)


# --- trials whose worker died


def test_a_trial_that_died_is_tried_again_with_its_parameters_and_three_times_at_most(study: optuna.Study) -> None:
    study.enqueue_trial({UNITS: 7})
    study.ask()
    for time in range(1, sweep.RETRIES + 1):
        sweep._try_again(study, running(study))
        trial = study.ask()
        assert trial.user_attrs == {"retry_of": 0, "retries": time}
        # also of one that died before it asked for any
        assert trial.suggest_int(UNITS, 1, 1000) == 7
        assert sweep.counted(study) == []
    sweep._try_again(study, running(study))
    [last] = sweep.counted(study)
    assert (last.number, last.state, last.user_attrs["reason"]) == (3, TrialState.FAIL, "its worker died")
    assert study.get_trials(states=(TrialState.WAITING, TrialState.RUNNING)) == []


def test_a_trial_is_not_tried_twice_where_the_first_attempt_to_was_cut_off(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.ask()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(study, "tell", killed)
        with pytest.raises(KeyboardInterrupt):
            sweep._try_again(study, running(study))
    sweep._try_again(study, running(study))
    assert len(study.get_trials(states=(TrialState.WAITING,))) == 1
    assert running(study) == []


def test_the_trials_of_a_worker_are_its_own(study: optuna.Study) -> None:
    for process in (12, 112, 12):
        study.ask().set_user_attr("worker", f"host:{process}")
    study.ask()
    study.tell(2, 1.0)
    assert numbers(sweep._of_worker(study, 12)) == [0]


def test_half_a_line_is_cut_off_and_the_rest_stays(study: optuna.Study, definition: Definition) -> None:
    study.enqueue_trial({UNITS: 7})
    whole = definition.journal.read_bytes()
    definition.journal.write_bytes(whole + b'{"op_code": 4, "wor')
    sweep._mend(definition)
    assert definition.journal.read_bytes() == whole
    sweep._mend(definition)
    assert definition.journal.read_bytes() == whole
    assert open_study(definition).ask().suggest_int(UNITS, 1, 1000) == 7


def test_there_is_nothing_to_mend_before_the_first_start(definition: Definition) -> None:
    sweep._mend(definition)
    assert not definition.journal.exists()


# --- one study, one sweep, one process


def test_a_study_goes_on_with_what_it_was_begun_with_alone(make: Make) -> None:
    study = open_study(make())
    sweep._check_same(study, make())
    identity = study.user_attrs["id"]
    sweep._check_same(study, make())
    sweep._check_same(study, make(SWEEP.replace("top: 2", "top: 9")))
    sweep._check_same(study, make(**{"evaluate.bootstrap": 200}))
    assert study.user_attrs["id"] == identity
    for other, part in (
        (lambda: make(SWEEP.replace("1000", "900")), "another sweep;"),
        (lambda: make(SWEEP.replace("seed: 3", "seed: 4")), "another sweep;"),
        (lambda: make(**{EMA: 0.5}), "another params;"),
    ):
        with pytest.raises(sweep.SweepError, match=part) as caught:
            sweep._check_same(study, other())
        assert str(caught.value).startswith("studies/s: the study was begun with ")
    Path("dvc.lock").write_text("stages: {embed: {outs: [{path: x, md5: abc}]}}")
    with pytest.raises(sweep.SweepError, match="another data;"):
        sweep._check_same(study, make())


def test_a_study_without_an_identity_was_not_begun(definition: Definition, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the first start was cut off, the next gives it one."""
    study = open_study(definition)
    given = study.set_user_attr
    for calls in (0, 1):
        left = iter(range(calls))

        def cut_off(key: str, value: Any, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            given(key, value)

        with monkeypatch.context() as patch:
            patch.setattr(study, "set_user_attr", cut_off)
            with pytest.raises(KeyboardInterrupt):
                sweep._check_same(study, definition)
    sweep._check_same(study, definition)
    assert set(study.user_attrs) == {"definition", "id"}


@pytest.mark.parametrize(
    ("states", "ends"),
    [
        ("FFF", True),
        ("FF", False),
        ("FFC", False),
        ("CFF", False),
        ("FFP", False),
        # after three, one that worked among them, failures are the outcome of their trials
        ("CFFF", False),
    ],
)
def test_a_sweep_whose_first_trials_all_fail_ends(
    states: str, ends: bool, study: optuna.Study, definition: Definition
) -> None:
    names = {"F": "FAIL", "C": "COMPLETE", "P": "PRUNED"}
    for number, state in enumerate(states):
        add(study, definition, 1.0 if state == "C" else None, 5, names[state], reason=f"r{number}")
    if ends:
        with pytest.raises(sweep.SweepError, match="the first 3 trials failed: trial 0: r0; trial 1: r1; trial 2: r2"):
            sweep._check_start(sweep.counted(study))
    else:
        sweep._check_start(sweep.counted(study))


def test_a_second_process_is_kept_from_the_study_until_the_first_has_left_it(definition: Definition) -> None:
    program = (
        "import sys; from pathlib import Path; from types import SimpleNamespace as Given\n"
        "from bilstm_attention.experiment.sweep import locked\n"
        "with locked(Given(folder=Path(sys.argv[1]))): print('in')"
    )
    call = [sys.executable, "-c", program, str(definition.folder)]
    with sweep.locked(definition):
        refused = subprocess.run(call, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "SweepError: studies/s: the sweep runs already, in another process." in refused.stderr
    with sweep.locked(definition), pytest.raises(sweep.SweepError), sweep.locked(definition):
        pass
    with sweep.locked(definition):
        pass


def test_the_first_ctrl_c_asks_and_the_second_ends(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with sweep.Stopping() as stopping:
        assert not stopping.asked
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping.asked
        assert "Ctrl-C again stops them now" in capsys.readouterr().out
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


# --- the search, with workers that are functions


class Workers:
    """Does what run_jobs does, here and at once: one trial after the other, or what `fates` says of the next."""

    def __init__(self, fates: str = "") -> None:
        self.fates = iter(fates)

    def __call__(self, another: Callable[[], Any], work: Any, workers: int) -> Iterator[tuple[Any, Any]]:
        [definition] = work.args
        while (job := another()) is not None:
            fate = next(self.fates, "completes")
            if fate == "s":
                yield job, Died(99, 1)
                continue
            study = open_study(definition, job.ticket)
            trial = study.ask()
            trial.set_user_attr("worker", "host:77")
            if fate == "d":
                yield job, Died(77, -9)
                continue
            definition.space.suggest(trial)
            study.tell(trial, float(trial.params.get(UNITS, 0)))
            yield job, trial.number


def search(definition: Definition, budget: int, seconds: float = math.inf, stopping: Any = None) -> list[int]:
    """The numbers of the trials that were told of."""
    told: list[int] = []
    counts: list[int] = []

    def on_trial(study: optuna.Study, trial: Any, ended: int) -> None:
        told.append(trial.number)
        counts.append(ended)

    sweep.search(definition, budget, 2, seconds, stopping or sweep.Stopping(), on_trial)
    assert counts == sorted(set(counts))
    return told


def test_a_search_begins_with_the_current_values_and_counts_earlier_starts(
    definition: Definition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "run_jobs", Workers())
    assert search(definition, 3) == [0, 1, 2]
    assert search(definition, 3) == []
    assert search(definition, 5) == [3, 4]
    trials = open_study(definition).trials
    assert trials[0].params == {UNITS: 100}
    assert len({trial.params[UNITS] for trial in trials}) == 5


def test_what_dies_is_done_again_within_the_budget(definition: Definition, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "run_jobs", Workers("dcd"))
    assert search(definition, 3) == [1, 3, 4]
    ended = sweep.counted(open_study(definition))
    assert [trial.user_attrs.get("retry_of") for trial in ended] == [0, 2, None]
    assert ended[0].params == {UNITS: 100}


def test_what_an_earlier_start_left_running_is_done_again(
    definition: Definition, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition.space.suggest(open_study(definition).ask())
    monkeypatch.setattr(sweep, "run_jobs", Workers())
    assert search(definition, 1) == [1]
    first, again = open_study(definition).trials
    assert (first.state, again.params) == (TrialState.FAIL, first.params)


def test_workers_that_never_begin_a_trial_end_the_sweep(
    definition: Definition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "run_jobs", Workers("sscss" + "s" * 9))
    with pytest.raises(sweep.SweepError, match="end before they begin a trial; the last with exit code 1"):
        search(definition, 9)
    assert len(sweep.counted(open_study(definition))) == 1


def test_workers_that_die_in_every_trial_end_the_sweep(definition: Definition, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "run_jobs", Workers("d" * 99))
    with pytest.raises(sweep.SweepError, match="the first 3 trials failed: trial 3: its worker died"):
        search(definition, 50)
    assert len(open_study(definition).trials) == 3 * (1 + sweep.RETRIES)


def test_a_search_ends_when_it_is_asked_to_and_when_its_time_is_over(
    definition: Definition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "run_jobs", Workers())
    stopping = sweep.Stopping()
    stopping.asked = True
    assert search(definition, 3, stopping=stopping) == []
    assert search(definition, 3, seconds=-1) == []
    assert search(definition, 1) == [0]


GRID = """
study: g
sampler: {kind: grid}
space: {model.lstm_units: [50, 100], model.attention.kind: [zhou, max, structured],
        model.attention.hops: {values: [2, 4], when: {model.attention.kind: structured}}}
"""


@pytest.mark.parametrize("cut_off_after", [None, 1, 3])
def test_a_grid_is_tried_whole_each_once_whatever_dies(
    cut_off_after: int | None, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = make(GRID)
    monkeypatch.setattr(sweep, "run_jobs", Workers("cdcdd"))
    if cut_off_after is not None:
        enqueue, left = optuna.Study.enqueue_trial, iter(range(cut_off_after))

        def killed(study: optuna.Study, *given: Any, **more: Any) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            enqueue(study, *given, **more)

        with monkeypatch.context() as patch:
            patch.setattr(optuna.Study, "enqueue_trial", killed)
            with pytest.raises(KeyboardInterrupt):
                search(definition, 100)
    search(definition, 3)
    search(definition, 100)
    ended = sweep.counted(open_study(definition))
    assert len(ended) == 8
    assert {json.dumps(trial.params, sort_keys=True) for trial in ended} == {
        json.dumps(chosen, sort_keys=True) for chosen in definition.space.grid()
    }


def test_what_was_confirmed_is_not_again_and_what_died_is_at_the_next_start(
    definition: Definition, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [Job(number=number, seed=seed) for number in (4, 0) for seed in sweep.confirmation_seeds(definition)]
    died = {jobs[2]}
    confirm(definition, 4, (70.0, GOLD))

    def run_jobs(another: Callable[[], Any], work: Any, workers: int) -> Iterator[tuple[Any, Any]]:
        while (job := another()) is not None:
            if job in died:
                yield job, Died(1, -9)
                continue
            write(definition.confirmation_file(job.number, job.seed), {})
            yield job, job.number

    monkeypatch.setattr(sweep, "run_jobs", run_jobs)
    done: list[Job] = []
    sweep.confirm_all(definition, jobs, 1, sweep.Stopping(), done.append)
    assert done == [jobs[1], jobs[3]]
    died.clear()
    sweep.confirm_all(definition, jobs, 1, sweep.Stopping(), done.append)
    assert done == [jobs[1], jobs[3], jobs[2]]


# --- the outcome


@pytest.fixture
def searched(study: optuna.Study, definition: Definition) -> optuna.Study:
    """Trials 0 to 4 with 50, 90, none (pruned), 80, 85."""
    for score, units in ((50, 10), (90, 20), (None, 30), (80, 40), (85, 50)):
        add(study, definition, score, units, "COMPLETE" if score else "PRUNED")
    return study


def test_before_anything_ended_there_is_no_winner(study: optuna.Study, definition: Definition) -> None:
    add(study, definition, None, 3, "FAIL", reason="no memory")
    found = outcome(definition, study, GOLD)
    assert (found.winner, found.params, found.score, found.p) == (None, None, None, None)
    assert found.leaderboard[["state", "reason"]].values.tolist() == [["fail", "no memory"]]
    write_outcome(definition, found)
    assert (definition.folder / "leaderboard.csv").exists()
    assert not (definition.folder / "best.yaml").exists()


def test_unconfirmed_the_best_of_the_search_wins_with_its_own_seed(
    searched: optuna.Study, definition: Definition
) -> None:
    found = outcome(definition, searched, GOLD)
    assert (found.winner, found.score, found.searched, found.p) == (1, 90, 90, None)
    assert found.params is not None
    assert (found.params.model.lstm_units, found.params.train.seeds) == (20, [101])
    assert found.leaderboard["trial"].tolist() == [1, 4, 3, 0, 2]


def test_the_winner_is_the_best_by_its_confirmed_mean(searched: optuna.Study, definition: Definition) -> None:
    confirm(definition, 1, (70.0, WRONG), (72.0, WRONG))
    confirm(definition, 4, (76.0, GOLD), (80.0, GOLD))
    found = outcome(definition, searched, GOLD)
    assert (found.winner, found.score, found.searched) == (4, 78, 85)
    assert found.params == with_overrides(Params(), {UNITS: 50, "train.seeds": sweep.confirmation_seeds(definition)})
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


def test_between_confirmed_that_answer_alike_p_is_1(searched: optuna.Study, definition: Definition) -> None:
    for number in (1, 4):
        confirm(definition, number, (70.0, GOLD), (70.0, GOLD))
    found = outcome(definition, searched, GOLD)
    assert (found.winner, found.p) == (1, 1.0)


def test_a_trial_of_which_a_confirmation_is_missing_is_not_confirmed(
    searched: optuna.Study, definition: Definition
) -> None:
    confirm(definition, 1, (99.0, GOLD))
    confirm(definition, 4, (60.0, GOLD), (62.0, GOLD))
    found = outcome(definition, searched, GOLD)
    assert (found.winner, found.score, found.p) == (4, 61, None)
    assert found.leaderboard["trial"].tolist()[0] == 4


@pytest.mark.parametrize("confirmed", [False, True])
def test_applying_the_best_gives_exactly_its_parameters(confirmed: bool, study: optuna.Study, make: Make) -> None:
    text = SWEEP.replace("study: s", "study: s\nfixed: {train.clip_norm: , train.learning_rate: 1.0e-5}")
    definition = make(text)
    add(study, definition, 90, 20)
    if confirmed:
        confirm(definition, 0, (70.0, GOLD), (72.0, GOLD))
    found = outcome(definition, study, GOLD)
    write_outcome(definition, found)
    best = definition.folder / "best.yaml"
    assert found.params is not None
    assert with_overrides(Params(), read_overrides(best)) == found.params
    assert load_params(best) == found.params
    seeds = ", ".join(map(str, found.params.train.seeds))
    score = 71.0 if confirmed else 90
    comment = f"# Trial 0 of the study s: dev accuracy {score}, mean of seeds {seeds}; 90 in the search.\n"
    assert best.read_text().startswith(comment)
    assert pd.read_csv(definition.folder / "leaderboard.csv")["trial"].tolist() == [0]


def test_values_that_only_some_trials_have_stand_where_they_were_tried(make: Make) -> None:
    definition = make(GRID)
    study = open_study(definition)
    kinds = CategoricalDistribution(["zhou", "max", "structured"])
    for number, params in enumerate(
        [{"model.attention.kind": "zhou"}, {"model.attention.kind": "structured", HOPS: 4}]
    ):
        distributions = {"model.attention.kind": kinds, HOPS: CategoricalDistribution([2, 4])}
        study.add_trial(
            create_trial(value=number, params=params, distributions={key: distributions[key] for key in params})
        )
        write(definition.trial_file(number), {"overrides": params, "seed": number, "value": number})
    board = outcome(definition, study, GOLD).leaderboard
    assert board["model.attention.kind"].tolist() == ["structured", "zhou"]
    assert board[HOPS].isna().tolist() == [False, True]
    assert board[HOPS].iloc[0] == 4


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
