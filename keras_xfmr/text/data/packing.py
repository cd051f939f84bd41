"""Several short documents in one row.

B rows, T length, N documents, n documents of a chunk, K inputs
"""

import tensorflow as tf

from keras_xfmr.common.checks import check_int
from keras_xfmr.text.ragged import owners, stretches

OPEN = 2  # batches that are filled in parallel
MASK, NUMBERS, STARTS = "attention_mask", "document_ids", "document_starts"


def pack_documents(
    data: tf.data.Dataset, rows: int, length: int, *, documents: int | None = None, pad_id: int = 0
) -> tf.data.Dataset:
    """Packs the rows of a data set, each a document, into fewer rows of one length.

        [CLS] a b [SEP] [PAD] [PAD]         token_ids     [CLS] a b [SEP] [CLS] c [SEP] [PAD]
        [CLS] c [SEP] [PAD] [PAD] [PAD]     document_ids    1   1 1   1     2   2   2     0

    Each document goes to the first row with enough room in the two open batches. If no row has
    room, the first of these batches is done (first fit, Johnson et al. 1974, with a bounded number
    of rows). Nothing is lost, truncated or split. The order is that of `data`, except that a short
    document may move up to a batch before a long one.

    A model with `packed=True` (`models.Bert`) and a `Classifier` over it read such batches.

    Args:
        data: a `tf.data.Dataset` of batches: a dictionary of inputs, or `(inputs, labels)`, or
            `(inputs, labels, weights)`. Inputs are integers `[b, t]`, the outputs of the packers of
            `keras_xfmr.text`, with `token_ids`. `attention_mask` is 1 at the first positions of
            each row (by default at those that are not `pad_id`). Labels and weights, tensors or
            nests of them, have one entry a row. Batches may have any size.
        rows: B, rows of a packed batch.
        length: T, at least the longest document: the `max_length` of the packer.
        documents: N, the maximum number of documents in a batch. By default one for four positions.
        pad_id: value of `token_ids` after the documents of a row.

    Returns:
        A `tf.data.Dataset` with elements of the form of `data`, of static shapes: the inputs, int32
        `[B, T]`; `attention_mask`; `document_ids` `[B, T]`, 1, 2, ... in each row and 0 for
        padding; `document_starts` `[N, 2]`, row and first position of each document, then (0, 0);
        labels and weights `[N, ...]` in the same order. Unused places have the label -1 if a label
        is one integer, which `MaskedCrossEntropy(pad_id=-1)` leaves out; other labels are 0, and
        need weights, which are 0 there.

        The number of batches is unknown, and depends on the order of `data`. If the order changes
        in each epoch, let `fit` read a stream: `data.repeat()` before the packing, and
        `steps_per_epoch`. Otherwise count the batches once, and set the number with
        `tf.data.experimental.assert_cardinality`.

    Raises:
        ValueError: elements of another form; sizes below 1.
        tf.errors.InvalidArgumentError: from the iterator, a document longer than T, or without
            tokens, or with tokens after padding.

    Example::

        data = tf.data.Dataset.from_tensor_slices((texts, labels)).batch(256)
        data = data.map(lambda texts, labels: (packer(texts), labels))
        model.fit(text.pack_documents(data, 16, packer.max_length), shuffle=False)
    """
    check_int("rows", rows, 1)
    check_int("length", length, 1)
    if documents is None:
        documents = rows * max(1, length // 4)
    check_int("documents", documents, 1)
    spec = data.element_spec
    alone = isinstance(spec, dict)
    parts = (spec,) if alone else spec
    names = _names(parts)
    packing = _Packing(names, rows, length, documents, pad_id)
    chunks = data.map(
        tf.autograph.experimental.do_not_convert(lambda *parts: (packing.documents(*parts), False)),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    nothing = tf.nest.map_structure(_no_rows, chunks.element_spec[0])
    chunks = chunks.concatenate(tf.data.Dataset.from_tensors((nothing, True)))
    packed = chunks.scan(packing.state(nothing), packing.deal).unbatch()
    if alone:
        packed = packed.map(lambda inputs: inputs)
    return packed.prefetch(1)


def _names(parts):
    """The inputs except the mask, sorted; ValueError if elements have another form."""
    inputs = parts[0] if isinstance(parts, tuple) and 0 < len(parts) < 4 else None
    fit = isinstance(inputs, dict) and "token_ids" in inputs
    if fit:
        fit = all(
            isinstance(one, tf.TensorSpec) and one.dtype.is_integer and one.shape.rank == 2
            for one in inputs.values()
        )
    if not fit or {NUMBERS, STARTS} & set(inputs):
        raise ValueError(
            "Expected a data set of inputs, (inputs, labels) or (inputs, labels, weights) with "
            "inputs of integers [b, t], one document a row, and `token_ids` among them. Received: "
            f"elements {parts}."
        )
    return sorted(set(inputs) - {MASK})


def _no_rows(spec):
    """A tensor with the type and shape of the data set's elements, but no rows."""
    return tf.zeros([0, *(size or 0 for size in spec.shape[1:])], spec.dtype)


class _Packing:
    """Distributes documents to the open rows, and makes batches of the rows that are done.

    Documents are their tokens `[m, K]`, concatenated; their sizes `[n]`; and their labels and
    weights `[n, ...]`.

    Args:
        names: the K inputs.
        rows, length, documents, pad_id: as in `pack_documents`.
    """

    def __init__(self, names, rows, length, documents, pad_id):
        self._names, self._rows, self._length = names, rows, length
        self._documents, self._pad_id = documents, pad_id

    def documents(self, inputs, *beside):
        """A batch as documents."""
        shown = inputs["token_ids"] != self._pad_id
        if MASK in inputs:
            shown = tf.not_equal(inputs[MASK], 0)
        sizes = tf.math.count_nonzero(shown, axis=1)
        right = tf.equal(shown, tf.sequence_mask(sizes, tf.shape(shown)[1]))
        right = tf.reduce_all(right, axis=1) & (sizes > 0) & (sizes <= self._length)
        message = tf.strings.format(
            f"Expected documents of 1 to {self._length} tokens, the `length` of a row, with "
            "padding only behind them. Received: documents of {} tokens.",
            tf.boolean_mask(sizes, ~right)[:5],
        )
        check = tf.debugging.Assert(tf.reduce_all(right), [message])
        with tf.control_dependencies([check]):
            columns = tf.stack([tf.cast(inputs[name], tf.int32) for name in self._names], axis=-1)
        return tf.boolean_mask(columns, shown), sizes, beside

    def state(self, nothing):
        """The empty state: documents, their rows, the room of open rows, documents of each batch.

        Rows are counted from the first open one.
        """
        room = tf.fill([OPEN * self._rows], tf.cast(self._length, tf.int64))
        return nothing, nothing[1], room, tf.zeros([OPEN], tf.int64)

    def deal(self, state, chunk):
        """Adds a chunk of documents to the rows, and removes the batches that are done."""
        (held, held_rows, room, counts), (new, end) = state, chunk
        new_rows, done, room, counts = self._places(new[1], room, counts)
        places = tf.concat([held_rows, new_rows], axis=0)
        tokens, sizes, beside = tf.nest.map_structure(
            lambda *pair: tf.concat(pair, axis=0), held, new
        )
        last = tf.reduce_max(tf.concat([places, [-1]], axis=0))
        done = tf.where(end, (last // self._rows + 1) * self._rows, done)
        # The documents row by row.
        order = tf.argsort(places, stable=True)
        tokens = stretches(
            tokens,
            tf.gather(tf.cumsum(sizes, exclusive=True), order),
            tf.gather(sizes, order),
        ).values
        places, sizes, beside = tf.nest.map_structure(
            lambda x: tf.gather(x, order), (places, sizes, beside)
        )
        count = tf.math.count_nonzero(places < done)
        size = tf.reduce_sum(sizes[:count])
        first, rest = (
            tf.nest.map_structure(lambda x, part=part: x[part], (places, sizes, beside))
            for part in (slice(None, count), slice(count, None))
        )
        batches = self._batches(tokens[:size], *first, done)
        held = (tokens[size:], *rest[1:])
        return (held, rest[0] - done, room, counts), batches

    def _places(self, sizes, room, counts):
        """The rows `[n]` of documents, the number of done rows, and the state of the open rows."""
        number, rows = tf.size(sizes), self._rows
        index = tf.range(OPEN * rows, dtype=tf.int64)
        fresh = tf.fill([rows], tf.cast(self._length, tf.int64))

        def step(i, places, done, room, counts):
            fits = (room >= sizes[i]) & tf.repeat(counts < self._documents, rows)
            row = tf.reduce_min(tf.where(fits, index, OPEN * rows))
            full = tf.equal(row, OPEN * rows)
            # The first batch is done, and an empty one is added.
            done += tf.where(full, tf.constant(rows, tf.int64), 0)
            room = tf.where(full, tf.concat([room[rows:], fresh], axis=0), room)
            counts = tf.where(full, tf.concat([counts[1:], [0]], axis=0), counts)
            row = tf.where(full, tf.constant((OPEN - 1) * rows, tf.int64), row)
            room = tf.tensor_scatter_nd_sub(room, [[row]], [sizes[i]])
            counts = tf.tensor_scatter_nd_add(counts, [[row // rows]], [1])
            return i + 1, places.write(i, done + row), done, room, counts

        places = tf.TensorArray(tf.int64, number, element_shape=[])
        start = (0, places, tf.constant(0, tf.int64), room, counts)
        _, places, done, room, counts = tf.while_loop(
            lambda i, *_: i < number, step, start, parallel_iterations=1
        )
        return places.stack(), done, room, counts

    def _batches(self, tokens, places, sizes, beside, done):
        """Batches `[n // B, ...]` of documents that fill `done` rows, row by row."""
        ones = tf.ones_like(places)
        of_rows, row_sizes = (
            tf.math.unsorted_segment_sum(x, places, done) for x in (ones, sizes)
        )
        number = tf.cumsum(ones) - tf.gather(tf.cumsum(of_rows, exclusive=True), places)
        before = tf.cumsum(row_sizes, exclusive=True)
        start = tf.cumsum(sizes, exclusive=True) - tf.gather(before, places)
        numbers = tf.gather(tf.cast(number, tf.int32), owners(sizes))

        def fill(values, pad=0):
            rows = tf.RaggedTensor.from_row_lengths(values, row_sizes, validate=False)
            rows = rows.to_tensor(pad, shape=[None, self._length])
            return tf.reshape(rows, [-1, self._rows, self._length])

        inputs = {
            name: fill(tokens[:, i], self._pad_id if name == "token_ids" else 0)
            for i, name in enumerate(self._names)
        }
        inputs[NUMBERS] = fill(numbers)
        inputs[MASK] = tf.cast(inputs[NUMBERS] > 0, tf.int32)
        of_batches = tf.math.unsorted_segment_sum(ones, places // self._rows, done // self._rows)

        def list_documents(values, pad=0):
            values = tf.RaggedTensor.from_row_lengths(values, of_batches, validate=False)
            shape = [None, self._documents, *values.shape[2:]]
            return values.to_tensor(tf.cast(pad, values.dtype), shape=shape)

        places = tf.stack([places % self._rows, start], axis=1)
        inputs[STARTS] = list_documents(tf.cast(places, tf.int32))
        labels = tf.nest.map_structure(
            lambda x: list_documents(x, -1 if x.dtype.is_integer and x.shape.rank == 1 else 0),
            beside[:1],
        )
        weights = tf.nest.map_structure(list_documents, beside[1:])
        return (inputs, *labels, *weights)
