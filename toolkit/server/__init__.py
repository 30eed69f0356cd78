"""The embedded server: TF Serving's gRPC and REST APIs on the TensorFlow runtime of the wheel.

    from toolkit.server import Server, ServerOptions

    with Server(ServerOptions(models_dir=Path("models"), port=0, rest_api_port=0)) as server:
        print(server.grpc_port, server.rest_port)

Importing this package does not import TensorFlow; starting a server does.
"""

from __future__ import annotations

from toolkit.server.options import ServerOptions
from toolkit.server.server import Server

__all__ = ["Server", "ServerOptions"]
