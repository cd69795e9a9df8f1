"""Distinguishes credentials from references, placeholders and empty values."""

import re
from typing import Any

from deployledger.domain.credentials.names import (
    Strength,
    holds_credential,
    is_password,
    is_plural,
    strength,
    words,
)

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
    | arn:aws[\w-]{0,20}:[\w:./+=-]++
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

# What stands under such a name in a schema, a policy or a sentence.
_DESCRIPTION = re.compile(
    r"""
      (?:(?:tf|np|numpy|torch|pa|pd|jnp|pl)\.)?
      (?:string|str|text|(?:var)?char|u?int(?:8|16|32|64|eger)?|b?float(?:8|16|32|64)?|double|decimal
        |number|numeric|bool(?:ean)?|bytes?|binary|object|array|list|dict|map|struct|tensor|date(?:time)?
        |timestamp|categor(?:y|ical)|any|long|short|secretstr|optional|sequence|set|vector|enum|uuid)
      (?:\(\d{1,9}\)|\[[^\[\]]{0,40}\]|<[^<>]{0,40}>)?\??
    | (?:sub)?word(?:piece)?|sentence(?:piece)?|unigram|bigram|character|bpe|subwords?|classification
        |generation|prediction|positive|negative|level
    | (?:RS|HS|ES|PS)(?:256|384|512)|EdDSA|sha-?\d{1,3}|bcrypt|scrypt|pbkdf2|argon2(?:id?|d)?
    | (?:iam|instance|service|managed|execution)[-_ ](?:role|profile|account)s?
    | (?:\w{1,30}-){1,4}cred(?:ential)?s
    | essential|necessary|functional|analytics|strict|lax|read|write|high|medium|low|yes|public|private
    | (?:see|in|ask|from|stored|kept|field|must|should|cannot|can't|may|has|was|is|kubernetes|contact|expected
        |input|too|being|refuse[ds]?|failed|not|never)(?:[ ](?:[a-z][a-z'/-]*+|\d{1,3})[.,]?)*+
    """,
    re.VERBOSE | re.IGNORECASE,
)
_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*+(?:_[A-Z0-9]++)++")
_QUANTITY = re.compile(r"[+-]?\d[\d_,]*(?:\.\d+)?(?:e[+-]?\d{1,3}|[ ]?(?:[kKMBTGxsmhd%]|ms|min|[KMGT]i?B))?")

_PAGE = re.compile(r"https?://[^\s@?#]++")
_PIECES = re.compile(r"""[\s,;:/|()\[\]{}"'<>]+""")
_VERSIONED = re.compile(
    r"[A-Za-z]++(?:[-_.][A-Za-z]++)*+[-_.]v?\d++(?:\.\d++)*+(?:[-_.][a-z]++)*+|\d{4}-\d\d-\d\d.*"
)
_UNUSUAL = re.compile(r"[!#$^&*=+~?]")
_CASES = re.compile(r"[a-z][A-Z]")
_SHORTEST = 6
_LONGEST_WORD = 32
_FEWEST_CHANGES = 2

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
        return is_password(name) or not (is_number(value) or is_plural(name))
    if _is_description(value, name):
        return False
    if strength(name) is Strength.WEAK:
        return looks_like_credential(value)
    return any(char.isalnum() for char in value) or len(value) > 1


def _is_description(value: str, name: str) -> bool:
    """Return whether a value says what a credential is like, or where it is: a type, a variable, a remark."""
    if _DESCRIPTION.fullmatch(value) or (_VARIABLE.fullmatch(value) and holds_credential(value)):
        return True
    return _QUANTITY.fullmatch(value) is not None and not is_password(name)


def looks_like_credential(value: str) -> bool:
    """Return whether a value could be a credential by itself: a part of it is no word, number or version."""
    return not _PAGE.fullmatch(value) and any(map(_is_odd, _PIECES.split(value)))


def _is_odd(piece: str) -> bool:
    if len(piece) < _SHORTEST or _VERSIONED.fullmatch(piece) or _QUANTITY.fullmatch(piece):
        return False
    is_mixed = any(char.isdigit() for char in piece) and any(char.isalpha() for char in piece)
    return (
        is_mixed
        or _UNUSUAL.search(piece) is not None
        or len(_CASES.findall(piece)) >= _FEWEST_CHANGES
        or len(piece) >= _LONGEST_WORD
        or any(word in piece.lower() for word in ("secret", "passw"))
    )


def is_number(value: str) -> bool:
    """Return whether a value is a number so short, or with a fraction, that it is no password."""
    return _QUANTITY.fullmatch(value) is not None and (len(value) < _FEWEST_DIGITS or "." in value)


def is_reference_object(value: dict[Any, Any]) -> bool:
    """Return whether an object refers to a credential, as ``{"name": "db", "key": "password"}`` does."""
    keys = {re.sub(r"[^a-z]", "", str(key).lower()) for key in value}
    return not keys.isdisjoint(_POINTERS) and keys <= _POINTERS | _BESIDE_POINTERS
