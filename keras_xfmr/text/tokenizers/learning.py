"""Vocabularies learned from text, by the trainers of keras-nlp, SentencePiece and `tokenizers`.

Every vocabulary begins with padding, unknown, start and end, in this order: ids 0, 1, 2, 3. Those
for BERT go on with the mask token, id 4; those of bytes have one token for all roles, id 0. They
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

WORD_LINES = 512  # that are cut into words by one call, each at most as long as `parts` leaves it


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

    With `byte_fallback`, 256 of the pieces are the bytes of UTF-8: a character that is no piece
    becomes its bytes and not the unknown token, so that a model can copy names, emoji and rare
    ideographs that the text does not have. In ids that stop inside of a character, such bytes read
    as U+FFFD.

    Args:
        texts: text files, by names or patterns (`"corpus/*.txt"`), plain or packed by gzip, or a
            `tf.data.Dataset` of strings. At most a million lines are read: an equal share of each
            file, or the first million of a data set.
        vocab_size: size of the vocabulary. When the text is too small for it, the largest size
            that it allows is taken instead.
        model_type: `"unigram"`, `"bpe"`, `"word"` or `"char"`.
        lowercase: whether to fold case.
        byte_fallback: whether the pieces include the 256 bytes. None for `"unigram"` and `"bpe"`
            with a `vocab_size` of at least 1,000 that has room for them beside the characters of
            the text.
        sample: number of lines to draw from the whole text with equal odds, where its beginnings
            do not stand for it. That reads all of it once, and holds the lines drawn.
        seed: of that drawing, which gives the same lines each time.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no text, a line or a file that is not UTF-8, a damaged file of gzip or one with
            lines ended by `\\r`, a `vocab_size` that is no integer or too small.

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
    """A `SentencePieceTokenizer` learned from text for BERT, as KoBERT has one.

    The special tokens have BERT's names, `[PAD] [UNK] [CLS] [SEP] [MASK]`, ids 0 to 4.

    Args:
        texts, vocab_size, model_type, lowercase, byte_fallback, sample, seed: as
            `learn_sentence_piece` has them.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no text, a line or a file that is not UTF-8, a damaged file of gzip or one with
            lines ended by `\\r`, a `vocab_size` that is no integer or too small.

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
        texts: text files, by names or patterns (`"corpus/*.txt"`), plain or packed by gzip, or a
            `tf.data.Dataset` of strings. At most a million lines are read: an equal share of each
            file, or the first million of a data set.
        vocab_size: the size to aim at; the trainer may stop a little away from it.
        lowercase: whether to lower and strip accents, in the tokenizer too.
        sample, seed: as `learn_sentence_piece` takes them.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no text, a line or a file that is not UTF-8, a damaged file of gzip or one with
            lines ended by `\\r`, a `vocab_size` that is no integer or too small.

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

    The trainer of keras-nlp looks at every part of every word. Languages of long words with many
    endings take it far longer than English, Korean most of all when accents are stripped, for then
    syllables fall into letters: minutes for a few thousand sentences. There
    `learn_bert_sentence_piece` is the better choice.

    Args:
        texts: text files, by names or patterns (`"corpus/*.txt"`), plain or packed by gzip, or a
            `tf.data.Dataset` of strings. At most a million lines are read: an equal share of each
            file, or the first million of a data set.
        vocab_size: the size to aim at; the trainer may stop a little away from it.
        sample, seed: as `learn_sentence_piece` takes them.
        **config: arguments of `BertTokenizer`: `lowercase`, `strip_accents`, `split_cjk`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no text, a line or a file that is not UTF-8, a damaged file of gzip or one with
            lines ended by `\\r`, a `vocab_size` that is no integer or too small.

    Example::

        tokenizer = learn_bert_word_piece(["corpus.txt"], vocab_size=8000, lowercase=False)
    """
    # Its defaults, and its errors before hours of work.
    config = BertTokenizer(BERT_TOKENS.values(), **config).get_config()
    lines = functools.partial(Sample, texts, sample, seed)
    vocabulary = _pieces(lines, vocab_size, BERT_TOKENS.values(), BertTokenizer, **config)
    return BertTokenizer(vocabulary, **config)


def _pieces(lines, vocab_size, special_tokens, tokenizer_class, **config):
    """Word pieces of the words that a tokenizer of this class will see.

    The trainer's own words are normalized in another order, and take Hangul that is later
    decomposed for whole syllables.
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
    except StopIteration as error:  # text, but no word in it
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
        texts: text files, by names or patterns (`"corpus/*.txt"`), plain or packed by gzip, or a
            `tf.data.Dataset` of strings. At most a million lines are read: an equal share of each
            file, or the first million of a data set.
        vocab_size: size of the vocabulary, at least 257; smaller where the text allows no more.
        min_count: pairs that the text has fewer times are not merged.
        sample, seed: as `learn_sentence_piece` takes them.

    Raises:
        ImportError: `tokenizers` is not installed.
        FileNotFoundError: a file is missing.
        ValueError: no text, a line or a file that is not UTF-8, a damaged file of gzip or one with
            lines ended by `\\r`, a `vocab_size` that is no integer or too small.

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
    """A `CharacterTokenizer` of all characters that stand at least `min_count` times in the text.

    Args:
        texts: text files, by names or patterns (`"corpus/*.txt"`), plain or packed by gzip, or a
            `tf.data.Dataset` of strings. At most a million lines are read: an equal share of each
            file, or the first million of a data set.
        min_count: rarer characters become the unknown token.
        sample, seed: as `learn_sentence_piece` takes them.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no text, a line or a file that is not UTF-8, a damaged file of gzip or one with
            lines ended by `\\r`, or no character that stands so often.

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
            f"Expected a character that stands at least {min_count} times among the "
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

    Words that are equally frequent stand in the order of their code points. A word that is spelled
    like a special token is left out.

    Args:
        texts: text files, by names or patterns (`"corpus/*.txt"`), plain or packed by gzip, or a
            `tf.data.Dataset` of strings. At most a million lines are read: an equal share of each
            file, or the first million of a data set.
        vocab_size: size of the vocabulary, at least 5; smaller where the text has fewer words.
        split: how texts are divided into words, as `WordTokenizer` takes it.
        sample, seed: as `learn_sentence_piece` takes them.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no text, a line or a file that is not UTF-8, a damaged file of gzip or one with
            lines ended by `\\r`, a `vocab_size` that is no integer or too small, an unknown
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
    if not counts:  # text, but no word in it
        raise lines.nothing()
    # The bytes of UTF-8 are ordered as the code points are.
    words = heapq.nsmallest(
        vocab_size - len(SPECIAL_TOKENS), counts, key=lambda word: (-counts[word], word)
    )
    return WordTokenizer([*SPECIAL_TOKENS, *(word.decode("utf8") for word in words)], split=split)
