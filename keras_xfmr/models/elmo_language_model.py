"""The two language models that train an `Elmo`.

B batch, T length, C characters of a word, P projection_dim, V vocab_size, K sampled words
"""

import inspect
import types
from collections.abc import Iterable, Mapping
from typing import Any

import keras
from keras import ops

from keras_xfmr import functional, kernels
from keras_xfmr.checkpoints.families.elmo import softmax_size
from keras_xfmr.common.checks import check_int, check_positive_int
from keras_xfmr.common.types import ArrayLike, Config, ModelInputs, Tensor
from keras_xfmr.models.core.bidirectional import DIRECTIONS, ResetState, RowState
from keras_xfmr.models.core.compiled import Output
from keras_xfmr.models.core.inputs import Inputs, Range
from keras_xfmr.models.elmo import Elmo
from keras_xfmr.models.heads.head import Head
from keras_xfmr.models.heads.published import OverPublished

IGNORED = -1  # the label of positions that are not predicted


@keras.saving.register_keras_serializable("keras_xfmr")
class ElmoLanguageModel(OverPublished, Head):
    """Predicts the next word, and in the other direction the previous word (Peters et al. 2018).

        forward[t]  = softmax(W forward_L[t] + b)    of the word after position t
        backward[t] = the same W and b, over the text with the last word first

    The loss is the mean of both. Each direction reads its own input, as
    `keras_xfmr.text.BidirectionalLanguageModelDataset` makes them.

    Args:
        encoder: an `Elmo`; its weights are trained. `from_preset` makes one that reads characters.
        vocab_size: V, the number of words that it can predict.
        num_sampled: K: in training the softmax is over the label and K words that are drawn for the
            batch from P(k) = log((k + 2) / (k + 1)) / log(V + 1), for vocabularies sorted by
            frequency (`functional.sampled_logits`). Training then reports the loss over the sample,
            and no metrics. Evaluation uses all words. None, the default: always all words.
        state_rows: B, if rows continue in the next batch (`contiguous=True`): the LSTMs then begin
            with the state after the previous batch. The state is a weight that is not trained.
            `fit` begins each epoch with zeros, and does not shuffle; `evaluate` and `predict` begin
            with zeros, and restore the state afterwards. A call and the methods for one batch use
            the state and change it: see `reset_state`. A strategy of several replicas is refused.
            None, the default: each row begins with zeros.

    Inputs of the call, with sentence markers among the words:

    - `character_ids` `[B, T, C]`, or of an `Elmo` with a table of words `token_ids` `[B, T]`;
    - `reverse_character_ids` or `reverse_token_ids`, likewise: the last word of a sentence first.

    Returns:
        `{"forward": logits [B, T, V], "backward": logits [B, T, V]}`, each in its reading order.
        Labels are a dictionary with these names; labels of -1 are not learned. With `num_sampled` a
        call with `training=True` returns the vectors `[B, T, P]` instead.

    Raises:
        TypeError: `encoder` is not an `Elmo`.
        ValueError: sizes that do not fit.

    Example:

    >>> model = ElmoLanguageModel(Elmo.from_preset("tiny", vocab_size=31), 31)
    >>> ids = np.array([[2, 5, 7, 3]])
    >>> model({"token_ids": ids, "reverse_token_ids": ids[:, ::-1]})["forward"].shape
    (1, 4, 31)
    """

    over, family = Elmo, Elmo.family
    default_loss_weights = dict.fromkeys(DIRECTIONS, 0.5)

    def __init__(
        self,
        encoder: Elmo,
        vocab_size: int,
        *,
        num_sampled: int | None = None,
        state_rows: int | None = None,
        name: str | None = None,
        **kwargs,
    ) -> None:
        self.refuse_unknown(kwargs)
        if not isinstance(encoder, Elmo):
            raise TypeError(f"`encoder` must be a keras_xfmr.models.Elmo. Received: {encoder!r}.")
        self.vocab_size = check_positive_int("vocab_size", vocab_size)
        if num_sampled is not None:
            num_sampled = check_int("num_sampled", num_sampled, 1, self.vocab_size - 1)
            if self.vocab_size == encoder.projection_dim:
                raise ValueError(
                    "With `num_sampled`, `vocab_size` must not be the encoder's projection_dim. "
                    f"Received: vocab_size={vocab_size}, projection_dim={encoder.projection_dim}."
                )
        if state_rows is not None:
            state_rows = check_positive_int("state_rows", state_rows)
        self._held = types.SimpleNamespace(encoder=encoder, fitting=False)
        self.scalar_mix = None
        self.num_sampled, self.state_rows = num_sampled, state_rows
        policy = encoder.dtype_policy

        # ---- layers
        self.softmax = Softmax(
            self.vocab_size, vectors_in_training=num_sampled is not None, dtype=policy,
            kernel_initializer=keras.initializers.RandomNormal(stddev=encoder.projection_dim**-0.5),
            name="softmax",
        )  # fmt: skip
        self.state = None
        if state_rows is not None:
            sizes = encoder.get_config()
            shape = (state_rows, sizes["num_layers"], encoder.projection_dim, sizes["units"])
            self.state = RowState(*shape, dtype=policy, name="state")
        self.seed_generator = keras.random.SeedGenerator() if num_sampled else None

        # ---- functional graph
        (words,) = (one for one in encoder.declared_inputs if one.name == encoder.words_input)
        reverse = words._replace(name=f"reverse_{words.name}", like=words.name)
        self.declared_inputs = Inputs(words, reverse)
        inputs = self.declared_inputs.symbolic()
        outputs = dict(zip(DIRECTIONS, self._logits(list(inputs.values()))))
        super(Head, self).__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)
        self.dtype_policy = policy
        self._config = dict(
            vocab_size=self.vocab_size, num_sampled=num_sampled, state_rows=state_rows
        )

    def _logits(self, both):
        encoder = self.encoder
        vectors = [encoder.embed(ids) for ids in both]
        masks = [ops.cast(encoder.shown(ids), "bool") for ids in both]
        before = None
        if self.state is not None:
            vectors[0], before = self.state(vectors[0])
        layers, after = encoder.read(vectors, masks, before)
        top = layers[-1]
        if self.state is not None:
            top = [self.state(vectors, after) for vectors in top]
        return [self.softmax(encoder.embeddings_dropout(vectors)) for vectors in top]

    # ---- labels and the loss

    def label_ranges(self, labels: ModelInputs, inputs: Mapping[str, ArrayLike]) -> Iterable[Range]:
        for name, values in (labels if isinstance(labels, dict) else {}).items():
            ignored = self.ignored_label(name)
            yield Range(f"Labels of `{name}`", values, self.vocab_size, "vocab_size", ignored)

    def described_outputs(self) -> dict[str, Output]:
        return {name: Output("vocabulary", self.vocab_size, IGNORED) for name in DIRECTIONS}

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """As in Keras; with `num_sampled`, training uses the label and the sample."""
        if self._gave_vectors(y_pred):
            y, y_pred = self._sampled(y, y_pred)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """As in Keras; over a sample there are no metrics except the losses."""
        if not self._gave_vectors(y_pred):
            return super().compute_metrics(x, y, y_pred, sample_weight)
        return self._loss_results()

    def get_metrics_result(self) -> dict[str, Any]:
        """As in Keras; only the losses if no metric has been updated yet, as in sampled steps."""
        if all(getattr(metric, "built", True) for metric in self.metrics):
            return super().get_metrics_result()
        return self._loss_results()

    def _loss_results(self):
        return {one.name: one.result() for one in self.metrics if one.name.endswith("loss")}

    def _gave_vectors(self, outputs):
        return self.num_sampled is not None and outputs["forward"].shape[-1] != self.vocab_size

    def _sampled(self, labels, vectors):
        """Labels 0, and logits of the label and of the sample `[B, T, 1 + K]`."""
        labels = {
            name: ops.cast(values, "int32") for name, values in self._named_labels(labels).items()
        }
        drawn = functional.log_uniform(self.num_sampled, self.vocab_size, self.seed_generator)
        logits = {
            name: functional.sampled_logits(
                vectors[name], labels[name], drawn, self.softmax.kernel, self.softmax.bias
            )
            for name in DIRECTIONS
        }
        first = {name: ops.where(values < 0, values, 0) for name, values in labels.items()}
        return first, logits

    # ---- the state of contiguous rows

    def reset_state(self) -> None:
        """Sets the state of all rows to zeros, as `fit` and `evaluate` do themselves."""
        if self.state is not None:
            self.state.assign([ops.zeros(weight.shape) for weight in self.state.weights])

    def fit(self, x: Any = None, y: Any = None, *args, **kwargs) -> keras.callbacks.History:
        if self.state is None:
            return super().fit(x, y, *args, **kwargs)
        given = _arguments("fit", self, x, y, *args, **kwargs)
        self._check_rows(x, given.get("batch_size"), 1 - (given.get("validation_split") or 0))
        held_out = keras.utils.unpack_x_y_sample_weight(given.get("validation_data"))[0]
        if held_out is not None:
            size = given.get("validation_batch_size") or given.get("batch_size")
            self._check_rows(held_out, size)
        if given.setdefault("shuffle", False):
            raise ValueError(
                "Rows that continue in the next batch must not be shuffled. Pass shuffle=False. "
                f"Received: shuffle={given['shuffle']!r}."
            )
        outer = not self._held.fitting  # a broken epoch is ended by a `fit` inside
        given["callbacks"] = _with(given.get("callbacks"), ResetState(begin=outer))
        self._held.fitting = True
        try:
            return super().fit(**given)
        finally:
            self._held.fitting = not outer

    def evaluate(self, x: Any = None, y: Any = None, *args, **kwargs) -> Any:
        # Keras' `fit` calls this with its own arguments and its list of callbacks.
        if self.state is None or isinstance(
            kwargs.get("callbacks"), keras.callbacks.CallbackList
        ):
            return super().evaluate(x, y, *args, **kwargs)
        return super().evaluate(**self._with_reset("evaluate", x, y, *args, **kwargs))

    def predict(self, x: Any, *args, **kwargs) -> Any:
        if self.state is None:
            return super().predict(x, *args, **kwargs)
        return super().predict(**self._with_reset("predict", x, *args, **kwargs))

    def _with_reset(self, method, *args, **kwargs):
        """The arguments of a method that begins with a state of zeros, by their names."""
        given = _arguments(method, self, *args, **kwargs)
        self._check_rows(given["x"], given.get("batch_size"))
        given["callbacks"] = _with(given.get("callbacks"), ResetState(begin=True))
        return given

    def check_data(self, inputs: ModelInputs, labels: ModelInputs | None = None) -> None:
        super().check_data(inputs, labels)
        named = self.declared_inputs.named(inputs)
        if self.state_rows and isinstance(named, dict) and named:  # of one or more batches
            rows = len(next(iter(named.values())))
            self._refuse_rows(rows if rows % self.state_rows else self.state_rows)

    def _check_rows(self, data, batch_size, part=1.0):
        """Raises ValueError if a batch of arrays or of a data set would have other rows, or if
        several replicas would share one state."""
        replicas = kernels.replicas_of(self)
        if replicas > 1:
            raise ValueError(
                "A model with `state_rows` can only be trained by one replica. Leave `state_rows` "
                f"out under a strategy of several replicas. Received: {replicas}."
            )
        rows = found = self.state_rows
        named = self.declared_inputs.named(data)
        if isinstance(named, dict):  # arrays, of which `fit` may read a first part
            count, size = int(part * len(next(iter(named.values())))), batch_size or 32
            sizes = {min(count, size), count % size or min(count, size)}
            found = next(iter(sizes - {rows}), rows)
        elif hasattr(data, "element_spec"):
            found = keras.tree.flatten(data.element_spec)[0].shape[0] or "no fixed number"
        self._refuse_rows(found)

    def _refuse_rows(self, found):
        rows = self.state_rows
        if found != rows:
            raise ValueError(
                f"Each batch must have state_rows={rows} rows. Pass batch_size={rows}, batch data "
                "sets with `drop_remainder=True`, or use a "
                "`BidirectionalLanguageModelDataset(contiguous=True)`, which fills the last batch. "
                f"Received: {found}."
            )

    # ---- published weights

    @classmethod
    def _divide(cls, arguments):
        mine, encoder = super()._divide(arguments)
        encoder.pop("vocab_size", None)  # of the softmax; an encoder of words is passed whole
        return mine, encoder

    @classmethod
    def _head_arguments(cls, checkpoint, given):
        return {} if "vocab_size" in given else {"vocab_size": softmax_size(checkpoint)}

    def hub_config(self) -> Config:
        return {"architectures": ["ElmoLanguageModel"], "n_tokens_vocab": self.vocab_size}


@keras.saving.register_keras_serializable("keras_xfmr")
class Softmax(keras.layers.Dense):
    """Logits over a vocabulary; in training its input, unchanged, if the loss samples."""

    def __init__(self, units, *, vectors_in_training=False, **kwargs):
        super().__init__(units, **kwargs)
        self.vectors_in_training = vectors_in_training

    def get_config(self):
        return {**super().get_config(), "vectors_in_training": self.vectors_in_training}

    def call(self, inputs, training=None):
        if training and self.vectors_in_training:
            return inputs
        return super().call(inputs, training=training)

    def compute_output_spec(self, inputs, training=None):
        shape = (*inputs.shape[:-1], self.units)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)


def _arguments(method, *args, **kwargs):
    """The arguments of a method of `keras.Model` by their names, without the model."""
    bound = inspect.signature(getattr(keras.Model, method)).bind(*args, **kwargs)
    return {name: value for name, value in bound.arguments.items() if name != "self"}


def _with(callbacks, first):
    if callbacks is None:
        return [first]
    return [first, *(callbacks if isinstance(callbacks, (list, tuple)) else [callbacks])]
