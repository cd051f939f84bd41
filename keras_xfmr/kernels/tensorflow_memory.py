"""How many bytes a step holds at once, computed from its graph without running it."""

import collections
import math

import tensorflow as tf

GIVEN = {"Const", "Placeholder"}
# Their outputs take no memory of their own.
VIEWS = {
    "CheckNumerics", "EnsureShape", "ExpandDims", "Identity", "IdentityN", "PreventGradient",
    "Reshape", "Snapshot", "Squeeze", "StopGradient", "Transpose",
}  # fmt: skip
# These need no memory if their inputs are one tensor and scalars: XLA computes them where they are
# read.
ELEMENTWISE = {
    "Add", "AddV2", "Cast", "Maximum", "Minimum", "Mul", "Neg", "Pow", "RealDiv", "Select",
    "SelectV2", "Square", "Sub",
}  # fmt: skip


def step_memory(loss, *arguments):
    """See `portable.step_memory`."""
    specs = [[tf.TensorSpec(shape, dtype) for shape, dtype in group] for group in arguments]

    @tf.function(autograph=False)
    def traced(*groups):
        groups = [list(group) for group in groups]
        with tf.GradientTape() as tape:
            tape.watch(groups[0])
            value = loss(*groups)
        tape.gradient(value, groups[0])  # not returned, because results live to the end
        return value

    eagerly = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)  # inner functions become part of this graph
    try:
        operations = traced.get_concrete_function(*specs).graph.get_operations()
    finally:
        tf.config.run_functions_eagerly(eagerly)
    return _most(operations), len(operations)


def _most(operations):
    """Peak memory in bytes, if the operations run in their order."""
    owner, last = {}, {}  # tensor -> the owner of its memory; tensor -> index of its last reader
    for place, operation in enumerate(operations):
        owners = [owner.get(x.ref(), x.ref()) for x in operation.inputs]
        last.update((one, place) for one in owners)
        if operation.type in VIEWS:
            owner.update((y.ref(), one) for y, one in zip(operation.outputs, owners))
        elif operation.type in ELEMENTWISE:
            large = {one for one in owners if _bytes(one.deref()) > 8}
            (y,) = operation.outputs
            if len(large) == 1 and _bytes(next(iter(large)).deref()) <= _bytes(y):
                (owner[y.ref()],) = large
    now, most, released = 0, 0, collections.Counter()
    for place, operation in enumerate(operations):
        for tensor in operation.outputs if operation.type not in GIVEN else ():
            if tensor.ref() in last and tensor.ref() not in owner:
                now += _bytes(tensor)
                released[last[tensor.ref()]] += _bytes(tensor)
        most = max(most, now)
        now -= released[place]
    return most


def _bytes(tensor):
    if tensor.op.type == "TensorListReserve":  # values of each step of a loop for its gradient
        shape, count = (tf.get_static_value(x) for x in tensor.op.inputs)
        if shape is None or count is None or (shape < 0).any():
            return 0
        return math.prod(shape) * int(count) * tensor.op.get_attr("element_dtype").size
    if tensor.dtype in (tf.resource, tf.variant, tf.string):
        return 0
    return tensor.shape.num_elements() * tensor.dtype.size if tensor.shape.is_fully_defined() else 0
