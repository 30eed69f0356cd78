"""HTTP/1.1 as uvicorn speaks it, to which offers of another protocol mean nothing, as to TF Serving."""

from __future__ import annotations

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Http11"]

_OFFER = (b"upgrade", b"http2-settings")  # headers, and words of the Connection header, that make the offer


class Http11(HttpToolsProtocol):
    """A connection. ``Upgrade: h2c``, which Java's client sends by default, costs a request nothing.

    llhttp leaves a request's body to the protocol that is offered; here the head is read again without the offer.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.parser = _Parser(self)

    def on_headers_complete(self) -> None:
        if not self.offered():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.offered():
            super().on_message_complete()

    def offered(self) -> bool:
        """Whether the request whose head has just been read offers another protocol (CONNECT asks for one)."""
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def head_without_offer(self) -> bytes:
        """That head as bytes, without what makes the offer."""
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                words = [word.strip() for word in value.split(b",")]
                value = b", ".join(word for word in words if word.lower() not in _OFFER)
            if name not in _OFFER:
                lines.append(name + b": " + value)
        return b"\r\n".join((*lines, b"", b""))


class _Parser(httptools.HttpRequestParser):
    def __init__(self, connection: Http11) -> None:
        super().__init__(connection)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self._connection = connection

    def feed_data(self, data: Any) -> None:
        parser = self
        while True:
            try:
                httptools.HttpRequestParser.feed_data(parser, data)
            except httptools.HttpParserUpgrade as end:
                if not self._connection.offered():
                    raise
                data = self._connection.head_without_offer() + data[end.args[0] :]
                parser = self._connection.parser = _Parser(self._connection)
            else:
                return
