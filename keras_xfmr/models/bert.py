"""BERT's encoder, as a functional graph of the library's layers.

B batch, T length, D d_model
"""

import math
from collections.abc import Callable, Mapping, Sequence

import keras
from keras import ops

from keras_xfmr import functional
from keras_xfmr.common.checks import check_choice, check_int
from keras_xfmr.common.types import ArrayLike, Config, DType, Initializer, Self, Tensor
from keras_xfmr.layers import Dropout, EncoderBlock, LayerNorm, PositionEmbedding, TokenEmbedding
from keras_xfmr.layers.initializers import copy_initializer
from keras_xfmr.layers.masks import mask_of_positions
from keras_xfmr.layers.projections import AdaptableDense
from keras_xfmr.models.core.arguments import check_sizes
from keras_xfmr.models.core.data import ValidatesData
from keras_xfmr.models.core.encoder import Encoder, one_document
from keras_xfmr.models.core.fine_tuning import Adaptable
from keras_xfmr.models.core.inputs import Input, Inputs
from keras_xfmr.models.core.inverted_mask import warn_of_inverted_mask
from keras_xfmr.models.core.pretrained import Pretrained, saved_initializer
from keras_xfmr.models.core.watched import run_block

# Turc et al. 2019 (tiny to medium), Devlin et al. 2019 (base, large), SKT's KoBERT, MiniLM-L6.
PRESETS: dict[str, Config] = {
    "tiny": dict(num_layers=2, d_model=128, num_heads=2, ffn_dim=512),
    "mini": dict(num_layers=4, d_model=256, num_heads=4, ffn_dim=1024),
    "small": dict(num_layers=4, d_model=512, num_heads=8, ffn_dim=2048),
    "medium": dict(num_layers=8, d_model=512, num_heads=8, ffn_dim=2048),
    "base": dict(num_layers=12, d_model=768, num_heads=12, ffn_dim=3072),
    "large": dict(num_layers=24, d_model=1024, num_heads=16, ffn_dim=4096),
    "kobert": dict(
        vocab_size=8002, num_layers=12, d_model=768, num_heads=12, ffn_dim=3072, pad_token_id=1
    ),
    "minilm": dict(num_layers=6, d_model=384, num_heads=12, ffn_dim=1536),
}
HIDDEN_ACTS = {
    "gelu": "gelu_exact",
    "gelu_python": "gelu_exact",
    "gelu_new": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
SIZES = (
    "vocab_size", "d_model", "num_heads", "ffn_dim", "max_length", "type_vocab_size",
)  # fmt: skip


@keras.saving.register_keras_serializable("keras_xfmr")
class Bert(Adaptable, Pretrained, ValidatesData, Encoder, keras.Model):
    """BERT's encoder (Devlin et al. 2019): one vector for each position.

        x = Dropout(LayerNorm(token[id] + position[t] + segment[s]))

    then post-norm encoder blocks. The three embeddings are summed, not concatenated.

    Args:
        vocab_size: rows of the token table, by default 30,522. All default sizes are those of
            `bert-base-uncased`.
        d_model: D, divisible by `num_heads`; by default 768.
        num_heads: attention heads, by default 12.
        ffn_dim: inner size of the feed-forward networks, by default 3072.
        num_layers: blocks, by default 12.
        max_length: longest sequence, the rows of the position table; by default 512.
        type_vocab_size: number of segment types, by default 2, as in published models.
        dropout_rate: on sublayer outputs and on the embeddings, by default 0.1.
        attention_dropout_rate: on attention weights, by default 0.1.
        hidden_act: `"gelu"`, the default, is exact, `"gelu_new"` is the tanh approximation; also
            `"relu"`, `"silu"`, `"tanh"`, and other names for these in published configurations.
        layer_norm_eps: of every norm, by default 1e-12.
        pad_token_id: the padding id of the tokenizer, by default 0. Some vocabularies have another.
        initializer_range: standard deviation of the truncated normal that initializes the weights,
            by default 0.02.
        pooler: whether to add a dense layer with tanh on position 0, by default True. Without it
            `outputs[1]` is the vector of position 0.
        initializer: of the embeddings and the blocks, by default that truncated normal.
        rematerialize: whether training stores only the inputs of the blocks and recomputes the rest
            in the backward pass, by default False; see `EncoderBlock`.
        packed: whether a row may hold several documents, by default False. The model then has the
            input `document_ids`, and a head over it may have `document_starts`. The weights do not
            change, nor the vectors in rows of one document.
        dtype: dtype policy of the layers.

    Inputs of the call: a dictionary, or `token_ids` alone.

    - `token_ids`: integers `[B, T]`;
    - `segment_ids`: integers `[B, T]`, by default zeros;
    - `attention_mask`: `[B, T]`, 1 = a token, 0 = padding; by default `token_ids != pad_token_id`.
      If its values are known, a mask that hides the tokens and shows the padding gives a warning;
    - `document_ids`, only of a `packed` model: integers `[B, T]`, 1, 2, ... for packed documents, 0
      = padding; by default one document. A token attends only to its document, whose positions
      start at 0. `text.pack_documents` makes them.

    Returns:
        A list: the vectors of every position `[B, T, D]`, and the pooled [CLS] vector `[B, D]`. For
        a model with several tasks, put `keras.layers.Dense` layers on both outputs. Two heads of
        this library over one encoder can be trained together, but Keras cannot load the `.keras`
        file of a model that holds both, or one head beside the encoder's own output. `save_weights`
        and `load_weights` work.

    Raises:
        ValueError: sizes that do not fit; sequences longer than `max_length`; ids and segments
            outside their tables, if their values are known.

    Example:

    >>> model = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> [tuple(output.shape) for output in model(np.array([[2, 5, 7, 3, 0]]))]
    [(1, 5, 16), (1, 16)]
    """

    family = "bert"

    def __init__(
        self,
        vocab_size: int = 30522,
        *,
        d_model: int = 768,
        num_heads: int = 12,
        ffn_dim: int = 3072,
        num_layers: int = 12,
        max_length: int = 512,
        type_vocab_size: int = 2,
        dropout_rate: float = 0.1,
        attention_dropout_rate: float = 0.1,
        hidden_act: str = "gelu",
        layer_norm_eps: float = 1e-12,
        pad_token_id: int = 0,
        initializer_range: float = 0.02,
        pooler: bool = True,
        initializer: Initializer | None = None,
        rematerialize: bool = False,
        packed: bool = False,
        dtype: DType | None = None,
        name: str | None = None,
        **kwargs,
    ) -> None:
        self.refuse_unknown(kwargs)
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        self._config = config = _checked(dict(
            vocab_size=vocab_size, d_model=d_model, num_heads=num_heads, ffn_dim=ffn_dim,
            num_layers=num_layers, max_length=max_length, type_vocab_size=type_vocab_size,
            dropout_rate=dropout_rate, attention_dropout_rate=attention_dropout_rate,
            hidden_act=hidden_act, layer_norm_eps=layer_norm_eps, pad_token_id=pad_token_id,
            initializer_range=initializer_range, pooler=pooler,
            initializer=saved_initializer(initializer), rematerialize=bool(rematerialize),
            packed=bool(packed), dtype=keras.dtype_policies.serialize(policy),
        ))  # fmt: skip
        self._given_initializer = keras.initializers.get(initializer)
        vocab_size, max_length, type_vocab_size = map(
            config.get, ("vocab_size", "max_length", "type_vocab_size")
        )

        # ---- layers
        self.packed = config["packed"]
        self.pad_token_id, self.d_model = config["pad_token_id"], config["d_model"]
        self.dropout_rate = dropout_rate
        self.activation = HIDDEN_ACTS[hidden_act]
        self.layer_norm_eps, self.initializer_range = layer_norm_eps, initializer_range
        self.token_embedding = self._table(vocab_size, policy, "token_embedding")
        self.position_embedding = PositionEmbedding(
            max_length,
            embeddings_initializer=self._encoder_initializer(),
            dtype=policy,
            name="position_embedding",
        )
        self.segment_embedding = self._table(type_vocab_size, policy, "segment_embedding")
        self.embeddings_norm = LayerNorm(
            epsilon=layer_norm_eps, dtype=policy, name="embeddings_norm"
        )
        self.embeddings_dropout = Dropout(dropout_rate, dtype=policy, name="embeddings_dropout")
        self.encoder_blocks = tuple(
            EncoderBlock(
                config["num_heads"],
                config["ffn_dim"],
                dropout_rate=dropout_rate,
                attention_dropout_rate=attention_dropout_rate,
                activation=self.activation,
                epsilon=layer_norm_eps,
                kernel_initializer=self._encoder_initializer(),
                rematerialize=config["rematerialize"],
                dtype=policy,
                name=f"encoder_{i}",
            )
            for i in range(config["num_layers"])
        )
        self.pooler = (
            AdaptableDense(
                self.d_model, "tanh", kernel_initializer=self.initializer(), dtype=policy,
                name="pooler",
            )  # fmt: skip
            if pooler
            else None
        )

        # ---- functional graph
        self.declared_inputs = Inputs(
            Input("token_ids", "Token ids", vocab_size, longest=max_length, nonempty=True),
            Input(
                "segment_ids", "`segment_ids`", type_vocab_size,
                "type_vocab_size" if type_vocab_size > 1 else "packers take type_vocab_size=1",
                default=lambda inputs: ops.zeros_like(inputs["token_ids"], dtype="int32"),
                like="token_ids",
            ),
            Input("attention_mask", "`attention_mask`", default=self._mask, like="token_ids"),
        )  # fmt: skip
        if self.packed:
            self.declared_inputs = self.declared_inputs.and_also(
                Input("document_ids", "`document_ids`", default=one_document, like="token_ids")
            )
        inputs = self.declared_inputs.symbolic()
        sequence = self.encode(**inputs)
        super().__init__(
            inputs=inputs, outputs=[sequence, self.pool(sequence)], name=name, **kwargs
        )
        self.dtype_policy = policy  # heads take it, and `compile` scales the loss by it
        self._lora: Config = {}  # target -> rank and alpha of its low-rank updates

    def initializer(self) -> Initializer:
        """A new initializer for the weights of one layer."""
        return keras.initializers.TruncatedNormal(stddev=self.initializer_range)

    def _encoder_initializer(self):
        """The initializer of weights that every checkpoint must have."""
        given = self._given_initializer
        return self.initializer() if given is None else copy_initializer(given)

    def _table(self, rows, policy, name):
        return TokenEmbedding(
            rows,
            self.d_model,
            scale=False,
            embeddings_initializer=self._encoder_initializer(),
            dtype=policy,
            name=name,
        )

    @classmethod
    def from_preset(cls, preset: str, **overrides) -> Self:
        """A model of a published size, with random weights.

        Args:
            preset: `"tiny"`, `"mini"`, `"small"`, `"medium"`, `"base"`, `"large"`, `"kobert"` or
                `"minilm"`.
            **overrides: other arguments.

        Raises:
            ValueError: an unknown preset.

        Example:

        >>> Bert.from_preset("tiny", vocab_size=100).count_params()
        491904
        """
        check_choice("preset", preset, PRESETS)
        return cls(**{**PRESETS[preset], **overrides})

    # ---- the call

    def _mask(self, inputs):
        return ops.cast(ops.not_equal(inputs["token_ids"], self.pad_token_id), "int32")

    def warn_of(self, inputs: Mapping[str, ArrayLike]) -> None:
        warn_of_inverted_mask(inputs, self.pad_token_id)

    # ---- the two halves

    def encode(
        self,
        token_ids: Tensor,
        segment_ids: Tensor,
        attention_mask: Tensor,
        document_ids: Tensor | None = None,
        training: bool | None = None,
        run: Callable[..., Tensor] = run_block,
    ) -> Tensor:
        """The vectors of every position, `[B, T, D]`; all inputs are `[B, T]`; see `Encoder`."""
        x = self.token_embedding(token_ids, validate=False)
        x = x + self.segment_embedding(segment_ids, validate=False)
        mask = mask_of_positions("attention_mask", attention_mask, x.shape, None)
        mask = ops.cast(mask, "bool")
        if document_ids is None:
            positions, seen = None, {"attention_mask": ops.expand_dims(mask, 1)}
        else:
            documents = ops.where(mask, document_ids, 0)
            positions = functional.document_positions(documents)
            seen = {"document_ids": documents}
        x = self.embeddings_norm(self.position_embedding(x, positions=positions))
        x = self.embeddings_dropout(x, training=training)
        for block in self.encoder_blocks:
            x = run(block, x, training=training, **seen)
        return x

    def embedding_layers(self) -> Sequence[keras.layers.Layer]:
        return (
            self.token_embedding,
            self.position_embedding,
            self.segment_embedding,
            self.embeddings_norm,
        )

    def pool(self, sequence: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The [CLS] vector `[B, D]`: tanh(W x_0 + b)."""
        first = sequence[:, 0]
        return first if self.pooler is None else self.pooler(first)


def _checked(config):
    """Checks the sizes; NumPy's integers become Python's, which a configuration can hold."""
    check_sizes(config, SIZES)
    config["num_layers"] = check_int("num_layers", config["num_layers"], least=0)
    if not 0 <= config["initializer_range"] < math.inf:
        raise ValueError(
            "`initializer_range` must be a finite number, at least 0. "
            f"Received: {config['initializer_range']!r}."
        )
    check_choice("hidden_act", config["hidden_act"], HIDDEN_ACTS)
    last = config["vocab_size"] - 1
    config["pad_token_id"] = check_int("pad_token_id", config["pad_token_id"], 0, last)
    return config
