"""The text of a file of training examples, as OpenAI's fine-tuning has them."""

import codecs
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from service.errors import Validation
from service.models.chat_template import ChatTemplate, Message

MAX_LINE_BYTES = 4 * 1024**2
_FORMS = {"text": {"text"}, "prompt": {"prompt", "completion"}, "messages": {"messages"}}
_KINDS = '{"text"}, {"prompt", "completion"} or {"messages"}'
_COPY_BYTES = 1024**2

JsonExcess = Callable[[bytes], str | None]
"""Returns which limit a JSON text exceeds, as a sentence; None if it exceeds none."""


def write_text(source: Path, text: Path, excess: JsonExcess) -> int | None:
    """Write the text of a file of examples to a new file; return how many there are.

    A file whose first line that is not blank is a JSON object is JSON Lines: each line is an
    example, all of one kind, and the examples follow each other, each ending with a line break.
    Messages are written by the default chat template. Any other file is the text itself: None.
    Raises Validation, which names the line. Blocks for as long as the file is.
    """
    with source.open("rb") as file, text.open("xb") as out:
        if not _has_examples(file):
            file.seek(0)
            while piece := file.read(_COPY_BYTES):
                out.write(piece)
            return None
        file.seek(0)
        n = 0
        for example in _examples(file, excess):
            out.write(example.encode() if example.endswith("\n") else f"{example}\n".encode())
            n += 1
        return n


def _has_examples(file: BinaryIO) -> bool:
    while line := file.readline(MAX_LINE_BYTES + 1):
        line = line.removeprefix(codecs.BOM_UTF8).strip()
        if line:
            return line.startswith(b"{") and (len(line) > MAX_LINE_BYTES or _is_object(line))
    return False


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _examples(file: BinaryIO, excess: JsonExcess) -> Iterator[str]:
    number, kind, template = 0, "", ChatTemplate.of_lines()
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        line = raw.removeprefix(codecs.BOM_UTF8).strip()
        if not line:
            continue
        if len(raw) > MAX_LINE_BYTES:
            raise Validation(f"line {number} has more than {MAX_LINE_BYTES} bytes; cut the example")
        if problem := excess(line):
            raise Validation(f"line {number}: {problem}")
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Validation(f"line {number} is not JSON: {error}") from error
        found = next((name for name in _FORMS if isinstance(value, dict) and name in value), "")
        if not found:
            raise Validation(f"line {number} is no example; one is {_KINDS}")
        if others := sorted(value.keys() - _FORMS[found]):
            raise Validation(
                f"line {number} has {others[0][:40]!r} beside {found!r}; an example is {_KINDS} "
                "and nothing else"
            )
        if kind and found != kind:
            raise Validation(f"line {number} has {found!r}, and those before have {kind!r}")
        kind = found
        yield _text(value, kind, template, number)


def _text(value: dict[str, Any], kind: str, template: ChatTemplate, number: int) -> str:
    if kind == "messages":
        messages = _messages(value["messages"], number)
        try:
            text = template.conversation(messages, has_cue=False)
        except Validation as error:
            raise Validation(f"line {number}: {error}") from error
    else:
        parts = [
            value.get(name) for name in ("prompt", "completion", "text") if name in _FORMS[kind]
        ]
        if not all(isinstance(part, str) for part in parts):
            raise Validation(f"line {number}: {_names(kind)} must be a text")
        text = "".join(map(str, parts))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Validation(f"line {number} has half of a surrogate pair, which is no text") from error
    if not text:
        raise Validation(f"line {number} is an example without a text")
    return text


def _names(kind: str) -> str:
    return " and ".join(f"`{name}`" for name in sorted(_FORMS[kind], reverse=True))


def _messages(value: Any, number: int) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise Validation(f"line {number}: `messages` is a list of messages")
    found = []
    for one in value:
        is_message = isinstance(one, dict) and set(one) == {"role", "content"}
        if not is_message or not all(isinstance(part, str) for part in one.values()):
            raise Validation(
                f"line {number}: a message is a `role` and a `content`, both texts, and nothing "
                "else: no weight, name, tool or picture is trained on"
            )
        found.append(Message(one["role"], one["content"]))
    return found
