"""Several devices share a batch: two logical CPUs, in a process of their own, stand for two GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow
SCRIPT = """
import json, sys, tempfile
from pathlib import Path
from bilstm_attention.console import start_tensorflow
start_tensorflow()
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from test_training import EXACT, TASK, dropout, fit, interrupt_after, train
from bilstm_attention.errors import ParamsError
from bilstm_attention.config import Attention

def told(devices, model=EXACT, **changed):
    # 45 sentences in batches of 8: the last of each epoch has 5, or with batches of 44 just one
    fitted = fit(model, train(epochs=3, devices=devices, clip_norm=0.5, ema=0.5, **changed), TASK, 0)
    return {"loss": fitted.history["loss"].tolist(), "dev_loss": fitted.history["dev_loss"].tolist(),
            "weights": [weight.numpy().tolist() for weight in fitted.model.trainable_variables]}

structured = EXACT.model_copy(update={"attention": Attention(kind="structured", hops=2, size=3, penalty=0.5)})
found = {
    f"{name} {devices}": told(devices, **changed)
    for name, changed in {
        "adam": {}, "adadelta": {"optimizer": "adadelta", "learning_rate": 1.0}, "sgd": {"optimizer": "sgd"},
        "nadam": {"optimizer": "nadam"}, "one sentence left": {"batch_size": 44},
        "adversarial": {"adversarial": 0.8}, "both": {"adversarial": 0.8, "r_drop": 0.5, "optimizer": "sgd"},
        "penalty": {"model": structured, "batch_size": 44},
    }.items()
    for devices in (1, 2)
}
found["dropout"] = told(2, model=EXACT.model_copy(update={"dropout": dropout(0.3)}))["loss"]
folder = Path(tempfile.mkdtemp())
params = train(epochs=3, devices=2)
try:
    fit(EXACT, params, TASK, 0, checkpoints=folder, on_epoch=interrupt_after(2))
except KeyboardInterrupt:
    pass
found["resumed"] = fit(EXACT, params, TASK, 0, checkpoints=folder).history["loss"].tolist()
found["in one go"] = fit(EXACT, params, TASK, 0).history["loss"].tolist()
try:
    fit(EXACT, train(devices=3), TASK, 0)
except ParamsError as error:
    found["too many"] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What trainings on one and on two devices give."""
    tests = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests / "unit/training"), *sys.path])}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("name", ["adam", "adadelta", "sgd", "nadam", "one sentence left", "adversarial", "both"])
def test_two_devices_have_the_losses_and_weights_of_one(found: dict[str, Any], name: str) -> None:
    one, two = found[f"{name} 1"], found[f"{name} 2"]
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-5)
    np.testing.assert_allclose(two["dev_loss"], one["dev_loss"], rtol=1e-5)
    for weight, wanted in zip(two["weights"], one["weights"], strict=True):
        np.testing.assert_allclose(weight, wanted, rtol=1e-4, atol=1e-5)


def test_the_penalty_of_a_layer_is_the_mean_over_devices(found: dict[str, Any]) -> None:
    np.testing.assert_allclose(found["penalty 2"]["loss"], found["penalty 1"]["loss"], rtol=1e-5)


def test_dropout_trains_on_two_devices(found: dict[str, Any]) -> None:
    assert found["dropout"][-1] < found["dropout"][0]
    assert found["dropout"] != found["adam 2"]["loss"]


def test_a_training_on_two_devices_resumes_as_if_never_stopped(found: dict[str, Any]) -> None:
    assert found["resumed"] == found["in one go"]


def test_more_devices_than_there_are_is_an_error(found: dict[str, Any]) -> None:
    assert found["too many"] == "train.devices: 3, but TensorFlow sees 2 CPU; set it to that or less."
