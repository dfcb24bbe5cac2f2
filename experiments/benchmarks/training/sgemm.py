"""The most that this machine computes in float32: products of square matrices."""

from typing import Any

import numpy as np
from work import SEED, Contender, Setup

SIZE, PRODUCTS = 2048, 8
FLOP = 2 * SIZE**3


def contender(setup: Setup) -> Contender:
    """A pass of products by the library named in the contender."""
    draw = np.random.default_rng(SEED)
    square = draw.standard_normal((SIZE, SIZE), dtype=np.float32)
    product = (_torch if setup.contender.endswith("torch") else _tensorflow)(square, setup.threads)

    def take() -> dict[str, Any]:
        for _ in range(PRODUCTS):
            product()
        return {"steps": PRODUCTS}

    return Contender({str(SIZE): take})


def _torch(square: Any, threads: int) -> Any:
    import torch  # type: ignore[import-not-found, unused-ignore]

    torch.set_num_threads(threads)
    matrix = torch.from_numpy(square)
    return lambda: matrix @ matrix


def _tensorflow(square: Any, threads: int) -> Any:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    matrix = tf.constant(square)
    multiply = tf.function(lambda: tf.reduce_max(matrix @ matrix))
    return lambda: float(multiply())
