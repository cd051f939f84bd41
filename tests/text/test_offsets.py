"""Where pieces stand in a text: the offsets of the `tokenizers` and `sentencepiece` packages."""

import unicodedata

import hostile
import peers
import pytest
import tensorflow as tf
from peers import BERT
from sentences import CASES

from keras_xfmr import text
from keras_xfmr.text.tokenizers.bert import bert_special_ids
from keras_xfmr.text.tokenizers.sentence_piece_model import read_model

SETTINGS = (
    dict(lowercase=True),
    dict(lowercase=False),
    dict(lowercase=True, strip_accents=False),
    dict(lowercase=False, strip_accents=True, split_cjk=False),
)


@pytest.fixture(scope="module")
def reference():
    return peers.word_piece(pytest.importorskip("tokenizers"))


def taken(tokenizer, texts):
    """Of each text, what its pieces are in it."""
    raw = [t if isinstance(t, bytes) else t.encode() for t in texts]
    ids, starts, ends = tokenizer.tokenize_with_offsets(tf.constant(raw, tf.string))
    assert starts.dtype == ends.dtype == tf.int64
    assert ids.to_list() == tokenizer.tokenize(tf.constant(raw, tf.string)).to_list()
    rows = zip(raw, starts.to_list(), ends.to_list())
    return [[row[a:b] for a, b in zip(start, end)] for row, start, end in rows]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_offsets_are_those_of_the_peer(settings, reference):
    peer = pytest.importorskip("tokenizers")
    reference.normalizer = peers.normalizer(peer, **settings)
    reference.encode_special_tokens = True
    sentences = [*CASES, *hostile.strings(2003, seed=11)]
    tokenizer = text.BertTokenizer(peers.tokens_of(reference), **settings)
    ids, *offsets = tokenizer.tokenize_with_offsets(tf.constant(sentences))
    assert ids.to_list() == tokenizer.tokenize(tf.constant(sentences)).to_list()
    expected = reference.encode_batch(sentences, add_special_tokens=False)
    compared = longer = 0
    for sentence, row, starts, ends, peers_own in zip(
        sentences, ids.to_list(), *(o.to_list() for o in offsets), expected
    ):
        if row != peers_own.ids:  # a letter newer than TensorFlow's tables
            continue
        raw = sentence.encode()
        for start, end, (first, behind) in zip(starts, ends, peers_own.offsets):
            assert raw[:start].decode() == sentence[:first]
            found, compared = raw[start:end].decode(), compared + 1
            if found != sentence[first:behind]:  # ours has the stripped marks behind it, too
                marks = found.removeprefix(sentence[first:behind])
                assert sentence[behind:].startswith(marks)
                assert {unicodedata.category(mark) for mark in marks} == {"Mn"}
                longer += 1
    assert compared > 10_000
    stripped = settings.get("strip_accents", settings["lowercase"])
    assert (longer > 10) == stripped


def test_pieces_by_hand():
    pieces = ["caf", "##e", "x", "東", "ab", "##c", "!", "\u1100", "##\u1161\u11a8"]
    long = "한" * 101  # letters, 303 of them
    texts = ["Cafe\u0301, x東X!ABC", "", " 각\u0323x  caf\xe9\u200b ", f"{long} x", "\u0301 x"]
    assert taken(text.BertTokenizer([*BERT, *pieces]), [*texts, b"ab\xffc\xfe \xffx"]) == [
        [p.encode() for p in ("Caf", "e\u0301", ",", "x", "東", "X", "!", "AB", "C")],
        [],
        [p.encode() for p in ("각\u0323x", "caf", "é")],
        [long.encode(), b"x"],
        [b"x"],
        [b"ab", b"c", b"x"],
    ]


def test_an_empty_batch_has_no_offsets():
    assert taken(text.BertTokenizer(BERT), []) == []


def test_sentence_pieces_are_where_the_peer_finds_them():
    peer = pytest.importorskip("sentencepiece", minversion="0.2.2")  # gives offsets
    proto = peers.kobert(peer)
    special = bert_special_ids([piece.text for piece in read_model(proto).pieces])
    reference = peer.SentencePieceProcessor(model_proto=proto)
    sentences = [*CASES, "ﬁne ㎏", " two  blanks\u3000wide ", *hostile.strings(503, seed=13)]
    expected = []
    for sentence in sentences:
        found = reference.encode(sentence, return_type="proto").pieces
        expected.append([sentence.encode()[p.begin : p.end] for p in found])
    tokenizer = text.SentencePieceTokenizer(proto, **special)
    assert taken(tokenizer, sentences) == expected
    assert sum(map(len, expected)) > 5000
