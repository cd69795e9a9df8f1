"""Base64 in one spelling only: what is signed or hashed has no other one that means the same."""

import base64
import binascii


def encode_base64(data: bytes) -> str:
    """Return bytes as text: the standard alphabet, with padding."""
    return base64.b64encode(data).decode()


def decode_base64(text: str) -> bytes:
    """Return the bytes that `encode_base64` wrote.

    Raises:
        ValueError: if it is not base64, or spelled in another way.
    """
    try:
        decoded = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    if encode_base64(decoded) != text:
        raise ValueError("not canonical base64")
    return decoded
