"""Who gets a worker next, and when: memory of the tasks that run, order, and cancelled tasks."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from fovea.processes.worker_process import Worker
from fovea.processes.worker_queue import WorkerQueue


def workers(queue: WorkerQueue, count: int) -> list[Worker]:
    """Idle workers, which are never asked to do anything."""
    made = [cast(Worker, object()) for _ in range(count)]
    for worker in made:
        queue.give_back(worker)
    return made


async def ask(queue: WorkerQueue, num_bytes: int) -> asyncio.Task[Worker]:
    task = asyncio.create_task(queue.take(num_bytes))
    await settle()
    return task


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_tasks_run_together_as_long_as_they_fit_into_the_memory() -> None:
    queue = WorkerQueue(100)
    workers(queue, 4)
    first, second, third = [await ask(queue, 50) for _ in range(3)]
    assert [task.done() for task in (first, second, third)] == [True, True, False]
    queue.give_back(first.result())
    await settle()
    assert third.done()


async def test_a_small_task_uses_the_worker_that_a_large_one_cannot_use_yet() -> None:
    queue = WorkerQueue(100)
    workers(queue, 3)
    running, large = await ask(queue, 60), await ask(queue, 90)
    small = await ask(queue, 10)
    assert small.done()
    assert not large.done()
    queue.give_back(running.result())
    await settle()
    assert large.done()


async def test_a_large_task_is_overtaken_by_sixteen_at_most() -> None:
    queue = WorkerQueue(100)
    workers(queue, 3)
    running, large = await ask(queue, 60), await ask(queue, 90)
    for _ in range(16):
        small = await ask(queue, 10)
        queue.give_back(small.result())
    seventeenth = await ask(queue, 10)
    assert not seventeenth.done()
    assert not large.done()
    queue.give_back(running.result())
    await settle()
    assert large.done()
    assert seventeenth.done()


async def test_tasks_of_one_size_start_in_the_order_of_their_arrival() -> None:
    queue = WorkerQueue(100)
    (worker,) = workers(queue, 1)
    order: list[int] = []

    async def run(number: int) -> None:
        queue.give_back(await queue.take(70))
        order.append(number)

    held = await ask(queue, 100)
    tasks = [asyncio.create_task(run(number)) for number in range(6)]
    await settle()
    queue.give_back(held.result())
    await asyncio.gather(*tasks)
    assert held.result() is worker
    assert order == list(range(6))


@pytest.mark.parametrize("is_assigned", [False, True], ids=["waiting", "just assigned"])
async def test_a_cancelled_task_leaves_its_memory_and_its_worker_to_the_next(is_assigned: bool) -> None:
    queue = WorkerQueue(100)
    workers(queue, 1)
    held = await ask(queue, 100)
    cancelled, following = await ask(queue, 100), await ask(queue, 100)
    if is_assigned:
        queue.give_back(held.result())  # the cancelled task has not run since
        cancelled.cancel()
    else:
        cancelled.cancel()
        await settle()
        queue.give_back(held.result())
    await settle()
    assert cancelled.cancelled()
    assert following.done()


async def test_those_behind_a_cancelled_task_do_not_wait_for_it() -> None:
    queue = WorkerQueue(100)
    workers(queue, 3)
    await ask(queue, 60)
    large = await ask(queue, 90)
    for _ in range(16):
        queue.give_back((await ask(queue, 10)).result())
    small = await ask(queue, 10)
    assert not small.done()
    large.cancel()
    await settle()
    assert small.done()


async def test_memory_of_a_killed_worker_is_free_once_its_process_has_ended() -> None:
    queue = WorkerQueue(100)
    workers(queue, 2)
    killed = await ask(queue, 100)
    waiting = await ask(queue, 100)
    assert not waiting.done()
    queue.release(killed.result())
    await settle()
    assert waiting.done()
    assert waiting.result() is not killed.result()


async def test_what_can_never_fit_is_an_error_at_once() -> None:
    queue: Any = WorkerQueue(100)
    workers(queue, 1)
    with pytest.raises(ValueError, match="101 bytes; 100"):
        await queue.take(101)
