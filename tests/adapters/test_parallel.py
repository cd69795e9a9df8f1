"""Tasks that processes of their own do."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployledger.adapters.parallel import run_in_workers
from deployledger.domain.exceptions import ConfigurationError, MachineLearningServiceError

Tell = Callable[[int], None]


def double(task: dict[str, Any], tell: Tell) -> list[int]:
    time.sleep(task["seconds"])
    for _ in range(3):
        tell(7_000)
    print("this is no answer")
    return [os.getpid(), 2 * task["number"]]


def answer_much(task: dict[str, Any], tell: Tell) -> str:
    return "x" * task["size"]


def fail(task: dict[str, Any], tell: Tell) -> None:
    if task["how"] == "refuse":
        raise ConfigurationError("It is\nno good.", hint="Do better.")
    if task["how"] == "die":
        os._exit(0)
    if task["how"] == "stumble":
        raise RuntimeError("something")
    Path(task["file"]).touch()
    time.sleep(60)


def _run(function: Callable[..., Any], *tasks: dict[str, Any], progress: Tell = lambda n: None) -> list[Any]:
    return run_in_workers(function, tasks, progress)


def test_results_come_in_the_order_of_the_tasks() -> None:
    told: list[int] = []
    tasks = [{"number": number, "seconds": 0.3 - number / 10} for number in range(3)]
    results = _run(double, *tasks, progress=told.append)
    assert [it[1] for it in results] == [0, 2, 4]
    assert len({os.getpid(), *(it[0] for it in results)}) == 4
    assert sum(told) == 3 * 21_000


def test_what_is_done_meanwhile() -> None:
    told: list[int] = []
    task = {"number": 1, "seconds": 0}
    results = run_in_workers(double, [task], told.append, lambda tell: tell(5))
    assert [it[1] for it in results] == [2]
    assert sum(told) == 21_005


def test_what_is_done_meanwhile_stops_when_a_worker_fails() -> None:
    def work_for_ever(tell: Tell) -> None:
        while True:
            tell(1)
            time.sleep(0.01)

    with pytest.raises(MachineLearningServiceError, match=r"It is no good\."):
        run_in_workers(fail, [{"how": "refuse"}], lambda n: None, work_for_ever)


def test_workers_are_ended_when_what_is_done_meanwhile_fails(tmp_path: Path) -> None:
    def stumble(_: Tell) -> None:
        while not (tmp_path / "it").exists():
            time.sleep(0.01)
        raise ValueError("something")

    begin = time.monotonic()
    with pytest.raises(ValueError, match="something"):
        run_in_workers(fail, [{"how": "wait", "file": str(tmp_path / "it")}], lambda n: None, stumble)
    assert time.monotonic() - begin < 30


def test_a_result_may_be_large() -> None:
    first, second = _run(answer_much, {"size": 5_000_000}, {"size": 3})
    assert (len(first), second) == (5_000_000, "xxx")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("refuse", "A worker failed: It is no good."),
        ("die", "A worker failed: it ended too early."),
        ("stumble", "A worker failed: it ended too early."),
    ],
)
def test_one_that_fails_ends_the_others(how: str, message: str, tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(MachineLearningServiceError) as caught:
        _run(fail, {"how": "wait", "file": str(tmp_path / "it")}, {"how": how})
    assert caught.value.message == message
    assert time.monotonic() - begin < 30


def test_who_is_told_of_the_progress_may_stop_it() -> None:
    def stop(_: int) -> None:
        raise ValueError("enough")

    with pytest.raises(MachineLearningServiceError, match="A worker failed: ValueError: enough"):
        _run(double, {"number": 1, "seconds": 0}, {"number": 2, "seconds": 0}, progress=stop)
