"""What every model and head must do, whatever it computes: the registry and shared steps.

B batch, S source or length of a row, T target, P predictions, D d_model, V vocab_size, C classes
"""

import dataclasses
import functools
import typing

import keras
import numpy as np
from keras import ops

from keras_xfmr import layers, models, training
from keras_xfmr.models import Input, Inputs
from keras_xfmr.models.core.data import ValidatesData

B, S, T, P, D, V, C = 2, 7, 5, 2, 12, 31, 3
LONGEST, PAD = 11, 1
SIZES = dict(d_model=D, num_heads=3, ffn_dim=13, num_layers=1, max_length=LONGEST)
STILL = dict(dropout_rate=0.0, attention_dropout_rate=0.0)
BERT = dict(
    vocab_size=V, hidden_act="gelu_new", layer_norm_eps=1e-3, pad_token_id=PAD, type_vocab_size=3,
    **SIZES, **STILL,
)  # fmt: skip
GPT = dict(vocab_size=V, epsilon=1e-3, pad_id=PAD, start_id=2, end_id=3, **SIZES, **STILL)
MODERN = dict(
    positions="rotary", norm="rms_norm", activation="swiglu", use_bias=False,
    num_key_value_heads=1, tie_output=False,
)  # fmt: skip
ELMO = dict(
    units=13, projection_dim=6, num_layers=2, cell_clip=2.0, projection_clip=1.5, max_characters=5,
    character_dim=4, filters=[[1, 3], [2, 5]], num_highway=1, dropout_rate=0.0,
    scalar_mix={"layer_norm": True},
)  # fmt: skip
ELMO_WORDS = dict(ELMO, vocab_size=V, pad_id=PAD, start_id=2, end_id=3, skip_connections=False)
TRANSFORMER = dict(source_vocab_size=29, target_vocab_size=V, pad_id=PAD, **SIZES, **STILL)

# ---- inputs; the second row ends with padding

IDS = np.array([[5, 9, 28, 17, 4, 12, 6], [8, 21, 5, 13] + [PAD] * 3], "int32")
SEGMENTS = np.array([[0, 0, 1, 1, 1, 2, 2], [0, 0, 1, 1, 0, 0, 0]], "int32")
DOCUMENTS = np.array([[1, 1, 1, 2, 2, 2, 2], [1, 1, 2, 2, 0, 0, 0]], "int32")
TARGETS = np.array([[2, 7, 30, 4, 9], [2, 5, 11] + [PAD] * 2], "int32")
ALONE = {"token_ids": IDS}
PAIR = {"token_ids": IDS, "segment_ids": SEGMENTS}
PLACES = {"masked_positions": np.array([[1, 4], [3, 1]], "int32")}
TEXT = {"token_ids": IDS, "document_ids": DOCUMENTS}
NUMBERED = {**PAIR, "document_ids": DOCUMENTS}
BOTH = {"source_ids": IDS, "target_ids": TARGETS}
LETTERS = np.random.default_rng(4).integers(1, 262, (B, S, 5), "int32") * (IDS != PAD)[..., None]
SPELLED = {"character_ids": LETTERS}
TURNED = {"token_ids": IDS, "reverse_token_ids": np.where(IDS == PAD, PAD, V - 1 - IDS + PAD)}


# ---- a user's own


def _shown(inputs):
    return ops.cast(ops.not_equal(inputs["token_ids"], PAD), "int32")


@keras.saving.register_keras_serializable("tests")
class Reader(ValidatesData, models.Encoder, keras.Model):
    """An encoder: sinusoids and pre-norm blocks; no segments, no pooler, padding 1."""

    def __init__(self, d_model=D, num_layers=1, dtype=None, name=None, trainable=True):
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        self.d_model, self.num_layers, self.dropout_rate = d_model, num_layers, 0.0
        self.pad_token_id, self.activation, self.layer_norm_eps = PAD, "relu", 1e-3
        self.token_embedding = layers.TokenEmbedding(V, d_model, dtype=policy, name="tokens")
        self.position = layers.PositionalEncoding(dtype=policy, name="positions")
        options = dict(norm_first=True, dropout_rate=0.0, dtype=policy)
        self.encoder_blocks = [
            layers.EncoderBlock(3, 13, **options, name=f"block_{i}") for i in range(num_layers)
        ]
        self.declared_inputs = Inputs(
            Input("token_ids", "Token ids", V, longest=LONGEST),
            Input("attention_mask", "mask", default=_shown),
        )
        inputs = self.declared_inputs.symbolic()
        sequence = self.encode(**inputs)
        super().__init__(inputs=inputs, outputs=[sequence, self.pool(sequence)], name=name)
        self.dtype_policy, self.trainable = policy, trainable

    def encode(self, token_ids, attention_mask):
        x = self.position(self.token_embedding(token_ids, validate=False))
        mask = ops.expand_dims(ops.cast(attention_mask, "bool"), 1)
        for block in self.encoder_blocks:
            x = block(x, attention_mask=mask)
        return x

    def initializer(self):
        return keras.initializers.RandomNormal(stddev=0.5)

    def get_config(self):
        policy = keras.dtype_policies.serialize(self.dtype_policy)
        sizes = {"d_model": self.d_model, "num_layers": self.num_layers, "dtype": policy}
        return {**sizes, "name": self.name, "trainable": self.trainable}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)


def own(kind):
    """A user's subclass: an argument of its own, and outputs that depend on it."""

    class Own(kind):
        def __init__(self, *args, factor=1.0, **kwargs):
            super().__init__(*args, **kwargs)
            self.factor = factor

        def call(self, inputs, training=None, mask=None, **kwargs):
            outputs = super().call(inputs, training=training, mask=mask, **kwargs)
            return keras.tree.map_structure(lambda x: self.factor * x, outputs)

        def get_config(self):
            return {**super().get_config(), "factor": self.factor}

    Own.__name__ = Own.__qualname__ = f"Own{kind.__name__}"
    return keras.saving.register_keras_serializable("tests")(Own)


# ---- the registry: a line for each model


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One model, its arguments away from their defaults, and what it is called with.

    Attributes:
        model: the exported class.
        arguments: of the constructor, besides the encoder.
        inputs: of the call, by their names.
        outputs: their shapes; logits of classes, whose last axis the labels do not have.
        encoder: what makes the encoder of a head; its arguments are those of `make`.
        loss: "mse" where the outputs are numbers and no logits.
        half: the dtype of the outputs in half precision; None: that of the layers.
        kind: the class that is made, where it is a user's.
        name: of the case, where a model has several.
    """

    model: type
    arguments: dict
    inputs: dict
    outputs: typing.Any
    encoder: typing.Callable | None = None
    loss: str | None = None
    half: str | None = None
    kind: typing.Callable | None = None
    name: str = ""

    def __str__(self):
        return self.name or self.model.__name__

    @property
    def adaptable(self):
        """Whether blocks can be frozen by their number and updated."""
        return hasattr(self.model, "enable_lora") or self.encoder not in (None, Reader)

    @property
    def updatable(self):
        """Whether there are layers for low-rank updates."""
        lstms = self.model is models.Elmo or self.encoder in (elmo, elmo_of_words)
        return self.adaptable and not lstms

    def make(self, **options):
        """A new model; options are those of the encoder, where it has one."""
        kind = self.kind or self.model
        if self.encoder is None:
            return kind(**{**self.arguments, **options})
        return kind(self.encoder(**options), **self.arguments)

    def built(self, **options):
        """A new model whose weights are drawn: zeros and ones would hide some of them."""
        return draw_weights(self.make(**options))

    @functools.cached_property
    def example(self):
        """A model for all tests that leave it as it is."""
        return self.built()

    def labels(self):
        """Labels of all outputs."""
        rng = np.random.default_rng(5)

        def draw(shape):
            if self.loss == "mse":
                return rng.normal(size=shape).astype("float32")
            return rng.integers(shape[-1], size=shape[:-1]).astype("int32")

        labels = of_shapes(draw, self.outputs)
        return tuple(labels) if isinstance(labels, list) else labels

    def compiled(self, model, optimizer="sgd", **options):
        def loss(_):
            return self.loss or training.MaskedCrossEntropy(pad_id=-1)

        model.compile(optimizer, of_shapes(loss, self.outputs), **options)
        return model


def of_shapes(function, shapes):
    """`function` of each shape in a dictionary, in a list, or alone."""
    if isinstance(shapes, dict):
        return {name: function(shape) for name, shape in shapes.items()}
    return [function(shape) for shape in shapes] if isinstance(shapes, list) else function(shapes)


def bert(**options):
    return models.Bert(**{**BERT, **options})


def packed_bert(**options):
    return bert(packed=True, **options)


def gpt(**options):
    return models.Gpt(**{**GPT, **options})


def elmo(**options):
    return models.Elmo(**{**ELMO, **options})


def elmo_of_words(**options):
    return models.Elmo(**{**ELMO_WORDS, **options})


CLASSES, TAGS, VECTORS = (B, C), (B, S, C), (B, D)
SPANS = {"start": (B, S), "end": (B, S)}
WORDS = {"mlm": (B, P, V), "nsp": (B, 2)}
SEQUENCES = [(B, S, D), VECTORS]
NAMES = dict(num_classes=C, labels=["O", "B-X", "I-X"])
PLAIN = dict(pooling="cls", normalize=False)
CASES = [
    Case(models.Bert, BERT, PAIR, SEQUENCES, loss="mse"),
    Case(
        models.Bert, {**BERT, "packed": True}, NUMBERED, SEQUENCES, loss="mse", name="Bert, packed"
    ),
    Case(models.BertClassifier, {**NAMES, "dropout_rate": 0.0}, PAIR, CLASSES, bert),
    Case(models.Classifier, NAMES, NUMBERED, CLASSES, packed_bert, name="Classifier, packed"),
    Case(models.BertEmbedder, PLAIN, PAIR, VECTORS, bert, loss="mse", half="float32"),
    Case(models.BertPretrainer, {}, {**PAIR, **PLACES}, WORDS, bert),
    Case(models.BertSpanPredictor, {}, PAIR, SPANS, bert),
    Case(models.BertTokenClassifier, {**NAMES, "pad_class": 2}, PAIR, TAGS, bert),
    Case(models.Classifier, NAMES, ALONE, CLASSES, Reader),
    Case(models.Elmo, ELMO, SPELLED, [(B, S, D)] * 3, loss="mse"),
    Case(models.Elmo, ELMO_WORDS, ALONE, [(B, S, D)] * 3, loss="mse", name="Elmo of words"),
    Case(
        models.ElmoLanguageModel, dict(vocab_size=V), TURNED,
        {"forward": (B, S, V), "backward": (B, S, V)}, elmo_of_words,
    ),
    Case(models.Classifier, NAMES, SPELLED, CLASSES, elmo, name="Classifier of an Elmo"),
    Case(models.Tagger, NAMES, SPELLED, TAGS, elmo, name="Tagger of an Elmo"),
    Case(models.Embedder, {}, ALONE, VECTORS, Reader, loss="mse", half="float32"),
    Case(models.Encoder, {}, ALONE, SEQUENCES, loss="mse", kind=Reader),
    Case(models.Gpt, GPT, TEXT, (B, S, V)),
    Case(models.Gpt, {**GPT, **MODERN}, TEXT, (B, S, V), name="Gpt, modern"),
    Case(models.GptClassifier, NAMES, ALONE, {"classes": CLASSES, "lm": (B, S, V)}, gpt),
    Case(models.Embedder, {}, ALONE, VECTORS, gpt, "mse", "float32", name="Embedder of a Gpt"),
    Case(models.SpanPredictor, {}, ALONE, SPANS, gpt, name="SpanPredictor of a Gpt"),
    Case(
        models.MaskedLanguageModel, dict(next_sentence=False), {**ALONE, **PLACES},
        {"mlm": (B, P, V)}, Reader,
    ),
    Case(models.SpanPredictor, {}, ALONE, SPANS, Reader),
    Case(models.Tagger, NAMES, ALONE, TAGS, Reader),
    Case(models.Transformer, {**TRANSFORMER, "positions": "learned"}, BOTH, (B, T, V)),
]  # fmt: skip
OTHERS = {
    models.Bert: {},
    models.BertClassifier: {},
    models.Gpt: dict(norm_first=False, positions="interleaved"),
    # One vocabulary, and one table for it.
    models.Transformer: dict(source_vocab_size=V, target_vocab_size=None, norm_first=True),
}
OWN = [
    dataclasses.replace(
        case, kind=own(case.model), name=f"a user's {case.model.__name__}",
        arguments={**case.arguments, **OTHERS[case.model], "factor": 0.75},
    )
    for case in CASES
    if case.model in OTHERS and not case.name
]  # fmt: skip


# ---- steps


def draw_weights(model, seed=13, scale=0.5):
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(scale * rng.normal(size=variable.shape))
    return model


def answers(model, inputs):
    """All outputs as a flat list of arrays."""
    outputs = keras.tree.flatten(model(inputs))
    return [ops.convert_to_numpy(ops.cast(x, "float32")) for x in outputs]


def assert_same(found, expected, **tolerance):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, **tolerance)


def real_positions(output, inputs):
    """Which entries of an output belong to tokens: all of them, where its rows have no positions.

    The widths of rows are primes, each another.
    """
    for name in ("target_ids", "token_ids", "character_ids"):
        if name in inputs and output.shape[1] == inputs[name].shape[1]:
            shown = inputs[name] != (0 if name == "character_ids" else PAD)
            return shown.any(-1) if shown.ndim == 3 else shown
    return np.ones(output.shape[:1], bool)


def widened(inputs, columns):
    """Rows with more padding."""
    pads = dict.fromkeys(("token_ids", "reverse_token_ids", "source_ids", "target_ids"), PAD)
    return {
        name: np.pad(
            ids, [(0, 0), (0, columns), (0, 0)][: ids.ndim], constant_values=pads.get(name, 0)
        )
        for name, ids in inputs.items()
        if name not in PLACES
    } | {name: ids for name, ids in inputs.items() if name in PLACES}


def paths(weights):
    return [weight.path for weight in weights]
