"""What the phrasings of a formula are worth: layer norm, dropout, the products of a search.

`keras_xfmr.layers.LayerNorm` and `Dropout` against the Keras layers of the same arguments, at
1024 x 512 float32, forward and forward with gradient; and the feed-forward networks of a search
(12 of 512 -> 2048 -> 512, 32 steps) for few rows, with their matrices made ready before the loop,
that time included, and without. Each inside a `tf.function` with XLA and without.

    python -m benchmarks.kernels

Prints for each case the median time of a call with quartiles, and how many times as fast ours is
with XLA, without, and best against best.
"""

import functools

import keras
import tensorflow as tf
from absl import app, flags

from benchmarks import side_by_side
from examples import command_line
from keras_xfmr import layers
from keras_xfmr.layers.projections import Prepared

FLAGS = flags.FLAGS
flags.DEFINE_integer("rows", 1024, "Rows of the input.")
flags.DEFINE_integer("depth", 512, "Columns of the input.")
flags.DEFINE_integer("calls", 100, "Calls in one timing.")
flags.DEFINE_multi_integer("search_rows", [4, 16], "Rows of a search, a comparison each.")
flags.DEFINE_integer("networks", 12, "Feed-forward networks of a search.")
flags.DEFINE_integer("steps", 32, "Steps of a search.")

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


def make_search(rows, prepared, jit_compile):
    """A function that runs some networks one after the other, step after step."""
    networks = [layers.PositionWiseFFN(4 * FLAGS.depth) for _ in range(FLAGS.networks)]
    shape = (rows, 1, FLAGS.depth)
    for network in networks:
        network.build(shape)
    x = tf.random.stateless_normal(shape, (1, 0))

    @tf.function(jit_compile=jit_compile)
    def search(x):
        projections = [dense for network in networks for dense in network.projections()]
        products = Prepared(projections if prepared else [], rows)

        def step(index, x):
            for network in networks:
                x = network(x, products=products)
            return index + 1, x

        return tf.while_loop(lambda index, _: index < FLAGS.steps, step, (0, x))[1]

    return lambda: search(x).numpy()


def main(argv):
    command_line.flags_alone(argv)
    cases = {}
    for rows in FLAGS.search_rows:
        sides = {
            (peer, setting): functools.partial(make_search, rows, peer == "prepared", jit_compile)
            for peer in ("prepared", "as they are")
            for setting, jit_compile in SETTINGS.items()
        }
        cases[f"search, {rows} rows"] = side_by_side.Case(sides, rows, "rows", memory=False)
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
