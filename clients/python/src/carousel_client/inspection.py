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
    steer: Json | None = None  # what was steered, and the kernel that computed it

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


@dataclass(frozen=True, slots=True)
class FoundCell(Response):
    """A cell that follows a property. r is there on the part chosen on, and on the one held out."""

    layer: int
    cell: int
    r_chosen_on: float
    r: float
    beyond: float  # r of what is left after the means for the current token
    auc: float | None  # None of a property that is a number, as the next three
    threshold: float | None
    precision: float | None
    recall: float | None

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it."""
        missing = {name: body.get(name) for name in ("auc", "threshold", "precision", "recall")}
        return cls._with(body, **missing)


@dataclass(frozen=True, slots=True)
class CellFind(Response):
    """What was found for one property; members of mappings are in docs/reference/http.md."""

    property: str
    kind: str  # binary or number
    share: float
    hindsight: bool
    verdict: str  # none, not_confirmed, free, weak, found or used
    sentence: str
    cells: tuple[FoundCell, ...]  # the best first
    few: tuple[Json, ...]
    baselines: Json
    ablation: tuple[Json, ...]

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it."""
        lists = {name: tuple(body[name]) for name in ("few", "ablation")}
        return cls._with(body, cells=FoundCell.several(body["cells"]), **lists)


@dataclass(frozen=True, slots=True)
class CellFinds(Response):
    """The cells that follow properties of a text, and what speaks against each find."""

    model: str
    digest: str
    precision: str
    chosen_on: int  # tokens
    held_out: int
    thresholds: Json
    finds: tuple[CellFind, ...]

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it."""
        return cls._with(body, finds=CellFind.several(body["finds"]))


@dataclass(frozen=True, slots=True)
class AblatedSet(Response):
    """What holding the cells of one set costs, in bits per token."""

    cells: tuple[int, ...]
    values: tuple[float, ...]  # that the cells were held at
    bits: float
    bits_where: float | None
    bits_elsewhere: float | None

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it."""
        by_where = {name: body.get(name) for name in ("bits_where", "bits_elsewhere")}
        lists = {name: tuple(body[name]) for name in ("cells", "values")}
        return cls._with(body, **lists, **by_where)


@dataclass(frozen=True, slots=True)
class Ablation(Response):
    """The bits per token of a text, and how many more with each set of cells held."""

    model: str
    digest: str
    precision: str
    layer: int
    token_count: int
    bits: float  # with nothing held
    where_count: int | None
    bits_where: float | None
    sets: tuple[AblatedSet, ...]
    tokens: tuple[Json, ...]  # those that pay most: docs/reference/http.md

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it."""
        by_where = {name: body.get(name) for name in ("where_count", "bits_where")}
        sets = AblatedSet.several(body["sets"])
        return cls._with(body, sets=sets, tokens=tuple(body["tokens"]), **by_where)


@dataclass(frozen=True, slots=True)
class InfluentialToken(Response):
    """A token, and how a later prediction changes where it is left out."""

    id: int
    text: str
    start: int
    stop: int
    bits: float
    logprob_change: float | None  # None where no token follows

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it."""
        return cls._with(body, logprob_change=body.get("logprob_change"))


@dataclass(frozen=True, slots=True)
class Influence(Response):
    """The prediction at one place, and what it owes to each token before it."""

    model: str
    digest: str
    precision: str
    of: int
    token: ScoredToken | None  # that follows; None at the end of the text
    top_tokens: tuple[ScoredToken, ...]
    tokens: tuple[InfluentialToken, ...]

    @classmethod
    def from_json(cls, body: Json) -> Self:
        """Build it."""
        token = body.get("token")
        return cls._with(
            body,
            token=None if token is None else ScoredToken.from_json(token),
            top_tokens=ScoredToken.several(body["top_tokens"]),
            tokens=InfluentialToken.several(body["tokens"]),
        )
