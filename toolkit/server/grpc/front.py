"""The gRPC API: PredictionService, ModelService, health and reflection."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2,
    predict_pb2,
    prediction_service_pb2,
    regression_pb2,
)

from toolkit.errors import ServerError
from toolkit.server.grpc.workers import Workers
from toolkit.server.models.configfiles import Tls
from toolkit.server.options import ServerOptions
from toolkit.server.requests import examples, wire
from toolkit.server.requests.core import Admission, Core, ModelRef, gone
from toolkit.server.requests.examples import model_ref, model_spec
from toolkit.server.requests.metadata import metadata_response, status_response
from toolkit.server.requests.status import Code, ServingError, invalid
from toolkit.server.watching.accesslog import AccessLog
from toolkit.server.watching.metrics import Run

__all__ = ["GrpcFront"]

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_SPARE_THREADS = 8  # for calls that are refused, and status requests, while all others are at work

Outcome = tuple[Any, Run | None]  # wire bytes or a message, and what was run for it
Handler = Callable[[Any, grpc.ServicerContext], Outcome]


class GrpcFront:
    """Serves a `Core` over gRPC. ``tokens``: bearer tokens of which a call must carry one; empty: none needed."""

    def __init__(
        self,
        core: Core,
        options: ServerOptions,
        reload: Callable[[Any], None],
        log: AccessLog,
        tls: Tls | None = None,
        tokens: Sequence[bytes] = (),
    ) -> None:
        self._core = core
        self._options = options
        self._reload = reload
        self._log = log
        self._tokens = tokens
        self.admission = Admission(options.grpc_max_threads)
        self._as_content = options.enable_serialization_as_tensor_content
        self._specs: dict[tuple[str, int, str], bytes] = {}
        self._health = health.HealthServicer(experimental_non_blocking=True)
        self._server = grpc.server(Workers(options.grpc_max_threads + _SPARE_THREADS), options=_arguments(options))
        self._register()
        self.port = self._listen(tls)

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Accepts calls."""
        self._server.start()

    def refuse(self) -> None:
        """Says in the health service that nothing is served any more; calls are still answered."""
        self._health.enter_graceful_shutdown()

    def stop(self, grace: float) -> None:
        """Accepts no more calls; returns when those in work are done, or cancelled after ``grace`` seconds."""
        self._server.stop(grace).wait()

    def show(self, models: dict[str, bool], ready: bool) -> None:
        """Puts the models' availability into the health service."""
        for name, available in {**models, "": ready}.items():
            state = health_pb2.HealthCheckResponse.SERVING if available else health_pb2.HealthCheckResponse.NOT_SERVING
            self._health.set(name, state)

    def _listen(self, tls: Tls | None) -> int:
        address = f"{self._options.url_host}:{self._options.port}"
        try:
            if tls is None:
                port = self._server.add_insecure_port(address)
            else:
                credentials = grpc.ssl_server_credentials(
                    [(tls.server_key, tls.server_cert)],
                    root_certificates=tls.custom_ca,
                    require_client_auth=tls.client_verify,
                )
                port = self._server.add_secure_port(address, credentials)
            if self._options.grpc_socket_path:
                self._server.add_insecure_port(f"unix:{self._options.grpc_socket_path}")
        except RuntimeError as error:
            raise ServerError(f"gRPC cannot listen on {address}: {error}") from None
        if not port:
            raise ServerError(f"gRPC cannot listen on {address}")
        return int(port)

    def _register(self) -> None:
        prediction: dict[str, tuple[Any, Handler]] = {
            "Predict": (predict_pb2.PredictRequest, self._predict),
            "GetModelMetadata": (get_model_metadata_pb2.GetModelMetadataRequest, self._metadata),
            "Classify": (classification_pb2.ClassificationRequest, lambda r, _: examples.classify(self._core, r)),
            "Regress": (regression_pb2.RegressionRequest, lambda r, _: examples.regress(self._core, r)),
            "MultiInference": (
                inference_pb2.MultiInferenceRequest,
                lambda r, _: examples.multi_inference(self._core, r),
            ),
        }
        model: dict[str, tuple[Any, Handler]] = {
            "GetModelStatus": (get_model_status_pb2.GetModelStatusRequest, self._status),
            "HandleReloadConfigRequest": (model_management_pb2.ReloadConfigRequest, self._handle_reload),
        }
        services = {
            prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"].full_name: prediction,
            model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name: model,
        }
        for service, methods in services.items():
            handlers = {
                name: grpc.unary_unary_rpc_method_handler(self._unary(name, *method))
                for name, method in methods.items()
            }
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        names = [*services]
        if self._options.enable_grpc_healthcheck_service:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
            names.append(health.SERVICE_NAME)
        if self._options.enable_reflection:
            reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], self._server)

    # -- calls --------------------------------------------------------------------------------------------------------

    def _unary(self, name: str, request_type: Any, handler: Handler) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        """A method that takes and gives wire bytes: statuses, limits, counting and logging around ``handler``."""
        limited = name not in ("GetModelStatus", "HandleReloadConfigRequest", "GetModelMetadata")
        core, log, admission = self._core, self._log, self.admission

        def call(body: bytes, context: grpc.ServicerContext) -> bytes:
            started = time.perf_counter()
            request = None
            run: Run | None = None
            code, text = Code.OK, ""
            try:
                self._authenticate(context)
                if not _awaited(context):  # it has waited for a thread
                    raise gone()
                request = request_type.FromString(body)
                if limited:
                    with admission:
                        response, run = handler(request, context)
                else:
                    response, run = handler(request, context)
            except ServingError as error:
                code, text = error.code, error.message
            except DecodeError:
                code, text = Code.INTERNAL, f"The request is not a {request_type.DESCRIPTOR.name} message"
            except Exception as error:
                log.exception(name)
                code, text = Code.INTERNAL, f"{type(error).__name__} in {name}"
            spec = _spec(request)
            seconds = core.count(spec, name, "GRPC", code, started, run)
            if log.enabled:
                log.write(
                    api="GRPC", method=name, model=spec, code=code.name, seconds=seconds, bytes=len(body),
                    peer=context.peer(), error=text,
                )  # fmt: skip
            if code is not Code.OK:
                context.abort(_CODES[code.value], text)
            return response if type(response) is bytes else bytes(response.SerializeToString())

        return call

    def _authenticate(self, context: grpc.ServicerContext) -> None:
        if not self._tokens:
            return
        given = b""
        for key, value in context.invocation_metadata():
            if key == "authorization":
                given = value.encode() if isinstance(value, str) else value
        if not bearer(given, self._tokens):
            raise ServingError(Code.UNAUTHENTICATED, "A valid bearer token is required")

    def _predict(self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext) -> Outcome:
        spec = request.model_spec
        with self._core.leased(model_ref(spec)) as servable:
            answer = self._core.predict(
                servable,
                spec.signature_name,
                request.inputs.keys(),
                lambda: {alias: wire.decode(alias, proto) for alias, proto in request.inputs.items()},
                request.output_filter,
                awaited=lambda: _awaited(context),
            )
        types = answer.signature.outputs
        outputs = {
            alias: wire.encode(array, types[alias].dtype, as_content=self._as_content)
            for alias, array in answer.outputs.items()
        }
        response = wire.predict_response(outputs, self._spec_bytes(spec.name, answer.version, answer.signature.name))
        return response, answer.run

    def _spec_bytes(self, name: str, version: int, signature: str) -> bytes:
        key = (name, version, signature)
        found = self._specs.get(key)
        if found is None:
            if len(self._specs) > 1000:
                self._specs.clear()
            found = self._specs[key] = model_spec(name, signature, version).SerializeToString()
        return found

    def _metadata(self, request: Any, context: grpc.ServicerContext) -> Outcome:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for metadata_field in request.metadata_field:
            if metadata_field != "signature_def":
                raise invalid(f"Metadata field {metadata_field} is not supported")
        with self._core.leased(model_ref(request.model_spec)) as servable:
            return metadata_response(servable), None

    def _status(self, request: Any, context: grpc.ServicerContext) -> Outcome:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        model: ModelRef = model_ref(request.model_spec)
        return status_response(self._core.manager.status(model.name, model.version)), None

    def _handle_reload(self, request: Any, context: grpc.ServicerContext) -> Outcome:
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported"
            )
        self._reload(request.config)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        return response, None


def bearer(header: bytes, tokens: Sequence[bytes]) -> bool:
    """Whether an Authorization header carries one of ``tokens``; takes as long for a near miss as for a far one."""
    scheme, _, given = header.partition(b" ")
    matches = [hmac.compare_digest(given.strip(), token) for token in tokens]
    return scheme.lower() == b"bearer" and any(matches)


def _awaited(context: grpc.ServicerContext) -> bool:
    """Whether the caller still waits: has not cancelled the call, nor has its deadline passed."""
    remaining = context.time_remaining()
    return context.is_active() and (remaining is None or remaining > 0)


def _spec(request: Any) -> str:
    """The model's name in a request, for counting."""
    if request is None:
        return ""
    if isinstance(request, inference_pb2.MultiInferenceRequest):
        return request.tasks[0].model_spec.name if request.tasks else ""
    return str(request.model_spec.name) if hasattr(request, "model_spec") else ""


def _arguments(options: ServerOptions) -> list[tuple[str, Any]]:
    """Channel arguments: whole numbers as such, the rest as text, as TF Serving reads them."""
    arguments: list[tuple[str, Any]] = [
        ("grpc.so_reuseport", 0),  # a second server on the same port is an error, not a silent sharer
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.max_send_message_length", -1),
    ]
    for argument in filter(None, options.grpc_channel_arguments.split(",")):
        key, _, value = argument.partition("=")
        arguments.append((key, int(value) if value.lstrip("-").isdigit() else value))
    return arguments
