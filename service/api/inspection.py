"""The inspection routes: the gates and states of a model's cells while it reads a text."""

import asyncio
import json
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from service.api.fields import Id, Name
from service.api.http_request import BINARY, raw_content
from service.api.inspection_reply import (
    SAFETENSORS,
    Encoding,
    InspectedText,
    InspectionFormat,
    check_encoding,
    json_reply,
    safetensors_reply,
)
from service.api.inspection_start import (
    InspectedTextBody,
    charged_reading,
    placed_tokens,
    steered_start,
    text_of,
    text_start,
)
from service.api.score import ScoredToken
from service.api.sse import Responses
from service.api.state import get_state
from service.api.statistics_reply import layer_reply
from service.api.steer_fields import SteeredReply, SteerEntry
from service.api.text_body import no_token
from service.errors import Validation
from service.inspection.statistics import TextStatistics
from service.models.steering import MAX_STEERED_CELLS

router = APIRouter(tags=["inspection"])

MAX_SELECTED_LAYERS, MAX_SELECTED_CELLS, MAX_SIGNALS = 64, 16_384, 16


class InspectBody(InspectedTextBody):
    """The body of POST /inspect."""

    model: Name | None = None
    session_id: Id | None = None
    layers: Annotated[list[int], Field(max_length=MAX_SELECTED_LAYERS)] | None = None
    cells: Annotated[list[int], Field(max_length=MAX_SELECTED_CELLS)] | None = None
    signals: Annotated[list[Name], Field(max_length=MAX_SIGNALS)] | None = None
    top_n_tokens: Annotated[int, Field(ge=0, le=20)] = 0
    steer: Annotated[list[SteerEntry], Field(max_length=MAX_STEERED_CELLS)] | None = None
    encoding: Annotated[Encoding, Field(strict=False)] | None = None
    format: Annotated[InspectionFormat, Field(strict=False)] | None = None


class InspectedToken(ScoredToken):
    """A token as /score has it, its place in the text, and what was most likely there."""

    start: int
    stop: int
    top_tokens: list[ScoredToken] | None = None


class PackedValues(BaseModel):
    """An array, little-endian, in the order of its shape; bytes stand for `range`."""

    encoding: Encoding
    shape: list[int]
    range: list[float] | None = None
    base64: str


class InspectedLayer(BaseModel):
    """The cells of one recurrent layer; each signal is by token, then by cell."""

    layer: int
    cell: str
    units: int
    activation: str
    recurrent_activation: str
    use_bias: bool
    reset_after: bool | None = None  # of a GRU
    cells: list[int]
    before: dict[str, list[float]]  # the states before the first token
    signals: dict[str, list[list[float]] | PackedValues]


class InspectReply(BaseModel):
    """The trace of a text."""

    model: str
    digest: str
    precision: str
    characters: int
    token_count: int
    tokens: list[InspectedToken]
    layers: list[InspectedLayer]
    steer: SteeredReply | None = None


class StatisticsBody(InspectedTextBody):
    """The body of POST /inspect/statistics."""

    model: Name | None = None
    layers: Annotated[list[int], Field(max_length=MAX_SELECTED_LAYERS)] | None = None
    cells: Annotated[list[int], Field(max_length=MAX_SELECTED_CELLS)] | None = None
    low: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    high: Annotated[float, Field(ge=0.0, le=1.0)] = 0.9


class GateReply(BaseModel):
    """A gate's mean, and the share of tokens at which it is below `low` or above `high`."""

    mean: float
    below: float
    above: float


class FactReply(BaseModel):
    """What a token does to a cell, in the mean over its `count` places."""

    id: int
    text: str
    value: float
    count: int


class CellReply(BaseModel):
    """The statistics of one cell's c, or of its h where it has no c."""

    cell: int
    mean: float | None
    deviation: float | None
    skewness: float | None  # the mean cube, in deviations; null of a cell that does not deviate
    kurtosis: float | None  # the mean fourth power; 3 of a normal distribution
    least: float | None
    greatest: float | None
    histogram: list[int]  # of tanh c, or of h, in 64 equal parts from -1 to 1
    gates: dict[str, GateReply]
    mean_log: float | None  # of the gate that keeps
    retention: dict[str, float]  # what is left after so many tokens, in the mean
    half_life: float | None  # null: more than half is left at the last of `retention`
    cleared_by: list[FactReply]
    written_by: list[FactReply]
    raised_by: list[FactReply]  # the mean value after the token, above the cell's
    lowered_by: list[FactReply]
    sentence: str


class LayerReply(BaseModel):
    """The statistics of one recurrent layer."""

    layer: int
    cell: str
    units: int
    keeping_gate: str | None
    cells: list[CellReply]


class StatisticsReply(BaseModel):
    """The statistics of cells over a text."""

    model: str
    digest: str
    precision: str
    token_count: int
    low: float
    high: float
    layers: list[LayerReply]


_STATISTICS: Responses = {200: {"model": StatisticsReply}}
_INSPECT: Responses = {
    200: {
        "model": InspectReply,
        "content": raw_content(BINARY),
        "description": "The trace of the text; a safetensors file where that is asked for.",
    }
}


@router.post("/inspect", response_class=Response, responses=_INSPECT)
async def inspect(request: Request, body: InspectBody) -> Response:
    """Read a text and show the gates and states of cells; a session is read on, not changed."""
    state, format_ = get_state(request), _format(request, body)
    encoding = _encoding(body, format_)
    model, start, steer = await steered_start(request, body.model, body.session_id, body.steer)
    inspector, owner = model.runtime.inspector, state.owner_of(request)
    selection = inspector.select(body.layers, body.cells, body.signals)
    check_encoding(selection.layers, encoding)
    with inspector.thread.admit(owner):
        text = await text_of(request, body)
        found = await asyncio.to_thread(placed_tokens, model, text)
        inspector.check(selection, len(found), are_numbers=encoding is Encoding.NUMBERS)
        tokens = [token for token, _, _ in found]
        async with charged_reading(request, len(found)) as cancelled:
            inspection = await inspector.inspect(
                tokens, selection, start, owner, cancelled, body.top_n_tokens
            )
        if inspection is None:
            return Response(status_code=204)  # to nobody: the client has gone
        about = InspectedText(
            str(model.ref),
            model.manifest.digest,
            model.precision,
            text,
            [(first, last) for _, first, last in found],
            model.runtime.encoder.texts,
            steer,
        )
        encode = json_reply if format_ is InspectionFormat.JSON else safetensors_reply
        content = await inspector.thread.run(owner, partial(encode, inspection, about, encoding))
    kind = "application/json" if format_ is InspectionFormat.JSON else SAFETENSORS
    return Response(content, media_type=kind)


@router.post("/inspect/statistics", response_class=Response, responses=_STATISTICS)
async def inspect_statistics(request: Request, body: StatisticsBody) -> Response:
    """Read a text from the zero state and sum up what each cell does: memory, gates, facts."""
    state = get_state(request)
    model, start = await text_start(request, body.model, None)
    inspector, owner = model.runtime.inspector, state.owner_of(request)
    selection = inspector.select_for_statistics(body.layers, body.cells)
    sums = TextStatistics(selection, len(model.tokenizer), body.low, body.high)
    with inspector.thread.admit(owner):
        tokens = await asyncio.to_thread(model.tokenizer.encode, await text_of(request, body))
        if not tokens:
            raise no_token("`inputs`")
        async with charged_reading(request, len(tokens)) as cancelled:
            await inspector.sum_up(tokens, selection, start, owner, cancelled, sums)
            if cancelled.is_set():
                return Response(status_code=204)  # to nobody: the client has gone
        texts = model.runtime.encoder.texts

        def encode() -> str:
            found = zip(selection.layers, sums.statistics(), strict=True)
            return ",".join(layer_reply(layer, statistics, texts) for layer, statistics in found)

        layers = await inspector.thread.run(owner, encode)
    head = {
        "model": str(model.ref),
        "digest": model.manifest.digest,
        "precision": str(model.precision),
        "token_count": len(tokens),
        "low": body.low,
        "high": body.high,
    }
    content = f'{json.dumps(head, separators=(",", ":"))[:-1]},"layers":[{layers}]}}'
    return Response(content, media_type="application/json")


def _format(request: Request, body: InspectBody) -> InspectionFormat:
    """Return what the reply is: as the body says, or else as Accept does."""
    if body.format is not None:
        return body.format
    accepted = request.headers.get("accept", "").partition(",")[0].partition(";")[0].strip()
    is_binary = accepted.lower() == SAFETENSORS
    return InspectionFormat.SAFETENSORS if is_binary else InspectionFormat.JSON


def _encoding(body: InspectBody, format_: InspectionFormat) -> Encoding:
    """Return how values are written. Raises Validation for numbers in a safetensors file."""
    if format_ is InspectionFormat.JSON:
        return body.encoding or Encoding.NUMBERS
    if body.encoding is Encoding.NUMBERS:
        raise Validation(
            "`encoding` is numbers, and a safetensors file has arrays: use float32, float16 or "
            "uint8, or leave it out",
            "encoding",
        )
    return body.encoding or Encoding.FLOAT32
