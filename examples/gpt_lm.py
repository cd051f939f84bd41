"""Trains a GPT on raw text, compares it with a Kneser-Ney 5-gram, and generates text.

Paper: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".

    python examples/gpt_lm.py --files=wiki.valid.txt --validation_files=wiki.test.txt \\
        --heading=wikitext
    python examples/gpt_lm.py --files=reviews.txt --validation_files=held_out.txt \\
        --line_documents --vocabulary=sentence_piece

A vocabulary is learned from the files. Documents are packed into blocks with the end token between
them. Blank lines separate documents, or headings as in WikiText; with --line_documents each line is
a document (reviews, tweets). Prints, for the model and for the 5-gram of the same vocabulary, the
perplexity per token and the bits per byte of the held-out text (bits per byte do not depend on the
vocabulary), and continuations of prompts.

Writes to --output: index.html (shows the results), attention.html, the vocabulary, checkpoints,
TensorBoard logs, learning_curve.png, model.keras, hub/, a folder of weights for
`Gpt.from_pretrained` and for `transformers`, and saved_model/ for TensorFlow Serving, tested with
the prompts in another process. The same command continues a killed run. Results:
benchmarks/RESULTS.md.
"""

import math

import command_line
import distributing
import fresh_process
import index_page
import keras
import kneser_ney
import numpy as np
import resuming
import telling
from absl import app, flags, logging

from keras_xfmr import models, serving, text, training, viz

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(distributing)
flags.DEFINE_list("files", None, "Required. Text files, UTF-8.", required=True)
flags.DEFINE_list("validation_files", None, "Required. Held-out text files.", required=True)
flags.DEFINE_enum("heading", "none", ["none", "wikitext"], "Headings that begin a document.")
flags.DEFINE_bool("line_documents", False, "Each line is a document.")
flags.DEFINE_enum(
    "vocabulary", "byte_pair", ["byte_pair", "sentence_piece"], "Kind of pieces: byte pairs as in "
    "GPT-2, or SentencePiece, which is better for Korean and similar languages."
)  # fmt: skip
flags.DEFINE_integer("vocab_size", 4000, "Size of the vocabulary.")
flags.DEFINE_string("preset", "nano", "Sizes of the model: see `Gpt.from_preset`.")
flags.DEFINE_integer(
    "d_model", None, "Overrides the preset's width, a multiple of 64: heads have size 64, and the "
    "feed-forward networks are four times as wide.", lower_bound=64,
)  # fmt: skip
flags.DEFINE_integer("num_layers", None, "Overrides the preset's number of blocks.", lower_bound=1)
flags.DEFINE_integer("block_length", 128, "Tokens of a block.")
flags.DEFINE_integer("batch_size", 16, "Blocks of a step.")
flags.DEFINE_integer("epochs", 10, "Passes over the files.", lower_bound=1)
flags.DEFINE_float("learning_rate", 1e-3, "Peak learning rate.")
flags.DEFINE_float("dropout", 0.2, "Dropout rate. Without dropout, small corpora overfit.")
flags.DEFINE_integer("order", 5, "Order of the n-gram model; 0: no such model.")
flags.DEFINE_multi_string("prompt", [], "Text to continue; by default from the held-out files.")
flags.DEFINE_float("temperature", 0.8, "Sampling temperature.")
flags.DEFINE_float("top_p", 0.95, "Nucleus probability of sampling.")
flags.DEFINE_integer("seed", 1, "Random seed of weights, dropout, data order and samples.")
flags.DEFINE_bool("jit_compile", True, "Compile the training step with XLA.")
flags.DEFINE_string("output", "runs/gpt", "Folder for all output files.")

CONTINUATION = 40  # tokens after a prompt
WRITES = (
    "flags.json", "tokenizer", "backup", "tensorboard", "learning_curve.png", "model.keras", "hub",
    "saved_model", *index_page.NAMES,
)  # fmt: skip


def make_tokenizer(output):
    """The vocabulary of a killed run in this folder, or one learned from the files."""
    if resuming.resumes(output):
        return text.load_tokenizer(output / "tokenizer")
    telling.stage(f"learning a vocabulary of {FLAGS.vocab_size:,} pieces")
    if FLAGS.vocabulary == "byte_pair":
        tokenizer = text.learn_byte_pair(FLAGS.files, FLAGS.vocab_size)
    else:
        tokenizer = text.learn_sentence_piece(FLAGS.files, FLAGS.vocab_size)
    tokenizer.save(output / "tokenizer")
    return tokenizer


def blocks(files, tokenizer, **options):
    return text.LanguageModelDataset(
        files,
        tokenizer,
        block_length=FLAGS.block_length,
        batch_size=FLAGS.batch_size,
        heading=None if FLAGS.heading == "none" else FLAGS.heading,
        line_documents=FLAGS.line_documents,
        seed=FLAGS.seed,
        **options,
    )


def documents(data, tokenizer):
    """The documents of blocks in the order of the files, each with its start and end token."""
    stream = []
    for inputs, labels in data.dataset().as_numpy_iterator():
        ids, labels = inputs["token_ids"].ravel(), labels.ravel()
        last = np.flatnonzero(labels >= 0)
        stream.extend(ids[: last[-1] + 1] if last.size else [])
    found, document = [], []
    for token in stream:
        document.append(token)
        if token == tokenizer.end_id and len(document) > 1:
            found.append(document)
            # If the start and the end token are one, it also begins the next document.
            document = [token] if tokenizer.start_id == tokenizer.end_id else []
    return [*found, document] if len(document) > 1 else found


def measures(nats, tokens, size):
    """The perplexity per token and the bits per byte, as text."""
    bits = nats / math.log(2) / size
    return f"perplexity {math.exp(nats / tokens):.1f} a token, {bits:.3f} bits a byte"


def compile_model(model, steps):
    schedule = training.LinearWarmupDecay(FLAGS.learning_rate, max(steps // 20, 1), steps)
    model.compile(
        training.AdamW(schedule, weight_decay=0.1, beta_2=0.95, global_clipnorm=1.0),
        training.MaskedCrossEntropy(pad_id=-1),
        metrics=[training.MaskedPerplexity(pad_id=-1)],
        jit_compile=FLAGS.jit_compile,
    )


def sizes():
    """The sizes of the flags, which override the preset."""
    found = {} if FLAGS.num_layers is None else {"num_layers": FLAGS.num_layers}
    if FLAGS.d_model is not None:
        width = FLAGS.d_model
        found |= {"d_model": width, "num_heads": width // 64, "ffn_dim": 4 * width}
    return found


def write_on(model, tokenizer, beginnings):
    """Prints and returns sampled continuations of texts."""
    prompts = [[tokenizer.start_id, *row] for row in tokenizer.tokenize(beginnings).to_list()]
    found = model.generate(
        prompts, max_length=CONTINUATION, truncate=True, search="sample", seed=FLAGS.seed,
        temperature=FLAGS.temperature, top_p=FLAGS.top_p, jit_compile=FLAGS.jit_compile,
    )  # fmt: skip
    texts = tokenizer.detokenize(found["token_ids"]).numpy()
    texts = [one.decode("utf8", "replace") for one in texts]
    for beginning, continuation in zip(beginnings, texts):
        print(f"  {beginning} | {continuation}")
    return texts


def export_and_ask(model, tokenizer, output, beginnings):
    """Exports the SavedModel; prints and returns greedy continuations from another process."""
    folder = serving.export_language_model(
        model, tokenizer, output / "saved_model", max_length=CONTINUATION, check_texts=beginnings
    )
    answer = fresh_process.ask(folder, text=beginnings)
    for beginning, found, score in zip(beginnings, answer["output_text"], answer["score"]):
        print(f"  {beginning}\n    -> {found}  (log P {score:.2f})")
    return answer["output_text"]


def main(argv):
    command_line.flags_alone(argv)
    logging.set_verbosity(logging.WARNING)
    output = distributing.output_folder(FLAGS.output, argv[0], WRITES)
    keras.utils.set_random_seed(FLAGS.seed)
    tokenizer = make_tokenizer(output)
    train = blocks(FLAGS.files, tokenizer)
    held = blocks(FLAGS.validation_files, tokenizer, shuffle_buffer=0)
    steps = train.count() * FLAGS.epochs
    held.count()
    print(f"{tokenizer.vocab_size} pieces; {train.rows} blocks an epoch, {steps} steps")

    texts = documents(held, tokenizer)
    size, compared = held.bytes, {}
    if FLAGS.order:
        telling.stage(f"counting the words of a Kneser-Ney {FLAGS.order}-gram")
        in_order = blocks(FLAGS.files, tokenizer, shuffle_buffer=0)
        gram = kneser_ney.KneserNey(
            documents(in_order, tokenizer), tokenizer.vocab_size, FLAGS.order
        )
        nats = [-gram.log_probabilities(document) for document in texts]
        tokens = sum(map(len, nats))
        name = f"Kneser-Ney {FLAGS.order}-gram"
        compared[name] = measures(sum(x.sum() for x in nats), tokens, size)
        print(f"{name}, held out: {compared[name]}")

    model = models.Gpt.from_preset(
        FLAGS.preset,
        **sizes(),
        vocab_size=tokenizer.vocab_size,
        dropout_rate=FLAGS.dropout,
        attention_dropout_rate=FLAGS.dropout,
        pad_id=tokenizer.pad_id,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
    )
    if FLAGS.block_length > model.max_length:
        raise app.UsageError(
            f"--preset={FLAGS.preset} has {model.max_length} positions. Received: "
            f"--block_length={FLAGS.block_length}. Give a smaller one, or another preset."
        )
    compile_model(model, steps)
    telling.stage(f"training a GPT of {model.count_params():,} weights")
    history = model.fit(
        train.dataset(),
        validation_data=held.dataset(),
        epochs=FLAGS.epochs,
        shuffle=False,  # the data set shuffles itself
        callbacks=[
            telling.TimeLeft(),
            resuming.backup(output, train),
            keras.callbacks.TensorBoard(output / "tensorboard", write_graph=False),
        ],
    ).history
    if history:
        viz.learning_curve(history, output / "learning_curve.png")
    model.save(output / "model.keras")
    model.save_pretrained(output / "hub")
    telling.stage("measuring, and going on with some beginnings")
    # The metric is the mean over tokens, the loss is the mean over batches.
    found = model.evaluate(held.dataset(), return_dict=True, verbose=0)["perplexity"]
    tokens = sum(len(document) - 1 for document in texts)
    said = measures(math.log(found) * tokens, tokens, size)
    print(f"GPT of {model.count_params():,} weights, held out: {said}")
    beginnings = FLAGS.prompt or [
        tokenizer.detokenize([document[1:9]]).numpy()[0].decode("utf8", "replace")
        for document in texts[:5]
    ]
    sampled = write_on(model, tokenizer, beginnings)
    telling.stage("exporting the service, and asking it in a fresh process")
    answers = export_and_ask(model, tokenizer, output, beginnings)
    rows = tokenizer.tokenize(beginnings[:3]).to_list()
    rows = [[tokenizer.start_id, *row][: FLAGS.block_length] for row in rows]
    viz.attention_view(model, rows, output / "attention.html", tokenizer=tokenizer)
    page = index_page.write(
        output, compared | {"GPT": said}, ("prompt", "sampled", "greedy"),
        zip(beginnings, sampled, answers), index_page.Service({"text": beginnings[:2]}),
    )  # fmt: skip
    resuming.finish(output)
    print(f"written to {output}; to look at: {page}")


if __name__ == "__main__":
    distributing.run(main)
