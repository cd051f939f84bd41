"""What the replicas, and the workers, of a `tf.distribute.Strategy` have to know of each other."""

import contextlib
import re
from typing import Any

import tensorflow as tf


def _several():
    """The context of a replica that is one of several, or None."""
    context = tf.distribute.get_replica_context()  # None outside of `strategy.run`
    return context if context is not None and context.num_replicas_in_sync > 1 else None


def replicas():
    """How many replicas compute this step together."""
    context = _several()
    return 1 if context is None else context.num_replicas_in_sync


def sum_over_replicas(values):
    """The sum over all replicas of a tensor; it has no gradient. Alone, the tensor itself."""
    context = _several()
    if context is None:
        return values
    return tf.stop_gradient(context.all_reduce(tf.distribute.ReduceOp.SUM, values))


def slope(function, values):
    """The sum of the derivatives of a function by its values."""
    with tf.GradientTape() as tape:
        tape.watch(values)
        result = function(values)
    return tf.reduce_sum(tape.gradient(result, values))


def seed_of_replica(seed):
    """The seed `[2]`, another one on each replica: their generators count alike."""
    context = _several()
    if context is None:
        return seed
    replica = tf.cast(context.replica_id_in_sync_group, tf.int32)
    first, second = tf.unstack(tf.cast(seed, tf.int32))
    return tf.stack([first, second + replica * 0x3C6EF35F])


def strategy_replicas():
    """How many replicas the strategy has in whose scope this is called."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def replicas_of(model):
    """Of the strategy in whose scope a model was made."""
    return model.distribute_strategy.num_replicas_in_sync


def copies(variable):
    """A variable's copies on the replicas of this process, or the variable alone."""
    return tf.distribute.get_strategy().experimental_local_results(variable)


@contextlib.contextmanager
def refusing_uneven(model):
    """ValueError where Keras averages a first batch that its replicas have unequal parts of."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        replicas, found = replicas_of(model), str(error)
        if replicas == 1 or "AddN" not in found or "must have the same size and shape" not in found:
            raise
        parts = " and ".join(re.findall(r"\[[\d,]*\]", found))
        raise ValueError(
            "Keras averages the first batch over the replicas of this `tf.distribute` strategy, so "
            f"its rows must be a multiple of the {replicas} replicas. Pass such a batch size, not "
            "larger than the data; the last batch may have any rows. Or leave the strategy out. "
            f"Received: parts of shapes {parts}."
        ) from error


def refuse_branches(optimizer, strategy=None):
    """ValueError where an optimizer does something at some steps only, and variables have copies.

    Keras puts that into a branch, in which TensorFlow cannot write the copies of the replicas.

    Args:
        optimizer: one of Keras.
        strategy: that of its variables; by default the one in whose scope this is called.
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
    """Whether this process is the first of several workers, which writes files, or alone.

    Args:
        strategy: a `tf.distribute.Strategy`; by default the one in whose scope this is called.

    Example:

    >>> keras_xfmr.training.is_chief()
    True
    """
    return (strategy or tf.distribute.get_strategy()).extended.should_checkpoint


def sum_over_workers(model, value):
    """The sum of an integer over all replicas of a model's workers, which wait for each other.

    Returns:
        It and the number of replicas, or None where this process is alone.
    """
    strategy = model.distribute_strategy
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return None
    return _sum(strategy, lambda: tf.constant(value, tf.int32)), strategy.num_replicas_in_sync


def of_chief(model, value):
    """The integer that the first of a model's workers has; they wait for each other."""
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
