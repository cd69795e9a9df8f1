"""Where requests are computed."""

import asyncio
import threading
import time

from deployledger.serving.executor import RequestExecutor


def spin(seconds: float) -> str:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return threading.current_thread().name


async def settled(*, is_work_bounded: bool = True) -> RequestExecutor:
    """Return an executor that knows that the model is fast."""
    executor = RequestExecutor(is_work_bounded=is_work_bounded)
    for _ in range(200):
        await executor.run(100, lambda: spin(0))
    return executor


async def test_small_requests_of_a_fast_model_need_no_thread() -> None:
    unknown = RequestExecutor(is_work_bounded=True)
    assert await unknown.run(100, lambda: spin(0)) != threading.current_thread().name
    executor = await settled()
    assert await executor.run(100, lambda: spin(0)) == threading.current_thread().name
    assert await executor.run(100_000, lambda: spin(0)) != threading.current_thread().name


async def test_a_model_that_may_be_slow_at_any_time_has_threads() -> None:
    executor = await settled(is_work_bounded=False)
    assert await executor.run(100, lambda: spin(0)) != threading.current_thread().name


async def test_after_one_slow_request_many_are_computed_in_threads() -> None:
    executor = await settled()
    await executor.run(100, lambda: spin(0.05))  # nobody could know
    for _ in range(50):
        assert await executor.run(100, lambda: spin(0)) != threading.current_thread().name
    for _ in range(200):
        await executor.run(100, lambda: spin(0))
    assert await executor.run(100, lambda: spin(0)) == threading.current_thread().name


async def test_small_requests_do_not_wait_for_large_ones() -> None:
    executor = RequestExecutor(is_work_bounded=True)
    finish = threading.Event()
    large = [asyncio.create_task(executor.run(10_000_000, finish.wait)) for _ in range(50)]
    await asyncio.sleep(0)
    assert await executor.run(100, lambda: "small") == "small"
    assert await executor.run(100_000, lambda: "middle") == "middle"
    finish.set()
    assert all(await asyncio.gather(*large))
