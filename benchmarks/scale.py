"""What bounds a large run: workers, memory of a step, memory of long rows, lines a second.

    python -m benchmarks.scale --files='corpus/*.txt'
    python -m benchmarks.scale --show=workers --rounds=3

`workers`: two of one core each beside one process of two cores, steps a second and bytes a step.
Both train the same GPT on the same batches, in turn, `--rounds` times. Bytes are those that went
over the loopback device while the steps ran, by /proc/net/dev, beside the size of the gradients. On
one machine two workers share its memory bus; a real network was not tried.

`rematerialize`, `long_rows` and `pipelines` run the benchmarks of these names with small settings;
`pipelines` reads `--files`.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from absl import app, flags

from examples import command_line
from examples.distribute import two_workers

OTHERS = {
    "rematerialize": [],
    "long_rows": ["--lengths=1024,2048,4096"],
    "pipelines": ["--lines=20000"],
}

SIZES = ("steps", "batch_size", "length", "d_model")

FLAGS = flags.FLAGS
flags.DEFINE_multi_enum("show", ["workers", *OTHERS], ["workers", *OTHERS], "What to measure.")
flags.DEFINE_list("files", None, "Text files or patterns for `pipelines`.")
flags.DEFINE_bool("child", False, "Be one of the processes that are measured.")
flags.DEFINE_integer("rounds", 3, "Times that each is measured.")
flags.DEFINE_integer("steps", 20, "Steps that are measured, behind as many that warm up.")
flags.DEFINE_integer("batch_size", 32, "Rows of a batch of all workers.")
flags.DEFINE_integer("length", 128, "Tokens of a row.")
flags.DEFINE_integer("d_model", 256, "Size of the model, which has six blocks.")
ROOT = pathlib.Path(__file__).parent.parent


def loopback():
    """Bytes that the loopback device has sent."""
    for line in pathlib.Path("/proc/net/dev").read_text("ascii").splitlines():
        if line.strip().startswith("lo:"):
            return int(line.split(":")[1].split()[8])
    raise OSError("Expected a device `lo` in /proc/net/dev. Received: none.")


def child():
    """Trains, and prints seconds and bytes of a step and the bytes of the gradients."""
    import keras
    import numpy as np
    import tensorflow as tf

    from keras_xfmr import models, training

    cores = len(os.sched_getaffinity(0))
    tf.config.threading.set_intra_op_parallelism_threads(cores)
    several = "TF_CONFIG" in os.environ
    strategy = training.MultiWorkerStrategy() if several else tf.distribute.get_strategy()
    with strategy.scope():
        model = models.Gpt(
            8000, d_model=FLAGS.d_model, num_heads=4, ffn_dim=4 * FLAGS.d_model, num_layers=6,
            max_length=FLAGS.length,
        )  # fmt: skip
        model.compile(training.AdamW(1e-4), training.MaskedCrossEntropy(pad_id=-1))
    ids = np.random.default_rng(3).integers(0, 8000, (FLAGS.batch_size, FLAGS.length + 1))
    data = tf.data.Dataset.from_tensors((ids[:, :-1], ids[:, 1:])).repeat(2 * FLAGS.steps)
    options, policy = tf.data.Options(), tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = policy

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch + 1 == FLAGS.steps:
                self.begin = time.perf_counter(), loopback()

        def on_train_end(self, logs=None):
            seconds, sent = time.perf_counter() - self.begin[0], loopback() - self.begin[1]
            self.found = [seconds / FLAGS.steps, sent / FLAGS.steps]

    clock = Clock()
    model.fit(data.with_options(options), verbose=0, callbacks=[clock])
    print(json.dumps([*clock.found, 4 * model.count_params()]))


def measure(workers):
    """Seconds and bytes of a step, and bytes of the gradients, of the slowest worker."""
    addresses = [f"localhost:{port}" for port in two_workers.free_ports(workers)]
    cores, processes = sorted(os.sched_getaffinity(0))[:2], []
    own = [f"--{name}={FLAGS[name].value}" for name in SIZES]
    for index in range(workers):
        environment = dict(os.environ)
        if workers > 1:
            task = {"type": "worker", "index": index}
            environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
        mine = {cores[index]} if workers > 1 else set(cores)
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.scale", "--child", *own],
                cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
                preexec_fn=lambda mine=mine: os.sched_setaffinity(0, mine),
            )
        )  # fmt: skip
    found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
    return max(found)


def main(argv):
    command_line.flags_alone(argv)
    if FLAGS.child:
        return child()
    if "pipelines" in FLAGS.show and not FLAGS.files:
        raise app.UsageError("`pipelines` needs --files, or name the others by --show.")
    if "workers" in FLAGS.show:
        print("== workers", flush=True)
        compare()
    for name, given in OTHERS.items():
        if name in FLAGS.show:
            print(f"== {name}", flush=True)
            given = [*given, f"--files={','.join(FLAGS.files)}"] if name == "pipelines" else given
            command = [sys.executable, "-m", f"benchmarks.{name}", *given]
            subprocess.run(command, check=True)


def compare():
    """One process beside two workers, in turn."""
    rates = {1: [], 2: []}
    for number in range(FLAGS.rounds):
        for workers in rates:
            seconds, sent, gradients = measure(workers)
            rates[workers].append(FLAGS.batch_size * FLAGS.length / seconds)
            said = f"round {number + 1}, {workers} process(es): {1000 * seconds:.0f} ms a step"
            if workers > 1:
                said += (
                    f", {sent / 1e6:.1f} MB a step over the loopback device, gradients "
                    f"{gradients / 1e6:.1f} MB: {sent / gradients:.2f} times"
                )
            print(said, flush=True)
    one, two = (statistics.median(values) for values in rates.values())
    ratios = [b / a for a, b in zip(*rates.values())]
    print(
        f"tokens a second, medians: {one:,.0f} and {two:,.0f}; two workers reach {two / one:.2f} "
        f"of one process (each round: {', '.join(f'{ratio:.2f}' for ratio in ratios)})"
    )


if __name__ == "__main__":
    app.run(main)
