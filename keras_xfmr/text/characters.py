"""Words to the bytes of their characters, as ELMo reads them (Peters et al. 2018).

B batch, T words, C characters of a word
"""

import numpy as np
import tensorflow as tf

from keras_xfmr.common.checks import check_int
from keras_xfmr.common.types import Texts
from keras_xfmr.text.checks import check_strings
from keras_xfmr.text.ragged import sizes_of_words

# A byte b has the id b + 1, for 0 is padding.
SENTENCE_START, SENTENCE_END, WORD_START, WORD_END, FILLING = range(257, 262)
LEAST = 3  # characters: a word's start and end, and a byte


@tf.autograph.experimental.do_not_convert
def words_to_characters(words: Texts, *, max_characters: int = 50) -> tf.Tensor:
    """Character ids of words, in the layout of bilm-tf and allennlp, for `models.Elmo`.

        ann       259 98 111 111 260 261 261 ...
        padding     0  0   0   0   0   0   0 ...

    A byte b of UTF-8 is b + 1, 259 is a word's start, 260 its end, and 261 fills the rest. A word
    of more than C - 2 bytes is cut there, even inside a character, as in the original. Bytes that
    are not UTF-8 are kept. A word such as `<S>` is an ordinary word, not a sentence marker (see
    `sentence_markers`).

    Args:
        words: strings, ragged `[B, (T)]`, or dense `[B, T]` with empty strings as padding at the
            ends of rows. Any other empty string is a word of no bytes.
        max_characters: C, at least 3.

    Returns:
        int32 `[B, T, C]`; zeros behind the last word of a row.

    Raises:
        ValueError: `words` are not strings of rank 2, or `max_characters` is too small.

    Example:

    >>> words = tf.ragged.constant([["né", "a"], ["b"]])
    >>> words_to_characters(words, max_characters=5).numpy().tolist()
    [[[259, 111, 196, 170, 260], [259, 98, 260, 261, 261]],
     [[259, 99, 260, 261, 261], [0, 0, 0, 0, 0]]]
    """
    check_int("max_characters", max_characters, LEAST)
    words = check_strings(words, "words", rank=2)
    if isinstance(words, tf.RaggedTensor):
        counts, words = words.row_lengths(), words.to_tensor("")
    else:
        counts = sizes_of_words(words)
    room = max_characters - 2
    values = tf.io.decode_raw(words, tf.uint8, fixed_length=room)  # [B, T, C - 2], zeros behind
    values = tf.pad(tf.cast(values, tf.int32) + 1, [[0, 0], [0, 0], [1, 1]])
    end = tf.minimum(tf.strings.length(words), room)[:, :, None] + 1
    place = tf.range(max_characters)
    frame = tf.where(place < end, WORD_START, tf.where(tf.equal(place, end), WORD_END, FILLING))
    ids = tf.where((place > 0) & (place < end), values, frame)
    is_word = tf.sequence_mask(counts, tf.shape(words)[1])
    return tf.where(is_word[:, :, None], ids, 0)


def sentence_markers(max_characters: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Character ids of the markers of a sentence's start and end, for `models.Elmo`.

        start    259 257 260 261 261 ...
        end      259 258 260 261 261 ...

    Args:
        max_characters: C, at least 3.

    Returns:
        Two NumPy arrays int32 `[C]`.

    Raises:
        ValueError: `max_characters` is too small.

    Example:

    >>> [marker.tolist() for marker in sentence_markers(5)]
    [[259, 257, 260, 261, 261], [259, 258, 260, 261, 261]]
    """
    check_int("max_characters", max_characters, LEAST)
    start, end = np.full([2, max_characters], FILLING, np.int32)
    start[:3] = WORD_START, SENTENCE_START, WORD_END
    end[:3] = WORD_START, SENTENCE_END, WORD_END
    return start, end
