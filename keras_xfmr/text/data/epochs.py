"""Epochs of batches that a run can take up again, whole or in shards."""

import functools

import tensorflow as tf

from keras_xfmr.common.checks import check_int
from keras_xfmr.text.data.shards import Shard
from keras_xfmr.text.data.streaming import untuned


class Epochs:
    """A pipeline of batches, each iteration of which is the epoch after that of the one before.

    A subclass defines `_make_batches`, `_fill` and `_reset`, and counts its rows in `_rows`.

    Args:
        batch_size: rows of a batch, of all shards together.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = check_int("batch_size", batch_size, 1)
        self._count: int | None = None
        with tf.device("CPU"):
            self._position = tf.Variable([0, 0], dtype=tf.int64, trainable=False)
            self._rows = tf.Variable(0, dtype=tf.int64, trainable=False)

    # ---- of a subclass

    def _make_batches(self, epoch):
        """The batches of an epoch before `_fill`, inside a graph. The last one may be smaller."""
        raise NotImplementedError

    def _fill(self, batch, shard):
        """A shard of a batch at its full size, as `fit` takes it. Adds its rows to `_rows`."""
        raise NotImplementedError

    def _reset(self):
        """Sets a subclass's own counts to 0; an operation inside a graph."""
        raise NotImplementedError

    # ---- of all

    @property
    def rows(self) -> int:
        """Rows that the last iteration gave, of its shard: pairs, or instances. The rows that fill
        up a batch are not counted."""
        return int(self._rows.numpy())

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Makes the next iteration start at this batch of this epoch, both counted from 0.

        The batches before it are made and dropped, because only the lengths of their texts tell
        where it begins. That takes as long as the pipeline takes for them, a small part of what the
        training took.
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
        rows of every batch; `batch_size` is the number of rows of all of them. They then train on
        exactly the batches of one worker, in the same order, and each has the same number of steps
        of the same shapes. Rows that go on in the next batch do so in the same worker.

        Every worker reads and tokenizes the whole text, because lengths decide what is in a batch;
        only padding, ids of characters and labels are made for its own rows alone. So a shard gives
        about as many lines a second as the whole. Where training takes more of them, `epochs` and
        the `tf.data` service share the work out. `skipped`, and `bytes` where there is one, count
        the whole text.

        `fit` inside a strategy's scope needs no shard: the data set's policy is
        `AutoShardPolicy.DATA`, by which `tf.distribute` gives each worker the same part of the
        rows. There `rows` counts those of all workers. `training.BackupAndRestore(data=...)` calls
        `dataset()` without a shard, which is right for such a `fit` only.

        Args:
            shard: None, a pair (index, count), or the `tf.distribute.InputContext` that
                `distribute_datasets_from_function` gives. A worker of several replicas then has for
                each of them a batch of its own, one after the other.

        Raises:
            ValueError: no such shard, or a `batch_size` that the workers cannot have equal parts
                of.

        Example::

            data = strategy.distribute_datasets_from_function(lambda c: pairs.dataset(shard=c))
        """
        part = Shard.of(shard, self._batch_size)
        # The batch at which it begins, if its length is known.
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
        """The `tf.data.Dataset` of some epochs, one after the other, each iteration the same ones.

        It neither has nor moves a position, so it can be copied to other processes, as the
        `tf.data` service does. (A copy of `dataset()` would give the same epoch each time.) With
        `processing_mode="distributed_epoch"` the workers of the service take whole epochs in turn.
        No row is lost or comes twice; batches of epochs that are made at the same time come in any
        order. Nothing is counted in this process.

        Args:
            first: the first epoch, from 0.
            count: number of epochs.
            shard: as `dataset` takes it.

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
        """Batches of an epoch, found by one pass over the files; the progress bar then knows.

        Each shard has as many. The pass tokenizes all of the text. Keras on TensorFlow without XLA
        counts a step too many, for the optimizer and its schedule, at the end of each epoch whose
        length it does not know.
        """
        if self._count is None:
            whole = Shard.of(None, self._batch_size)

            def one(*batch):
                self._fill_shard(whole, *batch)  # counts the rows; no more of it is computed
                return 1

            data = tf.data.Dataset.range(1).map(self._place)
            data = data.flat_map(lambda place: self._batches_of(place[0]).map(one))
            self._count = int(untuned(data).reduce(0, lambda counted, one: counted + one))
        return self._count

    # ---- how

    @functools.cached_property
    def _batches(self):
        """An epoch -> its batches; one graph, for it takes seconds to make."""
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
        """The data set as `fit` takes it: deterministic, prefetched, of known length if counted."""
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
        """[epoch, batch] of an iteration that begins; the next one is the epoch after it."""
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
