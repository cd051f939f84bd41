"""Trains a Transformer to translate, measures its quality, and exports a SavedModel.

Paper: Vaswani et al. 2017, "Attention Is All You Need", https://arxiv.org/abs/1706.03762

    python examples/translate.py
        Translates dates of Babel's CLDR data, in six languages and all styles, to a date in the
        wanted language. No download, 2 to 4 minutes on 2 cores. At least 99 % of the held-out
        dates, which training has in no form, are exactly right.

    python examples/translate.py --data=pairs.tsv
    python examples/translate.py --source=train.en --target=train.ko
        Any corpus, with a learned subword vocabulary; BLEU and chrF on a held-out part. From 1,000
        subwords on, 256 of them are bytes, so that the model can copy new names and emoji.

Writes to --output: index.html (shows the results), learning_curve.png, cross_attention.png,
attention.html, model.keras, the tokenizers, TensorBoard logs and saved_model/. The same command
continues a killed run. Results: benchmarks/RESULTS.md.
"""

import cldr_dates
import command_line
import distributing
import index_page
import keras
import resuming
import sacrebleu
import seq2seq
import telling
from absl import app, flags, logging

from keras_xfmr import text

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(distributing)
flags.DEFINE_string("data", None, "TSV of source<TAB>target; other columns are ignored.")
flags.DEFINE_string("source", None, "Source sentences, one a line; needs --target.")
flags.DEFINE_string("target", None, "Target sentences, line by line beside --source.")
flags.DEFINE_string("output", "runs/translate", "Folder for all output files.")
flags.DEFINE_integer("held_out", 1000, "Number of held-out pairs.", lower_bound=1)
flags.DEFINE_integer("train_size", 25_600, "Dates: number of training pairs.")
flags.DEFINE_integer("vocab_size", 4000, "Corpus: subwords of each language.")
flags.DEFINE_integer("epochs", None, "Passes over the data. Dates: 4, corpus: 12.", lower_bound=1)
flags.DEFINE_integer("batch_size", None, "Pairs of a step; 64.")
flags.DEFINE_integer("d_model", None, "Size of a token's vector. Dates: 64, corpus: 256.")
flags.DEFINE_integer("num_layers", None, "Blocks on each side. Dates: 2, corpus: 3.")
flags.DEFINE_integer("num_heads", None, "Attention heads; 4.")
flags.DEFINE_float("dropout", None, "Dropout rate. Dates: 0, corpus: 0.1.")
flags.DEFINE_float("learning_rate", None, "Peak rate. Dates: 5e-3, corpus: 1e-3.")
flags.DEFINE_integer("beam_size", 4, "Corpus: beams of the search.", lower_bound=1)
flags.DEFINE_integer("seed", 1, "Random seed of weights, dropout and data order.")
flags.DEFINE_enum("precision", "float32", ["float32", "mixed_bfloat16", "mixed_float16"], "Dtypes.")
flags.DEFINE_bool("jit_compile", True, "Compile the training step with XLA.")

DATES = {
    "epochs": 4, "batch_size": 64, "d_model": 64, "num_layers": 2, "dropout": 0.0,
    "learning_rate": 5e-3, "label_smoothing": 0.0, "num_heads": 4, "buckets": ((44, 26),),
    "search": "greedy", "max_length": 26,
}  # fmt: skip
CORPUS = {
    "epochs": 12, "batch_size": 64, "d_model": 256, "num_layers": 3, "dropout": 0.1,
    "learning_rate": 1e-3, "label_smoothing": 0.1, "num_heads": 4,
    "buckets": ((16, 16), (32, 32), (64, 64)), "search": "beam", "max_length": 64,
}  # fmt: skip


def settings():
    """The task's settings; flags override them."""
    chosen = dict(CORPUS if FLAGS.data or FLAGS.source else DATES)
    for name in chosen:
        if name in FLAGS and FLAGS[name].value is not None:
            chosen[name] = FLAGS[name].value
    return chosen


def prepare_dates(output, clock):
    """Writes the corpus of dates; all languages share one vocabulary of characters."""
    train, held = cldr_dates.make_pairs(FLAGS.train_size, FLAGS.held_out, FLAGS.seed)
    files = output / "train.tsv", output / "held_out.tsv"
    for path, pairs in zip(files, (train, held)):
        cldr_dates.write_pairs(path, pairs)
    tokenizer = text.learn_characters(str(files[0]))
    clock.step(f"{len(train)} pairs of dates, {tokenizer.vocab_size} characters")
    return files, (tokenizer, tokenizer)


def prepare_corpus(output, clock):
    """Splits the user's corpus and learns a subword vocabulary for each side."""
    seq2seq.refuse_own_files(output, [FLAGS.data, FLAGS.source, FLAGS.target])
    reader = text.ByteTokenizer()
    corpus = text.PairDataset(
        FLAGS.data or FLAGS.source, reader, reader, target=FLAGS.target, on_bad_row="skip"
    )

    def pairs():
        for source, target in corpus.pairs().as_numpy_iterator():
            yield source.decode("utf8"), target.decode("utf8")

    files = seq2seq.split(pairs, output, FLAGS.held_out, FLAGS.seed)
    clock.step(f"split the corpus; rows left out: {corpus.skipped}")
    train = text.PairDataset(files[0], reader, reader)
    telling.stage(f"learning two vocabularies of {FLAGS.vocab_size:,} subwords")
    tokenizers = tuple(
        text.learn_sentence_piece(train.sentences(side), FLAGS.vocab_size) for side in (0, 1)
    )
    sizes = " and ".join(str(t.vocab_size) for t in tokenizers)
    clock.step(f"learned vocabularies of {sizes} subwords")
    return files, tokenizers


def report(sources, references, answers, dates):
    """Prints the measures of the task and a few translations; returns name -> measure."""
    for source, reference, found in list(zip(sources, references, answers))[:8]:
        print(
            f"  {source}\n    -> {found}" + ("" if found == reference else f"\n    not {reference}")
        )
    exact = sum(a == r for a, r in zip(answers, references)) / len(references)
    measures = {"exact match": f"{exact:.2%} of {len(references)}"}
    print(f"held-out exact match: {measures['exact match']}")
    if not dates:
        for measure in (sacrebleu.corpus_bleu, sacrebleu.corpus_chrf):
            found = measure(answers, [references])
            print(f"held-out {found}")
            measures[found.name] = f"{found.score:.2f}"
    return measures


def main(argv):
    command_line.flags_alone(argv)
    logging.set_verbosity(logging.WARNING)
    if bool(FLAGS.source) != bool(FLAGS.target) or (FLAGS.data and FLAGS.source):
        raise app.UsageError("Pass --data=PAIRS.tsv, or --source=FILE with --target=FILE.")
    dates = not (FLAGS.data or FLAGS.source)
    chosen, clock = settings(), seq2seq.Clock()
    output = distributing.output_folder(FLAGS.output, argv[0], seq2seq.WRITES)
    keras.utils.set_random_seed(FLAGS.seed)
    keras.config.set_dtype_policy(FLAGS.precision)

    if resuming.resumes(output):  # keeps its files and vocabularies
        files = output / "train.tsv", output / "held_out.tsv"
        tokenizers = seq2seq.load_tokenizers(output, shared=dates)
    else:
        files, tokenizers = (prepare_dates if dates else prepare_corpus)(output, clock)
        seq2seq.save_tokenizers(tokenizers, output)
    model, measures = seq2seq.fit(
        files, tokenizers, output, chosen, seed=FLAGS.seed, jit_compile=FLAGS.jit_compile
    )
    clock.step(f"trained {model.count_params():,} weights; held-out {measures}")

    options = {"search": chosen["search"], "max_length": chosen["max_length"]}
    if chosen["search"] == "beam":
        options["beam_size"] = FLAGS.beam_size
    sources, references = zip(*seq2seq.read_pairs(files[1]))
    length = chosen["buckets"][-1][0]
    answers = seq2seq.answer(model, tokenizers, list(sources), length=length, **options)
    measures |= report(sources, references, answers, dates)
    clock.step("translated the held-out pairs")

    # A picture of a source of thousands of ids would be unreadable and take much memory.
    pairs = seq2seq.fitting(list(zip(sources, references)), tokenizers, chosen["buckets"][-1])
    shown = [source for source, _ in pairs[:3]]
    of_shown = [answers[sources.index(source)] for source in shown]
    seq2seq.show_attention(model, tokenizers, shown, of_shown, output)
    folder, asked = seq2seq.export_and_ask(model, tokenizers, output, shown, **options)
    for source, (translation, score) in zip(shown, asked):
        print(f"  {source}\n    -> {translation}  (log P {score:.2f})")
    samples = list(zip(sources, answers, references))[:20]
    page = index_page.write(
        output, measures, ("source", "translation", "reference"), samples,
        index_page.Service({"text": shown}),
    )  # fmt: skip
    resuming.finish(output)
    clock.step(f"{folder} answered in a fresh process; to look at: {page}")


if __name__ == "__main__":
    distributing.run(main)
