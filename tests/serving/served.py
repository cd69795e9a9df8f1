"""Applications behind a real HTTP server, in a thread of the test's process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from deployledger.serving.asgi import App
from deployledger.serving.http_app import make_app
from deployledger.serving.onnx_model import OnnxModel
from tests.ports import free_port


def model_app(name: str, version: str, path: Path) -> App:
    """Return the application of the ONNX server for a model file, with the limits that it has by default."""
    return make_app(name, version, OnnxModel(path, threads=1))


@contextmanager
def served(app: App) -> Iterator[str]:
    """Serve an application, and yield its host and port."""
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, lifespan="off", log_level="warning", access_log=False)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield f"127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
