"""Names of stored models: an alias of the record, `name@version`, or a name for its newest."""

from service.errors import ModelNotFound
from service.models.registry import DEFAULT_ALIAS
from service.models.spec import ModelRef
from service.models.store import ModelStore, RegistryRecord


def read_record(store: ModelStore) -> RegistryRecord:
    """Return the record of a store: what the next start of a server loads, and the aliases."""
    return RegistryRecord.read(store.folder, store.refs(), DEFAULT_ALIAS)


def resolve_stored(store: ModelStore, name: str) -> ModelRef:
    """Return the version that an alias, `name@version` or a name refers to, without a server.

    A name without a version refers to its newest stored version. Raises ModelNotFound, and
    Validation if it is no name.
    """
    aliases, refs = read_record(store).aliases, store.refs()
    if name in aliases:
        return aliases[name]
    wanted = ModelRef.parse(name) if "@" in name else None
    found = [ref for ref in refs if wanted == ref or (wanted is None and ref.name == name)]
    if not found:
        known = sorted({*aliases, *map(str, refs)})
        raise ModelNotFound(
            f"no model or alias {name[:80]!r} is stored in {store.folder}; there are: "
            f"{', '.join(known[:20]) or 'none'}"
        )
    return max(found)
