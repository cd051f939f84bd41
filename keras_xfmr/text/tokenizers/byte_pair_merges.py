"""The merges of byte-pair encoding (Sennrich et al. 2016) over many words at once, in graph.

S bytes of all words, A symbols that may still be merged, M merges, V vocabulary
"""

import numpy as np
import tensorflow as tf


class Merges:
    """Merges pairs of symbols, in each word the pair of lowest rank first, from left to right.

    There is no cache of words: memory is a few numbers for each byte of the words, and the pairs
    are looked up in a sorted array. One step merges the best pair of every word at all its places,
    so the number of steps is the number of different merges of a word. If a merge of lower rank
    uses the product (rare in files), a step merges only the leftmost pair.

    Args:
        pairs: `[M, 2]` ids of the left and the right symbol, in the order of their ranks.
        products: `[M]` ids of the merged symbols.
        vocab_size: V.
    """

    def __init__(self, pairs, products, vocab_size):
        pairs = np.asarray(pairs, np.int64).reshape([-1, 2])
        products = np.asarray(products, np.int32)
        self._never, self._size = len(products), vocab_size  # `_never` is above all ranks
        keys = pairs[:, 0] * vocab_size + pairs[:, 1]
        order = np.argsort(keys)
        first_use = np.full(vocab_size, self._never)
        for side in (0, 1):
            np.minimum.at(first_use, pairs[:, side], np.arange(self._never))
        alone = first_use[products] < np.arange(self._never)
        with tf.device("CPU"):  # strings are on the CPU
            # The last entry is for pairs that are never merged.
            self._keys = tf.constant(np.append(keys[order], np.iinfo(np.int64).max))
            self._ranks = tf.constant(np.append(order, self._never).astype(np.int32))
            self._products = tf.constant(np.append(products, 0), tf.int32)
            self._alone = tf.constant(np.append(alone, False)) if alone.any() else None

    def __call__(self, symbols, begins, words):
        """The ids of words, and the positions of their first bytes.

        Args:
            symbols, begins, words: int32 `[A]`: the bytes of the words as ids, the index of each
                byte (rising, below S), and the index of its word (rising).

        Returns:
            int32 `[n]`: ids and, for each of them, the `begins` of its first byte.
        """
        ranks = self._rank(symbols[:-1], symbols[1:], tf.equal(words[:-1], words[1:]))
        ranks = tf.concat([ranks, tf.fill([tf.minimum(tf.size(symbols), 1)], self._never)], axis=0)
        size = tf.reduce_max(tf.concat([begins + 1, [0]], axis=0))
        state = (symbols, begins, words, ranks, tf.fill([size], -1))
        shapes = (tf.TensorShape([None]),) * 5
        *_, ids = tf.while_loop(
            lambda symbols, *_: tf.size(symbols) > 0,
            self._step,
            state,
            shapes,
            parallel_iterations=1,
        )
        found = tf.where(ids >= 0)[:, 0]
        return tf.gather(ids, found), tf.cast(found, tf.int32)

    def _step(self, symbols, begins, words, ranks, ids):
        """Merges in each word the pair of lowest rank; words without one go into `ids`."""
        best = tf.gather(tf.math.segment_min(ranks, words), words)
        done = tf.equal(best, self._never)
        finished = tf.where(done)
        ids = tf.tensor_scatter_nd_update(
            ids, tf.gather(begins, finished), tf.gather_nd(symbols, finished)
        )
        merged = self._without_overlaps(tf.equal(ranks, best) & ~done, ranks, words)
        symbols = tf.where(merged, tf.gather(self._products, ranks), symbols)
        taken = tf.concat([tf.zeros_like(merged[:1]), merged[:-1]], axis=0)  # into the one before
        kept = tf.where(~taken & ~done)[:, 0]
        symbols, begins, words, ranks, merged = (
            tf.gather(values, kept) for values in (symbols, begins, words, ranks, merged)
        )
        # The pairs of a new symbol, with the one after it and the one before it.
        changed = tf.where(merged | tf.concat([merged[1:], merged[:1] & False], axis=0))[:, 0]
        behind = tf.minimum(changed + 1, tf.size(symbols, tf.int64) - 1)
        same = tf.equal(tf.gather(words, changed), tf.gather(words, behind)) & (behind > changed)
        new = self._rank(tf.gather(symbols, changed), tf.gather(symbols, behind), same)
        ranks = tf.tensor_scatter_nd_update(ranks, changed[:, None], new)
        return symbols, begins, words, ranks, ids

    def _rank(self, left, right, same_word):
        keys = tf.cast(left, tf.int64) * self._size + tf.cast(right, tf.int64)
        place = tf.searchsorted(self._keys, keys)
        found = same_word & tf.equal(tf.gather(self._keys, place), keys)
        return tf.where(found, tf.gather(self._ranks, place), self._never)

    def _without_overlaps(self, chosen, ranks, words):
        """Keeps every second one of overlapping pairs, as in `aaa`; bool `[A]`."""
        place = tf.range(tf.size(chosen))
        first = chosen & ~tf.concat([tf.zeros_like(chosen[:1]), chosen[:-1]], axis=0)
        starts = tf.concat([[0], tf.cast(tf.where(first)[:, 0], tf.int32)], axis=0)
        run = tf.cumsum(tf.cast(first, tf.int32))
        chosen &= tf.equal((place - tf.gather(starts, run)) % 2, 0)
        if self._alone is None:
            return chosen
        leftmost = tf.math.segment_min(tf.where(chosen, place, tf.size(place)), words)
        leftmost = tf.equal(place, tf.gather(leftmost, words))
        return chosen & (leftmost | ~tf.gather(self._alone, ranks))
