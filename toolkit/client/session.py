"""From a caller's arguments to a `Session`: what both clients check before anything is sent."""

from __future__ import annotations

import re

from toolkit.client.operations import Session
from toolkit.client.options import Hedge, Retry, Split
from toolkit.client.transport.address import parse_address
from toolkit.client.types import Spec
from toolkit.client.wire.rest import RestCodec
from toolkit.client.wire.tensors import GrpcCodec
from toolkit.errors import InputError

__all__ = ["open_session"]


def open_session(
    url: str,
    model: str,
    version: int | None,
    label: str | None,
    timeout: float,
    split: Split | None,
    retry: Retry | None,
    hedge: Hedge | None,
) -> Session:
    """Check the arguments and put them together. Raises `InputError`."""
    address = parse_address(url)
    if not isinstance(model, str) or not model:
        raise InputError(f"model is {model!r}; give the served model's name")
    if version is not None and label is not None:
        raise InputError(f"version {version} and label {label!r} exclude each other")
    if version is not None and (isinstance(version, bool) or not isinstance(version, int) or not 0 <= version < 2**63):
        raise InputError(f"version is {version!r}; it must be a whole number, 0 or more")
    if label is not None and not re.fullmatch(r"[a-zA-Z0-9_]+", label):
        raise InputError(f"label is {label!r}; labels are made of letters, digits and underscores")
    if not timeout > 0:
        raise InputError(f"timeout is {timeout} seconds; it must be more than 0")
    return Session(
        address=address,
        spec=Spec(model, version, label),
        codec=RestCodec() if address.rest else GrpcCodec(),
        split=split or Split(),
        retry=retry or Retry(),
        hedge=hedge,
        timeout=timeout,
    )
