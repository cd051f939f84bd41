"""TensorFlow's phrasing, where the plain one is slow, and the three things that only it needs:
`build_training` before a step is traced, `validated` data sets, a `program` without replicas.
"""

import functools

import keras
import numpy as np
import tensorflow as tf

from keras_xfmr.kernels import portable
from keras_xfmr.kernels.tensorflow_attention import blockwise_attention  # noqa: F401
from keras_xfmr.kernels.tensorflow_lstm import projected_lstm  # noqa: F401
from keras_xfmr.kernels.tensorflow_memory import step_memory  # noqa: F401
from keras_xfmr.kernels.tensorflow_random import dropout, uniform  # noqa: F401
from keras_xfmr.kernels.tensorflow_recompute import recompute  # noqa: F401
from keras_xfmr.kernels.tensorflow_replicas import (  # noqa: F401
    copies,
    is_chief,
    of_chief,
    refuse_branches,
    refusing_uneven,
    replicas,
    replicas_of,
    slope,
    strategy_replicas,
    sum_over_replicas,
    sum_over_workers,
)


def layer_norm(inputs, gamma, beta, epsilon):
    """Layer normalization whose row sums are matrix products, forward and backward.

    XLA:CPU runs a reduction over the last axis as a scalar loop; a product with a column of 1/D
    goes to the tuned matrix kernel. On a GPU the product could run in TensorFloat-32, too coarse
    for a mean, so the plain phrasing stays there.
    """
    depth = inputs.shape[-1]
    if depth is None or tf.config.list_logical_devices("GPU"):
        return portable.layer_norm(inputs, gamma, beta, epsilon)
    rows = tf.reshape(tf.cast(inputs, tf.float32), (-1, depth))
    outputs = _normalizer(depth)(rows, tf.constant(epsilon, tf.float32))
    if gamma is not None:
        outputs = outputs * tf.cast(gamma, tf.float32)
    if beta is not None:
        outputs = outputs + tf.cast(beta, tf.float32)
    return tf.reshape(tf.cast(outputs, inputs.dtype), tf.shape(inputs))


@functools.cache
def _normalizer(depth):
    """`_normalize_rows` as one function for all layers of this depth.

    TensorFlow never forgets a custom gradient and the graph that it stands in. In a graph of its
    own it holds nothing; in a model's it would hold the model, with its weights, for good.
    """
    signature = (tf.TensorSpec([None, depth], tf.float32), tf.TensorSpec([], tf.float32))
    return tf.function(_normalize_rows, input_signature=signature, autograph=False)


@tf.custom_gradient
def _normalize_rows(x, epsilon):
    """y = (x - mean) / sd of each row; dx = (dy - mean(dy) - y mean(dy y)) / sd.

    The division by sd is no slip for a product with 1 / sd: XLA repeats cheap arithmetic in every
    kernel that reads it, so that each block would compute the residual stream of all the blocks
    before it once more. A division counts as expensive and is stored.
    """
    average = tf.fill((x.shape[-1], 1), 1.0 / x.shape[-1])
    centred = x - tf.matmul(x, average)
    deviation = tf.sqrt(tf.matmul(tf.square(centred), average) + epsilon)
    y = centred / deviation

    def gradient(dy):
        share = y * tf.matmul(dy * y, average)
        return (dy - tf.matmul(dy, average) - share) / deviation, None

    return y, gradient


def empty(shape, dtype):
    """Memory whose pages are not even touched, where zeros take as long as the weights to come."""
    return tf.raw_ops.Empty(shape=shape, dtype=dtype)


ALIGNMENT = 64  # bytes; TensorFlow takes memory over that begins at a multiple of it
STRIPE = 8  # columns of a matrix that is transposed


def tensor_from_array(array):
    """A tensor with the values of an array, which are copied once.

    `tf.convert_to_tensor` copies an array so that nobody can change the tensor by it, and once more
    where the memory of that copy does not begin as TensorFlow wants it. Nobody else has this copy.
    A matrix that is transposed is copied by stripes, or each number would be fetched from another
    line of the processor's cache.
    """
    memory = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    copy = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    width = array.shape[-1] if array.flags.c_contiguous else STRIPE
    for start in range(0, array.shape[-1], width) if array.size else ():
        copy[..., start : start + width] = array[..., start : start + width]
    return tf.raw_ops.Identity(input=copy)


def write(tensor, update, index, axis):
    """`tensor` with `update` at positions index .. index + width of one axis.

    A selection, because `keras.ops.slice_update` is an XLA operation on this backend, which a model
    server that has XLA switched off refuses.
    """
    place = tf.range(tf.shape(tensor)[axis]) - tf.cast(index, tf.int32)
    width = tf.shape(update)[axis]
    inside = tf.reshape((place >= 0) & (place < width), [-1] + [1] * (len(tensor.shape) - axis - 1))
    if update.shape[axis] != 1:
        update = tf.gather(update, tf.clip_by_value(place, 0, width - 1), axis=axis)
    return tf.where(inside, update, tensor)


def build_training(model, data, labels=None):
    """Makes the variables of a compiled model's optimizer and, where it can, of its metrics.

    Keras would make them while the first step is traced, and TensorFlow then trace it once more.

    Args:
        model: a functional model.
        data, labels: what it is fitted with.

    Raises:
        ValueError: an optimizer that the replicas of the model cannot have.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        refuse_branches(optimizer, model.distribute_strategy)
    if optimizer is None or optimizer.built:
        return
    with model.distribute_strategy.scope():
        optimizer.build(model.trainable_variables)
    # A subclass of a user may have another step, with other labels or outputs; and replicas have
    # variables that can only be written by one of them.
    own = type(model).__module__.startswith("keras_xfmr.")
    labels = _specs(data, labels)
    if labels is None or not own or model.run_eagerly or tf.distribute.has_strategy():
        return

    def losses(y, y_pred):
        model.compute_loss(None, y, y_pred)
        model.compute_metrics(None, y, y_pred)

    outputs = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), model.output)
    tf.function(losses, autograph=False).get_concrete_function(labels, outputs)


def _specs(data, labels):
    """The labels' `tf.TensorSpec`s, or None where they are not known yet."""
    if isinstance(data, tf.data.Dataset):
        return keras.utils.unpack_x_y_sample_weight(data.element_spec)[1]
    if not all(isinstance(x, (np.ndarray, tf.Tensor)) for x in tf.nest.flatten(labels)):
        return None  # none there, lists, or another library's
    return tf.nest.map_structure(lambda x: tf.TensorSpec((None, *x.shape[1:]), x.dtype), labels)


def program(model, to_numpy=True):
    """A function from inputs to the model's outputs, compiled once per shape.

    New shapes are expected, so that TensorFlow does not count them and warn. Keras'
    `predict_on_batch` runs the model on every replica of the strategy in whose scope it is, with
    the same rows, and joins their outputs. Here the model runs once, wherever it is called. What it
    assigns, such as the state of a seed, is assigned after the call: XLA cannot write the copies of
    a variable on other devices.

    Args:
        model: a compiled model; `model.jit_compile` decides whether XLA compiles the function.
        to_numpy: whether the outputs are NumPy arrays, or tensors, which the next call may be given
            without a copy.
    """
    assigned = []

    def call(inputs):
        with keras.StatelessScope() as scope:
            outputs = model(inputs)
        values = [(v, scope.get_current_value(v)) for v in model.variables]
        assigned[:] = [v for v, value in values if value is not None]
        return outputs, [value for _, value in values if value is not None]

    jit_compile = model.jit_compile or None
    traced = tf.function(call, autograph=False, jit_compile=jit_compile)
    programs = {}

    def run(inputs):
        specs = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), inputs)
        key = tuple((*x.shape, x.dtype.name) for x in tf.nest.flatten(specs))
        if key not in programs:
            programs[key] = traced.get_concrete_function(specs)
        outputs, values = programs[key](tf.nest.map_structure(tf.convert_to_tensor, inputs))
        for variable, value in zip(assigned, values):
            variable.assign(value)
        return tf.nest.map_structure(lambda x: x.numpy(), outputs) if to_numpy else outputs

    return run


def validated(data, ranges):
    """The data set, which fails at a batch with a value outside its range; others as they are.

    A compiled step has no way to say so. The input pipeline runs before it, on the CPU.

    Args:
        data: what a model is trained with; looked at where it is a `tf.data.Dataset`.
        ranges: a function from the parts of a batch to tuples (name, values, size, advice, value
            that is allowed besides, or None), where values must lie in 0 .. size - 1, and perhaps
            False, where they may be fractions.
    """
    if not isinstance(data, tf.data.Dataset):
        return data

    @tf.autograph.experimental.do_not_convert
    def check(*batch):
        with tf.control_dependencies([_assert_range(*parts) for parts in ranges(*batch)]):
            batch = tf.nest.map_structure(tf.identity, batch)
        return batch if len(batch) > 1 else batch[0]

    checked = data.map(check, num_parallel_calls=tf.data.AUTOTUNE)
    if data.options().autotune.enabled is None:
        # As `text.streaming.untuned`: the end of an epoch may wait a minute for the tuner.
        options = tf.data.Options()
        options.autotune.enabled = False
        checked = checked.with_options(options)
    return checked


def _assert_range(name, values, size, advice, ignored, whole=True):
    values = tf.convert_to_tensor(values)
    if values.dtype == tf.string:
        raise ValueError(f"{name} must be numbers. Received: texts.")
    if not values.dtype.is_floating:
        values = tf.cast(values, tf.int64)  # the size may lie beyond a smaller type
    outside = tf.logical_or(values < 0, values > tf.cast(size - 1, values.dtype))
    whole = whole and values.dtype.is_floating
    if whole:  # fractions, which a model would cut off, or which are rounded already
        broken = tf.not_equal(values, tf.round(values))
        outside = tf.fill(tf.shape(values), True) if values.dtype.size < 4 else outside | broken
    if ignored is not None:
        outside = tf.logical_and(outside, tf.not_equal(values, tf.cast(ignored, values.dtype)))
    message = tf.strings.format(
        f"{name} must lie in 0 .. {size - 1}{f' ({advice})' if advice else ''}"
        f"{', integers' if whole else ''}. Received: {{}}.",
        tf.boolean_mask(values, outside)[:5],
    )
    return tf.debugging.Assert(tf.logical_not(tf.reduce_any(outside)), [message])
