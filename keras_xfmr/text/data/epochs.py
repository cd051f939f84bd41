"""Epochs of batches that a run can resume, whole or in shards."""

import functools

import tensorflow as tf

from keras_xfmr.common.checks import check_int
from keras_xfmr.text.data.shards import Shard
from keras_xfmr.text.data.streaming import untuned


class Epochs:
    """A pipeline of batches; each iteration is the next epoch.

    A subclass defines `_make_batches`, `_fill` and `_reset`, and counts its rows in `_rows`.

    Args:
        batch_size: rows of a batch, of all shards in sum.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = check_int("batch_size", batch_size, 1)
        self._count: int | None = None
        with tf.device("CPU"):
            self._position = tf.Variable([0, 0], dtype=tf.int64, trainable=False)
            self._rows = tf.Variable(0, dtype=tf.int64, trainable=False)

    # ---- defined by subclasses

    def _make_batches(self, epoch):
        """The batches of an epoch, before `_fill`, inside a graph. The last one may be smaller."""
        raise NotImplementedError

    def _fill(self, batch, shard):
        """A shard of a batch at its full size, for `fit`. Adds its rows to `_rows`."""
        raise NotImplementedError

    def _reset(self):
        """Sets the counts of a subclass to 0; an operation inside a graph."""
        raise NotImplementedError

    # ---- common to all

    @property
    def rows(self) -> int:
        """Number of rows (pairs or instances) of the last iteration, of its shard. Rows of padding
        do not count."""
        return int(self._rows.numpy())

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Makes the next iteration start at this batch of this epoch, both counted from 0.

        The batches before it are made and dropped, because its beginning depends on the lengths of
        all texts before. This takes a small part of the time of the training.
        """
        check_int("epoch", epoch, 0)
        check_int("batch", batch, 0)
        self._position.assign([epoch, batch])

    @tf.autograph.experimental.do_not_convert
    def dataset(
        self, shard: tuple[int, int] | tf.distribute.InputContext | None = None
    ) -> tf.data.Dataset:
        """The `tf.data.Dataset`; each iteration is the next epoch, or the one that `seek` named.

        With `shard=(index, count)` each of `count` workers has an equal, contiguous part of the
        rows of every batch; `batch_size` is the number of rows of all workers. They train on
        exactly the batches of one worker, in the same order, and all have the same number of steps
        of the same shapes. Rows that continue in the next batch stay on the same worker.

        Every worker reads and tokenizes the whole text, because lengths decide which rows are in a
        batch; padding, ids of characters and labels are only made for its own rows. So a shard is
        about as fast as the whole data set, in lines a second. If training is faster than that,
        share the work with `epochs` and the `tf.data` service. `skipped` and `bytes` count the
        whole text.

        `fit` inside a strategy's scope needs no shard: the data set has the policy
        `AutoShardPolicy.DATA`, with which `tf.distribute` gives each worker the same part of the
        rows. There `rows` counts those of all workers. `training.BackupAndRestore(data=...)` calls
        `dataset()` without a shard, which is only right for such a `fit`.

        Args:
            shard: None, a pair (index, count), or the `tf.distribute.InputContext` of
                `distribute_datasets_from_function`. A worker of several replicas then gets a batch
                for each replica, one after the other.

        Raises:
            ValueError: an invalid shard, or a `batch_size` that cannot be split into equal parts.

        Example::

            data = strategy.distribute_datasets_from_function(lambda c: pairs.dataset(shard=c))
        """
        part = Shard.of(shard, self._batch_size)
        # The batch where it begins, if its length is known.
        first = length = None
        if self._count is not None:
            first = int(self._position[1])
            length = max(self._count - first, 0)
        data = tf.data.Dataset.range(1).map(lambda _: self._begin_epoch(first))
        data = data.flat_map(functools.partial(self._epoch, part))
        return self._finish(data, part, length, shard is not None)

    @tf.autograph.experimental.do_not_convert
    def epochs(
        self,
        first: int,
        count: int = 1,
        shard: tuple[int, int] | tf.distribute.InputContext | None = None,
    ) -> tf.data.Dataset:
        """The `tf.data.Dataset` of some epochs in sequence; each iteration has the same epochs.

        It has no position, so it can be copied to other processes, as the `tf.data` service does.
        (A copy of `dataset()` would return the same epoch each time.) With
        `processing_mode="distributed_epoch"` the workers of the service take whole epochs in turn.
        No row is lost or repeated; batches of epochs that are made at the same time may be in any
        order. Nothing is counted in this process.

        Args:
            first: the first epoch, from 0.
            count: number of epochs.
            shard: as in `dataset`.

        Example::

            service = tf.data.experimental.service.distribute(
                processing_mode="distributed_epoch", service="grpc://dispatcher:5050"
            )
            data = pairs.epochs(0, 10).apply(service)
            model.fit(data, epochs=10, steps_per_epoch=pairs.count(), shuffle=False)
        """
        check_int("first", first, 0)
        check_int("count", count, 1)
        part = Shard.of(shard, self._batch_size)
        data = tf.data.Dataset.range(first, first + count).map(self._place)
        data = data.flat_map(functools.partial(self._epoch, part))
        length = None if self._count is None else self._count * count
        return self._finish(data, part, length, shard is not None)

    @tf.autograph.experimental.do_not_convert
    def count(self) -> int:
        """Number of batches of an epoch, from one pass over the files, also for the progress bar.

        It is the same for each shard. The pass tokenizes the whole text. If the length is unknown,
        Keras on TensorFlow without XLA counts one step too many at the end of each epoch: for the
        optimizer and its schedule, and with a loss of 0 in the losses of several outputs. (The
        whole loss of our models is right.)
        """
        if self._count is None:
            whole = Shard.of(None, self._batch_size)

            def one(*batch):
                self._fill_shard(whole, *batch)  # counts the rows; nothing else is computed
                return 1

            data = tf.data.Dataset.range(1).map(self._place)
            data = data.flat_map(lambda place: self._batches_of(place[0]).map(one))
            self._count = int(untuned(data).reduce(0, lambda counted, one: counted + one))
        return self._count

    # ---- implementation

    @functools.cached_property
    def _batches(self):
        """An epoch -> its batches; one graph, because tracing takes seconds."""
        signature = [tf.TensorSpec([], tf.int64)]
        make = tf.function(self._make_batches, input_signature=signature, autograph=False)
        return make.get_concrete_function()

    def _batches_of(self, epoch):
        return self._batches(epoch)

    def _epoch(self, shard, place):
        """The shard's batches from the place `[epoch, batch]` on."""
        # `skip` of an output of `tf.unstack` ends the process in TensorFlow 2.21.
        batches = self._batches_of(place[0]).skip(place[1])
        fill = functools.partial(self._fill_shard, shard)
        return batches.map(fill, num_parallel_calls=tf.data.AUTOTUNE)

    def _fill_shard(self, shard, *batch):
        return self._fill(batch[0] if len(batch) == 1 else batch, shard)

    def _finish(self, data, shard, length, is_shard):
        """The data set for `fit`: deterministic, prefetched, of known length if counted."""
        policies = tf.data.experimental.AutoShardPolicy
        options = tf.data.Options()
        options.deterministic = True
        options.experimental_distribute.auto_shard_policy = (
            policies.OFF if is_shard else policies.DATA
        )
        data = shard.for_replicas(data).prefetch(tf.data.AUTOTUNE)
        data = untuned(data.with_options(options))
        if length is None:
            return data
        return data.apply(tf.data.experimental.assert_cardinality(length * shard.replicas))

    def _place(self, epoch):
        """[epoch, 0], with all counts set to 0."""
        self._reset()
        self._rows.assign(0)
        return tf.stack([epoch, 0])

    def _begin_epoch(self, first):
        """[epoch, batch] of a new iteration; the next iteration is the epoch after it."""
        place = self._position.read_value()
        if first is not None:
            message = tf.strings.format(
                f"This data set was made to begin at batch {first}, and has the length for that. "
                "Call `dataset()` again after `seek`. Received: batch {} as the next one.",
                place[1],
            )
            check = tf.debugging.Assert(tf.equal(place[1], first), [message])
            with tf.control_dependencies([check]):
                place = tf.identity(place)
        self._position.assign(self._place(place[0] + 1))
        return place
