"""The command `carousel`. Each subcommand imports its modules when it runs."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from service import __version__
from service.errors import CarouselError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


Store = Annotated[Path, typer.Option(help="Folder of bundles.", envvar="CAROUSEL_MODEL_STORE")]


def _print_version(value: bool) -> None:  # noqa: FBT001 (Typer calls it so)
    if value:
        print(f"carousel {__version__}")
        raise typer.Exit


@app.callback()
def carousel(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Serve recurrent language models."""


@app.command()
def serve(  # noqa: PLR0913, PLR0917 (one argument for each option)
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the network.")] = None,
    workers: Annotated[int | None, typer.Option(help="Training workers to start.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="Where Redis is.")] = None,
    model_store: Annotated[Path | None, typer.Option(help="Folder of bundles.")] = None,
    import_dir: Annotated[Path | None, typer.Option(help="Folder of checkpoints.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of everything else.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.")] = None,
) -> None:
    """Serve the models of the store."""
    from service.server import run  # noqa: PLC0415 (a subcommand imports its modules)
    from service.settings import Settings  # noqa: PLC0415

    settings = Settings.read(
        host=host,
        port=port,
        threads=threads,
        workers=workers,
        redis_url=redis_url,
        model_store=model_store,
        import_dir=import_dir,
        data_dir=data_dir,
        log_level=log_level,
    )
    run(settings)


@app.command()
def worker(
    redis_url: Annotated[str | None, typer.Option(help="Where Redis is.")] = None,
    model_store: Annotated[Path | None, typer.Option(help="Folder of bundles.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of everything else.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.")] = None,
    *,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run submitted train jobs, one at a time."""
    from service.app import open_store  # noqa: PLC0415
    from service.settings import Settings  # noqa: PLC0415
    from service.worker import work  # noqa: PLC0415

    settings = Settings.read(
        redis_url=redis_url, model_store=model_store, data_dir=data_dir, log_level=log_level
    )
    with open_store(settings) as url:
        work(settings, url, parent=parent)


@app.command(name="import")
def import_(
    source: Annotated[Path, typer.Argument(help="Checkpoint: a file or a folder.")],
    name: Annotated[str, typer.Option(help="Name of the model.")],
    vocabulary: Annotated[Path | None, typer.Option(help="JSON, or one token per line.")] = None,
    vocabulary_text: Annotated[Path | None, typer.Option(help="The training text.")] = None,
    precision: Annotated[Literal["auto", "float32", "int8"], typer.Option()] = "auto",
    assume: Annotated[list[str] | None, typer.Option(help="key=value; may be repeated.")] = None,
    model_store: Store = Path("model_store"),
) -> None:
    """Import a Keras checkpoint into the store."""
    from service.models.importing.importer import Importer  # noqa: PLC0415
    from service.models.importing.request import ImportRequest  # noqa: PLC0415
    from service.models.store import ModelStore  # noqa: PLC0415

    root = Path(source.resolve().anchor)

    def below_root(path: Path) -> Path:
        return path.resolve().relative_to(root)

    request = ImportRequest(
        source=below_root(source),
        name=name,
        vocabulary=below_root(vocabulary) if vocabulary else None,
        vocabulary_text=below_root(vocabulary_text) if vocabulary_text else None,
        precision=precision,
        assume=dict(item.partition("=")[::2] for item in assume or []),
    )
    bundle = Importer(root, ModelStore(model_store)).run(request)
    print(f"{bundle.ref}: {bundle.spec.summary}, {bundle.manifest.precision}")
    print(bundle.manifest.precision_reason)
    for assumption in bundle.manifest.assumptions:
        print(f"assumed: {assumption}")


@app.command()
def train(  # noqa: PLR0913, PLR0917
    file: Annotated[
        Path, typer.Argument(help="A text, UTF-8.", exists=True, dir_okay=False, readable=True)
    ],
    name: Annotated[str, typer.Option(help="Name of the model.")],
    cell: Annotated[str | None, typer.Option(help="Recurrent cell, such as lstm or gru.")] = None,
    units: Annotated[int | None, typer.Option(help="Width of each recurrent layer.")] = None,
    layers: Annotated[int | None, typer.Option(help="Recurrent layers.")] = None,
    embedding_dim: Annotated[int | None, typer.Option()] = None,
    dropout: Annotated[float | None, typer.Option()] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the text.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences trained in parallel.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Characters per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option()] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Stop after this time.")] = None,
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    initial_model: Annotated[str | None, typer.Option(help="name@version to fine-tune.")] = None,
    model_store: Store = Path("model_store"),
    data_dir: Annotated[Path, typer.Option(envvar="CAROUSEL_DATA_DIR")] = Path(".data"),
) -> None:
    """Train a model on a text file and store it."""
    from service.models.spec import ModelRef  # noqa: PLC0415
    from service.models.store import ModelStore  # noqa: PLC0415
    from service.training.corpus import Corpus  # noqa: PLC0415
    from service.training.job_spec import TrainingText, make_job_spec  # noqa: PLC0415

    corpus, store = Corpus.decode(file.read_bytes()), ModelStore(model_store)
    architecture = {
        "cell": cell,
        "units": units,
        "layers": layers,
        "embedding_dim": embedding_dim,
        "dropout": dropout,
    }
    training = {
        "epochs": epochs,
        "batch_size": batch_size,
        "sequence_length": sequence_length,
        "learning_rate": learning_rate,
        "max_seconds": max_seconds,
        "precision": precision,
    }
    spec = make_job_spec(
        name,
        TrainingText("", len(corpus.text), corpus.vocabulary),
        architecture=architecture,
        training=training,
        seed=seed,
        initial_model=store.read(ModelRef.parse(initial_model)) if initial_model else None,
        load_when_done=False,
    )
    from service.training.offline import train_text  # noqa: PLC0415 (TensorFlow: seconds)

    print(train_text(spec, corpus, store, data_dir / "training"))


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="name@version.")],
    folder: Annotated[Path, typer.Argument(help="Folder of the exported files.")],
    model_store: Store = Path("model_store"),
) -> None:
    """Export a model as a .keras file, which Keras loads without Carousel."""
    from service.models.spec import ModelRef  # noqa: PLC0415
    from service.models.store import ModelStore  # noqa: PLC0415
    from service.training.export import exported  # noqa: PLC0415

    bundle = ModelStore(model_store).read(ModelRef.parse(model))
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in exported(bundle.spec, bundle.weights).items():
        (folder / name).write_bytes(content)
        print(folder / name)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The beginning of the text.")],
    model: Annotated[str, typer.Option(help="name@version.")] = "demo@1",
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 400,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.8,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    model_store: Store = Path("model_store"),
) -> None:
    """Generate text in the terminal, without a server."""
    from service.offline import write_text  # noqa: PLC0415

    write_text(model_store, model, prompt, max_new_tokens, temperature, seed)


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help="A text, UTF-8.")],
    model: Annotated[str, typer.Option(help="name@version.")] = "demo@1",
    model_store: Store = Path("model_store"),
) -> None:
    """Score a text by a model: nats per character and token, bits per character and byte."""
    from service.offline import score_file  # noqa: PLC0415

    found = score_file(model_store, model, file)
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


@app.command()
def openapi() -> None:
    """Print the OpenAPI document of the HTTP interface."""
    from service.app import openapi_json  # noqa: PLC0415

    print(openapi_json())


@app.command()
def doctor() -> None:
    """Compile and run all kernels once, and print which int8 program this machine uses."""
    from service.doctor import check_up  # noqa: PLC0415

    for line in check_up():
        print(line)


def main() -> None:
    """Run the command line; a CarouselError is one line on standard error and exit code 2."""
    try:
        app()
    except CarouselError as error:
        print(f"carousel: {error}", file=sys.stderr)
        raise SystemExit(2) from None
