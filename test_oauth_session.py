# SPDX-FileCopyrightText: 2026 The oauth_session authors
# SPDX-License-Identifier: MIT
"""Tests of oauth_session.py, in the order of its rooms. They need pytest and pytest-httpserver, and no network."""
from __future__ import annotations

import base64
import collections
import concurrent.futures
import contextlib
import copy
import enum
import functools
import gc
import gzip
import hashlib
import hmac
import html
import io
import itertools
import json
import logging
import os
import pathlib
import pickle
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import urllib.parse
import urllib.request
import warnings
import zlib
from decimal import Decimal
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.error import HTTPError, URLError

import pytest
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Response as WerkzeugResponse

import oauth_session
from oauth_session import (
    ERRORS_BY_CODE,
    ClientCredentials,
    DemoServer,
    FileCache,
    OAuthError,
    OAuthHandler,
    OAuthInsufficientScope,
    OAuthInvalidClient,
    OAuthInvalidGrant,
    OAuthInvalidScope,
    OAuthInvalidTarget,
    OAuthInvalidToken,
    OAuthMalformedResponse,
    OAuthResponseError,
    OAuthServerError,
    OAuthSession,
    OAuthTemporarilyUnavailable,
    OAuthTransportError,
    OAuthUnsupportedGrantType,
    Token,
    TokenSource,
)

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no os.fork")
needs_modes = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no owners and modes")

PATIENCE = 30.0  # seconds; a wait that takes longer fails its test
CLIENT, SECRET = "my:client/1", "s3cret%20 +&=:€/\"'~"  # with characters that must be encoded
TOKEN, TOKEN_1, TOKEN_2 = "T0KEN", "T0KEN-1", "T0KEN-2"
BEARER, BEARER_1, BEARER_2 = "Bearer T0KEN", "Bearer T0KEN-1", "Bearer T0KEN-2"
QUOTED = "my%3Aclient%2F1:s3cret%2520%20%2B%26%3D%3A%E2%82%AC%2F%22%27~"
BASIC = base64.b64encode(QUOTED.encode()).decode()
BASIC_RAW = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
FORM_ID, FORM_SECRET = "client_id=my%3Aclient%2F1", "client_secret=s3cret%2520+%2B%26%3D%3A%E2%82%AC%2F%22%27~"
AS_JSON, AS_HTML = json.dumps(SECRET, ensure_ascii=False)[1:-1], html.escape(SECRET)
SPELLINGS = [  # the last two as Go writes JSON and HTML
    SECRET, QUOTED.partition(":")[2], FORM_SECRET[14:], AS_HTML, AS_JSON, json.dumps(SECRET)[1:-1],
    AS_JSON.replace("&", "\\u0026"), AS_HTML.replace("&quot;", "&#34;").replace("&#x27;", "&#39;"),
]  # fmt: skip
HIDDEN = [TOKEN, BASIC, BASIC_RAW, *SPELLINGS]
CHALLENGE = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
FORM, OCTETS, JSON = "application/x-www-form-urlencoded", "application/octet-stream", "application/json"


def name_of(value):
    """Return the name of a case in a table: the end of its text."""
    return getattr(value, "__name__", repr(value))[-40:]


parametrize = functools.partial(pytest.mark.parametrize, ids=name_of)


# ---- Kit: errors and secrets -----------------------------------------------------------------------------------------


def raised_by(call, *arguments, kind=URLError, **options):
    """Return the error that a call raises."""
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    return caught.value


def raise_it(error):
    """Raise an error, where an expression is needed."""
    raise error


def assert_hidden(thing, *secrets):
    """Check that nothing that a person may see of a text, object or exception with its causes holds a secret."""
    texts = [f"{thing} {thing!r}"]
    while isinstance(thing, BaseException):
        headers = getattr(thing, "headers", None) or {}
        texts += traceback.format_exception(type(thing), thing, thing.__traceback__)
        texts += [str(thing), repr(thing), repr(vars(thing)), repr(headers.items())]
        with contextlib.suppress(TypeError, AttributeError, pickle.PicklingError):
            texts.append(pickle.dumps(thing).decode("latin-1"))
        thing = thing.__cause__ or thing.__context__
    for text, secret in itertools.product(texts, secrets or HIDDEN):
        assert secret not in text, f"{secret!r} shows in {text!r}"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("OAUTH_"):
            monkeypatch.delenv(name)


# ---- Kit: servers ----------------------------------------------------------------------------------------------------


class Scripted:
    """A server that answers from a script, then by a rule. A body is bytes, a JSON value or a generator."""

    def __init__(self, server, rule):
        self.url = f"http://127.0.0.1:{server.port}"
        self.alias = f"http://localhost:{server.port}"  # the same server, another origin
        self.script = collections.deque()
        self.otherwise = rule
        self.seen = []
        server.clear()
        server.expect_request(re.compile(".*")).respond_with_handler(self.answer)

    def answer(self, request):
        request.get_data()
        self.seen.append(request)
        status, headers, body = self.script.popleft() if self.script else self.otherwise(request)
        if isinstance(body, bytes) or hasattr(body, "__next__"):
            return WerkzeugResponse(body, status, headers)
        return WerkzeugResponse(json.dumps(body), status, headers, content_type="application/json")

    def will(self, status, headers=(), body=b""):
        self.script.append((status, list(dict(headers).items()), body))

    def always(self, status, headers=(), body=b""):
        self.otherwise = lambda request: (status, list(dict(headers).items()), body)

    @property
    def count(self):
        return len(self.seen)

    @property
    def lines(self):
        return [f"{request.method} {request.environ['REQUEST_URI']}" for request in self.seen]

    @property
    def bodies(self):
        return [request.get_data() for request in self.seen]

    @property
    def bearers(self):
        return self.header("Authorization")

    def header(self, name):
        return [request.headers.get(name) for request in self.seen]


def fields_of(request):
    """Return the fields of a token request."""
    return dict(urllib.parse.parse_qsl(request.get_data(as_text=True)))


@pytest.fixture(scope="session")
def servers():
    """Three servers, which all tests share, since stopping one takes half a second."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(HTTPServer("127.0.0.1", 0, threaded=True)) for _ in range(3)]


@pytest.fixture
def auth(servers):
    """An authorisation server: TOKEN-1, TOKEN-2 ... by default."""
    fresh = {"expires_in": 3600}
    auth = Scripted(servers[0], lambda request: (200, [], {"access_token": f"{TOKEN}-{auth.count}", **fresh}))
    return auth


@pytest.fixture
def api(servers):
    return Scripted(servers[1], lambda request: (200, [], {"path": request.path}))


@pytest.fixture
def other(servers):
    return Scripted(servers[2], lambda request: (200, [], {"other": True}))


@pytest.fixture
def network(other):
    """A proxy that stands for the network: `other` answers for each host."""
    return urllib.request.ProxyHandler({"http": other.url})


@pytest.fixture
def session(auth, api):
    return session_of(auth, base_url=api.url)

class Server:
    """A raw-socket server. Each request gets the next answer, the last one for ever; all that came is recorded.

    An answer is bytes; a 1-tuple of bytes, after which it hangs up; None, to hang up at once; or a callable that gets
    the socket and returns one of these.
    """

    def __init__(self, *answers, tls=None):
        self.answers = answers
        self.tls = tls
        self.requests = []
        self.accepted = 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.listener.settimeout(0.02)
        self.sockets = []
        self.threads = []
        self.closing = threading.Event()
        self.port = self.listener.getsockname()[1]
        self.place = f"127.0.0.1:{self.port}"
        self.url = ("https://" if tls else "http://") + self.place

    def __enter__(self):
        self._start(self._accept)
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.threads[0].join(PATIENCE)
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(PATIENCE)
        self.listener.close()

    def _start(self, target, *arguments):
        self.threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self.threads[-1].start()

    def _accept(self):
        while not self.closing.is_set():
            with contextlib.suppress(socket.timeout):
                sock, _ = self.listener.accept()
                self.accepted += 1
                self.sockets.append(sock)
                self._start(self._serve, sock)

    def _serve(self, sock):
        sock.settimeout(PATIENCE)
        try:
            if self.tls:
                sock = self.tls.wrap_socket(sock, server_side=True)
                self.sockets.append(sock)
            while self._answer(sock):
                pass
        except OSError:
            pass
        finally:
            sock.close()

    def _answer(self, sock):
        request = b""
        while not self.complete(request):
            more = sock.recv(65536)
            if not more:
                return False
            request += more
        self.requests.append(request)
        answer = self.choose(request)
        if callable(answer):
            answer = answer(sock)
        if isinstance(answer, bytes):
            sock.sendall(answer)
        elif answer is not None:
            sock.sendall(answer[0])
        return isinstance(answer, bytes)

    def choose(self, request):
        return self.answers[min(self.count, len(self.answers)) - 1]

    def send_slowly(self, sock, begun, forever):
        """Send what begins an answer, then a hundred parts a second, for half a minute."""
        sock.sendall(begun)
        for _ in range(3000):
            sock.sendall(forever)
            self.closing.wait(0.01)

    @property
    def count(self):
        return len(self.requests)

    @property
    def lines(self):
        return [request.partition(b"\r\n")[0].decode() for request in self.requests]

    @property
    def bodies(self):
        return [request.partition(b"\r\n\r\n")[2] for request in self.requests]

    def header(self, name):
        return [self.headers(number).get(name.lower()) for number in range(self.count)]

    def headers(self, number):
        """Return the headers of a request, their names in lower case, none of which may come twice."""
        head = self.requests[number].partition(b"\r\n\r\n")[0].decode("latin-1")
        headers = {}
        for field in head.split("\r\n")[1:]:
            name, _, value = field.partition(": ")
            assert name.lower() not in headers
            headers[name.lower()] = value
        return headers

    @staticmethod
    def complete(request):
        head, end, body = request.partition(b"\r\n\r\n")
        if b"\r\nTransfer-Encoding: chunked" in head:
            return body.endswith(b"0\r\n\r\n")
        length = head.partition(b"\r\nContent-Length: ")[2].partition(b"\r\n")[0]
        return bool(end) and len(body) >= int(length or 0)


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def page(status="200 OK", body=b"", *headers):
    lines = ["HTTP/1.1 " + status, "Content-Length: %d" % len(body), *headers]
    return "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body


def grant(**fields):
    answer = {"access_token": TOKEN, "token_type": "Bearer", **fields}
    return page("200 OK", json.dumps(answer).encode())


def refusal(status, error="", **fields):
    content = json.dumps({"error": error, **fields}).encode()
    return page(f"{status} No", content, "Content-Type: application/json")


OK = b"HTTP/1.1 200 OK\r\n"
HEAD = OK + b"\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
HELLO = page("200 OK", b"hello")
SECOND = page("200 OK", b"second")
SMUGGLED = page("200 OK", b"smuggled")


def form_of(server, number=0):
    """The fields of a form that a server got, as they were encoded."""
    return sorted(server.bodies[number].decode("ascii").split("&"))


# ---- Kit: sessions, credentials and sources --------------------------------------------------------------------------


def session_of(server, client_secret=SECRET, scope="read", *, kind=OAuthSession, **settings):
    """Return a session, or credentials, whose token endpoint is at this server."""
    return kind(CLIENT, client_secret, scope, server.url + "/token", **settings)


def credentials(server, client_secret=SECRET, scope=None, **settings):
    return session_of(server, client_secret, scope, kind=ClientCredentials, **settings)


def source_of(*names):
    """Return a TokenSource that hands out these tokens, one for each fetch."""
    tokens = iter(names)
    return TokenSource(lambda: Token(next(tokens)))


def static_session(**settings):
    """Return a session whose token is always TOKEN."""
    source = TokenSource(lambda: Token(TOKEN))
    return OAuthSession(source=source, **settings)


@pytest.fixture
def client():
    with static_session() as session:
        yield session


def refused(server, **settings):
    """Return the error of a fetch that fails, in which no secret shows."""
    error = raised_by(credentials(server, **settings))
    assert_hidden(error)
    return error


def bare_opener(source, url, *handlers):
    """Return an opener of urllib that authorises requests to the origin of a URL."""
    return urllib.request.build_opener(OAuthHandler(source, [url], allow_http=True), *handlers)


CONFIGURATION = (
    "[ca]\ndefault_ca=d\n[d]\ndatabase=db\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\nunique_subject=no\n"
    "[p]\ncommonName=supplied\n[req]\ndistinguished_name=n\n[n]\n"
)
FOR_AUTHORITIES = "basicConstraints=critical,CA:true\nsubjectKeyIdentifier=hash\nkeyUsage=critical,keyCertSign\n"


class Authorities:
    """Three authorities, `directory` in the hashed directory, `bundle` in the bundle only, `unknown` in neither; and
    certificates of theirs, made by the `openssl` command."""

    def __init__(self, path):
        self.path = path
        self.directory = path / "directory"
        self.bundle = path / "bundle-ca.pem"
        self.directory.mkdir()
        (path / "ca.cnf").write_text(CONFIGURATION)
        (path / "db").write_text("")
        (path / "serial").write_text("01\n")
        self.run("req -newkey rsa:2048 -nodes -keyout key.pem -out test.req -config ca.cnf -subj /CN=test")
        for name in ("directory", "bundle", "unknown"):
            self.run(f"req -new -key key.pem -out {name}.req -config ca.cnf -subj /CN={name}")
            self.sign(f"-selfsign -in {name}.req -out {name}-ca.pem", FOR_AUTHORITIES)
        self.certify("directory", "directory", "DNS:api.test,IP:127.0.0.1")
        self.certify("bundle", "bundle", "IP:127.0.0.1")
        self.certify("unknown", "unknown", "IP:127.0.0.1")
        self.certify("other-name", "directory", "DNS:other.example")
        self.certify("expired", "directory", "IP:127.0.0.1", "2021")
        found = self.run("x509 -subject_hash -noout -in directory-ca.pem").decode().strip()
        shutil.copy(path / "directory-ca.pem", self.directory / f"{found}.0")

    def run(self, command):
        return subprocess.run(["openssl", *command.split()], cwd=self.path, check=True, capture_output=True).stdout

    def sign(self, request, extensions, end="2049"):
        (self.path / "extensions").write_text(extensions)
        dates = f"-startdate 20200101000000Z -enddate {end}0101000000Z"
        self.run(f"ca -batch -config ca.cnf -keyfile key.pem -notext {dates} -extfile extensions {request}")

    def certify(self, name, authority, hosts, end="2049"):
        extensions = f"subjectAltName={hosts}\nauthorityKeyIdentifier=keyid\n"
        self.sign(f"-cert {authority}-ca.pem -in test.req -out {name}.pem", extensions, end)

    def server(self, name):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(str(self.path / f"{name}.pem"), str(self.path / "key.pem"))
        return context


@pytest.fixture(scope="session")
def authorities(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is missing: no certificates")
    return Authorities(tmp_path_factory.mktemp("authorities"))


@pytest.fixture
def tls(authorities):
    """The context of a server for 127.0.0.1 and api.test."""
    return authorities.server("directory")


@pytest.fixture
def trusting(authorities):
    """The context of a client that trusts this server."""
    return ssl.create_default_context(cafile=str(authorities.path / "directory-ca.pem"))


# ---- Kit: a clock, threads and processes -----------------------------------------------------------------------------

START = float(2**30)  # where the clock driven by hand begins: from there, eighths of a second are exact


class Clock:
    """Stands in for the `time` module: moves only by hand, the wall clock and the monotonic one also apart."""

    def __init__(self):
        self.wall = START
        self.steady = 1024.0
        self.sleeps = []
        self.threads = set(threading.enumerate())

    def time(self):
        return self.wall

    def monotonic(self):
        return self.steady

    def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.move(seconds)

    def move(self, wall, steady=None):
        self.wall += wall
        self.steady += wall if steady is None else steady

    def settle(self):
        """Wait until all threads that were started since have ended."""
        while True:
            running = [thread for thread in threading.enumerate() if thread not in self.threads and thread.is_alive()]
            if not running:
                return
            running[0].join(PATIENCE)
            assert not running[0].is_alive(), f"{running[0].name} does not end"


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(oauth_session, "time", clock)
    yield clock
    clock.settle()


class HeldStep:
    """A step of a Script, or what a cache or a server does, that waits until the test lets it go."""

    def __init__(self, result):
        self.result = result
        self.entered = threading.Event()
        self.released = threading.Event()

    def __call__(self):
        self.entered.set()
        assert self.released.wait(PATIENCE), "it was never released"
        return self.result

    def reached(self):
        assert self.entered.wait(PATIENCE), "it was never called"

    def release(self):
        self.released.set()


class Callers:
    """Threads that all begin at once; what each returned or raised is in the results."""

    def __init__(self, count, action):
        self.action = action
        self.results = []
        self.barrier = threading.Barrier(count)
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def _run(self):
        try:
            self.barrier.wait(PATIENCE)
            self.results.append(self.action())
        except BaseException as error:
            self.results.append(error)

    def wait_inside(self):
        """Wait until each thread waits inside oauth_session.py, and not only for a thread that it starts."""
        end = time.monotonic() + PATIENCE
        while not all(map(self._is_inside, self.threads)):
            assert time.monotonic() < end, "the callers do not wait"
            threading.Event().wait(0.002)

    @staticmethod
    def _is_inside(thread):
        frame = sys._current_frames().get(thread.ident)
        if frame is None:
            return False
        functions = [one.f_code for one, _ in traceback.walk_stack(frame)]
        files = [function.co_filename for function in functions]
        starts = any(function.co_name == "start" for function in functions)
        return files[:1] == [threading.__file__] and oauth_session.__file__ in files and not starts

    def finish(self):
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a caller does not come back"
        return self.results

    def tokens(self):
        return [token.access_token for token in self.finish()]


def callers_of(action, count, held):
    """Start threads that call the action; return when the fetch is in its held step, and each thread waits for it."""
    callers = Callers(count, action)
    held.reached()
    callers.wait_inside()
    return callers


def forked(action):
    """Run the action in a forked child; the exit status is 0 if it returned True."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of a fork with threads, which is the point here
        process = os.fork()
    if not process:
        signal.alarm(int(PATIENCE))
        try:
            os._exit(0 if action() is True else 1)
        finally:
            os._exit(2)
    return os.waitpid(process, 0)[1]


@contextlib.contextmanager
def started(text, *arguments):
    """A program that runs beside the test, with warnings as errors and pipes; killed at the end."""
    folder = os.path.dirname(os.path.abspath(oauth_session.__file__))
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(text), *arguments]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": folder}, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def program(text, *arguments):
    """Run a program with warnings as errors, which must succeed and complain of nothing; return its output."""
    with started(text, *arguments) as process:
        output, errors = process.communicate(timeout=2 * PATIENCE)
    assert errors == b""
    assert process.returncode == 0
    return output.replace(b"\r", b"")


def text_of(name):
    """The text of a file of the project."""
    return pathlib.Path(__file__).with_name(name).read_text("utf-8")


# ---- Kit: scripted sources and caches --------------------------------------------------------------------------------

BROKEN = OAuthServerError("it is broken", status=500)


def unavailable(seconds):
    return OAuthTemporarilyUnavailable("it is unavailable", status=503, retry_after=seconds)


class Script:
    """A fetch callable that plays its steps in turn, the last one for ever: the life of a new token in seconds, or None
    if it is unknown; a Token; an error; or a callable that returns one of these."""

    def __init__(self, *steps):
        self.steps = steps
        self.calls = 0

    def __call__(self):
        self.calls += 1
        name = f"token-{self.calls}"
        step = self.steps[min(self.calls, len(self.steps)) - 1]
        if callable(step):
            step = step()
        if isinstance(step, BaseException):
            raise step
        if isinstance(step, Token):
            return step
        return Token(name, expires_at=None if step is None else oauth_session.time.time() + step)


class ScriptedSource(TokenSource):
    """A source over a Script, which other sources may share."""

    def __init__(self, *steps, script=None, **settings):
        self.script = script or Script(*steps)
        super().__init__(self.script, **settings)

    def served(self, after=0.0):
        """Return "token-1/2": the token that a caller gets, or the status of his error, and the fetches so far."""
        oauth_session.time.move(after)
        try:
            answer = self.token().access_token
        except OAuthError as error:
            answer = error.status
        oauth_session.time.settle()
        return f"{answer}/{self.script.calls}"

    def served_after(self, *waits):
        """The same for callers who come one after the other, each so many seconds after the one before."""
        return [self.served(seconds) for seconds in waits]

    def instead_of(self, token):
        return self.reject(token).access_token


class MemoryCache:
    """A cache in memory without a lock, as Django has it. `instead`: what a method raises, returns or calls instead."""

    def __init__(self, value=None, **instead):
        self.value = value
        self.instead = instead
        self.calls = []

    def _called(self, name, otherwise=None):
        self.calls.append(name)
        step = self.instead.get(name, otherwise)
        if callable(step):
            step = step()
        if isinstance(step, BaseException):
            raise step
        return step

    def get(self, key):
        self.key = key
        return self._called("get", self.value)

    def set(self, key, value, seconds):
        self._called("set")
        self.value = value
        self.seconds = seconds


class LockingCache(MemoryCache):
    """The same with a lock, as redis-py has it. taken: whether somebody holds it."""

    taken = False

    def lock(self, name, timeout=None):
        self._called("lock")
        self.timeout = timeout
        return self

    def acquire(self, blocking=True):
        assert blocking is False
        taken, self.taken = self._called("acquire", self.taken), True
        return not taken

    def release(self):
        self.taken = False
        self._called("release")


def entry(ago=0.0, life=3600.0, token="from-the-cache"):
    """A cache's value as another process wrote it `ago` seconds ago."""
    obtained_at = oauth_session.time.time() - ago
    return json.dumps({"access_token": token, "expires_in": life, "obtained_at": obtained_at})


def processes(cache, count, *steps):
    """Sources as different processes have them, which share a cache and one Script."""
    script = Script(*(steps or [3600]))
    return [ScriptedSource(script=script, cache=cache, cache_key="k") for _ in range(count)]


def cached(cache, *steps):
    return processes(cache, 1, *steps)[0]


# ---- Errors ----------------------------------------------------------------------------------------------------------

COPIES = parametrize("copy_of", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])


class TestErrors:
    """What the token endpoint or the API said, as classes, and without secrets."""

    CHILDREN = {
        "URLError": "OAuthError",
        "OAuthError": "OAuthTransportError OAuthResponseError OAuthBearerError",
        "OAuthResponseError": "OAuthInvalidRequest OAuthInvalidClient OAuthInvalidGrant OAuthUnauthorizedClient "
        "OAuthUnsupportedGrantType OAuthInvalidScope OAuthInvalidTarget OAuthTemporarilyUnavailable OAuthServerError "
        "OAuthMalformedResponse",
        "HTTPError": "OAuthBearerError",
        "OAuthBearerError": "OAuthInvalidToken OAuthInsufficientScope",
    }
    NAMES = " ".join(CHILDREN.values()).split()
    FIELDS = {
        "error": "e", "status": 418, "error_description": "d", "retry_after": 7.0, "scope": "a b",
        "realm": "r", "url": "https://api.example/x", "body": b"body",
    }  # fmt: skip

    def test_the_hierarchy_is_the_documented_one_and_no_error_needs_fields(self):
        for parent, children in self.CHILDREN.items():
            for child in children.split():
                kind = getattr(oauth_session, child)
                assert parent in [base.__name__ for base in kind.__bases__]
                assert str(kind("it failed")) == "it failed"
                assert kind().error is None

    def test_each_code_has_the_class_of_its_name(self):
        assert [kind.__name__ for kind in ERRORS_BY_CODE.values()] == self.CHILDREN["OAuthResponseError"].split()[:-1]
        for code, kind in ERRORS_BY_CODE.items():
            assert kind.__name__ == "OAuth" + code.title().replace("_", "")

    @classmethod
    def shown(cls, error):
        """Return all that a user can get out of an error, its body included."""
        fields = [str(getattr(error, name, None)) for name in (*cls.FIELDS, "headers")]
        if isinstance(error, HTTPError):
            fields.append(error.read())
        return type(error), str(error), fields

    @pytest.fixture
    def errors(self, auth, api):
        """One error of each class, and those of calls to servers that echo secrets."""
        session = session_of(auth, auth_method="client_secret_basic_raw")
        auth.always(200, {}, {"access_token": TOKEN})
        challenge = f'Bearer realm="{TOKEN}", error="{TOKEN}", error_description="{TOKEN}"'
        headers = [("WWW-Authenticate", challenge), ("Location", f"ftp://x/{TOKEN}"), ("X-Echo", TOKEN)]
        api.otherwise = lambda request: (f"{request.path[1:]} {TOKEN}", headers, b"body")
        errors = {name: getattr(oauth_session, name)("it failed", **self.FIELDS) for name in self.NAMES}
        for status in ("302", "400", "401", "404"):
            errors[status] = raised_by(session.open, f"{api.url}/{status}")
        errors["returned"] = raised_by(session.get(api.url + "/404").raise_for_status)
        auth.always(400, {"X-Echo": BASIC_RAW}, {"error": SECRET, "error_description": " ".join(SPELLINGS)})
        session.source.clear()
        errors["no token"] = raised_by(session.source.token)
        return errors

    @COPIES
    def test_a_copied_or_pickled_error_is_whole(self, copy_of, errors):
        for error in errors.values():
            other = copy_of(error)
            assert self.shown(other) == self.shown(error)

    def test_no_error_shows_a_secret_and_each_keeps_the_body_of_the_answer(self, errors):
        for name in ("302", "400", "401", "no token"):
            assert_hidden(errors[name])
        for name in ("302", "400", "404", "returned"):
            assert errors[name].read() == b"body"

    def test_a_code_of_the_users_own_raises_the_class_of_the_users_own(self, auth, api, monkeypatch):
        unpaid = type("Unpaid", (OAuthResponseError,), {})
        monkeypatch.setitem(ERRORS_BY_CODE, "unpaid", unpaid)
        auth.will(402, {}, {"error": "unpaid", "error_uri": "https://pay.example"})
        error = raised_by(session_of(auth).get, api.url)
        assert type(error) is unpaid
        assert error.error_uri == "https://pay.example"
        assert error.reason == str(error)
        assert api.count == 0

    def test_a_log_handler_that_fails_breaks_no_call(self, caplog, monkeypatch):
        caplog.set_level(logging.DEBUG, "oauth_session")
        monkeypatch.setattr(caplog.handler, "emit", None)  # calling it fails
        with Server(grant(token_type="odd")) as server:
            assert credentials(server)().access_token == TOKEN

    ECHOES = [  # of one secret, as servers spell it
        "pa%2Fss%20%3Cw%3E%26o%22r%27d%20%C3%A9%25%2B%3D", "pa%2fss%20%3cw%3e%26o%22r%27d%20%c3%a9%25%2b%3d",
        "pa%2Fss+%3Cw%3E%26o%22r%27d+%C3%A9%25%2B%3D", "pa/ss &lt;w&gt;&amp;o&quot;r&#x27;d é%+=", "pa/ss <w>&o\\\"r'd \\u00e9%+=",
        "cGEvc3MgPHc+Jm8icidkIMOpJSs9", "bXklM0FjbGllbnQlMkYxOnBhJTJGc3MlMjAlM0N3JTNFJTI2byUyMnIlMjdkJTIwJUMzJUE5JTI1JTJCJTNE"]

    @parametrize("echo", ECHOES)
    def test_an_echoed_secret_is_masked_in_its_usual_spellings(self, echo, caplog):
        caplog.set_level(logging.DEBUG)
        secret = "pa/ss <w>&o\"r'd é%+="
        said = {"error_description": f"you sent {secret}, {echo}!", "error_uri": f"https://x.example/?{echo}"}
        with Server(refusal(400, echo, **said), grant(token_type=echo, scope=echo)) as server:
            fetch = credentials(server, secret, auth_method="client_secret_basic")
            error = raised_by(fetch)
            token = fetch()
        assert error.error == "***"
        assert error.error_description == "you sent ***, ***!"
        assert error.error_uri == "https://x.example/?***"
        for thing in (error, token, caplog.text):
            assert_hidden(thing, secret, echo)

    def test_other_secrets_of_the_request_are_masked_too(self):
        names = "my_secret PASSWORT device_token an_assertion apikey code".split()
        params = {"site": "https://api.example.com", **{name: f"hunter-{name}" for name in names}}
        headers = {"x-api-key": "hunter-whole", "x-gateway": "Basic hunter-word"}
        echo = " ".join([*params.values(), "hunter-whole", "hunter-word"])
        with Server(refusal(400, "invalid_grant", error_description=f"{echo} example None", refresh_token=None)) as server:
            error = refused(server, token_params=params, token_headers=headers)
        assert error.error_description == " ".join(["***"] * 9 + ["example None"])
        assert_hidden(error, "hunter")

    @parametrize("body", [
        b"you sent s3cret-1", b'{"access_token": "s3cret-1\\ud800"}', b'{"access_token": ["s3cret-1"]}',
        b'{"access_token": "s3cret-2", "id_token": "s3cret-3", "error": "x", "error_description": "s3cret-2 s3cret-3"}'])
    def test_a_secret_or_token_is_in_no_message_whatever_the_body(self, body):
        with Server(page("200 OK", body, "X-Echo: s3cret-1", "Content-Type: s3cret-1")) as server:
            error = raised_by(credentials(server, "s3cret" + "-1", auth_method="client_secret_post"))
        assert_hidden(error, "s3cret-")

    def test_what_is_masked_does_not_change_how_an_answer_is_judged(self):
        with Server(refusal(401, "invalid_client"), grant()) as server:
            credentials(server, "client", token_headers={"X-Tenant": "invalid"})()
        with Server(grant(token_type="DPoP")) as other, pytest.raises(OAuthMalformedResponse, match="token_type"):
            credentials(other, token_params={"secret": "DPoP", "requested_token_type": "DPoP"})()
        assert len(server.requests) == 2


# ---- URLs ------------------------------------------------------------------------------------------------------------


class TestURLs:
    """What is sent is what RFC 3986 allows, and no two readers take a host for different ones."""

    def test_bytes_go_out_as_they_are_in_urls_queries_and_forms(self, client):
        with Server(*[page()] * 3) as server:
            client.get(server.url.encode() + b"/\xff")
            client.get(server.url, {b"\xff": b"\xfe"})
            client.post(server.url, {"a": [b"\xff", "ü"]})
        assert server.lines[:2] == ["GET /%FF HTTP/1.1", "GET /?%FF=%FE HTTP/1.1"]
        assert server.requests[2].endswith(b"\r\n\r\na=%FF&a=%C3%BC")

    SENT = {  # path and query as a caller writes them: as they are sent
        "": "/", "?q": "/?q", "/a b": "/a%20b", "/\u00fc?\u00f6=\u00e4": "/%C3%BC?%C3%B6=%C3%A4",
        '/<>"{}|^`\\': "/%3C%3E%22%7B%7D%7C%5E%60%5C", "/[1]?a[]=[x]": "/%5B1%5D?a%5B%5D=%5Bx%5D",
        "/%20%zz%": "/%20%25zz%25", "/%c3%bc%2F?%26": "/%c3%bc%2F?%26", "/x?-._~!$&'()*+,;=:@/?": "/x?-._~!$&'()*+,;=:@/?",
        "//a//b/../c/.": "//a//b/../c/.", "/x?a=b+c#part?/": "/x?a=b+c", "/?" + "q" * 20_000: "/?" + "q" * 20_000, "/a?http://u@h/": "/a?http://u@h/",
    }  # fmt: skip

    @parametrize("written", SENT)
    def test_what_a_uri_may_not_contain_is_percent_encoded_and_nothing_else(self, written, client):
        with Server(page()) as server:
            client.get(server.url + written)
        assert server.lines == [f"GET {self.SENT[written]} HTTP/1.1"]

    @parametrize("host", ["bücher.Example", "उदाहरण.परीक्षा", "παράδειγμα.δοκιμή", "例え.テスト", "مثال.إختبار", "ตัวอย่าง.example"])
    def test_a_host_about_which_the_standards_agree_is_encoded(self, host, network):
        session = static_session(base_url=f"http://{host}", allow_http=True, handlers=[network])
        assert session.get("/").url == "http://" + host.encode("idna").decode().lower() + "/"

    HOSTS = (
        "stra\u00dfe.example|\u1d43pi.example|\u13a0.example|\u03b2\u03cc\u03bb\u03bf\u03c2.example|a\u200db.example|\u2603.example|auth.example\uff0f.evil.example"
        "|user@auth.example|user:s3cret@auth.example|auth%2eexample|auth.example\\.evil.example|auth example|auth..example"
        "|.auth.example||[::1|::1|[::1%25eth0]|auth.example:0|auth.example:65536|auth.example:x|auth.example\n|auth.example/\r\nX: y"
    )

    @parametrize("host", HOSTS.split("|"))
    def test_a_host_that_two_readers_could_take_for_different_ones_is_refused(self, host):
        with pytest.raises(ValueError, match="base_url"):
            static_session(base_url="https://" + host)
        error = raised_by(OAuthSession, CLIENT, SECRET, None, "https://" + host, kind=ValueError)
        assert "token_url" in str(error)
        assert "s3cret" not in str(error)
        assert host.isascii() or "xn--" in str(error)

    @parametrize("url", ["HTTPS://AUTH.example", "http://LOCALHOST:8080/x", "http://127.255.1.2:1", "http://[::1]:65535/"])
    def test_https_and_loopback_are_allowed(self, url):
        OAuthSession(CLIENT, SECRET, None, url)

    NOT_LOOPBACK = (
        "auth.example localhost. localhost.example a.localhost 127.0.0.1.example 127.1 127.0.0.256 127.00.0.1 128.0.0.1"
        " 0.0.0.0 [::2] [::ffff:127.0.0.1] 2130706433"
    )

    @parametrize("host", NOT_LOOPBACK.split())
    def test_other_http_needs_allow_http(self, host):
        url = "HTTP://" + host
        OAuthSession(CLIENT, SECRET, None, url, allow_http=True)
        with pytest.raises(ValueError, match="token_url must start with https"):
            OAuthSession(CLIENT, SECRET, None, url)

    @parametrize("charset", ["idna", "no-such", "utf-7", "utf-8le", "utf-8;" + '";' * 9000])
    def test_no_charset_breaks_or_stops_text(self, charset, client):
        with Server(page("200 OK", "ä".encode(), f"Content-Type: text/plain; charset={charset}")) as server:
            response = client.get(server.url)
        assert response.text == "ä"


# ---- Connections -----------------------------------------------------------------------------------------------------


class Proxy(Server):
    """A proxy that opens tunnels, to one server wherever they shall lead."""

    def __init__(self, server):
        super().__init__(self.open_tunnel)
        self.target = ("127.0.0.1", server.port)

    def open_tunnel(self, sock):
        with socket.create_connection(self.target, PATIENCE) as upstream:
            sock.sendall(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n" + SMUGGLED)  # never taken
            back = threading.Thread(target=self.copy, args=(upstream, sock), daemon=True)
            back.start()
            self.copy(sock, upstream)
            back.join(PATIENCE)

    @staticmethod
    def copy(source, target):
        with contextlib.suppress(OSError):
            for data in iter(lambda: source.recv(65536), b""):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello, world"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n"
KEPT = [  # answers of "hello, world", after which the connection is used again
    LENGTH,
    CHUNKS,
    b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nContent-Length: 12\r\n\r\nhello, world",
    b"HTTP/1.1 200 OK\r\nContent-Length: 12, 12\r\n\r\nhello, world",
    b"HTTP/1.1 200\r\nContent-Length: 12\r\n\r\nhello, world",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0C\r\nhello, world\r\n000\r\n\r\n",
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nc \t;a="b"\r\nhello, world\r\n0;c\r\n\r\n',
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nc\r\nhello, world\r\n0\r\nX: y\r\nContent-Length: 9\r\n\r\n",
    b"HTTP/1.1 103 Hints\r\nContent-Length: 9\r\n\r\n" * 20 + LENGTH,
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 42000 + b"Content-Length: 12\r\n\r\nhello, world",  # 250 KiB
]
CLOSED = [  # such answers, after which it is not
    LENGTH + b"\n",
    CHUNKS + SMUGGLED,
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\nc\r\nhello, world\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 12\r\n\r\nhello, world",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nc\r\nhello, world\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: x\r\nconnection: CLOSE\r\nContent-Length: 12\r\n\r\nhello, world",
    (HEAD + b"hello, world",),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Identity\r\n\r\nhello, world",),
]
NO_BODY = [b"HTTP/1.1 204 None\r\n\r\n", b"HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n", OK + b"Content-Length: 0\r\n\r\n"]
NO_BODY_OF_HEAD = [HEAD, OK + b"Content-Length: 5\r\n\r\n", CHUNKED]
BAD_HEADERS = (
    b"Content-Length: +5|Content-Length: 0x5|Content-Length: 5.0|Content-Length: 5 5|Content-Length:|Content-Length: 5, 6"
    b"|Content-Length: \xb2|Content-Length: 5\r\nContent-Length: 6|Content-Length: x\r\nTransfer-Encoding: chunked"
    b"|Transfer-Encoding: gzip|Transfer-Encoding: gzip, chunked|Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"
    b"|Transfer-Encoding: identity, chunked|Transfer-Encoding: xchunked|Transfer-Encoding: chunked;a|Transfer-Encoding:"
    b"|no colon|: no name|A B: c|Content-Length : 5|X: a\0b|X: a\rContent-Length: 3| X: y|\xe9: x"
).split(b"|")
BAD_HEADERS += [b"Content-Length: " + b"9" * 5000, b"X: " + b"y" * (256 << 10)]
BAD_CHUNKS = (
    b"-5\r\nhello|0x5\r\nhello|\r\nhello|0_5\r\nhello| 5\r\nhello|;a\r\nhello|5 5\r\nhello|FFFFFFFFFFFFFFFFF\r\nhello"
    b"|4\r\nhello|7\r\nhello|6\r\nhello|5\nhello|5;\nhello|5\r\nhello\r\n0\r\nno colon"
).split(b"|")
BAD_CHUNKS.append(b"5;" + b"x" * (256 << 10) + b"\r\nhello")
BAD_STARTS = (
    b"HTTP/1.1 2000 OK|HTTP/1.1 99 OK|HTTP/1.1 2_0 OK|HTTP/1.1  200 OK|HTTP/2 200 OK|HTTP/1.12 200 OK|ICY 200 OK"
    b"|http/1.1 200 OK|HTTP/1.1|HTTP/1.1 \xb2\xb2\xb2 OK||HTTP/1.1 101 Up\r\n\r\nHTTP/1.1 200 OK"
).split(b"|")
REFUSED = [OK + line + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n" for line in BAD_HEADERS]
REFUSED += [CHUNKED + chunks + b"\r\n0\r\n\r\n" for chunks in BAD_CHUNKS]
REFUSED += [line + b"\r\nContent-Length: 5\r\n\r\nhello" for line in BAD_STARTS]
REFUSED += [(b"",), (b"HTTP/1.1 100 Continue\r\n\r\n",), (OK,), reset]
CUT_CHUNKS = b"|9\r\nhello|5\r\nhello|5\r\nhello\r\n|5\r\nhello\r\n0\r\n|5\r\nhello\r\n0\r\nX: y\r\n".split(b"|")
CUT_BODIES = [LENGTH[:-1], b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999\r\n\r\nfor which no memory is allocated"]
CUT_BODIES += [CHUNKED + chunks for chunks in CUT_CHUNKS]


class TestConnections:
    """Connections are kept where that is safe, and no byte of a server is taken for what it is not."""

    @staticmethod
    def call_twice(client, answer, method="GET", tls=None):
        """Return the content of the first answer, and how many connections both calls took."""
        with Server(answer, SECOND, tls=tls) as server:
            first = client.request(method, server.url)
            second = client.get(server.url)
        assert second.content == b"second"
        return first.content, server.accepted

    @parametrize("answer", KEPT)
    def test_a_connection_whose_answer_ends_beyond_doubt_is_used_again(self, client, answer):
        assert self.call_twice(client, answer) == (b"hello, world", 1)

    @parametrize("answer", CLOSED)
    def test_a_connection_whose_answer_may_be_read_otherwise_is_closed(self, client, answer):
        assert self.call_twice(client, answer) == (b"hello, world", 2)

    @parametrize("answer", NO_BODY + NO_BODY_OF_HEAD)
    def test_an_answer_without_a_body_is_empty_and_what_follows_is_never_taken(self, client, answer):
        method = "HEAD" if answer in NO_BODY_OF_HEAD else "GET"
        assert self.call_twice(client, answer, method) == (b"", 1)
        assert self.call_twice(client, answer + SMUGGLED, method) == (b"", 2)

    @parametrize("rest", [LENGTH[15:], CHUNKED[15:]])
    def test_a_204_that_announces_a_body_closes_the_connection(self, client, rest):
        assert self.call_twice(client, b"HTTP/1.1 204 No" + rest) == (b"", 2)

    @parametrize("answer", REFUSED)
    def test_an_answer_that_is_cut_off_or_not_well_formed_is_refused(self, client, answer):
        with Server(answer, SECOND) as server:
            error = raised_by(client.get, server.url)
            second = client.get(server.url)
        assert not isinstance(error, (HTTPError, OAuthError))
        assert_hidden(error)
        assert second.content == b"second"
        assert server.accepted == 2
        assert server.count == 2

    @parametrize("answer", CUT_BODIES)
    @parametrize("method, size", [("read", None), ("read", 3), ("read1", 3), ("readline", -1)])
    def test_a_body_that_is_cut_off_is_a_url_error_however_it_is_read(self, client, method, size, answer):
        with Server((answer,)) as server, client.open(server.url) as opened:
            read = getattr(opened, method)
            with pytest.raises(URLError):
                while read(size):
                    pass

    def test_a_body_left_unread_does_not_reach_the_next_answer(self, client):
        with Server(page("200 OK", b"x" * 100000), SECOND) as server:
            with client.open(server.url) as answer:
                assert answer.read(10) == b"x" * 10
            with client.open(server.url) as second:
                assert second.read(-1) == b"second"
        assert server.accepted == 2

    def test_a_gzip_that_unpacks_to_more_than_64_mib_is_a_url_error(self, client):
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        pieces = [packer.compress(bytes(1 << 20)) for _ in range(65)]
        packed = b"".join(pieces) + packer.flush()
        with Server(page("200 OK", packed, "Content-Encoding: gzip")) as server:
            with pytest.raises(URLError, match=r"session\.open"):
                client.get(server.url)

    def test_threads_share_the_kept_connections(self, client):
        together = threading.Barrier(8)

        def answer(sock):
            together.wait(PATIENCE)
            return HELLO

        with Server(answer) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
            for _ in range(3):
                responses = list(pool.map(client.get, [server.url] * 8))
                assert [response.content for response in responses] == [b"hello"] * 8
        assert server.accepted == 8
        assert server.count == 24

    def test_the_end_of_with_closes_the_connections_and_the_session_goes_on(self):
        with Server(HELLO) as server:
            with static_session() as session:
                session.get(server.url)
            server.threads[1].join(PATIENCE)  # it ends with its connection
            assert not server.threads[1].is_alive()
            session.get(server.url)
        assert server.accepted == 2

    @parametrize("wall, steady, accepted", [(59, 59, 1), (61, 0, 2), (-3600, 61, 2)])
    def test_an_idle_connection_is_dropped_after_a_minute_by_either_clock(self, clock, client, wall, steady, accepted):
        with Server(HELLO) as server:
            client.get(server.url)
            clock.move(wall, steady)
            client.get(server.url)
        assert server.accepted == accepted

    def test_of_more_than_64_idle_connections_the_oldest_are_closed(self):
        with Server(HELLO) as server:
            proxy = urllib.request.ProxyHandler({"http": server.url})
            session = static_session(allow_http=True, handlers=[proxy])
            for number in (*range(66), 65, 0):
                session.get(f"http://host-{number}.example/")
        assert server.accepted == 67  # the last was kept, the first was not

    def test_a_connection_that_the_server_closed_meanwhile_is_replaced(self, client):
        with Server((HELLO,), SECOND) as server:
            client.get(server.url)
            server.threads[1].join(PATIENCE)  # it ends with its connection
            second = client.post(server.url)  # which could not be sent again
        assert second.content == b"second"
        assert server.accepted == 2
        assert server.count == 2

    def test_an_answer_that_comes_unasked_on_an_idle_connection_is_never_taken(self, client):
        done = threading.Event()
        smuggled = threading.Event()

        def answer(sock):
            sock.sendall(HELLO)
            assert done.wait(PATIENCE)
            sock.sendall(SMUGGLED)
            smuggled.set()
            return b""

        with Server(answer, SECOND) as server:
            client.get(server.url)
            done.set()
            assert smuggled.wait(PATIENCE)
            second = client.get(server.url)
        assert second.content == b"second"
        assert server.accepted == 2

    @parametrize("size", [5, 8192])
    def test_what_a_tls_record_holds_beyond_an_answer_is_not_the_next_one(self, tls, trusting, size):
        def first(sock):
            sock.sendall(OK + b"Content-Length: %d\r\n\r\n" % size)
            return b"x" * size + SMUGGLED  # in a record of their own

        with static_session(context=trusting) as session:
            content, connections = self.call_twice(session, first, tls=tls)
        assert content == b"x" * size
        assert connections == 2

    @parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "PUT"])
    def test_an_idempotent_request_on_a_kept_connection_that_breaks_is_sent_once_more(self, client, method):
        data = b"x" if method == "PUT" else None
        with Server(HELLO, None, page()) as server:
            client.get(server.url)
            response = client.request(method, server.url, data=data)
        assert response.status == 200
        assert server.requests[1] == server.requests[2]
        assert server.accepted == 2

    @parametrize("method, answer", [("POST", None), ("PUT", None), ("DELETE", (b"H",))])
    def test_no_other_request_and_none_that_is_being_answered_is_sent_again(self, client, method, answer):
        data = iter([b"x"]) if method == "PUT" else None
        with Server(HELLO, answer, page()) as server:
            client.get(server.url)
            with pytest.raises(URLError):
                client.request(method, server.url, data=data)
        assert server.count == 2

    @parametrize("begun", [b"", OK, OK + b"Content-Length: 9\r\n\r\nhello", CHUNKED + b"9\r\nhel"])
    def test_a_time_out_is_a_url_error_and_not_tried_again(self, client, begun):
        def stall(sock):
            sock.sendall(begun)
            sock.recv(1)

        with Server(HELLO, stall) as server:
            client.get(server.url)
            error = raised_by(client.get, server.url, timeout=0.1)
        assert isinstance(error.reason, socket.timeout)
        assert server.accepted == 1

    @parametrize("begun", [OK + b"X: ", CHUNKED])
    def test_an_api_that_sends_a_line_byte_by_byte_ends_with_the_time_out(self, client, begun):
        with Server(lambda sock: server.send_slowly(sock, begun, b"0")) as server:
            error = raised_by(client.get, server.url, timeout=0.5)
        assert isinstance(error.reason, socket.timeout)

    @parametrize("head, event, end", [
        (CHUNKED, b"2\r\nx\n\r\n", b"0\r\n\r\n"), (OK + b"Content-Length: 10\r\n\r\n", b"x\n", b"")])
    def test_open_gives_each_event_when_it_is_sent_however_long_it_takes(self, client, clock, head, event, end):
        taken = threading.Semaphore(0)

        def stream(sock):
            sock.sendall(head)
            for _ in range(5):
                sock.sendall(event)
                assert taken.acquire(timeout=PATIENCE), "the client waits for more than was sent"
                clock.move(20)
            return end

        lines = []
        with Server(stream) as server, client.open(server.url, timeout=30) as answer:
            for line in answer:
                lines.append(line)
                taken.release()
        assert lines == [b"x\n"] * 5

    def test_a_connection_that_the_caller_closes_is_not_used_again(self, client):
        with Server(HELLO) as server:
            client.get(server.url, headers={"connection": "Close"})
            client.get(server.url)
        assert server.header("connection")[0] == "Close"
        assert server.accepted == 2

    def test_a_session_that_is_dropped_without_close_warns_of_nothing(self):
        done = program("""
            import gc
            from oauth_session import DemoServer, OAuthSession
            with DemoServer() as server:
                for _ in range(2):
                    session = OAuthSession(server.client_id, server.client_secret, "read", server.token_url)
                    print(session.get(server.url).status)
                    session._again = session  # a cycle, for the garbage collector
                    gc.collect()
        """)
        assert done == b"200\n200\n"

    @parametrize("size", [b"4", b"x\r\n"])
    def test_an_answer_that_is_read_on_after_an_error_leaves_nothing_to_the_next(self, client, size):
        def stall(sock):
            sock.sendall(CHUNKED + size)
            failed.wait(PATIENCE)
            return b"0\r\n\r\n"

        failed = threading.Event()
        with Server(stall, HELLO) as server:
            with client.open(server.url, timeout=0.1) as answer:
                with pytest.raises(URLError):
                    answer.read()
                failed.set()
                with contextlib.suppress(URLError):
                    answer.read()
            response = client.get(server.url, timeout=None)
        assert response.content == b"hello"
        assert server.accepted == 2

    @needs_fork
    def test_the_child_of_a_fork_shares_no_connection(self, client):
        with Server(HELLO) as server:
            client.get(server.url)
            status = forked(lambda: client.get(server.url).content == b"hello")
            after = client.get(server.url)
        assert status == 0
        assert after.content == b"hello"
        assert server.accepted == 2
        assert server.count == 3

    def test_a_body_of_known_length_is_sent_with_it_whatever_is_said(self, client, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"12hello")
        with open(path, "rb") as file, open(path, "rb", 0) as unbuffered, Server(page()) as server:
            file.seek(2)
            unbuffered.seek(2)
            past = io.BytesIO(b"hello")
            past.seek(9)
            for body in (b"hello", bytearray(b"hello"), memoryview(b"hello"), io.BytesIO(b"hello"), file, unbuffered, past):
                request = urllib.request.Request(server.url, body, {"Content-Length": "3"})
                client.open(request).close()
        assert server.header("content-length") == ["5"] * 6 + ["0"]
        assert server.header("transfer-encoding") == [None] * 7
        assert server.header("accept-encoding") == ["identity"] * 7
        assert server.bodies == [b"hello"] * 6 + [b""]

    def test_any_other_body_is_sent_in_chunks(self, client, tmp_path):
        path = tmp_path / "file.gz"
        path.write_bytes(gzip.compress(b"hello"))
        with gzip.open(path) as unpacked, Server(page()) as server:
            for body in (unpacked, [b"hel", b"", b"lo"], iter([b"hel", b"lo"])):
                client.open(server.url, body).close()
        assert server.header("transfer-encoding") == ["chunked"] * 3
        assert server.header("content-length") == [None] * 3
        for chunks in server.bodies:
            assert re.sub(rb"[0-9a-f]+\r\n(.*?)\r\n", rb"\1", chunks) == b"hello"

    @parametrize("wrong", ["4", "9"])
    def test_a_length_that_the_caller_gives_with_such_a_body_is_a_promise(self, client, wrong):
        with Server(page()) as server:
            client.open(server.url, iter([b"hel", b"lo"]), headers={"Content-Length": "5"}).close()
            with pytest.raises(ValueError, match="Content-Length"):
                client.open(server.url, iter([b"hel", b"lo"]), headers={"Content-Length": wrong})
            response = client.get(server.url)
        assert server.header("content-length") == ["5", None]  # of the wrong one too little has come
        assert server.header("transfer-encoding") == [None, None]
        assert server.bodies == [b"hello", b""]
        assert response.status == 200
        assert server.accepted == 2

    def test_an_answer_that_comes_during_an_upload_is_found_and_its_connection_closed(self, client):
        answered = threading.Event()

        def answer_and_stop_reading(sock):
            sock.sendall(page("413 Too Large", b"no"))
            answered.set()
            server.closing.wait(PATIENCE)

        def body():
            yield b"begins"
            assert answered.wait(PATIENCE)
            yield bytes(32 << 20)

        server = Server(answer_and_stop_reading, SECOND)
        server.complete = lambda request: b"\r\n\r\n" in request  # it answers as soon as it has the head
        with server:
            response = client.post(server.url, data=body(), timeout=0.5)
            second = client.get(server.url, timeout=PATIENCE / 2)  # the first connection says no more
        assert response.status == 413
        assert response.content == b"no"
        assert second.content == b"second"
        assert server.accepted == 2

    def test_an_address_that_does_not_work_is_followed_by_the_next_one(self, client, monkeypatch):
        real = socket.getaddrinfo
        hosts = []

        def getaddrinfo(host, port, *more):
            hosts.append(host)
            strange = (250, socket.SOCK_STREAM, 0, "", ("?", 1))  # no system has this family
            return [strange, *real("127.0.0.1", 1, *more), *real("127.0.0.1", port, *more)]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        with Server(HELLO) as server:
            response = client.get(f"http://localhost:{server.port}")
        assert response.content == b"hello"
        assert hosts == ["localhost"]
        assert type(hosts[0]) is str

    def test_https_goes_through_one_tunnel_which_never_sees_the_token(self, tls, trusting):
        with Server(HELLO, tls=tls) as api, Proxy(api) as proxy:
            handler = urllib.request.ProxyHandler({"https": f"http://user:pass@{proxy.place}"})
            with static_session(handlers=[handler], context=trusting) as session:
                session.get(api.url)
                session.get(api.url)
        assert proxy.lines == [f"CONNECT {api.place} HTTP/1.1"]
        assert proxy.header("proxy-authorization") == ["Basic dXNlcjpwYXNz"]
        assert proxy.header("authorization") == [None]
        assert api.header("authorization") == [BEARER] * 2
        assert api.header("proxy-authorization") == [None] * 2

    def test_a_bare_opener_sends_its_replay_through_a_tunnel_like_the_first_try(self, tls, trusting):
        with Server(page("401 No"), HELLO, tls=tls) as api, Proxy(api) as proxy:
            handlers = urllib.request.ProxyHandler({"https": proxy.url}), urllib.request.HTTPSHandler(context=trusting)
            bare_opener(source_of("t-1", "t-2"), api.url, *handlers).open(api.url + "/x").close()
        assert api.lines == ["GET /x HTTP/1.1"] * 2
        assert api.header("authorization") == ["Bearer t-1", "Bearer t-2"]

    def test_a_host_of_no_proxy_is_reached_directly(self, tls, trusting, monkeypatch):
        monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with Server(HELLO, tls=tls) as api, static_session(context=trusting) as session:
            response = session.get(api.url)
        assert response.content == b"hello"

    @pytest.fixture(params=["API", "http", "token"])
    def error_through(self, request, monkeypatch, clock):
        """Make a call through a proxy; return the text of its error, in which no secret shows."""

        def call(proxy):
            monkeypatch.setenv("https_proxy", proxy)
            monkeypatch.setenv("http_proxy", proxy)
            url = "http://api.example/" if request.param == "http" else "https://127.0.0.1:1/"
            session = static_session(allow_http=True, handlers=[urllib.request.HTTPCookieProcessor])
            if request.param == "token":
                session = OAuthSession(CLIENT, SECRET, None, url)
            with session:
                error = raised_by(session.get, url)
            assert not isinstance(error, HTTPError)
            assert isinstance(error, OAuthTransportError) == (request.param == "token")
            assert_hidden(error, *HIDDEN, "pr0xy-pass", "dXNlcjpwcjB4eS1wYXNz")
            return str(error)

        return call

    @parametrize("scheme", ["socks5h", "https"])
    def test_a_proxy_that_is_not_spoken_to_in_http_is_refused_before_a_byte_is_sent(self, error_through, scheme):
        with Server(page("502 No")) as proxy:
            text = error_through(f"{scheme}://user:pr0xy-pass@{proxy.place}")
        misspelt = error_through("http:/user:pr0xy-pass@proxy:3128")
        assert f"no usable answer from the proxy {scheme}://{proxy.place}" in text
        assert "http://host:port" in text
        assert "http://host:port" in misspelt
        assert proxy.accepted == 0

    def test_a_proxy_that_hangs_up_is_named(self, error_through):
        with Server(None) as proxy:
            text = error_through(proxy.url)
        assert f"no usable answer from the proxy {proxy.url}" in text

    @parametrize("error_through", ["API", "token"], indirect=True)
    @parametrize("answer, told", [(b"HTTP/1.1 302 Found\r\nContent-Length: 4\r\n\r\npage", "302"), (b"nonsense\r\n\r\n", "status line")])
    def test_a_proxy_that_gives_no_tunnel_is_asked_once_and_named(self, error_through, answer, told):
        with Server(answer) as proxy:
            text = error_through(f"http://user:pr0xy-pass@{proxy.place}")
        assert f"no usable answer from the proxy {proxy.url}" in text
        assert told in text
        assert proxy.lines == ["CONNECT 127.0.0.1:1 HTTP/1.1"]


@pytest.fixture
def system(authorities, monkeypatch):
    """A system with a hashed directory and a bundle; it records the contexts, and how often the bundle is loaded."""
    monkeypatch.setenv("SSL_CERT_DIR", str(authorities.directory))
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    os.putenv("SSL_CERT_FILE", str(authorities.bundle))  # OpenSSL sees it, os.environ does not: as a built-in default
    authorities.made = []
    authorities.loads = 0
    authorities.policy = ssl.TLSVersion.MINIMUM_SUPPORTED
    make = ssl.create_default_context
    load = ssl.SSLContext.load_default_certs

    def create_default_context(*arguments, **options):
        context = make(*arguments, **options)
        context.minimum_version = authorities.policy
        authorities.made.append(context)
        return context

    def load_default_certs(context, *arguments):
        authorities.loads += 1
        return load(context, *arguments)

    monkeypatch.setattr(ssl, "create_default_context", create_default_context)
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", load_default_certs)
    yield authorities
    os.unsetenv("SSL_CERT_FILE")


class TestCertificates:
    """The verdict is that of Python's default context, whatever was loaded for it."""

    ADVICE = {"unknown": "load_verify_locations", "unknown-ca": "load_verify_locations", "expired": "renew", "other-name": "the host in the URL"}

    @parametrize("call", ["API", "token endpoint"])
    @parametrize("name", ADVICE)
    def test_a_refused_certificate_is_told_once_with_advice_that_fits_it(self, system, name, call):
        with Server(grant(), tls=system.server(name)) as server:
            session = static_session()
            if call == "token endpoint":
                session = session_of(server)
            with session:
                error = raised_by(session.get, server.url)
        found = {advice for advice in self.ADVICE.values() if advice in str(error)}
        assert found == {self.ADVICE[name]}
        assert "is token_url right" not in str(error)
        assert f"the certificate of {server.url} was refused" in str(error)
        assert server.requests == []
        assert server.accepted == 2  # by the hashed directory, and by all certificates

    def test_all_certificates_are_loaded_once_where_it_does_not_suffice(self, system, client):
        with Server(HELLO, tls=system.server("unknown")) as bad, Server(HELLO, tls=system.server("bundle")) as good:
            for _ in range(2):
                with pytest.raises(URLError):
                    client.get(bad.url)
            client.get(good.url)
        assert system.loads == 1
        assert bad.accepted == 3
        assert good.accepted == 1

    @parametrize("name, variable", [("directory", "SSL_CERT_DIR"), ("bundle", "SSL_CERT_FILE")])
    def test_the_environment_is_honoured(self, authorities, client, monkeypatch, name, variable):
        monkeypatch.setenv("SSL_CERT_DIR", "/no/such")
        monkeypatch.setenv("SSL_CERT_FILE", "/no/such")
        monkeypatch.setenv(variable, str(getattr(authorities, name)))
        with Server(HELLO, tls=authorities.server(name)) as server:
            response = client.get(server.url)
        assert response.content == b"hello"

    def test_a_context_of_the_user_is_never_changed(self, system):
        context = ssl.create_default_context(capath=str(system.directory))
        with Server(HELLO, tls=system.server("bundle")) as server, static_session(context=context) as session:
            error = raised_by(session.get, server.url)
        assert isinstance(error.reason, ssl.SSLCertVerificationError)
        assert server.accepted == 1
        assert system.loads == 0
        assert system.made == [context]
        assert context.minimum_version == system.policy

    @parametrize("policy, minimum", [("MINIMUM_SUPPORTED", "TLSv1_2"), ("TLSv1_3", "TLSv1_3")])
    def test_tls_is_1_2_or_what_a_stricter_system_wants(self, system, client, policy, minimum):
        system.policy = ssl.TLSVersion[policy]
        with Server(HELLO, tls=system.server("directory")) as server:
            client.get(server.url)
        assert system.made[0].minimum_version == ssl.TLSVersion[minimum]

    def test_one_context_is_made_at_first_use_and_reads_of_the_hashed_directory_what_it_needs(self, system, tls):
        with Server(HELLO, tls=tls) as api, Server(grant(), tls=tls) as auth, Server(HELLO) as plain:
            with OAuthSession(CLIENT, SECRET, "read", auth.url) as session, static_session() as other:
                other.get(plain.url)
                assert system.made == []
                session.get(api.url)
        assert len(system.made) == 1
        assert system.loads == 0
        assert api.accepted == 1
        assert auth.accepted == 1

    def test_the_trailing_dot_of_a_host_stays_out_of_sni_and_of_the_check(self, tls, trusting, monkeypatch):
        real = socket.getaddrinfo
        hosts = []
        names = []

        def getaddrinfo(host, *more):
            hosts.append(host)
            return real("127.0.0.1", *more)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        tls.sni_callback = lambda sock, name, context: names.append(name)
        with Server(HELLO, tls=tls) as server, static_session(context=trusting) as session:
            response = session.get(f"https://API.test.:{server.port}")
        assert response.content == b"hello"
        assert hosts == ["api.test."]
        assert names == ["api.test"]

    def test_a_tls_stream_that_is_cut_is_no_whole_body(self, authorities, tls, monkeypatch):
        def cut(sock):
            sock.sendall(HEAD + b"half of i")
            with socket.socket(fileno=os.dup(sock.fileno())) as below:
                below.shutdown(socket.SHUT_RDWR)  # without the alert that ends TLS

        def end(sock):
            sock.sendall(HEAD + b"all of it")
            sock.unwrap().close()

        monkeypatch.setenv("SSL_CERT_FILE", str(authorities.path / "directory-ca.pem"))
        with Server(cut, tls=tls) as bad, Server(end, tls=tls) as good, static_session() as session:
            with pytest.raises(URLError):
                session.get(bad.url)
            response = session.get(good.url)
        assert response.content == b"all of it"

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the reset may arrive before the alert")
    def test_an_alert_of_tls_is_what_the_error_says_however_much_was_being_sent(self, tls, trusting):
        tls.verify_mode = ssl.CERT_REQUIRED
        with Server(HELLO, tls=tls) as server, static_session(context=trusting) as session:
            for size in (10, 200000):
                with pytest.raises(URLError, match=r"(?i)alert|certificate required"):
                    session.post(server.url, data=bytes(size))


# ---- Token -----------------------------------------------------------------------------------------------------------


class TestToken:
    """A value, and when it ends."""

    NOW = 1_000_000.0

    @staticmethod
    def of(**fields):
        return Token.from_response({"access_token": TOKEN, **fields}, TestToken.NOW)

    def test_a_usable_expires_in_counts_from_the_request_and_any_other_as_missing(self):
        for seconds in (3600, 3600.5, "3.6e3"):
            token = self.of(expires_in=seconds)
            assert token.expires_at == self.NOW + float(seconds)
        for value in (None, 0, "-5", "3600s", True, [3600], float("nan"), "Infinity", 1e300, 10**400):
            token = self.of(expires_in=value)
            assert token.expires_at is None

    def test_the_time_of_the_request_is_now_by_default_and_the_type_bearer(self):
        before = time.time()
        token = Token.from_response({"access_token": TOKEN, "expires_in": 60})
        assert token.token_type == "Bearer"
        assert before + 60 <= token.expires_at <= time.time() + 60

    def test_a_token_of_any_type_is_sent_as_bearer_unless_that_needs_more_than_a_header(self, caplog):
        caplog.set_level(logging.INFO)
        for kind in ("bearer", None, "", "Application Access Token"):
            with Server(grant(token_type=kind)) as server:
                assert TokenSource(credentials(server)).authorization() == "Bearer " + TOKEN
        for kind in ("mac", "DPoP", "PoP", "N_A"):
            with pytest.raises(OAuthMalformedResponse, match="token_type"):
                self.of(token_type=kind)
        assert len(caplog.records) == 1
        assert "Application Access Token" in caplog.text

    def test_an_access_token_that_fits_no_header_is_refused(self):
        for value in (None, 5, "", TOKEN + " x", TOKEN + "\r\nX: y", "a\n", "ü", "a" * 70_000):
            answered = raised_by(self.of, access_token=value, kind=OAuthMalformedResponse)
            direct = raised_by(Token, value, kind=ValueError)
            assert "access_token" in str(direct)
            assert_hidden(answered)
            assert_hidden(direct)

    def test_scope_is_text_whatever_the_server_sends(self):
        assert self.of(scope="a b").scope == "a b"
        assert self.of(scope=["a", "b"]).scope == "a b"
        assert self.of(scope=5).scope is None

    def test_it_cannot_be_changed_and_no_text_of_it_shows_the_token(self):
        answer = {"access_token": TOKEN, "token_type": TOKEN, "scope": f"read {TOKEN}"}
        token = Token.from_response(answer)
        answer["access_token"] = "x"
        assert token.raw["access_token"] == TOKEN
        for name in ("access_token", "token_type", "expires_at", "scope", "raw", "another"):
            with pytest.raises(AttributeError):
                setattr(token, name, "x")
        assert_hidden(token)

    @COPIES
    def test_a_copy_is_equal_and_whole(self, copy_of):
        token = self.of(expires_in=60, scope="a b", refresh_in=30)
        other = copy_of(token)
        assert other == token
        assert hash(other) == hash(token)
        assert [getattr(other, name) for name in Token.__slots__] == [getattr(token, name) for name in Token.__slots__]
        assert other not in (Token(TOKEN_1), TOKEN)


# ---- ClientCredentials -----------------------------------------------------------------------------------------------


class TestClientCredentials:
    """One token request: its bytes, its tries, its deadline, and the judgement of the answer."""

    def test_the_request_is_exactly_this(self):
        with Server(grant()) as server:
            token = credentials(server, scope=["wri+te", "read"], headers={"X-Own": "for the API alone"})()
        assert token.access_token == TOKEN
        assert token.scope == "wri+te read"
        headers = server.headers(0)
        assert server.lines == ["POST /token HTTP/1.1"]
        assert server.bodies == [b"grant_type=client_credentials&scope=wri%2Bte+read"]
        assert headers == {
            "host": server.place, "accept": "application/json", "accept-encoding": "identity", "authorization": "Basic " + BASIC,
            "content-type": FORM, "content-length": "49", "user-agent": f"oauth_session/{oauth_session.__version__}",
        }  # fmt: skip

    def test_a_method_that_is_named_is_used(self):
        with Server(grant()) as server:
            credentials(server, auth_method="client_secret_post")()
            credentials(server, auth_method="client_secret_basic_raw")()
            credentials(server, None, auth_method="tls_client_auth")()
        assert form_of(server, 0) == [FORM_ID, FORM_SECRET, "grant_type=client_credentials"]
        assert form_of(server, 1) == ["grant_type=client_credentials"]
        assert form_of(server, 2) == [FORM_ID, "grant_type=client_credentials"]
        assert server.header("authorization") == [None, "Basic " + BASIC_RAW, None]

    def test_further_fields_are_sent_and_replace_those_of_settings(self):
        params = {"organization": "ü", "n": 7, "no": None, "x": ["1", "2"], "scope": "other"}
        with Server(grant()) as server:
            fetch = credentials(server, scope="a b", audience=["a", "b"], resource="https://r/?x", token_params=params)
            fetch()
            params["x"].append("3")
            fetch()
        expected = "audience=a audience=b grant_type=client_credentials n=7 organization=%C3%BC"
        expected += " resource=https%3A%2F%2Fr%2F%3Fx scope=other x=1 x=2"
        for number in range(2):
            assert form_of(server, number) == expected.split()

    def test_the_scopes_of_a_set_are_sorted(self):
        names = set("abcdefgh")
        with Server(grant()) as server:
            credentials(server, scope=names, audience=frozenset(names))()
        assert b"scope=a+b+c+d+e+f+g+h&audience=a&audience=b" in server.bodies[0]

    @parametrize("no", [refusal(401), refusal(400, "invalid_request")])
    def test_the_method_that_a_server_takes_is_found_remembered_and_logged(self, no, caplog):
        caplog.set_level(logging.DEBUG)
        with Server(no, no, grant(), grant(), refusal(401)) as server:
            fetch = credentials(server)
            fetch()
            fetch()
            with pytest.raises(OAuthInvalidClient):
                fetch()
        assert server.header("authorization") == ["Basic " + BASIC, None, "Basic " + BASIC_RAW, "Basic " + BASIC_RAW, "Basic " + BASIC_RAW]
        assert FORM_SECRET in form_of(server, 1)
        assert caplog.text.count("name it as auth_method") == 1
        assert_hidden(caplog.text)

    @parametrize("answer", [refusal(401, "second"), refusal(400, "second"), page(body=b"<html>second")])
    def test_a_wrong_secret_costs_a_request_for_each_reading_of_it(self, answer):
        with Server(refusal(401), answer) as server:
            error = raised_by(ClientCredentials("c", "without-special-characters", None, server.url))
        assert type(error) is OAuthInvalidClient
        assert "(tried: client_secret_basic, client_secret_post)" in str(error)
        assert "second" not in str(error)
        assert server.count == 2

    def test_a_client_that_is_accepted_with_the_body_but_not_with_its_request_gets_that_error(self):
        with Server(refusal(401), refusal(400, "invalid_scope")) as server:
            error = refused(server)
        assert type(error) is OAuthInvalidScope
        assert [FORM_SECRET in form_of(server, number) for number in range(2)] == [False, True]

    def test_what_may_pass_is_tried_again_between_two_methods_too(self, clock):
        with Server(refusal(401), refusal(503), refusal(401), grant()) as server:
            credentials(server)()
        assert server.count == 4

    def test_a_refused_client_asks_a_secret_callable_once_more(self):
        secrets = iter(["old", "new", "newer", "newer"])
        with Server(refusal(401), grant(), refusal(401)) as server:
            fetch = ClientCredentials("c", lambda: next(secrets), None, server.url, auth_method="client_secret_post")
            fetch()
            with pytest.raises(OAuthInvalidClient):
                fetch()
        sent_secrets = [form_of(server, number)[1].partition("=")[2] for number in range(3)]
        assert sent_secrets == ["old", "new", "newer"]

    KINDS = {  # class: the statuses and codes that mean it
        OAuthInvalidClient: "401: 401:access_denied 401:server_error 401:unauthorized_client 403: 403:what_ever 400:invalid_client 200:invalid_client",
        OAuthTemporarilyUnavailable: "408: 425: 429: 503: 429:invalid_request 503:invalid_client 400:temporarily_unavailable",
        OAuthServerError: "500: 502: 599: 500:access_denied 400:server_error",
        OAuthMalformedResponse: "200: 204: 302:",
        OAuthResponseError: "400: 404: 400:what_ever",
        OAuthInvalidScope: "400:invalid_scope 401:invalid_scope 200:invalid_scope",
        OAuthInvalidTarget: "400:invalid_target 401:invalid_target",
        OAuthUnsupportedGrantType: "400:unsupported_grant_type 401:unsupported_grant_type",
    }

    @parametrize("kind", KINDS)
    def test_status_and_code_become_a_class_and_what_may_pass_is_tried_three_times(self, clock, kind):
        tries = 3 if kind in (OAuthTemporarilyUnavailable, OAuthServerError) else 1
        for answer in self.KINDS[kind].split():
            status, code = answer.split(":")
            with Server(refusal(status, code)) as server:
                error = refused(server, auth_method="client_secret_basic")
            assert type(error) is kind
            assert error.status == int(status)
            assert error.error == (code or None)
            assert f"{status} - {code}" in str(error)
            assert server.count == tries

    NO_TOKEN = (  # bodies
        b'|<html>|[]|access_token=T0KEN|{"access_token": "T0KEN\x01"}|{"access_token": "T0KEN\xff"}|{"access_token": ["T0KEN"]}'
        b'|{"access_token": "T0KEN\\ud800"}|{"access_token": "T0KEN", "token_type": "DPoP"}'
    )
    LONG = b'{"access_token": "T0KEN"}' + b" " * (1 << 20)
    UNUSABLE = [HEAD + body for body in NO_TOKEN.split(b"|")]
    UNUSABLE += [HEAD + b'{"a":' * 100000, HEAD + LONG, OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(LONG)]
    UNUSABLE.append(b'HTTP/1.1 302 Go\r\nLocation: /elsewhere\r\n\r\n{"access_token": "T0KEN"}')

    @parametrize("answer", UNUSABLE)
    def test_an_answer_without_a_usable_token_is_malformed_and_no_redirect_followed(self, answer):
        with Server((answer,)) as server:
            error = refused(server)
        assert type(error) is OAuthMalformedResponse
        assert server.count == 1

    @parametrize("answer", [
        b'\r\n{"access_token":"T0KEN","error":null,"expires_in":' + b"9" * 4000 + b"}",
        b"Content-Type: application/json; charset=UTF-16LE\r\n\r\n" + '{"access_token":"T0KEN"}'.encode("utf-16-le"),
        b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b'{"access_token":"T0KEN"}')])
    def test_an_odd_answer_is_a_token(self, answer):
        with Server((OK + answer,)) as server:
            token = credentials(server)()
        assert token.access_token == TOKEN
        assert token.expires_at is None

    def test_what_a_server_says_is_decoded_cleaned_and_cut(self):
        text = "für\x1b[31m\r\nno" + (BASIC * 10).ljust(980, "y") + BASIC * 99
        body = json.dumps({"error": ["x"], "error_description": text}, ensure_ascii=False).encode("latin-1")
        with Server(page("400 No", body, "Content-Type: application/json; charset=ISO-8859-1")) as server:
            error = refused(server)
        assert error.error is None
        assert error.error_description.startswith("für [31m  no")
        assert error.error_description.isprintable()
        assert BASIC[:6] not in error.error_description
        assert len(error.error_description) <= 503

    def test_of_a_body_that_is_no_json_only_status_type_and_length_are_shown(self):
        with Server(page("404 Not Found", b"<html>nothing</html>", "Content-Type: text/html")) as server:
            error = refused(server)
        assert "404" in str(error)
        assert "(text/html, 20 bytes)" in str(error)
        assert "is token_url right" in str(error)
        assert "nothing" not in str(error)

    @parametrize("answer", [refusal(503), None, reset, (OK + b"Content-Length: 2\r\n\r\n{",)])
    def test_what_may_pass_is_tried_again_after_a_while(self, clock, answer):
        with Server(answer, answer, grant()) as server:
            credentials(server)()
        assert server.count == 3
        first, second = clock.sleeps
        assert 0 <= first <= 0.5
        assert 0 <= second <= 1

    def test_a_server_that_hangs_up_is_named_with_what_to_check(self, clock):
        with Server(None) as server:
            error = refused(server)
        assert type(error) is OAuthTransportError
        assert server.url in str(error)
        assert "is token_url right" in str(error)

    RETRY_AFTER = {  # headers: the seconds that they mean, and how often the server is asked
        "Retry-After: 3": "3.0/3", "Retry-After: 16": "16.0/1", "Retry-After: 99999": "99999.0/1", "Retry-After: 1.5": "1.5/3",
        "Retry-After: Sat, 10 Jan 2004 13:37:24 GMT": "20.0/1", "Retry-After: Mon, 01 Jan 2001 00:00:00 GMT": "None/3",
    }  # fmt: skip

    @parametrize("headers", RETRY_AFTER)
    def test_retry_after_is_obeyed_if_it_fits_in_half_of_what_is_left(self, clock, headers):
        with Server(page("503 No", b"", headers)) as server:
            error = refused(server)
        wait = error.retry_after
        assert f"{wait}/{server.count}" == self.RETRY_AFTER[headers]
        assert wait is None or clock.sleeps == [wait] * (server.count - 1)

    ENDLESS = [  # what a server begins with, and repeats for ever
        (b"HTTP/1.1 200 ", b"a"), (OK, b"X: y\r\n"), (b"", b"HTTP/1.1 102 Processing\r\n\r\n"), (HEAD, b" "),
        (CHUNKED, b"64\r\n" + b" " * 100 + b"\r\n"), (CHUNKED + b"0\r\n", b"X: y\r\n")]

    @parametrize("begun, forever", ENDLESS)
    def test_an_answer_of_too_many_bytes_is_malformed_at_once(self, begun, forever):
        def send_on(sock):
            sock.sendall(begun)
            while True:
                sock.sendall(forever * 9999)

        with Server(send_on) as server:
            error = refused(server)
        assert type(error) is OAuthMalformedResponse
        assert server.url in str(error)

    @parametrize("begun, forever", [(b"", b""), *ENDLESS])
    def test_one_deadline_ends_what_never_ends(self, begun, forever):
        with Server(lambda sock: server.send_slowly(sock, begun, forever)) as server:
            error = refused(server, timeout=0.3)
        assert type(error) in (OAuthTransportError, OAuthMalformedResponse)
        assert server.count < 2  # it was not the server that gave up

    def test_token_requests_share_a_connection_and_no_cookie(self):
        with Server(page("400 No", b"x", "Set-Cookie: a=b"), grant()) as server:
            fetch = credentials(server, handlers=[urllib.request.HTTPCookieProcessor])
            with pytest.raises(OAuthResponseError):
                fetch()
            fetch()
        assert server.accepted == 1
        assert server.header("cookie") == [None, None]

    def test_what_holds_secrets_is_not_pickled(self, auth):
        session = session_of(auth)
        for thing in (session, session.source, credentials(auth)):
            with pytest.raises(TypeError, match="cannot be pickled"):
                pickle.dumps(thing)


JWT = collections.namedtuple("JWT", "header claims signed signature")
RFC_8414, OPENID = "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"


def assertion_of(server, number=0):
    """The assertion in a token request, in its parts."""
    fields = urllib.parse.parse_qs(server.bodies[number].decode())
    signed, _, signature = fields["client_assertion"][0].rpartition(".")
    header, claims = (base64.urlsafe_b64decode(part + "==") for part in signed.split("."))
    return JWT(json.loads(header), json.loads(claims), signed.encode(), base64.urlsafe_b64decode(signature + "=="))


class Issuer(Server):
    """Answers by path: metadata with these fields, or what is in `found`; elsewhere tokens."""

    def __init__(self, *answers, path="", tls=None, **fields):
        super().__init__(*answers or [grant()], tls=tls)
        self.issuer = self.url + path
        self.fields = {"issuer": self.issuer, "token_endpoint": self.url + "/token", **fields}
        self.found = []
        self.asked = []
        self.tokens = 0

    def choose(self, request):
        path = request.split(b" ")[1].decode()
        if "/.well-known/" in path:
            self.asked.append(path)
            metadata = page(body=json.dumps(self.fields).encode())
            return self.found.pop(0) if self.found else metadata
        self.tokens += 1
        return self.answers[min(self.tokens, len(self.answers)) - 1]

    def credentials(self, client_secret=SECRET, **settings):
        return ClientCredentials(CLIENT, client_secret, issuer=self.issuer, **settings)


class TestAssertionsAndDiscovery:
    """How else a client proves itself, and where the token endpoint is."""

    def test_client_secret_jwt_is_a_new_signed_assertion_for_each_request(self):
        with Server(page("503 No"), grant()) as server:
            before = int(time.time())
            credentials(server, auth_method="client_secret_jwt")()
        first = assertion_of(server, 0)
        second = assertion_of(server, 1)
        assert first.header == {"alg": "HS256", "typ": "JWT"}
        assert first.signature == hmac.new(SECRET.encode(), first.signed, "sha256").digest()
        assert first.claims["iss"] == CLIENT
        assert first.claims["sub"] == CLIENT
        assert first.claims["aud"] == server.url + "/token"
        assert before <= first.claims["iat"] <= time.time()
        assert first.claims["exp"] - first.claims["iat"] == 120
        assert first.claims["jti"] != second.claims["jti"]
        kind = "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer"
        assert "client_assertion_type=" + kind in form_of(server)
        assert FORM_ID in form_of(server)
        assert FORM_SECRET not in form_of(server)

    def test_the_audience_of_an_assertion_is_the_issuer_or_what_is_named(self):
        with Issuer() as server:
            server.credentials(auth_method="client_secret_jwt")()
            server.credentials(auth_method="client_secret_jwt", assertion_audience="https://aud.example")()
        assert assertion_of(server, 1).claims["aud"] == server.url
        assert assertion_of(server, 3).claims["aud"] == "https://aud.example"

    def test_an_assertion_of_a_callable_is_made_for_each_request_and_shown_nowhere(self):
        made = iter(["head.cl41ms1.s1gnature1", "head.cl41ms2.s1gnature2", "not one\n"])
        echo = refusal(400, "invalid_grant", error_description="head.cl41ms1.s1gnature1 and s1gnature1")
        with Server(echo, grant()) as server:
            fetch = ClientCredentials("c", None, None, server.url, client_assertion=lambda: next(made))
            error = raised_by(fetch)
            fetch()
            with pytest.raises(OAuthError, match="client_assertion"):
                fetch()
        assert "client_assertion=head.cl41ms1.s1gnature1" in form_of(server, 0)
        assert "client_assertion=head.cl41ms2.s1gnature2" in form_of(server, 1)
        assert server.count == 2
        assert type(error) is OAuthInvalidGrant
        assert_hidden(error, "cl41ms1", "s1gnature1")

    @parametrize("method", ["private_key_jwt", None])
    def test_a_method_without_the_secret_that_it_needs_is_a_value_error(self, method):
        with pytest.raises(ValueError, match="client_"):
            ClientCredentials("c", None, None, "https://t.example", auth_method=method)

    @parametrize("path, asked", [("", RFC_8414), ("/", RFC_8414), ("/a/b", RFC_8414 + "/a/b")])
    def test_metadata_are_asked_for_once(self, path, asked):
        with Issuer(path=path) as server:
            fetch = server.credentials()
            fetch()
            fetch()
        assert server.asked == [asked]
        assert server.tokens == 2

    def test_openid_connect_is_asked_second(self):
        with Issuer(path="/t") as server:
            server.found = [page("404 No")]
            server.credentials()()
        assert server.asked == [RFC_8414 + "/t", "/t" + OPENID]
        assert server.tokens == 1

    @parametrize("name, value", [("issuer", "https://sts.example/"), ("issuer", None), ("token_endpoint", None), ("token_endpoint", "http://a")])
    def test_metadata_of_another_issuer_or_without_endpoint_are_malformed(self, name, value):
        with Issuer() as server:
            server.fields[name] = value
            with pytest.raises(OAuthMalformedResponse, match=name):
                server.credentials()()
        assert server.tokens == 0

    @parametrize("first, second, kind", [
        (404, 302, OAuthMalformedResponse), (404, 503, OAuthTemporarilyUnavailable), (503, 404, OAuthTemporarilyUnavailable)])
    def test_metadata_that_cannot_be_had_are_an_error_of_their_status(self, clock, first, second, kind):
        with Issuer() as server:
            server.found = [page(f"{status} No", b"", "Retry-After: 20") for status in (first, second)]
            error = raised_by(server.credentials())
        assert type(error) is kind
        assert error.status in (second, 503)
        assert error.retry_after == 20
        assert f"{server.url}{OPENID} answered {second}" in str(error)
        assert "is issuer right" in str(error)

    def test_metadata_that_are_of_no_use_are_asked_for_again(self):
        with Issuer(token_endpoint_auth_methods_supported=5) as server:
            fetch = server.credentials()
            for _ in range(2):
                with pytest.raises(OAuthMalformedResponse):
                    fetch()
        assert len(server.asked) == 4

    @parametrize("fails, asked", [("404 Gone", 2), ("400 No", 1)])
    def test_metadata_are_read_again_after_a_404_but_not_within_a_minute(self, fails, asked, clock):
        with Issuer(grant(), page(fails), page(fails), grant()) as server:
            fetch = server.credentials(auth_method="client_secret_basic")
            fetch()
            for _ in range(2):
                clock.move(30)
                with pytest.raises(OAuthResponseError):
                    fetch()
            assert len(server.asked) == 1
            clock.move(1)
            fetch()
        assert len(server.asked) == asked

    @parametrize("listed, used", [
        ("client_secret_post", FORM_SECRET), ("private_key_jwt client_secret_jwt", "client_assertion="),
        ("client_secret_basic client_secret_jwt", "Basic "), ("x", "Basic ")])
    def test_the_method_is_one_that_the_issuer_lists(self, listed, used):
        with Issuer(token_endpoint_auth_methods_supported=listed.split()) as server:
            server.credentials()()
        assert used in server.requests[1].decode()
        assert server.tokens == 1

    def test_where_the_issuer_lists_both_basic_and_body_both_are_tried(self):
        listed = ["client_secret_basic", "client_secret_post"]
        with Issuer(refusal(401), grant(), token_endpoint_auth_methods_supported=listed) as server:
            server.credentials()()
        assert server.header("authorization")[1] == "Basic " + BASIC
        assert FORM_SECRET in form_of(server, 2)

    @parametrize("method, path", [("tls_client_auth", "/mtls"), ("none", "/token")])
    def test_the_endpoint_for_certificates_is_used_with_a_certificate_only(self, method, path):
        with Issuer() as server:
            server.fields["mtls_endpoint_aliases"] = {"token_endpoint": server.url + "/mtls"}
            server.credentials(None, auth_method=method)()
        assert server.lines[1] == f"POST {path} HTTP/1.1"


# ---- Caches ----------------------------------------------------------------------------------------------------------


class TestFileCache:
    """The shared cache for the processes of one machine."""

    @pytest.fixture
    def folder(self, tmp_path):
        return tmp_path / "a" / "b"

    def test_what_was_set_is_there_for_all(self, folder):
        FileCache(str(folder)).set("k", "grüße", 60)
        assert FileCache(folder).get("k") == "grüße".encode()
        assert FileCache(os.fsencode(str(folder))).get("other") is None

    @needs_modes
    def test_the_directory_is_0700_and_its_files_are_0600_whatever_the_umask(self, folder):
        cache = FileCache(folder)
        before = os.umask(0)
        try:
            cache.set("k", "v", 60)
            cache.lock("k.lock").acquire(blocking=False)
        finally:
            os.umask(before)
        modes = {path.name: path.stat().st_mode & 0o7777 for path in [folder, *folder.iterdir()]}
        assert modes == {"b": 0o700, "k": 0o600, "k.lock": 0o600}

    def test_a_write_that_breaks_off_leaves_what_was_there_and_nothing_else(self, folder, monkeypatch):
        cache = FileCache(folder)
        cache.set("k", "old", 60)
        monkeypatch.setattr(os, "replace", lambda *_: raise_it(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            cache.set("k", "new", 60)
        assert cache.get("k") == b"old"
        assert os.listdir(str(folder)) == ["k"]

    def test_a_tilde_is_the_home_directory(self, tmp_path, monkeypatch):
        for name in ("HOME", "USERPROFILE"):
            monkeypatch.setenv(name, str(tmp_path))
        FileCache("~/tokens").set("k", "v", 60)
        assert (tmp_path / "tokens" / "k").read_bytes() == b"v"

    @parametrize("key", ["../k", ".."])
    def test_no_key_leaves_the_directory(self, folder, key):
        with contextlib.suppress(OSError):
            FileCache(folder).set(key, "v", 60)
        assert os.listdir(str(folder.parent)) == ["b"]

    @needs_modes
    @parametrize("fault", ["others may write", "another user owns it", "link"])
    def test_a_directory_that_others_could_control_is_refused(self, folder, monkeypatch, fault):
        folder.mkdir(parents=True, mode=0o700)
        owner = folder.stat().st_uid
        if fault == "others may write":
            folder.chmod(0o702)
        elif fault == "another user owns it":
            monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
        else:
            folder.symlink_to(folder.rename(folder.parent / "real"))
        cache = FileCache(folder)
        for act in (cache.get, cache.lock, lambda key: cache.set(key, "v", 60)):
            with pytest.raises(PermissionError):
                act("k")
        assert os.listdir(str(folder)) == []

    @needs_modes
    @parametrize("fault", ["others may write", "pipe"])
    def test_a_file_that_cannot_be_trusted_is_a_miss_and_is_replaced(self, folder, fault):
        cache = FileCache(folder)
        cache.set("k", "theirs", 60)
        file = folder / "k"
        if fault == "pipe":
            file.unlink()
            os.mkfifo(str(file))
        else:
            file.chmod(0o620)
        found = cache.get("k")
        cache.set("k", "ours", 60)
        assert found is None
        assert cache.get("k") == b"ours"

    @needs_modes
    def test_no_link_is_followed_to_read_write_or_lock(self, folder, tmp_path):
        cache = FileCache(folder)
        folder.mkdir(parents=True)
        target = tmp_path / "target"
        target.write_bytes(b"theirs")
        (folder / "k").symlink_to(target)
        found = cache.get("k")
        with pytest.raises(OSError):
            cache.lock("k").acquire(blocking=False)
        cache.set("k", "ours", 60)
        assert found is None
        assert target.read_bytes() == b"theirs"
        assert cache.get("k") == b"ours"

    def assert_excludes(self, folder):
        """A lock has one holder, another one does not wait for it, and it is free after a release, or two."""
        first, second = (FileCache(folder).lock("k.lock", timeout=5) for _ in range(2))
        held = [first.acquire(blocking=False), second.acquire(blocking=False)]
        first.release()
        first.release()
        free = second.acquire(blocking=False)
        second.release()
        assert held == [True, False]
        assert free is True

    def test_a_lock_has_one_holder_is_never_waited_for_and_leaves_no_open_file(self, folder, monkeypatch):
        def close_and_count(number):
            closed.append(number)
            close(number)

        closed = []
        close = os.close
        monkeypatch.setattr(os, "close", close_and_count)
        self.assert_excludes(folder)
        gc.collect()
        assert len(closed) == 2

    HOLDER = """
        import os, sys
        from oauth_session import FileCache
        lock = FileCache(sys.argv[1]).lock("k.lock")
        held = lock.acquire(blocking=False)
        if hasattr(os, "fork"):
            os.fork()
        os.write(1, b"%a\\n" % held)  # at once, since there may be two of us
        sys.stdin.read()
    """

    def test_a_lock_holds_between_processes_and_is_free_when_its_holder_is_killed(self, folder):
        lock = FileCache(folder).lock("k.lock")
        with started(self.HOLDER, str(folder)) as holder:
            said = [holder.stdout.readline().strip() for _ in range(2 if hasattr(os, "fork") else 1)]
            held = lock.acquire(blocking=False)
            holder.kill()
            holder.wait(PATIENCE)
            free = lock.acquire(blocking=False)  # a child that it forked lives on
            lock.release()
        assert set(said) == {b"True"}
        assert held is False
        assert free is True

    @needs_modes
    def test_a_file_system_without_locks_does_without(self, folder, monkeypatch):
        import fcntl
        monkeypatch.setattr(fcntl, "flock", lambda *_: raise_it(OSError(37, "No locks available")))
        assert FileCache(folder).lock("k.lock").acquire(blocking=False)

    @needs_modes
    def test_windows_locks_by_msvcrt_and_looks_at_no_modes(self, folder, monkeypatch):
        import fcntl
        class Msvcrt:
            LK_NBLCK = fcntl.LOCK_EX | fcntl.LOCK_NB
            def locking(self, number, how, size):
                locked.append(number)
                with contextlib.suppress(BlockingIOError):
                    return fcntl.flock(number, how)
                raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(sys, "platform", "win32")
        monkeypatch.setitem(sys.modules, "msvcrt", Msvcrt())
        monkeypatch.delattr(os, "geteuid", raising=False)
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        locked = []
        self.assert_excludes(folder)
        assert len(locked) == 3


@pytest.mark.usefixtures("clock")
class TestSharedCache:
    """One token for many processes: what is read, what is written, who fetches."""

    @parametrize("life, kept", [(59.5, 59), (0.5, 1), (None, 3600), (10**8, 30 * 86400)])
    def test_a_value_is_kept_for_whole_seconds_of_at_most_30_days(self, life, kept):
        cache = MemoryCache()
        cached(cache, life).token()
        assert cache.seconds == kept
        assert type(cache.seconds) is int

    def test_a_value_is_text_and_holds_no_more_of_the_answer_than_the_token(self):
        cache = MemoryCache()
        cached(cache, Token("abc", raw={"id_token": "s3cret"})).token()
        assert type(cache.value) is str
        assert "s3cret" not in cache.value

    def test_the_cache_is_asked_only_where_a_token_would_be_fetched(self):
        cache = LockingCache()
        source = cached(cache)
        source.served_after(*[1] * 100)
        assert cache.calls == ["get", "lock", "acquire", "get", "set", "release"]

    @parametrize("ago, fetches", [(3589.875, 0), (3590, 1), (-301, 1), (float("nan"), 1)])
    def test_an_entry_is_judged_by_the_wall_clock_like_a_fresh_answer(self, ago, fetches):
        source = cached(MemoryCache(entry(ago)))
        assert source.served().endswith(f"/{fetches}")

    def test_a_life_is_not_longer_because_the_clock_of_the_writer_is_ahead(self):
        source = cached(MemoryCache(entry(ago=-290.0, life=350)))
        assert source.served_after(0, 58) == ["from-the-cache/0", "token-1/1"]

    @parametrize("value", [
        "nonsense", '["from-the-cache"]', b"\xff\xfe", "[" * 100000, 10**30, '{"access_token": "from-the-cache"}',
        '{"access_token": "from-the-cache\\r\\nEvil: 1", "obtained_at": 1073741824}'])
    def test_nonsense_is_a_miss_and_one_log_line_and_is_written_over(self, caplog, value):
        first, second = processes(LockingCache(value), 2)
        assert first.served() == "token-1/1"
        assert second.served() == "token-1/1"
        assert len(caplog.records) == 1
        assert_hidden(caplog.text, "from-the-cache", "token-1")

    def test_clients_that_differ_in_a_setting_share_nothing(self):
        common = {"client_id": "a", "client_secret": "bc", "scope": "read", "token_url": "https://a.example/t"}
        different = [
            {}, {"client_id": "b"}, {"client_secret": "two"}, {"scope": "write"}, {"token_url": "https://a.example/u"},
            {"client_id": "ab", "client_secret": "c"}, {"auth_method": "client_secret_post"}, {"token_headers": {"x-tenant": "2"}},
        ]  # fmt: skip
        keys = {ClientCredentials(**{**common, **settings}).cache_key for settings in different}
        assert len(keys) == 8

    @parametrize("secret", ["s3cret", lambda: "s3cret"])
    def test_the_key_is_a_hash_and_shows_no_secret(self, secret):
        cache = MemoryCache(entry())
        client = ClientCredentials("a", secret, None, "https://a.example/t")
        TokenSource(client, cache=cache).token()
        assert re.fullmatch("oauth_session-[0-9a-f]{64}", cache.key)

    def test_a_cache_needs_a_path_or_its_methods_and_a_key(self):
        for path in ("", "~nobody-has-this-name/tokens"):
            with pytest.raises(ValueError, match="cache must name a directory"):
                FileCache(path)
        with pytest.raises(TypeError, match=r"set\(key, value, seconds\)"):
            TokenSource(int, cache={}, cache_key="k")
        with pytest.raises(TypeError, match="cache_key"):
            TokenSource(int, cache=MemoryCache())

    @needs_fork
    def test_a_child_that_is_forked_while_the_cache_is_asked_asks_it_too(self):
        class ForkingCache(MemoryCache):
            status = None

            def get(self, key):
                if self.status is None:
                    self.status = "a child is running"
                    self.status = forked(lambda: source.token().access_token == "from-the-cache")
                return self.value

        cache = ForkingCache(entry())
        source = cached(cache)
        source.token()
        assert cache.status == 0

    def test_a_refused_token_is_never_taken_again_though_it_is_written_anew(self):
        cache = LockingCache(entry())
        source = cached(cache)
        source.token()
        source.reject("from-the-cache")
        seen = []
        for _ in range(2):
            cache.value = entry(ago=-3590)
            seen.append(source.served(after=3590))
        assert seen == ["token-2/2", "token-3/3"]

    @parametrize("ago, expected", [(0.0, "from-the-cache"), (11.0, "token-2")])
    def test_a_newer_token_of_the_cache_is_used_for_a_refused_one(self, clock, ago, expected):
        cache = LockingCache()
        source = cached(cache)
        source.token()
        clock.move(10)
        cache.value = entry(ago)
        assert source.instead_of("token-1") == expected

    @parametrize("ago, served", [(5.0, "token-1/1"), (4.0, "from-the-cache/0")])
    def test_clear_takes_only_what_is_newer_from_the_cache(self, clock, ago, served):
        cache = LockingCache(entry(token="before"))
        source = cached(cache)
        source.token()
        clock.move(5)
        source.clear()
        clock.move(5)
        cache.value = entry(ago)
        assert source.served() == served

    def test_a_due_token_is_served_once_and_then_renewed(self):
        source = cached(LockingCache(entry(ago=3400.0)))
        assert source.served_after(0, 0, 0) == ["from-the-cache/0", "from-the-cache/1", "token-1/1"]

    @parametrize("kind", [MemoryCache, LockingCache])
    def test_ten_processes_fetch_once_for_each_life(self, clock, kind):
        sources = processes(kind(), 10)
        for _ in range(7200):
            for source in sources:
                source.served()
            clock.move(1)
        assert sources[0].script.calls == 3

    def test_without_a_lock_chance_spreads_the_renewals(self, clock):
        cache = MemoryCache(entry())
        sources = [cached(cache, BROKEN) for _ in range(50)]
        renewals = []
        for seconds in (0, 3299, 73, 73):
            clock.move(seconds)
            renewals.append(sum(source.served() != "from-the-cache/0" for source in sources))
        assert 0 < renewals.pop(2) < 50
        assert renewals == [0, 0, 50]

    def test_refresh_in_of_the_server_counts_for_all(self, clock):
        answer = Token("token-1", expires_at=clock.wall + 3600, raw={"expires_in": 3600, "refresh_in": 100})
        first, second = processes(LockingCache(), 2, answer, 3600)
        first.token()
        assert second.served_after(0, 99.875, 0.125) == ["token-1/1", "token-1/1", "token-1/2"]

    def test_who_gets_the_lock_looks_again_before_it_fetches(self):
        cache = LockingCache()
        cache.instead["acquire"] = lambda: setattr(cache, "value", entry())  # the holder before has just written
        assert cached(cache).served() == "from-the-cache/0"
        assert not cache.taken

    def test_who_waits_for_the_lock_takes_the_token_as_soon_as_it_is_there(self, clock):
        cache = LockingCache(get=lambda: entry() if clock.wall > START + 0.075 else None)
        cache.taken = True
        assert cached(cache).served() == "from-the-cache/0"
        assert cache.taken

    def test_a_dead_holder_of_the_lock_is_waited_for_no_longer_than_half_a_fetch(self, clock):
        cache = LockingCache()
        cache.taken = True
        source = cached(cache)
        source.script.timeout = 4.0
        source.token()
        assert 1.2 <= clock.wall - START <= 2.1
        assert cache.timeout == 4.0

    def test_who_waits_for_the_lock_takes_the_token_of_its_holder(self, clock):
        def taken():
            cache.value = entry()
            return True

        cache = LockingCache(acquire=taken)
        assert cached(cache).served() == "from-the-cache/0"
        assert clock.wall == START

    def test_time_spent_waiting_for_the_lock_is_not_taken_off_the_tokens_life(self, clock):
        cache = LockingCache()
        cache.taken = True
        source = TokenSource(lambda: Token("abc", raw={"expires_in": 60}), cache=cache, cache_key="k", refresh_before=0)
        source.token()
        clock.move(53.875)
        now = clock.wall
        source.token()
        assert clock.wall == now

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    @parametrize("step", [3600, BROKEN, SystemExit()])
    def test_the_lock_is_given_back_whatever_comes_of_the_fetch(self, step):
        cache = LockingCache()
        with contextlib.suppress(OAuthError):
            cached(cache, step).token()
        assert cache.calls.count("acquire") == 1
        assert cache.taken is False

    @parametrize("method", ["get", "set", "lock", "acquire", "release"])
    def test_a_cache_that_raises_is_one_log_line_and_no_failed_call(self, caplog, method):
        cache = LockingCache()
        cache.instead[method] = OSError("token-1 from-the-cache")
        assert cached(cache).served() == "token-1/1"
        assert len(caplog.records) == (0 if method == "release" else 1)
        assert_hidden(caplog.text, "token-1", "from-the-cache")

    def test_a_cache_that_failed_is_left_alone_for_half_a_minute(self):
        cache = LockingCache(get=ConnectionError())
        source = cached(cache, 1)
        source.served_after(*[2] * 31)
        assert cache.calls == ["get"] * 3

    @needs_modes
    def test_a_directory_that_is_not_trusted_is_named_in_the_log_and_not_used(self, caplog, tmp_path):
        tmp_path.chmod(0o777)
        assert cached(tmp_path).served() == "token-1/1"
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert str(tmp_path) in caplog.text

    def test_other_threads_are_served_while_the_cache_works(self, clock):
        def serve_another_thread():
            served.extend(Callers(1, source.token).tokens())

        def slow():
            clock.move(6)
            return 10  # so that it is due when it comes

        served = []
        cache = LockingCache()
        source = cached(cache, 3600, slow)
        source.token()
        clock.move(3300)
        cache.instead = dict.fromkeys(["get", "lock", "acquire", "set", "release"], serve_another_thread)
        source.served()
        assert served == ["token-1"] * 4 + ["token-2"] * 2

    @parametrize("method", ["get", "acquire"])
    def test_a_cache_that_hangs_before_the_fetch_is_an_error_and_then_left_alone(self, clock, method):
        held = HeldStep(None)
        source = cached(LockingCache(**{method: held}))
        with pytest.raises(OAuthTransportError, match="shared cache"):
            source.token(0.01)
        held.reached()
        clock.move(32)  # the deadline of that fetch
        token = source.token()
        fetches = source.script.calls
        held.release()
        assert token.access_token == "token-1"
        assert fetches == 1

    @parametrize("method", ["set", "release"])
    def test_a_cache_that_hangs_after_the_fetch_keeps_the_token_from_nobody(self, monkeypatch, method):
        def start_until_it_hangs(thread):
            start(thread)
            held.reached()

        held = HeldStep(None)
        start = threading.Thread.start
        source = cached(LockingCache(**{method: held}))
        monkeypatch.setattr(threading.Thread, "start", start_until_it_hangs)
        tokens = [source.token(0.01), source.token()]
        held.release()
        assert [token.access_token for token in tokens] == ["token-1"] * 2

    def test_the_token_is_in_the_cache_before_its_callers_go_on(self, tmp_path):
        cache = str(tmp_path / "c")
        text = """
            import os, sys
            from oauth_session import Token, TokenSource
            source = TokenSource(lambda: Token(sys.argv[2]), cache=sys.argv[1], cache_key="k")
            os.write(1, source.token().access_token.encode())
            os._exit(0)  # at once, whatever other threads do
        """
        assert program(text, cache, "abc") == b"abc"
        assert program(text, cache, "def") == b"abc"


# ---- TokenSource -----------------------------------------------------------------------------------------------------


def due_source(*steps):
    """A source whose token-1 has just become due; its script goes on with these steps."""
    source = ScriptedSource(3600, *steps)
    source.token()
    oauth_session.time.move(3300)
    return source


AGES = {"token-1/1": "fresh", "token-1/2": "due", "token-2/2": "expired"}  # by token served and fetches


def age_after(wall, steady=None, answer=3600, **settings):
    """Return the age of a token when its source is asked these seconds after the fetch."""
    source = ScriptedSource(answer, 3600, **settings)
    source.token()
    oauth_session.time.move(wall, steady)
    return AGES[source.served()]


@pytest.mark.usefixtures("clock")
class TestTokenSource:
    """Who keeps the token, who renews it, and what callers get meanwhile."""

    @parametrize("life, due, expired", [(10, 5, 9), (3600, 3300, 3590), (None, 3300, 3590)])
    def test_a_token_is_fresh_then_due_then_expired(self, life, due, expired):
        assert age_after(due - 0.125, answer=life) == "fresh"
        assert age_after(due, answer=life) == "due"
        assert age_after(expired - 0.125, answer=life) == "due"
        assert age_after(expired, answer=life) == "expired"

    @parametrize("before, refresh_in, due", [(60, None, 3540), (9999, None, 1800), (300, "100", 100), (300, 0.001, 0.125)])
    def test_refresh_before_or_refresh_in_of_the_answer_says_when_it_is_due(self, clock, before, refresh_in, due):
        def answer():
            return Token("token-1", expires_at=clock.wall + 3600, raw={"refresh_in": refresh_in})

        assert age_after(due - 0.0625, answer=answer, refresh_before=before) == "fresh"
        assert age_after(due, answer=answer, refresh_before=before) == "due"

    @parametrize("wall, steady, age", [(3590, 0, "expired"), (-3600, 3299, "fresh"), (-3600, 3300, "due")])
    def test_the_clock_that_says_more_decides(self, wall, steady, age):
        assert age_after(wall, steady) == age

    @parametrize("step", [-3600, 1800])
    def test_a_wall_clock_set_during_the_token_request_does_not_prolong_the_token(self, clock, step):
        def set_the_clock(sock):
            clock.move(step, 1)
            return grant(expires_in=3600)

        with Server(set_the_clock, grant(access_token=TOKEN_2)) as server:
            source = TokenSource(credentials(server))
            first = source.token()
            clock.move(0, 3589)
            second = source.token()
        assert first.access_token == TOKEN
        assert second.access_token == TOKEN_2

    def test_the_same_token_again_is_used_to_its_end_and_asked_for_twice(self, clock):
        source = ScriptedSource(Token("the-same", expires_at=clock.wall + 3600))
        seen = source.served_after(*[1] * 3599)
        assert [seen.index(f"the-same/{fetches}") for fetches in (1, 2, 3)] == [0, 3299, 3589]
        assert seen[-1] == "the-same/3"
        clock.move(1)
        with pytest.raises(OAuthMalformedResponse):  # it is past its life when it arrives
            source.token()
        with pytest.raises(OAuthMalformedResponse):
            TokenSource(lambda: Token("t", expires_at=0)).token()

    def test_32_threads_without_a_token_cause_one_fetch(self):
        held = HeldStep(3600)
        source = ScriptedSource(held)
        callers = callers_of(source.token, 32, held)
        held.release()
        assert callers.tokens() == ["token-1"] * 32
        assert source.script.calls == 1

    def test_32_threads_share_the_error_of_one_fetch_each_in_its_own_copy(self):
        held = HeldStep(page("503 Busy", b"", "Retry-After: 1"))
        with Server(lambda sock: held()) as server:
            source = TokenSource(credentials(server))
            callers = callers_of(source.token, 32, held)
            held.release()
            errors = callers.finish()
        assert [error.status for error in errors] == [503] * 32
        assert len(set(map(id, errors))) == 32
        assert server.count == 3

    def test_a_due_token_is_served_while_one_thread_renews_it(self, clock):
        held = HeldStep(3600)
        source = due_source(held)
        served = Callers(32, source.token).tokens()
        held.reached()
        held.release()
        assert served == ["token-1"] * 32
        clock.settle()
        assert source.served() == "token-2/2"

    def test_a_renewal_that_fails_is_logged_and_tried_again_after_a_pause(self, caplog):
        source = due_source(BROKEN, BROKEN, 3600)
        served = source.served_after(0, 0.375, 0.625, 0.75, 1.25, 0)
        assert " ".join(served) == "token-1/2 token-1/2 token-1/3 token-1/3 token-1/4 token-4/4"
        assert [record.levelname for record in caplog.records] == ["WARNING"] * 2

    def test_callers_who_waited_for_a_renewal_that_fails_fetch_by_themselves(self, clock):
        held = HeldStep(BROKEN)
        source = due_source(held, 3600)
        clock.move(289)
        source.token()
        held.reached()
        clock.move(1)
        callers = callers_of(source.token, 8, held)
        held.release()
        assert callers.tokens() == ["token-3"] * 8
        assert source.script.calls == 3

    def test_an_expired_token_is_fetched_at_once_after_a_renewal_that_failed(self):
        source = due_source(BROKEN, 3600)
        assert source.served_after(289.875, 0.125) == ["token-1/2", "token-3/3"]

    def test_a_calls_own_timeout_ends_its_wait_but_not_the_fetch(self, clock):
        held = HeldStep(3600)
        source = ScriptedSource(held)
        with pytest.raises(OAuthTransportError, match="in time"):
            OAuthSession(source=source).get("http://127.0.0.1/", timeout=0.01)
        held.release()
        clock.settle()
        assert source.served() == "token-1/1"

    def test_pauses_double_from_the_second_failure_in_a_row_up_to_a_minute(self, clock, caplog):
        source = ScriptedSource(BROKEN)
        source.served()
        assert caplog.records == []  # who waited has the error
        for fetches, pause in enumerate([1, 2, 4, 8, 16, 32, 60, 60], 2):
            assert source.served_after(0, pause * 0.375) == [f"500/{fetches}"] * 2
            clock.move(pause * 0.625)

    def test_a_fetch_that_fails_after_its_deadline_causes_no_pause(self, clock):
        held = HeldStep(BROKEN)
        source = ScriptedSource(BROKEN, held, 3600)
        source.served()
        callers = callers_of(source.token, 1, held)
        clock.move(40)
        held.release()
        callers.finish()
        assert source.served() == "token-3/3"

    def test_pauses_have_jitter(self):
        sources = [ScriptedSource(BROKEN) for _ in range(50)]
        fetches = {source.served_after(0, 0, 0.75)[-1] for source in sources}
        assert fetches == {"500/2", "500/3"}

    @parametrize("asked, pause", [(7, 7), (1e9, 300)])
    def test_retry_after_is_a_pause_of_at_most_300_seconds(self, asked, pause):
        source = ScriptedSource(unavailable(asked), 3600)
        assert source.served_after(0, pause - 0.125, 0.125) == ["503/1", "503/1", "token-2/2"]

    def test_retry_after_of_a_renewal_is_a_pause_for_callers_without_a_token_too(self):
        source = due_source(unavailable(300), 3600)
        assert source.served_after(0, 289, 10, 1) == ["token-1/2", "token-1/2", "503/2", "token-3/3"]

    def test_a_success_ends_the_row_of_failures(self):
        source = ScriptedSource(BROKEN, BROKEN, 10, BROKEN, 10)
        assert source.served_after(0, 0, 1) == ["500/1", "500/2", "token-3/3"]
        assert source.served_after(10, 0) == ["500/4", "token-5/5"]

    def test_clear_ends_a_pause(self):
        source = ScriptedSource(unavailable(300), 3600)
        source.served()
        source.clear()
        assert source.served() == "token-2/2"

    @parametrize("failure, served", [(None, "of-before"), (BROKEN, "token-2")])
    def test_a_fetch_from_before_clear_serves_those_who_waited_and_nobody_else(self, clock, failure, served):
        held = HeldStep(failure or Token("of-before", expires_at=clock.wall + 3600))
        source = ScriptedSource(held, 3600)
        callers = callers_of(source.token, 4, held)
        source.clear()
        held.release()
        assert callers.tokens() == [served] * 4
        assert source.served() == "token-2/2"

    def test_reject_returns_another_token_that_is_at_hand_and_has_not_expired(self, clock):
        source = ScriptedSource(3600)
        source.token()
        assert source.instead_of("an-older-one") == "token-1"
        clock.move(3590)
        assert source.instead_of("an-older-one") == "token-2"

    @parametrize("form", [str, Token])
    def test_a_token_that_all_threads_reject_is_fetched_once(self, form):
        held = HeldStep(3600)
        source = ScriptedSource(3600, held)
        source.token()
        callers = callers_of(lambda: source.reject(form("token-1")), 16, held)
        meanwhile = source.token().access_token
        held.release()
        assert callers.tokens() == ["token-2"] * 16
        assert meanwhile == "token-1"
        assert source.script.calls == 2

    @parametrize("second", ["failed", "same"])
    def test_reject_fetches_once_a_minute_if_the_fetch_fails_or_gives_the_same_token(self, clock, second):
        same = Token("token-1", expires_at=clock.wall + 7200)
        source = ScriptedSource(same, BROKEN if second == "failed" else same, 3600)
        source.token()
        with contextlib.suppress(OAuthError):
            source.reject("token-1")
        clock.move(59.875)
        assert source.instead_of("token-1") == "token-1"
        clock.move(0.125)
        assert source.instead_of("token-1") == "token-3"

    def test_an_api_that_refuses_every_token_causes_one_fetch_a_minute(self, clock):
        source = ScriptedSource(3600)
        for _ in range(600):
            source.reject(source.token())
            clock.move(1)
        assert source.script.calls == 11  # the first, and one in each of ten minutes

    def test_a_refused_token_that_has_expired_is_replaced_within_the_minute_too(self, clock):
        source = ScriptedSource(3600, 20, 3600)
        source.token()
        source.reject("token-1")
        clock.move(18)
        assert source.instead_of("token-2") == "token-3"

    def test_reject_returns_the_same_token_in_a_pause(self, clock):
        source = due_source(unavailable(100), 3600)
        source.served()
        clock.move(99.875)
        assert source.instead_of("token-1") == "token-1"
        clock.move(0.125)
        assert source.instead_of("token-1") == "token-3"

    @parametrize("wall, steady", [(40, 0), (-3600, 40)])
    def test_a_fetch_past_its_deadline_is_replaced_and_its_late_token_is_not_kept(self, clock, wall, steady):
        held = HeldStep(Token("late", expires_at=clock.wall + 99999))
        cache = LockingCache()
        source = cached(cache, held, 3600)
        callers = callers_of(source.token, 1, held)
        clock.move(wall, steady)
        meanwhile = source.token().access_token
        held.release()
        assert meanwhile == "token-2"
        assert callers.tokens() == ["late"]
        assert source.served() == "token-2/2"
        assert "late" not in cache.value

    def test_a_fetch_past_its_deadline_that_fails_is_no_failure_for_anybody(self, clock):
        held = HeldStep(unavailable(300))
        source = ScriptedSource(held, 10, 3600)
        callers = callers_of(source.token, 2, held)
        clock.move(40)
        source.token()
        held.release()
        assert callers.tokens() == ["token-2"] * 2
        assert source.served(after=10) == "token-3/3"  # and there is no pause

    @parametrize("step, then", [(3600, "token-2/2"), (BROKEN, "token-1/2")])
    def test_where_no_thread_can_be_started_the_caller_renews_and_is_served(self, monkeypatch, step, then):
        source = due_source(step)
        monkeypatch.setattr(threading.Thread, "start", lambda thread: raise_it(RuntimeError("can't start new thread")))
        assert source.served_after(0, 0) == ["token-1/2", then]

    @needs_fork
    def test_a_child_forked_during_a_renewal_has_the_token_and_fetches_by_itself(self, clock):
        held = HeldStep(3600)
        source = due_source(held, 3600)
        source.token()
        held.reached()

        def child():
            tokens = [source.token().access_token, source.instead_of("token-1")]
            return tokens == ["token-1", "token-3"]

        status = forked(child)
        held.release()
        clock.settle()
        assert status == 0
        assert source.served() == "token-2/2"

    def test_a_fetch_sees_the_context_variables_of_its_caller(self):
        import contextvars
        tenant = contextvars.ContextVar("tenant", default="nobody")
        source = TokenSource(lambda: Token(tenant.get()))
        tenant.set("acme")
        assert source.authorization() == "Bearer acme"

    def test_a_fetch_that_uses_its_own_source_gets_an_error_and_no_deadlock(self):
        source = TokenSource(lambda: source.token())
        assert type(Callers(1, source.token).finish()[0]) is OAuthError

    def test_a_renewal_may_use_the_token_that_it_renews(self, caplog):
        source = due_source(lambda: source.token())
        assert source.served() == "token-1/2"
        assert caplog.records == []

    def test_a_finalizer_that_uses_the_source_is_no_deadlock(self, clock, monkeypatch):
        """The garbage collector may call one at any time; here, a look at the clock does."""
        def monotonic():
            if not nested:
                nested.append(True)
                source.token()
                nested.clear()
            return clock.steady

        nested = []
        source = due_source(3600)
        monkeypatch.setattr(clock, "monotonic", monotonic)
        assert Callers(1, source.token).tokens()[0] in ("token-1", "token-2")  # the one called it, or the other

    @pytest.mark.skipif(sys.implementation.name == "pypy", reason="PyPy runs no __del__ at the end")
    def test_the_last_call_of_a_program_gets_its_token(self):
        done = program("""
            import threading
            import oauth_session
            class Last:
                def __del__(self):
                    print(self.source.token(5).access_token)
            def fetch():  # of another module than the one that dies
                begun.set()
                return hanging.pop().wait() if hanging else Token("abc")
            names = dict(vars(oauth_session), begun=threading.Event(), hanging=[threading.Event()])
            last = Last()
            last.source = oauth_session.TokenSource(type(fetch)(fetch.__code__, names))
            threading.Thread(target=last.source.token, daemon=True).start()
            names["begun"].wait()
        """)
        assert done == b"abc\n"

    def test_a_program_ends_at_once_during_a_renewal_and_prints_nothing(self):
        done = program("""
            import threading, time
            from oauth_session import Token, TokenSource
            begun, calls = threading.Event(), []
            def fetch():
                calls.append(1)
                if len(calls) > 1:
                    begun.set()
                    threading.Event().wait(600)
                return Token("abc", raw={"refresh_in": 1e-9})  # due from the beginning
            source = TokenSource(fetch)
            while not begun.wait(0.01):
                print(source.token().access_token)
        """)
        assert set(done.split()) == {b"abc"}


# ---- OAuthHandler ----------------------------------------------------------------------------------------------------


class TestOAuthHandler:
    """Which requests get the token, where a redirect may go, what a 401 does."""

    def test_the_token_is_on_a_request_inside_the_origins(self, network, other):
        opener = bare_opener(source_of("t"), "http://API.example:80/path", network)
        for url in ("http://api.example/x", "http://Api.Example:80?q"):
            opener.open(url).close()
        for url in ("http://xn--bcher-kva.example", "http://bücher.example"):
            bare_opener(source_of("t"), "http://bücher.example", network).open(url).close()
        assert other.bearers == ["Bearer t"] * 4

    def test_no_token_is_fetched_for_a_request_outside_the_origins(self, network, other):
        source = source_of("t")
        hosts = "api.example:8080 sub.api.example api.example.evil.example api.example. evil.example#@api.example"
        for host in hosts.split():
            bare_opener(source, "http://api.example", network).open("http://" + host).close()
            bare_opener(source, "http://" + host, network).open("http://api.example").close()
        bare_opener(source, "https://api.example:80", network).open("http://api.example").close()
        assert other.bearers == [None] * 11
        assert source.authorization() == "Bearer t"  # the first

    def test_a_call_outside_the_origins_of_a_session_is_refused(self, auth, api, other):
        session = session_of(auth, base_url=api.url, origins=["https://more.example"])
        for url in (other.url, api.alias, "http://127.0.0.1@evil.example/"):
            for call in (session.get, session.open):
                with pytest.raises(ValueError, match=r"origins|user name"):
                    call(url)
        assert api.count == other.count == 0

    def test_origins_widen_what_base_url_allows(self, auth, api, other):
        session = session_of(auth, base_url=api.url, origins=other.url + "/any/path")
        session.get("/x")
        session.get(other.url)
        api.will(302, {"Location": other.url})
        session.get("/x")
        assert api.bearers == other.bearers == [BEARER_1, BEARER_1]

    def test_without_origins_each_url_that_the_caller_names_gets_the_token(self, auth, api, other):
        session = session_of(auth)
        session.get(api.url)
        session.get(other.url)
        api.will(302, {"Location": other.url})
        session.get(api.url)
        assert api.bearers == [BEARER_1, BEARER_1]
        assert other.bearers == [BEARER_1, None]

    def test_bare_openers_are_authorised_for_an_api_each_and_raise_as_urllib_does(self, api, other):
        second = OAuthHandler(source_of("b-1", "b-2"), [other.url])
        opener = bare_opener(source_of("token", "a-2"), api.url, second)  # the first is a part of "invalid_token"
        request = urllib.request.Request(api.url + "/ä b", b"body")
        api.will(403, {"WWW-Authenticate": "Bearer error=invalid_token"})
        api.will(404)
        with raised_by(opener.open, request) as error:
            opener.open(other.url).close()
        assert error.code == 404
        assert api.bearers == ["Bearer token", "Bearer a-2"]
        assert api.bodies == [b"body", b"body"]
        assert other.bearers == ["Bearer b-1"]
        assert not request.has_header("Authorization")
        assert request.full_url == api.url + "/ä b"

    AFTER = {301: "GET PUT HEAD", 302: "GET PUT HEAD", 303: "GET GET HEAD", 307: "POST PUT HEAD", 308: "POST PUT HEAD"}
    OPEN = {"Accept": "text/x", "Accept-Language": "de", "User-Agent": "me"}
    PRIVATE = {"X-Own": "1", "Cookie": "a=b", "Proxy-Authorization": "x", "Content-Language": "de"}

    def test_a_redirect_becomes_a_get_where_browsers_make_it_one(self, session, api):
        for status in self.AFTER:
            for method in ("POST", "PUT", "HEAD"):
                api.will(status, {"Location": "/to"})
                body = None if method == "HEAD" else b"body"
                session.request(method, "/", data=body, headers=self.PRIVATE)
        arrived = api.seen[1::2]
        assert [request.method for request in arrived] == " ".join(self.AFTER.values()).split()
        for request in arrived:
            has_body = request.method in ("POST", "PUT")
            assert request.get_data() == (b"body" if has_body else b"")
            assert request.headers.get("Content-Type") == (OCTETS if has_body else None)
        assert api.bearers == [BEARER_1] * 30
        assert api.header("Cookie") == ["a=b"] * 30

    def test_a_redirect_to_another_origin_takes_only_what_says_nothing(self, session, api, other):
        for away in (other, api):
            api.will(303, {"Location": away.url.replace(api.url, api.alias)})
            session.post("/from", iter([b"body"]), headers={**self.OPEN, **self.PRIVATE})
            arrived = away.seen[-1]
            assert arrived.get_data() == b""
            for name, value in self.OPEN.items():
                assert arrived.headers[name] == value
            for name in ("Authorization", "Content-Type", "Transfer-Encoding", *self.PRIVATE):
                assert name not in arrived.headers

    def test_a_redirect_takes_no_body_to_another_origin_and_ends_after_ten(self, session, api, other):
        api.will(307, {"Location": other.url})
        assert "body" in str(raised_by(session.post, "/from", b"body"))
        api.always(302, {"Location": "/loop"})
        assert raised_by(session.get, "/loop").code == 302
        assert api.count == 12
        assert other.count == 0

    def test_once_left_the_token_never_comes_back(self, session, api, other):
        api.will(302, {"Location": other.url})
        other.will(302, {"Location": api.url + "/back"})
        api.will(307, {"Location": "/again"})
        session.get("/x")
        assert api.bearers == [BEARER_1, None, None]
        assert other.bearers == [None]

    def test_a_401_outside_the_origins_costs_no_renewal(self, session, auth, api, other):
        api.will(302, {"Location": other.url})
        other.always(401, CHALLENGE)
        error = raised_by(session.get("/x").raise_for_status)
        assert not isinstance(error, OAuthError)
        assert other.count == auth.count == 1

    @parametrize("place", ["ftp://T0KEN/x", "http://T0KEN b/", "http://T0KEN@127.0.0.1/", "http://[::1/", "/".ljust(66_000, "x")])
    def test_a_redirect_that_leads_nowhere_is_not_followed(self, client, place):
        with Server(page("302 Found", b"", "Location: " + place)) as server:
            error = raised_by(client.get, server.url)
        assert "not followed" in str(error)
        assert server.count == 1
        assert_hidden(error)

    def test_a_redirect_in_utf_8_is_followed(self, client):
        with Server(page("302 Found", b"", "Location: /\u00fc?\u20ac"), HELLO) as server:
            client.get(server.url)
        assert server.lines[1:] == ["GET /%C3%BC?%E2%82%AC HTTP/1.1"]

    def test_another_redirect_handler_takes_along_neither_the_token_nor_an_unredirected_header(self, api, other):
        request = urllib.request.Request(api.url)
        request.add_unredirected_header("X-Own", "1")
        session = OAuthSession(source=source_of("t", "u"), handlers=[urllib.request.HTTPRedirectHandler])
        for status in (302, 401, 302):
            api.will(status, {"Location": other.url})
        for _ in range(2):
            session.open(request).close()
        assert api.bearers == ["Bearer t", "Bearer t", "Bearer u"]
        assert api.header("X-Own") == ["1"] * 3
        assert other.bearers == [None] * 2
        assert other.header("X-Own") == [None] * 2

    def test_a_redirect_is_unverifiable_for_the_policy_of_a_cookie_jar(self, api, other):
        jar = CookieJar(DefaultCookiePolicy(strict_ns_unverifiable=True))
        session = static_session(handlers=[urllib.request.HTTPCookieProcessor(jar)])
        other.always(200, {"Set-Cookie": "a=1"})
        api.will(302, {"Location": other.alias})
        session.get(api.url)
        of_redirect = len(jar)
        session.get(other.alias)
        assert (of_redirect, len(jar)) == (0, 1)

    def test_a_redirect_from_https_to_http_is_refused(self, api, tls, trusting):
        answers = [page("302 Found", b"", "Location: " + place) for place in ("/x", api.url)]
        with Server(*answers, tls=tls) as server:
            https = urllib.request.HTTPSHandler(context=trusting)
            opener = bare_opener(source_of("t"), server.url, https)
            error = raised_by(opener.open, server.url)
        assert "https to http" in str(error)
        assert server.count == 2
        assert api.count == 0

    def test_what_is_no_redirect_is_a_response(self, session, api):
        api.will(302)
        api.will(300, {"Location": "/x"})
        assert [session.get("/").status for _ in range(2)] == [302, 300]

    def test_a_refused_redirect_shows_neither_query_nor_fragment(self, session, api):
        api.will(302, {"Location": "ftp://x/y?hunter-1#hunter-2"})
        error = raised_by(session.get, "/x")
        assert "ftp://x/y" in str(error)
        assert "hunter" not in str(error)

    def test_a_handler_that_changes_the_url_takes_the_token_nowhere_else(self, auth, api, other):
        class Rewrite(urllib.request.BaseHandler):
            def http_request(self, request):
                request.full_url = other.url
                return request

        session = session_of(auth, base_url=api.url, handlers=[Rewrite])
        response = session.get("/x")
        assert response.ok
        assert "Authorization" not in other.seen[0].headers

    def test_a_handler_of_the_user_replaces_ours_of_the_same_base(self, auth, api):
        class NoRedirects(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *_):
                return None

        class AnyStatus(urllib.request.HTTPErrorProcessor):
            def http_response(self, request, response):
                return response

        api.always(307, {"Location": "/to"})
        response = session_of(auth, handlers=[NoRedirects]).get(api.url)
        answer = session_of(auth, handlers=[AnyStatus]).open(api.url)
        answer.close()
        assert response.status == answer.status == 307

    def test_a_proxy_that_the_caller_put_on_a_request_is_used(self, other):
        request = urllib.request.Request("http://api.example/x")
        request.set_proxy(other.url[7:], "http")
        OAuthSession(source=source_of("t"), allow_http=True).open(request).close()
        assert other.lines == ["GET http://api.example/x"]

    def test_a_subclass_of_proxy_handler_serves_token_and_api(self, auth, other):
        class Kept(urllib.request.ProxyHandler):
            pass

        other.otherwise = lambda request: (200, [], {"access_token": TOKEN})
        proxy = Kept({"http": other.url})
        session = OAuthSession("c", "s", None, "http://auth.example/t", handlers=[proxy], allow_http=True)
        session.get("http://api.example/x")
        assert other.lines == ["POST http://auth.example/t", "GET http://api.example/x"]

    def test_an_authorization_header_of_the_caller_is_left_alone_at_its_origin(self, session, auth, api, other):
        api.will(302, {"Location": "/same"})
        api.will(302, {"Location": other.url})
        other.will(401, CHALLENGE)
        assert session.get("/x", headers={"authorization": "Basic own"}).status == 401
        assert api.bearers == ["Basic own", "Basic own"]
        assert other.bearers == [None]
        assert auth.count == 0

    def test_a_refused_token_costs_one_renewal_and_the_request_is_sent_again(self, session, api):
        for status, challenge in ((401, "Bearer error=invalid_token"), (401, ""), (403, "Bearer error=invalid_token")):
            session.source.clear()
            api.will(status, {"WWW-Authenticate": challenge})
            assert session.post("/x", b"body", headers={"X-A": "1"}).status == 200
        assert api.lines == ["POST /x"] * 6
        assert api.bodies == [b"body"] * 6
        assert api.header("X-A") == ["1"] * 6
        assert len(set(api.bearers)) == 6

    def test_a_body_in_memory_or_in_a_file_is_sent_again_from_where_it_stood(self, session, api):
        file = io.BytesIO(b"0123file")
        file.seek(4)
        for data in ({"a": 1}, [b"li", b"st"], bytearray(b"array"), file):
            session.source.clear()
            api.will(307, {"Location": "/to"})
            api.will(401, CHALLENGE)
            session.put("/from", data)
        assert api.lines == ["PUT /from", "PUT /to", "PUT /to"] * 4
        assert b" ".join(api.bodies) == b"a=1 a=1 a=1 list list list array array array file file file"

    def test_a_body_that_is_gone_is_not_sent_again_and_named_as_the_reason(self, session, api):
        pipe = type("Pipe", (io.BytesIO,), {"seekable": lambda self: False})
        api.always(401, CHALLENGE)
        for data in (pipe(b"once"), iter([b"once"])):
            error = raised_by(session.put("/x", data).raise_for_status)
            assert "body cannot be sent again" in str(error)
        api.will(307, {"Location": "/to"})
        assert "body cannot be sent again" in str(raised_by(session.put, "/x", iter([b"once"])))
        assert api.bodies == [b"once"] * 3

    def test_the_next_request_has_the_cookie_that_the_answer_set(self, api):
        cookies = urllib.request.HTTPCookieProcessor()
        source = source_of("t-1", "t-2", "t-3", "t-4")
        for opener in (OAuthSession(source=source, handlers=[cookies]), bare_opener(source, api.url, cookies)):
            source.clear()
            cookies.cookiejar.clear()
            api.will(307, {"Location": "/to", "Set-Cookie": "a=1"})
            api.will(401, {"Set-Cookie": "a=2"})
            opener.open(api.url).close()
        assert api.header("Cookie") == [None, "a=1", "a=2"] * 2

    def test_a_token_from_before_the_replay_is_masked_too(self):
        challenge = 'WWW-Authenticate: Bearer error="invalid_token", error_description="T0KEN-1 T0KEN-2"'
        source = source_of(TOKEN_1, TOKEN_2)
        with Server(page("401 No", b"", challenge)) as api, OAuthSession(source=source) as session:
            error = raised_by(session.get(api.url).raise_for_status)
        assert type(error) is OAuthInvalidToken
        assert '"error_description": "*** ***"' in str(error)
        assert api.count == 2

    def test_a_lack_of_scope_and_a_wrong_request_are_not_cured_by_another_token(self, session, auth, api):
        api.will(400, {"WWW-Authenticate": "Bearer error=invalid_request"})
        session.get("/x")
        api.always(401, {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="admin"'})
        error = raised_by(session.open, "/x")
        assert type(error) is OAuthInsufficientScope
        assert error.scope == "admin"
        assert auth.count == 1

    def test_an_api_that_answers_401_for_ever_costs_one_renewal(self, session, auth, api):
        api.always(401, CHALLENGE)
        session.get("/x")
        assert "audience" in str(raised_by(session.open, "/x"))
        assert api.bearers == [BEARER_1, BEARER_2, BEARER_2]
        assert auth.count == 2

    def test_a_call_that_is_redirected_is_sent_again_once_and_where_the_401_happened(self, session, api):
        api.will(307, {"Location": "/to"})
        api.will(401, CHALLENGE)
        api.will(307, {"Location": "/end"})
        api.otherwise = lambda request: (401, [], str(session.source.clear()))  # so that there is yet another token
        assert session.get("/from").status == 401
        assert api.lines == ["GET /from", "GET /to", "GET /to", "GET /end"]
        assert api.bearers == [BEARER_1, BEARER_1, BEARER_2, BEARER_2]

    CHALLENGES = r"""
        401 | bEARER ERROR=e,REALM = r | OAuthInvalidToken e r
        401 | Negotiate abc==, Bearer realm="r" | OAuthInvalidToken None r
        401 | Basic realm="b", Bearer realm="r", error="e", Digest realm="d" | OAuthInvalidToken e r
        401 | Bearer realm="r", Bearer error="e", error="f" | OAuthInvalidToken e r
        401 | Digest realm="Bearer error=e" | OAuthInvalidToken None None
        401 | Bearer realm="a, Basic \"b = c" | OAuthInvalidToken None a, Basic "b = c
        401 | Bearer realm="r", DPoP algs="ES256", error="e" | OAuthInvalidToken None r
        401 | , Bearer<tab>realm<tab>= "r" ,, ERROR=e<tab>,DPoP realm=d | OAuthInvalidToken e r
        401 | Bearer abc/+de==, Bearer error="e" | OAuthInvalidToken e None
        401 | Basic realm="\\", Bearer realm="\\", error="e" | OAuthInvalidToken e \
        403 | Bearer, Basic realm=x, error=insufficient_scope | OAuthInsufficientScope None None
        403 | Bearer error=insufficient_scope | OAuthInsufficientScope insufficient_scope None
        403 | Bearer realm=r | OAuthInsufficientScope None r
        403 | Bearer error=e | OAuthBearerError e None
        400 | Bearer error=invalid_token | OAuthInvalidToken invalid_token None"""  # and what becomes of each

    def test_status_and_challenge_become_an_exception(self, session, api):
        for line in self.CHALLENGES.strip().split("\n"):
            status, challenge, expected = line.split(" | ")
            headers = [("WWW-Authenticate", "Basic realm=x"), ("WWW-Authenticate", challenge.replace("<tab>", "\t"))]
            api.otherwise = lambda request: (status.strip(), headers, b"why")
            error = raised_by(session.open, "/x")
            assert f"{type(error).__name__} {error.error} {error.realm}" == expected
            assert error.code == int(status)
            assert error.read() == b"why"

    def test_what_does_not_refuse_the_token_is_a_plain_http_error(self, session, api):
        others = ("Basic", 'Digest realm="x, Bearer error=e"', "Negotiate bearer", "Negotiate a/bearer==, X", "Bearers a=b")
        for status, challenge in (*((403, one) for one in others), (400, ""), (404, 'Bearer error="invalid_token"')):
            api.always(status, {"WWW-Authenticate": challenge})
            error = raised_by(session.open, "/x")
            assert not isinstance(error, OAuthError)

    @parametrize("password, status", [("right", 200), ("wrong", 401)])
    def test_a_login_handler_of_urllib_logs_in_once(self, api, password, status):
        def answer(request):
            known = request.headers.get("Authorization") == "Basic dXNlcjpyaWdodA=="
            return (200, [], b"") if known else (401, [("WWW-Authenticate", 'Basic realm="r"')], b"")

        api.otherwise = answer
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        passwords.add_password(None, api.url, "user", password)
        login = urllib.request.HTTPBasicAuthHandler(passwords)

        with static_session(handlers=[login]) as session:
            response = session.post(api.url, io.BytesIO(b"file"))

        assert response.status == status
        assert api.bodies == [b"file"] * 2

    def test_handlers_that_open_see_the_token_unless_one_set_another_header(self, api):
        seen = []
        for own in ({}, {"Authorization": "own"}):
            handler = urllib.request.BaseHandler()
            handler.http_request = lambda request, own=own: request.headers.update(own) or request
            handler.default_open = lambda request: seen.append(request.get_header("Authorization"))
            bare_opener(source_of("t"), api.url, handler).open(api.url).close()
        assert seen == api.bearers == ["Bearer t", "own"]

    def test_a_request_that_a_handler_opens_again_elsewhere_takes_no_token_along(self, api, other):
        class Elsewhere(urllib.request.BaseHandler):
            def http_error_503(self, request, *_):
                request.full_url = other.url
                return self.parent.open(request)

        api.always(503)
        with static_session(base_url=api.url, handlers=[Elsewhere]) as session:
            session.get("/")
        assert api.bearers == [f"Bearer {TOKEN}"]
        assert other.bearers == [None]

    def test_plain_http_to_loopback_goes_to_no_proxy_and_does_not_see_its_password(self, network, auth, api, other, monkeypatch):
        OwnProxy = type("OwnProxy", (urllib.request.ProxyHandler,), {})  # as users write them, to choose by the host
        own = OwnProxy({"http": other.url.replace("//", "//user:pass@")})
        socks = other.url.replace("http:", "socks5:")  # which elsewhere is refused
        stock = urllib.request.ProxyHandler({"http": socks})
        monkeypatch.setenv("http_proxy", socks)
        for url in (api.url, api.alias):
            sessions = [session_of(auth, handlers=handlers) for handlers in ([], [network], [own], [stock])]
            for opener in (*sessions, bare_opener(source_of("t", "u"), url)):
                api.will(401, CHALLENGE)
                api.will(307, {"Location": "/to"})
                opener.open(url, b"body").close()
        assert api.header("Proxy-Authorization") == [None] * 30
        assert auth.header("Proxy-Authorization") == [None] * 16
        assert other.count == 0

    def test_a_request_through_a_proxy_has_the_whole_url_and_is_sent_again_there(self, auth, other, monkeypatch):
        proxy = urllib.request.ProxyHandler({"http": other.url.replace("//", "//user:pass@")})
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        session = session_of(auth, handlers=[proxy], allow_http=True)
        other.will(401, CHALLENGE)
        session.get("http://api.example/x?q=1")
        assert other.lines == ["GET http://api.example/x?q=1"] * 2
        assert other.bearers == [BEARER_1, BEARER_2]
        assert other.header("Proxy-Authorization") == ["Basic dXNlcjpwYXNz"] * 2
        assert other.header("Host") == ["api.example"] * 2


# ---- OAuthSession ----------------------------------------------------------------------------------------------------


class OddStr(str):
    """Its str() is not its text, as that of an Enum member."""

    def __str__(self):
        return "LOUD"


class AcmeSession(OAuthSession):
    """As a company ships it."""

    token_url = "https://auth.acme.example/token"
    scope = "company"
    headers = {"X-Company": "acme"}
    timeout = 7.5


class TestSession:
    """Verbs, URLs, bodies, headers and settings."""

    def test_each_verb_sends_its_method_with_the_token(self, session, auth, api):
        for verb in ("get", "delete", "head", "options", "post", "put", "patch"):
            response = getattr(session, verb)("/x")
            assert response.status == 200
            assert api.lines[-1] == f"{verb.upper()} /x"
        assert api.bearers == [BEARER_1] * 7
        assert api.header("Content-Type") == [None] * 7
        assert fields_of(auth.seen[0]) == {"grant_type": "client_credentials", "scope": "read"}

    def test_what_cannot_be_sent_is_refused_before_a_token_is_fetched(self, session, auth):
        with pytest.raises(ValueError, match="CONNECT"):
            session.request("connect", "/x")
        for options in ({"params": {"a": {}}}, {"data": [("a", {})]}, {"json": {1}}, {"data": b"a", "json": {}}, {"headers": {"X": 5}}):
            with pytest.raises((TypeError, ValueError)):
                session.request("POST", "/x", **options)
        assert auth.count == 0

    def test_params_become_the_query(self, session, api):
        high = enum.IntEnum("Level", "LOW HIGH").HIGH
        half = enum.Enum("Ratio", {"HALF": 0.5}, type=float).HALF
        session.get("/dict", {"a": [1, -2.5, Decimal("3.0")], "b": "ü &", "c": [high, half]})
        session.get("/pairs", [("a", OddStr("1")), (b"a", b"2")])
        session.get("/text", "a=#1&b=ü")
        session.get("/nothing", {})
        session.post("/more?z=0#part", params={"a": 1})
        assert api.lines[:2] == ["GET /dict?a=1&a=-2.5&a=3.0&b=%C3%BC+%26&c=2&c=0.5", "GET /pairs?a=1&a=2"]
        assert api.lines[2:] == ["GET /text?a=%231&b=%C3%BC", "GET /nothing", "POST /more?z=0&a=1"]

    def test_data_arrives_with_the_content_type_of_its_kind(self, session, api):
        session.post("/x", {"a": 1, "b": ["x", b"y"], "n": None})
        session.post("/x", [("a", OddStr("ü"))])
        session.post("/x", OddStr("ü"))
        session.post("/x", b"\xff")
        session.post("/x", io.BytesIO(b"file"))
        session.post("/x", iter([b"a", b"b"]))
        session.post("/x", (b"a", b"b"), headers={"content-type": "text/x"})
        session.post("/x", json={"a": "ü"})
        session.post("/x", json=False)
        kinds = [FORM, FORM, "text/plain; charset=utf-8", OCTETS, OCTETS, OCTETS, "text/x", JSON, JSON]
        assert api.header("Content-Type") == kinds
        assert api.bodies[:4] == [b"a=1&b=x&b=y", b"a=%C3%BC", "ü".encode(), b"\xff"]
        assert api.bodies[4:] == [b"file", b"ab", b"ab", b'{"a": "\\u00fc"}', b"false"]

    def test_headers_of_the_call_go_over_those_of_the_session(self, session, auth, api):
        session.headers.update({"X-Both": "session", "X-Gone": "1"})
        session.get("/", headers={"x-both": b"call", "x-gone": None})
        session.headers = {"X-Both": OddStr("later"), "User-Agent": "acme/2"}
        session.source.clear()
        session.get("/")
        own = f"oauth_session/{oauth_session.__version__}"
        assert api.header("X-Both") == ["call", "later"]
        assert api.header("X-Gone") == [None, None]
        assert auth.header("X-Both") == [None, None]
        assert api.header("User-Agent") == auth.header("User-Agent") == [own, "acme/2"]

    def test_a_url_that_is_not_absolute_is_appended_to_base_url(self, auth, api):
        session = session_of(auth, base_url=api.url + "/v1/")
        for url in (b"users", OddStr("/users"), "", "?q=1", "a:b", "x?u=http://a/", api.url + "/elsewhere"):
            session.get(url)
        session.open("users").close()
        session_of(auth, base_url=api.url).get("users")
        targets = "/v1/users /v1/users /v1 /v1?q=1 /v1/a:b /v1/x?u=http://a/ /elsewhere /v1/users /users"
        assert api.lines == ["GET " + target for target in targets.split()]

    def test_a_url_without_http_is_refused(self, session, auth):
        for url in ("//host/x", "file:///etc/hosts", "ftp://127.0.0.1/"):
            for call in (session.get, session.open):
                with pytest.raises(ValueError, match="url"):
                    call(url)
        with pytest.raises(ValueError, match="base_url"):
            session_of(auth).get("/x")

    def test_a_subclass_holds_the_defaults_and_an_explicit_none_switches_one_off(self, auth):
        session = AcmeSession(CLIENT, SECRET, token_url=None, issuer="https://issuer.example", timeout=None)
        session.headers["X-Own"] = "1"
        assert session.scope == "company"
        assert session.timeout is None
        assert AcmeSession(CLIENT, SECRET).headers == {"X-Company": "acme"}
        assert AcmeSession(CLIENT, SECRET).timeout == 7.5
        session_of(auth, SECRET, None, kind=AcmeSession, timeout=None).source.token()
        assert fields_of(auth.seen[0]) == {"grant_type": "client_credentials"}

    @parametrize("settings, first, second", [
        ({"issuer": "https://i.example"}, "issuer", "token_url"),
        ({"client_assertion": "a.b.c"}, "client_assertion", "client_secret"),
        ({"auth_method": "none"}, "auth_method", "client_secret"),
        ({"auth_method": "client_secret_post", "client_secret": None, "client_assertion": "a.b.c"}, "auth_method", "client_assertion"),
    ], ids=name_of)  # fmt: skip
    def test_settings_that_contradict_each_other_name_both_and_the_way_out(self, settings, first, second):
        arguments = {"client_id": CLIENT, "client_secret": SECRET, "token_url": self.URL}
        company = type("Company", (OAuthSession,), {**arguments, **settings})
        errors = [raised_by(company, kind=ValueError)]
        errors.append(raised_by(OAuthSession, **{**arguments, **settings}, kind=ValueError))
        for error in errors:
            assert first in str(error)
            assert f"leave one out, or pass {second}=None" in str(error)
        assert company(**{first: None}).client_id == CLIENT

    def test_a_wrong_setting_is_named_at_once(self):
        wrong = {"base_url": "https://a.example/?x", "timeout": (3, 10), "auth_method": "basic", "refresh_before": -1, "context": True}
        for name, value in wrong.items():
            with pytest.raises((TypeError, ValueError), match=name):
                OAuthSession(CLIENT, SECRET, "read", self.URL, **{name: value})
        with pytest.raises(ValueError, match="timeout"):
            ClientCredentials(CLIENT, SECRET, "read", self.URL, timeout=0)
        with pytest.raises(TypeError, match="fetch must be"):
            TokenSource("token")
        with pytest.raises(TypeError, match="fetch must return a Token"):
            TokenSource(lambda: "token").token()
        with pytest.raises(TypeError, match="source must be"):
            OAuthHandler(lambda: Token(TOKEN), self.URL)

    def test_a_source_contradicts_each_credential_until_it_is_switched_off(self, api):
        source = source_of("t")
        for name in ("client_id", "token_params", "refresh_before"):
            with pytest.raises(ValueError, match=f"{name} and source.*leave one out, or pass"):
                OAuthSession(source=source, **{name: 5.0})
        session = AcmeSession(source=source, base_url=api.url, scope=None, token_url=None)
        session.get("/")
        assert session.source is source
        assert api.bearers == ["Bearer t"]

    URL = "https://auth.example/token"

    def test_missing_and_swapped_arguments_are_told_the_order(self):
        swapped = [(self.URL, CLIENT, SECRET), (CLIENT, SECRET, self.URL, ["read"]), (CLIENT, SECRET, 5, self.URL)]
        for arguments in ((), (CLIENT, SECRET), (None, SECRET, None, self.URL), *swapped):
            error = raised_by(OAuthSession, *arguments, kind=(ValueError, TypeError))
            assert "client_id, client_secret, scope, token_url" in str(error)
            assert_hidden(error)

    ENVIRONMENT = {"CLIENT_ID": CLIENT, "CLIENT_SECRET": SECRET, "TOKEN_URL": URL}

    def test_from_env_reads_each_variable(self, auth, api, monkeypatch):
        monkeypatch.setenv("OAUTH_CLIENT_ID", CLIENT)
        monkeypatch.setenv("OAUTH_CLIENT_SECRET", SECRET)
        monkeypatch.setenv("OAUTH_TOKEN_URL", auth.url)
        monkeypatch.setenv("OAUTH_AUTH_METHOD", "client_secret_post")
        monkeypatch.setenv("OAUTH_BASE_URL", api.url)
        monkeypatch.setenv("OAUTH_SCOPE", "a b")
        monkeypatch.setenv("OAUTH_AUDIENCE", "aud")
        monkeypatch.setenv("OAUTH_RESOURCE", "https://r.example https://s.example")
        OAuthSession.from_env().get("/x")
        fields = urllib.parse.parse_qs(auth.bodies[0].decode())
        assert api.lines == ["GET /x"]
        assert fields.pop("client_id") == [CLIENT]
        assert fields.pop("client_secret") == [SECRET]
        assert fields.pop("scope") == ["a b"]
        assert fields.pop("audience") == ["aud"]
        assert fields.pop("resource") == ["https://r.example", "https://s.example"]

    def test_from_env_takes_a_prefix_a_mapping_and_arguments_and_no_empty_variable(self):
        environ = {"ACME_" + name: value for name, value in self.ENVIRONMENT.items()}
        environ.update(ACME_SCOPE="", ACME_CLIENT_SECRET_FILE="", ACME_TOKEN_URL="")
        session = AcmeSession.from_env("ACME_", environ, client_id="other")
        assert session.client_id == "other"
        assert session.token_url == AcmeSession.token_url
        assert session.scope == "company"

    def test_a_secret_file_is_read_for_each_fetch_without_bom_and_last_newline(self, auth, tmp_path):
        path = tmp_path / "secret"
        path.write_bytes(b"\xef\xbb\xbfold\r\n")
        environ = {"CLIENT_ID": CLIENT, "CLIENT_SECRET_FILE": str(path), "TOKEN_URL": auth.url}
        session = OAuthSession.from_env("", environ, auth_method="client_secret_post")
        session.source.token()
        path.write_text("new\n")
        session.source.clear()
        session.source.token()
        path.unlink()
        session.source.clear()
        with pytest.raises(OAuthError, match="CLIENT_SECRET_FILE"):
            session.source.token()
        assert fields_of(auth.seen[0])["client_secret"] == "old"
        assert fields_of(auth.seen[1])["client_secret"] == "new"

    def test_an_argument_of_from_env_excuses_the_variables_that_contradict_each_other(self, auth):
        environ = {**self.ENVIRONMENT, "CLIENT_SECRET": "wrong", "CLIENT_SECRET_FILE": "/no/such", "TOKEN_URL": auth.url}
        session = OAuthSession.from_env("", environ, client_secret=SECRET, auth_method="client_secret_post")
        assert session.access_token == TOKEN_1
        assert fields_of(auth.seen[0])["client_secret"] == SECRET

    def test_an_error_of_from_env_names_the_variable(self):
        wrong = {"TOKEN_URL": "http://auth.example/", "CLIENT_SECRET_FILE": __file__, "ASSERTION_FILE": "/no/such/file"}
        for name, value in (*wrong.items(), ("CLIENT_ID", ""), ("CLIENT_SECRET", ""), ("TOKEN_URL", "")):
            environ = {**self.ENVIRONMENT, name: value}
            with pytest.raises(ValueError, match=name):
                OAuthSession.from_env("", environ)

    ADVICE = {  # for what requests has: a word of what to write instead
        "verify": "load_verify_locations", "proxies": "ProxyHandler", "stream": "open", "auth": "Authorization",
        "allow_redirects": "handlers=", "files": "multipart", "cert": "load_cert_chain", "cookies": "CookieProcessor",
    }  # fmt: skip

    def test_an_argument_of_requests_says_what_to_write_here(self, session):
        for name, advice in self.ADVICE.items():
            for call in (session.get, session.post, OAuthSession):
                with pytest.raises(TypeError, match=f"{name}.*{advice}"):
                    call("/", **{name: None})

    def test_a_setting_that_cannot_be_changed_or_is_misspelt_is_refused(self, session):
        own = AcmeSession(CLIENT, SECRET)
        own.region = session._region = "eu"
        session.get = own.get = print  # as mock.patch.object() does
        for name in ("verify", "params", "hooks", "token_url", "opener"):
            with pytest.raises(AttributeError, match=name):
                setattr(session, name, "x")
            with pytest.raises(AttributeError, match=name):
                setattr(own, name, "x")
        with pytest.raises(AttributeError, match=r"token_uri.*token_url"):
            session.token_uri = self.URL
        with pytest.raises(TypeError, match="token_uri"):
            AcmeSession(CLIENT, SECRET, token_uri=self.URL)

    def test_no_text_of_a_session_shows_a_secret(self, session, auth):
        assert session.access_token == TOKEN_1
        assert session.source.authorization() == BEARER_1
        assert auth.count == 1
        for thing in (session, session.source, session.opener, vars(session)):
            assert_hidden(thing)

    def test_no_text_shows_the_query_of_token_url_or_a_secret_of_token_params(self):
        url = self.URL + "?key=hunter-1"
        session = OAuthSession(CLIENT, SECRET, None, url, token_params={"password": "hunter-2"})
        for thing in (session.source, ClientCredentials(CLIENT, SECRET, None, url)):
            assert "hunter" not in repr(thing)
        assert "hunter" not in repr(TokenSource(functools.partial(Token, "hunter-3")))
        assert_hidden(vars(session), "hunter-2")

    def test_a_setting_that_is_not_safe_is_refused(self, auth):
        for secret in (SECRET + "\n", SECRET + "\0", b"s3cret-\xff"):
            error = raised_by(session_of, auth, secret, kind=ValueError)
            assert "client_secret" in str(error)
            assert_hidden(error, "s3cret")
        with pytest.raises(ValueError, match="context="):
            session_of(auth, handlers=[urllib.request.HTTPSHandler])
        with pytest.raises(ValueError, match="base_url"):
            session_of(auth, base_url="http://localhost.example")
        for origins in ([], "", "http://localhost.example"):  # without any, it would be all
            with pytest.raises(ValueError, match="origins"):
                session_of(auth, origins=origins)
            with pytest.raises(ValueError, match="origins"):
                OAuthHandler(source_of("t"), origins)

    def test_a_line_end_or_nul_sends_nothing(self, session, auth, api):
        for bad in ("\r", "\n", "\0", "\r\nX-Evil: 1\r\n\r\n"):
            for headers in ({"X-A" + bad: "1"}, {"X-A": "1" + bad}):
                with pytest.raises(ValueError):
                    session.get("/x", headers=headers)
            for url in ("/x" + bad + "y", bad + api.url, api.url + bad):
                with pytest.raises(ValueError):
                    session.open(url)
            with pytest.raises(ValueError):
                session.request("GET" + bad, "/x")
        request = urllib.request.Request(api.url, headers={"X-A": "1\r\nX-Evil: 1"})
        for opener in (session, bare_opener(session.source, api.url)):
            with pytest.raises(ValueError):
                opener.open(request)
        session.headers["User-Agent"] = "1\r\nX-Evil: 1"
        session.source.clear()
        with pytest.raises(ValueError):
            session.source.token()
        assert auth.count == 1  # the token of the first call
        assert api.count == 0

    def test_open_raises_http_error_unless_2xx(self, session, api):
        api.will(204)
        session.open("/").close()
        for status in (304, 404, 500):
            api.will(status, {"X-A": "1"})
            error = raised_by(session.open, "/")
            assert error.code == status
            assert error.headers["x-a"] == "1"
        assert api.header("Accept-Encoding") == ["identity"] * 4
        api.will(500, {}, b"x" * (2**20 + 1))
        error = raised_by(session.open, "/")
        assert len(error.read()) == 2**20

    def test_a_changed_timeout_counts_for_the_next_token_request(self):
        def answer_late(sock):
            sock.settimeout(PATIENCE / 2)
            with contextlib.suppress(socket.timeout):
                sock.recv(1)  # until the client gives up
            return page("400 No")

        with Server(answer_late) as server, session_of(server) as session:
            session.timeout = 0.3
            error = raised_by(session.source.token)
        assert "timed out" in str(error)

    def test_open_takes_what_urllib_takes_and_leaves_the_request_as_it_was(self, session, api):
        request = urllib.request.Request(api.url + "/ä", headers={"X-A": "1"}, method="PUT")
        request.add_unredirected_header("X-B", "2")
        before = copy.deepcopy(vars(request))
        session.headers["X-A"] = "session"
        session.open(request, b"data", PATIENCE).close()
        session.open("/s", b"data").close()
        session.open("/t", b"data", headers={"x-a": None, "X-B": "3"}).close()
        assert api.lines == ["PUT /%C3%A4", "POST /s", "POST /t"]
        assert api.bodies == [b"data"] * 3
        assert api.header("X-A") == ["1", "session", None]
        assert api.header("X-B") == ["2", None, "3"]
        assert vars(request) == before

    @pytest.fixture
    def urllib_restored(self):
        yield
        urllib.request.install_opener(None)

    def test_install_serves_urlopen_inside_the_origins_only(self, session, auth, api, other, tmp_path, urllib_restored):
        path = tmp_path / "file"
        path.touch()
        session.install()
        for url in (api.url, other.url, path.as_uri(), "data:,x"):
            urllib.request.urlopen(url).close()
        with pytest.raises(ValueError, match="base_url or origins"):
            session_of(auth).install()
        assert api.bearers == [BEARER_1]
        assert other.bearers == [None]

    def test_a_call_without_a_timeout_gets_that_of_the_session(self, auth, urllib_restored):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            session = session_of(auth, base_url="http://127.0.0.1:%d" % silent.getsockname()[1])
            session.install()
            session.source.token()
            session.timeout = 0.2
            for call in (session.get, session.open, session.opener.open, urllib.request.urlopen):
                error = raised_by(call, session.base_url)
                assert "timed out" in str(error)
            session.timeout = None
            error = raised_by(session.open, "/", None, 0.2)
        assert "timed out" in str(error)


class TestResponse:
    """What the verbs return."""

    GZIP = gzip.compress(b"text" * 1000)

    def test_it_has_the_names_that_users_of_requests_know(self, session, api):
        api.will(201, {"Content-Type": "application/json", "X-A": "1"}, b'{"a": "\xc3\xbc"}')
        response = session.get("/x?q=1")
        assert response.status == response.status_code == 201
        assert response.reason == "Created"
        assert response.url == api.url + "/x?q=1"
        assert response.headers["x-a"] == "1"
        assert response.text == '{"a": "ü"}'
        assert response.json() == {"a": "ü"}

    def test_it_is_true_below_400_and_else_raise_for_status_raises(self, session, api):
        for status in (200, 304, 399):
            api.will(status)
            response = session.get("/")
            assert bool(response) is response.ok is True
            assert response.raise_for_status() is response
        for status in (400, 401, 403, 500):
            api.always(status, {"X-A": "1"}, b"why")
            response = session.get("/")
            error = raised_by(response.raise_for_status)
            assert bool(response) is response.ok is False
            assert response.status == error.code == status
            assert response.content == error.read() == b"why"
            assert error.headers["x-a"] == "1"
            assert error.response is response

    def test_text_and_json_are_decoded_by_one_rule(self, session, api):
        utf_8 = '"ü"'.encode()
        bodies = {"latin-1": b'"\xfc"', '"cp1252"': b'"\xfc"', "nonsense": utf_8, "utf-8": b"\xef\xbb\xbf" + utf_8}
        for charset, body in bodies.items():
            api.will(200, {"Content-Type": "application/json; Charset=" + charset}, body)
            response = session.get("/")
            assert response.text == '"ü"'
            assert response.json() == "ü"
        api.will(200, {"Content-Type": "text/x"}, b"\xff")
        assert session.get("/").text == "\ufffd"

    def test_json_of_something_else_says_type_and_status(self, session, api):
        for body in (b"<html>", b"", b"[" * 100_000):
            api.will(502, {"Content-Type": "text/html"}, body)
            response = session.get("/")
            with pytest.raises(ValueError, match=r"text/html.*502"):
                response.json()

    def test_an_http_error_names_method_and_url_without_its_query(self, session, api):
        api.always(404)
        returned = raised_by(session.post("/me?key=private#part").raise_for_status)
        opened = raised_by(session.open, "/me?key=private#part", b"")
        assert str(returned) == str(opened) == f"POST {api.url}/me answered 404 Not Found"

    def test_an_http_error_shows_no_token_that_a_redirect_brought_into_the_url(self, session, api):
        for call in (lambda: session.get("/me").raise_for_status(), lambda: session.open("/me")):
            api.will(302, {"Location": f"/{TOKEN_1}?t={TOKEN_1}"})
            api.will(404)
            error = raised_by(call)
            assert str(error) == f"GET {api.url}/me answered 404 Not Found"
            assert error.url == api.url + "/me"
            assert_hidden(error)

    def test_gzip_is_undone_and_asked_for_unless_the_caller_asks_for_a_range_or_another_form(self, session, api):
        twice = self.GZIP + self.GZIP
        api.always(200, {"Content-Encoding": "gzip"}, twice)
        assert session.get("/").content == b"text" * 2000
        assert session.get("/", headers={"Range": "x"}).content == b"text" * 2000
        assert session.get("/", headers={"accept-encoding": "x"}).content == b"text" * 2000
        assert api.header("Accept-Encoding") == ["gzip", "identity", "x"]
        assert session.head("/").content == b""

    def test_broken_gzip_is_a_url_error(self, session, api):
        for body in (b"plain", self.GZIP[:-9], self.GZIP + b"x"):
            api.will(200, {"Content-Encoding": "gzip"}, body)
            error = raised_by(session.get, "/")
            assert "gzip" in str(error)


# ---- DemoServer ------------------------------------------------------------------------------------------------------


class TestDemoServer:
    """An authorisation server and an API on loopback, for --demo and for users' own tests."""

    @pytest.fixture
    def demo(self):
        with DemoServer() as server:
            yield server

    @pytest.fixture
    def client(self, demo):
        with OAuthSession(demo.client_id, demo.client_secret, "read", demo.token_url, base_url=demo.url) as session:
            yield session

    @staticmethod
    def fetch(demo, client_id=DemoServer.client_id, client_secret=DemoServer.client_secret, **settings):
        return ClientCredentials(client_id, client_secret, token_url=demo.token_url, **settings)()

    def test_a_path_answers_as_it_was_told_and_any_other_what_it_saw(self, demo, client):
        demo.answer("/told", ["error", "ü"], 404, {"X-A": "1", "Content-Type": "application/problem+json"})
        demo.answer("/short", None)
        client.get("/short").raise_for_status()
        told = client.get("/told?q=1")
        head = client.head("/told")
        other = client.post("/a/b?c=1", json={"d": 2})
        assert told.json() == ["error", "ü"]
        assert told.status == 404
        assert told.headers["X-A"] == "1"
        assert told.headers["Content-Type"] == "application/problem+json"
        assert head.status == 404
        assert head.content == b""
        seen = other.json()
        assert seen.pop("headers")["Content-Type"] == "application/json"
        assert seen == {"method": "POST", "path": "/a/b?c=1", "body": '{"d": 2}'}

    def test_the_requests_for_the_api_are_recorded_without_their_token(self, demo, client):
        client.post("/a?b=1", data=iter([b"0", b"12"]), headers={"X-A": "1"})
        (request,) = demo.requests
        assert request.method == "POST"
        assert request.path == "/a?b=1"
        assert request.body == "012"
        assert request.headers["X-A"] == "1"
        assert client.access_token not in repr(request)

    def test_it_revokes_tokens_and_gives_no_new_ones_until_it_is_told_otherwise(self, demo, client):
        client.get("/x")
        demo.revoke()
        demo.fail(400)
        with pytest.raises(OAuthResponseError, match="400"):
            client.get("/x")
        demo.fail(None)
        client.source.clear()
        response = client.get("/x")
        assert response.status == 200
        assert demo.token_requests == 3
        assert len(demo.requests) == 3

    @parametrize("settings", [{"auth_method": "client_secret_post"}, {"scope": "any"}])
    def test_it_grants_a_token_of_the_life_that_was_set(self, settings, demo):
        demo.expires_in = 60
        before = time.time()
        token = self.fetch(demo, **settings)
        assert before + 60 <= token.expires_at <= time.time() + 60

    @parametrize("wrong", [{"client_id": "other"}, {"client_secret": "other"}])
    def test_it_judges_the_client(self, wrong, demo):
        with pytest.raises(OAuthInvalidClient):
            self.fetch(demo, **wrong)


# ---- Command line ----------------------------------------------------------------------------------------------------


class TestCommandLine:
    """python3 oauth_session.py ..."""

    @staticmethod
    def run(*arguments, stdin="", **environ):
        environ = {**os.environ, "PYTHONIOENCODING": "utf-8", **environ}
        command = [sys.executable, oauth_session.__file__, *arguments]
        done = subprocess.run(command, input=stdin.encode(), timeout=2 * PATIENCE, capture_output=True, env=environ)
        return done.returncode, done.stdout.decode(), done.stderr.decode().replace("\r\n", "\n")

    @pytest.fixture
    def call(self, auth):
        settings = {"OAUTH_CLIENT_ID": CLIENT, "OAUTH_CLIENT_SECRET": SECRET, "OAUTH_TOKEN_URL": auth.url + "/token"}

        def call(*arguments, **environ):
            return self.run(*arguments, **{**settings, **environ})

        return call

    @staticmethod
    def assert_one_line(err, word):
        assert err.startswith("oauth_session: ")
        assert err.count("\n") == 1
        assert word in err
        assert_hidden(err)

    def test_help_and_version(self):
        _, helped, _ = self.run("--help")
        _, version, _ = self.run("--version")
        words = "-X -d -H -i --fail --token --check --issuer --demo --version --client-id --client-secret-file --token-url"
        assert [word for word in words.split() if word not in helped] == []
        assert "--client-secret " not in helped
        assert version.strip() == f"oauth_session {oauth_session.__version__}"

    def test_the_demo_shows_each_event_and_no_secret(self):
        status, out, err = self.run("--demo")
        assert status == 0
        assert err == ""
        marks = r"1\. .*-> 200.*2\. .*-> 200.*3\. .*-> 200.*4\. .*GET /me HTTP/1.1. 401.*-> 200"
        marks += r".*5\. .*token HTTP/1.1. 401.*OAuthInvalidClient.*Done: \d+ token req"
        assert re.search(marks, out, re.DOTALL)
        assert DemoServer.client_secret not in out
        assert not re.search("[0-9a-f]{32}", out)

    def test_a_secret_as_an_option_is_not_taken_for_a_file_and_shown(self, call):
        status, _, err = call("--token", "--client-secret", "/hunter-1")
        assert status == 2
        assert "hunter" not in err

    def test_the_flags_of_curl_do_what_curl_does(self, call, api, tmp_path):
        path = tmp_path / "body"
        path.write_bytes(b"\0from a file\n")
        api.will(201, {"X-Answer": "yes", "Content-Type": "text/plain; charset=latin-1"}, "für".encode())  # a lie
        headers = ["-H", "X-A: 1", "-H", "content-type: text/plain"]
        _, out, _ = call("-i", "--fail", "-X", "put", *headers, "-d", "a=1", api.url)
        call(api.url, "-d", f"@{path}")
        call(api.url, "--data", "@-", stdin="from stdin")
        assert re.fullmatch("HTTP/1.1 201 Created\n.*X-Answer: yes\n.*\n\nfür", out.replace("\r\n", "\n"), re.DOTALL)
        assert api.lines == ["PUT /", "POST /", "POST /"]
        assert api.bodies == [b"a=1", b"\0from a file\n", b"from stdin"]
        assert api.header("X-A") == ["1", None, None]
        assert api.header("Content-Type") == ["text/plain", FORM, FORM]

    def test_main_prints_to_any_stdout(self, auth, api, monkeypatch):
        monkeypatch.setenv("OAUTH_CLIENT_SECRET", SECRET)
        monkeypatch.setenv("OAUTH_TOKEN_URL", auth.url)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            oauth_session.main([api.url, "--client-id", CLIENT])
        assert out.getvalue() == '{"path": "/"}'

    def test_two_runs_print_the_token_that_they_share_and_nothing_else(self, call, auth, tmp_path):
        cache = str(tmp_path / "c")
        first = call("--token", "--cache", cache)
        second = call("--token", OAUTH_CACHE=cache)
        assert first == second == (0, TOKEN_1 + os.linesep, "")

    def test_fail_exits_with_22_and_prints_no_body(self, call, api):
        api.always(404, {}, "nicht verfügbar\n".encode())
        without = call(api.url + "/y")
        status, out, err = call("--fail", api.url + "/x?key=private", "-X", "delete")
        assert without == (0, "nicht verfügbar\n", "")
        assert api.lines[0] == "GET /y"
        assert api.bearers[0] == BEARER_1
        assert status == 22
        assert out == ""
        self.assert_one_line(err, f"DELETE {api.url}/x answered 404 Not Found\n")

    def test_fail_exits_with_22_if_the_api_refuses_the_token_and_at_a_bad_redirect(self, call, api):
        api.will(403, {"WWW-Authenticate": "Bearer"})
        api.will(302, {"Location": "ftp://127.0.0.1/"})
        refused, _, why = call("--fail", api.url)
        astray, _, err = call("--fail", api.url)
        assert refused == 22
        assert astray == 22
        self.assert_one_line(why, "refused the token: 403")
        self.assert_one_line(err, "ftp")

    @parametrize("where", ["stdin", "file"])
    def test_the_secret_comes_from_stdin_or_a_file_and_options_go_before_variables(self, where, auth, tmp_path):
        path = tmp_path / "secret"
        path.write_text(f"\ufeff{SECRET}\n", encoding="utf-8")
        file = str(path) if where == "file" else "-"
        options = ["--client-secret-file", file, "--client-id", CLIENT, "--token-url", auth.url]
        options += "--scope a --audience aud --auth-method client_secret_post --resource urn:r".split()
        environ = {"OAUTH_SCOPE": "unused", "OAUTH_CLIENT_SECRET": "unused"}
        status, _, _ = self.run("--token", *options, stdin=f"\ufeff{SECRET}\n", **environ)
        assert status == 0
        form = fields_of(auth.seen[0])
        assert form.pop("client_secret") == SECRET
        assert form.pop("client_id") == CLIENT
        assert form == {"grant_type": "client_credentials", "scope": "a", "audience": "aud", "resource": "urn:r"}

    def test_a_refusal_is_one_line_and_exit_1(self, call, auth, api):
        auth.always(401, {}, {"error": "invalid_client", "error_description": f"bad\n{SECRET}"})
        status, out, err = call(api.url)
        assert status == 1
        assert out == ""
        assert api.seen == []
        self.assert_one_line(err, "invalid_client")

    @parametrize("arguments, word", [
        ("--token --token-url http://a.example", "token_url"), ("", "give a URL"), ("https://a.example -H X", "colon"),
        ("https://a.example -d @/no/such", "/no/such")])
    def test_a_wrong_setting_is_one_line_and_exit_2(self, arguments, word, call, auth):
        status, out, err = call(*arguments.split())
        assert status == 2
        assert out == ""
        assert auth.seen == []
        self.assert_one_line(err, word)

    @staticmethod
    def steps(out):
        """Return what came of each step, and its name."""
        return ", ".join(" ".join(step) for step in re.findall(r"(?m)^(ok|NO|--) +(.*?): ", out))

    def test_check_tells_the_settings_and_each_step_and_no_secret(self, call, auth, api):
        payload = base64.urlsafe_b64encode(b'{"aud": ["https://api.example"], "sub": "not shown"}').decode().rstrip("=")
        auth.always(200, {}, {"access_token": f"head.{payload}.{TOKEN}", "scope": "granted", "expires_in": 3600})
        url = api.url + "/me?key=private"
        status, out, err = call("--check", url, "--token-url", auth.url)
        assert status == 0
        assert err == ""
        assert f"      OAUTH_CLIENT_ID: {CLIENT}\n      OAUTH_SCOPE: not set\n" in out
        assert f"      OAUTH_TOKEN_URL: {auth.url}\n" in out
        assert self.steps(out) == "ok connection (DNS, TCP, TLS), ok clock, ok token, ok API"
        assert "expires_in 3600, scope granted, aud ['https://api.example']" in out
        assert out.endswith("All is well.\n")
        assert "not shown" not in out
        assert "private" not in out
        assert_hidden(out)
        assert [request.method for request in auth.seen].count("POST") == 1  # the call takes its token

    @parametrize("options, step", [
        ("--token-url https://no-such-host.invalid/", r"connection .*: no usable answer from https://no-such-host\.invalid: .*"),
        ("--token-url http://127.0.0.1:1/", "connection .*: no usable answer from http://127.0.0.1:1: .*refused"),
        ("--scope a", r"token: .*\(tried: client_secret_basic, client_secret_post, client_secret_basic_raw\)")])
    def test_check_ends_with_the_step_that_fails(self, options, step, call, auth):
        auth.always(401, {}, {"error": "invalid_client", "error_description": "нет"})
        status, out, err = call("--check", "https://api.example", *options.split(), PYTHONIOENCODING="ascii")
        assert status == 1
        assert err == ""
        assert out.count("\nNO ") == 1
        assert re.search(f"\nNO +{step}\n$", out.replace("\r\n", "\n"))
        assert "All is well" not in out
        assert_hidden(out)

    def test_check_tries_each_method_and_the_api(self, call, auth, api):
        auth.will(405)  # to the question for the time
        auth.will(401, {}, {"error": "invalid_client"})
        api.will(500)
        status, out, _ = call("--check", "/me", OAUTH_BASE_URL=api.url)
        assert status == 1
        assert self.steps(out).endswith("clock, ok token, NO API")
        assert "      the server accepts client_secret_post" in out
        assert f"GET {api.url}/me answered 500" in out

    @parametrize("year, sign", [(2001, "+"), (2099, "-")])
    def test_check_ends_with_a_clock_that_is_wrong(self, year, sign, call):
        with Server(page("405 No", b"", f"Date: Thu, 01 Jan {year} 00:00:00 GMT")) as auth:
            status, out, _ = call("--check", "--token-url", auth.url)
        assert status == 1
        assert self.steps(out).endswith("NO clock")
        assert re.search(rf": this machine's is \{sign}\d+ s from the server's; set it right\n$", out.replace("\r\n", "\n"))

    def test_check_with_an_issuer_and_tls(self, authorities, tls):
        with Issuer(tls=tls) as server:
            settings = {"OAUTH_ISSUER": server.url, "OAUTH_CLIENT_ID": "c", "OAUTH_CLIENT_SECRET": "s3cret"}
            status, out, _ = self.run("--check", **settings, SSL_CERT_FILE=str(authorities.path / "directory-ca.pem"))
            refused, why, _ = self.run("--check", **settings, SSL_CERT_FILE=str(authorities.bundle))
        assert status == 0
        assert self.steps(out) == "ok connection (DNS, TCP, TLS), ok clock, ok token"
        assert refused == 1
        assert re.search(r"(?m)^NO .*: the certificate of https://127\.0\.0\.1:\d+ was refused: ", why)


# ---- Vendoring -------------------------------------------------------------------------------------------------------


class TestVendoring:
    """The file works alone, wherever it is copied to."""

    @staticmethod
    def alone(folder, text):
        """Run a program beside a copy of the file, with nothing else and warnings as errors; return its output."""
        shutil.copy(oauth_session.__file__, folder)
        text = f"import sys; sys.path.insert(0, {str(folder)!r})\n" + text
        command = [sys.executable, "-I", "-S", "-B", "-W", "error", "-c", text]
        done = subprocess.run(command, cwd=folder, env={}, capture_output=True, timeout=2 * PATIENCE, encoding="utf-8")
        assert done.stderr == ""
        return done.stdout.split()

    def test_the_file_alone_works_and_leaves_nothing_behind(self, tmp_path):
        out = self.alone(tmp_path, """if True:
            from oauth_session import *
            with DemoServer() as server:
                session = OAuthSession(server.client_id, server.client_secret, "read", server.token_url)
                print(session.get(server.url + "/me").status)
            """)
        assert out == ["200"]
        assert os.listdir(tmp_path) == ["oauth_session.py"]

    def test_import_brings_in_nothing_that_a_cold_start_would_pay_for(self, tmp_path):
        out = self.alone(tmp_path, """if True:
            import urllib.request, json, ssl, threading
            before = set(sys.modules)
            import oauth_session
            print(*sorted(set(sys.modules) - before))
            """)
        heavy = "typing dataclasses logging argparse http.server concurrent.futures asyncio multiprocessing"
        assert "oauth_session" in out
        assert not set(out) & set(heavy.split())

    def test_the_readme_names_the_hash_of_the_file(self):
        code = text_of("oauth_session.py").encode()
        assert f"SHA-256 {hashlib.sha256(code).hexdigest()}\n" in text_of("README.md")

    def test_the_licence_and_the_version_travel_with_the_file(self):
        code = text_of("oauth_session.py")
        comment = code[code.index("# MIT License") :]
        licence = [line[2:] for line in comment.splitlines()]
        assert " ".join(licence).split() == text_of("LICENSE").split()
        assert re.search(r'^__version__ = "[0-9.]+"$', code, re.MULTILINE)
