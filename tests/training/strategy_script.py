"""Trains models on one device, on two of them, or as one of several workers, for
test_distribution.py: python strategy_script.py kind folder epochs model ..."""

import json
import os
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_xfmr import models, training

ROWS, LENGTH, V = 47, 5, 13
SIZES = {"d_model": 6, "num_heads": 3, "ffn_dim": 11, "num_layers": 1}
STILL = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0}


def arrays():
    """Ids and labels whose rows have one target or five, in turn by batches of two replicas."""
    rng = np.random.default_rng(3)
    ids, labels = rng.integers(3, V, (ROWS, LENGTH)), rng.integers(3, V, (ROWS, LENGTH))
    lengths = np.where(np.arange(ROWS) % 12 < 6, 1, rng.integers(4, 6, ROWS))
    return ids, labels, np.arange(LENGTH) < lengths[:, None]


def transformer():
    ids, labels, inside = arrays()
    model = models.Transformer(V, **SIZES, **STILL)
    inputs = {"source_ids": ids, "target_ids": ids[:, ::-1]}
    return model, training.MaskedCrossEntropy(), metrics(0), (inputs, np.where(inside, labels, 0))


def gpt():
    ids, labels, inside = arrays()
    loss = training.MaskedCrossEntropy(pad_id=-1)
    model = models.Gpt(V, max_length=11, **SIZES, **STILL)
    return model, loss, metrics(-1), ({"token_ids": ids}, np.where(inside, labels, -1))


def bert():
    return models.Bert(V, max_length=11, **SIZES, **STILL)


def classifier():
    ids, labels, inside = arrays()
    weights = np.where(inside[:, 1], 3.0, 0.0)  # some rows are filler
    loss = training.MaskedCrossEntropy(pad_id=-1)
    data = ({"token_ids": np.where(inside, ids, 0)}, labels[:, 0] % 3, weights)
    accuracy = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
    return models.BertClassifier(bert(), 3, dropout_rate=0.0), loss, accuracy, data


def pretrainer():
    ids, labels, inside = arrays()
    inputs = {"token_ids": ids, "masked_positions": np.tile([1, 2, 4], (ROWS, 1))}
    labels = {"mlm": np.where(inside, labels, 0)[:, [0, 2, 4]], "nsp": labels[:, 0] % 2}
    weights = {"mlm": np.ones((ROWS, 3)), "nsp": np.where(np.arange(ROWS) % 12 < 5, 0.0, 1.0)}
    binary = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    loss = {"mlm": training.MaskedCrossEntropy(), "nsp": training.GlobalMean(binary)}
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    return (
        models.BertPretrainer(bert()),
        loss,
        {"mlm": metrics(0), "nsp": [accuracy]},
        (inputs, labels, weights),
    )


def metrics(pad_id):
    return [training.MaskedAccuracy(pad_id=pad_id), training.MaskedPerplexity(pad_id=pad_id)]


MAKERS = {m.__name__: m for m in (transformer, gpt, classifier, pretrainer)}


def batches(data):
    data = tf.data.Dataset.from_tensor_slices(data).batch(6)  # the last batch has five rows
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return data.with_options(options)


def train(name, strategy, epochs, policy):
    """What a model reports, its weights, and its answers."""
    keras.utils.set_random_seed(5)
    keras.mixed_precision.set_global_policy(policy)
    with strategy.scope():
        model, loss, measured, data = MAKERS[name]()
        factors = {layer.name: 0.5 for layer in model.layers if layer.weights}
        optimizer = training.AdamW(
            0.02,
            weight_decay=1e-3,
            epsilon=1e-2,
            global_clipnorm=0.3,
            learning_rate_factors=factors,
        )
        kind = "metrics" if len(data) == 2 else "weighted_metrics"
        model.compile(optimizer, loss, **{kind: measured})
    data = batches(data)
    history = model.fit(data, epochs=epochs, validation_data=data, verbose=0, shuffle=False)
    found = {
        "history": history.history,
        "evaluate": model.evaluate(data, verbose=0, return_dict=True),
        "predict": tf.nest.flatten(model.predict(data, verbose=0))[-1].tolist(),
    }
    if hasattr(model, "generate"):
        found["generate"] = model.generate(arrays()[0][:3], max_length=4)["token_ids"].tolist()
    return found, model.get_weights()


def main(kind, folder, epochs, policy, *names):
    cpu = tf.config.list_physical_devices("CPU")[0]
    if kind == "workers":
        strategies = {kind: training.MultiWorkerStrategy(timeout=120)}
    else:
        devices = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, devices)
        mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        strategies = {"one": tf.distribute.get_strategy(), "mirrored": mirrored}
        strategies = strategies if kind == "both" else {kind: strategies[kind]}
    for label, strategy in strategies.items():
        for name in names:
            found, weights = train(name, strategy, int(epochs), policy)
            index = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {}).get("index", 0)
            file = f"{folder}/{name}-{label}-{strategy.num_replicas_in_sync}-{index}"
            np.savez(file, *weights)
            with open(f"{file}.json", "w", encoding="utf8") as target:
                json.dump(found, target)
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
