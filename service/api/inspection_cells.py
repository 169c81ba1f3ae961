"""POST /inspect/cells: which cells follow a property of a text, with what speaks against it."""

import asyncio
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from service.api.fields import Name
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
from service.inspection.cell_search import (
    FREE_MARGIN,
    LEAST_BITS,
    LEAST_RANK,
    LEAST_SHARE,
    N_ROTATIONS,
    STRONG_R,
    CellUse,
    Find,
    FoundCell,
    Verdict,
)
from service.inspection.cell_searcher import SearchedText
from service.inspection.correlation import HeldOutSplit
from service.inspection.find_sentence import sentence
from service.inspection.labels import Label

router = APIRouter(tags=["inspection"])

MAX_PROPERTIES = 32


class CellsBody(InspectedTextBody):
    """The body of POST /inspect/cells."""

    model: Name | None = None
    properties: Annotated[list[PropertyField], Field(min_length=1, max_length=MAX_PROPERTIES)]
    held_out: Annotated[float, Field(ge=0.1, le=0.9)] = 0.3
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    ablation: bool = True


class FoundCellReply(BaseModel):
    """A cell, its r on the part chosen on and on the part held out, and what it tells there."""

    layer: int
    cell: int
    r_chosen_on: float
    r: float
    beyond: float  # r of what is left after the means for the current token
    auc: float | None = None
    threshold: float | None = None
    precision: float | None = None
    recall: float | None = None


class FewCellsReply(BaseModel):
    """The cells that say most together: auc of a binary property, r2 of a number."""

    cells: list[tuple[int, int]]  # layer and cell
    auc: float | None = None
    r2: float | None = None
    f1: float | None = None


class BaselinesReply(BaseModel):
    """What |r| is there without a trained cell."""

    character: float  # the current token alone
    untrained: float  # the best cell of one untrained network
    null_95: float  # of the greatest of all cells by chance
    shuffles: int


class CellUseReply(BaseModel):
    """What holding a cell at its mean costs a token that changes the property."""

    layer: int
    cell: int
    id: int
    text: str
    bits: float
    count: int
    rank: int
    of: int


class FindReply(BaseModel):
    """What was found for one property."""

    property: str
    kind: str
    share: float
    hindsight: bool  # whether the property may depend on what comes later
    verdict: Verdict
    sentence: str
    cells: list[FoundCellReply]
    few: list[FewCellsReply]
    baselines: BaselinesReply
    ablation: list[CellUseReply]


class Thresholds(BaseModel):
    """What a verdict depends on."""

    strong_r: float = STRONG_R
    free_margin: float = FREE_MARGIN
    least_share: float = LEAST_SHARE
    least_bits: float = LEAST_BITS
    least_rank: int = LEAST_RANK


class CellsReply(BaseModel):
    """The finds, by property."""

    model: str
    digest: str
    precision: str
    chosen_on: int  # tokens
    held_out: int
    thresholds: Thresholds
    finds: list[FindReply]


@router.post("/inspect/cells", response_model=CellsReply, response_model_exclude_none=True)
async def find_cells(request: Request, body: CellsBody) -> CellsReply | Response:
    """Search for the cells that follow properties, and judge them on text held out."""
    state = get_state(request)
    model, start = await text_start(request, body.model, None)
    inspector, owner = model.runtime.inspector, state.owner_of(request)
    searcher, program = inspector.searcher, inspector.traced_program()
    with inspector.thread.admit(owner), inspector.thread.admit_search():
        inputs, before = await text_of(request, body), tuple(start.pending)
        text, labels = await asyncio.to_thread(_read, model, body, inputs, before)
        searcher.check(text, labels)
        async with charged_reading(request, len(text.tokens)) as cancelled:
            finds = await searcher.search(program, text, labels, owner, cancelled)
        if finds is None:
            return Response(status_code=204)  # to nobody: the client has gone
    split = HeldOutSplit.of(len(text.tokens), body.held_out)
    return CellsReply(
        model=str(model.ref),
        digest=model.manifest.digest,
        precision=str(model.precision),
        chosen_on=split.chosen_on.stop - split.chosen_on.start,
        held_out=split.held_out.stop - split.held_out.start,
        thresholds=Thresholds(),
        finds=[_find(model, find) for find in finds],
    )


def _read(
    model: ServedModel, body: CellsBody, inputs: str, before: tuple[int, ...]
) -> tuple[SearchedText, list[Label]]:
    """Return the tokens of a text, and its properties by character. Raises Validation."""
    found = placed_tokens(model, inputs)
    labels = [label_of(field, inputs) for field in body.properties]
    if len({label.name for label in labels}) < len(labels):
        raise Validation("`properties` has a name twice", "properties")
    text = SearchedText(
        np.array([token for token, _, _ in found], np.int64),
        np.array([stop for _, _, stop in found], np.int64),
        before,
        body.held_out,
        body.seed,
        body.ablation,
    )
    return text, labels


def _find(model: ServedModel, find: Find) -> FindReply:
    is_binary = find.label.kind == "binary"
    return FindReply(
        property=find.label.name,
        kind=find.label.kind,
        share=find.share,
        hindsight=find.label.has_hindsight,
        verdict=find.verdict,
        sentence=sentence(find, lambda use: model.tokenizer.text_of(use.token)),
        cells=[_cell(cell) for cell in find.cells],
        few=[
            FewCellsReply(
                cells=[*few.places],
                auc=few.score if is_binary else None,
                r2=None if is_binary else few.score,
                f1=few.f1,
            )
            for few in find.few
        ],
        baselines=BaselinesReply(
            character=find.by_character,
            untrained=find.untrained,
            null_95=find.null_95,
            shuffles=N_ROTATIONS,
        ),
        ablation=[_use(model, use) for use in find.uses],
    )


def _cell(cell: FoundCell) -> FoundCellReply:
    return FoundCellReply(
        layer=cell.place[0],
        cell=cell.place[1],
        r_chosen_on=cell.r_chosen_on,
        r=cell.r,
        beyond=cell.beyond,
        auc=cell.auc,
        threshold=cell.threshold,
        precision=cell.precision,
        recall=cell.recall,
    )


def _use(model: ServedModel, use: CellUse) -> CellUseReply:
    return CellUseReply(
        layer=use.place[0],
        cell=use.place[1],
        id=use.token,
        text=model.tokenizer.text_of(use.token),
        bits=use.bits,
        count=use.count,
        rank=use.rank,
        of=use.of,
    )
