"""The ONNX model server: the Open Inference Protocol, first as functions and then over HTTP."""

import json
import math
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from deployledger.serving.inference_protocol import InvalidRequestError, infer, model_metadata
from deployledger.serving.model_files import ModelRefusedError
from deployledger.serving.onnx_model import OnnxModel, PredictionFailedError
from deployledger.serving.tensors import BY_NAME, Array, InvalidTensorError, from_json, to_json
from tests.ports import free_port

VALUES: dict[str, tuple[int, list[Any]]] = {
    "BOOL": (TensorProto.BOOL, [True, False]),
    "UINT8": (TensorProto.UINT8, [0, 255]),
    "UINT16": (TensorProto.UINT16, [0, 65535]),
    "UINT32": (TensorProto.UINT32, [0, 2**32 - 1]),
    "UINT64": (TensorProto.UINT64, [1, 2**64 - 1]),
    "INT8": (TensorProto.INT8, [-128, 127]),
    "INT16": (TensorProto.INT16, [-32768, 32767]),
    "INT32": (TensorProto.INT32, [-(2**31), 2**31 - 1]),
    "INT64": (TensorProto.INT64, [-(2**63), 2**63 - 1]),
    "FP16": (TensorProto.FLOAT16, [0.5, -2.0]),
    "BF16": (TensorProto.BFLOAT16, [0.5, -2.0]),
    "FP32": (TensorProto.FLOAT, [0.5, -2.0]),
    "FP64": (TensorProto.DOUBLE, [0.1, -2.0]),
    "BYTES": (TensorProto.STRING, ["ä", ""]),
}


def save(path: Path, nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], **more: Any) -> Path:
    def infos(tensors: dict[str, Any]) -> list[Any]:
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in tensors.items()]

    graph = helper.make_graph(nodes, "graph", infos(inputs), infos(outputs), **more)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path)
    return path


def identity(path: Path, kind: int) -> Path:
    tensor = (kind, ["rows", 2])
    return save(path, [helper.make_node("Identity", ["x"], ["y"])], {"x": tensor}, {"y": tensor})


def two_by_two(path: Path) -> Path:
    """A model with the inputs a and b, and the outputs total and quotient."""
    tensor = (TensorProto.FLOAT, ["rows", 2])
    return save(
        path,
        [helper.make_node("Add", ["a", "b"], ["total"]), helper.make_node("Div", ["a", "b"], ["quotient"])],
        {"a": tensor, "b": tensor},
        {"total": tensor, "quotient": tensor},
    )


def ask(model: OnnxModel, **request: Any) -> dict[str, Any]:
    text, binary = infer("m", "1", model, json.dumps(request).encode())
    assert not binary
    answer: dict[str, Any] = json.loads(text)
    return answer


def tensor(name: str, data: Any, *, shape: Any = (1, 2), datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": data}


def parsed(data: Any, datatype: str, shape: list[int]) -> Array:
    return from_json(memoryview(json.dumps(data).encode()), BY_NAME[datatype], shape)


class TestTensors:
    @pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]]])
    def test_data_may_be_flat_or_nested(self, data: Any) -> None:
        assert parsed(data, "INT32", [2, 2]).tolist() == [[1, 2], [3, 4]]

    @pytest.mark.parametrize(
        ("data", "datatype", "shape", "said"),
        [
            ([1, 2, 3], "FP32", [2, 2], "expected 4 elements for shape [2, 2], got 3"),
            ([[1, 2, 3, 4]], "FP32", [2, 2], "expected data of shape [2, 2], got [1, 4]"),
            ([[1, 2], [3]], "FP32", [2, 2], "not all of the same length"),
            ([[1, 2], 3], "FP32", [2, 2], "Expected `array`, got `int`"),
            ([1.5], "INT32", [1], "expected elements of INT32: Expected `int`, got `float`"),
            ([True], "INT32", [1], "expected elements of INT32: Expected `int`, got `bool`"),
            ([1], "BOOL", [1], "expected elements of BOOL: Expected `bool`, got `int`"),
            (["x"], "FP32", [1], "expected elements of FP32: got the text 'x'"),
            ([None], "FP32", [1], "expected elements of FP32: Expected `float | str`, got `null`"),
            ([1], "BYTES", [1], "expected elements of BYTES: Expected `str`, got `int`"),
            ([300], "UINT8", [1], "out of the range of UINT8"),
            ([-1], "UINT64", [1], "out of the range of UINT64"),
            ("x", "BYTES", [1], "expected an array"),
            ([1e39], "FP32", [1], "out of the range of FP32"),
            ([70_000], "FP16", [1], "out of the range of FP16"),
            ([-3.4e38, 3.4e38], "BF16", [2], "out of the range of BF16"),
            ([10**400], "FP64", [1], "expected elements of FP64: Number out of range"),
            ([2**64], "UINT64", [1], "out of the range of UINT64"),
            ([1, 2.0], "INT64", [2], "got `float`"),
            ([1, True], "FP32", [2], "got `bool`"),
            ([[[1], [2]]], "FP32", [2], "Expected `float | str`, got `array`"),
            ([], "FP32", [0, 2**62, 2**62], "is too large"),
        ],
    )
    def test_what_does_not_fit_is_refused_with_expected_and_given(
        self, data: Any, datatype: str, shape: list[int], said: str
    ) -> None:
        with pytest.raises(InvalidTensorError) as refused:
            parsed(data, datatype, shape)
        assert said in str(refused.value)

    @pytest.mark.parametrize("shape", [[30_000], [100, 300], [3, 100, 100], [30_000, 1], [1, 30_000]])
    @pytest.mark.parametrize("datatype", ["FP64", "FP16", "INT64", "BOOL"])
    def test_large_tensors_are_read_in_pieces(self, datatype: str, shape: list[int]) -> None:
        array = (np.arange(30_000) % 100 / 7).reshape(shape).astype(BY_NAME[datatype].numpy)
        for data in (array.tolist(), array.reshape(-1).tolist()):
            for indent in (None, 1):
                text = json.dumps(data, indent=indent).encode()
                parsed_array = from_json(memoryview(text), BY_NAME[datatype], shape)
                assert parsed_array.dtype == array.dtype
                np.testing.assert_array_equal(parsed_array, array)

    @pytest.mark.parametrize(
        "wrong", [[0.5] * 29_999, [[0.5] * 300] * 99, [*[[0.5] * 300] * 99, [0.5] * 299]]
    )
    def test_large_tensors_of_another_shape_are_refused(self, wrong: list[Any]) -> None:
        with pytest.raises(InvalidTensorError, match=r"expected|same length"):
            parsed(wrong, "FP32", [100, 300])

    def test_a_word_among_many_numbers_is_read(self) -> None:
        array = parsed([*[0.5] * 30_000, "-Infinity"], "FP32", [30_001])
        assert (array[0], array[-1]) == (0.5, -math.inf)

    def test_empty_and_scalar_tensors(self) -> None:
        assert parsed([], "FP32", [0, 4]).shape == (0, 4)
        assert parsed([7], "INT64", []).tolist() == 7

    def test_what_is_not_finite_is_a_string_both_ways(self) -> None:
        words = ["NaN", "Infinity", "-Infinity", 1.0]
        array = parsed(words, "FP32", [4])
        assert math.isnan(array[0])
        assert array[1:].tolist() == [math.inf, -math.inf, 1.0]
        assert to_json(array) == words


class TestInference:
    @pytest.mark.parametrize("datatype", VALUES)
    def test_every_datatype_goes_through_a_model_unchanged(self, datatype: str, tmp_path: Path) -> None:
        kind, values = VALUES[datatype]
        model = OnnxModel(identity(tmp_path / "m.onnx", kind), threads=1)
        assert model_metadata("m", "1", model)["inputs"] == [
            {"name": "x", "datatype": datatype, "shape": [-1, 2]}
        ]
        answer = ask(model, id="42", inputs=[tensor("x", values, datatype=datatype)])
        assert answer == {
            "model_name": "m",
            "model_version": "1",
            "id": "42",
            "outputs": [{"name": "y", "datatype": datatype, "shape": [1, 2], "data": values}],
        }

    def test_bfloat16_is_rounded_to_even_and_keeps_what_is_not_finite(self, tmp_path: Path) -> None:
        model = OnnxModel(identity(tmp_path / "m.onnx", TensorProto.BFLOAT16), threads=1)
        given = [1.00390625, 1.01171875, "NaN", "-Infinity"]  # halfway between two bfloat16, twice
        answer = ask(model, inputs=[tensor("x", given, shape=[2, 2], datatype="BF16")])
        assert answer["outputs"][0]["data"] == [1.0, 1.015625, "NaN", "-Infinity"]

    def test_outputs_are_selected_by_name(self, tmp_path: Path) -> None:
        model = OnnxModel(two_by_two(tmp_path / "m.onnx"), threads=1)
        inputs = [tensor("b", [3, 0]), tensor("a", [1, 1])]
        every = ask(model, inputs=inputs)
        assert [each["name"] for each in every["outputs"]] == ["total", "quotient"]
        assert every["outputs"][1]["data"] == [pytest.approx(1 / 3), "Infinity"]
        one = ask(model, inputs=inputs, outputs=[{"name": "quotient"}])
        assert [each["name"] for each in one["outputs"]] == ["quotient"]

    @pytest.mark.parametrize(
        ("request_body", "said"),
        [
            (b"{", "the body is not JSON"),
            (b"[]", "Expected `object`, got `array`"),
            (b"\xef\xbb\xbf{}", "the body is not JSON"),
            (b'{"inputs": [], "\xff": 1}', "the body is not JSON"),
            (b'{"inputs": []} x', "the body is not JSON"),
            (b'{"inputs": ' + b'[{"data":' * 20_000, "nested too deeply"),
            (b'{"inputs": [], "inputs": []}', "the key 'inputs' is given twice"),
            (b'{"inputs": [], "new": {"x": ":", "x": 1}}', "the key 'x' is given twice"),
            (b'{"inputs": [], "new": "%b"}' % (b"x" * 2**20), "the JSON without data has 1048601 bytes"),
            (
                b'{"inputs": [], "new": {"x": 1, %b, "x": 2}}'
                % b", ".join(b'"%d": 1' % number for number in range(60_000)),
                "the key 'x' is given twice",
            ),
            (
                b'{"inputs": [{"name": "a", "shape": [1], "datatype": "", "name": "b"}]}',
                "'name' is given twice",
            ),
            (b'{"inputs": [{"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [NaN]}]}', "not JSON"),
            (b'{"id": 1}', "Expected `str | null`, got `int` - at `$.id`"),
            (b"{}", "Object missing required field `inputs`"),
            (b'{"inputs": [{"name": "a"}]}', "missing required field `datatype` - at `$.inputs[0]`"),
            (b'{"inputs": []}', "missing inputs: 'a', 'b'"),
            ([tensor("c", [1, 2])], "no input 'c'; it has 'a', 'b'"),
            ([tensor("a", [1, 2]), tensor("a", [1, 2])], "'a' is given twice"),
            ([tensor("a", [1, 2], datatype="INT64")], "expected datatype FP32, got 'INT64'"),
            ([tensor("a", [1, 2], shape=[2])], "expected shape [-1, 2], got [2]"),
            ([tensor("a", [1, 2, 3], shape=[1, 3])], "expected shape [-1, 2], got [1, 3]"),
            ([tensor("a", [1, 2], shape=[-1, 2])], "Expected `int` >= 0 - at `$.inputs[0].shape[0]`"),
            ([tensor("a", [1])], "input 'a': expected 2 elements"),
            ([tensor("a", [1], shape=[10**4_000, 2])], "input 'a': expected shape [-1, 2], got [1000"),
            ([tensor("a", [1], shape=[2**62, 2])], "expected 9223372036854775808 elements"),
            ([tensor("a", [1], shape=[1] * 100_000)], "Expected `array` of length <= 64"),
            ([{"name": "a", "shape": [1, 2], "datatype": "FP32"}], 'it needs either "data" or'),
        ],
    )
    def test_bad_requests_are_refused(self, request_body: Any, said: str, tmp_path: Path) -> None:
        model = OnnxModel(two_by_two(tmp_path / "m.onnx"), threads=1)
        body = (
            request_body if isinstance(request_body, bytes) else json.dumps({"inputs": request_body}).encode()
        )
        with pytest.raises(InvalidRequestError) as refused:
            infer("m", "1", model, body)
        assert said in str(refused.value)

    def test_keys_are_told_from_colons_in_texts(self, tmp_path: Path) -> None:
        model = OnnxModel(identity(tmp_path / "m.onnx", TensorProto.STRING), threads=1)
        texts = ['{"id": 1, "id": 2}', ":" * 20_000]
        answer = ask(model, id="a:b", inputs=[tensor("x", texts, datatype="BYTES")], new={"x": [{"y": 1}]})
        assert answer["outputs"][0]["data"] == texts
        assert answer["id"] == "a:b"

    @pytest.mark.parametrize("data", [b'"\xff", "b"', b'"\\ud800", "b"'])
    def test_texts_that_are_not_unicode_are_refused(self, data: bytes, tmp_path: Path) -> None:
        model = OnnxModel(identity(tmp_path / "m.onnx", TensorProto.STRING), threads=1)
        for padding in (b"", b" " * 20_000):
            body = b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "BYTES", "data": [%b]%b}]}'
            with pytest.raises(InvalidRequestError):
                infer("m", "1", model, body % (data, padding))

    def test_a_failed_prediction_shows_no_place_in_the_source(self, tmp_path: Path) -> None:
        path = save(
            tmp_path / "m.onnx",
            [helper.make_node("Reshape", ["x", "shape"], ["y"])],
            {"x": (TensorProto.FLOAT, ["n"]), "shape": (TensorProto.INT64, ["m"])},
            {"y": (TensorProto.FLOAT, None)},
        )
        inputs = [tensor("x", [1, 2, 3], shape=[3]), tensor("shape", [7], shape=[1], datatype="INT64")]
        with pytest.raises(PredictionFailedError) as failed:
            ask(OnnxModel(path, threads=1), inputs=inputs)
        assert failed.value.is_input_invalid
        assert str(failed.value).startswith("Non-zero status code returned while running Reshape node.")
        assert "cannot be reshaped to the requested shape" in str(failed.value)
        for part in ("/", "::", ".h", "ONNXRuntimeError"):
            assert part not in str(failed.value)

    def test_whether_the_work_is_in_the_sizes_of_inputs_alone(self, tmp_path: Path) -> None:
        assert OnnxModel(two_by_two(tmp_path / "m.onnx"), threads=1).is_work_bounded
        for name in ("Expand", "ConstantOfShape"):
            inputs: dict[str, Any] = {"n": (TensorProto.INT64, ["m"]), "x": (TensorProto.FLOAT, [1])}
            node = helper.make_node(name, ["x", "n"] if name == "Expand" else ["n"], ["y"])
            path = save(tmp_path / "m.onnx", [node], inputs, {"y": (TensorProto.FLOAT, None)})
            assert not OnnxModel(path, threads=1).is_work_bounded

    def test_the_reason_of_a_failure_is_short_whatever_the_input(self, tmp_path: Path) -> None:
        path = save(
            tmp_path / "m.onnx",
            [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
            {"x": (TensorProto.STRING, ["n"])},
            {"y": (TensorProto.FLOAT, ["n"])},
        )
        with pytest.raises(PredictionFailedError) as failed:
            ask(OnnxModel(path, threads=1), inputs=[tensor("x", ["y" * 10**6], shape=[1], datatype="BYTES")])
        assert len(str(failed.value)) <= 1_000

    @pytest.mark.parametrize("datatype", ["FP32", "BF16", "BYTES"])
    def test_binary_data_go_in_and_out(self, datatype: str, tmp_path: Path) -> None:
        kind, values = VALUES[datatype]
        model = OnnxModel(identity(tmp_path / "m.onnx", kind), threads=1)
        data = {
            "FP32": struct.pack("<2f", *values) if datatype == "FP32" else b"",
            "BF16": bytes.fromhex("003f00c0"),
            "BYTES": b"\x02\x00\x00\x00\xc3\xa4\x00\x00\x00\x00",
        }[datatype]
        for padding in range(16):  # the data begin at any address
            request = {
                "inputs": [
                    {"name": "x", "shape": [1, 2], "datatype": datatype}
                    | {"parameters": {"binary_data_size": len(data)}}
                ],
                "parameters": {"binary_data_output": True},
            }
            text = json.dumps(request).encode() + b" " * padding
            answer, binary = infer("m", "1", model, text + data, len(text))
            assert b"".join(binary) == data
            assert json.loads(answer)["outputs"] == [
                {"name": "y", "shape": [1, 2], "datatype": datatype}
                | {"parameters": {"binary_data_size": len(data)}}
            ]

    def test_a_map_of_probabilities_is_a_tensor_with_labels(self, tmp_path: Path) -> None:
        model = OnnxModel(zip_map(tmp_path / "m.onnx"), threads=1)
        (output,) = ask(model, inputs=[tensor("x", [0.25, 0.75])])["outputs"]
        assert output["shape"] == [1, 2]
        assert output["datatype"] == "FP32"
        assert output["data"] == [0.75, 0.25]
        assert json.loads(output["parameters"]["labels"]) == ["no", "yes"]

    def test_a_file_that_is_no_model_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "m.onnx").write_bytes(b"nonsense")
        with pytest.raises(ModelRefusedError, match=r"m\.onnx is not a model that ONNX Runtime can load"):
            OnnxModel(tmp_path / "m.onnx", threads=1)


def zip_map(path: Path) -> Path:
    """What skl2onnx ends classifiers with; the labels are not in sorted order."""
    graph = helper.make_graph(
        [
            helper.make_node(
                "ZipMap", ["x"], ["probabilities"], domain="ai.onnx.ml", classlabels_strings=["yes", "no"]
            )
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [
            helper.make_value_info(
                "probabilities",
                helper.make_sequence_type_proto(
                    helper.make_map_type_proto(
                        TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
                    )
                ),
            )
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def start(model: Path, port: int, *more: str, **popen: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "deployledger.serving.onnx_server", "--model", str(model)]
    command += ["--name", "My_Model", "--version", "3", "--port", str(port), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **popen)


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/v2/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    pytest.fail("the server was not ready in 60 seconds")


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """The URL of a server, and its process id."""
    port = free_port()
    process = start(two_by_two(tmp_path_factory.mktemp("model") / "model.onnx"), port)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url)
        yield url, process.pid
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture
def server(process: tuple[str, int]) -> str:
    return process[0]


def peak_memory(pid: int) -> int:
    """Return the most bytes that a process had in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak) * 1024


class TestHttp:
    def test_health_and_metadata(self, server: str) -> None:
        with httpx.Client(base_url=server) as client:
            assert client.get("/ping").status_code == 200
            assert client.get("/v2/health/live").json() == {"live": True}
            assert client.get("/v2").json()["name"] == "deployledger-onnx"
            for path in ("/v2/models/My_Model", "/v2/models/My_Model/versions/3"):
                assert client.get(f"{path}/ready").json() == {"name": "My_Model", "ready": True}
                metadata = client.get(path).json()
                assert metadata["platform"] == "onnx_onnxv1"
                assert metadata["versions"] == ["3"]
                assert [each["name"] for each in metadata["inputs"]] == ["a", "b"]

    def test_inference(self, server: str) -> None:
        request = {"id": "7", "inputs": [tensor("a", [1, 2]), tensor("b", [1, 0])]}
        answer = httpx.post(f"{server}/v2/models/My_Model/versions/3/infer", json=request)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["outputs"][1]["data"] == [1.0, "Infinity"]

    @pytest.mark.skipif(not Path("/proc").exists(), reason="the peak of a process's memory is Linux's")
    def test_large_tensors_take_at_most_four_times_their_memory(self, process: tuple[str, int]) -> None:
        url, pid = process
        tensors = np.zeros((2, 2**20, 2), np.float32)  # 8 MiB each; the model has two of each
        inputs = [
            {"name": name, "shape": tensors[0].shape, "datatype": "FP32"}
            | {"parameters": {"binary_data_size": tensors[0].nbytes}}
            for name in ("a", "b")
        ]
        text = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(text))}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            before = peak_memory(pid)
            for _ in range(4):
                answer = client.post("/v2/models/My_Model/infer", content=text + tensors.tobytes())
                assert answer.status_code == 200
                assert len(answer.content) > tensors.nbytes
            assert peak_memory(pid) - before < 4 * tensors.nbytes

    @pytest.mark.parametrize("size", ["9" * 5_000, "-1", "+1", "1_0", ""])
    def test_a_wrong_size_of_the_json_is_refused(self, server: str, size: str) -> None:
        headers = {"Inference-Header-Content-Length": size}
        answer = httpx.post(f"{server}/v2/models/My_Model/infer", content=b"{}", headers=headers)
        assert answer.status_code == 400
        assert "Inference-Header-Content-Length" in answer.json()["error"]

    def test_every_error_is_an_object_with_an_error(self, server: str) -> None:
        expected = {
            ("GET", "/v2/models/other"): 404,
            ("GET", "/v2/models/My_Model/versions/4"): 404,
            ("POST", "/v2/models/other/infer"): 404,
            ("GET", "/nothing"): 404,
            ("GET", "/v2/models/" + "a" * 10_000): 404,
            ("GET", "/v2/models/My_Model/infer"): 405,
            ("POST", "/v2/models/My_Model/infer"): 400,
        }
        for (method, path), status in expected.items():
            answer = httpx.request(method, f"{server}{path}")
            assert (path, answer.status_code) == (path, status)
            assert isinstance(answer.json()["error"], str)
            assert len(answer.content) < 500


def test_the_server_ends_with_its_parent(tmp_path: Path) -> None:
    port = free_port()
    read, write = os.pipe()
    process = start(two_by_two(tmp_path / "model.onnx"), port, "--parent-fd", str(read), pass_fds=[read])
    os.close(read)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}")
        os.close(write)
        process.communicate(timeout=60)
        assert process.returncode == 1
    finally:
        process.kill()
        process.communicate()


def test_a_corrupt_model_ends_the_server_with_its_own_status_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    process = start(tmp_path / "model.onnx", free_port())
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 65
    assert output.splitlines()[-1].startswith("model.onnx is not a model that ONNX Runtime can load")


def test_scikit_learn_classifiers_as_converted_by_default(tmp_path: Path) -> None:
    import skl2onnx
    from sklearn import linear_model

    features = np.array([[0.0], [1.0], [2.0], [3.0]], dtype=np.float32)
    classifier = linear_model.LogisticRegression().fit(features, [0, 0, 1, 1])
    converted = skl2onnx.to_onnx(classifier, features[:1], target_opset=17)
    (tmp_path / "m.onnx").write_bytes(converted.SerializeToString())
    model = OnnxModel(tmp_path / "m.onnx", threads=1)
    (name,) = model.inputs
    answer = ask(model, inputs=[tensor(name, [0, 3], shape=[2, 1])])
    label, probability = answer["outputs"]
    assert label["data"] == [0, 1]
    assert probability["shape"] == [2, 2]
    np.testing.assert_allclose(
        np.reshape(probability["data"], (2, 2)), classifier.predict_proba([[0], [3]]), rtol=1e-5
    )
