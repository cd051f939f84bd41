"""Activations that are computed again in the backward pass (Chen et al. 2016), also under XLA."""

import tensorflow as tf


def recompute(function):
    """See `portable.recompute`.

    `tf.recompute_grad` does it where TensorFlow executes eagerly, and it is used there. In a graph
    it takes no booleans, and XLA sees through its dependence on the gradients from above: both
    computations are then one again, whose results are kept.

    TensorFlow never forgets a custom gradient and the graph that it stands in, so that it has a
    graph of its own. `function` must hold no model either: what it needs are its arguments.
    """

    def run(state, inputs):
        count, tensors = len(state), [tf.convert_to_tensor(x) for x in (*state, *inputs)]
        of_tensors = lambda *x: function(list(x[:count]), list(x[count:]))  # noqa: E731
        if tf.executing_eagerly():
            return _eager(of_tensors, tensors)
        return list(tf.function(_recomputed(of_tensors, count), autograph=False)(*tensors))

    return run


def _eager(function, tensors):
    floats = [x.dtype.is_floating for x in tensors]

    def of_floats(*given):
        given = iter(given)
        return function(*(next(given) if is_float else x for x, is_float in zip(tensors, floats)))

    return tf.recompute_grad(of_floats)(*(x for x, f in zip(tensors, floats) if f))


def _recomputed(function, count):
    @tf.custom_gradient
    def run(*tensors):
        outputs = function(*tensors)

        def gradient(*upstream):
            zero = _later_zero(upstream)
            # Weights need not wait: what is made of them alone is small.
            later = [
                x if i < count and x.dtype.is_floating else _wait(x, zero)
                for i, x in enumerate(tensors)
            ]
            sources = [x for x in later if x.dtype.is_floating]
            with tf.GradientTape() as tape:
                tape.watch(sources)
                again = function(*later)
            pairs = [(y, dy) for y, dy in zip(again, upstream) if y.dtype.is_floating]
            found = iter(tape.gradient(
                [y for y, _ in pairs], sources, [dy for _, dy in pairs],
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            ))  # fmt: skip
            return [next(found) if x.dtype.is_floating else None for x in tensors]

        return outputs, gradient

    return run


def _later_zero(upstream):
    """An int32 that is 0 once the gradients from above are there.

    A square is 0 or 1 modulo 4, so that its second bit is 0. No compiler of graphs knows: it would
    join the second computation with the first, or begin it at once. The sum is over one number, or
    none: a replica may have no rows.
    """
    first = next(x for x in upstream if x is not None and x.dtype.is_floating)
    bits = tf.bitcast(tf.cast(tf.reshape(first, [-1])[:1], tf.float32), tf.int32)
    number = tf.reduce_sum(bits)
    return tf.bitwise.bitwise_and(number * number, 2)


def _wait(x, zero):
    """The tensor with its values."""
    if x.dtype.is_bool:
        return tf.logical_or(x, tf.cast(zero, tf.bool))
    return x + tf.cast(zero, x.dtype)
