"""Tells names that hold credentials (``db_password``, ``apiKey``) from names that merely look alike.

A name is read as English reads a compound: its last noun says what it holds. ``access_token`` holds a token;
``token_count`` holds a count and ``secret_name`` a name. Nothing is matched as a substring.
"""

import re
from enum import IntEnum
from functools import lru_cache

from deployledger.domain.credentials.decoding import as_seen

_LONGEST_NAME = 200

# "APIKey2" is API, Key, 2; "dbPassword" is db, Password.
_CAMEL = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
_SEGMENT = re.compile(r"[^\W\d_]+")


class Strength(IntEnum):
    """How surely what stands under a name is a credential."""

    NONE = 0

    WEAK = 1
    """A credential only if it looks like one: "auth" may be a method, "session_key" a column."""

    STRONG = 2


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


_PASSWORDS = words(
    """
    password passwd passwrd passphrase passcode passwort pwd pswd psw pw
    contrasena contraseña hasło heslo kennwort lösenord motdepasse salasana senha wachtwoord
    пароль пароля パスワード 密码 密碼 비밀번호
    """
)
_WEAK = words("auth jwt otp pass sas tokens totp")
# Whose pass is a password, not a run of a test.
_OWNERS = words(
    """
    admin bind database db docker ftp http imap key keystore ldap login mail my mysql pg postgres proxy redis
    registry root smtp sql ssh truststore user
    """
)
_ENDS_OF_PASS = words("code phrase wd word words")
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
        "pwd",
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
    *("adminpw", "bindpw", "dbpw", "ldappw", "rootpw", "sudopw", "userpw"),
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
# Of those, the ones that also name columns, files and plans.
_OTHER_KEYS = words(
    """
    account age app application client consumer deploy function host licence license live root server
    service session shared storage write
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
    alt alternate ascii aws azure bak base64 b64 backup bytes clear cleartext confirm confirmation
    current data copy database db default dev development digest docker encoded encrypted fallback
    final gcp github gitlab
    google hash hashed header hex huggingface json latest live local main mlflow mongo mysql new npm old
    one openai orig original pem plain plaintext postgres previous primary prod production pypi qa raw
    redis rev sandbox secondary sha256 md5 slack staging stg str string temp temporary test text
    three tmp two uat v value values
    """
)
_PREPOSITIONS = frozenset({"for", "of", "in", "on", "from", "at", "by"})


@lru_cache(maxsize=4096)
def _strength(name: str) -> Strength:
    segments = _SEGMENT.findall(as_seen(name))
    camel = [word.lower() for segment in segments for word in (_CAMEL.findall(segment) or [segment])]
    return max(_of_compound(camel), _of_compound([segment.lower() for segment in segments]))


def strength(name: str) -> Strength:
    """Return how surely what is called so is a credential, in any of the usual spellings of the name."""
    return _strength(name[-_LONGEST_NAME:])


def holds_credential(name: str) -> bool:
    """Return whether what is called so may be a credential."""
    return strength(name) > Strength.NONE


# What stands beside a credential and says of what kind, or whose, it is.
_BESIDE = words(
    """
    algorithm audience domain enabled endpoint host issuer kind method mode provider realm region required
    role scheme scope scopes tenant type
    """
)
_ENDS_OF_BESIDE = ("arn", "url", "uri", "_id", "Id")


def name_within(key: str, name: str) -> str:
    """Return the name of the credential that the value of a key is, or "".

    Args:
        name: that of the credential that the object with the key stands under, or "".
    """
    if holds_credential(key):
        return key
    return "" if key.lower() in _BESIDE or key.endswith(_ENDS_OF_BESIDE) else name


def is_password(name: str) -> bool:
    """Return whether the name is that of a password in the narrow sense, not of any credential."""
    return holds_credential(name) and any(noun in name.lower() for noun in _PASSWORDS if noun != "pw")


def is_plural(name: str) -> bool:
    """Return whether a name speaks of several: a number under it counts them."""
    return name.rstrip("0123456789_-. ").lower().endswith("s") and not name.lower().endswith(("sas", "pass"))


def _of_compound(words: list[str]) -> Strength:
    for at, word in enumerate(words[1:], 1):
        if word in _PREPOSITIONS:
            words = words[:at]
            break
    while len(words) > 1 and words[-1] in _TRANSPARENT and not _of_noun(words):
        words = words[:-1]
    if words[-2:] == ["de", "passe"] or (words[-2:-1] == ["pass"] and words[-1] in _ENDS_OF_PASS):
        words = [*words[:-2], "password"]
    return Strength.NONE if words and words[0] in _WHETHER else _of_noun(words)


def _of_noun(words: list[str]) -> Strength:
    """Return how surely the last word, with those before it, names a credential."""
    if not words:
        return Strength.NONE
    last, before = words[-1], words[:-1]
    noun = last if last in _NOUNS or not last.endswith("s") else last[:-1]
    if last in ("id", "ids"):  # an access key's id is half of the pair, and an account's alone is not
        is_credential = words[-3:-1] == ["access", "key"] or words[-2:-1] == ["accesskey"]
    elif noun == "token":
        is_credential = _OTHER_TOKENS.isdisjoint(before)
    elif noun == "pass":
        is_credential = _OTHER_PASSES.isdisjoint(before)
    elif noun == "key":
        is_credential = before != [] and before[-1] in _SECRET_KEYS
    elif noun in ("string", "str"):
        is_credential = before != [] and before[-1] in _STRINGS
    else:
        is_credential = noun in _NOUNS or noun.endswith(_ENDINGS) or last.endswith(_ENDINGS)
    if not is_credential:
        return Strength.NONE
    is_weak = not _WEAK.isdisjoint((last, noun)) or (noun == "key" and before[-1] in _OTHER_KEYS)
    if noun == "pass" and before:
        is_weak = before[-1] not in _OWNERS
    return Strength.WEAK if is_weak else Strength.STRONG
