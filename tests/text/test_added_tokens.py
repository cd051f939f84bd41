"""Tokens that are added behind a vocabulary: found in texts, kept by files, read by others."""

import json

import pytest
import tensorflow as tf
from sentences import SPECIAL, strings

from keras_xfmr import text
from keras_xfmr.text.tokenizers.byte_pair_files import ALPHABET

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = ["<user> The dog<bot>", "dog <bot>s <bot The dogkxfmr", "<bot><bot>", "", "The \1\2 <\1>"]


@pytest.fixture(scope="module")
def kinds():
    lines = tf.data.Dataset.from_tensor_slices(["The dog", "The dogs", "a dog"] * 7)
    pieces = ["The", "d", "##o", "##g", "##s", "s", "<", ">", "b", "t"]
    merges = [("T", "h"), ("Th", "e"), ("Ġ", "d")]
    characters = ["</s>", "<unk>", ":)", "▁", "T", "h", "e", "d", "o", "g", "Th", "▁Th"]
    return {
        "word_piece": text.WordPieceTokenizer([*SPECIAL, *pieces]),
        "bert": text.BertTokenizer([*BERT, *pieces], lowercase=False),
        "character": text.CharacterTokenizer([*SPECIAL, *"The dogs<>bt"]),
        "byte": text.ByteTokenizer(),
        "byte_pair": text.BytePairTokenizer(
            [*ALPHABET, *map("".join, merges), "<|endoftext|>"], merges
        ),
        "character_byte_pair": text.CharacterBytePairTokenizer(
            characters, [("T", "h"), ("▁", "Th")], unknown_token="<unk>", added_tokens=[":)"]
        ),
        "sentence_piece": text.learn_sentence_piece(lines, 307, byte_fallback=True),
    }


NAMES = ("word_piece", "bert", "character", "byte", "byte_pair", "character_byte_pair")


@pytest.fixture(scope="module")
def extended(kinds):
    """Each kind with four tokens behind its vocabulary."""
    one = {k: t.with_added_tokens(["<bot>", "<user>"], special=True) for k, t in kinds.items()}
    return {k: tokenizer.with_added_tokens(["kxfmr", "<bot>s"]) for k, tokenizer in one.items()}


@pytest.fixture(params=[*NAMES, "sentence_piece"])
def added(request, kinds, extended):
    return extended[request.param], kinds[request.param]


def test_added_tokens_stand_behind_the_vocabulary_and_texts_reach_them(added, tmp_path):
    tokenizer, before = added
    size = before.vocab_size
    bot, user, word, longer = range(size, size + 4)
    assert tokenizer.vocab_size == size + 4
    assert tokenizer.special_ids == (*before.special_ids, bot, user)
    assert not tokenizer.continuations()[size:].any()
    ids = tokenizer.tokenize(tf.constant(TEXTS))
    found = [[i for i in row if i >= size] for row in ids.to_list()]
    assert found == [[user, bot], [longer, word], [bot, bot], [], []]
    if not hasattr(tokenizer, "_encoder"):  # others are graphs in any case
        graph = tf.function(tokenizer.tokenize, input_signature=[tf.TensorSpec([None], tf.string)])
        assert graph(tf.constant(TEXTS)).to_list() == ids.to_list()
    # Between them, and where there are none, nothing changes.
    unchanged = before.tokenize(["<bot>", *TEXTS[3:]]).to_list()
    assert unchanged[1:] == ids.to_list()[3:] and unchanged[0] != [bot]
    tokenizer.save(tmp_path)
    again = text.load_tokenizer(tmp_path)
    assert again.tokenize(TEXTS).to_list() == ids.to_list()
    assert again.get_config() == tokenizer.get_config()
    assert again.special_ids == tokenizer.special_ids


def test_special_ones_are_left_out_unless_they_are_kept(added):
    tokenizer, before = added
    spaced = isinstance(before, text.WordPieceTokenizer)  # which puts a blank between all words
    ids = tokenizer.tokenize(["The <bot>kxfmr<bot>s<bot>"])
    kept, plain = (strings(tokenizer.detokenize(ids, keep_special=k))[0] for k in (True, False))
    assert kept == ("The <bot> kxfmr <bot>s <bot>" if spaced else "The <bot>kxfmr<bot>s<bot>")
    assert plain == ("The kxfmr <bot>s" if spaced else "The kxfmr<bot>s")
    assert strings(tf.function(tokenizer.detokenize)(ids)) == [plain]


@pytest.mark.parametrize("kind", ["bert", "byte_pair", "character_byte_pair", "sentence_piece"])
def test_an_added_token_has_its_bytes(kind, kinds):
    tokenizer = kinds[kind].with_added_tokens(["<é>"])
    content = "The <é>dog".encode()
    ids, starts, ends = tokenizer.tokenize_with_offsets([content])
    place = ids.to_list()[0].index(kinds[kind].vocab_size)
    spans = [content[i:j].strip() for i, j in zip(starts.to_list()[0], ends.to_list()[0])]
    assert spans[place] == "<é>".encode() and spans[place + 1] in (b"d", b"dog", b"")
    assert b"".join(spans) == content.replace(b" ", b"")


@pytest.mark.parametrize("kind", ["bert", "byte_pair", "character_byte_pair"])
def test_others_read_added_tokens(kind, extended, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = extended[kind]
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer.tokenize(TEXTS).to_list()
    assert [theirs(one, add_special_tokens=False).input_ids for one in TEXTS] == ids
    spelled = [strings(tokenizer.detokenize(ids[:1], keep_special=k)) for k in (True, False)]
    assert spelled == [[theirs.decode(ids[0], skip_special_tokens=k)] for k in (False, True)]


@pytest.mark.parametrize("special", [False, True])
def test_others_refuse_pieces_that_they_would_cut_otherwise(special, tmp_path):
    """A blank before `<bot>`, and none behind it, are SentencePiece's alone."""
    lines = tf.data.Dataset.from_tensor_slices(["The dog", "The dogs", "a dog"] * 7)
    tokenizer = text.learn_bert_sentence_piece(lines, 29, byte_fallback=False)
    tokenizer.save(tmp_path)
    assert (tmp_path / "tokenizer.json").exists()
    tokenizer = tokenizer.with_added_tokens(["<bot>"], special=special)
    tokenizer.save(tmp_path)  # and what was written before is gone
    assert not (tmp_path / "tokenizer.json").exists()
    again = text.load_tokenizer(tmp_path)
    assert again.tokenize(TEXTS).to_list() == tokenizer.tokenize(TEXTS).to_list()
    transformers = pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError):
        transformers.AutoTokenizer.from_pretrained(tmp_path)


def test_sentencepiece_reads_added_tokens(kinds):
    peer = pytest.importorskip("sentencepiece")
    tokenizer = kinds["sentence_piece"].with_added_tokens(["<bot>", "<①>" * 43], special=True)
    model = peer.SentencePieceProcessor(model_proto=tokenizer.vocabulary_bytes())
    texts = [*TEXTS, "The " + "<①>" * 43]
    ids = tokenizer.tokenize(texts).to_list()
    assert model.encode(texts) == ids and ids[-1][-1] == tokenizer.vocab_size - 1
    numbered = text.SentencePieceTokenizer(
        kinds["sentence_piece"].vocabulary_bytes(), vocabulary=["<pad>", "<unk>", "</s>", "The"],
        end_id=2, start_id=2,
    ).with_added_tokens(["<bot>"])  # fmt: skip
    assert numbered.get_vocabulary()[4:] == ["<bot>"]
    assert numbered.tokenize(["<bot>"]).to_list()[0][-1] == 4


def test_plain_tokens_of_a_published_folder_are_found(kinds, tmp_path):
    theirs = pytest.importorskip("tokenizers")
    kinds["byte_pair"].save(tmp_path)
    peer = theirs.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    peer.add_tokens(["kxfmr"])
    peer.add_special_tokens(["<bot>"])
    (tmp_path / "keras_xfmr_tokenizer.json").unlink()
    peer.save(str(tmp_path / "tokenizer.json"))
    tokenizer = text.load_pretrained_tokenizer(tmp_path)
    texts = ["The kxfmr dogkxfmrs", "a <bot>"]
    plain, spelled = tokenizer.tokenize(texts).to_list()
    assert plain == peer.encode(texts[0]).ids and peer.token_to_id("<bot>") not in spelled
    # A special token that others have added has its id, for texts too where that is wanted.
    reached = tokenizer.with_added_tokens(["<bot>"], special=True)
    assert reached.vocab_size == tokenizer.vocab_size
    assert reached.tokenize(texts).to_list() == [peer.encode(one).ids for one in texts]


@pytest.mark.parametrize(
    "kind, tokens, expected",
    [
        ("bert", "<bot>", "a list of tokens"),
        ("bert", ["<bot>", 5], "a list of tokens"),
        ("bert", ["<bot>", "<bot>"], "each token once"),
        ("byte", [" <bot>"], "without blanks at their ends"),
        ("byte", [""], "without blanks at their ends"),
        ("bert", ["a\tb"], "without blanks at their ends, line breaks and other control"),
        ("bert", ["[MASK]"], "that are not special"),
        ("byte_pair", ["<|endoftext|>"], "that are not special"),
        ("byte_pair", ["ÿ"], "no piece with other bytes"),
        ("sentence_piece", ["a b"], "without white space"),
        ("sentence_piece", ["<unk>"], "the model does not have"),
    ],
)
def test_what_cannot_be_found_is_refused(kind, tokens, expected, kinds):
    with pytest.raises(ValueError, match=f"{expected}.*Received"):
        kinds[kind].with_added_tokens(tokens)


def test_the_longest_row_stays_the_same():
    tokenizer = text.ByteTokenizer()
    tokenizer.max_length = 13
    assert tokenizer.with_added_tokens(["<bot>"]).max_length == 13


def test_kinds_that_find_none_say_what_to_do(kinds):
    with pytest.raises(TypeError, match="Put the words into its vocabulary.*Received"):
        text.WordTokenizer([*SPECIAL, "dog"]).with_added_tokens(["<bot>"])
    assert "added_tokens" not in json.dumps(kinds["byte"].get_config())
