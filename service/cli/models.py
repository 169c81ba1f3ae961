"""The subcommands for models: import, list, load, alias, rm, generate, score, export."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from service.cli.leave import leave_on_interrupt
from service.cli.options import Model, Offline, Store, Url

app = typer.Typer()
MODEL_STORE = Path("model_store")
DEFAULT_ALIAS, DEFAULT_MODEL = "default", "demo@1"

Ref = Annotated[str, typer.Argument(help="Name, name@version or alias.")]


@app.command(name="import")
def import_(
    source: Annotated[Path, typer.Argument(help="Checkpoint: a file or a folder.")],
    name: Annotated[str, typer.Option(help="Name of the model.")],
    vocabulary: Annotated[Path | None, typer.Option(help="JSON, or one token per line.")] = None,
    vocabulary_text: Annotated[Path | None, typer.Option(help="The training text.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Architecture of weights that have none: JSON.")
    ] = None,
    precision: Annotated[Literal["auto", "float32", "int8"], typer.Option()] = "auto",
    assume: Annotated[list[str] | None, typer.Option(help="key=value; may be repeated.")] = None,
    model_store: Store = MODEL_STORE,
) -> None:
    """Import a checkpoint into the store, and print what was found, assumed and measured."""
    from service.cli.import_paths import import_request
    from service.cli.import_report import report_lines
    from service.cli.sample_text import sample_of
    from service.models.importing.importer import Importer
    from service.models.store import ModelStore

    root, request = import_request(
        source,
        name,
        vocabulary=vocabulary,
        vocabulary_text=vocabulary_text,
        config=config,
        precision=precision,
        assume=assume or (),
    )
    bundle = Importer(root, ModelStore(model_store)).run(request)
    for line in report_lines(bundle, sample_of(bundle), model_store):
        print(line)


@app.command(name="list")
def list_(
    *,
    is_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    model_store: Store = MODEL_STORE,
) -> None:
    """List the stored models, their aliases, and which ones a server loads when it starts."""
    from service.cli.model_list import model_rows, table_of
    from service.models.store import ModelStore

    rows = model_rows(ModelStore(model_store))
    if is_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        print("\n".join(table_of(rows)) if rows else f"no model is stored in {model_store}")


@app.command()
def load(
    model: Ref,
    pin: Annotated[bool | None, typer.Option(help="Never evict it.")] = None,
    keep_alive_s: Annotated[
        float | None,
        typer.Option(min=-1, help="Seconds in memory after its last request; -1: no limit."),
    ] = None,
    url: Url = None,
    model_store: Store = MODEL_STORE,
    *,
    evict: Annotated[bool, typer.Option(help="Evict models that no request uses.")] = False,
    offline: Offline = False,
) -> None:
    """Load a model into the running server; without one, at the next start."""
    from service.cli.model_changes import ModelChanges
    from service.models.store import ModelStore

    given = {"pin": pin, "keep_alive_s": keep_alive_s, "evict": evict or None}
    options = {name: value for name, value in given.items() if value is not None}
    print(ModelChanges(ModelStore(model_store), url, offline).load(model, options))


@app.command()
def unload(
    model: Ref, url: Url = None, model_store: Store = MODEL_STORE, *, offline: Offline = False
) -> None:
    """Unload a model from the running server; without one, do not load it at the next start."""
    from service.cli.model_changes import ModelChanges
    from service.models.store import ModelStore

    print(ModelChanges(ModelStore(model_store), url, offline).unload(model))


@app.command()
def alias(
    alias: Annotated[str, typer.Argument(help="The alias; `default` is the default model.")],
    model: Ref,
    url: Url = None,
    model_store: Store = MODEL_STORE,
    *,
    offline: Offline = False,
) -> None:
    """Point an alias to a model, in the running server; without one, from the next start on."""
    from service.cli.model_changes import ModelChanges
    from service.models.store import ModelStore

    print(ModelChanges(ModelStore(model_store), url, offline).set_alias(alias, model))


@app.command()
def rm(
    model: Annotated[str, typer.Argument(help="Name or name@version.")],
    url: Url = None,
    model_store: Store = MODEL_STORE,
    *,
    is_all: Annotated[bool, typer.Option("--all", help="Every version of the name.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no server.")] = False,
) -> None:
    """Delete a stored model that no running server uses."""
    from service.cli.model_changes import ModelChanges
    from service.models.store import ModelStore

    changes = ModelChanges(ModelStore(model_store), url, offline)
    refs = changes.versions_to_delete(model, is_all=is_all)
    for ref in refs:
        if aliases := changes.aliases_of(ref):
            print(f"the alias {', '.join(aliases)} of {ref} goes with it")
    names = ", ".join(map(str, refs))
    if not yes and not typer.confirm(f"delete {names} from {model_store}?"):
        print("nothing is deleted")
        raise typer.Exit(1)
    changes.delete(refs)
    print(f"deleted {names}")


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Name, name@version or alias.")],
    folder: Annotated[Path, typer.Argument(help="Folder of the exported files.")],
    model_store: Store = MODEL_STORE,
) -> None:
    """Export a model as a .keras file, which Keras loads without Carousel."""
    from service.models.resolve import resolve_stored
    from service.models.store import ModelStore

    store = ModelStore(model_store)
    bundle = store.read(resolve_stored(store, model))
    folder.mkdir(parents=True, exist_ok=True)
    from service.training.export import exported  # last: Keras takes seconds, and writes log lines

    for name, content in exported(bundle.spec, bundle.weights).items():
        (folder / name).write_bytes(content)
        print(folder / name)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The beginning of the text.")],
    model: Model = DEFAULT_ALIAS,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 400,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.8,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    model_store: Store = MODEL_STORE,
) -> None:
    """Generate text in the terminal, without a server."""
    leave_on_interrupt()
    from service.offline import write_text

    write_text(
        model_store, stored_name(model_store, model), prompt, max_new_tokens, temperature, seed
    )


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help="A text, UTF-8.")],
    model: Model = DEFAULT_ALIAS,
    model_store: Store = MODEL_STORE,
) -> None:
    """Score a text by a model: nats per character and token, bits per character and byte."""
    leave_on_interrupt()
    from service.offline import score_file

    found = score_file(model_store, stored_name(model_store, model), file)
    if found.bits_per_character is None or found.bits_per_byte is None:
        print("the text is too short for a score")
    else:
        print(f"characters: {found.characters}")
        if found.nats_per_token is not None and found.token_count != found.characters:
            print(f"tokens: {found.token_count}")
            print(f"nats per token: {found.nats_per_token:.4f}")
        print(f"nats per character: {found.nats / found.characters:.4f}")
        print(f"bits per character: {found.bits_per_character:.4f}")
        print(f"bits per byte: {found.bits_per_byte:.4f}")


def stored_name(model_store: Path, name: str) -> str:
    """Return name@version of a stored model; the default alias is demo@1 where there is none."""
    from service.models.resolve import read_record, resolve_stored
    from service.models.store import ModelStore

    store = ModelStore(model_store)
    is_undefined = name == DEFAULT_ALIAS and DEFAULT_ALIAS not in read_record(store).aliases
    return str(resolve_stored(store, DEFAULT_MODEL if is_undefined else name))
