"""A model on BentoML, with its own route and schema: `python bentoml_service.py MODEL PORT`."""

import os
import sys

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1)
class Iris:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(os.environ["MODEL"], options)

    @bentoml.api
    def predict(self, measurements: list[list[float]]) -> dict[str, list]:
        label, probabilities = self._session.run(
            ["label", "probabilities"], {"measurements": np.array(measurements, np.float32)}
        )
        return {"label": label.tolist(), "probabilities": probabilities.tolist()}


if __name__ == "__main__":
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        f"{__file__.rsplit('/', 1)[-1].removesuffix('.py')}:Iris",
    ]
    command += ["--port", sys.argv[2], "--host", "127.0.0.1"]
    os.execve(sys.executable, command, {**os.environ, "MODEL": sys.argv[1], "BENTOML_DO_NOT_TRACK": "1"})
