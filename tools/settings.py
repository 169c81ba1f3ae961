"""The table of docs/reference/settings.md: variables, options, defaults and meanings.

The meaning is the help of the option of `carousel serve`, and the comment beside the field.
`python -m tools.packages` writes it too; a test compares.
"""

import inspect
import re
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

from pydantic_core import PydanticUndefined

from service.cli.main import serve
from service.settings import CLIENT_VARIABLES, PREFIX, Settings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "settings.md"
BEGIN, END = "<!-- settings -->\n", "<!-- /settings -->\n"

_FIELD = re.compile(r"^    (\w+): .*?  # (.+)$", re.MULTILINE)
_COMPUTED = {"threads": "the cores that the process may use"}
_CLIENT = {
    "CAROUSEL_API_KEY": "the key that the command sends to a running server",
    "CAROUSEL_URL": "where the command finds a running server; http://127.0.0.1:8000 without it",
}


def settings_table() -> str:
    """Return a row for each setting of a server."""
    comments = dict(_FIELD.findall(inspect.getsource(Settings)))
    options = _options()
    rows = []
    for name, field in Settings.model_fields.items():
        told = [options.get(name, ""), comments.get(name, "")]
        meaning = " ".join(one[0].upper() + one[1:].rstrip(".") + "." for one in told if one)
        default = _COMPUTED.get(name) or _shown(field.default)
        option = f"`--{name.replace('_', '-')}`" if name in options else ""
        row = f"| `{PREFIX}{name.upper()}` | {option} | {default} | {meaning} |\n"
        rows.append(row)
    return "| variable | option | default | meaning |\n|---|---|---|---|\n" + "".join(rows)


def client_table() -> str:
    """Return a row for each variable that the command reads as a client."""
    rows = "".join(f"| `{name}` | {_CLIENT[name]} |\n" for name in sorted(CLIENT_VARIABLES))
    return f"\n| variable of the command | meaning |\n|---|---|\n{rows}"


def page_with_settings() -> str:
    """Return the page with the tables of today."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    tables = settings_table() + client_table()
    return before + BEGIN + tables + END + rest.partition(END)[2]


def _options() -> dict[str, str]:
    """Return the help of every option of `carousel serve`, by the name of its setting."""
    found = {}
    for name, hint in get_type_hints(serve, include_extras=True).items():
        if get_origin(hint) is Annotated:
            found[name] = getattr(get_args(hint)[1], "help", None) or ""
    return found


def _shown(default: object) -> str:
    if default is None or default is PydanticUndefined or default == "":
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"
