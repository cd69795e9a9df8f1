"""What every model server does as a process: its arguments, startup and shutdown.

A server is a module that adds its own arguments to `argument_parser`, and gives `serve` a function that
loads its model and returns an ASGI application.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable

import uvicorn

from deployledger.serving.asgi import App
from deployledger.serving.exit_statuses import DAMAGED_STATUS, MODEL_REFUSED_STATUS, RUNTIME_MISSING_STATUS
from deployledger.serving.memory import keep_freed_memory
from deployledger.serving.model_files import (
    ModelDamagedError,
    ModelFiles,
    ModelRefusedError,
    RuntimeMissingError,
)
from deployledger.serving.request_bodies import MAX_BODY

# Longer than clients keep idle connections, so that the client closes them and never meets a closed one.
_KEEP_ALIVE_SECONDS = 120
_SHUTDOWN_SECONDS = 4


def argument_parser(module: str) -> argparse.ArgumentParser:
    """Return a parser of the arguments that every model server has."""
    parser = argparse.ArgumentParser(prog=module)
    parser.add_argument("--name", required=True, help="the model's name in URLs")
    parser.add_argument("--version", default="1", help="the model's version in URLs")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1, help="threads within one prediction")
    parser.add_argument("--parent-fd", type=int, help="exit when this pipe closes")
    ModelFiles.add_arguments(parser)
    parser.add_argument("--max-body", type=int, default=MAX_BODY, help="the largest request body, in bytes")
    return parser


def serve(arguments: argparse.Namespace, load: Callable[[], App]) -> int:
    """Serve until SIGTERM, or until whoever holds the other end of the pipe ``--parent-fd`` is gone.

    Args:
        arguments: what `argument_parser` has parsed.
        load: loads the model and returns the application; it may raise `ModelDamagedError` and
            `ModelRefusedError`.

    Returns:
        The exit status.
    """
    keep_freed_memory()
    if arguments.parent_fd is not None:
        threading.Thread(target=_exit_at_eof, args=[arguments.parent_fd], daemon=True).start()
    try:
        app = load()
    except ModelDamagedError as error:
        sys.stdout.write(f"{error}\n")
        return DAMAGED_STATUS
    except ModelRefusedError as error:
        sys.stdout.write(f"{error}\n")
        return RUNTIME_MISSING_STATUS if isinstance(error, RuntimeMissingError) else MODEL_REFUSED_STATUS
    # Gateways of earlier versions announce with it that they will end this process.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    uvicorn.run(  # it runs on uvloop and httptools where they are installed
        app,
        host=arguments.host,
        port=arguments.port,
        access_log=False,
        lifespan="off",
        log_level="info",
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        ws="none",
    )
    return 0


def _exit_at_eof(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with what the model has started
    os._exit(1)
