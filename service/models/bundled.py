"""The models that come with the installed package: a new, empty store begins with them."""

import logging
from pathlib import Path

from service.errors import Exists
from service.models.bundle import MANIFEST
from service.models.store import FILE_NAME, ModelStore

BUNDLED = Path(__file__).parents[1] / "bundled_models"  # in the wheel; a checkout has model_store/

_log = logging.getLogger(__name__)


def add_bundled_models(store: ModelStore, bundled: Path = BUNDLED) -> None:
    """Copy the bundled models into a store that has never had any; else do nothing.

    A store whose models were deleted has a record and stays as it is. Several processes may begin
    with the same store at once. Logs a warning where the store cannot be written to.
    """
    if (store.folder / FILE_NAME).exists() or store.refs():
        return
    source = ModelStore(bundled)
    for ref in source.refs():
        files = {file.name: file.read_bytes() for file in source.path(ref).iterdir()}
        assert MANIFEST in files
        try:
            store.write(ref, files)
        except Exists:
            continue  # another process was first
        except OSError as error:
            _log.warning("%s cannot be copied to %s: %s", ref, store.folder, error)
            return
        _log.info("%s, which comes with the package, is now in %s", ref, store.folder)
