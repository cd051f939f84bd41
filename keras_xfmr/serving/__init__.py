"""Exports models as SavedModels that take text and return text.

Loaded at first use, because it needs tensorflow-text.
"""

from keras_xfmr.serving.encoders import export_encoder
from keras_xfmr.serving.export import export_saved_model
from keras_xfmr.serving.language_model import export_language_model

__all__ = ["export_encoder", "export_language_model", "export_saved_model"]
