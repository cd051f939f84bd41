"""GPT-2: keras_xfmr against KerasHub and against transformers on PyTorch, float32.

By default half of GPT-2: 6 blocks, d_model 512, 8 heads, inner size 2048, the 50,257 tokens of its
vocabulary; `--preset=gpt2` is the published model, and a flag changes each size. Cases:

- a training step, batch 8 x 128, a label at every position, dropout 0.1 (on attention weights and
  embeddings too), AdamW: `Gpt` and `GPT2CausalLM` by `train_on_batch`, `GPT2LMHeadModel` with
  `torch.optim.AdamW(fused=True)`;
- greedy generation of 64 tokens after a prompt of 32, for 16 rows and for one: `generate` of all
  three, KerasHub's without a preprocessor and with `GreedySampler`.

A Keras side runs with XLA and as a plain graph, PyTorch eagerly and under `torch.compile` (its
`generate` then with a static cache), and the best of each is compared. All have the same weights,
from one folder in transformers' format. A side "products" makes nothing but the products with the
weights under XLA, those of the prompt once and those of a step as often as a search does: what is
left of a side's time if all else were free.

Before anything is timed, every side that is trained must give the first side's logits, and learn
the batch within a few steps; and every generated token must have the largest logit of its place, by
the first side's model without a cache. No sequence can end early: ours has an end id that no token
has, the others get no stop token.

    python -m benchmarks.gpt --rounds=4 --warmup=1 --nomemory
    python -m benchmarks.gpt --rounds=5 --nomemory --preset=gpt2 --only_case="generation, batch 1"

Prints for each case the median time with quartiles, tokens a second (trained, or generated), how
many times as fast ours is, round by round, and the peak memory of each side in a process of its
own. Leaves out what cannot run, and prints it: PyTorch's sides need torch and transformers, and
`torch.compile` a C++ compiler.
"""

import functools
import math
import shutil
import sys
import tempfile

import numpy as np
from absl import app, flags

from benchmarks import gpt_peers as peers
from benchmarks import side_by_side
from examples import command_line
from keras_xfmr import models
from keras_xfmr.models import gpt

FLAGS = flags.FLAGS
HALF = dict(d_model=512, num_heads=8, ffn_dim=2048, num_layers=6)
flags.DEFINE_enum("preset", "half", ["half", *gpt.PRESETS], "Sizes: half of GPT-2's, or published.")
for _name in ("d_model", "num_heads", "num_layers", "vocab_size", "max_length"):
    flags.DEFINE_integer(_name, None, "In the place of the preset's.")
flags.DEFINE_integer("batch_size", 8, "Rows of a training batch.")
flags.DEFINE_integer("length", 128, "Positions of such a row.")
flags.DEFINE_list("generated_rows", ["16", "1"], "Rows of a batch of prompts, a case each.")
flags.DEFINE_integer("prompt", 32, "Tokens of a prompt.")
flags.DEFINE_integer("new_tokens", 64, "Tokens that are generated for each row.")
flags.DEFINE_string("folder", None, "Set by the parent: a random model in transformers' format.")

PEERS = {
    "keras_xfmr": (peers.Ours, ("XLA", "graph")),
    "KerasHub": (peers.Hub, ("XLA", "graph")),
    "HF-PyTorch": (peers.Torch, ("eager", "compiled")),
}
CHECKED_STEPS = 3
LEARNED = 0.2  # what the loss falls by in these, more than dropout moves it
TOLERANCE = 1e-3  # of logits with a variance near 1


def sizes():
    """The arguments of `models.Gpt` that the flags ask for."""
    found = dict(HALF if FLAGS.preset == "half" else gpt.PRESETS[FLAGS.preset])
    given = ("d_model", "num_heads", "num_layers", "vocab_size", "max_length")
    found.update({name: FLAGS[name].value for name in given if FLAGS[name].value})
    found["ffn_dim"] = 4 * found["d_model"]  # KerasHub reads no other from a folder
    return found


def random_ids(*shape, seed=0):
    vocab_size = sizes().get("vocab_size", 50257)
    return np.random.default_rng(seed).integers(1, vocab_size, shape).astype("int32")


# ---- sides that check what they do


def make_training(peer, setting, found):
    """A function that trains one step; `found` holds the first side's logits."""
    ids = random_ids(FLAGS.batch_size, FLAGS.length + 1)
    ids, labels = ids[:, :-1].copy(), ids[:, 1:].copy()
    side = peer(FLAGS.folder, setting)
    if not FLAGS.only_side:
        logits = side.logits(ids[:2])
        difference = np.abs(logits - found.setdefault("logits", logits)).max()
        print(f"{peer.__name__}, {setting}: logits differ from the first by {difference:.1e}")
        if not difference < TOLERANCE:
            raise AssertionError(f"More than {TOLERANCE}.")
    step = side.trainer(ids, labels)
    losses = [step() for _ in range(CHECKED_STEPS)]
    print(f"{peer.__name__}, {setting}: losses", *(f"{loss:.3f}" for loss in losses), flush=True)
    vocab_size = sizes().get("vocab_size", 50257)
    if abs(losses[0] - math.log(vocab_size)) > 1 or not losses[-1] < losses[0] - LEARNED:
        raise AssertionError(f"{peer.__name__}, {setting} does not learn: {losses}.")
    return step


def make_generation(peer, setting, rows):
    """A function that generates a batch."""
    prompt = random_ids(rows, FLAGS.prompt, seed=1)
    generate = peer(FLAGS.folder, setting).generator(prompt, FLAGS.new_tokens)
    if not FLAGS.only_side:
        check_greedy(f"{peer.__name__}, {setting}", prompt, generate())
    return generate


@functools.cache
def load_reference(folder):
    return peers.Ours(folder, "graph")


def check_greedy(name, prompt, generated):
    """Raises AssertionError unless each token has the largest logit, by ours without a cache."""
    if generated.shape != (len(prompt), FLAGS.new_tokens):
        raise AssertionError(f"{name} generated {generated.shape}.")
    reference, behind = load_reference(FLAGS.folder), 0.0
    for begin, new in zip(prompt, generated):
        logits = reference.logits(np.append(begin, new[:-1])[None].astype("int32"))
        logits = logits[0, len(begin) - 1 :]
        chosen = np.take_along_axis(logits, new[:, None], axis=1)[:, 0]
        behind = max(behind, (logits.max(1) - chosen).max())
    print(f"{name}: tokens are behind the largest logit by {behind:.1e} at most", flush=True)
    if not behind < TOLERANCE:
        raise AssertionError(f"More than {TOLERANCE}.")


def make_products(rows):
    """A function that makes a search's products with weights, one after the other, and no more."""
    import tensorflow as tf  # the other sides run on any backend

    size, draw = sizes(), np.random.default_rng(0)
    d_model, vocab_size = size["d_model"], size.get("vocab_size", 50257)

    def numbers(*shape):
        return tf.constant(draw.normal(size=shape, scale=shape[-2] ** -0.5), tf.float32)

    # Query, key, value and output, and the feed-forward network's two.
    squares, wide = [(d_model, d_model)] * 4, (d_model, size["ffn_dim"])
    block = [*squares, wide, wide[::-1]]
    weights = [numbers(*shape) for shape in block * size["num_layers"]]
    # Of all logits one number, so that a step needs the whole one before it.
    weights += [numbers(d_model, vocab_size), numbers(vocab_size, 1)]
    prompt, token = numbers(rows * (FLAGS.prompt - 1), d_model), numbers(rows, d_model)

    @tf.function(jit_compile=True)
    def multiply(prompt, token, weights):
        token += tf.reduce_sum(functools.reduce(tf.matmul, weights[:-2], prompt))

        def step(index, x):
            return index + 1, token + functools.reduce(tf.matmul, weights, x)

        return tf.while_loop(lambda index, _: index < FLAGS.new_tokens, step, (0, token))[1]

    return lambda: multiply(prompt, token, weights).numpy()


# ---- cases


def sides(make, *arguments):
    """(peer, setting) -> a function that makes the side."""
    return {
        (name, setting): functools.partial(make, peer, setting, *arguments)
        for name, (peer, settings) in PEERS.items()
        for setting in settings
    }


def make_cases():
    tokens = FLAGS.batch_size * FLAGS.length
    cases = {"training step": side_by_side.Case(sides(make_training, {}), tokens, "tokens")}
    for rows in map(int, FLAGS.generated_rows):
        generation = sides(make_generation, rows)
        if peers.keras.config.backend() == "tensorflow":
            generation["products", "XLA"] = functools.partial(make_products, rows)
        tokens = rows * FLAGS.new_tokens
        cases[f"generation, batch {rows}"] = side_by_side.Case(generation, tokens, "tokens")
    return cases


def impossible():
    """The sides that cannot run here."""
    if peers.torch is None:
        print("torch or transformers is not installed: HF-PyTorch is left out")
        return {"HF-PyTorch"}
    if not shutil.which("g++"):
        print("no C++ compiler: torch.compile is left out")
        return {"HF-PyTorch/compiled"}
    return set()


def main(argv):
    command_line.flags_alone(argv)
    if FLAGS.folder:
        return side_by_side.run(make_cases(), impossible())
    with tempfile.TemporaryDirectory() as folder:
        FLAGS.folder = folder
        sys.argv.append(f"--folder={folder}")  # what measures memory is given these arguments too
        # Larger than GPT-2's own beginning, so that all that is computed shows in the logits.
        size = sizes()
        peers.keras.utils.set_random_seed(0)
        models.Gpt(**size, initializer_range=size["d_model"] ** -0.5).save_pretrained(folder)
        side_by_side.run(make_cases(), impossible())


if __name__ == "__main__":
    app.run(main)
