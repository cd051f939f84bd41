"""Models: functional graphs of the library's layers that read top-down."""

from keras_xfmr.models.bert import Bert
from keras_xfmr.models.bert_heads import (
    BertClassifier,
    BertEmbedder,
    BertPretrainer,
    BertSpanPredictor,
    BertTokenClassifier,
    best_spans,
)
from keras_xfmr.models.transformer import Transformer

__all__ = [
    "Bert",
    "BertClassifier",
    "BertEmbedder",
    "BertPretrainer",
    "BertSpanPredictor",
    "BertTokenClassifier",
    "Transformer",
    "best_spans",
]
