"""Shared by the examples that fine-tune: the initial model, training, files."""

import functools
import pathlib

import index_page
import telling
import tensorflow as tf
from absl import app

from keras_xfmr import text, training

# The files of these examples in their output folders.
WRITES = ("learning_curve.png", "model.keras", "hub", "saved_model", *index_page.NAMES)

# The head's name of its encoder -> kind of pieces -> function that learns a vocabulary.
LEARN = {
    "bert": {
        "word_piece": functools.partial(text.learn_bert_word_piece, lowercase=True),
        "sentence_piece": functools.partial(text.learn_bert_sentence_piece, lowercase=True),
    },
    "gpt": {"byte_pair": text.learn_byte_pair, "sentence_piece": text.learn_sentence_piece},
}
# The special ids of models -> those of tokenizers.
SPECIAL = {
    "pad_token_id": "pad_id", "pad_id": "pad_id", "start_id": "start_id", "end_id": "end_id",
}  # fmt: skip


def prepare(
    kind,
    labels,
    texts,
    *,
    pretrained=None,
    train_encoder=True,
    dropout,
    preset,
    vocabulary,
    vocab_size,
    max_length,
    **options,
):
    """The tokenizer and the model, published or from scratch.

    Args:
        kind: class of the model, a head over a published encoder.
        labels: names of the classes.
        texts: the texts for the vocabulary, from scratch.
        pretrained: None, a Hugging Face folder, or the --output of bert_pretrain.py or gpt_lm.py.
        train_encoder: whether to train more than the head.
        dropout: rate, also of attention weights.
        vocabulary: kind of pieces, from scratch, one of `LEARN`.
        preset, vocab_size: sizes, from scratch.
        max_length: length of the rows; from scratch also the number of positions.
        **options: other arguments of the model.
    """
    arguments = {
        "num_classes": len(labels),
        "labels": labels,
        "dropout_rate": dropout,
        "attention_dropout_rate": dropout,
        **options,
    }
    if pretrained:
        folder = own = pathlib.Path(pretrained)
        if (folder / "hub").is_dir():  # the output of an example
            folder = folder / "hub"
        own = own / "tokenizer" if (own / "tokenizer").is_dir() else folder
        tokenizer = text.load_pretrained_tokenizer(own)
        model = kind.from_pretrained(folder, **arguments)
        check_length(model, max_length)
        print(model.load_report)
        rows, padding = model.encoder.token_embedding.input_dim, model.encoder.pad_token_id
        if tokenizer.vocab_size > rows or padding not in (None, tokenizer.pad_id):
            raise app.UsageError(
                f"{folder} has a tokenizer of {tokenizer.vocab_size} pieces with padding "
                f"{tokenizer.pad_id}, and a model of {rows} with {padding}."
            )
        model.encoder.trainable = train_encoder
        return tokenizer, model
    if not train_encoder:
        raise app.UsageError("--notrain_encoder needs --pretrained: it would keep random weights.")
    telling.stage(f"learning a vocabulary of {vocab_size:,} pieces")
    learn = LEARN[kind.argument][vocabulary]
    tokenizer = learn(tf.data.Dataset.from_tensor_slices(texts), vocab_size)
    known = set(kind.over.argument_names())
    special = {name: getattr(tokenizer, ours) for name, ours in SPECIAL.items() if name in known}
    model = kind.from_preset(
        preset,
        **arguments,
        vocab_size=tokenizer.vocab_size,
        max_length=max_length,
        **special,
    )
    return tokenizer, model


def check_length(model, max_length):
    """Raises UsageError if rows are longer than the positions of a published model."""
    longest = model.encoder.position_embedding.max_length
    if max_length > longest:
        raise app.UsageError(
            f"Expected --max_length of at most {longest}, the positions of the pretrained model. "
            f"Received: --max_length={max_length}."
        )


def save(model, tokenizer, output):
    """Writes model.keras, and hub/, a folder of weights and tokenizer for --pretrained."""
    model.save(output / "model.keras")
    model.save_pretrained(output / "hub")
    tokenizer.save(output / "hub", max_length=model.encoder.position_embedding.max_length)


def count_steps(texts, batch_size, epochs):
    """Number of training steps, without the last batch of an epoch if it is not full."""
    if len(texts) < batch_size:
        raise app.UsageError(
            f"{len(texts)} texts to train on are fewer than one batch: lower "
            f"--batch_size={batch_size}."
        )
    return max(epochs * (len(texts) // batch_size), 2)


def optimizer(rate, steps):
    """BERT's: warm-up over a tenth of the steps, linear decay to 0, clipped global norm."""
    schedule = training.LinearWarmupDecay(rate, steps // 10, steps)
    return training.AdamW(schedule, weight_decay=0.01, epsilon=1e-6, global_clipnorm=1.0)
