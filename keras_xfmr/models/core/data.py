"""Validates data before a compiled step, which cannot raise errors."""

import inspect
import types
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_xfmr import kernels
from keras_xfmr.common.types import ArrayLike, Config, Mixin, ModelInputs
from keras_xfmr.models.core import compiled
from keras_xfmr.models.core.compiled import Output
from keras_xfmr.models.core.inputs import Range, check_range, refuse_texts, refuse_unpacked

BATCHES = "batches, such as those of a `tf.data.Dataset`, or a method such as `train_on_batch`"


class ValidatesData(Mixin):
    """A mixin for models over token ids; it comes before `keras.Model`.

    Under XLA an id outside its table reads another row, and a label outside the classes gives a
    loss of NaN. A model has `declared_inputs`, its `Inputs`, and may define `label_ranges`.
    """

    def __call__(self, inputs: ModelInputs, *args, validate: bool = True, **kwargs) -> Any:
        """Calls the model on validated inputs, with defaults for those left out.

        A model that calls this one with inputs of its own passes `validate=False`.
        """
        if validate:
            inputs = self.validated_inputs(inputs)
        else:
            kwargs["validate"] = False  # so that a functional model passes it, too
        return super().__call__(inputs, *args, **kwargs)

    def call(
        self,
        inputs: ModelInputs,
        training: bool | None = None,
        mask: Any = None,
        validate: bool = True,
    ) -> Any:
        # Training on JAX calls this method directly, and inputs may be left out.
        inputs = self.declared_inputs.complete(inputs)
        return super().call(inputs, training=training, mask=mask)

    def compute_output_spec(
        self,
        inputs: ModelInputs,
        training: bool | None = None,
        mask: Any = None,
        validate: bool = True,
    ) -> Any:
        return super().compute_output_spec(inputs, training=training, mask=mask)

    def validated_inputs(self, inputs: ModelInputs) -> ModelInputs:
        """The inputs of the functional graph, from the inputs of the call.

        Raises:
            ValueError: unknown or missing inputs, shapes that differ, ids that are not integers or
                outside their table, ragged ids, texts.
        """
        completed = self.declared_inputs.complete(inputs)
        if kernels.replicas() > 1:
            self._refuse_pairs(inputs, "one replica")
        self.declared_inputs.check(completed)
        if isinstance(inputs, dict):
            self.warn_of({name: completed[name] for name in inputs if name in completed})
        return completed

    def label_ranges(self, labels: ModelInputs, inputs: Mapping[str, ArrayLike]) -> Iterable[Range]:
        """The `Range`s of labels.

        Args:
            labels: an array or a tensor, or a dictionary of them.
            inputs: those of the batch, by their names.
        """
        return ()

    def warn_of(self, inputs: Mapping[str, ArrayLike]) -> None:
        """Warns about inputs that are allowed, but are probably an error.

        Args:
            inputs: the given inputs, arrays or tensors by their names.
        """
        return None  # AutoGraph cannot read a function without a statement

    # ---- the arguments of `compile`

    unfit = None  # why the loss or a metric does not fit
    # Of named outputs, if `compile` gets none.
    default_loss_weights: dict[str, float] | None = None

    def described_outputs(self) -> Output | dict[str, Output]:
        """What each output is: a `compiled.Output`, or a dictionary of them by their names.

        Losses and metrics of other outputs are not checked.
        """
        return {}

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        *args,
        **kwargs,
    ) -> None:
        """As `keras.Model.compile`; when training begins, losses and metrics are checked.

        `fit`, `evaluate`, `train_on_batch` and `test_on_batch` raise ValueError if a loss or a
        metric expects probabilities and the output is logits, reads labels of another kind, or
        leaves out a label that is a class. They check strings, functions, `functools.partial`,
        classes, objects, and dictionaries and lists of them for several outputs; also
        `from_logits`, `pad_id` and `ignore_class` of your own losses. They cannot check lambdas,
        your own functions, and your own `call` or `update_state`. Outputs that a dictionary of
        `loss_weights` does not name have the weight 1. Without `loss_weights` the model's
        `default_loss_weights` are used, if it has them.

        A model from a `.keras` file is always compiled, so that it has its optimizer.
        """
        if metrics is None and weighted_metrics is None and self.compiled:
            metrics = []  # with None, Keras would keep those of the last `compile`
        if loss_weights is None and loss is not None and self.default_loss_weights:
            loss_weights = dict(self.default_loss_weights)
            if isinstance(loss, (list, tuple)):
                loss_weights = [loss_weights[name] for name in sorted(loss_weights)]
            elif not isinstance(loss, dict):
                loss = dict.fromkeys(loss_weights, loss)
        if isinstance(loss, dict) and isinstance(loss_weights, dict):
            loss_weights = {**dict.fromkeys(loss, 1.0), **loss_weights}  # Keras wants them all
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

    def compile_from_config(self, config: Config) -> None:
        """As in Keras, which only warns if a class has its own `compile`."""
        if type(self).compile is not ValidatesData.compile:
            return super().compile_from_config(config)  # of a user's subclass
        self.compile(**keras.saving.deserialize_keras_object(config))
        if getattr(self, "optimizer", None) is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def _refuse_unfit(self):
        if self.unfit:
            raise ValueError(self.unfit)
        self._refuse_xla()

    def _refuse_pairs(self, inputs, way_out):
        for name in self.declared_inputs.pairs_in(inputs):
            raise ValueError(
                f"`{name}` counts documents, and the other inputs count rows, so Keras cannot "
                f"split them together. Expected {way_out}. Received: inputs {sorted(inputs)}."
            )

    def _refuse_xla(self):
        replicas = kernels.replicas_of(self)
        if replicas > 1 and self.jit_compile:
            raise ValueError(
                "TensorFlow cannot compile a step of several replicas with XLA. Pass "
                "jit_compile=False to `compile`, or leave it out. Received: jit_compile=True under "
                f"a strategy of {replicas} replicas."
            )

    def ignored_label(self, output: str | None = None) -> int | None:
        """The label that the loss of an output leaves out, or None."""
        loss = getattr(self, "loss", None)
        return compiled.ignored_label(loss, self.described_outputs(), output)

    # ---- Keras' methods, with checks

    def fit(self, x: Any = None, y: Any = None, *args, **kwargs) -> keras.callbacks.History:
        self._refuse_unfit()
        self._refuse_pairs(x, BATCHES)
        self.check_data(x, y)
        kernels.build_training(self, x, y)
        given = inspect.signature(super().fit).bind(self._validated(x), y, *args, **kwargs)
        if given.arguments.get("class_weight") and len(getattr(self.output, "shape", ())) == 3:
            raise ValueError(
                "Keras reads `class_weight` for one label per row, and this model has one per "
                "token. Pass weights [B, T] as `sample_weight`, or as the third part of a data "
                "set's batches."
            )
        if "validation_data" in given.arguments:
            given.arguments["validation_data"] = self._validated(given.arguments["validation_data"])
        with kernels.refusing_uneven(self):
            return super().fit(*given.args, **given.kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args, **kwargs) -> Any:
        self._refuse_unfit()
        self._refuse_pairs(x, BATCHES)
        self.check_data(x, y)
        with kernels.refusing_uneven(self):
            return super().evaluate(self._validated(x), y, *args, **kwargs)

    def predict(self, x: Any, *args, **kwargs) -> Any:
        self._refuse_xla()
        self._refuse_pairs(x, BATCHES)
        self.check_data(x)
        with kernels.refusing_uneven(self):
            return super().predict(self._validated(x), *args, **kwargs)

    def train_on_batch(self, x: Any, y: Any = None, *args, **kwargs) -> Any:
        self._refuse_unfit()
        self.check_data(x, y)
        kernels.build_training(self, x, y)
        with kernels.refusing_uneven(self):
            return super().train_on_batch(x, y, *args, **kwargs)

    def test_on_batch(self, x: Any, y: Any = None, *args, **kwargs) -> Any:
        self._refuse_unfit()
        self.check_data(x, y)
        with kernels.refusing_uneven(self):
            return super().test_on_batch(x, y, *args, **kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        self._refuse_xla()
        self.check_data(x)
        with kernels.refusing_uneven(self):
            return super().predict_on_batch(x)

    def check_data(self, inputs: ModelInputs, labels: ModelInputs | None = None) -> None:
        """Raises ValueError if an id, a segment, a position or a label is outside its range.

        Under XLA it would read another row, or give a loss of NaN. `fit` and similar methods call
        this with arrays, and with each batch of a Python generator or of a `keras.utils.PyDataset`
        without multiprocessing. A `tf.data.Dataset` is checked in its pipeline, which raises
        `tf.errors.InvalidArgumentError`.
        """
        inputs = self.declared_inputs.named(inputs)
        if not isinstance(inputs, dict):
            return  # a data set, or a generator
        refuse_unpacked(inputs)
        arrays = arrays_of(inputs)
        if arrays:
            labels = self._named_labels(labels)
            single = not isinstance(labels, dict)
            labels = {"labels": labels} if single else labels
            refuse_texts(labels, "numbers, such as the indices of names in a list of classes")
            labels = arrays_of(labels)
            labels = labels.get("labels") if single else labels
            for part in self._ranges(arrays, labels):
                check_range(part)
            self.warn_of(arrays)

    def _named_labels(self, labels):
        """A dictionary for named outputs, whose labels may be a list in the order of the names."""
        names = sorted(self.output) if isinstance(self.output, dict) else []
        ordered = isinstance(labels, (list, tuple)) and len(labels) == len(names)
        return dict(zip(names, labels)) if ordered else labels

    def _ranges(self, inputs, labels=None, weights=None):
        """The `Range`s of a batch."""
        inputs = self.declared_inputs.named(inputs)
        if not isinstance(inputs, dict) or not self.declared_inputs.are_in(inputs):
            return  # the call refuses them
        yield from self.declared_inputs.ranges(inputs)
        if labels is not None:
            yield from self.label_ranges(self._named_labels(labels), inputs)

    def _validated(self, data):
        if isinstance(data, types.GeneratorType):
            return (self._check_batch(batch) for batch in data)
        if isinstance(data, keras.utils.PyDataset) and not data.use_multiprocessing:
            return _Validated(data, self._check_batch)
        return kernels.validated(data, self._ranges)

    def _check_batch(self, batch):
        inputs, labels, _ = keras.utils.unpack_x_y_sample_weight(batch)
        self.check_data(inputs, labels)
        return batch


class _Validated(keras.utils.PyDataset):
    """A user's data set whose batches are validated."""

    def __init__(self, data, check):
        super().__init__(workers=data.workers, max_queue_size=data.max_queue_size)
        self._data, self._check = data, check

    @property
    def num_batches(self):
        return self._data.num_batches

    def __getitem__(self, index):
        return self._check(self._data[index])

    def on_epoch_begin(self):
        self._data.on_epoch_begin()

    def on_epoch_end(self):
        self._data.on_epoch_end()


def arrays_of(values):
    """The named values that are arrays, as NumPy arrays."""
    arrays = {}
    for name, value in values.items():
        if isinstance(value, (list, tuple)) or hasattr(value, "__array__") or ops.is_tensor(value):
            try:
                array = np.asarray(value)
            except ValueError:
                continue  # lists of different lengths, for which Keras has a better error
            if array.dtype.kind in "iuf":
                arrays[name] = array
    return arrays
