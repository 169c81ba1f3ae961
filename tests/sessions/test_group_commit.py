"""The group commit: an internal error in one turn affects no other."""

import asyncio

from service.errors import CarouselError, StoreUnavailable
from service.sessions.group_commit import GroupCommit
from service.sessions.session import SessionKey
from service.sessions.store_replies import CommitEntry


class Scribe:
    """A writer that makes a mistake, or none."""

    def __init__(self, name: str, mistake: str = "") -> None:
        self.name, self.mistake = name, mistake
        self.heard: list[object] = []
        self.is_over = False

    def entry(self, *_) -> CommitEntry:
        if self.mistake == "entry":
            raise ValueError("a mistake")
        return CommitEntry(SessionKey("", self.name), "token", 0, b"", None)

    def committed(self, outcome: str, *_) -> None:
        if self.mistake == "committed":
            raise ValueError("a mistake")
        self.heard.append(outcome)

    def commit_unknown(self, error: CarouselError) -> None:
        if self.mistake == "commit_unknown":
            raise ValueError("a mistake")
        self.heard.append(type(error))


class Agreeing:
    async def commit(self, _, entries) -> list[tuple[str, int]]:
        if any(entry.key.id == "unheard" for entry in entries):
            raise StoreUnavailable("gone")
        return [("COMMITTED", 1)] * len(entries)


async def test_an_internal_error_in_one_turn_ends_that_one_only(caplog):
    ledger = GroupCommit(Agreeing())
    running = asyncio.create_task(ledger.run())
    scribes = [Scribe("a"), Scribe("b", "entry"), Scribe("c", "committed"), Scribe("d")]
    unheard = Scribe("unheard", "commit_unknown")
    for round_of in (scribes, [unheard], [Scribe("e")]):
        for scribe in round_of:
            ledger.add(scribe)
        await asyncio.sleep(0.01)
        assert not running.done()
    last = round_of[0]
    running.cancel()
    heard = [scribe.heard for scribe in (*scribes, last)]
    lost = [StoreUnavailable]
    assert heard == [["COMMITTED"], lost, lost, ["COMMITTED"], ["COMMITTED"]]
    assert "a mistake" in caplog.text
