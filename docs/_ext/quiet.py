"""Small things about how pages look.

Comments of the sources are left out: `%>` lines are for the tests (tests/_pages). Defaults that are named numbers are
shown as numbers. What HTML does not allow is mended: a list of definitions inside of a term (Sphinx's long signatures),
and a header cell with nothing in it.
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


def mend(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    def spans(found: re.Match[str]) -> str:
        return found[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")

    body = re.sub(r"<dl>\s*((?:<dd>.*?</dd>\s*)+)</dl>", spans, context.get("body", ""), flags=re.DOTALL)
    context["body"] = re.sub(r'<th class="head">(?:<p>\s*</p>)?</th>', "<td></td>", body)


def setup(app: Any) -> dict[str, Any]:
    app.connect("doctree-read", drop_comments)
    app.connect("autodoc-process-signature", number_defaults)
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True}
