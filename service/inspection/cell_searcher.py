"""The searches of one loaded model: its cells over a text, an untrained twin, and ablations."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from service.errors import Validation
from service.inspection.ablation import PredictedText
from service.inspection.ablator import Ablator
from service.inspection.cell_search import (
    CellSearch,
    CellValues,
    Find,
    Place,
    changing_tokens,
    uses_of,
)
from service.inspection.correlation import HeldOutSplit, Sums, check_changes
from service.inspection.inspection_thread import InspectionThread
from service.inspection.labels import Label
from service.inspection.selection import Selection, select
from service.inspection.signals import all_signals
from service.inspection.tracer import Piece, TextTracer
from service.models.bundle import Precision
from service.models.initializers import initial_weights
from service.models.program import OnnxProgram
from service.models.spec import ModelSpec
from service.models.step import TracedProgram

HELD_TOKENS, N_RANDOM = 10_000, 64

Pieces = Callable[[Sequence[int], TextTracer, str, asyncio.Event], AsyncIterator[Piece]]
"""`Inspector.pieces`."""


@dataclass(frozen=True, slots=True)
class SearchedText:
    """The tokens of a text, where each stops, those before it, and how it is searched."""

    tokens: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]
    before: tuple[int, ...]
    held_out: float = 0.3
    seed: int = 0
    ablates: bool = True


class CellSearcher:
    """Searches for cells, in the thread that all inspections share."""

    def __init__(
        self,
        spec: ModelSpec,
        thread: InspectionThread,
        ablator: Ablator,
        pieces: Pieces,
    ) -> None:
        self._spec, self._thread = spec, thread
        self._ablator, self._pieces = ablator, pieces

    def selection(self) -> Selection:
        """The one signal of all cells that is searched: tanh c, or else h. Raises Validation."""
        chosen = select(self._spec).layers
        return Selection(
            tuple(
                replace(layer, signals=("tanh_c" if "tanh_c" in all_signals(layer.spec) else "h",))
                for layer in chosen
            )
        )

    def check(self, text: SearchedText, labels: Sequence[Label]) -> list[Sums]:
        """Return the values of each property at the tokens. Raises Validation."""
        n_cells = self.selection().values_per_token
        n, limit = len(text.tokens), self._thread.config.max_search_values
        if n * n_cells > limit:
            raise Validation(
                f"{n} tokens of {n_cells} cells are {n * n_cells} values; the limit is {limit}: "
                f"give at most {limit // n_cells} tokens"
            )
        split, found = HeldOutSplit.of(n, text.held_out), []
        for label in labels:
            values = label.at(text.stops)
            if label.kind == "binary":
                check_changes(label.name, values, split)
            elif values[split.chosen_on].std() == 0 or values[split.held_out].std() == 0:
                raise Validation(f"{label.name} is the same everywhere in a part of the text")
            found.append(values)
        return found

    async def search(
        self,
        program: TracedProgram,
        text: SearchedText,
        labels: Sequence[Label],
        owner: str,
        cancelled: asyncio.Event,
    ) -> list[Find] | None:
        """Return what was found for each property; None if it was `cancelled`.

        Raises GenerationFailed.
        """
        run, values = partial(self._thread.run, owner), self.check(text, labels)
        split, finds = HeldOutSplit.of(len(text.tokens), text.held_out), list[Find]()
        traced = await self.traced(program, text, owner, cancelled)
        if traced is None:
            return None
        search = await run(partial(CellSearch, traced, text.tokens, split, seed=text.seed))
        for label, each in zip(labels, values, strict=True):
            if cancelled.is_set():
                return None
            finds.append(await run(partial(search.find, label, each)))
        del traced, search  # the twin's values take their place
        twin = await run(partial(_untrained, self._spec, text.seed))
        traced = await self.traced(twin, text, owner, cancelled)
        if traced is None:
            return None
        # The twin's cells all deviate little, and it is computed in float32.
        search = await run(partial(CellSearch, traced, text.tokens, split, least_deviation=0.0))
        finds = [
            replace(find, untrained=await run(partial(search.best_r, each)))
            for find, each in zip(finds, values, strict=True)
        ]
        del traced, search
        if text.ablates and any(find.label.kind == "binary" for find in finds):
            return await self._with_uses(text, finds, values, owner, cancelled)
        return finds

    async def traced(
        self, program: TracedProgram, text: SearchedText, owner: str, cancelled: asyncio.Event
    ) -> CellValues | None:
        """Return the values of all cells at each token; None if it was `cancelled`."""
        selection, n = self.selection(), len(text.tokens)
        places = [(layer.index, int(cell)) for layer in selection.layers for cell in layer.cells]
        values, done = np.empty((n, len(places)), np.float32), 0

        def begin() -> TextTracer:
            tracer = TextTracer(program, selection)
            tracer.feed(text.before)
            return tracer

        tracer = await self._thread.run(owner, begin)
        async for piece in self._pieces(text.tokens.tolist(), tracer, owner, cancelled):
            rows = np.concatenate([next(iter(each.values())) for each in piece.layers], axis=1)
            values[done : done + len(rows)] = rows
            done += len(rows)
        return None if cancelled.is_set() else CellValues(places, values)

    async def _with_uses(
        self,
        text: SearchedText,
        finds: Sequence[Find],
        values: Sequence[Sums],
        owner: str,
        cancelled: asyncio.Event,
    ) -> list[Find] | None:
        """Hold the cells that were found, and others at random, in the text held out."""
        first = HeldOutSplit.of(len(text.tokens), text.held_out).held_out.start
        part = text.tokens[first : first + HELD_TOKENS]
        predicted = PredictedText(part, text.before, np.zeros(len(part), np.bool_))
        costs: dict[Place, Sums] = {}
        tokens, counts = np.unique(part[predicted.first_predicted :], return_counts=True)
        for layer, cells in self._candidates(finds, text.seed).items():
            order = self._ablator.order(layer, [[cell] for cell in cells], "mean")
            self._ablator.check(order, predicted)
            found = await self._ablator.ablate(order, predicted, owner, cancelled)
            if found is None:
                return None
            for row, cell in enumerate(cells):
                costs[layer, cell] = found[0].more_by_token[row]
        done = []
        for find, each in zip(finds, values, strict=True):
            if find.label.kind == "binary":
                changing = changing_tokens(text.tokens, each)
                places = [cell.place for cell in find.cells]
                uses = uses_of(costs, (tokens, counts), changing, places)
                done.append(replace(find, uses=uses))
            else:
                done.append(find)
        return done

    def _candidates(self, finds: Sequence[Find], seed: int) -> Mapping[int, list[int]]:
        chosen = {
            cell.place for find in finds if find.label.kind == "binary" for cell in find.cells
        }
        every = [
            (index, cell)
            for index, layer in enumerate(self._spec.recurrent_layers)
            for cell in range(layer.units)
        ]
        random = np.random.default_rng(seed)
        drawn = random.choice(len(every), min(N_RANDOM, len(every)), replace=False)
        chosen.update(every[i] for i in drawn)
        layers: dict[int, list[int]] = {}
        for layer, cell in sorted(chosen):
            layers.setdefault(layer, []).append(cell)
        return layers


def _untrained(spec: ModelSpec, seed: int) -> OnnxProgram:
    return OnnxProgram(spec, initial_weights(spec, seed), Precision.FLOAT32)
