"""Tables and JSON on the terminal: what every subcommand that lists prints."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def print_rows(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, is_json: bool, empty: str
) -> None:
    """Print rows as a table of some of their members, or all of them as JSON."""
    if is_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif rows:
        cells = [[_shown(row.get(column)) for column in columns] for row in rows]
        print("\n".join(lines_of([[name.replace("_", " ") for name in columns], *cells])))
    else:
        print(empty)


def lines_of(cells: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose first row is its head; the last column is not padded."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]) - 1)]
    return ["  ".join([*map(str.ljust, row, widths), row[-1]]) for row in cells]


def _shown(value: Any) -> str:
    """Return a value as one plain word; what a terminal would not print as it is is escaped."""
    if value is None or value in ("", []):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
