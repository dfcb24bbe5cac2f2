"""The benchmark of training steps runs, tiny, on a made-up corpus, and every contender trains the same network."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.small import prepare_classes

FOLDER = Path(__file__).parents[2] / "experiments/benchmarks"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return prepare_classes(tmp_path_factory.mktemp("project"))


def run_benchmark(project, script, options):
    command = [sys.executable, str(FOLDER / script), *options.split()]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def rows(project):
    """Figures of ours, of Keras's LSTM and of the snippet."""
    size = "--batch 4 --dimension 3 --units 2 --threads 1 --batches 2 --rounds 1"
    shown = run_benchmark(project, "throughput.py", f"--contenders ours keras seed {size} --json figures.json")
    assert "| ours, Keras's LSTM " in shown
    return {row["contender"]: row for row in json.loads((project / "figures.json").read_text())}


def test_every_contender_is_timed(rows):
    assert list(rows) == ["ours", "keras", "seed"]
    for row in rows.values():
        assert (row["batch_size"], row["dimension"], row["sentences"], row["round"]) == (4, 3, 8, 0)
        assert row["ms"] > 0
    assert rows["ours"]["padding"] < 1 < rows["seed"]["padding"]


def test_contenders_train_the_same_network(rows):
    losses = rows["ours"]["losses"]
    assert losses == pytest.approx(rows["keras"]["losses"], abs=1e-4)
    # without steps every loss would be the first
    assert len(set(losses)) == len(losses)


def test_profile_shows_the_update_of_the_embedding(project):
    shown = run_benchmark(project, "profile_step.py", "--batch 4 --dimension 3")
    assert {"BlockLSTMV2", "ResourceApplyAdam"} <= {line.split("|")[1].strip() for line in shown.splitlines()}
