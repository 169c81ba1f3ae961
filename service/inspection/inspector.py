"""The inspections of one loaded model."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from service.errors import Validation
from service.inspection.ablator import Ablator
from service.inspection.cell_searcher import CellSearcher
from service.inspection.inspection_thread import InspectionThread
from service.inspection.selection import Selection, select
from service.inspection.statistics import TextStatistics, needed_for
from service.inspection.tracer import Piece, TextTracer
from service.models.spec import FloatArray, ModelSpec
from service.models.steering import Steering
from service.models.step import State, StepProgram, TracedProgram


@dataclass(frozen=True, slots=True)
class Inspection:
    """The trace of a text, and the states of the selected layers' cells before it."""

    selection: Selection
    before: tuple[Mapping[str, FloatArray], ...]  # by selected layer and name, each (cells,)
    piece: Piece


@dataclass(frozen=True, slots=True)
class TextStart:
    """Where a text begins: after a state, and the tokens that this state has not read.

    A steered text has a program of which the rows can be steered.
    """

    state: State | None = None
    pending: Sequence[int] = ()
    program: TracedProgram | None = None  # None: the model's own
    steer: Steering = ()


class Inspector:
    """Reads texts with a model's own program, in the thread that all inspections share."""

    def __init__(
        self, program: StepProgram, spec: ModelSpec, thread: InspectionThread, ablator: Ablator
    ) -> None:
        self._program, self._spec, self.thread, self.ablator = program, spec, thread, ablator

    @property
    def searcher(self) -> CellSearcher:
        """Searches among the model's cells; made anew, since it refers to this inspector."""
        return CellSearcher(self._spec, self.thread, self.ablator, self.pieces)

    def select(
        self,
        layers: Sequence[int] | None,
        cells: Sequence[int] | None,
        signals: Sequence[str] | None,
    ) -> Selection:
        """Return what a request names of the model. Raises Validation."""
        chosen = select(self._spec, layers, cells, signals)
        self.traced_program()
        return chosen

    def traced_program(self) -> TracedProgram:
        """Return the model's program. Raises Validation if it shows no gates and states."""
        if self._spec.window is not None:
            select(self._spec)  # which refuses it
        if not isinstance(self._program, TracedProgram):
            raise Validation(
                "the model's steps are computed on a GPU, which shows no gates: send the text to a "
                "server that computes them on its CPU"
            )
        return self._program

    def select_for_statistics(
        self, layers: Sequence[int] | None, cells: Sequence[int] | None
    ) -> Selection:
        """Return the same with the signals that statistics are made of. Raises Validation."""
        chosen = self.select(layers, cells, None).layers
        return Selection(tuple(replace(one, signals=needed_for(one)) for one in chosen))

    def check(self, selection: Selection, n_tokens: int, *, are_numbers: bool) -> None:
        """Raise Validation if the values of a whole reply are more than its limit."""
        config = self.thread.config
        n_values = n_tokens * selection.values_per_token
        limit = config.max_numbers if are_numbers else config.max_values
        if n_values <= limit:
            return
        way_out = "ask for fewer `cells` or `signals`, or for a shorter text"
        if are_numbers and n_values <= config.max_values:
            way_out = 'set `encoding` to "float32" or `format` to "safetensors", or ' + way_out
        what = "numbers" if are_numbers else "values"
        raise Validation(
            f"{n_tokens} tokens with {selection.values_per_token} {what} each are {n_values}; "
            f"a reply has at most {limit}: {way_out}"
        )

    def piece_tokens(self, selection: Selection) -> int:
        """How many tokens are read before the next owner's turn."""
        config = self.thread.config
        return max(1, min(config.piece_tokens, config.piece_values // selection.values_per_token))

    async def pieces(
        self,
        tokens: Sequence[int],
        tracer: TextTracer,
        owner: str,
        cancelled: asyncio.Event,
    ) -> AsyncIterator[Piece]:
        """Yield the trace of the next tokens, a turn of the owner's for each piece.

        Ends early once `cancelled`. Raises GenerationFailed.
        """
        size = self.piece_tokens(tracer.selection)
        for first in range(0, len(tokens), size):
            if cancelled.is_set():
                return
            part = tokens[first : first + size]
            yield await self.thread.run(owner, partial(tracer.read, part))

    async def tracer(
        self, selection: Selection, start: TextStart, owner: str, n_top_tokens: int = 0
    ) -> TextTracer:
        """Return a tracer that has read everything before the text."""
        program = start.program or self.traced_program()

        def begin() -> TextTracer:
            tracer = TextTracer(program, selection, start.state, n_top_tokens, start.steer)
            tracer.feed(start.pending)
            return tracer

        return await self.thread.run(owner, begin)

    async def sum_up(
        self,
        tokens: Sequence[int],
        selection: Selection,
        start: TextStart,
        owner: str,
        cancelled: asyncio.Event,
        sums: TextStatistics,
    ) -> None:
        """Add the trace of a text's tokens to `sums`, piece by piece; ends early once `cancelled`.

        Raises GenerationFailed.
        """
        tracer = await self.tracer(selection, start, owner)
        async for piece in self.pieces(tokens, tracer, owner, cancelled):
            await self.thread.run(owner, partial(sums.add, piece))

    async def inspect(
        self,
        tokens: Sequence[int],
        selection: Selection,
        start: TextStart,
        owner: str,
        cancelled: asyncio.Event,
        n_top_tokens: int = 0,
    ) -> Inspection | None:
        """Return the trace of a text's tokens; None if it was `cancelled`.

        Raises GenerationFailed.
        """
        tracer = await self.tracer(selection, start, owner, n_top_tokens)
        before = tracer.states()
        pieces = [piece async for piece in self.pieces(tokens, tracer, owner, cancelled)]
        if cancelled.is_set() or not pieces:
            return None
        whole = await self.thread.run(owner, partial(Piece.joined, pieces))
        return Inspection(selection, before, whole)
