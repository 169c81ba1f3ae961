# Generated from ../_async: change that, and run `make client-sync`.
"""The models of a server."""

from collections.abc import Mapping
from typing import Any, Literal, Unpack

from carousel_client._sync.transport import Transport
from carousel_client.parameters import ImportOptions
from carousel_client.request import Request, url_path, with_json
from carousel_client.responses import Model, ModelList


class ModelsAPI:
    """Import, load, unload and delete models. Loading and unloading may take ten minutes."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> ModelList:
        """List every stored version, and the aliases."""
        return self._transport.execute(Request("GET", "/admin/models"), ModelList.from_json)

    def load(
        self,
        ref: str,
        precision: Literal["float32", "int8", "float16"] | None = None,
        *,
        pin: bool | None = None,
        keep_alive_s: float | None = None,
        evict: bool = False,
    ) -> Model:
        """Load a stored version; one that is loaded serves until the new program is ready.

        `pin` keeps it in memory, `keep_alive_s` for a time after its last request; given for a
        loaded model, they change nothing else. With `evict` idle models leave the memory for it.
        """
        path = url_path("admin", "models", ref, "load")
        body: dict[str, Any] = {"precision": precision}
        if pin is not None:
            body["pin"] = pin
        if keep_alive_s is not None:
            body["keep_alive_s"] = keep_alive_s
        if evict:
            body["evict"] = True
        return self._execute(with_json("POST", path, body))

    def unload(self, ref: str) -> Model:
        """Unload a model after its running generations have ended."""
        return self._execute(Request("POST", url_path("admin", "models", ref, "unload")))

    def delete(self, ref: str) -> None:
        """Delete a stored version that is neither loaded nor the target of an alias."""
        self._transport.send(Request("DELETE", url_path("admin", "models", ref)))

    def import_(self, source: str, name: str, **options: Unpack[ImportOptions]) -> Model:
        """Import a checkpoint from the server's import folder, and load it.

        A lost response is not retried: `list` shows whether the model is there.
        """
        body = {"source": source, "name": name, **options}
        return self._execute(with_json("POST", "/admin/models", body, is_repeatable=False))

    def set_alias(self, alias: str, ref: str) -> Mapping[str, str]:
        """Point an alias at a model, for new requests; return every alias."""
        request = with_json("PUT", url_path("admin", "aliases", alias), {"model": ref})
        return self._transport.execute(request, lambda body: dict(body["aliases"]))

    def remove_alias(self, alias: str) -> None:
        """Remove an alias; its model stays."""
        self._transport.send(Request("DELETE", url_path("admin", "aliases", alias)))

    def _execute(self, request: Request) -> Model:
        return self._transport.execute(request, Model.from_json, self._transport.long_timeout_s)
