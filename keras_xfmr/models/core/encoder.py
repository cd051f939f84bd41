"""What a head needs from an encoder.

B batch, T length, N documents, D d_model
"""

import inspect
import math
from collections.abc import Mapping, Sequence

import keras
from keras import ops

from keras_xfmr.common.types import ArrayLike, Initializer, Mixin, ModelInputs, Tensor
from keras_xfmr.layers import ScalarMix
from keras_xfmr.models.core.inputs import Input
from keras_xfmr.models.core.watched import Watched


class Encoder(Mixin):
    """The protocol of encoders: all that the heads of `models/heads/` use of them.

    A model with this mixin before `keras.Model`, and with the attributes and methods below, works
    under every head. Some attributes are for some heads only.

    Attributes:
        d_model: D.
        dropout_rate: also the default of a `Classifier` or `Tagger`.
        pad_token_id: the padding of its vocabulary, or None; for a `MaskedLanguageModel` and
            `export_encoder`.
        activation: a name of `PositionWiseFFN`, for a `MaskedLanguageModel`.
        layer_norm_eps: of its norms, likewise.
        token_embedding: its `TokenEmbedding`, which computes the logits of a `MaskedLanguageModel`.
        encoder_blocks: its blocks, the lowest first. No head reads them.
        pooler: the layer of `pool`, or None. The constructor of an encoder that has one takes
            `pooler=False` to leave it out.
        causal: whether a position attends only to itself and those before it; by default False.
        mixes: whether each head mixes the vectors of several layers (`vectors`) by its own
            `ScalarMix`; by default False.
        packed: whether a row may hold several documents, by default False. An input `document_ids`
            then numbers them, `pool` reads their first positions, and a `Classifier` has the input
            `document_starts`.
        words_input: the name of the input that has a row's tokens or words, by default
            `"token_ids"`.
        declared_inputs: its `Inputs`; one of them is `words_input`, one `attention_mask`.
        dtype_policy: of its layers.

    Example:

    >>> bert = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> isinstance(bert, Encoder), Classifier(bert).encoder is bert
    (True, True)
    """

    pooler: keras.layers.Layer | None = None
    causal = False
    mixes = False
    packed = False
    words_input = "token_ids"

    def encode(self, **inputs) -> Tensor:
        """The vectors of every position, `[B, T, D]`. If the encoder `mixes`, heads do not call it.

        Args:
            **inputs: the declared inputs by their names, `[B, T]` each; perhaps `training`; and
                `run`, by which each block is called (`run(block, x, ...)`), see `run_block`.
        """
        raise NotImplementedError

    def vectors(self, **inputs) -> list[Tensor]:
        """The vectors of each layer that a head reads: by default those of `encode` alone."""
        return [self.encode(**inputs)]

    def hidden_states(self, inputs: ModelInputs) -> list[Tensor]:
        """The vectors of every layer, without dropout.

        Args:
            inputs: as for the call.

        Returns:
            A list of `[B, T, D]`: the input of each block, and last the output of `encode`; as
            `hidden_states` of Hugging Face's models. An `Elmo` returns its `vectors`.

        Raises:
            ValueError: inputs that the model refuses.

        Example:

        >>> bert = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=3)
        >>> len(bert.hidden_states(np.array([[2, 5, 7, 3]])))
        4
        """
        inputs = self.validated_inputs(inputs)
        if self.mixes:
            return list(self.vectors(**inputs, training=False))
        watched = self._watched(inputs)
        return [*watched.states, watched.last]

    def attention_weights(self, inputs: ModelInputs) -> list[Tensor]:
        """The attention weights of every block, without dropout.

        Args:
            inputs: as for the call.

        Returns:
            A list of `[B, N, T, T]`, one for each block: how much each position (the third axis)
            takes from each other. `keras_xfmr.viz.attention_view` and `attention_map` show them.

        Raises:
            ValueError: inputs that the model refuses; an encoder without attention.

        Example:

        >>> bert = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
        >>> tuple(bert.attention_weights(np.array([[2, 5, 7, 3]]))[0].shape)
        (1, 2, 4, 4)
        """
        if self.mixes:
            raise ValueError(
                f"Expected an encoder with attention, such as a Bert or a Gpt. Received: "
                f"{type(self).__name__}, which has none."
            )
        return self._watched(self.validated_inputs(inputs), weights=True).weights

    def _watched(self, inputs, weights=False):
        if "run" not in inspect.signature(self.encode).parameters:
            raise NotImplementedError(
                "Expected an encoder whose `encode` takes `run`, and calls its blocks by "
                f"`run(block, x, ...)`. Received: {type(self).__name__}."
            )
        watched = Watched(weights)
        watched.last = self.encode(**inputs, training=False, run=watched)
        return watched

    def scalar_mix(self) -> ScalarMix:
        """A new layer that mixes `vectors` in a head, if the encoder `mixes`."""
        return ScalarMix(dtype=self.dtype_policy, name="scalar_mix")

    def pool(self, sequence: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """One vector for each row, `[B, D]`: by default that of its first position.

        Args:
            sequence: the output of `encode`, or a mix of `vectors`.
            attention_mask: `[B, T]`, 1 = a token, 0 = padding; None if that is not known.
        """
        return sequence[:, 0]

    def initializer(self) -> Initializer:
        """A new initializer for the weights of one layer."""
        raise NotImplementedError

    # Models of the library have both from `ValidatesData`, which stands before this class.

    def validated_inputs(self, inputs: ModelInputs) -> ModelInputs:
        """All declared inputs, checked."""
        completed = self.declared_inputs.complete(inputs)
        self.declared_inputs.check(completed)
        return completed

    def warn_of(self, inputs: Mapping[str, ArrayLike]) -> None:
        """Warns of nothing."""
        return None  # AutoGraph cannot read a function without a statement

    def embedding_layers(self) -> Sequence[keras.layers.Layer]:
        """The layers below the blocks; `freeze` and `layer_learning_rates` treat them as one."""
        return (self.token_embedding,)


class Reading(keras.Model):
    """The part of an encoder that a head uses, a graph of the encoder's layers.

    Args:
        layers: the layers, in the order of the encoder's weights: the file of an optimizer finds
            weights by their position.
        inputs, outputs, name: of the graph.
    """

    def __init__(self, layers, inputs, outputs, name):
        self.in_order = layers
        super().__init__(inputs=inputs, outputs=outputs, name=name)


def reading_of(encoder, pooled):
    """A model from the encoder's inputs to a list of `vectors` and, if `pooled`, of `pool`.

    It shares the encoder's layers, and has only those that it uses: without the pooled vector no
    pooler. If the encoder `mixes`, the head makes the pooled vector itself.
    """
    inputs = encoder.declared_inputs.symbolic()
    outputs = list(encoder.vectors(**inputs))
    if pooled and encoder.packed:
        starts = inputs["document_starts"] = document_starts(encoder).symbolic()
        # Each first position is a row of its own.
        outputs.append(encoder.pool(_vectors_at(outputs[0], starts, inputs["attention_mask"])))
    elif pooled and not encoder.mixes:
        outputs.append(encoder.pool(outputs[0], inputs["attention_mask"]))
    place = {id(weight): i for i, weight in enumerate(encoder.weights)}

    def first(layer):
        return min((place.get(id(weight), math.inf) for weight in layer.weights), default=-1)

    layers = sorted(keras.Model(inputs, outputs).layers, key=first)
    # A file names the layers by their classes, and has the encoder in this place.
    kind = type(type(encoder).__name__, (Reading,), {})
    model = kind(layers, inputs, outputs, encoder.name)
    model.dtype_policy = encoder.dtype_policy
    return model


def one_document(inputs):
    """The numbers of documents if each row is one."""
    return ops.ones_like(inputs["token_ids"], dtype="int32")


def document_starts(encoder):
    """The `Input` of a head over an encoder of packed rows: (row, first position) `[N, 2]`.

    By default each row is one document.
    """

    def default(inputs):
        first = ops.ones_like(inputs[encoder.words_input][:, :1], dtype="int32")
        return ops.concatenate([ops.cumsum(first, axis=0) - 1, first - 1], axis=1)

    return Input(
        "document_starts",
        "`document_starts`",
        size=encoder.words_input,
        default=default,
        pairs=True,
    )


def _vectors_at(sequence, places, attention_mask):
    """The vectors `[N, 1, D]` of `sequence [B, T, D]` at (row, position) `[N, 2]`."""
    # T, which a symbolic shape does not know.
    length = ops.max(ops.sum(ops.ones_like(attention_mask, dtype="int32"), axis=1), initial=0)
    flat = ops.reshape(sequence, (-1, sequence.shape[-1]))
    rows, positions = ops.split(places, 2, axis=1)
    return ops.take(flat, rows * length + positions, axis=0)


def without_pooler(config):
    """The configuration of an encoder without its pooler, which a head does not read."""
    if not config.get("pooler"):
        return config
    config = {**config, "pooler": False}
    if "lora" in config:
        config["lora"] = {name: v for name, v in config["lora"].items() if name != "pooler"}
    if "frozen" in config:
        config["frozen"] = [p for p in config["frozen"] if "pooler" not in p.split("/")]
    return {name: v for name, v in config.items() if name not in ("lora", "frozen") or v}
