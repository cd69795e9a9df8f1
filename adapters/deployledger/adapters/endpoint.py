"""The endpoint of a deployment as its clients see it: it describes its model and serves predictions."""

import json
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from pydantic import TypeAdapter

from deployledger.domain.exceptions import ConfigurationError, ExternalServiceError
from deployledger.serving import ModelDescription

_LARGEST_DESCRIPTION = 10_000_000
_LARGEST_REFUSAL = 100_000
_DESCRIPTION = TypeAdapter(ModelDescription)
_REASONS = ("error", "message", "detail")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Endpoint:
    """An endpoint.

    Attributes:
        url: its URL.
        timeout: how long it may take to respond, in seconds.
    """

    url: str
    timeout: float

    def describe(self, name: str) -> ModelDescription | None:
        """Return the description of the model, as our servers or the Open Inference Protocol give it.

        Args:
            name: the model's name, where the protocol asks for it.

        Returns:
            None if the endpoint describes no model.

        Raises:
            ExternalServiceError: it cannot be reached.
        """
        try:
            return _DESCRIPTION.validate_json(self._send("", limit=_LARGEST_DESCRIPTION))
        except (HTTPError, ValueError):  # the server is of an earlier version, or not ours
            pass
        path = f"v2/models/{quote(name, safe='')}"
        try:
            return ModelDescription.of_metadata(json.loads(self._send(path, limit=_LARGEST_DESCRIPTION)))
        except (HTTPError, ValueError, KeyError, TypeError):
            return None

    def predict(self, path: str, body: bytes, content_type: str, *, hint: str = "") -> str:
        """Send a request, and return the body of the response.

        Args:
            path: where it goes, relative to the endpoint.
            hint: what to do if it is refused.

        Raises:
            ConfigurationError: it is refused.
            ExternalServiceError: the endpoint cannot be reached, or fails.
        """
        try:
            return self._send(path, body, content_type).decode("utf-8", "replace")
        except HTTPError as error:
            reason = _reason(error)
            if error.code >= 500:
                raise ExternalServiceError(
                    "endpoint", f"The model failed with status {error.code}: {reason}"
                ) from error
            raise ConfigurationError(
                f"The endpoint refused the request with status {error.code}: {reason}", hint=hint
            ) from error

    def _send(
        self, path: str, body: bytes | None = None, content_type: str = "", *, limit: int | None = None
    ) -> bytes:
        headers = {"Accept": "application/json"} | (
            {"Content-Type": content_type} if body is not None else {}
        )
        request = Request(f"{self.url.rstrip('/')}/{path}", body, headers)  # noqa: S310  # callers check the scheme
        is_here = urlsplit(self.url).hostname in _LOOPBACK  # not the host that a proxy would reach
        opener = build_opener(ProxyHandler({} if is_here else None))
        try:
            with opener.open(request, timeout=self.timeout) as response:
                content: bytes = response.read(limit)
                return content
        except HTTPError:
            raise
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, TimeoutError):
                what = f"did not respond within {self.timeout:g} seconds"
            else:
                what = f"cannot be reached: {getattr(reason, 'strerror', None) or reason}"
            raise ExternalServiceError("endpoint", f"The endpoint {self.url} {what}.") from error


def _reason(error: HTTPError) -> str:
    """Return why a server refused a request, in its words."""
    try:
        content: Any = error.read(_LARGEST_REFUSAL)
    except (OSError, HTTPException):
        content = b""
    try:
        error_body = json.loads(content)
        texts = [error_body[key] for key in _REASONS if isinstance(error_body.get(key), str)]
        # MLflow repeats all data before the reason.
        _, _, reason = texts[0].partition("'. \nError: ")
        return str(reason or texts[0])
    except (ValueError, AttributeError, IndexError):
        return content.decode("utf-8", "replace").strip() or error.reason
