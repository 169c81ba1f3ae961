"""A network whose state is a digest of all it has consumed, so that any mix-up shows."""

import numpy as np

from service.models.step import Batch


class DigestProgram:
    """A step program with a short memory footprint and a perfect memory."""

    def __init__(self, vocabulary_size: int = 7) -> None:
        self.vocabulary_size = vocabulary_size

    def new_batch(self, capacity: int) -> Batch:
        return Batch(
            tokens=np.zeros(capacity, np.int64),
            states=(np.zeros((capacity, 1), np.uint64), np.zeros((capacity, 1), np.uint64)),
            logits=np.zeros((capacity, self.vocabulary_size), np.float32),
        )

    def step(self, batch: Batch, rows: int) -> None:
        h, c = (state[:rows] for state in batch.states)
        tokens = batch.tokens[:rows, None].astype(np.uint64)
        c[:] = _mix(c ^ _mix(h + tokens + np.uint64(1)))
        h[:] = _mix(h + c)
        columns = np.arange(1, self.vocabulary_size + 1, dtype=np.uint64)
        words = _mix(h ^ (columns * np.uint64(0x9E3779B97F4A7C15)))
        batch.logits[:rows] = (words >> np.uint64(40)).astype(np.float32) / 2.0**22 - 2.0


def _mix(x: np.ndarray) -> np.ndarray:
    """Finalizer of SplitMix64 (Steele, Lea & Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
