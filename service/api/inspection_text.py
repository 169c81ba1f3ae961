"""POST /inspect/text: the trace of a text of any length, streamed as records while it arrives."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import ExitStack, aclosing
from functools import partial
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from service.api.http_request import (
    BINARY,
    TEXT,
    DisconnectWatch,
    check_media_type,
    raw_body,
    raw_content,
)
from service.api.inspection_reply import SAFETENSORS, Encoding, check_encoding, packed
from service.api.inspection_start import corpus_card, steered_start
from service.api.record_stream import RecordStream
from service.api.sse import Responses
from service.api.state import ServedModel, get_state
from service.api.steer_fields import entries_of
from service.api.text_body import READ_AHEAD_BYTES, corpus_texts, most_tokens, no_token, texts_ahead
from service.errors import Validation
from service.inspection.inspector import TextStart
from service.inspection.selection import SelectedLayer, Selection
from service.inspection.signals import bounds
from service.inspection.text_cutter import PlacedToken, TextCutter
from service.inspection.tracer import Piece, TextTracer
from service.training.corpus_store import CorpusCard

router = APIRouter(tags=["inspection"])

_NUMPY_NAMES = {Encoding.FLOAT32: "<f4", Encoding.FLOAT16: "<f2", Encoding.UINT8: "u1"}
_RECORDS: Responses = {
    200: {
        "content": raw_content(BINARY),
        "description": "A line of JSON that describes the records, and a record for each token.",
    }
}


class TraceQuery(BaseModel):
    """The query of POST /inspect/text."""

    model: Annotated[str | None, Field(max_length=80)] = None
    session_id: Annotated[str | None, Field(max_length=80)] = None
    corpus_id: Annotated[str | None, Field(max_length=80)] = None
    layers: Annotated[str | None, Field(max_length=1_000)] = None
    cells: Annotated[str | None, Field(max_length=100_000)] = None
    signals: Annotated[str | None, Field(max_length=1_000)] = None
    encoding: Encoding = Encoding.FLOAT16
    steer: Annotated[str | None, Field(max_length=20_000)] = None


@router.post(
    "/inspect/text",
    response_class=Response,
    responses=_RECORDS,
    openapi_extra=raw_body(TEXT),
)
async def inspect_text(request: Request, query: Annotated[TraceQuery, Query()]) -> Response:
    """Show gates and states while the text arrives; `cells`, `layers`, `signals` have commas.

    `steer` is a list in JSON.

    A client that sends more than `READ_AHEAD_BYTES` has to read while it sends. With `corpus_id`
    the text is a stored one.
    """
    encoding, corpus = query.encoding, None
    if query.corpus_id is None:
        check_media_type(request, TEXT, BINARY, expected=f"the text is the body itself, as {TEXT}")
    else:
        corpus = await corpus_card(request, query.corpus_id)
    if encoding is Encoding.NUMBERS:
        raise Validation(
            "records are arrays: set `encoding` to float32, float16 or uint8", "encoding"
        )
    state = get_state(request)
    entries = None if query.steer is None else entries_of(query.steer)
    served, start, steered = await steered_start(request, query.model, query.session_id, entries)
    inspector, owner = served.runtime.inspector, state.owner_of(request)
    names = None if query.signals is None else query.signals.split(",")
    layers, cells = _numbers("layers", query.layers), _numbers("cells", query.cells)
    selection = inspector.select(layers, cells, names)
    check_encoding(selection.layers, encoding)
    places = ExitStack()
    places.enter_context(inspector.thread.admit(owner))
    records = _Records(request, served, start, selection, encoding, corpus, steered)
    pieces = records.read(owner)
    try:
        head = await anext(pieces)
    except BaseException:
        await pieces.aclose()
        places.close()
        raise
    return RecordStream(
        head,
        pieces,
        media_type=SAFETENSORS,
        on_end=places.close,
        send_limit_s=state.limits.ping_interval_s,
    )


class _Records:
    """The records of one text."""

    def __init__(
        self,
        request: Request,
        served: ServedModel,
        start: TextStart,
        selection: Selection,
        encoding: Encoding,
        corpus: CorpusCard | None,
        steered: Mapping[str, Any],
    ) -> None:
        self._request, self._served, self._start = request, served, start
        self._corpus, self._steered = corpus, steered
        self._selection, self._encoding = selection, encoding
        fields: list[Any] = [("id", "<i4"), ("start", "<i8"), ("stop", "<i8"), ("logprob", "<f8")]
        for layer in selection.layers:
            fields += [
                (f"layers.{layer.index}.{name}", _NUMPY_NAMES[encoding], (len(layer.cells),))
                for name in layer.signals
            ]
        self._type = np.dtype(fields)

    async def read(self, owner: str) -> AsyncGenerator[bytes, None]:
        """Yield the records of each piece; the first has the line before them."""
        request, inspector = self._request, self._served.runtime.inspector
        state, corpus = get_state(request), self._corpus
        most = most_tokens(request) if corpus is None else corpus.bytes
        meter = await state.metering.reserve(request, most)
        gone, watch = asyncio.Event(), ExitStack()
        if corpus is None:
            parts = texts_ahead(request, READ_AHEAD_BYTES, gone.set)
        else:
            parts = corpus_texts(state.training.corpora, owner, corpus.id)
            watch.enter_context(DisconnectWatch(request.receive, gone.set))
        cutter, tracer, n_tokens = TextCutter(self._served.tokenizer), None, 0
        size = inspector.piece_tokens(self._selection)
        try:
            async with aclosing(parts) as texts:
                async for text, is_last in texts:
                    for placed in cutter.pieces(text, is_last=is_last):
                        for first in range(0, len(placed), size):
                            part, head = placed[first : first + size], b""
                            if tracer is None:
                                tracer = await inspector.tracer(self._selection, self._start, owner)
                                head = self._head(tracer)
                            if gone.is_set():
                                raise ClientDisconnect
                            content = await inspector.thread.run(
                                owner, partial(self._content, tracer, part)
                            )
                            n_tokens += len(part)
                            yield head + content
        finally:
            watch.close()
            meter.begin(n_tokens)
        if tracer is None:
            raise no_token("the text")

    def _head(self, tracer: TextTracer) -> bytes:
        """Describe the records: NumPy reads `dtype` as it is."""
        layers = []
        for layer, before in zip(self._selection.layers, tracer.states(), strict=True):
            about: dict[str, Any] = {
                "layer": layer.index,
                "cell": layer.spec.cell,
                "units": layer.spec.units,
                "cells": layer.cells.tolist(),
                "before": {name: array.tolist() for name, array in before.items()},
            }
            if self._encoding is Encoding.UINT8:
                about["ranges"] = {name: bounds(layer.spec, name) for name in layer.signals}
            layers.append(about)
        served = self._served
        head = {
            "model": str(served.ref),
            "digest": served.manifest.digest,
            "precision": str(served.precision),
            "encoding": self._encoding,
            "record_bytes": self._type.itemsize,
            "dtype": self._type.descr,
            "layers": layers,
            **self._steered,
        }
        return json.dumps(head, separators=(",", ":")).encode("ascii") + b"\n"

    def _content(self, tracer: TextTracer, part: Sequence[PlacedToken]) -> bytes:
        piece = tracer.read([token for token, _, _ in part])
        records = np.empty(len(part), self._type)
        records["id"] = piece.tokens
        records["start"], records["stop"] = zip(*((i, j) for _, i, j in part), strict=True)
        records["logprob"] = piece.logprobs
        self._fill(records, piece)
        return records.tobytes()

    def _fill(self, records: npt.NDArray[Any], piece: Piece) -> None:
        layer: SelectedLayer
        for layer, signals in zip(self._selection.layers, piece.layers, strict=True):
            for name, values in signals.items():
                content = packed(layer, name, values, self._encoding)
                records[f"layers.{layer.index}.{name}"] = content


def _numbers(name: str, text: str | None) -> list[int] | None:
    """Read numbers with commas between them. Raises Validation."""
    if text is None:
        return None
    parts = text.split(",") if text else []
    for part in parts:
        if not (part.isascii() and part.isdecimal() and len(part) < 10):
            raise Validation(
                f"`{name}` has {part[:20]!r}: write whole numbers with commas, such as 445,363",
                name,
            )
    return [int(part) for part in parts]
