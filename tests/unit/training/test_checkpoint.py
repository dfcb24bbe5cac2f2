"""Checkpoints are whole or absent, and no two trainings share one."""

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm_attention.config import Model, Params, Train
from bilstm_attention.data.dataset import Dataset, Rows
from bilstm_attention.training.fit import Checkpoint, State, digest, training_key

STATE = State(
    history=[{"epoch": 1, "loss": 0.1 + 0.2, "dev_accuracy": 100 / 3}, {"epoch": 2, "loss": 1e-300}],
    best_epoch=1,
    variables=[np.arange(6, dtype=np.float32).reshape(2, 3) / 7, np.array(3, np.int64), np.zeros((0, 4), np.float32)],
    best=[np.array([1, 2**32 - 1], np.uint32), np.array([-0.0, np.inf, 1e-45], np.float32)],
)


def bits(state: State | None) -> Any:
    if state is None:
        return None
    arrays = [[(a.shape, a.dtype, a.tobytes()) for a in group] for group in (state.variables, state.best)]
    return state.history, state.best_epoch, arrays


@pytest.fixture
def checkpoint(tmp_path):
    return Checkpoint(tmp_path / "created" / "by save", "key")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A checkpoint to damage, and its bytes."""
    checkpoint = Checkpoint(tmp_path_factory.mktemp("scratch"), "key")
    checkpoint.save(STATE)
    return checkpoint, checkpoint.path.read_bytes()


def test_last_save_is_loaded_to_the_last_bit_and_removed(checkpoint):
    assert checkpoint.load() is None
    for state in (State(), STATE):
        checkpoint.save(state)
        assert bits(checkpoint.load()) == bits(state)
    assert list(checkpoint.path.parent.iterdir()) == [checkpoint.path]
    assert Checkpoint(checkpoint.path.parent, "other").load() is None
    for _ in range(2):
        checkpoint.remove()
        assert not list(checkpoint.path.parent.iterdir())


@settings(max_examples=300)
@given(st.data())
def test_changed_byte_gives_no_state_or_the_right_one(scratch, data):
    checkpoint, content = scratch
    position, byte = data.draw(st.integers(0, len(content) - 1)), bytes([data.draw(st.integers(0, 255))])
    checkpoint.path.write_bytes(content[:position] + byte + content[position + 1 :])
    assert bits(checkpoint.load()) in (None, bits(STATE))


def test_damaged_archive_is_no_checkpoint(scratch):
    """Cut off; with a version, a flag and a compression that zipfile does not know; a directory before the file."""
    checkpoint, content = scratch
    record, end = content.index(b"PK\x01\x02"), content.rindex(b"PK\x05\x06")
    damaged = [content[: int(share * len(content))] for share in (0, 0.001, 0.1, 0.5, 0.9, 0.999)]
    for position, value in ((record + 6, 99), (record + 8, 1), (record + 10, 99), (end + 16, 255)):
        damaged.append(content[:position] + bytes([value]) + content[position + 1 :])
    for each in damaged:
        checkpoint.path.write_bytes(each)
        assert checkpoint.load() is None


def test_file_is_on_disk_before_it_gets_its_name(checkpoint, monkeypatch):
    synced, fsync = [], os.fsync

    def watch(descriptor):
        fsync(descriptor)
        synced.append((os.fstat(descriptor).st_size, checkpoint.path.exists()))

    monkeypatch.setattr(os, "fsync", watch)
    checkpoint.save(STATE)
    assert synced == [(checkpoint.path.stat().st_size, False)]


parts = st.lists(st.integers(0, 300) | st.text("12[], ", max_size=3) | st.lists(st.integers(0, 20), max_size=2))


@settings(max_examples=200)
@given(parts, parts)
def test_digests_are_equal_exactly_when_the_parts_are(first, second):
    assert (digest(*first) == digest(*second)) == (first == second)


def rows(*tokens: list[int], labels: tuple[int, ...] = (0, 1)) -> Rows:
    return Rows.from_ids([np.array(row, np.int32) for row in tokens], np.array(labels, np.int32))


def key(**changes: Any) -> str:
    usual: dict[str, Any] = {"model": {}, "train": {}, "seed": 0, "rows": rows([6, 7], [8]), "dev": rows([6], [7])}
    usual |= {"labels": ["a", "b"], "matrix": np.zeros((9, 2), np.float32), "training_words": 9}
    parts = usual | changes
    dataset = Dataset(parts["rows"], parts["dev"], parts["labels"], parts["matrix"], parts["training_words"])
    params = Params(model=Model(**parts["model"]), train=Train(**parts["train"]))
    return training_key(params, dataset, parts["seed"])


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"model": {"lstm_units": 7}},
        {"train": {"learning_rate": 0.5}},
        {"rows": rows([6, 8], [8])},
        {"rows": rows([6], [7, 8])},
        {"rows": rows([6, 7], [8], labels=(1, 1))},
        {"dev": rows([6], [8])},
        {"labels": ["b", "a"]},
        {"matrix": np.eye(9, 2, dtype=np.float32)},
        {"training_words": 8},
    ],
    ids=str,
)
def test_key_changes_with_whatever_changes_the_training(changes):
    assert key(**changes) != key()


def test_key_changes_with_the_version_and_not_with_other_seeds(monkeypatch):
    before = key()
    assert key(train={"seeds": [0, 1, 2]}) == before
    monkeypatch.setattr("bilstm_attention.training.fit.TRAINING_VERSION", 10**6)
    assert key() != before
