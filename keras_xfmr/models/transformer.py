"""The encoder-decoder Transformer.

B batch, S source, T target, N heads, D d_model, V vocab_size
"""

import math

import keras
import numpy as np
from keras import ops

from keras_xfmr import functional
from keras_xfmr.common.checks import check_int, check_positive_int
from keras_xfmr.layers import (
    DecoderBlock,
    Dropout,
    EncoderBlock,
    PositionalEncoding,
    PositionEmbedding,
    TokenEmbedding,
)
from keras_xfmr.layers.add_norm import NORMS
from keras_xfmr.layers.projections import Prepared, project
from keras_xfmr.models.core.alignments import align
from keras_xfmr.models.core.arguments import NamedArguments, check_rates
from keras_xfmr.models.core.cached_decoder import CachedDecoder
from keras_xfmr.models.core.compiled import Output
from keras_xfmr.models.core.data import ValidatesData
from keras_xfmr.models.core.fine_tuning import FREEZE_KEYS, freeze_again, freeze_config
from keras_xfmr.models.core.generative import Generative
from keras_xfmr.models.core.inputs import Input, Inputs, Range

PRESETS = {
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
class Transformer(NamedArguments, ValidatesData, Generative, keras.Model):
    """The Transformer (Vaswani et al. 2017, figure 1) as a functional model that gives logits.

    memory = encode(source); logits = decode(target, memory). Trained with teacher forcing: the
    target that goes in is shifted right by a start token, the labels are shifted left. Embeddings
    times sqrt(D) plus positions, dropout, post-norm blocks, logits from the target embedding.

    Args:
        source_vocab_size: size of the source vocabulary.
        target_vocab_size: size of the target vocabulary, with a table of its own. None: one
            vocabulary and one table for source, target and output, as in the paper.
        d_model: D, by default 512, the paper's base, as the other sizes are.
        num_heads: N, a divisor of D, by default 8.
        ffn_dim: inner size of the feed-forward networks, by default 2048.
        num_layers: blocks on each side, by default 6, or a pair (encoder, decoder).
        dropout_rate: on sublayer outputs and on the sums of embeddings and positions, by default
            0.1.
        attention_dropout_rate: on attention weights; the paper has none, nor has the default.
        activation: of the feed-forward networks, see `PositionWiseFFN`; by default `"relu"`.
        norm: `"layer_norm"`, the default, or `"rms_norm"`.
        norm_first: pre-norm blocks, with one more norm after each stack; by default False.
        positions: a layout of `PositionalEncoding`, by default the paper's, or `"learned"` with
            `max_length` positions.
        max_length: longest sequence, for learned positions only.
        scale_embeddings: whether embeddings are multiplied by sqrt(D), as in the paper, so that
            sinusoids do not drown them. Learned positions can do without.
        pad_id, start_id, end_id: of the tokenizers, by default 0, 2 and 3. They may be equal.
        dtype: dtype policy of the layers.

    Inputs of the call: `{"source_ids": [B, S], "target_ids": [B, T]}`, integers.

    Returns:
        Logits `[B, T, V]`. A loss and metrics may leave out `pad_id`, no other token; what cannot
        be meant for logits is refused, see `compile`.

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
        source_vocab_size,
        target_vocab_size=None,
        *,
        d_model=512,
        num_heads=8,
        ffn_dim=2048,
        num_layers=6,
        dropout_rate=0.1,
        attention_dropout_rate=0.0,
        activation="relu",
        norm="layer_norm",
        norm_first=False,
        positions="interleaved",
        max_length=None,
        scale_embeddings=True,
        pad_id=0,
        start_id=2,
        end_id=3,
        dtype=None,
        name=None,
        **kwargs,
    ):
        self.refuse_unknown(kwargs)
        names = Transformer.argument_names()
        config = {key: value for key, value in locals().items() if key in names}
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        config["dtype"] = keras.dtype_policies.serialize(policy)
        _check(config)
        encoder_layers, decoder_layers = _both_sides(config["num_layers"])

        # ---- layers
        self.pad_id, self.start_id, self.end_id = pad_id, start_id, end_id
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
        self._config = config

    def get_config(self):
        return {**self._config, "name": self.name, **freeze_config(self, self.weights)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        noted = {key: config.pop(key) for key in FREEZE_KEYS if key in config}
        model = cls(**config)
        freeze_again(model, model.weights, **noted)
        return model

    @classmethod
    def from_preset(cls, preset, source_vocab_size, target_vocab_size=None, **overrides):
        """The paper's sizes (table 3), with freshly drawn weights.

        Args:
            preset: `"base"` or `"big"`.
            source_vocab_size, target_vocab_size: as of the constructor.
            **overrides: its other arguments.

        Raises:
            ValueError: an unknown preset.

        Example:

        >>> len(Transformer.from_preset("base", 32000, dropout_rate=0.0).encoder_blocks)
        6
        """
        if preset not in PRESETS:
            raise ValueError(f"`preset` must be one of {tuple(PRESETS)}. Received: {preset!r}.")
        return cls(source_vocab_size, target_vocab_size, **{**PRESETS[preset], **overrides})

    # ---- data are validated

    def label_ranges(self, labels, inputs):
        size = self.target_embedding.input_dim
        yield Range("Labels", labels, size, ignored=self.ignored_label())

    def described_outputs(self):
        return Output("vocabulary", self.target_embedding.input_dim, self.pad_id)

    # ---- the two halves

    def encode(self, source_ids, training=None):
        """Memory `[B, S, D]` of source ids `[B, S]`; padding is seen by no one."""
        return self._encode(functional.as_array(source_ids), training)

    def decode(self, target_ids, memory, source_ids, training=None):
        """Logits `[B, T, V]` of the token after each of `target_ids [B, T]`."""
        target_ids, source_ids = map(functional.as_array, (target_ids, source_ids))
        return self._decode(target_ids, memory, source_ids, training)

    def attention_weights(self, source_ids, target_ids):
        """The attention weights of every block, without dropout.

        Args:
            source_ids, target_ids: integers `[B, S]` and `[B, T]`.

        Returns:
            `{"encoder": [...], "decoder": [...], "cross": [...]}`, one tensor a block:
            `[B, N, S, S]`, `[B, N, T, T]`, `[B, N, T, S]`.
        """
        source_ids, target_ids = map(functional.as_array, (source_ids, target_ids))
        encoder, decoder = [], []
        memory = self._encode(source_ids, False, encoder)
        self._decode(target_ids, memory, source_ids, False, decoder)
        of_targets, cross = zip(*decoder) if decoder else ((), ())
        return {"encoder": encoder, "decoder": list(of_targets), "cross": list(cross)}

    def _encode(self, source_ids, training, scores=None, validate=True):
        """Also appends each block's attention weights to `scores`, where it is a list."""
        mask = functional.padding_mask(source_ids, self.pad_id)
        x = self.source_positions(self.source_embedding(source_ids, validate=validate))
        x = self.source_dropout(x, training=training)
        for block in self.encoder_blocks:
            x = _kept(scores, block, x, attention_mask=mask, training=training)
        return x if self.encoder_norm is None else self.encoder_norm(x)

    def _decode(self, target_ids, memory, source_ids, training, scores=None, validate=True):
        mask = functional.padding_mask(source_ids, self.pad_id)
        x = self.target_positions(self.target_embedding(target_ids, validate=validate))
        x = self.target_dropout(x, training=training)
        for block in self.decoder_blocks:
            x = _kept(scores, block, x, memory, cross_attention_mask=mask, training=training)
        return self._logits(x)

    def _logits(self, x, products=None):
        if self.decoder_norm is not None:
            x = self.decoder_norm(x)
        return project(self.target_embedding, x, products, reverse=True)

    # ---- decoding

    def context(self, source_ids):
        """What `decoder` reads: the memory `[B, S, D]` and the mask of its padding `[B, 1, S]`."""
        mask = functional.padding_mask(functional.as_array(source_ids), self.pad_id)
        return self.encode(source_ids, training=False), mask

    def decoder(self, context, *, rows=None):
        """What a search of `keras_xfmr.decoding` decodes with.

        The projected memory is kept once for all the beams of a sentence; the state is the
        self-attention caches.

        Args:
            context: of `context(source_ids)`.
            rows: rows that `step` will read, where that is known. It decides how the kernels are
                laid out, and with it the speed alone.

        Returns:
            A `decoding.Decoder`. Its `init_state` raises ValueError for a length beyond the learned
            positions: a compiled loop would read the last row again and say nothing.

        Example:

        >>> model = Transformer(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
        >>> decoder = model.decoder(model.context(np.array([[5, 7, 3]])))
        >>> logits, state = decoder.prefill(np.array([[2, 9]]), None, decoder.init_state(1, 8))
        >>> logits.shape
        (1, 100)
        """
        memory, mask = context
        projections = [dense for block in self.decoder_blocks for dense in block.projections()]
        return CachedDecoder(
            lambda ids, offset: self.target_positions(self.target_embedding(ids), offset=offset),
            self.decoder_blocks,
            self._logits,
            memory=memory,
            memory_mask=mask,
            longest=self._longest_target(),
            products=Prepared([self.target_embedding, *projections], rows),
        )

    def start_search(self, inputs, beams=1):
        given = inputs if isinstance(inputs, dict) else {"source_ids": inputs}
        source_ids = given["source_ids"]
        rows = ops.shape(source_ids)[0]  # an integer where it is known
        known = isinstance(rows, int)
        decoder = self.decoder(self.context(source_ids), rows=rows * beams if known else None)
        if "prompt" in given:
            return decoder, given["prompt"], given.get("lengths")
        return decoder, ops.full((rows,), self.start_id, dtype="int32"), None

    def step_function(self, source_ids, max_length, beams=1):
        """What a search takes: `(decoder, prompt, state)`, with the start token for a prompt.

        Args:
            source_ids: integers `[B, S]`.
            max_length: positions of the caches: the tokens to generate and, for a prompt of your
                own of P tokens, P - 1 more. A step beyond them is lost.
            beams: rows that the search has for a sentence, for the speed alone.

        Raises:
            ValueError: `max_length` is beyond the learned positions.
        """
        decoder, prompt, _ = self.start_search(source_ids, beams)
        return decoder, prompt, decoder.init_state(ops.shape(prompt)[0], max_length)

    def _longest_target(self):
        return getattr(self.target_positions, "max_length", math.inf)

    def _check_source(self, source_ids):
        if source_ids.ndim != 2:
            raise ValueError(
                "`source_ids` must have the shape [batch, length], padded with pad_id="
                f"{self.pad_id}. Received: shape {source_ids.shape}."
            )
        longest = getattr(self.source_positions, "max_length", math.inf)
        if source_ids.shape[1] > longest:
            raise ValueError(
                f"The model has learned positions for {longest} source tokens. Received: "
                f"{source_ids.shape[1]}."
            )
        self.source_embedding.check_ids(source_ids)

    def generate(
        self,
        source_ids,
        *,
        prompt=None,
        max_length=None,
        search="greedy",
        alignments=False,
        jit_compile=True,
        **options,
    ):
        """Target ids for source ids, by a compiled search with cached keys and values.

        In the scope of a `tf.distribute` strategy, too, each row is searched once, by one replica.

        Args:
            source_ids: integers `[B, S]`, padded with `pad_id`, or ragged.
            prompt: the first tokens of the targets, after the start token: integers `[B, P]`, or
                rows of different lengths, ragged or lists. What follows them is generated.
            max_length: the most tokens to generate, the end token included; by default S + 50, or
                as many as there are learned positions.
            search: `"greedy"`, `"sample"`, `"beam"`, or a function of `keras_xfmr.decoding`'s form.
            alignments: whether to return which source token each token was read from: where the
                cross-attention of the last block, averaged over its heads, is largest. It takes one
                more pass over the sequences.
            jit_compile: whether to compile with XLA, once per shape of `source_ids`.
            **options: of the search: `beam_size`, `alpha`, `num_return`, `temperature`, `seed`,
                `min_length`, `repetition_penalty`, `no_repeat_ngram_size`, `token_scores`, ...
                Each combination but for the seed is a program of its own; the last 8 are kept.

        Returns:
            A dictionary of NumPy arrays, `token_ids`, `scores`, `lengths`: see `SearchResult`; on
            request `token_scores`, and `alignments`, int32 of the shape of `token_ids`, columns of
            `source_ids`, -1 behind the end.

        Raises:
            ValueError: an unknown search, ids that are not a matrix of vocabulary entries,
                a source or `max_length` beyond the learned positions.

        Example:

        >>> model = Transformer(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
        >>> found = model.generate(np.array([[5, 7, 3]]), max_length=8, search="beam", beam_size=2)
        >>> found["token_ids"].shape
        (1, 1, 8)
        """
        if hasattr(source_ids, "to_tensor"):  # ragged
            source_ids = source_ids.to_tensor(self.pad_id)
        try:
            source_ids = ops.convert_to_numpy(source_ids)
        except ValueError as error:  # of lists
            raise ValueError(
                "`source_ids` must be rows of equal length: pad them with pad_id="
                f"{self.pad_id}, or pass a ragged tensor."
            ) from error
        self._check_source(source_ids)
        inputs, read = source_ids.astype("int32"), 0
        if prompt is not None:
            inputs = {"source_ids": inputs, **self._prompts(prompt, len(inputs))}
            read = inputs["prompt"].shape[1] - 1
        if max_length is None:
            max_length = min(source_ids.shape[1] + 50, self._longest_target() - read)
        found = super().generate(
            inputs, max_length=max_length, search=search, jit_compile=jit_compile, **options
        )
        if not alignments:
            return found
        given = inputs if isinstance(inputs, dict) else {}
        starts = given.get("prompt", np.full((len(source_ids), 1), self.start_id))
        lengths = given.get("lengths", np.full(len(starts), starts.shape[1]))
        return {**found, "alignments": align(self, source_ids, starts, lengths, found)}

    def _prompts(self, prompt, rows):
        """The start token and a prompt in each row, right-aligned, and where they differ their
        lengths."""
        if hasattr(prompt, "to_list"):  # ragged
            prompt = prompt.to_list()
        prompt = [np.asarray(ops.convert_to_numpy(row)).reshape(-1) for row in prompt]
        if len(prompt) != rows:
            raise ValueError(
                f"`prompt` must have a row for each of the {rows} sources. Received: {len(prompt)}."
            )
        for ids in prompt:
            if ids.size:
                self.target_embedding.check_ids(ids)
        lengths = np.array([len(ids) + 1 for ids in prompt], "int32")
        prompts = np.full((rows, lengths.max(initial=1)), self.pad_id, "int32")
        for row, ids in zip(prompts, prompt):
            row[len(row) - len(ids) - 1 :] = [self.start_id, *ids]
        padded = lengths.size and lengths.min() < prompts.shape[1]
        return {"prompt": prompts, **({"lengths": lengths} if padded else {})}


def _kept(scores, block, *inputs, **arguments):
    """A block's output; its attention weights go to `scores`, where they are wanted."""
    if scores is None:
        return block(*inputs, **arguments)
    output, weights = block(*inputs, return_attention_scores=True, **arguments)
    scores.append(weights)
    return output


def _input(name, table, positions):
    """The `Input` of ids that are looked up in a table."""
    longest = getattr(positions, "max_length", None)
    return Input(name, f"`{name}`", table.input_dim, longest=longest)


def _positions(config, policy, name):
    if config["positions"] == "learned":
        return PositionEmbedding(config["max_length"], dtype=policy, name=name)
    return PositionalEncoding(config["positions"], dtype=policy, name=name)


def _blocks(kind, name, count, config, policy):
    shared = ("dropout_rate", "attention_dropout_rate", "activation", "norm", "norm_first")
    arguments = {key: config[key] for key in shared}
    return [
        kind(config["num_heads"], config["ffn_dim"], dtype=policy, name=f"{name}_{i}", **arguments)
        for i in range(count)
    ]


def _final_norm(config, policy, name):
    """The norm after a stack of pre-norm blocks; post-norm blocks need none."""
    if not config["norm_first"]:
        return None
    return NORMS[config["norm"]](epsilon=1e-6, dtype=policy, name=name)


def _both_sides(num_layers):
    """Blocks of the encoder and of the decoder."""
    return tuple(num_layers) if isinstance(num_layers, (tuple, list)) else (num_layers,) * 2


def _check(config):
    """Sizes that fit; NumPy's integers become Python's, which a configuration can hold."""
    for name in ("source_vocab_size", "d_model", "num_heads", "ffn_dim"):
        config[name] = check_positive_int(name, config[name])
    for name in ("target_vocab_size", "max_length"):
        if config[name] is not None:
            config[name] = check_positive_int(name, config[name])
    sides = _both_sides(config["num_layers"])
    if len(sides) != 2:
        raise ValueError(
            "`num_layers` must be an integer or a pair (encoder, decoder). "
            f"Received: {config['num_layers']!r}."
        )
    sides = tuple(check_int("num_layers", side, least=0) for side in sides)
    config["num_layers"] = sides[0] if sides[0] == sides[1] else sides
    check_rates(config, ("dropout_rate", "attention_dropout_rate"))
    if config["d_model"] % config["num_heads"]:
        raise ValueError(
            "`num_heads` must divide `d_model`. "
            f"Received: d_model={config['d_model']}, num_heads={config['num_heads']}."
        )
    known = (*functional.SINUSOID_LAYOUTS, "learned")
    if config["positions"] not in known:
        raise ValueError(f"`positions` must be one of {known}. Received: {config['positions']!r}.")
    if config["positions"] == "learned" and config["max_length"] is None:
        raise ValueError(
            "Learned positions need `max_length`, the number of positions. Received: "
            "positions='learned', max_length=None."
        )
    vocab_size = config["target_vocab_size"] or config["source_vocab_size"]
    for name in ("pad_id", "start_id", "end_id"):
        config[name] = check_int(name, config[name], least=0)
        smallest = min(vocab_size, config["source_vocab_size"]) if name == "pad_id" else vocab_size
        if config[name] >= smallest:
            raise ValueError(
                f"`{name}` must be in the vocabulary, 0 .. {smallest - 1}. "
                f"Received: {config[name]}."
            )
