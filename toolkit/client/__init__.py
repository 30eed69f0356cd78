"""The client: TF Serving models over gRPC and REST, with grpcio, protobuf and numpy (and httpx for REST) only."""

from toolkit.client.aio import AsyncClient
from toolkit.client.options import TLS, Hedge, Retry, Split
from toolkit.client.sync import Client
from toolkit.client.transport.interface import AsyncTransport, Transport
from toolkit.client.types import Detailed, ModelMetadata, Ranked, SignatureInfo, Sparse, TensorInfo, VersionStatus

__all__ = [
    "TLS",
    "AsyncClient",
    "AsyncTransport",
    "Client",
    "Detailed",
    "Hedge",
    "ModelMetadata",
    "Ranked",
    "Retry",
    "SignatureInfo",
    "Sparse",
    "Split",
    "TensorInfo",
    "Transport",
    "VersionStatus",
]
