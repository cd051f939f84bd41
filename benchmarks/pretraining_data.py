"""Whether instances of BERT's pretraining are made as fast as a model takes them.

Instances are made from text files to batches by `keras_xfmr.text.PretrainingDataset`, and nothing
else is done meanwhile; then a `BertPretrainer` is trained on one batch of that shape in a process
of its own, with XLA unless `--nojit_compile` says otherwise. Without `--files` there are documents
of made-up sentences, without `--vocabulary` word pieces are learned from the first sentences.

    python -m benchmarks.pretraining_data
    python -m benchmarks.pretraining_data --files=corpus.txt --vocabulary=bert-base-uncased
    python -m benchmarks.pretraining_data --preset=tiny --batch_size=32

Prints instances a second of each, and how many times over instance making feeds a step.
"""

import json
import math
import pathlib
import random
import tempfile
import time

import keras
from absl import app, flags

from benchmarks import side_by_side
from examples import command_line
from keras_xfmr import models, text, training

FLAGS = flags.FLAGS
flags.DEFINE_list("files", [], "Text files, UTF-8; made-up documents if there are none.")
flags.DEFINE_enum("heading", "none", ["none", "wikitext"], "What else divides documents.")
flags.DEFINE_integer("documents", 10_000, "Made-up documents.")
flags.DEFINE_string("vocabulary", None, "Folder of a published tokenizer, such as vocab.txt.")
flags.DEFINE_integer("vocab_size", 30_522, "Word pieces to learn, and rows of the model's table.")
flags.DEFINE_string("preset", "base", "Sizes of the model: see `Bert.from_preset`.")
flags.DEFINE_integer("batch_size", 8, "Instances of a step.")
flags.DEFINE_integer("max_length", 128, "Pieces of an instance.")
flags.DEFINE_enum("objective", "nsp", ["nsp", "sop", "none"], "The task beside masked words.")
flags.DEFINE_bool("whole_word", False, "Mask all pieces of a word together.")
flags.DEFINE_integer("batches", 10_000, "Batches to make at most.")
flags.DEFINE_integer("training_steps", 10, "Timed training steps.", lower_bound=2)
flags.DEFINE_bool("jit_compile", True, "Compile the training step with XLA.")
flags.DEFINE_bool("train", False, "Set by the parent: times training.")

SENTENCES = 100_000  # that word pieces are learned from


def write_documents(path, seed=0):
    """Documents of 5 to 40 made-up sentences of 5 to 40 words, the short words the commonest."""
    draw = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    words = ["".join(draw.choices(syllables, k=1 + rank // 4000)) for rank in range(20_000)]
    weights = [1 / (rank + 10) for rank in range(len(words))]
    with open(path, "w", encoding="utf8") as file:
        for _ in range(FLAGS.documents):
            lengths = [draw.randint(5, 40) for _ in range(draw.randint(5, 40))]
            drawn = iter(draw.choices(words, weights, k=sum(lengths)))
            for length in lengths:
                file.write(" ".join(next(drawn) for _ in range(length)) + ".\n")
            file.write("\n")


def make(files, tokenizer, heading):
    """How many instances, and the seconds from the first line to the last batch."""
    data = text.PretrainingDataset(
        files,
        tokenizer,
        max_length=FLAGS.max_length,
        batch_size=FLAGS.batch_size,
        objective=None if FLAGS.objective == "none" else FLAGS.objective,
        whole_word=FLAGS.whole_word,
        heading=heading,
    )
    batches = data.dataset()
    for _ in batches.take(1):  # what is done once in a process
        pass
    start, count = time.perf_counter(), 0
    for _ in batches.take(FLAGS.batches):
        count += 1
    seconds = time.perf_counter() - start
    # Of a whole epoch it is known how far the last batch was filled.
    made = data.rows if count < FLAGS.batches else count * FLAGS.batch_size
    return made, seconds


def train():
    """Seconds of a training step."""
    bert = models.Bert.from_preset(
        FLAGS.preset, vocab_size=FLAGS.vocab_size, max_length=FLAGS.max_length
    )
    model = models.BertPretrainer(bert, next_sentence=FLAGS.objective != "none")
    whole = (FLAGS.batch_size, FLAGS.max_length)
    masked = (FLAGS.batch_size, math.ceil(0.15 * FLAGS.max_length))
    inputs = {
        "token_ids": keras.ops.full(whole, 5, "int32"),
        "segment_ids": keras.ops.zeros(whole, "int32"),
        "attention_mask": keras.ops.ones(whole, "int32"),
        "masked_positions": keras.ops.ones(masked, "int32"),
    }
    labels, losses = {"mlm": keras.ops.full(masked, 5, "int32")}, {}
    losses["mlm"] = training.MaskedCrossEntropy()
    if FLAGS.objective != "none":
        labels["nsp"] = keras.ops.zeros(FLAGS.batch_size, "int32")
        losses["nsp"] = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(training.AdamW(1e-4), losses, jit_compile=FLAGS.jit_compile)

    def step():
        return model.train_on_batch(inputs, labels)

    seconds = side_by_side.alternate({"step": step}, FLAGS.training_steps, FLAGS.warmup)["step"]
    return {"step_s": side_by_side.quartiles(seconds)[1]}


def compare(folder):
    heading = None if FLAGS.heading == "none" else FLAGS.heading
    files = FLAGS.files or [folder / "documents.txt"]
    if not FLAGS.files:
        write_documents(*files)
    if FLAGS.vocabulary:
        tokenizer = text.load_pretrained_tokenizer(FLAGS.vocabulary)
    else:
        sentences = text.Documents(files, heading=heading).sentences().take(SENTENCES)
        tokenizer = text.learn_bert_word_piece(sentences, FLAGS.vocab_size)
    size = sum(pathlib.Path(path).stat().st_size for path in files)
    print(f"{size / 1e6:,.1f} MB of text, {tokenizer.vocab_size:,} pieces", flush=True)

    made, seconds = make(files, tokenizer, heading)
    print(f"made {made:,} instances, {made / seconds:,.0f} a second", flush=True)
    step_s = side_by_side.run_child("--train")["step_s"]
    taken = FLAGS.batch_size / step_s
    print(
        f"training {FLAGS.preset} takes {taken:,.1f} a second, {step_s * 1e3:,.0f} ms for "
        f"{FLAGS.batch_size} x {FLAGS.max_length}"
    )
    print(f"instance making feeds a step {made / seconds / taken:,.1f} times over")


def main(argv):
    command_line.flags_alone(argv)
    if FLAGS.train:
        print(json.dumps(train()))
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(pathlib.Path(folder))


if __name__ == "__main__":
    app.run(main)
