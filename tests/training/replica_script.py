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


def gpt(strategy, loss=None, optimizer=None, **arguments):
    keras.utils.set_random_seed(5)
    with strategy.scope():
        model = models.Gpt(V, d_model=D, num_heads=N, ffn_dim=11, num_layers=1, max_length=T,
                           dropout_rate=0.0, attention_dropout_rate=0.0, **arguments)  # fmt: skip
        loss = loss or training.MaskedCrossEntropy(pad_id=-1)
        model.compile(optimizer() if optimizer else training.AdamW(0.02, epsilon=1e-2), loss)
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
    """How far the weights, and what is reported, are from those of one device, relatively."""
    found = []
    for strategy in (ONE, SEVERAL):
        model = make(strategy)
        reported = train(model)
        reported = tf.nest.flatten(getattr(reported, "history", reported))
        found.append([*model.get_weights(), np.array(reported)])
    return max(
        float(np.abs(one - other).max() / max(1.0, np.abs(one).max()))
        for one, other in zip(*found, strict=True)
    )


def uneven():
    """Batches whose rows the replicas cannot divide, and of which one has none."""
    held_out = rows(5, 6)
    return {
        f"{n} rows": apart(gpt, lambda model, n=n: fit(model, rows(n, 6), held_out))
        for n in (5, 1)
    }


def uneven_mirrored():
    """The same on the devices of this process."""
    global SEVERAL
    SEVERAL = training.MirroredStrategy(["CPU:0", "CPU:1"])
    return uneven()


def fit(model, data, held_out=None):
    return model.fit(data, validation_data=held_out, verbose=0, epochs=2)


def said(function):
    """The message of its ValueError."""
    try:
        function()
    except ValueError as error:
        return str(error)


def refused():
    """What is said of what Keras cannot do."""
    found = {
        name: said(lambda name=name: getattr(gpt(SEVERAL), name)(rows(5, 6), verbose=0))
        for name in ("fit", "evaluate")
    }
    for make in (training.AdamW, keras.optimizers.Adam):
        for given in ({"gradient_accumulation_steps": 2},
                      {"use_ema": True, "ema_overwrite_frequency": 3}):  # fmt: skip
            model = gpt(SEVERAL, optimizer=lambda make=make, given=given: make(**given))
            name = f"{make.__module__.split('.')[0]} {list(given)[-1]}"
            found[name] = said(lambda model=model: fit(model, rows(4, 4)))
    return found


def losses():
    """How far what is trained and reported is from one device, by losses."""
    classes = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    makers = {
        "own mask": lambda: training.GlobalMean(classes),
        "sum": lambda: training.MaskedCrossEntropy(pad_id=-1, reduction="sum"),
        "sum of own mask": lambda: training.GlobalMean(classes, reduction="sum"),
    }
    found = {
        name: apart(
            lambda strategy, make=make: gpt(strategy, make()),
            lambda model: [
                *fit(model, rows(9, 6)).history["loss"], model.evaluate(rows(9, 6), verbose=0)
            ],
        )
        for name, make in makers.items()
    }  # fmt: skip
    weights = np.random.default_rng(2).uniform(size=(9, 1))  # of rows, for losses of tokens
    data = tf.data.Dataset.zip(rows(9, 9).unbatch(), tf.data.Dataset.from_tensor_slices(weights))
    data = data.map(lambda batch, weight: (*batch, weight)).batch(6)
    found["weights of fewer axes"] = apart(
        lambda strategy: gpt(strategy, training.GlobalMean(classes)), lambda model: fit(model, data)
    )
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
