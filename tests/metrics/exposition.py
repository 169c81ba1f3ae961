"""A scrape, read by Prometheus's own parser."""

import urllib.request
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class Scrape:
    """The samples of one exposition."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]

    @classmethod
    def of(cls, text: str) -> "Scrape":
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in found, f"two samples are {key}"
                found[key] = sample.value
        return cls(found)

    @classmethod
    def at(cls, url: str) -> "Scrape":
        with urllib.request.urlopen(url, timeout=30) as reply:
            return cls.of(reply.read().decode())

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        wanted = frozenset(labels.items())
        return sum(v for (n, own), v in self.samples.items() if n == name and wanted <= own)

    def since(self, before: "Scrape", name: str, **labels: str) -> float:
        return self.value(name, **labels) - before.value(name, **labels)

    @property
    def series(self) -> set[tuple[str, frozenset[tuple[str, str]]]]:
        return set(self.samples)
