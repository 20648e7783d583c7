"""What search engines and chats show of a page: its title and its first paragraph."""

from __future__ import annotations

from html import escape
from typing import Any

from docutils import nodes

#: Characters; search engines cut what is longer.
_LONGEST = 160


def description(doctree: nodes.document) -> str:
    """The first paragraph of a page, cut at a word."""
    paragraphs = list(doctree.findall(nodes.paragraph))
    own = [node for node in paragraphs if isinstance(node.parent, nodes.section)]
    text = " ".join(next((node.astext() for node in own + paragraphs), "").split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST].rpartition(' ')[0]} …"


def add_tags(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if doctree is None:
        return
    found = description(doctree)
    tags = {
        'name="description"': found,
        'property="og:type"': "website",
        'property="og:site_name"': app.config.project,
        'property="og:title"': nodes.Text(context["title"]).astext(),
        'property="og:description"': found,
    }
    if app.config.html_baseurl:  # they want whole addresses
        tags['property="og:url"'] = context["pageurl"]
        tags['property="og:image"'] = f"{app.config.html_baseurl.rstrip('/')}/_static/card.png"
    made = (f'<meta {name} content="{escape(str(content))}">' for name, content in tags.items() if content)
    context["metatags"] = "\n".join([context.get("metatags", ""), *made])


def setup(app: Any) -> dict[str, Any]:
    app.connect("html-page-context", add_tags)
    return {"parallel_read_safe": True}
