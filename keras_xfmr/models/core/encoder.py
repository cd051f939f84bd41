"""What a head needs of an encoder.

B batch, T length, N documents, D d_model
"""

import inspect
import math
from collections.abc import Sequence

import keras
from keras import ops

from keras_xfmr.common.types import Initializer, Mixin, ModelInputs, Tensor
from keras_xfmr.layers import ScalarMix
from keras_xfmr.models.core.inputs import Input
from keras_xfmr.models.core.watched import Watched


class Encoder(Mixin):
    """The protocol of encoders: what the heads of `models/heads/` read of them, and no more.

    A model that stands before `keras.Model` with this mixin, and has the attributes and methods
    below, goes under every head.

    Attributes:
        d_model: D.
        dropout_rate: by default that of a head, too.
        pad_token_id: the padding of its vocabulary.
        activation: a name of `PositionWiseFFN`, for a masked language model's head.
        layer_norm_eps: of its norms, likewise.
        token_embedding: its `TokenEmbedding`, to which such a head is tied.
        encoder_blocks: its blocks, the lowest first.
        pooler: the layer of `pool`, or None. An encoder that has one has an argument `pooler` of
            its constructor, too, which leaves it out where it is False.
        causal: whether a position sees those before it alone; by default False.
        mixes: whether heads mix the vectors of several layers (`vectors`), each by a `ScalarMix`
            of its own; by default False.
        packed: whether a row may hold several documents, which an input `document_ids` numbers and
            whose first positions `pool` reads; by default False. A `Classifier` then has the input
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
        """The vectors of every position, `[B, T, D]`. Where this `mixes`, heads do not call it.

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
            inputs: as the model is called with.

        Returns:
            A list of `[B, T, D]`: what the first block reads, what each further one reads, and last
            what `encode` gives; as `hidden_states` of Hugging Face's models. An `Elmo` gives its
            `vectors`.

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
            inputs: as the model is called with.

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
        """The layer by which a head mixes `vectors`, a new one for each, where this `mixes`."""
        return ScalarMix(dtype=self.dtype_policy, name="scalar_mix")

    def pool(self, sequence: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """One vector of a row, `[B, D]`: by default that of its first position.

        Args:
            sequence: what `encode` gave, or a mix of `vectors`.
            attention_mask: `[B, T]`, 1 = a token, 0 = padding; None where that is not known.
        """
        return sequence[:, 0]

    def initializer(self) -> Initializer:
        """What weights are drawn from, a fresh one for each layer."""
        raise NotImplementedError

    def embedding_layers(self) -> Sequence[keras.layers.Layer]:
        """The layers below the blocks, which `freeze` and the rates of layers count as one."""
        return (self.token_embedding,)


class Reading(keras.Model):
    """What a head reads of an encoder, a graph of that one's layers.

    Args:
        layers: the layers, in the order in which the encoder has their weights: an optimizer's file
            knows them by their place.
        inputs, outputs, name: of the graph.
    """

    def __init__(self, layers, inputs, outputs, name):
        self.in_order = layers
        super().__init__(inputs=inputs, outputs=outputs, name=name)


def reading_of(encoder, pooled):
    """A model from the encoder's inputs to a list of `vectors` and, where `pooled`, of `pool`.

    It shares the encoder's layers, and has those that it computes with alone: without the pooled
    vector no pooler. Of a mix, a head makes the pooled vector itself.
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
    # A file has the layers by the names of their classes, and the encoder in this place.
    kind = type(type(encoder).__name__, (Reading,), {})
    model = kind(layers, inputs, outputs, encoder.name)
    model.dtype_policy = encoder.dtype_policy
    return model


def one_document(inputs):
    """The numbers of documents where each row is one."""
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
