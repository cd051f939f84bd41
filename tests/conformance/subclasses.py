"""A user's subclasses: each overrides one documented method of a layer."""

from keras import ops

from keras_xfmr import layers


class MeanPooling(layers.CharacterCNN):
    def pool(self, features):
        return ops.mean(features, axis=1)


class HalvedAdd(layers.AddNorm):
    def add(self, inputs, sublayer_output, training=None):
        return super().add(inputs, 0.5 * sublayer_output, training=training)


class OwnNorm(layers.AddNorm):
    def normalize(self, inputs):
        return inputs / 3.0


class ScaledEncoderBlock(layers.EncoderBlock):
    def residual(self, name, inputs, sublayer, training=None):
        return 2.0 * super().residual(name, inputs, sublayer, training)


class ScaledDecoderBlock(layers.DecoderBlock):
    def residual(self, name, inputs, sublayer, training=None):
        return 2.0 * super().residual(name, inputs, sublayer, training)


class Halving(layers.Dropout):
    def call(self, inputs, training=False):
        return 0.5 * super().call(inputs, training=training)


class ShiftedHighway(layers.Highway):
    def call(self, inputs):
        return super().call(inputs) + 1.0


class ShiftedLayerNorm(layers.LayerNorm):
    def call(self, inputs):
        return super().call(inputs) + 1.0


class ShiftedRMSNorm(layers.RMSNorm):
    def call(self, inputs):
        return super().call(inputs) + 1.0


class OwnProjection(layers.MultiHeadAttention):
    def project_key_value(self, value, key=None, position=0):
        key, value = super().project_key_value(value, key, position)
        return 0.5 * key, value


class OwnQuery(layers.MultiHeadAttention):
    def project_query(self, query, position=0):
        return ops.flip(super().project_query(query, position), axis=2)


class StrictPast(layers.MultiHeadAttention):
    def compute_mask_for_scores(self, target_length, source_length, *, position=0, **kwargs):
        kwargs["use_causal_mask"] = True
        return super().compute_mask_for_scores(
            target_length, source_length, position=position - 1, **kwargs
        )


class LinearAttention(layers.MultiHeadAttention):
    def compute_attention(self, query, key, value, mask=None, bias=None, training=None):
        weights = ops.einsum("btnh,bsnh->bnts", query, key)
        return ops.einsum("bnts,bsnh->btnh", weights, value), weights


class BegunLSTM(layers.ProjectedLSTM):
    def get_initial_state(self, batch_size=None):
        return [state + 1.0 for state in super().get_initial_state(batch_size)]


class LastLayer(layers.ScalarMix):
    def compute_layer_weights(self, training=None):
        return ops.cast(ops.arange(self.weight.shape[0]) == self.weight.shape[0] - 1, "float32")


class LaterPositions(layers.PositionalEncoding):
    def call(self, inputs, offset=0):
        return super().call(inputs, offset=offset + 3)


class LaterRows(layers.PositionEmbedding):
    def call(self, inputs, offset=0):
        return super().call(inputs, offset=offset + 3)


class LaterAngles(layers.RotaryEmbedding):
    def call(self, inputs, offset=0):
        return super().call(inputs, offset=offset + 3)


class ShiftedTransform(layers.MaskedLMTransform):
    def call(self, inputs):
        return super().call(inputs) + 1.0


class NegativeBias(layers.VocabularyBias):
    def call(self, logits):
        return 2.0 * logits - super().call(logits)


class SquaredFFN(layers.PositionWiseFFN):
    def activate(self, inputs):
        return ops.square(super().activate(inputs))


class Unchecked(layers.TokenEmbedding):
    def check_ids(self, token_ids):
        pass

    def call(self, inputs, reverse=False):
        return super().call(inputs, reverse=reverse) + 1.0
