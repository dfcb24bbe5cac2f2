"""A sweep's bookkeeping: trials until the budget is spent, over many starts, on one or more machines, nothing lost."""

import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from tests.made_studies import AGAINST, GRID, RIGHT, SWEEP, UNITS, add, confirm, in_state, make_definition, numbers

from bilstm_attention.errors import SweepError
from bilstm_attention.search import sweep
from bilstm_attention.search.study import REPLACES, RETRIES, SURPLUS, SweepSpec, counted, open_study, running
from bilstm_attention.search.trials import FOUND, Job, confirmation, worker_name
from bilstm_attention.search.workers import WorkerCrashed

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage:UserWarning")
Make = Callable[..., SweepSpec]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A sweep in a project of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "SECONDS_BETWEEN_LOOKS", 0.01)
    return lambda text=SWEEP, storage=None, **overrides: make_definition(tmp_path, text, storage, **overrides)


@pytest.fixture
def definition(make: Make) -> SweepSpec:
    return make()


@pytest.fixture
def study(definition: SweepSpec) -> optuna.Study:
    return open_study(definition)


class Workers:
    """Does what `run_jobs` does, here and at once: one trial after the other, or what `fates` says of the next.

    c completes; d dies in its trial; n between its trial and its name; s before either; o is one too many.
    """

    def __init__(self, fates: str = "") -> None:
        self.fates, self.jobs = iter(fates), list[Job]()

    def __call__(self, another: Callable[[int], Any], work: Any) -> Iterator[tuple[Any, Any]]:
        [definition] = work.args
        while (job := another(0)) is not None:
            self.jobs.append(job)
            fate = next(self.fates, "c")
            if fate == "s":
                yield job, WorkerCrashed(99, 1)
                continue
            study = open_study(definition)
            trial = study.ask()
            if fate == "n":
                yield job, WorkerCrashed(77, -9)
                continue
            trial.set_user_attr("worker", worker_name(os.getpid(), 77))
            if fate == "d":
                yield job, WorkerCrashed(77, -9)
                continue
            if fate == "o":
                trial.set_user_attr(SURPLUS, True)
                study.tell(trial, state=TrialState.FAIL)
                yield job, None
                continue
            trial.set_user_attr(FOUND, {"overrides": definition.space.suggest(trial)})
            study.tell(trial, float(trial.params.get(UNITS, 0)))
            yield job, trial.number


def never() -> sweep.Stopping:
    return sweep.Stopping(print)


def search(
    definition: SweepSpec, budget: int, fates: str = "", seconds: float = math.inf, stopping: Any = None
) -> list[int]:
    """The numbers of the trials that were told of."""
    told: list[Any] = []
    begun: list[bool] = []

    def on_trial(study: optuna.Study, trial: Any) -> None:
        told.append(trial)
        begun.append("definition" in study.user_attrs)

    sweep.search(definition, budget, Workers(fates), seconds, stopping or never(), on_trial)
    # before the first trial, with a study that has begun, and then with each
    assert told.pop(0) is None
    assert all(begun)
    return numbers(told)


# --- one study, one sweep, one process


def test_a_study_goes_on_with_what_it_was_begun_with_alone(make: Make) -> None:
    search(make(), 1)
    identity = open_study(make()).user_attrs["id"]
    search(make(), 1)
    search(make(SWEEP.replace("top: 2", "top: 9")), 1)
    search(make(**{"evaluate.bootstrap": 200}), 1)
    assert open_study(make()).user_attrs["id"] == identity
    for other, part in (
        (lambda: make(SWEEP.replace("1000", "900")), "another sweep;"),
        (lambda: make(SWEEP.replace("seed: 3", "seed: 4")), "another sweep;"),
        (lambda: make(**{"train.ema": 0.5}), "another params;"),
    ):
        with pytest.raises(SweepError, match=part) as caught:
            search(other(), 1)
        assert "studies/s: the study s was begun with " in str(caught.value)
    Path("dvc.lock").write_text("stages: {embed: {outs: [{path: x, md5: abc}]}}")
    with pytest.raises(SweepError, match="another data;"):
        search(make(), 1)


@pytest.mark.parametrize(("text", "names"), [(SWEEP, ["dev accuracy"]), (AGAINST, ["dev accuracy", "latency_ms"])])
def test_a_study_says_what_its_objectives_are_also_at_the_second_start(text: str, names: list[str], make: Make) -> None:
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            study = sweep._begun(make(text))
        assert study.metric_names == names


def test_a_refusal_shows_no_password(make: Make) -> None:
    definition = make(storage="postgresql+psycopg://me:secret@host/name")
    with pytest.raises(SweepError) as caught:
        sweep._check_same(definition, {}, {"sweep": {}})
    assert "secret" not in str(caught.value)
    assert "postgresql+psycopg://me:***@host/name: the study s" in str(caught.value)


@pytest.mark.parametrize("calls", range(3))
def test_wherever_the_first_start_was_cut_off_the_next_begins_the_study(
    calls: int, definition: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(range(calls))

    def cut_off(change: Callable[..., None]) -> Callable[..., None]:
        def act(*given: Any, **more: Any) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            change(*given, **more)

        return act

    with monkeypatch.context() as patch:
        for name in ("set_user_attr", "enqueue_trial"):
            patch.setattr(optuna.Study, name, cut_off(getattr(optuna.Study, name)))
        with pytest.raises(KeyboardInterrupt):
            search(definition, 2)
    assert search(definition, 2) == [0, 1]
    study = open_study(definition)
    assert set(study.user_attrs) == {"definition", "id"}
    assert [trial.system_attrs.get("fixed_params") for trial in study.trials] == [{UNITS: 100}, None]


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
def test_a_sweep_whose_first_trials_all_fail_ends(states: str, ends: bool, study: optuna.Study) -> None:
    names = {"F": "FAIL", "C": "COMPLETE", "P": "PRUNED"}
    for number, state in enumerate(states):
        add(study, 5, *([1.0] if state == "C" else []), state=names[state], reason=f"r{number}")
    if ends:
        with pytest.raises(SweepError, match="the first 3 trials failed: trial 0: r0; trial 1: r1; trial 2: r2"):
            sweep._check_start(counted(study))
    else:
        sweep._check_start(counted(study))


def test_a_second_process_is_kept_from_the_study_until_the_first_has_left_it(definition: SweepSpec) -> None:
    program = (
        "import sys; from pathlib import Path; from types import SimpleNamespace as Given\n"
        "from bilstm_attention.search.sweep import locked\n"
        "with locked(Given(folder=Path(sys.argv[1]))): print('in')"
    )
    call = [sys.executable, "-c", program, str(definition.folder)]
    with sweep.locked(definition):
        refused = subprocess.run(call, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "studies/s: the sweep runs already, in another process." in refused.stderr
    with sweep.locked(definition), pytest.raises(SweepError), sweep.locked(definition):
        pass
    with sweep.locked(definition):
        pass


def test_the_first_ctrl_c_asks_and_the_second_ends() -> None:
    before, said = signal.getsignal(signal.SIGINT), list[str]()
    with sweep.Stopping(said.append) as stopping:
        assert not stopping.asked
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping.asked
        assert said == ["stopping when the running trials have ended; Ctrl-C again stops them now"]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


# --- the search, with workers that are functions


def test_a_search_begins_with_the_current_values_and_counts_earlier_starts(definition: SweepSpec) -> None:
    assert search(definition, 3) == [0, 1, 2]
    assert search(definition, 3) == []
    assert search(definition, 2) == []
    assert search(definition, 5) == [3, 4]
    trials = open_study(definition).trials
    assert trials[0].params == {UNITS: 100}
    assert len({trial.params[UNITS] for trial in trials}) == 5


def test_a_job_knows_the_budget(definition: SweepSpec) -> None:
    workers = Workers()
    sweep.search(definition, 2, workers, math.inf, never(), lambda study, trial: None)
    assert workers.jobs == [Job(budget=2)] * 2


def test_what_dies_is_done_again_within_the_budget(definition: SweepSpec) -> None:
    assert search(definition, 3, "dcd") == [1, 3, 4]
    ended = counted(open_study(definition))
    assert [trial.user_attrs.get(REPLACES) for trial in ended] == [[0], [2], None]
    assert ended[0].params == {UNITS: 100}


@pytest.mark.parametrize("fates", ["n", "nn", "cnn", "ccn", "sn", "cndc"])
def test_a_trial_that_dies_before_it_has_a_name_is_done_again(fates: str, definition: SweepSpec) -> None:
    search(definition, 3, fates)
    study = open_study(definition)
    assert len(counted(study)) == len(in_state(study, "COMPLETE")) == 3
    assert in_state(study, "RUNNING") == in_state(study, "WAITING") == []
    assert {UNITS: 100} in [trial.params for trial in counted(study)]


def test_what_an_earlier_start_left_running_is_done_again(definition: SweepSpec) -> None:
    definition.space.suggest(open_study(definition).ask())
    assert search(definition, 1) == [1]
    first, again = open_study(definition).trials
    assert (first.state, again.params) == (TrialState.FAIL, first.params)


def test_what_an_earlier_start_was_about_to_end_is_ended(
    definition: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", killed)
        with pytest.raises(KeyboardInterrupt):
            search(definition, 1, "d")
    assert search(definition, 1) == [1]
    assert in_state(open_study(definition), "RUNNING") == []


def test_what_was_one_too_many_is_neither_told_of_nor_counted(definition: SweepSpec) -> None:
    assert search(definition, 3, "cocoo") == [0, 2, 5]


def test_trials_of_others_that_run_are_waited_for(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    definition = make(storage=f"sqlite:///{Path.cwd()}/studies.db")
    search(definition, 1)
    study, looks = open_study(definition), list[float]()
    other = study.ask()
    # signs of life come from elsewhere
    other.set_user_attr("worker", "elsewhere:1:2")

    def wait(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            study.tell(other, 1.0)

    monkeypatch.setattr(sweep.time, "sleep", wait)
    workers = Workers()
    sweep.search(definition, 2, workers, math.inf, never(), lambda study, trial: None)
    assert (len(looks), workers.jobs) == (3, [])


def test_a_trial_elsewhere_that_never_gave_a_sign_of_life_is_tried_again_here(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the clock of that machine stands."""
    definition = make(storage=f"sqlite:///{Path.cwd()}/studies.db")
    study = open_study(definition)
    search(definition, 1)
    study.ask()
    clock = [0.0]
    monkeypatch.setattr(sweep.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(sweep.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + 0.5))
    assert search(definition, 2) == [2]
    # first seen after 0.5 s, by our clock, and more than two heartbeats of 1 s ago
    assert clock[0] == 3.0
    assert study.trials[2].user_attrs[REPLACES] == [1]


def test_at_the_end_the_trials_of_other_machines_run_on(make: Make) -> None:
    definition = make(storage=f"sqlite:///{Path.cwd()}/studies.db")
    search(definition, 1)
    study = open_study(definition)
    for name in (f"{worker_name(os.getpid(), 5)}", "elsewhere:1:2"):
        study.ask().set_user_attr("worker", name)
    search(definition, 9, seconds=-1)
    assert numbers(running(study)) == [2]


def test_workers_that_never_begin_a_trial_end_the_sweep(definition: SweepSpec) -> None:
    with pytest.raises(SweepError, match="end before they begin a trial; the last with exit code 1"):
        search(definition, 9, "sscss" + "s" * 9)
    assert len(counted(open_study(definition))) == 1


def test_workers_that_die_in_every_trial_end_the_sweep(definition: SweepSpec) -> None:
    with pytest.raises(SweepError, match="the first 3 trials failed: trial 3: its worker died"):
        search(definition, 50, "d" * 99)
    assert len(open_study(definition).trials) == 3 * (1 + RETRIES)


def test_a_search_ends_when_it_is_asked_to_and_when_its_time_is_over(definition: SweepSpec) -> None:
    stopping = never()
    stopping.asked = True
    assert search(definition, 3, stopping=stopping) == []
    assert search(definition, 3, seconds=-1) == []
    assert search(definition, 1) == [0]


@pytest.mark.parametrize("cut_off_after", [None, 1, 3])
def test_a_grid_is_tried_whole_each_once_whatever_dies(
    cut_off_after: int | None, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = make(GRID)
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
    search(definition, 3, "cdcdd")
    search(definition, 100)
    ended = counted(open_study(definition))
    assert len(ended) == 8
    assert {json.dumps(trial.params, sort_keys=True) for trial in ended} == {
        json.dumps(chosen, sort_keys=True) for chosen in definition.space.grid()
    }


# --- who begins a study that many machines share


@pytest.fixture
def shared(make: Make) -> SweepSpec:
    return make(storage=f"sqlite:///{Path.cwd()}/studies.db")


def others_do(monkeypatch: pytest.MonkeyPatch, study: optuna.Study, *acts: Callable[[optuna.Study], None]) -> None:
    """Has other machines act whenever this one waits."""
    left = iter(acts)

    def wait(seconds: float) -> None:
        clock[0] += seconds
        next(left, lambda study: None)(study)

    clock = [0.0]
    monkeypatch.setattr(sweep.time, "sleep", wait)
    monkeypatch.setattr(sweep.time, "monotonic", lambda: clock[0])


def claim(study: optuna.Study) -> None:
    study.set_user_attr("begun by", "another")


def define(study: optuna.Study) -> None:
    study.set_user_attr("definition", {})


def test_alone_it_begins(shared: SweepSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_study(shared)
    others_do(monkeypatch, study)
    assert sweep._begins(shared, study)


def test_of_two_at_once_the_last_to_say_so_begins(shared: SweepSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_study(shared)
    others_do(monkeypatch, study, claim, lambda study: None, define)
    assert not sweep._begins(shared, study)
    # and this one goes on only when the study is whole
    assert "definition" in study.user_attrs


def test_one_that_is_beginning_is_not_disturbed(shared: SweepSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a grid takes to be put down."""
    study = open_study(shared)
    claim(study)
    others_do(monkeypatch, study, *[lambda study: None] * 9, define)
    assert not sweep._begins(shared, study)
    assert study.user_attrs["begun by"] == "another"


def test_where_the_one_that_was_beginning_is_gone_another_does(
    shared: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "SECONDS_BETWEEN_LOOKS", 10)
    study = open_study(shared)
    claim(study)
    others_do(monkeypatch, study)
    assert sweep._begins(shared, study)


# --- confirmations


def test_what_is_confirmed_is_the_trials_parameters_each_with_the_same_fresh_seeds(
    study: optuna.Study, definition: SweepSpec
) -> None:
    add(study, 11, 70)
    add(study, 22, 80)
    add(study, 33, 60)
    jobs, seeds = sweep.confirmations(definition, study), sweep.confirmation_seeds(definition)
    units = {1: 22, 0: 11}
    assert jobs == [
        Job(number=number, seed=seed, overrides=((UNITS, units[number]),)) for number in units for seed in seeds
    ]
    assert len(set(seeds)) == 2


class Confirming:
    """Confirms, here and at once, but those that die."""

    def __init__(self, *died: Job) -> None:
        self.died = set(died)

    def __call__(self, another: Callable[[int], Any], work: Any) -> Iterator[tuple[Any, Any]]:
        [definition] = work.args
        while (job := another(0)) is not None:
            if job in self.died:
                yield job, WorkerCrashed(1, -9)
                continue
            open_study(definition).set_user_attr(confirmation(job.number, job.seed), {"reason": "the loss is nan"})
            yield job, job.number


def test_what_was_confirmed_is_not_again_failed_or_not_and_what_died_is_told_of_and_is_at_the_next_start(
    study: optuna.Study, definition: SweepSpec
) -> None:
    add(study, 11, 70)
    add(study, 22, 80)
    jobs = sweep.confirmations(definition, study)
    confirm(definition, study, 1, (70.0, RIGHT))
    done: list[Job] = []
    sweep.confirm_all(definition, study, Confirming(jobs[2]), never(), done.append)
    assert done == jobs[1:]
    sweep.confirm_all(definition, study, Confirming(), never(), done.append)
    assert done == [*jobs[1:], jobs[2]]
    assert sweep.confirmations(definition, study) == []


def test_what_another_machine_confirms_meanwhile_is_not_confirmed_here(
    study: optuna.Study, definition: SweepSpec
) -> None:
    add(study, 11, 70)
    jobs = sweep.confirmations(definition, study)
    done: list[Job] = []

    def on_done(job: Job) -> None:
        done.append(job)
        confirm(definition, study, 0, (1.0, RIGHT), (2.0, RIGHT))

    sweep.confirm_all(definition, study, Confirming(), never(), on_done)
    assert done == jobs[:1]


def test_after_ctrl_c_nothing_more_is_confirmed(study: optuna.Study, definition: SweepSpec) -> None:
    add(study, 11, 70)
    stopping, done = never(), list[Job]()

    def on_done(job: Job) -> None:
        done.append(job)
        stopping.asked = True

    sweep.confirm_all(definition, study, Confirming(), stopping, on_done)
    assert len(done) == 1


# --- worker processes of this machine


def test_a_local_crew_is_as_many_processes_as_it_is_told() -> None:
    crew, given = sweep.local_executor(2), iter([0.3, 0.3])
    begun = time.monotonic()
    assert [result for _, result in crew(lambda busy: next(given, None), time.sleep)] == [None, None]
    assert time.monotonic() - begun < 60
