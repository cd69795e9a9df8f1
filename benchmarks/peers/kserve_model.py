"""A model on KServe's own Python runtime: `python kserve_model.py MODEL PORT`."""

import argparse
import uuid

import numpy as np
import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer, model_server


class OnnxModel(Model):
    def __init__(self, path: str) -> None:
        super().__init__("iris")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options)
        self._names = [output.name for output in self._session.get_outputs()]
        self.ready = True

    async def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        inputs = {each.name: each.as_numpy() for each in payload.inputs}
        outputs = []
        for name, array in zip(self._names, self._session.run(self._names, inputs), strict=True):
            output = InferOutput(name, list(array.shape), "INT64" if array.dtype == np.int64 else "FP32")
            output.set_data_from_numpy(array, binary_data=payload.use_binary_outputs)
            outputs.append(output)
        return InferResponse(
            payload.id or str(uuid.uuid4()),  # it fails without one
            "iris",
            outputs,
            use_binary_outputs=payload.use_binary_outputs,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[model_server.parser], conflict_handler="resolve")
    parser.add_argument("model")
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    ModelServer(http_port=options.port, enable_grpc=False, access_log_format=None).start(
        [OnnxModel(options.model)]
    )
