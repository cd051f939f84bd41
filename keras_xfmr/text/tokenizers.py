"""Tokenizers that run inside a TensorFlow graph and travel inside a SavedModel.

B batch, T length
"""

import abc
import functools
import hashlib
import inspect
import json
import os
import pathlib

import tensorflow as tf
import tensorflow_text as tf_text

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[START]", "[END]")
PAD, UNKNOWN, START, END = range(4)

# BERT's clean-up: every white space is a blank, control characters go.
SPACE = r"[\t\n\r\p{Z}]+"
CONTROL = r"[\p{Cc}\p{Cf}\x{FFFD}]"
# Punctuation and CJK ideographs stand alone.
ALONE = (
    r"[!-/]|[:-@]|[\[-`]|[{-~]|[\p{P}]|[\x{4E00}-\x{9FFF}]|[\x{3400}-\x{4DBF}]"
    r"|[\x{20000}-\x{2A6DF}]|[\x{2A700}-\x{2CEAF}]|[\x{F900}-\x{FAFF}]|[\x{2F800}-\x{2FA1F}]"
)


class Tokenizer(tf.Module, abc.ABC):
    """From strings to ids and back, in graph.

    A subclass defines `tokenize`, `detokenize`, `vocab_size` and its vocabulary file. `pad_id`,
    `unknown_id`, `start_id` and `end_id` are 0 to 3 unless a subclass says otherwise.

    Example:

    >>> tokenizer = ByteTokenizer()
    >>> tokenizer.encode(tf.constant(["ab"]), start=True).to_list()
    [[2, 101, 102, 3]]
    """

    vocabulary_file = None  # name of the file that `save` writes the vocabulary to

    def __init__(self, *, pad_id=PAD, unknown_id=UNKNOWN, start_id=START, end_id=END):
        super().__init__()
        self.pad_id, self.unknown_id = pad_id, unknown_id
        self.start_id, self.end_id = start_id, end_id

    @property
    @abc.abstractmethod
    def vocab_size(self):
        """Number of ids, the special ones included."""

    @abc.abstractmethod
    def tokenize(self, texts):
        """Strings `[B]` to a ragged tensor of int32 ids `[B, (T)]`, without special tokens."""

    @abc.abstractmethod
    def _detokenize(self, ids):
        """Ragged ids without special tokens to strings `[B]`."""

    def encode(self, texts, *, start=False, end=True):
        """Strings `[B]` to ragged ids `[B, (T)]`, with the start and end token where asked."""
        ids = self.tokenize(texts)
        ones = tf.ones((ids.nrows(), 1), tf.int32)
        parts = [ids]
        if start:
            parts.insert(0, ones * self.start_id)
        if end:
            parts.append(ones * self.end_id)
        return tf.concat(parts, axis=1)

    def detokenize(self, ids):
        """Ids `[B, T]`, dense or ragged, to strings `[B]`; special tokens and what follows the
        first end token are left out."""
        if isinstance(ids, tf.RaggedTensor):
            ids = ids.to_tensor(self.pad_id)
        ids = tf.cast(ids, tf.int32)
        after_end = tf.cumsum(tf.cast(tf.equal(ids, self.end_id), tf.int32), axis=1) > 0
        special = tf.logical_or(tf.equal(ids, self.pad_id), tf.equal(ids, self.start_id))
        keep = tf.logical_not(tf.logical_or(after_end, special))
        # A model's table may have more rows than the vocabulary; an op that is given such an id
        # fails, or ends the process.
        known = tf.logical_and(ids >= 0, ids < self.vocab_size)
        ids = tf.where(known, ids, self.unknown_id)
        return self._detokenize(tf.ragged.boolean_mask(ids, keep))

    # ---- files

    @abc.abstractmethod
    def _vocabulary_bytes(self):
        """What the vocabulary file holds."""

    @classmethod
    @abc.abstractmethod
    def _from_file(cls, content, config):
        """The tokenizer whose vocabulary file holds `content`."""

    def get_config(self):
        """Plain values that, with the vocabulary, make the tokenizer again."""
        return {}

    def save(self, folder):
        """Writes `tokenizer.json` and the vocabulary file into `folder`, made if missing."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self.vocabulary_file is not None:
            _write(folder / self.vocabulary_file, self._vocabulary_bytes())
        description = {"class": type(self).__name__, "config": self.get_config()}
        _write(folder / "tokenizer.json", json.dumps(description, indent=1).encode("utf8"))


def load_tokenizer(folder):
    """The tokenizer that `Tokenizer.save` wrote to `folder`.

    Args:
        folder: holds `tokenizer.json` and the vocabulary file.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the description names no tokenizer of this library, or a file is damaged.

    Example::

        tokenizer.save("tokenizer"); tokenizer = load_tokenizer("tokenizer")
    """
    folder = pathlib.Path(folder)
    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(f"No tokenizer.json in {str(folder)!r}: not a saved tokenizer.")
    try:
        description = json.loads((folder / "tokenizer.json").read_text("utf8"))
        name, config = description["class"], description["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'tokenizer.json'} is damaged: {error}") from error
    kinds = {kind.__name__: kind for kind in _all_subclasses(Tokenizer)}
    kinds = {name: kind for name, kind in kinds.items() if not inspect.isabstract(kind)}
    if name not in kinds:
        raise ValueError(f"Expected a tokenizer among {sorted(kinds)}. Received: {name!r}.")
    kind = kinds[name]
    content = None
    if kind.vocabulary_file is not None:
        if not (folder / kind.vocabulary_file).is_file():
            raise FileNotFoundError(f"No {kind.vocabulary_file} in {str(folder)!r}.")
        content = (folder / kind.vocabulary_file).read_bytes()
    try:
        return kind._from_file(content, config)
    except (TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"The tokenizer in {str(folder)!r} is damaged: {error}") from error


def _all_subclasses(kind):
    for child in kind.__subclasses__():
        yield child
        yield from _all_subclasses(child)


def _write(path, content):
    """Whole or not at all: written beside, then renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    os.replace(aside, path)


class _VocabularyTokenizer(Tokenizer):
    """A tokenizer with one token a line in `vocabulary.txt`."""

    vocabulary_file = "vocabulary.txt"

    def __init__(self, vocabulary, **kwargs):
        super().__init__(**kwargs)
        vocabulary = [str(token) for token in vocabulary]
        if tuple(vocabulary[:4]) != SPECIAL_TOKENS:
            raise ValueError(
                f"A vocabulary must begin with {SPECIAL_TOKENS}. Received: {vocabulary[:4]}."
            )
        if len(set(vocabulary)) != len(vocabulary):
            twice = next(token for token in vocabulary if vocabulary.count(token) > 1)
            raise ValueError(f"A vocabulary must name each token once. Received twice: {twice!r}.")
        if any("\n" in token for token in vocabulary):
            raise ValueError("A token must not contain a line break: a line is a token.")
        self._vocabulary = tuple(vocabulary)

    @property
    def vocab_size(self):
        return len(self._vocabulary)

    def get_vocabulary(self):
        """The tokens in the order of their ids."""
        return list(self._vocabulary)

    def _vocabulary_bytes(self):
        return "".join(f"{token}\n" for token in self._vocabulary).encode("utf8")

    @classmethod
    def _from_file(cls, content, config):
        return cls(content.decode("utf8").removesuffix("\n").split("\n"), **config)


def split_words(texts, lowercase=False):
    """Strings `[B]` to the ragged words that `WordPieceTokenizer` cuts into pieces."""
    texts = tf.strings.regex_replace(texts, SPACE, " ")
    texts = tf.strings.regex_replace(texts, CONTROL, "")
    texts = tf_text.normalize_utf8(texts, "NFC")
    if lowercase:
        texts = tf_text.normalize_utf8(tf_text.case_fold_utf8(texts), "NFD")
        texts = tf.strings.regex_replace(texts, r"\p{Mn}", "")
    return tf_text.regex_split(texts, f" |{ALONE}", ALONE)


class WordPieceTokenizer(_VocabularyTokenizer):
    """Words cut greedily into the longest pieces of a vocabulary (Schuster and Nakajima 2012).

    Text is split at white space, around punctuation and around CJK ideographs; pieces inside a
    word begin with `##`. Joining pieces again puts a space between words and also around
    punctuation; where the spacing of the output matters, take `SentencePieceTokenizer`.

    Args:
        vocabulary: tokens in the order of their ids, the four special tokens first.
        lowercase: whether to fold case and strip accents.
    """

    def __init__(self, vocabulary, *, lowercase=False):
        super().__init__(vocabulary)
        self.lowercase = lowercase
        self._pieces = tf_text.FastWordpieceTokenizer(
            list(self._vocabulary),
            token_out_type=tf.int32,
            unknown_token=SPECIAL_TOKENS[UNKNOWN],
            no_pretokenization=True,
            support_detokenization=True,
        )

    def get_config(self):
        return {"lowercase": self.lowercase}

    def tokenize(self, texts):
        return self._pieces.tokenize(split_words(texts, self.lowercase)).merge_dims(1, 2)

    def _detokenize(self, ids):
        texts = self._pieces.detokenize(ids)
        # Without accents the pieces are decomposed, which takes Hangul syllables apart.
        return tf_text.normalize_utf8(texts, "NFC") if self.lowercase else texts


class CharacterTokenizer(_VocabularyTokenizer):
    """One id a Unicode character; characters outside the vocabulary are unknown.

    Args:
        vocabulary: characters in the order of their ids, the four special tokens first.
    """

    def __init__(self, vocabulary):
        super().__init__(vocabulary)
        keys = tf.constant(self._vocabulary)
        self._table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(keys, tf.range(len(self._vocabulary))), UNKNOWN
        )
        self._characters = tf.constant(("", "\N{REPLACEMENT CHARACTER}", "", "", *vocabulary[4:]))

    def tokenize(self, texts):
        characters = tf.strings.unicode_split(texts, "UTF-8", errors="replace")
        return tf.ragged.map_flat_values(self._table.lookup, characters)

    def _detokenize(self, ids):
        characters = tf.ragged.map_flat_values(lambda i: tf.gather(self._characters, i), ids)
        return tf.strings.reduce_join(characters, axis=1)


class ByteTokenizer(Tokenizer):
    """One id a byte of UTF-8, after the four special ones: a vocabulary of 260, nothing unknown."""

    @property
    def vocab_size(self):
        return len(SPECIAL_TOKENS) + 256

    def tokenize(self, texts):
        characters = tf.strings.bytes_split(texts)
        values = tf.io.decode_raw(characters.flat_values, tf.uint8)
        values = tf.cast(tf.reshape(values, [-1]), tf.int32) + len(SPECIAL_TOKENS)
        return characters.with_flat_values(values)

    def _detokenize(self, ids):
        table = tf.constant([bytes([value]) for value in range(256)])
        values = ids.flat_values - len(SPECIAL_TOKENS)
        values = tf.gather(table, tf.where(values < 0, 0xFF, values))  # never a byte of UTF-8
        joined = tf.strings.reduce_join(ids.with_flat_values(values), axis=1)
        return tf.strings.unicode_transcode(joined, "UTF-8", "UTF-8", errors="replace")

    def _vocabulary_bytes(self):
        return b""

    @classmethod
    def _from_file(cls, content, config):
        return cls(**config)


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model (Kudo and Richardson 2018): white space is a symbol, nothing is lost.

    Args:
        proto: the bytes of a `.model` file.
        pad_id, unknown_id, start_id, end_id: 0 to 3 in models that `learn_sentence_piece` makes;
            published models have their own.
    """

    vocabulary_file = "sentencepiece.model"

    def __init__(self, proto, **special_ids):
        super().__init__(**special_ids)
        self._proto = bytes(proto)
        self._config = dict(special_ids)
        # A loaded SavedModel shares resources by their node's name: without a name of its own, a
        # second model would silently answer with the first one's vocabulary.
        name = f"sentencepiece_{hashlib.sha256(self._proto).hexdigest()[:16]}"
        make = functools.partial(
            tf_text.SentencepieceTokenizer, self._proto, out_type=tf.int32, name=name
        )
        try:
            self._size = int(make().vocab_size())
        except (tf.errors.OpError, ValueError) as error:
            raise ValueError(f"Not a SentencePiece model ({len(proto)} bytes).") from error
        if not self._size:
            raise ValueError(f"Not a SentencePiece model ({len(proto)} bytes): it has no pieces.")
        # The op that holds the model is made inside the functions that read it. Outside of any it
        # belongs to the cache of eager execution, which `keras.utils.set_random_seed` empties.
        self._encoder = tf.function(
            lambda texts: make().tokenize(texts),
            input_signature=[tf.TensorSpec([None], tf.string)],
        )
        self._decoder = tf.function(
            lambda ids: make().detokenize(ids),
            input_signature=[tf.RaggedTensorSpec([None, None], tf.int32)],
        )

    @property
    def vocab_size(self):
        return self._size

    def get_config(self):
        return dict(self._config)

    def tokenize(self, texts):
        return self._encoder(texts)

    def _detokenize(self, ids):
        return self._decoder(ids)

    def _vocabulary_bytes(self):
        return self._proto

    @classmethod
    def _from_file(cls, content, config):
        return cls(content, **config)
