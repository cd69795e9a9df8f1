"""A question to MLflow, from the check that the server answers to the error that it ends with.

MLflow retries a failed request for four minutes or more, and how often can be set for the whole process
only (``MLFLOW_HTTP_REQUEST_MAX_RETRIES``). So each question opens with one request that is not retried: a
server that is down, hangs or has lost its database is reported in seconds. Later requests keep MLflow's
retries, which let a long download survive a short outage.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deployledger.adapters.mlflow.failures import Reporter
from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.reasons import FailureReason

PROBE_TIMEOUT_SECONDS = 4
"""For connecting, and again for the answer; MLflow takes whole seconds only."""

# Any request that reads the database will do; that a proxy or an older server refuses it is an answer too.
_PROBE = "/api/2.0/mlflow/registered-models/search?max_results=1"
_NOT_IMPLEMENTED = 501


@dataclass(frozen=True)
class Server:
    """An MLflow server that has answered.

    Attributes:
        client: the server's ``mlflow.MlflowClient``.
        tracking_uri: the server's address; it may hold credentials.
        report: words the failures of this question.
    """

    client: Any
    tracking_uri: str
    report: Reporter


@contextmanager
def question(tracking_uri: str | None, registry_uri: str | None, subject: str) -> Iterator[Server]:
    """Yield a server that answers, and raise MLflow's failures as ours.

    Args:
        tracking_uri: the tracking server; None asks MLflow for its own setting.
        registry_uri: the model registry, where that is another server.
        subject: what is asked for, as messages are to name it.

    Raises:
        ConfigurationError: MLflow is not installed, or cannot use such an address.
        ModelRegistryError: the server does not answer, refuses, or does not have the subject.
    """
    _require_mlflow()
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException

    if tracking_uri is None and not mlflow.is_tracking_uri_set():
        # MLflow's default is a database in the current folder, which it would make.
        raise ConfigurationError(
            f"{subject} is in MLflow, but no MLflow server is set.",
            hint="Set MLFLOW_TRACKING_URI to the address of the server.",
        )
    tracking_uri = tracking_uri or mlflow.get_tracking_uri()
    registry_uri = registry_uri or os.environ.get("MLFLOW_REGISTRY_URI") or tracking_uri
    report = Reporter.of(tracking_uri, registry_uri, subject)
    try:
        for uri in dict.fromkeys((tracking_uri, registry_uri)):
            _check_answers(uri, report)
        client = mlflow.MlflowClient(tracking_uri=tracking_uri, registry_uri=registry_uri)
        yield Server(client, tracking_uri, report)
    except UnsupportedModelRegistryStoreURIException as error:
        raise report.unusable_address(str(error)) from _shareable(error, report)
    except MlflowException as error:
        raise report.of_mlflow(str(error), error.error_code) from _shareable(error, report)
    except ImportError as error:
        raise report.missing_package(error) from _shareable(error, report)
    except OSError as error:  # requests' errors are OSErrors
        raise report.unavailable(f"{type(error).__name__}: {error}") from _shareable(error, report)


def _require_mlflow() -> None:
    try:
        import mlflow  # noqa: F401 - asks only whether it is there
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "MLflow is not installed, so its model registry cannot be queried.",
            reason=FailureReason.RUNTIME_MISSING,
            hint="Install it with `pip install 'deployledger[mlflow]'`.",
        ) from error


def _check_answers(uri: str, report: Reporter) -> None:
    if not uri.startswith(("http://", "https://")):
        return
    # MLflow's own request, so that its credentials, certificates and proxies apply.
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        response: Any = http_request(
            get_default_host_creds(uri),
            _PROBE,
            "GET",
            max_retries=0,
            timeout=PROBE_TIMEOUT_SECONDS,
            raise_on_status=False,
        )
    except MlflowException as error:
        raise report.unavailable(f"{_root_cause(error)}.") from _shareable(error, report)
    if response.status_code >= 500 and response.status_code != _NOT_IMPLEMENTED:
        raise report.unavailable(f"it answers with HTTP status {response.status_code}.")


def _root_cause(error: BaseException) -> BaseException:
    """Return what the operating system said, below the layers of client libraries."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return error


def _shareable(error: Exception, report: Reporter) -> Exception | None:
    """Return the cause to chain: none if it may spell out credentials, which a traceback would show."""
    return None if report.secrets else error
