"""Training on several workers, each a process of its own, through `fit`."""

from typing import Any

import tensorflow as tf


class MultiWorkerStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """`tf.distribute.MultiWorkerMirroredStrategy` with which Keras 3's `fit` works.

    Keras gives `reduce` a whole nest of values, and `axis=0` with scalars, which TensorFlow's
    strategy refuses (keras-team/keras#20585). This one reduces each value of a nest, and scalars
    without an axis. Of the first batch Keras only reads the shapes: it is not reduced, so that
    workers may have different numbers of its rows. Tried with Keras 3.15 and TensorFlow 2.21.

    Each worker runs the same script. `TF_CONFIG` in its environment, or a cluster resolver, says
    which one it is. A model that is made in `scope` has the same weights on all workers, and `fit`
    adds up their gradients at each step. All workers read the same data set, whose batches are
    those of all workers together; each takes its rows of every batch. `training.BackupAndRestore`
    goes on after a worker is lost.

    Args:
        timeout: seconds, more than 0. An operation in which a worker waits longer than that for
            the others ends in `tf.errors.DeadlineExceededError`. It must be longer than what only
            one worker does, such as the export of a model. None, the default: without end; what
            ends a process is still noticed.
        cluster_resolver: by default, the one of `TF_CONFIG`.
        implementation: of `tf.distribute.experimental.CommunicationOptions`; by default that of
            TensorFlow's choice.

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

    def reduce(self, reduce_op: Any, value: Any, axis: int | None = None) -> Any:
        """As TensorFlow's, of each value of a nest; `axis` of scalars is left out.

        The mean of a nest without an axis is what Keras wants of the first batch, whose shapes it
        builds a model for. It gives the values of the first replica here.
        """
        if reduce_op in ("MEAN", tf.distribute.ReduceOp.MEAN) and axis is None:
            if tf.nest.is_nested(value):
                return tf.nest.map_structure(self._first_local, value)

        def reduce_one(one):
            scalar = not tf.convert_to_tensor(self._first_local(one)).shape.rank
            return super(MultiWorkerStrategy, self).reduce(
                reduce_op, one, axis=None if scalar else axis
            )

        return tf.nest.map_structure(reduce_one, value)

    def gather(self, value: Any, axis: int) -> Any:
        """As TensorFlow's; bfloat16, which it cannot send, goes as float32."""
        if self._first_local(value).dtype != tf.bfloat16:
            return super().gather(value, axis)
        cast = tf.nest.map_structure(
            lambda one: tf.cast(one, tf.float32), value, expand_composites=True
        )
        return tf.cast(super().gather(cast, axis), tf.bfloat16)

    def _first_local(self, value):
        return self.experimental_local_results(value)[0]
