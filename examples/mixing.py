"""Shared by the examples with a head over an ELMo: the encoder, and its mix of layers."""

import pathlib

import index_page
import keras
from absl import app, flags

from keras_xfmr import models, text, viz

FLAGS = flags.FLAGS
flags.DEFINE_string("pretrained", None, "The --output of elmo_lm.py, or a folder of bilm-tf.")
flags.DEFINE_string("preset", "nano", "From scratch: sizes of the model, which reads characters.")
flags.DEFINE_bool("train_encoder", False, "Also train the ELMo; otherwise it is frozen.")
flags.DEFINE_bool("plain", False, "Only the vectors of the words, without LSTMs.")
flags.DEFINE_float(
    "learning_rate", None, "Peak learning rate. By default 1e-2, with --train_encoder 1e-3."
)

# The files of these examples in their output folders.
WRITES = ("learning_curve.png", "mix.png", "model.keras", "saved_model", *index_page.NAMES)


def prepare(split, max_length, dropout):
    """The encoder and its packer, with one length, for one compilation.

    Args:
        split: how texts are split into words, or None: as in the pretrained model, else "bert".
        max_length: words of a row.
        dropout: rate of an encoder that is trained. A frozen one returns the same vectors of a
            sentence in each epoch.
    """
    options, tokenizer = {"dropout_rate": dropout if FLAGS.train_encoder else 0.0}, None
    if FLAGS.pretrained:
        encoder, tokenizer, split = load(pathlib.Path(FLAGS.pretrained), split, options)
    else:
        encoder = models.Elmo.from_preset(FLAGS.preset, **options)
    if FLAGS.plain:
        encoder = without_lstms(encoder)
    encoder.trainable = FLAGS.train_encoder  # before a head is created
    packer = text.WordPacker(
        max_length,
        max_characters=encoder.get_config()["max_characters"],
        tokenizer=None if encoder.of_characters else tokenizer,
        split=split or "bert",
        pad_to_max_length=True,
    )
    origin = FLAGS.pretrained or "drawn at random"
    state = "trained" if FLAGS.train_encoder else "frozen"
    print(f"an ELMo of {encoder.count_params():,} weights, {origin}, {state}")
    return encoder, packer


def load(folder, split, options):
    """A pretrained encoder, its tokenizer or None, and how it splits texts."""
    tokenizer = None
    if (folder / "tokenizer").is_dir():
        tokenizer = text.load_tokenizer(folder / "tokenizer")
        if split not in (None, tokenizer.split):
            raise app.UsageError(
                f"{folder} was trained with --split={tokenizer.split}. Received: --split={split}."
            )
        split = tokenizer.split
    hub = folder / "hub"
    encoder = models.Elmo.from_pretrained(hub if hub.is_dir() else folder, **options)
    print(encoder.load_report)
    rows = encoder.get_config()["vocab_size"]
    if rows is not None and (tokenizer is None or tokenizer.vocab_size != rows):
        found = "no tokenizer" if tokenizer is None else f"one of {tokenizer.vocab_size} words"
        raise app.UsageError(f"{folder} has a model of {rows} words and {found} in tokenizer/.")
    return encoder, tokenizer, split


def without_lstms(encoder):
    """An `Elmo` with one layer, the words' own vectors."""
    plain = models.Elmo.from_config({**encoder.get_config(), "num_layers": 0})
    plain.token_embedding.set_weights(encoder.token_embedding.get_weights())
    return plain


def tell(model, output):
    """Prints and draws the weight of each layer in a head."""
    shares = model.scalar_mix.layer_weights()
    gamma = float(keras.ops.convert_to_numpy(model.scalar_mix.gamma))
    each = ", ".join(f"layer {i} {share:.3f}" for i, share in enumerate(shares))
    print(f"scalar mix: {each}; gamma {gamma:.3f}")
    names = ["words", *(f"LSTM {i}" for i in range(1, len(shares)))]
    viz.scalar_mix(shares, output / "mix.png", gamma=gamma, names=names)
