"""Functions of tokenizers as graphs."""

import functools
from collections.abc import Callable

import tensorflow as tf


def in_graph(function: Callable, *signature) -> Callable:
    """The function as a graph, which the first call traces.

    `tf.function` counts the traces of all functions that have the same code. Five tokenizers in
    one program would get its warning of retracing.
    """
    traced = tf.function(function, input_signature=signature, autograph=False)
    graph = functools.cache(traced.get_concrete_function)
    return lambda *inputs: graph()(*inputs)
