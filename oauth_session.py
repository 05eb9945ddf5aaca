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

The way of a request; after errors and token, the file follows it:
 1. OAuthSession makes a `urllib.request.Request`, and opens it with its
    OpenerDirector.
 2. OAuthHandler puts `Authorization: Bearer ...` on it, if its origin may
    see the token.
 3. TokenSource keeps the token. FRESH: handed out. DUE: handed out, while
    one thread renews it in the background. Missing, EXPIRED or refused:
    callers wait for one shared fetch. With cache=, FileCache or another
    cache is looked into first.
 4. ClientCredentials obtains one token: a POST to the token endpoint, and
    a strict look at the answer.
 5. The transport sends it all on kept-alive connections. On the way back
    OAuthHandler follows redirects without leaking and, on a 401, renews
    the token and sends the request again, once.

What can be raised; every class says what to do about it. A wrong argument
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
import datetime
import email.utils
import functools
import http.client
import io
import itertools
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
from collections import deque

TYPE_CHECKING = False  # instead of `typing`, whose import a cold start would pay
if TYPE_CHECKING:
    from typing import Any, Callable, Collection, Iterable, Iterator, Mapping, NoReturn, Sequence

    Moment = tuple[float, float]  # wall clock and monotonic clock
    Origin = tuple[str, str, int]  # scheme, host, port
    # Minor version, status, reason, header fields, and those of _FRAMING
    Head = tuple[int, int, str, list[tuple[str, str]], dict[str, str]]
    Key = tuple[int, Origin, Origin | None, str | None]  # of kept connections: process, site, proxy, credentials for it

_DEFAULT_TIMEOUT: Any = socket._GLOBAL_DEFAULT_TIMEOUT  # type: ignore[attr-defined]  # what urllib takes for "none given"

__version__ = "0.1.0"
__all__ = [
    "OAuthSession", "Response", "OAuthHandler", "TokenSource", "FileCache", "ClientCredentials", "Token", "DemoServer",
    "OAuthError", "OAuthTransportError", "OAuthResponseError", "OAuthInvalidRequest", "OAuthInvalidClient",
    "OAuthInvalidGrant", "OAuthUnauthorizedClient", "OAuthUnsupportedGrantType", "OAuthInvalidScope",
    "OAuthInvalidTarget", "OAuthTemporarilyUnavailable", "OAuthServerError", "OAuthMalformedResponse",
    "OAuthBearerError", "OAuthInvalidToken", "OAuthInsufficientScope", "ERRORS_BY_CODE", "__version__",
]  # fmt: skip

# ---- Errors: what the token endpoint or the API refused, as classes ------------------------------

_TEXT_SEEN = 4096  # characters of a server's text that are looked at; much more than are shown
_SECRET_SEEN = 128  # characters of a secret that are looked for, which may take 16 each in some spellings


class OAuthError(urllib.error.URLError):
    """The base of all errors here. error: the server's code, status: its
    HTTP status; None where there is none."""

    error: str | None = None
    status: int | None = None
    _fields: tuple[str, ...] = ("error", "status")  # keyword arguments; what pickling and copying keep

    def __init__(self, message: str = "", **fields: Any) -> None:
        super().__init__(message)
        self._set(fields)

    def _set(self, fields: dict[str, Any]) -> None:
        for name in fields:
            if name not in self._fields:
                raise TypeError(f"{type(self).__name__} has no argument {name!r}")
        for name in self._fields:
            setattr(self, name, fields.get(name))

    def __str__(self) -> str:
        return str(self.args[0])

    __repr__ = Exception.__repr__

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), **{name: getattr(self, name) for name in self._fields}), self.args


class OAuthTransportError(OAuthError):
    """No answer from the token endpoint: DNS, TCP, TLS, proxy or time-out;
    the message says which."""


class OAuthResponseError(OAuthError):
    """The token endpoint refused (RFC 6749 section 5.2). Its texts are
    cleaned; retry_after: seconds, at most 300."""

    _fields = ("error", "status", "error_description", "error_uri", "headers", "retry_after")
    _advice = "see the server's documentation"
    error_description: str | None
    error_uri: str | None
    headers: http.client.HTTPMessage | None
    retry_after: float | None


class OAuthInvalidRequest(OAuthResponseError):
    """`invalid_request`: a parameter is missing, doubled or malformed."""

    _advice = "check audience, resource and token_params, and whether id or secret have odd characters"


class OAuthInvalidClient(OAuthResponseError):
    """`invalid_client`, or 401 or 403 without a code: check client_id,
    client_secret and auth_method."""

    _advice = "check client_id, client_secret (or assertion, or certificate) and auth_method"


class OAuthInvalidGrant(OAuthResponseError):
    """`invalid_grant`: the grant or assertion is wrong, used, expired or
    for somebody else."""

    _advice = "check token_params"


class OAuthUnauthorizedClient(OAuthResponseError):
    """`unauthorized_client`: this client may not use this grant."""

    _advice = "have client_credentials enabled for this client"


class OAuthUnsupportedGrantType(OAuthResponseError):
    """`unsupported_grant_type`: the server does not know this grant."""

    _advice = "have client_credentials enabled at this server"


class OAuthInvalidScope(OAuthResponseError):
    """`invalid_scope`: a scope is unknown, malformed or not granted to
    this client."""

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
    """It answered, but not as RFC 6749 section 5 says; or an issuer's
    metadata do not serve."""


class OAuthBearerError(OAuthError, urllib.error.HTTPError):
    """The API refused the token (RFC 6750 section 3.1); an HTTPError with
    its body (at most 1 MiB) in memory.

    error, scope, realm: of the challenge. response: set by
        `Response.raise_for_status`.
    """

    _fields = ("error", "status", "scope", "realm", "url", "reason", "headers")
    status: Any
    scope: str | None
    realm: str | None
    reason: Any = ""  # in place of HTTPError's read-only property
    headers: Any
    response: Response | None = None

    def __init__(self, message: str = "", *, body: bytes = b"", **fields: Any) -> None:
        self._set({"url": "", "status": 401, "reason": "", "headers": http.client.HTTPMessage(), **fields})
        # Trap: an HTTPError without a body object lacks half of its methods.
        urllib.error.HTTPError.__init__(self, self.url, self.status, self.reason, self.headers, io.BytesIO(body))
        self.args = (message,)


class OAuthInvalidToken(OAuthBearerError):
    """401: the API refused the token, and a new one too, or there was no
    other."""


class OAuthInsufficientScope(OAuthBearerError):
    """403: the token is good, but not for this; `scope` is what the API
    wants, if it said so."""


ERRORS_BY_CODE: dict[str, type[OAuthResponseError]] = {  # the token endpoint's codes; add your server's own
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


def _clean(text: object, secrets: Collection[str] = (), limit: int = 500) -> str:
    """A server's text as a person or a log may see it: no control characters, no secret, not too long."""
    whole, seen = str(text), max(_TEXT_SEEN, limit)
    result = whole[:seen]
    for secret in secrets:
        result = result.replace(secret, "***")
    result = "".join(letter if letter.isprintable() else " " for letter in result)
    cut = len(whole) > seen and "***" in result  # so that what stood at the cut, half a secret, may be shown
    if cut or (secrets and any(secret[:_SECRET_SEEN] in one for one in _readings(result) for secret in secrets)):
        return "***"
    return result if len(result) <= limit else result[:limit].rstrip() + "..."


def _readings(text: str) -> set[str]:
    """A text, and what it says if it is HTML, JSON or percent-encoded, or one within the other."""
    import html

    def unescape(text: str) -> str:
        return re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.))", lambda match: match[2] or chr(int(match[1], 16)), text)

    found = {text}
    for undo in (html.unescape, unescape, urllib.parse.unquote, urllib.parse.unquote_plus) * 2:
        found |= {undo(one) for one in found}
    return found


def _clean_headers(headers: Any, secrets: Collection[str]) -> http.client.HTTPMessage:
    """Headers for an exception, which may be shown or pickled."""
    clean = http.client.HTTPMessage()
    for name, value in headers.items():
        if not any(secret in name for secret in secrets):
            clean.set_raw(name, _clean(value, secrets))
    return clean


def _log(level: str, message: str, *values: object) -> None:
    """Log, if the program uses `logging` at all. Never called with a lock held: a log handler is user code."""
    logging = sys.modules.get("logging")
    if logging is not None:
        try:
            getattr(logging.getLogger(__name__), level)(message, *values)
        except Exception:  # its failure is not the caller's
            pass


# ---- URLs: origins, loopback, the https rule, encoding -------------------------------------------

_SAFE = "".join(map(chr, range(0x21, 0x7F)))  # what stays as it is when a URL is encoded


def _is_visible(text: str) -> bool:
    """Whether all characters are visible ASCII, 0x21 to 0x7E."""
    return text.isascii() and text.isprintable() and " " not in text


class _Origins(frozenset):  # type: ignore[type-arg]
    """Origins that may see the token; none: that of the URL which the caller named."""


def _check_origins(base_url: Any, origins: Any, allow_http: bool) -> _Origins:
    named = [_origin(_check_url("origins", url, allow_http)) for url in _texts("origins", origins)]
    if base_url is not None:
        named.append(_origin(_check_url("base_url", base_url, allow_http)))
        if "?" in base_url or "#" in base_url:
            raise ValueError("base_url must be without ? and #, since paths are appended to it")
    return _Origins(named)


def _texts(name: str, value: Any) -> list[str]:
    """One text or several, as a list."""
    value = [value] if isinstance(value, str) and value else value or ()
    texts: list[Any] = list(value) if hasattr(value, "__iter__") and not isinstance(value, (bytes, dict)) else [value]
    if not all(isinstance(text, str) for text in texts):
        kinds = ", ".join(sorted({type(text).__name__ for text in texts} - {"str"}))
        raise TypeError(f"{name} must be a str or an iterable of str, and holds {kinds}")
    if not all(text.isprintable() for text in texts):
        raise ValueError(f"{name} has control characters, such as a line end: take them off")
    return sorted(texts) if isinstance(value, (set, frozenset)) else texts


_title = functools.lru_cache(maxsize=256)(str.title)  # a header's name as it is usually written


@functools.lru_cache(maxsize=256)  # a call looks at its URL several times
def _parse(url: str) -> tuple[Origin, str, str]:
    """Origin, authority and target, cut where urllib cuts them; ValueError for what could be understood in two ways."""
    label = r"[-\w~!$&'()*+,;=]+"
    host = rf"\[[0-9a-f:.]+\]|{label}(?:\.{label})*\.?"
    form = rf"(https?)://(({host})(?::(\d{{0,5}}))?)([/?][!\"$-~]*)?(?:#[!-~]*)?"
    match = re.fullmatch(form, url, re.ASCII | re.IGNORECASE)
    if match is None or not 0 < int(match[4] or 1) < 65536:
        raise ValueError("it must be like https://host:port/path, with no user name, %, backslash or space")
    scheme, authority, name, port, target = match.groups("")
    scheme = scheme.lower()
    origin = scheme, name.lower().strip("[]"), int(port or {"http": 80, "https": 443}[scheme])
    return origin, authority, target if target[:1] == "/" else "/" + target


def _origin(url: str) -> Origin:
    return _parse(url)[0]


def _place(url: str) -> str:
    """Where a URL leads, for a message: its path and query may hold what nobody else should see."""
    return f"{_origin(url)[0]}://{_parse(url)[1].lower()}"


@functools.lru_cache(maxsize=256)
def _is_loopback(host: str) -> bool:
    return re.fullmatch(r"localhost|::1|127(\.(\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])){3}", host, re.ASCII) is not None


def _check_url(name: str, url: Any, allow_http: bool, hint: str = "") -> Any:
    """The URL with spaces and non-ASCII encoded; ValueError where token or secret must not go, without the value."""
    if not isinstance(url, str):
        what = "is missing: it is" if url is None else "must be"
        raise (ValueError if url is None else TypeError)(f"{name} {what} a URL such as https://host/path{hint}")
    if re.search(r"[\0-\x1f\x7f]", url):
        raise ValueError(f"{name} has control characters, such as a line end: take them off, or encode them")
    try:
        if not _is_visible(url):
            start, host, rest = re.findall(r"^(.*?://|)([^/?#]*)(.*)", url)[0]
            plain = host if host.isascii() else host.encode("idna").decode()
            if any(plain.count(mark) != host.count(mark) for mark in "/?#@:"):
                raise ValueError("its host has characters that turn into others")
            url = start + plain + urllib.parse.quote(rest, _SAFE)
        scheme, host, _ = _origin(url)
    except ValueError as error:
        why = "it has characters that no URL can have" if isinstance(error, UnicodeError) else error
        raise ValueError(f"{name} is no usable URL: {why}{hint}") from None
    if scheme == "http" and not allow_http and not _is_loopback(host):
        raise ValueError(f"{name} must begin with https:// (http:// is for loopback, or with allow_http=True)")
    return url


@functools.lru_cache(maxsize=256)
def _word(name: Any) -> str:
    """A method or the name of a header in lower case, or "" if it is none (RFC 9110 section 5.6.2)."""
    found = isinstance(name, str) and re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII)
    return name.lower() if found else ""


def _check_head(method: str, headers: Iterable[tuple[str, Any]]) -> None:
    """ValueError for what would change a request beside its own place (RFC 9110 section 5.5, RFC 9112 section 3)."""
    if not _word(method):
        raise (ValueError if isinstance(method, str) else TypeError)("method must be one word, such as GET")
    for name, value in headers:
        if not _word(name):
            kind = ValueError if isinstance(name, str) else TypeError
            raise kind(f"headers: {_clean(ascii(name))} is no name of a header")
        text = str(value)
        if not (text.isascii() and text.isprintable()) and re.search("[\r\n\0\u0100-\U0010ffff]", text):
            raise ValueError(f"headers: the value of {name} has line ends, NUL or characters beyond Latin-1: encode it")


# ---- Connections: kept-alive HTTP/1.1 (RFC 9112), as handlers for an OpenerDirector --------------

_LONGEST_LIFE = 100 * 366 * 86400.0  # seconds; more is nonsense
_ANSWER_LIMIT = 1 << 20  # bytes of a token response, or of an API's refusal
_USER_AGENT = f"oauth_session/{__version__}"
_IDLE_LIMIT = 60.0  # seconds a connection waits for its next use; servers close after 60 to 75
_IDLE_MOST = 64  # idle connections
_BODY_LIMIT = 64 << 20  # bytes that a verb reads into memory, as sent and as decoded
_LINE_LIMIT = 64 << 10  # bytes of a header line
_HEAD_LIMIT = 256 << 10  # bytes of all header lines
_HEAD_LINES = 100
_INTERIM_MOST = 20  # 1xx answers before the real one
_EARLY_ANSWER = 0.1  # seconds for one to be read if nothing more could be sent: it is there already, or never comes
_FRAMING = frozenset(("content-length", "transfer-encoding", "connection", "content-encoding"))
_PIECE = 64 << 10  # bytes that are read at a time; of a body, that leave together with the head
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"))  # RFC 9110 section 9.2.2


def _now() -> Moment:
    return time.time(), time.monotonic()


def _since(moment: Moment) -> float:
    """Seconds since then, by the clock that says more: one can be set back, the other stands still while suspended."""
    return max(time.time() - moment[0], time.monotonic() - moment[1])


def _exchanges(request: Any) -> dict[OAuthHandler, _Exchange]:
    """By handler, since an opener may have one for each of several APIs."""
    found: dict[OAuthHandler, _Exchange] | None = getattr(request, "_oauth_exchanges", None)
    if found is None:  # not vars(request).setdefault(), which is a tenth of what authorising a call costs
        found = request._oauth_exchanges = {}
    return found


def _sent_with(request: Any) -> set[str]:
    """What a server may echo, and nobody should see: our tokens, and what else authorised this request."""
    headers = [str(fields.get("Authorization", "")) for fields in (request.unredirected_hdrs, request.headers)]
    tokens = [exchange.tokens for exchange in _exchanges(request).values()]
    return {header.rpartition(" ")[2] for header in headers}.union(*tokens) - {""}


def _timeout_of(request: Any) -> float | None:
    timeout: Any = getattr(request, "timeout", None)
    return socket.getdefaulttimeout() if timeout is _DEFAULT_TIMEOUT else timeout


def _own(handler: Any) -> Any:
    """A user's handler for one of our openers: it can belong to one only, and the session has several."""
    import copy

    if type(handler) is urllib.request.ProxyHandler:  # Trap: its methods are bound to the original, also in a copy
        return urllib.request.ProxyHandler(handler.proxies)  # type: ignore[attr-defined]
    return handler() if isinstance(handler, type) else copy.copy(handler)


def _check_timeout(timeout: Any) -> float | None:
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float))):
        raise TypeError(f"timeout must be a number of seconds, or None, not {type(timeout).__name__}")
    if timeout is not None and not 0 < timeout <= _LONGEST_LIFE:
        raise ValueError("timeout must be a positive number of seconds; None waits without limit")
    return timeout


class _NoAnswer(urllib.error.URLError):
    """A failure of the transport. Its text says where, which that of URLError does not."""

    place, what = "the server", "gave no answer"

    def __str__(self) -> str:
        return f"{self.place} {self.what}: {self.reason}"


class _Nonsense(_NoAnswer):
    """What came is not HTTP/1.1, or beyond the bounds."""

    what = "gave no usable answer"


class _Connection:
    """A socket, and what was read from it before it was asked for."""

    timeout: float | None = None  # seconds for each step
    heard = False  # whether a byte of the answer came
    since: Moment  # when it became idle
    poll: Any = None

    def __init__(self, sock: socket.socket, deadline: float | None) -> None:
        self.sock = sock
        self.deadline = deadline  # monotonic time at which all steps together must have ended
        self.ahead = bytearray()

    def is_alive(self) -> bool:
        """Whether it may be used again: not idle for long, and the server has neither closed it nor sent anything."""
        try:
            if isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
                return False  # a record held more than the answer: poll() does not see what OpenSSL has taken out
            if self.poll is None and hasattr(select, "poll"):  # Windows has none
                self.poll = select.poll()
                self.poll.register(self.sock, select.POLLIN)
            if self.poll is None or self.poll.poll(0):
                self.sock.settimeout(0)
                self.sock.recv(1)
                return False
        except (BlockingIOError, ssl.SSLWantReadError):  # with TLS 1.3, only session tickets were waiting
            pass
        except (OSError, ValueError):
            return False
        return _since(self.since) < _IDLE_LIMIT

    def pace(self, deadline: float | None) -> None:
        """Give the next step the time that is left: a server that drips must not stretch it."""
        left = self.timeout if deadline is None else deadline - time.monotonic()
        if left != self.sock.gettimeout():
            if left is not None and left <= 0:
                raise socket.timeout("timed out")
            self.sock.settimeout(left)

    def ask(self, request: Any, head: bytes, length: int | None, home: tuple[_Pool, Key]) -> _Answer:
        """Send a request, and read its answer up to the body, at whose end the connection goes home."""
        self.timeout, self.deadline, self.heard = _timeout_of(request), getattr(request, "deadline", None), False
        try:
            broken, by = self.write(head, request.data, length), self.deadline
            if isinstance(broken, socket.timeout):
                self.deadline = time.monotonic() + _EARLY_ANSWER
            try:
                answer = self.read_head()
            except OSError as error:  # an alert of TLS says why the server broke off
                raise (error if isinstance(error, ssl.SSLError) else broken or error) from None
            self.deadline = by
            return _Answer(request, answer, _Body(self, request.get_method(), answer, None if broken else home))
        except BaseException:
            self.sock.close()
            raise

    def write(self, head: bytes, data: Any, length: int | None) -> OSError | None:
        """Send a request; return what broke it off, since the server may have answered early."""
        small = data is None or (isinstance(data, bytes) and length is not None and len(data) <= _PIECE)
        for piece in (head + (data or b""),) if small else itertools.chain((head,), _pieces(data, length)):
            self.pace(self.deadline)
            try:
                self.sock.sendall(piece)
            except OSError as error:
                return error
        return None

    def tunnel(self, authority: str, credentials: str | None) -> None:
        """Have the proxy connect this to the server (RFC 9110 section 9.3.6)."""
        headers = {"Host": authority, **({"Proxy-Authorization": credentials} if credentials else {})}
        self.write(_head("CONNECT", authority, headers), None, 0)
        _, status, reason, *_ = self.read_head()
        if not 200 <= status < 300 or self.ahead:
            reason = _clean(reason, (credentials or "").split(" ")[1:])
            raise OSError(f"the proxy refused the tunnel: {status} {reason}")

    def secure(self, context: ssl.SSLContext, host: str) -> None:
        # Ragged ends: a body without a length that somebody cut off must not pass for a whole one (RFC 9112, 9.8).
        options: Any = {"do_handshake_on_connect": False, "suppress_ragged_eofs": False}
        # Bytes, since a str is taken through encodings.idna, whose import takes a millisecond.
        self.sock = context.wrap_socket(self.sock, server_hostname=host.encode(), **options)
        self.pace(self.deadline)
        self.sock.do_handshake()

    def receive(self, size: int, deadline: float | None) -> bytes:
        """What the socket has, as soon as there is anything; b"" at the end."""
        self.pace(deadline)
        data = self.sock.recv(size)
        self.heard = self.heard or data != b""
        return data

    def some(self, size: int) -> bytes:
        if not self.ahead:
            return self.receive(min(size, _PIECE), self.deadline)
        data = bytes(self.ahead[:size])
        del self.ahead[:size]
        return data

    def until(self, mark: bytes, limit: int) -> bytes:
        """What comes up to the mark, with it; within one time-out, however slowly it drips."""
        seen, deadline = 0, self.deadline
        while True:
            found = re.compile(mark).search(self.ahead, seen)
            size = found.end() if found else len(self.ahead)
            if size > limit:
                raise _Nonsense(f"more than {limit} bytes of header, or of one of its lines")
            if found:
                return self.some(size)
            if self.ahead and self.timeout and deadline is None:
                deadline = time.monotonic() + self.timeout
            seen = max(0, size - 2)
            data = self.receive(_PIECE, deadline)
            if not data:
                raise http.client.RemoteDisconnected("the connection was closed before the answer was complete")
            self.ahead += data

    def section(self) -> tuple[str, list[tuple[str, str]], dict[str, str]]:
        """A line, the header fields below it (RFC 9112 section 5), and by name what the transport itself looks at."""
        text = self.until(rb"\n\r?\n", _HEAD_LIMIT).decode("iso-8859-1").replace("\r\n", "\n")
        if "\r" in text or "\0" in text:
            raise _Nonsense("a header line has a bare CR, or NUL")
        start, _, text = text[:-1].partition("\n")
        if "\n " in text or "\n\t" in text:  # RFC 9112 section 5.2: folded lines
            text = re.sub(r"\n[ \t]+", " ", text)
        lines = text.split("\n")
        longest = 0 if len(text) < _LINE_LIMIT else max(map(len, lines))
        if len(lines) > _HEAD_LINES + 1 or max(longest, len(start)) > _LINE_LIMIT:
            raise _Nonsense(f"more than {_HEAD_LINES} header lines, or one of more than {_LINE_LIMIT} bytes")
        fields = []
        framing: dict[str, str] = {}
        for line in lines[:-1]:
            name, colon, value = line.partition(":")
            word, value = _word(name), value.strip(" \t")
            if not colon or not word:
                raise _Nonsense("a header line that is none")
            fields.append((name, value))
            if word in _FRAMING:
                framing[word] = f"{framing[word]},{value}" if word in framing else value
        return start, fields, framing

    def read_head(self) -> Head:
        """Read the head of an answer, after any 1xx (RFC 9110 section 15.2, RFC 9112 section 4)."""
        for _ in range(_INTERIM_MOST):
            start, fields, framing = self.section()
            minor, status = _status(start[:13])
            if status == 101:
                raise _Nonsense("the answer does not begin as HTTP/1.1 does")  # unquoted: it may echo a secret
            if status >= 200:
                return minor, status, start[13:], fields, framing
        raise _Nonsense(f"more than {_INTERIM_MOST} interim answers")

    def next_chunk(self) -> int:
        """Read up to the data of a chunk (RFC 9112 section 7.1), and return its size; 0 behind all trailers."""
        line = self.until(rb"\n", _LINE_LIMIT)
        match = re.fullmatch(rb"([0-9a-fA-F]{1,16})[ \t]*(;.*)?\r\n", line)
        if match is None:
            raise _Nonsense("a chunk without a valid size")
        if int(match[1], 16) == 0:
            self.ahead[:0] = line  # the last one and the trailers look like a head
            self.section()
        return int(match[1], 16)


@functools.lru_cache(maxsize=64)
def _status(start: str) -> tuple[int, int]:
    """Minor version and status of a status line (RFC 9112 section 4); (0, 101), which is refused, if it is none."""
    match = re.fullmatch(r"HTTP/1\.(\d) ([1-9]\d\d) ?", start, re.ASCII)
    return (int(match[1]), int(match[2])) if match else (0, 101)


class _Body:
    """The body of one answer (RFC 9112 section 6), and no byte of what follows it."""

    def __init__(self, connection: _Connection, method: str, head: Head, home: tuple[_Pool, Key] | None) -> None:
        minor, status, _, _, framing = head  # RFC 9112 section 6.3, without any guess
        length, coding = framing.get("content-length"), framing.get("transfer-encoding")
        if coding is not None and coding.lower() != "chunked":
            raise _Nonsense("a Transfer-Encoding other than chunked")
        if length is not None and not (length.isascii() and length.isdigit() and len(length) < 19):
            same = re.fullmatch(r"(\d{1,18})([ \t]*,[ \t]*\1)*", length, re.ASCII)  # RFC 9110 section 8.6
            if same is None:
                raise _Nonsense("a Content-Length that is no length, or several that differ")
            length = same[1]
        none = method == "HEAD" or status in (204, 304)
        self._chunked = coding is not None and not none
        # How much is left, of it or of this chunk; None: up to the end of the connection.
        self._left = 0 if none or self._chunked else None if length is None else int(length)
        clear = minor == 1 and "close" not in framing.get("connection", "").lower() and None in (length, coding)
        self._home = home if clear and self._left is not None else None  # where the connection goes at the end
        self.connection: _Connection | None = connection  # None at the end
        if self._left == 0 and not self._chunked:
            self._end(connection)

    def take(self, size: int = _PIECE) -> bytes:
        """Up to `size` bytes, as soon as there are any; b"" at the end."""
        connection, data = self.connection, b""
        if connection is None:
            return data
        try:
            if self._left == 0:
                self._left = connection.next_chunk()
            if self._left != 0:
                data = connection.some(size if self._left is None else min(size, self._left))
            if self._left:
                if not data:
                    raise http.client.RemoteDisconnected("the connection was closed in the middle of the body")
                self._left -= len(data)
                if self._chunked and self._left == 0 and connection.until(rb"\n", _LINE_LIMIT) != b"\r\n":
                    raise _Nonsense("a chunk that does not end where it should")
            if not data or (self._left == 0 and not self._chunked):
                self._end(connection)
            return data
        except OSError as error:
            self.close()
            if isinstance(error, urllib.error.URLError):
                raise
            raise urllib.error.URLError(error) from error

    def _end(self, connection: _Connection) -> None:
        if self._home is not None and not connection.ahead:  # else more came than the answer
            self.connection = None
            self._home[0].give(self._home[1], connection)
        self.close()

    def close(self) -> None:
        if self.connection is not None:
            self.connection.sock.close()
            self.connection = None


class _Reader(io.RawIOBase):
    """A _Body, as what io.BufferedReader reads from."""

    def __init__(self, body: _Body) -> None:
        self._body = body

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._body.take(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _BufferLater:
    """The `fp` of an _Answer, made when it is asked for: verbs do without, and it takes 8 KiB."""

    def __get__(self, answer: Any, kind: Any) -> Any:
        answer.fp = io.BufferedReader(_Reader(answer.body))
        return answer.fp


class _Answer(http.client.HTTPResponse):
    """An HTTPResponse that reads from _Body, so that none of its own framing is used."""

    fp: Any = _BufferLater()
    chunked, length, will_close = False, None, True

    def __init__(self, request: Any, head: Head, body: _Body) -> None:  # not super(): it wants a socket
        minor, self.status, self.reason, fields, framing = head
        self._method, self.url, self.body = request.get_method(), request.full_url, body
        if self.reason != http.client.responses.get(self.status):
            self.reason = _clean(self.reason, _sent_with(request))
        self.coding = framing.get("content-encoding", "").lower()
        self.version, self.code, self.msg = 10 + minor, self.status, self.reason  # type: ignore[assignment]
        self.headers = http.client.HTTPMessage()
        for name, value in fields:
            self.headers.set_raw(name, value)

    def close(self) -> None:
        self.body.close()
        self.fp = None
        io.IOBase.close(self)

    def __reduce__(self) -> NoReturn:  # of an error's fp: it holds headers and connection
        raise TypeError("an answer that is read from a connection cannot be pickled")


def _close_idle(idles: Iterable[deque[_Connection]], after: float | None = None) -> None:
    """Close idle connections, or those that have been idle for longer than `after` seconds."""
    for idle in list(idles):
        try:
            while after is None or _since(idle[0].since) > after:
                idle.popleft().sock.close()
        except IndexError:  # no more
            pass


class _Pool:
    """Idle connections, and the one SSLContext. The connections need no lock: what dict and deque do is atomic.

    A connection comes here when an answer was read to its end and was clearly framed. It is closed on any error, after
    60 s, in a forked child, and where 64 others are idle.
    """

    def __init__(self, context: ssl.SSLContext | None) -> None:
        if context is not None and not isinstance(context, ssl.SSLContext):
            raise TypeError(f"context must be an ssl.SSLContext, not {type(context).__name__}")
        self._context = context
        self._lean = False  # whether the context knows the hashed directory only
        self._making: dict[int, threading.Lock] = {}  # by process, since a fork copies a lock; guards the two above
        self._coming: dict[Key, threading.Event] = {}  # connections that are being opened ahead
        self._idle: dict[Key, deque[_Connection]] = {}
        # Before the collector warns of open sockets, and at exit, after which nothing is kept any more.
        self._end = weakref.finalize(self, _close_idle, self._idle.values())

    def close(self) -> None:
        _close_idle(self._idle.values())

    def context(self, whole: bool = False) -> tuple[ssl.SSLContext, bool]:
        """The SSLContext, and whether it knows the hashed directory only; if `whole`, it learns the rest.

        Made at first use, since the CA bundle takes 20 ms; of the directory OpenSSL reads the one file that it needs.
        """
        with self._making.setdefault(os.getpid(), threading.Lock()):
            if self._context is None:
                path = None if "SSL_CERT_FILE" in os.environ else ssl.get_default_verify_paths().capath
                hashed = re.compile(r"[0-9a-f]{8}\.[0-9]+")
                self._lean = os.access(path or "", os.R_OK) and any(map(hashed.fullmatch, os.listdir(path)))
                context = ssl.create_default_context(capath=path if self._lean else None)
                context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)  # Python 3.8, 3.9
                # Python 3.8, 3.9: set without a name, and a body that somebody cut off would pass for a whole one.
                context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0x80)
                self._context = context
            if whole and self._lean:
                self._context.load_default_certs()  # now the verdict is that of Python's own default
                self._lean = False
            return self._context, self._lean

    def open_ahead(self, site: Origin, timeout: float | None) -> Callable[[], None]:
        """Open a connection in a thread of its own, while a token is fetched; return what drops it again."""
        key: Key = (os.getpid(), site, None, None)  # floor: Python 3.7 cannot read it without ()
        done, dropped = threading.Event(), threading.Event()

        def connect() -> None:
            try:
                self.give(key, self._connect(key, None if timeout is None else time.monotonic() + timeout))
            except Exception as error:  # whoever needs the connection will see for himself
                _log("debug", "no connection ahead: %s", type(error).__name__)
            finally:
                self._coming.pop(key, None)
                done.set()
            if dropped.is_set():
                drop()

        def drop() -> None:
            dropped.set()
            _close_idle((self._idle.get(key, deque()),))

        if not self._idle.get(key) and self._coming.setdefault(key, done) is done:
            try:
                threading.Thread(target=connect, name="oauth_session connection", daemon=True).start()
            except RuntimeError:  # no more threads
                self._coming.pop(key)
                done.set()
        return drop

    def take(self, key: Key, wait: float | None) -> _Connection | None:
        """An idle connection that is still alive."""
        coming = self._coming.get(key)
        if coming is not None:
            coming.wait(wait)
        try:
            while True:
                connection = self._idle[key].pop()
                if connection.is_alive():
                    return connection
                connection.sock.close()
        except (KeyError, IndexError):
            return None

    def give(self, key: Key, connection: _Connection) -> None:
        idle = self._idle.setdefault(key, deque())
        # Another process: it was read to its end in a forked child, and is the parent's.
        many = sum(map(len, list(self._idle.values()))) >= _IDLE_MOST
        if key[0] != os.getpid() or many or not self._end.alive:
            connection.sock.close()
            return
        connection.since = _now()
        idle.append(connection)
        if len(idle) > 1:
            _close_idle((idle,), _IDLE_LIMIT)

    def exchange(self, request: Any) -> _Answer:
        """Send a request, on a kept connection where there is one, and return its answer."""
        method, head, length, key = _prepare(request)
        timeout, begun = _timeout_of(request), time.monotonic()
        connection = self.take(key, timeout)
        if connection is not None:
            try:
                return connection.ask(request, head, length, (self, key))
            except OSError as error:  # the server may have closed it while it was idle: once more, on a new one
                again = method in _IDEMPOTENT and (request.data is None or isinstance(request.data, bytes))
                if connection.heard or not again or isinstance(error, socket.timeout):
                    raise
        by = getattr(request, "deadline", None if timeout is None else begun + timeout)
        return self._connect(key, by).ask(request, head, length, (self, key))

    def _connect(self, key: Key, deadline: float | None) -> _Connection:
        _, (scheme, host, port), proxy, credentials = key
        _close_idle(self._idle.values(), _IDLE_LIMIT)
        context, lean = self.context() if scheme == "https" else (None, False)
        connection = _Connection(_open_socket(*(proxy or key[1])[1:], deadline), deadline)
        try:
            if proxy:
                connection.tunnel(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", credentials)
            if context is not None:
                connection.secure(context, host)
            return connection
        except BaseException as error:
            connection.sock.close()
            if not lean or not isinstance(error, ssl.SSLCertVerificationError):
                raise
        self.context(whole=True)  # worth another try, with all of the default certificates
        return self._connect(key, deadline)


def _open_socket(host: str, port: int, deadline: float | None) -> socket.socket:
    """Connect to the first address that answers; they share the time that is left."""
    addresses = socket.getaddrinfo(host.encode(), port, 0, socket.SOCK_STREAM)
    failure = OSError(f"there is no address for {host}")
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = socket.socket(family, kind, protocol)
        try:
            if deadline is not None:
                sock.settimeout(max(deadline - time.monotonic(), 0.001) / (len(addresses) - index))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    raise failure


def _prepare(request: Any) -> tuple[str, bytes, int | None, Key]:
    """What a Request asks for, checked: method, head, length of the body, and the key of its connections.

    The URL counts, not what urllib made of it: a proxy on a Request that is used again would mix up its fields.
    """
    (site, authority, target), method = _parse(request.full_url), request.get_method()
    headers = {"Host": authority, "Accept-Encoding": "identity"}
    for fields in (request.headers, request.unredirected_hdrs):
        for name, value in fields.items():
            headers[_title(name)] = str(value)
    proxy: Origin | None = None
    credentials = None
    if request.host != authority:
        try:
            proxy = _origin("http://" + request.host)
        except ValueError:
            raise ValueError("a proxy, of the environment or handlers, must be named like http://host:port") from None
        if site[0] == "http":
            target, site, proxy = f"http://{authority}{target}", proxy, None
        else:
            credentials = headers.pop("Proxy-Authorization", None)
    length = _length_of(method, headers, request.data)
    return method, _head(method, target, headers), length, (os.getpid(), site, proxy, credentials)


def _length_of(method: str, headers: dict[str, str], data: Any) -> int | None:
    """The body's length, or None: in chunks. ValueError where headers and body contradict each other."""
    length, coding = headers.get("Content-Length"), headers.get("Transfer-Encoding")
    if length is None and coding is None and data is None:
        if method in ("POST", "PUT", "PATCH"):
            headers["Content-Length"] = "0"
        return 0
    if length is None and data is not None and str(coding).lower() == "chunked":
        return None
    if coding is not None or not re.fullmatch(r"\d{1,18}", length or "", re.ASCII):
        raise ValueError("headers: a body goes with either a number as Content-Length, or Transfer-Encoding: chunked")
    size = 0 if data is None else len(data) if isinstance(data, bytes) else int(length or 0)
    if int(length or 0) != size:
        raise ValueError(f"headers: Content-Length says {length}, but the body has {size} bytes")
    return size


def _head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """Request line and headers as bytes (RFC 9112 sections 3 and 5), checked: nothing below does."""
    lines = [f"{method} {target} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()], "", ""]
    text = "\r\n".join(lines)
    clean = text.isascii() and text.count("\r") == text.count("\n") == len(headers) + 2 and "\0" not in text
    if not (clean and _word(method) and all(map(_word, headers))):
        _check_head(method, headers.items())
    return text.encode("iso-8859-1")


def _pieces(data: Any, length: int | None) -> Iterator[bytes]:
    """A body piece by piece, as chunks (RFC 9112 section 7.1) if its length is None."""
    if hasattr(data, "read"):
        data = iter(functools.partial(data.read, _PIECE), b"")
    sent = 0
    for part in (data,) if isinstance(data, bytes) else data:
        if not isinstance(part, (bytes, bytearray, memoryview)):
            raise TypeError("data must consist of bytes: open a file in binary mode, encode a text")
        whole = bytes(part)
        sent += len(whole)
        if length is not None and sent > length:
            break
        for start in range(0, len(whole), _PIECE):
            piece = whole[start : start + _PIECE]
            yield piece if length is not None else b"%x\r\n%b\r\n" % (len(piece), piece)
    if length is None:
        yield b"0\r\n\r\n"
    elif sent != length:
        raise ValueError(f"data does not have the {length} bytes that its Content-Length says")


class _Direct(urllib.request.BaseHandler):
    """Keeps the secrets that are for this machine from a proxy: urllib would send them there, in plain text."""

    handler_order = 50  # before ProxyHandler

    def http_open(self, request: urllib.request.Request) -> Any:
        secret = "deadline" in vars(request) or any(one.origins for one in _exchanges(request).values())
        if secret and _is_loopback(_origin(request.full_url)[1]):
            for handler in self.parent.handle_open["http"]:  # type: ignore[attr-defined]
                if isinstance(handler, urllib.request.HTTPHandler):  # and no _Direct of another copy of this file
                    return handler.http_open(request)
        return None


class _HTTPHandler(urllib.request.HTTPHandler):
    """Our two handlers subclass urllib's for what it adds to requests, and to be replaced by kind."""

    def __init__(self, pool: _Pool) -> None:  # not super(): from Python 3.12 on it loads the CA bundle
        self._pool = pool

    def http_open(self, request: urllib.request.Request) -> Any:
        try:
            return self._pool.exchange(request)
        except OSError as error:
            failure = error if isinstance(error, _NoAnswer) else _NoAnswer(error)
            failure.place = _place(request.full_url)
            raise failure from (None if failure is error else error)

    def http_request(self, request: Any) -> Any:
        """Add what urllib adds; but what it does to the headers of a request without a body, _prepare does too."""
        if request.data is not None:
            return self.do_request_(request)
        for name, value in self.parent.addheaders:
            if name.capitalize() not in request.headers:
                request.unredirected_hdrs.setdefault(name.capitalize(), value)
        return request


class _HTTPSHandler(urllib.request.HTTPSHandler):
    __init__: Any = _HTTPHandler.__init__
    https_open: Any = _HTTPHandler.http_open
    https_request: Any = _HTTPHandler.http_request


def _read_all(answer: Any, limit: int = _BODY_LIMIT, decode: bool = True) -> bytes:
    """The whole body, gzip undone; URLError where it breaks off, or is longer than the limit, packed or not."""
    ours = isinstance(answer, _Answer)
    coding = answer.coding if ours else answer.headers.get("Content-Encoding", "").strip().lower()
    unpack = zlib.decompressobj(31) if decode and coding in ("gzip", "x-gzip") else None  # 31: the gzip format
    whole = bytearray()  # Trap: a list of tiny chunks takes seventy times their size
    received = 0
    try:
        for data in iter(functools.partial(answer.body.take if ours else answer.read, _PIECE), b""):
            if ours and unpack is None and received == 0 and answer.body.connection is None:
                return bytes(data)  # all of it came at once
            received += len(data)
            if unpack is None:
                whole += data
            while unpack is not None and data and len(whole) <= limit:
                if unpack.eof:  # gzip may have several members
                    unpack = zlib.decompressobj(31)
                whole += unpack.decompress(data, limit + 1 - len(whole))
                data = unpack.unused_data or unpack.unconsumed_tail
            if max(len(whole), received) > limit:
                raise _Nonsense(f"the body has more than {limit} bytes; session.open() reads one piece by piece")
    except zlib.error:
        raise _Nonsense("the body is not the gzip that its Content-Encoding says") from None
    except urllib.error.URLError:
        raise
    except (http.client.HTTPException, OSError) as error:  # of a handler that the user gave
        raise urllib.error.URLError(error) from error
    if unpack is not None and received and not unpack.eof:
        raise _Nonsense("the body is gzip that breaks off")
    return bytes(whole)


# ---- Token: a value, and how old it is -----------------------------------------------------------

_UNKNOWN_LIFE = 3600.0  # seconds a token without a usable expires_in is kept
_EXPIRED_BEFORE = 10.0  # seconds of life left that count as none: the request has to travel, and clocks differ
_SOONEST_REFRESH = 0.1  # seconds; a refresh_in of next to nothing would cause a token request for each call
_TOKEN_LIMIT = 65536  # characters; no server takes a longer header line
FRESH, DUE, EXPIRED = "fresh", "due", "expired"


def _seconds(value: object) -> float | None:
    """A positive number of seconds from any JSON form, or None where it makes no sense."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if 0 < seconds <= _LONGEST_LIFE else None


class Token:
    """An access token (RFC 6749 section 5.1): a value that does not
    change, and whose repr does not show it.

    access_token: visible ASCII, else ValueError. token_type: as the server
        said. expires_at: seconds since the epoch, or None where it did not
        say. scope: granted, separated by spaces, or None. raw: the
        server's answer, or None.
    """

    __slots__ = ("access_token", "token_type", "expires_at", "scope", "raw")
    access_token: str
    token_type: str
    expires_at: float | None
    scope: str | None
    raw: Mapping[str, Any] | None

    def __init__(
        self, access_token: str, *, token_type: str = "Bearer", expires_at: float | None = None,
        scope: str | None = None, raw: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(access_token, str):
            raise TypeError(f"access_token must be a str, not {type(access_token).__name__}")
        if not (_is_visible(access_token) and 0 < len(access_token) <= _TOKEN_LIMIT):
            raise ValueError("access_token must be 1 to 65536 visible ASCII characters, to stand in a header")
        if not (isinstance(token_type, str) and isinstance(scope, (str, type(None)))):
            raise TypeError("token_type and scope must be str, or scope None")
        if not isinstance(expires_at, (int, float, type(None))):
            raise TypeError(f"expires_at must be a number of seconds, or None, not {type(expires_at).__name__}")
        if expires_at is not None and not abs(expires_at) < 1e300:
            raise ValueError("expires_at must be a finite number of seconds since the epoch, or None")
        for name, value in zip(self.__slots__, (access_token, token_type, expires_at, scope, raw)):
            object.__setattr__(self, name, value)

    @classmethod
    def from_response(cls, mapping: Mapping[str, Any], requested_at: float | None = None) -> Token:
        """Judge a successful token response (RFC 6749 section 5.1) and
        return its Token.

        mapping: the parsed JSON. requested_at: when the request was sent,
            seconds since the epoch; default: now.
        Raises OAuthMalformedResponse. An expires_in that makes no sense
        counts as missing.
        """
        if not hasattr(mapping, "get"):
            raise OAuthMalformedResponse("the token response is not a JSON object")
        token_type = mapping.get("token_type") or "Bearer"  # Deviation: required, but some servers leave it out
        if not isinstance(token_type, str) or token_type.lower() != "bearer":
            shown = _clean(token_type, [str(mapping.get("access_token") or "Bearer")])
            shown = shown if len(shown) < 80 else "..."  # whole or not at all: a part of a secret could not be masked
            raise OAuthMalformedResponse(f"only token_type Bearer is spoken here, not {shown!r}")
        seconds, scope = _seconds(mapping.get("expires_in")), mapping.get("scope")
        if seconds is None and mapping.get("expires_in") is not None:
            _log("warning", "an expires_in that makes no sense counts as missing")
        if isinstance(scope, (list, tuple)):  # Deviation: Twitch sends a list
            scope = " ".join(map(str, scope))
        start = time.time() if requested_at is None else requested_at
        try:
            return cls(
                mapping["access_token"], token_type=token_type, expires_at=None if seconds is None else start + seconds,
                scope=scope if isinstance(scope, str) else None, raw=dict(mapping),
            )  # fmt: skip
        except KeyError:
            raise OAuthMalformedResponse("the token response has no access_token") from None
        except (TypeError, ValueError) as error:
            raise OAuthMalformedResponse(f"the token response has no usable token: {error}") from None

    def __repr__(self) -> str:
        scope = None if self.scope is None else _clean(self.scope, [self.access_token])
        return f"Token('***', token_type={self.token_type!r}, expires_at={self.expires_at!r}, scope={scope!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {name: getattr(self, name) for name in self.__slots__[1:]}
        return functools.partial(type(self), **fields), (self.access_token,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Token) and all(getattr(self, n) == getattr(other, n) for n in self.__slots__[:-1])

    def __hash__(self) -> int:
        return hash((self.access_token, self.expires_at))

    def __setattr__(self, name: str, value: object = None) -> NoReturn:
        raise AttributeError(f"a Token does not change; make a new one with {name}=...")

    __delattr__ = __setattr__


class _Held:
    """A token that a TokenSource keeps, with its end by each clock, and its windows in seconds before that."""

    __slots__ = ("token", "obtained", "life", "borrowed", "wall_end", "end", "due", "expired")

    def __init__(self, token: Token, since: Moment, refresh_before: float) -> None:
        self.token, self.obtained = token, since[0]
        self.borrowed: Moment | None = None  # when it was read from a shared cache
        self.wall_end = since[0] + _UNKNOWN_LIFE if token.expires_at is None else token.expires_at
        raw = token.raw or {}
        # Not expires_at minus since, which would be wrong if the wall clock was set while the token was fetched.
        self.life = life = _seconds(raw.get("expires_in")) or self.wall_end - since[0]
        self.end = since[1] + life
        self.expired = min(_EXPIRED_BEFORE, life / 10)
        refresh_in = _seconds(raw.get("refresh_in"))
        self.due = min(refresh_before, life / 2) if refresh_in is None else life - max(refresh_in, _SOONEST_REFRESH)

    def left(self) -> float:
        """Seconds to live, by the clock that says less."""
        return min(self.wall_end - time.time(), self.end - time.monotonic())

    def age(self) -> str:
        """FRESH, DUE or EXPIRED: the one place where this is decided."""
        left = self.left()
        if left <= self.expired:
            return EXPIRED
        return DUE if left <= self.due else FRESH

    def follow(self, before: _Held) -> None:
        """After a token that the server handed out again: nothing new is to be had before it has EXPIRED.

        Windows made of what is left of its life would shrink towards nothing, and cause a fetch for each call.
        """
        self.due = self.expired = before.expired if self.left() > before.expired else 0.0


# ---- ClientCredentials: how one token is obtained ------------------------------------------------

_RETRY_AFTER_LIMIT = 300.0  # seconds; a server that asks for more is asked again after this
_TRIES = 3  # within one deadline, for what may pass by itself
_BACK_OFF = 0.5  # seconds; the longest wait before the second try, doubled before the third
_TRANSIENT = (408, 425, 429)  # with 5xx: statuses that may pass by themselves
_PROVED_BY = {  # client authentication methods (OpenID Connect Core section 9, RFC 8705), by what they need
    "client_secret": ("client_secret_basic", "client_secret_post", "client_secret_basic_raw", "client_secret_jwt"),
    "client_assertion": ("private_key_jwt",),
    "": ("tls_client_auth", "none"),
}
_JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"  # RFC 7523 section 2.2
_SECRET_FIELDS = ("password", "assertion", "refresh_token", "subject_token", "actor_token", "code")  # of token_params
_ASSERTION_LIFE = 120  # seconds; a request takes less, and clocks differ
_DISCOVERY_EVERY = 60.0  # seconds; an issuer is not asked again sooner, whatever its token endpoint does
_ORDER = "the order is OAuthSession(client_id, client_secret, scope, token_url)"
_CLOCK_SKEW = 60.0  # seconds; from here on a difference of clocks is worth a word


class ClientCredentials:
    """Obtains one token from a token endpoint by the client credentials
    grant (RFC 6749 section 4.4); a callable.

    client_id, client_secret, scope, token_url, issuer, auth_method,
        client_assertion, assertion_audience, audience, resource,
        token_params, context, allow_http: as for OAuthSession.
    headers: only their User-Agent is used. handlers: only a ProxyHandler
        is used.
    timeout: seconds for one whole fetch, all tries included (only the DNS
        look-up is outside), default 30.

    Calling it returns a Token, or raises OAuthTransportError or an
    OAuthResponseError. It may be called by any thread.
    """

    def __init__(
        self, client_id: str, client_secret: str | Callable[[], str] | None = None,
        scope: str | Iterable[str] | None = None, token_url: str | None = None, *,
        issuer: str | None = None, auth_method: str | None = None,
        client_assertion: str | Callable[[], str] | None = None, assertion_audience: str | None = None,
        audience: str | Iterable[str] | None = None, resource: str | Iterable[str] | None = None,
        token_params: Any = None, headers: Mapping[str, str] | None = None, timeout: float = 30.0,
        context: ssl.SSLContext | None = None, allow_http: bool = False, handlers: Iterable[Any] = (),
        pool: _Pool | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(client_id, str) or not client_id or not client_id.isprintable():
            raise ValueError(f"client_id must be the text that the authorisation server gave you; {_ORDER}")
        self.client_id = client_id
        if issuer is not None and token_url is not None:
            raise ValueError("issuer and token_url contradict each other: leave one of them out")
        name, url = ("token_url", token_url) if issuer is None else ("issuer", issuer)
        url = _check_url(name, url, allow_http, "; " + _ORDER)
        if "#" in url or (issuer is not None and "?" in url):
            raise ValueError(f"{name} must be without {'# and ?' if issuer else '#'} (RFC 6749 section 3.2, RFC 8414)")
        self.token_url: str | None = url if issuer is None else None
        self.issuer: str | None = None if issuer is None else url
        self.origin = _origin(url)
        self.auth_method = _check_method(auth_method, client_secret, client_assertion)
        self._proof = "client_secret" if client_assertion is None else "client_assertion"
        self._secret = client_secret if client_assertion is None else client_assertion
        if self._secret is not None and not callable(self._secret):
            _check_secret(self._proof, self._secret)
        if not isinstance(assertion_audience, (str, type(None))):
            raise TypeError(f"assertion_audience must be a str, not {type(assertion_audience).__name__}")
        self._audience = assertion_audience
        self.scope = " ".join(_texts("scope", scope)) or None
        if _check_timeout(timeout) is None:
            raise TypeError("timeout must be a number of seconds: a token request without one could hang for ever")
        self.timeout = timeout
        self._fields = _fields_of(self.scope, _texts("audience", audience), _texts("resource", resource), token_params)
        self._headers = {} if headers is None else headers
        self._allow_http = allow_http
        self._metadata: dict[str, Any] = {}  # of the issuer
        self._discovered = 0.0, 0.0
        self._moved = False  # whether the token endpoint may be another by now
        self._works: str | None = None  # the method that the server was seen to accept, of the two that are tried
        self._opener = urllib.request.OpenerDirector()
        pool = _Pool(context) if pool is None else pool
        proxies = [one for one in map(_own, handlers) if isinstance(one, urllib.request.ProxyHandler)]
        proxies = proxies or [urllib.request.ProxyHandler()]
        for handler in (*proxies, _Direct(), _HTTPHandler(pool), _HTTPSHandler(pool)):
            self._opener.add_handler(handler)

    def __repr__(self) -> str:
        where = f"token_url={self.token_url!r}" if self.issuer is None else f"issuer={self.issuer!r}"
        return f"ClientCredentials(client_id={self.client_id!r}, scope={self.scope!r}, {where})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("what holds a secret is not pickled: make it anew from its settings")

    @property
    def cache_key(self) -> str:
        """A hash of all settings and the secret: who differs in one shares
        no token. Callables add nothing to it."""
        import hashlib
        import hmac

        where = [self.issuer, self.token_url, self.client_id, self.auth_method, self._proof, self._audience]
        settings = json.dumps([where, sorted(self._fields.items())])
        known = self._proof == "client_secret" and isinstance(self._secret, str)
        proof = hmac.new(str(self._secret).encode() if known else b"", settings.encode(), "sha256").hexdigest()
        return hashlib.sha256((settings + proof).encode()).hexdigest()

    def __call__(self) -> Token:
        """Fetch one token, in up to three tries within `timeout`."""
        deadline = time.monotonic() + self.timeout
        secret = self._current_secret()
        attempt = 0
        while True:
            try:
                try:
                    return self._try(secret, deadline)
                except OAuthInvalidClient:
                    rotated = self._current_secret()
                    if rotated == secret:
                        raise
                    return self._try(rotated, deadline)
            except (OAuthTransportError, OAuthResponseError) as error:
                if isinstance(error, OAuthTransportError) or error.status == 404:
                    self._moved = True
                wait = getattr(error, "retry_after", None)
                if wait is None:
                    wait = random.uniform(0, _BACK_OFF * 2**attempt)
                attempt += 1
                if attempt == _TRIES or not _is_transient(error) or wait > (deadline - time.monotonic()) / 2:
                    raise
                _log("info", "token request %d failed, the next in %.1f s: %s", attempt, wait, error)
            time.sleep(wait)

    def _current_secret(self) -> str:
        """The secret for this fetch, or ""; an assertion is made for each request."""
        return self._ask() if self._proof == "client_secret" else ""

    def _ask(self) -> Any:
        if not callable(self._secret):
            return self._secret or ""
        secret = self._secret()
        try:
            _check_secret(self._proof, secret)
        except (TypeError, ValueError) as error:  # no fault of the arguments: a file may be half written
            raise OAuthError(f"what the callable returned cannot be used: {error}") from None
        return secret

    def _try(self, secret: str, deadline: float) -> Token:
        """One token request; where the method is open, a second one if the server refuses the client."""
        moved = self._moved and _since(self._discovered) > _DISCOVERY_EVERY
        if self.issuer is not None and (moved or not self._metadata):
            self._discover(deadline)
        method = self.auth_method or self._works or self._listed_method()
        if method is not None:
            return self._request(method, secret, deadline)
        try:
            token = self._request("client_secret_basic", secret, deadline)
            self._works = "client_secret_basic"
            return token
        except OAuthInvalidClient as first:
            refused = first
        try:
            token = self._request("client_secret_post", secret, deadline)
        except (OAuthTransportError, OAuthResponseError) as second:
            if second.error in ERRORS_BY_CODE and not isinstance(second, (OAuthInvalidClient, OAuthInvalidRequest)):
                self._works = "client_secret_post"  # what is refused is not the client
            if self._works or _is_transient(second):
                raise
            refused.args = (f"{refused} (client_secret_post was tried too, and refused as well)",)
            raise refused from None
        self._works = "client_secret_post"
        where = self.token_url or self.issuer
        _log("info", "%s refuses HTTP Basic and accepts client_secret_post: name it as auth_method", where)
        return token

    def _listed_method(self) -> str | None:
        """The method that the issuer lists; None: both, since a list does not say which one this client may use."""
        listed = self._metadata.get("token_endpoint_auth_methods_supported")
        usable = [one for one in _PROVED_BY["client_secret"] if isinstance(listed, list) and one in listed]
        return None if usable[:2] == ["client_secret_basic", "client_secret_post"] else next(iter(usable), None)

    def _discover(self, deadline: float) -> None:
        """Read the issuer's metadata (RFC 8414 section 3, OpenID Connect Discovery section 4), or keep the old ones."""
        self._discovered, self._moved = _now(), False
        issuer: Any = self.issuer
        scheme, _, rest = issuer.rstrip("/").partition("://")
        host, slash, path = rest.partition("/")
        urls = (
            f"{scheme}://{host}/.well-known/oauth-authorization-server{slash}{path}",
            f"{scheme}://{rest}/.well-known/openid-configuration",
        )
        errors: list[OAuthTransportError | OAuthResponseError] = []
        for url in urls:
            try:
                self._metadata = self._read_metadata(url, deadline)
                return
            except (OAuthTransportError, OAuthResponseError) as error:
                errors.append(error)
                if error.status is None and isinstance(error, OAuthTransportError):
                    break  # there is nobody to ask
        # What may pass by itself says more than what a document says, and that more than that there is none.
        refused = max(errors, key=lambda error: (_is_transient(error), error.status is None))
        if len(errors) > 1:
            other = urls[refused is errors[0]]
            refused.args = (f"{refused} ({other} was asked too, and does not serve either)",)
        if not self._metadata:
            raise refused
        _log("warning", "the issuer's metadata are still the old ones: %s", refused)

    def _read_metadata(self, url: str, deadline: float) -> dict[str, Any]:
        answer, body = self._send(url, None, {}, deadline, ())
        status, (metadata, why) = answer.status, _parse_json(body)
        if status != 200 or why:
            kind = OAuthTransportError if status in _TRANSIENT or status >= 500 else OAuthMalformedResponse
            what = f"{status}, but {why}" if status == 200 else status
            raise kind(f"{url} answered {what}; is issuer right?", status=status)
        if metadata.get("issuer") != self.issuer:
            named = f"{_clean(metadata.get('issuer'))!r}, not {self.issuer!r}"
            raise OAuthMalformedResponse(f"{url} is of issuer {named}: name that, if you trust it")
        aliases = metadata.get("mtls_endpoint_aliases")  # RFC 8705 section 5
        alias = aliases.get("token_endpoint") if isinstance(aliases, dict) else None
        endpoint = alias if alias and self.auth_method == "tls_client_auth" else metadata.get("token_endpoint")
        try:
            metadata["token_endpoint"] = _check_url("token_endpoint", endpoint, self._allow_http)
        except (TypeError, ValueError) as error:
            raise OAuthMalformedResponse(f"{url}: {error}") from None
        return metadata

    def _request(self, method: str, secret: str, deadline: float) -> Token:
        """Send one token request (RFC 6749 section 4.4.2) and judge the answer."""
        url = self.token_url or self._metadata["token_endpoint"]
        fields, assertion = dict(self._fields), ""
        headers: dict[str, str] = {}
        if method == "client_secret_jwt":
            listed = self._metadata.get("token_endpoint_auth_signing_alg_values_supported")
            algorithms = [one for one in ("HS256", "HS384", "HS512") if isinstance(listed, list) and one in listed]
            algorithm = algorithms[0] if algorithms else "HS256"
            assertion = _sign(self.client_id, secret, self._audience or self.issuer or url, algorithm)
        elif method == "private_key_jwt":
            assertion = self._ask()
        masks = _prove(method, self.client_id, secret, assertion, headers, fields)
        requested_at = time.time()
        answer, body = self._send(url, fields, headers, deadline, masks)
        try:
            return _judge(url, answer, body, requested_at, self.scope, masks)
        except OAuthResponseError as error:
            hints = self._hints(error, url, method, self.client_id + secret, assertion, requested_at)
            error.args = ("; ".join((str(error), *hints)),)
            raise

    def _hints(
        self, error: OAuthResponseError, url: str, method: str, proof: str, assertion: str, sent: float
    ) -> Iterator[str]:
        """What may be the cause of a refusal. proof: id and secret. sent: when the request was, by the clock here."""
        refused = isinstance(error, OAuthInvalidClient)
        if isinstance(error, OAuthInvalidScope):
            yield f"scope was {self.scope!r}"
        if refused and method == "client_secret_basic" and urllib.parse.quote(proof, "") != proof:
            methods = "client_secret_post or client_secret_basic_raw" if self.auth_method else "client_secret_basic_raw"
            yield f"id or secret hold characters that servers decode in different ways: try auth_method {methods}"
        if refused and assertion:
            try:
                audience = json.loads(base64.urlsafe_b64decode(assertion.split(".")[1] + "=="))["aud"]
                other = "" if audience == url else f"; some servers want {url!r} (assertion_audience)"
                yield f"the assertion's aud was {_clean(audience)!r}{other}"
            except (LookupError, ValueError, TypeError):
                pass  # not a JWT that we could read
        try:
            skew = _date(error.headers["Date"] if error.headers else "") - sent
        except ValueError:
            skew = 0.0
        if abs(skew) > _CLOCK_SKEW:
            yield f"the clock here is {abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} the server's"

    def _send(
        self, url: str, fields: Any, headers: dict[str, str], deadline: float, masks: Sequence[str]
    ) -> tuple[Any, bytes]:
        """Ask the authorisation server; return answer and body, whatever the status."""
        theirs = {name.lower(): value for name, value in list(self._headers.items())}
        headers = {"Accept": "application/json", "User-Agent": theirs.get("user-agent") or _USER_AGENT, **headers}
        data = None if fields is None else urllib.parse.urlencode(fields, doseq=True).encode()
        request = urllib.request.Request(url, data, headers)
        vars(request)["deadline"] = deadline
        where = _place(url) if fields else url
        name = "token_url" if self.issuer is None else "issuer"
        try:
            with self._opener.open(request, timeout=self.timeout) as answer:
                return answer, _read_all(answer, _ANSWER_LIMIT)
        except _Nonsense as error:
            raise OAuthMalformedResponse(f"{where}: {_clean(error.reason, masks)}; is {name} right?") from None
        except urllib.error.URLError as error:
            why = f"{where} gave no answer: {_clean(error.reason, masks)}"
            hint = f"is {name} right, and reachable from here?"
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                why = f"the certificate of {where} was refused: {error.reason.verify_message}"
                hint = "for a private CA set SSL_CERT_FILE, or give context=ssl.create_default_context(cafile=...)"
            raise OAuthTransportError(f"{why}; {hint}") from error


def _check_method(method: Any, secret: Any, assertion: Any) -> str | None:
    """The client authentication method; None where the server is asked, or Basic and body are tried."""
    methods = [one for methods in _PROVED_BY.values() for one in methods]
    if method is not None and method not in methods:
        raise ValueError(f"auth_method must be one of {', '.join(methods)}, or None to find out")
    if secret is not None and assertion is not None:
        raise ValueError("client_secret and client_assertion contradict each other: leave one of them out")
    proof = "client_secret" if secret is not None else "client_assertion" if assertion is not None else ""
    if method is None and not proof:
        hint = "for a client without one: auth_method='none' or 'tls_client_auth', or client_assertion="
        raise ValueError(f"client_secret is missing; {hint}; {_ORDER}")
    if method is not None and method not in _PROVED_BY[proof]:
        if proof:
            raise ValueError(f"{proof} and auth_method={method!r} contradict each other: leave one of them out")
        raise ValueError(f"auth_method={method!r} needs client_{'secret' if 'secret' in method else 'assertion'}=")
    return "private_key_jwt" if proof == "client_assertion" else method


def _check_secret(name: str, secret: Any) -> None:
    """ValueError or TypeError for what can be no client_secret or client_assertion."""
    if not isinstance(secret, str):
        kind = type(secret).__name__
        raise TypeError(f"{name} must be a str, or a callable that returns one, not {kind}; {_ORDER}")
    if any(letter < " " or letter == "\x7f" or "\ud800" <= letter <= "\udfff" for letter in secret):
        raise ValueError(f"{name} has control characters, such as the line end of a file: take them off")
    if secret == "":
        raise ValueError(f"{name} is empty; for a client without one: auth_method='none'")
    if secret.startswith(("https://", "http://")):
        raise ValueError(f"{name} looks like a URL; {_ORDER}")
    if name == "client_assertion" and not _is_visible(secret):
        raise ValueError("client_assertion must be a JWT, of visible ASCII characters without spaces")


def _fields_of(scope: str | None, audience: list[str], resource: list[str], params: Any) -> dict[str, list[str]]:
    """The fields of a token request, apart from those that prove who the client is."""
    for uri in resource:
        parts = urllib.parse.urlsplit(uri)
        if not parts.scheme or "#" in uri:
            raise ValueError("resource must be absolute URIs without a fragment (RFC 8707 section 2)")
    fields = {"grant_type": ["client_credentials"], "scope": [scope] if scope else []}
    fields.update(audience=audience, resource=resource)
    if isinstance(params, (str, bytes)) or (params is not None and not hasattr(params, "__iter__")):
        raise TypeError(f"token_params must be a dict of form fields, not {type(params).__name__}")
    for name, value in params.items() if hasattr(params, "items") else params or ():
        values = list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
        if not isinstance(name, str) or not all(isinstance(one, (str, int, float)) for one in values):
            raise TypeError("token_params must map names to str, numbers or lists of them; None leaves a field out")
        fields[name] = [str(one) for one in values]
    return {name: values for name, values in fields.items() if values}


def _sign(client_id: str, secret: str, audience: str, algorithm: str) -> str:
    """A JWT that proves who the client is (RFC 7523 sections 2.2 and 3), for one request: servers take it once."""
    import hmac

    def encode(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    now = int(time.time())
    claims = {"iss": client_id, "sub": client_id, "aud": audience, "iat": now, "exp": now + _ASSERTION_LIFE}
    claims["jti"] = os.urandom(16).hex()
    parts = ({"alg": algorithm, "typ": "JWT"}, claims)
    message = b".".join(encode(json.dumps(part).encode()) for part in parts)
    return (message + b"." + encode(hmac.new(secret.encode(), message, "sha" + algorithm[2:]).digest())).decode()


def _prove(
    method: str, client_id: str, secret: str, assertion: str, headers: dict[str, str], fields: dict[str, list[str]]
) -> list[str]:
    """Add what proves who the client is (RFC 6749 section 2.3.1); return what must not be seen in any text."""
    masks = {secret, " ".join(secret.split()), assertion, *assertion.split(".")}
    masks.update(value for name, values in fields.items() if name in _SECRET_FIELDS for value in values)
    if method.startswith("client_secret_basic"):
        # Encoded as a form value before base64, a space as %20: servers decode that alike, and + differently.
        pair = f"{urllib.parse.quote(client_id, '')}:{urllib.parse.quote(secret, '')}"
        if method == "client_secret_basic_raw":  # Deviation: for servers that do not decode, of which there are many
            pair = f"{client_id}:{secret}"
        proof = base64.b64encode(pair.encode()).decode()
        headers["Authorization"] = "Basic " + proof
        masks.update(one.rstrip("=") for one in (proof, base64.b64encode(secret.encode()).decode()))
    else:
        fields["client_id"] = [client_id]
        if method == "client_secret_post":
            fields["client_secret"] = [secret]
        if assertion:
            fields.update(client_assertion_type=[_JWT_BEARER], client_assertion=[assertion])
    return sorted((mask for mask in masks if mask), key=len, reverse=True)


def _date(text: Any) -> float:
    """Seconds since the epoch of an HTTP date (RFC 9110 section 5.6.7), of which one form has no zone; ValueError."""
    try:
        date = email.utils.parsedate_to_datetime(text)
        return (date.replace(tzinfo=datetime.timezone.utc) if date.tzinfo is None else date).timestamp()
    except (LookupError, TypeError, ValueError, OverflowError, OSError, AttributeError):
        raise ValueError("no HTTP date") from None


def _judge(url: str, answer: Any, body: bytes, requested_at: float, scope: str | None, masks: list[str]) -> Token:
    """A token, if the answer is as RFC 6749 section 5.1 says; else the exception that its code or status means."""
    mapping, why = _parse_json(body)
    status: int = answer.status
    tokens = [str(mapping[name]) for name in ("access_token", "refresh_token", "id_token") if mapping.get(name)]
    masks = sorted({*masks, *tokens}, key=len, reverse=True)
    texts = {name: mapping.get(name) for name in ("error", "error_description", "error_uri")}
    said = {name: _clean(text, masks) for name, text in texts.items() if text and isinstance(text, str)}
    if 200 <= status < 300 and "error" not in said and not why:
        try:
            if "scope" not in mapping and scope:  # RFC 6749 section 5.1: left out where it is what was asked for
                mapping = {**mapping, "scope": scope}
            if any(mask in str(mapping.get("scope")) for mask in masks):  # it may come to be shown
                mapping = {**mapping, "scope": None}
            return Token.from_response(mapping, requested_at)
        except OAuthMalformedResponse as error:
            why = _clean(error, masks)
    kind = _verdict(status, texts["error"] if "error" in said else None)
    text = ": ".join(said[name] for name in ("error", "error_description") if name in said)
    if not text and status >= 400 and b"token" not in body.lower() and b"\0" not in body:  # no token itself, no UTF-16
        text = _clean(" ".join(body.decode("utf-8", "replace").split()), masks, 200)
    if 300 <= status < 400:
        why = f"it redirects to {_clean(answer.headers.get('Location'), masks)!r}, which is not followed"
    media = _clean(answer.headers.get("Content-Type", "no content type"), masks)[:80]
    detail = text or f"{why or 'no error code'} ({media}, {len(body)} bytes)"
    headers, retry_after = _clean_headers(answer.headers, masks), _retry_after(answer.headers)
    lost = "error" not in said and kind in (OAuthResponseError, OAuthMalformedResponse)
    message = f"{_place(url)} answered {status} - {detail}; {'is token_url right?' if lost else kind._advice}"
    raise kind(message, status=status, headers=headers, retry_after=retry_after, **said)


def _verdict(status: int, code: str | None) -> type[OAuthResponseError]:
    """The class for a refusal: the code decides, else the status."""
    if code in ERRORS_BY_CODE:
        return ERRORS_BY_CODE[code]
    if status in (*_TRANSIENT, 503):
        return OAuthTemporarilyUnavailable
    if status >= 500:
        return OAuthServerError
    if code is None and status < 400:
        return OAuthMalformedResponse
    return OAuthInvalidClient if code is None and status in (401, 403) else OAuthResponseError


def _is_transient(error: OAuthError) -> bool:
    """Whether the same request may succeed in a moment. A certificate does not become right by itself."""
    if isinstance(error, OAuthTransportError):
        reason = getattr(error.__cause__, "reason", None)
        return not isinstance(reason, ssl.SSLCertVerificationError)
    return isinstance(error, (OAuthTemporarilyUnavailable, OAuthServerError))


def _parse_json(body: bytes) -> tuple[dict[str, Any], str]:
    """The JSON object of a body and "", or an empty one and why there is none."""

    def number(digits: str) -> float:  # Trap: int() refuses, or takes minutes for, what has thousands of digits
        return int(digits) if len(digits) < 20 else float(digits)

    try:
        parsed = json.loads(body.decode("utf-8-sig"), parse_int=number)
    except UnicodeDecodeError:
        return {}, "the body is not UTF-8"
    except (ValueError, RecursionError):
        return {}, "the body is not JSON" if body else "the body is empty"
    return (parsed, "") if isinstance(parsed, dict) else ({}, "the body is not a JSON object")


def _retry_after(headers: http.client.HTTPMessage) -> float | None:
    """Seconds of a Retry-After header (RFC 9110 section 10.2.3), within bounds, or None."""
    text = headers.get("Retry-After", "").strip()
    try:
        if text.isascii() and text.isdigit():
            return min(float(text[:9]), _RETRY_AFTER_LIMIT)
        # By the server's own clock, if it shows it: ours may differ by more than the wait.
        wait = _date(text) - (_date(headers["Date"]) if "Date" in headers else time.time())
    except ValueError:
        return None
    return min(max(wait, 0.0), _RETRY_AFTER_LIMIT)


# ---- Caches: FileCache, and how any cache is asked without harm ----------------------------------

_CACHE_REST = 30.0  # seconds that a cache which failed is left alone
_CACHE_POLLS = 0.02, 0.1  # seconds between two looks while another process fetches: the least and the most
_CACHE_PATIENCE = 0.3, 0.5  # of the time that a fetch may take: what we wait for another's, before ours
_LONGEST_ENTRY = 30 * 86400  # seconds; memcached takes a greater number for a date
_AHEAD_LIMIT = 300.0  # seconds that the clock of another machine may be ahead


class FileCache:
    """A cache that the processes of one user on one machine share: a
    directory with a file for each token.

    directory: `~` is expanded; made with mode 0700 if it is not there.
        Files get mode 0600, and are written whole or not at all. What
        another user owns or could write is refused, and so is a symbolic
        link. Threads may share it.
    The methods do I/O and raise OSError, which a TokenSource logs; it then
    goes on without.
    """

    def __init__(self, directory: str | bytes | os.PathLike[Any]) -> None:
        named = os.path.expanduser(os.fsdecode(directory))
        if not named:
            raise ValueError("cache must name a directory, and not be empty")
        self.directory = named if named[0] == "~" else os.path.abspath(named)

    def get(self, key: str) -> bytes | None:
        """Return what was set, or None where nothing is, or nothing that
        can be read."""
        path = self._path(key)
        try:
            number = _open_private(path, os.O_RDONLY)
        except (FileNotFoundError, PermissionError):  # set() puts another one in its place
            return None
        with open(number, "rb") as file:
            _check_owner(path, os.fstat(number))
            return file.read(_ANSWER_LIMIT)

    def set(self, key: str, value: str, seconds: int) -> None:
        """Keep a text. `seconds` is not looked at: the text says by itself
        how long it is good."""
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
        when its holder dies; no time-out needed."""
        return _FileLock(self._path(name))

    def _path(self, key: str) -> str:
        if self.directory[0] == "~":
            raise FileNotFoundError(f"there is no home directory for {self.directory}")
        os.makedirs(self.directory, 0o700, exist_ok=True)
        _check_owner(self.directory, os.lstat(self.directory))
        return os.path.join(self.directory, urllib.parse.quote(key, ""))


class _FileLock:
    """A lock between threads and processes: of a file that stays, since removing it would let two in."""

    held: set[_FileLock] = set()  # noqa: RUF012  # of this process

    def __init__(self, path: str) -> None:
        self._path = path

    def acquire(self, blocking: bool = False) -> bool:
        """Whether it is ours now; never waits."""
        number = _open_private(self._path, os.O_RDWR | os.O_CREAT)
        try:
            _lock_file(number, True)
        except (BlockingIOError, PermissionError):  # another has it: flock says the one, Windows the other
            os.close(number)
            return False
        except (ImportError, OSError):  # a system or file system without locks does without
            pass
        self._number = number
        self.held.add(self)
        return True

    def release(self) -> None:
        if self in self.held:
            self.held.discard(self)
            try:  # Trap: closing alone would not do, since a forked child inherits the lock
                _lock_file(self._number, False)
            except (ImportError, OSError):
                pass
            os.close(self._number)

    @classmethod
    def disown(cls) -> None:
        """In a forked child: close what is the parent's, or the lock would outlive it."""
        while cls.held:
            os.close(cls.held.pop()._number)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_FileLock.disown)


def _lock_file(number: int, on: bool) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(number, msvcrt.LK_NBLCK if on else msvcrt.LK_UNLCK, 1)
    else:
        import fcntl

        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB if on else fcntl.LOCK_UN)


def _open_private(path: str, flags: int) -> int:
    """Open a file, and nothing else: a pipe, say, could make us wait for ever."""
    for name in ("O_NOFOLLOW", "O_BINARY", "O_NONBLOCK"):
        flags |= getattr(os, name, 0)
    number = os.open(path, flags, 0o600)
    if stat.S_ISREG(os.fstat(number).st_mode):
        return number
    os.close(number)
    raise PermissionError(f"{path} is not a file: remove it")


def _check_owner(path: str, status: os.stat_result) -> None:
    """Refuse what another user owns or could write, and links, which may lead there. Windows has no such modes."""
    if stat.S_ISLNK(status.st_mode):
        raise PermissionError(f"{path} is a symbolic link: name what it points to")
    if hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        raise PermissionError(f"{path} is not trusted, since other users own it or could write to it: chmod 700")


class _Shared:
    """Any cache, as one that does no harm: what it raises is a log line, and then it is left alone for a while."""

    failed: Moment = (0.0, 0.0)
    odd = False  # it held nonsense, and that was said

    def __init__(self, cache: Any, key: str | None, fetch: Any) -> None:
        import hashlib  # urllib has imported it already

        self.cache = FileCache(cache) if isinstance(cache, (str, bytes, os.PathLike)) else cache
        if not (callable(getattr(self.cache, "get", None)) and callable(getattr(self.cache, "set", None))):
            raise TypeError("cache must be a path, or an object with get(key) and set(key, value, seconds)")
        key = getattr(fetch, "cache_key", None) if key is None else key
        if not isinstance(key, str) or not key:
            raise ValueError("cache_key must be a text that says what is shared, if fetch is a callable of your own")
        self.key = "oauth_session-" + hashlib.sha256(key.encode()).hexdigest()
        try:
            self.locks = callable(getattr(self.cache, "lock", None))
        except Exception:  # diskcache.FanoutCache asserts that it has no such thing
            self.locks = False

    def resting(self) -> bool:
        return _since(self.failed) < _CACHE_REST

    def ask(self, one: Any, method: str, *values: Any, **more: Any) -> Any:
        """What a method of the cache or its lock returns; None if it fails, or one did a moment ago."""
        try:
            return None if self.resting() else getattr(one, method)(*values, **more)
        except Exception as error:
            self.failed = _now()
            shown = _clean(error) if isinstance(self.cache, FileCache) else type(error).__name__  # may show the token
            _log("warning", "the shared cache fails, and is left alone for %d s: %s", _CACHE_REST, shown)
            return None

    def seek(self, flight: _Flight, judge: Callable[[Token, Moment], _Held | None], limit: float) -> _Held | None:
        """A token to use; or None where it is time to fetch one, with the lock if there is one."""
        lock: Any = None
        waits = self.locks and flight.why != "look"
        patience = limit * random.uniform(*_CACHE_PATIENCE) if waits else 0.0
        while True:
            found = self.read()
            held = None if found is None else judge(*found)
            if held is not None or flight.lock is not None or self.resting() or _since(flight.since) >= patience:
                return held
            lock = lock or self.ask(self.cache, "lock", self.key + ".lock", timeout=limit)
            if self.ask(lock, "acquire", blocking=False):
                flight.lock = lock  # and look again: the one before us may have left a token
            else:
                time.sleep(random.uniform(*_CACHE_POLLS))

    def read(self) -> tuple[Token, Moment] | None:
        """The token there, judged like a fresh answer, and when it was obtained."""
        value, (wall, steady) = self.ask(self.cache, "get", self.key), _now()
        if value is None:
            return None
        body = value.encode("utf-8", "replace") if isinstance(value, str) else value
        entry = _parse_json(body)[0] if isinstance(body, bytes) else {}
        obtained, life = _seconds(entry.get("obtained_at")), entry.get("expires_in")
        try:
            if obtained is None or obtained > wall + _AHEAD_LIMIT or (life is not None and _seconds(life) is None):
                raise ValueError
            start = min(obtained, wall)  # a clock that is ahead must not prolong a life
            return Token.from_response(entry, start), (obtained, steady - (wall - start))
        except (ValueError, OAuthMalformedResponse):
            if not self.odd:
                self.odd = True
                _log("warning", "what the shared cache holds makes no sense, and is not used")
            return None

    def leave(self, flight: _Flight, held: _Held | None) -> None:
        """Write the token if it was fetched, as the response that would make it; and let the next one in."""
        if held is not None and held.borrowed is None:
            token, raw = held.token, held.token.raw or {}
            entry = {name: getattr(token, name) for name in ("access_token", "token_type", "scope")}
            entry["expires_in"] = None if token.expires_at is None else held.life
            entry.update(refresh_in=_seconds(raw.get("refresh_in")), obtained_at=held.obtained)
            seconds = min(max(1, int(held.left())), _LONGEST_ENTRY)
            self.ask(self.cache, "set", self.key, json.dumps(entry), seconds)
        try:
            if flight.lock is not None:
                flight.lock.release()
        except Exception:  # it has a time-out, which may have passed
            pass


# ---- TokenSource: keeps the token and renews it, one fetch at a time -----------------------------

_FETCH_LIMIT = 30.0  # seconds after which a flight of a fetch without a `timeout` of its own counts as dead
_FLIGHT_GRACE = 2.0  # seconds beyond it, for what no deadline covers
_FORCED_EVERY = 60.0  # seconds; an API that answers 401 for ever costs one token request in this time
_LONGEST_PAUSE = 60.0  # seconds between the attempts of a fetch that keeps failing
_BORROWED_CALM = 5.0  # seconds to hold a DUE token of a shared cache before it is renewed: short scripts end before
_REFUSED_KEPT = 16  # refused tokens that are not to be taken from a shared cache again


class _Flight:
    """One fetch under way: led by one thread; all others that need its token wait for it.

    why: "due", a renewal in the background; "needed", by a caller who has none; "refused", by an API; or "look":
    into the shared cache only, since a fetch would not be in order.
    """

    leader: int | None = None  # its thread
    lock: Any = None  # of the shared cache
    token: Token | None = None
    error: Exception | None = None  # without both it was interrupted, or looked in vain

    def __init__(self, why: str, error: Exception | None = None) -> None:
        self.why, self.error, self.since, self.landed = why, error, _now(), threading.Event()


class _Traffic:
    """What a TokenSource knows about fetches, apart from the token. A fork or `clear()` begins with a new one."""

    flight: _Flight | None = None  # the last one
    forced: _Flight | None = None  # the last one that fetched because of a refused token
    failures = 0  # in a row
    pause: tuple[Moment, float, Exception | None] = ((0.0, 0.0), 0.0, None)  # since, seconds, what callers get

    def __init__(self) -> None:
        self.process = os.getpid()
        self.lock = threading.Lock()  # guards this and writes of TokenSource._held; never held in user code

    def pausing(self) -> bool:
        since, seconds, _ = self.pause
        return _since(since) < seconds

    def fail(self, flight: _Flight) -> None:
        """When may the next one start?"""
        self.failures += 1
        error, due = flight.error, flight.why == "due"
        asked = _seconds(error.retry_after) if isinstance(error, OAuthResponseError) else None
        doublings = self.failures - (1 if due else 2)  # a caller may try once more at once
        if asked is not None:
            self.pause = _now(), min(asked, _RETRY_AFTER_LIMIT), error
        elif doublings >= 0:
            length = min(2.0 ** min(doublings, 6), _LONGEST_PAUSE) * random.uniform(0.5, 1.0)
            self.pause = _now(), length, None if due else error  # a caller may try


class TokenSource:
    """Keeps a token, and renews it in time (RFC 6749 section 4.4: the same
    grant again). Threads may share it.

    fetch: a callable that returns a Token, such as ClientCredentials;
        called by one thread at a time.
    refresh_before: seconds before its end at which a token is DUE, at most
        half of its life; default 300; a `refresh_in` in the server's
        answer goes before it.
    cache: a directory to share the token with other processes (see
        FileCache), or an object with get(key) and set(key, value,
        seconds), such as redis.Redis(); with lock(name, timeout=...) too,
        one of them fetches for all. It holds the token in plain text. Its
        errors are logged, and go no further.
    cache_key: a text that says what is shared; default: a hash of the
        settings and the secret of ClientCredentials.

    FRESH and DUE tokens are handed out without waiting, a DUE one while a
    background thread renews it. For its last 10 seconds, or tenth of its
    life, it is EXPIRED: one caller fetches, and all wait for the result,
    token or error.
    """

    def __init__(
        self, fetch: Callable[[], Token], *, cache: Any = None, cache_key: str | None = None,
        refresh_before: float = 300.0,
    ) -> None:  # fmt: skip
        if not callable(fetch):
            raise TypeError(f"fetch must be a callable that returns a Token, not {type(fetch).__name__}")
        if isinstance(refresh_before, bool) or not isinstance(refresh_before, (int, float)):
            raise TypeError(f"refresh_before must be a number of seconds, not {type(refresh_before).__name__}")
        if not 0 <= refresh_before <= _LONGEST_LIFE:
            raise ValueError("refresh_before must be 0 or more seconds")
        self._fetch = fetch
        self._refresh_before = refresh_before
        self._origin: Origin | None = getattr(fetch, "origin", None)  # of the token endpoint
        self._shared = None if cache is None else _Shared(cache, cache_key, fetch)
        self._done = 0.0  # wall clock; what the shared cache has from before is not taken
        self._refused: deque[int] = deque(maxlen=_REFUSED_KEPT)  # hashes of tokens
        self._held: _Held | None = None  # the token; replaced as a whole, and read without the lock
        self._traffic_of: dict[int, _Traffic] = {}  # by process

    def __repr__(self) -> str:
        known = isinstance(self._fetch, ClientCredentials)  # a functools.partial would show its arguments
        return f"TokenSource({self._fetch if known else type(self._fetch).__name__!r})"

    def token(self) -> Token:
        """Return a Token that has not expired. Does I/O and may raise
        OAuthError only where none is held."""
        return self._ready() or self._obtain()

    def authorization(self) -> str:
        """Return the value of an Authorization header, for use with other
        HTTP clients: `Bearer ...`."""
        return "Bearer " + self.token().access_token

    def reject(self, token: Token | str) -> Token:
        """Say that an API answered 401 to this token, and return the one
        to use now.

        That is a newer one, fetched if need be. It is the same one where a
        fetch was tried within the last minute, or a pause after failures
        is on: then the 401 stands. Raises OAuthError if the fetch fails.
        """
        return self._obtain(None, token if isinstance(token, Token) else Token(token))

    def clear(self) -> None:
        """Forget token, errors and pauses. A fetch under way serves those
        who wait for it, and is not kept."""
        traffic = self._traffic()
        with traffic.lock:
            self._traffic_of = {os.getpid(): _Traffic()}
            if self._held is not None:
                self._refused.append(hash(self._held.token.access_token))
            self._held, self._done = None, time.time()

    @property
    def _limit(self) -> float:
        return getattr(self._fetch, "timeout", None) or _FETCH_LIMIT

    def _traffic(self) -> _Traffic:
        # A forked child must not touch locks and flights of its parent: their threads do not exist there.
        process = os.getpid()
        return self._traffic_of.get(process) or self._traffic_of.setdefault(process, _Traffic())

    def _ready(self) -> Token | None:
        """The token at hand, unless it has expired; one that is due is renewed in the background."""
        held = self._held
        if held is None:
            return None
        age = held.age()
        if age == DUE:
            self._renew(held)
        return None if age == EXPIRED else held.token

    def _renew(self, held: _Held) -> None:
        """Start the background renewal, unless one is under way or has just failed."""
        traffic = self._traffic()
        calm = held.borrowed is not None and _since(held.borrowed) < _BORROWED_CALM
        if calm or traffic.pausing() or self._under_way(traffic.flight):
            return
        with traffic.lock:
            # Getting here means that nothing was under way a moment ago; another thread may have been faster.
            if self._held is not held or traffic.pausing() or self._under_way(traffic.flight):
                return
            flight = traffic.flight = _Flight("due")
        self._lead_in_thread(traffic, flight)

    def _under_way(self, flight: _Flight | None) -> bool:
        """Whether it may still land. Past its deadline it counts as dead: the process may have been frozen in it."""
        return flight is not None and not flight.landed.is_set() and _since(flight.since) < self._limit + _FLIGHT_GRACE

    def _obtain(self, timeout: float | None = None, refused: Token | None = None) -> Token:
        """Wait for the flight under way, or lead one; again if the first was interrupted, or a failed renewal."""
        end = float("inf") if timeout is None else time.monotonic() + timeout
        for first in (True, False):
            traffic = self._traffic()
            with traffic.lock:
                flight = self._join(traffic, refused)
            if isinstance(flight, Token):
                return flight
            leads = flight.leader == threading.get_ident()
            # In this thread only if the whole of it fits into the caller's time-out, part of which may be over.
            if leads and (timeout is None or (first and timeout >= self._limit)):
                self._lead(traffic, flight)
            else:
                if leads:
                    self._lead_in_thread(traffic, flight)
                left = min(self._limit + _FLIGHT_GRACE - _since(flight.since), end - time.monotonic())
                if not flight.landed.wait(max(0.0, left)):
                    within = f"within {timeout or self._limit:g} s"
                    raise OAuthTransportError(f"no token came {within}; is token_url slow, or a shared cache?")
            token = flight.token or (self._ready() if refused is None else refused if flight.why == "look" else None)
            if token is not None:
                return token
            error = flight.error or OAuthError("the token request was interrupted")
            if flight.error is not None and flight.why != "due":
                break
        raise _copy(error)

    def _join(self, traffic: _Traffic, refused: Token | None) -> Token | _Flight:
        """With the lock held: the token that serves at once, the flight to wait for, or a new one to lead."""
        held, flight = self._held, traffic.flight
        bad = None if refused is None else refused.access_token
        if bad is not None and hash(bad) not in self._refused:
            self._refused.append(hash(bad))
        if held is not None and held.age() != EXPIRED and held.token.access_token != bad:
            return held.token  # getting here means that another thread was faster
        forced, error = traffic.forced, traffic.pause[2] if traffic.pausing() else None
        if bad is None:
            why = "needed" if error is None else "look"
        else:
            vain = forced is not None and _since(forced.since) < _FORCED_EVERY
            if vain and forced is not None and forced.token is not None and forced.token.access_token != bad:
                vain = held is not None and held.borrowed is not None  # else a fleet's fetches would cause more
            why = "look" if vain or traffic.pausing() else "refused"
        if flight is not None and self._under_way(flight):
            if flight.leader == threading.get_ident():
                who = "a secret callable, fetch callable or log handler"
                raise OAuthError(f"{who} must not use the session that it serves: its token is being fetched")
            if why == "look" or flight.why != "look":  # who needs a fetch does not wait for a mere look
                return flight
        flight = _Flight(why, error)
        if why == "look" and self._shared is None:
            flight.landed.set()  # there is nothing to look into
        else:
            flight.leader, traffic.flight = threading.get_ident(), flight
        return flight

    def _lead_in_thread(self, traffic: _Traffic, flight: _Flight) -> None:
        """Lead in a thread that the end of the program does not wait for; in this one, where none can be started."""

        def lead() -> None:
            try:
                self._lead(traffic, flight)
            except Exception as error:
                if flight.why == "due":
                    known = isinstance(error, OAuthError)  # what other code puts into its errors is its own affair
                    _log("warning", "renewal failed, the old token stays in use: %s", error if known else type(error))

        flight.leader = None
        try:
            threading.Thread(target=lead, name="oauth_session token request", daemon=True).start()
        except RuntimeError:  # no more threads, or the interpreter shuts down
            lead()

    def _lead(self, traffic: _Traffic, flight: _Flight) -> None:
        """Look into the shared cache, fetch, and let it land; raise what the fetch raises."""
        held: _Held | None = None
        try:
            flight.leader = threading.get_ident()
            if self._shared is not None:
                held = self._shared.seek(flight, self._borrow, self._limit)
            if held is None and flight.why != "look":
                held = self._fetched(traffic, flight)
            flight.token = None if held is None else held.token
        except Exception as error:
            flight.error = _copy(error)
            raise
        finally:
            late = not self._under_way(flight)
            self._land(traffic, flight, held)  # after a Ctrl-C too, with nothing
            if self._shared is not None:  # behind the landing, so that a slow cache holds up this thread only
                self._shared.leave(flight, None if late else held)

    def _fetched(self, traffic: _Traffic, flight: _Flight) -> _Held:
        flight.since = _now()  # the shared cache may have taken its time
        if flight.why == "refused":
            traffic.forced = flight
        try:
            token = self._fetch()
        except urllib.error.HTTPError as error:  # of a callable's own request: it would be taken for the API's answer
            raise OAuthError(f"what the token depends on got an HTTP status: {error.code}") from error
        if not isinstance(token, Token):
            raise TypeError(f"fetch must return a Token, not {type(token).__name__}")
        held = self._hold(token, flight.since)
        if held.left() <= 0:
            raise OAuthMalformedResponse("the token had expired before it arrived: compare the clocks")
        return held

    def _borrow(self, token: Token, since: Moment) -> _Held | None:
        """A token of the shared cache, if it is newer than all that this process is done with."""
        held = self._hold(token, since)
        held.borrowed = _now()
        object.__setattr__(token, "raw", None)  # of the server's answer no more was stored
        stale = held.age() == EXPIRED or held.obtained <= self._done or hash(token.access_token) in self._refused
        return None if stale else held

    def _hold(self, token: Token, since: Moment) -> _Held:
        held = _Held(token, since, self._refresh_before)
        if self._shared is not None and not self._shared.locks:  # only chance keeps a fleet from fetching all at once
            held.due -= random.uniform(0.0, 0.5) * max(0.0, held.due - held.expired)
        return held

    def _land(self, traffic: _Traffic, flight: _Flight, held: _Held | None) -> None:
        """Keep what came, or see when the next flight may begin; and wake all who wait."""
        if traffic.process != os.getpid():  # the fetch itself forked: the lock is the parent's
            return
        with traffic.lock:
            if traffic.forced is flight and held is None and flight.error is None:
                traffic.forced = None  # interrupted: whoever takes over has not had a try yet
            elif traffic.flight is not flight or traffic is not self._traffic():
                pass  # late, or from before a clear()
            elif held is not None:
                before = self._held
                if before is not None and before.token.access_token == held.token.access_token:
                    held.follow(before)
                if held.borrowed is None:
                    traffic.failures, traffic.pause = 0, _Traffic.pause
                self._held, self._done = held, held.obtained
            elif flight.why == "due" or (flight.why != "look" and flight.error is not None):
                traffic.fail(flight)
            flight.landed.set()


def _copy(error: Exception) -> Any:
    """A twin for each who gets it: an instance that is raised again and again grows its traceback."""
    import copy

    try:
        twin: Any = copy.copy(error)
        twin.__cause__ = error.__cause__
    except Exception:  # of another kind than ours
        twin = OAuthError(f"the token could not be obtained: {type(error).__name__}")
    return twin


# ---- OAuthHandler: which requests get the token, what a 401 does, where redirects may go ---------

_MAX_HOPS = 10  # redirects that one call follows; browsers take 20, urllib 10
_HARMLESS = ("accept", "accept-language", "accept-encoding", "accept-charset", "user-agent")  # may go to any origin


class _RedirectRefused(urllib.error.HTTPError):
    """A redirect that is not followed; its message says why. The verbs raise it, where other statuses are Responses."""


class _Exchange:
    """What one OAuthHandler remembers of a caller's Request and the hops that follow it."""

    sent = ""  # the token that went with the last of them
    start: int | None = None  # where the body's file stood
    hops = 0
    replayed = False

    def __init__(self, origins: Collection[Origin]) -> None:
        self.origins = origins  # that may see the token; none any more once a redirect has left them
        self.tokens: set[str] = set()  # all that were sent, which no text may show


class _Hop(urllib.request.Request):
    """A redirect or a replay after a 401: a Request that continues the exchanges of the one before it."""

    def __init__(self, before: Any, url: str, data: Any, headers: Mapping[str, str], method: str) -> None:
        super().__init__(url, data, dict(headers), before.origin_req_host, True, method)
        self._oauth_exchanges = _exchanges(before)


def _twin(request: Any) -> Any:
    """A copy that may get other headers: the Request belongs to the caller, who may use it elsewhere."""
    twin = object.__new__(type(request))
    vars(twin).update(vars(request))
    return twin


class OAuthHandler(urllib.request.HTTPRedirectHandler):
    """A handler for `urllib.request.build_opener` that authorises requests
    to some origins, and no others.

    source: a TokenSource. origins: URLs, whose scheme, host and port may
        see the token; paths are not compared.
    A request elsewhere passes untouched. A caller's own Authorization
    header is left alone. It replaces urllib's HTTPRedirectHandler, which
    would carry the caller's headers to other hosts.
    """

    handler_order = 600  # after the handlers that may set an Authorization header for the caller

    def __init__(self, source: TokenSource, origins: Any, *, allow_http: bool = False) -> None:
        if not isinstance(source, TokenSource):
            raise TypeError("source must be a TokenSource; of a function that returns a Token: TokenSource(function)")
        if not isinstance(origins, _Origins):  # so they are not a session's
            origins = _check_origins(None, origins, allow_http)
            if not origins:
                raise ValueError("origins must name at least one URL whose origin may see the token")
        self._origins = origins
        self._source = source
        self.follows = True  # whether redirects are this handler's affair
        self.open_ahead: Callable[[Origin, float | None], Callable[[], None]] | None = None

    def add_parent(self, parent: urllib.request.OpenerDirector) -> None:
        """Join an opener, with what keeps a token for loopback from its
        proxy."""
        super().add_parent(parent)
        parent.add_handler(_Direct())

    def http_request(self, request: Any) -> Any:
        """Put the token on the request, if its origin and every one before
        it may see it."""
        exchanges = _exchanges(request)
        exchange = exchanges.get(self)
        if exchange is not None:  # it was opened before, or continues one that was
            if exchange.sent and request.unredirected_hdrs.get("Authorization") == "Bearer " + exchange.sent:
                del request.unredirected_hdrs["Authorization"]
            exchange.sent = ""
        try:
            origin: Any = _parse(request.full_url)[0]
        except ValueError:
            origin = None  # nothing of ours: whatever opens it
        if exchange is None or not isinstance(request, _Hop):
            # Of a redirect that another handler made nobody knows which URL the caller named.
            named = () if origin is None or request.unverifiable else (origin,)
            exchange = exchanges[self] = _Exchange(self._origins or named)
        if origin not in exchange.origins:
            exchange.origins = ()  # once left, the token never comes back
        data = request.data
        if data is not None and exchange.start is None and hasattr(data, "seekable"):
            exchange.start = data.tell() if data.seekable() else None
        if exchange.origins and not request.has_header("Authorization"):
            token = self._source._ready() or self._wait(request, origin)
            exchange.sent = token.access_token
            exchange.tokens.add(exchange.sent)
            unredirected = {**request.unredirected_hdrs, "Authorization": "Bearer " + exchange.sent}
            request = _twin(request)
            request.unredirected_hdrs = unredirected
        return request

    https_request = http_request

    def _wait(self, request: Any, origin: Any) -> Token:
        """Wait for a token. Over a distance, opening the connection meanwhile saves two of six round trips."""
        _prepare(request)  # raises ValueError before a token is fetched in vain
        source, timeout, drop = self._source, _timeout_of(request), None
        away = origin[0] == "https" and not _is_loopback(origin[1]) and source._origin not in (None, origin)
        if self.open_ahead is not None and away and source._held is None:
            drop = self.open_ahead(origin, timeout)
        try:
            return source._obtain(timeout)
        except BaseException:
            if drop is not None:
                drop()
            raise

    def http_error_401(self, request: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """Renew the refused token and send the request again, once.

        Raises OAuthInvalidToken if there is no other token, or the body
        cannot be sent twice, OAuthInsufficientScope if the scope is the
        problem, and the error of the renewal if that fails. A 400 or 403
        with a Bearer challenge is an OAuthBearerError, too.
        """
        exchange = _exchanges(request).get(self)
        if exchange is None or not exchange.sent or (code != 401 and _bearer_challenge(headers) is None):
            return None
        refusal = _refusal(request.full_url, code, msg, headers, fp, exchange.tokens)
        if code != 401 or exchange.replayed or isinstance(refusal, OAuthInsufficientScope):
            raise refusal
        try:
            token = self._source._obtain(_timeout_of(request), Token(exchange.sent))
        except Exception as error:
            raise error from refusal
        if token.access_token == exchange.sent or not _rewind(request.data, exchange.start):
            raise refusal
        exchange.replayed = True
        # Trap: urllib leaves a proxy's address on a Request, and would send the same one through it in plain text.
        twin = _Hop(request, request.full_url, request.data, request.headers, request.get_method())
        twin.unredirected_hdrs.update(request.unredirected_hdrs)
        return self.parent.open(twin, timeout=request.timeout)

    http_error_400 = http_error_403 = http_error_401

    def http_error_302(self, request: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """Follow a redirect where that leaks nothing; else raise HTTPError
        that says why not.

        Within the origin everything goes along. To another origin go only
        Accept* and User-Agent, no body, and the token if that origin is
        named, too.
        """
        location = headers.get("Location")
        if location is None or not self.follows:
            return None
        exchange, method = _exchanges(request)[self], request.get_method()
        to_get = (code == 303 and method != "HEAD") or (code in (301, 302) and method == "POST")
        data = None if to_get else request.data
        try:
            url = urllib.parse.urljoin(request.full_url, urllib.parse.quote(location, _SAFE, "iso-8859-1"))
            here, there = _origin(request.full_url), _origin(url)
            if here[0] == "https" and there[0] == "http":
                raise ValueError("it leads from https to http")
            if exchange.hops >= _MAX_HOPS:
                raise ValueError(f"it is number {_MAX_HOPS + 1} in a row")
            if data is not None and here != there:
                raise ValueError("it would take the body to another origin")
            if not _rewind(data, exchange.start):
                raise ValueError("the body cannot be sent again")
        except ValueError as error:
            message = f"the redirect to {_clean(location, exchange.tokens)!r} was not followed: {error}"
            shown = _clean_headers(headers, exchange.tokens)
            raise _RedirectRefused(request.full_url, code, message, shown, fp) from None
        dropped = ("proxy-authorization", "content-", "transfer-")[: 3 if to_get else 1]
        kept = {
            name: value for name, value in request.headers.items()
            if name.lower() in _HARMLESS or (here == there and not name.lower().startswith(dropped))
        }  # fmt: skip
        exchange.hops += 1
        with fp:
            fp.read(_PIECE)  # so that the connection can be kept
        hop = _Hop(request, url, data, kept, "GET" if to_get else method)
        return self.parent.open(hop, timeout=request.timeout)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302  # type: ignore[assignment]


def _rewind(data: Any, start: int | None) -> bool:
    """Make a body ready to be sent again; False where that is impossible."""
    if data is None or isinstance(data, (bytes, bytearray, memoryview)):
        return True
    try:
        return start is not None and data.seek(start) is not False
    except (OSError, ValueError):
        return False


def _bearer_challenge(headers: Any) -> dict[str, str] | None:
    """The parameters of the `Bearer` challenge (RFC 9110 section 11.6.1), or None. One with an error goes first."""
    # A word is a scheme, or with `=` a parameter of the scheme before it.
    pattern = r'([\w!#$%&\'*+.^`|~-]+)(?:[ \t]*(=)[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*)))?|"(?:[^"\\]|\\.)*"?'
    found: list[dict[str, str]] = []
    for line in headers.get_all("WWW-Authenticate", ()):
        current: dict[str, str] = {}
        for name, equals, quoted, plain in re.findall(pattern, line[:8192], re.ASCII):
            if equals:
                current.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) or plain)
            elif name:
                current = {}
                if name.lower() == "bearer":
                    found.append(current)
    return max(found, key=lambda one: "error" in one, default=None)


def _refusal(url: str, code: int, msg: str, headers: Any, fp: Any, tokens: Collection[str]) -> OAuthBearerError:
    """The exception for an API's answer that refuses our token (RFC 6750 section 3.1)."""
    challenge = {name: _clean(value, tokens) for name, value in (_bearer_challenge(headers) or {}).items()}
    error, reason = challenge.get("error"), _clean(msg, tokens)
    kind, advice = OAuthBearerError, "see its error_description"
    if error == "insufficient_scope" or code == 403:
        kind, advice = OAuthInsufficientScope, "have the scope that it needs granted, and ask for it"
    elif code == 401:
        kind, advice = OAuthInvalidToken, "is this token meant for this API (scope, audience, issuer)?"
    names = [name for name in ("error", "error_description", "scope") if name in challenge]
    said = "".join(f", {name}={challenge[name]!r}" for name in names)
    with fp:
        body = fp.read(_ANSWER_LIMIT)
    return kind(
        f"{_place(url)} refused the token: {code} {reason}{said}; {advice}", error=error, status=code, reason=reason,
        scope=challenge.get("scope"), realm=challenge.get("realm"), url=_clean(url, tokens, len(url)), body=body,
        headers=_clean_headers(headers, tokens),
    )  # fmt: skip


# ---- OAuthSession: the session and its Response --------------------------------------------------

_NOT_GIVEN: Any = type("NotGiven", (), {"__repr__": lambda self: "..."})()  # since None has a meaning
_NOTHING: Any = None  # for type checkers: a class attribute that a subclass may set to anything
_CREDENTIALS = (
    "client_id", "client_secret", "scope", "token_url", "issuer", "auth_method", "client_assertion",
    "assertion_audience", "audience", "resource", "token_params",
)  # fmt: skip
_KEEPING = ("cache", "cache_key", "refresh_before")
_SETTINGS = (
    *_CREDENTIALS, *_KEEPING, "base_url", "headers", "timeout", "context", "handlers", "origins", "allow_http",
    "source",
)  # fmt: skip
_RIVALS = {  # what an argument makes void, in the class or in the environment
    "issuer": ("token_url",), "token_url": ("issuer",), "client_secret": ("client_assertion",),
    "client_assertion": ("client_secret",), "source": (*_CREDENTIALS, *_KEEPING),
}  # fmt: skip
_ELSEWHERE = {  # what people try who come from requests, and what to write here
    "verify": "give OAuthSession(context=ssl.create_default_context(cafile=...))",
    "cert": "give OAuthSession(context=...) an ssl.SSLContext with load_cert_chain()",
    "proxies": "set HTTPS_PROXY, or give OAuthSession(handlers=[urllib.request.ProxyHandler({...})])",
    "stream": "use session.open(url), which never reads ahead",
    "allow_redirects": "give OAuthSession(handlers=[...]) an HTTPRedirectHandler whose redirect_request returns None",
    "auth": "the session adds its token; an Authorization header of yours goes before it",
    "cookies": "give OAuthSession(handlers=[urllib.request.HTTPCookieProcessor()])",
    "files": "give the multipart body as data=, and its Content-Type in headers=",
}


def _refuse(unknown: Mapping[str, object], what: str) -> None:
    import difflib

    for name in unknown:
        meant = difflib.get_close_matches(name, (*_SETTINGS, "params", "data", "json"), 1)
        hint = f"did you mean {meant[0]}?" if meant else "see its help()"
        raise TypeError(f"{what} has no argument {name!r}; {_ELSEWHERE.get(name, hint)}")


class Response:
    """What an API answered, read to its end; the verbs of OAuthSession
    return it at any HTTP status.

    status, reason, url (after redirects), headers (case-insensitive),
    content (bytes, gzip undone).
    """

    def __init__(self, answer: Any, decode: bool) -> None:
        self.status: int = answer.code
        self.reason: str = answer.reason
        self.url: str = answer.url
        self.headers: http.client.HTTPMessage = answer.headers
        self.content = _read_all(answer, decode=decode)
        self._refusal = answer if isinstance(answer, OAuthBearerError) else None

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.reason}>"

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
        """The body as text, by the charset of its Content-Type, else
        UTF-8; what does not decode is replaced."""
        found = re.search(r'charset="?([\w.:-]{1,40})', self.headers.get("Content-Type", "")[:500], re.ASCII | re.I)
        try:
            # Trap: these raise, take hours, or read escapes.
            if found and not re.search("idna|punycode|undefined|escape", found[1], re.I):
                return self.content.decode(found[1], "replace")
        except (LookupError, ValueError):
            pass
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body parsed as JSON; ValueError, with status and content
        type, if it is something else."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            # Nothing but what media types look like: a server may echo the token there.
            kind = re.match(r"[a-z]+/[a-z.+-]{1,40}(?![^\s;])", self.headers.get("Content-Type", ""))
            what = f"{len(self.content)} bytes {kind[0] if kind else 'of no usual Content-Type'}"
            raise ValueError(f"not JSON but {what}, status {self.status}, {_place(self.url)}") from None

    def raise_for_status(self) -> Response:
        """Return the response itself below 400; else raise
        OAuthBearerError if the token was refused, or HTTPError."""
        if self.ok:
            return self
        if self._refusal is None:
            body = io.BytesIO(self.content)
            error: Any = urllib.error.HTTPError(self.url, self.status, self.reason, self.headers, body)
        else:
            make, message = self._refusal.__reduce__()
            error = make(*message, body=self.content)
        error.response = self
        raise error


class OAuthSession:
    """An API client that is always authorised by OAuth 2.0 client
    credentials (RFC 6749 section 4.4).

    client_id, client_secret: from the authorisation server; the secret may
        be a callable, called for each fetch.
    scope: a text, or an iterable of texts. token_url: the token endpoint.
        issuer: instead of token_url, a URL whose metadata name it (RFC
        8414, or OpenID Connect discovery).
    base_url: what a URL that is not absolute is appended to. origins:
        URLs; with base_url they say which scheme, host and port may see
        the token, and any other URL is a ValueError. Without both, the
        token goes to the origin of each URL that you name.
    auth_method: how the client proves itself: client_secret_basic,
        client_secret_post, client_secret_basic_raw (not percent-encoded),
        client_secret_jwt, private_key_jwt (RFC 7523), tls_client_auth (RFC
        8705) or none. Default: what the issuer lists; else Basic and, if
        the server refuses the client, in the body.
    client_assertion: a JWT that proves it, in place of a secret, or better
        a callable that returns a new one, called for each token request.
        assertion_audience: `aud` for client_secret_jwt; default: issuer,
        else token_url.
    audience, resource (RFC 8707): one or several. token_params: further
        form fields of the token request.
    headers: for each call; may be changed. timeout: seconds for each
        network step of a call, and for a whole token fetch; default 30;
        may be changed. context: an ssl.SSLContext. handlers: urllib
        handlers for the opener.
    cache, cache_key, refresh_before: as for TokenSource; the first is a
        directory, or redis.Redis() and the like.
    allow_http: True lifts the rule that only loopback is called without
        TLS. source: a TokenSource, in place of credentials and cache.

    Each is also an attribute that a subclass may set: `class
    AcmeSession(OAuthSession): token_url = "..."`. None as an argument
    undoes what the class sets. No I/O before the first call. ValueError or
    TypeError for a wrong argument. Threads may share it.
    """

    client_id = client_secret = scope = token_url = issuer = auth_method = client_assertion = _NOTHING
    assertion_audience = audience = resource = token_params = _NOTHING
    base_url = context = handlers = cache = cache_key = origins = source = _NOTHING
    headers: Any = None
    timeout: Any = 30.0
    refresh_before: Any = 300.0
    allow_http: Any = False

    def __init__(
        self, client_id: str | None = _NOT_GIVEN, client_secret: str | Callable[[], str] | None = _NOT_GIVEN,
        scope: str | Iterable[str] | None = _NOT_GIVEN, token_url: str | None = _NOT_GIVEN, *,
        issuer: str | None = _NOT_GIVEN, base_url: str | None = _NOT_GIVEN, auth_method: str | None = _NOT_GIVEN,
        client_assertion: str | Callable[[], str] | None = _NOT_GIVEN, assertion_audience: str | None = _NOT_GIVEN,
        audience: str | Iterable[str] | None = _NOT_GIVEN, resource: str | Iterable[str] | None = _NOT_GIVEN,
        token_params: Mapping[str, Any] | None = _NOT_GIVEN, headers: Mapping[str, str] | None = _NOT_GIVEN,
        timeout: float | None = _NOT_GIVEN, context: ssl.SSLContext | None = _NOT_GIVEN,
        handlers: Iterable[Any] | None = _NOT_GIVEN, cache: Any = _NOT_GIVEN, cache_key: str | None = _NOT_GIVEN,
        refresh_before: float = _NOT_GIVEN, origins: str | Iterable[str] | None = _NOT_GIVEN,
        allow_http: bool = _NOT_GIVEN, source: TokenSource | None = _NOT_GIVEN, **unknown: NoReturn,
    ) -> None:  # fmt: skip
        given = {name: value for name, value in locals().items() if value is not _NOT_GIVEN and name in _SETTINGS}
        if unknown:
            _refuse(unknown, "OAuthSession")
        setting = self._settle(given)
        hidden = "client_secret", "client_assertion"
        vars(self).update({name: value for name, value in setting.items() if name not in hidden})
        self._origins = _check_origins(setting["base_url"], setting["origins"], self.allow_http)
        self._handlers = _check_handlers(setting["handlers"] or ())
        self._pool = _Pool(setting["context"])
        if setting["source"] is None:
            self._credentials = ClientCredentials(
                **{name: setting[name] for name in _CREDENTIALS},
                allow_http=self.allow_http,
                handlers=self._handlers,
                pool=self._pool,
            )
            vars(self)["source"] = TokenSource(self._credentials, **{name: setting[name] for name in _KEEPING})
        self.headers: dict[str, str] = setting["headers"]
        self.timeout: float | None = setting["timeout"]
        self.opener = self._make_opener()

    def _settle(self, given: dict[str, Any]) -> dict[str, Any]:
        """What counts: the arguments, then the class; an argument silences its rival in the class."""
        setting = {name: given.get(name, getattr(self, name)) for name in _SETTINGS}
        named = [name for name, value in given.items() if value is not None]
        for name in named:
            if name in _RIVALS["source"]:
                if "source" in named:
                    raise ValueError(f"{name} and source contradict each other: source says how a token is obtained")
                setting["source"] = None
            setting.update({rival: None for rival in _RIVALS.get(name, ()) if rival not in given})
        method = given.get("auth_method")
        for name in ("client_secret", "client_assertion"):
            if method and method not in _PROVED_BY[name] and name not in given:
                setting[name] = None
            if name in named and not method and setting["auth_method"] not in _PROVED_BY[name]:
                setting["auth_method"] = None
        return setting

    @classmethod
    def from_env(
        cls, prefix: str = "OAUTH_", environ: Mapping[str, str] | None = None, **settings: Any
    ) -> OAuthSession:
        """Make a session of OAUTH_TOKEN_URL or OAUTH_ISSUER,
        OAUTH_CLIENT_ID, OAUTH_CLIENT_SECRET or, read for each fetch,
        OAUTH_CLIENT_SECRET_FILE or OAUTH_ASSERTION_FILE, OAUTH_SCOPE,
        OAUTH_AUDIENCE, OAUTH_RESOURCE (separated by spaces),
        OAUTH_AUTH_METHOD, OAUTH_BASE_URL and OAUTH_CACHE. An empty one
        counts as unset.

        prefix: instead of OAUTH_. environ: default os.environ. settings:
            further arguments, which go before them.
        Raises ValueError that names the variable.
        """
        environ = os.environ if environ is None else environ
        names = [one for one in (*_CREDENTIALS, "base_url", "cache") if not re.search("assertion|params", one)]
        # The environment is only asked for what the caller left open.
        closed = {*settings}.union(*(_RIVALS.get(name, ()) for name, value in settings.items() if value is not None))
        found: dict[str, Any] = {
            name: environ[prefix + name.upper()]
            for name in names
            if name not in closed and environ.get(prefix + name.upper())
        }
        if "resource" in found:
            found["resource"] = found["resource"].split()
        secret = "CLIENT_SECRET" if "client_secret" in found else ""
        for variable, name in (("CLIENT_SECRET_FILE", "client_secret"), ("ASSERTION_FILE", "client_assertion")):
            path = environ.get(prefix + variable)
            if path and name not in closed:
                if secret:
                    raise ValueError(f"{prefix}{secret} and {prefix}{variable} are both set: unset one")
                found[name], secret = _file_reader(prefix + variable, path), variable
        try:
            return cls(**found, **settings)
        except ValueError as error:
            name = str(error).split()[0]
            if name in settings or name not in names:
                raise
            raise ValueError(f"{prefix}{name.upper()}: {error}") from None

    def __setattr__(self, name: str, value: object) -> None:
        if name in _SETTINGS and name not in ("headers", "timeout"):
            raise AttributeError(f"{name} is fixed once a session is made: make another OAuthSession")
        if name == "headers":
            value = dict(_header_items(value))
            _check_head("GET", value.items())
            if "_credentials" in vars(self):
                self._credentials._headers = value  # the token endpoint gets its User-Agent
        if name == "timeout":
            value = _check_timeout(value)
            if "_credentials" in vars(self):
                self._credentials.timeout = 30.0 if value is None else value
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.source!r}>"

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
        """The current token's text; like `source.token()`, this may fetch
        one, and raise OAuthError."""
        return str(self.source.token().access_token)

    def get(self, url: str, params: Any = None, **options: Any) -> Response:
        """Send GET; see `request`."""
        return self.request("GET", url, params=params, **options)

    def delete(self, url: str, params: Any = None, **options: Any) -> Response:
        """Send DELETE; see `request`."""
        return self.request("DELETE", url, params=params, **options)

    def head(self, url: str, params: Any = None, **options: Any) -> Response:
        """Send HEAD; see `request`."""
        return self.request("HEAD", url, params=params, **options)

    def options(self, url: str, params: Any = None, **options: Any) -> Response:
        """Send OPTIONS; see `request`."""
        return self.request("OPTIONS", url, params=params, **options)

    def post(self, url: str, data: Any = None, **options: Any) -> Response:
        """Send POST; see `request`."""
        return self.request("POST", url, data=data, **options)

    def put(self, url: str, data: Any = None, **options: Any) -> Response:
        """Send PUT; see `request`."""
        return self.request("PUT", url, data=data, **options)

    def patch(self, url: str, data: Any = None, **options: Any) -> Response:
        """Send PATCH; see `request`."""
        return self.request("PATCH", url, data=data, **options)

    def request(
        self, method: str, url: str, *, params: Any = None, data: Any = None, json: Any = None,
        headers: Mapping[str, Any] | None = None, timeout: float | None = _NOT_GIVEN, **unknown: NoReturn,
    ) -> Response:  # fmt: skip
        """Send a request with the token and return its Response, whatever
        the HTTP status.

        url: absolute, or what follows base_url. params: pairs for the
            query; a list is repeated, None left out.
        data: bytes, text (as UTF-8), pairs (as a form), a binary file, or
            an iterable of bytes. json: any JSON value.
        headers: for this call; None takes one of the session's away.
        timeout: seconds for each network step and for the wait for a
            token; default: the session's; None: no limit.
        Raises OAuthError where no token can be had, URLError where the API
        gives no answer, HTTPError for a redirect that is not followed,
        ValueError or TypeError before anything is sent.
        """
        if unknown:
            _refuse(unknown, f"{method}()".lower())
        body, content_type = _encode_body(data, json)
        # A copy of a Request that was taken apart and checked before: that would be half of the work of a call.
        request = object.__new__(urllib.request.Request)
        vars(request).update(self._absolute(url, params)[1])
        request.headers, request.unredirected_hdrs, request.method = {}, {}, method
        if body is not None:
            request.data = body
        self._dress(request, headers, content_type)
        packed = not ("Accept-encoding" in request.headers or "Range" in request.headers)
        if packed:
            request.headers["Accept-encoding"] = "gzip"
        try:
            answer = self.opener.open(request, timeout=timeout)
        except _RedirectRefused:
            raise
        except urllib.error.HTTPError as error:
            answer = error
        try:
            return Response(answer, packed)
        except BaseException:
            answer.close()
            raise

    def open(
        self, request: str | urllib.request.Request, data: Any = None, timeout: float | None = _NOT_GIVEN
    ) -> http.client.HTTPResponse:
        """Open a URL or Request with the token, as
        `urllib.request.urlopen` does; the caller reads, and closes.

        data: bytes, a binary file or an iterable of bytes. timeout:
            seconds, as for `request`.
        Raises HTTPError unless the status is 2xx, and what `request`
        raises.
        """
        if isinstance(request, urllib.request.Request):
            twin = _twin(request)
            twin.headers, twin.unredirected_hdrs = dict(request.headers), dict(request.unredirected_hdrs)
            url, _ = self._absolute(twin.full_url)
            if url != twin.full_url:
                twin.full_url = url
        else:
            twin = urllib.request.Request(self._absolute(request)[0])
        self._dress(twin)
        answer: http.client.HTTPResponse = self.opener.open(twin, data, timeout)
        return answer

    def install(self) -> None:
        """Let every `urllib.request.urlopen` of this process use the
        session, where base_url or origins say so.

        Other URLs get no token, and `file:`, `ftp:` and `data:` work, too.
        Calls without a time-out get the session's, but not its headers.
        """
        if not self._origins:
            raise ValueError("base_url or origins is needed for install(): other requests must not get the token")
        extra = (urllib.request.FileHandler, urllib.request.FTPHandler, urllib.request.DataHandler)
        urllib.request.install_opener(self._make_opener(*extra))

    def _absolute(self, url: Any, params: Any = None) -> tuple[str, Any]:
        if not isinstance(url, str):
            _check_url("url", url, True)
        return _absolute(_add_params(url, params) if params else url, self.base_url, self.allow_http, self._origins)

    def _dress(self, request: urllib.request.Request, headers: Any = None, content_type: str | None = None) -> None:
        """Put on the headers of the call, then the session's, then ours, where there is none."""
        if self.headers or headers or content_type:
            every = [*self.headers.items(), *_header_items(headers)]
            _check_head("GET", every)
            wanted = {name.lower(): value for name, value in every}
            if content_type:
                wanted.setdefault("content-type", content_type)
            for name, value in wanted.items():
                if value is not None and not request.has_header(name.capitalize()):
                    request.add_header(name, value if isinstance(value, str) else str(value))

    def _make_opener(self, *extra: Any) -> urllib.request.OpenerDirector:
        theirs = [_own(one) for one in self._handlers]
        kinds = (
            urllib.request.ProxyHandler, urllib.request.UnknownHandler, urllib.request.HTTPDefaultErrorHandler,
            urllib.request.HTTPErrorProcessor, *extra,
        )  # fmt: skip
        ours = [kind() for kind in kinds if not any(isinstance(one, kind) for one in theirs)]
        if not any(isinstance(one, urllib.request.HTTPHandler) for one in theirs):
            ours.append(_HTTPHandler(self._pool))
        auth = OAuthHandler(self.source, self._origins)
        auth.follows = not any(isinstance(one, urllib.request.HTTPRedirectHandler) for one in theirs)
        if not any("https" in getattr(one, "proxies", ()) for one in (*theirs, *ours)):
            auth.open_ahead = self._pool.open_ahead
        opener = _Opener(self)
        for handler in (*theirs, *ours, _HTTPSHandler(self._pool), auth):
            opener.add_handler(handler)
        return opener


@functools.lru_cache(maxsize=256)  # a session calls the same URLs again and again
def _absolute(url: str, base_url: str | None, allow_http: bool, origins: frozenset[Origin]) -> tuple[str, Any]:
    """The URL to call, complete, encoded and inside the origins, and the attributes of a Request for it."""
    scheme, separator, _ = url.partition("://")
    if not (separator and scheme.replace("+", "").replace("-", "").isalnum()):
        if url[:2] == "//" or not base_url:
            raise ValueError("url must be absolute (https://host/path), or a path below the session's base_url")
        url = base_url.rstrip("/") + ("" if url[:1] in ("", "?", "#") else "/") + url.lstrip("/")
    url = _check_url("url", url, allow_http)
    origin = _origin(url)
    if origins and origin not in origins:
        raise ValueError(f"url leads to {_place(url)}, outside this session's origins: name it in origins=")
    return url, vars(urllib.request.Request(url, origin_req_host=origin[1]))


class _Opener(urllib.request.OpenerDirector):
    """Gives a call without a time-out the session's: urllib's own default is to wait for ever."""

    def __init__(self, session: OAuthSession) -> None:
        super().__init__()
        self.addheaders = [("User-agent", _USER_AGENT)]
        self._session = session

    def open(self, fullurl: Any, data: Any = None, timeout: Any = _DEFAULT_TIMEOUT) -> Any:
        missing = timeout is _NOT_GIVEN or timeout is _DEFAULT_TIMEOUT
        return super().open(fullurl, data, self._session.timeout if missing else _check_timeout(timeout))


def _header_items(headers: Any) -> Iterable[tuple[str, Any]]:
    if headers and not hasattr(headers, "items"):
        raise TypeError(f"headers must be a dict of names and values, not {type(headers).__name__}")
    return headers.items() if headers else ()


def _check_handlers(handlers: Iterable[Any]) -> list[Any]:
    handlers = list(handlers)
    for kind in (one if isinstance(one, type) else type(one) for one in handlers):
        if issubclass(kind, urllib.request.HTTPSHandler):
            raise ValueError("handlers cannot hold an HTTPSHandler: give an ssl.SSLContext as context=")
        if not issubclass(kind, urllib.request.BaseHandler):
            raise TypeError(f"handlers must be urllib.request handlers, instances or classes, not {kind.__name__}")
    return handlers


def _file_reader(variable: str, path: str) -> Callable[[], str]:
    """What reads a secret's file, each time anew: a mounted secret is rotated in place."""
    if not os.access(path, os.R_OK):
        raise ValueError(f"{variable} names {path!r}, which cannot be read")

    def read() -> str:
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeError) as error:
            raise OAuthError(f"{variable}: cannot read {path!r}: {type(error).__name__}") from None
        return text[:-1] if text.endswith("\n") else text

    return read


def _form(pairs: Any) -> str:
    """Pairs as application/x-www-form-urlencoded; a list is repeated, None left out."""
    pairs = pairs.items() if hasattr(pairs, "items") else pairs
    pairs = list(pairs) if hasattr(pairs, "__iter__") else [pairs]
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise TypeError("params and data must be a dict, or pairs of names and values; is it meant as json=?")
    return urllib.parse.urlencode([(name, value) for name, value in pairs if value is not None], doseq=True)


def _add_params(url: str, params: Any) -> str:
    query = params.replace("#", "%23") if isinstance(params, str) else _form(params)
    url, mark, fragment = url.partition("#")
    return url + ("&" if "?" in url else "?") + query + mark + fragment


def _encode_body(data: Any, obj: Any) -> tuple[Any, str | None]:
    """The body for urllib, and its Content-Type if the caller names none."""
    if obj is not None:
        if data is not None:
            raise ValueError("data and json contradict each other: leave one of them out")
        try:
            return json.dumps(obj, allow_nan=False).encode(), "application/json"
        except RecursionError:
            raise ValueError("json is nested too deeply") from None
    if data is None:
        return None, None
    if isinstance(data, str):
        return data.encode(), "text/plain; charset=utf-8"
    pairs = isinstance(data, (list, tuple)) and not any(isinstance(one, (bytes, bytearray, memoryview)) for one in data)
    if pairs or hasattr(data, "items"):
        return _form(data).encode(), "application/x-www-form-urlencoded"
    if isinstance(data, io.TextIOBase) or not (hasattr(data, "read") or hasattr(data, "__iter__")):
        kind = type(data).__name__
        raise TypeError(f"data must be bytes, str, pairs, a binary file or an iterable of bytes, not {kind}")
    return bytes(data) if isinstance(data, (bytearray, memoryview)) else data, "application/octet-stream"


# ---- DemoServer: an authorisation server and an API on loopback ----------------------------------

class DemoServer:
    """An authorisation server and an API on a free loopback port, for
    trying out and for tests: `with DemoServer()`.

    expires_in: seconds that its tokens live, default 3600; may be changed.
        url: the API, which answers any path, if there is a token, with
        JSON that says what it saw. token_url, client_id, client_secret:
        for OAuthSession; the scopes are `read` and `write`.
        token_requests: how many came so far.
    """

    client_id = "demo-client"
    client_secret = "demo secret: 100% ok?"  # with characters that must be encoded

    def __init__(self, expires_in: float | None = 3600) -> None:
        self.expires_in = expires_in
        self.token_requests = 0
        self.tell: Callable[[str], object] = lambda line: None  # gets a line for each request
        self._lock = threading.Lock()  # guards token_requests
        self._tokens: dict[str, tuple[float, str]] = {}
        self._failing: int | None = None

    def __enter__(self) -> DemoServer:
        self._server = _make_server(self)
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
        """Let the token endpoint answer this HTTP status from now on;
        None: work again."""
        self._failing = status

    def _issue(self, form: dict[str, str], proof: str) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.token_requests += 1
        pair = [form.get("client_id", ""), form.get("client_secret", "")]
        if proof[:6] == "Basic ":
            text = base64.b64decode(proof[6:] + "==").decode("utf-8", "replace")
            pair = [urllib.parse.unquote_plus(part) for part in text.split(":")]
        scope = form.get("scope", "read")
        if self._failing is not None:
            return self._failing, {}
        if pair != [self.client_id, self.client_secret]:
            return 401, {"error": "invalid_client", "error_description": "unknown client, or wrong secret"}
        if form.get("grant_type") != "client_credentials":
            return 400, {"error": "unsupported_grant_type"}
        if set(scope.split()) - {"read", "write"}:
            return 400, {"error": "invalid_scope", "error_description": "the scopes here are read and write"}
        token = "demo-" + base64.urlsafe_b64encode(os.urandom(24)).decode()
        self._tokens[token] = time.monotonic() + (self.expires_in or 3600), scope
        life = {} if self.expires_in is None else {"expires_in": self.expires_in}
        return 200, {"access_token": token, "token_type": "Bearer", "scope": scope, **life}

    def _serve(self, method: str, path: str, proof: str, body: str) -> tuple[int, dict[str, Any]]:
        if (method, path) == ("POST", "/oauth/token"):
            form = dict(urllib.parse.parse_qsl(body))
            status, answer = self._issue(form, proof)
            seen = f"scope={form.get('scope', '')}"
        else:
            until, scope = self._tokens.get(proof[7:], (0.0, ""))
            status, answer = 401, {"error": "invalid_token"}
            if time.monotonic() < until:
                status, answer = 200, {"method": method, "path": path, "scope": scope, "body": body}
            seen = f"{'with' if proof else 'without'} a token"
        self.tell(f"{method} {path} ({seen}) -> {status} {answer.get('error', '')}".rstrip())
        return status, answer


def _make_server(demo: DemoServer) -> Any:
    import http.server

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            while "Transfer-Encoding" in self.headers:
                size = int(self.rfile.readline(), 16)
                body += self.rfile.read(size)
                self.rfile.readline()
                if size == 0:
                    break
            proof = self.headers.get("Authorization", "")
            status, answer = demo._serve(self.command, self.path, proof, body.decode("utf-8", "replace"))
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if status == 401:
                bearer = 'Bearer realm="demo"' + (', error="invalid_token"' if proof else "")
                self.send_header("WWW-Authenticate", 'Basic realm="demo"' if self.path == "/oauth/token" else bearer)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = answer

        def log_message(self, *_: Any) -> None:
            """Print nothing: `tell` does."""

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128

        def handle_error(self, *_: Any) -> None:
            """Print nothing: a client that hangs up is no fault of anybody."""

    return Server(("127.0.0.1", 0), Handler)


# ---- Command line --------------------------------------------------------------------------------

def _demo() -> int:
    """Show what a session does, against a server of our own."""
    start = time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - start:5.2f} s  {line}", flush=True)

    def call(title: str) -> None:
        tell(title)
        tell(f"     session.get('/me') -> {session.get('/me').status}")

    with DemoServer() as server:
        server.tell = lambda line: tell("     on the wire: " + line)
        session = OAuthSession(server.client_id, server.client_secret, "read", server.token_url, base_url=server.url)
        tell(f"A DemoServer listens on {server.url}. Secrets and tokens are not shown.")
        call("1. The first call fetches a token:")
        call("2. The second call uses the same one:")
        tell("3. A token that is due after one second")
        server.expires_in = 2
        session.source.clear()
        before = session.access_token
        server.expires_in = 3600
        time.sleep(1.1)
        call("   is then used once more, while a thread renews it in the background:")
        for _ in range(200):  # ten seconds at the most
            if session.access_token != before:
                tell("     the session has another token now")
                break
            time.sleep(0.05)
        server.revoke()
        call("4. A revoked token is replaced after one 401, and the call is sent again:")
        for title, secret, scope in (
            ("5. A wrong secret, tried in both places where servers look for it:", "not-the-secret", "read"),
            ("6. A scope that the server does not know:", server.client_secret, "everything"),
        ):
            tell(title)
            try:
                OAuthSession(server.client_id, secret, scope, server.token_url).get(server.url)
            except OAuthResponseError as error:
                tell(f"     {type(error).__name__}: {error}")
        tell(f"Done: {server.token_requests} token requests in all.")
    return 0


def _parser() -> Any:
    import argparse

    parser = argparse.ArgumentParser(
        prog="oauth_session.py",
        description="Call an API with an OAuth 2.0 token, obtained by the client credentials grant.",
        epilog="What no flag says comes from OAUTH_CLIENT_ID, OAUTH_CLIENT_SECRET or OAUTH_CLIENT_SECRET_FILE, "
        "OAUTH_ASSERTION_FILE, OAUTH_SCOPE, OAUTH_TOKEN_URL or OAUTH_ISSUER, OAUTH_AUDIENCE, OAUTH_RESOURCE, "
        "OAUTH_AUTH_METHOD, OAUTH_BASE_URL, OAUTH_CACHE. The secret "
        "has no flag, since others could see it in the list of processes. Exit status: 0; 1: no token or no answer; "
        "2: wrong settings; 22: a status of 400 or more with --fail.",
    )
    add = parser.add_argument
    add("url", nargs="?", metavar="URL", help="what to call; the body of the answer is printed")
    add("--demo", action="store_true", help="show how it works, with a server of its own; needs nothing else")
    add("--check", action="store_true", help="try each step, from the settings to the call of URL, and tell what fails")
    add("--token", action="store_true", help="print the access token, and nothing else")
    add("-X", "--request", metavar="METHOD", help="HTTP method; default GET, with -d POST")
    add("-d", "--data", help="body, sent as a form unless -H says otherwise; @FILE: of a file, @-: of standard input")
    add("-H", "--header", metavar="'NAME: VALUE'", action="append", default=[], help="a header; may be repeated")
    add("-i", "--include", action="store_true", help="print status and headers too")
    add("-f", "--fail", action="store_true", help="print no body at a status of 400 or more, and exit with 22")
    add("--client-secret-file", metavar="FILE", help="file that holds the secret; -: standard input")
    for name in ("client-id", "scope", "token-url", "issuer", "audience", "auth-method", "base-url"):
        add("--" + name, metavar=name.rpartition("-")[2].upper())
    add("--resource", metavar="URI", action="append")
    add("--cache", metavar="DIRECTORY", help="share the token with other runs through files there")
    add("--timeout", metavar="SECONDS", type=float, help="default 30")
    add("--version", action="version", version=f"oauth_session {__version__}")
    return parser


def _session_of(options: Any) -> OAuthSession:
    settings = {name: value for name, value in vars(options).items() if name in _SETTINGS and value is not None}
    if options.client_secret_file == "-":
        settings["client_secret"] = sys.stdin.readline().rstrip("\n")
    elif options.client_secret_file:
        settings["client_secret"] = _file_reader("--client-secret-file", options.client_secret_file)
    try:
        return OAuthSession.from_env(**settings)
    except ValueError as error:
        name = str(error).split()[0]
        raise ValueError(f"--{name.replace('_', '-')}: {error}" if name in settings else str(error)) from None


class _Check:
    """Each step of a call by itself, a line a step, for a person who looks for what is wrong."""

    def __init__(self, session: OAuthSession) -> None:
        self.session, self.credentials = session, session._credentials
        self.by = 0.0  # monotonic time at which a step must have ended

    def run(self, options: Any) -> int:
        _print_settings(options)
        well = self.reach(self.credentials.issuer or self.credentials.token_url) and self.tokens()
        if well and options.url:
            well = self.step("API", self.call, options.url)
        print("All is well." if well else "Something is wrong: see the lines that begin with NO.")
        return 0 if well else 1

    def tokens(self) -> bool:
        """Discovery, where there is an issuer, and a token by each method: one that works is enough."""
        credentials, url = self.credentials, self.credentials.token_url
        if url is None:
            if not self.step("discovery", self.discover):
                return False
            url = credentials._metadata["token_endpoint"]
            if _origin(url) != credentials.origin and not self.reach(url):
                return False
        right = self.step("clock", self.clock, url)
        named = credentials.auth_method or credentials._listed_method()
        if named is not None:
            return self.step(f"token by {named}", self.fetch, named) and right
        basic, post, raw = _PROVED_BY["client_secret"][:3]
        works = [method for method in (basic, post, raw) if self.step(f"token by {method}", self.fetch, method)]
        if works == [raw]:  # the others are found without being named
            print(f"NO    auth_method: give {raw!r}")
        return right and works not in ([], [raw])

    def step(self, name: str, action: Callable[..., str], *arguments: Any) -> bool:
        self.by = time.monotonic() + self.credentials.timeout
        try:
            print(f"ok    {name}: {action(*arguments)}", flush=True)
            return True
        except (OSError, ValueError, TypeError, LookupError) as error:
            print(f"NO    {name}: {' '.join(str(error).split())}", flush=True)
            return False

    def reach(self, url: Any) -> bool:
        scheme, host, port = _origin(url)
        proxy = urllib.request.getproxies().get(scheme)
        if proxy and not (scheme == "http" and _is_loopback(host)) and not urllib.request.proxy_bypass(host):
            print(f"      {host} is reached through the proxy {proxy.rpartition('@')[2]}")
            return True
        well = self.step(f"DNS {host}", self.look_up, host, port) and self.step(f"TCP {host}", self.connect, host, port)
        return well and (scheme == "http" or self.step(f"TLS {host}", self.secure, url))

    def look_up(self, host: str, port: int) -> str:
        return ", ".join(sorted({str(one[4][0]) for one in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)}))

    def connect(self, host: str, port: int) -> str:
        _open_socket(host, port, self.by).close()
        return f"port {port} is open"

    def secure(self, url: str) -> str:
        key: Key = (os.getpid(), _origin(url), None, None)
        self.session._pool.give(key, self.session._pool._connect(key, self.by))
        return "the certificate is for this host, and trusted"

    def discover(self) -> str:
        self.credentials._discover(self.by)
        return f"the token endpoint is {self.credentials._metadata['token_endpoint']}"

    def clock(self, url: str) -> str:
        date = self.credentials._send(url, None, {}, self.by, ())[0].headers["Date"]
        skew = _date(date) - time.time() if date else 0.0
        if abs(skew) > _CLOCK_SKEW:
            raise ValueError(f"it is {abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} the server's: set it")
        return "as the server's, within a minute" if date else "the server does not tell the time"

    def fetch(self, method: str) -> str:
        token = self.credentials._request(method, self.credentials._current_secret(), self.by)
        self.session.source._fetch = lambda: token  # for the call: an assertion may be good for one token only
        life = "of unknown life" if token.expires_at is None else f"for {token.expires_at - time.time():.0f} s"
        return f"a token {life}, scope {token.scope and _clean(token.scope, [token.access_token])!r}"

    def call(self, url: str) -> str:
        return f"{url} answered {self.session.get(url).raise_for_status().status}"


def _print_settings(options: Any) -> None:
    """Print what command line and environment set, and where each was found; of a secret, only where."""
    unread = "client_assertion", "assertion_audience", "token_params"
    for name in (*_CREDENTIALS, "client_secret_file", "assertion_file", "base_url", "cache"):
        flag, variable = getattr(options, name, None), "OAUTH_" + name.upper()
        value, where = (os.environ.get(variable), variable) if flag is None else (flag, "--" + name.replace("_", "-"))
        if value and name not in unread:
            print(f"      {name}:{'' if name == 'client_secret' else f' {value}'} (from {where})")


def _call(options: Any, session: OAuthSession) -> int:
    """Call the URL and print what it answers, as curl does."""
    body, headers = None, {}
    if options.data is not None:
        body, headers["content-type"] = options.data.encode(), "application/x-www-form-urlencoded"
        if options.data[:1] == "@":
            try:
                with open(options.data[1:] if options.data != "@-" else 0, "rb") as file:
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
    failed, out = options.fail and not response.ok, sys.stdout.buffer
    if options.include:
        lines = [f"HTTP/1.1 {response.status} {response.reason}", *(f"{k}: {v}" for k, v in response.headers.items())]
        out.write(("\r\n".join(lines) + "\r\n\r\n").encode("iso-8859-1", "replace"))
    out.write(b"" if failed else response.content)
    out.flush()
    if failed:
        print(f"oauth_session: {_place(response.url)} answered {response.status} {response.reason}", file=sys.stderr)
    return 22 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (`--help` tells how) and return its exit
    status. Errors are one line on standard error.

    arguments: default sys.argv[1:].
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if not (options.demo or options.check or options.token or options.url):
        parser.error("what shall it do? Give a URL, --token, --check or --demo")
    try:
        if options.demo:
            return _demo()
        with _session_of(options) as session:
            if options.check:
                return _Check(session).run(options)
            if not options.token:
                return _call(options, session)
            print(session.access_token)
            return 0
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        return 130
    except (ValueError, TypeError, OSError) as error:
        print(f"oauth_session: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, OSError) else 2


if __name__ == "__main__":
    sys.exit(main())

# MIT License
#
# Copyright (c) 2026 The oauth_session authors
#
# Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
# documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
# rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
# persons to whom the Software is furnished to do so, subject to the following conditions:
#
# The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
# Software.
#
# THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
# WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
# COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
# OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
