"""GET /v1/models: the names that `model` may have."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from service.api.state import AppState, ServedModel, get_state
from service.errors import about
from service.models.registry import DEFAULT_ALIAS

router = APIRouter(prefix="/v1/models", tags=["openai"])


class ModelReply(BaseModel):
    """A model or an alias; `root` is its version."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["carousel"] = "carousel"
    root: str
    parent: None = None
    max_model_len: None = None  # a recurrent state has no maximum length
    digest: str
    vocabulary_size: int


class ModelWithVocabularyReply(ModelReply):
    """A model with the text of each token id, as `logit_bias` and prompts of ids need it."""

    vocabulary: list[str]


class ModelsReply(BaseModel):
    """All loaded models, the default one first, and the aliases."""

    object: Literal["list"] = "list"
    data: list[ModelReply]


@router.get("")
async def every(request: Request) -> ModelsReply:
    """List the loaded models and their aliases."""
    state = get_state(request)
    return ModelsReply(
        data=[ModelReply(**_row(name, model)) for name, model in _names(state)],
    )


@router.get("/{name}")
async def one(request: Request, name: str) -> ModelWithVocabularyReply:
    """Return a model with its vocabulary."""
    with about("model"):
        model = get_state(request).get(name)
    return ModelWithVocabularyReply(**_row(name, model), vocabulary=list(model.tokenizer.tokens))


def _names(state: AppState) -> Iterator[tuple[str, ServedModel]]:
    aliases = state.registry.aliases
    loaded = {model.ref: model for model in state.registry.loaded()}
    default = aliases.get(DEFAULT_ALIAS)
    for ref in sorted(loaded, key=lambda ref: (ref != default, ref)):
        yield str(ref), loaded[ref]
    for alias, ref in sorted(aliases.items()):
        if ref in loaded:
            yield alias, loaded[ref]


def _row(name: str, model: ServedModel) -> dict[str, Any]:
    manifest = model.manifest
    return {
        "id": name,
        "created": int(datetime.fromisoformat(manifest.created_at).timestamp()),
        "root": str(model.ref),
        "digest": manifest.digest,
        "vocabulary_size": len(model.tokenizer),
    }
