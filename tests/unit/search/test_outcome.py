"""The outcome of a sweep: ranks, the confirmed winner, the files, the lines and the runs that tell of it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import optuna
import pandas as pd
import pytest
from optuna.exceptions import StorageInternalError
from tests.unit.search.studies import AGAINST, FOLDS, UNITS, add_trial, make_spec, run_sweep

from bilstm_attention import paths
from bilstm_attention.config import Params, flatten, load_params
from bilstm_attention.errors import SweepError, TrainingError
from bilstm_attention.search import commands
from bilstm_attention.search.outcome import (
    Outcome,
    get_outcome,
    log_sweep,
    protocol,
    read_outcome,
    sweep_records,
    sweep_runs,
    write_outcome,
)
from bilstm_attention.search.study import SweepSpec, begin_study, confirmation_seeds
from bilstm_attention.search.sweep import StopRequest
from bilstm_attention.search.trainings import TrainingJob
from bilstm_attention.tracking.runs import PARENT, Tracker, complete_runs

GOLD = ["a", "b"] * 20
RIGHT, WRONG = GOLD, ["b", "a"] * 20
BEST_3 = (None, None, 78.0, 80.0)  # the trainings of trial 2 fail


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepSpec:
    monkeypatch.chdir(tmp_path)
    write_labels(paths.PROJECT)
    return make_spec(tmp_path)


def write_labels(*roots: Path) -> None:
    for root in roots:
        (root / paths.PREPARED).mkdir(parents=True)
        for split in ("train", "dev"):
            pd.DataFrame({"label": GOLD}).to_parquet(root / paths.PREPARED / f"{split}.parquet")


@pytest.fixture
def study(spec: SweepSpec) -> optuna.Study:
    """A waiting trial, 0, and four finished: 2 did best in the search, then 3, then 1."""
    study = begin_study(spec)
    for units, score in ((10, 70.0), (20, 90.0), (30, 80.0)):
        add_trial(study, units, score)
    add_trial(study, 40, state="FAIL", reason="the loss is not a number")
    return study


def confirm(
    spec: SweepSpec, study: optuna.Study, monkeypatch: pytest.MonkeyPatch, *scores: float | None
) -> tuple[list[str], Outcome]:
    """Confirms the best trials with these scores of the trainings in their order; None: it fails; at their end, a stop.

    Returns the printed lines, and the outcome.
    """
    lines: list[str] = []

    def run(jobs: Sequence[TrainingJob], *_: Any) -> Iterator[tuple[TrainingJob, Any]]:
        for job, score in zip(jobs, scores, strict=False):
            record = SimpleNamespace(dev={"accuracy": score}, predicted=RIGHT if (score or 0) > 75 else WRONG)
            yield job, TrainingError("no luck") if score is None else record

    progress = SimpleNamespace(log=lines.append, update=lambda *arguments: None)
    monkeypatch.setattr(commands.trainings, "run_trainings", run)
    return lines, get_outcome(spec, study, commands._confirm(spec, study, 2, StopRequest(print), progress))


def test_confirmed_trials_rank_by_their_means(
    spec: SweepSpec, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, outcome = confirm(spec, study, monkeypatch, 70.0, 72.0, 78.0, 80.0)
    first, _ = confirmation_seeds(spec)
    assert lines[0] == f"trial 2 with seed {first}: dev accuracy 70.00"
    board = outcome.leaderboard
    assert board["trial"].tolist() == [3, 2, 1, 4]
    assert board["confirmed_mean"].tolist()[:2] == [79.0, 71.0]
    assert board["by_seed"].tolist() == ["78.00, 80.00", "70.00, 72.00", None, None]
    assert board["reason"].tolist() == [None, None, None, "the loss is not a number"]
    assert outcome.winner == {"trial": 3, "score": 79.0, "searched": 80.0, "confirmed": True}
    assert outcome.p is not None
    assert outcome.p < 0.01
    write_outcome(spec, study, outcome)
    assert pd.read_csv(spec.folder / "leaderboard.csv")["trial"].tolist() == [3, 2, 1, 4]
    best = load_params(spec.folder / "best.yaml")
    assert (best.model.lstm_units, best.train.seeds) == (30, confirmation_seeds(spec))
    assert "Trial 3 of the study s: dev accuracy 79.0" in (spec.folder / "best.yaml").read_text()
    winner = read_outcome(spec.folder)
    assert (winner["trial"], winner["score"], winner["confirmed"], winner["trials"]) == (3, 79.0, True, 4)
    assert read_outcome(spec.folder / "none") == {}


@pytest.mark.parametrize("scores", [(70.0, None, None, 78.0), (70.0,)])
def test_trial_with_a_missing_confirmation_is_not_confirmed(
    scores: tuple[float | None, ...], spec: SweepSpec, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, outcome = confirm(spec, study, monkeypatch, *scores)
    assert [line for line in lines if "no luck" in line] == [
        f"trial {trial} with seed {seed} failed: no luck"
        for trial, seed in zip((2, 3), reversed(confirmation_seeds(spec)), strict=True)
    ][: len(scores) - 1]
    assert outcome.winner == {"trial": 2, "score": 90.0, "searched": 90.0, "confirmed": False}
    assert outcome.p is None
    write_outcome(spec, study, outcome)
    # what the trial itself was trained with
    assert load_params(spec.folder / "best.yaml").train.seeds == [102]


def test_folds_are_confirmed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folds = make_spec(tmp_path, FOLDS)
    study = begin_study(folds)
    write_labels(*folds.roots)
    for units, score in ((20, 90.0), (30, 80.0)):
        add_trial(study, units, score)
    lines, lost = confirm(folds, study, monkeypatch, 61.0, None, *[70.0] * 10)
    assert lost.leaderboard["confirmed_mean"].tolist()[1:] == [None]
    seed = confirmation_seeds(folds)[0]
    assert lines[0] == f"trial 1 with seed {seed}, fold 0: dev accuracy 61.00"
    assert lines[1] == f"trial 1 with seed {seed}, fold 1 failed: no luck"
    # two trials with two seeds
    assert len(lines) == 2 * 2 * 3
    compared = Mock(return_value=0.5)
    monkeypatch.setattr("bilstm_attention.search.outcome.compare", compared)
    _, outcome = confirm(folds, study, monkeypatch, *[61.0, 62.0, 63.0] * 2, *[62.0, 63.0, 76.0] * 2)
    assert (outcome.winner, outcome.p) == ({"trial": 2, "score": 67.0, "searched": 80.0, "confirmed": True}, 0.5)
    compared.assert_called_once_with(3 * GOLD, [[*WRONG, *WRONG, *RIGHT]] * 2, [3 * WRONG] * 2, "accuracy")
    write_outcome(folds, study, outcome)
    comment = " ".join((folds.folder / "best.yaml").read_text().partition("model:")[0].replace("#", "").split())
    assert "Trial 2 of the study s: accuracy (mean of 3 folds) 67.0, mean of seeds" in comment
    assert comment.endswith("`dvc repro` prints another score: it trains on one split, without folds.")
    assert load_params(folds.folder / "best.yaml").data.fold is None
    assert "its last epoch **on 3 folds of train, their mean**" in protocol(folds, outcome.leaderboard)


def test_run_of_folds_has_the_score_of_each(spec: SweepSpec, tmp_path: Path) -> None:
    folds = make_spec(tmp_path, FOLDS.replace("study: s", "study: f"))
    (run,) = sweep_records(run_sweep(folds, 1), folds.folder)[1:]
    each = {f"dev/accuracy/fold_{fold}": score for fold, score in enumerate((3.0, 6.0, 9.0))}
    assert run.metrics == {"best_epoch": 2, "dev/accuracy": 6.0} | each
    assert [row["dev/accuracy"] for row in run.history] == [5.0, 6.0, 6.0]
    assert (run.tags["folds"], dict(run.datasets)) == ("3", {})


def test_folds_are_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_spec(tmp_path, FOLDS)
    (tmp_path / "params.yaml").write_text("{}\n")
    prepared, specs = list[int | None](), list[SweepSpec]()

    def prepare(params: Params, root: Path) -> None:
        prepared.append(params.data.fold)
        if len(prepared) == 2:
            raise KeyboardInterrupt
        (root / paths.EMBEDDINGS).mkdir(parents=True)
        (root / paths.EMBEDDINGS / "coverage.json").touch()

    def begin(spec: SweepSpec) -> None:
        specs.append(spec)
        raise StorageInternalError("enough")

    monkeypatch.setattr(commands, "check_up_to_date", lambda *arguments: None)
    monkeypatch.setattr(commands, "load_labels", lambda: ["a", "b"])
    monkeypatch.setattr(commands.studies, "begin_study", begin)
    for error in (KeyboardInterrupt, SweepError, SweepError):
        with pytest.raises(error):
            commands.sweep(tmp_path / "sweep.yaml", 1, None, 1, None, 1, {}, prepare)
    assert prepared == [0, 1, 1, 2]
    # with other data under the same parameters they are prepared anew
    monkeypatch.setattr(commands, "input_digests", lambda: {"data": "other"})
    with pytest.raises(SweepError, match="enough\nFinished trials are kept there; when it answers"):
        commands.sweep(tmp_path / "sweep.yaml", 1, None, 1, None, 1, {}, prepare)
    assert prepared[4:] == [0, 1, 2]
    assert len({root for spec in specs for root in spec.roots}) == 6


def test_study_without_finished_trials_has_an_outcome(spec: SweepSpec) -> None:
    study = begin_study(spec)
    outcome = get_outcome(spec, study, {})
    assert (len(outcome.leaderboard), outcome.winner, outcome.p) == (0, {}, None)
    assert protocol(spec, outcome.leaderboard).startswith("0 trials (none), 0:00:00 in all workers")
    write_outcome(spec, study, outcome)
    assert not (spec.folder / "best.yaml").exists()
    assert read_outcome(spec.folder)["trials"] == 0


def test_with_two_objectives_every_trial_of_the_front_has_a_file(spec: SweepSpec, tmp_path: Path) -> None:
    two = make_spec(tmp_path, AGAINST.replace("study: s", "study: two"))
    study = begin_study(two)
    for units, *values in ((5, 99, 5), (6, 98, 4), (7, 97, 6)):
        add_trial(study, units, *values)
    stale = two.folder / "front/trial-0099.yaml"
    stale.parent.mkdir()
    stale.touch()
    outcome = get_outcome(two, study, {})
    write_outcome(two, study, outcome)
    assert {path.name for path in stale.parent.iterdir()} == {"trial-0001.yaml", "trial-0002.yaml"}
    assert outcome.leaderboard["on_front"].tolist() == [True, True, False]
    assert outcome.leaderboard["latency_ms"].tolist() == [5.0, 4.0, 6.0]


def test_printed_trials_have_weights_beside_their_parameters(
    spec: SweepSpec, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    weighed = make_spec(tmp_path, AGAINST.replace("study: s", "study: w").replace("latency_ms", "parameters"))
    study = begin_study(weighed)
    add_trial(study, 5, 99, 1234)
    commands._print_outcome(weighed, study, get_outcome(weighed, study, {}), 1)
    printed = capsys.readouterr().out
    assert all(part in printed for part in (" weights ", " 1,234 ", " parameters", " model.lstm_units=5"))


def test_protocol_counts_trials_and_names_what_they_share(spec: SweepSpec, study: optuna.Study, tmp_path: Path) -> None:
    board = get_outcome(spec, study, {}).leaderboard.assign(seconds=[60.0, 90.0, 30.0, None])
    text = protocol(make_spec(tmp_path, **{"train.epochs": 4}), board)
    assert text.startswith("4 trials (3 complete, 1 fail), 0:03:00 in all workers together.")
    assert "its best epoch **on dev**" in text
    assert "differ from the defaults: `train.epochs=4`." in text


def test_runs_hold_the_trials_and_the_winner(
    spec: SweepSpec, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_outcome(spec, study, confirm(spec, study, monkeypatch, *BEST_3)[1])
    parent, *trials = sweep_records(study, spec.folder)
    assert parent.metrics == {"dev/accuracy": 79.0, "dev/accuracy/searched": 80.0}
    assert [row["dev/accuracy"] for row in parent.history] == [70.0, 90.0, 90.0, 90.0]
    assert [row["trials"] for row in parent.history] == [1, 2, 3, 4]
    assert parent.tags["winner"] == "trial 3"
    assert parent.params == flatten(load_params(spec.folder / "best.yaml"))
    assert parent.params[UNITS] == 30
    assert {file.name for file in parent.artifacts[""]} == {"leaderboard.csv", "best.yaml"}
    assert [trial.parent for trial in trials] == [parent.identity] * 4
    assert trials[1].params[UNITS] == 20
    assert trials[3].tags["state"] == "fail"
    assert [trial.name.partition(":")[0] for trial in trials] == ["trial 1", "trial 2", "trial 3", "trial 4 failed"]
    assert [trial.status for trial in trials] == ["FINISHED"] * 3 + ["FAILED"]
    # the same once more from the files alone
    monkeypatch.setattr(paths, "STUDIES", spec.folder.parent)
    assert sweep_runs() == ([("sample", [parent, *trials])], [])
    add_trial(study, 50, state="PRUNED")
    assert sweep_records(study, spec.folder)[-1].name.startswith("trial 5 pruned: ")


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "KILLED"), (ZeroDivisionError, "FAILED")])
def test_sweep_is_logged_live_and_has_the_params_of_its_winner(
    error: type[BaseException],
    status: str,
    spec: SweepSpec,
    study: optuna.Study,
    mlflow_store: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)

    def break_off() -> None:
        with log_sweep(study, spec.folder) as log_trial:
            log_trial(study.trials[1])
            raise error

    with pytest.raises(error):
        break_off()
    tracker = Tracker("sample")

    def runs() -> tuple[Any, list[Any]]:
        runs = tracker.client.search_runs([tracker.experiment])
        (parent,) = (run for run in runs if PARENT not in run.data.tags)
        return parent, [run for run in runs if run is not parent]

    broken, (trial,) = runs()
    assert (broken.info.status, broken.data.params) == (status, {})
    assert broken.data.metrics == {"trials": 4, "dev/accuracy": 90.0}
    assert trial.data.tags[PARENT] == broken.info.run_id
    ids = []
    for scores, units in ((BEST_3, "30"), (BEST_3, "30"), ((88.0, 89.0), "20")):
        with log_sweep(study, spec.folder):
            write_outcome(spec, study, confirm(spec, study, monkeypatch, *scores)[1])
        parent, trials = runs()
        ids.append(parent.info.run_id)
        best = flatten(load_params(spec.folder / "best.yaml"))
        assert parent.data.params == {key: str(value) for key, value in best.items()}
        assert (parent.info.status, parent.data.params[UNITS]) == ("FINISHED", units)
        assert {run.data.tags[PARENT] for run in trials} == {parent.info.run_id}
        assert len(trials) == 4
    # another winner, whose parameters the earlier run cannot take
    assert ids[0] == ids[1] == broken.info.run_id != ids[2]
    assert parent.data.metrics["dev/accuracy"] == 88.5
    assert complete_runs("sample", sweep_records(study, spec.folder)) == 0


def test_studies_are_listed_with_their_winners(
    spec: SweepSpec, study: optuna.Study, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "STUDIES", spec.folder.parent)
    commands.list_sweeps(None)
    assert "best.yaml" not in capsys.readouterr().out
    for winner, scores in (("trial 2, 90.00", ()), ("trial 3, 79.00", BEST_3)):
        write_outcome(spec, study, confirm(spec, study, monkeypatch, *scores)[1])
        commands.list_sweeps(None)
        printed = capsys.readouterr().out
        parts = ("s ", "3 complete", "1 failed", "1 waiting", "90.00, trial 2 in the search", f"best.yaml: {winner} ")
        assert ("not confirmed" in printed) == (not scores)
        assert [part for part in parts if part not in printed] == []


def test_no_studies_yet(spec: SweepSpec, capsys: pytest.CaptureFixture) -> None:
    commands.list_sweeps(None)
    assert "no studies yet; `bilstm-attention sweep" in capsys.readouterr().out


def test_trial_and_best_lines(study: optuna.Study) -> None:
    _, _, best, _, failed = study.trials
    assert commands.trial_line(best, 3, 9) == "3/9  trial 2 complete 90.00  model.lstm_units=20"
    assert "trial 4 fail (the loss is not a number)" in commands.trial_line(failed, 3, 9)
    assert commands.best_line([best]) == "90.00, trial 2"
    assert commands.best_line([]) == "none yet"


def test_command_in_the_report_has_no_password(spec: SweepSpec) -> None:
    url = "postgresql://user:secret@host/db"
    line = commands.shown_command(Path.cwd() / "sweep.yaml", 9, 2, url, {"train.epochs": 3})
    assert line == "bilstm-attention sweep sweep.yaml --trials 9 --workers 2 --storage URL -S train.epochs=3"
