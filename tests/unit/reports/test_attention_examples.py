"""Sentences as a model read them: from its outputs to a table, from the table to examples, and a choice of them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from bilstm_attention.evaluation.evaluate import attention_table
from bilstm_attention.reports.attention_page import SHOWN, AttentionExample, read_examples, select_examples

LABELS = ["neg", "pos", "neutral", "mixed"]
PROBABILITIES = np.array([[0.1, 0.6, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]], np.float32)
EXAMPLES = pd.DataFrame({"tokens": [["a", "b", "c"], ["d", "e"]], "label": ["pos", ""]})


def examples(folder: Path, *weights: np.ndarray, **attention: str) -> list[AttentionExample]:
    model = SimpleNamespace(get_layer=lambda name: SimpleNamespace(**attention) if name == "attention" else None)
    attention_table(model, EXAMPLES, PROBABILITIES, weights, LABELS).to_parquet(folder / "table.parquet")
    return read_examples(pd.read_parquet(folder / "table.parquet"))


def test_one_distribution_and_several_have_one_shape(tmp_path: Path) -> None:
    one = examples(tmp_path, np.array([0.5, 0.25, 0.25], np.float32), np.array([0.5, 0.5], np.float32))
    assert [example.weights.shape for example in one] == [(1, 3), (1, 2)]
    assert [example.axis for example in one] == ["", ""]
    hops = np.array([[1, 0, 0], [0, 0.5, 0.5]], np.float32), np.array([[1, 0], [0, 1]], np.float32)
    several = examples(tmp_path, *hops, axis="hop")
    assert [example.weights.shape for example in several] == [(2, 3), (2, 2)]
    assert [example.axis for example in several] == ["hop", "hop"]
    np.testing.assert_array_equal(several[0].mean_weights, [0.5, 0.25, 0.25])
    assert [example.tokens for example in several] == EXAMPLES["tokens"].tolist()


def test_three_best_labels_come_first_and_ties_in_order(tmp_path: Path) -> None:
    first, second = examples(tmp_path, np.ones(3), np.ones(2))
    assert [label for label, _ in first.best] == ["pos", "neutral", "neg"]
    assert first.best[0][1] == first.probability == pytest.approx(0.6)
    assert [label for label, _ in second.best] == ["neg", "pos", "neutral"]
    assert (first.verdict, second.verdict) == ("right", "")


def test_picture_shows_the_first_ones_and_two_misread_ones() -> None:
    def example(number: int, gold: str | None) -> AttentionExample:
        return AttentionExample([str(number)], np.ones((1, 1)), gold, [("pos", 1.0)])

    wrong, many = {2, 5, 7}, range(20)
    chosen = select_examples([example(number, "neg" if number in wrong else "pos") for number in many])
    assert [example.tokens[0] for example in chosen] == ["0", "1", "3", "4", "6", "8", "2", "5"]
    assert len(select_examples([example(number, "pos") for number in many])) == SHOWN
    assert select_examples([example(0, None)]) == []
