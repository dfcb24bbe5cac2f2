import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilstm_attention.config import Model, Params, Train
from bilstm_attention.console import start_tensorflow
from bilstm_attention.data.dataset import Dataset, Rows
from bilstm_attention.training.checkpoint import Checkpoint, State

start_tensorflow()
from bilstm_attention.training.fit import digest, training_key  # noqa: E402

STATE = State(
    history=[
        {"epoch": 1, "loss": 0.1 + 0.2, "dev_accuracy": 100 / 3},
        {"epoch": 2, "loss": 1e-300, "dev_accuracy": 0.0},
    ],
    best_epoch=1,
    variables=[
        np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
        np.array(3, np.int64),
        np.array([1, 2**32 - 1], np.uint32),
        np.zeros((0, 4), np.float32),
    ],
    best=[np.array([[np.float32(1e-45)]]), np.array([-0.0, np.inf])],
)
EMPTY = State(history=[], best_epoch=0, variables=[], best=[])


def bits(state: State | None) -> Any:
    """All of a state, so that two are equal when they are so to the last bit."""
    if state is None:
        return None
    arrays = [[(a.shape, a.dtype, a.tobytes()) for a in group] for group in (state.variables, state.best)]
    return state.history, state.best_epoch, arrays


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    checkpoint = Checkpoint(tmp_path_factory.mktemp("whole"), "key")
    checkpoint.save(STATE)
    return checkpoint.path.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint(tmp_path_factory.mktemp("scratch"), "key")


@pytest.mark.parametrize("state", [STATE, EMPTY], ids=["two epochs", "empty"])
def test_a_state_comes_back_to_the_last_bit(tmp_path: Path, state: State) -> None:
    Checkpoint(tmp_path, "key").save(state)
    assert bits(Checkpoint(tmp_path, "key").load()) == bits(state)


def test_a_later_save_replaces_the_earlier_and_leaves_one_file(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "made" / "on demand", "key")
    checkpoint.save(EMPTY)
    checkpoint.save(STATE)
    assert bits(checkpoint.load()) == bits(STATE)
    assert list(checkpoint.path.parent.iterdir()) == [checkpoint.path]


def test_another_key_is_another_checkpoint(tmp_path: Path) -> None:
    Checkpoint(tmp_path, "one").save(STATE)
    assert Checkpoint(tmp_path, "other").load() is None


def test_a_removed_checkpoint_is_gone_and_may_be_removed_again(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, "key")
    checkpoint.save(STATE)
    checkpoint.remove()
    checkpoint.remove()
    assert checkpoint.load() is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_no_checkpoint(scratch: Checkpoint, whole: bytes, share: float) -> None:
    scratch.path.write_bytes(whole[: int(share * len(whole))])
    assert scratch.load() is None


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"PK\x05\x06" + b"\0" * 18, b"not a checkpoint"])
def test_a_file_of_something_else_is_no_checkpoint(scratch: Checkpoint, content: bytes) -> None:
    scratch.path.write_bytes(content)
    assert scratch.load() is None


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_a_changed_byte_gives_no_state_or_the_right_one(scratch: Checkpoint, whole: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(whole) - 1), label="position")
    changed = bytes([data.draw(st.integers(0, 255), label="byte")])
    scratch.path.write_bytes(whole[:at] + changed + whole[at + 1 :])
    assert bits(scratch.load()) in (None, bits(STATE))


def test_an_archive_that_zipfile_refuses_to_read_is_no_checkpoint(scratch: Checkpoint, whole: bytes) -> None:
    """A version, a flag and a compression method it does not know, and a directory said to lie before the file."""
    record, end = whole.index(b"PK\x01\x02"), whole.rindex(b"PK\x05\x06")
    for at, value in ((record + 6, 99), (record + 8, 1), (record + 10, 99), (end + 16, 255)):
        scratch.path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
        assert scratch.load() is None


def test_a_disk_that_fills_up_leaves_the_last_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(tmp_path, "key")
    checkpoint.save(STATE)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(EMPTY)
    assert bits(checkpoint.load()) == bits(STATE)
    assert list(tmp_path.iterdir()) == [checkpoint.path]


def test_the_file_is_on_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, seen = Checkpoint(tmp_path, "key"), []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        fsync(descriptor)
        seen.append((os.fstat(descriptor).st_size, checkpoint.path.exists()))

    monkeypatch.setattr(os, "fsync", watch)
    checkpoint.save(STATE)
    assert seen == [(checkpoint.path.stat().st_size, False)]


parts = st.lists(
    st.integers(0, 300) | st.text("12[], ", max_size=3) | st.lists(st.integers(0, 20), max_size=2), max_size=3
)


@settings(max_examples=300, deadline=None)
@given(parts, parts)
def test_digests_are_equal_exactly_when_the_parts_are(first: list[Any], second: list[Any]) -> None:
    assert (digest(*first) == digest(*second)) == (first == second)


def test_a_digest_reads_values_not_layout() -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert digest(matrix, {"a": 1, "b": 2}) == digest(np.asfortranarray(matrix), {"b": 2, "a": 1})


def rows(*tokens: list[int], labels: tuple[int, ...] = (0, 1)) -> Rows:
    return Rows.from_ids([np.array(row, np.int32) for row in tokens], np.array(labels, np.int32))


SAME: dict[str, Any] = {
    "model": Model(),
    "train": Train(),
    "seed": 0,
    "rows": rows([6, 7], [8]),
    "dev": rows([6], [7]),
    "labels": ["a", "b"],
    "matrix": np.zeros((9, 2), np.float32),
    "training_words": 9,
}
ANOTHER: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "units": {"model": Model(lstm_units=7)},
    "learning rate": {"train": Train(learning_rate=0.5)},
    "epochs": {"train": Train(epochs=31)},
    "a word": {"rows": rows([6, 8], [8])},
    "the cut between sentences": {"rows": rows([6], [7, 8])},
    "a label": {"rows": rows([6, 7], [8], labels=(1, 1))},
    "a dev word": {"dev": rows([6], [8])},
    "label names": {"labels": ["b", "a"]},
    "a vector": {"matrix": np.eye(9, 2, dtype=np.float32)},
    "trained words": {"training_words": 8},
}


def key_of(**changed: Any) -> str:
    parts = SAME | changed
    dataset = Dataset(parts["rows"], parts["dev"], parts["labels"], parts["matrix"], parts["training_words"])
    return training_key(Params(model=parts["model"], train=parts["train"]), dataset, parts["seed"])


@pytest.mark.parametrize("changed", ANOTHER.values(), ids=ANOTHER)
def test_a_training_that_differs_has_another_key(changed: dict[str, Any]) -> None:
    assert key_of(**changed) != key_of()


def test_key_leaves_out_the_list_of_seeds() -> None:
    assert key_of(train=Train(seeds=[0, 1, 2])) == key_of()


def test_key_changes_with_the_training_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of()
    monkeypatch.setattr("bilstm_attention.training.fit.TRAINING_VERSION", 10**6)
    assert key_of() != before
