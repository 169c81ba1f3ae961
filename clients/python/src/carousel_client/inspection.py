"""Responses of inspections: what a model's cells do while it reads a text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from carousel_client.responses import Json, Response, ScoredToken


@dataclass(frozen=True, slots=True)
class InspectedToken(Response):
    """A token of an inspected text, and the most likely ones at its place, if requested."""

    id: int
    text: str
    logprob: float | None  # None for the first token of a text without a session
    start: int  # in characters of the text
    stop: int
    top_tokens: tuple[ScoredToken, ...]

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it."""
        return cls._with(body, top_tokens=ScoredToken.several(body.get("top_tokens") or ()))


@dataclass(frozen=True, slots=True)
class InspectedLayer(Response):
    """The cells of one recurrent layer. A signal is a list of tokens, each a list of cells."""

    layer: int
    cell: str
    units: int
    activation: str
    recurrent_activation: str
    cells: tuple[int, ...]
    before: Mapping[str, Sequence[float]]  # the states before the first token
    signals: Mapping[str, Sequence[Sequence[float]]]

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it."""
        return cls._with(body, cells=tuple(body["cells"]))


@dataclass(frozen=True, slots=True)
class Inspection(Response):
    """What a model predicted and what its cells did while it read a text."""

    model: str
    digest: str
    precision: str
    characters: int
    token_count: int
    tokens: tuple[InspectedToken, ...]
    layers: tuple[InspectedLayer, ...]

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it."""
        return cls._with(
            body,
            tokens=InspectedToken.several(body["tokens"]),
            layers=InspectedLayer.several(body["layers"]),
        )


@dataclass(frozen=True, slots=True)
class InspectionStatistics(Response):
    """What cells do in a text; the members of a layer are in docs/reference/http.md."""

    model: str
    digest: str
    precision: str
    token_count: int
    layers: tuple[Json, ...]

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it."""
        return cls._with(body, layers=tuple(body["layers"]))
