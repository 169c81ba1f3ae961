"""Binary formats of tokens, states and exported sessions: a header, numbers and a checksum.

A state is `CRS1`, its position (u64), the first 16 bytes of the model's digest, the payload's
length (u32) and its BLAKE2b checksum (8 bytes), then every array as little-endian float32. An
exported session is `CRX1`, the length of a JSON header (u32), the header, the state, the tokens,
and a signature over all of it. One with a steered text is `CRX2`, which a server that knows of no
steering refuses: its state does not follow from its tokens alone.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.errors import Validation
from service.models.step import State
from service.sessions.signing import Signer

STATE_MAGIC, EXPORT_MAGIC, STEERED_MAGIC = b"CRS1", b"CRX1", b"CRX2"
SIGNATURE_BYTES = 32
_STATE_HEAD = struct.Struct("<4sQ16sI8s")
_LENGTH = struct.Struct("<4sI")


class DamagedState(ValueError):
    """Bytes that are not a valid state of the model."""


def pack_tokens(tokens: Sequence[int], width: int) -> bytes:
    """Encode tokens, `width` bytes each."""
    return bytes(tokens) if width == 1 else np.asarray(tokens, f"<u{width}").tobytes()


def unpack_tokens(packed: bytes, width: int) -> list[int]:
    """Decode the bytes of `pack_tokens`."""
    return list(packed) if width == 1 else np.frombuffer(packed, f"<u{width}").tolist()


def pack_state(state: State, digest: str) -> bytes:
    """Encode a state with its position, its model's digest and a checksum."""
    payload = b"".join(array.astype("<f4", copy=False).tobytes() for array in state.arrays)
    model = bytes.fromhex(digest[:32])
    head = _STATE_HEAD.pack(STATE_MAGIC, state.position, model, len(payload), _sum(payload))
    return head + payload


def unpack_state(packed: bytes, digest: str, widths: Iterable[int]) -> State:
    """Decode the bytes of `pack_state`; `widths` are the units of each array.

    Raises DamagedState if the bytes are incomplete or changed, or of another model.
    """
    head, payload = packed[: _STATE_HEAD.size], packed[_STATE_HEAD.size :]
    if len(head) < _STATE_HEAD.size:
        raise DamagedState("it is shorter than its header")
    magic, position, model, length, checksum = _STATE_HEAD.unpack(head)
    ends = np.cumsum(list(widths))
    if magic != STATE_MAGIC or model != bytes.fromhex(digest[:32]):
        raise DamagedState("it is not a state of this model")
    if length != len(payload) or length != 4 * ends[-1] or checksum != _sum(payload):
        raise DamagedState("its checksum or length differs")
    flat = np.frombuffer(payload, "<f4").astype(np.float32)
    return State(position, tuple(np.split(flat, ends[:-1])))


@dataclass(frozen=True, slots=True)
class Export:
    """An exported or new session's content: its log, its state and its model's name and digest."""

    model: str
    digest: str
    seed: int
    width: int
    tokens: bytes
    state: bytes  # as pack_state; empty if no token has been consumed
    steer: str = ""  # the lines of its steered spans, all of them closed

    def pack(self, signer: Signer) -> bytes:
        """Encode and sign it."""
        header: dict[str, Any] = {
            "model": self.model,
            "digest": self.digest,
            "seed": str(self.seed),
            "width": self.width,
            "state_bytes": len(self.state),
        }
        if self.steer:
            header["steer"] = self.steer
        text = json.dumps(header).encode()
        magic = STEERED_MAGIC if self.steer else EXPORT_MAGIC
        content = _LENGTH.pack(magic, len(text)) + text + self.state + self.tokens
        return content + signer.sign(content)

    @classmethod
    def unpack(cls, packed: bytes, signer: Signer) -> "Export":
        """Decode the bytes of `pack`, after checking the signature. Raises Validation."""
        content, signature = packed[:-SIGNATURE_BYTES], packed[-SIGNATURE_BYTES:]
        if not content.startswith((EXPORT_MAGIC, STEERED_MAGIC)):
            raise Validation("the body is not an exported session")
        if not signer.is_signed(content, signature):
            raise Validation(
                "the signature is not valid: the file is damaged, or it was exported by a server "
                "with another CAROUSEL_SECRET"
            )
        _, length = _LENGTH.unpack(content[: _LENGTH.size])
        text, rest = content[_LENGTH.size :][:length], content[_LENGTH.size + length :]
        header = json.loads(text)
        size, seed, width = header["state_bytes"], int(header["seed"]), header["width"]
        model, digest, steer = header["model"], header["digest"], header.get("steer", "")
        return cls(model, digest, seed, width, rest[size:], rest[:size], steer)


def _sum(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=8).digest()
