"""From the wish and what a process has carried out of it to the next thing to do."""

from collections.abc import Mapping

from service.fleet.wish import ModelWish, Wish
from service.models.spec import ModelRef


def next_to_change(
    wish: Wish,
    done: Mapping[ModelRef, ModelWish],
    failed_s: Mapping[ModelRef, float],
    now_s: float,
    retry_s: float,
) -> ModelRef | None:
    """Return a version that is to be loaded or unloaded, or None if nothing is left.

    `done` is what was carried out of each version's wish, also if it failed; `failed_s` is when.
    Unloads come first, for their memory, and what has failed is tried again at last.
    """
    left = [ref for ref, each in wish.models.items() if done.get(ref) != each]
    if left:
        return min(left, key=lambda ref: (wish.models[ref].is_loaded, ref))
    due = [ref for ref, at_s in failed_s.items() if now_s - at_s >= retry_s and wish.wants(ref)]
    return min(due, default=None)


def asks_for_load(wish: ModelWish, done: ModelWish | None) -> bool:
    """Return whether a version is to be loaded, be it again: else only its retention changes."""
    return done is None or not done.is_loaded or done.load_revision != wish.load_revision
