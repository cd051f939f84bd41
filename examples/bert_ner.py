"""Fine-tunes a BERT to find named entities, compares it with a look-up, and exports it for serving.

Paper: Devlin et al. 2019, "BERT", section 5.3, https://arxiv.org/abs/1810.04805

    python examples/bert_ner.py --train=train.conll --dev=dev.conll --test=test.conll
    python examples/bert_ner.py --train=... --test=... --pretrained=DIR

The files have the format of CoNLL: a word and its tag a line, the tag in the last column, an empty
line between sentences, in one of the schemes that conll.py reads (IOB2, IOB1, BILOU, BIOES, types
alone). KLUE's files have a character a line: --split=characters. DIR is a Hugging Face BERT folder
(MiniLM, KoBERT) or the --output of bert_pretrain.py. Without it the model is trained from scratch
with a learned vocabulary.

seqeval counts whole entities: strictly (an I- without its B- is no entity) and as in conlleval (it
begins an entity). The look-up gives each word its most frequent tag in training.

Writes to --output: index.html (shows the results), attention.html, learning_curve.png, model.keras,
hub/ (weights and tokenizer, a folder for --pretrained), and saved_model/, which takes text and
returns words with tags, and entities, tested in a process that imports only TensorFlow. Results:
benchmarks/RESULTS.md.
"""

import command_line
import distributing
import fine_tuning
import keras
import tagging
from absl import flags, logging

from keras_xfmr import models, text, viz

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(distributing)
flags.adopt_module_key_flags(tagging)
flags.DEFINE_string("pretrained", None, "A published BERT, or the --output of bert_pretrain.py.")
flags.DEFINE_bool("train_encoder", True, "Of --pretrained: train more than the head.")
flags.DEFINE_string("preset", "tiny", "From scratch: sizes of the model.")
flags.DEFINE_enum(
    "vocabulary", "word_piece", ["word_piece", "sentence_piece"], "From scratch: kind of pieces."
)
flags.DEFINE_integer("vocab_size", 8000, "From scratch: size of the vocabulary.")
flags.DEFINE_float("learning_rate", None, "Peak rate. From scratch: 1e-3, pretrained: 2e-4.")
flags.DEFINE_string("output", "runs/ner", "Folder for all output files.")


def main(argv):
    command_line.flags_alone(argv)
    logging.set_verbosity(logging.WARNING)
    output = distributing.output_folder(FLAGS.output, argv[0], fine_tuning.WRITES)
    keras.utils.set_random_seed(FLAGS.seed)
    train, dev, test, labels = tagging.load(FLAGS.split)
    by_character = FLAGS.split == "characters"
    tokenizer, model = fine_tuning.prepare(
        models.BertTokenClassifier,
        labels,
        [" ".join("".join(words) if by_character else words) for words, _ in train],
        pretrained=FLAGS.pretrained,
        train_encoder=FLAGS.train_encoder,
        dropout=FLAGS.dropout,
        preset=FLAGS.preset,
        vocabulary=FLAGS.vocabulary,
        vocab_size=FLAGS.vocab_size,
        max_length=FLAGS.max_length,
    )
    # All batches have one length: one compilation.
    packer = text.SentencePacker(
        tokenizer, FLAGS.max_length, pad_to_max_length=True, split=FLAGS.split
    )
    tagging.tell_unseen(packer, train=train, test=test)
    rate = FLAGS.learning_rate or (2e-4 if FLAGS.pretrained else 1e-3)
    tagging.fit(model, packer, train, dev, labels, output, rate)
    measures = tagging.measure(model, packer, test, labels)
    fine_tuning.save(model, tokenizer, output)
    words, _, _ = zip(*tagging.cut(packer, test[:3]))
    packed = packer.pack_words(tagging.ragged_words(words))
    viz.attention_view(model, packed, output / "attention.html", tokenizer=packer)
    tagging.serve(model, packer, test, output, measures)


if __name__ == "__main__":
    distributing.run(main)
