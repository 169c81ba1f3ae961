# Generated from ../_async: change that, and run `make client-sync`.
"""What the cells of a model do while it reads a text."""

from collections.abc import Sequence
from typing import Literal, Unpack

from carousel_client._sync.token_stream import TokenStream
from carousel_client._sync.transport import Transport
from carousel_client.inspection import Ablation, CellFinds, Influence, InspectionStatistics
from carousel_client.parameters import GivenProperty, TraceStreamOptions
from carousel_client.records import TracedToken, TraceRecords
from carousel_client.request import Request, streamed_trace, with_json
from carousel_client.responses import Json


class InspectionAPI:
    """Find cells, hold them, sum them up, and stream what they do in a long text."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def cells(
        self,
        text: str,
        properties: Sequence[str | GivenProperty],
        *,
        model: str | None = None,
        held_out: float | None = None,
        seed: int | None = None,
        ablation: bool = True,
        timeout_s: float | None = None,
    ) -> CellFinds:
        """Find the cells that follow properties of a text of at least 5,000 tokens.

        A search may take minutes, and a server does one at a time. Without `timeout_s` it may take
        600 s, or the client's time if that is longer.
        """
        body = {
            "inputs": text,
            "properties": list(properties),
            "model": model,
            "held_out": held_out,
            "seed": seed,
            "ablation": ablation,
        }
        request = with_json("POST", "/inspect/cells", body)
        timeout_s = timeout_s or self._transport.long_timeout_s
        return self._transport.execute(request, CellFinds.from_json, timeout_s)

    def ablate(
        self,
        text: str,
        cells: Sequence[Sequence[int]] | Literal["all"],
        *,
        model: str | None = None,
        layer: int = 0,
        hold: Literal["mean", "zero"] | float = "mean",
        where: str | GivenProperty | None = None,
        timeout_s: float | None = None,
    ) -> Ablation:
        """Return what a text costs the model while each set of cells is held at a value."""
        body = {
            "inputs": text,
            "cells": cells if isinstance(cells, str) else [list(one) for one in cells],
            "model": model,
            "layer": layer,
            "hold": hold,
            "where": where,
        }
        request = with_json("POST", "/inspect/ablate", body)
        return self._transport.execute(request, Ablation.from_json, timeout_s)

    def influence(
        self,
        text: str,
        *,
        model: str | None = None,
        session_id: str | None = None,
        of: int | None = None,
        back: int | None = None,
        timeout_s: float | None = None,
    ) -> Influence:
        """Return how much one prediction owes to each of the tokens before it.

        `of` is the place of the character that is predicted; without it, the one after the text.
        """
        body = {"inputs": text, "model": model, "session_id": session_id, "of": of, "back": back}
        request = with_json("POST", "/inspect/influence", body)
        return self._transport.execute(request, Influence.from_json, timeout_s)

    def statistics(
        self,
        text: str,
        *,
        model: str | None = None,
        layers: Sequence[int] | None = None,
        cells: Sequence[int] | None = None,
        timeout_s: float | None = None,
    ) -> InspectionStatistics:
        """Return what cells do in a long text: how long they remember, what clears and writes."""
        chosen = {"layers": layers, "cells": cells}
        lists = {name: list(values) for name, values in chosen.items() if values is not None}
        request = with_json(
            "POST", "/inspect/statistics", {"inputs": text, "model": model, **lists}
        )
        return self._transport.execute(request, InspectionStatistics.from_json, timeout_s)

    def stream(
        self,
        text: str,
        *,
        model: str | None = None,
        session_id: str | None = None,
        timeout_s: float | None = None,
        **options: Unpack[TraceStreamOptions],
    ) -> "TraceStream":
        """Stream gates and states, token by token; reading the first one sends the request.

        The text has at most 4 MiB in UTF-8. A connection that is lost after the first record raises
        StreamBroken.
        """
        request = streamed_trace(text, model, session_id, options)
        return TraceStream(self._transport, request, timeout_s)


class TraceStream(TokenStream[TracedToken]):
    """Iterate over the tokens of a trace, once. For one thread or task.

    It is closed by its last token, by a `with` block, or by `close`.
    """

    def __init__(self, transport: Transport, request: Request, timeout_s: float | None) -> None:
        self._records = TraceRecords(request, timeout_s or transport.timeout_s)
        super().__init__(transport, self._records)

    @property
    def head(self) -> Json:
        """What is the same for all tokens: model, cells, states before. Raises LookupError."""
        if self._records.head is None:
            raise LookupError("the first token has not been read")
        return self._records.head
