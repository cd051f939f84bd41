"""A training step of the base Transformer: keras_xfmr against KerasHub's layers, float32.

d_model 512, 8 heads, inner size 2048, 6 + 6 blocks, vocabulary 32,000, batch 32, source 32,
target 32; a flag for each. Ours is `models.Transformer` with `MaskedCrossEntropy`, the twin is
described in `benchmarks/twin.py` and has Keras' own masked loss, `SparseCategoricalCrossentropy(
ignore_class=0)`. Both have Keras' Adam and the same fixed batch. Each is run with XLA
(`jit_compile=True`) and without, and the best of each is compared.

    python -m benchmarks.training_step
    python -m benchmarks.training_step --dropout=0.1 --attention_dropout
    python -m benchmarks.training_step --dropout=0 --twin_positions=sine

Prints for each dropout rate (0.1 and 0 unless flags say otherwise) the first loss of every side,
which must begin near log(vocabulary) (ours somewhat above, as its logits begin with a variance near
1), the median step with quartiles, target tokens a second, how many times as
fast ours is, and the peak memory of each side in a process of its own.
"""

import functools

import keras
import numpy as np
from absl import app, flags

from benchmarks import side_by_side, twin
from examples import command_line
from keras_xfmr import training

FLAGS = flags.FLAGS
flags.DEFINE_multi_float("dropout", [0.1, 0.0], "Dropout rates, a comparison each.")
flags.DEFINE_integer("batch_size", 32, "Sentence pairs in a batch.")

SETTINGS = {"XLA": True, "graph": False}
LOSSES = {
    "keras_xfmr": training.MaskedCrossEntropy,
    "KerasHub": functools.partial(
        keras.losses.SparseCategoricalCrossentropy, from_logits=True, ignore_class=0
    ),
}
MODELS = {"keras_xfmr": twin.make_ours, "KerasHub": twin.make_twin}


def fixed_batch():
    """Random ids that are no special tokens, as tensors, so that no step has to copy them."""
    draw = np.random.default_rng(0)
    source = draw.integers(4, FLAGS.vocab_size, (FLAGS.batch_size, FLAGS.source_length))
    target = draw.integers(4, FLAGS.vocab_size, (FLAGS.batch_size, FLAGS.target_length + 1))
    source, target = (keras.ops.convert_to_tensor(x.astype("int32")) for x in (source, target))
    return {"source_ids": source, "target_ids": target[:, :-1]}, target[:, 1:]


def make_step(peer, dropout, jit_compile):
    """A function that trains one step."""
    keras.utils.set_random_seed(0)
    model = MODELS[peer](dropout)
    model.compile(keras.optimizers.Adam(1e-4), LOSSES[peer](), jit_compile=jit_compile)
    inputs, labels = fixed_batch()
    first = float(model.train_on_batch(inputs, labels))
    print(f"{peer}, jit_compile={jit_compile}: {model.count_params():,} weights, loss {first:.4f}")
    return lambda: model.train_on_batch(inputs, labels)


def main(argv):
    command_line.flags_alone(argv)
    cases = {}
    for dropout in FLAGS.dropout:
        sides = {
            (peer, setting): functools.partial(make_step, peer, dropout, jit_compile)
            for peer in MODELS
            for setting, jit_compile in SETTINGS.items()
        }
        tokens = FLAGS.batch_size * FLAGS.target_length
        cases[f"training step, dropout {dropout:g}"] = side_by_side.Case(sides, tokens, "tokens")
    side_by_side.run(cases)


if __name__ == "__main__":
    app.run(main)
