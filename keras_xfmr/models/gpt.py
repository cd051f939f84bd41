"""GPT: causal blocks that predict the next token, as a functional model of the library's layers.

B batch, T length, D d_model, V vocab_size
"""

import keras
import numpy as np
from keras import ops

from keras_xfmr import functional
from keras_xfmr.common.checks import check_int, check_positive_int, check_rate
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
from keras_xfmr.models.core.cached_decoder import CachedDecoder
from keras_xfmr.models.core.compiled import Output
from keras_xfmr.models.core.data import ValidatesData
from keras_xfmr.models.core.encoder import Encoder
from keras_xfmr.models.core.fine_tuning import Adaptable
from keras_xfmr.models.core.generative import Generative
from keras_xfmr.models.core.inputs import Input, Inputs, Range
from keras_xfmr.models.core.pretrained import Pretrained, saved_initializer

# Radford et al. 2018 (gpt), 2019 (the sizes of GPT-2).
PRESETS = {
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
IGNORED = -1  # the label of what is not to be predicted


@keras.saving.register_keras_serializable("keras_xfmr")
class Gpt(Adaptable, Pretrained, ValidatesData, Generative, Encoder, keras.Model):
    """A decoder-only Transformer (Radford et al. 2018, 2019) that gives the next token's logits.

        x = Dropout(token[id] + position[t]);  x = block(x), causal;  logits = Norm(x) E^T

    The defaults are those of GPT-2: pre-norm blocks with one more norm behind them, learned
    positions, tanh GELU, logits tied to the token table. The modern variant (Touvron et al. 2023)
    is `positions="rotary", norm="rms_norm", activation="swiglu", use_bias=False` with fewer
    `num_key_value_heads`; post-norm blocks, `norm_first=False`, are GPT-1's.

    Args:
        vocab_size: V, by default 50,257, as of GPT-2; so are the other sizes.
        d_model: D, divisible by `num_heads`; by default 768.
        num_heads: attention heads, by default 12.
        num_key_value_heads: a divisor of `num_heads`; by default as many.
        ffn_dim: inner size of the feed-forward networks, by default 3072.
        num_layers: blocks, by default 12.
        max_length: the longest sequence, by default 1024; the rows of a learned table.
        positions: `"learned"`, the default, `"rotary"`, or a layout of `PositionalEncoding`.
        dropout_rate: on sublayer outputs, by default 0.1.
        attention_dropout_rate: on attention weights, by default 0.1.
        embedding_dropout_rate: on the sum of the embeddings, by default `dropout_rate`.
        activation: of the feed-forward networks, see `PositionWiseFFN`; by default `"gelu_tanh"`.
        norm: `"layer_norm"`, the default, or `"rms_norm"`.
        norm_first: pre-norm blocks, and a norm behind the last, by default True.
        use_bias: whether the products of the blocks have biases, by default True.
        epsilon: of the norms, by default 1e-5.
        tie_output: whether the logits are a product with the token table, by default True.
        initializer_range: deviation of the normal that weights are drawn from, by default 0.02;
            learned positions have half of it.
        initializer: of all weights but norms, in the place of that normal.
        pad_id: the padding of the tokenizer; None, the default, where it has none of its own. An id
            that is also the start or the end hides nothing.
        start_id, end_id: by default the last id, as in GPT-2.
        dtype: dtype policy of the layers.

    Inputs of the call: a dictionary, or `token_ids` alone.

    - `token_ids`: integers `[B, T]`;
    - `attention_mask`: `[B, T]`, 1 = a token, 0 = padding; by default `token_ids != pad_id`;
    - `document_ids`: `[B, T]`, 1, 2, ... for packed documents, 0 = padding; by default one
      document. A token sees its own document alone, whose positions begin at 0.

    Returns:
        Logits `[B, T, V]` of the token behind each position. Labels of -1 are not learned: pass
        `MaskedCrossEntropy(pad_id=-1)`, also where padding and end are one id.

    Raises:
        ValueError: sizes that do not fit; ids outside the table, rows longer than `max_length`.

    Example:

    >>> model = Gpt.from_preset("tiny", vocab_size=100)
    >>> model(np.array([[5, 7, 3]])).shape
    (1, 3, 100)
    """

    family = "gpt2"

    def __init__(
        self,
        vocab_size=50257,
        *,
        d_model=768,
        num_heads=12,
        num_key_value_heads=None,
        ffn_dim=3072,
        num_layers=12,
        max_length=1024,
        positions="learned",
        dropout_rate=0.1,
        attention_dropout_rate=0.1,
        embedding_dropout_rate=None,
        activation="gelu_tanh",
        norm="layer_norm",
        norm_first=True,
        use_bias=True,
        epsilon=1e-5,
        tie_output=True,
        initializer_range=0.02,
        initializer=None,
        pad_id=None,
        start_id=None,
        end_id=None,
        dtype=None,
        name=None,
        **kwargs,
    ):
        config = {key: value for key, value in locals().items() if key in Gpt.argument_names()}
        self.refuse_unknown(kwargs)
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        config["initializer"] = saved_initializer(initializer)
        self._config = _checked(config, policy)
        given = keras.initializers.get(initializer)
        self._lora = {}
        self.pad_id = pad_id
        self.start_id = vocab_size - 1 if start_id is None else start_id
        self.end_id = vocab_size - 1 if end_id is None else end_id
        self.max_length, self.positions = max_length, positions
        # What heads read, see `Encoder`.
        self.d_model, self.dropout_rate = d_model, dropout_rate
        self.pad_token_id, self.activation, self.layer_norm_eps = pad_id, activation, epsilon

        # ---- layers
        def draw(scale=1.0):
            if given is not None:
                return copy_initializer(given)
            return keras.initializers.RandomNormal(stddev=scale * initializer_range)

        self.token_embedding = TokenEmbedding(
            vocab_size, d_model, scale=False, embeddings_initializer=draw(), dtype=policy,
            name="token_embedding",
        )  # fmt: skip
        self.position_embedding = _position_layer(positions, max_length, draw(0.5), policy)
        rate = dropout_rate if embedding_dropout_rate is None else embedding_dropout_rate
        self.embeddings_dropout = Dropout(rate, dtype=policy, name="embeddings_dropout")
        self.decoder_blocks = [
            EncoderBlock(
                num_heads,
                ffn_dim,
                dropout_rate=dropout_rate,
                norm=norm,
                norm_first=norm_first,
                epsilon=epsilon,
                self_attention=MultiHeadAttention(
                    num_heads,
                    d_model // num_heads,
                    dropout=attention_dropout_rate,
                    use_bias=use_bias,
                    kernel_initializer=draw(),
                    num_key_value_heads=num_key_value_heads,
                    rotary=RotaryEmbedding(name="rotary") if positions == "rotary" else None,
                    dtype=policy,
                    name="self_attention",
                ),
                feed_forward=PositionWiseFFN(
                    ffn_dim,
                    activation,
                    use_bias=use_bias,
                    kernel_initializer=draw(),
                    dtype=policy,
                    name="feed_forward",
                ),
                dtype=policy,
                name=f"decoder_{i}",
            )
            for i in range(num_layers)
        ]
        self.final_norm = (
            NORMS[norm](epsilon=epsilon, dtype=policy, name="final_norm") if norm_first else None
        )
        self.output_dense = None
        if not tie_output:
            self.output_dense = keras.layers.Dense(
                vocab_size, use_bias=False, kernel_initializer=draw(), dtype=policy, name="output"
            )

        # ---- functional graph
        self.declared_inputs = Inputs(
            Input("token_ids", "Token ids", vocab_size, longest=max_length),
            Input("attention_mask", "`attention_mask`", default=self._mask, like="token_ids"),
            Input("document_ids", "`document_ids`", default=_one_document, like="token_ids"),
        )
        inputs = self.declared_inputs.symbolic()
        logits = self.logits(self.encode(**inputs))
        super().__init__(inputs=inputs, outputs=logits, name=name, **kwargs)
        self.dtype_policy = policy  # `compile` scales the loss by it

    def _mask(self, inputs):
        if self.pad_id in (None, self.start_id, self.end_id):
            return ops.ones_like(inputs["token_ids"], dtype="int32")
        return ops.cast(ops.not_equal(inputs["token_ids"], self.pad_id), "int32")

    @classmethod
    def from_preset(cls, preset, **overrides):
        """The sizes of a published model, with freshly drawn weights.

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
        if preset not in PRESETS:
            raise ValueError(f"`preset` must be one of {tuple(PRESETS)}. Received: {preset!r}.")
        return cls(**{**PRESETS[preset], **overrides})

    # ---- the graph's two parts

    def encode(self, token_ids, attention_mask, document_ids, training=None):
        """The vectors of every position, which `logits` takes, `[B, T, D]`."""
        documents = document_ids * ops.cast(attention_mask, document_ids.dtype)
        mask = functional.document_mask(documents)  # [B, T, T]
        x = self.token_embedding(token_ids, validate=False)
        if self.position_embedding is not None:
            x = self.position_embedding(x, positions=functional.document_positions(documents))
        x = self.embeddings_dropout(x, training=training)
        for block in self.decoder_blocks:
            x = block(x, attention_mask=mask, use_causal_mask=True, training=training)
        return self._normalized(x)

    def _normalized(self, x):
        return x if self.final_norm is None else self.final_norm(x)

    def pool(self, sequence, attention_mask=None):
        """The vectors of the rows' last tokens `[B, D]`, which have seen all of their row."""
        if attention_mask is None:
            return sequence[:, -1]
        seen = ops.cumsum(ops.cast(ops.not_equal(attention_mask, 0), "int32"), axis=1)
        last = ops.expand_dims(ops.argmax(seen, axis=1), (1, 2))  # the first that has seen most
        return ops.squeeze(ops.take_along_axis(sequence, last, axis=1), 1)

    def initializer(self):
        """What the layers of heads are drawn from."""
        return keras.initializers.RandomNormal(stddev=self._config["initializer_range"])

    def logits(self, x, products=None):
        """Logits `[..., V]` of vectors `[..., D]` of `encode`; `products` are those of a loop."""
        if self.output_dense is not None:
            return self.output_dense(x)
        return project(self.token_embedding, x, products, reverse=True)

    @property
    def encoder_blocks(self):
        """The blocks, by the name that `freeze` and its kin know."""
        return self.decoder_blocks

    def embedding_layers(self):
        """The layers below the blocks."""
        learned = isinstance(self.position_embedding, PositionEmbedding)
        return (self.token_embedding, *([self.position_embedding] if learned else []))

    def hub_config(self):
        return {"architectures": ["GPT2LMHeadModel"]}

    # ---- data are validated

    def label_ranges(self, labels, inputs):
        size = self.token_embedding.input_dim
        yield Range("Labels", labels, size, ignored=self.ignored_label())

    def described_outputs(self):
        hides = self.pad_id not in (None, self.start_id, self.end_id)
        size = self.token_embedding.input_dim
        return Output("vocabulary", size, self.pad_id if hides else IGNORED)

    # ---- decoding

    def decoder(self, context=None, *, rows=None):
        """What a search of `keras_xfmr.decoding` decodes with; there is no context.

        Args:
            context: None.
            rows: rows that `step` will read, where that is known, for the speed alone.

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

    def start_search(self, inputs, beams=1):
        rows = ops.shape(inputs["prompt"])[0]
        known = isinstance(rows, int)
        decoder = self.decoder(rows=rows * beams if known else None)
        return decoder, inputs["prompt"], inputs["lengths"]

    def generate(
        self,
        prompt,
        *,
        lengths=None,
        max_length=64,
        search="greedy",
        truncate=False,
        jit_compile=True,
        **options,
    ):
        """Goes on with prompts, by a compiled search with cached keys and values.

        A prompt is read in one parallel pass. Prompts of different lengths give the same text
        together as one by one.

        Args:
            prompt: a list of lists of ids, a ragged tensor, or integers `[B, P]`.
            lengths: tokens of each row of `[B, P]`, `[B]`; by default those that are not `pad_id`
                where the model has one of its own, or else P.
            max_length: the most tokens to generate, the end token included, by default 64.
            search: `"greedy"`, `"sample"`, `"beam"`, or a function of `keras_xfmr.decoding`'s form.
            truncate: whether to read the last tokens alone of a prompt that leaves no room for
                `max_length` tokens in the model's context; else it is refused.
            jit_compile: whether to compile with XLA, once per shape of the prompts.
            **options: of the search; see `Transformer.generate`.

        Returns:
            A dictionary of NumPy arrays, `token_ids`, `scores` and `lengths` of what was generated
            (see `SearchResult`), and `truncated [B]`, whether a prompt lost its beginning.

        Raises:
            ValueError: no ids, ids outside the table, an empty prompt, one that is too long.

        Example:

        >>> model = Gpt.from_preset("tiny", vocab_size=100)
        >>> model.generate([[5, 7], [9, 3, 8]], max_length=4)["token_ids"].shape
        (2, 4)
        """
        check_positive_int("max_length", max_length)
        rows = _rows_of(prompt, lengths, self)
        room = self.max_length - max_length + 1  # the last token that is generated is not read
        if room < 1:
            raise ValueError(
                f"The context has {self.max_length} positions. Received: max_length={max_length} "
                "to generate, which leaves none for a prompt."
            )
        truncated = np.array([len(row) > room for row in rows])
        if truncated.any() and not truncate:
            raise ValueError(
                f"Expected prompts of at most {room} tokens, which leave room for max_length="
                f"{max_length} in the context of {self.max_length}. Received: "
                f"{max(map(len, rows))}. Shorten them, or pass truncate=True to read the last ones."
            )
        rows = [row[-room:] for row in rows]
        width = max(map(len, rows))
        aligned = np.full((len(rows), width), self.end_id, "int32")
        for place, row in zip(aligned, rows):
            place[width - len(row) :] = row
        inputs = {"prompt": aligned, "lengths": np.array([len(row) for row in rows], "int32")}
        found = super().generate(
            inputs, max_length=max_length, search=search, jit_compile=jit_compile, **options
        )
        return {**found, "truncated": truncated}

    def score(self, token_ids, lengths=None):
        """Log-probabilities of given texts, each token's given those before it.

        Args:
            token_ids, lengths: as the prompts of `generate`.

        Returns:
            A dictionary of NumPy arrays: `scores [B]`, the sums, and `token_scores [B, T]`, 0 for a
            row's first token and behind its last.

        Example:

        >>> model = Gpt.from_preset("tiny", vocab_size=100)
        >>> model.score([[5, 7, 3]])["token_scores"].shape
        (1, 3)
        """
        rows = _rows_of(token_ids, lengths, self)
        width = max(map(len, rows))
        ids, mask = np.zeros((2, len(rows), width), "int32")
        for row, line, shown in zip(rows, ids, mask):
            line[: len(row)], shown[: len(row)] = row, 1
        logits = ops.cast(self({"token_ids": ids, "attention_mask": mask}), "float32")[:, :-1]
        chosen = ops.take_along_axis(logits, ops.expand_dims(ids[:, 1:], -1), axis=-1)
        scores = ops.squeeze(chosen, -1) - ops.logsumexp(logits, axis=-1)
        scores = np.pad(ops.convert_to_numpy(scores) * mask[:, 1:], [(0, 0), (1, 0)])
        return {"scores": scores.sum(1), "token_scores": scores}


def _rows_of(given, lengths, model):
    """Ids of any form as a list of arrays, one a row, validated."""
    if hasattr(given, "to_list"):  # ragged
        given = given.to_list()
    if not isinstance(given, (list, tuple)):
        given = ops.convert_to_numpy(given)
        if given.ndim != 2:
            raise ValueError(
                f"Prompts must have the shape [batch, length]. Received: shape {given.shape}."
            )
        if lengths is None:
            hides = model.pad_id not in (None, model.start_id, model.end_id)
            lengths = (given != model.pad_id).sum(1) if hides else [given.shape[1]] * len(given)
        given = [row[: int(length)] for row, length in zip(given, lengths, strict=True)]
    rows = [np.asarray(row) for row in given]
    if not rows or not all(row.ndim == 1 and row.size for row in rows):
        raise ValueError(
            "Expected prompts of one token at least: a list of lists of ids. A text without a "
            f"beginning starts with start_id={model.start_id}. Received: {given!r}."
        )
    for row in rows:
        model.token_embedding.check_ids(row)
    return rows


def _one_document(inputs):
    return ops.ones_like(inputs["token_ids"], dtype="int32")


def _position_layer(positions, max_length, initializer, policy):
    """What is added to the embeddings; None where queries and keys are rotated."""
    if positions == "rotary":
        return None
    if positions == "learned":
        return PositionEmbedding(
            max_length,
            embeddings_initializer=initializer,
            dtype=policy,
            name="position_embedding",
        )
    return PositionalEncoding(positions, dtype=policy, name="positions")


def _checked(config, policy):
    """Sizes that fit, as a configuration can hold them."""
    config["dtype"] = keras.dtype_policies.serialize(policy)
    for name in ("vocab_size", "d_model", "num_heads", "ffn_dim", "max_length"):
        config[name] = check_positive_int(name, config[name])
    config["num_layers"] = check_int("num_layers", config["num_layers"], least=0)
    for name in ("dropout_rate", "attention_dropout_rate", "embedding_dropout_rate"):
        if config[name] is not None:
            check_rate(name, config[name])
    if config["d_model"] % config["num_heads"]:
        raise ValueError(
            "`num_heads` must divide `d_model`. "
            f"Received: d_model={config['d_model']}, num_heads={config['num_heads']}."
        )
    known = (*functional.SINUSOID_LAYOUTS, "learned", "rotary")
    if config["positions"] not in known:
        raise ValueError(f"`positions` must be one of {known}. Received: {config['positions']!r}.")
    if config["norm"] not in NORMS:
        raise ValueError(f"`norm` must be one of {tuple(NORMS)}. Received: {config['norm']!r}.")
    for name in ("pad_id", "start_id", "end_id"):
        if config[name] is not None:
            config[name] = check_int(name, config[name], 0, config["vocab_size"] - 1)
    return config
