"""One step of training: a batch to gradients, penalties and an update.

Shape letters: B sentences, T time steps, D embedding size, C classes.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bilstm_attention.config import Train
from bilstm_attention.model.predict import TOKENS

LABELS = tf.TensorSpec([None], tf.int32)  # class numbers (B,), of any B


def training_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    classes: int,
    settings: Train,
    class_weights: NDArray[np.float32] | None = None,
) -> Any:
    """One step of training as a graph: word ids `(B, T)` and class numbers `(B,)` to the mean loss before the step.

    Cross-entropy against smoothed labels, plus the penalties of weights and attention, minimized by one update. Two
    parameters of `params.train` change what is minimized:

    - `r_drop` adds `r_drop * (KL(p || q) + KL(q || p)) / 2`, the mean over sentences, where p and q are the predictions
      under two draws of dropout; the loss is the mean of both. R-Drop, Liang et al. 2021, arXiv:2106.14448, whose loss
      is twice this one and whose alpha is twice this weight.
    - `adversarial` is the length by which a sentence's word vectors, taken as one vector, are shifted in the direction
      of steepest loss; the step learns from the mean of the losses at both places. Miyato et al. 2017,
      arXiv:1605.07725, equations 5 to 7, without normalized vectors.

    With `embedding_updates: sparse` the penalty and the update of the embedding are those of the batch's words alone; a
    word that the batch lacks keeps its vector and its moments.

    `class_weights`, `(C,)`, multiply the losses of the sentences of each class. The optimizer is built on the model's
    trainable variables; the loss that is returned leaves penalties out.
    """
    r_drop, adversarial = settings.r_drop, settings.adversarial
    cross_entropy = keras.losses.CategoricalCrossentropy(label_smoothing=settings.label_smoothing, reduction="sum")
    weights = model.trainable_variables
    embedding, attention = model.get_layer("embedding"), model.get_layer("attention")
    embedding.reads_rows = settings.embedding_updates == "sparse"
    sparse = {id(weight) for weight in embedding.trainable_variables if embedding.reads_rows}
    penalized = [weight for weight in weights if weight.regularizer is not None and id(weight) not in sparse]

    @tf.function(input_signature=[TOKENS, LABELS], autograph=False)
    def step(tokens: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        if r_drop:
            # the batch twice, so that one pass draws both dropouts
            tokens, labels = (tf.concat([part, part], axis=0) for part in (tokens, labels))
        sentences = tf.cast(tf.shape(labels)[0], tf.float32)

        def losses(shift: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
            """The loss with word vectors shifted, `(B, T, D)`; and the objective without the penalties of weights."""
            embedding.shift = shift
            probabilities = model(tokens, training=True)
            embedding.shift = None
            by_sentence = None if class_weights is None else tf.gather(class_weights, labels)
            loss = cross_entropy(tf.one_hot(labels, classes), probabilities, by_sentence) / sentences
            # The attention's penalties of this call; those of weights have their own gradient below. `model.losses` has
            # them in the graph, uncomputed: a sparse step would copy its table for them, and without them TensorFlow
            # sums in another order, which would change the last bits of dense trainings.
            losses = attention.penalties if sparse else model.losses
            added = [penalty for penalty in losses if any(penalty is own for own in attention.penalties)]
            total = tf.add_n([loss, *added])
            if r_drop:
                total += r_drop * _divergence(probabilities) / sentences
            return loss, total / 2 if adversarial else total

        # A tape each, and not one persistent tape: that would run TensorFlow's gradient of the LSTM beside ours.
        with tf.GradientTape() as tape:
            loss, total = losses()
        if adversarial:
            *gradients, vector_gradient = tape.gradient(total, [*weights, embedding.vectors])
            with tf.GradientTape() as tape:
                _, total = losses(adversarial * _unit_length(vector_gradient))
            passes = [gradients, tape.gradient(total, weights)]
        else:
            passes = [tape.gradient(total, weights)]
        # Penalties apart from the loss: the embedding is by far the largest weight, and its gradient from the loss is
        # sparse, the words of the batch. Added to the dense gradient of the penalty it costs one pass, not three.
        with tf.GradientTape() as tape:
            penalties = [weight.regularizer(weight) for weight in penalized]
        decay = dict(zip(map(id, penalized), tape.gradient(penalties, penalized), strict=True))
        summed = [
            _sum_rows(weight, gradients)
            if id(weight) in sparse
            else _sum_gradients([decay.get(id(weight)), *gradients])
            for weight, *gradients in zip(weights, *passes, strict=True)
        ]
        optimizer.apply(_clip(summed, settings.clip_norm) if settings.clip_norm else summed, weights)
        return loss

    return step


def several_steps(step: Any) -> Any:
    """A graph of many calls of a `training_step`, one after another, which saves Python's share of each.

    Takes what `pad_batches` returns for S batches, and returns the loss of each, `(S,)`. Keras's `fit` has
    `steps_per_execution` for it.
    """

    @tf.function(input_signature=[LABELS, LABELS, tf.TensorSpec([None, 2], tf.int32)], autograph=False)
    def steps(tokens: tf.Tensor, labels: tf.Tensor, shapes: tf.Tensor) -> tf.Tensor:
        count = tf.shape(shapes)[0]

        def take(number: tf.Tensor, token: tf.Tensor, row: tf.Tensor, losses: tf.TensorArray) -> tuple[Any, ...]:
            shape = shapes[number]
            next_token, next_row = token + tf.reduce_prod(shape), row + shape[0]
            loss = step(tf.reshape(tokens[token:next_token], shape), labels[row:next_row])
            return number + 1, next_token, next_row, losses.write(number, loss)

        start = (0, 0, 0, tf.TensorArray(tf.float32, size=count))
        return tf.while_loop(lambda number, *_: number < count, take, start, parallel_iterations=1)[-1].stack()

    return steps


def _divergence(probabilities: tf.Tensor) -> tf.Tensor:
    """`KL(p || q) + KL(q || p)` summed over sentences; p is the first half of the rows, q the second."""
    p, q = tf.split(probabilities, 2)
    # the lower limit that the cross-entropy uses
    log_p, log_q = (tf.math.log(tf.maximum(part, keras.config.epsilon())) for part in (p, q))
    return tf.reduce_sum(tf.reduce_sum((p - q) * (log_p - log_q), axis=-1))


def _unit_length(gradient: tf.Tensor) -> tf.Tensor:
    """`(B, T, D)` scaled to length 1 per sentence; 0 where the gradient is 0."""
    lengths = tf.sqrt(tf.reduce_sum(gradient**2, axis=[1, 2], keepdims=True))
    return tf.stop_gradient(tf.math.divide_no_nan(gradient, lengths))


def _sum_gradients(gradients: list[Any]) -> tf.Tensor:
    """The sum of one weight's gradients, without Nones, always dense.

    The global norm of a sparse gradient would take the rows of a word that occurs twice apart: `a^2 + b^2` in place of
    `(a + b)^2`.
    """
    first, *rest = [gradient for gradient in gradients if gradient is not None]
    if any(isinstance(gradient, tf.IndexedSlices) for gradient in rest):
        total = tf.convert_to_tensor(first)
        for gradient in rest:
            total = tf.tensor_scatter_nd_add(total, gradient.indices[:, tf.newaxis], gradient.values)
        return total
    if len(rest) < 2:
        return first + rest[0] if rest else tf.convert_to_tensor(first)
    # Not `a + b + c`, nor add_n: TensorFlow's graph optimizer turns both into AddN, which adds three or more tensors in
    # an order that changes from run to run, and with it the last bits of the weights.
    return tf.reduce_sum(tf.stack([first, *rest]), axis=0)


def _sum_rows(weight: Any, gradients: list[tf.IndexedSlices]) -> tf.IndexedSlices:
    """The sum of an embedding's gradients and of the penalty of the same rows; each row stands once."""
    values = gradients[0].values if len(gradients) == 1 else tf.add_n([gradient.values for gradient in gradients])
    # every pass reads the same words
    rows, positions = tf.unique(gradients[0].indices)
    summed = tf.math.unsorted_segment_sum(values, positions, tf.size(rows))
    if weight.regularizer is not None:
        vectors = weight.value.sparse_read(rows)
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            penalty = weight.regularizer(vectors)
        summed += tape.gradient(penalty, vectors)
    return tf.IndexedSlices(summed, rows)


def _clip(gradients: list[Any], norm: float) -> Any:
    """Gradients scaled down to the global norm `norm`; within it unchanged, which saves a pass over the embedding."""
    values = [gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient for gradient in gradients]
    actual = tf.sqrt(2 * tf.add_n([tf.nn.l2_loss(each) for each in values]))
    clipped = tf.cond(actual > norm, lambda: [each * (norm / actual) for each in values], lambda: values)
    return [
        tf.IndexedSlices(each, gradient.indices) if isinstance(gradient, tf.IndexedSlices) else each
        for each, gradient in zip(clipped, gradients, strict=True)
    ]
