"""Logs: the server's own, as text or JSON lines, and one line for each request."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO

from toolkit.errors import ServerError

__all__ = ["AccessLog", "configure"]

log = logging.getLogger("sentence_serving")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def _time(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Sends this package's log records to ``stream`` (stderr), one line each. For the command line."""
    handler = logging.StreamHandler(stream or sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s")
    handler.setFormatter(_JsonFormatter() if form == "json" else text)
    log.handlers[:] = [handler]
    log.setLevel(level.upper())
    log.propagate = False


class AccessLog:
    """One line a request, to a file (appended) or stderr (``-``); to nothing if ``target`` is empty.

    Raises `ServerError` if the file cannot be opened.
    """

    def __init__(self, target: str, form: str) -> None:
        self.enabled = bool(target)
        self._json = form == "json"
        self._owned = target not in ("", "-")
        try:
            self._file: TextIO = open(target, "a", buffering=1, encoding="utf-8") if self._owned else sys.stderr  # noqa: SIM115
        except OSError as error:
            raise ServerError(f"access log {target}: {error.strerror}") from None

    def write(self, *, api: str, method: str, model: str, code: str, seconds: float, **fields: Any) -> None:
        """Writes a request's line. Texts of requests never appear in it."""
        milliseconds = round(seconds * 1000, 3)
        line = {"time": _time(time.time()), "api": api, "method": method, "model": model, "code": code}
        rest = {name: value for name, value in fields.items() if value not in ("", None)}
        if self._json:
            text = json.dumps({**line, "ms": milliseconds, **rest}, ensure_ascii=False)
        else:
            extra = " ".join(f"{name}={_one_line(value)}" for name, value in rest.items())
            text = f"{line['time']} {api} {method} {_one_line(model) or '-'} {code} {milliseconds}ms {extra}".rstrip()
        self._file.write(text + "\n")

    def exception(self, where: str) -> None:
        """Records an unexpected error with its traceback."""
        log.exception("unexpected error in %s", where)

    def close(self) -> None:
        """Closes the file."""
        if self._owned:
            self._file.close()
        self.enabled = False


def _one_line(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c.isspace() or not c.isprintable() for c in text) else text
