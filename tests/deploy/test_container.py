"""The entry points and the embedded server as a restricted container runs them, without a shell.

`build_and_try_image.py` does the same with a built image; here this machine's own files stand in for the image's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from deploy.bundles import ROOT
from deploy.promql import EXPRESSIONS, RECORDS, selectors
from deploy.sandbox import Process, Sandbox
from deploy.tools import missing
from deploy.trial import (
    MODEL,
    Address,
    check_answers,
    check_restrictions,
    check_sigterm_under_load,
    free_ports,
    make_model,
)

import toolkit
from toolkit.deploy.render import RuntimeOptions, find_models, render

pytestmark = pytest.mark.slow

START = ["sentence-serving", "container", "start"]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        missing("what a sandbox needs", "the tests as root, with util-linux")
    path = tmp_path_factory.mktemp("container")
    os.chmod(path, 0o755)
    make_model(path / "models")
    config = path / "serving"
    config.mkdir()
    options = RuntimeOptions(cpus=1, models_path="/mnt/models")
    for name, text in render(find_models(path / "models"), options).items():
        (config / name).write_text(text)
    for name in ("entrypoint", "healthcheck"):
        shutil.copy(ROOT / "serving" / name, config)
    commands = path / "bin"
    commands.mkdir()
    (commands / "sentence-serving").write_text(f"#!{sys.executable}\nfrom toolkit.cli import main\nmain()\n")
    (commands / "tensorflow_model_server").write_text('#!/bin/sh\necho "process $$ serve $*"\n')
    for command in commands.iterdir():
        command.chmod(0o755)
    tls = path / "tls"
    tls.mkdir()
    make_certificate(tls)
    folders = {"/mnt/tls": tls, "/mnt/models": path / "models", "/mnt/serving": config, "/mnt/bin": commands}
    folders["/mnt/lib/toolkit"] = Path(toolkit.__file__).parent
    return Sandbox(Path("/"), folders, cpus=1, shell=False)


def make_certificate(folder: Path) -> None:
    """tls.key, tls.crt and ca.crt as cert-manager lays them out; one self-signed certificate is all three parties'."""
    name = "sentence-serving-grpc"
    files = ["-keyout", folder / "tls.key", "-out", folder / "tls.crt"]
    extra = ["-days", "1", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run(["openssl", "req", "-x509", *kind, *files, *extra], check=True, capture_output=True)
    (folder / "tls.key").chmod(0o644)  # in a cluster fsGroup makes the Secret readable for the server's group
    shutil.copy(folder / "tls.crt", folder / "ca.crt")


@dataclass(frozen=True)
class Running:
    address: Address
    process: Process


def environment(address: Address) -> dict[str, str]:
    return {
        "PATH": "/mnt/bin:/usr/bin:/bin",
        "PYTHONPATH": "/mnt/lib",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SERVING_TLS_DIR": "/mnt/tls",
        "SERVING_CLIENT_CERTIFICATES": "required",
        "SERVING_CONFIG_DIR": "/mnt/serving",
        "SERVING_GRPC_PORT": str(address.grpc),
        "SERVING_REST_PORT": str(address.rest),
    }


@pytest.fixture(scope="module")
def running(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    address = Address(*free_ports(), sandbox.folders["/mnt/tls"])
    log = tmp_path_factory.mktemp("log") / "server"
    with sandbox.run(START, environment(address), log) as process:
        address.wait_until_ready(process)
        yield Running(address, process)


def test_the_sandbox_is_as_tight_as_the_manifests_ask(sandbox: Sandbox, tmp_path: Path) -> None:
    attempts = (
        "touch /probe; touch /usr/probe; touch /mnt/models/probe; touch /mnt/probe; chmod 777 /mnt/models;"
        "mount -t tmpfs tmpfs /srv; kill -9 2; cat /etc/shadow; touch /tmp/allowed; echo done $(id -u) $$"
    )
    with replace(sandbox, shell=True).run(
        ["sh", "-c", attempts], {"PATH": "/usr/bin:/bin"}, tmp_path / "log"
    ) as process:
        process.outer.wait(30)
    said = (tmp_path / "log").read_text()
    assert said.count("Read-only file system") == 5, said
    for refusal in ("/srv: must be superuser", "No such process", "/etc/shadow: Permission denied"):
        assert refusal in said
    assert said.endswith("\ndone 65532 1\n")


@pytest.mark.parametrize("shell", ["sh", "bash", "/bin/sh", "/usr/bin/dash"])
def test_no_shell_can_be_started_in_the_sandbox(sandbox: Sandbox, tmp_path: Path, shell: str) -> None:
    with sandbox.run([shell, "-c", "echo started"], {"PATH": "/usr/bin:/bin"}, tmp_path / "log") as process:
        assert process.outer.wait(30) != 0
    assert "started" not in (tmp_path / "log").read_text()


def test_the_server_is_process_1_without_any_privilege(running: Running) -> None:
    check_restrictions(running.process)
    assert "1 threads (limit 1000m), batching on, metrics on, TLS on" in running.process.log.read_text()


def test_both_apis_answer_with_the_models_vectors(running: Running) -> None:
    check_answers(running.address)


def test_grpc_takes_only_callers_with_a_certificate_while_rest_stays_plain_for_probes(running: Running) -> None:
    import grpc

    channels = [
        grpc.insecure_channel(f"127.0.0.1:{running.address.grpc}"),
        running.address.channel(with_certificate=False),
    ]
    for channel in channels:
        with channel, pytest.raises(grpc.FutureTimeoutError):
            grpc.channel_ready_future(channel).result(timeout=1.5)
    with running.address.channel(with_certificate=True) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
    assert running.address.get(f"/v1/models/{MODEL}")[0] == 200


@pytest.mark.parametrize("kind", ["shell", "python"])
def test_the_health_check_tells_a_loaded_model_from_a_missing_server(running: Running, kind: str) -> None:
    package = str(Path(toolkit.__file__).parents[1])
    commands = {
        "shell": [str(ROOT / "serving/healthcheck")],
        "python": [sys.executable, "-c", "from toolkit.cli import main; main()", "container", "check"],
    }

    def check(port: int, folder: Path) -> int:
        variables = {"PATH": os.environ["PATH"], "SERVING_REST_PORT": str(port), "SERVING_CONFIG_DIR": str(folder)}
        variables["PYTHONPATH"] = package
        return subprocess.run(commands[kind], env=variables, capture_output=True, timeout=30).returncode

    folder = running.process.log.parent
    (folder / "models.config").write_text(f'model_config_list {{\n config {{\n  name: "{MODEL}"\n }}\n}}\n')
    assert check(running.address.rest, folder) == 0
    assert check(free_ports()[0], folder) != 0
    config = "# name: 'other'\nmodel_config_list { config { base_path: 'name: \"other\" #' name : '{}' } }"
    for name, healthy in ((MODEL, True), ("other", False)):
        (folder / "models.config").write_text(config.replace("{}", name))
        assert (check(running.address.rest, folder) == 0) is healthy
    (folder / "models.config").unlink()
    assert check(running.address.rest, folder) != 0


def test_everything_that_is_asked_of_prometheus_is_on_the_servers_page(running: Running) -> None:
    check_answers(running.address)
    status, page = running.address.get("/monitoring/prometheus/metrics")
    assert status == 200
    samples: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^([a-zA-Z_:][\w:]*)(?:\{([^}]*)\})? ", page, flags=re.MULTILINE):
        samples.setdefault(name, set()).update(re.findall(r"(\w+)=", labels))
    own = {"model_name", "status", "entrypoint", "runtime", "API", "model_path", "thread_pool_name", "le"}
    for where, expression in EXPRESSIONS.items():
        for selector in selectors(expression):
            if selector.name == "up" or selector.name in RECORDS:
                continue
            assert selector.name in samples, f"{where}: {selector.name}"
            asked = {matcher.name for matcher in selector.matchers.matchers} & own
            assert asked <= samples[selector.name], f"{where}: {selector.name} has {samples[selector.name]}"


@pytest.mark.parametrize("command", [["/mnt/serving/entrypoint"], START], ids=["shell", "python"])
def test_a_refusal_of_the_entry_point_ends_the_container(sandbox: Sandbox, tmp_path: Path, command: list[str]) -> None:
    variables = environment(Address(1, 2)) | {"SERVING_THREADS": "none"}
    with replace(sandbox, shell=command != START).run(command, variables, tmp_path / "log") as process:
        assert process.outer.wait(30) == 64
    assert "SERVING_THREADS is 'none'" in (tmp_path / "log").read_text()


def test_the_shell_entry_point_makes_the_server_process_1(sandbox: Sandbox, tmp_path: Path) -> None:
    with replace(sandbox, shell=True).run(
        ["/mnt/serving/entrypoint"], environment(Address(1, 2)), tmp_path / "log"
    ) as process:
        assert process.outer.wait(30) == 0
    said = (tmp_path / "log").read_text()
    assert "1 threads (limit 1000m), batching on, metrics on, TLS on" in said
    assert "\nprocess 1 serve --enable_profiler=false --port=1 --rest_api_port=2 " in said
    assert "--ssl_config_file=/tmp/ssl.config" in said


def test_sigterm_under_load_fails_no_request_and_ends_with_0(running: Running) -> None:
    """The last test of this file: it ends the server that the others ask."""
    check_sigterm_under_load(running.address, running.process)
