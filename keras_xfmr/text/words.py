"""Splits text into words as BERT does (Devlin et al. 2019), in graph.

B batch, W words
"""

import tensorflow as tf
import tensorflow_text as tf_text

from keras_xfmr.text.ragged import owners, stretches
from keras_xfmr.text.unicode_ranges import load_ranges

# Written out, because the classes of a regular expression change with the version of TensorFlow
# that serves a SavedModel.
CONTROL, PUNCTUATION, MARKS = map(load_ranges().get, ("control", "punctuation", "marks"))
BLANKS = r"[\s\pZ]+"  # separates words where text is not normalized
WHITE_SPACE = "9-a d a0 1680 2000-200a 2028-2029 202f 205f 3000"  # and the blank itself
CJK = "3400-4dbf 4e00-9fff f900-faff 20000-2a6df 2a700-2b81f 2b920-2ceaf 2f800-2fa1f"


def _one_of(ranges):
    """The character class of `ranges`, hexadecimal code points."""
    pairs = [item.partition("-") for item in ranges.split()]
    return "[" + "".join(rf"\x{{{a}}}-\x{{{b or a}}}" for a, _, b in pairs) + "]"


@tf.autograph.experimental.do_not_convert
def split_words(texts, *, lowercase=False, strip_accents=None, split_cjk=True, compose=False):
    """Strings `[B]` to ragged words `[B, (W)]`: BERT's normalization and first split.

    1. Removes control characters, private use, U+FFFD and bytes that are not UTF-8. Every white
       space becomes a blank.
    2. Makes each CJK ideograph a word.
    3. Removes accents: canonical decomposition (NFD) without nonspacing marks. This also splits
       Hangul syllables into letters, as in the vocabularies of published models.
    4. Makes letters lower case, one by one: no full case folding, no final sigma.
    5. Splits at blanks; each punctuation character is a word.

    The words are those of the `tokenizers` package, except for characters that TensorFlow's Unicode
    tables do not have (TensorFlow 2.21): 95 capital letters of Unicode 12 and newer are not
    lowered, 21 letters of Unicode 13 and newer are not decomposed.

    Args:
        texts: strings `[B]`.
        lowercase: whether to make letters lower case.
        strip_accents: whether to remove accents; None means the value of `lowercase`.
        split_cjk: whether each CJK ideograph is a word.
        compose: whether to compose characters (NFC) first, so that different encodings of one
            character are equal. BERT does not.

    Example:

    >>> split_words(tf.constant(["Déjà-vu!"]), lowercase=True).to_list()
    [[b'deja', b'-', b'vu', b'!']]
    """
    texts = _normalize(
        texts,
        lowercase=lowercase,
        strip_accents=strip_accents,
        split_cjk=split_cjk,
        compose=compose,
    )
    return tf.strings.split(tf.strings.regex_replace(texts, f"({_one_of(PUNCTUATION)})", r" \1 "))


@tf.autograph.experimental.do_not_convert
def split_words_with_offsets(texts, **config):
    """`split_words`, and the positions of the words in the texts.

    Characters are normalized one by one, so that the source of each one is known. Nonspacing marks
    that were removed belong to the letter before them.

    Args:
        texts: strings `[B]`.
        **config: arguments of `split_words`, except `compose`, which joins several characters.

    Returns:
        The words, ragged `[B, (W)]`; for each byte of the words, the start and the end of its
        source character, in bytes of the text: two int64 ragged tensors `[B, (W), (bytes)]`.

    Example:

    >>> words, starts, ends = split_words_with_offsets(tf.constant(["Ét é"]), lowercase=True)
    >>> words.to_list(), starts.to_list(), ends.to_list()
    ([[b'et', b'e']], [[[0, 2], [4]]], [[[2, 3], [6]]])
    """
    characters, starts = tf.strings.unicode_split_with_offsets(texts, "UTF-8", errors="ignore")
    distinct, index = tf.unique(characters.flat_values)
    made = _normalize(distinct, **config)
    marks = tf.logical_and(made == "", tf.strings.regex_full_match(distinct, _one_of(MARKS)))
    made, marks = tf.gather(made, index), tf.gather(marks, index)
    ends = starts.flat_values + _bytes(characters.flat_values)
    first = tf.ragged.range(characters.row_lengths()).flat_values == 0
    letter = tf.cumsum(tf.cast(tf.logical_or(first, ~marks), tf.int32)) - 1
    ends = tf.gather(tf.math.segment_max(ends, letter), letter)

    rows = tf.strings.reduce_join(characters.with_flat_values(made), axis=1)
    divides = f" |{_one_of(PUNCTUATION)}"
    words, begins, _ = tf_text.regex_split_with_offsets(rows, divides, _one_of(PUNCTUATION))
    begins = begins.flat_values + tf.gather(
        tf.cumsum(_bytes(rows), exclusive=True), owners(words.row_lengths())
    )
    taken = tf.ragged.range(begins, begins + _bytes(words.flat_values))
    places = tf.gather(owners(_bytes(made)), taken.flat_values)
    starts, ends = (
        words.with_values(taken.with_values(tf.gather(values, places)))
        for values in (starts.flat_values, ends)
    )
    return words, starts, ends


SPLITS = ("bert", "whitespace", "characters")


def as_utf8(texts):
    """The texts with U+FFFD instead of bytes that are not UTF-8, as most decoders read them.

    TensorFlow's operations count such bytes in different ways.
    """
    return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")


@tf.autograph.experimental.do_not_convert
def cut_words(texts, split="bert", *, split_cjk=True):
    """The words of raw texts, in their original spelling, with their positions.

    Args:
        texts: strings `[B]`.
        split: `"bert"`, as `split_words`: at white space, and each punctuation character is a
            word; `"whitespace"`, at white space; `"characters"`, each character except white
            space.
        split_cjk: for `"bert"`, whether each CJK ideograph is a word.

    Returns:
        The words, ragged strings `[B, (W)]`, and their starts and ends, two ragged int32 tensors
        `[B, (W)]`, in Unicode characters of the text, the end exclusive. A byte that is not UTF-8
        counts as the character U+FFFD.

    Example:

    >>> words, starts, ends = cut_words(tf.constant(['"Café", she']))
    >>> [word.decode("utf8") for word in words[0].numpy()]
    ['"', 'Café', '"', ',', 'she']
    >>> starts.to_list(), ends.to_list()
    ([[0, 1, 5, 6, 8]], [[1, 5, 6, 7, 11]])
    """
    texts = as_utf8(texts)
    if split == "bert":
        words, begins, behinds = split_words_with_offsets(
            texts, lowercase=False, strip_accents=False, split_cjk=split_cjk
        )
        first, last = begins.values.row_starts(), begins.values.row_limits() - 1
        behinds = words.with_values(tf.gather(behinds.flat_values, last))
        begins = words.with_values(tf.gather(begins.flat_values, first))
    elif split == "whitespace":
        # The operation ends a text at NUL, so NUL is replaced by another byte that is no blank.
        without = tf.strings.regex_replace(texts, r"\x00", "\x01")
        _, begins, behinds = tf_text.regex_split_with_offsets(without, BLANKS)
    else:
        words, begins = tf.strings.unicode_split_with_offsets(texts, "UTF-8", errors="ignore")
        kept = ~tf.strings.regex_full_match(words.values, BLANKS)
        counts = words.with_values(tf.cast(kept, tf.int64))
        sizes = tf.boolean_mask(_bytes(words.values), kept)
        begins = tf.RaggedTensor.from_row_lengths(
            tf.boolean_mask(begins.values, kept), tf.reduce_sum(counts, axis=1)
        )
        behinds = begins.with_values(begins.values + sizes)
    characters, places = tf.strings.unicode_split_with_offsets(texts, "UTF-8")
    starts, ends = _as_characters(texts, places, begins, behinds)
    # Joined from characters: `substr` would copy the whole text for each word.
    begin = tf.gather(characters.row_starts(), owners(starts.row_lengths()))
    sizes = tf.cast(ends.values - starts.values, tf.int64)
    spelled = stretches(characters.values, begin + tf.cast(starts.values, tf.int64), sizes)
    return starts.with_values(tf.strings.reduce_join(spelled, axis=1)), starts, ends


def _as_characters(texts, starts, *offsets):
    """Ragged offsets in bytes `[B, (W)]` as offsets in Unicode characters, int32.

    Args:
        texts: strings `[B]`.
        starts: the offsets of their characters.
        *offsets: of words.
    """
    stretch = tf.reduce_max(_bytes(texts)) + 1

    def places(ragged):  # rising over all texts
        owner = tf.cast(owners(ragged.row_lengths()), tf.int64)
        return owner, owner * stretch + tf.cast(ragged.values, tf.int64)

    _, characters = places(starts)
    found = []
    for ragged in offsets:
        owner, wanted = places(ragged)
        before = tf.cast(tf.searchsorted(characters, wanted), tf.int64)
        before -= tf.gather(tf.cast(starts.row_starts(), tf.int64), owner)
        found.append(ragged.with_values(tf.cast(before, tf.int32)))
    return found


def _bytes(strings):
    return tf.cast(tf.strings.length(strings), tf.int64)


def _normalize(texts, *, lowercase=False, strip_accents=None, split_cjk=True, compose=False):
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="ignore")
    texts = tf.strings.regex_replace(texts, _one_of(CONTROL), "")
    texts = tf.strings.regex_replace(texts, _one_of(WHITE_SPACE), " ")
    if compose:
        texts = tf_text.normalize_utf8(texts, "NFC")
    if split_cjk:
        texts = tf.strings.regex_replace(texts, f"({_one_of(CJK)})", r" \1 ")
    if lowercase if strip_accents is None else strip_accents:
        texts = tf_text.normalize_utf8(texts, "NFD")
        texts = tf.strings.regex_replace(texts, _one_of(MARKS), "")
    return _lower(texts) if lowercase else texts


def _lower(texts):
    # The op follows the rules of the machine's language and of the end of a word. So ASCII comes
    # first, because I becomes another letter on a Turkish machine, and then capital sigma, which
    # could become a final sigma.
    texts = tf.strings.regex_replace(tf.strings.lower(texts), "\u03a3", "\u03c3")
    return tf.strings.lower(texts, encoding="utf-8")
