"""What the daemon does again and again, or apart from everything else, goes on after a defect, which is told of."""
from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from pyfw.daemon import daemon as daemons
from pyfw.daemon.daemon import Daemon


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    monkeypatch.setattr(daemons, "DEFECT_PAUSE_S", 0.0)
    return Daemon(tmp_path / "none.yaml")


def test_a_chore_that_fails_is_done_again(daemon: Daemon) -> None:
    done = 0

    def sweep() -> float:
        nonlocal done
        done += 1
        if done < 3:
            raise MemoryError
        return 3600.0

    async def for_a_while() -> None:
        task = asyncio.create_task(daemon._again_and_again(sweep))
        while done < 3:
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(asyncio.wait_for(for_a_while(), 10))
    assert daemon._defects.count == 2


@pytest.mark.parametrize("work, count", [(lambda: 1 // 0, 1), (lambda: None, 0)])
def test_work_that_nobody_waits_for_is_looked_at(daemon: Daemon, work: Callable[[], object], count: int) -> None:
    daemon._apart(work)
    daemon._worker.shutdown(wait=True)
    assert daemon._defects.count == count
