"""The processes that run models: model servers, and a scorer of files.

* ``python -m deployledger.serving.onnx_server`` serves one ONNX model over HTTP with the Open
  Inference Protocol v2, https://github.com/kserve/open-inference-protocol. A private server on a private
  port: its orchestrator puts a gateway before it, and ends it with SIGTERM.
* ``python -m deployledger.serving.mlflow_server`` likewise serves one MLflow model with the protocol of
  MLflow's scoring server.
* ``python -m deployledger.serving.batch`` scores a CSV or JSON-lines file, and says how far it is in
  a status file.

Orchestrators start them as processes, so that a model can neither block nor crash its orchestrator. What they
import are the names here: how a model's files are checked, what an exit status says, and how an endpoint
describes its model.
"""

from deployledger.domain.public_names import public_names

__getattr__, __dir__, __all__ = public_names(
    __name__,
    {
        "description": ("ModelDescription", "Tensor", "shape_of"),
        "exit_statuses": ("DAMAGED_STATUS", "MODEL_REFUSED_STATUS", "RUNTIME_MISSING_STATUS"),
        "memory": ("keep_freed_memory",),
        "model_files": ("ModelDamagedError", "ModelFiles"),
    },
)
