"""Tokenizers that are learned once for all tests of this folder."""

import pytest
from sentences import corpus

from keras_xfmr import text

KINDS = ("word_piece", "lower", "sentence_piece", "character", "byte")


@pytest.fixture(scope="session")
def learned():
    """Of each kind one; the sizes are what the few sentences allow."""
    return {
        "word_piece": text.learn_word_piece(corpus(), 499),
        "lower": text.learn_word_piece(corpus(), 499, lowercase=True),
        "sentence_piece": text.learn_sentence_piece(corpus(), 8009, byte_fallback=False),
        "character": text.learn_characters(corpus()),
        "byte": text.ByteTokenizer(),
    }


@pytest.fixture(params=KINDS)
def tokenizer(request, learned):
    return learned[request.param]
