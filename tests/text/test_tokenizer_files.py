"""Tokenizers as files, and the vocabularies that are learned for them."""

import json
import os
import pathlib

import pytest
from sentences import SPECIAL, corpus, same_answers, strings

from keras_xfmr import text

# ---- files


def test_a_saved_tokenizer_loads_as_it_was(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new" / "folder")
    again = text.load_tokenizer(tmp_path / "new" / "folder")
    assert type(again) is type(tokenizer)
    assert again.vocab_size == tokenizer.vocab_size
    assert again.get_config() == tokenizer.get_config()
    same_answers(tokenizer, again)


def test_a_subclass_that_could_not_be_loaded_is_not_saved(tmp_path):
    class Shouting(text.ByteTokenizer):
        def __init__(self, mark):
            super().__init__()
            self.mark = mark

    with pytest.raises(TypeError, match="Shouting could not be loaded again.*mark.*`get_config`"):
        Shouting("!").save(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()

    class Saved(Shouting):
        def get_config(self):
            return {"mark": self.mark}

    Saved("?").save(tmp_path / "folder")
    assert text.load_tokenizer(tmp_path / "folder").mark == "?"


class Shifted(text.ByteTokenizer):
    def __init__(self, shift=0, **others):
        super().__init__(**others)
        self.shift = shift


class Joined(text.WordPieceTokenizer):
    def __init__(self, vocabulary, separator="", **others):
        super().__init__(vocabulary, **others)
        self.separator = separator


class Plain(text.Tokenizer):
    vocab_size = 11
    tokenize = detokenize_pieces = None

    def __init__(self, separator="", **special_ids):
        super().__init__(**special_ids)
        self.separator = separator


@pytest.mark.parametrize("make, lost", [
    (lambda: Shifted(3), "lacks shift"),
    (lambda: Joined([*SPECIAL, "a"], ", "), "lacks separator"),
    (lambda: Plain(", "), "lacks separator"),
    (lambda: type("Ids", (Plain,), {"get_config": lambda self: {}})(pad_id=7), "pad_id=0, not 7"),
])  # fmt: skip
def test_what_a_subclass_would_lose_is_not_left_out(make, lost, tmp_path):
    with pytest.raises(TypeError, match=f"could not be loaded again.*{lost}.*`get_config`"):
        make().save(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_subclass_that_says_all_is_saved_and_extended(tmp_path):
    class Told(Shifted):
        def get_config(self):
            return {"shift": self.shift, **super().get_config()}

    tokenizer = Told(3).with_added_tokens(["<bot>"])
    tokenizer.save(tmp_path)
    assert tokenizer.shift == text.load_tokenizer(tmp_path).shift == 3
    with pytest.raises(TypeError, match="`get_config` of a Shifted lacks shift"):
        Shifted(3).with_added_tokens(["<bot>"])


def test_saving_again_overwrites_and_leaves_nothing_beside(learned, tmp_path):
    learned["word_piece"].save(tmp_path)
    learned["character"].save(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["keras_xfmr_tokenizer.json", "vocabulary.txt"]
    same_answers(learned["character"], text.load_tokenizer(str(tmp_path)))


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    write = pathlib.Path.write_bytes

    def fill(path, content):
        write(path, content[:3])
        raise OSError("No space left on device")

    text.ByteTokenizer().save(tmp_path)
    monkeypatch.setattr(pathlib.Path, "write_bytes", fill)
    with pytest.raises(OSError, match="No space left"):
        text.ByteTokenizer(pad_id=1, unknown_id=0).save(tmp_path)
    assert text.load_tokenizer(tmp_path).pad_id == 0


def test_special_ids_of_ones_own_are_kept(tmp_path):
    text.ByteTokenizer(pad_id=1, unknown_id=0).save(tmp_path)
    assert text.load_tokenizer(tmp_path).special_ids == (1, 2, 3)


def test_saved_files_are_as_readable_as_others(tokenizer, tmp_path):
    tokenizer.save(tmp_path)  # a server may run as another user
    (tmp_path / "other").write_bytes(b"")
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) > 1 and len(set(modes.values())) == 1, modes


def test_a_missing_file_is_named(learned, tmp_path):
    with pytest.raises(FileNotFoundError, match="No keras_xfmr_tok.*: not a saved tokenizer"):
        text.load_tokenizer(tmp_path)
    for kind, name in (("sentence_piece", "sentencepiece.model"), ("lower", "vocabulary.txt")):
        learned[kind].save(tmp_path)
        os.remove(tmp_path / name)
        with pytest.raises(FileNotFoundError, match=f"No {name} in"):
            text.load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "description",
    ['{"class": "ByteTok', "[]", "{}", '{"class": "ByteTokenizer"}', "3", ""]
    + [json.dumps({"class": "ByteTokenizer", "config": c}) for c in ({"x": 1}, None, 5)],
)
def test_a_damaged_description_is_called_so(description, tmp_path):
    (tmp_path / "keras_xfmr_tokenizer.json").write_text(description)
    text.ByteTokenizer().save(tmp_path / "good")
    (tmp_path / "vocabulary.bytes").write_bytes(b"")
    with pytest.raises(ValueError, match="damaged"):
        text.load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "name", ["Popen", "Tokenizer", "VocabularyTokenizer", "", 3, ["ByteTokenizer"]]
)
def test_a_foreign_class_is_refused(name, tmp_path):
    (tmp_path / "keras_xfmr_tokenizer.json").write_text(json.dumps({"class": name, "config": {}}))
    with pytest.raises(ValueError, match="Expected a tokenizer among .*'ByteTokenizer'.*Received"):
        text.load_tokenizer(tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 0.5])
def test_a_damaged_model_file_is_called_so(learned, keep, tmp_path):
    learned["sentence_piece"].save(tmp_path)
    content = (tmp_path / "sentencepiece.model").read_bytes()
    (tmp_path / "sentencepiece.model").write_bytes(content[: int(keep * len(content)) or keep])
    if keep == 1:
        (tmp_path / "sentencepiece.model").write_bytes(b"not a model" * 7)
    with pytest.raises(ValueError, match="Not a SentencePiece model"):
        text.load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [(b"", "must begin with"), (b"\xff\xfe\n", "damaged"), (b"a\nb\nc\nd\n", "must begin with")],
)
def test_a_damaged_vocabulary_is_called_so(learned, content, message, tmp_path):
    learned["character"].save(tmp_path)
    (tmp_path / "vocabulary.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        text.load_tokenizer(tmp_path)


# ---- vocabularies


@pytest.mark.parametrize("kind", [text.WordPieceTokenizer, text.CharacterTokenizer])
def test_a_vocabulary_that_does_not_fit_is_refused(kind):
    with pytest.raises(ValueError, match="Received twice: 'b'"):
        kind([*SPECIAL, "a", "b", "b"])
    with pytest.raises(ValueError, match="must begin with .*Received: .'a'"):
        kind(["a", *SPECIAL])
    with pytest.raises(ValueError, match="must not contain a line break"):
        kind([*SPECIAL, "a\n"])


def test_learned_vocabularies_begin_with_the_special_tokens(learned):
    for kind in ("word_piece", "lower", "character"):
        assert learned[kind].get_vocabulary()[:4] == SPECIAL
        assert learned[kind].vocab_size == len(learned[kind].get_vocabulary())
    peer = pytest.importorskip("sentencepiece")
    model = peer.SentencePieceProcessor(model_proto=learned["sentence_piece"].vocabulary_bytes())
    assert (model.pad_id(), model.unk_id(), model.bos_id(), model.eos_id()) == (0, 1, 2, 3)


def test_a_vocabulary_shrinks_when_the_text_is_small(learned):
    assert 57 < learned["sentence_piece"].vocab_size < 211  # 8009 were asked for
    assert learned["word_piece"].vocab_size < 499
    small = text.learn_sentence_piece(corpus(), 101, model_type="bpe")
    assert small.vocab_size == 101
    with pytest.raises(ValueError, match="at least 75 for the characters.*Received: 11"):
        text.learn_sentence_piece(corpus(), 11)


def test_vocabularies_are_learned_from_files_too(tmp_path):
    (tmp_path / "a.txt").write_text("abba\nbab\r\n", "utf8")
    (tmp_path / "b.txt").write_text("안녕 안", "utf8")
    files = [tmp_path / "a.txt", str(tmp_path / "b.txt")]
    assert text.learn_characters(files).get_vocabulary()[4:] == [" ", "a", "b", "녕", "안"]
    assert text.learn_characters(files, min_count=2).get_vocabulary()[4:] == ["a", "b", "안"]
    assert text.learn_characters(files[0]).get_vocabulary()[4:] == ["a", "b"]
    assert "안" in text.learn_word_piece(files, 47).get_vocabulary()
    assert strings(text.learn_sentence_piece(str(tmp_path / "b.txt"), 47).detokenize([[2, 3]])) == [
        ""
    ]
    with pytest.raises(FileNotFoundError, match="No text file at .*missing"):
        text.learn_characters([tmp_path / "missing"])
