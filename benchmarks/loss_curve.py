"""Two validation-loss curves side by side: keras_xfmr and its KerasHub twin learn the same pairs.

From a TSV of sentence pairs (source, target) 1,000 pairs are held out by a seed, a SentencePiece
vocabulary is learned from the others, and both models are trained on the same batches in the same
order, taking turns, with the same optimizer (AdamW, betas 0.9 and 0.98), schedule (the paper's, or
with `--learning_rate` a rise to it and a fall to 0, as in `examples/translate.py`), loss
(`MaskedCrossEntropy`) and number of steps, both with XLA. The validation loss is the mean
cross-entropy of a held-out target token, the same function for both.

What is not the same is each library's own: ours draws embeddings from N(0, 1 / d_model) and scales
them by sqrt(d_model), KerasHub draws from U(-0.05, 0.05) and does not scale; ours has sinusoidal
positions, the twin learned ones (`--positions`, `--twin_positions`); at `--dropout` above 0
KerasHub also drops attention weights, ours with `--attention_dropout` only. See
`benchmarks/twin.py`.

    python -m benchmarks.loss_curve --data=pairs.tsv
    python -m benchmarks.loss_curve --data=pairs.tsv --d_model=256 --num_layers=3 --steps=5000

Prints both losses every `--eval_every` steps and each side's training pairs a second, and writes
the curves to `--csv`.
"""

import csv
import itertools
import pathlib
import random
import tempfile
import time

import keras
import tensorflow as tf
from absl import app, flags

from benchmarks import twin
from examples import command_line
from keras_xfmr import text, training

FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, "TSV of sentence pairs.", required=True)
flags.DEFINE_string("csv", "runs/loss_curve.csv", "Where the curves are written.")
flags.DEFINE_integer("held_out", 1000, "Pairs that are held out.")
flags.DEFINE_integer("steps", 2000, "Training steps.")
flags.DEFINE_integer("eval_every", 200, "Steps between two validations.")
flags.DEFINE_integer("batch_size", 64, "Sentence pairs in a batch.")
flags.DEFINE_float("dropout", 0.1, "Dropout rate.")
flags.DEFINE_float("label_smoothing", 0.0, "Of the training loss.")
flags.DEFINE_integer("warmup_steps", 1000, "Steps until the highest learning rate.")
flags.DEFINE_float("rate_scale", 1.0, "Factor of the learning rate of the paper's schedule.")
flags.DEFINE_float("learning_rate", None, "Highest rate of a linear rise and fall, instead.")
flags.DEFINE_float("weight_decay", 0.0, "Of all matrices.")
flags.DEFINE_integer("seed", 0, "Of the held-out pairs, the data order and the weights.")
# Smaller than the paper's, so that a run on a CPU ends within the hour.
FLAGS.set_default("d_model", 256)
FLAGS.set_default("num_heads", 4)
FLAGS.set_default("ffn_dim", 1024)
FLAGS.set_default("num_layers", 3)
FLAGS.set_default("vocab_size", 8000)


def split(folder):
    """Two TSVs, what is learned from and what is held out."""
    with open(FLAGS.data, encoding="utf8", newline="\n") as file:
        lines = [line for line in file if line.strip()]
    if len(lines) <= FLAGS.held_out:
        raise ValueError(f"{FLAGS.data} needs more than {FLAGS.held_out} pairs to hold out.")
    random.Random(FLAGS.seed).shuffle(lines)
    parts = {"held": lines[: FLAGS.held_out], "train": lines[FLAGS.held_out :]}
    for name, part in parts.items():
        (folder / f"{name}.tsv").write_text("".join(part), "utf8", newline="\n")
    return [folder / f"{name}.tsv" for name in ("train", "held")]


def learn_vocabulary(path):
    """One vocabulary of both sides."""
    lines = tf.data.TextLineDataset(str(path))
    sides = lines.flat_map(
        lambda line: tf.data.Dataset.from_tensor_slices(tf.strings.split(line, "\t")[:2])
    )
    return text.learn_sentence_piece(sides, FLAGS.vocab_size)


def pair_dataset(path, tokenizer, **options):
    length = max(FLAGS.source_length, FLAGS.target_length)
    return text.PairDataset(
        path,
        tokenizer,
        tokenizer,
        batch_size=FLAGS.batch_size,
        buckets=(length,),
        on_bad_row="skip",
        **options,
    )


def endless(pairs):
    """Batches, epoch after epoch, each in an order of its own."""
    data = pairs.dataset()

    def batches():
        for epoch in itertools.count():
            pairs.seek(epoch)
            yield from data

    return batches()


def make_model(make):
    """A compiled model and its validation loss."""
    keras.utils.set_random_seed(FLAGS.seed)
    model = make(FLAGS.dropout)
    if FLAGS.learning_rate:
        schedule = training.LinearWarmupDecay(
            FLAGS.learning_rate, FLAGS.warmup_steps, FLAGS.steps
        )
    else:
        schedule = training.InverseSqrtSchedule(
            FLAGS.d_model, FLAGS.warmup_steps, scale=FLAGS.rate_scale
        )
    optimizer = training.AdamW(
        schedule, weight_decay=FLAGS.weight_decay, beta_1=0.9, beta_2=0.98, epsilon=1e-9
    )
    loss = training.MaskedCrossEntropy(FLAGS.label_smoothing)
    model.compile(optimizer, loss, jit_compile=True)

    @tf.function(jit_compile=True)
    def summed_loss(inputs, labels):
        losses = keras.losses.sparse_categorical_crossentropy(
            labels, model(inputs, training=False), from_logits=True
        )
        tokens = tf.cast(labels != 0, tf.float32)
        return tf.reduce_sum(losses * tokens), tf.reduce_sum(tokens)

    def validate(batches):
        sums = [summed_loss(*batch) for batch in batches]
        loss, tokens = (sum(float(part) for part in parts) for parts in zip(*sums, strict=True))
        return loss / tokens

    return model, validate


def compare(data, held, makers, seconds):
    """Trains in turns; yields step and validation losses, adds training time to `seconds`."""
    models = [make_model(make) for make in makers]
    for step, (inputs, labels) in enumerate(data):
        if step % FLAGS.eval_every == 0 or step == FLAGS.steps:
            yield step, [validate(held) for _, validate in models]
        if step == FLAGS.steps:
            return
        for index, (model, _) in enumerate(models):
            start = time.perf_counter()
            model.train_on_batch(inputs, labels)
            if step:  # the first step compiles
                seconds[index] += time.perf_counter() - start


def main(argv):
    command_line.flags_alone(argv)
    makers = {"keras_xfmr": twin.make_ours, "KerasHub": twin.make_twin}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        train, held = split(pathlib.Path(folder))
        tokenizer = learn_vocabulary(train)
        FLAGS.vocab_size = tokenizer.vocab_size
        data = endless(pair_dataset(train, tokenizer, seed=FLAGS.seed))
        held = list(pair_dataset(held, tokenizer, shuffle_buffer=0).dataset())
        print(f"vocabulary {tokenizer.vocab_size:,}, {len(held)} held-out batches")
        print(f"{'step':>8}" + "".join(f"{name:>14}" for name in makers))
        seconds = [0.0] * len(makers)  # of training
        for step, losses in compare(data, held, makers.values(), seconds):
            rows.append([step, *losses])
            print(f"{step:>8}" + "".join(f"{loss:>14.4f}" for loss in losses), flush=True)
    pairs = FLAGS.batch_size * (FLAGS.steps - 1)
    print(f"{'pairs/s':>8}" + "".join(f"{pairs / taken:>14.1f}" for taken in seconds))
    write_csv(["step", *makers], rows)


def write_csv(header, rows):
    path = pathlib.Path(FLAGS.csv)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    print(f"curves: {path}")


if __name__ == "__main__":
    app.run(main)
