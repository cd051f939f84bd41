"""How much of a batch is padding, and how fast a classifier trains, with and without packing.

A TSV with a header, one text and its class a line. A vocabulary is learned from the texts; rows are
made three ways:

- padded: one text a row, each row `--lengths` long;
- longest: one text a row, as long as the longest of its batch (it has many shapes, and is not
  timed);
- packed: several texts a row by `text.pack_documents`, and a `Bert(packed=True)`.

Printed are the share of positions that are padding, over all texts; then, for batches of as many
rows, the median training step of padded and packed rows side by side, and real tokens a second.
--jit_compile compiles the steps with XLA.

    python -m benchmarks.packing --file=ratings_train.txt
"""

import csv
import itertools

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks import side_by_side
from examples import command_line
from keras_xfmr import models, text, training

FLAGS = flags.FLAGS
flags.DEFINE_string("file", None, "TSV with a header.", required=True)
flags.DEFINE_string("text", "document", "Name of the column with the text.")
flags.DEFINE_string("label", "label", "Name of the column with the class.")
flags.DEFINE_integer("texts", 20_000, "Texts to read.")
flags.DEFINE_list("lengths", ["64", "128"], "Positions of a row.")
flags.DEFINE_integer("batch_size", 32, "Rows of a batch.")
flags.DEFINE_integer("pieces", 8000, "Size of the vocabulary.")
flags.DEFINE_integer("num_layers", 2, "Blocks.")
flags.DEFINE_integer("d_model", 128, "Size of the vectors, a multiple of 64.")
flags.DEFINE_integer("batches", 4, "Batches that steps take in turn.")
flags.DEFINE_bool("jit_compile", False, "Whether XLA compiles the steps.")

WAYS = ("padded", "longest", "packed")


def read():
    """Texts and the numbers of their classes."""
    with open(FLAGS.file, encoding="utf8", newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        pairs = ((row[FLAGS.text] or "", row[FLAGS.label] or "") for row in rows)
        pairs = list(itertools.islice(filter(all, pairs), FLAGS.texts))
    texts, names = zip(*pairs)
    return list(texts), np.unique(names, return_inverse=True)[1].astype("int32")


def batches_of(way, data, tokenizer, length):
    packer = text.SentencePacker(tokenizer, length, pad_to_max_length=way == "padded")
    rows = tf.data.Dataset.from_tensor_slices(data).batch(FLAGS.batch_size)
    rows = rows.map(lambda texts, labels: (packer(texts), labels))
    if way == "packed":
        return text.pack_documents(rows, FLAGS.batch_size, length, pad_id=tokenizer.pad_id)
    return rows


def waste(batches):
    """The share of positions that are padding, and the number of batches."""
    shown = places = count = 0
    for inputs, _ in batches.as_numpy_iterator():
        shown, places = shown + inputs["attention_mask"].sum(), places + inputs["token_ids"].size
        count += 1
    return 1 - shown / places, count


def make_step(way, batches, tokenizer, length):
    """A function that trains a step, on the next of some batches; real tokens of a step."""
    keras.utils.set_random_seed(0)
    bert = models.Bert(
        tokenizer.vocab_size,
        d_model=FLAGS.d_model,
        num_heads=FLAGS.d_model // 64,
        ffn_dim=4 * FLAGS.d_model,
        num_layers=FLAGS.num_layers,
        max_length=length,
        pad_token_id=tokenizer.pad_id,
        packed=way == "packed",
    )
    model = models.BertClassifier(bert, 2)
    loss = training.MaskedCrossEntropy(pad_id=-1)
    model.compile(training.AdamW(1e-4), loss, jit_compile=FLAGS.jit_compile)
    chosen = list(batches.take(FLAGS.batches))
    turns = itertools.cycle(chosen)
    tokens = np.mean([inputs["attention_mask"].numpy().sum() for inputs, _ in chosen])
    return lambda: float(model.train_on_batch(*next(turns))), tokens


def main(argv):
    command_line.flags_alone(argv)
    data = read()
    tokenizer = text.learn_bert_sentence_piece(
        tf.data.Dataset.from_tensor_slices(data[0]), FLAGS.pieces, lowercase=True
    )
    print(f"{len(data[0])} texts, {tokenizer.vocab_size} pieces, {FLAGS.batch_size} rows a batch")
    for length in map(int, FLAGS.lengths):
        made = {way: batches_of(way, data, tokenizer, length) for way in WAYS}
        for way, batches in made.items():
            share, count = waste(batches)
            print(f"{length} positions, {way}: {share:.1%} padding in {count} batches", flush=True)
        steps = {
            way: make_step(way, made[way], tokenizer, length) for way in ("padded", "packed")
        }
        timed = {way: step for way, (step, _) in steps.items()}
        seconds = side_by_side.alternate(timed, FLAGS.rounds, FLAGS.warmup)
        for way, values in seconds.items():
            low, median, high = side_by_side.quartiles(values)
            print(
                f"{length} positions, {way}: median step {median * 1e3:.1f} ms (quartiles "
                f"{low * 1e3:.1f} .. {high * 1e3:.1f}), {steps[way][1] / median:,.0f} tokens/s",
                flush=True,
            )
        ratios = [
            (steps["packed"][1] / packed) / (steps["padded"][1] / padded)
            for padded, packed in zip(seconds["padded"], seconds["packed"])
        ]
        low, median, high = side_by_side.quartiles(ratios)
        print(
            f"{length} positions: packed rows train {median:.2f} times as many real tokens a "
            f"second (quartiles {low:.2f} .. {high:.2f})",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
