"""A sequence-to-sequence model and its tokenizers as one SavedModel.

B batch, S source, L max_length, n hypotheses
"""

import os
import pathlib
import shutil
import tempfile

import keras
import numpy as np
import tensorflow as tf


def export_saved_model(
    model,
    tokenizers,
    path,
    *,
    max_length,
    search="beam",
    version=None,
    xla=False,
    check_texts=None,
    **options,
):
    """Writes `path/version/`, a SavedModel that TensorFlow Serving loads, and returns its path.

    Signatures (every input and output has the batch as its first axis; with `num_return` above 1,
    outputs have n as their second):

    - `serving_default`: `text [B]` string -> `output_text [B]` string, `score [B]` float32;
    - `ids`: `token_ids [B, S]` int32, `lengths [B]` int32 -> `output_ids [B, L]`,
      `output_lengths [B]`, `score [B]`. Only the first `lengths` ids of a row are read, so whatever
      a server pads its batches with does no harm.
    - with `xla=True` also `serving_default_xla` and `ids_xla`, compiled twins. The model server
      has XLA switched off by default, and a compiled signature then fails at request time; the
      plain ones work everywhere.

    The vocabularies travel in the graph, and as files in `assets.extra/source` and
    `assets.extra/target`. The folder is written aside, loaded, asked `check_texts` and compared
    with the model in memory, flushed to disk, and only then renamed: a server that watches `path`
    never sees half a model.

    Args:
        model: a `Transformer`, or another model with `make_generator`.
        tokenizers: the pair (source, target) of `keras_xfmr.text` tokenizers.
        path: the model's folder.
        max_length: the most tokens to generate, the end token included.
        search: `"greedy"`, `"sample"` or `"beam"`.
        version: a positive integer; by default one more than the highest in `path`.
        xla: whether to add the compiled twins.
        check_texts: what the written model is asked; by default a text made of the first entries
            of the source vocabulary.
        **options: of the search, such as `beam_size`, `alpha`, `num_return`.

    Raises:
        ValueError: arguments that do not fit the model.
        FileExistsError: the version is there already.
        RuntimeError: the written model does not answer as the model in memory; nothing appears.

    Example::

        export_saved_model(model, (english, korean), "models/en_ko", max_length=64, beam_size=4)
    """
    source_tokenizer, target_tokenizer = tokenizers
    _check_vocabulary("source", source_tokenizer, model.source_embedding)
    _check_vocabulary("target", target_tokenizer, model.target_embedding)
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    if search == "beam":
        options = {"beam_size": 4, **options}
    final = path / str(_next_version(path) if version is None else _valid_version(version))
    if final.exists():
        raise FileExistsError(f"{final} is there already. Leave out `version` for the next one.")
    generator = model.make_generator(max_length=max_length, search=search, **options)
    aside = pathlib.Path(tempfile.mkdtemp(prefix=".writing-", dir=path))
    try:
        endpoints = _endpoints(generator, source_tokenizer, target_tokenizer, model.pad_id, xla)
        _write(endpoints, model, tokenizers, aside / "model")
        if check_texts is None:
            first = tf.range(4, min(9, source_tokenizer.vocab_size), dtype=tf.int32)[None]
            check_texts = [source_tokenizer.detokenize(first).numpy()[0]]
        _check_answers(aside / "model", endpoints["serving_default"][0], check_texts)
        _flush(aside / "model")
        os.rename(aside / "model", final)
        _flush_folder(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return str(final)


def _endpoints(generator, source_tokenizer, target_tokenizer, pad_id, xla):
    """name -> (function, input signature)."""

    def make(search):
        def find(ids):
            found = search(ids)
            if found["scores"].shape.rank == 2 and found["scores"].shape[1] == 1:
                found = {name: tensor[:, 0] for name, tensor in found.items()}
            return found

        def from_text(text):
            found = find(source_tokenizer.encode(text).to_tensor(pad_id))
            token_ids = found["token_ids"]
            flat = tf.reshape(token_ids, [-1, token_ids.shape[-1]])
            texts = tf.reshape(target_tokenizer.detokenize(flat), tf.shape(token_ids)[:-1])
            return {"output_text": texts, "score": found["scores"]}

        def from_ids(token_ids, lengths):
            inside = tf.sequence_mask(lengths, tf.shape(token_ids)[1])
            found = find(tf.where(inside, token_ids, pad_id))
            return {
                "output_ids": found["token_ids"],
                "output_lengths": found["lengths"],
                "score": found["scores"],
            }

        return from_text, from_ids

    text_signature = [tf.TensorSpec([None], tf.string, name="text")]
    ids_signature = [
        tf.TensorSpec([None, None], tf.int32, name="token_ids"),
        tf.TensorSpec([None], tf.int32, name="lengths"),
    ]
    from_text, from_ids = make(generator)
    endpoints = {
        "serving_default": (from_text, text_signature),
        "ids": (from_ids, ids_signature),
    }
    if xla:
        # Strings cannot be compiled, so only the search is.
        from_text, from_ids = make(tf.function(generator, jit_compile=True))
        endpoints["serving_default_xla"] = (from_text, text_signature)
        endpoints["ids_xla"] = (from_ids, ids_signature)
    return endpoints


def _write(endpoints, model, tokenizers, folder):
    archive = keras.export.ExportArchive()
    archive.track(model)
    for tokenizer in tokenizers:
        archive.track(tokenizer)
    for name, (function, signature) in endpoints.items():
        archive.add_endpoint(name, function, input_signature=signature)
    archive.write_out(str(folder), verbose=False)
    # The graph holds the vocabularies; these files are for people and for `load_tokenizer`.
    for side, tokenizer in zip(("source", "target"), tokenizers):
        tokenizer.save(folder / "assets.extra" / side)


def _check_answers(folder, expected_function, texts):
    """Loads what was written and compares its answers with those of the model in memory."""
    texts = tf.constant(texts)
    expected = expected_function(texts)
    answer = tf.saved_model.load(str(folder)).signatures["serving_default"](text=texts)
    same_text = np.array_equal(answer["output_text"], expected["output_text"])
    if not same_text or not np.allclose(answer["score"], expected["score"], rtol=1e-3, atol=1e-3):
        raise RuntimeError(
            "The written model does not answer as the model in memory, and was not put in place. "
            f"Expected {expected['output_text'].numpy()!r} with score "
            f"{expected['score'].numpy()}. Received: {answer['output_text'].numpy()!r} with "
            f"score {answer['score'].numpy()}."
        )


def _check_vocabulary(side, tokenizer, embedding):
    if tokenizer.vocab_size > embedding.input_dim:
        raise ValueError(
            f"The {side} tokenizer has {tokenizer.vocab_size} ids, the model's {side} table "
            f"{embedding.input_dim} rows. Is this the tokenizer that the model was trained with?"
        )


def _next_version(path):
    return 1 + max((int(child.name) for child in path.iterdir() if child.name.isdigit()), default=0)


def _valid_version(version):
    if type(version) is not int or version < 1:
        raise ValueError(f"`version` must be a positive integer. Received: {version!r}.")
    return version


def _flush(folder):
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(parent, name), "rb+") as file:
                os.fsync(file.fileno())
        _flush_folder(parent)


def _flush_folder(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
