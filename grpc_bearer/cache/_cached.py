"""`CachedSource`: a source whose tokens are looked for in a shared cache first, and put there for the others.

It stands between engine and source, and runs where fetches run: on workers, never on the thread of a call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from grpc_bearer._base.identity import Json
from grpc_bearer._base.source import Source
from grpc_bearer._base.token import CallContext, Token
from grpc_bearer.cache._fetch import CachedFetch
from grpc_bearer.cache._judged import Mine
from grpc_bearer.cache._sealed import NEEDS, Keys, derived, slot_of
from grpc_bearer.cache._shared import SharedCache
from grpc_bearer.errors import ConfigurationError
from grpc_bearer.sources.routed import RoutedSource

# More than the number of tokens that an engine keeps by default.
_REMEMBERED = 4096


class CachedSource(Source):
    """`source` with `cache` before it.

    Raises:
        ConfigurationError: a single-use source, or one that needs `encryption_key=` or `name=`.

    >>> import os, tempfile, time
    >>> from grpc_bearer.sources.callable import CallableSource
    >>> cache = SharedCache(os.path.join(tempfile.mkdtemp(), "tokens"), encryption_key=os.urandom(32), name="doc")
    >>> asked = []
    >>> source = CallableSource(lambda: asked.append(1) or Token("s3cret", expires_at=time.time() + 600))
    >>> [CachedSource(source, cache).fetch(CallContext()).value for process in range(3)], asked
    (['s3cret', 's3cret', 's3cret'], [1])
    """

    def __init__(self, source: Source, cache: SharedCache) -> None:
        if source.single_use:
            raise ConfigurationError(
                f"the tokens of {type(source).__name__} are for one attempt each (single_use), and cannot be "
                "shared; leave out cache=",
                field="cache",
            )
        self._source, self._cache = source, cache
        self._bases = {id(part): _basis(part, cache) for part in _parts(source) if part.worth_sharing}
        self._mine: OrderedDict[str, Mine] = OrderedDict()
        self.signs, self.replaceable, self.fetch_timeout = source.signs, source.replaceable, source.fetch_timeout
        self.needs: tuple[str, ...] = (*source.needs, *NEEDS)
        if getattr(source.key, "__func__", None) is not Source.key:
            self.key = source.key  # type: ignore[method-assign]  # only then: the engine is faster without

    def __repr__(self) -> str:
        return f"CachedSource({self._source!r}, {self._cache!r})"

    def refuse_wait(self) -> None:
        self._source.refuse_wait()

    def close(self) -> None:
        """Close the source. The cache stays: others use it too."""
        self._source.close()

    def fetch(self, context: CallContext) -> Token:
        """The token that another process has fetched already; else one from the source, for all.

        Raises:
            TokenError: the source has none.
            SigningError: the source's key cannot be used.
        """
        return self._fetch_or_take(context)[0]

    def _fetch_or_take(self, context: CallContext) -> tuple[Token, bool]:
        part = _part(self._source, context)
        if not part.worth_sharing:
            return self._source.fetch(context), False
        keys, about = self._bases[id(part)]
        try:
            slot = slot_of(keys, (about, _plain(part.key(context))))
        except TypeError:
            return self._source.fetch(context), False
        fetch = CachedFetch(self._cache, slot, context)
        mine = self._mine.get(fetch.slot.name, Mine())
        token, mine, shared = fetch.run(self._source, mine)
        self._remember(fetch.slot.name, mine)
        return token, shared

    def _remember(self, name: str, mine: Mine) -> None:
        self._mine[name] = mine
        if len(self._mine) > _REMEMBERED:
            self._mine.popitem(last=False)


def _parts(source: Source) -> tuple[Source, ...]:
    return source.parts if isinstance(source, RoutedSource) else (source,)


def _part(source: Source, context: CallContext) -> Source:
    return source.part(context) if isinstance(source, RoutedSource) else source


def _basis(part: Source, cache: SharedCache) -> tuple[Keys, Json]:
    """The keys for a source's entries, and what its entries are named by."""
    kind = type(part).__name__
    identity = part.identity()
    about = None if identity is None else identity.about
    secret = None if identity is None else identity.secret
    key = cache._key()
    if key is None and secret is None:
        raise ConfigurationError(
            f"missing; {kind} holds no private key and no secret of at least 128 bits to derive one "
            "from, so give SharedCache(encryption_key=...)",
            field="encryption_key",
        )
    if about is None and not cache.name:
        raise ConfigurationError(
            f"missing; {kind} does not tell what its tokens are for, so give SharedCache(name=...) a name that "
            "only those processes give that may share them",
            field="name",
        )
    # A strong secret tells two accounts apart; of a weak one nothing goes into a name.
    mark = None if secret is None else derived(secret).name.hex()
    return derived(key or secret or b""), (kind, cache.name, about, mark)


def _plain(key: Hashable) -> Json:
    """A source's key for a call as JSON.

    Raises:
        TypeError: there is something in it that has no meaning in another process.
    """
    if isinstance(key, tuple):
        return [_plain(item) for item in key]
    if isinstance(key, (str, int, float, bool, type(None))):
        return key
    raise TypeError
