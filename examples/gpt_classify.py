"""Fine-tunes a GPT to classify texts, with its language model as a second task, and exports it.

Paper: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training".

    python examples/gpt_lm.py --files=reviews.txt --validation_files=held_out.txt \\
        --line_documents --vocabulary=sentence_piece --output=runs/gpt
    python examples/gpt_classify.py --train=ratings_train.txt --test=ratings_test.txt \\
        --pretrained=runs/gpt

The files are TSVs with a header; --text and --label name the columns (NSMC, e9t/nsmc, has
`document` and `label`), --text_pair the column of a second text. --pretrained is the --output of
gpt_lm.py or a Hugging Face GPT-2 folder; without it the model is trained from scratch with a
learned vocabulary. The input is start, text, end; the vector of the end token gives the class. The
loss is the loss of the class plus --lm_weight times the loss of the next tokens (lambda in section
3.2 of the paper). --baseline adds the accuracy of a logistic regression over character n-grams.

Writes to --output: index.html (shows the results), attention.html, learning_curve.png, model.keras,
hub/ (weights and tokenizer, a folder for --pretrained and `transformers`), and saved_model/, which
takes text and returns labels with scores, tested in a process that imports only TensorFlow.
Results: benchmarks/RESULTS.md.
"""

import classifying
import command_line
import distributing
import fine_tuning
import keras
from absl import flags, logging

from keras_xfmr import models, text, training

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(distributing)
flags.adopt_module_key_flags(classifying)
flags.DEFINE_string("pretrained", None, "The --output of gpt_lm.py, or a folder of a GPT-2.")
flags.DEFINE_bool("train_encoder", True, "Of --pretrained: train more than the head.")
flags.DEFINE_string("preset", "tiny", "From scratch: sizes of the model.")
flags.DEFINE_enum(
    "vocabulary", "byte_pair", ["byte_pair", "sentence_piece"], "From scratch: kind of pieces."
)
flags.DEFINE_integer("vocab_size", 8000, "From scratch: size of the vocabulary.")
flags.DEFINE_float("learning_rate", None, "Peak rate. From scratch: 5e-4, pretrained: 1e-4.")
flags.DEFINE_float("lm_weight", 0.5, "Weight of the language model's loss.", lower_bound=0.0)
flags.DEFINE_string("output", "runs/gpt_classify", "Folder for all output files.")


def compile_model(model, steps):
    """With a warm-up and a linear decay; the loss is the sum of both losses."""
    rate = FLAGS.learning_rate or (1e-4 if FLAGS.pretrained else 5e-4)
    model.compile(
        fine_tuning.optimizer(rate, steps),
        loss={
            "classes": training.MaskedCrossEntropy(pad_id=-1),
            "lm": training.MaskedCrossEntropy(pad_id=-1),
        },
        loss_weights={"lm": FLAGS.lm_weight},
        metrics={
            "classes": keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            "lm": training.MaskedPerplexity(pad_id=-1),
        },
        jit_compile=FLAGS.jit_compile,
    )


def packing(packer):
    """A function from texts and classes to the model's inputs and the labels of both outputs."""

    def pack(texts, classes):
        packed = packer(*texts)
        inputs = {name: packed[name] for name in ("token_ids", "attention_mask")}
        return inputs, {"classes": classes, "lm": text.next_token_labels(**inputs)}

    return pack


def main(argv):
    command_line.flags_alone(argv)
    logging.set_verbosity(logging.WARNING)
    output = distributing.output_folder(FLAGS.output, argv[0], fine_tuning.WRITES)
    keras.utils.set_random_seed(FLAGS.seed)
    train, test, labels = classifying.load()
    tokenizer, model = fine_tuning.prepare(
        models.GptClassifier,
        labels,
        [one for row in train[0] for one in row],
        pretrained=FLAGS.pretrained,
        train_encoder=FLAGS.train_encoder,
        dropout=FLAGS.dropout,
        preset=FLAGS.preset,
        vocabulary=FLAGS.vocabulary,
        vocab_size=FLAGS.vocab_size,
        max_length=FLAGS.max_length,
    )
    packer = classifying.make_packer(tokenizer, train[0])
    compile_model(model, fine_tuning.count_steps(train[0], FLAGS.batch_size, FLAGS.epochs))
    measures = classifying.fit(model, packing(packer), train, test, output)
    print(
        f"{model.count_params():,} weights, test accuracy {measures['classes_accuracy']:.2%}, "
        f"perplexity {measures['lm_perplexity']:.1f} a token"
    )
    fine_tuning.save(model, tokenizer, output)
    classifying.show_attention(model, packer, test[0], output)
    measured = {
        "test accuracy": f"{measures['classes_accuracy']:.2%}",
        "test perplexity of a token": f"{measures['lm_perplexity']:.1f}",
    }
    classifying.serve(model, packer, test[0], output, measured)


if __name__ == "__main__":
    distributing.run(main)
