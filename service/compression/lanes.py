"""The lanes of a compression: rows of a batch, each of which writes or reads its part of a text."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.compression import range_coder
from service.compression.symbols import SymbolTable
from service.errors import Validation
from service.models.step import Batch, KernelProgram, StateArrays, StepProgram

_PROBE_STEPS, _PROBE_ROWS = 24, 4

_NOT_NUMBERS = "the model's logits are no numbers within this file; compress it with another model"
DAMAGED = "the compressed file is damaged: its code is no text of the length that it gives"


@dataclass(frozen=True, slots=True)
class LaneStates:
    """What the lanes have learned before a frame: copies, in the order of the lanes."""

    tokens: npt.NDArray[np.int64]
    network: StateArrays
    flags: npt.NDArray[np.int64]
    bytes_seen: npt.NDArray[np.int64]


class Lanes:
    """Writes and reads frames of parts, one part for each lane, which goes on from frame to frame.

    Reading a frame takes the same steps with the same rows as writing it. One thread at a time.
    """

    def __init__(
        self, program: StepProgram, symbols: SymbolTable, lanes: int, threads: int = 1
    ) -> None:
        """`threads` share the lanes, where the program does not share its steps itself."""
        self._program, self._symbols = program, symbols
        self._batch: Batch = program.new_batch(lanes)
        self._batch.tokens[:] = symbols.first_token
        self._flags = range_coder.new_flag_counts(lanes)
        self._bytes_seen = range_coder.new_byte_counts(lanes)
        self._arguments = (
            program.arguments(self._batch) if isinstance(program, KernelProgram) else None
        )
        self._threads = threads if self._arguments is not None else 1

    def save(self) -> LaneStates:
        """Return what the lanes have learned."""
        batch = self._batch
        network = batch.read(range(len(batch.tokens)))
        return LaneStates(batch.tokens.copy(), network, self._flags.copy(), self._bytes_seen.copy())

    def restore(self, states: LaneStates) -> None:
        """Forget what was learned since."""
        self._batch.tokens[:] = states.tokens
        for lane in range(len(states.tokens)):
            self._batch.write(lane, tuple(array[lane] for array in states.network))
        self._flags[:], self._bytes_seen[:] = states.flags, states.bytes_seen

    def write(self, parts: Sequence[bytes]) -> list[bytes]:
        """Return the code of the next part of each of the first lanes. Raises Validation."""
        n = len(parts)
        symbols = [self._symbols.symbols_of(part) for part in parts]
        ends = np.cumsum([len(each) for each in symbols], dtype=np.int64)
        places = np.stack([ends - [len(each) for each in symbols], ends], axis=1)
        longest = max(len(each) for each in symbols)
        out = np.zeros((n, range_coder.most_bytes(longest)), np.uint8)
        coder = np.zeros((n, 3), np.int64)
        range_coder.begin_writing(coder)
        given, states = np.concatenate(symbols), np.zeros(n, np.int64)
        logits, has_text, tokens = self._batch.logits, self._symbols.has_text, self._batch.tokens
        counts = self._flags, self._bytes_seen, states

        def write_next(first: int, last: int) -> int:
            code = coder, out
            found: int = range_coder.write_tokens(
                logits, has_text, tokens, given, places, counts, code, first, last
            )
            return found

        self._run(n, states, write_next)
        range_coder.end_writing(coder, out)
        return [row[:size].tobytes() for row, size in zip(out, coder[:, 2], strict=True)]

    def read(self, sizes: Sequence[int], codes: Sequence[bytes]) -> list[bytes]:
        """Return the parts, of so many bytes, that were written as these codes. Raises Validation.

        Where the code is not one that the lanes have written, the parts are not those of the file.
        """
        n = len(sizes)
        ends = np.cumsum([len(code) for code in codes], dtype=np.int64)
        starts = ends - [len(code) for code in codes]
        given = np.frombuffer(b"".join(codes) + b"\0", np.uint8)
        out = np.zeros((n, max(sizes)), np.uint8)
        written = np.array([[0, size] for size in sizes], np.int64)
        coder, states = np.zeros((n, 3), np.int64), np.zeros(n, np.int64)
        range_coder.begin_reading(coder, given, starts, ends)
        logits, has_text, tokens = self._batch.logits, self._symbols.has_text, self._batch.tokens
        counts, code = (self._flags, self._bytes_seen, states), (coder, given, ends)
        pieces = self._symbols.token_bytes, self._symbols.offsets

        def read_next(first: int, last: int) -> int:
            text = out, written
            found: int = range_coder.read_tokens(
                logits, has_text, tokens, pieces, text, counts, code, first, last
            )
            return found

        self._run(n, states, read_next)
        return [row[:size].tobytes() for row, size in zip(out, sizes, strict=True)]

    def _run(
        self, n: int, states: npt.NDArray[np.int64], code_next: Callable[[int, int], int]
    ) -> None:
        """Take steps until each lane is at its end, and keep its state of that moment."""
        if self._arguments is None:
            self._run_lanes(0, n, states, code_next, lambda: self._program.step(self._batch, n))
        else:
            from service.models.int8_step import step_rows  # noqa: PLC0415 (compiled on use)

            size = -(-n // self._threads)
            arguments = self._arguments

            def run(first: int) -> None:
                last = min(n, first + size)
                self._run_lanes(
                    first, last, states, code_next, lambda: step_rows(arguments, first, last)
                )

            firsts = range(0, n, size)
            if len(firsts) == 1:
                run(0)
            else:
                with ThreadPoolExecutor(len(firsts)) as pool:
                    list(pool.map(run, firsts))
        if (states == range_coder.NOT_NUMBERS).any():
            raise Validation(_NOT_NUMBERS)
        if (states == range_coder.DAMAGED).any():
            raise Validation(DAMAGED)

    def _run_lanes(
        self,
        first: int,
        last: int,
        states: npt.NDArray[np.int64],
        code_next: Callable[[int, int], int],
        step: Callable[[], Any],
    ) -> None:
        kept: dict[int, StateArrays] = {}
        while len(kept) < last - first:
            step()
            if code_next(first, last):
                for lane in range(first, last):
                    if states[lane] and lane not in kept:
                        kept[lane] = self._batch.read([lane])
        for lane, arrays in kept.items():
            self._batch.write(lane, tuple(array[0] for array in arrays))


def probe(program: StepProgram) -> str:
    """Return a hash of the logits' bits after fixed tokens: two programs with one agree on them."""
    batch, digest, value = program.new_batch(_PROBE_ROWS), hashlib.sha256(), 1
    for _ in range(_PROBE_STEPS):
        for row in range(_PROBE_ROWS):
            value = (value * 1_103_515_245 + 12_345) % 2**31
            batch.tokens[row] = (value >> 8) % program.vocabulary_size
        program.step(batch, _PROBE_ROWS)
        digest.update(batch.logits.tobytes())
    return digest.hexdigest()[:32]
