"""The log in one database, the read models in another."""

from pathlib import Path
from uuid import uuid4

import pytest

from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.read_models import open_read_models
from deployledger.service.listing import Listing, list_page
from tests.domain.given import SERVING, fetched, history, requested
from tests.projections.examples import EXAMPLES, assert_folded, catch_all_up


@pytest.mark.parametrize("kinds", ["sqlite to postgres", "postgres to sqlite", "sqlite to sqlite", "memory"])
def test_read_models_may_be_elsewhere(
    kinds: str, empty_postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, other_file = f"sqlite:///{tmp_path / 'events.db'}", f"sqlite:///{tmp_path / 'below' / 'models.db'}"
    log_url, models_url = {
        "sqlite to postgres": (file, empty_postgres_url),
        "postgres to sqlite": (empty_postgres_url, other_file),
        "sqlite to sqlite": (file, other_file),
        "memory": (file, "sqlite://"),
    }[kinds]
    stream = uuid4()
    log = open_event_log(log_url, create=True)
    models = open_read_models(log, url=models_url, projections=EXAMPLES)
    log.append(history(requested(), stream=stream))
    assert models.get("deployment_status", str(stream)).version == 1
    log.append(history(requested(), fetched(), stream=stream)[1:])
    assert models.get("deployment_status", str(stream), "eventual").version == 1
    assert models.get("deployment_status", str(stream)).version == 2
    for _ in range(50):
        log.append(history(*SERVING, stream=uuid4()))
    page = list_page(models, Listing(limit=10), "current")
    assert (len(page), page.total, page.position) == (10, 51, 202)
    catch_all_up(models)
    assert_folded(models)
    for workers in (1, 2):
        models.rebuild(list(models.projections), workers=workers)
        assert_folded(models)
        assert not any(it.differences for it in models.verify(list(models.projections), workers=workers))
    assert {it.lag_events for it in models.status()} == {0}
    models.store.close()
    if kinds != "memory":
        again = open_read_models(log, url=models_url, projections=EXAMPLES)
        assert again.get("counts", str(stream), "eventual").count == 2
        again.store.close()
    log.close()
