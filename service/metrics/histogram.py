"""A histogram of plain integers: an observation is one bisection and two additions."""

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """How many values were at most each bound, and their sum.

    One thread observes. A copy from another thread may lack the observation that is being made.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` rise; a last bucket without one takes the values above them."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.counts)

    def observe(self, value: float) -> None:
        """Add a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def copy(self) -> "Histogram":
        """Return the histogram as it is now."""
        copy = Histogram(self.bounds)
        copy.counts, copy.sum = self.counts.copy(), self.sum
        return copy

    def plus(self, other: "Histogram") -> "Histogram":
        """Return the histogram of both's values, which have the same bounds."""
        both = self.copy()
        both.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        both.sum += other.sum
        return both
