"""Event logs with some events, and their ledgers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.adapters.ledger.opening import open_ledger
from deployledger.audit import keys
from deployledger.audit.keys import Signer
from deployledger.audit.ledger import Ledger


@pytest.fixture(scope="session")
def signer() -> Signer:
    return Signer.parse(keys.generate("example.com/deployments")[0])


@pytest.fixture
def log(database_url: str) -> Iterator[DatabaseEventLog]:
    log = open_event_log(database_url, create=True)
    yield log
    log.close()


@pytest.fixture
def ledger(log: DatabaseEventLog) -> Iterator[Ledger]:
    ledger = open_ledger(log)
    yield ledger
    ledger.store.close()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "audit.key"
    keys.write_pair("example.com/deployments", path)
    return path
