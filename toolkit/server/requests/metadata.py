"""Answers about models: their signatures and their versions' states, as messages and as TF Serving's JSON."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from toolkit.server.models.manager import VersionStatus
from toolkit.server.models.servable import Servable

__all__ = ["metadata_json", "metadata_response", "status_json", "status_response"]


def status_response(states: Sequence[VersionStatus]) -> get_model_status_pb2.GetModelStatusResponse:
    """``GetModelStatusResponse`` of versions' states."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for item in states:
        version = response.model_version_status.add(version=item.version, state=item.state.value)
        version.status.SetInParent()
        version.status.error_code = item.code.value
        version.status.error_message = item.message
    return response


def metadata_response(servable: Servable) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """``GetModelMetadataResponse`` with the signatures of a servable."""
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = servable.name
    response.model_spec.version.value = servable.version
    response.metadata["signature_def"].Pack(_signatures(servable))
    return response


def status_json(states: Sequence[VersionStatus]) -> bytes:
    """The REST answer about states."""
    return f"{_json(status_response(states))}\n".encode()


def metadata_json(servable: Servable) -> bytes:
    """The REST answer about signatures."""
    spec = _json(metadata_response(servable).model_spec)
    return (
        f'{{\n"model_spec":{spec}\n,\n"metadata": {{"signature_def": {_json(_signatures(servable))}\n}}\n}}\n'.encode()
    )


def _signatures(servable: Servable) -> get_model_metadata_pb2.SignatureDefMap:
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in servable.signatures.items():
        signatures.signature_def[name].CopyFrom(signature.definition)
    return signatures


def _json(message: Message) -> str:
    return str(
        json_format.MessageToJson(
            message,
            always_print_fields_with_no_presence=True,
            preserving_proto_field_name=True,
            indent=1,
            ensure_ascii=False,
        )
    )
