"""Values that replicas and workers of a `tf.distribute.Strategy` share."""

import contextlib
import re
from typing import Any

import tensorflow as tf


def _several():
    """The context of a replica if there are several, else None."""
    context = tf.distribute.get_replica_context()  # None outside of `strategy.run`
    return context if context is not None and context.num_replicas_in_sync > 1 else None


def replicas():
    """How many replicas compute this step."""
    context = _several()
    return 1 if context is None else context.num_replicas_in_sync


def sum_over_replicas(values):
    """The sum of a tensor over all replicas, without a gradient. One replica: the tensor."""
    context = _several()
    if context is None:
        return values
    return tf.stop_gradient(context.all_reduce(tf.distribute.ReduceOp.SUM, values))


def dense(gradient):
    """A gradient as a tensor. That of a lookup is a list of rows, in which a row may be repeated:
    the norm of the list is not that of the sum."""
    return tf.convert_to_tensor(gradient)


def slope(function, values):
    """The sum of a function's derivatives with respect to its values."""
    with tf.GradientTape() as tape:
        tape.watch(values)
        result = function(values)
    return tf.reduce_sum(tape.gradient(result, values))


def seed_of_replica(seed):
    """The seed `[2]`, different on each replica: their seed generators have equal states."""
    context = _several()
    if context is None:
        return seed
    replica = tf.cast(context.replica_id_in_sync_group, tf.int32)
    first, second = tf.unstack(tf.cast(seed, tf.int32))
    return tf.stack([first, second + replica * 0x3C6EF35F])


def strategy_replicas():
    """How many replicas the active strategy has."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def replicas_of(model):
    """How many replicas the strategy of a model has."""
    return model.distribute_strategy.num_replicas_in_sync


def copies(variable):
    """A variable's copies on the replicas of this process, or only the variable."""
    return tf.distribute.get_strategy().experimental_local_results(variable)


@contextlib.contextmanager
def refusing_uneven(model):
    """ValueError if Keras averages a first batch of which the replicas have unequal parts."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        replicas, found = replicas_of(model), str(error)
        if replicas == 1 or "AddN" not in found or "must have the same size and shape" not in found:
            raise
        parts = " and ".join(re.findall(r"\[[\d,]*\]", found))
        raise ValueError(
            "Keras averages the first batch over the replicas of this `tf.distribute` strategy, so "
            f"its rows must be a multiple of the {replicas} replicas. Use "
            "keras_xfmr.training.MirroredStrategy, which takes any batch, or such a batch size, "
            "not larger than the data. "
            f"Received: parts of shapes {parts}."
        ) from error


def refuse_branches(optimizer, strategy=None):
    """ValueError if an optimizer acts only at some steps and its variables have copies.

    Keras puts this into a branch, where TensorFlow cannot write the copies of the replicas.

    Args:
        optimizer: an optimizer of Keras.
        strategy: the strategy of its variables; by default the active one.
    """
    kinds = tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy
    if not isinstance(strategy or tf.distribute.get_strategy(), kinds):
        return
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    for name, advice in (
        ("gradient_accumulation_steps", "Take a larger batch, on more replicas or with "
         "rematerialize=True"),
        ("ema_overwrite_frequency", "Leave it out: with use_ema=True the averages become the "
         "weights at the end, or use keras.callbacks.SwapEMAWeights"),
    ):  # fmt: skip
        value = getattr(optimizer, name, None)
        if value:
            raise ValueError(
                f"Keras cannot use `{name}` under a `tf.distribute` strategy whose replicas have "
                f"copies of the weights. {advice}; or train on one device. Received: "
                f"{name}={value}."
            )


def is_chief(strategy: Any = None) -> bool:
    """Whether this process writes files: the first of several workers, or the only one.

    Args:
        strategy: a `tf.distribute.Strategy`; by default the one whose scope is active.

    Example:

    >>> keras_xfmr.training.is_chief()
    True
    """
    return (strategy or tf.distribute.get_strategy()).extended.should_checkpoint


def sum_over_workers(model, value):
    """The sum of an integer over all replicas of a model's workers; all workers wait for it.

    Returns:
        The sum and the number of replicas, or None if this is the only process.
    """
    strategy = model.distribute_strategy
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return None
    return _sum(strategy, lambda: tf.constant(value, tf.int32)), strategy.num_replicas_in_sync


def of_chief(model, value):
    """The integer of the first worker of a model; all workers wait for it."""
    strategy = model.distribute_strategy
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return value

    def own():  # the chief may have several replicas
        first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
        return tf.where(first, tf.constant(value, tf.int32), 0)

    return _sum(strategy, own)


def _sum(strategy, of_replica):
    values = strategy.run(of_replica)
    return int(strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None))
