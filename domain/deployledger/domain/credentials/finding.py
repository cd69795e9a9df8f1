"""Finds credentials in texts: after the name of one, in URLs, in headers, and as well-known keys and tokens.

A text is read as it stands and decoded. Reading takes time linear in its length: patterns start at the
beginning of a word only, never give back what they took (possessive quantifiers) or look no further than a
bound, and what was found is not read again.
"""

import base64
import binascii
import re
import string
from collections.abc import Iterator
from enum import Enum, auto
from functools import lru_cache
from typing import NamedTuple

from deployledger.domain.credentials.decoding import views
from deployledger.domain.credentials.names import holds_credential, is_password, is_plural, words
from deployledger.domain.credentials.values import (
    is_credential,
    is_number,
    is_reference,
    looks_like_credential,
)

BLANK = "***"
"""What stands in the place of a credential."""


class Where(Enum):
    """Where in a text a credential is."""

    URL = auto()
    """In the part of a URL that can be left out: before the ``@``, or the value of a parameter."""

    TEXT = auto()
    """Anywhere else."""


class Credential(NamedTuple):
    """A credential in a text.

    Attributes:
        start: where it begins.
        end: where it ends.
        where: whether the text is a URL that goes on being one without it.
        blank: what to write in its place.
    """

    start: int
    end: int
    where: Where = Where.TEXT
    blank: str = BLANK


def credentials_in(text: str, *, is_uri: bool = False) -> list[Credential]:
    """Return the credentials in a text, in their order, none overlapping another.

    Args:
        is_uri: whether the whole text is one URI, so that quotes and spaces in it end nothing.
    """
    if not may_hold_credentials(text):
        return []
    credentials: list[Credential] = []
    for view, origin in views(text):
        credentials += [
            match._replace(start=origin(match.start), end=origin(match.end)) for match in _scan(view, is_uri)
        ]
    return _merged(credentials)


# What is read ---------------------------------------------------------------------------------------

# A run of letters in lower case with none of these in it, by far the most are, begins no credential and is
# no name of one.
_STEMS = tuple(
    words(
        """
        aiza akia abia acca aqvn asia assertion atatt auth basic bearer code conn contrasena
        cookie cred dapi dckr dop eaa eyj figd github glpat gldt glrt glcbt glptt glft glsoat glagent
        gocspx haslo heslo hmac hooks ident jwt kennwort key kty login losenord lsv mysql npm nrak
        nvapi otp pass pmak pplx private psw putty pw pypi saml sas secret senha sess shp sig ticket
        token vercel wachtwoord webhook whsec xapp xkeysib xox
        """
    )
)
_SHORT_STEMS = words("aa doo dop dor fw ghp gho ghu ghs ghr glc glsa gsk hf hvb hvr hvs lin ls r rk rpa")
_SHORT_STEMS |= words("sbp sg sk sq xai ya")
_SIGNS = ("%", "\\", "&", "-u", "-p ", '-p"', "-p'", "1//0", "api_org")
_LETTERS = re.compile(r"[a-z]+")
_LONGEST_KEPT = 2000


@lru_cache(maxsize=4096)
def _is_stem(run: str) -> bool:
    return run in _SHORT_STEMS or run.startswith("sk") or any(map(run.__contains__, _STEMS))


def may_hold_credentials(text: str) -> bool:
    """Return whether it is worth looking for credentials in a text; for most there are, it is not."""
    if not text.isascii() or ("@" in text and (":" in text or "//" in text)):
        return True
    if len(text) > _LONGEST_KEPT:
        return True
    text = text.lower()
    return any(map(text.__contains__, _SIGNS)) or any(map(_is_stem, _LETTERS.findall(text)))


# Where credentials are ------------------------------------------------------------------------------------

# A name, what closes it, and what leads to its value.
_PAIR = re.compile(
    r"""(?<![\w.\-])(?P<name>[\w.\-]++)(?P<closing>(?:\[\d{0,4}\])?+["'`\]\)\\]*+)
        (?P<leading>[ \t]*+(?:\r?\n[ \t]*+)?+(?:=>|:=|->|!=|==?|::?)[ \t]*+ | (?<=-)>[ \t]*+
          | [ \t]*+,[ \t]*+(?=[bBuU]?["']) | (?<=\w)(?=\([^)]))""",
    re.VERBOSE,
)
_FILLERS = frozenset(
    {"provided", "given", "supplied", "used", "received", "sent", "is", "was", "value", "header"}
)
_LOOKING_BACK = 60
_PROBLEMS = re.compile(r"Invalid|Expired|Missing|Unknown|Bad|Unexpected|No[A-Z]|Wrong")
_PHRASE = re.compile(r"[A-Za-z][\w-]*+(?:[ ][A-Za-z][\w-]*+)*+[ ]?\Z")
_WITH_WORD_BEFORE = ("token", "tokens", "pass")
_HEADS = ("key", "keys", "id", "string", "str", "keyid")

_ELEMENT = re.compile(
    r"<(?:[\w.\-]{1,40}:)?(?P<name>[\w.\-]++)(?:\s[^<>]{0,300}+)?>(?:\s*+<!\[CDATA\[)?+(?=[^<])"
)
# A quoted name of more than one word, as in '"token (prod)": "x"'.
_QUOTED_NAME = re.compile(
    r"""(?<![\w\\])(?P<quote>["'])(?P<name>[^"'\\\n]{1,80}+)(?P=quote)[ \t]*+(?::|=>?)[ \t]*+(?=["'])"""
)
# "name: DB_PASSWORD, value: x", as Kubernetes and XML write it.
_NAMED = re.compile(
    r"""(?<![\w.\-])(?P<name>\w[\w.\-]*+)(?:</\w++>\s*+<)?["'\\]*+[\s,;/>-]*+["'\\]*+
        (?<!\w)(?:(?:value|val|content|default)\b|(?<=["'])v(?=["']))["'\\]*+\s*+[:=>]\s*+""",
    re.IGNORECASE | re.VERBOSE,
)
# "PASSWORD 'x'", "IDENTIFIED BY 'x'", "login ann password x", "--token x".
_STATED = re.compile(
    r"""(?<![\w.\-])(?:(?P<name>pass(?:word|wd|phrase)|pwd)|identified[ ](?:with[ ]\w++[ ])?by)[ \t]++
            (?:(?:is|was)[ ])?(?:(?=["'`])|(?<=\t)(?=\S))
      | (?<![\w.\-])(?P<prose>[\w.\-]++)[ ](?:
            (?:is|was)[ ](?=["'`]?[^\s"'`0-9]*+[0-9])
            | (?=[("'`]?[A-Za-z_]*+[0-9])(?=[("'`]?\w{8,}+(?![\w./:-])))
      | (?<![\w.\-])cred(?:ential)?s[ ](?=[\w.\-]{1,64}:(?=[^\s/:]{0,100}[0-9])[^\s/:]{6,})
      | jdbc:oracle:thin:[^\s/:@]{1,60}/(?=[^\s@]{1,200}@)
      | (?<![\w.\-])login[ \t]++[^\s]++[ \t\n]++(?P<netrc>password)[ \t]++
      | (?<![\w-])--(?P<flag>[A-Za-z][\w-]*+)[ \t]++(?=[^\s-])
      | (?<![\w.\-])(?:\w{1,20}[ ]login|sshpass|mysql)\b
            [^\n]{0,200}?[ ]-p[ ]?(?=[^\s-])
      | ["']-p["'],[ ]?(?=["'][^"'\s:/]{0,200}[0-9])(?=["'][^"'\s:/]{0,200}[A-Za-z])(?=["'][^"'\s:/]{6,})""",
    re.IGNORECASE | re.VERBOSE,
)
_USER_OPTION = re.compile(
    r"""(?<![\w-])(?:-u|-U|--user|--proxy-user)["']?[ \t=,]*+["']?(?!\d++:\d++\b)
        (?:[^\s:"'/=,-][^\s:"'/=,]*+)?:(?=[^\s/"'])""",
    re.VERBOSE,
)

_QUOTES = "\"'`"
_ENDS_AFTER_QUOTE = re.compile(r"\s|[,;:)\]}>&|\"'`.!?/\\]|\Z")
_TO_CLOSING = {
    quote: re.compile(
        rf"(?:[^{quote}\\\n]++|\\.|{quote}(?={quote}\w){quote}|{quote}(?!{_ENDS_AFTER_QUOTE.pattern}))*+{quote}",
    )
    for quote in _QUOTES
}
_NEXT_PAIR = re.compile(r"""\s*+["']?[\w][\w .-]{0,40}["']?\s?[=:]""")
_BARE = re.compile(r"""[^\s&"'<>`,;]++|["'`,;]""")
_BLOCK = re.compile(r"[|>][+-]?\d?[ \t]*+\r?(?=\n)")
_BEFORE_KEY_ON_LINE = re.compile(r"[ \t]*(?:-[ \t]+|export[ \t]+|set[ \t]+|ENV[ \t]+|\$env:)?[\"'$]?\Z")
_HEADERS = ("authorization", "cookie")
_SCHEME = re.compile(
    r"(?:Bearer|Basic|Token|Digest|Negotiate|NTLM|Api-?Key|Key|JWT|Bot|SSWS|GoogleLogin|AWS4?[\w-]*+)"
    r"[ \t]+(?=\S)",
    re.IGNORECASE,
)
_LONE = re.compile(r"\r?\n[ \t]*+(?P<value>[^\s:=\[\]{}<>#]++=*+)[ \t]*+(?=\r?\n|\Z)")
_ARTICLE = re.compile(r"\b(?:the|an?|each|every|any|per|of|for)[ ]\Z", re.IGNORECASE)
_CONTAINERS = {"{": "}", "[": "]", "(": ")"}
_BRACKETS = re.compile(r"[\[\](){}]")

# Names that hold a credential only as the parameter of a URL.
_SIGNATURES = re.compile(
    r"(?<![\w.\-])(?P<name>(?:[\w-]{0,40}[_-])?(?:sig|signature))=(?=[^\s=])", re.IGNORECASE
)
_PARAMETER = re.compile(
    r"[?&#;](?P<name>key|code|ticket|assertion|client_assertion|hmac|session|samlresponse)=(?=[^\s&])",
    re.IGNORECASE,
)

_AUTHORITY = re.compile(
    r"(?<=:)//+|(?<![\w:/])//(?=[^\s/])|//(?=[\w.+-]{1,64}:[^\s/@:]{1,200}@)"
    r"|(?<![\w.+-])(?:https?|ftps?|s3|gs|oci|docker):(?:/(?=[^/\s])|(?=[\w.+-]{0,64}:[^\s/@:]{1,200}@))",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"""(?:[^\s"'<>`]++|["'`](?![\s,;:)\]}>]|\Z))*+""")
_LONGEST_TOKEN = 2048
_BEFORE_AUTHORITY = f"{string.ascii_letters}{string.digits}+.-:/ "
_END_OF_AUTHORITY = re.compile(r"[/?#]")
_SLASHED_USER = re.compile(r"[^:@?#]*+:[^/@?#]*+@(?=[\w-]++[./:])")
_PORT = re.compile(r":\d*(?:[/?#]|\Z)")
_DIGEST = re.compile(r"sha\d+:")
_HOST = re.compile(
    r"(?:[\w-]+\.)+[\w-]+(?::\d+)?\Z|localhost(?::\d+)?\Z|\[[0-9A-Fa-f:.]+\](?::\d+)?\Z|[\w-]+:\d+\Z"
)

_NO_SCHEME = re.compile(
    r"""(?<![\w.+@%:\-])(?P<user>[\w.+\-]++):(?P<password>[^\s:/@"'<>,;`()\[\]{}]{1,200}+)@
        (?!sha\d+:|v?\d+(?:\.\d+){0,2}(?![\d.]))(?P<host>[\w.-]{1,255}+)?+(?P<after>:\d|[/\[])?""",
    re.VERBOSE,
)
_MAIL = re.compile(r"[a-z]++")
# What stands before a colon and is no user: "serviceAccount:ci@project.example" names somebody.
_KINDS_OF_NAME = words(
    """
    account acct actor agent author cc contact domain email federated from group id kerberos ldap
    login mail mailto maintainer member mod name oidc okta owner principal reply-to robot runner
    saml serviceaccount sip sips sub subject team to upn user username users xmpp by bcc git ssh
    branch image job metric model models npm package pipeline pip pkg ref tag version
    """
)

_CHALLENGE = re.compile(r"(?<![\w.\-])(?P<scheme>Bearer|Basic)\s{1,9}(?P<value>[\w.~+/=\-]+)", re.IGNORECASE)
_LONG = 24

_KNOWN = re.compile(
    r"""
      -----?[ ]?BEGIN[ ][A-Z0-9 ]{0,40}PRIVATE[ ]KEY(?:[ ]BLOCK)?[ ]?-----?
      (?:(?!-----?[ ]?END).)*+(?:-----?[ ]?END[A-Z0-9 ]{0,60}-{4,5})?
    | PuTTY-User-Key-File-\d:.*+
    | (?<![A-Za-z0-9+/])LS0tLS(?:1CRUdJTi|0tIEJFR0l)[A-Za-z0-9+/=\s]++
    | AGE-SECRET-KEY-1[0-9A-Z]{20,}+
    | (?<![A-Za-z0-9])(?:
        (?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}(?![0-9A-Za-z])
      | gh[pousr]_[A-Za-z0-9]{16,}+ | github_pat_\w{20,}+
      | gl(?:pat|dt|rt|cbt|ptt|ft|soat|agent)-[\w-]{16,}+
      | xox[abeoprs]-[\w-]{10,}+ | xapp-[\w-]{10,}+
      | sk-(?:proj|ant|svcacct|admin|or|lf)-[\w-]{10,}+ | sk-(?=[A-Za-z]{0,200}[0-9])[A-Za-z0-9]{16,}+
      | [sr]k_(?:live|test)_[A-Za-z0-9]{10,}+
      | whsec_[A-Za-z0-9+/=]{16,}+
      | hf_[A-Za-z0-9]{20,}+ | AIza[\w-]{30,}+ | ya29\.[\w-]{10,}+ | GOCSPX-[\w-]{20,}+
      | eyJ[\w-]{8,2000}+\.[\w-]{0,8000}+\.[\w-]*+(?:\.[\w-]*+){0,2}
      | dapi[0-9a-f]{32}(?:-\d+)? | npm_[A-Za-z0-9]{30,}+ | pypi-AgE[\w-]{16,}+
      | SG\.[\w-]{16,80}+\.[\w-]{16,}+ | hv[sbr]\.[\w-]{20,}+ | dckr_(?:pat|oat)_[\w-]{16,}+
      | do[opr]_v1_[0-9a-f]{32,}+ | shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32,}+ | gl(?:sa|c)_[\w+/=-]{20,}+
      | nvapi-[\w-]{20,}+ | gsk_[A-Za-z0-9]{20,}+ | r8_[A-Za-z0-9]{20,}+ | pplx-[A-Za-z0-9]{20,}+
      | ATATT3[\w=-]{20,}+ | sq0(?:atp|csp)-[\w-]{20,}+ | xkeysib-[\w-]{20,}+ | lin_api_[A-Za-z0-9]{20,}+
      | NRAK-[A-Z0-9]{20,}+ | PMAK-[\w-]{20,}+ | tskey-[\w-]{16,}+ | lsv2_[a-z]{2}_[\w-]{16,}+
      | xai-[A-Za-z0-9]{20,}+ | sbp_[A-Za-z0-9]{20,}+ | EAA[A-Za-z0-9]{24,}+ | 1//0[\w-]{20,}+
      | api_org_[A-Za-z0-9]{20,}+ | vercel_blob_rw_\w{16,}+ | rpa_[A-Z0-9]{20,}+ | fw_[A-Za-z0-9]{20,}+
      | AQVN[\w-]{30,}+ | key-[0-9a-f]{32}(?![0-9a-f]) | SK[0-9a-f]{32}(?![0-9a-f])
      | figd_[\w-]{20,}+ | \d{8,10}:AA[\w-]{30,}+
      )
    | (?<=hooks\.slack\.com/)(?:services|workflows|triggers)/[\w/-]++
    | (?<=\.webhook\.office\.com/)webhookb2/[\w@/-]++
    | (?<=/api/webhooks/)\d{10,20}/[\w-]{20,}+
    """,
    re.VERBOSE | re.DOTALL,
)


def _scan(text: str, is_uri: bool) -> Iterator[Credential]:
    yield from _user_information(text, is_uri)
    for match in _NO_SCHEME.finditer(text):
        if _is_login(text, match, is_uri):
            yield Credential(match.start(), match.end("password") + 1, blank="")
    yield from _pairs(text, is_uri)
    for match in _ELEMENT.finditer(text):
        if holds_credential(match["name"]):
            end = text.find("<", match.end())
            yield Credential(match.end(), len(text) if end < 0 else end)
    for pattern in (_QUOTED_NAME, _NAMED, _STATED, _USER_OPTION, _SIGNATURES, _PARAMETER):
        yield from _values_after(pattern, text, is_uri)
    for match in _CHALLENGE.finditer(text):
        if _is_challenge_answer(match["scheme"].lower(), match["value"]):
            yield Credential(match.start("value"), match.end("value"))
    for match in _KNOWN.finditer(text):
        yield Credential(match.start(), match.end())


def _values_after(pattern: re.Pattern[str], text: str, is_uri: bool) -> Iterator[Credential]:
    """Yield the values that follow what a pattern finds; without a group ``name`` that is a credential's."""
    at = 0
    while (match := pattern.search(text, at)) is not None:
        at = match.end()
        is_parameter = pattern in (_SIGNATURES, _PARAMETER)
        if not is_parameter and not _is_named(text, match):
            continue
        before = text[max(0, match.start("name") - 1) : match.start("name")] if is_parameter else ""
        where = Where.URL if _begins_parameter(before, is_uri) else Where.TEXT
        for credential in _value(text, at, "password", is_uri=is_uri and is_parameter, where=where):
            at = max(at, credential.end)
            yield credential


def _is_named(text: str, match: re.Match[str]) -> bool:
    """Return whether the name in what a pattern found is a credential's; some find what needs no name."""
    group = match.lastgroup
    if group is None:
        return True
    if group == "prose":
        return _pair_holds_credential(text, match.start(group), match[group])
    return holds_credential(match[group])


def _is_login(text: str, match: re.Match[str], is_uri: bool) -> bool:
    """Return whether "a:b@c" is a user, a password and a host, rather than a metric or an address."""
    user, password, host = match["user"].lower(), match["password"], match["host"] or ""
    if user in _KINDS_OF_NAME or is_number(password):
        return False
    if match["after"]:
        return True
    if "." not in host.strip(".") and host != "localhost":
        around = text[max(0, match.start() - 1) : match.start()] + text[match.end() : match.end() + 1]
        is_alone = not around.strip(_QUOTES)
        return is_alone and not around.isspace() and (is_uri or looks_like_credential(password))
    is_address = _MAIL.fullmatch(user) and _MAIL.fullmatch(password) and not looks_like_credential(password)
    return is_uri or not is_address


def _pairs(text: str, is_uri: bool) -> Iterator[Credential]:
    at = 0
    while (match := _PAIR.search(text, at)) is not None:
        at = match.end()
        leading = match["leading"].strip()
        start, name = match.start("name"), match["name"]
        if not leading and not _is_class(name):
            continue
        before = text[start - 1] if start else ""
        is_scheme = leading == ":" and text.startswith("//", at)
        is_inside = leading == ":" and before == ":"  # "arn:…:secret:name"
        if is_scheme or is_inside:
            continue
        if leading == "," and not any(quote in match["closing"] for quote in _QUOTES):
            continue
        if not _pair_holds_credential(text, start, name):
            continue
        where = Where.URL if leading == "=" and _begins_parameter(before, is_uri) else Where.TEXT
        enclosing = before if before and before in _QUOTES and before not in match["closing"] else ""
        to_the_end = (leading == ":" and name.lower().endswith(_HEADERS)) or (
            leading in (":", "=") and where is Where.TEXT and _begins_line(text, start)
        )
        for credential in _value(
            text,
            at,
            name,
            is_uri=is_uri,
            where=where,
            enclosing=enclosing,
            to_the_end=to_the_end,
            is_sure=not (leading == "," and name.isalpha() and name.islower())
            and not (leading == ":" and (is_plural(name) or _follows_article(text, start, name))),
        ):
            at = max(at, credential.end)
            yield credential


def _begins_parameter(before: str, is_uri: bool) -> bool:
    """Return whether the character before a name makes it the parameter of a URL."""
    return before != "" and before in ("?&#;" if is_uri else "?&")


def _begins_line(text: str, start: int) -> bool:
    """Return whether a name is the first thing on its line, as in YAML, INI and environment files."""
    line = text.rfind("\n", max(0, start - _LOOKING_BACK), start) + 1
    if not line and start > _LOOKING_BACK:
        return False
    return _BEFORE_KEY_ON_LINE.fullmatch(text, line, start) is not None


def _follows_article(text: str, start: int, name: str) -> bool:
    """Return whether a name stands in a sentence, as in "classify the token: positive or negative"."""
    return not is_password(name) and _ARTICLE.search(text, max(0, start - 6), start) is not None


def _is_class(name: str) -> bool:
    """Return whether a name before a parenthesis is that of a class, as in "SecretStr('x')"."""
    last = name.rpartition(".")[2]
    return last[:1].isupper() and not last.isupper() and _PROBLEMS.match(last) is None


def _pair_holds_credential(text: str, start: int, name: str) -> bool:
    """Return whether a name in a text is that of a credential, with the words before it, as in "API key"."""
    lower = name.lower()
    if lower in _WITH_WORD_BEFORE:
        most = 1
    elif lower in _HEADS or lower in _FILLERS:
        most = 3
    else:
        return holds_credential(name)
    phrase = _PHRASE.search(text, max(0, start - _LOOKING_BACK), start)
    together = [*(phrase[0].split()[-most:] if phrase else ()), name]
    return holds_credential(" ".join(word for word in together if word.lower() not in _FILLERS))


def _value(
    text: str,
    start: int,
    name: str,
    *,
    is_uri: bool,
    where: Where = Where.TEXT,
    enclosing: str = "",
    to_the_end: bool = False,
    is_sure: bool = True,
) -> Iterator[Credential]:
    """Yield the value that begins at ``start``, if it is a credential."""
    if start < len(text) - 1 and text[start] in "bBuUrRfF" and text[start + 1] in "\"'":
        start += 1
    first = text[start : start + 1]
    if first == "\\":  # the decoded text shows what it is
        return
    if is_uri and where is Where.URL:
        end = text.find("&", start)
        end = len(text) if end < 0 else end
    elif first and first in "\r\n":
        start, end = _lines_below(text, start, name)
    elif (block := _BLOCK.match(text, start)) is not None:
        start, end = _indented_block(text, block.end())
    elif first and first in _QUOTES:
        start, end = _quoted(text, start)
    elif first in _CONTAINERS and not is_reference(text[start : start + 200].split("\n", 1)[0]):
        end = _bracketed(text, start)
        if first == "(":  # "auth=('ann', 'x')", "BasicAuth('ann', 'x')"
            name = "password"
        if text[end : end + 1].isalnum():
            end = _bare(text, end)
        if not any(char.isalpha() for char in text[start:end]):
            return
    elif enclosing:
        end = _closing(text, start, enclosing)
    elif to_the_end:
        end = _end_of_line(text, start)
        first_of_list = text[start:end].partition(",")
        if (
            first_of_list[1]
            and not is_credential(first_of_list[0], name)
            and _NEXT_PAIR.match(first_of_list[2])
        ):
            return
    else:
        end = _bare(text, start)
    value = text[start:end]
    if is_credential(value, name) and (is_sure or first in _CONTAINERS or not _is_prose(value)):
        yield Credential(start, end, where)


def _is_prose(value: str) -> bool:
    """Return whether a value reads as a word: one follows "tokens:" in a sentence and "token", in a list."""
    is_word = " " not in value and not any(char.isdigit() for char in value)
    return is_word and (len(value) < _LONG or value.islower())


def _quoted(text: str, start: int) -> tuple[int, int]:
    quote = text[start]
    if text.startswith(quote * 3, start):
        end = text.find(quote * 3, start + 3)
        return start + 3, len(text) if end < 0 else end
    return start + 1, _closing(text, start + 1, quote)


def _closing(text: str, start: int, quote: str) -> int:
    """Return where a quoted value ends: at a quote that is not escaped, and after which no word goes on."""
    match = _TO_CLOSING[quote].match(text, start)
    return match.end() - 1 if match else _end_of_line(text, start)


def _end_of_line(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end


def _bracketed(text: str, start: int) -> int:
    opening, depth = text[start], 0
    for match in _BRACKETS.finditer(text, start):
        depth += (match[0] == opening) - (match[0] == _CONTAINERS[opening])
        if depth == 0:
            return match.end()
    return len(text)


def _lines_below(text: str, newline: int, name: str) -> tuple[int, int]:
    """Return what is indented further below the line that ends here, or else what is alone on the next."""
    start, end = _indented_block(text, newline)
    if start < end:
        return start, end
    lone = _LONE.match(text, newline)
    is_setting = text[max(0, newline - 2) : newline].endswith(("=", "= "))
    if lone and (is_setting or looks_like_credential(lone["value"])):
        return lone.span("value")
    return start, start


def _indented_block(text: str, newline: int) -> tuple[int, int]:
    """Return the lines below that are indented further than the line that ends here."""
    begin = text.rfind("\n", max(0, newline - 400), newline) + 1
    line = text[begin:newline]
    own = len(line) - len(line.lstrip())
    start = end = text.find("\n", newline) + 1 or len(text)
    while end < len(text):
        stop = _end_of_line(text, end)
        following = text[end:stop]
        inner = len(following) - len(following.lstrip())
        is_list = following.lstrip().startswith("- ") and inner >= own
        if following.strip() and inner <= own and not is_list:
            break
        end = stop + 1
    end = min(end, len(text))
    block = text[start:end].rstrip()
    return start + len(block) - len(block.lstrip()), start + len(block)


def _bare(text: str, start: int) -> int:
    scheme = _SCHEME.match(text, start)
    at = scheme.end() if scheme else start
    while (part := _BARE.match(text, at)) is not None:
        ends = (
            _ENDS_AFTER_QUOTE.match(text, part.end())
            if part[0] in _QUOTES
            else part[0] in ",;" and _NEXT_PAIR.match(text, part.end())
        )
        if part[0] in "\"'`,;" and ends:
            break
        at = part.end()
    while at > start and text[at - 1] in ",;.)]}:!?":
        at -= 1
    return at


def _user_information(text: str, is_uri: bool) -> Iterator[Credential]:
    """Yield what stands before the ``@`` of URLs, also where a ``/``, ``?`` or ``@`` in it hides its end."""
    at = 0
    while (match := _AUTHORITY.search(text, at)) is not None:
        at = start = match.end()
        is_whole = is_uri and not text[:start].strip(_BEFORE_AUTHORITY)
        token = text[start:] if is_whole else _token(text, start)
        if "@" not in token:
            at = start + len(token)
            continue
        length, is_certain = _length_of_user_information(token)
        if length:
            yield Credential(start, start + length, Where.URL if is_certain or not is_uri else Where.TEXT, "")
            at = start + length


def _token(text: str, start: int) -> str:
    match = _TOKEN.match(text, start, start + _LONGEST_TOKEN)
    return match[0] if match else ""


def _length_of_user_information(token: str) -> tuple[int, bool]:
    """Return the length of the user's part of what follows ``//``, and whether it is certain to end there."""
    end = _END_OF_AUTHORITY.search(token)
    authority = token[: end.start()] if end else token
    at, later = authority.rfind("@"), token.rfind("@")
    is_digest = _DIGEST.match(token, later + 1) is not None
    if at >= 0:
        if later == at or is_digest or ":" not in authority[:at]:
            return at + 1, True
        # "u:p@ss/x@host": unless what is between looks like a host, the user part goes on.
        return (at if _HOST.match(authority, at + 1) else later) + 1, False
    if later < 0 or is_digest:
        return 0, True
    colon = authority.find(":")
    if colon >= 0:
        return (0, True) if _PORT.match(token, colon) else (later + 1, True)
    slashed = _SLASHED_USER.match(token)
    return (slashed.end() if slashed else 0), False


def _is_challenge_answer(scheme: str, value: str) -> bool:
    value = value.rstrip(".")
    if scheme == "basic":
        try:
            return b":" in base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
        except (binascii.Error, ValueError):
            return False
    is_mixed = any(char.isdigit() for char in value) or (
        not value.islower() and not value.istitle() and not value.isupper()
    )
    return (is_mixed or len(value) >= _LONG) and not is_reference(value)


def _merged(credentials: list[Credential]) -> list[Credential]:
    """Return the credentials in order, those that overlap as one."""
    merged: list[Credential] = []
    for credential in sorted(
        credentials,
        key=lambda credential: (credential.start, -credential.end, credential.where is Where.TEXT),
    ):
        if not merged or credential.start >= merged[-1].end:
            merged.append(credential)
        elif credential.end > merged[-1].end:
            last = merged[-1]
            where = Where.URL if last.where is credential.where is Where.URL else Where.TEXT
            merged[-1] = Credential(last.start, credential.end, where, credential.blank or last.blank)
    return merged
