"""Options that a file does not state: from the request's `assume`, else the default value."""

from collections.abc import Mapping
from typing import Any

from service.errors import BadCheckpoint, Validation
from service.models.cell import Activation
from service.models.tokenizers.special_tokens import UnknownPolicy

_KERAS_ACTIVATIONS = ("linear", "tanh", "sigmoid", "relu", "hard_sigmoid")
_ACTIVATIONS = (*Activation, "hard_sigmoid")
VALUES: Mapping[str, tuple[str, ...]] = {
    "recurrent_activation": _ACTIVATIONS,
    "activation": _ACTIVATIONS,
    "reset_after": ("true", "false"),
    "state": ("carried",),
    "unknown_character": tuple(UnknownPolicy),
}
"""The keys of `assume` and the values of each."""


def check_assume(assume: Mapping[str, str]) -> None:
    """Raise Validation on an unknown key or value."""
    for key, value in assume.items():
        if key not in VALUES:
            raise Validation(f"assume.{key[:80]} is not known; known are {', '.join(VALUES)}")
        if value not in VALUES[key]:
            raise Validation(
                f"assume.{key} is {str(value)[:80]!r}; it may be {', '.join(VALUES[key])}"
            )


class Assumptions:
    """Decides each option, and keeps a sentence about each one that the file does not state."""

    def __init__(self, assume: Mapping[str, str], keras_version: str | None) -> None:
        """Raises Validation as `check_assume`."""
        check_assume(assume)
        self._assume = assume
        self._is_keras_3 = (keras_version or "").startswith("3")
        self.keras_version = keras_version
        self.sentences: list[str] = []

    @property
    def unknown_character(self) -> UnknownPolicy:
        """The treatment of a prompt's characters that have no token."""
        return UnknownPolicy(self._assume.get("unknown_character", UnknownPolicy.ERROR))

    @property
    def is_state_carried(self) -> bool:
        """Whether a model that reads a window for each token is served with carried state."""
        return "state" in self._assume

    def note(self, sentence: str) -> None:
        r"""Add a sentence to the manifest; what is no character in it is written as \udc80."""
        sentence = sentence.encode("utf-8", "backslashreplace").decode()
        if sentence not in self.sentences:
            self.sentences.append(sentence)

    def activation(self, key: str, layer: str, stated: object, default: str) -> Activation:
        """Decide the activation under `key`; `stated` is the file's value, None if it has none.

        Raises BadCheckpoint if the activation is not served, or `assume` contradicts the file.
        """
        name = self._decide(
            key, layer, None if stated is None else self._named(key, layer, stated), default
        )
        return self._named(key, layer, name)

    def flag(self, key: str, layer: str, stated: object, *, default: bool) -> bool:
        """Decide a boolean option as `activation`."""
        if stated is not None and not isinstance(stated, bool):
            raise BadCheckpoint(
                f"layer {layer!r}: {key} is {str(stated)[:80]!r}, not true or false"
            )
        text = None if stated is None else str(stated).lower()
        return self._decide(key, layer, text, str(default).lower()) == "true"

    def _decide(self, key: str, layer: str, stated: str | None, default: str) -> str:
        given = self._assume.get(key)
        if given is not None and key.endswith("activation"):
            given = self._named(key, layer, given)
        if stated is not None:
            if given not in (None, stated):
                raise BadCheckpoint(
                    f"layer {layer!r}: {key} in the file is {stated}, "
                    f"but assume.{key} is {given}; leave assume.{key} out"
                )
            return stated
        if given is not None:
            self.note(f"{key} is {given}, as `assume` has it; the file does not state it")
            return given
        self.note(
            f"{key} is assumed to be {default}: the file does not state it; `assume` can change it"
        )
        return default

    def _named(self, key: str, layer: str, name: object) -> Activation:
        if isinstance(name, str):
            if name == "hard_sigmoid":
                if self.keras_version is None:
                    raise Validation(
                        f"assume.{key} is 'hard_sigmoid', but the file does not state which Keras "
                        "wrote it; give hard_sigmoid_02 for Keras 2 or hard_sigmoid_6 for Keras 3"
                    )
                return Activation.HARD_SIGMOID_6 if self._is_keras_3 else Activation.HARD_SIGMOID_02
            if name in tuple(Activation):
                return Activation(name)
        allowed = ", ".join(_KERAS_ACTIVATIONS)
        shown = name if isinstance(name, str) else _name_of(name)
        raise BadCheckpoint(f"layer {layer!r}: {key} is {shown[:80]!r}; served are {allowed}")


def _name_of(value: Any) -> str:
    """Return the name in a serialised function or object."""
    if isinstance(value, dict):
        inner = value.get("config")
        return inner if isinstance(inner, str) else str(value.get("class_name"))
    return str(value)
