"""Keyword arguments of generations, imports and train jobs."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict


class Grammar(TypedDict):
    """A constraint on the completion, which matches it within `max_new_tokens`.

    `value` is a regular expression, a JSON schema as a mapping or as JSON, or a list of texts.
    """

    type: Literal["regex", "json", "choice"]
    value: str | Mapping[str, Any] | Sequence[str]


class _SteerTarget(TypedDict):
    cell: int
    op: Literal["set", "add", "scale", "freeze"]


SteerSpan = TypedDict("SteerSpan", {"from": Literal["generated", "prompt"] | int}, total=False)
"""`from` is no name that Python allows in a class."""


class SteeredCell(_SteerTarget, SteerSpan, total=False):
    """A cell that is held or changed while the text is generated: docs/reference/http.md."""

    layer: int
    value: float
    gate: str
    until: int


class GenerateParameters(TypedDict, total=False):
    """Parameters of a generation; the server's defaults apply to those that are not given.

    Without any parameter the model's own defaults apply; with one, decoding is greedy unless
    `do_sample` or a sampling parameter is given. Limits and meaning: docs/reference/http.md.
    """

    max_new_tokens: int
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    logit_bias: Mapping[str, float]
    allowed_token_ids: Sequence[int]
    bad_words: Sequence[str]
    grammar: Grammar
    num_beams: int
    length_penalty: float
    min_new_tokens: int
    max_time: float  # seconds
    seed: int
    stop: Sequence[str]
    steer: Sequence[SteeredCell]
    details: bool
    top_n_tokens: int
    return_full_text: bool
    truncate: int


class TrainJobOptions(TypedDict, total=False):
    """Options of a train job. Members of both mappings, and defaults: docs/how-to/train.md."""

    architecture: Mapping[str, str | int | float]
    training: Mapping[str, str | int | float]
    seed: int
    initial_model: str
    load_when_done: bool
    alias: str
    queue: Literal["train-cpu", "train-gpu"]


class ImportOptions(TypedDict, total=False):
    """Options of an import. Paths are relative to the server's import folder."""

    version: int
    vocabulary: str
    vocabulary_text: str
    config: str
    precision: Literal["auto", "float32", "int8"]
    assume: Mapping[str, str]
    alias: str


class TraceOptions(TypedDict, total=False):
    """What of a text's trace is shown; without an option it is everything of its kind."""

    layers: Sequence[int]  # recurrent layers, counted from 0
    cells: Sequence[int]  # of each layer, counted from 0
    signals: Sequence[str]  # such as f, c or tanh_c
    steer: Sequence[SteeredCell]  # cells that are held or changed meanwhile


class TraceStreamOptions(TraceOptions, total=False):
    """The same of a trace that is streamed, and how values are sent."""

    encoding: Literal["float32", "float16", "uint8"]


class InspectOptions(TraceOptions, total=False):
    """The same of a whole trace, and more of what was predicted."""

    top_n_tokens: int  # most likely tokens at each place, at most 20


class GivenProperty(TypedDict, total=False):
    """A property of a text that has no name in the server: with one of the other members."""

    name: str
    match: str  # a regular expression; the property holds within its matches
    spans: Sequence[Sequence[int]]  # from a character up to another
    values: Sequence[float]  # of each character
