"""Optuna's figures of a study: those it is enough for, on disk and on a page that loads nothing."""

from pathlib import Path

import optuna
import pytest
from matplotlib.image import imread
from optuna.trial import FrozenTrial, TrialState, create_trial

from bilstm_attention.reports.study_figures import short_names, write_figures

ONE = {"history", "importances", "slices", "parallel_coordinates", "intermediate_values"}


def make_trials(count: int, objectives: int = 1) -> list[FrozenTrial]:
    """Trials whose score is decided by the units; a conditional parameter, one None, one pruned, one retried."""
    study = optuna.create_study(
        directions=["maximize", "minimize"][:objectives], sampler=optuna.samplers.RandomSampler(seed=0)
    )

    def objective(trial: optuna.Trial) -> float | tuple[float, float]:
        units = trial.suggest_int("model.lstm_units", 1, 100)
        if trial.suggest_categorical("train.clip_norm", [None, 1.0]):
            trial.suggest_int("model.attention.hops", 1, 4)
        if objectives == 2:
            return units, 1000 - units
        for epoch in (1, 2, 3):
            trial.report(units / (4 - epoch), epoch)
            if trial.number == 3:
                raise optuna.TrialPruned
        return units

    study.optimize(objective, n_trials=count)
    study.add_trial(create_trial(state=TrialState.FAIL))
    return study.trials


@pytest.mark.parametrize(("objectives", "names"), [(1, ONE), (2, ONE - {"intermediate_values"} | {"pareto_front"})])
def test_every_figure_is_a_picture_and_a_part_of_the_page(objectives: int, names: set[str], tmp_path: Path) -> None:
    files, shares = write_figures("a<b", make_trials(24, objectives), ["accuracy", "cost"][:objectives], tmp_path)
    assert {file.name for file in files} == {f"{name}.png" for name in names} | {"figures.html"}
    for file in files:
        if file.suffix == ".png":
            height, width, _ = imread(file).shape
            assert height > 300
            assert width > 500
    assert max(shares, key=lambda name: shares[name]) == "lstm_units"
    assert sum(shares.values()) == pytest.approx(1)
    page = (tmp_path / "figures.html").read_text(encoding="utf-8")
    assert page.count("<h2>") == len(names)
    assert "Study a&lt;b" in page
    assert "default-src 'none'" in page
    assert "<script src" not in page
    assert "<link" not in page


def test_same_trials_give_the_same_bytes(tmp_path: Path) -> None:
    trials = make_trials(12)
    for name in ("one", "two"):
        write_figures("s", trials, ["accuracy"], tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_small_study_has_fewer_figures(tmp_path: Path) -> None:
    assert write_figures("s", make_trials(1), ["accuracy"], tmp_path) == ([], {})
    files, shares = write_figures("s", make_trials(3), ["accuracy"], tmp_path)
    assert shares == {}
    assert "importances.png" not in {file.name for file in files}


def test_names_are_short_where_they_differ() -> None:
    names = {"model.dropout.lstm", "model.lstm", "train.ema"}
    assert short_names(names) == {
        "model.dropout.lstm": "model.dropout.lstm",
        "model.lstm": "model.lstm",
        "train.ema": "ema",
    }
