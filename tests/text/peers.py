"""Published tokenizers as the `tokenizers` and `sentencepiece` packages make them."""

import io

import hostile
import tensorflow as tf
from sentences import SENTENCES

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
KOBERT = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]


def normalizer(peer, lowercase, strip_accents=None, split_cjk=True):
    return peer.normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=split_cjk
    )


def ids_of(tokenizer, sentences):
    rows = []
    for start in range(0, len(sentences), 2048):
        rows += tokenizer.tokenize(tf.constant(sentences[start : start + 2048])).to_list()
    return rows


def peer_ids(reference, sentences):
    reference.encode_special_tokens = True  # "[MASK]" in a text is text
    reference.no_truncation()
    reference.no_padding()
    return [e.ids for e in reference.encode_batch(sentences, add_special_tokens=False)]


def word_piece(peer):
    """A cased WordPiece model by the peer, learned from strings as hostile as those compared."""
    tokenizer = peer.Tokenizer(peer.models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizer(peer, False)
    tokenizer.pre_tokenizer = peer.pre_tokenizers.BertPreTokenizer()
    trainer = peer.trainers.WordPieceTrainer(
        vocab_size=30011, special_tokens=BERT, show_progress=False
    )
    # Cut: a token of more than 256 bytes is refused.
    strings = [string[:41] for string in hostile.strings(5003, seed=3)]
    tokenizer.train_from_iterator([*SENTENCES, *strings], trainer)
    return tokenizer


def tokens_of(reference):
    return sorted(reference.get_vocab(), key=reference.get_vocab().get)


def xlm_r(peer):
    """A model with the special tokens of XLM-R, `<unk>`, `<s>` and `</s>`."""
    model = io.BytesIO()
    peer.set_min_log_level(1)
    peer.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 3), model_writer=model, vocab_size=83
    )
    return model.getvalue()


def kobert(peer):
    """A model with KoBERT's order of special tokens; it reads "[MASK]" in a text as its own."""
    model = io.BytesIO()
    if hasattr(peer, "set_min_log_level"):  # since 0.2.1
        peer.set_min_log_level(1)
    peer.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 3),
        model_writer=model,
        vocab_size=97,
        model_type="bpe",
        user_defined_symbols=["[MASK]"],
        **{"unk_id": 0, "pad_id": 1, "bos_id": 2, "eos_id": 3},
        **{"unk_piece": "[UNK]", "pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]"},
    )
    return model.getvalue()
