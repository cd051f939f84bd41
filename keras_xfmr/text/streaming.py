"""What the pipelines share: lines of files, and epochs that a run can take up again."""

import tensorflow as tf


class Epochs:
    """A pipeline of batches, each iteration of which is the epoch after that of the one before.

    A subclass defines `dataset`, which starts with `_begin_epoch` and ends with
    `_batches_of_epoch`.
    """

    def __init__(self):
        self._count = None
        with tf.device("CPU"):
            self._position = tf.Variable([0, 0], dtype=tf.int64, trainable=False)

    def seek(self, epoch, batch=0):
        """Makes the next iteration start at this batch of this epoch."""
        self._position.assign([epoch, batch])

    def _begin_epoch(self):
        """(epoch, batch) of an iteration that begins; the next one is the epoch after it."""
        place = self._position.read_value()
        self._position.assign(tf.stack([place[0] + 1, 0]))
        return place

    def count(self):
        """Batches of an epoch, found by one pass over the files; the progress bar then knows."""
        if self._count is None:
            position = self._position.numpy()
            self.seek(0)
            self._count = sum(1 for _ in self.dataset())
            self._position.assign(position)
        return self._count

    def _batches_of_epoch(self, data):
        """The data set as `fit` takes it: deterministic, prefetched, of known length if counted."""
        options = tf.data.Options()
        options.deterministic = True
        # One stream cannot be sharded by file; Keras would warn under a distribution strategy.
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        data = data.prefetch(tf.data.AUTOTUNE).with_options(options)
        if self._count is None:
            return data
        rest = self._count - int(self._position[1])
        return data.apply(tf.data.experimental.assert_cardinality(rest))


def read_lines(path):
    """`tf.data.Dataset` of a file's lines."""
    return tf.data.TextLineDataset(path, buffer_size=1 << 20)


def strip_lines(lines, numbers):
    """Takes off the byte order mark of a file's first line, and carriage returns."""
    lines = tf.strings.regex_replace(lines, r"\r+$", "")
    unmarked = tf.strings.regex_replace(lines, "^\ufeff", "")
    return tf.where(tf.equal(numbers, 1), unmarked, lines)


def is_utf8(texts):
    """Which strings are UTF-8."""
    return tf.equal(texts, tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="ignore"))
