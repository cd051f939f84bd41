"""Runs an example on several devices (--distribute=mirrored) or workers (--distribute=workers).

The whole example runs in the scope of a `tf.distribute` strategy. All workers run the same command.
The first one, the chief, prints and writes to --output; the others write to a temporary folder. All
workers must see the folder --output. `TF_CONFIG` in the environment, or else the variables of
Slurm, set the worker of a process. examples/distribute/ has a cluster of two workers on this
machine, a file for Slurm and one for Kubeflow.

--batch_size counts the rows of all replicas together: without dropout N replicas learn the same as
one. (Examples that shuffle by `tf.data`, which classify texts or tag words, have another order:
Keras reads a batch before the first epoch in the scope of a strategy.)
"""

import contextlib
import os
import pathlib
import tempfile

import command_line
import tensorflow as tf
from absl import app, flags, logging

from keras_xfmr import training

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "distribute", "none", ["none", "mirrored", "workers"],
    "Train on one device, on all devices of this machine, or with the other workers of a cluster.",
)  # fmt: skip
flags.DEFINE_integer("replicas", 2, "mirrored without GPUs: number of logical CPU devices.")
flags.DEFINE_float("timeout", 1800, "workers: seconds that a worker waits for the others.")


def run(main):
    """`app.run` of an example's `main`, in the scope of the strategy of the flags."""
    app.run(lambda argv: _distributed(main, argv))


def _distributed(main, argv):
    if FLAGS.distribute == "none":
        return main(argv)
    strategy = make_strategy()
    if strategy.num_replicas_in_sync > 1 and FLAGS.jit_compile:
        logging.warning("XLA cannot compile a step of several replicas: --jit_compile=false.")
        FLAGS.jit_compile = False
    with contextlib.ExitStack() as stack:
        if not training.is_chief(strategy):
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(strategy.scope())
        return main(argv)


def make_strategy():
    """The strategy of the flags.

    Raises:
        app.UsageError: workers without a cluster in the environment.
    """
    if FLAGS.distribute == "mirrored":
        if tf.config.list_physical_devices("GPU"):
            return training.MirroredStrategy()
        cpu, count = tf.config.list_physical_devices("CPU")[0], FLAGS.replicas
        devices = [tf.config.LogicalDeviceConfiguration()] * count
        tf.config.set_logical_device_configuration(cpu, devices)
        return training.MirroredStrategy([f"CPU:{index}" for index in range(count)])
    if os.environ.get("TF_CONFIG"):
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    elif "SLURM_STEP_NODELIST" in os.environ:
        resolver = slurm_cluster()
    else:
        raise app.UsageError(
            "--distribute=workers needs a cluster: `TF_CONFIG` in the environment, or a step of "
            "Slurm (srun). Received: neither. See examples/distribute/."
        )
    return training.MultiWorkerStrategy(timeout=FLAGS.timeout, cluster_resolver=resolver)


def by_rows(data):
    """The data set with a policy that gives each worker its rows of every batch.

    By default `tf.distribute` gives each worker every other element from before the shuffle, and
    the batches differ from those of one process.
    """
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return data.with_options(options)


def slurm_cluster():
    """The workers of a step of Slurm. Each sees its own GPUs of the node, if there are any.

    The resolver counts them with nvidia-smi, and sets `CUDA_VISIBLE_DEVICES`. TensorFlow reads this
    variable when it first looks for GPUs, which must be later.
    """
    make = tf.distribute.cluster_resolver.SlurmClusterResolver
    if os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):  # the user hides them
        try:
            resolver = make()
            if resolver.num_accelerators()["GPU"]:  # for each task of a node
                resolver.cluster_spec()
                return resolver
        except (OSError, RuntimeError):  # no nvidia-smi, or one that finds nothing
            logging.info("Slurm: nvidia-smi finds no GPU.")
    tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])  # at least those of a node
    return make(gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False)


def output_folder(path, script, writes):
    """The folder of `command_line.output_folder` for the chief; for another worker a temporary
    folder."""
    if training.is_chief():
        return command_line.output_folder(path, script, writes)
    aside = tempfile.TemporaryDirectory(prefix=f"{pathlib.Path(script).stem}-worker-")
    own = pathlib.Path(aside.name)
    _OWN[own] = aside, pathlib.Path(path)
    return own


def shared_folder(folder):
    """The folder of the chief, for the folder that `output_folder` returned."""
    return _OWN[folder][1] if folder in _OWN else folder


_OWN = {}  # folder of a worker -> the object that removes it, folder of the chief
