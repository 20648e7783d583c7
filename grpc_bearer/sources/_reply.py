"""What an authorization server said to one request, and the token in it (RFC 6749 sections 5.1 and 5.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from grpc_bearer._base.token import Token
from grpc_bearer.errors import TokenFormatError
from grpc_bearer.sources._parse import (
    Answer,
    check_bearer,
    decoded_text,
    field_of,
    json_document,
    jwt_expiry,
    lifetime_of,
    made_token,
    oauth_code,
    oauth_refusal,
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server said to one request.

    Args:
        answer: as it came.
        where: the host, for messages.
        now: when the request was made, by the auth's clock.
    """

    answer: Answer
    where: str
    now: float

    @property
    def code(self) -> str | None:
        """The `error` code in it, if it is a registered one."""
        return oauth_code(self.answer)

    def document(self) -> dict[str, Any]:
        """The JSON object of a success.

        Raises:
            TokenUnavailableError: status 408, 429 or 5xx, `temporarily_unavailable`.
            TokenRejectedError: the server said no; its error code is named if it is a registered one.
            TokenFormatError: no JSON object.
        """
        refused = oauth_refusal(self.answer, self.where, self.now)
        if refused is not None:
            raise refused
        document = json_document(decoded_text(self.answer, self.where), self.where)
        if not isinstance(document, dict):
            raise TokenFormatError(f"{self.where}: JSON without the field 'access_token'")
        return document

    def token(self, lifetime: float | None = None, *, not_only_bearer: bool = False) -> Token:
        """The access token (RFC 6749 section 5.1).

        Args:
            lifetime: in seconds, if neither the answer nor the token tells it.
            not_only_bearer: take a token whose `token_type` is `N_A` (RFC 8693 section 2.2.1).

        Raises:
            TokenError: as for `document`; and a `TokenFormatError` if it is no token of type Bearer.
        """
        document = self.document()
        if not (not_only_bearer and str(document.get("token_type")).upper() == "N_A"):
            check_bearer(document, self.where)
        if "access_token" not in document and isinstance(document.get("token"), str):
            raise TokenFormatError(
                f"{self.where}: JSON without the field 'access_token', but with 'token': this is no OAuth token "
                "endpoint; HTTPTokenSource(…, field='token') may serve",
                suspect="endpoint",
            )
        value = field_of(document, "access_token", self.where)
        # The stated lifetime before the token's own `exp`: an access token is opaque to its client (RFC 6749 section
        # 1.4), and a span is right whatever our clock says.
        stated = lifetime_of(document, "expires_in", self.where)
        expires_at = jwt_expiry(value) if stated is None else self.now + stated
        if expires_at is None and lifetime is not None:
            expires_at = self.now + lifetime
        return made_token(self.where, value, now=self.now, expires_at=expires_at)
