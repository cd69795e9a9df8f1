"""Starts the server of an MLflow model for a gateway of an earlier version.

Such a gateway restarts its replicas by the command ``python -m deployledger.gateway.tether --parent-fd FD …
-- python -m mlflow models serve -m MODEL … -p PORT …``.
"""

import os
import sys


def main() -> None:
    """Become the server that serves the same model at the same port."""
    separator = sys.argv.index("--")
    options = sys.argv[sys.argv.index("serve", separator) + 1 :]
    model, port = (options[options.index(name) + 1] for name in ("-m", "-p"))
    command = [sys.executable, "-P", "-m", "deployledger.serving.mlflow_server", "--name", "model"]
    command += ["--model", model, "--port", port, *sys.argv[1:separator]]
    os.execv(sys.executable, command)  # noqa: S606 - without a shell, as it should be


if __name__ == "__main__":
    main()
