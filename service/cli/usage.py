"""The subcommand `usage`: what each owner has used of a running server, by day."""

from typing import Annotated

import typer

from service.cli.options import AsJson, Url

_COLUMNS = ("day", "owner", "requests", "prompt_tokens", "generated_tokens", "train_jobs")


def usage(
    url: Url = None,
    *,
    first: Annotated[
        str | None, typer.Option("--from", help="First day, as 2026-01-31; default: 30 days.")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last day; default: today.")] = None,
    owner: Annotated[str | None, typer.Option(help="One owner's alone.")] = None,
    is_json: AsJson = False,
) -> None:
    """Print what each owner has used on each day of UTC, the oldest day first."""
    from service.cli.admin_client import DEFAULT_URL, AdminClient
    from service.cli.table import print_rows

    given = {"from": first, "to": last, "owner": owner}
    query = {name: value for name, value in given.items() if value is not None}
    client = AdminClient(url or DEFAULT_URL)
    rows = client.send("GET", "admin", "usage", query=query)["usage"]
    print_rows(rows, _COLUMNS, is_json=is_json, empty="nothing was used")
