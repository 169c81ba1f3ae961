"""The list of stored models, as rows and as a table."""

from collections.abc import Sequence
from typing import TypedDict

from service.cli.table import lines_of
from service.models.resolve import read_record
from service.models.spec import ModelSpec
from service.models.store import ModelStore

_HEAD = (
    "model",
    "tokens",
    "state",
    "precision",
    "size",
    "loaded at start",
    "aliases",
    "architecture",
)


class ModelRow(TypedDict):
    """A stored version; what a damaged one lacks is None."""

    model: str
    architecture: str | None
    tokens: int | None
    tokenizer: str | None
    state: str | None
    precision: str | None
    bytes: int
    aliases: list[str]
    loaded_at_start: bool


def model_rows(store: ModelStore) -> list[ModelRow]:
    """Describe every stored version, in order."""
    record, rows = read_record(store), []
    for ref in store.refs():
        row = ModelRow(
            model=str(ref),
            architecture=None,
            tokens=None,
            tokenizer=None,
            state=None,
            precision=None,
            bytes=sum(p.stat().st_size for p in store.path(ref).rglob("*") if p.is_file()),
            aliases=sorted(a for a, target in record.aliases.items() if target == ref),
            loaded_at_start=ref in record.loaded,
        )
        if (manifest := store.manifest(ref)) is not None:
            spec = ModelSpec.from_json(manifest.architecture)
            row["architecture"], row["tokens"] = spec.summary, spec.vocabulary_size
            row["tokenizer"] = str(manifest.tokenizer.get("kind", "characters"))
            row["state"] = "carried" if spec.window is None else f"window of {spec.window.length}"
            row["precision"] = str(manifest.precision)
        rows.append(row)
    return rows


def table_of(rows: Sequence[ModelRow]) -> list[str]:
    """Return the lines of a table: the head, and one line for each model."""
    return lines_of([_HEAD, *map(_cells, rows)])


def _cells(row: ModelRow) -> tuple[str, ...]:
    return (
        row["model"],
        str(row["tokens"] or "-"),
        row["state"] or "-",
        row["precision"] or "-",
        f"{row['bytes'] / 1e6:.1f} MB",
        "yes" if row["loaded_at_start"] else "no",
        ", ".join(row["aliases"]) or "-",
        row["architecture"] or "its manifest cannot be read",
    )
