"""Common base of byte-pair tokenizers over bytes and over characters.

V vocabulary
"""

import json
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import tensorflow as tf

from keras_xfmr.common.types import Config, Path, Texts
from keras_xfmr.text.checks import as_strings
from keras_xfmr.text.tokenizers.base import SETTINGS, Tokenizer, extended, list_tokens
from keras_xfmr.text.tokenizers.byte_pair_merges import Merges
from keras_xfmr.text.tokenizers.graphs import in_graph


class PairTokenizer(Tokenizer):
    """A vocabulary, merges of its tokens, and special tokens by their names.

    A subclass has `unit` and `word_begin`, and defines `_encode`, `detokenize_pieces`,
    `vocabulary_bytes` and `from_vocabulary_bytes`.

    Args:
        vocabulary: tokens in the order of their ids, spelled as in files.
        merges: pairs of tokens in the order of their ranks.
        symbols: the tokens of a text before the first merge.
        unknown_token: None, or the token for other symbols.
        added_tokens: tokens of the vocabulary that are found in a text before any other step.
        added_special_tokens: a part of them that `detokenize` leaves out.
        **special_tokens: `end_token`, and `start_token`, `pad_token`, `mask_token` or None.

    Raises:
        ValueError: tokens are empty or occur twice; a merge occurs twice, or has or makes a token
            that is not in the vocabulary; a special token is missing, or is a symbol.
    """

    vocabulary_file = "tokenizer.json"
    unit: str  # name of a symbol in errors
    word_begin: str  # the character that a blank before a word becomes

    def __init__(
        self,
        vocabulary: Iterable[str],
        merges: Sequence[Sequence[str]],
        symbols: Collection[str],
        *,
        unknown_token: str | None = None,
        added_tokens: Sequence[str] = (),
        added_special_tokens: Sequence[str] = (),
        **special_tokens,
    ) -> None:
        vocabulary = list_tokens(vocabulary)
        merges = [tuple(pair) for pair in merges]
        ids = _checked_ids(vocabulary, merges)
        end = special_tokens["end_token"]
        filled = {"start_token": end, "pad_token": end}
        self._config = {
            name: filled.get(name) if token is None else token
            for name, token in special_tokens.items()
        }
        special = {
            name.replace("token", "id"): self._special_id(name, token, ids, symbols)
            for name, token in self._config.items()
            if token is not None or name != "mask_token"
        }
        unknown = None
        if unknown_token is not None:
            unknown = self._special_id("unknown_token", unknown_token, ids, ())
        super().__init__(unknown_id=unknown, **special)
        self._vocabulary, self._merges = tuple(vocabulary), tuple(merges)
        special_ids = set(special.values())
        used = [pair for pair in merges if ids["".join(pair)] not in special_ids]
        pairs = [(ids[left], ids[right]) for left, right in used]
        products = ["".join(pair) for pair in used]
        self._ordinary = set(symbols).union(products)  # tokens that a text can have
        self._find(added_tokens, added_special_tokens, vocabulary)
        self._merge = Merges(pairs, [ids[token] for token in products], self.vocab_size)
        self._encoder = in_graph(self._encode, tf.TensorSpec([None], tf.string))

    def _special_id(self, name, token, ids, symbols):
        if not isinstance(token, str) or token not in ids:
            raise ValueError(
                f"Expected `{name}` to be a token of the vocabulary. Received: {token!r}."
            )
        if token in symbols:
            raise ValueError(
                f"Expected `{name}` to be a token that no text has. Received: {token!r}, a "
                f"{self.unit}."
            )
        return ids[token]

    @property
    def vocab_size(self) -> int:
        return len(self._vocabulary)

    def get_vocabulary(self) -> list[str]:
        """The tokens in the order of their ids, spelled as in files."""
        return list(self._vocabulary)

    def continuations(self) -> np.ndarray:
        inside = np.array([not t.startswith(self.word_begin) for t in self._vocabulary], bool)
        inside[list(self.special_ids)] = False
        ids = {token: index for index, token in enumerate(self._vocabulary)}
        inside[[ids[token] for token in self._found.tokens]] = False
        if self.unknown_id is not None:
            inside[self.unknown_id] = False
        return inside

    def get_config(self) -> Config:
        return {**self._config, **{name: list(part) for name, part in self._added.items()}}

    def _with_tokens(self, tokens, config):
        return type(self)(extended(self._vocabulary, tokens), self._merges, **config)

    @tf.autograph.experimental.do_not_convert
    def tokenize(self, texts: Texts) -> tf.RaggedTensor:
        return self._encoder(as_strings(texts))

    def save(self, folder: Path, max_length: int | None = None) -> None:
        """As `Tokenizer.save`: the vocabulary is in a `tokenizer.json`, which Hugging Face's
        libraries read too. Also writes `tokenizer_config.json` for them, with the special tokens.

        Args:
            folder: created if missing.
            max_length: the number of positions of the model, the limit of these libraries with
                `truncation=True`; by default the tokenizer's own `max_length`.

        Raises:
            FileExistsError: the folder has a `tokenizer.json` that this library did not write.
        """
        max_length = self.max_length if max_length is None else max_length
        theirs = {"start_token": "bos_token", "end_token": "eos_token"}
        theirs["unknown_token"] = "unk_token"
        tokens = {
            theirs.get(ours, ours): token
            for ours, token in self.get_config().items()
            if ours.endswith("_token") and token is not None
        }
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **tokens,
            "model_input_names": ["input_ids", "attention_mask"],
            **({} if max_length is None else {"model_max_length": max_length}),
        }
        self._save(folder, {SETTINGS: json.dumps(config, indent=2).encode("utf8")}, max_length)


def _checked_ids(vocabulary, merges):
    """Token -> id; checks that the vocabulary and the merges fit each other."""
    "".join(vocabulary).encode("utf8")  # its error is a ValueError
    ids = {token: index for index, token in enumerate(vocabulary)}
    if len(ids) != len(vocabulary):
        twice = next(token for i, token in enumerate(vocabulary) if ids[token] != i)
        raise ValueError(f"A vocabulary must name each token once. Received twice: {twice!r}.")
    if "" in ids:
        raise ValueError(f"A token must not be empty. Received: an empty one as id {ids['']}.")
    seen = set()
    for rank, pair in enumerate(merges):
        if len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
            raise ValueError(f"A merge must be two tokens. Received: {pair!r} as number {rank}.")
        unknown = [token for token in (*pair, "".join(pair)) if token not in ids]
        if unknown:
            raise ValueError(
                f"Merge {rank}, {pair!r}, needs tokens that are not in the vocabulary: {unknown}."
            )
        if pair in seen:
            raise ValueError(f"Expected each merge once. Received twice: {pair!r}.")
        seen.add(pair)
    return ids
