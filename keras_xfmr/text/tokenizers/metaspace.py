"""Pieces of texts as characters with `▁` for blanks, and their positions in the texts.

B batch, P pieces of texts, C characters
"""

import tensorflow as tf
import tensorflow_text as tf_text

from keras_xfmr.text.ragged import join, owners, stretches

WORD_BEGIN = "▁"
SCHEMES = ("always", "first", "never")
FORMS = (None, "NFC", "NFKC")


def normalized(texts, form, with_offsets):
    """The texts in a Unicode normalization form, and the map for `find_source_offsets` or None."""
    if form is None:
        return texts, None
    if with_offsets:
        return tf_text.normalize_utf8_with_offsets_map(texts, form)
    return tf_text.normalize_utf8(texts, form), None


def prefixes(pieces, codes, scheme):
    """The `▁` to insert before the pieces of texts.

    Args:
        pieces: of the texts, ragged strings `[B, (p)]`.
        codes: their characters, ragged int32 `[P, (c)]`.
        scheme: `"always"`, `"first"` for the first piece of a text alone, or `"never"`.

    Returns:
        Ragged int32 `[P, (0 or 1)]`.
    """
    begin = ord(WORD_BEGIN)
    first = tf.gather(tf.concat([codes.values, [begin]], axis=0), codes.row_starts())
    needs = tf.not_equal(first, begin) & (codes.row_lengths() > 0) & (scheme != "never")
    if scheme == "first":
        needs &= tf.equal(tf.ragged.range(pieces.row_lengths()).values, 0)
    counts = tf.cast(needs, tf.int64)
    values = tf.fill([tf.reduce_sum(counts)], begin)
    return tf.RaggedTensor.from_row_lengths(values, counts, validate=False)


def byte_lengths(strings):
    return tf.cast(tf.strings.length(strings), tf.int64)


def places(pieces, added, bounds, prefix):
    """Start and end of the source of each character: int64 `[C]`, bytes of all pieces.

    Args:
        pieces: strings `[P]`.
        added: bool `[P]`; one character represents the whole of such a piece.
        bounds: ragged `[P, (c + 1)]`, the source bytes of a piece at which its characters begin,
            and its end.
        prefix: ragged `[P, (0 or 1)]`, characters inserted before these.
    """
    sizes = byte_lengths(pieces)
    begin = tf.cumsum(sizes, exclusive=True)
    piece = owners(bounds.row_lengths())
    whole = tf.gather(added, piece) & (bounds.values > 0)
    values = tf.where(whole, tf.gather(sizes, piece), bounds.values) + tf.gather(begin, piece)
    starts = stretches(values, bounds.row_starts(), bounds.row_lengths() - 1)
    ends = tf.gather(values, tf.where(tf.equal(piece[1:], piece[:-1]))[:, 0] + 1)
    # If one character became several, only the first of them has its bytes.
    real = ends > starts.values
    own = tf.gather(tf.where(real)[:, 0], tf.cumsum(tf.cast(real, tf.int32)) - 1)
    starts, ends = (starts.with_values(tf.gather(v, own)) for v in (starts.values, ends))
    none = prefix.with_values(tf.gather(begin, owners(prefix.row_lengths())))
    return join(none, starts).values, join(none, ends).values
