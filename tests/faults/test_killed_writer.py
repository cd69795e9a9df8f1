"""A process that writes is killed in the middle of it, again and again."""

import random
import time
from pathlib import Path

from deployledger.adapters.event_log import open_event_log
from tests.faults.audit import acknowledged_in, assert_whole, new_command, rows
from tests.faults.conftest import times, wait_until
from tests.faults.workers import PROCESSES, append_commands, start

KILLS = times(20, 400)
MORE_EVENTS_THAN_ARE_WRITTEN = 4_000


def test_acknowledged_commands_survive_a_kill_and_none_is_partial(database_url: str, tmp_path: Path) -> None:
    log = open_event_log(database_url, create=True)
    log.create_schema()
    begin = PROCESSES.Event()
    begin.set()
    files = [tmp_path / f"acknowledged-{number}" for number in range(KILLS)]
    for number, file in enumerate(files):
        process = start(append_commands, database_url, file, number, MORE_EVENTS_THAN_ARE_WRITTEN, begin)
        wait_until(lambda file=file: file.exists() and file.stat().st_size > 0)  # type: ignore[misc]
        time.sleep(random.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode != 0
    acknowledged = acknowledged_in(*files)
    assert len(acknowledged) >= KILLS
    assert_whole(rows(database_url), acknowledged)
    log.append(new_command(3))  # nothing is left locked
    assert_whole(rows(database_url), acknowledged)
    log.close()
    print(f"{KILLS} kills, {len(acknowledged)} acknowledged commands, {len(rows(database_url))} events")
