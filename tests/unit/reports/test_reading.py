"""What is known of a sentence that a model has read, and which sentences are asked for."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from bilstm_attention.reports.reading import AttentionExample, picked, read_sentences, read_split

from bilstm_attention import paths
from bilstm_attention.data.dataset import Rows
from bilstm_attention.data.tokens import Vocabulary
from bilstm_attention.reports import reading

LABELS = ["neg", "pos", "neutral", "mixed"]
PROBABILITIES = np.array([[0.1, 0.6, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]], np.float32)


def model(**attention: str) -> SimpleNamespace:
    return SimpleNamespace(get_layer=lambda name: SimpleNamespace(**attention) if name == "attention" else None)


@pytest.fixture
def attending(monkeypatch: pytest.MonkeyPatch):
    """Says which weights a model is to give; the rows it was asked about are kept."""
    from bilstm_attention.model import predict as prediction

    asked: list[Rows] = []

    def give(*weights: np.ndarray) -> list[Rows]:
        def read(_: object, rows: Rows) -> tuple[np.ndarray, list[np.ndarray]]:
            asked.append(rows)
            return PROBABILITIES[: len(rows)], list(weights[: len(rows)])

        monkeypatch.setattr(prediction, "read_attention", read)
        return asked

    return give


def encoded(*sizes: int) -> tuple[Rows, list[list[str]]]:
    rows = Rows.from_ids([np.ones(size, np.int32) for size in sizes], np.zeros(len(sizes), np.int32))
    return rows, [[f"w{number}" for number in range(size)] for size in sizes]


def test_one_distribution_and_several_have_one_shape(attending) -> None:
    rows, tokens = encoded(3, 2)
    attending(np.array([0.5, 0.25, 0.25], np.float32), np.array([0.5, 0.5], np.float32))
    one = read_sentences(model(), rows, tokens, ["pos", None], LABELS)
    assert [example.weights.shape for example in one] == [(1, 3), (1, 2)]
    assert [example.axis for example in one] == ["", ""]
    attending(np.array([[1, 0, 0], [0, 0.5, 0.5]], np.float32), np.array([[1, 0], [0, 1]], np.float32))
    several = read_sentences(model(axis="hop"), rows, tokens, ["pos", None], LABELS)
    assert [example.weights.shape for example in several] == [(2, 3), (2, 2)]
    assert [example.axis for example in several] == ["hop", "hop"]
    np.testing.assert_array_equal(several[0].mean_weights, [0.5, 0.25, 0.25])
    assert [example.tokens for example in several] == tokens


def test_the_three_best_labels_come_first_to_last_of_equals_the_first(attending) -> None:
    rows, tokens = encoded(1, 1)
    attending(np.ones(1), np.ones(1))
    first, second = read_sentences(model(), rows, tokens, ["pos", "pos"], LABELS)
    assert [label for label, _ in first.best] == ["pos", "neutral", "neg"]
    assert first.best[0][1] == first.probability == pytest.approx(0.6)
    assert [label for label, _ in second.best] == ["neg", "pos", "neutral"]
    assert (first.verdict, second.verdict) == ("right", "wrong")
    assert AttentionExample(["a"], np.ones((1, 1)), None, first.best).verdict == ""


def test_no_sentences_are_read_without_asking_the_model() -> None:
    assert read_sentences(None, *encoded(), [], LABELS) == []


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (2, 2), (0, 2)])
def test_the_first_rows_of_a_split_are_read(
    limit: int, expected: int, attending, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bilstm_attention.model import classifier

    monkeypatch.chdir(tmp_path)
    for folder in (paths.PREPARED, paths.EMBEDDINGS):
        folder.mkdir(parents=True)
    frame = pd.DataFrame({"id": ["1", "2"], "tokens": [["a", "unheard"], ["b"]], "label": ["pos", "neg"]})
    frame.to_parquet(paths.PREPARED / "dev.parquet")
    (paths.PREPARED / "labels.json").write_text('["neg", "pos", "neutral", "mixed"]')
    Vocabulary(["a", "b"]).save(paths.EMBEDDINGS / "vocabulary.txt")
    loaded: list[Path] = []
    monkeypatch.setattr(classifier, "load_classifier", lambda path: loaded.append(path) or model())
    asked = attending(np.array([0.5, 0.5]), np.array([1.0]))
    examples = read_split("dev", 3, limit)
    assert [(list(example.tokens), example.gold) for example in examples] == [
        (["a", "unheard"], "pos"),
        (["b"], "neg"),
    ][:expected]
    assert [row.tolist() for row in asked[0]] == [[6, 1], [7]][:expected]
    assert loaded == [paths.seed_folder(3) / "model.keras"]


def test_a_picture_shows_the_first_ones_and_two_misread_ones() -> None:
    def example(number: int, gold: str | None) -> AttentionExample:
        return AttentionExample([str(number)], np.ones((1, 1)), gold, [("pos", 1.0)])

    wrong, many = {2, 5, 7}, range(20)
    chosen = picked([example(number, "neg" if number in wrong else "pos") for number in many])
    assert [example.tokens[0] for example in chosen] == ["0", "1", "3", "4", "6", "8", "2", "5"]
    assert len(picked([example(number, "pos") for number in many])) == reading.SHOWN
    assert picked([example(0, None)]) == []
