"""The search space of a sweep: a file of `experiments/sweeps`, checked against the schema of parameters."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial, create_trial
from pydantic import BeforeValidator, Field, StringConstraints

from bilstm_attention.config import Params, flatten, with_overrides
from bilstm_attention.errors import ParamsError, did_you_mean, join_lines
from bilstm_attention.search.trainings import Folds, fold_fault
from bilstm_attention.yaml_files import Block, check, read_yaml

# Packages that samplers need and this project does not install.
SAMPLER_PACKAGES = {"gp": "torch", "cmaes": "cmaes"}


class Sampler(Block):
    """How the parameters of the next trial are drawn; `grid` tries every combination."""

    kind: Literal["tpe", "random", "grid", "gp", "cmaes"] = "tpe"
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0


class Pruner(Block):
    """When a trial ends early by its dev scores; `warmup_epochs` of `median`: epochs, or folds, in which none does."""

    kind: Literal["none", "median", "hyperband"] = "median"
    warmup_epochs: Annotated[int, Field(ge=0, le=1000)] = 0


class Confirm(Block):
    """The `top` best trials are trained again, each on the same fresh seeds, before a winner is named."""

    top: Annotated[int, Field(ge=0, le=1000)] = 5
    seeds: Annotated[int, Field(ge=1, le=1000)] = 5


class Stop(Block):
    """No new trial begins once `patience` finished trials in a row brought no better dev score; None: always."""

    patience: Annotated[int, Field(ge=1)] | None = None


class Sweep(Block):
    """The content of a file of `experiments/sweeps`."""

    # results go to `experiments/studies/<study>`
    study: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    # the dev score to maximize
    metric: Literal["official_f1", "micro_f1_without_other", "accuracy", "macro_f1"] = "official_f1"
    # of a cross-validation on the training set, each dev in turn: a trial trains on all, is pruned between them, and
    # has the mean of their scores; None: it trains once, and is pruned between epochs
    folds: Folds | None = None
    # to minimize: milliseconds per sentence, or weights besides the word vectors; the outcome is then a Pareto front
    against: Literal["latency_ms", "parameters"] | None = None
    sampler: Sampler = Sampler()
    pruner: Pruner = Pruner()
    confirm: Confirm = Confirm()
    stop: Stop = Stop()
    fixed: dict[str, Any] = Field(default_factory=dict)  # of all trials, by dotted name, over `params.yaml`
    # by dotted name a list, or `low` and `high` with `step` or `log`; either with `when`, the values of other
    # parameters of the space under which this one is tried
    space: Annotated[dict[str, Any], Field(min_length=1)]

    @property
    def score(self) -> str:
        """The score to maximize, as reports call it."""
        return f"{self.metric} (mean of {self.folds} folds)" if self.folds else f"dev {self.metric}"

    @property
    def objectives(self) -> list[str]:
        """The names of the objectives, the score first."""
        return [self.score, *([self.against] if self.against else [])]


AsList = BeforeValidator(lambda value: value if isinstance(value, list) else [value])
When = dict[str, Annotated[list[Any], Field(min_length=1), AsList]]
Distribution = CategoricalDistribution | IntDistribution | FloatDistribution


class Range(Block):
    """Numbers from `low` to `high`, both included."""

    low: int | float
    high: int | float
    step: int | float | None = None
    log: bool = False
    when: When = Field(default_factory=dict)


class Choice(Block):
    """One of `values`."""

    values: Annotated[list[str | bool | int | float | None], Field(min_length=1)]
    when: When = Field(default_factory=dict)


@dataclass(frozen=True)
class Dimension:
    """A parameter of the space."""

    key: str  # dotted name
    distribution: Distribution
    when: When

    def applies(self, overrides: Mapping[str, Any]) -> bool:
        """Whether this parameter is tried beside those drawn before it."""
        return all(key in overrides and overrides[key] in values for key, values in self.when.items())

    def suggest(self, trial: BaseTrial) -> Any:
        """A value for one trial."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return trial.suggest_categorical(self.key, choices)
            case IntDistribution(low=low, high=high, step=step, log=log):
                return trial.suggest_int(self.key, low, high, step=step, log=log)
            case FloatDistribution(low=low, high=high, step=step, log=log):
                return trial.suggest_float(self.key, low, high, step=step, log=log)

    def contains(self, value: Any) -> bool:
        """Whether a value is one of this parameter's."""
        try:
            create_trial(value=0.0, params={self.key: value}, distributions={self.key: self.distribution})
        except ValueError:
            return False
        return True

    def values(self) -> list[Any]:
        """All values; none of a range without steps, which is infinite."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return list(choices)
            case IntDistribution(low=low, high=high, step=step, log=False):
                return list(range(low, high + 1, step))
            case FloatDistribution(low=low, high=high, step=float(step)):
                # in decimals: 0.1 + 2 * 0.1 is more than 0.3 in binary
                first, between = Decimal(str(low)), Decimal(str(step))
                return [float(first + number * between) for number in range(round((high - low) / step) + 1)]
        return []


@dataclass(frozen=True)
class Space:
    """What the trials of a sweep share, and what they try."""

    base: Params
    dimensions: tuple[Dimension, ...]  # each after those that its `when` names

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Draws the overrides of one trial, by dotted name."""
        overrides: dict[str, Any] = {}
        for dimension in self.dimensions:
            if dimension.applies(overrides):
                overrides[dimension.key] = dimension.suggest(trial)
        return overrides

    def grid(self) -> list[dict[str, Any]]:
        """Every combination that the conditions allow; the `current` one first, where it is among them."""
        combinations: list[dict[str, Any]] = [{}]
        for dimension in self.dimensions:
            choices = [{dimension.key: value} for value in dimension.values()]
            combinations = [
                {**overrides, **choice}
                for overrides in combinations
                for choice in (choices if dimension.applies(overrides) else [{}])
            ]
        return sorted(combinations, key=lambda overrides: overrides != self.current())

    def current(self) -> dict[str, Any]:
        """The values of `base` for those parameters whose dimension contains them: the first trial."""
        current, overrides = flatten(self.base), dict[str, Any]()
        for dimension in self.dimensions:
            if dimension.applies(overrides) and dimension.contains(current[dimension.key]):
                overrides[dimension.key] = current[dimension.key]
        return overrides


def read_sweep(path: Path, params: Params, overrides: Mapping[str, Any]) -> tuple[Sweep, Space]:
    """Reads a file of `experiments/sweeps` and checks its keys and values against the schema of parameters.

    `overrides` are parameters that all trials share, by dotted name, over those of the file.

    Raises:
        ParamsError: lists what is unknown, illegal, or tried under a condition that never holds.
    """
    sweep = check(read_yaml(path), str(path), Sweep)
    fixed = {**flatten(sweep.fixed), **overrides}
    base = with_overrides(params, fixed, where=f"{path}: fixed")
    _refuse(path, _faults(sweep, base, fixed, overrides))
    known = flatten(base)
    dimensions = {
        key: _dimension(key, setting, isinstance(known[key], float), f"{path}: space.{key}")
        for key, setting in sweep.space.items()
    }
    _refuse(path, _faults_of_when(dimensions))
    space = Space(base, tuple(_in_order(dimensions, path)))
    _refuse(path, _illegal_values(space))
    if sweep.sampler.kind == "grid":
        endless = [each.key for each in space.dimensions if not each.values()]
        advice = "a grid tries every value; give a list of values, or low, high and step."
        _refuse(path, (f"space.{key}: {advice}" for key in endless))
    return sweep, space


def _refuse(path: Path, faults: Iterable[str]) -> None:
    if distinct := dict.fromkeys(faults):
        raise ParamsError(join_lines(f"{path}: {fault}" for fault in distinct))


def _faults(sweep: Sweep, base: Params, fixed: Mapping[str, Any], overrides: Mapping[str, Any]) -> Iterator[str]:
    known, named = flatten(base), [*fixed, *sweep.space]
    for key in sweep.space:
        if key not in known:
            yield f"space: unknown parameter {key}{did_you_mean(key, known) or '.'}"
    for key in sorted(fixed.keys() & sweep.space.keys()):
        yield f"{key} stands {'with -S' if key in overrides else 'in fixed'} and in space; leave one out."
    for key in named:
        if key.partition(".")[0] in ("data", "embeddings"):
            yield f"{key}: trials use the data prepared by params.yaml; change it there, then `dvc repro embed`."
    if sweep.folds and not base.data.test:
        yield "folds: they would hold rows of test, since data.test names no file; leave folds out."
    any_epoch = {key: True for key in sweep.space if key == "train.restore_best_weights"}
    if sweep.folds and (fault := fold_fault(with_overrides(base, any_epoch))):
        yield f"{fault}."
    if "train.seeds" in named:
        yield "train.seeds: each trial derives its own seed from sampler.seed; leave it out."
    if sweep.against and sweep.pruner.kind != "none":
        yield "against: with two objectives no trial can be pruned; write pruner: {kind: none}."
    if sweep.against and sweep.stop.patience:
        yield "stop.patience: counts trials without a better dev score; leave it out with against."
    package = SAMPLER_PACKAGES.get(sweep.sampler.kind)
    if package and not find_spec(package):
        yield f"sampler.kind: {sweep.sampler.kind} needs the package {package}: pip install {package}."


def _dimension(key: str, setting: Any, is_float: bool, where: str) -> Dimension:
    if isinstance(setting, list):
        setting = {"values": setting}
    if not isinstance(setting, Mapping):
        raise ParamsError(f"{where}: {setting!r} is not a set of values; write a list of values, or low and high.")
    if "values" in setting:
        choice = check(setting, where, Choice)
        values = [float(value) if is_float and type(value) is int else value for value in choice.values]
        if len({(type(value), value) for value in values}) < len(values):
            raise ParamsError(f"{where}: {values} has a value twice.")
        return Dimension(key, CategoricalDistribution(values), choice.when)
    span = check(setting, where, Range)
    numbers = span.model_dump(include={"low", "high", "step"}, exclude_none=True)
    if not all(map(math.isfinite, numbers.values())) or span.low > span.high:
        raise ParamsError(f"{where}: low {span.low}, high {span.high}: finite numbers are legal, low at most high.")
    distribution: Any = FloatDistribution if is_float or float in map(type, numbers.values()) else IntDistribution
    try:
        return Dimension(key, distribution(log=span.log, **numbers), span.when)
    except ValueError as error:
        raise ParamsError(f"{where}: {error}") from None


def _faults_of_when(dimensions: Mapping[str, Dimension]) -> Iterator[str]:
    for dimension in dimensions.values():
        for key, values in dimension.when.items():
            named = f"space.{dimension.key}: when {key}"
            if key not in dimensions:
                hint = did_you_mean(key, dimensions) or "."
                yield f"{named}: not in the space{hint} A condition is on what is tried."
            elif strange := [value for value in values if not dimensions[key].contains(value)]:
                yield f"{named}: {', '.join(map(repr, strange))} is never tried there."


def _in_order(dimensions: Mapping[str, Dimension], path: Path) -> Iterator[Dimension]:
    """Conditions before what depends on them."""
    waiting, done = dict(dimensions), set[str]()
    while ready := [key for key, dimension in waiting.items() if set(dimension.when) <= done]:
        for key in ready:
            done.add(key)
            yield waiting.pop(key)
    if waiting:
        circle = "conditions in a circle; a condition cannot depend on itself."
        raise ParamsError(f"{path}: space: {', '.join(waiting)}: {circle}")


def _illegal_values(space: Space) -> Iterator[str]:
    """Of every choice and both ends of every range, under the first values of their conditions."""
    under: dict[str, dict[str, Any]] = {}
    for dimension in space.dimensions:
        conditions: dict[str, Any] = {}
        for key, values in dimension.when.items():
            conditions |= {**under[key], key: values[0]}
        under[dimension.key] = conditions
        tried = dimension.distribution
        for value in tried.choices if isinstance(tried, CategoricalDistribution) else (tried.low, tried.high):
            try:
                with_overrides(space.base, {**conditions, dimension.key: value}, f"space.{dimension.key}")
            except ParamsError as error:
                yield from str(error).splitlines()
