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


async def test_small_requests_of_a_fast_model_need_no_thread() -> None:
    executor = RequestExecutor()
    assert await executor.run(100, lambda: spin(0)) != threading.current_thread().name
    assert await executor.run(100, lambda: spin(0)) == threading.current_thread().name
    assert await executor.run(100_000, lambda: spin(0)) != threading.current_thread().name


async def test_a_model_that_is_slow_is_computed_in_threads_until_it_is_fast() -> None:
    executor = RequestExecutor()
    await executor.run(100, lambda: spin(0))
    await executor.run(100, lambda: spin(0.05))  # nobody could know
    assert await executor.run(100, lambda: spin(0)) != threading.current_thread().name
    for _ in range(100):
        await executor.run(100, lambda: spin(0))
    assert await executor.run(100, lambda: spin(0)) == threading.current_thread().name


async def test_small_requests_do_not_wait_for_large_ones() -> None:
    executor = RequestExecutor()
    finish = threading.Event()
    large = [asyncio.create_task(executor.run(10_000_000, finish.wait)) for _ in range(50)]
    await asyncio.sleep(0)
    assert await executor.run(100, lambda: "small") == "small"
    assert await executor.run(100_000, lambda: "middle") == "middle"
    finish.set()
    assert all(await asyncio.gather(*large))
