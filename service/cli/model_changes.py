"""Loading, unloading, aliases and deletion, by a running server or in the store's record."""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from service.cli.admin_client import DEFAULT_URL, AdminClient, NoServer
from service.errors import BadCheckpoint, ModelInUse, ModelNotFound, Validation
from service.fleet.fleet_store import has_wish
from service.models.registry import DEFAULT_ALIAS
from service.models.resolve import read_record, resolve_stored
from service.models.retention import Retention
from service.models.spec import ModelRef, check_name
from service.models.store import ModelStore, RegistryRecord


@dataclass(frozen=True, slots=True)
class ModelChanges:
    """Changes which models are loaded, aliased and stored; each method returns what it did.

    The running server at `url` makes a change. Where none answers and no URL was given, the record
    in `store` is written, which the next start of a server reads. `is_offline`: no server is asked.
    """

    store: ModelStore
    url: str | None
    is_offline: bool = False

    def load(self, name: str, options: Mapping[str, object] | None = None) -> str:
        """Load a model; `options` are members of the route's body. Raises CarouselError."""
        options = options or {}

        def by_server(client: AdminClient) -> str:
            ref = _newest_of(client, name)
            row = client.call("POST", "models", ref, "load", body=dict(options) or None)
            return f"{ref} is loaded by the server at {client.url}{_but_not_everywhere(row)}"

        def by_record() -> str:
            ref, record = self._readable(name), read_record(self.store)
            aliases = {DEFAULT_ALIAS: ref} | dict(record.aliases)
            loaded = tuple(sorted({*record.loaded, ref}))
            kept = record.retentions.get(ref, Retention()).to_json()
            given = {key: value for key, value in options.items() if key in kept}
            try:
                retention = Retention.from_json(kept | given)
            except ValueError:
                raise Validation(
                    f"--keep-alive-s is {given['keep_alive_s']}; give seconds from 0 on, or -1"
                ) from None
            retentions = {**record.retentions, ref: retention}
            retentions = {key: each for key, each in retentions.items() if each != Retention()}
            self._write(replace(record, loaded=loaded, aliases=aliases, retentions=retentions))
            return f"loads {ref}"

        return self._change(by_server, by_record)

    def unload(self, name: str) -> str:
        """Unload a model. Raises CarouselError."""

        def by_server(client: AdminClient) -> str:
            if (ref := _unloaded(client, name)) is not None:
                return f"{ref} is not loaded by the server at {client.url}: nothing is changed"
            row = client.call("POST", "models", name, "unload")
            if row["status"] == "draining":
                return (
                    f"{_ref_of(row)} is being unloaded by the server at {client.url}: it accepts "
                    f"no requests, and those that run have an hour{_but_not_everywhere(row)}"
                )
            where = f"the server at {client.url}{_but_not_everywhere(row)}"
            return f"{_ref_of(row)} is unloaded by {where}"

        def by_record() -> str:
            ref, record = resolve_stored(self.store, name), read_record(self.store)
            loaded = tuple(each for each in record.loaded if each != ref)
            if loaded == record.loaded:
                return f"does not load {ref} anyway: nothing is changed"
            self._write(replace(record, loaded=loaded))
            return f"does not load {ref}"

        return self._change(by_server, by_record)

    def set_alias(self, alias: str, name: str) -> str:
        """Point an alias to a model. Raises CarouselError."""
        check_name(alias)

        def by_server(client: AdminClient) -> str:
            reply = client.call("PUT", "aliases", alias, body={"model": name})
            where = f"the server at {client.url}, for new requests{_but_not_everywhere(reply)}"
            return f"{alias} is {reply['aliases'].get(alias, 'set')} in {where}"

        def by_record() -> str:
            ref, record = self._readable(name), read_record(self.store)
            if any(stored.name == alias for stored in self.store.refs()):
                raise Validation(f"{alias!r} is the name of a stored model; take another alias")
            self._write(replace(record, aliases={**record.aliases, alias: ref}))
            is_loaded = "" if ref in record.loaded else f"; `carousel load {ref}` has it loaded too"
            return f"has {alias} as {ref}{is_loaded}"

        return self._change(by_server, by_record)

    def remove_alias(self, alias: str) -> str:
        """Remove an alias. Raises CarouselError."""

        def by_server(client: AdminClient) -> str:
            reply = client.call("DELETE", "aliases", alias)
            where = f"the server at {client.url}{_but_not_everywhere(reply)}"
            return f"{alias} is no alias any more in {where}"

        def by_record() -> str:
            record = read_record(self.store)
            if alias not in record.aliases:
                raise ModelNotFound(f"{self.store.folder} has no alias {alias[:80]!r}")
            kept = {each: ref for each, ref in record.aliases.items() if each != alias}
            self._write(replace(record, aliases=kept))
            return f"has no alias {alias}"

        return self._change(by_server, by_record)

    def pin(self, name: str, *, is_pinned: bool) -> str:
        """Keep a model in memory, or let it leave again. Raises CarouselError."""

        def by_server(client: AdminClient) -> str:
            ref = _newest_of(client, name)
            row = client.call("POST", "models", ref, "load", body={"pin": is_pinned})
            state = "stays in memory" if row["pin"] else "may leave the memory"
            return f"{_ref_of(row)} {state} of the server at {client.url}"

        def by_record() -> str:
            ref, record = self._readable(name), read_record(self.store)
            kept = replace(record.retentions.get(ref, Retention()), pin=is_pinned)
            loaded = tuple(sorted({*record.loaded, ref})) if is_pinned else record.loaded
            retentions = {**record.retentions, ref: kept}
            retentions = {key: each for key, each in retentions.items() if each != Retention()}
            self._write(replace(record, loaded=loaded, retentions=retentions))
            return f"{'keeps' if is_pinned else 'may evict'} {ref}"

        return self._change(by_server, by_record)

    def versions_to_delete(self, name: str, *, is_all: bool) -> list[ModelRef]:
        """Return the versions that `name` or `name@version` names.

        A name of several versions is refused unless `is_all`. Raises Validation, ModelNotFound;
        ModelInUse if a running server has loaded one, or has an alias of one.
        """
        wanted = ModelRef.parse(name) if "@" in name else None
        stored = self.store.refs()
        refs = [ref for ref in stored if wanted == ref or (not wanted and ref.name == name)]
        if not refs:
            raise ModelNotFound(f"no model {name[:80]!r} is stored in {self.store.folder}")
        if len(refs) > 1 and not is_all:
            raise Validation(
                f"{name} has {len(refs)} versions: name one ({', '.join(map(str, refs[:9]))}), "
                "or give --all"
            )
        self._check_unused(refs)
        return refs

    def delete(self, refs: list[ModelRef]) -> None:
        """Delete stored versions. Raises as `versions_to_delete`."""
        self._check_unused(refs)
        for ref in refs:
            self.store.delete(ref)

    def aliases_of(self, ref: ModelRef) -> list[str]:
        """Return the aliases that the store's record has of a version."""
        return sorted(a for a, target in read_record(self.store).aliases.items() if target == ref)

    def _check_unused(self, refs: list[ModelRef]) -> None:
        """Raise ModelInUse if a running server, if there is one, uses one of the versions."""
        client = self._client()
        if client is None:
            return
        try:
            listing = client.models()
        except NoServer:
            if self.url is not None:
                raise
            return
        rows = {_ref_of(row): row for row in listing["models"]}
        for ref in refs:
            row, manifest = rows.get(str(ref)), self.store.manifest(ref)
            if row is None or manifest is None or row["digest"] != manifest.digest:
                continue  # a server of another store
            why = None
            if row["status"] not in {"stored", "failed"}:
                why = f"has loaded it; `carousel unload {ref}` unloads it"
            for alias, target in listing["aliases"].items():
                if target == str(ref):
                    why = f"has the alias {alias} of it; `carousel alias {alias} MODEL` moves it"
            if why:
                raise ModelInUse(f"{ref} is not deleted: the server at {client.url} {why}")

    def _change(self, by_server: Callable[[AdminClient], str], by_record: Callable[[], str]) -> str:
        client = self._client()
        if client is None:
            _refuse_where_the_store_decides()
            return f"the next server on {self.store.folder} {by_record()}"
        try:
            return by_server(client)
        except NoServer as error:
            if self.url is not None:
                raise NoServer(f"{error}; --offline changes what the next start loads") from error
            _refuse_where_the_store_decides()
            return f"{error}: the next server on {self.store.folder} {by_record()}"

    def _client(self) -> AdminClient | None:
        return None if self.is_offline else AdminClient(self.url or DEFAULT_URL)

    def _readable(self, name: str) -> ModelRef:
        ref = resolve_stored(self.store, name)
        if self.store.manifest(ref) is None:
            raise BadCheckpoint(f"the manifest of {ref} cannot be read, so it cannot be served")
        return ref

    def _write(self, record: RegistryRecord) -> None:
        if not os.access(self.store.folder, os.W_OK):
            raise Validation(f"{self.store.folder} cannot be written")
        record.write(self.store.folder)


def _refuse_where_the_store_decides() -> None:
    """Raise Validation where servers load what their Redis says, and not what the folder does."""
    url = os.environ.get("CAROUSEL_REDIS_URL")
    if url and asyncio.run(has_wish(url)):
        raise Validation(
            "what a server loads is in the Redis of CAROUSEL_REDIS_URL; start a server, which then "
            "makes the change in every process"
        )


def _but_not_everywhere(reply: Mapping[str, Any]) -> str:
    """Return which processes have not made a change, and why, as the end of a sentence."""
    processes = reply.get("fleet", {}).get("processes", [])
    lacking = [f"{one['process']}: {one['problem']}" for one in processes if one["problem"]]
    return f", but not yet by every process ({'; '.join(lacking)})" if lacking else ""


def _newest_of(client: AdminClient, name: str) -> str:
    """Return the newest version of a bare name in a server's store; else the name as it is."""
    listing = client.models()
    versions = [row["version"] for row in listing["models"] if row["name"] == name]
    return f"{name}@{max(versions)}" if versions and name not in listing["aliases"] else name


def _unloaded(client: AdminClient, name: str) -> str | None:
    """Return the stored version that `name` means in a server, if the server has none loaded."""
    listing = client.models()
    target = listing["aliases"].get(name, name)
    rows = [row for row in listing["models"] if target in (row["name"], _ref_of(row))]
    is_loaded = any(row["status"] != "stored" for row in rows)
    return (
        None
        if is_loaded or not rows
        else f"{rows[-1]['name']}@{max(row['version'] for row in rows)}"
    )


def _ref_of(row: dict[str, object]) -> str:
    return f"{row['name']}@{row['version']}"
