"""TensorFlow's phrasing, where the plain one is slow. Each says what was measured.

Figures: benchmarks/kernels.py, its output in benchmarks/RESULTS.md.
"""

import random

import keras
import tensorflow as tf

from keras_xfmr.kernels import portable


def layer_norm(inputs, gamma, beta, epsilon):
    """Layer normalization whose row sums are matrix products.

    XLA:CPU runs a reduction over the last axis as a scalar loop, and its gradient as more of
    them; a product with a column of 1/D goes to the tuned matrix kernel. On a GPU the product
    could run in TensorFloat-32, too coarse for a mean, so the plain phrasing stays there.
    """
    depth = inputs.shape[-1]
    if depth is None or tf.config.list_logical_devices("GPU"):
        return portable.layer_norm(inputs, gamma, beta, epsilon)
    x = tf.reshape(tf.cast(inputs, tf.float32), (-1, depth))
    average = tf.fill((depth, 1), 1.0 / depth)
    centred = x - tf.matmul(x, average)
    variance = tf.matmul(tf.square(centred), average)
    normalized = centred * tf.math.rsqrt(variance + epsilon)
    if gamma is not None:
        normalized = normalized * tf.cast(gamma, tf.float32)
    if beta is not None:
        normalized = normalized + tf.cast(beta, tf.float32)
    return tf.reshape(tf.cast(normalized, inputs.dtype), tf.shape(inputs))


def uniform(shape, seed):
    """Numbers in [0, 1) by the Philox generator: the same with and without XLA."""
    if isinstance(seed, keras.random.SeedGenerator):
        seed = seed.next()
    else:
        seed = (random.getrandbits(31) if seed is None else seed, 0)
    return tf.random.stateless_uniform(shape, seed, alg="philox")


def dropout(inputs, rate, seed):
    """Dropout from 16 random bits an element, by the Philox generator.

    The default generator of `tf.random.stateless_*` compiles to a loop that is some fifty times
    slower under XLA:CPU. The rate is rounded to a multiple of 2^-16 and the scale is exact for
    the rounded rate, so the expected value is unchanged.
    """
    threshold = min(max(round(rate * 2**16), 1), 2**16 - 1)
    size = tf.size(inputs)
    words = tf.random.stateless_uniform(
        [(size + 1) // 2], seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
    )
    bits = tf.reshape(tf.bitcast(words, tf.uint16), [-1])[:size]
    keep = tf.reshape(bits, tf.shape(inputs)) >= tf.constant(threshold, tf.uint16)
    scale = tf.cast(2**16 / (2**16 - threshold), inputs.dtype)
    return tf.where(keep, inputs * scale, tf.zeros((), inputs.dtype))
