"""A metric family: the name, kind, labels and buckets of one metric."""

from dataclasses import dataclass
from enum import StrEnum


class MetricKind(StrEnum):
    """What a metric's values are, in Prometheus's terms."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, eq=False)
class MetricFamily:
    """One metric. A family is compared by identity: there is one of each name.

    The values of `labels` come from closed sets: route templates, loaded models, error codes. The
    children of a model that is no longer loaded are deleted.
    """

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()  # of a histogram's buckets

    def with_labels(self, values: tuple[str, ...]) -> dict[str, str]:
        """Return the labels of one child by name."""
        return dict(zip(self.labels, values, strict=True))


def doubling(first: float, n: int) -> tuple[float, ...]:
    """Return `n` bounds, each twice the one before."""
    return tuple(first * 2**i for i in range(n))
