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

How a request travels. The rooms of this file come in the opposite order:
each uses only rooms above it.
 1. OAuthSession makes a `urllib.request.Request` and opens it with its
    OpenerDirector.
 2. OAuthHandler puts `Authorization: Bearer ...` on it, if its origin may
    see the token. On the way back it follows redirects without leaking
    and, on a 401, has the token renewed and sends the request again, once.
 3. TokenSource keeps the token. FRESH: it is returned. DUE: it is
    returned, and renewed in the background. Missing, EXPIRED or refused:
    callers wait for one shared fetch. One lock guards what it writes.
    With cache=, FileCache or another cache is asked first.
 4. ClientCredentials obtains one token: a POST to the token endpoint, and
    a strict validation of the response.
 5. _Pool keeps connections alive, on `http.client`. A response of invalid
    length is rejected; after one whose end is ambiguous, the connection
    is closed.

A wrong setting raises ValueError or TypeError. An API that gives no answer
raises URLError, other statuses HTTPError, as with urllib. The rest says
what to check:
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
import contextlib
import copy
import email.utils
import functools
import http.client
import io
import json
import os
import random
import re
import select
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

TYPE_CHECKING = False  # that of `typing` would cost an import at each cold start
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable, Iterator, Mapping, NoReturn, Sequence

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

# ---- Errors: their classes, how secrets are masked, logging --------------------------------------


class OAuthError(urllib.error.URLError):
    """The base of all errors here.

    error: the code that the server gave, or None. status: the HTTP status
    of its answer, or None.
    """

    error: str | None = None
    status: int | None = None
    __str__ = Exception.__str__  # only the message: that of URLError adds to it
    __repr__ = Exception.__repr__

    def __init__(self, message: str = "", **fields: Any) -> None:
        self.args = (message,)
        self.reason = message
        self._fields = fields
        for name, value in fields.items():
            setattr(self, name, value)

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

    status: Any = 401  # this, reason and headers shadow properties of HTTPError
    reason: Any = ""
    headers: Any = None
    url: Any = ""
    body: bytes = b""
    scope: str | None = None
    realm: str | None = None
    response: Response | None = None

    def __init__(self, message: str = "", **fields: Any) -> None:
        super().__init__(message, **fields)
        # HTTPError(fp=None) lacks read() and the like.
        urllib.error.HTTPError.__init__(
            self, self.url, self.status, self.reason, self.headers, io.BytesIO(self.body)
        )


class OAuthInvalidToken(OAuthBearerError):
    """401, or `invalid_token`: the API refused the token and the one that
    replaced it, there was no other, or the body cannot be sent again."""


class OAuthInsufficientScope(OAuthBearerError):
    """403, or `insufficient_scope`: the token does not suffice. `scope` is
    what the API wants, if it said so."""


class _HTTPError(urllib.error.HTTPError):
    """A response with an error status, or a redirect that was not followed. Pickle and copy keep
    its body."""

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


def _spellings(*secrets: str) -> list[str]:
    """Return secrets in the spellings in which a server may echo them, the longest first."""
    import html  # takes 3 ms, which a cold start need not pay

    found = set(secrets)
    for secret in secrets:
        encoded = secret.encode("utf-8", "replace")  # JSON can hold a lone surrogate
        percent = urllib.parse.quote(encoded, "")
        lower = re.sub("%..", lambda match: match[0].lower(), percent)
        found |= {percent, percent.replace("%20", "+"), lower, lower.replace("%20", "+")}
        found |= {json.dumps(secret)[1:-1], html.escape(secret)}
        found.add(base64.b64encode(encoded).decode().rstrip("="))
    found.discard("")
    return sorted(found, key=len, reverse=True)


def _clean(text: object, secrets: Iterable[str] = (), limit: int = 500) -> str:
    """Return a server's text without secrets and control characters, and not too long."""
    result = str(text)
    for secret in secrets:
        result = result.replace(secret, "***")
    result = "".join(letter if letter.isprintable() else " " for letter in result)
    return result[:limit]


def _clean_headers(headers: Any, secrets: Iterable[str]) -> http.client.HTTPMessage:
    """Return headers that an exception may show."""
    clean = http.client.HTTPMessage()
    for name, value in headers.items():
        clean.set_raw(_clean(name, secrets), _clean(value, secrets))
    return clean


def _contradiction(first: str, second: str) -> ValueError:
    """Return the error for two arguments or class attributes of which one must be left out."""
    return ValueError(
        f"{first} and {second} contradict each other: leave one out, or pass {first}=None"
    )


def _log(level: str, message: str, *values: object) -> None:
    """Log, if the program has imported `logging`. Never call this with a lock held."""
    try:
        logging = sys.modules["logging"]
        getattr(logging.getLogger(__name__), level)(message, *values)
    except Exception:  # no logging, or a broken log handler, which must not break the request
        pass


# ---- URLs: origins, loopback, the https rule, encoding -------------------------------------------

_Origin = namedtuple("_Origin", "scheme host port")  # an IPv6 host keeps its brackets
# place: what a message may show; path and query may be confidential. target: path and query.
_URL = namedtuple("_URL", "text place origin authority target")

_PORTS = {"http": 80, "https": 443}
# \u0300-\u0fff: the vowel signs of many scripts, which are not in \w.
_URL_FORM = (
    r"((?ai:https?))://"
    r"(\[[0-9A-Fa-f:.]+\]|(?:[\w\u0300-\u0fff-]{1,63}\.)*[\w\u0300-\u0fff-]{1,63}\.?)(:[0-9]{0,5})?"
    r"([/?][^#\0-\x1f\x7f]*)?(?:#[^\0-\x1f\x7f]*)?"
)
_LOOPBACK = r"localhost|\[::1\]|127(\.(\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])){3}"
_URI_CHARACTERS = "!#$%&'()*+,/:;=?@~"  # besides letters, digits and "-._" (RFC 3986 section 2)
# Patterns that every call needs are compiled here, all others at their first use.
_TOKEN_FORM = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_VALUE_FORM = re.compile("[\t -~\x80-\xff]*")  # RFC 9110 section 5.5


@functools.lru_cache(maxsize=256)  # each call looks at its URL several times
def _split_url(url: str) -> _URL:
    """Encode a URL (RFC 3986) and split it where urllib does, without its fragment.

    What is encoded already stays as it is. Raises ValueError where two readers could disagree
    about the host.
    """
    match = re.fullmatch(_URL_FORM, url)
    if match is None:
        raise ValueError(
            "it must be like https://host:port/path, without user name, without control "
            "characters, and without % or \\ in the host; write an international host as xn--..."
        )
    scheme, host, port, target = match.groups("")
    scheme = scheme.lower()
    if not host.isascii():
        host = host.lower()
        encoded = host.encode("idna")
        # IDNA 2003 replaces letters that IDNA 2008 keeps: the two lead to different hosts.
        if encoded.decode("idna") != host:
            raise ValueError("standards differ about its host: write the ASCII form, xn--...")
        host = encoded.decode()
    number = int(port[1:] or _PORTS[scheme])
    if not 0 < number < 65536:
        raise ValueError("its port must be a number from 1 to 65535")
    target = re.sub("%(?![0-9A-Fa-f]{2})", "%25", target)
    target = urllib.parse.quote(target, _URI_CHARACTERS, errors="surrogateescape")
    authority = host + port
    place = f"{scheme}://{authority}"
    text = place + target
    if not target.startswith("/"):
        target = "/" + target
    return _URL(text, place, _Origin(scheme, host.lower(), number), authority, target)


def _origin(url: str) -> _Origin:
    return _split_url(url).origin  # type: ignore[no-any-return]


def _is_plain_loopback(origin: _Origin) -> bool:
    """Return whether this is plain HTTP to this machine, which needs neither TLS nor a proxy."""
    return origin.scheme == "http" and bool(re.fullmatch(_LOOPBACK, origin.host))


def _check_url(name: str, url: Any, allow_http: bool, hint: str = "") -> str:
    """Return a URL as _split_url() encodes it; ValueError if no secret may be sent to it."""
    try:
        found = _split_url(_text(url or "", name, hint))
    except ValueError as error:
        raise ValueError(f"{name} is missing, or not a usable URL: {error}{hint}") from None
    if not (allow_http or found.origin.scheme == "https" or _is_plain_loopback(found.origin)):
        raise ValueError(
            f"{name} must start with https:// (http:// is for loopback, or with allow_http=True)"
        )
    return found.text  # type: ignore[no-any-return]


def _text(value: Any, name: str = "text", hint: str = "") -> str:
    """Return text as a plain str. (str() of an Enum member may return its name.)

    Bytes that are not UTF-8 become surrogates, which _encode_form turns into the same bytes.
    """
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(f"{name} must be str or bytes, not {type(value).__name__}{hint}")


@functools.lru_cache(maxsize=256)
def _word(value: Any) -> str:
    """Return a method, or the name of a header, in capitals."""
    text = _text(value, "a method or the name of a header").upper()
    # CONNECT would make a tunnel of the connection.
    if not _TOKEN_FORM.fullmatch(text) or text == "CONNECT":
        raise ValueError("a method or the name of a header must be one word, and not CONNECT")
    return text


def _check_headers(headers: Any) -> dict[str, str]:
    """Return headers as text; ValueError for one that could inject another."""
    checked = {}
    for name, value in dict(headers or {}).items():
        name = _word(name).title()
        if isinstance(value, bytes):
            value = value.decode("iso-8859-1")
        value = _text(value, name)
        if not _VALUE_FORM.fullmatch(value):
            raise ValueError(f"header {name} must be Latin-1 without control characters")
        checked[name] = value
    return checked


def _form_fields(name: str, pairs: Any) -> list[tuple[str, str]]:
    """Return pairs of texts for a query or a form: a list is repeated, None is left out."""
    fields = []
    items = pairs.items() if hasattr(pairs, "items") else pairs
    for key, value in items:
        values = value if isinstance(value, (list, tuple)) else [value]
        for one in values:
            if hasattr(one, "__float__"):
                one = str(one)
            if one is not None:
                fields.append((_text(key, name), _text(one, name)))
    return fields


def _encode_form(fields: list[tuple[str, str]]) -> str:
    return urllib.parse.urlencode(fields, errors="surrogateescape")


def _decode(body: bytes, content_type: str) -> str:
    """Return a body as text in the charset of its Content-Type, and replace what is not in it."""
    # Only codecs of text: some others raise errors, take hours, or interpret escape sequences.
    form = r'(?ai)charset="?((?:utf|iso|latin|windows|cp|koi|gb|big5|shift|euc|ks|tis)[\w-]{,20})'
    found = re.search(form, content_type)
    charset = found[1] if found else "utf-8"
    try:
        text = body.decode(charset, "replace")
    except LookupError:
        text = body.decode("utf-8", "replace")
    return text.lstrip("\ufeff")


# ---- Connections: kept-alive HTTP/1.1 (RFC 9112), as handlers for an OpenerDirector --------------

# urllib's sentinel for "no time-out given"
_DEFAULT_TIMEOUT: Any = socket._GLOBAL_DEFAULT_TIMEOUT  # type: ignore[attr-defined]
_USER_AGENT = f"oauth_session/{__version__}"
_LONGEST_LIFE = 100 * 366 * 86400.0  # seconds; more is nonsense
_IDLE_SECONDS = 60.0  # how long an idle connection is kept; servers close after 60 to 75
_IDLE_MOST = 64  # idle connections of a session
_ANSWER_LIMIT = 1 << 20  # most bytes of a token response, or of an API's refusal
_BODY_LIMIT = 64 << 20  # most bytes that a verb reads into memory, as sent and as decoded
_PIECE = 64 << 10  # bytes of a body that are sent or read at once
_HEAD_LIMIT = 256 << 10  # most bytes of a head, of trailers, or of the line before a chunk
# RFC 9110 section 9.2.2
_IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE")
# 101 would be another protocol.
_STATUS_LINE = re.compile(rb"HTTP/1\.(\d) (?!101)([1-9]\d\d)(?: [^\r\n]*)?\r?\n")
_FOLD = re.compile("\n[ \t]+")  # of a folded line, RFC 9112 section 5.2
_FIELD = re.compile(rf"^({_TOKEN_FORM.pattern}):([^\r\n\0]*)$", re.MULTILINE)
_LENGTH = re.compile(r",([0-9]{1,18})(?:[ \t]*,[ \t]*\1)*")  # a number, which may be repeated

_PRIVATE_CA = (
    "for a private CA, add its certificate to the public ones: "
    "context = ssl.create_default_context(), "
    "context.load_verify_locations('ca.pem'), and give context=context"
)
_RENEW = "its owner must renew it, if the clock of this machine is right"
_OTHER_HOST = "the host in the URL must be one that the certificate names"
_CERTIFICATE_ADVICE = {  # by OpenSSL's verification code
    9: _RENEW,
    10: _RENEW,
    18: _PRIVATE_CA,
    19: _PRIVATE_CA,
    20: _PRIVATE_CA,
    21: _PRIVATE_CA,
    62: _OTHER_HOST,
    64: _OTHER_HOST,
}
_LONG_AGO = (0.0, -1e9)  # a Moment


def _now() -> Moment:
    return time.time(), time.monotonic()


def _since(moment: Moment) -> float:
    """Return the seconds since a moment, by whichever clock shows more.

    One can be set back, and the other stops while the machine sleeps.
    """
    return max(time.time() - moment[0], time.monotonic() - moment[1])


def _check_timeout(timeout: Any) -> float | None:
    if timeout is None or 0 < timeout <= _LONGEST_LIFE:
        return timeout  # type: ignore[no-any-return]
    raise ValueError("timeout must be a positive number of seconds; None waits without limit")


def _timeout_of(request: Any) -> float | None:
    timeout: Any = request.timeout
    return socket.getdefaulttimeout() if timeout is _DEFAULT_TIMEOUT else timeout


class _TransportError(urllib.error.URLError):
    """A failure on the way. Its text names the server, if it is known."""

    what = "gave no answer"

    def __init__(self, reason: Any, place: str = "the server") -> None:
        super().__init__(reason)
        self.place = place

    def __str__(self) -> str:
        if not isinstance(self.reason, ssl.CertificateError):
            return f"{self.place} {self.what}: {self.reason}"
        # A context that verifies by itself may raise an error without OpenSSL's attributes.
        why = getattr(self.reason, "verify_message", self.reason)
        advice = _CERTIFICATE_ADVICE.get(getattr(self.reason, "verify_code", 0), "ask its owner")
        return f"the certificate of {self.place} was refused: {why}; {advice}"


class _SendError(_TransportError):
    """The request could not be sent to its end."""


class _ProxyError(_TransportError):
    """The proxy refused, or is of a kind that is not supported."""

    what = "cannot be used"


class _ProtocolError(_TransportError):
    """The answer is not HTTP/1.1, or exceeds a limit."""

    what = "gave no usable answer"


class _Message:
    """A Request as it is sent; ValueError or TypeError for one that cannot be sent."""

    def __init__(self, request: Any) -> None:
        url = self.url = _split_url(request.full_url)
        self.target = url.target
        self.method = _word(request.get_method())
        self.headers = _check_headers({**request.headers, **request.unredirected_hdrs})
        self.body = _frame_body(request.data, self.headers)
        is_in_memory = isinstance(self.body, (bytes, type(None)))
        self.is_repeatable = is_in_memory and self.method in _IDEMPOTENT
        self.timeout = _timeout_of(request)  # seconds for each step, or None
        # The monotonic time when everything must have ended, or None. With it, timeout is None.
        self.deadline = getattr(request, "deadline", None)
        self.proxy: Any = None
        self.proxy_authorization = None  # for its tunnel
        # urllib replaces the host of a Request by that of the proxy.
        if request.host != url.authority and not _is_plain_loopback(url.origin):
            self.proxy = _split_url(_check_url("the proxy", "http://" + request.host, True))
        if self.proxy is not None and url.origin.scheme == "http":
            self.target = f"http://{url.authority}{url.target}"
        else:
            self.proxy_authorization = self.headers.pop("Proxy-Authorization", None)
        # Connections are used again by the same process for the same route.
        self.route = os.getpid(), url.origin, self.proxy, self.proxy_authorization


def _frame_body(body: Any, headers: dict[str, str]) -> Any:
    """Return a body as it is sent, and set its Content-Length where http.client does not.

    The caller's own Content-Length counts only if the size is unknown.
    """
    headers.pop("Transfer-Encoding", None)
    given = headers.pop("Content-Length", None)
    if body is None:
        return None
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    # By its type: the fileno() of a GzipFile is that of the compressed file.
    is_file = isinstance(getattr(body, "raw", body), (io.FileIO, io.BytesIO))
    length = None
    if is_file and body.seekable():
        start = body.tell()
        length = max(0, body.seek(0, io.SEEK_END) - start)
        body.seek(start)
    elif given is not None and given.isdecimal():
        length = int(given)
    if length is not None:
        headers["Content-Length"] = str(length)
    return _pieces(body, length)


def _pieces(body: Any, left: int | None) -> Iterator[bytes]:
    """Yield a body in pieces; ValueError if it is not as long as its Content-Length says."""
    if hasattr(body, "read"):
        body = iter(functools.partial(body.read, _PIECE), b"")
    for piece in body:
        data = bytes(memoryview(piece))  # a TypeError for text
        if left is not None:
            left -= len(data)
            if left < 0:
                break
        yield data
    if left:
        raise ValueError("data is longer or shorter than its Content-Length says")


class _Stream(io.RawIOBase):
    """A connected socket that bounds the time of each step; the socket of an HTTPConnection."""

    idle_since: Moment
    ends_answer = False  # whether the answer ends where the connection does

    def __init__(
        self, sock: socket.socket, place: str, message: _Message, idle: deque[_Stream]
    ) -> None:
        self.sock = sock
        self.place = place
        self.route = message.route
        self.idle = idle  # where it waits for its next use
        # As large as a TLS record can be, so that nothing of it is left where select() cannot see.
        self.reader = io.BufferedReader(self, 1 << 14)
        self.begin_exchange(message)

    def begin_exchange(self, message: _Message) -> None:
        """Prepare for a request and its answer."""
        self.timeout = message.timeout
        self.deadline = message.deadline
        self.received = False  # whether a byte of the answer has come
        # Whether request and answer allow that the connection is used again.
        self.keep = "close" not in message.headers.get("Connection", "").lower()

    def begin_step(self) -> None:
        """Apply the time-out to all that is read up to end_step, not to each receive."""
        if self.timeout is not None:
            self.deadline = time.monotonic() + self.timeout

    def end_step(self) -> None:
        """Apply the time-out to each receive again."""
        if self.timeout is not None:
            self.deadline = None

    def limit_time(self) -> None:
        """Give the next call of the socket the time that is left."""
        left = self.timeout
        if self.deadline is not None:
            left = self.deadline - time.monotonic()
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
            if self.timeout == 0 and not _has_input(self.sock):
                return None
            self.limit_time()
            count = self.sock.recv_into(buffer)
            if count == 0 and not self.ends_answer:
                raise http.client.RemoteDisconnected(
                    "the connection was closed before the answer was complete"
                )
        except (BlockingIOError, ssl.SSLWantReadError):
            return None  # nothing has come, or a session ticket of TLS 1.3, which is no data
        except OSError as error:
            self.keep = False
            raise _TransportError(error, self.place) from error
        self.received = True
        return count

    def sendall(self, data: bytes) -> None:
        """Send bytes; a large body is as many steps as it has pieces."""
        try:
            for start in range(0, len(data), _PIECE):
                self.limit_time()
                self.sock.sendall(data[start : start + _PIECE])
        except OSError as error:
            raise _SendError(error, self.place) from error

    def start_tls(self, context: ssl.SSLContext, message: _Message) -> None:
        """Start TLS, and verify the certificate of the server."""
        self.begin_exchange(message)
        self.place = message.url.place
        try:
            self.limit_time()
            self.sock = context.wrap_socket(
                self.sock,
                server_hostname=message.url.origin.host.strip("[]."),
                # A body that somebody cut off must not pass for a whole one (RFC 9112 section 9.8).
                suppress_ragged_eofs=False,
            )
        except OSError as error:
            raise _TransportError(error, self.place) from error

    def is_silent(self) -> bool:
        """Return, without waiting, whether it is open and nothing unsolicited has arrived."""
        self.timeout = 0.0
        self.deadline = None
        try:
            return not self.reader.peek()
        except _TransportError:
            return False

    def end_exchange(self, is_complete: bool) -> None:
        """Keep the connection for its next use, if the answer was read to its end.

        Otherwise close it; also if request or answer said so, or the end was ambiguous (see
        _find_end).
        """
        if is_complete and self.keep:
            self.idle_since = _now()
            self.idle.append(self)
            if len(self.idle) > _IDLE_MOST:
                with contextlib.suppress(IndexError):  # other threads may have taken them
                    self.idle.popleft().close()
        else:
            self.close()

    def close(self) -> None:
        self.sock.close()
        super().close()


def _has_input(sock: socket.socket) -> bool:
    """Return whether there is something to receive at once, or the end of the connection."""
    try:
        return bool(select.select([sock], [], [], 0)[0])
    except ValueError:  # its number is too large for select()
        return True


def _read_fields(reader: Any) -> list[tuple[str, str]]:
    """Read the fields of a head or of trailers, up to an empty line (RFC 9112 section 5)."""
    section = bytearray()
    line = b""
    while line not in (b"\r\n", b"\n"):
        section += line
        if len(section) > _HEAD_LIMIT:
            raise _ProtocolError("more than 256 KiB of headers")
        line = reader.readline(_HEAD_LIMIT)
    text = _FOLD.sub(" ", section.decode("iso-8859-1").replace("\r\n", "\n"))
    fields = _FIELD.findall(text)
    if len(fields) != text.count("\n"):
        raise _ProtocolError("a malformed header line")
    return fields


class _HTTPResponse(http.client.HTTPResponse):
    """An HTTPResponse whose framing is read without any guess, and whose connection can be kept.

    Two private methods of http.client are overridden. Its own _get_chunk_left accepts any two bytes
    as the end of a chunk; its own _close_conn closes the connection at the end of a body.
    """

    fp: Any
    headers: Any
    msg: Any
    _method: str

    def begin(self) -> None:
        """Read the head of the answer, and skip interim ones (RFC 9110 section 15.2).

        The begin() of http.client spends most of its time in email.parser.
        """
        self.fp.raw.begin_step()
        for _ in range(21):
            match = _STATUS_LINE.fullmatch(self.fp.readline(_HEAD_LIMIT))
            if match is None:
                raise _ProtocolError("it has no valid HTTP/1.1 status line")
            fields = _read_fields(self.fp)
            if match[2] >= b"200":
                break
        else:
            raise _ProtocolError("too many interim answers")
        self.fp.raw.end_step()
        self.version = 10 + int(match[1])
        self.code = self.status = int(match[2])
        # Not the server's own reason, which may echo a secret.
        self.reason = self.msg = http.client.responses.get(self.status, "")
        self.headers = http.client.HTTPMessage()
        framing = {"content-length": "", "transfer-encoding": "", "connection": ""}
        for name, value in fields:
            value = value.strip(" \t")
            self.headers.set_raw(name, value)
            name = name.lower()
            if name in framing:
                framing[name] += "," + value
        self._find_end(framing)

    def _find_end(self, framing: dict[str, str]) -> None:
        """Decide where the body ends (RFC 9112 section 6.3), and whether the connection is kept.

        1. An answer to HEAD, or with status 204 or 304, has no body.
        2. Transfer-Encoding must be chunked (or identity, which is none), and takes precedence.
        3. Content-Length must be a number.
        4. Without either, the body ends where the connection does.

        The connection is not used again in case 4 (the length stays None), if either side closes
        it, or if another reader may see the end elsewhere: with both headers, in HTTP/1.0, and with
        a body at 204.
        """
        stream = self.fp.raw
        lengths = framing["content-length"]
        coding = framing["transfer-encoding"].lower()
        number = _LENGTH.fullmatch(lengths or ",0")
        if number is None or coding not in ("", ",identity", ",chunked"):
            raise _ProtocolError("its Content-Length or Transfer-Encoding is invalid")
        self.will_close = False  # or HTTPConnection would close the stream before the body is read
        self.chunk_left = None
        self.chunked = coding == ",chunked"
        self.length = int(number[1])
        is_odd = self.status == 204 and (self.length or self.chunked)
        if self._method == "HEAD" or self.status in (204, 304):
            self.length = 0
            self.chunked = False
        elif not lengths:
            self.length = None
            stream.ends_answer = not self.chunked
        is_unclear = self.version == 10 or (lengths and coding) or is_odd
        if is_unclear or "close" in framing["connection"].lower():
            stream.keep = False

    def _get_chunk_left(self) -> int | None:
        """Return what is left of the chunk, or the size of the next one; None after the last.

        (RFC 9112 section 7.1)
        """
        if self.chunk_left:
            return self.chunk_left
        self.fp.raw.begin_step()
        if self.chunk_left == 0 and self.fp.readline(3) != b"\r\n":
            raise _ProtocolError("a chunk does not end where it should")
        line = self.fp.readline(_HEAD_LIMIT)
        match = re.fullmatch(rb"([0-9a-fA-F]{1,16})[ \t]*(?:;[^\r\n\0]*)?\r\n", line)
        if match is None:
            raise _ProtocolError("a chunk has no valid size")
        self.chunk_left = int(match[1], 16) or None
        if self.chunk_left is None:
            _read_fields(self.fp)
            self.length = 0
            self._close_conn()  # another thread may use the stream from here on
        else:
            self.fp.raw.end_step()
        return self.chunk_left

    def read(self, amt: int | None = None) -> bytes:
        """Read in pieces, since http.client allocates as much as a server announces."""
        if amt is None or amt < 0:
            return _read_up_to(self, sys.maxsize)
        return super().read(amt)

    def _close_conn(self) -> None:
        """Let go of the connection."""
        reader, self.fp = self.fp, None
        reader.raw.end_exchange(self.length == 0)


def _close_idle(streams: deque[_Stream], seconds: float = 0.0) -> None:
    """Close the connections that have been idle for that long."""
    try:
        while _since(streams[0].idle_since) >= seconds:
            streams.popleft().close()
    except IndexError:  # no more
        pass


class _Pool:
    """The idle connections, and the one SSLContext. Threads may share it.

    A connection is used again for the same route (see _Message), within 60 s, if the server has
    sent nothing meanwhile (see _take). It is dropped where _find_end or end_exchange says so.
    It has no lock: the methods of a deque are atomic, and finalizers and signal handlers may call.
    """

    def __init__(self, context: ssl.SSLContext | None) -> None:
        if not isinstance(context, (ssl.SSLContext, type(None))):
            raise TypeError("context must be an ssl.SSLContext, or None")
        self._context: Any = context
        self._is_partial = False  # whether the context knows the hashed directory only
        self._idle: deque[_Stream] = deque()  # the one used last is on the right
        # At exit, and before the garbage collector warns of open sockets.
        weakref.finalize(self, _close_idle, self._idle)

    def close(self) -> None:
        _close_idle(self._idle)

    def exchange(self, request: Any) -> Any:
        """Send a Request and return its answer, with the body still to be read."""
        message = _Message(request)
        stream = self._take(message)
        if stream is not None:
            try:
                return _converse(stream, message)
            except _TransportError as error:
                # The server may have closed it while it was idle: once more, on a new one.
                may_have_run = stream.received or isinstance(error.reason, socket.timeout)
                if may_have_run or not message.is_repeatable:
                    raise
        return _converse(self._connect(message), message)

    def _take(self, message: _Message) -> _Stream | None:
        """Return the most recently used idle connection for this route, or None.

        Close those that have been idle for too long, and those that the server has closed or has
        sent something unsolicited on.
        """
        _close_idle(self._idle, _IDLE_SECONDS)
        for stream in reversed(self._idle.copy()):
            if stream.route == message.route:
                try:
                    self._idle.remove(stream)
                except ValueError:  # another thread was faster
                    continue
                if stream.is_silent():
                    stream.begin_exchange(message)
                    return stream
                stream.close()
        return None

    def _connect(self, message: _Message) -> _Stream:
        """Open a connection: TCP, a tunnel if there is a proxy, and TLS."""
        stream = _open_stream(message, self._idle)
        if message.url.origin.scheme == "http":
            return stream
        is_partial = False
        try:
            context = self._get_context()
            is_partial = self._is_partial
            if message.proxy is not None:
                _open_tunnel(stream, message)
            stream.start_tls(context, message)
            return stream
        except BaseException as error:
            stream.close()
            is_refused = isinstance(getattr(error, "reason", None), ssl.CertificateError)
            if not is_refused or not is_partial:
                raise
        # Once more with all certificates that Python loads by default, whose verdict counts.
        self._context.load_default_certs()
        self._is_partial = False
        return self._connect(message)

    def _get_context(self) -> ssl.SSLContext:
        """Return the SSLContext; make it at first use.

        Loading all certificates takes 20 ms. A hashed directory, if the system has one, is tried
        first: OpenSSL reads only the files it needs from it.
        """
        if self._context is None:
            import glob

            directory: Any = ssl.get_default_verify_paths().capath
            # If the user set SSL_CERT_FILE, it is most likely needed.
            if "SSL_CERT_FILE" in os.environ or not glob.glob(f"{directory}/????????.0"):
                directory = None
            context = ssl.create_default_context(capath=directory)
            # Python 3.8 and 3.9 allow TLS 1.0, and take a body that is cut off for a whole one.
            context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
            context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0x80)
            self._is_partial = directory is not None
            self._context = context
        return self._context  # type: ignore[no-any-return]


def _open_stream(message: _Message, idle: deque[_Stream]) -> _Stream:
    """Connect to the proxy, if there is one, or to the server."""
    place = message.url.place
    server = message.url.origin
    if message.proxy is not None:
        place = f"the proxy {message.proxy.place}"
        server = message.proxy.origin
    timeout = message.timeout
    if message.deadline is not None:
        # create_connection() applies it to each address of the host: leave time for the others.
        timeout = max(message.deadline - time.monotonic(), 0.001) / 4
    try:
        sock = socket.create_connection((server.host.strip("[]"), server.port), timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise _TransportError(error, place) from error
    return _Stream(sock, place, message, idle)


def _open_tunnel(stream: _Stream, message: _Message) -> None:
    """Have the proxy connect the stream to the server (RFC 9110 section 9.3.6)."""
    origin = message.url.origin
    authority = f"{origin.host}:{origin.port}"
    head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
    if message.proxy_authorization is not None:
        head += f"Proxy-Authorization: {message.proxy_authorization}\r\n"
    # Not through putrequest(): tracing libraries would take it for a request to the server, and
    # send their headers to the proxy.
    stream.sendall(f"{head}\r\n".encode("iso-8859-1"))
    answer: Any = _HTTPResponse(stream, method="HEAD")  # type: ignore[arg-type]
    try:
        answer.begin()
    except _ProtocolError as error:
        raise _ProxyError(error.reason, stream.place) from None
    finally:
        answer.fp = None  # or its finalizer would close the tunnel
    if answer.status >= 300 or not stream.is_silent():
        raise _ProxyError(
            f"it answered {answer.status} to CONNECT; if it asks for a password, write its URL as "
            "http://user:password@host:port",
            stream.place,
        )


def _converse(stream: _Stream, message: _Message) -> Any:
    """Send a request on a stream and return its answer.

    Both go through methods of HTTPConnection, since tracing libraries replace these.
    """
    origin = message.url.origin
    connection: Any = http.client.HTTPConnection(origin.host, origin.port)
    connection.response_class = _HTTPResponse
    connection.default_port = _PORTS[origin.scheme]  # by which tracers tell what is https
    connection.sock = stream
    try:
        try:
            connection.request(message.method, message.target, message.body, message.headers)
        except _SendError:
            stream.keep = False  # but an early answer, or an alert of TLS, may say why
        return connection.getresponse()
    except BaseException:
        stream.close()
        raise


class _ProxyHandler(urllib.request.ProxyHandler):
    """Bypasses proxies for plain HTTP to loopback, and refuses all but HTTP proxies."""

    def proxy_open(self, request: Any, proxy: str, kind: str) -> Any:
        """Put the proxy on the request."""
        if _is_plain_loopback(_origin(request.full_url)):
            return None
        if urllib.request.proxy_bypass(request.host):
            return None
        if not re.fullmatch("(http://)?[^/]+/?", proxy, re.IGNORECASE):
            place = re.sub(r"(?s)(\w+://)?.*@", r"\1", proxy)  # without its password
            raise _ProxyError("it must be an HTTP proxy, http://host:port", f"the proxy {place}")
        return super().proxy_open(request, proxy, kind)


class _HTTPHandler(urllib.request.HTTPHandler):
    """A subclass, like the one below, so that build_opener replaces its own handler by it."""

    def __init__(self, pool: _Pool) -> None:
        # Not super(): from Python 3.12 on HTTPSHandler would load the certificates.
        self._pool = pool

    def http_open(self, request: Any) -> Any:
        """Send the request."""
        answer = self._pool.exchange(request)
        answer.url = request.full_url
        return answer


class _HTTPSHandler(urllib.request.HTTPSHandler):
    __init__: Any = _HTTPHandler.__init__
    https_open: Any = _HTTPHandler.http_open


def _read_all(answer: Any, limit: int = _BODY_LIMIT) -> bytes:
    """Return the whole body, unzipped; URLError if it breaks off or exceeds the limit."""
    body = _read_up_to(answer, limit)
    coding = answer.headers.get("Content-Encoding", "").strip().lower()
    if coding not in ("gzip", "x-gzip"):
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
                f"the body has more than {limit} bytes; for the API, use session.open()"
            )
    return bytes(whole)


# ---- Token: a value, and how old it is -----------------------------------------------------------

_UNKNOWN_LIFE = 3600.0  # seconds that a token without a usable expires_in is kept
_EXPIRED_BEFORE = 10.0  # seconds; a token with less left (or a tenth of its life) has EXPIRED
_OTHER_TOKEN_TYPES = ("dpop", "mac", "pop", "n_a")  # that need more than a Bearer header

FRESH, DUE, EXPIRED = "fresh", "due", "expired"


def _seconds(value: Any) -> float | None:
    """Return a positive number of seconds from any JSON value, or None if it is none."""
    try:
        seconds = float(str(value))  # str(), because float(True) is 1
    except ValueError:
        return None
    return seconds if 0 < seconds <= _LONGEST_LIFE else None


class Token:
    """An access token (RFC 6749 section 5.1). Its attributes cannot be
    set, and its repr does not show the secret.

    access_token: visible ASCII characters. token_type: as the server says.
    expires_at: seconds since the epoch, or None if the server did not
    say. scope: what was granted, separated by spaces, or None. raw: the
    whole answer of the server, the entry of a shared cache, or None.

    Raises ValueError for an access_token that cannot be sent in a header.
    """

    __slots__ = ("_raw", "_value")

    def __init__(
        self,
        access_token: str,
        *,
        token_type: str = "Bearer",
        expires_at: float | None = None,
        scope: str | None = None,
        raw: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(access_token, str) or not re.fullmatch("[!-~]{1,65536}", access_token):
            raise ValueError("access_token must be 1 to 65536 visible ASCII characters")
        self._value = (access_token, token_type, expires_at, scope)
        self._raw = raw

    @property
    def access_token(self) -> str:
        """The secret text."""
        return self._value[0]

    @property
    def token_type(self) -> str:
        """As the server says."""
        return self._value[1]

    @property
    def expires_at(self) -> float | None:
        """In seconds since the epoch, or None."""
        return self._value[2]

    @property
    def scope(self) -> str | None:
        """What was granted, or None."""
        return self._value[3]

    @property
    def raw(self) -> Mapping[str, Any] | None:
        """The whole answer, or None."""
        return self._raw

    def __repr__(self) -> str:
        return f"Token('***', expires_at={self.expires_at})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Token) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    @classmethod
    def from_response(cls, mapping: Mapping[str, Any], requested_at: float | None = None) -> Token:
        """Return the Token of a successful token response (RFC 6749
        section 5.1).

        mapping: the parsed JSON object. requested_at: when the request was
        sent, in seconds since the epoch; default: now.

        An expires_in that makes no sense counts as missing. Raises
        OAuthMalformedResponse for an answer without a usable token.
        """
        access_token: Any = mapping.get("access_token")
        # Deviation: required, but some servers leave it out. Apigee says "BearerToken", eBay
        # "Application Access Token", and both want a Bearer header.
        token_type = str(mapping.get("token_type") or "Bearer").strip()
        if token_type.lower() in _OTHER_TOKEN_TYPES:
            raise OAuthMalformedResponse(f"token_type {token_type} cannot be sent as Bearer")
        if token_type.lower() != "bearer":
            shown = _clean(token_type, [str(access_token)], 80)
            _log("info", "a token of token_type %r is sent as a Bearer token", shown)
        scope = mapping.get("scope")
        if isinstance(scope, list):  # Deviation: Twitch sends a list
            scope = " ".join(map(str, scope))
        if not isinstance(scope, str):
            scope = None
        if requested_at is None:
            requested_at = time.time()
        expires_at = None
        life = _seconds(mapping.get("expires_in"))
        if life is not None:
            expires_at = requested_at + life
        try:
            return cls(
                access_token,
                token_type=token_type,
                expires_at=expires_at,
                scope=scope,
                raw=dict(mapping),
            )
        except ValueError as error:
            raise OAuthMalformedResponse(f"no usable token: {error}") from None


class _KeptToken:
    """A token with its age: when it was requested, its life, and how long before its end it is
    DUE or EXPIRED."""

    def __init__(self, token: Token, requested: Moment, refresh_before: float) -> None:
        life = _UNKNOWN_LIFE
        if token.expires_at is not None:
            life = token.expires_at - requested[0]
        self.token = token
        self.requested = requested
        self.life = life
        self.expired_window = min(_EXPIRED_BEFORE, life / 10)
        self.due_window = min(refresh_before, life / 2)
        self.refresh_in = _seconds((token.raw or {}).get("refresh_in"))
        if self.refresh_in is not None:
            self.due_window = life - self.refresh_in

    def left(self) -> float:
        """Return the seconds until it ends, by the clock that leaves less."""
        return self.life - _since(self.requested)

    def age(self) -> str:
        """Return FRESH, DUE or EXPIRED."""
        left = self.left()
        if left <= self.expired_window:
            return EXPIRED
        return DUE if left <= self.due_window else FRESH

    def disable_early_renewal(self, before: _KeptToken) -> None:
        """Never become DUE: the server handed out the same token again.

        It has no other one before this has EXPIRED, and each call would cause a fetch.
        """
        self.expired_window = before.expired_window
        if self.left() <= self.expired_window:
            self.expired_window = 0.0
        self.due_window = self.expired_window


# ---- ClientCredentials: how one token is obtained ------------------------------------------------

_BACK_OFF = (0.5, 1.0)  # seconds; the longest waits before the second and the third try
_RETRY_AFTER_LIMIT = 300.0  # seconds; a server that asks for more is asked again after this
_BUSY = (408, 425, 429, 503)  # statuses that say: try again later
_TRANSIENT = (OAuthTransportError, OAuthTemporarilyUnavailable, OAuthServerError)
# After these the next method is tried. Deviation: servers without Basic answer invalid_request.
_TRY_NEXT_METHOD = (OAuthInvalidClient, OAuthInvalidRequest)
# Codes that blame something else than the client, even with status 401.
_NOT_THE_CLIENT = ("invalid_scope", "invalid_target", "unsupported_grant_type")
# Client authentication (OpenID Connect Core section 9, RFC 8705), and the setting that each needs.
_METHODS: dict[str | None, str] = {
    None: "client_secret",  # the method is found out, see _try_methods
    "client_secret_basic": "client_secret",
    "client_secret_post": "client_secret",
    "client_secret_basic_raw": "client_secret",
    "client_secret_jwt": "client_secret",
    "private_key_jwt": "client_assertion",
    "tls_client_auth": "",
    "none": "",
}
_AMBIGUOUS = "[^A-Za-z0-9_.~-]"  # what servers expect encoded or not (RFC 6749 section 2.3.1)
_JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"  # RFC 7523 section 2.2
# Fields of token_params that hold secrets, by their names.
_SECRET_FIELDS = "(secret|passw|pwd|token|assertion|key|code|otp)(?!.*type)"
_SHORTEST_SECRET = 6  # characters; masking shorter values would mask ordinary words
_ASSERTION_LIFE = 120  # seconds; a request takes less, and clocks differ
_DISCOVERY_EVERY = 60.0  # seconds; usable metadata of an issuer are not read again sooner
_ORDER = "; the order is OAuthSession(client_id, client_secret, scope, token_url)"

_INFERRED = ["client_secret_basic", "client_secret_post"]  # tried if no method is named

# secrets: to be masked in every text.
_TokenRequest = namedtuple("_TokenRequest", "url data headers secrets")
# mapping: the JSON object that the body is, or an empty dict.
_Reply = namedtuple("_Reply", "status headers size mapping")


class ClientCredentials:
    """Obtains one token by the client credentials grant (RFC 6749 section
    4.4). It is a callable for TokenSource.

    client_id, client_secret, scope, token_url, issuer, auth_method,
    client_assertion, assertion_audience, audience, resource, token_params,
    token_headers, context, allow_http: as for OAuthSession.
    headers: only their User-Agent is used; may be changed. handlers: only
    a urllib ProxyHandler is used. timeout: seconds for one whole fetch,
    with all tries but without the DNS look-up; default 30; may be changed.

    _build() makes the request from these; see it for how the client proves
    itself. A call returns a Token, or raises OAuthTransportError, an
    OAuthResponseError (that of the first method, if several were refused),
    or what a callable raises. Any thread may call it. Raises ValueError or
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
        if issuer is None:
            token_url = _check_url("token_url", token_url, allow_http, _ORDER)
        elif token_url is not None:
            raise _contradiction("token_url", "issuer")
        else:
            issuer = _check_url("issuer", issuer, allow_http)
        self.client_id = _credential("client_id", client_id)
        self.token_url = token_url
        self.issuer = issuer
        self._set_secret(client_secret, client_assertion, auth_method)
        self._assertion_audience = assertion_audience
        self.scope = " ".join(_texts("scope", scope)) or None
        settings = {
            "grant_type": "client_credentials",
            "scope": self.scope,
            "audience": _texts("audience", audience),
            "resource": _texts("resource", resource),
        }
        settings.update(token_params or {})
        self._fields = _form_fields("token_params", settings)
        self._token_headers = _check_headers(token_headers)
        self.headers = headers or {}
        self.timeout = timeout
        self._allow_http = allow_http
        self._endpoint: Any = token_url  # or what the metadata of the issuer say
        self._inferred = _INFERRED
        self._discovered: Moment = _LONG_AGO
        self._endpoint_may_have_moved = True
        self._opener = _token_opener(handlers, pool or _Pool(context))

    def _set_secret(self, client_secret: Any, client_assertion: Any, method: str | None) -> None:
        """Keep the secret or assertion, and the method, or None if that is to be found out."""
        if method is None and client_assertion is not None:
            method = "private_key_jwt"
        if method not in _METHODS:
            raise ValueError(f"auth_method must be one of {list(_METHODS)}")
        needed = _METHODS[method]
        given = {"client_secret": client_secret, "client_assertion": client_assertion}
        secret = given.pop(needed, "")
        for name, value in given.items():
            if value is not None:
                other = f"auth_method={method!r} (with {needed or 'no secret'})"
                raise _contradiction(name, other)
        if needed and not callable(secret):
            secret = _credential(needed, secret)
        self._secret = secret
        self.auth_method = method
        self._method = method  # or what was seen to work

    def __repr__(self) -> str:
        return f"ClientCredentials({self.client_id!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials cannot be pickled: make them anew from their settings")

    @property
    def cache_key(self) -> str:
        """A hash of the settings that go into a token request, and the
        secret: who differs in one of them shares no token. Callables and
        the certificate of context are not part of it."""
        import hmac

        settings = [
            self.issuer, self.token_url, self.client_id, self.auth_method,
            self._assertion_audience, self._fields, self._token_headers,
        ]  # fmt: skip
        secret = b""
        if not callable(self._secret):
            secret = self._secret.encode()
        return hmac.new(secret, json.dumps(settings).encode(), "sha256").hexdigest()

    def __call__(self) -> Token:
        """Fetch one token, in up to three tries within `timeout`."""
        deadline = time.monotonic() + self.timeout
        for longest_wait in _BACK_OFF:
            try:
                return self._try(deadline)
            except _TRANSIENT as error:
                wait = getattr(error, "retry_after", None)
                if wait is None:
                    wait = random.uniform(0, longest_wait)
                if _is_lasting(error.__cause__) or wait > (deadline - time.monotonic()) / 2:
                    raise
            time.sleep(wait)
        return self._try(deadline)

    def _try(self, deadline: float) -> Token:
        """Fetch one token; once more if the client is refused and its secret has changed."""
        if self.issuer is not None:
            self._discover(deadline)
        secret = self._current_secret()
        try:
            return self._try_methods(secret, deadline)
        except _TRY_NEXT_METHOD:
            rotated = self._current_secret()
            if rotated == secret:
                raise
        return self._try_methods(rotated, deadline)

    def _current_secret(self) -> str:
        """Return the secret or assertion for the next request."""
        if not callable(self._secret):
            return str(self._secret)
        secret = self._secret()
        try:
            return _credential(_METHODS[self.auth_method], secret)
        except (TypeError, ValueError) as error:  # a file may be half written, for example
            raise OAuthError(f"what the callable returned cannot be used: {error}") from None

    def _discover(self, deadline: float) -> None:
        """Read the metadata of the issuer, if necessary: RFC 8414, else OpenID Connect."""
        is_old = self._endpoint_may_have_moved and _since(self._discovered) > _DISCOVERY_EVERY
        if self._endpoint is not None and not is_old:
            return
        self._discovered = _now()
        issuer = _split_url(str(self.issuer))
        path = issuer.target.rstrip("/")
        problems = ""
        for url in (
            f"{issuer.place}/.well-known/oauth-authorization-server{path}",
            f"{issuer.place}{path}/.well-known/openid-configuration",
        ):
            reply = self._send(_TokenRequest(url, None, {}, ()), deadline)
            try:
                self._adopt(reply.mapping)
                return
            except (TypeError, ValueError) as error:
                problems += f"{url} answered {reply.status}: {error}; "
        kind = _kind_of(reply.status, None)
        if kind not in _TRANSIENT:
            kind = OAuthMalformedResponse
        advice = "is issuer right? If it is, give token_url instead"
        raise kind(problems + advice, status=reply.status)

    def _adopt(self, metadata: dict[str, Any]) -> None:
        """Keep the token endpoint and methods of metadata; ValueError if they are of no use."""
        named = metadata.get("issuer")
        if named != self.issuer:  # Azure AD B2C, for example
            raise ValueError(f"issuer is {_clean(named)!r}, not {self.issuer!r}")
        if self.auth_method == "tls_client_auth":  # RFC 8705 section 5
            metadata.update(metadata.get("mtls_endpoint_aliases") or {})
        listed = metadata.get("token_endpoint_auth_methods_supported") or ()
        usable = [method for method in (*_INFERRED, "client_secret_jwt") if method in listed]
        self._inferred = usable or _INFERRED
        endpoint = metadata.get("token_endpoint")
        self._endpoint = _check_url("token_endpoint", endpoint, self._allow_http)

    def _try_methods(self, secret: str, deadline: float) -> Token:
        """Ask for a token by one method after the other, until the client is not refused."""
        methods: list[Any] = [self._method]
        if self._method is None:
            methods = list(self._inferred)
            if "client_secret_basic" in methods and re.search(_AMBIGUOUS, self.client_id + secret):
                methods.append("client_secret_basic_raw")
        first: Any = None
        for method in methods:
            try:
                token = self._request(method, secret, deadline)
            except _TRY_NEXT_METHOD as error:
                first = first or error
            except OAuthResponseError as error:
                # A code that nobody knows does not say whether another method was understood.
                if first is None or type(error) is not OAuthResponseError:
                    raise
            else:
                if first is not None:
                    _log("info", "the server accepts %s: name it as auth_method", method)
                self._method = method
                return token
        first.args = (f"{first} (tried: {', '.join(methods)})",)
        raise first

    def _request(self, method: str, secret: str, deadline: float) -> Token:
        """Send one token request (RFC 6749 section 4.4.2) and judge the answer."""
        request = self._build(method, secret)
        requested_at = time.time()
        self._endpoint_may_have_moved = True  # until the endpoint has answered
        reply = self._send(request, deadline)
        self._endpoint_may_have_moved = reply.status == 404
        return _judge(request, reply, requested_at, self.scope)

    def _build(self, method: str, secret: str) -> _TokenRequest:
        """Make a token request that proves who the client is (RFC 6749 section 2.3)."""
        headers = dict(self._token_headers)
        proof = {"client_id": self.client_id}
        assertion = ""
        if method == "client_secret_post":
            proof["client_secret"] = secret
        elif method == "private_key_jwt":
            assertion = secret
        elif method == "client_secret_jwt":
            audience = self._assertion_audience or self.issuer or self._endpoint
            assertion = _sign(self.client_id, secret, audience)
        elif method.startswith("client_secret_basic"):
            # Deviation: client_secret_basic_raw is for servers that do not decode.
            pair = [self.client_id, secret]
            if method == "client_secret_basic":
                # Section 2.3.1. A space as %20, since servers read + differently.
                pair = [urllib.parse.quote(text, "") for text in pair]
            basic = base64.b64encode(":".join(pair).encode()).decode()
            headers["Authorization"] = "Basic " + basic
            proof = {}
        if assertion:
            proof["client_assertion_type"] = _JWT_BEARER
            proof["client_assertion"] = assertion
        fields = [*self._fields, *proof.items()]

        # To be masked if the server echoes them: fields by their names, and all headers.
        values = assertion.split(".")
        values += [value for name, value in fields if re.search(_SECRET_FIELDS, name.lower())]
        for value in headers.values():
            values += [value, value.rpartition(" ")[2].rstrip("=")]
        secrets = [value for value in values if len(value) >= _SHORTEST_SECRET]
        data = _encode_form(fields).encode()
        return _TokenRequest(self._endpoint, data, headers, [secret, *secrets])

    def _send(self, token_request: _TokenRequest, deadline: float) -> _Reply:
        """Send a request to the authorisation server and return its answer, whatever the status."""
        agent = _check_headers(self.headers).get("User-Agent", _USER_AGENT)
        headers = {"Accept": "application/json", "User-Agent": agent, **token_request.headers}
        request: Any = urllib.request.Request(token_request.url, token_request.data, headers)
        request.deadline = deadline
        try:
            with self._opener.open(request, timeout=None) as answer:
                body = _read_all(answer, _ANSWER_LIMIT)
        except urllib.error.URLError as error:
            text = _clean(error, _spellings(*token_request.secrets))
            if not _is_lasting(error):
                text += "; is token_url right, or issuer?"
            if isinstance(error, _ProtocolError):
                raise OAuthMalformedResponse(text) from None
            raise OAuthTransportError(text) from error
        mapping = _parse_object(body, answer.headers.get("Content-Type", ""))
        return _Reply(answer.status, answer.headers, len(body), mapping)


def _own_handler(handler: Any) -> Any:
    """Return a copy of a user's handler, since a handler can belong to one opener only."""
    if isinstance(handler, type):
        handler = handler()
    if type(handler) is urllib.request.ProxyHandler:
        return _ProxyHandler(handler.proxies)  # type: ignore[attr-defined]
    duplicate: Any = copy.copy(handler)
    if isinstance(duplicate, urllib.request.ProxyHandler):
        # Its methods are functions bound to the original, also in a copy.
        proxies = duplicate.proxies  # type: ignore[attr-defined]
        urllib.request.ProxyHandler.__init__(duplicate, proxies)
    return duplicate


def _token_opener(handlers: Iterable[Any], pool: _Pool) -> urllib.request.OpenerDirector:
    """Return the opener for token requests: it follows no redirect and keeps no cookie."""
    proxies = [
        _own_handler(one) for one in handlers if isinstance(one, urllib.request.ProxyHandler)
    ]
    opener = urllib.request.OpenerDirector()
    for handler in (*(proxies or [_ProxyHandler()]), _HTTPHandler(pool), _HTTPSHandler(pool)):
        opener.add_handler(handler)
    return opener


def _credential(name: str, value: Any) -> str:
    """Return client_id, client_secret or client_assertion as text; errors do not show it."""
    text = _text(value or "", name, _ORDER)
    if not text or not text.isprintable():
        raise ValueError(f"{name} is missing, or has control characters such as a line end{_ORDER}")
    return text


def _texts(name: str, value: Any) -> list[str]:
    """Return a setting that is one text or several as a list."""
    if not value:
        return []
    if isinstance(value, (str, bytes)):
        value = [value]
    if isinstance(value, (set, frozenset)):
        value = sorted(value)  # or the key of a shared cache would not be the same everywhere
    return [_text(one, name) for one in value]


def _sign(client_id: str, secret: str, audience: str) -> str:
    """Return a JWT that proves who the client is (RFC 7523). Servers accept each one once."""
    import hmac

    def encode(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    now = int(time.time())
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "iat": now,
        "exp": now + _ASSERTION_LIFE,
        "jti": os.urandom(16).hex(),
    }
    header = b'{"alg": "HS256", "typ": "JWT"}'
    message = encode(header) + b"." + encode(json.dumps(claims).encode())
    signature = hmac.new(secret.encode(), message, "sha256").digest()
    return (message + b"." + encode(signature)).decode()


def _judge(request: _TokenRequest, reply: _Reply, requested_at: float, scope: str | None) -> Token:
    """Return the Token of an answer, or raise what it means (RFC 6749 sections 5.1 and 5.2)."""
    mapping = reply.mapping
    secrets = list(request.secrets)
    for name in ("access_token", "refresh_token", "id_token"):
        secrets.append(str(mapping.get(name) or ""))
    problem = "no error code"
    if 200 <= reply.status < 300 and not mapping.get("error"):
        mapping.setdefault("scope", scope)  # may be left out if it is what was asked for
        token_type = str(mapping.get("token_type") or "")
        if token_type.lower() != "bearer":
            mapping["token_type"] = _clean(token_type, _spellings(*secrets), 80)
        try:
            return Token.from_response(mapping, requested_at)
        except OAuthMalformedResponse as error:
            problem = str(error)

    secrets = _spellings(*secrets)
    said = {}
    for name in ("error", "error_description", "error_uri"):
        if mapping.get(name) and isinstance(mapping[name], str):
            said[name] = _clean(mapping[name], secrets)
    media_type = _clean(reply.headers.get("Content-Type", "no Content-Type"), secrets)
    detail = ": ".join(said.values()) or f"{problem} ({media_type}, {reply.size} bytes)"
    kind = _kind_of(reply.status, str(mapping.get("error")))
    raise kind(
        f"{_split_url(request.url).place} answered {reply.status} - {detail}; {kind._advice}",
        status=reply.status,
        headers=_clean_headers(reply.headers, secrets),
        retry_after=_retry_after(reply.headers),
        **said,
    )


def _kind_of(status: int, code: Any) -> type[OAuthResponseError]:
    """Return the class of a refusal (RFC 6749 section 5.2)."""
    # Deviation: Auth0 answers 401 access_denied, ServiceNow server_error, Keycloak
    # unauthorized_client.
    if status == 401 and code not in _NOT_THE_CLIENT:
        return OAuthInvalidClient
    if status in _BUSY:
        return OAuthTemporarilyUnavailable
    if status >= 500:
        return OAuthServerError
    if code in ERRORS_BY_CODE:
        return ERRORS_BY_CODE[code]
    if status == 403:
        return OAuthInvalidClient
    if status < 400:
        return OAuthMalformedResponse
    return OAuthResponseError


def _is_lasting(cause: Any) -> bool:
    """Return whether trying again is useless: a wrong certificate, or an unusable proxy."""
    reason = getattr(cause, "reason", None)
    return isinstance(cause, _ProxyError) or isinstance(reason, ssl.CertificateError)


def _parse_object(body: bytes, content_type: str) -> dict[str, Any]:
    """Return the JSON object that a body is, or an empty dict if it is something else."""
    try:
        parsed = json.loads(_decode(body, content_type))
    except (ValueError, RecursionError):
        parsed = None
    return parsed if isinstance(parsed, dict) else {}


def _seconds_of_date(text: Any) -> float | None:
    """Return an HTTP date (RFC 9110 section 5.6.7) in seconds since the epoch, or None."""
    try:
        return email.utils.mktime_tz(email.utils.parsedate_tz(text))
    except Exception:  # of many kinds, and not the same in each Python
        return None


def _retry_after(headers: http.client.HTTPMessage) -> float | None:
    """Return the seconds of a Retry-After header, at most 300, or None (RFC 9110, 10.2.3)."""
    text = headers.get("Retry-After", "")
    if re.fullmatch("[0-9]+([.][0-9]+)?", text):
        return min(float(text), _RETRY_AFTER_LIMIT)
    end = _seconds_of_date(text)
    if end is None:
        return None
    return min(max(end - time.time(), 0.0), _RETRY_AFTER_LIMIT)


# ---- Caches: FileCache, and how any cache is asked without harm ----------------------------------

# Seconds for which a cache that failed, or hangs, is not used.
_CACHE_REST = 60.0
_CACHE_POLL = 0.05  # seconds between two attempts to get the lock of another process
# How long to wait for the fetch of another process: a random part of what ours may take.
_CACHE_PATIENCE = 0.3, 0.5
_LONGEST_ENTRY = 30 * 86400  # seconds; memcached takes a greater number for a date
_AHEAD_LIMIT = 300.0  # seconds that the clock of another machine may be ahead

_FORK_AWARE: weakref.WeakSet[Any] = weakref.WeakSet()  # what must know when it is in a forked child


def _after_fork() -> None:
    for one in list(_FORK_AWARE):
        one._reset_after_fork()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)


class FileCache:
    """A cache that the processes of one user on one machine share: a
    directory with one file for each token.

    directory: a path; `~` is expanded. It is made with mode 0700 at first
    use. Files have mode 0600, and are written whole or not at all.

    Nothing in it is trusted that another user owns or could write, and no
    symbolic link is followed. It must be below a directory that only you
    can write to, such as your home. The methods do I/O and raise OSError,
    which a TokenSource logs; it then works without the cache. Threads may
    share it.
    """

    def __init__(self, directory: str | bytes | os.PathLike[Any]) -> None:
        path = os.path.expanduser(os.fsdecode(directory))
        if not path or path.startswith("~"):
            raise ValueError("cache must name a directory; with ~, there must be a home directory")
        self.directory = os.path.abspath(path)

    def get(self, key: str) -> bytes | None:
        """Return what was set, or None if nothing is there that can be
        trusted."""
        path = self._path(key)
        try:
            _check_private(path, stat.S_ISREG)
            with open(path, "rb") as file:
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
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise

    def lock(self, name: str, timeout: float | None = None) -> _FileLock:
        """Return a lock with acquire() and release(). The system frees it
        when its holder dies, so timeout is ignored."""
        return _FileLock(self._path(name))

    def _path(self, key: str) -> str:
        os.makedirs(self.directory, 0o700, exist_ok=True)
        _check_private(self.directory, stat.S_ISDIR)
        return os.path.join(self.directory, urllib.parse.quote(key, ""))


class _FileLock:
    """Lock out other threads and processes. The file stays: removing it would let two in."""

    def __init__(self, path: str) -> None:
        if os.path.lexists(path):
            _check_private(path, stat.S_ISREG)
        self._number = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._closer = weakref.finalize(self, os.close, self._number)
        _FORK_AWARE.add(self)

    def _reset_after_fork(self) -> None:
        """Close the file: while a forked child has it open, the parent's lock would outlive it."""
        self._closer()

    def acquire(self, blocking: bool = False) -> bool:
        """Return whether the lock is held now; never wait, so blocking is ignored."""
        return _lock_file(self._number, True)

    def release(self) -> None:
        """Free the lock. Closing the file would not, while a forked child has it open."""
        _lock_file(self._number, False)


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
    except OSError:  # this file system has no locks: go on without
        pass
    return True


def _check_private(path: str, is_kind: Callable[[int], bool]) -> None:
    """Refuse what is of another kind, such as a link or pipe, or what another user could change.

    As nobody else can write to the directory, what was checked is what is then opened.
    """
    status = os.lstat(path)
    trusted = is_kind(status.st_mode)
    if hasattr(os, "geteuid"):  # Windows has no such modes
        trusted = trusted and status.st_uid == os.geteuid() and not status.st_mode & 0o022
    if not trusted:
        raise PermissionError(
            f"{path} must be yours, no link, and for nobody else to write to: chmod 700, "
            "or use another path"
        )


class _SharedCache:
    """Wraps a cache so that its failures break no request: they are logged, and it is not used
    for a while."""

    def __init__(self, cache: Any, key: str | None, fetch: Any) -> None:
        import hashlib  # urllib has imported it already

        self.cache = FileCache(cache) if isinstance(cache, (str, bytes, os.PathLike)) else cache
        if not hasattr(self.cache, "set"):
            raise TypeError(
                "cache must be a path, or an object with get(key) and set(key, value, seconds)"
            )
        key = key or getattr(fetch, "cache_key", None)
        if key is None:
            raise ValueError("cache_key must say what is shared, if fetch is a callable of yours")
        text = _text(key, "cache_key")
        self.key = "oauth_session-" + hashlib.sha256(text.encode()).hexdigest()
        try:
            self.can_lock = callable(self.cache.lock)
        except Exception:  # diskcache.FanoutCache raises AssertionError
            self.can_lock = False
        self.failed_at: Moment = _LONG_AGO
        self.has_warned = False

    def attempt(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a method of the cache or its lock; return None if it fails, or one failed lately."""
        if _since(self.failed_at) < _CACHE_REST:
            return None
        self.failed_at = _now()  # until it returns: while it hangs, others do without the cache
        try:
            result = method(*arguments, **options)
        except Exception as error:
            # The text of an error that is not ours may show the token.
            shown = _clean(error) if isinstance(self.cache, FileCache) else type(error).__name__
            what = "the shared cache fails, and is left alone for %d s: %s"
            _log("warning", what, _CACHE_REST, shown)
            return None
        self.failed_at = _LONG_AGO
        return result

    def read(self, refresh_before: float) -> _KeptToken | None:
        """Return the token in the cache, if it has not expired; judge it like a fresh answer."""
        value = self.attempt(self.cache.get, self.key)
        if value is None:
            return None
        wall, steady = _now()
        try:
            entry = json.loads(value, parse_int=float)  # int() of many digits may take minutes
            requested = entry["obtained_at"]
            if not requested <= wall + _AHEAD_LIMIT:
                raise ValueError("it is from the future")
            elapsed = max(0.0, wall - requested)  # a clock that is ahead must not prolong its life
            token = Token.from_response(entry, wall - elapsed)
        except Exception:  # whatever somebody wrote there
            if not self.has_warned:
                self.has_warned = True
                _log("warning", "what the shared cache holds makes no sense, and is not used")
            return None
        kept = _KeptToken(token, (requested, steady - elapsed), refresh_before)
        return None if kept.age() == EXPIRED else kept

    @contextlib.contextmanager
    def locked(self, limit: float) -> Iterator[None]:
        """Hold the lock while one process fetches; do without if others hold it for too long."""
        lock: Any = None
        held = None
        if self.can_lock:
            lock = self.attempt(self.cache.lock, self.key + ".lock", timeout=limit)
        if lock is not None:
            patience = limit * random.uniform(*_CACHE_PATIENCE)
            for _ in range(1 + int(patience / _CACHE_POLL)):
                held = self.attempt(lock.acquire, blocking=False)
                if held is not False:
                    break
                time.sleep(_CACHE_POLL)
        try:
            yield
        finally:
            if held:
                with contextlib.suppress(Exception):  # it has a time-out, which may have passed
                    lock.release()

    def write(self, kept: _KeptToken) -> None:
        """Store a token in the form of a token response."""
        token = kept.token
        entry = {
            "access_token": token.access_token,
            "token_type": token.token_type,
            "scope": token.scope,
            "expires_in": kept.life,
            "refresh_in": kept.refresh_in,
            "obtained_at": kept.requested[0],
        }
        seconds = min(max(1, int(kept.left())), _LONGEST_ENTRY)
        self.attempt(self.cache.set, self.key, json.dumps(entry), seconds)


# ---- TokenSource: keeps the token and renews it, one fetch at a time -----------------------------

_FETCH_LIMIT = 30.0  # seconds that a fetch without a `timeout` of its own may take
_FETCH_GRACE = 2.0  # seconds beyond the limit of a fetch, for what no deadline covers
_ANSWER_GRACE = 0.2  # seconds beyond a caller's time-out, for the error of the fetch to arrive
_REPLACE_INTERVAL = 60.0  # seconds; an API that answers 401 for ever costs one fetch in this time
_RENEWAL_PAUSE = 1.0  # seconds from a failure to the next renewal, for which nobody waits
# Seconds from a failure to the next fetch: from the first in a row, the second ...
_PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)


class _Fetch:
    """A fetch in a thread of its own. All who need its token wait until it is done."""

    def __init__(self, limit: float, background: bool = False, refused: str = "") -> None:
        self.limit = limit  # seconds that it may take
        self.background = background  # it renews a DUE token
        self.refused = refused  # the token that it is to replace, if an API refused one
        self.started = _now()
        self.thread: int | None = threading.get_ident()  # that runs it, or is about to start it
        self.done = threading.Event()
        self.token: Token | None = None
        self.error: Exception | None = None
        self.failed: Moment = _LONG_AGO
        self.pause = 0.0  # seconds after the failure until the next one may start

    def is_alive(self) -> bool:
        """Return whether its result may still come.

        Past its deadline it is dead: it hangs, or its process was frozen. In an interpreter that
        shuts down, no other thread runs again.
        """
        in_time = _since(self.started) < self.limit + _FETCH_GRACE
        return in_time and not self.done.is_set() and not sys.is_finalizing()

    def allows_next(self, least_pause: float = 0.0) -> bool:
        """Return whether another fetch may start."""
        return not self.is_alive() and _since(self.failed) >= max(self.pause, least_pause)


class TokenSource:
    """Keeps a token and renews it in time (RFC 6749 section 4.4: by the
    same grant again). Threads may share it.

    fetch: a callable that returns a Token, such as ClientCredentials. It
    is called in a thread of its own, one at a time.
    refresh_before: seconds before its end at which a token is DUE, at most
    half of its life; default 300. refresh_in in the token response takes
    precedence over it.
    cache: to share the token with other processes, a directory (see
    FileCache), or an object with get(key) and set(key, value, seconds),
    such as redis.Redis(). With lock(name, timeout=...) too, one process
    fetches for all. The cache holds the token in plain text.
    cache_key: a text that says what is shared; default: a hash of the
    settings and the secret of ClientCredentials.

    A FRESH or DUE token is returned at once; a DUE one is renewed in the
    background meanwhile. Without one, callers wait for the fetch that is
    under way, or start one. Each fetch runs in a daemon thread of its own:
    it looks into the cache, else obtains a token, and writes it there. All
    who wait get its token or its error. A token that arrives after the
    deadline of the fetch, or after clear(), is not kept.
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
            raise TypeError("fetch must be a callable that returns a Token")
        if not 0 <= refresh_before <= _LONGEST_LIFE:
            raise ValueError("refresh_before must be a number of seconds, 0 or more")
        self._fetch = fetch
        self._refresh_before = refresh_before
        self._cache = None if cache is None else _SharedCache(cache, cache_key, fetch)
        self._kept: _KeptToken | None = None  # replaced as a whole, and read without the lock
        self._ignore_entries_before = 0.0  # wall clock; of the shared cache
        self._reset_after_fork()
        _FORK_AWARE.add(self)

    def _reset_after_fork(self) -> None:
        """Make the lock; forget fetches and failures, since no thread of a parent ends them."""
        # Guards every write, and what must be read together; never held while foreign code runs.
        # An RLock, since the garbage collector may run a finalizer that uses the source in the
        # thread that holds it.
        self._lock = threading.RLock()
        self._forget_fetches()

    def _forget_fetches(self) -> None:
        self._last = _Fetch(0.0)  # the fetch under way, else the last one
        self._last.done.set()  # there is none yet
        self._failures = 0  # in a row
        self._refused = ""  # the last token that an API refused
        self._replaced: Moment = _LONG_AGO  # when the last fetch for a refused token began

    def __repr__(self) -> str:
        # Of another callable the name alone: a functools.partial would show its arguments.
        known = isinstance(self._fetch, ClientCredentials)
        shown = repr(self._fetch) if known else type(self._fetch).__name__
        return f"TokenSource({shown})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a TokenSource cannot be pickled: make it anew from its settings")

    def token(self, timeout: float | None = None) -> Token:
        """Return a token that has not expired, fetching one if necessary.

        timeout: seconds to wait for it, at most and by default as long as
        two fetches may take. Raises OAuthError if none can be had, and what
        fetch raises.
        """
        # _ready() may start a renewal; _obtain() waits for a fetch.
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
        refused = token.access_token if isinstance(token, Token) else token
        return self._obtain(timeout, refused)

    def clear(self) -> None:
        """Forget token, errors and pauses. A fetch under way serves those
        who wait for it, and its token is not kept."""
        with self._lock:
            self._forget_fetches()
            self._kept = None
            # The token just forgotten may carry a later time, by a clock that is ahead.
            self._ignore_entries_before = max(time.time(), self._ignore_entries_before)

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
        limit = self._limit
        with self._lock:
            if self._kept is not kept or not self._last.allows_next(_RENEWAL_PAUSE):
                return
            fetch = self._last = _Fetch(limit, background=True)
        self._start(fetch)

    def _obtain(self, timeout: float | None, refused: str = "") -> Token:
        """Return the token to use; wait for a fetch if necessary."""
        patience = 2 * self._limit  # the fetch may wait for a shared cache first
        if timeout is not None:
            # A fetch with the same time-out ends before, and says why.
            patience = min(patience, timeout + _ANSWER_GRACE)
        end = time.monotonic() + patience
        while True:
            token, fetch = self._token_or_fetch(refused)
            if token is not None:
                return token
            fetch.done.wait(end - time.monotonic())
            if fetch.token is not None:
                return fetch.token
            # If a renewal in the background fails, callers do not get its error, but fetch.
            if not fetch.background or not fetch.allows_next():
                break
        token = self._ready()  # from the fetch that replaced a dead one
        if token is not None and token.access_token != refused:
            return token
        if fetch.error is not None:
            raise _copy(fetch.error)
        raise OAuthTransportError("no token came in time: is token_url slow, or a shared cache?")

    def _token_or_fetch(self, refused: str) -> tuple[Token | None, _Fetch]:
        """Return the token to use at once, if there is one, and the fetch to wait for otherwise.

        1. The token at hand, unless it is the refused one.
        2. Else that of the fetch under way.
        3. Else that of a new fetch.
        4. If it is too early for one, the refused token, or the error of the last fetch.
        """
        limit = self._limit
        with self._lock:
            kept = self._kept
            fetch = self._last
            starts = fetch.allows_next()
            self._refused = refused or self._refused
            if kept is not None and kept.age() != EXPIRED:
                if kept.token.access_token != refused:
                    return kept.token, fetch
                starts = starts and _since(self._replaced) >= _REPLACE_INTERVAL
            if starts:
                fetch = self._last = _Fetch(limit, refused=refused)
            elif refused and not fetch.is_alive():
                return Token(refused), fetch
        if starts:
            self._start(fetch)
        elif fetch.thread == threading.get_ident():
            raise OAuthError(
                "a secret callable, fetch callable or log handler must not use the session "
                "that it serves: its token is being fetched"
            )
        return None, fetch

    def _start(self, fetch: _Fetch) -> None:
        """Run the fetch in a daemon thread; in this one if no thread can be started."""
        if not sys.is_finalizing():  # else no thread runs any more, and nothing can be imported
            import contextvars

            thread = threading.Thread(
                target=contextvars.copy_context().run,  # so that tracers see the caller's context
                args=(self._run, fetch),
                name="oauth_session token request",
                daemon=True,
            )
            try:
                thread.start()
                return
            except RuntimeError:
                pass
            except BaseException:  # Ctrl-C: nobody must wait for it
                fetch.done.set()
                raise
        self._run(fetch)

    def _run(self, fetch: _Fetch) -> None:
        """Get a token and keep it, or see how long to pause; wake all who wait."""
        fetch.thread = threading.get_ident()
        try:
            self._read_or_fetch(fetch)
        except Exception as error:
            self._fail(fetch, error)
        finally:
            fetch.thread = None
            fetch.done.set()
        why = fetch.error
        if fetch.background and why is not None:
            # The text of an error that is not ours may show a secret.
            shown = why if isinstance(why, OAuthError) else type(why).__name__
            _log("warning", "renewal failed, the old token stays in use: %s", shown)

    def _read_or_fetch(self, fetch: _Fetch) -> None:
        """Take the token of the shared cache; else fetch one, and write it there.

        All that is done before the callers go on: a short script may end then, and this thread
        with it.
        """
        cache = self._cache
        if cache is None:
            self._keep(fetch, self._call_fetch(fetch))
            return
        kept = self._read(cache)
        if kept is None:
            with cache.locked(self._limit):
                kept = self._read(cache)  # who held the lock before us may have left a token
                if kept is None:
                    kept = self._call_fetch(fetch)
                    if self._keep(fetch, kept):
                        cache.write(kept)
                    return
        self._keep(fetch, kept)

    def _read(self, cache: _SharedCache) -> _KeptToken | None:
        """Return the token of the shared cache, unless it was cleared, replaced or refused here."""
        kept = cache.read(self._refresh_before)
        if kept is None or kept.requested[0] <= self._ignore_entries_before:
            return None
        if kept.token.access_token == self._refused:
            return None
        return kept

    def _call_fetch(self, fetch: _Fetch) -> _KeptToken:
        """Return what the callable of the user, or ClientCredentials, obtains."""
        fetch.started = _now()  # the shared cache may have taken its time
        if fetch.refused:
            with self._lock:
                self._replaced = fetch.started
        try:
            token = self._fetch()
        except urllib.error.HTTPError as error:  # must not be taken for the API's answer
            raise OAuthError(
                f"fetching the token failed with HTTP status {error.code}"
            ) from error
        if not isinstance(token, Token):
            raise TypeError("fetch must return a Token")
        kept = _KeptToken(token, fetch.started, self._refresh_before)
        if kept.left() <= 0:
            raise OAuthMalformedResponse(
                "the token had expired before it arrived: compare the clocks"
            )
        return kept

    def _keep(self, fetch: _Fetch, kept: _KeptToken) -> bool:
        """Give the token to all who wait, and keep it; return False if it is not to be kept: the
        fetch is dead, or clear() was called meanwhile."""
        fetch.token = kept.token
        with self._lock:
            if self._last is not fetch or not fetch.is_alive():
                return False
            before = self._kept
            if before is not None and before.token.access_token == kept.token.access_token:
                kept.disable_early_renewal(before)
            elif self._cache is not None and not self._cache.can_lock:
                # Only chance keeps many processes from renewing it all at once.
                kept.due_window *= random.uniform(0.6, 1.0)
            self._failures = 0
            self._kept = kept
            self._ignore_entries_before = kept.requested[0]
            return True

    def _fail(self, fetch: _Fetch, error: Exception) -> None:
        """Give the error to all who wait, and decide when the next fetch may start."""
        fetch.error = error
        with self._lock:
            if self._last is not fetch:
                return
            fetch.failed = _now()
            fetch.pause = _PAUSES[min(self._failures, len(_PAUSES) - 1)]
            fetch.pause *= random.uniform(0.5, 1.0)
            if isinstance(error, OAuthResponseError) and error.retry_after:
                fetch.pause = min(error.retry_after, _RETRY_AFTER_LIMIT)
            self._failures += 1


def _copy(error: Exception) -> Exception:
    """Return a copy for each who waits: the traceback of an error that is raised again grows."""
    duplicate: Exception
    try:
        # The traceback says where in a fetch callable it came from.
        duplicate = copy.copy(error).with_traceback(error.__traceback__)
        duplicate.__cause__ = error.__cause__
    except Exception:  # it cannot be copied
        duplicate = OAuthError(f"the token could not be obtained: {type(error).__name__}")
    return duplicate


# ---- OAuthHandler: which requests get the token, what a 401 does, where redirects may go ---------

_LOCATION_LIMIT = 8 << 10  # characters; servers accept no longer URL
_SHORTEST_TOKEN = 16  # characters; a shorter one may be part of any URL
_MAX_REDIRECTS = 10  # that one call follows; browsers take 20, urllib 10
# Headers that a redirect may take to another origin, and those that go with a body.
_GO_ANYWHERE = ("Accept", "Accept-language", "Accept-encoding", "Accept-charset", "User-agent")
_ABOUT_BODY = ("Content-", "Transfer-")
# A scheme or, with "=", a parameter of the scheme before it (RFC 9110 section 11.6.1); a stray
# quoted string counts as a scheme without a name.
_CHALLENGE = (
    r"([\w!#$%&'*+.^`|~-]+)"
    r'(?:[ \t]*(=)[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*)))?|"(?:[^"\\]|\\.)*"?'
)


class _Call:
    """The state of one call, which its redirects and its replay share."""

    def __init__(self, request: Any) -> None:
        self.request = request  # the one to send: the caller's, or what a redirect made of it
        self.start: int | None = None  # the position of a body that is a file
        if hasattr(request.data, "seekable") and request.data.seekable():
            self.start = request.data.tell()
        # None if another handler made it of a redirect: the caller did not name this URL.
        self.named = None if request.unverifiable else _origin(request.full_url)
        self.visited: set[_Origin] = set()
        self.sender: OAuthHandler | None = None  # whose token went with the last request
        self.tokens = [""]  # all that were sent, which no text may show; the last one counts
        self.redirects = 0
        self.replayed = False


def _copy_for(call: _Call) -> Any:
    """Return a copy of the call's Request, for handlers to put cookies, token and proxy on.

    So neither the caller's Request nor the one to be sent again is changed.
    """
    request: Any = copy.copy(call.request)
    request.headers = dict(request.headers)
    request.unredirected_hdrs = dict(request.unredirected_hdrs)
    request.call = call
    return request


class _CopyHandler(urllib.request.BaseHandler):
    """Gives other handlers a copy of each Request, and sends plain HTTP to loopback directly."""

    handler_order = 0  # before all others

    def http_request(self, request: Any) -> Any:
        if not hasattr(request, "call"):
            url = _split_url(request.full_url).text
            if url != request.full_url:
                request = copy.copy(request)
                request.full_url = url  # or an international host would be taken for a proxy
            return _copy_for(_Call(request))
        if request.get_header("Authorization") == f"Bearer {request.call.tokens[-1]}":
            request.remove_header("Authorization")  # another handler reopened it, maybe elsewhere
        request.call.sender = None
        return request

    https_request = http_request

    def http_open(self, request: Any) -> Any:
        """Send plain HTTP to loopback past every proxy, which would see the token."""
        if _is_plain_loopback(_origin(request.full_url)):
            for handler in self.parent.handle_open["http"]:  # type: ignore[attr-defined]
                if isinstance(handler, urllib.request.HTTPHandler):
                    return handler.http_open(request)
        return None


def _check_origins(name: str, urls: Texts, allow_http: bool) -> frozenset[_Origin]:
    origins = frozenset(_origin(_check_url(name, url, allow_http)) for url in _texts(name, urls))
    if not origins:
        raise ValueError(f"{name} must name at least one URL whose origin may see the token")
    return origins


def _rewind(data: Any, start: int | None) -> bool:
    """Make a body ready to be sent again; return False if that is impossible."""
    if data is None or isinstance(data, (bytes, bytearray, memoryview, list, tuple)):
        return True
    if start is None:
        return False
    data.seek(start)
    return True


def _read_error_body(fp: Any) -> bytes:
    """Return the body of an answer, at most 1 MiB of it, and close it; b"" if that fails."""
    try:
        with fp:
            return bytes(fp.read(_ANSWER_LIMIT))
    except (OSError, http.client.HTTPException):
        return b""


def _redirected(request: Any, code: int, location: str) -> urllib.request.Request:
    """Return the Request that a redirect leads to; ValueError if it must not be followed."""
    call = request.call
    method = request.get_method()
    data = request.data
    if (code == 303 and method != "HEAD") or (code in (301, 302) and method == "POST"):
        method = "GET"
        data = None

    if len(location) > _LOCATION_LIMIT:
        raise ValueError("it is too long")
    # Bytes that are not ASCII are UTF-8, if they mean anything.
    target = location.encode("iso-8859-1").decode("utf-8", "replace")
    url = _split_url(urllib.parse.urljoin(request.full_url, target)).text
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

    # Those of the caller: what other handlers add, such as cookies, is for one request.
    headers = {**call.request.headers, **call.request.unredirected_hdrs}
    if data is None:
        headers = {name: headers[name] for name in headers if not name.startswith(_ABOUT_BODY)}
    if after != before:
        headers = {name: headers[name] for name in headers if name in _GO_ANYWHERE}
    # Unverifiable for the cookie policy of http.cookiejar: the caller did not name the URL.
    return urllib.request.Request(
        url, data, headers, request.origin_req_host, unverifiable=True, method=method
    )


def _bearer_challenge(headers: Any) -> dict[str, str] | None:
    """Return the parameters of the Bearer challenges, or None if there is none."""
    line = ", ".join(headers.get_all("WWW-Authenticate", ()))
    challenges: dict[str, dict[str, str]] = {}
    scheme = ""
    for name, equals, quoted, plain in re.findall(_CHALLENGE, line[:8192], re.ASCII):
        if not equals:
            scheme = name.lower()
        parameters = challenges.setdefault(scheme, {})
        if equals:
            parameters.setdefault(name.lower(), quoted or plain)
    return challenges.get("bearer")


def _refusal(
    request: Any, fp: Any, code: int, headers: Any, challenge: dict[str, str], can_repeat: bool
) -> OAuthBearerError:
    """Return the exception for an answer that refuses our token (RFC 6750 section 3.1)."""
    secrets = _spellings(*request.call.tokens)
    said = {name: _clean(value, secrets) for name, value in challenge.items()}
    error = said.get("error")
    kind = OAuthBearerError
    advice = "are its scope, audience and issuer those that this API wants?"
    if error == "insufficient_scope" or (code == 403 and error is None):
        kind = OAuthInsufficientScope
    elif code == 401 or error == "invalid_token":
        kind = OAuthInvalidToken
        if not can_repeat:
            advice = "the body cannot be sent again: give bytes or a file that can seek"
    reason = http.client.responses.get(code, "")
    place = _split_url(request.full_url).place
    shown = _clean(said, secrets)  # the names may echo a token, too
    return kind(
        f"{place} refused the token: {code} {reason}, challenge {shown}; {advice}",
        error=error,
        status=code,
        reason=reason,
        scope=said.get("scope"),
        realm=said.get("realm"),
        url=_clean(request.full_url, secrets, _LOCATION_LIMIT),
        headers=_clean_headers(headers, secrets),
        body=_read_error_body(fp),
    )


class OAuthHandler(urllib.request.HTTPRedirectHandler):
    """A handler for `urllib.request.build_opener` that authorises requests
    to some origins, and no others.

    source: a TokenSource. origins: URLs, whose scheme, host and port may
    see the token; their paths are ignored. allow_http: True lifts the rule
    that only loopback may be named without TLS.

    A request elsewhere gets no token, and a caller's own Authorization
    header is left alone. This handler takes the place of urllib's
    HTTPRedirectHandler, which would carry headers to other hosts.
    """

    handler_order = 600  # after handlers that may set an Authorization header for the caller
    follows_redirects = True  # False where a handler of the user decides about them

    def __init__(self, source: TokenSource, origins: Texts, *, allow_http: bool = False) -> None:
        self._set_source(source, _check_origins("origins", origins, allow_http))

    def _set_source(self, source: TokenSource, origins: frozenset[_Origin] | None) -> None:
        if not isinstance(source, TokenSource):
            raise TypeError("source must be a TokenSource, such as TokenSource(function)")
        self._source = source
        self._origins = origins  # None, in a session: that of the URL that the caller named

    def add_parent(self, parent: urllib.request.OpenerDirector) -> None:
        """Join an opener, and add what copies its Requests."""
        super().add_parent(parent)
        parent.add_handler(_CopyHandler())

    def http_request(self, request: Any) -> Any:
        """Put the token on the request if its origin, and every one before
        it, may see it: the origins of this handler; in a session without
        base_url and origins, that of the URL that the caller named."""
        call = request.call
        call.visited.add(_origin(request.full_url))
        may_see = call.visited <= (self._origins or {call.named})
        if may_see and not request.has_header("Authorization"):
            token = self._source.token(_timeout_of(request)).access_token
            request.add_unredirected_header("Authorization", f"Bearer {token}")
            call.sender = self
            call.tokens.append(token)
        return request

    https_request = http_request

    def http_error_401(self, request: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """Renew the refused token and send the request again, once.

        TokenSource.reject() says whether another token is to be had: it
        fetches at most once a minute. Raises OAuthInvalidToken if there is
        none, the replay is refused, too, or the body cannot be sent again;
        OAuthInsufficientScope if the scope does not suffice; and the error
        of the renewal if that fails. A verb of a session returns the first
        two as a Response. A 400 or 403 counts only with a Bearer challenge
        (RFC 6750 section 3).
        """
        call = request.call
        challenge = _bearer_challenge(headers)
        if call.sender is not self or (code != 401 and challenge is None):
            return None
        can_repeat = _rewind(request.data, call.start)
        refusal = _refusal(request, fp, code, headers, challenge or {}, can_repeat)
        if isinstance(refusal, OAuthInvalidToken) and not call.replayed:
            token = self._source.reject(call.tokens[-1], _timeout_of(request))
            if token.access_token != call.tokens[-1] and can_repeat:
                call.replayed = True
                return self.parent.open(_copy_for(call), timeout=request.timeout)
        raise refusal

    http_error_400 = http_error_403 = http_error_401

    def http_error_302(self, request: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """Follow a redirect if that leaks nothing; else raise HTTPError
        that says why not.

        Within the origin everything goes along. To another origin go only
        Accept, four Accept-* and User-Agent, and the token if that origin
        and every one before it are named, too. A redirect that would take
        a body there is not followed.
        """
        location = headers.get("Location")
        if location is None or not self.follows_redirects:
            return None
        body = _read_error_body(fp)  # so that the connection can be kept, if it is short
        call = request.call
        secrets = _spellings(*call.tokens)
        try:
            if any(len(secret) >= _SHORTEST_TOKEN and secret in location for secret in secrets):
                raise ValueError("it shows the token")
            call.request = _redirected(request, code, location)
        except ValueError as error:
            message = f"the redirect to {_clean(location, secrets)!r} was not followed: {error}"
            shown = _clean_headers(headers, secrets)
            raise _HTTPError(message, request.full_url, code, shown, body) from None
        call.redirects += 1
        return self.parent.open(_copy_for(call), timeout=request.timeout)

    http_error_301 = http_error_303 = http_error_307 = http_error_302  # type: ignore[assignment]
    http_error_308 = http_error_302  # type: ignore[assignment]


# ---- OAuthSession: the session and its Response --------------------------------------------------

_NOT_GIVEN: Any = ...  # since None has a meaning
_UNSET: Any = None  # Any, so that type checkers let a subclass set its own value
# Not stored on the session, since a debugger or a log may show its attributes.
_CONFIDENTIAL = ("client_secret", "client_assertion", "token_params", "token_headers")
_CREDENTIALS = (
    *_CONFIDENTIAL, "client_id", "scope", "token_url", "issuer", "auth_method",
    "assertion_audience", "audience", "resource",
)  # fmt: skip
_TOKEN_SETTINGS = (*_CREDENTIALS, "cache", "cache_key", "refresh_before")
_SETTINGS = (
    *_TOKEN_SETTINGS, "base_url", "headers", "timeout", "context", "handlers", "origins",
    "allow_http", "source",
)  # fmt: skip
_OPTIONS = (  # settings that have an environment variable, and an option of the command line
    "client_id", "scope", "token_url", "issuer", "audience", "resource", "auth_method", "base_url",
    "cache",
)  # fmt: skip
_FILES = {"client_secret_file": "client_secret", "assertion_file": "client_assertion"}
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


def _refuse(unknown: Iterable[str]) -> None:
    """Raise a TypeError for an unknown keyword argument, with advice if requests has it."""
    for name in unknown:
        advice = _INSTEAD.get(name, "is it misspelt?")
        raise TypeError(f"unexpected keyword argument {name!r}; {advice}")


class Response:
    """What an API answered, read to its end. The verbs of OAuthSession
    return it at any HTTP status; it is true below 400.

    status, reason, url (after redirects), headers (their names in any
    case), content (bytes, gzip undone).
    """

    def __init__(self, answer: Any, request: urllib.request.Request) -> None:
        self.status: int = answer.code
        self.reason: str = getattr(answer, "reason", "")  # a user's handler may do without
        self.url: str = answer.url
        self.headers: http.client.HTTPMessage = answer.headers
        self._refusal = answer if isinstance(answer, OAuthBearerError) else None
        try:
            self.content = _read_all(answer)
        except _ProtocolError:
            if self._refusal is None:
                raise
            self.content = b""  # a long gzip, of which only the first MiB was read
        # Errors name the URL of the caller: a redirect may have put the token into another one.
        self._called = request.get_method(), request.full_url

    def __repr__(self) -> str:
        return f"<Response {self.status}>"

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
            # Only the first letters of the media type: a server may echo the token in it.
            media_type = self.headers.get("Content-Type", "none")
            kind = re.sub("(?s)([a-z/.+-]{,50}).*", r"\1", media_type)
            raise ValueError(
                f"the body is not JSON: Content-Type {kind}, status {self.status}"
            ) from None

    def raise_for_status(self) -> Response:
        """Return the response itself if its status is below 400. Raises
        OAuthBearerError if the token was refused, else HTTPError; both
        have the response as their `response`."""
        if self.ok:
            return self
        error: Any = copy.copy(self._refusal)  # a copy, whose body can be read
        if error is None:
            error = _http_error(*self._called, self.status, self.headers, self.content)
        error.response = self
        raise error


class OAuthSession:
    """An API client that is always authorised by OAuth 2.0 client
    credentials (RFC 6749 section 4.4).

    client_id, client_secret: from the authorisation server. The secret may
    be a callable, called for each try of a token request.
    scope: a text, or an iterable of texts.
    token_url: the token endpoint. issuer: instead of it, a URL whose
    metadata name it (RFC 8414, or OpenID Connect discovery).
    base_url: what a URL that is not absolute is appended to. origins:
    URLs. With base_url they say which schemes, hosts and ports may see the
    token; any other URL is a ValueError. With neither, the token goes to
    the origin of each URL that you name.
    auth_method: how the client authenticates: client_secret_basic,
    client_secret_post, client_secret_basic_raw (not percent-encoded),
    client_secret_jwt, private_key_jwt (RFC 7523), tls_client_auth (RFC
    8705) or none. Default: private_key_jwt with client_assertion; else what
    the issuer lists; else Basic, and if the server refuses the client, the
    secret in the body, and Basic without percent-encoding.
    client_assertion: instead of a secret, a JWT, or a callable that
    returns a new one for each token request. assertion_audience: the `aud`
    of client_secret_jwt; default: issuer, else token_url.
    audience, resource (RFC 8707): one text or several. token_params:
    further form fields of the token request, token_headers: its headers,
    such as the x-api-key of a gateway.
    headers: of each API call; the token request takes only User-Agent.
    timeout: seconds for each network step of a call, and for a whole token
    fetch; default 30. headers and timeout may be changed at any time.
    context: an ssl.SSLContext. handlers: urllib handlers for the opener.
    cache, cache_key, refresh_before: as for TokenSource; cache is a
    directory, or redis.Redis() and the like.
    allow_http: True lifts the rule that only loopback is called without
    TLS. source: a TokenSource, instead of credentials and cache.

    Each setting may also be an attribute of a subclass: `class
    AcmeSession(OAuthSession): token_url = "..."`. An argument, also None,
    takes precedence over it. Raises ValueError or TypeError for wrong
    settings; does no I/O before the first call. Threads may share a
    session.
    """

    client_id = client_secret = scope = token_url = issuer = auth_method = client_assertion = _UNSET
    assertion_audience = audience = resource = token_params = token_headers = _UNSET
    cache = cache_key = refresh_before = _UNSET
    base_url = headers = context = handlers = origins = source = _UNSET
    timeout: Any = 30.0
    allow_http: Any = False
    opener: urllib.request.OpenerDirector = _UNSET
    _credentials: ClientCredentials | None = None  # none with source=
    _origins: frozenset[_Origin] | None = None  # any that the caller names

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
        _refuse(unknown)
        values = {}
        for name in _SETTINGS:
            value = arguments[name]
            if value is _NOT_GIVEN:
                value = getattr(self, name)
            values[name] = value
            if name not in _CONFIDENTIAL:
                setattr(self, name, value)
        self._pool = _Pool(self.context)
        self.handlers = list(self.handlers or ())
        if self.base_url is not None or self.origins is not None:
            urls = [*_texts("base_url", self.base_url), *_texts("origins", self.origins)]
            self._origins = _check_origins("base_url or origins", urls, self.allow_http)
        if self.source is None:
            self._make_source({name: values[name] for name in _CREDENTIALS})
        else:
            for name in _TOKEN_SETTINGS:
                if values[name] is not None:
                    raise _contradiction(name, "source")
        self.opener = self._make_opener()

    def _make_source(self, credentials: dict[str, Any]) -> None:
        if self.refresh_before is None:
            self.refresh_before = 300.0
        self._credentials = ClientCredentials(
            **credentials, allow_http=self.allow_http, handlers=self.handlers, pool=self._pool
        )
        self.source = TokenSource(
            self._credentials,
            cache=self.cache,
            cache_key=self.cache_key,
            refresh_before=self.refresh_before,
        )

    def _make_opener(self) -> urllib.request.OpenerDirector:
        """Return an opener in which the user's handlers take the place of ours."""
        handlers = [_own_handler(handler) for handler in self.handlers]

        def has(kind: type) -> bool:
            return any(isinstance(handler, kind) for handler in handlers)

        if has(urllib.request.HTTPSHandler):
            raise ValueError("handlers cannot hold an HTTPSHandler: give context= instead")
        follows = not has(urllib.request.HTTPRedirectHandler)
        if not has(urllib.request.ProxyHandler):
            handlers.append(_ProxyHandler())
        # The first that answers wins, so theirs come before ours.
        handlers += [_HTTPHandler(self._pool), _HTTPSHandler(self._pool)]
        opener = urllib.request.build_opener(*handlers, _SessionHandler(self, follows))
        opener.addheaders = [("User-agent", _USER_AGENT)]
        return opener

    @classmethod
    def from_env(
        cls, prefix: str = "OAUTH_", environ: Mapping[str, str] | None = None, **settings: Any
    ) -> OAuthSession:
        """Make a session from environment variables: OAUTH_TOKEN_URL or
        OAUTH_ISSUER, OAUTH_CLIENT_ID, OAUTH_CLIENT_SECRET or
        OAUTH_CLIENT_SECRET_FILE, OAUTH_SCOPE, OAUTH_AUDIENCE,
        OAUTH_RESOURCE (several by spaces), OAUTH_AUTH_METHOD,
        OAUTH_ASSERTION_FILE, OAUTH_BASE_URL and OAUTH_CACHE. An empty one
        counts as unset. Files are read for each token request.

        prefix: instead of OAUTH_. environ: default os.environ. settings:
        further arguments, which take precedence over variables of the same
        name. Raises ValueError that names the variables.
        """
        if environ is None:
            environ = os.environ
        found: dict[str, Any] = {}
        variables = {prefix + name.upper(): name for name in ("client_secret", *_OPTIONS, *_FILES)}
        for variable, name in variables.items():
            value: Any = environ.get(variable)
            if not value:
                continue
            if name == "resource":
                value = value.split()
            elif name in _FILES:
                value = functools.partial(_read_secret, variable, value)
                name = _FILES[name]
            if name in found and name not in settings:
                raise ValueError(f"{variable} and {prefix}{name.upper()} are both set: unset one")
            found[name] = value
        try:
            return cls(**{**found, **settings})
        except ValueError as error:
            raise ValueError(f"{error} (settings are read from {', '.join(variables)})") from None

    def __setattr__(self, name: str, value: Any) -> None:
        # A subclass may have attributes of its own.
        is_ours = type(self) is OAuthSession or hasattr(OAuthSession, name) or name in _INSTEAD
        if name == "headers":
            value = _check_headers(value)  # a copy: the class may share its own
        elif name == "timeout":
            value = _check_timeout(value)
        elif self.opener is not None and is_ours and not name.startswith("_"):
            advice = f"of {', '.join(_SETTINGS)} only headers and timeout can be changed"
            raise AttributeError(f"{name} cannot be set: {_INSTEAD.get(name, advice)}")
        super().__setattr__(name, value)
        if self._credentials is not None:  # they use the same headers and time-out
            self._credentials.headers = self.headers
            # A fetch without limit could hang for ever.
            self._credentials.timeout = self.timeout or 30.0

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
        return self.source.token().access_token  # type: ignore[no-any-return]

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
        headers: of this call; a value of None removes the session's.
        timeout: seconds for each network step and for the wait for a
        token; default: the session's; None: no limit for a step.

        Raises OAuthError if no token can be had, URLError if the API gives
        no answer, HTTPError for a redirect that is not followed, and
        ValueError or TypeError for what cannot be sent.
        """
        _refuse(unknown)
        body, content_type = _encode_body(data, json)
        target = self._locate(url, params)
        fields = _merge_headers({"Content-Type": content_type}, self.headers, headers)
        if "Range" not in fields:
            fields.setdefault("Accept-encoding", "gzip")
        request = urllib.request.Request(
            target.text, body, fields, target.origin.host, method=_word(method)
        )
        try:
            with self.opener.open(request, timeout=timeout) as answer:
                return Response(answer, request)
        except _HTTPError:  # a redirect that is not followed
            raise
        except urllib.error.HTTPError as error:  # any other is an answer, too
            with error:
                return Response(error, request)

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
        if not isinstance(request, urllib.request.Request):
            request = urllib.request.Request(self._locate(request).text)
        ours: Any = copy.copy(request)  # the caller's is never changed
        url = self._locate(request.full_url).text
        if url != request.full_url:  # to set it would undo set_proxy()
            ours.full_url = url
        ours.unverifiable = False  # the caller named the URL
        ours.headers = dict(request.headers)
        ours.unredirected_hdrs = dict(request.unredirected_hdrs)
        if data is not None:
            ours.data = data  # whose setter drops a Content-Length
        ours.headers = _merge_headers(self.headers, headers, ours.headers)
        try:
            return self.opener.open(ours, timeout=timeout)  # type: ignore[no-any-return]
        except (_HTTPError, OAuthBearerError):
            raise
        except urllib.error.HTTPError as error:  # of urllib, which cannot be pickled
            body = _read_error_body(error)
            failure = _http_error(
                ours.get_method(), ours.full_url, error.code, error.headers, body
            )
        raise failure  # not above, where its context would be the other one

    def install(self) -> None:
        """Let every urllib.request.urlopen of this process use the
        session, for the origins of base_url and origins.

        Other URLs get no token; `file:`, `data:` and, without a proxy,
        `ftp:` still work.
        Calls without a time-out get the session's; its headers are not
        added.
        Raises ValueError with neither base_url nor origins.
        """
        if self._origins is None:
            raise ValueError(
                "base_url or origins is needed for install(): other requests must not get the token"
            )
        urllib.request.install_opener(self.opener)

    def _locate(self, url: Any, params: Any = None) -> _URL:
        url = _text(url, "url")
        if params:
            if not isinstance(params, (str, bytes)):
                params = _encode_form(_form_fields("params", params))
            url = url.partition("#")[0]
            url += "&" if "?" in url else "?"
            url += _text(params).replace("#", "%23")
        return _complete_url(url, self.base_url, self.allow_http, self._origins)


class _SessionHandler(OAuthHandler):
    """Authorise the requests of a session, which need not have origins, and set its time-out."""

    def __init__(self, session: OAuthSession, follows: bool) -> None:
        self._session = session
        self._set_source(session.source, session._origins)
        self.follows_redirects = follows

    def http_request(self, request: Any) -> Any:
        """Give a request without a time-out the session's: urllib would wait for ever."""
        if request.timeout is _DEFAULT_TIMEOUT:
            request.timeout = self._session.timeout
        _check_timeout(request.timeout)
        return super().http_request(request)

    https_request = http_request


def _merge_headers(*layers: Any) -> dict[str, Any]:
    """Return the headers of all layers: a later one takes precedence, and None removes one."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in dict(layer or {}).items():  # another thread may change the session's
            name = _text(name).capitalize()
            if value is None:
                merged.pop(name, None)
            else:
                merged[name] = value
    return merged


@functools.lru_cache(maxsize=256)  # a session calls the same URLs again and again
def _complete_url(
    url: str, base_url: str | None, allow_http: bool, origins: frozenset[_Origin] | None
) -> _URL:
    """Return the URL to call; ValueError if it is outside the origins."""
    if base_url and not re.match(r"([\w+.-]+:)?//", url):
        below = re.sub("^/*(?=[^/?#])", "/", url)  # with one slash before a name, and none before ?
        url = _text(base_url).rstrip("/") + below
    hint = " (a path needs a session with base_url)"
    found = _split_url(_check_url("url", url, allow_http, hint))
    if origins is not None and found.origin not in origins:
        raise ValueError(f"url leads to {found.place}, which is not among base_url and origins")
    return found


def _http_error(method: str, url: str, status: int, headers: Any, body: bytes) -> _HTTPError:
    phrase = http.client.responses.get(status, "")
    message = f"{method} {url.partition('?')[0]} answered {status} {phrase}"
    return _HTTPError(message, url, status, headers, body)


def _read_secret(variable: str, path: str) -> str:
    """Return what a file holds. It is read each time, since a mounted secret may be replaced."""
    try:
        # What is no UTF-8 is refused with other characters that a secret cannot have.
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            return file.read().rstrip("\n")
    except OSError as error:
        raise OAuthError(f"{variable}: {error}") from None


def _encode_body(data: Any, obj: Any) -> tuple[Any, str | None]:
    """Return the body for urllib, and the Content-Type to use unless the caller names one."""
    if data is not None and obj is not None:
        raise _contradiction("data", "json")
    if obj is not None:
        return json.dumps(obj, allow_nan=False).encode(), "application/json"
    if data is None:
        return None, None
    if isinstance(data, str):
        return data.encode(), "text/plain; charset=utf-8"
    is_form = hasattr(data, "items")
    if isinstance(data, (list, tuple)):
        is_form = all(isinstance(pair, (list, tuple)) for pair in data)
    if is_form:
        fields = _form_fields("data (or is it meant as json=?)", data)
        return _encode_form(fields).encode(), "application/x-www-form-urlencoded"
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
        self._answers: dict[str, Any] = {}  # status, JSON value and headers, by path
        self._failing: int | None = None

    def __enter__(self) -> DemoServer:
        import http.server

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def reply(handler) -> None:
                self._reply(handler)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = reply

            def log_message(handler, form: str, *values: Any) -> None:
                self.tell(form % values)

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:
                """Print nothing: a client may hang up."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
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
        self._answers[path] = status, json, headers or {}

    def _reply(self, handler: Any) -> None:
        """Answer a request of http.server."""
        file = handler.rfile
        headers = handler.headers
        body = file.read(int(headers.get("Content-Length", 0)))
        while "Transfer-Encoding" in headers:
            size = int(file.readline(), 16)
            body += file.read(size)
            file.readline()
            if size == 0:
                break
        credentials = headers.get("Authorization", "").partition(" ")[2]
        del headers["Authorization"]
        request = _DemoRequest(
            handler.command, handler.path, headers, body.decode("utf-8", "replace")
        )
        answer = self._issue if request.path == "/oauth/token" else self._serve
        status, value, more = answer(request, credentials)

        content = json.dumps(value).encode()
        handler.send_response(status)
        for name, field in {"Content-Type": "application/json", **more}.items():
            handler.send_header(name, field)
        handler.send_header("Content-Length", len(content))
        handler.end_headers()
        if request.method != "HEAD" and status not in (204, 304):
            handler.wfile.write(content)

    def _issue(self, request: _DemoRequest, credentials: str) -> Any:
        """Answer a token request: return status, JSON value and headers."""
        with self._lock:
            self.token_requests += 1
        if self._failing is not None:
            return self._failing, {}, {}
        form = dict(urllib.parse.parse_qsl(request.body))
        client = f"{form.get('client_id')}:{form.get('client_secret')}"
        if credentials:
            client = urllib.parse.unquote_plus(base64.b64decode(credentials).decode())
        if client != f"{self.client_id}:{self.client_secret}":
            return 401, {"error": "invalid_client"}, {"WWW-Authenticate": "Basic"}
        scope = form.get("scope", "read")
        if not {"read", "write"}.issuperset(scope.split()):
            return 400, {"error": "invalid_scope"}, {}
        token = f"demo-{os.urandom(16).hex()}"
        self._tokens[token] = time.monotonic() + self.expires_in, scope
        grant = {"access_token": token, "token_type": "Bearer", "expires_in": self.expires_in}
        return 200, grant, {}

    def _serve(self, request: _DemoRequest, credentials: str) -> Any:
        """Answer a request for the API: return status, JSON value and headers."""
        self.requests.append(request)
        end, scope = self._tokens.get(credentials, (0.0, ""))
        if time.monotonic() >= end:
            return 401, {"error": "invalid_token"}, {"WWW-Authenticate": "Bearer"}
        seen = {**request._asdict(), "scope": scope}
        del seen["headers"]
        return self._answers.get(request.path.partition("?")[0], (200, seen, {}))


# ---- Command line --------------------------------------------------------------------------------

_CLOCK_SKEW = 60.0  # seconds; a larger difference of clocks is reported


def _demo() -> None:
    """Show what a session does, with a server of its own."""

    def call(title: str, session: OAuthSession) -> None:
        print(title)
        try:
            print("      session.get('/me') ->", session.get("/me").status)
        except OAuthResponseError as error:
            print(f"      {error!r}")

    with DemoServer(expires_in=3) as server:
        server.tell = lambda line: print("      on the wire: " + line)
        make = functools.partial(
            OAuthSession, server.client_id, token_url=server.token_url, base_url=server.url
        )
        session = make(server.client_secret, "read")
        print(f"A DemoServer listens on {server.url}. Secrets and tokens are not shown.")
        call("1. The first call fetches a token.", session)
        call("2. The second call uses the same token.", session)
        first = session.access_token
        time.sleep(1.6)
        server.expires_in = 3600
        call("3. A token that is due is used, while a thread renews it in the background.", session)
        while session.access_token == first:
            time.sleep(0.05)
        server.revoke()
        call("4. A revoked token is replaced after one 401, and the call is sent again.", session)
        call("5. A wrong secret is tried in two places.", make("not-the-secret", "read"))
        call("6. The server does not know this scope.", make(server.client_secret, "everything"))
        print(f"Done: {server.token_requests} token requests in all.")


def _parser() -> Any:
    import argparse

    parser = argparse.ArgumentParser(
        description="Call an API with an OAuth 2.0 token, by the client credentials grant.",
        epilog="What no option says is read from the environment: OAUTH_CLIENT_ID, "
        "OAUTH_CLIENT_SECRET or OAUTH_CLIENT_SECRET_FILE, OAUTH_ASSERTION_FILE, OAUTH_SCOPE, "
        "OAUTH_TOKEN_URL or OAUTH_ISSUER, OAUTH_AUDIENCE, OAUTH_RESOURCE, OAUTH_AUTH_METHOD, "
        "OAUTH_BASE_URL (to which a URL that is only a path is appended), OAUTH_CACHE (a directory "
        "through which runs share the token). The secret has no option, since others could see it "
        "in the list of processes. Exit status: 0; 1: no token, or no answer; 2: wrong settings; "
        "22: a status of 400 or more with --fail.",
    )
    add = parser.add_argument
    add("url", nargs="?", help="call this URL and print the body of the answer")
    add("--demo", action="store_true", help="show how it works; needs nothing else")
    add("--check", action="store_true", help="try each step up to a call of URL; tell what fails")
    add("--token", action="store_true", help="print the access token, and nothing else")
    add("-X", "--request", help="HTTP method; default: GET, with -d POST")
    add("-d", "--data", help="body, a form unless -H says otherwise; @FILE; @-: standard input")
    add("-H", "--header", action="append", default=[], help="'Name: value'; may be repeated")
    add("-i", "--include", action="store_true", help="print status and headers, too")
    add("-f", "--fail", action="store_true", help="print no body at a status of 400 or more")
    add("--client-secret-file", help="file that holds the secret; -: standard input")
    for name in _OPTIONS:
        action = "append" if name == "resource" else "store"
        add("--" + name.replace("_", "-"), action=action)
    add("--timeout", type=float, default=30.0, help="seconds; default: 30")
    add("--version", action="version", version=f"oauth_session {__version__}")
    return parser


def _session_of(options: Any) -> OAuthSession:
    """Make the session of options and environment; an option goes before its variable."""
    settings: dict[str, Any] = {"timeout": options.timeout}
    for name in _OPTIONS:
        if getattr(options, name):
            settings[name] = getattr(options, name)
    if options.client_secret_file is not None:
        secret = _read(options.client_secret_file).decode("utf-8-sig")
        settings["client_secret"] = secret.rstrip("\r\n")
    return OAuthSession.from_env(**settings)


def _read(path: str) -> bytes:
    """Return the bytes of a file, or those of standard input for `-`."""
    if path == "-":
        return sys.stdin.buffer.read()
    with open(path, "rb") as file:
        return file.read()


def _print_settings(session: OAuthSession, options: Any) -> None:
    """Print what is set, and where each comes from; of a secret in a variable only where."""
    for name in _OPTIONS:
        place = "OAUTH_" + name.upper()
        if getattr(options, name):
            place = "--" + name.replace("_", "-")
        print(f"      {name}: {getattr(session, name) or 'not set'} ({place})")
    if options.client_secret_file is None:
        for variable in ("OAUTH_CLIENT_SECRET", "OAUTH_CLIENT_SECRET_FILE", "OAUTH_ASSERTION_FILE"):
            if os.environ.get(variable):
                print(f"      secret: *** ({variable})")


def _check(session: OAuthSession, url: str | None) -> int:
    """Try each step of a call, print how it went, and return the exit status."""
    import logging

    # Which authentication method the server accepts.
    logging.basicConfig(level=logging.INFO, format="      %(message)s", stream=sys.stdout)
    step = "connection (DNS, TCP, TLS)"
    try:
        opener = _token_opener((), _Pool(None))  # the session's would send a token
        endpoint = _split_url(session.token_url or session.issuer).text
        with opener.open(endpoint, timeout=session.timeout) as answer:
            print(f"ok    {step}: it answers")
        clock_is_right = _check_clock(answer.headers)
        step = "token"
        print(f"ok    token: {_describe(session.source.token())}")
        if url:
            step = "API"
            print(f"ok    API: it answered {session.get(url).raise_for_status().status}")
    except (OSError, ValueError, TypeError) as error:
        print(f"NO    {step}: {error}")
        return 1
    if not clock_is_right:
        return 1
    print("All is well.")
    return 0


def _check_clock(headers: Any) -> bool:
    """Print whether this machine's clock agrees with the server's, and return it."""
    now = time.time()
    skew = (_seconds_of_date(headers["Date"]) or now) - now  # a server may not tell the time
    if abs(skew) <= _CLOCK_SKEW:
        print("ok    clock: no difference from the server's clock")
        return True
    direction = "behind" if skew > 0 else "ahead of"
    print(f"NO    clock: this machine is {abs(skew):.0f} s {direction} the server: set its clock")
    return False


def _describe(token: Token) -> str:
    """Return what a token is good for."""
    life = "an unknown time"
    if token.expires_at is not None:
        life = f"{token.expires_at - time.time():.0f} s"
    audience = "unknown"
    try:  # a wrong audience is the most frequent reason for a 401 of the API
        payload = token.access_token.split(".")[1]
        audience = json.loads(base64.urlsafe_b64decode(payload + "=="))["aud"]
    except (LookupError, ValueError, TypeError, RecursionError):
        pass  # not a JWT
    return _clean(f"good for {life}, scope {token.scope}, aud {audience}", [token.access_token])


def _print_answer(session: OAuthSession, options: Any) -> None:
    """Call the URL and print what it answers, as curl does."""
    method = "GET"
    data = None
    headers = {}
    if options.data is not None:
        method = "POST"
        data = os.fsencode(options.data)
        if options.data.startswith("@"):
            data = _read(options.data[1:])
        headers["content-type"] = "application/x-www-form-urlencoded"
    for line in options.header:
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"-H takes 'Name: value', not {line!r}")
        headers[name.strip().lower()] = value.strip()
    response = session.request(options.request or method, options.url, data=data, headers=headers)
    if options.include:
        print(f"HTTP/1.1 {response.status} {response.reason}")
        for name, value in response.headers.items():
            print(f"{name}: {value}")
        print()
    if options.fail:
        response.raise_for_status()
    if hasattr(sys.stdout, "buffer"):
        sys.stdout.buffer.write(response.content)
    else:  # a StringIO, say
        sys.stdout.write(response.text)
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (`--help` tells how) and return its exit
    status. Errors are one line on standard error.

    arguments: default sys.argv[1:].
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if not (options.demo or options.check or options.token or options.url):
        parser.error("nothing to do: give a URL, --token, --check or --demo")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Servers may say what this console cannot show.
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        if options.demo:
            _demo()
            return 0
        with _session_of(options) as session:
            if options.check:
                _print_settings(session, options)
                return _check(session, options.url)
            if options.token:
                print(session.access_token)
            else:
                _print_answer(session, options)
        return 0
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError, TypeError) as error:
        print(f"oauth_session: {error}", file=sys.stderr)
        if isinstance(error, urllib.error.HTTPError) and error.code >= 400:
            return 22
        return 1 if isinstance(error, urllib.error.URLError) else 2


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
