"""Computes activations again in the backward pass (Chen et al. 2016), also under XLA."""

import tensorflow as tf


def recompute(function):
    """See `portable.recompute`.

    In eager execution this is `tf.recompute_grad`. In a graph that accepts no booleans, and XLA
    sees through its dependence on the upstream gradients: it merges both computations, and stores
    their results.

    TensorFlow keeps a custom gradient, and the graph that contains it, forever, so this has its own
    graph. `function` must hold no model either: it gets everything as arguments.
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
            # Weights need not wait: results of weights alone are small.
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
    """An int32 that is 0, known only after the upstream gradients.

    A square is 0 or 1 modulo 4, so its second bit is 0. Graph compilers do not know that. Otherwise
    they would merge the second computation with the first, or begin it at once. The sum has at most
    one number, because a replica may have no rows.
    """
    first = next(x for x in upstream if x is not None and x.dtype.is_floating)
    bits = tf.bitcast(tf.cast(tf.reshape(first, [-1])[:1], tf.float32), tf.int32)
    number = tf.reduce_sum(bits)
    return tf.bitwise.bitwise_and(number * number, 2)


def _wait(x, zero):
    """The tensor, which waits for `zero`."""
    if x.dtype.is_bool:
        return tf.logical_or(x, tf.cast(zero, tf.bool))
    return x + tf.cast(zero, x.dtype)
