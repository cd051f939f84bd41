"""Streams a small and a large file of sentence pairs: memory must not grow with the file.

Writes two TSVs of made-up sentences in a temporary folder, 10 MB and 1 GB unless flags say
otherwise (the same `--rows` pairs again and again), learns a SentencePiece vocabulary of them, and
streams each file through `keras_xfmr.text.PairDataset` in a process of its own. Then a base
Transformer trains a few steps on batches of the same shape, again in its own process, to see
whether the pipeline keeps up; `--training_rows_per_s` takes a known figure instead.

    python -m benchmarks.pipeline
    python -m benchmarks.pipeline --small_mb=1 --large_mb=4 --d_model=64 --num_heads=4 \\
        --ffn_dim=128 --num_layers=1

Prints for each file its rows, rows a second, and resident memory before the iteration and at its
peak; how much more the large file took than the small one; and pipeline rows a second over
training rows a second. The shuffle buffer (`--shuffle_buffer`) fills from both files alike, as long
as the small one has that many rows.
"""

import json
import pathlib
import random
import tempfile
import time

import keras
from absl import app, flags

from benchmarks import side_by_side, twin
from examples import command_line
from keras_xfmr import text, training

FLAGS = flags.FLAGS
flags.DEFINE_float("small_mb", 10, "Size of the small file in MB.")
flags.DEFINE_float("large_mb", 1000, "Size of the large file in MB.")
flags.DEFINE_integer("rows", 20_000, "Different pairs.")
flags.DEFINE_integer("batch_size", 32, "Sentence pairs in a batch.")
flags.DEFINE_integer("shuffle_buffer", 50_000, "Rows to shuffle among.")
flags.DEFINE_integer("pieces", 8000, "Size of the vocabulary to learn.")
flags.DEFINE_integer("training_steps", 10, "Timed training steps.")
flags.DEFINE_float("training_rows_per_s", None, "Rows a second of training, if known.")
flags.DEFINE_string("folder", None, "Where the temporary folder is made.")
flags.DEFINE_string("stream", None, "Set by the parent: streams this file.")
flags.DEFINE_bool("train", False, "Set by the parent: times training.")


def sentences(seed=0):
    """Pairs of made-up sentences of 3 to 12 words, the short words the commonest."""
    draw = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    words = ["".join(draw.choices(syllables, k=1 + rank // 1000)) for rank in range(4000)]
    weights = [1 / (rank + 10) for rank in range(len(words))]

    def sentence():
        return " ".join(draw.choices(words, weights, k=draw.randint(3, 12)))

    return [(sentence(), sentence()) for _ in range(FLAGS.rows)]


def write_file(path, pairs, size_mb):
    """The pairs again and again, up to the size."""
    block = "".join(f"{source}\t{target}\n" for source, target in pairs).encode("utf8")
    left = int(size_mb * 1e6)
    with open(path, "wb") as file:
        while left > 0:
            part = block if left >= len(block) else block[: block.rfind(b"\n", 0, left) + 1]
            file.write(part or block)
            left -= len(block)


def stream(path):
    """One epoch over a file."""
    tokenizer = text.load_tokenizer(pathlib.Path(path).parent / "tokenizer")
    pairs = text.PairDataset(
        path,
        tokenizer,
        tokenizer,
        batch_size=FLAGS.batch_size,
        buckets=(FLAGS.source_length // 2, FLAGS.source_length),
        shuffle_buffer=FLAGS.shuffle_buffer,
        on_bad_row="skip",
    )
    data = pairs.dataset()
    before = side_by_side.resident_mb("VmRSS")
    start = time.perf_counter()
    for _ in data:
        pass
    seconds = time.perf_counter() - start
    return {
        "rows": pairs.rows,
        "skipped": sum(pairs.skipped.values()),
        "rows_per_s": pairs.rows / seconds,
        "before_mb": before,
        "peak_mb": side_by_side.resident_mb(),
    }


def train():
    """Rows a second of training ours, with XLA."""
    model = twin.make_ours(0.1)
    model.compile(keras.optimizers.Adam(1e-4), training.MaskedCrossEntropy(), jit_compile=True)
    source = keras.ops.full((FLAGS.batch_size, FLAGS.source_length), 5, "int32")
    target = keras.ops.full((FLAGS.batch_size, FLAGS.target_length), 5, "int32")
    inputs = {"source_ids": source, "target_ids": target}

    def step():
        return model.train_on_batch(inputs, target)

    seconds = side_by_side.alternate({"step": step}, FLAGS.training_steps, FLAGS.warmup)["step"]
    return {"rows_per_s": FLAGS.batch_size / side_by_side.quartiles(seconds)[1]}


def compare(folder):
    pairs = sentences()
    streams = {}
    for name, size_mb in (("small", FLAGS.small_mb), ("large", FLAGS.large_mb)):
        path = folder / f"{name}.tsv"
        write_file(path, pairs, size_mb)
        if name == "small":
            tokenizer = text.learn_sentence_piece(str(path), FLAGS.pieces)
            tokenizer.save(folder / "tokenizer")
        found = streams[name] = side_by_side.run_child(f"--stream={path}")
        print(
            f"{name} file, {path.stat().st_size / 1e6:,.0f} MB: {found['rows']:,} rows "
            f"({found['skipped']:,} skipped), {found['rows_per_s']:,.0f} rows/s, resident memory "
            f"{found['before_mb']:,.0f} MB before, {found['peak_mb']:,.0f} MB at the peak "
            f"(+{found['peak_mb'] - found['before_mb']:,.0f})",
            flush=True,
        )
        path.unlink()
    small, large = (found["peak_mb"] - found["before_mb"] for found in streams.values())
    print(f"the large file took {large - small:+,.0f} MB more than the small one")
    rate = FLAGS.training_rows_per_s or side_by_side.run_child("--train")["rows_per_s"]
    ratio = streams["large"]["rows_per_s"] / rate
    print(f"training takes {rate:,.0f} rows/s; the pipeline gives {ratio:,.1f} times as many")


def main(argv):
    command_line.flags_alone(argv)
    if FLAGS.stream:
        print(json.dumps(stream(FLAGS.stream)))
    elif FLAGS.train:
        print(json.dumps(train()))
    else:
        with tempfile.TemporaryDirectory(dir=FLAGS.folder) as folder:
            compare(pathlib.Path(folder))


if __name__ == "__main__":
    app.run(main)
