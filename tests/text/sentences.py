"""Sentences that the tests of this folder learn from, and what they compare."""

import tensorflow as tf

SPECIAL = ["[PAD]", "[UNK]", "[START]", "[END]"]
SENTENCES = (
    "the quick brown fox jumps over the lazy dog",
    "The dogs were jumping, the foxes weren't!",
    "안녕하세요 세계",
    "오늘은 2024년 3월 5일 화요일입니다",
    "naïve café, déjà vu; Jörg aß Brötchen",
    "東京へ行く 2024年3月",
    "smile 🙂 and 👩‍🚀",
)
CASES = (*SENTENCES, "", "x", "안", "é", "🙂")


def corpus():
    return tf.data.Dataset.from_tensor_slices(list(SENTENCES * 3))


def strings(tensor):
    return [value.decode("utf8") for value in tensor.numpy()]


def same_answers(one, other, texts=CASES):
    ids = one.encode(tf.constant(texts), start=True)
    assert other.encode(tf.constant(texts), start=True).to_list() == ids.to_list()
    assert strings(other.detokenize(ids)) == strings(one.detokenize(ids))
