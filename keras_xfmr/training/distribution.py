"""Training on several devices, or on workers in processes of their own, with `fit`."""

from typing import Any

import tensorflow as tf

from keras_xfmr.common.types import Mixin


class ReducesForKeras(Mixin):
    """What Keras 3 asks of a `tf.distribute.Strategy`; it comes before that class.

    Keras calls `reduce` with a nest of values, and with `axis=0` for scalars. TensorFlow's strategy
    of several workers refuses both (keras-team/keras#20585); its `MirroredStrategy` fails if the
    replicas have different numbers of rows. This one reduces each value of a nest, and scalars
    without an axis.
    """

    def reduce(self, reduce_op: Any, value: Any, axis: int | None = None) -> Any:
        """TensorFlow's `reduce` for each value of a nest; ignores `axis` for scalars.

        Keras takes the mean of a nest without an axis only of the first batch, to build a model for
        its shapes. Here that returns the values of the first replica.
        """
        if reduce_op in ("MEAN", tf.distribute.ReduceOp.MEAN) and axis is None:
            if tf.nest.is_nested(value):
                return tf.nest.map_structure(self._first_local, value)

        def reduce_one(one):
            scalar = not tf.convert_to_tensor(self._first_local(one)).shape.rank
            return super(ReducesForKeras, self).reduce(
                reduce_op, one, axis=None if scalar else axis
            )

        return tf.nest.map_structure(reduce_one, value)

    def gather(self, value: Any, axis: int) -> Any:
        """TensorFlow's `gather`; it cannot send bfloat16, so that is sent as float32."""
        if self._first_local(value).dtype != tf.bfloat16:
            return super().gather(value, axis)
        cast = tf.nest.map_structure(
            lambda one: tf.cast(one, tf.float32), value, expand_composites=True
        )
        return tf.cast(super().gather(cast, axis), tf.bfloat16)

    def _first_local(self, value):
        return self.experimental_local_results(value)[0]


class MirroredStrategy(ReducesForKeras, tf.distribute.MirroredStrategy):
    """`tf.distribute.MirroredStrategy` whose batches may have any number of rows.

    With TensorFlow's own, Keras fails if the first batch of `fit` or `evaluate` has a number of
    rows that is no multiple of the devices. Tested with Keras 3.15 and TensorFlow 2.21, on logical
    devices of a CPU.

    Args:
        devices: names such as `["GPU:0", "GPU:1"]`; by default all GPUs.
        cross_device_ops: see `tf.distribute.MirroredStrategy`.

    Example::

        strategy = keras_xfmr.training.MirroredStrategy()
        with strategy.scope():
            model = make_and_compile()
        model.fit(pairs.dataset(), epochs=10)
    """


class MultiWorkerStrategy(ReducesForKeras, tf.distribute.MultiWorkerMirroredStrategy):
    """`tf.distribute.MultiWorkerMirroredStrategy` that works with Keras 3's `fit`.

    Keras cannot use TensorFlow's own (keras-team/keras#20585). Keras reads only the shapes of the
    first batch, so workers may have different numbers of its rows. Tested with Keras 3.15 and
    TensorFlow 2.21.

    Make it first: TensorFlow refuses it after any other operation, such as that of a tokenizer.

    Each worker runs the same script and finds its number in `TF_CONFIG` in its environment, or in a
    cluster resolver. A model that is created in `scope` has the same weights on all workers, and
    `fit` adds up their gradients at each step. All workers read the same data set, with batches for
    all workers together; each takes its rows of every batch. `training.BackupAndRestore` resumes
    after a worker is lost.

    Args:
        timeout: seconds, more than 0. An operation in which a worker waits longer for the others
            raises `tf.errors.DeadlineExceededError`. It must be longer than work of only one
            worker, such as the export of a model. None, the default: no limit; a process that ends
            is still noticed.
        cluster_resolver: by default the one of `TF_CONFIG`.
        implementation: see `tf.distribute.experimental.CommunicationOptions`; by default TensorFlow
            chooses.

    Raises:
        ValueError: `timeout` is not positive.

    Example::

        strategy = keras_xfmr.training.MultiWorkerStrategy(timeout=600)
        with strategy.scope():
            model = make_and_compile()
        model.fit(pairs.dataset(), epochs=10)
    """

    def __init__(
        self,
        *,
        timeout: float | None = None,
        cluster_resolver: Any = None,
        implementation: Any = None,
    ) -> None:
        if timeout is not None and not timeout > 0:
            raise ValueError(f"`timeout` must be more than 0 seconds. Received: {timeout!r}.")
        options = {} if implementation is None else {"implementation": implementation}
        super().__init__(
            cluster_resolver=cluster_resolver,
            communication_options=tf.distribute.experimental.CommunicationOptions(
                timeout_seconds=timeout, **options
            ),
        )
