"""``sentence-serving serve``: TF Serving's APIs without TF Serving, under its flag names."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from toolkit.errors import InputError
from toolkit.server import Server, ServerOptions

__all__ = ["command"]

# option -> help. The first group are tensorflow_model_server's own flags; defaults and types are ServerOptions'.
_TF_SERVING: dict[str, str] = {
    "port": "gRPC port; 0: a free one.",
    "grpc_socket_path": "UNIX socket for gRPC, besides the port.",
    "rest_api_port": "REST port; 0: a free one; -1: no REST.",
    "rest_api_num_threads": "Threads for REST requests.",
    "rest_api_timeout_in_ms": "A REST request is given up after this long (504).",
    "rest_api_enable_cors_support": "Send CORS headers.",
    "model_name": "Name of the model at --model_base_path.",
    "model_base_path": "One model's folder (absolute or relative), with version folders in it.",
    "model_config_file": "Text ModelServerConfig: several models, version policies, labels.",
    "model_config_file_poll_wait_seconds": "Read --model_config_file again every so often; 0: once.",
    "file_system_poll_wait_seconds": "Look for new versions every so often.",
    "allow_version_labels_for_unavailable_models": "Let new labels name versions that are not loaded yet.",
    "max_num_load_retries": "How often a version that fails to load is tried again.",
    "load_retry_interval_micros": "Pause before each such try.",
    "num_load_threads": "Versions loaded at once.",
    "saved_model_tags": "Comma separated tags of the meta graph to load.",
    "enable_batching": "Join requests of several callers in one run.",
    "batching_parameters_file": "Text BatchingParameters; needs --enable_batching.",
    "enable_per_model_batching_parameters": "Take batching_params.pbtxt from each version's folder.",
    "enable_model_warmup": "Run assets.extra/tf_serving_warmup_requests before a version is available.",
    "num_request_iterations_for_warmup": "Runs of each warm-up request.",
    "tensorflow_session_parallelism": "Threads, both within an op and among ops; 0: TensorFlow chooses.",
    "tensorflow_intra_op_parallelism": "Threads within an op.",
    "tensorflow_inter_op_parallelism": "Threads among ops.",
    "enable_serialization_as_tensor_content": "Answer gRPC with tensor_content instead of repeated values.",
    "ssl_config_file": "Text SSLConfig with inline PEM: TLS, and with client_verify mutual TLS.",
    "monitoring_config_file": "Text MonitoringConfig: whether and where the metrics page is.",
    "grpc_channel_arguments": "Comma separated key=value channel arguments.",
    "grpc_max_threads": "gRPC calls in work at once; more get RESOURCE_EXHAUSTED.",
    "enable_grpc_healthcheck_service": "Serve grpc.health.v1.Health, with each model as a service.",
}
_OURS: dict[str, str] = {
    "host": "Address to listen on.",
    "rest_api_max_concurrent_calls": "REST requests in work or waiting; more get 429.",
    "rest_tls": "Use --ssl_config_file for REST too.",
    "auth_token_file": "Bearer tokens, one a line; requests need one of them.",
    "max_message_bytes": "Largest request.",
    "pin_front": "Keep the threads that talk to clients on one CPU; TensorFlow's use all.",
    "max_rows": "Most rows in a request; 0: no limit.",
    "max_deadline_seconds": "Longest run of a request; 0: no limit.",
    "wait_for_models": "Wait at the start for models that have no version yet, instead of refusing.",
    "metrics_path": "Path of the metrics page; empty: none.",
    "enable_reflection": "Serve gRPC reflection.",
    "count_tokens": "Count tokens and truncated texts of exported models.",
    "access_log": "File for a line a request; - is stderr.",
    "log_format": "Form of all logs.",
    "log_level": "What is logged.",
    "grace_period_seconds": "Time for requests in work after SIGTERM.",
    "drain_delay_seconds": "Time between SIGTERM and the end of accepting, with readiness already off.",
}
# Flags of the real server that mean nothing here; --engine tensorflow_model_server passes them on.
_ENGINE_ONLY = (
    "enable_profiler",
    "flush_filesystem_caches",
    "mixed_precision",
    "num_unload_threads",
    "per_process_gpu_memory_fraction",
    "platform_config_file",
    "prefer_tflite_model",
    "remove_unused_fields_from_bundle_metagraph",
    "tensorflow_session_config_file",
    "thread_pool_factory_config_file",
    "use_alts_credentials",
    "xla_cpu_compilation_enabled",
)


def _parameter(kind: Any) -> Any:
    """The click type of a field of `ServerOptions`."""
    if isinstance(kind, types.UnionType):
        kind = next(item for item in get_args(kind) if item is not types.NoneType)
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    return click.Path(path_type=Path) if kind is Path else kind


def _options(function: Callable[..., None]) -> Callable[..., None]:
    """Adds an option for each field of `ServerOptions`, spelt with underscores as TF Serving spells its flags.

    A boolean takes an optional value, so that ``--enable_batching`` and ``--enable_batching=true`` are both right.
    """
    for name in reversed(_ENGINE_ONLY):
        function = click.option(f"--{name}", name, default=None, is_flag=False, flag_value="true", hidden=True)(
            function
        )
    hints = get_type_hints(ServerOptions)
    fields = {item.name: item for item in dataclasses.fields(ServerOptions)}
    for name, text in reversed((_TF_SERVING | _OURS).items()):
        default, factory = fields[name].default, fields[name].default_factory
        if factory is not dataclasses.MISSING:
            default = factory()
        extra: dict[str, Any] = {"is_flag": False, "flag_value": True} if hints[name] is bool else {}
        function = click.option(
            f"--{name}",
            name,
            type=_parameter(hints[name]),
            default=default,
            show_default=default not in (None, ""),
            help=text,
            **extra,
        )(function)
    return function


@click.command("serve")
@click.argument("models_dir", required=False, type=click.Path(path_type=Path))
@_options
@click.option(
    "--engine",
    type=click.Choice(["embedded", "tensorflow_model_server"]),
    default="embedded",
    show_default=True,
    help="Serve here, or become the real server found on PATH, with the same options.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the addresses as JSON.")
@click.pass_context
def command(context: click.Context, /, models_dir: Path | None, engine: str, as_json: bool, **values: Any) -> None:
    """Serve every model folder in MODELS_DIR, or what the options say, until SIGTERM or Ctrl-C.

    The options are those of tensorflow_model_server where it has them. As soon as all models are available, one line on
    stdout says where the server listens.
    """
    passed_on = {name: value for name in _ENGINE_ONLY if (value := values.pop(name)) is not None}
    options = ServerOptions(models_dir=models_dir, **values)
    if engine == "tensorflow_model_server":
        from toolkit.server.engine import exec_real_server

        default = click.core.ParameterSource.DEFAULT
        given = {name for name in values if context.get_parameter_source(name) is not default}
        exec_real_server(options, given, passed_on)
    if passed_on:
        raise InputError(f"--{next(iter(passed_on))} works only with --engine tensorflow_model_server")
    serve(options, as_json)


def serve(options: ServerOptions, as_json: bool) -> None:
    """Runs the embedded server until SIGTERM or SIGINT, then ends it in order."""
    from toolkit.cli.display import quiet_tensorflow
    from toolkit.server.watching.accesslog import configure

    quiet_tensorflow("server")
    configure(options.log_level, options.log_format)
    signals = (signal.SIGTERM, signal.SIGINT)

    def interrupt(*_: object) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        raise _Interrupted

    for number in signals:
        signal.signal(number, interrupt)
    server = Server(options)
    try:
        server.start()
        _announce(server, options, as_json)
        while not server.wait(3600):
            pass
    except _Interrupted:
        server.stop()


class _Interrupted(BaseException):
    """A signal asks for the end."""


def _announce(server: Server, options: ServerOptions, as_json: bool) -> None:
    host = "127.0.0.1" if options.host in ("0.0.0.0", "::", "[::]") else options.url_host
    addresses = {"grpc": f"{host}:{server.grpc_port}"}
    if server.rest_port is not None:
        scheme = "https" if options.ssl_config_file and options.rest_tls else "http"
        addresses["rest"] = f"{scheme}://{host}:{server.rest_port}"
    line = "serving " + " ".join(f"{name}={address}" for name, address in addresses.items())
    click.echo(json.dumps(addresses) if as_json else line)
    sys.stdout.flush()
