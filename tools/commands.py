"""The reference of the command line, docs/reference/cli.md, from the commands themselves.

`python -m tools.commands` writes it; a test compares.
"""

import os
from pathlib import Path
from typing import Any

import typer.main

from service.cli.main import app

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"

_HEAD = """# The command line

`carousel COMMAND --help` says the same. `python -m service` is `carousel` where the package is not
installed as a command.

| exit code | when |
|--:|---|
| 0 | it is done |
| 1 | `doctor` has found a fault, a followed job or a line of a batch failed, the answer was no |
| 2 | it is refused, in one sentence on standard error |
| 130 | Ctrl-C |
| 141 | the reader of its output is gone, as `head` |

Commands that talk to a running server find it by `--url` or `CAROUSEL_URL`, and send the key in
`CAROUSEL_API_KEY`.
`carousel --install-completion` completes commands and options in bash, zsh, fish and PowerShell.

"""


def page() -> str:
    """Return the page: a section for each command, with its arguments and options."""
    return _HEAD + "".join(_sections("carousel", typer.main.get_command(app))).rstrip() + "\n"


def _sections(path: str, command: Any) -> list[str]:
    if command.hidden:
        return []
    children = getattr(command, "commands", {})
    found = [] if path == "carousel" else [_section(path, command, is_group=bool(children))]
    for name, child in children.items():
        found += _sections(f"{path} {name}", child)
    return found


def _section(path: str, command: Any, *, is_group: bool) -> str:
    text = " ".join((command.help or "").split())
    lines = [f"{'##' if is_group or path.count(' ') == 1 else '###'} {path}", "", text, ""]
    parameters = [one for one in command.params if one.name != "help" and not _is_hidden(one)]
    if parameters and not is_group:
        lines += ["| | |", "|---|---|", *map(_row, parameters), ""]
    return "\n".join(lines) + "\n"


def _is_hidden(parameter: Any) -> bool:
    return bool(getattr(parameter, "hidden", False))


def _row(parameter: Any) -> str:
    is_option = parameter.param_type_name == "option"
    names = ", ".join(parameter.opts) if is_option else str(parameter.name).upper()
    if parameter.secondary_opts:
        names += f" / {', '.join(parameter.secondary_opts)}"
    notes = [getattr(parameter, "help", None) or ""]
    if parameter.required and is_option:
        notes.append("Required.")
    default = parameter.default
    if isinstance(default, str | int | float | os.PathLike) and not isinstance(default, bool):
        notes.append(f"Default: `{default}`.")
    if parameter.envvar:
        notes.append(f"Environment: `{parameter.envvar}`.")
    text = " ".join(note for note in notes if note).replace("|", "\\|")
    return f"| `{names}` | {text} |"


if __name__ == "__main__":
    PAGE.write_text(page())
