"""Keys of the audit commands."""

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployledger.adapters.cli.files import file_to_read

if TYPE_CHECKING:
    from deployledger.audit.keys import Verifier

KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key",
        help="The private key that signs.",
        parser=file_to_read,
        show_default="DEPLOYLEDGER_AUDIT_KEY",
        metavar="FILE",
    ),
]
PublicKeysOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help="A public key whose signatures count; repeatable.",
        parser=file_to_read,
        show_default="the one beside DEPLOYLEDGER_AUDIT_KEY",
    ),
]


def verifiers(paths: list[Path] | None) -> "list[Verifier]":
    """Return the public keys that were given, or the one beside the private key of the settings."""
    from deployledger.adapters.settings import load_settings
    from deployledger.audit.keys import Verifier

    if not paths:
        private = load_settings().audit_key
        public = private.with_name(f"{private.name}.pub") if private else None
        paths = [public] if public is not None and public.exists() else []
    return [Verifier.load(path) for path in paths]


def in_base64(digest: bytes) -> str:
    """Return a digest as text."""
    return base64.b64encode(digest).decode()
