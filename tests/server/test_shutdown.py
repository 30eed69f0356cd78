"""The command: it says where it listens, ends in order on SIGTERM, and becomes the real server when asked to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving_support import GOLDEN, SERVE, environment, serving, text_request


def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SERVE, *arguments], capture_output=True, text=True, timeout=120, env=environment(**changes), check=False
    )


def test_sigterm_finishes_what_is_in_work_and_exits_0(slow_model: Path, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with serving(f"--model_base_path={slow_model}", f"--access_log={log}", "--log_format=json") as (process, address):
        url = address["rest"] + "/v1/models/default:predict"
        started = time.monotonic()
        assert httpx.post(url, json={"instances": [20000.0]}, timeout=60).status_code == 200
        steps = 20000.0 * 6 / max(0.05, time.monotonic() - started)  # about six seconds of work
        request = text_request(b"", model="default")
        del request.inputs["text"]
        tensor = request.inputs["steps"]
        tensor.dtype = 1
        tensor.tensor_shape.dim.add(size=1)
        tensor.float_val.append(steps)
        results: list[object] = []

        def over_rest() -> None:
            results.append(httpx.post(url, json={"instances": [steps]}, timeout=100).status_code)

        with grpc.insecure_channel(address["grpc"]) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(service="default"))
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            future = call.future(request.SerializeToString(), timeout=100)
            asker = threading.Thread(target=over_rest)
            asker.start()
            time.sleep(2)
            process.send_signal(signal.SIGTERM)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            time.sleep(0.3)
            with pytest.raises(httpx.HTTPError):
                httpx.get(address["rest"] + "/v1/models/default", timeout=5)
            with grpc.insecure_channel(address["grpc"]) as late, pytest.raises(grpc.RpcError) as caught:
                late.unary_unary("/tensorflow.serving.PredictionService/Predict")(b"", timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert process.poll() is None, "it must not end before the work is done"
            assert future.result()
            asker.join()
        assert results == [200]
        assert process.wait(30) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["code"] for line in lines if line["api"] == "GRPC"] == ["OK"]
    assert all(line["ms"] > 0 and line["model"] == "default" for line in lines)


def test_sigterm_with_a_delay_keeps_serving_while_not_ready() -> None:
    with serving(str(GOLDEN / "models"), "--drain_delay_seconds=4") as (process, address):
        metadata = address["rest"] + "/v1/models/echo/metadata"
        assert httpx.get(metadata).status_code == 200
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert httpx.get(metadata).status_code == 503
        url = address["rest"] + "/v1/models/echo:predict"
        assert httpx.post(url, json={"instances": ["a"]}).status_code == 200
        assert process.wait(30) == 0


def test_sigterm_during_the_start_ends_it_quietly() -> None:
    process = subprocess.Popen(
        [*SERVE, "--port=0", "--rest_api_port=0", str(GOLDEN / "models")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGTERM), errors  # the latter: before the command took over the signal
    assert "Traceback" not in errors


def test_wrong_use_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    for arguments, code, text in (
        (["--nonsense=1"], 2, "No such option '--nonsense'"),
        ([], 2, "give exactly one of MODELS_DIR"),
        ([str(tmp_path), "--mixed_precision=bfloat16"], 2, "--mixed_precision works only with --engine"),
        ([str(tmp_path / "none")], 4, "No such file or directory"),
        ([str(tmp_path), "--engine=tensorflow_model_server"], 4, "tensorflow_model_server is not on PATH"),
    ):
        done = run(*arguments, PATH="/nowhere")
        assert (done.returncode, done.stdout) == (code, "")
        assert text in done.stderr
        assert "Traceback" not in done.stderr


def test_help_names_the_flags_of_the_real_server() -> None:
    text = run("--help").stdout
    for flag in ("--model_config_file", "--rest_api_timeout_in_ms", "--enable_batching", "--grpc_channel_arguments"):
        assert flag in text


def test_engine_becomes_the_real_server_with_the_same_options(tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "tensorflow_model_server"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nfor a in "$@"; do echo "$a"; case $a in *_config_file=*) cat "${a#*=}";; esac; done\n')
    fake.chmod(0o755)
    path = f"{fake.parent}:/bin:/usr/bin"
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = run(
        str(GOLDEN / "models"), "--engine=tensorflow_model_server", "--port=9500", "--enable_batching",
        "--grpc_max_threads=7", "--mixed_precision=bfloat16", PATH=path, TMPDIR=str(temporary),
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    for flag in ("--port=9500", "--rest_api_port=8501", "--enable_batching=true", "--grpc_max_threads=7",
                 "--mixed_precision=bfloat16"):  # fmt: skip
        assert flag in lines
    assert f'  config {{ name: "echo" base_path: "{GOLDEN}/models/echo" model_platform: "tensorflow" }}' in lines
    assert 'prometheus_config { enable: true, path: "/monitoring/prometheus/metrics" }' in lines
    refused = run(
        str(GOLDEN / "models"), "--engine=tensorflow_model_server", "--max_rows=5", PATH=path, TMPDIR=str(temporary)
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--max_rows works only with the embedded engine" in refused.stderr
    assert list(temporary.iterdir()) == []


def test_importing_server_and_command_imports_no_tensorflow() -> None:
    code = (
        "import sys, toolkit.server, toolkit.cli.serve; "
        "assert not {'tensorflow', 'torch', 'grpc', 'uvicorn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())
