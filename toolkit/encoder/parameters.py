"""A model's parameters as few variables of its graph."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

__all__ = ["Parameters"]


class Parameters(tf.Module):  # type: ignore[misc]
    """Arrays by name, in variables.

    What is a variable takes a handful of nodes in each path through the graph, and for a single short text nodes are
    what time goes into. So only matrices are variables of their own; all vectors of one dtype lie end to end in one.

    They are no constants: oneDNN would keep each float32 constant once more in the layout of the first batch it sees,
    which takes several times the memory, and each path through the graph would have constants of its own. Nor could a
    graph hold more than 2 GB of them.

    ``arrays`` is emptied: each array is let go as soon as its variable has it, so that a large model is in memory once.
    """

    def __init__(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        super().__init__()
        vectors: dict[str, dict[str, npt.NDArray[Any]]] = {}
        self._variables: dict[str, tf.Variable] = {}
        for name in list(arrays):
            array = arrays.pop(name)
            if array.ndim == 1:
                vectors.setdefault(f"{array.dtype.name}_vectors", {})[name] = array
            else:
                self._add(name, array)
        for kind, parts in vectors.items():
            self._add(kind, np.concatenate(list(parts.values())))
        self._sizes = {kind: {name: part.size for name, part in parts.items()} for kind, parts in vectors.items()}

    def _add(self, name: str, array: npt.NDArray[Any]) -> None:
        # a checkpoint's keys cannot contain slashes
        self._variables[name.replace("/", "__")] = tf.Variable(_as_tensor(array), trainable=False, name=name)

    def read(self) -> dict[str, tf.Tensor]:
        """The variables' values, to be given to `named` wherever the parameters are used: in a branch or a loop."""
        # In a function that is called the optimizer knows no shape of what is captured, and would not find LayerNorm.
        # On no device of the caller's: a variable is where all that read it can be.
        with tf.device(None):
            return {
                name.replace("__", "/"): tf.ensure_shape(variable.read_value(), variable.shape)
                for name, variable in self._variables.items()
            }

    def named(self, values: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Every parameter by its name, from what `read` gave."""
        found = {name: value for name, value in values.items() if name not in self._sizes}
        for kind, sizes in self._sizes.items():
            start = 0
            for name, size in sizes.items():
                # Not tf.split: the optimizer takes an operation's first result for each of its results where it puts
                # them into LayerNorm.
                found[name] = values[kind][start : start + size]
                start += size
        return found


def _as_tensor(array: npt.NDArray[Any]) -> tf.Tensor:
    """A copy of ``array`` whose memory goes back to the system with the last that holds it: what TensorFlow allocates
    by itself it keeps, and the process that exports a model would be as large to its end."""
    memory = mmap.mmap(-1, max(1, array.nbytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    copy = np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
    np.copyto(copy, array)
    if array.dtype != tf.bfloat16.as_numpy_dtype:
        return tf.experimental.dlpack.from_dlpack(copy.__dlpack__())
    return tf.bitcast(tf.experimental.dlpack.from_dlpack(copy.view(np.uint16).__dlpack__()), tf.bfloat16)
