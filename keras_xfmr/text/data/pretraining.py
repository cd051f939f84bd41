"""Text files to batches for BERT's pretraining, streaming.

B batch, T max_length, P max_predictions, V vocab_size
"""

import math

import numpy as np
import tensorflow as tf

from keras_xfmr.common.checks import check_int, check_seed
from keras_xfmr.common.types import Files
from keras_xfmr.text.checks import check_shuffle_buffer
from keras_xfmr.text.data.documents import Documents
from keras_xfmr.text.data.epochs import Epochs
from keras_xfmr.text.data.instances import (
    Chunk,
    make_instances,
    next_sentence,
    one_sequence,
    pack,
    sentence_order,
    truncate,
)
from keras_xfmr.text.data.masking import mask_tokens
from keras_xfmr.text.data.packing import pack_documents
from keras_xfmr.text.data.streaming import rows_where
from keras_xfmr.text.ragged import owners
from keras_xfmr.text.tokenizers.base import Tokenizer

CHUNK = 128  # documents in one call that makes instances
ROWS = ("token_ids", "segment_ids", "attention_mask")  # the parts of a row before masking
STEPS = {"nsp": next_sentence, "sop": sentence_order, None: one_sequence}


class PretrainingDataset(Epochs):
    """A `tf.data` pipeline from text files to batches for masked language modelling and next
    sentence prediction (Devlin et al. 2019, section 3.1 and appendix A.2).

    Documents -> shuffle -> tokenize, make instances and mask them, 128 documents at a time on all
    cores -> batches of static shapes, prefetched. Each epoch has new pairs and masks; everything is
    a function of `(seed, epoch)` alone. Memory does not grow with the files.

    An element is `(inputs, labels, weights)`; Keras multiplies the losses and the
    `weighted_metrics` by the weights:

    - inputs, int32: `token_ids`, `segment_ids`, `attention_mask` `[B, T]`, and `masked_positions`
      `[B, P]`, rising, then 0;
    - labels, int32: `mlm` `[B, P]`, the ids at these positions, then `pad_id`; `nsp` `[B]`, unless
      `objective` is None;
    - weights, float32: `mlm` `[B, P]`, 1 for predictions; `nsp` `[B]`, 1 if the label has a
      meaning. The last batch is filled with rows of padding, all weights 0.

    Segments are gathered as in google-research/bert (see `next_sentence`, `sentence_order` and
    `one_sequence` in `keras_xfmr.text.data.instances`), with these differences: the short length is
    drawn for each instance, so `short_rate` is the share of short instances; a segment longer than
    an instance is split into several, so that nothing is lost; B comes from one of the 128
    documents of the same call; 10 % of the chosen tokens become a random id that is not special;
    `mask_rate` is a share of the tokens of the text.

    Each epoch makes new instances, so their number varies a little. After `count()` every epoch has
    the number of batches of the first one, as `fit` expects: a longer one is cut, a shorter one
    continues with batches of the next.

    Args:
        files: text files, as in `Documents`.
        tokenizer: a `keras_xfmr.text.Tokenizer` with a `mask_id`. Its `start_id` is [CLS], its
            `end_id` is [SEP].
        max_length: T, at least 5.
        batch_size: B, the rows of all workers together.
        max_predictions: P; `mask_rate * max_length` rounded up by default, 20 for 128.
        mask_rate: share of the tokens to predict, in (0, 1].
        whole_word: whether the pieces of a word are chosen together.
        objective: `"nsp"`, next sentence prediction (0: B follows A, 1: B is from another
            document); `"sop"`, sentence order prediction (1: A and B are swapped), its label under
            the name `nsp` too; None, one sequence of whole segments and no such label.
        document_ids: whether several instances share a row, as in `pack_documents`; inputs then
            have `document_ids` `[B, T]`, 1, 2, ... and 0 for padding, for a model with
            `packed=True`. `objective` must be None. P is the number of predictions of a row.
        short_rate: share of instances with a random length, in [0, 1].
        shuffle_buffer: number of documents (parts of long ones) in the shuffle buffer, at most
            10^8; 0 keeps the order of the files.
        seed: an integer in 0 .. 2^31 - 1.
        **reading: `heading`, `sentence_split`, `line_documents`, `on_bad_line`, as in `Documents`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: invalid arguments, files that `Documents` refuses, a tokenizer without a mask
            token.
        tf.errors.InvalidArgumentError: from the iterator, a bad line, or no second document for
            `"nsp"`.

    Example::

        data = PretrainingDataset("corpus.txt", tokenizer, max_length=128, batch_size=32)
        data.count()  # every epoch then has this number of batches
        model.fit(data.dataset(), epochs=10, shuffle=False)
    """

    def __init__(
        self,
        files: Files,
        tokenizer: Tokenizer,
        *,
        max_length: int = 128,
        batch_size: int = 32,
        max_predictions: int | None = None,
        mask_rate: float = 0.15,
        whole_word: bool = False,
        objective: str | None = "nsp",
        document_ids: bool = False,
        short_rate: float = 0.1,
        shuffle_buffer: int = 5_000,
        seed: int = 0,
        **reading,
    ) -> None:
        super().__init__(batch_size)
        if not 0 < mask_rate <= 1 or not 0 <= short_rate <= 1:
            raise ValueError(
                "`mask_rate` must lie in (0, 1] and `short_rate` in [0, 1]. "
                f"Received: {mask_rate!r} and {short_rate!r}."
            )
        if objective not in STEPS:
            raise ValueError(f"`objective` must be 'nsp', 'sop' or None. Received: {objective!r}.")
        if document_ids and objective is not None:
            raise ValueError(
                "Rows of several documents have no label of their own: `document_ids` needs "
                f"objective=None. Received: objective={objective!r}."
            )
        check_int("max_length", max_length, 5)
        if max_predictions is None:
            max_predictions = math.ceil(mask_rate * max_length)
        check_int("max_predictions", max_predictions, 1)
        check_shuffle_buffer(shuffle_buffer)
        check_seed(seed)
        if getattr(tokenizer, "mask_id", None) is None:
            raise ValueError(
                "Masked language modelling needs a tokenizer whose vocabulary has a mask token "
                f"([MASK]). Received: {type(tokenizer).__name__} with mask_id=None."
            )
        self._documents = Documents(files, **reading)
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._max_predictions, self._mask_rate = max_predictions, mask_rate
        self._objective, self._short_rate = objective, short_rate
        self._document_ids = document_ids
        self._shuffle_buffer, self._seed = shuffle_buffer, seed
        self._size = max_length - (2 if objective is None else 3)  # tokens of text
        self._continuations = np.asarray(tokenizer.continuations()) if whole_word else None
        self._is_special = np.zeros(tokenizer.vocab_size, bool)
        self._is_special[list(tokenizer.special_ids)] = True
        with tf.device("CPU"):
            self._empty = tf.Variable(0, dtype=tf.int64, trainable=False)

    # ---- counts

    @property
    def skipped(self) -> dict[str, int]:
        """Counts of what the last iteration left out: blank, heading and bad lines, segments
        without a token."""
        return {**self._documents.skipped, "empty": int(self._empty.numpy())}

    # ---- the pipeline

    def _reset(self):
        self._documents.reset()
        self._empty.assign(0)

    def _batches_of(self, epoch):
        if self._count is None:
            return self._batches(epoch)
        both = tf.data.Dataset.range(epoch, epoch + 2)
        return both.flat_map(self._batches).take(self._count)

    def _make_batches(self, epoch):
        """The instances of an epoch; their last batch may be smaller."""
        seed = tf.random.fold_in(tf.constant([self._seed, 0], tf.int64), epoch)
        parts = self._documents.parts()
        if self._shuffle_buffer:
            # Local to this data set's graph: otherwise a global seed would change the order.
            tf.random.set_seed(1)
            # Not the first half of the seed, which is the same in each epoch.
            order = tf.random.split(seed, 1)[0, 0]
            parts = parts.shuffle(self._shuffle_buffer, order, reshuffle_each_iteration=False)
        chunks = _without_a_small_one(parts.ragged_batch(CHUNK))
        rows = chunks.enumerate().map(
            lambda index, chunk: self._instances(*chunk, tf.random.fold_in(seed, index)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        if not self._document_ids:
            return rows.rebatch(self._batch_size)
        size, length = self._batch_size, self._max_length
        rows = pack_documents(
            rows, size, length, documents=size * length, pad_id=self._tokenizer.pad_id
        )
        mask = tf.random.split(seed, 3)[2]
        return rows.enumerate().map(
            lambda index, rows: self._mask_packed(rows, tf.random.fold_in(mask, index)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    def _mask_packed(self, rows, seed):
        """A batch of packed instances, masked; removes empty rows at the end of an epoch."""
        begun = rows["document_ids"][:, 0] > 0
        rows = {name: tf.boolean_mask(rows[name], begun) for name in (*ROWS, "document_ids")}
        return {**rows, **self._mask(rows["token_ids"], rows["attention_mask"] > 0, seed)}

    def _mask(self, token_ids, is_text, seed):
        """The inputs that masking changes or adds, and the labels."""
        continues = None
        if self._continuations is not None:
            continues = tf.gather(tf.constant(self._continuations), token_ids)
        token_ids, positions, labels = mask_tokens(
            token_ids,
            is_text & ~tf.gather(tf.constant(self._is_special), token_ids),
            seed,
            mask_id=self._tokenizer.mask_id,
            replacements=np.flatnonzero(~self._is_special),
            max_predictions=self._max_predictions,
            mask_rate=self._mask_rate,
            continues=continues,
            pad_id=self._tokenizer.pad_id,
        )
        return {"token_ids": token_ids, "masked_positions": positions, "mlm": labels}

    def _instances(self, segments, lengths, document, seed):
        """A chunk of documents to instances, masked unless they are packed later."""
        where, cut, mask, order = tf.unstack(tf.random.split(seed, 4))
        chunk = self._tokenize(segments, lengths, document)
        ranges = make_instances(
            chunk, STEPS[self._objective], where, size=self._size, short_rate=self._short_rate
        )
        if self._shuffle_buffer:
            shuffled = tf.argsort(tf.random.stateless_uniform(tf.shape(ranges.label), order))
            ranges = ranges._make(tf.gather(values, shuffled) for values in ranges)
        ranges = truncate(ranges, self._size, cut)
        ids = {name: getattr(self._tokenizer, name) for name in ("start_id", "end_id", "pad_id")}
        token_ids, segment_ids, inside, is_text = pack(
            chunk.tokens, ranges, self._max_length, **ids
        )
        rows = dict(zip(ROWS, (token_ids, segment_ids, inside)))
        if self._document_ids:
            return rows
        rows.update(self._mask(token_ids, is_text, mask))
        return {**rows, "nsp": ranges.label, "counts": ranges.counts}

    def _tokenize(self, segments, lengths, document):
        """The `Chunk` of these documents; segments longer than an instance are split."""
        tokens = self._tokenizer.tokenize(segments)
        sizes = tf.cast(tokens.row_lengths(), tf.int32)
        self._empty.assign_add(tf.reduce_sum(tf.cast(tf.equal(sizes, 0), tf.int64)))
        pieces = -(-sizes // self._size)
        segment = owners(pieces)
        before = tf.gather(tf.cumsum(pieces, exclusive=True), segment)  # pieces before the segment
        offset = (tf.range(tf.size(before)) - before) * self._size
        sizes = tf.minimum(tf.gather(sizes, segment) - offset, self._size)
        counts = tf.math.unsorted_segment_sum(pieces, owners(lengths), tf.size(document))
        last = tf.cumsum(counts)
        chunk = Chunk(
            tokens.flat_values,
            tf.pad(tf.cumsum(sizes), [[1, 0]]),
            *rows_where(counts > 0, last - counts, last, document),
        )
        if self._objective != "nsp":
            return chunk
        alone = tf.reduce_all(tf.equal(chunk.document, chunk.document[:1]))
        check = tf.debugging.Assert(~alone | tf.equal(tf.size(last), 0), [ONE_DOCUMENT])
        with tf.control_dependencies([check]):
            return chunk._replace(document=tf.identity(chunk.document))

    def _fill(self, rows, shard):
        self._rows.assign_add(shard.count(rows["token_ids"]))
        pad_id = self._tokenizer.pad_id

        def fill(name):
            return shard.take(rows[name], pad_id if name in ("token_ids", "mlm") else 0)

        inputs = (*ROWS, "masked_positions", *(["document_ids"] if self._document_ids else []))
        labels = {"mlm": fill("mlm")}
        weights = {"mlm": tf.cast(tf.not_equal(labels["mlm"], pad_id), tf.float32)}
        if self._objective is not None:
            labels["nsp"], weights["nsp"] = fill("nsp"), tf.cast(fill("counts"), tf.float32)
        return {name: fill(name) for name in inputs}, labels, weights


ONE_DOCUMENT = (
    "Next sentence prediction takes B from another document, but there is only one among the "
    f"{CHUNK} parts of documents that are made into instances together. If the files hold one "
    "document, pass objective='sop' or None, or divide it by blank lines, headings (`heading`) or "
    "lines (`line_documents`); if it is a long one among others, pass a larger `shuffle_buffer`."
)


def _without_a_small_one(chunks):
    """Chunks of documents as (all segments, segments of each document, numbers of the documents).
    A last chunk that is not full is joined with the one before it, so that each document has
    others in its chunk."""
    chunks = chunks.map(lambda texts, document: (texts.values, texts.row_lengths(), document))
    none = tuple(tf.constant([], kind) for kind in (tf.string, tf.int64, tf.int64))

    def hold(held, chunk):
        size = tf.size(chunk[2])
        joins = (size > 0) & (size < CHUNK)
        ends = [tf.where(joins, tf.size(values), 0) for values in chunk]
        ready = tuple(
            tf.concat([old, new[:end]], axis=0) for old, new, end in zip(held, chunk, ends)
        )
        return tuple(new[end:] for new, end in zip(chunk, ends)), ready

    chunks = chunks.concatenate(tf.data.Dataset.from_tensors(none)).scan(none, hold)
    return chunks.filter(lambda segments, lengths, document: tf.size(document) > 0)
