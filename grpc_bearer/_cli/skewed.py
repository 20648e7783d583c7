"""How far this machine's clock is off, by whoever tells the time: the server, the token endpoint, or HTTPS."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterable
from typing import Any

from grpc_bearer._auth import BearerAuth
from grpc_bearer._base.clock_skew import NO_SKEW, SkewedClock, measured
from grpc_bearer._cli.jwt import span
from grpc_bearer._cli.network import Target, Trust
from grpc_bearer.sources._parse import http_date


def of_endpoint(auth: BearerAuth) -> float | None:
    """Seconds that this machine is behind, by the last answer of the auth's token endpoint."""
    clock: object = auth._clock
    return clock.sample if isinstance(clock, SkewedClock) else None


def of_metadata(metadata: Iterable[Any], received: float, elapsed: float) -> float | None:
    """The same by a call's metadata: proxies put their `date` there."""
    date = next((http_date(value) for key, value in metadata if key == "date" and isinstance(value, str)), None)
    return None if date is None else measured(date, received, elapsed)


def of_https(target: Target, trust: Trust, timeout: float) -> float | None:
    """The same by asking the target itself over HTTP/1, which load balancers answer. No token is sent."""
    context = trust.context()
    context.set_alpn_protocols(["http/1.1"])
    connection = http.client.HTTPSConnection(target.host, target.port, timeout=min(timeout, 3.0), context=context)
    try:
        began = time.monotonic()
        connection.request("HEAD", "/")
        date = http_date(connection.getresponse().getheader("date"))
        return None if date is None else measured(date, time.time(), time.monotonic() - began)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def is_off(skew: float | None) -> bool:
    """Whether that is more than whole-second dates and the way explain."""
    return skew is not None and abs(skew) >= NO_SKEW


def in_words(skew: float) -> str:
    """Such as `10 min behind`."""
    return f"{span(abs(skew))} {'behind' if skew > 0 else 'ahead'}" if is_off(skew) else f"right within {NO_SKEW:g} s"
