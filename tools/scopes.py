"""The table of docs/reference/scopes.md, from the table of the routes' scopes.

`python -m tools.packages` writes it too; a test compares.
"""

from pathlib import Path

from service.api.access import ROUTE_SCOPES

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "scopes.md"
BEGIN, END = "<!-- scopes -->\n", "<!-- /scopes -->\n"


def page_with_scopes() -> str:
    """Return the page with the table of today."""
    rows = "".join(f"| `{route}` | `{needed}` |\n" for route, needed in ROUTE_SCOPES.items())
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}| route | needs |\n|---|---|\n{rows}{END}{rest.partition(END)[2]}"
