"""The page of an endpoint, at ``/``: its model's inputs and outputs, a form, and code to copy.

The page loads nothing else. The description of the model is data in an attribute, which the script adds to
the page as text; the policy in the header lets no other script run (docs/decisions/0047).
"""

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from html import escape
from pathlib import Path
from string import Template

from deployledger.serving.asgi import Receive, Scope, Send, respond
from deployledger.serving.description import ModelDescription

_Headers = list[tuple[bytes, bytes]]


class Page:
    """The ASGI application that answers GET and HEAD of ``/``: HTML for browsers, JSON for others.

    Args:
        description: the description of the model.
    """

    def __init__(self, description: ModelDescription) -> None:
        self._json = _answer("application/json", json.dumps(asdict(description)).encode(), {})
        self._html = _answer("text/html; charset=utf-8", *_html(description))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; the signature is ASGI's."""
        accepts = b",".join(value for name, value in scope["headers"] if name == b"accept")
        headers, body = self._html if b"text/html" in accepts else self._json
        await respond(send, 200, headers, body)  # to HEAD, the server sends the head alone


def _html(description: ModelDescription) -> tuple[bytes, dict[str, str]]:
    """Return the page, and the headers with its policy."""
    template, style, script = (
        Path(__file__).with_name(f"page.{suffix}").read_text("utf-8") for suffix in ("html", "css", "js")
    )
    page = Template(template).substitute(
        name=escape(description.name),
        description=escape(json.dumps(asdict(description))),
        style=style,
        script=script,
    )
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page.encode(), {"content-security-policy": policy, "referrer-policy": "no-referrer"}


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _answer(content_type: str, body: bytes, headers: Mapping[str, str]) -> tuple[_Headers, bytes]:
    # After an update, the same address has another page.
    headers = {"cache-control": "no-store", "vary": "accept", "x-content-type-options": "nosniff", **headers}
    headers = {"content-type": content_type, **headers}
    return [(name.encode(), value.encode()) for name, value in headers.items()], body
