"""What a trained model costs whoever uses it: the second objective of a sweep."""

import math
import time
from typing import Any

import numpy as np

from bilstm_attention.data.dataset import Rows, pad
from bilstm_attention.model.predict import forward_pass

SENTENCES = 200


def cost(kind: str, model: Any, dev: Rows) -> float:
    """What `against` of a sweep names: `latency_ms` or `parameters`."""
    return latency_ms(model, dev) if kind == "latency_ms" else float(parameters(model))


def parameters(model: Any) -> int:
    """Trainable weights without the word vectors, which are as many whatever the network is."""
    vectors = {id(variable) for variable in model.get_layer("embedding").variables}
    return sum(math.prod(each.shape) for each in model.trainable_variables if id(each) not in vectors)


def latency_ms(model: Any, dev: Rows) -> float:
    """Median milliseconds of a forward pass of one sentence alone, over sentences of dev; the first is not timed."""
    forward, times = forward_pass(model), []
    for row in (0, *range(min(SENTENCES, len(dev)))):
        tokens = pad(dev, np.asarray([row]))
        started = time.perf_counter()
        forward(tokens).numpy()
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times[1:]))
