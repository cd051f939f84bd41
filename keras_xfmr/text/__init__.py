"""Text to ids and back, inside TensorFlow graphs: tokenizers, vocabularies, `tf.data` pipelines.

Knows no model. Loaded when it is first used, because it needs tensorflow-text.
"""

from keras_xfmr.text.checks import check_ids
from keras_xfmr.text.pairs import PairDataset
from keras_xfmr.text.tokenizers import (
    ByteTokenizer,
    CharacterTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    WordPieceTokenizer,
    load_tokenizer,
)
from keras_xfmr.text.vocabulary import learn_characters, learn_sentence_piece, learn_word_piece

__all__ = [
    "ByteTokenizer",
    "CharacterTokenizer",
    "PairDataset",
    "SentencePieceTokenizer",
    "Tokenizer",
    "WordPieceTokenizer",
    "check_ids",
    "learn_characters",
    "learn_sentence_piece",
    "learn_word_piece",
    "load_tokenizer",
]
