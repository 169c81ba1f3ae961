"""A text whose characters have the colours of numbers from -1 to 1, as SVG."""

from collections.abc import Sequence
from html import escape

_COLUMNS, _WIDTH, _HEIGHT, _MARGIN = 80, 9, 20, 16
_LOW, _HIGH = (33, 102, 172), (178, 24, 43)  # of -1 and of 1; 0 is white


def drawn(texts: Sequence[str], titles: Sequence[str], values: Sequence[Sequence[float]]) -> str:
    """Return the picture: a block for each title, in which each text has the colour of a value."""
    blocks, top = [], _MARGIN
    for title, of_title in zip(titles, values, strict=True):
        blocks.append(f'<text x="{_MARGIN}" y="{top + 12}" class="t">{escape(title)}</text>')
        block, top = _block(texts, of_title, top + 24)
        blocks.append(block)
    width, height = 2 * _MARGIN + _COLUMNS * _WIDTH, top
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}"><style>text{{font:14px monospace;fill:#111;'
        "white-space:pre}.t{font:bold 12px sans-serif}.d{fill:#fff}</style>"
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(blocks)}</svg>\n'
    )


def colour(value: float) -> str:
    """Return blue for -1, white for 0, red for 1, and what is between."""
    share = min(1.0, abs(value))
    end = _HIGH if value > 0 else _LOW
    return "#" + "".join(f"{round(255 + share * (part - 255)):02x}" for part in end)


def _block(texts: Sequence[str], values: Sequence[float], top: int) -> tuple[str, int]:
    """Return the marks of one text, and where the next block may begin."""
    parts, column, line = [], 0, 0
    for text, value in zip(texts, values, strict=True):
        for one in text:
            if column == _COLUMNS:
                column, line = 0, line + 1
            x, y = _MARGIN + column * _WIDTH, top + line * _HEIGHT
            is_dark = ' class="d"' if abs(value) > 0.6 else ""
            shown = "\u23ce" if one == "\n" else (one if one.isprintable() else "\ufffd")
            parts.append(
                f'<g><title>{value:+.3f}</title><rect x="{x}" y="{y}" width="{_WIDTH}" '
                f'height="{_HEIGHT - 2}" fill="{colour(value)}"/>'
                f'<text x="{x}" y="{y + 14}"{is_dark}>{escape(shown)}</text></g>'
            )
            column += 1
            if one == "\n":
                column, line = 0, line + 1
    return "".join(parts), top + (line + 1) * _HEIGHT + _MARGIN
