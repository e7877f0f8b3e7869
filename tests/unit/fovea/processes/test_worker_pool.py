"""The pool of worker processes, with real processes."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from fovea.processes.fork_server import preload
from fovea.processes.worker_pool import PoolClosed, WorkerPool, WorkerTimeout
from fovea.processes.worker_process import WorkerDied
from tests import worker_tasks
from tests.worker_tasks import HELD_S

TIMEOUT_S = 60.0


@pytest.fixture(autouse=True, scope="module")
def fork_server() -> None:
    preload("tests.worker_tasks")


def pool_of(size: int) -> WorkerPool[Any, tuple[str, Any]]:
    return WorkerPool(worker_tasks.do, size=size, initialize=worker_tasks.initialize)


async def ask(pool: WorkerPool[Any, Any], verb: str, value: Any = None, *, timeout_s: float = HELD_S) -> Any:
    return (await pool.run((verb, value), timeout_s=timeout_s))[0]


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            answer = condition()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.01)  # another process is waited for


async def hold(pool: WorkerPool[Any, Any], file: Path) -> asyncio.Task[Any]:
    """A task that occupies a worker for good."""
    task = asyncio.create_task(ask(pool, "touch and hold", str(file)))
    await until(file.exists)
    return task


async def test_results_come_from_other_processes_that_were_initialized() -> None:
    async with pool_of(2) as pool:
        assert await ask(pool, "echo", {"a": b"b"}) == {"a": b"b"}
        assert await ask(pool, "pid") != os.getpid()
        assert await ask(pool, "initialized") is True


async def test_an_exception_arrives_with_the_place_where_it_was_raised() -> None:
    async with pool_of(1) as pool:
        pid = await ask(pool, "pid")
        with pytest.raises(ValueError, match="refused 3 bytes") as caught:
            await ask(pool, "refuse", b"abc")
        assert "worker_tasks.py" in caught.value.__notes__[0]
        assert await ask(pool, "pid") == pid


@pytest.mark.parametrize("verb", ["refuse unpicklably", "answer unpicklably"])
async def test_a_result_that_cannot_be_pickled_is_an_error_and_the_worker_goes_on(verb: str) -> None:
    async with pool_of(1) as pool:
        pid = await ask(pool, "pid")
        with pytest.raises(Exception, match=r"NeedsTwo|pickle"):
            await ask(pool, verb)
        assert await ask(pool, "pid") == pid


async def test_a_task_that_takes_too_long_is_ended_with_its_worker(tmp_path: Path) -> None:
    async with pool_of(1) as pool:
        pid = await ask(pool, "pid")
        with pytest.raises(WorkerTimeout, match=r"0\.2 s"):
            await ask(pool, "touch and hold", str(tmp_path / "a"), timeout_s=0.2)
        assert await ask(pool, "pid") != pid
        await until(lambda: not psutil.pid_exists(pid))


async def test_a_cancelled_task_frees_the_worker(tmp_path: Path) -> None:
    async with pool_of(1) as pool:
        pid = await ask(pool, "pid")
        task = await hold(pool, tmp_path / "a")
        waiting = asyncio.create_task(ask(pool, "pid"))
        task.cancel()
        assert await waiting != pid


async def test_a_crash_fails_its_own_task_and_is_distinguished_from_a_kill(tmp_path: Path) -> None:
    async with pool_of(2) as pool:
        held = await hold(pool, tmp_path / "a")
        with pytest.raises(WorkerDied) as caught:
            await ask(pool, "crash")
        assert caught.value.is_crash
        pid = await ask(pool, "pid")
        killed = await hold(pool, tmp_path / "b")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerDied) as caught:
            await killed
        assert not caught.value.is_crash
        assert not held.done()
        assert await ask(pool, "echo", 1) == 1
        held.cancel()


async def test_workers_that_ended_while_idle_fail_no_task() -> None:
    async with pool_of(2) as pool:
        pids = {await ask(pool, "pid"), await ask(pool, "pid")}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        await until(lambda: not any(psutil.pid_exists(pid) for pid in pids))
        assert [await ask(pool, "echo", i) for i in range(4)] == [0, 1, 2, 3]
        await until(lambda: pool.num_workers == 2)


async def test_sigterm_to_all_processes_lets_a_task_finish(tmp_path: Path) -> None:
    async with pool_of(1) as pool:
        pid = await ask(pool, "pid")
        os.kill(psutil.Process(pid).ppid(), signal.SIGTERM)
        os.kill(pid, signal.SIGTERM)
        assert await ask(pool, "pid") == pid


async def test_tasks_are_taken_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    async with pool_of(1) as pool:
        held = await hold(pool, tmp_path / "held")
        order: list[int] = []

        async def note(number: int) -> None:
            await ask(pool, "echo", number)
            order.append(number)

        tasks = []
        for number in range(12):
            tasks.append(asyncio.create_task(note(number)))
            await asyncio.sleep(0)
        tasks[5].cancel()
        held.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]


async def test_the_longest_wait_is_that_of_tasks_without_a_worker(tmp_path: Path) -> None:
    async with pool_of(1) as pool:
        held = await hold(pool, tmp_path / "a")
        assert pool.longest_wait_s == 0
        waiting = asyncio.create_task(ask(pool, "echo", 1))
        await until(lambda: pool.longest_wait_s > 0)
        held.cancel()
        assert await waiting == 1
        assert pool.longest_wait_s == 0


async def test_closing_ends_workers_and_fails_running_and_waiting_tasks(tmp_path: Path) -> None:
    pool = pool_of(1)
    async with pool:
        pid = await ask(pool, "pid")
        held = await hold(pool, tmp_path / "a")
        waiting = asyncio.create_task(ask(pool, "echo", 1))
        await until(lambda: pool.longest_wait_s > 0)
    for task in (held, waiting):
        with pytest.raises(PoolClosed):
            await task
    with pytest.raises(PoolClosed):
        await ask(pool, "echo", 1)
    await until(lambda: not psutil.pid_exists(pid))


async def test_a_start_that_is_cancelled_leaves_no_process() -> None:
    children = {child.pid for child in psutil.Process().children(recursive=True)}
    pool = pool_of(3)
    starting = asyncio.create_task(pool.__aenter__())
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    # The fork server and the resource tracker may be new, too.
    await until(lambda: len({c.pid for c in psutil.Process().children(recursive=True)} - children) <= 2)
    with pytest.raises(PoolClosed):
        await ask(pool, "echo", 1)


async def test_a_function_that_cannot_start_is_an_error_at_once() -> None:
    pool = WorkerPool(worker_tasks.do, size=1, initialize=os.abort)
    with pytest.raises(WorkerDied, match="did not become ready"):
        await pool.__aenter__()


async def test_a_task_that_failed_holds_no_memory() -> None:
    async with pool_of(1) as pool:
        gc.disable()
        try:
            value = Watched(1000)
            watched = weakref.ref(value)
            with pytest.raises(ValueError, match="1000"):
                await ask(pool, "refuse", value)
            del value
            await asyncio.sleep(0)
            await ask(pool, "echo", 1)
            assert watched() is None
        finally:
            gc.enable()


class Watched:
    """Something of a length, to which references are watched."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length
