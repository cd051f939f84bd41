"""Loads the tokenizers of published models from their folders."""

import pathlib

from keras_xfmr.common.files import read_json, read_lines
from keras_xfmr.common.sentence_folders import transformer_folder
from keras_xfmr.common.types import Path
from keras_xfmr.text.published.byte_pair import is_byte_pair, load_byte_pair
from keras_xfmr.text.published.casing import decide, warn_of_lost_words
from keras_xfmr.text.published.rows import longest_row, lowers_texts
from keras_xfmr.text.published.sentence_piece import (
    is_xlm_r,
    load_sentence_piece,
    load_unigram,
    model_file,
)
from keras_xfmr.text.published.unigram import is_unigram
from keras_xfmr.text.tokenizers.added_tokens import added_beside, in_order
from keras_xfmr.text.tokenizers.base import DESCRIPTION, Tokenizer, load_tokenizer
from keras_xfmr.text.tokenizers.bert import (
    BERT_TOKENS,
    PUBLISHED_SETTINGS,
    BertTokenizer,
)

# Our argument -> the name in tokenizer.json's normalizer.
NORMALIZER = {
    "lowercase": "lowercase",
    "strip_accents": "strip_accents",
    "split_cjk": "handle_chinese_chars",
}
# Classes of transformers that read a tokenizer.json unchanged, and those of BERT.
AS_IT_STANDS = ("PreTrainedTokenizer", "TokenizersBackend")
READ_ALIKE = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", *AS_IT_STANDS)
TOKENIZER_CONFIG, SPECIAL_MAP = "tokenizer_config.json", "special_tokens_map.json"
PUBLISHED_ROLES = dict(
    zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), BERT_TOKENS.values())
)


def load_pretrained_tokenizer(
    folder: Path,
    lowercase: bool | None = None,
    strip_accents: bool | None = None,
    split_cjk: bool | None = None,
) -> Tokenizer:
    """Loads the tokenizer of a Hugging Face folder of a published model: BERT, GPT-2, RoBERTa,
    KoGPT2.

    It reads the first of these that the folder has:

    1. `keras_xfmr_tokenizer.json` of `Tokenizer.save`, with `load_tokenizer`.
    2. A SentencePiece model (`spiece.model`, `tokenizer_*.model`, `*.model`), such as KoBERT's:
       a `SentencePieceTokenizer`. A `vocab.txt` beside it sets the ids, else the model does.
       A BERT may have the model of XLM-R (`sentencepiece.bpe.model`, with the special tokens `<s>`,
       `</s>`, `<pad>`, `<unk>`, `<mask>`), such as paraphrase-multilingual-MiniLM-L12-v2: the ids
       are then those of XLM-R. A pair of texts is packed as in BERT, with one `</s>` between them.
       Without such a file a unigram model in `tokenizer.json` is read.
    3. `tokenizer.json` of the `tokenizers` package with a byte-level BPE model, or `vocab.json` and
       `merges.txt` without it: a `BytePairTokenizer` (see its `from_file`). The special tokens are
       those of `tokenizer_config.json` and `special_tokens_map.json` (`eos_token`, else
       `sep_token`; `bos_token`, else `cls_token`; `pad_token`, `mask_token`); without these,
       `<|endoftext|>`, or RoBERTa's. A BPE model over characters, with a pre-tokenizer `Metaspace`,
       gives a `CharacterBytePairTokenizer`; without named special tokens they are KoGPT2's: `</s>`
       at the end and the start, and `<pad>`.
    4. `tokenizer.json` with a WordPiece model, or
    5. `vocab.txt`: a `BertTokenizer`.

    For 4 and 5 the settings of `tokenizer_config.json` count (`do_lower_case`, `strip_accents`,
    `tokenize_chinese_chars`); for missing settings the defaults of Hugging Face's `BertTokenizer`:
    uncased. The normalizer of `tokenizer.json` counts if there is no `tokenizer_config.json`, or if
    its `tokenizer_class` is not BERT's (`PreTrainedTokenizerFast`). transformers does the same for
    such a class; without the file some of its versions read any BERT as uncased. The special tokens
    are found by BERT's names (`bert_special_ids`); a file with another name for one of them is
    refused.

    For a `vocab.txt` without these files, such as Google's, the letters of its words decide. The
    decision is logged with its reason:

    - cased, if at least a twentieth of the words whose letters have a case have capitals. A single
      token does not decide, and `<S>` does not count, because no text can have it;
    - uncased otherwise. Accents are kept if at least a twentieth of the words with letters beyond
      ASCII have accents or Hangul syllables: otherwise every syllable would be split into letters,
      and all Korean would be unknown. A cased vocabulary with single letters of Hangul and no
      syllables removes accents.

    If the settings of a folder make so many words of its vocabulary unreachable, they count
    nevertheless, as in transformers, and a warning names the argument to change.

    `sentence_bert_config.json` of sentence-transformers counts too: with `do_lower_case` (in later
    versions the step `Lowercase` in `tokenizer.json`) texts become lower case and keep their
    accents. `max_seq_length` becomes `max_length` of the tokenizer, the default length of a
    `SentencePacker`; without it that is `model_max_length` of `tokenizer_config.json`, or None.
    Files in a subfolder `0_Transformer` or `0_BERT`, as in the first version, are found.

    Differences to others: the Python tokenizers of some KoBERT folders clean the text before
    SentencePiece; here only the model does, as in the original. If two segmentations of a word are
    equally probable, the `sentencepiece` package may choose the other one.

    Args:
        folder: the folder with the files.
        lowercase: True or False overrides the folder; None reads it from the folder.
        strip_accents: likewise; the folder may leave it open: then the value of `lowercase`.
        split_cjk: likewise, whether each CJK ideograph is a word.

    Raises:
        FileNotFoundError: no such folder (nothing is downloaded), or it has none of these files.
        ValueError: a file is damaged, or needs a step that the tokenizer does not have; a setting
            is given for a tokenizer without this step, such as SentencePiece.

    Example::

        tokenizer = load_pretrained_tokenizer("bert-base-multilingual-cased")
    """
    place = pathlib.Path(folder)
    given = _given(lowercase=lowercase, strip_accents=strip_accents, split_cjk=split_cjk)
    if place.is_file():
        raise ValueError(
            f"Expected a folder, such as {str(place.parent)!r}. Received: the file "
            f"{str(place)!r}. A file alone is read by `from_file` of a tokenizer's class, such "
            "as `BertTokenizer`."
        )
    if not place.is_dir():
        raise FileNotFoundError(
            f"Expected a folder on this disk. Received: {str(place)!r}, not a folder. Nothing is "
            f"downloaded: fetch a published model first, e.g. by `hf download {place} --local-dir "
            "FOLDER` (of huggingface_hub), and give that FOLDER."
        )
    place = transformer_folder(place)
    if (place / DESCRIPTION).is_file():
        tokenizer = _with_settings(load_tokenizer(place), given)
    else:
        tokenizer = _load(place, given)
    if tokenizer.max_length is None:
        config = _optional_json(place / TOKENIZER_CONFIG)
        tokenizer.max_length = longest_row(place, config)
    return tokenizer


def _load(folder, given):
    """The tokenizer of a folder in the format of other libraries."""
    fast = _optional_json(folder / "tokenizer.json")
    config, special = (_optional_json(folder / name) for name in (TOKENIZER_CONFIG, SPECIAL_MAP))
    model = model_file(folder)
    fast, lowers = _without_lowercase(fast)
    lowers = lowers or lowers_texts(folder)
    byte_pair = model is None and is_byte_pair(folder, fast)
    unigram = model is None and is_unigram(fast)
    if lowers and (byte_pair or unigram or model is not None):
        raise ValueError(
            "This tokenizer normalizes by its own rules. Received: `do_lower_case` in the "
            f"sentence_*_config.json of {str(folder)!r}, or Lowercase in its tokenizer.json; lower "
            "the text before the tokenizer, and remove it there."
        )
    if byte_pair:
        return _with_settings(load_byte_pair(folder, fast, config, special), given)
    pieces = unigram or model is not None
    xlm_r = pieces and is_xlm_r(config, special, _optional_json(folder / "config.json"))
    if not xlm_r:
        _check_special_tokens(config, TOKENIZER_CONFIG)
        _check_special_tokens(special, SPECIAL_MAP)
    if model is not None:
        return _with_settings(load_sentence_piece(model, config, special, xlm_r), given)
    if unigram:
        return _with_settings(load_unigram(fast, xlm_r), given)
    if fast:
        vocabulary = _fast_vocabulary(fast)
    elif (folder / "vocab.txt").is_file():
        _check_class(config, _optional_json(folder / "config.json"))
        vocabulary = read_lines(folder / "vocab.txt")
        vocabulary = _with_added(vocabulary, added_beside(folder, config, special))
    else:
        raise FileNotFoundError(
            "Expected tokenizer.json, vocab.txt or a SentencePiece model, or vocab.json and "
            f"merges.txt, in {str(folder)!r}."
        )
    has_config = (folder / TOKENIZER_CONFIG).is_file()
    settings = _settings(config, has_config, fast)
    if lowers and not settings["lowercase"]:
        settings |= {"lowercase": True, "strip_accents": bool(settings["strip_accents"])}
    settings |= given
    if has_config or fast:
        said = {name: settings[name] for name in ("lowercase", "strip_accents")}
        warn_of_lost_words(vocabulary, folder, **said, given=given)
    else:
        said = {"lowercase": True} if lowers else {}
        said = {name: {**said, **given}.get(name) for name in ("lowercase", "strip_accents")}
        settings |= decide(vocabulary, folder / "vocab.txt", **said)
    return BertTokenizer(vocabulary, **settings)


def _given(**settings):
    """The settings that are not None."""
    for name, value in settings.items():
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"Expected True, False or None as `{name}`. Received: {value!r}.")
    return {name: value for name, value in settings.items() if value is not None}


def _with_settings(tokenizer, given):
    """The tokenizer, or one of the same vocabulary with other settings."""
    config = tokenizer.get_config()
    unknown = sorted(set(given) - set(config))
    if unknown:
        raise ValueError(
            f"A {type(tokenizer).__name__} has no step {', '.join(unknown)}. Received: {given}. "
            "Change the texts before the tokenizer, and do not pass the setting."
        )
    if not given:
        return tokenizer
    return type(tokenizer).from_vocabulary_bytes(tokenizer.vocabulary_bytes(), {**config, **given})


def _check_special_tokens(config, where):
    """Refuses special tokens with other names than BERT's, because the names are used to find
    them."""
    for role, token in PUBLISHED_ROLES.items():
        given = config.get(role)
        given = given.get("content") if isinstance(given, dict) else given
        if given not in (None, token):
            raise ValueError(
                f"Expected {role}={token!r} in {where}. Received: {given!r}. A WordPiece "
                "tokenizer whose special tokens have BERT's names is a BertTokenizer(vocabulary)."
            )


def _optional_json(path):
    return read_json(path) if path.is_file() else {}


def _fast_vocabulary(fast):
    """The tokens of a `tokenizer.json`, with the added special ones."""
    model, added = _part(fast, "model"), fast.get("added_tokens") or []
    expected = {
        "type": "WordPiece",
        "continuing_subword_prefix": "##",
        "unk_token": BERT_TOKENS["unknown_id"],
        "max_input_chars_per_word": 100,
    }
    _check(model, expected, "model")
    ids = model.get("vocab")
    if not isinstance(ids, dict) or not isinstance(added, list):
        raise ValueError("tokenizer.json is damaged: its model has no vocabulary.")
    return in_order(ids, added, BERT_TOKENS.values())


def _with_added(vocabulary, added):
    ids = dict(zip(vocabulary, range(len(vocabulary))))
    if not added or len(ids) != len(vocabulary):
        return vocabulary
    return in_order(ids, added, BERT_TOKENS.values())


def _check_class(*configs):
    """Refuses tokenizers that read a `vocab.txt` in another way, such as Japanese BERT's."""
    for config in configs:
        name = _class_name(config)
        if name is not None and name not in READ_ALIKE:
            raise ValueError(
                f"Expected tokenizer_class to be one of {', '.join(READ_ALIKE)}. Received: "
                f"{name!r}, which cuts words in another way."
            )


def _class_name(config):
    name = config.get("tokenizer_class")
    return name.removesuffix("Fast") if isinstance(name, str) else name


def _settings(config, has_config, fast):
    """Arguments of `BertTokenizer` from `tokenizer_config.json`, which may lack some of them, and
    `tokenizer.json`."""
    expected = {"do_basic_tokenize": True, "word_tokenizer_type": None}
    _check(config, {**expected, "subword_tokenizer_type": None}, "tokenizer_config.json")
    if config.get("never_split"):
        raise ValueError(
            "Expected never_split in tokenizer_config.json to be empty. Received: "
            f"{config['never_split']!r}."
        )
    settings = {"lowercase": True, "strip_accents": None, "split_cjk": True}
    normalizer = _part(fast, "normalizer") if fast else {}
    if fast:
        _check(normalizer, {"type": "BertNormalizer", "clean_text": True}, "normalizer")
        _check(_part(fast, "pre_tokenizer"), {"type": "BertPreTokenizer"}, "pre_tokenizer")
    as_it_stands = bool(fast) and _class_name(config) in AS_IT_STANDS
    for argument, config_name in PUBLISHED_SETTINGS.items():
        value = config.get(config_name, settings[argument])
        if as_it_stands or not has_config:
            value = normalizer.get(NORMALIZER[argument], settings[argument])
        if not isinstance(value, bool) and (value is not None or argument != "strip_accents"):
            raise ValueError(f"Expected true or false as {config_name!r}. Received: {value!r}.")
        settings[argument] = value
    return settings


def _without_lowercase(fast):
    """A `tokenizer.json` without the step that sentence-transformers puts before BERT's normalizer
    for its `do_lower_case`, and whether it had that step."""
    steps = fast.get("normalizer")
    steps = steps.get("normalizers") if isinstance(steps, dict) else None
    if not isinstance(steps, list) or len(steps) != 2 or steps[0] != {"type": "Lowercase"}:
        return fast, False
    return {**fast, "normalizer": steps[1]}, True


def _part(fast, name):
    part = fast.get(name)
    if not isinstance(part, dict):
        raise ValueError(f"Expected a BERT tokenizer. Received: {name}={part!r} in tokenizer.json.")
    return part


def _check(part, expected, where):
    """Refuses settings other than the fixed ones of BERT's tokenizer."""
    for name, value in expected.items():
        found = part.get(name, value)
        if found != value:
            raise ValueError(f"Expected {name}={value!r} in {where}. Received: {found!r}.")
