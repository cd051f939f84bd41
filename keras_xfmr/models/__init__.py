"""Models: functional graphs of the library's layers that read top-down."""

from keras_xfmr.models.bert import Bert
from keras_xfmr.models.bert_heads import (
    BertClassifier,
    BertEmbedder,
    BertPretrainer,
    BertSpanPredictor,
    BertTokenClassifier,
)
from keras_xfmr.models.core.encoder import Encoder
from keras_xfmr.models.core.inputs import Input, Inputs
from keras_xfmr.models.elmo import Elmo
from keras_xfmr.models.elmo_language_model import ElmoLanguageModel
from keras_xfmr.models.gpt import Gpt
from keras_xfmr.models.gpt_classifier import GptClassifier
from keras_xfmr.models.heads.classifier import Classifier, Tagger
from keras_xfmr.models.heads.embedder import Embedder
from keras_xfmr.models.heads.masked_lm import MaskedLanguageModel
from keras_xfmr.models.heads.spans import SpanPredictor, best_spans
from keras_xfmr.models.resizing import resize_token_embeddings
from keras_xfmr.models.transformer import Transformer

__all__ = [
    "Bert",
    "BertClassifier",
    "BertEmbedder",
    "BertPretrainer",
    "BertSpanPredictor",
    "BertTokenClassifier",
    "Classifier",
    "Embedder",
    "Elmo",
    "ElmoLanguageModel",
    "Encoder",
    "Gpt",
    "GptClassifier",
    "Input",
    "Inputs",
    "MaskedLanguageModel",
    "SpanPredictor",
    "Tagger",
    "Transformer",
    "best_spans",
    "resize_token_embeddings",
]
