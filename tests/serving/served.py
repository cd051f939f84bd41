"""Exports without what a test does not look at: the check of an export itself, or its files."""

import contextlib
import pathlib
import tempfile

import numpy as np
import pytest
import tensorflow as tf

from keras_xfmr.serving import encoders, export


@contextlib.contextmanager
def unchecked():
    """Exports in the block are not asked by themselves, for the test asks them."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (encoders, export):
            patch.setattr(module, "check_answers", lambda *arguments: None)
        yield patch


def in_memory(function, model, packer, **options):
    """The signatures of an export by name, traced as they would be written, but not written."""
    endpoints = {}

    def keep(found, tokenizers, folder):
        folder.mkdir()
        endpoints.update(found)

    with unchecked() as patch, tempfile.TemporaryDirectory() as folder:
        for module in (encoders, export):
            patch.setattr(module, "write", keep)
        function(model, packer, pathlib.Path(folder), **options)
    return {name: _traced(*endpoint) for name, endpoint in endpoints.items()}


def assert_rows_answer_for_themselves(service, right, *wrong):
    """A row that cannot be read answers nothing, and changes no answer of the rows beside it.

    Args:
        service: a signature.
        right: name -> the inputs of two rows.
        wrong: name -> an input in the place of that of the first row, each time.
    """
    right = {name: tf.constant(value).numpy() for name, value in right.items()}
    expected = service(**{name: tf.constant(value) for name, value in right.items()})
    assert expected["valid"].numpy().tolist() == [True, True]
    for inputs in wrong:
        batch = {name: value[[0, 0, 1]] for name, value in right.items()}
        for name, value in inputs.items():
            batch[name][1] = value
        found = service(**{name: tf.constant(value) for name, value in batch.items()})
        assert found["valid"].numpy().tolist() == [True, False, True], inputs
        for name, values in found.items():
            if values.dtype.is_floating:
                np.testing.assert_allclose(values[::2], expected[name], rtol=1e-4, err_msg=name)
            else:
                np.testing.assert_array_equal(values[::2], expected[name], err_msg=name)
            np.testing.assert_array_equal(values[1], tf.zeros_like(values[1]), err_msg=name)


def _traced(function, signature):
    traced = tf.function(function, input_signature=signature, autograph=False)
    traced = traced.get_concrete_function()

    def ask(**inputs):
        assert set(inputs) == {spec.name for spec in signature}
        return traced(*(inputs[spec.name] for spec in signature))

    return ask
