"""A name server for tests."""

from __future__ import annotations

import socket
import struct
import threading

__all__ = ["NameServer"]


class NameServer:
    """DNS over UDP for one name, whose IPv4 addresses can change."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                query, client = self._socket.recvfrom(512)
            except OSError:
                return
            end = query.index(b"\0", 12) + 5
            asked = struct.unpack(">H", query[end - 4 : end - 2])[0]
            addresses = self.addresses if asked == 1 else ()
            head = query[:2] + struct.pack(">HHHHH", 0x8580, 1, len(addresses), 0, 0) + query[12:end]
            records = [b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(item) for item in addresses]
            self._socket.sendto(head + b"".join(records), client)

    def close(self) -> None:
        self._socket.close()
