"""The benchmark of training steps and of their parts, tiny, on a made-up corpus: its figures are all there."""

import contextlib
import importlib
import json
import math
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from bilstm_attention import paths, stages

ROOT = Path(__file__).parents[2]
BENCHMARK = ROOT / "experiments/benchmarks/throughput.py"
RESULTS = ROOT / "experiments/results"
PARAMS = """
data: {format: classes, folder: corpus, train: {cold: cold.txt, hot: hot.txt}, test: null,
       dev_fraction: 0.25, test_fraction: 0.25}
embeddings: {source: random, dimension: 3}
"""
PLACES = ("hill", "lake by the wood", "road", "old farm at the end of the lane")
WORDS = {"cold": ("snow", "ice", "frost"), "hot": ("sand", "embers", "noon")}
ROUNDS = 2


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the benchmark writes of ours and of Keras's LSTM."""
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
    options = "--contenders ours keras --batch 4 --dimension 3 --units 2 --threads 1 --batches 2 --markdown"
    command = [sys.executable, str(BENCHMARK), *options.split(), "--rounds", str(ROUNDS), "--json", "found.json"]
    done = subprocess.run(
        [*command, "--only", "step", "parts", "--pictures", "."],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| ours, Keras's LSTM |" in done.stdout
    assert (folder / "speed-step.png").stat().st_size > 1000
    result: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return result


def test_every_figure_is_written(found: dict[str, Any]) -> None:
    (size,) = found["step"]["sizes"]
    assert (size["batch_size"], size["dimension"], size["sentences"]) == (4, 3, 8)
    assert found["step"]["sgemm"]["1"] > 0
    # of a step's forward pass: both directions' gates, the scores and the weighted sum, the two classes
    tokens = size["tokens_a_step"]
    forward = 2 * (2 * tokens * (3 + 2) * 4 * 2 + 2 * tokens * 2 + 4 * 2 * 2)
    assert size["flop_a_step"] == pytest.approx(3 * forward)
    for name in ("ours", "keras"):
        each = size["contenders"][name]
        (timing,) = each["timings"]
        assert len(timing["rounds"]) == len(each["times_ours"]) == ROUNDS
        assert all(one["seconds"] > 0 and one["steps"] == 2 for one in timing["rounds"])
        assert each["cells_a_step"] >= tokens
    assert size["contenders"]["ours"]["times_ours"] == [1.0] * ROUNDS


def test_the_contenders_train_the_same_network(found: dict[str, Any]) -> None:
    losses = found["step"]["sizes"][0]["losses"]
    assert set(losses) == {"ours", "keras"}
    assert losses["ours"] == pytest.approx(losses["keras"], abs=1e-4)
    assert all(map(math.isfinite, losses["ours"]))
    # steps are taken: without them every loss would be the first
    assert len(set(losses["ours"])) == len(losses["ours"])


def test_a_step_is_told_by_its_parts(found: dict[str, Any]) -> None:
    (size,) = found["parts"]["sizes"]
    assert list(size["seconds_a_step"]) == ["call", "forward", "gradient", "step"]
    # which takes longer a busy machine does not tell
    assert min(size["seconds_a_step"].values()) > 0


def test_the_tables_of_the_page_are_made_of_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARK.parent / "training"))
    report = importlib.import_module("report")
    measured = json.loads((RESULTS / "speed.json").read_text())
    page = (RESULTS / "speed.md").read_text(encoding="utf-8")
    made = {
        title: report.written(table, markdown=True)
        for name, found in measured.items()
        if (measure := name.partition(" ")[0]) in report.TABLES
        for title, table in report.tables(measure, found)
    }
    assert [title for title, table in made.items() if f"\n\n{table}\n\n" not in page] == []
    assert sum("Ours by threads" in title for title in made) == 1
    assert len(made) == 12
