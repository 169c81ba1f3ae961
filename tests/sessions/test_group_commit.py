"""The group commit: an internal error in one turn affects no other."""

import asyncio

from service.errors import CarouselError, StoreUnavailable
from service.sessions.group_commit import GroupCommit
from service.sessions.session import SessionKey
from service.sessions.store_replies import CommitEntry


class Source:
    """A source that raises an internal error in one of its methods, or in none."""

    def __init__(self, name: str, fault: str = "") -> None:
        self.name, self.fault = name, fault
        self.outcomes: list[object] = []
        self.is_over = False

    def take_entry(self, *_) -> CommitEntry:
        if self.fault == "take_entry":
            raise ValueError("an internal error")
        return CommitEntry(SessionKey("", self.name), "token", 0, b"", None)

    def committed(self, outcome: str, *_) -> None:
        if self.fault == "committed":
            raise ValueError("an internal error")
        self.outcomes.append(outcome)

    def commit_outcome_unknown(self, error: CarouselError) -> None:
        if self.fault == "commit_outcome_unknown":
            raise ValueError("an internal error")
        self.outcomes.append(type(error))


class CommittingStore:
    async def commit(self, _, entries) -> list[tuple[str, int]]:
        if any(entry.key.id == "unreachable" for entry in entries):
            raise StoreUnavailable("gone")
        return [("COMMITTED", 1)] * len(entries)


async def test_an_internal_error_in_one_turn_ends_that_one_only(caplog):
    commits = GroupCommit(CommittingStore())
    running = asyncio.create_task(commits.run())
    sources = [Source("a"), Source("b", "take_entry"), Source("c", "committed"), Source("d")]
    unreachable = Source("unreachable", "commit_outcome_unknown")
    for round_of in (sources, [unreachable], [Source("e")]):
        for source in round_of:
            commits.add(source)
        await asyncio.sleep(0.01)
        assert not running.done()
    last = round_of[0]
    running.cancel()
    outcomes = [source.outcomes for source in (*sources, last)]
    lost = [StoreUnavailable]
    assert outcomes == [["COMMITTED"], lost, lost, ["COMMITTED"], ["COMMITTED"]]
    assert "an internal error" in caplog.text
