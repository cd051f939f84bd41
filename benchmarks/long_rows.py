"""Attention over long rows: memory and time in blocks and with all scores at once, float32.

`MultiHeadAttention(8, 64)` over one causal row, forward and backward, `blockwise=True` against
`blockwise=False`. For each length both run in a process of their own, which prints what its peak
of resident memory grew by, and the seconds of one step. All scores at once are left out where one
matrix of them, 4 bytes x heads x T x T, is larger than `--limit_mb`: several are in memory then.

    python -m benchmarks.long_rows
    python -m benchmarks.long_rows --jit_compile
    python -m benchmarks.long_rows --lengths=1024,2048 --rounds=50

Then the median step at `--short_length` tokens (128) of a batch of 8 rows, of a layer that decides
by the length against one that never takes blocks, side by side: both do the same there.
"""

import json
import statistics
import time

import keras
from absl import app, flags

from benchmarks import side_by_side
from examples import command_line
from keras_xfmr import kernels, layers

FLAGS = flags.FLAGS
flags.DEFINE_list("lengths", ["1024", "2048", "4096", "8192", "16384"], "Lengths of the row.")
flags.DEFINE_integer("num_heads", 8, "Heads.")
flags.DEFINE_integer("head_dim", 64, "Size of a head.")
flags.DEFINE_integer("short_length", 128, "Tokens of the short rows.")
flags.DEFINE_integer("limit_mb", 600, "The largest matrix of scores that is made, in MB.")
flags.DEFINE_bool("jit_compile", False, "Whether XLA compiles the step.")
flags.DEFINE_integer("length", None, "Set by the parent: the row of this process.")
flags.DEFINE_bool("blocks", None, "Set by the parent: whether this process takes blocks.")


def make_step(rows, length, blockwise):
    """A function that runs one step of a layer, forward and backward."""
    layer = layers.MultiHeadAttention(FLAGS.num_heads, FLAGS.head_dim, blockwise=blockwise)
    x = keras.random.normal((rows, length, FLAGS.num_heads * FLAGS.head_dim), seed=1)
    layer.build(x.shape, x.shape)
    model = keras.Sequential([_Causal(layer)])
    model.compile(keras.optimizers.SGD(1e-3), "mse", jit_compile=FLAGS.jit_compile)
    return lambda: model.train_on_batch(x, x)


class _Causal(keras.layers.Layer):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def call(self, inputs):
        return self.attention(inputs, inputs, use_causal_mask=True)

    def compute_output_shape(self, shape):
        return shape


def measure_alone():
    """Prints the peak of memory above that of a short row, and the seconds of the second step."""
    make_step(1, 32, FLAGS.blocks)()
    before, step = side_by_side.resident_mb("VmHWM"), make_step(1, FLAGS.length, FLAGS.blocks)
    step()
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    grown = side_by_side.resident_mb("VmHWM") - before
    print(json.dumps({"mb": grown, "seconds": seconds}))


def print_row(length):
    scores = 4e-6 * FLAGS.num_heads * length**2
    parts = [f"{length:>7,} tokens: one matrix of scores {scores:8,.0f} MB"]
    for name, flag in (("all at once", "--noblocks"), ("in blocks", "--blocks")):
        if flag == "--noblocks" and scores > FLAGS.limit_mb:
            parts.append(f"{name}: left out")
            continue
        found = side_by_side.run_child(f"--length={length}", flag)
        parts.append(f"{name}: {found['mb']:6,.0f} MB {found['seconds']:7.3f} s")
    print("; ".join(parts), flush=True)


def main(argv):
    command_line.flags_alone(argv)
    if FLAGS.length is not None:
        return measure_alone()
    print(f"blocks of {kernels.BLOCK}, jit_compile={FLAGS.jit_compile}")
    for length in map(int, FLAGS.lengths):
        print_row(length)
    sides = {"by length": None, "never in blocks": False}
    steps = {name: make_step(8, FLAGS.short_length, way) for name, way in sides.items()}
    seconds = side_by_side.alternate(steps, FLAGS.rounds, FLAGS.warmup)
    for name, values in seconds.items():
        print(f"{FLAGS.short_length} tokens x 8 rows, {name}: {statistics.median(values):.5f} s")


if __name__ == "__main__":
    app.run(main)
