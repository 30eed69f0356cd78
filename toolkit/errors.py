"""The exception tree. Every error this package raises on purpose is one of these.

::

    ToolkitError
    ├── MissingExtraError        a package of an optional extra is not installed             exit 6
    ├── SourceError              the checkpoint cannot be found or read                      exit 3
    │   └── UnsupportedError     readable, but something in it is not supported              exit 3
    ├── ArtifactError            a SavedModel or its folder cannot be read or written        exit 4
    │   └── VersionExistsError   the version directory is already there                      exit 4
    ├── CheckError               an artifact differs from its original                       exit 1
    ├── InputError               a value given by the caller is not usable                   exit 2
    ├── GeneratorError           the load generator itself was the limit of what it measured    exit 7
    ├── ServerError              a server or a cluster cannot start, or has no room          exit 4
    └── ClientError              a request failed; model, address, attempts, rows               exit 5
        ├── UnreachableError     no server answers at the address
        ├── DeadlineError        no answer in time
        ├── ModelNotFoundError   the server does not have this model, version or label
        ├── SignatureError       the model does not have this signature
        ├── RequestError         the server refuses the request's content
        │   └── RejectedError    more rows have no embedding than a run allows               exit 2
        ├── OverloadedError      the server (or a proxy) has no room for the request now
        ├── AuthenticationError  the server wants other credentials
        └── ResponseError        the server's answer cannot be understood

The command line prints an error's text on stderr, without a traceback, and exits with ``exit_code``.

``SourceNotice`` is no error but a warning: what the user of a checkpoint that is taken should know all the same.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "ArtifactError",
    "AuthenticationError",
    "CheckError",
    "ClientError",
    "DeadlineError",
    "GeneratorError",
    "InputError",
    "MissingExtraError",
    "ModelNotFoundError",
    "OverloadedError",
    "RejectedError",
    "RequestError",
    "ResponseError",
    "ServerError",
    "SignatureError",
    "SourceError",
    "SourceNotice",
    "ToolkitError",
    "UnreachableError",
    "UnsupportedError",
    "VersionExistsError",
]


class ToolkitError(Exception):
    """Base of all errors of this package. ``exit_code`` is the command line's exit status for it."""

    exit_code: int = 1


class MissingExtraError(ToolkitError):
    """A package that belongs to an optional extra is not installed."""

    exit_code = 6

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'sentence-serving[{extra}]'")
        self.package = package
        self.extra = extra


class SourceError(ToolkitError):
    """The checkpoint cannot be found, opened or understood."""

    exit_code = 3


class UnsupportedError(SourceError):
    """The checkpoint asks for something that is not supported; names where, what, the alternatives and, where it is
    known, the reason."""

    def __init__(
        self, file: str, field: str, value: object, supported: Iterable[object] | str, *, because: str | None = None
    ) -> None:
        options = supported if isinstance(supported, str) else ", ".join(str(item) for item in supported)
        reason = f" ({because})" if because else ""
        super().__init__(f"{file}: {field} is {value!r}, which is not supported{reason}; supported: {options}")
        self.file = file
        self.field = field
        self.value = value
        self.supported = options


class SourceNotice(UserWarning):
    """The checkpoint is taken, but its user should know something of it; the command line prints it as a note."""


class ArtifactError(ToolkitError):
    """A SavedModel, or the folder that holds it, cannot be read or written."""

    exit_code = 4


class VersionExistsError(ArtifactError):
    """The version directory to be written exists already; it is left as it is."""


class CheckError(ToolkitError):
    """An artifact's answers differ from the original model's; the text names the first stage that diverges."""

    exit_code = 1


class InputError(ToolkitError):
    """A value given by the caller is not usable."""

    exit_code = 2


class GeneratorError(ToolkitError):
    """The load generator itself was the limit: the figures are its own, not the server's."""

    exit_code = 7


class ServerError(ToolkitError):
    """The embedded server cannot start, or its configuration is not usable; a Ray cluster or a machine cannot be used
    for a job, or has no room for it."""

    exit_code = 4


class ClientError(ToolkitError):
    """A request to a server failed.

    ``address`` and ``model`` say which; ``attempts`` counts how often it was sent; ``rows`` is the half-open range
    ``(start, stop)`` of the caller's rows that it carried. Each is ``None`` where it does not apply.
    """

    exit_code = 5

    def __init__(
        self,
        message: str,
        *,
        address: str | None = None,
        model: str | None = None,
        attempts: int | None = None,
        rows: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.address = address
        self.model = model
        self.attempts = attempts
        self.rows = rows

    def __str__(self) -> str:
        parts = [
            f"server {self.address}" if self.address else "",
            f"model {self.model}" if self.model else "",
            f"rows {self.rows[0]} to {self.rows[1] - 1}" if self.rows else "",
            f"after {self.attempts} attempts" if self.attempts and self.attempts > 1 else "",
        ]
        where = ", ".join(part for part in parts if part)
        return f"{self.message} ({where})" if where else self.message


class UnreachableError(ClientError):
    """No server answers at the address."""


class DeadlineError(ClientError):
    """The server did not answer within the deadline."""


class ModelNotFoundError(ClientError):
    """The server does not serve this model, version or version label."""


class SignatureError(ClientError):
    """The served model does not have this signature."""


class RequestError(ClientError):
    """The server refuses the request's content."""


class RejectedError(RequestError):
    """More rows have no embedding, refused by the server or unusable as they are, than a bulk run allows."""

    exit_code = 2  # as for a run that ends with rows without embedding


class OverloadedError(ClientError):
    """The server, or a proxy before it, has no room for the request at present."""


class AuthenticationError(ClientError):
    """The server does not accept the credentials of the request, or wants some."""


class ResponseError(ClientError):
    """The server's answer is a failure of its own, or cannot be understood."""
