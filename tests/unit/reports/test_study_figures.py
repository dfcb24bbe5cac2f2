"""The figures of a study: what stands in them, what is left out, and that they need nothing but themselves."""

import datetime
import math
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.image import imread
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from bilstm_attention.reports import study_figures, study_plots
from bilstm_attention.reports.study_figures import EndedTrials, importances, write_figures

F1 = ("official_f1",)
TWO = ("official_f1", "parameters")
SINGLE = {"history", "parallel_coordinates", "slices", "importances", "intermediate_values", "timeline"}
pytestmark = pytest.mark.filterwarnings("error::UserWarning", "error::FutureWarning", "error::DeprecationWarning")


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def suggested(trial: optuna.Trial) -> float:
    """A score that the kind decides; hops, of one kind alone, and units matter a little, and merge not at all."""
    kind = trial.suggest_categorical("model.attention.kind", ["zhou", "structured", "max"])
    units = trial.suggest_int("model.lstm_units", 50, 200, step=50)
    rate = trial.suggest_float("train.learning_rate", 5e-4, 5e-3, log=True)
    trial.suggest_categorical("model.merge", ["sum"])
    hops = trial.suggest_int("model.attention.hops", 1, 8) if kind == "structured" else 0
    return {"zhou": 60, "structured": 75, "max": 50}[kind] + units / 200 + 0.2 * hops + 100 * rate


def searched(trial: optuna.Trial) -> float:
    score = suggested(trial)
    for epoch in range(1, 6):
        trial.report(score - 10 / epoch, epoch)
        if trial.number % 5 == 3 and epoch == 2:
            raise optuna.TrialPruned
        if trial.number % 11 == 7:
            raise RuntimeError("the loss is no number")
    return score


def study_of(
    trials: int, objective: Any = searched, directions: tuple[str, ...] = ("maximize",), seed: int = 0
) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=seed)
    study = optuna.create_study(study_name="made <up>", directions=directions, sampler=sampler)
    study.optimize(objective, trials, catch=(RuntimeError,))
    return study


def added(study: optuna.Study, state: TrialState, score: Any = None, **attributes: Any) -> int:
    """Adds a trial as a sweep may leave one behind; returns its number."""
    study.add_trial(
        create_trial(
            state=state,
            values=None if score is None else [score] * len(study.directions),
            params={"model.lstm_units": 50},
            distributions={"model.lstm_units": IntDistribution(50, 200, step=50)},
            user_attrs=attributes,
            intermediate_values={1: 1.0, 2: 2.0},
        )
    )
    return study.get_trials()[-1].number


def names(files: list[Path]) -> set[str]:
    return {file.stem for file in files if file.suffix == ".png"}


def kept_figures(patch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Will hold the figures of the pictures, by name."""
    figures: dict[str, Figure] = {}
    write = study_plots.write
    patch.setattr(study_plots, "write", lambda figure, path: (figures.update({path.stem: figure}), write(figure, path)))
    return figures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    return kept_figures(monkeypatch)


def numbers_on(page: Path) -> set[int]:
    """Of the trials that the page tells about when one points at them."""
    return set(map(int, re.findall(r'\\"number\\": (\d+)', page.read_text(encoding="utf-8"))))


@dataclass(frozen=True)
class Written:
    """A study, its files, and the figures of its pictures."""

    study: optuna.Study
    before: list[optuna.trial.FrozenTrial]
    files: list[Path]
    figures: dict[str, Figure]

    @property
    def page(self) -> str:
        return self.files[-1].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Drawn once, with every warning an error: nothing experimental or deprecated is used."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = study_of(30)
    before = study.get_trials()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = kept_figures(patch)
        files = write_figures(study, F1, tmp_path_factory.mktemp("figures"))
    return Written(study, before, files, figures)


def test_every_figure_is_written_as_a_picture_and_stands_on_the_page(written: Written) -> None:
    *pictures, page = written.files
    assert set(written.files) == set(page.parent.iterdir())
    assert names(pictures) == SINGLE
    assert page.name == "figures.html"
    for picture in pictures:
        assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        pixels = imread(picture)[..., :3]
        assert pixels.shape[0] > 250
        assert pixels.shape[1] > 900
        assert pixels.std() > 0.05, "blank"
    assert re.findall(r'<div id="(\w+)" class="plotly', written.page) == [picture.stem for picture in pictures]
    headings = [study_figures.CAPTIONS[picture.stem][0] for picture in pictures]
    assert re.findall(r"<h2>(.*?)</h2>\n<p>.{60,}</p>", written.page) == headings
    assert "<h1>Study made &lt;up&gt;</h1>" in written.page


def test_the_page_needs_no_network(written: Written) -> None:
    script = study_figures.get_plotlyjs()
    assert written.page.count(script) == 1
    own = written.page.replace(script, "")
    assert not re.search(r"https?:|\b(src|href|integrity)\s*=|url\(|@import", own)
    # of what the script could fetch, the browser lets nothing through
    assert "Content-Security-Policy\" content=\"default-src 'none';" in own
    assert written.page.index("Content-Security-Policy") < written.page.index("<script>")
    # its button that sends the data to a server of its makers is there unless told otherwise
    assert own.count('"showSendToCloud": false') == own.count("Plotly.newPlot(") == len(SINGLE)


def test_the_same_study_gives_the_same_bytes_and_is_left_as_it_was(written: Written, tmp_path: Path) -> None:
    again = write_figures(written.study, F1, tmp_path)
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in written.files]
    assert written.study.get_trials() == written.before


def test_trials_that_ran_again_or_were_one_too_many_are_nowhere(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    study = study_of(20, suggested)
    added(study, TrialState.FAIL)
    gone = {
        20,
        added(study, TrialState.COMPLETE, 99.0, surplus=True),
        added(study, TrialState.COMPLETE, math.inf),
        added(study, TrialState.RUNNING),
        added(study, TrialState.WAITING),
    }
    kept = {*range(20), added(study, TrialState.COMPLETE, 60.0, replaces=[20]), added(study, TrialState.FAIL)}
    files = write_figures(study, F1, tmp_path)
    assert numbers_on(files[-1]) == kept, "trials keep their numbers"
    assert not gone & kept
    dots = drawn["history"].axes[0].lines[1]
    assert set(dots.get_xdata()) == kept - {max(kept)}
    assert max(dots.get_ydata()) < 99
    dots, line = study_figures._history(EndedTrials(study), "official F1").data
    assert set(dots.x) == set(line.x) == kept - {max(kept)}
    assert max(line.y) < 99
    bars = drawn["timeline"].axes[0].patches
    assert sorted(round(bar.get_y() + bar.get_height() / 2) for bar in bars) == sorted(kept)
    assert "intermediate_values" not in drawn, "one alone is left that reported"
    assert {trial.number for trial in study.get_trials()} == kept | gone


@pytest.mark.parametrize(("direction", "best"), [("maximize", max), ("minimize", min)])
def test_the_history_names_the_best_trial_and_follows_the_best_so_far(
    direction: str, best: Any, tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    study = study_of(15, directions=(direction,))
    study_plots.history(EndedTrials(study), "official F1", tmp_path / "history.png")
    axes = drawn["history"].axes[0]
    assert axes.get_title(loc="left") == f"best: {study.best_value:.4g}, trial {study.best_trial.number}"
    scores = [trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,))]
    assert list(axes.lines[0].get_ydata())[:-1] == [best(scores[: end + 1]) for end in range(len(scores))]
    assert axes.get_ylabel() == "official F1"


def test_parameters_go_by_their_last_part_and_the_page_says_which_they_are(written: Written) -> None:
    shown = [label.get_text() for label in written.figures["parallel_coordinates"].axes[0].get_xticklabels()]
    assert set(shown) == {"official F1", "kind", "lstm_units", "learning_rate", "merge", "hops"}
    assert shown[0] == "official F1"
    assert {axes.get_xlabel() for axes in written.figures["slices"].axes} - {""} == set(shown[1:])
    assert "hops is model.attention.hops, kind is model.attention.kind" in written.page


def test_a_line_of_the_parallel_coordinates_goes_through_the_values_of_its_trial(
    tmp_path: Path, drawn: dict[str, Figure]
) -> None:
    study = study_of(20, suggested)
    study_plots.parallel_coordinates(EndedTrials(study), "official F1", tmp_path / "parallel_coordinates.png")
    axes = drawn["parallel_coordinates"].axes[0]
    names = [label.get_text() for label in axes.get_xticklabels()]
    lines = [line for line in axes.lines if len(line.get_xdata()) == len(names)]
    assert len(lines) == 20
    best, worst = (dict(zip(names, lines[end].get_ydata(), strict=True)) for end in (-1, 0))
    params = study.best_params
    assert best["official F1"] == 1
    assert worst["official F1"] == 0
    assert best["model.attention.kind"] == 0.5
    assert best["model.attention.hops"] == pytest.approx((params["model.attention.hops"] - 1) / 7)
    assert best["train.learning_rate"] == pytest.approx(math.log10(params["train.learning_rate"] / 5e-4))
    assert worst["model.attention.hops"] == study_plots.ABSENT
    assert np.mean(lines[-1].get_color()[:3]) < np.mean(lines[0].get_color()[:3]), "the darker the better"


def test_a_parameter_that_decides_comes_first_and_shares_sum_to_one() -> None:
    noise = np.random.default_rng(0)

    def objective(trial: optuna.Trial) -> float:
        kind = trial.suggest_categorical("model.attention.kind", [*"abcdef", "structured"])
        trial.suggest_int("model.lstm_units", 50, 200, step=50)
        trial.suggest_categorical("model.merge", ["sum"])
        if kind == "structured":
            trial.suggest_int("model.attention.hops", 1, 8)
        return {"structured": 75, "a": 60, "b": 60}.get(kind, 50) + noise.random()

    study = study_of(100, objective)
    found = importances(study, F1)
    assert list(found) == ["PED-ANOVA", "fANOVA"]
    for shares in found.values():
        assert next(iter(shares)) == "model.attention.kind"
        assert sum(shares.values()) == pytest.approx(1)
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
        assert min(shares.values()) >= 0
        assert "model.merge" not in shares, "it has one value"
    assert found["fANOVA"]["model.attention.kind"] > 0.9
    assert "model.attention.hops" in found["PED-ANOVA"]
    assert "model.attention.hops" not in found["fANOVA"], "not every trial has it"
    assert importances(study, F1) == found


def test_importances_ask_for_the_good_end_of_the_first_objective() -> None:
    """`good` is spread evenly over the bad trials; of the good ones all have the same."""

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        good, other = (trial.suggest_int(name, 0, 9) for name in ("good", "other"))
        return (10.0 if good == 9 else -other / 100), float(other)

    up, down = (study_of(80, objective, (first, "minimize")) for first in ("maximize", "minimize"))
    assert next(iter(importances(up, TWO)["PED-ANOVA"])) == "good"
    assert next(iter(importances(down, TWO)["PED-ANOVA"])) == "other"


def test_too_few_complete_trials_or_nothing_to_tell_apart_have_no_importances() -> None:
    assert importances(study_of(9, suggested), F1) == {}
    assert set(importances(study_of(10, suggested), F1)) == {"PED-ANOVA", "fANOVA"}
    assert importances(study_of(30, lambda trial: 0 * suggested(trial)), F1) == {}
    assert importances(study_of(30, lambda trial: trial.suggest_float("alone", 0, 1)), F1) == {}
    assert importances(study_of(30, lambda trial: 1.0), F1) == {}


def test_two_objectives_have_their_front_and_the_rest_is_of_the_first(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        score = suggested(trial)
        return score, trial.params["model.lstm_units"] * 1000 + 100 * score

    study = study_of(30, objective, ("maximize", "minimize"))
    front = {trial.number: trial.values for trial in study.best_trials}
    added(study, TrialState.COMPLETE, 1e3, surplus=True)
    files = write_figures(study, TWO, tmp_path)
    assert names(files) == SINGLE - {"intermediate_values"} | {"pareto_front"}
    axes = drawn["pareto_front"].axes[0]
    assert axes.get_xlabel() == "official F1 (higher is better)"
    assert axes.get_ylabel() == "parameters (lower is better)"
    assert sorted(map(list, axes.lines[1].get_xydata())) == sorted(front.values())
    assert len(axes.lines[0].get_xydata()) + len(front) == 30
    assert {int(text.get_text()) for text in axes.texts} <= set(front)
    assert axes.texts
    best = max(trial.values[0] for trial in study.get_trials()[:30])
    assert drawn["history"].axes[0].lines[0].get_ydata()[-1] == best
    assert max(numbers_on(files[-1])) == 29


def single_valued(trial: optuna.Trial) -> float:
    trial.suggest_int("only", 3, 3)
    trial.suggest_categorical("also", [None])
    return float(trial.number)


def failing(trial: optuna.Trial) -> float:
    trial.report(1.0, 1)
    raise RuntimeError


OF_SCORES = {"history", "parallel_coordinates", "slices", "timeline"}
TINY = {
    "nothing": (0, suggested, set()),
    "one trial": (1, searched, set()),
    "two trials": (2, searched, OF_SCORES | {"intermediate_values"}),
    "two that failed": (2, failing, {"timeline"}),
    "no parameters": (3, lambda trial: float(trial.number), {"history", "timeline"}),
    "one parameter": (12, lambda trial: trial.suggest_float("x", 0, 1), OF_SCORES),
    "one value of each": (12, single_valued, OF_SCORES),
    "one score": (12, lambda trial: 0 * suggested(trial), OF_SCORES),
}


@pytest.mark.parametrize(("trials", "objective", "expected"), TINY.values(), ids=TINY)
def test_what_a_study_is_too_small_for_is_left_out(
    trials: int, objective: Any, expected: set[str], tmp_path: Path
) -> None:
    files = write_figures(study_of(trials, objective), F1, tmp_path)
    assert names(files) == expected
    assert len(files) == len(expected) + bool(expected)
    assert set(files) == set(tmp_path.iterdir())


def test_two_objectives_of_one_trial_or_of_equal_scores_are_no_error(tmp_path: Path) -> None:
    directions = ("maximize", "minimize")
    assert write_figures(study_of(1, lambda trial: (1.0, 2.0), directions), TWO, tmp_path) == []
    equal = study_of(3, lambda trial: (1.0, 2.0), directions)
    assert names(write_figures(equal, TWO, tmp_path)) == {"history", "pareto_front", "timeline"}


def test_a_page_that_fails_midway_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "figures.html"
    page.write_text("old")

    def half(path: Path, text: str, **_: Any) -> None:
        path.write_bytes(text[:100].encode())
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="no space left"):
        write_figures(study_of(2, single_valued), F1, tmp_path)
    assert page.read_bytes() == b"old"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (CategoricalDistribution([True, False]), {"True": 0, "False": 1}),
        (CategoricalDistribution([None]), {"None": 0.5}),
        (IntDistribution(50, 200, step=50), {"50": 0, "100": 1 / 3, "150": 2 / 3, "200": 1}),
        (IntDistribution(3, 3), {"3": 0.5}),
        (FloatDistribution(1e-3, 1e-1, log=True), {"0.001": 0, "0.01": 0.5, "0.1": 1}),
        (FloatDistribution(1e-6, 1.0, log=True), {f"{10.0**power:g}": 1 + power / 6 for power in range(-6, 1)}),
        (FloatDistribution(0.0, 0.5), {"0": 0, "0.1": 0.2, "0.5": 1}),
    ],
    ids=str,
)
def test_an_axis_has_readable_ticks_where_their_values_stand(
    distribution: BaseDistribution, expected: dict[str, float]
) -> None:
    ticks = dict(study_plots._ticks(distribution))
    assert {text: ticks.get(text) for text in expected} == pytest.approx(expected)
    assert len(ticks) < 9


def test_short_names_are_the_last_parts_that_no_other_name_ends_in() -> None:
    given = ["kind", "model.attention.kind", "model.merge.kind", "model.lstm_units", "train.x_units"]
    expected = ["kind", "attention.kind", "merge.kind", "lstm_units", "x_units"]
    assert list(study_figures._short_names(given).values()) == expected


@given(st.sets(st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map(".".join)))
def test_no_two_names_are_shortened_to_the_same(names: set[str]) -> None:
    short = study_figures._short_names(sorted(names))
    assert len(set(short.values())) == len(names)
    assert all(f".{name}".endswith(f".{part}") for name, part in short.items())


def test_bars_of_the_timeline_are_as_long_as_the_trials_took(written: Written) -> None:
    bars = sorted(written.figures["timeline"].axes[0].patches, key=lambda bar: bar.get_y())
    lengths = [datetime.timedelta(days=bar.get_width()).total_seconds() for bar in bars]
    assert lengths == pytest.approx([trial.duration.total_seconds() for trial in written.before], abs=1e-4)


def test_a_pruned_trial_ends_where_it_stopped(written: Written) -> None:
    lines = written.figures["intermediate_values"].axes[0].lines
    ends = {
        state: sorted(len(t.intermediate_values) for t in written.before if t.state == state) for state in TrialState
    }
    by_look = [line for line in lines if line.get_marker() == "o"], [line for line in lines if line.get_marker() == "X"]
    assert [len(line.get_xdata()) for line in by_look[0]] == ends[TrialState.COMPLETE]
    assert [len(line.get_xdata()) for line in by_look[1]] == ends[TrialState.PRUNED]
    assert set(ends[TrialState.PRUNED]) == {2}
    assert len(lines) == len(written.before) - len(ends[TrialState.FAIL]) < len(written.before)
