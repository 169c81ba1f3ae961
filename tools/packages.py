"""The list of packages and modules in docs/architecture.md, from the modules' own docstrings.

`python -m tools.packages` writes it, scopes.md and settings.md; tests compare.
"""

import ast
from pathlib import Path

from tools import scopes, settings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- packages -->\n", "<!-- /packages -->\n"


def summary(path: Path) -> str:
    """Return the first line of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.partition("\n")[0].removesuffix(".").replace("|", "\\|")


def package_list(folder: Path = ROOT / "service") -> str:
    """Return a Markdown table for the package and for each of its subpackages."""
    modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    name = folder.relative_to(ROOT).as_posix()
    rows = "".join(f"| `{path.name}` | {summary(path)} |\n" for path in modules)
    table = f"\n**`{name}/`** {summary(folder / '__init__.py')}\n\n| module | |\n|---|---|\n{rows}"
    packages = sorted(path.parent for path in folder.glob("*/__init__.py"))
    return (table if rows else "") + "".join(map(package_list, packages))


def page_with(packages: str) -> str:
    """Return the page with this list in place of the one it has."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return before + BEGIN + packages.removeprefix("\n") + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page_with(package_list()))
    scopes.PAGE.write_text(scopes.page_with_scopes())
    settings.PAGE.write_text(settings.page_with_settings())
