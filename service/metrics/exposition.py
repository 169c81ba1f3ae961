"""The exposition: a snapshot of the numbers as Prometheus's text format."""

from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from service.metrics.family import MetricFamily, MetricKind
from service.metrics.histogram import Histogram
from service.metrics.metrics import Snapshot, Values

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class SnapshotCollector(Collector):
    """Gives prometheus-client the families of the latest snapshot."""

    def __init__(self) -> None:
        self.snapshot: Snapshot = ()

    def collect(self) -> Iterator[Metric]:
        """Yield each family with its children. A family without any is there all the same."""
        for family, values in self.snapshot:
            yield _metric(family, values)


class Exposition:
    """The registry of one process: our metrics, and those of the process and of Python."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._collector = SnapshotCollector()
        self._registry.register(self._collector)
        for default in (ProcessCollector, PlatformCollector, GCCollector):
            default(registry=self._registry)

    def text(self, snapshot: Snapshot) -> bytes:
        """Format a snapshot. Takes milliseconds for some twenty models: call it in a thread."""
        self._collector.snapshot = snapshot
        return generate_latest(self._registry)


def _metric(family: MetricFamily, values: Values) -> Metric:
    kinds = {
        MetricKind.COUNTER: CounterMetricFamily,
        MetricKind.GAUGE: GaugeMetricFamily,
        MetricKind.HISTOGRAM: HistogramMetricFamily,
    }
    metric: Metric = kinds[family.kind](family.name, family.help, labels=family.labels)
    for labels, value in sorted(values.items(), key=lambda child: child[0]):
        named = family.with_labels(labels)
        if isinstance(value, Histogram):
            for bound, n in _cumulative(value):
                metric.add_sample(f"{family.name}_bucket", named | {"le": bound}, n)
            metric.add_sample(f"{family.name}_count", named, value.count)
            metric.add_sample(f"{family.name}_sum", named, value.sum)
        else:
            metric.add_sample(family.name, named, value)
    return metric


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    """Return the number of values up to each bound, as the format wants it."""
    names = [*(f"{bound:.12g}" for bound in histogram.bounds), "+Inf"]
    counts, total = [], 0
    for n in histogram.counts:
        total += n
        counts.append(float(total))
    return list(zip(names, counts, strict=True))
