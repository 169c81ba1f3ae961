"""Options that several subcommands have."""

from pathlib import Path
from typing import Annotated

import typer

Store = Annotated[Path, typer.Option(help="Folder of bundles.", envvar="CAROUSEL_MODEL_STORE")]
Model = Annotated[str, typer.Option(help="Name, name@version or alias.")]
Url = Annotated[
    str | None,
    typer.Option(help="The running server; default: http://127.0.0.1:8000.", envvar="CAROUSEL_URL"),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Ask no server; change the store's record.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
