"""Estimates memory and network traffic of a training step without running it."""

import math
import typing
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_xfmr import kernels
from keras_xfmr.common.checks import check_positive_int
from keras_xfmr.common.types import DType
from keras_xfmr.training.losses import MaskedCrossEntropy
from keras_xfmr.training.optimizers import AdamW

# Measured on CPUs with XLA, see docs/scale.md.
PROGRAM, OPERATION = 230e6, 0.16e6  # bytes, and bytes for each operation
SCHEDULE = 1.1  # ratio of XLA's memory to the minimum for the order of the operations
MASKED = 0.15  # of the positions in masked language modelling (Devlin et al. 2019)


class MemoryEstimate(typing.NamedTuple):
    """Bytes for one replica, see `memory_estimate`.

    Attributes:
        weights: all weights.
        gradients: gradients of the trainable weights.
        optimizer: slots of the optimizer.
        activations: peak memory of the other tensors of a step.
        program: host memory of TensorFlow for tracing and compiling the step.
        total: bytes of a process. Gradients grow while activations shrink, so only the larger one
            counts.
        traffic: sent by each replica in a step, for one sum of the gradients over a ring.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    program: int
    total: int
    traffic: int

    def __str__(self):
        return ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in self._asdict().items())


def memory_estimate(
    model: keras.Model,
    batch: int,
    length: int,
    *,
    optimizer: Any = None,
    dtype_policy: DType | None = None,
    rematerialize: bool | None = None,
    replicas: int = 1,
) -> MemoryEstimate:
    """Estimates the memory of a training step from the model, without running it.

    Weights, gradients and slots are counted. Activations come from the graph of the step: each
    tensor lives from the operation that creates it to the last one that reads it. The loss is a
    cross-entropy of each output. `program` is a line fitted over the operations of that graph. On
    CPUs with XLA the totals were within 15 % of the resident memory of training processes, minus
    their memory before the model is built; see docs/scale.md. TensorFlow backend.

    Args:
        model: a built model with inputs `[B, T, ...]`. It is not changed. If it is created in
            `keras.StatelessScope(initialize_variables=False)`, weights need no memory.
        batch: rows of a step, over all replicas.
        length: T, tokens of a row; `masked_positions` have 15 % of it.
        optimizer: by default the one of a compiled model, or `training.AdamW`.
        dtype_policy: such as `"mixed_bfloat16"`; by default the model's own.
        rematerialize: by default the model's own value.
        replicas: number of replicas that share the batch.

    Returns:
        A `MemoryEstimate`.

    Raises:
        ValueError: numbers that are not positive integers; `rematerialize` or `dtype_policy` for a
            model without such an argument; an unknown shape.
        NotImplementedError: another backend than TensorFlow.

    Example:

    >>> model = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> found = memory_estimate(model, 8, 64)
    >>> found.weights == 4 * model.count_params(), found.optimizer == 2 * found.gradients
    (True, True)
    """
    batch, length, replicas = (
        check_positive_int(name, value)
        for name, value in (("batch", batch), ("length", length), ("replicas", replicas))
    )
    optimizer = optimizer or getattr(model, "optimizer", None) or AdamW()
    model = _with(model, dtype=dtype_policy, rematerialize=rematerialize)
    trained, rest = model.trainable_variables, model.non_trainable_variables
    names = [one.name for one in model.inputs]

    def loss(trained, rest, values):
        inputs = dict(zip(names, values))
        outputs, _ = model.stateless_call(trained, rest, inputs, training=True)
        return sum(_loss(output) for output in keras.tree.flatten(outputs))

    rows = -(-batch // replicas)
    inputs = [(_shape(one, rows, length), one.dtype) for one in model.inputs]
    weights = [[(tuple(w.shape), w.dtype) for w in group] for group in (trained, rest)]
    held, operations = kernels.step_memory(loss, *weights, inputs)
    activations, program = int(SCHEDULE * held), int(PROGRAM + OPERATION * operations)
    all_weights, gradients = sum(map(_bytes, model.weights)), sum(map(_bytes, trained))
    slots = _slots(optimizer, trained)
    return MemoryEstimate(
        weights=all_weights,
        gradients=gradients,
        optimizer=slots,
        activations=activations,
        program=program,
        total=all_weights + slots + max(activations, gradients) + program,
        traffic=2 * gradients * (replicas - 1) // replicas,
    )


def _loss(output):
    if len(output.shape) > 1 and output.shape[-1] > 1:
        return MaskedCrossEntropy(pad_id=-1)(ops.zeros(output.shape[:-1], "int32"), output)
    return ops.mean(ops.square(output))


def _shape(one, rows, length):
    """The shape of an input."""
    if one.name == "masked_positions":
        length = max(1, round(MASKED * length))
    known = (rows, length, *one.shape[2:])[: len(one.shape)]
    shape = tuple(size or of_call for size, of_call in zip(one.shape, known))
    if None in shape:
        raise ValueError(
            f"Expected inputs [B, T, ...] with known further axes. Received: `{one.name}` of "
            f"shape {one.shape}."
        )
    return shape


def _with(model, **changes):
    """The model, or with `changes` a model of the changed configuration, without values."""
    changes = {name: value for name, value in changes.items() if value is not None}
    if not changes:
        return model
    config, found = model.get_config(), set()

    def changed(part):
        if not isinstance(part, dict):
            return part
        found.update(set(part) & set(changes))
        return {key: changes.get(key, changed(value)) for key, value in part.items()}

    config = changed(config)
    if found != set(changes):
        missing = sorted(set(changes) - found)
        raise ValueError(
            f"Expected a model with the argument{'s' * (len(missing) > 1)} {', '.join(missing)}. "
            f"Received: {type(model).__name__}."
        )
    with keras.StatelessScope(initialize_variables=False):
        return type(model).from_config(config)


def _slots(optimizer, variables):
    """Bytes of the optimizer's slots with the shape of their weight."""
    ranks, total = {}, 0
    for variable in variables:
        rank = len(variable.shape)
        if rank not in ranks:  # one small variable represents all of its rank
            shape = (2, 3, 5, 7, 11)[:rank]
            stand_in = keras.Variable(np.zeros(shape, "float32"), dtype=variable.dtype)
            alike = type(optimizer).from_config(optimizer.get_config())
            alike.build([stand_in])
            slots = [_bytes(slot) for slot in alike.variables if tuple(slot.shape) == shape]
            ranks[rank] = sum(slots) / _bytes(stand_in) if rank else 0
        total += int(ranks[rank] * _bytes(variable))
    return total


def _bytes(variable):
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return math.prod(variable.shape) * np.dtype(dtype).itemsize
