"""What a trained trial costs: weights counted by hand, and a forward pass timed once it has been traced."""

from typing import Any

import numpy as np
import pytest

from bilstm_attention.config import Params, with_overrides
from bilstm_attention.data.dataset import Rows
from bilstm_attention.errors import TrainingError
from bilstm_attention.search import sweep

VOCABULARY, DIMENSION, UNITS, CLASSES = 9, 4, 3, 5
ROWS = Rows.from_ids([np.arange(length, dtype=np.int32) % 7 + 1 for length in (3, 5, 2)], np.zeros(3, np.int32))


def make_model(**changes: Any) -> Any:
    from bilstm_attention.model.classifier import build_classifier

    params = with_overrides(Params(), {"model.lstm_units": UNITS, "model.attention.kind": "max", **changes}).model
    matrix = np.random.default_rng(0).normal(size=(VOCABULARY, DIMENSION)).astype(np.float32)
    return build_classifier(params, matrix, training_words=6, classes=CLASSES, seed=0)


@pytest.mark.parametrize(("merge", "states"), [("sum", UNITS), ("concat", 2 * UNITS)])
def test_parameters_leave_out_word_vectors(merge: str, states: int) -> None:
    # per direction 4 gates of kernel, recurrent kernel and bias; then the dense layer
    lstm = 2 * 4 * (DIMENSION * UNITS + UNITS * UNITS + UNITS)
    assert sweep.cost("parameters", make_model(**{"model.merge": merge}), ROWS) == lstm + states * CLASSES + CLASSES


def test_latency_is_a_median_without_the_first_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, shapes = [0.0], []
    # seconds of each pass; the first traces the graph
    passes = iter([50.0, 0.002, 0.009, 0.003])

    class Output:
        def numpy(self) -> None:
            clock[0] += next(passes)

    def forward(tokens: Any) -> Output:
        shapes.append(tokens.shape)
        return Output()

    monkeypatch.setattr("bilstm_attention.model.predict.forward_pass", lambda model: forward)
    monkeypatch.setattr(sweep.time, "perf_counter", lambda: clock[0])
    assert sweep.cost("latency_ms", None, ROWS) == pytest.approx(3.0)
    # one sentence alone each time
    assert shapes == [(1, 3), (1, 3), (1, 5), (1, 2)]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (TrainingError("the loss is not a number"), "the loss is not a number"),
        (ValueError("first\nsecond"), "ValueError: first"),
        (ValueError(), "ValueError: no message"),
    ],
)
def test_error_is_one_line(error: Exception, line: str) -> None:
    assert sweep.error_line(error) == line
