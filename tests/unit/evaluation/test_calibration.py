import numpy as np
import pytest
import sklearn.metrics as sk
from scipy.special import softmax

from bilstm_attention.evaluation.calibration import LIMITS, calibration_errors, fit_temperature, reliability, scale

DRAW = np.random.default_rng(0)
LOGITS = DRAW.normal(scale=2, size=(4000, 3))
GOLD = np.array([DRAW.choice(3, p=row) for row in softmax(LOGITS, axis=1)])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_scaling_divides_the_logits(temperature):
    probabilities = softmax(LOGITS, axis=1).astype(np.float32)
    scaled = scale(probabilities, temperature)
    np.testing.assert_allclose(scaled, softmax(LOGITS / temperature, axis=1), atol=1e-6)
    assert (scaled.argmax(axis=1) == probabilities.argmax(axis=1)).all()


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_fitted_temperature_is_that_of_the_labels(temperature):
    assert fit_temperature(softmax(LOGITS * temperature, axis=1), GOLD) == pytest.approx(temperature, rel=0.1)


def test_sure_and_right_probabilities_are_fitted_within_limits():
    sure = np.float32([[1, 0], [0, 1]])
    assert LIMITS[0] <= fit_temperature(sure, np.array([0, 1])) <= LIMITS[1]
    assert calibration_errors(sure, np.array([0, 1])) == {"nll": 0, "brier": 0, "ece": 0}
    assert np.isfinite(calibration_errors(sure, np.array([1, 1]))["nll"])
    np.testing.assert_allclose(scale(sure, 2.0), sure, atol=1e-6)


def test_errors_equal_scikit_learn_and_hand_computed_ones():
    probabilities = softmax(LOGITS, axis=1)
    errors = calibration_errors(probabilities, GOLD)
    assert errors["nll"] == pytest.approx(sk.log_loss(GOLD, probabilities))
    squares = [sk.brier_score_loss(label == GOLD, probabilities[:, label]) for label in range(3)]
    assert errors["brier"] == pytest.approx(sum(squares))
    # bins of 1/15: 0.61 and 0.65 share one, half of it right; 0.9 is in another, wrong
    few = np.array([[0.61, 0.39], [0.35, 0.65], [0.9, 0.1], [1.0, 0.0]])
    gold = np.array([0, 0, 1, 0])
    assert calibration_errors(few, gold)["ece"] == pytest.approx((2 * 13 + 90 + 0) / 4)
    assert reliability(few, gold).to_dict("list") == {
        "confidence": pytest.approx([63, 90, 100]),
        "accuracy": [50, 0, 100],
        "sentences": [2, 1, 1],
    }
