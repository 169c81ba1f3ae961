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

from service.errors import CarouselError, Exists, ModelNotFound, Validation
from service.models.bundle import MANIFEST, Bundle, Manifest
from service.models.retention import Retention
from service.models.spec import ModelRef
from service.scratch_folder import scratch_folder, sweep

FILE_NAME = "registry.json"
IMPORTING, _INCOMING, _DELETED = ".importing-", ".incoming-", ".deleted-"

_log = logging.getLogger(__name__)


class ModelStore:
    """The bundles of a folder. Methods block on the file system; any thread may call them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def refs(self) -> list[ModelRef]:
        """Return every stored version, in order."""
        refs = []
        for manifest in self.folder.glob(f"*/*/{MANIFEST}"):
            with contextlib.suppress(Validation):
                name, version = manifest.parent.parent.name, manifest.parent.name
                refs.append(ModelRef.parse(f"{name}@{version}"))
        return sorted(refs)

    def path(self, ref: ModelRef) -> Path:
        """Return the folder of a version, whether or not it exists."""
        return self.folder / ref.name / str(ref.version)

    def next_version(self, name: str) -> int:
        """Return one more than the highest stored version of `name`."""
        return max((ref.version for ref in self.refs() if ref.name == name), default=0) + 1

    def read(self, ref: ModelRef) -> Bundle:
        """Read a bundle. Raises ModelNotFound, or BadCheckpoint if it is damaged."""
        return Bundle.read(self._existing(ref))

    def manifest(self, ref: ModelRef) -> Manifest | None:
        """Return a version's manifest; None if it cannot be read."""
        try:
            return Manifest.model_validate_json((self.path(ref) / MANIFEST).read_bytes())
        except (OSError, ValueError):
            return None

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
        except (OSError, ValueError, KeyError, TypeError, AttributeError, CarouselError) as error:
            _log.warning("%s cannot be read (%s); every model is loaded", path, error)
        return cls(
            tuple(ref for ref in loaded if ref in stored),
            {alias: ref for alias, ref in aliases.items() if ref in stored},
            {ref: each for ref, each in retentions.items() if ref in stored},
        )

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
