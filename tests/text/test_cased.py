"""How texts are normalized for a vocabulary that stands alone, and who decides otherwise."""

import json
import string
import unicodedata

import pytest
import tensorflow as tf
from peers import BERT, KOBERT, kobert

from keras_xfmr import text

LOWER, UPPER = list(string.ascii_lowercase), list(string.ascii_uppercase)
JAMO = sorted(set(unicodedata.normalize("NFD", "한글국어나는당신을삽니다조용마파차")))
# name: the words of its vocabulary, the lowercase and strip_accents that they were made with.
KINDS = {
    # Google's: capitals in <S> and <T> alone, kana without voicing marks, letters of Hangul.
    "Chinese": (["<S>", "<T>", *LOWER, "nba", "我", "们", "あ", "か", *JAMO], True, None),
    "English uncased": ([*LOWER, "play", "cafe", "ß"], True, None),
    "English cased": ([*LOWER, *UPPER, "play", "Play", "café"], False, None),
    "German cased": ([*LOWER, *UPPER, "über", "Über", "Haus"], False, None),
    "German with umlauts": ([*LOWER, "über", "haus", "größe"], True, False),
    "multilingual cased": ([*LOWER, *UPPER, "é", "한", "국", "Київ", "が"], False, None),
    "multilingual uncased": ([*LOWER, "e", "киів", "か", *JAMO], True, None),
    "Korean cased": ([*LOWER, *UPPER, "한", "국", "어", "ㅋ"], False, None),
    "Korean with lower case": ([*LOWER, "nba", "한국", "한", "국", "어", "ㅋ"], True, False),
    "Korean alone": (["한국", "한", "국", "어"], True, False),
    "letters of Hangul, cased": ([*LOWER, *UPPER, *JAMO], False, True),
    "Japanese": (["が", "ガラス", "日", "本"], True, False),
    "Greek cased": (["Αθήνα", "αθήνα"], False, None),
}


def folder_of(tmp_path, words, **files):
    """A folder of a vocab.txt of the words and their continued forms, and of JSON files."""
    tokens = list(dict.fromkeys([*BERT, *words, *(f"##{word}" for word in words)]))
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n", "utf8")
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture(autouse=True)
def said(monkeypatch):
    """The warnings that were logged."""
    said = []
    monkeypatch.setattr("absl.logging.warning", lambda *words: said.append(words[0] % words[1:]))
    return said


@pytest.mark.parametrize("kind", KINDS)
def test_the_words_of_a_vocabulary_alone_are_found_again(kind, tmp_path, said):
    words, lowercase, strip_accents = KINDS[kind]
    tokenizer = text.load_pretrained_tokenizer(folder_of(tmp_path, words))
    assert (tokenizer.lowercase, tokenizer.strip_accents) == (lowercase, strip_accents)
    ids = {token: index for index, token in enumerate(tokenizer.get_vocabulary())}
    words = [word for word in words if not word.startswith("<")]  # which no text can reach
    assert tokenizer.tokenize(words).to_list() == [[ids[word]] for word in words]
    assert len(said) == 1
    assert f"lowercase={lowercase}, strip_accents={strip_accents}: of " in said[0]


def test_a_chinese_berts_latin_words_are_found(tmp_path, said):
    tokenizer = text.load_pretrained_tokenizer(folder_of(tmp_path, KINDS["Chinese"][0]))
    ids = tokenizer.tokenize(["NBA"]).to_list()[0]
    assert [tokenizer.get_vocabulary()[i] for i in ids] == ["nba"]
    assert "of 54 words with letters that have a case 0 have capitals" in said[0]
    assert "of 48 words with letters beyond ASCII 0 have accents" in said[0]


@pytest.mark.parametrize("kind", ["Chinese", "multilingual uncased", "letters of Hangul, cased"])
def test_korean_falls_into_letters_where_the_vocabulary_has_no_syllables(kind, tmp_path):
    tokenizer = text.load_pretrained_tokenizer(folder_of(tmp_path, KINDS[kind][0]))
    ids = tokenizer.tokenize(["한글"]).to_list()[0]
    letters = "".join(tokenizer.get_vocabulary()[i].removeprefix("##") for i in ids)
    assert letters == unicodedata.normalize("NFD", "한글")


def test_a_single_token_does_not_decide(tmp_path):
    for odd in ("URL", "é", "한"):  # among 52 words, or 44 beyond ASCII
        tokenizer = text.load_pretrained_tokenizer(folder_of(tmp_path, [*LOWER, *JAMO, odd]))
        assert (tokenizer.lowercase, tokenizer.strip_accents) == (True, None)
    tokens = [*LOWER, *UPPER, *JAMO, "한", "각", "글"]
    tokenizer = text.load_pretrained_tokenizer(folder_of(tmp_path, tokens))
    assert (tokenizer.lowercase, tokenizer.strip_accents) == (False, None)


@pytest.mark.parametrize("config", [{"lowercase": False}, {"strip_accents": False}, {}])
def test_a_learned_vocabulary_alone_is_read_as_it_was_learned(config, tmp_path):
    lines = ["Das Haus über der Straße", "Häuser und Straßen", "한국어 문장"] * 5
    learned = text.learn_bert_word_piece(tf.data.Dataset.from_tensor_slices(lines), 79, **config)
    (tmp_path / "vocab.txt").write_bytes(learned.vocabulary_bytes())
    loaded = text.load_pretrained_tokenizer(tmp_path)
    assert loaded.tokenize(lines[:3]).to_list() == learned.tokenize(lines[:3]).to_list()
    assert loaded.tokenize(["HAUS 한국"]).to_list() == learned.tokenize(["HAUS 한국"]).to_list()


# ---- what the caller says


def test_what_the_caller_says_beats_the_vocabulary(tmp_path, said):
    folder = folder_of(tmp_path, KINDS["Korean cased"][0])
    config = text.load_pretrained_tokenizer(folder, lowercase=True, split_cjk=False).get_config()
    assert config == {"lowercase": True, "strip_accents": False, "split_cjk": False}
    config = text.load_pretrained_tokenizer(folder, strip_accents=True).get_config()
    assert config == {"lowercase": False, "strip_accents": True, "split_cjk": True}
    assert len(said) == 2
    text.load_pretrained_tokenizer(folder, lowercase=True, strip_accents=False)
    assert len(said) == 2  # nothing was decided


NORMALIZER = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
FAST = {
    "model": {"type": "WordPiece", "vocab": {token: index for index, token in enumerate(BERT)}},
    "normalizer": {**NORMALIZER, "lowercase": True, "strip_accents": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
}


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"do_lower_case": True, "strip_accents": True}},
        {"tokenizer": FAST},
        {"tokenizer": FAST, "tokenizer_config": {"do_lower_case": True}},
        {"tokenizer": FAST, "tokenizer_config": {"tokenizer_class": "PreTrainedTokenizerFast"}},
    ],
)
def test_what_the_caller_says_beats_the_files(files, tmp_path):
    folder = folder_of(tmp_path, ["a"], **files)
    config = {"lowercase": False, "strip_accents": False, "split_cjk": False}
    assert text.load_pretrained_tokenizer(folder, **config).get_config() == config
    one = text.load_pretrained_tokenizer(folder, split_cjk=False).get_config()
    assert one == text.load_pretrained_tokenizer(folder).get_config() | {"split_cjk": False}


def test_what_the_caller_says_beats_a_saved_tokenizer(tmp_path):
    saved = text.BertTokenizer([*BERT, "é", "E"], lowercase=False, split_cjk=False)
    saved.save(tmp_path)
    loaded = text.load_pretrained_tokenizer(tmp_path, lowercase=True, strip_accents=False)
    assert loaded.get_config() == {"lowercase": True, "strip_accents": False, "split_cjk": False}
    assert loaded.tokenize(["É E"]).to_list() == [[5, 1]]
    assert text.load_pretrained_tokenizer(tmp_path).get_config() == saved.get_config()


def test_a_tokenizer_without_the_step_refuses_it(tmp_path):
    text.CharacterTokenizer(["[PAD]", "[UNK]", "[START]", "[END]", "a"]).save(tmp_path)
    message = "A CharacterTokenizer has no step lowercase. Received: {'lowercase': True}"
    with pytest.raises(ValueError, match=message):
        text.load_pretrained_tokenizer(tmp_path, lowercase=True)
    assert text.load_pretrained_tokenizer(tmp_path).vocab_size == 5


def test_a_sentence_piece_folder_refuses_it(tmp_path):
    (tmp_path / "spiece.model").write_bytes(kobert(pytest.importorskip("sentencepiece")))
    for name in ("lowercase", "strip_accents", "split_cjk"):
        with pytest.raises(ValueError, match=f"SentencePieceTokenizer has no step {name}"):
            text.load_pretrained_tokenizer(tmp_path, **{name: False})
    assert text.load_pretrained_tokenizer(tmp_path).get_vocabulary()[:5] == KOBERT


def test_a_setting_is_true_or_false(tmp_path):
    message = "True, False or None as `strip_accents`. Received: 'no'"
    with pytest.raises(ValueError, match=message):
        text.load_pretrained_tokenizer(folder_of(tmp_path, ["a"]), strip_accents="no")


# ---- folders whose settings do not fit their vocabulary


def test_settings_that_keep_words_from_being_found_count_and_warn(tmp_path, said):
    folder = folder_of(tmp_path, [*UPPER, "한", "국"], tokenizer_config={})
    assert text.load_pretrained_tokenizer(folder).lowercase  # as transformers does
    assert len(said) == 2
    assert "52 words of the vocabulary have capitals" in said[0] and "lowercase=False" in said[0]
    assert "4 words of the vocabulary have accents or Hangul syllables" in said[1]
    assert said[1].endswith("pass strip_accents=False.")
    # What the caller chose is his own; what follows from it is not.
    text.load_pretrained_tokenizer(folder, lowercase=True)
    assert len(said) == 3 and "strip_accents" in said[2]
    text.load_pretrained_tokenizer(folder, lowercase=False)
    text.load_pretrained_tokenizer(folder, lowercase=True, strip_accents=True)
    assert len(said) == 3


def test_settings_that_fit_are_silent(tmp_path, said):
    text.load_pretrained_tokenizer(folder_of(tmp_path, [*LOWER, *JAMO], tokenizer_config={}))
    config = {"do_lower_case": False}
    text.load_pretrained_tokenizer(folder_of(tmp_path, ["Ann", "한"], tokenizer_config=config))
    assert said == []
