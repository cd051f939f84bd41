"""Loading draws no weight that it reads, and a loaded model is no other for it afterwards."""

import keras
import numpy as np

from keras_xfmr import models

SIZES = dict(d_model=12, num_heads=4, ffn_dim=13, num_layers=2, max_length=11)


def saved(folder):
    model = models.Bert(31, **SIZES)
    model.save_pretrained(folder)
    return model


def test_layers_made_again_from_a_loaded_model_s_are_drawn(tmp_path):
    saved(tmp_path)
    loaded = models.Bert.from_pretrained(tmp_path)
    for layer, inputs in (
        (loaded.encoder_blocks[0], np.ones((1, 3, 12))),
        (loaded.token_embedding, np.ones((1, 3), "int32")),
    ):
        again = type(layer).from_config(layer.get_config())
        again(inputs)
        matrices = [weight for weight in again.weights if len(weight.shape) > 1]
        drawn = [float(np.std(weight)) for weight in matrices if "bias" not in weight.path]
        assert drawn and all(0.01 < std < 0.03 for std in drawn), drawn


def test_only_what_a_checkpoint_may_lack_is_drawn(tmp_path, monkeypatch):
    shapes, kind = [], keras.initializers.TruncatedNormal
    draw = kind.__call__

    def watch(self, shape, dtype=None):
        shapes.append(tuple(shape))
        return draw(self, shape, dtype)

    model = saved(tmp_path)
    monkeypatch.setattr(kind, "__call__", watch)
    models.Bert(31, **SIZES)
    assert len(shapes) == 16
    shapes.clear()
    loaded = models.BertClassifier.from_pretrained(tmp_path, num_classes=5).bert
    assert shapes == [(12, 12), (12, 5)]  # the pooler and the head
    query = loaded.encoder_blocks[1].self_attention.query_dense
    drawn = [np.asarray(query.kernel_initializer((12, 4, 3))) for _ in range(2)]
    assert all(0.01 < np.std(values) < 0.03 for values in drawn) and np.any(drawn[0] != drawn[1])
    assert loaded.get_config()["initializer"] is None
    shapes.clear()
    models.Bert.from_config(model.get_config())
    assert len(shapes) == 16


def test_an_initializer_of_the_user_s(tmp_path):
    model = models.Bert(31, **SIZES, initializer=keras.initializers.Constant(0.5))
    for bert in (model, models.Bert.from_config(model.get_config())):
        np.testing.assert_array_equal(bert.token_embedding.embeddings, 0.5)
        np.testing.assert_array_equal(bert.encoder_blocks[1].feed_forward.inner_dense.kernel, 0.5)
        assert 0.01 < np.std(bert.pooler.kernel) < 0.03


def test_a_configuration_of_version_0_1_draws():
    """In which the initializer that skips had the name `DrawnUnlessLoaded`."""
    module, name = "keras_xfmr.models.pretrained", "DrawnUnlessLoaded"
    config = {"mean": 0.0, "stddev": 0.02, "seed": None}
    described = {"module": module, "class_name": name, "registered_name": f"keras_xfmr>{name}"}
    made = keras.initializers.deserialize({**described, "config": config})
    assert 0.01 < np.std(made((31, 12))) < 0.03


class OwnBert(models.Bert):
    """A user's, whose constructor has the arguments of version 0.1 alone."""

    def __init__(
        self, vocab_size, d_model, num_heads, ffn_dim, num_layers, max_length, type_vocab_size,
        dropout_rate, attention_dropout_rate, hidden_act, layer_norm_eps, pad_token_id,
        initializer_range, pooler=True,
    ):  # fmt: skip
        given = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        super().__init__(**given)


def test_a_subclass_that_takes_no_initializer(tmp_path):
    model = saved(tmp_path)
    loaded, ids = OwnBert.from_pretrained(tmp_path), np.array([[5, 7, 3]])
    np.testing.assert_array_equal(*(np.asarray(m(ids)[0]) for m in (model, loaded)))
