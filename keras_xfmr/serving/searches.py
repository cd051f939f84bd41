"""What the services of generating models share, and which export is for which model.

B batch, L max_length, n hypotheses
"""

import tensorflow as tf

from keras_xfmr import models
from keras_xfmr.models.heads.head import Head
from keras_xfmr.serving.requests import answer_by_rows
from keras_xfmr.serving.sizes import rows_of_few_sizes

EXPORTS = {
    models.Transformer: "export_saved_model",
    models.Gpt: "export_language_model",
    models.Elmo: "export_encoder",
    Head: "export_encoder",
}
READ_FOR_A_TEXT = 512  # ids that are searched for a default check text


def wrong_model(model, expected):
    """The error of an export for another kind of model; it names the right export."""
    names = [name for kind, name in EXPORTS.items() if isinstance(model, kind)]
    way_out = f", which `{names[0]}` exports" if names else ""
    return ValueError(f"Expected {expected}. Received: {type(model).__name__}{way_out}.")


def check_vocabulary(tokenizer, embedding, model, special, side=""):
    """Raises ValueError if a tokenizer's ids do not fit a table or the model.

    Args:
        tokenizer, model: the exported ones.
        embedding: the table that the ids are looked up in.
        special: names of the special ids that both must have.
        side: the name of the tokenizer and of the table.
    """
    tokenizers, table = f"{side} tokenizer".strip(), f"{side} table".strip()
    if tokenizer.vocab_size > embedding.input_dim:
        raise ValueError(
            f"The {tokenizers} has {tokenizer.vocab_size} ids, the model's {table} "
            f"{embedding.input_dim} rows. Is this the tokenizer that the model was trained with?"
        )
    for name in special:
        if getattr(tokenizer, name) != getattr(model, name):
            raise ValueError(
                f"The {tokenizers} has {name}={getattr(tokenizer, name)}, the model "
                f"{name}={getattr(model, name)}. Build the model with the tokenizer's special ids."
            )


def first_text(tokenizer):
    """A text made of the first entries of a vocabulary that can be read by themselves.

    Bytes below a blank, parts of characters and the unknown token are left out.
    """
    unknown = tokenizer.unknown_id
    ids = [i for i in range(min(READ_FOR_A_TEXT, tokenizer.vocab_size)) if i != unknown]
    texts = tokenizer.detokenize(tf.constant(ids, tf.int32)[:, None]).numpy()
    texts = [text.decode("utf8", "replace").strip() for text in texts]
    good = [i for i, text in zip(ids, texts) if text.isprintable() and text.strip("\ufffd")]
    return tokenizer.detokenize(tf.constant([good[:5]], tf.int32)).numpy()[0]


def traced(search, signature, jit_compile):
    """A search as one graph function, without the axis of a single hypothesis.

    Strings cannot be compiled, so `jit_compile` applies only to the search.

    Args:
        search: function from tensors to a search's result by names.
        signature: of the tensors.
        jit_compile: None or True. A search is compiled for each size of its inputs, so their rows
            are padded to few numbers; the caller pads their widths.
    """
    function = tf.function(
        search, input_signature=signature, autograph=False, jit_compile=jit_compile
    ).get_concrete_function()

    def find(*inputs):
        rows = tf.shape(inputs[0])[0]
        if jit_compile:
            inputs = rows_of_few_sizes(inputs)
        found = function(*inputs)
        if jit_compile:
            found = {name: values[:rows] for name, values in found.items()}
        if found["scores"].shape.rank == 2 and found["scores"].shape[1] == 1:
            found = {name: tensor[:, 0] for name, tensor in found.items()}
        return found

    return find


def as_numbers(found):
    """The outputs of the signature `ids` from a search's result."""
    return {
        "output_ids": found["token_ids"],
        "output_lengths": found["lengths"],
        "score": found["scores"],
    }


def with_twins(make, xla):
    """name -> (function, input signature), which check each row; see `answer_by_rows`.

    Args:
        make: a function from `jit_compile` to these.
        xla: whether to add the compiled ones, as `name_xla`.
    """
    endpoints = make(None)
    if xla:
        endpoints |= {f"{name}_xla": endpoint for name, endpoint in make(True).items()}
    return answer_by_rows(endpoints)
