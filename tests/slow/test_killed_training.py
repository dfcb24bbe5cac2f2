"""A training killed at any moment and started again gives the same bytes as an unbroken one.

Run as a program, this file is the training: `python test_killed_training.py CHECKPOINTS OUTPUT`.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from bilstm_attention.config import Params
from bilstm_attention.data.dataset import Dataset, Rows

PARAMS = {
    "model": {"lstm_units": 4},
    "train": {
        "epochs": 5,
        "batch_size": 8,
        "learning_rate": 0.02,
        "schedule": {"kind": "cosine", "warmup_epochs": 1.0},
        "ema": 0.9,
        "monitor": "loss",
    },
}
SEED = 11
PAUSE = 0.05  # seconds after each line, so that a kill falls where the line says


def dataset() -> Dataset:
    """Three classes and random words: no epoch is perfect, so any may be the best."""
    draw = np.random.default_rng(0)

    def rows(count: int) -> Rows:
        tokens = [draw.integers(6, 30, draw.integers(2, 9)).astype(np.int32) for _ in range(count)]
        return Rows.from_ids(tokens, draw.integers(0, 3, count).astype(np.int32))

    return Dataset(rows(40), rows(24), ["a", "b", "c"], draw.normal(size=(30, 4)).astype(np.float32), 28)


def main(checkpoints: Path, output: Path) -> None:
    """Trains, prints a line per batch, save and epoch, and writes the model and its history."""
    from bilstm_attention.console import start_tensorflow

    start_tensorflow()
    from bilstm_attention.model.classifier import save_classifier
    from bilstm_attention.training.fit import run_training

    def say(line: str) -> None:
        print(line, flush=True)
        time.sleep(PAUSE)

    fsync = os.fsync
    # a checkpoint is then on disk beside the last one, and not yet in its place
    os.fsync = lambda descriptor: (fsync(descriptor), say("saving"))[0]
    result = run_training(
        Params.model_validate(PARAMS),
        dataset(),
        SEED,
        checkpoints=checkpoints,
        on_batch=lambda epoch, batch, batches: say(f"epoch {epoch} batch {batch} of {batches}"),
        on_epoch=lambda row: say(f"epoch {row['epoch']} done"),
    )
    output.mkdir()
    save_classifier(result.model, output / "model.keras")
    result.history.to_csv(output / "history.csv", index=False)


def lines(checkpoints: Path, output: Path, moment: str = "") -> list[str]:
    """What the training prints until it ends, or is killed at a line."""
    command = [sys.executable, __file__, str(checkpoints), str(output)]
    printed: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            printed.append(line.strip())
            if printed[-1] == moment:
                process.kill()
                break
    assert process.returncode in (0, -signal.SIGKILL)
    return printed


def test_kills_between_and_within_epochs_and_while_saving(tmp_path: Path) -> None:
    lines(tmp_path / "others", tmp_path / "unbroken")
    folders = tmp_path / "checkpoints", tmp_path / "output"
    moments = ("epoch 1 done", "epoch 3 batch 3 of 5", "saving", "")
    printed = [lines(*folders, moment=moment) for moment in moments]
    # the third was killed before the save of epoch 3 was in its place
    assert [each[0] for each in printed] == [f"epoch {epoch} batch 1 of 5" for epoch in (1, 2, 3, 3)]
    for name in ("model.keras", "history.csv"):
        assert (tmp_path / "output" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
