"""Stories: lists of actions that Hypothesis chooses, carried out in a world."""

from hypothesis import strategies as st

from tests.sessions.world import FAULTS, World, turn_request

WHICH = st.integers(0, 3)  # taken modulo the number of existing ones
NEAR = st.integers(0, 9)  # tokens from the end of the log

asks = st.builds(
    turn_request,
    n=st.sampled_from([1, 2, 3, 6, 20]),
    prompt=st.lists(st.integers(0, 6), max_size=2).map(tuple),
    seed=st.integers(0, 5),
    key=st.sampled_from([None, None, "one", "two", "three"]),
    stop=st.sampled_from([(), (), ("ab",), ("c",)]),
    expected=st.sampled_from([None, None, None, None, 2]),
    penalty=st.sampled_from([1.0, 1.4]),
    pattern=st.sampled_from([None, None, "(ab|cde)*f", "[a-c]{3}", "(d|e){2,9}", "g?"]),
    is_streamed=st.sampled_from([True, True, False]),
)
faults = st.lists(st.sampled_from(FAULTS), min_size=1, max_size=2)


def action(name: str, *parts: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(st.just(name), *parts)


def actions(asks: st.SearchStrategy) -> dict[st.SearchStrategy, int]:
    """The possible actions, and their weights."""
    return {
        action("begin", WHICH, WHICH, asks): 4,
        action("begin", WHICH, WHICH, asks, faults): 1,
        action("retry", WHICH, WHICH): 1,
        action("work", WHICH): 4,
        action("flush", WHICH): 3,
        action("commit_with_faults", WHICH, faults): 3,
        action("disconnect", WHICH): 1,
        action("crash", WHICH): 1,
        action("stall", WHICH): 1,
        action("stall_and_take_over", WHICH): 2,
        action("heartbeat", WHICH): 1,
        action("follow", WHICH, WHICH): 2,
        action("append", WHICH, WHICH, st.lists(st.integers(0, 6), min_size=1, max_size=3)): 1,
        action("fork", WHICH, WHICH, NEAR, st.sampled_from(["same", "derive"])): 1,
        action("rewind", WHICH, WHICH, NEAR): 1,
        action("cancel", WHICH, WHICH): 1,
        action("restart_store"): 1,
    }


def stories_of(
    asks: st.SearchStrategy, more: dict[st.SearchStrategy, int] | None = None
) -> st.SearchStrategy:
    """Stories with these turns, and with `more` actions."""
    every = [one for one, times in (actions(asks) | (more or {})).items() for _ in range(times)]
    return st.lists(
        st.sampled_from(every).flatmap(lambda one: one),
        min_size=6,
        max_size=40,
    )


stories = stories_of(asks)

_OF_A_TURN = {
    "work",
    "flush",
    "commit_with_faults",
    "stall",
    "stall_and_take_over",
    "crash",
    "heartbeat",
    "pass_deadline",
}
_OF_A_SESSION = {"begin", "append", "fork", "rewind", "cancel"}
MOST_SESSIONS = 4


def play(world: World, story: list) -> None:
    world.create((1, 2), seed=3)
    for name, *rest in story:
        do(world, name, rest)
        world.check()
    world.finish_all()


def do(world: World, name: str, rest: list) -> None:
    """Carry out one action on an existing process, session or client."""
    if name in _OF_A_TURN:
        rest[0] = world.busy(rest[0])
    elif rest and name != "disconnect":
        rest[0] %= len(world.processes)
    if name in _OF_A_SESSION:
        rest[1] %= len(world.keys)
    if name in {"fork", "rewind"}:
        rest[2] = max(0, len(world._log_now(world.keys[rest[1]])) - rest[2])
    if name == "fork" and len(world.keys) >= MOST_SESSIONS:
        return
    if name == "begin" and len(rest) == 4:
        world.processes[rest[0]].faults[:] = rest.pop()
    getattr(world, name)(*rest)
