"""What a sweep tries is legal whatever is drawn, and what its file says wrong is told before anything is trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import FixedTrial

from bilstm_attention.config import Params, with_overrides
from bilstm_attention.errors import ParamsError
from bilstm_attention.search.space import Space, Sweep, read_sweep

ROOT = Path(__file__).parents[3]
KIND, HOPS, SIZE, PENALTY = (f"model.attention.{name}" for name in ("kind", "hops", "size", "penalty"))
UNITS, RATE = "model.lstm_units", "train.learning_rate"
CONDITIONAL = """
study: s
fixed: {train.epochs: 3}
space:
  model.attention.size: {low: 10, high: 30, step: 10, when: {model.attention.kind: [context, structured]}}
  model.attention.penalty: {values: [0, 0.5], when: {model.attention.hops: [2, 3]}}
  model.attention.hops: {low: 1, high: 3, when: {model.attention.kind: structured}}
  model.attention.kind: [zhou, context, structured]
  train.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
"""
Read = Callable[..., tuple[Sweep, Space]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads the text of a sweep; without `study:` the text is the space."""

    def act(text: str, overrides: dict[str, Any] | None = None, params: Params | None = None) -> tuple[Sweep, Space]:
        path = tmp_path / "file.yaml"
        path.write_text(text if "study:" in text else f"study: s\nspace: {text}\n")
        return read_sweep(path, params or Params(), overrides or {})

    return act


@pytest.fixture
def refusal(read: Read) -> Callable[..., str]:
    def act(text: str, overrides: dict[str, Any] | None = None) -> str:
        with pytest.raises(ParamsError) as caught:
            read(text, overrides)
        return str(caught.value)

    return act


@pytest.mark.parametrize(
    ("text", "distribution"),
    [
        ("{model.merge: [sum, concat]}", CategoricalDistribution(["sum", "concat"])),
        ("{model.lstm_units: {values: [3, 5]}}", CategoricalDistribution([3, 5])),
        # whole numbers of a fraction are fractions, so that they equal those that are drawn
        ("{train.ema: [0, 0.5]}", CategoricalDistribution([0.0, 0.5])),
        ("{train.clip_norm: [1.0, null]}", CategoricalDistribution([1.0, None])),
        ("{model.lstm_units: {low: 3, high: 9}}", IntDistribution(3, 9)),
        ("{model.lstm_units: {low: 3, high: 9, step: 3}}", IntDistribution(3, 9, step=3)),
        ("{model.lstm_units: {low: 3, high: 9, log: true}}", IntDistribution(3, 9, log=True)),
        ("{train.learning_rate: {low: 1, high: 2}}", FloatDistribution(1, 2)),
        ("{train.learning_rate: {low: 1.0e-4, high: 0.1, log: true}}", FloatDistribution(1e-4, 0.1, log=True)),
        ("{train.ema: {low: 0.0, high: 0.9, step: 0.3}}", FloatDistribution(0, 0.9, step=0.3)),
    ],
)
def test_dimension_has_the_values_of_the_file(text: str, distribution: Any, read: Read) -> None:
    [dimension] = read(text)[1].dimensions
    assert dimension.distribution == distribution
    trial = optuna.create_study(sampler=RandomSampler(seed=0)).ask()
    assert dimension.contains(dimension.suggest(trial))
    assert trial.distributions == {dimension.key: distribution}
    if isinstance(distribution, CategoricalDistribution):
        assert list(map(type, dimension.distribution.choices)) == list(map(type, distribution.choices))


def test_overrides_beat_fixed_and_fixed_beats_params(read: Read) -> None:
    text = "study: s\nfixed: {train.epochs: 3, train.patience: 2}\nspace: {model.lstm_units: [1]}"
    params = with_overrides(Params(), {"train.epochs": 9, "train.ema": 0.5})
    train = read(text, {"train.patience": 7}, params)[1].base.train
    assert (train.epochs, train.patience, train.ema) == (3, 7, 0.5)


@pytest.mark.parametrize(
    ("drawn", "tried"),
    [
        ({KIND: "zhou"}, set()),
        ({KIND: "context", SIZE: 20}, {SIZE}),
        ({KIND: "structured", SIZE: 20, HOPS: 1}, {SIZE, HOPS}),
        ({KIND: "structured", SIZE: 20, HOPS: 3}, {SIZE, HOPS, PENALTY}),
    ],
)
def test_conditional_values_follow_from_what_was_drawn(drawn: dict[str, Any], tried: set[str], read: Read) -> None:
    fixed = {SIZE: 10, HOPS: 1, PENALTY: 0.5, RATE: 0.001, **drawn}
    chosen = read(CONDITIONAL)[1].suggest(FixedTrial(fixed))
    assert chosen == {key: value for key, value in fixed.items() if key in {KIND, RATE} | tried}


@pytest.mark.parametrize(
    ("params", "current"),
    [
        ({}, {KIND: "zhou", RATE: 0.003}),
        (
            {KIND: "structured", HOPS: 2, SIZE: 20, PENALTY: 0.5},
            {KIND: "structured", HOPS: 2, SIZE: 20, PENALTY: 0.5, RATE: 0.003},
        ),
        # 25 is no step from 10, 1.0 is above the range, and context has no hops
        ({KIND: "context", HOPS: 2, SIZE: 25, RATE: 1.0}, {KIND: "context"}),
    ],
)
def test_first_trial_has_the_current_params_of_the_space(
    params: dict[str, Any], current: dict[str, Any], read: Read
) -> None:
    assert read(CONDITIONAL, params=with_overrides(Params(), params))[1].current() == current


def test_grid_has_every_combination_and_the_current_first(read: Read) -> None:
    text = "{model.lstm_units: {low: 50, high: 100, step: 25}, model.merge: [concat, sum]}"
    grid = read(text)[1].grid()
    assert grid[0] == {UNITS: 100, "model.merge": "sum"}
    assert len(grid) == 6
    assert {(each[UNITS], each["model.merge"]) for each in grid} == {
        (units, merge) for units in (50, 75, 100) for merge in ("sum", "concat")
    }


def test_grid_has_conditional_values_only_where_they_apply(read: Read) -> None:
    text = CONDITIONAL.replace("{low: 1.0e-4, high: 1.0e-2, log: true}", "[0.1, 0.2]")
    grid = read(text)[1].grid()
    # zhou 1, context 3 sizes, structured 3 sizes x (hops 1, hops 2 and 3 with 2 penalties); each at 2 rates
    assert len(grid) == 2 * (1 + 3 + 3 * (1 + 2 * 2))
    assert len({tuple(sorted(each.items())) for each in grid}) == len(grid)
    assert all((HOPS in each) == (each[KIND] == "structured") for each in grid)


def test_steps_of_a_fraction_are_decimals(read: Read) -> None:
    params = with_overrides(Params(), {"model.dropout.lstm": 0.3})
    space = read("{model.dropout.lstm: {low: 0.1, high: 0.3, step: 0.1}}", params=params)[1]
    assert [each["model.dropout.lstm"] for each in space.grid()] == [0.3, 0.1, 0.2]
    assert all(space.dimensions[0].contains(value) for value in space.dimensions[0].values())


REFUSED = {
    "a grid of a range without steps": (
        "study: s\nsampler: {kind: grid}\nspace: {train.learning_rate: {low: 0.1, high: 0.2}}",
        "file.yaml: space.train.learning_rate: a grid tries every value; give a list of values, or low, high and step.",
    ),
    "a grid of a logarithmic range": (
        "study: s\nsampler: {kind: grid}\nspace: {model.lstm_units: {low: 1, high: 9, log: true}}",
        "space.model.lstm_units: a grid tries every value",
    ),
    "a key that is no parameter": (
        "{model.lstm_unit: [1]}",
        "space: unknown parameter model.lstm_unit",
        "'model.lstm_",
    ),
    "a choice that the schema refuses": (
        "{model.lstm_units: [5, 0]}",
        "space.model.lstm_units: model.lstm_units: Input should be greater than or equal to 1; received 0",
    ),
    "a choice that is not known": ("{model.attention.kind: [zhou, zou]}", "'zou' is no mechanism; did you mean 'zhou'"),
    "a high that the schema refuses": ("{model.dropout.lstm: {low: 0.5, high: 1.5}}", "less than 1; received 1.5"),
    "a condition on what is not in the space": (
        "{model.attention.kind: [zhou], model.attention.hops: {values: [1], when: {model.attention.kin: zhou}}}",
        "space.model.attention.hops: when model.attention.kin: not in the space; did you mean 'model.attention.kind'?",
    ),
    "a condition that is never tried": (
        "{model.attention.kind: [max], model.attention.hops: {values: [1], when: {model.attention.kind: [max, x]}}}",
        "space.model.attention.hops: when model.attention.kind: 'x' is never tried there.",
    ),
    "a condition without a value": (
        "{model.merge: [sum], model.l2: {values: [0], when: {model.merge: []}}}",
        "space.model.l2: when.model.merge: List should have at least 1 item",
    ),
    "conditions in a circle": (
        "{model.merge: {values: [sum], when: {model.l2: 0.0}}, model.l2: {values: [0], when: {model.merge: sum}}}",
        "file.yaml: space: model.merge, model.l2: conditions in a circle",
    ),
    "low above high": ("{model.lstm_units: {low: 9, high: 3}}", "space.model.lstm_units: low 9, high 3: ", "at most"),
    "no number": ("{train.learning_rate: {low: 0.1, high: .inf}}", "low 0.1, high inf: finite numbers are legal"),
    "a step with log": (
        "{train.learning_rate: {low: 0.1, high: 0.5, step: 0.1, log: true}}",
        "space.train.learning_rate: The parameter `step` is not supported when `log` is true.",
    ),
    "a value twice": ("{model.lstm_units: [3, 5, 3]}", "space.model.lstm_units: [3, 5, 3] has a value twice."),
    "nothing to choose from": ("{model.lstm_units: 3}", "space.model.lstm_units: 3 is not a set of values"),
    "an unknown word of a range": (
        "{model.lstm_units: {low: 3, high: 4, stop: 1}}",
        "space.model.lstm_units: unknown parameter stop; did you mean 'step'? Legal: low, high, step, log, when.",
    ),
    "an unknown sampler": (
        "study: s\nsampler: {kind: tpa}\nspace: {model.l2: [0]}",
        "sampler.kind: Input should be 'tpe', 'random', 'grid', 'gp' or 'cmaes'; received 'tpa'; did you mean 'tpe'?",
    ),
    "two objectives and a pruner": (
        "study: s\nagainst: latency_ms\npruner: {kind: median}\nspace: {model.l2: [0]}",
        "file.yaml: against: with two objectives no trial can be pruned; write pruner: {kind: none}.",
    ),
    "two objectives and patience": (
        "study: s\nagainst: parameters\npruner: {kind: none}\nstop: {patience: 3}\nspace: {model.l2: [0]}",
        "file.yaml: stop.patience: counts trials without a better dev score; leave it out with against.",
    ),
    "no patience": ("study: s\nstop: {patience: 0}\nspace: {model.l2: [0]}", "stop.patience: Input should be greater"),
    "a study that is no name": ("study: ../s\nspace: {model.l2: [0]}", "study: String should match", "received '../s'"),
    "an unknown fixed key": (
        "study: s\nfixed: {train.epoch: 3}\nspace: {model.l2: [0]}",
        "file.yaml: fixed: unknown parameter train.epoch; did you mean 'epochs'?",
    ),
    "a key in fixed and in space": (
        "study: s\nfixed: {model.l2: 0.1}\nspace: {model.l2: [0]}",
        "model.l2 stands in fixed and in space; leave one out.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_faulty_file_is_refused(name: str, refusal: Callable[..., str]) -> None:
    text, *said = REFUSED[name]
    message = refusal(text)
    assert [part for part in said if part not in message] == [], message


@pytest.mark.parametrize(
    ("overrides", "space", "message"),
    [
        ({"data.test": None}, "{model.l2: [0]}", "folds: they would hold rows of test, since data.test names no file"),
        ({"data.dev": "dev.txt"}, "{model.l2: [0]}", "no dev file; here data.dev is dev.txt"),
        ({"train.restore_best_weights": True}, "{model.l2: [0]}", "file.yaml: train.restore_best_weights: true: the"),
        ({}, "{train.restore_best_weights: [false, true]}", "file.yaml: train.restore_best_weights: true: the fold"),
        ({}, "{train.restore_best_weights: {values: [true]}}", "file.yaml: train.restore_best_weights: true: the fold"),
    ],
)
def test_data_and_params_that_folds_cannot_score_are_refused(
    overrides: dict[str, Any], space: str, message: str, read: Read, refusal: Callable[..., str]
) -> None:
    text = "study: s\nfolds: {}\nspace: {}"
    last = {} if "restore" in space else {"train.restore_best_weights": False}
    params = with_overrides(Params(), {"train.restore_best_weights": False})
    with pytest.raises(ParamsError) as raised:
        read(text.format(3, space), {**last, **overrides}, params)
    assert message in str(raised.value)
    assert "folds: Input should be greater than or equal to 2" in refusal(text.format(1, space))
    assert read(text.format(3, "{model.l2: [0]}"), params=params)[0].folds == 3


def test_all_faults_are_listed_at_once(refusal: Callable[..., str]) -> None:
    message = refusal("{model.lstm_units: [0], train.ema: [2.0], model.merge: [sum]}")
    assert len(message.splitlines()) == 2
    assert refusal("{a: [0], b: [0]}").count("unknown parameter") == 2
    assert refusal("{model.lstm_units: [5]}", {UNITS: 7}).endswith("stands with -S and in space; leave one out.")


def test_choices_are_checked_under_their_conditions(read: Read, refusal: Callable[..., str]) -> None:
    # of structured, penalty needs several hops; under max, states need no size
    text = "{{model.attention.kind: [zhou, structured], model.attention.hops: {{values: [2]{}}}}}"
    assert len(read(text.format(", when: {model.attention.kind: structured}"))[1].grid()) == 2
    assert "hops" in refusal("{model.attention.hops: [0]}")
