"""A model as a team serves it by hand: FastAPI, the parsed body, numpy, ONNX Runtime.

    python fastapi_model.py MODEL PORT

It answers what this service answers, and checks nothing. `POST /bytes` answers how long the body is.
"""

import sys

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options)
names = [output.name for output in session.get_outputs()]
app = FastAPI()


@app.post("/v2/models/{name}/infer")
async def infer(name: str, request: Request) -> JSONResponse:
    tensors = (await request.json())["inputs"]
    inputs = {each["name"]: np.array(each["data"], np.float32).reshape(each["shape"]) for each in tensors}
    outputs = zip(names, session.run(names, inputs), strict=True)
    return JSONResponse(
        {
            "model_name": name,
            "outputs": [
                {
                    "name": output,
                    "datatype": "INT64" if array.dtype == np.int64 else "FP32",
                    "shape": array.shape,
                    "data": array.reshape(-1).tolist(),
                }
                for output, array in outputs
            ],
        }
    )


@app.post("/bytes")
async def read_bytes(request: Request) -> JSONResponse:
    return JSONResponse({"bytes": len(await request.body())})


if __name__ == "__main__":
    uvicorn.run(
        app, port=int(sys.argv[2]), loop="uvloop", http="httptools", access_log=False, log_level="error"
    )
