"""The REST API's HTTP server, uvicorn, on a thread of its own."""

from __future__ import annotations

import os
import socket
import ssl
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn

from toolkit.errors import ServerError
from toolkit.server.models.configfiles import Tls
from toolkit.server.options import ServerOptions
from toolkit.server.rest.protocol import Http11

__all__ = ["RestThread"]


class RestThread:
    """uvicorn on a thread of its own."""

    def __init__(self, app: Any, listener: socket.socket, options: ServerOptions, tls: Tls | None) -> None:
        config = uvicorn.Config(
            app,
            http=Http11,
            loop="auto",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=2048,
            timeout_keep_alive=75,
            ssl_context_factory=(lambda *_: _ssl_context(tls)) if tls else None,
        )
        self._server = uvicorn.Server(config)
        self._app = app
        self._listener = listener
        self._thread = threading.Thread(target=self._run, name="rest", daemon=True)

    def _run(self) -> None:
        self._server.run(sockets=[self._listener])

    def start(self) -> None:
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise ServerError("the REST server did not start")
            time.sleep(0.005)

    def stop(self, grace: float) -> None:
        self._server.config.timeout_graceful_shutdown = max(1, round(grace))
        self._server.should_exit = True
        self._thread.join(grace + 2)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join(5)
        self._listener.close()
        self._app.close()


def _ssl_context(tls: Tls) -> ssl.SSLContext:
    """An SSL context of keys in memory, for which the standard library wants files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("key", tls.server_key), ("cert", tls.server_cert)):
            file = os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT, 0o600)
            os.write(file, content)
            os.close(file)
        try:
            context.load_cert_chain(Path(folder) / "cert", Path(folder) / "key")
            if tls.custom_ca:
                context.load_verify_locations(cadata=tls.custom_ca.decode())
        except (ssl.SSLError, ValueError) as error:
            raise ServerError(f"ssl_config_file: key, certificate or CA cannot be used: {error}") from None
    if tls.client_verify:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
