"""What Hypothesis may let happen: a list of deeds, played in a world."""

from hypothesis import strategies as st

from tests.sessions.world import FAULTS, World, an_ask

WHICH = st.integers(0, 3)  # taken modulo what there is
NEAR = st.integers(0, 9)  # so far from the end of the log

asks = st.builds(
    an_ask,
    n=st.sampled_from([1, 2, 3, 6, 20]),
    prompt=st.lists(st.integers(0, 6), max_size=2).map(tuple),
    seed=st.integers(0, 5),
    key=st.sampled_from([None, None, "one", "two", "three"]),
    stop=st.sampled_from([(), (), ("ab",), ("c",)]),
    expected=st.sampled_from([None, None, None, None, 2]),
    penalty=st.sampled_from([1.0, 1.4]),
    pattern=st.sampled_from([None, None, "(ab|cde)*f", "[a-c]{3}", "(d|e){2,9}", "g?"]),
    is_whole=st.sampled_from([False, False, True]),
)
faults = st.lists(st.sampled_from(FAULTS), min_size=1, max_size=2)


def deed(name: str, *parts: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(st.just(name), *parts)


def deeds(asks: st.SearchStrategy) -> dict[st.SearchStrategy, int]:
    """What may happen, and how often."""
    return {
        deed("begin", WHICH, WHICH, asks): 4,
        deed("begin", WHICH, WHICH, asks, faults): 1,
        deed("again", WHICH, WHICH): 1,
        deed("work", WHICH): 4,
        deed("flush", WHICH): 3,
        deed("stumble", WHICH, faults): 3,
        deed("leave", WHICH): 1,
        deed("crash", WHICH): 1,
        deed("sleep", WHICH): 1,
        deed("usurp", WHICH): 2,
        deed("beat", WHICH): 1,
        deed("follow", WHICH, WHICH): 2,
        deed("append", WHICH, WHICH, st.lists(st.integers(0, 6), min_size=1, max_size=3)): 1,
        deed("fork", WHICH, WHICH, NEAR, st.sampled_from(["same", "derive"])): 1,
        deed("rewind", WHICH, WHICH, NEAR): 1,
        deed("cancel", WHICH, WHICH): 1,
        deed("restart_store"): 1,
    }


def stories_of(
    asks: st.SearchStrategy, more: dict[st.SearchStrategy, int] | None = None
) -> st.SearchStrategy:
    """Stories in which these are the turns, and in which `more` may happen."""
    every = [one for one, times in (deeds(asks) | (more or {})).items() for _ in range(times)]
    return st.lists(
        st.sampled_from(every).flatmap(lambda one: one),
        min_size=6,
        max_size=40,
    )


stories = stories_of(asks)

_OF_A_TURN = {"work", "flush", "stumble", "sleep", "usurp", "crash", "beat", "time_up"}
_OF_A_SESSION = {"begin", "append", "fork", "rewind", "cancel"}
MOST_SESSIONS = 4


def play(world: World, story: list) -> None:
    world.create((1, 2), seed=3)
    for name, *rest in story:
        tell(world, name, rest)
        world.check()
    world.settle()


def tell(world: World, name: str, rest: list) -> None:
    """One deed, with what it is about chosen among what there is."""
    if name in _OF_A_TURN:
        rest[0] = world.busy(rest[0])
    elif rest and name != "leave":
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
