"""The fair queue against its definition, and what it promises an owner with one request."""

from hypothesis import given
from hypothesis import strategies as st

from service.generation.fair_queue import FairQueue


class Lines:
    """The definition: a list of owners, each with two lists of keys, searched in full."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, list[int], list[int], list[bool]]] = []

    def push(self, owner: str, key: int, *, is_new: bool) -> None:
        for name, new, old, _ in self.lines:
            if name == owner:
                (new if is_new else old).append(key)
                return
        self.lines.append((owner, [key], [], [False]) if is_new else (owner, [], [key], [False]))

    def pop(self) -> int:
        owner, new, old, turn = self.lines.pop(0)
        is_old = bool(old) and (turn[0] or not new)
        key, turn[0] = (old if is_old else new).pop(0), not is_old
        if new or old:
            self.lines.append((owner, new, old, turn))
        return key

    def remove(self, key: int) -> bool:
        for i, (_, new, old, _) in enumerate(self.lines):
            for keys in (new, old):
                if key in keys:
                    keys.remove(key)
                    if not new and not old:
                        del self.lines[i]
                    return True
        return False


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.sampled_from("abc"), st.booleans()),
        st.tuples(st.just("pop"), st.none(), st.none()),
        st.tuples(st.just("remove"), st.integers(0, 30), st.none()),
    ),
    max_size=60,
)


@given(actions=ACTIONS)
def test_the_queue_does_what_its_definition_does(actions):
    queue, lines, n = FairQueue[int](), Lines(), 0
    for action, argument, is_new in actions:
        if action == "push":
            queue.push(argument, n, is_new=is_new)
            lines.push(argument, n, is_new=is_new)
            n += 1
        elif action == "remove":
            assert queue.remove(argument) == lines.remove(argument)
        elif queue:
            assert queue.pop() == lines.pop()
        assert len(queue) == sum(len(new) + len(old) for _, new, old, _ in lines.lines)
        assert list(queue.owners) == [owner for owner, *_ in lines.lines]
        for owner, new, old, _ in lines.lines:
            assert queue.waiting_of(owner) == len(new) + len(old)


@given(others=st.lists(st.integers(1, 300), max_size=5))
def test_an_owner_waits_for_one_request_of_each_other_owner(others):
    queue = FairQueue[tuple[str, int]]()
    for i, count in enumerate(others):
        for k in range(count):
            queue.push(f"greedy {i}", (f"greedy {i}", k))
    queue.push("polite", ("polite", 0))
    before = [queue.pop() for _ in range(len(others) + 1)]
    assert ("polite", 0) in before


@given(news=st.integers(1, 300))
def test_a_preempted_request_waits_for_at_most_one_new_one(news):
    queue = FairQueue[int]()
    for k in range(news):
        queue.push("", k)
    queue.push("", -1, is_new=False)
    assert -1 in {queue.pop(), queue.pop()}
