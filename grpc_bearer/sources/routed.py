"""`RoutedSource`: one of several sources for each call, by the name of the gRPC method."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from fnmatch import translate

from grpc_bearer._base.arguments import as_dict
from grpc_bearer._base.source import Source
from grpc_bearer._base.token import CallContext, Token
from grpc_bearer.errors import ConfigurationError, TokenRejectedError

__all__ = ["RoutedSource"]


class RoutedSource(Source):
    """Another source for each gRPC service or method.

    Patterns are tried in the order in which they were given, and the first that matches decides: put the special ones
    first. A pattern with a `/` is held against the full method name, `pkg.Service/Method`, one without against the
    service alone, `pkg.Service`. `*`, `?` and `[…]` are those of `fnmatch`, with case; `*` reaches across dots. A
    leading `/` is ignored.

    Args:
        routes: pattern to source. Patterns with the same source share its tokens.

    Raises:
        ConfigurationError: no routes, an empty pattern, something else than a source, or sources that are single-use
            beside others that are not.

    >>> from grpc_bearer.sources.static import StaticSource
    >>> source = RoutedSource({"shop.Orders/*": StaticSource("s3cret"), "shop.*": StaticSource("other")})
    >>> source.fetch(CallContext("https://api.example.com/shop.Orders", "List")).value
    's3cret'
    >>> source.fetch(CallContext("https://api.example.com/bank.Accounts", "List"))
    Traceback (most recent call last):
    grpc_bearer.errors.TokenRejectedError: no route for bank.Accounts/List: none of shop.Orders/*, shop.* matches...
    """

    def __init__(self, routes: Mapping[str, Source]) -> None:
        if not isinstance(routes, Mapping) or not (routes := as_dict("routes", routes)):
            raise ConfigurationError("expected a mapping of pattern to source, with one entry at least", field="routes")
        for pattern, source in routes.items():
            if not isinstance(pattern, str) or not pattern.strip("/ "):
                raise ConfigurationError("a pattern is empty or no str", field="routes")
            if not isinstance(source, Source):
                raise ConfigurationError(f"{pattern}: expected a Source, got {type(source).__name__}", field="routes")
        self._sources: list[Source] = list({id(source): source for source in routes.values()}.values())
        if len({source.single_use for source in self._sources}) > 1:
            raise ConfigurationError(
                "some sources are single-use and others are not; use an auth for each", field="routes"
            )
        self.single_use: bool = self._sources[0].single_use
        self.signs: bool = any(source.signs for source in self._sources)
        self.replaceable: bool = any(source.replaceable for source in self._sources)
        self.fetch_timeout: float = max(source.fetch_timeout for source in self._sources)
        self.needs: tuple[str, ...] = tuple(name for source in self._sources for name in source.needs)
        self.presign: int = min(source.presign for source in self._sources)
        self.local: bool = all(source.local for source in self._sources)
        self._routes = [(pattern, _compiled(pattern), self._number(source)) for pattern, source in routes.items()]
        self._known: dict[tuple[str, str], int] = {}

    @property
    def parts(self) -> tuple[Source, ...]:
        """The sources, each once."""
        return tuple(self._sources)

    def part(self, context: CallContext) -> Source:
        """The source that the call is routed to."""
        return self._sources[self._route(context)]

    def _number(self, source: Source) -> int:
        return next(number for number, other in enumerate(self._sources) if other is source)

    def key(self, context: CallContext) -> Hashable:
        """Which source, and what its own key is.

        Raises:
            TokenRejectedError: no pattern matches, or there is no call to route by.
        """
        number = self._route(context)
        return number, self._sources[number].key(context)

    def fetch(self, context: CallContext) -> Token:
        """The token of the source that the call is routed to."""
        return self._sources[self._route(context)].fetch(context)

    def _route(self, context: CallContext) -> int:
        call = context.service, context.method
        number = self._known.get(call)
        if number is None:
            number = self._match(*call)
            if len(self._known) < 4096:  # method names are few, but nothing here may grow without bound
                self._known[call] = number
        return number

    def _match(self, service: str, method: str) -> int:
        if not service:
            if len(self._sources) == 1:
                return 0
            raise TokenRejectedError(
                "routes: the token depends on the service: outside a call give its URL, as in "
                "auth.token('https://host/package.Service')"
            )
        for pattern, regex, number in self._routes:
            if regex.fullmatch(f"{service}/{method}" if "/" in pattern.lstrip("/") else service):
                return number
        patterns = ", ".join(pattern for pattern, _, _ in self._routes)
        raise TokenRejectedError(f"no route for {service}/{method}: none of {patterns} matches", suspect="route")

    def refuse_wait(self) -> None:
        for source in self._sources:
            source.refuse_wait()

    def close(self) -> None:
        for source in self._sources:
            source.close()

    def __repr__(self) -> str:
        return f"RoutedSource({', '.join(pattern for pattern, _, _ in self._routes)})"


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern.strip().lstrip("/")))
