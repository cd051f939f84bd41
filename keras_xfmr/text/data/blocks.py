"""Documents of any length to blocks of one length, streaming.

R rows that are filled in parallel, T length of a block, N parts of documents, `...` the axes of a
token
"""

import tensorflow as tf

from keras_xfmr.text.ragged import stretches

NOTHING = -1  # an empty position of a window


class Blocks:
    """Distributes documents to R rows, each a stream of tokens, and cuts the streams into blocks.

    A row's stream is start, document, end, start, document, end, ...; if start and end are one
    token, it is written once. A document goes to the row with the fewest waiting tokens.

    A token is an integer, a string, or a list of them for several streams with the same places.

    Args:
        rows: R.
        length: T.
        start, end: the tokens.
        nothing: the value after the end of a row, of the type of a token.
    """

    def __init__(self, rows, length, *, start, end, nothing=NOTHING):
        self._rows, self._length, self._nothing = rows, length, nothing
        # The tokens before a part of a document: none if the document continues, the start token
        # if it is the first in its row, else the end of the document before and the start token.
        self._openings = [start, end, start]
        self._opening_begins = [0, 0, 1]
        self._opening_sizes = [0, 1, 1 if start == end else 2]

    def windows(self, chunks):
        """`tf.data.Dataset` of windows `[R, T + 1, ...]`, with `nothing` after the end of a row.

        The last token of a window is the first one of the next window of its row.

        Args:
            chunks: data set of (tokens of N parts of documents, concatenated; int64 `[N]` counts of
                tokens, at least 1; int64 `[N]` numbers of the documents, from 0).
        """
        counts = tf.where([False])[:, 0]  # empty, but of unknown length for `scan`
        tokens = tf.gather(self._openings, counts)
        nothing = (tokens, counts, counts)
        chunks = chunks.map(lambda *chunk: (*chunk, False))
        chunks = chunks.concatenate(tf.data.Dataset.from_tensors((*nothing, True)))
        row, document = tf.constant(0, tf.int64), tf.constant(-1, tf.int64)
        state = (tokens, tf.zeros([self._rows], tf.int64), row, document)
        return chunks.scan(state, self._deal).unbatch()

    def _deal(self, state, chunk):
        """Adds a chunk to the rows, and removes the full blocks; at the end, all blocks.

        The state has the tokens of the rows, concatenated, the count of each row, and the row and
        the number of the document that the next part may continue. A row that has begun is never
        empty: it keeps the last token of its last block.
        """
        (held, sizes, row, last), (tokens, counts, document, end) = state, chunk
        document = tf.concat([[last], document], axis=0)
        first = tf.not_equal(document[1:], document[:-1])
        place, opening, row = self._places(sizes, row, counts, first)
        values = tf.concat([held, self._openings, tokens], axis=0)
        held_size = tf.shape(held)[0]
        opening_begins = tf.gather(self._opening_begins, opening) + held_size
        counts_before = tf.cumsum(counts, exclusive=True)
        behind = held_size + len(self._openings)  # the first of the new tokens
        begins = tf.stack(
            [tf.cast(opening_begins, tf.int64), counts_before + tf.cast(behind, tf.int64)], axis=1
        )
        lengths = tf.stack(
            [tf.cast(tf.gather(self._opening_sizes, opening), tf.int64), counts], axis=1
        )
        # The tokens of each row: the old ones, the new ones, and its end.
        every = tf.range(self._rows, dtype=tf.int64)
        owner = tf.concat(
            [every, tf.reshape(tf.stack([place, place], axis=1), [-1]), every], axis=0
        )
        closed = tf.cast(end & (sizes > 0), tf.int64)
        ends = tf.zeros_like(every) + tf.cast(held_size + 1, tf.int64)  # in `_openings`
        begins = tf.concat(
            [tf.cumsum(sizes, exclusive=True), tf.reshape(begins, [-1]), ends], axis=0
        )
        lengths = tf.concat([sizes, tf.reshape(lengths, [-1]), closed], axis=0)
        order = tf.argsort(owner, stable=True)
        values = stretches(values, tf.gather(begins, order), tf.gather(lengths, order)).values
        sizes = tf.math.unsorted_segment_sum(lengths, owner, self._rows)
        rest, sizes, windows = self._cut(values, sizes, end)
        return (rest, sizes, row, document[-1]), windows

    def _cut(self, values, sizes, end):
        """The rest of the rows, the sizes of the rest, and the windows `[n, R, T + 1, ...]`."""
        length = self._length
        full = tf.maximum(tf.reduce_min(sizes - 1), 0) // length
        last = -(-tf.maximum(tf.reduce_max(sizes - 1), 0) // length)
        count = tf.where(end, last, full)
        starts = tf.cumsum(sizes, exclusive=True)
        before = tf.range(count)[:, None] * length
        begins = tf.reshape(tf.minimum(before, sizes) + starts, [-1])
        lengths = tf.reshape(tf.clip_by_value(sizes - before, 0, length + 1), [-1])
        windows = stretches(values, begins, lengths)
        shape = [length + 1, *values.shape[1:]]
        windows = windows.to_tensor(self._nothing, shape=[None, *shape])
        taken = tf.minimum(count * length, sizes)
        rest = stretches(values, starts + taken, sizes - taken).values
        windows = tf.reshape(windows, [-1, self._rows, *shape])
        return rest, sizes - taken, windows

    def _places(self, sizes, row, counts, first):
        """Places of the parts: int64 `[N]` rows, int32 `[N]` kinds of openings, the last row."""
        if self._rows == 1:
            begins = tf.cast(first, tf.int32)
            virgin = tf.equal(sizes[0] + tf.cumsum(counts, exclusive=True), 0)
            return tf.zeros_like(counts), tf.where(virgin, begins, 2 * begins), row
        size = tf.size(counts)
        places, openings = (
            tf.TensorArray(kind, size, element_shape=[]) for kind in (tf.int64, tf.int32)
        )

        def step(i, places, openings, sizes, row):
            row = tf.where(first[i], tf.argmin(sizes), row)
            kind = tf.where(first[i], tf.where(tf.equal(sizes[row], 0), 1, 2), 0)
            more = counts[i] + tf.gather(tf.constant(self._opening_sizes, tf.int64), kind)
            sizes = tf.tensor_scatter_nd_add(sizes, [[row]], [more])
            return i + 1, places.write(i, row), openings.write(i, kind), sizes, row

        _, places, openings, _, row = tf.while_loop(
            lambda i, *_: i < size, step, (0, places, openings, sizes, row), parallel_iterations=1
        )
        return places.stack(), openings.stack(), row
