"""Pictures of attention, learning curves, vectors and position encodings. Needs matplotlib."""

from keras_xfmr.viz.attention import attention_view, token_names
from keras_xfmr.viz.curves import learning_curve, schedule, training_curve
from keras_xfmr.viz.maps import attention_map, position_codes, similarity_maps
from keras_xfmr.viz.vectors import embedding_map, scalar_mix

__all__ = [
    "attention_map",
    "attention_view",
    "embedding_map",
    "learning_curve",
    "position_codes",
    "scalar_mix",
    "schedule",
    "similarity_maps",
    "token_names",
    "training_curve",
]
