"""Computes a layer's activations again in the backward pass instead of storing them."""

import weakref

import keras
from keras import ops

from keras_xfmr import kernels


def recomputed(method, **arguments):
    """The result of a layer's method, without storing intermediate values for the gradient.

    Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost". The method must read no state
    except the layer's variables. It gets their values as arguments, so the second computation draws
    the same dropout as the first, and a variable that the method changes is changed only once.

    Args:
        method: method of a built layer.
        **arguments: tensors, and other values, which are the same in both computations.
    """
    layer = method.__self__
    tensors = {name: x for name, x in arguments.items() if ops.is_tensor(x)}
    others = {name: x for name, x in arguments.items() if name not in tensors}
    run = _Run(method, list(tensors), others)
    outputs = kernels.recompute(run)(_values(layer), list(tensors.values()))
    return run.finish(layer, outputs)


class _Run:
    """The method as a function of values and tensors. Holds no layer: TensorFlow may keep it."""

    def __init__(self, method, names, others):
        self._method, self._names, self._others = weakref.WeakMethod(method), names, others
        self._structure, self._changed = None, ()

    def __call__(self, values, tensors):
        method = self._method()
        layer, arguments = method.__self__, dict(zip(self._names, tensors))
        variables = layer.variables
        given = [(v, ops.convert_to_tensor(x)) for v, x in zip(variables, values)]
        with keras.StatelessScope(given, collect_losses=True) as scope:
            before = [scope.get_current_value(v) for v in variables]
            output = _within(
                lambda: method(**arguments, **self._others),
                dtype=layer.dtype_policy,
                training=self._others.get("training"),
            )
            after = [scope.get_current_value(v) for v in variables]
        changed = [i for i in range(len(after)) if after[i] is not before[i]]
        self._changed, self._structure = changed, keras.tree.map_structure(lambda x: 0, output)
        return [*keras.tree.flatten(output), *(after[i] for i in changed), *scope.losses]

    def finish(self, layer, outputs):
        """The method's output. Assigns the variables and adds the losses of the call."""
        count = len(keras.tree.flatten(self._structure))
        state = outputs[count : count + len(self._changed)]
        for i, value in zip(self._changed, state):
            layer.variables[i].assign(value)
        for loss in outputs[count + len(state) :]:
            layer.add_loss(loss)
        return keras.tree.pack_sequence_as(self._structure, outputs[:count])


def _values(layer):
    """The values of the layer's variables, in their own dtype."""
    read = lambda: [ops.convert_to_tensor(v) for v in layer.variables]  # noqa: E731
    return read() if layer.compute_dtype == layer.variable_dtype else _within(read, autocast=False)


def _within(function, training=None, **arguments):
    """Calls the function in the dtype scope of a layer with these arguments."""
    return _Within(function, name="recomputed", **arguments)(
        ops.zeros((), "int32"), training=training
    )


class _Within(keras.layers.Layer):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self._function = function

    def call(self, inputs, training=None):
        return self._function()
