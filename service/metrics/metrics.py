"""The numbers of one process: counters and histograms by label, and callbacks read at a scrape."""

from collections.abc import Callable, Collection, Mapping, Sequence

from service.metrics.families import FAMILIES, OTHER
from service.metrics.family import MetricFamily, MetricKind
from service.metrics.histogram import Histogram

Labels = tuple[str, ...]
Values = Mapping[Labels, float | Histogram]
Snapshot = Sequence[tuple[MetricFamily, Values]]


class Metrics:
    """Counts events of a process. Not thread-safe: one event loop only.

    What another part counts itself, or what is a state and no event, is read by a callback when
    the metrics are read.
    """

    def __init__(self) -> None:
        self._counters: dict[MetricFamily, dict[Labels, float]] = {}
        self._histograms: dict[MetricFamily, dict[Labels, Histogram]] = {}
        self._callbacks: dict[MetricFamily, Callable[[], Values]] = {}

    def inc(self, family: MetricFamily, labels: Labels = (), n: float = 1) -> None:
        """Add `n` to a counter."""
        children = self._counters.setdefault(family, {})
        children[labels] = children.get(labels, 0) + n

    def histogram(self, family: MetricFamily, labels: Labels = ()) -> Histogram:
        """Return the histogram of these labels, which takes observations."""
        children = self._histograms.setdefault(family, {})
        if labels not in children:
            children[labels] = Histogram(family.bounds)
        return children[labels]

    def read(self, family: MetricFamily, values: Callable[[], Values]) -> None:
        """Read a family by a callback, in the event loop, whenever the metrics are read."""
        self._callbacks[family] = values

    def snapshot(self, models: Collection[str]) -> Snapshot:
        """Return all numbers as they are now, and forget models other than these."""
        self._forget_others(models)
        return [(family, self._values(family)) for family in FAMILIES]

    def _values(self, family: MetricFamily) -> Values:
        if family in self._callbacks:
            found = self._callbacks[family]()
        else:
            found = self._counters.get(family) or self._histograms.get(family) or {}
        if not found and not family.labels and family.kind is MetricKind.COUNTER:
            return {(): 0}
        return {
            labels: value.copy() if isinstance(value, Histogram) else value
            for labels, value in found.items()
        }

    def _forget_others(self, models: Collection[str]) -> None:
        known = {*models, OTHER, ""}
        for kind in (self._counters, self._histograms):
            for family, children in kind.items():
                if "model" in family.labels:
                    i = family.labels.index("model")
                    for labels in [labels for labels in children if labels[i] not in known]:
                        del children[labels]
