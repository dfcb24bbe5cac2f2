"""Trainings run for real, with a few units for one epoch on the sample corpus."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.small import begin_project

from bilstm_attention import paths, stages
from bilstm_attention.config import Params, with_overrides
from bilstm_attention.errors import TrainingError
from bilstm_attention.search import trainings
from bilstm_attention.search.trainings import TrainingJob, find_record, merge_jobs, run_job, run_trainings, sample_name

DATA = {"data.folder": str(Path(__file__).parents[3] / "data/sample"), "data.train_rows": 300}
SMALL = {"embeddings.epochs": 1, "embeddings.dimension": 8, "model.lstm_units": 3, "train.epochs": 1}
PARAMS = with_overrides(Params(), {**DATA, **SMALL})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    stages.prepare_data(PARAMS, root)
    return root


@pytest.fixture
def job(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingJob:
    monkeypatch.chdir(begin_project(tmp_path))
    return TrainingJob("zhou seed=0", PARAMS, 0, shutil.copytree(prepared, tmp_path / "root"))


def test_record_with_more_measured_is_read_again(job: TrainingJob) -> None:
    samples = ((10, 0), (5, 1))
    record = run_job(replace(job, test=True, faithfulness=samples))
    test = pd.read_parquet(job.root / paths.PREPARED / "test.parquet")
    assert record.test is not None
    assert record.test.shape == (len(test), len(record.labels))
    assert {sample: record.faithfulness[sample_name(sample)]["rows"] for sample in samples} == {(10, 0): 10, (5, 1): 5}
    for less in (job, replace(job, test=True), replace(job, faithfulness=samples[:1])):
        assert run_job(less) == find_record(less) == record
    more = replace(job, faithfulness=((7, 0),))
    assert find_record(more) is None
    assert run_job(more).started > record.started
    assert run_job(more).predicted == record.predicted


def test_replaced_test_set_is_answered_anew(job: TrainingJob) -> None:
    job = replace(job, test=True)
    before = run_job(job)
    file = job.root / paths.PREPARED / "test.parquet"
    pd.read_parquet(file).iloc[::-1].reset_index(drop=True).to_parquet(file)
    after = run_job(job)
    assert after.dev == before.dev
    assert before.test is not None
    np.testing.assert_allclose(after.test, before.test[::-1], atol=1e-6)


def test_checkpoint_is_removed_after_the_record_is_written(job: TrainingJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(paths, "write_json", disk_full)
        with pytest.raises(OSError, match="no space left"):
            run_job(job)
    (checkpoint,) = trainings.CHECKPOINTS.iterdir()
    run_job(job)
    assert not checkpoint.exists()
    # left by a process that was killed between the two
    checkpoint.write_bytes(b"")
    run_job(job)
    assert not checkpoint.exists()


def test_merged_jobs_measure_what_each_of_them_needs() -> None:
    job = TrainingJob("a", PARAMS, 0, Path("root"))
    shorter = with_overrides(PARAMS, {"evaluate.faithfulness": 5, "train.seeds": [7]})
    others = [replace(job, name="b", test=True), replace(job, params=shorter, faithfulness=((5, 0),))]
    samples = replace(job, faithfulness=((10, 0), (5, 0)))
    assert merge_jobs([job, *others, samples]) == [replace(job, test=True, faithfulness=((5, 0), (10, 0)))]
    different = [replace(job, seed=1), replace(job, scored="test"), replace(job, root=Path("other"))]
    assert merge_jobs([job, *different]) == [job, *different]


def test_records_of_earlier_runs_come_first_and_a_stop_leaves_the_rest(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [replace(job, seed=1), replace(job, seed=2)]
    record = run_job(others[1])
    assert list(run_trainings([job, *others], 1, stopped=lambda: True)) == [(others[1], record)]
    error = TrainingError("the loss is not a number")
    monkeypatch.setattr(trainings, "run_jobs", lambda next_job, *_: iter([(next_job(), error)]))
    assert list(run_trainings([job, others[1]], 1)) == [(others[1], record), (job, error)]
