"""The folder of immutable bundles, `<name>/<version>/`, and the record of those to load."""

import contextlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.errors import (
    BadCheckpoint,
    CarouselError,
    Exists,
    ModelNotFound,
    Validation,
    reason_of,
)
from service.models.bundle import MANIFEST, Bundle, Manifest
from service.models.retention import Retention
from service.models.spec import ModelRef, ModelSpec
from service.scratch_folder import scratch_folder, sweep

FILE_NAME = "registry.json"
IMPORTING, _INCOMING, _DELETED = ".importing-", ".incoming-", ".deleted-"

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)

_log = logging.getLogger(__name__)


class ModelStore:
    """The bundles of a folder. Methods block on the file system; any thread may call them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def refs(self) -> list[ModelRef]:
        """Return every stored version, in order."""
        refs = []
        for model in _folders(self.folder):
            for version in _folders(model):
                with contextlib.suppress(Validation):
                    ref = ModelRef.parse(f"{model.name}@{version.name}")
                    if (version / MANIFEST).exists():
                        refs.append(ref)
        return sorted(refs)

    def path(self, ref: ModelRef) -> Path:
        """Return the folder of a version, whether or not it exists."""
        return self.folder / ref.name / str(ref.version)

    def next_version(self, name: str) -> int:
        """Return one more than the highest stored version of `name`."""
        return max((ref.version for ref in self.refs() if ref.name == name), default=0) + 1

    def read(self, ref: ModelRef) -> Bundle:
        """Read a bundle. Raises ModelNotFound, or BadCheckpoint if it is damaged."""
        bundle = Bundle.read(self._existing(ref))
        if bundle.ref != ref:
            raise BadCheckpoint(_copied(ref, bundle.manifest))
        return bundle

    def manifest(self, ref: ModelRef) -> Manifest | None:
        """Return a version's manifest; None if it is damaged."""
        found = self.inspect(ref)
        return found if isinstance(found, Manifest) else None

    def inspect(self, ref: ModelRef) -> Manifest | str:
        """Return a version's manifest, or the reason why the version cannot be served."""
        try:
            manifest = Manifest.model_validate_json((self.path(ref) / MANIFEST).read_bytes())
            ModelSpec.from_json(manifest.architecture)
        except Exception as error:  # noqa: BLE001 (whatever a hand or a disk has put there)
            return f"its {MANIFEST} is damaged: {reason_of(error)}"[:300]
        if (manifest.name, manifest.version) != (ref.name, ref.version):
            return _copied(ref, manifest)
        return manifest

    def write(
        self, ref: ModelRef, files: dict[str, bytes], last_look: Callable[[], object] | None = None
    ) -> Path:
        """Store a version's files atomically, by one rename; return its folder.

        `last_look` is called right before the rename, and prevents it by raising. Raises Exists if
        the version exists already.
        """
        target = self.path(ref)
        target.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(self.folder, _INCOMING, mode=0o777) as incoming:
            for name, content in files.items():
                with (incoming / name).open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            if last_look is not None:
                last_look()
            try:
                incoming.rename(target)
            except OSError as error:
                if not target.exists():
                    raise
                raise Exists(
                    f"{ref} exists already and versions never change; "
                    "leave `version` out to get the next one"
                ) from error
        return target

    def delete(self, ref: ModelRef) -> None:
        """Delete a stored version. Raises ModelNotFound."""
        path = self._existing(ref)
        trash = self.folder / f"{_DELETED}{secrets.token_hex(8)}"
        path.rename(trash)
        shutil.rmtree(trash)

    def sweep(self) -> None:
        """Delete what killed processes have left: imports, and versions half written or deleted."""
        n = sweep(self.folder, (IMPORTING, _INCOMING, _DELETED))
        if n:
            _log.warning("%s folders of processes that were killed were deleted", n)

    def _existing(self, ref: ModelRef) -> Path:
        if not (self.path(ref) / MANIFEST).is_file():
            raise ModelNotFound(f"no model {ref} is stored")
        return self.path(ref)


def _folders(folder: Path) -> list[Path]:
    """Return the folders of a folder, but hidden ones; none if it is no folder, or no more."""
    with (
        contextlib.suppress(FileNotFoundError, NotADirectoryError),
        os.scandir(folder) as entries,
    ):
        return [Path(one.path) for one in entries if one.is_dir() and one.name[0] != "."]
    return []


def _copied(ref: ModelRef, manifest: Manifest) -> str:
    return (
        f"the folder {ref.name}/{ref.version} has {manifest.name}@{manifest.version}, by its "
        f"{MANIFEST}: it was copied or renamed; move it back, or import it as {ref.name}"
    )


@dataclass(frozen=True, slots=True)
class RegistryRecord:
    """The models to load at the next start, the aliases, and how long models stay in memory."""

    loaded: tuple[ModelRef, ...]
    aliases: Mapping[str, ModelRef]
    retentions: Mapping[ModelRef, Retention] = field(default_factory=dict)  # not the default one

    @classmethod
    def read(cls, folder: Path, stored: Iterable[ModelRef], default_alias: str) -> "RegistryRecord":
        """Read the record of a folder, without models that are not among `stored`, in order.

        Without a readable record: the newest version of each model, the first being the default.
        """
        stored, path = list(stored), folder / FILE_NAME
        loaded = tuple({ref.name: ref for ref in stored}.values())
        aliases = {default_alias: loaded[0]} if loaded else {}
        retentions: dict[ModelRef, Retention] = {}
        try:
            values = json.loads(path.read_bytes())
            aliases = {alias: ModelRef.parse(ref) for alias, ref in values["aliases"].items()}
            given = values.get("retention", {}).items()
            retentions = {ModelRef.parse(ref): Retention.from_json(each) for ref, each in given}
            loaded = tuple(ModelRef.parse(ref) for ref in values["loaded"])
        except FileNotFoundError:
            pass
        except (*_UNREADABLE, CarouselError) as error:
            _log.warning("%s cannot be read (%s); every model is loaded", path, reason_of(error))
        gone = [str(ref) for ref in loaded if ref not in stored]
        gone += [f"{alias} -> {ref}" for alias, ref in aliases.items() if ref not in stored]
        if gone:
            _log.warning("%s names models that are not stored: %s", path, ", ".join(gone[:20]))
        kept = tuple(ref for ref in loaded if ref in stored)
        targets = {alias: ref for alias, ref in aliases.items() if ref in stored}
        if loaded and not kept:  # not the choice of a person, as an empty list is
            kept = tuple({ref.name: ref for ref in stored}.values())
        if default_alias in aliases and default_alias not in targets and kept:
            name = aliases[default_alias].name
            targets[default_alias] = next((ref for ref in kept if ref.name == name), kept[0])
            _log.warning("the alias %r is %s now", default_alias, targets[default_alias])
        return cls(kept, targets, {ref: each for ref, each in retentions.items() if ref in stored})

    def write(self, folder: Path) -> None:
        """Write the record atomically. Logs a warning if the folder is read-only."""
        path = folder / FILE_NAME
        values: dict[str, Any] = {
            "aliases": {alias: str(ref) for alias, ref in sorted(self.aliases.items())},
            "loaded": [str(ref) for ref in self.loaded],
        }
        if self.retentions:
            kept = {str(ref): each.to_json() for ref, each in sorted(self.retentions.items())}
            values["retention"] = kept
        incoming = path.with_suffix(".incoming")
        try:
            incoming.write_text(json.dumps(values, indent=2) + "\n")
            incoming.replace(path)
        except OSError as error:
            _log.warning("%s cannot be written (%s); a restart ignores the change", path, error)
