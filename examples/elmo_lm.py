"""Trains an ELMo on raw text, and tests whether its vectors distinguish the meanings of a word.

Paper: Peters et al. 2018, "Deep contextualized word representations".

    python examples/elmo_lm.py --files=wiki.valid.txt --validation_files=wiki.test.txt \\
        --heading=wikitext --split=whitespace
    python examples/elmo_lm.py --files=reviews.txt --validation_files=held_out.txt \\
        --senses=examples/word_senses_ko.tsv

Each line is a sentence. The vocabulary to predict is learned from the files. The input of a word is
its characters (--words=characters) or its id in the same vocabulary (--words=ids, several times as
fast). With --stateful the LSTMs begin each block with the state at the end of the block before.

Prints the perplexity of both directions on held-out text, with and without the state of the block
before. For each layer, it prints the cosines of the vectors of a word within a meaning and between
meanings, in the sentences of --senses (word, sense, sentence). Layer 0 does not depend on the
sentence.

Writes to --output: index.html (shows the results), the vocabulary, checkpoints, TensorBoard logs,
learning_curve.png, senses.png, senses_map.png, model.keras (both language models), elmo.keras (the
encoder), and hub/, a folder for `Elmo.from_pretrained`. The same command continues a killed run.
Results: benchmarks/RESULTS.md.
"""

import pathlib

import command_line
import distributing
import index_page
import keras
import numpy as np
import resuming
import telling
import tensorflow as tf
import word_senses
from absl import flags, logging

from keras_xfmr import models, text, training, viz

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(distributing)
flags.DEFINE_list("files", None, "Required. Text files, UTF-8, a sentence a line.", required=True)
flags.DEFINE_list("validation_files", None, "Required. Held-out text files.", required=True)
flags.DEFINE_enum("heading", "none", ["none", "wikitext"], "Kind of heading lines to skip.")
flags.DEFINE_enum("split", "bert", ["bert", "whitespace"], "How lines are split into words.")
flags.DEFINE_enum("words", "characters", ["characters", "ids"], "The input of a word.")
flags.DEFINE_integer("vocab_size", 10_000, "Number of words to predict.")
flags.DEFINE_string("preset", "nano", "Sizes of the model: see `Elmo.from_preset`.")
flags.DEFINE_integer("max_characters", 32, "Maximum characters of a word, with its two markers.")
flags.DEFINE_integer("block_length", 32, "Words of a block.")
flags.DEFINE_integer("batch_size", 32, "Blocks of a step.")
flags.DEFINE_integer("epochs", 8, "Passes over the files.", lower_bound=1)
flags.DEFINE_float("learning_rate", 2e-3, "Peak learning rate.")
flags.DEFINE_float("dropout", 0.3, "Dropout rate. Without dropout, small corpora overfit.")
flags.DEFINE_integer("num_sampled", None, "Number of sampled words of the softmax in training.")
flags.DEFINE_bool(
    "stateful", False, "Keep the LSTM state from block to block; on one device only."
)
flags.DEFINE_string(
    "senses", str(pathlib.Path(__file__).with_name("word_senses_en.tsv")), "TSV, see above."
)
flags.DEFINE_integer("seed", 1, "Random seed of weights, dropout and data order.")
flags.DEFINE_bool("jit_compile", True, "Compile the training step with XLA.")
flags.DEFINE_string("output", "runs/elmo", "Folder for all output files.")

WRITES = (
    "flags.json", "tokenizer", "backup", "tensorboard", "learning_curve.png", "senses.png",
    "senses_map.png", "model.keras", "elmo.keras", "hub", *index_page.NAMES,
)  # fmt: skip
DIRECTIONS = ("forward", "backward")


def make_tokenizer(output):
    """The vocabulary of a killed run in this folder, or one learned from the files."""
    if resuming.resumes(output):
        return text.load_tokenizer(output / "tokenizer")
    telling.stage(f"learning a vocabulary of {FLAGS.vocab_size:,} words")
    tokenizer = text.learn_words(FLAGS.files, FLAGS.vocab_size, split=FLAGS.split)
    tokenizer.save(output / "tokenizer")
    return tokenizer


def blocks(files, tokenizer, contiguous):
    return text.BidirectionalLanguageModelDataset(
        files,
        tokenizer,
        block_length=FLAGS.block_length,
        batch_size=FLAGS.batch_size,
        characters=FLAGS.words == "characters",
        max_characters=FLAGS.max_characters,
        contiguous=contiguous,
        heading=None if FLAGS.heading == "none" else FLAGS.heading,
        seed=FLAGS.seed,
    )


def make_model(tokenizer):
    sizes = {"max_characters": FLAGS.max_characters}
    if FLAGS.words == "ids":
        sizes |= {"vocab_size": tokenizer.vocab_size}
    encoder = models.Elmo.from_preset(FLAGS.preset, **sizes, dropout_rate=FLAGS.dropout)
    return language_model(encoder, tokenizer, FLAGS.batch_size if FLAGS.stateful else None)


def language_model(encoder, tokenizer, rows):
    return models.ElmoLanguageModel(
        encoder, tokenizer.vocab_size, num_sampled=FLAGS.num_sampled, state_rows=rows
    )


def compile_model(model, steps):
    schedule = training.LinearWarmupDecay(FLAGS.learning_rate, max(steps // 20, 1), steps)
    model.compile(
        training.AdamW(schedule, weight_decay=0.01, beta_2=0.99, global_clipnorm=1.0),
        {name: training.MaskedCrossEntropy(pad_id=-1) for name in DIRECTIONS},
        metrics={name: [training.MaskedPerplexity(pad_id=-1)] for name in DIRECTIONS},
        jit_compile=FLAGS.jit_compile,
    )


def unknown_share(data, tokenizer):
    """The share of predicted words outside the vocabulary, which count as one word."""
    labels = np.concatenate([y["forward"] for _, y in data.dataset().as_numpy_iterator()])
    return np.mean(labels[labels >= 0] == tokenizer.unknown_id)


def tell_perplexity(model, data, name):
    found = model.evaluate(data.dataset(), return_dict=True, verbose=0)
    both = ", ".join(f"{one} {found[f'{one}_perplexity']:.1f}" for one in DIRECTIONS)
    print(f"held out, {name}: perplexity of a word {both}")
    return both


def with_state(model, tokenizer):
    """The same weights in a stateful model if this one is stateless, and the other way round."""
    rows = None if model.state_rows else FLAGS.batch_size
    other = language_model(model.encoder, tokenizer, rows)
    other.softmax.set_weights(model.softmax.get_weights())
    compile_model(other, 2)
    return other


def word_vectors(encoder, tokenizer):
    """A function from sentences and a word in them to its vectors, a list of `[N, D]`."""
    packer = text.WordPacker(
        64, max_characters=FLAGS.max_characters, split="whitespace",
        tokenizer=None if FLAGS.words == "characters" else tokenizer,
    )  # fmt: skip

    def layers_of(sentences, word):
        places = [sentence.split().index(word) for sentence in sentences]
        layers = encoder.predict_on_batch(packer(tf.constant(sentences)))
        return [layer[np.arange(len(places)), places] for layer in layers]

    return layers_of


def main(argv):
    command_line.flags_alone(argv)
    logging.set_verbosity(logging.WARNING)
    output = distributing.output_folder(FLAGS.output, argv[0], WRITES)
    words = word_senses.read(FLAGS.senses)
    keras.utils.set_random_seed(FLAGS.seed)
    tokenizer = make_tokenizer(output)
    train = blocks(FLAGS.files, tokenizer, FLAGS.stateful)
    held = blocks(FLAGS.validation_files, tokenizer, contiguous=True)
    steps = train.count() * FLAGS.epochs
    held.count()
    print(f"{tokenizer.vocab_size} words; {train.rows} blocks an epoch, {steps} steps")

    model = make_model(tokenizer)
    encoder = model.encoder
    print(f"{unknown_share(held, tokenizer):.1%} of the held-out words are not in the vocabulary")
    print(f"{encoder.count_params():,} weights, with the softmax {model.count_params():,}")
    compile_model(model, steps)
    telling.stage("training both directions")
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
    encoder.save(output / "elmo.keras")
    encoder.save_pretrained(output / "hub")
    telling.stage("measuring, and comparing the vectors of words")
    alone = FLAGS.distribute == "none"  # a state belongs to one replica
    measures = {}
    for one in (model, with_state(model, tokenizer)) if alone else (model,):
        name = "with the state before" if one.state_rows else "blocks alone"
        measures[f"perplexity of a word, {name}"] = tell_perplexity(one, held, name)
    layers_of = word_vectors(encoder, tokenizer)
    matrices = word_senses.report(words, layers_of)
    viz.similarity_maps(
        matrices, output / "senses.png", title="Cosines between sentences (lighter is nearer)"
    )
    then = f"python examples/elmo_classify.py --train=... --test=... --pretrained={FLAGS.output}"
    word, rows = next(iter(words.items()))
    senses, sentences = map(list, zip(*rows))
    viz.embedding_map(
        layers_of(sentences, word)[-1], sentences, output / "senses_map.png", groups=senses,
        title=f"{word}, highest layer",
    )  # fmt: skip
    page = index_page.write(output, measures, then=then)
    resuming.finish(output)
    print(f"written to {output}; to look at: {page}")


if __name__ == "__main__":
    distributing.run(main)
