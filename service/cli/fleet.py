"""The subcommands `fleet …`: the service on Ray Serve, over many machines, from one file."""

import json
from pathlib import Path
from typing import Annotated

import typer

from service.cli.options import AsJson

app = typer.Typer(help="The service on Ray Serve, over many machines.", no_args_is_help=True)
File = Annotated[Path, typer.Argument(help="The fleet's file, YAML.")]


@app.command()
def node(
    file: File,
    *,
    head: Annotated[bool, typer.Option("--head", help="This machine is the head.")] = False,
    address: Annotated[
        str | None, typer.Option(help="Address by which the other nodes reach this one.")
    ] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="Cores for replicas.")] = None,
    scratch: Annotated[Path | None, typer.Option(help="Folder of Ray's logs and sockets.")] = None,
) -> None:
    """Run this machine's node of the fleet, in the foreground, until SIGTERM."""
    from service.ray.fleet_file import FleetFile
    from service.ray.node import run_node

    run_node(FleetFile.read(file), is_head=head, address=address, cores=cores, scratch=scratch)


@app.command()
def up(
    file: File,
    *,
    restart: Annotated[
        bool, typer.Option("--restart", help="Replace replicas that have not changed, too.")
    ] = False,
) -> None:
    """Start the replicas, or bring them to the file one after the other; return when it is so."""
    from service.ray.fleet_file import FleetFile
    from service.ray.node import prepare

    found = FleetFile.read(file)
    prepare(found)
    from service.ray import application

    application.connect(found)
    application.check_nodes()
    application.deploy(found, restarts=restart)
    print(f"Carousel serves on http://{found.host}:{found.port} by Ray Serve")


@app.command()
def status(file: File, *, is_json: AsJson = False) -> None:
    """Print the fleet's replicas, ingresses and nodes; 1 is the code of one that does not serve."""
    from service.cli.table import print_rows
    from service.ray.fleet_file import FleetFile
    from service.ray.node import prepare

    found = FleetFile.read(file)
    prepare(found)
    from service.ray import application

    application.connect(found)
    state = application.status(found)
    if is_json:
        print(json.dumps(state, indent=2))
    else:
        for name in ("application", "message", "replicas", "ingresses"):
            print(f"{name.ljust(12)}  {state[name] or '-'}")
        print_rows(
            application.rows(found), ["node", "head", "cores", "state"], is_json=False, empty=""
        )
    if state["application"] != "RUNNING":
        raise typer.Exit(1)


@app.command()
def down(file: File) -> None:
    """End the replicas and the ingresses; the nodes stay. Streams have the time of a drain."""
    from service.ray.fleet_file import FleetFile
    from service.ray.node import prepare

    found = FleetFile.read(file)
    prepare(found)
    from service.ray import application

    application.connect(found)
    application.down()
    print("the fleet's replicas have ended")
