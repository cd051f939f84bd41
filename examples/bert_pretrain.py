"""Pretrains a BERT on raw text: masked words and next sentences, with one loss.

Paper: Devlin et al. 2019, "BERT", https://arxiv.org/abs/1810.04805

    python examples/bert_pretrain.py --files=corpus.txt
    python examples/bert_pretrain.py --files=wiki.valid.txt --validation_files=wiki.test.txt \\
        --heading=wikitext

A vocabulary is learned from the files. Instances are made while the model trains, with new masks in
each epoch. The log has the loss and the accuracy of both tasks, also for --validation_files, and
the accuracy of always predicting the most frequent word. Blank lines separate documents, or
headings as in WikiText; with --line_documents each line is a document (reviews, tweets). For
unrelated lines use --objective=none, and --packed, which puts several of them into a row.

Writes to --output: index.html (shows the results), attention.html, the vocabulary, checkpoints,
TensorBoard logs, learning_curve.png, model.keras and hub/, a folder of weights and tokenizer for
`Bert.from_pretrained` and for `transformers`. The same command continues a killed run. Results:
benchmarks/RESULTS.md.
"""

import collections
import time

import command_line
import distributing
import index_page
import keras
import numpy as np
import resuming
import telling
from absl import app, flags, logging

from keras_xfmr import models, text, training, viz

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(distributing)
flags.DEFINE_list("files", None, "Required. Text files, UTF-8.", required=True)
flags.DEFINE_list("validation_files", [], "Held-out text files.")
flags.DEFINE_enum("heading", "none", ["none", "wikitext"], "Headings that begin a document.")
flags.DEFINE_bool("line_documents", False, "Each line is a document.")
flags.DEFINE_enum("objective", "nsp", ["nsp", "sop", "none"], "The task beside masked words.")
flags.DEFINE_bool("packed", False, "Several instances in a row; needs --objective=none.")
flags.DEFINE_enum("vocabulary", "word_piece", ["word_piece", "sentence_piece"], "Kind of pieces.")
flags.DEFINE_integer("vocab_size", 8000, "Size of the vocabulary.")
flags.DEFINE_bool("lowercase", True, "Lower case and no accents (word pieces).")
flags.DEFINE_bool("whole_word", False, "Mask all pieces of a word together.")
flags.DEFINE_string("preset", "tiny", "Sizes of the model: see `Bert.from_preset`.")
flags.DEFINE_integer("max_length", 128, "Pieces of an instance.")
flags.DEFINE_integer("batch_size", 32, "Instances of a step.")
flags.DEFINE_integer("epochs", 10, "Passes over the files.")
flags.DEFINE_integer("measured_batches", 100, "Maximum number of batches to measure on.")
flags.DEFINE_float("learning_rate", 1e-3, "Peak learning rate; 1e-4 for a base model.")
flags.DEFINE_float("dropout", 0.1, "Dropout rate; small models learn more with 0.")
flags.DEFINE_integer("seed", 1, "Random seed of weights, masks and data order.")
flags.DEFINE_bool("jit_compile", True, "Compile the training step with XLA.")
flags.DEFINE_string("output", "runs/bert", "Folder for all output files.")

WRITES = (
    "flags.json", "tokenizer", "backup", "tensorboard", "learning_curve.png", "model.keras", "hub",
    *index_page.NAMES,
)  # fmt: skip


class Throughput(keras.callbacks.Callback):
    """Adds tokens a second to the progress bar and the log."""

    def __init__(self, tokens_a_batch):
        super().__init__()
        self.tokens, self.rate = tokens_a_batch, 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.start = None

    def on_train_batch_end(self, batch, logs=None):
        if self.start is None:  # the first step of a run compiles
            self.start, self.first = time.time(), batch
            return
        done = (batch - self.first) * self.tokens
        self.rate = done / max(time.time() - self.start, 1e-9)
        if logs is not None:
            logs["tokens/s"] = self.rate

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["tokens/s"] = self.rate


def make_tokenizer(output, sentences):
    """The vocabulary of a killed run in this folder, or one learned from the files."""
    folder = output / "tokenizer"
    if resuming.resumes(output):
        return text.load_tokenizer(folder)
    telling.stage(f"learning a vocabulary of {FLAGS.vocab_size:,} pieces")
    if FLAGS.vocabulary == "word_piece":
        tokenizer = text.learn_bert_word_piece(
            sentences, FLAGS.vocab_size, lowercase=FLAGS.lowercase
        )
    else:
        tokenizer = text.learn_bert_sentence_piece(sentences, FLAGS.vocab_size)
    tokenizer.save(folder)
    return tokenizer


def look(dataset, batches):
    """Tokens of a batch, and the accuracy of always predicting the most frequent label.

    Returns:
        Tokens without padding, the accuracy for masked words, and that for pairs, or None.
    """
    words, pairs, tokens = collections.Counter(), collections.Counter(), 0
    for inputs, labels, weights in dataset.take(batches).as_numpy_iterator():
        tokens += int(inputs["attention_mask"].sum())
        words.update(labels["mlm"][weights["mlm"] > 0].tolist())
        if "nsp" in labels:
            pairs.update(labels["nsp"][weights["nsp"] > 0].tolist())
    share = [max(c.values()) / c.total() if c else None for c in (words, pairs)]
    return tokens / batches, *share


def compile_model(model, steps):
    losses = {"mlm": training.MaskedCrossEntropy(pad_id=model.bert.pad_token_id)}
    metrics = {"mlm": [training.MaskedAccuracy(pad_id=model.bert.pad_token_id)]}
    weighted = {}
    if model.nsp_dense is not None:
        losses["nsp"] = training.MaskedCrossEntropy(pad_id=-1)
        weighted["nsp"] = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
    schedule = training.LinearWarmupDecay(FLAGS.learning_rate, max(steps // 10, 1), steps)
    model.compile(
        training.AdamW(schedule, weight_decay=0.01, epsilon=1e-6, global_clipnorm=1.0),
        loss=losses,
        metrics=metrics,
        weighted_metrics=weighted or None,
        jit_compile=FLAGS.jit_compile,
    )


def main(argv):
    command_line.flags_alone(argv)
    logging.set_verbosity(logging.WARNING)
    output = distributing.output_folder(FLAGS.output, argv[0], WRITES)
    keras.utils.set_random_seed(FLAGS.seed)
    heading = None if FLAGS.heading == "none" else FLAGS.heading
    if FLAGS.packed and FLAGS.objective != "none":
        raise app.UsageError(
            "--packed rows have no label: use --objective=none. Received: "
            f"--objective={FLAGS.objective}."
        )
    objective = None if FLAGS.objective == "none" else FLAGS.objective
    reading = {"heading": heading, "line_documents": FLAGS.line_documents}
    tokenizer = make_tokenizer(output, text.Documents(FLAGS.files, **reading).sentences())

    def instances(files):
        return text.PretrainingDataset(
            files,
            tokenizer,
            max_length=FLAGS.max_length,
            batch_size=FLAGS.batch_size,
            whole_word=FLAGS.whole_word,
            objective=objective,
            document_ids=FLAGS.packed,
            **reading,
            seed=FLAGS.seed,
        )

    data = instances(FLAGS.files)
    validation = None
    if FLAGS.validation_files:
        unseen = instances(FLAGS.validation_files)
        measured = min(unseen.count(), FLAGS.measured_batches)  # `count` fixes the number
        validation = unseen.dataset().take(measured)
    batches = data.count()
    steps = batches * FLAGS.epochs
    made = "rows" if FLAGS.packed else "instances"
    print(f"{tokenizer.vocab_size} pieces; {data.rows} {made} an epoch, {steps} steps")
    print(f"lines left out: {data.skipped}")
    tokens, words, pairs = look(data.dataset(), batches)
    print(
        f"the most frequent word is {words:.2%} of the masked ones"
        + ("" if pairs is None else f", the more frequent answer {pairs:.2%} of the pairs")
    )

    bert = models.Bert.from_preset(
        FLAGS.preset,
        vocab_size=tokenizer.vocab_size,
        max_length=FLAGS.max_length,
        pad_token_id=tokenizer.pad_id,
        dropout_rate=FLAGS.dropout,
        attention_dropout_rate=FLAGS.dropout,
        packed=FLAGS.packed,
    )
    model = models.BertPretrainer(bert, next_sentence=objective is not None)
    compile_model(model, steps)
    telling.stage(f"training a BERT of {bert.count_params():,} weights")
    history = model.fit(
        data.dataset(),
        validation_data=validation,
        epochs=FLAGS.epochs,
        shuffle=False,  # the data set shuffles itself
        callbacks=[
            telling.TimeLeft(),
            Throughput(tokens),
            resuming.backup(output, data, save_freq=500),
            keras.callbacks.TensorBoard(output / "tensorboard", write_graph=False),
        ],
    ).history
    if history:
        curves = {name: values for name, values in history.items() if name != "tokens/s"}
        viz.learning_curve(curves, output / "learning_curve.png")
    model.save(output / "model.keras")
    model.save_pretrained(output / "hub")
    tokenizer.save(output / "hub", max_length=FLAGS.max_length)
    telling.stage("measuring without dropout")
    if validation is None:
        data.seek(FLAGS.epochs)  # new masks on the training text
        validation = data.dataset().take(min(batches, FLAGS.measured_batches))
        print("no --validation_files: measured on the training text, masked again")
    measures = model.evaluate(validation, return_dict=True, verbose=0)
    measures = {name: round(float(value), 4) for name, value in measures.items()}
    print("without dropout:", measures)
    inputs, labels, _ = next(iter(validation))
    samples = predictions(model, tokenizer, inputs, labels["mlm"])
    viz.attention_view(
        bert, {name: value[:3] for name, value in inputs.items()}, output / "attention.html",
        tokenizer=tokenizer,
    )  # fmt: skip
    then = f"python examples/bert_classify.py --train=... --test=... --pretrained={FLAGS.output}"
    page = index_page.write(output, measures, ("text", "word <- predicted"), samples, then=then)
    resuming.finish(output)
    print(f"written to {output}; to look at: {page}")


def predictions(model, tokenizer, inputs, labels):
    """Prints and returns the model's predictions for some masks."""
    logits = model.predict_on_batch(inputs)["mlm"]

    def word(token_id):
        return tokenizer.detokenize([[int(token_id)]]).numpy()[0].decode("utf8")

    samples = []
    for row in range(min(3, FLAGS.batch_size)):
        text_of_row = tokenizer.detokenize(inputs["token_ids"][row : row + 1]).numpy()[0].decode()
        found = [
            f"{word(label)} <- {word(np.argmax(scores))}"
            for label, scores in zip(labels[row].numpy()[:8], logits[row])
            if label != tokenizer.pad_id
        ]
        samples.append((text_of_row, ", ".join(found)))
        print(f"  {text_of_row}\n    {samples[-1][1]}")
    return samples


if __name__ == "__main__":
    distributing.run(main)
