"""Names of the types in public signatures.

They are for readers and type checkers. Nothing is checked when the code runs. Types that depend on
the backend are `Any`: a tensor is one of TensorFlow or JAX, or a `keras.KerasTensor`.
"""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from typing_extensions import Self  # noqa: UP035  # `typing` has it from Python 3.11 on

    Mixin: TypeAlias = Any  # the base of a class that calls Keras' methods by `super()`
else:
    Self, Mixin = Any, object

__all__ = [
    "Activation",
    "ArrayLike",
    "Config",
    "Constraint",
    "DType",
    "Files",
    "Ids",
    "Index",
    "Initializer",
    "Logs",
    "Mixin",
    "ModelInputs",
    "Outputs",
    "Path",
    "Regularizer",
    "Search",
    "Seed",
    "Self",
    "Shape",
    "State",
    "Step",
    "Tensor",
    "Texts",
]

# ---- arrays

Tensor: TypeAlias = Any  # of the backend, or symbolic
ArrayLike: TypeAlias = Any  # a tensor, a NumPy array, or lists of numbers
Ids: TypeAlias = Any  # integers: a tensor, also ragged, a NumPy array, or lists
Texts: TypeAlias = Any  # strings: a tensor, also ragged, a NumPy array, or lists
Index: TypeAlias = int | Tensor  # a number, or a scalar tensor
Outputs: TypeAlias = Any  # a tensor, or a tuple of several if more outputs are requested
Shape: TypeAlias = tuple[int | None, ...]  # None where a size is not known
State: TypeAlias = Any  # a nest of tensors
ModelInputs: TypeAlias = Any  # an `ArrayLike`, or a dictionary of them by the names of inputs

# ---- arguments as Keras takes them: an object or its name

Activation: TypeAlias = str | Callable[[Tensor], Tensor]
Constraint: TypeAlias = Any
DType: TypeAlias = Any  # a dtype policy or its name
Initializer: TypeAlias = Any
Regularizer: TypeAlias = Any
Seed: TypeAlias = int | Any  # an integer or a `keras.random.SeedGenerator`
Config: TypeAlias = dict[str, Any]  # name of an argument -> plain value
Logs: TypeAlias = dict[str, float]

# ---- searches, see `keras_xfmr.decoding`

Step: TypeAlias = Callable[[Tensor, Tensor, State], tuple[Tensor, State]]  # or a `Decoder`
Search: TypeAlias = str | Callable[..., Any]

# ---- files

Path: TypeAlias = str | os.PathLike[str]
Files: TypeAlias = Path | Sequence[Path]
