"""The containers' entry points: the right flags for their folder and variables, a refusal by name otherwise.

There are two, because the stock server's image has no Python and the embedded server's is to need no shell. Every test
runs both.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from deploy.bundles import ROOT
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

import toolkit
from toolkit.deploy.container import VARIABLES

SHELL = ROOT / "serving/entrypoint"
PYTHON = (sys.executable, "-c", "from toolkit.cli import main; main()", "container", "start")
FILES = ("models.config", "batching.config", "monitoring.config")

# Stands in for the server: says which process it is, what it was given, and how it allocates.
STUB = """#!/bin/sh
echo "pid=$$"
echo "preload=${LD_PRELOAD:-}"
echo "name=${0##*/}"
for argument; do echo "$argument"; done
"""


@dataclass(frozen=True)
class Result:
    code: int
    pid: int
    lines: list[str]
    error: str

    @property
    def server(self) -> str:
        return self.lines[2].removeprefix("name=")

    @property
    def flags(self) -> list[str]:
        """What the server was given, without what only one of the two needs."""
        return self.lines[3 + len(EXPECTED_HEAD[self.server]) :]


EXPECTED_HEAD = {
    "tensorflow_model_server": ["--enable_profiler=false"],
    "sentence-serving": ["serve", "--wait_for_models=true", "--rest_tls=false"],
}


@dataclass(frozen=True)
class Container:
    """A folder of configuration, models and stub servers; ``run`` starts the entry point in it."""

    path: Path
    entrypoint: tuple[str, ...]
    server: str

    @property
    def config(self) -> Path:
        return self.path / "config"

    def run(self, *arguments: str, prefix: tuple[str, ...] = (), **variables: str) -> Result:
        environment = {"PATH": f"{self.path / 'bin'}:{os.environ['PATH']}", "SERVING_CONFIG_DIR": str(self.config)}
        environment |= {"TMPDIR": str(self.path), "PYTHONPATH": str(Path(toolkit.__file__).parents[1])}
        process = subprocess.Popen(
            [*prefix, *self.entrypoint, *arguments],
            env=environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        output, error = process.communicate(timeout=30)
        return Result(process.returncode, process.pid, output.splitlines(), error)


@pytest.fixture(params=["shell", "python"])
def container(request: pytest.FixtureRequest, tmp_path: Path) -> Container:
    config = tmp_path / "config"
    config.mkdir()
    (tmp_path / "models/minilm/1").mkdir(parents=True)
    for name in FILES:
        text = (ROOT / "serving" / name).read_text()
        (config / name).write_text(text.replace("/models/", f"{tmp_path}/models/"))
    (tmp_path / "bin").mkdir()
    for name in ("tensorflow_model_server", "sentence-serving"):
        (tmp_path / "bin" / name).write_text(STUB)
        (tmp_path / "bin" / name).chmod(0o755)
    if request.param == "shell":
        return Container(tmp_path, (str(SHELL),), "tensorflow_model_server")
    return Container(tmp_path, PYTHON, "sentence-serving")


@pytest.fixture
def both(container: Container) -> tuple[Container, Container]:
    return replace(container, entrypoint=(str(SHELL),)), replace(container, entrypoint=PYTHON)


def test_the_default_is_the_whole_folder_served_with_metrics_and_batching(container: Container) -> None:
    result = container.run(SERVING_THREADS="2")
    assert (result.code, result.server) == (0, container.server)
    config = container.config
    assert result.lines[3:] == [
        *EXPECTED_HEAD[container.server],
        "--port=8500",
        "--rest_api_port=8501",
        "--rest_api_timeout_in_ms=30000",
        "--rest_api_num_threads=128",
        "--grpc_max_threads=128",
        "--tensorflow_intra_op_parallelism=1",
        "--tensorflow_inter_op_parallelism=2",
        f"--model_config_file={config}/models.config",
        "--model_config_file_poll_wait_seconds=0",
        "--allow_version_labels_for_unavailable_models=true",
        "--enable_batching=true",
        f"--batching_parameters_file={config}/batching.config",
        f"--monitoring_config_file={config}/monitoring.config",
        "--grpc_channel_arguments=grpc.max_connection_age_ms=300000",
    ]
    engine = {"tensorflow_model_server": "tensorflow", "sentence-serving": "embedded"}[container.server]
    assert result.error.startswith(f"entrypoint: {engine} server, 2 threads (")
    assert "warning" not in result.error


def test_the_server_takes_the_entry_points_place_as_the_same_process(container: Container) -> None:
    result = container.run()
    assert result.lines[0] == f"pid={result.pid}"


def test_variables_and_arguments_reach_the_server(container: Container) -> None:
    result = container.run(
        "--file_system_poll_wait_seconds=5",
        SERVING_GRPC_PORT="9000",
        SERVING_REST_PORT="9001",
        SERVING_THREADS="16",
        SERVING_THREADS_PER_OP="4",
        SERVING_REST_TIMEOUT_MS="1000",
        SERVING_MAX_CONNECTION_AGE_MS="0",
        SERVING_CONFIG_POLL_SECONDS="10",
    )
    assert {
        "--port=9000",
        "--rest_api_port=9001",
        "--rest_api_timeout_in_ms=1000",
        "--grpc_max_threads=256",
        "--tensorflow_intra_op_parallelism=4",
        "--model_config_file_poll_wait_seconds=10",
        "--file_system_poll_wait_seconds=5",
    } <= set(result.flags)
    assert not any("max_connection_age" in flag for flag in result.flags)
    assert "batching.config has 2 batch threads for 16 compute threads" in result.error


def test_concurrency_bounds_both_apis(container: Container) -> None:
    flags = container.run(SERVING_CONCURRENCY="7").flags
    assert {"--rest_api_num_threads=7", "--grpc_max_threads=7"} <= set(flags)


def test_batching_and_metrics_are_off_without_their_files(container: Container) -> None:
    (container.config / "batching.config").unlink()
    (container.config / "monitoring.config").unlink()
    result = container.run()
    assert not any(flag.startswith(("--enable_batching", "--batching", "--monitoring")) for flag in result.flags)
    assert "batching off, metrics off" in result.error


REFUSED: list[tuple[dict[str, str], tuple[str, ...], str]] = [
    ({"SERVING_GRPC_PRT": "1"}, (), "SERVING_GRPC_PRT is not a variable of this entry point"),
    ({"SERVING_": "1"}, (), "SERVING_ is not a variable of this entry point"),
    ({"SERVING_GRPC_PORT": "grpc"}, (), "SERVING_GRPC_PORT is 'grpc'; a whole number from 1 to 65535"),
    ({"SERVING_GRPC_PORT": "70000"}, (), "SERVING_GRPC_PORT is '70000'"),
    ({"SERVING_GRPC_PORT": ""}, (), "SERVING_GRPC_PORT is ''"),
    ({"SERVING_GRPC_PORT": "8501"}, (), "SERVING_GRPC_PORT and SERVING_REST_PORT are both 8501"),
    ({"SERVING_THREADS": "0"}, (), "SERVING_THREADS is '0'; a whole number from 1 to 1024"),
    ({"SERVING_THREADS": "1.5"}, (), "SERVING_THREADS is '1.5'"),
    ({"SERVING_THREADS": "-1"}, (), "SERVING_THREADS is '-1'"),
    ({"SERVING_THREADS": "99999999999999999999"}, (), "SERVING_THREADS is '99999999999999999999'"),
    ({"SERVING_THREADS_PER_OP": "0"}, (), "SERVING_THREADS_PER_OP is '0'; a whole number from 1 to 1024"),
    ({"SERVING_THREADS_PER_OP": "all"}, (), "SERVING_THREADS_PER_OP is 'all'"),
    ({"SERVING_THREADS": "1;id"}, (), "SERVING_THREADS is '1;id'"),
    ({"SERVING_THREADS": "$(id)"}, (), "SERVING_THREADS is '$(id)'"),
    ({"SERVING_CONCURRENCY": "many"}, (), "SERVING_CONCURRENCY is 'many'"),
    ({"SERVING_REST_TIMEOUT_MS": "30s"}, (), "SERVING_REST_TIMEOUT_MS is '30s'"),
    ({"SERVING_MAX_CONNECTION_AGE_MS": "5m"}, (), "SERVING_MAX_CONNECTION_AGE_MS is '5m'"),
    ({"SERVING_CONFIG_POLL_SECONDS": "08"}, (), "SERVING_CONFIG_POLL_SECONDS is '08'"),
    ({"SERVING_CLIENT_CERTIFICATES": "on"}, (), "SERVING_CLIENT_CERTIFICATES is 'on'; supported: off required"),
    ({"SERVING_CLIENT_CERTIFICATES": "required"}, (), "SERVING_TLS_DIR is not set"),
    ({"SERVING_TLS_DIR": "/nowhere"}, (), "/nowhere/tls.key is missing or not readable"),
    (
        {"SERVING_TLS_DIR": "TLS", "TMPDIR": "/proc"},
        (),
        "/proc/ssl.config cannot be written; TLS needs a writable /proc",
    ),
    (
        {"SERVING_TLS_DIR": "TLS", "SERVING_CLIENT_CERTIFICATES": "required"},
        (),
        "tls/ca.crt is missing or not readable",
    ),
    ({"SERVING_JEMALLOC": "yes"}, (), "SERVING_JEMALLOC is 'yes'; supported: off on"),
    ({"SERVING_CONFIG_DIR": "/nowhere"}, (), "/nowhere/models.config is missing or not readable"),
    ({}, ("--port=1",), "argument '--port=1' is decided by a SERVING_ variable"),
    ({}, ("--enable_batching",), "argument '--enable_batching' is decided by"),
    ({}, ("-ssl_config_file=x",), "argument '-ssl_config_file=x' is decided by"),
]


@pytest.mark.parametrize(("variables", "arguments", "message"), REFUSED)
def test_nonsense_is_refused_by_name(
    container: Container, variables: dict[str, str], arguments: tuple[str, ...], message: str
) -> None:
    (container.path / "tls").mkdir()
    for name in ("tls.key", "tls.crt"):
        (container.path / "tls" / name).write_text("pem\n")
    if variables.get("SERVING_TLS_DIR") == "TLS":
        variables = variables | {"SERVING_TLS_DIR": str(container.path / "tls")}
    result = container.run(*arguments, **variables)
    assert result.code == 64
    assert result.lines == []
    assert message in result.error
    assert result.error.startswith("entrypoint: ")
    assert result.error.count("\n") == 1


def test_a_model_folder_that_is_not_there_is_refused(container: Container) -> None:
    shutil.rmtree(container.path / "models/minilm")
    result = container.run()
    assert result.code == 64
    assert f"base_path is not a folder: {container.path}/models/minilm" in result.error


def test_a_configuration_without_models_is_refused(container: Container) -> None:
    (container.config / "models.config").write_text("model_config_list {}\n")
    assert "no base_path in it" in container.run().error


def test_every_model_of_a_line_needs_its_folder(container: Container) -> None:
    one, two = (f'config {{ name: "{name}" base_path: "{container.path}/{name}" }}' for name in ("models", "gone"))
    (container.config / "models.config").write_text(f"model_config_list {{ {two} {one} }}  # base_path: 'no'\n")
    assert f"base_path is not a folder: {container.path}/gone\n" in container.run().error


@pytest.mark.parametrize(
    ("written", "folder"),
    [
        ('base_path : "{}"', "model#1"),
        ("base_path:'{}'", 'a "quoted" one'),
        ('base_path\n    :\n    "{}"', 'a "quoted" one'),
        ("# base_path: '/none'\nbase_path: '{}'  # base_path: '/none'", "it's"),
    ],
)
def test_base_paths_are_read_however_they_are_written(container: Container, written: str, folder: str) -> None:
    quote = written[written.index("{") - 1]
    name = f"{container.path}/{folder}".replace(quote, f"\\{quote}")
    config = f'model_config_list {{ config {{ name: "base_path" {written.format(name)}\n }} }}\n'
    (container.config / "models.config").write_text(config)
    assert f"base_path is not a folder: {container.path}/{folder}\n" in container.run().error
    (container.path / folder).mkdir()
    result = container.run()
    assert (result.code, result.error.count("\n")) == (0, 1)


def test_a_model_in_an_object_store_is_left_to_the_server(container: Container) -> None:
    (container.config / "models.config").write_text('model_config_list { config { name: "m" base_path: "gs://b/m" } }')
    assert container.run().code == 0


def test_a_server_that_is_not_installed_is_refused(container: Container) -> None:
    (container.path / "bin" / container.server).unlink()
    result = container.run(PATH=f"{container.path}/bin:/usr/bin:/bin")
    assert result.code == 64
    assert f"{container.server} is not installed in this image" in result.error


ALIKE: list[dict[str, str]] = [
    {},
    {"SERVING_THREADS": "3", "SERVING_CONCURRENCY": "auto", "OMP_NUM_THREADS": "1"},
    {"SERVING_THREADS": "3", "SERVING_THREADS_PER_OP": "auto"},
    {"SERVING_THREADS": "1024", "SERVING_GRPC_PORT": "65535", "SERVING_REST_PORT": "1"},
    {"SERVING_MAX_CONNECTION_AGE_MS": "86400000", "SERVING_CONFIG_POLL_SECONDS": "86400"},
    {"SERVING_TLS_DIR": "", "SERVING_REST_TIMEOUT_MS": "1", "SERVING_CONCURRENCY": "65536"},
    {"serving_threads": "7", "XSERVING_THREADS": "7"},
    *(variables for variables, arguments, _ in REFUSED if not arguments and "TLS" not in variables.values()),
]


@pytest.mark.parametrize("container", ["shell"], indirect=True)
@pytest.mark.parametrize("variables", ALIKE, ids=str)
def test_both_entry_points_decide_alike_word_for_word(
    both: tuple[Container, Container], variables: dict[str, str]
) -> None:
    shell, python = (container.run("--max_num_load_retries=1", **variables) for container in both)
    assert shell.code == python.code
    assert shell.flags == python.flags if shell.code == 0 else shell.lines == python.lines == []
    # They differ in the name of their server, and in where they list their variables.
    said = [re.sub("they are listed.*|`sentence-serving.*lists them", "", text) for text in (shell.error, python.error)]
    assert said[0].replace("entrypoint: tensorflow", "entrypoint: embedded") == said[1]


def ssl_config(text: str) -> Any:
    """``text`` as TensorFlow Serving's SSLConfig (config/ssl_config.proto), which no Python package carries."""
    file = descriptor_pb2.FileDescriptorProto(name="ssl_config.proto", package="test", syntax="proto3")
    message = file.message_type.add(name="SSLConfig")
    for number, name in enumerate(("server_key", "server_cert", "custom_ca", "client_verify"), 1):
        kind = message.field.add(name=name, number=number, label=1)
        kind.type = kind.TYPE_BOOL if name == "client_verify" else kind.TYPE_STRING
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return text_format.Parse(text, message_factory.GetMessageClass(pool.FindMessageTypeByName("test.SSLConfig"))())


def test_certificates_become_the_servers_ssl_config(container: Container) -> None:
    folder = container.path / "tls"
    folder.mkdir()
    pems = {name: f"-----BEGIN {name}-----\nab+/=\n-----END {name}-----\n" for name in ("tls.key", "tls.crt", "ca.crt")}
    for name, text in pems.items():
        (folder / name).write_text(text)
    result = container.run(SERVING_TLS_DIR=str(folder), SERVING_CLIENT_CERTIFICATES="required")
    assert f"--ssl_config_file={container.path}/ssl.config" in result.flags
    path = container.path / "ssl.config"
    assert path.stat().st_mode & 0o777 == 0o600
    config = ssl_config(path.read_text())
    assert (config.server_key, config.server_cert, config.custom_ca, config.client_verify) == (
        pems["tls.key"],
        pems["tls.crt"],
        pems["ca.crt"],
        True,
    )
    assert container.run(SERVING_TLS_DIR=str(folder)).code == 0
    config = ssl_config(path.read_text())
    assert (config.server_cert, config.custom_ca, config.client_verify) == (pems["tls.crt"], "", False)


def test_the_example_of_an_ssl_config_is_one() -> None:
    text = (ROOT / "serving/ssl.config.example").read_text()
    config = ssl_config(text)
    assert config.client_verify
    assert config.server_key.startswith("-----BEGIN PRIVATE KEY-----\n")


def test_jemalloc_is_preloaded_or_its_absence_refused(container: Container) -> None:
    result = container.run(SERVING_JEMALLOC="on")
    libraries = [*Path("/usr/lib").glob("*/libjemalloc.so.2"), *Path("/usr/lib").glob("libjemalloc.so.2")]
    if libraries:
        assert result.lines[1] == f"preload={libraries[0]}"
    else:
        assert result.code == 64
        assert "no libjemalloc.so.2 is installed" in result.error


@pytest.fixture
def cgroup(namespaces: tuple[str, ...], tmp_path: Path) -> Callable[[dict[str, str]], tuple[str, ...]]:
    """A command prefix under which /sys/fs/cgroup holds just the given files."""

    def prefix(files: dict[str, str]) -> tuple[str, ...]:
        writes = "".join(
            f"mkdir -p /sys/fs/cgroup/$(dirname {name}); echo '{text}' >/sys/fs/cgroup/{name}\n"
            for name, text in files.items()
        )
        script = tmp_path / "cgroup"
        script.write_text(f'set -eu\nmount -t tmpfs tmpfs /sys/fs/cgroup\n{writes}exec "$@"\n')
        return (*namespaces, "sh", str(script))

    return prefix


CPUS = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "threads", "said"),
    [
        ({"cpu.max": "200000 100000"}, 2, "limit 2000m"),
        ({"cpu.max": "150000 100000"}, 1, "limit 1500m"),
        ({"cpu.max": "25000 100000"}, 1, "limit 250m"),
        ({"cpu.max": "6400000 100000"}, CPUS, "limit 64000m"),
        ({"cpu.max": "max 100000"}, CPUS, "no limit"),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "50000"}, 2, "limit 2000m"),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, CPUS, "no limit"),
        ({}, CPUS, "no limit"),
    ],
)
def test_threads_are_the_whole_cpus_of_the_cgroups_limit(
    container: Container,
    cgroup: Callable[[dict[str, str]], tuple[str, ...]],
    files: dict[str, str],
    threads: int,
    said: str,
) -> None:
    result = container.run(prefix=cgroup(files))
    assert f"--tensorflow_inter_op_parallelism={min(threads, CPUS)}" in result.flags
    assert said in result.error


def test_every_variable_is_documented_where_people_look_with_its_default() -> None:
    script = SHELL.read_text()
    head = script[: script.index("set -eu")]
    accepted = script[script.index("case $name in") : script.index("esac", script.index("case $name in"))]
    assert set(re.findall(r"SERVING_\w+", accepted)) == set(VARIABLES)
    defaults = {name: variable.default for name, variable in VARIABLES.items()}
    in_head = re.findall(r"^#   (SERVING_\w+) +(\S+)", head, re.MULTILINE)
    in_readme = re.findall(
        r"^\| `(SERVING_\w+)` \| `?([^|` ]*)`? ?\|", (ROOT / "serving/README.md").read_text(), re.MULTILINE
    )
    assert {name: default.replace("(unset)", "") for name, default in in_head} == defaults
    assert dict(in_readme) == defaults
    assert dict(re.findall(r'"\$\{(SERVING_\w+)=([^}]*)\}"', script)) == defaults


@pytest.mark.parametrize("name", ["entrypoint", "healthcheck"])
def test_shell_scripts_pass_shellcheck(tool: Callable[[str], str], name: str) -> None:
    result = subprocess.run([tool("shellcheck"), str(ROOT / "serving" / name)], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")
