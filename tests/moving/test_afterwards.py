"""What auditors ask has the same answer before a log moved and after."""

from pathlib import Path

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.export import export_log, import_log
from deployledger.audit import keys
from deployledger.audit.keys import Signer
from deployledger.domain.moments import AtRevision
from tests.domain.given import request as wanted


async def answers(service: MLModelDeploymentService, *, workers: int) -> dict[str, object]:
    end = service.event_log.position()
    page = await service.list_deployments(include_deleted=True)
    replayed = await service.replay(workers=workers)
    assert not replayed.problems
    assert (replayed.events, replayed.until) == (end, end)
    return {
        "list": [it.model_dump_json() for it in page],
        "fleet": [
            [it.model_dump_json() for it in await service.list_deployments(as_of=position)]
            for position in range(1, end + 1)
        ],
        "one": [
            (await service.get_deployment_status(it.deployment_id, as_of=AtRevision(1))).model_dump_json()
            for it in page
        ],
        "history": [
            [entry.model_dump_json() for entry in await service.get_deployment_history(it.deployment_id)]
            for it in page
        ],
        "digest": replayed.digest,
        "root": service.ledger.root(),
    }


async def test_every_answer_is_the_same(tmp_path: Path, empty_postgres_url: str) -> None:
    signer = Signer.parse(keys.generate("example.com/deployments")[0])
    async with MLModelDeploymentService(database_url=f"sqlite:///{tmp_path}/log.db") as service:
        for number in range(4):
            found = (await service.deploy_model(wanted(deployment_name=f"name-{number}"))).deployment_id
            await service.wait_for_deployment(found, timeout=60)
            if number % 2:
                request = wanted(deployment_name=f"renamed-{number}", model_uri="models:/iris/2")
                await service.update_deployment(found, request)
                await service.wait_for_deployment(found, timeout=60)
            if number == 2:
                await service.delete_deployment(found)
                await service.wait_for_deployment(found, timeout=60)
        checkpoint = service.ledger.checkpoint(signer)
        before = await answers(service, workers=1)
        export_log(service.event_log, tmp_path / "log.gz")
    async with MLModelDeploymentService(
        database_url=empty_postgres_url, create_schema=True, run_jobs=False
    ) as service:
        imported = import_log(service.event_log, tmp_path / "log.gz")
        assert imported.root == checkpoint.root == before["root"]
        assert await answers(service, workers=4) == before
        audited = service.ledger.verify([signer.verifier], [("kept", checkpoint.note)])
    assert audited.is_verified
    assert audited.covered == audited.size == checkpoint.size
