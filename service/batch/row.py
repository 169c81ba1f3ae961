"""The rows of a batch's output, in OpenAI's shape: one JSON object for each line of the input."""

import json

from service.batch.call import RouteReply
from service.batch.line import BatchLine
from service.errors import CarouselError

_CREATED, _NOT_REPEATABLE = "created", "prompt_tokens_details"


def head_of(line: BatchLine) -> bytes:
    """Encode how a line's row begins: by this a row is known to be the line's."""
    return b'{"id": "batch_req_%b", ' % line.id.encode("ascii")


def reply_row(line: BatchLine, reply: RouteReply, created_s: int) -> bytes:
    """Encode the row of a line that a route has answered, also with an error.

    `created` and the number of cached tokens are of the moment: the first is `created_s`, the
    second is left out, so that a repeated run writes the same.
    """
    body, error = reply.body, "null"
    if reply.status >= 400:
        error = json.dumps(_error_of(body))
    elif line.call is not None and line.call.path.startswith("/v1/"):
        body = _repeatable(body, created_s)
    response = b'{"status_code": %d, "request_id": "%b", "body": %b}' % (
        reply.status,
        line.id.encode("ascii"),
        body,
    )
    return _row(line, response, error)


def error_row(line: BatchLine, error: CarouselError) -> bytes:
    """Encode the row of a line that no route has answered."""
    return refused_row(line, error.code, str(error))


def refused_row(line: BatchLine, code: str, message: str) -> bytes:
    """Encode the row of a line that was not tried."""
    return _row(line, b"null", json.dumps({"code": code, "message": message}))


def is_failed(row: bytes) -> bool:
    """Whether a row is of a line that has failed."""
    return not row.endswith(b', "error": null}\n')


def _row(line: BatchLine, response: bytes, error: str) -> bytes:
    told = f'"custom_id": {json.dumps(line.custom_id)}, "line": {line.number}, "response": '
    end = f', "error": {error}}}\n'
    return head_of(line) + told.encode("ascii") + response + end.encode("ascii")


def _repeatable(body: bytes, created_s: int) -> bytes:
    content = json.loads(body)
    if _CREATED in content:
        content[_CREATED] = created_s
    if isinstance(content.get("usage"), dict):
        content["usage"].pop(_NOT_REPEATABLE, None)
    return json.dumps(content).encode("ascii")


def _error_of(body: bytes) -> dict[str, str]:
    """Return the code and the message of an error reply, in either family's shape."""
    error = json.loads(body)
    if isinstance(error["error"], dict):
        return {"code": error["error"]["code"], "message": error["error"]["message"]}
    return {"code": error["error_type"], "message": error["error"]}
