"""Text to ids and back, inside TensorFlow graphs: tokenizers, vocabularies, `tf.data` pipelines.

Knows no model. Loaded when it is first used, because it needs tensorflow-text.
"""

from keras_xfmr.text.bert_tokenizer import BertTokenizer
from keras_xfmr.text.checks import check_ids
from keras_xfmr.text.documents import Documents
from keras_xfmr.text.masking import mask_tokens
from keras_xfmr.text.packing import SentencePacker, spread_word_labels
from keras_xfmr.text.pairs import PairDataset
from keras_xfmr.text.pretrained_tokenizer import load_pretrained_tokenizer
from keras_xfmr.text.pretraining import PretrainingDataset
from keras_xfmr.text.questions import QuestionPacker
from keras_xfmr.text.sentence_piece import SentencePieceTokenizer
from keras_xfmr.text.tokenizers import (
    ByteTokenizer,
    CharacterTokenizer,
    Tokenizer,
    WordPieceTokenizer,
    load_tokenizer,
)
from keras_xfmr.text.vocabulary import (
    learn_bert_sentence_piece,
    learn_bert_word_piece,
    learn_characters,
    learn_sentence_piece,
    learn_word_piece,
)

__all__ = [
    "BertTokenizer",
    "ByteTokenizer",
    "CharacterTokenizer",
    "Documents",
    "PairDataset",
    "PretrainingDataset",
    "QuestionPacker",
    "SentencePacker",
    "SentencePieceTokenizer",
    "Tokenizer",
    "WordPieceTokenizer",
    "check_ids",
    "learn_bert_sentence_piece",
    "learn_bert_word_piece",
    "learn_characters",
    "learn_sentence_piece",
    "learn_word_piece",
    "load_pretrained_tokenizer",
    "load_tokenizer",
    "mask_tokens",
    "spread_word_labels",
]
