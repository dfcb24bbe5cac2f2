"""Predicting with one model after another, as `evaluate` and sweeps do."""

import logging

import numpy as np
import pytest

from bilstm_attention.console import start_tensorflow

start_tensorflow()

import tensorflow as tf  # noqa: E402
from tests.unit.model.small_classifier import built  # noqa: E402

from bilstm_attention.data.dataset import Rows  # noqa: E402
from bilstm_attention.model.predict import predict, read_attention  # noqa: E402


def test_many_models_one_after_another_warn_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    rows = Rows.from_ids([np.array([7, 8, 9], np.int32), np.array([8, 9], np.int32)], np.zeros(2, np.int32))
    tf.get_logger().addHandler(caplog.handler)
    try:
        for seed in range(6):
            model = built(seed=seed)
            probabilities, weights = read_attention(model, rows)
            np.testing.assert_allclose(predict(model, rows), probabilities, atol=1e-6)
            assert [len(row) for row in weights] == [3, 2]
    finally:
        tf.get_logger().removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
