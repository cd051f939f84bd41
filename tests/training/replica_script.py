"""What two devices do beside one, for test_replicas.py: python replica_script.py name ..."""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_xfmr import layers

B, T, D, N = 2, 7, 6, 3


def drawn(blockwise, rematerialize=False, eager=False):
    """Whether the replicas draw the same dropout, in the first and in a later call."""
    with MIRRORED.scope():
        attention = layers.MultiHeadAttention(N, 2, dropout=0.5, blockwise=blockwise, seed=5)
        layer = layers.EncoderBlock(
            N, 11, self_attention=attention, dropout_rate=0.0, rematerialize=rematerialize
        )
        layer.build((B, T, D))
    x = tf.constant(np.random.default_rng(0).normal(size=(B, T, D)), tf.float32)

    def step():
        return MIRRORED.run(lambda: layer(x, training=True))

    step = step if eager else tf.function(step, autograph=False)
    calls = [MIRRORED.experimental_local_results(step()) for _ in range(2)]
    return [bool(np.allclose(one, other)) for one, other in calls]


def dropout():
    ways = {"whole": (False,), "blocks": (True,), "again": (True, True)}
    return {**{name: drawn(*way) for name, way in ways.items()}, "eager": drawn(True, eager=True)}


def main(*names):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    global ONE, MIRRORED
    ONE = tf.distribute.get_strategy()
    MIRRORED = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    keras.utils.set_random_seed(3)
    print(json.dumps({name: globals()[name]() for name in names}))


if __name__ == "__main__":
    main(*sys.argv[1:])
