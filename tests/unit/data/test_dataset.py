import contextlib
from pathlib import Path

import numpy as np
import pytest

from bilstm_attention import paths, stages
from bilstm_attention.data.dataset import existing, load_dataset, load_labels, load_split, load_vocabulary
from bilstm_attention.errors import DataError

PARAMS = """
data: {format: classes, folder: corpus, train: {cold: cold.txt, hot: hot.txt}, test: null,
       dev_fraction: 0.25, test_fraction: 0.25}
embeddings: {source: random, dimension: 3}
"""
COLD = ["ice and snow", "snow on the hill", "a frozen lake", "frost at dawn", "hail again", "an icy wind"]
HOT = ["sun and sand", "sand in the wind", "a boiling kettle", "embers at dusk", "noon again", "a dry hill"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "corpus").mkdir()
    for name, lines in (("cold", COLD), ("hot", HOT)):
        (folder / "corpus" / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    (folder / paths.PARAMS).write_text(PARAMS)
    with contextlib.chdir(folder):
        stages.prepare()
        stages.embed()
    return folder


@pytest.fixture(autouse=True)
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


@pytest.fixture
def hidden(tmp_path: Path):
    """Takes a file away for the time of a test."""
    taken: list[tuple[Path, Path]] = []

    def hide(path: Path) -> None:
        taken.append((path.rename(tmp_path / path.name), path))

    yield hide
    for aside, path in taken:
        aside.rename(path)


def test_the_task_is_what_prepare_and_embed_wrote() -> None:
    task = load_dataset()
    words = load_vocabulary().words
    for rows, split in ((task.train, "train"), (task.dev, "dev")):
        table = load_split(split)
        assert [task.labels[label] for label in rows.labels] == table["label"].tolist()
        known = [[word if word in words else "<unk>" for word in tokens] for tokens in table["tokens"]]
        assert [[words[number] for number in tokens] for tokens in rows] == known
    assert task.labels == ["cold", "hot"]
    assert task.matrix.shape == (len(words), 3)
    assert task.matrix.dtype == np.float32
    assert len(task.train) + len(task.dev) < len(COLD) + len(HOT)


def test_training_words_are_the_rows_that_training_can_show() -> None:
    task = load_dataset()
    assert task.train.tokens.max() == task.training_words - 1
    assert task.training_words == len(task.matrix)


def test_the_test_set_stays_closed(hidden) -> None:
    hidden(paths.PREPARED / "test.parquet")
    assert len(load_dataset().dev) > 0


@pytest.mark.parametrize(
    "path",
    [
        paths.PREPARED / "train.parquet",
        paths.PREPARED / "dev.parquet",
        paths.PREPARED / "labels.json",
        paths.EMBEDDINGS / "vocabulary.txt",
        paths.EMBEDDINGS / "matrix.npy",
        paths.EMBEDDINGS / "coverage.json",
    ],
    ids=str,
)
def test_a_missing_file_is_named_with_the_command_that_makes_it(path: Path, hidden) -> None:
    hidden(path)
    with pytest.raises(DataError) as error:
        load_dataset()
    assert str(error.value) == f"{path}: not there; `dvc repro` makes it."


def test_existing_gives_the_path_itself() -> None:
    assert existing(paths.PARAMS) == paths.PARAMS


def test_labels_keep_the_order_of_their_numbers() -> None:
    paths.write_json(paths.PREPARED / "labels.json", ["hot", "cold"])
    try:
        assert load_labels() == ["hot", "cold"]
        assert load_dataset().train.labels.tolist() == [
            ["hot", "cold"].index(label) for label in load_split("train")["label"]
        ]
    finally:
        paths.write_json(paths.PREPARED / "labels.json", ["cold", "hot"])
