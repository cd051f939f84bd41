"""`training.memory_estimate` beside the memory of processes that train, float32 and XLA.

Measured is the most resident memory of a process over two epochs of three steps, less that before
the model is built. Each size has a process of its own.

    python -m benchmarks.memory
    python -m benchmarks.memory --only=bert_base --rematerialize
"""

import json
import subprocess
import sys

import keras
import numpy as np
from absl import app, flags

from examples import command_line
from keras_xfmr import models, training

FLAGS = flags.FLAGS
flags.DEFINE_list("only", None, "Names of sizes; by default all.")
flags.DEFINE_bool("rematerialize", False, "Whether blocks compute their insides twice.")
flags.DEFINE_string("dtype", "float32", "The dtype policy.")
flags.DEFINE_bool("jit_compile", True, "Whether XLA compiles the step.")
flags.DEFINE_string("child", None, "Be the process that measures this size.")
WIDE = dict(d_model=512, num_heads=8, ffn_dim=2048, num_layers=4)
SIZES = {  # rows and tokens of a step
    "bert_2": (32, 128),
    "gpt_4": (8, 256),
    "transformer_4": (32, 64),
    "bert_base": (8, 128),
}


def made(name):
    """The model of a size."""
    more = dict(rematerialize=FLAGS.rematerialize, dtype=FLAGS.dtype)
    if name.startswith("bert"):
        bert = models.Bert(num_layers=2 if name == "bert_2" else 12, **more)
        return models.BertPretrainer(bert)
    if name == "gpt_4":
        return models.Gpt(10_000, max_length=256, **WIDE, **more)
    return models.Transformer(10_000, **WIDE, **more)


def batches(name, rows, length):
    """Inputs and labels of three steps, and the loss."""
    ids = np.random.default_rng(0).integers(3, 10_000, (3 * rows, length))
    loss = training.MaskedCrossEntropy(pad_id=-1)
    if name.startswith("transformer"):
        return {"source_ids": ids, "target_ids": ids}, ids, loss
    if name.startswith("gpt"):
        return {"token_ids": ids}, ids, loss
    count = round(0.15 * length)
    inputs = {"token_ids": ids, "masked_positions": np.tile(np.arange(count), (3 * rows, 1))}
    return inputs, {"mlm": ids[:, :count], "nsp": ids[:, 0] % 2}, {"mlm": loss, "nsp": loss}


def resident(kind):
    """Bytes of this process: `VmRSS` now, `VmHWM` at most."""
    with open("/proc/self/status", encoding="ascii") as file:
        found = dict(line.split(":", 1) for line in file)
    return 1024 * int(found[kind].split()[0])


def child(name):
    """Trains, and prints what it took."""
    keras.ops.matmul(np.ones((8, 8), "float32"), np.ones((8, 8), "float32"))
    before, (rows, length) = resident("VmRSS"), SIZES[name]
    model, (inputs, labels, loss) = made(name), batches(name, rows, length)
    model.compile(training.AdamW(1e-4), loss, jit_compile=FLAGS.jit_compile)
    model.fit(inputs, labels, batch_size=rows, epochs=2, verbose=0)
    print(json.dumps(resident("VmHWM") - before))


def main(argv):
    command_line.flags_alone(argv)
    if FLAGS.child:
        return child(FLAGS.child)
    for name in FLAGS.only or SIZES:
        command = [sys.executable, "-m", "benchmarks.memory", *sys.argv[1:], f"--child={name}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        measured = json.loads(done.stdout.splitlines()[-1])
        found = training.memory_estimate(made(name), *SIZES[name])
        print(
            f"{name}, {SIZES[name][0]} x {SIZES[name][1]}: measured {measured / 1e9:.2f} GB, "
            f"estimate {found.total / measured:.2f} of it: {found}",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
