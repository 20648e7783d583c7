"""What can go wrong, as a tree.

::

    GrpcBearerError                     never raised itself
    ├─ ConfigurationError (ValueError)  wrong when built; names the field, never its secret value
    │  └─ InsecureChannelError          a token would travel in the clear
    ├─ SigningError                     key unusable for the algorithm
    └─ TokenError                       no token to be had; never raised itself
       ├─ TokenUnavailableError         file, network, 5xx, 429, timeout   retryable       UNAVAILABLE
       ├─ TokenRejectedError            the endpoint said no               not retryable   UNAUTHENTICATED
       └─ TokenFormatError              the answer or file is no token     not retryable   UNAUTHENTICATED

Each has a `help` code such as ``GB-CLOCK``, under which the page "Troubleshooting" explains it. It stands at the end of
a traceback (from Python 3.11 on), of the details of a call that failed here, and of a line in the log; never in the
message itself.

No message, argument or attribute of these classes ever holds a token, a key or a credential, and none is chained to an
exception that does (an HTTP client's exception carries its request, and with it the secret).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import grpc

__all__ = [
    "ConfigurationError",
    "GrpcBearerError",
    "InsecureChannelError",
    "SigningError",
    "TokenError",
    "TokenFormatError",
    "TokenRejectedError",
    "TokenUnavailableError",
]

#: The `help` code of an error, by what is likely to be at fault or, where that is not known, by its class.
_HELP = {
    "config": "GB-CONFIG",
    "plaintext": "GB-PLAINTEXT",
    "key": "GB-KEY",
    "unavailable": "GB-UNAVAILABLE",
    "rejected": "GB-REJECTED",
    "format": "GB-FORMAT",
    "clock": "GB-CLOCK",
    "credential": "GB-CREDENTIAL",
    "endpoint": "GB-ENDPOINT",
    "route": "GB-ROUTE",
    "token": "GB-REFUSED",
    "size": "GB-SIZE",
}


class GrpcBearerError(Exception):
    """The root of everything this library raises on its own account; never raised itself.

    >>> try:
    ...     raise ConfigurationError("api_key: missing")
    ... except GrpcBearerError as error:
    ...     print(error, error.help)
    api_key: missing GB-CONFIG
    """

    _abstract: ClassVar[bool] = True
    # The key in `_HELP` of an error of this class of which nothing more is known.
    _about: ClassVar[str] = "config"
    # Which argument is wrong, and the text behind its name: for `load`, whose users know the argument by another name.
    _field: str = ""
    _reason: str = ""
    # What is likely to be at fault, if that is known: a key in `_HELP`.
    _suspect: str = ""

    def __init__(self, message: str, *, field: str | tuple[str, str] = "") -> None:
        if type(self).__dict__.get("_abstract", False):
            raise TypeError(f"{type(self).__name__} is never raised itself: raise one of its subclasses")
        self._field, *inside = (field,) if isinstance(field, str) else field
        self._reason = ": ".join((*inside, message))
        super().__init__(f"{self._field}: {self._reason}" if self._field else message)
        if sys.version_info >= (3, 11):
            self.add_note(f"See {self.help} under Troubleshooting in the documentation of grpc-bearer.")

    @property
    def help(self) -> str:
        """The code under which the page "Troubleshooting" explains this error, such as ``GB-CLOCK``."""
        return _HELP.get(self._suspect) or _HELP[self._about]

    @property
    def _told(self) -> str:
        """The text with the code at its end, for where nobody sees the error itself."""
        return f"{self} [{self.help}]"

    def _without(self, field: str) -> str:
        """The text for somebody who has named the field already."""
        return self._reason if self._field == field else str(self)

    def fresh(self) -> GrpcBearerError:
        """A copy without a traceback: one instance raised to many waiters would collect all of theirs.

        Of what it is chained to only our own errors are kept; the others may hold a secret.
        """
        # Not by `copy.copy`: libraries that carry errors between processes (tblib, by way of Dask) teach it to bring
        # the traceback along, and to let both errors have one `__dict__`.
        twin = type(self).__new__(type(self), *self.args)
        twin.args = self.args  # of a subclass that is an OSError too, `__new__` takes none
        vars(twin).update(vars(self))
        twin.__cause__ = self.__cause__.fresh() if isinstance(self.__cause__, GrpcBearerError) else None
        twin.__suppress_context__ = True
        if notes := getattr(self, "__notes__", None):
            vars(twin)["__notes__"] = [*notes]  # a list of its own: whoever adds to one adds to none of the others
        return twin


class ConfigurationError(GrpcBearerError, ValueError):
    """Something was wrong when the object was built. The text names the field or file and what to do."""

    _about: ClassVar[str] = "config"


class InsecureChannelError(ConfigurationError):
    """A token would travel in the clear, so it was not sent."""

    _about: ClassVar[str] = "plaintext"


class SigningError(GrpcBearerError):
    """The key cannot be used for the algorithm: another type, another curve, a public half, a wrong passphrase."""

    _about: ClassVar[str] = "key"


class TokenError(GrpcBearerError):
    """No token is to be had; never raised itself.

    Attributes:
        retryable: whether the same request may succeed later without anybody changing anything.
        retry_after: seconds after which the token endpoint wants to be asked again, if it said so.
    """

    _abstract: ClassVar[bool] = True
    _about: ClassVar[str] = "unavailable"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        field: str | tuple[str, str] = "",
        suspect: str = "",
    ) -> None:
        self._suspect = suspect
        super().__init__(message, field=field)
        self.retry_after = retry_after

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC status of a call that failed for want of this token."""
        import grpc

        return grpc.StatusCode.UNAVAILABLE if self.retryable else grpc.StatusCode.UNAUTHENTICATED


class TokenUnavailableError(TokenError):
    """The token could not be had now: file, network, 5xx, 429, timeout. Trying again later may help."""

    retryable: ClassVar[bool] = True


class TokenRejectedError(TokenError):
    """The token endpoint, or whoever gives the token, said no. Trying again with the same credential will not help."""

    _about: ClassVar[str] = "rejected"


class TokenFormatError(TokenError):
    """The answer or the file is no token: HTML, JSON without the field, an expired JWT, a forbidden character."""

    _about: ClassVar[str] = "format"
