"""TF Serving's text configuration files, read into frozen dataclasses.

The model list uses the message that tensorflow-serving-api ships. The batching, TLS and monitoring messages are not in
that package; their fields are declared here under a package name of our own, so that both can live in one process.
Unknown fields are refused by the text parser, which names them with their line.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

from toolkit.errors import ServerError

if TYPE_CHECKING:
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

__all__ = ["Batching", "Tls", "metrics_path", "read_batching", "read_models", "read_tls"]

_INT64, _STRING, _BOOL = "google.protobuf.Int64Value", "google.protobuf.StringValue", "google.protobuf.BoolValue"
_MESSAGES: dict[str, dict[str, str]] = {
    "BatchingParameters": {
        "max_batch_size": _INT64,
        "batch_timeout_micros": _INT64,
        "num_batch_threads": _INT64,
        "max_enqueued_batches": _INT64,
        "thread_pool_name": _STRING,
        "allowed_batch_sizes": "repeated int64",
        "pad_variable_length_inputs": "bool",
        "enable_large_batch_splitting": _BOOL,
        "max_execution_batch_size": _INT64,
    },
    "SSLConfig": {"server_key": "string", "server_cert": "string", "custom_ca": "string", "client_verify": "bool"},
    "PrometheusConfig": {"enable": "bool", "path": "string"},
    "MonitoringConfig": {"prometheus_config": "sentence_serving.config.PrometheusConfig"},
}
_SCALARS = {
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
}


@cache
def _messages() -> dict[str, Any]:
    """The message classes of `_MESSAGES`, in a descriptor pool of their own."""
    file = descriptor_pb2.FileDescriptorProto(
        name="sentence_serving/config.proto",
        package="sentence_serving.config",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            repeated = kind.startswith("repeated ")
            scalar = _SCALARS.get(kind.removeprefix("repeated "))
            descriptor = message.field.add(name=field, number=number, label=3 if repeated else 1)
            descriptor.type = scalar or descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
            if scalar is None:
                descriptor.type_name = f".{kind}"
    pool = descriptor_pool.DescriptorPool()
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    pool.Add(wrappers)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"sentence_serving.config.{name}"))
        for name in _MESSAGES
    }


def _read(path: Path, message: Any) -> Any:
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), message)
    except OSError as error:
        raise ServerError(f"{path}: cannot be read: {error.strerror}") from None
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ServerError(f"Invalid protobuf file: '{path}': {error}") from None


@dataclass(frozen=True)
class Batching:
    """Parameters of the batch scheduler, with TF Serving's defaults (``batching/README.md``)."""

    max_batch_size: int = 1000
    """Rows a request may have, and a batch too unless ``max_execution_batch_size`` is smaller."""
    batch_timeout_micros: int = 0
    """How long an incomplete batch waits for more."""
    num_batch_threads: int = 0
    """Batches in work at once; 0: as many as CPUs."""
    max_enqueued_batches: int = 10
    """Batches that may wait; more requests are refused with UNAVAILABLE."""
    allowed_batch_sizes: tuple[int, ...] = ()
    """A batch is filled up to the next of these, so that the runtime sees few shapes."""
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 0
    """With splitting: rows of one batch; 0: ``max_batch_size``."""
    thread_pool_name: str = ""

    @property
    def execution_sizes(self) -> tuple[int, ...]:
        """``allowed_batch_sizes`` for the scheduler's op, which takes the largest as the size to split at."""
        if not self.enable_large_batch_splitting:
            return self.allowed_batch_sizes
        largest = self.max_execution_batch_size or self.max_batch_size
        if not self.allowed_batch_sizes:
            return tuple(range(1, largest + 1))  # every size: no filling up
        return (*(size for size in self.allowed_batch_sizes if size < largest), largest)


def read_batching(path: Path) -> Batching:
    """A text ``BatchingParameters`` file. Raises `ServerError` naming file and field."""
    message = _read(path, _messages()["BatchingParameters"]())
    values: dict[str, Any] = {}
    for field, value in message.ListFields():
        values[field.name] = value.value if hasattr(value, "value") else value
    if values.pop("pad_variable_length_inputs", False):
        raise ServerError(
            f"{path}: pad_variable_length_inputs is true, which is not supported; requests whose inputs have "
            "free inner dimensions run without batching"
        )
    values["allowed_batch_sizes"] = sizes = tuple(values.get("allowed_batch_sizes", ()))
    batching = Batching(**values)
    for name in ("max_batch_size", "max_enqueued_batches"):
        if getattr(batching, name) <= 0:
            raise ServerError(f"{path}: {name} must be positive; was {getattr(batching, name)}")
    for name in ("batch_timeout_micros", "num_batch_threads", "max_execution_batch_size"):
        if getattr(batching, name) < 0:
            raise ServerError(f"{path}: {name} must be non-negative; was {getattr(batching, name)}")
    if batching.max_execution_batch_size > batching.max_batch_size:
        raise ServerError(f"{path}: max_execution_batch_size must not be larger than max_batch_size")
    if any(later <= earlier for earlier, later in zip((0, *sizes), sizes, strict=False)):
        raise ServerError(f"{path}: allowed_batch_sizes must be positive and monotonically increasing")
    if sizes and sizes[-1] != batching.max_batch_size:
        raise ServerError(f"{path}: final entry in allowed_batch_sizes must equal max_batch_size")
    return batching


@dataclass(frozen=True)
class Tls:
    """Keys and certificates, PEM."""

    server_key: bytes
    server_cert: bytes
    custom_ca: bytes | None
    client_verify: bool


def read_tls(path: Path) -> Tls:
    """A text ``SSLConfig`` file with PEM inline. Raises `ServerError`."""
    message = _read(path, _messages()["SSLConfig"]())
    for name in ("server_key", "server_cert"):
        if not getattr(message, name):
            raise ServerError(f"{path}: {name} is missing")
    if message.client_verify and not message.custom_ca:
        raise ServerError(f"{path}: client_verify is true, which needs custom_ca")
    return Tls(
        server_key=message.server_key.encode(),
        server_cert=message.server_cert.encode(),
        custom_ca=message.custom_ca.encode() or None,
        client_verify=message.client_verify,
    )


def metrics_path(path: Path) -> str:
    """Where a ``MonitoringConfig`` file wants the metrics page; empty if it does not."""
    message = _read(path, _messages()["MonitoringConfig"]())
    config = message.prometheus_config
    if not config.enable:
        return ""
    if not config.path.startswith("/"):
        raise ServerError(f"{path}: prometheus_config.path is {config.path!r}; it must begin with /")
    return str(config.path)


def read_models(path: Path) -> ModelServerConfig:
    """A text ``ModelServerConfig`` file. Raises `ServerError`."""
    from tensorflow_serving.config import model_server_config_pb2

    message = _read(path, model_server_config_pb2.ModelServerConfig())
    if message.WhichOneof("config") == "custom_model_config":
        raise ServerError(f"{path}: custom_model_config is not supported; supported: model_config_list")
    return message
