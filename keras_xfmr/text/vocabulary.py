"""Vocabularies learned from text, by the trainers of keras-nlp and SentencePiece.

Every vocabulary begins with padding, unknown, start and end, in this order: ids 0, 1, 2, 3. Those
for BERT go on with the mask token, id 4. They are learned from the first `SAMPLE_LINES` of a text.
"""

import collections
import functools
import io
import os
import re

import tensorflow as tf

from keras_xfmr.text.bert_tokenizer import BERT_TOKENS, BertTokenizer, bert_special_ids
from keras_xfmr.text.checks import check_integer
from keras_xfmr.text.sentence_piece import SentencePieceTokenizer
from keras_xfmr.text.streaming import check_line_ends
from keras_xfmr.text.tokenizers import SPECIAL_TOKENS, CharacterTokenizer, WordPieceTokenizer

# Enough to learn a vocabulary from; the rest of a large corpus would only take memory.
SAMPLE_LINES = 1_000_000


def _lines(texts):
    """A data set of strings from file names, or from a data set of strings as it is.

    Raises:
        ValueError: there is no text in it, or a file has lines ended by `\\r`.
    """
    lines = _unchecked_lines(texts)
    if not any(line.strip() for line in lines.as_numpy_iterator()):
        raise _no_text(texts)
    return lines


def _no_text(texts):
    what = "the data set" if isinstance(texts, tf.data.Dataset) else f"{texts!r}"
    return ValueError(f"Expected text to learn a vocabulary from. Received: none, in {what}.")


def _unchecked_lines(texts):
    if isinstance(texts, tf.data.Dataset):
        return texts.take(SAMPLE_LINES)
    one = isinstance(texts, (str, os.PathLike))
    names = [os.fspath(name) for name in ([texts] if one else texts)]
    for name in names:
        if not tf.io.gfile.exists(name):
            raise FileNotFoundError(f"No text file at {name!r} to learn a vocabulary from.")
        check_line_ends(name)
    lines = tf.data.TextLineDataset(names).take(SAMPLE_LINES)
    return lines.map(lambda line: tf.strings.regex_replace(line, "^\ufeff", ""))


def learn_sentence_piece(texts, vocab_size, *, model_type="unigram", lowercase=False):
    """A `SentencePieceTokenizer` learned from text (Kudo and Richardson 2018).

    Args:
        texts: names of text files, or a `tf.data.Dataset` of strings.
        vocab_size: size of the vocabulary. When the text is too small for it, the largest size
            that it allows is taken instead.
        model_type: `"unigram"`, `"bpe"`, `"word"` or `"char"`.
        lowercase: whether to fold case.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no text, a file with lines ended by `\\r`, a size that is none.

    Example::

        tokenizer = learn_sentence_piece(["corpus.txt"], vocab_size=8000)
    """
    import keras_nlp

    check_integer("vocab_size", vocab_size, 1)
    lines = _lines(texts)

    def train(size):
        return keras_nlp.tokenizers.compute_sentence_piece_proto(
            lines, size, model_type=model_type, lowercase=lowercase
        )

    return SentencePieceTokenizer(_largest_model(train, vocab_size, texts))


def learn_bert_sentence_piece(texts, vocab_size, *, model_type="unigram", lowercase=False):
    """A `SentencePieceTokenizer` learned from text for BERT, as KoBERT has one.

    The special tokens have BERT's names, `[PAD] [UNK] [CLS] [SEP] [MASK]`, ids 0 to 4.

    Args:
        texts, vocab_size, model_type, lowercase: as `learn_sentence_piece` has them.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no text, a file with lines ended by `\\r`, a size that is none.

    Example::

        tokenizer = learn_bert_sentence_piece(["corpus.txt"], vocab_size=8000)
    """
    import sentencepiece

    pad, unknown, start, end, mask = BERT_TOKENS.values()
    names = {"pad_piece": pad, "unk_piece": unknown, "bos_piece": start, "eos_piece": end}
    check_integer("vocab_size", vocab_size, 1)
    lines = _lines(texts)

    def train(size):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines.as_numpy_iterator(),
            model_writer=model,
            vocab_size=size,
            model_type=model_type,
            normalization_rule_name="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
            **{"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3, "control_symbols": [mask]},
            **names,
        )
        return model.getvalue()

    proto = _largest_model(train, vocab_size, texts)
    return SentencePieceTokenizer(proto, **bert_special_ids(BERT_TOKENS.values()))


def _largest_model(train, vocab_size, texts):
    """The SentencePiece model of `vocab_size` pieces, or of as many as the text allows."""
    import sentencepiece

    if hasattr(sentencepiece, "set_min_log_level"):
        sentencepiece.set_min_log_level(1)  # the trainer prints hundreds of lines of its progress
    try:
        return train(vocab_size)
    except RuntimeError as error:
        if "all_chars_count" in str(error):  # text, but nothing visible in it
            raise _no_text(texts) from error
        # "Vocabulary size too high (8000). Please set it to a value <= 3121."
        largest = str(error).rpartition("<=")[2].strip(" .\n")
        # "Vocabulary size is smaller than required_chars. 20 vs 44. Increase vocab_size or ..."
        needed = re.search(r"required_chars\D*\d+ vs (\d+)", str(error))
        if needed:
            raise ValueError(
                f"`vocab_size` must be at least {needed[1]} for the characters of this text. "
                f"Received: {vocab_size}."
            ) from error
        if not largest.isdigit():
            raise
        return train(int(largest))


def learn_word_piece(texts, vocab_size, *, lowercase=False):
    """A `WordPieceTokenizer` learned from text (Schuster and Nakajima 2012).

    Args:
        texts: names of text files, or a `tf.data.Dataset` of strings.
        vocab_size: the size to aim at; the trainer may stop a little away from it.
        lowercase: whether to fold case and strip accents, in the tokenizer too.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no text, a file with lines ended by `\\r`, a size that is none.

    Example::

        tokenizer = learn_word_piece(["corpus.txt"], vocab_size=8000)
    """
    vocabulary = _pieces(texts, vocab_size, SPECIAL_TOKENS, WordPieceTokenizer, lowercase=lowercase)
    return WordPieceTokenizer(vocabulary, lowercase=lowercase)


def learn_bert_word_piece(texts, vocab_size, **config):
    """A `BertTokenizer` learned from text; `[PAD] [UNK] [CLS] [SEP] [MASK]` have the ids 0 to 4.

    The trainer of keras-nlp looks at every part of every word. Languages of long words with many
    endings take it far longer than English, Korean most of all when accents are stripped, for then
    syllables fall into letters: minutes for a few thousand sentences. There
    `learn_bert_sentence_piece` is the better choice.

    Args:
        texts: names of text files, or a `tf.data.Dataset` of strings.
        vocab_size: the size to aim at; the trainer may stop a little away from it.
        **config: arguments of `BertTokenizer`: `lowercase`, `strip_accents`, `split_cjk`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no text, a file with lines ended by `\\r`, a size that is none.

    Example::

        tokenizer = learn_bert_word_piece(["corpus.txt"], vocab_size=8000, lowercase=False)
    """
    # Its defaults, and its errors before hours of work.
    config = BertTokenizer(BERT_TOKENS.values(), **config).get_config()
    vocabulary = _pieces(texts, vocab_size, BERT_TOKENS.values(), BertTokenizer, **config)
    return BertTokenizer(vocabulary, **config)


def _pieces(texts, vocab_size, special_tokens, tokenizer_class, **config):
    """Word pieces of the words that a tokenizer of this class will see.

    The trainer's own words are normalized in another order, and take Hangul that is later
    decomposed for whole syllables.
    """
    import keras_nlp

    check_integer("vocab_size", vocab_size, 1)
    split = functools.partial(tokenizer_class.split, **config)
    try:
        return keras_nlp.tokenizers.compute_word_piece_vocabulary(
            _lines(texts).batch(4096).map(split),
            vocab_size,
            split=False,
            reserved_tokens=list(special_tokens),
        )
    except StopIteration as error:  # text, but no word in it
        raise _no_text(texts) from error


def learn_characters(texts, *, min_count=1):
    """A `CharacterTokenizer` of all characters that stand at least `min_count` times in the text.

    Args:
        texts: names of text files, or a `tf.data.Dataset` of strings.
        min_count: rarer characters become the unknown token.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no text, a file with lines ended by `\\r`, or no character that stands so often.

    Example::

        tokenizer = learn_characters(["corpus.txt"])
    """
    counts = collections.Counter()
    for batch in _lines(texts).batch(4096).as_numpy_iterator():
        counts.update(b"\n".join(batch).decode("utf8", errors="ignore"))
    counts.pop("\n", None)
    kept = [character for character, count in counts.items() if count >= min_count]
    if not kept:
        raise ValueError(
            f"Expected a character that stands at least {min_count} times among the "
            f"{len(counts)} of the text; lower it. Received: min_count={min_count}."
        )
    return CharacterTokenizer([*SPECIAL_TOKENS, *sorted(kept)])
