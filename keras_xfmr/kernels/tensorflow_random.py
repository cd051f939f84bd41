"""Random numbers that are a hash of their index, the same in graphs and under XLA."""

import keras
import tensorflow as tf

from keras_xfmr.kernels.tensorflow_replicas import seed_of_replica


def uniform(shape, seed):
    """Numbers in [0, 1), the same with and without XLA; numbers of `tf.random` differ there."""
    if isinstance(seed, keras.random.SeedGenerator):
        seed = seed.next()
    elif seed is None:  # drawn in the graph: a new one for each call of a compiled function
        seed = tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
    else:
        seed = (seed, 0)
    bits = random_bits(_places(tf.zeros(shape)), seed_of_replica(seed))
    bits = tf.bitwise.right_shift(bits, _word(8))
    return tf.cast(tf.bitcast(bits, tf.int32), tf.float32) * 2.0**-24


def dropout(inputs, rate, seed):
    """Dropout whose random bits are a hash of the element's index and the seed.

    Under XLA:CPU `tf.random.stateless_*` compiles to separate loops, and the drawn numbers are
    stored for the gradient. A hash is arithmetic that XLA fuses with its neighbours, forward and
    backward, so it costs almost nothing.
    """
    keep = random_bits(_places(inputs), seed_of_replica(seed)) >= threshold(rate)
    return tf.where(
        keep, inputs * tf.cast(1.0 / (1.0 - rate), inputs.dtype), tf.zeros((), inputs.dtype)
    )


def threshold(rate):
    """A share `rate` of all random bits is below it."""
    return _word(min(round(rate * 2**32), 2**32 - 1))


def random_bits(index, seed):
    """32 random bits, uint32, for each number of a tensor, from a seed of two integers.

    SplitMix (Steele et al. 2014) with MurmurHash3's 32-bit finalizer; the second word of the seed
    enters between its rounds. Pass the seed of a replica (`seed_of_replica`): a function that is
    traced once for all replicas does not know which replica calls it.
    """
    first, second = tf.unstack(tf.bitcast(tf.cast(seed, tf.int32), tf.uint32))
    bits = _shift_xor(index * _word(0x9E3779B9) + first, 16) * _word(0x85EBCA6B)
    bits = _shift_xor(tf.bitwise.bitwise_xor(bits, second * _word(0x9E3779B9)), 13)
    return _shift_xor(bits * _word(0xC2B2AE35), 16)


def _places(like):
    """0, 1, 2, ... in the shape of a tensor."""
    return tf.reshape(tf.cast(tf.range(tf.size(like)), tf.uint32), tf.shape(like))


def _shift_xor(bits, shift):
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, _word(shift)))


def _word(value):
    return tf.constant(value, tf.uint32)
