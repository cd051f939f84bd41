"""TensorFlow's versions, where the plain ones are slow, and three functions that only it needs:
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
    dense,
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
    uses the fast matrix kernel. On a GPU the product could run in TensorFloat-32, which is too
    imprecise for a mean, so the plain version stays there.
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
    """`_normalize_rows` as one function for all layers with this depth.

    TensorFlow keeps a custom gradient, and the graph that contains it, forever. A graph of its own
    holds nothing else; a model's graph would keep the model and its weights in memory.
    """
    signature = (tf.TensorSpec([None, depth], tf.float32), tf.TensorSpec([], tf.float32))
    return tf.function(_normalize_rows, input_signature=signature, autograph=False)


@tf.custom_gradient
def _normalize_rows(x, epsilon):
    """y = (x - mean) / sd of each row; dx = (dy - mean(dy) - y mean(dy y)) / sd.

    The division by sd must not become a product with 1 / sd: XLA repeats cheap arithmetic in every
    kernel that reads it, so each block would compute the residual stream of all previous blocks
    again. XLA treats a division as expensive and stores the result.
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
    """Memory without initialization: filling it with zeros takes as long as loading the weights."""
    return tf.raw_ops.Empty(shape=shape, dtype=dtype)


ALIGNMENT = 64  # bytes; TensorFlow shares memory that begins at a multiple of it
STRIPE = 8  # columns of a transposed matrix that are copied together


def tensor_from_array(array):
    """A tensor with the values of an array, copied only once.

    `tf.convert_to_tensor` copies an array so that later changes do not reach the tensor, and again
    if that copy is not aligned for TensorFlow. Here nothing else refers to the copy. A transposed
    matrix is copied in stripes; otherwise each number would come from another line of the
    processor's cache.
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

    A selection, because `keras.ops.slice_update` is an XLA operation on this backend, and a model
    server without XLA refuses it.
    """
    place = tf.range(tf.shape(tensor)[axis]) - tf.cast(index, tf.int32)
    width = tf.shape(update)[axis]
    inside = tf.reshape((place >= 0) & (place < width), [-1] + [1] * (len(tensor.shape) - axis - 1))
    if update.shape[axis] != 1:
        update = tf.gather(update, tf.clip_by_value(place, 0, width - 1), axis=axis)
    return tf.where(inside, update, tensor)


def build_training(model, data, labels=None):
    """Creates the variables of a compiled model's optimizer and, if possible, of its metrics.

    Keras would create them while the first step is traced; TensorFlow would then trace it again.

    Args:
        model: a functional model.
        data, labels: arguments of `fit`.

    Raises:
        ValueError: the replicas of the model cannot use this optimizer.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        refuse_branches(optimizer, model.distribute_strategy)
    if optimizer is None or optimizer.built:
        return
    with model.distribute_strategy.scope():
        optimizer.build(model.trainable_variables)
    # A user's subclass may have another step, with other labels or outputs. Replicas have
    # variables that only one of them can write.
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
    """The labels' `tf.TensorSpec`s, or None if they are unknown."""
    if isinstance(data, tf.data.Dataset):
        return keras.utils.unpack_x_y_sample_weight(data.element_spec)[1]
    if not all(isinstance(x, (np.ndarray, tf.Tensor)) for x in tf.nest.flatten(labels)):
        return None  # no labels, lists, or another library's
    return tf.nest.map_structure(lambda x: tf.TensorSpec((None, *x.shape[1:]), x.dtype), labels)


def program(model, to_numpy=True):
    """A function from inputs to the model's outputs, compiled once per shape.

    New shapes are expected, so TensorFlow does not count them and warn. Keras' `predict_on_batch`
    runs the model on every replica of the strategy whose scope is active, with the same rows, and
    joins the outputs. Here the model runs once, in any scope. Variables that it assigns, such as
    the state of a seed, are assigned after the call: XLA cannot write copies of a variable on other
    devices.

    Args:
        model: a compiled model; `model.jit_compile` decides whether XLA compiles the function.
        to_numpy: whether the outputs are NumPy arrays. Otherwise they are tensors, which the next
            call accepts without a copy.
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
    """The data set, which raises an error for a value outside its range; other data unchanged.

    A compiled step cannot raise such an error. The input pipeline runs before it, on the CPU.

    Args:
        data: training data of a model; checked if it is a `tf.data.Dataset`.
        ranges: a function from the parts of a batch to tuples (name, values, size, advice, another
            allowed value or None), where values must lie in 0 .. size - 1. A last element False
            allows fractions.
    """
    if not isinstance(data, tf.data.Dataset):
        return data
    unknown = data.cardinality() == tf.data.UNKNOWN_CARDINALITY

    @tf.autograph.experimental.do_not_convert
    def check(*batch):
        with tf.control_dependencies([_assert_range(*parts) for parts in ranges(*batch)]):
            batch = tf.nest.map_structure(tf.identity, batch)
        if unknown:
            batch = tf.nest.map_structure(_of_unknown_rows, batch)
        return batch if len(batch) > 1 else batch[0]

    checked = data.map(check, num_parallel_calls=tf.data.AUTOTUNE)
    if data.options().autotune.enabled is None:
        # As in `text.streaming.untuned`: the end of an epoch may wait a minute for the tuner.
        options = tf.data.Options()
        options.autotune.enabled = False
        checked = checked.with_options(options)
    return checked


def _of_unknown_rows(values):
    """The tensor, of which the graph does not know the number of rows.

    Keras weighs the losses of a step by this number. If it is a constant, the step in which data of
    unknown length end counts, too, with losses of 0.
    """
    if not isinstance(values, tf.Tensor) or not values.shape.rank:
        return values
    return tf.compat.v1.placeholder_with_default(values, [None, *values.shape[1:]])


def _assert_range(name, values, size, advice, ignored, whole=True):
    values = tf.convert_to_tensor(values)
    if values.dtype == tf.string:
        raise ValueError(f"{name} must be numbers. Received: texts.")
    if not values.dtype.is_floating:
        values = tf.cast(values, tf.int64)  # the size may not fit a smaller type
    outside = tf.logical_or(values < 0, values > tf.cast(size - 1, values.dtype))
    whole = whole and values.dtype.is_floating
    if whole:  # a model would cut off fractions, or they are rounded already
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
