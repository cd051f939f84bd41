"""Begins and ends of the instances of BERT's pretraining in a chunk of tokenized documents.

The tokens of a chunk are in one flat vector, document after document. A sequence of an instance is
a range of it, so making instances is arithmetic on positions, for all documents at once.

G documents, S segments, N instances
"""

from typing import NamedTuple

import tensorflow as tf

DRAWS = 6  # uniform numbers that a step needs for each document


class Chunk(NamedTuple):
    """Tokenized documents, none of them empty, one after the other."""

    tokens: tf.Tensor  # all tokens
    offsets: tf.Tensor  # [S + 1]: the first token of each segment; then the number of tokens
    first: tf.Tensor  # [G]: a document's first segment
    last: tf.Tensor  # [G]: the segment after its last one
    document: tf.Tensor  # [G]: its number; parts of one document have the same number

    def reach(self, segment, size, last):
        """The end of the fewest segments from `segment` on with `size` tokens or more."""
        wanted = tf.gather(self.offsets, segment) + tf.maximum(size, 1)
        return tf.minimum(tf.searchsorted(self.offsets, wanted), last)

    def fill(self, segment, size):
        """The end of the most segments from `segment` on with at most `size` tokens; at least one
        segment."""
        most = tf.gather(self.offsets, segment) + size
        end = tf.searchsorted(self.offsets, most, side="right") - 1
        return tf.clip_by_value(end, segment + 1, self.last)

    def another(self, draw):
        """`[G]`: another document for each document."""
        order = tf.argsort(self.document, stable=True)
        ordered = tf.gather(self.document, order)
        low = tf.searchsorted(ordered, self.document)
        own = tf.searchsorted(ordered, self.document, side="right") - low
        other = pick(draw, tf.size(order) - own)
        other += tf.where(other >= low, own, 0)
        return tf.gather(order, tf.minimum(other, tf.size(order) - 1))


class Ranges(NamedTuple):
    """For each instance: the tokens `a_begin .. a_end - 1`, `b_begin .. b_end - 1`, and the label;
    `counts` is 0 if the label has no meaning."""

    a_begin: tf.Tensor
    a_end: tf.Tensor
    b_begin: tf.Tensor
    b_end: tf.Tensor
    label: tf.Tensor
    counts: tf.Tensor


def pick(draw, count):
    """Uniform numbers in [0, 1) to integers 0 .. count - 1; 0 if `count` is 0."""
    index = tf.cast(draw * tf.cast(count, tf.float32), tf.int32)
    return tf.clip_by_value(index, 0, tf.maximum(count - 1, 0))


def next_sentence(chunk, segment, target, draws):
    """Does B follow A, or is it from another document? (Devlin et al. 2019, section 3.1)

    A is the first 1 .. n - 1 of n gathered segments. With probability 0.5, and always if n = 1, B
    is a part of another document, label 1, and the segments after A are used again later; otherwise
    B is the rest, label 0.
    """
    split, coin, lender, begin = draws
    end = chunk.reach(segment, target, chunk.last)
    middle = segment + 1 + pick(split, end - segment - 1)
    random = (middle == end) | (coin < 0.5)
    a_begin, a_end, b_end = (tf.gather(chunk.offsets, s) for s in (segment, middle, end))
    other = chunk.another(lender)
    first, last = tf.gather(chunk.first, other), tf.gather(chunk.last, other)
    start = first + pick(begin, last - first)
    stop = chunk.reach(start, target - (a_end - a_begin), last)
    b_begin = tf.where(random, tf.gather(chunk.offsets, start), a_end)
    b_end = tf.where(random, tf.gather(chunk.offsets, stop), b_end)
    label = tf.cast(random, tf.int32)
    ranges = Ranges(a_begin, a_end, b_begin, b_end, label, tf.ones_like(label))
    return ranges, tf.where(random, middle, end)


def sentence_order(chunk, segment, target, draws):
    """Were A and B swapped? (Lan et al. 2020, section 3.1)

    A is the first 1 .. n - 1 of n gathered segments, B is the rest; they are swapped with
    probability 0.5, label 1. A single segment is split between two of its tokens; if it has only
    one token, B is empty and the label does not count.
    """
    split, coin, cut, _ = draws
    end = chunk.reach(segment, target, chunk.last)
    middle = segment + 1 + pick(split, end - segment - 1)
    begin, between, stop = (tf.gather(chunk.offsets, s) for s in (segment, middle, end))
    between = tf.where(middle == end, begin + 1 + pick(cut, stop - begin - 1), between)
    counts = between < stop
    swap = counts & (coin < 0.5)
    one, two = (begin, between), (between, stop)
    a_begin, a_end = (tf.where(swap, b, a) for a, b in zip(one, two))
    b_begin, b_end = (tf.where(swap, a, b) for a, b in zip(one, two))
    label, counts = (tf.cast(x, tf.int32) for x in (swap, counts))
    return Ranges(a_begin, a_end, b_begin, b_end, label, counts), end


def one_sequence(chunk, segment, target, draws):
    """Only A: as many whole segments as fit (Liu et al. 2019, section 4.2, "doc-sentences")."""
    end = chunk.fill(segment, target)
    begin, stop = tf.gather(chunk.offsets, segment), tf.gather(chunk.offsets, end)
    none = tf.zeros_like(begin)
    return Ranges(begin, stop, none, none, none, none), end


def make_instances(chunk, step, seed, *, size, short_rate):
    """The `Ranges` `[N]` of a chunk, document by document.

    Every iteration makes one instance of each document that has segments left. Segments are
    gathered until they have `size` tokens or, with probability `short_rate`, a number drawn from
    2 .. `size`. (google-research/bert draws that number once for a document. Here it is drawn for
    each instance, so `short_rate` is the share of short instances.)

    Args:
        chunk: a `Chunk`.
        step: `next_sentence`, `sentence_order` or `one_sequence`.
        seed: two integers.
        size: maximum number of tokens of an instance, without special tokens.
        short_rate: share of the short instances.
    """

    def body(i, segment, made):
        uniform = tf.random.stateless_uniform([DRAWS, tf.size(segment)], tf.random.fold_in(seed, i))
        short, length, *draws = tf.unstack(uniform)
        target = tf.where(short < short_rate, 2 + pick(length, size - 1), size)
        alive = segment < chunk.last
        here = tf.minimum(segment, chunk.last - 1)
        ranges, after = step(chunk, here, target, draws)
        made = made.write(i, tf.stack([*ranges, tf.cast(alive, tf.int32)], axis=-1))
        return i + 1, tf.where(alive, after, segment), made

    columns = len(Ranges._fields) + 1
    _, _, made = tf.while_loop(
        lambda i, segment, _: (i == 0) | tf.reduce_any(segment < chunk.last),
        body,
        (0, chunk.first, tf.TensorArray(tf.int32, 1, dynamic_size=True)),
    )
    made = tf.reshape(tf.transpose(made.stack(), [1, 0, 2]), [-1, columns])
    made = tf.boolean_mask(made, made[:, -1] > 0)
    return Ranges(*tf.unstack(made[:, :-1], axis=1))


def truncate(ranges, size, seed):
    """Shortens pairs to `size` tokens: one by one from the longer sequence, from B if both are
    equally long, at its front or its back with probability 0.5.

    The lengths decide how many tokens each loses; the number at the front is binomial.
    """
    a, b = ranges.a_end - ranges.a_begin, ranges.b_end - ranges.b_begin
    surplus = tf.maximum(a + b - size, 0)
    level = tf.minimum(surplus, tf.abs(a - b))  # until both are equally long
    rest = surplus - level
    cut_a = tf.where(a > b, level, 0) + rest // 2
    cut_b = tf.where(a > b, 0, level) + (rest + 1) // 2
    front_a, front_b = (
        tf.random.stateless_binomial(
            tf.shape(cut), s, tf.cast(cut, tf.float32), 0.5, output_dtype=tf.int32
        )
        for cut, s in zip((cut_a, cut_b), tf.unstack(tf.random.split(seed, 2)))
    )
    return ranges._replace(
        a_begin=ranges.a_begin + front_a,
        a_end=ranges.a_end - (cut_a - front_a),
        b_begin=ranges.b_begin + front_b,
        b_end=ranges.b_end - (cut_b - front_b),
    )


def pack(tokens, ranges, length, *, start_id, end_id, pad_id):
    """`[CLS] A [SEP] B [SEP]`, or `[CLS] A [SEP]` where B is empty, and padding.

    Returns:
        int32 `[N, length]` token ids, segment ids, and a mask that is 1 for all but padding; bool
        `[N, length]`, True at tokens of A and B.
    """
    column = tf.range(length)
    a, b = (
        (end - begin)[:, None]
        for begin, end in ((ranges.a_begin, ranges.a_end), (ranges.b_begin, ranges.b_end))
    )
    total = tf.where(b > 0, a + b + 3, a + 2)
    in_a = (column >= 1) & (column <= a)
    in_b = (column >= a + 2) & (column < a + b + 2)
    source = tf.where(
        in_b, ranges.b_begin[:, None] + column - a - 2, ranges.a_begin[:, None] + column - 1
    )
    is_text = in_a | in_b
    ids = tf.gather(tokens, tf.where(is_text, source, 0))
    ids = tf.where(is_text, ids, tf.where(column == 0, start_id, end_id))
    inside = column < total
    segments = tf.cast(inside & (column >= a + 2), tf.int32)
    return tf.where(inside, ids, pad_id), segments, tf.cast(inside, tf.int32), is_text
