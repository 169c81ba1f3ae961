"""Every parameter of the five APIs: how the server treats it, and the check that shows it.

`test_compatibility.py` sends the requests of each row to a server.
`python -m tests.clients.surface` writes the rows to `docs/reference/compatibility.md`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx2

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "compatibility.md"


class Verdict(StrEnum):
    """How the server treats a parameter."""

    HONOURED = "honoured"
    REFUSED = "refused"
    IGNORED = "ignored"


Reply = httpx2.Response
Check = Callable[[Reply, Reply], bool]


@dataclass(frozen=True, slots=True)
class Row:
    """A parameter: `body` is the part of a request that has it, `check` compares the replies.

    The first reply is to the plain request with `base`, the second to that with `body` as well. A
    refused parameter is a 422 that names it; `nothing` is an accepted value without effect.
    """

    name: str
    of: str  # whose API it is
    verdict: Verdict
    note: str
    body: dict[str, Any]
    check: Check | None = None
    base: dict[str, Any] = field(default_factory=dict)
    nothing: Any = None


# -- reading a reply


def choices(reply: Reply) -> list[dict[str, Any]]:
    return reply.json()["choices"]


def text(reply: Reply) -> str:
    """Return the first text of a reply of either family."""
    content = reply.json()
    if "choices" not in content:
        return content["generated_text"]
    choice = content["choices"][0]
    return choice["message"]["content"] if "message" in choice else choice["text"]


def reason(reply: Reply) -> str:
    """Return why the first text of a reply ended."""
    content = reply.json()
    return (content["choices"][0] if "choices" in content else content["details"])["finish_reason"]


def details(reply: Reply) -> dict[str, Any]:
    return reply.json()["details"]


def mean_logprob(reply: Reply) -> float:
    logprobs = choices(reply)[0]["logprobs"]["token_logprobs"]
    return sum(logprobs) / len(logprobs)


def is_likelier(plain: Reply, given: Reply) -> bool:
    """Whether the model's own probability of the first text is higher."""
    return total_logprob(given) > total_logprob(plain)


def total_logprob(reply: Reply) -> float:
    content = reply.json()
    if "choices" in content:
        return sum(content["choices"][0]["logprobs"]["token_logprobs"])
    return sum(token["logprob"] for token in content["details"]["tokens"])


def another_text(plain: Reply, given: Reply) -> bool:
    return text(plain) != text(given)


def same_text(plain: Reply, given: Reply) -> bool:
    return text(plain) == text(given)


def says(expected: str) -> Check:
    return lambda _, given: text(given) == expected


def shows(look: Callable[[Reply], object]) -> Check:
    """Check something that holds only with the parameter."""
    return lambda plain, given: bool(look(given)) and not look(plain)


def events(reply: Reply) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in reply.text.split("\n") if "data: " in line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def cached(reply: Reply) -> int:
    """Return the cached tokens of the prompt; the plain request has filled the cache."""
    return reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def is_json(reply: Reply) -> bool:
    try:
        return isinstance(json.loads(text(reply)), dict)
    except ValueError:
        return False


HONOURED, REFUSED, IGNORED = Verdict.HONOURED, Verdict.REFUSED, Verdict.IGNORED
LONG = {"max_tokens": 60}
STEER = [{"cell": cell, "op": "set", "value": 5.0} for cell in range(40)]
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
Q = "82"  # the ids of "q" and "e" in the bundled model, which a test checks
E = 70

OPENAI: tuple[Row, ...] = (
    Row(
        "model",
        "OpenAI",
        HONOURED,
        "`name`, `name@version` or an alias; the reply has the version",
        {"model": "awkward", "prompt": "<"},
        shows(lambda reply: reply.json()["model"] == "awkward@1"),
    ),
    Row(
        "prompt",
        "OpenAI",
        HONOURED,
        "a text, a list of texts, of token ids, or of lists of ids: at most 256 prompts, "
        "1,000,000 characters and [131,072 values](http.md#statuses) of JSON; null "
        "only in a session that has text, or for a model with a begin token",
        {"prompt": ["The ", "A "]},
        shows(lambda reply: len(choices(reply)) == 2),
    ),
    Row(
        "max_tokens",
        "OpenAI",
        HONOURED,
        "default 16, at most 1,000,000; 0 with `echo` and `logprobs` scores the prompt",
        {"max_tokens": 3},
        shows(lambda reply: len(text(reply)) == 3),
    ),
    Row(
        "temperature",
        "OpenAI",
        HONOURED,
        "default 1, no upper limit; 0 takes the most likely token",
        {"temperature": 0},
        another_text,
    ),
    Row("top_p", "OpenAI", HONOURED, "(0, 1]", {"top_p": 0.1}, another_text),
    Row(
        "n",
        "OpenAI",
        HONOURED,
        "1 to 128; the prompt is processed once; choice 0 is that of `n` 1; not in a session",
        {"n": 2},
        lambda plain, given: len(choices(given)) == 2 and text(given) == text(plain),
    ),
    Row(
        "best_of",
        "OpenAI",
        HONOURED,
        "`n` to 128, the highest mean logprob first; not streamed if it is more than `n`",
        {"best_of": 8},
        lambda plain, given: mean_logprob(given) > mean_logprob(plain),
        {"logprobs": 0},
    ),
    Row(
        "echo",
        "OpenAI",
        HONOURED,
        "with `logprobs` also those of the prompt, then not in a session",
        {"echo": True},
        lambda plain, given: text(given) == "The " + text(plain),
    ),
    Row(
        "logprobs",
        "OpenAI",
        HONOURED,
        "0 to 20, the model's own; `top_logprobs` always has the sampled token",
        {"logprobs": 2},
        shows(lambda reply: choices(reply)[0]["logprobs"]),
    ),
    Row(
        "stop",
        "OpenAI",
        HONOURED,
        "a string or up to 4, of 1 to 256 characters",
        {"stop": ["e", "\x00"]},
        shows(lambda reply: choices(reply)[0]["finish_reason"] == "stop"),
        LONG,
    ),
    Row(
        "seed",
        "OpenAI",
        HONOURED,
        "-2⁶³ to 2⁶⁴ - 1; the same seed gives the same text on every API, alone or under load",
        {"seed": -1},
        another_text,
    ),
    Row("presence_penalty", "OpenAI", HONOURED, "-2 to 2", {"presence_penalty": 2}, another_text),
    Row("frequency_penalty", "OpenAI", HONOURED, "-2 to 2", {"frequency_penalty": 2}, another_text),
    Row(
        "logit_bias",
        "OpenAI",
        HONOURED,
        "by the model's own token ids (`/tokenize`, `/v1/models/{id}`), at most 1,024",
        {"logit_bias": {Q: 100}, "max_tokens": 2},
        says("qq"),
    ),
    Row(
        "stream",
        "OpenAI",
        HONOURED,
        "one event a token; `finish_reason` null until the last",
        {"stream": True},
        lambda plain, given: "".join(e["choices"][0]["text"] for e in events(given)) == text(plain),
    ),
    Row(
        "stream_options",
        "OpenAI",
        HONOURED,
        "`include_usage`; vLLM's `continuous_usage_stats`; `include_obfuscation` is ignored",
        {"stream_options": {"include_usage": True}},
        lambda plain, given: events(given)[-1]["usage"] and len(events(given)) > len(events(plain)),
        {"stream": True},
    ),
    Row(
        "suffix",
        "OpenAI",
        REFUSED,
        "a recurrent model reads from left to right and cannot look ahead",
        {"suffix": "x"},
        nothing="",
    ),
    Row("user", "OpenAI", IGNORED, "no user is stored", {"user": "somebody"}),
    Row("top_k", "vLLM", HONOURED, "≥ 1; 0 and -1 are all", {"top_k": 1}, another_text),
    Row("min_p", "vLLM", HONOURED, "[0, 1)", {"min_p": 0.9}, another_text),
    Row(
        "repetition_penalty",
        "vLLM",
        HONOURED,
        "0.01 to 100",
        {"repetition_penalty": 3.0},
        another_text,
    ),
    Row(
        "use_beam_search",
        "vLLM",
        HONOURED,
        "`best_of` beams (default `n`), at most 10, and the `n` most likely texts that they find; "
        "not with sampling parameters, not in a session",
        {"use_beam_search": True, "best_of": 6},
        is_likelier,
        {"temperature": 0, "logprobs": 0},
    ),
    Row(
        "length_penalty",
        "vLLM",
        HONOURED,
        "of `use_beam_search`: -10 to 10; a text's logprob is divided by its length to this power",
        {"length_penalty": -2.0},
        lambda plain, given: len(text(given)) < len(text(plain)),
        {"use_beam_search": True, "n": 4, "stop": [" ", "."]},
    ),
    Row(
        "min_tokens",
        "vLLM",
        HONOURED,
        "an end token or a stop string begins after so many (vLLM: ends after them); a constraint "
        "is not complete before",
        {"min_tokens": 30},
        shows(lambda reply: len(text(reply)) >= 30),
        {"stop": "e", **LONG},
    ),
    Row(
        "allowed_token_ids",
        "vLLM",
        HONOURED,
        "1 to 1,024 of the model's own ids: no other token is generated",
        {"allowed_token_ids": [int(Q), E]},
        shows(lambda reply: set(text(reply)) <= set("qe")),
    ),
    Row(
        "bad_words",
        "vLLM",
        HONOURED,
        "at most 256 of 1 to 256 characters: the generated text contains none of them",
        {"bad_words": ["e", "th"]},
        shows(lambda reply: "e" not in text(reply) and len(text(reply)) == 60),
        LONG,
    ),
    Row(
        "prompt_logprobs",
        "vLLM",
        HONOURED,
        "0 to 20; not streamed, not in a session (`POST /score` does)",
        {"prompt_logprobs": 1},
        shows(lambda reply: choices(reply)[0].get("prompt_logprobs", [1])[0] is None),
    ),
    Row(
        "cache_salt",
        "vLLM",
        HONOURED,
        "a cached prompt is used only with the same salt",
        {"cache_salt": "mine"},
        lambda plain, given: same_text(plain, given) and cached(given) == 0,
        {"prompt": "A prompt that is long enough to be kept, and that no other test has. " * 2},
    ),
    Row(
        "stop_token_ids",
        "vLLM",
        HONOURED,
        "the token ends the text, and is not in it",
        {"stop_token_ids": [E]},
        shows(lambda reply: choices(reply)[0]["finish_reason"] == "stop"),
        LONG,
    ),
    Row(
        "include_stop_str_in_output",
        "vLLM",
        HONOURED,
        "refused with `logprobs` and in a session",
        {"include_stop_str_in_output": True},
        lambda plain, given: text(given) == text(plain) + "e",
        {"stop": "e", **LONG},
    ),
    Row(
        "ignore_eos",
        "vLLM",
        HONOURED,
        "an end token ends nothing; a complete constraint still does",
        {"ignore_eos": True},
        same_text,
    ),
    Row(
        "skip_special_tokens",
        "vLLM",
        IGNORED,
        "special tokens are never generated",
        {"skip_special_tokens": False},
    ),
    Row(
        "spaces_between_special_tokens",
        "vLLM",
        IGNORED,
        "likewise",
        {"spaces_between_special_tokens": False},
    ),
    Row(
        "add_special_tokens",
        "vLLM",
        IGNORED,
        "none are added",
        {"add_special_tokens": False},
    ),
    Row(
        "truncate_prompt_tokens",
        "vLLM",
        HONOURED,
        "keeps the last n, at least 1; -1 is all",
        {"truncate_prompt_tokens": 1},
        shows(lambda reply: reply.json()["usage"]["prompt_tokens"] == 1),
    ),
    Row(
        "return_token_ids",
        "vLLM",
        HONOURED,
        "`token_ids` and `prompt_token_ids`",
        {"return_token_ids": True},
        shows(lambda reply: len(choices(reply)[0].get("prompt_token_ids", [])) == 4),
    ),
    Row(
        "return_tokens_as_token_ids",
        "vLLM",
        HONOURED,
        "`token_id:n` in `logprobs`",
        {"return_tokens_as_token_ids": True},
        shows(lambda r: choices(r)[0]["logprobs"]["tokens"][0].startswith("token_id:")),
        {"logprobs": 1},
    ),
    Row(
        "response_format",
        "vLLM",
        HONOURED,
        "`text`, `json_object`, `json_schema`; see [constraints](../explanation/constraints.md)",
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        shows(is_json),
        LONG,
    ),
    Row(
        "structured_outputs",
        "vLLM",
        HONOURED,
        "`json`, `json_object`, `regex`, `choice`; `grammar` and `structural_tag` are refused",
        {"structured_outputs": {"choice": ["yes"]}},
        says("yes"),
    ),
    Row("guided_json", "vLLM", HONOURED, "older", {"guided_json": SCHEMA}, shows(is_json), LONG),
    Row("guided_regex", "vLLM", HONOURED, "older", {"guided_regex": "q{3}"}, says("qqq")),
    Row("guided_choice", "vLLM", HONOURED, "older", {"guided_choice": ["no"]}, says("no")),
    Row(
        "guided_grammar",
        "vLLM",
        REFUSED,
        "use a JSON schema or a regular expression",
        {"guided_grammar": "root ::= a"},
    ),
    Row(
        "guided_decoding_backend",
        "vLLM",
        IGNORED,
        "there is only one",
        {"guided_decoding_backend": "outlines"},
    ),
    Row(
        "guided_whitespace_pattern",
        "vLLM",
        REFUSED,
        "JSON is written with at most one space after `,` and `:`",
        {"guided_whitespace_pattern": " *"},
    ),
    Row("priority", "vLLM", IGNORED, "owners take turns", {"priority": 3}),
    Row(
        "request_id",
        "vLLM",
        HONOURED,
        "the reply's `id` ends with it; `X-Request-Id` is the header's",
        {"request_id": "mine"},
        shows(lambda reply: reply.json()["id"] == "cmpl-mine"),
    ),
    Row(
        "stream_interval",
        "vLLM",
        IGNORED,
        "always one event a token",
        {"stream_interval": 8},
    ),
    Row(
        "logits_processors",
        "vLLM",
        REFUSED,
        "nothing that a client sends is executed",
        {"logits_processors": ["a.b"]},
        nothing=[],
    ),
    Row(
        "repetition_detection",
        "vLLM",
        REFUSED,
        "use `repetition_penalty`, `stop` or `max_tokens`",
        {"repetition_detection": {"max_pattern_size": 3}},
    ),
    Row(
        "kv_transfer_params",
        "vLLM",
        REFUSED,
        "a recurrent model has no key-value cache; sessions move by export",
        {"kv_transfer_params": {"a": 1}},
    ),
    Row(
        "vllm_xargs", "vLLM", REFUSED, "there are no plugins", {"vllm_xargs": {"a": 1}}, nothing={}
    ),
    Row(
        "steer",
        "ours",
        HONOURED,
        "at most 64 cells: [steering](http.md#steering); not with beams",
        {"steer": STEER},
        another_text,
    ),
    Row(
        "max_time",
        "ours",
        HONOURED,
        "seconds, at most a day, the time in the queue included: then every choice ends",
        {"max_time": 0.3, "max_tokens": 1_000_000},
        lambda _, given: len(text(given)) < 1_000_000 and reason(given) == "length",
    ),
    Row("typical_p", "ours", HONOURED, "(0, 1)", {"typical_p": 0.05}, another_text),
    Row(
        "session_id",
        "ours",
        HONOURED,
        "or `X-Session-Id`: continues a session; `Idempotency-Key` as on `/generate`",
        {"session_id": "$session"},
        shows(lambda reply: reply.json().get("session")),
    ),
    Row(
        "expected_position",
        "ours",
        HONOURED,
        "412 unless the session is at this position, so a repeated request has no effect",
        {"expected_position": 9},
        lambda _, given: given.status_code == 412,
        {"session_id": "$session"},
    ),
    Row(
        "on_disconnect",
        "ours",
        HONOURED,
        "with `continue` the turn of a disconnected client runs to its end",
        {"on_disconnect": "continue"},
        lambda _, given: given.status_code == 200,
        {"session_id": "$session"},
    ),
)


def parameters(**given: Any) -> dict[str, Any]:
    return {"parameters": given}


TGI: tuple[Row, ...] = (
    Row(
        "inputs",
        "TGI",
        HONOURED,
        "1 to 1,000,000 characters; empty only in a session that has text, or for "
        "a model with a begin token",
        {"inputs": "class "},
        another_text,
    ),
    Row(
        "stream",
        "TGI",
        HONOURED,
        "as `/generate_stream`",
        {"stream": True},
        lambda plain, given: events(given)[-1]["generated_text"] == text(plain),
    ),
    Row(
        "max_new_tokens",
        "TGI",
        HONOURED,
        "default 100, at most 1,000,000",
        parameters(max_new_tokens=3),
        shows(lambda reply: len(text(reply)) == 3),
    ),
    Row(
        "do_sample",
        "TGI",
        HONOURED,
        "default false; true also if a sampling parameter is given",
        parameters(do_sample=False),
        another_text,
    ),
    Row(
        "temperature",
        "TGI",
        HONOURED,
        "≥ 0; 0, which TGI refuses, takes the most likely token",
        parameters(temperature=0.1),
        another_text,
    ),
    Row("top_k", "TGI", HONOURED, "≥ 1", parameters(top_k=1), another_text),
    Row("top_p", "TGI", HONOURED, "(0, 1)", parameters(top_p=0.1), another_text),
    Row("typical_p", "TGI", HONOURED, "(0, 1)", parameters(typical_p=0.05), another_text),
    Row(
        "repetition_penalty",
        "TGI",
        HONOURED,
        "0.01 to 100; TGI has no upper limit",
        parameters(repetition_penalty=3.0),
        another_text,
    ),
    Row(
        "frequency_penalty",
        "TGI",
        HONOURED,
        "-2 to 2",
        parameters(frequency_penalty=2.0),
        another_text,
    ),
    Row(
        "seed",
        "TGI",
        HONOURED,
        "0 to 2⁶⁴ - 1; default random, in the reply",
        parameters(seed=2),
        shows(lambda reply: details(reply)["seed"] == 2),
    ),
    Row(
        "stop",
        "TGI",
        HONOURED,
        "or `stop_sequences`: at most 4 of 1 to 256 characters",
        parameters(stop=["e"]),
        shows(lambda reply: details(reply)["finish_reason"] == "stop_sequence"),
    ),
    Row(
        "truncate",
        "TGI",
        HONOURED,
        "keeps the last n tokens of the prompt",
        parameters(truncate=1),
        shows(lambda reply: reply.headers["x-prompt-tokens"] == "1"),
    ),
    Row(
        "return_full_text",
        "TGI",
        HONOURED,
        "",
        parameters(return_full_text=True),
        lambda plain, given: text(given) == "The " + text(plain),
    ),
    Row(
        "details",
        "TGI",
        HONOURED,
        "",
        parameters(details=False),
        lambda plain, given: "details" in plain.json() and "details" not in given.json(),
    ),
    Row(
        "top_n_tokens",
        "TGI",
        HONOURED,
        "at most 20",
        parameters(top_n_tokens=2),
        shows(lambda reply: len(details(reply).get("top_tokens", [[]])[0]) == 2),
    ),
    Row(
        "best_of",
        "TGI",
        HONOURED,
        "1 to 128, the others in `best_of_sequences`; TGI's rules: with sampling, without a seed, "
        "not streamed; not in a session",
        parameters(best_of=3, seed=None),
        shows(lambda reply: len(details(reply).get("best_of_sequences", [])) == 2),
    ),
    Row(
        "decoder_input_details",
        "TGI",
        HONOURED,
        "the prompt's tokens and their logprobs in `prefill`; not streamed, not in a session",
        parameters(decoder_input_details=True),
        shows(lambda reply: len(details(reply)["prefill"]) == 4),
    ),
    Row(
        "grammar",
        "TGI",
        HONOURED,
        "`json`, `json_object`, `json_schema`, `regex`; ours: `choice`; see "
        "[constraints](../explanation/constraints.md)",
        parameters(grammar={"type": "json", "value": SCHEMA}),
        shows(is_json),
    ),
    Row(
        "watermark",
        "TGI",
        REFUSED,
        "there is none; false is accepted",
        parameters(watermark=True),
        nothing=False,
    ),
    Row("adapter_id", "TGI", REFUSED, "there are no adapters", parameters(adapter_id="a")),
)

NATIVE: tuple[Row, ...] = (
    Row(
        "model",
        "ours",
        HONOURED,
        "`name`, `name@version` or an alias; default the alias `default`",
        {"model": "awkward", "inputs": "<"},
        another_text,
    ),
    Row(
        "num_beams",
        "ours",
        HONOURED,
        "1 to 10: the most likely text that so many beams find; not with sampling parameters, "
        "not with `best_of`, not in a session",
        parameters(num_beams=6),
        is_likelier,
        parameters(do_sample=False),
    ),
    Row(
        "length_penalty",
        "ours",
        HONOURED,
        "of `num_beams` > 1: -10 to 10; a text's logprob is divided by its length to this power",
        parameters(length_penalty=-2.0),
        lambda plain, given: len(text(given)) < len(text(plain)),
        parameters(do_sample=False, num_beams=4, stop=[" ", "."]),
    ),
    Row(
        "min_new_tokens",
        "ours",
        HONOURED,
        "a stop string begins after so many, and a grammar is not complete before",
        parameters(min_new_tokens=30),
        shows(lambda reply: len(text(reply)) >= 30),
        parameters(stop=["e"], max_new_tokens=60),
    ),
    Row(
        "allowed_token_ids",
        "ours",
        HONOURED,
        "1 to 1,024 ids: no other token is generated",
        parameters(allowed_token_ids=[int(Q), E]),
        shows(lambda reply: set(text(reply)) <= set("qe")),
    ),
    Row(
        "bad_words",
        "ours",
        HONOURED,
        "at most 256 of 1 to 256 characters: the generated text contains none of them",
        parameters(bad_words=["e", "th"]),
        shows(lambda reply: "e" not in text(reply) and len(text(reply)) == 60),
        parameters(max_new_tokens=60),
    ),
    Row(
        "steer",
        "ours",
        HONOURED,
        "at most 64 cells: [steering](http.md#steering); not with beams",
        parameters(steer=STEER),
        another_text,
    ),
    Row(
        "max_time",
        "ours",
        HONOURED,
        "seconds, at most a day, the time in the queue included: then the text ends",
        parameters(max_time=0.3, max_new_tokens=1_000_000),
        lambda _, given: len(text(given)) < 1_000_000 and reason(given) == "length",
    ),
    Row("min_p", "ours", HONOURED, "[0, 1)", parameters(min_p=0.9), another_text),
    Row(
        "presence_penalty",
        "ours",
        HONOURED,
        "-2 to 2",
        parameters(presence_penalty=2.0),
        another_text,
    ),
    Row(
        "logit_bias",
        "ours",
        HONOURED,
        "by token id, -100 to 100, at most 1,024",
        parameters(logit_bias={Q: 100}, max_new_tokens=2),
        says("qq"),
    ),
    Row(
        "session_id",
        "ours",
        HONOURED,
        "or `X-Session-Id`: continues a session",
        {"session_id": "$session"},
        shows(lambda reply: reply.json().get("session")),
    ),
    Row(
        "expected_position",
        "ours",
        HONOURED,
        "412 unless the session is at this position",
        {"expected_position": 9},
        lambda _, given: given.status_code == 412,
        {"session_id": "$session"},
    ),
    Row(
        "on_disconnect",
        "ours",
        HONOURED,
        "with `continue` the turn of a disconnected client runs to its end",
        {"on_disconnect": "continue"},
        lambda _, given: given.status_code == 200,
        {"session_id": "$session"},
    ),
)


@dataclass(frozen=True, slots=True)
class Surface:
    """One API: its path, a plain request, and its rows."""

    title: str
    path: str
    base: dict[str, Any]
    rows: Sequence[Row]


TURN = {"role": "user", "content": "The "}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def replies(reply: Reply) -> str:
    """Return the first message that a stream of events makes up."""
    deltas = [one["choices"][0]["delta"] for one in events(reply) if one["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


# Parameters that chat shares with completions: the requests and checks are the same.
_SHARED = (
    *("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "logit_bias"),
    *("user", "top_k", "min_p", "repetition_penalty", "allowed_token_ids"),
    *("response_format", "structured_outputs", "priority", "logits_processors", "typical_p"),
    *("expected_position", "on_disconnect", "session_id", "ignore_eos"),
)
_BY_NAME = {row.name: row for row in OPENAI}
_OF_NO_USE = "of no use here"

CHAT: tuple[Row, ...] = (
    Row(
        "model",
        "OpenAI",
        HONOURED,
        "as for completions; `dummy` and `tgi`, which `huggingface_hub` sends for an address, are "
        "the default model",
        {"model": "dummy"},
        same_text,
    ),
    Row(
        "messages",
        "OpenAI",
        HONOURED,
        "1 to 4,096, at most 1,000,000 characters in all, written by the model's "
        "[chat template](http.md#chat); text alone; `name` and `refusal` are ignored",
        {"messages": [TURN, {"role": "assistant", "content": "with"}, TURN]},
        another_text,
    ),
    Row(
        "max_tokens",
        "OpenAI",
        HONOURED,
        "default 256, at most 1,000,000",
        {"max_tokens": 3},
        shows(lambda reply: len(text(reply)) == 3),
    ),
    Row(
        "max_completion_tokens",
        "OpenAI",
        HONOURED,
        "its newer name, which counts if both are given",
        {"max_completion_tokens": 3},
        shows(lambda reply: len(text(reply)) == 3),
    ),
    Row(
        "n",
        "OpenAI",
        HONOURED,
        "1 to 128; reply 0 is that of `n` 1; not in a session",
        {"n": 2},
        lambda plain, given: len(choices(given)) == 2 and text(given) == text(plain),
    ),
    Row(
        "stop",
        "OpenAI",
        HONOURED,
        "a string or up to 4, besides those of the chat template",
        {"stop": "e"},
        shows(lambda reply: choices(reply)[0]["stop_reason"] == "e"),
        LONG,
    ),
    Row(
        "stream",
        "OpenAI",
        HONOURED,
        "first the role, then one event a token; `finish_reason` null until the last",
        {"stream": True},
        lambda plain, given: replies(given) == text(plain),
    ),
    _BY_NAME["stream_options"],
    Row(
        "logprobs",
        "OpenAI",
        HONOURED,
        "true or false; the model's own",
        {"logprobs": True},
        shows(lambda reply: choices(reply)[0]["logprobs"]),
    ),
    Row(
        "top_logprobs",
        "OpenAI",
        HONOURED,
        "0 to 20, with `logprobs`",
        {"top_logprobs": 2},
        shows(lambda r: len(choices(r)[0]["logprobs"]["content"][0]["top_logprobs"]) == 2),
        {"logprobs": True},
    ),
    *(_BY_NAME[name] for name in _SHARED),
    Row(
        "bad_words",
        "vLLM",
        HONOURED,
        "as for completions",
        {"bad_words": ["e", "th"]},
        shows(lambda reply: "e" not in text(reply)),
        LONG,
    ),
    Row(
        "steer",
        "ours",
        HONOURED,
        "as for completions",
        {"steer": STEER},
        another_text,
    ),
    Row(
        "max_time",
        "ours",
        HONOURED,
        "as for completions",
        {"max_time": 0.3, "max_tokens": 1_000_000},
        lambda _, given: len(text(given)) < 1_000_000 and reason(given) == "length",
        {"bad_words": ["\n"]},  # so that the reply does not end before
    ),
    Row(
        "min_tokens",
        "vLLM",
        HONOURED,
        "as for completions",
        {"min_tokens": 30},
        shows(lambda reply: len(text(reply)) >= 30),
        {"stop": "e", **LONG},
    ),
    Row(
        "stop_token_ids",
        "vLLM",
        HONOURED,
        "as for completions",
        {"stop_token_ids": [E]},
        lambda plain, given: len(text(given)) < len(text(plain)) and "e" not in text(given),
        LONG,
    ),
    Row(
        "request_id",
        "vLLM",
        HONOURED,
        "the reply's `id` ends with it",
        {"request_id": "mine"},
        shows(lambda reply: reply.json()["id"] == "chatcmpl-mine"),
    ),
    Row(
        "cache_salt",
        "vLLM",
        HONOURED,
        "a cached prompt is used only with the same salt",
        {"cache_salt": "mine"},
        lambda plain, given: same_text(plain, given) and cached(given) == 0,
        {"messages": [{"role": "user", "content": "Long enough to be kept, and new. " * 4}]},
    ),
    Row(
        "length_penalty",
        "vLLM",
        REFUSED,
        "a reply is sampled; `/v1/completions` has beam search",
        {"length_penalty": -2.0},
        nothing=1.0,
    ),
    Row(
        "add_generation_prompt",
        "vLLM",
        HONOURED,
        "default true: the cue after which the model writes",
        {"add_generation_prompt": False},
        another_text,
    ),
    Row(
        "continue_final_message",
        "vLLM",
        HONOURED,
        "the last message, of `assistant`, goes on; not in a session",
        {"continue_final_message": True},
        another_text,
        {"messages": [TURN, {"role": "assistant", "content": "with"}]},
    ),
    Row("tools", "OpenAI", REFUSED, "a model writes text", {"tools": [TOOL]}, nothing=[]),
    Row("functions", "OpenAI", REFUSED, "likewise", {"functions": [{"name": "f"}]}, nothing=[]),
    Row("tool_choice", "OpenAI", REFUSED, "likewise", {"tool_choice": "required"}, nothing="none"),
    Row("function_call", "OpenAI", REFUSED, "likewise", {"function_call": {"name": "f"}}),
    Row("modalities", "OpenAI", REFUSED, "text alone", {"modalities": ["audio"]}, nothing=["text"]),
    Row("audio", "OpenAI", REFUSED, "text alone", {"audio": {"voice": "a", "format": "wav"}}),
    Row("prediction", "OpenAI", REFUSED, "there is no draft", {"prediction": {"type": "content"}}),
    Row("moderation", "OpenAI", REFUSED, "nothing classifies the text", {"moderation": {"a": 1}}),
    Row(
        "web_search_options",
        "OpenAI",
        REFUSED,
        "nothing is fetched for a request",
        {"web_search_options": {"search_context_size": "low"}},
    ),
    Row(
        "chat_template",
        "vLLM",
        REFUSED,
        "nothing that a client sends is executed; an admin sets a model's",
        {"chat_template": "{{ messages }}"},
    ),
    Row(
        "chat_template_kwargs",
        "vLLM",
        REFUSED,
        "a chat template has no variables",
        {"chat_template_kwargs": {"a": 1}},
        nothing={},
    ),
    Row("documents", "vLLM", REFUSED, "write them as messages", {"documents": [{"text": "a"}]}),
    Row("metadata", "OpenAI", IGNORED, "nothing is stored", {"metadata": {"a": "b"}}),
    Row("store", "OpenAI", IGNORED, "nothing is stored", {"store": True}),
    Row("safety_identifier", "OpenAI", IGNORED, "likewise", {"safety_identifier": "a"}),
    Row("parallel_tool_calls", "OpenAI", IGNORED, _OF_NO_USE, {"parallel_tool_calls": True}),
    Row("tool_prompt", "TGI", IGNORED, _OF_NO_USE, {"tool_prompt": "a"}),
    Row("prompt_cache_key", "OpenAI", IGNORED, "every prompt is cached", {"prompt_cache_key": "a"}),
    Row("prompt_cache_options", "OpenAI", IGNORED, "likewise", {"prompt_cache_options": {"a": 1}}),
    Row("prompt_cache_retention", "OpenAI", IGNORED, "likewise", {"prompt_cache_retention": "24h"}),
    Row("reasoning_effort", "OpenAI", IGNORED, _OF_NO_USE, {"reasoning_effort": "low"}),
    Row("verbosity", "OpenAI", IGNORED, _OF_NO_USE, {"verbosity": "low"}),
    Row("service_tier", "OpenAI", IGNORED, "there is one", {"service_tier": "auto"}),
)


def vectors(reply: Reply) -> list[Any]:
    return [one["embedding"] for one in reply.json()["data"]]


EMBEDDINGS: tuple[Row, ...] = (
    Row(
        "model",
        "OpenAI",
        HONOURED,
        "`name`, `name@version` or an alias; not one that reads a window",
        {"model": "awkward", "input": "<"},
        shows(lambda reply: reply.json()["model"] == "awkward@1"),
    ),
    Row(
        "input",
        "OpenAI",
        HONOURED,
        "as `prompt` of completions: at most 2,048 texts and 100,000 tokens in all",
        {"input": ["The ", "A "]},
        shows(lambda reply: len(vectors(reply)) == 2),
    ),
    Row(
        "encoding_format",
        "OpenAI",
        HONOURED,
        "`float`, or `base64` of little-endian float32",
        {"encoding_format": "base64"},
        shows(lambda reply: isinstance(vectors(reply)[0], str)),
    ),
    Row(
        "dimensions",
        "OpenAI",
        REFUSED,
        "the vector is the model's state; its own size is accepted",
        {"dimensions": 3},
    ),
    Row("user", "OpenAI", IGNORED, "no user is stored", {"user": "somebody"}),
    Row(
        "state",
        "ours",
        HONOURED,
        "`h` of the last layer, or `hc`: h, then c",
        {"state": "hc"},
        lambda plain, given: vectors(given)[0][: len(vectors(plain)[0])] == vectors(plain)[0],
    ),
    Row(
        "pooling",
        "ours",
        HONOURED,
        "`last`: after the last token; `mean` over all tokens",
        {"pooling": "mean"},
        lambda plain, given: vectors(given) != vectors(plain),
    ),
)


_NATIVE_BASE = {"inputs": "The "} | parameters(
    max_new_tokens=12, seed=1, do_sample=True, details=True
)
SURFACES = (
    Surface(
        "OpenAI: `POST /v1/completions`",
        "/v1/completions",
        {"prompt": "The ", "max_tokens": 12, "seed": 1},
        OPENAI,
    ),
    Surface(
        "OpenAI: `POST /v1/chat/completions`",
        "/v1/chat/completions",
        {"messages": [TURN], "max_tokens": 12, "seed": 1},
        CHAT,
    ),
    Surface("OpenAI: `POST /v1/embeddings`", "/v1/embeddings", {"input": "The "}, EMBEDDINGS),
    Surface(
        "Text Generation Inference: `POST /generate`, `/generate_stream`, `/`",
        "/generate",
        _NATIVE_BASE,
        TGI,
    ),
    Surface("Carousel's own, on the same routes", "/generate", _NATIVE_BASE, NATIVE),
)

_HEAD = """# Compatibility

Every parameter of the five APIs: honoured, refused with a reason, or ignored. This page is made
of the table `tests/clients/surface.py` by `python -m tests.clients.surface`; CI sends the requests
of each row to a running server. A refused field is a 422 that names it; so is a field that is not
listed.
"""


def page() -> str:
    """Return the page made of all rows."""
    parts = [_HEAD]
    for surface in SURFACES:
        lines = [
            f"| `{row.name}` | {row.of} | {row.verdict} | {row.note.replace('|', chr(92) + '|')} |"
            for row in surface.rows
        ]
        head = "| parameter | of | | |\n|---|---|---|---|"
        parts.append(f"## {surface.title}\n\n{head}\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
