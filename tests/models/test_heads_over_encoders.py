"""Every head goes under an encoder of a user's own, and costs it a line.

B batch, T length, V vocab_size
"""

import keras
import numpy as np
import pytest
from keras import ops

from keras_xfmr import layers, models
from keras_xfmr.models.core.data import ValidatesData
from keras_xfmr.models.core.inputs import Input, Inputs

pytestmark = pytest.mark.portable
B, T, V = 2, 5, 23
IDS = np.array([[2, 5, 7, 3, 1], [2, 9, 3, 1, 1]])


@keras.saving.register_keras_serializable("tests")
class Reader(ValidatesData, models.Encoder, keras.Model):
    """Sinusoids and one pre-norm block; no segments, no pooler, padding 1."""

    def __init__(self, d_model=6, **kwargs):
        self.d_model, self.dropout_rate, self.pad_token_id = d_model, 0.0, 1
        self.activation, self.layer_norm_eps = "relu", 1e-6
        self.token_embedding = layers.TokenEmbedding(V, d_model)
        self.position = layers.PositionalEncoding()
        self.encoder_blocks = [layers.EncoderBlock(2, 7, norm_first=True)]
        self.declared_inputs = Inputs(
            Input("token_ids", "Token ids", V, longest=T),
            Input("attention_mask", "mask", default=lambda x: ops.not_equal(x["token_ids"], 1)),
        )
        inputs = self.declared_inputs.symbolic()
        sequence = self.encode(**inputs)
        super().__init__(inputs=inputs, outputs=[sequence, self.pool(sequence)], **kwargs)

    def encode(self, token_ids, attention_mask):
        x = self.position(self.token_embedding(token_ids, validate=False))
        mask = ops.expand_dims(ops.cast(attention_mask, "bool"), 1)
        for block in self.encoder_blocks:
            x = block(x, attention_mask=mask)
        return x

    def initializer(self):
        return keras.initializers.RandomNormal(stddev=0.5)

    def get_config(self):
        return {"d_model": self.d_model, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)


HEADS = {
    models.Classifier: dict(num_classes=3),
    models.Embedder: {},
    models.MaskedLanguageModel: {},
    models.SpanPredictor: {},
    models.Tagger: dict(num_classes=3, labels=["O", "B-X", "I-X"]),
}


def inputs_of(kind):
    masked = {"masked_positions": np.array([[1, 2], [1, 0]])}
    return {"token_ids": IDS, **(masked if kind is models.MaskedLanguageModel else {})}


def same(one, other):
    for a, b in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True):
        np.testing.assert_allclose(*map(ops.convert_to_numpy, (a, b)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", HEADS, ids=lambda kind: kind.__name__)
def test_a_head_over_an_encoder_of_a_user(kind, tmp_path):
    head, inputs = kind(Reader(), **HEADS[kind]), inputs_of(kind)
    found = head(inputs)
    head.save(tmp_path / "head.keras")
    back = keras.models.load_model(tmp_path / "head.keras")
    assert type(back) is kind and type(back.encoder) is Reader
    same(back(inputs), found)
    # Padding that the tokenizer of this encoder has changes nothing.
    narrow = {name: values[:, :4] for name, values in inputs.items()}
    narrow = head({**narrow, "token_ids": IDS[1:, :3].repeat(2, 0)})
    if isinstance(found, dict):
        narrow, found = (list(x.values())[-1:] for x in (narrow, found))  # of spans the end
    for one, other in zip(keras.tree.flatten(narrow), keras.tree.flatten(found)):
        width = 3 if kind in (models.SpanPredictor, models.Tagger) else None
        same(one[1], other[1] if width is None else other[1, :width])
    with pytest.raises(ValueError, match="Token ids must lie in 0 .. 22"):
        head({**inputs, "token_ids": IDS + V})
    with pytest.raises(ValueError, match="Expected `token_ids`.*Received: inputs .*'segment_ids'"):
        head({**inputs, "segment_ids": IDS})


def test_each_call_is_validated_once(monkeypatch):
    head, runs, check = models.Tagger(Reader()), [], Inputs.check
    monkeypatch.setattr(Inputs, "check", lambda self, inputs: (runs.append(1), check(self, inputs)))
    head(IDS)
    assert len(runs) == 1
    models.BertClassifier(models.Bert(V, d_model=6, num_heads=2, ffn_dim=7, num_layers=1))(IDS)
    assert len(runs) == 2


def test_what_is_no_encoder_is_refused():
    with pytest.raises(TypeError, match="`encoder` must be an encoder, such as .*Bert"):
        models.Classifier(keras.layers.Dense(3))
    with pytest.raises(TypeError, match="`bert` must be an encoder, such as .*Bert"):
        models.BertClassifier(keras.layers.Dense(3))


@pytest.mark.parametrize("kind", [k for k in HEADS if k is not models.MaskedLanguageModel])
def test_a_head_over_a_gpt(kind):
    keras.utils.set_random_seed(5)
    gpt = models.Gpt(
        V, d_model=6, num_heads=2, ffn_dim=7, num_layers=1, max_length=T, pad_id=1,
        start_id=2, end_id=3, initializer_range=0.5,
    )  # fmt: skip
    head = kind(gpt, **HEADS[kind])
    found, alone = (keras.tree.flatten(head(ids)) for ids in (IDS, IDS[1:, :3]))
    for one, other in zip(found, alone, strict=True):
        width = 3 if kind in (models.SpanPredictor, models.Tagger) else None
        same(one[1] if width is None else one[1, :width], other[0])
    assert head.encoder is gpt
