"""A projected LSTM: `layers.ProjectedLSTM` against Keras' LSTM and PyTorch's, float32.

512 units, projected to 128, batch 32, length 32; a flag for each. The inputs have as many features
as the outputs, as in a stack. The peers:

- `keras.layers.LSTM` with a `Dense` behind it, which Keras has in the place of a projection: the
  projection is outside the recurrence, so that each step multiplies `[units, 4 units]`;
- `torch.nn.LSTM(proj_size=...)`, the same formula, rows first and time first, in as many threads as
  there are cores. Its outputs and gradients must be equal to ours, with the same weights.

A training step is the outputs, the gradients of the inputs and of all weights for a given gradient
of the outputs, and plain SGD. Both Keras sides run with XLA and as a plain graph, and the best of
each is compared.

    python -m benchmarks.lstm
    python -m benchmarks.lstm --units=2048 --projection_dim=256 --length=20

Prints for training and inference the median time of a call with quartiles, tokens a second, how
many times as fast ours is, and the peak memory of each side in a process of its own.
"""

import functools
import os

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks import side_by_side
from examples import command_line
from keras_xfmr import layers

# As in `bert_peers`: threads that wait must not take the cores from the other sides.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    import torch
except ImportError:
    torch = None

FLAGS = flags.FLAGS
flags.DEFINE_integer("units", 512, "Of the cell state.")
flags.DEFINE_integer("projection_dim", 128, "Features of the outputs, and of the inputs.")
flags.DEFINE_integer("batch_size", 32, "Rows.")
flags.DEFINE_integer("length", 32, "Steps.")
flags.DEFINE_integer("calls", 5, "Calls in one timing.")

SETTINGS = {"XLA": True, "graph": False}
LAYOUTS = {"rows first": True, "time first": False}
RATE = 1e-3  # of SGD
TOLERANCE = 1e-4  # of outputs, and of gradients relative to the largest


def make_ours():
    return layers.ProjectedLSTM(FLAGS.units, FLAGS.projection_dim)


def make_keras():
    return keras.Sequential(
        [
            keras.layers.LSTM(FLAGS.units, return_sequences=True),
            keras.layers.Dense(FLAGS.projection_dim, use_bias=False),
        ]
    )


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def draw_call():
    """Inputs and the gradient of the outputs, `[B, T, P]` each."""
    shape = (FLAGS.batch_size, FLAGS.length, FLAGS.projection_dim)
    return draw(*shape), draw(*shape, seed=1)


# ---- sides of Keras


def make_call(make_layer, training, jit_compile):
    """A function that runs a layer once, or trains it a step."""
    keras.utils.set_random_seed(0)
    layer = make_layer()
    x, upstream = map(tf.constant, draw_call())
    layer.build(x.shape)
    weights = [variable.value for variable in layer.trainable_variables]

    @tf.function(jit_compile=jit_compile)
    def infer(x):
        return layer(x, training=False)

    @tf.function(jit_compile=jit_compile)
    def train(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        gradients = tape.gradient(y, [x, *weights], output_gradients=upstream)
        for weight, gradient in zip(weights, gradients[1:]):
            weight.assign_sub(RATE * gradient)
        return gradients[0]

    return (lambda: train(x, upstream).numpy()) if training else (lambda: infer(x).numpy())


# ---- sides of PyTorch


def of_torch(array, axis=-1):
    """Gates i, j, f, o of ours as PyTorch's i, f, j, o, with the outputs in front."""
    parts = np.split(array, 4, axis)
    return torch.tensor(np.concatenate([parts[i] for i in (0, 2, 1, 3)], axis).T.copy())


def make_torch_layer(cell, rows_first):
    """PyTorch's layer with the weights of a `ProjectedLSTMCell`."""
    torch.set_num_threads(os.cpu_count())
    layer = torch.nn.LSTM(
        FLAGS.projection_dim, FLAGS.units, batch_first=rows_first, proj_size=FLAGS.projection_dim
    )
    arrays = {w.name: keras.ops.convert_to_numpy(w) for w in cell.weights}
    bias = arrays["bias"] + np.repeat(np.float32([0, 0, cell.forget_bias, 0]), FLAGS.units)
    layer.load_state_dict(
        {
            "weight_ih_l0": of_torch(arrays["kernel"]),
            "weight_hh_l0": of_torch(arrays["recurrent_kernel"]),
            "bias_ih_l0": of_torch(bias),
            "bias_hh_l0": torch.zeros(4 * FLAGS.units),
            "weight_hr_l0": torch.tensor(arrays["projection_kernel"].T.copy()),
        }
    )
    return layer


def make_torch(training, rows_first):
    """As `make_call`, of PyTorch."""
    keras.utils.set_random_seed(0)
    ours = make_ours()
    arrays = draw_call()
    ours.build(arrays[0].shape)
    layer = make_torch_layer(ours.cell, rows_first)
    if not FLAGS.only_side:
        check_equal(ours, layer, arrays)
    turned = [a if rows_first else a.transpose(1, 0, 2).copy() for a in arrays]
    x, upstream = map(torch.tensor, turned)
    optimizer = torch.optim.SGD(layer.parameters(), RATE)

    def infer():
        with torch.inference_mode():
            return layer(x)[0].numpy()

    def train():
        optimizer.zero_grad()
        inputs = x.detach().requires_grad_()
        layer(inputs)[0].backward(upstream)
        optimizer.step()
        return inputs.grad.numpy()

    return train if training else infer


def check_equal(ours, theirs, arrays):
    """Raises AssertionError where outputs or the gradients of the weights are not equal."""
    x, upstream = map(tf.constant, arrays)
    with tf.GradientTape() as tape:
        y = ours(x, training=True)
    gradients = tape.gradient(
        y, [w.value for w in ours.cell.trainable_variables], output_gradients=upstream
    )
    inputs, upstream = map(torch.tensor, arrays)
    if not theirs.batch_first:
        inputs, upstream = inputs.transpose(0, 1), upstream.transpose(0, 1)
    outputs = theirs(inputs)[0]
    outputs.backward(upstream)
    outputs = outputs.detach() if theirs.batch_first else outputs.detach().transpose(0, 1)
    names = {"kernel": "ih", "recurrent_kernel": "hh", "projection_kernel": "hr"}
    pairs = [(y.numpy(), outputs.numpy())]
    for variable, gradient in zip(ours.cell.trainable_variables, gradients):
        if variable.name in names:
            found = getattr(theirs, f"weight_{names[variable.name]}_l0").grad.numpy()
            mine = gradient.numpy()
            mine = mine.T if variable.name == "projection_kernel" else of_torch(mine).numpy()
            pairs.append((mine, found))
    apart = max(np.abs(a - b).max() / max(1, np.abs(b).max()) for a, b in pairs)
    print(f"outputs and gradients of PyTorch's LSTM differ from ours by {apart:.1e}", flush=True)
    if not apart < TOLERANCE:
        raise AssertionError(f"More than {TOLERANCE}.")


# ---- cases


def make_cases():
    cases, tokens = {}, FLAGS.batch_size * FLAGS.length
    for name, training in {"training step": True, "inference": False}.items():
        sides = {
            (peer, setting): functools.partial(make_call, make_layer, training, jit_compile)
            for peer, make_layer in {"keras_xfmr": make_ours, "Keras": make_keras}.items()
            for setting, jit_compile in SETTINGS.items()
        }
        for setting, rows_first in LAYOUTS.items():
            sides["PyTorch", setting] = functools.partial(make_torch, training, rows_first)
        cases[name] = side_by_side.Case(sides, tokens, "tokens", calls=FLAGS.calls)
    return cases


def main(argv):
    command_line.flags_alone(argv)
    if torch is None:
        print("torch is not installed: PyTorch is left out")
    side_by_side.run(make_cases(), set() if torch else {"PyTorch"})


if __name__ == "__main__":
    app.run(main)
