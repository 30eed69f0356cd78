"""``--engine tensorflow_model_server``: the real server in this process's place, with the same options."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from toolkit.errors import InputError, ServerError
from toolkit.server.models.folders import model_folders
from toolkit.server.options import METRICS_PATH, ServerOptions

__all__ = ["BINARY", "arguments", "exec_real_server"]

BINARY = "tensorflow_model_server"

# Options of the embedded server that the real one lacks.
_OURS = frozenset(
    {
        "access_log", "auth_token_file", "count_tokens", "drain_delay_seconds", "enable_reflection",
        "grace_period_seconds", "host", "log_format", "log_level", "max_deadline_seconds", "max_message_bytes",
        "max_rows", "metrics_path", "rest_api_max_concurrent_calls", "rest_tls", "wait_for_models",
    }
)  # fmt: skip


def exec_real_server(options: ServerOptions, given: set[str], passed_on: Mapping[str, str]) -> NoReturn:
    """Becomes the real server. ``given``: options that were set; ``passed_on``: flags that only it knows.

    Raises `ServerError` if it is not on PATH, `InputError` for an option that it does not have.
    """
    binary = shutil.which(BINARY)
    if binary is None:
        raise ServerError(f"{BINARY} is not on PATH; leave out --engine to serve without it")
    os.execv(binary, [BINARY, *arguments(options, given, passed_on)])


def arguments(options: ServerOptions, given: set[str], passed_on: Mapping[str, str]) -> list[str]:
    """The real server's command line; configuration that it wants as files is in this process's memory.

    Raises as `exec_real_server` does.
    """
    if unknown := sorted(given & _OURS):
        raise InputError(f"--{unknown[0]} works only with the embedded engine; {BINARY} does not have it")
    flags: dict[str, object] = {name: getattr(options, name) for name in sorted(given)}
    flags["port"] = options.port or _free_port()
    if options.rest_api_port >= 0:
        flags["rest_api_port"] = options.rest_api_port or _free_port()
    else:
        flags["rest_api_port"] = 0  # which means none there
    if options.models_dir is not None:
        flags["model_config_file"] = _model_config(options.models_dir)
    if options.model_base_path is not None:
        flags["model_base_path"] = options.model_base_path.resolve()
    if options.monitoring_config_file is None:
        flags["monitoring_config_file"] = _file(
            "monitoring.config", f'prometheus_config {{ enable: true, path: "{METRICS_PATH}" }}\n'
        )
    return [f"--{name}={_text(value)}" for name, value in {**flags, **passed_on}.items()]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) else str(value)


def _model_config(models_dir: Path) -> str:
    lines = [
        f'  config {{ name: "{name}" base_path: "{path.resolve()}" model_platform: "tensorflow" }}'
        for name, path in model_folders(models_dir).items()
    ]
    if not lines:
        raise ServerError(f"{models_dir}: no model found; expected folders <model>/<version number>/")
    return _file("models.config", "\n".join(["model_config_list {", *lines, "}", ""]))


def _file(name: str, text: str) -> str:
    """The path of a file in memory, which the program that takes this process's place inherits, and nobody else.

    It ends with that program: a file in a folder would be left behind, as nobody is there to remove it.
    """
    descriptor = os.memfd_create(name, flags=0)  # kept open across exec
    os.write(descriptor, text.encode())
    return f"/proc/self/fd/{descriptor}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
