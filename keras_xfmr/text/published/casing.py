"""Which letters a vocabulary has: capital letters, accents, Hangul syllables."""

import collections
import re
import string
import unicodedata

from absl import logging

from keras_xfmr.text.words import CJK

# A vocabulary with capitals or accents has them in a tenth of its words and more; another one may
# still have them in a few unusual tokens.
SHARE = 0.05
JAMO = re.compile("[\u1100-\u11ff]")
IDEOGRAPHS = re.compile(
    "["
    + "".join(
        f"{chr(int(first, 16))}-{chr(int(last or first, 16))}"
        for first, _, last in (item.partition("-") for item in CJK.split())
    )
    + "]"
)

Spelling = collections.namedtuple("Spelling", "cased, capitals, beyond, accents, jamo")


def spelling(vocabulary):
    """Counts the kinds of letters in the words of a vocabulary.

    Tokens of several characters with punctuation, such as `[CLS]` and `<S>`, are not words: BERT
    splits text at punctuation, so no text can have them.

    Args:
        vocabulary: tokens, continued ones with `##`.

    Returns:
        Numbers of words: `cased`, with letters that have a case; `capitals`, those of them that
        lower case changes; `beyond`, with letters beyond ASCII other than ideographs; `accents`,
        those of them that the removal of accents changes, which also splits Hangul syllables;
        `jamo`, with conjoining letters of Hangul.

    Example:

    >>> spelling(["[CLS]", "Ann", "##s", "fée", "한국"])
    Spelling(cased=3, capitals=1, beyond=2, accents=2, jamo=0)
    """
    cased = capitals = beyond = accents = jamo = 0
    for token in vocabulary:
        word = token.removeprefix("##")
        if len(word) > 1 and any(map(_is_punctuation, word)):
            continue
        lowered = word.lower()
        cased += lowered != word.upper()
        capitals += lowered != word
        if word.isascii():
            continue
        word = IDEOGRAPHS.sub("", word)
        if any(unicodedata.category(c)[0] in "LM" for c in word if not c.isascii()):
            beyond += 1
            accents += _stripped(word) != word
            jamo += bool(JAMO.search(word))
    return Spelling(cased, capitals, beyond, accents, jamo)


def decide(vocabulary, where, lowercase=None, strip_accents=None):
    """Guesses the settings of a tokenizer from its vocabulary, and logs them as a warning.

    Args:
        vocabulary: tokens.
        where: its file, for the log.
        lowercase: None, or the value to use.
        strip_accents: None, or the value to use.

    Returns:
        `lowercase` and `strip_accents` of `BertTokenizer`.
    """
    found, given = spelling(vocabulary), (lowercase, strip_accents)
    if lowercase is None:
        lowercase = not _spells_capitals(found)
    if strip_accents is None and lowercase and _spells_accents(found):
        strip_accents = False
    if strip_accents is None and not lowercase and found.accents < SHARE * found.jamo:
        strip_accents = True  # otherwise Korean text would not be split into these letters
    if None in given:
        logging.warning(
            "%s stands alone. Taken as lowercase=%s, strip_accents=%s: of %d words with letters "
            "that have a case %d have capitals; of %d words with letters beyond ASCII %d have "
            "accents or Hangul syllables, and %d have single letters of Hangul. Pass `lowercase` "
            "and `strip_accents` to decide yourself.",
            where, lowercase, strip_accents, *found,
        )  # fmt: skip
    return {"lowercase": lowercase, "strip_accents": strip_accents}


def warn_of_lost_words(vocabulary, where, *, lowercase, strip_accents, given):
    """Logs a warning if no text can have some words of the vocabulary, because of the settings.

    Args:
        vocabulary: tokens.
        where: the folder.
        lowercase, strip_accents: arguments of `BertTokenizer`.
        given: names of the settings that the caller chose, for which there is no warning.
    """
    strips = lowercase if strip_accents is None else strip_accents
    if not lowercase and not strips:
        return
    found, lost = spelling(vocabulary), []
    if lowercase and _spells_capitals(found) and "lowercase" not in given:
        lost.append(("lowercase", found.capitals, "capitals"))
    if strips and _spells_accents(found) and "strip_accents" not in given:
        lost.append(("strip_accents", found.accents, "accents or Hangul syllables"))
    for name, count, what in lost:
        logging.warning(
            "%s: %d words of the vocabulary have %s, and its settings, %s=True or the default that "
            "transformers has too, keep texts from reaching them. If the model was trained without "
            "that step, pass %s=False.",
            where, count, what, name, name,
        )  # fmt: skip


def _spells_capitals(found):
    return found.capitals > 0 and found.capitals >= SHARE * found.cased


def _spells_accents(found):
    return found.accents > 0 and found.accents >= SHARE * found.beyond


def _is_punctuation(character):
    return character in string.punctuation or unicodedata.category(character)[0] == "P"


def _stripped(word):
    letters = unicodedata.normalize("NFD", word)
    return "".join(c for c in letters if unicodedata.category(c) != "Mn")
