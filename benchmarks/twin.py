"""The same encoder-decoder Transformer twice: keras_xfmr's, and its nearest twin from KerasHub.

No benchmark itself: `training_step` and `loss_curve` compare the two, `pipeline` takes ours.

The twin is written as a KerasHub user would: `TokenAndPositionEmbedding`, one table for source,
target and output, dropout on the embeddings, `TransformerEncoder` and `TransformerDecoder`,
post-norm or (`--norm_first`) pre-norm, ReLU, the norms' epsilon and the padding mask of the source
as in ours.
`--twin_positions=sine` takes `ReversibleEmbedding` + `SinePositionEncoding`; as KerasHub's
embeddings are small, the sinusoids drown them and the twin learns badly. `scaled_sine` multiplies
the embeddings by sqrt(d_model) first, which is the paper's model and ours.

What differs is each library's own:

- ours multiplies embeddings by sqrt(d_model) (`--noscale_embeddings`: it does not) and draws them
  from N(0, 1 / d_model); KerasHub does not scale (but see above) and draws from U(-0.05, 0.05);
- ours adds the paper's sinusoids, the twin's positions are learned: `--positions=learned` or
  `--twin_positions=scaled_sine` gives both the same;
- ours drops sublayer outputs and embedded inputs, as the paper does; KerasHub's layers drop
  attention weights too, at the same rate. `--attention_dropout` makes ours do that as well.
"""

import keras
import keras_hub
from absl import flags

from keras_xfmr import models

FLAGS = flags.FLAGS
flags.DEFINE_integer("d_model", 512, "Size of the vectors.")
flags.DEFINE_integer("num_heads", 8, "Attention heads.")
flags.DEFINE_integer("ffn_dim", 2048, "Inner size of the feed-forward networks.")
flags.DEFINE_integer("num_layers", 6, "Blocks on each side.")
flags.DEFINE_integer("vocab_size", 32_000, "Size of the vocabulary.")
flags.DEFINE_integer("source_length", 32, "Source tokens.")
flags.DEFINE_integer("target_length", 32, "Target tokens.")
flags.DEFINE_bool("attention_dropout", False, "Whether ours drops attention weights too.")
flags.DEFINE_enum("positions", "sine", ["sine", "learned"], "Positions of ours.")
flags.DEFINE_bool("scale_embeddings", True, "Whether ours multiplies embeddings by sqrt(D).")
flags.DEFINE_bool("norm_first", False, "Pre-norm blocks, and a norm after each stack.")
flags.DEFINE_enum(
    "twin_positions", "learned", ["learned", "sine", "scaled_sine"], "Positions of the twin."
)


def sizes():
    """What the flags say, as arguments of `keras_xfmr.models.Transformer`."""
    names = ("d_model", "num_heads", "ffn_dim", "num_layers")
    return {name: FLAGS[name].value for name in names}


def _longest():
    return max(FLAGS.source_length, FLAGS.target_length)


def make_ours(dropout):
    """`keras_xfmr.models.Transformer` with the flags' sizes."""
    learned = FLAGS.positions == "learned"
    return models.Transformer(
        FLAGS.vocab_size,
        **sizes(),
        dropout_rate=dropout,
        attention_dropout_rate=dropout if FLAGS.attention_dropout else 0.0,
        norm_first=FLAGS.norm_first,
        positions="learned" if learned else "interleaved",
        max_length=_longest() if learned else None,
        scale_embeddings=FLAGS.scale_embeddings,
    )


def make_twin(dropout):
    """The same from KerasHub's layers, with the same inputs and output."""
    source_ids = keras.Input((None,), dtype="int32", name="source_ids")
    target_ids = keras.Input((None,), dtype="int32", name="target_ids")
    embed, logits = _embedding()
    block = dict(
        intermediate_dim=FLAGS.ffn_dim,
        num_heads=FLAGS.num_heads,
        dropout=dropout,
        layer_norm_epsilon=1e-6,
        normalize_first=FLAGS.norm_first,
    )

    def final_norm(x):
        return keras.layers.LayerNormalization(epsilon=1e-6)(x) if FLAGS.norm_first else x

    source_mask = keras.ops.not_equal(source_ids, 0)
    x = keras.layers.Dropout(dropout)(embed(source_ids))
    for _ in range(FLAGS.num_layers):
        x = keras_hub.layers.TransformerEncoder(**block)(x, padding_mask=source_mask)
    memory = final_norm(x)
    x = keras.layers.Dropout(dropout)(embed(target_ids))
    for _ in range(FLAGS.num_layers):
        x = keras_hub.layers.TransformerDecoder(**block)(
            x, memory, encoder_padding_mask=source_mask
        )
    return keras.Model({"source_ids": source_ids, "target_ids": target_ids}, logits(final_norm(x)))


def _embedding():
    """ids -> vectors with positions, and vectors -> logits by the same table."""
    if FLAGS.twin_positions == "learned":
        embedding = keras_hub.layers.TokenAndPositionEmbedding(
            FLAGS.vocab_size, _longest(), FLAGS.d_model
        )
        return embedding, lambda x: embedding.token_embedding(x, reverse=True)
    tokens = keras_hub.layers.ReversibleEmbedding(FLAGS.vocab_size, FLAGS.d_model)
    positions = keras_hub.layers.SinePositionEncoding()

    factor = FLAGS.d_model**0.5 if FLAGS.twin_positions == "scaled_sine" else 1.0

    def embed(token_ids):
        vectors = tokens(token_ids) * factor
        return vectors + positions(vectors)

    return embed, lambda x: tokens(x, reverse=True)
