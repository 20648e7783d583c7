"""What is known of a channel's protection when it is wrapped. What is not known, core finds out call by call."""

from __future__ import annotations

from collections.abc import Iterator

import grpc

from grpc_bearer._auth import BearerAuth
from grpc_bearer._base.arguments import kind_of
from grpc_bearer._base.grpc_private_credentials import credentials_kind
from grpc_bearer._calls.attach_token import Attach, Attachment
from grpc_bearer._calls.combine import doubled
from grpc_bearer._calls.grpc_private import channel_in, core_of, interceptors_of, is_grpcs, target_of
from grpc_bearer._calls.retry_policy import RetryPolicy
from grpc_bearer.errors import ConfigurationError, InsecureChannelError

# The control plane may point these anywhere and change what protects them, at any time.
_XDS_SCHEMES = ("xds:", "google-c2p:", "google-c2p-experimental:")


def protecting(credentials: grpc.ChannelCredentials | None) -> grpc.ChannelCredentials:
    """The channel credentials to use; TLS with the default roots for `None`.

    Raises:
        InsecureChannelError: they are known to protect nothing.
        ConfigurationError: they are no channel credentials.
    """
    if credentials is None:
        return grpc.ssl_channel_credentials()
    if not isinstance(credentials, grpc.ChannelCredentials):
        raise ConfigurationError(
            f"credentials: expected grpc.ChannelCredentials, got {kind_of(credentials)}; the token goes to auth="
        )
    if credentials_kind(credentials) == "InsecureChannelCredentials":
        raise refuse_plaintext()
    return credentials


def refuse_plaintext() -> InsecureChannelError:
    return InsecureChannelError(
        "credentials: this channel would carry the token in the clear; use TLS, grpc.local_channel_credentials() for "
        "loopback and Unix sockets, or insecure_channel(..., allow_plaintext=True) for a mesh that encrypts below"
    )


def attachment_for(
    channel: object,
    auth: BearerAuth,
    credentials: grpc.ChannelCredentials | None = None,
    *,
    plaintext: bool = False,
    attach: Attach = "auto",
    retry: RetryPolicy | None = None,
    target: str | None = None,
) -> Attachment:
    """What is known of a channel, or a multicallable, that shall carry the tokens of an auth.

    Args:
        channel: the channel or multicallable, which may be anybody's.
        auth: whose tokens.
        credentials: what the channel was made with, where that is known.
        plaintext: as for `Attachment`; and so on.
        target: where the channel leads if it does not tell itself, from whoever had gRPC open it.

    Raises:
        ConfigurationError: another auth fills the same header there.
    """
    for other in _attachments_on_the_way(channel):
        if other.header == auth.header and other.auth is not auth:
            raise doubled(auth.header)
    # Of credentials that do not say what they are, nobody knows.
    may_be_xds = credentials is not None and credentials_kind(credentials) in ("XDSChannelCredentials", "")
    target = None if may_be_xds else _provable_target(channel, target)
    return Attachment(auth, target, direct=is_grpcs(channel), plaintext=plaintext, attach=attach, retry=retry)


def _provable_target(channel: object, told: str | None) -> str | None:
    """Where a channel or multicallable leads, or `None` if that is not known, or may change.

    It is asked itself; if it does not say, what was `told` holds. Whoever stands between us and gRPC's own objects may
    send a call elsewhere, in the clear, at any later moment.
    """
    attachment = _own_attachment(channel)
    if attachment is not None:
        # The interceptors of an asyncio channel run above the inner attachment, but below this one.
        return attachment.target if isinstance(channel, grpc.Channel) else None
    target = target_of(channel) or told if is_grpcs(channel) else None
    return None if target is None or target.startswith(_XDS_SCHEMES) else target


def leads_on(attachment: Attachment, made: object, channel: object) -> Attachment:
    """The attachment of a multicallable that a channel has made: the channel's, if it leads where the channel does.

    Tracers and balancers put methods of their own in the place of a channel's, on the object or on its class.
    """
    inner = _own_attachment(channel)
    ours = inner is not None and _own_attachment(made) is inner
    core = core_of(made)
    if ours or (core is not None and core is core_of(channel)):
        return attachment
    return unproved(attachment)


def unproved(attachment: Attachment) -> Attachment:
    """The same, where it is not known what is behind it."""
    return Attachment(attachment.auth, None, plaintext=attachment.plaintext, retry=attachment.retry)


def _attachments_on_the_way(thing: object) -> Iterator[Attachment]:
    """The attachments of ours that a call through this channel or multicallable passes, as far as can be seen."""
    while thing is not None:
        yield from (
            attachment for each in (thing, *interceptors_of(thing)) if (attachment := _own_attachment(each)) is not None
        )
        # Ours keep what they wrap in the one; what grpc.intercept_channel makes, in the other.
        attributes = getattr(thing, "__dict__", {})
        thing = attributes["_inner"] if "_inner" in attributes else channel_in(thing)


def _own_attachment(thing: object) -> Attachment | None:
    """The attachment of a channel, multicallable or interceptor of ours."""
    attributes = getattr(thing, "__dict__", {})
    route, attachments = attributes.get("_route"), attributes.get("_attachments")
    found = (getattr(route, "attachment", None), getattr(attachments, "unknown", None), attributes.get("_attachment"))
    return next((attachment for attachment in found if isinstance(attachment, Attachment)), None)
