# SPDX-FileCopyrightText: 2026 The oauth_session authors
# SPDX-License-Identifier: MIT
"""An API client that is always authorised: OAuth 2.0 client credentials,
one file, standard library only.

    from oauth_session import OAuthSession

    session = OAuthSession("my-client", "my-secret", ["read", "write"],
                           "https://auth.example.com/oauth/token")
    user = session.get("https://api.example.com/me").json()
    notes = "https://api.example.com/notes"
    session.post(notes, json={"text": "hello"}).raise_for_status()

How a request travels. The rooms of this file are in the opposite order,
since each uses only rooms above it:
 1. OAuthSession makes a `urllib.request.Request` and opens it with its
    OpenerDirector.
 2. OAuthHandler puts `Authorization: Bearer ...` on it, if its origin may
    see the token. On the way back it follows redirects without leaking
    and, on a 401, has the token renewed and sends the request again, once.
 3. TokenSource keeps the token. FRESH: it is returned. DUE: it is
    returned, and renewed in the background. Missing, EXPIRED or refused:
    callers wait for one shared fetch. With cache=, a cache is asked first.
 4. ClientCredentials obtains one token: a POST to the token endpoint, and
    a strict judgement of the answer.
 5. Connections are kept alive, on `http.client`; answers are framed
    without any guess.

What can be raised; the message says what to do about it. A wrong setting
is a ValueError or TypeError, before any I/O:
    OAuthError(urllib.error.URLError)
    |-- OAuthTransportError        no answer from the token endpoint
    |-- OAuthResponseError         it refused
    |   |-- OAuthInvalidRequest, OAuthInvalidClient, OAuthInvalidGrant,
    |   |-- OAuthUnauthorizedClient, OAuthUnsupportedGrantType,
    |   |-- OAuthInvalidScope, OAuthInvalidTarget,
    |   |-- OAuthTemporarilyUnavailable, OAuthServerError,
    |   `-- OAuthMalformedResponse
    `-- OAuthBearerError(urllib.error.HTTPError)  the API refused the token
        `-- OAuthInvalidToken (401), OAuthInsufficientScope (403)

What it will not do: log users in, asyncio, HTTP/2, read ~/.netrc, keep
cookies, follow https to http, or send the token to an origin that was not
named. Threads may share everything here.
RFC 6749 (OAuth 2.0), 6750 (bearer tokens), 7523 (assertions), 8414
(issuer), 8705 (mutual TLS), 8707 (resource), 9110 and 9112 (HTTP).
"""

from __future__ import annotations  # oauth_session.py needs Python 3.8 or newer

import base64
import email.utils
import functools
import http.client
import io
import json
import operator
import os
import random
import re
import socket
import ssl
import stat
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import weakref
import zlib
from collections import deque, namedtuple

TYPE_CHECKING = False  # instead of `typing`, whose import a cold start would pay
if TYPE_CHECKING:
    from typing import Any, Callable, Collection, Iterable, Iterator, Mapping, NoReturn, Sequence

    Moment = tuple[float, float]  # wall clock and monotonic clock
    Texts = str | Iterable[str] | None
    Secret = str | Callable[[], str] | None


__version__ = "0.1.0"
__all__ = [
    "OAuthSession", "Response", "OAuthHandler", "TokenSource", "FileCache", "ClientCredentials",
    "Token", "DemoServer", "OAuthError", "OAuthTransportError", "OAuthResponseError",
    "OAuthInvalidRequest", "OAuthInvalidClient", "OAuthInvalidGrant", "OAuthUnauthorizedClient",
    "OAuthUnsupportedGrantType", "OAuthInvalidScope", "OAuthInvalidTarget",
    "OAuthTemporarilyUnavailable", "OAuthServerError", "OAuthMalformedResponse",
    "OAuthBearerError", "OAuthInvalidToken", "OAuthInsufficientScope", "ERRORS_BY_CODE",
    "__version__",
]  # fmt: skip

# ---- Errors: what the token endpoint or the API refused, as classes ------------------------------


class OAuthError(urllib.error.URLError):
    """The base of all errors here.

    error: the code that the server gave, or None. status: the HTTP status
    of its answer, or None.
    """

    error: str | None = None
    status: int | None = None

    def __init__(self, message: str = "", **fields: Any) -> None:
        self.args = (message,)
        self.reason = message
        self._fields = fields
        for name, value in fields.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        return str(self.args[0])

    __repr__ = Exception.__repr__

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), **self._fields), self.args


class OAuthTransportError(OAuthError):
    """The token endpoint gave no answer: DNS, TCP, TLS, a proxy or a
    time-out. The message says which."""


class OAuthResponseError(OAuthError):
    """The token endpoint refused (RFC 6749 section 5.2).

    error_description, error_uri: as the server gave them, or None.
    headers: of its answer. retry_after: the seconds after which it wants
    to be asked again, at most 300, or None.
    Secrets in what the server said are replaced by ***.
    """

    error_description: str | None = None
    error_uri: str | None = None
    headers: http.client.HTTPMessage | None = None
    retry_after: float | None = None
    _advice = "see the server's documentation"


class OAuthInvalidRequest(OAuthResponseError):
    """`invalid_request`: a parameter is missing, repeated or malformed."""

    _advice = "check audience, resource, token_params and auth_method"


class OAuthInvalidClient(OAuthResponseError):
    """`invalid_client`, or status 401: check client_id, client_secret and
    auth_method."""

    _advice = "check client_id, client_secret (or assertion, or certificate) and auth_method"


class OAuthInvalidGrant(OAuthResponseError):
    """`invalid_grant`: the grant or assertion is wrong, used or expired."""

    _advice = "check token_params"


class OAuthUnauthorizedClient(OAuthResponseError):
    """`unauthorized_client`: the client may not use this grant."""

    _advice = "have client_credentials enabled for this client"


class OAuthUnsupportedGrantType(OAuthResponseError):
    """`unsupported_grant_type`: the server does not know this grant."""

    _advice = "have client_credentials enabled at this server"


class OAuthInvalidScope(OAuthResponseError):
    """`invalid_scope`: a scope is unknown, malformed or not granted to
    the client."""

    _advice = "check scope"


class OAuthInvalidTarget(OAuthResponseError):
    """`invalid_target` (RFC 8707 section 2): resource or audience is
    unknown or not allowed."""

    _advice = "check resource and audience"


class OAuthTemporarilyUnavailable(OAuthResponseError):
    """`temporarily_unavailable`, 408, 425, 429 or 503: try again after
    `retry_after` seconds."""

    _advice = "try again later"


class OAuthServerError(OAuthResponseError):
    """`server_error` or another 5xx: the token endpoint is broken."""

    _advice = "tell its operator if this stays"


class OAuthMalformedResponse(OAuthResponseError):
    """The server answered, but not as RFC 6749 section 5 says; or the
    metadata of an issuer cannot be used."""

    _advice = "is token_url right?"


class OAuthBearerError(OAuthError, urllib.error.HTTPError):
    """The API refused the token (RFC 6750 section 3.1). It is an
    HTTPError with its body, at most 1 MiB, in memory.

    error, scope, realm: of the challenge, or None. response: the Response,
    if it was raised by its raise_for_status().
    """

    status: Any = 401  # this and reason hide read-only properties of HTTPError
    reason: Any = ""
    url: Any = ""
    body: bytes = b""
    scope: str | None = None
    realm: str | None = None
    response: Response | None = None

    def __init__(self, message: str = "", **fields: Any) -> None:
        self.headers = http.client.HTTPMessage()
        super().__init__(message, **fields)
        # An HTTPError without a body object lacks half of its methods.
        urllib.error.HTTPError.__init__(
            self, self.url, self.status, self.reason, self.headers, io.BytesIO(self.body)
        )


class OAuthInvalidToken(OAuthBearerError):
    """401: the API refused the token, and a new one too, or no other was
    to be had."""


class OAuthInsufficientScope(OAuthBearerError):
    """403: the token is valid, but does not suffice. `scope` is what the
    API wants, if it said so."""


class _HTTPError(urllib.error.HTTPError):
    """An HTTP status that the caller did not want. Pickle and copy keep its body."""

    response: Response | None = None

    def __init__(self, message: str, url: str, status: int, headers: Any, body: bytes) -> None:
        super().__init__(url, status, message, headers, io.BytesIO(body))
        self.args = message, url, status, headers, body

    def __str__(self) -> str:
        return self.msg

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args


# The codes of the token endpoint. Add those of your own server.
ERRORS_BY_CODE: dict[str, type[OAuthResponseError]] = {
    "invalid_request": OAuthInvalidRequest,
    "invalid_client": OAuthInvalidClient,
    "invalid_grant": OAuthInvalidGrant,
    "unauthorized_client": OAuthUnauthorizedClient,
    "unsupported_grant_type": OAuthUnsupportedGrantType,
    "invalid_scope": OAuthInvalidScope,
    "invalid_target": OAuthInvalidTarget,
    "temporarily_unavailable": OAuthTemporarilyUnavailable,
    "server_error": OAuthServerError,
}


# What html.escape() does (importing html takes 3 ms), and what servers in Go do in HTML and JSON.
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})
_GO_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;"})
_GO_JSON = str.maketrans({"&": "\\u0026", "<": "\\u003c", ">": "\\u003e"})


def _spellings(*secrets: str) -> list[str]:
    """Return secrets in the spellings in which a server may echo them, the longest first."""
    found = set(secrets)
    for secret in secrets:
        encoded = secret.encode("utf-8", "replace")  # JSON can hold half of a surrogate pair
        found |= {
            urllib.parse.quote(encoded, ""),
            urllib.parse.quote_plus(encoded),
            secret.translate(_HTML),
            secret.translate(_GO_HTML),
            json.dumps(secret)[1:-1],
            json.dumps(secret, ensure_ascii=False)[1:-1],
            json.dumps(secret, ensure_ascii=False)[1:-1].translate(_GO_JSON),
            base64.b64encode(encoded).decode().rstrip("="),
        }
    found.discard("")
    return sorted(found, key=len, reverse=True)


def _mask(text: str, secret: str) -> str:
    """Replace a secret in any case, such as %2F for %2f. (re.sub() could take minutes.)"""
    upper = text.upper()
    if len(upper) != len(text):  # "ß" becomes "SS"
        return text.replace(secret, "***")
    kept = []
    start = 0
    wanted = secret.upper()
    for piece in upper.split(wanted):
        kept.append(text[start : start + len(piece)])
        start += len(piece) + len(wanted)
    return "***".join(kept)


def _clean(text: object, secrets: Iterable[str] = (), limit: int = 500) -> str:
    """Return a server's text without secrets and control characters, and not too long."""
    result = str(text)
    for secret in secrets:
        if 0 < len(secret) <= len(result):
            result = _mask(result, secret)
    result = "".join(letter if letter.isprintable() else " " for letter in result)
    if len(result) > limit:
        result = result[:limit] + "..."
    return result


def _clean_headers(headers: Any, secrets: Iterable[str]) -> http.client.HTTPMessage:
    """Return headers that an exception may show."""
    clean = http.client.HTTPMessage()
    for name, value in headers.items():
        clean.set_raw(_clean(name, secrets), _clean(value, secrets))
    return clean


def _contradiction(first: str, second: str, default: str) -> ValueError:
    """Return the error for two settings of which one must be left out: maybe a class default."""
    return ValueError(
        f"{first} and {second} contradict each other: leave one out, or pass {default}=None"
    )


def _log(level: str, message: str, *values: object) -> None:
    """Log, if the program has imported `logging`. Never call this with a lock held."""
    logging = sys.modules.get("logging")
    if logging is not None:
        try:
            getattr(logging.getLogger(__name__), level)(message, *values)
        except Exception:  # a broken log handler must not break the request
            pass


# ---- URLs: origins, loopback, the https rule, encoding -------------------------------------------

_Origin = namedtuple("_Origin", "scheme host port")  # [ ] around the host of IPv6
_URL = namedtuple("_URL", "origin authority target")  # target: path and query

_PORTS = {"http": 80, "https": 443}
_LABEL = r"[\w-]{1,63}"
# Patterns that every call needs are compiled here, all others at their first use.
_URL_FORM = (
    rf"(https?)://((\[[0-9a-f:.]+\]|{_LABEL}(?:\.{_LABEL})*\.?)(?::(\d{{0,5}}))?)([/?][!-~]*)?"
)
_LOOPBACK = r"localhost|\[::1\]|127(\.(\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])){3}"
_URI_CHARACTERS = "!#$%&'()*+,/:;=?@~"  # beside letters, digits and "-._" (RFC 3986 section 2)
_TOKEN_FORM = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_VALUE_FORM = re.compile("[\t -~\x80-\xff]*")  # RFC 9110 section 5.5


@functools.lru_cache(maxsize=256)  # each call looks at its URL several times
def _split_url(url: str) -> _URL:
    """Split a URL where urllib does; ValueError where two readers could disagree about the host."""
    match = re.fullmatch(_URL_FORM, url.partition("#")[0], re.ASCII | re.IGNORECASE)
    if match is None:
        raise ValueError(
            "it must be like https://host:port/path, without user name, %, \\ or spaces"
        )
    scheme, authority, host, port, target = match.groups("")
    scheme = scheme.lower()
    number = int(port or _PORTS[scheme])
    if not 0 < number < 65536:
        raise ValueError("its port must be a number from 1 to 65535")
    if not target.startswith("/"):
        target = "/" + target
    return _URL(_Origin(scheme, host.lower(), number), authority, target)


def _origin(url: str) -> _Origin:
    return _split_url(url).origin  # type: ignore[no-any-return]


def _address(origin: _Origin) -> str:
    """Return an origin as it is written in a URL."""
    if origin.port == _PORTS[origin.scheme]:
        return f"{origin.scheme}://{origin.host}"
    return f"{origin.scheme}://{origin.host}:{origin.port}"


def _place(url: str) -> str:
    """Return where a URL leads, for a message: its path and query may be confidential."""
    return _address(_origin(url))


def _without_query(url: str | None) -> str | None:
    """Return a URL for a message: its query may hold a secret."""
    return url and re.split("[?#]", url)[0]


def _is_local(origin: _Origin) -> bool:
    """Return whether this is plain HTTP to this machine, which needs neither TLS nor a proxy."""
    return origin.scheme == "http" and bool(re.fullmatch(_LOOPBACK, origin.host, re.ASCII))


def _check_url(name: str, url: Any, allow_http: bool, hint: str = "") -> str:
    """Return a URL encoded as in RFC 3986; ValueError if no secret may be sent to it."""
    try:
        encoded = _encode_url(_text(url or "", name, hint))
        origin = _origin(encoded)
    except ValueError as error:
        raise ValueError(f"{name} is no usable URL: {error}{hint}") from None
    if origin.scheme == "http" and not allow_http and not _is_local(origin):
        raise ValueError(
            f"{name} must start with https:// (http:// is for loopback, or with allow_http=True)"
        )
    return encoded


def _encode_url(url: str) -> str:
    """Percent-encode what no URI may contain, and leave what is encoded already as it is."""
    match = re.fullmatch(r"(\w+://)([^/?#\0-\x1f\x7f]*)([^\0-\x1f\x7f]*)", url)
    if match is None:
        raise ValueError("it must be like https://host/path, without control characters")
    scheme, host, path = match.groups()
    if not host.isascii():
        host = _encode_host(host)
    path = re.sub("%(?![0-9A-Fa-f]{2})", "%25", path)
    return scheme + host + urllib.parse.quote(path, _URI_CHARACTERS)


def _encode_host(host: str) -> str:
    """Encode a host name by IDNA 2003, unless IDNA 2008 would take it for another one."""
    name, colon, port = host.partition(":")
    encoded = name.encode("idna")
    letters = re.sub("[.-]", "", encoded.decode("idna"))
    # The first five name other domains in IDNA 2008. It has no symbols at all, and some letters
    # are turned into "/" and the like.
    if re.search("[\u00df\u1e9e\u03c2\u200c\u200d]", name) or not f"a{letters}".isidentifier():
        raise ValueError("standards differ about its host: write that in its ASCII form, xn--...")
    return encoded.decode() + colon + port


def _text(value: Any, name: str = "text", hint: str = "") -> str:
    """Return text as a plain str. (str() of an Enum member is its name.)"""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:  # which holds the value, and must not be the context of ours
            pass
        raise ValueError(f"{name} is not UTF-8")
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(f"{name} must be str or bytes, not {type(value).__name__}{hint}")


@functools.lru_cache(maxsize=256)
def _check_method(method: Any) -> str:
    text = _text(method, "method").upper()
    if not _TOKEN_FORM.fullmatch(text) or text == "CONNECT":
        raise ValueError("method must be a single word, such as GET, and not CONNECT")
    return text


@functools.lru_cache(maxsize=256)
def _header_name(name: str | bytes) -> str:
    """Return the name of a header as it is usually written."""
    text = _text(name)
    if not _TOKEN_FORM.fullmatch(text):
        raise ValueError(f"headers: {ascii(text)[:80]} is not a header name")
    return text.title()


def _check_headers(headers: Any) -> dict[str, str]:
    """Return headers as text; ValueError for one that would change the request around it."""
    checked = {}
    for name, value in _mapping("headers", headers).items():
        name = _header_name(name)
        if isinstance(value, bytes):
            value = value.decode("iso-8859-1")
        if not isinstance(value, str):
            raise TypeError(f"headers: {name} must be str or bytes, not {type(value).__name__}")
        if not _VALUE_FORM.fullmatch(value):
            raise ValueError(f"headers: {name} must be Latin-1 without control characters")
        checked[name] = value
    return checked


def _mapping(name: str, value: Any) -> dict[Any, Any]:
    if value is not None and not hasattr(value, "items"):
        raise TypeError(f"{name} must be a dict of names and values, not {type(value).__name__}")
    return dict(value or {})


def _form_fields(name: str, pairs: Any) -> list[tuple[Any, Any]]:
    """Return pairs of texts for a query or a form: a list is repeated, None is left out."""
    items = pairs.items() if hasattr(pairs, "items") else pairs
    fields = []
    try:
        for key, value in items:
            values = value if isinstance(value, (list, tuple)) else [value]
            fields += [(_form_text(key), _form_text(one)) for one in values if one is not None]
    except (TypeError, ValueError):
        what = "a dict or pairs, of names and str, bytes, numbers or lists of them"
        raise TypeError(f"{name} must be {what}") from None
    return fields


def _form_text(value: Any) -> Any:
    """Return text or a number as text; urlencode() takes bytes as they are."""
    if isinstance(value, bytes):
        return value
    if hasattr(value, "__float__"):
        return str(value)
    return _text(value)  # a TypeError for anything else


def _decode(body: bytes, content_type: str) -> str:
    """Return a body as text in the charset of its Content-Type, and replace what is not in it."""
    # Not these codecs: they raise errors, take hours, or read escape sequences.
    form = r'charset="?(?![\w.:-]*(?:idna|punycode|undefined|escape))([\w.:-]{1,40})'
    found = re.search(form, content_type[:500], re.ASCII | re.IGNORECASE)
    charset = found[1] if found else json.detect_encoding(body)
    try:
        text = body.decode(charset, "replace")
    except (LookupError, ValueError):
        text = body.decode("utf-8", "replace")
    return text.lstrip("\ufeff")


# ---- Connections: kept-alive HTTP/1.1 (RFC 9112), as handlers for an OpenerDirector --------------

# What urllib takes for "none given"
_DEFAULT_TIMEOUT: Any = socket._GLOBAL_DEFAULT_TIMEOUT  # type: ignore[attr-defined]
_USER_AGENT = f"oauth_session/{__version__}"
_LONGEST_LIFE = 100 * 366 * 86400.0  # seconds; more is nonsense
_IDLE_SECONDS = 60.0  # that a connection is kept for its next use; servers close after 60 to 75
_IDLE_MOST = 64  # idle connections of a session
_ANSWER_LIMIT = 1 << 20  # bytes of a token response, or of an API's refusal
_BODY_LIMIT = 64 << 20  # bytes that a verb reads into memory, as sent and as decoded
_PIECE = 64 << 10  # bytes of a body that are sent or read at a time
_HEAD_LIMIT = 256 << 10  # bytes of a head, of trailers, or of the line before a chunk
_HEADS_MOST = 21  # heads of one answer: all but the last are interim ones, 1xx
_EARLY_ANSWER = 1.0  # seconds for each step of an answer to a request that was not sent whole
_FRAMING = ("content-length", "transfer-encoding", "connection")
# RFC 9110 section 9.2.2
_IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE")
_REPEATABLE = (bytes, type(None))  # bodies that can be sent again as they are
# 101 would be another protocol.
_STATUS_LINE = re.compile(rb"HTTP/1\.(\d) (?!101)([1-9]\d\d)(?: [^\r\n]*)?\r?\n")
_FOLD = re.compile("\n[ \t]+")  # of a folded line, RFC 9112 section 5.2
_FIELD = re.compile(rf"^({_TOKEN_FORM.pattern}):([^\r\n\0]*)$", re.MULTILINE)
_LENGTH = re.compile(r"([0-9]{1,18})(?:[ \t]*,[ \t]*\1)*")  # a number, which may be repeated
_CHUNK_SIZE = rb"([0-9a-fA-F]{1,16})[ \t]*(?:;[^\r\n\0]*)?\r\n"

_PRIVATE_CA = (
    "for a private CA, add its certificate to the public ones: "
    "context = ssl.create_default_context(), "
    "context.load_verify_locations('ca.pem'), and give context=context"
)
_OTHER_HOST = "the host in the URL must be one that the certificate names"
_CERTIFICATE_ADVICE = {  # by OpenSSL's verification code
    9: "is the clock of this machine right?",
    10: "its owner must renew it, if the clock of this machine is right",
    18: _PRIVATE_CA,
    19: _PRIVATE_CA,
    20: _PRIVATE_CA,
    21: _PRIVATE_CA,
    62: _OTHER_HOST,
    64: _OTHER_HOST,
}

# What a connection is for. proxy: an _Origin or None. proxy_authorization: for its tunnel, or None.
_Route = namedtuple("_Route", "origin proxy proxy_authorization")
# A request as it is sent. length: of the body in bytes; None: it is sent in chunks.
_Message = namedtuple("_Message", "method target headers body length route timeout deadline")


_LONG_AGO = (0.0, -1e9)  # a Moment


def _now() -> Moment:
    return time.time(), time.monotonic()


def _since(moment: Moment) -> float:
    """Return the seconds since a moment, by the clock that says more.

    One clock can be set back, and the other stops while the machine sleeps.
    """
    return max(time.time() - moment[0], time.monotonic() - moment[1])


def _check_timeout(timeout: Any) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, (int, float)) and 0 < timeout <= _LONGEST_LIFE:
        return timeout
    raise ValueError("timeout must be a positive number of seconds; None waits without limit")


def _timeout_of(request: Any) -> float | None:
    timeout: Any = getattr(request, "timeout", None)
    return socket.getdefaulttimeout() if timeout is _DEFAULT_TIMEOUT else timeout


class _TransportError(urllib.error.URLError):
    """A failure on the way. Its text says where, which that of URLError does not."""

    what = "gave no answer"

    def __init__(self, reason: Any, place: str = "the server") -> None:
        super().__init__(reason)
        self.args = reason, place  # for pickle
        self.place = place

    def __str__(self) -> str:
        if not isinstance(self.reason, ssl.CertificateError):
            return f"{self.place} {self.what}: {self.reason}"
        # A context that verifies by itself raises one without OpenSSL's attributes.
        why = getattr(self.reason, "verify_message", self.reason)
        advice = _CERTIFICATE_ADVICE.get(getattr(self.reason, "verify_code", 0), "ask its owner")
        return f"the certificate of {self.place} was refused: {why}; {advice}"


class _SendError(_TransportError):
    """The request could not be sent to its end. The server may have answered all the same."""

    what = "took no more of the request"


class _ProxyError(_TransportError):
    """The proxy does not do what it is needed for."""

    what = "cannot be used"


class _ProtocolError(_TransportError):
    """The answer is not HTTP/1.1, or exceeds a limit."""

    what = "gave no usable answer"


class _Stream(io.RawIOBase):
    """A connected socket that bounds the time of each step; the socket of an HTTPConnection."""

    idle_since: Moment
    pool: _Pool | None = None  # where it goes after the body of an answer

    def __init__(self, sock: socket.socket, route: _Route, place: str) -> None:
        self.sock = sock
        self.route = route
        self.place = place
        self.process = os.getpid()
        self.reader = io.BufferedReader(self)

    def begin_exchange(self, timeout: float | None, deadline: float | None) -> None:
        """Prepare for a request and its answer.

        timeout: seconds for each step, or None.
        deadline: the monotonic time when everything must have ended, or None.
        """
        self.timeout = timeout
        self.deadline = self.step_end = deadline
        self.keep = True  # whether it may be used again
        self.received = False  # whether a byte of the answer has come
        self.ends_answer = False  # whether the answer ends where the connection does

    def begin_step(self) -> None:
        """Bound all that follows up to end_step as one step, however slowly it drips."""
        if self.timeout is not None:
            self.step_end = time.monotonic() + self.timeout

    def end_step(self) -> None:
        """Let each receive be a step of its own again."""
        self.step_end = self.deadline

    def limit_time(self) -> None:
        """Give the next call of the socket the time that is left."""
        left = self.timeout
        if self.step_end is not None:
            left = self.step_end - time.monotonic()
            if left <= 0:
                raise socket.timeout("timed out")
        self.sock.settimeout(left)

    def makefile(self, mode: str) -> Any:
        """Return what an HTTPResponse reads from."""
        return self.reader

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        try:
            self.limit_time()
            count = self.sock.recv_into(buffer)
            if count == 0 and not self.ends_answer:
                raise http.client.RemoteDisconnected(
                    "the connection was closed before the answer was complete"
                )
        except (BlockingIOError, ssl.SSLWantReadError):
            return None  # nothing is there, and is_silent() does not wait
        except OSError as error:
            self.keep = False
            raise _TransportError(error, self.place) from error
        self.received = True
        return count

    def sendall(self, data: bytes) -> None:
        """Send bytes; a large body is as many steps as it has pieces."""
        view = memoryview(data)
        try:
            for start in range(0, len(view), _PIECE):
                self.limit_time()
                self.sock.sendall(view[start : start + _PIECE])
        except OSError as error:
            raise _SendError(error, self.place) from error

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Go on encrypted, once the server has proved to be the host."""
        self.place = _address(self.route.origin)
        host = self.route.origin.host.strip("[].")
        try:
            self.limit_time()
            # A body that somebody cut off must not pass for a whole one (RFC 9112 section 9.8).
            self.sock = context.wrap_socket(
                self.sock, server_hostname=host, suppress_ragged_eofs=False
            )
        except OSError as error:
            raise _TransportError(error, self.place) from error

    def close(self) -> None:
        self.sock.close()
        super().close()

    def is_silent(self) -> bool:
        """Return whether it is open and has received nothing unasked; do not wait.

        Session tickets of TLS 1.3 are no reason to drop it: they are no data for recv().
        """
        self.timeout = 0
        self.step_end = None
        try:
            return not self.reader.peek()
        except _TransportError:
            return False
        finally:
            self.timeout = None
            self.step_end = self.deadline


class _HTTPResponse(http.client.HTTPResponse):
    """An HTTPResponse whose framing is read without any guess, and whose connection can be kept.

    Two private methods of http.client are overridden: _get_chunk_left, which takes any two bytes
    for the end of a chunk; and _close_conn, which closes the connection at the end of a body.
    """

    fp: Any
    headers: Any
    msg: Any
    _method: str

    def begin(self) -> None:
        """Read the head of the answer, and skip interim ones (RFC 9110 section 15.2).

        The method of http.client spends most of the time of a call in email.parser.
        """
        stream = self.fp.raw
        stream.begin_step()
        for _ in range(_HEADS_MOST):
            match = _STATUS_LINE.fullmatch(self.fp.readline(_HEAD_LIMIT))
            fields = self._read_fields()
            if match is None:
                raise _ProtocolError("it does not begin as HTTP/1.1 does", stream.place)
            self.status = int(match[2])
            if self.status >= 200:
                break
        else:
            raise _ProtocolError("too many interim answers", stream.place)
        stream.end_step()
        self.version = 10 + int(match[1])
        self.code = self.status
        # Not the server's own reason, which may echo a secret.
        self.reason = http.client.responses.get(self.status, "")
        self.headers = http.client.HTTPMessage()
        framing: dict[str, str] = {}
        for name, value in fields:
            value = value.strip(" \t")
            self.headers.set_raw(name, value)
            name = name.lower()
            if name in _FRAMING:
                framing[name] = f"{framing[name]},{value}" if name in framing else value
        self._find_end(stream, framing)

    def _read_fields(self) -> list[tuple[str, str]]:
        """Read the fields of a head or of trailers, up to an empty line (RFC 9112 section 5)."""
        section = bytearray()
        line = b""
        while line not in (b"\r\n", b"\n"):
            line = self.fp.readline(_HEAD_LIMIT)
            section += line
            if len(section) > _HEAD_LIMIT:
                raise _ProtocolError(
                    f"more than {_HEAD_LIMIT} bytes of headers", self.fp.raw.place
                )
        text = _FOLD.sub(" ", section.decode("iso-8859-1").replace("\r\n", "\n"))
        fields = _FIELD.findall(text)
        if len(fields) != text.count("\n") - 1:
            raise _ProtocolError("a header line that is none", self.fp.raw.place)
        return fields

    def _find_end(self, stream: _Stream, framing: dict[str, str]) -> None:
        """Decide where the body ends (RFC 9112 section 6.3).

        1. An answer to HEAD, or with status 204 or 304, has no body.
        2. Transfer-Encoding must be chunked, and takes precedence over Content-Length.
        3. Content-Length must be a number.
        4. Without either, the body ends where the connection does.

        The connection is not used again in case 4, if either side closes it, or if another reader
        may see the end elsewhere: with both headers, in HTTP/1.0, and with a length at 204.
        """
        if self._method == "CONNECT" and self.status < 300:
            return  # what follows is the tunnel
        self.will_close = False  # or HTTPConnection would close the stream before the body is read
        self.chunk_left = self.length = None
        coding = framing.get("transfer-encoding", "identity").lower()
        if coding not in ("identity", "chunked"):
            raise _ProtocolError("a Transfer-Encoding other than chunked", stream.place)
        if "content-length" in framing:
            number = _LENGTH.fullmatch(framing["content-length"])
            if number is None:
                raise _ProtocolError("a Content-Length that is not one number", stream.place)
            self.length = int(number[1])
            if "transfer-encoding" in framing:
                stream.keep = False
        if self.version == 10 or "close" in framing.get("connection", "").lower():
            stream.keep = False
        self.chunked = coding == "chunked"
        if self._method == "HEAD" or self.status in (204, 304):
            if self.status == 204 and (self.length or self.chunked):
                stream.keep = False
            self.length = 0
            self.chunked = False
        elif self.chunked:
            self.length = None
        elif self.length is None:
            stream.ends_answer = True
            stream.keep = False
        if self.length == 0:
            self._close_conn()

    def _get_chunk_left(self) -> int | None:
        """Return what is left of the chunk, or the size of the next one; None after the last.

        (RFC 9112 section 7.1)
        """
        if self.chunk_left:
            return self.chunk_left
        stream = self.fp.raw
        stream.begin_step()
        if self.chunk_left == 0 and self.fp.readline(3) != b"\r\n":
            raise _ProtocolError("a chunk that does not end where it should", stream.place)
        match = re.fullmatch(_CHUNK_SIZE, self.fp.readline(_HEAD_LIMIT))
        if match is None:
            raise _ProtocolError("a chunk without a valid size", stream.place)
        self.chunk_left = int(match[1], 16) or None
        if self.chunk_left is None:
            self._read_fields()
            self.length = 0
            self._close_conn()  # another thread may use the stream from here on
        else:
            stream.end_step()
        return self.chunk_left

    def _close_conn(self) -> None:
        """Let go of the connection, and keep it if the answer ends here."""
        reader, self.fp = self.fp, None
        stream = reader.raw
        if self.length != 0 or not stream.keep:
            reader.close()
        elif stream.pool is not None:
            stream.pool.give(stream)

    def read(self, amt: int | None = None) -> bytes:
        """Read in pieces, since http.client allocates as much as a server announces."""
        if amt is not None and amt >= 0:
            return super().read(amt)
        return b"".join(iter(functools.partial(super().read, _PIECE), b""))


def _close_idle(streams: deque[_Stream], seconds: float = 0.0) -> None:
    """Close the connections that have been idle for so long."""
    try:
        while _since(streams[0].idle_since) >= seconds:
            streams.popleft().close()
    except IndexError:  # no more
        pass


class _Pool:
    """The connections that wait for their next use, and the one SSLContext. Threads may share it.

    It has no lock: the methods of a deque are atomic, and finalizers and signal handlers may call.
    """

    def __init__(self, context: ssl.SSLContext | None) -> None:
        if not isinstance(context, (ssl.SSLContext, type(None))):
            raise TypeError(f"context must be an ssl.SSLContext, not {type(context).__name__}")
        # The context, or None before its first use; whether it has only the hashed directory.
        self._tls: tuple[Any, bool] = (context, False)
        self._idle: deque[_Stream] = deque()  # the one used last is on the right
        # Before the garbage collector warns of open sockets, and at exit.
        weakref.finalize(self, _close_idle, self._idle)

    def close(self) -> None:
        _close_idle(self._idle)

    def exchange(self, request: Any) -> Any:
        """Send a Request and return its answer, with the body still to be read."""
        message = _message_of(request)
        stream = self._take(message.route)
        if stream is not None:
            try:
                return self._converse(stream, message)
            except _TransportError as error:
                # The server may have closed it while it was idle: once more, on a new one.
                if stream.received or isinstance(error.reason, socket.timeout):
                    raise
                if message.method not in _IDEMPOTENT or not isinstance(message.body, _REPEATABLE):
                    raise
        deadline = message.deadline
        if message.timeout is not None:
            deadline = time.monotonic() + message.timeout
        return self._converse(self.connect(message.route, deadline), message)

    def _converse(self, stream: _Stream, message: _Message) -> Any:
        """Send a request on a stream, and return its answer.

        Both go through methods of HTTPConnection, since tracers replace these.
        """
        origin = message.route.origin
        stream.begin_exchange(message.timeout, message.deadline)
        stream.keep = "close" not in message.headers.get("Connection", "").lower()
        connection: Any = http.client.HTTPConnection(origin.host, origin.port)
        connection.response_class = _HTTPResponse
        connection.default_port = _PORTS[origin.scheme]  # by which tracers tell what is https
        connection.sock = stream
        body = message.body
        if not isinstance(body, _REPEATABLE):
            body = _pieces(body, message.length)
        chunked = message.length is None
        try:
            connection.request(
                message.method, message.target, body, message.headers, encode_chunked=chunked
            )
            answer = connection.getresponse()
        except _SendError as failure:
            return _early_answer(connection, stream, failure)
        except BaseException:
            stream.close()
            raise
        stream.pool = self
        if answer.fp is None and not stream.closed:  # it has no body
            self.give(stream)
        return answer

    def _take(self, route: _Route) -> _Stream | None:
        """Return an idle connection for the route that can be used, or None."""
        for stream in reversed(self._idle.copy()):
            if stream.route == route:
                try:
                    self._idle.remove(stream)
                except ValueError:  # another thread was faster
                    continue
                is_old = _since(stream.idle_since) >= _IDLE_SECONDS
                if stream.process == os.getpid() and not is_old and stream.is_silent():
                    return stream
                stream.close()
        return None

    def give(self, stream: _Stream) -> None:
        """Keep a connection for its next use."""
        stream.pool = None  # a cycle would hide it from the finalizer
        stream.idle_since = _now()
        self._idle.append(stream)
        if len(self._idle) > _IDLE_MOST:
            self._idle.popleft().close()

    def connect(self, route: _Route, deadline: float | None) -> _Stream:
        """Open a connection by a monotonic time: TCP, a tunnel if there is a proxy, and TLS."""
        _close_idle(self._idle, _IDLE_SECONDS)
        encrypted = route.origin.scheme == "https"
        context: Any = None
        hashed_only = False
        if encrypted:
            context, hashed_only = self._prepare_tls()
        stream = _open_stream(route, deadline)
        try:
            if encrypted and route.proxy is not None:
                _open_tunnel(stream, route)
            if encrypted:
                stream.start_tls(context)
            return stream
        except BaseException as error:
            stream.close()
            reason = getattr(error, "reason", None)
            if not hashed_only or not isinstance(reason, ssl.CertificateError):
                raise
        # Once more with all certificates that Python loads by default: the verdict is theirs.
        context.load_default_certs()
        self._tls = (context, False)
        return self.connect(route, deadline)

    def _prepare_tls(self) -> tuple[Any, bool]:
        """Return the SSLContext, made at first use, and whether it has only the hashed directory.

        To load all certificates takes 20 ms. Of that directory OpenSSL reads the file it needs.
        """
        if self._tls[0] is None:
            import glob

            directory = ssl.get_default_verify_paths().capath
            hashes = glob.escape(directory or "") + "/" + "[0-9a-f]" * 8 + ".[0-9]*"
            named = "SSL_CERT_FILE" in os.environ  # what the user names is needed, most likely
            is_hashed = bool(directory and not named and glob.glob(hashes))
            context = ssl.create_default_context(capath=directory if is_hashed else None)
            # Python 3.8 and 3.9 allow TLS 1.0, and take a body that is cut off for a whole one.
            context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
            context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0x80)
            self._tls = (context, is_hashed)
        return self._tls


def _early_answer(connection: Any, stream: _Stream, failure: _SendError) -> Any:
    """Return an answer, such as a 413, that came before all was sent; else raise the failure."""
    stream.keep = False  # the server still waits for the rest of the request
    stream.timeout = _EARLY_ANSWER
    try:
        return connection.getresponse()
    except _TransportError as error:
        stream.close()
        if isinstance(error.reason, ssl.SSLError):
            raise  # an alert of TLS says why the server broke off
        raise failure from None


def _open_stream(route: _Route, deadline: float | None) -> _Stream:
    """Connect to the first address that answers; they share the time that is left."""
    server = route.proxy or route.origin
    place = _address(server)
    if route.proxy is not None:
        place = f"the proxy {place}"
    failure = OSError(f"there is no address for {server.host}")
    addresses = []
    try:
        host = server.host.strip("[]")
        addresses = socket.getaddrinfo(host, server.port, 0, socket.SOCK_STREAM)
    except OSError as error:
        failure = error
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)  # this machine may lack the family
            if deadline is not None:
                left = max(deadline - time.monotonic(), 0.001)
                sock.settimeout(left / (len(addresses) - index))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            failure = error
            if sock is not None:
                sock.close()
        else:
            stream = _Stream(sock, route, place)
            stream.begin_exchange(None, deadline)
            return stream
    raise _TransportError(failure, place) from failure


def _open_tunnel(stream: _Stream, route: _Route) -> None:
    """Have the proxy connect the stream to the server (RFC 9110 section 9.3.6)."""
    authority = f"{route.origin.host}:{route.origin.port}"
    head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
    if route.proxy_authorization is not None:
        head += f"Proxy-Authorization: {route.proxy_authorization}\r\n"
    # Not through putrequest: tracers would take it for a request to the server, and tell the proxy
    # of the trace.
    stream.sendall(f"{head}\r\n".encode("iso-8859-1"))
    answer: Any = _HTTPResponse(stream, method="CONNECT")  # type: ignore[arg-type]
    try:
        answer.begin()
    except _ProtocolError as error:
        raise _ProxyError(error.reason, stream.place) from None
    finally:
        answer.fp = None  # or its finalizer would close the tunnel
    if answer.status >= 300 or not stream.is_silent():
        raise _ProxyError(
            f"it answered {answer.status} {answer.reason} to CONNECT {authority}; if it asks for a "
            "password, write its URL as http://user:password@host:port",
            stream.place,
        )


def _message_of(request: Any) -> _Message:
    """Return what a Request asks for; ValueError or TypeError for what cannot be sent.

    Its URL counts: host and selector are those of a proxy if urllib has put one on the Request.
    """
    url = _split_url(request.full_url)
    method = _check_method(request.get_method())
    headers = _check_headers({**request.headers, **request.unredirected_hdrs})
    headers.setdefault("Host", url.authority)

    body = request.data
    if isinstance(body, (bytearray, memoryview)):
        body = bytes(body)
    # What the caller says of the length of a body counts only if it cannot be known.
    given = headers.pop("Content-Length", "")
    headers.pop("Transfer-Encoding", None)
    length = _length_of(body)
    if length is None and re.fullmatch("[0-9]{1,18}", given):
        length = int(given)
    if length is None:
        headers["Transfer-Encoding"] = "chunked"
    elif body is not None:
        headers["Content-Length"] = str(length)

    target = url.target
    proxy = proxy_authorization = None
    if _is_local(url.origin):
        headers.pop("Proxy-Authorization", None)
    elif request.host != url.authority:
        proxy = _origin(_check_url("the proxy", "http://" + request.host, True))
        if url.origin.scheme == "http":
            target = f"http://{url.authority}{target}"
        else:
            proxy_authorization = headers.pop("Proxy-Authorization", None)
    deadline = getattr(request, "deadline", None)
    timeout = None if deadline else _timeout_of(request)  # one of them bounds the exchange
    route = _Route(url.origin, proxy, proxy_authorization)
    return _Message(method, target, headers, body, length, route, timeout, deadline)


def _length_of(body: Any) -> Any:
    """Return the length of a body in bytes; None if only reading it tells."""
    if body is None:
        return 0
    if isinstance(body, bytes):
        return len(body)
    # By its type: the fileno() of a GzipFile is that of the compressed file.
    is_file = isinstance(getattr(body, "raw", body), (io.FileIO, io.BytesIO))
    if not is_file or not body.seekable():
        return None
    position = body.tell()
    length = body.seek(0, io.SEEK_END) - position
    body.seek(position)
    return max(0, length)


def _pieces(body: Any, length: int | None) -> Iterator[bytes]:
    """Yield a body in pieces; ValueError if it is not as long as its Content-Length says."""
    if hasattr(body, "read"):
        body = iter(functools.partial(body.read, _PIECE), b"")
    sent = 0
    for piece in body:
        data = bytes(memoryview(piece))  # a TypeError for text
        sent += len(data)
        if length is not None and sent > length:
            break
        yield data
    if length is not None and sent != length:
        raise ValueError(f"data does not have the {length} bytes that its Content-Length says")


class _ProxyHandler(urllib.request.ProxyHandler):
    """Sends plain HTTP to loopback past the proxy, and refuses proxies other than HTTP ones."""

    def proxy_open(self, request: Any, proxy: str, kind: str) -> Any:
        """Put the proxy on the request."""
        is_local = _is_local(_origin(request.full_url))
        if is_local or urllib.request.proxy_bypass(request.host):
            return None
        scheme, separator, rest = proxy.partition("://")
        if separator and scheme.lower() != "http":
            place = f"the proxy {scheme}://{rest.rpartition('@')[2]}"
            raise _ProxyError("it must be an HTTP proxy, http://host:port", place)
        try:
            return super().proxy_open(request, proxy, kind)
        except ValueError:  # which holds the password, and must not be the context of ours
            pass
        raise _ProxyError("its URL must be like http://host:port", "the proxy")


class _HTTPHandler(urllib.request.HTTPHandler):
    """A subclass, like the one below, so that build_opener replaces its own handler by it."""

    def __init__(self, pool: _Pool) -> None:
        # Not super(): from Python 3.12 on HTTPSHandler would load the certificates.
        self._pool = pool

    def http_open(self, request: Any) -> Any:
        """Send the request."""
        answer = self._pool.exchange(request)
        answer.url = request.full_url
        answer.msg = answer.reason
        return answer


class _HTTPSHandler(urllib.request.HTTPSHandler):
    __init__: Any = _HTTPHandler.__init__
    https_open: Any = _HTTPHandler.http_open


def _read_all(answer: Any, limit: int = _BODY_LIMIT, decode: bool = True) -> bytes:
    """Return the whole body, unzipped; URLError if it breaks off or exceeds the limit."""
    try:
        body = _read_up_to(answer, limit)
    except urllib.error.URLError:
        raise
    except (OSError, http.client.HTTPException) as error:  # of a handler that the user gave
        raise _TransportError(error) from error
    coding = answer.headers.get("Content-Encoding", "").strip().lower()
    if not body or not decode or coding not in ("gzip", "x-gzip"):
        return body
    import gzip

    try:
        return _read_up_to(gzip.GzipFile(fileobj=io.BytesIO(body)), limit)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise _ProtocolError("the body is not the gzip that its Content-Encoding says") from None


def _read_up_to(file: Any, limit: int) -> bytes:
    whole = bytearray()
    for piece in iter(functools.partial(file.read, _PIECE), b""):
        whole += piece
        if len(whole) > limit:
            raise _ProtocolError(
                f"the body has more than {limit} bytes; session.open() reads piece by piece"
            )
    return bytes(whole)


# ---- Token: a value, and how old it is -----------------------------------------------------------

_UNKNOWN_LIFE = 3600.0  # seconds that a token without a usable expires_in is kept
_EXPIRED_BEFORE = 10.0  # seconds of life that count as none: requests take time, and clocks differ
_SOONEST_REFRESH = 0.1  # seconds; a smaller refresh_in would cause a token request for each call
_ACCESS_TOKEN = "[!-~]{1,65536}"  # no server accepts a longer header
_OTHER_TOKEN_TYPES = ("dpop", "mac", "pop", "n_a")  # that need more than a Bearer header

FRESH, DUE, EXPIRED = "fresh", "due", "expired"


def _seconds(value: Any) -> float | None:
    """Return a positive number of seconds from any JSON value, or None if it is none."""
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if isinstance(value, bool) or not 0 < seconds <= _LONGEST_LIFE:
        return None
    return seconds


class Token:
    """An access token (RFC 6749 section 5.1). It cannot be changed, and
    its repr does not show the secret.

    access_token: visible ASCII characters. token_type: as the server says.
    expires_at: seconds since the epoch, or None if the server did not
    say. scope: what was granted, separated by spaces, or None. raw: the
    whole answer of the server, or None.

    Raises ValueError for an access_token that cannot be sent in a header,
    and for an expires_at that is not a finite number.
    """

    __slots__ = ("_access_token", "_expires_at", "_raw", "_scope", "_token_type")

    def __init__(
        self,
        access_token: str,
        *,
        token_type: str = "Bearer",
        expires_at: float | None = None,
        scope: str | None = None,
        raw: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(access_token, str) or not re.fullmatch(_ACCESS_TOKEN, access_token):
            raise ValueError("access_token must be 1 to 65536 visible ASCII characters")
        if expires_at is not None and not abs(expires_at) < 1e300:
            raise ValueError(
                "expires_at must be a finite number of seconds since the epoch, or None"
            )
        self._access_token = access_token
        self._token_type = token_type
        self._expires_at = expires_at
        self._scope = scope
        self._raw = raw

    access_token = property(operator.attrgetter("_access_token"), doc="The secret text.")
    token_type = property(operator.attrgetter("_token_type"), doc="As the server says.")
    expires_at = property(operator.attrgetter("_expires_at"), doc="In seconds since 1970, or None.")
    scope = property(operator.attrgetter("_scope"), doc="What was granted, or None.")
    raw = property(operator.attrgetter("_raw"), doc="The whole answer, or None.")

    @classmethod
    def from_response(cls, mapping: Mapping[str, Any], requested_at: float | None = None) -> Token:
        """Return the Token of a successful token response (RFC 6749
        section 5.1).

        mapping: the parsed JSON object. requested_at: when the request was
        sent, in seconds since the epoch; default: now.

        An expires_in that makes no sense counts as missing. Raises
        OAuthMalformedResponse for an answer without a usable token.
        """
        if not hasattr(mapping, "get"):
            raise OAuthMalformedResponse("the token response is not a JSON object")
        access_token: Any = mapping.get("access_token")
        # Deviation: required, but some servers leave it out. Apigee says "BearerToken", eBay
        # "Application Access Token", and both want a Bearer header.
        token_type = str(mapping.get("token_type") or "Bearer")
        shown = _clean(token_type, [str(access_token)], 80)
        if token_type.strip().lower() in _OTHER_TOKEN_TYPES:
            raise OAuthMalformedResponse(
                f"a token of token_type {shown!r} cannot be sent as a Bearer token"
            )
        if token_type.lower() != "bearer":
            _log("info", "a token of token_type %r is sent as a Bearer token", shown)
        expires_at = None
        life = _seconds(mapping.get("expires_in"))
        if requested_at is None:
            requested_at = time.time()
        if life is not None:
            expires_at = requested_at + life
        scope = mapping.get("scope")
        if isinstance(scope, list):  # Deviation: Twitch sends a list
            scope = " ".join(map(str, scope))
        if not isinstance(scope, str):
            scope = None
        try:
            return cls(
                access_token,
                token_type=token_type,
                expires_at=expires_at,
                scope=scope,
                raw=dict(mapping),
            )
        except ValueError as error:
            raise OAuthMalformedResponse(
                f"the token response has no usable token: {error}"
            ) from None

    def __repr__(self) -> str:
        text = f"token_type={self.token_type!r}, expires_at={self.expires_at}, scope={self.scope!r}"
        return f"Token('***', {_clean(text, [self.access_token])})"

    def _value(self) -> tuple[Any, ...]:
        return self.access_token, self.token_type, self.expires_at, self.scope

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Token) and self._value() == other._value()

    def __hash__(self) -> int:
        return hash(self._value())


class _KeptToken:
    """A token with its age: when it was requested, its life, and how long before its end it is
    DUE or EXPIRED."""

    def __init__(self, token: Token, requested: Moment, refresh_before: float) -> None:
        raw = token.raw or {}
        # Not expires_at, which is wrong if the wall clock was set while the token was fetched.
        life = _seconds(raw.get("expires_in"))
        if life is None:
            life = _UNKNOWN_LIFE if token.expires_at is None else token.expires_at - requested[0]
        refresh_in = _seconds(raw.get("refresh_in"))
        self.token = token
        self.requested = requested
        self.life = life
        self.expired_window = min(_EXPIRED_BEFORE, life / 10)
        self.due_window = min(refresh_before, life / 2)
        if refresh_in is not None:
            self.due_window = life - max(refresh_in, _SOONEST_REFRESH)
        self.read_at: Moment | None = None  # when it was read from a shared cache

    def left(self) -> float:
        """Return the seconds until it ends, by the clock that says less."""
        left = self.life - _since(self.requested)
        if self.token.expires_at is not None:
            left = min(left, self.token.expires_at - time.time())
        return left

    def age(self) -> str:
        """Return FRESH, DUE or EXPIRED: the one place where this is decided."""
        left = self.left()
        if left <= self.expired_window:
            return EXPIRED
        return DUE if left <= self.due_window else FRESH

    def continue_windows(self, before: _KeptToken) -> None:
        """Keep the windows of the same token when the server hands it out again.

        The server has no other one before it has EXPIRED. Windows computed from the rest of its
        life would shrink towards nothing, and each call would cause a fetch.
        """
        self.expired_window = 0.0
        if self.left() > before.expired_window:
            self.expired_window = before.expired_window
        self.due_window = self.expired_window


# ---- ClientCredentials: how one token is obtained ------------------------------------------------

_TRIES = 3  # within one deadline, for what may pass by itself
_BACK_OFF = 0.5  # seconds; the longest wait before the second try, doubled before the third
_RETRY_AFTER_LIMIT = 300.0  # seconds; a server that asks for more is asked again after this
_BUSY = (408, 425, 429, 503)  # statuses that may pass by themselves
_CERTAIN_AT_401 = ("invalid_scope", "invalid_target", "unsupported_grant_type")
# Client authentication (OpenID Connect Core section 9, RFC 8705), and the setting that each needs.
_METHODS = {
    "client_secret_basic": "client_secret",
    "client_secret_post": "client_secret",
    "client_secret_basic_raw": "client_secret",
    "client_secret_jwt": "client_secret",
    "private_key_jwt": "client_assertion",
    "tls_client_auth": "",
    "none": "",
}
_JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"  # RFC 7523 section 2.2
# Fields of token_params that hold secrets, by their names.
_SECRET_FIELDS = "(secret|passw|pwd|token|assertion|key|code|otp)(?!.*type)"
_SHORTEST_SECRET = 6  # characters; to mask shorter values of fields and headers would mask words
_ASSERTION_LIFE = 120  # seconds; a request takes less, and clocks differ
_DISCOVERY_EVERY = 60.0  # seconds; the metadata of an issuer are not read again sooner
_ORDER = "; the order is OAuthSession(client_id, client_secret, scope, token_url)"
_NO_SECRET = "; for a client without one: auth_method='none'" + _ORDER

# secrets: in their usual spellings, to be masked in every text.
_TokenRequest = namedtuple("_TokenRequest", "url data headers secrets")
_Reply = namedtuple("_Reply", "status headers body")


class ClientCredentials:
    """Obtains one token by the client credentials grant (RFC 6749 section
    4.4). It is a callable for TokenSource.

    client_id, client_secret, scope, token_url, issuer, auth_method,
    client_assertion, assertion_audience, audience, resource, token_params,
    token_headers, context, allow_http: as for OAuthSession.
    headers: only their User-Agent is used; may be changed. handlers: only
    a urllib ProxyHandler is used. timeout: seconds for one whole fetch,
    with all tries but without the DNS look-up; default 30; may be changed.

    A call returns a Token, or raises OAuthTransportError or an
    OAuthResponseError. Any thread may call it. Raises ValueError or
    TypeError for wrong settings.
    """

    def __init__(
        self, client_id: str, client_secret: Secret = None, scope: Texts = None,
        token_url: str | None = None, *, issuer: str | None = None,
        auth_method: str | None = None, client_assertion: Secret = None,
        assertion_audience: str | None = None, audience: Texts = None, resource: Texts = None,
        token_params: Any = None, token_headers: Any = None,
        headers: Mapping[str, Any] | None = None, timeout: float = 30.0,
        context: ssl.SSLContext | None = None, allow_http: bool = False,
        handlers: Iterable[Any] = (), pool: _Pool | None = None,
    ) -> None:  # fmt: skip
        if issuer is not None and token_url is not None:
            raise _contradiction("issuer", "token_url", "token_url")
        if client_id is None:
            raise ValueError(f"client_id is missing{_ORDER}")
        self.client_id = _plain_text("client_id", client_id, _ORDER)
        self.token_url: str | None = None
        self.issuer: str | None = None
        if issuer is None:
            self.token_url = _check_url("token_url", token_url, allow_http, _ORDER)
        else:
            self.issuer = _check_url("issuer", issuer, allow_http)
        self.scope = " ".join(_texts("scope", scope)) or None
        self._set_secret(client_secret, client_assertion)
        self.auth_method = _choose_method(auth_method, self._secret_name, self._secret)
        self._assertion_audience = assertion_audience
        fields = {
            "grant_type": "client_credentials",
            "scope": self.scope,
            "audience": _texts("audience", audience),
            "resource": _texts("resource", resource),
            **_mapping("token_params", token_params),
        }
        self._fields = [
            (_text(name), _text(value)) for name, value in _form_fields("token_params", fields)
        ]
        self._token_headers = _check_headers(token_headers)
        self.headers = headers or {}
        self.timeout = timeout
        self._allow_http = allow_http
        self._accepted_method: str | None = None  # seen to work, of several that may be tried
        self._metadata: dict[str, Any] = {}  # of the issuer
        self._discovered: Moment = _LONG_AGO
        self._is_stale = False  # whether the issuer may name another token endpoint now
        self._opener = _token_opener(handlers, pool or _Pool(context))

    def _set_secret(self, client_secret: Any, client_assertion: Any) -> None:
        self._secret = client_secret
        self._secret_name = "client_secret"
        if client_assertion is not None:
            if client_secret is not None:
                raise _contradiction("client_secret", "client_assertion", "client_secret")
            self._secret = client_assertion
            self._secret_name = "client_assertion"
        if self._secret is not None and not callable(self._secret):
            self._secret = _check_secret(self._secret_name, self._secret)

    def __repr__(self) -> str:
        return (
            f"ClientCredentials(client_id={self.client_id!r}, scope={self.scope!r}, "
            f"token_url={_without_query(self.token_url)!r}, issuer={self.issuer!r})"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials cannot be pickled: make them anew from their settings")

    @property
    def cache_key(self) -> str:
        """A hash of all settings and the secret: who differs in one of
        them shares no token. Callables add nothing to it."""
        import hmac

        settings = [
            self.issuer, self.token_url, self.client_id, self.auth_method, self._secret_name,
            self._assertion_audience, sorted(self._fields), sorted(self._token_headers.items()),
        ]  # fmt: skip
        secret = self._secret if isinstance(self._secret, str) else ""
        return hmac.new(secret.encode(), json.dumps(settings).encode(), "sha256").hexdigest()

    def __call__(self) -> Token:
        """Fetch one token, in up to three tries within `timeout`."""
        deadline = time.monotonic() + self.timeout
        attempt = 1
        while True:
            try:
                return self._try(deadline)
            except OAuthError as error:
                if isinstance(error, OAuthTransportError) or error.status == 404:
                    self._is_stale = True
                if attempt == _TRIES or not _is_transient(error):
                    raise
                wait = getattr(error, "retry_after", None)
                if wait is None:
                    wait = random.uniform(0, _BACK_OFF * attempt)
                if wait > (deadline - time.monotonic()) / 2:
                    raise
                _log("info", "token request failed, the next in %.1f s: %s", wait, error)
            attempt += 1
            time.sleep(wait)

    def _try(self, deadline: float) -> Token:
        """Fetch one token; once more if the client is refused and its secret has changed."""
        is_old = self._is_stale and _since(self._discovered) > _DISCOVERY_EVERY
        if self.issuer is not None and (is_old or not self._metadata):
            self._discover(deadline)
        secret = self._current_secret()
        try:
            return self._try_methods(secret, deadline)
        except OAuthResponseError as error:
            if not _is_client_refused(error):
                raise
            rotated = self._current_secret()
            if rotated == secret:
                raise
        return self._try_methods(rotated, deadline)

    def _current_secret(self) -> str:
        """Return the secret or assertion for the next request."""
        if not callable(self._secret):
            return self._secret or ""
        secret = self._secret()
        try:
            return _check_secret(self._secret_name, secret)
        except (TypeError, ValueError) as error:  # a file may be half written, for example
            raise OAuthError(f"what the callable returned cannot be used: {error}") from None

    def _try_methods(self, secret: str, deadline: float) -> Token:
        """Ask for a token by one method after the other, until the client is not refused."""
        methods = self._candidates(secret)
        first: Any = None
        for method in methods:
            try:
                token = self._request(method, secret, deadline)
            except OAuthResponseError as error:
                if not _is_client_refused(error):
                    if first is None or _is_transient(error):
                        raise
                    if error.error in ERRORS_BY_CODE:  # so the client was accepted
                        self._accepted_method = method
                        raise
                first = first or error
            else:
                if first is not None:
                    _log("info", "the server accepts %s: name it as auth_method", method)
                self._accepted_method = method
                return token
        first.reason = f"{first} (tried: {', '.join(methods)})"
        first.args = (first.reason,)
        raise first

    def _candidates(self, secret: str) -> list[str]:
        """Return the methods to try: what is named, worked before or is listed by the issuer."""
        known = self.auth_method or self._accepted_method
        if known is not None:
            return [known]
        methods = ["client_secret_basic", "client_secret_post"]
        listed = self._metadata.get("token_endpoint_auth_methods_supported")
        if not isinstance(listed, list):
            listed = []
        usable = [method for method in (*methods, "client_secret_jwt") if method in listed]
        # A list that has both does not say which one this client may use.
        if usable and usable[:2] != methods:
            return usable[:1]
        pair = self.client_id + secret
        if urllib.parse.quote(pair, "") != pair:
            methods.append("client_secret_basic_raw")
        return methods

    def _discover(self, deadline: float) -> None:
        """Read the metadata of the issuer: RFC 8414, else OpenID Connect Discovery."""
        self._discovered = _now()
        self._is_stale = False
        issuer = str(self.issuer).rstrip("/")
        parts = urllib.parse.urlsplit(issuer)
        host = f"{parts.scheme}://{parts.netloc}"
        failure: Any = None
        for url in (
            f"{host}/.well-known/oauth-authorization-server{parts.path}",
            f"{issuer}/.well-known/openid-configuration",
        ):
            try:
                self._metadata = self._read_metadata(url, deadline)
                return
            except OAuthError as error:
                if failure is None or error.status != 404:
                    failure = error  # a document that is there tells more
        if not self._metadata:
            raise failure
        _log("warning", "the metadata of the issuer cannot be read again: %s", failure)

    def _read_metadata(self, url: str, deadline: float) -> dict[str, Any]:
        """Return the metadata at a URL, with the token endpoint to use."""
        reply = self._send(_TokenRequest(url, None, {}, ()), deadline)
        if reply.status != 200:
            kind: type[OAuthError] = OAuthMalformedResponse
            if reply.status in _BUSY or reply.status >= 500:
                kind = OAuthTransportError
            raise kind(f"{url} answered {reply.status}; is issuer right?", status=reply.status)
        try:
            metadata = _parse_object(reply.body, reply.headers.get("Content-Type", ""))
            named = metadata.get("issuer")
            if named != self.issuer:  # Azure AD B2C, for example
                raise ValueError(
                    f"it is of issuer {_clean(named)!r}, not {self.issuer!r}: "
                    "give that as issuer if you trust it, or token_url instead"
                )
            aliases = metadata.get("mtls_endpoint_aliases")
            if self.auth_method == "tls_client_auth" and isinstance(aliases, dict):
                metadata.update(aliases)  # RFC 8705 section 5
            endpoint = metadata.get("token_endpoint")
            metadata["token_endpoint"] = _check_url("token_endpoint", endpoint, self._allow_http)
        except (TypeError, ValueError) as error:
            raise OAuthMalformedResponse(f"{url}: {error}; is issuer right?") from None
        return metadata

    def _request(self, method: str, secret: str, deadline: float) -> Token:
        """Send one token request (RFC 6749 section 4.4.2) and judge the answer."""
        request = self._build(method, secret)
        requested_at = time.time()
        reply = self._send(request, deadline)
        return _judge(request, reply, requested_at, self.scope)

    def _algorithm(self) -> str:
        """Return the algorithm for client_secret_jwt: one that the issuer lists, else HS256."""
        listed = self._metadata.get("token_endpoint_auth_signing_alg_values_supported")
        for algorithm in ("HS256", "HS384", "HS512"):
            if isinstance(listed, list) and algorithm in listed:
                return algorithm
        return "HS256"

    def _build(self, method: str, secret: str) -> _TokenRequest:
        """Make a token request that proves who the client is (RFC 6749 section 2.3)."""
        url = self.token_url or self._metadata["token_endpoint"]
        fields = list(self._fields)
        headers = dict(self._token_headers)
        values = [value for name, value in fields if re.search(_SECRET_FIELDS, name.lower())]
        for value in headers.values():
            values += [value, value.rpartition(" ")[2]]
        secrets = [secret, *(value for value in values if len(value) >= _SHORTEST_SECRET)]
        if method.startswith("client_secret_basic"):
            user, password = self.client_id, secret
            # Deviation: client_secret_basic_raw is for servers that do not decode.
            if method == "client_secret_basic":
                # Section 2.3.1. A space as %20, since servers read + differently.
                user = urllib.parse.quote(user, "")
                password = urllib.parse.quote(password, "")
            basic = base64.b64encode(f"{user}:{password}".encode()).decode()
            headers["Authorization"] = "Basic " + basic
            secrets.append(basic.rstrip("="))
        else:
            fields.append(("client_id", self.client_id))
        if method == "client_secret_post":
            fields.append(("client_secret", secret))
        if method.endswith("_jwt"):
            assertion = secret
            if method == "client_secret_jwt":
                audience = self._assertion_audience or self.issuer or url
                assertion = _sign(self.client_id, secret, audience, self._algorithm())
            fields.append(("client_assertion_type", _JWT_BEARER))
            fields.append(("client_assertion", assertion))
            secrets += [assertion, *assertion.split(".")]
        data = urllib.parse.urlencode(fields).encode()
        return _TokenRequest(url, data, headers, _spellings(*secrets))

    def _send(self, token_request: _TokenRequest, deadline: float) -> _Reply:
        """Send a request to the authorisation server and return its answer, whatever the status."""
        headers = {"Accept": "application/json", "User-Agent": _USER_AGENT}
        for name, value in list(self.headers.items()):
            if name.lower() == "user-agent":
                headers["User-Agent"] = value
        headers.update(token_request.headers)
        request: Any = urllib.request.Request(token_request.url, token_request.data, headers)
        request.deadline = deadline
        name = "issuer"
        if self.issuer is None:
            name = "token_url"
        try:
            with self._opener.open(request) as answer:
                return _Reply(answer.status, answer.headers, _read_all(answer, _ANSWER_LIMIT))
        except urllib.error.URLError as error:
            text = _clean(error, token_request.secrets)
            if isinstance(error, _ProtocolError):
                raise OAuthMalformedResponse(f"{text}; is {name} right?") from None
            if not _is_lasting(error):
                text += f"; is {name} right, and reachable from here?"
            raise OAuthTransportError(text) from error


def _own_handler(handler: Any) -> Any:
    """Return a user's handler for an opener of ours, since a handler can belong to one only."""
    import copy

    if isinstance(handler, type):
        handler = handler()
    # The methods of a stock one are bound to the original, also in a copy.
    if type(handler) is urllib.request.ProxyHandler:
        return _ProxyHandler(handler.proxies)  # type: ignore[attr-defined]
    return copy.copy(handler)


def _token_opener(handlers: Iterable[Any], pool: _Pool) -> urllib.request.OpenerDirector:
    """Return the opener for token requests: it follows no redirect and keeps no cookie."""
    users = map(_own_handler, handlers)
    proxies = [one for one in users if isinstance(one, urllib.request.ProxyHandler)]
    if not proxies:
        proxies.append(_ProxyHandler())
    opener = urllib.request.OpenerDirector()
    for handler in (*proxies, _HTTPHandler(pool), _HTTPSHandler(pool)):
        opener.add_handler(handler)
    return opener


def _plain_text(name: str, value: Any, hint: str = "") -> str:
    """Return a setting as text; TypeError or ValueError that names it."""
    text = _text(value, name, hint)
    if not text:
        raise ValueError(f"{name} is empty{hint}")
    if not text.isprintable():
        raise ValueError(f"{name} has control characters, such as a line end: take them off")
    return text


def _texts(name: str, value: Any) -> list[str]:
    """Return a setting that is one text or several as a list."""
    if not value:
        return []
    if isinstance(value, (str, bytes)):
        value = [value]
    texts = [_plain_text(name, one) for one in value]
    if isinstance(value, (set, frozenset)):
        texts.sort()
    return texts


def _choose_method(method: str | None, name: str, secret: Any) -> str | None:
    """Return the client authentication method, or None if it is to be found out.

    name: client_secret or client_assertion, whichever the secret is.
    """
    if method is None:
        if secret is None:
            raise ValueError(f"client_secret is missing{_NO_SECRET}")
        if name == "client_assertion":
            return "private_key_jwt"
        return None
    if method not in _METHODS:
        raise ValueError(f"auth_method must be one of {', '.join(_METHODS)}, or None to find out")
    needed = _METHODS[method]
    if secret is None and needed:
        raise ValueError(f"auth_method={method!r} needs {needed}=")
    if secret is not None and needed != name:
        raise _contradiction(name, f"auth_method={method!r}", name)
    return method


def _check_secret(name: str, secret: Any) -> str:
    """Return a client_secret or client_assertion as text, or raise an error that hides it."""
    text = _plain_text(name, secret, _NO_SECRET)
    if text.startswith(("https://", "http://")):
        raise ValueError(f"{name} looks like a URL{_ORDER}")
    return text


def _sign(client_id: str, secret: str, audience: str, algorithm: str) -> str:
    """Return a JWT that proves who the client is (RFC 7523). Servers accept each one once."""
    import hmac

    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    now = int(time.time())
    header = {"alg": algorithm, "typ": "JWT"}
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "iat": now,
        "exp": now + _ASSERTION_LIFE,
        "jti": os.urandom(16).hex(),
    }
    message = encode(json.dumps(header).encode()) + "." + encode(json.dumps(claims).encode())
    signature = hmac.new(secret.encode(), message.encode(), "sha" + algorithm[2:]).digest()
    return message + "." + encode(signature)


def _judge(request: _TokenRequest, reply: _Reply, requested_at: float, scope: str | None) -> Token:
    """Return the Token of an answer, or raise what it means (RFC 6749 sections 5.1 and 5.2)."""
    media_type = reply.headers.get("Content-Type", "no Content-Type")
    problem = ""
    mapping: dict[str, Any] = {}
    try:
        mapping = _parse_object(reply.body, media_type)
    except ValueError as error:
        problem = str(error)
    tokens = ("access_token", "refresh_token", "id_token")
    secrets = _spellings(*(str(mapping.get(name) or "") for name in tokens))
    secrets += request.secrets
    said = {}
    for name in ("error", "error_description", "error_uri"):
        value = mapping.get(name)
        if value and isinstance(value, str):
            said[name] = value if value in ERRORS_BY_CODE else _clean(value, secrets)

    if 200 <= reply.status < 300 and "error" not in said and not problem:
        mapping.setdefault("scope", scope)  # may be left out if it is what was asked for
        for name in ("scope", "token_type"):
            if "***" in _clean(mapping.get(name), secrets):
                mapping[name] = "***"  # texts may show it
        try:
            return Token.from_response(mapping, requested_at)
        except OAuthMalformedResponse as error:
            problem = _clean(error, secrets)
    if 300 <= reply.status < 400:
        location = _clean(reply.headers.get("Location"), secrets)
        problem = f"it redirects to {location!r}, which is not followed"

    kind = _kind_of(reply.status, said.get("error"))
    detail = ": ".join(said.values())
    if not detail:
        shown = _clean(media_type, secrets, 80)
        problem = problem or "no error code"
        detail = f"{problem} ({shown}, {len(reply.body)} bytes)"
    raise kind(
        f"{_place(request.url)} answered {reply.status} - {detail}; {kind._advice}",
        status=reply.status,
        headers=_clean_headers(reply.headers, secrets),
        retry_after=_retry_after(reply.headers),
        **said,
    )


def _kind_of(status: int, code: Any) -> type[OAuthResponseError]:
    """Return the class of a refusal (RFC 6749 section 5.2)."""
    # Deviation: Auth0 says 401 access_denied, ServiceNow server_error, Keycloak
    # unauthorized_client.
    if status == 401 and code not in _CERTAIN_AT_401:
        return OAuthInvalidClient
    if status in _BUSY:
        return OAuthTemporarilyUnavailable
    if status >= 500:
        return OAuthServerError
    if code is None and status < 400:
        return OAuthMalformedResponse
    if code is None and status == 403:
        return OAuthInvalidClient
    return ERRORS_BY_CODE.get(code, OAuthResponseError)


def _is_client_refused(error: OAuthResponseError) -> bool:
    """Return whether another authentication method may be accepted."""
    if error.status == 403 and error.error not in ERRORS_BY_CODE:
        return True
    # Deviation: servers that do not know Basic say invalid_request.
    return isinstance(error, (OAuthInvalidClient, OAuthInvalidRequest))


def _is_lasting(error: Any) -> bool:
    """Return whether a failure of the transport stays until somebody changes a setting."""
    reason = getattr(error, "reason", None)
    return isinstance(error, _ProxyError) or isinstance(reason, ssl.CertificateError)


def _is_transient(error: OAuthError) -> bool:
    """Return whether the same request may succeed in a moment."""
    if isinstance(error, OAuthTransportError):
        return not _is_lasting(error.__cause__)
    return isinstance(error, (OAuthTemporarilyUnavailable, OAuthServerError))


def _parse_object(body: bytes, content_type: str = "") -> dict[str, Any]:
    """Return the JSON object of a body; ValueError that says why there is none."""

    def number(digits: str) -> float:
        if len(digits) < 20:
            return int(digits)
        return float(digits)  # int() may refuse, or take minutes

    if not body:
        raise ValueError("the body is empty")
    try:
        parsed = json.loads(_decode(body, content_type), parse_int=number)
    except (ValueError, RecursionError):
        raise ValueError("the body is not JSON") from None
    if not isinstance(parsed, dict):
        raise ValueError("the body is not a JSON object")
    return parsed


def _seconds_of_date(text: Any) -> float:
    """Return an HTTP date (RFC 9110 section 5.6.7) in seconds since the epoch; or ValueError."""
    try:
        return email.utils.mktime_tz(email.utils.parsedate_tz(text))
    except Exception:  # of many kinds, and not the same in each Python
        raise ValueError("not an HTTP date") from None


def _retry_after(headers: http.client.HTTPMessage) -> float | None:
    """Return the seconds of a Retry-After header, at most 300, or None (RFC 9110, 10.2.3)."""
    text = headers.get("Retry-After", "").strip()
    try:
        if text.isdecimal():
            wait = float(text)
        else:
            # By the server's own clock if it shows it: ours may differ by more than the wait.
            now = time.time()
            if "Date" in headers:
                now = _seconds_of_date(headers["Date"])
            wait = _seconds_of_date(text) - now
    except ValueError:
        return None
    return min(max(wait, 0.0), _RETRY_AFTER_LIMIT)


# ---- Caches: FileCache, and how any cache is asked without harm ----------------------------------

# Seconds that a cache which failed is left alone: longer than a fetch that hangs in it.
_CACHE_REST = 60.0
_CACHE_POLL = 0.05  # seconds between two looks while another process fetches
# How long to wait for the fetch of another process: a random part of what ours may take.
_CACHE_PATIENCE = 0.3, 0.5
_LONGEST_ENTRY = 30 * 86400  # seconds; memcached takes a greater number for a date
_AHEAD_LIMIT = 300.0  # seconds that the clock of another machine may be ahead

_FORK_AWARE: weakref.WeakSet[Any] = weakref.WeakSet()  # what must know when it is in a forked child


def _after_fork() -> None:
    for one in list(_FORK_AWARE):
        one._start_anew()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)


class FileCache:
    """A cache that the processes of one user on one machine share: a
    directory with one file for each token.

    directory: a path; `~` is expanded. It is made with mode 0700 at first
    use. Files have mode 0600, and are written whole or not at all.

    Nothing is trusted that another user owns or could write, and no
    symbolic link is followed. The methods do I/O and raise OSError, which
    a TokenSource logs; it then works without the cache. Threads may share
    it.
    """

    def __init__(self, directory: str | bytes | os.PathLike[Any]) -> None:
        path = os.path.expanduser(os.fsdecode(directory))
        if not path:
            raise ValueError("cache must name a directory, and not be empty")
        self.directory = path if path.startswith("~") else os.path.abspath(path)

    def get(self, key: str) -> bytes | None:
        """Return what was set, or None if nothing is there that can be
        read."""
        path = self._path(key)
        try:
            with open(path, "rb", opener=_open_private) as file:
                return file.read(_ANSWER_LIMIT)
        except (FileNotFoundError, PermissionError):  # set() will put another file in its place
            return None

    def set(self, key: str, value: str, seconds: int) -> None:
        """Keep a text. seconds is ignored: the text says by itself how
        long it is good."""
        import tempfile  # urllib has imported it already

        path = self._path(key)
        number, temporary = tempfile.mkstemp(dir=self.directory)  # mode 0600
        try:
            with open(number, "wb") as file:
                file.write(value.encode())
                file.flush()
                os.fsync(number)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise

    def lock(self, name: str, timeout: float | None = None) -> _FileLock:
        """Return a lock with acquire() and release(). The system frees it
        when its holder dies, so timeout is ignored."""
        return _FileLock(self._path(name))

    def _path(self, key: str) -> str:
        if self.directory.startswith("~"):
            raise FileNotFoundError(f"there is no home directory for {self.directory}")
        os.makedirs(self.directory, 0o700, exist_ok=True)
        _check_private(self.directory, os.lstat(self.directory), stat.S_ISDIR)
        return os.path.join(self.directory, urllib.parse.quote(key, ""))


class _FileLock:
    """Lock out other threads and processes. The file stays: removing it would let two in."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._number: int | None = None  # of the open file, while the lock is held
        _FORK_AWARE.add(self)

    def acquire(self, blocking: bool = False) -> bool:
        """Return whether the lock is held now; never wait."""
        number = _open_private(self._path, os.O_RDWR | os.O_CREAT)
        if not _lock_file(number, True):
            os.close(number)
            return False
        self._number = number
        return True

    def release(self) -> None:
        """Free the lock if it is held."""
        if self._number is not None:
            # Closing the file would not free it while a forked child still has it open.
            _lock_file(self._number, False)
            self._start_anew()

    def _start_anew(self) -> None:
        """Close the file: in a forked child the lock is the parent's, and must not outlive it."""
        if self._number is not None:
            os.close(self._number)
            self._number = None


def _lock_file(number: int, on: bool) -> bool:
    """Lock or unlock an open file; return False if another process or thread holds the lock."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(number, msvcrt.LK_NBLCK if on else msvcrt.LK_UNLCK, 1)
        else:
            import fcntl

            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB if on else fcntl.LOCK_UN)
    except (BlockingIOError, PermissionError):  # flock raises the one, Windows the other
        return False
    except (ImportError, OSError):  # a system or file system without locks does without
        pass
    return True


def _open_private(path: str, flags: int) -> int:
    """Open a regular file of ours: a pipe could make us wait for ever, a link lead elsewhere."""
    for name in ("O_NOFOLLOW", "O_NONBLOCK"):
        flags |= getattr(os, name, 0)
    number = os.open(path, flags, 0o600)
    try:
        _check_private(path, os.fstat(number), stat.S_ISREG)
    except OSError:
        os.close(number)
        raise
    return number


def _check_private(path: str, status: os.stat_result, is_kind: Callable[[int], bool]) -> None:
    """Refuse what is of another kind, and what another user owns or could write to."""
    if not is_kind(status.st_mode):
        raise PermissionError(
            f"{path} is a symbolic link or of an unexpected kind: use another path"
        )
    # Windows has no such modes.
    if hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        raise PermissionError(
            f"{path} is not trusted, since other users own it or could write to it: chmod 700"
        )


class _SharedCache:
    """Use any cache without harm: log its errors, and then leave it alone for a while."""

    def __init__(self, cache: Any, key: str | None, fetch: Any) -> None:
        import hashlib  # urllib has imported it already

        self.cache = FileCache(cache) if isinstance(cache, (str, bytes, os.PathLike)) else cache
        if not (hasattr(self.cache, "get") and hasattr(self.cache, "set")):
            raise TypeError(
                "cache must be a path, or an object with get(key) and set(key, value, seconds)"
            )
        if key is None:
            key = getattr(fetch, "cache_key", None)
        if not isinstance(key, str) or not key:
            raise ValueError("cache_key must say what is shared, if fetch is a callable of yours")
        self.key = "oauth_session-" + hashlib.sha256(key.encode()).hexdigest()
        try:
            self.can_lock = callable(self.cache.lock)
        except Exception:  # diskcache.FanoutCache raises AssertionError
            self.can_lock = False
        self.failed: Moment = _LONG_AGO
        self.had_nonsense = False

    def attempt(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a method of the cache or its lock; return None if it fails, or one failed lately."""
        if _since(self.failed) < _CACHE_REST:
            return None
        self.failed = _now()  # a call that hangs has failed, too: the next fetch does without
        try:
            result = method(*arguments, **options)
        except Exception as error:
            # The text of an error that is not ours may show the token.
            shown = _clean(error) if isinstance(self.cache, FileCache) else type(error).__name__
            what = "the shared cache fails, and is left alone for %d s: %s"
            _log("warning", what, _CACHE_REST, shown)
            return None
        self.failed = _LONG_AGO
        return result

    def find_or_lock(
        self, accept: Callable[[Token, Moment], _KeptToken | None], limit: float
    ) -> tuple[_KeptToken | None, Any]:
        """Look for a token, take the lock, and look again.

        Return the token, or None if one is to be fetched; and the lock, or None if it is not held.
        """
        kept = self.read(accept)
        if kept is not None or not self.can_lock:
            return kept, None
        lock = self.attempt(self.cache.lock, self.key + ".lock", timeout=limit)
        deadline = time.monotonic() + limit * random.uniform(*_CACHE_PATIENCE)
        while lock is not None:
            held = self.attempt(lock.acquire, blocking=False)
            kept = self.read(accept)  # the one who held the lock before us may have left a token
            if held:
                return kept, lock
            if kept is not None or held is None or time.monotonic() >= deadline:
                break
            time.sleep(_CACHE_POLL)
        return kept, None

    def read(self, accept: Callable[[Token, Moment], _KeptToken | None]) -> _KeptToken | None:
        """Return the token in the cache if it is accepted; judge it like a fresh answer."""
        value = self.attempt(self.cache.get, self.key)
        if value is None:
            return None
        wall, steady = _now()
        try:
            if isinstance(value, str):
                value = value.encode()
            entry = _parse_object(bytes(memoryview(value)))
            obtained = _seconds(entry.get("obtained_at"))
            if obtained is None or obtained > wall + _AHEAD_LIMIT:
                raise ValueError("no time, or one in the future")
            if entry.get("expires_in") is not None and _seconds(entry["expires_in"]) is None:
                raise ValueError("no life")
            elapsed = max(0.0, wall - obtained)  # a clock that is ahead must not prolong its life
            token = Token.from_response(entry, wall - elapsed)
        except (TypeError, ValueError, OAuthMalformedResponse):
            if not self.had_nonsense:
                self.had_nonsense = True
                _log("warning", "what the shared cache holds makes no sense, and is not used")
            return None
        return accept(token, (obtained, steady - elapsed))

    def store_and_release(self, kept: _KeptToken | None, lock: Any) -> None:
        """Write a token that was fetched, as the answer that would make it; release the lock."""
        if kept is not None and kept.read_at is None:
            token = kept.token
            entry = {
                "access_token": token.access_token,
                "token_type": token.token_type,
                "scope": token.scope,
                "expires_in": None if token.expires_at is None else kept.life,
                "refresh_in": _seconds((token.raw or {}).get("refresh_in")),
                "obtained_at": kept.requested[0],
            }
            seconds = min(max(1, int(kept.left())), _LONGEST_ENTRY)
            self.attempt(self.cache.set, self.key, json.dumps(entry), seconds)
        if lock is not None:
            try:
                lock.release()
            except Exception:  # it has a time-out, which may have passed
                pass


# ---- TokenSource: keeps the token and renews it, one fetch at a time -----------------------------

_FETCH_LIMIT = 30.0  # seconds that a fetch without a `timeout` of its own may take
_ANSWER_GRACE = 0.2  # seconds beyond a caller's time-out, for the error of the fetch to arrive
_FETCH_GRACE = 2.0  # seconds beyond the limit of a fetch, for what no deadline covers
_FORCED_EVERY = 60.0  # seconds; an API that answers 401 for ever costs one fetch in this time
_LONGEST_PAUSE = 60.0  # seconds between the attempts of a fetch that keeps failing
# Seconds that a DUE token of a shared cache is used before its renewal: short scripts end first.
_READ_HOLD = 5.0


class _Fetch:
    """A fetch under way, in a thread of its own. All who need its token wait for `done`."""

    def __init__(self, background: bool, forced: bool = False) -> None:
        self.background = background  # a DUE token is renewed: no caller is told of a failure
        self.forced = forced  # an API refused the token
        self.since = _now()
        self.thread: int | None = None  # that runs it
        self.done = threading.Event()
        self.token: Token | None = None
        self.error: Exception | None = None


class TokenSource:
    """Keeps a token and renews it in time (RFC 6749 section 4.4: by the
    same grant again). Threads may share it.

    fetch: a callable that returns a Token, such as ClientCredentials. It
    is called in a thread of its own, one at a time.
    refresh_before: seconds before its end at which a token is DUE, at most
    half of its life; default 300. A `refresh_in` of the server's answer
    takes precedence over it.
    cache: a directory to share the token with other processes (see
    FileCache), or an object with get(key) and set(key, value, seconds),
    such as redis.Redis(). With lock(name, timeout=...) too, one process
    fetches for all. It holds the token in plain text.
    cache_key: a text that says what is shared; default: a hash of the
    settings and the secret of ClientCredentials.

    A FRESH or DUE token is returned at once; a DUE one is renewed in the
    background meanwhile. Without one, callers wait for the fetch that is
    under way, or start one. Each fetch runs in a daemon thread of its own:
    it looks into the cache, else obtains a token, and writes it there.
    Token or error is for all who wait. After its deadline, a clear() or a
    fork, the token of a fetch goes to those who wait, and is not kept.
    """

    def __init__(
        self,
        fetch: Callable[[], Token],
        *,
        cache: Any = None,
        cache_key: str | None = None,
        refresh_before: float = 300.0,
    ) -> None:
        if not callable(fetch):
            raise TypeError(
                f"fetch must be a callable that returns a Token, not {type(fetch).__name__}"
            )
        if not (isinstance(refresh_before, (int, float)) and 0 <= refresh_before <= _LONGEST_LIFE):
            raise ValueError("refresh_before must be a number of seconds, 0 or more")
        self._fetch = fetch
        self._refresh_before = refresh_before
        self._cache = None if cache is None else _SharedCache(cache, cache_key, fetch)
        self._kept: _KeptToken | None = None  # replaced as a whole, and read without the lock
        self._newer_than = 0.0  # wall clock; what the shared cache has from before is not taken
        self._start_anew()
        _FORK_AWARE.add(self)

    def _start_anew(self) -> None:
        """Start with the token alone, also after a fork: no thread of the parent frees its lock."""
        # Guards all writes of the fields; never held while foreign code runs. An RLock, since the
        # garbage collector may run a finalizer that uses the source in the thread that holds it.
        self._lock = threading.RLock()
        self._forget()

    def _forget(self) -> None:
        self._under_way: _Fetch | None = None
        self._refused = ""  # the last token that an API refused
        self._forced: Moment = _LONG_AGO  # when a refused token was last replaced by a fetch
        self._backoff = 0.0  # seconds to pause after the next failure: 0, 1, 2, 4 ... 60
        self._pause_end: Moment = _LONG_AGO
        self._failed: _Fetch | None = None  # in a pause, callers without a token get its error

    def __repr__(self) -> str:
        # Of another callable the name alone: a functools.partial would show its arguments.
        known = isinstance(self._fetch, ClientCredentials)
        return f"TokenSource({self._fetch if known else type(self._fetch).__name__!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a TokenSource cannot be pickled: make it anew from its settings")

    def token(self, timeout: float | None = None) -> Token:
        """Return a token that has not expired, fetching one if necessary.

        timeout: seconds to wait for it; default: as long as a fetch may
        take. Raises OAuthError if none can be had, and what fetch raises.
        """
        return self._ready() or self._obtain(timeout)

    def authorization(self) -> str:
        """Return the value of an Authorization header, "Bearer ...", for
        another HTTP client. Like token(), it may fetch, and raise."""
        return f"Bearer {self.token().access_token}"

    def reject(self, token: Token | str, timeout: float | None = None) -> Token:
        """Say that an API answered 401 to this token, and return the one
        to use now.

        That is another one, of the cache or fetched if necessary. It is
        the same one if a refused token was replaced within the last
        minute, or in a pause after failures: then the 401 stands. timeout:
        as for token(). Raises what token() raises.
        """
        refused = token if isinstance(token, Token) else Token(token)
        return self._obtain(timeout, refused.access_token)

    def clear(self) -> None:
        """Forget token, errors and pauses. A fetch under way serves those
        who wait for it, and its token is not kept."""
        with self._lock:
            self._forget()
            self._newer_than = max(time.time(), self._newer_than)
            if self._kept is not None:
                self._refused = self._kept.token.access_token
                self._kept = None

    @property
    def _limit(self) -> float:
        return getattr(self._fetch, "timeout", None) or _FETCH_LIMIT

    def _ready(self) -> Token | None:
        """Return the token unless it has expired; start to renew one that is due."""
        kept = self._kept
        if kept is None:
            return None
        age = kept.age()
        if age == DUE:
            self._renew(kept)
        return None if age == EXPIRED else kept.token

    def _renew(self, kept: _KeptToken) -> None:
        if kept.read_at is not None and _since(kept.read_at) < _READ_HOLD:
            return
        with self._lock:
            if self._kept is not kept or self._is_pausing() or self._current() is not None:
                return
            fetch = self._under_way = _Fetch(background=True)
        self._start(fetch)

    def _obtain(self, timeout: float | None, refused: str = "") -> Token:
        """Return a token other than the refused one: wait for the fetch under way, or start one."""
        end = float("inf")
        if timeout is not None:
            # A fetch with the same time-out ends before, and says why.
            end = time.monotonic() + timeout + _ANSWER_GRACE
        while True:
            with self._lock:
                self._refused = refused or self._refused
                fetch = self._current()
                token = self._usable(refused, fetch)
                if token is not None:
                    return token
                if fetch is None and self._is_pausing():
                    fetch = self._failed
                starts = fetch is None
                if fetch is None:
                    fetch = self._under_way = _Fetch(background=False, forced=refused != "")
            if starts:
                self._start(fetch)
            self._wait(fetch, end)
            if fetch.token is not None:
                return fetch.token
            token = self._ready()  # of a later fetch, if this one is dead
            if token is not None and token.access_token != refused:
                return token
            if not fetch.done.is_set():
                within = self._limit if timeout is None else timeout
                raise OAuthTransportError(
                    f"no token came within {within:g} s; is token_url slow, or a shared cache?"
                )
            # The error of a renewal in the background is not for callers: they fetch by themselves,
            # unless the server asked for a pause.
            if not fetch.background or fetch is self._failed:
                raise _copy(fetch.error)

    def _usable(self, refused: str, fetch: _Fetch | None) -> Token | None:
        """With the lock held: return the token that serves at once, or None."""
        kept = self._kept
        too_soon = False
        if kept is not None and kept.age() != EXPIRED:
            if kept.token.access_token != refused:
                return kept.token  # another thread was faster
            too_soon = _since(self._forced) < _FORCED_EVERY
        if refused and fetch is None and (too_soon or self._is_pausing()):
            return Token(refused)
        return None

    def _current(self) -> _Fetch | None:
        """With the lock held: return the fetch under way; one past its deadline is dead."""
        fetch = self._under_way
        if fetch is None or fetch.done.is_set() or self._left(fetch) <= 0:
            return None
        # In an interpreter that shuts down no other thread runs again.
        if sys.is_finalizing() and fetch.thread != threading.get_ident():
            return None
        return fetch

    def _left(self, fetch: _Fetch) -> float:
        """Return the seconds until the fetch is dead: its process was frozen, or it hangs."""
        return self._limit + _FETCH_GRACE - _since(fetch.since)

    def _is_pausing(self) -> bool:
        return _since(self._pause_end) < 0

    def _wait(self, fetch: _Fetch, end: float) -> None:
        """Wait until the fetch is done or dead, up to a monotonic time."""
        if fetch.thread == threading.get_ident() and not fetch.done.is_set():
            who = "a secret callable, fetch callable or log handler"
            raise OAuthError(
                f"{who} must not use the session that it serves: its token is being fetched"
            )
        # By the steady clock: the other one may be set meanwhile.
        dead = fetch.since[1] + self._limit + _FETCH_GRACE
        fetch.done.wait(min(dead, end) - time.monotonic())

    def _start(self, fetch: _Fetch) -> None:
        """Run the fetch in a daemon thread; in this one if no thread can be started."""
        if sys.is_finalizing():  # no thread runs any more, and nothing can be imported
            self._run(fetch)
            return
        import contextvars

        thread = threading.Thread(
            target=contextvars.copy_context().run,  # for what traces the caller's requests
            args=(self._run, fetch),
            name="oauth_session token request",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError:
            self._run(fetch)

    def _run(self, fetch: _Fetch) -> None:
        """Take the token from the shared cache, or fetch, keep and share one; wake all who wait."""
        fetch.thread = threading.get_ident()
        kept: _KeptToken | None = None
        lock: Any = None
        try:
            if self._cache is not None:
                kept, lock = self._cache.find_or_lock(self._accept, self._limit)
            if kept is None:
                kept = self._fetched(fetch)
            fetch.token = kept.token
        except Exception as error:
            fetch.error = error
        except BaseException as error:  # the thread is to end, or Ctrl-C if it is the caller's
            fetch.error = OAuthError(f"the token request was interrupted: {type(error).__name__}")
            raise
        finally:
            with self._lock:
                if self._current() is fetch:
                    self._finish(fetch, kept)
                else:
                    kept = None
            try:
                # Before the callers go on: a short script may end then, and this thread with it.
                if self._cache is not None:
                    self._cache.store_and_release(kept, lock)
            finally:
                fetch.done.set()
        if fetch.background and fetch.error is not None:
            shown: object = fetch.error
            if not isinstance(shown, OAuthError):  # its text is not ours to show
                shown = type(shown).__name__
            _log("warning", "renewal failed, the old token stays in use: %s", shown)

    def _fetched(self, fetch: _Fetch) -> _KeptToken:
        fetch.since = _now()  # the shared cache may have taken its time
        if fetch.forced:
            with self._lock:
                self._forced = fetch.since
        try:
            token = self._fetch()
        except urllib.error.HTTPError as error:  # must not be taken for the API's answer
            raise OAuthError(
                f"what the token depends on got an HTTP status: {error.code}"
            ) from error
        if not isinstance(token, Token):
            raise TypeError(f"fetch must return a Token, not {type(token).__name__}")
        kept = _KeptToken(token, fetch.since, self._refresh_before)
        if kept.left() <= 0:
            raise OAuthMalformedResponse(
                "the token had expired before it arrived: compare the clocks"
            )
        return kept

    def _accept(self, token: Token, requested: Moment) -> _KeptToken | None:
        """Return a token of the shared cache to be kept, unless this process is done with it."""
        if requested[0] <= self._newer_than or token.access_token == self._refused:
            return None
        kept = _KeptToken(token, requested, self._refresh_before)
        kept.read_at = _now()
        return None if kept.age() == EXPIRED else kept

    def _finish(self, fetch: _Fetch, kept: _KeptToken | None) -> None:
        """With the lock held: keep the token, or decide when the next fetch may start."""
        if kept is not None:
            before = self._kept
            if before is not None and before.token.access_token == kept.token.access_token:
                kept.continue_windows(before)
            elif self._cache is not None and not self._cache.can_lock:
                # Only chance keeps many processes from renewing it all at once.
                spread = kept.due_window - kept.expired_window
                kept.due_window -= random.uniform(0.0, 0.5) * spread
            self._backoff = 0.0
            self._pause_end = _LONG_AGO
            self._kept = kept
            self._newer_than = kept.requested[0]
            return
        if fetch.background:  # the token still serves, so there is no hurry
            self._backoff = max(self._backoff, 1.0)
        pause = self._backoff * random.uniform(0.5, 1.0)
        self._backoff = min(max(2 * self._backoff, 1.0), _LONGEST_PAUSE)
        self._failed = None if fetch.background else fetch
        if isinstance(fetch.error, OAuthResponseError):
            asked = _seconds(fetch.error.retry_after)
            if asked is not None:
                pause = min(asked, _RETRY_AFTER_LIMIT)
                self._failed = fetch
        wall, steady = _now()
        self._pause_end = wall + pause, steady + pause


def _copy(error: Any) -> Any:
    """Copy an error for each who gets it: the traceback of one that is raised again grows."""
    import copy

    try:
        # The traceback says where in a fetch callable it came from.
        duplicate = copy.copy(error).with_traceback(error.__traceback__)
        duplicate.__cause__ = error.__cause__
    except Exception:  # of another kind than ours
        duplicate = OAuthError(f"the token could not be obtained: {type(error).__name__}")
    return duplicate


# ---- OAuthHandler: which requests get the token, what a 401 does, where redirects may go ---------

_LOCATION_LIMIT = 8 << 10  # characters; servers accept no longer URL
_MAX_REDIRECTS = 10  # that one call follows; browsers take 20, urllib 10
# Headers that a redirect may take to another origin.
_GO_ANYWHERE = ("accept", "accept-language", "accept-encoding", "accept-charset", "user-agent")
_CHALLENGE = (
    # A word is a scheme or, before "=", a parameter of that scheme (RFC 9110 section 11.6.1).
    r"([\w!#$%&'*+.^`|~-]+)"
    r'(?:[ \t]*(=)[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*)))?|"(?:[^"\\]|\\.)*"?'
)


class _Call:
    """What an OAuthHandler remembers of a call: of the Request, its redirects and its replay."""

    def __init__(self, origins: Collection[Any], start: int | None) -> None:
        # Those that may see the token; none any more once a redirect has left them.
        self.origins = origins
        self.start = start  # the position of the body, if it is a file
        self.sent = ""  # the token that went with the last request
        self.tokens: list[str] = []  # all that were sent, which no text may show
        self.redirects = 0
        self.replayed = False


class _Request(urllib.request.Request):
    """A Request that belongs to us: the caller's is never changed."""

    any_status = False  # whether the caller wants the answer whatever its status
    caller_headers: Any = None  # headers and unredirected_hdrs, before handlers add theirs
    timeout: Any

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # By OAuthHandler: an opener may have one for each of several APIs.
        self.calls: dict[Any, _Call] = {}


def _continue(before: Any, url: str, data: Any, method: str, caller_headers: Any) -> _Request:
    """Return a new Request of ours for the call that another Request began.

    caller_headers: its headers and unredirected_hdrs, without those that handlers added. The other
    Request must not be changed, and urllib may have put a proxy on it.
    """
    request = _Request(url, data, {}, before.origin_req_host, before.unverifiable, method)
    request.any_status = getattr(before, "any_status", False)
    request.calls = getattr(before, "calls", {})
    request.headers, request.unredirected_hdrs = map(dict, caller_headers)
    request.timeout = before.timeout
    return request


class _CopyHandler(urllib.request.BaseHandler):
    """Gives the other handlers a Request of ours, and keeps the caller's headers for a replay."""

    handler_order = 0  # before all others

    def http_request(self, request: Any) -> Any:
        headers = request.headers, request.unredirected_hdrs
        if not isinstance(request, _Request):
            method = _check_method(request.get_method())
            request = _continue(request, request.full_url, request.data, method, headers)
        if request.caller_headers is None:  # or another handler opens it again, with its own header
            request.caller_headers = tuple(map(dict, headers))
        return request

    https_request = http_request


class OAuthHandler(urllib.request.HTTPRedirectHandler):
    """A handler for `urllib.request.build_opener` that authorises requests
    to some origins, and no others.

    source: a TokenSource. origins: URLs, whose scheme, host and port may
    see the token; their paths are ignored. allow_http: True lifts the rule
    that only loopback may be named without TLS.

    A request elsewhere passes unchanged, and a caller's own Authorization
    header is left alone. It takes the place of urllib's
    HTTPRedirectHandler, which would carry headers to other hosts.
    """

    handler_order = 600  # after handlers that may set an Authorization header for the caller
    follows = True  # False where a handler of the user decides about redirects

    def __init__(self, source: TokenSource, origins: Texts, *, allow_http: bool = False) -> None:
        if not isinstance(source, TokenSource):
            raise TypeError(
                "source must be a TokenSource; around a function that returns a Token, "
                "write TokenSource(function)"
            )
        self._source = source
        self._origins: Collection[Any] | None = _check_origins("origins", origins, allow_http)
        if not self._origins:
            raise ValueError("origins must name at least one URL whose origin may see the token")

    def add_parent(self, parent: urllib.request.OpenerDirector) -> None:
        """Join an opener."""
        super().add_parent(parent)
        parent.add_handler(_CopyHandler())

    def http_request(self, request: Any) -> Any:
        """Put the token on the request if its origin, and every one before
        it, may see it."""
        origin = _origin(request.full_url)
        call = request.calls.get(self)
        if call is None:
            origins = self._origins
            if origins is None:
                # The caller named this URL, unless another handler followed a redirect to it.
                origins = () if request.unverifiable else (origin,)
            call = request.calls[self] = _Call(origins, _position(request.data))
        if origin not in call.origins:
            call.origins = ()  # once left, the token never comes back
        if request.unredirected_hdrs.get("Authorization") == f"Bearer {call.sent}":
            del request.unredirected_hdrs["Authorization"]  # another handler opens it again
        call.sent = ""
        if call.origins and not request.has_header("Authorization"):
            token = self._source._ready()
            if token is None:
                _message_of(request)  # raises ValueError before a token is fetched in vain
                token = self._source.token(_timeout_of(request))
            call.sent = token.access_token
            call.tokens.append(call.sent)
            request.add_unredirected_header("Authorization", "Bearer " + call.sent)
        return request

    https_request = http_request

    def default_open(self, request: Any) -> Any:
        """Send what is for this machine without a proxy: urllib would send
        the token there in plain text."""
        if request.type != "http" or not _is_local(_origin(request.full_url)):
            return None
        if not request.calls[self].origins:
            return None
        for handler in self.parent.handle_open["http"]:  # type: ignore[attr-defined]
            if isinstance(handler, urllib.request.HTTPHandler):
                return handler.http_open(request)
        return None

    def http_error_401(self, request: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """Renew the refused token and send the request again, once.

        Raises OAuthInvalidToken if no other token is to be had or the body
        cannot be sent again, OAuthInsufficientScope if the scope does not
        suffice, and the error of the renewal if that fails. A 400 or 403
        counts only with a Bearer challenge (RFC 6750 section 3).
        """
        call = request.calls[self]
        challenge = _bearer_challenge(headers)
        if not call.sent or (code != 401 and challenge is None):
            return None
        can_repeat = _rewind(request.data, call.start)
        refusal = _refusal(request, fp, code, headers, challenge or {}, call.tokens, can_repeat)
        if code != 400 and isinstance(refusal, OAuthInvalidToken) and not call.replayed:
            try:
                token = self._source.reject(call.sent, _timeout_of(request))
            except Exception as error:
                raise error from refusal
            if token.access_token != call.sent and can_repeat:
                call.replayed = True
                url = request.full_url
                method = request.get_method()
                again = _continue(request, url, request.data, method, request.caller_headers)
                return self.parent.open(again, timeout=again.timeout)
        if request.any_status:
            return refusal  # an HTTPError is an answer, too
        raise refusal

    http_error_400 = http_error_403 = http_error_401

    def http_error_302(self, request: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """Follow a redirect if that leaks nothing; else raise HTTPError
        that says why not.

        Within the origin everything goes along. To another origin go only
        Accept, Accept-* and User-Agent, no body, and the token if that
        origin is named, too.
        """
        call = request.calls[self]
        location = headers.get("Location")
        if location is None or not self.follows:
            return None
        method = request.get_method()
        data = request.data
        if (code == 303 and method != "HEAD") or (code in (301, 302) and method == "POST"):
            method = "GET"
            data = None
        body = _read_error_body(fp)  # to its end, so that the connection can be kept
        try:
            if len(location) > _LOCATION_LIMIT:
                raise ValueError("it is too long")
            # Bytes that are not ASCII are UTF-8, if they mean anything.
            target = location.encode("iso-8859-1").decode("utf-8", "replace")
            url = _encode_url(urllib.parse.urljoin(request.full_url, target))
            before = _origin(request.full_url)
            after = _origin(url)
            if before.scheme == "https" and after.scheme == "http":
                raise ValueError("it leads from https to http")
            if data is not None and after != before:
                raise ValueError("it would take the body to another origin")
            if call.redirects == _MAX_REDIRECTS:
                raise ValueError(f"there were {_MAX_REDIRECTS} before it")
            if not _rewind(data, call.start):
                raise ValueError("the body cannot be sent again")
        except ValueError as error:
            secrets = _spellings(*call.tokens)
            message = f"the redirect to {_clean(location, secrets)!r} was not followed: {error}"
            shown = _clean_headers(headers, secrets)
            raise _HTTPError(message, request.full_url, code, shown, body) from None
        call.redirects += 1
        caller_headers = [
            _following(fields, after == before, data is not None)
            for fields in request.caller_headers
        ]
        following = _continue(request, url, data, method, caller_headers)
        following.unverifiable = True  # for the cookie policy of http.cookiejar
        return self.parent.open(following, timeout=following.timeout)

    http_error_301 = http_error_303 = http_error_307 = http_error_302  # type: ignore[assignment]
    http_error_308 = http_error_302  # type: ignore[assignment]


def _check_origins(name: str, urls: Texts, allow_http: bool) -> frozenset[_Origin]:
    return frozenset(_origin(_check_url(name, url, allow_http)) for url in _texts(name, urls))


def _position(data: Any) -> int | None:
    """Return the position of a body that is a file; None if it cannot be set again."""
    seekable = hasattr(data, "seekable") and data.seekable()
    return data.tell() if seekable else None


def _rewind(data: Any, start: int | None) -> bool:
    """Make a body ready to be sent again; return False if that is impossible."""
    if data is None or isinstance(data, (bytes, bytearray, memoryview, list, tuple)):
        return True
    if start is None:
        return False
    try:
        data.seek(start)
    except (OSError, ValueError):
        return False
    return True


def _following(headers: dict[str, str], same_origin: bool, has_body: bool) -> dict[str, str]:
    """Return those of the caller's headers that go along with a redirect."""
    names = [name for name in headers if same_origin or name.lower() in _GO_ANYWHERE]
    if not has_body:
        about_body = ("content-", "transfer-")
        names = [name for name in names if not name.lower().startswith(about_body)]
    return {name: headers[name] for name in names}


def _read_error_body(fp: Any) -> bytes:
    """Return the body of an answer, at most 1 MiB of it, and close it."""
    try:
        with fp:
            return bytes(fp.read(_ANSWER_LIMIT))
    except (OSError, http.client.HTTPException):
        return b""


def _bearer_challenge(headers: Any) -> dict[str, str] | None:
    """Return the parameters of the Bearer challenge or None; prefer one that has an error."""
    found: list[dict[str, str]] = []
    for line in headers.get_all("WWW-Authenticate", ()):
        current: dict[str, str] = {}
        for name, equals, quoted, plain in re.findall(_CHALLENGE, line[:8192], re.ASCII):
            if equals:
                current.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) or plain)
            elif name:
                current = {}
                if name.lower() == "bearer":
                    found.append(current)
    return max(found, key=lambda challenge: "error" in challenge, default=None)


def _refusal(
    request: Any,
    fp: Any,
    code: int,
    headers: Any,
    challenge: dict[str, str],
    tokens: list[str],
    can_repeat: bool,
) -> OAuthBearerError:
    """Return the exception for an answer that refuses our token (RFC 6750 section 3.1)."""
    secrets = _spellings(*tokens)
    said = {name: _clean(value, secrets) for name, value in challenge.items()}
    error = said.get("error")
    kind = OAuthBearerError
    advice = "see its error_description"
    if error == "insufficient_scope" or (code == 403 and error is None):
        kind = OAuthInsufficientScope
        advice = "have the scope that it needs granted, and ask for it"
    elif code == 401 or error == "invalid_token":
        kind = OAuthInvalidToken
        advice = "is the token meant for this API (scope, audience, issuer)?"
        if not can_repeat:
            advice = (
                "the body cannot be sent again with a new token: give bytes or a file that can seek"
            )
    reason = http.client.responses.get(code, "")
    message = f"{_place(request.full_url)} refused the token: {code} {reason}"
    for name in ("error", "error_description", "scope"):
        if name in said:
            message += f", {name}={said[name]!r}"
    return kind(
        f"{message}; {advice}",
        error=error,
        status=code,
        reason=reason,
        scope=said.get("scope"),
        realm=said.get("realm"),
        url=_clean(request.full_url, secrets, len(request.full_url)),
        headers=_clean_headers(headers, secrets),
        body=_read_error_body(fp),
    )


# ---- OAuthSession: the session and its Response --------------------------------------------------

_NOT_GIVEN: Any = ...  # since None has a meaning
_UNSET: Any = None  # Any, so that type checkers let a subclass set its own value
_CREDENTIALS = (
    "client_id", "client_secret", "scope", "token_url", "issuer", "auth_method",
    "client_assertion", "assertion_audience", "audience", "resource", "token_params",
    "token_headers",
)  # fmt: skip
_KEEPING = ("cache", "cache_key", "refresh_before")
_FROM_ENVIRONMENT = (
    "client_id", "client_secret", "scope", "token_url", "issuer", "auth_method", "audience",
    "resource", "base_url", "cache",
)  # fmt: skip
_SETTINGS = (
    *_CREDENTIALS, *_KEEPING, "base_url", "headers", "timeout", "context", "handlers", "origins",
    "allow_http", "source",
)  # fmt: skip
_INSTEAD = {  # of a name that requests has
    "verify": _PRIVATE_CA,
    "cert": "give OAuthSession(context=...) an ssl.SSLContext with load_cert_chain()",
    "proxies": "set HTTPS_PROXY, or give OAuthSession(handlers=[ProxyHandler({...})])",
    "stream": "use session.open(url), which never reads ahead",
    "allow_redirects": "give OAuthSession(handlers=[...]) an HTTPRedirectHandler "
    "whose redirect_request returns None",
    "auth": "the session adds its token, unless a call has an Authorization header of its own",
    "cookies": "give OAuthSession(handlers=[urllib.request.HTTPCookieProcessor()])",
    "files": "give the multipart body as data=, and its Content-Type in headers=",
    "params": "give params= to each call",
    "hooks": "give OAuthSession(handlers=[...]) a urllib handler with an http_response method",
}


def _refuse(unknown: Mapping[str, object], function: str) -> None:
    """Raise a TypeError for an unknown keyword argument, with advice if requests has it."""
    for name in unknown:
        advice = _INSTEAD.get(name, "is it misspelt?")
        raise TypeError(f"{function}() got an unexpected keyword argument {name!r}; {advice}")


class Response:
    """What an API answered, read to its end. The verbs of OAuthSession
    return it at any HTTP status; it is true below 400.

    status, reason, url (after redirects), headers (their names in any
    case), content (bytes, gzip undone).
    """

    def __init__(self, answer: Any, method: str, decode: bool) -> None:
        self.status: int = answer.code
        self.reason: str = getattr(answer, "reason", "")  # a user's handler may do without
        self.url: str = answer.url
        self.headers: http.client.HTTPMessage = answer.headers
        self.content = _read_all(answer, decode=decode)
        self._method = method
        self._refusal = answer if isinstance(answer, OAuthBearerError) else None

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.reason}>"

    def __bool__(self) -> bool:
        return self.ok

    @property
    def status_code(self) -> int:
        """The status, by the name that requests gives it."""
        return self.status

    @property
    def ok(self) -> bool:
        """Whether the status is below 400."""
        return self.status < 400

    @property
    def text(self) -> str:
        """The body as text, in the charset of its Content-Type, else
        UTF-8; what does not decode is replaced."""
        return _decode(self.content, self.headers.get("Content-Type", ""))

    def json(self) -> Any:
        """Return the body parsed as JSON. Raises ValueError, with status
        and Content-Type, if it is something else."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            # Show no more than a media type: a server may echo the token there.
            kind = re.match(
                r"[a-z]+/[a-z.+-]{1,40}(?![^\s;])", self.headers.get("Content-Type", "")
            )
            raise ValueError(
                f"the body is not JSON but {len(self.content)} bytes of "
                f"{kind[0] if kind else 'no usual Content-Type'}, "
                f"with status {self.status}, from {_place(self.url)}"
            ) from None

    def raise_for_status(self) -> Response:
        """Return the response itself if its status is below 400. Raises
        OAuthBearerError if the token was refused, else HTTPError; both
        have the response as their `response`."""
        import copy

        if self.ok:
            return self
        error: Any = copy.copy(self._refusal)  # a copy, whose body can be read
        if error is None:
            message = _status_message(self._method, self.url, self.status)
            error = _HTTPError(message, self.url, self.status, self.headers, self.content)
        error.response = self
        raise error


class OAuthSession:
    """An API client that is always authorised by OAuth 2.0 client
    credentials (RFC 6749 section 4.4).

    client_id, client_secret: from the authorisation server. The secret may
    be a callable, called for each token request.
    scope: a text, or an iterable of texts.
    token_url: the token endpoint. issuer: instead of it, a URL whose
    metadata name it (RFC 8414, or OpenID Connect discovery).
    base_url: what a URL that is not absolute is appended to. origins:
    URLs. With base_url they say which schemes, hosts and ports may see the
    token; any other URL is a ValueError. Without both, the token goes to
    the origin of each URL that you name.
    auth_method: how the client authenticates: client_secret_basic,
    client_secret_post, client_secret_basic_raw (not percent-encoded),
    client_secret_jwt, private_key_jwt (RFC 7523), tls_client_auth (RFC
    8705) or none. Default: what the issuer lists; else Basic and, if the
    server refuses the client, in the body.
    client_assertion: instead of a secret, a JWT, or a callable that
    returns a new one for each token request. assertion_audience: the `aud`
    of client_secret_jwt; default: issuer, else token_url.
    audience, resource (RFC 8707): one text or several. token_params:
    further form fields of the token request, token_headers: its headers,
    such as the x-api-key of a gateway.
    headers: of each API call; the token request takes only User-Agent.
    timeout: seconds for each network step of a call, and for a whole token
    fetch; default 30. Both may be changed at any time.
    context: an ssl.SSLContext. handlers: urllib handlers for the opener.
    cache, cache_key, refresh_before: as for TokenSource; cache is a
    directory, or redis.Redis() and the like.
    allow_http: True lifts the rule that only loopback is called without
    TLS. source: a TokenSource, instead of credentials and cache.

    Each setting may also be an attribute of a subclass: `class
    AcmeSession(OAuthSession): token_url = "..."`. An argument goes before
    it, also None. Raises ValueError or TypeError for wrong settings; does
    no I/O before the first call. Threads may share a session.
    """

    client_id = client_secret = scope = token_url = issuer = auth_method = client_assertion = _UNSET
    assertion_audience = audience = resource = token_params = token_headers = _UNSET
    cache = cache_key = refresh_before = _UNSET
    base_url = headers = context = handlers = origins = source = _UNSET
    timeout: Any = 30.0
    allow_http: Any = False
    opener: urllib.request.OpenerDirector
    _credentials: ClientCredentials | None = None  # none with source=

    def __init__(
        self, client_id: str | None = _NOT_GIVEN, client_secret: Secret = _NOT_GIVEN,
        scope: Texts = _NOT_GIVEN, token_url: str | None = _NOT_GIVEN, *,
        issuer: str | None = _NOT_GIVEN, base_url: str | None = _NOT_GIVEN,
        auth_method: str | None = _NOT_GIVEN, client_assertion: Secret = _NOT_GIVEN,
        assertion_audience: str | None = _NOT_GIVEN, audience: Texts = _NOT_GIVEN,
        resource: Texts = _NOT_GIVEN, token_params: Any = _NOT_GIVEN,
        token_headers: Mapping[str, Any] | None = _NOT_GIVEN,
        headers: Mapping[str, Any] | None = _NOT_GIVEN, timeout: float | None = _NOT_GIVEN,
        context: ssl.SSLContext | None = _NOT_GIVEN, handlers: Iterable[Any] | None = _NOT_GIVEN,
        cache: Any = _NOT_GIVEN, cache_key: str | None = _NOT_GIVEN,
        refresh_before: float | None = _NOT_GIVEN, origins: Texts = _NOT_GIVEN,
        allow_http: bool = _NOT_GIVEN, source: TokenSource | None = _NOT_GIVEN,
        **unknown: NoReturn,
    ) -> None:  # fmt: skip
        arguments = locals()
        _refuse(unknown, "OAuthSession")
        settings: dict[str, Any] = {}
        for name in _SETTINGS:
            settings[name] = arguments[name]
            if settings[name] is _NOT_GIVEN:
                settings[name] = getattr(self, name)
        settings["handlers"] = list(settings["handlers"] or ())
        self._set_up(settings)

    def _set_up(self, settings: dict[str, Any]) -> None:
        self._pool = _Pool(settings["context"])
        if settings["base_url"] is not None:
            settings["base_url"] = _text(settings["base_url"], "base_url")
        self._origins = _session_origins(
            settings["base_url"], settings["origins"], settings["allow_http"]
        )
        given = [name for name in (*_CREDENTIALS, *_KEEPING) if settings[name] is not None]
        if settings["source"] is None:
            self._credentials = ClientCredentials(
                **{name: settings[name] for name in _CREDENTIALS},
                allow_http=settings["allow_http"],
                handlers=settings["handlers"],
                pool=self._pool,
            )
            keeping = {name: settings[name] for name in _KEEPING if name in given}
            settings["source"] = TokenSource(self._credentials, **keeping)
        elif given:
            raise _contradiction(given[0], "source", given[0])
        for name in ("client_secret", "client_assertion", "token_params", "token_headers"):
            del settings[name]  # so that nothing that shows a session shows them
        self.headers = settings.pop("headers")
        self.timeout = settings.pop("timeout")
        for name, value in settings.items():
            super().__setattr__(name, value)
        super().__setattr__("opener", self._make_opener())

    def _make_opener(self, *extra: Any) -> urllib.request.OpenerDirector:
        theirs = [_own_handler(handler) for handler in self.handlers]

        def are_theirs(kind: type) -> bool:
            return any(isinstance(handler, kind) for handler in theirs)

        if are_theirs(urllib.request.HTTPSHandler):
            raise ValueError("handlers cannot hold an HTTPSHandler: give context= instead")
        # Not build_opener(), which would open files, too.
        opener = urllib.request.OpenerDirector()
        opener.addheaders = [("User-agent", _USER_AGENT)]
        ours = {
            urllib.request.ProxyHandler: _ProxyHandler(),
            urllib.request.UnknownHandler: urllib.request.UnknownHandler(),
            urllib.request.HTTPDefaultErrorHandler: _StatusHandler(),
            urllib.request.HTTPErrorProcessor: urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPHandler: _HTTPHandler(self._pool),
        }
        for kind, handler in ours.items():
            if not are_theirs(kind):
                opener.add_handler(handler)
        follows = not are_theirs(urllib.request.HTTPRedirectHandler)
        https = _HTTPSHandler(self._pool)
        for handler in (*theirs, *extra, https, _SessionHandler(self, follows)):
            opener.add_handler(handler)
        return opener

    @classmethod
    def from_env(
        cls, prefix: str = "OAUTH_", environ: Mapping[str, str] | None = None, **settings: Any
    ) -> OAuthSession:
        """Make a session from environment variables: OAUTH_TOKEN_URL or
        OAUTH_ISSUER, OAUTH_CLIENT_ID, OAUTH_CLIENT_SECRET or
        OAUTH_CLIENT_SECRET_FILE, OAUTH_SCOPE, OAUTH_AUDIENCE,
        OAUTH_RESOURCE (separated by spaces), OAUTH_AUTH_METHOD,
        OAUTH_ASSERTION_FILE, OAUTH_BASE_URL and OAUTH_CACHE. An empty one
        counts as unset. Files are read for each token request.

        prefix: instead of OAUTH_. environ: default os.environ. settings:
        further arguments, which go before the environment. Raises
        ValueError that names the variables.
        """
        environ = _without_rivals(prefix, os.environ if environ is None else environ, settings)
        found: dict[str, Any] = {}
        for name in _FROM_ENVIRONMENT:
            if environ.get(prefix + name.upper()):
                found[name] = environ[prefix + name.upper()]
        if "resource" in found:
            found["resource"] = found["resource"].split()
        for name, variable in (
            ("client_secret", "CLIENT_SECRET_FILE"),
            ("client_assertion", "ASSERTION_FILE"),
        ):
            path = environ.get(prefix + variable)
            if path and name in found:
                raise ValueError(
                    f"{prefix}{name.upper()} and {prefix}{variable} are both set: unset one"
                )
            if path:
                found[name] = _file_reader(prefix + variable, path)
        used = {**found, **settings}

        def is_missing(*names: str) -> bool:
            return not any(used.get(name) or getattr(cls, name) for name in (*names, "source"))

        if is_missing("client_id"):
            raise ValueError(f"{prefix}CLIENT_ID is not set")
        if is_missing("token_url", "issuer"):
            raise ValueError(f"{prefix}TOKEN_URL is not set, nor is {prefix}ISSUER")
        if is_missing("client_secret", "client_assertion", "auth_method"):
            raise ValueError(f"{prefix}CLIENT_SECRET is not set, nor is {prefix}CLIENT_SECRET_FILE")
        try:
            return cls(**used)
        except ValueError as error:
            variables = ", ".join(prefix + name.upper() for name in found if name not in settings)
            raise ValueError(f"{error} (of the environment: {variables or 'nothing'})") from None

    def __setattr__(self, name: str, value: object) -> None:
        if name == "headers":
            value = _check_headers(value)
            if self._credentials is not None:
                self._credentials.headers = value
        elif name == "timeout":
            value = _check_timeout(value)
            if self._credentials is not None:
                # A fetch without limit could hang for ever.
                self._credentials.timeout = value or 30.0
        elif name in _INSTEAD:
            raise AttributeError(f"a session has no {name}: {_INSTEAD[name]}")
        elif name in (*_SETTINGS, "opener") or (
            type(self) is OAuthSession and not name.startswith("_")
        ):
            raise AttributeError(
                f"{name} cannot be set: headers and timeout can, all others of "
                f"{', '.join(_SETTINGS)} are fixed once a session is made"
            )
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.source!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session cannot be pickled: make it anew from its settings")

    def __enter__(self) -> OAuthSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the idle connections. The session can still be used: a
        later call opens new ones."""
        self._pool.close()

    @property
    def access_token(self) -> str:
        """The text of the current token. Like source.token(), this may
        fetch one, and raise OAuthError."""
        return str(self.source.token().access_token)

    def get(self, url: str, params: Any = None, **options: Any) -> Response:
        """Send GET; see request()."""
        return self.request("GET", url, params=params, **options)

    def delete(self, url: str, params: Any = None, **options: Any) -> Response:
        """Send DELETE; see request()."""
        return self.request("DELETE", url, params=params, **options)

    def head(self, url: str, params: Any = None, **options: Any) -> Response:
        """Send HEAD; see request()."""
        return self.request("HEAD", url, params=params, **options)

    def options(self, url: str, params: Any = None, **options: Any) -> Response:
        """Send OPTIONS; see request()."""
        return self.request("OPTIONS", url, params=params, **options)

    def post(self, url: str, data: Any = None, **options: Any) -> Response:
        """Send POST; see request()."""
        return self.request("POST", url, data=data, **options)

    def put(self, url: str, data: Any = None, **options: Any) -> Response:
        """Send PUT; see request()."""
        return self.request("PUT", url, data=data, **options)

    def patch(self, url: str, data: Any = None, **options: Any) -> Response:
        """Send PATCH; see request()."""
        return self.request("PATCH", url, data=data, **options)

    def request(
        self,
        method: str,
        url: str,
        *,
        params: Any = None,
        data: Any = None,
        json: Any = None,
        headers: Mapping[str, Any] | None = None,
        timeout: float | None = _DEFAULT_TIMEOUT,
        **unknown: NoReturn,
    ) -> Response:
        """Send a request with the token and return its Response, whatever
        the HTTP status.

        url: absolute, or what follows base_url. params: a dict, pairs or
        text for the query; a list is repeated, None is left out.
        data: bytes, text (sent as UTF-8), a dict or pairs (as a form), a
        binary file, or an iterable of bytes. json: any JSON value.
        headers: of this call; None takes away one of the session.
        timeout: seconds for each network step and for the wait for a
        token; default: the session's; None: no limit.

        Raises OAuthError if no token can be had, URLError if the API gives
        no answer, HTTPError for a redirect that is not followed, and
        ValueError or TypeError before anything is sent.
        """
        _refuse(unknown, "request")
        body, content_type = _encode_body(data, json)
        url = self._absolute(url, params)
        host = _origin(url).host  # or Request would parse the URL once more
        request = _Request(url, body, {}, host, method=_check_method(method))
        self._add_headers(request, headers, content_type)
        decode = not (request.has_header("Accept-encoding") or request.has_header("Range"))
        if decode:
            request.add_header("Accept-encoding", "gzip")
        request.any_status = True
        with self.opener.open(request, timeout=timeout) as answer:
            return Response(answer, request.get_method(), decode)

    def open(
        self,
        request: str | urllib.request.Request,
        data: Any = None,
        timeout: float | None = _DEFAULT_TIMEOUT,
        *,
        headers: Mapping[str, Any] | None = None,
    ) -> http.client.HTTPResponse:
        """Open a URL or Request with the token, as urllib.request.urlopen
        does, and return the answer to be read and closed.

        data: bytes, a binary file or an iterable of bytes. timeout,
        headers: as for request(). Never reads ahead. Raises HTTPError
        unless the status is 2xx, and what request() raises.
        """
        if isinstance(request, urllib.request.Request):
            ours = _Request(
                self._absolute(request.full_url),
                request.data,
                request.headers,
                method=_check_method(request.get_method()),
            )
            ours.unredirected_hdrs = dict(request.unredirected_hdrs)
        else:
            ours = _Request(self._absolute(request), method="GET")
        if data is not None:
            ours.data = data
            if ours.get_method() == "GET":
                ours.method = "POST"
        self._add_headers(ours, headers)
        answer: http.client.HTTPResponse = self.opener.open(ours, timeout=timeout)
        return answer

    def install(self) -> None:
        """Let every urllib.request.urlopen of this process use the
        session, for the origins of base_url and origins.

        Other URLs get no token; `file:`, `ftp:` and `data:` still work.
        Calls without a time-out get the session's, but not its headers.
        Raises ValueError without base_url and origins.
        """
        if self._origins is None:
            raise ValueError(
                "base_url or origins is needed for install(): other requests must not get the token"
            )
        extra = (
            urllib.request.FileHandler(),
            urllib.request.FTPHandler(),
            urllib.request.DataHandler(),
        )
        urllib.request.install_opener(self._make_opener(*extra))

    def _absolute(self, url: Any, params: Any = None) -> str:
        url = _text(url, "url")
        if params:
            if isinstance(params, (str, bytes)):
                query = _text(params).replace("#", "%23")
            else:
                query = urllib.parse.urlencode(_form_fields("params", params))
            url = url.partition("#")[0]
            url += ("&" if "?" in url else "?") + query
        return _complete_url(url, self.base_url, self.allow_http, self._origins)

    def _add_headers(
        self,
        request: Any,
        headers: Mapping[str, Any] | None,
        content_type: str | None = None,
    ) -> None:
        """Add headers that the request does not have: the call's go before the session's."""
        wanted: dict[str, Any] = {}
        for name, value in (*self.headers.items(), *_mapping("headers", headers).items()):
            wanted[_text(name).lower()] = value
        if wanted.get("content-type") is None:
            wanted["content-type"] = content_type
        for name, value in wanted.items():
            if value is not None and not request.has_header(name.capitalize()):
                request.add_header(name, value)


class _StatusHandler(urllib.request.HTTPDefaultErrorHandler):
    """Return any answer to a verb; for other calls, raise an HTTPError that can be pickled."""

    def http_error_default(self, request: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        if getattr(request, "any_status", False):
            return fp
        message = _status_message(request.get_method(), request.full_url, code)
        raise _HTTPError(message, request.full_url, code, headers, _read_error_body(fp))


class _SessionHandler(OAuthHandler):
    """Authorise the requests of a session, which need not have origins, and set its time-out."""

    def __init__(self, session: OAuthSession, follows: bool) -> None:
        self._session = session
        self._source = session.source
        self._origins = session._origins
        self.follows = follows

    def http_request(self, request: Any) -> Any:
        """Give a request without a time-out that of the session: urllib would wait for ever."""
        if request.timeout is _DEFAULT_TIMEOUT:
            request.timeout = self._session.timeout
        _check_timeout(request.timeout)
        return super().http_request(request)

    https_request = http_request


def _status_message(method: str, url: str, status: int) -> str:
    """Return the text of an HTTP error."""
    phrase = http.client.responses.get(status, "")
    return f"{method} {_without_query(url)} answered {status} {phrase}".rstrip()


@functools.lru_cache(maxsize=256)  # a session calls the same URLs again and again
def _complete_url(
    url: str, base_url: str | None, allow_http: bool, origins: frozenset[_Origin] | None
) -> str:
    """Return the URL to call; ValueError if it is outside the origins."""
    if base_url and not re.match(r"([\w+.-]+:)?//", url):
        if url and url[0] not in "?#":
            url = "/" + url.lstrip("/")
        url = base_url.rstrip("/") + url
    elif not base_url and "://" not in url:
        raise ValueError(
            "url must be absolute (https://host/path), or a path below the session's base_url"
        )
    url = _check_url("url", url, allow_http)
    if origins is not None and _origin(url) not in origins:
        raise ValueError(
            f"url leads to {_place(url)}, outside this session's origins: name it in origins="
        )
    return url


def _session_origins(base_url: Any, origins: Any, allow_http: bool) -> frozenset[_Origin] | None:
    """Return the origins that may see the token, or None for those that the caller calls."""
    if base_url is None and origins is None:
        return None
    named = _check_origins("origins", origins, allow_http)
    if base_url is None and not named:
        raise ValueError("origins names no URL: leave it out, or name those that may see the token")
    if base_url is not None:
        base = _check_url("base_url", base_url, allow_http)
        if "?" in base or "#" in base:
            raise ValueError("base_url must be without ? and #, since paths are appended to it")
        named |= {_origin(base)}
    return named


def _without_rivals(prefix: str, environ: Mapping[str, str], settings: Any) -> Mapping[str, str]:
    """Return the variables without those that would contradict an argument."""
    rivals: list[str] = []
    if settings.get("token_url") or settings.get("issuer"):
        rivals += ["TOKEN_URL", "ISSUER"]
    if settings.get("client_secret") or settings.get("client_assertion"):
        rivals += ["CLIENT_SECRET", "CLIENT_SECRET_FILE", "ASSERTION_FILE"]
    names = [prefix + rival for rival in rivals]
    return {name: value for name, value in environ.items() if name not in names}


def _file_reader(name: str, path: str) -> Callable[[], str]:
    """Return a function that reads a file: a mounted secret may be replaced at any time."""
    if not os.access(path, os.R_OK):
        raise ValueError(f"{name} names {path!r}, which cannot be read")

    def read() -> str:
        try:
            with open(path, encoding="utf-8-sig") as file:
                text = file.read()
        except (OSError, UnicodeError) as error:
            raise OAuthError(f"{name}: cannot read {path!r}: {type(error).__name__}") from None
        return text[:-1] if text.endswith("\n") else text

    return read


def _encode_body(data: Any, obj: Any) -> tuple[Any, str | None]:
    """Return the body for urllib, and the Content-Type to use unless the caller names one."""
    if obj is not None:
        if data is not None:
            raise _contradiction("data", "json", "data")
        return json.dumps(obj, allow_nan=False).encode(), "application/json"
    if data is None:
        return None, None
    if isinstance(data, str):
        return _text(data).encode(), "text/plain; charset=utf-8"
    is_form = hasattr(data, "items")
    if isinstance(data, (list, tuple)):
        is_form = not all(isinstance(one, (bytes, bytearray, memoryview)) for one in data)
    if is_form:
        form = urllib.parse.urlencode(_form_fields("data (or is it meant as json=?)", data))
        return form.encode(), "application/x-www-form-urlencoded"
    if isinstance(data, io.TextIOBase) or not (hasattr(data, "read") or hasattr(data, "__iter__")):
        raise TypeError(
            "data must be bytes, str, a dict or pairs, a binary file or an iterable of bytes"
        )
    return data, "application/octet-stream"


# ---- DemoServer: an authorisation server and an API on loopback ----------------------------------

_DemoRequest = namedtuple("_DemoRequest", "method path headers body")


class DemoServer:
    """An authorisation server and an API on a free port of this machine,
    for trying out and for tests: `with DemoServer() as server:`.

    expires_in: seconds that its tokens live; default 3600; may be changed.

    url: the API. With a token it answers any path with JSON that says what
    it saw, or what answer() has set. token_url, client_id, client_secret:
    for OAuthSession; the scopes are `read` and `write`.
    token_requests: how many came so far. requests: those to the API, each
    with method, path, headers (without the token) and body.
    """

    client_id = "demo-client"
    client_secret = "demo secret: 100% ok?"  # with characters that must be encoded
    url: str
    token_url: str

    def __init__(self, expires_in: float = 3600) -> None:
        self.expires_in = expires_in
        self.token_requests = 0
        self.requests: list[Any] = []
        self.tell: Callable[[str], object] = lambda line: None  # gets a line for each request
        self._lock = threading.Lock()  # guards token_requests
        self._tokens: dict[str, tuple[float, str]] = {}  # monotonic time of its end, and scope
        self._answers: dict[str, tuple[int, Any, Mapping[str, str]]] = {}  # by path
        self._failing: int | None = None

    def __enter__(self) -> DemoServer:
        import http.server

        demo = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def reply(self) -> None:
                demo._reply(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = reply

            def log_message(self, *_: Any) -> None:
                """Print nothing: tell() does."""

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:
                """Print nothing: a client may hang up."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.token_url = self.url + "/oauth/token"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def revoke(self) -> None:
        """Let the API answer 401 to every token issued so far."""
        self._tokens = {}

    def fail(self, status: int | None) -> None:
        """Let the token endpoint answer this HTTP status from now on; None
        lets it work again."""
        self._failing = status

    def answer(
        self, path: str, json: Any, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """Let the API answer requests for a path, without the query, with
        this JSON value, status and further headers."""
        self._answers[path] = (status, json, headers or {})

    def _reply(self, handler: Any) -> None:
        """Answer a request of http.server."""
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        if "Transfer-Encoding" in handler.headers:
            size = int(handler.rfile.readline(), 16)
            while size > 0:
                body += handler.rfile.read(size)
                handler.rfile.readline()
                size = int(handler.rfile.readline(), 16)
            handler.rfile.readline()
        text = body.decode("utf-8", "replace")
        credentials = handler.headers.get("Authorization", "")
        if handler.path == "/oauth/token":
            status, value, headers = self._issue(dict(urllib.parse.parse_qsl(text)), credentials)
        else:
            status, value, headers = self._serve(handler, text, credentials)
        seen = "with" if credentials else "without"
        told = f"{handler.command} {handler.path} ({seen} credentials) -> {status}"
        self.tell(
            f"{told} {value['error']}" if isinstance(value, dict) and "error" in value else told
        )

        content = json.dumps(value).encode()
        handler.send_response(status)
        for name, field in {"Content-Type": "application/json", **headers}.items():
            handler.send_header(name, field)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if handler.command != "HEAD" and status not in (204, 304):
            handler.wfile.write(content)

    def _issue(self, form: dict[str, str], credentials: str) -> tuple[int, Any, Mapping[str, str]]:
        """Answer a token request: status, JSON value and headers."""
        with self._lock:
            self.token_requests += 1
        pair = [form.get("client_id", ""), form.get("client_secret", "")]
        if credentials.startswith("Basic "):
            text = base64.b64decode(credentials[6:]).decode("utf-8", "replace")
            pair = [urllib.parse.unquote_plus(part) for part in text.split(":")]
        scope = form.get("scope", "read")
        if self._failing is not None:
            return self._failing, {}, {}
        if pair != [self.client_id, self.client_secret]:
            refusal = {
                "error": "invalid_client",
                "error_description": "unknown client, or wrong secret",
            }
            return 401, refusal, {"WWW-Authenticate": 'Basic realm="demo"'}
        if form.get("grant_type") != "client_credentials":
            return 400, {"error": "unsupported_grant_type"}, {}
        if set(scope.split()) - {"read", "write"}:
            return (
                400,
                {
                    "error": "invalid_scope",
                    "error_description": "the scopes here are read and write",
                },
                {},
            )
        token = "demo-" + base64.urlsafe_b64encode(os.urandom(24)).decode()
        self._tokens[token] = time.monotonic() + self.expires_in, scope
        grant = {
            "access_token": token,
            "token_type": "Bearer",
            "scope": scope,
            "expires_in": self.expires_in,
        }
        return 200, grant, {}

    def _serve(
        self, handler: Any, body: str, credentials: str
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Answer a request for the API: status, JSON value and headers."""
        headers = {
            name: value
            for name, value in handler.headers.items()
            if name.lower() != "authorization"
        }
        self.requests.append(_DemoRequest(handler.command, handler.path, headers, body))
        end, scope = self._tokens.get(credentials.partition(" ")[2], (0.0, ""))
        if time.monotonic() >= end:
            challenge = 'Bearer realm="demo"' + (', error="invalid_token"' if credentials else "")
            return 401, {"error": "invalid_token"}, {"WWW-Authenticate": challenge}
        seen = {"method": handler.command, "path": handler.path, "scope": scope, "body": body}
        return self._answers.get(handler.path.partition("?")[0], (200, seen, {}))


# ---- Command line --------------------------------------------------------------------------------

_CLOCK_SKEW = 60.0  # seconds; from here on a difference of clocks is worth a word
_INDENT = " " * 6


def _print(text: str, file: Any = None) -> None:
    """Print other people's text on any console: what it cannot show is escaped."""
    file = file or sys.stdout
    encoding = getattr(file, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=file, flush=True)


def _demo() -> int:
    """Show what a session does, with a server of its own."""

    def call(title: str, session: OAuthSession) -> None:
        _print(title)
        try:
            _print(f"{_INDENT}session.get('/me') -> {session.get('/me').status}")
        except OAuthResponseError as error:
            _print(f"{_INDENT}{type(error).__name__}: {error}")

    with DemoServer() as server:
        server.tell = lambda line: _print(f"{_INDENT}on the wire: {line}")
        settings: dict[str, Any] = {
            "client_id": server.client_id,
            "token_url": server.token_url,
            "base_url": server.url,
        }
        session = OAuthSession(client_secret=server.client_secret, scope="read", **settings)
        _print(f"A DemoServer listens on {server.url}. Secrets and tokens are not shown.")
        call("1. The first call fetches a token.", session)
        call("2. The second call uses the same token.", session)
        session.source.clear()
        server.expires_in = 2
        before = session.access_token
        server.expires_in = 3600
        time.sleep(1.1)
        call("3. A token that is due is used, while a thread renews it in the background.", session)
        while session.access_token == before:
            time.sleep(0.05)
        server.revoke()
        call("4. A revoked token is replaced after one 401, and the call is sent again.", session)
        wrong = OAuthSession(client_secret="not-the-secret", scope="read", **settings)
        call("5. A wrong secret is tried in each place where servers look for it.", wrong)
        unknown = OAuthSession(client_secret=server.client_secret, scope="everything", **settings)
        call("6. The server does not know this scope.", unknown)
        _print(f"Done: {server.token_requests} token requests in all.")
    return 0


def _parser() -> Any:
    import argparse

    parser = argparse.ArgumentParser(
        prog="oauth_session.py",
        description="Call an API with an OAuth 2.0 token, by the client credentials grant.",
        epilog="What no option says is read from the environment: OAUTH_CLIENT_ID, "
        "OAUTH_CLIENT_SECRET or OAUTH_CLIENT_SECRET_FILE, OAUTH_ASSERTION_FILE, OAUTH_SCOPE, "
        "OAUTH_TOKEN_URL or OAUTH_ISSUER, OAUTH_AUDIENCE, OAUTH_RESOURCE, OAUTH_AUTH_METHOD, "
        "OAUTH_BASE_URL, OAUTH_CACHE. The secret has no option, since others could see it in the "
        "list of processes. Exit status: 0; 1: no token, or no answer; 2: wrong settings; 22: a "
        "status of 400 or more with --fail.",
    )
    add = parser.add_argument
    add("url", nargs="?", metavar="URL", help="call this URL and print the body of the answer")
    add("--demo", action="store_true",
        help="show how it works, with a server of its own; needs nothing else")
    add("--check", action="store_true",
        help="try each step up to a call of URL, and tell what fails")
    add("--token", action="store_true", help="print the access token, and nothing else")
    add("-X", "--request", metavar="METHOD", help="HTTP method; default: GET, with -d POST")
    add("-d", "--data",
        help="body, sent as a form unless -H says otherwise; @FILE: a file, @-: standard input")
    add("-H", "--header", metavar="'NAME: VALUE'", action="append", default=[],
        help="a header; may be repeated")
    add("-i", "--include", action="store_true", help="print status and headers, too")
    add("-f", "--fail", action="store_true",
        help="print no body at a status of 400 or more, and exit with 22")
    add("--client-secret-file", metavar="FILE",
        help="file that holds the secret; -: standard input")
    names = ("client-id", "scope", "token-url", "issuer", "audience", "auth-method", "base-url")
    for name in names:
        add(f"--{name}", metavar=name.rpartition("-")[2].upper())
    add("--resource", metavar="URI", action="append")
    add("--cache", metavar="DIRECTORY", help="share the token with other runs through files there")
    add("--timeout", metavar="SECONDS", type=float, help="default: 30")
    add("--version", action="version", version=f"oauth_session {__version__}")
    return parser


def _session_of(options: Any) -> OAuthSession:
    """Make the session of options and environment; an option goes before what contradicts it."""
    settings = {
        name: value
        for name, value in vars(options).items()
        if name in _SETTINGS and value is not None
    }
    path = options.client_secret_file
    if path == "-":
        line = sys.stdin.buffer.readline()  # and leave the rest to -d @-
        settings["client_secret"] = line.decode("utf-8-sig").rstrip("\r\n")
    elif path:
        settings["client_secret"] = _file_reader("--client-secret-file", path)
    return OAuthSession.from_env(**settings)


class _Check:
    """Tries each step of a call by itself, and prints a line for each."""

    def __init__(self, session: OAuthSession) -> None:
        self.session = session
        self.credentials: Any = session._credentials
        self.well = True

    def run(self, url: str | None) -> bool:
        """Return whether all is well. A step that fails ends it, unless the next can do without."""
        self.begin("settings")
        try:
            self.ask(self.find_endpoint())
            self.authenticate()
            if url:
                self.begin("API")
                response = self.session.get(url).raise_for_status()
                self.say("ok", _status_message("GET", response.url, response.status))
        except (OSError, ValueError, TypeError, LookupError) as error:
            self.say("NO", error)
            return False
        return self.well

    def begin(self, step: str) -> None:
        """Name the step that follows, and give it its time."""
        self.step = step
        self.deadline = time.monotonic() + float(self.credentials.timeout)

    def say(self, mark: str, text: object) -> None:
        """Print how the step went: ok, NO, or -- if it does not matter."""
        _print(f"{mark:6}{self.step}: {' '.join(str(text).split())}")

    def find_endpoint(self) -> str:
        """Return the token endpoint, once it can be reached."""
        credentials = self.credentials
        endpoint = credentials.token_url
        if endpoint is None:
            self.reach(credentials.issuer)
            self.begin("discovery")
            credentials._discover(self.deadline)
            endpoint = credentials._metadata["token_endpoint"]
            self.say("ok", f"the token endpoint is {endpoint}")
        if credentials.issuer is None or _origin(endpoint) != _origin(credentials.issuer):
            self.reach(endpoint)
        return str(endpoint)

    def reach(self, url: str) -> None:
        """Look up the host, connect to it, and verify its certificate."""
        origin = _origin(url)
        proxy = urllib.request.getproxies().get(origin.scheme)
        if proxy and not _is_local(origin) and not urllib.request.proxy_bypass(origin.host):
            place = proxy.rpartition("@")[2]
            _print(f"{_INDENT}{origin.host} is reached through the proxy {place}")
            return
        route = _Route(origin, None, None)
        self.begin(f"DNS {origin.host}")
        found = socket.getaddrinfo(origin.host.strip("[]"), origin.port, 0, socket.SOCK_STREAM)
        self.say("ok", ", ".join(sorted({str(address[4][0]) for address in found})))
        self.begin(f"TCP {origin.host}")
        _open_stream(route, self.deadline).close()
        self.say("ok", f"port {origin.port} is open")
        if origin.scheme == "https":
            self.begin(f"TLS {origin.host}")
            self.session._pool.connect(route, self.deadline).close()
            self.say("ok", "the certificate is trusted, and for this host")

    def ask(self, endpoint: str) -> None:
        """See whether the token endpoint answers, and what time it is there."""
        self.begin("token endpoint")
        reply = self.credentials._send(_TokenRequest(endpoint, None, {}, ()), self.deadline)
        self.say("ok", "it answers")
        self.step = "clock"
        try:
            skew = _seconds_of_date(reply.headers["Date"]) - time.time()
        except ValueError:
            self.say("ok", "the server does not tell the time")
            return
        if abs(skew) <= _CLOCK_SKEW:
            self.say("ok", "within a minute of the server's")
            return
        self.well = False
        direction = "behind" if skew > 0 else "ahead of"
        self.say("NO", f"this machine is {abs(skew):.0f} s {direction} the server: set its clock")

    def authenticate(self) -> None:
        """Fetch a token by the methods that a session would try, in its order."""
        secret = self.credentials._current_secret()
        methods = self.credentials._candidates(secret)
        if "client_secret_basic_raw" in methods:
            _print(f"{_INDENT}id or secret have characters that servers decode in different ways")
        for method in methods:
            self.begin(f"token by {method}")
            try:
                token = self.credentials._request(method, secret, self.deadline)
                break
            except OAuthResponseError as error:
                if method == methods[-1] or not _is_client_refused(error):
                    raise
                self.say("--", error)
        self.say("ok", _describe(token))
        # For the call of the API: an assertion may be good for one token only.
        self.session.source._fetch = lambda: token


def _describe(token: Token) -> str:
    """Return what a token is good for."""
    secrets = _spellings(token.access_token)
    life = "an unknown time"
    if token.expires_at is not None:
        life = f"{token.expires_at - time.time():.0f} s"
    text = f"a token for {life}, scope {_clean(token.scope, secrets)}"
    try:  # the most frequent reason for a 401 of the API
        claims = json.loads(base64.urlsafe_b64decode(token.access_token.split(".")[1] + "=="))
        text += f", aud {_clean(claims['aud'], secrets)}"
    except (LookupError, ValueError, TypeError, RecursionError):
        pass  # not a JWT
    return text


def _print_settings(options: Any) -> None:
    """Print what is set, and where each comes from; of a secret only where."""
    given = {name: value for name, value in vars(options).items() if value}
    if options.client_secret_file:
        given["client_secret"] = options.client_secret_file
    environ = _without_rivals("OAUTH_", os.environ, given)
    for name in (*_FROM_ENVIRONMENT, "client_secret_file", "assertion_file"):
        value = getattr(options, name, None)
        place = "--" + name.replace("_", "-")
        if value is None:
            place = "OAUTH_" + name.upper()
            value = environ.get(place)
        if value:
            _print(f"{_INDENT}{name}: {'***' if name == 'client_secret' else value} (from {place})")
        elif name in ("scope", "audience"):
            _print(f"{_INDENT}{name}: not set")


def _print_answer(session: OAuthSession, options: Any) -> int:
    """Call the URL and print what it answers, as curl does."""
    body = None
    headers = {}
    if options.data is not None:
        body = options.data.encode()
        headers["content-type"] = "application/x-www-form-urlencoded"
        if options.data == "@-":
            body = sys.stdin.buffer.read()
        elif options.data.startswith("@"):
            try:
                with open(options.data[1:], "rb") as file:
                    body = file.read()
            except OSError as error:
                raise ValueError(f"-d: cannot read {options.data[1:]}: {error.strerror}") from None
    for line in options.header:
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"-H takes 'Name: value', not {line!r}")
        headers[name.strip().lower()] = value.strip()
    method = options.request or ("GET" if body is None else "POST")
    response = session.request(method, options.url, data=body, headers=headers)
    if options.include:
        lines = [f"{name}: {value}" for name, value in response.headers.items()]
        _print("\n".join([f"HTTP/1.1 {response.status} {response.reason}", *lines, ""]))
    if options.fail and not response:
        _print(
            f"oauth_session: {_status_message(method.upper(), response.url, response.status)}",
            sys.stderr,
        )
        return 22
    if hasattr(sys.stdout, "buffer"):
        sys.stdout.buffer.write(response.content)
    else:  # a StringIO, say
        sys.stdout.write(response.text)
    sys.stdout.flush()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (`--help` tells how) and return its exit
    status. Errors are one line on standard error.

    arguments: default sys.argv[1:].
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if not (options.demo or options.check or options.token or options.url):
        parser.error("nothing to do: give a URL, --token, --check or --demo")
    try:
        if options.demo:
            return _demo()
        with _session_of(options) as session:
            if options.check:
                _print_settings(options)
                well = _Check(session).run(options.url)
                print(
                    "All is well."
                    if well
                    else "Something is wrong: see the lines that begin with NO."
                )
                return 0 if well else 1
            if options.token:
                print(session.access_token)
                return 0
            return _print_answer(session, options)
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        return 130
    except (ValueError, TypeError, OSError) as error:
        _print(f"oauth_session: {' '.join(str(error).split())}", sys.stderr)
        return 1 if isinstance(error, OSError) else 2


if __name__ == "__main__":
    sys.exit(main())

# MIT License
#
# Copyright (c) 2026 The oauth_session authors
#
# Permission is hereby granted, free of charge, to any person obtaining a copy of this software
# and associated documentation files (the "Software"), to deal in the Software without
# restriction, including without limitation the rights to use, copy, modify, merge, publish,
# distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
# Software is furnished to do so, subject to the following conditions:
#
# The above copyright notice and this permission notice shall be included in all copies or
# substantial portions of the Software.
#
# THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING
# BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
# NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
# DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
# OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
