"""What two devices, or two workers, do beside one device: python replica_script.py name ..."""

import json
import os
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_xfmr import layers, models, training

B, T, D, N, V = 2, 7, 6, 3, 13


def drawn(blockwise, rematerialize=False, eager=False):
    """Whether the replicas draw the same dropout, in the first and in a later call."""
    with SEVERAL.scope():
        attention = layers.MultiHeadAttention(N, 2, dropout=0.5, blockwise=blockwise, seed=5)
        layer = layers.EncoderBlock(
            N, 11, self_attention=attention, dropout_rate=0.0, rematerialize=rematerialize
        )
        layer.build((B, T, D))
    x = tf.constant(np.random.default_rng(0).normal(size=(B, T, D)), tf.float32)

    def step():
        return SEVERAL.run(lambda: layer(x, training=True))

    step = step if eager else tf.function(step, autograph=False)
    calls = [SEVERAL.experimental_local_results(step()) for _ in range(2)]
    return [bool(np.allclose(one, other)) for one, other in calls]


def dropout():
    ways = {"whole": (False,), "blocks": (True,), "again": (True, True)}
    return {**{name: drawn(*way) for name, way in ways.items()}, "eager": drawn(True, eager=True)}


def gpt(strategy, loss=None, **arguments):
    keras.utils.set_random_seed(5)
    with strategy.scope():
        model = models.Gpt(V, d_model=D, num_heads=N, ffn_dim=11, num_layers=1, max_length=T,
                           dropout_rate=0.0, attention_dropout_rate=0.0, **arguments)  # fmt: skip
        loss = loss or training.MaskedCrossEntropy(pad_id=-1)
        model.compile(training.AdamW(0.02), loss)
    return model


def rows(count, size):
    """Batches of rows, the labels of some of which are left out."""
    rng = np.random.default_rng(1)
    ids, labels = rng.integers(1, V, (count, T)), rng.integers(0, V, (count, T))
    labels[::2, 3:] = -1
    data = tf.data.Dataset.from_tensor_slices((ids, labels)).batch(size)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return data.with_options(options)


def apart(make, train):
    """How far the weights, and what is reported, are from those of one device."""
    found = []
    for strategy in (ONE, SEVERAL):
        model = make(strategy)
        reported = train(model)
        reported = tf.nest.flatten(getattr(reported, "history", reported))
        found.append([*model.get_weights(), np.array(reported)])
    return max(float(np.abs(one - other).max()) for one, other in zip(*found, strict=True))


def uneven():
    """Batches whose rows the replicas cannot divide, and of which one has none."""
    held_out = rows(5, 6)
    return {
        f"{n} rows": apart(gpt, lambda model, n=n: fit(model, rows(n, 6), held_out))
        for n in (5, 1)
    }


def fit(model, data, held_out=None):
    return model.fit(data, validation_data=held_out, verbose=0, epochs=2)


def refused():
    """What is said of them where Keras cannot take them."""
    found = {}
    for name in ("fit", "evaluate"):
        try:
            getattr(gpt(SEVERAL), name)(rows(5, 6), verbose=0)
        except ValueError as error:
            found[name] = str(error)
    return found


def main(*names):
    global ONE, SEVERAL
    ONE = tf.distribute.get_strategy()
    if "TF_CONFIG" in os.environ:
        SEVERAL = training.MultiWorkerStrategy(timeout=60)
    else:
        cpu, devices = tf.config.list_physical_devices("CPU")[0], ["CPU:0", "CPU:1"]
        logical = [tf.config.LogicalDeviceConfiguration() for _ in devices]
        tf.config.set_logical_device_configuration(cpu, logical)
        SEVERAL = tf.distribute.MirroredStrategy(devices)
    keras.utils.set_random_seed(3)
    print(json.dumps({name: globals()[name]() for name in names}))


if __name__ == "__main__":
    main(*sys.argv[1:])
