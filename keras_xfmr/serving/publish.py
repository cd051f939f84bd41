"""Publishes a whole SavedModel: written to a temporary folder, checked, flushed, renamed."""

import concurrent.futures
import contextlib
import os
import pathlib
import types

import keras
import numpy as np
import tensorflow as tf

from keras_xfmr.common.checks import check_positive_int
from keras_xfmr.serving.leftovers import MARK, folder_aside, put_old_versions


@contextlib.contextmanager
def new_version(path, version=None, keep=None):
    """A namespace with the `folder` to write to, and `final`, its name after the block.

    It gets that name when the block ends without an error. If two are written at once, the second
    to end gets the next number.

    Args:
        path: the model's folder, made if missing.
        version: a positive integer; by default one more than the highest in `path`.
        keep: how many versions stay, this one included; by default all. Older versions below it are
            removed, if this library wrote them.

    Raises:
        ValueError: `version` or `keep` is not a positive integer, `path` is not a local folder, or
            TensorFlow reads its name as a pattern.
        FileExistsError: the version is there already.
    """
    if "://" in str(path):
        raise ValueError(f"`path` must be a local folder. Received: {str(path)!r}.")
    path = pathlib.Path(path)
    if found := set(path.as_posix()) & set("*?[\\"):
        raise ValueError(
            "`path` must be without * ? [ and \\: TensorFlow reads a name with them as a pattern. "
            f"Received: {''.join(sorted(found))} in {str(path)!r}."
        )
    if keep is not None:
        check_positive_int("keep", keep)
    path.mkdir(parents=True, exist_ok=True)
    _name(path, version)
    with folder_aside(path) as aside:
        place = types.SimpleNamespace(folder=aside / "model", final=None)
        yield place
        (place.folder / MARK).touch()
        _flush(place.folder)
        while place.final is None:
            final = _name(path, version)
            try:
                os.rename(place.folder, final)  # fails where there is a folder of that name
                place.final = final
            except OSError:
                if not final.exists():
                    raise
        if keep is not None:
            put_old_versions(path, int(place.final.name), keep, aside)
        _flush_folder(path)


def write(endpoints, tokenizers, folder):
    """Writes the SavedModel.

    Args:
        endpoints: name -> (function, input signature). Variables are found through them. A tracked
            model would be written as a second copy, and traced with inputs that Keras guesses.
        tokenizers: name -> tokenizer; also saved in `assets.extra/name`, for people and for
            `load_tokenizer`. The graph holds the vocabularies.
        folder: made here.
    """
    archive = keras.export.ExportArchive()
    for tokenizer in tokenizers.values():
        archive.track(tokenizer)
    for name, (function, signature) in endpoints.items():
        archive.add_endpoint(name, _traced_once(function, signature), input_signature=signature)
    archive.write_out(str(folder), verbose=False)
    for name, tokenizer in tokenizers.items():
        tokenizer.save(folder / "assets.extra" / name)


def _traced_once(function, signature):
    """The function, traced once: Keras traces an endpoint to find its variables, and TensorFlow
    would trace it again to write it."""
    traced = tf.function(function, input_signature=signature, autograph=False)
    traced = traced.get_concrete_function()
    return lambda *inputs: traced(*inputs)


def refuse_no_texts(check_texts):
    """Raises ValueError if the written model would not be tested with any text."""
    if check_texts is not None and len(check_texts) == 0:
        raise ValueError("`check_texts` must have at least one text, or be None. Received: none.")


def check_answers(folder, endpoints, inputs):
    """Loads the written model and compares its answers with those of the model in memory.

    Args:
        folder: of the SavedModel.
        endpoints: name -> (function, input signature), as they were written.
        inputs: name of an endpoint -> its inputs by name, in the order of its signature; a compiled
            copy gets the same.

    Raises:
        RuntimeError: they differ.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as outside:
        # A model loaded in the scope of a strategy cannot be called. Another thread has no such
        # scope.
        outside.submit(_compare, folder, endpoints, inputs).result()


def _compare(folder, endpoints, inputs):
    signatures = tf.saved_model.load(str(folder)).signatures
    for endpoint, (function, _) in endpoints.items():
        asked = inputs[endpoint.removesuffix("_xla")]
        asked = {name: tf.constant(value) for name, value in asked.items()}
        expected, answers = function(*asked.values()), signatures[endpoint](**asked)
        for name, answer in answers.items():
            if answer.dtype == tf.string:
                same = np.array_equal(answer, expected[name])
            else:
                same = np.allclose(answer, expected[name], rtol=1e-3, atol=1e-3)
            if not same:
                raise RuntimeError(
                    "The written model does not answer as the model in memory, and was not "
                    f"published. Expected of {endpoint!r} {name} {expected[name].numpy()!r}. "
                    f"Received: {answer.numpy()!r}."
                )


def _name(path, version):
    version = _next_version(path) if version is None else check_positive_int("version", version)
    final = path / str(version)
    if final.exists():
        raise FileExistsError(f"{final} is there already. Leave out `version` for the next one.")
    return final


def _next_version(path):
    names = [child.name for child in path.iterdir()]
    return 1 + max((int(name) for name in names if name.isdecimal()), default=0)


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
