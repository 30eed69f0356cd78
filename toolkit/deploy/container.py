"""The entry point and the health check of the embedded server's image, which therefore needs no shell.

What ``serving/entrypoint`` is for stock TensorFlow Serving, whose image has no Python: the same variables, the same
flags, the same refusals word for word. The tests run both on one table of environments.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from toolkit.errors import InputError

__all__ = ["VARIABLES", "Start", "Variable", "become_the_server", "is_healthy", "plan"]

_AUTO = "auto"


@dataclass(frozen=True)
class Variable:
    """One variable: one of ``words``, or a whole number in ``between``, or any text where neither is given."""

    default: str
    meaning: str
    words: tuple[str, ...] = ()
    between: tuple[int, int] | None = None

    def checked(self, name: str, value: str) -> str:
        """``value``; raises `InputError` if it makes no sense."""
        if value in self.words:
            return value
        if self.between is not None:
            least, most = self.between
            if not re.fullmatch("0|[1-9][0-9]{0,8}", value, re.ASCII) or not least <= int(value) <= most:
                raise InputError(f"{name} is '{value}'; a whole number from {least} to {most} is needed")
        elif self.words:
            raise InputError(f"{name} is '{value}'; supported: {' '.join(self.words)}")
        return value


VARIABLES: dict[str, Variable] = {
    "SERVING_CONFIG_DIR": Variable("/etc/serving", "folder with models.config, batching.config, monitoring.config"),
    "SERVING_GRPC_PORT": Variable("8500", "gRPC port", between=(1, 65535)),
    "SERVING_REST_PORT": Variable("8501", "REST port: predictions, readiness, metrics", between=(1, 65535)),
    "SERVING_THREADS": Variable(
        _AUTO, "compute threads; auto: the cgroup's CPU limit, rounded down", (_AUTO,), (1, 1024)
    ),
    "SERVING_THREADS_PER_OP": Variable(
        "1", "compute threads that share one operation; auto: all of them", (_AUTO,), (1, 1024)
    ),
    "SERVING_CONCURRENCY": Variable(
        _AUTO, "requests in progress for each API; auto: 16 a thread, at least 128", (_AUTO,), (1, 65536)
    ),
    "SERVING_REST_TIMEOUT_MS": Variable("30000", "time limit of a REST request", between=(1, 86400000)),
    "SERVING_MAX_CONNECTION_AGE_MS": Variable(
        "300000",
        "gRPC connections are renewed at this age, so that clients find new replicas; 0: never",
        between=(0, 86400000),
    ),
    "SERVING_CONFIG_POLL_SECONDS": Variable(
        "0", "models.config is read again at this interval; 0: never", between=(0, 86400)
    ),
    "SERVING_TLS_DIR": Variable(
        "", "folder with tls.crt, tls.key and, for client certificates, ca.crt: turns on TLS on the gRPC port"
    ),
    "SERVING_CLIENT_CERTIFICATES": Variable(
        "off", "required: gRPC callers need a certificate signed by ca.crt", ("off", "required")
    ),
    "SERVING_JEMALLOC": Variable(
        "off", "on: allocate with jemalloc (the image must have libjemalloc.so.2)", ("off", "on")
    ),
}

# Flags that the variables and files decide may not come a second time as arguments.
_DECIDED = frozenset(
    {
        "port", "rest_api_port", "model_config_file", "model_config_file_poll_wait_seconds", "grpc_max_threads",
        "rest_api_num_threads", "rest_api_timeout_in_ms", "tensorflow_session_parallelism",
        "tensorflow_intra_op_parallelism", "tensorflow_inter_op_parallelism", "enable_batching",
        "batching_parameters_file", "monitoring_config_file", "ssl_config_file", "grpc_channel_arguments",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Start:
    """What the container becomes: the command, the library to preload (if any), and what is said about it first."""

    command: tuple[str, ...]
    preload: Path | None
    said: tuple[str, ...]


def plan(environment: Mapping[str, str], arguments: Sequence[str], cgroups: Path = Path("/sys/fs/cgroup")) -> Start:
    """Reads the variables and the folder of configuration. With TLS, it writes the server's ``ssl.config``.

    Raises `InputError` for a variable, argument or file that makes no sense.
    """
    values = _checked(environment)
    cpus, limit = _cpus(cgroups)
    threads = values["SERVING_THREADS"] if values["SERVING_THREADS"] != _AUTO else str(cpus)
    within = values["SERVING_THREADS_PER_OP"] if values["SERVING_THREADS_PER_OP"] != _AUTO else threads
    concurrency = values["SERVING_CONCURRENCY"]
    concurrency = concurrency if concurrency != _AUTO else str(max(128, 16 * int(threads)))
    config = Path(values["SERVING_CONFIG_DIR"])
    for argument in arguments:
        if re.sub("^--?", "", argument).partition("=")[0] in _DECIDED:
            raise InputError(f"argument '{argument}' is decided by a SERVING_ variable or a file in {config}")
    flags = [
        f"--port={values['SERVING_GRPC_PORT']}",
        f"--rest_api_port={values['SERVING_REST_PORT']}",
        f"--rest_api_timeout_in_ms={values['SERVING_REST_TIMEOUT_MS']}",
        f"--rest_api_num_threads={concurrency}",
        f"--grpc_max_threads={concurrency}",
        f"--tensorflow_intra_op_parallelism={within}",
        f"--tensorflow_inter_op_parallelism={threads}",
        f"--model_config_file={_models(config / 'models.config')}",
        f"--model_config_file_poll_wait_seconds={values['SERVING_CONFIG_POLL_SECONDS']}",
        "--allow_version_labels_for_unavailable_models=true",
        *arguments,
    ]
    said = []
    batching, metrics = config / "batching.config", config / "monitoring.config"
    if batching.is_file():
        flags += ["--enable_batching=true", f"--batching_parameters_file={_readable(batching)}"]
        code = " ".join(_tokens(batching))
        batch_threads = re.findall(r"num_batch_threads (?:: )?\{ value : ([0-9]*) \}", code)[-1:]
        if batch_threads not in ([], [""], [threads]):
            said.append(f"warning: batching.config has {batch_threads[0]} batch threads for {threads} compute threads")
    if metrics.is_file():
        flags.append(f"--monitoring_config_file={_readable(metrics)}")
    if values["SERVING_MAX_CONNECTION_AGE_MS"] != "0":
        age = values["SERVING_MAX_CONNECTION_AGE_MS"]
        flags.append(f"--grpc_channel_arguments=grpc.max_connection_age_ms={age}")
    if values["SERVING_TLS_DIR"]:
        flags.append(f"--ssl_config_file={_write_ssl_config(values, environment)}")
    elif values["SERVING_CLIENT_CERTIFICATES"] == "required":
        raise InputError("SERVING_CLIENT_CERTIFICATES is 'required' but SERVING_TLS_DIR is not set")
    preload = _jemalloc() if values["SERVING_JEMALLOC"] == "on" else None
    server = shutil.which("sentence-serving", path=environment.get("PATH"))
    if server is None:
        raise InputError("sentence-serving is not installed in this image")
    said.append(
        f"embedded server, {threads} threads ({limit}), batching {_on(batching.is_file())}, "
        f"metrics {_on(metrics.is_file())}, TLS {_on(bool(values['SERVING_TLS_DIR']))}, "
        f"gRPC :{values['SERVING_GRPC_PORT']}, REST :{values['SERVING_REST_PORT']}"
    )
    # As TensorFlow Serving does: wait for models that are not there yet, and no TLS on the REST port (probes use it).
    return Start((server, "serve", "--wait_for_models=true", "--rest_tls=false", *flags), preload, tuple(said))


def become_the_server(start: Start, environment: Mapping[str, str]) -> NoReturn:
    """Replaces this process, which is then the server under the same number."""
    variables = dict(environment)
    if start.preload is not None:
        variables["LD_PRELOAD"] = str(start.preload)
    os.execve(start.command[0], start.command, variables)


def is_healthy(environment: Mapping[str, str], timeout: float = 5.0) -> bool:
    """Whether the first model of ``models.config`` is loaded: its metadata is there only then.

    ``timeout`` in seconds. Raises `InputError` for a variable or file that makes no sense.
    """
    values = _checked(environment)
    file = _readable(Path(values["SERVING_CONFIG_DIR"]) / "models.config")
    names = _strings("name", file)
    if not names:
        raise InputError(f"{file}: no name in it")
    connection = http.client.HTTPConnection("127.0.0.1", int(values["SERVING_REST_PORT"]), timeout=timeout)
    try:
        connection.request("GET", f"/v1/models/{names[0]}/metadata")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _checked(environment: Mapping[str, str]) -> dict[str, str]:
    for name in environment:
        if name.startswith("SERVING_") and name not in VARIABLES:
            raise InputError(
                f"{name} is not a variable of this entry point; `sentence-serving container start --help` lists them"
            )
    values = {
        name: variable.checked(name, environment.get(name, variable.default)) for name, variable in VARIABLES.items()
    }
    if values["SERVING_GRPC_PORT"] == values["SERVING_REST_PORT"]:
        port = values["SERVING_GRPC_PORT"]
        raise InputError(f"SERVING_GRPC_PORT and SERVING_REST_PORT are both {port}; each API needs its own port")
    return values


def _cpus(cgroups: Path) -> tuple[int, str]:
    """Whole CPUs by the cgroup's limit (version 2, then 1), never more than the process may run on; and what it is.

    More compute threads than CPUs cost a factor, not a few per cent: the kernel suspends all of them when the quota is
    used up.
    """
    cpus = len(os.sched_getaffinity(0))
    if (file := cgroups / "cpu.max").is_file():
        quota, period = file.read_text().split()
    elif (file := cgroups / "cpu/cpu.cfs_quota_us").is_file():
        quota, period = file.read_text().strip(), (cgroups / "cpu/cpu.cfs_period_us").read_text().strip()
    else:
        quota, period = "max", "100000"
    if quota in ("max", "-1"):
        return cpus, f"no limit, {cpus} CPUs"
    return min(cpus, max(1, int(quota) // int(period))), f"limit {int(quota) * 1000 // int(period)}m"


def _models(file: Path) -> Path:
    base_paths = _strings("base_path", _readable(file))
    if not base_paths:
        raise InputError(f"{file}: no base_path in it; nothing would be served")
    # A folder that is not there yet would leave the server waiting without a word; object stores are not looked into.
    missing = [path for path in base_paths if "://" not in path and not Path(path).is_dir()]
    if missing:
        raise InputError(f"{file}: base_path is not a folder: {' '.join(missing)}")
    return file


def _write_ssl_config(values: Mapping[str, str], environment: Mapping[str, str]) -> Path:
    """The server wants the certificates inline in one text file; it is written where only this user can read it."""
    folder = Path(values["SERVING_TLS_DIR"])
    parts = {"server_key": "tls.key", "server_cert": "tls.crt"}
    if values["SERVING_CLIENT_CERTIFICATES"] == "required":
        parts["custom_ca"] = "ca.crt"
    text = ""
    for field, name in parts.items():
        lines = _readable(folder / name).read_text(encoding="utf-8").splitlines()
        text += f"{field}:\n" + "".join(f'  "{line}\\n"\n' for line in lines)
    if "custom_ca" in parts:
        text += "client_verify: true\n"
    target = Path(environment.get("TMPDIR") or "/tmp") / "ssl.config"
    try:
        descriptor, temporary = tempfile.mkstemp(dir=target.parent)  # readable by this user alone
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(temporary, target)
    except OSError:
        raise InputError(f"{target} cannot be written; TLS needs a writable {target.parent}") from None
    return target


def _jemalloc() -> Path:
    for pattern in ("*/libjemalloc.so.2", "libjemalloc.so.2"):
        for library in sorted(Path("/usr/lib").glob(pattern)):
            return library
    raise InputError("SERVING_JEMALLOC is 'on' but no libjemalloc.so.2 is installed; build with JEMALLOC=on")


def _readable(file: Path) -> Path:
    if not (file.is_file() and os.access(file, os.R_OK)):
        raise InputError(f"{file} is missing or not readable")
    return file


_TOKEN = re.compile(r"""\"(?:[^"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'|\#.*|[A-Za-z0-9_]+|\S""")


def _tokens(file: Path) -> list[str]:
    """The words, strings and signs of a text proto, without its comments."""
    return [token for token in _TOKEN.findall(file.read_text(encoding="utf-8")) if not token.startswith("#")]


def _strings(field: str, file: Path) -> list[str]:
    """The field's strings in a text proto, whichever quotes and spaces they are written with."""
    found: list[str] = []
    awaited = first = False
    for token in _tokens(file):
        if token[0] in "\"'":
            text = re.sub(r"\\(.)", r"\1", token[1:-1])
            if awaited and first:
                found.append(text)
            elif awaited:
                found[-1] += text  # strings side by side are one
            first = False
        elif token != ":":
            awaited = first = token == field
    return found


def _on(state: bool) -> str:
    return "on" if state else "off"
