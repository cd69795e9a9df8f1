"""What clients report is stored without the credentials in it."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployledger.domain.deployment import Deployment
from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.redaction import without_credentials
from deployledger.domain.values import Artifact, Failure, Image
from tests.domain.given import (
    ARTIFACT,
    DEPLOYMENT_ID,
    FAILURE,
    IMAGE,
    SERVING,
    context,
    history,
    replay,
    request,
    requested,
)
from tests.outside_texts import SHAPES

SECRET = "s3cr3tValue7"

secrets = (
    st.text(string.ascii_letters + string.digits, min_size=8, max_size=24)
    .filter(lambda text: any(it.isdigit() for it in text) and any(it.isalpha() for it in text))
    .map(lambda text: f"Zq{text}")
)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_credential_in_a_text_from_outside_is_blanked(shape: str) -> None:
    clean = without_credentials(shape.replace("SECRET", SECRET))
    assert SECRET not in clean
    assert without_credentials(clean) == clean


@given(st.sampled_from(SHAPES), secrets)
@settings(deadline=None, max_examples=200)
def test_no_credential_is_in_an_event_wherever_it_came_from(shape: str, secret: str) -> None:
    text = shape.replace("SECRET", secret)
    said = []
    for change in ({"model_uri": text}, {"tags": {"note": text}}, {"tags": {"a": [{text: 1}]}}):
        try:
            asked = Deployment.request(DEPLOYMENT_ID, request(**change), orchestrator="x", by=context())
        except ConfigurationError as refused:
            said.append(str(refused))
        else:
            said += [it.model_dump_json() for it in asked.collect_events()]
    failing = replay(history(requested()))
    failing.fail(1, FAILURE.model_copy(update={"message": text, "hint": text}), by=context())
    said += [it.model_dump_json() for it in failing.collect_events()]
    assert all(secret not in it for it in said)


@pytest.mark.parametrize(
    "uri", ["https://u:SECRET@h/m?v=1", "https://h/m?token=SECRET&v=1", "//u:SECRET@h/m"]
)
def test_what_clients_name_is_stored_without_credentials(uri: str) -> None:
    uri = uri.replace("SECRET", SECRET)
    deployment = replay(history(requested()))
    artifact: Artifact = ARTIFACT.model_copy(update={"resolved_uri": uri, "model_version": f"token={SECRET}"})
    deployment.artifacts_fetched(1, artifact, simulated=False, by=context())
    image: Image = IMAGE.model_copy(update={"reference": f"{uri}@{IMAGE.digest}"})
    deployment.packaged(1, image, simulated=False, by=context())
    deployment.provisioned(1, uri, simulated=False, by=context())
    stored = "".join(it.model_dump_json() for it in deployment.collect_events())
    assert SECRET not in stored
    assert IMAGE.digest in stored


@pytest.mark.parametrize(
    "message",
    [
        "tokens: 512, key: 'a'",
        "ConfigurationError: password: field required",
        "password: must be at least 8 characters",
        "token: string, label: int64",
        "docker run -u 1000:1000 iris",
        "Modèle chargé：iris",
    ],
)
def test_types_quantities_and_remarks_are_not_blanked(message: str) -> None:
    assert without_credentials(message) == message


def test_messages_without_credentials_stay_as_they_are() -> None:
    message = (
        'secrets "db-creds" is forbidden: User "system:serviceaccount:ml:runner" cannot get resource. '
        "Unexpected token '<' at 1:1; 404 for http://localhost:8080/v2/models/iris?version=2 "
        f"while oci://registry.example:5000/iris:v1@{IMAGE.digest} was pulled; tokens: 512, key: 'a'"
    )
    failing = replay(history(*SERVING[:2]))
    failing.fail(1, Failure(**{**FAILURE.__dict__, "message": message}), by=context())
    assert failing.failure is not None
    assert failing.failure.message == message
