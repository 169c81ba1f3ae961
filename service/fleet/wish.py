"""The wish: which models are to be loaded, how long they stay, and which version an alias is.

A wish is a value. Each change makes a new one, of the next revision, and is written only if the
stored one is still the one that it was made of.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Self

from service.errors import ModelInUse, ModelNotFound
from service.models.bundle import Precision
from service.models.registry import DEFAULT_ALIAS
from service.models.retention import Retention
from service.models.spec import ModelRef
from service.models.store import RegistryRecord


@dataclass(frozen=True, slots=True)
class ModelWish:
    """What every process is to do with one version; versions without one are left alone.

    With eviction it says that the model may be loaded: whether it is in memory is each process's.
    """

    revision: int  # of the wish that changed it last
    load_revision: int  # of the last one that asked for a load: it is loaded again for each
    is_loaded: bool = True
    precision: Precision | None = None  # None: that of the manifest
    retention: Retention | None = None  # None: as it is
    evict: bool = False
    drain_s: float | None = None  # of an unload; None: the limit of each process

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return a wish as `to_json` wrote it. Raises ValueError, KeyError, TypeError."""
        known = {each.name for each in fields(cls)}  # a later version may write more
        values = {name: value for name, value in json.loads(text).items() if name in known}
        precision, retention = values["precision"], values["retention"]
        values["precision"] = None if precision is None else Precision(precision)
        values["retention"] = None if retention is None else Retention.from_json(retention)
        return cls(**values)

    def to_json(self) -> str:
        """Return it for the store."""
        retention = None if self.retention is None else self.retention.to_json()
        return json.dumps({**asdict(self), "retention": retention}, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Wish:
    """One revision. `token` is of the change that wrote it, and tells two of one number apart."""

    revision: int = 0
    token: str = ""
    models: Mapping[ModelRef, ModelWish] = field(default_factory=dict)
    aliases: Mapping[str, ModelRef] = field(default_factory=dict)

    @classmethod
    def of_record(cls, record: RegistryRecord) -> Self:
        """Return the wish of a store without one: what the folder of models says."""
        models = {
            ref: ModelWish(1, 1, retention=record.retentions.get(ref)) for ref in record.loaded
        }
        for ref, retention in record.retentions.items():
            models.setdefault(ref, ModelWish(1, 1, is_loaded=False, retention=retention))
        return cls(1, "", models, dict(record.aliases))

    def record(self) -> RegistryRecord:
        """Return what a process that starts loads."""
        kept = {ref: one.retention for ref, one in self.models.items() if one.retention is not None}
        return RegistryRecord(
            tuple(sorted(ref for ref, one in self.models.items() if one.is_loaded)),
            self.aliases,
            kept,
        )

    def is_as(self, other: "Wish") -> bool:
        """Return whether both are the same revision, by the same change."""
        return (self.revision, self.token) == (other.revision, other.token)

    def wants(self, ref: ModelRef) -> bool:
        """Return whether a version is to be loaded."""
        return ref in self.models and self.models[ref].is_loaded

    # -- changes

    def with_load(
        self,
        ref: ModelRef,
        precision: Precision | None = None,
        retention: Retention | None = None,
        *,
        evict: bool = False,
    ) -> "Wish":
        """Have a version loaded; the first one while there is no default becomes the default.

        With a retention and without a precision one that is loaded only changes how long it stays.
        """
        now, before = self.revision + 1, self.models.get(ref)
        if before is None:
            before = ModelWish(now, now)
        stays = ref in self.models and before.is_loaded
        if stays and retention is not None and precision is None:
            wish = replace(before, revision=now, retention=retention)
        else:
            kept = before.retention if retention is None else retention
            wish = ModelWish(now, now, True, precision, kept, evict)
        return replace(
            self._next(),
            models={**self.models, ref: wish},
            aliases={DEFAULT_ALIAS: ref, **self.aliases},
        )

    def with_unload(self, ref: ModelRef, drain_s: float | None = None) -> "Wish":
        """Have a version unloaded. The wish stays, so that each process unloads it once."""
        now, before = self.revision + 1, self.models.get(ref)
        kept = None if before is None else before.retention
        wish = ModelWish(now, now, False, None, kept, drain_s=drain_s)
        return replace(self._next(), models={**self.models, ref: wish})

    def with_alias(self, alias: str, ref: ModelRef) -> "Wish":
        """Point an alias at a version."""
        return replace(self._next(), aliases={**self.aliases, alias: ref})

    def without_alias(self, alias: str) -> "Wish":
        """Remove an alias. Raises ModelNotFound."""
        if alias not in self.aliases:
            known = ", ".join(sorted(self.aliases)[:20]) or "none"
            raise ModelNotFound(f"there is no alias {alias[:80]!r}; there are: {known}")
        kept = {name: ref for name, ref in self.aliases.items() if name != alias}
        return replace(self._next(), aliases=kept)

    def without_model(self, ref: ModelRef) -> "Wish":
        """Forget a version that is deleted. Raises ModelInUse if it is wanted or aliased."""
        aliases = [alias for alias, target in self.aliases.items() if target == ref]
        if self.wants(ref) or aliases:
            why = f"the alias {aliases[0]!r} points at it" if aliases else "it is to be loaded"
            raise ModelInUse(
                f"{ref} cannot be deleted: {why}; unload it and move its aliases first"
            )
        kept = {each: wish for each, wish in self.models.items() if each != ref}
        return replace(self._next(), models=kept)

    def again(self) -> "Wish":
        """Return the same wish as the next revision, for a store that has lost it."""
        return self._next()

    def _next(self) -> "Wish":
        return replace(self, revision=self.revision + 1)
