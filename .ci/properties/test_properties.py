# SPDX-FileCopyrightText: 2026 The oauth_session authors
# SPDX-License-Identifier: MIT
"""What holds whatever a server answers or a caller gives, tried with hypothesis over real sockets on loopback.

python3 -m pytest .ci/properties                            the same examples each time
PROPERTY_EXAMPLES=5000 python3 -m pytest .ci/properties     a search among others, so many for each property
"""
from __future__ import annotations

import base64
import collections
import contextlib
import gzip
import html
import io
import itertools
import json
import logging
import os
import pickle
import random
import re
import socket
import ssl
import sys
import tempfile
import threading
import time
import traceback
import types
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import parse_qsl, quote, quote_plus, unquote

# Before the import: hypothesis keeps its Unicode tables in a folder, which would be `.hypothesis` in the repository.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "hypothesis"))
sys.path.insert(0, str(Path(__file__).absolute().parents[2]))

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

import oauth_session
from oauth_session import ClientCredentials, OAuthBearerError, OAuthError, OAuthSession, Token, TokenSource

EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "0"))
LINGER = 0.05  # seconds that a server waits for another request before it hangs up
PATIENCE = 60  # seconds after which a wait has failed
TOKEN, SECRET = "at-5f1c9e7b", 's3cret: %"\\&+<ü>'
BASIC = [base64.b64encode(f"my-client:{one}".encode()).decode() for one in (quote(SECRET, ""), SECRET)]
JSON = json.dumps(SECRET, ensure_ascii=False)[1:-1]
ECHOES = [  # the last two as Go writes JSON and HTML
    SECRET, quote(SECRET, ""), quote_plus(SECRET), json.dumps(SECRET)[1:-1], JSON, html.escape(SECRET),
    JSON.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"),
    html.escape(SECRET).replace("&quot;", "&#34;"),
]  # fmt: skip
HIDDEN = [TOKEN, *ECHOES, *BASIC, repr(SECRET)[1:-1]]
NUMBERS = itertools.count(1)
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of what made a property fail
CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # a redirect to https must not load a CA bundle for each example


def examples(count):
    """Settings of a property. Without a database, a deadline (sockets wait) or, unless somebody asks for a search, any
    chance: CI must say the same of the same commit, and what it finds must be found again at a desk."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=EXAMPLES or count, derandomize=not EXAMPLES, database=None, deadline=None,
        suppress_health_check=slow,
    )  # fmt: skip


class Server:
    """A raw server on loopback for the whole run. `answer` belongs to the test: it gets a request and returns pieces
    to send, and whether the connection stays open. Whatever comes behind a request is recorded as one more."""

    def __init__(self, seen):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address, self.seen, self.answer = self.listener.getsockname(), seen, None
        self.place = "127.0.0.1:%d" % self.address[1]
        self.url, self.open, self.change = "http://" + self.place, 0, threading.Condition()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            sock, _ = self.listener.accept()
            with self.change:
                self.open += 1
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        data, more, patience = b"", b"...", PATIENCE
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while more and data[:1] != b"\x16":  # TLS, by a redirect to https
                size = whole(data)
                while size:
                    self.seen.append(data[:size])
                    pieces, stays = self.answer(data[:size])
                    for piece in pieces[:-1]:
                        sock.sendall(piece)
                        time.sleep(0.0005)  # so that they arrive one by one
                    sock.sendall(pieces[-1], 0 if stays else getattr(socket, "MSG_MORE", 0))
                    if not stays:  # with the last piece, or a client is sometimes faster, and takes it for kept
                        sock.shutdown(socket.SHUT_WR)
                    data, patience = data[size:], LINGER
                    size = whole(data)
                sock.settimeout(PATIENCE if data else patience)  # a slow machine may take its time for a request
                more = sock.recv(65536)
                data += more
        except OSError:
            pass
        if data and data[:1] != b"\x16":
            self.seen.append(data)
        sock.close()
        with self.change:
            self.open -= 1
            self.change.notify_all()

    def settle(self):
        """Wait until everything that was sent here is recorded. Connections are accepted in their order."""
        with socket.socket() as probe:
            probe.settimeout(PATIENCE)
            probe.connect(self.address)
            probe.shutdown(socket.SHUT_WR)
            assert probe.recv(1) == b""
        with self.change:
            assert self.change.wait_for(lambda: self.open == 0, PATIENCE), "a connection does not end"


def whole(data):
    """The length of the first request in the data, 0 if it is not complete."""
    head, end, body = data.partition(b"\r\n\r\n")
    if re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head):
        size = (b"\r\n" + body).find(b"\r\n0\r\n\r\n") + 5
        return len(head) + 4 + size if size >= 5 else 0
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    size = int(length[1]) if length else 0
    return len(head) + 4 + size if end and len(body) >= size else 0


def parsed(request):
    """Method, target, headers and body of a request, all of which are in their own place and in no other."""
    head, _, body = request.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    assert re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/1\.1", line), line
    assert all(re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\r\n\0]*", field) for field in fields), fields
    headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
    assert len(headers) == len(fields), "a header is there twice"
    return (*line.split(" ")[:2], headers, body)


class Net:
    """Servers, and what keeps a test within itself: nothing leaves loopback, no wait between two tries, and each log record is kept."""

    def __init__(self, patch):
        self.seen, self.asked, self.records, self.look_up = [], [], [], socket.getaddrinfo
        self.servers = self.auth, self.api, self.other = [Server(self.seen) for _ in range(3)]
        keep, logger = logging.Handler(), logging.getLogger("oauth_session")
        keep.emit = lambda record: self.records.append(f"{record.getMessage()} {record.args!r}")
        clock = types.SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=lambda seconds: None)
        patch.setenv("no_proxy", "*")
        patch.setattr(socket, "getaddrinfo", self.guarded)
        patch.setattr(oauth_session, "time", clock)
        patch.setattr(logger, "handlers", [keep])
        patch.setattr(logger, "level", logging.DEBUG)
        patch.setattr(logger, "propagate", False)

    def guarded(self, host, port, *rest):
        self.asked.append((host, port))
        if host not in ("127.0.0.1", "localhost") or port not in [server.address[1] for server in self.servers]:
            raise socket.gaierror("not in this test")
        return self.look_up(host, port, *rest)

    def settle(self):
        """What the servers got since the last time, when all of it is there."""
        for server in self.servers:
            server.settle()
        seen, self.seen[:], self.asked[:] = self.seen[:], [], []
        return seen

    def session(self, **options):
        """A session with TOKEN-1, then TOKEN-2 ...; what an example before it left is forgotten."""
        self.settle()
        names = itertools.count(1)
        source = TokenSource(lambda: Token(f"{TOKEN}-{next(names)}"))
        return OAuthSession(**{"source": source, "timeout": PATIENCE, "context": CONTEXT, **options})


@pytest.fixture(scope="module")
def net():
    with pytest.MonkeyPatch.context() as patch:
        yield Net(patch)


@contextlib.contextmanager
def quick():
    """For regular expressions that go astray. By the CPU of this thread, since the machine may be busy."""
    begun = time.thread_time()
    yield
    assert time.thread_time() - begun < 5.0


def assert_hidden(*shown):
    text = "\n".join(shown)
    squeezed = "".join(text.split())  # a secret with a blank after each letter can still be read
    for hidden in HIDDEN:
        assert hidden not in text
        assert "".join(hidden.split()) not in squeezed


def assert_presentable(error):
    """What a person or a log may see of an exception and of those behind it."""
    text, behind = str(error), [error]
    assert text.isprintable() and 0 < len(text) < 4000, "control characters, or no bound"
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.error, copy.status) == (type(error), text, error.error, error.status)
    shown = [pickle.dumps(error).decode("utf-8", "replace")]
    for one in behind:
        shown += [repr(one), repr(vars(one)), str(getattr(one, "headers", "")), str(getattr(one, "reason", ""))]
        shown += traceback.format_exception(type(one), one, one.__traceback__)
        behind += [other for other in (one.__cause__, one.__context__) if other is not None and other not in behind]
    assert_hidden(*shown)


ODD = ["\r\n", "\n", "\r", "\0", "\x1b[2J", "\x7f", "\x85", "\xa0", "\u2028", "\u202e", "\ud800", "ü", "€", "%0d%0a",
       *'"\'\\%,;=:/#?@ \t', "x" * 700]  # fmt: skip


def texts(*more, odd=ODD):
    """Text of the kinds that break parsers."""
    return st.lists(st.sampled_from(odd) | st.sampled_from(more or odd) | st.text(max_size=4), max_size=4).map("".join)


def rarely(strategy, *usual):
    """Two times of three what is usual, so that most examples have one thing wrong and not five."""
    return st.sampled_from([0, 0, 1]).flatmap(lambda wild: strategy if wild else st.sampled_from(usual))


FIELDS = st.sampled_from([
    b"Content-Length: 3", b"Content-Length: 3, 3", b"Content-Length: +3", b"Content-Length: 0x3", b"Content-Length: -1",
    b"Content-Length: 1_0", b"Content-Length: \xb3", b"Content-Length:", b"Content-Length : 3", b" Content-Length: 3",
    b"Content-Length: 99999999999999999999", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked, chunked",
    b"X: y\rContent-Length: 0", b"X: \0", b"X", b": x", b"", b"X: y\r", b"Connection: keep-alive", b"Location: /x",
    b"Content-Encoding: gzip", b"HTTP/1.1 200 OK", b"X: " + b"y" * 70_000, b"X: y\r\n z\r\nX:" + b" " * 60_000 + b"y",
    b"3\r\nabc", b"0", b"0\r\n", b"+3", b"-1",
])  # fmt: skip
BITS = st.binary(max_size=4) | st.sampled_from(
    [b"", b"\r\n", b"\n", b"\r", b" ", b"\0", b"HTTP/1.0", b"101", b"204", b"304", b"0", b";", b"\r\n\r\n", b"\n\n"])


@st.composite
def answers(draw, statuses, lines, bodies):
    """Bytes that a server sends, and the status and body that they mean, or None where that is not to be said."""
    status, (more, body, meant) = draw(statuses), draw(bodies)
    lines, sent, lengths = [*more, *draw(lines)], body, draw(st.sampled_from([0, 1, 1, 2]))
    if not lengths:
        cuts = sorted(draw(st.sets(st.integers(1, max(len(body) - 1, 1)), max_size=2)) | {0, len(body)})
        pieces = [body[start:end] for start, end in zip(cuts, cuts[1:]) if start < end]
        sizes = [draw(st.sampled_from([b"%x", b"00%X", b"%x;name=value", b'%x ; n="v"'])) for _ in pieces]
        sent = b"".join(size % len(one) + b"\r\n" + one + b"\r\n" for size, one in zip(sizes, pieces))
        sent += draw(st.sampled_from([b"0\r\n\r\n", b"000\r\nX-Sum: 1\r\n\r\n"]))
        lines.append(draw(st.sampled_from([b"Transfer-Encoding: chunked", b"transfer-encoding:\tCHUNKED "])))
    lines += [draw(st.sampled_from([b"Content-Length: %d", b"content-length:%d\t"])) % len(body)] * lengths
    head = draw(st.sampled_from([b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n"]))
    data = head + b"\r\n".join([b"HTTP/1.1 %d Fine" % status, *draw(st.permutations(lines)), b"", sent])
    damaged = draw(st.lists(st.booleans(), max_size=3))
    for line in damaged:
        ends = [found.start() for found in re.finditer(rb"\r\n", data)] or [0]
        if line:
            at = draw(st.sampled_from(ends))
            data = data[:at] + b"\r\n" + draw(FIELDS) + data[at:]
        else:
            at = draw(st.sampled_from(ends) | st.integers(0, 16))
            data = data[:at] + draw(BITS) + data[at + draw(st.integers(0, 3)) :]
    return data, None if damaged else (status, meant)


# -- Token answers ----------------------------------------------------------------------------------------------------

GIVEN = {"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600, "scope": "read it"}
SORRY = {"error": "invalid_request", "error_description": SECRET, "error_uri": SECRET}
MEMBERS = st.sampled_from([*GIVEN, *SORRY, *SORRY, "refresh_in", "refresh_token", "x"])
JUNK = st.sampled_from([
    None, True, False, 0, -1, 1.5, [], {}, ["a", 5, None], {"a": []}, float("nan"), float("inf"), 1e-300, 60, "3600",
    10**400, "9" * 5000, "DEEP", ["DEEP"], "DEEP", "Bearer", "bEARER", "mac", *oauth_session.ERRORS_BY_CODE,
])  # fmt: skip
STRANGE = ["application/json", "0", "9" * 400, "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct 99999999 07:28:00 +9999",
           "Fri, 31 Dec 9999 23:59:59 -2359"]  # fmt: skip
CODINGS = st.sampled_from(["utf-8"] * 9 + ["utf-8-sig", "utf-16", "utf-32-be", "latin-1", "utf-7"])


@st.composite
def token_bodies(draw, said):
    usual = draw(st.sampled_from([GIVEN, SORRY, {**GIVEN, **SORRY}, {}]))
    document = draw(rarely(said, None)) or {**usual, **draw(st.dictionaries(MEMBERS, said, max_size=3))}
    text = json.dumps(document, ensure_ascii=draw(st.booleans()))
    if isinstance(document, dict) and document.get("access_token") == TOKEN:  # the server says it elsewhere too
        text = text.replace(draw(st.sampled_from(["read", "Bearer", "invalid_", "%"])), TOKEN)
    depth = draw(st.sampled_from([900, 985, 100_000]))
    text = text.replace('"DEEP"', "[" * depth + "]" * depth)
    body = text.encode(draw(CODINGS), "replace")
    if draw(st.integers(0, 4)) == 4:  # a page that is no JSON
        body = draw(texts(*ECHOES)).encode("utf-8", "replace")
    packed = draw(st.integers(0, 9)) == 9
    return [b"Content-Encoding: gzip"] * packed, gzip.compress(body, 1) if packed else body, body


def token_answers(method):
    """A list of answers of a token endpoint that repeats what it was sent by this method."""
    basic = [BASIC["raw" in method]] if method and "basic" in method else []
    said = st.just(SECRET) | JUNK | texts(*ECHOES, *basic, "access_token")
    name = st.sampled_from(["Content-Type", "Retry-After", "Retry-After", "Date", "Location", "X-1", *basic])
    lines = st.tuples(name, st.sampled_from(STRANGE) | texts(*ECHOES, *basic)).map(
        lambda pair: re.sub("[\r\n]", " ", ": ".join(pair)).encode("utf-8", "replace"))
    statuses = st.sampled_from([200] * 6 + [201, 204, 302, 400, 401, 403, 404, 408, 429, 500, 503])
    answer = answers(statuses, st.lists(lines, max_size=2), token_bodies(said)).map(lambda pair: pair[0])
    return st.tuples(st.just(method), st.lists(answer, min_size=1, max_size=3))


METHODS = [None, "client_secret_basic", "client_secret_post", "client_secret_basic_raw"]


def page(status, body, *lines):
    return "\r\n".join([f"HTTP/1.1 {status} Fine", *lines, "", body]).encode()


@given(case=st.one_of(map(token_answers, METHODS)))
@example(case=(None, [page(200, '{"access_token": %s%s}' % ("[" * 20_000, "]" * 20_000))]))
@example(case=(None, [page(200, '{"access_token": "%s", "token_type": "%s"}' % (TOKEN, JSON))]))
@example(case=(None, [page(404, JSON)]))
@example(case=(None, [page(404, html.escape(SECRET))]))
@example(case=(None, [page(404, "") + SECRET.encode("utf-16")]))
@example(case=("client_secret_post", [page(404, "", "X: " + quote_plus(SECRET))]))
@examples(500)
def test_whatever_a_token_endpoint_answers_there_is_a_whole_token_or_an_oauth_error(net, case):
    net.settle()
    method, script, path = case[0], collections.deque(case[1] * 3), f"/{next(NUMBERS)}"
    good = page(200, '{"access_token": "good"}')
    # By path, since a renewal in the background may outlive its example.
    net.auth.answer = lambda request: ([script.popleft() if script and path.encode() in request else good], False)
    credentials = ClientCredentials("my-client", SECRET, "read", net.auth.url + path, auth_method=method, timeout=PATIENCE)
    source = TokenSource(credentials)
    for _ in range(3):
        try:
            token = source.token()
        except OAuthError as error:
            assert_presentable(error)
            event(type(error).__name__)
        else:
            assert re.fullmatch(r"[!-~]+", token.access_token) and isinstance(token.scope, (str, type(None)))
            assert TOKEN not in repr(token)
            event("token")
    for thread in threading.enumerate():
        if thread.name.startswith("oauth_session"):
            thread.join(PATIENCE)
    records, net.records[:] = net.records[:], []
    assert_hidden(*records)


# -- Challenges -------------------------------------------------------------------------------------------------------

PIECES = ["Bearer ", "bearer", "Basic ", " ", "\t", ",", "=", '"', '\\"', "\\", 'error="insufficient_scope"', "error=",
          'error="invalid_token"', "realm=", 'scope="a b"', "error_description=", TOKEN + "-1", "~" * 9]  # fmt: skip
GARBAGE = st.tuples(
    st.sampled_from(["", "Bearer "]), texts(*PIECES, odd=PIECES), texts(), st.sampled_from([1, 1, 1, 2, 50, 5000])
).map(lambda one: re.sub("[\r\n\0]", "", one[0] + (one[1] + one[2]) * one[3]).encode("utf-8", "replace")[:60_000])


@given(lines=st.lists(GARBAGE, max_size=4), status=st.sampled_from([401, 401, 403, 400]), opens=st.booleans())
@example(lines=[b'a="' + b'\\"' * 30_000], status=401, opens=False)
@example(lines=[b"a" + b" \t" * 30_000], status=401, opens=False)
@examples(200)
def test_a_challenge_of_any_kind_costs_one_replay_at_most_and_no_time(net, lines, status, opens):
    fields = b"".join(b"WWW-Authenticate: %b\r\n" % line for line in lines)
    net.api.answer = lambda request: ([b"HTTP/1.1 %d No\r\nContent-Length: 2\r\n%b\r\nno" % (status, fields)], True)
    names, path = itertools.count(1), f"/{next(NUMBERS)}"
    net.auth.answer = lambda request: ([page(200, '{"access_token": "%s-%d"}' % (TOKEN, next(names)))], False)
    client = {"client_id": "my-client", "client_secret": SECRET, "token_url": net.auth.url + path, "source": None}
    with net.session(**client) as session, quick():
        with pytest.raises(urllib.error.HTTPError) as caught:
            if opens:
                session.open(net.api.url)
            response = session.get(net.api.url)
            assert (response.status, response.content) == (status, b"no")
            response.raise_for_status()
    refusal = caught.value
    refusal.close()
    assert refusal.code == status and (isinstance(refusal, OAuthBearerError) or status != 401)
    if isinstance(refusal, OAuthBearerError):
        assert_presentable(refusal)
    if status == 401:
        replayed = not isinstance(refusal, oauth_session.OAuthInsufficientScope)
    else:
        replayed = isinstance(refusal, oauth_session.OAuthInvalidToken)
    seen = [parsed(request)[:2] for request in net.settle()]
    assert seen == [("POST", path), ("GET", "/")] * (2 if replayed else 1)
    event(f"{status} {type(refusal).__name__}")


VALUES = st.text(st.sampled_from('abz09-_. ,=/\xa1\xff'), max_size=8)
PARAMETERS = st.dictionaries(st.sampled_from(["error", "scope", "realm", "x", "error_uri"]), VALUES, max_size=4)


@given(
    challenges=st.lists(st.tuples(st.sampled_from(["Bearer", "BEARER", "Basic", "DPoP"]), PARAMETERS), max_size=4),
    pick=st.integers().map(random.Random),
)
@examples(100)
def test_a_challenge_as_the_rfc_writes_it_is_understood(net, challenges, pick):
    written = []
    for scheme, parameters in challenges:
        pairs = []
        for name, value in parameters.items():
            plain = re.fullmatch("[a-z0-9._-]+", value) and pick.random() < 0.5
            quoted = f'"{value}"'
            pairs.append(f"{pick.choice([name, name.upper()])}{pick.choice(['=', ' = '])}{value if plain else quoted}")
        written.append(scheme + (" " if pairs else "") + pick.choice([", ", ",", " , ,"]).join(pairs))
    text = pick.choice([", ", "\r\nWWW-Authenticate: "]).join(written) or "Other"
    refused = f"HTTP/1.1 403 No\r\nContent-Length: 0\r\nWWW-Authenticate: {text}\r\n\r\n".encode("latin-1")
    net.api.answer = lambda request: ([refused], False)
    with net.session() as session, pytest.raises(urllib.error.HTTPError) as caught:
        session.get(net.api.url).raise_for_status()
    caught.value.close()
    ours = [parameters for scheme, parameters in challenges if scheme.lower() == "bearer"]
    found = collections.ChainMap(*ours)  # the first that names a parameter counts
    assert isinstance(caught.value, OAuthBearerError) == bool(ours)
    for name in ("error", "scope", "realm") if ours else ():
        assert getattr(caught.value, name) == found.get(name)


# -- Redirects --------------------------------------------------------------------------------------------------------

PLACES = ["http://{api}/", "http://{other}", "http://{other}/x", "//{other}/", "http://localhost:{port}/", "/x"]
STRAYS = ["http:", "HTTP://", "https://", "ftp://", "data:", "file://", "//", "\\", "user:pw@", "{api}", "{other}",
          "..", "%0d%0aX: y", "%2f", "localhost", "[::1]", *"/?#:@ \té\x7f\0"]  # fmt: skip
LOCATIONS = st.sampled_from(PLACES) | st.tuples(
    texts(*STRAYS, odd=STRAYS), st.sampled_from(PLACES), texts(*STRAYS, odd=STRAYS)).map("".join)
HOPS = st.tuples(st.sampled_from([301, 302, 303, 307, 308] * 3 + [300, 304, 401]), LOCATIONS)
BODIES = {
    "none": lambda: None, "bytes": lambda: b"private-body", "file": lambda: io.BytesIO(b"private-body"),
    "generator": lambda: iter([b"private", b"-body"]),
}  # fmt: skip
HARMLESS = {"host", "accept", "accept-encoding", "accept-language", "accept-charset", "user-agent", "content-length"}


@given(
    hops=st.lists(HOPS, min_size=1, max_size=4), method=st.sampled_from("GET GET HEAD POST PUT PATCH DELETE".split()),
    kind=st.sampled_from(["none", *BODIES]), named=st.booleans(), own=st.booleans(),
)  # fmt: skip
@examples(600)
def test_no_redirect_takes_token_header_or_body_to_another_origin(net, hops, method, kind, named, own):
    script = collections.deque(hops)

    def answer(request):
        status, location = script.popleft() if script else (200, "")
        for mark, place in (("{api}", net.api.place), ("{other}", net.other.place), ("{port}", net.api.place[10:])):
            location = location.replace(mark, place)
        location = re.sub("[\r\n]", "", location).encode("utf-8", "replace")
        return [b"HTTP/1.1 %d Go\r\nContent-Length: 0\r\nLocation: %b\r\n\r\n" % (status, location)], True

    net.api.answer = net.other.answer = answer
    private = {"X-Api-Key": "private-key", "Cookie": "private", "Accept-Key": "private", "Accept": "a/b"}
    private.update({"Authorization": "private"} if own else {})
    with net.session(base_url=net.api.url if named else None, headers={"X-Session": "private"}) as session:
        try:
            session.request(method, net.api.url + "/first", data=BODIES[kind](), headers=private)
        except urllib.error.URLError as error:
            event(f"refused: {type(error).__name__}")
    left, seen = False, net.settle()
    assert parsed(seen[0])[:2] == (method, "/first") and b"private-key" in seen[0]
    for request in seen:
        _, _, headers, body = parsed(request)
        elsewhere = headers["host"] != net.api.place
        left = left or elsewhere
        if left:  # once left, it never comes back
            assert TOKEN.encode() not in request and "authorization" not in headers
        if elsewhere:
            assert set(headers) <= HARMLESS and not body and b"private" not in request
    event("went elsewhere" if left else "stayed")


# -- Framing ----------------------------------------------------------------------------------------------------------

SMUGGLED = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled"
PLAIN = st.binary(max_size=40) | st.sampled_from([b"abc", SMUGGLED])
API_BODIES = PLAIN.map(lambda body: ([], body, body)) | PLAIN.map(
    lambda body: ([b"Content-Encoding: gzip"], gzip.compress(body, 1), body))
API_LINES = st.lists(st.sampled_from([b"X:", b"X: y\r\n folded", b"x: \xff", b"Connection: close"]), max_size=2)
FOLDED = page(200, "", "X: y", " z", "X:" + " " * 60_000 + "y")
API_ANSWERS = answers(st.sampled_from([200, 200, 201, 299, 401, 404, 500]), API_LINES, API_BODIES)


@given(
    first=API_ANSWERS, behind=st.sampled_from([b"", SMUGGLED]), cuts=st.lists(st.integers(0, 99), max_size=3),
    stays=st.booleans(), method=st.sampled_from(["GET", "GET", "HEAD", "POST"]),
)  # fmt: skip
@example(first=(FOLDED, None), behind=b"", cuts=[], stays=False, method="GET")
@examples(500)
def test_an_answer_is_whole_or_an_error_and_no_byte_of_it_is_in_the_next(net, first, behind, cuts, stays, method):
    data, expected = first
    # Sent in pieces, but none after a possible end: what comes later than that cannot be told from the next answer.
    ends = [] if expected and method != "HEAD" else [at for at in map(data.find, (b"\n\r\n", b"\n\n")) if at > 0]
    spots = [at for at in range(max(min([*ends, len(data) - 1]), 1)) if data[at : at + 1] in b"\r\n" or at % 7 == 0]
    cuts = sorted(spots[cut % len(spots)] for cut in cuts)
    pieces = [(data + behind)[start:end] for start, end in zip([0, *cuts], [*cuts, None])]
    own = f"own-{next(NUMBERS)}"
    second = page(200, own, f"Content-Length: {len(own)}")
    net.api.answer = lambda request: (([second], True) if b"/second" in request else (pieces, stays))
    with net.session() as session, quick():
        try:
            response = session.request(method, net.api.url + "/first")
            found = response.status, response.content
        except urllib.error.URLError as error:
            found = None
            assert len(str(error)) < 4000
        assert session.get(net.api.url + "/second").text == own
    if expected is not None:
        assert found == (expected if method != "HEAD" else (expected[0], b""))
    event(f"{'proper' if expected else 'damaged'}: {found and found[0]}")


# -- Callers ----------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    ["X-A", "x-a", "X-A", "Host", "Content-Length", "Transfer-Encoding", "Connection", "Authorization", "Content-Type",
     "Accept-Encoding", "Range", "User-Agent", "X-A: b\r\nX-B", "X ", "Ü", ""])  # fmt: skip
CONTENTS = st.sampled_from(["v", "chunked", "5", "0", "\r\nX-Evil: 1", None, 5]) | texts() | st.text(
    st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=5)  # fmt: skip
URLS = st.tuples(
    st.sampled_from(["/", "/", "", "{api}/", "{api}", "//", "http://", "{other}/", "\\\\", "http:/", " {api}"]),
    texts("{other}", "http:", "localhost", " HTTP/1.1\r\nX-Evil: 1"),
).map("".join)  # fmt: skip
VERBS = rarely(st.sampled_from(["", "GET /evil HTTP/1.1\r\nX:", "G T", "GÉT", 5, "CONNECT", "X-Y", "POST\n"]),
                 *"GET POST PUT PATCH DELETE HEAD OPTIONS get".split())
PARAMS = st.dictionaries(texts(), texts(), max_size=2) | texts() | st.lists(st.integers() | texts(), max_size=2)
DATA = st.sampled_from([None, None, b"12345", b"", "ü", {"a": "\r\n&="}, [("a", 1)], "\ud800"])
OURS = {"host", "authorization", "user-agent", "accept-encoding", "content-type", "content-length", "transfer-encoding"}


@given(
    method=VERBS, url=rarely(URLS, "/x"), headers=rarely(st.dictionaries(NAMES, CONTENTS, max_size=3), {}),
    params=rarely(PARAMS, {}), data=DATA, opens=st.booleans(),
)  # fmt: skip
@example(method=5, url="/x", headers={}, params={}, data=None, opens=True)
@example(method="GET", url="/x", headers={"Content-Length": 5}, params={}, data=None, opens=True)
@examples(800)
def test_what_a_caller_gives_stays_in_its_place_or_is_refused_before_anything_is_sent(
    net, method, url, headers, params, data, opens
):
    net.api.answer = lambda request: ([page(200, "", "Content-Length: 0")], True)
    url = url.replace("{api}", net.api.url).replace("{other}", net.other.url)
    if opens:  # as urllib has it: a Request, which takes bytes and looks at nothing
        url, params, data = url if url[:1] == "/" else "/x", {}, data if isinstance(data, bytes) else None
        headers = {name: value for name, value in headers.items() if value is not None}
    with net.session(base_url=net.api.url) as session:
        try:
            if opens:
                session.open(urllib.request.Request(net.api.url + url, data, headers, method=method)).close()
            else:
                session.request(method, url, headers=headers, params=params, data=data)
        except (ValueError, TypeError) as error:
            event(f"refused: {type(error).__name__}")
            assert net.settle() == []  # no token request either
            return
        asked = set(net.asked)
    (request,) = net.settle()
    verb, target, found, body = parsed(request)
    given = {name.lower(): str(value) for name, value in headers.items() if value is not None}
    for name in ("content-length", "transfer-encoding"):
        given.pop(name, None)  # what is known of the body counts
    assert asked == {("127.0.0.1", net.api.address[1])}
    assert verb == (method or ("GET" if data is None else "POST")).upper() and set(found) <= OURS | set(given)
    assert {name: found[name].strip(" \t") for name in given} == {name: given[name].strip(" \t") for name in given}
    assert found["authorization"] == given.get("authorization", f"Bearer {TOKEN}-1")
    assert "host" in given or found["host"] == net.api.place
    if isinstance(data, (str, bytes)) and "transfer-encoding" not in found:
        assert body == (data.encode() if isinstance(data, str) else data)
    if url == "/x" and isinstance(params, dict):
        assert parse_qsl(target.partition("?")[2], keep_blank_values=True) == list(params.items())
    if url[:1] == "/" and not params and not opens:
        assert unquote(target) == unquote(url.partition("#")[0])
    event("sent")
