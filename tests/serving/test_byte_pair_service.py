"""A byte-pair tokenizer in a SavedModel, through the loader of a server."""

import cpp_loader
import pytest
import tensorflow as tf

from keras_xfmr import text
from keras_xfmr.text.tokenizers.byte_pair_files import ALPHABET

pytestmark = pytest.mark.slow

TEXTS = ["lo  low's 안녕\n", "", "<endoftext> 🙂", "lo" * 101]


def test_the_loader_of_a_server_reads_texts_with_it(loader, tmp_path):
    merges = [("l", "o"), ("Ġ", "lo"), ("lo", "lo"), ("ì", "ķ")]
    vocabulary = [*ALPHABET, *("".join(pair) for pair in merges), "<|endoftext|>"]
    tokenizer = text.BytePairTokenizer(vocabulary, merges)
    module = tf.Module()
    module.tokenizer = tokenizer

    def read(texts):
        ids, _, ends = tokenizer.tokenize_with_offsets(texts)
        back = tokenizer.detokenize(ids)
        return {"ids": ids.to_tensor(-1), "ends": ends.to_tensor(-1), "back": back}

    read = tf.function(
        read, input_signature=[tf.TensorSpec([None], tf.string, "texts")], autograph=False
    )
    tf.saved_model.save(module, str(tmp_path), signatures=read)
    answer = cpp_loader.ask(loader, tmp_path, "serving_default", {"texts": TEXTS})
    expected = read(tf.constant(TEXTS))
    for name in ("ids", "ends"):
        assert answer[name]["values"] == tf.reshape(expected[name], [-1]).numpy().tolist()
    assert answer["back"]["values"] == TEXTS
