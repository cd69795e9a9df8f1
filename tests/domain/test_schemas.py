"""What a request may say, and how it is told what is wrong with it."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.requests import DeploymentRequest, DeploymentTargetConfig, ResourceConfig, Schema
from tests.domain.given import SERVICE, request

TARGET: dict[str, Any] = {"type": "api_service"}
REQUEST: dict[str, Any] = {
    "model_uri": "models:/iris/1",
    "deployment_name": "iris",
    "deployment_target_config": TARGET,
}
RESOURCES: dict[str, Any] = {}

LEGAL: list[tuple[type[Schema], dict[str, Any]]] = [
    (DeploymentTargetConfig, {"type": "api_service"}),
    (DeploymentTargetConfig, {"type": "batch_inference_job", "input_uri": "a", "output_uri": "b"}),
    (DeploymentTargetConfig, {"type": "edge_device", "instance_type": "pi-5"}),
    (DeploymentTargetConfig, {**TARGET, "replicas": 1, "port": 1}),
    (DeploymentTargetConfig, {**TARGET, "replicas": 1000, "port": 65535}),
    (DeploymentRequest, REQUEST),
    (DeploymentRequest, {**REQUEST, "model_uri": "x" * 2048}),
    (DeploymentRequest, {**REQUEST, "model_uri": "/models/with a space/é"}),
    (DeploymentRequest, {**REQUEST, "model_uri": "mlflow_runs:/<some_run_id>/my_model"}),
    (DeploymentRequest, {**REQUEST, "version_strategy": "update_existing"}),
    (DeploymentRequest, {**REQUEST, "tags": {"any": ["thing", {"JSON": None}]}}),
    (ResourceConfig, {}),
]

ILLEGAL: list[tuple[type[Schema], dict[str, Any], str]] = [
    (DeploymentTargetConfig, {}, "type"),
    (DeploymentTargetConfig, {"type": "mainframe"}, "type"),
    (DeploymentTargetConfig, {"type": None}, "type"),
    (DeploymentTargetConfig, {**TARGET, "replicas": 0}, "replicas"),
    (DeploymentTargetConfig, {**TARGET, "replicas": -1}, "replicas"),
    (DeploymentTargetConfig, {**TARGET, "replicas": 1001}, "replicas"),
    (DeploymentTargetConfig, {**TARGET, "replicas": 1.5}, "replicas"),
    (DeploymentTargetConfig, {**TARGET, "replicas": None}, "replicas"),
    (DeploymentTargetConfig, {**TARGET, "port": 0}, "port"),
    (DeploymentTargetConfig, {**TARGET, "port": -1}, "port"),
    (DeploymentTargetConfig, {**TARGET, "port": 65536}, "port"),
    (DeploymentTargetConfig, {**TARGET, "port": "http"}, "port"),
    (DeploymentTargetConfig, {**TARGET, "replica": 2}, "replica"),
    (DeploymentRequest, {**REQUEST, "model_uri": ""}, "model_uri"),
    (DeploymentRequest, {**REQUEST, "model_uri": " \t "}, "model_uri"),
    (DeploymentRequest, {**REQUEST, "model_uri": "models:/iris\n/1"}, "model_uri"),
    (DeploymentRequest, {**REQUEST, "model_uri": "models:/iris\x00/1"}, "model_uri"),
    (DeploymentRequest, {**REQUEST, "model_uri": "x" * 2049}, "model_uri"),
    (DeploymentRequest, {**REQUEST, "model_uri": None}, "model_uri"),
    (DeploymentRequest, {**REQUEST, "deployment_name": ""}, "deployment_name"),
    (DeploymentRequest, {**REQUEST, "version_strategy": "newest"}, "version_strategy"),
    (DeploymentRequest, {**REQUEST, "tags": ["a"]}, "tags"),
    (DeploymentRequest, {**REQUEST, "tags": {1: "a"}}, "tags"),
    (DeploymentRequest, {**REQUEST, "deployment_target_config": None}, "deployment_target_config"),
    (
        DeploymentRequest,
        {**REQUEST, "deployment_target_config": {"type": "x"}},
        "deployment_target_config.type",
    ),
    (DeploymentRequest, {**REQUEST, "resource_allocation": {"cpu_request": "much"}}, "resource_allocation"),
    (DeploymentRequest, {**REQUEST, "tag": {}}, "tag"),
]


@pytest.mark.parametrize(("schema", "fields"), LEGAL, ids=str)
def test_what_is_legal_is_accepted_both_ways(schema: type[Schema], fields: dict[str, Any]) -> None:
    assert schema(**fields) == schema.model_validate(fields)


@pytest.mark.parametrize(("schema", "fields", "names"), ILLEGAL, ids=lambda it: str(it)[:60])
def test_a_constructor_raises_the_error_of_the_guide(
    schema: type[Schema], fields: dict[str, Any], names: str
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        schema(**fields)
    assert refusal.value.status_code == 400
    assert refusal.value.message.startswith(f"Invalid request: {names}")
    assert "Value error" not in refusal.value.message
    assert "pydantic" not in refusal.value.message


@pytest.mark.parametrize(("schema", "fields", "names"), ILLEGAL, ids=lambda it: str(it)[:60])
def test_validation_by_pydantic_raises_the_error_of_pydantic(
    schema: type[Schema], fields: dict[str, Any], names: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        schema.model_validate(fields)
    assert ".".join(map(str, refusal.value.errors()[0]["loc"])).startswith(names)


def test_a_schema_within_a_body_raises_the_error_of_pydantic() -> None:
    class Body(BaseModel):
        target: DeploymentTargetConfig

    with pytest.raises(ValidationError):
        Body.model_validate_json('{"target": {"type": "api_service", "replicas": 0}}')


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        DeploymentTargetConfig(type="api_service", replicas=0, port=0)
    assert "replicas: " in refusal.value.message
    assert "port: " in refusal.value.message


# fmt: off
LEGAL_QUANTITIES = [
    "0", "2", "+2", "0.5", ".5", "2.", "500m", "100n",
    "5u", "1k", "1.5Gi", "64Ki", "1M", "2G", "1T", "1P",
    "1E", "1Ei", "1e3", "1E3", "1e-3", "12e+6",
]
ILLEGAL_QUANTITIES = [
    "", " ", "much", "-1", "1 Gi", " 1", "1\n", "1gi",
    "1GI", "1K", "1mi", "1Gib", "1.5.2", ".", "1e", "e3",
    "1e3.5", "1,5", "0x10", "1e3Gi", "٣", "５００m", "1m1",
]
# fmt: on


@pytest.mark.parametrize(
    "quantity",
    LEGAL_QUANTITIES,
)
def test_legal_quantities(quantity: str) -> None:
    resources = ResourceConfig(cpu_request=quantity, memory_request=quantity, gpu_request=quantity)
    assert resources.cpu_request == quantity


@pytest.mark.parametrize(
    "quantity",
    ILLEGAL_QUANTITIES,
)
@pytest.mark.parametrize("field", ["cpu_request", "memory_request", "gpu_request"])
def test_illegal_quantities(field: str, quantity: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a Kubernetes quantity") as refusal:
        ResourceConfig(**{field: quantity})
    assert field in refusal.value.message


def test_defaults() -> None:
    target = DeploymentTargetConfig(type="api_service")
    assert (target.replicas, target.port, target.serving_image) == (1, None, None)
    asked = DeploymentRequest(**REQUEST)
    assert (asked.version_strategy, asked.resource_allocation, asked.tags) == ("new", None, None)


def test_requests_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        request().deployment_name = "rose"
    with pytest.raises(ValidationError, match="frozen"):
        SERVICE.replicas = 3


def test_a_request_survives_json() -> None:
    asked = request(version_strategy="update_existing")
    assert DeploymentRequest.model_validate_json(asked.model_dump_json()) == asked


@pytest.mark.parametrize(
    "fields",
    [
        {"deployment_name": "n" * 2_000_000},
        {"model_uri": f"file://{'h' * 2_000}/m"},
        {"resource_allocation": {"cpu_request": "1" * 2_000_000}},
        {"n" * 2_000_000: 1},
        {"tags": {"t" * 2_000_000: object()}},
    ],
    ids=["name", "uri", "quantity", "field", "tag"],
)
def test_a_refusal_repeats_no_more_than_a_little_of_what_was_given(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        DeploymentRequest(**{**REQUEST, **fields})
    assert len(refusal.value.message) < 600
