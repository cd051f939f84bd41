"""Trains a Transformer to answer questions in Korean.

Paper: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762. Data: the Q and A columns of
ChatbotData.csv, https://github.com/songys/Chatbot_data (MIT); any CSV with these columns works.

    python examples/chatbot.py --data=ChatbotData.csv

Prints the held-out perplexity and ten replies, good or bad. Writes the same files as translate.py.
Results: benchmarks/RESULTS.md.
"""

import csv
import math
import random

import command_line
import distributing
import index_page
import keras
import resuming
import seq2seq
import telling
from absl import app, flags, logging

from keras_xfmr import text

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(distributing)
flags.DEFINE_string("data", None, "Required. CSV with the columns Q and A.", required=True)
flags.DEFINE_string("output", "runs/chatbot", "Folder for all output files.")
flags.DEFINE_integer("held_out", 500, "Number of held-out questions.", lower_bound=1)
flags.DEFINE_integer("vocab_size", 4000, "Subwords, one vocabulary for both sides.")
flags.DEFINE_integer("epochs", 10, "Passes over the data.", lower_bound=1)
flags.DEFINE_integer("batch_size", 64, "Pairs of a step.")
flags.DEFINE_integer("d_model", 192, "Size of a token's vector.")
flags.DEFINE_integer("num_layers", 2, "Blocks on each side.")
flags.DEFINE_integer("num_heads", 4, "Attention heads.")
flags.DEFINE_float("dropout", 0.2, "Dropout rate; the corpus is small.")
flags.DEFINE_float("learning_rate", 1e-3, "Peak learning rate.")
flags.DEFINE_integer("seed", 1, "Random seed of weights, dropout, split and data order.")
flags.DEFINE_bool("jit_compile", True, "Compile the training step with XLA.")

LENGTH = 24  # ids of a question or reply; a few longer ones are left out


def read(path):
    """The (question, reply) pairs of the CSV, with single blanks."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        if not {"Q", "A"} <= set(rows.fieldnames or ()):
            raise app.UsageError(
                f"{path} needs the columns Q and A. Received: {rows.fieldnames}."
            )
        try:
            for row in rows:
                pair = tuple(" ".join((row[column] or "").split()) for column in "QA")
                # Fields without a name in the header have the key None; a missing field is None.
                if None in row or None in row.values() or not all(pair):
                    raise app.UsageError(
                        f"{path}:{rows.line_num}: expected a question and a reply in a row of "
                        f"{len(rows.fieldnames)} fields, as the header has them. Received: "
                        f"{dict(row)}. Mend the row or remove it; a text with a comma needs "
                        "quotation marks."
                    )
                yield pair
        except csv.Error as error:
            raise app.UsageError(
                f"{path}:{rows.reader.line_num}: {error}. Is there an unclosed quotation mark, "
                "here or before?"
            ) from error


def main(argv):
    command_line.flags_alone(argv)
    logging.set_verbosity(logging.WARNING)
    clock = seq2seq.Clock()
    output = distributing.output_folder(FLAGS.output, argv[0], seq2seq.WRITES)
    keras.utils.set_random_seed(FLAGS.seed)
    if resuming.resumes(output):  # keeps its files and vocabulary
        files = output / "train.tsv", output / "held_out.tsv"
        tokenizer, _ = seq2seq.load_tokenizers(output, shared=True)
    else:
        seq2seq.refuse_own_files(output, [FLAGS.data])
        files = seq2seq.split(lambda: read(FLAGS.data), output, FLAGS.held_out, FLAGS.seed)
        reader = text.ByteTokenizer()
        corpus = text.PairDataset(files[0], reader, reader)
        both = corpus.sentences(0).concatenate(corpus.sentences(1))
        telling.stage(f"learning a vocabulary of {FLAGS.vocab_size:,} subwords")
        tokenizer = text.learn_sentence_piece(both, FLAGS.vocab_size)
        seq2seq.save_tokenizers((tokenizer, tokenizer), output)
    clock.step(f"split {FLAGS.data}, learned {tokenizer.vocab_size} subwords")

    settings = {name: FLAGS[name].value for name in (
        "epochs", "batch_size", "d_model", "num_heads", "num_layers", "dropout", "learning_rate",
    )}  # fmt: skip
    settings |= {"buckets": ((LENGTH, LENGTH),), "label_smoothing": 0.1}
    tokenizers = (tokenizer, tokenizer)
    model, measures = seq2seq.fit(
        files, tokenizers, output, settings, seed=FLAGS.seed, jit_compile=FLAGS.jit_compile
    )
    print(
        f"held-out perplexity of a subword: {measures['perplexity']:.1f} (a uniform guess: "
        f"{tokenizer.vocab_size}), {math.log2(measures['perplexity']):.2f} bits"
    )
    clock.step(f"trained {model.count_params():,} weights; held-out {measures}")

    pairs = seq2seq.fitting(seq2seq.read_pairs(files[1]), tokenizers, (LENGTH, LENGTH))
    pairs = random.Random(FLAGS.seed).sample(pairs, min(10, len(pairs)))
    questions = [question for question, _ in pairs]
    options = {"search": "beam", "beam_size": 4, "max_length": LENGTH}
    replies = seq2seq.answer(model, tokenizers, questions, length=LENGTH, batch_size=10, **options)
    for (question, human), reply in zip(pairs, replies):
        print(f"  {question}\n    -> {reply}\n    (a person: {human})")
    seq2seq.show_attention(model, tokenizers, questions[:3], replies[:3], output)
    folder, asked = seq2seq.export_and_ask(model, tokenizers, output, questions[:2], **options)
    samples = [(question, reply, human) for (question, human), reply in zip(pairs, replies)]
    page = index_page.write(
        output, measures, ("question", "reply", "a person's"), samples,
        index_page.Service({"text": questions[:2]}),
    )  # fmt: skip
    resuming.finish(output)
    clock.step(f"{folder} answered in a fresh process: {asked}; to look at: {page}")


if __name__ == "__main__":
    distributing.run(main)
