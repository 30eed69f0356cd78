"""TensorFlow for what only runs artifacts: without Keras, which no graph needs, and which takes as long to import."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from toolkit.errors import ArtifactError, MissingExtraError

__all__ = ["import_runtime", "import_tensorflow", "optimize_once", "text_libraries"]


def import_runtime() -> None:
    """TensorFlow and the rest of the ``server`` extra, or a `MissingExtraError` that says how to get them."""
    try:
        import_tensorflow()
        for module in ("tensorflow_serving.apis", "grpc_health", "grpc_reflection", "prometheus_client", "uvicorn"):
            import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "tensorflow", "server") from None


def import_tensorflow() -> None:
    """TensorFlow without Keras, where neither is imported yet, with oneDNN's kernels unless the environment says
    otherwise: by itself it has them on processors with AVX512 alone, and they are ahead on those with AVX2 too.

    Raises ``ModuleNotFoundError``.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    with _without_keras():
        import_module("tensorflow")


def optimize_once(config: Any) -> None:
    """Let the graph optimizer of a ``ConfigProto`` go over a graph once, where two rounds are usual, the second of
    which changes next to nothing; and without the steps that change nothing in a graph without gradients and
    convolutions, and take as long as all that do: those for memory and for layouts, and MLIR's."""
    from tensorflow.core.protobuf import rewriter_config_pb2

    options = config.graph_options.rewrite_options
    options.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    options.memory_optimization = rewriter_config_pb2.RewriterConfig.NO_MEM_OPT
    options.layout_optimizer = rewriter_config_pb2.RewriterConfig.OFF
    options.disable_tfg_optimizer = True


def text_libraries() -> list[Path]:
    """The libraries of tensorflow-text's ops. Importing the package registers them too, and imports Keras.

    Raises `ArtifactError` if the package is not there.
    """
    spec = find_spec("tensorflow_text")
    folders = spec.submodule_search_locations if spec is not None else None
    libraries = sorted(file for folder in folders or () for file in Path(folder).glob("python/ops/_*.so"))
    if not libraries:
        raise ArtifactError("the model uses ops of tensorflow-text, which is not installed")
    return libraries


@contextmanager
def _without_keras() -> Iterator[None]:
    """TensorFlow, when it is imported, imports Keras if it can (the end of its ``__init__.py``): in here it cannot.
    Afterwards ``tf.keras`` is imported on first use, as ever. Keras that is imported already stays."""
    absent = [name for name in ("keras", "tf_keras") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: an import of it fails
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
