"""LSTMs in both directions, and the state that they keep between batches.

B batch, T length, D features in, U units, P projection_dim
"""

import keras
from keras import ops

from keras_xfmr.layers import Dropout, ProjectedLSTM
from keras_xfmr.layers.composite import propagate_frozen
from keras_xfmr.models.core.pretrained import saved_initializer

DIRECTIONS = ("forward", "backward")


@keras.saving.register_keras_serializable("keras_xfmr")
class BidirectionalBlock(keras.layers.Layer):
    """A `ProjectedLSTM` for each direction; each sequence is in its reading order.

    Args:
        units, projection_dim, cell_clip, projection_clip: of both.
        skip_connection: whether each input is added to its output.
        dropout_rate: on the inputs.
        initializer: of the kernels; by default those of the layer.

    Call arguments:
        forward, backward: `[B, T, D]`; backward has the last word first.
        masks: bool `[B, T]` of both.
        initial_state: pairs (h, c) of both, or None for zeros.

    Returns:
        Both sequences `[B, T, P]`, and the last states as `initial_state`.
    """

    def __init__(
        self,
        units,
        projection_dim,
        *,
        cell_clip=None,
        projection_clip=None,
        skip_connection=False,
        dropout_rate=0.0,
        initializer=None,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)  # the state's c stays float32
        self._arguments = dict(
            units=units, projection_dim=projection_dim, cell_clip=cell_clip,
            projection_clip=projection_clip, skip_connection=skip_connection,
            dropout_rate=dropout_rate,
        )  # fmt: skip
        self.skip_connection = skip_connection
        self._given = keras.initializers.get(initializer)
        drawn = (
            {}
            if initializer is None
            else {
                f"{name}_initializer": self._given for name in ("kernel", "recurrent", "projection")
            }
        )
        self.dropout = Dropout(dropout_rate, dtype=self.dtype_policy, name="dropout")
        self.forward, self.backward = (
            ProjectedLSTM(
                units, projection_dim, cell_clip=cell_clip, projection_clip=projection_clip,
                return_state=True, dtype=self.dtype_policy, name=name, **drawn,
            )
            for name in ("forward", "backward")
        )  # fmt: skip

    def get_config(self):
        initializer = saved_initializer(self._given)
        return {**super().get_config(), **self._arguments, "initializer": initializer}

    def build(self, forward_shape, backward_shape=None):
        self.forward.build(forward_shape)
        self.backward.build(forward_shape)
        propagate_frozen(self)

    def projections(self):
        """No layer takes low-rank updates."""
        return []

    def call(self, forward, backward, masks=(None, None), initial_state=None, training=None):
        found = []
        for i, x in enumerate((forward, backward)):
            x = ops.cast(x, self.compute_dtype)
            y, *state = (self.forward, self.backward)[i](
                self.dropout(x, training=training),
                mask=masks[i],
                initial_state=None if initial_state is None else initial_state[i],
                training=training,
            )
            if self.skip_connection:
                y = y + x
            if masks[i] is not None:
                y = ops.where(ops.expand_dims(masks[i], -1), y, ops.zeros_like(y))
            found.append((y, tuple(state)))
        (forward, one), (backward, other) = found
        return forward, backward, (one, other)

    def compute_output_spec(
        self, forward, backward, masks=(None, None), initial_state=None, training=None
    ):
        found = [
            lstm.compute_output_spec(x)
            for lstm, x in zip((self.forward, self.backward), (forward, backward))
        ]
        (forward, *one), (backward, *other) = found
        return forward, backward, (tuple(one), tuple(other))


@keras.saving.register_keras_serializable("keras_xfmr")
class RowState(keras.layers.Layer):
    """The states of LSTMs between batches, as weights that are not trained.

    Args:
        rows: B.
        num_layers, projection_dim, units: of the LSTMs.

    Call arguments:
        inputs: `[B, T, P]`.
        state: None, or the state to keep: for each layer (h, c) of both directions.

    Returns:
        Without `state` the inputs, which have B rows, and the kept state; with it the inputs.
    """

    def __init__(self, rows, num_layers, projection_dim, units, **kwargs):
        super().__init__(autocast=False, **kwargs)  # c stays float32
        self._arguments = dict(
            rows=rows, num_layers=num_layers, projection_dim=projection_dim, units=units
        )
        self._kept = [
            [
                tuple(
                    self.add_weight(
                        name=f"{direction}_{i}_{name}", shape=(rows, size), initializer="zeros",
                        trainable=False, dtype="float32", autocast=False,
                    )
                    for name, size in (("h", projection_dim), ("c", units))
                )
                for direction in DIRECTIONS
            ]
            for i in range(num_layers)
        ]  # fmt: skip
        self.built = True

    def get_config(self):
        return {**super().get_config(), **self._arguments}

    def assign(self, values):
        for weight, value in zip(self.weights, values):
            weight.assign(value)

    def call(self, inputs, state=None):
        rows = self._arguments["rows"]
        if inputs.shape[0] not in (None, rows):
            raise ValueError(
                f"A batch must have state_rows={rows} rows. Received: {inputs.shape[0]}."
            )
        if state is None:
            # One row would be broadcast to the states of all rows.
            inputs = ops.reshape(inputs, (rows, *ops.shape(inputs)[1:]))
            return inputs, self._each(ops.convert_to_tensor)
        self.assign(keras.tree.flatten(state))
        return inputs

    def compute_output_spec(self, inputs, state=None):
        inputs = keras.KerasTensor(inputs.shape, dtype=inputs.dtype)
        if state is not None:
            return inputs
        return inputs, self._each(
            lambda weight: keras.KerasTensor(weight.shape, dtype=weight.dtype)
        )

    def _each(self, function):
        """`function` of each weight, in plain lists: JAX does not accept Keras' own lists."""
        return [[tuple(map(function, pair)) for pair in both] for both in self._kept]


class ResetState(keras.callbacks.Callback):
    """Begins each epoch, each evaluation and each prediction with a state of zeros.

    It must be the first callback: one that restores a backup, with the state, comes after it.
    """

    def __init__(self, begin):
        super().__init__()
        self._begin, self._before = begin, None

    def on_train_begin(self, logs=None):
        if self._begin:
            self.model.reset_state()

    def on_epoch_end(self, epoch, logs=None):
        self.model.reset_state()

    def on_test_begin(self, logs=None):
        self._before = [ops.convert_to_numpy(weight) for weight in self.model.state.weights]
        self.model.reset_state()

    def on_test_end(self, logs=None):
        self.model.state.assign(self._before)

    def on_predict_begin(self, logs=None):
        self.on_test_begin()

    def on_predict_end(self, logs=None):
        self.on_test_end()
