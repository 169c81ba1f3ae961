"""Every operation of the HTTP API: its request, and how its response is parsed.

An operation does no I/O; a transport executes it. Source: docs/reference/http.md.
"""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote, urlencode

from carousel_client.errors import UnexpectedResponse
from carousel_client.parameters import GenerateParameters, ImportOptions, TrainJobOptions
from carousel_client.responses import (
    GenerationResult,
    Model,
    ModelList,
    Score,
    ServerInfo,
    SessionState,
    TextToken,
)
from carousel_client.train_job_responses import Corpus, TrainJob

T = TypeVar("T")
OnDisconnect = Literal["cancel", "continue"]
Seeds = Literal["derive", "same"]

PAGE_CHARACTERS = 1_000_000
"""The longest part of a session's text that one response has."""

CORPUS_TIMEOUT_S = 600.0
MODEL_TIMEOUT_S = 600.0
"""Importing, loading or draining a model takes minutes, and the response follows it."""

_JSON = {"Content-Type": "application/json"}
_TEXT = {"Content-Type": "text/plain; charset=utf-8"}


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request. Only one that `is_repeatable` is sent again after a lost response."""

    method: str
    path: str
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_repeatable: bool = True

    def arguments(self, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return httpx2's arguments, with further headers."""
        return {
            "method": self.method,
            "url": self.path,
            "content": self.content,
            "headers": {**self.headers, **(headers or {})},
        }


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """A request and the parser of its response; its time limit is `min_timeout_s` or more."""

    request: Request
    parser: Callable[[bytes], T]
    min_timeout_s: float = 0.0

    def parse(self, content: bytes) -> T:
        """Return the value of a successful response. Raises UnexpectedResponse."""
        try:
            return self.parser(content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnexpectedResponse(
                f"the response to {self.request.method} {self.request.path} is not one of "
                f"Carousel's: {content[:200].decode(errors='replace')!r}"
            ) from error


# -- text


def completion(
    inputs: str,
    parameters: GenerateParameters,
    *,
    model: str | None,
    session_id: str | None,
    expected_position: int | None,
    on_disconnect: OnDisconnect,
    is_stream: bool,
) -> Request:
    """Request a completion; a session's has an idempotency key, so it is one turn if repeated."""
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


def generate(request: Request) -> Operation[GenerationResult]:
    """Return a whole completion."""
    return Operation(request, _json(GenerationResult.from_json))


def tokenize(text: str, model: str | None) -> Operation[tuple[TextToken, ...]]:
    """Encode a text."""
    request = _post("/tokenize", _given(inputs=text, model=model))
    return Operation(request, _json(lambda body: tuple(map(TextToken.from_json, body))))


def detokenize(ids: Sequence[int], model: str | None) -> Operation[str]:
    """Decode tokens."""
    request = _post("/detokenize", _given(ids=list(ids), model=model))
    return Operation(request, _json(lambda body: str(body["text"])))


def score(
    text: str, *, model: str | None, session_id: str | None, details: bool
) -> Operation[Score]:
    """Score a text; without details its length is not limited."""
    if details:
        request = _post("/score", _given(inputs=text, model=model, session_id=session_id))
    else:
        query = urlencode(_given(model=model, session_id=session_id))
        request = Request("POST", f"/score/text?{query}", text.encode(), _TEXT)
    return Operation(request, _json(Score.from_json))


# -- sessions


def create_session(
    *,
    model: str | None,
    session_id: str | None,
    text: str,
    ttl_s: int | None,
    seed: int | None,
) -> Operation[SessionState]:
    """Create a session. One without a given id may be created twice: the other has no user."""
    body = _given(model=model, session_id=session_id, text=text or None, ttl_s=ttl_s, seed=seed)
    return _session(_post("/sessions", body, is_repeatable=session_id is None))


def import_session(exported: bytes) -> Operation[SessionState]:
    """Create a session from an exported one."""
    headers = {"Content-Type": "application/octet-stream"}
    return _session(Request("POST", "/sessions/import", exported, headers))


def get_session(session_id: str) -> Operation[SessionState]:
    """Return the state of a session."""
    return _session(Request("GET", _session_path(session_id)))


def delete_session(session_id: str) -> Operation[None]:
    """Delete a session."""
    return Operation(Request("DELETE", _session_path(session_id)), _none)


def session_text(session_id: str, start: int) -> Operation[tuple[str, int]]:
    """Return a page of a session's text, and the position after it."""
    return Operation(
        Request("GET", _session_path(session_id, f"/text?from={start}")),
        _json(lambda body: (str(body["text"]), int(body["position"]))),
    )


def append(session_id: str, text: str, expected_position: int | None) -> Operation[SessionState]:
    """Append a text to a session; by its idempotency key it is appended once."""
    body = _given(text=text, expected_position=expected_position)
    return _session(_post(_session_path(session_id, "/append"), body, _new_key()))


def fork(
    session_id: str, n: int, at: int | None, seeds: Seeds
) -> Operation[tuple[SessionState, ...]]:
    """Fork a session. The forks may be created twice: the others have no user."""
    return Operation(
        _post(_session_path(session_id, "/fork"), _given(n=n, at=at, seeds=seeds)),
        _json(lambda body: tuple(map(SessionState.from_json, body["sessions"]))),
    )


def rewind(session_id: str, to: int) -> Operation[SessionState]:
    """Rewind a session. A repetition might remove the turn of another client."""
    return _session(_post(_session_path(session_id, "/rewind"), {"to": to}, is_repeatable=False))


def cancel_turn(session_id: str, number: int | None) -> Operation[SessionState]:
    """Cancel a running turn. Without its number a repetition might cancel the next one."""
    query = "" if number is None else f"?turn={number}"
    path = _session_path(session_id, f"/cancel{query}")
    return _session(Request("POST", path, is_repeatable=number is not None))


def export_session(session_id: str) -> Operation[bytes]:
    """Export a session as signed bytes."""
    return Operation(Request("GET", _session_path(session_id, "/state")), bytes)


def session_events(session_id: str, after: str | None) -> Request:
    """Request the events of a session's running or last turn after one of them."""
    return _events(_session_path(session_id, "/events"), after)


# -- models


def list_models() -> Operation[ModelList]:
    """List the stored versions and the aliases."""
    return Operation(Request("GET", "/admin/models"), _json(ModelList.from_json))


def load_model(ref: str, precision: str | None) -> Operation[Model]:
    """Load a stored version."""
    return _model(_post(_model_path(ref, "/load"), _given(precision=precision)))


def unload_model(ref: str) -> Operation[Model]:
    """Unload a version."""
    return _model(Request("POST", _model_path(ref, "/unload")))


def delete_model(ref: str) -> Operation[None]:
    """Delete a stored version."""
    return Operation(Request("DELETE", _model_path(ref)), _none)


def import_model(source: str, name: str, options: ImportOptions) -> Operation[Model]:
    """Import a checkpoint from the server's import folder."""
    body = {"source": source, "name": name, **options}
    return _model(_post("/admin/models", body, is_repeatable=False))


def set_alias(alias: str, ref: str) -> Operation[Mapping[str, str]]:
    """Point an alias at a model."""
    path = f"/admin/aliases/{_segment(alias)}"
    request = Request("PUT", path, json.dumps({"model": ref}).encode(), _JSON)
    return Operation(request, _json(lambda body: dict(body["aliases"])))


# -- training


def upload_corpus(text: str | bytes, name: str) -> Operation[Corpus]:
    """Store a text to train on."""
    content = text.encode() if isinstance(text, str) else text
    request = Request("POST", f"/corpora?{urlencode({'name': name})}", content, _TEXT)
    return Operation(request, _json(Corpus.from_json), CORPUS_TIMEOUT_S)


def list_corpora() -> Operation[tuple[Corpus, ...]]:
    """List the stored texts."""
    return Operation(
        Request("GET", "/corpora"),
        _json(lambda body: tuple(map(Corpus.from_json, body["corpora"]))),
    )


def submit_train_job(name: str, corpus: str, options: TrainJobOptions) -> Operation[TrainJob]:
    """Submit a train job. A repetition might train twice."""
    body = {"name": name, "corpus": corpus, **options}
    return _train_job(_post("/train-jobs", body, is_repeatable=False))


def list_train_jobs() -> Operation[tuple[TrainJob, ...]]:
    """List the train jobs."""
    return Operation(
        Request("GET", "/train-jobs"),
        _json(lambda body: tuple(map(TrainJob.from_json, body["jobs"]))),
    )


def get_train_job(job_id: str) -> Operation[TrainJob]:
    """Return the record of a train job."""
    return _train_job(Request("GET", _train_job_path(job_id)))


def cancel_train_job(job_id: str) -> Operation[TrainJob]:
    """Cancel a train job."""
    return _train_job(Request("POST", _train_job_path(job_id, "/cancel")))


def publish_train_job(job_id: str) -> Operation[TrainJob]:
    """Publish the best checkpoint of a cancelled train job as its model."""
    return _train_job(Request("POST", _train_job_path(job_id, "/publish")))


def train_job_events(job_id: str, after: str | None) -> Request:
    """Request the events of a train job after one of them."""
    return _events(_train_job_path(job_id, "/events"), after)


# -- the server


def is_ready() -> Request:
    """Request the server's readiness."""
    return Request("GET", "/health/ready")


def info() -> Operation[ServerInfo]:
    """Return the server's version, models and limits."""
    return Operation(Request("GET", "/info"), _json(ServerInfo.from_json))


# -- requests and parsers


def _post(
    path: str,
    body: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
    *,
    is_repeatable: bool = True,
) -> Request:
    return Request(
        "POST", path, json.dumps(body).encode(), {**_JSON, **(headers or {})}, is_repeatable
    )


def _events(path: str, after: str | None) -> Request:
    return Request("GET", path, headers={} if after is None else {"Last-Event-ID": after})


def _new_key() -> dict[str, str]:
    return {"Idempotency-Key": secrets.token_hex(16)}


def _given(**fields: Any) -> dict[str, Any]:
    """Return the fields of a body that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def _json(parse: Callable[[Any], T]) -> Callable[[bytes], T]:
    return lambda content: parse(json.loads(content))


def _none(_: bytes) -> None:
    return None


def _session(request: Request) -> Operation[SessionState]:
    return Operation(request, _json(SessionState.from_json))


def _model(request: Request) -> Operation[Model]:
    return Operation(request, _json(Model.from_json), MODEL_TIMEOUT_S)


def _train_job(request: Request) -> Operation[TrainJob]:
    return Operation(request, _json(TrainJob.from_json))


def _session_path(session_id: str, rest: str = "") -> str:
    return f"/sessions/{_segment(session_id)}{rest}"


def _model_path(ref: str, rest: str = "") -> str:
    return f"/admin/models/{_segment(ref)}{rest}"


def _train_job_path(job_id: str, rest: str = "") -> str:
    return f"/train-jobs/{_segment(job_id)}{rest}"


def _segment(name: str) -> str:
    """Quote a name as one segment of a path. Raises ValueError where it would change the path."""
    if not name.strip("."):
        raise ValueError(f"{name!r} is no name of a session, model, alias or train job")
    return quote(name, safe="@")
