"""One step of training: a batch, on one device or shared by several, to gradients, penalties and an update."""

from contextlib import nullcontext
from functools import cache
from typing import Any

import keras
import tensorflow as tf

from bilstm_attention.errors import ParamsError
from bilstm_attention.model.predict import TOKENS

# Class numbers (B,), of any B.
LABELS = tf.TensorSpec([None], tf.int32)


@cache
def devices(count: int) -> tf.distribute.Strategy:
    """The strategy by which so many GPUs share each batch; without GPUs, so many logical CPUs.

    One for the whole process: sums over devices are told apart by numbers that every strategy begins anew.

    Raises:
        ParamsError: there are not so many.
    """
    if count == 1:
        return tf.distribute.get_strategy()
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    there = [device.name for device in tf.config.list_logical_devices(kind)]
    if len(there) < count:
        raise ParamsError(f"train.devices: {count}, but TensorFlow sees {len(there)} {kind}; set it to that or less.")
    return tf.distribute.MirroredStrategy(there[:count])


def training_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    classes: int,
    label_smoothing: float,
    strategy: tf.distribute.Strategy,
    clip_norm: float | None = None,
    r_drop: float = 0.0,
    adversarial: float = 0.0,
) -> Any:
    """One step of training, a graph: word ids `(B, T)` and class numbers `(B,)` to the mean loss before the step.

    Penalties are in the step and not in the loss that it returns. The embedding is by far the largest weight, so what
    is done to it at every step is done in as few passes as can be: the words' gradients are added to the penalty's.

    Args:
        model: of `build_classifier`, made in the scope of `strategy`.
        optimizer: of `make_optimizer`, built there on the model's trainable variables.
        classes: C.
        label_smoothing: share of each label spread over all classes.
        strategy: of `devices`; the loss and the update do not depend on how many there are, but for dropout, and for a
            layer's own penalty where a batch does not come out even.
        clip_norm: the most that the global norm of the gradient may be; None: no clipping.
        r_drop: weight of `(KL(p || q) + KL(q || p)) / 2`, the mean over sentences, where p and q are what two draws of
            dropout make of one sentence; the loss is then the mean of both. R-Drop, Liang et al. 2021,
            arXiv:2106.14448, whose loss is twice this one, and whose alpha twice this weight.
        adversarial: how far each sentence's word vectors, taken as one vector, are moved in the direction in which the
            loss grows most; what is learned from is the mean of the loss there and of the loss where they were. Miyato
            et al. 2017, arXiv:1605.07725, equations 5 to 7, without scaling the vectors.
    """
    cross_entropy = keras.losses.CategoricalCrossentropy(label_smoothing=label_smoothing, reduction="sum")
    weights = model.trainable_variables
    penalised = [weight for weight in weights if weight.regularizer is not None]
    embedding = model.get_layer("embedding")
    count = strategy.num_replicas_in_sync

    def on_device(tokens: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        sentences = tf.cast(tf.shape(labels)[0], tf.float32)
        tokens, labels, counted = _share(tokens, labels, count)
        if r_drop:
            # both draws in one pass, which takes less time than two
            tokens, labels = (tf.concat([part, part], axis=0) for part in (tokens, labels))
            counted = None if counted is None else tf.concat([counted, counted], axis=0)
            sentences *= 2

        def losses(moved: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
            """The loss, all that is to be made small but for the penalties of weights, and the word vectors as read."""
            with embedding.moved(moved) if adversarial else nullcontext([None]) as read:
                probabilities = model(tokens, training=True)
            loss = cross_entropy(tf.one_hot(labels, classes), probabilities, sample_weight=counted) / sentences
            # Keras lists what layers add first, and then the penalties of weights, whose gradients are taken apart
            added = model.losses[: len(model.losses) - len(penalised)]
            total = tf.add_n([loss, *(part / count for part in added)])
            if r_drop:
                total += r_drop * _divergence(probabilities, counted) / sentences
            # of two losses the mean
            return loss, (total / 2 if adversarial else total), read[0]

        with tf.GradientTape() as tape:
            loss, total, vectors = losses()
        if adversarial:
            *gradients, of_vectors = tape.gradient(total, [*weights, vectors])
            with tf.GradientTape() as tape:
                _, total, _ = losses(adversarial * _direction(of_vectors))
            found = [gradients, tape.gradient(total, weights)]
        else:
            found = [tape.gradient(total, weights)]
        with tf.GradientTape() as tape:
            penalties = [weight.regularizer(weight) / count for weight in penalised]
        of_penalties = dict(zip(map(id, penalised), tape.gradient(penalties, penalised), strict=True))
        summed = [
            _added([of_penalties.get(id(weight)), *gradients])
            for weight, *gradients in zip(weights, *found, strict=True)
        ]
        if count > 1:
            summed = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, summed)
        optimizer.apply(_clipped(summed, clip_norm) if clip_norm else summed, weights)
        return loss

    @tf.function(input_signature=[TOKENS, LABELS], autograph=False)
    def step(tokens: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        losses = strategy.run(on_device, (tokens, labels))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    return step


def _divergence(probabilities: tf.Tensor, counted: tf.Tensor | None) -> tf.Tensor:
    """`KL(p || q) + KL(q || p)` summed over sentences; p is the first half of the rows, q the second."""
    p, q = tf.split(probabilities, 2)
    # the least that the cross-entropy takes the logarithm of
    log_p, log_q = (tf.math.log(tf.maximum(part, keras.config.epsilon())) for part in (p, q))
    of_sentences = tf.reduce_sum((p - q) * (log_p - log_q), axis=-1)
    return tf.reduce_sum(of_sentences if counted is None else of_sentences * tf.split(counted, 2)[0])


def _direction(gradient: tf.Tensor) -> tf.Tensor:
    """`(B, T, D)`, for each sentence of length 1; 0 where it has none."""
    lengths = tf.sqrt(tf.reduce_sum(gradient**2, axis=[1, 2], keepdims=True))
    return tf.stop_gradient(tf.math.divide_no_nan(gradient, lengths))


def _share(tokens: tf.Tensor, labels: tf.Tensor, devices: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    """This device's sentences of a batch, and the weight of each: 0 where it repeats one so as to have any."""
    if devices == 1:
        return tokens, labels, None
    rows = tf.shape(labels)[0]
    number = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)
    mine = number + devices * tf.range(-(-rows // devices))
    taken = tf.minimum(mine, rows - 1)
    return tf.gather(tokens, taken), tf.gather(labels, taken), tf.cast(mine < rows, tf.float32)


def _added(gradients: list[Any]) -> tf.Tensor:
    """Their sum, dense: the norm of a sparse gradient would take each showing of a word apart."""
    first, *rest = [gradient for gradient in gradients if gradient is not None]
    if any(isinstance(gradient, tf.IndexedSlices) for gradient in rest):
        total = tf.convert_to_tensor(first)
        for gradient in rest:
            total = tf.tensor_scatter_nd_add(total, gradient.indices[:, tf.newaxis], gradient.values)
        return total
    if len(rest) < 2:
        return first + rest[0] if rest else tf.convert_to_tensor(first)
    # a reduction, since TensorFlow adds up three or more in whatever order is cheapest, and last bits depend on it
    return tf.reduce_sum(tf.stack([first, *rest]), axis=0)


def _clipped(gradients: list[tf.Tensor], norm: float) -> Any:
    """Scaled down to the global norm `norm`; as they are if within it, since scaling is a pass over the embedding."""
    found = tf.sqrt(2 * tf.add_n([tf.nn.l2_loss(gradient) for gradient in gradients]))
    return tf.cond(found > norm, lambda: [gradient * (norm / found) for gradient in gradients], lambda: gradients)
