"""Finds tokens in a text; a tokenizer then splits the text between them.

B batch, P pieces of texts between such tokens, T length
"""

import re

import tensorflow as tf

from keras_xfmr.text.ragged import join, merge, owners

MARK = "\1\2"  # unique, because each \1 of the text gets a \3 after it


class FoundTokens:
    """Finds tokens in texts exactly, the leftmost first, and at one place the longest.

    Args:
        tokens: strings.
        ids: token -> id.
        banned: ids of special tokens, which text must not become.

    Raises:
        ValueError: a token is not in `ids`, is banned, or has a character below a blank.
    """

    def __init__(self, tokens, ids, banned=()):
        for token in tokens:
            if not isinstance(token, str) or not token or min(token) < " ":
                raise ValueError(
                    "Expected `added_tokens` to be texts without line breaks and other control "
                    f"characters. Received: {token!r}."
                )
            if token not in ids or ids[token] in banned:
                raise ValueError(
                    "Expected `added_tokens` to be tokens of the vocabulary that are not special. "
                    f"Received: {token!r}."
                )
        # The longest first: an expression takes the first alternative that matches.
        self.tokens = tuple(sorted(set(tokens), key=lambda token: (-len(token), token)))
        self._pattern = f"({'|'.join(map(re.escape, self.tokens))})"
        with tf.device("CPU"):  # strings are on the CPU
            self._strings = tf.constant(self.tokens, tf.string)
            self._ids = tf.constant([*(ids[token] for token in self.tokens), -1], tf.int32)

    def cut(self, texts):
        """The texts split at the tokens, ragged `[B, (p)]`, and the id of each piece: int32 `[P]`,
        -1 for text."""
        if not self.tokens:
            pieces = tf.RaggedTensor.from_uniform_row_length(texts, 1)
            return pieces, tf.fill(tf.shape(texts), -1)
        marked = tf.strings.regex_replace(texts, r"\x01", "\1\3")
        marked = tf.strings.regex_replace(marked, self._pattern, MARK + r"\1" + MARK)
        pieces = tf.strings.split(marked, MARK)
        pieces = pieces.with_values(tf.strings.regex_replace(pieces.values, r"\x01\x03", "\1"))
        count = len(self.tokens)
        _, numbers = tf.unique(tf.concat([self._strings, pieces.values], axis=0))
        return pieces, tf.gather(self._ids, tf.minimum(numbers[count:], count))

    def tokenize(self, texts, tokenize):
        """Ids of texts `[B]`; the function `tokenize` returns ragged ids of the texts between."""
        if not self.tokens:
            return tokenize(texts)
        pieces, ids = self.cut(texts)
        own = _where_found(ids, ids)
        return merge(pieces, join(tokenize(tf.where(ids < 0, pieces.values, "")), own))

    def tokenize_with_offsets(self, texts, tokenize):
        """As `tokenize`, with a function that also returns the start and the end of each id, in
        bytes of its text."""
        if not self.tokens:
            return tokenize(texts)
        pieces, ids = self.cut(texts)
        sizes = tf.cast(tf.strings.length(pieces.values), tf.int64)
        begin = tf.cumsum(sizes, exclusive=True)
        begin -= tf.gather(tf.gather(begin, pieces.row_starts()), owners(pieces.row_lengths()))
        rows, *offsets = tokenize(tf.where(ids < 0, pieces.values, ""))
        before = tf.gather(begin, owners(rows.row_lengths()))
        places = (begin, begin + sizes)  # of the tokens that were found
        return (
            merge(pieces, join(rows, _where_found(ids, ids))),
            *(
                merge(pieces, join(rows.with_values(part.values + before), _where_found(ids, own)))
                for part, own in zip(offsets, places)
            ),
        )


def checked_tokens(tokens):
    """A list of the tokens to add.

    Raises:
        ValueError: not a list; a token occurs twice, or cannot be found in a text.
    """
    if isinstance(tokens, str) or not all(isinstance(token, str) for token in tokens):
        raise ValueError(f"Expected a list of tokens, such as ['<user>']. Received: {tokens!r}.")
    tokens = list(tokens)
    if len(set(tokens)) != len(tokens):
        raise ValueError(f"Expected each token once. Received: {tokens!r}.")
    for token in tokens:
        if not token or token != token.strip() or min(token) < " ":
            raise ValueError(
                "Expected tokens without blanks at their ends, line breaks and other control "
                f"characters. Received: {token!r}."
            )
    return tokens


def _where_found(ids, values):
    """Ragged `[P, (0 or 1)]`: the values of the pieces that are a token."""
    found = ids >= 0
    return tf.RaggedTensor.from_row_lengths(
        tf.boolean_mask(values, found), tf.cast(found, tf.int64), validate=False
    )
