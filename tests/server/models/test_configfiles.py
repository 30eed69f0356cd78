"""Configuration files are read as TF Serving reads them; what cannot be served is refused by file and field."""

# ruff: noqa: E501 - tables of cases, one a line
from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.errors import InputError, ServerError
from toolkit.server.models.configfiles import Batching, metrics_path, read_batching, read_models, read_tls
from toolkit.server.options import ServerOptions


def write(folder: Path, text: str) -> Path:
    file = folder / "file.config"
    file.write_text(text)
    return file


def test_batching_parameters_are_read(tmp_path: Path) -> None:
    text = """
    max_batch_size { value: 64 } batch_timeout_micros { value: 2000 } num_batch_threads { value: 3 }
    max_enqueued_batches { value: 50 } thread_pool_name { value: "pool" }
    allowed_batch_sizes: 8 allowed_batch_sizes: 64
    enable_large_batch_splitting { value: true } max_execution_batch_size { value: 16 }
    """
    assert read_batching(write(tmp_path, text)) == Batching(64, 2000, 3, 50, (8, 64), True, 16, "pool")
    assert read_batching(write(tmp_path, "")) == Batching(1000, 0, 0, 10)


def test_sizes_to_execute_end_with_the_size_to_split_at() -> None:
    assert Batching(64, allowed_batch_sizes=(8, 64)).execution_sizes == (8, 64)
    assert Batching(64).execution_sizes == ()
    assert Batching(4, enable_large_batch_splitting=True).execution_sizes == (1, 2, 3, 4)
    split = Batching(64, allowed_batch_sizes=(8, 64), enable_large_batch_splitting=True, max_execution_batch_size=16)
    assert split.execution_sizes == (8, 16)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size must be positive; was 0"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be non-negative; was -1"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 4", "final entry in allowed_batch_sizes must equal max_batch_size"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 8 allowed_batch_sizes: 8", "monotonically increasing"),
        ("pad_variable_length_inputs: true", "pad_variable_length_inputs is true, which is not supported"),
        ("max_batch_size { value: 8 } max_execution_batch_size { value: 9 }", "must not be larger than max_batch_size"),
        ("max_batch_sice { value: 8 }", 'no field named "max_batch_sice"'),
        ("max_batch_size: 8", "Invalid protobuf file"),
    ],
)  # fmt: skip
def test_batching_parameters_that_cannot_be_are_refused(tmp_path: Path, text: str, error: str) -> None:
    with pytest.raises(ServerError) as caught:
        read_batching(write(tmp_path, text))
    assert error in str(caught.value)
    assert "file.config" in str(caught.value)


def test_monitoring_config_says_whether_and_where(tmp_path: Path) -> None:
    assert metrics_path(write(tmp_path, 'prometheus_config { enable: true, path: "/m" }')) == "/m"
    assert metrics_path(write(tmp_path, 'prometheus_config { path: "/m" }')) == ""
    with pytest.raises(ServerError, match="must begin with /"):
        metrics_path(write(tmp_path, 'prometheus_config { enable: true, path: "m" }'))


def test_tls_config_needs_key_and_certificate_and_a_ca_for_clients(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="server_cert is missing"):
        read_tls(write(tmp_path, 'server_key: "k"'))
    with pytest.raises(ServerError, match="client_verify is true, which needs custom_ca"):
        read_tls(write(tmp_path, 'server_key: "k" server_cert: "c" client_verify: true'))


def test_files_that_are_not_there_or_not_model_lists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="cannot be read: No such file"):
        read_models(tmp_path / "none")
    with pytest.raises(ServerError, match="custom_model_config is not supported"):
        read_models(write(tmp_path, "custom_model_config { }"))


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({}, "give exactly one of MODELS_DIR, --model_base_path and --model_config_file; given: none"),
        ({"models_dir": Path("a"), "model_base_path": Path("b")}, "given: models_dir, model_base_path"),
        ({"models_dir": Path("a"), "port": 70000}, "--port is 70000; it must be between 0 and 65535"),
        ({"models_dir": Path("a"), "port": 8501}, "--rest_api_port cannot be same as --port (8501)"),
        ({"models_dir": Path("a"), "batching_parameters_file": Path("b")}, "--batching_parameters_file is set without"),
        ({"models_dir": Path("a"), "model_name": "a/b"}, "--model_name is 'a/b'"),
        ({"models_dir": Path("a"), "grpc_max_threads": 0}, "--grpc_max_threads is 0; it must be positive"),
        ({"models_dir": Path("a"), "grpc_channel_arguments": "x"}, "'x' is not of the form key=value"),
        (
            {"models_dir": Path("a"), "tensorflow_session_parallelism": 2, "tensorflow_intra_op_parallelism": 2},
            "--tensorflow_session_parallelism cannot be set with",
        ),
    ],
)
def test_options_that_contradict_are_refused_by_name(values: dict[str, object], error: str) -> None:
    with pytest.raises(InputError) as caught:
        ServerOptions(**values)  # type: ignore[arg-type]
    assert error in str(caught.value)
