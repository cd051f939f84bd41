"""What the examples that begin with a BERT share: an encoder to begin with, training, files."""

import pathlib

import tensorflow as tf
from absl import app

from keras_xfmr import text, training

# What bert_classify.py and bert_ner.py write into their output folders.
WRITES = ("learning_curve.png", "model.keras", "hub", "saved_model")


def prepare(
    kind,
    labels,
    texts,
    *,
    pretrained=None,
    dropout,
    preset,
    vocabulary,
    vocab_size,
    max_length,
):
    """The tokenizer and the model, published or from scratch.

    Args:
        kind: class of the model.
        labels: names of the classes.
        texts: what a vocabulary is learned from, from scratch.
        pretrained: None, or a Hugging Face BERT folder, or the --output of bert_pretrain.py.
        dropout: rate, of attention weights too.
        vocabulary: kind of pieces, from scratch: "word_piece" or "sentence_piece".
        preset, vocab_size: sizes, from scratch.
        max_length: of the rows that the model will read; from scratch its positions.
    """
    arguments = {
        "num_classes": len(labels),
        "labels": labels,
        "dropout_rate": dropout,
        "attention_dropout_rate": dropout,
    }
    if pretrained:
        folder = pathlib.Path(pretrained)
        if (folder / "hub").is_dir():  # of bert_pretrain.py
            folder = folder / "hub"
        tokenizer = text.load_pretrained_tokenizer(folder)
        model = kind.from_pretrained(folder, **arguments)
        check_length(model, max_length)
        print(model.load_report)
        rows = model.bert.token_embedding.input_dim
        if tokenizer.vocab_size > rows or tokenizer.pad_id != model.bert.pad_token_id:
            raise app.UsageError(
                f"{folder} has a tokenizer of {tokenizer.vocab_size} pieces with padding "
                f"{tokenizer.pad_id}, and a model of {rows} with {model.bert.pad_token_id}."
            )
        return tokenizer, model
    learn = {
        "word_piece": text.learn_bert_word_piece,
        "sentence_piece": text.learn_bert_sentence_piece,
    }[vocabulary]
    tokenizer = learn(tf.data.Dataset.from_tensor_slices(texts), vocab_size, lowercase=True)
    model = kind.from_preset(
        preset,
        **arguments,
        vocab_size=tokenizer.vocab_size,
        max_length=max_length,
        pad_token_id=tokenizer.pad_id,
    )
    return tokenizer, model


def check_length(model, max_length):
    """Raises UsageError where rows would be longer than the positions of a published model."""
    longest = model.bert.position_embedding.max_length
    if max_length > longest:
        raise app.UsageError(
            f"Expected --max_length of at most {longest}, the positions of the pretrained model. "
            f"Received: --max_length={max_length}."
        )


def save(model, tokenizer, output):
    """Writes model.keras, and hub/, a folder of weights and tokenizer for --pretrained."""
    model.save(output / "model.keras")
    model.save_pretrained(output / "hub")
    tokenizer.save(output / "hub", max_length=model.bert.position_embedding.max_length)


def count_steps(texts, batch_size, epochs):
    """Steps of a training whose last batches, if they are not full, are left out."""
    if len(texts) < batch_size:
        raise app.UsageError(
            f"{len(texts)} texts to train on are fewer than one batch: lower "
            f"--batch_size={batch_size}."
        )
    return max(epochs * (len(texts) // batch_size), 2)


def optimizer(rate, steps):
    """BERT's: a warm-up over a tenth of the steps, a linear decay to 0, the global norm clipped."""
    schedule = training.LinearWarmupDecay(rate, steps // 10, steps)
    return training.AdamW(schedule, weight_decay=0.01, epsilon=1e-6, global_clipnorm=1.0)
