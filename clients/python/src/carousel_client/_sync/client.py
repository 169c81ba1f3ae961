# Generated from ../_async: change that, and run `make client-sync`.
"""The client of one server."""

from collections.abc import Mapping, Sequence
from typing import Self, Unpack
from urllib.parse import urlencode

from carousel_client._sync.batches import BatchesAPI, FilesAPI
from carousel_client._sync.inspection import InspectionAPI
from carousel_client._sync.models import ModelsAPI
from carousel_client._sync.sessions import SessionsAPI
from carousel_client._sync.stream import Stream
from carousel_client._sync.train_jobs import CorporaAPI, TrainJobsAPI
from carousel_client._sync.transport import Transport
from carousel_client.inspection import Inspection
from carousel_client.parameters import GenerateParameters, InspectOptions, SteeredCell
from carousel_client.request import (
    TEXT,
    OnDisconnect,
    Request,
    completion,
    given,
    inspection,
    with_json,
)
from carousel_client.responses import GenerationResult, Score, ServerInfo, TextToken
from carousel_client.retry_policy import DEFAULT_TIMEOUT_S

DEFAULT_URL = "http://127.0.0.1:8000"


class Client:
    """Send requests to the Carousel server at `url`, with `headers` in each of them.

    `Client` blocks and may be shared by threads; `AsyncClient` is for one event loop. Both are
    closed by a `with` block or by `close`.

    An operation is attempted for `timeout_s` in all; a stream fails when it has not progressed for
    as long. Attempted again are requests that were not sent, transient errors (429, 503, 409
    `session_busy`), and lost responses of requests that may be repeated, as every turn of a
    session by its idempotency key. Every method raises subclasses of `CarouselClientError`.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`api_key` is sent with every request; a server without keys ignores it."""
        sent = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._transport = Transport(url, timeout_s, sent | dict(headers or {}))
        self.sessions = SessionsAPI(self._transport)
        self.models = ModelsAPI(self._transport)
        self.corpora = CorporaAPI(self._transport)
        self.train_jobs = TrainJobsAPI(self._transport)
        self.files = FilesAPI(self._transport)
        self.batches = BatchesAPI(self._transport)
        self.inspection = InspectionAPI(self._transport)

    def generate(
        self,
        inputs: str,
        *,
        model: str | None = None,
        session_id: str | None = None,
        expected_position: int | None = None,
        on_disconnect: OnDisconnect = "continue",
        timeout_s: float | None = None,
        **parameters: Unpack[GenerateParameters],
    ) -> GenerationResult:
        """Generate a completion and return it whole; with `session_id` as the session's next turn.

        With `on_disconnect="cancel"` a lost connection cancels the turn.
        """
        options = model, session_id, expected_position, on_disconnect
        request = completion("/generate", inputs, parameters, *options)
        return self._transport.execute(request, GenerationResult.from_json, timeout_s)

    def stream(
        self,
        inputs: str,
        *,
        model: str | None = None,
        session_id: str | None = None,
        expected_position: int | None = None,
        on_disconnect: OnDisconnect = "continue",
        timeout_s: float | None = None,
        **parameters: Unpack[GenerateParameters],
    ) -> Stream:
        """Generate a completion and stream its tokens; reading the first one sends the request.

        In a session the stream resumes after a lost connection, every token comes once and in
        order, and the turn runs to its end even if the stream is closed before, unless
        `on_disconnect="cancel"`. Without a session a connection that is lost after the first token
        raises StreamBroken.
        """
        options = model, session_id, expected_position, on_disconnect
        request = completion("/generate_stream", inputs, parameters, *options)
        return Stream(self._transport, request, session_id, timeout_s)

    def tokenize(self, text: str, model: str | None = None) -> tuple[TextToken, ...]:
        """Encode a text."""
        request = with_json("POST", "/tokenize", {"inputs": text, "model": model})
        return self._transport.execute(request, TextToken.several)

    def detokenize(self, ids: Sequence[int], model: str | None = None) -> str:
        """Decode tokens."""
        request = with_json("POST", "/detokenize", {"ids": list(ids), "model": model})
        return self._transport.execute(request, lambda body: str(body["text"]))

    def score(
        self,
        text: str,
        *,
        model: str | None = None,
        session_id: str | None = None,
        steer: Sequence[SteeredCell] | None = None,
        details: bool = False,
        timeout_s: float | None = None,
    ) -> Score:
        """Return the likelihood of a text; with `session_id` as a continuation of the session.

        The text may have any length; with `details`, which returns every token, up to 100,000
        characters, and with `steer`, which holds or changes cells, as much as a prompt.
        """
        options = {"model": model, "session_id": session_id}
        if details or steer is not None:
            steered = None if steer is None else list(steer)
            fields = {"inputs": text, **options, "steer": steered, "details": details}
            request = with_json("POST", "/score", fields)
        else:
            query = urlencode(given(**options))
            request = Request("POST", f"/score/text?{query}", text.encode(), TEXT)
        return self._transport.execute(request, Score.from_json, timeout_s)

    def inspect(
        self,
        text: str,
        *,
        model: str | None = None,
        session_id: str | None = None,
        timeout_s: float | None = None,
        **options: Unpack[InspectOptions],
    ) -> Inspection:
        """Return the gates and states of cells while the model reads a text.

        Without `signals` an LSTM's are i, f, g, o, c and h. With `session_id` the text is read as a
        continuation of the session, which does not change.
        """
        request = inspection(text, model, session_id, options, "json")
        return self._transport.execute(request, Inspection.from_json, timeout_s)

    def inspect_as_safetensors(
        self,
        text: str,
        *,
        model: str | None = None,
        session_id: str | None = None,
        timeout_s: float | None = None,
        **options: Unpack[InspectOptions],
    ) -> bytes:
        """Return the same as a safetensors file, in float32: up to 8,000,000 values."""
        request = inspection(text, model, session_id, options, "safetensors")
        return self._transport.send(request, timeout_s)

    def is_ready(self) -> bool:
        """Whether the server accepts generations now. Makes one attempt and raises nothing."""
        return self._transport.is_success(Request("GET", "/health/ready"))

    def info(self) -> ServerInfo:
        """Return the server's version, models and limits."""
        return self._transport.execute(Request("GET", "/info"), ServerInfo.from_json)

    def close(self) -> None:
        """Close every connection."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
