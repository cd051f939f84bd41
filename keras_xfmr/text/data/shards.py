"""The rows of a batch for each worker.

B rows of a batch of all workers, `...` other axes
"""

import dataclasses
from collections.abc import Sequence
from numbers import Integral

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Shard:
    """The rows `begin .. begin + size - 1` of every batch of B rows.

    Args:
        begin: the first row.
        size: number of rows.
        replicas: number of parts of the rows, one for each replica of the worker.
    """

    begin: int
    size: int
    replicas: int = 1

    @classmethod
    def of(cls, shard, batch_size):
        """The `Shard` of `dataset(shard=...)` for batches of `batch_size` rows.

        Args:
            shard: None for all rows; a pair (index of the worker, number of workers); or a
                `tf.distribute.InputContext`. With a context, a worker of several replicas reads one
                element for each of them, so the rows are split into that many parts.
            batch_size: B, a multiple of the number of workers and of replicas.

        Raises:
            ValueError: other values.
        """
        if shard is None:
            return cls(0, batch_size)
        replicas = 1
        if isinstance(shard, tf.distribute.InputContext):
            replicas = shard.num_replicas_in_sync // shard.num_input_pipelines
            shard = (shard.input_pipeline_id, shard.num_input_pipelines)
        if not _is_shard(shard):
            raise ValueError(
                "`shard` must be a pair (index, count) with 0 <= index < count, or a "
                f"`tf.distribute.InputContext`. Received: {shard!r}."
            )
        index, count = map(int, shard)
        parts = count * replicas
        if batch_size % parts:
            workers = f"{count} workers" + (f" of {replicas} replicas" if replicas > 1 else "")
            raise ValueError(
                "`batch_size` counts the rows of all workers, and each has an equal part. Expected "
                f"a multiple of {parts} for {workers}, such as {-(-batch_size // parts) * parts}. "
                f"Received: batch_size={batch_size}."
            )
        size = batch_size // count
        return cls(index * size, size, replicas)

    def take(self, values, empty):
        """The shard's rows of `[b, ...]`, b at most B, filled up to `[size, ...]` with `empty`."""
        values = values[self.begin : self.begin + self.size]
        paddings = [[0, self.size - tf.shape(values)[0]], *([0, 0] for _ in values.shape[1:])]
        values = tf.pad(values, paddings, constant_values=empty)
        return tf.ensure_shape(values, [self.size, *values.shape[1:]])

    def count(self, values):
        """The number of rows of `[b, ...]` in the shard, int64."""
        rows = tf.shape(values, tf.int64)[0] - self.begin
        return tf.clip_by_value(rows, 0, self.size)

    def for_replicas(self, data):
        """The data set of the shard's batches, split into batches of the replicas in turn."""
        if self.replicas == 1:
            return data
        rows = self.size // self.replicas

        def split(value):
            return tf.reshape(value, [self.replicas, rows, *tf.unstack(tf.shape(value))[1:]])

        def parts(*element):
            parts = tf.nest.map_structure(split, element)
            data = tf.data.Dataset.from_tensor_slices(parts)
            return data.map(lambda *part: tf.nest.map_structure(self._with_shape, element, part))

        return data.flat_map(parts)

    def _with_shape(self, whole, part):
        return tf.ensure_shape(part, [self.size // self.replicas, *whole.shape[1:]])


def _is_shard(shard):
    if not isinstance(shard, Sequence) or len(shard) != 2:
        return False
    whole = all(isinstance(n, Integral) and not isinstance(n, bool) for n in shard)
    return whole and 0 <= shard[0] < shard[1]
