"""Common steps of the pipelines: rows of tensors, and checks of lines."""

import tensorflow as tf

WHITE_SPACE = r"[\x09-\x0d\x1c-\x20\x{85}\p{Z}]"  # as `str.isspace`
NO_TEXT = "not valid UTF-8, or with a NUL character"  # the fault if `is_text` is False


def untuned(data):
    """The data set without TensorFlow's automatic tuning; parallel calls use all cores.

    The tuner is a thread that sleeps for up to a minute. If the cores are busy, deleting an
    iterator, and so each epoch of `fit`, may wait until it wakes up (TensorFlow 2.21).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)


def rows_where(keep, *tensors):
    """The rows of each tensor for which `keep [N]` is true."""
    rows = tf.where(keep)[:, 0]
    return tuple(tf.gather(tensor, rows) for tensor in tensors)


def strip_lines(lines):
    """Removes carriage returns and byte order marks. A file joined from several also has byte order
    marks in its middle, at the beginning of lines."""
    return tf.strings.regex_replace(lines, "^\ufeff+|\r+$", "")


def is_blank(texts):
    """Whether strings have only Unicode white space."""
    return tf.strings.regex_full_match(texts, f"{WHITE_SPACE}*")


def is_text(texts):
    """Whether strings are UTF-8 without NUL characters."""
    known = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="ignore")
    return tf.equal(texts, known) & tf.strings.regex_full_match(texts, r"[^\x00]*")
