"""Pictures: attention, learning curves, vectors, codes of positions. Needs matplotlib."""

from keras_xfmr.viz.attention import attention_view, token_names
from keras_xfmr.viz.curves import learning_curve, schedule
from keras_xfmr.viz.maps import attention_map, position_codes, similarity_maps

__all__ = [
    "attention_map",
    "attention_view",
    "learning_curve",
    "position_codes",
    "schedule",
    "similarity_maps",
    "token_names",
]
