"""One piece of work at a time, and owners take turns."""

import asyncio
import threading

import pytest

from service.errors import Overloaded
from service.inspection.config import InspectionConfig
from service.inspection.inspection_thread import InspectionThread


def test_owners_take_turns_however_much_one_asks_for():
    async def check() -> list[str]:
        thread, done, gate = InspectionThread(InspectionConfig()), list[str](), threading.Event()
        tasks = [asyncio.create_task(thread.run("a", gate.wait))]
        await asyncio.sleep(0)
        for owner in ["a", "a", "a", "b", "b"]:
            tasks.append(asyncio.create_task(thread.run(owner, lambda who=owner: done.append(who))))
            await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*tasks)
        thread.close()
        return done

    assert asyncio.run(check()) == ["a", "b", "a", "b", "a"]


def test_work_runs_in_one_thread_of_its_own_and_errors_are_its_callers():
    async def check() -> set[str]:
        thread, running, names = InspectionThread(InspectionConfig()), set[int](), set[str]()

        def work(number: int) -> None:
            assert not running
            running.add(number)
            names.add(threading.current_thread().name)
            running.remove(number)
            if number == 3:
                raise ValueError(number)

        tasks = [thread.run(str(number % 3), lambda n=number: work(n)) for number in range(9)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [number for number, result in enumerate(results) if result is not None] == [3]
        assert await thread.run("a", lambda: 7) == 7
        thread.close()
        return names

    (name,) = asyncio.run(check())
    assert name.startswith("inspection")


def test_a_request_that_is_cut_leaves_its_place_to_the_next():
    async def check() -> list[int]:
        thread, gate = InspectionThread(InspectionConfig()), threading.Event()
        first = asyncio.create_task(thread.run("a", gate.wait))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(thread.run("a", lambda n=n: n)) for n in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        waiting[1].cancel()
        gate.set()
        assert await first
        found = [await waiting[2], await thread.run("b", lambda: 9)]
        thread.close()
        return found

    assert asyncio.run(check()) == [2, 9]


def test_places_are_limited_for_an_owner_and_for_all():
    thread = InspectionThread(InspectionConfig(max_per_owner=1, max_inspections=2))
    with thread.admit("a"):
        with pytest.raises(Overloaded, match="1 inspections of yours run or wait; the limit is 1"):
            thread.admit("a").__enter__()
        with thread.admit("b"), pytest.raises(Overloaded, match="2 inspections run or wait"):
            thread.admit("c").__enter__()
        thread.admit("c").__enter__()
    thread.close()
