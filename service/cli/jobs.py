"""The subcommands for train jobs of a running server: list, show, submit, follow, cancel, rm."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.options import (
    AsJson,
    Cell,
    Epochs,
    InitialModel,
    Layers,
    MaxSeconds,
    NewModel,
    TrainingFile,
    Units,
    Url,
)

if TYPE_CHECKING:
    from service.cli.admin_client import AdminClient

app = typer.Typer(no_args_is_help=True, help="Submit, follow and end the server's train jobs.")
_COLUMNS = ("id", "status", "name", "done", "loss", "created_at", "model")

JobId = Annotated[str, typer.Argument(help="Id of the job, as `carousel jobs list` shows it.")]


@app.command(name="list")
def list_(url: Url = None, *, is_json: AsJson = False) -> None:
    """List your train jobs, the newest first."""
    from service.cli.table import print_rows

    jobs = _client(url).send("GET", "train-jobs")["jobs"]
    rows = jobs if is_json else [_row(job) for job in jobs]
    print_rows(rows, _COLUMNS, is_json=is_json, empty="there are no train jobs")


@app.command()
def show(job_id: JobId, url: Url = None) -> None:
    """Print everything of a job, as JSON."""
    print(json.dumps(_client(url).send("GET", "train-jobs", job_id), indent=2, ensure_ascii=False))


@app.command()
def submit(
    file: TrainingFile,
    name: NewModel,
    cell: Cell = None,
    units: Units = None,
    layers: Layers = None,
    epochs: Epochs = None,
    max_seconds: MaxSeconds = None,
    initial_model: InitialModel = None,
    alias: Annotated[str | None, typer.Option(help="Alias that the model gets.")] = None,
    queue: Annotated[
        str | None, typer.Option(help="train-cpu or train-gpu: the machines that train it.")
    ] = None,
    url: Url = None,
) -> None:
    """Upload a text and submit a job that trains on it; print the job's id."""
    from service.errors import Validation

    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise Validation(f"{file} is not a text in UTF-8: {error}") from error
    client = _client(url)
    corpus = client.send("POST", "corpora", body=text, query={"name": file.name[:80]})
    given = {
        "architecture": _given(cell=cell, units=units, layers=layers),
        "training": _given(epochs=epochs, max_seconds=max_seconds),
        **_given(initial_model=initial_model, alias=alias, queue=queue),
    }
    job = client.send("POST", "train-jobs", body={"name": name, "corpus": corpus["id"], **given})
    print(job["id"])


@app.command()
def follow(job_id: JobId, url: Url = None) -> None:
    """Print the events of a job until it ends; the exit code is 1 unless it succeeded."""
    client, status = _client(url), None
    for name, data in client.events("train-jobs", job_id, "events"):
        print(_line(name, data), flush=True)
        status = data.get("status", status) if name == "done" else status
    if (status or client.send("GET", "train-jobs", job_id)["status"]) != "succeeded":
        raise typer.Exit(1)


@app.command()
def cancel(job_id: JobId, url: Url = None) -> None:
    """End a job within seconds; its best checkpoint is kept."""
    job = _client(url).send("POST", "train-jobs", job_id, "cancel")
    print(f"{job['id']} is {'being cancelled' if job['status'] == 'running' else job['status']}")


@app.command()
def rm(job_id: JobId, url: Url = None) -> None:
    """Delete a job that has ended, with its events and checkpoints; its model stays."""
    _client(url).send("DELETE", "train-jobs", job_id)
    print(f"deleted {job_id}")


def _client(url: str | None) -> "AdminClient":
    from service.cli.admin_client import DEFAULT_URL, AdminClient

    return AdminClient(url or DEFAULT_URL)


def _given(**options: object) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}


def _row(job: Mapping[str, Any]) -> dict[str, Any]:
    progress, best = job["progress"] or {}, job["best"] or {}
    step, n_steps = progress.get("step"), progress.get("n_steps")
    loss = best.get("validation_nats") or progress.get("nats") or progress.get("training_nats")
    return {
        **job,
        "done": f"{step / n_steps:.0%}" if step is not None and n_steps else None,
        "loss": None if loss is None else f"{loss:.4f}",
    }


def _line(name: str, data: Mapping[str, Any]) -> str:
    shown = (
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value!r}"
        for key, value in data.items()
    )
    return f"{name}: {' '.join(shown)}"
