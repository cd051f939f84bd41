"""Characters that are no piece become their bytes, and come back, in graph and in Python."""

import json

import pytest
import tensorflow as tf
from sentences import SENTENCES, corpus, strings

from keras_xfmr import text
from keras_xfmr.serving.searches import first_text

UNSEEN = ["Żółć met 👩‍👩‍👧", "麤龘 𠀋 東京", "<0x41>", "The dog"]


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_what_no_piece_spells_comes_back(model_type):
    peer = pytest.importorskip("sentencepiece")
    tokenizer = text.learn_sentence_piece(corpus(), 1009, model_type=model_type)
    ids = tokenizer.tokenize(tf.constant(UNSEEN))
    assert tokenizer.unknown_id not in ids.flat_values.numpy()
    read = tf.function(tokenizer.detokenize, input_signature=[tf.TensorSpec([None, None], "int32")])
    assert strings(read(ids.to_tensor())) == strings(tokenizer.detokenize(ids)) == UNSEEN
    model = peer.SentencePieceProcessor(model_proto=tokenizer.vocabulary_bytes())
    assert model.encode(UNSEEN) == ids.to_list() and model.decode(ids.to_list()) == UNSEEN
    # A search may stop after any number of ids.
    row = tokenizer.tokenize(["The 👧"]).to_list()[0]
    cut = tf.ragged.constant([row[:n] for n in range(len(row) + 1)], dtype=tf.int32)
    found = strings(tokenizer.detokenize(cut))
    assert found[-4:] == [*("The " + n * "\ufffd" for n in (1, 2, 3)), "The 👧"]
    assert first_text(tokenizer).decode().isprintable() and len(first_text(tokenizer)) > 4


def test_bytes_are_learned_from_a_thousand_pieces_unless_said_otherwise():
    size = {
        (asked, given): text.learn_sentence_piece(corpus(), asked, byte_fallback=given).vocab_size
        for asked, given in ((997, None), (1009, False), (1009, None), (337, True))
    }
    without = size[997, None]
    assert size == {
        (997, None): without,
        (1009, False): without,
        (1009, None): without + 256,
        (337, True): 337,
    }
    words = text.learn_sentence_piece(corpus(), 1009, model_type="word")
    assert "<0x00>" not in words.get_vocabulary()


def test_a_default_without_room_for_bytes_does_without():
    syllables = [chr(code) for code in range(0xAC00, 0xAC00 + 857)]
    lines = tf.data.Dataset.from_tensor_slices(["".join(syllables[i::17]) for i in range(17)] * 2)
    assert "<0x00>" not in text.learn_sentence_piece(lines, 1009, model_type="bpe").get_vocabulary()
    with pytest.raises(ValueError, match="at least 1118 .*or pass `byte_fallback=False`.*1009"):
        text.learn_sentence_piece(lines, 1009, model_type="bpe", byte_fallback=True)


@pytest.mark.parametrize(
    "vocab_size, arguments, expected",
    [
        (257, {"byte_fallback": True}, "an integer, at least 261"),
        (401, {"byte_fallback": True, "model_type": "word"}, "cannot join bytes to characters"),
        (401, {"byte_fallback": 1.5}, r"`byte_fallback` must be one of \(None, True, False\)"),
    ],
)
def test_bytes_that_cannot_be_learned_are_refused(vocab_size, arguments, expected):
    with pytest.raises(ValueError, match=f"{expected}.*Received"):
        text.learn_sentence_piece(corpus(), vocab_size, **arguments)


def test_others_read_the_bytes_of_a_saved_tokenizer(tmp_path):
    peer = pytest.importorskip("tokenizers")
    tokenizer = text.learn_bert_sentence_piece(corpus(), 1009)
    assert tokenizer.special_ids == (0, 2, 3, 4)
    tokenizer.save(tmp_path)
    theirs = peer.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = [*UNSEEN[:2], *SENTENCES]
    ids = tokenizer.tokenize(tf.constant(texts)).to_list()
    assert [theirs.encode(one, add_special_tokens=False).ids for one in texts] == ids
    assert [theirs.decode(row) for row in ids] == texts
    assert json.loads((tmp_path / "tokenizer.json").read_text())["model"]["byte_fallback"]
