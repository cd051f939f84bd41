"""Text files to batches for two language models, one in each direction, streaming.

B batch, T block length, C characters of a word
"""

import tensorflow as tf

from keras_xfmr.common.checks import check_int
from keras_xfmr.common.types import Files
from keras_xfmr.text.characters import LEAST, sentence_markers, words_to_characters
from keras_xfmr.text.data.block_dataset import BlockDataset
from keras_xfmr.text.tokenizers.words import WordTokenizer

# The markers in the streams of words. No word is equal to them, because lines are UTF-8.
START, END = b"\xff<", b"\xff>"
OPENING, CLOSING = (START, END), (END, START)  # of a sentence, forward and backward
NOTHING = ""
IGNORED = -1


class BidirectionalLanguageModelDataset(BlockDataset):
    """A `tf.data` pipeline from text files to batches for `models.ElmoLanguageModel`.

    Each line is a sentence. Its words go to two streams, in reverse order in the second one:

        forward     start the dog barks end start ...
        backward    end barks dog the start end ...

    Both are cut into blocks of T words, at the same places, shuffled as pairs, and batched with
    static shapes. Everything is a function of `(seed, epoch)` alone. Memory does not grow with the
    files.

    An element is `(inputs, labels)`, int32:

    - inputs: `character_ids` and `reverse_character_ids`, `[B, T, C]`, of the forward and the
      backward stream, in the format of `words_to_characters`, also for words outside the
      vocabulary; with `characters=False` `token_ids` and `reverse_token_ids`, `[B, T]`;
    - labels: `forward` and `backward`, `[B, T]`: the id of the next word of the stream, for the
      last word of a block the first of the next block; -1 for padding and where the next word
      begins a new sentence.

    In an epoch each word is a label once in each direction; so is each end marker forward, and each
    start marker backward. The last block is filled with padding, and the last batch with rows of
    padding. A word such as `<S>` is a word, not a marker.

    With `contiguous=True`, for models that keep a state, row r of a batch continues in row r of the
    next, in both directions. Each sentence goes to the row with the fewest waiting words, in the
    order of the files. Rows that end before others are filled with padding.

    A line of more than 32 KiB is several sentences; blank lines and headings are left out.

    Args:
        files: text files, as `Documents` reads them.
        tokenizer: a `WordTokenizer`. It splits lines into words, and its ids are the labels.
        block_length: T.
        batch_size: B, the rows of all workers together.
        characters: whether inputs are characters instead of ids.
        max_characters: C, at least 3.
        contiguous: whether rows continue in the next batch.
        shuffle_buffer: number of blocks in the shuffle buffer, at most 10^8; 0 keeps the order of
            the files. None means 10,000, and 0 if `contiguous`.
        seed: an integer in 0 .. 2^31 - 1.
        heading, on_bad_line: as in `Documents`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: invalid arguments, files that `Documents` refuses.
        tf.errors.InvalidArgumentError: from the iterator, a line that is bad.

    Example::

        tokenizer = learn_words("corpus.txt", 50_000)
        data = BidirectionalLanguageModelDataset(
            "corpus.txt", tokenizer, block_length=20, batch_size=128, contiguous=True
        )
        model.fit(data.dataset(), epochs=10, shuffle=False)
    """

    def __init__(
        self,
        files: Files,
        tokenizer: WordTokenizer,
        *,
        block_length: int,
        batch_size: int,
        characters: bool = True,
        max_characters: int = 50,
        contiguous: bool = False,
        shuffle_buffer: int | None = None,
        seed: int = 0,
        heading: str | None = None,
        on_bad_line: str = "raise",
    ) -> None:
        check_int("max_characters", max_characters, LEAST)
        if not hasattr(tokenizer, "words_to_ids"):
            raise ValueError(
                "Expected a `WordTokenizer`, which has one id for each word. Received: "
                f"{type(tokenizer).__name__}."
            )
        super().__init__(
            files,
            OPENING,
            CLOSING,
            nothing=NOTHING,
            block_length=block_length,
            batch_size=batch_size,
            contiguous=contiguous,
            shuffle_buffer=shuffle_buffer,
            seed=seed,
            separator=" ",
            parts=1,  # a part of a long line is reversed by itself
            line_documents=True,
            heading=heading,
            on_bad_line=on_bad_line,
        )
        self._tokenizer = tokenizer
        self._characters, self._max_characters = characters, max_characters

    def _tokens(self, texts):
        """Ragged words `[N, (W), 2]`, forward and backward."""
        words, _, _ = self._tokenizer.split_words(texts)
        backward = tf.ragged.range(words.row_limits() - 1, words.row_starts() - 1, -1).values
        pairs = tf.stack([words.values, tf.gather(words.values, backward)], axis=1)
        return words.with_values(pairs)

    def _fill(self, windows, shard):
        windows = self._full(windows, shard)
        words, labels = windows[:, :-1], windows[:, 1:]
        inside = tf.not_equal(labels, NOTHING)
        words = tf.where(inside, words, NOTHING)
        begins = tf.equal(words, CLOSING) & tf.equal(labels, OPENING)
        labels = tf.where(inside & ~begins, self._ids(labels), IGNORED)
        if self._characters:
            name, read = "character_ids", self._character_ids
        else:
            name, read = "token_ids", self._ids
        inputs = {name: read(words[:, :, 0]), f"reverse_{name}": read(words[:, :, 1])}
        return inputs, {"forward": labels[:, :, 0], "backward": labels[:, :, 1]}

    def _ids(self, words):
        """Ids of words and markers; `pad_id` at empty positions."""
        ids = self._tokenizer.words_to_ids(words)
        for word, name in ((START, "start_id"), (END, "end_id"), (NOTHING, "pad_id")):
            ids = tf.where(tf.equal(words, word), getattr(self._tokenizer, name), ids)
        return ids

    def _character_ids(self, words):
        """Character ids `[B, T, C]` of words and markers `[B, T]`; 0 at empty positions."""
        ids = words_to_characters(words, max_characters=self._max_characters)
        for word, marker in zip((START, END), sentence_markers(self._max_characters)):
            ids = tf.where(tf.equal(words, word)[:, :, None], marker, ids)
        return ids
