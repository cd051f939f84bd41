"""Text to ids and back, inside TensorFlow graphs: tokenizers, vocabularies, `tf.data` pipelines.

Independent of the models. Loaded at its first use, because it needs tensorflow-text.
"""

from keras_xfmr.text.characters import sentence_markers, words_to_characters
from keras_xfmr.text.checks import check_ids
from keras_xfmr.text.data.accumulation import accumulate
from keras_xfmr.text.data.bidirectional import BidirectionalLanguageModelDataset
from keras_xfmr.text.data.documents import Documents
from keras_xfmr.text.data.language_model import LanguageModelDataset
from keras_xfmr.text.data.masking import mask_tokens
from keras_xfmr.text.data.packing import pack_documents
from keras_xfmr.text.data.pairs import PairDataset
from keras_xfmr.text.data.pretraining import PretrainingDataset
from keras_xfmr.text.packers.next_tokens import next_token_labels
from keras_xfmr.text.packers.questions import QuestionPacker
from keras_xfmr.text.packers.sentences import SentencePacker, spread_word_labels
from keras_xfmr.text.packers.words import WordPacker
from keras_xfmr.text.published.tokenizer import load_pretrained_tokenizer
from keras_xfmr.text.tokenizers.base import (
    ByteTokenizer,
    CharacterTokenizer,
    Tokenizer,
    WordPieceTokenizer,
    load_tokenizer,
)
from keras_xfmr.text.tokenizers.bert import BertTokenizer
from keras_xfmr.text.tokenizers.byte_pair import BytePairTokenizer
from keras_xfmr.text.tokenizers.character_byte_pair import CharacterBytePairTokenizer
from keras_xfmr.text.tokenizers.learning import (
    learn_bert_sentence_piece,
    learn_bert_word_piece,
    learn_byte_pair,
    learn_characters,
    learn_sentence_piece,
    learn_word_piece,
    learn_words,
)
from keras_xfmr.text.tokenizers.sentence_piece import SentencePieceTokenizer
from keras_xfmr.text.tokenizers.words import WordTokenizer

__all__ = [
    "BertTokenizer",
    "BidirectionalLanguageModelDataset",
    "BytePairTokenizer",
    "ByteTokenizer",
    "CharacterBytePairTokenizer",
    "CharacterTokenizer",
    "Documents",
    "LanguageModelDataset",
    "PairDataset",
    "PretrainingDataset",
    "QuestionPacker",
    "SentencePacker",
    "SentencePieceTokenizer",
    "Tokenizer",
    "WordPacker",
    "WordPieceTokenizer",
    "WordTokenizer",
    "accumulate",
    "check_ids",
    "learn_bert_sentence_piece",
    "learn_bert_word_piece",
    "learn_byte_pair",
    "learn_characters",
    "learn_sentence_piece",
    "learn_word_piece",
    "learn_words",
    "load_pretrained_tokenizer",
    "load_tokenizer",
    "mask_tokens",
    "next_token_labels",
    "pack_documents",
    "sentence_markers",
    "spread_word_labels",
    "words_to_characters",
]
