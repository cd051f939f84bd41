"""The layers that models are composed of: the functions of `functional` with state."""

from keras_xfmr.layers.add_norm import AddNorm
from keras_xfmr.layers.attention import MultiHeadAttention
from keras_xfmr.layers.blocks import DecoderBlock, EncoderBlock
from keras_xfmr.layers.characters import CharacterCNN, Highway
from keras_xfmr.layers.dropout import Dropout
from keras_xfmr.layers.embedding import TokenEmbedding
from keras_xfmr.layers.feed_forward import PositionWiseFFN
from keras_xfmr.layers.heads import MaskedLMTransform, VocabularyBias
from keras_xfmr.layers.normalization import LayerNorm, RMSNorm
from keras_xfmr.layers.position import PositionalEncoding, PositionEmbedding, RotaryEmbedding
from keras_xfmr.layers.recurrent import ProjectedLSTM, ProjectedLSTMCell
from keras_xfmr.layers.scalar_mix import ScalarMix

__all__ = [
    "AddNorm",
    "CharacterCNN",
    "DecoderBlock",
    "Dropout",
    "EncoderBlock",
    "Highway",
    "LayerNorm",
    "MaskedLMTransform",
    "MultiHeadAttention",
    "PositionEmbedding",
    "PositionWiseFFN",
    "PositionalEncoding",
    "ProjectedLSTM",
    "ProjectedLSTMCell",
    "RMSNorm",
    "RotaryEmbedding",
    "ScalarMix",
    "TokenEmbedding",
    "VocabularyBias",
]
