"""ELMo: LSTMs in both directions over words, as a functional model of the library's layers.

B batch, T words, C characters of a word, U units, P projection_dim
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_xfmr import functional
from keras_xfmr.common.checks import check_choice, check_int
from keras_xfmr.common.types import (
    Activation,
    Config,
    DType,
    Ids,
    Initializer,
    ModelInputs,
    Self,
    State,
    Tensor,
)
from keras_xfmr.layers import CharacterCNN, Dropout, ScalarMix, TokenEmbedding
from keras_xfmr.layers.characters import check_filters
from keras_xfmr.layers.initializers import copy_initializer
from keras_xfmr.models.core.arguments import check_sizes
from keras_xfmr.models.core.bidirectional import BidirectionalBlock
from keras_xfmr.models.core.data import ValidatesData
from keras_xfmr.models.core.encoder import Encoder
from keras_xfmr.models.core.fine_tuning import Adaptable
from keras_xfmr.models.core.inputs import Input, Inputs
from keras_xfmr.models.core.pretrained import Pretrained, saved_initializer

# As in the original: 0 for padding, the bytes of UTF-8 plus 1, and markers of words and sentences.
CHARACTERS = 262
BEGIN_SENTENCE, END_SENTENCE, BEGIN_WORD, END_WORD, FILLING = 257, 258, 259, 260, 261
FILTERS = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))

# Peters et al. 2018, and the smaller models that were published with it.
PRESETS: dict[str, Config] = {
    "original": {},
    "medium": dict(units=2048, projection_dim=256, num_highway=1),
    "small": dict(units=1024, projection_dim=128, num_highway=1),
    "nano": dict(
        units=512, projection_dim=128, num_highway=1,
        filters=((1, 16), (2, 32), (3, 64), (4, 64), (5, 64)),
    ),
    "tiny": dict(
        units=24, projection_dim=8, num_highway=1, character_dim=4, filters=((1, 4), (3, 8)),
        max_characters=16,
    ),
}  # fmt: skip


@keras.saving.register_keras_serializable("keras_xfmr")
class Elmo(Adaptable, Pretrained, ValidatesData, Encoder, keras.Model):
    """Word vectors in context by two stacks of LSTMs, one each way (Peters et al. 2018).

        x = CharacterCNN(characters of the word)            h_0 = [x, x]
        forward_j  = LSTM(forward_{j-1})                    h_j = [forward_j, backward_j]
        backward_j = LSTM(backward_{j-1}), last word first

    With `skip_connections`, the layers above the first add their input to their output. Rows are
    words; the model adds sentence markers at both ends, and removes their vectors. Each call begins
    with a state of zeros, so a sentence has the same vectors in any batch; the original continues
    from the batch before. `encode` takes and returns a state.

    Args:
        vocab_size: None, the default: the model reads characters. Else V, the rows of a table of
            words.
        units: U of each LSTM, by default 4096. All default sizes are the original's.
        projection_dim: P of each LSTM, by default 512.
        num_layers: LSTMs of each direction, by default 2.
        skip_connections: see above, by default True.
        cell_clip, projection_clip: of the LSTMs, by default 3, or None.
        max_characters: C, by default 50.
        character_dim, filters, num_highway, activation: of the `CharacterCNN`.
        dropout_rate: on the words' vectors and on the input of each LSTM, by default 0.1; a
            language model has it on the top vectors, too. Training uses it in a frozen encoder,
            too: pass 0.0 if the encoder is not trained.
        pad_id, start_id, end_id: padding and sentence markers of a table of words, by default 0, 2
            and 3, as in the vocabularies of this library.
        scalar_mix: a dictionary of arguments for the `ScalarMix` of each head, such as
            `{"l2": 1e-3}`. A `.keras` file saves it, `save_pretrained` does not.
        initializer: of all weights; by default each layer has its own.
        dtype: dtype policy of the layers.

    Inputs of the call: a dictionary, or the first one alone.

    - `character_ids`: integers `[B, T, C]`, as `keras_xfmr.text.WordPacker` makes them; with
      `vocab_size` instead `token_ids` `[B, T]`;
    - `attention_mask`: `[B, T]`, 1 = a word, 0 = padding; by default the words that have a
      character, or are not `pad_id`.

    Returns:
        A list of `num_layers` + 1 tensors `[B, T, 2 P]`, h_0 first. Those of the LSTMs are zeros at
        padding.

    Raises:
        ValueError: sizes that do not fit; ids outside their table; rows without words.

    Example:

    >>> model = Elmo.from_preset("tiny")
    >>> words = keras_xfmr.text.words_to_characters(tf.constant([["a", "bat"]]), max_characters=16)
    >>> [tuple(layer.shape) for layer in model(words)]
    [(1, 2, 16), (1, 2, 16), (1, 2, 16)]
    """

    family = "elmo"
    mixes = True

    def __init__(
        self,
        vocab_size: int | None = None,
        *,
        units: int = 4096,
        projection_dim: int = 512,
        num_layers: int = 2,
        skip_connections: bool = True,
        cell_clip: float = 3.0,
        projection_clip: float = 3.0,
        max_characters: int = 50,
        character_dim: int = 16,
        filters: Sequence[Sequence[int]] = FILTERS,
        num_highway: int = 2,
        activation: Activation = "relu",
        dropout_rate: float = 0.1,
        pad_id: int = 0,
        start_id: int = 2,
        end_id: int = 3,
        scalar_mix: Config | None = None,
        initializer: Initializer | None = None,
        dtype: DType | None = None,
        name: str | None = None,
        **kwargs,
    ) -> None:
        self.refuse_unknown(kwargs)
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        self._config = config = _checked(dict(
            vocab_size=vocab_size, units=units, projection_dim=projection_dim,
            num_layers=num_layers, skip_connections=skip_connections, cell_clip=cell_clip,
            projection_clip=projection_clip, max_characters=max_characters,
            character_dim=character_dim, filters=filters, num_highway=num_highway,
            activation=activation, dropout_rate=dropout_rate, pad_id=pad_id, start_id=start_id,
            end_id=end_id, scalar_mix=scalar_mix, initializer=saved_initializer(initializer),
            dtype=keras.dtype_policies.serialize(policy),
        ))  # fmt: skip
        self._given_initializer = keras.initializers.get(initializer)
        self._lora: Config = {}
        self.projection_dim, self.dropout_rate = config["projection_dim"], dropout_rate
        self.d_model = 2 * self.projection_dim
        self.of_characters = vocab_size is None
        self.pad_token_id = None if self.of_characters else config["pad_id"]
        self.words_input = "character_ids" if self.of_characters else "token_ids"

        # ---- layers
        self.token_embedding = self._embedding(policy)
        self.embeddings_dropout = Dropout(dropout_rate, dtype=policy, name="embeddings_dropout")
        self.encoder_blocks = tuple(
            BidirectionalBlock(
                config["units"], self.projection_dim, cell_clip=cell_clip,
                projection_clip=projection_clip, skip_connection=skip_connections and i > 0,
                dropout_rate=dropout_rate if i else 0.0,  # the first input already has it
                initializer=self._initializer_or(None), dtype=policy, name=f"encoder_{i}",
            )
            for i in range(config["num_layers"])
        )  # fmt: skip

        # ---- functional graph
        size, width = (
            (CHARACTERS, config["max_characters"]) if self.of_characters else (vocab_size, None)
        )
        title = "Character ids" if self.of_characters else "Token ids"
        words = Input(self.words_input, title, size, width=width, nonempty=True)
        mask = Input("attention_mask", "`attention_mask`", default=self._mask, like=words.name)
        self.declared_inputs = Inputs(words, mask)
        inputs = self.declared_inputs.symbolic()
        super().__init__(inputs=inputs, outputs=self.vectors(**inputs), name=name, **kwargs)
        self.dtype_policy = policy

    def _initializer_or(self, default):
        given = self._given_initializer
        return default if given is None else copy_initializer(given)

    def _embedding(self, policy):
        config, options = self._config, dict(dtype=policy, name="token_embedding")
        if not self.of_characters:
            return TokenEmbedding(
                config["vocab_size"], self.projection_dim, scale=False,
                embeddings_initializer=self._initializer_or(None), **options,
            )  # fmt: skip
        return CharacterCNN(
            self.projection_dim, config["filters"], character_dim=config["character_dim"],
            num_highway=config["num_highway"], activation=config["activation"],
            num_characters=CHARACTERS, kernel_initializer=self._initializer_or(None), **options,
        )  # fmt: skip

    @classmethod
    def from_preset(cls, preset: str, **overrides) -> Self:
        """A model of a published size, with random weights.

        Args:
            preset: `"original"`, `"medium"`, `"small"`, `"nano"` (for two cores) or `"tiny"`, for
                tests.
            **overrides: other arguments.

        Raises:
            ValueError: an unknown preset.

        Example:

        >>> Elmo.from_preset("tiny").count_params()
        8880
        """
        check_choice("preset", preset, PRESETS)
        return cls(**{**PRESETS[preset], **overrides})

    def hub_config(self) -> Config:
        return {"architectures": ["Elmo"]}

    # ---- what heads read, see `Encoder`

    def vectors(
        self, attention_mask: Tensor, training: bool | None = None, **words
    ) -> list[Tensor]:
        """The vectors of every layer, h_0 first, `[B, T, 2 P]` each; a head mixes them."""
        return self._encode(words[self.words_input], attention_mask, None, training)[0]

    def scalar_mix(self) -> ScalarMix:
        options = self._config["scalar_mix"] or {}
        return ScalarMix(**options, dtype=self.dtype_policy, name="scalar_mix")

    def pool(self, sequence: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The mean of the words of each row `[B, 2 P]`; zeros for a row without words."""
        if attention_mask is None:
            return ops.mean(sequence, axis=1)
        shown = ops.cast(ops.expand_dims(ops.not_equal(attention_mask, 0), -1), sequence.dtype)
        count = ops.maximum(ops.sum(shown, axis=1), 1)
        return ops.sum(sequence * shown, axis=1) / count

    def initializer(self) -> Initializer:
        """A new initializer for a layer of a head."""
        return keras.initializers.GlorotUniform()

    # ---- the call

    def encode(self, inputs: ModelInputs, state: State | None = None) -> tuple[list[Tensor], State]:
        """The vectors of every layer, and the state after the sentences.

        Args:
            inputs: as for the call.
            state: what an earlier call returned for the same number of rows, or None for zeros. The
                masks of the two calls may differ.

        Returns:
            The list that the call returns, and the state: for each LSTM (h `[B, P]`, c `[B, U]`),
            forward and backward.

        Example:

        >>> model = Elmo.from_preset("tiny", vocab_size=100)
        >>> layers, state = model.encode(np.array([[5, 7, 11]]))
        >>> layers, state = model.encode(np.array([[13, 17]]), state)
        >>> len(layers), len(state)
        (3, 2)
        """
        inputs = self.validated_inputs(inputs)
        words = inputs[self.words_input]
        if state is not None:
            self._check_state(state, words.shape[0])
        return self._encode(words, inputs["attention_mask"], state)

    def _check_state(self, state, rows):
        """Raises ValueError if a state does not fit these LSTMs, or has other rows."""
        pair = ((rows, self.projection_dim), (rows, self._config["units"]))
        expected = pair * (2 * len(self.encoder_blocks))
        shapes = [tuple(x.shape) for x in keras.tree.flatten(state) if hasattr(x, "shape")]
        if len(shapes) != len(expected) or not all(map(functional.shapes_agree, shapes, expected)):
            raise ValueError(
                "`state` must be what an earlier `encode` returned for the same number of rows, or "
                f"None for zeros: h and c of shapes {pair} for each LSTM. Received: shapes "
                f"{shapes}."
            )

    def call(
        self,
        inputs: ModelInputs,
        training: bool | None = None,
        mask: Any = None,
        validate: bool = True,
    ) -> Sequence[Tensor]:
        found = super().call(inputs, training=training, mask=mask, validate=validate)
        return found if isinstance(found, (list, tuple)) else [found]  # Keras unpacks a list of one

    def _encode(self, ids, attention_mask, state, training=None):
        mask = ops.cast(attention_mask, "bool")
        x = self.embed(ids, training)
        start, end = (self._marker(mask, i, training) for i in range(2))
        x = ops.concatenate([start, x, end], axis=1)
        wide = ops.pad(mask, [[0, 0], [1, 1]], constant_values=True)
        both = (x, ops.flip(x, 1)), (wide, ops.flip(wide, 1))
        layers, state = self.read(*both, state, training)
        vectors = [
            ops.concatenate([forward, ops.flip(backward, 1)], axis=-1)[:, 1:-1]
            for forward, backward in layers
        ]
        return vectors, state

    def read(
        self,
        sequences: Sequence[Tensor],
        masks: Sequence[Tensor],
        state: State | None = None,
        training: bool | None = None,
    ) -> tuple[list[tuple[Tensor, Tensor]], State]:
        """Runs both directions, each over vectors in its reading order.

        Args:
            sequences: forward and backward, `[B, T, P]` each, with sentence markers.
            masks: likewise, bool `[B, T]`.
            state: see `encode`.

        Returns:
            For each layer a pair of vectors (forward, backward), and the state.
        """
        layers, states = [tuple(sequences)], []
        for i, block in enumerate(self.encoder_blocks):
            before = None if state is None else state[i]
            *pair, after = block(
                *layers[-1], masks=masks, initial_state=before, training=training
            )
            layers.append(tuple(pair))
            states.append(after)
        return layers, states

    def embed(self, ids: Ids, training: bool | None = None) -> Tensor:
        """The words' vectors `[B, T, P]`."""
        options = {} if self.of_characters else {"validate": False}
        return self.embeddings_dropout(self.token_embedding(ids, **options), training=training)

    def _marker(self, mask, place, training):
        """The vector of the marker of a sentence's begin or end, for each row, `[B, 1, P]`."""
        ids = ops.zeros_like(mask[:, :1], dtype="int32")
        if self.of_characters:
            ids = ops.expand_dims(ids, -1) + ops.convert_to_tensor(
                [marker_characters(self._config["max_characters"])[place]]
            )
        else:
            ids = ids + self._config[("start_id", "end_id")[place]]
        return self.embed(ids, training)

    def shown(self, ids: Ids) -> Tensor:
        """Which words are not padding, int32 `[B, T]`."""
        shown = ops.not_equal(ids, 0 if self.of_characters else self.pad_token_id)
        return ops.cast(ops.any(shown, axis=-1) if self.of_characters else shown, "int32")

    def _mask(self, inputs):
        return self.shown(inputs[self.words_input])


def marker_characters(length):
    """The words that begin and end a sentence, as characters: two lists of `length` ids."""
    return [
        [BEGIN_WORD, mark, END_WORD] + [FILLING] * (length - 3)
        for mark in (BEGIN_SENTENCE, END_SENTENCE)
    ]


def _checked(config):
    """Checks the sizes; returns them as a configuration can hold them."""
    sizes = ("units", "projection_dim", "max_characters", "character_dim")
    check_sizes(config, sizes, optional=["vocab_size"])
    for name in ("num_layers", "num_highway"):
        config[name] = check_int(name, config[name], least=0)
    config["filters"] = check_filters(config["filters"])
    if config["vocab_size"] is None:
        widest = max(3, *(width for width, _ in config["filters"]))
        check_int("max_characters", config["max_characters"], least=widest)
    for name in ("pad_id", "start_id", "end_id"):
        last = None if config["vocab_size"] is None else config["vocab_size"] - 1
        config[name] = check_int(name, config[name], 0, last)
    if config["scalar_mix"] is not None:
        config["scalar_mix"] = dict(config["scalar_mix"])
        ScalarMix(**config["scalar_mix"])  # its own errors
    return config
