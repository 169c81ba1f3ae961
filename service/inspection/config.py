"""The limits of inspections, in one frozen value."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InspectionConfig:
    """Limits of the inspections of one process, with their usual values."""

    max_values: int = 8_000_000  # tokens times cells times signals, as bytes
    max_numbers: int = 200_000  # the same, where they are written as JSON numbers
    max_per_owner: int = 2  # that run or wait at a time
    max_inspections: int = 8  # of all owners: each may hold `max_values` in memory
    piece_tokens: int = 1_024  # that an owner's inspection reads before the next owner's
    piece_values: int = 4_000_000  # tokens times cells times signals of a piece
    max_ablation_steps: int = 20_000_000  # tokens times sets of cells of an ablation
    max_ablation_sums: int = 4_000_000  # different tokens times sets of cells
    max_search_values: int = 40_000_000  # tokens times cells of a search, each 4 bytes
