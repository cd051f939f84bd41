"""GPT: causal blocks that predict the next token, as a functional model of the library's layers.

B batch, T length, D d_model, V vocab_size
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_xfmr import functional
from keras_xfmr.common.checks import check_choice, check_int
from keras_xfmr.common.types import (
    Activation,
    ArrayLike,
    Config,
    DType,
    Initializer,
    ModelInputs,
    Self,
    Tensor,
)
from keras_xfmr.decoding import Decoder
from keras_xfmr.layers import (
    Dropout,
    EncoderBlock,
    MultiHeadAttention,
    PositionalEncoding,
    PositionEmbedding,
    PositionWiseFFN,
    RotaryEmbedding,
    TokenEmbedding,
)
from keras_xfmr.layers.add_norm import NORMS
from keras_xfmr.layers.initializers import copy_initializer
from keras_xfmr.layers.projections import Prepared, project
from keras_xfmr.models.core.arguments import check_sizes
from keras_xfmr.models.core.cached_decoder import CachedDecoder
from keras_xfmr.models.core.causal import Causal
from keras_xfmr.models.core.compiled import Output
from keras_xfmr.models.core.data import ValidatesData
from keras_xfmr.models.core.encoder import Encoder, one_document
from keras_xfmr.models.core.fine_tuning import Adaptable
from keras_xfmr.models.core.inputs import Input, Inputs, Range
from keras_xfmr.models.core.pretrained import Pretrained, saved_initializer
from keras_xfmr.models.core.watched import run_block

# Radford et al. 2018 (gpt), 2019 (the sizes of GPT-2).
PRESETS: dict[str, Config] = {
    "gpt": dict(
        vocab_size=40478, max_length=512, d_model=768, num_heads=12, ffn_dim=3072, num_layers=12,
        norm_first=False,
    ),
    "gpt2": dict(d_model=768, num_heads=12, ffn_dim=3072, num_layers=12),
    "gpt2_medium": dict(d_model=1024, num_heads=16, ffn_dim=4096, num_layers=24),
    "gpt2_large": dict(d_model=1280, num_heads=20, ffn_dim=5120, num_layers=36),
    "gpt2_xl": dict(d_model=1600, num_heads=25, ffn_dim=6400, num_layers=48),
    "nano": dict(max_length=256, d_model=320, num_heads=5, ffn_dim=1280, num_layers=6),
    "tiny": dict(max_length=64, d_model=32, num_heads=2, ffn_dim=64, num_layers=2),
}  # fmt: skip
IGNORED = -1  # the label of positions that are not predicted


@keras.saving.register_keras_serializable("keras_xfmr")
class Gpt(Adaptable, Pretrained, ValidatesData, Causal, Encoder, keras.Model):
    """A decoder-only Transformer (Radford et al. 2018, 2019) that gives the next token's logits.

        x = Dropout(token[id] + position[t]);  x = block(x), causal;  logits = Norm(x) E^T

    The defaults are those of GPT-2: pre-norm blocks with one more norm after them, learned
    positions, tanh GELU, logits tied to the token table. The modern variant (Touvron et al. 2023)
    is `positions="rotary", norm="rms_norm", activation="swiglu", use_bias=False` with fewer
    `num_key_value_heads`; post-norm blocks, `norm_first=False`, are GPT-1's.

    Args:
        vocab_size: V, by default 50,257. All default sizes are those of GPT-2.
        d_model: D, divisible by `num_heads`; by default 768.
        num_heads: attention heads, by default 12.
        num_key_value_heads: a divisor of `num_heads`, the default.
        ffn_dim: inner size of the feed-forward networks, by default 3072.
        num_layers: blocks, by default 12.
        max_length: longest sequence, by default 1024; the rows of a table of learned positions.
        positions: `"learned"`, the default, `"rotary"`, `"alibi"` (Press et al. 2022), or a layout
            of `PositionalEncoding`.
        dropout_rate: on sublayer outputs, by default 0.1.
        attention_dropout_rate: on attention weights, by default 0.1.
        embedding_dropout_rate: on the sum of the embeddings, by default `dropout_rate`.
        activation: of the feed-forward networks, see `PositionWiseFFN`; by default `"gelu_tanh"`.
        norm: `"layer_norm"`, the default, or `"rms_norm"`.
        norm_first: pre-norm blocks, and a norm after the last, by default True.
        use_bias: whether the dense layers of the blocks have biases, by default True.
        epsilon: of the norms, by default 1e-5.
        tie_output: whether the token table computes the logits, by default True.
        initializer_range: standard deviation of the normal that initializes weights, by default
            0.02; learned positions have half of it.
        initializer: of the embeddings and blocks, by default that normal.
        pad_id: the padding id of the tokenizer; None, the default, if it has none. An id that is
            also the start or the end masks nothing.
        start_id, end_id: by default the last id, as in GPT-2.
        rematerialize: whether training stores only the inputs of the blocks and recomputes the rest
            in the backward pass, by default False; see `EncoderBlock`.
        dtype: dtype policy of the layers.

    Inputs of the call: a dictionary, or `token_ids` alone.

    - `token_ids`: integers `[B, T]`;
    - `attention_mask`: `[B, T]`, 1 = a token, 0 = padding; by default `token_ids != pad_id`;
    - `document_ids`: `[B, T]`, 1, 2, ... for packed documents, 0 = padding; by default one
      document. A token attends only to its document, whose positions start at 0.

    Two heads of this library over one `Gpt` train together in a model of your own, but Keras cannot
    load the `.keras` file of that model; see `Bert`.

    Returns:
        Logits `[B, T, V]` of the token after each position. Labels of -1 are not learned: pass
        `MaskedCrossEntropy(pad_id=-1)`, also if padding and end have the same id.

    Raises:
        ValueError: sizes that do not fit; ids outside the table, rows longer than `max_length`.

    Example:

    >>> model = Gpt.from_preset("tiny", vocab_size=100)
    >>> model(np.array([[5, 7, 3]])).shape
    (1, 3, 100)
    """

    family = "gpt2"
    causal = True

    def __init__(
        self,
        vocab_size: int = 50257,
        *,
        d_model: int = 768,
        num_heads: int = 12,
        num_key_value_heads: int | None = None,
        ffn_dim: int = 3072,
        num_layers: int = 12,
        max_length: int = 1024,
        positions: str = "learned",
        dropout_rate: float = 0.1,
        attention_dropout_rate: float = 0.1,
        embedding_dropout_rate: float | None = None,
        activation: Activation = "gelu_tanh",
        norm: str = "layer_norm",
        norm_first: bool = True,
        use_bias: bool = True,
        epsilon: float = 1e-5,
        tie_output: bool = True,
        initializer_range: float = 0.02,
        initializer: Initializer | None = None,
        pad_id: int | None = None,
        start_id: int | None = None,
        end_id: int | None = None,
        rematerialize: bool = False,
        dtype: DType | None = None,
        name: str | None = None,
        **kwargs,
    ) -> None:
        self.refuse_unknown(kwargs)
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        self._config = config = _checked(dict(
            vocab_size=vocab_size, d_model=d_model, num_heads=num_heads,
            num_key_value_heads=num_key_value_heads, ffn_dim=ffn_dim, num_layers=num_layers,
            max_length=max_length, positions=positions, dropout_rate=dropout_rate,
            attention_dropout_rate=attention_dropout_rate,
            embedding_dropout_rate=embedding_dropout_rate, activation=activation, norm=norm,
            norm_first=norm_first, use_bias=use_bias, epsilon=epsilon, tie_output=tie_output,
            initializer_range=initializer_range, initializer=saved_initializer(initializer),
            pad_id=pad_id, start_id=start_id, end_id=end_id, rematerialize=bool(rematerialize),
            dtype=keras.dtype_policies.serialize(policy),
        ))  # fmt: skip
        self._given_initializer = keras.initializers.get(initializer)
        self._lora: Config = {}
        vocab_size, d_model, max_length = map(config.get, ("vocab_size", "d_model", "max_length"))
        last = vocab_size - 1
        self.pad_id = config["pad_id"]
        self.start_id, self.end_id = (
            last if config[name] is None else config[name] for name in ("start_id", "end_id")
        )
        self.max_length, self.positions = max_length, positions
        # What heads read, see `Encoder`.
        self.d_model, self.dropout_rate = d_model, dropout_rate
        self.pad_token_id, self.activation, self.layer_norm_eps = pad_id, activation, epsilon

        # ---- layers
        self.token_embedding = TokenEmbedding(
            vocab_size, d_model, scale=False, embeddings_initializer=self._encoder_initializer(),
            dtype=policy, name="token_embedding",
        )  # fmt: skip
        self.position_embedding = _position_layer(
            positions, max_length, self._encoder_initializer(scale=0.5), policy
        )
        rate = dropout_rate if embedding_dropout_rate is None else embedding_dropout_rate
        self.embeddings_dropout = Dropout(rate, dtype=policy, name="embeddings_dropout")
        self.decoder_blocks = tuple(
            self._block(f"decoder_{i}", policy) for i in range(config["num_layers"])
        )
        self.final_norm = (
            NORMS[norm](epsilon=epsilon, dtype=policy, name="final_norm") if norm_first else None
        )
        self.output_dense = None
        if not tie_output:
            self.output_dense = keras.layers.Dense(
                vocab_size, use_bias=False, kernel_initializer=self._encoder_initializer(),
                dtype=policy, name="output",
            )  # fmt: skip

        # ---- functional graph
        self.declared_inputs = Inputs(
            Input("token_ids", "Token ids", vocab_size, longest=max_length),
            Input("attention_mask", "`attention_mask`", default=self._mask, like="token_ids"),
            Input("document_ids", "`document_ids`", default=one_document, like="token_ids"),
        )
        inputs = self.declared_inputs.symbolic()
        logits = self.logits(self.encode(**inputs))
        super().__init__(inputs=inputs, outputs=logits, name=name, **kwargs)
        self.dtype_policy = policy  # `compile` scales the loss by it

    def _encoder_initializer(self, scale=1.0):
        if self._given_initializer is not None:
            return copy_initializer(self._given_initializer)
        return keras.initializers.RandomNormal(stddev=scale * self._config["initializer_range"])

    def _block(self, name, policy):
        config = self._config
        rotary = RotaryEmbedding(name="rotary") if config["positions"] == "rotary" else None
        shared = {"use_bias": config["use_bias"], "dtype": policy}
        return EncoderBlock(
            config["num_heads"],
            config["ffn_dim"],
            dropout_rate=config["dropout_rate"],
            norm=config["norm"],
            norm_first=config["norm_first"],
            epsilon=config["epsilon"],
            rematerialize=config["rematerialize"],
            self_attention=MultiHeadAttention(
                config["num_heads"],
                config["d_model"] // config["num_heads"],
                dropout=config["attention_dropout_rate"],
                kernel_initializer=self._encoder_initializer(),
                num_key_value_heads=config["num_key_value_heads"],
                rotary=rotary,
                alibi=config["positions"] == "alibi",
                name="self_attention",
                **shared,
            ),
            feed_forward=PositionWiseFFN(
                config["ffn_dim"],
                config["activation"],
                kernel_initializer=self._encoder_initializer(),
                name="feed_forward",
                **shared,
            ),
            dtype=policy,
            name=name,
        )

    def _mask(self, inputs):
        if not self.hides_padding:
            return ops.ones_like(inputs["token_ids"], dtype="int32")
        return ops.cast(ops.not_equal(inputs["token_ids"], self.pad_id), "int32")

    @classmethod
    def from_preset(cls, preset: str, **overrides) -> Self:
        """A model of a published size, with random weights.

        Args:
            preset: `"gpt"`, `"gpt2"`, `"gpt2_medium"`, `"gpt2_large"`, `"gpt2_xl"`, `"nano"` (about
                10 M weights without the table, for two cores) or `"tiny"`, for tests.
            **overrides: other arguments.

        Raises:
            ValueError: an unknown preset.

        Example:

        >>> Gpt.from_preset("tiny", vocab_size=100).count_params()
        22400
        """
        check_choice("preset", preset, PRESETS)
        return cls(**{**PRESETS[preset], **overrides})

    # ---- the graph's two parts

    def encode(
        self,
        token_ids: Tensor,
        attention_mask: Tensor,
        document_ids: Tensor,
        training: bool | None = None,
        run: Callable[..., Tensor] = run_block,
    ) -> Tensor:
        """The vectors of every position, which `logits` takes, `[B, T, D]`."""
        documents = document_ids * ops.cast(ops.not_equal(attention_mask, 0), document_ids.dtype)
        x = self.token_embedding(token_ids, validate=False)
        if self.position_embedding is not None:
            x = self.position_embedding(x, positions=functional.document_positions(documents))
        x = self.embeddings_dropout(x, training=training)
        for block in self.decoder_blocks:
            x = run(block, x, document_ids=documents, use_causal_mask=True, training=training)
        return self._normalized(x)

    def _normalized(self, x):
        return x if self.final_norm is None else self.final_norm(x)

    def pool(self, sequence: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The vectors of the rows' last tokens `[B, D]`, which attend to the whole row."""
        if attention_mask is None:
            return sequence[:, -1]
        seen = ops.cumsum(ops.cast(ops.not_equal(attention_mask, 0), "int32"), axis=1)
        last = ops.expand_dims(ops.argmax(seen, axis=1), (1, 2))  # the first with the largest count
        return ops.squeeze(ops.take_along_axis(sequence, last, axis=1), 1)

    def initializer(self) -> Initializer:
        """A new initializer for a layer of a head."""
        return keras.initializers.RandomNormal(stddev=self._config["initializer_range"])

    def logits(self, x: Tensor, products: Prepared | None = None) -> Tensor:
        """Logits `[..., V]` of vectors `[..., D]` of `encode`; decoding loops pass `products`."""
        if self.output_dense is not None:
            return self.output_dense(x)
        return project(self.token_embedding, x, products, reverse=True)

    @property
    def encoder_blocks(self) -> tuple[EncoderBlock, ...]:
        """The blocks, by the name that `freeze` and similar methods use."""
        return self.decoder_blocks

    def embedding_layers(self) -> Sequence[keras.layers.Layer]:
        """The layers below the blocks."""
        learned = isinstance(self.position_embedding, PositionEmbedding)
        return (self.token_embedding, *([self.position_embedding] if learned else []))

    def hub_config(self) -> Config:
        return {"architectures": ["GPT2LMHeadModel"]}

    # ---- data are validated

    def label_ranges(self, labels: ModelInputs, inputs: Mapping[str, ArrayLike]) -> Iterable[Range]:
        size = self.token_embedding.input_dim
        yield Range("Labels", labels, size, ignored=self.ignored_label())

    def described_outputs(self) -> Output:
        size = self.token_embedding.input_dim
        return Output("vocabulary", size, self.pad_id if self.hides_padding else IGNORED)

    # ---- decoding

    def decoder(self, context: Any = None, *, rows: int | None = None) -> Decoder:
        """The `Decoder` for a search of `keras_xfmr.decoding`; there is no context.

        Args:
            context: None.
            rows: rows that `step` will read, if known; it affects only the speed.

        Example:

        >>> decoder = Gpt.from_preset("tiny", vocab_size=100).decoder()
        >>> logits, state = decoder.prefill(np.array([[2, 9]]), None, decoder.init_state(1, 8))
        >>> logits.shape
        (1, 100)
        """

        def embed(ids, offset):
            x, place = self.token_embedding(ids, validate=False), self.position_embedding
            return x if place is None else place(x, offset=offset)

        projections = [dense for block in self.decoder_blocks for dense in block.projections()]
        tied = [self.token_embedding] if self.output_dense is None else []
        return CachedDecoder(
            embed,
            self.decoder_blocks,
            lambda x, products: self.logits(self._normalized(x), products),
            longest=self.max_length,
            products=Prepared([*tied, *projections], rows),
        )


def _position_layer(positions, max_length, initializer, policy):
    """The layer that adds positions; None if the attention layers encode them."""
    if positions in ("rotary", "alibi"):
        return None
    if positions == "learned":
        return PositionEmbedding(
            max_length,
            embeddings_initializer=initializer,
            dtype=policy,
            name="position_embedding",
        )
    return PositionalEncoding(positions, dtype=policy, name="positions")


def _checked(config):
    """Checks the sizes; returns them as a configuration can hold them."""
    sizes = ("vocab_size", "d_model", "num_heads", "ffn_dim", "max_length")
    check_sizes(config, sizes, optional=["num_key_value_heads"])
    config["num_layers"] = check_int("num_layers", config["num_layers"], least=0)
    known = (*functional.SINUSOID_LAYOUTS, "learned", "rotary", "alibi")
    check_choice("positions", config["positions"], known)
    check_choice("norm", config["norm"], NORMS)
    for name in ("pad_id", "start_id", "end_id"):
        if config[name] is not None:
            config[name] = check_int(name, config[name], 0, config["vocab_size"] - 1)
    return config
