"""What a head needs of an encoder.

B batch, T length, D d_model
"""


class Encoder:
    """The protocol of encoders: what the heads of `models/heads/` read of them, and no more.

    A model that stands before `keras.Model` with this mixin, and has the attributes and methods
    below, goes under every head.

    Attributes:
        d_model: D.
        dropout_rate: by default that of a head, too.
        pad_token_id: the padding of its vocabulary.
        activation: a name of `PositionWiseFFN`, for a masked language model's head.
        layer_norm_eps: of its norms, likewise.
        token_embedding: its `TokenEmbedding`, to which such a head is tied.
        encoder_blocks: its blocks, the lowest first.
        pooler: the layer of `pool`, or None.
        declared_inputs: its `Inputs`; one of them is `token_ids`, one `attention_mask`.
        dtype_policy: of its layers.

    Example:

    >>> bert = Bert(100, d_model=16, num_heads=2, ffn_dim=32, num_layers=1)
    >>> isinstance(bert, Encoder), Classifier(bert).encoder is bert
    (True, True)
    """

    pooler = None

    def encode(self, **inputs):
        """The vectors of every position, `[B, T, D]`.

        Args:
            **inputs: the declared inputs by their names, `[B, T]` each.
        """
        raise NotImplementedError

    def pool(self, sequence):
        """One vector of a row, `[B, D]`: by default that of its first position."""
        return sequence[:, 0]

    def initializer(self):
        """What weights are drawn from, a fresh one for each layer."""
        raise NotImplementedError

    def embedding_layers(self):
        """The layers below the blocks, which `freeze` and the rates of layers count as one."""
        return (self.token_embedding,)
