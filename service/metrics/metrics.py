"""The numbers of one process: counters and histograms by label, and callbacks read at a scrape."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from service.metrics.families import FAMILIES, OTHER
from service.metrics.family import MetricFamily, MetricKind
from service.metrics.histogram import Histogram
from service.metrics.model_totals import Counts, ModelTotals

Labels = tuple[str, ...]
Values = Mapping[Labels, float | Histogram]
Snapshot = Sequence[tuple[MetricFamily, Values]]

KEEP_MODEL_S = 3_600.0
"""How long a model's numbers stay when it is no longer in memory.

A counter that ends with each unload and begins anew with each load has no rate: Prometheus cannot
see what was counted before its first scrape.
"""


class Metrics:
    """Counts events of a process. Not thread-safe: one event loop only.

    What another part counts itself, or what is a state and no event, is read by a callback when
    the metrics are read.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.totals = ModelTotals()
        self._clock_s = clock_s
        self._absent_s: dict[str, float] = {}  # models that were not in memory, and since when
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
        """Return all numbers as they are now.

        `models` are those in memory. Others are forgotten after `KEEP_MODEL_S`.
        """
        self._forget_absent(models)
        totals = self.totals.values()
        return [(family, self._values(family, totals)) for family in FAMILIES]

    def _values(self, family: MetricFamily, totals: Counts) -> Values:
        if family in self._callbacks:
            found = self._callbacks[family]()
        elif family in totals:
            found = totals[family]
        else:
            found = self._counters.get(family) or self._histograms.get(family) or {}
        if not found and not family.labels and family.kind is MetricKind.COUNTER:
            return {(): 0}
        return {
            labels: value.copy() if isinstance(value, Histogram) else value
            for labels, value in list(found.items())  # a load in another thread may add one
        }

    def _forget_absent(self, models: Collection[str]) -> None:
        now_s, known = self._clock_s(), {*models, OTHER, ""}
        children = [
            (of_labels, family.labels.index("model"))
            for kind in (self._counters, self._histograms)
            for family, of_labels in kind.items()
            if "model" in family.labels
        ]
        found = {labels[i] for of_labels, i in children for labels in list(of_labels)}
        self._absent_s = {name: self._absent_s.get(name, now_s) for name in found - known}
        for of_labels, i in children:
            for labels in list(of_labels):
                if now_s - self._absent_s.get(labels[i], now_s) >= KEEP_MODEL_S:
                    del of_labels[labels]
        gone = {name for name, at_s in self._absent_s.items() if now_s - at_s >= KEEP_MODEL_S}
        self.totals.keep((found | known) - gone)
