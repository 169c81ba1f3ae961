"""The file beside the bundles that records which models are loaded and where aliases point."""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from service.errors import CarouselError
from service.models.spec import ModelRef

FILE_NAME = "registry.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RegistryRecord:
    """The models to load at the next start, and the aliases."""

    loaded: tuple[ModelRef, ...]
    aliases: Mapping[str, ModelRef]

    @classmethod
    def read(cls, folder: Path, stored: Iterable[ModelRef], default_alias: str) -> "RegistryRecord":
        """Read the record of a folder, without models that are not among `stored`, in order.

        Without a readable record: the newest version of each model, the first being the default.
        """
        stored, path = list(stored), folder / FILE_NAME
        loaded = tuple({ref.name: ref for ref in stored}.values())
        aliases = {default_alias: loaded[0]} if loaded else {}
        try:
            values = json.loads(path.read_bytes())
            aliases = {alias: ModelRef.parse(ref) for alias, ref in values["aliases"].items()}
            loaded = tuple(ModelRef.parse(ref) for ref in values["loaded"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError, CarouselError) as error:
            _log.warning("%s cannot be read (%s); every model is loaded", path, error)
        return cls(
            tuple(ref for ref in loaded if ref in stored),
            {alias: ref for alias, ref in aliases.items() if ref in stored},
        )

    def write(self, folder: Path) -> None:
        """Write the record atomically. Logs a warning if the folder is read-only."""
        path = folder / FILE_NAME
        values = {
            "aliases": {alias: str(ref) for alias, ref in sorted(self.aliases.items())},
            "loaded": [str(ref) for ref in self.loaded],
        }
        incoming = path.with_suffix(".incoming")
        try:
            incoming.write_text(json.dumps(values, indent=2) + "\n")
            incoming.replace(path)
        except OSError as error:
            _log.warning("%s cannot be written (%s); a restart ignores the change", path, error)
