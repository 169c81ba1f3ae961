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

# Of training, in the terminal and by a server.
TrainingFile = Annotated[
    Path, typer.Argument(help="A text, UTF-8.", exists=True, dir_okay=False, readable=True)
]
NewModel = Annotated[str, typer.Option(help="Name of the model.")]
Cell = Annotated[str | None, typer.Option(help="Recurrent cell, such as lstm or gru.")]
Units = Annotated[int | None, typer.Option(help="Width of each recurrent layer.")]
Layers = Annotated[int | None, typer.Option(help="Recurrent layers.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the text.")]
MaxSeconds = Annotated[float | None, typer.Option(help="Stop after this time.")]
InitialModel = Annotated[str | None, typer.Option(help="Model to fine-tune.")]
