"""What a model costs: weights counted by hand, and a forward pass timed once it has been traced."""

import time
from typing import Any

import numpy as np
import pytest

from bilstm_attention.config import Params, with_overrides
from bilstm_attention.data.dataset import Rows
from bilstm_attention.model.classifier import build_classifier
from bilstm_attention.search import cost

VOCABULARY, DIMENSION, UNITS, CLASSES = 9, 4, 3, 5
ROWS = Rows.from_ids([np.arange(length, dtype=np.int32) % 7 + 1 for length in (3, 5, 2)], np.zeros(3, np.int32))


def model(**changes: Any) -> Any:
    params = with_overrides(Params(), {"model.lstm_units": UNITS, "model.attention.kind": "max", **changes}).model
    matrix = np.random.default_rng(0).normal(size=(VOCABULARY, DIMENSION)).astype(np.float32)
    return build_classifier(params, matrix, training_words=6, classes=CLASSES, seed=0)


@pytest.mark.parametrize(("merge", "states"), [("sum", UNITS), ("concat", 2 * UNITS)])
def test_weights_are_those_of_the_network_without_the_word_vectors(merge: str, states: int) -> None:
    # per direction 4 gates of kernel, recurrent kernel and bias; then the dense layer
    lstm = 2 * 4 * (DIMENSION * UNITS + UNITS * UNITS + UNITS)
    assert cost.parameters(model(**{"model.merge": merge})) == lstm + states * CLASSES + CLASSES


def test_weights_of_an_attention_count() -> None:
    # Zhou et al. 2016, equation 9: one vector of the states' size
    more = cost.parameters(model(**{"model.attention.kind": "zhou"})) - cost.parameters(model())
    assert more == UNITS


def test_the_first_pass_is_not_timed_and_the_median_of_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, shapes = [0.0], []
    # seconds of each pass; the first traces the graph
    passes = iter([50.0, 0.002, 0.009, 0.003])

    class Answer:
        def numpy(self) -> None:
            clock[0] += next(passes)

    def forward(tokens: Any) -> Answer:
        shapes.append(tokens.shape)
        return Answer()

    monkeypatch.setattr(cost, "forward_pass", lambda model: forward)
    monkeypatch.setattr(cost.time, "perf_counter", lambda: clock[0])
    assert cost.latency_ms(None, ROWS) == pytest.approx(3.0)
    # one sentence alone each time
    assert shapes == [(1, 3), (1, 3), (1, 5), (1, 2)]


def test_no_more_than_some_sentences_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    many, passes = (
        Rows.from_ids([np.ones(2, np.int32)] * (cost.SENTENCES + 50), np.zeros(cost.SENTENCES + 50, np.int32)),
        [],
    )
    monkeypatch.setattr(cost, "forward_pass", lambda model: lambda tokens: passes.append(1) or np.zeros(1).view(Array))
    cost.latency_ms(None, many)
    assert len(passes) == 1 + cost.SENTENCES


class Array(np.ndarray):
    def numpy(self) -> "Array":
        return self


def test_a_real_pass_takes_some_time_and_far_less_than_tracing_it() -> None:
    begun = time.perf_counter()
    found = cost.cost("latency_ms", model(), ROWS)
    assert 0 < found < 1000 * (time.perf_counter() - begun) / 4
    assert cost.cost("parameters", model(), ROWS) == cost.parameters(model())
