"""Runs read from the store, and their page: scores from answers, what differs, what cannot stand side by side."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.small import begin_project

from bilstm_attention.errors import UserError
from bilstm_attention.experiment.archive import Evaluated, evaluated
from bilstm_attention.experiment.tracking import MODEL_DIGEST, Record, Tracker
from bilstm_attention.insight.reading import AttentionExample
from bilstm_attention.insight.report import check_comparable, report, telling

GOLD = ["A", "None"] * 10
HISTORY = [{"epoch": epoch, "loss": 1.0 / epoch, "dev_loss": 1.0, "dev_accuracy": 50.0 + epoch} for epoch in (1, 2)]
KEPT = {"best_dev_loss": 1.0, "best_dev_accuracy": 52.0}


def answers(*right: int) -> pd.DataFrame:
    wrong = ["None" if label == "A" else "A" for label in GOLD]
    table = {"id": [f"0{number}" for number in range(20)], "gold": GOLD}
    return pd.DataFrame(table | {f"seed_{seed}": GOLD[:count] + wrong[count:] for seed, count in enumerate(right)})


def run(name: str, *right: int, **params: str) -> Evaluated:
    return Evaluated(
        run=f"id of {name}",
        name=name,
        params={"train.restore_best_weights": "True", **params},
        dev=answers(*right),
        test=answers(*right),
        histories={seed: pd.DataFrame(HISTORY) for seed in range(len(right))},
        models={seed: f"{name} {seed}" for seed in range(len(right))},
    )


def test_the_page_has_scores_and_differences(tmp_path: Path) -> None:
    one, two = run("one", 15, 17, **{"model.lstm_units": "8"}), run("two", 10, 12, **{"model.lstm_units": "9"})
    examples = [AttentionExample(["a", "<b>"], np.array([[0.25, 0.75]]), "A", [("None", 0.9), ("A", 0.1)])]
    report([one, two], "accuracy", {1: examples}, tmp_path / "report.html")
    page = " ".join((tmp_path / "report.html").read_text().split())
    assert "80.00 ± 7.07<br> <small>" in page
    assert "55.00 ± 7.07<br> <small>" in page
    assert page.count(", p 0.") == 4  # accuracy and macro F1, on dev and on test, of the second
    assert page.count(", p ") == 4  # and none of the first with itself
    assert "<td>model.lstm_units<td>8<td>9" in page
    assert "restore_best_weights" not in page
    assert page.count("data:image/png;base64,") == 3
    assert '<b class="wrong">None</b>, 90 %' in page
    assert 'title="0.7500">&lt;b&gt;</span>' in page


def test_seeds_of_one_run_are_runs_of_their_own(tmp_path: Path) -> None:
    whole = run("whole", 15, 10)
    first, second = (whole.alone(seed) for seed in whole.seeds)
    assert (second.name, second.seeds, second.one_of_several, list(second.models)) == ("seed 1", [1], True, [1])
    report([first, second], "accuracy", {}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "75.00" in page
    assert "The same sentences" not in page


def test_sentences_that_runs_answered_differently_come_first() -> None:
    assert telling([run("one", 12), run("two", 10)]) == [f"0{number}" for number in (0, 1, 2, 3, 4, 5, 10, 11)]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_runs_judged_on_other_sentences_do_not_stand_side_by_side(split: str) -> None:
    one, two = run("one", 12), run("two", 12)
    check_comparable([one, two])
    other = getattr(two, split).assign(gold="A")
    with pytest.raises(UserError, match=f"two, run id of two, was judged on other {split} sentences than one"):
        check_comparable([one, replace(two, **{split: other})])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return begin_project(tmp_path / "project")


def whole(tracker: Tracker, folder: Path, *right: int) -> str:
    """A run as `evaluate` leaves it, and those of its models, if it has several."""
    folder.mkdir()
    for name in ("dev_predictions.csv", "predictions.csv"):
        answers(*right).to_csv(folder / name, index=False)
    files = {"": [folder / "dev_predictions.csv", folder / "predictions.csv"]}
    tested = {"majority_test_accuracy": 50.0}
    digests = {seed: f"{count} {seed}" for seed, count in enumerate(right)}
    if len(right) == 1:
        tags = {MODEL_DIGEST: digests[0], "seed": "0"}
        return tracker.record(Record("run", 1.0, {"a": 1}, tested | KEPT, HISTORY, tags, artifacts=files))
    for seed, digest in digests.items():
        if not tracker.newest(MODEL_DIGEST, digest):
            tags = {MODEL_DIGEST: digest, "seed": str(seed)}
            tracker.record(Record(f"seed {seed}", 1.0, {}, KEPT, HISTORY, tags))
    tags = {f"{MODEL_DIGEST}.{seed}": digest for seed, digest in digests.items()}
    return tracker.record(Record("run", 2.0, {"a": 2}, tested, tags=tags, artifacts=files))


def test_runs_are_read_as_they_were_evaluated(tracker: Tracker, tmp_path: Path) -> None:
    several = whole(tracker, tmp_path / "a", 15, 12)
    # another run of one of the same models
    again = whole(tracker, tmp_path / "b", 15, 11)
    one = whole(tracker, tmp_path / "c", 14)
    tracker.record(Record("a trial", 9.0, {}))
    found = evaluated(tracker, [several, again, one], 3)
    assert [run.run for run in found] == [several, again, one]
    # alike in name, so told apart
    assert [run.name for run in found] == [f"run, {each[:8]}" for each in (several, again, one)]
    assert [run.models for run in found] == [{0: "15 0", 1: "12 1"}, {0: "15 0", 1: "11 1"}, {0: "14 0"}]
    pd.testing.assert_frame_equal(found[0].dev, answers(15, 12), check_dtype=False)
    for history in (*found[1].histories.values(), *found[2].histories.values()):
        assert history.to_dict("records") == HISTORY
    newest = evaluated(tracker, [], 2)
    assert {run.run for run in newest} == {several, again}
    with pytest.raises(UserError, match="abc: no run that was evaluated as a whole"):
        evaluated(tracker, ["abc"], 3)


def test_a_store_without_evaluated_runs_says_what_makes_one(tracker: Tracker) -> None:
    with pytest.raises(UserError, match="no run of this corpus has been evaluated; `dvc repro` makes one"):
        evaluated(tracker, [], 3)
