"""Packs questions and contexts for BERT.

B batch, R windows, T length, Q pieces of a question, C pieces of a context
"""

from collections.abc import Mapping

import tensorflow as tf

from keras_xfmr.common.checks import check_choice, check_int
from keras_xfmr.common.types import ArrayLike, Tensor, Texts
from keras_xfmr.text.packers.sentences import SentencePacker
from keras_xfmr.text.packers.windows import cut_windows
from keras_xfmr.text.ragged import take_first
from keras_xfmr.text.tokenizers.base import Tokenizer
from keras_xfmr.text.words import BLANKS, as_utf8


class QuestionPacker(tf.Module):
    """Packs questions with contexts of any length, in overlapping windows, in graph.

        token_ids       [CLS] who ? [SEP] ann runs [SEP]
        token_ids       [CLS] who ? [SEP] runs far [SEP]

    A context of C pieces is split into windows of M = max_length - 3 - Q pieces; each begins
    `stride` pieces after the one before (Devlin et al. 2019, section 4.2, as in its code). There
    are 1 + ceil((C - M) / stride) windows, and no piece of a context is lost unless `pack` has
    `max_windows`.

    Args:
        tokenizer: a `BertTokenizer` or `SentencePieceTokenizer`; both return the positions of their
            pieces in a text.
        max_length: pieces of the longest window, special tokens included.
        stride: pieces between the beginnings of two windows.
        max_question_length: a longer question loses its end.
        pad_to_max_length: whether every batch has the length `max_length`. Otherwise its longest
            row decides.
        pad_to_multiple_of: None, or a divisor of `max_length`: the length of a batch is rounded up
            to a multiple of it. A GPU computes half precision faster in multiples of 8, and a
            compiled step has fewer shapes.
        type_vocab_size: number of segment types of the model; with 1, both texts have segment 0.
        on_bad_answer: for a row whose answer is not at `answer_start`: `"raise"` raises an error;
            `"skip"` leaves the row out and counts it in `skipped`.

    Raises:
        ValueError: a tokenizer without offsets, an unknown `on_bad_answer`, a `max_length` that is
            not a multiple, or a stride that would leave out pieces.

    Example:

    >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "who", "?", "ann", "runs", "far"]
    >>> packer = QuestionPacker(
    ...     keras_xfmr.text.BertTokenizer(words), max_length=7, stride=1, max_question_length=2
    ... )
    >>> packed = packer(["who?"], ["ann runs far"], answer=["far"], answer_start=[9])
    >>> packed["token_ids"].numpy().tolist()
    [[2, 5, 6, 3, 7, 8, 3], [2, 5, 6, 3, 8, 9, 3]]
    >>> packed["start"].numpy().tolist(), packed["end"].numpy().tolist()
    ([0, 5], [0, 5])
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_length: int = 384,
        *,
        stride: int = 128,
        max_question_length: int = 64,
        pad_to_max_length: bool = False,
        pad_to_multiple_of: int | None = None,
        type_vocab_size: int = 2,
        on_bad_answer: str = "raise",
    ) -> None:
        super().__init__()
        check_choice("on_bad_answer", on_bad_answer, ("raise", "skip"))
        if not hasattr(tokenizer, "tokenize_with_offsets"):
            raise ValueError(
                "Expected a BertTokenizer or SentencePieceTokenizer, which return the positions "
                f"of their pieces. Received: {type(tokenizer).__name__}."
            )
        check_int("max_length", max_length)
        check_int("max_question_length", max_question_length, 1)
        check_int("stride", stride, 1)
        smallest = max_length - 3 - max_question_length  # pieces of a context in a window
        if stride > smallest:
            raise ValueError(
                "`stride` must lie in 1 .. max_length - 3 - max_question_length, or pieces of a "
                f"context would be in no window. Received: max_length={max_length}, "
                f"max_question_length={max_question_length}, stride={stride}."
            )
        self.tokenizer, self.max_length = tokenizer, max_length
        self.stride, self.max_question_length = stride, max_question_length
        self._packer = SentencePacker(
            tokenizer,
            max_length,
            pad_to_max_length=pad_to_max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            type_vocab_size=type_vocab_size,
        )
        self.type_vocab_size = self._packer.type_vocab_size
        self._skipped = None
        if on_bad_answer == "skip":
            with tf.device("CPU"):
                self._skipped = tf.Variable(0, dtype=tf.int64, trainable=False)

    @property
    def skipped(self) -> int:
        """Number of rows left out since the packer was created, in all epochs."""
        return 0 if self._skipped is None else int(self._skipped.numpy())

    @tf.autograph.experimental.do_not_convert
    def __call__(
        self,
        question: Texts,
        context: Texts,
        *,
        answer: Texts | None = None,
        answer_start: ArrayLike | None = None,
    ) -> dict[str, Tensor]:
        """Packs questions with their contexts.

        Args:
            question, context: strings `[B]`.
            answer: strings `[B]`, parts of the contexts; empty if a context has no answer.
            answer_start: integers `[B]`, the character of the context at which the answer begins,
                as in SQuAD. Ignored for empty answers.

        Returns:
            A dictionary of `token_ids`, `segment_ids` and `attention_mask`, int32 `[R, T]`, R >= B,
            the windows of one context after the other; `row`, int32 `[R]`, the index of the row
            (of B) of each window; with an answer also `start` and `end`, int32 `[R]`, the positions
            of its first and last piece, and 0, the position of `[CLS]`, in windows without the
            whole answer. Rows that are left out have no windows.

        Raises:
            ValueError: one of `answer` and `answer_start` without the other.
            tf.errors.InvalidArgumentError: an answer is not at `answer_start`, and `on_bad_answer`
                is `"raise"`.
        """
        if (answer is None) != (answer_start is None):
            raise ValueError("Pass `answer` and `answer_start` together, or neither.")
        kept = None
        if answer is not None:
            context, answer = as_utf8(context), as_utf8(answer)
            rows = question, context, answer, tf.cast(answer_start, tf.int64)
            kept, question, context, answer, answer_start = self._standing(*rows)
        packed = self.pack(question, context)
        inputs = {name: packed[name] for name in ("token_ids", "segment_ids", "attention_mask")}
        inputs["row"] = packed["row"] if kept is None else tf.gather(kept, packed["row"])
        if answer is not None:
            inputs["start"], inputs["end"] = self._labels(packed, context, answer, answer_start)
        return inputs

    @tf.autograph.experimental.do_not_convert
    def pack(
        self, question: Texts, context: Texts, *, max_windows: int | None = None
    ) -> dict[str, Tensor]:
        """The windows, with what `answers` needs to find the text of a position.

        Args:
            question, context: strings `[B]`.
            max_windows: maximum number of windows of a context; the rest of it is left out. None:
                no limit.

        Returns:
            The outputs of `__call__` without an answer; `context_start`, int32 `[R]`, the position
            of the first piece of context in a window; `first_piece`, int32 `[R]`, the index of that
            piece in the context; `in_context`, bool `[R, T]`, True at pieces of the context;
            `windows`, int64 `[B]`, the number of windows; `starts` and `ends`, ragged int64
            `[B, (C)]`, the positions of the pieces in the context, in bytes; `truncated`, bool
            `[B]`, whether the question was cut; `context_truncated`, bool `[B]`, whether the end of
            the context is in no window.
        """
        questions = self.tokenizer.tokenize(question)
        asked = tf.minimum(questions.row_lengths(), self.max_question_length)
        truncated = asked < questions.row_lengths()
        questions = take_first(questions, asked)
        ids, starts, ends = self.tokenizer.tokenize_with_offsets(as_utf8(context))
        tf.debugging.assert_equal(
            questions.nrows(), ids.nrows(), "Expected a context for each question."
        )
        windows = cut_windows(ids, self.max_length - 3 - asked, self.stride, max_windows)
        row = windows.row
        packed = self._packer.pack_ids(tf.gather(questions, row), windows.ids)
        return packed | {
            "in_context": context_mask(packed),
            "row": row,
            "context_start": tf.cast(tf.gather(asked, row), tf.int32) + 2,
            "first_piece": tf.cast(windows.first, tf.int32),
            "windows": windows.count,
            "starts": starts,
            "ends": ends,
            "truncated": truncated,
            "context_truncated": windows.cut,
        }

    def answers(
        self,
        packed: Mapping[str, Tensor],
        context: Texts,
        first: Tensor,
        last: Tensor,
        scores: Tensor,
    ) -> dict[str, Tensor]:
        """The text of the answers that a model found, copied from their contexts.

        Args:
            packed: the result of `pack` for these contexts.
            context: strings `[B]`.
            first, last: integers `[R]`, the positions of the best span of each window, from
                `models.best_spans`. Ignored for a window without context.
            scores: `[R]`; the window with the highest score gives the answer of a context.

        Returns:
            A dictionary of `answer`, strings `[B]`, empty for an empty context; `start` and `end`,
            int32 `[B]`, its position in characters of the context (a byte that is not UTF-8 counts
            as the character U+FFFD); `window`, int64 `[B]`, the row of the inputs with the answer.

        Example:

        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "who", "?", "ann", "runs", "far"]
        >>> packer = QuestionPacker(
        ...     keras_xfmr.text.BertTokenizer(words), max_length=7, stride=1, max_question_length=2
        ... )
        >>> packed = packer.pack(["who?"], ["Ann runs far"])  # in two windows of two words
        >>> found = packer.answers(packed, ["Ann runs far"], [4, 5], [4, 5], [0.1, 0.9])
        >>> found["answer"].numpy().tolist(), int(found["start"][0])
        ([b'far'], 9)
        """
        context, scores = as_utf8(context), tf.convert_to_tensor(scores)
        scores = tf.RaggedTensor.from_row_lengths(scores, packed["windows"])
        scores = tf.pad(  # by a column, because a batch without contexts has none
            scores.to_tensor(least := scores.dtype.min), [[0, 0], [0, 1]], constant_values=least
        )
        window = tf.cumsum(packed["windows"], exclusive=True) + tf.argmax(scores, axis=1)
        there = tf.gather(tf.reduce_any(packed["in_context"], axis=1), window)
        shift = tf.gather(packed["first_piece"] - packed["context_start"], window)
        first, last = (
            tf.where(there, tf.gather(tf.cast(place, tf.int32), window) + shift, -1)
            for place in (first, last)
        )
        begin, behind = _at(packed["starts"], first), _at(packed["ends"], last)
        answer = tf.strings.substr(context, begin, behind - begin)
        word = tf.strings.regex_replace(answer, f"^{BLANKS}", "")
        begin += tf.cast(tf.strings.length(answer) - tf.strings.length(word), tf.int64)
        answer = tf.strings.regex_replace(word, f"{BLANKS}$", "")
        start = _characters(tf.strings.substr(context, tf.zeros_like(begin), begin))
        return {
            "answer": answer,
            "start": start,
            "end": start + _characters(answer),
            "window": window,
        }

    def _standing(self, question, context, answer, answer_start):
        """The rows whose answer is at `answer_start`, int32 `[K]`, and their arguments."""
        answer_start = tf.where(answer == "", tf.zeros_like(answer_start), answer_start)
        size = tf.cast(_characters(context), tf.int64)
        place = tf.cast(tf.clip_by_value(answer_start, 0, size), tf.int32)  # substr fails elsewhere
        stands = tf.strings.substr(context, place, _characters(answer), unit="UTF8_CHAR")
        good = (stands == answer) & (answer_start == tf.cast(place, tf.int64))
        kept = tf.cast(tf.where(good)[:, 0], tf.int32)
        if self._skipped is None:
            message = (
                "Expected answers that stand at the character `answer_start`, from 0. Mend these "
                "rows, or pass on_bad_answer='skip' to leave them out and count them: rows"
            )
            bad = tf.where(~good)[:, 0]
            check = tf.debugging.Assert(tf.reduce_all(good), [message, bad], summarize=7)
            with tf.control_dependencies([check]):
                return tf.identity(kept), question, context, answer, place
        self._skipped.assign_add(tf.math.count_nonzero(~good))
        return kept, *(tf.gather(part, kept) for part in (question, context, answer, place))

    def _labels(self, packed, context, answer, answer_start):
        before = tf.strings.substr(
            context, tf.zeros_like(answer_start), answer_start, unit="UTF8_CHAR"
        )
        begin = tf.cast(tf.strings.length(before), tf.int64)
        behind = begin + tf.cast(tf.strings.length(answer), tf.int64)
        # Its pieces end after its first byte and start before its last byte.
        first = _count(packed["ends"] <= begin[:, None])
        last = _count(packed["starts"] < behind[:, None]) - 1
        shift, row = packed["context_start"] - packed["first_piece"], packed["row"]
        start, end = (tf.gather(place, row) + shift for place in (first, last))
        final = tf.reduce_sum(packed["attention_mask"], axis=1) - 1  # the [SEP] at the end
        inside = (start >= packed["context_start"]) & (end < final) & (start <= end)
        inside &= tf.gather(answer != "", row)
        return tf.where(inside, start, 0), tf.where(inside, end, 0)


def context_mask(inputs):
    """Marks the second text, without the `[SEP]` at its end.

    The second text is segment 1. In a row with one segment, it begins after the first `[SEP]`, the
    same token as at the end of the row.

    Args:
        inputs: a model's `token_ids`, `segment_ids` and `attention_mask`, `[R, T]`.

    Returns:
        bool `[R, T]`.
    """
    ids, segments = inputs["token_ids"], inputs["segment_ids"]
    last = tf.reduce_sum(inputs["attention_mask"], axis=1, keepdims=True) - 1
    place = tf.range(tf.shape(ids)[1])
    end = tf.gather(ids, tf.maximum(last, 0), axis=1, batch_dims=1)
    # A start token may be the end token, too.
    behind = tf.cumsum(tf.cast((ids == end) & (place > 0), tf.int32), axis=1, exclusive=True) > 0
    second = tf.where(tf.reduce_any(segments > 0, axis=1, keepdims=True), segments > 0, behind)
    return second & (place < last)


def _at(offsets, index):
    """`offsets[b, index[b]]`, 0 if there is no such piece."""
    padded = tf.pad(offsets.to_tensor(), [[0, 0], [0, 1]])
    return tf.where(index >= 0, tf.gather(padded, tf.maximum(index, 0), batch_dims=1), 0)


def _characters(strings):
    return tf.strings.length(strings, unit="UTF8_CHAR")


def _count(ragged):
    return tf.reduce_sum(tf.cast(ragged, tf.int32), axis=1)
