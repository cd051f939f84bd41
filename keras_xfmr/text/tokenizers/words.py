"""One id a word: the vocabulary of ELMo's outputs (Peters et al. 2018).

B batch, T words
"""

from collections.abc import Iterable

import tensorflow as tf

from keras_xfmr.common.checks import check_choice
from keras_xfmr.common.types import Config, Ids, Tensor, Texts
from keras_xfmr.text.checks import as_strings
from keras_xfmr.text.tokenizers.base import SPECIAL_TOKENS, UNKNOWN, VocabularyTokenizer
from keras_xfmr.text.words import SPLITS, cut_words


class WordTokenizer(VocabularyTokenizer):
    """One id for each word; words outside the vocabulary are unknown.

    Words are looked up in their original spelling. The name of a special token in a text, such as
    `[PAD]`, is an unknown word. `detokenize` puts a blank between words, also around punctuation.

    Args:
        vocabulary: words in the order of their ids, the four special tokens first. A log-uniform
            sampler expects frequent words first, the order of `learn_words`.
        split: how a text is split into words: `"bert"`, the default, at white space, with each
            punctuation character and CJK ideograph as a word; `"whitespace"`; `"characters"`, each
            character except white space.

    Raises:
        ValueError: the special tokens are not the first, a word occurs twice, or `split` is
            unknown.

    Example:

    >>> tokenizer = WordTokenizer(["[PAD]", "[UNK]", "[START]", "[END]", "the", "dog", "."])
    >>> tokenizer.encode(tf.constant(["the old dog."])).to_list()
    [[4, 1, 5, 6, 3]]
    """

    def __init__(self, vocabulary: Iterable[str], *, split: str = "bert") -> None:
        super().__init__(vocabulary)
        self.split = check_choice("split", split, SPLITS)
        special = len(SPECIAL_TOKENS)
        ids = tf.constant([UNKNOWN] * special + list(range(special, self.vocab_size)))
        self._words = tf.constant(self._vocabulary)
        self._table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(self._words, ids), UNKNOWN
        )

    def get_config(self) -> Config:
        return {"split": self.split}

    def _with_tokens(self, tokens, config):
        raise TypeError(
            "A WordTokenizer has one id for each word that `split_words` finds. Put the words into "
            f"its vocabulary instead of adding tokens. Received: {tokens}."
        )

    def split_words(self, texts: Texts) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """Splits raw texts into words as `split` says, with their positions.

        Args:
            texts: strings `[B]`.

        Returns:
            The words in their original spelling, ragged strings `[B, (T)]`; their starts and ends,
            ragged int32 `[B, (T)]`, in Unicode characters of the text, the end exclusive.

        Raises:
            ValueError: `texts` are not strings `[B]`.

        Example:

        >>> tokenizer = WordTokenizer(["[PAD]", "[UNK]", "[START]", "[END]"])
        >>> words, starts, ends = tokenizer.split_words(["Ann runs!"])
        >>> words.to_list(), starts.to_list(), ends.to_list()
        ([[b'Ann', b'runs', b'!']], [[0, 4, 8]], [[3, 8, 9]])
        """
        return cut_words(as_strings(texts), self.split)

    @tf.autograph.experimental.do_not_convert
    def words_to_ids(self, words: Texts) -> Tensor:
        """The ids of words.

        Args:
            words: strings of any shape, dense or ragged, each a word.

        Returns:
            int32 of the same shape.

        Example:

        >>> tokenizer = WordTokenizer(["[PAD]", "[UNK]", "[START]", "[END]", "dog"])
        >>> tokenizer.words_to_ids([["dog", "[END]"]]).numpy().tolist()
        [[4, 1]]
        """
        if isinstance(words, tf.RaggedTensor):
            return words.with_flat_values(self.words_to_ids(words.flat_values))
        return self._table.lookup(tf.convert_to_tensor(words, tf.string))

    @tf.autograph.experimental.do_not_convert
    def tokenize(self, texts: Texts) -> tf.RaggedTensor:
        return self.words_to_ids(self.split_words(texts)[0])

    def detokenize_pieces(self, ids: Ids) -> tf.Tensor:
        words = ids.with_flat_values(tf.gather(self._words, ids.flat_values))
        return tf.strings.reduce_join(words, axis=1, separator=" ")
