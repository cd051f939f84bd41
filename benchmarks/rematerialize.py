"""Training with and without `rematerialize=True`: memory and time of a step, float32.

A `models.Bert` without a pooler under a dense layer, SGD, a batch of 8 rows of 128 tokens; flags
for the sizes. Memory is measured in processes of their own, each side once with the batch and once
with a single row, and printed is

- by how much the peak of resident memory of the batch is higher than that of the single row:
  activations. What the runtime, the graph, weights and gradients need is in both;
- with XLA the temporary memory of the compiled step, as XLA reports it: activations and what is
  computed on the way, without weights. There the compiler's own memory hides the first figure.

Then the median step of both, side by side in this process.

    python -m benchmarks.rematerialize
    python -m benchmarks.rematerialize --jit_compile
"""

import glob
import json
import os
import re
import statistics
import tempfile

import keras
import numpy as np
from absl import app, flags

from benchmarks import side_by_side
from examples import command_line
from keras_xfmr import models

FLAGS = flags.FLAGS
flags.DEFINE_integer("num_layers", 12, "Blocks.")
flags.DEFINE_integer("d_model", 256, "Size of the vectors, a multiple of 64.")
flags.DEFINE_integer("batch_size", 8, "Rows.")
flags.DEFINE_integer("length", 128, "Tokens of a row.")
flags.DEFINE_float("dropout", 0.1, "Dropout rate.")
flags.DEFINE_bool("jit_compile", False, "Whether XLA compiles the step.")
flags.DEFINE_bool("recomputed", None, "Set by the parent: the side of this process.")


def make_step(rematerialize):
    """A function that trains one step and returns the loss."""
    keras.utils.set_random_seed(0)
    bert = models.Bert(
        1000,
        d_model=FLAGS.d_model,
        num_heads=FLAGS.d_model // 64,
        ffn_dim=4 * FLAGS.d_model,
        num_layers=FLAGS.num_layers,
        max_length=FLAGS.length,
        dropout_rate=FLAGS.dropout,
        attention_dropout_rate=FLAGS.dropout,
        rematerialize=rematerialize,
        pooler=False,
    )
    model = keras.Model(bert.inputs, keras.layers.Dense(1)(bert.outputs[0]))
    model.compile(keras.optimizers.SGD(1e-4), "mse", jit_compile=FLAGS.jit_compile)
    draw, shape = np.random.default_rng(0), (FLAGS.batch_size, FLAGS.length)
    names = "token_ids", "segment_ids", "attention_mask"
    values = draw.integers(1000, size=shape), np.zeros(shape, int), np.ones(shape, int)
    inputs = {name: keras.ops.convert_to_tensor(x, "int32") for name, x in zip(names, values)}
    labels = keras.ops.convert_to_tensor(draw.normal(size=(*shape, 1)).astype("float32"))
    return lambda: float(model.train_on_batch(inputs, labels))


def measure_alone():
    """Prints the peak of memory, and the loss of the third step."""
    step = make_step(FLAGS.recomputed)
    losses = [step() for _ in range(3)]
    print(json.dumps({"mb": side_by_side.resident_mb("VmHWM"), "loss": losses[-1]}))


def temporary_mb(folder):
    """Of the largest program that XLA wrote about."""
    found = 0.0
    for name in glob.glob(os.path.join(folder, "*after_optimizations-memory-usage-report.txt")):
        with open(name, encoding="utf8") as report:
            sizes = re.search(r"size ([\d.]+)(MiB|GiB), preallocated-temp", report.read())
        if sizes:
            found = max(found, float(sizes[1]) * {"MiB": 2**20, "GiB": 2**30}[sizes[2]] / 1e6)
    return found


def print_memory(name, flag):
    with tempfile.TemporaryDirectory() as folder:
        if FLAGS.jit_compile:
            os.environ["XLA_FLAGS"] = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
        found = side_by_side.run_child(flag)
        os.environ.pop("XLA_FLAGS", None)
        temporary = f"; temporary {temporary_mb(folder):,.0f} MB" if FLAGS.jit_compile else ""
    single = side_by_side.run_child(flag, "--batch_size=1")
    print(
        f"{name}: peak {found['mb']:,.0f} MB, {found['mb'] - single['mb']:,.0f} MB above a single "
        f"row{temporary}; loss {found['loss']:.6f}",
        flush=True,
    )


def main(argv):
    command_line.flags_alone(argv)
    if FLAGS.recomputed is not None:
        return measure_alone()
    sides = {"kept": "--norecomputed", "computed again": "--recomputed"}
    if FLAGS.memory:
        for name, flag in sides.items():
            print_memory(name, flag)
    steps = {name: make_step(name != "kept") for name in sides}
    seconds = side_by_side.alternate(steps, FLAGS.rounds, FLAGS.warmup)
    for name, values in seconds.items():
        print(f"{name}: median step {statistics.median(values):.4f} s")
    ratios = [again / kept for kept, again in zip(*seconds.values())]
    print(f"computed again takes {statistics.median(ratios):.3f} times as long")


if __name__ == "__main__":
    app.run(main)
