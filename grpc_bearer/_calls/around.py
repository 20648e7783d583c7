"""What wraps an object of gRPC's, or of another library's."""

from __future__ import annotations

from typing import Any


class Around:
    """Something around `_inner`: what it does not have itself is the inner one's."""

    _inner: Any

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":  # a copy that `copy.copy` is making has none yet
            raise AttributeError(name)
        return getattr(self._inner, name)
