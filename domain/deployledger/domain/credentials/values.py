"""Tells a credential from what stands for one: a reference, a placeholder, or nothing."""

import re
from typing import Any

from deployledger.domain.credentials.names import is_password, is_plural, words

_REFERENCE = re.compile(
    r"""
      [*•.…_–—-]{1,64} | \*{3}[\]})"',;>]*+ | [xX]{3,64} | \[[A-Za-z _-]{1,40}\] | <[A-Za-z _:.-]{0,60}>
    | \((?:none|hidden|redacted|masked)\)
    | (?i:none|null|nil|undefined|true|false|yes|no|on|off|n/a|required|optional|enabled|disabled|(?:un)?set
        |missing|empty|hidden|redacted|masked|removed|omitted|default|inherit(?:ed)?|anonymous
        |managed(?:[-_ ]identity)?|wrong|invalid|incorrect|expired|denied|rejected|revoked|not
        |basic|digest|bearer|negotiate|oauth2?|openid|oidc|saml2?|ldap|kerberos|ntlm|mtls|tls|sso|iam|rbac|jwt
        |token|api[-_]?key|password|certificate|workload[-_ ]identity)
    | \$[A-Z_][A-Z0-9_]*+
    | \$\{\{?[ ]?(?:[A-Za-z]{1,20}(?:\.[A-Za-z]{1,20})?[:.])?[A-Za-z_][\w./-]*+[ ]?\}?\}
    | \$\([A-Z_][A-Z0-9_]*+\) | \{\{[^{}]{1,200}\}\} | %[A-Z_][A-Z0-9_]*+% | %\([A-Za-z_]\w*+\)s
    | !(?:Ref|Sub|env|vault|secret)[ ][\w./:${}-]+
    | (?i:env(?:iron(?:ment)?)?|vault|file|ssm|secrets?|secretref|keyring|op|gsm|gcp-?sm|gcp-?secrets?|aws-?sm
        |aws-?secrets?|azkv|akv|keyvault|k8s|kubernetes|sops|doppler|infisical|bws|conjur|ref|secretsmanager
        |parameterstore)
      :(?://)?[\w./#{}$~+-][\w./#:{}$~+-]*+
    | arn:aws[\w-]{0,20}:(?:secretsmanager|ssm|kms):[\w:./+=-]++
    | projects/[\w-]{1,64}/secrets/[\w/-]{1,300}
    | @Microsoft\.KeyVault\([^()]{1,300}\)
    | https://[\w-]{1,64}\.vault\.azure\.net/secrets/[\w/-]{1,200}
    | (?:~|\.{1,2})?/(?:run|var|etc|mnt|home|opt|secrets?|vault|usr|root|tmp|srv|app|keys?|certs?|work|Users)/
      [\w./-]++
    | (?:~|\.{1,2})/[\w./-]++
    | [A-Za-z]:\\[\w.\\ -]++
    | os\.(?:environ|getenv)[\[(.]["'\w.()\[\]]{1,100} | process\.env\.\w{1,100}
    | ENC\[[^\]]{1,4000}\]
    """,
    re.VERBOSE,
)
# What refers to an entry of a secret store is made of these; one of the first must be among them.
_POINTERS = words("arn env envvar file from name path ref secretname secretref uri valuefrom")
_BESIDE_POINTERS = words(
    "engine field key kind mount namespace optional property provider region store type version"
)

_DIGITS = re.compile(r"[+-]?\d[\d_,]*(?:\.\d+)?")
_FEWEST_DIGITS = 4


def is_reference(value: str) -> bool:
    """Return whether a value stands for a credential without being one: a name, a path, a placeholder."""
    return _REFERENCE.fullmatch(value.strip()) is not None


def is_credential(value: str, name: str) -> bool:
    """Return whether a value that stands under the name of a credential may be one."""
    value = value.strip().strip("\"'")
    if not value or is_reference(value):
        return False
    if _DIGITS.fullmatch(value):
        return is_password(name) or (len(value) >= _FEWEST_DIGITS and not is_plural(name))
    return any(it.isalnum() for it in value) or len(value) > 1


def is_reference_object(value: dict[Any, Any]) -> bool:
    """Return whether an object refers to a credential, as ``{"name": "db", "key": "password"}`` does."""
    keys = {re.sub(r"[^a-z]", "", str(key).lower()) for key in value}
    return not keys.isdisjoint(_POINTERS) and keys <= _POINTERS | _BESIDE_POINTERS
