"""What the daemon does again and again, or apart from everything else, goes on after a defect, which is told of."""
from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from pyfw.daemon import chores
from pyfw.daemon.chores import Chores
from pyfw.edge.defects import Defects


@pytest.fixture
def defects() -> Defects:
    return Defects(lambda text: None)


@pytest.fixture
def beside(defects: Defects, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chores]:
    monkeypatch.setattr(chores, "DEFECT_PAUSE_S", 0.0)
    with asyncio.Runner() as runner:
        beside = Chores(runner.get_loop(), defects)
        yield beside
        beside.close()


def test_a_chore_that_fails_is_done_again(beside: Chores, defects: Defects) -> None:
    done = 0

    def sweep() -> float:
        nonlocal done
        done += 1
        if done < 3:
            raise MemoryError
        return 3600.0

    async def for_a_while() -> None:
        task = asyncio.create_task(beside.again_and_again(sweep))
        while done < 3:
            await asyncio.sleep(0)
        task.cancel()

    beside.loop.run_until_complete(asyncio.wait_for(for_a_while(), 10))
    assert defects.count == 2


@pytest.mark.parametrize(("work", "count"), [(lambda: 1 // 0, 1), (lambda: None, 0)])
def test_work_that_nobody_waits_for_is_looked_at(beside: Chores, defects: Defects, work: Callable[[], object], count: int) -> None:
    beside.apart(work)
    beside.in_background(lambda: None).result()     # the worker does one after another
    assert defects.count == count
