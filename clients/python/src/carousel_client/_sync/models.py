# Generated from ../_async: change that, and run `make client-sync`.
"""The models of a server."""

from collections.abc import Mapping
from typing import Literal, Unpack

from carousel_client import operations
from carousel_client._sync.transport import Transport
from carousel_client.parameters import ImportOptions
from carousel_client.responses import Model, ModelList


class ModelsAPI:
    """Import, load, unload and delete models. Loading and unloading may take ten minutes."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> ModelList:
        """List every stored version, and the aliases."""
        return self._transport.execute(operations.list_models())

    def load(self, ref: str, precision: Literal["float32", "int8"] | None = None) -> Model:
        """Load a stored version; one that is loaded serves until the new program is ready."""
        return self._transport.execute(operations.load_model(ref, precision))

    def unload(self, ref: str) -> Model:
        """Unload a model after its running generations have ended."""
        return self._transport.execute(operations.unload_model(ref))

    def delete(self, ref: str) -> None:
        """Delete a stored version that is neither loaded nor the target of an alias."""
        self._transport.execute(operations.delete_model(ref))

    def import_(self, source: str, name: str, **options: Unpack[ImportOptions]) -> Model:
        """Import a checkpoint from the server's import folder, and load it.

        A lost response is not retried: `list` shows whether the model is there.
        """
        return self._transport.execute(operations.import_model(source, name, options))

    def set_alias(self, alias: str, ref: str) -> Mapping[str, str]:
        """Point an alias at a model, for new requests; return every alias."""
        return self._transport.execute(operations.set_alias(alias, ref))
