"""Tells names that hold credentials (``db_password``, ``apiKey``) from names that merely look alike.

A name is read as English reads a compound: its last noun says what it holds. ``access_token`` holds a token;
``token_count`` holds a count and ``secret_name`` a name. Nothing is matched as a substring.
"""

import re
import unicodedata
from functools import lru_cache

_LONGEST_NAME = 200

# "APIKey2" is API, Key, 2; "dbPassword" is db, Password.
_CAMEL = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
_SEGMENT = re.compile(r"[^\W\d_]+")
_INVISIBLE = re.compile(r"[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


_PASSWORDS = words("password passwd passwrd passphrase passcode passwort pwd pswd psw pw")
_NOUNS = _PASSWORDS | words(
    """
    auth authorisation authorization bearer cookie cred credential htpasswd jsessionid jwt otp pass passkey
    phpsessid sas secret sessid sessionid token totp
    """
)
# Words of one piece that end with the noun: PGPASSWORD, clientsecret, authtoken. "tokenizer" does not.
_ENDINGS = (
    *(
        "password",
        "passwd",
        "passphrase",
        "secret",
        "token",
        "credential",
        "apikey",
        "accesskey",
        "secretkey",
    ),
    *(
        "privatekey",
        "authkey",
        "accountkey",
        "encryptionkey",
        "signingkey",
        "sharedkey",
        "masterkey",
        "sshkey",
    ),
    *("accesskeyid", "connectionstring", "connstring", "connstr"),
    *("adminpass", "dbpass", "ftppass", "pgpass", "rootpass", "smtppass", "userpass"),
)

# "key" alone names columns, caches and objects; these words before it make it a credential.
_SECRET_KEYS = words(
    """
    access account admin aes age anthropic api app application auth authentication aws azure client
    cloudflare cohere consumer cosmos crypto datadog decryption deploy encryption function functions
    gcp gemini gpg groq google hmac host huggingface jwt kms license licence live master mistral
    openai pgp pinecone private root rsa sas secret sendgrid server service session shared signing
    ssh ssl storage stripe subscription tls wandb webhook write
    """
)
_STRINGS = frozenset({"connection", "conn", "connect"})

# What language models and parsers call tokens, and what pages of a list are told by.
_OTHER_TOKENS = words(
    """
    added audio avg batch begin beginning bos cached class cls completion context continuation count
    decoder encoder end eos extra first forced generated image input lang language last mask max
    maximum mean media min minimum n next num number output pad padding page pagination per prompt
    reasoning sentinel sep separator special speech start stop sub suppress text think total
    unexpected unk unknown video vision vocab vocabulary word
    """
)
_OTHER_PASSES = words(
    """
    backward band fifth final first forward fourth full high last low multi next one render second
    single third three two
    """
)
# "has_password", "use_auth", "no_token" say whether, not what.
_WHETHER = words(
    """
    accept accepts allow allows are can disable disabled enable enabled has have hide ignore is need
    needs no non require required requires should show skip support supports use uses with without
    """
)
# Words after the noun that do not change what it is: "password_value", "TOKEN_PROD", "api_key_github".
_TRANSPARENT = words(
    """
    ascii aws azure base64 b64 backup bytes clear cleartext confirm confirmation current data
    database db default dev development digest docker encoded encrypted final gcp github gitlab
    google hash hashed header hex huggingface json live local main mlflow mongo mysql new npm old
    openai pem plain plaintext postgres previous primary prod production pypi qa raw redis sandbox
    secondary sha256 md5 slack staging stg str string temp temporary test text tmp uat value values
    """
)
_PREPOSITIONS = frozenset({"for", "of", "in", "on", "from", "at", "by"})


@lru_cache(maxsize=4096)
def _holds_credential(name: str) -> bool:
    plain = _INVISIBLE.sub("", unicodedata.normalize("NFKC", name))
    segments = _SEGMENT.findall(plain)
    camel = [word.lower() for segment in segments for word in (_CAMEL.findall(segment) or [segment])]
    return _is_compound(camel) or _is_compound([segment.lower() for segment in segments])


def holds_credential(name: str) -> bool:
    """Return whether what is called so is a credential, in any of the usual spellings of the name."""
    return _holds_credential(name[-_LONGEST_NAME:])


def is_password(name: str) -> bool:
    """Return whether the name is that of a password in the narrow sense, not of any credential."""
    return holds_credential(name) and any(noun in name.lower() for noun in _PASSWORDS)


def is_plural(name: str) -> bool:
    """Return whether a name speaks of several: a number under it counts them."""
    return name.rstrip("0123456789_-. ").lower().endswith("s") and not name.lower().endswith(("sas", "pass"))


def _is_compound(words: list[str]) -> bool:
    for at, word in enumerate(words[1:], 1):
        if word in _PREPOSITIONS:
            words = words[:at]
            break
    while len(words) > 1 and words[-1] in _TRANSPARENT and not _is_noun(words):
        words = words[:-1]
    return _is_noun(words) and words[0] not in _WHETHER


def _is_noun(words: list[str]) -> bool:
    """Return whether the last word, with those before it, names a credential."""
    if not words:
        return False
    if words[-1] in ("id", "ids"):  # an access key's id is half of the pair, and an account's alone is not
        return words[-3:-1] == ["access", "key"] or words[-2:-1] == ["accesskey"]
    last = words[-1]
    noun = last if last in _NOUNS or not last.endswith("s") else last[:-1]
    before = words[:-1]
    if noun == "token":
        return _OTHER_TOKENS.isdisjoint(before)
    if noun == "pass":
        return _OTHER_PASSES.isdisjoint(before)
    if noun == "key":
        return bool(before) and before[-1] in _SECRET_KEYS
    if noun in ("string", "str"):
        return bool(before) and before[-1] in _STRINGS
    return noun in _NOUNS or noun.endswith(_ENDINGS) or last.endswith(_ENDINGS)
