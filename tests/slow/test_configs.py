"""A named experiment carries over to another corpus by `-S data...` alone."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tests.project import Project


def as_kbp37(sample: Path, first: int, last: int) -> str:
    """Sentences of the sample corpus in the form of KBP37, whose names have a colon."""
    lines = sample.read_text().splitlines()
    blocks = [lines[at : at + 2] for at in range(4 * first, 4 * last, 4)]
    labels = [label.replace("Other", "no_relation") if label == "Other" else f"org:{label}" for _, label in blocks]
    texts = [sentence.partition("\t") for sentence, _ in blocks]
    return "".join(
        f'{number}\t" {text.strip(chr(34))} "\n{label}\n\n\n'
        for (number, _, text), label in zip(texts, labels, strict=True)
    )


def test_best_learns_from_a_corpus_like_kbp37(new_project: Callable[[], Project]) -> None:
    project = new_project()
    root = project.root
    corpus, vectors = root / "data/external/kbp37", root / "data/external/glove-6b"
    corpus.mkdir(parents=True)
    vectors.mkdir()
    for name, first, last in (("train", 0, 400), ("dev", 400, 480), ("test", 480, 560)):
        (corpus / f"{name}.txt").write_text(as_kbp37(root / "data/sample/train.txt", first, last))
    draw = np.random.default_rng(0)
    words = ["the", "of", "box", "jar", "in", "a"]
    rows = (" ".join([word, *(f"{number:.3f}" for number in draw.normal(size=50))]) for word in words)
    (vectors / "glove.6B.50d.txt").write_text("\n".join(rows) + "\n")
    files = [f"data.{name}={name}.txt" for name in ("train", "dev", "test")]
    project.run(
        *("bilstm-attention", "apply", "experiments/configs/best.yaml", "-S", "data.format=kbp37"),
        *("-S", "data.folder=data/external/kbp37", *(part for file in files for part in ("-S", file))),
        # for time: fewer epochs, of which the mean of the weights has to know more
        *("-S", "train.epochs=8", "-S", "train.ema=0.9"),
    )
    project.run("dvc", "repro", "evaluate")
    metrics = json.loads((root / "experiments/current/scores.json").read_text())
    dev, test = (metrics[split]["official_f1"]["mean"] for split in ("dev", "test"))
    assert min(dev, test) > metrics["baselines"]["majority"]["official_f1"] == 0
    labels = json.loads((root / "data/prepared/labels.json").read_text())
    assert labels[-1] == "no_relation"
    assert all(label.startswith("org:") for label in labels[:-1])
