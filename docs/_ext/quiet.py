"""Small things about how pages look.

Comments of the sources are left out: `%>` lines are for the tests (tests/_pages). Defaults that are named numbers are
shown as numbers.
"""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

from docutils import nodes


def drop_comments(app: Any, doctree: Any) -> None:
    for comment in list(doctree.findall(nodes.comment)):
        comment.parent.remove(comment)


def number_defaults(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    if not signature:
        return None
    module = sys.modules[inspect.unwrap(thing).__module__]

    def shown(match: re.Match[str]) -> str:
        value = getattr(module, match[1], None)
        return f" = {value!r}" if isinstance(value, int | float) else match[0]

    return re.sub(r"\s?=\s?([A-Z_]{3,})\b", shown, signature), returns


def setup(app: Any) -> dict[str, Any]:
    app.connect("doctree-read", drop_comments)
    app.connect("autodoc-process-signature", number_defaults)
    return {"parallel_read_safe": True}
