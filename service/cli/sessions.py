"""The subcommands for the sessions of a running server: list, show, text, rm."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.options import AsJson, Url

if TYPE_CHECKING:
    from service.cli.admin_client import AdminClient

app = typer.Typer(no_args_is_help=True, help="List, read and delete the server's sessions.")
_COLUMNS = ("id", "model", "position", "turn", "created_at", "expires_at")

SessionId = Annotated[str, typer.Argument(help="Id of the session.")]


@app.command(name="list")
def list_(
    url: Url = None,
    *,
    limit: Annotated[int, typer.Option(min=1, help="Sessions at most.")] = 100,
    is_json: AsJson = False,
) -> None:
    """List your sessions, the newest first."""
    from service.cli.table import print_rows

    client, rows, after = _client(url), list[dict[str, object]](), None
    while len(rows) < limit:
        query: dict[str, str | int] = {"limit": min(100, limit - len(rows))}
        page = client.send("GET", "sessions", query=query | ({"after": after} if after else {}))
        rows += page["sessions"]
        after = page["next"]
        if after is None:
            break
    print_rows(rows, _COLUMNS, is_json=is_json, empty="there are no sessions")


@app.command()
def show(session_id: SessionId, url: Url = None) -> None:
    """Print everything of a session but its text, as JSON."""
    print(json.dumps(_client(url).send("GET", "sessions", session_id), indent=2))


@app.command()
def text(session_id: SessionId, url: Url = None) -> None:
    """Print the text of a session, prompts and completions."""
    client, start = _client(url), 0
    while True:
        page = client.send("GET", "sessions", session_id, "text", query={"from": start})
        print(page["text"], end="")
        if page["position"] == start or not page["text"]:
            break
        start = page["position"]
    print()


@app.command()
def rm(session_id: SessionId, url: Url = None) -> None:
    """Delete a session and end its running turn; its forks keep the text that they share."""
    _client(url).send("DELETE", "sessions", session_id)
    print(f"deleted {session_id}")


def _client(url: str | None) -> "AdminClient":
    from service.cli.admin_client import DEFAULT_URL, AdminClient

    return AdminClient(url or DEFAULT_URL)
