"""Trains models on one device and on meshes of several, for test_layout.py, on the JAX backend:
python layout_script.py devices model ... -- mesh ..., a mesh such as 2x4, or 8 for data alone"""

import json
import sys

import keras
import numpy as np

from keras_xfmr import models, training

V, LENGTH = 32, 6
SIZES = {"d_model": 16, "num_heads": 8, "ffn_dim": 24, "num_layers": 1}
STILL = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0}
IDS = np.random.default_rng(3).integers(3, V, (32, LENGTH))
LABELS = np.where(np.arange(LENGTH) < np.arange(32)[:, None] % 7, IDS, 0)


def transformer():
    model = models.Transformer(V, **SIZES, **STILL)
    return model, training.MaskedCrossEntropy(), {"source_ids": IDS, "target_ids": IDS}, LABELS


def gpt():
    loss = training.MaskedCrossEntropy(pad_id=-1)
    model = models.Gpt(V, max_length=7, num_key_value_heads=2, tie_output=False, **SIZES, **STILL)
    return model, loss, {"token_ids": IDS}, np.where(LABELS, LABELS, -1)


def pretrainer():
    model = models.BertPretrainer(models.Bert(V, max_length=7, type_vocab_size=8, **SIZES, **STILL))
    inputs = {"token_ids": IDS, "masked_positions": np.tile([1, 2, 4], (32, 1))}
    loss = {"mlm": training.MaskedCrossEntropy(), "nsp": training.MaskedCrossEntropy(pad_id=-1)}
    return model, loss, inputs, {"mlm": LABELS[:, :3], "nsp": IDS[:, 0] % 2}


MAKERS = {maker.__name__: maker for maker in (transformer, gpt, pretrainer)}


def distribution(name, mesh):
    """The `keras.distribution` of a mesh, and for a model's weights the layouts."""
    shape = [int(size) for size in mesh.split("x")]
    devices = keras.distribution.list_devices()[: int(np.prod(shape))]
    axes = ["batch", "model"][: len(shape)]
    made = keras.distribution.DeviceMesh(shape, axes, devices)
    if len(shape) == 1:
        return keras.distribution.DataParallel(device_mesh=made)
    with keras.StatelessScope(initialize_variables=False):
        layouts = training.layout_map(MAKERS[name]()[0], made)
    return keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")


def train(name, mesh):
    keras.distribution.set_distribution(None if mesh == "1" else distribution(name, mesh))
    keras.utils.set_random_seed(5)
    model, loss, inputs, labels = MAKERS[name]()
    model.compile(training.AdamW(0.02, epsilon=1e-3), loss)
    history = model.fit(inputs, labels, batch_size=16, epochs=2, verbose=0, shuffle=False)
    found = {"loss": history.history["loss"], "evaluate": model.evaluate(inputs, labels, verbose=0)}
    for kind, variables in (("weights", model.weights), ("slots", model.optimizer.variables)):
        values = [v.value for v in variables if len(v.shape)]
        found[kind] = sum(v.addressable_shards[0].data.nbytes for v in values)
        found[f"split {kind}"] = sum(
            v.addressable_shards[0].data.nbytes < v.nbytes for v in values
        )
    if mesh[0] in "248":
        try:
            model.predict({name: value[:19] for name, value in inputs.items()}, 16, verbose=0)
        except ValueError as error:
            found["uneven"] = str(error)
            model.get_weights()  # Keras may hold them while it predicts
    return found


def main(*arguments):
    names, meshes = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    found = {name: {mesh: train(name, mesh) for mesh in ("1", *meshes)} for name in names}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
