"""Credentials never get into what is stored, logged or shown."""

import pytest

from deployledger.domain.exceptions import ResourceNotFoundError
from deployledger.domain.redaction import shown, without_credentials

SECRET = "s3cr3t-Value"


@pytest.mark.parametrize(
    "text",
    [
        f"https://ann:{SECRET}@models.example/iris.onnx",
        f"https://{SECRET}@models.example/iris.onnx",
        f"https://:{SECRET}@models.example/iris.onnx",
        f"HTTPS://ann:{SECRET}@models.example",
        f"https://ann:{SECRET}@@models.example/",
        f"https://ann:p%40{SECRET}@models.example/iris.onnx",
        f"postgresql://ann:{SECRET}@localhost:5432/ledger",
        f"postgresql+psycopg://ann:{SECRET}@localhost/ledger",
        f"postgresql://ann:{SECRET}@/ledger?host=/run/postgresql",
        f"postgresql://localhost/ledger?user=ann&password={SECRET}",
        f"host=localhost password={SECRET} dbname=ledger",
        f"host=localhost password='{SECRET}' dbname=ledger",
        f"s3://KEY:{SECRET}@bucket/iris",
        f"https://b.s3.amazonaws.com/iris?X-Amz-Credential={SECRET}%2F20260303&X-Amz-Date=20260303",
        f"https://b.s3.amazonaws.com/iris?X-Amz-Date=20260303&X-Amz-Signature={SECRET}",
        f"https://b.s3.amazonaws.com/iris?x-amz-security-token={SECRET}",
        f"https://b.s3.amazonaws.com/iris?AWSAccessKeyId={SECRET}&Expires=1",
        f"https://b.s3.amazonaws.com/iris?Signature={SECRET}&Expires=1",
        f"https://storage.googleapis.com/b/iris?X-Goog-Signature={SECRET}",
        f"https://storage.googleapis.com/b/iris?X-Goog-Credential={SECRET}",
        f"https://a.blob.core.windows.net/c/iris?sv=2026&sig={SECRET}",
        f"https://models.example/iris?token={SECRET}",
        f"https://models.example/iris?access_token={SECRET}&v=2",
        f"https://models.example/iris?private_token={SECRET}",
        f"https://models.example/iris#access_token={SECRET}",
        f"https://models.example/iris?api_key={SECRET}",
        f"https://models.example/iris?apikey={SECRET}",
        f"https://models.example/iris?api-key={SECRET}",
        f"https://models.example/iris?client_secret={SECRET}",
        f"https://models.example/iris?secret_access_key={SECRET}",
        f"https://models.example/iris?passwd={SECRET}",
        f"https://models.example/iris?pwd={SECRET}",
        f"https://models.example/iris?auth={SECRET}",
        f"connection to https://ann:{SECRET}@one failed, then s3://KEY:{SECRET}@two failed",
    ],
)
def test_credentials_are_taken_out(text: str) -> None:
    clean = without_credentials(text)
    assert SECRET not in clean
    assert without_credentials(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/models/iris.onnx",
        "C:\\models\\iris.onnx",
        "file:///models/iris@2.onnx",
        "models:/iris/1",
        "models:/iris@champion",
        "runs:/0a1b/model",
        "mlflow_runs:/<some_run_id>/my_model",
        "hf://owner/model@main",
        "s3://bucket/iris@2/model.onnx",
        "oci://registry.example/iris@sha256:" + "a" * 64,
        "https://models.example/@ann/iris?version=2&signed=no",
        "postgresql://localhost:5432/ledger?sslmode=require",
        "http://127.0.0.1:8080 did not answer while hf://owner/model@main was fetched",
        "http://localhost:8080?version=2 and models:/iris@champion",
    ],
)
def test_everything_else_stays_as_it_is(text: str) -> None:
    assert without_credentials(text) == text


def test_what_is_left_is_still_of_use() -> None:
    uri = f"https://ann:{SECRET}@models.example:8443/iris?v=2&sig={SECRET}&part=1"
    assert without_credentials(uri) == "https://models.example:8443/iris?v=2&sig=***&part=1"


def test_what_was_given_is_shown_without_credentials_also_where_it_is_cut() -> None:
    for given in (f"https://ann:{SECRET * 50}@h/m", {"password": SECRET * 50}):
        assert SECRET[:5] not in shown(given)
    assert shown("prod") == "'prod'"
    assert shown("a'b") == '"a\'b"'
    assert shown(7) == "7"
    assert len(shown("n" * 2_000_000)) < 300
    assert len(shown(10**100_000)) < 300
    assert len(shown(["n" * 2_000_000])) < 300


def test_an_error_that_names_what_was_given_stays_short() -> None:
    assert len(ResourceNotFoundError("Deployment", "n" * 2_000_000).message) < 300
