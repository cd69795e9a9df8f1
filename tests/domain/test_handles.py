"""Ids and files, as users name them: each handle means one thing, or is refused."""

import os
from uuid import UUID

import pytest

from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.handles import as_id, path_of
from tests.domain.given import request

IDENTITY = "9353f941-ed69-4541-8f4a-8e345d803089"
SPELLINGS = [
    IDENTITY,
    IDENTITY.upper(),
    IDENTITY.replace("-", ""),
    IDENTITY.replace("-", "").upper(),
    "9353f941-ed6945418f4a8e345d803089",
    "0x53f941ed6945418f4a8e345d803089",  # uuid.UUID takes what int(…, 16) does
    "9353f941ed6945418f4a8e345d80_089",
]


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_name_that_is_an_id_is_refused_in_every_spelling(name: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        request(deployment_name=name)
    assert f"deployment_name: {name!r} is an id" in refusal.value.message
    assert "choose a name that cannot be mistaken for one" in refusal.value.message


@pytest.mark.parametrize(
    "name", ["deadbeef", "9353f941", "9353f941-ed69", "a" * 31, "a" * 33, "g" * 32, "r2"]
)
def test_a_name_that_is_less_or_more_than_an_id_is_legal(name: str) -> None:
    assert request(deployment_name=name).deployment_name == name


def test_an_id_is_known_in_the_spellings_that_no_name_can_have() -> None:
    for text in (f"{{{IDENTITY}}}", f"urn:uuid:{IDENTITY}"):
        assert as_id(text) == UUID(IDENTITY)
    for text in ("", "iris", IDENTITY[:-1], f"{IDENTITY}0"):
        assert as_id(text) is None


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/models/iris.onnx", "/models/iris.onnx"),
        ("models/100%.onnx", "models/100%.onnx"),
        ("-", "-"),
        ("./like:this", "./like:this"),
        (r"C:\iris.onnx", r"C:\iris.onnx"),
        ("file:///models/iris%20v1.onnx", "/models/iris v1.onnx"),
        ("file:///a%3Fb%23c%25d", "/a?b#c%d"),
        ("file:/models/iris.onnx", "/models/iris.onnx"),
        ("file://localhost/models/iris.onnx", "/models/iris.onnx"),
        ("FILE://LocalHost/models/iris.onnx", "/models/iris.onnx"),
        ("file:///models/~ann", "/models/~ann"),
        ("file:///iris@2", "/iris@2"),
        ("file:///gr%FC%DFe", os.fsdecode(b"/gr\xfc\xdfe")),
        ("models:/iris/2", None),
        ("models:/iris@champion", None),
        ("s3://bucket/iris.onnx", None),
        ("model:v1.onnx", None),
        ("filesystem:///x", None),
    ],
)
def test_a_path_and_a_file_uri_name_a_path(uri: str, path: str | None) -> None:
    assert path_of(uri) == path


NO_FILES = [
    "file://otherhost/models/iris.onnx",
    "FILE://otherhost/models/iris.onnx",
    "file://user@localhost/models/iris.onnx",
    "file://localhost:80/models/iris.onnx",
    "file://127.0.0.1/models/iris.onnx",
    "file:////server/share/iris.onnx",
    "file://[::1/iris.onnx",
    "file://~/iris.onnx",
    "file://models/iris.onnx",
    "file:iris.onnx",
    "file:./iris.onnx",
    "file:~/iris.onnx",
    "file:",
    "file://",
    "file://localhost",
    "file:///iris.onnx?version=2",
    "file:///iris.onnx?",
    "file:///iris.onnx#latest",
    "file:///iris%00.onnx",
    "file:///models%2Firis.onnx",
    "file:///100%.onnx",
    "file:///iris%zz.onnx",
]


@pytest.mark.parametrize("uri", NO_FILES)
def test_a_file_uri_that_names_no_file_on_this_machine_is_refused(uri: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        path_of(uri)
    assert refusal.value.hint
    for field in ("model_uri", "input_uri", "output_uri"):
        with pytest.raises(ConfigurationError, match=f"{field}: "):
            _request_with(field, uri)


def _request_with(field: str, uri: str) -> None:
    if field == "model_uri":
        request(model_uri=uri)
        return
    request(deployment_target_config={"type": "batch_inference_job", field: uri})


def test_the_refusal_of_a_file_uri_tells_no_password() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        path_of("file://ann:secret@otherhost/iris.onnx")
    assert "secret" not in str(refusal.value)
    assert "another host" in refusal.value.message
