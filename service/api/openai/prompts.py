"""The four shapes of OpenAI's `prompt`, and what they come to."""

from collections.abc import Sequence
from typing import Any

from service.api.bodies import MAX_PROMPT_CHARACTERS
from service.api.token_ids import token_ids
from service.models.tokenizer import Tokenizer

MAX_PROMPTS = 256

_IDS: dict[str, Any] = {"type": "array", "items": {"type": "integer"}}
PROMPT_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        _IDS,
        {"type": "array", "items": _IDS},
        {"type": "null"},
    ]
}

Prompt = str | list[int]


def read_prompts(value: object) -> list[Prompt]:
    """One prompt or several, as texts or as token ids.

    By hand, because pydantic's union would tell of a million wrong items twice a million times.

    Raises:
        ValueError: it is none of the shapes, or over a limit.

    """
    prompts = _several(value)
    if len(prompts) > MAX_PROMPTS:
        raise ValueError(f"`prompt` has at most {MAX_PROMPTS} prompts. Given: {len(prompts)}")
    size = sum(len(prompt) for prompt in prompts)
    if size > MAX_PROMPT_CHARACTERS:
        raise ValueError(
            f"`prompt` has at most {MAX_PROMPT_CHARACTERS} characters or tokens in all. "
            f"Given: {size}"
        )
    return prompts


def _several(value: object) -> list[Prompt]:
    if value is None:
        return [""]
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        kinds = set(map(type, value))
        if kinds == {str}:
            return value
        if kinds == {int}:
            return [value]
        if kinds == {list} and all(set(map(type, one)) <= {int} for one in value):
            return value
    raise ValueError(
        "`prompt` is a text, a list of texts, a list of token ids, or a list of such lists; "
        "none of the lists is empty or mixed"
    )


def tokens_of(prompt: Prompt, tokenizer: Tokenizer) -> Sequence[int]:
    """A prompt's tokens. Raises UnknownCharacter, Validation."""
    if isinstance(prompt, str):
        return tokenizer.encode(prompt)
    return token_ids(prompt, len(tokenizer), "prompt")
