"""Trains SentencePiece models with the `sentencepiece` package."""

import io
import itertools
import re
import unicodedata

from keras_xfmr.common.checks import check_choice, check_int
from keras_xfmr.text.tokenizers.sentence_piece_model import WORD_BEGIN

LONGEST = 4192  # bytes of a line; SentencePiece's trainer leaves out longer lines
MODEL_TYPES = ("unigram", "bpe", "word", "char")
BYTE_PIECES = 256  # pieces of `byte_fallback`
BYTES_FROM = 1000  # size of a vocabulary from which on `byte_fallback` is the default
INVISIBLE = ("Cc", "Cf", "Zs", "Zl", "Zp")  # categories of control characters and blanks
UNKNOWN_SIGN = "\u2585"  # the trainer leaves out lines with this sign of its own


def largest_model(lines, vocab_size, model_type, lowercase, byte_fallback, **names):
    """The SentencePiece model of `vocab_size` pieces, or of as many as the text allows.

    Args:
        lines: returns a `Sample`.
        vocab_size, model_type, lowercase, byte_fallback: as in `learn_sentence_piece`.
        **names: names of the special tokens, as arguments of SentencePiece's trainer.
    """
    import sentencepiece

    check_choice("byte_fallback", byte_fallback, (None, True, False))
    least = 5 + (BYTE_PIECES if byte_fallback else 0)  # four special tokens, and BERT's [MASK]
    check_int("vocab_size", vocab_size, least)
    check_choice("model_type", model_type, MODEL_TYPES)
    if byte_fallback and model_type == "word":
        raise ValueError(
            "A 'word' model cannot join bytes to characters: use another `model_type`. "
            f"Received: byte_fallback={byte_fallback}, model_type='word'."
        )
    if hasattr(sentencepiece, "set_min_log_level"):
        sentencepiece.set_min_log_level(1)  # the trainer prints hundreds of lines of its progress
    sample = lines()
    # On text without a visible character, a trainer before 0.2.2 ends the process.
    if not any(map(_is_visible, itertools.chain.from_iterable(sample()))):
        raise sample.nothing()
    settings = {
        "model_type": model_type,
        "normalization_rule_name": "nmt_nfkc_cf" if lowercase else "nmt_nfkc",
        "byte_fallback": bool(byte_fallback),
        **names,
    }
    if byte_fallback is None and model_type in ("unigram", "bpe") and vocab_size >= BYTES_FROM:
        try:
            return _trained(sample, vocab_size, {**settings, "byte_fallback": True})
        except NoRoom:
            pass
    try:
        return _trained(sample, vocab_size, settings)
    except NoRoom as error:
        way_out = ", or pass `byte_fallback=False`" if byte_fallback else ""
        raise ValueError(
            f"`vocab_size` must be at least {error} for the characters of this text{way_out}. "
            f"Received: {vocab_size}."
        ) from error


class NoRoom(Exception):
    """A vocabulary is smaller than the number of required pieces, which is the message."""


def _trained(sample, vocab_size, settings):
    """The bytes of a model of `vocab_size` pieces, or of as many as the text allows.

    Args:
        sample: a `Sample`.
        vocab_size: the largest size.
        settings: of SentencePiece's trainer.

    Raises:
        NoRoom: the size is too small.
    """
    import sentencepiece

    def train(size):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=parts(itertools.chain.from_iterable(sample())),
            model_writer=model,
            vocab_size=size,
            max_sentence_length=LONGEST,
            **{"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3},
            **settings,
        )
        return model.getvalue()

    try:
        return train(vocab_size)
    except RuntimeError as error:
        # "Vocabulary size too high (8000). Please set it to a value <= 3121."
        largest = str(error).rpartition("<=")[2].strip(" .\n")
        # "Vocabulary size is smaller than required_chars. 20 vs 44. Increase vocab_size or ..."
        needed = re.search(r"required_chars\D*\d+ vs (\d+)", str(error))
        if needed:
            raise NoRoom(needed[1]) from error
        if not largest.isdigit():
            raise
        return train(int(largest))


def _is_visible(line):
    """Whether a trainer finds a character in a UTF-8 line; it leaves out lines with its signs."""
    line = line.decode("utf8")
    seen = (character for character in line if character != WORD_BEGIN)
    return UNKNOWN_SIGN not in line and any(
        unicodedata.category(character) not in INVISIBLE for character in seen
    )


def parts(lines):
    """Lines of at most `LONGEST` bytes: longer ones are split at a blank, or between characters."""
    for line in lines:
        start = 0
        while len(line) - start > LONGEST:
            end = line.rfind(b" ", start + 1, start + LONGEST + 1)
            if end < 0:
                end = start + LONGEST
                while line[end] & 0xC0 == 0x80:  # inside a character
                    end -= 1
            yield line[start:end]
            start = end
        yield line[start:]
