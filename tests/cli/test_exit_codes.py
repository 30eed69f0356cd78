"""Every exit code that README promises, of the installed command in a process of its own."""

from __future__ import annotations

import re
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_support import installed, start_installed
from fake_serving import FakeServing

Case = Callable[[pytest.FixtureRequest, Path, str], int]
CASES: dict[str, Case] = {}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server with the model ``fake``."""
    fake = FakeServing().start()
    yield fake.grpc_url
    fake.stop()


def case(function: Case) -> Case:
    """``_5_no_server`` has exit code 5; it returns the one there was."""
    CASES[function.__name__.strip("_")] = function
    return function


def embed(url: str, *arguments: object, **options: Path) -> int:
    done = installed("embed", "--url", url, "--model", "fake", *arguments, **options)
    assert "Traceback" not in done.stderr
    return done.returncode


@case
def _0_done(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    return embed(url, "one", "two")


@case
def _0_the_reader_of_the_output_went_away(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    process = start_installed("embed", "--url", url, "--model", "fake", "one")
    assert process.stdout is not None
    process.stdout.close()
    code = process.wait(60)
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    return code


@case
def _1_a_check_failed(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    shutil.copytree(request.getfixturevalue("tiny_source"), folder / "other")
    pooling = folder / "other" / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace('"mean"', '"max"'))
    (folder / "texts.txt").write_text("hello\n")
    artifact = request.getfixturevalue("tiny_export")
    return installed("check", artifact, folder / "other", "--texts", folder / "texts.txt").returncode


@case
def _2_usage(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    return embed(url, "--no-such-option")


@case
def _2_input(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    (folder / "in.csv").write_text('text\n"never closed\n')
    return embed(url, "--input", folder / "in.csv")


@case
def _2_some_rows_were_rejected(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    (folder / "in.txt").write_bytes(b"one\n\xff\n")
    return embed(url, "--input", folder / "in.txt", "--output", folder / "out.npy")


@case
def _2_some_rows_were_rejected_on_stdout(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    (folder / "in.txt").write_bytes(b"one\n\xff\n")
    return embed(url, "--input", folder / "in.txt")


@case
def _2_some_rows_were_rejected_and_there_is_nothing_to_resume(
    request: pytest.FixtureRequest, folder: Path, url: str
) -> int:
    (folder / "in.txt").write_bytes(b"one\n\xff\n")
    arguments = ("--input", folder / "in.txt", "--output", folder / "out.npy", "--resume")
    assert embed(url, *arguments) == 2
    return embed(url, *arguments)


@case
def _2_more_rows_were_rejected_than_allowed(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    (folder / "in.txt").write_bytes(b"one\n\xff\n")
    return embed(url, "--input", folder / "in.txt", "--output", folder / "out.npy", "--max-rejected", 0)


@case
def _0_a_shard_is_done_and_the_next_one_joins(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    (folder / "in.txt").write_text("one\ntwo\n")
    arguments = ("--part-rows", 1, "--input", folder / "in.txt", "--output", folder / "out")
    assert embed(url, "--shard", "0/2", *arguments) == 0
    return embed(url, "--shard", "1/2", *arguments)


@case
def _2_rows_of_a_shard_were_rejected_also_when_it_is_repeated(
    request: pytest.FixtureRequest, folder: Path, url: str
) -> int:
    (folder / "in.txt").write_bytes(b"one\n\xff\n")
    arguments = ("--shard", "0/1", "--input", folder / "in.txt", "--output", folder / "out", "--resume")
    assert embed(url, *arguments) == 2
    return embed(url, *arguments)


@case
def _2_a_shard_had_more_rows_rejected_than_allowed(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    (folder / "in.txt").write_bytes(b"one\n\xff\n")
    return embed(url, "--shard", "0/1", "--input", folder / "in.txt", "--output", folder / "out", "--max-rejected", 0)


@case
def _2_a_shards_output_is_there(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    (folder / "in.txt").write_text("one\n")
    arguments = ("--shard", "0/1", "--input", folder / "in.txt", "--output", folder / "out")
    assert embed(url, *arguments) == 0
    return embed(url, *arguments)


@case
def _4_no_ray_cluster(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    (folder / "in.txt").write_text("one\n")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        arguments = ("--ray-address", address, "--input", folder / "in.txt", "--output", folder / "out")
        return embed(url, "--engine", "ray", *arguments)


@case
def _4_a_shard_has_no_room_for_the_model(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    (folder / "in.txt").write_text("one\n")
    arguments = ("--input", folder / "in.txt", "--output", folder / "out")
    return embed(url, "--shard", "0/1", "--worker-memory", 1 << 30, *arguments)


@case
def _5_a_shard_has_no_server(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    (folder / "in.txt").write_text("one\n")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        arguments = ("--shard", "0/1", "--patience", 0, "--input", folder / "in.txt", "--output", folder / "out")
        return embed(f"grpc://127.0.0.1:{closed.getsockname()[1]}", *arguments)


@case
def _6_no_ray(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    (folder / "ray.py").write_text("raise ImportError")
    (folder / "in.txt").write_text("one\n")
    return embed(url, "--engine", "ray", "--input", folder / "in.txt", "--output", folder / "out", path=folder)


@case
def _130_a_shard_is_interrupted(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    (folder / "in.txt").write_text("one\n")
    arguments = ("--shard", "0/1", "--model", "fake", "--input", folder / "in.txt", "--output", folder / "out")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        process = start_installed("embed", "--url", f"grpc://127.0.0.1:{silent.getsockname()[1]}", *arguments)
        with silent.accept()[0]:
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
    assert err.splitlines()[-1] == "interrupted"
    return process.returncode


@case
def _3_no_source(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    return installed("export", folder / "nowhere", folder, "--name", "m").returncode


@case
def _4_no_artifact(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    return installed("inspect", folder / "nowhere").returncode


@case
def _5_no_server(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return embed(f"grpc://127.0.0.1:{closed.getsockname()[1]}", "--patience", 0, "text")


@case
def _6_no_pyarrow(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    (folder / "pyarrow.py").write_text("raise ImportError")
    return embed(url, "--output", folder / "out.parquet", "text", path=folder)


@case
def _7_the_load_tests_generator_was_late(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    arguments = ("--rate", 20, "--duration", 1, "--warmup", 0, "--max-lag", "0%", "--report", folder / "report")
    return installed("loadtest", url, "--model", "fake", *arguments).returncode


@case
def _130_interrupted(request: pytest.FixtureRequest, folder: Path, url: str) -> int:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        port = silent.getsockname()[1]
        process = start_installed("embed", "--url", f"grpc://127.0.0.1:{port}", "--model", "fake", "text")
        with silent.accept()[0]:
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
    assert err.strip() == "interrupted"
    return process.returncode


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name.startswith("1_") else ()) for name in sorted(CASES)]
)
def test_the_process_ends_with_the_code_that_readme_promises(
    request: pytest.FixtureRequest, tmp_path: Path, server: str, name: str
) -> None:
    assert CASES[name](request, tmp_path, server) == int(name.split("_")[0])


def test_every_code_of_readme_has_a_case() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    promised = re.findall(r"\b(\d+) \w", readme.split("## Exit codes")[1].split("## ")[0].split("Errors are")[0])
    promised += re.findall(r"\b(\d+)\s+interrupted", readme)
    assert {name.split("_")[0] for name in CASES} == set(promised)
