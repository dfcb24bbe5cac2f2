"""The benchmark of training steps runs, tiny, on a made-up corpus, and every contender trains the same network."""

import contextlib
import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from bilstm_attention import paths, stages

FOLDER = Path(__file__).parents[2] / "experiments/benchmarks"
PARAMS = """
data: {format: classes, folder: corpus, train: {cold: cold.txt, hot: hot.txt}, test: null,
       dev_fraction: 0.25, test_fraction: 0.25}
embeddings: {source: random, dimension: 3}
"""
PLACES = ("hill", "lake by the wood", "road", "old farm at the end of the lane")
WORDS = {"cold": ("snow", "ice", "frost"), "hot": ("sand", "embers", "noon")}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Figures of ours, of Keras's LSTM and of the snippet."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "corpus").mkdir()
    for name, words in WORDS.items():
        lines = [f"{word} on the {place}\n" for word, place in product(words, PLACES)]
        (folder / "corpus" / f"{name}.txt").write_text("".join(lines))
    (folder / paths.PARAMS).write_text(PARAMS)
    (folder / "dvc.yaml").write_text("stages: {}\n")
    with contextlib.chdir(folder):
        stages.prepare()
        stages.embed()
    options = "--contenders ours keras seed --batch 4 --dimension 3 --units 2 --threads 1 --batches 2 --rounds 1"
    command = [sys.executable, str(FOLDER / "throughput.py"), *options.split(), "--json", "figures.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| ours, Keras's LSTM " in done.stdout
    return {row["contender"]: row for row in json.loads((folder / "figures.json").read_text())}


def test_every_contender_is_timed(rows: dict[str, Any]) -> None:
    assert list(rows) == ["ours", "keras", "seed"]
    for row in rows.values():
        assert (row["batch_size"], row["dimension"], row["sentences"], row["round"]) == (4, 3, 8, 0)
        assert row["ms"] > 0
    assert rows["ours"]["padding"] < 1 < rows["seed"]["padding"]


def test_contenders_train_the_same_network(rows: dict[str, Any]) -> None:
    losses = rows["ours"]["losses"]
    assert losses == pytest.approx(rows["keras"]["losses"], abs=1e-4)
    # without steps every loss would be the first
    assert len(set(losses)) == len(losses)
