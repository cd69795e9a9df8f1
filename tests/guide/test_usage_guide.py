"""Every example of the usage guide runs verbatim, in placeholder mode, and does what the guide says."""

import asyncio
import re
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from core_ai_layer.machine_learning_service import ml_service_exceptions
from core_ai_layer.machine_learning_service.ml_models_schemas import DeploymentRequest, DeploymentTargetConfig

GUIDE = Path(__file__).parents[2] / "docs" / "ml_model_deployment_service_usage.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TO_RUN = re.compile(r"^# To run: (.+)$", re.MULTILINE)


def examples() -> list[str]:
    """Return the guide's Python blocks; one that is commented out as a whole has one level of it removed."""
    blocks = _BLOCK.findall(GUIDE.read_text(encoding="utf-8"))
    return [_uncommented(block) for block in blocks]


def _uncommented(block: str) -> str:
    lines = block.splitlines()
    if any(line and not line.startswith("#") for line in lines):
        return block
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines) + "\n"


def run(example: str, namespace: dict[str, Any]) -> None:
    """Execute an example, and then what it says is to be run."""
    exec(compile(example, str(GUIDE), "exec"), namespace)
    for call in _TO_RUN.findall(example):
        exec(compile(call, str(GUIDE), "exec"), namespace)


def test_the_guide_has_all_its_examples() -> None:
    starts = (
        "from core_ai_layer",
        "from core_ai_layer",
        "import uuid",
        "async def run_list",
        "# Assuming",
        "# Ass",
    )
    blocks = examples()
    assert len(blocks) == len(starts)
    for block, start in zip(blocks, starts, strict=True):
        assert block.startswith(start)


def test_every_example_runs_verbatim(capsys: pytest.CaptureFixture[str]) -> None:
    initialise, deploy, status, list_all, update, delete = examples()
    namespace: dict[str, Any] = {
        name: getattr(ml_service_exceptions, name) for name in ("ConfigurationError", "ResourceNotFoundError")
    }

    run(initialise, namespace)
    service = namespace["deployment_service"]
    try:
        run(deploy, namespace)
        answer = re.fullmatch(
            r"Submitted deployment ID: (\S+), Name: MyModelAPIService_Prod, Status: creating\n",
            capsys.readouterr().out,
        )
        assert answer is not None
        deployment_id = UUID(answer[1])
        asyncio.run(service.wait_for_deployment(deployment_id, timeout=60))

        namespace["target_deployment_id"] = deployment_id
        run(status, namespace)
        assert capsys.readouterr().out == (
            f"Deployment {deployment_id} Status: active\n"
            "Endpoint URL: http://mymodelapiservice_prod.simulated.invalid:8080\n"
            "Deployed Model URI: mlflow_runs:/<some_run_id>/my_model\n"
        )

        run(list_all, namespace)
        assert capsys.readouterr().out == (
            f"Found 1 deployments:\n  ID: {deployment_id}, Name: MyModelAPIService_Prod, Status: active\n"
        )

        namespace["updated_deployment_request"] = DeploymentRequest(
            model_uri="mlflow_runs:/<new_run_id>/my_model",
            deployment_name="MyModelAPIService_Prod_V2",
            deployment_target_config=DeploymentTargetConfig(type="api_service", replicas=3),
        )
        run(update, namespace)
        assert capsys.readouterr().out == f"Deployment {deployment_id} update initiated. Status: updating\n"
        updated = asyncio.run(service.wait_for_deployment(deployment_id, timeout=60))
        assert (updated.status, updated.deployment_name) == ("active", "MyModelAPIService_Prod_V2")
        assert updated.deployed_model_version == "mlflow_runs:/<new_run_id>/my_model"
        assert updated.simulated

        run(delete, namespace)
        assert capsys.readouterr().out == f"Deployment {deployment_id} deletion process. Status: deleting\n"
        deleted = asyncio.run(service.wait_for_deployment(deployment_id, timeout=60))
        assert (deleted.status, deleted.endpoint_url) == ("inactive", None)
    finally:
        asyncio.run(service.close())


def test_the_examples_show_errors_as_the_guide_says(capsys: pytest.CaptureFixture[str]) -> None:
    initialise, _, status, _, update, delete = examples()
    unknown = uuid4()
    namespace: dict[str, Any] = {
        "ConfigurationError": ml_service_exceptions.ConfigurationError,
        "ResourceNotFoundError": ml_service_exceptions.ResourceNotFoundError,
        "asyncio": asyncio,
        "target_deployment_id": unknown,
        "updated_deployment_request": DeploymentRequest(
            model_uri="models:/iris/2",
            deployment_name="iris",
            deployment_target_config=DeploymentTargetConfig(type="api_service"),
        ),
    }
    run(initialise, namespace)
    try:
        for example, start in ((status, ""), (update, "Error updating deployment: "), (delete, "")):
            run(example, namespace)
            assert capsys.readouterr().out == f"{start}Deployment '{unknown}' was not found.\n"
    finally:
        asyncio.run(namespace["deployment_service"].close())


def test_the_exceptions_of_the_guide_say_what_it_says() -> None:
    e = ml_service_exceptions
    errors = [
        (e.ConfigurationError("no"), 400),
        (e.ResourceNotFoundError("Deployment", 7), 404),
        (e.DeploymentError("iris", "no"), 500),
        (e.ModelRegistryError("no"), 503),
        (e.ExternalServiceError("registry", "no"), 503),
    ]
    for error, status_code in errors:
        assert isinstance(error, e.MachineLearningServiceError)
        assert error.status_code == status_code
        assert error.message
