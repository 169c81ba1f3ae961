"""The subcommands `carousel models …`: those for models by one name, with unalias and pin."""

from typing import Annotated

import typer

from service.cli import models
from service.cli.models import MODEL_STORE, Ref
from service.cli.options import Offline, Store, Url

app = typer.Typer(no_args_is_help=True, help="Import, list, load, alias and delete models.")
app.command(name="import")(models.import_)
app.command(name="list")(models.list_)
app.command(name="load")(models.load)
app.command(name="unload")(models.unload)
app.command(name="alias")(models.alias)
app.command(name="rm")(models.rm)
app.command(name="export")(models.export)


@app.command()
def unalias(
    alias: Annotated[str, typer.Argument(help="The alias.")],
    url: Url = None,
    model_store: Store = MODEL_STORE,
    *,
    offline: Offline = False,
) -> None:
    """Remove an alias, in the running server; without one, from the next start on."""
    from service.cli.model_changes import ModelChanges
    from service.models.store import ModelStore

    print(ModelChanges(ModelStore(model_store), url, offline).remove_alias(alias))


@app.command()
def pin(
    model: Ref,
    url: Url = None,
    model_store: Store = MODEL_STORE,
    *,
    off: Annotated[bool, typer.Option("--off", help="Let it leave the memory again.")] = False,
    offline: Offline = False,
) -> None:
    """Keep a model in memory: it is loaded, and never leaves to make room for another."""
    from service.cli.model_changes import ModelChanges
    from service.models.store import ModelStore

    print(ModelChanges(ModelStore(model_store), url, offline).pin(model, is_pinned=not off))
