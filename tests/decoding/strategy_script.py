"""`generate` in the scope of two replicas and from a callback there, for test_generate.py."""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_xfmr import models

SOURCE = np.array([[5, 7, 3], [8, 9, 0]])
SEARCHES = {
    "greedy": {},
    "beam": {"search": "beam", "beam_size": 3, "num_return": 2},
    "sample": {"search": "sample", "seed": 5, "temperature": 2.0},
}


def make():
    model = models.Transformer(11, d_model=6, num_heads=3, ffn_dim=13, num_layers=1)
    rng = np.random.default_rng(35)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.learning_rate = 0.0
    return model


def answers(model, searches, *compiled):
    """Token ids: "name, whether compiled with XLA" -> [B, L] or [B, n, L]."""
    return {
        f"{name}, {jit_compile}": model.generate(
            SOURCE, max_length=4, jit_compile=jit_compile, **SEARCHES[name]
        )["token_ids"].tolist()
        for name in searches
        for jit_compile in compiled
    }


def main(with_fit, *searches):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    outside, callback = answers(make(), searches, False), {}
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = make()
        inside = answers(model, searches, False, True)
        if with_fit == "fit":
            ask = keras.callbacks.LambdaCallback(
                on_epoch_end=lambda *_: callback.update(answers(model, searches, False, True))
            )
            inputs = {"source_ids": SOURCE, "target_ids": SOURCE}
            model.fit(inputs, SOURCE, batch_size=2, verbose=0, callbacks=[ask])
    found = {"outside": outside, "inside": inside, "callback": callback}
    print(json.dumps({"replicas": strategy.num_replicas_in_sync, **found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
