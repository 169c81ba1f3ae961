"""What a file does not say: taken from the request's `assume`, else what is usual, and noted."""

from collections.abc import Mapping
from typing import Any

from service.errors import BadCheckpoint, Validation
from service.models.activation import Activation
from service.models.tokenizer import UnknownPolicy

_KERAS_ACTIVATIONS = ("linear", "tanh", "sigmoid", "relu", "hard_sigmoid")
_ACTIVATIONS = (*Activation, "hard_sigmoid")
VALUES: Mapping[str, tuple[str, ...]] = {
    "recurrent_activation": _ACTIVATIONS,
    "activation": _ACTIVATIONS,
    "reset_after": ("true", "false"),
    "unknown_character": tuple(UnknownPolicy),
}
"""The keys of `assume` and what each may be."""


def check_assume(assume: Mapping[str, str]) -> None:
    """Raise Validation on a key or a value that has no meaning."""
    for key, value in assume.items():
        if key not in VALUES:
            raise Validation(f"assume.{key[:80]} is not known; assume knows {', '.join(VALUES)}")
        if value not in VALUES[key]:
            raise Validation(
                f"assume.{key} is {str(value)[:80]!r}; it may be {', '.join(VALUES[key])}"
            )


class Assumptions:
    """Settles one option after another and keeps a sentence for each that the file left open."""

    def __init__(self, assume: Mapping[str, str], keras_version: str | None) -> None:
        """Raises Validation on an `assume` that has no meaning."""
        check_assume(assume)
        self._assume = assume
        self._is_keras_3 = (keras_version or "").startswith("3")
        self.keras_version = keras_version
        self.sentences: list[str] = []

    @property
    def unknown_character(self) -> UnknownPolicy:
        """What becomes of a prompt's character that has no token."""
        return UnknownPolicy(self._assume.get("unknown_character", UnknownPolicy.ERROR))

    def note(self, sentence: str) -> None:
        """Keep a sentence that the manifest will show."""
        if sentence not in self.sentences:
            self.sentences.append(sentence)

    def activation(self, key: str, layer: str, stated: object, usual: str) -> Activation:
        """The activation under `key`: what the config states, or None where nothing does.

        Raises:
            BadCheckpoint: the activation is not served, or `assume` says something else.

        """
        name = self._settle(
            key, layer, None if stated is None else self._named(key, layer, stated), usual
        )
        return self._named(key, layer, name)

    def flag(self, key: str, layer: str, stated: object, *, usual: bool) -> bool:
        """As `activation`, for an option that is true or false."""
        words = {True: "true", False: "false"}
        if stated is not None and not isinstance(stated, bool):
            raise BadCheckpoint(
                f"layer {layer!r}: {key} is {str(stated)[:80]!r}, not true or false"
            )
        told = None if stated is None else words[stated]
        return self._settle(key, layer, told, words[usual]) == words[True]

    def _settle(self, key: str, layer: str, stated: str | None, usual: str) -> str:
        given = self._assume.get(key)
        if given is not None and key.endswith("activation"):
            given = self._named(key, layer, given)
        if stated is not None:
            if given not in (None, stated):
                raise BadCheckpoint(
                    f"layer {layer!r}: the file says that {key} is {stated}, "
                    f"but assume.{key} says {given}; leave it out"
                )
            return stated
        if given is not None:
            self.note(f"{key} is {given}, as `assume` says; the file does not tell")
            return given
        self.note(f"{key} is taken to be {usual}: the file does not tell; `assume` can change it")
        return usual

    def _named(self, key: str, layer: str, name: object) -> Activation:
        if isinstance(name, str):
            if name == "hard_sigmoid":
                if self.keras_version is None:
                    raise Validation(
                        f"assume.{key} is 'hard_sigmoid', but the file does not tell which Keras "
                        "wrote it; say hard_sigmoid_02 for Keras 2 or hard_sigmoid_6 for Keras 3"
                    )
                return Activation.HARD_SIGMOID_6 if self._is_keras_3 else Activation.HARD_SIGMOID_02
            if name in tuple(Activation):
                return Activation(name)
        allowed = ", ".join(_KERAS_ACTIVATIONS)
        shown = name if isinstance(name, str) else _name_of(name)
        raise BadCheckpoint(f"layer {layer!r}: {key} is {shown[:80]!r}; served are {allowed}")


def _name_of(value: Any) -> str:
    """How a serialised function or object calls itself."""
    if isinstance(value, dict):
        inner = value.get("config")
        return inner if isinstance(inner, str) else str(value.get("class_name"))
    return str(value)
