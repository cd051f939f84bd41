"""Pipelines for test_shards.py, and the programs that it starts in processes of their own."""

import json
import os
import pathlib
import pickle
import socket
import subprocess
import sys

import numpy as np

B = 6
ROOT = str(pathlib.Path(__file__).parents[2])
PIPELINES = ("pairs", "mlm", "blocks", "contiguous", "bidirectional")


def write_files(folder):
    """Pairs of two lengths, and documents of up to four lines."""
    words = [f"w{i * i % 23}" for i in range(101)]
    rows = ["".join(words[i : i + 1 + i % 3]) for i in range(53)]
    text = "\n".join(f"{row}\t{row[::-1]}" for row in rows)
    (folder / "pairs.tsv").write_text(text + "\n", "utf8")
    lines = [" ".join(words[i : i + 1 + i % 7]) + ("\n" if i % 4 == 0 else "") for i in range(73)]
    (folder / "corpus.txt").write_text("\n".join(lines) + "\n", "utf8")


def make(name, folder):
    from keras_xfmr import text

    characters = text.CharacterTokenizer(["[PAD]", "[UNK]", "[START]", "[END]", *"w0123456789 "])
    words = ["[PAD]", "[UNK]", "[START]", "[END]", *(f"w{i}" for i in range(0, 23, 3))]
    config = {"batch_size": B, "seed": 3}
    corpus = folder / "corpus.txt"
    if name == "pairs":
        path = folder / "pairs.tsv"
        return text.PairDataset(path, characters, characters, buckets=(7, 13), **config)
    if name == "mlm":
        pieces = text.BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words[4:]])
        return text.PretrainingDataset(corpus, pieces, max_length=11, **config)
    config["block_length"] = 5
    if name == "bidirectional":
        words = text.WordTokenizer(words, split="whitespace")
        return text.BidirectionalLanguageModelDataset(corpus, words, max_characters=7, **config)
    contiguous = name == "contiguous"
    return text.LanguageModelDataset(
        corpus, characters, document_ids=True, contiguous=contiguous, **config
    )


def read(dataset):
    return list(dataset.as_numpy_iterator())


def joined(shards):
    """The batches of which these are the shards, as many of each."""
    import tensorflow as tf

    return [
        tf.nest.map_structure(lambda *rows: np.concatenate(rows), *parts)
        for parts in zip(*shards, strict=True)
    ]


def same(one, other):
    import tensorflow as tf

    assert len(one) == len(other)
    for a, b in zip(one, other):
        tf.nest.assert_same_structure(a, b)
        for x, y in zip(tf.nest.flatten(a), tf.nest.flatten(b)):
            np.testing.assert_array_equal(x, y)


def local(strategy, distributed):
    """The batches that the replicas of this process have, joined."""
    import tensorflow as tf

    batches = []
    for element in distributed:
        parts = [strategy.experimental_local_results(v) for v in tf.nest.flatten(element)]
        rows = [np.concatenate([part.numpy() for part in values]) for values in parts]
        batches.append(tf.nest.pack_sequence_as(element, rows))
    return batches


def both_ways(strategy, data):
    """What this process reads of epoch 1, of the plain data set as `fit` takes it and of shards."""
    data.seek(1)
    yield "fit", local(strategy, strategy.experimental_distribute_dataset(data.dataset()))
    data.seek(1)
    shards = strategy.distribute_datasets_from_function(lambda c: data.dataset(shard=c))
    yield "context", local(strategy, shards)


def mirrored(folder):
    import tensorflow as tf

    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for name in PIPELINES:
        data = make(name, folder)
        data.seek(1)
        whole = read(data.dataset())
        for _, batches in both_ways(strategy, data):
            same(batches, whole)
            print("equal")


def worker(folder):
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    for name in PIPELINES:
        data = make(name, folder)
        for way, batches in both_ways(strategy, data):
            (folder / f"{name}-{way}-{index}").write_bytes(pickle.dumps(batches))


def load(folder, name, way, index):
    return pickle.loads((folder / f"{name}-{way}-{index}").read_bytes())


def run_workers(folder, python):
    """Two processes of one cluster on this machine, to their end."""
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    processes = []
    for index in range(2):
        task = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        environment = {**os.environ, "TF_CONFIG": task, "PYTHONPATH": ROOT}
        command = [python, __file__, "worker", str(folder)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
    wait_for(processes)


def wait_for(processes):
    try:
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors[-4000:].decode()
    finally:
        for process in processes:
            process.kill()


def free_ports(count):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def served(address):
    """A worker of the service, until its input ends."""
    import tensorflow as tf
    import tensorflow_text  # noqa: F401

    service = tf.data.experimental.service
    worker = service.WorkerServer(service.WorkerConfig(address, heartbeat_interval_ms=100))
    print("ready", flush=True)
    sys.stdin.read()
    del worker


def dispatch(folder):
    """Reads two epochs of each pipeline from the service, which has two workers."""
    import tensorflow as tf

    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    address = dispatcher.target.partition("://")[2]
    command = [sys.executable, __file__, "served", address]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    workers = [subprocess.Popen(command, **pipes) for _ in range(2)]
    try:
        for process in workers:
            process.stdout.readline()
        distribute = service.distribute("distributed_epoch", dispatcher.target)
        for name in PIPELINES:
            data = make(name, folder)
            expected = read(data.dataset()) + read(data.dataset())
            found = read(data.epochs(0, 2).apply(distribute))
            same(*(sorted(batches, key=pickle.dumps) for batches in (found, expected)))
            print("equal", flush=True)
    finally:
        for process in workers:
            process.kill()


def run_service(folder, python):
    command = [python, __file__, "dispatch", str(folder)]
    environment = {**os.environ, "PYTHONPATH": ROOT}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def main(program, argument):
    if program == "served":
        served(argument)
    else:
        programs = {"mirrored": mirrored, "worker": worker, "dispatch": dispatch}
        programs[program](pathlib.Path(argument))


if __name__ == "__main__":
    main(*sys.argv[1:])
