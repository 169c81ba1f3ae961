"""POST /inspect/ablate: what a text costs the model while cells are held at a value."""

import asyncio
import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from service.api.fields import Name, Number
from service.api.inspection_start import (
    InspectedTextBody,
    charged_reading,
    placed_tokens,
    text_of,
    text_start,
)
from service.api.property_fields import PropertyField, label_of
from service.api.state import ServedModel, get_state
from service.errors import Validation
from service.inspection.ablation import Ablation, PredictedText
from service.inspection.ablator import AblationOrder
from service.models.spec import FloatArray

router = APIRouter(tags=["inspection"])

MAX_SETS, MAX_SET_CELLS, MAX_TOKENS, COSTLIEST = 4_096, 1_024, 100, 5
CellSets = Annotated[
    list[Annotated[list[int], Field(min_length=1, max_length=MAX_SET_CELLS)]],
    Field(min_length=1, max_length=MAX_SETS),
]


class AblateBody(InspectedTextBody):
    """The body of POST /inspect/ablate."""

    model: Name | None = None
    layer: int = 0
    cells: CellSets | Literal["all"]
    hold: Literal["mean", "zero"] | Number = "mean"
    where: PropertyField | None = None


class AblatedSet(BaseModel):
    """What one set costs: bits per token more than without it, in all and by the property."""

    cells: list[int]
    values: list[float]  # that the cells were held at
    bits: float
    bits_where: float | None = None
    bits_elsewhere: float | None = None


class CostlySet(BaseModel):
    """A set that costs a token bits."""

    cells: list[int]
    bits: float


class AblatedToken(BaseModel):
    """A token of the text, its bits with nothing held, and the sets that cost it most."""

    id: int
    text: str
    count: int
    bits: float
    costliest: list[CostlySet]


class AblateReply(BaseModel):
    """The bits of a text with nothing held, what each set costs, and which tokens pay."""

    model: str
    digest: str
    precision: str
    layer: int
    token_count: int  # those that something predicts
    bits: float
    where_count: int | None = None
    bits_where: float | None = None
    sets: list[AblatedSet]
    tokens: list[AblatedToken]


@router.post("/inspect/ablate", response_model=AblateReply, response_model_exclude_none=True)
async def ablate(request: Request, body: AblateBody) -> AblateReply | Response:
    """Hold cells at a value while the model reads a text, and say which tokens cost more bits."""
    state = get_state(request)
    model, start = await text_start(request, body.model, None)
    inspector, owner = model.runtime.inspector, state.owner_of(request)
    order = inspector.ablator.order(body.layer, body.cells, body.hold)
    with inspector.thread.admit(owner):
        inputs = await text_of(request, body)
        text = await asyncio.to_thread(predicted_text, model, inputs, start.pending, body.where)
        inspector.ablator.check(order, text)
        async with charged_reading(request, len(text.tokens)) as cancelled:
            found = await inspector.ablator.ablate(order, text, owner, cancelled)
        if found is None:
            return Response(status_code=204)  # to nobody: the client has gone
        return await asyncio.to_thread(
            _reply, model, order, text, *found, has_where=body.where is not None
        )


def predicted_text(
    model: ServedModel, inputs: str, before: Sequence[int], where: PropertyField | None
) -> PredictedText:
    """Return the tokens of a text, and where a property holds before each. Raises Validation."""
    found = placed_tokens(model, inputs)
    tokens = np.array([token for token, _, _ in found], np.int64)
    holds = np.zeros(len(tokens), np.bool_)
    if where is not None:
        label = label_of(where, inputs)
        if label.kind != "binary":
            raise Validation(
                f"`where` is {label.name}, a number: give a property that holds or does not",
                "where",
            )
        stops = np.array([stop for _, _, stop in found], np.int64)
        holds[1:] = label.at(stops)[:-1] > 0  # the token that ends it is still within
    return PredictedText(tokens, tuple(before), holds)


def _reply(
    model: ServedModel,
    order: AblationOrder,
    text: PredictedText,
    found: Ablation,
    values: FloatArray,
    *,
    has_where: bool,
) -> AblateReply:
    sets = []
    for row, cells in enumerate(found.sets):
        sets.append(
            AblatedSet(
                cells=[*cells],
                values=values[list(cells)].tolist(),
                bits=float(found.more[row]),
                bits_where=_number(found.more_where[row]) if has_where else None,
                bits_elsewhere=_number(found.more_elsewhere[row]) if has_where else None,
            )
        )
    by_total = np.argsort(-(found.more_by_token.max(axis=0) * found.counts), kind="stable")
    tokens = []
    for column in by_total[:MAX_TOKENS].tolist():
        token, more = int(found.tokens[column]), found.more_by_token[:, column]
        rows = np.argsort(-more, kind="stable")[:COSTLIEST].tolist()
        costliest = [CostlySet(cells=[*found.sets[row]], bits=float(more[row])) for row in rows]
        tokens.append(
            AblatedToken(
                id=token,
                text=model.tokenizer.text_of(token),
                count=int(found.counts[column]),
                bits=float(found.token_bits[column]),
                costliest=costliest,
            )
        )
    return AblateReply(
        model=str(model.ref),
        digest=model.manifest.digest,
        precision=str(model.precision),
        layer=order.layer,
        token_count=text.n_predicted,
        bits=found.bits,
        where_count=found.n_where if has_where else None,
        bits_where=_number(found.bits_where) if has_where else None,
        sets=sets,
        tokens=tokens,
    )


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
