"""Cached decoding at the base shape: keras_xfmr against KerasHub's BART, random weights, float32.

d_model 512, 8 heads, inner size 2048, 6 + 6 blocks, vocabulary 32,000, source 32, exactly 32
generated tokens; a flag for each. Four cases: greedy search and beam search with 4 beams, of 16
sentences and of one. Ours is `model.generate(...)`; KerasHub's is `BartSeq2SeqLM.generate(...)`
over a `BartBackbone` of the same sizes, without a preprocessor, with `GreedySampler` or
`BeamSampler(num_beams=4)`. Each is run with XLA and without, and the best of each is compared.
BART's activation is GELU, so ours has it too unless `--activation` says otherwise; BART also has
learned positions and a norm after the embeddings, which ours has not.

A third side, "products", makes nothing but the products with the weights, under XLA: those of the
encoder and of the memory's keys and values once, those of a step of the decoder as often and for as
many rows as a search. It is what is left of either side's time if all else were free.

No sequence can end early: ours has an end id that no token has, KerasHub gets no stop token. That
every position was generated is checked on both sides before anything is timed.

    python -m benchmarks.decoding
    python -m benchmarks.decoding --only_case="beam 4, batch 16"
    KERAS_BACKEND=jax python -m benchmarks.decoding --leave_out=keras_xfmr/graph,KerasHub/graph

Prints for each case the median time with quartiles, generated tokens a second (of the one sequence
that is returned, not of every beam), how many times as fast ours is, and the peak memory of each
side in a process of its own.
"""

import functools

import keras
import keras_hub
import numpy as np
from absl import app, flags

from benchmarks import side_by_side, twin
from examples import command_line
from keras_xfmr import models

FLAGS = flags.FLAGS
flags.DEFINE_integer("batch_size", 16, "Sentences in a batch, where it is not 1.")
flags.DEFINE_integer("beam_size", 4, "Beams.")
flags.DEFINE_string("activation", "gelu", "Of our feed-forward networks.")

SETTINGS = {"XLA": True, "graph": False}
NO_TOKEN = -1  # what no token has as its id
START = 2


def source_ids(batch_size):
    draw = np.random.default_rng(0)
    ids = draw.integers(4, FLAGS.vocab_size, (batch_size, FLAGS.source_length))
    return ids.astype("int32")


def make_ours(batch_size, beam_size, jit_compile):
    """A function that generates a batch with keras_xfmr."""
    keras.utils.set_random_seed(0)
    model = models.Transformer(
        FLAGS.vocab_size,
        **twin.sizes(),
        activation=FLAGS.activation,
        start_id=START,
    )
    model.end_id = NO_TOKEN  # so that a search generates every position
    ids = source_ids(batch_size)
    options = {"search": "beam", "beam_size": beam_size} if beam_size else {"search": "greedy"}
    options.update(max_length=FLAGS.target_length, jit_compile=jit_compile)

    def generate():
        return model.generate(ids, **options)

    found = generate()
    whole = found["token_ids"].shape[-1] == FLAGS.target_length
    if not whole or not (found["lengths"] == FLAGS.target_length).all():
        raise AssertionError("keras_xfmr did not generate every position.")
    return generate


def make_hub(batch_size, beam_size, jit_compile):
    """A function that generates a batch with KerasHub."""
    keras.utils.set_random_seed(0)
    length = FLAGS.target_length + 1  # with the start token
    backbone = keras_hub.models.BartBackbone(
        FLAGS.vocab_size,
        FLAGS.num_layers,
        FLAGS.num_heads,
        FLAGS.d_model,
        FLAGS.ffn_dim,
        max_sequence_length=max(FLAGS.source_length, length),
    )
    model = keras_hub.models.BartSeq2SeqLM(backbone)
    samplers = keras_hub.samplers
    sampler = samplers.BeamSampler(num_beams=beam_size) if beam_size else samplers.GreedySampler()
    model.compile(sampler=sampler, jit_compile=jit_compile)

    def inputs(filler):
        prompt = np.full((batch_size, length), filler, "int32")
        prompt[:, 0] = START
        given = np.zeros((batch_size, length), "int32")
        given[:, 0] = 1
        ids = source_ids(batch_size)
        arrays = {
            "encoder_token_ids": ids,
            "encoder_padding_mask": np.ones_like(ids),
            "decoder_token_ids": prompt,
            "decoder_padding_mask": given,
        }
        return {name: keras.ops.convert_to_tensor(array) for name, array in arrays.items()}

    def generate(prompt):
        return model.generate(prompt, stop_token_ids=None)["decoder_token_ids"]

    # A position that the loop did not write would still differ between the two.
    one, other = (generate(inputs(filler)) for filler in (0, 1))
    if one.shape != (batch_size, length) or not (one == other).all():
        raise AssertionError("KerasHub did not generate every position.")
    prompt = inputs(0)
    return lambda: generate(prompt)


def make_products(batch_size, beam_size):
    """A function that makes a search's products with weights, one after the other, and no more."""
    import tensorflow as tf  # the other sides run on any backend

    draw = np.random.default_rng(0)
    d_model, ffn_dim = FLAGS.d_model, FLAGS.ffn_dim

    def numbers(*shape):
        return tf.constant(draw.normal(size=shape, scale=shape[-2] ** -0.5), tf.float32)

    def weights(squares):
        """Of a block: so many d_model x d_model, and the feed-forward network's."""
        shapes = [*[(d_model, d_model)] * squares, (d_model, ffn_dim), (ffn_dim, d_model)]
        return [numbers(*shape) for shape in shapes * FLAGS.num_layers]

    # Query, key, value and output, and the key and value of the memory, in an encoder's block.
    encoder = weights(squares=6)
    # Query, key, value and output of the self-attention, query and output of the cross-attention.
    decoder = weights(squares=6)
    # The logits, and of all of them one number, so that a step needs the whole one before it.
    decoder += [numbers(d_model, FLAGS.vocab_size), numbers(FLAGS.vocab_size, 1)]
    source = numbers(batch_size * FLAGS.source_length, d_model)
    target = numbers(batch_size * (beam_size or 1), d_model)

    @tf.function(jit_compile=True)
    def multiply(source, target, encoder, decoder):
        memory = functools.reduce(tf.matmul, encoder, source)
        target += tf.reduce_sum(memory)

        def step(index, x):
            return index + 1, target + functools.reduce(tf.matmul, decoder, x)

        return tf.while_loop(lambda index, _: index < FLAGS.target_length, step, (0, target))[1]

    return lambda: multiply(source, target, encoder, decoder).numpy()


def main(argv):
    command_line.flags_alone(argv)
    shapes = {
        f"greedy, batch {FLAGS.batch_size}": (FLAGS.batch_size, None),
        f"beam {FLAGS.beam_size}, batch {FLAGS.batch_size}": (FLAGS.batch_size, FLAGS.beam_size),
        "greedy, batch 1": (1, None),
        f"beam {FLAGS.beam_size}, batch 1": (1, FLAGS.beam_size),
    }
    cases = {}
    for name, (batch_size, beam_size) in shapes.items():
        sides = {
            (peer, setting): functools.partial(make, batch_size, beam_size, jit_compile)
            for peer, make in {"keras_xfmr": make_ours, "KerasHub": make_hub}.items()
            for setting, jit_compile in SETTINGS.items()
        }
        if keras.config.backend() == "tensorflow":
            sides["products", "XLA"] = functools.partial(make_products, batch_size, beam_size)
        cases[name] = side_by_side.Case(sides, batch_size * FLAGS.target_length, "tokens")
    side_by_side.run(cases)


if __name__ == "__main__":
    app.run(main)
