"""Credentials are in nothing that leaves the database either: histories, exports, evidence, checkpoints."""

import gzip
import logging
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.export import export_log
from deployledger.audit import keys
from deployledger.audit.evidence.export import export_evidence
from deployledger.audit.keys import Signer
from deployledger.domain.exceptions import DeploymentError
from tests.domain.given import BATCH_JOB, request
from tests.service.outside import HeldOrchestrator

SECRET = "s3cr3t-Value-7"
WAIT = 60


async def test_secrets_in_what_is_given_away(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    private, _ = keys.generate("example.com/deployments")
    target = BATCH_JOB.model_copy(
        update={
            "input_uri": f"s3://KEY:{SECRET}@bucket/in.csv",
            "output_uri": f"https://b.example/out.csv?sig={SECRET}",
        }
    )
    orchestrator = HeldOrchestrator()
    orchestrator.failure = DeploymentError("iris", f"https://ann:{SECRET}@held.example said no")
    async with MLModelDeploymentService(
        None, None, orchestrator, database_url=database_url, signer=Signer.parse(private)
    ) as service:
        said: list[str] = []
        for name, change in {
            "failing": {"model_uri": f"https://ann:{SECRET}@models.example/iris?token={SECRET}"},
            "batch": {"deployment_target_config": target},
            "tagged": {"tags": {"from": f"s3://KEY:{SECRET}@bucket/x", "deep": [{"er": f"?sig={SECRET}"}]}},
        }.items():
            answer = await service.deploy_model(request(deployment_name=name, **change))
            ended = await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)
            found = answer.deployment_id
            said += [answer.model_dump_json(), ended.model_dump_json()]
            history = await service.get_deployment_history(found)
            said += [it.model_dump_json() for it in history]
            said.append((await service.get_deployment_status(found, as_of="r1")).model_dump_json())
            said.append(
                (await service.diff_deployment(found, from_=history[0].position, to="r1")).model_dump_json()
            )
        said += [it.model_dump_json() for it in await service.list_deployments(as_of=1)]
        replayed = await service.replay(against=lambda deployment, event: f"{deployment} {event!r}")
        said.append(repr(replayed))
        assert replayed.differences
        said.append(service.ledger.checkpoint().note)
        export_log(service.event_log, tmp_path / "log.gz")
        said.append(gzip.decompress((tmp_path / "log.gz").read_bytes()).decode())
        evidence = tmp_path / "evidence.zip"
        export_evidence(
            service.event_log, service.ledger, None, evidence, since=datetime(2020, 1, 1, tzinfo=UTC)
        )
        with zipfile.ZipFile(evidence) as archive:
            said += [archive.read(name).decode() for name in archive.namelist()]
    told = "\n".join([*said, caplog.text])
    assert "said no" in told, "the failure is told"
    assert "models.example" in told
    assert SECRET not in told
    assert private.split("+", 4)[-1].strip() not in told
