"""What all layers here share: errors for unknown arguments and ragged inputs."""

from typing import Any

import keras

from keras_xfmr.common.arguments import argument_names, hints
from keras_xfmr.common.types import Mixin


class Checked(Mixin):
    """A mixin that comes before a layer of Keras.

    A layer with `token_wise = True` computes each token independently, so it accepts a ragged
    tensor and returns one. Other layers refuse it.
    """

    token_wise = False

    def __call__(self, *args, **kwargs) -> Any:
        ragged = [x for x in keras.tree.flatten((args, kwargs)) if _is_ragged(x)]
        if ragged and not self.token_wise:
            raise ValueError(
                f"{type(self).__name__} takes dense input. Pad the rows to one length, for "
                "instance with `x.to_tensor()`, and pass a mask of their tokens. Received: "
                "a ragged tensor."
            )
        if not ragged or isinstance(ragged[0], keras.KerasTensor):
            return super().__call__(*args, **kwargs)
        args, kwargs = keras.tree.map_structure(
            lambda x: x.flat_values if _is_ragged(x) else x, (args, kwargs)
        )
        return ragged[0].with_flat_values(super().__call__(*args, **kwargs))

    def compute_output_spec(self, *args, **kwargs) -> Any:
        spec = super().compute_output_spec(*args, **kwargs)
        if any(map(_is_ragged, keras.tree.flatten((args, kwargs)))):
            return keras.KerasTensor(spec.shape, dtype=spec.dtype, ragged=True)
        return spec


class Layer(Checked, keras.layers.Layer):
    """`keras.layers.Layer` that suggests the right name for an unknown argument."""

    def __init__(self, **kwargs) -> None:
        try:
            super().__init__(**kwargs)
        except (TypeError, ValueError) as error:
            kinds = type(self).__mro__
            meant = "".join(hints(kwargs, argument_names(kinds[: kinds.index(Layer)])))
            if not meant:
                raise
            raise type(error)(f"{error}.{meant}") from error
        if self.quantization_mode is not None:
            refuse_quantized(self, "it has no form in integers")


def refuse_quantized(layer: keras.layers.Layer, reason: str) -> None:
    """Raises NotImplementedError for a layer with a quantized dtype policy."""
    raise NotImplementedError(
        f"{type(layer).__name__} cannot be quantized: {reason}. Use dtype='bfloat16' for half the "
        f"memory. Received: {layer.dtype_policy.name!r}, or a call of `quantize`."
    )


def _is_ragged(x):
    return getattr(x, "ragged", False) is True or hasattr(x, "with_flat_values")
