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

How a request travels. The rooms of this file come in reverse order: each
uses only rooms above it. Within a room, callers may come first.
 1. OAuthSession makes a `urllib.request.Request` and opens it with its
    OpenerDirector.
 2. OAuthHandler puts `Authorization: Bearer ...` on it, if its origin may
    see the token. On the way back it follows redirects without leaking
    and, on a 401, has the token renewed and sends the request again, once.
 3. TokenSource keeps the token. FRESH: it is returned. DUE: it is
    returned, and renewed in the background. Missing, EXPIRED or refused:
    callers wait for one shared fetch. One lock guards it.
    With cache=, FileCache or another cache is asked first.
 4. ClientCredentials obtains one token: a POST to the token endpoint, and
    a strict validation of the response.
 5. _Pool keeps connections alive, on `http.client`. A response of invalid
    length is rejected; after one whose end is ambiguous, the connection
    is closed.

A wrong setting raises ValueError or TypeError, an API that gives no
answer URLError. Any status is a Response; raise_for_status() and open()
raise HTTPError. These say what to check:
    OAuthError(urllib.error.URLError)
    |-- OAuthTransportError        no answer from the token endpoint
    |-- OAuthResponseError         it refused
    |   |-- OAuthInvalidRequest, OAuthInvalidClient, OAuthInvalidGrant,
    |   |-- OAuthUnauthorizedClient, OAuthUnsupportedGrantType,
    |   |-- OAuthInvalidScope, OAuthInvalidTarget,
    |   |-- OAuthTemporarilyUnavailable, OAuthServerError,
    |   `-- OAuthMalformedResponse
    `-- OAuthBearerError(urllib.error.HTTPError)  the API refused the token
        `-- OAuthInvalidToken, OAuthInsufficientScope

What it will not do: log users in, asyncio, HTTP/2, read ~/.netrc, keep
cookies, follow https to http, or send the token to an origin that was not
named. Threads may share all of it, except the answer of open().
"Deviation:" marks servers that do not follow the RFC.
RFC 6749 (OAuth 2.0), 6750 (bearer tokens), 7523 (assertions), 8414
(issuer), 8705 (mutual TLS), 8707 (resource), 9110 and 9112 (HTTP).
"""

from __future__ import annotations  # oauth_session.py needs Python 3.8 or newer

import json
import os
import random
import re
import socket
import ssl
import stat
import sys
import threading
import time
import zlib
from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections import defaultdict, deque, namedtuple
from contextlib import suppress
from copy import copy, deepcopy
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse, responses
from io import SEEK_END, BufferedReader, BytesIO, FileIO, RawIOBase
from urllib.error import HTTPError, URLError
from urllib.parse import parse_qsl, quote, quote_plus, unquote_plus, urlencode, urljoin
from urllib.request import (
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    build_opener,
    install_opener,
    proxy_bypass,
)
from weakref import WeakSet, finalize

TYPE_CHECKING = False  # not that of `typing`, whose import slows a cold start
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable, Iterator, Mapping, NoReturn, Sequence


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


class OAuthError(URLError):
    """The base of all errors here.

    error: the code that the server gave, or None. status: the HTTP status
    of its answer, or None. retry_after: the seconds after which it wants
    to be asked again, or None.
    """

    error: str | None = None
    status: int | None = None
    retry_after: float | None = None
    __str__ = Exception.__str__  # only the message: that of URLError adds to it
    __repr__ = Exception.__repr__

    def __init__(self, message: str = "", **fields: Any) -> None:
        super().__init__(message)
        for name, value in fields.items():
            setattr(self, name, value)


class OAuthTransportError(OAuthError):
    """The token endpoint gave no answer: DNS, TCP, TLS, a proxy or a
    timeout. The message says which."""


class OAuthResponseError(OAuthError):
    """The token endpoint refused (RFC 6749 section 5.2).

    error_description, error_uri: as the server gave them, or None.
    headers: of its answer. Secrets in what the server said are replaced
    by ***.
    """

    error_description: str | None = None
    error_uri: str | None = None
    headers: HTTPMessage | None = None
    _advice = "is token_url right? If so, see the server's documentation"


class OAuthInvalidRequest(OAuthResponseError):
    """`invalid_request`: a parameter is missing, repeated or malformed."""

    _advice = "check audience, resource, token_params and auth_method"


class OAuthInvalidClient(OAuthResponseError):
    """`invalid_client`, nearly every 401, or a 403 without a known code: a
    wrong client_secret mostly ends here. Without auth_method, all methods
    are tried, and the first refusal is raised."""

    _advice = "check client_id, client_secret (or assertion, or certificate) and auth_method"


class OAuthInvalidGrant(OAuthResponseError):
    """`invalid_grant`: the grant or assertion is wrong, used or expired."""

    _advice = "check token_params and client_assertion"


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
    """`server_error`, or a 5xx but 503: the token endpoint is broken."""

    _advice = "tell its operator if this lasts"


class OAuthMalformedResponse(OAuthResponseError):
    """The server answered, but not as RFC 6749 section 5 says; or the
    metadata of an issuer cannot be used."""

    _advice = "is token_url right?"


class _HTTPError(HTTPError):
    """A response with an error status. Its body is in memory, so it can be pickled and copied."""

    status: Any = 401  # this and headers shadow properties
    headers: Any = None
    url: Any = ""
    body: bytes = b""
    response: Response | None = None
    __str__ = Exception.__str__

    def __init__(self, message: str = "", **fields: Any) -> None:
        for name, value in fields.items():
            setattr(self, name, value)
        HTTPError.__init__(
            self,
            self.url,
            self.status,
            responses.get(self.status, ""),
            self.headers,
            BytesIO(self.body),  # without a body it would lack read() and the like
        )
        self.args = (message,)
        self._fields = fields

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self._fields), self.args


class _RedirectError(_HTTPError):
    """A redirect that was not followed."""


class OAuthBearerError(_HTTPError, OAuthError, HTTPError):
    """The API refused the token (RFC 6750 section 3.1). It is an
    HTTPError with its body, at most 1 MiB, in memory.

    error, scope, realm: of the challenge, or None. response: the Response,
    if it was raised by its raise_for_status().
    """

    scope: str | None = None
    realm: str | None = None


class OAuthInvalidToken(OAuthBearerError):
    """`invalid_token`, or a 401 that says nothing else: the API refused the
    token and the one that replaced it, there was no other, or the body
    cannot be sent again."""


class OAuthInsufficientScope(OAuthBearerError):
    """`insufficient_scope`, or a 403 with a bare Bearer challenge: the token
    does not suffice. `scope` is what the API wants, if it said so."""


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


_GO_ESCAPES = str.maketrans({"&": r"\u0026", "<": r"\u003c", ">": r"\u003e"})  # in JSON


def _clean(text: object, secrets: Iterable[str] = (), limit: int = 500) -> str:
    """Return a server's text without secrets and control characters, cut at the limit.

    Secrets are looked for in the spellings in which a server may echo them, the longest first.
    """
    import html  # takes 3 ms, which a cold start need not pay

    most = 2 * limit  # what is searched, or the search could take minutes
    spellings = {""}
    for secret in secrets:
        start = secret[:most]
        encoded = start.encode("utf-8", "replace")  # JSON can hold a lone surrogate
        as_json = json.dumps(start, ensure_ascii=False)[1:-1]
        as_html = html.escape(start)
        spellings |= {
            start,
            quote(encoded, ""),
            quote_plus(encoded),
            b64encode(encoded).decode().rstrip("="),
            json.dumps(start)[1:-1],
            as_json,
            as_json.translate(_GO_ESCAPES),
            as_html,
            as_html.replace("&quot;", "&#34;").replace("&#x27;", "&#39;"),  # as Go and Jinja do
        }
    ordered = sorted(spellings, key=len, reverse=True)
    whole = str(text)
    result = whole[:most]
    for spelling in ordered[:-1]:  # without ""
        # In capitals or not: servers write %2F and %2f.
        result = re.sub(re.escape(spelling), "***", result, flags=re.IGNORECASE)
    if len(whole) > most:  # half a secret may stand at the end
        result = result[: max(0, len(result) - len(ordered[0]))]
    return "".join(letter if letter.isprintable() else " " for letter in result[:limit])


def _clean_headers(headers: Any, secrets: Iterable[str]) -> HTTPMessage:
    """Return the headers that an exception may show, and not too many."""
    clean = HTTPMessage()
    for name, value in headers.items()[:100]:
        clean[_clean(name, secrets)] = _clean(value, secrets)
    return clean


def _contradiction(first: str, second: str) -> ValueError:
    """Return the error for two arguments or class attributes of which one must be left out."""
    return ValueError(
        f"{first} and {second} contradict each other: leave one out, or pass {first}=None"
    )


def _refuse_pickling(thing: Any) -> NoReturn:
    """Serve as the __reduce__ of what holds secrets, locks or sockets."""
    raise TypeError("sessions, sources and credentials cannot be pickled: make them from settings")


def _log(level: str, message: str, *values: object) -> None:
    """Log, if the program has imported `logging`. Never call this with TokenSource._lock held."""
    try:
        logging = sys.modules["logging"]
        getattr(logging.getLogger(__name__), level)(message, *values)
    except Exception:  # no logging, or a broken log handler, which must not break the request
        pass


# ---- URLs: origins, loopback, the https rule, encoding -------------------------------------------

_Origin = namedtuple("_Origin", "scheme host port")  # an IPv6 host keeps its brackets
# place: what a message may show; path and query may be confidential. target: path and query.
# is_plain_loopback: plain HTTP to this machine, which needs neither TLS nor a proxy.
_URL = namedtuple("_URL", "text place origin authority target is_plain_loopback")

_PORTS = {"http": 80, "https": 443}
# Scheme, host and port of at most 260 characters, path and query, and a fragment.
# \u0300-\u0fff: the vowel signs of many scripts, which are not in \w.
_URL_FORM = (
    r"((?ai:https?))://(?=[^/?#]{1,260}(?:[/?#]|$))"
    r"(\[[0-9A-Fa-f:.]+\]|(?:[\w\u0300-\u0fff-]{1,63}\.)*[\w\u0300-\u0fff-]{1,63}\.?)"
    r"(:[0-9]{0,5})?"
    r"([/?][^#\0-\x1f\x7f]{0,65535})?(?:#[^\0-\x1f\x7f]*)?"
)
_PLAIN_LOOPBACK = (
    r"(?ai)http://(localhost|\[::1\]|127(\.(\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])){3})(:\d*)?"
)
_URI_CHARACTERS = "!#$%&'()*+,/:;=?@~"  # besides letters, digits and "-._" (RFC 3986 section 2)
# Charsets that every Python knows. Other codecs may take hours, or interpret escape sequences.
_CHARSET = (
    r'(?ai)charset="?(utf[-_]?(?:8|16|32)|utf-(?:16|32)[bl]e|us-ascii|'
    r"iso[-_]?8859-(?:[1-9]|1[013-6])|"
    r"latin-?1|(?:windows-|cp)125[0-8]|koi8-[ru]|gbk|gb2312|gb18030|big5|shift[-_]jis|"
    r'euc-jp|euc-kr|iso-2022-jp|tis-620)(?=[\s";,]|$)'
)
_TOKEN_FORM = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 section 5.6.2
# Patterns that every call needs are compiled here and below, all others at their first use.
_VALUE_FORM = re.compile("[\t -~\x80-\xff]*")  # RFC 9110 section 5.5


@lru_cache(32)  # each call looks at its URL several times; a long one takes 1 MB
def _split_url(url: str) -> _URL:
    """Encode a URL (RFC 3986) and split it where urllib does, without its fragment.

    What is encoded already stays as it is. Raises ValueError where two readers could disagree
    about the host.
    """
    match = re.fullmatch(_URL_FORM, url)
    if not match:
        raise ValueError(
            "it must be like https://host:port/path, at most 64 KiB, without user name, without "
            "control characters, and without % or \\ in the host; write an international host "
            "as xn--..."
        )
    scheme, host, port, target = match.groups("")
    scheme = scheme.lower()
    if not host.isascii():
        import unicodedata

        host = host.lower()
        encoded = host.encode("idna")
        # IDNA 2003 and IDNA 2008 replace different letters: one name may lead to two hosts.
        if not encoded.decode("idna") == host == unicodedata.normalize("NFKC", host.casefold()):
            raise ValueError("standards differ about its host: write the ASCII form, xn--...")
        host = encoded.decode()
    number = int(port[1:] or _PORTS[scheme])
    if not 0 < number < 65536:
        raise ValueError("its port must be a number from 1 to 65535")
    target = re.sub("%(?![0-9A-Fa-f]{2})", "%25", target)
    target = quote(target, _URI_CHARACTERS, errors="surrogateescape")
    authority = host + port
    place = f"{scheme}://{authority}"
    return _URL(
        place + target,
        place,
        _Origin(scheme, host.lower(), number),
        authority,
        re.sub("^(?!/)", "/", target),  # there is always a path
        bool(re.fullmatch(_PLAIN_LOOPBACK, place)),
    )


def _check_url(name: str, url: Any, allow_http: bool, hint: str = "") -> _URL:
    """Return a URL as _split_url() does; ValueError if no secret may be sent to it."""
    try:
        found = _split_url(_text(url or "", name + hint))
    except ValueError as error:
        raise ValueError(f"{name} is missing, or not a usable URL: {error}{hint}") from None
    if not (allow_http or found.text.startswith("https://") or found.is_plain_loopback):
        raise ValueError(
            f"{name} must start with https:// (http:// is for loopback, or with allow_http=True)"
        )
    return found


def _text(value: Any, name: str = "text", encoding: str = "utf-8") -> str:
    """Return text as a plain str. (str() of an Enum member may return its name.)

    Bytes that do not decode become surrogates, which _encode_form turns into the same bytes.
    """
    if isinstance(value, bytes):
        return value.decode(encoding, "surrogateescape")
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(f"{name} must be str or bytes, not {type(value).__name__}")


@lru_cache
def _word(value: Any) -> str:
    """Return the name of a header as it is sent, X-Like-This; or a method, with one capital."""
    text = _text(value, "a method or the name of a header").title()
    # CONNECT would make a tunnel of the connection.
    if not re.fullmatch("(?!Connect$)" + _TOKEN_FORM, text):
        raise ValueError("a method or the name of a header must be one word, and not CONNECT")
    return text


def _check_headers(*layers: Any) -> dict[str, str]:
    """Return the headers of all layers as text: a later one takes precedence, and None removes one.

    Raises ValueError for a header that could inject another.
    """
    checked: dict[str, str] = {}
    for layer in filter(None, layers):
        for name, value in dict(layer).items():  # another thread may change the layer
            name = _word(name)
            if value is None:
                checked.pop(name, None)
            else:
                value = checked[name] = _text(value, name, "iso-8859-1")
                if not _VALUE_FORM.fullmatch(value):
                    raise ValueError(f"header {name} must be Latin-1 without control characters")
    return checked


def _encode_form(name: str, pairs: Any) -> str:
    """Encode pairs for a query or a form: a list is repeated, None is left out."""
    fields = []
    if hasattr(pairs, "items"):
        pairs = pairs.items()
    for key, value in pairs:
        values = value if isinstance(value, (list, tuple)) else [value]
        for one in values:
            if hasattr(one, "__float__"):
                one = str(getattr(one, "value", one))  # str() of an Enum member may be its name
            if one is not None:
                fields.append((_text(key, name), _text(one, name)))
    return urlencode(fields, errors="surrogateescape")


def _decode(body: bytes, headers: Any) -> str:
    """Return a body as text in the charset of its Content-Type, and replace what is not in it."""
    found = re.search(_CHARSET, headers.get("Content-Type", ""))
    return body.decode(found[1] if found else "utf-8", "replace").lstrip("\ufeff")


# ---- Connections: kept-alive HTTP/1.1 (RFC 9112), as handlers for an OpenerDirector --------------

# urllib's sentinel for "no timeout given"
_DEFAULT_TIMEOUT: Any = socket._GLOBAL_DEFAULT_TIMEOUT  # type: ignore[attr-defined]
_USER_AGENT = f"oauth_session/{__version__}"
_LONGEST_LIFE = 3.2e9  # seconds, a hundred years; more is nonsense
_ANSWER_LIMIT = 1048576  # most bytes (1 MiB) of a token response, or of an API's refusal
_PIECE = 65536  # bytes of a body that are sent or read at once
_HEAD_LIMIT = 262144  # most bytes (256 KiB) of a head, of trailers, or of the line before a chunk
# 101 would be another protocol.
_STATUS_LINE = re.compile(rb"HTTP/1\.(\d) (?!101)([1-9]\d\d)(?: [^\r\n]*)?\r?\n")
_FOLD = re.compile("\r?\n[ \t]+")  # of a folded line, RFC 9112 section 5.2
_FIELD = re.compile(rf"(?m)^({_TOKEN_FORM}):([^\r\n\0]*)\r?\n")
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
    62: _OTHER_HOST,
    64: _OTHER_HOST,
}
_LONG_AGO = (0.0, -1e9)  # a moment, by wall clock and monotonic clock


def _now() -> tuple[float, float]:
    return time.time(), time.monotonic()


def _since(moment: tuple[float, float]) -> float:
    """Return the seconds since a moment, by whichever clock shows more.

    One can be set back, and the other stops while the machine sleeps.
    """
    return max(time.time() - moment[0], time.monotonic() - moment[1])


def _check_timeout(timeout: Any) -> float | None:
    if timeout is None or (isinstance(timeout, (int, float)) and 0 < timeout <= _LONGEST_LIFE):
        return timeout
    raise ValueError("timeout must be a positive number of seconds; None waits without limit")


class _TransportError(URLError):
    """A failure on the way. Its text names the server, if it is known."""

    is_lasting = False  # whether it is useless to try again

    def __init__(self, reason: Any, place: str = "the server") -> None:
        super().__init__(reason)
        self.place = place

    def __str__(self) -> str:
        return f"no usable answer from {self.place}: {self.reason}"


class _CertificateError(_TransportError):
    """The certificate of the server was refused."""

    is_lasting = True

    def __str__(self) -> str:
        # A context that verifies by itself may raise an error without OpenSSL's code.
        advice = _CERTIFICATE_ADVICE.get(getattr(self.reason, "verify_code", 0), "ask its owner")
        return f"the certificate of {self.place} was refused: {self.reason}; {advice}"


class _SendError(_TransportError):
    """The request could not be sent to its end."""


class _ProxyError(_TransportError):
    """The proxy refused, or is of a kind that is not supported."""

    is_lasting = True


class _ProtocolError(_TransportError):
    """The answer is not HTTP/1.1, or exceeds a limit."""


class _Message:
    """A Request as it is sent, and the state of its exchange.

    Raises ValueError or TypeError for a Request that cannot be sent.
    """

    received = False  # whether a byte of the answer has come
    ends_answer = False  # whether the answer ends where the connection does
    keep = True  # whether the connection may be used again, see _Pool

    def __init__(self, request: Any, idle: deque[_Stream]) -> None:
        url = self.url = _split_url(request.full_url)
        self.target = url.target
        self.method = _word(request.get_method()).upper()
        self.headers = _check_headers(
            request.headers, request.unredirected_hdrs, {"Transfer-Encoding": None}
        )
        self.body = _frame_body(request.data, self.headers)
        self.idle = idle  # where the connection waits for its next use
        self.timeout = request.timeout  # seconds for each step, or None
        # The monotonic time when all must end, or None; a token request has it, and no timeout.
        self.deadline = getattr(request, "deadline", None)
        self.step_deadline = self.deadline  # the same for the present step
        self.peer = url  # where the connection leads: to the server, or to a proxy
        # urllib replaces the host of a Request by that of the proxy.
        if request.host != url.authority and not url.is_plain_loopback:
            proxy = _check_url("the proxy", "http://" + request.host, True)
            self.peer = proxy._replace(place=f"the proxy {proxy.place}")
        if self.peer is not url and url.origin.scheme == "http":
            self.target = url.place + url.target
        else:  # no server may see it: it is for the tunnel, if there is one
            self.proxy_authorization = self.headers.pop("Proxy-Authorization", None)
        # Connections are used again by the same process for the same route.
        self.route = os.getpid(), url.origin, self.peer.origin

    def begin_step(self) -> None:
        """Apply the timeout to all that is read up to end_step, not to each receive."""
        if self.timeout:
            self.step_deadline = time.monotonic() + self.timeout

    def end_step(self) -> None:
        """Apply the timeout to each receive again."""
        self.step_deadline = self.deadline

    def time_left(self) -> Any:
        """Return the seconds that the next call of a socket may take, or None for no limit."""
        if not self.step_deadline:
            return self.timeout
        left = self.step_deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout("timed out")
        return left


def _frame_body(body: Any, headers: dict[str, str]) -> Any:
    """Return a body as it is sent, and set its Content-Length where http.client does not.

    The caller's own Content-Length counts only if the size is unknown.
    """
    length: Any = headers.pop("Content-Length", None)
    if body is None:
        return None
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    # By its type: the fileno() of a GzipFile is that of the compressed file.
    if isinstance(getattr(body, "raw", body), (FileIO, BytesIO)) and body.seekable():
        start = body.tell()
        length = max(0, body.seek(0, SEEK_END) - start)
        body.seek(start)
    if length is not None:
        length = int(length)
        headers["Content-Length"] = str(length)
    return _pieces(body, length)


def _pieces(body: Any, left: int | None) -> Iterator[bytes]:
    """Yield a body in pieces; ValueError if it is not as long as its Content-Length says."""
    if hasattr(body, "read"):
        body = iter(partial(body.read, _PIECE), b"")
    for piece in body:
        data = bytes(memoryview(piece))  # a TypeError for text
        if left is not None:
            left -= len(data)
            if left < 0:
                break
        yield data
    if left:
        raise ValueError("data is longer or shorter than its Content-Length says")


class _Stream(RawIOBase):
    """A connected socket, and the message that it carries; the socket of an HTTPConnection."""

    idle_since: tuple[float, float]

    def __init__(self, sock: socket.socket, message: _Message, place: str) -> None:
        self.sock = sock
        self.message = message  # while it is idle, the last one
        self.place = place
        self.reader = BufferedReader(self, 16384)  # as large as a TLS record can be

    def makefile(self, mode: str) -> Any:
        """Return what an HTTPResponse reads from."""
        return self.reader

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        message = self.message
        keep = message.keep
        message.keep = False  # after a timeout or a signal, nobody knows what is still to come
        try:
            self.sock.settimeout(message.time_left())
            count = self.sock.recv_into(buffer)
            if count == 0 and not message.ends_answer:
                raise ConnectionResetError(
                    "the connection was closed before the answer was complete"
                )
        except (BlockingIOError, ssl.SSLWantReadError):
            return None  # nothing has come, or a session ticket of TLS 1.3, which is no data
        except OSError as error:
            raise _TransportError(error, self.place) from error
        message.received = True
        message.keep = keep
        return count

    def read_head(self) -> tuple[int, int, list[tuple[str, str]]]:
        """Return version, status and fields of an answer, after any interim ones.

        (RFC 9112 section 4, RFC 9110 section 15.2)
        """
        self.message.begin_step()
        for _ in range(21):
            match = _STATUS_LINE.fullmatch(self.reader.readline(_HEAD_LIMIT))
            if not match:
                break
            fields = _read_fields(self.reader)
            status = int(match[2])
            if status >= 200:
                self.message.end_step()
                return 10 + int(match[1]), status, fields
        raise _ProtocolError("it has no valid HTTP/1.1 status line, or too many interim answers")

    def sendall(self, data: bytes) -> None:
        """Send bytes; a large body is as many steps as it has pieces, also over TLS."""
        unsent = memoryview(data)
        try:
            while unsent:
                self.sock.settimeout(self.message.time_left())
                unsent = unsent[self.sock.send(unsent[:_PIECE]) :]
        except OSError as error:
            raise _SendError(error, self.place) from error

    def is_silent(self) -> bool:
        """Return, without waiting, whether it is open and nothing unsolicited has arrived."""
        self.message.timeout = 0.0
        self.message.step_deadline = None
        try:
            return not self.reader.peek()
        except _TransportError:
            return False

    def close(self) -> None:
        self.sock.close()


def _read_fields(reader: Any) -> list[tuple[str, str]]:
    """Read the fields of a head or of trailers, up to an empty line (RFC 9112 section 5)."""
    section = bytearray()
    line = b""
    while line not in (b"\r\n", b"\n"):
        section += line
        if len(section) > _HEAD_LIMIT:
            raise _ProtocolError("more than 256 KiB of headers")
        line = reader.readline(_HEAD_LIMIT)
    text = _FOLD.sub(" ", section.decode("iso-8859-1"))
    fields = _FIELD.findall(text)
    if len(fields) != text.count("\n"):
        raise _ProtocolError("a malformed header line")
    return fields


class _HTTPResponse(HTTPResponse):
    """An HTTPResponse whose framing is read without any guess, and whose connection can be kept.

    Two private methods of http.client are overridden. Its own _get_chunk_left accepts any two bytes
    as the end of a chunk; its own _close_conn closes the connection at the end of a body.
    """

    fp: Any

    def begin(self) -> None:
        """Read the head of the answer, and decide where the body ends (RFC 9112 section 6.3).

        1. An answer to HEAD, or with status 204 or 304, has no body.
        2. Transfer-Encoding must be chunked (or identity, which is none), and takes precedence.
        3. Content-Length must be a number.
        4. Without either, the body ends where the connection does.

        The connection is not used again in case 4 (the length stays None), if either side closes
        it, or if another reader may see the end elsewhere: with both headers, in HTTP/1.0, and with
        a body at 204.
        """
        message = self.fp.raw.message
        self.version, self.status, fields = self.fp.raw.read_head()
        self.code = self.status
        self.url = message.url.text
        # Not the server's own reason, which may echo a secret.
        self.reason = self.msg = responses.get(self.status, "")  # type: ignore
        # Not by http.client's parse_headers(), which takes more time than all the rest.
        self.headers = HTTPMessage()
        joined: dict[str, str] = defaultdict(str)
        for name, value in fields:
            value = value.strip(" \t")
            self.headers.set_raw(name, value)
            joined[name.lower()] += "," + value
        lengths = joined["content-length"]
        coding = joined["transfer-encoding"].lower()
        number = _LENGTH.fullmatch(lengths or ",0")
        if not number or coding not in ("", ",identity", ",chunked"):
            raise _ProtocolError("its Content-Length or Transfer-Encoding is invalid")
        self.will_close = False  # or HTTPConnection would close the stream before the body is read
        self.chunk_left = None
        self.chunked = coding == ",chunked"
        self.length = int(number[1])
        if (
            # Either side may say so.
            "close" in (joined["connection"] + message.headers.get("Connection", "")).lower()
            or self.version == 10
            or (lengths and coding)
            or (self.status == 204 and (self.length or self.chunked))
        ):
            message.keep = False
        if message.method == "HEAD" or self.status in (204, 304):
            self.length = 0
            self.chunked = False
        elif not lengths:
            self.length = None
            message.ends_answer = not self.chunked

    def _get_chunk_left(self) -> int | None:
        """Return what is left of the chunk, or the size of the next one; None after the last.

        (RFC 9112 section 7.1)
        """
        if not self.chunk_left:
            message = self.fp.raw.message
            message.begin_step()
            # The first chunk has none before it, whose end would have to be read.
            end = b"\r\n" if self.chunk_left is None else self.fp.readline(3)
            line = end + self.fp.readline(_HEAD_LIMIT)
            match = re.fullmatch(rb"\r\n([0-9a-fA-F]{1,16})[ \t]*(?:;[^\r\n\0]*)?\r\n", line)
            if not match:
                message.keep = False
                raise _ProtocolError("a chunk has no valid size, or does not end where it should")
            self.chunk_left = int(match[1], 16) or None
            if not self.chunk_left:
                _read_fields(self.fp)
                self.length = 0
                self._close_conn()
            message.end_step()
        return self.chunk_left

    def read(self, amt: int | None = None) -> bytes:
        """Read in pieces, since http.client allocates as much as a server announces."""
        if amt is None or amt < 0:
            return _read_up_to(self, sys.maxsize)
        return super().read(amt)

    def _close_conn(self) -> None:
        """Let go of the connection: keep it for its next use, or close it."""
        stream = self.fp.raw
        message = stream.message
        self.fp = None
        if self.length == 0 and message.keep:
            message.body = None  # which may be large
            stream.idle_since = _now()
            message.idle.append(stream)
        else:
            stream.close()


def _close_idle(streams: deque[_Stream], most: int = 0) -> None:
    """Close the connections beyond that many, the oldest first, and those idle for too long."""
    try:
        # Servers close after 60 to 75 seconds.
        while len(streams) > most or _since(streams[0].idle_since) >= 60.0:
            streams.popleft().close()
    except IndexError:  # no more
        pass


class _Pool:
    """The idle connections, and the one SSLContext. Threads may share it.

    A connection is kept (_HTTPResponse._close_conn) if its answer was read to its end, request and
    answer do not say "Connection: close", that end was beyond doubt (_HTTPResponse.begin), and
    the request was sent whole. Else it is closed at once.
    It is used again (_take) by the same process for the same route, within 60 s, if it is open and
    nothing unsolicited has arrived. Of more than 64 the oldest are closed. If it fails before an
    answer begins, an idempotent request is sent once more, on a new one (exchange).
    It has no lock: the methods of a deque are atomic, and finalizers and signal handlers may call.
    """

    _tls: Any = None  # the context, and whether it knows the hashed directory only

    def __init__(self, context: ssl.SSLContext | None) -> None:
        if not isinstance(context, (ssl.SSLContext, type(None))):
            raise TypeError("context must be an ssl.SSLContext, or None")
        if context:
            self._tls = context, False
        self._idle: deque[_Stream] = deque()  # the one used last is on the right
        # At exit, and before the garbage collector warns of open sockets.
        finalize(self, _close_idle, self._idle)

    def close(self) -> None:
        _close_idle(self._idle)

    def exchange(self, request: Any) -> Any:
        """Send a Request and return its answer, with the body still to be read."""
        message = _Message(request, self._idle)
        stream = self._take(message)
        if stream:
            try:
                return _converse(stream, message)
            except _TransportError as error:
                # The server may have closed it while it was idle: once more, on a new one, unless
                # an answer had begun, or to repeat the request is impossible or may do harm
                # (RFC 9110 section 9.2.2).
                if (
                    message.received
                    or isinstance(error.reason, socket.timeout)
                    or not re.fullmatch("GET|HEAD|OPTIONS|PUT|DELETE|TRACE", message.method)
                    or hasattr(message.body, "__next__")
                ):
                    raise
        return _converse(self._connect(message), message)

    def _take(self, message: _Message) -> _Stream | None:
        """Return the most recently used idle connection for this route, or None.

        Close those that have been idle for too long, and those on which the server sent something
        unsolicited, or that it closed.
        """
        _close_idle(self._idle, 64)
        for stream in reversed(self._idle.copy()):
            if stream.message.route == message.route:
                try:
                    self._idle.remove(stream)
                except ValueError:  # another thread was faster
                    continue
                if stream.is_silent():
                    stream.message = message
                    return stream
                stream.close()
        return None

    def _connect(self, message: _Message) -> _Stream:
        """Open a connection: TCP, a tunnel if there is a proxy, and TLS."""
        if message.url.origin.scheme == "http":
            return _open_stream(message)
        context, is_partial = self._tls or self._make_context()
        try:
            return _open_tls_stream(message, context)
        except _CertificateError:
            if not is_partial:
                raise
        # Once more with all certificates that Python loads by default, whose verdict counts.
        context.load_default_certs()
        self._tls = context, False
        return _open_tls_stream(message, context)

    def _make_context(self) -> Any:
        """Make the SSLContext. Return it, and whether it knows the hashed directory only.

        Loading all certificates takes 20 ms. A hashed directory, if the system has one, is tried
        first: OpenSSL reads only the files it needs from it.
        """
        import glob

        directory: Any = ssl.get_default_verify_paths().capath
        # If the user set SSL_CERT_FILE, it is most likely needed.
        if "SSL_CERT_FILE" in os.environ or not glob.glob(f"{directory}/????????.0"):
            directory = None
        context = ssl.create_default_context(capath=directory)
        # Python 3.8 and 3.9 allow TLS 1.0, and take a body that is cut off for a whole one.
        context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
        context.options &= ~0x80  # OP_IGNORE_UNEXPECTED_EOF, which they have without a name
        self._tls = context, directory is not None
        return self._tls


def _open_stream(message: _Message) -> _Stream:
    """Connect to the proxy, if there is one, or to the server."""
    peer = message.peer
    try:
        timeout = message.time_left()
        if message.deadline:
            timeout /= 4  # connect() applies it to each address of the host: leave time for others
        connection = HTTPConnection(
            peer.origin.host.strip("[]"), peer.origin.port, timeout
        )
        connection.connect()
    except OSError as error:
        raise _TransportError(error, peer.place) from error
    return _Stream(connection.sock, message, peer.place)


def _open_tls_stream(message: _Message, context: ssl.SSLContext) -> _Stream:
    """Connect to the server, through a tunnel if there is a proxy, and verify its certificate."""
    place = message.url.place
    # Closed at the end, when TLS has taken over its socket. What a proxy sent ahead goes with it.
    with _open_stream(message) as stream:
        if message.peer is not message.url:
            _open_tunnel(stream, message)
        try:
            stream.sock.settimeout(message.time_left())
            sock = context.wrap_socket(
                stream.sock,
                server_hostname=message.url.origin.host.strip("[]."),
                # A body that somebody cut off must not pass for a whole one (RFC 9112 section 9.8).
                suppress_ragged_eofs=False,
            )
        except ssl.CertificateError as error:
            raise _CertificateError(error, place) from error
        except OSError as error:
            raise _TransportError(error, place) from error
    return _Stream(sock, message, place)


def _open_tunnel(stream: _Stream, message: _Message) -> None:
    """Have the proxy connect the stream to the server (RFC 9110 section 9.3.6)."""
    origin = message.url.origin
    authority = f"{origin.host}:{origin.port}"
    head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
    if message.proxy_authorization:
        head += f"Proxy-Authorization: {message.proxy_authorization}\r\n"
    # Not through putrequest(): tracing libraries would take it for a request to the server, and
    # send their headers to the proxy.
    stream.sendall(f"{head}\r\n".encode())
    try:
        status = stream.read_head()[1]
    except _ProtocolError as error:
        raise _ProxyError(error.reason, stream.place) from None
    if status >= 300:
        raise _ProxyError(
            f"it answered {status} to CONNECT; if it asks for a password, write its URL as "
            "http://user:password@host:port",
            stream.place,
        )


def _converse(stream: _Stream, message: _Message) -> Any:
    """Send a request on a stream and return its answer.

    Both go through methods of HTTPConnection, since tracing libraries replace these.
    """
    origin = message.url.origin
    connection: Any = HTTPConnection(origin.host, origin.port)
    connection.response_class = _HTTPResponse
    connection.default_port = _PORTS[origin.scheme]  # by which tracers tell what is https
    connection.sock = stream
    try:
        try:
            connection.request(message.method, message.target, message.body, message.headers)
        except _SendError:
            message.keep = False  # but an early answer, or an alert of TLS, may say why
        return connection.getresponse()
    except BaseException:
        stream.close()
        raise


class _ProxyHandler(ProxyHandler):
    """Bypasses proxies for plain HTTP to loopback, and refuses all but HTTP proxies."""

    def proxy_open(self, request: Any, proxy: str, kind: str) -> Any:
        """Put the proxy on the request."""
        if (
            _split_url(request.full_url).is_plain_loopback
            or proxy_bypass(request.host)
        ):
            return None
        if not re.fullmatch("(http://)?[^/]+/?", proxy, re.IGNORECASE):
            place = re.sub(r"(?s)(\w+://)?.*@", r"\1", proxy)  # without its password
            raise _ProxyError("it must be an HTTP proxy, http://host:port", f"the proxy {place}")
        return super().proxy_open(request, proxy, kind)


class _HTTPHandler(HTTPHandler, HTTPSHandler):
    """A subclass of both, so that build_opener leaves out its own handlers."""

    def __init__(self, pool: _Pool) -> None:
        # Not super(): from Python 3.12 on HTTPSHandler would load the certificates.
        self._pool = pool

    def http_open(self, request: Any) -> Any:
        """Send the request."""
        return self._pool.exchange(request)

    https_open: Any = http_open


def _read_all(answer: Any, limit: int = 67108864) -> bytes:
    """Return the whole body, unzipped; URLError if it breaks off or exceeds the limit.

    limit: bytes (by default 64 MiB), as sent and as unzipped.
    """
    body = _read_up_to(answer, limit)
    if answer.headers.get("Content-Encoding", "").lower() != "gzip":
        return body
    import gzip

    try:
        return _read_up_to(gzip.GzipFile(fileobj=BytesIO(body)), limit)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise _ProtocolError("the body is not the gzip that its Content-Encoding says") from None


def _read_up_to(file: Any, limit: int) -> bytes:
    whole = bytearray()
    for piece in iter(partial(file.read, _PIECE), b""):
        whole += piece
        if len(whole) > limit:
            raise _ProtocolError(
                f"the body has more than {limit} bytes; for the API, use session.open()"
            )
    return bytes(whole)


# ---- Token: a value, and how old it is -----------------------------------------------------------

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
    Tokens are equal if their access_token is.

    Raises ValueError for an access_token that cannot be sent in a header.
    """

    __slots__ = ("access_token", "expires_at", "raw", "scope", "token_type")

    def __init__(
        self,
        access_token: str,
        *,
        token_type: str = "Bearer",
        expires_at: float | None = None,
        scope: str | None = None,
        raw: Mapping[str, Any] | None = None,
    ) -> None:
        if not (isinstance(access_token, str) and re.fullmatch("[!-~]{1,65536}", access_token)):
            raise ValueError("access_token must be 1 to 65536 visible ASCII characters")
        self.access_token = access_token
        self.token_type = token_type
        self.expires_at = expires_at
        self.scope = scope
        self.raw = raw

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(self, name):
            raise AttributeError("a Token cannot be changed")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a Token cannot be changed")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Token) and self.access_token == other.access_token

    def __hash__(self) -> int:
        return hash(self.access_token)

    @classmethod
    def from_response(cls, mapping: Mapping[str, Any], requested_at: float | None = None) -> Token:
        """Return the Token of a successful token response (RFC 6749
        section 5.1).

        mapping: the parsed JSON object. requested_at: when the request was
        sent, in seconds since the epoch; default: now.

        An expires_in that makes no sense counts as missing. Raises
        OAuthMalformedResponse for an answer without a usable token.
        """
        # Deviation: required, but some servers leave it out. Apigee says "BearerToken", eBay
        # "Application Access Token", and both want a Bearer header.
        token_type = str(mapping.get("token_type") or "Bearer")
        if token_type.lower() in ("dpop", "mac", "pop", "n_a"):  # they need more than a header
            raise OAuthMalformedResponse(f"token_type {token_type} cannot be sent as Bearer")
        scope = mapping.get("scope")
        if isinstance(scope, list):  # Deviation: Twitch sends a list
            scope = " ".join(map(str, scope))
        if not isinstance(scope, str):
            scope = None
        if requested_at is None:
            requested_at = time.time()
        expires_at = _seconds(mapping.get("expires_in"))
        if expires_at:
            expires_at += requested_at
        try:
            return cls(
                mapping.get("access_token"),  # type: ignore[arg-type]
                token_type=token_type,
                expires_at=expires_at,
                scope=scope,
                raw=dict(mapping),
            )
        except ValueError as error:
            raise OAuthMalformedResponse(str(error)) from None


class _KeptToken:
    """A token with its age: when it was requested, its life, and how long before its end it is
    DUE or EXPIRED."""

    def __init__(self, token: Token, requested: tuple[float, float], refresh_before: float) -> None:
        life = 3600.0  # seconds, if the server did not say
        if token.expires_at is not None:
            life = token.expires_at - requested[0]
        self.token = token
        self.requested = requested
        self.life = life
        self.expired_window = min(10.0, life / 10)
        self.due_window = min(refresh_before, life / 2)
        self.refresh_in = _seconds((token.raw or {}).get("refresh_in"))
        if self.refresh_in:  # a tiny one would cause a fetch at each call
            self.due_window = life - max(self.refresh_in, 0.1)

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

        It has no other until this one has EXPIRED; each call would cause a fetch.
        """
        window = before.expired_window
        if self.left() <= window:
            window = 0.0
        self.expired_window = self.due_window = window


# ---- ClientCredentials: how one token is obtained ------------------------------------------------

_TRANSIENT = (OAuthTransportError, OAuthTemporarilyUnavailable, OAuthServerError)
# After these the next method is tried. Deviation: servers without Basic answer invalid_request.
_TRY_NEXT_METHOD = (OAuthInvalidClient, OAuthInvalidRequest)
# Client authentication (OpenID Connect Core section 9, RFC 8705), and the setting that each needs.
_METHODS: dict[str | None, str] = {
    None: "client_secret",  # _try_methods finds one that works
    "client_secret_basic": "client_secret",
    "client_secret_post": "client_secret",
    "client_secret_basic_raw": "client_secret",
    "client_secret_jwt": "client_secret",
    "private_key_jwt": "client_assertion",
    "tls_client_auth": "no secret",
    "none": "no secret",
}
_DEFAULTS = ["client_secret_basic", "client_secret_post"]  # if no method is named
_PUBLIC_FIELDS = (  # of the form, all others may be secret
    "grant_type", "scope", "audience", "resource", "client_id", "client_assertion_type",
)  # fmt: skip
_CHECK_URL = "is token_url right, or issuer, or the proxy?"
_ORDER = " (the order is OAuthSession(client_id, client_secret, scope, token_url))"

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

    _build() says what is sent, and how the client proves itself. A call
    returns a Token, or raises OAuthTransportError, an OAuthResponseError
    (that of the first method, if several were refused), or what a callable
    raises. Any thread may call it. Raises ValueError or TypeError for
    wrong settings.
    """

    __reduce__ = _refuse_pickling
    _endpoint_may_have_moved = True
    _discovered: tuple[float, float]  # when the metadata of the issuer were asked for last

    def __init__(
        self, client_id: str, client_secret: str | Callable[[], str] | None = None,
        scope: str | Iterable[str] | None = None,
        token_url: str | None = None, *, issuer: str | None = None,
        auth_method: str | None = None, client_assertion: str | Callable[[], str] | None = None,
        assertion_audience: str | None = None, audience: str | Iterable[str] | None = None,
        resource: str | Iterable[str] | None = None,
        token_params: Any = None, token_headers: Any = None,
        headers: Mapping[str, Any] | None = None, timeout: float = 30.0,
        context: ssl.SSLContext | None = None, allow_http: bool = False,
        handlers: Iterable[Any] = (), pool: _Pool | None = None,
    ) -> None:  # fmt: skip
        if issuer is None:
            token_url = _check_url("token_url", token_url, allow_http, _ORDER).text
        elif token_url:
            raise _contradiction("token_url", "issuer")
        else:
            issuer = _check_url("issuer", issuer, allow_http).text
        self.client_id = _credential("client_id", client_id)
        self.issuer = issuer
        self._set_secret(client_secret, client_assertion, auth_method)
        self._audience = assertion_audience or issuer or token_url
        self.scope = " ".join(_texts("scope" + _ORDER, scope)) or None
        self._fields = deepcopy({  # a caller may change its lists
            "grant_type": "client_credentials",
            "scope": self.scope,
            "audience": _texts("audience", audience),
            "resource": _texts("resource", resource),
            **(token_params or {}),
        })  # fmt: skip
        self._token_headers = _check_headers(token_headers)
        # What a cache key is made of: clients that differ here share no token.
        self._identity = json.dumps([
            issuer, token_url, self.client_id, self.auth_method, assertion_audience,
            _encode_form("token_params", self._fields), self._token_headers,
        ])  # fmt: skip
        self.headers = headers
        self.timeout = _check_timeout(timeout) or 30.0
        self._allow_http = allow_http
        self._endpoint: Any = token_url  # or what the metadata of the issuer say
        self._opener = _token_opener(handlers, pool or _Pool(context))

    def _set_secret(self, client_secret: Any, client_assertion: Any, method: str | None) -> None:
        """Keep the secret or assertion that the method needs, and which methods to try."""
        if method is None and client_assertion is not None:
            method = "private_key_jwt"
        if method not in _METHODS:
            raise ValueError(f"auth_method must be one of {list(_METHODS)}")
        needed = _METHODS[method]
        given = {"client_secret": client_secret, "client_assertion": client_assertion}
        self._secret: Any = given.pop(needed, "")
        for name, value in given.items():
            if value:
                raise _contradiction(name, f"auth_method={method!r} (with {needed})")
        if needed != "no secret" and not callable(self._secret):
            self._secret = _credential(needed, self._secret)
        self.auth_method = method
        # Or those that the issuer lists, or the one that was seen to work.
        self._methods = [method] if method else _DEFAULTS

    @property
    def cache_key(self) -> str:
        """A hash of the settings that go into a token request, and the
        secret: clients that differ here share no token. Callables and the
        certificate of context are not part of it."""
        import hmac

        secret = "" if callable(self._secret) else self._secret
        return hmac.new(secret.encode(), self._identity.encode(), "sha256").hexdigest()

    def __call__(self) -> Token:
        """Fetch one token, in up to three tries within `timeout`."""
        deadline = time.monotonic() + self.timeout
        for longest_wait in (0.5, 1.0):  # seconds
            try:
                return self._try(deadline)
            except _TRANSIENT as error:
                wait = error.retry_after or random.uniform(0, longest_wait)
                if wait > (deadline - time.monotonic()) / 2:
                    raise
                if getattr(error.__cause__, "is_lasting", False):
                    raise
            time.sleep(wait)
        return self._try(deadline)

    def _try(self, deadline: float) -> Token:
        """Fetch one token; once more if the client is refused and its secret has changed."""
        if self.issuer:
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
            return self._secret  # type: ignore[no-any-return]
        secret = self._secret()
        try:
            return _credential("what client_secret or client_assertion returned", secret)
        except (TypeError, ValueError) as error:  # a file may be half written, for example
            raise OAuthError(str(error).replace(_ORDER, "")) from None

    def _discover(self, deadline: float) -> None:
        """Read the metadata of the issuer, if necessary: RFC 8414, else OpenID Connect."""
        if self._endpoint:  # so it was asked for before
            if not self._endpoint_may_have_moved:
                return
            if _since(self._discovered) <= 60.0:  # seconds; not sooner again
                return
        self._discovered = _now()
        issuer = _split_url(self.issuer)
        path = issuer.target.rstrip("/")
        problems = ""
        kind: Any = None
        for url in (
            f"{issuer.place}/.well-known/oauth-authorization-server{path}",
            f"{issuer.place}{path}/.well-known/openid-configuration",
        ):
            reply = self._send(Request(url), deadline)
            try:
                self._adopt(reply.mapping)
                return
            except (TypeError, ValueError) as error:
                problems += f"{url} answered {reply.status}: {error}; "
            if kind not in _TRANSIENT:  # the first URL may answer better at the next try
                failed = reply
                kind = _kind_of(reply.status, None)
        if kind not in _TRANSIENT:
            kind = OAuthMalformedResponse
        raise kind(
            f"{problems}is issuer right? If it is, give token_url instead",
            status=failed.status,
            retry_after=_retry_after(failed.headers),
        )

    def _adopt(self, metadata: dict[str, Any]) -> None:
        """Keep the token endpoint and methods of metadata; ValueError if they are of no use."""
        named = metadata.get("issuer")
        if named != self.issuer:  # Azure AD B2C, for example
            raise ValueError(f"its issuer is {_clean(named)!r}")
        if self.auth_method == "tls_client_auth":  # RFC 8705 section 5
            metadata.update(metadata.get("mtls_endpoint_aliases", {}))
        endpoint = _check_url("token_endpoint", metadata.get("token_endpoint"), self._allow_http)
        if not self.auth_method:
            listed = metadata.get("token_endpoint_auth_methods_supported") or ()
            usable = [method for method in (*_DEFAULTS, "client_secret_jwt") if method in listed]
            self._methods = usable or _DEFAULTS
        self._endpoint = endpoint.text

    def _try_methods(self, secret: str, deadline: float) -> Token:
        """Ask for a token by one method after the other, until the client is not refused."""
        methods = self._methods
        if methods == _DEFAULTS:
            pair = self.client_id + secret
            if _encode(pair) != pair:  # servers may not decode
                methods = [*methods, "client_secret_basic_raw"]
        first: Any = None
        for method in methods:
            try:
                token = self._request(method, secret, deadline)
            except _TRY_NEXT_METHOD as error:
                first = first or error
            except OAuthResponseError as error:
                # These two kinds do not say whether the client was accepted.
                if not first or type(error) not in (OAuthResponseError, OAuthMalformedResponse):
                    raise
            else:
                if first:
                    _log("info", "the server accepts %s: name it as auth_method", method)
                self._methods = [method]
                return token
        first.args = (f"{first} (tried: {', '.join(methods)})",)
        raise first

    def _request(self, method: str, secret: str, deadline: float) -> Token:
        """Send one token request and judge the answer."""
        request = self._build(method, secret)
        requested_at = time.time()
        self._endpoint_may_have_moved = True  # until the endpoint has answered
        reply = self._send(request, deadline)
        self._endpoint_may_have_moved = reply.status == 404
        # It may be left out if it is what was asked for (section 5.1).
        reply.mapping.setdefault("scope", self.scope)
        return _judge(request, secret, reply, requested_at)

    def _build(self, method: str, secret: str) -> Any:
        """Make a token request: a form, sent by POST (RFC 6749 section 4.4.2).

        Its fields are grant_type, scope, audience, resource and token_params, as far as they are
        set. Its headers are Accept, User-Agent (see _send) and token_headers. And, by auth_method,
        what proves who the client is (section 2.3):

        client_secret_basic      header Authorization: Basic, id and secret percent-encoded
        client_secret_basic_raw  the same, id and secret as they are
        client_secret_post       fields client_id and client_secret
        client_secret_jwt        fields client_id and client_assertion, signed with the secret
        private_key_jwt          fields client_id and client_assertion, as it was given
        tls_client_auth, none    field client_id
        """
        headers = dict(self._token_headers)
        proof = {"client_id": self.client_id}
        if method == "client_secret_post":
            proof["client_secret"] = secret
        elif method.endswith("_jwt"):
            if method == "client_secret_jwt":
                secret = self._sign(secret)
            proof["client_assertion"] = secret
            # RFC 7523 section 2.2
            proof["client_assertion_type"] = (
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            )
        elif method.startswith("client_secret_basic"):
            proof = {}
            # Deviation: some servers do not decode.
            encode = _encode if method == "client_secret_basic" else str
            pair = f"{encode(self.client_id)}:{encode(secret)}"
            headers["Authorization"] = "Basic " + b64encode(pair.encode()).decode()
        form = _encode_form("token_params", {**self._fields, **proof})
        return Request(self._endpoint, form.encode(), headers)

    def _sign(self, secret: str) -> str:
        """Return a JWT that proves who the client is (RFC 7523). Servers accept each one once."""
        import hmac

        now = int(time.time())
        claims = {
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": self._audience,
            "iat": now,
            "exp": now + 120,  # seconds; a request takes less, and clocks differ
            "jti": os.urandom(16).hex(),
        }
        parts = [b'{"alg": "HS256", "typ": "JWT"}', json.dumps(claims).encode()]
        message = b".".join(map(urlsafe_b64encode, parts)).replace(b"=", b"")
        signature = urlsafe_b64encode(hmac.digest(secret.encode(), message, "sha256"))
        return (message + b"." + signature.rstrip(b"=")).decode()

    def _send(self, request: Any, deadline: float) -> _Reply:
        """Send a request to the authorisation server and return its answer, whatever the status."""
        agent = _check_headers(self.headers).get("User-Agent", _USER_AGENT)
        # Those of the request take precedence.
        self._opener.addheaders = [("Accept", "application/json"), ("User-agent", agent)]
        request.deadline = deadline
        try:
            with self._opener.open(request, timeout=None) as answer:
                body = _read_all(answer, _ANSWER_LIMIT)
        except _ProtocolError as error:
            error.place = _split_url(request.full_url).place
            raise OAuthMalformedResponse(f"{error}; {_CHECK_URL}") from None
        except _TransportError as error:
            text = _clean(error)
            if not error.is_lasting:
                text += f"; {_CHECK_URL}"
            raise OAuthTransportError(text) from error
        try:
            mapping = json.loads(_decode(body, answer.headers))
        except (ValueError, RecursionError):
            mapping = None
        if not isinstance(mapping, dict):
            mapping = {}
        return _Reply(answer.status, answer.headers, len(body), mapping)


def _own_handlers(handlers: Iterable[Any] | None) -> list[Any]:
    """Return copies of a user's handlers, since a handler can belong to one opener only.

    There is a ProxyHandler among them: that of the environment if the user gives none.
    """
    own = []
    default = [_ProxyHandler()]
    for handler in handlers or ():
        if isinstance(handler, type):
            handler = handler()
        if isinstance(handler, HTTPSHandler):
            raise ValueError("handlers cannot hold an HTTPSHandler: give context= instead")
        if isinstance(handler, ProxyHandler):
            default = []
        if type(handler) is ProxyHandler:
            handler = _ProxyHandler(handler.proxies)  # type: ignore[attr-defined]
        own.append(copy(handler))
    return own + default


def _token_opener(handlers: Iterable[Any], pool: _Pool) -> OpenerDirector:
    """Return the opener for token requests: it follows no redirect and keeps no cookie."""
    opener = OpenerDirector()
    opener.add_handler(_HTTPHandler(pool))
    for handler in _own_handlers(handlers):
        if isinstance(handler, ProxyHandler):
            opener.add_handler(handler)
    return opener


def _credential(name: str, value: Any) -> str:
    """Return client_id, client_secret or client_assertion as text; errors do not show it."""
    text = _text(value or "", name + _ORDER)
    if not text or re.search("[\0-\x1f\x7f\ud800-\udfff]", text):
        raise ValueError(f"{name} is missing, or has control characters such as a line end{_ORDER}")
    return text


def _texts(name: str, value: Any) -> list[str]:
    """Return a setting that is one text or several as a list."""
    if not value:
        return []
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        value = [value]
    if isinstance(value, (set, frozenset)):
        value = sorted(value)  # or the key of a shared cache would not be the same everywhere
    return [_text(one, name) for one in value]


def _encode(text: str) -> str:
    """Encode for HTTP Basic (RFC 6749 section 2.3.1)."""
    # A space as %20, since servers read + differently.
    return quote(text, "")


def _private_texts(request: Any, secret: str) -> list[str]:
    """Return the texts to mask if a server echoes them: the secret, and what the caller or
    _build() put into headers and form, except public fields."""
    fields = parse_qsl(request.data.decode())
    values = [value for name, value in fields if name not in _PUBLIC_FIELDS]
    values += " ".join(request.headers.values()).split()  # a server may echo what follows "Basic",
    values += secret.split(".")  # or a part of a JWT
    # To mask shorter ones would mask parts of ordinary words.
    return [secret] + [value for value in values if len(value) > 5]


def _judge(request: Any, secret: str, reply: _Reply, requested_at: float) -> Token:
    """Return the Token of an answer, or raise what it means (RFC 6749 sections 5.1 and 5.2)."""
    mapping = reply.mapping
    secrets = _private_texts(request, secret)
    for name in ("access_token", "refresh_token", "id_token"):
        secrets.append(str(mapping.get(name) or ""))
    problem = "no error code"
    if reply.status < 300 and not mapping.get("error"):
        try:
            token = Token.from_response(mapping, requested_at)
        except OAuthMalformedResponse as error:
            problem = str(error)
        else:
            if token.token_type.lower() != "bearer":
                shown = _clean(token.token_type, secrets)
                _log("info", "a token of token_type %r is sent as a Bearer token", shown)
            return token

    said = {
        name: _clean(mapping[name], secrets)
        for name in ("error", "error_description", "error_uri")
        if isinstance(mapping.get(name), str) and mapping[name]
    }
    headers = _clean_headers(reply.headers, secrets)
    if said:
        problem = ": ".join(said.values())
    else:
        problem += f" ({headers['Content-Type']}, {reply.size} bytes)"
    kind = _kind_of(reply.status, str(mapping.get("error")))
    raise kind(
        f"{_split_url(request.full_url).place} answered {reply.status} - {problem}; {kind._advice}",
        status=reply.status,
        headers=headers,
        retry_after=_retry_after(reply.headers),
        **said,
    )


def _kind_of(status: int, code: Any) -> type[OAuthResponseError]:
    """Return the exception class for a refusal (RFC 6749 section 5.2).

    A 401 means the client, unless the code names something else.
    """
    # Deviation: Auth0 answers 401 access_denied, ServiceNow server_error, Keycloak
    # unauthorized_client. The three codes below do not blame the client.
    if status == 401 and code not in ("invalid_scope", "invalid_target", "unsupported_grant_type"):
        return OAuthInvalidClient
    if status in (408, 425, 429, 503):
        return OAuthTemporarilyUnavailable
    if status >= 500:
        return OAuthServerError
    without_code = OAuthResponseError
    if status == 403:
        without_code = OAuthInvalidClient
    if status < 400:
        without_code = OAuthMalformedResponse
    return ERRORS_BY_CODE.get(code, without_code)


def _seconds_of_date(text: Any) -> float | None:
    """Return an HTTP date (RFC 9110 section 5.6.7) in seconds since the epoch, or None."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except Exception:  # of many kinds, and not the same in each Python
        return None


def _retry_after(headers: HTTPMessage) -> float | None:
    """Return the seconds of a Retry-After header, or None if it makes no sense or is past.

    (RFC 9110 section 10.2.3)
    """
    seconds: Any = headers.get("Retry-After")
    end = _seconds_of_date(seconds)
    if end:
        seconds = end - time.time()
    return _seconds(seconds)


# ---- Caches: FileCache, and how any cache is asked without harm ----------------------------------

_FORK_AWARE: WeakSet[Any] = WeakSet()  # what must know when it is in a forked child


def _after_fork() -> None:
    for one in _FORK_AWARE:
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
        return os.path.join(self.directory, quote(key, ""))


class _FileLock:
    """Lock out other threads and processes. The file stays: removing it would let two in."""

    def __init__(self, path: str) -> None:
        self._number = os.open(
            path,
            os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0),  # Windows has no such flag
            0o600,
        )
        # The lock is free when nobody has the file open any more, so also when its holder dies. A
        # forked child must not keep it.
        self.release = self._reset_after_fork = finalize(self, os.close, self._number)
        _FORK_AWARE.add(self)

    def acquire(self, blocking: bool = False) -> bool:
        """Return whether the lock is held now; never wait, so blocking is ignored."""
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(self._number, msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # another has it: flock, Windows
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
    for a while. Without a cache, every attempt returns None."""

    cache: Any = None
    can_lock = True
    has_warned = False
    ignore_before = 0.0  # wall clock; entries from before are not used
    refused: Token | None = None  # the last one that an API refused
    rests_until = 0.0  # monotonic clock

    def __init__(self, cache: Any, key: str | None, fetch: Any, refresh_before: float) -> None:
        import hashlib  # urllib has imported it already

        self.refresh_before = refresh_before
        if cache is None:
            return
        self.cache = FileCache(cache) if isinstance(cache, (str, bytes, os.PathLike)) else cache
        if not hasattr(self.cache, "set"):
            raise TypeError(
                "cache must be a path, or an object with get(key) and set(key, value, seconds)"
            )
        key = key or getattr(fetch, "cache_key", None)
        key = _text(key, "cache_key, which a fetch callable of yours needs,")
        self.key = "oauth_session-" + hashlib.sha256(key.encode()).hexdigest()
        try:
            self.can_lock = callable(self.cache.lock)
        except Exception:  # diskcache.FanoutCache raises AssertionError
            self.can_lock = False

    def attempt(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a method of this class returns.

        None if it raises, within 30 s of a failure, or while another attempt has been running for
        less than 60 s: nobody waits for a cache that hangs.
        """
        if self.cache is None or time.monotonic() < self.rests_until:
            return None
        self.rests_until = time.monotonic() + 60
        try:
            result = action(*arguments)
            self.rests_until = 0.0
            return result
        except Exception as error:
            self.rests_until = time.monotonic() + 30
            # The text of an error that is not ours may show the token.
            shown = _clean(error) if isinstance(self.cache, FileCache) else type(error).__name__
            _log("warning", "the shared cache fails, and rests for half a minute: %s", shown)
            return None

    def read(self) -> _KeptToken | None:
        """Return the token in the cache, judged like a fresh answer.

        None if it has expired, or was cleared, replaced or refused here.
        """
        value = self.cache.get(self.key)
        if value is None:
            return None
        wall, steady = _now()
        try:
            entry = json.loads(value, parse_int=float)  # int() of many digits may take minutes
            requested = entry["obtained_at"]
            elapsed = max(0.0, wall - requested)  # a clock that is ahead must not prolong its life
            token = Token.from_response(entry, wall - elapsed)
        except Exception:  # whatever somebody wrote there
            if not self.has_warned:
                self.has_warned = True
                _log("warning", "what the shared cache holds makes no sense, and is not used")
            return None
        kept = _KeptToken(token, (requested, steady - elapsed), self.refresh_before)
        # The clock of another machine may be ahead, by no more than five minutes.
        is_new = self.ignore_before < requested <= wall + 300
        if is_new and token != self.refused and kept.age() != EXPIRED:
            return kept
        return None

    def get_lock(self, limit: float) -> Any:
        """Return the lock once it is held; None if its holder leaves a token first, or hangs."""
        lock = self.cache.lock(self.key + ".lock", timeout=limit)
        # By chance, so that not all give up a dead holder at once: the first will write.
        end = time.monotonic() + limit * random.uniform(0.3, 0.5)
        while not lock.acquire(blocking=False):
            if self.read() or time.monotonic() >= end:
                return None
            time.sleep(0.05)
        return lock

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
        # memcached takes a number greater than 30 days for a date.
        seconds = min(max(1, int(kept.left())), 2592000)
        self.cache.set(self.key, json.dumps(entry), seconds)


# ---- TokenSource: keeps the token and renews it, one fetch at a time -----------------------------

# Most seconds from the first, second ... failure in a row to the next fetch; then 60
_PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
# Stands for no token: it is always EXPIRED, so nobody gets it.
_NO_TOKEN = _KeptToken(Token("none"), _LONG_AGO, 0.0)


class _Fetch:
    """A fetch in a thread of its own. All who need its token wait until it is done."""

    token: Token | None = None
    due: Token | None = None  # the token that it renews in the background, while callers use it
    # What waiters get, a copy each, unless the fetch sets another.
    error: Exception = OAuthTransportError(
        "no token came in time: is token_url slow, or a shared cache?"
    )
    failed: tuple[float, float] = _LONG_AGO
    pause = 0.0  # seconds from then until the next one may start

    def __init__(self, limit: float, refused: Token | None = None) -> None:
        self.limit = limit  # seconds that it may take
        self.refused = refused  # the token that it replaces, since an API refused it
        self.started = _now()
        self.thread: int | None = threading.get_ident()  # that runs it, or is about to start it
        self.done = threading.Event()

    def is_alive(self) -> bool:
        """Return whether its result may still come.

        Past its deadline it is dead: it hangs, or its process was frozen. In an interpreter that
        shuts down, no other thread runs again.
        """
        return (
            # Two seconds for what no deadline covers.
            _since(self.started) < self.limit + 2
            and not self.done.is_set()
            and not sys.is_finalizing()
        )

    def allows_next(self) -> bool:
        """Return whether another fetch may start."""
        return not self.is_alive() and _since(self.failed) >= self.pause


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

    A FRESH or DUE token is returned at once. The first caller to find it
    DUE starts a fetch in the background, for which nobody waits. Once it is
    EXPIRED, callers wait for the fetch under way, or start one. Each fetch
    runs in a daemon thread of its own: it looks into the cache, else
    obtains a token, and writes it there. All who wait get its token or its
    error. A token that arrives after the deadline of the fetch, or after
    clear(), is not kept.
    """

    __reduce__ = _refuse_pickling

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
        if not refresh_before >= 0:  # it may be NaN
            raise ValueError("refresh_before must be a number of seconds, 0 or more")
        self._fetch = fetch
        self._cache = _SharedCache(cache, cache_key, fetch, refresh_before)
        self._kept = _NO_TOKEN  # replaced as a whole, and read without the lock
        self._reset_after_fork()
        _FORK_AWARE.add(self)

    def _reset_after_fork(self) -> None:
        """Make the lock; forget fetches and failures, since no thread of a parent ends them."""
        # The one lock. With it held, _token_or_fetch() decides who fetches, and _keep() and clear()
        # replace the token. It is never held while foreign code runs. What becomes of a fetch is
        # written by its own thread only, before it is done.
        # An RLock, since the garbage collector may run a finalizer that uses the source in the
        # thread that holds it. It may have to wait, then, until its timeout.
        self._lock = threading.RLock()
        self._cache.rests_until = 0.0
        self._forget_fetches()

    def _forget_fetches(self) -> None:
        self._last = _Fetch(0.0)  # the fetch under way, else the last one
        self._last.done.set()  # there is none yet
        self._pauses = iter(_PAUSES)  # those still to come, if failures go on
        # When the last fetch for a refused token began.
        self._replaced: tuple[float, float] = _LONG_AGO

    def token(self, timeout: float | None = None) -> Token:
        """Return a token that has not expired, fetching one if necessary.

        timeout: seconds to wait for it; default: as long as two fetches may
        take. Raises OAuthError if none can be had, and what fetch raises.
        """
        kept = self._kept
        if kept.age() == FRESH:  # no lock, since nothing is to be decided
            return kept.token
        return self._obtain(timeout)

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
        if not isinstance(token, Token):
            token = Token(token)
        self._cache.refused = token
        return self._obtain(timeout, token)

    def clear(self) -> None:
        """Forget token, errors and pauses. A fetch under way serves those
        who wait for it, and its token is not kept."""
        with self._lock:
            self._forget_fetches()
            self._kept = _NO_TOKEN
            # The token just forgotten may carry a later time, by a clock that is ahead.
            self._cache.ignore_before = max(time.time(), self._cache.ignore_before)

    def _obtain(self, timeout: float | None, refused: Token | None = None) -> Token:
        """Return the token to use; wait for a fetch if necessary."""
        limit = getattr(self._fetch, "timeout", None) or 30.0  # seconds that a fetch may take
        if timeout is None:
            timeout = 2 * limit  # it may wait for a shared cache first
        # A fetch with the same timeout ends a little earlier, and says why.
        end = time.monotonic() + timeout + 0.2
        while True:
            token, fetch = self._token_or_fetch(limit, refused)
            if token:
                return token
            fetch.done.wait(end - time.monotonic())
            if fetch.token:
                return fetch.token
            # The error is not for callers if another fetch has replaced this one, since it was
            # dead, or if it was a renewal in the background, after which they may fetch.
            if fetch is self._last and not (fetch.due and fetch.allows_next()):
                raise _copy(fetch.error)

    def _token_or_fetch(
        self, limit: float, refused: Token | None
    ) -> tuple[Token | None, _Fetch]:
        """Return the token to use at once, if there is one, and the fetch to wait for otherwise.

        1. The token at hand, unless it has EXPIRED or is the refused one. The first caller who
           finds it DUE starts a fetch in the background, which nobody waits for.
        2. Else the caller waits for the fetch under way, whoever started it,
        3. or starts one and waits for it,
        4. or, if it is too early for one, gets the refused token, or the error of the last fetch.
        """
        token = None
        new = _Fetch(limit, refused)
        try:
            with self._lock:
                kept = self._kept
                age = kept.age()
                fetch = self._last
                starts = fetch.allows_next()
                if age != EXPIRED:
                    if kept.token == refused:
                        # An API that answers 401 for ever costs one fetch a minute.
                        starts = starts and _since(self._replaced) >= 60
                    else:
                        token = new.due = kept.token
                        # Nobody waits for it, so after a failure it can wait for a second.
                        starts = starts and age == DUE and _since(fetch.failed) >= 1
                if starts:
                    fetch = self._last = new
                elif not fetch.is_alive():
                    token = token or refused
            if starts:
                self._start(new)
            elif not token and fetch.thread == threading.get_ident():
                raise OAuthError(
                    "a secret callable, fetch callable or log handler must not use the session "
                    "that it serves: its token is being fetched"
                )
        except BaseException:  # also of a signal handler, such as Ctrl-C: nobody must wait for it
            new.done.set()
            raise
        return token, fetch

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
        self._run(fetch)

    def _run(self, fetch: _Fetch) -> None:
        """Get a token and keep it, or see how long to pause; wake all who wait."""
        fetch.thread = threading.get_ident()
        try:
            self._read_or_fetch(fetch)
        except Exception as error:
            fetch.error = error
            if fetch.is_alive():
                fetch.pause = next(self._pauses, 60.0) * random.uniform(0.5, 1.0)
                if isinstance(error, OAuthResponseError) and error.retry_after:
                    fetch.pause = min(error.retry_after, 300.0)  # it may want more, or err
                fetch.failed = _now()
            if fetch.due:
                # The text of an error that is not ours may show a secret.
                shown = error if isinstance(error, OAuthError) else type(error).__name__
                _log("warning", "renewal failed, the old token stays in use: %s", shown)
        finally:
            fetch.thread = None
            fetch.done.set()

    def _read_or_fetch(self, fetch: _Fetch) -> None:
        """Take the token of the shared cache; else fetch one, and write it there.

        One process holds the lock of the cache while it fetches. The others wait for its token or
        its lock, but not for too long. All that is done before the callers go on: a short script
        may end then, and this thread with it.
        """
        cache = self._cache
        lock = None
        found = cache.attempt(cache.read)
        if not found and cache.can_lock:
            lock = cache.attempt(cache.get_lock, fetch.limit)
            found = cache.attempt(cache.read)  # the last holder of the lock may have left one
        try:
            kept = found or self._call_fetch(fetch)
            if not cache.can_lock:  # only chance keeps many processes from renewing it all at once
                kept.due_window *= random.uniform(0.6, 1.0)
            self._keep(fetch, kept)
            if not found and self._kept is kept:
                cache.attempt(cache.write, kept)
        finally:
            if lock:
                with suppress(Exception):  # it has a timeout, which may have passed
                    lock.release()

    def _call_fetch(self, fetch: _Fetch) -> _KeptToken:
        """Return what the callable of the user, or ClientCredentials, obtains."""
        fetch.started = _now()  # the shared cache may have taken its time
        if fetch.refused:
            self._replaced = fetch.started
        try:
            token = self._fetch()
        except HTTPError as error:  # must not be taken for the API's answer
            raise OAuthError(
                f"fetching the token failed with HTTP status {error.code}"
            ) from error
        if not isinstance(token, Token):
            raise TypeError("fetch must return a Token")
        kept = _KeptToken(token, fetch.started, self._cache.refresh_before)
        if kept.left() <= 0:
            raise OAuthMalformedResponse(
                "the token had expired before it arrived: compare the clocks"
            )
        return kept

    def _keep(self, fetch: _Fetch, kept: _KeptToken) -> None:
        """Give the token to all who wait; keep it, unless the fetch is dead or clear() was called
        meanwhile."""
        fetch.token = kept.token
        with self._lock:
            if self._last is fetch and fetch.is_alive():
                if kept.token == self._kept.token:
                    kept.disable_early_renewal(self._kept)
                self._kept = kept
                self._cache.ignore_before = kept.requested[0]
                self._pauses = iter(_PAUSES)


def _copy(error: Exception) -> Exception:
    """Return a copy for each waiter: a traceback grows whenever its error is raised."""
    duplicate: Exception = OAuthError(f"the token could not be obtained: {type(error).__name__}")
    with suppress(Exception):  # it may be one that cannot be copied
        # The traceback says where in a fetch callable it came from.
        duplicate = copy(error).with_traceback(error.__traceback__)
        duplicate.__cause__ = error.__cause__
    return duplicate


# ---- OAuthHandler: which requests get the token, what a 401 does, where redirects may go ---------

_REPEATABLE = (bytes, bytearray, memoryview, list, tuple, type(None))  # besides seekable files
# RFC 9110 section 11.6.1: the scheme of a challenge, which begins an element of the list; a
# parameter; or a quoted string where none belongs.
_CHALLENGE = (
    r'(?as)(?:^|,)\s*([^\s,="]+)(?=[\s,]|$)(?!\s*=)'
    r'|[\s,]([^\s,="]+)\s*=\s*("(?:[^"\\]|\\.)*"?|(?!=)[^\s,"]+)'
    r'|"(?:[^"\\]|\\.)*"?'
)


class _Call:
    """The state of one call, which its redirects and its replay share."""

    start: int | None = None  # the position of a body that is a file
    redirects = 0

    def __init__(self, request: Any) -> None:
        # Those of the caller: what other handlers add, such as cookies, is for one request.
        self.headers = {**request.headers, **request.unredirected_hdrs}
        if hasattr(request.data, "seekable") and request.data.seekable():
            self.start = request.data.tell()
        # None if another handler's redirect led here: the caller did not name it.
        self.named = None if request.unverifiable else _split_url(request.full_url).origin
        self.visited: set[_Origin] = set()  # the origins of all requests so far
        self.senders: dict[str, OAuthHandler] = {}  # by the tokens that were sent

    def rewind(self, body: Any) -> bool:
        """Make a body ready to be sent again; return False if that is impossible."""
        if isinstance(body, _REPEATABLE):
            return True
        if self.start is None:
            return False
        body.seek(self.start)
        return True


def _copy_request(request: Any) -> Any:
    """Return a copy of a caller's Request, for other handlers to change."""
    ours: Any = copy(request)
    ours.headers = dict(request.headers)
    ours.unredirected_hdrs = dict(request.unredirected_hdrs)
    url = _split_url(request.full_url).text  # an international host would be taken for a proxy
    if url != request.full_url:  # to set it would undo set_proxy()
        ours.full_url = url
    return ours


def _token_of(request: Any) -> str:
    """Return what its Authorization header holds, which may be a token; "" if it has none."""
    return request.get_header("Authorization", "").partition(" ")[2]  # type: ignore[no-any-return]


def _check_origins(name: str, urls: Any, allow_http: bool) -> frozenset[_Origin]:
    origins = frozenset(_check_url(name, url, allow_http).origin for url in _texts(name, urls))
    if not origins:
        raise ValueError(f"{name} must name at least one URL whose origin may see the token")
    return origins


def _read_error_body(fp: Any) -> bytes:
    """Return the body of an answer, at most 1 MiB of it, and close it; b"" if that fails."""
    with suppress(OSError, HTTPException), fp:
        return fp.read(_ANSWER_LIMIT)  # type: ignore[no-any-return]
    return b""


def _follow_redirect(request: Any, code: int, location: str) -> Any:
    """Return the Request that follows a redirect; ValueError if it must not be followed."""
    call = request.call
    call.redirects += 1
    if call.redirects > 10:  # as urllib; browsers follow 20
        raise ValueError("there were ten before it")
    # Bytes that are not ASCII are UTF-8, if they mean anything.
    target = _text(location.encode("iso-8859-1"))
    url = _split_url(urljoin(request.full_url, target))
    method = request.get_method()
    body = request.data
    names = ""  # the pattern of the headers that go along: all
    if (code == 303 and method != "HEAD") or (code < 303 and method == "POST"):
        method = "GET"
        body = None
        names = "(?!Content-|Transfer-)"  # those that do not describe the body
    before = _split_url(request.full_url).origin
    if url.origin != before:
        names = "Accept(-language|-encoding|-charset)?$|User-agent$"
        if body is not None:
            raise ValueError("it would take the body to another origin")
        if (before.scheme, url.origin.scheme) == ("https", "http"):
            raise ValueError("it leads from https to http")
    if not call.rewind(body):
        raise ValueError("the body cannot be sent again")
    call.headers = {name: call.headers[name] for name in call.headers if re.match(names, name)}
    # Unverifiable for the cookie policy of http.cookiejar: the caller did not name the URL.
    following: Any = Request(
        url.text, body, call.headers, request.origin_req_host, True, method
    )
    following.call = call
    return following


def _challenges(headers: Any) -> dict[str, dict[str, str]]:
    """Return the parameters of the challenges, by their scheme."""
    line = ", ".join(headers.get_all("WWW-Authenticate", ()))
    challenges: dict[str, dict[str, str]] = defaultdict(dict)
    parameters: dict[str, str] = {}
    for scheme, name, value in re.findall(_CHALLENGE, line[:8192]):
        if scheme:
            parameters = challenges[scheme.lower()]
        else:
            # Without quotes, and without the backslashes before quoted characters.
            parameters.setdefault(name.lower(), re.sub(r'(?s)"|\\(.)', r"\1", value))
    return challenges


def _failure(
    kind: type[_HTTPError], fact: str, said: dict[str, str], request: Any, answer: Any
) -> _HTTPError:
    """Return the exception for an answer, in which the API can show no token that was sent."""
    secrets = request.call.senders
    fields = {
        name: _clean(said[name], secrets) for name in ("error", "scope", "realm") if name in said
    }
    return kind(
        f"{fact}; the API said {_clean(json.dumps(said), secrets)}",
        url=_clean(request.full_url, secrets, _HEAD_LIMIT),
        status=answer.code,
        headers=_clean_headers(answer.headers, secrets),
        body=_read_error_body(answer),
        **fields,
    )


def _refusal(request: Any, answer: Any, challenge: dict[str, str]) -> _HTTPError:
    """Return the exception for an answer that refuses our token (RFC 6750 section 3.1)."""
    error = challenge.get("error")
    kind = OAuthBearerError
    advice = "are its scope, audience and issuer those that this API wants?"
    if error == "insufficient_scope" or (answer.code == 403 and not error):
        kind = OAuthInsufficientScope
    elif answer.code == 401 or error == "invalid_token":
        kind = OAuthInvalidToken
        if not request.call.rewind(request.data):
            advice = "the body cannot be sent again: give bytes or a file that can seek"
    return _failure(
        kind,
        f"{_split_url(request.full_url).place} refused the token: {answer.code}; {advice}",
        challenge,
        request,
        answer,
    )


class OAuthHandler(HTTPRedirectHandler):
    """A handler for `urllib.request.build_opener` that authorises requests
    to some origins, and no others.

    source: a TokenSource. origins: URLs, whose scheme, host and port may
    see the token; their paths are ignored. allow_http: True lifts the rule
    that only loopback may be named without TLS.

    A request elsewhere gets no token, and a caller's own Authorization
    header is left alone. Other handlers may change the URL in a method
    http_request or https_request; one that does so later, in an *_open
    method, is trusted with the token. This handler takes the place of urllib's
    HTTPRedirectHandler, which would carry headers to other hosts.
    """

    handler_order = 0  # before all others

    def __init__(
        self, source: TokenSource, origins: str | Iterable[str], *, allow_http: bool = False
    ) -> None:
        self._set_source(source, _check_origins("origins", origins, allow_http))

    def _set_source(self, source: TokenSource, origins: frozenset[_Origin] | None) -> None:
        if not isinstance(source, TokenSource):
            raise TypeError("source must be a TokenSource, such as TokenSource(function)")
        self._source = source
        self._origins = origins  # None, in a session: that of the URL that the caller named

    def http_request(self, request: Any) -> Any:
        """Return a copy of a caller's Request, which other handlers may
        change. If a handler reopens it, our token is removed: it may lead
        elsewhere. A file is sent again from where it stood."""
        if not hasattr(request, "call"):
            request = _copy_request(request)
            request.call = _Call(request)
        if request.timeout is _DEFAULT_TIMEOUT:
            request.timeout = self._default_timeout()
        _check_timeout(request.timeout)
        call = request.call
        if _token_of(request) in call.senders:
            request.remove_header("Authorization")
        call.rewind(request.data)
        return request

    https_request = http_request

    def _default_timeout(self) -> float | None:
        return socket.getdefaulttimeout()

    def default_open(self, request: Any) -> None:
        """Put the token on the request, if the origins of all requests of
        this call, redirects included, may see it. Those are the origins
        given; in a session those of base_url and origins, or, with neither,
        that of the URL that the caller named. An Authorization header of
        the caller, or of another handler, takes precedence.

        Never answers: other handlers send the request.
        """
        if request.type not in _PORTS:  # file: and the like
            return
        call = request.call
        # Here, since handlers may have changed the URL.
        call.visited.add(_split_url(request.full_url).origin)
        may_see = call.visited <= (self._origins or {call.named})
        if may_see and not request.has_header("Authorization"):
            token = self._source.token(request.timeout).access_token
            request.add_unredirected_header("Authorization", f"Bearer {token}")
            call.senders[token] = self

    def http_open(self, request: Any) -> Any:
        """Send plain HTTP to loopback past every proxy, which would see the
        token."""
        if _split_url(request.full_url).is_plain_loopback:
            for handler in self.parent.handle_open["http"]:  # type: ignore[attr-defined]
                if isinstance(handler, HTTPHandler):
                    return handler.http_open(request)
        return None

    def http_error_default(self, request: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """Handle a 401: renew the token and send the request again, once,
        if no other handler has an answer. The replay is a new Request with
        the caller's headers; what the caller set by set_proxy() is lost.

        TokenSource.reject() says whether another token is to be had: it
        fetches at most once a minute. Raises OAuthInvalidToken if there is
        none, the replay is refused, too, or the body cannot be sent again;
        OAuthInsufficientScope if the scope does not suffice; and the error
        of the renewal if that fails. A verb of a session returns a refusal
        as a Response. A 400 or 403 counts only with a Bearer challenge (RFC
        6750 section 3).
        """
        call = request.call
        token = _token_of(request)
        if call.senders.get(token) is not self:
            return None
        challenges = _challenges(headers)
        if code != 401 and ("bearer" not in challenges or code not in (400, 403)):
            return None
        refusal = _refusal(request, fp, challenges["bearer"])  # none is made empty
        if isinstance(refusal, OAuthInvalidToken) and len(call.senders) == 1:
            renewed = self._source.reject(token, request.timeout)
            if renewed.access_token != token and call.rewind(request.data):
                # As the caller made it, so that proxies and other handlers add theirs anew.
                replay: Any = Request(
                    request.full_url, request.data, {}, request.origin_req_host,
                    request.unverifiable, request.get_method(),
                )  # fmt: skip
                replay.call = call
                # Unredirected: other handlers' redirects would take ordinary ones to other hosts.
                replay.unredirected_hdrs = dict(call.headers)
                return self.parent.open(replay, timeout=request.timeout)
        raise refusal

    def http_error_302(self, request: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """Follow a redirect if that leaks nothing; else raise HTTPError
        that says why not. Another handler for redirects has precedence.

        Within the origin everything goes along that the new method can have.
        To another origin go only Accept, three Accept-* and User-Agent, and
        the token if that origin and every one before it are named, too. A
        redirect that would take a body there is not followed.
        """
        location = headers.get("Location")
        last = self.parent.handle_error["http"][302][-1]  # type: ignore[attr-defined]
        if not location or not isinstance(last, OAuthHandler):
            return None
        try:
            following = _follow_redirect(request, code, location)
        except ValueError as error:
            raise _failure(
                _RedirectError,
                f"the redirect was not followed: {error}",
                {"Location": re.split("[?#]", location)[0]},  # the rest may be confidential
                request,
                fp,
            ) from None
        _read_error_body(fp)  # so that the connection can be kept, if it is short
        return self.parent.open(following, timeout=request.timeout)

    http_error_301: Any = http_error_302
    http_error_303 = http_error_307 = http_error_308 = http_error_301


# ---- OAuthSession: the session and its Response --------------------------------------------------

_NOT_GIVEN: Any = ...  # since None has a meaning
_UNSET: Any = None  # Any, so that type checkers let a subclass set its own value
# Not stored on the session, since a debugger or a log may show its attributes.
_CONFIDENTIAL = ("client_secret", "client_assertion", "token_params", "token_headers")
_CALL_SETTINGS = (  # all others are for token requests
    "base_url", "headers", "timeout", "context", "handlers", "origins", "allow_http", "source",
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
        raise TypeError(
            f"unexpected keyword argument {name!r}; {_INSTEAD.get(name, 'is it misspelt?')}"
        )


def _http_error(request: Request, answer: Any, body: bytes) -> _HTTPError:
    """Return the HTTPError of an answer, by the URL of the caller's Request.

    A redirect may have put the token into another URL.
    """
    return _HTTPError(
        f"{request.get_method()} {request.full_url.partition('?')[0]} answered {answer.code} "
        f"{answer.msg}",
        url=request.full_url,
        status=answer.code,
        headers=answer.headers,
        body=body,
    )


class Response:
    """What an API answered, read to its end. The verbs of OAuthSession
    return it at any HTTP status; it is true below 400.

    status (status_code, as requests names it, is the same), ok (whether it
    is below 400), reason, url (after redirects), headers (their names in
    any case), content (bytes, gzip undone).
    """

    def __init__(self, answer: Any, request: Request) -> None:
        self.status = self.status_code = answer.code
        self.ok: bool = self.status < 400
        self.reason: str = answer.msg
        self.url: str = answer.url
        self.headers: HTTPMessage = answer.headers
        self.content = _read_all(answer)
        if isinstance(answer, OAuthBearerError):
            self._error: Any = answer
        elif not self.ok:
            self._error = _http_error(request, answer, self.content)

    def __repr__(self) -> str:
        return f"<Response {self.status}>"

    def __bool__(self) -> bool:
        return self.ok

    @property
    def text(self) -> str:
        """The body as text, in the charset of its Content-Type, else
        UTF-8; what does not decode is replaced."""
        return _decode(self.content, self.headers)

    def json(self) -> Any:
        """Return the body parsed as JSON. Raises ValueError, with status
        and Content-Type, if it is something else."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            # Only the first letters of the media type: a server may echo the token in it.
            media_type = re.sub(
                "(?s)([a-z/.+-]{,50}).*", r"\1", self.headers.get("Content-Type", "none")
            )
            raise ValueError(
                f"the body is not JSON: Content-Type {media_type}, status {self.status}"
            ) from None

    def raise_for_status(self) -> Response:
        """Return the response itself if its status is below 400. Raises
        OAuthBearerError if the token was refused, else HTTPError; both
        have the response as their `response`."""
        if self.ok:
            return self
        error = copy(self._error)  # whose body can be read
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
    opener: OpenerDirector = _UNSET
    __reduce__ = _refuse_pickling
    _credentials: ClientCredentials | None = None  # none with source=
    _origins: frozenset[_Origin] | None = None  # any that the caller names

    def __init__(
        self, client_id: str | None = _NOT_GIVEN,
        client_secret: str | Callable[[], str] | None = _NOT_GIVEN,
        scope: str | Iterable[str] | None = _NOT_GIVEN, token_url: str | None = _NOT_GIVEN, *,
        issuer: str | None = _NOT_GIVEN, base_url: str | None = _NOT_GIVEN,
        auth_method: str | None = _NOT_GIVEN,
        client_assertion: str | Callable[[], str] | None = _NOT_GIVEN,
        assertion_audience: str | None = _NOT_GIVEN,
        audience: str | Iterable[str] | None = _NOT_GIVEN,
        resource: str | Iterable[str] | None = _NOT_GIVEN, token_params: Any = _NOT_GIVEN,
        token_headers: Mapping[str, Any] | None = _NOT_GIVEN,
        headers: Mapping[str, Any] | None = _NOT_GIVEN, timeout: float | None = _NOT_GIVEN,
        context: ssl.SSLContext | None = _NOT_GIVEN, handlers: Iterable[Any] | None = _NOT_GIVEN,
        cache: Any = _NOT_GIVEN, cache_key: str | None = _NOT_GIVEN,
        refresh_before: float | None = _NOT_GIVEN,
        origins: str | Iterable[str] | None = _NOT_GIVEN, allow_http: bool = _NOT_GIVEN,
        source: TokenSource | None = _NOT_GIVEN, **unknown: NoReturn,
    ) -> None:  # fmt: skip
        _refuse(unknown)
        settings = dict(locals())
        del settings["self"], settings["unknown"]
        given = {}  # of the token requests
        for name, value in settings.items():
            if value is _NOT_GIVEN:
                value = getattr(self, name)
            if name not in _CONFIDENTIAL:
                setattr(self, name, value)
            if name not in _CALL_SETTINGS and value is not None:
                given[name] = value
        self.handlers = _own_handlers(self.handlers)
        self._pool = _Pool(self.context)
        if re.search("[?#]", _text(self.base_url or "", "base_url")):
            raise ValueError("base_url must be without ? and #, since paths are appended to it")
        if (self.base_url, self.origins) != (None, None):
            urls = _texts("base_url", self.base_url) + _texts("origins", self.origins)
            self._origins = _check_origins("base_url or origins", urls, self.allow_http)
        if self.source is None:
            self._make_source(**given)
        else:
            for name in given:
                raise _contradiction(name, "source")
        # The user's handlers come first, since the first that answers wins.
        self.opener = build_opener(
            *self.handlers, _HTTPHandler(self._pool), _SessionHandler(self)
        )
        self.opener.addheaders = [("User-agent", _USER_AGENT)]

    def _make_source(
        self, client_id: Any = None, *, cache: Any = None, cache_key: Any = None,
        refresh_before: Any = 300.0, **credentials: Any,
    ) -> None:  # fmt: skip
        self._credentials = ClientCredentials(
            client_id,
            **credentials,
            allow_http=self.allow_http,
            handlers=self.handlers,
            pool=self._pool,
        )
        self.source = TokenSource(
            self._credentials, cache=cache, cache_key=cache_key, refresh_before=refresh_before
        )

    @classmethod
    def from_env(
        cls, prefix: str = "OAUTH_", environ: Mapping[str, str] | None = None, **settings: Any
    ) -> OAuthSession:
        """Make a session from environment variables: OAUTH_TOKEN_URL or
        OAUTH_ISSUER, OAUTH_CLIENT_ID, OAUTH_CLIENT_SECRET or
        OAUTH_CLIENT_SECRET_FILE, OAUTH_SCOPE, OAUTH_AUDIENCE,
        OAUTH_RESOURCE (space-separated), OAUTH_AUTH_METHOD,
        OAUTH_ASSERTION_FILE, OAUTH_BASE_URL and OAUTH_CACHE. An empty one
        counts as unset. Files are read for each token request.

        prefix: instead of OAUTH_. environ: default os.environ. settings:
        further arguments, which take precedence over variables of the same
        name. Raises ValueError that names the variables.
        """
        if environ is None:
            environ = os.environ
        found: dict[str, Any] = {}
        variables = []
        for name in ("client_secret", *_OPTIONS, *_FILES):
            variable = prefix + name.upper()
            variables.append(variable)
            value: Any = environ.get(variable)
            setting = _FILES.get(name, name)
            if not value or setting in settings:
                continue
            if setting in found:
                raise ValueError(f"unset {variable} or {prefix}{setting.upper()}: both are set")
            if name in _FILES:
                value = partial(_read_secret, variable, value)
            elif name == "resource":
                value = value.split()
            found[setting] = value
        try:
            return cls(**found, **settings)
        except ValueError as error:
            raise ValueError(f"{error} (settings are read from {', '.join(variables)})") from None

    def __setattr__(self, name: str, value: Any) -> None:
        # A subclass may have attributes of its own.
        is_method = callable(getattr(OAuthSession, name, None))  # which a test may replace
        is_ours = type(self) is OAuthSession or hasattr(OAuthSession, name) or name in _INSTEAD
        if name == "headers":
            value = _check_headers(value)  # a copy: the class may share its own
        elif name == "timeout":
            value = _check_timeout(value)
        elif self.opener and is_ours and not name.startswith("_") and not is_method:
            advice = "a session keeps its token_url and so on; only headers and timeout can change"
            raise AttributeError(f"{name} cannot be set: {_INSTEAD.get(name, advice)}")
        super().__setattr__(name, value)
        if self._credentials:  # they use the same headers and timeout
            self._credentials.headers = self.headers
            # A fetch without limit could hang for ever.
            self._credentials.timeout = self.timeout or 30.0

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
        fields = _check_headers({"Content-Type": content_type}, self.headers, headers)
        if "Range" not in fields:
            fields.setdefault("Accept-Encoding", "gzip")
        request: Any = Request(
            target.text, body, fields, target.origin.host, method=_word(method).upper()
        )
        request.call = _Call(request)  # so that OAuthHandler need not copy it
        try:
            with self.opener.open(request, timeout=timeout) as answer:
                return Response(answer, request)
        except _RedirectError:
            raise
        except HTTPError as error:  # any other is an answer, too
            # Not kept in a variable: its traceback would keep connections from being closed.
            with error:
                return Response(error, request)

    def open(
        self,
        request: str | Request,
        data: Any = None,
        timeout: float | None = _DEFAULT_TIMEOUT,
        *,
        headers: Mapping[str, Any] | None = None,
    ) -> HTTPResponse:
        """Open a URL or Request with the token, as urllib.request.urlopen
        does, and return the answer to be read and closed.

        data: bytes, a binary file or an iterable of bytes. timeout,
        headers: as for request(). Never reads ahead. Raises HTTPError
        unless the status is 2xx, and what request() raises.
        """
        if not isinstance(request, Request):
            request = Request(self._locate(request).text)
        self._locate(request.full_url)  # a ValueError outside the origins
        ours = _copy_request(request)
        if data is not None:
            ours.data = data  # whose setter drops a Content-Length
        for name, value in _check_headers(self.headers, headers, ours.headers).items():
            ours.add_header(name, value)
        try:
            return self.opener.open(ours, timeout=timeout)  # type: ignore[no-any-return]
        except _HTTPError:
            raise
        except HTTPError as error:  # of urllib, which cannot be pickled
            failure = _http_error(ours, error, _read_error_body(error))
        raise failure  # not above, where its context would be the other one

    def install(self) -> None:
        """Let every urllib.request.urlopen of this process use the
        session, for the origins of base_url and origins.

        Other URLs get no token; `file:`, `data:` and, without a proxy,
        `ftp:` still work.
        Calls without a timeout get the session's; its headers are not
        added.
        Raises ValueError if neither is set.
        """
        if not self._origins:
            raise ValueError(
                "base_url or origins is needed for install(): other requests must not get the token"
            )
        install_opener(self.opener)

    def _locate(self, url: Any, params: Any = None) -> _URL:
        if params:
            if not isinstance(params, (str, bytes)):
                params = _encode_form("params", params)
            url = _text(url, "url").partition("#")[0]
            url += "&" if "?" in url else "?"
            url += _text(params).replace("#", "%23")
        return _complete_url(url, self.base_url, self.allow_http, self._origins)


class _SessionHandler(OAuthHandler):
    """The handler of a session, which may have no origins. It applies the session's timeout."""

    def __init__(self, session: OAuthSession) -> None:
        self._session = session
        self._set_source(session.source, session._origins)

    def _default_timeout(self) -> Any:
        return self._session.timeout


@lru_cache  # a session calls the same URLs again and again
def _complete_url(
    url: Any, base_url: Any, allow_http: bool, origins: frozenset[_Origin] | None
) -> _URL:
    """Return the URL to call; ValueError if it is outside the origins."""
    url = _text(url, "url")
    if base_url and not re.match(r"([\w+.-]+:)?//", url):
        below = re.sub("^(?=[^/?#])", "/", url)
        url = _text(base_url).rstrip("/") + below
    found = _check_url("url", url, allow_http, " (a path needs a session with base_url)")
    if origins and found.origin not in origins:
        raise ValueError(f"url leads to {found.place}, which is not among base_url and origins")
    return found


def _read_secret(variable: str, path: str) -> str:
    """Return what a file holds. It is read each time, since a mounted secret may be replaced."""
    try:
        # What is not UTF-8 is refused later, like other unusable characters.
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            return file.read().rstrip("\n")
    except OSError as error:
        raise OAuthError(f"{variable}: {error}") from None


def _encode_body(data: Any, obj: Any) -> tuple[Any, str | None]:
    """Return the body for urllib, and the Content-Type to use unless the caller names one."""
    if obj is not None:
        if data is not None:
            raise _contradiction("data", "json")
        return json.dumps(obj, allow_nan=False).encode(), "application/json"
    if data is None:
        return None, None
    if isinstance(data, str):
        return data.encode(), "text/plain; charset=utf-8"
    is_form = hasattr(data, "items")
    if isinstance(data, (list, tuple)):
        is_form = all(isinstance(pair, (list, tuple)) for pair in data)
    if is_form:
        form = _encode_form("data (or is it meant as json=?)", data)
        return form.encode(), "application/x-www-form-urlencoded"
    return data, "application/octet-stream"


# ---- DemoServer: an authorisation server and an API on loopback ----------------------------------

_DemoRequest = namedtuple("_DemoRequest", "method path headers body")


class DemoServer:
    """An authorisation server and an API on a free port of this machine,
    for trying out and for tests: `with DemoServer() as server:`.

    expires_in: seconds that its tokens live; default 3600; may be changed.

    url: the API. With a token it answers any path with the request as
    JSON, or with what answer() has set. token_url, client_id,
    client_secret: for OAuthSession; any scope is granted.
    token_requests: how many have come. requests: those to the API, each
    with method, path, headers (without the token) and body.
    """

    client_id = "demo-client"
    client_secret = "demo secret: 100% ok?"  # with characters that must be encoded
    token_requests = 0
    _failing: int | None = None

    def __init__(self, expires_in: float = 3600) -> None:
        self.expires_in = expires_in
        self.requests: list[Any] = []
        self._lock = threading.Lock()  # guards token_requests
        self._ends: dict[str, float] = {}  # monotonic time, by token
        self._answers: dict[str, Any] = {}  # status, JSON value and headers, by path

    def __enter__(self) -> DemoServer:
        import http.server

        class Handler(http.server.BaseHTTPRequestHandler):  # HTTP/1.0: one answer a connection
            def do_GET(handler) -> None:
                self._reply(handler)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do_GET

            def log_message(handler, form: str, *values: Any) -> None:
                _log("info", form, *values)

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
        self._ends = {}

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
        """Read the request that http.server has begun to read, and answer it."""
        file = handler.rfile
        headers = handler.headers
        body = file.read(int(headers.get("Content-Length", 0)))
        if "Transfer-Encoding" in headers:
            for size in iter(file.readline, b"0\r\n"):
                body += file.read(int(size, 16))
                file.readline()
            file.readline()
        credentials = headers.get("Authorization", "").partition(" ")[2]
        del headers["Authorization"]
        request = _DemoRequest(
            handler.command, handler.path, headers, body.decode(errors="replace")
        )
        answer = self._issue if request.path == "/oauth/token" else self._serve
        status, value, more = answer(request, credentials)

        content = json.dumps(value, default=dict).encode()  # headers become a dict
        handler.send_response(status)
        handler.send_header("Content-Length", len(content))
        for name, field in {"Content-Type": "application/json", **more}.items():
            handler.send_header(name, field)
        handler.end_headers()
        handler.wfile.write(content)  # after a HEAD or 204, too: the connection ends with it

    def _issue(self, request: _DemoRequest, credentials: str) -> Any:
        """Answer a token request: return status, JSON value and headers."""
        with self._lock:
            self.token_requests += 1
        if self._failing:
            return self._failing, {}, {}
        form = dict(parse_qsl(request.body))
        posted = [form.get("client_id"), form.get("client_secret")]
        basic = unquote_plus(b64decode(credentials).decode()).split(":", 1)
        if [self.client_id, self.client_secret] not in (posted, basic):
            return 401, {"error": "invalid_client"}, {"WWW-Authenticate": "Basic"}
        token = os.urandom(16).hex()
        self._ends[token] = time.monotonic() + self.expires_in
        return (
            200,
            {"access_token": token, "token_type": "Bearer", "expires_in": self.expires_in},
            {},
        )

    def _serve(self, request: _DemoRequest, credentials: str) -> Any:
        """Answer a request for the API: return status, JSON value and headers."""
        self.requests.append(request)
        if time.monotonic() >= self._ends.get(credentials, 0.0):
            return 401, {}, {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        return self._answers.get(request.path.partition("?")[0], (200, request._asdict(), {}))


# ---- Command line --------------------------------------------------------------------------------


def _print_log() -> None:
    """Print what is logged from now on."""
    import logging

    logging.basicConfig(level="INFO", format="      %(message)s", stream=sys.stdout)
    logging.raiseExceptions = False  # `| head` may have seen enough


def _demo() -> None:
    """Show what a session does, with a server of its own."""
    _print_log()
    with DemoServer(expires_in=3) as server:
        session = OAuthSession(
            server.client_id, server.client_secret, "read", server.token_url, base_url=server.url
        )

        def call(title: str) -> None:
            print(title)
            try:  # logged, as a line printed in parts could mix with the server's
                _log("info", "session.get('/me') -> %s", session.get("/me").status)
            except OAuthResponseError as error:
                _log("info", "%r", error)

        print("A DemoServer logs what it answers. Secrets and tokens are not shown.")
        call("1. The first call fetches a token.")
        first = session.access_token
        server.expires_in = 3600
        call("2. The second call uses the same token.")
        time.sleep(1.6)
        call("3. A token that is due is used, while a thread renews it in the background.")
        while session.access_token == first:
            time.sleep(0.05)
        server.revoke()
        call("4. A revoked token is replaced after one 401, and the call is sent again.")
        server.client_secret = "another"
        session.source.clear()
        call("5. A secret that the server no longer accepts: the error says what to check.")
        print(f"Done: {server.token_requests} token requests in all.")


def _parser() -> Any:
    import argparse

    parser = argparse.ArgumentParser(
        allow_abbrev=False,  # or --client-secret would take a secret for the name of a file
        description="Call an API with an OAuth 2.0 token, by the client credentials grant.",
        epilog="Settings are read from environment variables: OAUTH_CLIENT_ID, "
        "OAUTH_CLIENT_SECRET or OAUTH_CLIENT_SECRET_FILE, OAUTH_ASSERTION_FILE, "
        "OAUTH_TOKEN_URL or OAUTH_ISSUER, OAUTH_SCOPE and OAUTH_RESOURCE (space-separated), "
        "OAUTH_AUDIENCE, OAUTH_AUTH_METHOD, OAUTH_BASE_URL (put before a URL that is only a path), "
        "OAUTH_CACHE (a directory that keeps the token between runs). The secret has no option, "
        "because other users could see it in the list of processes. "
        "Exit status: 0: the API answered; 1: no token, or no answer; 2: wrong settings; "
        "22: a status of 400 or more with --fail, or a redirect that is not followed.",
    )
    add = parser.add_argument
    add("url", nargs="?", help="call this URL and print the body of the answer")
    add("--demo", action="store_true", help="show how it works, with a server of its own")
    add("--check", action="store_true", help="try each step, to URL if given; say what is wrong")
    add("--token", action="store_true", help="print the access token and nothing else")
    add("-X", "--request", help="HTTP method; default: GET, or POST with -d")
    add("-d", "--data", help="body, a form unless -H says otherwise; @FILE: from a file, @-: stdin")
    add("-H", "--header", action="append", default=[], help="'Name: value'; may be repeated")
    add("-i", "--include", action="store_true", help="print status and headers, too")
    add("-f", "--fail", action="store_true", help="print no body at a status of 400 or more")
    add("--client-secret-file", help="file that holds the secret; -: standard input")
    for name in _OPTIONS:
        add(
            "--" + name.replace("_", "-"),
            dest="OAUTH_" + name.upper(),
            default=argparse.SUPPRESS,
            help="instead of the variable",
        )
    add("--timeout", type=float, default=30.0, help="seconds for each step; default: 30")
    add("--version", action="version", version=f"oauth_session {__version__}")
    return parser


def _session_of(options: Any) -> OAuthSession:
    """Make the session of options and environment; an option goes before its variable."""
    settings = {"timeout": options.timeout}
    if options.client_secret_file:
        text = _read(options.client_secret_file).decode("utf-8-sig")
        settings["client_secret"] = text.rstrip("\r\n")
    # An option that replaces a variable bears its name.
    return OAuthSession.from_env(environ={**os.environ, **vars(options)}, **settings)


def _read(path: str) -> bytes:
    """Return the bytes of a file, or those of standard input for `-`."""
    if path == "-":
        return sys.stdin.buffer.read()
    with open(path, "rb") as file:
        return file.read()


def _check(session: OAuthSession, url: str | None) -> int:
    """Print the settings, try each step of a call, and return the exit status."""
    for name in _OPTIONS:
        print(f"      OAUTH_{name.upper()}: {getattr(session, name) or 'not set'}")
    _print_log()  # it says which authentication method the server accepts
    step = "connection (DNS, TCP, TLS)"
    try:
        endpoint = _split_url(session.token_url or session.issuer).text
        # Not by the session's opener, which would send a token.
        with _token_opener((), _Pool(None)).open(endpoint, timeout=session.timeout) as answer:
            print("ok    connection (DNS, TCP, TLS): the server answers")
        step = "clock"
        now = time.time()
        skew = now - (_seconds_of_date(answer.headers["Date"]) or now)  # it may not tell the time
        if abs(skew) > 60:
            raise ValueError(f"this machine's is {skew:+.0f} s from the server's; set it right")
        print("ok    clock: within a minute of the server's")
        step = "token"
        print(f"ok    token: {_describe(session.source.token())}")
        if url:
            step = "API"
            session.get(url).raise_for_status()
            print("ok    API: the call succeeded")
    except (OSError, ValueError) as error:
        print(f"NO    {step}: {error}")
        return 1
    print("All is well.")
    return 0


def _describe(token: Any) -> str:
    """Return what a token is good for."""
    try:  # a wrong audience is the most frequent reason for a 401 of the API
        payload = token.access_token.split(".")[1]
        audience = json.loads(urlsafe_b64decode(payload + "=="))["aud"]
    except Exception:
        audience = "not readable"
    return _clean(
        f"expires_in {token.raw.get('expires_in')}, scope {token.scope}, aud {audience}",
        [token.access_token],
    )


def _print_answer(session: OAuthSession, options: Any) -> None:
    """Call the URL and print what it answers, as curl does."""
    method = "GET"
    headers = {}
    data = options.data
    if data is not None:
        method = "POST"
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        if data.startswith("@"):
            data = _read(data[1:])
    for line in options.header:
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError("-H takes 'Name: value', with a colon")
        headers[name] = value.strip()
    response = session.request(options.request or method, options.url, data=data, headers=headers)
    if options.include:
        print("HTTP/1.1", response.status, response.reason)
        for field in response.headers.items():
            print(*field, sep=": ")
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
    options = _parser().parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        # Servers may say what this console cannot show.
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        if options.demo:
            _demo()
        elif options.check:
            return _check(_session_of(options), options.url)
        elif options.token:
            print(_session_of(options).access_token)
        elif options.url:
            _print_answer(_session_of(options), options)
        else:
            raise ValueError("give a URL, --token, --check or --demo; --help explains them")
        return 0
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError) as error:
        print(f"oauth_session: {error}", file=sys.stderr)
        if isinstance(error, HTTPError):
            return 22
        return 1 if isinstance(error, URLError) else 2


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
