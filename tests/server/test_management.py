"""Models are managed while the server serves: reloads, broken versions, warm-up, configuration files."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from serving_support import GOLDEN, copy_version, text_request, wait_until
from tensorflow_serving.apis import prediction_log_pb2, prediction_service_pb2_grpc

from toolkit.errors import ServerError
from toolkit.server import Server
from toolkit.server.requests import wire

StartServer = Any


def rest(server: Server, path: str = "/v1/models/echo") -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{server.rest_port}{path}")


def states(server: Server, model: str = "echo") -> dict[int, str]:
    listed = rest(server, f"/v1/models/{model}").json()["model_version_status"]
    return {int(item["version"]): item["state"] for item in listed}


def test_reload_under_load_fails_no_request_and_mixes_no_rows(start_server: StartServer, tmp_path: Path) -> None:
    copy_version(tmp_path / "echo", 1)
    server = start_server(models_dir=tmp_path, file_system_poll_wait_seconds=0.05)
    done = threading.Event()
    wrong: list[str] = []
    seen: set[int] = set()

    def ask(number: int) -> None:
        texts = [b"x" * (number + 1), b"y"]
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not done.is_set():
                try:
                    answer = stub.Predict(text_request(*texts), timeout=20)
                except grpc.RpcError as error:
                    wrong.append(error.details())
                    continue
                seen.add(answer.model_spec.version.value)
                values = list(answer.outputs["embedding"].float_val)
                if [values[0], values[3]] != [number + 1, 1]:
                    wrong.append(str(values))

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for asker in askers:
        asker.start()
    for version, source in ((2, 2), (3, 3), (4, 1)):
        copy_version(tmp_path / "echo", version, source)
        wait_until(lambda version=version: states(server).get(version) == "AVAILABLE")
    wait_until(lambda: states(server) == {4: "AVAILABLE", 3: "END", 2: "END", 1: "END"})
    done.set()
    for asker in askers:
        asker.join()
    assert wrong == []
    assert {1, 4} <= seen


def test_corrupt_version_is_reported_and_the_old_one_kept(start_server: StartServer, tmp_path: Path) -> None:
    copy_version(tmp_path / "echo", 1)
    server = start_server(models_dir=tmp_path, file_system_poll_wait_seconds=0.05)
    broken = tmp_path / "echo" / "2"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"\xff not a graph")
    wait_until(lambda: states(server).get(2) == "END")
    status = rest(server, "/v1/models/echo/versions/2").json()["model_version_status"][0]["status"]
    assert status["error_code"] == "INVALID_ARGUMENT"
    assert str(broken) in status["error_message"]
    assert states(server)[1] == "AVAILABLE"
    answer = httpx.post(f"http://127.0.0.1:{server.rest_port}/v1/models/echo:predict", json={"instances": ["ab"]})
    assert answer.json() == {"predictions": [[2.0, 1.0, 1.0]]}


def test_model_folder_that_appears_is_served(start_server: StartServer, tmp_path: Path) -> None:
    copy_version(tmp_path / "echo", 1)
    server = start_server(models_dir=tmp_path, file_system_poll_wait_seconds=0.05)
    copy_version(tmp_path / "second", 7, 2)
    wait_until(lambda: rest(server, "/v1/models/second").status_code == 200)
    wait_until(lambda: states(server, "second") == {7: "AVAILABLE"})


def test_config_file_is_read_again_and_a_bad_one_changes_nothing(start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "models.config"

    def write(version: int) -> None:
        half = tmp_path / "half"
        half.write_text(
            f'model_config_list {{ config {{ name: "echo" base_path: "{GOLDEN}/models/echo" '
            f'model_platform: "tensorflow"'
            f" model_version_policy {{ specific {{ versions: {version} }} }} }} }}"
        )
        half.rename(file)

    write(1)
    polls = {"model_config_file_poll_wait_seconds": 0.05, "file_system_poll_wait_seconds": 0.05}
    server = start_server(model_config_file=file, **polls)
    write(3)
    wait_until(lambda: states(server) == {3: "AVAILABLE", 1: "END"})
    file.write_text("model_config_list { nonsense }")
    with pytest.raises(AssertionError):
        wait_until(lambda: states(server) != {3: "AVAILABLE", 1: "END"}, seconds=0.3)


def write_warmup(version: Path, *requests: Any) -> None:
    import tensorflow as tf

    (version / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(version / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        for request in requests:
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(request)
            writer.write(log.SerializeToString())


def test_warmup_requests_are_run_before_a_version_is_available(start_server: StartServer, tmp_path: Path) -> None:
    write_warmup(copy_version(tmp_path / "echo", 1), text_request(b"a"), text_request(b"b", b"c", signature="detailed"))
    server = start_server(models_dir=tmp_path, num_request_iterations_for_warmup=3)
    page = rest(server, "/monitoring/prometheus/metrics").text
    assert ':tensorflow:serving:model_warmup_records_read{model_name="echo"} 6' in page


def test_warmup_that_fails_fails_the_load(start_server: StartServer, tmp_path: Path) -> None:
    version = copy_version(tmp_path / "echo", 1)
    write_warmup(version, text_request(b"a"), text_request(b"a", signature="nope"))
    with pytest.raises(ServerError, match=r"record 2 fails: .*signature key \"nope\" not found"):
        start_server(models_dir=tmp_path)
    start_server(models_dir=tmp_path, enable_model_warmup=False)
    (version / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"no records")
    with pytest.raises(ServerError, match="cannot be read"):
        start_server(models_dir=tmp_path)


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_warmup_names_the_record_that_fails_whichever_runs_beside_the_others(
    start_server: StartServer, tmp_path: Path, wrong: int
) -> None:
    requests = [text_request(b"a"), text_request(b"the largest", b"of all"), text_request(b"b")]
    requests[wrong].model_spec.signature_name = "nope"
    write_warmup(copy_version(tmp_path / "echo", 1), *requests)
    with pytest.raises(ServerError, match=rf"record {wrong + 1} fails: "):
        start_server(models_dir=tmp_path)


def test_first_requests_at_a_time_prepare_the_graph_once(tmp_path: Path) -> None:
    from toolkit.server.models.servable import RunOptions, Servable

    servable = Servable("echo", 1, copy_version(tmp_path / "echo", 1), RunOptions())
    prepare, made = servable._session._make_callable_from_options, []

    def slowly(options: Any) -> Any:
        time.sleep(0.05)
        made.append(options)
        return prepare(options)

    servable._session._make_callable_from_options = slowly  # type: ignore[method-assign]
    signature = servable.signatures["serving_default"]
    arrays = {alias: wire.decode(alias, proto) for alias, proto in text_request(b"a").inputs.items()}
    with ThreadPoolExecutor(4) as pool:
        for run in [pool.submit(servable.run, signature, arrays, tuple(sorted(signature.outputs))) for _ in range(4)]:
            run.result()
    servable.close()
    assert len(made) == 1


def test_start_is_refused_with_the_reason(start_server: StartServer, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="No such file or directory"):
        start_server(models_dir=tmp_path / "none")
    with pytest.raises(ServerError, match="no model found; expected folders <model>/<version number>/"):
        start_server(models_dir=tmp_path)
    with pytest.raises(ServerError, match="No versions of servable default found under base path"):
        start_server(model_base_path=tmp_path)
    (tmp_path / "bad" / "1").mkdir(parents=True)
    with pytest.raises(ServerError, match=r"Some models did not become available: .*SavedModel file does not exist"):
        start_server(models_dir=tmp_path)
    server = start_server(models_dir=GOLDEN / "models")
    for port, api in (("port", "gRPC"), ("rest_api_port", "REST")):
        taken = server.grpc_port if port == "port" else server.rest_port
        with pytest.raises(ServerError, match=f"{api} cannot listen on 127.0.0.1:{taken}"):
            start_server(models_dir=GOLDEN / "models", **{port: taken})


def test_missing_ops_are_named(start_server: StartServer, tmp_path: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    version = copy_version(tmp_path / "echo", 1)
    model = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    model.meta_graphs[0].graph_def.node.add(name="odd", op="NoSuchOp")
    (version / "saved_model.pb").write_bytes(model.SerializeToString())
    with pytest.raises(ServerError, match="ops that this TensorFlow does not have: NoSuchOp"):
        start_server(models_dir=tmp_path)


def test_health_service_tells_the_truth_for_each_model(start_server: StartServer, tmp_path: Path) -> None:
    copy_version(tmp_path / "echo", 1)
    copy_version(tmp_path / "other", 1)
    server = start_server(models_dir=tmp_path, file_system_poll_wait_seconds=0.05)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def health(service: str) -> str:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service))
            return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

        assert [health(""), health("echo"), health("other")] == ["SERVING"] * 3
        with pytest.raises(grpc.RpcError) as caught:
            health("nope")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        (tmp_path / "other" / "1").rename(tmp_path / "gone")
        wait_until(lambda: health("other") == "NOT_SERVING")
        assert health("echo") == "SERVING"


def test_reflection_lists_the_services(start_server: StartServer) -> None:
    server = start_server(models_dir=GOLDEN / "models", rest_api_port=-1)
    assert server.rest_port is None
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert services >= {
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def test_unix_socket_serves_grpc_too(start_server: StartServer, tmp_path: Path) -> None:
    start_server(models_dir=GOLDEN / "models", grpc_socket_path=str(tmp_path / "socket"))
    with grpc.insecure_channel(f"unix:{tmp_path / 'socket'}") as channel:
        answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(text_request(b"ab"))
    assert list(answer.outputs["embedding"].float_val) == [2.0, 1.0, 3.0]
