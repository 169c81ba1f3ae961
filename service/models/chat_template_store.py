"""The chat templates of stored models: a file beside each manifest, which may change."""

import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import BadRequest, ModelNotReady
from service.models.chat_template import ChatTemplate
from service.models.spec import ModelRef
from service.models.store import ModelStore

FILE_NAME = "chat_template.json"
KEPT_S = 5.0  # how long another process's change may go unseen
MAX_KEPT = 1_024


@dataclass(frozen=True, slots=True)
class _Kept:
    template: ChatTemplate | None
    until_s: float


class ChatTemplateStore:
    """The chat template of each model version. Belongs to one thread; reads files rarely."""

    def __init__(self, store: ModelStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._kept: dict[ModelRef, _Kept] = {}
        self._default = ChatTemplate.of_lines()

    def get(self, ref: ModelRef) -> ChatTemplate:
        """Return a version's template, or the default. Raises ModelNotReady if it is damaged."""
        kept = self._kept.get(ref)
        if kept is None or kept.until_s <= self._clock():
            kept = self._keep(ref, self._read(ref))
        return kept.template or self._default

    def put(self, ref: ModelRef, template: ChatTemplate) -> None:
        """Store a version's template: the next request uses it. Raises BadRequest."""
        path = self._store.path(ref) / FILE_NAME
        incoming = path.with_name(f".{FILE_NAME}.{secrets.token_hex(8)}")
        try:
            with incoming.open("x", encoding="utf-8") as file:
                file.write(template.model_dump_json(indent=2, exclude_none=True) + "\n")
                file.flush()
                os.fsync(file.fileno())
            incoming.replace(path)
        except OSError as error:
            incoming.unlink(missing_ok=True)
            raise BadRequest(
                f"the chat template of {ref} cannot be written: {error.strerror}; the model store "
                "has to be writable by the server"
            ) from error
        self._keep(ref, template)

    def delete(self, ref: ModelRef) -> None:
        """Make the default the version's template again. Raises BadRequest."""
        try:
            (self._store.path(ref) / FILE_NAME).unlink(missing_ok=True)
        except OSError as error:
            raise BadRequest(
                f"the chat template of {ref} cannot be deleted: {error.strerror}"
            ) from error
        self._keep(ref, None)

    def _keep(self, ref: ModelRef, template: ChatTemplate | None) -> _Kept:
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        self._kept[ref] = kept = _Kept(template, self._clock() + KEPT_S)
        return kept

    def _read(self, ref: ModelRef) -> ChatTemplate | None:
        """Return the stored template; None where there is none. Raises ModelNotReady."""
        path = self._store.path(ref) / FILE_NAME
        try:
            return ChatTemplate.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ModelNotReady(
                f"the chat template of {ref} cannot be read; PUT /admin/models/{ref}/chat-template "
                "replaces it, DELETE makes it the default"
            ) from error
