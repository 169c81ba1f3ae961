"""The subcommand `batch`: the answers to a file of requests, without a server."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.cli.options import Store


class Task(StrEnum):
    """What is done with a line that has `inputs` and names no route."""

    GENERATE = "generate"
    SCORE = "score"


def batch(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="Requests as JSON, one a line.", exists=True, dir_okay=False
        ),
    ],
    output: Annotated[
        Path, typer.Argument(help="Their answers; what it has is not done again.", dir_okay=False)
    ],
    model: Annotated[
        str, typer.Option(help="Name, name@version or alias: of lines that name none.")
    ] = "default",
    processes: Annotated[
        int | None, typer.Option(min=1, max=256, help="Processes; default: one for each core.")
    ] = None,
    task: Annotated[
        Task, typer.Option(help="What is done with a line of `inputs` without a route.")
    ] = Task.GENERATE,
    model_store: Store = Path("model_store"),
) -> None:
    """Answer a file of requests, without a server; started again it goes on where it ended.

    A line is a request of OpenAI's batches (`custom_id`, `method`, `url`, `body`), or a body of
    /generate, /score, /v1/completions, /v1/chat/completions or /v1/embeddings. The answers have
    the order of the lines, and depend on them and the model alone. The exit code is 1 where a line
    has failed.
    """
    from service.batch_command import BatchOptions, run_batch
    from service.cgroup import machine_share
    from service.cli.leave import leave_on_interrupt
    from service.cli.models import stored_name

    leave_on_interrupt()
    options = BatchOptions(
        source,
        output,
        model_store,
        stored_name(model_store, model),
        processes or machine_share().cores,
        f"/{task}",
    )
    if run_batch(options):
        raise typer.Exit(1)
