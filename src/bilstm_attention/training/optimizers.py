"""The optimizers of `params.train`: Keras's, of which those with moments update a weight in one pass over it."""

from typing import Any

import keras
import tensorflow as tf

from bilstm_attention.config import Train


class _Summed:
    """An optimizer whose gradients are those of all devices already.

    Keras sums them itself, and on one device too; TensorFlow registers the gradient of that sum for good, and with it a
    process keeps the graph, the weights and the optimizer of every training that it ever did.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars


class _OnePassAdam(_Summed):
    """Adam's update as one operation of TensorFlow: the formula and the order of Keras's, which takes a dozen.

    An embedding of 20,000 words is the largest weight by far; each operation on it costs as much as a step of the LSTM.
    """

    def update_step(self: Any, gradient: tf.Tensor, variable: Any, learning_rate: Any) -> None:
        """Updates one variable; Keras calls it for each, with TensorFlow's own variable."""
        number = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[number].value.handle,
            v=self._velocities[number].value.handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), step),
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


class Adam(_OnePassAdam, keras.optimizers.Adam):
    """`keras.optimizers.Adam` in one pass."""


class AdamW(_OnePassAdam, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW` in one pass."""


class Adadelta(_Summed, keras.optimizers.Adadelta):
    """`keras.optimizers.Adadelta` in one pass."""

    def update_step(self, gradient: tf.Tensor, variable: Any, learning_rate: Any) -> None:
        """Updates one variable; Keras calls it for each, with TensorFlow's own variable."""
        number = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdadelta(
            var=variable.handle,
            accum=self._accumulated_grads[number].value.handle,
            accum_update=self._accumulated_delta_vars[number].value.handle,
            lr=tf.cast(learning_rate, variable.dtype),
            rho=self.rho,
            epsilon=self.epsilon,
            grad=gradient,
        )


class Nadam(_Summed, keras.optimizers.Nadam):
    """`keras.optimizers.Nadam`."""


class RMSprop(_Summed, keras.optimizers.RMSprop):
    """`keras.optimizers.RMSprop`."""


class SGD(_Summed, keras.optimizers.SGD):
    """`keras.optimizers.SGD`."""


class Adagrad(_Summed, keras.optimizers.Adagrad):
    """`keras.optimizers.Adagrad`."""


OPTIMIZERS: dict[str, type[keras.optimizers.Optimizer]] = {
    kind.__name__.lower(): kind for kind in (Adam, AdamW, Nadam, RMSprop, SGD, Adadelta, Adagrad)
}


def make_optimizer(params: Train, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The optimizer of `params.train`, with its schedule and moving average; clipping is of the step.

    Args:
        params: `params.train`.
        steps_per_epoch: by which the schedule counts its epochs.
    """
    return OPTIMIZERS[params.optimizer](
        learning_rate=_learning_rate(params, steps_per_epoch),
        use_ema=bool(params.ema),
        ema_momentum=params.ema or 0.99,
    )


def _learning_rate(params: Train, steps_per_epoch: int) -> Any:
    warmup = round(params.schedule.warmup_epochs * steps_per_epoch)
    if params.schedule.kind == "constant" and not warmup:
        return params.learning_rate
    total = params.epochs * steps_per_epoch
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else params.learning_rate,
        warmup_target=params.learning_rate if warmup else None,
        warmup_steps=warmup,
        decay_steps=max(1, total - warmup),
        # alpha is the share of the rate left at the end; 1 keeps it constant
        alpha=1.0 if params.schedule.kind == "constant" else 0.0,
    )
