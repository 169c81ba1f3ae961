"""What the model routes say of a model: its tokenizer, its special tokens, and its state."""

from typing import Any

from pydantic import BaseModel

from service.api.state import ServedModel
from service.models.bundle import Manifest
from service.models.spec import ModelSpec
from service.models.tokenizers.characters import CharacterTokenizer
from service.models.tokenizers.tokenizer import Tokenizer


class SpecialToken(BaseModel):
    """A token with a role, and its name in the vocabulary; its text is empty."""

    id: int
    token: str


SpecialTokensByRole = dict[str, list[SpecialToken]]  # roles: pad, unknown, begin, end


def described(model: ServedModel) -> dict[str, Any]:
    """Return the members that describe a loaded model."""
    return _of_manifest(model.manifest, model.spec) | {
        "special_tokens": _special_tokens(model.tokenizer)
    }


def described_if_stored(manifest: Manifest | None, model: ServedModel | None) -> dict[str, Any]:
    """Return the same members of a stored version; null where it is damaged or not loaded."""
    if model is not None:
        return described(model)
    unknown = dict.fromkeys(("vocabulary_size", "tokenizer", "state", "special_tokens"))
    if manifest is None:
        return unknown
    return unknown | _of_manifest(manifest, ModelSpec.from_json(manifest.architecture))


def _of_manifest(manifest: Manifest, spec: ModelSpec) -> dict[str, Any]:
    return {
        "vocabulary_size": spec.vocabulary_size,
        "tokenizer": manifest.tokenizer.get("kind", CharacterTokenizer.kind),
        "state": spec.state_json,
    }


def _special_tokens(tokenizer: Tokenizer) -> dict[str, list[dict[str, Any]]]:
    special = tokenizer.special
    single = {"pad": special.pad, "unknown": special.unknown, "begin": special.begin}
    roles = {role: [i] for role, i in single.items() if i is not None}
    if special.end:
        roles["end"] = list(special.end)
    return {
        role: [{"id": i, "token": tokenizer.tokens[i]} for i in ids] for role, ids in roles.items()
    }
