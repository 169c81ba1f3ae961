"""The command `carousel`. Each subcommand imports its modules when it runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from service import __version__
from service.cli import drain, fleet, jobs, keys, model_group, models, sessions
from service.cli.batch import batch as run_batch
from service.cli.compress import compress as compress_file
from service.cli.compress import decompress as decompress_file
from service.cli.inspection import inspect as inspect_text
from service.cli.leave import CommandGroup, leave
from service.cli.options import (
    Cell,
    Epochs,
    InitialModel,
    Layers,
    MaxSeconds,
    NewModel,
    Store,
    TrainingFile,
    Units,
)
from service.cli.usage import usage as print_usage
from service.cli.version import version as print_version
from service.errors import CarouselError

app = typer.Typer(cls=CommandGroup, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(models.app)
app.add_typer(model_group.app, name="models")
app.add_typer(keys.app, name="keys")
app.add_typer(jobs.app, name="jobs")
app.add_typer(sessions.app, name="sessions")
app.add_typer(fleet.app, name="fleet")
app.command(name="usage")(print_usage)
app.command(name="batch")(run_batch)
app.command(name="compress")(compress_file)
app.command(name="decompress")(decompress_file)
app.command(name="inspect")(inspect_text)
app.command(name="version")(print_version)
app.add_typer(drain.app)
_FILE_ERRORS = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    FileExistsError,
)


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
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the network.")] = None,
    processes: Annotated[
        str | None, typer.Option(help="Processes that serve: a number, or auto.")
    ] = None,
    spin: Annotated[
        str | None, typer.Option(help="Threads keep their cores between steps: auto, on, off.")
    ] = None,
    memory_budget: Annotated[
        str | None, typer.Option(help="Memory of all models, such as 8GiB.")
    ] = None,
    autoload: Annotated[
        bool | None, typer.Option(help="Load stored models for the requests that name them.")
    ] = None,
    load_wait_s: Annotated[
        float | None, typer.Option(help="Seconds that a load waits for models in use.")
    ] = None,
    drain_s: Annotated[
        float | None, typer.Option(help="Seconds that a stop waits for requests.")
    ] = None,
    lame_duck_s: Annotated[
        float | None, typer.Option(help="Seconds before the drain: not ready, still accepting.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Training workers to start.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="Where Redis is.")] = None,
    model_store: Annotated[Path | None, typer.Option(help="Folder of bundles.")] = None,
    import_dir: Annotated[Path | None, typer.Option(help="Folder of checkpoints.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of everything else.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.")] = None,
) -> None:
    """Serve the models of the store."""
    from service.server import run
    from service.settings import Settings

    settings = Settings.read(
        host=host,
        port=port,
        threads=threads,
        processes=processes,
        spin=spin,
        memory_budget=memory_budget,
        autoload=autoload,
        load_wait_s=load_wait_s,
        drain_s=drain_s,
        lame_duck_s=lame_duck_s,
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
    worker_queues: Annotated[
        str | None, typer.Option("--queue", help="train-cpu, train-gpu, or both with a comma.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.")] = None,
    *,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run submitted train jobs, one at a time."""
    from service.app import open_store
    from service.settings import Settings
    from service.start_checks import check_folder, check_training
    from service.worker import work

    check_training("a training worker")
    settings = Settings.read(
        redis_url=redis_url,
        model_store=model_store,
        data_dir=data_dir,
        worker_queues=worker_queues,
        log_level=log_level,
    )
    check_folder(settings.data_dir, "CAROUSEL_DATA_DIR", is_written=True)
    check_folder(settings.model_store, "CAROUSEL_MODEL_STORE", is_written=True)
    with open_store(settings) as url:
        work(settings, url, parent=parent)


@app.command()
def train(
    file: TrainingFile,
    name: NewModel,
    cell: Cell = None,
    units: Units = None,
    layers: Layers = None,
    embedding_dim: Annotated[int | None, typer.Option()] = None,
    dropout: Annotated[float | None, typer.Option()] = None,
    epochs: Epochs = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences trained in parallel.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Characters per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option()] = None,
    max_seconds: MaxSeconds = None,
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    recurrence: Annotated[str, typer.Option(help="auto, own, or cudnn on a GPU.")] = "auto",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    initial_model: InitialModel = None,
    model_store: Store = Path("model_store"),
    data_dir: Annotated[Path, typer.Option(envvar="CAROUSEL_DATA_DIR")] = Path(".data"),
) -> None:
    """Train a model on a text file and store it."""
    from service.start_checks import check_folder, check_training

    check_training("training")
    check_folder(model_store, "CAROUSEL_MODEL_STORE", is_written=True)
    check_folder(data_dir, "CAROUSEL_DATA_DIR", is_written=True)
    from service.models.resolve import resolve_stored
    from service.models.store import ModelStore
    from service.training.corpus import Corpus
    from service.training.job_spec import TrainingText, make_job_spec

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
        "recurrence": recurrence,
    }
    spec = make_job_spec(
        name,
        TrainingText("", len(corpus.text), corpus.vocabulary),
        architecture=architecture,
        training=training,
        seed=seed,
        initial_model=store.read(resolve_stored(store, initial_model)) if initial_model else None,
        load_when_done=False,
    )
    from service.training.offline import train_text

    print(train_text(spec, corpus, store, data_dir / "training"))


@app.command()
def openapi() -> None:
    """Print the OpenAPI document of the HTTP interface."""
    from service.app import openapi_json

    print(openapi_json())


@app.command()
def doctor(
    *,
    compile_only: Annotated[
        bool, typer.Option("--compile-only", help="Compile and run the kernels, and no check.")
    ] = False,
) -> None:
    """Check what a server needs here, and compile all kernels once; 1 is the code of a fault.

    It reads the settings of `serve` from the environment, and says what mends each fault.
    """
    from service.doctor import check_up

    has_fault = False
    if not compile_only:
        from service.cli.checkup import checks_of
        from service.cli.version import facts
        from service.settings import Settings

        for name, value in facts().items():
            print(_doctor_line("", name, value))
        for check in checks_of(Settings.read()):
            has_fault = has_fault or check.is_fault
            print(_doctor_line("FAULT" if check.is_fault else "ok", check.name, check.found))
    for found in check_up():
        print(_doctor_line("ok", "program", found))
    if has_fault:
        raise typer.Exit(1)


def _doctor_line(outcome: str, name: str, found: str) -> str:
    return f"{outcome:<5}  {name:<12}  {found}"


def main() -> None:
    """Run the command line; a user's error is one line on standard error and exit code 2."""
    try:
        app()
        code = 0
    except (CarouselError, *_FILE_ERRORS) as error:
        message = str(error)
        if "assume" in message and "--assume" not in message:
            message = f"{message} (assume.KEY is --assume KEY=VALUE here)"
        print(f"carousel: {message}", file=sys.stderr)
        code = 2
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    leave(code)
