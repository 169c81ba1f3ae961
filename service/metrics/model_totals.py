"""The counts of models over all the times that they were loaded: each load counts for itself."""

from collections.abc import Callable, Collection, Mapping

from service.metrics.family import MetricFamily
from service.metrics.histogram import Histogram

Counts = Mapping[MetricFamily, Mapping[tuple[str, ...], float | Histogram]]
ReadCounts = Callable[[], Counts]

_MOST_READ = 8  # loads of a model whose counts may still grow: those before have drained


class ModelTotals:
    """Adds up the counts of each model's loads. `add` may be called by any thread."""

    def __init__(self) -> None:
        self._readers: dict[str, list[ReadCounts]] = {}
        self._ended: dict[str, dict[MetricFamily, dict[tuple[str, ...], float | Histogram]]] = {}

    def add(self, model: str, read: ReadCounts) -> None:
        """Have the counts of one more load of a model read whenever the metrics are."""
        self._readers.setdefault(model, []).append(read)

    def values(self) -> Counts:
        """Return the sums of all loads of each model."""
        found: dict[MetricFamily, dict[tuple[str, ...], float | Histogram]] = {}
        for model, readers in list(self._readers.items()):
            ended = self._ended.setdefault(model, {})
            while len(readers) > _MOST_READ:
                _add(ended, readers.pop(0)())
            _add(found, ended)
            for read in list(readers):
                _add(found, read())
        return found

    def keep(self, models: Collection[str]) -> None:
        """Forget the models other than these."""
        for gone in self._readers.keys() - set(models):
            del self._readers[gone]
            self._ended.pop(gone, None)


def _add(
    sums: dict[MetricFamily, dict[tuple[str, ...], float | Histogram]], counts: Counts
) -> None:
    for family, values in counts.items():
        of_family = sums.setdefault(family, {})
        for labels, value in values.items():
            before = of_family.get(labels)
            if isinstance(value, Histogram):
                of_family[labels] = value.copy()
                if isinstance(before, Histogram):
                    of_family[labels] = before.plus(value)
            elif before is None or isinstance(before, Histogram):
                of_family[labels] = value
            else:
                of_family[labels] = before + value
