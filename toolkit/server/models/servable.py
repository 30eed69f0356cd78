"""One loaded model version: a SavedModel in a TensorFlow session, ready to run its signatures.

A session's prepared callable is what TF Serving itself runs (same pruning, same error texts), and costs a tenth of what
a ``tf.function`` call does: about 30 microseconds.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.framework import errors, op_def_registry
from tensorflow.python.saved_model import loader_impl

from toolkit.errors import ArtifactError
from toolkit.server.models import batching
from toolkit.server.models.configfiles import Batching
from toolkit.server.models.signature import Signature, Tensor
from toolkit.server.requests import wire
from toolkit.server.requests.status import Code, ServingError, invalid
from toolkit.server.runtime import optimize_once, text_libraries
from toolkit.server.watching.process import settle
from toolkit.signatures import SIGNATURES

__all__ = ["DEFAULT_SIGNATURE", "RunOptions", "Servable", "Signature", "Timing", "check_batch", "count_rows"]

Array = npt.NDArray[Any]

DEFAULT_SIGNATURE = "serving_default"
TOKEN_COUNTS = ("num_tokens", "truncated")  # outputs of an exported model's "detailed" signature, besides its embedding
# Kernels of tensorflow-text take an input's shape on trust: another one than the signature's ends the process, or gives
# a row the answer of another. Elsewhere a wrong shape is the graph's to judge, as it is on TF Serving.
_TRUSTS_SHAPES = re.compile("Fast(BertNormalize|Sentencepiece|Wordpiece)|TFText>").match
_DOCUMENTED = {tensor.name: place for item in SIGNATURES for place, tensor in enumerate(item.inputs)}
_MAX_CALLABLES = 64  # each distinct selection of outputs is pruned and optimised once, and kept


@dataclass(frozen=True)
class RunOptions:
    """How sessions run. Thread counts of 0 leave the choice to TensorFlow; ``timeout_ms`` 0 is no limit."""

    tags: tuple[str, ...] = ("serve",)
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    in_callers: bool = False
    """Run a graph in the thread that asks for it, which must not be one that is kept on one CPU with others."""
    timeout_ms: int = 0
    batching: Batching | None = None
    count_tokens: bool = True


class Timing(NamedTuple):
    """Where a run's time went. It is read when metrics are asked for, not while a request waits."""

    record: Array
    """float64 ``[rows, 6]``, the columns being `batching.RECORD`; a run on its own is one line."""
    submitted: float
    batched: bool


class Servable:
    """A model version in memory. Raises `ArtifactError` if it cannot be loaded.

    ``lease``/``release`` count the requests in work; `close` waits for them.
    """

    def __init__(self, name: str, version: int, path: Path, options: RunOptions) -> None:
        self.name = name
        self.version = version
        self.path = path
        self._options = options
        self._callables: dict[tuple[tuple[str, ...], tuple[str, ...]], Callable[..., list[Array]]] = {}
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._leases = 0
        self._closing = False
        self._session, definitions, self.stages, ops = _load(path, options)
        self.signatures = {key: _signature(key, definition) for key, definition in definitions.items()}
        self.counting = self._counting() if options.count_tokens else None
        """The signature that is run in place of the default one, for its token counts; None: there is none."""
        self._checks_shapes = self._is_ours() or any(map(_TRUSTS_SHAPES, ops))
        self._batched: dict[str, batching.Batched] = {}
        if options.batching is not None:
            counting = {DEFAULT_SIGNATURE: self.counting} if self.counting is not None else {}
            self._batched = batching.add_twins(
                self._session.graph, self.signatures.values(), options.batching, counting, TOKEN_COUNTS
            )
            self._start_schedulers()

    def _start_schedulers(self) -> None:
        """Runs every twin without rows, which runs nothing: its scheduler's threads begin here, and not where a request
        meets it first; they stay on the CPUs of the thread that began them."""
        for name, twin in self._batched.items():
            types = self.signatures[name].dtypes.values()
            rows = [np.zeros((0, *inner), dtype) for inner, dtype in zip(twin.inner, types, strict=True)]
            self._callable(name, twin.feeds, twin.fetches)(*rows)

    def _counting(self) -> Signature | None:
        """The signature of an exported model that gives the default one's outputs and the token counts too.

        Only artifacts that carry their provenance promise that the two give the same outputs.
        """
        default, detailed = self.signatures.get(DEFAULT_SIGNATURE), self.signatures.get("detailed")
        if default is None or detailed is None or not self._is_ours():
            return None
        same = default.input_types == detailed.input_types
        return detailed if same and detailed.outputs.keys() >= {*default.outputs, *TOKEN_COUNTS} else None

    def _is_ours(self) -> bool:
        """Whether the artifact carries its provenance, which this project's do."""
        return (self.path / "assets.extra" / "provenance.json").exists()

    @property
    def load_seconds(self) -> float:
        """How long loading took; ``stages`` has its parts."""
        return sum(self.stages.values())

    @property
    def batches(self) -> bool:
        """Whether requests of several callers are joined."""
        return bool(self._batched)

    # -- life ---------------------------------------------------------------------------------------------------------

    def lease(self) -> bool:
        """Counts a request in; False if the servable is going away."""
        with self._lock:
            if self._closing:
                return False
            self._leases += 1
            return True

    def release(self) -> None:
        """Counts a request out."""
        with self._lock:
            self._leases -= 1
            if self._closing and not self._leases:
                self._idle.notify_all()

    def close(self) -> None:
        """Waits for the requests in work, then frees the memory. No new lease is given from here on."""
        with self._lock:
            self._closing = True
            while self._leases:
                self._idle.wait()
        self._callables.clear()
        self._session.close()
        del self._session
        settle()  # graph and session objects refer to each other

    # -- work ---------------------------------------------------------------------------------------------------------

    def signature(self, name: str) -> Signature | None:
        """The signature called ``name``; the empty name is the default one."""
        return self.signatures.get(name or DEFAULT_SIGNATURE)

    def check_inputs(self, signature: Signature, given: Iterable[str]) -> None:
        """Raises as TF Serving does unless ``given`` are the signature's inputs (those with defaults may lack)."""
        names, wanted = set(given), signature.inputs.keys()
        if names == wanted:
            return
        if len(names) > len(wanted) or (len(names) < len(wanted) and not signature.definition.defaults):
            raise invalid(
                f"input size does not match signature: {len(names)}!={len(wanted)} len({_set(names)}) != "
                f"len({_set(wanted)}). Sent extra: {_set(names - wanted)}. "
                f"Missing but required: {_set(wanted - names)}."
            )
        defaults = signature.definition.defaults
        for alias in sorted(wanted - names - defaults.keys()):
            raise invalid(
                f"Signature input alias: {alias}(feed name: {signature.inputs[alias].name}) not found in request and "
                f"no default value provided. Inputs expected to be in the request {_set(names)}, or default input "
                f"alias set: {','.join(sorted(defaults))}"
            )
        if names - wanted:
            raise invalid(
                f"Inputs contains invalid name. Used request inputs: {','.join(sorted(names & wanted))}, request "
                f"input: {','.join(sorted(names))}"
            )

    def select(self, signature: Signature, output_filter: Iterable[str]) -> tuple[str, ...]:
        """The output aliases to answer with, sorted. Raises for unknown and repeated ones."""
        seen: set[str] = set()
        for alias in output_filter:
            if alias not in signature.outputs:
                raise invalid(
                    f"output tensor alias not found in signature: {alias} "
                    f"Outputs expected to be in the set {_set(signature.outputs)}."
                )
            if alias in seen:
                raise invalid(f"duplicate output tensor alias: {alias}")
            seen.add(alias)
        return tuple(sorted(seen or signature.outputs))

    def run(
        self, signature: Signature, inputs: Mapping[str, Array], outputs: tuple[str, ...]
    ) -> tuple[dict[str, Array], Timing]:
        """Runs the signature. Raises `ServingError` with TensorFlow's own code and text."""
        feeds = self._feeds(signature, inputs)
        batched = self._batched.get(signature.name)
        if batched is not None:
            check_batch(feeds)
        if self._checks_shapes:
            _check_shapes(signature, dict(zip(signature.inputs, feeds, strict=True)))
        started = time.time()
        try:
            if batched is not None and batched.accepts(feeds):
                results = self._callable(signature.name, batched.feeds, batched.fetches)(*feeds)
                timing = Timing(results.pop(), started, batched=True)
                arrays = dict(zip(signature.outputs, results, strict=True))
                return {alias: arrays[alias] for alias in outputs}, timing
            counting = self.counting if signature.name == DEFAULT_SIGNATURE else None
            source, wanted = (signature, outputs) if counting is None else (counting, (*outputs, *TOKEN_COUNTS))
            fetches = [source.outputs[alias].name for alias in wanted]
            tensors = [tensor.name for tensor in source.inputs.values()]
            results = self._callable(signature.name, tensors, fetches)(*feeds)
        except errors.OpError as error:
            raise ServingError(Code(error.error_code), error.message) from None
        except (TypeError, ValueError) as error:
            # numpy's and the session's own objections, such as text that is not bytes
            raise invalid(str(error)) from None
        counts = [float(array.sum()) for array in results[len(outputs) :]] or [0.0] * len(TOKEN_COUNTS)
        record = np.array([[started, time.time(), count_rows(feeds), 0.0, *counts]])
        return dict(zip(outputs, results)), Timing(record, started, batched=False)  # noqa: B905 - counts are left over

    def _feeds(self, signature: Signature, inputs: Mapping[str, Array]) -> list[Array]:
        defaults = signature.definition.defaults
        feeds = []
        for alias in signature.inputs:
            if alias in inputs:
                feeds.append(inputs[alias])
            else:
                feeds.append(wire.decode(alias, defaults[alias]))
        for alias, array in zip(signature.inputs, feeds, strict=True):
            if array.dtype != signature.dtypes[alias]:
                raise _type_error(signature, dict(zip(signature.inputs, feeds, strict=True)))
        return feeds

    def _callable(self, signature: str, feeds: list[str], fetches: list[str]) -> Callable[..., list[Array]]:
        # By what is fed and fetched: the default signature's requests and those of the one that counts share theirs.
        key = tuple(feeds), tuple(fetches)
        found = self._callables.get(key)
        if found is not None:
            return found
        options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
        options.run_options.timeout_in_ms = self._options.timeout_ms
        if signature in self._batched or self._options.in_callers:
            # In the caller's thread: with batching it only hands its rows over, and a batch runs on the scheduler's
            # threads; waking a thread of the inter-op pool would cost more than the work it is given.
            options.run_options.inter_op_thread_pool = -1
        with self._making:  # it takes seconds for a large graph: what others are making is waited for
            found = self._callables.get(key)
            if found is None:
                found = self._session._make_callable_from_options(options)
                if len(self._callables) >= _MAX_CALLABLES:
                    self._callables.pop(next(iter(self._callables)))
                self._callables[key] = found
        return found


def count_rows(arrays: Iterable[Array]) -> int:
    """The rows of a request: the longest first dimension; 1 where there is none."""
    return max([array.shape[0] for array in arrays if array.ndim], default=1)


def check_batch(feeds: Iterable[Array]) -> None:
    """Raises as TF Serving's batching session does for what has no rows, or not as many of each."""
    sizes = {array.shape[0] if array.ndim else None for array in feeds}
    if None in sizes:
        raise invalid("Batching Run() input tensors must have at least one dimension")
    if len(sizes) > 1:
        raise invalid("Batching Run() input tensors must have equal 0th-dimension size")


def _check_shapes(signature: Signature, feeds: Mapping[str, Array]) -> None:
    """Raises for an input of another shape than the signature's, in the words and order of `toolkit.graph.guard`."""
    for alias in sorted(feeds, key=lambda alias: _DOCUMENTED.get(alias, -1)):
        tensor, shape = signature.inputs[alias], feeds[alias].shape
        if not tensor.fits(shape):
            given = " ".join(map(str, shape))
            raise invalid(f"assertion failed: [{alias} must have the shape {tensor.shape_text()}, not] [{given}]")


def _type_error(signature: Signature, feeds: Mapping[str, Array]) -> ServingError:
    """TensorFlow's own words; it numbers the arguments in the order of tensor names."""
    order = sorted(signature.inputs, key=lambda alias: signature.inputs[alias].name)
    index, alias = next(
        (index, alias) for index, alias in enumerate(order) if feeds[alias].dtype != signature.dtypes[alias]
    )
    kind = feeds[alias].dtype
    given = "string" if kind.kind == "O" else wire.dtype_name(tf.as_dtype(kind).as_datatype_enum)
    wanted = wire.dtype_name(signature.inputs[alias].dtype)
    return invalid(f"Expects arg[{index}] to be {wanted} but {given} is provided")


def _set(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _tensor(info: meta_graph_pb2.TensorInfo) -> Tensor:
    shape = None
    if not info.tensor_shape.unknown_rank:
        shape = tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
    return Tensor(info.name, info.dtype, shape)


def _signature(name: str, definition: meta_graph_pb2.SignatureDef) -> Signature:
    inputs = {alias: _tensor(definition.inputs[alias]) for alias in sorted(definition.inputs)}
    return Signature(
        name=name,
        inputs=inputs,
        outputs={alias: _tensor(definition.outputs[alias]) for alias in sorted(definition.outputs)},
        definition=definition,
        dtypes={alias: wire.numpy_dtype(tensor.dtype) for alias, tensor in inputs.items()},
        input_types={alias: wire.dtype_name(tensor.dtype) for alias, tensor in inputs.items()},
    )


def _load(
    path: Path, options: RunOptions
) -> tuple[tf.compat.v1.Session, Mapping[str, meta_graph_pb2.SignatureDef], dict[str, float], set[str]]:
    """A session with the SavedModel in it, its signatures, the seconds that each stage of loading took, and its ops."""
    config = config_pb2.ConfigProto(
        intra_op_parallelism_threads=options.intra_op_threads,
        inter_op_parallelism_threads=options.inter_op_threads,
        use_per_session_threads=bool(options.inter_op_threads),
    )
    optimize_once(config)  # a model is ready sooner
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    stages: dict[str, float] = {}

    def timed(stage: str, started: float) -> float:
        now = time.perf_counter()
        stages[stage] = now - started
        return now

    try:
        now = time.perf_counter()
        loader = loader_impl.SavedModelLoader(str(path))
        definition = loader.get_meta_graph_def_from_tags(options.tags)
        ops = _register_ops(definition)
        now = timed("read", now)
        with session.graph.as_default():
            saver, _ = loader.load_graph(session.graph, list(options.tags))
            now = timed("import_graph", now)
            loader.restore_variables(session, saver)
            now = timed("restore_graph", now)
            loader.run_init_ops(session, list(options.tags))
            timed("init_graph", now)
    except BaseException as error:
        session.close()
        if isinstance(error, Exception) and not isinstance(error, ArtifactError):
            text = error.message if isinstance(error, errors.OpError) else str(error)
            raise ArtifactError(f"{path} cannot be loaded: {text}") from error
        raise
    # copies: parts of a message keep the whole of it in memory
    definitions = {
        name: meta_graph_pb2.SignatureDef.FromString(part.SerializeToString())
        for name, part in definition.signature_def.items()
    }
    return session, definitions, stages, ops


def _register_ops(meta_graph: meta_graph_pb2.MetaGraphDef) -> set[str]:
    """The ops of the model, all of them known by now; libraries of tensorflow-text are loaded as they are
    needed."""
    graph = meta_graph.graph_def
    nodes = [graph.node, *(function.node_def for function in graph.library.function)]
    functions = {function.signature.name for function in graph.library.function}
    used = {node.op for group in nodes for node in group} - functions

    def missing() -> list[str]:
        return sorted(op for op in used if op_def_registry.get(op) is None)

    for library in text_libraries() if missing() else ():
        try:
            tf.load_op_library(str(library))
        except errors.OpError as error:
            raise ArtifactError(f"tensorflow-text does not fit this TensorFlow: {error.message}") from None
        if not missing():
            break
    if unknown := missing():
        raise ArtifactError(f"the model uses ops that this TensorFlow does not have: {', '.join(unknown)}")
    return used
