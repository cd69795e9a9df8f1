"""A model on MLServer: `python mlserver_model.py MODEL PORT`, in the process that answers the requests."""

import asyncio
import sys

import numpy as np
import onnxruntime
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        self._names = [output.name for output in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = {each.name: NumpyCodec.decode_input(each).astype(np.float32) for each in payload.inputs}
        outputs = zip(self._names, self._session.run(self._names, inputs), strict=True)
        return InferenceResponse(
            id=payload.id,
            model_name=self.name,
            outputs=[NumpyCodec.encode_output(name, array) for name, array in outputs],
        )


async def main(model: str, port: int) -> None:
    settings = Settings(
        debug=False,
        parallel_workers=0,
        http_port=port,
        grpc_port=port + 1,
        metrics_port=port + 2,
        host="127.0.0.1",
    )
    parameters = ModelParameters(uri=model)
    await MLServer(settings).start(
        [ModelSettings(name="iris", implementation=OnnxModel, parameters=parameters)]
    )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
