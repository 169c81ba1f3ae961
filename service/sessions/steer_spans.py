"""The steered parts of a session's text: which steps of its network were steered, and how.

A step reads one token. Each turn begins with the step that reads the token before it, which no
turn before has read, so a steered turn from the position p on has the steps from p - 1 on. What
was steered is computed by the steered engine whenever it is computed again, all other steps by the
model's own: the two engines may round differently.

The store has a line for each span: its first step, the step after its last one (none while its
turn runs), and the steering as JSON. A begin closes and cuts the lines before it adds its own.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from service.errors import Validation
from service.models.steering import ENDLESS, Steering, packed, unpacked

STEERED = "steered-"  # before the digest in the record, so that earlier versions refuse the session
MAX_SPANS = 256  # of a session
MAX_SPANS_BYTES = 65_536  # of their lines: each reply of the store has them

_LINE = re.compile(r"(\d{1,15}) (\d{0,15}) (\[.*\])")


@dataclass(frozen=True, slots=True)
class Leg:
    """Steps that one engine computes: those that read the tokens from `start` up to `stop`."""

    start: int
    stop: int
    steer: Steering | None  # None: by the model's own engine; (): by the steered one, unchanged


def first_step(position: int) -> int:
    """Return the first step of a turn that begins at a position of the log."""
    return max(0, position - 1)


def steer_text(steering: Steering) -> str:
    """Return a steering as the store has it; '' for none."""
    return json.dumps(packed(steering), separators=(",", ":")) if steering else ""


def open_line(position: int, text: str) -> str:
    """Return the line of a turn that begins at a position, as `begin.lua` writes it."""
    return f"{first_step(position)}  {text}\n" if text else ""


def cut(lines: str, position: int) -> str:
    """Return the lines of a log that ends at a position, all of them closed, as the scripts do."""
    end, kept = first_step(position), []
    for line in lines.splitlines():
        start, stop, text = line.split(" ", 2)
        last = min(int(stop), end) if stop else end
        if int(start) < last:
            kept.append(f"{start} {last} {text}\n")
    return "".join(kept)


def spans_of(lines: str) -> list[Leg]:
    """Decode the lines of a session, in order. Raises Validation for what is none."""
    spans, end = list[Leg](), 0
    for line in lines.splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            raise Validation("the session's record of its steering is damaged")
        start, stop = int(found[1]), int(found[2]) if found[2] else ENDLESS
        if not end <= start < stop:
            raise Validation(
                f"the session's record of its steering is damaged: a part from token {start} to "
                f"{stop} follows one that ends at {end}"
            )
        spans.append(Leg(start, stop, _steering_of(found[3])))
        end = stop
    return spans


def _steering_of(text: str) -> Steering:
    try:
        return unpacked(json.loads(text))
    except ValueError as error:
        raise Validation("the session's record of its steering is damaged") from error


def legs(lines: str, start: int, stop: int) -> Iterator[Leg]:
    """Yield which engine computes the steps from `start` up to `stop`, in order."""
    at = start
    for span in spans_of(lines) if lines else ():
        first, last = max(at, span.start), min(stop, span.stop)
        if first >= last:
            continue
        if at < first:
            yield Leg(at, first, None)
        yield Leg(first, last, span.steer)
        at = last
    if at < stop:
        yield Leg(at, stop, None)


def is_steered(lines: str, start: int, stop: int) -> bool:
    """Whether the steered engine computes a step from `start` up to `stop`."""
    return bool(lines) and any(leg.steer is not None for leg in legs(lines, start, stop))
