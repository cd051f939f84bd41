"""Vectors or labels of every line of a corpus, from an exported model, on Beam or in a loop.

Beam: Akidau et al. 2015, "The Dataflow Model", https://doi.org/10.14778/2824032.2824076

    python examples/embed_corpus.py --model=runs/similarity/saved_model --files="corpus/*.txt"
    python examples/embed_corpus.py --model=... --files=a.txt,b.txt.gz --runner=loop
    python examples/embed_corpus.py --model=... --files=... --threads=1 \\
        --direct_num_workers=2 --direct_running_mode=multi_processing

--model is an export of `serving.export_encoder` whose `serving_default` reads `text`: an embedder,
a classifier, a regression, a tagger. This file does not import keras_xfmr; a worker needs
tensorflow and tensorflow_text. All runners except --runner=loop need
`pip install -e ".[beam]"` in the clone. Other flags than those below are Beam's, as --name=value,
such as --runner=FlinkRunner. The default is Beam's direct runner in Python, FnApiRunner.

A corpus is split into blocks of --block_lines lines. A worker processes a block at a time, its
lines in batches of similar lengths. One worker reads a whole gzip file. Output in --output:

    rows/FILE-BLOCK.jsonl  {"file", "line", "offset", "vector" or "label" and "score", "truncated"}
    bad/FILE-BLOCK.jsonl   {"file", "line", "offset", "reason", "bytes"} (the first ones, in base64)
    job.json               the corpus and the model; another job is refused
    done.json              counters; written at the end of the job

A line is bad if it is not UTF-8, has a NUL or a carriage return inside, is longer than
--longest_line bytes, or if the model refuses it or returns a number that is not finite. The rest of
a damaged gzip file is one bad line. Blank lines are counted and have no row. A line that the model
cuts has a row with "truncated": true. `line` counts from 1; `offset` is the first byte of the line
(in a gzip file, after unpacking).

Each block has one row file. It is written to a temporary file and renamed when it is complete,
after the file of bad lines. The lines of a block depend only on the corpus. So a worker that
repeats a block (Beam may call a `DoFn` more than once) writes the same file again, a killed job
leaves no partial files, and the same command continues with the missing blocks. Processes that
survive a killed job finish their blocks, which does no harm. Only one job at a time may use an
--output. `ls rows | wc -l` shows the progress on any runner.

Beam's `WriteToText` writes its final files only at the end of the job, so a killed job would lose
everything. The TensorFlow handler of `RunInference` uses `keras.models.load_model`, which cannot
read a SavedModel in Keras 3. Here one `DoFn` turns the lines of a block into its files. Its model
is loaded once for each process, by `apache_beam.utils.shared`.

Time: 40,000 lines of NSMC, an embedder of 1 M weights, 2 cores that others used too, one thread for
each process: the loop 1,160 sentences/s, Beam with one process 1,180, with two 940. These include
the start of 10 s: between the first block and the last it is 1,180 to 1,360. A process takes 1 GB.
The rows of the loop and of Beam are the same bytes with the same number of threads.
"""

import base64
import collections
import contextlib
import gzip
import itertools
import json
import math
import re
import threading
import time
import types
import uuid
import zlib

import command_line
import corpus_job
import tensorflow as tf
from absl import app, flags, logging

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "model", None, "Required. SavedModel that reads `text`, or the folder of its versions.",
    required=True,
)  # fmt: skip
flags.DEFINE_list(
    "files", None, "Required. Text files, a text a line: names or patterns, plain or gzip.",
    required=True,
)  # fmt: skip
flags.DEFINE_string("runner", "direct", "`loop` (without Beam), `direct`, or a runner of Beam.")
flags.DEFINE_list("outputs", [], "Model outputs in a row; default: all but `scores`, `valid`.")
flags.DEFINE_integer("batch_size", 64, "Lines that the model reads at once.", lower_bound=1)
flags.DEFINE_integer("block_lines", 4096, "Lines of a block.", lower_bound=1)
flags.DEFINE_integer("longest_line", 2**20, "Maximum bytes of a line.", lower_bound=1)
flags.DEFINE_integer("threads", 0, "TensorFlow threads of a process; 0: one for each core.",
                     lower_bound=0)  # fmt: skip
flags.DEFINE_string("output", "runs/embed", "Folder for all output files.")

CHUNK = 2**20  # bytes that are read at once
BLOCK_BYTES = 2**24  # of a block of long lines
SHOWN = 200  # bytes of a bad line that are kept


# ---- lines and blocks


def lines_of(file, longest, offset=0):
    """(offset, bytes) of each line, without its end; None instead of the bytes of a too long line.

    A damaged file ends with a line that has a string, the reason, instead of bytes.
    """
    rest, dropped = b"", 0
    read = getattr(file, "read1", file.read)  # gzip: also the bytes before the damage
    while True:
        try:
            chunk = read(CHUNK)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            yield offset, f"the file is packed by gzip, and damaged from here on: {error}"
            return
        if not chunk:
            break
        *ended, rest = (rest + chunk).split(b"\n")
        for line in ended:
            yield offset, None if dropped or len(line) > longest else line
            offset, dropped = offset + dropped + len(line) + 1, 0
        if len(rest) > longest:  # limits the memory for a line
            rest, dropped = b"", dropped + len(rest)
    if rest or dropped:
        yield offset, None if dropped or len(rest) > longest else rest


def blocks_of(file, settings, block=0, line=1, offset=0):
    """(number, first line, lines from `lines_of`) of each block, from the given block on."""
    held, size = [], 0
    for at, content in lines_of(file, settings.longest_line, offset):
        held.append((at, content))
        size += len(content or b"")
        if len(held) == settings.block_lines or size >= BLOCK_BYTES:
            yield block, line, held
            block, line, held, size = block + 1, line + len(held), [], 0
    if held:
        yield block, line, held


@contextlib.contextmanager
def opened(path, offset=0):
    """The open file, unpacked, from an offset on."""
    with tf.io.gfile.GFile(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0 if packed else offset)
        yield gzip.GzipFile(fileobj=file) if packed else file


def divide(file, settings):
    """The work of a file: (number of the file, path, block, line, offset, number of blocks)."""
    index, path = file
    with opened(path) as content:
        if isinstance(content, gzip.GzipFile):  # it cannot be read from its middle
            yield index, path, 0, 1, 0, None
            return
        for block, line, held in blocks_of(content, settings):
            yield index, path, block, line, held[0][0], 1


def parse(path, line, held):
    """The texts of a block, [(position, bytes)], its bad lines, and the number of blank lines."""
    texts, bad, blank = [], [], 0
    for number, (offset, content) in enumerate(held, line):
        where = {"file": path, "line": number, "offset": offset}
        if offset == 0 and isinstance(content, bytes):
            content = content.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
        reason = why_bad(content)
        if reason:
            bad.append(bad_line(where, content if isinstance(content, bytes) else b"", reason))
        elif content.decode().strip():
            texts.append((where, content.removesuffix(b"\r")))
        else:
            blank += 1
    return texts, bad, blank


def why_bad(content):
    """The fault of a bad line; None for text."""
    if content is None:
        return "longer than --longest_line"
    if isinstance(content, str):
        return content
    if inside := re.search(rb"\r[^\r]", content):  # allowed only at the end of a line
        return f"carriage return at byte {inside.start()}"
    if b"\0" in content:
        return f"NUL at byte {content.index(0)}"
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start}: {error.reason}"
    return None


def bad_line(where, content, reason):
    return {**where, "reason": reason, "bytes": base64.b64encode(content[:SHOWN]).decode()}


# ---- the model


class Service:
    """A SavedModel that reads texts: `settings.model`.

    Raises:
        ValueError: it has other inputs, or no such outputs.
    """

    def __init__(self, settings):
        import tensorflow_text  # noqa: F401  registers the operations of the tokenizers

        if settings.threads:
            tf.config.threading.set_intra_op_parallelism_threads(settings.threads)
            tf.config.threading.set_inter_op_parallelism_threads(settings.threads)
        self._model = tf.saved_model.load(settings.model)  # it owns the variables
        self._serve = self._model.signatures["serving_default"]
        self._batch_size = settings.batch_size
        inputs = sorted(self._serve.structured_input_signature[1])
        if inputs != ["text"]:
            raise ValueError(f"Expected a model that reads `text`. Received: one of {inputs}.")
        given = set(self._serve.structured_outputs)
        self._outputs = settings.outputs or sorted(given - {"scores", "valid"} or given)
        if set(self._outputs) - given:
            raise ValueError(
                f"Expected --outputs of {', '.join(sorted(given))}. Received: "
                f"{', '.join(self._outputs)}."
            )

    def __call__(self, texts):
        """A dictionary for each text, or a string with the reason why there is none."""
        found = [None] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # for little padding
        for start in range(0, len(order), self._batch_size):
            part = order[start : start + self._batch_size]
            for i, answer in zip(part, self._ask([texts[i] for i in part])):
                found[i] = answer
        return found

    def _ask(self, texts):
        try:
            values = self._serve(text=tf.constant(texts))
            values = {name: values[name].numpy().tolist() for name in self._outputs}
        except tf.errors.InvalidArgumentError as error:
            if len(texts) > 1:  # one of them causes the error, so each is tried alone
                return [answer for text in texts for answer in self._ask([text])]
            lines = [line for line in error.message.split("\n") if "{{node" not in line]
            reason = (lines or [error.message])[-1]  # the lines before are about the graph
            return [f"the model refuses it: {reason}"]
        return [_row(dict(zip(values, row))) for row in zip(*values.values())]


def _row(row):
    try:
        return {name: _plain(value) for name, value in row.items()}
    except OverflowError:
        return "the model returns a number that is not finite"


def _plain(value):
    """A value for JSON; nine digits are an exact float32."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise OverflowError
        return float(f"{value:.9g}")
    return value.decode() if isinstance(value, bytes) else value


# ---- a block, from its lines to its files


def embed(work, settings, serve):
    """Processes the missing blocks of `divide`'s work; yields counters (name -> number) of each."""
    index, path, block, line, offset, most = work
    with opened(path, offset) as file:
        blocks = blocks_of(file, settings, block, line, offset)
        for number, first, held in itertools.islice(blocks, most):
            begun, name = time.monotonic(), f"{index:05d}-{number:06d}.jsonl"
            texts, bad, blank = parse(path, first, held)
            kept = tf.io.gfile.exists(f"{settings.output}/rows/{name}")
            if not kept:
                write_block(name, texts, bad, settings, serve)
            wrong = count_lines(f"{settings.output}/bad/{name}")
            yield {
                "blocks": 1,
                "lines": len(held),
                "blank": blank,
                "bad": wrong,
                "kept" if kept else "rows": len(held) - blank - wrong,
                "milliseconds": round(1000 * (time.monotonic() - begun)),
            }


def write_block(name, texts, bad, settings, serve):
    """Writes the files of a block: bad lines, including those without an answer, and rows."""
    rows, bad = [], list(bad)
    for (where, text), answer in zip(texts, serve([text for _, text in texts])):
        if isinstance(answer, str):
            bad.append(bad_line(where, text, answer))
        else:
            rows.append({**where, **answer})
    if bad:
        bad.sort(key=lambda one: one["line"])
        write_whole(settings, f"bad/{name}", bad)
    write_whole(settings, f"rows/{name}", rows)  # last: it marks the block as done


def write_whole(settings, name, rows):
    """Writes lines of JSON to a temporary file, and renames it when it is complete."""
    aside = f"{settings.aside}/{uuid.uuid4().hex}"
    with tf.io.gfile.GFile(aside, "wb") as file:
        file.write(b"")  # creates the file: a block may have no rows
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    tf.io.gfile.rename(aside, f"{settings.output}/{name}", overwrite=True)


def count_lines(path):
    """The number of lines of a file, which may be missing."""
    if not tf.io.gfile.exists(path):
        return 0
    with tf.io.gfile.GFile(path, "rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(CHUNK), b""))


# ---- runners


def run_loop(files, settings):
    """Processes all blocks in sequence; returns the counters."""
    serve, total = Service(settings), collections.Counter()
    for file in files:
        for work in divide(file, settings):
            for counts in embed(work, settings, serve):
                total.update(counts)
    return total


def run_beam(files, settings, options):
    """The same on Apache Beam."""
    import apache_beam as beam
    from apache_beam.utils import shared

    class Embed(beam.DoFn):
        def __init__(self):
            self._shared = shared.Shared()

        def setup(self):
            self._serve = self._shared.acquire(lambda: Service(settings))

        def process(self, work):
            for counts in embed(work, settings, self._serve):
                for name, count in counts.items():
                    beam.metrics.Metrics.counter("embed_corpus", name).inc(count)

    pipeline = beam.Pipeline(options=options)
    _ = (
        pipeline
        | "files" >> beam.Create(files)
        | "to all who divide" >> beam.Reshuffle()
        | "blocks" >> beam.FlatMap(divide, settings)
        | "to all who embed" >> beam.Reshuffle()
        | "embed" >> beam.ParDo(Embed())
    )
    threading.excepthook = corpus_job.end_without_worker
    result = pipeline.run()
    state = result.wait_until_finish()
    threading.excepthook = threading.__excepthook__
    if state != beam.runners.runner.PipelineState.DONE:
        raise RuntimeError(f"Beam's job ended as {state}. The same command goes on with it.")
    found = result.metrics().query(beam.metrics.MetricsFilter().with_namespace("embed_corpus"))
    return corpus_job.totals(found["counters"])


def main(argv):
    command_line.flags_alone([argv[0], *(one for one in argv[1:] if not one.startswith("-"))])
    logging.set_verbosity(logging.WARNING)
    if FLAGS.runner == "loop" and argv[1:]:
        raise app.UsageError(f"The loop has no flag {' '.join(argv[1:])}.")
    options = None if FLAGS.runner == "loop" else corpus_job.beam_options(FLAGS.runner, argv[1:])
    output = FLAGS.output.rstrip("/")
    if not output:
        raise app.UsageError("--output must name a folder. Received: nothing.")
    settings = types.SimpleNamespace(
        model=corpus_job.find_model(FLAGS.model.rstrip("/")),
        output=output,
        outputs=sorted(FLAGS.outputs),
        batch_size=FLAGS.batch_size,
        block_lines=FLAGS.block_lines,
        longest_line=FLAGS.longest_line,
        threads=FLAGS.threads,
    )
    names = corpus_job.find_files(FLAGS.files)
    job = corpus_job.describe(names, settings)
    done = corpus_job.before(output, job)
    if done:
        print(f"{output} was done by an earlier run.")
        return corpus_job.report(collections.Counter(done), 0, output)
    # Processes of another, killed job do not find this folder.
    settings.aside = f"{output}/aside-{corpus_job.digest(job)}"
    tf.io.gfile.makedirs(settings.aside)
    write_whole(settings, "job.json", [job])  # first: it identifies a killed run
    for name in ("rows", "bad"):
        tf.io.gfile.makedirs(f"{output}/{name}")
    files, begun = list(enumerate(names)), time.monotonic()
    total = run_beam(files, settings, options) if options else run_loop(files, settings)
    seconds = time.monotonic() - begun
    write_whole(settings, "done.json", [dict(total)])
    tf.io.gfile.rmtree(settings.aside)
    return corpus_job.report(total, seconds, output)


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: FLAGS(argv, known_only=True))
