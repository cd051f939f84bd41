"""The same GPT-2 three times: keras_xfmr's, KerasHub's, and transformers' on PyTorch.

No benchmark itself: `gpt` compares the three. Each class loads one folder in transformers' format,
and has the same three methods: `logits`, `trainer` and `generator`. The last two return what is to
be timed: a step that returns its loss, a call that returns the new ids.

B batch, T length, P prompt length, N new tokens, V vocab_size
"""

import os

import keras
import keras_hub
import numpy as np
from absl import flags

from keras_xfmr import models, training

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is on this disk
# As in `bert_peers`: threads that wait must not take the cores from the other sides.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    import torch
    import transformers
except ImportError:
    torch = None
else:
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()

FLAGS = flags.FLAGS
flags.DEFINE_float("learning_rate", 1e-4, "Of AdamW.")

WEIGHT_DECAY = 0.01
NO_TOKEN = -1  # what no token has as its id


class Ours:
    """keras_xfmr's `Gpt`; `setting` is `"XLA"` or `"graph"`."""

    def __init__(self, folder, setting):
        keras.utils.set_random_seed(0)
        self._model = models.Gpt.from_pretrained(folder)
        self._jit_compile = setting == "XLA"

    def logits(self, ids):
        """`[B, T, V]` of ids `[B, T]`."""
        return keras.ops.convert_to_numpy(self._model(ids))

    def trainer(self, ids, labels):
        model = self._model
        optimizer = training.AdamW(FLAGS.learning_rate, weight_decay=WEIGHT_DECAY)
        loss = training.MaskedCrossEntropy(pad_id=-1)
        model.compile(optimizer, loss, jit_compile=self._jit_compile)
        ids, labels = map(keras.ops.convert_to_tensor, (ids, labels))
        return lambda: float(model.train_on_batch(ids, labels, return_dict=True)["loss"])

    def generator(self, prompt, new_tokens):
        self._model.end_id = NO_TOKEN  # so that a search generates every position
        options = dict(max_length=new_tokens, jit_compile=self._jit_compile)
        return lambda: self._model.generate(prompt, **options)["token_ids"]


class Hub:
    """KerasHub's `GPT2CausalLM` with its `GreedySampler`; `setting` as of `Ours`."""

    def __init__(self, folder, setting):
        keras.utils.set_random_seed(0)
        backbone = keras_hub.models.GPT2Backbone.from_preset(str(folder))
        self._model = keras_hub.models.GPT2CausalLM(backbone)
        self._jit_compile = setting == "XLA"

    def logits(self, ids):
        inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
        return keras.ops.convert_to_numpy(self._model(inputs))

    def trainer(self, ids, labels):
        model = self._model
        model.compile(
            keras.optimizers.AdamW(FLAGS.learning_rate, weight_decay=WEIGHT_DECAY),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            weighted_metrics=None,  # otherwise an accuracy, which the others do not compute
            jit_compile=self._jit_compile,
        )
        inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
        inputs = {name: keras.ops.convert_to_tensor(array) for name, array in inputs.items()}
        labels = keras.ops.convert_to_tensor(labels)
        return lambda: float(model.train_on_batch(inputs, labels, return_dict=True)["loss"])

    def generator(self, prompt, new_tokens):
        self._model.compile(
            sampler=keras_hub.samplers.GreedySampler(), jit_compile=self._jit_compile
        )
        rows, width = prompt.shape
        given = np.arange(width + new_tokens) < width
        inputs = {
            "token_ids": np.pad(prompt, [(0, 0), (0, new_tokens)]),
            "padding_mask": np.repeat(given[None], rows, axis=0).astype("int32"),
        }
        inputs = {name: keras.ops.convert_to_tensor(array) for name, array in inputs.items()}

        def generate():
            return self._model.generate(inputs, stop_token_ids=None)["token_ids"][:, width:]

        return generate


class Torch:
    """transformers' `GPT2LMHeadModel`; `setting` is `"eager"` or `"compiled"`.

    Compiled, its `generate` has the static cache that `torch.compile` needs, else the dynamic one,
    which is the faster of the two there.
    """

    def __init__(self, folder, setting):
        torch.set_num_threads(os.cpu_count())
        torch.manual_seed(0)
        self._model = transformers.GPT2LMHeadModel.from_pretrained(
            folder, attn_implementation="sdpa"
        ).eval()
        self._compiled = setting == "compiled"

    def logits(self, ids):
        with torch.inference_mode():
            return self._model(torch.from_numpy(ids).long()).logits.numpy()

    def trainer(self, ids, labels):
        model = self._model.train()
        optimizer = torch.optim.AdamW(
            model.parameters(), FLAGS.learning_rate, weight_decay=WEIGHT_DECAY, fused=True
        )
        ids, labels = (torch.from_numpy(x).long() for x in (ids, labels))

        def compute_loss():
            logits = model(ids, use_cache=False).logits.flatten(0, 1)
            return torch.nn.functional.cross_entropy(logits, labels.flatten())

        compute = torch.compile(compute_loss) if self._compiled else compute_loss

        def step():
            loss = compute()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()

        return step

    def generator(self, prompt, new_tokens):
        model, ids = self._model, torch.from_numpy(prompt).long()
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
        options = dict(max_new_tokens=new_tokens, do_sample=False, use_cache=True)
        if self._compiled:
            model.forward = torch.compile(model.forward)
            options["cache_implementation"] = "static"
        options["attention_mask"] = torch.ones_like(ids)

        def generate():
            with torch.inference_mode():
                return model.generate(ids, **options)[:, ids.shape[1] :].numpy()

        return generate
