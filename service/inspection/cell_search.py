"""Which cells of a model follow a property of a text: chosen on one part, judged on a later one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from service.inspection.correlation import (
    LEAST_DEVIATION,
    HeldOutSplit,
    Sums,
    auc,
    best_threshold,
    beyond_character,
    by_character,
    correlations,
    f1,
    fitted,
    greatest_by_chance,
    pearson,
    pursuit,
    standardised,
)
from service.inspection.labels import Label
from service.models.spec import FloatArray

MOST_CELLS, PURSUED, N_ROTATIONS = 10, 64, 200
FEW = (1, 2, 4, 8)
STRONG_R, FREE_MARGIN, LEAST_SHARE = 0.5, 0.05, 0.02
LEAST_BITS, LEAST_RANK, LEAST_COUNT = 0.1, 3, 5
MOST_CHANGING = 8

Place = tuple[int, int]
"""A recurrent layer, and one of its cells."""


class Verdict(StrEnum):
    """What was shown of the best cell."""

    USED = "used"  # found, and predictions get worse without it
    FOUND = "found"
    WEAK = "weak"
    FREE = "free"  # the current character or an untrained network says as much
    NOT_CONFIRMED = "not_confirmed"  # not on the part held out
    NONE = "none"  # no more than chance


@dataclass(frozen=True, slots=True)
class CellValues:
    """The values of cells at each token, (tokens, cells), and which cells these are."""

    places: Sequence[Place]
    values: FloatArray


@dataclass(frozen=True, slots=True)
class FoundCell:
    """A cell that was chosen by r, and what it is worth on the part held out."""

    place: Place
    r_chosen_on: float
    r: float
    beyond: float
    auc: float | None = None
    threshold: float | None = None
    precision: float | None = None
    recall: float | None = None


@dataclass(frozen=True, slots=True)
class FewCells:
    """What some cells say together: AUC of a binary property, or else R²."""

    places: Sequence[Place]
    score: float
    f1: float | None


@dataclass(frozen=True, slots=True)
class CellUse:
    """What holding a cell costs a token that changes the property."""

    place: Place
    token: int
    bits: float
    count: int
    rank: int  # among the cells that were held, from 1
    of: int


@dataclass(frozen=True, slots=True)
class Find:
    """What was found for one property."""

    label: Label
    share: float  # of tokens with it, or the mean of a number
    cells: Sequence[FoundCell]  # the best first
    few: Sequence[FewCells]
    by_character: float
    null_95: float
    untrained: float = 0.0
    uses: Sequence[CellUse] = ()

    @property
    def verdict(self) -> Verdict:
        """Judge the best cell by the part held out, the baselines and its use."""
        if not self.cells:
            return Verdict.NONE
        best = self.cells[0]
        # The null is that of the best of all cells, on the part that it was chosen on. The r held
        # out alone passes it too often: that part is shorter, and chance reaches further there.
        if min(abs(best.r_chosen_on), abs(best.r)) <= self.null_95:
            return Verdict.NONE
        if best.r * best.r_chosen_on < 0 or abs(best.r) < abs(best.r_chosen_on) / 2:
            return Verdict.NOT_CONFIRMED
        if abs(best.r) <= max(self.by_character, self.untrained) + FREE_MARGIN:
            return Verdict.FREE
        is_rare = self.label.kind == "binary" and self.share < LEAST_SHARE
        if abs(best.r) < STRONG_R or is_rare:
            return Verdict.WEAK
        is_used = any(
            use.place == best.place and use.bits >= LEAST_BITS and use.rank <= LEAST_RANK
            for use in self.uses
        )
        return Verdict.USED if is_used else Verdict.FOUND


class CellSearch:
    """Searches the cells of one trace, for one property after the other."""

    def __init__(
        self,
        values: CellValues,
        tokens: npt.NDArray[np.int64],
        split: HeldOutSplit,
        n_rotations: int = N_ROTATIONS,
        seed: int = 0,
        least_deviation: float = LEAST_DEVIATION,
    ) -> None:
        deviates = values.values[split.chosen_on].std(axis=0) >= least_deviation
        kept = np.flatnonzero(deviates)
        self._places = [values.places[i] for i in kept.tolist()]
        self._values, self._tokens, self._split = values.values, tokens, split
        self._kept = kept
        self._chosen_on = standardised(values.values[split.chosen_on][:, kept])
        self._n_rotations, self._seed = n_rotations, seed

    def find(self, label: Label, values: Sums) -> Find:
        """Search for the property with these values at each token."""
        split, part, rest = self._split, values[self._split.chosen_on], self._split.held_out
        is_binary = label.kind == "binary"
        character = by_character(self._tokens, values, split)
        share = float(values.mean())
        if not self._places:
            return Find(label, share, (), (), character, 0.0)
        r = correlations(self._chosen_on, part[:, None])[:, 0]
        order = np.argsort(-np.abs(r), kind="stable")
        cells = [
            self._judged(int(i), float(r[i]), values, is_binary=is_binary)
            for i in order[:MOST_CELLS]
        ]
        null = greatest_by_chance(self._chosen_on, part, self._n_rotations, self._seed)
        few = []
        columns = pursuit(self._chosen_on, part, order[:PURSUED].tolist(), max(FEW))
        for k in FEW:
            some = columns[:k]
            if len(some) == k:
                few.append(self._together(some, part, values[rest], is_binary=is_binary))
        return Find(label, share, cells, few, character, null)

    def best_r(self, values: Sums) -> float:
        """Return |r|, held out, of the cell that is best on the part chosen on."""
        if not self._places:
            return 0.0
        r = correlations(self._chosen_on, values[self._split.chosen_on, None])[:, 0]
        return abs(self._held_out_r(int(np.argmax(np.abs(r))), values))

    def _held_out(self, i: int) -> FloatArray:
        return self._values[self._split.held_out, self._kept[i]]

    def _held_out_r(self, i: int, values: Sums) -> float:
        return pearson(self._held_out(i), values[self._split.held_out])

    def _judged(self, i: int, r_chosen_on: float, values: Sums, *, is_binary: bool) -> FoundCell:
        rest, cell = self._split.held_out, self._held_out(i)
        label = values[rest]
        found = FoundCell(
            self._places[i],
            r_chosen_on,
            self._held_out_r(i, values),
            beyond_character(self._tokens[rest], cell, label),
        )
        if not is_binary:
            return found
        sign = 1.0 if r_chosen_on >= 0 else -1.0
        chosen = self._values[self._split.chosen_on, self._kept[i]] * sign
        at = best_threshold(chosen, values[self._split.chosen_on])
        precision, recall, _ = f1(cell * sign > at, label)
        return replace(
            found,
            auc=auc(cell * sign, label),
            threshold=sign * at,
            precision=precision,
            recall=recall,
        )

    def _together(
        self, columns: list[int], part: Sums, label: Sums, *, is_binary: bool
    ) -> FewCells:
        kept = self._kept[columns]
        known = self._values[self._split.chosen_on][:, kept]
        others = self._values[self._split.held_out][:, kept]
        said, places = fitted(known, part, others), [self._places[i] for i in columns]
        if is_binary:
            at = best_threshold(fitted(known, part, known), part)
            return FewCells(places, auc(said, label), f1(said > at, label)[2])
        errors = float(((said - label) ** 2).sum())
        return FewCells(places, 1.0 - errors / float(((label - label.mean()) ** 2).sum()), None)


def changing_tokens(tokens: npt.NDArray[np.int64], values: Sums) -> list[int]:
    """Return the tokens that change a property, those that do most often first."""
    changes = tokens[1:][np.diff(values) != 0]
    found, counts = np.unique(changes, return_counts=True)
    return [int(found[i]) for i in np.argsort(-counts, kind="stable") if counts[i] >= LEAST_COUNT]


def uses_of(
    costs: Mapping[Place, Sums],
    counted: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    changing: Sequence[int],
    places: Sequence[Place],
) -> list[CellUse]:
    """Return for each of `places` the changing token that its absence costs most.

    `costs` has bits by token for every cell that was held; `counted` has these tokens and how many
    of each there are.
    """
    tokens, counts = counted
    names, index = [*costs], {int(token): i for i, token in enumerate(tokens)}
    columns = [
        index[token]
        for token in changing[:8]
        if token in index and counts[index[token]] >= LEAST_COUNT
    ]
    if not columns:
        return []
    table = np.stack([costs[place] for place in names])
    found = []
    for place in places:
        if place not in costs:
            continue
        row = names.index(place)
        column = max(columns, key=lambda c: table[row, c])
        rank = 1 + int((table[:, column] > table[row, column]).sum())
        found.append(
            CellUse(
                place,
                int(tokens[column]),
                float(table[row, column]),
                int(counts[column]),
                rank,
                len(names),
            )
        )
    return found
