"""The subcommand `drain`: a running server accepts no more requests, and those that run end."""

import time
from typing import Annotated

import typer

from service.cli.options import Url

app = typer.Typer()
_POLL_S = 0.2


@app.command()
def drain(
    url: Url = None,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Return when nothing runs.")] = False,
    timeout_s: Annotated[float, typer.Option(help="Wait for so long at most.", min=0)] = 3_600.0,
) -> None:
    """Have the running server refuse new requests; it goes on with those that run.

    It does not end: SIGTERM ends it. The exit code is 1 if requests still run after --timeout-s.
    """
    from service.cli.admin_client import DEFAULT_URL, AdminClient

    client = AdminClient(url or DEFAULT_URL)
    until_s = time.monotonic() + timeout_s
    reply = client.call("POST", "drain")
    while wait and (reply["running"] or reply["phase"] != "draining"):
        if time.monotonic() > until_s:
            print(f"{reply['running']} requests still run after {timeout_s:g} s")
            raise typer.Exit(1)
        time.sleep(_POLL_S)
        reply = client.call("GET", "drain")
    print(f"{client.url} is {reply['phase']}; {reply['running']} requests run")
