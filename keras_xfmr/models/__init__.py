"""Models: functional graphs of the library's layers that read top-down."""

from keras_xfmr.models.transformer import Transformer

__all__ = ["Transformer"]
