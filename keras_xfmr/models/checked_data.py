"""Data that are looked at before they meet a compiled step, which has no way to complain."""

import numpy as np
from keras import ops

from keras_xfmr import kernels


class ChecksData:
    """A mixin of models over token ids, to stand before `keras.Model`.

    Under XLA an id outside its table is another row, a label outside the classes a loss of NaN. A
    model defines `named` and `ranges`.
    """

    def named(self, inputs):
        """A dictionary of the call's inputs by their names.

        Anything else that `fit` may be given, such as a data set, may come back as it is or under
        the name of the first input: `check_data` looks at arrays alone.
        """
        raise NotImplementedError

    def ranges(self, inputs, labels=None, weights=None):
        """What must lie where in a batch: (name, values, size, advice, ignored value) of each.

        Args:
            inputs: of the call, arrays or tensors.
            labels: None, an array or a tensor, or a dictionary of them.
            weights: of the examples.
        """
        raise NotImplementedError

    def fit(self, x=None, y=None, *args, **kwargs):
        self.check_data(x, y)
        if "validation_data" in kwargs:
            kwargs["validation_data"] = self._watched(kwargs["validation_data"])
        kernels.build_optimizer(self)
        return super().fit(self._watched(x), y, *args, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        self.check_data(x, y)
        return super().evaluate(self._watched(x), y, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        self.check_data(x)
        return super().predict(self._watched(x), *args, **kwargs)

    def train_on_batch(self, x, y=None, *args, **kwargs):
        self.check_data(x, y)
        kernels.build_optimizer(self)
        return super().train_on_batch(x, y, *args, **kwargs)

    def test_on_batch(self, x, y=None, *args, **kwargs):
        self.check_data(x, y)
        return super().test_on_batch(x, y, *args, **kwargs)

    def predict_on_batch(self, x):
        self.check_data(x)
        return super().predict_on_batch(x)

    def check_data(self, inputs, labels=None):
        """Raises ValueError where an id, a segment, a position or a label is outside its range.

        Under XLA it would be another row, or a loss of NaN. `fit` and its kin call this with
        arrays. The batches of a `tf.data.Dataset` are looked at as they come, where
        `tf.errors.InvalidArgumentError` is raised; those of a Python generator are not.
        """
        inputs = self.named(inputs)
        arrays = arrays_of(inputs) if isinstance(inputs, dict) else {}
        if arrays:  # no data set, nor a generator
            single = not isinstance(labels, dict)
            labels = arrays_of({"labels": labels} if single else labels)
            labels = labels.get("labels") if single else labels
            for parts in self.ranges(arrays, labels):
                check_range(*parts)

    def _watched(self, data):
        return kernels.watched(data, self.ranges)


def check_range(name, array, size, advice="", ignored=None):
    """Raises ValueError where a value of an array is not among 0 .. size - 1, nor `ignored`."""
    if array is None or not array.size:
        return
    outside = (array < 0) | (array >= size)
    if ignored is not None:
        outside &= array != ignored
    if outside.any():
        raise ValueError(
            f"{name} must lie in 0 .. {size - 1}{f' ({advice})' if advice else ''}. Received: "
            f"{name.lower()} from {array.min()} to {array.max()}."
        )


def ignored_label(loss):
    """The label that a loss leaves out, or None."""
    return getattr(loss, "pad_id", getattr(loss, "ignore_class", None))


def arrays_of(values):
    """Those of the named values that are arrays, as NumPy's."""
    arrays = {}
    for name, value in values.items():
        if isinstance(value, (list, tuple, np.ndarray, np.generic)) or ops.is_tensor(value):
            array = np.asarray(value)
            if array.dtype.kind in "iuf":
                arrays[name] = array
    return arrays
