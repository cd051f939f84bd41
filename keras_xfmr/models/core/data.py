"""Data that are looked at before they meet a compiled step, which has no way to complain."""

import inspect
import types

import keras
import numpy as np
from keras import ops

from keras_xfmr import functional, kernels
from keras_xfmr.models.core import compiled
from keras_xfmr.models.core.inverted_mask import outermost_call


class ChecksData:
    """A mixin of models over token ids, to stand before `keras.Model`.

    Under XLA an id outside its table is another row, a label outside the classes a loss of NaN. A
    model defines `complete_inputs`, `named` and `ranges`.
    """

    def __call__(self, inputs, *args, **kwargs):
        completed = self.complete_inputs(inputs)
        with outermost_call() as outermost:
            if outermost and isinstance(inputs, dict):
                self.warn_of({name: completed[name] for name in inputs if name in completed})
            return super().__call__(completed, *args, **kwargs)

    def call(self, inputs, training=None, mask=None):
        # Training on JAX comes here directly.
        return super().call(self.complete_inputs(inputs), training=training, mask=mask)

    def complete_inputs(self, inputs):
        """The inputs of the functional graph, checked, from what the model was called with."""
        raise NotImplementedError

    def named(self, inputs):
        """A dictionary of the call's inputs by their names.

        Anything else that `fit` may be given, such as a data set, may come back as it is or under
        the name of the first input: `check_data` looks at arrays alone.
        """
        raise NotImplementedError

    def ranges(self, inputs, labels=None):
        """What must lie where in a batch: (name, values, size, advice, ignored value) of each,
        and False where they may be fractions.

        Args:
            inputs: of the call, arrays or tensors.
            labels: None, an array or a tensor, or a dictionary of them.
        """
        raise NotImplementedError

    def warn_of(self, inputs):
        """Warns of inputs that are allowed and cannot be meant.

        Args:
            inputs: those that the model was given, arrays or tensors by their names.
        """
    # ---- what `compile` is given

    unfit = None  # why the loss or a metric cannot be meant

    def described_outputs(self):
        """What each output is: a `compiled.Output`, or a dictionary of them by their names.

        Losses and metrics for what is not described here are not looked at.
        """
        return {}

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        *args,
        **kwargs,
    ):
        """As `keras.Model.compile`; what cannot be meant is refused when training begins.

        `fit`, `evaluate`, `train_on_batch` and `test_on_batch` raise ValueError where a loss or a
        metric expects probabilities and the output is logits, where it reads labels of another
        kind, and where it leaves out a label that is a class. Strings, functions,
        `functools.partial`, classes, objects, and dictionaries and lists of them for several
        outputs are looked at; so are `from_logits`, `pad_id` and `ignore_class` of your own losses.
        A lambda, a function of your own, and what your own `call` or `update_state` does cannot be
        looked into.

        A model that comes back from a `.keras` file is compiled in any case, so that it has its
        optimizer.
        """
        if metrics is None and weighted_metrics is None and self.compiled:
            metrics = []  # with None, Keras would keep those of the last `compile`
        super().compile(
            optimizer, loss, loss_weights, metrics, weighted_metrics, *args, **kwargs
        )
        self.unfit = compiled.refusal(
            type(self).__name__,
            self.described_outputs(),
            loss=loss,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
        )

    def compile_from_config(self, config):
        """As Keras', which only warns where `compile` is not its own."""
        if type(self).compile is not ChecksData.compile:
            return super().compile_from_config(config)  # of a user's subclass
        self.compile(**keras.saving.deserialize_keras_object(config))
        if getattr(self, "optimizer", None) is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def _refuse_unfit(self):
        if self.unfit:
            raise ValueError(self.unfit)

    def ignored_label(self, output=None):
        """The label that the loss of an output leaves out, or None."""
        loss = getattr(self, "loss", None)
        return compiled.ignored_label(loss, self.described_outputs(), output)

    # ---- what Keras' methods do besides

    def fit(self, x=None, y=None, *args, **kwargs):
        self.check_data(x, y)
        self._refuse_unfit()
        kernels.build_training(self, x, y)
        given = inspect.signature(super().fit).bind(self._watched(x), y, *args, **kwargs)
        if given.arguments.get("class_weight") and len(getattr(self.output, "shape", ())) == 3:
            raise ValueError(
                "Keras reads `class_weight` for one label a row, and this model has one a token. "
                "Pass weights [B, T] as `sample_weight`, or as the third part of a data set's "
                "batches."
            )
        if "validation_data" in given.arguments:
            given.arguments["validation_data"] = self._watched(given.arguments["validation_data"])
        return super().fit(*given.args, **given.kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        self.check_data(x, y)
        self._refuse_unfit()
        return super().evaluate(self._watched(x), y, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        self.check_data(x)
        return super().predict(self._watched(x), *args, **kwargs)

    def train_on_batch(self, x, y=None, *args, **kwargs):
        self.check_data(x, y)
        self._refuse_unfit()
        kernels.build_training(self, x, y)
        return super().train_on_batch(x, y, *args, **kwargs)

    def test_on_batch(self, x, y=None, *args, **kwargs):
        self.check_data(x, y)
        self._refuse_unfit()
        return super().test_on_batch(x, y, *args, **kwargs)

    def predict_on_batch(self, x):
        self.check_data(x)
        return super().predict_on_batch(x)

    def check_data(self, inputs, labels=None):
        """Raises ValueError where an id, a segment, a position or a label is outside its range.

        Under XLA it would be another row, or a loss of NaN. `fit` and its kin call this with
        arrays, and with the batches of a Python generator or a `keras.utils.PyDataset` as they
        come (not where it works in other processes). Those of a `tf.data.Dataset` are looked at in
        the pipeline, where `tf.errors.InvalidArgumentError` is raised.
        """
        inputs = self.named(inputs)
        if not isinstance(inputs, dict):
            return  # a data set, or a generator
        refuse_unpacked(inputs)
        arrays = arrays_of(inputs)
        if arrays:
            labels = self._named_labels(labels)
            single = not isinstance(labels, dict)
            labels = {"labels": labels} if single else labels
            refuse_texts(labels, "numbers, such as the places of their names in a list of classes")
            labels = arrays_of(labels)
            labels = labels.get("labels") if single else labels
            for parts in self.ranges(arrays, labels):
                check_range(*parts)
            self.warn_of(arrays)

    def _named_labels(self, labels):
        """Of named outputs, whose labels may come in the names' order, a dictionary."""
        names = sorted(self.output) if isinstance(self.output, dict) else []
        ordered = isinstance(labels, (list, tuple)) and len(labels) == len(names)
        return dict(zip(names, labels)) if ordered else labels

    def _ranges(self, inputs, labels=None, weights=None):
        return self.ranges(inputs, self._named_labels(labels))

    def _watched(self, data):
        if isinstance(data, types.GeneratorType):
            return (self._looked_at(batch) for batch in data)
        if isinstance(data, keras.utils.PyDataset) and not data.use_multiprocessing:
            return _Watched(data, self._looked_at)
        return kernels.watched(data, self._ranges)

    def _looked_at(self, batch):
        inputs, labels, _ = keras.utils.unpack_x_y_sample_weight(batch)
        self.check_data(inputs, labels)
        return batch


class _Watched(keras.utils.PyDataset):
    """A user's data set whose batches are looked at."""

    def __init__(self, data, look):
        super().__init__(workers=data.workers, max_queue_size=data.max_queue_size)
        self._data, self._look = data, look

    @property
    def num_batches(self):
        return self._data.num_batches

    def __getitem__(self, index):
        return self._look(self._data[index])

    def on_epoch_begin(self):
        self._data.on_epoch_begin()

    def on_epoch_end(self):
        self._data.on_epoch_end()


def positions(name, ids, longest):
    """The part of `ranges` that keeps the rows of `ids` from being longer than a table."""
    last = ops.reshape(ops.maximum(ops.shape(ids)[1] - 1, 0), (1,))
    return f"Positions of `{name}`", last, longest, "max_length", None


def check_range(name, array, size, advice="", ignored=None, whole=True):
    """Raises ValueError where a value of an array is not among 0 .. size - 1, nor `ignored`.

    With `whole=False` it may be a fraction.
    """
    if array is None:
        return
    array = np.asarray(array)
    if not array.size:
        return
    if whole:
        refuse_no_ids(name, array)
    outside = (array < 0) | (array > size - 1)
    if ignored is not None:
        outside &= array != ignored
    if outside.any():
        raise ValueError(
            f"{name} must lie in 0 .. {size - 1}{f' ({advice})' if advice else ''}. Received: "
            f"{name.lower()} from {array.min()} to {array.max()}."
        )


def refuse_no_ids(name, ids):
    """Raises ValueError where they are no integers, which Keras would cut off on their way in."""
    if hasattr(ids, "dtype") and not functional.could_be_ids(ids):
        dtype = keras.backend.standardize_dtype(ids.dtype)
        raise ValueError(
            f"{name} must be integers; others would be cut off. Received: dtype {dtype}."
        )


def refuse_unpacked(inputs):
    """Raises ValueError where an input is ragged, or texts."""
    for name, value in inputs.items():
        if hasattr(value, "row_lengths"):
            raise ValueError(
                f"`{name}` must be rows of equal length: pad them by `.to_tensor(pad_id)`, or pack "
                "texts by a packer of `keras_xfmr.text`. Received: a ragged tensor."
            )
    refuse_texts(inputs, "ids, which a tokenizer of `keras_xfmr.text` makes of texts")


def refuse_texts(values, expected):
    """Raises ValueError where a named value is texts."""
    for name, value in values.items():
        first = value
        while isinstance(first, (list, tuple)) and first:
            first = first[0]
        dtype = getattr(first, "dtype", None)
        array = getattr(dtype, "kind", None) in ("S", "U")  # NumPy's
        if array or isinstance(first, (str, bytes)) or getattr(dtype, "name", None) == "string":
            raise ValueError(f"`{name}` must be {expected}. Received: texts.")


def arrays_of(values):
    """Those of the named values that are arrays, as NumPy's."""
    arrays = {}
    for name, value in values.items():
        if isinstance(value, (list, tuple)) or hasattr(value, "__array__") or ops.is_tensor(value):
            try:
                array = np.asarray(value)
            except ValueError:
                continue  # lists of unlike lengths, of which Keras says more
            if array.dtype.kind in "iuf":
                arrays[name] = array
    return arrays
