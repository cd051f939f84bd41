"""What the phrasings of `keras_xfmr/kernels/tensorflow.py` are worth: layer norm and dropout.

`keras_xfmr.layers.LayerNorm` and `Dropout` against the Keras layers of the same arguments, at
1024 x 512 float32, forward and forward with gradient, each inside a `tf.function` with XLA and
without.

    python -m benchmarks.kernels

Prints for each of the four cases the median time of a call with quartiles, and how many times as
fast ours is with XLA, without, and best against best.
"""

import functools

import keras
import tensorflow as tf
from absl import app, flags

from benchmarks import side_by_side
from examples import command_line
from keras_xfmr import layers

FLAGS = flags.FLAGS
flags.DEFINE_integer("rows", 1024, "Rows of the input.")
flags.DEFINE_integer("depth", 512, "Columns of the input.")
flags.DEFINE_integer("calls", 100, "Calls in one timing.")

SETTINGS = {"XLA": True, "graph": False}
LAYERS = {
    "layer_norm": {
        "keras_xfmr": functools.partial(layers.LayerNorm, epsilon=1e-6),
        "keras": functools.partial(keras.layers.LayerNormalization, epsilon=1e-6),
    },
    "dropout": {
        "keras_xfmr": functools.partial(layers.Dropout, 0.1, seed=0),
        "keras": functools.partial(keras.layers.Dropout, 0.1, seed=0),
    },
}


def make_call(make_layer, gradient, jit_compile):
    """A function that runs a layer, with or without its gradient."""
    layer = make_layer()
    shape = (FLAGS.rows, FLAGS.depth)
    layer.build(shape)
    x, upstream = (tf.random.stateless_normal(shape, (seed, 0)) for seed in (1, 2))

    @tf.function(jit_compile=jit_compile)
    def forward(x, upstream):
        return layer(x, training=True)

    @tf.function(jit_compile=jit_compile)
    def forward_and_gradient(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        weights = [variable.value for variable in layer.trainable_variables]
        return y, tape.gradient(y, [x, *weights], output_gradients=upstream)

    function = forward_and_gradient if gradient else forward
    return lambda: function(x, upstream)


def main(argv):
    command_line.flags_alone(argv)
    cases = {}
    for name, peers in LAYERS.items():
        for gradient in (False, True):
            sides = {
                (peer, setting): functools.partial(make_call, make_layer, gradient, jit_compile)
                for peer, make_layer in peers.items()
                for setting, jit_compile in SETTINGS.items()
            }
            title = f"{name}, {'forward and gradient' if gradient else 'forward'}"
            cases[title] = side_by_side.Case(
                sides, FLAGS.rows, "rows", calls=FLAGS.calls, memory=False
            )
    side_by_side.run(cases)


if __name__ == "__main__":
    app.run(main)
