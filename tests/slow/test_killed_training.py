"""A training that is killed, whenever it is, and started again ends as if it had never been.

Run as a program, this file is the training: `python test_killed_training.py CHECKPOINTS OUTPUT`.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bilstm_attention.config import Model, Train
from bilstm_attention.data.dataset import Dataset, Rows

MODEL = Model.model_validate(
    {"lstm_units": 4, "dropout": {"embedding": 0.3, "lstm": 0.3, "sentence": 0.5}, "attention": {"kind": "zhou"}}
)
TRAIN = Train.model_validate(
    {
        "epochs": 5,
        "batch_size": 8,
        "optimizer": "adam",
        "learning_rate": 0.02,
        "schedule": {"kind": "cosine", "warmup_epochs": 1.0},
        "ema": 0.9,
        "monitor": "loss",
    }
)
SEED = 11
# Seconds that the training waits after each line, so that the blow falls where the line says.
PAUSE = 0.05


def task() -> Dataset:
    """Three classes and words that tell nothing of them: no epoch is perfect, so any may be the best."""
    draw = np.random.default_rng(0)

    def rows(count: int) -> Rows:
        tokens = [draw.integers(6, 30, draw.integers(2, 9)).astype(np.int32) for _ in range(count)]
        return Rows.from_ids(tokens, draw.integers(0, 3, count).astype(np.int32))

    return Dataset(rows(40), rows(24), ["a", "b", "c"], draw.normal(size=(30, 4)).astype(np.float32), 28)


def main(checkpoints: Path, output: Path) -> None:
    """Trains, tells its progress line by line, and writes the model and its history."""
    from bilstm_attention.console import start_tensorflow

    start_tensorflow()
    from bilstm_attention.model.classifier import save_classifier
    from bilstm_attention.training.fit import fit, training_checkpoint

    def tell(line: str) -> None:
        print(line, flush=True)
        time.sleep(PAUSE)

    fsync, saved = os.fsync, []

    def slow_fsync(descriptor: int) -> None:
        fsync(descriptor)
        saved.append(descriptor)
        tell(f"saving {len(saved)}")

    os.fsync = slow_fsync
    fitted = fit(
        MODEL,
        TRAIN,
        task(),
        SEED,
        checkpoints=checkpoints,
        on_batch=lambda epoch, batch, batches: tell(f"epoch {epoch} batch {batch} of {batches}"),
        on_epoch=lambda row: tell(f"epoch {row['epoch']} done"),
    )
    output.mkdir()
    save_classifier(fitted.model, output / "model.keras")
    fitted.history.to_csv(output / "history.csv", index=False)
    training_checkpoint(checkpoints, MODEL, TRAIN, task(), SEED).remove()


def start(checkpoints: Path, output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, str(checkpoints), str(output)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def lines_until(process: subprocess.Popen[str], moment: str) -> list[str]:
    """What the process says, up to the line `moment`, at which it is killed."""
    assert process.stdout is not None
    seen = []
    with process:
        for line in process.stdout:
            seen.append(line.strip())
            if seen[-1] == moment:
                process.kill()
                break
    assert seen[-1] == moment, f"ended without saying {moment!r}: {seen}"
    assert process.returncode == -signal.SIGKILL
    return seen


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's")
def test_killed_between_epochs_within_one_and_while_saving_a_training_ends_the_same(tmp_path: Path) -> None:
    unbroken = start(tmp_path / "unbroken", tmp_path / "expected")
    try:
        checkpoints, output = tmp_path / "checkpoints", tmp_path / "found"
        first = lines_until(start(checkpoints, output), "epoch 1 done")
        second = lines_until(start(checkpoints, output), "epoch 3 batch 3 of 5")
        # the second save of this process: epoch 4's, written beside epoch 3's and not yet in its place
        third = lines_until(start(checkpoints, output), "saving 2")
        assert len(list(checkpoints.iterdir())) == 2
        last = start(checkpoints, output)
        assert last.communicate()[0].splitlines()[0] == "epoch 4 batch 1 of 5"
        assert unbroken.wait() == last.returncode == 0
    finally:
        unbroken.kill()
        unbroken.communicate()
    assert [lines[0] for lines in (first, second, third)] == [f"epoch {epoch} batch 1 of 5" for epoch in (1, 2, 3)]
    for name in ("model.keras", "history.csv"):
        assert (tmp_path / "found" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()
    assert not list(checkpoints.iterdir())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
