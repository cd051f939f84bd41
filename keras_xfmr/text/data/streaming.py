"""What the pipelines share: rows of tensors, and what is wrong with lines."""

import tensorflow as tf

WHITE_SPACE = r"[\x09-\x0d\x1c-\x20\x{85}\p{Z}]"  # what `str.isspace` means by it
NO_TEXT = "not valid UTF-8, or with a NUL character"  # what is wrong where `is_text` says no


def untuned(data):
    """The data set without TensorFlow's tuning of its pace; parallel calls take all cores.

    The tuner is a thread that sleeps up to a minute between two looks. Where the cores are busy,
    letting an iterator go may wait for it to wake, and so may each epoch of `fit`: TensorFlow 2.21.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)


def rows_where(keep, *tensors):
    """Those rows of each tensor for which `keep [N]` is true."""
    rows = tf.where(keep)[:, 0]
    return tuple(tf.gather(tensor, rows) for tensor in tensors)


def strip_lines(lines):
    """Takes off carriage returns, and byte order marks, which a file joined from several has at the
    beginning of lines in its middle, too."""
    return tf.strings.regex_replace(lines, "^\ufeff+|\r+$", "")


def is_blank(texts):
    """Which strings are nothing but white space of Unicode."""
    return tf.strings.regex_full_match(texts, f"{WHITE_SPACE}*")


def is_text(texts):
    """Which strings are UTF-8 without NUL characters."""
    known = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="ignore")
    return tf.equal(texts, known) & tf.strings.regex_full_match(texts, r"[^\x00]*")
