"""The encoder-decoder Transformer.

B batch, S source, T target, N heads, D d_model, V vocab_size
"""


from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_xfmr import functional
from keras_xfmr.common.checks import check_choice, check_int
from keras_xfmr.common.types import (
    Activation,
    ArrayLike,
    Config,
    DType,
    Ids,
    ModelInputs,
    Self,
    Tensor,
)
from keras_xfmr.decoding import Decoder
from keras_xfmr.layers import (
    DecoderBlock,
    Dropout,
    EncoderBlock,
    PositionalEncoding,
    PositionEmbedding,
    TokenEmbedding,
    VocabularyBias,
)
from keras_xfmr.layers.add_norm import NORMS
from keras_xfmr.layers.projections import Prepared, project
from keras_xfmr.models.core.arguments import NamedArguments, check_sizes
from keras_xfmr.models.core.cached_decoder import CachedDecoder
from keras_xfmr.models.core.compiled import Output
from keras_xfmr.models.core.data import ValidatesData
from keras_xfmr.models.core.fine_tuning import FREEZE_KEYS, freeze_again, freeze_config
from keras_xfmr.models.core.inputs import Input, Inputs, Range
from keras_xfmr.models.core.sequence_to_sequence import SequenceToSequence
from keras_xfmr.models.core.watched import Watched, run_block

PRESETS: dict[str, Config] = {
    "base": {"d_model": 512, "num_heads": 8, "ffn_dim": 2048, "num_layers": 6},
    "big": {
        "d_model": 1024,
        "num_heads": 16,
        "ffn_dim": 4096,
        "num_layers": 6,
        "dropout_rate": 0.3,
    },
}


@keras.saving.register_keras_serializable("keras_xfmr")
class Transformer(NamedArguments, ValidatesData, SequenceToSequence, keras.Model):
    """The Transformer (Vaswani et al. 2017, figure 1) as a functional model that gives logits.

    memory = encode(source); logits = decode(target, memory). Trained with teacher forcing: the
    target that goes in is shifted right by a start token, the labels are shifted left. Embeddings
    times sqrt(D) plus positions, dropout, post-norm blocks, logits from the target embedding.

    Args:
        source_vocab_size: size of the source vocabulary.
        target_vocab_size: size of the target vocabulary, with a table of its own. None: one
            vocabulary and one table for source, target and output, as in the paper.
        d_model: D, by default 512. All default sizes are those of the paper's base model.
        num_heads: N, a divisor of D, by default 8.
        ffn_dim: inner size of the feed-forward networks, by default 2048.
        num_layers: blocks on each side, by default 6, or a pair (encoder, decoder).
        dropout_rate: on sublayer outputs and on the sums of embeddings and positions, by default
            0.1.
        attention_dropout_rate: on attention weights, by default 0, as in the paper.
        activation: of the feed-forward networks, see `PositionWiseFFN`; by default `"relu"`.
        norm: `"layer_norm"`, the default, or `"rms_norm"`.
        norm_first: pre-norm blocks, by default False.
        epsilon: of the norms, by default 1e-6.
        final_norm: whether there is one more norm after each stack. None, the default: only after
            pre-norm blocks. `torch.nn.Transformer` always has it.
        tie_output: whether the target table computes the logits, by default True; else a matrix of
            its own does.
        output_bias: whether a bias is added to the logits, by default False.
        positions: a layout of `PositionalEncoding`, by default the paper's, or `"learned"` with
            `max_length` positions.
        max_length: longest sequence, for learned positions only.
        scale_embeddings: whether embeddings are multiplied by sqrt(D), by default True, as in the
            paper: sinusoids would be much larger than them. Learned positions do not need it.
        pad_id, start_id, end_id: of the tokenizers, by default 0, 2 and 3. They may be equal.
        rematerialize: whether training stores only the inputs of the blocks and recomputes the rest
            in the backward pass, by default False; see `EncoderBlock`.
        dtype: dtype policy of the layers.

    Inputs of the call: `{"source_ids": [B, S], "target_ids": [B, T]}`, integers.

    Returns:
        Logits `[B, T, V]`. A loss and metrics may leave out only `pad_id`; those that do not fit
        logits are refused, see `compile`.

    Raises:
        ValueError: sizes that do not fit.

    Example:

    >>> model = Transformer(32000, d_model=512, num_heads=8, ffn_dim=2048, num_layers=6)
    >>> ids = {"source_ids": np.ones((2, 7), "int32"), "target_ids": np.ones((2, 5), "int32")}
    >>> model(ids).shape
    (2, 5, 32000)
    """

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int | None = None,
        *,
        d_model: int = 512,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        num_layers: int | tuple[int, int] = 6,
        dropout_rate: float = 0.1,
        attention_dropout_rate: float = 0.0,
        activation: Activation = "relu",
        norm: str = "layer_norm",
        norm_first: bool = False,
        epsilon: float = 1e-6,
        final_norm: bool | None = None,
        tie_output: bool = True,
        output_bias: bool = False,
        positions: str = "interleaved",
        max_length: int | None = None,
        scale_embeddings: bool = True,
        pad_id: int = 0,
        start_id: int = 2,
        end_id: int = 3,
        rematerialize: bool = False,
        dtype: DType | None = None,
        name: str | None = None,
        **kwargs,
    ) -> None:
        self.refuse_unknown(kwargs)
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        self._config = config = _checked(dict(
            source_vocab_size=source_vocab_size, target_vocab_size=target_vocab_size,
            d_model=d_model, num_heads=num_heads, ffn_dim=ffn_dim, num_layers=num_layers,
            dropout_rate=dropout_rate, attention_dropout_rate=attention_dropout_rate,
            activation=activation, norm=norm, norm_first=norm_first, epsilon=epsilon,
            final_norm=final_norm, tie_output=tie_output, output_bias=output_bias,
            positions=positions, max_length=max_length, scale_embeddings=scale_embeddings,
            pad_id=pad_id, start_id=start_id, end_id=end_id, rematerialize=bool(rematerialize),
            dtype=keras.dtype_policies.serialize(policy),
        ))  # fmt: skip
        source_vocab_size, target_vocab_size, d_model = map(
            config.get, ("source_vocab_size", "target_vocab_size", "d_model")
        )
        encoder_layers, decoder_layers = _both_sides(config["num_layers"])

        # ---- layers
        self.pad_id, self.start_id, self.end_id = map(config.get, ("pad_id", "start_id", "end_id"))
        scaling = {"scale": scale_embeddings, "dtype": policy}
        self.source_embedding = TokenEmbedding(
            source_vocab_size, d_model, **scaling, name="source_embedding"
        )
        self.target_embedding = (
            self.source_embedding
            if target_vocab_size is None
            else TokenEmbedding(target_vocab_size, d_model, **scaling, name="target_embedding")
        )
        self.source_positions = _positions(config, policy, "source_positions")
        self.target_positions = _positions(config, policy, "target_positions")
        self.source_dropout = Dropout(dropout_rate, dtype=policy, name="source_dropout")
        self.target_dropout = Dropout(dropout_rate, dtype=policy, name="target_dropout")
        self.encoder_blocks = _blocks(EncoderBlock, "encoder", encoder_layers, config, policy)
        self.decoder_blocks = _blocks(DecoderBlock, "decoder", decoder_layers, config, policy)
        self.encoder_norm = _final_norm(config, policy, "encoder_norm")
        self.decoder_norm = _final_norm(config, policy, "decoder_norm")
        self.output_dense = self.output_bias = None
        if not tie_output:
            size = self.target_embedding.input_dim
            self.output_dense = keras.layers.Dense(
                size, use_bias=output_bias, dtype=policy, name="output"
            )
        elif output_bias:
            self.output_bias = VocabularyBias(dtype=policy, name="output_bias")

        # ---- functional graph
        self.declared_inputs = Inputs(
            _input("source_ids", self.source_embedding, self.source_positions),
            _input("target_ids", self.target_embedding, self.target_positions),
        )
        inputs = self.declared_inputs.symbolic()
        source_ids, target_ids = inputs.values()
        memory = self._encode(source_ids, None, validate=False)
        logits = self._decode(target_ids, memory, source_ids, None, validate=False)
        super().__init__(inputs=inputs, outputs=logits, name=name, **kwargs)
        self.dtype_policy = policy  # `compile` scales the loss by it

    def get_config(self) -> Config:
        return {**self._config, "name": self.name, **freeze_config(self, self.weights)}

    @classmethod
    def from_config(cls, config: Config, custom_objects: Config | None = None) -> Self:
        config = dict(config)
        noted = {key: config.pop(key) for key in FREEZE_KEYS if key in config}
        model = cls(**config)
        freeze_again(model, model.weights, **noted)
        return model

    @classmethod
    def from_preset(
        cls, preset: str, source_vocab_size: int, target_vocab_size: int | None = None, **overrides
    ) -> Self:
        """A model of the paper's sizes (table 3), with random weights.

        Args:
            preset: `"base"` or `"big"`.
            source_vocab_size, target_vocab_size: as for the constructor.
            **overrides: its other arguments.

        Raises:
            ValueError: an unknown preset.

        Example:

        >>> len(Transformer.from_preset("base", 32000, dropout_rate=0.0).encoder_blocks)
        6
        """
        check_choice("preset", preset, PRESETS)
        return cls(source_vocab_size, target_vocab_size, **{**PRESETS[preset], **overrides})

    # ---- data are validated

    def label_ranges(self, labels: ModelInputs, inputs: Mapping[str, ArrayLike]) -> Iterable[Range]:
        size = self.target_embedding.input_dim
        yield Range("Labels", labels, size, ignored=self.ignored_label())

    def described_outputs(self) -> Output:
        return Output("vocabulary", self.target_embedding.input_dim, self.pad_id)

    # ---- the two halves

    def encode(self, source_ids: Ids, training: bool | None = None) -> Tensor:
        """Memory `[B, S, D]` of source ids `[B, S]`; padding is masked."""
        return self._encode(functional.as_array(source_ids), training)

    def decode(
        self, target_ids: Ids, memory: Tensor, source_ids: Ids, training: bool | None = None
    ) -> Tensor:
        """Logits `[B, T, V]` of the token after each of `target_ids [B, T]`."""
        target_ids, source_ids = map(functional.as_array, (target_ids, source_ids))
        return self._decode(target_ids, memory, source_ids, training)

    def attention_weights(self, source_ids: Ids, target_ids: Ids) -> dict[str, list[Tensor]]:
        """The attention weights of every block, without dropout.

        Args:
            source_ids, target_ids: integers `[B, S]` and `[B, T]`.

        Returns:
            `{"encoder": [...], "decoder": [...], "cross": [...]}`, one tensor a block:
            `[B, N, S, S]`, `[B, N, T, T]`, `[B, N, T, S]`.
        """
        given = {"source_ids": source_ids, "target_ids": target_ids}
        source_ids, target_ids = map(self.validated_inputs(given).get, given)
        encoder, decoder = Watched(weights=True), Watched(weights=True)
        memory = self._encode(source_ids, False, encoder)
        self._decode(target_ids, memory, source_ids, False, decoder)
        of_targets, cross = zip(*decoder.weights) if decoder.weights else ((), ())
        return {"encoder": encoder.weights, "decoder": list(of_targets), "cross": list(cross)}

    def _encode(self, source_ids, training, run=run_block, validate=True):
        """`run` calls each block."""
        mask = functional.padding_mask(source_ids, self.pad_id)
        x = self.source_positions(self.source_embedding(source_ids, validate=validate))
        x = self.source_dropout(x, training=training)
        for block in self.encoder_blocks:
            x = run(block, x, attention_mask=mask, training=training)
        return x if self.encoder_norm is None else self.encoder_norm(x)

    def _decode(self, target_ids, memory, source_ids, training, run=run_block, validate=True):
        mask = functional.padding_mask(source_ids, self.pad_id)
        x = self.target_positions(self.target_embedding(target_ids, validate=validate))
        x = self.target_dropout(x, training=training)
        for block in self.decoder_blocks:
            x = run(block, x, memory, cross_attention_mask=mask, training=training)
        return self._logits(x)

    def _logits(self, x, products=None):
        if self.decoder_norm is not None:
            x = self.decoder_norm(x)
        if self.output_dense is not None:
            return self.output_dense(x)
        logits = project(self.target_embedding, x, products, reverse=True)
        return logits if self.output_bias is None else self.output_bias(logits)

    # ---- decoding

    def context(self, source_ids: Ids) -> tuple[Tensor, Tensor]:
        """The input of `decoder`: memory `[B, S, D]` and the mask of its padding `[B, 1, S]`."""
        mask = functional.padding_mask(functional.as_array(source_ids), self.pad_id)
        return self.encode(source_ids, training=False), mask

    def decoder(self, context: Any, *, rows: int | None = None) -> Decoder:
        """The `Decoder` for a search of `keras_xfmr.decoding`.

        All beams of a sentence share one projected memory; the state is the self-attention caches.

        Args:
            context: the result of `context(source_ids)`.
            rows: rows that `step` will read, if known. It decides the layout of the kernels in
                memory, so it affects only the speed.

        Returns:
            A `decoding.Decoder`. Its `init_state` raises ValueError for a length beyond the learned
            positions: a compiled loop would silently read the last row again.

        Example:

        >>> model = Transformer(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
        >>> decoder = model.decoder(model.context(np.array([[5, 7, 3]])))
        >>> logits, state = decoder.prefill(np.array([[2, 9]]), None, decoder.init_state(1, 8))
        >>> logits.shape
        (1, 100)
        """
        memory, mask = context
        table = [self.target_embedding] if self.output_dense is None else []
        projections = [dense for block in self.decoder_blocks for dense in block.projections()]
        return CachedDecoder(
            lambda ids, offset: self.target_positions(self.target_embedding(ids), offset=offset),
            self.decoder_blocks,
            self._logits,
            memory=memory,
            memory_mask=mask,
            longest=self._longest_target(),
            products=Prepared([*table, *projections], rows),
        )


def _input(name, table, positions):
    """The `Input` of ids that are looked up in a table."""
    longest = getattr(positions, "max_length", None)
    return Input(name, f"`{name}`", table.input_dim, longest=longest)


def _positions(config, policy, name):
    if config["positions"] == "learned":
        return PositionEmbedding(config["max_length"], dtype=policy, name=name)
    return PositionalEncoding(config["positions"], dtype=policy, name=name)


def _blocks(kind, name, count, config, policy):
    shared = (
        "dropout_rate", "attention_dropout_rate", "activation", "norm", "norm_first",
        "epsilon", "rematerialize",
    )  # fmt: skip
    arguments = {key: config[key] for key in shared}
    return tuple(
        kind(config["num_heads"], config["ffn_dim"], dtype=policy, name=f"{name}_{i}", **arguments)
        for i in range(count)
    )


def _final_norm(config, policy, name):
    """The norm after a stack; by default post-norm blocks need none."""
    wanted = config["norm_first"] if config["final_norm"] is None else config["final_norm"]
    if not wanted:
        return None
    return NORMS[config["norm"]](epsilon=config["epsilon"], dtype=policy, name=name)


def _both_sides(num_layers):
    """Blocks of the encoder and of the decoder."""
    return tuple(num_layers) if isinstance(num_layers, (tuple, list)) else (num_layers,) * 2


def _checked(config):
    """Checks the sizes; NumPy's integers become Python's, which a configuration can hold."""
    sizes = ("source_vocab_size", "d_model", "num_heads", "ffn_dim")
    check_sizes(config, sizes, optional=["target_vocab_size", "max_length"])
    sides = _both_sides(config["num_layers"])
    if len(sides) != 2:
        raise ValueError(
            "`num_layers` must be an integer or a pair (encoder, decoder). "
            f"Received: {config['num_layers']!r}."
        )
    sides = tuple(check_int("num_layers", side, least=0) for side in sides)
    config["num_layers"] = sides[0] if sides[0] == sides[1] else sides
    known = (*functional.SINUSOID_LAYOUTS, "learned")
    check_choice("positions", config["positions"], known)
    if config["positions"] == "learned" and config["max_length"] is None:
        raise ValueError(
            "Learned positions need `max_length`, the number of positions. Received: "
            "positions='learned', max_length=None."
        )
    vocab_size = config["target_vocab_size"] or config["source_vocab_size"]
    for name in ("pad_id", "start_id", "end_id"):
        smallest = min(vocab_size, config["source_vocab_size"]) if name == "pad_id" else vocab_size
        config[name] = check_int(name, config[name], 0, smallest - 1)
    return config
