"""The keyword arguments of a generation and of an import."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict


class Grammar(TypedDict):
    """What a text must look like: it matches, and is complete within `max_new_tokens`.

    `value` is a pattern, a JSON schema as a mapping or as JSON, or a list of texts.
    """

    type: Literal["regex", "json", "choice"]
    value: str | Mapping[str, Any] | Sequence[str]


class Parameters(TypedDict, total=False):
    """How to generate: what is not given is the server's default.

    Where none at all is given, the model's own defaults apply; with one, the likeliest token is
    taken unless `do_sample` or a parameter of sampling is there. Their limits and meaning:
    docs/reference/http.md.
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
    details: bool
    top_n_tokens: int
    return_full_text: bool
    truncate: int


class JobOptions(TypedDict, total=False):
    """How to train. The members of both mappings, and their defaults: docs/how-to/train.md."""

    architecture: Mapping[str, str | int | float]
    training: Mapping[str, str | int | float]
    seed: int
    initial_model: str
    load_when_done: bool
    alias: str


class ImportOptions(TypedDict, total=False):
    """How to import a checkpoint. Paths are those under the server's import folder."""

    version: int
    vocabulary: str
    vocabulary_text: str
    precision: Literal["auto", "float32", "int8"]
    assume: Mapping[str, str]
    alias: str
