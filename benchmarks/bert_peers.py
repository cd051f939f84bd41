"""The same BERT three times: keras_xfmr's, KerasHub's, and transformers' on PyTorch.

No benchmark itself: `bert` compares the three. Every function builds one side and returns what is
to be timed. A trained side returns its loss, an encoding side the vectors of every position.

B batch, T length, P predictions, D d_model
"""

import gc
import os
import pathlib

import keras
import keras_hub
import numpy as np
from absl import flags

from keras_xfmr import checkpoints, kernels, models, training
from keras_xfmr.models.core.pretrained import FilledLater

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is on this disk
# PyTorch's threads otherwise spin while they wait for one another, and take a time slice for each
# small operation as soon as another process wants a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    import safetensors.torch
    import torch
    import transformers
except ImportError:
    torch = None
else:
    transformers.utils.logging.disable_progress_bar()

FLAGS = flags.FLAGS
flags.DEFINE_integer("num_layers", 12, "Blocks.")
flags.DEFINE_integer("d_model", 768, "Size of the vectors.")
flags.DEFINE_integer("num_heads", 12, "Attention heads.")
flags.DEFINE_integer("ffn_dim", 3072, "Inner size of the feed-forward networks.")
flags.DEFINE_integer("vocab_size", 30_522, "Size of the vocabulary.")
flags.DEFINE_integer("max_length", 512, "Rows of the position table.")
flags.DEFINE_float("dropout", 0.1, "Dropout rate, of attention weights too.")
flags.DEFINE_enum(
    "hidden_act",
    "gelu",
    ["gelu", "gelu_pytorch_tanh"],
    "Activation of keras_xfmr and transformers: exact, or the approximation that KerasHub has.",
)
flags.DEFINE_float("learning_rate", 1e-4, "Of AdamW.")

WEIGHT_DECAY = 0.01
SPECIAL_IDS = 5  # ids below are no words
IGNORED = -100  # transformers' label where there is nothing to predict


# ---- what all sides are given


def make_batch(lengths, length, seed=0):
    """Random words in rows of these lengths, padded with id 0: arrays `[B, T]`."""
    draw = np.random.default_rng(seed)
    inside = np.arange(length) < np.asarray(lengths)[:, None]
    words = draw.integers(SPECIAL_IDS, FLAGS.vocab_size, inside.shape)
    return {
        "token_ids": np.where(inside, words, 0).astype("int32"),
        "segment_ids": np.zeros(inside.shape, "int32"),
        "attention_mask": inside.astype("int32"),
    }


def make_predictions(lengths, predictions, seed=1):
    """The same number of places in every row, and the words to predict there: `[B, P]` each."""
    draw = np.random.default_rng(seed)
    places = [
        1 + np.sort(draw.choice(row_length - 2, predictions, replace=False))
        for row_length in lengths
    ]
    labels = draw.integers(SPECIAL_IDS, FLAGS.vocab_size, (len(places), predictions))
    return np.asarray(places, "int32"), labels.astype("int32")


def make_ours(**config):
    """`models.Bert` of the flags' sizes."""
    names = ("num_layers", "d_model", "num_heads", "ffn_dim", "max_length", "hidden_act")
    sizes = {name: FLAGS[name].value for name in names}
    rates = {"dropout_rate": FLAGS.dropout, "attention_dropout_rate": FLAGS.dropout}
    return models.Bert(FLAGS.vocab_size, **sizes, **rates, **config)


def _tensors(arrays, **names):
    """Keras tensors, so that no step has to copy arrays; some under other names."""
    return {
        names.get(name, name): keras.ops.convert_to_tensor(array) for name, array in arrays.items()
    }


# ---- a training step


def train_ours(batch, places, labels, precision, jit_compile):
    """keras_xfmr's `BertPretrainer` without next sentences."""
    keras.utils.set_random_seed(0)
    model = models.BertPretrainer(make_ours(dtype=precision), next_sentence=False)
    loss = {"mlm": training.MaskedCrossEntropy()}
    optimizer = training.AdamW(FLAGS.learning_rate, weight_decay=WEIGHT_DECAY)
    model.compile(optimizer, loss, jit_compile=jit_compile)
    inputs = _tensors({**batch, "masked_positions": places})
    labels = _tensors({"mlm": labels})
    return lambda: float(model.train_on_batch(inputs, labels, return_dict=True)["loss"])


def train_hub(batch, places, labels, precision, jit_compile):
    """KerasHub's `BertMaskedLM`."""
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.BertBackbone(
        FLAGS.vocab_size,
        FLAGS.num_layers,
        FLAGS.num_heads,
        FLAGS.d_model,
        FLAGS.ffn_dim,
        dropout=FLAGS.dropout,
        max_sequence_length=FLAGS.max_length,
        dtype=precision,
    )
    backbone.pooled_dense.trainable = False  # which this task does not read
    model = keras_hub.models.BertMaskedLM(backbone)
    model.compile(
        keras.optimizers.AdamW(FLAGS.learning_rate, weight_decay=WEIGHT_DECAY),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=None,  # otherwise an accuracy, which the others do not compute
        jit_compile=jit_compile,
    )
    names = {"attention_mask": "padding_mask", "masked_positions": "mask_positions"}
    inputs = _tensors({**batch, "masked_positions": places}, **names)
    labels = keras.ops.convert_to_tensor(labels)
    return lambda: float(model.train_on_batch(inputs, labels, return_dict=True)["loss"])


def train_torch(batch, places, labels, precision, gathered, compiled):
    """transformers' `BertForMaskedLM`, which computes logits at all positions.

    `gathered` calls its two halves instead, the encoder and the head, with the vectors of the
    masked positions alone in between.
    """
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=FLAGS.vocab_size,
        num_hidden_layers=FLAGS.num_layers,
        hidden_size=FLAGS.d_model,
        num_attention_heads=FLAGS.num_heads,
        intermediate_size=FLAGS.ffn_dim,
        max_position_embeddings=FLAGS.max_length,
        hidden_dropout_prob=FLAGS.dropout,
        attention_probs_dropout_prob=FLAGS.dropout,
        hidden_act=FLAGS.hidden_act,
        attn_implementation="sdpa",
    )
    model = transformers.BertForMaskedLM(config).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), FLAGS.learning_rate, weight_decay=WEIGHT_DECAY, fused=True
    )
    inputs = _torch_inputs(batch)
    places, labels = torch.from_numpy(places).long(), torch.from_numpy(labels).long()
    everywhere = torch.full(inputs["input_ids"].shape, IGNORED).scatter(1, places, labels)
    rows = torch.arange(len(places))[:, None]

    def compute_loss():
        if not gathered:
            return model(**inputs, labels=everywhere).loss
        vectors = model.bert(**inputs).last_hidden_state[rows, places]
        logits = model.cls(vectors).flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, labels.flatten())

    compute = torch.compile(compute_loss) if compiled else compute_loss

    def step():
        with _autocast(precision):
            loss = compute()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


# ---- encoding


def encode_ours(folder, batch, precision, jit_compile):
    """keras_xfmr's `Bert`."""
    model = models.Bert.from_pretrained(folder, dtype=precision)
    model.compile(jit_compile=jit_compile)
    inputs = _tensors(batch)
    return lambda: model.predict_on_batch(inputs)[0]


def encode_hub(folder, batch, precision, jit_compile):
    """KerasHub's `BertBackbone`."""
    model = keras_hub.models.BertBackbone.from_preset(str(folder), dtype=precision)
    model.compile(jit_compile=jit_compile)
    inputs = _tensors(batch, attention_mask="padding_mask")
    return lambda: model.predict_on_batch(inputs)["sequence_output"]


def encode_torch(folder, batch, precision, compiled):
    """transformers' `BertModel`."""
    model = transformers.BertModel.from_pretrained(folder, attn_implementation="sdpa").eval()
    if precision == "bfloat16":
        model.to(torch.bfloat16)
    compute = torch.compile(model) if compiled else model
    inputs = _torch_inputs(batch)

    def call():
        with torch.inference_mode(), _autocast(precision):
            return compute(**inputs).last_hidden_state

    return call


def _torch_inputs(batch):
    names = {"token_ids": "input_ids", "segment_ids": "token_type_ids"}
    return {
        names.get(name, name): torch.from_numpy(array).long() for name, array in batch.items()
    }


def _autocast(precision):
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "mixed_bfloat16")


# ---- loading


def load_ours(folder):
    return models.Bert.from_pretrained(folder)


def build_ours(folder):
    """The model that `load_ours` fills."""
    with checkpoints.open_pretrained(folder) as checkpoint:
        return models.Bert(**checkpoint.arguments, initializer=FilledLater())


def build_layers(folder):
    """Keras' own layers of the kinds, sizes and number of ours, one by one, nothing around them."""
    d_model, heads, ffn_dim = FLAGS.d_model, FLAGS.num_heads, FLAGS.ffn_dim
    ids, x, inner = (None, None), (None, None, d_model), (None, None, ffn_dim)
    by_heads = (heads, d_model // heads)
    empty = {"kernel_initializer": lambda shape, dtype=None: kernels.empty(shape, dtype)}

    def attention():
        for _ in ("query", "key", "value"):
            yield keras.layers.EinsumDense("ab,bcd->acd", by_heads, bias_axes="cd", **empty), x[1:]
        equation = "abc,bcd->ad"
        yield keras.layers.EinsumDense(equation, d_model, bias_axes="d", **empty), (None, *by_heads)

    def layers():
        for rows in (FLAGS.vocab_size, 2, FLAGS.max_length):
            yield keras.layers.Embedding(rows, d_model, empty["kernel_initializer"]), ids
        for _ in range(FLAGS.num_layers):
            yield from attention()
            yield keras.layers.Dense(ffn_dim, **empty), x
            yield keras.layers.Dense(d_model, **empty), inner
            for _ in ("attention", "feed-forward network"):
                yield keras.layers.LayerNormalization(), x
                yield keras.layers.Dropout(FLAGS.dropout), x
            yield keras.layers.Dropout(FLAGS.dropout), x  # of the attention's weights
            # What holds these: the block, its attention, network and two residual connections.
            yield from ((keras.layers.Layer(), x) for _ in range(6))
        yield keras.layers.LayerNormalization(), x
        yield keras.layers.Dense(d_model, **empty), (None, d_model)

    built = []
    for layer, shape in layers():
        layer.build(shape)
        built.append(layer)
    return built


def load_hub(folder):
    return keras_hub.models.BertBackbone.from_preset(str(folder))


def map_torch(folder):
    """Parameters that are a view of the file, whose pages come when they are first used."""
    return transformers.BertModel.from_pretrained(folder)


def load_torch(folder):
    model = map_torch(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sum()
    return model


def read_file(folder):
    return weights_file(folder).read_bytes()


def fill_ours(folder):
    """Loading alone, into a model that is there."""
    model = load_ours(folder)

    def fill():
        with checkpoints.open_pretrained(folder) as checkpoint:
            checkpoints.load_pretrained(model, checkpoint)

    return fill


def fill_torch(folder):
    model = map_torch(folder)
    return lambda: model.load_state_dict(safetensors.torch.load_file(weights_file(folder)))


def let_go(load, folder):
    """A function that loads and forgets, so that one model is in memory at a time."""
    gc.collect()
    gc.freeze()  # a collection then looks at what was loaded, not at all imported modules

    def call():
        load(folder)
        gc.collect()

    return call


def weights_file(folder):
    return pathlib.Path(folder) / "model.safetensors"


def weights_of(loaded):
    """The arrays of a loaded model of any side."""
    if isinstance(loaded, keras.Model):
        return loaded.get_weights()
    return [parameter.detach().numpy() for parameter in loaded.parameters()]
