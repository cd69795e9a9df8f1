"""Keeps credentials out of what is stored, logged and shown."""

import re

_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s]*@")
_SECRET_PARAMETER = re.compile(
    r"(?P<name>(?:x-amz-|x-goog-|aws)?(?:signature|credential|security-token|accesskeyid|access_key_id|"
    r"secret[a-z_-]*|token|access_token|api[-_]?key|password|passwd|pwd|sig|sas|auth)=)(?:'[^']*'|\"[^\"]*\"|[^&\s'\"]+)",
    re.IGNORECASE,
)


def without_credentials(text: str) -> str:
    """Return a URI, or a text that holds some, without userinfo and with secret parameters blanked."""
    return _SECRET_PARAMETER.sub(r"\g<name>***", _USERINFO.sub(r"\g<scheme>", text))
