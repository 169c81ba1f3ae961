"""Every call of the HTTP contract: the request that it is, and how to read its reply.

A call sends nothing; the link does. Source: docs/reference/http.md.
"""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote, urlencode

from service.client.job_replies import Corpus, Job
from service.client.parameters import ImportOptions, JobOptions, Parameters
from service.client.replies import (
    Generation,
    Info,
    Model,
    Models,
    Score,
    SessionState,
    TextToken,
)

T = TypeVar("T")
OnDisconnect = Literal["cancel", "continue"]
Seeds = Literal["derive", "same"]

PAGE_CHARACTERS = 1_000_000
"""Of a session's text, that one reply has at most."""

CORPUS_TIMEOUT_S = 600.0
MODEL_TIMEOUT_S = 600.0
"""A model is imported, loaded or drained for minutes, while the reply is waited for."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent. Only what `is_repeatable` is sent again when its first reply was lost."""

    method: str
    path: str
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_repeatable: bool = True


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request and how its reply is read; it is tried for `least_s` at least."""

    request: Request
    read: Callable[[bytes], T]
    least_s: float = 0.0


# -- text


def turn(
    inputs: str,
    parameters: Parameters,
    *,
    model: str | None,
    session_id: str | None,
    expected_position: int | None,
    on_disconnect: OnDisconnect,
    is_stream: bool,
) -> Request:
    """A generation. In a session it has a key of its own, so it is one turn however often sent."""
    body = _given(
        inputs=inputs,
        parameters=dict(parameters) or None,
        model=model,
        session_id=session_id,
        expected_position=expected_position,
        on_disconnect=None if session_id is None else on_disconnect,
    )
    path = "/generate_stream" if is_stream else "/generate"
    return _post(path, body, {} if session_id is None else _new_key())


def generate(request: Request) -> Call[Generation]:
    """A generation that is read whole."""
    return Call(request, _of(Generation.of))


def tokenize(text: str, model: str | None) -> Call[tuple[TextToken, ...]]:
    """The tokens of a text."""
    return Call(
        _post("/tokenize", _given(inputs=text, model=model)),
        _of(lambda body: tuple(TextToken.of(one) for one in body)),
    )


def detokenize(ids: Sequence[int], model: str | None) -> Call[str]:
    """The text of tokens."""
    body = _given(ids=list(ids), model=model)
    return Call(_post("/detokenize", body), _of(lambda body: str(body["text"])))


def score(text: str, *, model: str | None, session_id: str | None, details: bool) -> Call[Score]:
    """What a model thinks of a text; without details one of any length."""
    if details:
        body = _given(inputs=text, model=model, session_id=session_id)
        return Call(_post("/score", body), _of(Score.of))
    query = urlencode(_given(model=model, session_id=session_id))
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    return Call(Request("POST", f"/score/text?{query}", text.encode(), headers), _of(Score.of))


# -- sessions


def create_session(
    *,
    model: str | None,
    session_id: str | None,
    text: str,
    ttl_s: int | None,
    seed: int | None,
) -> Call[SessionState]:
    """A new session. One without an id of its own may be made twice: nobody knows the other."""
    body = _given(model=model, session_id=session_id, text=text or None, ttl_s=ttl_s, seed=seed)
    request = _post("/sessions", body, is_repeatable=session_id is None)
    return Call(request, _of(SessionState.of))


def import_session(exported: bytes) -> Call[SessionState]:
    """A new session of an exported one."""
    headers = {"Content-Type": "application/octet-stream"}
    return Call(Request("POST", "/sessions/import", exported, headers), _of(SessionState.of))


def get_session(session_id: str) -> Call[SessionState]:
    """A session as it stands."""
    return Call(Request("GET", session_path(session_id)), _of(SessionState.of))


def delete_session(session_id: str) -> Call[None]:
    """The end of a session."""
    return Call(Request("DELETE", session_path(session_id)), _nothing)


def session_text(session_id: str, first: int) -> Call[tuple[str, int]]:
    """A page of what a session has consumed and said, and the position after it."""
    return Call(
        Request("GET", session_path(session_id, f"/text?from={first}")),
        _of(lambda body: (str(body["text"]), int(body["position"]))),
    )


def append(session_id: str, text: str, expected_position: int | None) -> Call[SessionState]:
    """Text that a session is fed; its key makes it be fed once."""
    body = _given(text=text, expected_position=expected_position)
    return Call(_post(session_path(session_id, "/append"), body, _new_key()), _of(SessionState.of))


def fork(session_id: str, n: int, at: int | None, seeds: Seeds) -> Call[tuple[SessionState, ...]]:
    """Sessions that go on from one. They may be made twice: nobody knows the others."""
    return Call(
        _post(session_path(session_id, "/fork"), _given(n=n, at=at, seeds=seeds)),
        _of(lambda body: tuple(SessionState.of(one) for one in body["sessions"])),
    )


def rewind(session_id: str, to: int) -> Call[SessionState]:
    """A session cut back. Cut twice, it might lose what another client has said in between."""
    request = _post(session_path(session_id, "/rewind"), {"to": to}, is_repeatable=False)
    return Call(request, _of(SessionState.of))


def cancel_turn(session_id: str, number: int | None) -> Call[SessionState]:
    """The end of a turn that runs. Without its number, asked twice, it might be the next one's."""
    query = "" if number is None else f"?turn={number}"
    path = session_path(session_id, f"/cancel{query}")
    return Call(Request("POST", path, is_repeatable=number is not None), _of(SessionState.of))


def export_session(session_id: str) -> Call[bytes]:
    """All of a session, signed."""
    return Call(Request("GET", session_path(session_id, "/state")), bytes)


def events(session_id: str, after: str | None) -> Request:
    """The events of a session's running or last turn after one of them."""
    headers = {} if after is None else {"Last-Event-ID": after}
    return Request("GET", session_path(session_id, "/events"), headers=headers)


def session_path(session_id: str, rest: str = "") -> str:
    """Where a session is."""
    return f"/sessions/{_segment(session_id)}{rest}"


# -- models


def list_models() -> Call[Models]:
    """Every stored version."""
    return Call(Request("GET", "/admin/models"), _of(Models.of))


def load_model(ref: str, precision: str | None) -> Call[Model]:
    """A stored version that is to be loaded."""
    request = _post(_model_path(ref, "/load"), _given(precision=precision))
    return Call(request, _of(Model.of), MODEL_TIMEOUT_S)


def unload_model(ref: str) -> Call[Model]:
    """A loaded version that is not to be."""
    request = Request("POST", _model_path(ref, "/unload"))
    return Call(request, _of(Model.of), MODEL_TIMEOUT_S)


def delete_model(ref: str) -> Call[None]:
    """The end of a stored version."""
    return Call(Request("DELETE", _model_path(ref)), _nothing)


def import_model(source: str, name: str, options: ImportOptions) -> Call[Model]:
    """A checkpoint under the server's import folder that is to be a model."""
    body = {"source": source, "name": name, **options}
    request = _post("/admin/models", body, is_repeatable=False)
    return Call(request, _of(Model.of), MODEL_TIMEOUT_S)


def set_alias(alias: str, ref: str) -> Call[Mapping[str, str]]:
    """A name that is to stand for a model."""
    path = f"/admin/aliases/{_segment(alias)}"
    headers = {"Content-Type": "application/json"}
    request = Request("PUT", path, json.dumps({"model": ref}).encode(), headers)
    return Call(request, _of(lambda body: dict(body["aliases"])))


# -- training


def upload_corpus(text: str | bytes, name: str) -> Call[Corpus]:
    """A text to be stored."""
    content = text.encode() if isinstance(text, str) else text
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    request = Request("POST", f"/corpora?{urlencode({'name': name})}", content, headers)
    return Call(request, _of(Corpus.of), CORPUS_TIMEOUT_S)


def list_corpora() -> Call[tuple[Corpus, ...]]:
    """Every stored text."""
    return Call(
        Request("GET", "/corpora"),
        _of(lambda body: tuple(Corpus.of(one) for one in body["corpora"])),
    )


def submit_job(name: str, corpus: str, options: JobOptions) -> Call[Job]:
    """A model that is to be trained. Submitted twice, it would be trained twice."""
    body = {"name": name, "corpus": corpus, **options}
    return Call(_post("/train-jobs", body, is_repeatable=False), _of(Job.of))


def list_jobs() -> Call[tuple[Job, ...]]:
    """Every train job."""
    return Call(
        Request("GET", "/train-jobs"), _of(lambda body: tuple(Job.of(one) for one in body["jobs"]))
    )


def get_job(job_id: str) -> Call[Job]:
    """A train job as it stands."""
    return Call(Request("GET", _job_path(job_id)), _of(Job.of))


def cancel_job(job_id: str) -> Call[Job]:
    """A train job that is to end."""
    return Call(Request("POST", _job_path(job_id, "/cancel")), _of(Job.of))


def job_events(job_id: str, after: str | None) -> Request:
    """What is told of a train job after one of its events."""
    headers = {} if after is None else {"Last-Event-ID": after}
    return Request("GET", _job_path(job_id, "/events"), headers=headers)


# -- the service


def is_ready() -> Request:
    """Whether a generation would be taken."""
    return Request("GET", "/health/ready")


def info() -> Call[Info]:
    """What the server says of itself."""
    return Call(Request("GET", "/info"), _of(Info.of))


# --


def _post(
    path: str,
    body: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
    *,
    is_repeatable: bool = True,
) -> Request:
    all_headers = {"Content-Type": "application/json", **(headers or {})}
    return Request("POST", path, json.dumps(body).encode(), all_headers, is_repeatable)


def _new_key() -> dict[str, str]:
    return {"Idempotency-Key": secrets.token_hex(16)}


def _given(**fields: Any) -> dict[str, Any]:
    """The fields of a body that the caller has given."""
    return {name: value for name, value in fields.items() if value is not None}


def _of(parse: Callable[[Any], T]) -> Callable[[bytes], T]:
    return lambda content: parse(json.loads(content))


def _nothing(_: bytes) -> None:
    return None


def _model_path(ref: str, rest: str = "") -> str:
    return f"/admin/models/{_segment(ref)}{rest}"


def _job_path(job_id: str, rest: str = "") -> str:
    return f"/train-jobs/{_segment(job_id)}{rest}"


def _segment(name: str) -> str:
    """A name as one part of a path. Raises ValueError where it would lead elsewhere."""
    if not name.strip("."):
        raise ValueError(f"{name!r} is no name of anything on the server")
    return quote(name, safe="@")
