"""The model server process: ``python -m deployledger.serving.onnx_server``."""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

import uvicorn

from deployledger.serving.exit_statuses import DAMAGED_STATUS, MODEL_REFUSED_STATUS
from deployledger.serving.http_app import Draining, make_app
from deployledger.serving.model_files import ModelDamagedError, ModelFiles
from deployledger.serving.onnx_model import ModelRefusedError, OnnxModel

# Longer than clients keep idle connections, so that the client closes them and never meets a closed one.
_KEEP_ALIVE_SECONDS = 120
_SHUTDOWN_SECONDS = 4


def main() -> int:
    """Serve until SIGTERM, or until whoever holds the other end of the pipe ``--parent-fd`` is gone."""
    parser = argparse.ArgumentParser(prog="deployledger.serving.onnx_server")
    parser.add_argument("--model", type=Path, required=True, help="the ONNX file")
    parser.add_argument("--name", required=True, help="the model's name in URLs")
    parser.add_argument("--version", default="1", help="the model's version in URLs")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1, help="threads within one prediction")
    parser.add_argument("--parent-fd", type=int, help="exit when this pipe closes")
    ModelFiles.add_arguments(parser)
    arguments = parser.parse_args()

    if arguments.parent_fd is not None:
        threading.Thread(target=_exit_at_eof, args=[arguments.parent_fd], daemon=True).start()
    try:
        files = ModelFiles.from_arguments(arguments)
        model = OnnxModel(arguments.model, threads=arguments.threads, files=files)
    except ModelDamagedError as error:
        sys.stdout.write(f"{error}\n")
        return DAMAGED_STATUS
    except ModelRefusedError as error:
        sys.stdout.write(f"{error}\n")
        return MODEL_REFUSED_STATUS
    app = Draining(make_app(arguments.name, arguments.version, model))
    signal.signal(signal.SIGUSR1, app.begin)
    uvicorn.run(
        app,
        host=arguments.host,
        port=arguments.port,
        access_log=False,
        lifespan="off",
        log_level="info",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    return 0


def _exit_at_eof(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
