"""The subcommand `inspect`: what cells of a served model do while it reads a text."""

from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.options import AsJson, Url
from service.errors import Validation


def inspect(
    text: Annotated[str, typer.Argument(help="The text to read.")],
    cells: Annotated[list[int], typer.Option("--cell", help="A cell, from 0; may be repeated.")],
    layer: Annotated[int, typer.Option(help="Recurrent layer, from 0.")] = 0,
    signals: Annotated[
        str | None, typer.Option(help="With commas, such as f,i,c; default: gates and states.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Write the text coloured by each cell, as SVG.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name, name@version or alias.")] = None,
    url: Url = None,
    *,
    is_json: AsJson = False,
) -> None:
    """Print the gates and states of cells for each character; draw the text in their colours."""
    from service.cli.admin_client import DEFAULT_URL, AdminClient
    from service.cli.table import print_rows
    from service.cli.text_picture import drawn

    if picture is not None and picture.suffix.lower() != ".svg":
        raise Validation(f"--picture is {picture.name}: give a name that ends in .svg")
    body: dict[str, Any] = {"inputs": text, "layers": [layer], "cells": cells}
    if signals is not None:
        body["signals"] = signals.split(",")
    if model is not None:
        body["model"] = model
    client = AdminClient(url or DEFAULT_URL)
    found = client.send("POST", "inspect", body=body)
    (shown,) = found["layers"]
    names = [*shown["signals"]]
    columns = [(name, i, cell) for i, cell in enumerate(cells) for name in names]
    heads = [name if len(cells) == 1 else f"{name}.{cell}" for name, _, cell in columns]
    rows = []
    for t, token in enumerate(found["tokens"]):
        values = [shown["signals"][name][t][i] for name, i, _ in columns]
        numbers = values if is_json else [f"{value:+.3f}" for value in values]
        rows.append({"text": repr(token["text"])} | dict(zip(heads, numbers, strict=True)))
    print_rows(rows, ["text", *heads], is_json=is_json, empty="the text has no token")
    if picture is not None:
        has_c = "c" in shown["before"] and shown["activation"] == "tanh"
        colour = "tanh_c" if has_c else "h"
        body["signals"] = [colour]
        (of_colour,) = client.send("POST", "inspect", body=body)["layers"]
        values = of_colour["signals"][colour]
        texts = [token["text"] for token in found["tokens"]]
        titles = [f"{found['model']}, layer {layer}, cell {cell}: {colour}" for cell in cells]
        columns_of = [[row[i] for row in values] for i in range(len(cells))]
        picture.write_text(drawn(texts, titles, columns_of), encoding="utf-8")
        print(f"written: {picture}")
