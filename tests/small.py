"""Small projects: an empty one, one of two classes, an untrained classifier of a few words."""

import contextlib
import json
import subprocess
from itertools import product
from pathlib import Path

import numpy as np

from bilstm_attention import stages
from bilstm_attention.config import Params
from bilstm_attention.data.tokens import Vocabulary

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


def begin_project(root: Path) -> Path:
    """Makes a folder a project; returns it."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "dvc.yaml").write_text("stages: {}\n")
    (root / "params.yaml").write_text("{}\n")
    return root


def commit_all(root: Path) -> Path:
    """Makes a folder a git repository with one commit of all that it holds; returns it."""
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "start"]):
        subprocess.run([*git, *words], cwd=root, check=True)
    return root


def prepare_classes(root: Path) -> Path:
    """Makes a folder a project of `CLASSES` with 24 sentences, after `prepare` and `embed`; returns it."""
    (begin_project(root) / "params.yaml").write_text(CLASSES)
    (root / "corpus").mkdir()
    for name, words in WORDS_OF_CLASS.items():
        lines = [f"{word} on the {place}\n" for word, place in product(words, PLACES)]
        (root / "corpus" / f"{name}.txt").write_text("".join(lines))
    with contextlib.chdir(root):
        stages.prepare()
        stages.embed()
    return root


def save_classifier_folder(folder: Path, units: int, seed: int, params: str = "{}\n") -> Path:
    """Writes what `serving.load_folder` reads, of an untrained classifier of these words; returns the folder."""
    from bilstm_attention.model.classifier import build_classifier, save_classifier

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = Vocabulary(WORDS)
    vocabulary.save(folder / "vocabulary.txt")
    matrix = np.random.default_rng(0).normal(size=(len(vocabulary), 5)).astype(np.float32)
    matrix[0] = 0
    tiny = Params().model.model_copy(update={"lstm_units": units})
    save_classifier(build_classifier(tiny, matrix, len(matrix), len(LABELS), seed=seed), folder / "model.keras")
    (folder / "labels.json").write_text(json.dumps(LABELS))
    (folder / "params.yaml").write_text(params)
    return folder
