"""`tritonclient`, as its own simple examples use it, against our model server."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.serving import onnx_models
from tests.serving.open_inference import Tensor
from tests.serving.served import model_app, served

COUNTED = np.arange(16, dtype=np.int32).reshape(1, 16)
ONES = np.full((1, 16), -1, dtype=np.int32)

TENSORS: dict[str, Tensor] = {
    "BOOL": np.array([True, False, True]),
    "UINT8": np.array([0, 255], np.uint8),
    "UINT16": np.array([0, 2**16 - 1], np.uint16),
    "UINT32": np.array([0, 2**32 - 1], np.uint32),
    "UINT64": np.array([0, 2**64 - 1], np.uint64),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([-(2**15), 2**15 - 1], np.int16),
    "INT32": np.array([-(2**31), 2**31 - 1], np.int32),
    "INT64": np.array([-(2**63), 2**63 - 1], np.int64),
    "FP16": np.array([0.5, -0.0, 65504, 6e-8], np.float16),
    "BF16": np.array([0.5, -2.0, 3e38], ml_dtypes.bfloat16),
    "FP32": np.array([0.1, -0.0, 3.4e38, 1e-45], np.float32),
    "FP64": np.array([0.1, 1.7e308, 5e-324], np.float64),
    "BYTES": np.array(["ä".encode(), b"", b'a,\n"b"'], np.object_),
}


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Yield the host and port of each model by its name."""
    folder = tmp_path_factory.mktemp("models")
    makers = {
        "simple": onnx_models.simple,
        "simple_string": onnx_models.simple_string,
        "identities": onnx_models.identities,
        "bfloat16": partial(onnx_models.identities, datatypes=["BF16"]),
    }
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(served(model_app(name, "3", make(folder / f"{name}.onnx"))))
            for name, make in makers.items()
        }


@pytest.fixture
def client(addresses: dict[str, str]) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(addresses["simple"], concurrency=3) as client:
        yield client


def tensor(name: str, array: Tensor, datatype: str, *, binary: bool = True) -> Any:
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array, binary_data=binary)


def numbers(*, binary: tuple[bool, bool] = (True, True)) -> list[Any]:
    return [
        tensor("INPUT0", COUNTED, "INT32", binary=binary[0]),
        tensor("INPUT1", ONES, "INT32", binary=binary[1]),
    ]


def assert_sum_and_difference(result: Any) -> None:
    assert result.as_numpy("OUTPUT0").dtype == np.int32
    assert result.as_numpy("OUTPUT0").tolist() == (COUNTED + ONES).tolist()
    assert result.as_numpy("OUTPUT1").tolist() == (COUNTED - ONES).tolist()


def assert_identical(answered: Tensor, array: Tensor) -> None:
    assert answered.shape == array.shape
    assert answered.dtype == array.dtype
    if array.dtype == np.object_:
        assert answered.tolist() == array.tolist()
    else:
        assert answered.tobytes() == array.tobytes()


class TestHealthAndMetadata:
    def test_server_and_model_are_live_and_ready(self, client: triton.InferenceServerClient) -> None:
        assert client.is_server_live(query_params={"test_1": 1, "test_2": 2})
        assert client.is_server_ready()
        assert client.is_model_ready("simple")
        assert client.is_model_ready("simple", "3")
        assert not client.is_model_ready("simple", "4")
        assert not client.is_model_ready("other")

    def test_the_server_advertises_binary_tensors(self, client: triton.InferenceServerClient) -> None:
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]

    def test_the_model_is_described(self, client: triton.InferenceServerClient) -> None:
        metadata = client.get_model_metadata("simple", query_params={"test_1": 1, "test_2": 2})
        assert metadata["name"] == "simple"
        assert metadata["versions"] == ["3"]
        assert metadata == client.get_model_metadata("simple", "3")
        described = {"datatype": "INT32", "shape": [1, 16]}
        assert metadata["inputs"] == [{"name": "INPUT0", **described}, {"name": "INPUT1", **described}]
        assert metadata["outputs"] == [{"name": "OUTPUT0", **described}, {"name": "OUTPUT1", **described}]


class TestInference:
    def test_default_mode_is_binary_both_ways(self, client: triton.InferenceServerClient) -> None:
        result = client.infer("simple", numbers())
        assert_sum_and_difference(result)
        assert all(each["parameters"]["binary_data_size"] == 64 for each in result.get_response()["outputs"])

    @pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
    @pytest.mark.parametrize("binary", [(False, False), (False, True), (True, False), (True, True)])
    @pytest.mark.parametrize("binary_output", [(False, False), (False, True), (True, False), (True, True)])
    def test_json_and_binary_mix_compressed_or_not(
        self,
        client: triton.InferenceServerClient,
        algorithm: str | None,
        binary: tuple[bool, bool],
        binary_output: tuple[bool, bool],
    ) -> None:
        result = client.infer(
            "simple",
            numbers(binary=binary),
            outputs=[
                triton.InferRequestedOutput("OUTPUT0", binary_data=binary_output[0]),
                triton.InferRequestedOutput("OUTPUT1", binary_data=binary_output[1]),
            ],
            query_params={"test_1": 1, "test_2": 2},
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
        assert_sum_and_difference(result)
        outputs = result.get_response()["outputs"]
        assert tuple("data" not in output for output in outputs) == binary_output

    def test_only_the_outputs_that_are_asked_for(self, client: triton.InferenceServerClient) -> None:
        result = client.infer("simple", numbers(), outputs=[triton.InferRequestedOutput("OUTPUT1")])
        assert result.as_numpy("OUTPUT0") is None
        assert result.as_numpy("OUTPUT1").tolist() == (COUNTED - ONES).tolist()

    def test_ids_and_versions_come_back(self, client: triton.InferenceServerClient) -> None:
        response = client.infer("simple", numbers(), model_version="3", request_id="42 ä").get_response()
        assert (response["model_name"], response["model_version"], response["id"]) == ("simple", "3", "42 ä")

    def test_parameters_that_do_not_concern_the_answer(self, client: triton.InferenceServerClient) -> None:
        result = client.infer("simple", numbers(), priority=1, timeout=10_000_000, parameters={"mine": 42})
        assert_sum_and_difference(result)

    def test_async_infer(self, client: triton.InferenceServerClient) -> None:
        pending = [client.async_infer("simple", numbers(), request_id=str(number)) for number in range(8)]
        for number, each in enumerate(pending):
            result = each.get_result()
            assert result.get_response()["id"] == str(number)
            assert_sum_and_difference(result)

    @pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
    async def test_aio_client(self, addresses: dict[str, str], algorithm: str | None) -> None:
        async with triton_aio.InferenceServerClient(addresses["simple"]) as client:
            assert await client.is_server_ready()
            assert await client.is_model_ready("simple")
            assert (await client.get_model_metadata("simple"))["name"] == "simple"
            result = await client.infer(
                "simple",
                numbers(),
                request_compression_algorithm=algorithm,
                response_compression_algorithm=algorithm,
            )
            assert_sum_and_difference(result)

    @pytest.mark.parametrize("binary", [True, False])
    def test_integers_written_as_strings(self, addresses: dict[str, str], binary: bool) -> None:
        inputs = [
            tensor("INPUT0", COUNTED.astype(str).astype(np.object_), "BYTES", binary=binary),
            tensor("INPUT1", ONES.astype(str).astype(np.object_), "BYTES", binary=not binary),
        ]
        outputs = [
            triton.InferRequestedOutput("OUTPUT0", binary_data=binary),
            triton.InferRequestedOutput("OUTPUT1", binary_data=not binary),
        ]
        with triton.InferenceServerClient(addresses["simple_string"]) as client:
            result = client.infer("simple_string", inputs, outputs=outputs)
        assert result.as_numpy("OUTPUT0").astype(np.int32).tolist() == (COUNTED + ONES).tolist()
        assert result.as_numpy("OUTPUT1").astype(np.int32).tolist() == (COUNTED - ONES).tolist()

    @pytest.mark.parametrize("binary", [True, False])
    @pytest.mark.parametrize("is_empty", [False, True])
    def test_every_datatype_comes_back_bit_for_bit(
        self, addresses: dict[str, str], is_empty: bool, binary: bool
    ) -> None:
        tensors = {name: array[:0] if is_empty else array for name, array in TENSORS.items()}
        del tensors["BF16"]
        with triton.InferenceServerClient(addresses["identities"]) as client:
            result = client.infer(
                "identities", [tensor(name, array, name, binary=binary) for name, array in tensors.items()]
            )
        for name, array in tensors.items():
            assert_identical(result.as_numpy(f"{name}_out"), array)

    @pytest.mark.parametrize("is_empty", [False, True])
    def test_bfloat16_comes_back_bit_for_bit(self, addresses: dict[str, str], is_empty: bool) -> None:
        array = TENSORS["BF16"][:0] if is_empty else TENSORS["BF16"]
        with triton.InferenceServerClient(addresses["bfloat16"]) as client:
            result = client.infer("bfloat16", [tensor("BF16", array, "BF16")])
        assert_identical(result.as_numpy("BF16_out"), array)


class TestErrors:
    def test_an_unknown_model_is_named(self, client: triton.InferenceServerClient) -> None:
        for ask in (
            lambda: client.infer("wrong_model_name", numbers()),
            lambda: client.get_model_metadata("wrong_model_name"),
        ):
            with pytest.raises(InferenceServerException, match="wrong_model_name") as refused:
                ask()
            assert refused.value.message().startswith("Request for unknown model")
            assert refused.value.status() == "404"

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ([tensor("INPUT0", COUNTED, "INT32")], "INPUT1"),
            ([*numbers(), tensor("INPUT2", COUNTED, "INT32")], "INPUT2"),
            ([tensor("INPUT0", COUNTED.astype(np.float32), "FP32"), numbers()[1]], "FP32"),
            ([tensor("INPUT0", COUNTED[:, :8], "INT32"), numbers()[1]], r"\[1, 8\]"),
        ],
    )
    def test_inputs_at_fault_are_named(
        self, client: triton.InferenceServerClient, inputs: list[Any], message: str
    ) -> None:
        with pytest.raises(InferenceServerException, match=message) as refused:
            client.infer("simple", inputs)
        assert refused.value.status() == "400"

    def test_an_unknown_output_is_named(self, client: triton.InferenceServerClient) -> None:
        with pytest.raises(InferenceServerException, match="OUTPUT9"):
            client.infer("simple", numbers(), outputs=[triton.InferRequestedOutput("OUTPUT9")])

    def test_strings_must_be_text(self, addresses: dict[str, str]) -> None:
        inputs = {**TENSORS, "BYTES": np.array([b"\xff\xfe"], np.object_)}
        del inputs["BF16"]
        with triton.InferenceServerClient(addresses["identities"]) as client:
            with pytest.raises(InferenceServerException, match="BYTES") as refused:
                client.infer("identities", [tensor(name, array, name) for name, array in inputs.items()])
        assert refused.value.status() == "400"

    def test_what_is_not_supported_is_named(self, client: triton.InferenceServerClient) -> None:
        shared = triton.InferInput("INPUT0", [1, 16], "INT32")
        shared.set_shared_memory("region", 64)
        requests = {
            "shared": lambda: client.infer("simple", [shared, numbers()[1]]),
            "classification": lambda: client.infer(
                "simple", numbers(), outputs=[triton.InferRequestedOutput("OUTPUT0", class_count=3)]
            ),
            "sequence": lambda: client.infer("simple", numbers(), sequence_id=7, sequence_start=True),
            "repository": lambda: client.get_model_repository_index(),
            "stat": lambda: client.get_inference_statistics("simple"),
            "models/stats.* and no other": lambda: client.get_inference_statistics(),
            "trace": lambda: client.get_trace_settings(),
            "memory": lambda: client.get_system_shared_memory_status(),
        }
        for name, ask in requests.items():
            with pytest.raises(InferenceServerException, match=name) as refused:
                ask()
            assert str(refused.value.status()).startswith("4")
