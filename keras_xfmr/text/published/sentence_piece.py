"""SentencePiece models of published folders: KoBERT's, and XLM-R's in the folder of a BERT."""

from keras_xfmr.common.files import read_bytes, read_lines
from keras_xfmr.text.published.unigram import unigram_of
from keras_xfmr.text.tokenizers.added_tokens import added_beside, in_order
from keras_xfmr.text.tokenizers.bert import BERT_TOKENS, bert_special_ids
from keras_xfmr.text.tokenizers.sentence_piece import SentencePieceTokenizer
from keras_xfmr.text.tokenizers.sentence_piece_model import NORMAL, read_model

FILES = ("spiece.model", "sentencepiece.model", "tokenizer_*.model", "*.model")
# The first pieces of a model of XLM-R. Its tokens in the order of their ids: those of fairseq, the
# other pieces, the mask.
XLM_R_PIECES = ["<unk>", "<s>", "</s>"]
XLM_R_BEGIN, XLM_R_MASK = ["<s>", "<pad>", "</s>", "<unk>"], "<mask>"
# Classes of transformers for which the names of the special tokens decide; not for other classes.
AS_NAMED = (
    "XLMRobertaTokenizer", "BertTokenizer", "PreTrainedTokenizer", "TokenizersBackend", "None",
)  # fmt: skip
XLM_R_ROLES = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
OURS = {
    "pad_id": "pad_token",
    "unknown_id": "unk_token",
    "start_id": "cls_token",
    "end_id": "sep_token",
    "mask_id": "mask_token",
}


def model_file(folder):
    """The SentencePiece model in a folder, or None.

    Raises:
        ValueError: there are several.
    """
    for pattern in FILES:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise ValueError(f"Expected one SentencePiece model. Received: {names}.")
        if found:
            return found[0]
    return None


def is_xlm_r(config, special, model):
    """Whether special tokens are XLM-R's, by the class of transformers or by their names.

    Args:
        config, special, model: the contents of `tokenizer_config.json`, `special_tokens_map.json`
            and `config.json`.
    """
    kind = str(config.get("tokenizer_class", model.get("tokenizer_class"))).removesuffix("Fast")
    if kind not in AS_NAMED or kind == AS_NAMED[0]:
        return kind == AS_NAMED[0]
    named = {role: _content({**special, **config}.get(role)) for role in XLM_R_ROLES}
    return named["mask_token"] == XLM_R_MASK and all(
        token in (None, XLM_R_ROLES[role]) for role, token in named.items()
    )


def load_unigram(fast, xlm_r):
    """The tokenizer of a `tokenizer.json` with a unigram model, with the ids of that file.

    Args:
        fast: the content of the file.
        xlm_r: whether special tokens are XLM-R's, else BERT's.

    Raises:
        ValueError: it is damaged, or splits texts in another way.
    """
    names = XLM_R_ROLES if xlm_r else BERT_TOKENS
    tokens, proto = unigram_of(fast, set(names.values()))
    ids = {token: index for index, token in enumerate(tokens)}
    added = fast.get("added_tokens") or []
    if not isinstance(added, list):
        raise ValueError("tokenizer.json is damaged: `added_tokens` is no list.")
    vocabulary = in_order(ids, added, names.values())
    if not xlm_r:
        return SentencePieceTokenizer(proto, vocabulary=vocabulary, **bert_special_ids(vocabulary))
    lacking = [token for token in dict.fromkeys(names.values()) if token not in vocabulary]
    if lacking:
        raise ValueError(f"Expected the tokens of XLM-R in tokenizer.json. Missing: {lacking}.")
    return SentencePieceTokenizer(
        proto,
        vocabulary=vocabulary,
        **{ours: vocabulary.index(XLM_R_ROLES[theirs]) for ours, theirs in OURS.items()},
    )


def _content(token):
    return token.get("content") if isinstance(token, dict) else token


def load_sentence_piece(path, config, special, xlm_r):
    """The tokenizer of a model: BERT's special tokens are found by their names, XLM-R's have the
    ids of fairseq.

    Args:
        path: the model. A `vocab.txt` beside it sets the ids of BERT's tokens.
        config, special: the contents of `tokenizer_config.json` and `special_tokens_map.json`.
        xlm_r: whether special tokens are XLM-R's.

    Raises:
        ValueError: a file is damaged, or needs a step that the tokenizer does not have.
    """
    if config.get("do_lower_case") and not xlm_r:  # a setting that XLM-R's tokenizer does not read
        raise ValueError(
            "A SentencePiece model normalizes by its own rules. Received: `do_lower_case` in "
            "tokenizer_config.json; lower the text before the tokenizer, and remove it there."
        )
    proto = read_bytes(path)
    pieces = read_model(proto).pieces
    if xlm_r:
        added = added_beside(path.parent, config, special)
        return _xlm_r(path, proto, [piece.text for piece in pieces], added)
    return _bert(path, proto, pieces)


def _xlm_r(path, proto, texts, added):
    begin = texts[: len(XLM_R_PIECES)]
    if begin != XLM_R_PIECES:
        raise ValueError(
            f"Expected {path.name} to begin with the pieces {XLM_R_PIECES}, as XLM-R's does. "
            f"Received: {begin}."
        )
    tokens = [*XLM_R_BEGIN, *texts[len(begin) :], XLM_R_MASK]
    ids = {token: index for index, token in enumerate(tokens)}
    return SentencePieceTokenizer(
        proto,
        vocabulary=in_order(ids, added, XLM_R_ROLES.values()),
        **{ours: ids[XLM_R_ROLES[theirs]] for ours, theirs in OURS.items()},
    )


def _bert(path, proto, pieces):
    vocabulary_path = path.with_name("vocab.txt")
    texts = [piece.text for piece in pieces]
    vocabulary = read_lines(vocabulary_path) if vocabulary_path.is_file() else texts
    if vocabulary == texts:
        return SentencePieceTokenizer(proto, **bert_special_ids(texts))
    known = set(vocabulary)
    normal = [piece.text for piece in pieces if piece.kind == NORMAL]
    missing = sum(text not in known for text in normal)
    if 2 * missing > len(normal):
        raise ValueError(
            f"Expected the pieces of {path.name} in {vocabulary_path.name}. Received: "
            f"{missing} of {len(normal)} missing."
        )
    ids = bert_special_ids(vocabulary)
    return SentencePieceTokenizer(proto, vocabulary=vocabulary, **ids)
