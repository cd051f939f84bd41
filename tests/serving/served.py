"""Exports without what a test does not look at: the check of an export itself, or its files."""

import contextlib
import pathlib
import tempfile

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


def _traced(function, signature):
    traced = tf.function(function, input_signature=signature, autograph=False)
    traced = traced.get_concrete_function()

    def ask(**inputs):
        assert set(inputs) == {spec.name for spec in signature}
        return traced(*(inputs[spec.name] for spec in signature))

    return ask
