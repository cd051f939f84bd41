"""How fast each pipeline of `keras_xfmr.text` reads a file, and how much memory it takes.

Each pipeline reads the first `--lines` lines of the files (0: all of them, as they are) in a
process of its own, once from the beginning and once as a resumed run does, which drops all batches.
A pair of sentences is a line beside itself. Vocabularies are learned from 20,000 lines that are
drawn from the whole text.

    python -m benchmarks.pipelines --files='corpus/*.txt'
    python -m benchmarks.pipelines --files=corpus.txt.gz --pipelines=gpt,elmo --shards=2
    python -m benchmarks.pipelines --files='corpus/*.txt' --lines=0 --batches=2000

Prints for each pipeline the seconds from the constructor to the first batch, lines, tokens and
batches a second (`--shards`: of the first shard; lines are those of the whole text), how many
cores were busy, what a batch costs that a resumed run drops, and resident memory before the
pipeline was made and at its peak. With `--batches` an epoch ends early, and no lines are counted.
"""

import itertools
import json
import pathlib
import tempfile
import time

import numpy as np
from absl import app, flags

from benchmarks import side_by_side
from examples import command_line
from keras_xfmr import text
from keras_xfmr.text.data.files import TextFiles

FLAGS = flags.FLAGS
flags.DEFINE_list("files", None, "Text files or patterns, plain or packed by gzip.", required=True)
flags.DEFINE_list("pipelines", ["pairs", "bert", "gpt", "elmo"], "Which ones.")
flags.DEFINE_integer("lines", 100_000, "Lines to read; 0 for the files as they are.", lower_bound=0)
flags.DEFINE_integer("batches", 0, "Batches after which an epoch ends; 0 for none.", lower_bound=0)
flags.DEFINE_integer("batch_size", 32, "Rows of a batch.")
flags.DEFINE_integer("length", 128, "Tokens of a row.")
flags.DEFINE_integer("shards", 1, "Workers, of which the first is measured.")
flags.DEFINE_integer("pieces", 8000, "Size of the vocabularies of pieces.")
flags.DEFINE_integer("words", 50_000, "Size of the vocabulary of words.")
flags.DEFINE_string("only", None, "Set by the parent: reads by this pipeline.")
flags.DEFINE_string("folder", None, "Set by the parent: where the vocabularies are.")

SAMPLE = 20_000  # lines that vocabularies are learned from


def make(name, files):
    """A pipeline, and a function from an element to its tokens."""
    tokenizer = text.load_tokenizer(pathlib.Path(FLAGS.folder) / name)
    length, sizes = FLAGS.length, {"batch_size": FLAGS.batch_size}
    if name == "pairs":
        data = text.PairDataset(
            files, tokenizer, tokenizer, target=files, buckets=(length // 4, length),
            on_bad_row="skip", **sizes,
        )  # fmt: skip
        return data, lambda inputs, labels: np.count_nonzero(labels != tokenizer.pad_id)
    sizes["on_bad_line"] = "skip"
    if name == "bert":
        data = text.PretrainingDataset(
            files, tokenizer, max_length=length, line_documents=True, **sizes
        )
        return data, lambda inputs, *_: np.count_nonzero(inputs["attention_mask"])
    sizes["block_length"] = length
    if name == "gpt":
        data = text.LanguageModelDataset(files, tokenizer, line_documents=True, **sizes)
        return data, lambda inputs, labels: np.count_nonzero(labels >= 0)
    data = text.BidirectionalLanguageModelDataset(files, tokenizer, **sizes)
    return data, lambda inputs, labels: np.count_nonzero(labels["forward"] >= 0)


def learn(folder):
    """Vocabularies for the pipelines, saved under their names."""
    learners = {
        "pairs": lambda: text.learn_sentence_piece(FLAGS.files, FLAGS.pieces, sample=SAMPLE),
        "bert": lambda: text.learn_bert_sentence_piece(FLAGS.files, FLAGS.pieces, sample=SAMPLE),
        "gpt": lambda: text.learn_sentence_piece(FLAGS.files, FLAGS.pieces, sample=SAMPLE),
        "elmo": lambda: text.learn_words(FLAGS.files, FLAGS.words, sample=SAMPLE),
    }
    for name in FLAGS.pipelines:
        learners[name]().save(folder / name)


def read(name):
    """One pipeline's figures."""
    before = side_by_side.resident_mb("VmRSS")
    start = time.perf_counter()
    data, tokens_of = make(name, FLAGS.files)
    shard = (0, FLAGS.shards) if FLAGS.shards > 1 else None
    dataset = data.dataset(shard=shard)
    limit, iterating, worked = FLAGS.batches or None, time.perf_counter(), time.process_time()
    batches = tokens = first = 0
    for element in itertools.islice(dataset.as_numpy_iterator(), limit):
        first = first or time.perf_counter() - start
        batches, tokens = batches + 1, tokens + tokens_of(*element)
    seconds, worked = time.perf_counter() - iterating, time.process_time() - worked
    data.seek(0, batches)
    dropping = time.perf_counter()
    next(dataset.as_numpy_iterator(), None)
    return {
        "first_s": first,
        "seconds": seconds,
        "cores": worked / seconds,
        "batches": batches,
        "tokens": int(tokens),
        "dropping_ms": 1e3 * (time.perf_counter() - dropping) / batches,
        "before_mb": before,
        "peak_mb": side_by_side.resident_mb(),
    }


def compare(folder):
    learn(folder)
    given = [f"--folder={folder}"]
    lines = FLAGS.lines
    if lines:
        readers = itertools.chain.from_iterable(TextFiles(FLAGS.files).readers())
        content = [line.rstrip(b"\n") + b"\n" for line in itertools.islice(readers, lines)]
        (folder / "lines.txt").write_bytes(b"".join(content))
        lines = len(content)
        given.append(f"--files={folder / 'lines.txt'}")
    for name in FLAGS.pipelines:
        found = side_by_side.run_child(f"--only={name}", *given)
        seconds = found["seconds"]
        rates = f"{found['tokens'] / seconds:,.0f} tokens/s, {found['batches'] / seconds:,.1f} "
        if lines and not FLAGS.batches:
            rates = f"{lines / seconds:,.0f} lines/s, {rates}"
        print(
            f"{name}: first batch after {found['first_s']:.1f} s, {rates}batches/s on "
            f"{found['cores']:.1f} cores; "
            f"{found['dropping_ms']:.2f} ms for a batch that is dropped; resident memory "
            f"{found['before_mb']:,.0f} MB before, {found['peak_mb']:,.0f} MB at the peak",
            flush=True,
        )


def main(argv):
    command_line.flags_alone(argv)
    if FLAGS.only:
        print(json.dumps(read(FLAGS.only)))
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(pathlib.Path(folder))


if __name__ == "__main__":
    app.run(main)
