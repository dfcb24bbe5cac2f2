"""The optimizers of `params.train`: Keras's, of which Adam and Adadelta update a weight in one pass over it."""

from typing import Any

import keras
import tensorflow as tf

from bilstm_attention.config import Train


class _LocalGradients:
    """Leaves out Keras's sum of gradients over devices.

    On one device too, TensorFlow registers the gradient of that sum for good, and with it a process keeps the graph,
    the weights and the optimizer of every training it ever ran. Keras offers no public hook.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars


class Adam(_LocalGradients, keras.optimizers.Adam):
    """`keras.optimizers.Adam` in one operation: the formula and the order of Keras's, which takes a dozen.

    An embedding of 20,000 words is the largest weight by far; each operation on it costs as much as a step of the LSTM.
    Of a sparse gradient only its rows are updated, moments included ("lazy" Adam); TensorFlow has no operation for it.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable; Keras calls it for each."""
        index = self._get_variable_index(variable)
        m, v = self._momentums[index].value, self._velocities[index].value
        step, rate = tf.cast(self.iterations + 1, variable.dtype), tf.cast(learning_rate, variable.dtype)
        powers = [tf.pow(tf.cast(beta, variable.dtype), step) for beta in (self.beta_1, self.beta_2)]
        if isinstance(gradient, tf.IndexedSlices):
            rows, values = gradient.indices, gradient.values
            old_m, old_v = m.sparse_read(rows), v.sparse_read(rows)
            new_m = old_m + (values - old_m) * (1 - self.beta_1)
            new_v = old_v + (values**2 - old_v) * (1 - self.beta_2)
            m.scatter_update(tf.IndexedSlices(new_m, rows))
            v.scatter_update(tf.IndexedSlices(new_v, rows))
            rate *= tf.sqrt(1 - powers[1]) / (1 - powers[0])
            variable.scatter_sub(tf.IndexedSlices(rate * new_m / (tf.sqrt(new_v) + self.epsilon), rows))
            return
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=m.handle,
            v=v.handle,
            beta1_power=powers[0],
            beta2_power=powers[1],
            lr=rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


class Adadelta(_LocalGradients, keras.optimizers.Adadelta):
    """`keras.optimizers.Adadelta` in one operation; of a sparse gradient only its rows are updated."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable; Keras calls it for each."""
        index = self._get_variable_index(variable)
        arguments = {
            "var": variable.handle,
            "accum": self._accumulated_grads[index].value.handle,
            "accum_update": self._accumulated_delta_vars[index].value.handle,
            "lr": tf.cast(learning_rate, variable.dtype),
            "rho": self.rho,
            "epsilon": self.epsilon,
        }
        if isinstance(gradient, tf.IndexedSlices):
            rows = {"grad": gradient.values, "indices": gradient.indices}
            tf.raw_ops.ResourceSparseApplyAdadelta(**arguments, **rows)
        else:
            tf.raw_ops.ResourceApplyAdadelta(**arguments, grad=gradient)


class RMSprop(_LocalGradients, keras.optimizers.RMSprop):
    """`keras.optimizers.RMSprop`, as of the Keras snippet; of a sparse gradient only its rows are updated."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable; Keras calls it for each."""
        if not isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable, learning_rate)
            return
        rows, values = gradient.indices, gradient.values
        v = self._velocities[self._get_variable_index(variable)].value
        new_v = self.rho * v.sparse_read(rows) + (1 - self.rho) * values**2
        v.scatter_update(tf.IndexedSlices(new_v, rows))
        rate = tf.cast(learning_rate, variable.dtype)
        variable.scatter_sub(tf.IndexedSlices(rate * values / tf.sqrt(new_v + self.epsilon), rows))


class SGD(_LocalGradients, keras.optimizers.SGD):
    """`keras.optimizers.SGD`."""


OPTIMIZERS: dict[str, type[keras.optimizers.Optimizer]]
OPTIMIZERS = {"adam": Adam, "adadelta": Adadelta, "rmsprop": RMSprop, "sgd": SGD}


def make_optimizer(params: Train, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The optimizer of `params.train`, with its schedule and moving average; the step clips."""
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
