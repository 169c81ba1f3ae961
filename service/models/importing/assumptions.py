"""Options that a file does not state: from the request's `assume`, else the default value."""

from collections.abc import Callable, Mapping
from typing import Any

from service.errors import BadCheckpoint, Validation
from service.models.cell import Activation
from service.models.tokenizers.special_tokens import UnknownPolicy
from service.models.window import MAX_WINDOW, Padding

_KERAS_ACTIVATIONS = (
    *(each for each in Activation if not each.startswith("hard_sigmoid")),
    "hard_sigmoid",
)
_ACTIVATIONS = (*Activation, "hard_sigmoid")
_SYNONYMS = {"swish": "silu", "exp": "exponential"}


def _is_integer(least: int, most: int) -> Callable[[str], bool]:
    return lambda text: text.isascii() and text.isdigit() and least <= int(text[:10]) <= most


_MAX_TOKENS, _MAX_TEXT = 10**9 - 1, 1_000
_SPECIAL = ("unknown_token", "pad_token", "begin_token", "end_token")
TOKENIZER_NAMES = (
    *("characters", "keras_words", "text_vectorization", "split", "split_lower", "symbols"),
    *("textgenrnn", "textgenrnn_words"),
)
_IS_TOKEN = _is_integer(0, _MAX_TOKENS)
VALUES: Mapping[str, tuple[str, ...] | Callable[[str], bool]] = {
    "recurrent_activation": _ACTIVATIONS,
    "activation": _ACTIVATIONS,
    "reset_after": ("true", "false"),
    "state": ("carried", "window"),
    "window": _is_integer(1, MAX_WINDOW),
    "padding": tuple(Padding),
    "truncation_side": ("left", "right"),
    "pad": lambda text: text == "zero" or _IS_TOKEN(text),
    "scale": _is_integer(1, _MAX_TOKENS),
    "mask": ("true", "false"),
    "unknown_character": tuple(UnknownPolicy),
    "lower": ("true", "false"),
    "tokenizer": TOKENIZER_NAMES,
    **dict.fromkeys(_SPECIAL, lambda text: len(text) < _MAX_TEXT),
}
"""The keys of `assume`, and the values of each or a check of them."""
_ALLOWED = {
    "window": f"the number of tokens, 1 to {MAX_WINDOW}",
    "pad": "the id of a token, or zero",
    "scale": "the number by which ids are divided",
} | dict.fromkeys(_SPECIAL, "a token of the vocabulary")


def check_assume(assume: Mapping[str, str]) -> None:
    """Raise Validation on an unknown key or value."""
    for key, value in assume.items():
        if key not in VALUES:
            raise Validation(f"assume.{key[:80]} is not known; known are {', '.join(VALUES)}")
        allowed = VALUES[key]
        if not (value in allowed if isinstance(allowed, tuple) else allowed(str(value))):
            shown = ", ".join(allowed) if isinstance(allowed, tuple) else _ALLOWED[key]
            raise Validation(f"assume.{key} is {str(value)[:80]!r}; it may be {shown}")


class Assumptions:
    """Decides each option, and keeps a sentence about each one that the file does not state."""

    def __init__(self, assume: Mapping[str, str], keras_version: str | None) -> None:
        """Raises Validation as `check_assume`."""
        check_assume(assume)
        self._assume = assume
        self._is_keras_3 = (keras_version or "").startswith("3")
        self.keras_version = keras_version
        self.sentences: list[str] = []

    def given(self, key: str) -> str | None:
        """Return the value of a key of `assume`, if it is given."""
        return self._assume.get(key)

    @property
    def has_special_tokens(self) -> bool:
        """Whether a special token is given."""
        return any(key in self._assume for key in _SPECIAL)

    def unknown_policy(self, default: UnknownPolicy) -> UnknownPolicy:
        """The treatment of a prompt's text that has no token."""
        return UnknownPolicy(self._assume.get("unknown_character", default))

    @property
    def state(self) -> str | None:
        """The way in which tokens are read, if given: carried or window."""
        return self._assume.get("state")

    @property
    def window(self) -> int | None:
        """The number of tokens that are read for each prediction, if given."""
        return self._integer("window")

    @property
    def padding(self) -> Padding | None:
        """The side on which a short window is padded, if given."""
        return Padding(self._assume["padding"]) if "padding" in self._assume else None

    @property
    def pad(self) -> int | str | None:
        """The token that pads, "zero", or None if it is not given."""
        return "zero" if self._assume.get("pad") == "zero" else self._integer("pad")

    @property
    def scale(self) -> int | None:
        """The divisor of a scaled input, if given."""
        return self._integer("scale")

    @property
    def mask(self) -> bool | None:
        """Whether pads are skipped, if given."""
        return {"true": True, "false": False}.get(self._assume.get("mask", ""))

    def _integer(self, key: str) -> int | None:
        return int(self._assume[key]) if key in self._assume else None

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

    def activation_of_dense(self, layer: str, stated: object) -> Activation:
        """Return the activation that a layer states. Raises BadCheckpoint if it is not served."""
        return self._named("activation", layer, "linear" if stated is None else stated)

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
            name = _SYNONYMS.get(name, name)
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
