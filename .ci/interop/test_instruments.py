# SPDX-License-Identifier: MIT
"""What replaces or watches the standard library: gevent, PySocks, a resolver of one's own, Sentry, OpenTelemetry.

    python -m pytest .ci/interop/test_instruments.py

They patch the whole process, so each case is a script in a process of its own, which prints what it saw as JSON. It calls
an authorisation server and an API behind TLS. Needs the openssl command and `pip install gevent PySocks sentry-sdk
opentelemetry-sdk opentelemetry-instrumentation-urllib`; what is missing is skipped, and said.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
from textwrap import dedent

import pytest
from conftest import missing
from peers import HERE, START_LIMIT, WAIT_LIMIT

SECRET = "s3cret-of-the-client"
TOKEN = "t0ken-of-the-client"
PROXY_PASSWORD = "passw0rd-of-the-proxy"

START = """
import json, os, ssl, sys
from oauth_session import OAuthSession

facts = json.load(sys.stdin)
context = ssl.create_default_context(cafile=facts["ca"])
client = ["my-client", facts["secret"], ["read"], facts["auth"] + "/oauth/token"]
session = OAuthSession(*client, base_url=facts["api"], context=context, timeout=facts["limit"])
"""

# Each name is found at 127.0.0.1, as if there were DNS.
TABLE_OF_NAMES = """
import socket
asked, resolve = [], socket.getaddrinfo

def getaddrinfo(host, port, *rest, **options):
    asked.append([type(host).__name__, host])
    return resolve("127.0.0.1", port, *rest, **options)

socket.getaddrinfo = getaddrinfo
"""


class Server(http.server.ThreadingHTTPServer):
    """Authorisation server and API, known as auth.example.test and api.example.test, behind TLS.

    requests: (method, host, path, status) in order. server_names: what each TLS handshake asked for.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, certificate):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.server_names, self.headers = [], [], []
        self.meeting = threading.Barrier(8)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*certificate)
        self.context.sni_callback = lambda sock, name, context: self.server_names.append(name)

    @property
    def port(self):
        return self.server_address[1]

    def handle_error(self, request, client_address):
        """Nothing: the client says what went wrong."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = START_LIMIT

    def setup(self):
        self.request.settimeout(START_LIMIT)
        self.request = self.server.context.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self):
        super().finish()
        self.request.close()

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, document = self.judge()
        self.server.requests.append([self.command, self.headers["Host"].partition(":")[0], self.path, status])
        self.server.headers.append(dict(self.headers))
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def judge(self):
        if self.path == "/oauth/token":
            return 200, {"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600}
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return 401, {}
        if self.path == "/meeting":
            self.server.meeting.wait(WAIT_LIMIT)
        return (404, {}) if self.path == "/nothing" else (200, {"path": self.path})

    def log_message(self, *_):
        pass


class Proxy(http.server.ThreadingHTTPServer):
    """A proxy that has every name at 127.0.0.1, and speaks CONNECT alone. asked: (authority, fields of its header)."""

    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), ProxyHandler)
        self.asked = []


class ProxyHandler(http.server.BaseHTTPRequestHandler):
    def do_CONNECT(self):
        self.server.asked.append([self.path, sorted(name.lower() for name in self.headers)])
        with socket.create_connection(("127.0.0.1", int(self.path.rpartition(":")[2])), WAIT_LIMIT) as server:
            self.send_response(200)
            self.end_headers()
            ways = {self.connection: server, server: self.connection}
            while True:
                for source in select.select(list(ways), [], [], START_LIMIT)[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    ways[source].sendall(data)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(server):
    with server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def server(certificate):
    with serving(Server(certificate)) as server:
        yield server


@pytest.fixture
def proxy():
    with serving(Proxy()) as proxy:
        yield proxy


@pytest.fixture
def run(server, certificate, tmp_path):
    """Run a script in a new process, and return the JSON that it prints."""

    def run_script(*parts, by_name=False, **environment):
        hosts = ("auth.example.test", "api.example.test") if by_name else ("127.0.0.1", "127.0.0.1")
        auth, api = (f"https://{host}:{server.port}" for host in hosts)
        facts = {"auth": auth, "api": api, "ca": certificate[0], "secret": SECRET, "limit": WAIT_LIMIT}
        command = [sys.executable, "-B", "-W", "error::ResourceWarning", "-c", "\n".join(parts)]
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment = {**kept, "PYTHONPATH": str(HERE.parents[1]), **environment}
        options = {"encoding": "utf-8", "env": environment, "cwd": str(tmp_path), "timeout": START_LIMIT}
        # By stdin: Sentry shows the command line.
        done = subprocess.run(command, input=json.dumps(facts), check=False, capture_output=True, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "ResourceWarning" not in done.stderr
        return json.loads(done.stdout)

    return run_script


# --- what replaces the sockets ----------------------------------------------------------------------------------------


def test_gevent_lets_eight_calls_wait_for_the_same_answer_with_one_token_request(server, run):
    missing("gevent")
    patch = "from gevent import monkey; monkey.patch_all(); import gevent"
    calls = """
    calls = [gevent.spawn(session.get, "/meeting") for _ in range(8)]
    gevent.joinall(calls, raise_error=True)
    print(json.dumps([call.value.status for call in calls]))
    """

    statuses = run(patch, START, dedent(calls))

    assert statuses == [200] * 8
    assert sorted(server.requests) == [["GET", "127.0.0.1", "/meeting", 200]] * 8 + [
        ["POST", "127.0.0.1", "/oauth/token", 200]
    ]


def test_gevent_keeps_the_connection_for_the_next_call(server, run):
    missing("gevent")
    patch = "from gevent import monkey; monkey.patch_all()"
    calls = """
    statuses = [session.post("/me", json={}).status for _ in range(5)]
    session.close()
    print(json.dumps(statuses))
    """

    statuses = run(patch, START, dedent(calls))

    assert statuses == [200] * 5
    assert len(server.server_names) == 1


def test_gevent_ends_a_call_that_gets_no_answer_at_its_time_out(run):
    missing("gevent")
    patch = "from gevent import monkey; monkey.patch_all()"
    call = """
    import urllib.error
    session.get("/me")
    try:
        session.get("/meeting", timeout=0.2)
    except urllib.error.URLError as error:
        print(json.dumps(str(error)))
    """

    message = run(patch, START, dedent(call))

    assert "timed out" in message


@pytest.mark.parametrize("when", ["before the import", "after the import"])
def test_a_replaced_getaddrinfo_is_asked_for_text_and_its_answer_is_used(server, run, when):
    parts = [TABLE_OF_NAMES, START] if when == "before the import" else [START, TABLE_OF_NAMES]
    call = 'status = session.get("/me").status; print(json.dumps([status, asked]))'

    status, asked = run(*parts, call, by_name=True)

    assert status == 200
    assert sorted(asked) == [["str", "api.example.test"], ["str", "auth.example.test"]]
    assert sorted(server.server_names) == ["api.example.test", "auth.example.test"]


def test_a_replaced_getaddrinfo_finds_the_proxy_too(server, proxy, run):
    call = 'status = session.get("/me").status; print(json.dumps([status, asked]))'
    address = f"http://proxy.example.test:{proxy.server_address[1]}"

    status, asked = run(TABLE_OF_NAMES, START, call, by_name=True, https_proxy=address)

    assert status == 200
    assert asked == [["str", "proxy.example.test"]] * 2
    assert server.server_names == ["auth.example.test", "api.example.test"]


def test_pysocks_without_a_proxy_changes_nothing(server, run):
    missing("socks")
    patch = "import socket, socks; socket.socket = socks.socksocket"
    calls = """
    statuses = [session.get("/me").status for _ in range(3)]
    session.close()
    print(json.dumps(statuses))
    """

    statuses = run(patch, START, dedent(calls))

    assert statuses == [200] * 3
    assert len(server.server_names) == 1


# --- what watches the calls -------------------------------------------------------------------------------------------

SENTRY = """
import sentry_sdk
from sentry_sdk.transport import Transport

class Collect(Transport):
    events = []

    def capture_envelope(self, envelope):
        self.events += [item.payload.json for item in envelope.items if item.payload.json]

sentry_sdk.init("https://key@sentry.example.test/1", transport=Collect, traces_sample_rate=1.0, send_default_pii=True)
"""
SENTRY_END = """
sentry_sdk.flush()
print(json.dumps(Collect.events, default=str))
"""


def spans_of(events):
    """Return (description, status, trace) of each call that Sentry saw, in the order of their starts."""
    (transaction,) = [event for event in events if event.get("type") == "transaction"]
    spans = sorted(transaction["spans"], key=lambda span: span["start_timestamp"])
    calls = [span for span in spans if span["op"] == "http.client"]
    trace = transaction["contexts"]["trace"]["trace_id"]
    assert {span["trace_id"] for span in calls} == {trace}
    return [(span["description"], span["data"]["http.response.status_code"]) for span in calls]


def test_sentry_shows_a_span_with_url_and_status_for_the_token_request_and_each_call(server, run):
    missing("sentry_sdk")
    calls = """
    with sentry_sdk.start_transaction(name="job"):
        session.get("/me")
        session.post("/nothing", json={})
    """

    events = run(SENTRY, START, dedent(calls), SENTRY_END)

    address = f"https://127.0.0.1:{server.port}"
    assert spans_of(events) == [
        (f"POST {address}/oauth/token", 200),
        (f"GET {address}/me", 200),
        (f"POST {address}/nothing", 404),
    ]
    assert not [word for word in (SECRET, TOKEN) if word in json.dumps(events)]


def test_sentry_gives_its_trace_to_the_servers(server, run):
    missing("sentry_sdk")
    call = """
    with sentry_sdk.start_transaction(name="job") as transaction:
        session.get("/me")
    """

    events = run(SENTRY, START, dedent(call), SENTRY_END)

    (transaction,) = [event for event in events if event.get("type") == "transaction"]
    traces = {headers["sentry-trace"].partition("-")[0] for headers in server.headers}
    assert traces == {transaction["contexts"]["trace"]["trace_id"]}


def test_sentry_shows_only_the_calls_where_they_go_through_a_proxy(server, proxy, run):
    missing("sentry_sdk")
    call = """
    with sentry_sdk.start_transaction(name="job"):
        session.get("/me")
    """
    address = f"http://user:{PROXY_PASSWORD}@127.0.0.1:{proxy.server_address[1]}"

    events = run(SENTRY, START, dedent(call), SENTRY_END, by_name=True, https_proxy=address)

    assert spans_of(events) == [
        (f"POST https://auth.example.test:{server.port}/oauth/token", 200),
        (f"GET https://api.example.test:{server.port}/me", 200),
    ]
    # As with http.client's own tunnels, the proxy learns nothing of the trace.
    assert proxy.asked == [
        [f"auth.example.test:{server.port}", ["host", "proxy-authorization"]],
        [f"api.example.test:{server.port}", ["host", "proxy-authorization"]],
    ]
    assert not [word for word in (SECRET, TOKEN, PROXY_PASSWORD) if word in json.dumps(events)]


def test_opentelemetry_shows_a_span_with_url_and_status_for_the_token_request_and_each_call(server, run):
    missing("opentelemetry.instrumentation.urllib", "opentelemetry.sdk")
    patch = """
    from opentelemetry.instrumentation.urllib import URLLibInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    URLLibInstrumentor().instrument(tracer_provider=provider)
    """
    # A token request within a call is part of that call's span, where both are made in one thread.
    calls = """
    assert session.access_token
    session.get("/me")
    session.post("/nothing", json={})
    spans = [json.loads(span.to_json()) for span in exporter.get_finished_spans()]
    print(json.dumps(sorted(spans, key=lambda span: span["end_time"])))
    """

    spans = run(dedent(patch), START, dedent(calls))

    address = f"https://127.0.0.1:{server.port}"
    seen = [[span["attributes"][f"http.{name}"] for name in ("method", "url", "status_code")] for span in spans]
    assert seen == [
        ["POST", f"{address}/oauth/token", 200],
        ["GET", f"{address}/me", 200],
        ["POST", f"{address}/nothing", 404],
    ]
    assert ["Traceparent" in headers or "traceparent" in headers for headers in server.headers] == [True] * 3
    assert not [word for word in (SECRET, TOKEN) if word in json.dumps(spans)]
