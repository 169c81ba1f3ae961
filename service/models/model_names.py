"""Names of a registry's models: an alias, `name@version`, or a name for its newest version."""

from collections.abc import Iterable, Mapping
from typing import Any

from service.errors import ModelNotFound, Validation
from service.models.model_entry import ModelEntry
from service.models.spec import ModelRef, check_name


def resolve_name(
    name: str, aliases: Mapping[str, ModelRef], entries: Mapping[ModelRef, ModelEntry[Any]]
) -> ModelRef:
    """Return the version that a name refers to; without a version its newest loaded one.

    Where none is loaded it is the newest stored one. Raises ModelNotFound, Validation.
    """
    if name in aliases:
        return aliases[name]
    if "@" in name:
        ref = ModelRef.parse(name)
        if ref in entries:
            return ref
    versions = [ref for ref in entries if ref.name == name]
    if not versions:
        raise ModelNotFound(
            f"no model, version or alias is called {name[:80]!r}; {_known(aliases, entries)}"
        )
    return max(versions, key=lambda ref: (entries[ref].loaded is not None, ref.version))


def _known(aliases: Mapping[str, ModelRef], entries: Mapping[ModelRef, ModelEntry[Any]]) -> str:
    """Return the names that are loaded, and those that are stored alone, as a sentence."""
    loaded = {ref for ref, entry in entries.items() if entry.loaded is not None}
    ready = sorted({a for a, ref in aliases.items() if ref in loaded} | {r.name for r in loaded})
    others = sorted({ref.name for ref in entries} - set(ready))
    stored = f"; stored and not loaded: {', '.join(others[:20])}" if others else ""
    return f"loaded: {', '.join(ready[:20]) or 'none'}{stored}"


def check_alias(alias: str, refs: Iterable[ModelRef]) -> None:
    """Raise Validation if an alias is no name, or one of a stored model, which it would hide."""
    check_name(alias)
    if any(ref.name == alias for ref in refs):
        raise Validation(
            f"{alias!r} is the name of a stored model, which an alias would hide; take another "
            "name for the alias",
            "alias",
        )
