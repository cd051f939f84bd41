"""Vocabularies learned from text, by keras-nlp's trainers.

Every vocabulary begins with padding, unknown, start and end, in this order: ids 0, 1, 2, 3.
"""

import collections

import tensorflow as tf

from keras_xfmr.text.tokenizers import (
    SPECIAL_TOKENS,
    CharacterTokenizer,
    SentencePieceTokenizer,
    WordPieceTokenizer,
    split_words,
)

# Enough to learn a vocabulary from; the rest of a large corpus would only take memory.
SAMPLE_LINES = 1_000_000


def _lines(texts):
    """A data set of strings from file names, or from a data set of strings as it is."""
    if isinstance(texts, tf.data.Dataset):
        return texts.take(SAMPLE_LINES)
    names = [texts] if isinstance(texts, str) else [str(name) for name in texts]
    for name in names:
        if not tf.io.gfile.exists(name):
            raise FileNotFoundError(f"No text file at {name!r} to learn a vocabulary from.")
    return tf.data.TextLineDataset(names).take(SAMPLE_LINES)


def learn_sentence_piece(texts, vocab_size, *, model_type="unigram", lowercase=False):
    """A `SentencePieceTokenizer` learned from text (Kudo and Richardson 2018).

    Args:
        texts: names of text files, or a `tf.data.Dataset` of strings.
        vocab_size: size of the vocabulary. When the text is too small for it, the largest size
            that it allows is taken instead.
        model_type: `"unigram"`, `"bpe"`, `"word"` or `"char"`.
        lowercase: whether to fold case.

    Example::

        tokenizer = learn_sentence_piece(["corpus.txt"], vocab_size=8000)
    """
    import keras_nlp
    import sentencepiece

    if hasattr(sentencepiece, "set_min_log_level"):
        sentencepiece.set_min_log_level(1)  # the trainer prints hundreds of lines of its progress
    lines = _lines(texts)

    def learn(size):
        return keras_nlp.tokenizers.compute_sentence_piece_proto(
            lines, size, model_type=model_type, lowercase=lowercase
        )

    try:
        proto = learn(vocab_size)
    except RuntimeError as error:
        # "Vocabulary size too high (8000). Please set it to a value <= 3121."
        largest = str(error).rpartition("<=")[2].strip(" .\n")
        if not largest.isdigit():
            raise
        proto = learn(int(largest))
    return SentencePieceTokenizer(proto)


def learn_word_piece(texts, vocab_size, *, lowercase=False):
    """A `WordPieceTokenizer` learned from text (Schuster and Nakajima 2012).

    Args:
        texts: names of text files, or a `tf.data.Dataset` of strings.
        vocab_size: the size to aim at; the trainer may stop a little away from it.
        lowercase: whether to fold case and strip accents, in the tokenizer too.

    Example::

        tokenizer = learn_word_piece(["corpus.txt"], vocab_size=8000)
    """
    import keras_nlp

    # The tokenizer's own words: the trainer's normalize in another order, and take Hangul that is
    # later decomposed for whole syllables.
    words = _lines(texts).batch(4096).map(lambda lines: split_words(lines, lowercase))
    vocabulary = keras_nlp.tokenizers.compute_word_piece_vocabulary(
        words, vocab_size, split=False, reserved_tokens=list(SPECIAL_TOKENS)
    )
    return WordPieceTokenizer(vocabulary, lowercase=lowercase)


def learn_characters(texts, *, min_count=1):
    """A `CharacterTokenizer` of all characters that stand at least `min_count` times in the text.

    Args:
        texts: names of text files, or a `tf.data.Dataset` of strings.
        min_count: rarer characters become the unknown token.

    Example::

        tokenizer = learn_characters(["corpus.txt"])
    """
    counts = collections.Counter()
    for batch in _lines(texts).batch(4096).as_numpy_iterator():
        counts.update(b"\n".join(batch).decode("utf8", errors="ignore"))
    counts.pop("\n", None)
    kept = [character for character, count in counts.items() if count >= min_count]
    return CharacterTokenizer([*SPECIAL_TOKENS, *sorted(kept)])
