"""As much SVG as the pictures need. Colours are classes, so that the page's light and dark styles hold inside too."""

from __future__ import annotations

from html import escape


class Drawing:
    """Shapes on a sheet that is `width` wide and as high as what is drawn."""

    def __init__(self, width: int, title: str) -> None:
        self._width = width
        self._title = title
        self._parts: list[str] = []
        self._bottom = 0.0

    def box(self, x: float, y: float, width: float, height: float, kind: str = "plain", radius: float = 6) -> None:
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" class="{kind}"/>'
        )
        self._bottom = max(self._bottom, y + height)

    def text(self, x: float, y: float, words: str, kind: str = "label", anchor: str = "middle") -> None:
        self._parts.append(f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>')
        self._bottom = max(self._bottom, y + 4)

    def lines(self, x: float, y: float, words: list[str], kind: str = "label", anchor: str = "middle") -> None:
        """Several lines, the block's middle at `y`."""
        first = y - 8 * (len(words) - 1) + 4.5
        for number, line in enumerate(words):
            self.text(x, first + 16 * number, line, kind, anchor)

    def arrow(self, x1: float, y1: float, x2: float, y2: float, kind: str = "") -> None:
        self._parts.append(
            f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="arrow {kind}" marker-end="url(#tip)"/>'
        )
        self._bottom = max(self._bottom, y1, y2)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str = "") -> None:
        self._parts.append(f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="arrow {kind}"/>')
        self._bottom = max(self._bottom, y1, y2)

    def svg(self) -> str:
        tip = (
            '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z" class="tip"/></marker>'
        )
        box = f"0 0 {self._width} {self._bottom + 4:g}"
        return (
            f'<svg viewBox="{box}" role="img" xmlns="http://www.w3.org/2000/svg"><title>{escape(self._title)}</title>'
            f"<defs>{tip}</defs>{''.join(self._parts)}</svg>"
        )
