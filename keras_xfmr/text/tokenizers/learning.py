"""Vocabularies learned from text, by the trainers of keras-nlp, SentencePiece and `tokenizers`.

Every vocabulary begins with padding, unknown, start and end, in this order: ids 0, 1, 2, 3. For
BERT the mask token follows, id 4. Vocabularies of bytes have one token for all roles, id 0. They
are learned from a `sampling.Sample` of the text.
"""

import collections
import functools
import heapq
import itertools
import json

import tensorflow as tf

from keras_xfmr.common.checks import check_int
from keras_xfmr.common.types import Files
from keras_xfmr.text.data.streaming import untuned
from keras_xfmr.text.tokenizers.base import (
    SPECIAL_TOKENS,
    CharacterTokenizer,
    WordPieceTokenizer,
)
from keras_xfmr.text.tokenizers.bert import BERT_TOKENS, BertTokenizer, bert_special_ids
from keras_xfmr.text.tokenizers.byte_pair import END_OF_TEXT, BytePairTokenizer
from keras_xfmr.text.tokenizers.byte_pair_files import ALPHABET, byte_pairs_of
from keras_xfmr.text.tokenizers.sampling import Sample
from keras_xfmr.text.tokenizers.sentence_piece import SentencePieceTokenizer
from keras_xfmr.text.tokenizers.sentence_piece_training import largest_model, parts
from keras_xfmr.text.tokenizers.words import WordTokenizer

WORD_LINES = 512  # lines that one call splits into words, each at most as long as in `parts`


def learn_sentence_piece(
    texts: Files | tf.data.Dataset,
    vocab_size: int,
    *,
    model_type: str = "unigram",
    lowercase: bool = False,
    byte_fallback: bool | None = None,
    sample: int | None = None,
    seed: int = 0,
) -> SentencePieceTokenizer:
    """A `SentencePieceTokenizer` learned from text (Kudo and Richardson 2018).

    With `byte_fallback`, 256 of the pieces are the bytes of UTF-8: a character without a piece
    becomes its bytes instead of the unknown token, so that a model can copy names, emoji and rare
    ideographs that the text does not have. If ids end inside a character, its bytes become U+FFFD.

    Args:
        texts: text files, by names or patterns (`"corpus/*.txt"`), plain or gzip, or a
            `tf.data.Dataset` of strings. At most a million lines are read: an equal share of each
            file, or the first million of a data set.
        vocab_size: size of the vocabulary. If the text is too small for it, the largest possible
            size is used.
        model_type: `"unigram"`, `"bpe"`, `"word"` or `"char"`.
        lowercase: whether to fold case.
        byte_fallback: whether the pieces include the 256 bytes. None means True for `"unigram"`
            and `"bpe"` if `vocab_size` is at least 1,000 and has room for the bytes and the
            characters of the text.
        sample: number of lines to draw at random from the whole text, for files whose beginnings
            are not typical. This reads the whole text once, and keeps the drawn lines in memory.
        seed: seed of `sample`; the same seed draws the same lines.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no text, a line or a file that is not UTF-8, a damaged gzip file, a file with
            `\\r` as line ends, a `vocab_size` that is not an integer or too small.

    Example::

        tokenizer = learn_sentence_piece(["corpus.txt"], vocab_size=8000)
    """
    lines = functools.partial(Sample, texts, sample, seed)
    proto = largest_model(lines, vocab_size, model_type, lowercase, byte_fallback)
    return SentencePieceTokenizer(proto)


def learn_bert_sentence_piece(
    texts: Files | tf.data.Dataset,
    vocab_size: int,
    *,
    model_type: str = "unigram",
    lowercase: bool = False,
    byte_fallback: bool | None = None,
    sample: int | None = None,
    seed: int = 0,
) -> SentencePieceTokenizer:
    """A `SentencePieceTokenizer` for BERT, such as KoBERT's, learned from text.

    The special tokens have BERT's names, `[PAD] [UNK] [CLS] [SEP] [MASK]`, ids 0 to 4.

    Args:
        texts, vocab_size, model_type, lowercase, byte_fallback, sample, seed: as in
            `learn_sentence_piece`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no text, a line or a file that is not UTF-8, a damaged gzip file, a file with
            `\\r` as line ends, a `vocab_size` that is not an integer or too small.

    Example::

        tokenizer = learn_bert_sentence_piece(["corpus.txt"], vocab_size=8000)
    """
    pad, unknown, start, end, mask = BERT_TOKENS.values()
    names = {"pad_piece": pad, "unk_piece": unknown, "bos_piece": start, "eos_piece": end}
    lines = functools.partial(Sample, texts, sample, seed)
    proto = largest_model(
        lines, vocab_size, model_type, lowercase, byte_fallback, control_symbols=[mask], **names
    )
    return SentencePieceTokenizer(proto, **bert_special_ids(BERT_TOKENS.values()))


def learn_word_piece(
    texts: Files | tf.data.Dataset,
    vocab_size: int,
    *,
    lowercase: bool = False,
    sample: int | None = None,
    seed: int = 0,
) -> WordPieceTokenizer:
    """A `WordPieceTokenizer` learned from text (Schuster and Nakajima 2012).

    Args:
        texts: text files, by names or patterns (`"corpus/*.txt"`), plain or gzip, or a
            `tf.data.Dataset` of strings. At most a million lines are read: an equal share of each
            file, or the first million of a data set.
        vocab_size: approximate size of the vocabulary.
        lowercase: whether to make letters lower case and remove accents, in the tokenizer too.
        sample, seed: as in `learn_sentence_piece`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no text, a line or a file that is not UTF-8, a damaged gzip file, a file with
            `\\r` as line ends, a `vocab_size` that is not an integer or too small.

    Example::

        tokenizer = learn_word_piece(["corpus.txt"], vocab_size=8000)
    """
    lines = functools.partial(Sample, texts, sample, seed)
    vocabulary = _pieces(lines, vocab_size, SPECIAL_TOKENS, WordPieceTokenizer, lowercase=lowercase)
    return WordPieceTokenizer(vocabulary, lowercase=lowercase)


def learn_bert_word_piece(
    texts: Files | tf.data.Dataset,
    vocab_size: int,
    *,
    sample: int | None = None,
    seed: int = 0,
    **config,
) -> BertTokenizer:
    """A `BertTokenizer` learned from text; `[PAD] [UNK] [CLS] [SEP] [MASK]` have the ids 0 to 4.

    The trainer of keras-nlp counts every part of every word. It is much slower for languages with
    long words than for English. Korean takes minutes for a few thousand sentences if accents are
    removed, because syllables are then split into letters. Use `learn_bert_sentence_piece` there.

    Args:
        texts: text files, by names or patterns (`"corpus/*.txt"`), plain or gzip, or a
            `tf.data.Dataset` of strings. At most a million lines are read: an equal share of each
            file, or the first million of a data set.
        vocab_size: approximate size of the vocabulary.
        sample, seed: as in `learn_sentence_piece`.
        **config: arguments of `BertTokenizer`: `lowercase`, `strip_accents`, `split_cjk`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no text, a line or a file that is not UTF-8, a damaged gzip file, a file with
            `\\r` as line ends, a `vocab_size` that is not an integer or too small.

    Example::

        tokenizer = learn_bert_word_piece(["corpus.txt"], vocab_size=8000, lowercase=False)
    """
    # Takes its defaults, and raises its errors before hours of work.
    config = BertTokenizer(BERT_TOKENS.values(), **config).get_config()
    lines = functools.partial(Sample, texts, sample, seed)
    vocabulary = _pieces(lines, vocab_size, BERT_TOKENS.values(), BertTokenizer, **config)
    return BertTokenizer(vocabulary, **config)


def _pieces(lines, vocab_size, special_tokens, tokenizer_class, **config):
    """Word pieces of the words that a tokenizer of this class will read.

    The trainer would normalize words in another order, and would count whole syllables of Hangul
    that the tokenizer later decomposes.
    """
    import keras_nlp

    check_int("vocab_size", vocab_size, len(special_tokens) + 1)
    split = functools.partial(tokenizer_class.split, **config)
    sample = lines()
    data = tf.data.Dataset.from_generator(
        sample, output_signature=tf.TensorSpec([None], tf.string)
    )
    try:
        return keras_nlp.tokenizers.compute_word_piece_vocabulary(
            untuned(data.map(split)),
            vocab_size,
            split=False,
            reserved_tokens=list(special_tokens),
        )
    except StopIteration as error:  # the text has no word
        raise sample.nothing() from error


def learn_byte_pair(
    texts: Files | tf.data.Dataset,
    vocab_size: int,
    *,
    min_count: int = 2,
    sample: int | None = None,
    seed: int = 0,
) -> BytePairTokenizer:
    """A `BytePairTokenizer` learned from text (Radford et al. 2019), by the `tokenizers` package.

    `<|endoftext|>`, id 0, is start, end and padding; the 256 bytes come next, then the merges. The
    same text gives the same vocabulary.

    Args:
        texts: text files, by names or patterns (`"corpus/*.txt"`), plain or gzip, or a
            `tf.data.Dataset` of strings. At most a million lines are read: an equal share of each
            file, or the first million of a data set.
        vocab_size: size of the vocabulary, at least 257; smaller if the text is too small for it.
        min_count: pairs that occur fewer times in the text are not merged.
        sample, seed: as in `learn_sentence_piece`.

    Raises:
        ImportError: `tokenizers` is not installed.
        FileNotFoundError: a file is missing.
        ValueError: no text, a line or a file that is not UTF-8, a damaged gzip file, a file with
            `\\r` as line ends, a `vocab_size` that is not an integer or too small.

    Example::

        tokenizer = learn_byte_pair(["corpus.txt"], vocab_size=8000)
    """
    check_int("vocab_size", vocab_size, len(ALPHABET) + 1)
    check_int("min_count", min_count, 1)
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            "`learn_byte_pair` needs the tokenizers package: pip install 'tokenizers>=0.20'"
        ) from error
    lines = Sample(texts, sample, seed)
    learner = tokenizers.Tokenizer(tokenizers.models.BPE())
    learner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.encode_special_tokens = True
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_count,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=list(ALPHABET),
        show_progress=False,
    )
    every = itertools.chain.from_iterable(lines())
    learner.train_from_iterator((line.decode("utf8") for line in every), trainer)
    return BytePairTokenizer(*byte_pairs_of(json.loads(learner.to_str())))


def learn_characters(
    texts: Files | tf.data.Dataset, *, min_count: int = 1, sample: int | None = None, seed: int = 0
) -> CharacterTokenizer:
    """A `CharacterTokenizer` of all characters that occur at least `min_count` times in the text.

    Args:
        texts: text files, by names or patterns (`"corpus/*.txt"`), plain or gzip, or a
            `tf.data.Dataset` of strings. At most a million lines are read: an equal share of each
            file, or the first million of a data set.
        min_count: rarer characters become the unknown token.
        sample, seed: as in `learn_sentence_piece`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no text, a line or a file that is not UTF-8, a damaged gzip file, a file with
            `\\r` as line ends, or no character that occurs so often.

    Example::

        tokenizer = learn_characters(["corpus.txt"])
    """
    counts: collections.Counter[str] = collections.Counter()
    for lines in Sample(texts, sample, seed)():
        counts.update(b"\n".join(lines).decode("utf8"))
    counts.pop("\n", None)
    kept = [character for character, count in counts.items() if count >= min_count]
    if not kept:
        raise ValueError(
            f"Expected a character that occurs at least {min_count} times among the "
            f"{len(counts)} of the text; lower it. Received: min_count={min_count}."
        )
    return CharacterTokenizer([*SPECIAL_TOKENS, *sorted(kept)])


def learn_words(
    texts: Files | tf.data.Dataset,
    vocab_size: int,
    *,
    split: str = "bert",
    sample: int | None = None,
    seed: int = 0,
) -> WordTokenizer:
    """A `WordTokenizer` of the most frequent words, with the most frequent one first.

    Equally frequent words are in the order of their code points. A word with the spelling of a
    special token is left out.

    Args:
        texts: text files, by names or patterns (`"corpus/*.txt"`), plain or gzip, or a
            `tf.data.Dataset` of strings. At most a million lines are read: an equal share of each
            file, or the first million of a data set.
        vocab_size: size of the vocabulary, at least 5; smaller if the text has fewer words.
        split: how texts are split into words, as in `WordTokenizer`.
        sample, seed: as in `learn_sentence_piece`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no text, a line or a file that is not UTF-8, a damaged gzip file, a file with
            `\\r` as line ends, a `vocab_size` that is not an integer or too small, an unknown
            `split`.

    Example::

        tokenizer = learn_words(["corpus.txt"], vocab_size=50_000)
    """
    check_int("vocab_size", vocab_size, len(SPECIAL_TOKENS) + 1)
    cutter = WordTokenizer(SPECIAL_TOKENS, split=split)
    cut = tf.function(
        lambda lines: cutter.split_words(lines)[0].values,
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    ).get_concrete_function()
    counts: collections.Counter[bytes] = collections.Counter()
    lines = Sample(texts, sample, seed)
    cut_lines = parts(itertools.chain.from_iterable(lines()))
    while some := list(itertools.islice(cut_lines, WORD_LINES)):
        counts.update(cut(tf.constant(some)).numpy().tolist())
    for token in SPECIAL_TOKENS:
        counts.pop(token.encode(), None)
    if not counts:  # the text has no word
        raise lines.nothing()
    # The order of bytes of UTF-8 is the order of code points.
    words = heapq.nsmallest(
        vocab_size - len(SPECIAL_TOKENS), counts, key=lambda word: (-counts[word], word)
    )
    return WordTokenizer([*SPECIAL_TOKENS, *(word.decode("utf8") for word in words)], split=split)
