"""Tokenizers that run inside a TensorFlow graph and are saved inside a SavedModel.

B batch, T length
"""

import abc
import collections
import hashlib
import inspect
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from keras_xfmr.common.arguments import argument_names
from keras_xfmr.common.checks import check_int
from keras_xfmr.common.files import read_bytes, read_json, write_json, write_whole
from keras_xfmr.common.types import Config, Ids, Path, Self, Texts
from keras_xfmr.text.checks import as_strings
from keras_xfmr.text.ragged import join, merge
from keras_xfmr.text.tokenizers.found_tokens import FoundTokens, checked_tokens
from keras_xfmr.text.words import split_words

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[START]", "[END]")
PAD, UNKNOWN, START, END = range(4)
ROLES = ("pad_id", "unknown_id", "start_id", "end_id", "mask_id")
# Not tokenizer.json, because other libraries read their own tokenizer from that name.
DESCRIPTION = "keras_xfmr_tokenizer.json"
PUBLISHED = "tokenizer.json"  # Hugging Face's `AutoTokenizer` reads it before any other file
SETTINGS = "tokenizer_config.json"  # of that class
WORD_LIMIT = 100  # characters of the longest word that is split into pieces


class Tokenizer(tf.Module, abc.ABC):
    """Strings to ids and back, in graph.

    A subclass defines `tokenize`, `detokenize_pieces` and `vocab_size`; with a vocabulary also
    `vocabulary_file`, `vocabulary_bytes` and `from_vocabulary_bytes`. `pad_id`, `unknown_id`,
    `start_id` and `end_id` are 0 to 3 unless a subclass sets others, and may be equal. `mask_id` is
    None if the vocabulary has no mask token, `unknown_id` is None if no text is unknown.

    Attributes:
        max_length: length of the longest row of the published model, special tokens included, or
            None; the default of a `SentencePacker`. `save` keeps it.

    Example:

    >>> tokenizer = ByteTokenizer()
    >>> tokenizer.encode(tf.constant(["ab"]), start=True).to_list()
    [[2, 101, 102, 3]]
    """

    max_length: int | None = None
    vocabulary_file: str | None = None  # name of the file that `save` writes the vocabulary to
    added_special_ids: tuple[int, ...] = ()  # of special tokens that `with_added_tokens` added

    def __init__(
        self,
        *,
        pad_id: int = PAD,
        unknown_id: int | None = UNKNOWN,
        start_id: int = START,
        end_id: int = END,
        mask_id: int | None = None,
    ) -> None:
        super().__init__()
        self.pad_id, self.unknown_id = pad_id, unknown_id
        self.start_id, self.end_id = start_id, end_id
        self.mask_id = mask_id

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids of padding, start, end and mask (if it exists), then those of added special tokens.

        No text has these tokens, and masked language modelling does not mask them. The unknown
        token is not among them: it represents a word, and BERT (Devlin et al. 2019) masks it like
        any other.
        """
        ids = (self.pad_id, self.start_id, self.end_id)
        mask = () if self.mask_id is None else (self.mask_id,)
        return (*ids, *mask, *self.added_special_ids)

    def continuations(self) -> np.ndarray:
        """NumPy bool `[V]`: True for ids that continue the word of the id before.

        Whole-word masking joins them with the ids before. All False, unless a subclass overrides
        it.
        """
        return np.zeros(self.vocab_size, bool)

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """Number of ids, the special ones included."""

    @abc.abstractmethod
    def tokenize(self, texts: Texts) -> tf.RaggedTensor:
        """Strings `[B]` to a ragged tensor of int32 ids `[B, (T)]`, without special tokens."""

    @abc.abstractmethod
    def detokenize_pieces(self, ids: Ids) -> tf.Tensor:
        """Ragged ids without special tokens to strings `[B]`."""

    @tf.autograph.experimental.do_not_convert
    def encode(self, texts: Texts, *, start: bool = False, end: bool = True) -> tf.RaggedTensor:
        """Strings `[B]` to ragged ids `[B, (T)]`; `start` and `end` add these tokens.

        Raises:
            ValueError: `texts` are not strings `[B]`, such as a single string.
        """
        ids = self.tokenize(as_strings(texts))
        parts = [ids]
        if start:
            parts.insert(0, tf.fill([ids.nrows()], self.start_id))
        if end:
            parts.append(tf.fill([ids.nrows()], self.end_id))
        return join(*parts)

    def with_added_tokens(self, tokens: Sequence[str], *, special: bool = False) -> Self:
        """Returns a new tokenizer that also finds these tokens in a text.

        The search is exact, before the text is normalized or split: the leftmost token first, and
        at one place the longest. Tokens outside the vocabulary are appended to it, in the order of
        the list; others keep their ids. The table of a model has the old size: enlarge it
        (`models.resize_token_embeddings`) before the model reads the new ids.

        Any text can contain these tokens, also a user's. If users must not write a special token,
        do not add it here, or remove it from their texts.

        Args:
            tokens: a list of strings, without blanks at their ends.
            special: True: `detokenize` leaves them out, and masked language modelling does not
                mask them.

        Returns:
            A tokenizer of the same class. `save` and `load_tokenizer` keep the added tokens.

        Raises:
            ValueError: a token cannot be found in a text, or has a role, such as padding.
            TypeError: this class of tokenizer cannot find tokens in a text, or a subclass whose
                constructor takes more than its `get_config` has.

        Example:

        >>> tokenizer = ByteTokenizer().with_added_tokens(["<bot>"], special=True)
        >>> ids = tokenizer.tokenize(["a<bot>"])
        >>> ids.to_list(), tokenizer.detokenize(ids).numpy().tolist()
        ([[101, 260]], [b'a'])
        """
        tokens, config = checked_tokens(tokens), self.get_config()
        for name in ("added_tokens", *(("added_special_tokens",) if special else ())):
            before = config.get(name, [])
            config[name] = [*before, *(token for token in tokens if token not in before)]
        self._refuse_lost(config, "_with_tokens")
        further = self._with_tokens(tokens, config)
        if self.max_length is not None:
            further.max_length = self.max_length
        return further

    def _find(self, tokens, special, vocabulary):
        """Sets which tokens of a vocabulary are found in a text, and their configuration.

        Args:
            tokens: `added_tokens`.
            special: `added_special_tokens`, a part of `tokens` that `detokenize` leaves out.
            vocabulary: in the order of the ids.
        """
        tokens, special = list(tokens), list(special)
        ids = {token: index for index, token in enumerate(vocabulary)}
        self._found = FoundTokens(tokens, ids, {self.unknown_id, *self.special_ids})
        if not set(special) <= set(tokens):
            raise ValueError(
                "Expected `added_special_tokens` to be among `added_tokens`. Received: "
                f"{sorted(set(special) - set(tokens))}."
            )
        self.added_special_ids = tuple(sorted({ids[token] for token in special}))
        parts = {"added_tokens": tokens, "added_special_tokens": special}
        self._added = {name: list(part) for name, part in parts.items() if part}

    def _with_tokens(self, tokens, config):
        """The tokenizer of another configuration, with more tokens at the end of its vocabulary."""
        raise TypeError(
            f"A {type(self).__name__} finds no added tokens in a text. Put them into its "
            "vocabulary, or split the texts before you call it."
        )

    @tf.autograph.experimental.do_not_convert
    def detokenize(self, ids: Ids, *, keep_special: bool = False) -> tf.Tensor:
        """Ids to strings, without special tokens and without all ids after the first end token.

        If the end token is also the start token or the padding, it counts as those at the beginning
        of a row. Ids outside the vocabulary become the unknown token, or are left out if there is
        no unknown token.

        Args:
            ids: `[B, T]`, dense or ragged, or with more axes before T, such as `[B, n, T]` of a
                beam search.
            keep_special: whether the text includes special tokens that `with_added_tokens` added.

        Returns:
            Strings of the shape of `ids` without T.

        Raises:
            ValueError: `ids` is a single id.
        """
        if isinstance(ids, tf.RaggedTensor):
            ids = ids.to_tensor(self.pad_id)
        ids = tf.cast(ids, tf.int32)
        if ids.shape.rank == 0:
            raise ValueError(f"Expected ids [B, T], such as [[5, 7]]. Received: {ids!r}.")
        axes, length = tf.shape(ids)[:-1], tf.shape(ids)[-1]
        ids = tf.reshape(ids, [tf.reduce_prod(axes), length])
        end = tf.equal(ids, self.end_id)
        special = tf.equal(ids, self.pad_id) | tf.equal(ids, self.start_id)
        if self.end_id in (self.pad_id, self.start_id):
            end &= tf.cumsum(tf.cast(~special, tf.int32), axis=1) > 0
        keep = ~special & tf.equal(tf.cumsum(tf.cast(end, tf.int32), axis=1), 0)
        if self.added_special_ids and not keep_special:
            keep &= tf.reduce_all(tf.not_equal(ids[..., None], self.added_special_ids), axis=-1)
        # A model's table may have more rows than the vocabulary; an op fails on such an id, or
        # ends the process.
        known = tf.logical_and(ids >= 0, ids < self.vocab_size)
        if self.unknown_id is None:
            keep &= known
        else:
            ids = tf.where(known, ids, self.unknown_id)
        return tf.reshape(self.detokenize_pieces(tf.ragged.boolean_mask(ids, keep)), axes)

    # ---- files

    def vocabulary_bytes(self) -> bytes:
        """The content of the vocabulary file, if the class has one."""
        raise NotImplementedError

    @classmethod
    def from_vocabulary_bytes(cls, content: bytes, config: Config) -> Self:
        """The tokenizer whose vocabulary file has this `content` (None: there is no such file)."""
        return cls(**config)

    def get_config(self) -> Config:
        """Plain values that, with the vocabulary, rebuild the tokenizer."""
        return {}

    def _refuse_lost(self, config, maker):
        """Raises TypeError where a constructor takes what a configuration does not have.

        What else a method gives to the constructor is known to the class that defines the method.

        Args:
            config: arguments by name.
            maker: name of the method that makes a tokenizer of the configuration.
        """
        kinds = type(self).__mro__
        own = next(i for i, kind in enumerate(kinds) if {"get_config", maker} & set(vars(kind)))
        lost = set(argument_names(kinds[:own])) - set(argument_names(kinds[own:])) - set(config)
        if lost:
            raise TypeError(
                f"`get_config` of a {type(self).__name__} lacks {', '.join(sorted(lost))}, which "
                "its constructor takes: let it return them"
            )

    def save(self, folder: Path) -> None:
        """Writes `keras_xfmr_tokenizer.json` and the vocabulary file.

        Replaces files of these names, and removes files that an earlier call wrote for other
        libraries; other files stay.

        Args:
            folder: created if missing.

        Raises:
            TypeError: the files could not rebuild a subclass, such as one whose constructor takes
                more arguments than its `get_config` returns.
        """
        self._save(folder, {}, self.max_length)

    def _save(self, folder, others, max_length):
        """As `save`, with files for Hugging Face's `AutoTokenizer`.

        The description has the hashes of all files. A later call uses them to find the files for
        Hugging Face that it may replace or remove.

        Args:
            folder: created if missing.
            others: name -> bytes.
            max_length: length of the longest row, or None.

        Raises:
            FileExistsError: the call would write files with the names of Hugging Face's, and the
                folder has a `tokenizer.json` that this library did not write.
        """
        folder = pathlib.Path(folder)
        files = dict(others)
        if self.vocabulary_file is not None:
            files = {self.vocabulary_file: self.vocabulary_bytes(), **files}
        config, content = self.get_config(), files.get(self.vocabulary_file)
        try:
            self._refuse_lost(config, "from_vocabulary_bytes")
            again = type(self).from_vocabulary_bytes(content, config)
            for role in ROLES:
                if getattr(again, role) != getattr(self, role):
                    raise TypeError(
                        f"it would have {role}={getattr(again, role)}, not {getattr(self, role)}"
                    )
        except TypeError as error:
            raise TypeError(
                f"{type(self).__name__} could not be loaded again: {error}. Define `get_config`, "
                "which returns the arguments of its constructor, or `from_vocabulary_bytes`. "
                f"Received: the configuration {config}. Nothing was written."
            ) from error
        own = _written_for_others(folder)
        public = {PUBLISHED, SETTINGS} & set(files)
        if public and PUBLISHED not in own and (folder / PUBLISHED).exists():
            raise FileExistsError(
                f"{str(folder / PUBLISHED)!r} is another tokenizer, which Hugging Face's libraries "
                "would read instead of this one. Remove it, or save to another folder."
            )
        folder.mkdir(parents=True, exist_ok=True)
        for name in own - set(files):
            (folder / name).unlink()
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        description = {"class": type(self).__name__, "config": config, "files": hashes}
        if max_length is not None:
            description["max_length"] = max_length
        write_json(folder / DESCRIPTION, description)
        for name, content in files.items():
            write_whole(folder / name, content)


def _written_for_others(folder):
    """The files for Hugging Face that `Tokenizer._save` wrote and that are unchanged."""
    try:
        hashes = read_json(folder / DESCRIPTION).get("files")
    except (FileNotFoundError, ValueError):
        return set()
    hashes = hashes if isinstance(hashes, dict) else {}
    return {
        name
        for name in (PUBLISHED, SETTINGS)
        if (folder / name).is_file()
        and hashlib.sha256((folder / name).read_bytes()).hexdigest() == hashes.get(name)
    }


def load_tokenizer(folder: Path) -> "Tokenizer":
    """Loads the tokenizer that `Tokenizer.save` wrote to `folder`.

    Args:
        folder: has `keras_xfmr_tokenizer.json` and the vocabulary file.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the description names no tokenizer of this library, or a file is damaged.

    Example::

        tokenizer.save("tokenizer"); tokenizer = load_tokenizer("tokenizer")
    """
    folder = pathlib.Path(folder)
    if not (folder / DESCRIPTION).is_file():
        raise FileNotFoundError(
            f"No {DESCRIPTION} in {str(folder)!r}: not a saved tokenizer. Published ones are read "
            "by `load_pretrained_tokenizer`."
        )
    description = read_json(folder / DESCRIPTION)
    if not {"class", "config"} <= set(description):
        raise ValueError(f"{folder / DESCRIPTION} is damaged: it names no tokenizer.")
    name, config = description["class"], description["config"]
    kinds = {kind.__name__: kind for kind in _all_subclasses(Tokenizer)}
    kinds = {name: kind for name, kind in kinds.items() if not inspect.isabstract(kind)}
    if not isinstance(name, str) or name not in kinds:
        raise ValueError(f"Expected a tokenizer among {sorted(kinds)}. Received: {name!r}.")
    kind = kinds[name]
    content = None
    if kind.vocabulary_file is not None:
        content = read_bytes(folder / kind.vocabulary_file)
    try:
        tokenizer = kind.from_vocabulary_bytes(content, config)
    except (TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"The tokenizer in {str(folder)!r} is damaged: {error}") from error
    if description.get("max_length") is not None:
        tokenizer.max_length = check_int("max_length", description["max_length"], 1)
    return tokenizer


def list_tokens(vocabulary):
    """A vocabulary as a list of strings.

    Raises:
        TypeError: a path, because its letters would become the tokens.
    """
    if isinstance(vocabulary, (str, bytes, os.PathLike)):
        raise TypeError(
            f"Expected tokens in the order of their ids. Received: {vocabulary!r}. A published "
            "vocabulary is read by `BertTokenizer.from_file(path)` or "
            "`load_pretrained_tokenizer(folder)`."
        )
    return [str(token) for token in vocabulary]


def check_tokens(vocabulary):
    """Raises ValueError for duplicate or empty tokens, and for tokens with a line break."""
    "".join(vocabulary).encode("utf8")  # its error is a ValueError
    if len(set(vocabulary)) != len(vocabulary):
        twice = collections.Counter(vocabulary).most_common(1)[0][0]
        raise ValueError(f"A vocabulary must name each token once. Received twice: {twice!r}.")
    if "" in vocabulary:
        raise ValueError(
            f"A token must not be empty. Received: an empty one as id {vocabulary.index('')}."
        )
    if any("\n" in token for token in vocabulary):
        raise ValueError("A token must not contain a line break: a line is a token.")


def extended(vocabulary, tokens):
    """A vocabulary with the missing tokens appended."""
    known = set(vocabulary)
    return [*vocabulary, *(token for token in tokens if token not in known)]


def _all_subclasses(kind):
    for child in kind.__subclasses__():
        yield child
        yield from _all_subclasses(child)


class VocabularyTokenizer(Tokenizer):
    """A tokenizer with one token a line in `vocabulary.txt`, the four special tokens first."""

    vocabulary_file = "vocabulary.txt"
    unknown_id: int

    def __init__(
        self,
        vocabulary: Iterable[str],
        *,
        added_tokens: Sequence[str] = (),
        added_special_tokens: Sequence[str] = (),
    ) -> None:
        vocabulary = list_tokens(vocabulary)
        super().__init__(**self._special_ids_of(vocabulary))
        check_tokens(vocabulary)
        self._vocabulary = tuple(vocabulary)
        self._find(added_tokens, added_special_tokens, vocabulary)

    @classmethod
    def _special_ids_of(cls, vocabulary):
        """Arguments of `Tokenizer` with the ids of the special tokens."""
        if tuple(vocabulary[:4]) != SPECIAL_TOKENS:
            raise ValueError(
                f"A vocabulary must begin with {SPECIAL_TOKENS}. Received: {vocabulary[:4]}."
            )
        return {}

    @property
    def vocab_size(self) -> int:
        return len(self._vocabulary)

    def get_vocabulary(self) -> list[str]:
        """The tokens in the order of their ids."""
        return list(self._vocabulary)

    def get_config(self) -> Config:
        return {name: list(tokens) for name, tokens in self._added.items()}

    def _with_tokens(self, tokens, config):
        return type(self)(extended(self._vocabulary, tokens), **config)

    def vocabulary_bytes(self) -> bytes:
        return "".join(f"{token}\n" for token in self._vocabulary).encode("utf8")

    @classmethod
    def from_vocabulary_bytes(cls, content: bytes, config: Config) -> Self:
        return cls(content.decode("utf8").removesuffix("\n").split("\n"), **config)


class WordPieceTokenizer(VocabularyTokenizer):
    """Splits words greedily into the longest pieces of a vocabulary (Schuster and Nakajima 2012).

    Text is split at white space, around punctuation and around CJK ideographs (`split_words`).
    Pieces inside a word begin with `##`. A word of more than 100 characters is unknown.
    `detokenize` puts a space between words, also around punctuation. If the spacing of the output
    matters, use `SentencePieceTokenizer`.

    Args:
        vocabulary: tokens in the order of their ids, the four special tokens first.
        lowercase: whether to make letters lower case and to remove accents.
        **added: `added_tokens`, tokens of the vocabulary that are found in a text before it is
            split, and `added_special_tokens`, a part of them that `detokenize` leaves out, as
            `with_added_tokens` sets them.

    Raises:
        ValueError: the special tokens are not the first, or a token occurs twice.

    Example:

    >>> vocabulary = ["[PAD]", "[UNK]", "[START]", "[END]", "play", "##ing"]
    >>> WordPieceTokenizer(vocabulary, lowercase=True).encode(tf.constant(["Playing"])).to_list()
    [[4, 5, 3]]
    """

    def __init__(self, vocabulary: Iterable[str], *, lowercase: bool = False, **added) -> None:
        super().__init__(vocabulary, **added)
        self.lowercase = lowercase
        try:
            self._pieces = tf_text.FastWordpieceTokenizer(
                list(self._vocabulary),
                token_out_type=tf.int32,
                max_bytes_per_word=4 * WORD_LIMIT,
                unknown_token=self._vocabulary[self.unknown_id],
                no_pretokenization=True,
                support_detokenization=True,
            )
        except RuntimeError as error:
            raise ValueError(f"Not a vocabulary of word pieces: {error}") from error

    def get_config(self) -> Config:
        return {**self._split_config(), **super().get_config()}

    def _split_config(self):
        """Arguments of `split`."""
        return {"lowercase": self.lowercase}

    @staticmethod
    def split(texts: Texts, *, lowercase: bool = False) -> tf.RaggedTensor:
        """Strings `[B]` to ragged words, which `tokenize` splits into pieces."""
        return split_words(texts, lowercase=lowercase, compose=True)

    @tf.autograph.experimental.do_not_convert
    def tokenize(self, texts: Texts) -> tf.RaggedTensor:
        return self._found.tokenize(as_strings(texts), self._tokenize_between)

    def _tokenize_between(self, texts):
        words = without_long_words(self.split(texts, **self._split_config()))
        return merge(words, self._pieces.tokenize(words.values))

    def continuations(self) -> np.ndarray:
        found = np.array([token.startswith("##") for token in self._vocabulary], bool)
        found[list(self.special_ids)] = False
        return found

    def detokenize_pieces(self, ids: Ids) -> tf.Tensor:
        # If accents are removed the pieces are decomposed, Hangul syllables into letters.
        return tf_text.normalize_utf8(self._pieces.detokenize(ids), "NFC")


def without_long_words(words):
    """Replaces words that are too long for BERT, so that the WordPiece op finds them unknown."""
    # The op counts bytes; a word is surely unknown only if it is longer than the op's own limit.
    too_long = tf.strings.length(words.flat_values, unit="UTF8_CHAR") > WORD_LIMIT
    unknown = tf.constant(" " * (4 * WORD_LIMIT + 1))
    return words.with_flat_values(tf.where(too_long, unknown, words.flat_values))


class CharacterTokenizer(VocabularyTokenizer):
    """One id for each Unicode character; characters outside the vocabulary are unknown.

    Args:
        vocabulary: characters in the order of their ids, the four special tokens first.
        **added: `added_tokens`, tokens of the vocabulary that are found in a text before it is
            split, and `added_special_tokens`, a part of them that `detokenize` leaves out, as
            `with_added_tokens` sets them.

    Raises:
        ValueError: the special tokens are not the first, or a token occurs twice.

    Example:

    >>> tokenizer = CharacterTokenizer(["[PAD]", "[UNK]", "[START]", "[END]", "a", "é"])
    >>> tokenizer.encode(tf.constant(["éa?"])).to_list()
    [[5, 4, 1, 3]]
    """

    def __init__(self, vocabulary: Iterable[str], **added) -> None:
        super().__init__(vocabulary, **added)
        keys = tf.constant(self._vocabulary)
        self._table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(keys, tf.range(len(self._vocabulary))), UNKNOWN
        )
        spelled = ("", "\N{REPLACEMENT CHARACTER}", "", "", *self._vocabulary[4:])
        self._characters = tf.constant(spelled)

    @tf.autograph.experimental.do_not_convert
    def tokenize(self, texts: Texts) -> tf.RaggedTensor:
        return self._found.tokenize(as_strings(texts), self._tokenize_between)

    def _tokenize_between(self, texts):
        characters = tf.strings.unicode_split(texts, "UTF-8", errors="replace")
        return tf.ragged.map_flat_values(self._table.lookup, characters)

    def detokenize_pieces(self, ids: Ids) -> tf.Tensor:
        characters = tf.ragged.map_flat_values(lambda i: tf.gather(self._characters, i), ids)
        return tf.strings.reduce_join(characters, axis=1)


class ByteTokenizer(Tokenizer):
    """One id for each byte of UTF-8, after the four special ids: 260 ids, and no unknown text.

    Args:
        added_tokens: tokens after the bytes, which are found in a text before it is split.
        added_special_tokens: a part of them that `detokenize` leaves out.
        **special_ids: arguments of `Tokenizer`.

    Example:

    >>> ByteTokenizer().encode(tf.constant(["é"])).to_list()
    [[199, 173, 3]]
    """

    def __init__(
        self,
        *,
        added_tokens: Sequence[str] = (),
        added_special_tokens: Sequence[str] = (),
        **special_ids,
    ) -> None:
        super().__init__(**special_ids)
        self._special = dict(special_ids)
        self._tokens = list(dict.fromkeys(added_tokens))
        names = [None] * (len(SPECIAL_TOKENS) + 256)  # no text is equal to None
        self._find(self._tokens, added_special_tokens, [*names, *self._tokens])

    @property
    def vocab_size(self) -> int:
        return len(SPECIAL_TOKENS) + 256 + len(self._tokens)

    def get_config(self) -> Config:
        return {**self._special, **{name: list(part) for name, part in self._added.items()}}

    def _with_tokens(self, tokens, config):
        return type(self)(**config)

    @tf.autograph.experimental.do_not_convert
    def tokenize(self, texts: Texts) -> tf.RaggedTensor:
        return self._found.tokenize(as_strings(texts), self._tokenize_between)

    def _tokenize_between(self, texts):
        characters = tf.strings.bytes_split(texts)
        values = tf.io.decode_raw(characters.flat_values, tf.uint8)
        values = tf.cast(tf.reshape(values, [-1]), tf.int32) + len(SPECIAL_TOKENS)
        return characters.with_flat_values(values)

    def detokenize_pieces(self, ids: Ids) -> tf.Tensor:
        table = [*(bytes([value]) for value in range(256)), *(t.encode() for t in self._tokens)]
        values = ids.flat_values - len(SPECIAL_TOKENS)
        values = tf.gather(tf.constant(table), tf.where(values < 0, 0xFF, values))  # never in UTF-8
        joined = tf.strings.reduce_join(ids.with_flat_values(values), axis=1)
        return tf.strings.unicode_transcode(joined, "UTF-8", "UTF-8", errors="replace")
