"""Generated requests: none of their faults is ever the server's, and each valid one is answered."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving import onnx_models
from tests.serving.codings import COMPRESS
from tests.serving.in_process import Answer, InProcessClient
from tests.serving.open_inference import DTYPES, LENGTH, Tensor, decode, encode
from tests.serving.served import model_app

EXAMPLES = 2_500 if os.environ.get("DEPLOYLEDGER_SOAK") == "1" else 250  # for each of the two tests

INFER = "/v2/models/m/infer"
DATATYPES = ["FP32", "INT64", "BYTES"]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
words = st.one_of(
    texts, st.sampled_from(["id", "inputs", "name", "data", "shape", "FP32", "binary_data_size"])
)
json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        words,
        st.sampled_from([[], {}, [[]], -1, 2**63, 2**64, 1e39, "NaN", "\x1b[31m", "<script>", "\ud800"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=4)),
    max_leaves=8,
)


@dataclass(frozen=True)
class HttpRequest:
    """A request, and the outputs that it must get, if it is known to be valid."""

    method: str
    path: str
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=list)
    expected: dict[str, Tensor] | None = None


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessClient]:
    path = onnx_models.identities(tmp_path_factory.mktemp("hidden") / "model.onnx", DATATYPES)
    with InProcessClient(model_app("m", "1", path)) as client:
        yield client


elements = {
    "FP32": st.floats(width=32),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "BYTES": texts,
}
tensors = {
    datatype: st.lists(values, max_size=3).map(lambda values, dtype=DTYPES[datatype]: np.array(values, dtype))
    for datatype, values in elements.items()
}


@st.composite
def valid_requests(draw: st.DrawFn) -> HttpRequest:
    inputs = {datatype: draw(tensors[datatype]) for datatype in draw(st.permutations(DATATYPES))}
    names = draw(st.none() | st.lists(st.sampled_from(DATATYPES), unique=True, min_size=1))
    outputs = None
    if names is not None:
        asked = st.sampled_from([{}, {"parameters": {"binary_data": True}}, {"parameters": {"mine": 1}}])
        outputs = [{"name": f"{name}_out", **draw(asked)} for name in names]
    more = draw(st.sampled_from([{}, {"id": ""}, {"id": "é"}, {"parameters": {}}, {"unknown": [1]}]))
    encoded = encode(
        inputs,
        binary=draw(st.booleans() | st.lists(st.sampled_from(DATATYPES), unique=True)),
        binary_output=draw(st.booleans()),
        outputs=outputs,
        **more,
    )
    request = HttpRequest(
        "POST",
        draw(st.sampled_from([INFER, "/v2/models/m/versions/1/infer", f"{INFER}?a=1&b"])),
        encoded.body,
        encoded.headers,
        {f"{name}_out": inputs[name] for name in (DATATYPES if names is None else names)},
    )
    compress = draw(st.sampled_from([None, None, None, "gzip", "deflate", "zstd"]))
    if compress:
        request = replace(request, body=COMPRESS[compress](request.body))
        request.headers.append(("Content-Encoding", compress))
    return request


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value within a JSON value, itself included."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from nodes(inner, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a JSON value with another one at a path; with nothing there if it is ``...``."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1 and new is ...:
        del copy[path[0]]
    else:
        copy[path[0]] = replaced(copy[path[0]], path[1:], new)
    return copy


@st.composite
def with_another_value(draw: st.DrawFn) -> HttpRequest:
    """A request of which one JSON value is missing or another; its binary part and its length are right."""
    request = draw(valid_requests().filter(lambda request: not is_compressed(request)))
    length = int(dict(request.headers).get(LENGTH, len(request.body)))
    content = json.loads(request.body[:length])
    path = draw(st.sampled_from(list(nodes(content))))
    content = replaced(content, path, draw(json_values | st.just(...)) if path else draw(json_values))
    head = json.dumps(content).encode()
    headers = [(name, str(len(head)) if name == LENGTH else value) for name, value in request.headers]
    return replace(request, body=head + request.body[length:], headers=headers, expected=None)


@st.composite
def with_other_bytes(draw: st.DrawFn) -> HttpRequest:
    """A request of which some bytes are missing, others, or there twice."""
    request = draw(valid_requests())
    body = request.body
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(body)))
        end = min(len(body), start + draw(st.sampled_from([0, 1, 2, 8, 100])))
        new = draw(
            st.sampled_from([b"", body[start:end] * 2, b'"', b"[", b"}", b"\0", b"\xff", b"1e400", b"-"])
        )
        body = body[:start] + draw(st.just(new) | st.binary(max_size=8)) + body[end:]
    return replace(request, body=body, expected=None)


header_values = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=12),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(["", "0", "00012", "+12", " 12 ", "1_0", "0x10", "1e1", "12, 12", "gzip, gzip", "zstd"]),
    st.sampled_from(["gzip;q=0.5, *;q=0", "*", "gzip;q=x", "gzip;q=nan", ";", ",,", "identity;q=0", "*;q=0"]),
)


@st.composite
def with_other_headers(draw: st.DrawFn) -> HttpRequest:
    """A request with headers that are wrong, there twice, or missing."""
    request = draw(valid_requests())
    headers = [header for header in request.headers if draw(st.booleans()) or header[0] == "Content-Type"]
    names = [LENGTH, "Content-Encoding", "Accept-Encoding", "Content-Type", "Accept", "Expect"]
    for _ in range(draw(st.integers(1, 3))):
        value = draw(header_values | st.just(str(len(request.body))))
        headers.append((draw(st.sampled_from(names)), value))
    return replace(request, headers=headers, expected=None)


@st.composite
def with_another_target(draw: st.DrawFn) -> HttpRequest:
    """A request of another method or to another path."""
    request = draw(valid_requests())
    part = st.one_of(
        texts,
        st.sampled_from(
            ["v2", "models", "m", "versions", "1", "infer", "ready", "health", "live", "..", "", "%"]
        ),
        st.sampled_from(
            ["repository", "index", "stats", "systemsharedmemory", "ping", "invocations", "a" * 999]
        ),
    )
    path = "/" + "/".join(draw(st.lists(part, max_size=6)))
    method = draw(st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "X"]))
    target = draw(st.sampled_from([path, request.path, "/v2/models/m", "/", "/v2"]))
    return replace(request, method=method, path=target, expected=None)


@st.composite
def in_pieces(draw: st.DrawFn) -> tuple[HttpRequest, list[bytes]]:
    request = draw(st.one_of(valid_requests(), with_other_bytes()))
    cuts = sorted(draw(st.lists(st.integers(0, len(request.body)), max_size=4)))
    starts, ends = [0, *cuts], [*cuts, len(request.body)]
    return request, [request.body[start:end] for start, end in zip(starts, ends, strict=True)]


def is_compressed(request: HttpRequest) -> bool:
    return any(name == "Content-Encoding" for name, _ in request.headers)


def check(request: HttpRequest, answer: Answer) -> None:
    assert answer.status < 500
    if answer.status >= 400:
        if request.method != "HEAD":
            message = answer.json()["error"]
            assert message
            assert "/hidden" not in message
            assert "onnxruntime_src" not in message
            assert not any(ord(character) < 32 for character in message)
        assert request.expected is None, answer.body
    if request.expected is not None:
        assert answer.status == 200
        _, outputs = decode(answer.headers, answer.body)
        assert list(outputs) == list(request.expected)
        for name, expected in request.expected.items():
            assert outputs[name].dtype == expected.dtype
            np.testing.assert_array_equal(outputs[name], expected)


generated = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@generated
@given(
    request=st.one_of(
        valid_requests(),
        with_another_value(),
        with_other_bytes(),
        with_other_headers(),
        with_another_target(),
    )
)
def test_no_request_is_the_servers_fault(client: InProcessClient, request: HttpRequest) -> None:
    check(request, client.request(request.method, request.path, request.body, request.headers))


@generated
@given(given_request=in_pieces())
def test_a_body_may_come_in_pieces(
    client: InProcessClient, given_request: tuple[HttpRequest, list[bytes]]
) -> None:
    request, pieces = given_request
    check(request, client.post(request.path, pieces, request.headers))
