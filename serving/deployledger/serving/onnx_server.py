"""The model server process: ``python -m deployledger.serving.onnx_server``."""

import sys
from pathlib import Path

from deployledger.serving.http_app import make_app
from deployledger.serving.model_files import ModelFiles
from deployledger.serving.onnx_model import OnnxModel
from deployledger.serving.server_process import argument_parser, serve


def main() -> int:
    """Serve one ONNX model, as `serve` says."""
    parser = argument_parser("deployledger.serving.onnx_server")
    parser.add_argument("--model", type=Path, required=True, help="the ONNX file")
    arguments = parser.parse_args()
    files = ModelFiles.from_arguments(arguments)
    return serve(
        arguments,
        lambda: make_app(
            arguments.name,
            arguments.version,
            OnnxModel(arguments.model, threads=arguments.threads, files=files),
            arguments.max_body,
            arguments.digest,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
