"""Small files, projects, trainings and classifiers; the memory that a process takes."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bilstm_attention import paths, stages
from bilstm_attention.config import Params, load_params
from bilstm_attention.data.dataset import load_dataset
from bilstm_attention.data.tokens import Vocabulary
from bilstm_attention.evaluation.results import numbering

LABELS = ["Component-Whole(e1,e2)", "Component-Whole(e2,e1)", "Other"]
WORDS = ["the", "wheel", "of", "car", "broke", "."]
# Two classes, as `data.format: classes` has them.
CLASSES = """
data: {format: classes, folder: corpus, train: {cold: cold.txt, hot: hot.txt}, test: null,
       dev_fraction: 0.25, test_fraction: 0.25}
embeddings: {source: random, dimension: 3}
train: {monitor: accuracy}
"""
PLACES = ("hill", "lake by the wood", "road", "old farm at the end of the lane")
WORDS_OF_CLASS = {"cold": ("snow", "ice", "frost"), "hot": ("sand", "embers", "noon")}


def write(path: Path, content: Any) -> Path:
    """Writes text, bytes, or anything else as JSON, in a folder that is made for it; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# Defines `peak`, the most MB that a process has used; not by getrusage, which counts those of the one that started it.
PEAK = """
import re, sys
from pathlib import Path
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
"""


def measure_process(code: str, *arguments: Path) -> list[float]:
    """The numbers that code prints, run after `PEAK` in a fresh process with these arguments."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the memory of a process is read from /proc, which this system does not have")
    command = [sys.executable, "-c", PEAK + code, *map(str, arguments)]
    return [*map(float, subprocess.run(command, capture_output=True, check=True).stdout.split())]


def begin_project(root: Path) -> Path:
    """Makes a folder a project; returns it."""
    write(root / "dvc.yaml", "stages: {}\n")
    return write(root / "params.yaml", "{}\n").parent


def commit_all(root: Path) -> Path:
    """Makes a folder a git repository with one commit of all that it holds; returns it."""
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "start"]):
        subprocess.run([*git, *words], cwd=root, check=True)
    return root


def write_blocks(path: Path, texts: Iterable[str], labels: Sequence[str], end: str = "Comment:\n") -> None:
    """Writes sentences as SemEval does, numbered from 1, with their labels in turn."""
    blocks = (f'{n}\t"{text}"\n{labels[(n - 1) % len(labels)]}\n{end}\n' for n, text in enumerate(texts, 1))
    write(path, "".join(blocks))


def prepare_classes(root: Path) -> Path:
    """Makes a folder a project of `CLASSES` with 24 sentences, after `prepare` and `embed`; returns it."""
    (begin_project(root) / "params.yaml").write_text(CLASSES)
    for name, words in WORDS_OF_CLASS.items():
        sentences = "".join(f"{word} on the {place}\n" for word, place in product(words, PLACES))
        write(root / f"corpus/{name}.txt", sentences)
    with contextlib.chdir(root):
        stages.prepare()
        stages.embed()
    return root


def train_seeds(seeds: Iterable[int]) -> list[Any]:
    """Trains as the stage `train` does, without MLflow, in a project after `embed`; returns the results."""
    from bilstm_attention.model.classifier import save_classifier
    from bilstm_attention.training.fit import run_training

    results = []
    for seed in seeds:
        result, folder = run_training(load_params(paths.PARAMS), load_dataset(), seed), paths.seed_folder(seed)
        save_classifier(result.model, folder / "model.keras")
        result.history.to_csv(folder / "history.csv", index=False)
        ended = {"best_epoch": result.best_epoch, "epochs": len(result.history)}
        paths.write_json(folder / "dev.json", {**ended, "dev": result.dev, "numbering": numbering()})
        results.append(result)
    return results


def save_classifier_folder(folder: Path, units: int, seed: int, params: str = "{}\n") -> Path:
    """Writes what `serving.load_folder` reads, of an untrained classifier of these words; returns the folder."""
    from bilstm_attention.model.classifier import build_classifier, save_classifier

    vocabulary = Vocabulary(WORDS)
    for name, content in (("labels.json", LABELS), ("params.yaml", params)):
        write(folder / name, content)
    vocabulary.save(folder / "vocabulary.txt")
    matrix = np.random.default_rng(0).normal(size=(len(vocabulary), 5)).astype(np.float32)
    matrix[0] = 0
    tiny = Params().model.model_copy(update={"lstm_units": units})
    save_classifier(build_classifier(tiny, matrix, len(matrix), len(LABELS), seed=seed), folder / "model.keras")
    return folder
