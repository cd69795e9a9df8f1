"""A model from a real MLflow server: logged, registered, deployed by its alias, served, and scored."""

import json
import urllib.request
from pathlib import Path

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from core_ai_layer.machine_learning_service.ml_models_schemas import DeploymentRequest, DeploymentTargetConfig
from deployledger.adapters.endpoint import Endpoint
from deployledger.adapters.prediction_request import Data, prediction_request
from tests.adapters.conftest import RegisteredIris


async def test_deploy_by_alias_and_score(
    registered_model: RegisteredIris, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered_model.tracking_uri)
    async with MLModelDeploymentService.local(home=tmp_path / "home", database_url="sqlite://") as service:
        accepted = await service.deploy_model(
            DeploymentRequest(
                model_uri=f"models:/{registered_model.name}@champion",
                deployment_name="Champion",
                deployment_target_config=DeploymentTargetConfig(type="api_service"),
            )
        )
        status = await service.wait_for_deployment(accepted.deployment_id, timeout=120)
        try:
            assert status.status == "active", status.message
            assert status.model_uri == f"models:/{registered_model.name}@champion"
            assert status.deployed_model_version == f"models:/{registered_model.name}/1"
            history = await service.get_deployment_history(accepted.deployment_id)
            assert history[1].data["artifact"]["model_version"] == "1"

            body = json.dumps({"inputs": [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]}).encode()
            request = urllib.request.Request(
                f"{status.endpoint_url}/invocations", body, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=30) as response:
                assert json.load(response)["predictions"] == [0, 2]

            endpoint = Endpoint(status.endpoint_url or "", timeout=30)
            model = endpoint.describe("Champion")
            assert model is not None
            assert (model.name, model.version, model.digest) == ("Champion", "1", status.artifact_digest)
            rows = Data("[[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]")
            answer = endpoint.predict(model.path, *prediction_request(rows, model))
            assert json.loads(answer)["predictions"] == [0, 2]
        finally:
            await service.delete_deployment(accepted.deployment_id)
            deleted = await service.wait_for_deployment(accepted.deployment_id, timeout=60)
            assert deleted.state == "deleted"
