"""A worker that has done many trials is no larger than one that has done few."""

import gc
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tests.made_studies import make_definition

from bilstm_attention.data.dataset import Dataset, Rows
from bilstm_attention.search.study import counted, open_study
from bilstm_attention.search.trials import Job, do

pytestmark = pytest.mark.slow
SWEEP = """
study: memory
metric: accuracy
sampler: {kind: random, seed: 0}
pruner: {kind: none}
fixed: {train.epochs: 1, train.monitor: accuracy, train.threads: 1}
space: {model.lstm_units: [4, 8], model.attention.kind: [zhou, max, structured]}
"""
FIRST, MORE = 10, 20
# Of each training the graph alone is some 6 MB and the whole some 15.
MEGABYTES = 90


def resident() -> float:
    """Megabytes of this process that are in memory."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the memory of a process is read from /proc, which this system does not have")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def made_task() -> Dataset:
    """64 and 32 short rows of two classes."""
    draw = np.random.default_rng(0)

    def rows(count: int) -> Rows:
        tokens = [draw.integers(2, 40, length).astype(np.int32) for length in draw.integers(3, 12, count)]
        return Rows.from_ids(tokens, draw.integers(0, 2, count).astype(np.int32))

    return Dataset(rows(64), rows(32), ["a", "b"], draw.normal(size=(40, 8)).astype(np.float32), 38)


def graphs() -> int:
    """Graphs that TensorFlow holds."""
    gc.collect()
    return sum(isinstance(thing, tf.Graph) for thing in gc.get_objects())


def test_memory_stays_flat_however_many_trials_a_worker_does(tmp_path: Path) -> None:
    definition, task = make_definition(tmp_path, SWEEP), made_task()

    def work(trials: int) -> tuple[float, int]:
        for _ in range(trials):
            do(definition, Job(budget=FIRST + MORE), task)
        return resident(), graphs()

    (megabytes, held), (megabytes_later, held_later) = work(FIRST), work(MORE)
    # the last two networks are kept for predicting, and not all kinds have as many
    assert held_later - held < MORE
    assert megabytes_later - megabytes < MEGABYTES
    assert [trial.state.name for trial in counted(open_study(definition))] == ["COMPLETE"] * (FIRST + MORE)
