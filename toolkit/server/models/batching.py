"""Requests of many callers in one run, by TensorFlow's own batch scheduler.

For a signature, the part of the graph between its inputs and outputs becomes a function, and a ``BatchFunction`` op
(the scheduler that TF Serving uses, in C++) calls it with the rows of several requests joined along the first axis.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import tensorflow as tf
from tensorflow.python.framework import dtypes
from tensorflow.python.ops import gen_batch_ops

from toolkit.server.models.configfiles import Batching

if TYPE_CHECKING:
    from toolkit.server.models.signature import Signature, Tensor

__all__ = ["Batched", "add_twins", "can_batch"]

Array = npt.NDArray[Any]

RECORD = ("start", "end", "rows", "row", "tokens", "truncated")
"""Columns of a run's record, float64, one line for each of the request's rows: when their batch started and ended, how
many rows it had, which of them this one is, and what an exported model counts."""


def can_batch(signature: Signature) -> bool:
    """Whether rows of different requests can be joined and the answers cut apart again without changing any of them.

    Inputs and outputs must have a free first dimension and fixed inner ones: free inner dimensions (token ids padded
    to the longest row) would make requests incompatible with each other, or an answer depend on its neighbours.
    """
    tensors = [*signature.inputs.values(), *signature.outputs.values()]
    return bool(signature.inputs) and all(
        tensor.shape is not None and tensor.shape[:1] == (None,) and None not in tensor.shape[1:] for tensor in tensors
    )


@dataclass(frozen=True)
class Batched:
    """The batched twin of a signature: names of its feeds, and of its fetches, the last being the `Timing`'s record."""

    feeds: list[str]
    fetches: list[str]
    inner: tuple[tuple[int, ...], ...]

    def accepts(self, arrays: Sequence[Array]) -> bool:
        """Whether these inputs can be joined with those of others; what cannot runs alone, with its own error.

        An empty request runs alone as well: the scheduler would answer it with outputs of another rank.
        """
        rows = arrays[0].shape[:1]
        return bool(rows) and all(
            array.size and array.shape == (*rows, *inner) for array, inner in zip(arrays, self.inner, strict=True)
        )


def add_twins(
    graph: tf.Graph,
    signatures: Iterable[Signature],
    parameters: Batching,
    counting: Mapping[str, Signature],
    counts: Sequence[str],
) -> dict[str, Batched]:
    """Adds the batched twin of every signature that has one to ``graph``; by signature name.

    The twin of a signature in ``counting`` runs that other one, and puts its outputs called ``counts`` on record.
    """
    chosen = [signature for signature in signatures if can_batch(counting.get(signature.name, signature))]
    definition = graph.as_graph_def() if chosen else None
    twins = {}
    for signature in chosen:
        source = counting.get(signature.name)
        tallies = [source.outputs[alias].name for alias in counts] if source is not None else []
        source = source or signature
        outputs = [source.outputs[alias] for alias in signature.outputs]
        twins[signature.name] = _add(graph, definition, source, outputs, tallies, parameters)
    return twins


def _add(
    graph: tf.Graph,
    definition: Any,
    signature: Signature,
    outputs: list[Tensor],
    tallies: list[str],
    parameters: Batching,
) -> Batched:
    inputs = list(signature.inputs.values())
    names = [item.name for item in outputs]
    needed = _upstream(definition, [*names, *tallies])
    with graph.as_default():
        handles = _handles(graph, needed)
        feeds = [tf.compat.v1.placeholder(dtypes.as_dtype(item.dtype), shape=None) for item in inputs]

        @tf.function(  # type: ignore[untyped-decorator]  # TensorFlow ships no types
            autograph=False,
            input_signature=[tf.TensorSpec(item.shape, dtypes.as_dtype(item.dtype)) for item in inputs],
        )
        def rows(*batch: tf.Tensor) -> list[tf.Tensor]:
            with tf.control_dependencies(batch):
                started = tf.timestamp()
            size = tf.shape(batch[0])[0]
            with tf.control_dependencies([started]):
                mapped = {item.name: tf.identity(tensor) for item, tensor in zip(inputs, batch, strict=True)}
            # An imported graph cannot refer to tensors outside of the function: each handle becomes a captured input.
            mapped |= {name: tf.compat.v1.get_default_graph().capture(tensor) for name, tensor in handles.items()}
            results = tf.import_graph_def(needed, mapped, return_elements=[*names, *tallies], name="model")
            with tf.control_dependencies(results):
                ended = tf.timestamp()
            filled = [tf.fill([size], value) for value in (started, ended, tf.cast(size, tf.float64))]
            counted = results[len(names) :] or [tf.zeros([size])] * len(RECORD[4:])
            columns = [tf.cast(column, tf.float64) for column in (tf.range(size), *counted)]
            return [*results[: len(names)], tf.stack([*filled, *columns], axis=1)]

        function = rows.get_concrete_function()
        fetches = gen_batch_ops.batch_function(
            in_tensors=feeds,
            captured_tensors=function.captured_inputs,
            f=function,
            Tout=[tensor.dtype for tensor in function.outputs],
            num_batch_threads=parameters.num_batch_threads or os.cpu_count() or 1,
            max_batch_size=parameters.max_batch_size,
            batch_timeout_micros=parameters.batch_timeout_micros,
            allowed_batch_sizes=list(parameters.execution_sizes),
            max_enqueued_batches=parameters.max_enqueued_batches,
            enable_large_batch_splitting=parameters.enable_large_batch_splitting,
            name=f"batched/{signature.name}",
        )
    shapes = [item.shape or () for item in inputs]
    return Batched(
        feeds=[tensor.name for tensor in feeds],
        fetches=[tensor.name for tensor in fetches],
        inner=tuple(tuple(size or 0 for size in shape[1:]) for shape in shapes),
    )


def _upstream(definition: Any, tensors: Iterable[str]) -> Any:
    """The part of a graph that ``tensors`` depend on, with all its functions."""
    nodes = {node.name: node for node in definition.node}
    found: dict[str, Any] = {}
    waiting = [_node(tensor) for tensor in tensors]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = nodes[name]
            waiting.extend(map(_node, nodes[name].input))
    part = type(definition)(versions=definition.versions, library=definition.library)
    part.node.extend(found.values())
    return part


def _node(tensor: str) -> str:
    return tensor.removeprefix("^").split(":")[0]


def _handles(graph: tf.Graph, needed: Any) -> dict[str, tf.Tensor]:
    """Variables and tables of the sub-graph: the function takes the graph's own, rather than making new ones."""
    found = {}
    for node in needed.node:
        operation = graph.get_operation_by_name(node.name)
        for tensor in operation.outputs:
            if tensor.dtype == tf.resource and not operation.inputs:
                found[tensor.name] = tensor
    return found
