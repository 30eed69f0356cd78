"""JSON as TF Serving reads it: RapidJSON 1.1 with NaN and Infinity, one value, whatever follows it ignored.

`parse` first tries the standard library's C parser, which is right for every well-formed document; whatever it
rejects goes to `parse_exactly`, a plain parser that finds the very error and byte offset that RapidJSON reports.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from toolkit.server.requests.status import invalid

__all__ = ["parse", "parse_exactly"]

MAX_DEPTH = 100  # RapidJSON recurses without a limit and a deep document kills the process; we refuse it

_WHITESPACE = b" \n\r\t"
_DIGITS = frozenset(b"0123456789")
_ESCAPES = {
    0x22: b'"',
    0x5C: b"\\",
    0x2F: b"/",
    0x62: b"\b",
    0x66: b"\f",
    0x6E: b"\n",
    0x72: b"\r",
    0x74: b"\t",
}
_PAIR = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's members; of equal names the first counts, as in RapidJSON's FindMember."""
    members = dict(pairs)
    return members if len(members) == len(pairs) else dict(reversed(pairs))


def _finite(token: str) -> float:
    value = float(token)
    if value in (float("inf"), float("-inf")):
        raise ValueError(token)  # the exact parser says so with the offset
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_first_wins, parse_float=_finite)


def parse(body: bytes) -> Any:
    """The first JSON value in ``body``. Raises `ServingError` INVALID_ARGUMENT with RapidJSON's text and offset.

    Strings are ``str``; bytes that are not UTF-8 stand in them as surrogate escapes.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        text = body.decode()
        if ("\\ud" in text or "\\uD" in text) and _HALF.search(_PAIR.sub("", text)):
            return parse_exactly(body)  # the standard library lets half a surrogate pair pass
        start = len(text) - len(text.lstrip(" \n\r\t"))
        value = _DECODER.raw_decode(text, start)[0]
    except (ValueError, RecursionError):
        return parse_exactly(body)
    # A bare number may go on after what the standard library took ("0." is 0 to it).
    return value if isinstance(value, (dict, list)) else parse_exactly(body)


def parse_exactly(body: bytes) -> Any:
    """`parse` without the fast path."""
    return _Parser(body).document()


def _fail(text: str, offset: int) -> NoReturn:
    raise invalid(f"JSON Parse error: {text} at offset: {offset}")


class _Parser:
    """Recursive descent over bytes, in RapidJSON's order of checks."""

    def __init__(self, body: bytes) -> None:
        self.skipped = 0
        for byte in (0xEF, 0xBB, 0xBF):  # a byte order mark, or what there is of one
            self.skipped += body[self.skipped : self.skipped + 1] == bytes([byte])
        self.body = body[self.skipped :] + b"\0"  # the stream's end reads as NUL
        self.at = 0
        self.depth = 0

    def fail(self, text: str, at: int | None = None) -> NoReturn:
        _fail(text, (self.at if at is None else at) + self.skipped)

    def document(self) -> Any:
        self.space()
        if self.body[self.at] in b"\0]},:":  # to its state machine, nothing of a document has come yet
            self.fail("The document is empty.")
        return self.value()

    def space(self) -> None:
        while self.body[self.at] in _WHITESPACE:
            self.at += 1

    def consume(self, character: bytes) -> bool:
        if self.body[self.at : self.at + 1] == character:
            self.at += 1
            return True
        return False

    def value(self) -> Any:
        match self.body[self.at : self.at + 1]:
            case b"n":
                return self.literal(b"null", None)
            case b"t":
                return self.literal(b"true", True)
            case b"f":
                return self.literal(b"false", False)
            case b'"':
                return self.string()
            case b"{":
                return self.nested(self.object)
            case b"[":
                return self.nested(self.array)
            case _:
                return self.number()

    def nested(self, read: Any) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(f"Nested deeper than {MAX_DEPTH} levels.")
        result = read()
        self.depth -= 1
        return result

    def literal(self, word: bytes, value: Any) -> Any:
        for position in range(len(word)):
            if not self.consume(word[position : position + 1]):
                self.fail("Invalid value.")
        return value

    def object(self) -> dict[str, Any]:
        self.at += 1
        self.space()
        members: list[tuple[str, Any]] = []
        if self.consume(b"}"):
            return {}
        while True:
            if self.body[self.at : self.at + 1] != b'"':
                self.fail("Missing a name for object member.")
            name = self.string()
            self.space()
            if not self.consume(b":"):
                self.fail("Missing a colon after a name of object member.")
            self.space()
            members.append((name, self.value()))
            self.space()
            if self.consume(b","):
                self.space()
            elif self.consume(b"}"):
                return _first_wins(members)
            else:
                self.fail("Missing a comma or '}' after an object member.")

    def array(self) -> list[Any]:
        self.at += 1
        self.space()
        values: list[Any] = []
        if self.consume(b"]"):
            return values
        while True:
            values.append(self.value())
            self.space()
            if self.consume(b","):
                self.space()
            elif self.consume(b"]"):
                return values
            else:
                self.fail("Missing a comma or ']' after an array element.")

    def string(self) -> str:
        self.at += 1
        parts: list[bytes] = []
        while True:
            plain = _PLAIN.match(self.body, self.at)
            assert plain is not None
            parts.append(plain.group())
            self.at = plain.end()
            character = self.body[self.at]
            if character == 0x22:
                self.at += 1
                return b"".join(parts).decode("utf-8", "surrogateescape")
            if character == 0x5C:
                parts.append(self.escape())
            elif character == 0:
                self.fail("Missing a closing quotation mark in string.")
            else:
                self.fail("Invalid escape character in string.")

    def escape(self) -> bytes:
        start = self.at
        self.at += 1
        character = self.body[self.at]
        if character in _ESCAPES:
            self.at += 1
            return _ESCAPES[character]
        if character != 0x75:
            self.fail("Invalid escape character in string.", start)
        self.at += 1
        point = self.hex4(start)
        if 0xD800 <= point <= 0xDBFF:
            if not (self.consume(b"\\") and self.consume(b"u")):
                self.fail("The surrogate pair in string is invalid.", start)
            low = self.hex4(start)
            if not 0xDC00 <= low <= 0xDFFF:
                self.fail("The surrogate pair in string is invalid.", start)
            point = (((point - 0xD800) << 10) | (low - 0xDC00)) + 0x10000
        return chr(point).encode("utf-8", "surrogatepass")

    def hex4(self, start: int) -> int:
        digits = self.body[self.at : self.at + 4]
        if not re.fullmatch(rb"[0-9A-Fa-f]{4}", digits):
            self.fail("Incorrect hex digit after \\u escape in string.", start)
        self.at += 4
        return int(digits, 16)

    def digits(self) -> bytes:
        start = self.at
        while self.body[self.at] in _DIGITS:
            self.at += 1
        return self.body[start : self.at]

    def number(self) -> int | float:
        start = self.at
        negative = self.consume(b"-")
        if self.consume(b"N"):
            if not (self.consume(b"a") and self.consume(b"N")):
                self.fail("Invalid value.")
            return float("nan")
        if self.consume(b"I"):
            if not (self.consume(b"n") and self.consume(b"f")):
                self.fail("Invalid value.")
            if self.body[self.at : self.at + 1] == b"i":
                self.literal(b"inity", None)
            return float("-inf" if negative else "inf")
        if not self.consume(b"0") and not self.digits():
            self.fail("Invalid value.")
        whole = True
        if self.consume(b"."):
            whole = False
            if not self.digits():
                self.fail("Miss fraction part in number.")
        if self.consume(b"e") or self.consume(b"E"):
            whole = False
            _ = self.consume(b"+") or self.consume(b"-")
            if not self.digits():
                self.fail("Miss exponent in number.")
        token = self.body[start : self.at]
        if whole and len(token) <= 20:
            integer = int(token)
            if -(1 << 63) <= integer < 1 << 64:
                return integer
        value = float(token)
        if value in (float("inf"), float("-inf")):
            self.fail("Number too big to be stored in double.", start)
        return value
