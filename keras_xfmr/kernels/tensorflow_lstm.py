"""The loop of a projected LSTM on TensorFlow, with a custom gradient.

T length, B batch, U units, P projection_dim
"""

import functools

import tensorflow as tf


def projected_lstm(inputs, recurrent, projection, state, mask, clips, training=False):
    """See `keras_xfmr.kernels.portable.projected_lstm`."""
    tensors = (inputs, recurrent, projection, *state)
    masked, clips = mask is not None, tuple(clips)
    mask = mask if masked else tf.ones([0, 0, 1], tf.bool)
    if not training:
        outputs, h, c = _run(*tensors, mask, masked, clips)[:3]
    else:
        outputs, h, c = _trained(masked, clips, inputs.dtype)(*tensors, mask)
    outputs = tf.ensure_shape(outputs, [inputs.shape[0], *state[0].shape])
    return outputs, (tf.ensure_shape(h, state[0].shape), tf.ensure_shape(c, state[1].shape))


@functools.cache
def _trained(masked, clips, dtype):
    """The loop with its gradient, as one function for all layers with these options.

    TensorFlow's gradient of a loop adds a product of small matrices to the gradient of each kernel
    at every step. Here the gradients of all steps are stored, and one product over all steps is the
    gradient of a kernel.

    Its own function holds no graph of a model, see `tensorflow._normalizer`.
    """

    @tf.custom_gradient
    def run(inputs, recurrent, projection, h, c, mask):
        state = (h, c)
        outputs, last_h, last_c, *kept = _run(
            inputs, recurrent, projection, h, c, mask, masked, clips, keep=True
        )

        def gradient(d_outputs, d_h, d_c):
            found = _gradients(
                (recurrent, projection), state, (outputs, *kept), mask, masked, clips,
                (d_outputs, d_h, d_c),
            )  # fmt: skip
            return *found, None

        return (outputs, last_h, last_c), gradient

    wide = tf.TensorSpec([None, None, None], dtype)
    matrix = tf.TensorSpec([None, None], dtype)
    cell = tf.TensorSpec([None, None], tf.float32)
    signature = [wide, matrix, matrix, matrix, cell, tf.TensorSpec([None, None, 1], tf.bool)]
    return tf.function(run, input_signature=signature, autograph=False)


def _run(inputs, recurrent, projection, h, c, mask, masked, clips, keep=False):
    """All outputs `[T, B, P]` and the last state; with `keep` all cells and gates `[T, B, U]`.

    Each gate has its own product and arrays: XLA's code for slices of one array `[B, 4 U]` takes
    four times as long.
    """
    length = tf.shape(inputs)[0]
    cell_clip, projection_clip = clips
    parts = tf.split(recurrent, 4, axis=-1)
    kept = [inputs.dtype, *[tf.float32] * 5][: 6 if keep else 1]
    arrays = [tf.TensorArray(dtype, length) for dtype in kept]

    def step(t, h, c, *arrays):
        z = [a + tf.matmul(h, part) for a, part in zip(tf.split(inputs[t], 4, axis=-1), parts)]
        i, j, f, o = (tf.cast(gate, tf.float32) for gate in z)
        i, j, f, o = tf.sigmoid(i), tf.tanh(j), tf.sigmoid(f), tf.sigmoid(o)
        new_c = _clip(f * c + i * j, cell_clip)
        new_h = tf.cast(o * tf.tanh(new_c), inputs.dtype)
        new_h = _clip(tf.matmul(new_h, projection), projection_clip)
        if masked:
            new_h, new_c = tf.where(mask[t], new_h, h), tf.where(mask[t], new_c, c)
        values = (new_h, new_c, i, j, f, o)
        return t + 1, new_h, new_c, *(a.write(t, v) for a, v in zip(arrays, values))

    _, h, c, *arrays = tf.while_loop(
        lambda t, *_: t < length, step, (0, h, c, *arrays), maximum_iterations=length
    )
    outputs, *rest = (array.stack() for array in arrays)
    return outputs, h, c, *rest


def _gradients(kernels, state, kept, mask, masked, clips, last):
    """Gradients of inputs, kernels and first state; `last` has those of outputs and state."""
    (outputs, cells, *gates), (d_outputs, d_h, d_c) = kept, last
    dtype, length = outputs.dtype, tf.shape(outputs)[0]
    before_h, before_c = (
        tf.concat([first[None], rest[:-1]], axis=0) for first, rest in zip(state, (outputs, cells))
    )
    o, bent = gates[3], tf.tanh(cells)
    factors = _factors(gates, bent, before_c)
    recurrent, projection = (tf.transpose(kernel) for kernel in kernels)
    arrays = [tf.TensorArray(dtype, length) for _ in range(2)]

    def step(t, d_h, d_c, *arrays):
        d_h += d_outputs[t]
        rest_h, rest_c = tf.zeros_like(d_h), tf.zeros_like(d_c)
        if masked:
            rest_h, d_h = tf.where(mask[t], rest_h, d_h), tf.where(mask[t], d_h, rest_h)
            rest_c, d_c = tf.where(mask[t], rest_c, d_c), tf.where(mask[t], d_c, rest_c)
        d_projected = _unclipped(d_h, outputs[t], clips[1])
        d_cell_out = tf.cast(tf.matmul(d_projected, projection), tf.float32)
        d_c = _unclipped(d_c + d_cell_out * factors[4][t], cells[t], clips[0])
        d_z = [d * factor[t] for d, factor in zip((d_c, d_c, d_c, d_cell_out), factors)]
        d_z = tf.cast(tf.concat(d_z, axis=-1), dtype)
        d_h = tf.matmul(d_z, recurrent) + rest_h
        arrays = (a.write(t, v) for a, v in zip(arrays, (d_z, d_projected)))
        return t - 1, d_h, d_c * gates[2][t] + rest_c, *arrays

    _, d_h, d_c, *arrays = tf.while_loop(
        lambda t, *_: t >= 0, step, (length - 1, d_h, d_c, *arrays), maximum_iterations=length
    )
    d_z, d_projected = (array.stack() for array in arrays)
    cell_outputs = tf.cast(o * bent, dtype)
    return (
        d_z, _over_steps(before_h, d_z), _over_steps(cell_outputs, d_projected), d_h, d_c
    )


def _factors(gates, bent, before):
    """The factors of a step's gradients, for all steps at once: `[T, B, U]` each.

    From the gradient of c to those of the inputs of the gates i, j, f; from the gradient of
    o tanh(c) to that of the input of o, and to that of c.
    """
    i, j, f, o = gates
    return (
        j * i * (1 - i), i * (1 - j * j), before * f * (1 - f), bent * o * (1 - o),
        o * (1 - bent * bent),
    )  # fmt: skip


def _over_steps(one, other):
    """The sum over steps and rows of `[T, B, n]` times `[T, B, m]`: `[n, m]`."""
    one, other = (tf.reshape(x, [-1, tf.shape(x)[-1]]) for x in (one, other))
    return tf.matmul(one, other, transpose_a=True)


def _clip(x, limit):
    return x if limit is None else tf.clip_by_value(x, tf.cast(-limit, x.dtype), limit)


def _unclipped(gradient, value, limit):
    """The gradient if the value was not clipped, else 0."""
    if limit is None:
        return gradient
    inside = tf.abs(value) < tf.cast(limit, value.dtype)
    return tf.where(inside, gradient, tf.zeros_like(gradient))
