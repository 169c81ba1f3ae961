"""The batch of a steered program: beside its states each row has the steering that acts on it.

The graph gets a table for each value that can be steered: where it is on, and its s, a and k. A
row's part of the tables changes only where a span of its steering begins or ends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from service.models.cells import CELLS
from service.models.spec import ModelSpec
from service.models.steering import ENDLESS, Steering
from service.models.step import Batch, State, StateArrays, TracedProgram

Target = tuple[int, str]  # a recurrent layer, and its state or one of its gates


@dataclass(frozen=True, slots=True)
class SteerTable:
    """The steering of one value of a layer's cells, each (capacity, units)."""

    on: npt.NDArray[np.bool_]
    scale: npt.NDArray[np.float32]
    add: npt.NDArray[np.float32]
    keep: npt.NDArray[np.float32] | None  # of a state: the factor of its value before

    @property
    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """The arrays by name, those that there are."""
        named = {"on": self.on, "scale": self.scale, "add": self.add}
        return named if self.keep is None else named | {"keep": self.keep}

    def after(self, first: int) -> "SteerTable":
        """Return the rows from `first`, in the same memory."""
        keep = None if self.keep is None else self.keep[first:]
        return SteerTable(self.on[first:], self.scale[first:], self.add[first:], keep)


@dataclass(frozen=True, slots=True)
class SteeredBatch(Batch):
    """A batch whose rows may be steered: `steer` says how, until the row is written again."""

    tables: Mapping[Target, SteerTable] = field(default_factory=dict)
    clock: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    # each (capacity,): the token that a row reads next, where its tables change, its steering
    due: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    steering: npt.NDArray[np.object_] = field(default_factory=lambda: np.zeros(0, object))

    def steer(self, row: int, steering: Steering) -> None:
        """Steer a row from now on; nothing else of it changes."""
        if steering or self.steering[row]:
            self.steering[row] = steering
            self._reload(row)

    def advance(self, rows: int) -> None:
        """Count a step of the first rows."""
        self.clock[:rows] += 1

    def update_tables(self, rows: int) -> None:
        """Write what is on in the next step of the first rows, where that has changed."""
        for row in np.flatnonzero(self.clock[:rows] >= self.due[:rows]):
            self._reload(int(row))

    def _reload(self, row: int) -> None:
        now, due = int(self.clock[row]), ENDLESS
        for table in self.tables.values():
            table.on[row] = False
        for one in self.steering[row]:
            edges = [edge for edge in (one.start, one.stop) if edge > now]
            due = min(due, *edges) if edges else due
            if one.start <= now < one.stop and not one.is_neutral:
                table = self.tables[one.layer, one.target]
                table.on[row, one.cell] = True
                scale, add, keep = one.factors
                table.scale[row, one.cell], table.add[row, one.cell] = scale, add
                if table.keep is not None:
                    table.keep[row, one.cell] = keep
        self.due[row] = due

    def swap(self, a: int, b: int) -> None:
        """Exchange two rows."""
        Batch.swap(self, a, b)
        for array in (self.clock, self.steering):
            array[[a, b]] = array[[b, a]]
        if self.steering[a] or self.steering[b]:
            self._reload(a)
            self._reload(b)

    def after(self, first: int) -> "SteeredBatch":
        """Return the rows from `first`, in the same memory, as a batch of its own."""
        plain = Batch.after(self, first)
        tables = {target: table.after(first) for target, table in self.tables.items()}
        more = self.clock[first:], self.due[first:], self.steering[first:]
        return SteeredBatch(plain.tokens, plain.states, plain.logits, {}, tables, *more)

    def put(self, row: int, state: State | None) -> None:
        """Write a state into a row, which is not steered; None is the zero state."""
        Batch.put(self, row, state)
        self.clock[row] = 0 if state is None else state.position
        self.steer(row, ())

    def save(self, row: int) -> StateArrays:
        """Return all that belongs to a row: its states, its place in the text, its steering."""
        return *Batch.save(self, row), self.clock[row : row + 1].copy(), self.steering[[row]]

    def restore(self, row: int, saved: StateArrays) -> None:
        """Write what `save` has returned into a row."""
        *states, clock, steering = saved
        self.write(row, tuple(states))
        self.clock[row] = clock[0]
        self.steer(row, steering[0])

    def take(self, rows: Sequence[int]) -> None:
        """Give the first rows the states and the steering that `rows` have now."""
        Batch.take(self, rows)
        for array in (self.clock, self.steering):
            array[: len(rows)] = array[rows]
        for row in range(len(rows)):
            self._reload(row)


class SteerableProgram(TracedProgram, Protocol):
    """A program whose rows can be steered, and that shows the gates of its steps."""

    def new_batch(self, capacity: int) -> SteeredBatch:
        """Allocate a batch of `capacity` rows, all in the zero state and not steered."""
        ...


def steered_batch(spec: ModelSpec, capacity: int, plain: Batch) -> SteeredBatch:
    """Return a batch with the memory of a plain one, none of whose rows is steered."""
    steering = np.empty(capacity, object)
    steering.fill(())
    tables = {
        (index, target): SteerTable(
            np.zeros((capacity, layer.units), np.bool_),
            np.zeros((capacity, layer.units), np.float32),
            np.zeros((capacity, layer.units), np.float32),
            np.zeros((capacity, layer.units), np.float32) if is_state else None,
        )
        for index, layer in enumerate(spec.recurrent_layers)
        for target, is_state in _targets(layer.cell)
    }
    clock, due = np.zeros(capacity, np.int64), np.full(capacity, ENDLESS)
    return SteeredBatch(plain.tokens, plain.states, plain.logits, {}, tables, clock, due, steering)


def _targets(name: str) -> list[tuple[str, bool]]:
    """Return what can be steered of a cell, and whether it is a state."""
    cell = CELLS[name]
    if cell.steered_state is None:
        return []
    return [*((gate, False) for gate in cell.activated), (cell.steered_state, True)]
