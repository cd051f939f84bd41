"""The encoder-decoder Transformer.

B batch, S source, T target, N heads, D d_model, V vocab_size
"""

import math

import keras
from keras import ops

from keras_xfmr import functional
from keras_xfmr.common.checks import check_int, check_positive_int, check_seed
from keras_xfmr.decoding import sample
from keras_xfmr.layers import (
    DecoderBlock,
    Dropout,
    EncoderBlock,
    PositionalEncoding,
    PositionEmbedding,
    TokenEmbedding,
)
from keras_xfmr.layers.add_norm import NORMS
from keras_xfmr.layers.projections import Prepared
from keras_xfmr.models.core.arguments import NamedArguments, check_rates, named_inputs
from keras_xfmr.models.core.compiled import Output
from keras_xfmr.models.core.data import ChecksData, positions, refuse_no_ids
from keras_xfmr.models.core.fine_tuning import FREEZE_KEYS, freeze_again, freeze_config
from keras_xfmr.models.core.generative import Generator, GeneratorCache, options_key

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
INPUTS = ("source_ids", "target_ids")


@keras.saving.register_keras_serializable("keras_xfmr")
class Transformer(NamedArguments, ChecksData, keras.Model):
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
        pad_id, start_id, end_id: of the tokenizers, by default 0, 2 and 3.
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
        source_ids = keras.Input((None,), dtype="int32", name="source_ids")
        target_ids = keras.Input((None,), dtype="int32", name="target_ids")
        logits = self.decode(target_ids, self.encode(source_ids), source_ids)
        super().__init__(
            inputs={"source_ids": source_ids, "target_ids": target_ids},
            outputs=logits,
            name=name,
            **kwargs,
        )
        self.dtype_policy = policy  # `compile` scales the loss by it
        self._config = config
        self._generators = GeneratorCache()

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

    # ---- the call

    def complete_inputs(self, inputs):
        inputs = self.named(inputs)
        if not isinstance(inputs, dict):
            return inputs
        inputs = named_inputs(inputs, INPUTS)
        for name, ids in inputs.items():
            refuse_no_ids(f"`{name}`", functional.as_array(ids))
        return inputs

    # ---- data are looked at

    def named(self, inputs):
        pair = isinstance(inputs, (list, tuple)) and len(inputs) == len(INPUTS)
        return dict(zip(INPUTS, inputs)) if pair else inputs

    def ranges(self, inputs, labels=None):
        inputs = self.named(inputs)
        if not isinstance(inputs, dict) or not set(INPUTS) <= set(inputs):
            return  # the call says so
        tables = (self.source_embedding, self.target_embedding)
        places = (self.source_positions, self.target_positions)
        for name, table, place in zip(INPUTS, tables, places):
            yield f"`{name}`", inputs[name], table.input_dim, "", None
            if hasattr(place, "max_length") and len(inputs[name].shape) == 2:
                yield positions(name, inputs[name], place.max_length)
        if labels is not None:
            size = self.target_embedding.input_dim
            yield "Labels", labels, size, "", self.ignored_label()

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

    def _encode(self, source_ids, training, scores=None):
        """Also appends each block's attention weights to `scores`, where it is a list."""
        mask = functional.padding_mask(source_ids, self.pad_id)
        x = self.source_positions(self.source_embedding(source_ids))
        x = self.source_dropout(x, training=training)
        for block in self.encoder_blocks:
            x = _kept(scores, block, x, attention_mask=mask, training=training)
        return x if self.encoder_norm is None else self.encoder_norm(x)

    def _decode(self, target_ids, memory, source_ids, training, scores=None):
        mask = functional.padding_mask(source_ids, self.pad_id)
        x = self.target_positions(self.target_embedding(target_ids))
        x = self.target_dropout(x, training=training)
        for block in self.decoder_blocks:
            x = _kept(scores, block, x, memory, cross_attention_mask=mask, training=training)
        return self._logits(x)

    def _logits(self, x):
        if self.decoder_norm is not None:
            x = self.decoder_norm(x)
        return self.target_embedding(x, reverse=True)

    # ---- decoding

    def step_function(self, source_ids, max_length, beams=1):
        """What a search of `keras_xfmr.decoding` takes: `(step, prompt, state)`.

        The state is the self-attention caches; the projected memory is closed over, once for all
        the beams of a sentence.

        Args:
            source_ids: integers `[B, S]`.
            max_length: positions of the caches: the tokens to generate and, for a prompt of your
                own of P tokens, P - 1 more. A step beyond them is lost.
            beams: rows that the search has for a sentence. It decides how the kernels are laid
                out, and with it the speed alone.

        Raises:
            ValueError: `max_length` is beyond the learned positions: a compiled loop would read
                the last row again and say nothing.
        """
        if max_length > self._longest_target():
            raise ValueError(
                f"The model has learned positions for {self._longest_target()} tokens. Received: "
                f"max_length={max_length}."
            )
        memory = self.encode(source_ids, training=False)
        mask = functional.padding_mask(source_ids, self.pad_id)
        rows = ops.shape(source_ids)[0]  # an integer where it is known
        caches = [block.init_cache(memory, rows, max_length) for block in self.decoder_blocks]
        crosses = [cross for _, cross in caches]
        projections = [dense for block in self.decoder_blocks for dense in block.projections()]
        known = isinstance(rows, int)
        products = Prepared([self.target_embedding, *projections], rows * beams if known else None)

        def step(token_ids, index, state):
            with products:
                return advance(token_ids, index, state)

        def advance(token_ids, index, state):
            x = self.target_embedding(ops.expand_dims(token_ids, 1))
            x = self.target_positions(x, offset=index)
            caches = []
            for block, cache, cross in zip(self.decoder_blocks, state, crosses):
                x, (cache, _) = block(
                    x,
                    None,
                    cross_attention_mask=mask,
                    training=False,
                    cache=(cache, cross),
                    cache_index=index,
                )
                caches.append(cache)
            return self._logits(x[:, 0]), caches

        prompt = ops.full((rows,), self.start_id, dtype="int32")
        return step, prompt, [cache for cache, _ in caches]

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
        self, source_ids, *, max_length=None, search="greedy", jit_compile=True, **options
    ):
        """Target ids for source ids, by a compiled search with cached keys and values.

        In the scope of a `tf.distribute` strategy, too, each row is searched once, by one replica.

        Args:
            source_ids: integers `[B, S]`, padded with `pad_id`, or ragged.
            max_length: the most tokens to generate, the end token included; by default S + 50, or
                as many as there are learned positions.
            search: `"greedy"`, `"sample"`, `"beam"`, or a function of `keras_xfmr.decoding`'s form.
            jit_compile: whether to compile with XLA, once per shape of `source_ids`.
            **options: of the search: `beam_size`, `alpha`, `num_return`, `temperature`, `seed`, ...
                Each combination but for the seed is a program of its own; the last 8 are kept.

        Returns:
            A dictionary of NumPy arrays, `token_ids`, `scores` and `lengths`: see `SearchResult`.

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
        if max_length is None:
            max_length = min(source_ids.shape[1] + 50, self._longest_target())
        options = {"max_length": max_length, **options}
        # A seed is state and no part of the program: another one must not compile another.
        seed = None
        if search in ("sample", sample) and options.get("seed") is not None:
            if not isinstance(options["seed"], keras.random.SeedGenerator):
                seed = check_seed(options.pop("seed"))
        # What else a program is made of: low-rank updates are variables that were not there.
        made_of = (self.pad_id, self.start_id, self.end_id, len(self.variables))
        key = (search, jit_compile, seed is None, made_of, options_key(options))

        def make():
            generator = self.make_generator(search=search, **options)
            generator.compile(jit_compile=jit_compile)
            return generator

        return self._generators.get(key, make).run(source_ids.astype("int32"), seed)

    def make_generator(self, *, max_length, search="greedy", **options):
        """A model from `source_ids` to the result of a search, to be called, compiled or exported.

        It borrows this model's weights.

        Args:
            max_length: the most tokens to generate, the end token included.
            search: as of `generate`.
            **options: of the search, but for `end_id` and `pad_id`, which are the model's.

        Raises:
            ValueError: an unknown search, `end_id` or `pad_id`.
        """
        if fixed := sorted({"end_id", "pad_id"} & set(options)):
            raise ValueError(f"The model's own `end_id` and `pad_id` are taken. Received: {fixed}.")
        return Generator(
            self,
            max_length,
            search,
            end_id=self.end_id,
            pad_id=self.pad_id,
            **options,
        )


def _kept(scores, block, *inputs, **arguments):
    """A block's output; its attention weights go to `scores`, where they are wanted."""
    if scores is None:
        return block(*inputs, **arguments)
    output, weights = block(*inputs, return_attention_scores=True, **arguments)
    scores.append(weights)
    return output


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
    if len({config["pad_id"], config["start_id"], config["end_id"]}) < 3:
        raise ValueError(
            "`pad_id`, `start_id` and `end_id` must differ. Received: "
            f"{config['pad_id']}, {config['start_id']}, {config['end_id']}."
        )
