"""Tokenizers: round trips, special tokens, parity with the libraries of published models."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sentences import CASES, SENTENCES, SPECIAL, same_answers, strings

from keras_xfmr import text

# What WordPiece gives back as it was: one blank between words, no punctuation.
WORDS = ("the lazy dog", "안녕하세요 세계", "déjà vu", "quick 🙂 fox", "", "안")


# ---- there and back


@pytest.mark.parametrize("kind", ["sentence_piece", "character", "byte"])
def test_text_comes_back_as_it_was(learned, kind):
    ids = learned[kind].encode(tf.constant(CASES), start=True)
    assert strings(learned[kind].detokenize(ids)) == list(CASES)


def test_word_piece_gives_words_back_and_spaces_out_punctuation(learned):
    tokenizer = learned["word_piece"]
    assert strings(tokenizer.detokenize(tokenizer.encode(tf.constant(WORDS)))) == list(WORDS)
    ids = tokenizer.encode(tf.constant(["The dogs were jumping, the foxes!", "東京へ"]))
    assert strings(tokenizer.detokenize(ids)) == ["The dogs were jumping , the foxes !", "東 京 へ"]


def test_lowercase_word_piece_folds_case_and_accents_and_keeps_hangul_whole(learned):
    tokenizer = learned["lower"]
    ids = tokenizer.encode(tf.constant(["Déjà VU", "안녕하세요 세계"]))
    assert strings(tokenizer.detokenize(ids)) == ["deja vu", "안녕하세요 세계"]


def test_a_byte_is_its_value_after_the_special_tokens():
    ids = text.ByteTokenizer().encode(tf.constant(["a안", ""]), start=True)
    assert ids.to_list() == [[2, *(4 + byte for byte in "a안".encode()), 3], [2, 3]]
    assert ids.dtype == tf.int32


def test_many_tokenizers_give_no_warning_of_retracing(learned, tmp_path, caplog):
    learned["sentence_piece"].save(tmp_path)
    for _ in range(6):
        one = text.load_tokenizer(tmp_path)
        one.detokenize(one.encode(tf.constant(["the dog"])))
    assert "retracing" not in caplog.text


def test_any_iterable_is_a_vocabulary():
    tokens = [*SPECIAL, "a", "b"]
    for kind in (text.CharacterTokenizer, text.WordTokenizer, text.WordPieceTokenizer):
        assert kind(iter(tokens)).get_vocabulary() == tokens
        assert kind(iter(tokens)).encode(tf.constant(["b"])).to_list() == [[5, 3]]


def test_word_piece_takes_the_longest_pieces():
    pieces = ["un", "##aff", "##able", "##a", "affable", "un##a", "안", "##녕"]
    tokenizer = text.WordPieceTokenizer([*SPECIAL, *pieces])
    texts = tf.constant(["unaffable", "affable unaffy", "안녕 un"])
    assert tokenizer.tokenize(texts).to_list() == [[4, 5, 6], [8, 1], [10, 11, 4]]


# ---- special tokens


def test_start_and_end_are_added_where_asked(tokenizer):
    texts = tf.constant(["the dog", ""])
    plain = tokenizer.tokenize(texts).to_list()
    assert plain[0] and not plain[1]
    for start in (False, True):
        for end in (False, True):
            expected = [[2] * start + row + [3] * end for row in plain]
            assert tokenizer.encode(texts, start=start, end=end).to_list() == expected
    assert tokenizer.encode(texts).to_list() == [row + [3] for row in plain]


def test_detokenize_stops_at_the_end_and_leaves_special_tokens_out(tokenizer):
    word, other = (tokenizer.tokenize(tf.constant([x])).to_list()[0] for x in ("dog", "the"))
    dense = tf.constant([[2, 0, *word, 3, *other, 3]])
    assert strings(tokenizer.detokenize(dense)) == ["dog"]
    ragged = tf.ragged.constant([[2, *word], [3, *other], [], word[:0] + other], dtype=tf.int64)
    assert strings(tokenizer.detokenize(ragged)) == ["dog", "", "", "the"]


def test_detokenize_keeps_the_axes_before_the_last(tokenizer):
    word, other = (tokenizer.tokenize(tf.constant([x])).to_list()[0] for x in ("dog", "the"))
    rows = tf.ragged.constant([[*word, 3], [*other, 3], [3], word, other, [3, *word]]).to_tensor()
    hypotheses = tf.reshape(rows, (2, 3, -1))
    found = tokenizer.detokenize(hypotheses).numpy().astype(str).tolist()
    assert found == [["dog", "the", ""], ["dog", "the", ""]]
    assert tokenizer.detokenize(word).numpy() == b"dog"
    assert tokenizer.detokenize(tf.zeros((2, 0), tf.int32)).numpy().tolist() == [b"", b""]
    with pytest.raises(ValueError, match=r"Expected ids \[B, T\].* Received"):
        tokenizer.detokenize(5)


def test_no_text_spells_a_special_token(tokenizer):
    ids = tokenizer.tokenize(tf.constant(["[PAD][START] [END] <s></s><pad> [UNK]", "\x00"]))
    assert not set(ids.flat_values.numpy()) & {0, 2, 3}


def test_an_empty_batch_stays_empty(tokenizer):
    ids = tokenizer.encode(tf.constant([], tf.string), start=True)
    assert (ids.nrows().numpy(), ids.flat_values.shape) == (0, (0,))
    assert tokenizer.detokenize(ids).shape == (0,)
    assert tokenizer.detokenize(tf.zeros((0, 5), tf.int32)).shape == (0,)


@pytest.mark.parametrize("texts", ["dog", tf.constant("dog"), [["dog"]], [1, 2]], ids=str)
def test_one_string_alone_is_refused(texts, tokenizer):
    reads = [tokenizer.encode, tokenizer.tokenize]
    reads += [getattr(tokenizer, "tokenize_with_offsets", tokenizer.tokenize)]
    for read in reads:
        with pytest.raises(ValueError, match=r"Expected strings \[B\].* Received"):
            read(texts)
    assert tokenizer.encode(["dog"]).to_list() == tokenizer.encode(tf.constant(["dog"])).to_list()


def test_what_the_vocabulary_lacks_is_unknown(learned):
    texts = tf.constant(["ж"])
    for kind in ("word_piece", "lower", "character"):
        assert learned[kind].tokenize(texts).to_list() == [[1]]
    assert learned["sentence_piece"].tokenize(texts).to_list()[0][-1] == 1
    assert 1 not in learned["byte"].tokenize(texts).to_list()[0]


def test_an_unknown_id_is_shown_as_such(learned):
    shown = {"word_piece": "[UNK]", "sentence_piece": " \u2047 ", "character": "\ufffd"}
    shown |= {"lower": "[unk]".upper(), "byte": "\ufffd"}
    for kind, tokenizer in learned.items():
        assert strings(tokenizer.detokenize(tf.constant([[1, 3]]))) == [shown[kind]], kind


def test_an_id_outside_the_vocabulary_reads_as_unknown(tokenizer):
    # A model's table may have more rows than the vocabulary, and one request must not fail others.
    outside = tf.constant([[tokenizer.vocab_size], [-1], [10**6]])
    assert set(strings(tokenizer.detokenize(outside))) == set(
        strings(tokenizer.detokenize(tf.constant([[1]])))
    )


@pytest.mark.parametrize("kind", ["character", "byte"])
def test_broken_utf8_is_replaced_not_refused(learned, kind):
    tokenizer = learned[kind]
    found = tokenizer.detokenize(tokenizer.encode(tf.constant([b"a\xffb\xec\x95"])))
    assert strings(found) == ["a\ufffdb\ufffd"]


# ---- in a graph


def test_a_function_and_a_data_set_give_the_same_ids(tokenizer):
    spec = [tf.TensorSpec([None], tf.string)]
    expected = tokenizer.encode(tf.constant(CASES), start=True).to_list()
    encode = tf.function(lambda x: tokenizer.encode(x, start=True), input_signature=spec)
    assert encode(tf.constant(CASES)).to_list() == expected
    data = tf.data.Dataset.from_tensor_slices(list(CASES)).batch(5)
    rows = [row for batch in data.map(encode) for row in batch.to_list()]
    assert rows == expected


def test_a_new_seed_leaves_tokenizers_alone(tokenizer):
    encode = tf.function(tokenizer.encode)
    expected = encode(tf.constant(CASES)).to_list()
    back = strings(tokenizer.detokenize(tf.ragged.constant(expected)))
    keras.utils.set_random_seed(3)  # empties the caches of eager execution
    assert encode(tf.constant(CASES)).to_list() == expected
    assert tokenizer.encode(tf.constant(CASES)).to_list() == expected
    assert strings(tokenizer.detokenize(tf.ragged.constant(expected))) == back


def test_a_saved_model_holds_the_vocabularies(learned, tmp_path):
    archive = tf.Module()
    archive.tokenizers = list(learned.values())
    texts = tf.TensorSpec([None], tf.string)
    ids = tf.TensorSpec([None, None], tf.int32)

    def functions(tokenizer):
        there = tf.function(lambda x: tokenizer.encode(x, start=True).to_tensor(0), [texts])
        return there, tf.function(lambda x: tokenizer.detokenize(x), [ids])

    for kind, tokenizer in learned.items():
        there, back = functions(tokenizer)
        setattr(archive, f"{kind}_there", there)
        setattr(archive, f"{kind}_back", back)
    tf.saved_model.save(archive, str(tmp_path / "model"))
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    for kind, tokenizer in learned.items():
        expected = tokenizer.encode(tf.constant(CASES), start=True).to_tensor(0)
        found = getattr(loaded, f"{kind}_there")(tf.constant(CASES))
        np.testing.assert_array_equal(found, expected)
        back = getattr(loaded, f"{kind}_back")(expected)
        assert strings(back) == strings(tokenizer.detokenize(expected))


@pytest.mark.slow
def test_two_sentence_piece_models_stay_apart_in_a_saved_model(learned, tmp_path):
    other = text.learn_sentence_piece(tf.data.Dataset.from_tensor_slices(["ab ba abba"] * 7), 11)
    pair = tf.Module()
    pair.tokenizers = [learned["sentence_piece"], other]
    pair.back = tf.function(
        lambda ids: [tokenizer.detokenize(ids) for tokenizer in pair.tokenizers],
        [tf.TensorSpec([None, None], tf.int32)],
    )
    ids = tf.constant([[5, 6, 7]])
    expected = [strings(texts) for texts in pair.back(ids)]
    assert expected[0] != expected[1]
    tf.saved_model.save(pair, str(tmp_path / "model"))
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    assert [strings(texts) for texts in loaded.back(ids)] == expected


# ---- parity


# Composed characters, since the peer's case-keeping form does not compose; no special tokens.
PEER_TEXTS = (
    *SENTENCES,
    'don\'t--stop... (ever) "quoted" [x] {y} a_b a/b 50% $3 €4 §5 «oui» 、。「」',
    "tabs\tand\nlines\r\nand   runs ",
    "no\u00a0break, thin\u202fspace, ideographic\u3000space, line\u2028separator",
    "soft\u00adhyphen zero\u200bwidth bell\x07 mark\ufeff bad\ufffd nul\x00.",
    "unseen ж words Ж in жж the middle",
)


@pytest.mark.parametrize("kind", ["word_piece", "lower"])
def test_word_piece_ids_are_those_of_hf_tokenizers(learned, kind, tmp_path):
    peer = pytest.importorskip("tokenizers")
    learned[kind].save(tmp_path)
    names = dict(unk_token="[UNK]", sep_token="[END]", cls_token="[START]", pad_token="[PAD]")
    reference = peer.BertWordPieceTokenizer(
        str(tmp_path / "vocabulary.txt"), lowercase=kind == "lower", **names
    )
    for sentence in PEER_TEXTS:
        expected = reference.encode(sentence, add_special_tokens=False).ids
        assert learned[kind].tokenize(tf.constant([sentence])).to_list() == [expected], sentence


def test_sentence_piece_ids_are_those_of_the_sentencepiece_package(learned):
    peer = pytest.importorskip("sentencepiece")
    tokenizer = learned["sentence_piece"]
    reference = peer.SentencePieceProcessor(model_proto=tokenizer.vocabulary_bytes())
    expected = [reference.encode(sentence) for sentence in PEER_TEXTS]
    assert tokenizer.tokenize(tf.constant(PEER_TEXTS)).to_list() == expected
    ids = tf.ragged.constant(expected)
    assert strings(tokenizer.detokenize(ids)) == [reference.decode(row) for row in expected]
    assert tokenizer.vocab_size == reference.vocab_size()


def test_a_published_models_own_special_ids_are_kept(learned, tmp_path):
    proto = learned["sentence_piece"].vocabulary_bytes()
    ids = dict(pad_id=1, unknown_id=0, start_id=2, end_id=3)
    tokenizer = text.SentencePieceTokenizer(proto, **ids)
    tokenizer.save(tmp_path)
    again = text.load_tokenizer(tmp_path)
    assert {name: getattr(again, name) for name in ids} == ids
    same_answers(tokenizer, again)
    assert strings(again.detokenize(tf.constant([[2, 1, 1, 3, 1]]))) == [""]
