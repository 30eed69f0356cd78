"""What the embedded server can be told: ``tensorflow_model_server``'s names and defaults where it has the option."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from toolkit.errors import InputError

__all__ = ["METRICS_PATH", "ServerOptions"]

METRICS_PATH = "/monitoring/prometheus/metrics"

_NAME = re.compile(r"[^/:?#]+")


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class ServerOptions:
    """Options of `Server`. Exactly one of ``models_dir``, ``model_base_path`` and ``model_config_file`` says what is
    served.

    Raises `InputError` for values that cannot be used, naming the option.
    """

    # What is served
    models_dir: Path | None = None
    """A folder of model folders (``<models_dir>/<name>/<version>/``); every model in it is served under its name."""
    model_base_path: Path | None = None
    """One model's folder (``<model_base_path>/<version>/``), served as ``model_name``."""
    model_name: str = "default"
    model_config_file: Path | None = None
    """A text ``ModelServerConfig``, as for TF Serving."""
    model_config_file_poll_wait_seconds: float = 0
    """Seconds between looks at ``model_config_file``; 0: it is read once."""
    file_system_poll_wait_seconds: float = 1
    """Seconds between looks for new versions; 0: one look at the start; negative: none after the start either."""
    allow_version_labels_for_unavailable_models: bool = False
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    num_load_threads: int = 2
    saved_model_tags: str = "serve"
    wait_for_models: bool = False
    """Wait at the start until every configured model has a version (as TF Serving does) instead of refusing."""

    # Where it listens
    host: str = "0.0.0.0"
    port: int = 8500
    """gRPC port; 0: a free one."""
    grpc_socket_path: str = ""
    """A UNIX socket that serves gRPC as well."""
    rest_api_port: int = 8501
    """REST port; 0: a free one; -1: no REST."""
    rest_api_num_threads: int = field(default_factory=lambda: max(16, 4 * _cpus()))
    rest_api_max_concurrent_calls: int = 1024
    """REST requests that may be in work or waiting for a thread; more are refused with 429."""
    rest_api_timeout_in_ms: int = 30_000
    rest_api_enable_cors_support: bool = False
    grpc_max_threads: int = field(default_factory=lambda: max(128, 4 * _cpus()))
    """Calls that may be in work at once over gRPC; more are refused with RESOURCE_EXHAUSTED."""
    grpc_channel_arguments: str = ""
    """Comma separated ``key=value`` arguments of the gRPC server."""

    # How a model runs
    enable_batching: bool = False
    batching_parameters_file: Path | None = None
    enable_per_model_batching_parameters: bool = False
    enable_model_warmup: bool = True
    num_request_iterations_for_warmup: int = 1
    tensorflow_session_parallelism: int = 0
    tensorflow_intra_op_parallelism: int = 0
    tensorflow_inter_op_parallelism: int = 0
    enable_serialization_as_tensor_content: bool = False
    enable_signature_method_name_check: bool = False
    pin_front: bool = True
    """Keep the threads that talk to clients on one CPU, chosen at random, where the kernel can (Linux)."""

    # Who may ask, and how much
    ssl_config_file: Path | None = None
    rest_tls: bool = True
    """Use ``ssl_config_file`` for REST too (TF Serving does not)."""
    auth_token_file: Path | None = None
    """A file of bearer tokens, one a line; requests without one of them are refused."""
    max_message_bytes: int = 2**31 - 1
    """Largest request body, on either API."""
    max_rows: int = 0
    """Largest first dimension of an input; 0: no limit."""
    max_deadline_seconds: float = 0
    """No gRPC call is worked on for longer than this; 0: the client's deadline alone counts."""

    # What it tells
    monitoring_config_file: Path | None = None
    metrics_path: str = METRICS_PATH
    """Path of the metrics page on the REST port; empty: none. ``monitoring_config_file`` overrides it."""
    enable_grpc_healthcheck_service: bool = True
    enable_reflection: bool = True
    count_tokens: bool = True
    """Count tokens and truncated texts of exported models: their ``detailed`` signature runs for the default one."""
    access_log: str = ""
    """A file for one line a request; ``-`` is stderr; empty: none."""
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    # How it ends
    grace_period_seconds: float = 30
    """After SIGTERM, requests in flight may take this long."""
    drain_delay_seconds: float = 0
    """Between SIGTERM and the end of accepting: time for load balancers to see that readiness is gone."""

    @property
    def bare_host(self) -> str:
        """``host`` without brackets, which an IPv6 address may come with."""
        return self.host.removeprefix("[").removesuffix("]")

    @property
    def url_host(self) -> str:
        """``host`` as it stands before a port: an IPv6 address in brackets."""
        return f"[{self.bare_host}]" if ":" in self.host else self.host

    @property
    def intra_op_threads(self) -> int:
        """Threads within an op; 0: TensorFlow chooses."""
        return self.tensorflow_session_parallelism or self.tensorflow_intra_op_parallelism

    @property
    def inter_op_threads(self) -> int:
        """Threads among ops; 0: TensorFlow chooses."""
        return self.tensorflow_session_parallelism or self.tensorflow_inter_op_parallelism

    @property
    def runs_in_front(self) -> bool:
        """Whether the thread of a request runs the graph as well: one at a time spares a change of threads."""
        return self.inter_op_threads == 1 and not self.enable_batching

    def __post_init__(self) -> None:
        for check in (self._check_source, self._check_ports, self._check_batching, self._check_numbers):
            check()

    def _check_source(self) -> None:
        given = [
            name for name in ("models_dir", "model_base_path", "model_config_file") if getattr(self, name) is not None
        ]
        if len(given) != 1:
            wanted = "MODELS_DIR, --model_base_path and --model_config_file"
            raise InputError(f"give exactly one of {wanted}; given: {', '.join(given) or 'none'}")
        if not _NAME.fullmatch(self.model_name):
            raise InputError(f"--model_name is {self.model_name!r}; a name has none of the characters / : ? #")

    def _check_ports(self) -> None:
        for name, lowest in (("port", 0), ("rest_api_port", -1)):
            value = getattr(self, name)
            if not lowest <= value <= 65535:
                raise InputError(f"--{name} is {value}; it must be between {lowest} and 65535")
        if self.port == self.rest_api_port != 0:
            raise InputError(f"--rest_api_port cannot be same as --port ({self.port})")
        for argument in filter(None, self.grpc_channel_arguments.split(",")):
            if "=" not in argument:
                raise InputError(f"--grpc_channel_arguments: {argument!r} is not of the form key=value")

    def _check_batching(self) -> None:
        if self.batching_parameters_file is not None and not self.enable_batching:
            raise InputError("--batching_parameters_file is set without setting --enable_batching to true.")
        if self.enable_per_model_batching_parameters and not self.enable_batching:
            raise InputError("--enable_per_model_batching_parameters needs --enable_batching")

    def _check_numbers(self) -> None:
        checks: dict[str, tuple[Callable[[float], bool], str]] = {
            "rest_api_num_threads": (lambda value: value > 0, "positive"),
            "rest_api_max_concurrent_calls": (lambda value: value > 0, "positive"),
            "rest_api_timeout_in_ms": (lambda value: value > 0, "positive"),
            "grpc_max_threads": (lambda value: value > 0, "positive"),
            "num_load_threads": (lambda value: value > 0, "positive"),
            "num_request_iterations_for_warmup": (lambda value: value > 0, "positive"),
            "max_message_bytes": (lambda value: 0 < value < 2**31, "between 1 and 2147483647"),
            "max_rows": (lambda value: value >= 0, "not negative"),
            "max_num_load_retries": (lambda value: value >= 0, "not negative"),
            "load_retry_interval_micros": (lambda value: value >= 0, "not negative"),
            "max_deadline_seconds": (lambda value: value >= 0, "not negative"),
            "grace_period_seconds": (lambda value: value >= 0, "not negative"),
            "drain_delay_seconds": (lambda value: value >= 0, "not negative"),
            "model_config_file_poll_wait_seconds": (lambda value: value >= 0, "not negative"),
            "tensorflow_session_parallelism": (lambda value: value >= 0, "not negative"),
            "tensorflow_intra_op_parallelism": (lambda value: value >= 0, "not negative"),
            "tensorflow_inter_op_parallelism": (lambda value: value >= 0, "not negative"),
        }
        for name, (holds, wanted) in checks.items():
            value = getattr(self, name)
            if not holds(value):
                raise InputError(f"--{name} is {value}; it must be {wanted}")
        if self.tensorflow_session_parallelism and (
            self.tensorflow_intra_op_parallelism or self.tensorflow_inter_op_parallelism
        ):
            raise InputError(
                "--tensorflow_session_parallelism cannot be set with --tensorflow_intra_op_parallelism or "
                "--tensorflow_inter_op_parallelism"
            )
