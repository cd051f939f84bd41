"""BERT-base: keras_xfmr against KerasHub and against transformers on PyTorch.

12 blocks, d_model 768, 12 heads, inner size 3072, vocabulary 30,522; a flag for each. Cases:

- a training step of masked language modelling, batch 8 x 128, 20 predictions in every row,
  dropout 0.1, AdamW: `BertPretrainer(next_sentence=False)` and `BertMaskedLM` by `train_on_batch`,
  `BertForMaskedLM` with `torch.optim.AdamW(fused=True)`;
- the encoder's answer to a batch of 8 x 128, of 64 to 128 tokens, and to one sentence of 16:
  `predict_on_batch`, and `BertModel` in `torch.inference_mode()`;
- loading a folder of `config.json` and `model.safetensors` by `from_pretrained` (KerasHub:
  `from_preset`), building the model included, beside reading the bytes of the file;
- loading alone, into a model that is there (KerasHub has no call for it):
  `checkpoints.load_pretrained`, and `load_state_dict(load_file(...))`;
- building alone, without values, beside Keras' own layers of the same kinds, sizes and number.

A Keras side runs with XLA and as a plain graph, PyTorch eagerly and under `torch.compile`, and the
best of each is compared. All have the same ids, mask, segments, places and labels, the same dropout
also on attention weights, and decay of 0.01. What differs is each library's own:

- transformers computes logits at all 128 positions, the others at the 20 masked ones: a fifth more
  work in a step of the base model. "gathered" takes its encoder and head apart and computes what
  the others compute;
- transformers leaves a mask out that is 1 everywhere, as that of the one sentence is;
- KerasHub has the tanh GELU built in, the others the exact one of the published model unless
  `--hidden_act=gelu_pytorch_tanh` says otherwise;
- PyTorch in mixed_bfloat16 is `torch.autocast`, in bfloat16 a model of bfloat16 weights;
- transformers maps the file: "mapped" is its `from_pretrained` alone, in the other row the weights
  are then read once. A call also frees what it loaded.

Before anything is timed, every side must begin near the loss log(vocabulary) and learn the batch
within a few steps, give the vectors that the first side gives, and load the first side's weights.

    python -m benchmarks.bert --only_case="training step, float32" --rounds=7
    python -m benchmarks.bert --only_case="forward 8 x 128, float32"
    python -m benchmarks.bert --precision=mixed_bfloat16,bfloat16
    python -m benchmarks.bert --only_case=loading

Prints for each case the median time with quartiles, how many times as fast ours is, and the peak
memory of each side in a process of its own. All these processes import TensorFlow and PyTorch, so
read differences. The sides of a case live in one process, with their optimizers: where memory is
short, leave some out. Needs torch and transformers for PyTorch's sides, and a C++ compiler for
`torch.compile`; leaves out, with a note, what cannot be. PyTorch's threads wait passively here; on
a machine that does nothing else try OMP_WAIT_POLICY=ACTIVE in front too, its own default.
"""

import functools
import itertools
import math
import pathlib
import shutil
import sys
import tempfile

import numpy as np
from absl import app, flags

from benchmarks import bert_peers as peers
from benchmarks import side_by_side
from examples import command_line

FLAGS = flags.FLAGS
flags.DEFINE_list("precision", ["float32"], "Of float32, mixed_bfloat16 and bfloat16.")
flags.DEFINE_integer("batch_size", 8, "Rows of a batch, where it is not 1.", lower_bound=2)
flags.DEFINE_integer("length", 128, "Positions of a row, where the batch is not 1.")
flags.DEFINE_integer("short_length", 16, "Positions of the one sentence.")
flags.DEFINE_integer("predictions", 20, "Masked positions of a row.")
flags.DEFINE_string("folder", None, "Set by the parent: a random model in transformers' format.")

PRECISIONS = ("float32", "mixed_bfloat16", "bfloat16")
KERAS_SETTINGS = {"XLA": True, "graph": False}
CHECKED_STEPS = 4
LEARNED = 0.2  # what the loss falls by in these, more than dropout moves it
# The largest root mean square of differences to the first side's vectors, of which each has a mean
# square near 1. KerasHub's other GELU is within the first.
TOLERANCES = {"float32": 1e-3, "mixed_bfloat16": 0.05, "bfloat16": 0.05}


# ---- sides that check what they do


def make_training(train, batch, places, labels, precision, *setting):
    """A function that trains one step, of a side that has been seen to learn."""
    step = train(batch, places, labels, precision, *setting)
    losses = [step() for _ in range(CHECKED_STEPS)]
    print(f"{train.__name__}{setting}: losses", *(f"{loss:.3f}" for loss in losses), flush=True)
    if abs(losses[0] - math.log(FLAGS.vocab_size)) > 1 or not losses[-1] < losses[0] - LEARNED:
        raise AssertionError(f"{train.__name__}{setting} does not learn: {losses}.")
    return step


def make_forward(encode, found, batch, precision, *setting):
    """A function that encodes a batch; `found` holds the first side's vectors."""
    call = encode(FLAGS.folder, batch, precision, *setting)
    vectors = call()
    vectors = vectors.float().numpy() if hasattr(vectors, "numpy") else np.asarray(vectors, "f4")
    vectors = vectors[batch["attention_mask"] == 1]
    if vectors.shape != (batch["attention_mask"].sum(), FLAGS.d_model):
        raise AssertionError(f"{encode.__name__}{setting} gave {vectors.shape}.")
    difference = np.sqrt(np.mean((vectors - found.setdefault("vectors", vectors)) ** 2))
    print(f"{encode.__name__}{setting}: differs from the first by {difference:.1e}", flush=True)
    if not difference < TOLERANCES[precision]:
        raise AssertionError(f"More than {TOLERANCES[precision]}.")
    return call


def make_loading(load, found):
    """A function that loads a model, which has been seen to be the first side's."""
    if load is not peers.read_file:
        weights = peers.weights_of(load(FLAGS.folder))
        total = sum(np.abs(array).sum(dtype="float64") for array in weights)
        measure = (sum(array.size for array in weights), total)
        if not np.allclose(measure, found.setdefault("weights", measure), rtol=1e-6, atol=0):
            raise AssertionError(f"{load.__name__} loaded {measure}, not {found['weights']}.")
        del weights
    return peers.let_go(load, FLAGS.folder)


# ---- cases


def keras_sides(ours, hub):
    """(peer, setting) -> the two Keras sides, each with XLA and without."""
    functions = {"keras_xfmr": ours, "KerasHub": hub}
    return {
        (peer, setting): functools.partial(function, jit_compile)
        for (peer, function), (setting, jit_compile) in itertools.product(
            functions.items(), KERAS_SETTINGS.items()
        )
    }


def training_case(precision):
    lengths = [FLAGS.length] * FLAGS.batch_size
    lengths[-1] = max(FLAGS.length // 2, FLAGS.predictions + 2)
    batch = peers.make_batch(lengths, FLAGS.length)
    data = (batch, *peers.make_predictions(lengths, FLAGS.predictions), precision)
    ours, hub, hf = (
        functools.partial(make_training, train, *data)
        for train in (peers.train_ours, peers.train_hub, peers.train_torch)
    )
    sides = keras_sides(ours, hub) | {
        ("HF-PyTorch", "eager"): functools.partial(hf, False, False),
        ("HF-PyTorch", "gathered"): functools.partial(hf, True, False),
        ("HF-PyTorch", "compiled"): functools.partial(hf, True, True),
    }
    return side_by_side.Case(sides, FLAGS.batch_size * FLAGS.length, "tokens")


def forward_case(batch_size, length, precision):
    lengths = np.linspace(length, length // 2, batch_size).astype(int)
    batch, found = peers.make_batch(lengths, length), {}
    ours, hub, hf = (
        functools.partial(make_forward, encode, found, batch, precision)
        for encode in (peers.encode_ours, peers.encode_hub, peers.encode_torch)
    )
    sides = keras_sides(ours, hub) | {
        ("HF-PyTorch", "eager"): functools.partial(hf, False),
        ("HF-PyTorch", "compiled"): functools.partial(hf, True),
    }
    # The positions of padding count, as every side computes them.
    calls = 1 if batch_size > 1 else 5
    return side_by_side.Case(sides, batch_size * length, "positions", calls=calls)


def loading_cases():
    found = {}
    loaders = {
        "keras_xfmr": peers.load_ours,
        "KerasHub": peers.load_hub,
        "HF-PyTorch": peers.load_torch,
        "HF, mapped": peers.map_torch,
        "file's bytes": peers.read_file,
    }
    sides = {
        (name, "load"): functools.partial(make_loading, load, found)
        for name, load in loaders.items()
    }
    alone = {
        ("keras_xfmr", "load"): functools.partial(peers.fill_ours, FLAGS.folder),
        ("HF-PyTorch", "load"): functools.partial(peers.fill_torch, FLAGS.folder),
        ("file's bytes", "load"): functools.partial(
            peers.let_go, peers.read_file, FLAGS.folder
        ),
    }
    building = {
        ("keras_xfmr", "load"): functools.partial(peers.let_go, peers.build_ours, FLAGS.folder),
        ("Keras' layers", "load"): functools.partial(
            peers.let_go, peers.build_layers, FLAGS.folder
        ),
    }
    megabytes = peers.weights_file(FLAGS.folder).stat().st_size / 1e6
    return {
        "loading": side_by_side.Case(sides, megabytes, "MB"),
        "loading alone": side_by_side.Case(alone, megabytes, "MB", memory=False),
        "building": side_by_side.Case(building, megabytes, "MB", memory=False),
    }


def make_cases():
    cases = {}
    shapes = ((FLAGS.batch_size, FLAGS.length), (1, FLAGS.short_length))
    for precision in FLAGS.precision:
        if precision not in PRECISIONS:
            raise ValueError(f"--precision must be among {PRECISIONS}. Received: {precision!r}.")
        if precision != "bfloat16":  # AdamW's updates would vanish in weights of 8 bits
            cases[f"training step, {precision}"] = training_case(precision)
        for shape in shapes:
            cases[f"forward {shape[0]} x {shape[1]}, {precision}"] = forward_case(*shape, precision)
    return cases | loading_cases()


def impossible(cases):
    """The sides that cannot run here."""
    if peers.torch is None:
        print("torch or transformers is not installed: HF-PyTorch is left out")
        sides = {side for case in cases.values() for side in case.sides}
        return {peer for peer, _ in sides if peer.startswith("HF")}
    if not shutil.which("g++"):
        print("no C++ compiler: torch.compile is left out")
        return {"HF-PyTorch/compiled"}
    return set()


def run():
    cases = make_cases()
    side_by_side.run(cases, impossible(cases))


def main(argv):
    command_line.flags_alone(argv)
    if FLAGS.folder:
        return run()
    with tempfile.TemporaryDirectory() as folder:
        FLAGS.folder = folder
        sys.argv.append(f"--folder={folder}")  # what measures memory is given these arguments too
        # Larger than BERT's own beginning, so that all that is computed shows in the vectors.
        model = peers.make_ours(initializer_range=FLAGS.d_model**-0.5)
        model.save_pretrained(pathlib.Path(folder))
        run()


if __name__ == "__main__":
    app.run(main)
